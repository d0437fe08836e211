"""A folder of small images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.animals import CLASSES


@pytest.fixture
def photos(tmp_path: Path, seed: int) -> Path:
    """Seven images of noise in a folder for each class."""
    generator = np.random.default_rng(seed)
    for number in range(7):
        place = tmp_path / "photos" / CLASSES[number % 3] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (23, 19, 3), dtype=np.uint8)).save(place)
    return tmp_path / "photos"
