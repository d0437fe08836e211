"""Weight files of other origin, read without running code from them."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcnet.errors import UserError
from gcnet.storage import has_checksum, load_tensors

_WRAPPERS = ("state_dict", "model")
_PARALLEL_PREFIX = "module."


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a `torch.save` file (`weights_only=True`, never a fallback).

    A `state_dict` or `model` entry around them and the `module.` prefix of data-parallel training are taken off.

    Raises:
        UserError: the file is missing or damaged, holds code, or holds no tensors by name.
    """
    if not path.is_file():
        raise UserError(f"weights must be a file, and there is none at {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise UserError(f"weights must be tensors by name, and {path} holds something else")
    if all(name.startswith(_PARALLEL_PREFIX) for name in content):
        return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in content.items()}
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if has_checksum(path):
        return load_tensors(path)[0]
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols: what cannot be read is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, and no code from files is run; save its state_dict alone with torch.save"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is not a readable weight file: {reason}") from error
