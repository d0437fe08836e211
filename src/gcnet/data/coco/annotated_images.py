"""Images with their COCO annotations."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torchvision.ops import clip_boxes_to_image

from gcnet.data.coco.issues import Issue, summary
from gcnet.data.coco.masks import BitMasks, Objects, annotation_mask
from gcnet.data.coco.paths import MISSING, resolve_paths
from gcnet.data.coco.values import Ids
from gcnet.data.decode import ImageError, open_image, read_header
from gcnet.data.images.sources import evenly_spread, size_on_disk
from gcnet.errors import UserError, printable

Entry = Mapping[str, Any]  # an entry of the list "images" or "annotations"

_SAMPLE = 100  # images whose headers are read to learn in which orientation the images are annotated


class CocoImages:
    """The images of a COCO file, in its order.

    A label is the place of a category, from 1, in the file's categories sorted by id. Crowds are not among an image's
    objects: a region with an unknown number of them is nothing to learn from.

    Args:
        content: of a COCO file, without issues.
        read: an entry of its images -> the image, RGB; raises ImageError.
        indices: of the images to take, in order (default: all).
    """

    def __init__(
        self, content: dict[str, Any], read: Callable[[Entry], Image.Image], indices: Sequence[int] | None = None
    ) -> None:
        self.content, self._read = content, read
        images = content["images"]
        self.images: list[Entry] = list(images) if indices is None else [images[index] for index in indices]
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.classes = tuple(category["name"] for category in categories)
        self.category_ids = tuple(category["id"] for category in categories)
        self._labels = {identity: label for label, identity in enumerate(self.category_ids, start=1)}
        self._of_image: dict[int, list[Entry]] = {image["id"]: [] for image in self.images}
        by_id = {image["id"]: image for image in self.images}
        for annotation in content["annotations"]:
            image = by_id.get(annotation["image_id"])
            if image is not None and not annotation.get("iscrowd", 0) and lies_within(annotation["bbox"], image):
                self._of_image[image["id"]].append(annotation)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image's file name."""
        return self.images[index]["file_name"]

    def image_id(self, index: int) -> int:
        """The image's id in the file."""
        return self.images[index]["id"]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images[index]["height"], self.images[index]["width"]

    def annotations(self, index: int) -> list[Entry]:
        """The annotations of the image's objects: without crowds, and without objects outside the image."""
        return self._of_image[self.image_id(index)]

    def read(self, index: int) -> Image.Image:
        """The image, RGB, upright; raises ImageError also where its size is not the one that is stated."""
        image = self._read(self.images[index])
        if image.size[::-1] != self.size(index):
            height, width = self.size(index)
            raise ImageError(self.name(index), f"it {_size_problem(image.size, (width, height))}")
        return image

    def objects(self, index: int) -> Objects:
        """The image's objects as training targets, without crowds; boxes end at the edge of the image."""
        height, width = self.size(index)
        found = self.annotations(index)
        boxes = torch.tensor([annotation["bbox"] for annotation in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([self._labels[annotation["category_id"]] for annotation in found], dtype=torch.int64)
        drawn = (annotation_mask(annotation, height, width) for annotation in found)
        masks = BitMasks.pack(drawn, len(found), height, width)
        return Objects(clip_boxes_to_image(boxes, (height, width)), labels, masks, ~masks.is_empty())

    def files(self) -> set[str]:
        """The paths of the image files; empty for images that are not read from files."""
        if not isinstance(self._read, FolderReader):
            return set()
        paths = (self._read.paths.path(image["file_name"]) for image in self.images)
        return {path for path in paths if path is not None}

    def file_size(self, index: int) -> int | None:
        """Bytes of the image's file; None where the file is missing, or the image has no file of its own."""
        path = self._read.paths.path(self.name(index)) if isinstance(self._read, FolderReader) else None
        return None if path is None else size_on_disk(path)

    def subset(self, indices: Sequence[int]) -> "CocoImages":
        """Some of the images, in this order."""
        positions = {image["id"]: number for number, image in enumerate(self.content["images"])}
        return CocoImages(self.content, self._read, [positions[self.image_id(index)] for index in indices])

    def limited(self, limit: int | None) -> "CocoImages":
        """At most so many images, evenly spread."""
        if limit is None or limit >= len(self):
            return self
        return self.subset(evenly_spread(range(len(self)), limit))

    def with_objects(self) -> "CocoImages":
        """Only the images with an object."""
        return self.subset([index for index in range(len(self)) if self.annotations(index)])


def lies_within(box: Sequence[float], image: Entry) -> bool:
    """Whether a part of a box (left, top, width, height) lies within its image."""
    left, top, width, height = box
    return left + width > 0 and left < image["width"] and top + height > 0 and top < image["height"]


class FolderReader:
    """Reads the images of a folder in the orientation that their annotations are of.

    Sizes tell it for an image that its EXIF orientation turns by a quarter, unless it is square. Others are turned as
    the EXIF orientation says, or stay as stored if the annotations of a sample of the images are of stored sizes.

    Args:
        folder: of the images.
        entries: of all images, which decide together what an unclear path means.
    """

    def __init__(self, folder: str | os.PathLike[str], entries: Sequence[Entry]) -> None:
        self.paths = resolve_paths(folder, [entry["file_name"] for entry in entries])
        turned = [fits for entry in evenly_spread(entries, _SAMPLE) if (fits := self._fits(entry)) is not None]
        self._stored = turned.count("stored")
        self._upright = turned.count("upright") >= self._stored

    def __call__(self, entry: Entry) -> Image.Image:
        """The image, RGB; raises ImageError."""
        path = self._path(entry)
        return open_image(path, upright=(self._fits(entry) or self._usual) == "upright")

    @property
    def _usual(self) -> str:
        return "upright" if self._upright else "stored"

    def notes(self) -> list[str]:
        """What was repaired, a sentence each."""
        notes = [note] if (note := self.paths.note()) else []
        if self._stored:
            notes.append(
                "images with an EXIF orientation are not rotated where their annotations are of the stored size"
            )
        return notes

    def check_sizes(self, entries: Sequence[Entry]) -> None:
        """Refuse annotations whose sizes fit none of a sample of the images.

        Raises:
            UserError: naming the first image; none if no image can be read, which its reading tells.
        """
        first = ""
        for entry in evenly_spread(entries, _SAMPLE):
            try:
                header = read_header(self._path(entry))
            except ImageError:
                continue
            stored, stated = (header.width, header.height), (entry["width"], entry["height"])
            if stated in (stored, header.upright_size):
                return
            first = first or f"{printable(entry['file_name'])} {_size_problem(stored, stated)}"
        if first:
            raise UserError(f"no image has the size that its annotations state: {first}")

    def _path(self, entry: Entry) -> str:
        name = entry["file_name"]
        path = self.paths.path(name)
        if path is None:
            raise ImageError(name, self.paths.missing.get(name, MISSING))
        return path

    def _fits(self, entry: Entry) -> str | None:
        """Whether the stated size is that of the image "upright" or "stored"; None for either, or neither."""
        try:
            header = read_header(self._path(entry))
        except ImageError:
            return None
        width, height = header.width, header.height
        if header.orientation < 5 or width == height:  # the sizes are the same: nothing, a half turn or a reflection
            return None
        stated = entry["width"], entry["height"]
        return {(height, width): "upright", (width, height): "stored"}.get(stated)


def _size_problem(found: tuple[int, int], stated: tuple[int, int]) -> str:
    """How the size (width, height) of an image differs from the stated one."""
    swapped = ", as if an EXIF orientation had been lost" if found == stated[::-1] else ""
    return f"has {found[0]} x {found[1]} pixels, its annotations are of {stated[0]} x {stated[1]}{swapped}"


_LISTED_ISSUES = 3


@dataclass(frozen=True)
class CocoSplit:
    """The images of one part of a data set, and what was repaired or skipped in its annotations.

    Attributes:
        images: the images without the issues, with and without objects.
        issues: what was repaired or skipped.
        place: the annotation file, or what the images were generated from.
        notes: what else the user should know, a sentence each.
        image_ids: integer ids of images by the ids in the file; None where these are integers.
        category_ids: integer ids of categories likewise.
    """

    images: CocoImages
    issues: tuple[Issue, ...]
    place: str
    notes: tuple[str, ...] = ()
    image_ids: Ids | None = None
    category_ids: Ids | None = None

    def issue_report(self) -> str | None:
        """Sentence with the kinds and counts of issues, or None if there are none."""
        if not self.issues:
            return None
        first = "; ".join(str(issue) for issue in self.issues[:_LISTED_ISSUES])
        place = printable(self.place)
        count = f"{len(self.issues):,} issue{'' if len(self.issues) == 1 else 's'}"
        return f"{count} in {place}: {summary(self.issues)}; such as {first}; gcnet check-data {place} lists them"

    def mask_counts(self) -> tuple[int, int]:
        """The number of objects that have a mask, and of all objects; crowds do not count."""
        objects = [one for index in range(len(self.images)) for one in self.images.annotations(index)]
        return sum(bool(one.get("segmentation")) for one in objects), len(objects)

    def reports(self) -> list[str]:
        """The issues and the notes, a sentence each."""
        report = self.issue_report()
        return [*([report] if report else []), *self.notes]

    def contents(self) -> Iterator[tuple[str, str]]:
        """Name and content of the annotation file and of every image: a digest of the one, the bytes of the other."""
        if not self.images.files():  # generated
            return
        with open(self.place, "rb") as file:
            yield "annotations", hashlib.file_digest(file, "sha256").hexdigest()
        for index in range(len(self.images)):
            yield self.images.name(index), str(self.images.file_size(index))

    def subset(self, indices: Sequence[int], *notes: str) -> "CocoSplit":
        """Some of the images, in this order, with further notes."""
        return replace(self, images=self.images.subset(indices), notes=(*self.notes, *notes))

    def limited(self, limit: int | None) -> "CocoSplit":
        """At most so many images, evenly spread."""
        return replace(self, images=self.images.limited(limit))
