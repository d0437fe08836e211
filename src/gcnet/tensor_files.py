"""Safetensors files with a checksum: written tensor by tensor, read through a memory map."""

import hashlib
import io
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from gcnet.errors import printable, raise_if_out_of_memory
from gcnet.storage import StorageError, atomic_file, is_stream, open_file, write_atomic

_NO_DIGEST = b"0" * 64
# How the digest's field stands in the file: one metadata field, so that equal content gives equal bytes.
_OUR_FIELD = b'"gcnet":"'
_DIGEST_KEY = b'\\"sha256\\": \\"'
_LONGEST_HEADER = 100_000_000  # bytes, the limit of safetensors
_CHUNK = 4 * 2**20  # bytes that are hashed and written at a time
# In the order in which safetensors stores them, so that each tensor is aligned.
_DTYPES = {
    **{torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64"},
    **{torch.float32: "F32", torch.uint32: "U32", torch.int32: "I32"},
    **{torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16", torch.int16: "I16"},
    **{torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e4m3fnuz: "F8_E4M3FNUZ"},
    **{torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"},
    **{torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"},
}


class TensorFile:
    """Content of a safetensors file, which refers to the memory of its tensors.

    Args:
        tensors: by name, on any device; stored contiguous.
        metadata: JSON values.

    Attributes:
        header: length and JSON header, with zeros for the digest.
        tensors: in the order of the file.
        size: of the file, in bytes.

    Raises:
        TypeError: safetensors has no such dtype.
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        for name, tensor in tensors.items():
            if tensor.dtype not in _DTYPES:
                raise TypeError(f"{name}: safetensors files hold no {tensor.dtype}")
        order = list(_DTYPES)
        names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
        self.tensors = [tensors[name].detach() for name in names]
        self.header = _header(dict(zip(names, self.tensors, strict=True)), metadata)
        self.size = len(self.header) + sum(tensor.nbytes for tensor in self.tensors)

    def write(self, path: Path) -> None:
        """Write the file atomically; no more than the largest tensor is copied at a time.

        Args:
            path: the file.

        Raises:
            StorageError: it cannot be written.
        """
        if is_stream(path):
            with io.BytesIO() as file:
                _write_with_digest(file, self.header, self._pieces())
                write_atomic(path, file.getvalue())
            return
        with atomic_file(path, self.size) as file:
            _write_with_digest(file, self.header, self._pieces())

    def _pieces(self) -> Iterator[memoryview]:
        """The bytes of each tensor, valid until the next: those on a GPU or strided are copied into one buffer."""
        direct = [tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in self.tensors]
        copied = [tensor.nbytes for tensor, is_direct in zip(self.tensors, direct, strict=True) if not is_direct]
        buffer = torch.empty(max(copied, default=0), dtype=torch.uint8)
        for tensor, is_direct in zip(self.tensors, direct, strict=True):
            flat = tensor.view(-1) if is_direct else buffer[: tensor.nbytes].view(tensor.dtype)
            if not is_direct:
                flat.view(tensor.shape).copy_(tensor)
            yield flat.view(torch.uint8).numpy().data


class Snapshot:
    """Copy of the content of a safetensors file in memory, as large as the file, which forked processes do not copy.

    The memory is kept for the next copy, since getting it anew takes longer than copying.
    """

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._header, self._length = b"", 0

    def take(self, content: TensorFile) -> None:
        """Copy a content, so that its tensors may change before the file is written.

        Args:
            content: of the file.
        """
        self._header, self._length = content.header, content.size - len(content.header)
        if self._memory is None or len(self._memory) < self._length:
            self._memory = mmap.mmap(-1, max(self._length, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_DONTFORK"):  # on Linux
                self._memory.madvise(mmap.MADV_DONTFORK)
        offset = 0
        for tensor in content.tensors:
            if tensor.numel():
                place = torch.frombuffer(self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
                place.view(tensor.shape).copy_(tensor)
            offset += tensor.nbytes

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Args:
            path: the file.

        Raises:
            StorageError: it cannot be written.
        """
        assert self._memory is not None, "take comes first"
        with memoryview(self._memory) as memory, atomic_file(path, len(self._header) + self._length) as file:
            _write_with_digest(file, self._header, iter([memory[: self._length]]))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata to one safetensors file, atomically and with a checksum.

    Args:
        path: the file.
        tensors: by name, on any device; stored contiguous.
        metadata: JSON values.

    Raises:
        StorageError: the file cannot be written.
        TypeError: safetensors has no such dtype.
    """
    TensorFile(tensors, metadata).write(path)


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """Length and JSON header, with zeros for the digest."""
    text = json.dumps({"sha256": _NO_DIGEST.decode(), "content": metadata})
    header: dict[str, Any] = {"__metadata__": {"gcnet": text}}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    data = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data


def _write_with_digest(file: BinaryIO, header: bytes, pieces: Iterator[memoryview]) -> None:
    """Write a file whose digest, over the file with zeros in its place, replaces the zeros in the header."""
    digest = hashlib.sha256(header)
    file.write(header)
    for piece in pieces:
        for start in range(0, len(piece), _CHUNK):
            chunk = piece[start : start + _CHUNK]
            digest.update(chunk)
            file.write(chunk)
    place = _digest_place(header)
    assert place is not None
    file.seek(place)
    file.write(digest.hexdigest().encode())


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the file `path` of `save_tensors`.

    Returns:
        Tensors by name on the CPU, in a private memory map of the file, and the metadata.

    Raises:
        StorageError: the file is missing, not written by gcnet, or changed since.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with open_file(path) as file:
        header = _verified_header(file, path)
        content = _metadata(header)
        if content is None:
            raise StorageError(f"{printable(path)} is damaged or was edited: its metadata are invalid")
        try:
            tensors = dict(sorted(load_file(_utf8_path(file, path)).items()))
        except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise_if_out_of_memory(error)
            raise StorageError(f"{printable(path)} is damaged or was edited: {printable(str(error))}") from error
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            return tensors, content
    return load_tensors(path)  # another process has replaced the file meanwhile


def _utf8_path(file: BinaryIO, path: Path) -> str:
    """A path of the open file in UTF-8, which safetensors needs."""
    name = str(path)
    return name if name.isascii() or name.encode(errors="ignore").decode() == name else f"/dev/fd/{file.fileno()}"


def _verified_header(file: BinaryIO, path: Path) -> bytes:
    """The length and the header of a file, after its digest is verified."""
    header = file.read(8)
    header += file.read(min(int.from_bytes(header, "little"), _LONGEST_HEADER))
    place = _digest_place(header)
    if place is None:
        raise StorageError(f"{printable(path)} is not a file written by gcnet: its header holds no checksum")
    digest = hashlib.sha256(header[:place] + _NO_DIGEST + header[place + 64 :])
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    if digest.hexdigest().encode() != header[place : place + 64]:
        raise StorageError(f"{printable(path)} is damaged: its checksum does not match its bytes; use another copy")
    return header


def _metadata(header: bytes) -> dict[str, Any] | None:
    """The JSON metadata in the header, None where they are not as `save_tensors` writes them."""
    try:
        content = json.loads(json.loads(header[8:])["__metadata__"]["gcnet"])["content"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def has_checksum(path: Path) -> bool:
    """Whether the safetensors file `path` was written by `save_tensors`, by two names in its header.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little") % _LONGEST_HEADER)
    except OSError as error:
        raise StorageError(f"cannot read {printable(path)}: {error.strerror}") from error
    return _OUR_FIELD in header or _DIGEST_KEY in header


def _digest_place(header: bytes) -> int | None:
    """The offset of the 64 hexadecimal digits in the header, or None."""
    place = header.find(_DIGEST_KEY, 8)
    return None if place < 0 else place + len(_DIGEST_KEY)
