"""Progress of a run: a live bar on a terminal, plain lines elsewhere, or nothing."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from gcnet.storage import StorageError, append_line, discard_standard_output

_SECONDS_BETWEEN_LINES = 10.0
_PER_CENT = {"top1_fraction": "top-1", "top5_fraction": "top-5"}
_TIMES_100 = {"bbox_AP": "box AP", "bbox_AP50": "box AP50", "segm_AP": "mask AP", "segm_AP50": "mask AP50"}


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


class SurvivingOutput:
    """Standard output that does not end the run when it fails: a closed pipe, a full disk, a terminal that is gone.

    From then on it takes everything silently, and `keep` writes lines to the file `log`, where one is set.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        self.failed = False
        self.log: Path | None = None

    def write(self, text: str) -> int:
        """Write where that is still possible."""
        if not self.failed:
            with self._failures_noted():
                sys.stdout.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush where that is still possible."""
        if not self.failed:
            with self._failures_noted():
                sys.stdout.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return not self.failed and sys.stdout.isatty()

    def line(self, text: str) -> None:
        """Print a line; once standard output has failed, add it to the log."""
        self.write(f"{text}\n")
        self.flush()
        if self.failed and self.log is not None:
            with suppress(StorageError):  # both are gone; the run goes on
                append_line(self.log, text)

    @contextmanager
    def _failures_noted(self) -> Generator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: the stream was closed
            self.failed = True
            discard_standard_output()


class Lines:
    """Plain lines on standard output, progress at most every ten seconds."""

    def __init__(self) -> None:
        self.output = SurvivingOutput()
        self._pace = _Pace()
        self._spoke = time.monotonic()

    def say(self, text: str) -> None:
        """Print the line."""
        self.output.line(text)

    def advance(self, step: int, total: int, text: str) -> None:
        """Print it where the last one is long enough ago."""
        left = self._pace.seconds_left(step, total)
        now = time.monotonic()
        if now - self._spoke >= _SECONDS_BETWEEN_LINES:
            self._spoke = now
            self.output.line(f"step {step}/{total}  {text}  {clock(left)} left")

    def close(self) -> None:
        """Nothing is open."""


class LiveBar:
    """A bar with the time left at the foot of the terminal; lines scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.output = SurvivingOutput()
        columns = (TextColumn("{task.fields[left]}"), TextColumn("{task.description}", markup=False))
        console = Console(file=cast(Any, self.output), force_terminal=True)
        self._bar = Progress(MofNCompleteColumn(), BarColumn(24), *columns, console=console)
        self._pace = _Pace()
        self._task: Any = None

    def say(self, text: str) -> None:
        """Print the line above the bar."""
        if self.output.failed:
            self.output.line(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self, step: int, total: int, text: str) -> None:
        """Move the bar."""
        left = f"{clock(self._pace.seconds_left(step, total))} left"
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(text, total=total, left=left)
        self._bar.update(self._task, completed=step, total=total, description=text, left=left)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


class _Pace:
    """Seconds per step since the first call with this number of steps, and so the time that is left."""

    def __init__(self) -> None:
        self._first: tuple[int, int, float] | None = None

    def seconds_left(self, step: int, total: int) -> float | None:
        now = time.monotonic()
        if self._first is None or self._first[0] != total:
            self._first = (total, step, now)
        _, begun, since = self._first
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


def epoch_text(epoch: float) -> str:
    """3.0 -> 3, 0.6667 -> 0.67."""
    return f"{epoch:.2f}".rstrip("0").rstrip(".")


def format_score(name: str, value: float) -> str:
    """A number of an evaluation as `gcnet evaluate` shows it: accuracy in per cent, AP times 100, a loss as it is."""
    if name in _PER_CENT:
        return f"{_PER_CENT[name]} {100 * value:.2f}%"
    if name in _TIMES_100:
        return f"{_TIMES_100[name]} {100 * value:.1f}"
    return f"{name} {value:.4f}"
