"""Time and memory from opening COCO to the first batch; the figures are also appended to the file GCNET_FIGURES."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .stand_in import write_stand_in

SCRIPT = Path(__file__).with_name("start_up_figures.py")
TESTS = SCRIPT.parents[2]
CORES = 2


def measured(data: Path, cache: Path) -> dict[str, Any]:
    """The figures of the script in a process of its own."""
    environment = os.environ | {"GCNET_CACHE": str(cache), "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    process = subprocess.run(
        [sys.executable, SCRIPT, data], env=environment, stdout=subprocess.PIPE, check=True, timeout=3000
    )
    figures = json.loads(process.stdout)
    if "GCNET_FIGURES" in os.environ:
        with open(os.environ["GCNET_FIGURES"], "a") as file:
            file.write(json.dumps({"test": "start of COCO"} | figures) + "\n")
    return figures


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of processes from /proc")
@pytest.mark.parametrize(
    ("images", "annotations", "first_s", "second_s"),
    [
        pytest.param(7000, 50_000, 10, 1.5, marks=pytest.mark.slow),
        pytest.param(118_287, 860_001, 40, 3, marks=pytest.mark.scale),
    ],
)
def test_the_second_start_reads_an_index_that_processes_share(
    tmp_path: Path, images: int, annotations: int, first_s: float, second_s: float
) -> None:
    """CPU time, which other work on the machine does not change as much as the time of a clock."""
    write_stand_in(tmp_path / "coco", "val2017", 5000 * images // 118_287, 36_781 * annotations // 860_001, seed=1)
    write_stand_in(tmp_path / "coco", "train2017", images, annotations)
    first, second = (measured(tmp_path / "coco", tmp_path / "cache") for _ in range(2))
    assert first["annotations"] == second["annotations"] == annotations
    assert first["first_batch_cpu_s"] < CORES * first_s
    assert second["first_batch_cpu_s"] < second_s
    for figures in (first, second):
        assert figures["memory_mb"] < 300
        assert all(memory < 150 for memory in figures["workers_mb"])
