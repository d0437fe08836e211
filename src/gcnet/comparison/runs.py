"""Runs the trainings of a comparison, several at a time; interrupted ones are resumed."""

import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from gcnet.children import FROM_TERMINAL, end_with_parent, signals_blocked, without_main_module
from gcnet.comparison.plan import Training, Variants, create_variant, variant_of
from gcnet.comparison.results import CurvePoint, Run, run_from_dict, run_to_dict
from gcnet.comparison.settings import CompareSettings
from gcnet.errors import Failure, UserError, out_of_memory, printable
from gcnet.storage import StorageError, locked, read_json, write_atomic
from gcnet.tasks.registry import task_of
from gcnet.training.distributed import Processes
from gcnet.training.progress import Reporter, clock
from gcnet.training.run_folder import RunFolder
from gcnet.training.signals import handle_signals
from gcnet.training.trainer import NonFiniteLoss

_POLL_SECONDS = 1.0
EXIT_UNGUARDED = 64
"""Exit code of a worker process whose script calls `gcnet.compare` while it is imported."""


class Stopped(Exception):
    """Raised when SIGINT or SIGTERM ended the comparison; the running trainings have saved checkpoints.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; repeat the command to resume")
        self.number = number


@dataclass(frozen=True)
class RunContext:
    """Execution context of a comparison's trainings.

    Attributes:
        settings: of the comparison.
        folder: output folder.
        jobs: trainings at a time.
        threads: CPU threads per training.
        variants: networks by block name, for blocks that a name alone does not describe.
        steps: optimizer steps per training.
        processes: all take part in every training; only the first writes.
    """

    settings: CompareSettings
    folder: Path
    jobs: int
    threads: int
    variants: Variants
    steps: int
    processes: Processes

    def path(self, training: Training) -> Path:
        """Return the run folder of a training."""
        return self.folder / "runs" / training.name

    def result(self, training: Training) -> Run | None:
        """Return the result of a `training`, None if it is not finished.

        Raises:
            StorageError: the file is damaged.
        """
        path = self.path(training).with_suffix(".json")
        if not path.exists():
            return None
        try:
            return run_from_dict(read_json(path))
        except (LookupError, TypeError, AttributeError) as error:
            raise StorageError(f"{printable(path)} is damaged; delete it to read the training again") from error


def run_all(trainings: Sequence[Training], context: RunContext, reporter: Reporter) -> list[Run]:
    """Run the trainings that are not finished.

    Args:
        trainings: of the comparison.
        context: where and how they run.
        reporter: of the progress.

    Returns:
        The results of all trainings, in the given order.

    Raises:
        Stopped: a signal was received; the running trainings have saved checkpoints.
        UserError: a training failed; the others have saved checkpoints.
        NonFiniteLoss: a loss was not finite.
    """
    (context.folder / "runs").mkdir(parents=True, exist_ok=True)
    processes = context.processes
    done = processes.by_first(lambda: [context.result(training) is not None for training in trainings])
    waiting = [training for training, is_done in zip(trainings, done, strict=True) if not is_done]
    if len(waiting) < len(trainings):
        reporter.log(f"{len(trainings) - len(waiting)} of {len(trainings)} trainings are already finished")
    progress = _Progress(context, trainings, reporter)
    if context.jobs == 1:
        for training in waiting:
            _train(training, context, progress.reporter_of(training))
            progress.finished(training)
    else:
        _run_in_processes(waiting, context, progress)
    return processes.by_first(lambda: [run for training in trainings if (run := context.result(training)) is not None])


def _train(training: Training, context: RunContext, reporter: Reporter) -> None:
    """Train or resume one run in this process and save its result."""
    from gcnet.workflows.resume import resume
    from gcnet.workflows.train import run_training

    path = context.path(training)
    is_own = variant_of(training.block, context.variants).is_own
    build = partial(create_variant, context.settings, training.block, context.variants) if is_own else None
    processes = context.processes
    # Waits for a process that is saving its state after its parent was killed.
    with locked(path.with_suffix(".lock"), wait=True) if processes.first else nullcontext():
        if processes.by_first(lambda: context.result(training) is not None):
            return
        if processes.by_first((path / "config.json").exists):
            result = resume(path, build_model=build, reporter=reporter)
        else:
            output = replace(training.settings.output, output=str(path))
            result = run_training(replace(training.settings, output=output), build_model=build, reporter=reporter)
        if result.stopped:
            raise Stopped(result.stopped)
        processes.by_first(lambda: _save_result(training, path))


def _save_result(training: Training, path: Path) -> None:
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


def _run_in_processes(waiting: Sequence[Training], context: RunContext, progress: "_Progress") -> None:
    queue, running = list(waiting), list[_Worker]()
    with handle_signals() as request:
        try:
            while (queue or running) and not request.stop:
                while queue and len(running) < context.jobs:
                    running.append(_Worker(queue.pop(0), context))
                wait([worker.process.sentinel for worker in running], timeout=_POLL_SECONDS)
                for worker in [worker for worker in running if not worker.process.is_alive()]:
                    running.remove(worker)
                    worker.check(stopping=bool(request.stop))
                    progress.finished(worker.training)
                progress.poll([worker.training for worker in running])
        finally:
            for worker in running:
                worker.process.terminate()
            for worker in running:
                worker.process.join()
        if request.stop:
            raise Stopped(request.stop)


@dataclass(frozen=True)
class _Failure:
    """Picklable form of an error in a worker process."""

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


class _Worker:
    """A process that runs one training; its output goes to a log file next to the run folder."""

    def __init__(self, training: Training, context: RunContext) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.training, self.log = training, context.path(training).with_suffix(".log")
        self.receiver, sender = spawn.Pipe(duplex=False)
        self.process: SpawnProcess = spawn.Process(target=_worker_main, args=(sender, training, context, self.log))
        with signals_blocked(*FROM_TERMINAL), _script_import(context):
            self.process.start()
        sender.close()

    def check(self, *, stopping: bool) -> None:
        """Raise the error of a worker that ended, if any."""
        self.process.join()
        try:
            failure = self.receiver.recv()
        except EOFError:  # no message: the training succeeded
            failure = None
        self.receiver.close()
        if failure is not None:
            raise failure.error(self.training.name)
        code = self.process.exitcode
        if code == EXIT_UNGUARDED:
            raise UserError(
                'the script must call gcnet.compare under `if __name__ == "__main__":`, since it defines builders of '
                "`variants`, for which every training imports the script"
            )
        if code and not stopping:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            advice = "; the system may be out of memory: try a smaller `jobs`" if code == -signal.SIGKILL else ""
            raise Failure(f"the training {self.training.name} {how}{advice}; its output is in {printable(self.log)}")


def _script_import(context: RunContext) -> AbstractContextManager[None]:
    """Context of a process start, in which the script is imported only if it defines builders of variants."""
    modules = {getattr(variant.block, "__module__", None) for variant in context.variants.values()}
    return nullcontext() if "__main__" in modules else without_main_module()


def _worker_main(sender: Connection, training: Training, context: RunContext, log: Path) -> None:
    """Worker entry point: logs to a file; saves a checkpoint and exits if the parent is gone."""
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    end_with_parent(signal.SIGTERM)
    import torch

    from gcnet.training.progress import Lines

    torch.set_num_threads(context.threads)
    try:
        _train(training, context, Lines())
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
    """Reports the steps of all trainings."""

    def __init__(self, context: RunContext, trainings: Sequence[Training], reporter: Reporter) -> None:
        self.context, self.trainings, self.reporter = context, trainings, reporter
        self._began = time.monotonic()
        self.done = sum(context.result(training) is not None for training in trainings)

    def finished(self, training: Training) -> None:
        """Report the result of a finished training."""
        run = self.context.result(training)
        if run is None:
            return
        self.done += 1
        score = task_of(training.settings.network.model).scores(training.settings.network.model)[0]
        reached = f"{score.name} {100 * run.scores[score.column]:.1f}{score.unit}"
        self.reporter.log(f"[{self.done}/{len(self.trainings)}] {_label(training)}: {reached} in {run.seconds:.0f} s")

    def poll(self, running: Sequence[Training]) -> None:
        """Report the steps that running trainings have logged."""
        self.report(sum(_steps_written(self.context.path(training)) for training in running), running)

    def report(self, steps: int, running: Sequence[Training]) -> None:
        """Report the steps of all trainings, of which `steps` are in the running ones."""
        total = self.context.steps * len(self.trainings)
        names = ", ".join(map(_label, running))
        self.reporter.advance(
            min(self.done * self.context.steps + steps, total),
            total,
            f"training {names}  {clock(time.monotonic() - self._began)}",
        )

    def reporter_of(self, training: Training) -> Reporter:
        """Return a reporter for a training in this process that forwards its steps."""
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
    return f"{training.block}, seed {training.seed}" + (", control" if training.setting == "control" else "")


def _steps_written(path: Path) -> int:
    """Return the last logged step of a run, which may be writing a row at this moment."""
    rows = RunFolder(path).rows() if path.exists() else []
    return int(rows[-1]["step"]) if rows else 0
