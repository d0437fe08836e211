"""Ids of COCO entries as integers: from text, floats, file names, UUIDs."""

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


def _by_value(ids: Mapping[tuple[str, object], int]) -> dict[int | None, list[int]]:
    """The ids of all texts that stand for an integer, such as "1.0" and "01", by that integer."""
    found: dict[int | None, list[int]] = {}
    for (kind, raw), identity in ids.items():
        value = as_integer(raw) if kind == "text" else None
        if value is not None:
            found.setdefault(value, []).append(identity)
    return found


def _from_float(text: Any) -> int | None:
    try:
        value = float(text) if "_" not in text else float("nan")
    except ValueError:
        return None
    return int(value) if abs(value) <= _LARGEST and value.is_integer() else None


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
