"""Reads files of detections: COCO's result format, or `gcnet predict --json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from gcnet.data.coco.box_formats import recognize_format
from gcnet.data.coco.geometry import check_segmentation
from gcnet.data.coco.inspection import read_coco_json
from gcnet.data.coco.values import Ids
from gcnet.errors import UserError, printable, unknown


def is_predictions(content: Any) -> bool:
    """Whether `content`, of a JSON file, has the layout of detections written by `gcnet predict --json`."""
    return isinstance(content, dict) and all(
        isinstance(content.get(part), list) for part in ("images", "categories", "annotations")
    )


def match_predictions(content: Mapping[str, Any], annotations: Mapping[str, Any], origin: str) -> list[dict[str, Any]]:
    """Replace the image and category ids of detections by those of a COCO file.

    An image matches the annotated image whose `file_name` is the end of its path; detections in other images are
    dropped. Categories are matched by name.

    Args:
        content: `images`, `categories` and `annotations` of `gcnet predict --json`.
        annotations: content of the COCO file without issues.
        origin: name of the predictions, for errors.

    Returns:
        The detections in COCO's result format.

    Raises:
        UserError: no image matches, two images match the same annotated image, or a category is not in the COCO file.
    """
    categories = {category["name"]: category["id"] for category in annotations["categories"]}
    try:
        images = _image_ids(content["images"], annotations["images"], origin)
        labels = {category["id"]: category["name"] for category in content["categories"]}
        for name in labels.values():
            if name not in categories:
                raise unknown("class of the predictions", name, categories)
        return [
            {**entry, "image_id": images[entry["image_id"]], "category_id": categories[labels[entry["category_id"]]]}
            for entry in content["annotations"]
            if entry["image_id"] in images
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{printable(origin)} is not a JSON file of gcnet predict: {error!r} is missing") from error


def _image_ids(predicted: list[Any], annotated: list[Any], origin: str) -> dict[Any, int]:
    """Return the id of the annotated image for each predicted image id."""
    ids = {PurePath(image["file_name"]).parts: image["id"] for image in annotated}
    matched: dict[Any, int] = {}
    for image in predicted:
        parts = PurePath(image["file_name"]).parts
        match = next((ids[parts[start:]] for start in range(len(parts)) if parts[start:] in ids), None)
        if match in matched.values() and match is not None:
            name = printable(image["file_name"])
            raise UserError(f"{printable(origin)} has two images of the file name {name}: predict one folder at a time")
        if match is not None:
            matched[image["id"]] = match
    if predicted and not matched:
        name = printable(predicted[0]["file_name"])
        raise UserError(f"{printable(origin)}: none of its images is an annotated one, such as {name}")
    return matched


_HUGE = 1e300
_ACCEPTED = ("mask without pixels", "RLE numbers not integers")


def read_detections(
    path: str | Path, annotations: Mapping[str, Any], image_ids: Ids | None = None, category_ids: Ids | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Read a file of detections, and check boxes, scores and masks.

    The file is a list in COCO's result format, or the output of `gcnet predict --json`. If one result has a mask, all
    must.

    Args:
        path: the file.
        annotations: content of a COCO file without issues.
        image_ids: integer ids of the images, by the ids in the original COCO file.
        category_ids: integer ids of the categories, by the ids in the original COCO file.

    Returns:
        The results, and the number of ignored results in skipped images.

    Raises:
        UserError: the file does not exist or has another format, or a result is incomplete, invalid, or of an unknown
            image.
    """
    content = read_coco_json(path, "results")
    if is_predictions(content):
        content = match_predictions(content, annotations, str(path))
    if not isinstance(content, list):
        raise UserError(f"{path} is not in COCO's result format: expected a list of results, found {_kind(content)}")
    has_masks = any(isinstance(result, dict) and "segmentation" in result for result in content)
    keys = ("image_id", "category_id", "score", "bbox", *(("segmentation",) if has_masks else ()))
    sizes = {image["id"]: (image["height"], image["width"]) for image in annotations["images"]}
    results = []
    for number, raw in enumerate(content, start=1):
        image_id = image_ids(raw.get("image_id")) if image_ids is not None and isinstance(raw, dict) else None
        if image_id is None or image_id in sizes:
            result = _with_integers(raw, image_ids, category_ids)
            results.append(_checked(result, keys, f"{path}: result {number}", sizes))
    return results, len(content) - len(results)


def box_format_note(results: Sequence[Mapping[str, Any]], annotations: Mapping[str, Any]) -> str | None:
    """Check whether boxes look like another format than COCO's.

    Args:
        results: detections in COCO's result format.
        annotations: content of a COCO file with their images.

    Returns:
        A warning, or None.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in annotations["images"]}
    boxes = np.array([result["bbox"] for result in results], dtype=np.float64).reshape(-1, 4)
    image_sizes = np.array([sizes[result["image_id"]] for result in results], dtype=np.float64).reshape(-1, 2)
    box_format = recognize_format(boxes, image_sizes, np.full(boxes.shape, np.nan))
    if box_format.is_coco:
        return None
    return f"the boxes look like {box_format}, and are evaluated as left, top, width, height in pixels"


def _with_integers(result: Any, image_ids: Ids | None, category_ids: Ids | None) -> Any:
    """Replace image and category ids by the integer ids, where they are known."""
    if not isinstance(result, dict):
        return result
    known = {"image_id": image_ids, "category_id": category_ids}
    integers = {key: ids(result.get(key)) for key, ids in known.items() if ids is not None}
    return result | {key: value for key, value in integers.items() if value is not None}


def _checked(result: Any, keys: Sequence[str], place: str, sizes: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
    def refuse(sentence: str) -> UserError:
        return UserError(f"{place} {sentence}")

    if not isinstance(result, dict):
        raise refuse(f"should be an object, found {_kind(result)}")
    for key in keys:
        if key not in result:
            raise refuse(f'has no "{key}"')
    for key in ("image_id", "category_id"):
        if not isinstance(result[key], int):
            raise refuse(f'should have a whole number as "{key}", found {result[key]!r:.40}')
    if not _is_finite(result["score"]):
        raise refuse(f"should have a number as its score, found {result['score']!r:.40}")
    box = result["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)) or min(box[2:]) < 0:
        raise refuse(f"should have a bbox of left, top, width and height in pixels, found {box!r:.60}")
    if result["image_id"] not in sizes:
        raise refuse(f"is of image {result['image_id']}, which the annotations do not have")

    def report(kind: str, found: str) -> None:
        if kind not in _ACCEPTED:
            raise refuse(f"has a mask that cannot be evaluated ({kind}): {found}")

    if "segmentation" not in keys:
        return result
    checked = check_segmentation(result["segmentation"], *sizes[result["image_id"]], report)
    return result if checked is None else {**result, "segmentation": checked.value}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with {', '.join(map(str, list(value)[:3])) or 'nothing in it'}"
    return f"{value!r:.40}"
