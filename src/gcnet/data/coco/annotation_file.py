"""Annotation files as indexes: checked in a child process once, and kept in the cache."""

import gc
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gcnet.children import run_in_child
from gcnet.data.coco.annotation_text import cut_annotations
from gcnet.data.coco.box_formats import BOX_FORMATS, COCO, BoxFormat
from gcnet.data.coco.index import DIMENSIONS, AnnotationIndex, annotation_arrays, text_array
from gcnet.data.coco.inspection import (
    PARTS,
    image_names,
    inspect,
    load_unrepaired,
    parse_annotations,
    read_coco_text,
)
from gcnet.data.coco.issues import ISSUE_KINDS, Issue
from gcnet.data.coco.layouts import image_folder
from gcnet.data.coco.parallel_inspection import PARTS_OF_PROCESS, inspect_in_processes
from gcnet.data.index_file import Index, index_path, map_index, read_index, save_index
from gcnet.data.places import shown_place
from gcnet.errors import Failure, UserError
from gcnet.storage import StorageError, locked
from gcnet.version import __version__

CACHED = 2**20  # bytes of a file from which its index is kept
IN_CHILD = 2**23  # bytes of a file from which it is read in a child process, whose memory is free again when it ends
_MOST_PROCESSES = 4
_KEPT = 7 * 86_400  # seconds that the index of another version of gcnet is kept
_RECENT = 2 * 10**9  # nanoseconds; a file that was changed just before may change again at the same time of the clock
_SIZES_READ = ("missing image size", "invalid image size")  # issues of images whose files are looked at


@dataclass(frozen=True)
class AnnotationFile:
    """The checked content of an annotation file.

    Attributes:
        index: Content without issues.
        issues: Repaired or skipped entries.
        unlike: Number of boxes that do not match their masks.
        counts: Number of images, annotations and categories in the file.
        box_format: Format of the boxes in the file.
    """

    index: AnnotationIndex
    issues: tuple[Issue, ...]
    unlike: int
    counts: Mapping[str, int]
    box_format: BoxFormat

    def listed_names(self) -> list[str]:
        """Return the file names of all images of the file, also of skipped ones."""
        return json.loads(self.index.stored.arrays["listed_names"].tobytes())


@dataclass(frozen=True)
class ReadOptions:
    """How an annotation file is read.

    Attributes:
        repairs: Whether to repair or skip issues; otherwise annotations are loaded as by pycocotools.
        images: Image folder given by the user, a path or URL.
        split: "train" or "val".
        source: Path or URL of the file, if the file that is read is a copy of it.
    """

    repairs: bool
    images: Path | None
    split: str
    source: Path | None = None

    def place(self, file: Path) -> str:
        """Return the path or URL of the file `file` for messages."""
        return shown_place(self.source or file)


def open_annotation_file(file: Path, options: ReadOptions) -> AnnotationFile:
    """Open an annotation file through the index in the cache, which is made if it is missing, stale or damaged.

    Of several processes that need the same index, one makes it while the others wait.

    Args:
        file: The file.
        options: How it is read.

    Returns:
        Its content.

    Raises:
        UserError: The file is missing or not in COCO's format.
    """
    if _size(file) < CACHED:
        return _opened(Index(*_indexed(file, options)))
    path = index_path(file, f"coco-{'repaired' if options.repairs else 'unrepaired'}-{_code_version()}")
    cached = _cached(path, file)
    if cached is not None:
        return cached
    with ExitStack() as stack:
        with suppress(OSError, StorageError):  # without a cache, every process reads the file
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.with_suffix(".lock"), wait=True))
        return _cached(path, file) or _made(path, file, options)  # perhaps another process has made it meanwhile


def _opened(index: Index, path: Path | None = None) -> AnnotationFile:
    details = index.details
    return AnnotationFile(
        AnnotationIndex(index, path),
        tuple(Issue(**issue) for issue in details["issues"]),
        details["unlike"],
        details["counts"],
        BoxFormat(tuple(details["box_format"]["names"]), details["box_format"]["is_normalized"]),
    )


def _cached(path: Path, file: Path) -> AnnotationFile | None:
    """Return the content of the index at `path` if it is whole and the file has not changed since."""
    return read_index(path, DIMENSIONS, partial(_current, path=path, file=file))


def _current(index: Index, path: Path, file: Path) -> AnnotationFile | None:
    """Return the content of an index, or None if it contradicts itself or the file has changed since."""
    details = index.details
    is_settled = max(details["state"]["changed"]) < details["made"] - _RECENT
    if not (is_settled and _state(file) == details["state"]) and _digest(file) != details["sha256"]:
        return None
    opened = _opened(index, path)
    numbers = opened.unlike, *(opened.counts[part] for part in PARTS), opened.index.boxes_only
    is_valid = (
        all(type(number) is int for number in numbers)
        and isinstance(details["sha256"], str)
        and all(map(_is_issue, opened.issues))
        and set(opened.box_format.names) <= BOX_FORMATS.keys()
        and all(isinstance(name, str) for name in opened.listed_names())
        and opened.index.is_consistent()
    )
    return opened if is_valid else None


def _is_issue(issue: Issue) -> bool:
    return issue.kind in ISSUE_KINDS and isinstance(issue.details, str)


def _made(path: Path, file: Path, options: ReadOptions) -> AnnotationFile:
    """Read a file and write its index, in a child process if it is large."""
    # A process of multiprocessing that ends with its parent may not start others.
    in_child = _size(file) >= IN_CHILD and not multiprocessing.current_process().daemon
    with TemporaryDirectory(prefix="gcnet-") as folder:  # for an index that is not kept: it stays mapped
        paths = path, Path(folder, "index.safetensors")
        if in_child:
            written = run_in_child(f"reading {options.place(file)}", _write, paths, file, options, _processes())
        else:
            written = _write(paths, file, options, 1)
        index = None if written is None else map_index(written)
    if index is None:
        return _opened(Index(*_indexed(file, options)))
    return _opened(index, path if written == path else None)


def _write(paths: tuple[Path, Path], file: Path, options: ReadOptions, processes: int) -> Path | None:
    """Write the index of a file.

    Args:
        paths: Path in the cache, and a temporary one for an index that depends on other files or a full cache.
        file: The annotation file.
        options: How it is read.
        processes: Number of processes that check annotations.

    Returns:
        Path of the index; None if neither can be written.
    """
    collects = gc.isenabled()
    gc.disable()  # it would visit millions of objects again and again
    try:
        arrays, details = _indexed(file, options, processes)
    finally:
        if collects:
            gc.enable()
    depends = any(issue["kind"] in _SIZES_READ for issue in details["issues"])
    is_kept = not depends and details["state"] == _state(file)
    usable = paths if is_kept else paths[1:]
    _remove_old(paths[0])
    return next((path for path in usable if save_index(path, arrays, details)), None)


def _remove_old(path: Path) -> None:
    """Remove indexes of the same annotation file that other versions of gcnet made some time ago."""
    source = path.stem.rpartition("-")[2]
    for other in path.parent.glob(f"coco-*-{source}.safetensors"):
        with suppress(OSError):
            if other != path and time.time() - other.stat().st_mtime > _KEPT:
                other.unlink()


def _indexed(file: Path, options: ReadOptions, processes: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arrays and details of the index of a file, checked in some processes."""
    made = time.time_ns()
    about = {"made": made, "state": _state(file), "sha256": _digest(file)}
    place = str(file) if options.source is None else options.place(file)
    text = read_coco_text(file, "annotation", place)
    in_parts = _inspected_in_parts(text, file, options, processes) if options.repairs and processes > 1 else None
    if in_parts is not None:
        arrays, details = in_parts
    else:
        content = parse_annotations(text, place)
        if options.repairs:
            arrays, details = _inspected(content, partial(_folder, file, content, options))
        else:
            arrays, details = annotation_arrays(load_unrepaired(content, place)[0])
            details |= {"issues": [], "unlike": 0, "box_format": asdict(COCO)}
        own_arrays, own_details = _of_file(content, len(content["annotations"]))
        arrays, details = arrays | own_arrays, details | own_details
    return arrays, details | about


def _of_file(content: dict[str, Any], annotations: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arrays and details of a file before repairs, with a number of annotations."""
    images, categories = content["images"], content["categories"]
    arrays = {
        "raw_images": text_array(json.dumps([_raw_id(entry) for entry in images])),
        "raw_categories": text_array(json.dumps([_raw_id(entry) for entry in categories])),
        "listed_names": text_array(json.dumps(image_names(content))),
    }
    counts = {"images": len(images), "annotations": annotations, "categories": len(categories)}
    return arrays, {"counts": counts}


def _inspected_in_parts(
    text: str, file: Path, options: ReadOptions, processes: int
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return arrays and details of a text whose annotations are read and repaired by several processes, if possible."""
    cut = cut_annotations(text, PARTS_OF_PROCESS * processes)
    if cut is None or not all(isinstance(cut.rest.get(part), list) for part in PARTS):
        return None
    checked = inspect_in_processes(cut, partial(_folder, file, cut.rest, options), processes)
    if checked is None:
        return None
    arrays, details = annotation_arrays(checked.clean, checked.annotations)
    issues = [issue for issue in checked.issues if issue.action != "noted"]
    notes = [issue for issue in checked.issues if issue.action == "noted"]
    own_arrays, own_details = _of_file(cut.rest, checked.count)
    return arrays | own_arrays, details | _of_issues(issues, notes, COCO) | own_details


def _inspected(content: dict[str, Any], find_folder: Callable[[], Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arrays and details of repaired content."""
    inspection = inspect(content, decodes=False, find_folder=find_folder)
    arrays, details = annotation_arrays(inspection.clean)
    return arrays, details | _of_issues(inspection.issues, inspection.notes, inspection.box_format)


def _of_issues(issues: Sequence[Issue], notes: Sequence[Issue], box_format: BoxFormat) -> dict[str, Any]:
    return {
        "issues": [asdict(issue) for issue in issues],
        "unlike": sum(note.kind == "bbox unlike the mask" for note in notes),
        "box_format": asdict(box_format),
    }


def _folder(file: Path, content: dict[str, Any], options: ReadOptions) -> Path:
    """Return the image folder, from which missing sizes are read; finding it lists it."""
    file = options.source or file
    try:
        return image_folder(file, image_names(content), images=options.images, split=options.split)
    except Failure:
        raise
    except UserError:
        return file.parent


def _processes() -> int:
    """Return the number of processes that check a large file; each needs memory for its part."""
    return min(_MOST_PROCESSES, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1


def _size(file: Path) -> int:
    return os.stat(file).st_size if file.is_file() else 0


def _raw_id(entry: Any) -> Any:
    return entry.get("id") if isinstance(entry, dict) else None


def _state(file: Path) -> dict[str, Any] | None:
    """Return what changes with the content of a file; None for a missing file."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return {"size": found.st_size, "inode": found.st_ino, "changed": [found.st_mtime_ns, found.st_ctime_ns]}


def _digest(file: Path) -> str | None:
    """Return the SHA-256 of a file; None for a file that cannot be read."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


@cache
def _code_version() -> str:
    """Return the version of gcnet with a digest of the modules that check annotations."""
    digest = hashlib.sha256(__version__.encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()[:16]
