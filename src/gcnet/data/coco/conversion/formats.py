"""The label formats that can be converted to COCO annotations."""

from pathlib import Path

from gcnet.data.coco.conversion.builder import LabelFormat
from gcnet.data.coco.conversion.voc import VOC
from gcnet.data.coco.conversion.yolo import YOLO
from gcnet.errors import printable

LABEL_FORMATS: tuple[LabelFormat, ...] = (YOLO, VOC)
"""Supported label formats, in the order in which data are matched; a new format is added here."""

_MAX_FOLDERS = 20


def find_label_format(path: Path) -> LabelFormat | None:
    """Return the label format of a data set.

    Args:
        path: Folder of a data set, or a file that describes it, such as data.yaml.

    Returns:
        The first matching format of `LABEL_FORMATS`, or None.
    """
    return next((label_format for label_format in LABEL_FORMATS if label_format.matches(path)), None)


def describe_nested_labels(folder: Path) -> str:
    """Name the first subfolder that holds convertible labels.

    Args:
        folder: Folder to search; 20 subfolders at most are searched.

    Returns:
        Format and folder for an error message, such as "YOLO labels in data/boats", or "" if there are none.
    """
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for subfolder in subfolders[:_MAX_FOLDERS]:
        has_labels = any((subfolder / name).is_dir() for name in ("Annotations", "labels"))
        if not has_labels and not (subfolder / "data.yaml").is_file():
            continue
        if (label_format := find_label_format(subfolder)) is not None:
            return f"{label_format.name} in {printable(subfolder)}"
    return ""
