"""A stand-in of ImageNet of its true size, hard links to a few images, and a process that opens it for training."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

_MOST_LINKS = 60_000  # to a file; ext4 allows 65,000
TESTS = str(Path(__file__).parents[2])
SOURCES = str(Path(__file__).parents[3] / "src")


def link_images(root: Path, classes: int, train_images: int, val_images: int) -> Path:
    """Make class folders of training and validation images, named as in ImageNet.

    Args:
        root: Empty folder.
        classes: Number of classes.
        train_images: Training images per class.
        val_images: Validation images per class.

    Returns:
        The data folder, with train and val.
    """
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
    links = 0
    for split, images in (("train", train_images), ("val", val_images)):
        for label in range(classes):
            folder = root / "data" / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(images):
                original = root / f"{links // _MOST_LINKS}.jpg"
                if links % _MOST_LINKS == 0:
                    image.save(original, quality=80)
                os.link(original, folder / f"n{label:08d}_{number:05d}.JPEG")
                links += 1
    return root / "data"


def open_as_training(data: str) -> dict[str, float]:
    """Open data up to the first batch.

    Args:
        data: Folder with train and val.

    Returns:
        Number of training images, wall and CPU seconds, and private memory in bytes after it.
    """
    from dataclasses import replace

    import torch

    from gcnet.tasks.classification.training import open_classification
    from gcnet.training.distributed import Processes
    from gcnet.training.settings import TrainSettings
    from private_memory import private_memory

    settings = TrainSettings()
    recipe = replace(settings.recipe, batch_size=8, epochs=1)
    settings = replace(settings, data=replace(settings.data, data=data, workers=0), recipe=recipe)
    settings = replace(settings, network=replace(settings.network, model="gc_resnet50"))
    wall, cpu = time.perf_counter(), time.process_time()
    task = open_classification(settings, Processes())
    task.notes()
    images = len(task.splits.train)
    assert len(next(iter(task.batches(0, torch.device("cpu"))))) == 8
    return {
        "images": images,
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "bytes": private_memory(),
    }


if __name__ == "__main__":
    sys.path[:0] = [SOURCES, TESTS]
    print(json.dumps(open_as_training(sys.argv[1])))
