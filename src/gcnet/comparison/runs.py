"""A training of a comparison: its folder, its result, and how it runs or resumes."""

import json
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gcnet.comparison.plan import Training, Variants, create_variant, variant_of
from gcnet.comparison.results import CurvePoint, Run, run_from_dict, run_to_dict
from gcnet.comparison.settings import CompareSettings
from gcnet.errors import UserError, printable
from gcnet.storage import StorageError, locked, read_json, write_atomic
from gcnet.tasks.registry import task_of
from gcnet.training.distributed import Processes
from gcnet.training.progress import Reporter
from gcnet.training.run_folder import RunFolder

_VISIBLE_SECONDS = 60.0


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
        processes: of torchrun; all take part in every training if `jobs` is 1, and only the first writes.
        gpus: values of CUDA_VISIBLE_DEVICES for trainings in processes of their own; empty to leave it unchanged.
    """

    settings: CompareSettings
    folder: Path
    jobs: int
    threads: int
    variants: Variants
    steps: int
    processes: Processes
    gpus: tuple[str, ...] = ()

    def path(self, training: Training) -> Path:
        """Return the run folder of a training."""
        return self.folder / (training.folder or f"runs/{training.name}")

    def file(self, training: Training, ending: str) -> Path:
        """Return the file next to the run folder of a training.

        Args:
            training: the training.
            ending: such as ".log".
        """
        path = self.path(training)
        return path.with_name(path.name + ending)

    def result(self, training: Training) -> Run | None:
        """Return the result of a `training`, None if it is not finished.

        Raises:
            StorageError: the file is damaged.
        """
        path = self.file(training, ".json")
        if not path.exists():
            return None
        try:
            return run_from_dict(read_json(path))
        except (LookupError, TypeError, AttributeError) as error:
            raise StorageError(f"{printable(path)} is damaged; delete it to read the training again") from error


def train_or_resume(training: Training, context: RunContext, reporter: Reporter) -> None:
    """Train or resume one run in this process and save its result.

    Args:
        training: the training.
        context: where and how it runs.
        reporter: of the progress.

    Raises:
        Stopped: a signal was received; a checkpoint is saved.
        UserError: the training failed.
        NonFiniteLoss: a loss was not finite.
    """
    from gcnet.workflows.resume import resume
    from gcnet.workflows.train import run_training

    path = context.path(training)
    is_own = variant_of(training.block, context.variants).is_own
    build = partial(create_variant, context.settings, training.block, context.variants) if is_own else None
    processes = context.processes
    # Waits for a process that is saving its state after its parent was killed.
    with locked(context.file(training, ".lock"), wait=True) if processes.first else nullcontext():
        if processes.by_first(lambda: context.result(training) is not None):
            return
        if processes.by_first((path / "config.json").exists):
            result = resume(path, build_model=build, reporter=reporter)
        else:
            output = replace(training.settings.output, output=str(path))
            result = run_training(replace(training.settings, output=output), build_model=build, reporter=reporter)
        if result.stopped:
            raise Stopped(result.stopped)
        processes.by_first(lambda: _save_result(training, context))


def _save_result(training: Training, context: RunContext) -> None:
    run = run_to_dict(_read_run(training, RunFolder(context.path(training))))
    write_atomic(context.file(training, ".json"), json.dumps(run, indent=2).encode())


def require_result(training: Training, context: RunContext) -> None:
    """Check that the result of a training that another machine has finished is in the folder of this one.

    Args:
        training: finished.
        context: where it ran.

    Raises:
        UserError: it is not, also after a minute, in which a network disk shows new files.
    """
    until = time.monotonic() + _VISIBLE_SECONDS
    while context.result(training) is None:
        if time.monotonic() > until:
            raise UserError(
                f"{training.name} has ended on another machine, but its result is not in {printable(context.folder)} "
                "here: all machines must share the folder `output`"
            )
        time.sleep(_VISIBLE_SECONDS / 60)


def check_same_data(trainings: Sequence[Training], context: RunContext) -> None:
    """Check that finished trainings that are compared, of one setting and seed, have had the same data.

    Args:
        trainings: of the comparison.
        context: where they ran.

    Raises:
        UserError: they have not, such as on machines with other data at the same path.
    """
    digests: dict[tuple[str, int], tuple[Training, str]] = {}
    for training in trainings:
        digest = _digest(training, context)
        first, expected = digests.setdefault((training.setting, training.seed), (training, digest))
        if not expected:
            digests[training.setting, training.seed] = training, digest
        elif digest and digest != expected:
            raise UserError(
                f"{first.name} and {training.name} have trained on different images; all machines need the same "
                f"`data`: remove {printable(context.path(training))}*, or those of {first.name}, and repeat the command"
            )


def _digest(training: Training, context: RunContext) -> str:
    """The digest of the data of a finished training; empty if there is none."""
    if context.result(training) is None:
        return ""
    try:
        data = read_json(RunFolder(context.path(training)).config).get("data")
    except StorageError:  # removed after the result was saved
        return ""
    return str(data.get("digest", "")) if isinstance(data, Mapping) else ""


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
