"""Files that survive crashes and show damage: atomic writing, and safetensors with a checksum over the whole file."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnet.errors import UserError, nearest_path

if TYPE_CHECKING:
    from torch import Tensor

_NO_DIGEST = "0" * 64
# How the digest's field stands in the file: one metadata field, so that equal content gives equal bytes.
_OUR_FIELD = b'"gcnet":"'
_DIGEST_KEY = b'\\"sha256\\": \\"'
_LONGEST_HEADER = 100_000_000  # as safetensors has it


class StorageError(UserError):
    """A file cannot be written, or what was read is not what was written."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a crash or a full disk leaves either the old file or the new one, whole.

    Raises StorageError, with the space needed and the space free, when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)  # Before the free space is measured.
        raise _writing_failed(path, len(data), error) from error
    finally:
        _remove(temporary)


def save_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, Any]) -> None:
    """Write tensors (any device; stored contiguous) and JSON metadata to one safetensors file: atomic, checksummed."""
    from safetensors.torch import save

    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Tensors that share memory (tied weights) are stored once each: safetensors refuses aliases.
    seen: set[int] = set()
    for name, tensor in stored.items():
        pointer = tensor.untyped_storage().data_ptr()
        if pointer in seen:
            stored[name] = tensor.clone()
        seen.add(pointer)
    data = save(stored, {"gcnet": json.dumps({"sha256": _NO_DIGEST, "content": metadata})})
    digest = hashlib.sha256(data).hexdigest()
    place = _digest_place(data)
    if place is None:
        raise AssertionError("safetensors wrote no digest field")
    write_atomic(path, data[:place] + digest.encode() + data[place + len(digest) :])


def load_tensors(path: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Read a file of `save_tensors`: tensors on the CPU, and the metadata.

    Raises StorageError for a missing file, a file of another origin, and a file whose bytes differ from those written.
    """
    from safetensors.torch import load

    try:
        data = path.read_bytes()
    except OSError as error:
        proposal = nearest_path(path) if isinstance(error, FileNotFoundError) else ""
        raise StorageError(f"cannot read {path}: {error.strerror}{proposal}") from error
    place = _digest_place(data)
    if place is None:
        raise StorageError(f"{path} is not a file written by gcnet: its header holds no checksum")
    found = data[place : place + 64]
    blank = hashlib.sha256(data[:place])
    blank.update(_NO_DIGEST.encode())
    blank.update(memoryview(data)[place + 64 :])
    if blank.hexdigest().encode() != found:
        raise StorageError(f"{path} is damaged: its checksum does not match its bytes; use another copy")
    header_length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + header_length])["__metadata__"]
    return dict(sorted(load(data).items())), json.loads(metadata["gcnet"])["content"]


def has_checksum(path: Path) -> bool:
    """Whether a safetensors file is one of `save_tensors`, by either of the two names that only it writes."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little") % _LONGEST_HEADER)
    return _OUR_FIELD in header or _DIGEST_KEY in header


def _digest_place(data: bytes) -> int | None:
    """The offset of the 64 hexadecimal digits in the header, or None."""
    header_length = int.from_bytes(data[:8], "little")
    place = data.find(_DIGEST_KEY, 8, min(8 + header_length, len(data)))
    return None if place < 0 else place + len(_DIGEST_KEY)


def _writing_failed(path: Path, needed: int, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        return StorageError(
            f"cannot write {path}: the disk is full (needed {needed:,} bytes, free {free:,}); the old file is untouched"
        )
    return StorageError(f"cannot write {path}: {error.strerror}")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
