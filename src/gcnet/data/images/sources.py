"""Labeled images: the interface, image files, subsets, and a cache in memory."""

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int32, Integer
from PIL import Image

from gcnet.data.decode import FULL_DEPTH, EncodedImage, open_image
from gcnet.data.images.file_names import FileNames

_T = TypeVar("_T")
_Integers = Sequence[int] | Integer[np.ndarray, " images"]

CACHE_BYTES = 256 * 1024**2
_MAX_CACHED_PIXELS = 96 * 96


class ImageSource(ABC):
    """A fixed sequence of labeled images with unique names.

    Attributes:
        classes: Names of the classes, in the order of the labels.
        notes: What was skipped or repaired when the images were listed, a sentence each.
        in_memory: Whether the pixels of all images are in memory.
    """

    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    in_memory: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of the image at `index`, for messages and tables."""

    @abstractmethod
    def label(self, index: int) -> int:
        """Return the class of the image at `index`, an index into `classes`."""

    def all_labels(self) -> Int32[np.ndarray, " images"]:
        """Return the class of every image, in order."""
        return np.array([self.label(index) for index in range(len(self))], dtype=np.int32)

    @abstractmethod
    def file(self, index: int) -> Path | None:
        """Return the file of the image at `index`, or None for an image without a file of its own."""

    def encoded(self, index: int) -> Path | EncodedImage | None:
        """Return the path or content of the image file at `index`, or None for a generated image.

        Raises:
            ImageError: There is no such file.
        """
        return self.file(index)

    def file_size(self, index: int) -> int | None:
        """Return the size in bytes of the image file at `index`, or None without a file."""
        return size_on_disk(self.file(index))

    def identity(self) -> list[Integer[np.ndarray, " n"]]:
        """Return arrays that differ between images of other names, labels or places in shards."""
        return [*FileNames.packed(map(self.name, range(len(self)))).arrays(), self.all_labels()]

    def prefetch(self, indices: Sequence[int]) -> None:  # noqa: B027 (files on disk need nothing)
        """Request the files of the images at `indices`, which are read next, at the same time if they are remote."""

    def file_images(self) -> "FileImages | None":
        """Return the image files that these images are chosen from, or None for images without files."""
        return None

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Return the image at `index`, RGB.

        Raises:
            ImageError: The image cannot be read.
        """


class StoredImages(ImageSource):
    """Images that are decoded from files, or from members of shards."""

    bit_depth = FULL_DEPTH
    _labels: Int32[np.ndarray, " images"]

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def all_labels(self) -> Int32[np.ndarray, " images"]:
        return self._labels

    @abstractmethod
    def encoded(self, index: int) -> Path | EncodedImage: ...

    def read(self, index: int) -> Image.Image:
        return open_image(self.encoded(index), bit_depth=self.bit_depth)

    def with_bit_depth(self, bit_depth: int) -> "StoredImages":
        """Return the same images, of which 16-bit images use only `bit_depth` bits, 8 to 16."""
        other = copy.copy(self)
        other.bit_depth = bit_depth
        return other


class FileImages(StoredImages):
    """Image files below a folder.

    Args:
        root: The folder.
        files: Paths relative to the folder.
        labels: Class of each file, an index into `classes`.
        classes: Names of the classes.
        notes: What was skipped or repaired, a sentence each.

    Attributes:
        names: The paths `files`.
        folders: Folders of the files, relative to `root`, if no file is a symbolic link; None if unknown.
    """

    folders: Sequence[str] | None = None

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        labels: _Integers,
        classes: Sequence[str],
        *,
        notes: Sequence[str] = (),
    ) -> None:
        self.root, self.classes, self.notes = root, tuple(classes), tuple(notes)
        self.names = files if isinstance(files, FileNames) else FileNames.packed(files)
        self._labels = np.asarray(labels, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def file(self, index: int) -> Path:
        return self.root / self.names[index]

    def identity(self) -> list[Integer[np.ndarray, " n"]]:
        return [*self.names.arrays(), self._labels]

    def file_images(self) -> "FileImages":
        return self

    def encoded(self, index: int) -> Path:
        return self.file(index)

    def file_size(self, index: int) -> int | None:
        return size_on_disk(os.path.join(self.root, self.names[index]))


class SubsetImages(ImageSource):
    """Images of another source at given indices.

    Args:
        source: All images.
        indices: Indices into `source`, in order.
    """

    def __init__(self, source: ImageSource, indices: _Integers) -> None:
        self.source, self.indices = source, np.asarray(indices, dtype=np.int64)
        self.classes, self.notes, self.in_memory = source.classes, source.notes, source.in_memory

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def label(self, index: int) -> int:
        return self.source.label(int(self.indices[index]))

    def all_labels(self) -> Int32[np.ndarray, " images"]:
        return self.source.all_labels()[self.indices]

    def identity(self) -> list[Integer[np.ndarray, " n"]]:
        return [*self.source.identity(), self.indices]

    def file(self, index: int) -> Path | None:
        return self.source.file(int(self.indices[index]))

    def file_images(self) -> FileImages | None:
        return self.source.file_images()

    def prefetch(self, indices: Sequence[int]) -> None:
        self.source.prefetch([int(self.indices[index]) for index in indices])

    def encoded(self, index: int) -> Path | EncodedImage | None:
        return self.source.encoded(int(self.indices[index]))

    def file_size(self, index: int) -> int | None:
        return self.source.file_size(int(self.indices[index]))

    def read(self, index: int) -> Image.Image:
        return self.source.read(int(self.indices[index]))


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

    def all_labels(self) -> Int32[np.ndarray, " images"]:
        return self.source.all_labels()

    def identity(self) -> list[Integer[np.ndarray, " n"]]:
        return self.source.identity()

    def file(self, index: int) -> Path | None:
        return self.source.file(index)

    def prefetch(self, indices: Sequence[int]) -> None:
        self.source.prefetch([index for index in indices if index not in self._cache])

    def encoded(self, index: int) -> Path | EncodedImage | None:
        return self.source.encoded(index)

    def file_size(self, index: int) -> int | None:
        return self.source.file_size(index)

    def file_images(self) -> FileImages | None:
        return self.source.file_images()

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
