"""Writes labeled images as shards: tar files in the layout of WebDataset, with `_info.json` and an index."""

import io
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gcnet.data.decode import IMAGE_SUFFIXES, EncodedImage
from gcnet.data.images.shard_files import INFO, find_shards
from gcnet.data.images.shard_index import INDEX, build_index
from gcnet.data.images.sources import StoredImages
from gcnet.errors import UserError, printable
from gcnet.storage import StorageError, atomic_file, write_atomic
from gcnet.text_files import json_bytes

_MEBIBYTE = 1 << 20
_HEADERS = 4 * tarfile.BLOCKSIZE  # of the image and the label, with the label and half a block of padding each
_RECORD = 20 * tarfile.BLOCKSIZE  # a tar file is padded to a multiple of it


@dataclass(frozen=True)
class WrittenShards:
    """Result of `write_shards`.

    Attributes:
        shards: Names of the shards of each split.
        images: Number of images of each split.
        skipped: Names of images without a regular file.
    """

    shards: Mapping[str, tuple[str, ...]]
    images: Mapping[str, int]
    skipped: tuple[str, ...]


def write_shards(
    splits: Mapping[str, StoredImages],
    folder: Path,
    *,
    shard_size: int = 256,
    progress: Callable[[int], None] = lambda _: None,
) -> WrittenShards:
    """Write images to shards in their order, with the bytes of their files.

    The shards appear in the folder when all are complete. Beside the shards, `_info.json` has the class names and the
    number of samples of each shard, and an index of each split the place of every image.

    Args:
        splits: Images of each split, with the same classes.
        folder: Folder of the shards; must be empty or not exist.
        shard_size: Maximum size of a shard with several images, in MiB.
        progress: Called with the number of images written since the last call.

    Returns:
        Names and numbers.

    Raises:
        UserError: The folder is not empty, or no image of a split can be read.
        StorageError: A file cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"the output must be a new or empty folder, found {printable(folder)}")
    place = Path(os.path.abspath(folder))
    exists = place.exists()  # perhaps a mounted disk, or the current folder
    temporary = (place if exists else place.parent) / f".{place.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        written = _write_splits(splits, temporary, shard_size * _MEBIBYTE, progress)
        if exists:
            for path in sorted(temporary.iterdir(), key=lambda path: path.name == INFO):
                path.rename(place / path.name)
        else:
            temporary.rename(place)
    except OSError as error:
        raise StorageError(f"cannot write {printable(folder)}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written


def _write_splits(
    splits: Mapping[str, StoredImages], folder: Path, most: int, progress: Callable[[int], None]
) -> WrittenShards:
    shards: dict[str, tuple[str, ...]] = {}
    skipped: list[str] = []
    counts: dict[str, int] = {}
    info = {}
    for split, images in splits.items():
        writer = _SplitWriter(images, progress)
        names = []
        for number, indices in enumerate(_groups(images, most)):
            names.append(f"{split}-{number:06d}.tar")
            with atomic_file(folder / names[-1], sum(_size(images, index) or 0 for index in indices)) as file:
                writer.write(file, indices)
        if not names:
            raise UserError(f"no file of the {len(images):,} images of {split} can be read, such as {images.name(0)}")
        shards[split] = tuple(names)
        skipped += writer.skipped
        files = find_shards(str(folder / f"{split}-*.tar"))
        index = build_index(files)
        index.save(folder / INDEX.format(split), files)
        lengths = [int(end) - int(start) for start, end in zip([0, *index.ends], index.ends, strict=False)]
        counts[split] = len(index.names)
        info[split] = {"name": split, "num_samples": counts[split], "filenames": names, "shard_lengths": lengths}
    classes = list(next(iter(splits.values())).classes)
    write_atomic(folder / INFO, json_bytes({"classes": classes, "splits": info}))
    return WrittenShards(shards, counts, tuple(skipped))


def _groups(images: StoredImages, most: int) -> Iterator[Sequence[int]]:
    """Yield the indices of the images of each shard, without images whose files are missing."""
    group: list[int] = []
    total = _RECORD
    for index in range(len(images)):
        size = _size(images, index)
        if size is None:
            continue
        if group and total + size + _HEADERS > most:
            yield group
            group, total = [], _RECORD
        group.append(index)
        total += size + _HEADERS
    if group:
        yield group


def _size(images: StoredImages, index: int) -> int | None:
    """Return the size of an image file in bytes; None for a missing file or a pipe."""
    file = images.file(index)
    return images.file_size(index) if file is None or os.path.isfile(file) else None


class _SplitWriter:
    """Writes the samples of a split: KEY.jpg with the bytes of the image file, and KEY.cls with its class index."""

    def __init__(self, images: StoredImages, progress: Callable[[int], None]) -> None:
        self.images, self.progress = images, progress
        self.skipped = [images.name(index) for index in range(len(images)) if _size(images, index) is None]
        self._keys: set[str] = set()

    def write(self, file: BinaryIO, indices: Sequence[int]) -> None:
        with tarfile.open(fileobj=file, mode="w", encoding="utf-8", errors="surrogateescape") as archive:
            for index in indices:
                data = self._read(index)
                key, suffix = self._new_key(self.images.name(index))
                _add(archive, f"{key}{suffix}", data)
                _add(archive, f"{key}.cls", str(self.images.label(index)).encode())
                self.progress(1)

    def _read(self, index: int) -> bytes:
        encoded = self.images.encoded(index)
        if isinstance(encoded, EncodedImage):
            return encoded.data
        try:
            return encoded.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {printable(encoded)}: {error.strerror}") from error

    def _new_key(self, name: str) -> tuple[str, str]:
        """Return a new key, and the suffix: dots end a key, and WebDataset skips names that begin with "__".

        Names of other shards may lead out of a folder, as in ../../x: such parts are left out.

        Files of a CSV need no suffix of an image format; they get .jpg, since readers decode images by their content.
        """
        name = "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
        stem, suffix = os.path.splitext(name)
        suffix = suffix if suffix.lower() in IMAGE_SUFFIXES else ".jpg"
        folder, separator, base = stem.rpartition("/")
        key = f"{folder}{separator}{base.replace('.', '_')}"
        wanted = key = key.lstrip("_") if key.startswith("__") else key
        number = 2
        while key in self._keys:
            key, number = f"{wanted}_{number}", number + 1
        self._keys.add(key)
        return key, suffix


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
