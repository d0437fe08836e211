"""Converts YOLO labels and Pascal VOC annotations to COCO annotations."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gcnet.data.coco.conversion.builder import ConvertedData, LabelIssue
from gcnet.data.coco.conversion.formats import LABEL_FORMATS, describe_nested_labels, find_label_format
from gcnet.data.coco.inspection import inspect
from gcnet.data.coco.issues import Issue
from gcnet.data.places import shown_place
from gcnet.errors import UserError, printable
from gcnet.storage import write_atomic
from gcnet.tasks.results import DataReport, describe_issues


@dataclass(frozen=True)
class ConversionReport(DataReport):
    """Result of `gcnet.check_data` with `convert`.

    Attributes:
        issues: labels that were skipped or repaired.
        files: descriptions of the files written, by split; "" for a data set without splits.
        command: a training command for these files.
        listed: maximum number of issues of each kind in the text.
    """

    issues: tuple[LabelIssue | Issue, ...]
    files: Mapping[str, str]
    command: str
    listed: int

    @property
    def has_issues(self) -> bool:
        """Whether labels were skipped or repaired."""
        return bool(self.issues)

    def __str__(self) -> str:
        """Return the first issues of each kind, the files written, and a training command."""
        kinds = dict.fromkeys((issue.kind for issue in self.issues), "")
        count = f"issues       {len(self.issues):,}" + (f" of {len(kinds)} kinds" if kinds else "")
        written = [f"wrote {description}" for description in self.files.values()]
        lines = [count, *describe_issues(self.issues, kinds, self.listed), "", *written]
        return "\n".join([*lines, f"train with: {self.command}"])

    def write(self, folder: Path) -> list[str]:
        raise NotImplementedError(f"converted annotations are written already, not into {folder}")


def convert_labels(data: Path, output: Path, listed: int) -> ConversionReport:
    """Convert labels to COCO annotations, one file per split.

    Args:
        data: a YOLO data.yaml, or a folder of YOLO labels or Pascal VOC annotations.
        output: annotation file; for splits NAME_train.json, NAME_val.json, ... in the same folder.
        listed: maximum number of issues of each kind in the text of the report.

    Returns:
        The report.

    Raises:
        UserError: the label format is not supported, or an output file exists.
    """
    converted = _read(data)
    files = {split: _file(output, split) for split in converted.splits}
    for file in files.values():
        if file.exists():
            raise UserError(f"`convert` must not exist yet, found {printable(file)}; take another name")
    issues: list[LabelIssue | Issue] = list(converted.problems)
    output.parent.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, content in converted.splits.items():
        inspection = inspect(content)
        issues += [*inspection.issues, *(note for note in inspection.notes if note.kind == "bbox outside the image")]
        clean = inspection.clean
        write_atomic(files[split], json.dumps(clean).encode())
        written[split] = (
            f"{printable(files[split])}: {len(clean['images']):,} images, {len(clean['annotations']):,} objects, "
            f"{len(clean['categories']):,} classes"
        )
    return ConversionReport(tuple(issues), written, _training_command(converted, files), listed)


def _read(path: Path) -> ConvertedData:
    label_format = find_label_format(path)
    if label_format is not None:
        return label_format.convert(path)
    if nested := describe_nested_labels(path):
        raise UserError(f"`convert` takes the folder of one data set, but {printable(path)} holds {nested}")
    expected = ", or ".join(label_format.expected for label_format in LABEL_FORMATS)
    raise UserError(f"`convert` takes {expected}; found neither in {shown_place(path)}")


def _file(output: Path, split: str) -> Path:
    return output.with_name(f"{output.stem}_{split}{output.suffix}") if split else output


def _training_command(converted: ConvertedData, files: dict[str, Path]) -> str:
    train = files.get("train") or next(iter(files.values()))
    val = files.get("val") or files.get("test")
    validation = ["--val", str(val)] if val is not None and val != train else ["--val-fraction", "0.2"]
    paths = ["--data", str(train), *validation, "--images", str(converted.root)]
    return printable(shlex.join(["gcnet", "train", "--model", "faster_rcnn_gc_resnet50", *paths]))
