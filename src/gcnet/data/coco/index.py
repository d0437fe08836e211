"""Index of a COCO file: its entries as JSON text in arrays, which processes share, instead of a Python object each."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gcnet.data.coco.categories_and_images import MOST_PIXELS
from gcnet.data.coco.geometry import is_drawable
from gcnet.data.coco.values import Entry, Ids
from gcnet.data.index_file import Index, are_ends, map_index
from gcnet.errors import Failure, printable

DIMENSIONS: Mapping[str, int] = {
    **dict.fromkeys(("image_ids", "objects", "masked", "positions", "image_ends", "annotation_ends"), 1),
    **dict.fromkeys(("name_ends", "name_text", "listed_names", "raw_images", "raw_categories"), 1),
    **dict.fromkeys(("image_text", "annotation_text"), 1),
    "sizes": 2,
}
"""Number of dimensions of the arrays of an index file."""

_T = TypeVar("_T")
_HUGE = 1e300
_PARTS = ("images", "annotations", "categories")


class AnnotationIndex:
    """The content of a COCO file without issues, by image.

    Entries are stored as the JSON text of the file, so that every number is exact, and the annotations of an image lie
    together.

    Args:
        stored: Arrays and details of `annotation_arrays`, in memory or of an index file.
        path: The index file, whose entries are checked when they are read, since another program may have written it;
            data-loader workers that are not forked map it as well.

    Attributes:
        stored: The arrays and details.
        image_ids: Id of each image, int64 (N,).
        sizes: Height and width of each image in pixels, int64 (N, 2).
        objects: Number of annotations of each image, without crowds and objects outside of the image, int32 (N,).
        masked: Number of these with a mask, int32 (N,).
        boxes_only: Number of annotations without a mask, including crowds.
        count: Number of annotations.
    """

    def __init__(self, stored: Index, path: Path | None = None) -> None:
        self.stored, self._path = stored, path
        arrays = stored.arrays
        self.image_ids, self.sizes = arrays["image_ids"], arrays["sizes"]
        self.objects, self.masked = arrays["objects"], arrays["masked"]
        self.boxes_only: int = stored.details["boxes_only"]
        self.count = len(arrays["positions"])

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "AnnotationIndex":
        """Return the index of the content of a COCO file without issues."""
        return cls(Index(*annotation_arrays(content)))

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is None:
            return AnnotationIndex, (self.stored,)
        return _mapped, (self._path, self.digest)

    @property
    def categories(self) -> list[Entry]:
        """Entries of the categories, in the order of the file."""
        return self.stored.details["categories"]

    @property
    def digest(self) -> str | None:
        """SHA-256 of the annotation file; None for generated annotations."""
        return self.stored.details.get("sha256")

    def is_consistent(self) -> bool:
        """Return whether arrays and details of an index file agree; texts of entries are checked when they are read."""
        arrays, count = self.stored.arrays, len(self)
        lengths = {"sizes": 0, "objects": 0, "masked": 0, "name_ends": 1, "image_ends": 1, "annotation_ends": 2}
        if any(len(arrays[name]) != count + more for name, more in lengths.items()) or self.sizes.shape[1] != 2:
            return False
        names, positions = self.names(), arrays["positions"]
        return bool(
            all(are_ends(arrays[f"{kind}_ends"], arrays[f"{kind}_text"]) for kind in ("name", "image", "annotation"))
            and ((self.sizes >= 1) & (self.sizes < MOST_PIXELS)).all()
            and (self.sizes.prod(axis=1) < MOST_PIXELS).all()
            and (self.masked >= 0).all()
            and (self.masked <= self.objects).all()
            and self.objects.sum() <= self.count
            and np.array_equal(np.sort(positions), np.arange(self.count))
            and len(names) == count
            and all(isinstance(name, str) for name in names)
            and all(type(category["id"]) is int and isinstance(category["name"], str) for category in self.categories)
            and set(_PARTS) <= self.stored.details["content"].keys()
        )

    def image(self, row: int) -> Entry:
        """Return the entry of the image at `row`; raises Failure if the index file is invalid."""
        return self._checked(lambda: json.loads(self._text("image", row)), lambda image: self._is_image(image, row))

    def name(self, row: int) -> str:
        """Return the file name of the image at `row`; raises Failure if the index file is invalid."""
        return self._checked(lambda: json.loads(self._text("name", row)[:-1]), lambda name: isinstance(name, str))

    def names(self) -> list[str]:
        """Return the file names of the images."""
        return json.loads(b"[" + self.stored.arrays["name_text"].tobytes()[:-1] + b"]")

    def entries(self) -> Sequence[Entry]:
        """Return id, file name, height and width of the images."""
        return _ImageEntries(self)

    def annotations(self, row: int) -> list[Entry]:
        """Return the annotations of the image at `row`, in the order of the file; raises Failure as `image`."""
        return self._checked(
            lambda: json.loads(self._text("annotation", row)), lambda entries: self._are_annotations(entries, row)
        )

    def raw_ids(self, part: str) -> Ids | None:
        """Return the integer ids by the ids of the file.

        Args:
            part: "images" or "categories".

        Returns:
            The ids; None for generated annotations.

        Raises:
            Failure: The index file is invalid.
        """
        text = self.stored.arrays.get(f"raw_{part}")
        return None if text is None else self._checked(lambda: Ids(json.loads(text.tobytes())))

    def content(self) -> dict[str, Any]:
        """Return the content of the COCO file, a new object for each entry; raises Failure as `image`."""
        return self._checked(self._content)

    def _content(self) -> dict[str, Any]:
        rows = range(len(self))
        grouped = [entry for row in range(len(self) + 1) for entry in self.annotations(row)]
        annotations: list[Any] = [None] * self.count
        for position, entry in zip(self.stored.arrays["positions"].tolist(), grouped, strict=True):
            annotations[position] = entry
        parts = {
            "images": [self.image(row) for row in rows],
            "annotations": annotations,
            "categories": json.loads(json.dumps(self.categories)),
        }
        return {key: parts.get(key, value) for key, value in self.stored.details["content"].items()}

    @cached_property
    def _category_ids(self) -> frozenset[int]:
        return frozenset(category["id"] for category in self.categories)

    def _is_image(self, image: Any, row: int) -> bool:
        """Return whether an entry has id, file name and size of the image at `row`."""
        size = [image["height"], image["width"]]
        return (
            image["id"] == self.image_ids[row] and image["file_name"] == self.name(row) and size == [*self.sizes[row]]
        )

    def _are_annotations(self, entries: Any, row: int) -> bool:
        """Return whether entries are annotations of the image at `row`, as many as counted."""
        if row == len(self):
            return entries == []
        height, width = self.sizes[row].tolist()
        image = {"id": int(self.image_ids[row]), "height": height, "width": width}
        if not all(is_annotation(entry, image, self._category_ids) for entry in entries):
            return False
        objects = [entry for entry in entries if not entry["iscrowd"] and lies_within(entry["bbox"], image)]
        masked = sum(bool(entry.get("segmentation")) for entry in objects)
        return isinstance(entries, list) and [len(objects), masked] == [self.objects[row], self.masked[row]]

    def _checked(self, read: Callable[[], _T], is_valid: Callable[[_T], bool] = lambda _: True) -> _T:
        """Return what `read` returns; an invalid index file is removed, so that it is made again."""
        if self._path is None:
            return read()
        with suppress(LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
            value = read()
            if is_valid(value):
                return value
        with suppress(OSError):
            self._path.unlink()
        raise Failure(f"the index {printable(self._path)} was invalid and has been removed: start the command again")

    def _text(self, kind: str, row: int) -> bytes:
        ends = self.stored.arrays[f"{kind}_ends"]
        return self.stored.arrays[f"{kind}_text"][int(ends[row]) : int(ends[row + 1])].tobytes()


def _mapped(path: Path, digest: str | None) -> AnnotationIndex:
    """Return the index at `path` of the annotation file with a digest, in another process."""
    stored = map_index(path)
    if stored is None or stored.details.get("sha256") != digest:
        raise Failure(f"{printable(path)} changed while it was used: start the command again")
    return AnnotationIndex(stored, path)


class _ImageEntries(Sequence[Entry]):
    """Entries of images that are made when they are needed."""

    def __init__(self, index: AnnotationIndex) -> None:
        self._index, self._names = index, index.names()

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, row: Any) -> Any:
        height, width = self._index.sizes[row].tolist()
        identity = int(self._index.image_ids[row])
        return {"id": identity, "file_name": self._names[row], "height": height, "width": width}


@dataclass(frozen=True)
class AnnotationTexts:
    """Annotations as JSON text.

    Attributes:
        owners: Number of the image of each annotation, int64 (M,); the number of images for an image that is not
            listed.
        is_object: Whether an annotation is an object to train on: no crowd, and within its image; bool (M,).
        has_mask: Whether it has a mask, bool (M,).
        texts: JSON text of each.
    """

    owners: np.ndarray
    is_object: np.ndarray
    has_mask: np.ndarray
    texts: list[bytes]

    @classmethod
    def of(
        cls,
        annotations: Sequence[Entry],
        rows: Mapping[int, int],
        images: Sequence[Entry],
        texts: Sequence[str | None] = (),
    ) -> "AnnotationTexts":
        """Convert annotations without issues.

        Args:
            annotations: The annotations.
            rows: Number of each image by its id.
            images: Entries of the images.
            texts: JSON text of each annotation where it is known.

        Returns:
            The texts.
        """
        return cls(
            np.array([rows.get(entry["image_id"], len(images)) for entry in annotations], dtype=np.int64),
            np.array([_is_object(entry, rows, images) for entry in annotations], dtype=bool),
            np.array([bool(entry.get("segmentation")) for entry in annotations], dtype=bool),
            [_json_text(entry, text) for entry, text in zip_longest(annotations, texts)],
        )

    @classmethod
    def joined(cls, parts: Sequence["AnnotationTexts"]) -> "AnnotationTexts":
        """Return the annotations of all `parts`, one after the other."""
        arrays = ([getattr(part, name) for part in parts] for name in ("owners", "is_object", "has_mask"))
        return cls(*map(np.concatenate, arrays), [text for part in parts for text in part.texts])

    def select(self, keep: np.ndarray) -> "AnnotationTexts":
        """Return the annotations where `keep` (M,) is true."""
        texts = [self.texts[number] for number in np.flatnonzero(keep).tolist()]
        return AnnotationTexts(self.owners[keep], self.is_object[keep], self.has_mask[keep], texts)


def _json_text(entry: Entry, text: str | None) -> bytes:
    """Return the JSON text of an entry, `text` if it is in one line of ASCII characters."""
    is_compact = text is not None and text.isascii() and "\n" not in text
    return (text if text is not None and is_compact else json.dumps(entry)).encode("ascii")


def image_rows(images: Sequence[Entry]) -> dict[int, int]:
    """Return the number of each of the entries `images` by its id."""
    return {image["id"]: row for row, image in enumerate(images)}


def annotation_arrays(
    content: Mapping[str, Any], annotations: AnnotationTexts | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Convert the content of a COCO file without issues to arrays.

    Args:
        content: The content.
        annotations: Its annotations, if they have been converted before.

    Returns:
        Arrays and details of an `AnnotationIndex`.
    """
    images = content["images"]
    if annotations is None:
        annotations = AnnotationTexts.of(content["annotations"], image_rows(images), images)
    owners, count = annotations.owners, len(images) + 1
    positions = np.argsort(owners, kind="stable")  # by image; annotations without an image come last
    counts = np.bincount(owners, minlength=count)
    objects = owners[annotations.is_object]
    masked = owners[annotations.is_object & annotations.has_mask]
    arrays = {
        "image_ids": np.array([image["id"] for image in images], dtype=np.int64),
        "sizes": np.array([[image["height"], image["width"]] for image in images], dtype=np.int64).reshape(-1, 2),
        "objects": np.bincount(objects, minlength=count)[:-1].astype(np.int32),
        "masked": np.bincount(masked, minlength=count)[:-1].astype(np.int32),
        "positions": positions.astype(np.int32),
        **_texts("name", (json.dumps(image["file_name"]).encode("ascii") + b"," for image in images)),
        **_texts("image", (json.dumps(image).encode("ascii") for image in images)),
        **_texts("annotation", _by_image(annotations.texts, positions, counts)),
    }
    details = {
        "content": {key: None if key in _PARTS else value for key, value in content.items()},
        "categories": content["categories"],
        "boxes_only": int(np.count_nonzero(~annotations.has_mask)),
    }
    return arrays, details


def is_annotation(entry: Any, image: Entry, categories: Collection[int]) -> bool:
    """Return whether an entry is an annotation without issues.

    Args:
        entry: The entry.
        image: Entry of its image, with id, height and width.
        categories: Ids of the categories.
    """
    box, area, segmentation = entry["bbox"], entry["area"], entry.get("segmentation")
    return (
        entry["image_id"] == image["id"]
        and entry["category_id"] in categories
        and type(entry["id"]) is int
        and entry["iscrowd"] in (0, 1)
        and len(box) == 4
        and all(abs(number) < _HUGE for number in (*box, area))
        and (not segmentation or is_drawable(segmentation, image["height"], image["width"]))
    )


def lies_within(box: Sequence[float], image: Entry) -> bool:
    """Return whether a box overlaps its image.

    Args:
        box: Left, top, width and height in pixels.
        image: Entry of the image, with its width and height.
    """
    left, top, width, height = box
    return left + width > 0 and left < image["width"] and top + height > 0 and top < image["height"]


def text_array(text: str) -> np.ndarray:
    """Return ASCII text as bytes, uint8 (n,)."""
    return np.frombuffer(text.encode("ascii"), dtype=np.uint8)


def _is_object(annotation: Entry, rows: Mapping[int, int], images: Sequence[Entry]) -> bool:
    """Return whether an annotation is an object to train on: no crowd, and within its image."""
    row = rows.get(annotation["image_id"])
    return row is not None and not annotation.get("iscrowd", 0) and lies_within(annotation["bbox"], images[row])


def _by_image(texts: Sequence[bytes], positions: np.ndarray, counts: np.ndarray) -> Iterator[bytes]:
    """Yield the annotations of each image as a JSON list; those without an image come last."""
    places = iter(positions.tolist())
    for count in counts.tolist():
        yield b"[" + b", ".join([texts[next(places)] for _ in range(count)]) + b"]"


def _texts(kind: str, texts: Iterable[bytes]) -> dict[str, np.ndarray]:
    """Join texts; text k lies between entries k and k + 1 of the ends."""
    joined, ends = bytearray(), [0]
    for text in texts:
        joined += text
        ends.append(len(joined))
    return {f"{kind}_text": np.frombuffer(joined, dtype=np.uint8), f"{kind}_ends": np.array(ends, dtype=np.int64)}
