"""The list of annotations in the text of a COCO file, cut into parts that several processes read."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_END = re.compile(r"\}[ \t\n\r]*\]")  # of a list of objects
_BETWEEN = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*\{")  # two objects of a list
_MOST_ENDS = 100
_KEY = "annotations"
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True)
class CutText:
    """The text of a COCO file, of which the annotations are not read yet.

    The ends of the list and of the parts are guesses. They are right if every part is read by `read_part` without an
    error, since lists of JSON values that are joined by commas are the list of all their values.

    Attributes:
        text: The text.
        rest: Content of the file, with an empty list of annotations.
        parts: Start and end of each part of the list in the text.
    """

    text: str
    rest: dict[str, Any]
    parts: list[tuple[int, int]]


def cut_annotations(text: str, parts: int) -> CutText | None:
    """Cut the list of annotations into parts of about equal length.

    Args:
        text: Text of a COCO file.
        parts: Number of parts, at most.

    Returns:
        The parts; None for a text that is not in COCO's format, without annotations, or written in an unusual way.
    """
    try:
        start, rest = _members(text, _skip(text, 0, "{"), {})
        if start is None:
            return None
        for match in islice(_END.finditer(text, start), _MOST_ENDS):
            end = match.end() - 1
            complete = _rest_after(text, end + 1, rest)
            if complete is not None:
                return CutText(text, complete, _spans(text, start, end, parts))
    except (ValueError, IndexError, RecursionError):
        pass
    return None


def read_part(cut: CutText, part: tuple[int, int]) -> Iterator[tuple[Any, str]]:
    """Yield each annotation of a part and its text.

    Args:
        cut: The text.
        part: One of its parts.

    Raises:
        ValueError: The text was cut at a wrong place, or is not JSON.
    """
    place, end = part
    while True:
        entry, stop = _decode(cut.text, place)
        yield entry, cut.text[place:stop]
        place = _space(cut.text, stop)
        if end in (stop, place):
            return
        if stop > end:
            raise ValueError(f"the value ends at {stop} instead of {end}")
        place = _skip(cut.text, place, ",")


def _members(text: str, place: int, found: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """Read members of the object of a file up to its end or the list of annotations.

    Returns:
        Where the first annotation starts, or None at the end of the text; and the members.
    """
    while True:
        key, place = _decode(text, place)
        place = _skip(text, place, ":")
        if not isinstance(key, str) or key in found:
            raise ValueError("no key, or the same again")
        if key == _KEY:
            found[key] = []
            return _skip(text, place, "["), found
        found[key], place = _decode(text, place)
        place = _space(text, place)
        if text[place] == "}":
            if _space(text, place + 1) != len(text):
                raise ValueError("text after the object")
            return None, found
        place = _skip(text, place, ",")


def _rest_after(text: str, place: int, before: dict[str, Any]) -> dict[str, Any] | None:
    """Return all members if the list of annotations can end before `place`."""
    try:
        place = _space(text, place)
        if text[place] == "}":
            return before if _space(text, place + 1) == len(text) else None
        start, found = _members(text, _skip(text, place, ","), dict(before))
    except (ValueError, IndexError):
        return None
    return found if start is None else None


def _spans(text: str, start: int, end: int, parts: int) -> list[tuple[int, int]]:
    spans, first = [], start
    for number in range(1, parts):
        between = _BETWEEN.search(text, max(first, start + (end - start) * number // parts), end)
        if between is None:
            break
        spans.append((first, between.start() + 1))
        first = between.end() - 1
    return [*spans, (first, end)]


def _space(text: str, place: int) -> int:
    """Return the place after white space."""
    match = _SPACE.match(text, place)
    return place if match is None else match.end()


def _skip(text: str, place: int, mark: str) -> int:
    """Return the place after white space, `mark`, and white space again.

    Raises:
        ValueError: Something else is there.
    """
    place = _space(text, place)
    if not text.startswith(mark, place):
        raise ValueError(f"expected {mark} at {place}")
    return _space(text, place + len(mark))
