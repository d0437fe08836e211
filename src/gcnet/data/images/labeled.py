"""Opens a user's labeled images: class folders, a CSV or shards, with a validation split or a held-out fraction."""

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from gcnet.data.images.folders import FolderLayout, describe_similar_classes, expected_tree, normalize_unicode
from gcnet.data.images.remote_folders import RemoteFolderLayout
from gcnet.data.images.shards import ShardLayout
from gcnet.data.images.sources import ImageSource, StoredImages, SubsetImages
from gcnet.data.images.table import CsvLayout
from gcnet.data.places import kept_listings
from gcnet.data.settings import BUILT_IN, DataSettings
from gcnet.errors import UserError, nearest, nearest_path, printable
from gcnet.remote_files import check_without_secret, is_remote

_SPLIT_IMAGES = {"val": "validation", "test": "test"}
_VALIDATION_SPLITS = ("val", "test")  # the test split is used if there is no validation split


@runtime_checkable
class ImageLayout(Protocol):
    """A layout of labeled images on disk.

    Args:
        data: Path or URL of the data.
        images: Folder of the image files, for layouts that take one.

    Attributes:
        expected: Description for messages, such as "a folder".
        takes_images: Whether the image files can be in a folder of their own.
    """

    expected: ClassVar[str]
    takes_images: ClassVar[bool]

    def __init__(self, data: str, images: str | None = None) -> None: ...

    @staticmethod
    def matches(data: str) -> bool:
        """Return whether the data at the path or URL `data` have this layout."""
        ...

    def splits(self) -> tuple[str, ...]:
        """Return the splits, keys of `SPLIT_NAMES`; empty for data without splits."""
        ...

    def class_names(self, split: str | None) -> list[str]:
        """Return the sorted class names of `split`; None stands for data without splits."""
        ...

    def open(self, split: str | None, classes: Sequence[str] | None = None) -> StoredImages:
        """Return the labeled images of a split.

        Args:
            split: A split of `splits`; None takes all images.
            classes: Known class names, in the order of the labels (default: those of the split, sorted).
        """
        ...

    def check_unsplit(self) -> None:
        """Check that data without splits are not splits in an unsupported arrangement.

        Raises:
            UserError: They are.
        """
        ...

    def unused_notes(self) -> list[str]:
        """Return notes on folders without a split, one sentence each."""
        ...

    def unused_hint(self) -> str:
        """Return data without a split, to end an error message."""
        ...

    def split_hint(self) -> str:
        """Return how to add a validation split, for the end of an error message."""
        ...


IMAGE_LAYOUTS: tuple[type[ImageLayout], ...] = (ShardLayout, RemoteFolderLayout, CsvLayout, FolderLayout)
"""Supported layouts of labeled images; a new layout is added here."""


def find_image_layout(data: str, argument: str, images: str | None = None) -> ImageLayout:
    """Find the layout of labeled images.

    Args:
        data: Path or URL of the images.
        argument: Argument that named the path, for messages.
        images: Folder of the image files, for layouts that take one.

    Returns:
        The first matching layout of `IMAGE_LAYOUTS`.

    Raises:
        UserError: The path does not exist or has none of these layouts.
    """
    check_without_secret(data)
    if is_remote(data) and data.lower().endswith(".json"):
        raise UserError(
            f"{argument} takes shards, a CSV or a folder of class folders at a URL, found {printable(data)}"
        )
    path = Path(data)
    for layout in IMAGE_LAYOUTS:
        if layout.matches(data):
            return layout(data, images)
    if path.is_file():
        *others, last = (layout.expected for layout in reversed(IMAGE_LAYOUTS))
        expected = f"{', '.join(others)} or {last}"
        raise UserError(f"{argument} takes {expected}, found the file {path}")
    if os.sep in data or path.suffix or argument != "`data`":
        layouts = expected_tree(data) if argument == "`data`" else "a folder of images, a CSV or shards"
        raise UserError(
            f'{argument}: nothing at "{data}" (tried {os.path.realpath(path)}){nearest_path(path) or ";"} expected '
            f"{layouts}"
        )
    proposal = nearest(data, BUILT_IN) or nearest_path(path) or ";"
    raise UserError(
        f'unknown data "{data}"{proposal} valid: {", ".join(BUILT_IN)}, '
        "a folder with train/ and val/, a CSV of path, label and split, or shards"
    )


@kept_listings()
def open_labeled(settings: DataSettings, split_seed: int) -> tuple[ImageSource, ImageSource]:
    """Open training and validation images of the same classes.

    Args:
        settings: `data` has a layout of `IMAGE_LAYOUTS`, with splits, `val` or `val_fraction`.
        split_seed: Seed of the held-out validation images.

    Returns:
        Training and validation images.

    Raises:
        UserError: There are no such data, no validation images, or validation classes without training images.
    """
    layout = find_image_layout(settings.data, "`data`", settings.images)
    splits = layout.splits()
    if splits and "train" not in splits:
        raise UserError(
            f"{settings.data} has {_SPLIT_IMAGES[splits[0]]} images but no training images (split train or training)"
            f"{layout.unused_hint()}"
        )
    train = _open(layout, settings, "train" if splits else None)
    train.notes = (*train.notes, *(layout.unused_notes() if splits else ()))
    if settings.val is not None:
        return train, _open_separate(settings.val, settings, train.classes)
    if settings.val_fraction is not None:
        if "val" in splits:
            raise UserError(f"{settings.data} has validation images; omit `val_fraction`")
        rest, held_out = hold_out(train, settings.val_fraction, split_seed)
        how = f"`val_fraction={settings.val_fraction:g}` of every class, seed {split_seed}"
        rest.notes = (*rest.notes, f"{len(held_out):,} of {len(train):,} images are held out for validation ({how})")
        return rest, held_out
    return train, _open_validation(layout, settings, splits, train.classes)


@kept_listings()
def open_labeled_validation(settings: DataSettings, split_seed: int, classes: Sequence[str] | None) -> ImageSource:
    """Open the validation images alone, the same as `open_labeled`; all images of data without splits.

    Args:
        settings: As for `open_labeled`.
        split_seed: As for `open_labeled`.
        classes: Class names in the order of the labels (default: as in training).

    Returns:
        The validation images.

    Raises:
        UserError: There are no such data, or they have a class that `classes` lacks.
    """
    layout = find_image_layout(settings.data, "`data`", settings.images)
    splits = layout.splits()
    if not classes and "train" in splits:
        classes = layout.class_names("train")
    if settings.val is not None:
        return _open_separate(settings.val, settings, classes)
    if settings.val_fraction is not None:
        images = _open(layout, settings, "train" if "train" in splits else None, classes)
        return hold_out(images, settings.val_fraction, split_seed)[1]
    if not splits:
        return _open(layout, settings, None, classes)
    return _open_validation(layout, settings, splits, classes)


@kept_listings()
def open_splits(data: str, images: str | None = None, *, argument: str = "check-data") -> dict[str, StoredImages]:
    """Open all splits of a data set, with the same classes.

    Args:
        data: Path of data in a layout of `IMAGE_LAYOUTS`.
        images: Folder of the image files, for layouts that take one.
        argument: Command or argument that named the path, for messages.

    Returns:
        Images by split; "all" for data without splits.

    Raises:
        UserError: There are no such data.
    """
    layout = find_image_layout(data, argument, images)
    settings = DataSettings(data=data, images=images)
    splits: Sequence[str | None] = layout.splits() or (None,)
    classes = _joint_classes([layout.class_names(split) for split in splits])
    opened = {split or "all": _open(layout, settings, split, classes) for split in splits}
    first = next(iter(opened.values()))
    unused = layout.unused_notes() if splits[0] else []
    first.notes = (*first.notes, *describe_similar_classes(classes, data), *unused)
    return opened


def _joint_classes(lists: Sequence[Sequence[str]]) -> list[str]:
    """Return the class names of all splits: in the order of the longest list, or sorted if it lacks one of them."""
    names = max(lists, key=len)
    if not all(set(names).issuperset(other) for other in lists):
        names = sorted({name for other in lists for name in other})
    classes: dict[str, str] = {}
    for name in names:
        classes.setdefault(normalize_unicode(name), name)
    return list(classes.values())


def _open(
    layout: ImageLayout, settings: DataSettings, split: str | None, classes: Sequence[str] | None = None
) -> StoredImages:
    """Open a split, or all images for None."""
    if settings.images is not None and not layout.takes_images and not (settings.val or "").lower().endswith(".csv"):
        raise UserError(f"`images` requires a CSV or an annotation file, found `data={settings.data}`")
    if split is None:
        layout.check_unsplit()
    return layout.open(split, classes)


def _open_separate(data: str, settings: DataSettings, classes: Sequence[str] | None) -> ImageSource:
    """Open separate validation data: their validation split, or all images of data without splits."""
    layout = find_image_layout(data, "`val`", settings.images)
    splits = layout.splits()
    return layout.open(next((split for split in _VALIDATION_SPLITS if split in splits), None), classes)


def _open_validation(
    layout: ImageLayout, settings: DataSettings, splits: Sequence[str], classes: Sequence[str] | None
) -> ImageSource:
    """Open the validation split, or the test split if there is no validation split."""
    split = next((name for name in _VALIDATION_SPLITS if name in splits), None)
    if split is None:
        raise UserError(
            f"{settings.data} has no validation images: `val_fraction=0.2` holds out images of every class, `val` "
            f"takes their folder or CSV{layout.unused_hint() if splits else ''}{layout.split_hint()}"
        )
    images = _open(layout, settings, split, classes)
    if split == "test":
        note = f"{settings.data} has no validation images; its test images are used for validation"
        images.notes = (*images.notes, note)
    return images


def hold_out(source: ImageSource, fraction: float, seed: int) -> tuple[SubsetImages, SubsetImages]:
    """Split images into training and validation images, class by class.

    round(fraction * n) of the n images of a class are held out, at least one and at most n - 1. The choice depends on
    seed and names only, so adding images changes the split by no more than the rounding.

    Args:
        source: All images.
        fraction: Fraction to hold out, between 0 and 1.
        seed: Seed of the choice.

    Returns:
        Training and validation images, in the order of `source`.

    Raises:
        UserError: No class has two images.
    """
    labels = source.all_labels()
    held = np.zeros(len(source), dtype=bool)
    for label in np.unique(labels):
        indices = np.flatnonzero(labels == label).tolist()
        count = min(max(1, round(fraction * len(indices))), len(indices) - 1)
        held[sorted(indices, key=lambda index: _rank(source.name(index), seed))[:count]] = True
    if not held.any():
        raise UserError(
            f"`val_fraction` needs a class of two images or more to split, found {len(source):,} images in "
            f"{len(np.unique(labels)):,} classes"
        )
    return SubsetImages(source, np.flatnonzero(~held)), SubsetImages(source, np.flatnonzero(held))


def _rank(name: str, seed: int) -> bytes:
    return blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
