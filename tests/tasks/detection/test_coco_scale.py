"""Time and memory of the evaluation of 100 detections per image, against faster-coco-eval alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCES = str(Path(__file__).parents[3] / "src")


def measured(program: str, images: int) -> dict[str, Any]:
    """Evaluate in a new process."""
    command = [sys.executable, str(Path(__file__).with_name("coco_stand_in.py")), program, str(images)]
    environment = os.environ | {"PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("images", "most"),
    [
        pytest.param(200, 2.5, id="200 images", marks=pytest.mark.slow),  # of a second, beside other tests
        pytest.param(5000, 1.2, id="5,000 images", marks=pytest.mark.scale),
    ],
)
def test_the_evaluation_takes_little_more_than_faster_coco_eval_alone(images: int, most: float) -> None:
    alone, ours = [], []
    for _ in range(2):  # in turn, since the speed of a machine changes
        alone.append(measured("alone", images))
        ours.append(measured("gcnet", images))
    for results in (alone, ours):
        print([(round(result["seconds"], 2), round(result["megabytes"])) for result in results])
    assert ours[0]["numbers"] == pytest.approx(alone[0]["numbers"], abs=1e-12)
    assert min(result["seconds"] for result in ours) < most * min(result["seconds"] for result in alone)
    assert ours[0]["megabytes"] < 1.2 * alone[0]["megabytes"]
