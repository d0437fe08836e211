"""`gcnet check-data --convert`: converts YOLO labels and Pascal VOC annotations to COCO annotations."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gcnet.errors import UserError, printable

if TYPE_CHECKING:
    from gcnet.data.coco.conversion.builder import ConvertedData, LabelIssue
    from gcnet.data.coco.issues import Issue
    from gcnet.workflows.check_data import CheckDataSettings


def convert_labels(settings: "CheckDataSettings", output: Path) -> int:
    """Convert, print what was found, and write a file for each split; 1 where there are problems."""
    from gcnet.cli import EXIT_FAILURE, EXIT_OK
    from gcnet.data.coco.inspection import inspect
    from gcnet.storage import write_atomic

    converted = _read(settings.data)
    files = {split: _file(output, split) for split in converted.splits}
    for file in files.values():
        if file.exists():
            raise UserError(f"--convert must not exist yet, found {printable(file)}; take another name")
    problems: list[LabelIssue | Issue] = list(converted.problems)
    output.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for split, content in converted.splits.items():
        inspection = inspect(content)
        problems += [*inspection.issues, *(one for one in inspection.notes if one.kind == "bbox outside the image")]
        clean = inspection.clean
        write_atomic(files[split], json.dumps(clean).encode())
        written.append(
            f"{printable(files[split])}: {len(clean['images']):,} images, {len(clean['annotations']):,} objects, "
            f"{len(clean['categories']):,} classes"
        )
    _print(problems, settings.max_listed)
    print("\n".join(["", *(f"wrote {line}" for line in written), f"train with: {_command(converted, files)}"]))
    return EXIT_FAILURE if problems else EXIT_OK


def _read(path: Path) -> "ConvertedData":
    from gcnet.data.coco.conversion.formats import LABEL_FORMATS, describe_nested_labels, find_label_format

    label_format = find_label_format(path)
    if label_format is not None:
        return label_format.convert(path)
    if nested := describe_nested_labels(path):
        raise UserError(f"--convert takes the folder of one data set, and {printable(path)} holds {nested}")
    expected = ", or ".join(label_format.expected for label_format in LABEL_FORMATS)
    raise UserError(f"--convert takes {expected}; found neither in {printable(path)}")


def _file(output: Path, split: str) -> Path:
    return output.with_name(f"{output.stem}_{split}{output.suffix}") if split else output


def _print(problems: "Sequence[LabelIssue | Issue]", listed: int) -> None:
    counts = Counter(problem.kind for problem in problems)
    print(f"problems     {len(problems):,}" + (f" of {len(counts)} kinds" if counts else ""))
    for kind, count in counts.items():
        print(f"\n{kind}: {count:,}")
        for problem in [one for one in problems if one.kind == kind][:listed]:
            print(f"  {problem}")
        if count > listed > 0:
            print(f"  and {count - listed:,} more")


def _command(converted: "ConvertedData", files: dict[str, Path]) -> str:
    """A training that uses what was written."""
    train = files.get("train") or next(iter(files.values()))
    val = files.get("val") or files.get("test")
    validation = ["--val", str(val)] if val is not None and val != train else ["--val-fraction", "0.2"]
    paths = ["--data", str(train), *validation, "--images", str(converted.root)]
    return printable(shlex.join(["gcnet", "train", "--model", "faster_rcnn_gc_resnet50", *paths]))
