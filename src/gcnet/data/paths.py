"""Paths of images as a table has them, to paths below the image folder."""

import os
from pathlib import Path

from gcnet.errors import UserError, nearest_path


class ImageRoot:
    """The folder of the images of a table.

    A path is relative to this folder or else to the table's, or absolute; as it is written it must not leave the
    image folder. What a symbolic link points to does not matter.

    Args:
        root: the folder of the images.
        beside: the table's folder.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, root: Path, beside: Path) -> None:
        if not root.is_dir():
            raise UserError(f"--images takes a folder, and there is none at {root}{nearest_path(root)}")
        self.root = root
        self._bases = list(dict.fromkeys((os.path.abspath(root), os.path.abspath(beside))))
        self._real = os.path.realpath(root)
        self._repaired = 0

    def below(self, path: str) -> str | None:
        """The path below the image folder; None for one that lies outside."""
        if "\\" in path and os.sep == "/" and not any(os.path.exists(os.path.join(base, path)) for base in self._bases):
            path = path.replace("\\", "/")
            self._repaired += 1
        found = [self._inside(os.path.join(base, path)) for base in self._bases]
        names = list(dict.fromkeys(name for name in found if name is not None))
        if len(names) < 2:
            return next(iter(names), None)
        return next((name for name in names if os.path.lexists(os.path.join(self._bases[0], name))), names[0])

    def note(self, table: object) -> str | None:
        """What was repaired, in a sentence; None where nothing was."""
        if not self._repaired:
            return None
        return f"{table}: {self._repaired:,} paths with backslashes are read with slashes"

    def _inside(self, path: str) -> str | None:
        normal = os.path.normpath(path)
        for root in (self._bases[0], self._real):
            start = os.path.join(root, "")
            if normal.startswith(start):
                return normal[len(start) :]
        return None
