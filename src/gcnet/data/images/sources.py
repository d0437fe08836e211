"""Interface of labeled images; image files, subsets, and a copy in memory."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from PIL import Image

from gcnet.data.decode import FULL_DEPTH, open_image

T = TypeVar("T")

CACHE_BYTES = 256 * 1024**2
_CACHED_PIXELS = 96 * 96


@dataclass(frozen=True)
class Sample:
    """One decoded image (RGB) with its class index and its name."""

    image: Image.Image
    label: int
    name: str


@runtime_checkable
class ImageSource(Protocol):
    """A fixed sequence of labelled images; a name belongs to one image only."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was skipped or repaired when the source was opened, a sentence each."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the image is called in messages and tables."""
        ...

    def label(self, index: int) -> int:
        """Index into `classes`."""
        ...

    def file(self, index: int) -> Path | None:
        """The image's file; None for an image that has none of its own."""
        ...

    def read(self, index: int) -> Image.Image:
        """The image, RGB; raises ImageError for one that cannot be read."""
        ...


def read_sample(source: ImageSource, index: int) -> Sample:
    """Image, label and name of one index; raises ImageError."""
    return Sample(source.read(index), source.label(index), source.name(index))


class FileImages:
    """Images in files below one folder.

    Args:
        root: the folder.
        files: paths below it.
        labels: of each file, indices into `classes`.
        classes: names of the classes.
        notes: what was skipped or repaired, a sentence each.
    """

    bit_depth = FULL_DEPTH

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str],
        *,
        notes: Sequence[str] = (),
    ) -> None:
        self.root, self.classes, self.notes = root, tuple(classes), tuple(notes)
        self._files, self._labels = files, labels

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """The path below the root."""
        return self._files[index]

    def label(self, index: int) -> int:
        """Index into `classes`."""
        return self._labels[index]

    def file(self, index: int) -> Path:
        """The path."""
        return self.root / self._files[index]

    def read(self, index: int) -> Image.Image:
        """Decode the file; raises ImageError."""
        return open_image(self.root / self._files[index], bit_depth=self.bit_depth)

    def with_bit_depth(self, bit_depth: int) -> "FileImages":
        """The same images, of which those with 16 bits use only `bit_depth` of them."""
        other = copy.copy(self)
        other.bit_depth = bit_depth
        return other


def size_on_disk(path: str | os.PathLike[str] | None) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return None if path is None else os.stat(path).st_size
    except (OSError, ValueError):
        return None


class SubsetImages:
    """The given indices of a source, in that order."""

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self.source, self.indices = source, indices
        self.classes, self.notes = source.classes, source.notes

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """As the source says."""
        return self.source.name(self.indices[index])

    def label(self, index: int) -> int:
        """As the source says."""
        return self.source.label(self.indices[index])

    def file(self, index: int) -> Path | None:
        """As the source says."""
        return self.source.file(self.indices[index])

    def read(self, index: int) -> Image.Image:
        """As the source reads it."""
        return self.source.read(self.indices[index])


def evenly_spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, in their order, from the first on at equal distances."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def limit_images(source: ImageSource, limit: int | None) -> ImageSource:
    """At most `limit` images, evenly spread over the source, so that sorted classes keep their shares."""
    if limit is None or limit >= len(source):
        return source
    return SubsetImages(source, evenly_spread(range(len(source)), limit))


class CachedImages:
    """A source whose small images are decoded once and kept in memory, bit for bit.

    Images of more than 96 x 96 pixels, and those beyond `budget` bytes, are decoded anew each time. Every loading
    process keeps its own copy of what it has read.
    """

    def __init__(self, source: ImageSource, *, budget: int = CACHE_BYTES) -> None:
        self.source, self.budget = source, budget
        self.classes, self.notes = source.classes, source.notes
        self._kept: dict[int, tuple[tuple[int, int], bytes]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """As the source says."""
        return self.source.name(index)

    def label(self, index: int) -> int:
        """As the source says."""
        return self.source.label(index)

    def file(self, index: int) -> Path | None:
        """As the source says."""
        return self.source.file(index)

    def read(self, index: int) -> Image.Image:
        """The image, decoded or from memory; raises ImageError as the source does."""
        if index in self._kept:
            size, pixels = self._kept[index]
            return Image.frombytes("RGB", size, pixels)
        image = self.source.read(index)
        needed = 3 * image.width * image.height
        if image.width * image.height <= _CACHED_PIXELS and needed <= self.budget:
            self.budget -= needed
            self._kept[index] = (image.size, image.tobytes())
        return image
