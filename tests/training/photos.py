"""A folder of small images whose class is their brightest color, and runs on it, also in processes of their own."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from free_ports import free_port
from gcnet.training.progress import Silent
from gcnet.training.settings import TrainSettings, override
from gcnet.workflows.resume import resume
from gcnet.workflows.run import RunResult
from gcnet.workflows.train import run_training

CLASSES = ("blue", "green", "red")


def write_photos(root: Path, *, train_images: int = 19, val_images: int = 7, size: int = 11) -> Path:
    """`root`/{train,val}/{blue,green,red}/N.png; returns the folder."""
    generator = np.random.default_rng(5)
    for split, count in (("train", train_images), ("val", val_images)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 200, (size, size, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 55
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def small_network(classes: int) -> nn.Module:
    """Convolution, LayerNorm and dropout: nothing that depends on the other images of a batch."""
    features = [nn.Conv2d(3, 5, 3, padding=1), nn.GroupNorm(1, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*features, nn.Dropout(0.3), nn.Linear(5, classes))


def steady_network(classes: int) -> nn.Module:
    """The same without dropout, which processes draw for themselves."""
    return nn.Sequential(*[layer for layer in small_network(classes) if not isinstance(layer, nn.Dropout)])


def settings_for(photos: Path, output: Path, **changes: Any) -> TrainSettings:
    """A run of 3 epochs of 5 steps, augmented, mixed and averaged."""
    chosen = {"data": str(photos), "output": str(output), "epochs": 3.0, "batch_size": 10, "lr": 0.05, "seed": 7}
    varied = {
        "ema_decay": 0.9,
        "color_jitter": 0.3,
        "mixup": 0.2,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "erasing": 0.2,
    }
    quiet = {"plots": False, "save_every_steps": 2, "log_every": 1}
    return override(TrainSettings(), **(chosen | varied | quiet | changes))


class StoppingAt(Silent):
    """Sends SIGTERM to its own process at a step, and keeps what is logged."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.printed: list[str] = []

    def log(self, text: str) -> None:
        self.printed.append(text)

    def advance(self, step: int, total: int, text: str) -> None:  # noqa: ARG002
        if step == self.step and "validating" not in text:
            os.kill(os.getpid(), signal.SIGTERM)


def run(settings: TrainSettings, build: Callable[[int], nn.Module] | None = small_network) -> RunResult:
    """Train, or go on where the output folder is there."""
    output = Path(str(settings.output.output))
    if output.exists():
        return resume(output, workers=settings.data.workers, build_model=build, reporter=Silent())
    return run_training(settings, build_model=build, reporter=Silent())


def run_alone(settings: TrainSettings, build: Callable[[int], nn.Module] | None) -> None:
    """The target of a process."""
    torch.set_num_threads(1)
    raise SystemExit(run(settings, build).exit_code)


def call_as_rank(work: Callable[..., None], arguments: tuple[Any, ...], rank: int, world: int, port: int) -> None:
    """The target of one of several processes, with the environment that torchrun gives it."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    work(*arguments)


def fast_start() -> Any:
    """Processes that are forked from one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.photos", "gcnet.models.create", "torchvision.transforms.v2"])
    return context


def run_as_two(settings: TrainSettings, build: Callable[[int], nn.Module] | None) -> list[Any]:
    """Start two processes that train together; the caller joins them."""
    return call_as_two(run_alone, settings, build)


def call_as_two(work: Callable[..., None], *arguments: Any) -> list[Any]:
    """Start two processes that find each other as torchrun's do, and call `work` in both; the caller joins them."""
    return call_as_many(2, work, *arguments)


def call_as_many(world: int, work: Callable[..., None], *arguments: Any) -> list[Any]:
    """The same with `world` processes."""
    port, target = free_port(), fast_start().Process
    processes = [target(target=call_as_rank, args=(work, arguments, rank, world, port)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def exit_codes(processes: list[Any], patience: float) -> list[int | None]:
    """Wait at most `patience` seconds for processes; None of one that has not ended, which is killed."""
    until = time.monotonic() + patience
    for process in processes:
        process.join(max(until - time.monotonic(), 0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes
