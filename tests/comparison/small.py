"""A comparison small enough for a test: three classes of tiny images, a small network, a few steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gcnet.comparison.settings import CompareSettings
from gcnet.data.settings import DataSettings
from gcnet.training.network_settings import DetectorSettings
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings

STEPS = 4


def write_images(root: Path) -> Path:
    """Class folders of 11 x 11 images: train/ with 12 of each class, val/ with 7."""
    generator = np.random.default_rng(5)
    for split, count in (("train", 12), ("val", 7)):
        for label, name in enumerate(("dark", "gray", "light")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(60 * label, 60 * label + 130, (11, 11, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def small(images: Path, output: Path, **changes: Any) -> CompareSettings:
    """Settings of a comparison of none and gc over these images, in this process."""
    settings: dict[str, Any] = {
        "blocks": "none,gc",
        "model": "cifar_resnet20",
        "data": DataSettings(data=str(images)),
        "recipe": RecipeSettings(steps=STEPS, batch_size=9, lr=0.05),
        "machine": MachineSettings(device="cpu", channels_last=True),
        "jobs": 1,
        "output": str(output),
    }
    return CompareSettings(**(settings | changes))


class Listener:
    """A reporter that collects its lines, and can call a function on a line."""

    def __init__(self, at_line: Callable[[str], None] | None = None) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []
        self.at_line = at_line

    def log(self, text: str) -> None:
        self.lines.append(text)
        if self.at_line is not None:
            self.at_line(text)

    def advance(self, step: int, total: int, text: str) -> None:  # noqa: ARG002
        self.steps.append(step)

    def close(self) -> None:
        pass


def small_detectors(output: Path, **changes: Any) -> CompareSettings:
    """Settings of a comparison of none and gc in detectors on a few generated scenes, in this process."""
    settings: dict[str, Any] = {
        "blocks": "none,gc",
        "model": "mask_rcnn_scenes_resnet",
        "detector": DetectorSettings(min_size=(32,), max_size=32, rois_per_image=16),
        "data": DataSettings(data="scenes", limit_train=6, limit_val=3),
        "recipe": RecipeSettings(steps=2, batch_size=3, lr=0.01),
        "control": False,
        "machine": MachineSettings(device="cpu", channels_last=True),
        "jobs": 1,
        "output": str(output),
    }
    return CompareSettings(**(settings | changes))
