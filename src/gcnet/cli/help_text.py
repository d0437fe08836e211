"""Tidies tyro's help: no "None" among values and defaults, and descriptions wrapped once."""

import re
import textwrap
from collections.abc import Iterator

# A row starts with a flag or a positional argument; what continues it is indented to the column of descriptions.
_START = re.compile(r"^[│ ] (?=-{1,2}[A-Za-z]|\[\[|\{\w|[A-Z]+ )")
_CONTINUED = re.compile(r"^[│ ] {6,}(?=\S)")
_NO_DEFAULT = re.compile(r" ?\(default: (None|)\)")


def tidy(text: str) -> str:
    """Return tyro's help without `{None}|` and `(default: None)`, and with each description wrapped once."""
    usage, _, rest = text.replace("\n\n\n", "\n\n").partition("\n")
    lines = [usage.replace("{None}|", ""), *(line for row in _rows(rest.splitlines()) for line in _tidy_row(row))]
    return "\n".join(lines) + "\n"


def _rows(lines: list[str]) -> Iterator[list[str]]:
    """The lines of each row together; every other line alone."""
    row: list[str] = []
    for line in lines:
        if row and _CONTINUED.match(line):
            row.append(line)
            continue
        if row:
            yield row
        row = [line] if _START.match(line) else []
        if not row:
            yield [line]
    if row:
        yield row


def _tidy_row(row: list[str]) -> list[str]:
    if not _START.match(row[0]):
        return row
    frame, width = row[0][0], len(row[0])
    contents = [line[2:].rstrip("│").rstrip() for line in row]
    head, gap, first = contents[0].partition("  ")
    if gap:
        column = len(contents[0]) - len(first.lstrip())
    else:
        column = min((len(line) - len(line.lstrip()) for line in contents[1:]), default=len(head) + 2)
    description = _NO_DEFAULT.sub("", " ".join([first.strip(), *(line.strip() for line in contents[1:])]).strip())
    wrapped = textwrap.wrap(description, width - column - 3, break_long_words=False, break_on_hyphens=False)
    head = re.sub(r"\{(\[.*\])\}", r"\1", head.replace("{None}|", "").replace("{None,", "{"))
    shown = [] if len(head) + 2 > column else [f"{head:{column}}{wrapped[0] if wrapped else ''}"]
    rest = wrapped[1:] if shown else wrapped
    lines = [*(shown or [head]), *(" " * column + line for line in rest)]
    return [f"{frame} {line:{width - 3}}{frame}" for line in lines]
