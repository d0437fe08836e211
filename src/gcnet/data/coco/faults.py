"""What can be wrong with COCO annotations, and what a cleaned copy does about it."""

from collections.abc import Mapping
from dataclasses import dataclass

from gcnet.errors import printable

# Each kind of fault, and its mend.
KINDS: Mapping[str, str] = {
    "category without a key": "leave it out, with its annotations",
    "repeated category id": "keep the first",
    "repeated category name": "keep the first, and give it the annotations of the others",
    "image without a key": "leave it out, with its annotations",
    "impossible image size": "leave it out, with its annotations",
    "repeated image id": "keep the first",
    "repeated file name": "keep the first, and leave out the annotations of the others",
    "path outside the image folder": "leave it out, with its annotations",
    "missing image file": "leave it out, with its annotations",
    "unreadable image": "leave it out, with its annotations",
    "image of another size": "leave it out, with its annotations",
    "annotation without a key": "leave it out",
    "annotation id not above 0": "give it a new id",
    "repeated annotation id": "give it a new id",
    "unknown image": "leave it out",
    "unknown category": "leave it out",
    "box not of four numbers": "leave it out",
    "box not finite": "leave it out",
    "box without area": "leave it out",
    "box outside the image": "leave it out",
    "box over the edge": "cut it off at the edge",
    "iscrowd neither 0 nor 1": "set it to 0",
    "crowd without run lengths": "leave it out",
    "segmentation of no known form": "leave it out",
    "polygon of fewer than three points": "leave the polygon out",
    "odd number of polygon coordinates": "leave the polygon out",
    "polygon not finite": "leave the polygon out",
    "polygon over the edge": "move its points to the edge",
    "run lengths of another size": "leave it out",
    "broken run lengths": "leave it out",
    "empty mask": "leave it out",
    "box apart from the mask": "leave it out",
    "impossible area": "take it from the mask, or from the box where there is none",
    "repeated annotation": "keep the first",
}


@dataclass(frozen=True)
class Fault:
    """One fault: a kind of `KINDS`, where it is, and what was found there.

    `image_id` and `annotation_id` are as the file has them, None where the fault has none.
    """

    kind: str
    found: str
    image_id: object = None
    annotation_id: object = None
    file_name: str | None = None

    def __str__(self) -> str:
        image = None if self.image_id is None else f"image {self.image_id}"
        named = f"{image} ({self.file_name})" if image and self.file_name else image or self.file_name
        annotation = None if self.annotation_id is None else f"annotation {self.annotation_id}"
        place = ", ".join(part for part in (named, annotation) if part)
        return printable(f"{place}: {self.found}" if place else self.found)
