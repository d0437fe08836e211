"""`gcnet check-data` for a folder of COCO splits: shared images and different categories."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from gcnet.data.images.sources import size_on_disk
from gcnet.errors import printable


@dataclass(frozen=True)
class CheckedFile:
    """An annotation file that was checked.

    Attributes:
        file: the annotation file.
        code: exit code of its check.
        images: paths of the image files by their names in the annotations.
        categories: ids and names of the categories.
    """

    file: Path
    code: int
    images: Mapping[str, str]
    categories: frozenset[tuple[int, str]]


def checked_file(file: Path, code: int, clean: Mapping[str, Any], folder: Path | None) -> CheckedFile:
    """What a comparison needs of a file.

    Args:
        file: the annotation file.
        code: exit code of its check.
        clean: its content without issues.
        folder: of its images; None where they are not known.
    """
    from gcnet.data.coco.paths import resolve_paths

    names = [image["file_name"] for image in clean["images"]]
    resolved = None if folder is None else resolve_paths(folder, names)
    paths = {name: path for name in names if resolved is not None and (path := resolved.path(name)) is not None}
    categories = frozenset((category["id"], category["name"]) for category in clean["categories"])
    return CheckedFile(file, code, paths, categories)


def compare_splits(files: Sequence[CheckedFile], listed: int) -> bool:
    """Print the images that several splits have, and categories that differ; whether there are such.

    Args:
        files: one for each split.
        listed: images that are printed of two splits.
    """
    found = False
    for first, second in combinations(files, 2):
        names = f"{printable(first.file.name)} and {printable(second.file.name)}"
        if first.file.name == second.file.name:
            names = f"{printable(first.file)} and {printable(second.file)}"
        if different := sorted({name for _, name in first.categories ^ second.categories}):
            print(f"\ncategories of {names} differ, in names or ids: {printable(', '.join(different[: listed or 1]))}")
        shared = _shared(first, second)
        if shared:
            print(f"\nimages in both {names}: {len(shared):,} (makes the AP too high)")
        for one, other in shared[:listed]:
            print(f"  {printable(one)}" + (f": the same bytes as {printable(other)}" if one != other else ""))
        found = found or bool(different or shared)
    return found


def _shared(first: CheckedFile, second: CheckedFile) -> list[tuple[str, str]]:
    """Names of the images of the first file with that of an image of the same bytes of the second."""
    sizes = [{name: size_on_disk(path) for name, path in file.images.items()} for file in (first, second)]
    both = (set(sizes[0].values()) & set(sizes[1].values())) - {None}  # only files of the same size are read
    others = {_digest(path): name for name, path in second.images.items() if sizes[1][name] in both}
    chosen = ((name, path) for name, path in first.images.items() if sizes[0][name] in both)
    pairs = ((name, others.get(_digest(path))) for name, path in chosen)
    return [(name, other) for name, other in pairs if other is not None]


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return path.encode("utf-8", "surrogateescape")
