"""Runs the trainings of a comparison, several at a time; interrupted ones are resumed."""

import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from gcnet.children import FROM_TERMINAL, end_with_parent, signals_blocked
from gcnet.comparison.plan import Training, Variants, create_variant, variant_of
from gcnet.comparison.results import CurvePoint, Run, run_from_dict, run_to_dict
from gcnet.comparison.settings import CompareSettings
from gcnet.errors import Failure, UserError, out_of_memory, printable
from gcnet.storage import StorageError, locked, read_json, write_atomic
from gcnet.tasks.registry import task_of
from gcnet.training.distributed import Processes
from gcnet.training.progress import Reporter, clock
from gcnet.training.run_folder import RunFolder
from gcnet.training.signals import signals_heard
from gcnet.training.trainer import NonFiniteLoss

_GLANCE = 1.0


class Stopped(Exception):
    """A signal (SIGINT or SIGTERM) ended the comparison; what was running has saved its state."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; the same command goes on")
        self.number = number


@dataclass(frozen=True)
class Workshop:
    """Where and how trainings are carried out: how many at a time, the threads and the steps of each.

    Of several `processes` all take part in every training, and the first alone writes.
    """

    settings: CompareSettings
    folder: Path
    jobs: int
    threads: int
    variants: Variants
    steps: int
    processes: Processes

    def path(self, training: Training) -> Path:
        """The run folder of a training."""
        return self.folder / "runs" / training.name

    def result(self, training: Training) -> Run | None:
        """What a finished training came to, or None.

        Raises:
            StorageError: its file is damaged.
        """
        path = self.path(training).with_suffix(".json")
        if not path.exists():
            return None
        try:
            return run_from_dict(read_json(path))
        except (LookupError, TypeError, AttributeError) as error:
            raise StorageError(f"{printable(path)} is damaged; delete it to read the training again") from error


def carry_out(trainings: Sequence[Training], workshop: Workshop, reporter: Reporter) -> list[Run]:
    """Train what is not trained yet, and return the results of all, in their order.

    Raises:
        Stopped: a signal came; the trainings that were running have saved their state.
        UserError: a training cannot be done; the others have saved their state.
        NonFiniteLoss: a training met a loss that is not finite.
    """
    (workshop.folder / "runs").mkdir(parents=True, exist_ok=True)
    processes = workshop.processes
    done = processes.by_first(lambda: [workshop.result(training) is not None for training in trainings])
    waiting = [training for training, is_done in zip(trainings, done, strict=True) if not is_done]
    if len(waiting) < len(trainings):
        reporter.say(f"{len(trainings) - len(waiting)} of {len(trainings)} trainings are done already")
    progress = _Progress(workshop, trainings, reporter)
    if workshop.jobs == 1:
        for training in waiting:
            _train(training, workshop, progress.reporter_of(training))
            progress.finished(training)
    else:
        _carry_out_in_processes(waiting, workshop, progress)
    return processes.by_first(lambda: [run for training in trainings if (run := workshop.result(training)) is not None])


def _train(training: Training, workshop: Workshop, reporter: Reporter) -> None:
    """Train, or go on with, one run in this process, and put down what it came to."""
    from gcnet.workflows.resume import resume
    from gcnet.workflows.train import run_training

    path = workshop.path(training)
    is_own = variant_of(training.block, workshop.variants).is_own
    build = partial(create_variant, workshop.settings, training.block, workshop.variants) if is_own else None
    processes = workshop.processes
    # Waits for a process whose parent was killed, and which is saving its state.
    with locked(path.with_suffix(".lock"), wait=True) if processes.first else nullcontext():
        if processes.by_first(lambda: workshop.result(training) is not None):
            return
        if processes.by_first((path / "config.json").exists):
            result = resume(path, build_model=build, reporter=reporter)
        else:
            output = replace(training.settings.output, output=str(path))
            result = run_training(replace(training.settings, output=output), build_model=build, reporter=reporter)
        if result.stopped:
            raise Stopped(result.stopped)
        processes.by_first(lambda: _put_down(training, path))


def _put_down(training: Training, path: Path) -> None:
    run = run_to_dict(_read_run(training, RunFolder(path)))
    write_atomic(path.with_suffix(".json"), json.dumps(run, indent=2).encode())


def _read_run(training: Training, folder: RunFolder) -> Run:
    columns = [
        score.column for score in task_of(training.settings.network.model).scores(training.settings.network.model)
    ]
    rows = [row for row in folder.evaluations() if all(name in row for name in (*columns, "images", "seconds"))]
    if not rows:
        raise StorageError(f"{printable(folder.metrics)} is damaged: it has no evaluation")
    curve = [
        CurvePoint(row["epoch"], row["train_loss"], {column: row[column] for column in columns[:1]}) for row in rows
    ]
    last = rows[-1]
    return Run(
        setting=training.setting,
        block=training.block,
        seed=training.seed,
        scores={column: last[column] for column in columns},
        images=last["images"],
        skipped=last["skipped"],
        seconds=last["seconds"],
        curve=tuple(curve),
    )


def _carry_out_in_processes(waiting: Sequence[Training], workshop: Workshop, progress: "_Progress") -> None:
    queue, running = list(waiting), list[_Child]()
    with signals_heard() as wishes:
        try:
            while (queue or running) and not wishes.stop:
                while queue and len(running) < workshop.jobs:
                    running.append(_Child(queue.pop(0), workshop))
                wait([child.process.sentinel for child in running], timeout=_GLANCE)
                for child in [child for child in running if not child.process.is_alive()]:
                    running.remove(child)
                    child.check(stopping=bool(wishes.stop))
                    progress.finished(child.training)
                progress.look([child.training for child in running])
        finally:
            for child in running:
                child.process.terminate()
            for child in running:
                child.process.join()
        if wishes.stop:
            raise Stopped(wishes.stop)


@dataclass(frozen=True)
class _Failure:
    """A user's mistake or a loss that is not finite, on its way from a child."""

    kind: str
    sentence: str
    step: int = 0
    images: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: UserError) -> "_Failure":
        if isinstance(error, NonFiniteLoss):
            return cls(NonFiniteLoss.__name__, str(error), error.step, tuple(error.names))
        return cls((Failure if isinstance(error, Failure) else UserError).__name__, str(error))

    def error(self, name: str) -> UserError:
        if self.kind == NonFiniteLoss.__name__:
            value = math.inf if " is infinite " in self.sentence else math.nan
            return NonFiniteLoss(self.step, value, self.images, what=f"the loss of {name}")
        return (UserError if self.kind == UserError.__name__ else Failure)(f"{name}: {self.sentence}")


class _Child:
    """A process that does one training, with what it prints in a file beside its run folder."""

    def __init__(self, training: Training, workshop: Workshop) -> None:
        context = multiprocessing.get_context("spawn")
        self.training, self.log = training, workshop.path(training).with_suffix(".log")
        self.receiver, sender = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(target=_work, args=(sender, training, workshop, self.log))
        with signals_blocked(*FROM_TERMINAL):
            self.process.start()
        sender.close()

    def check(self, *, stopping: bool) -> None:
        """Raise what the training met, in this process."""
        self.process.join()
        try:
            failure = self.receiver.recv()
        except EOFError:  # it ended without a word, which is how a training that worked ends
            failure = None
        self.receiver.close()
        if failure is not None:
            raise failure.error(self.training.name)
        code = self.process.exitcode
        if code and not stopping:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            advice = "; the system may be out of memory: try a smaller `jobs`" if code == -signal.SIGKILL else ""
            raise Failure(
                f"the training {self.training.name} {how}{advice}; what it printed is in {printable(self.log)}"
            )


def _work(sender: Connection, training: Training, workshop: Workshop, log: Path) -> None:
    """The life of a child: its words go to the log, and it saves its state and ends when its parent is gone."""
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    end_with_parent(signal.SIGTERM)
    import torch

    from gcnet.training.progress import Lines

    torch.set_num_threads(workshop.threads)
    try:
        _train(training, workshop, Lines())
    except Stopped as stopped:
        sys.exit(128 + stopped.number)
    except UserError as error:
        sender.send(_Failure.of(error))
    except (MemoryError, RuntimeError, OSError) as error:
        missing = out_of_memory(error)
        if missing is None:
            raise
        sender.send(_Failure.of(Failure(f"{missing}; less is needed with another `jobs` or `batch_size`")))


class _Progress:
    """Steps done over all trainings, told to a reporter."""

    def __init__(self, workshop: Workshop, trainings: Sequence[Training], reporter: Reporter) -> None:
        self.workshop, self.trainings, self.reporter = workshop, trainings, reporter
        self._began = time.monotonic()
        self.done = sum(workshop.result(training) is not None for training in trainings)

    def finished(self, training: Training) -> None:
        """Say what a training came to."""
        run = self.workshop.result(training)
        if run is None:
            return
        self.done += 1
        what = _title(training)
        score = task_of(training.settings.network.model).scores(training.settings.network.model)[0]
        reached = f"{score.name} {100 * run.scores[score.column]:.1f}{score.unit}"
        self.reporter.say(f"[{self.done}/{len(self.trainings)}] {what}: {reached} in {run.seconds:.0f} s")

    def look(self, running: Sequence[Training]) -> None:
        """Count the steps of running trainings from what they have written."""
        self.tell(sum(_steps_written(self.workshop.path(training)) for training in running), running)

    def tell(self, steps: int, running: Sequence[Training]) -> None:
        """Tell the reporter how far all trainings are, with `steps` steps done in the running ones."""
        total = self.workshop.steps * len(self.trainings)
        names = ", ".join(map(_title, running))
        self.reporter.advance(
            min(self.done * self.workshop.steps + steps, total),
            total,
            f"training {names}  {clock(time.monotonic() - self._began)}",
        )

    def reporter_of(self, training: Training) -> Reporter:
        """A reporter for a training in this process, that passes on how far it is."""
        return _Quiet(partial(self.tell, running=[training]))


class _Quiet:
    """Passes on the steps of one training, and says nothing."""

    def __init__(self, tell: partial[None]) -> None:
        self._tell = tell

    def say(self, text: str) -> None:  # noqa: ARG002
        """Nothing: the comparison says a line when the training is done."""

    def advance(self, step: int, total: int, text: str) -> None:  # noqa: ARG002
        """Pass the step on."""
        self._tell(step)

    def close(self) -> None:
        """Nothing is open."""


def _title(training: Training) -> str:
    return f"{training.block}, seed {training.seed}" + (", control" if training.setting == "control" else "")


def _steps_written(path: Path) -> int:
    """The last step in the rows of a run that may be writing one at this moment."""
    rows = RunFolder(path).rows() if path.exists() else []
    return int(rows[-1]["step"]) if rows else 0
