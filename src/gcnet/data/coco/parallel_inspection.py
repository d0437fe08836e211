"""Annotations of a large file read and checked by several processes."""

import json
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gcnet.children import end_with_parent
from gcnet.data.coco.annotation_text import CutText, read_part
from gcnet.data.coco.annotations import AnnotationChecker, box_arrays, entry_digest, polygons, rough_hash
from gcnet.data.coco.box_formats import any_in_pixels, recognize_format
from gcnet.data.coco.categories_and_images import CategoryEntries, ImageEntries
from gcnet.data.coco.index import AnnotationTexts, image_rows
from gcnet.data.coco.inspection import SizeReader, image_names
from gcnet.data.coco.issues import Issue
from gcnet.data.coco.values import Entry, as_integer
from gcnet.errors import Failure

PARTS_OF_PROCESS = 8
"""Parts of the annotations for each process, so that all end at about the same time."""


@dataclass(frozen=True)
class CheckedContent:
    """The content of a COCO file in COCO's format, and its issues.

    Attributes:
        clean: The content without issues and annotations.
        annotations: Annotations without issues.
        count: Number of annotations in the file.
        issues: Issues in the order of `gcnet.data.coco.inspection.inspect`, with notes.
    """

    clean: dict[str, Any]
    annotations: AnnotationTexts
    count: int
    issues: list[Issue]


@dataclass(frozen=True)
class _Part:
    """A part of the annotations, checked by a process."""

    texts: AnnotationTexts
    count: int
    in_pixels: bool  # whether a polygon shows that polygons are in pixels
    read_issues: list[Issue]
    shape_issues: list[Issue]
    ids: np.ndarray  # 0 for an id that must be replaced
    hashes: np.ndarray
    boxes: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Work:
    """What forked processes inherit."""

    cut: CutText
    images: ImageEntries
    categories: CategoryEntries
    rows: dict[int, int]
    valid: list[Entry]


_work: list[_Work] = []


def inspect_in_processes(cut: CutText, find_folder: Callable[[], Path], processes: int) -> CheckedContent | None:
    """Check categories, images and annotations as `gcnet.data.coco.inspection.inspect`, in several processes.

    Args:
        cut: Text of a COCO file.
        find_folder: Returns the folder of the images, from which missing sizes are read.
        processes: Number of processes, which are forked.

    Returns:
        Issues and repaired content; None if the file must be checked as a whole: invalid JSON, polygons or boxes in
        another format than COCO's, annotations without an image id, or missing or repeated annotation ids.

    Raises:
        Failure: A process was killed.
    """
    issues: list[Issue] = []
    categories = CategoryEntries(cut.rest["categories"], issues)
    images = ImageEntries(cut.rest["images"], issues, SizeReader(find_folder, image_names(cut.rest)))
    valid = list(images.by_id.values())
    _work.append(_Work(cut, images, categories, image_rows(valid), valid))
    try:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(processes, context, end_with_parent, (signal.SIGKILL,)) as pool:
            found = list(pool.map(_checked_part, cut.parts))
    except BrokenProcessPool as error:
        raise Failure("a process that checked annotations was killed, perhaps for lack of memory") from error
    finally:
        _work.clear()
    parts = [part for part in found if part is not None]
    if len(parts) < len(found) or not any(part.in_pixels for part in parts):
        return None
    annotations = _joined(parts, valid, issues)
    if annotations is None:
        return None
    clean = {**cut.rest, "images": valid, "categories": categories.kept}
    return CheckedContent(clean, annotations, sum(part.count for part in parts), issues)


def _checked_part(span: tuple[int, int]) -> _Part | None:
    """Check a part of the annotations; their boxes should have COCO's format."""
    work, read_issues, shape_issues = _work[0], list[Issue](), list[Issue]()
    try:
        pairs = list(read_part(work.cut, span))
    except (ValueError, RecursionError):
        return None
    entries = [entry for entry, _ in pairs]
    if not all(isinstance(entry, dict) and "image_id" in entry for entry in entries):
        return None  # issues name them by their number in the file
    checker = AnnotationChecker(work.images, work.categories, read_issues)
    shaper = AnnotationChecker(work.images, work.categories, shape_issues)
    found = [(draft, entry, text) for entry, text in pairs if (draft := checker.draft(entry, 0))]
    shaped = [(kept, entry, text) for draft, entry, text in found if (kept := shaper.shaped(draft))]
    kept = [entry for entry, _, _ in shaped]
    texts = [text if _is_unchanged(entry, raw) else None for entry, raw, text in shaped]
    return _Part(
        AnnotationTexts.of(kept, work.rows, work.valid, texts),
        len(entries),
        any_in_pixels(polygons(entries, work.images)),
        read_issues,
        shape_issues,
        np.array([_valid_id(entry.get("id")) for entry in kept], dtype=np.int64),
        np.array([rough_hash(entry) for entry in kept], dtype=np.int64),
        box_arrays([draft for draft, _, _ in found]),
    )


def _is_unchanged(entry: Entry, raw: Entry) -> bool:
    """Whether the text of an annotation in the file is that of the checked one."""
    return entry.keys() == raw.keys() and all(_is_same(value, raw[key]) for key, value in entry.items())


def _is_same(value: Any, raw: Any) -> bool:
    if value is raw:
        return True
    if type(value) is not type(raw):
        return False
    if isinstance(value, list):
        return len(value) == len(raw) and all(map(_is_same, value, raw))
    return type(value) is int and value == raw


def _valid_id(identity: Any) -> int:
    """Return an id that annotations keep, or 0."""
    return identity if type(identity) is int and identity >= 1 and as_integer(identity) is not None else 0


def _joined(parts: Sequence[_Part], images: Sequence[Entry], issues: list[Issue]) -> AnnotationTexts | None:
    """Return the annotations of all parts without repetitions, and add their issues."""
    ids = np.concatenate([part.ids for part in parts])
    boxes = [np.concatenate(arrays) for arrays in zip(*(part.boxes for part in parts), strict=True)]
    if not recognize_format(*boxes).is_coco or not ids.all() or len(np.unique(ids)) < len(ids):
        return None
    texts = AnnotationTexts.joined([part.texts for part in parts])
    issues += [issue for part in parts for issue in part.read_issues]
    issues += [issue for part in parts for issue in part.shape_issues]
    hashes = np.concatenate([part.hashes for part in parts])
    keep = np.ones(len(ids), dtype=bool)
    seen: set[bytes] = set()
    for number in np.flatnonzero(_repeated(hashes)).tolist():
        digest = entry_digest(json.loads(texts.texts[number]))
        if digest in seen:
            image = images[int(texts.owners[number])]
            details = "the same again, but for its id", image["id"], int(ids[number]), image["file_name"]
            issues.append(Issue("repeated annotation", *details))
            keep[number] = False
        seen.add(digest)
    return texts if keep.all() else texts.select(keep)


def _repeated(values: np.ndarray) -> np.ndarray:
    """Return which values occur more than once."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse.reshape(-1)] > 1
