"""Trainings of a comparison in processes of their own, on the CPU or each on a GPU."""

import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from gcnet.children import FROM_TERMINAL, end_with_parent, signals_blocked, without_main_module
from gcnet.comparison.plan import Training
from gcnet.comparison.run_progress import Progress
from gcnet.comparison.runs import RunContext, Stopped, train_or_resume
from gcnet.errors import Failure, UserError, out_of_memory, printable
from gcnet.training.losses import NonFiniteLoss
from gcnet.training.signals import handle_signals

_POLL_SECONDS = 1.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"
# A training in a process of its own joins no processes of torchrun. LOCAL_WORLD_SIZE stays: they share the cores.
_OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE")
EXIT_UNGUARDED = 64
"""Exit code of a worker process whose script calls `gcnet.compare` while it is imported."""
_UNGUARDED = (
    'the script must call gcnet.compare under `if __name__ == "__main__":`, since it defines builders of `variants`, '
    "for which every training imports the script"
)


def run_in_processes(waiting: Sequence[Training], context: RunContext, progress: Progress) -> None:
    """Run trainings in processes of their own, `context.jobs` at a time, each on the GPU with the fewest trainings.

    Args:
        waiting: trainings that are not finished.
        context: where and how they run.
        progress: reports their steps and results.

    Raises:
        Stopped: a signal was received; the running trainings have saved checkpoints.
        UserError: a training failed; the others have saved checkpoints.
        NonFiniteLoss: a loss was not finite.
    """
    queue, running = list(waiting), list[TrainingProcess]()
    with handle_signals() as request:
        try:
            while (queue or running) and not request.stop:
                while queue and len(running) < context.jobs:
                    running.append(TrainingProcess(queue.pop(0), context, _free_gpu(context.gpus, running)))
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


def _free_gpu(gpus: Sequence[str], running: "Sequence[TrainingProcess]") -> str | None:
    """The GPU with the fewest running trainings; None without GPUs."""
    used = [worker.gpu for worker in running]
    return min(gpus, key=used.count, default=None)


@dataclass(frozen=True)
class TrainingFailure:
    """Picklable form of an error in a process that runs a training.

    Attributes:
        kind: name of its class.
        sentence: the error.
        step: step of a loss that is not finite.
        images: names of the images of this step.
    """

    kind: str
    sentence: str
    step: int = 0
    images: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: UserError) -> "TrainingFailure":
        """Return the picklable form of `error`."""
        if isinstance(error, NonFiniteLoss):
            return cls(NonFiniteLoss.__name__, str(error), error.step, tuple(error.names))
        return cls((Failure if isinstance(error, Failure) else UserError).__name__, str(error))

    def error(self, name: str) -> UserError:
        """Return the error of the training called `name`, or of the script."""
        if self.sentence == _UNGUARDED:
            return UserError(_UNGUARDED)
        if self.kind == NonFiniteLoss.__name__:
            value = math.inf if " is infinite " in self.sentence else math.nan
            return NonFiniteLoss(self.step, value, self.images, what=f"the loss of {name}")
        return (UserError if self.kind == UserError.__name__ else Failure)(f"{name}: {self.sentence}")


class TrainingProcess:
    """A process that runs one training; its output goes to a log file next to the run folder.

    Args:
        training: the training.
        context: where and how it runs.
        gpu: CUDA_VISIBLE_DEVICES of the process; None for that of this process.

    Attributes:
        process: the process.
    """

    def __init__(self, training: Training, context: RunContext, gpu: str | None = None) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.training, self.gpu, self.log = training, gpu, context.file(training, ".log")
        self.receiver, sender = spawn.Pipe(duplex=False)
        self.process: SpawnProcess = spawn.Process(target=_worker_main, args=(sender, training, context, self.log))
        changes = dict.fromkeys(_OF_TORCHRUN) | ({} if gpu is None else {_VISIBLE: gpu})
        with signals_blocked(*FROM_TERMINAL), _script_import(context), _environment(changes):
            self.process.start()
        sender.close()

    def check(self, *, stopping: bool) -> None:
        """Raise the error of a training that ended, if any.

        Args:
            stopping: whether a signal ended the comparison, after which an exit code is no error.

        Raises:
            UserError: the training failed.
            NonFiniteLoss: a loss was not finite.
        """
        failure = self.failure(stopping=stopping)
        if failure is not None:
            raise failure.error(self.training.name)

    def failure(self, *, stopping: bool) -> TrainingFailure | None:
        """Return the error of a training that ended, None for success; `stopping` as for `check`."""
        self.process.join()
        try:
            failure = self.receiver.recv()
        except EOFError:  # no message: the training succeeded
            failure = None
        self.receiver.close()
        code = self.process.exitcode
        if code == EXIT_UNGUARDED:
            return TrainingFailure.of(UserError(_UNGUARDED))
        if failure is not None or not code or stopping:
            return failure
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        advice = "; the system may be out of memory: try a smaller `jobs`" if code == -signal.SIGKILL else ""
        return TrainingFailure.of(Failure(f"the training {how}{advice}; its output is in {printable(self.log)}"))

    def end(self) -> None:
        """Stop the training, which saves a checkpoint, and wait for it."""
        self.process.terminate()
        self.process.join()


def _script_import(context: RunContext) -> AbstractContextManager[None]:
    """Context of a process start, in which the script is imported only if it defines builders of variants."""
    modules = {getattr(variant.block, "__module__", None) for variant in context.variants.values()}
    return nullcontext() if "__main__" in modules else without_main_module()


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Generator[None]:
    """Context of a process start with changed environment variables, which the new process inherits; None unsets."""
    before = {name: os.environ.get(name) for name in changes}
    _set_variables(changes)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _worker_main(sender: Connection, training: Training, context: RunContext, log: Path) -> None:
    """TrainingProcess entry point: logs to a file; saves a checkpoint and exits if the parent is gone."""
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    end_with_parent(signal.SIGTERM)
    import torch

    from gcnet.training.progress import Lines

    torch.set_num_threads(context.threads)
    try:
        train_or_resume(training, context, Lines())
    except Stopped as stopped:
        sys.exit(128 + stopped.number)
    except UserError as error:
        sender.send(TrainingFailure.of(error))
    except (MemoryError, RuntimeError, OSError) as error:
        missing = out_of_memory(error)
        if missing is None:
            raise
        sender.send(TrainingFailure.of(Failure(f"{missing}; less is needed with another `jobs` or `batch_size`")))
