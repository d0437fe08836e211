"""Dry run: estimates FLOPs, memory and time of a run from its first steps; writes nothing."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gcnet.analysis.cost import count_parameters
from gcnet.analysis.memory import peak_resident_bytes
from gcnet.compilation import uncompiled
from gcnet.errors import UserError
from gcnet.insertion import inserted
from gcnet.training.progress import clock
from gcnet.training.settings import TrainSettings
from gcnet.training.task import TrainingBatch
from gcnet.training.trainer import Trainer
from gcnet.training.trial import try_network
from gcnet.workflows.run import BuildModel, assembled
from gcnet.workflows.train import with_fitting_batches

_TIMED_STEPS = 3
_PATIENCE = 10.0


@dataclass(frozen=True)
class Estimate:
    """What a run would cost.

    Attributes:
        parameters: of the network with its blocks.
        flops: of one forward pass of one image, a multiply-add counted as two.
        loss: of the first step.
        step_seconds: of one step, loading included.
        evaluation_seconds: of one evaluation, from the first images.
        total_seconds: of the whole run, evaluations included.
        memory: peak bytes; on a GPU of tensors, on the CPU of the whole process.
        steps: of the whole run.
        evaluations: of the whole run.
        device: it was measured on.
        insertions: what was inserted where, in words.
    """

    parameters: int
    flops: int
    loss: float
    step_seconds: float
    evaluation_seconds: float
    total_seconds: float
    memory: int
    steps: int
    evaluations: int
    device: str
    insertions: tuple[str, ...] = ()

    def __str__(self) -> str:
        memory = "of GPU memory" if self.device.startswith("cuda") else "of memory for the whole process"
        evaluations = f"{self.evaluations} evaluation{'s' * (self.evaluations != 1)}"
        return (
            f"dry run of up to {_TIMED_STEPS + 1} steps and one validation image, nothing written: "
            f"first loss {self.loss:.4f}, {self.step_seconds:.3f} s per step on {self.device}\n"
            f"network: {self.parameters:,} parameters, {self.flops / 1e9:.3g} GFLOPs per image forward "
            f"(multiply-add = 2), about three times that in training\n"
            + "".join(f"{insertion}\n" for insertion in self.insertions)
            + f"peak: {self.memory / 2**20:,.0f} MiB {memory}\n"
            f"whole run: {self.steps} steps and {evaluations} ({self.evaluation_seconds:.1f} s each), "
            f"about {clock(self.total_seconds)}"
        )


def dry_run(settings: TrainSettings, *, build_model: BuildModel | None = None) -> Estimate:
    """Estimate the cost of a run from a few steps and a validation image, without writing anything.

    Args:
        settings: of the run.
        build_model: as in `train`.

    Returns:
        FLOPs, memory and time of the run.

    Raises:
        UserError: as `train`, or the network is to be sharded.
        NonFiniteLoss: the first steps diverge.
    """
    if settings.machine.shard_model:
        raise UserError("`shard_model` cannot be tried by a dry run: start the run with few `steps`")
    settings = with_fitting_batches(settings, build_model)
    with assembled(settings, build_model) as (trainer, task):
        try_network(trainer)
        batches = task.batches(0, trainer.device)
        loss = _first_loss(trainer, batches)
        step = _time_steps(trainer, batches)
        share = _time_forward(trainer, next(batches)) * task.evaluation_images
        memory = _peak_memory(trainer.device)  # before anything else is built on the device
        steps = trainer.schedule.total
        every = max(1, round(settings.output.evaluate_every * task.steps_per_epoch))
        evaluations = -(-steps // every)
        with uncompiled(trainer.network):
            flops = task.flops(trainer.network)
        return Estimate(
            parameters=count_parameters(trainer.network),
            flops=flops,
            loss=loss,
            step_seconds=step,
            evaluation_seconds=share / trainer.processes.world,
            total_seconds=steps * step + evaluations * share / trainer.processes.world,
            memory=memory,
            steps=steps,
            evaluations=evaluations,
            device=str(trainer.device),
            insertions=tuple(str(insertion) for insertion in inserted(trainer.network)),
        )


def _first_loss(trainer: Trainer, batches: Iterator[TrainingBatch]) -> float:
    """The mean loss of the first step, which also warms everything up."""
    outcome = trainer.train_step(next(batches))
    return sum(outcome.loss_sums.values()) / max(outcome.own_images, 1)


def _time_steps(trainer: Trainer, batches: Iterator[TrainingBatch]) -> float:
    began, steps, late = time.perf_counter(), 0, False
    while steps < _TIMED_STEPS and not late:
        trainer.train_step(next(batches))
        steps += 1
        # All processes must take equally many steps.
        late = any(trainer.processes.sums([time.perf_counter() - began > _PATIENCE]))
    _wait(trainer.device)
    return (time.perf_counter() - began) / steps


def _time_forward(trainer: Trainer, batch: TrainingBatch) -> float:
    """Seconds of the forward pass in the precision of the run, an image; 0 where the batch has none."""
    batch = trainer.task.prepare(batch, trainer.step, trainer.device)
    if not batch.names:
        return 0.0
    trainer.network.eval()
    _wait(trainer.device)
    began = time.perf_counter()
    precision, half = trainer.autocast, trainer.autocast is not None
    with torch.no_grad(), torch.autocast(trainer.device.type, dtype=precision, enabled=half):
        trainer.task.forward(trainer.network, batch)
    _wait(trainer.device)
    return (time.perf_counter() - began) / len(batch.names)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()
