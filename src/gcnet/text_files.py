"""CSV, Markdown and JSON output, safe for formulas and for names that are not UTF-8."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gcnet.errors import printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_STARTS = {
    b"\x1f\x8b": "compressed (gzip): decompress it",
    b"BZh": "compressed (bzip2): decompress it",
    b"\xfd7zXZ": "compressed (xz): decompress it",
    b"\x28\xb5\x2f\xfd": "compressed (Zstandard): decompress it",
    b"PK\x03\x04": "a ZIP archive: unpack it",
    b"\xff\xfe": "text in UTF-16: save it in UTF-8",
    b"\xfe\xff": "text in UTF-16: save it in UTF-8",
}


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Return `rows` as CSV in UTF-8.

    Text that a spreadsheet would interpret as a formula is prefixed with an apostrophe; bytes of file names that are
    not UTF-8 are kept.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_safe(cell) for cell in row] for row in rows)
    try:
        return text.getvalue().encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # lone surrogates, as JSON may hold, that stand for no byte
        return text.getvalue().encode("utf-8", "backslashreplace")


def json_bytes(content: Any) -> bytes:
    """Return `content` as indented JSON in UTF-8, with escapes for anything that is not UTF-8."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def describe_start(data: bytes) -> str | None:
    """Return what a file is that starts with `data`, to append to "X is": compressed or in UTF-16; None for others."""
    return next((kind for start, kind in _STARTS.items() if data.startswith(start)), None)


def describe_json_error(error: ValueError | RecursionError) -> str:
    """Return why `json.loads` failed with `error`, to append to a file name."""
    if isinstance(error, RecursionError):
        return "cannot be read as JSON: its lists or objects are nested too deeply"
    if "integer string conversion" in str(error):
        return "cannot be read as JSON: a number in it has thousands of digits"
    kind = describe_start(error.object) if isinstance(error, UnicodeDecodeError) else None
    return f"is {kind}" if kind else f"is not JSON: {str(error).splitlines()[0]}"


def _safe(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def markdown_text(text: str) -> str:
    """Return `text` in one line, shown as it is in Markdown: without formatting, links and HTML."""
    return re.sub(r"[\\`*_\[\]<>&~$]", r"\\\g<0>", printable(text))


def markdown_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] | None = None
) -> str:
    """Return a Markdown table, padded to be readable as plain text.

    Args:
        headings: column headings.
        rows: cells of each row.
        right: headings of right-aligned columns; None for all but the first.
    """
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    columns = [
        _Column(
            max(len(row[index]) for row in escaped),
            is_right=index > 0 if right is None else heading in right,
        )
        for index, heading in enumerate(headings)
    ]
    rule = [column.rule() for column in columns]
    lines = [[column.set(cell) for column, cell in zip(columns, row, strict=True)] for row in escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


@dataclass(frozen=True)
class _Column:
    width: int
    is_right: bool

    def set(self, cell: str) -> str:
        return cell.rjust(self.width) if self.is_right else cell.ljust(self.width)

    def rule(self) -> str:
        return "-" * (self.width - 1) + (":" if self.is_right else "-")
