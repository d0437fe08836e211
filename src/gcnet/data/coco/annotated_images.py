"""Images with their COCO annotations, and the splits of a data set."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torchvision.ops import clip_boxes_to_image

from gcnet.data.coco.index import AnnotationIndex, lies_within
from gcnet.data.coco.issues import Issue, issue_summary
from gcnet.data.coco.masks import BitMasks, Objects, annotation_mask
from gcnet.data.coco.paths import MISSING, resolve_paths
from gcnet.data.coco.values import Entry, Ids
from gcnet.data.decode import Header, ImageError, ImageFile, open_image, read_header
from gcnet.data.images.file_names import FileNames
from gcnet.data.images.probe import REQUESTED
from gcnet.data.images.remote_images import RemoteImages
from gcnet.data.images.remote_reader import RemoteReader
from gcnet.data.images.sources import FileImages, StoredImages, evenly_spread
from gcnet.errors import UserError, printable
from gcnet.remote_files import is_remote

_SAMPLE = 100  # images whose headers are read to learn in which orientation the images are annotated


class CocoImages:
    """The images of a COCO file, in its order.

    Labels count from 1, in the order of the category ids. Crowd regions are not objects: they contain an unknown number
    of objects and are not used for training.

    Args:
        content: Content of a COCO file without issues, or its index.
        read: Reads the RGB image of an entry with id, file name, height and width; raises ImageError.
        rows: Indices of the images, in order (default: all).
    """

    def __init__(
        self,
        content: Mapping[str, Any] | AnnotationIndex,
        read: Callable[[Entry], Image.Image],
        rows: Int64[np.ndarray, " n"] | None = None,
    ) -> None:
        self.index = content if isinstance(content, AnnotationIndex) else AnnotationIndex.of(content)
        self._read = read
        self.rows = np.arange(len(self.index)) if rows is None else rows
        categories = sorted(self.index.categories, key=lambda category: category["id"])
        self.classes = tuple(category["name"] for category in categories)
        self.category_ids = tuple(category["id"] for category in categories)
        self._labels = {identity: label for label, identity in enumerate(self.category_ids, start=1)}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def content(self) -> dict[str, Any]:
        """Content of the COCO file, with all its images; made anew at each use."""
        return self.index.content()

    def name(self, index: int) -> str:
        """Return the file name of the image at `index`."""
        return self.index.name(int(self.rows[index]))

    def image_id(self, index: int) -> int:
        """Return the COCO id of the image at `index`."""
        return int(self.index.image_ids[self.rows[index]])

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of the image at `index`, in pixels."""
        height, width = self.index.sizes[self.rows[index]].tolist()
        return height, width

    def annotations(self, index: int) -> list[Entry]:
        """Return the annotations of the image at `index`, without crowds and objects outside of the image."""
        height, width = self.size(index)
        image = {"height": height, "width": width}
        return [
            annotation
            for annotation in self.index.annotations(int(self.rows[index]))
            if not annotation.get("iscrowd", 0) and lies_within(annotation["bbox"], image)
        ]

    def read(self, index: int) -> Image.Image:
        """Return the image at `index`, RGB, in the orientation of its annotations.

        Raises:
            ImageError: The image cannot be read, or its size is not that of the annotations.
        """
        height, width = self.size(index)
        name = self.name(index)
        image = self._read({"id": self.image_id(index), "file_name": name, "height": height, "width": width})
        if image.size != (width, height):
            raise ImageError(name, f"it {_size_problem(image.size, (width, height))}")
        return image

    def objects(self, index: int) -> Objects:
        """Return the objects of the image at `index` as training targets, with boxes clipped to the image."""
        height, width = self.size(index)
        annotations = self.annotations(index)
        boxes = torch.tensor([annotation["bbox"] for annotation in annotations], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor(
            [self._labels[annotation["category_id"]] for annotation in annotations], dtype=torch.int64
        )
        drawn = (annotation_mask(annotation, height, width) for annotation in annotations)
        masks = BitMasks.pack(drawn, len(annotations), height, width)
        return Objects(clip_boxes_to_image(boxes, (height, width)), labels, masks, ~masks.is_empty())

    def names(self) -> list[str]:
        """Return the file names of the images."""
        names = self.index.names()
        return [names[row] for row in self.rows.tolist()]

    def files(self) -> Iterator[str]:
        """Yield the paths of the image files that exist; none for generated images."""
        if isinstance(self._read, FolderReader):
            paths = map(self._read.paths.path, self.names())
            yield from (path for path in paths if path is not None)

    def file_sizes(self) -> Iterator[tuple[str, int | None]]:
        """Yield name and size in bytes of each image file, None without a file; nothing for generated images."""
        if isinstance(self._read, FolderReader):
            for name in self.names():
                yield name, self._read.paths.size(name)

    def prefetch(self, indices: Sequence[int]) -> None:
        """Request the remote images at `indices`, which are read next, at the same time."""
        if isinstance(self._read, FolderReader):
            self._read.prefetch([self.name(index) for index in indices])

    def subset(self, indices: Sequence[int]) -> "CocoImages":
        """Return the images at `indices`, in this order."""
        return CocoImages(self.index, self._read, self.rows[np.asarray(indices, dtype=np.int64)])

    def limited(self, limit: int | None) -> "CocoImages":
        """Return at most `limit` images, evenly spread; None keeps all."""
        if limit is None or limit >= len(self):
            return self
        return self.subset(evenly_spread(range(len(self)), limit))

    def with_objects(self) -> "CocoImages":
        """Return the images that have an object."""
        return CocoImages(self.index, self._read, self.rows[self.index.objects[self.rows] > 0])


class FolderReader:
    """Reads images of a folder in the orientation of their annotations.

    If the EXIF orientation swaps width and height, the annotated size determines whether it is applied. For other
    images it is applied, unless the annotations of a sample of images have the stored size.

    Args:
        folder: Folder of the images, a path or URL.
        entries: Entries of all images, which together resolve ambiguous paths.
    """

    def __init__(self, folder: str | os.PathLike[str], entries: Sequence[Entry]) -> None:
        self.paths = resolve_paths(folder, [entry["file_name"] for entry in entries])
        self._remote = RemoteReader() if is_remote(self.paths.folder) else None
        self._sampled = [(entry, header) for entry, header in self._sample(entries) if header is not None]
        orientations = [fits for entry, header in self._sampled if (fits := _fits(header, entry)) is not None]
        self._stored = orientations.count("stored")
        self._upright = orientations.count("upright") >= self._stored

    def __call__(self, entry: Entry) -> Image.Image:
        """Return the RGB image of an entry; raises ImageError."""
        file = self._file(entry)
        header = _readable_header(file)
        fits = None if header is None else _fits(header, entry)
        return open_image(file, upright=(fits or self._usual) == "upright")

    def prefetch(self, names: Sequence[str]) -> None:
        """Request the remote images of `names`, which are read next, at the same time.

        Args:
            names: File names in the annotations.
        """
        if self._remote is not None:
            files = ((self.paths.path(name), self.paths.size(name)) for name in names)
            self._remote.prefetch([(path, size or 0) for path, size in files if path is not None])

    def image_files(self) -> StoredImages:
        """Return the image files without annotations, in the order of the entries."""
        folder, files = self.paths.folder, self.paths.files
        labels = np.zeros(len(files), dtype=np.int32)
        if self._remote is None:
            return FileImages(Path(folder), list(files.values()), labels, ())
        sizes = np.array([self.paths.size(name) for name in files], dtype=np.int64)
        return RemoteImages(folder, FileNames.packed(files.values()), sizes=sizes, labels=labels, classes=())

    @property
    def _usual(self) -> str:
        return "upright" if self._upright else "stored"

    def notes(self) -> list[str]:
        """Return what was repaired, a sentence each."""
        notes = [note] if (note := self.paths.note()) else []
        if self._stored:
            notes.append("images with an EXIF orientation are not rotated if the annotations have the stored size")
        return notes

    def check_sizes(self) -> None:
        """Check that the annotated size of at least one image of a sample is correct.

        Raises:
            UserError: All readable images of the sample have another size.
        """
        first = ""
        for entry, header in self._sampled:
            stored, stated = (header.width, header.height), (entry["width"], entry["height"])
            if stated in (stored, header.upright_size):
                return
            first = first or f"{printable(entry['file_name'])} {_size_problem(stored, stated)}"
        if first:
            raise UserError(f"no image has its annotated size: {first}")

    def _sample(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Header | None]]:
        """Yield entries of a sample of images, each with the header of its file, or None if it cannot be read."""
        sample = evenly_spread(entries, _SAMPLE)
        for start in range(0, len(sample), REQUESTED):
            part = sample[start : start + REQUESTED]
            self.prefetch([entry["file_name"] for entry in part])
            for entry in part:
                try:
                    file = self._file(entry)
                except ImageError:
                    yield entry, None
                else:
                    yield entry, _readable_header(file)

    def _file(self, entry: Entry) -> ImageFile:
        name = entry["file_name"]
        path = self.paths.path(name)
        if path is None:
            raise ImageError(name, self.paths.missing.get(name, MISSING))
        return path if self._remote is None else self._remote.read(path, path, self.paths.size(name))


def _readable_header(file: ImageFile) -> Header | None:
    try:
        return read_header(file)
    except ImageError:
        return None


def _fits(header: Header, entry: Entry) -> str | None:
    """Return whether the annotated size is the "upright" or the "stored" one; None if undecided."""
    width, height = header.width, header.height
    if header.orientation < 5 or width == height:  # the sizes are the same: nothing, a half turn or a reflection
        return None
    stated = entry["width"], entry["height"]
    return {(height, width): "upright", (width, height): "stored"}.get(stated)


def _size_problem(found: tuple[int, int], stated: tuple[int, int]) -> str:
    """Describe a size (width, height) that differs from the annotated one."""
    swapped = ", perhaps after losing an EXIF orientation" if found == stated[::-1] else ""
    return f"has {found[0]} x {found[1]} pixels, its annotations have {stated[0]} x {stated[1]}{swapped}"


_LISTED_ISSUES = 3


@dataclass(frozen=True)
class CocoSplit:
    """A split of a data set, and what was repaired or skipped in its annotations.

    Attributes:
        images: Images without the issues, with and without objects.
        issues: Repaired or skipped entries.
        place: Annotation file, or name of the generated data.
        notes: Further notes, a sentence each.
    """

    images: CocoImages
    issues: tuple[Issue, ...]
    place: str
    notes: tuple[str, ...] = ()

    @property
    def image_ids(self) -> Ids | None:
        """Integer image ids by the ids of the file; None for generated images."""
        return self.images.index.raw_ids("images")

    @property
    def category_ids(self) -> Ids | None:
        """Integer category ids by the ids of the file; None for generated images."""
        return self.images.index.raw_ids("categories")

    def issue_report(self) -> str | None:
        """Return a sentence with kinds and counts of the issues, or None if there are none."""
        if not self.issues:
            return None
        first = "; ".join(str(issue) for issue in self.issues[:_LISTED_ISSUES])
        place = printable(self.place)
        count = f"{len(self.issues):,} issue{'' if len(self.issues) == 1 else 's'}"
        return f"{count} in {place}: {issue_summary(self.issues)}; such as {first}; gcnet check-data {place} lists them"

    def mask_counts(self) -> tuple[int, int]:
        """Return the number of objects with a mask, and the number of objects, without crowds."""
        index, rows = self.images.index, self.images.rows
        return int(index.masked[rows].sum()), int(index.objects[rows].sum())

    def reports(self) -> list[str]:
        """Return issues and notes, a sentence each."""
        report = self.issue_report()
        return [*([report] if report else []), *self.notes]

    def contents(self) -> Iterator[tuple[str, str]]:
        """Yield what identifies the data of a training run.

        Yields:
            Name and digest of the annotation file, then name and size in bytes of each image file.
        """
        if self.images.index.digest is not None:
            yield "annotations", self.images.index.digest
        for name, size in self.images.file_sizes():
            yield name, str(size)

    def subset(self, indices: Sequence[int], *notes: str) -> "CocoSplit":
        """Return the images at some indices, with additional notes.

        Args:
            indices: Indices of the images, in order.
            notes: Notes to add, a sentence each.
        """
        return replace(self, images=self.images.subset(indices), notes=(*self.notes, *notes))

    def limited(self, limit: int | None) -> "CocoSplit":
        """Return at most `limit` images, evenly spread; None keeps all."""
        return replace(self, images=self.images.limited(limit))
