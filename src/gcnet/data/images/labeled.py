"""Opens a user's labeled images: class folders or a CSV, with a validation split or a held-out fraction."""

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from gcnet.data.images.folders import (
    FolderImages,
    alike,
    check_no_splits,
    class_folders,
    composed,
    expected_tree,
    find_splits,
    possible_splits,
)
from gcnet.data.images.sources import FileImages, ImageSource, SubsetImages
from gcnet.data.images.table import CsvImages, read_classes, read_splits, unknown_splits
from gcnet.data.settings import BUILT_IN, DataSettings
from gcnet.errors import UserError, nearest, nearest_path


def hold_out(source: ImageSource, fraction: float, seed: int) -> tuple[SubsetImages, SubsetImages]:
    """Training and validation images of one source, in its order.

    Of a class with n images round(fraction * n) are held out, at least one and at most n - 1; a single image is for
    training. The choice depends on seed and names alone: an added image moves no other by more than the rounding.

    Args:
        source: all images.
        fraction: share that is held out, between 0 and 1.
        seed: of the choice.

    Raises:
        UserError: no class has two images.
    """
    members: dict[int, list[int]] = {}
    for index in range(len(source)):
        members.setdefault(source.label(index), []).append(index)
    held: set[int] = set()
    for indices in members.values():
        count = min(max(1, round(fraction * len(indices))), len(indices) - 1)
        held.update(sorted(indices, key=lambda index: _rank(source.name(index), seed))[:count])
    if not held:
        raise UserError(
            f"--val-fraction needs a class of two images or more to split, found {len(source):,} images in "
            f"{len(members):,} classes"
        )
    everything = range(len(source))
    return (
        SubsetImages(source, [index for index in everything if index not in held]),
        SubsetImages(source, [index for index in everything if index in held]),
    )


def _rank(name: str, seed: int) -> bytes:
    return blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()


_LISTED = 5
_SPLIT_IMAGES = {"val": "validation", "test": "test"}
_VALIDATION = ("val", "test")  # in this order: test images stand in where there are no others


def open_labeled(settings: DataSettings, split_seed: int) -> tuple[ImageSource, ImageSource]:
    """Training and validation images, of the same classes.

    Args:
        settings: `data` is a folder or a CSV, with splits or with `val` or `val_fraction`.
        split_seed: of the choice of validation images with `val_fraction`.

    Raises:
        UserError: there are no such data, no validation images, or the validation images have further classes.
    """
    path = existing(settings.data, "--data")
    splits = _splits(path)
    if splits and "train" not in splits:
        raise UserError(
            f"{path} has {_SPLIT_IMAGES[splits[0]]} images but no training images (split train or training)"
            + _others(path)
        )
    train = _open(path, settings, "train" if splits else None)
    train.notes = (*train.notes, *_unused_folders(path, splits))
    if settings.val is not None:
        return train, _open_whole(settings.val, "--val", settings, train.classes)
    if settings.val_fraction is not None:
        if "val" in splits:
            raise UserError(
                f"{path} has validation images already, and --val-fraction is for data without: leave it out"
            )
        rest, held = hold_out(train, settings.val_fraction, split_seed)
        how = f"--val-fraction {settings.val_fraction:g} of every class, seed {split_seed}"
        rest.notes = (*rest.notes, f"{len(held):,} of {len(train):,} images are held out for validation ({how})")
        return rest, held
    return train, _open_validation(path, splits, settings, train.classes)


def open_labeled_validation(settings: DataSettings, split_seed: int, classes: Sequence[str] | None) -> ImageSource:
    """The validation images alone, as `open_labeled` chooses them; all images of data without splits.

    Args:
        settings: as for `open_labeled`.
        split_seed: as for `open_labeled`.
        classes: names of the classes in the order of the labels (default: as in training).

    Raises:
        UserError: there are no such data, or they have a class that `classes` lacks.
    """
    path = existing(settings.data, "--data")
    splits = _splits(path)
    classes = classes or _training_classes(path, splits)
    if settings.val is not None:
        return _open_whole(settings.val, "--val", settings, classes)
    if settings.val_fraction is not None:
        whole = _open(path, settings, "train" if "train" in splits else None, classes)
        return hold_out(whole, settings.val_fraction, split_seed)[1]
    if not splits:
        return _open(path, settings, None, classes)
    return _open_validation(path, splits, settings, classes)


def open_splits(data: str, images: str | None = None) -> dict[str, FileImages]:
    """All images of a folder or CSV by split, "all" where there are none, in the same classes for all splits.

    Args:
        data: a folder of class folders, with or without splits, or a CSV.
        images: folder of the images of a CSV.

    Raises:
        UserError: there are no such data.
    """
    path, settings = existing(data, "check-data"), DataSettings(data=data, images=images)
    splits = _splits(path) or (None,)
    if path.is_file():
        classes = sorted({name for split in splits for name in read_classes(path, split)})
    else:
        folders = find_splits(path)
        classes = sorted({name for split in splits for name in class_folders(folders[split] if split else path)})
    classes = sorted({composed(name): name for name in reversed(classes)}.values())
    found: dict[str, FileImages] = {split or "all": _open(path, settings, split, classes) for split in splits}
    for first in list(found.values())[:1]:
        first.notes = (*first.notes, *alike(classes, path), *_unused_folders(path, splits if splits[0] else ()))
    return found


def existing(data: str, flag: str) -> Path:
    """The path of a folder or CSV.

    Raises:
        UserError: there is nothing, or a file of another kind.
    """
    path = Path(data)
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise UserError(f"{flag} takes a folder or a .csv file, found the file {path}")
        return path
    if os.sep in data or path.suffix or flag != "--data":
        expected = f"expected {expected_tree(data)}" if flag == "--data" else "expected a folder of images or a CSV"
        raise UserError(
            f'{flag}: nothing at "{data}" (tried {os.path.realpath(path)}){nearest_path(path) or ";"} {expected}'
        )
    proposal = nearest(data, BUILT_IN) or nearest_path(path) or ";"
    raise UserError(
        f'unknown data "{data}"{proposal} valid: {", ".join(BUILT_IN)}, '
        "a folder with train/ and val/, or a CSV of path, label and split"
    )


def _splits(path: Path) -> Sequence[str]:
    return read_splits(path) if path.is_file() else tuple(find_splits(path))


def _open(
    path: Path, settings: DataSettings, split: str | None, classes: Sequence[str] | None = None
) -> FolderImages | CsvImages:
    """The images of a split, or of None all."""
    if path.is_file():
        return CsvImages(path, root=settings.images, split=split, classes=classes)
    _refuse_images(settings)
    if split is None:
        check_no_splits(path)
    return FolderImages(path if split is None else find_splits(path)[split], classes=classes)


def _open_whole(data: str, flag: str, settings: DataSettings, classes: Sequence[str] | None) -> ImageSource:
    """Validation data of their own: all of them, or where they have splits their validation part."""
    path = existing(data, flag)
    found = next((split for split in _VALIDATION if split in _splits(path)), None)
    if path.is_dir():
        return FolderImages(path if found is None else find_splits(path)[found], classes=classes)
    return CsvImages(path, root=settings.images, split=found, classes=classes)


def _open_validation(
    path: Path, splits: Sequence[str], settings: DataSettings, classes: Sequence[str] | None
) -> ImageSource:
    split = next((name for name in _VALIDATION if name in splits), None)
    if split is None:
        raise UserError(
            f"{path} has no validation images: --val-fraction 0.2 holds out a part of every class, --val takes their "
            f"folder or CSV{_others(path) if splits else ''}"
            + ("" if path.is_file() else f"; or lay it out as {expected_tree(path)}")
        )
    source = _open(path, settings, split, classes)
    if split == "test":
        note = f"{path} has no validation images apart from its test images, which are used for validation"
        source.notes = (*source.notes, note)
    return source


def _others(path: Path) -> str:
    """The folders or rows that no split takes, for messages; "" where there are none."""
    if path.is_file():
        return "".join(f"; {note}" for note in unknown_splits(path))
    names = possible_splits(path)
    return f"; other folders there: {', '.join(names[:_LISTED])}" if names else ""


def _unused_folders(path: Path, splits: Sequence[str | None]) -> list[str]:
    """A sentence on folders beside those of the splits; none where there are no such."""
    names = possible_splits(path) if splits and path.is_dir() else []
    shown = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return [f"{path}: folders that are no split by their name are not used: {shown}"] if names else []


def _training_classes(path: Path, splits: Sequence[str]) -> tuple[str, ...] | None:
    if "train" not in splits:
        return None
    if path.is_file():
        return read_classes(path, "train")
    return tuple(class_folders(find_splits(path)["train"]))


def _refuse_images(settings: DataSettings) -> None:
    if settings.images is not None and not (settings.val or "").lower().endswith(".csv"):
        raise UserError(f"--images belongs to a CSV or an annotation file, found the folder --data {settings.data}")
