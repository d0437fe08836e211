"""Annotations of a COCO file, repaired or skipped."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gcnet.data.coco.box_formats import COCO, BoxFormat, are_fractions, recognize_format, to_pixels
from gcnet.data.coco.categories_and_images import CategoryEntries, ImageEntries
from gcnet.data.coco.geometry import Report, Segmentation, check_segmentation, read_box
from gcnet.data.coco.index import lies_within
from gcnet.data.coco.issues import Issue
from gcnet.data.coco.values import Entry, as_integer, short_repr

_EDGE = 0.5  # pixels by which a box may end beyond the image without being reported
_ALIKE = 0.5  # IoU of a box and the box of its mask from which they agree
_TRUTH: Mapping[str, int] = {"true": 1, "false": 0, "yes": 1, "no": 0}


@dataclass(frozen=True)
class Draft:
    """An annotation of a kept image and category, before its box is compared with its mask.

    Attributes:
        entry: The annotation.
        image: Entry of its image.
        box: Valid box in the format of the file, or None.
        mask: Valid mask, or None.
    """

    entry: Entry
    image: Entry
    box: list[float] | None
    mask: Segmentation | None


class AnnotationChecker:
    """Checks annotations one by one.

    Args:
        images: Valid images.
        categories: Valid categories.
        issues: Receives the issues.
        polygons_scaled: Whether the polygons are fractions of width and height.

    Attributes:
        dropped: Number of annotations skipped with their image or category.
    """

    def __init__(
        self, images: ImageEntries, categories: CategoryEntries, issues: list[Issue], *, polygons_scaled: bool = False
    ) -> None:
        self._images, self._categories, self._issues = images, categories, issues
        self._polygons_scaled = polygons_scaled
        self._names = {category["id"] for category in categories.kept}
        self.dropped = 0

    def draft(self, entry: Any, number: int) -> Draft | None:
        """Return an annotation with resolved references, or None if it is skipped.

        Args:
            entry: The annotation.
            number: Its number in the list, from 1.
        """
        if not isinstance(entry, dict):
            kind = "annotation that is not an object"
            return self._issues.append(Issue(kind, f"annotation {number} of the list: {short_repr(entry)}"))
        raw, raw_category, identity = entry.get("image_id"), entry.get("category_id"), entry.get("id")
        image_id, category_id = self._images.ids(raw), self._categories.ids(raw_category)
        category_id = self._categories.merged.get(category_id, category_id)
        if image_id in self._images.dropped or category_id in self._categories.dropped:
            self.dropped += 1
            return None
        image = self._images.by_id.get(image_id)
        if image is None:
            details = f"image_id {short_repr(raw)}" if "image_id" in entry else f"annotation {number} has no image_id"
            return self._issues.append(Issue("unknown image", details, None, identity))
        if category_id not in self._names:
            return self._report(image, entry, "unknown category", f"category_id {short_repr(raw_category)}")
        entry = {**entry, "image_id": image["id"], "category_id": category_id}
        report = self._reporter(image, entry)
        self._check_references(raw, raw_category, report)
        box, mask = read_box(entry.get("bbox"), report), self._mask(entry, image, report)
        return Draft(entry, image, box, mask)

    def _check_references(self, image_id: object, category_id: object, report: Report) -> None:
        """Report ids written differently from those of the image and category."""
        if not self._images.ids.has(image_id) or not self._categories.ids.has(category_id):
            details = f"image_id {short_repr(image_id)}, category_id {short_repr(category_id)}"
            report("image_id or category_id not an integer", details)

    def _mask(self, entry: Entry, image: Entry, report: Report) -> Segmentation | None:
        segmentation = entry.get("segmentation")
        if not segmentation:  # missing, null, [] and {}: an object with a box only
            return None
        height, width = image["height"], image["width"]
        if self._polygons_scaled:
            segmentation = to_pixels(segmentation, height, width)
        return check_segmentation(segmentation, height, width, report)

    def shaped(self, draft: Draft, box_format: BoxFormat = COCO) -> Entry | None:
        """Return an annotation with box, crowd flag, segmentation and area, or None if it is skipped.

        Args:
            draft: The annotation; its box has COCO's format if the format is certain.
            box_format: Format of the boxes in the file.
        """
        entry, mask = dict(draft.entry), draft.mask
        report = self._reporter(draft.image, entry)
        box = self._box(draft, report)
        if box is None:
            return None
        entry["bbox"] = box
        if mask is not None:
            entry["segmentation"] = mask.value
        elif entry.get("segmentation"):
            entry["segmentation"] = []
        entry["iscrowd"] = _crowd(entry, report)
        least = 1.0 if self._polygons_scaled or box_format.is_normalized else 0.0  # the area is a fraction as well
        entry["area"] = _area(entry.get("area"), box, mask, report, least)
        return entry

    def _box(self, draft: Draft, report: Report) -> list[float] | None:
        """Return the box, or that of the mask if the box is invalid, or None without either."""
        raw, box, around = draft.entry.get("bbox"), draft.box, draft.mask.box if draft.mask else None

        def details() -> str:
            return f"bbox {short_repr(raw)} in {draft.image['width']} x {draft.image['height']} pixels"

        if box is None or box[2] <= 0 or box[3] <= 0:
            if around is None:
                return report("neither bbox nor mask", details())
            report("missing bbox" if raw is None else "invalid bbox", details())
            return around
        if around is not None:
            if _are_apart(box, around):
                report("bbox apart from the mask", f"{details()}, the mask's is {around}")
                return around
            overlap = _overlap(_clipped(box, draft.image), around)
            if overlap < _ALIKE:
                report("bbox unlike the mask", f"bbox {short_repr(box)}, the mask's is {around} (IoU {overlap:.2f})")
        if not lies_within(box, draft.image):
            report("bbox outside the image", details())
            return box
        beyond = max(-box[0], -box[1], box[0] + box[2] - draft.image["width"], box[1] + box[3] - draft.image["height"])
        if beyond > _EDGE:
            report("bbox over the edge", details())
        return box

    def _reporter(self, image: Entry, entry: Entry) -> Report:
        return lambda kind, found: self._report(image, entry, kind, found)

    def _report(self, image: Entry, entry: Entry, kind: str, found: str) -> None:
        self._issues.append(Issue(kind, found, image["id"], entry.get("id"), image["file_name"]))


class AnnotationEntries:
    """The valid annotations of a COCO file.

    Args:
        entries: The list "annotations" of the file.
        images: Valid images.
        categories: Valid categories.
        issues: Receives the issues.

    Attributes:
        kept: Annotations of a valid image and category, with an integer id, a box and optionally a mask.
        box_format: Format of the boxes in the file; `kept` has COCO's format if the format is certain.
        dropped: Number of annotations skipped with their image or category.
    """

    def __init__(
        self, entries: Sequence[Any], images: ImageEntries, categories: CategoryEntries, issues: list[Issue]
    ) -> None:
        self._images, self._issues = images, issues
        scaled = are_fractions(polygons(entries, images))
        if scaled:
            objects = f"{sum(1 for _ in polygons(entries, images)):,} objects"
            details = f"polygons of {objects} are fractions of the image's sides"
            issues.append(Issue("polygons in another format", details))
        checker = AnnotationChecker(images, categories, issues, polygons_scaled=scaled)
        drafts = [draft for number, entry in enumerate(entries, start=1) if (draft := checker.draft(entry, number))]
        self.dropped = checker.dropped
        self.box_format, drafts = self._converted(drafts)
        shaped = [entry for draft in drafts if (entry := checker.shaped(draft, self.box_format))]
        self.kept = self._numbered(shaped, entries)

    def _converted(self, drafts: list[Draft]) -> tuple[BoxFormat, list[Draft]]:
        """Return the format of the boxes, and the drafts with boxes in COCO's format."""
        boxes, sizes, around = box_arrays(drafts)
        box_format = recognize_format(boxes, sizes, around)
        if box_format.is_coco:
            return COCO, drafts
        details = f"{len(boxes):,} boxes are {box_format}, instead of left, top, width, height in pixels"
        self._issues.append(Issue("boxes in another format", details))
        if box_format.is_certain:
            with_box = [number for number, draft in enumerate(drafts) if draft.box is not None]
            for number, box in zip(with_box, box_format.convert(boxes, sizes).tolist(), strict=True):
                drafts[number] = replace(drafts[number], box=box)
        return box_format, drafts

    def _numbered(self, entries: list[Entry], file_entries: Sequence[Any]) -> list[Entry]:
        """Return the annotations without repetitions, with unique integer ids."""
        kept: list[Entry] = []
        alike = Counter(map(rough_hash, entries))
        seen: set[bytes] = set()
        ids: set[int] = set()
        own = [as_integer(entry.get("id")) or 0 for entry in file_entries if isinstance(entry, dict)]
        next_id = 1 + max(own, default=0)
        for entry in entries:
            image = self._images.by_id[entry["image_id"]]
            if alike[rough_hash(entry)] > 1:
                content = entry_digest(entry)
                if content in seen:
                    self._report(image, entry, "repeated annotation", "the same again, but for its id")
                    continue
                seen.add(content)
            raw, identity = entry.get("id"), as_integer(entry.get("id"))
            if raw is None:
                self._report(image, entry, "annotation id missing", "no id")
            elif identity is not None and identity in ids:
                self._report(image, entry, "repeated annotation id", f"id {raw!r:.60}")
            elif type(raw) is not int or identity is None or identity < 1:
                self._report(image, entry, "annotation id not an integer above 0", f"id {raw!r:.60}")
            if identity is None or identity < 1 or identity in ids:
                identity, next_id = next_id, next_id + 1
            ids.add(identity)
            kept.append({**entry, "id": identity})
        return kept

    def _report(self, image: Entry, entry: Entry, kind: str, found: str) -> None:
        self._issues.append(Issue(kind, found, image["id"], entry.get("id"), image["file_name"]))


def polygons(entries: Sequence[Any], images: ImageEntries) -> Iterator[tuple[list[Any], int, int]]:
    """Yield the polygons of each annotation of a valid image.

    Args:
        entries: The list "annotations" of a COCO file.
        images: Valid images.

    Yields:
        Polygons, and height and width of the image in pixels.
    """
    for entry in entries:
        image = images.by_id.get(images.ids(entry.get("image_id"))) if isinstance(entry, dict) else None
        if image is not None and isinstance(entry.get("segmentation"), list):
            yield entry["segmentation"], image["height"], image["width"]


def box_arrays(drafts: Sequence[Draft]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the format of the boxes is recognized by.

    Args:
        drafts: Annotations; only those with a box count.

    Returns:
        Boxes float64 (N, 4), width and height of their images in pixels (N, 2), and the boxes of their masks (N, 4),
        NaN without a mask.
    """
    drafts = [draft for draft in drafts if draft.box is not None]
    boxes = np.array([draft.box for draft in drafts], dtype=np.float64).reshape(-1, 4)
    sizes = np.array([(draft.image["width"], draft.image["height"]) for draft in drafts], dtype=np.float64)
    missing = [np.nan] * 4
    around = [draft.mask.box if draft.mask and draft.mask.box else missing for draft in drafts]
    return boxes, sizes.reshape(-1, 2), np.array(around, dtype=np.float64).reshape(-1, 4)


def _crowd(entry: Entry, report: Report) -> int:
    raw = entry.get("iscrowd")
    if type(raw) is int and raw in (0, 1):
        return raw
    if raw is None:
        report("missing iscrowd", "iscrowd null" if "iscrowd" in entry else "no iscrowd")
        return 0
    value = int(raw) if isinstance(raw, bool) else as_integer(raw)
    if isinstance(raw, str):
        value = _TRUTH.get(raw.strip().lower(), value)
    if value in (0, 1):
        report("iscrowd not an integer", f"iscrowd {raw!r:.60}")
        return value
    report("invalid iscrowd", f"iscrowd {raw!r:.60}")
    return 0


def _area(area: Any, box: Sequence[float], mask: Segmentation | None, report: Report, least: float) -> float:
    """Return the annotated area if it is above `least`, otherwise that of the mask or box."""
    is_number = isinstance(area, int | float) and not isinstance(area, bool) and abs(area) < 1e300
    if is_number and (area > least or (area == 0 and mask is not None and mask.pixels == 0)):
        if area > (box[2] + 2) * (box[3] + 2):  # what is drawn may stand over by half a pixel
            report("area larger than the bbox", f"area {area:g} in a box of {box[2]:g} x {box[3]:g}")
        return area
    report("invalid area", f"area {area!r:.60} in a box of {box[2]:g} x {box[3]:g}")
    return box[2] * box[3] if mask is None else mask.pixels


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the IoU of two boxes; the second has an area above 0."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(across, 0) * max(down, 0)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def _are_apart(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether two boxes are more than one pixel apart, the rounding error of masks."""
    return any(
        first[axis] > second[axis] + second[axis + 2] + 1 or second[axis] > first[axis] + first[axis + 2] + 1
        for axis in (0, 1)
    )


def _clipped(box: Sequence[float], image: Entry) -> list[float]:
    """Clip a box to its image."""
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[0] + box[2], image["width"]), min(box[1] + box[3], image["height"])
    return [left, top, max(right - left, 0), max(bottom - top, 0)]


def rough_hash(entry: Entry) -> int:
    """Return a number that is the same for every annotation with the content of `entry`."""
    return hash((entry["image_id"], entry["category_id"], *entry["bbox"], entry["area"]))


def entry_digest(entry: Entry) -> bytes:
    """Return a digest of the annotation `entry` without its id."""
    content = json.dumps({**entry, "id": None}, sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(), digest_size=16).digest()
