"""Description of a comparison: data, network, recipe, machine and versions."""

import os
import platform
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gcnet.comparison.settings import CompareSettings
from gcnet.ray_cluster import Share
from gcnet.tasks.registry import task_of
from gcnet.training.environment import versions
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings, TrainSettings


def describe_experiment(settings: CompareSettings, images: str, training: TrainSettings, steps: int) -> dict[str, str]:
    """Describe data, network and resolved recipe.

    Args:
        settings: of the comparison.
        images: data in words.
        training: resolved settings of one training.
        steps: length of a training.

    Returns:
        Text by heading.
    """
    recipe = training.recipe
    return {
        "data": f"{settings.data.data}: {images}",
        "network": f"{settings.model}, {task_of(settings.model).describe_origin(training)}",
        "placement": _placement(settings),
        "recipe": f"{steps:,} steps of {recipe.batch_size} images, {recipe.optimizer}, lr {recipe.peak_lr:g} "
        f"({_schedule(recipe)}, warm-up {recipe.warmup_epochs:.3g} epochs), weight decay {recipe.decay:g}, "
        f"{settings.machine.precision}{_extras(training)}",
        "seeds": ", ".join(map(str, settings.seed_numbers())),
    }


def _schedule(recipe: RecipeSettings) -> str:
    if recipe.schedule != "step":
        return str(recipe.schedule)
    return f"step at {', '.join(f'{milestone:.3g}' for milestone in recipe.milestones or ())} of the run"


def _extras(training: TrainSettings) -> str:
    recipe, detector = training.recipe, training.detector
    extras: dict[str, Any] = {
        name: value
        for name, value in asdict(recipe).items()
        if name in ("label_smoothing", "mixup", "cutmix", "ema_decay", "clip_grad_norm") and value
    }
    if recipe.block_lr_mult != 1:
        extras["block_lr_mult"] = recipe.block_lr_mult
    if recipe.warmup_start_factor is not None:
        extras["warm-up from"] = recipe.warmup_start_factor
    added = "".join(f", {name.replace('_', ' ')} {value:g}" for name, value in extras.items())
    if not recipe.decay_all:
        added += ", no weight decay on norms and biases"
    if recipe.freeze:
        added += f", frozen {' '.join(recipe.freeze)}"
    if len(detector.min_size or ()) > 1:
        added += f", short sides of {', '.join(map(str, detector.min_size or ()))} pixels in training"
    if detector.large_scale_jitter is not None:
        added += f", jitter of size from {detector.large_scale_jitter[0]:g} to {detector.large_scale_jitter[1]:g}"
    return added


def describe_machine(
    device: str, jobs: int, threads: int, machine: MachineSettings | None = None, cluster: Share | None = None
) -> dict[str, str]:
    """Describe device, precision, kernels, threads and versions.

    Args:
        device: of the trainings.
        jobs: trainings at a time.
        threads: CPU threads per training.
        machine: precision and kernels of the trainings, for this device; None to leave them out.
        cluster: resources of each training on a Ray cluster, whose devices are others; None without one.

    Returns:
        Text by heading.
    """
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    installed = versions(("gcnet", "torch", "torchvision", "timm", "numpy"))
    return {
        "device": f"{device} ({name})" + ("" if cluster is None else ", trainings on nodes of a Ray cluster"),
        **({} if cluster is None else {"Ray cluster": f"{cluster} per training"}),
        **({} if machine is None else {"precision": ", ".join([machine.precision, *_machine_options(machine)])}),
        "threads": f"{threads} per training, {jobs} at a time; {torch.get_num_threads()} for time measurements",
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "versions": ", ".join(f"{package} {version}" for package, version in installed.items()),
        **_command(),
    }


def _machine_options(machine: MachineSettings) -> list[str]:
    """Memory format, compilation and kernels of the trainings, where they are not PyTorch's defaults."""
    names = {"channels_last": "channels last", "compile": "compiled", "deterministic": "deterministic"}
    tf32 = [] if machine.tf32 is None else ["TF32" if machine.tf32 else "no TF32"]
    return [words for name, words in names.items() if getattr(machine, name)] + tf32


def _command() -> dict[str, str]:
    """The command line, if it is `gcnet`."""
    program = Path(sys.argv[0])
    is_gcnet = program.name == "gcnet" or program.parts[-2:] == ("gcnet", "__main__.py")
    return {"command": shlex.join(["gcnet", *sys.argv[1:]])} if is_gcnet else {}


def _placement(settings: CompareSettings) -> str:
    if settings.placement == "published":
        return "each block at its published insertion sites"
    places = "the default sites of the network"
    if settings.insert_at is not None or settings.stages is not None:
        places = ", ".join(settings.insert_at or [f"stage {stage}" for stage in settings.stages or ()])
    position = "" if settings.position is None else f", {settings.position}"
    return f"every block at the same sites: {places}{position}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
