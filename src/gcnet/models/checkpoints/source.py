"""Weight files of other origin, read without running code from them."""

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcnet.errors import UserError, printable
from gcnet.models.checkpoints.file_kinds import shown, weight_format
from gcnet.models.checkpoints.inert import STAND_INS
from gcnet.storage import has_checksum, load_tensors

# Entries around the weights in the files of training programs; the plain weights before their moving average.
_ENTRIES = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights", "module"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema"),
)
_DEEPEST = 4  # entries within entries
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_GLOBAL = re.compile(r"GLOBAL (\S+)")
# What torch's reader raises for damaged files, as measured on mutated ones.
_DAMAGE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(ArithmeticError, struct.error, MemoryError, ImportError, RecursionError),
)


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file by name, and in words what was taken off them, such as 'entry "state_dict"'."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file, as `read_weight_file` gives them."""
    return read_weight_file(path).tensors


def read_weight_file(path: Path) -> WeightFile:
    """The tensors of a safetensors file or of a `torch.save` file (`weights_only=True`, never a fallback).

    An entry such as `state_dict` or `model` around them, or any other that alone holds tensors, and the prefixes of
    DataParallel and torch.compile, are taken off. Objects of training programs beside the weights are passed over: none
    of their code runs.

    Raises:
        UserError: the file is missing, damaged or something else, needs code, holds no tensors by name or several
            networks.
    """
    content: Any = _read_safetensors(path) if weight_format(path) == "safetensors" else _read_torch(path)
    if not isinstance(content, Mapping):
        raise UserError(f"weights must be tensors by name, and {shown(path)} holds {_kind(content)}")
    weights, entries = _unwrapped(content)
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if not tensors:
        several = [f'"{printable(str(name))}"' for name in _networks(weights)][:5]
        if several:
            raise UserError(f"{shown(path)} holds several networks, {' and '.join(several)}: save one of them alone")
        names = ", ".join(f'"{printable(str(name))}"' for name in list(weights)[:5]) or "nothing"
        raise UserError(f"weights must be tensors by name, and {shown(path)} holds something else: {names}")
    _check_tensors(path, tensors)
    notes = [f'entry "{printable(entry)}"' for entry in entries]
    for wrapper in _repeated_wrappers(tensors):
        tensors = {name.removeprefix(wrapper): value for name, value in tensors.items() if name != "n_averaged"}
        notes.append(f'prefix "{wrapper}" removed')
    return WeightFile(tensors, tuple(notes))


def _unwrapped(content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], list[str]]:
    """Returns the innermost mapping of tensors, and the keys that lead to it."""
    entries: list[str] = []
    while len(entries) < _DEEPEST:
        entry = next((name for name in _ENTRIES if _holds_tensors(content.get(name), _DEEPEST)), None)
        if entry is None:
            networks = _networks(content)
            if len(networks) != 1:
                break
            entry = networks[0]
        content = content[entry]
        entries.append(entry)
    return content, entries


def _networks(content: Mapping[Any, Any]) -> list[str]:
    """The entries of tensors by name, such as "student" and "teacher", where there are no tensors beside them."""
    if any(isinstance(item, Tensor) for item in content.values()):
        return []
    return [name for name, item in content.items() if isinstance(name, str) and _holds_tensors(item, 1)]


def _holds_tensors(value: object, depth: int) -> bool:
    """Whether there are tensors in a mapping, or in an entry of it that may be around them."""
    if not isinstance(value, Mapping):
        return False
    if any(isinstance(item, Tensor) for item in value.values()):
        return True
    return depth > 1 and any(_holds_tensors(value.get(name), depth - 1) for name in _ENTRIES)


def _repeated_wrappers(tensors: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of wrappers that every name has, from the outermost."""
    names = [name for name in tensors if name != "n_averaged"]  # the counter of torch's AveragedModel
    found: list[str] = []
    while names and (wrapper := next((one for one in _WRAPPERS if all(n.startswith(one) for n in names)), None)):
        names = [name.removeprefix(wrapper) for name in names]
        found.append(wrapper)
    return found


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors without values, and those that claim more elements than the file holds."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(f"{shown(path)}: {printable(name)} is not a plain tensor, but sparse, quantized or empty")
        held = tensor.untyped_storage().nbytes() // tensor.element_size()
        if tensor.numel() > held:
            raise UserError(
                f"{shown(path)} is refused: {printable(name)} claims shape {tuple(tensor.shape)}, and the file holds "
                f"{held:,} of its {tensor.numel():,} elements"
            )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if has_checksum(path):
        return load_tensors(path)[0]
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{shown(path)} is a damaged safetensors file: {printable(str(error))}") from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    try:
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(list(STAND_INS)):
            warnings.simplefilter("ignore")  # on pickle protocols: what cannot be read is refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _needs_code(path, str(error)) from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _needs_code(path: Path, reason: str) -> UserError:
    found = _GLOBAL.search(reason)
    if found is None and "Unsupported operand" in reason:
        return UserError(
            f"{shown(path)} is a pickle with more than torch.load reads without running code: save the weights with "
            "torch.save(model.state_dict(), path)"
        )
    if found is None:
        first = printable(reason.partition("\n")[0].removeprefix("Weights only load failed. ")[:120])
        return UserError(f"{shown(path)} is damaged, or no file of weights alone: {first}")
    return UserError(
        f"{shown(path)} holds objects of {printable(found[1])} and not only tensors, and no code from files is run: "
        "save the weights alone with torch.save(model.state_dict(), path)"
    )


def _damaged(path: Path, error: BaseException) -> UserError:
    reason = printable((str(error).strip().splitlines() or [type(error).__name__])[0][:160])
    return UserError(f"{shown(path)} is not a readable weight file, and may be damaged or truncated: {reason}")


def _kind(content: object) -> str:
    if isinstance(content, Tensor):
        return f"one tensor of shape {tuple(content.shape)}"
    return f"a {type(content).__name__}"
