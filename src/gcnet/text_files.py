"""Rows as CSV or Markdown and values as JSON, whatever is in their names: formulas, or bytes that are not UTF-8."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as CSV in UTF-8.

    A text that a spreadsheet would take for a formula gets an apostrophe in front; bytes of file names that are not
    UTF-8 stay as they are.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_safe(cell) for cell in row] for row in rows)
    try:
        return text.getvalue().encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # lone surrogates, as JSON may hold, that stand for no byte
        return text.getvalue().encode("utf-8", "backslashreplace")


def json_bytes(content: Any) -> bytes:
    """A value as indented JSON in UTF-8, with escapes for what is not UTF-8, which a reader gets back as it was."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def describe_json_error(error: ValueError | RecursionError) -> str:
    """Why `json.loads` refused a text, to go behind the name of the file: it may be JSON and still be too much."""
    if isinstance(error, RecursionError):
        return "cannot be read as JSON: its lists or objects are nested too deeply"
    if "integer string conversion" in str(error):
        return "cannot be read as JSON: a number in it has thousands of digits"
    return f"is not JSON: {str(error).splitlines()[0]}"


def _safe(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def markdown_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] | None = None
) -> str:
    """A Markdown table, padded to read as plain text; `right` are the columns set to the right (all but the first)."""
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
