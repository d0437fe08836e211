"""`gcnet check-data`: problems of a data set, found before training."""

from pathlib import Path

from gcnet.errors import UserError
from gcnet.workflows.check_data import CheckDataSettings

SUMMARY = "find problems of a data set before training: COCO annotations, class folders or a CSV"

Settings = CheckDataSettings


def run(settings: CheckDataSettings) -> int:
    """Check, print what was found, and write what is asked for; 1 where there are problems."""
    if settings.convert is not None:
        from gcnet.cli.convert_labels import convert_labels

        return convert_labels(settings, settings.convert)
    from gcnet.data.coco.open import is_coco

    if is_coco(settings.data):
        from gcnet.cli.check_annotations import check_annotations

        return check_annotations(settings)
    _refuse_other_labels(settings.data)
    _refuse_deeper_annotations(settings.data)
    from gcnet.cli.check_images import check_labeled

    _refuse_other_files(settings.data)
    settings.require_images()
    return check_labeled(settings)


def _refuse_other_files(data: Path) -> None:
    if data.is_file() and data.suffix.lower() != ".csv":
        hint = "; labels of YOLO or Pascal VOC are given as their folder" if data.suffix in (".txt", ".xml") else ""
        raise UserError(f"gcnet check-data takes an annotation file (.json), a folder or a CSV, found {data}{hint}")


def _refuse_other_labels(data: Path) -> None:
    from gcnet.data.coco.conversion.formats import describe_nested_labels, find_label_format

    if (label_format := find_label_format(data)) is not None:
        raise UserError(
            f"{data} holds {label_format.name}: convert them to COCO annotations by --convert FILE.json first"
        )
    if nested := describe_nested_labels(data):
        raise UserError(f"{data} holds {nested}: convert that folder to COCO annotations by --convert FILE.json first")


def _refuse_deeper_annotations(data: Path) -> None:
    from gcnet.data.coco.layouts import find_nested_annotations

    if data.is_dir() and (found := find_nested_annotations(data)):
        raise UserError(f"{data} has COCO annotations in deeper folders, such as {found}: check each of these files")
