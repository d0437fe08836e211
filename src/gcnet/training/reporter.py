"""What a run says while it goes on: a live bar on a terminal, plain lines everywhere else, or nothing."""

import sys
import time
from typing import Any, Protocol, runtime_checkable

_SECONDS_BETWEEN_LINES = 10.0


@runtime_checkable
class Reporter(Protocol):
    """Told of a run's progress."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def advance(self, step: int, total: int, text: str) -> None:
        """`step` of `total` steps are done; `text` says where things stand."""

    def close(self) -> None:
        """Nothing more will be told."""


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def advance(self, step: int, total: int, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """Plain lines on standard output, progress at most every ten seconds."""

    def __init__(self) -> None:
        self._pace = _Pace()
        self._spoke = time.monotonic()

    def say(self, text: str) -> None:
        """Print the line."""
        print(text, flush=True)

    def advance(self, step: int, total: int, text: str) -> None:
        """Print it where the last one is long enough ago."""
        left = self._pace.seconds_left(step, total)
        now = time.monotonic()
        if now - self._spoke >= _SECONDS_BETWEEN_LINES:
            self._spoke = now
            print(f"step {step}/{total}  {text}  {clock(left)} left", flush=True)

    def close(self) -> None:
        """Nothing is open."""


class LiveBar:
    """A bar with the time left at the foot of the terminal; lines scroll above it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.fields[left]}"), TextColumn("{task.description}", markup=False))
        self._bar = Progress(MofNCompleteColumn(), BarColumn(24), TimeElapsedColumn(), *columns)
        self._pace = _Pace()
        self._task: Any = None

    def say(self, text: str) -> None:
        """Print the line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self, step: int, total: int, text: str) -> None:
        """Move the bar."""
        left = f"{clock(self._pace.seconds_left(step, total))} left"
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(text, total=total, left=left)
        self._bar.update(self._task, completed=step, description=text, left=left)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


class _Pace:
    """Seconds per step since the first call, and so the time that is left."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def seconds_left(self, step: int, total: int) -> float | None:
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        begun, since = self._first
        return (total - step) * (now - since) / (step - begun) if step > begun else None


def choose_reporter() -> Reporter:
    """The live bar where standard output is a terminal, else plain lines."""
    return LiveBar() if sys.stdout.isatty() else Lines()


def clock(seconds: float | None) -> str:
    """12 -> 0:12, 4000 -> 1:06:40; "?" where it is not known."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
