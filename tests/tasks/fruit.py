"""Random images of three kinds of fruit, for tests that need files rather than accuracy."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("apple", "banana", "cherry")
COUNTS = (5, 7, 3)
SIZE = 16


def random_pixels(number: int, side: int = SIZE) -> np.ndarray:
    """The pixels of image `number`: (side, side, 3), uint8."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_fruit(root: Path) -> list[tuple[Path, int]]:
    """Write `COUNTS` images into the class folders of `root`; each is returned with its label, sorted by name."""
    written = []
    for label, (name, count) in enumerate(zip(CLASSES, COUNTS, strict=True)):
        (root / name).mkdir(parents=True)
        for _ in range(count):
            path = root / name / f"{len(written):02}.png"
            Image.fromarray(random_pixels(len(written))).save(path)
            written.append((path, label))
    return written
