"""Labeled images in class folders of a bucket: `s3://bucket/photos/train/CLASS/*.jpg`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from gcnet.data.decode import has_image_suffix
from gcnet.data.images.file_names import FileNames
from gcnet.data.images.folders import describe_loose_images, expected_tree, label_classes
from gcnet.data.images.listing import describe_skipped, is_tool_file
from gcnet.data.images.remote_images import RemoteImages
from gcnet.data.places import list_place
from gcnet.data.splits import SPLIT_NAMES, split_named
from gcnet.errors import UserError, printable
from gcnet.remote_files import is_remote, list_remote, remote_entries


class RemoteFolderLayout:
    """Layout of class folders at a URL: `CLASS/*.jpg`, or `SPLIT/CLASS/*.jpg`.

    Args:
        data: URL of the folder.
        images: Not used: the images are in the class folders.
    """

    expected: ClassVar[str] = "a URL of a folder"
    takes_images: ClassVar[bool] = False

    def __init__(self, data: str, images: str | None = None) -> None:  # noqa: ARG002
        self.url = data.rstrip("/")
        self._folders = _class_folders(self.url)
        if not self._folders:
            raise UserError(f"no class folders or shards at {printable(data)}; expected {expected_tree(self.url)}")
        named = [(split_named(name), name) for name in self._folders]
        self._splits: dict[str | None, str] = {split: name for split, name in named if split is not None}

    @staticmethod
    def matches(data: str) -> bool:
        """Return whether `data` is the URL of a folder."""
        return is_remote(data) and not data.lower().endswith((".csv", ".json"))

    def splits(self) -> tuple[str, ...]:
        """Return the splits with a folder, keys of `SPLIT_NAMES`."""
        return tuple(split for split in SPLIT_NAMES if split in self._splits)

    def class_names(self, split: str | None) -> list[str]:
        """Return the sorted class names of `split`, without listing images; None stands for folders without splits."""
        return self._folders if split is None else _class_folders(self._root(split))

    def open(self, split: str | None, classes: Sequence[str] | None = None) -> RemoteImages:
        """Return the labeled images of a split.

        Args:
            split: A split of `splits`; None takes class folders without splits.
            classes: Known class names, in the order of the labels (default: those of the split, sorted).

        Raises:
            UserError: There are no images, a class is unknown or has no images, or the URL cannot be read.
        """
        root = self._root(split)
        skipped: Counter[str] = Counter()
        files: list[tuple[str, int]] = []
        loose: list[str] = []
        for entry in list_remote(root):
            name = entry.url.removeprefix(f"{root}/")
            parts = name.split("/")
            if any(map(is_tool_file, parts)):
                continue
            if len(parts) > 1 and all(parts) and has_image_suffix(parts[-1]):
                files.append((name, entry.size))
            else:
                loose += [name] if len(parts) == 1 else []
                skipped[PurePosixPath(name).suffix.lower() or "without a suffix"] += 1
        if not files:
            expected = f"no images in the class folders of {printable(root)}; expected {expected_tree(self.url)}"
            raise UserError(describe_loose_images(printable(root), loose) or expected)
        own = sorted({name.partition("/")[0] for name, _ in files})
        if classes is None and (empty := sorted(set(self.class_names(split)).difference(own))):
            raise UserError(f"every class folder needs images, found none in {printable(f'{root}/{empty[0]}')}")
        label_of, notes = label_classes(own, classes, printable(root))
        if skipped:
            notes.append(f"{printable(root)}: skipped {skipped.total():,} other files ({describe_skipped(skipped)})")
        return RemoteImages(
            root,
            FileNames.packed(name for name, _ in files),
            sizes=np.array([size for _, size in files], dtype=np.int64),
            labels=np.array([label_of[name.partition("/")[0]] for name, _ in files], dtype=np.int32),
            classes=own if classes is None else classes,
            notes=notes,
        )

    def check_unsplit(self) -> None:
        """Accept any class folders."""

    def unused_notes(self) -> list[str]:
        """Return a note on folders without a split."""
        return [f"{printable(self.url)}: {hint}"] if (hint := self.unused_hint().removeprefix("; ")) else []

    def unused_hint(self) -> str:
        """Return folders without a split, to end an error message."""
        others = [printable(name) for name in self._folders if name not in self._splits.values()]
        return f"; folders without the name of a split are not used: {', '.join(others[:5])}" if others else ""

    def split_hint(self) -> str:
        """Return the expected folders, for the end of an error message."""
        return f"; or use the layout {expected_tree(self.url)}"

    def _root(self, split: str | None) -> str:
        return self.url if split is None else f"{self.url}/{self._splits[split]}"


def _class_folders(url: str) -> list[str]:
    """Return the sorted names of the folders at a URL, without those of tools."""
    listing = list_place(url)
    if not (listing.folders or listing.sizes):
        remote_entries(url)  # which names the missing folder
    return [name for name in listing.folders if not is_tool_file(name)]
