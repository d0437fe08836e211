"""Paths of images as a table has them, to paths below the image folder."""

import os
from collections.abc import Sequence
from pathlib import Path

from gcnet.data.coco.paths import resolve_paths
from gcnet.errors import UserError, no_folder


class ImageRoot:
    """The folder of the images of a table.

    A path is relative to this folder or else to the table's, or absolute; as it is written it must not leave the
    image folder. What a symbolic link points to does not matter. Paths of other systems and machines (backslashes, URL
    encoding, leading folders, URLs, other case) are repaired where that leads to one file of the folder.

    Args:
        root: the folder of the images.
        beside: the table's folder.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, root: Path, beside: Path) -> None:
        if not root.is_dir():
            raise UserError(f"--images takes a folder, and {no_folder(root)}")
        self.root = root
        self._bases = list(dict.fromkeys((os.path.abspath(root), os.path.abspath(beside))))
        self._real = os.path.realpath(root)

    def below(self, paths: Sequence[str]) -> tuple[dict[str, str], str | None]:
        """Paths below the image folder by the paths of the table, and what was repaired, in a sentence or None.

        Those that lie outside of the folder are left out, unless they are those of no file while others are: these get
        a path without a file, as other missing images have.
        """
        found = {path: name for path in paths if (name := self._below(path)) is not None}
        lacking = [path for path in paths if not self._exists(path, found.get(path))]
        resolved = resolve_paths(self._bases[0], lacking)
        strays = [path for path in lacking if path not in found and path not in resolved.found]
        if len(strays) < len(paths):
            found |= {path: _without_start(path) for path in strays}
        return {**found, **resolved.found}, resolved.note()

    def _exists(self, path: str, name: str | None) -> bool:
        """Whether a path of the table is that of a file, in the folder or outside of it."""
        if name is not None:
            return os.path.lexists(os.path.join(self._bases[0], name))
        return any(os.path.lexists(os.path.normpath(os.path.join(base, path))) for base in self._bases)

    def _below(self, path: str) -> str | None:
        """The path below the image folder as it is written; None for one that lies outside."""
        found = [self._inside(os.path.join(base, path)) for base in self._bases]
        names = list(dict.fromkeys(name for name in found if name is not None))
        if len(names) < 2:
            return next(iter(names), None)
        return next((name for name in names if os.path.lexists(os.path.join(self._bases[0], name))), names[0])

    def _inside(self, path: str) -> str | None:
        normal = os.path.normpath(path)
        for root in (self._bases[0], self._real):
            start = os.path.join(root, "")
            if normal.startswith(start):
                return normal[len(start) :]
        return None


def _without_start(path: str) -> str:
    """A path that starts in the image folder, of one that starts elsewhere."""
    return "/".join(part for part in path.split("/") if part not in ("", ".", ".."))
