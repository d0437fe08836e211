"""Benchmark of data loading: JPEG files to training batches, by gcnet, torchvision's reference pipeline and timm.

All decode with Pillow and apply the same transforms: RandomResizedCrop (bilinear), horizontal flip, normalization.
"""

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.rows import Row
from benchmarks.shapes import Sizes
from gcnet.data.dataset import ClassificationDataset
from gcnet.data.images.folders import FolderImages
from gcnet.data.loader import build_loader
from gcnet.data.sampler import EpochSampler
from gcnet.data.settings import IMAGENET_MEAN, IMAGENET_STD, AugmentSettings, Preprocessing
from gcnet.data.transforms import build_train_transform

BATCH_SIZE = 32
_CLASSES = 4
_FILE_SIZE = (500, 375)  # width and height in pixels: the usual size of ImageNet's files
_QUALITY = 95  # with the noise below, about 83 kB for each file
_NOISE = 6.0

Batches = Iterable[Any]


@dataclass(frozen=True)
class LoadingCase:
    """Pipelines that load the same files in turn, with `workers` processes each."""

    workers: int
    images: int
    pixels: int
    benchmark: str = "loader"

    @property
    def names(self) -> list[str]:
        """Names of the pipelines; gcnet takes part twice, to show the spread."""
        return list(PIPELINES)


def loader(sizes: Sizes) -> list[LoadingCase]:
    """JPEG files to normalized training batches by gcnet, torchvision's reference pipeline and timm."""
    return [LoadingCase(workers, sizes.loader_images, sizes.pixels) for workers in (1, 2)]


def gcnet_batches(folder: Path, pixels: int, workers: int) -> Batches:
    """The pipeline of `gcnet train`."""
    images = FolderImages(folder)
    transform = build_train_transform(Preprocessing(pixels), AugmentSettings(random_crop="resized"))
    sampler = EpochSampler(len(images), batch_size=BATCH_SIZE, seed=0)
    return build_loader(ClassificationDataset(images, transform), sampler, workers, persistent=True)


def torchvision_batches(folder: Path, pixels: int, workers: int) -> Batches:
    """The pipeline of torchvision's references/classification, with the backend PIL and transforms v2."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [
        v2.RandomResizedCrop(pixels, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.PILToTensor(),
        v2.ToDtype(torch.float, scale=True),
        v2.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        v2.ToPureTensor(),
    ]
    images = ImageFolder(str(folder), v2.Compose(steps))
    return DataLoader(
        images,
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )


def timm_batches(folder: Path, pixels: int, workers: int) -> Batches:
    """The pipeline of timm's train.py: create_dataset and create_loader, with its prefetcher."""
    from timm.data import create_dataset, create_loader

    create: Any = create_loader  # whose annotations allow no None for color jitter
    images = create_dataset("", root=str(folder), is_training=True)
    return create(
        images,
        input_size=(3, pixels, pixels),
        batch_size=BATCH_SIZE,
        is_training=True,
        color_jitter=None,
        interpolation="bilinear",
        num_workers=workers,
        persistent_workers=True,
        pin_memory=False,
        device=torch.device("cpu"),
    )


def _inputs(batch: Any) -> Tensor:
    return batch.inputs()


def _first(batch: Any) -> Tensor:
    return batch[0]


Pipeline = tuple[Callable[[Path, int, int], Batches], Callable[[Any], Tensor]]
"""Builds the batches, and takes the normalized images out of one."""

PIPELINES: Mapping[str, Pipeline] = {
    "gcnet": (gcnet_batches, _inputs),
    "gcnet, again": (gcnet_batches, _inputs),
    "torchvision": (torchvision_batches, _first),
    "timm": (timm_batches, _first),
}
_AGAINST: Mapping[str, tuple[str, ...]] = {"gcnet": ("torchvision", "timm"), "gcnet, again": ("gcnet",)}


def measure_loading(case: LoadingCase, *, rounds: int, seconds: float) -> list[Row]:
    """Measure wall time and CPU time of each pipeline, over whole epochs that take turns.

    Args:
        case: The pipelines, files and workers.
        rounds: Maximum number of timed epochs of each pipeline, at least 3.
        seconds: Time after which no new round begins, except for the first three.

    Returns:
        Two rows of each comparison, in milliseconds per image: task "load, N workers" (wall time) and "load, N workers,
        CPU time" (user and system time of the main process and its workers).
    """
    with _folder_of_jpegs(case.images) as folder:
        epochs = {
            name: _epoch(build(folder, case.pixels, case.workers), images)
            for name, (build, images) in PIPELINES.items()
        }
        for epoch in epochs.values():
            epoch()  # starts the workers and reads the files into the cache
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in epochs}
        began = time.monotonic()
        order = list(epochs)
        while len(times["gcnet"]) < 3 or (len(times["gcnet"]) < rounds and time.monotonic() - began < seconds):
            random.Random(len(times["gcnet"])).shuffle(order)
            for name in order:
                times[name].append(epochs[name]())
        size = round(sum(path.stat().st_size for path in folder.rglob("*.jpg")) / case.images)
    task = f"load, {case.workers} worker{'s' * (case.workers > 1)}"
    return [
        _row(case, task, name, size, {name: [pair[kind] for pair in pairs] for name, pairs in times.items()}, other)
        for kind, task in enumerate((task, f"{task}, CPU time"))
        for name in times
        for other in _AGAINST.get(name, ("",))
    ]


def _epoch(batches: Batches, images: Callable[[Any], Tensor]) -> Callable[[], tuple[float, float]]:
    """A call that loads all batches once and returns milliseconds per image: wall time and CPU time."""

    def call() -> tuple[float, float]:
        began, cpu, count = time.perf_counter(), _cpu_seconds(), 0
        for batch in batches:
            pixels = images(batch)
            assert pixels.dtype == torch.float32
            count += len(pixels)
        return 1000 * (time.perf_counter() - began) / count, 1000 * (_cpu_seconds() - cpu) / count

    return call


def _cpu_seconds() -> float:
    """User and system time of this process and of its living children, in seconds."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _folder_of_jpegs(count: int) -> Generator[Path]:
    """A temporary folder of `count` JPEG files in class folders; removed afterwards."""
    generator = np.random.default_rng(0)
    with TemporaryDirectory() as name:
        for number in range(count):
            path = Path(name) / f"class{number % _CLASSES}" / f"{number:05d}.jpg"
            path.parent.mkdir(exist_ok=True)
            coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize(_FILE_SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
            noisy = smooth + generator.normal(0, _NOISE, smooth.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=_QUALITY)
        yield Path(name)


def _row(case: LoadingCase, task: str, name: str, size: int, times: Mapping[str, list[float]], other: str) -> Row:
    own, others = times[name], times.get(other, [])
    lower, middle, upper = quantiles(own, method="inclusive")
    return Row(
        benchmark=case.benchmark,
        task=task,
        shape=f"1x3x{case.pixels}x{case.pixels}",
        layout="contiguous",
        dtype="float32",
        contestant=name,
        rounds=len(own),
        minimum_ms=min(own),
        lower_quartile_ms=lower,
        median_ms=middle,
        upper_quartile_ms=upper,
        peak_bytes=None,
        saved_bytes=None,
        input_bytes=size,
        against=other,
        ratio_of_minima=min(own) / min(others) if other else None,
        median_of_ratios=median(a / b for a, b in zip(own, others, strict=True)) if other else None,
    )
