"""Predictions of `gcnet predict --json` as results of the annotated images with the same files."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from gcnet.errors import UserError, printable, unknown


def is_predictions(content: Any) -> bool:
    """Whether the content of a JSON file is laid out as `gcnet predict --json` writes the detections of a detector."""
    return isinstance(content, dict) and all(
        isinstance(content.get(part), list) for part in ("images", "categories", "annotations")
    )


def match_predictions(content: Mapping[str, Any], annotations: Mapping[str, Any], origin: str) -> list[dict[str, Any]]:
    """The detections with the image and category ids of a COCO file.

    An image belongs to the annotated image whose `file_name` is the end of its path; detections of other images are
    left out. Categories are matched by name.

    Args:
        content: with `images`, `categories` and `annotations`.
        annotations: the content of the COCO file, without faults.
        origin: names the predictions in errors.

    Raises:
        UserError: no image is an annotated one, two are the same, or a category is not in the COCO file.
    """
    categories = {category["name"]: category["id"] for category in annotations["categories"]}
    try:
        images = _image_ids(content["images"], annotations["images"], origin)
        labels = {category["id"]: category["name"] for category in content["categories"]}
        for name in labels.values():
            if name not in categories:
                raise unknown("class of the predictions", name, categories)
        return [
            {**one, "image_id": images[one["image_id"]], "category_id": categories[labels[one["category_id"]]]}
            for one in content["annotations"]
            if one["image_id"] in images
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{printable(origin)} is not a file of gcnet predict --json: {error!r} is missing") from error


def _image_ids(predicted: list[Any], annotated: list[Any], origin: str) -> dict[Any, int]:
    """The id of the annotated image by the id of the predicted one."""
    ids = {PurePath(image["file_name"]).parts: image["id"] for image in annotated}
    found: dict[Any, int] = {}
    for image in predicted:
        parts = PurePath(image["file_name"]).parts
        match = next((ids[parts[start:]] for start in range(len(parts)) if parts[start:] in ids), None)
        if match in found.values() and match is not None:
            name = printable(image["file_name"])
            raise UserError(f"{printable(origin)} has two images of the file name {name}: predict one folder at a time")
        if match is not None:
            found[image["id"]] = match
    if predicted and not found:
        name = printable(predicted[0]["file_name"])
        raise UserError(f"{printable(origin)}: none of its images is an annotated one, such as {name}")
    return found
