"""What a file given as weights is, by its first bytes: weights, or something that is often mistaken for them."""

import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Literal

from gcnet.errors import UserError, nearest_path, printable

Format = Literal["safetensors", "torch"]

_HEAD = 512
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # pathlib keeps one slash
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
    """The format of a weight file, by what is in it; its suffix does not count.

    Raises:
        UserError: there is no readable file, or it holds something else, which the sentence names.
    """
    require_file(path)
    head, size = _beginning(path), path.stat().st_size
    if not head:
        raise UserError(f"{shown(path)} is empty (0 bytes)")
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
    """Check that there is an ordinary file that can be read.

    Raises:
        UserError: there is nothing, or a folder, a pipe or a device.
    """
    if _URL.match(str(path)):
        raise UserError(f"weights must be a file on this machine, and {shown(path)} is a URL: download it first")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"weights must be a file, and there is none at {shown(path)}{_proposal(path)}") from error
    except (OSError, ValueError) as error:  # ValueError for a NUL in the name
        raise UserError(f"cannot read {shown(path)}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        best = path / "weights" / "best.safetensors"
        proposal = f'; did you mean "{shown(best)}"?' if best.is_file() else ""
        raise UserError(f"weights must be a file, and {shown(path)} is a folder{proposal}")
    if not stat.S_ISREG(mode):
        raise UserError(f"weights must be an ordinary file, and {shown(path)} is a pipe, socket or device")


def shown(path: Path) -> str:
    """The path as it can be printed."""
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
