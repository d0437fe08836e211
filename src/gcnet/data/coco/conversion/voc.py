"""Pascal VOC annotations: an XML file per image, boxes in pixels, masks in SegmentationObject."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from jaxtyping import UInt8

from gcnet.data.coco.conversion.builder import (
    CocoBuilder,
    ConvertedData,
    LabelFormat,
    LabelIssue,
    image_issue,
    images_below,
)
from gcnet.data.coco.masks import compressed_runs
from gcnet.data.decode import ImageError, read_header, read_values
from gcnet.data.splits import split_in_name
from gcnet.errors import UserError, printable

_XML_BYTES = 10_000_000
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FIRST_PIXEL = 1  # VOC counts pixels from 1, and boxes include their last pixel (VOC2012 development kit, 3.3)


@dataclass(frozen=True)
class _Object:
    number: int
    name: str
    corners: tuple[float, float, float, float]
    is_difficult: bool


@dataclass
class _Image:
    """Content of an XML file."""

    file: Path
    file_name: str = ""
    size: tuple[int, int] | None = None
    objects: list[_Object] = field(default_factory=list)


def is_voc(path: Path) -> bool:
    """Return whether the folder `path`, its Annotations folder or its splits have XML files."""
    return path.is_dir() and bool(_xml_files(path))


def convert_voc(path: Path) -> ConvertedData:
    """Convert a Pascal VOC data set.

    Boxes count pixels from 1 and include the last pixel, as in VOC; from 0 if any coordinate of the data set is 0 or
    fractional. Splits are those of ImageSets/Main or folders named train, valid and so on. Masks are read from
    SegmentationObject.

    Args:
        path: Folder of the data set.

    Returns:
        The data set in COCO format.

    Raises:
        UserError: No file is a VOC annotation.
    """
    root = Path(os.path.realpath(path))
    problems: list[LabelIssue] = []
    files = _xml_files(root)
    read = [item for file in files if (item := _read(file, root, problems)) is not None]
    if not read:
        reason = f"; {problems[0]}" if problems else ""
        raise UserError(f"{printable(path)}: none of {len(files)} XML files is a Pascal VOC annotation{reason}")
    corners = [value for image in read for item in image.objects for value in item.corners]
    first = 0 if any(value < 1 or value != int(value) for value in corners) else _FIRST_PIXEL
    classes = sorted({item.name for image in read for item in image.objects})
    pictures = _pictures(root)
    builders: dict[str, CocoBuilder] = {}
    for split, images in _splits(root, read, problems).items():
        builder = builders[split] = CocoBuilder(root, classes)
        for image in images:
            _convert(builder, image, first, pictures, problems)
    return ConvertedData(root, {split: item.content() for split, item in builders.items()}, tuple(problems))


def _convert(
    builder: CocoBuilder, image: _Image, first: int, pictures: Mapping[str, list[Path]], problems: list[LabelIssue]
) -> None:
    """Add an image and its objects."""
    name = os.path.relpath(image.file, builder.root)
    path = _picture(image, pictures)
    if path is None:
        problems.append(LabelIssue("annotation without an image, skipped", f"no {image.file_name}", file_name=name))
        return
    try:
        header = read_header(path)
    except ImageError as error:
        problems.append(image_issue(error, builder.root))
        return
    stored = header.width, header.height
    upright = header.upright_size
    if image.size is not None and image.size not in (upright, stored):
        sizes = f"{image.size[0]} x {image.size[1]} in the annotation, {stored[0]} x {stored[1]} in the file"
        problems.append(LabelIssue("image of another size, skipped", sizes, file_name=name))
        return
    size = image.size or upright
    builder.add_image(path, *size)
    masks = ObjectMasks(image.file, size, builder.root, problems)
    for item in image.objects:
        left, top, right, bottom = item.corners
        box = [left - first, top - first, right - left + first, bottom - top + first]
        if box[2] <= 0 or box[3] <= 0:
            problems.append(LabelIssue("invalid box, skipped", f"{item.name} at {list(item.corners)}", file_name=name))
            continue
        runs = masks.of(item.number, box)
        builder.add_object(builder.classes.index(item.name), box, runs=runs, is_difficult=item.is_difficult)


def _pictures(root: Path) -> dict[str, list[Path]]:
    """Return the images of a data set by name without suffix; masks are excluded."""
    images_by_stem: dict[str, list[Path]] = {}
    for image in images_below(root):
        if not any(part.lower().startswith("segmentation") for part in image.relative_to(root).parts[:-1]):
            images_by_stem.setdefault(image.stem, []).append(image)
    return images_by_stem


def _picture(image: _Image, pictures: Mapping[str, list[Path]]) -> Path | None:
    """Return the image file: beside its annotation, or of the same name in the nearest folder."""
    named = image.file.with_name(os.path.basename(image.file_name.replace("\\", "/")))
    if named.is_file():
        return named

    def nearness(path: Path) -> tuple[int, bool]:
        return len(Path(os.path.commonpath([path, image.file])).parts), path.name == named.name

    return max(pictures.get(image.file.stem) or pictures.get(named.stem, []), key=nearness, default=None)


def _read(file: Path, root: Path, problems: list[LabelIssue]) -> _Image | None:
    """Return the content of an XML file, or None with an issue if it is not an annotation."""
    name = os.path.relpath(file, root)
    try:
        tree = read_xml(file)
    except UserError as error:
        problems.append(LabelIssue("unreadable annotation, skipped", str(error), file_name=name))
        return None
    if tree.tag != "annotation":
        reason = f"its root is <{tree.tag}>, expected <annotation>"
        problems.append(LabelIssue("unreadable annotation, skipped", reason, file_name=name))
        return None
    image = _Image(file, _text(tree, "filename") or f"{file.stem}.jpg", _size(tree.find("size")))
    for number, item in enumerate(tree.findall("object"), start=1):
        box = item.find("bndbox")
        corners = [] if box is None else [_number(_text(box, corner)) for corner in _CORNERS]
        label = _text(item, "name")
        if not label or len(corners) != 4 or not all(map(math.isfinite, corners)):
            problems.append(LabelIssue("object without name or box, skipped", f"name {label!r}", file_name=name))
            continue
        left, top, right, bottom = corners
        difficult = _text(item, "difficult") == "1"
        image.objects.append(_Object(number, label, (left, top, right, bottom), difficult))
    return image


def read_xml(file: Path) -> Element:
    """Return the root of the XML in `file`; document types are refused, since entities can grow without bounds.

    Raises:
        UserError: The file is too large, has a document type, or is not XML.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _refuse
    try:
        if file.stat().st_size > _XML_BYTES:
            raise UserError(f"larger than {_XML_BYTES:,} bytes")
        parser.Parse(file.read_bytes(), True)
        return builder.close()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}") from error
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"not XML: {error}") from error


def _refuse(*_: object) -> None:
    raise UserError("it has a document type (<!DOCTYPE>), which VOC annotations must not have")


def _xml_files(folder: Path) -> list[Path]:
    """Return the XML files of a data set: in Annotations, or in the folder and its splits."""
    places = _annotation_folders(folder)
    if not places:
        splits = [path for path in sorted(folder.iterdir()) if path.is_dir() and split_in_name(path.name)]
        places = [folder, *(place for split in splits for place in (_annotation_folders(split) or [split]))]
    return [file for place in places for file in _listed(place)]


def _annotation_folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() in ("annotations", "xml")]


def _listed(place: Path) -> list[Path]:
    pattern = "*.xml"
    files = place.rglob(pattern) if place.name.lower() in ("annotations", "xml") else place.glob(pattern)
    return sorted(file for file in files if not file.name.startswith("."))


def _splits(root: Path, images: Sequence[_Image], problems: list[LabelIssue]) -> dict[str, list[_Image]]:
    """Return the images of each split."""
    by_stem = {image.file.stem: image for image in images}
    lists = root / "ImageSets" / "Main"
    splits: dict[str, list[_Image]] = {}
    for split, names in (("train", ("train", "trainval")), ("val", ("val",)), ("test", ("test",))):
        file = next((lists / f"{name}.txt" for name in names if (lists / f"{name}.txt").is_file()), None)
        if file is None:
            continue
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        stems = [_listed_stem(line.strip(), by_stem) for line in lines if line.strip()]
        splits[split] = [by_stem[stem] for stem in stems if stem in by_stem]
        if missing := [stem for stem in stems if stem not in by_stem]:
            problems.append(
                LabelIssue(
                    "listed without an annotation",
                    f"{len(missing):,} names, such as {missing[0]}",
                    file_name=os.path.relpath(file, root),
                )
            )
    if splits:
        return splits
    for image in images:
        folders = image.file.relative_to(root).parts[:-1]
        split = next((split for name in reversed(folders) if (split := split_in_name(name))), "")
        splits.setdefault(split, []).append(image)
    return splits


def _listed_stem(line: str, known: Mapping[str, _Image]) -> str:
    """Return the name in a line of a list: NAME, NAME 1, NAME -1, or the path of an image."""
    names = (line, line.rsplit(maxsplit=1)[0])
    stems = [*names, *(PurePosixPath(name.replace("\\", "/")).stem for name in names)]
    return next((stem for stem in stems if stem in known), stems[-1])


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _size(element: Element | None) -> tuple[int, int] | None:
    """Return width and height, or None if they are missing or 0."""
    if element is None:
        return None
    width, height = (_number(_text(element, side)) for side in ("width", "height"))
    return (int(width), int(height)) if width >= 1 and height >= 1 and math.isfinite(width * height) else None


_FOLDER = "SegmentationObject"
_ALIKE = 0.5  # minimum IoU of a box and the box of its mask to match


class ObjectMasks:
    """Masks of the objects of an image.

    Args:
        annotation: XML file of the image; the masks are in a folder beside that of the XML files.
        size: Width and height of the image in pixels.
        root: Folder that file names are relative to.
        problems: Receives the issues.
    """

    def __init__(self, annotation: Path, size: tuple[int, int], root: Path, problems: list[LabelIssue]) -> None:
        self._file = annotation.parent.parent / _FOLDER / f"{annotation.stem}.png"
        self._root, self._problems = root, problems
        self._numbers = self._read(size) if self._file.is_file() else None

    def of(self, number: int, box: Sequence[float]) -> dict[str, Any] | None:
        """Return the run lengths of the mask of an object, or None without a mask.

        Args:
            number: Number of the object in the XML file, from 1.
            box: Left, top, width and height in pixels, which the mask has to match.
        """
        if self._numbers is None or not (mask := self._numbers == number).any():
            return None
        rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
        around = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        if _overlap(box, around) < _ALIKE:
            self._report("mask unlike the box, skipped", f"object {number}")
            return None
        return compressed_runs(mask)

    def _read(self, size: tuple[int, int]) -> UInt8[np.ndarray, "height width"] | None:
        try:
            numbers = read_values(self._file)
        except ImageError as error:
            return self._report("unreadable masks, skipped", error.reason)
        if numbers.shape != size[::-1] or numbers.dtype != np.uint8:
            reason = (
                f"values of shape {numbers.shape}, expected a palette or gray image of {size[0]} x {size[1]} pixels"
            )
            return self._report("unreadable masks, skipped", reason)
        return numbers

    def _report(self, kind: str, found: str) -> None:
        self._problems.append(LabelIssue(kind, found, file_name=os.path.relpath(self._file, self._root)))


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the IoU of two boxes with areas above 0."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(across, 0) * max(down, 0)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


VOC = LabelFormat(
    "Pascal VOC annotations",
    "a folder of Pascal VOC annotations (Annotations/*.xml)",
    is_voc,
    convert_voc,
)
"""Pascal VOC annotations."""
