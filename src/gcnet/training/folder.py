"""The folder that a run leaves behind, and what is in it.

config.json              all settings, with nothing left to presets
environment.json         versions, machine and command line of the start and of each resumption
metrics.jsonl            a row every --log-every steps ("train") and for each evaluation ("evaluation")
results.csv              a row for each evaluation, one an epoch unless --evaluate-every says otherwise
checkpoint.safetensors   everything that `gcnet train --resume` needs; checksummed, replaced as a whole
weights/best.safetensors the weights of the best evaluation, with preprocessing and class names (the moving
average where --ema is given)
weights/last.safetensors those of the last one
skipped.csv              images that could not be read, with the reason (only where there are any)
curves.png, confusion.png, train_images.png
"""

import csv
import io
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gcnet.errors import UserError, nearest_path
from gcnet.storage import write_atomic
from gcnet.training.settings import TrainSettings

RESULT_COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "val_loss",
    "top1",
    "top5",
    "box_ap",
    "box_ap50",
    "mask_ap",
    "mask_ap50",
    "learning_rate",
    "images",
    "skipped",
    "seconds",
)


class RunFolder:
    """The paths of one run, and its text files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.results = path / "results.csv"
        self.checkpoint = path / "checkpoint.safetensors"
        self.best = path / "weights" / "best.safetensors"
        self.last = path / "weights" / "last.safetensors"
        self.skipped = path / "skipped.csv"
        self.curves = path / "curves.png"
        self.train_images = path / "train_images.png"

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last line that was cut off by a crash is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def rewind(self, step: int, evaluated: int) -> None:
        """Drop the rows from after a checkpoint, which the resumed run writes again."""
        limits = {"train": step, "evaluation": evaluated}
        kept = [row for row in self.rows() if row["step"] <= limits[row["kind"]]]
        write_atomic(self.metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self.write_results()

    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of the evaluations."""
        return [row for row in self.rows() if row["kind"] == "evaluation"]

    def write_results(self) -> None:
        """Write results.csv anew from metrics.jsonl."""
        rows = self.evaluations()
        others = sorted({name for row in rows for name in row} - {"kind", *RESULT_COLUMNS})
        columns = [name for name in RESULT_COLUMNS if any(name in row for row in rows)] + others
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.results, text.getvalue().encode())

    def write_skipped(self, skipped: Mapping[str, str]) -> None:
        """Write skipped.csv: each image that was left out, once."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("name", "reason"))
        writer.writerows(sorted(skipped.items()))
        write_atomic(self.skipped, text.getvalue().encode())

    def note_environment(self, device: str, processes: int) -> None:
        """Add this start or resumption to environment.json."""
        starts = json.loads(self.environment.read_text()) if self.environment.exists() else []
        write_json(self.environment, [*starts, describe_environment(device, processes)])

    def clean(self) -> None:
        """Remove temporary files that a killed process left behind."""
        for leftover in [*self.path.glob(".*.tmp"), *self.path.glob("weights/.*.tmp")]:
            leftover.unlink(missing_ok=True)


def create_folder(output: str | None, name: str, config: Mapping[str, Any]) -> RunFolder:
    """Make a run folder that holds its config.json from its first moment on.

    Raises:
        UserError: where `output` exists already; without `output` it is runs/NAME, runs/NAME-2 and so on.
    """
    parent = Path(output).parent if output else Path("runs")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".gcnet-run-", dir=parent))
        draft.chmod(0o777 & ~_umask())
        (draft / "weights").mkdir()
        write_json(draft / "config.json", config)
        return RunFolder(_put(draft, Path(output) if output else parent / name, may_number=output is None))
    except OSError as error:
        raise UserError(f"cannot make the run folder {output or parent / name}: {error.strerror}") from error


def _put(draft: Path, wanted: Path, *, may_number: bool) -> Path:
    """Give the draft its name, which must be free; several runs may be looking for one at the same time."""
    number, path = 1, wanted
    while True:
        if not path.exists():
            try:
                os.rename(draft, path)
                return path
            except OSError:
                if not path.exists():
                    shutil.rmtree(draft)
                    raise
        if not may_number:
            shutil.rmtree(draft)
            raise _taken(path)
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")


def check_free(path: Path) -> None:
    """Refuse a place where something is already.

    Raises:
        UserError: that says how to go on with the run that is there.
    """
    if path.exists():
        raise _taken(path)


def default_name(settings: TrainSettings) -> str:
    """The name of a run in runs/: network, block and data."""
    network = settings.network
    parts = [network.model, network.block, Path(settings.data.data).stem]
    return re.sub(r"[^\w.-]+", "_", "-".join(part for part in parts if part))


def _taken(path: Path) -> UserError:
    if (path / "config.json").exists():
        return UserError(
            f"{path} holds a run already, which is never overwritten; "
            f"go on with --resume {path}, or take another --output"
        )

    return UserError(f"--output must not exist yet, found {path}; take another name")


def open_folder(path: str | Path) -> tuple[RunFolder, TrainSettings, dict[str, Any]]:
    """A run folder, its settings and the whole of its config.json.

    Raises:
        UserError: where there is no run.
    """
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        found = "a file" if folder.path.exists() else f"not there{nearest_path(path)}"
        raise UserError(f"--resume takes a run folder, and {path} is {found}")
    if not folder.config.exists():
        raise UserError(f"{path} is not a run folder: it has no config.json")
    try:
        config = json.loads(folder.config.read_text())
        settings = TrainSettings.from_dict(config["settings"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{folder.config} cannot be read as settings of a run: {error}") from error
    return folder, settings, config


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def describe_environment(device: str, processes: int) -> dict[str, Any]:
    """What the numbers may depend on beside the settings."""
    import torch

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(("gcnet", "torch", "torchvision", "timm", "numpy", "pillow")),
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed versions of packages; those that are not installed are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
