"""Labeled images: the interface, image files, subsets, and a cache in memory."""

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from gcnet.data.decode import FULL_DEPTH, open_image

_T = TypeVar("_T")

CACHE_BYTES = 256 * 1024**2
_MAX_CACHED_PIXELS = 96 * 96


class ImageSource(ABC):
    """A fixed sequence of labeled images with unique names.

    Attributes:
        classes: Names of the classes, in the order of the labels.
        notes: What was skipped or repaired when the images were listed, a sentence each.
    """

    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of the image at `index`, for messages and tables."""

    @abstractmethod
    def label(self, index: int) -> int:
        """Return the class of the image at `index`, an index into `classes`."""

    @abstractmethod
    def file(self, index: int) -> Path | None:
        """Return the file of the image at `index`, or None for an image without a file of its own."""

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Return the image at `index`, RGB.

        Raises:
            ImageError: The image cannot be read.
        """


class FileImages(ImageSource):
    """Image files below a folder.

    Args:
        root: The folder.
        files: Paths relative to the folder.
        labels: Class of each file, an index into `classes`.
        classes: Names of the classes.
        notes: What was skipped or repaired, a sentence each.
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
        return self._files[index]

    def label(self, index: int) -> int:
        return self._labels[index]

    def file(self, index: int) -> Path:
        return self.root / self._files[index]

    def read(self, index: int) -> Image.Image:
        return open_image(self.root / self._files[index], bit_depth=self.bit_depth)

    def with_bit_depth(self, bit_depth: int) -> "FileImages":
        """Return the same images, of which 16-bit images use only `bit_depth` bits, 8 to 16."""
        other = copy.copy(self)
        other.bit_depth = bit_depth
        return other


class SubsetImages(ImageSource):
    """Images of another source at given indices.

    Args:
        source: All images.
        indices: Indices into `source`, in order.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self.source, self.indices = source, indices
        self.classes, self.notes = source.classes, source.notes

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(self.indices[index])

    def label(self, index: int) -> int:
        return self.source.label(self.indices[index])

    def file(self, index: int) -> Path | None:
        return self.source.file(self.indices[index])

    def read(self, index: int) -> Image.Image:
        return self.source.read(self.indices[index])


class CachedImages(ImageSource):
    """Images of another source; small ones are decoded once and kept in memory.

    Images of more than 96 x 96 pixels, and images beyond the budget, are decoded on every access. Every data-loader
    worker has a cache of its own.

    Args:
        source: The images.
        budget: Maximum size of the cache, in bytes.
    """

    def __init__(self, source: ImageSource, *, budget: int = CACHE_BYTES) -> None:
        self.source, self.budget = source, budget
        self.classes, self.notes = source.classes, source.notes
        self._cache: dict[int, tuple[tuple[int, int], bytes]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def label(self, index: int) -> int:
        return self.source.label(index)

    def file(self, index: int) -> Path | None:
        return self.source.file(index)

    def read(self, index: int) -> Image.Image:
        if index in self._cache:
            size, pixels = self._cache[index]
            return Image.frombytes("RGB", size, pixels)
        image = self.source.read(index)
        needed = 3 * image.width * image.height
        if image.width * image.height <= _MAX_CACHED_PIXELS and needed <= self.budget:
            self.budget -= needed
            self._cache[index] = (image.size, image.tobytes())
        return image


def evenly_spread(items: Sequence[_T], count: int) -> list[_T]:
    """Return at most `count` items at equal distances, in order, beginning with the first.

    Args:
        items: Items to choose from.
        count: Maximum number of items.
    """
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def limit_images(source: ImageSource, limit: int | None) -> ImageSource:
    """Return at most `limit` images, evenly spread, so that sorted classes keep their proportions.

    Args:
        source: All images.
        limit: Maximum number of images; None keeps all.
    """
    if limit is None or limit >= len(source):
        return source
    return SubsetImages(source, evenly_spread(range(len(source)), limit))


def size_on_disk(path: str | os.PathLike[str] | None) -> int | None:
    """Return the size in bytes of the file at `path`, or None if there is none."""
    try:
        return None if path is None else os.stat(path).st_size
    except (OSError, ValueError):
        return None
