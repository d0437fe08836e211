"""What a source of labelled images is; folders of class folders; a part of a source; a copy in memory."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from gcnet.data.decode import has_image_suffix, open_image
from gcnet.errors import UserError, nearest

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

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the image is called in messages and tables."""
        ...

    def label(self, index: int) -> int:
        """Index into `classes`."""
        ...

    def read(self, index: int) -> Image.Image:
        """The image, RGB; raises ImageError where there is none to be had."""
        ...

    def file_size(self, index: int) -> int | None:
        """Bytes of the image's file; None where the file is missing, or the image has no file of its own."""
        ...


def read_sample(source: ImageSource, index: int) -> Sample:
    """Image, label and name of one index; raises ImageError."""
    return Sample(source.read(index), source.label(index), source.name(index))


def expected_tree(root: str | os.PathLike[str]) -> str:
    """How a folder of images has to look, for messages."""
    top = str(root).rstrip("/")
    return f"{top}/train/CLASS/*.jpg and {top}/val/CLASS/*.jpg (one folder a class, in both the same)"


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files below a folder, by suffix and in a fixed order; hidden files and folders do not count."""
    return [Path(folder, name) for name in _walk(str(folder))]


def _walk(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from (f"{entry.name}/{name}" for name in _walk(entry.path))
        elif has_image_suffix(entry.name):
            yield entry.name


class FolderImages:
    """Images in class folders: `root/CLASS/**/*.png`; labels follow the sorted class names, or `classes` where given.

    Raises:
        UserError: where the folder is missing or empty, has no class folders, or has a class that `classes` lacks.
    """

    def __init__(self, root: str | os.PathLike[str], *, classes: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        found = _class_folders(self.root)
        check_known(found, classes, self.root)
        self.classes = tuple(found if classes is None else classes)
        labels = {name: label for label, name in enumerate(self.classes)}
        self._files: list[str] = []
        self._labels: list[int] = []
        for folder in found:
            files = [f"{folder}/{file}" for file in _walk(str(self.root / folder))]
            if not files and classes is None:
                raise UserError(f"every class folder needs images, found none in {self.root / folder}")
            self._files += files
            self._labels += [labels[folder]] * len(files)
        if not self._files:
            raise UserError(f"found no images in the class folders of {self.root}")

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """Path below the root."""
        return self._files[index]

    def label(self, index: int) -> int:
        """Index into `classes`."""
        return self._labels[index]

    def read(self, index: int) -> Image.Image:
        """Decode the file; raises ImageError."""
        return open_image(self.root / self._files[index])

    def file_size(self, index: int) -> int | None:
        """Bytes of the file; None where it is missing."""
        return size_on_disk(f"{self.root}/{self._files[index]}")


def size_on_disk(path: str) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return None


def _class_folders(root: Path) -> list[str]:
    if not root.is_dir():
        beside = sorted(entry.name for entry in root.parent.iterdir() if entry.is_dir()) if root.parent.is_dir() else []
        raise UserError(
            f'no folder of images at "{root}"{nearest(root.name, beside)}; expected {expected_tree(root.parent)}'
        )
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f'no class folders in "{root}"; expected {expected_tree(root.parent)}')
    return names


def check_known(found: Sequence[str], classes: Sequence[str] | None, place: object) -> None:
    """Refuse class names that are not among the known `classes` (None: there are no known ones yet).

    Raises:
        UserError: for the first such name, with the nearest known one.
    """
    if classes is None:
        return
    for name in found:
        if name not in classes:
            raise UserError(
                f'{place}: class "{name}" is not among the {len(classes)} known ones{nearest(name, classes)}'
            )


class SubsetImages:
    """The given indices of a source, in that order."""

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self.source, self.indices = source, indices
        self.classes = source.classes

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """As the source says."""
        return self.source.name(self.indices[index])

    def label(self, index: int) -> int:
        """As the source says."""
        return self.source.label(self.indices[index])

    def read(self, index: int) -> Image.Image:
        """As the source reads it."""
        return self.source.read(self.indices[index])

    def file_size(self, index: int) -> int | None:
        """As the source says."""
        return self.source.file_size(self.indices[index])


def limit_images(source: ImageSource, limit: int | None) -> ImageSource:
    """At most `limit` images, evenly spread over the source, so that sorted classes keep their shares."""
    if limit is None or limit >= len(source):
        return source
    return SubsetImages(source, [number * len(source) // limit for number in range(limit)])


class CachedImages:
    """A source whose small images are decoded once and kept in memory, bit for bit.

    Images of more than 96 x 96 pixels, and those beyond `budget` bytes, are decoded anew each time. Every loading
    process keeps its own copy of what it has read.
    """

    def __init__(self, source: ImageSource, *, budget: int = CACHE_BYTES) -> None:
        self.source, self.budget = source, budget
        self.classes = source.classes
        self._kept: dict[int, tuple[tuple[int, int], bytes]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """As the source says."""
        return self.source.name(index)

    def label(self, index: int) -> int:
        """As the source says."""
        return self.source.label(index)

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

    def file_size(self, index: int) -> int | None:
        """As the source says."""
        return self.source.file_size(index)
