"""Image folders of a CSV, on this machine or at a URL, and the paths of the CSV in them."""

import os
from collections.abc import Sequence
from pathlib import Path

from gcnet.data.coco.paths import resolve_paths
from gcnet.data.places import is_folder
from gcnet.errors import UserError, no_folder, printable


class ImageRoot:
    """The image folder of a CSV.

    Paths are relative to this folder or to that of the CSV, or absolute, and must be inside the image folder; symbolic
    links may lead out of it. Paths of other systems and machines (backslashes, URL encoding, leading folders, URLs,
    letter case) are repaired if they match a single file.

    Args:
        root: Folder of the images.
        beside: Folder of the CSV.

    Raises:
        UserError: The image folder does not exist.
    """

    def __init__(self, root: Path, beside: Path) -> None:
        if not root.is_dir():
            raise UserError(f"`images` takes a folder, but {no_folder(root)}")
        self.root = root
        self._bases = list(dict.fromkeys((os.path.abspath(root), os.path.abspath(beside))))
        self._real = os.path.realpath(root)

    def below(self, paths: Sequence[str]) -> tuple[dict[str, str], str | None]:
        """Resolve paths to paths relative to the image folder.

        Paths outside of the folder are omitted. If some files exist, paths without a file are kept, as missing images.

        Args:
            paths: Paths as written in the CSV.

        Returns:
            Relative path by path of the CSV, and a note on repaired paths, or None.
        """
        names = {path: name for path in paths if (name := self._below(path)) is not None}
        missing = [path for path in paths if not self._exists(path, names.get(path))]
        resolved = resolve_paths(self._bases[0], missing)
        strays = [path for path in missing if path not in names and path not in resolved.files]
        if len(strays) < len(paths):
            names |= {path: _without_start(path) for path in strays}
        return {**names, **resolved.files}, resolved.note()

    def _exists(self, path: str, name: str | None) -> bool:
        """Return whether a path of the CSV is a file, inside or outside of the folder."""
        if name is not None:
            return os.path.lexists(os.path.join(self._bases[0], name))
        return any(os.path.lexists(os.path.normpath(os.path.join(base, path))) for base in self._bases)

    def _below(self, path: str) -> str | None:
        """Return the path relative to the image folder, or None if it lies outside."""
        inside = [self._inside(os.path.join(base, path)) for base in self._bases]
        names = list(dict.fromkeys(name for name in inside if name is not None))
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

    def has_some(self, names: Sequence[str]) -> bool:
        """Return whether one of the paths `names`, relative to the folder, is a file."""
        return any((self.root / name).exists() for name in names)


class RemoteImageRoot:
    """The image folder of a CSV at a URL, in which paths are repaired as by `ImageRoot`.

    Args:
        root: URL of the folder.

    Attributes:
        sizes: Size in bytes of each file that is there, by its path relative to the folder.

    Raises:
        UserError: The folder does not exist, or cannot be read.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.sizes: dict[str, int] = {}
        if not is_folder(self.root):
            raise UserError(f"`images` takes a folder, but there is none at {printable(root)}")

    def below(self, paths: Sequence[str]) -> tuple[dict[str, str], str | None]:
        """Resolve paths to paths relative to the image folder; paths without a file are kept, as missing images.

        Args:
            paths: Paths as written in the CSV.

        Returns:
            Relative path by path of the CSV, and a note on repaired paths, or None.
        """
        resolved = resolve_paths(self.root, dict.fromkeys(paths))
        self.sizes |= {resolved.files[path]: size for path, size in resolved.sizes.items()}
        missing = {path: _without_start(path) for path in resolved.missing}
        return {**missing, **resolved.files}, resolved.note()

    def has_some(self, names: Sequence[str]) -> bool:
        """Return whether one of the paths `names`, relative to the folder, is a file."""
        return any(name in self.sizes for name in names)


def _without_start(path: str) -> str:
    """Return a path without leading folders such as .. or /."""
    return "/".join(part for part in path.split("/") if part not in ("", ".", ".."))
