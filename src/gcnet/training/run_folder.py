"""The run folder and its files.

config.json              all settings, with nothing left to presets
environment.json         versions, machine and command line of the start and of each resumption
data.csv.gz              name and content (class and bytes) of every image, which a resumed run compares
metrics.jsonl            a row every `log_every` steps ("train") and for each evaluation ("evaluation")
results.csv              a row per evaluation, by default one per epoch (`evaluate_every`)
checkpoint.safetensors   everything that `gcnet train --resume` needs; checksummed, replaced as a whole
checkpoint-STEP/         with `shard_model`, the shards of the checkpoint; their checksums are in checkpoint.safetensors
weights/best.safetensors the weights of the best evaluation, with preprocessing and class names (the moving
average where `ema_decay` is given)
weights/last.safetensors those of the last one
skipped.csv              images that could not be read, with the reason (only where there are any)
output.log               lines that could not be printed, because standard output failed (only where there are any)
curves.png, confusion.png, train_images.png
.lock                    held by the process that trains in the folder
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gcnet.errors import UserError, nearest_path, printable
from gcnet.lock_owner import describe_owner
from gcnet.renamed import format_version, is_old, upgraded_metrics, upgraded_settings
from gcnet.storage import LockedError, StorageError, append_line, locked, read_json, write_atomic
from gcnet.text_files import csv_bytes
from gcnet.training.environment import describe_environment
from gcnet.training.remote_run import RemoteRun
from gcnet.training.settings import TrainSettings

LISTING = "data.csv.gz"
RESULT_COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "val_loss",
    "top1_fraction",
    "top5_fraction",
    "bbox_AP_fraction",
    "bbox_AP50_fraction",
    "segm_AP_fraction",
    "segm_AP50_fraction",
    "learning_rate",
    "images",
    "skipped",
    "seconds",
)


class RunFolder:
    """Paths and text files of a run.

    Args:
        path: of the folder.
        remote: the run at a URL that the folder is published to.
    """

    def __init__(self, path: Path, remote: RemoteRun | None = None) -> None:
        self.path, self.remote = path, remote
        self.config = path / "config.json"
        self.environment = path / "environment.json"
        self.data = path / LISTING
        self.log = path / "output.log"
        self.metrics = path / "metrics.jsonl"
        self.results = path / "results.csv"
        self.checkpoint = path / "checkpoint.safetensors"
        self.best = path / "weights" / "best.safetensors"
        self.last = path / "weights" / "last.safetensors"
        self.skipped = path / "skipped.csv"
        self.curves = path / "curves.png"
        self.train_images = path / "train_images.png"

    @property
    def place(self) -> str:
        """Path or URL of the run, printable."""
        return printable(self.path if self.remote is None else self.remote.url)

    def publish(self) -> None:
        """Publish a run at a URL; nothing for others.

        Raises:
            RemoteError: it cannot be published; the local folder is intact.
            LockedError: another process has taken the lock at the URL.
        """
        if self.remote is not None:
            self.remote.publish()

    def publish_end(self) -> None:
        """Publish the end of a run at a URL; nothing for others.

        Raises:
            RemoteError: it, or the last checkpoint, could not be published; the local folder is intact.
            LockedError: another process has taken the lock at the URL.
        """
        if self.remote is not None and self.remote.failure is not None:
            raise self.remote.failure  # a server that does not answer is not waited for again
        self.publish()

    @contextmanager
    def writing(self) -> Generator[None]:
        """Hold the lock of the folder, so that only one process trains in it.

        Raises:
            UserError: another process holds it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / ".lock"))
            except LockedError as error:
                raise UserError(
                    f"{printable(self.path)} is in use by {describe_owner(error.owner)}; wait until it ends, or stop it"
                ) from error
            if self.remote is not None:
                stack.enter_context(self.remote.writing())
            yield

    def append(self, row: Mapping[str, Any]) -> None:
        """Append `row` to metrics.jsonl."""
        append_line(self.metrics, json.dumps(row))

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl, without damaged ones and an incomplete last line."""
        return [row for row in map(_row, self._lines()) if row is not None]

    def _lines(self) -> list[str]:
        if not self.metrics.exists():
            return []
        return self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]

    def rewind(self, step: int, evaluated: int) -> list[str]:
        """Drop the rows after a checkpoint, which the resumed run writes again.

        Args:
            step: of the checkpoint.
            evaluated: step of its last evaluation.

        Returns:
            Notes on damaged rows, one sentence each.
        """
        rows, lines = self.rows(), len(self._lines())
        notes = [f"{lines - len(rows)} of its {lines} rows"] if len(rows) < lines else []
        notes = [_set_aside(self.metrics, note) for note in notes]
        limits = {"train": step, "evaluation": evaluated}
        kept = [row for row in rows if row["step"] <= limits[row["kind"]]]
        write_atomic(self.metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self.write_results()
        return notes

    def evaluations(self) -> list[dict[str, Any]]:
        """Return the rows of the evaluations."""
        return [row for row in self.rows() if row["kind"] == "evaluation"]

    def write_results(self) -> None:
        """Write results.csv from metrics.jsonl."""
        rows = self.evaluations()
        others = sorted({name for row in rows for name in row} - {"kind", *RESULT_COLUMNS})
        columns = [name for name in RESULT_COLUMNS if any(name in row for row in rows)] + others
        write_atomic(self.results, csv_bytes([columns, *([row.get(name, "") for name in columns] for row in rows)]))

    def write_skipped(self, skipped: Mapping[str, str]) -> None:
        """Write skipped.csv: reason by name of each image in `skipped`."""
        write_atomic(self.skipped, csv_bytes([("name", "reason"), *sorted(skipped.items())]))

    def note_environment(self, device: str, processes: int, workers: int) -> list[str]:
        """Append this start or resumption to environment.json.

        Args:
            device: of the run.
            processes: their number.
            workers: data-loader workers of each process.

        Returns:
            Notes on a damaged file, one sentence each.
        """
        notes, starts = [], []
        if self.environment.exists():
            try:
                starts = read_json(self.environment)
            except StorageError:
                starts = None
            if not isinstance(starts, list):
                notes, starts = [_set_aside(self.environment, "it")], []
        write_json(self.environment, [*starts, describe_environment(device, processes) | {"workers": workers}])
        return notes

    def clean(self) -> None:
        """Remove temporary files that a killed process left behind."""
        for leftover in [*self.path.glob(".*.tmp"), *self.path.glob("weights/.*.tmp")]:
            leftover.unlink(missing_ok=True)


def create_folder(
    output: str | None, name: str, config: Mapping[str, Any], files: Mapping[str, bytes] = MappingProxyType({})
) -> RunFolder:
    """Create a run folder together with its config.json and further files.

    Args:
        output: path; None for runs/NAME, runs/NAME-2 and so on.
        name: NAME.
        config: content of config.json.
        files: content of further files by name.

    Returns:
        The folder.

    Raises:
        UserError: `output` exists.
        StorageError: the folder cannot be created.
    """
    parent = Path(output).parent if output else Path("runs")
    wanted = Path(output) if output else parent / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".gcnet-run-", dir=parent))
    except OSError as error:
        raise _not_made(wanted, error) from error
    try:
        draft.chmod(0o777 & ~_umask())
        (draft / "weights").mkdir()
        for file, content in files.items():
            write_atomic(draft / file, content)
        write_json(draft / "config.json", config)
        return RunFolder(_put(draft, wanted, may_number=output is None))
    except OSError as error:
        raise _not_made(wanted, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # nothing is there any more where it was put in its place


def _not_made(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot make the run folder {printable(path)}: {error.strerror}")


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
                    raise
        if not may_number:
            raise _taken(path)
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")


def check_free(path: Path) -> None:
    """Check that `path` does not exist.

    Raises:
        UserError: it exists; the message explains how to resume a run.
    """
    if path.exists():
        raise _taken(path)


def default_name(settings: TrainSettings) -> str:
    """Return the name of a run from network, block and data in `settings`."""
    network = settings.network
    parts = [network.model, network.block, Path(settings.data.name).stem]
    return re.sub(r"[^\w.-]+", "_", "-".join(part for part in parts if part))


def _taken(path: Path) -> UserError:
    place = printable(path)
    if (path / "config.json").exists():
        return UserError(
            f"{place} already contains a run, and runs are never overwritten; "
            f"resume it with `gcnet.resume({place})`, or choose another `output`"
        )
    return UserError(f"`output` must not exist yet, found {place}; take another name")


def open_folder(path: str | Path, remote: RemoteRun | None = None) -> tuple[RunFolder, TrainSettings, dict[str, Any]]:
    """Open a run folder and upgrade its settings to this version.

    Args:
        path: of the folder.
        remote: the run at a URL that the folder is published to.

    Returns:
        The folder, its settings, and config.json as stored.

    Raises:
        UserError: there is no run, or it is of a newer version.
        StorageError: config.json is damaged.
    """
    folder, place = RunFolder(Path(path), remote), printable(path)
    if folder.path.is_file() and folder.path.suffix == ".safetensors":
        raise UserError(
            f"only run folders can be resumed, but {place} is a file of weights: train with `weights={place}`"
        )
    if not folder.path.is_dir():
        if folder.path.exists():
            raise UserError(f"only run folders can be resumed, but {place} is a file")
        raise UserError(f"there is no run folder {place}{nearest_path(path)}")
    if not folder.config.exists():
        raise UserError(f"{place} is not a run folder: it has no config.json")
    config = read_json(folder.config)
    if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
        raise StorageError(f"{printable(folder.config)} is damaged: it does not hold the settings of a run")
    settings = config["settings"]
    format_version(config, folder.config)  # refuses a newer version
    try:
        settings = upgraded_settings(settings) if is_old(config) else settings
        return folder, TrainSettings.from_dict(settings), config
    except (LookupError, TypeError, AttributeError, ArithmeticError, UserError) as error:
        reason = error if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise StorageError(f"{printable(folder.config)} cannot be read as settings of a run: {reason}") from error


def _row(line: str) -> dict[str, Any] | None:
    """A row of metrics.jsonl, or None where the line is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.get("kind") not in ("train", "evaluation") or not _is_number(row.get("step")):
        return None
    row = upgraded_metrics(row)
    if row["kind"] == "evaluation":
        needed = {"epoch", "train_loss", *(name for name in RESULT_COLUMNS if name in row)}
        if not all(_is_number(row.get(name)) for name in needed):
            return None
    return row


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _set_aside(path: Path, what: str) -> str:
    """Copy a damaged file next to it; returns the error message."""
    copy = path.with_name(f"{path.name}.damaged")
    shutil.copyfile(path, copy)
    return f"{printable(path)} is damaged: {what} cannot be read; the file is kept as {printable(copy.name)}"


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, atomically.

    Args:
        path: the file.
        value: JSON value.
    """
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
