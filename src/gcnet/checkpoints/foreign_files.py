"""Weight files of other libraries: format by content, and tensors without running code."""

import os
import pickle
import re
import stat
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gcnet.errors import UserError, is_url, nearest_path, printable
from gcnet.storage import has_checksum, load_tensors

Format = Literal["safetensors", "torch"]

_HEAD = 512
_LONGEST_HEADER = 100_000_000  # of a safetensors file, as that library has it
_MOST_INFLATED = 20  # times its size on disk that a zip archive may claim to hold

# First bytes, and what begins so.
_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself: fetch it with git lfs pull"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x89HDF", "an HDF5 file, as Keras and MATLAB write"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"GGUF", "a GGUF file"),
    (b"\x7fELF", "a program"),
)
_HTML = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")
_PICKLES = (b"\x80\x01", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def weight_format(path: Path) -> Format:
    """Return the format of the weight file `path`, by content; its suffix is ignored.

    Raises:
        UserError: no readable file, or another kind of file, which the message names.
    """
    require_file(path)
    head, size = _beginning(path), path.stat().st_size
    if not head:
        raise UserError(f"{shown(path)} is empty (0 bytes)")
    # A file of safetensors begins with a length, whose bytes may be those that files of other formats begin with.
    if head[8:9] == b"{" and head[4:8] == bytes(4):
        _check_header(path, head, size)
        return "safetensors"
    mistaken = _mistaken(head)
    if mistaken is not None:
        raise UserError(f"{shown(path)} is {mistaken}{'' if ':' in mistaken else ' and not weights'}")
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path, size)
        return "torch"
    if head.startswith(_PICKLES):
        return "torch"
    if head[8:9] == b"{":
        _check_header(path, head, size)
        return "safetensors"
    if _is_text(head):
        first = printable(head.decode(errors="replace").splitlines()[0][:60])
        raise UserError(f'{shown(path)} is a text file and not weights; it begins with "{first}"')
    raise UserError(f"{shown(path)} is not a weight file: its format is neither that of safetensors nor of torch.save")


def require_file(path: Path) -> None:
    """Check that `path` is an ordinary, readable file.

    Raises:
        UserError: it is missing, or a folder, a pipe or a device.
    """
    if is_url(path):
        raise UserError(f"`weights` must be a file on this machine, and {shown(path)} is a URL: download it first")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"`weights` must be a file, and there is none at {shown(path)}{_proposal(path)}") from error
    except (OSError, ValueError) as error:  # ValueError for a NUL in the name
        raise UserError(f"cannot read {shown(path)}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        best = path / "weights" / "best.safetensors"
        proposal = f'; did you mean "{shown(best)}"?' if best.is_file() else ""
        raise UserError(f"`weights` must be a file, and {shown(path)} is a folder{proposal}")
    if not stat.S_ISREG(mode):
        raise UserError(f"`weights` must be an ordinary file, and {shown(path)} is a pipe, socket or device")


def shown(path: Path) -> str:
    """Return `path` as printable text."""
    return printable(os.fspath(path))


def _proposal(path: Path) -> str:
    try:
        return nearest_path(path)
    except OSError:
        return ""


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror}") from error


def _mistaken(head: bytes) -> str | None:
    """What the file is, where it is a well-known kind of another thing."""
    if head.lstrip().lower().startswith(_HTML):
        return "a web page (HTML or XML) and not weights: the download gave a page instead of the file"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def _check_archive(path: Path, size: int) -> None:
    """Refuse zip archives that are damaged, were not written by torch.save, or claim more than they can hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise UserError(f"{shown(path)} is a damaged or truncated file of torch.save: {error}") from error
    names = [entry.filename for entry in entries]
    if any(name.endswith(".npy") for name in names):
        raise UserError(f"{shown(path)} is a NumPy archive (.npz) and not weights of PyTorch")
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{shown(path)} is a TorchScript archive, which holds code: save the state_dict alone")
    if not any(name.endswith("data.pkl") for name in names):
        raise UserError(f"{shown(path)} is a zip archive without weights of torch.save in it")
    inflated = sum(entry.file_size for entry in entries)
    if inflated > _MOST_INFLATED * size + 1_000_000:
        raise UserError(f"{shown(path)} is refused: it has {size:,} bytes and claims to hold {inflated:,}")


def _check_header(path: Path, head: bytes, size: int) -> None:
    """Refuse a safetensors file that ends within its own header."""
    length = int.from_bytes(head[:8], "little")
    if length > min(size - 8, _LONGEST_HEADER):
        raise UserError(
            f"{shown(path)} is a damaged or truncated safetensors file: its header claims {length:,} bytes, and the "
            f"file has {size:,}"
        )


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # the last letter may be cut off
            return False
        text = head[: error.start].decode()
    return all(letter.isprintable() or letter.isspace() for letter in text)


class Inert(list[Any]):
    """Stand-in for any class or function in a pickle; accepts everything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        """Create an empty instance, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""

    def __hash__(self) -> int:  # type: ignore[override]
        """By identity, since dictionaries of training programs have classes as keys."""
        return id(self)


_NUMPY = ("numpy.core", "numpy._core")
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePosixPath")
_LIGHTNING = ("pytorch_lightning", "lightning.pytorch")
_INERT = (
    *("argparse.Namespace", "types.SimpleNamespace", "builtins.getattr", "_codecs.encode", "typing.Any"),
    *("datetime.datetime", "datetime.timedelta", "collections.deque"),
    *(f"{module}.{kind}" for module in ("pathlib", "pathlib._local") for kind in _PATHS),
    *(f"{core}.multiarray.{name}" for core in _NUMPY for name in ("scalar", "_reconstruct")),
    *(f"{core}.numeric._frombuffer" for core in _NUMPY),
    *(f"numpy.{kind}" for kind in ("dtype", "ndarray", "bool_", "float64", "float32", "int64", "int32")),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")),
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(f"omegaconf.{kind}" for kind in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.base.{kind}" for kind in ("ContainerMetadata", "Metadata")),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "String", "Boolean")),
    *(f"{name}.callbacks.{kind}" for name in _LIGHTNING for kind in ("model_checkpoint.ModelCheckpoint",)),
    *(f"{name}.callbacks.{kind}" for name in _LIGHTNING for kind in ("early_stopping.EarlyStopping",)),
)
_DICTIONARIES = (
    *(f"{module}.ConfigDict" for module in ("mmengine.config.config", "mmcv.utils.config")),
    *(f"{module}.CfgNode" for module in ("yacs.config", "fvcore.common.config", "detectron2.config.config")),
    *("easydict.EasyDict", "addict.addict.Dict", "pytorch_lightning.utilities.parsing.AttributeDict"),
    *(f"{name}.utilities.data.AttributeDict" for name in ("lightning.fabric", "lightning_fabric")),
)

# Settings, counters, paths and histories: the stand-in, and the name it stands for. Nothing of that name is imported.
STAND_INS: tuple[tuple[Any, str], ...] = (
    *((Inert, name) for name in _INERT),
    *((OrderedDict, name) for name in _DICTIONARIES),
)

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
    """The tensors of a weight file.

    Attributes:
        tensors: by name.
        notes: what was removed around them, such as 'entry "state_dict"'.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the weight file `path`, as `read_weight_file` reads them."""
    return read_weight_file(path).tensors


def read_weight_file(path: Path) -> WeightFile:
    """Read the tensors of a safetensors file or a `torch.save` file (always with `weights_only=True`).

    An entry around them such as `state_dict` or `model`, or any other that alone holds tensors, and the prefixes of
    DataParallel and torch.compile are removed. Objects of training programs beside the weights are skipped: none of
    their code runs.

    Args:
        path: the file.

    Returns:
        The tensors by name, with notes.

    Raises:
        UserError: the file is missing, damaged or of another kind, needs code, or holds no named tensors or several
            networks.
    """
    content: Any = _read_safetensors(path) if weight_format(path) == "safetensors" else _read_torch(path)
    if not isinstance(content, Mapping):
        raise UserError(f"`weights` must be tensors by name, and {shown(path)} holds {_kind(content)}")
    weights, entries = _unwrapped(content)
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if not tensors:
        several = [f'"{printable(str(name))}"' for name in _networks(weights)][:5]
        if several:
            raise UserError(f"{shown(path)} holds several networks, {' and '.join(several)}: save one of them alone")
        names = ", ".join(f'"{printable(str(name))}"' for name in list(weights)[:5]) or "nothing"
        raise UserError(f"`weights` must be tensors by name, and {shown(path)} holds something else: {names}")
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
    wrappers: list[str] = []
    while names and (wrapper := next((w for w in _WRAPPERS if all(name.startswith(w) for name in names)), None)):
        names = [name.removeprefix(wrapper) for name in names]
        wrappers.append(wrapper)
    return wrappers


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
    match = _GLOBAL.search(reason)
    if match is None and "Unsupported operand" in reason:
        return UserError(
            f"{shown(path)} is a pickle with more than torch.load reads without running code: save the weights with "
            "torch.save(model.state_dict(), path)"
        )
    if match is None:
        first = printable(reason.partition("\n")[0].removeprefix("Weights only load failed. ")[:120])
        return UserError(f"{shown(path)} is damaged, or no file of weights alone: {first}")
    return UserError(
        f"{shown(path)} holds objects of {printable(match[1])} and not only tensors, and no code from files is run: "
        "save the weights alone with torch.save(model.state_dict(), path)"
    )


def _damaged(path: Path, error: BaseException) -> UserError:
    reason = printable((str(error).strip().splitlines() or [type(error).__name__])[0][:160])
    return UserError(f"{shown(path)} is not a readable weight file, and may be damaged or truncated: {reason}")


def _kind(content: object) -> str:
    if isinstance(content, Tensor):
        return f"one tensor of shape {tuple(content.shape)}"
    return f"a {type(content).__name__}"
