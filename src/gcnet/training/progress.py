"""Progress of a run: a live bar on a terminal, plain lines elsewhere, or nothing."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from gcnet.storage import StorageError, append_line, discard_standard_output

_SECONDS_BETWEEN_LINES = 10.0
_PER_CENT = {"top1_fraction": "top-1", "top5_fraction": "top-5"}
_TIMES_100 = {
    "bbox_AP_fraction": "box AP",
    "bbox_AP50_fraction": "box AP50",
    "segm_AP_fraction": "mask AP",
    "segm_AP50_fraction": "mask AP50",
}


@runtime_checkable
class Reporter(Protocol):
    """Receives the progress of a run."""

    def log(self, text: str) -> None:
        """Report `text` as a permanent line."""

    def advance(self, step: int, total: int, text: str) -> None:
        """Report progress.

        Args:
            step: number of steps done.
            total: number of steps of the run.
            text: current loss, learning rate and speed.
        """

    def close(self) -> None:
        """End the report."""


class Silent:
    """Reporter without output."""

    def log(self, text: str) -> None:
        """Ignore `text`."""

    def advance(self, step: int, total: int, text: str) -> None:
        """Ignore the progress.

        Args:
            step: ignored.
            total: ignored.
            text: ignored.
        """

    def close(self) -> None:
        """Do nothing."""


class SurvivingOutput:
    """Standard output that does not end the run when it fails: a closed pipe, a full disk, a terminal that is gone.

    From then on it takes everything silently, and `keep` writes lines to the file `log`, where one is set.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        self.failed = False
        self.log: Path | None = None

    def write(self, text: str) -> int:
        """Write `text` while standard output works.

        Returns:
            The number of characters.
        """
        if not self.failed:
            with self._failures_noted():
                sys.stdout.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush while standard output works."""
        if not self.failed:
            with self._failures_noted():
                sys.stdout.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return not self.failed and sys.stdout.isatty()

    def line(self, text: str) -> None:
        """Print `text`; after standard output failed, append it to the log."""
        self.write(f"{text}\n")
        self.flush()
        if self.failed and self.log is not None:
            with suppress(StorageError):  # both are closed; the run continues
                append_line(self.log, text)

    @contextmanager
    def _failures_noted(self) -> Generator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: the stream was closed
            self.failed = True
            discard_standard_output()


class Lines:
    """Reporter that prints plain lines on standard output, progress every ten seconds at most.

    Args:
        render: applied to lines before they are printed; the command line replaces arguments by flags.
    """

    def __init__(self, render: Callable[[str], str] = str) -> None:
        self.render = render
        self.output = SurvivingOutput()
        self._pace = _Pace()
        self._spoke = time.monotonic()

    def log(self, text: str) -> None:
        """Print `text`."""
        self.output.line(self.render(text))

    def advance(self, step: int, total: int, text: str) -> None:
        """Print a line with the remaining time, if the last line is old enough.

        Args:
            step: number of steps done.
            total: number of steps of the run.
            text: current loss, learning rate and speed.
        """
        left = self._pace.seconds_left(step, total)
        now = time.monotonic()
        if now - self._spoke >= _SECONDS_BETWEEN_LINES:
            self._spoke = now
            self.output.line(f"step {step}/{total}  {text}  {clock(left)} left")

    def close(self) -> None:
        """Do nothing."""


class LiveBar:
    """Reporter with a progress bar below scrolling lines.

    Args:
        render: as of `Lines`.
    """

    def __init__(self, render: Callable[[str], str] = str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.render = render
        self.output = SurvivingOutput()
        columns = (TextColumn("{task.fields[left]}"), TextColumn("{task.description}", markup=False))
        console = Console(file=cast(Any, self.output), force_terminal=True)
        self._bar = Progress(MofNCompleteColumn(), BarColumn(24), *columns, console=console)
        self._pace = _Pace()
        self._task: Any = None

    def log(self, text: str) -> None:
        """Print `text` above the bar."""
        text = self.render(text)
        if self.output.failed:
            self.output.line(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self, step: int, total: int, text: str) -> None:
        """Move the bar.

        Args:
            step: number of steps done.
            total: number of steps of the run.
            text: current loss, learning rate and speed.
        """
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


def choose_reporter(render: Callable[[str], str] = str) -> Reporter:
    """Return a `LiveBar` on a terminal, else `Lines`.

    Args:
        render: as of `Lines`.
    """
    return LiveBar(render) if sys.stdout.isatty() else Lines(render)


def clock(seconds: float | None) -> str:
    """Return `seconds` as text: 12 is "0:12", 4000 is "1:06:40", None is "?"."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def epoch_text(epoch: float) -> str:
    """Return `epoch` as text: 3.0 is "3", 0.6667 is "0.67"."""
    return f"{epoch:.2f}".rstrip("0").rstrip(".")


def format_score(name: str, value: float) -> str:
    """Return a metric as text with its name: accuracy in %, AP times 100, a loss unchanged.

    Args:
        name: key of the metric, such as "top1_fraction".
        value: accuracy and AP from 0 to 1.

    Returns:
        Such as "top-1 67.25%".
    """
    if name in _PER_CENT:
        return f"{_PER_CENT[name]} {100 * value:.2f}%"
    if name in _TIMES_100:
        return f"{_TIMES_100[name]} {100 * value:.1f}"
    return f"{name} {value:.4f}"
