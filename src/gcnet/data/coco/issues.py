"""Kinds of issues of COCO annotations, and how each is handled."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gcnet.errors import printable

Action = Literal["repaired", "skipped", "noted"]


@dataclass(frozen=True)
class IssueKind:
    """How a kind of issue is handled.

    Attributes:
        action: "repaired" corrects a value, "skipped" removes the entry or a part of it, "noted" changes nothing.
        remedy: Description of the change.
    """

    action: Action
    remedy: str


def _repaired(remedy: str) -> IssueKind:
    return IssueKind("repaired", remedy)


def _skipped(remedy: str) -> IssueKind:
    return IssueKind("skipped", remedy)


_WITH_IMAGE = _skipped("skip the image and its annotations")
_ANNOTATION = _skipped("skip the annotation")
_MASK = _skipped("skip the mask, use the box only")

ISSUE_KINDS: Mapping[str, IssueKind] = {
    "category without id or name": _skipped("skip the category and its annotations"),
    "category id not an integer": _repaired("convert it, or give a new id if it is not a number"),
    "category name not valid Unicode": _repaired("escape unpaired surrogates"),
    "repeated category id": _skipped("keep the first"),
    "repeated category name": _repaired("keep the first, with the annotations of all"),
    "image without id or file name": _WITH_IMAGE,
    "image id not an integer": _repaired("convert it, or give a new id if it is not a number"),
    "missing image size": _repaired("read it from the image file"),
    "image size not an integer": _repaired("convert it"),
    "invalid image size": _WITH_IMAGE,
    "repeated image": _skipped("keep the first entry"),
    "image id of several files": _skipped("skip all images of this id, and their annotations"),
    "repeated file name": _skipped("keep the first, and skip the annotations of the others"),
    "path outside the image folder": _WITH_IMAGE,
    "missing image file": _WITH_IMAGE,
    "unreadable image": _WITH_IMAGE,
    "image size mismatch": _WITH_IMAGE,
    "annotation that is not an object": _ANNOTATION,
    "annotation id missing": _repaired("give it a new id"),
    "annotation id not an integer above 0": _repaired("convert it, or give it a new id"),
    "repeated annotation id": _repaired("give it a new id"),
    "unknown image": _ANNOTATION,
    "unknown category": _ANNOTATION,
    "image_id or category_id not an integer": _repaired("convert it"),
    "repeated annotation": _skipped("keep the first"),
    "polygons in another format": _repaired("convert them from fractions to pixels"),
    "boxes in another format": _repaired("convert them to left, top, width, height in pixels"),
    "numbers as text": _repaired("convert them"),
    "missing bbox": _repaired("use the box of the mask"),
    "invalid bbox": _repaired("use the box of the mask"),
    "bbox apart from the mask": _repaired("use the box of the mask"),
    "neither bbox nor mask": _ANNOTATION,
    "bbox outside the image": IssueKind("noted", "unchanged in evaluation, skipped in training"),
    "bbox over the edge": IssueKind("noted", "unchanged in evaluation, clipped in training"),
    "bbox unlike the mask": IssueKind("noted", "both kept"),
    "missing iscrowd": _repaired("set it to 0"),
    "iscrowd not an integer": _repaired("convert it"),
    "invalid iscrowd": _repaired("set it to 0"),
    "unknown segmentation": _MASK,
    "segmentation nested unusually": _repaired("convert to a list of polygons or to run lengths"),
    "polygon of fewer than three points": _skipped("skip the polygon"),
    "odd number of polygon coordinates": _repaired("drop the last coordinate, as COCO's tools do"),
    "polygon not finite": _skipped("skip the polygon"),
    "polygon far outside the image": _skipped("skip the polygon"),
    "RLE size mismatch": _MASK,
    "invalid RLE": _MASK,
    "RLE numbers not integers": _repaired("convert them"),
    "mask without pixels": IssueKind("noted", "unchanged in evaluation; training uses the box only"),
    "invalid area": _repaired("use the area of the mask or box"),
    "area larger than the bbox": IssueKind("noted", "kept"),
}
MASK_ISSUE_KINDS = frozenset(
    {kind for kind, what in ISSUE_KINDS.items() if what is _MASK}
    | {"polygon of fewer than three points", "polygon not finite", "polygon far outside the image"}
)
"""Kinds that take a mask, or a part of it, from an object."""


@dataclass(frozen=True)
class Issue:
    """An issue of a COCO file.

    Attributes:
        kind: A key of `ISSUE_KINDS`.
        details: Value in the file.
        image_id: Image id in the file, if there is one.
        annotation_id: Annotation id in the file, if there is one.
        file_name: File name of the image.
    """

    kind: str
    details: str
    image_id: object = None
    annotation_id: object = None
    file_name: str | None = None

    @property
    def action(self) -> Action:
        """How the issue is handled."""
        return ISSUE_KINDS[self.kind].action

    def __str__(self) -> str:
        image = None if self.image_id is None else f"image {self.image_id!s:.60}"
        named = f"{image} ({self.file_name})" if image and self.file_name else image or self.file_name
        annotation = None if self.annotation_id is None else f"annotation {self.annotation_id!s:.60}"
        place = ", ".join(part for part in (named, annotation) if part)
        return printable(f"{place}: {self.details}" if place else self.details)


def count_kinds(issues: Sequence[Issue], action: Action | None = None) -> dict[str, int]:
    """Count issues by kind, most frequent first.

    Args:
        issues: The issues.
        action: Action to count (default: repaired and skipped).

    Returns:
        Number of issues of each kind.
    """
    wanted = ("repaired", "skipped") if action is None else (action,)
    return dict(Counter(issue.kind for issue in issues if issue.action in wanted).most_common())


def issue_summary(issues: Sequence[Issue]) -> str:
    """Return kinds and counts of `issues`, such as "repaired: 3 x missing iscrowd; skipped: 1 x unknown image"."""
    parts = []
    for action in ("repaired", "skipped"):
        if counts := count_kinds(issues, action):
            parts.append(f"{action}: " + ", ".join(f"{count:,} x {kind}" for kind, count in counts.items()))
    return "; ".join(parts)
