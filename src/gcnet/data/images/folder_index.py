"""Lists the images of class folders; a long list is kept in an index file, which the times of the folders validate."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from gcnet.data.decode import IMAGE_SUFFIXES
from gcnet.data.images.file_names import FileNames, NamePacker
from gcnet.data.images.listing import BROKEN_LINKS, FolderTimes, folder_times, list_images
from gcnet.data.index_file import Index, are_ends, index_path, read_index, save_index
from gcnet.storage import LockedError, StorageError, locked

INDEXED_FROM = 10_000
"""Number of images from which a list is worth an index: listing fewer takes less than 0.1 s on a local disk."""

_KIND = "images-1"
_DIMENSIONS = {"text": 1, "ends": 1, "counts": 1, "times": 2}
# A change within this time after another may leave the times of a folder as they are: FAT counts in steps of 2 s.
_SETTLED_SECONDS = 2.0


@dataclass(frozen=True)
class ClassFiles:
    """The image files of class folders.

    Attributes:
        names: Paths relative to the folder of the class folders, class by class, in a fixed order.
        counts: Number of images of each class folder.
        skipped: Number of other files by kind.
        folders: Class folders and the folders in them, relative, with a final slash.
        links: Number of image files that are symbolic links.
    """

    names: FileNames
    counts: Int64[np.ndarray, " classes"]
    skipped: Counter[str]
    folders: tuple[str, ...]
    links: int


def list_class_files(root: Path, classes: Sequence[str]) -> ClassFiles:
    """List the images of class folders, or read the list from an index if no folder changed since.

    Of several processes, such as those of torchrun on a machine, one lists the files and the others read its index.

    Args:
        root: Folder of the class folders.
        classes: Names of the class folders, in order.

    Returns:
        The image files. Lists of more than `INDEXED_FROM` images are mapped from a file in the cache, if it can be
        written and no folder changed in the last seconds.

    Raises:
        UserError: As for `list_images`.
    """
    path = index_path(root, _KIND)
    if (stored := _read(path, root, classes)) is not None:
        return stored
    if (few := _list(root, classes, most=INDEXED_FROM)) is not None:
        return few.files
    lock = path.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock):
            return _read(path, root, classes) or _indexed(path, root, classes)
    except LockedError:
        with locked(lock, wait=True):
            pass
        return _read(path, root, classes) or _listed(root, classes).files
    except (OSError, StorageError):  # a cache that cannot be written
        return _listed(root, classes).files


@dataclass(frozen=True)
class _Listed:
    """The image files, with what validates an index of them.

    Attributes:
        files: The image files.
        times: Times of the folders, in their order.
        started: Time before the first folder was read, in nanoseconds.
    """

    files: ClassFiles
    times: list[FolderTimes]
    started: int


def _indexed(path: Path, root: Path, classes: Sequence[str]) -> ClassFiles:
    """List the images and write the index; the list is read from it if possible."""
    listed = _listed(root, classes)
    files = listed.files
    settled = max(map(max, listed.times)) < listed.started - _SETTLED_SECONDS * 1e9
    # Buckets mounted as file systems have one time for all folders, which no change moves.
    has_times = len(set(listed.times)) > 1
    if BROKEN_LINKS in files.skipped or not (settled and has_times):  # the target of a broken link may become a folder
        return files
    arrays = {
        "text": files.names.text,
        "ends": files.names.ends,
        "counts": files.counts,
        "times": np.array(listed.times, dtype=np.int64),
    }
    details = {
        "classes": list(classes),
        "suffixes": sorted(IMAGE_SUFFIXES),
        "folders": list(files.folders),
        "skipped": dict(files.skipped),
        "links": files.links,
    }
    written = save_index(path, arrays, details)
    return (_read(path, root, classes) if written else None) or files


def _read(path: Path, root: Path, classes: Sequence[str]) -> ClassFiles | None:
    """Return the content of an index, or None if it is missing, damaged or older than a change of a folder."""
    return read_index(path, _DIMENSIONS, partial(_from_index, root=root, classes=list(classes)))


def _from_index(index: Index, root: Path, classes: list[str]) -> ClassFiles | None:
    """Return the content of an index, or None if it is invalid or older than a change of a folder."""
    arrays, details = index.arrays, index.details
    if details["classes"] != classes or details["suffixes"] != sorted(IMAGE_SUFFIXES):  # of another version of Pillow
        return None
    now = [folder_times(os.path.join(root, folder)) for folder in details["folders"]]
    if not np.array_equal(arrays["times"], np.array(now, dtype=np.int64)):
        return None
    ends, counts, links = arrays["ends"], arrays["counts"], details["links"]
    skipped = {str(kind): int(count) for kind, count in details["skipped"].items()}
    is_valid = (
        are_ends(ends, arrays["text"])
        and len(counts) == len(classes)
        and counts.min() >= 0
        and counts.max() <= len(ends) == counts.sum()  # the first, since the sum may overflow
        and type(links) is int
        and 0 <= links <= len(ends)
    )
    if not is_valid:
        return None
    return ClassFiles(
        FileNames(arrays["text"], ends), counts, Counter(skipped), tuple(map(str, details["folders"])), links
    )


def _listed(root: Path, classes: Sequence[str]) -> _Listed:
    listed = _list(root, classes)
    assert listed is not None
    return listed


def _list(root: Path, classes: Sequence[str], *, most: int | None = None) -> _Listed | None:
    """List the images of class folders; None if they are more than `most`."""
    started = time.time_ns()
    names, counts, links = NamePacker(), [], 0
    skipped: Counter[str] = Counter()
    times: dict[str, FolderTimes] = {}
    for name in classes:
        listing = list_images(root / name)
        names.extend(f"{name}/{file}" for file in listing.files)
        counts.append(len(listing.files))
        skipped += listing.skipped
        links += listing.links
        times |= {f"{name}/{folder}": changed for folder, changed in listing.folders.items()}
        if most is not None and len(names) > most:
            return None
    files = ClassFiles(names.names(), np.array(counts, dtype=np.int64), skipped, tuple(times), links)
    return _Listed(files, list(times.values()), started)
