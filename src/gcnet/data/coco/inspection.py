"""Inspects a COCO file: all issues, and a copy without them."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnet.data.coco.annotations import Annotations
from gcnet.data.coco.entries import Categories, Entry, Images
from gcnet.data.coco.formats import BoxFormat
from gcnet.data.coco.ids import Ids
from gcnet.data.coco.images import FolderReader
from gcnet.data.coco.issues import Issue
from gcnet.data.coco.paths import AMBIGUOUS, MISSING, OUTSIDE, resolve_paths
from gcnet.data.decode import ImageError, check_text, read_header
from gcnet.errors import UserError, nearest_path, printable
from gcnet.text_files import describe_json_error

PARTS = ("images", "annotations", "categories")
_FILE_KINDS = {
    OUTSIDE: "path outside the image folder",
    MISSING: "missing image file",
    AMBIGUOUS: "missing image file",
}


@dataclass(frozen=True)
class Inspection:
    """The issues of a COCO file, and its content without them.

    Attributes:
        issues: what was repaired or skipped, in the order of the file: categories, images, annotations.
        notes: what is unusual and was kept.
        clean: the content without the issues; an inspection of it finds none.
        dropped: annotations that went with their image or category, without an issue of their own.
        box_format: how the boxes of the file are written; `clean` has them in COCO's format if that is certain.
        image_ids: integer ids of images by the ids in the file.
        category_ids: integer ids of categories by the ids in the file.
    """

    issues: tuple[Issue, ...]
    notes: tuple[Issue, ...]
    clean: dict[str, Any]
    dropped: int
    box_format: BoxFormat
    image_ids: Ids
    category_ids: Ids


def read_annotations(path: str | Path) -> dict[str, Any]:
    """The content of a COCO file.

    Raises:
        UserError: the file is missing, is no JSON, or lacks one of the lists images, annotations and categories.
    """
    content = read_json(path, "annotation")
    for part in PARTS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            found = _found(content, part)
            raise UserError(
                f'{path} is not in COCO\'s format: expected a list "{part}" at its top level, found {found}'
            )
    return content


def _found(content: Any, part: str) -> str:
    """What a file holds instead of a list, for messages."""
    if isinstance(content, dict) and part in content:
        return f'"{part}": {content[part]!r:.40}'
    if not isinstance(content, dict):
        return "a list" if isinstance(content, list) else f"{content!r:.40}"
    return printable(", ".join(list(content)[:6])) or "an empty object"


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file, of which `what` says what is in it.

    Raises:
        UserError: the file is missing, cannot be read, or is no JSON.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        check_text(path, text)
        return json.loads(text)
    except FileNotFoundError as error:
        raise UserError(f"no {what} file at {path}{nearest_path(path)}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} {describe_json_error(error)}") from error


def image_names(content: dict[str, Any]) -> list[str]:
    """The `file_name` of each image of a COCO file, of those that have one."""
    names = (entry.get("file_name") for entry in content["images"] if isinstance(entry, dict))
    return [name for name in names if isinstance(name, str)]


def inspect(
    content: dict[str, Any],
    folder: str | os.PathLike[str] | None = None,
    *,
    decodes: bool = True,
    workers: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> Inspection:
    """Check every category, image and annotation.

    Args:
        content: of a COCO file, as `read_annotations` gives it; it is not changed.
        folder: of the images; None checks the annotations alone.
        decodes: whether the images of the folder are decoded; else only those without a size are opened.
        workers: images decoded at a time.
        progress: called with the number of images checked since the last call.
    """
    issues: list[Issue] = []
    categories = Categories(content["categories"], issues)
    images = Images(content["images"], issues, _SizeReader(folder, image_names(content)))
    if folder is not None and decodes:
        _check_files(images, Path(folder), workers, progress)
    annotations = Annotations(content["annotations"], images, categories, issues)
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


class _SizeReader:
    """Reads the sizes of image files, upright, by their names in an annotation file."""

    def __init__(self, folder: str | os.PathLike[str] | None, names: list[str]) -> None:
        self._folder, self._names = folder, names
        self._paths: Any = None

    def __call__(self, name: str) -> tuple[int, int] | None:
        """Height and width in pixels; None where they cannot be read."""
        if self._folder is None:
            return None
        if self._paths is None:
            self._paths = resolve_paths(self._folder, self._names)
        path = self._paths.path(name)
        if path is None:
            return None
        try:
            width, height = read_header(path).upright_size
        except ImageError:
            return None
        return height, width


def _check_files(images: Images, folder: Path, workers: int, progress: Callable[[int], None]) -> None:
    """Drop the images whose file is missing, cannot be read, or has another size than is stated."""
    entries = list(images.by_id.values())
    reader = FolderReader(folder, entries)
    with ThreadPoolExecutor(workers) as pool:
        for image, issue in zip(entries, pool.map(lambda entry: _file_issue(entry, reader), entries), strict=True):
            progress(1)
            if issue is not None:
                images.drop(image, *issue)


def _file_issue(image: Entry, reader: FolderReader) -> tuple[str, str] | None:
    """Kind and finding of what is wrong with an image's file, or None."""
    try:
        width, height = reader(image).size
    except ImageError as error:
        return _FILE_KINDS.get(
            error.reason, "unreadable image"
        ), f"file_name {image['file_name']!r:.80}: {error.reason}"
    if (width, height) != (image["width"], image["height"]):
        return "image size mismatch", (
            f"the file has {width} x {height} pixels, the annotations say {image['width']} x {image['height']}"
        )
    return None
