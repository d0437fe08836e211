"""Prints the header of a run: network, weights, data, augmentation, recipe and machine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from gcnet.devices import kernel_words
from gcnet.errors import printable
from gcnet.insertion import inserted
from gcnet.models.weights import loaded_weights
from gcnet.training.settings import TrainSettings
from gcnet.training.trainer import Trainer


def print_header(trainer: Trainer, settings: TrainSettings, folder: Path, log: Callable[[str], None]) -> None:
    """Print network, data, recipe and machine of a run.

    Args:
        trainer: ready for its first step.
        settings: of the run.
        folder: of the run.
        log: prints a line.
    """
    log(_network(trainer, settings))
    for insertion in inserted(trainer.network):
        log(str(insertion))
    log(f"weights: {_weights(trainer, settings)}")
    if settings.recipe.preset == "finetune" and settings.network.weights is None:
        log("note: `preset=finetune` without `weights` trains a randomly initialized network with a fine-tuning recipe")
    for line in data_lines(trainer, settings):
        log(line)
    log(f"augmentation: {trainer.task.describe_augmentation()}")
    log(_recipe(trainer, settings))
    log(_machine(trainer))
    log(f"results in {printable(folder)}")


def data_lines(trainer: Trainer, settings: TrainSettings) -> list[str]:
    """Return lines on the data: number of images, classes, input size, and notes of the task.

    Args:
        trainer: with its task.
        settings: of the run.

    Returns:
        The lines.
    """
    task = trainer.task
    data = printable(f"data: {settings.data.data}: {task.describe_data(task.input_size(trainer.network))}")
    return [data, *(printable(note) for note in [*task.notes(), *_norm_notes(trainer, settings)])]


def _network(trainer: Trainer, settings: TrainSettings) -> str:
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    added = sum(insertion.parameters for insertion in inserted(trainer.network))
    blocks = f", {added:,} of them in inserted blocks" if added else ""
    names = len(list(trainer.network.parameters()))
    frozen = f", {len(trainer.frozen)} of {names} parameter tensors frozen" if trainer.frozen else ""
    return f"{settings.network.model}: {parameters:,} parameters{blocks}{frozen}"


def _weights(trainer: Trainer, settings: TrainSettings) -> str:
    loaded = loaded_weights(trainer.network)
    if loaded is None:
        return "random initialization"
    if settings.detector.backbone_weights is not None:
        return f"backbone: {loaded}; the rest randomly initialized"
    return str(loaded)


def _recipe(trainer: Trainer, settings: TrainSettings) -> str:
    recipe, processes, conventions = trainer.recipe, trainer.processes.world, settings.detector.conventions
    scaling = replace(settings.recipe, preset=recipe.preset, batch_size=recipe.batch_size).scaling()
    preset = f"preset {recipe.preset}" + (f" with conventions {conventions}" if conventions else "")
    across = f" over {processes} processes" if processes > 1 else ""
    accumulated = f" in {recipe.grad_accumulation} micro-batches" if recipe.grad_accumulation > 1 else ""
    clipping = f", gradient norm clipped to {recipe.clip_grad_norm:g}" if recipe.clip_grad_norm else ""
    return (
        f"{preset}: {trainer.schedule.total} steps of {recipe.batch_size} images{accumulated}{across}, "
        f"{trainer.task.steps_per_epoch} per epoch; {recipe.optimizer}, lr {recipe.peak_lr:g} ({scaling}), "
        f"{recipe.schedule}{_warmup(trainer)}{clipping}"
    )


def _warmup(trainer: Trainer) -> str:
    schedule = trainer.schedule
    if not schedule.warmup:
        return ""
    start = "" if schedule.start is None else f" from {schedule.start:.3g} of it"
    return f" after warm-up of {schedule.warmup} step{'s' * (schedule.warmup != 1)}{start}"


def _machine(trainer: Trainer) -> str:
    machine, threads = trainer.machine, torch.get_num_threads()
    extras = [name for name in ("channels_last", "deterministic") if getattr(machine, name)]
    extras += ["compiled"] if machine.compile else []
    extras += [f"network sharded over {trainer.processes.world} processes"] if machine.shard_model else []
    extras += kernel_words(trainer.device)
    workers = trainer.task.workers(trainer.device)
    parts = [
        machine.precision,
        *extras,
        f"{threads} thread{'s' * (threads != 1)}",
        f"{workers or 'no'} data-loader worker{'s' * (workers != 1)}{' per process' * (trainer.processes.world > 1)}",
        f"seed {machine.seed}",
    ]
    return f"device: {trainer.device}, {', '.join(parts).replace('_', ' ')}"


def _norm_notes(trainer: Trainer, settings: TrainSettings) -> list[str]:
    if settings.detector.norm != "sync":
        return []
    if trainer.device.type == "cuda":
        return ["batch norms use statistics over all processes (SyncBN)"]
    return [f"`norm=sync` works on CUDA only: on {trainer.device} each process uses the statistics of its own images"]
