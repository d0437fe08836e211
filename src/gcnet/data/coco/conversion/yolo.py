"""YOLO labels: a text file per image, boxes and polygons as fractions of width and height."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnet.data.coco.conversion.builder import (
    CocoBuilder,
    ConvertedData,
    LabelFormat,
    LabelIssue,
    image_issue,
    images_below,
    upright_size,
)
from gcnet.data.coco.paths import resolve_paths
from gcnet.data.decode import ImageError, has_image_suffix
from gcnet.data.splits import SPLIT_NAMES, split_in_name
from gcnet.errors import UserError, printable

_YAML_BYTES = 1_000_000
_CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")
_SAMPLE = 50  # text files beside images that are looked at for labels
_TOLERANCE = 0.01  # share of a side by which a coordinate may lie beyond the image, as in Ultralytics' check


@dataclass(frozen=True)
class _Layout:
    """Image folders or lists by split, class names (None if unknown), and whether labels have keypoints."""

    root: Path
    splits: Mapping[str, tuple[Path, ...]]
    classes: tuple[str, ...] | None
    has_keypoints: bool = False


def is_yolo(path: Path) -> bool:
    """Return whether `path` is a YOLO data.yaml, or a folder with one or with labels beside images."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml")
    if not path.is_dir():
        return False
    return _yaml_of(path) is not None or any(_label_folders(path)) or _has_labels_beside(path)


def convert_yolo(path: Path) -> ConvertedData:
    """Convert a YOLO data set for detection (class, center, size) or segmentation (class, polygon).

    Args:
        path: data.yaml, or a folder with one, with classes.txt, or with images and labels folders.

    Returns:
        The data set in COCO format.

    Raises:
        UserError: The files are not a YOLO data set.
    """
    file = path if path.is_file() else _yaml_of(path)
    problems: list[LabelIssue] = []
    layout = _from_yaml(file, problems) if file is not None else _from_folder(path)
    images_by_split = {split: list(_images(places, layout.root, problems)) for split, places in layout.splits.items()}
    if not any(images_by_split.values()):
        raise UserError(f"{printable(path)}: no images of a YOLO data set found in {printable(layout.root)}")
    files = {image: _label_file(image, layout.root) for images in images_by_split.values() for image in images}
    problems += _unused_labels(set(files.values()), layout.root)
    labels = {image: _lines(file) for image, file in files.items()}
    classes = layout.classes or _numbered(labels.values(), problems)
    builders = {split: CocoBuilder(layout.root, classes) for split in images_by_split}
    for split, images in images_by_split.items():
        for image in images:
            _convert(builders[split], image, labels[image], layout.has_keypoints, problems)
    return ConvertedData(
        layout.root, {split: builder.content() for split, builder in builders.items()}, tuple(problems)
    )


def _convert(
    builder: CocoBuilder, image: Path, lines: list[str] | None, has_keypoints: bool, problems: list[LabelIssue]
) -> None:
    """Add an image and its objects."""
    try:
        size = upright_size(image)
    except ImageError as error:
        problems.append(image_issue(error, builder.root))
        return
    builder.add_image(image, *size)
    name = os.path.relpath(image, builder.root)
    if lines is None:
        problems.append(LabelIssue("image without a label file, kept without objects", "no .txt file", file_name=name))
    for number, line in enumerate(lines or [], start=1):
        try:
            label, box, polygon = _parse(line, len(builder.classes), size, has_keypoints)
        except ValueError as error:
            kind = "invalid label, skipped"
            problems.append(LabelIssue(kind, f"line {number}: {error}: {line[:60]!r}", file_name=name))
        else:
            builder.add_object(label, box, polygon)


def _parse(
    line: str, classes: int, size: tuple[int, int], has_keypoints: bool
) -> tuple[int, list[float], list[float] | None]:
    """Return label, box and polygon in pixels of a line; raises ValueError with the reason."""
    try:
        values = [float(text) for text in line.split()]
    except ValueError:
        raise ValueError("not numbers") from None
    if not all(map(math.isfinite, values)):
        raise ValueError("not finite")
    label, shares = values[0], values[1:]
    if label != int(label) or not 0 <= label < classes:
        raise ValueError(f"class {label:g} of {classes} classes")
    if has_keypoints:
        shares = shares[:4]
    if len(shares) == 5:  # a prediction, with its confidence
        shares = shares[:4]
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        raise ValueError(f"{len(values)} values, expected 5 of a box or an odd number of a polygon")
    if min(shares) < -_TOLERANCE or max(shares) > 1 + _TOLERANCE:
        raise ValueError("not in shares of the image's sides, from 0 to 1")
    pixels = [min(max(share, 0.0), 1.0) * size[place % 2] for place, share in enumerate(shares)]
    if len(pixels) > 4:
        left, top, right, bottom = (f(pixels[axis::2]) for f in (min, max) for axis in (0, 1))
        return int(label), [left, top, right - left, bottom - top], pixels
    across, down, width, height = pixels
    left, top = max(across - width / 2, 0.0), max(down - height / 2, 0.0)
    right, bottom = min(across + width / 2, float(size[0])), min(down + height / 2, float(size[1]))
    if right <= left or bottom <= top:
        raise ValueError("a box without area")
    return int(label), [left, top, right - left, bottom - top], None


def _from_yaml(file: Path, problems: list[LabelIssue]) -> _Layout:
    content = _read_yaml(file)
    root = Path(os.path.realpath(file)).parent
    base = content.get("path")
    starts = [f"{base}/", ""] if isinstance(base, str) and base not in (".", "") else [""]
    splits: dict[str, tuple[Path, ...]] = {}
    for split in SPLIT_NAMES:
        entry = content.get(split) or content.get({"val": "valid"}.get(split, split))
        texts = entry if isinstance(entry, list) else [entry]
        named = [text for text in texts if isinstance(text, str)]
        places = {text: _place(root, [start + text for start in starts]) for text in named}
        lacking = [text for text, place in places.items() if place is None]
        if lacking and split == "train":
            raise UserError(f'{printable(root)} has no "{printable(lacking[0])}", which its data.yaml names')
        problems += [LabelIssue(f"missing images of {split}, skipped", f"no {text}") for text in lacking]
        if existing := tuple(place for place in places.values() if place is not None):
            splits[split] = existing
    if not splits:
        raise UserError(f"{printable(file)} is not a YOLO data set: expected the keys train, val and names")
    return _Layout(root, splits, _names(content, file), "kpt_shape" in content)


def _place(root: Path, texts: Sequence[str]) -> Path | None:
    """Return the folder or list named in a data.yaml, or None if it is missing."""
    paths = (resolve_paths(root, [text.rstrip("/\\")]).path(text.rstrip("/\\")) for text in texts)
    return next((Path(path) for path in paths if path is not None), None)


def _from_folder(folder: Path) -> _Layout:
    root = Path(os.path.realpath(folder))
    images = root / "images"
    places = [images] if images.is_dir() else []
    parts = [place for start in (*places, root) for place in sorted(start.iterdir()) if place.is_dir()]
    splits: dict[str, tuple[Path, ...]] = {}
    for place in parts:
        if split := split_in_name(place.name):
            splits.setdefault(split, (place,))
    file = _class_file(root) or _class_file(root / "labels")
    classes = None if file is None else tuple(line.strip() for line in _lines(file) or [])
    return _Layout(root, splits or {"": (images if places else root,)}, classes)


def _label_folders(folder: Path) -> Iterator[Path]:
    """Yield folders named labels that contain text files."""
    for place in (folder, *(subfolder for subfolder in sorted(folder.iterdir()) if subfolder.is_dir())):
        labels = place / "labels"
        if labels.is_dir() and any(labels.rglob("*.txt")):
            yield labels


def _has_labels_beside(folder: Path) -> bool:
    """Return whether a folder, or a subfolder, has labels beside images (Darknet), and classes.txt."""
    if _class_file(folder) is None:
        return False
    for place in (folder, *(subfolder for subfolder in sorted(folder.iterdir()) if subfolder.is_dir())):
        names = set(os.listdir(place))
        labels = {f"{os.path.splitext(name)[0]}.txt" for name in names if has_image_suffix(name)} & names
        if any(_is_label(place / name) for name in sorted(labels)[:_SAMPLE]):
            return True
    return False


def _yaml_of(folder: Path) -> Path | None:
    """Return the data.yaml of a folder, or the only YAML file that lists classes, such as coco8.yaml."""
    usual = [folder / name for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")]
    for file in usual:
        if file.is_file():
            return file
    others = [file for file in sorted(folder.glob("*.y*ml")) if file.is_file() and _names_classes(file)]
    return others[0] if len(others) == 1 else None


def _names_classes(file: Path) -> bool:
    if file.stat().st_size > _YAML_BYTES:
        return False
    text = file.read_bytes()
    return all(re.search(rb"(?m)^" + key + rb"\s*:", text) for key in (b"names", b"train"))


def _class_file(folder: Path) -> Path | None:
    return next((folder / name for name in _CLASS_FILES if (folder / name).is_file()), None)


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    if file.stat().st_size > _YAML_BYTES:
        raise UserError(f"{printable(file)} is larger than {_YAML_BYTES:,} bytes, too large for a data.yaml")
    try:
        content = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        reason = str(problem or error).splitlines()[0] + (f" in line {mark.line + 1}" if mark else "")
        raise UserError(f"{printable(file)} is not YAML: {printable(reason)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{printable(file)} is not a YOLO data set: expected the keys train, val and names")
    return content


def _names(content: Mapping[str, Any], file: Path) -> tuple[str, ...] | None:
    names = content.get("names")
    if isinstance(names, dict):
        names = {int(key) if isinstance(key, str) and key.isdecimal() else key: name for key, name in names.items()}
        if set(names) != set(range(len(names))):
            keys = ", ".join(str(key) for key in list(names)[:5])
            raise UserError(f"{printable(file)}: names must count from 0 without gaps, found {printable(keys)}")
        names = [names[index] for index in range(len(names))]
    if names is not None and not (isinstance(names, list) and names):
        raise UserError(f"{printable(file)}: names must list the classes, found {names!r:.60}")
    return None if names is None else tuple(map(str, names))


def _numbered(labels: Any, problems: list[LabelIssue]) -> tuple[str, ...]:
    """Return numbers as names of unnamed classes."""
    firsts = {line.split()[0] for lines in labels for line in lines or []}
    highest = max((int(first) for first in firsts if first.isascii() and first.isdigit() and len(first) < 5), default=0)
    problems.append(LabelIssue("no class names", f"the classes are called 0 to {highest}; classes.txt would name them"))
    return tuple(map(str, range(highest + 1)))


def _images(places: Sequence[Path], root: Path, problems: list[LabelIssue]) -> Iterator[Path]:
    """Yield the images of a split, from folders or text files that list them."""
    for place in places:
        if place.is_dir():
            yield from images_below(place)
            continue
        names = [line.strip() for line in _lines(place) or []]
        resolved = resolve_paths(root, names)
        for name in names:
            path = resolved.path(name)
            if path is not None:
                yield Path(path)
            else:
                problems.append(LabelIssue("missing image, skipped", resolved.missing[name], file_name=name))


def _label_file(image: Path, root: Path) -> Path:
    """Return the label file of an image: in labels instead of images, or beside it."""
    parts = list(image.relative_to(root).parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place].lower() == "images":
            other = root.joinpath(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
            return other if other.is_file() else image.with_suffix(".txt")
    beside = image.with_suffix(".txt")
    inner = image.parent / "labels" / beside.name
    return beside if beside.is_file() or not inner.is_file() else inner


def _unused_labels(used: set[Path], root: Path) -> list[LabelIssue]:
    """Return issues of label files without an image."""
    folders = sorted({file.parent for file in used})
    others = [file for folder in folders for file in sorted(folder.glob("*.txt")) if file not in used]
    return [
        LabelIssue(
            "label file without an image, skipped", "no image with this name", file_name=os.path.relpath(file, root)
        )
        for file in others
        if file.name not in _CLASS_FILES and _is_label(file)
    ]


def _is_label(file: Path) -> bool:
    """Return whether the first line of a text file has numbers, as labels have and lists of images have not."""
    first = (_lines(file) or [""])[0].split()
    return len(first) >= 5 and first[0].isdecimal()


def _lines(file: Path) -> list[str] | None:
    """Return the lines of a text file that are not blank, or None if there is no such file."""
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {printable(file)}: {error.strerror}") from error
    return [line for line in text.splitlines() if line.strip()]


YOLO = LabelFormat(
    "YOLO labels",
    "a YOLO data.yaml, a folder of YOLO labels (labels/*.txt beside images/, or classes.txt)",
    is_yolo,
    convert_yolo,
)
"""YOLO labels."""
