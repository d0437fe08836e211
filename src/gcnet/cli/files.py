"""Checks and writes output files of commands; prints notes, issues and what was written."""

import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnet.errors import UserError, printable
from gcnet.storage import check_output_file, check_output_folder, write_atomic
from gcnet.text_files import csv_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gcnet.data.dataset import Skipped


_OUTPUTS = ("output", "json", "csv", "fix", "convert")
_OUTPUT_IS_FILE = ("predict", "simplify")
_FILE_SUFFIXES = (".png", ".json", ".safetensors")


def check_outputs(settings: object, command: str) -> None:
    """Check before the work that what a command is to write can be written; nothing is left behind.

    Args:
        settings: of the command, with the fields of `_OUTPUTS` that it has; `output` also within a group of that name.
        command: such as "predict".

    Raises:
        UserError: a folder is in the place of a file, or a file in that of a folder.
        StorageError: the file or folder cannot be written.
    """
    for name in _OUTPUTS:
        value = getattr(settings, name, None)
        value = getattr(value, name, None) if is_dataclass(value) else value
        if value is None or str(value) == "-":
            continue
        path = Path(value)
        is_file = name != "output" or (command in _OUTPUT_IS_FILE and path.suffix.lower() in _FILE_SUFFIXES)
        try:
            check_output_file(path) if is_file else check_output_folder(path)
        except UserError as error:
            raise type(error)(f"--{name}: {error}") from error


def report_skipped(skipped: "Sequence[Skipped]", worked: int, done: str) -> None:
    """Name the files skipped, and count them beside those that worked, for which something was `done`."""
    for one in skipped:
        print(f"skipped {printable(one.name)}: {one.reason}", file=sys.stderr)
    total = worked + len(skipped)
    print(f"{worked} of {total} images {done}, {len(skipped)} skipped", file=sys.stderr)


def report_kinds(items: "Sequence[Any]", headings: "Mapping[str, str]", listed: int) -> None:
    """Print items grouped by their `kind`, the first few of each kind.

    Args:
        items: what is printed, by `str`; each has a `kind`.
        headings: for each kind, in the order of printing, the text behind its count.
        listed: number of items printed for each kind.
    """
    for kind, heading in headings.items():
        of_kind = [item for item in items if item.kind == kind]
        if not of_kind:
            continue
        print(f"\n{kind}: {len(of_kind):,} ({heading})")
        for item in of_kind[:listed]:
            print(f"  {printable(str(item))}")
        if len(of_kind) > listed > 0:
            print(f"  and {len(of_kind) - listed:,} more")


def report_notes(notes: "Iterable[str]") -> None:
    """Print what was skipped, repaired or assumed in the data, a line each."""
    for note in notes:
        report_note(note)


def report_note(note: str) -> None:
    """Print one such line."""
    print(f"gcnet: note: {printable(note)}", file=sys.stderr)


def report_written(files: "Sequence[str]", folder: Path) -> None:
    """Say what was written where."""
    listed = files if len(files) <= 6 else [*files[:5], f"{len(files) - 5} more"]
    print(f"\nwrote {', '.join(listed)} into {folder}")


def write_csv(rows: "Iterable[Sequence[object]]", file: Path) -> None:
    """Write rows, the first of which names the columns, into a CSV file, whose folder is made where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, csv_bytes(rows))


def write_json(content: dict[str, Any], where: str) -> None:
    """Write the content into a file, whose folder is made where there is none, or print it where that is "-"."""
    import json

    text = json.dumps(content, indent=2) + "\n"
    if where == "-":
        sys.stdout.write(text)
    else:
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(where), text.encode())
