"""Reading of COCO files: with issues repaired or skipped, or unchanged as by pycocotools."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gcnet.data.coco.annotated_images import FolderReader
from gcnet.data.coco.annotations import AnnotationEntries
from gcnet.data.coco.box_formats import BoxFormat
from gcnet.data.coco.categories_and_images import MOST_PIXELS, CategoryEntries, ImageEntries, image_name
from gcnet.data.coco.geometry import check_segmentation
from gcnet.data.coco.issues import Issue
from gcnet.data.coco.paths import AMBIGUOUS, MISSING, OUTSIDE, resolve_paths
from gcnet.data.coco.values import Entry, Ids, short_repr
from gcnet.data.decode import ImageError, check_text, read_header
from gcnet.data.images.remote_reader import RemoteReader
from gcnet.errors import UserError, nearest_path, printable
from gcnet.remote_files import is_remote
from gcnet.text_files import describe_json_error

PARTS = ("images", "annotations", "categories")
_FILE_KINDS = {
    OUTSIDE: "path outside the image folder",
    MISSING: "missing image file",
    AMBIGUOUS: "missing image file",
}


@dataclass(frozen=True)
class Inspection:
    """Issues of a COCO file, and its content without them.

    Attributes:
        issues: Repaired or skipped entries: categories, images, annotations, in the order of the file.
        notes: Unusual entries that are kept.
        clean: The content without issues.
        dropped: Number of annotations skipped with their image or category.
        box_format: Format of the boxes in the file; `clean` has COCO's format if the format is certain.
        image_ids: Integer image ids by the ids of the file.
        category_ids: Integer category ids by the ids of the file.
    """

    issues: tuple[Issue, ...]
    notes: tuple[Issue, ...]
    clean: dict[str, Any]
    dropped: int
    box_format: BoxFormat
    image_ids: Ids
    category_ids: Ids


def read_annotations(path: str | Path, place: str | None = None) -> dict[str, Any]:
    """Return the content of a COCO file.

    Args:
        path: The file.
        place: Name of the file for messages, such as its URL (default: the path).

    Raises:
        UserError: The file is missing, is not JSON, or lacks a list of images, annotations or categories.
    """
    place = place or str(path)
    return parse_annotations(read_coco_text(path, "annotation", place), place)


def parse_annotations(text: str, place: str) -> dict[str, Any]:
    """Return the content of a COCO file.

    Args:
        text: Text of the file.
        place: Name of the file for messages.

    Raises:
        UserError: The text is not JSON, or lacks a list of images, annotations or categories.
    """
    content = _parsed(text, place)
    for part in PARTS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            content_found = _found(content, part)
            raise UserError(
                f'{place} is not in COCO\'s format: expected a list "{part}" at its top level, found {content_found}'
            )
    return content


def _found(content: Any, part: str) -> str:
    """Describe what a file has instead of a list."""
    if isinstance(content, dict) and part in content:
        return f'"{part}": {content[part]!r:.40}'
    if not isinstance(content, dict):
        return "a list" if isinstance(content, list) else f"{content!r:.40}"
    return printable(", ".join(list(content)[:6])) or "an empty object"


def read_coco_json(path: str | Path, what: str, place: str | None = None) -> Any:
    """Return the content of a JSON file.

    Args:
        path: Path of the file.
        what: Kind of the file for messages, such as "annotation".
        place: Name of the file for messages (default: the path).

    Raises:
        UserError: The file is missing, cannot be read, or is not JSON.
    """
    place = place or str(path)
    return _parsed(read_coco_text(path, what, place), place)


def read_coco_text(path: str | Path, what: str, place: str) -> str:
    """Return the text of a JSON file.

    Args:
        path: Path of the file.
        what: Kind of the file for messages, such as "annotation".
        place: Name of the file for messages.

    Raises:
        UserError: The file is missing, cannot be read, or is not text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"no {what} file at {place}{nearest_path(path)}") from error
    except OSError as error:
        raise UserError(f"cannot read {place}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{place} {describe_json_error(error)}") from error
    check_text(place, text)
    return text


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} {describe_json_error(error)}") from error


def image_names(content: dict[str, Any]) -> list[str]:
    """Return the file names of the images in `content`, a COCO file."""
    return [name for image in content["images"] if (name := image_name(image)) is not None]


def inspect(
    content: dict[str, Any],
    folder: str | os.PathLike[str] | None = None,
    *,
    decodes: bool = True,
    find_folder: Callable[[], str | os.PathLike[str]] | None = None,
    workers: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> Inspection:
    """Check all categories, images and annotations.

    Args:
        content: Content of a COCO file; not modified.
        folder: Folder of the images; None checks the annotations only.
        decodes: Whether to decode all images; otherwise only the headers of images without a size are read.
        find_folder: Returns the folder of the images without a size, instead of `folder`.
        workers: Number of threads that decode images.
        progress: Called with the number of images checked since the last call.

    Returns:
        Issues and repaired content.
    """
    issues: list[Issue] = []
    categories = CategoryEntries(content["categories"], issues)
    if find_folder is None and folder is not None:
        find_folder = partial(Path, folder)
    images = ImageEntries(content["images"], issues, SizeReader(find_folder, image_names(content)))
    if folder is not None and decodes:
        _check_files(images, folder, workers, progress)
    annotations = AnnotationEntries(content["annotations"], images, categories, issues)
    clean = {
        **content,
        "images": list(images.by_id.values()),
        "annotations": annotations.kept,
        "categories": categories.kept,
    }
    return Inspection(
        issues=tuple(issue for issue in issues if issue.action != "noted"),
        notes=tuple(issue for issue in issues if issue.action == "noted"),
        clean=clean,
        dropped=annotations.dropped,
        box_format=annotations.box_format,
        image_ids=images.ids,
        category_ids=categories.ids,
    )


class SizeReader:
    """Reads the upright size of image files by their names in an annotation file.

    Args:
        find_folder: Returns the image folder, called when the first size is read; None reads nothing.
        names: All names in the annotation file.
    """

    def __init__(self, find_folder: Callable[[], str | os.PathLike[str]] | None, names: list[str]) -> None:
        self._find_folder, self._names = find_folder, names
        self._paths: Any = None

    def __call__(self, name: str) -> tuple[int, int] | None:
        """Return height and width in pixels, or None if the file cannot be read."""
        if self._find_folder is None:
            return None
        if self._paths is None:
            self._paths = resolve_paths(self._find_folder(), self._names)
        path = self._paths.path(name)
        if path is None:
            return None
        try:
            file = RemoteReader().read(path, path, self._paths.size(name)) if is_remote(path) else path
            width, height = read_header(file).upright_size
        except ImageError:
            return None
        return height, width


def _check_files(
    images: ImageEntries, folder: str | os.PathLike[str], workers: int, progress: Callable[[int], None]
) -> None:
    """Skip images whose file is missing, unreadable or of another size."""
    entries = list(images.by_id.values())
    reader = FolderReader(folder, entries)
    with ThreadPoolExecutor(workers) as pool:
        for image, issue in zip(entries, pool.map(lambda entry: _file_issue(entry, reader), entries), strict=True):
            progress(1)
            if issue is not None:
                images.drop(image, *issue)


def _file_issue(image: Entry, reader: FolderReader) -> tuple[str, str] | None:
    """Return kind and description of an issue of an image file, or None."""
    try:
        width, height = reader(image).size
    except ImageError as error:
        return _FILE_KINDS.get(
            error.reason, "unreadable image"
        ), f"file_name {image['file_name']!r:.80}: {error.reason}"
    if (width, height) != (image["width"], image["height"]):
        return "image size mismatch", (
            f"the file has {width} x {height} pixels, the annotations have {image['width']} x {image['height']}"
        )
    return None


# Issues of a segmentation that pycocotools draws all the same.
_DRAWN = ("mask without pixels", "odd number of polygon coordinates", "RLE numbers not integers")
_HUGE = 1e300


def load_unrepaired(content: Mapping[str, Any], place: str) -> tuple[dict[str, Any], Ids, Ids]:
    """Load a COCO file without repairs, as pycocotools does.

    The last of several images or categories with the same id counts, and annotations of unknown ones are ignored.
    Boxes, masks, areas and crowds are not modified.

    Args:
        content: Content of a COCO file.
        place: Name of the file, for messages.

    Returns:
        The content, and integer ids of images and categories by the ids of the file.

    Raises:
        UserError: pycocotools could not evaluate the file.
    """
    images, image_ids = _by_id(content["images"], "image", place)
    categories, category_ids = _by_id(content["categories"], "category", place)
    for identity, image in images.items():
        if not isinstance(image.get("file_name"), str):  # pycocotools does not look at it
            image["file_name"] = image_name(image) or str(identity)
        for side in ("height", "width"):
            if type(image.get(side)) is not int or image[side] < 1:
                raise _refusal(place, f"image {identity} has {side} {short_repr(image.get(side))}")
        if image["height"] * image["width"] >= MOST_PIXELS:
            raise _refusal(place, f"image {identity} has {image['width']:,} x {image['height']:,} pixels")
    for identity, category in categories.items():
        category["name"] = str(category.get("name", identity)).encode("utf-8", "backslashreplace").decode()
    annotations = []
    for number, entry in enumerate(content["annotations"], start=1):
        if not isinstance(entry, dict):
            raise _refusal(place, f"annotation {number} of the list is {short_repr(entry)}")
        image = images.get(image_ids(entry.get("image_id")))
        category = categories.get(category_ids(entry.get("category_id")))
        if image is not None and category is not None:
            annotations.append(_annotation(entry, image, category, place))
    loaded = {"images": list(images.values()), "annotations": annotations, "categories": list(categories.values())}
    return {**content, **loaded}, image_ids, category_ids


def _by_id(entries: Sequence[Any], kind: str, place: str) -> tuple[dict[int, Entry], Ids]:
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or entry.get("id") is None:
            raise _refusal(place, f"{kind} {number} of the list has no id")
    ids = Ids(entry["id"] for entry in entries)
    entries_by_id: dict[int, Entry] = {}
    for entry in entries:
        identity = ids(entry["id"])
        if identity is None:
            raise _refusal(place, f"the id of a listed {kind} is {short_repr(entry['id'])}")
        entries_by_id[identity] = {**entry, "id": identity}
    return entries_by_id, ids


def _annotation(entry: Entry, image: Entry, category: Entry, place: str) -> Entry:
    name = f"annotation {short_repr(entry.get('id'))}"
    if type(entry.get("id")) is not int:
        raise _refusal(place, f"{name} has an id that is not an integer")
    for key in ("area", "iscrowd"):
        if not _is_number(entry.get(key)):
            raise _refusal(place, f"{name} has {key} {short_repr(entry.get(key))}")
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise _refusal(place, f"{name} has bbox {short_repr(box)}")
    loaded = {**entry, "image_id": image["id"], "category_id": category["id"], "iscrowd": int(bool(entry["iscrowd"]))}
    if not entry.get("segmentation"):
        return loaded

    def report(kind: str, details: str) -> None:
        if kind not in _DRAWN:
            raise _refusal(place, f"{name} has an invalid mask ({kind}: {details})")

    checked = check_segmentation(entry["segmentation"], image["height"], image["width"], report)
    return loaded if checked is None else {**loaded, "segmentation": checked.value}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _HUGE


def _refusal(place: str, found: str) -> UserError:
    return UserError(printable(f"{place} cannot be evaluated with `repair=False`: {found}"))
