"""What a reader needs to judge a comparison: data, recipe, machine, versions, and some of the images."""

import base64
import io
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gcnet.compare.settings import CompareSettings
from gcnet.report.results import Picture
from gcnet.training.folder import versions

if TYPE_CHECKING:
    from gcnet.data.images import ImageSource
    from gcnet.data.source import DataSplits
    from gcnet.training.settings import RecipeSettings

_PICTURES, _SIDE = 12, 160


def describe_experiment(settings: CompareSettings, data: "DataSplits", recipe: "RecipeSettings") -> dict[str, str]:
    """Data, network and resolved recipe in words."""
    size = data.preprocessing.image_size
    length = f"{recipe.steps:,} steps"
    extras = {
        name: value
        for name, value in asdict(recipe).items()
        if name in ("label_smoothing", "mixup", "cutmix", "ema", "clip_norm") and value
    }
    if recipe.block_lr != 1:
        extras["block_lr"] = recipe.block_lr
    added = "".join(f", {name.replace('_', ' ')} {value:g}" for name, value in extras.items())
    return {
        "data": f"{settings.data.data}: {len(data.train):,} training and {len(data.val):,} validation images, "
        f"{len(data.classes)} classes, {size} x {size} pixels",
        "network": f"{settings.model}, " + (f"from {settings.weights}" if settings.weights else "from random weights"),
        "placement": _placement(settings),
        "recipe": f"{length} of {recipe.batch_size} images, {recipe.optimizer}, lr {recipe.lr:g} ({recipe.schedule}, "
        f"warm-up {recipe.warmup_epochs:g} epochs), weight decay {recipe.weight_decay:g}, {settings.precision}{added}",
        "seeds": ", ".join(map(str, settings.seed_numbers())),
    }


def describe_machine(device: str, jobs: int, threads: int) -> dict[str, str]:
    """Device, threads and versions in words."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    found = versions(("gcnet", "torch", "torchvision", "timm", "numpy"))
    return {
        "device": f"{device} ({name})",
        "threads": f"{threads} for each of {jobs} at a time in training; {torch.get_num_threads()} for the times",
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "versions": ", ".join(f"{package} {version}" for package, version in found.items()),
    }


def sample_pictures(source: "ImageSource") -> tuple[Picture, ...]:
    """Some images spread over the source, as small PNGs; unreadable ones are passed over."""
    from gcnet.data.decode import ImageError

    found: list[Picture] = []
    for turn in range(min(_PICTURES, len(source))):
        index = turn * len(source) // min(_PICTURES, len(source))
        try:
            image = source.read(index)
        except ImageError:
            continue
        image.thumbnail((_SIDE, _SIDE))
        stream = io.BytesIO()
        image.save(stream, format="png")
        found.append(Picture(source.classes[source.label(index)], base64.b64encode(stream.getvalue()).decode()))
    return tuple(found)


def _placement(settings: CompareSettings) -> str:
    if settings.placement == "published":
        return "each block at its own published places"
    stages = (
        "the network's usual stages" if settings.stages is None else f"stages {', '.join(map(str, settings.stages))}"
    )
    return f"every block at the same places: {stages}, {settings.position or 'after_norm'}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
