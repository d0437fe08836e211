"""Lists image files in folders, recursively, and counts skipped files."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gcnet.data.decode import IMAGE_SUFFIXES, has_image_suffix
from gcnet.errors import UserError, is_url, nearest_path, printable
from gcnet.remote_files import check_without_secret

# What operating systems, NAS boxes and notebooks leave beside images.
_TOOL_FOLDERS = frozenset(
    ("__macosx", "@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "@tmp", "lost+found")
    + ("$recycle.bin", "system volume information", "__pycache__")
)
_TOOL_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini"))
_LISTED_SUFFIXES = 6


FolderTimes = tuple[int, int]
"""Times of the last change of a folder, of its names (mtime) and of its status (ctime), in nanoseconds."""

BROKEN_LINKS = "broken symbolic links"
"""Kind of file of `kind_of`."""


@dataclass
class Listing:
    """The image files below a folder.

    Attributes:
        files: Paths relative to the folder, in a fixed order.
        skipped: Number of other files by kind, such as ".heic".
        folders: Times of the last change of the folder, "", and of each folder below it.
        links: Number of image files that are symbolic links.
    """

    files: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    folders: dict[str, FolderTimes] = field(default_factory=dict)
    links: int = 0


def is_tool_file(name: str) -> bool:
    """Return whether `name` is a hidden file, a thumbnail, a recycle bin or another file of a tool."""
    return name.startswith(".") or name.lower() in _TOOL_FOLDERS or name.lower() in _TOOL_FILES


def list_images(folder: str | os.PathLike[str]) -> Listing:
    """List the image files below a folder, by suffix, without files of tools. Symbolic links are followed.

    Args:
        folder: Folder to search.

    Returns:
        Image files and counts of skipped files.

    Raises:
        UserError: A folder cannot be read, or a symbolic link leads to a parent folder.
    """
    listing = Listing()
    _walk(str(folder), "", (), listing)
    return listing


def folder_times(folder: str | os.PathLike[str]) -> FolderTimes:
    """Return the times of the last change of `folder`: adding, removing or renaming a file in it changes them."""
    status = os.stat(folder)
    return status.st_mtime_ns, status.st_ctime_ns


def subfolders(folder: str | os.PathLike[str]) -> list[str]:
    """Return the sorted names of the folders in `folder`, without those of tools."""
    return [entry.name for entry in _entries(str(folder)) if _is_folder(entry)]


def loose_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the sorted names of the files directly in `folder`, without those of tools."""
    return [entry.name for entry in _entries(str(folder)) if not _is_folder(entry)]


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Return the counts of `skipped`, most frequent first, such as "12 .heic, 3 without a suffix"."""
    ordered = sorted(skipped.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{count:,} {kind}" for kind, count in ordered[:_LISTED_SUFFIXES]]
    rest = sum(count for _, count in ordered[_LISTED_SUFFIXES:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])


def _walk(folder: str, name: str, parents: tuple[tuple[int, int], ...], listing: Listing) -> None:
    """Add the files below a folder to a listing.

    Args:
        folder: Path of the folder.
        name: Its path relative to the first folder, "" or with a final slash.
        parents: Device and inode of the folders around it.
        listing: Listing to extend.
    """
    status = os.stat(folder)  # before its files are read: a later change is then newer
    identity = status.st_dev, status.st_ino
    if identity in parents:
        raise UserError(f"{folder} contains a symbolic link to a parent folder: remove the link")
    listing.folders[name] = status.st_mtime_ns, status.st_ctime_ns
    for entry in _entries(folder):
        if _is_folder(entry):
            _walk(entry.path, f"{name}{entry.name}/", (*parents, identity), listing)
        elif has_image_suffix(entry.name):
            listing.files.append(name + entry.name)
            listing.links += entry.is_symlink()
        else:
            listing.skipped[kind_of(entry.path)] += 1


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            kept = [entry for entry in entries if not is_tool_file(entry.name)]
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    return sorted(kept, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return the kind of file at `path` that is not an image: its suffix, or broken symbolic links."""
    if os.path.islink(path) and not os.path.exists(path):
        return BROKEN_LINKS
    return os.path.splitext(path)[1].lower() or "without a suffix"


def find_images(paths: Iterable[Path | str], *, note: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Find image files: files by name, and all image files below folders, each once.

    Args:
        paths: Files and folders.
        note: Called with a sentence on skipped files of other formats.

    Returns:
        Paths, sorted within each folder.

    Raises:
        UserError: A path does not exist, or there are no image files.
    """
    named = [Path(path) for path in paths]
    files: dict[str, Path] = {}
    skipped: Counter[str] = Counter()
    for path in named:
        if not os.path.lexists(path):
            raise _missing(path)
        listing = list_images(path) if path.is_dir() else Listing([""])
        skipped += listing.skipped
        for file in listing.files:
            files.setdefault(os.path.realpath(path / file), path / file)
    others = f"{skipped.total():,} files of unsupported formats ({describe_skipped(skipped)})"
    if files and skipped:
        note(f"skipped {others}")
    if not files and skipped:
        raise UserError(f"no image files in {', '.join(map(str, named))}, only {others}")
    if not files:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"no image files in {', '.join(map(str, named))}; their names must end in one of {suffixes}")
    return list(files.values())


def _missing(path: Path) -> UserError:
    if is_url(path):
        check_without_secret(path)
        url = str(path).replace(":/", "://", 1)
        return UserError(f"URLs are not supported, found {url}: download the images first")
    return UserError(f"there is no file or folder {printable(path)}{nearest_path(path)}")
