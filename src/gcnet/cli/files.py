"""Checks and writes output files of commands; prints notes, issues and file names."""

import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gcnet.errors import UserError, is_url, printable
from gcnet.remote_files import check_without_secret, is_remote, restored_url
from gcnet.storage import check_output_file, check_output_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcnet.data.dataset import Skipped


_OUTPUTS = ("output", "json", "csv", "fix", "convert")
_OUTPUT_IS_FILE = ("simplify", "convert", "export")
_PREDICTIONS = (".png", ".json", ".jsonl", ".parquet")  # files of predict, whose output may also be a folder


def check_outputs(settings: object, command: str) -> None:
    """Check before the work that the output files of a command can be written; leaves no files.

    Args:
        settings: of the command, with the fields of `_OUTPUTS` that it has; `output` also within a group of that name.
        command: such as "predict".

    Raises:
        UserError: a folder exists at the path of a file, or a file at that of a folder.
        StorageError: the file or folder cannot be written.
    """
    for name in _OUTPUTS:
        value = getattr(settings, name, None)
        value = getattr(value, name, None) if is_dataclass(value) else value
        if value is None or str(value) == "-":
            continue
        check_without_secret(value, f"--{name}")
        path = Path(value)
        if command == "train" and is_remote(value):
            continue
        if is_url(path):
            raise UserError(f"--{name} must be a path on this machine, found the URL {printable(restored_url(value))}")
        is_prediction = command == "predict" and path.suffix.lower() in _PREDICTIONS
        is_file = name != "output" or command in _OUTPUT_IS_FILE or is_prediction
        try:
            check_output_file(path) if is_file else check_output_folder(path)
        except UserError as error:
            raise type(error)(f"--{name}: {error}") from error


def report_skipped(skipped: "Sequence[Skipped]") -> None:
    """Print the name of each skipped file, and the reason."""
    for file in skipped:
        print(f"skipped {printable(file.name)}: {file.reason}", file=sys.stderr)


def report_counts(images: int, skipped: int, done: str) -> None:
    """Print the numbers of processed and skipped images.

    Args:
        images: number of processed images.
        skipped: number of skipped images.
        done: the processing in a word, such as "analyzed".
    """
    print(f"{images} of {images + skipped} images {done}, {skipped} skipped", file=sys.stderr)


def report_written(files: "Sequence[str]", folder: Path) -> None:
    """Print the names of written files.

    Args:
        files: names; of more than six, the first five are printed.
        folder: of the files.
    """
    listed = files if len(files) <= 6 else [*files[:5], f"{len(files) - 5} more"]
    print(f"\nwrote {', '.join(listed)} into {folder}")
