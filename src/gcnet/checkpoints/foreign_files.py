"""Weight files of other libraries: format by content, and tensors without running code."""

import os
import pickle
import re
import stat
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gcnet.checkpoints.published_files import nearest_published_file
from gcnet.checkpoints.stand_ins import STAND_INS
from gcnet.checkpoints.weight_file import WeightFile, unwrapped_weights
from gcnet.errors import UserError, is_url, nearest_path, printable, raise_if_out_of_memory
from gcnet.tensor_files import has_checksum, load_tensors

Format = Literal["safetensors", "torch"]

_HEAD = 512
_LONGEST_HEADER = 100_000_000  # of a safetensors file, as that library has it
_ZIP = b"PK\x03\x04"
_CHUNK = 2**20  # bytes
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
_EXPORTED = "for other runtimes: give the model file from which it was exported"
_ONNX = re.compile(rb"\x08[\x03-\x20]\x12")  # version of the format, then the name of the program that wrote it
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
    if head.startswith(_ZIP):
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
        url = shown(path).replace(":/", "://", 1)
        raise UserError(
            f"`weights` must be a file on this machine, but {url} is a URL: download it first{_published(path)}"
        )
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"there is no weights file {shown(path)}{_proposal(path)}") from error
    except (OSError, ValueError) as error:  # ValueError for a NUL in the name
        raise UserError(f"cannot read {shown(path)}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        best = path / "weights" / "best.safetensors"
        proposal = f'; did you mean "{shown(best)}"?' if best.is_file() else ""
        raise UserError(f"`weights` must be a file, but {shown(path)} is a folder{proposal}")
    if not stat.S_ISREG(mode):
        raise UserError(f"`weights` must be an ordinary file, but {shown(path)} is a pipe, socket or device")


def shown(path: Path) -> str:
    """Return `path` as printable text."""
    return printable(os.fspath(path))


def _proposal(path: Path) -> str:
    try:
        return nearest_path(path) or _published(path)
    except OSError:
        return ""


def _published(path: Path) -> str:
    return nearest_published_file(str(path))


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror}") from error


def _mistaken(head: bytes) -> str | None:
    """A well-known kind of other files, or None."""
    if head.startswith(b"<?xml") and b"<net " in head:
        return f"an OpenVINO file, {_EXPORTED}"
    if _ONNX.match(head):
        return f"an ONNX file, {_EXPORTED}"
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
    if any(name.endswith("/archive_format") for name in names):
        raise UserError(f"{shown(path)} is a file of torch.export, {_EXPORTED}")
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
            f"{shown(path)} is a damaged or truncated safetensors file: its header claims {length:,} bytes, but the "
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


_CALLS = ("Unsupported operand", "Trying to call reduce")  # in torch's reasons: a pickle that runs functions
_GLOBAL = re.compile(r"GLOBAL (\S+)")
# What torch's reader raises for damaged files, as measured on mutated ones.
_DAMAGE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(ArithmeticError, struct.error, MemoryError, ImportError, RecursionError),
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the weight file `path`, as `read_weight_file` reads them."""
    return read_weight_file(path).tensors


def read_weight_file(path: Path, *, ema: bool = False) -> WeightFile:
    """Read the tensors of a safetensors file or a `torch.save` file (always with `weights_only=True`).

    An entry around them such as `state_dict` or `model`, or any other that alone holds tensors, and the prefixes of
    DataParallel and torch.compile are removed. Objects of training programs beside the weights are skipped: none of
    their code runs.

    Args:
        path: the file.
        ema: read the moving average of the weights instead of the weights.

    Returns:
        The tensors by name, with notes and metadata.

    Raises:
        UserError: the file is missing, damaged or of another kind, needs code, or holds no named tensors, several
            networks, or no moving average.
    """
    content: Any = _read_safetensors(path) if weight_format(path) == "safetensors" else _read_torch(path)
    return unwrapped_weights(content, shown(path), ema=ema)


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
        raise_if_out_of_memory(error)
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    _check_sums(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(list(STAND_INS)):
            warnings.simplefilter("ignore")  # on pickle protocols: what cannot be read is refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _needs_code(path, str(error)) from error
    except _DAMAGE as error:
        if _beginning(path).startswith(_ZIP):  # with the right checksums; others may claim any size
            raise_if_out_of_memory(error)
        raise _damaged(path, error) from error


def _check_sums(path: Path) -> None:
    """Refuse a zip archive in which the content of some files does not have their checksums.

    If none has, the archive was written without checksums (`torch.serialization.set_crc32_options`).
    """
    if not _beginning(path).startswith(_ZIP):
        return  # of PyTorch before 1.6, without checksums
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.file_size]
        damaged = [entry.filename for entry in entries if not _is_intact(archive, entry)]
    if damaged and len(damaged) < len(entries):
        raise UserError(
            f"{shown(path)} is damaged: {len(damaged)} of the {len(entries)} files in it do not match their checksums, "
            f"such as {printable(damaged[0])}"
        )


def _is_intact(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(_CHUNK):
                pass
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError):  # as found by mutated files
        return False
    return True


def _needs_code(path: Path, reason: str) -> UserError:
    match = _GLOBAL.search(reason)
    if match is None and any(words in reason for words in _CALLS):
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
