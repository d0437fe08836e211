"""Construction of COCO annotations by converters, and the interface of a label format."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnet.data.coco.masks import extent
from gcnet.data.decode import ImageError, has_image_suffix, read_header
from gcnet.errors import printable


@dataclass(frozen=True)
class LabelIssue:
    """An issue of a label or image file.

    Attributes:
        kind: Kind of the issue.
        details: Description.
        file_name: File, relative to the data set.
    """

    kind: str
    details: str
    file_name: str = ""

    def __str__(self) -> str:
        return printable(f"{self.file_name}: {self.details}" if self.file_name else self.details)


@dataclass(frozen=True)
class ConvertedData:
    """A converted data set.

    Attributes:
        root: Folder that file names are relative to.
        splits: COCO content by split: "train", "val", "test", or "" without splits.
        problems: Skipped and unusual files and labels, in the order of the files.
    """

    root: Path
    splits: Mapping[str, dict[str, Any]]
    problems: tuple[LabelIssue, ...]


@dataclass(frozen=True)
class LabelFormat:
    """A label format that can be converted to COCO annotations.

    Attributes:
        name: Name for messages, such as "YOLO labels".
        expected: Files of the format for messages, such as "a folder of Pascal VOC annotations (Annotations/*.xml)".
        matches: Returns whether a path holds labels in this format.
        convert: Converts the data set at a path; raises UserError if it cannot be read.
    """

    name: str
    expected: str
    matches: Callable[[Path], bool]
    convert: Callable[[Path], ConvertedData]


class CocoBuilder:
    """Collects images and objects of a split.

    Args:
        root: Folder that file names are relative to.
        classes: Class names; category ids count from 1.
    """

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        self.root, self.classes = root, tuple(classes)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_image(self, path: Path, width: int, height: int) -> None:
        """Add an image; the following objects are in it.

        Args:
            path: Image file.
            width: Width in pixels.
            height: Height in pixels.
        """
        name = os.path.relpath(path, self.root)
        self.images.append({"id": len(self.images) + 1, "file_name": name, "width": width, "height": height})

    def add_object(
        self,
        label: int,
        box: Sequence[float],
        polygon: Sequence[float] | None = None,
        *,
        runs: Mapping[str, Any] | None = None,
        is_difficult: bool = False,
    ) -> None:
        """Add an object to the last image.

        Args:
            label: Index of the class, from 0.
            box: Left, top, width and height in pixels.
            polygon: x0, y0, x1, y1, ... in pixels.
            runs: Run lengths of the mask, for an object without a polygon.
            is_difficult: Whether VOC marks the object as difficult, which is kept as an additional key.
        """
        annotation: dict[str, Any] = {
            "id": len(self.annotations) + 1,
            "image_id": len(self.images),
            "category_id": label + 1,
            "bbox": [round(value, 3) for value in box],
            "area": round(_area(polygon) if polygon else box[2] * box[3], 3),
            "iscrowd": 0,
        }
        if polygon:
            annotation["segmentation"] = [[round(value, 3) for value in polygon]]
        elif runs:
            annotation["segmentation"] = dict(runs)
            annotation["area"] = extent(runs, *runs["size"])[0]
        if is_difficult:
            annotation["difficult"] = 1
        self.annotations.append(annotation)

    def content(self) -> dict[str, Any]:
        """Return the content of the COCO file."""
        categories = [{"id": number, "name": name} for number, name in enumerate(self.classes, start=1)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def upright_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels of the image at `path`, with its EXIF orientation applied.

    Raises:
        ImageError: The file is not an image.
    """
    return read_header(path).upright_size


def image_issue(error: ImageError, root: Path) -> LabelIssue:
    """Return the issue of an unreadable image.

    Args:
        error: Error of reading the image.
        root: Folder that file names are relative to.
    """
    return LabelIssue("unreadable image, skipped", error.reason, file_name=os.path.relpath(error.path, root))


def images_below(folder: Path) -> list[Path]:
    """Return the sorted image files in `folder` and its subfolders, without hidden ones."""
    images: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images += [Path(place, name) for name in sorted(names) if has_image_suffix(name)]
    return images


def _area(polygon: Sequence[float]) -> float:
    """Return the area of a polygon by the shoelace formula."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    turned = [*points[1:], points[0]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, turned, strict=True))) / 2
