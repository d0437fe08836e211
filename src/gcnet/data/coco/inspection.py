"""Every fault of a COCO file, found before training, and a copy without them."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnet.data.coco.faults import Fault
from gcnet.data.coco.geometry import check_box, check_segmentation, is_apart
from gcnet.data.decode import ImageError, open_image
from gcnet.errors import UserError, nearest_path

PARTS = ("images", "annotations", "categories")
_IMAGE_KEYS = {"id": int, "file_name": str, "width": int, "height": int}
_CATEGORY_KEYS = {"id": int, "name": str}
_ANNOTATION_KEYS = {"id": int, "image_id": int, "category_id": int, "bbox": object}


@dataclass(frozen=True)
class Inspection:
    """What was found in a COCO file.

    Attributes:
        faults: in the order of the file: categories, images, annotations.
        clean: the content with every fault mended as `faults.KINDS` says; an inspection of it finds none.
        left_out: annotations that went with their image or category, and have no fault of their own.
    """

    faults: tuple[Fault, ...]
    clean: dict[str, Any]
    left_out: int


def read_annotations(path: str | Path) -> dict[str, Any]:
    """The content of a COCO file.

    Raises:
        UserError: the file is missing, is no JSON, or lacks one of the lists images, annotations and categories.
    """
    content = read_json(path, "annotation")
    for part in PARTS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise UserError(f'{path} is not in COCO\'s format: expected a list "{part}" at its top level')
    return content


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file, of which `what` says what is in it.

    Raises:
        UserError: the file is missing, cannot be read, or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"no {what} file at {path}{nearest_path(path)}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {str(error).splitlines()[0]}") from error


def inspect(
    content: dict[str, Any],
    folder: str | os.PathLike[str] | None = None,
    *,
    workers: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> Inspection:
    """Look at every category, image and annotation.

    Args:
        content: of a COCO file, as `read_annotations` gives it; it is not changed.
        folder: of the images, each of which is then decoded; None checks the annotations alone.
        workers: images decoded at a time.
        progress: told of the number of images looked at since it was told last.
    """
    inspector = _Inspector()
    categories = inspector.categories(content["categories"])
    images = inspector.images(content["images"])
    if folder is not None:
        images = inspector.files(images, Path(folder), workers, progress)
    annotations = inspector.annotations(
        content["annotations"], {image["id"]: image for image in images}, {one["id"] for one in categories}
    )
    clean = {**content, "images": images, "annotations": annotations, "categories": categories}
    return Inspection(tuple(inspector.faults), clean, inspector.left_out)


class _Inspector:
    """Collects faults; each method returns what is left of its part."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.left_out = 0
        self._dropped_images: set[int | None] = set()
        self._dropped_categories: set[int | None] = set()
        self._other_names: dict[int, int] = {}  # id of a category whose name came before -> the first one's id

    def categories(self, found: Sequence[Any]) -> list[dict[str, Any]]:
        """Categories with an id and a name of their own."""
        kept: dict[int, dict[str, Any]] = {}
        by_name: dict[str, int] = {}
        for number, category in enumerate(found):
            lack = _lack(category, _CATEGORY_KEYS)
            if lack:
                self._say("category without a key", f"{lack} in category {number + 1} of the list")
                self._dropped_categories.add(_id(category))
            elif category["id"] in kept or category["id"] in self._other_names:
                self._say("repeated category id", f"{category['id']} again, for {category['name']!r}")
            elif category["name"] in by_name:
                first = by_name[category["name"]]
                self._say("repeated category name", f"{category['name']!r} has the ids {first} and {category['id']}")
                self._other_names[category["id"]] = first
            else:
                kept[category["id"]] = category
                by_name[category["name"]] = category["id"]
        self._dropped_categories -= kept.keys()
        return list(kept.values())

    def images(self, found: Sequence[Any]) -> list[dict[str, Any]]:
        """Images with an id, a file and a size of their own."""
        kept: dict[int, dict[str, Any]] = {}
        names: dict[str, int] = {}
        for number, image in enumerate(found):
            lack = _lack(image, _IMAGE_KEYS)
            if lack:
                self._say("image without a key", f"{lack} in image {number + 1} of the list")
                self._dropped_images.add(_id(image))
            elif image["width"] < 1 or image["height"] < 1:
                self._drop(image, "impossible image size", f"{image['width']} x {image['height']} pixels")
            elif image["id"] in kept:
                self._say("repeated image id", f"again, for {image['file_name']}", image)
            elif image["file_name"] in names:
                self._drop(image, "repeated file name", f"also image {names[image['file_name']]}")
            else:
                kept[image["id"]] = image
                names[image["file_name"]] = image["id"]
        self._dropped_images -= kept.keys()
        return list(kept.values())

    def files(
        self, images: Sequence[dict[str, Any]], folder: Path, workers: int, progress: Callable[[int], None]
    ) -> list[dict[str, Any]]:
        """Images whose file lies in the folder, can be read and has the size that is stated."""
        base = os.path.realpath(folder)
        kept = []
        with ThreadPoolExecutor(workers) as pool:
            for image, fault in zip(images, pool.map(lambda one: _file_fault(one, base), images), strict=True):
                progress(1)
                if fault is None:
                    kept.append(image)
                else:
                    self._drop(image, *fault)
        return kept

    def annotations(
        self, found: Sequence[Any], images: dict[int, dict[str, Any]], categories: set[int]
    ) -> list[dict[str, Any]]:
        """Annotations of a known image and category, with an id, a box and, where they have one, a mask."""
        kept: list[dict[str, Any]] = []
        seen: set[bytes] = set()
        ids: set[int] = set()
        next_id = 1 + max((_id(annotation) or 0 for annotation in found), default=0)
        for number, annotation in enumerate(found):
            mended = self._annotation(annotation, number, images, categories)
            if mended is None:
                continue
            content = _digest({**mended, "id": None})
            image, identity = images[mended["image_id"]], mended["id"]
            if content in seen:
                self._say("repeated annotation", "the same again, but for its id", image, identity)
                continue
            seen.add(content)
            if identity < 1 or identity in ids:
                kind = "repeated annotation id" if identity in ids else "annotation id not above 0"
                self._say(kind, f"id {identity}", image, identity)
                mended = {**mended, "id": next_id}
                next_id += 1
            ids.add(mended["id"])
            kept.append(mended)
        return kept

    def _annotation(
        self, annotation: Any, number: int, images: dict[int, dict[str, Any]], categories: set[int]
    ) -> dict[str, Any] | None:
        """The annotation, mended but for its id; None where it is left out."""
        lack = _lack(annotation, _ANNOTATION_KEYS)
        if lack:
            return self._say("annotation without a key", f"{lack} in annotation {number + 1} of the list")
        image_id, category_id, identity = annotation["image_id"], annotation["category_id"], annotation["id"]
        if image_id in self._dropped_images or category_id in self._dropped_categories:
            self.left_out += 1
            return None
        category_id = self._other_names.get(category_id, category_id)
        image = images.get(image_id)
        if image is None:
            return self._say("unknown image", f"image_id {image_id}", annotation_id=identity)
        if category_id not in categories:
            return self._say("unknown category", f"category_id {category_id}", image, identity)
        return self._shape({**annotation, "category_id": category_id}, image)

    def _shape(self, annotation: dict[str, Any], image: dict[str, Any]) -> dict[str, Any] | None:
        """Box, crowd, segmentation and area of an annotation, mended; None where it is left out."""

        def say(kind: str, found: str) -> None:
            self._say(kind, found, image, annotation["id"])

        height, width = image["height"], image["width"]
        box = check_box(annotation["bbox"], height, width, say)
        if box is None:
            return None
        if annotation.get("iscrowd", 0) not in (0, 1):
            say("iscrowd neither 0 nor 1", f"iscrowd {annotation['iscrowd']!r}")
            annotation = {**annotation, "iscrowd": 0}
        mended, pixels = {**annotation, "bbox": box}, None
        if annotation.get("segmentation") is not None:
            checked = check_segmentation(annotation["segmentation"], annotation.get("iscrowd") == 1, height, width, say)
            if checked is None:
                return None
            mended["segmentation"], pixels, around = checked
            if is_apart(box, around):
                return say("box apart from the mask", f"bbox {box} has no point in common with the mask")
        area = annotation.get("area")
        if not _is_area(area, box):
            say("impossible area", f"area {area!r} in a box of {box[2]:g} x {box[3]:g}")
            mended["area"] = box[2] * box[3] if pixels is None else pixels
        return mended

    def _drop(self, image: dict[str, Any], kind: str, found: str) -> None:
        self._say(kind, found, image)
        self._dropped_images.add(image["id"])

    def _say(self, kind: str, found: str, image: dict[str, Any] | None = None, annotation_id: object = None) -> None:
        image = image or {}
        self.faults.append(Fault(kind, found, image.get("id"), annotation_id, image.get("file_name")))


def _lack(entry: Any, keys: Mapping[str, type]) -> str:
    """What an entry of a list lacks of the keys it must have; empty where it lacks nothing."""
    if not isinstance(entry, dict):
        return "an object"
    wrong = [
        f'"{key}"' if key not in entry else f'"{key}" of another kind ({entry[key]!r:.40})'
        for key, kind in keys.items()
        if key not in entry or not isinstance(entry[key], kind) or isinstance(entry[key], bool) or entry[key] == ""
    ]
    return f"no {', no '.join(wrong)}" if wrong else ""


def _id(entry: Any) -> int | None:
    """The entry's id where it is a whole number."""
    identity = entry.get("id") if isinstance(entry, dict) else None
    return identity if isinstance(identity, int) else None


def _digest(annotation: dict[str, Any]) -> bytes:
    """A few bytes that stand for the content of an annotation, of which there may be a million."""
    return hashlib.blake2b(json.dumps(annotation, sort_keys=True).encode(), digest_size=16).digest()


def _is_area(area: Any, box: Sequence[float]) -> bool:
    """Whether an area in pixels can be that of something in the box: what is drawn may stand over by half a pixel."""
    is_number = isinstance(area, int | float) and not isinstance(area, bool)
    return is_number and 0 < area <= (box[2] + 2) * (box[3] + 2)


def _file_fault(image: dict[str, Any], base: str) -> tuple[str, str] | None:
    """Kind and finding of what is wrong with an image's file, or None."""
    path = os.path.realpath(os.path.join(base, image["file_name"]))
    if os.path.commonpath([path, base]) != base:
        return "path outside the image folder", f"file_name {image['file_name']!r}"
    if not os.path.isfile(path):
        return "missing image file", "no such file"
    try:
        width, height = open_image(path).size
    except ImageError as error:
        return "unreadable image", error.reason
    if (width, height) != (image["width"], image["height"]):
        return "image of another size", (
            f"the file has {width} x {height} pixels, the annotations say {image['width']} x {image['height']}"
        )
    return None
