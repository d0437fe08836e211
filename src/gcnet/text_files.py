"""Rows as CSV and values as JSON, whatever the names in them hold: formulas, or bytes that are not UTF-8."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
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
