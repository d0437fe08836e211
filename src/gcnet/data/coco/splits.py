"""Annotation files of training and validation data, from `--data`, `--val` and `--val-fraction`."""

import os
from collections.abc import Sequence
from pathlib import Path

from gcnet.data.coco.conversion.voc import is_voc
from gcnet.data.coco.conversion.yolo import is_yolo
from gcnet.data.coco.layouts import find_layout, unrecognized
from gcnet.data.decode import check_text_file
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError, printable

_LOOKED_AT = 20  # folders in which labels are looked for


def split_files(settings: DataSettings) -> tuple[Path, Path | None]:
    """The annotation files of training and validation; None for validation that is held out of training.

    Raises:
        UserError: there is no such file, or no validation data.
    """
    train = annotation_file(settings.data, "--data", "train")
    check_text_file(train)
    if settings.val is not None:
        val = annotation_file(settings.val, "--val", "val")
        if val.exists() and train.exists() and os.path.samefile(val, train):
            raise UserError(f"--val must be other images than --data, found {printable(val)} for both")
        return train, val
    layout = find_layout(Path(settings.data))
    own = layout.val or layout.test
    if settings.val_fraction is not None:
        if layout.val:
            raise UserError(
                f"{printable(settings.data)} has validation data of its own, {printable(layout.val[0])}: leave out "
                f"--val-fraction, or name the file of the training images by --data"
            )
        return train, None
    if not own:
        raise UserError(
            f"{printable(train)} has training images only: name a file of validation images by --val FILE, or hold "
            f"out a share of the images by --val-fraction 0.2"
        )
    return train, _single(own, "--val")


def annotation_file(data: str, flag: str, split: str) -> Path:
    """The annotation file of a split, "train" or "val", that a flag names: a file, or a folder that holds it.

    Raises:
        UserError: the folder has no such file, or several.
    """
    path = Path(data)
    if not path.is_dir() and (path.suffix.lower() == ".json" or (path.is_file() and not is_yolo(path))):
        return path
    layout = find_layout(path)
    found = {"train": layout.train, "val": layout.val or layout.test}[split] or layout.unsplit
    if not found and flag == "--val":
        found = layout.files()
    if not found and (labels := labels_format(path)) is not None:
        place = printable(path)
        raise UserError(
            f"{place} holds {labels}: convert them to COCO annotations by gcnet check-data {place} --convert FILE.json"
        )
    if not found and path.is_dir() and (deeper := deeper_labels(path)):
        raise UserError(
            f"{printable(path)} holds {deeper}: convert that folder by gcnet check-data --convert FILE.json"
        )
    if not found:
        raise unrecognized(layout, split)
    return _single(found, flag)


def labels_format(path: Path) -> str | None:
    """The format of labels that `gcnet check-data --convert` converts, in words; None for other data."""
    if is_yolo(path):
        return "YOLO labels"
    return "Pascal VOC annotations" if is_voc(path) else None


def deeper_labels(path: Path) -> str:
    """The first folder in a folder whose labels can be converted, and their format, for messages; "" for none."""
    folders = sorted(one for one in path.iterdir() if one.is_dir()) if path.is_dir() else []
    for folder in folders[:_LOOKED_AT]:
        has_own = (
            any((folder / name).is_dir() for name in ("Annotations", "labels")) or (folder / "data.yaml").is_file()
        )
        if has_own and (found := labels_format(folder)) is not None:
            return f"{found} in {printable(folder)}"
    return ""


def validates_on_test(settings: DataSettings) -> bool:
    """Whether the data have a test split and no other for validation."""
    layout = find_layout(Path(settings.data))
    return settings.val is None and not layout.val and bool(layout.test)


def _single(files: Sequence[Path], flag: str) -> Path:
    if len(files) > 1:
        listed = ", ".join(printable(path) for path in files[:4]) + (", ..." if len(files) > 4 else "")
        raise UserError(f"{flag} needs one annotation file, found {len(files)}: {listed}; name one by {flag} FILE")
    return files[0]
