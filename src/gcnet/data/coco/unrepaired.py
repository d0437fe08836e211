"""Loads a COCO file as pycocotools does, without repairs."""

from collections.abc import Mapping, Sequence
from typing import Any

from gcnet.data.coco.entries import MOST_PIXELS
from gcnet.data.coco.geometry import check_segmentation, short
from gcnet.data.coco.ids import Ids
from gcnet.errors import UserError, printable

Entry = dict[str, Any]

# Issues of a segmentation that pycocotools draws all the same.
_DRAWN = ("mask without pixels", "odd number of polygon coordinates", "RLE numbers not integers")
_HUGE = 1e300


def as_loaded(content: Mapping[str, Any], place: str) -> tuple[dict[str, Any], Ids, Ids]:
    """The content as pycocotools loads it, and the integer ids of images and categories.

    Of several images or categories of one id the last counts, and annotations of unknown ones do not, as in
    pycocotools. Boxes, masks, areas and crowds are those of the file.

    Args:
        content: of a COCO file, as `gcnet.data.coco.inspection.read_annotations` gives it.
        place: what the file is called in messages.

    Raises:
        UserError: pycocotools could not evaluate the file.
    """
    images, image_ids = _by_id(content["images"], "image", place)
    categories, category_ids = _by_id(content["categories"], "category", place)
    for identity, image in images.items():
        if not isinstance(image.get("file_name"), str):  # pycocotools does not look at it
            image["file_name"] = str(identity)
        for side in ("height", "width"):
            if type(image.get(side)) is not int or image[side] < 1:
                raise _refusal(place, f"image {identity} has {side} {short(image.get(side))}")
        if image["height"] * image["width"] >= MOST_PIXELS:
            raise _refusal(place, f"image {identity} has {image['width']:,} x {image['height']:,} pixels")
    for identity, category in categories.items():
        category["name"] = str(category.get("name", identity)).encode("utf-8", "backslashreplace").decode()
    annotations = []
    for number, entry in enumerate(content["annotations"], start=1):
        if not isinstance(entry, dict):
            raise _refusal(place, f"annotation {number} of the list is {short(entry)}")
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
    found: dict[int, Entry] = {}
    for entry in entries:
        identity = ids(entry["id"])
        if identity is None:
            raise _refusal(place, f"the id of a listed {kind} is {short(entry['id'])}")
        found[identity] = {**entry, "id": identity}
    return found, ids


def _annotation(entry: Entry, image: Entry, category: Entry, place: str) -> Entry:
    name = f"annotation {short(entry.get('id'))}"
    if type(entry.get("id")) is not int:
        raise _refusal(place, f"{name} has an id that is not an integer")
    for key in ("area", "iscrowd"):
        if not _is_number(entry.get(key)):
            raise _refusal(place, f"{name} has {key} {short(entry.get(key))}")
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise _refusal(place, f"{name} has bbox {short(box)}")
    loaded = {**entry, "image_id": image["id"], "category_id": category["id"], "iscrowd": int(bool(entry["iscrowd"]))}
    if not entry.get("segmentation"):
        return loaded

    def report(kind: str, found: str) -> None:
        if kind not in _DRAWN:
            raise _refusal(place, f"{name} has an invalid mask ({kind}: {found})")

    checked = check_segmentation(entry["segmentation"], image["height"], image["width"], report)
    return loaded if checked is None else {**loaded, "segmentation": checked.value}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _HUGE


def _refusal(place: str, found: str) -> UserError:
    return UserError(printable(f"{place} cannot be evaluated with --no-repair: {found}"))
