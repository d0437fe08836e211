"""Time and memory from opening ImageNet to the first batch, on a stand-in of hard links."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.images.stand_in import SOURCES, link_images

Start = Callable[[Path], dict[str, float]]
_SPREAD = 1_500_000  # bytes, by which the heaps of two equal processes differ


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Opens data in a new process; the stand-ins are removed at the end."""
    environment = os.environ | {"GCNET_CACHE": str(tmp_path / "cache"), "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}

    def run(data: Path) -> dict[str, float]:
        command = [sys.executable, str(Path(__file__).with_name("stand_in.py")), str(data)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return json.loads(done.stdout.splitlines()[-1])

    yield run
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("classes", "train_images", "first_seconds"),
    [
        pytest.param(50, 1000, 10, id="50,000 images", marks=pytest.mark.slow),
        pytest.param(1000, 1281, 30, id="1,281,000 images", marks=pytest.mark.scale),
    ],
)
def test_the_first_batch_comes_soon_and_names_take_little_memory(
    classes: int, train_images: int, first_seconds: float, tmp_path: Path, start: Start
) -> None:
    few = start(link_images(tmp_path / "few", classes, 2, 1))
    data = link_images(tmp_path / "many", classes, train_images, 50)
    time.sleep(2.5)  # folders changed less than two seconds ago are not indexed
    first, second = start(data), start(data)
    print(few, first, second)
    assert first["images"] == second["images"] == classes * train_images
    assert first["cpu"] < first_seconds
    assert second["cpu"] < 2
    assert second["bytes"] - few["bytes"] < 60 * second["images"] + _SPREAD
