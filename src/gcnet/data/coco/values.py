"""Ids and numbers of annotation files, also written as text or floats."""

from collections.abc import Iterable, Mapping
from typing import Any

Entry = dict[str, Any]
"""Entry of the list "images", "annotations" or "categories" of an annotation file."""

_LARGEST = 2**53  # what JSON numbers of any tool hold exactly


class Ids:
    """Integer ids of entries, and the resolution of references to them.

    Integer ids keep their value. Text and floats that represent an integer become that integer unless another entry has
    it; other text gets new ids in alphabetical order. References are matched as written, then as an integer: 2, 2.0,
    "2" and "2.0" are the same entry unless several of them exist.

    Args:
        raw: Ids as written in the file.
    """

    def __init__(self, raw: Iterable[object]) -> None:
        keys = [key for key in map(_key, raw) if key is not None]
        self._ids: dict[tuple[str, object], int] = {}
        for key in keys:
            if key[0] == "number":
                self._ids[key] = int(str(key[1]))
        taken = set(self._ids.values())
        others: list[tuple[str, object]] = []
        for key in dict.fromkeys(keys):
            if key in self._ids:
                continue
            value = as_integer(key[1])
            if value is None or value in taken:
                others.append(key)
            else:
                self._ids[key] = value
                taken.add(value)
        start = 1 + max((value for value in taken if value > 0), default=0)
        for number, key in enumerate(sorted(others, key=lambda key: str(key[1])), start=start):
            self._ids[key] = number
        self._texts = _by_value(self._ids)

    def has(self, raw: object) -> bool:
        """Return whether an entry has the id `raw` exactly as written."""
        if type(raw) is int and ("number", raw) in self._ids:  # nearly always, and quicker
            return True
        return type(raw) is not float and _key(raw) in self._ids

    def __call__(self, raw: object) -> int | None:
        """Return the integer id of a raw id, or None if no entry has it."""
        if type(raw) is int and ("number", raw) in self._ids:
            return self._ids["number", raw]
        key = _key(raw)
        if key in self._ids:
            return self._ids[key]
        value = as_integer(raw)
        for other in (("number", value), ("text", str(value))):
            if value is not None and other in self._ids:
                return self._ids[other]
        texts = self._texts.get(value, [])
        return texts[0] if len(texts) == 1 else None


def _by_value(ids: Mapping[tuple[str, object], int]) -> dict[int | None, list[int]]:
    """Return the ids of texts that represent an integer, such as "1.0" and "01", by that integer."""
    ids_by_value: dict[int | None, list[int]] = {}
    for (kind, raw), identity in ids.items():
        value = as_integer(raw) if kind == "text" else None
        if value is not None:
            ids_by_value.setdefault(value, []).append(identity)
    return ids_by_value


def _key(raw: object) -> tuple[str, object] | None:
    """Return a raw id as a dictionary key that distinguishes 2 from "2", or None for an invalid id."""
    if isinstance(raw, bool) or raw is None or raw == "":
        return None
    if isinstance(raw, str):
        return "text", raw
    if isinstance(raw, int | float):
        value = as_integer(raw)
        if value is not None:
            return "number", value
        return ("text", repr(raw)[:60]) if raw == raw and abs(raw) != float("inf") else None  # noqa: PLR0124
    return None


def as_integer(raw: object) -> int | None:
    """Return the integer that `raw` represents (3, 3.0, "3", "3.0"), or None for anything else or beyond 2^53."""
    if isinstance(raw, bool) or raw is None:
        return None
    if isinstance(raw, str):
        if len(raw) > 30 or not raw.isascii():
            return None
        try:
            raw = int(raw) if "_" not in raw else None
        except ValueError:
            return _from_float(raw)
    if isinstance(raw, float):
        return int(raw) if abs(raw) <= _LARGEST and raw.is_integer() else None
    return raw if isinstance(raw, int) and abs(raw) <= _LARGEST else None


def _from_float(text: Any) -> int | None:
    try:
        value = float(text) if "_" not in text else float("nan")
    except ValueError:
        return None
    return int(value) if abs(value) <= _LARGEST and value.is_integer() else None


def as_number(value: Any) -> float | None:
    """Return the number that `value` is or represents as text, or None."""
    if isinstance(value, str) and len(value) <= 30 and "_" not in value:
        try:
            return float(value)
        except ValueError:
            return None
    return value if is_number(value) else None


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def without_text(values: Any, depth: int = 3) -> Any:
    """Convert numbers written as text in nested lists.

    Args:
        values: Nested lists of numbers and texts.
        depth: Maximum depth of nesting.

    Returns:
        The lists with converted numbers; other values unchanged.
    """
    if isinstance(values, list) and depth:
        return [without_text(value, depth - 1) for value in values]
    number = as_number(values) if isinstance(values, str) else None
    return values if number is None else number


def integers(values: Any) -> list[int] | None:
    """Return the list `values` of numbers, also written as text, as integers, or None if any is fractional."""
    if not isinstance(values, list):
        return None
    whole = [as_integer(value) for value in values]
    return None if None in whole else [value for value in whole if value is not None]


def bytes_in_text(counts: str) -> str | None:
    """Return the text in `counts` if it was written by Python's `str(bytes)`, such as "b'PZk0'", or None."""
    if len(counts) < 3 or not counts.startswith("b'") or not counts.endswith("'"):
        return None
    return counts[2:-1].replace("\\\\", "\\")


def short_repr(value: Any) -> str:
    """Return `value` as written in the file, shortened to 60 characters."""
    text = repr(value[:20] if isinstance(value, list | str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
