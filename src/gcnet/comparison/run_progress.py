"""Progress of the trainings of a comparison, read from the rows that they append to their metrics."""

import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gcnet.comparison.plan import Training
from gcnet.comparison.runs import RunContext, check_same_data
from gcnet.tasks.registry import task_of
from gcnet.training.progress import Reporter, clock
from gcnet.training.run_folder import RunFolder

_NAMED = 4


class Progress:
    """Reports the steps of all trainings of a comparison.

    Args:
        context: where they run.
        trainings: all of them.
        reporter: of the progress.

    Attributes:
        done: number of finished trainings.
    """

    def __init__(self, context: RunContext, trainings: Sequence[Training], reporter: Reporter) -> None:
        self.context, self.trainings, self.reporter = context, trainings, reporter
        self._began = time.monotonic()
        self._steps = {training.name: StepReader(context.path(training)) for training in trainings}
        self.done = sum(context.result(training) is not None for training in trainings)

    def finished(self, training: Training) -> None:
        """Report the result of `training`, which is finished.

        Raises:
            UserError: others had other data.
        """
        run = self.context.result(training)
        if run is None:
            return
        self.done += 1
        score = task_of(training.settings.network.model).scores(training.settings.network.model)[0]
        reached = f"{score.name} {100 * run.scores[score.column]:.1f}{score.unit}"
        check_same_data(self.trainings, self.context)
        self.reporter.log(f"[{self.done}/{len(self.trainings)}] {_label(training)}: {reached} in {run.seconds:.0f} s")

    def poll(self, running: Sequence[Training]) -> None:
        """Report the steps that the trainings `running` have logged."""
        self.report(sum(self._steps[training.name].read() for training in running), running)

    def report(self, steps: int, running: Sequence[Training]) -> None:
        """Report the steps of all trainings.

        Args:
            steps: number of steps of the running trainings.
            running: the running trainings.
        """
        total = self.context.steps * len(self.trainings)
        names = ", ".join(map(_label, running)) if len(running) <= _NAMED else f"{len(running)} models"
        self.reporter.advance(
            min(self.done * self.context.steps + steps, total),
            total,
            f"training {names}  {clock(time.monotonic() - self._began)}",
        )

    def reporter_of(self, training: Training) -> Reporter:
        """Return a reporter for `training`, in this process, that forwards its steps."""
        return _ProgressOnly(partial(self.report, running=[training]))


class _ProgressOnly:
    """Reporter that forwards the steps of one training and drops its lines."""

    def __init__(self, report: partial[None]) -> None:
        self._report = report

    def log(self, text: str) -> None:  # noqa: ARG002
        """Drop the line: the comparison prints one line per training."""

    def advance(self, step: int, total: int, text: str) -> None:  # noqa: ARG002
        """Forward the step."""
        self._report(step)

    def close(self) -> None:
        """Do nothing."""


def _label(training: Training) -> str:
    if training.folder:
        return training.folder
    return f"{training.block}, seed {training.seed}" + (", control" if training.setting == "control" else "")


class StepReader:
    """Reads the last logged step of a run, each time from the rows that were appended to its metrics.

    Args:
        path: run folder, which may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._metrics = RunFolder(path).metrics
        self._file, self._offset, self._step = 0, 0, 0

    def read(self) -> int:
        """Return the last logged step, 0 before the first."""
        try:
            with self._metrics.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._file or status.st_size < self._offset:  # a resumed run has rewritten it
                    self._file, self._offset, self._step = status.st_ino, 0, 0
                file.seek(self._offset)
                rows, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return 0
        self._offset += len(rows) + len(newline)
        steps = (_step(row) for row in reversed(rows.splitlines()))
        self._step = next((step for step in steps if step is not None), self._step)
        return self._step


def _step(row: bytes) -> int | None:
    """The step of a row of metrics, None for a damaged row."""
    try:
        return int(json.loads(row)["step"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
