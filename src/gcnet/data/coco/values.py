"""Ids and numbers of annotation files, also written as text or floats."""

from collections.abc import Iterable, Mapping
from typing import Any

_LARGEST = 2**53  # what JSON numbers of any tool hold exactly


class Ids:
    """Integer ids of entries, and what references to them mean.

    An id that is an integer keeps its value. Text and floats that stand for an integer become it, unless another entry
    has that id; other text gets a new id, in alphabetical order. A reference is looked up as it is written, then as an
    integer: 2, 2.0, "2" and "2.0" mean the same entry, unless there are entries for several of them.
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
        for number, key in enumerate(sorted(others, key=lambda one: str(one[1])), start=start):
            self._ids[key] = number
        self._texts = _by_value(self._ids)

    def has(self, raw: object) -> bool:
        """Whether an entry has this id exactly as it is written."""
        return type(raw) is not float and _key(raw) in self._ids

    def __call__(self, raw: object) -> int | None:
        """The integer id that a raw id means; None if no entry has it."""
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
    """The ids of all texts that stand for an integer, such as "1.0" and "01", by that integer."""
    found: dict[int | None, list[int]] = {}
    for (kind, raw), identity in ids.items():
        value = as_integer(raw) if kind == "text" else None
        if value is not None:
            found.setdefault(value, []).append(identity)
    return found


def _key(raw: object) -> tuple[str, object] | None:
    """A raw id as a dictionary key that tells 2 from "2"; None for what is no id."""
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
    """The integer that a value stands for: 3, 3.0, "3" or "3.0"; None for anything else, or beyond 2^53."""
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
    """The number that a value is, or that a text stands for; None for anything else."""
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
    """Nested lists with their texts as numbers where these stand for numbers; anything else as it is."""
    if isinstance(values, list) and depth:
        return [without_text(value, depth - 1) for value in values]
    number = as_number(values) if isinstance(values, str) else None
    return values if number is None else number


def integers(values: Any) -> list[int] | None:
    """A list of numbers, or texts of them, as integers; None unless all are whole."""
    if not isinstance(values, list):
        return None
    whole = [as_integer(value) for value in values]
    return None if None in whole else [value for value in whole if value is not None]


def bytes_in_text(counts: str) -> str | None:
    """The text of bytes that Python's str() wrote, such as "b'PZk0'"; None for other text."""
    if len(counts) < 3 or not counts.startswith("b'") or not counts.endswith("'"):
        return None
    return counts[2:-1].replace("\\\\", "\\")


def shorten(value: Any) -> str:
    """A value as it stands in the file, shortened."""
    text = repr(value[:20] if isinstance(value, list | str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
