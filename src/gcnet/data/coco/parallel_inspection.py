"""Annotations of a large file checked by several processes."""

import json
import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gcnet.children import end_with_parent
from gcnet.data.coco.annotations import AnnotationChecker, box_arrays, entry_digest, polygons, rough_hash
from gcnet.data.coco.box_formats import are_fractions, recognize_format
from gcnet.data.coco.categories_and_images import CategoryEntries, ImageEntries
from gcnet.data.coco.index import AnnotationTexts, image_rows
from gcnet.data.coco.inspection import SizeReader, image_names
from gcnet.data.coco.issues import Issue
from gcnet.data.coco.values import Entry, as_integer
from gcnet.errors import Failure

_PARTS = 8  # of each process, so that all end at about the same time


@dataclass(frozen=True)
class CheckedContent:
    """The content of a COCO file in COCO's format, and its issues.

    Attributes:
        clean: The content without issues, but with the annotations of the file.
        annotations: Annotations without issues.
        issues: Issues in the order of `gcnet.data.coco.inspection.inspect`, with notes.
    """

    clean: dict[str, Any]
    annotations: AnnotationTexts
    issues: list[Issue]


@dataclass(frozen=True)
class _Part:
    """A part of the annotations, checked by a process."""

    texts: AnnotationTexts
    read_issues: list[Issue]
    shape_issues: list[Issue]
    ids: np.ndarray  # 0 for an id that must be replaced
    hashes: np.ndarray
    boxes: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Work:
    """What forked processes inherit."""

    entries: Sequence[Any]
    images: ImageEntries
    categories: CategoryEntries
    rows: dict[int, int]
    valid: list[Entry]


_work: list[_Work] = []


def inspect_in_processes(content: dict[str, Any], folder: Path, processes: int) -> CheckedContent | None:
    """Check categories, images and annotations as `gcnet.data.coco.inspection.inspect`, in several processes.

    Args:
        content: Content of a COCO file; not modified.
        folder: Folder of the images, from which missing sizes are read.
        processes: Number of processes, which are forked.

    Returns:
        Issues and repaired content; None if polygons or boxes have another format than COCO's, or annotations need new
        ids: such a file cannot be checked in parts.

    Raises:
        Failure: A process was killed.
    """
    issues: list[Issue] = []
    categories = CategoryEntries(content["categories"], issues)
    images = ImageEntries(content["images"], issues, SizeReader(folder, image_names(content)))
    entries, valid = content["annotations"], list(images.by_id.values())
    if not entries or are_fractions(polygons(entries, images)):
        return None
    _work.append(_Work(entries, images, categories, image_rows(valid), valid))
    size = 1 + len(entries) // (_PARTS * processes)
    ranges = [range(start, min(start + size, len(entries))) for start in range(0, len(entries), size)]
    try:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(processes, context, end_with_parent, (signal.SIGKILL,)) as pool:
            parts = list(pool.map(_checked_part, ranges))
    except BrokenProcessPool as error:
        raise Failure("a process that checked annotations was killed, perhaps for lack of memory") from error
    finally:
        _work.clear()
    annotations = _joined(parts, valid, issues)
    clean = {**content, "images": valid, "categories": categories.kept}
    return None if annotations is None else CheckedContent(clean, annotations, issues)


def _checked_part(numbers: range) -> _Part:
    """Check a part of the annotations; their boxes should have COCO's format."""
    work, read_issues, shape_issues = _work[0], list[Issue](), list[Issue]()
    checker = AnnotationChecker(work.images, work.categories, read_issues)
    drafts = [draft for number in numbers if (draft := checker.draft(work.entries[number], number + 1))]
    shaper = AnnotationChecker(work.images, work.categories, shape_issues)
    kept = [entry for draft in drafts if (entry := shaper.shaped(draft))]
    return _Part(
        AnnotationTexts.of(kept, work.rows, work.valid),
        read_issues,
        shape_issues,
        np.array([_valid_id(entry.get("id")) for entry in kept], dtype=np.int64),
        np.array([rough_hash(entry) for entry in kept], dtype=np.int64),
        box_arrays(drafts),
    )


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
