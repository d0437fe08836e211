"""Index files: arrays in a memory-mapped safetensors file in the cache, shared by all processes of a machine."""

import contextlib
import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy

from gcnet.storage import StorageError, write_atomic

_T = TypeVar("_T")

FOLDER = "gcnet-indexes"
_DTYPES = {"U8": np.uint8, "I32": np.int32, "U32": np.uint32, "I64": np.int64, "U64": np.uint64, "F64": np.float64}


@dataclass(frozen=True)
class Index:
    """Content of an index file.

    Attributes:
        arrays: Read-only arrays by name, mapped into memory.
        details: JSON values.
    """

    arrays: Mapping[str, np.ndarray]
    details: Mapping[str, Any]


def index_path(source: str | os.PathLike[str], kind: str) -> Path:
    """Return the path of the index of a file or folder, in the folder of downloaded checkpoints.

    Args:
        source: The file or folder; symbolic links are resolved.
        kind: Kind and version of the index, a part of the name.
    """
    from gcnet.checkpoints.published_files import cache_folder  # imports torch

    digest = hashlib.sha256(os.fsencode(os.path.realpath(source))).hexdigest()[:32]
    return cache_folder() / FOLDER / f"{kind}-{digest}.safetensors"


def save_index(path: Path, arrays: Mapping[str, np.ndarray], details: Mapping[str, Any]) -> bool:
    """Write an index file atomically.

    Args:
        path: The file; its folder is created.
        arrays: Arrays by name, of the types uint8, int32, uint32, int64, uint64 or float64.
        details: JSON values.

    Returns:
        Whether the file was written; False for a folder that cannot be written or a full disk.
    """
    text = json.dumps(details)
    metadata = {"details": text, "checksum": _checksum(arrays, text)}
    with contextlib.suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, safetensors.numpy.save(dict(arrays), metadata))
        return True
    return False


def map_index(path: Path) -> Index | None:
    """Map an index file into memory.

    Args:
        path: A file of `save_index`.

    Returns:
        Its content, or None for a missing or damaged file.
    """
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8 : 8 + length])
        metadata = header.pop("__metadata__")
        arrays = {name: _array(mapped, entry, 8 + length) for name, entry in header.items()}
        if metadata["checksum"] != _checksum(arrays, metadata["details"]):
            return None
        mapped.madvise(mmap.MADV_DONTNEED)  # pages read for the checksum need not stay in the memory of the process
        details = json.loads(metadata["details"])
        return Index(arrays, details) if isinstance(details, dict) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def read_index(path: Path, dimensions: Mapping[str, int], convert: Callable[[Index], _T | None]) -> _T | None:
    """Map an index file into memory and convert its content, which may be that of another program.

    Args:
        path: A file of `save_index`.
        dimensions: Number of dimensions of each array; all have integers.
        convert: Returns the converted content, or None if it is stale or contradicts itself. Missing values and those
            of a wrong type may raise errors.

    Returns:
        The result of `convert`, or None for a missing, damaged or invalid file.
    """
    index = map_index(path)
    if index is None or {name: array.ndim for name, array in index.arrays.items()} != dict(dimensions):
        return None
    if any(array.dtype.kind == "f" for array in index.arrays.values()):
        return None
    with contextlib.suppress(OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return convert(index)
    return None


def are_ends(ends: np.ndarray, text: np.ndarray) -> bool:
    """Return whether texts that lie one after the other can end where stated.

    Args:
        ends: End of each text.
        text: The bytes of all texts, uint8 (n,).
    """
    return len(ends) == 0 or bool(ends[0] >= 0 and ends[-1] <= len(text) and (ends[:-1] <= ends[1:]).all())


def _checksum(arrays: Mapping[str, np.ndarray], details: str) -> str:
    checksum = zlib.crc32(details.encode())
    for _, array in sorted(arrays.items()):
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return str(checksum)


def _array(mapped: mmap.mmap, entry: Mapping[str, Any], start: int) -> np.ndarray:
    """Return the array of an entry of the header of a safetensors file, whose data begin at `start`."""
    first, _ = entry["data_offsets"]
    shape = tuple(entry["shape"])
    flat = np.frombuffer(mapped, _DTYPES[entry["dtype"]], int(np.prod(shape)), start + first)
    return flat.reshape(shape)
