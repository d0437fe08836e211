"""Index of shards: name, place and label of every sample, built once from the headers of the tar files."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from gcnet.data.decode import has_image_suffix
from gcnet.data.images.file_names import FileNames
from gcnet.data.images.shard_files import read_bytes
from gcnet.data.images.shard_samples import LINKS, MOST_CLASSES, NO_IMAGE, NO_LABEL, ShardSamples, read_samples
from gcnet.data.index_file import Index, are_ends, index_path, read_index, save_index
from gcnet.errors import UserError, printable
from gcnet.remote_files import FileEntry, existing_file, is_remote
from gcnet.storage import StorageError, locked, write_atomic

INDEX = "{}.index.safetensors"
"""Name of the index of a split beside its shards."""

_KIND, _UNLABELED = "shards-1", "shards-unlabeled-1"
_MIXED_ORDER = "the files of a sample must follow one another: write them sorted by name"
_DIMENSIONS = dict.fromkeys(("ends", "text", "name_ends", "offsets", "sizes", "labels"), 1)
_PARALLEL = 16  # remote shards whose headers are read at once


@dataclass(frozen=True)
class ShardIndex:
    """The samples of several shards, in arrays that processes share.

    Attributes:
        shards: Path or URL of each shard.
        ends: Number of samples up to the end of each shard.
        names: Name of each image.
        offsets: First byte of each image file in its shard.
        sizes: Size of each image file in bytes.
        labels: Class index of each image, or index into `label_names`.
        label_names: Sorted class names if the shards have names as labels; empty if they have numbers.
        repeats_names: Whether images of different shards have the same name.
        notes: What was skipped, a sentence each.
    """

    shards: tuple[str, ...]
    ends: Int64[np.ndarray, " shards"]
    names: FileNames
    offsets: Int64[np.ndarray, " images"]
    sizes: Int64[np.ndarray, " images"]
    labels: Int32[np.ndarray, " images"]
    label_names: tuple[str, ...]
    repeats_names: bool
    notes: tuple[str, ...]

    def shard(self, index: int) -> str:
        """Return the shard of the image at `index`."""
        return self.shards[int(np.searchsorted(self.ends, index, side="right"))]

    def save(self, path: Path, files: Sequence[FileEntry]) -> bool:
        """Write the index to a file.

        Args:
            path: The file.
            files: The shards, whose names and sizes the file keeps to be compared.

        Returns:
            Whether the file was written; False for a folder that cannot be written or a full disk.
        """
        arrays = {
            "ends": self.ends,
            "text": self.names.text,
            "name_ends": self.names.ends,
            "offsets": self.offsets,
            "sizes": self.sizes,
            "labels": self.labels,
        }
        details = {
            "shards": [[os.path.basename(file.url), file.size] for file in files],
            "label_names": list(self.label_names),
            "repeats_names": self.repeats_names,
            "notes": list(self.notes),
        }
        return save_index(path, arrays, details)


def open_index(files: Sequence[FileEntry], beside: str, *, needs_labels: bool = True) -> ShardIndex:
    """Return the index of shards: from the file beside them, from the cache, or built of the headers of the tar files.

    Args:
        files: The shards.
        beside: Name of an index file beside the shards, as `gcnet shard` writes it.
        needs_labels: Whether samples without a label are skipped; otherwise labels may be wrong.

    Raises:
        UserError: A shard is not a tar file or is damaged, or no image has a label.
    """
    stored = _stored_beside(files, beside)
    if stored is not None and (needs_labels or not stored.notes):
        return stored
    path = _cache_path(files, _KIND if needs_labels else _UNLABELED)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock"), wait=True):  # one of several processes builds it
            return _read(path, files) or _built(path, files, needs_labels=needs_labels)
    except (OSError, StorageError):  # a cache that cannot be written
        return build_index(files, needs_labels=needs_labels)


def _built(path: Path, files: Sequence[FileEntry], *, needs_labels: bool) -> ShardIndex:
    """Build the index and write it to the cache; it is read from there if possible."""
    built = build_index(files, needs_labels=needs_labels)
    return (_read(path, files) if built.save(path, files) else None) or built


def _cache_path(files: Sequence[FileEntry], kind: str = _KIND) -> Path:
    places = (
        (file.url if is_remote(file.url) else os.path.realpath(file.url), file.size, file.version) for file in files
    )
    return index_path(f"/{hashlib.sha256(repr(list(places)).encode(errors='surrogateescape')).hexdigest()}", kind)


def _stored_beside(files: Sequence[FileEntry], name: str) -> ShardIndex | None:
    """Return the index that `gcnet shard` wrote, if it is that of these shards and, on this machine, not older."""
    place = f"{os.path.dirname(files[0].url) or '.'}/{name}"
    if not is_remote(place):
        return _read(Path(place), files) if _is_newest(place, files) else None
    entry = existing_file(place)
    if entry is None:
        return None
    path = _cache_path([entry])
    with suppress(OSError, StorageError):  # without a cache, the headers of the tar files are read
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, read_bytes(place))
    return _read(path, files)


def _is_newest(place: str, files: Sequence[FileEntry]) -> bool:
    """Return whether no shard was changed after the file at `place`."""
    try:
        return os.stat(place).st_mtime_ns >= max(os.stat(file.url).st_mtime_ns for file in files)
    except OSError:
        return False


def _read(path: Path, files: Sequence[FileEntry]) -> ShardIndex | None:
    """Return the index of a file, or None if it is missing, damaged or that of other shards."""
    return read_index(path, _DIMENSIONS, partial(_from_file, files=files))


def _from_file(stored: Index, files: Sequence[FileEntry]) -> ShardIndex | None:
    arrays, details = stored.arrays, stored.details
    if details["shards"] != [[os.path.basename(file.url), file.size] for file in files]:
        return None
    index = ShardIndex(
        tuple(file.url for file in files),
        arrays["ends"],
        FileNames(arrays["text"], arrays["name_ends"]),
        arrays["offsets"],
        arrays["sizes"],
        arrays["labels"],
        tuple(details["label_names"]),
        details["repeats_names"],
        tuple(details["notes"]),
    )
    return index if _is_consistent(index, files) else None


def _is_consistent(index: ShardIndex, files: Sequence[FileEntry]) -> bool:
    """Return whether an index of a file lists images within the shards, with valid names and labels."""
    count, text_ends = len(index.offsets), index.names.ends
    lengths = np.diff(index.ends, prepend=0)
    if not (count == len(index.sizes) == len(index.labels) == len(text_ends) == lengths.sum() > 0):
        return False
    if len(lengths) != len(files) or lengths.min() < 0 or lengths.max() > count:  # their sum may overflow
        return False
    last = np.repeat([file.size for file in files], lengths) - index.sizes
    classes = len(index.label_names) or MOST_CLASSES
    return bool(
        are_ends(text_ends, index.names.text)
        and index.offsets.min() >= 0
        and index.sizes.min() >= 0
        and (index.offsets <= last).all()
        and index.labels.min() >= 0
        and index.labels.max() < classes
        and all(isinstance(text, str) for text in (*index.label_names, *index.notes))
    )


def build_index(files: Sequence[FileEntry], *, needs_labels: bool = True) -> ShardIndex:
    """Build the index of shards from the headers of their tar files.

    Args:
        files: The shards.
        needs_labels: Whether samples without a label are skipped; otherwise the label of all samples is 0.

    Returns:
        The index.

    Raises:
        UserError: A shard is not a tar file or is damaged, no image has a label, or some labels are numbers and others
            names.
    """
    with ThreadPoolExecutor(_PARALLEL if is_remote(files[0].url) else 1) as pool:
        return join_samples(files, pool.map(partial(read_samples, needs_labels=needs_labels), files))


def join_samples(files: Sequence[FileEntry], parts: Iterable[ShardSamples]) -> ShardIndex:
    """Return the index of the samples of several shards.

    Args:
        files: The shards.
        parts: Samples of each shard.

    Raises:
        UserError: As for `build_index`.
    """
    ends, offsets, sizes, labels, names = [], [], [], [], []
    skipped: Counter[str] = Counter()
    example = ""
    for part in parts:
        names += [sample.name for sample in part.samples]
        offsets += [sample.offset for sample in part.samples]
        sizes += [sample.size for sample in part.samples]
        labels += [sample.label for sample in part.samples]
        skipped, example = skipped + part.skipped, example or part.example
        ends.append(len(names))
    place = _place(files)
    notes = _notes(place, skipped, example)
    if not names:
        reason = "no image has a label" if NO_LABEL in skipped else "there are no images"
        advice = _advice(skipped, example)
        raise UserError(notes[0].replace("skipped", f"{reason}: found") + advice if notes else f"{place}: no samples")
    label_names = _label_names(place, labels)
    number_of = {name: number for number, name in enumerate(label_names)}
    numbers = [number_of[label] for label in labels] if label_names else labels
    return ShardIndex(
        tuple(file.url for file in files),
        np.array(ends, dtype=np.int64),
        FileNames.packed(names),
        np.array(offsets, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        np.array(numbers, dtype=np.int32),
        label_names,
        len(set(names)) < len(names),
        tuple(notes),
    )


def _place(files: Sequence[FileEntry]) -> str:
    first, last = files[0].url, os.path.basename(files[-1].url)
    return printable(first if len(files) == 1 else f"{first} to {last}")


def _notes(place: str, skipped: Mapping[str, int], example: str) -> list[str]:
    if not skipped:
        return []
    counts = " and ".join(f"{count:,} sample{'s' * (count != 1)} {reason}" for reason, count in skipped.items())
    order = f"; {_MIXED_ORDER}" if skipped.keys() >= {NO_IMAGE, NO_LABEL} else ""
    return [f"{place}: skipped {counts}, such as {printable(example)}{order}"]


def _advice(skipped: Mapping[str, int], example: str) -> str:
    """Return what to do with shards without a sample, for the end of an error message."""
    if skipped.keys() >= {NO_IMAGE, NO_LABEL}:  # which a note explains
        return ""
    if LINKS in skipped:
        return "; write the files themselves: tar with links followed, and not sparse"
    if NO_LABEL in skipped:
        return "; unpack tar files of class folders, or of one class each as those of ImageNet, to a folder per class"
    if example.lower().endswith(".tar"):
        return "; unpack it, since it holds tar files"
    return "; the key of a sample ends at the first dot of its name" if has_image_suffix(example) else ""


def _label_names(place: str, labels: Sequence[int | str]) -> tuple[str, ...]:
    names = {label for label in labels if isinstance(label, str)}
    if names and (number := next((label for label in labels if isinstance(label, int)), None)) is not None:
        raise UserError(
            f'{place}: labels must be all numbers or all names, found {number} and "{printable(min(names))}"'
        )
    return tuple(sorted(names))
