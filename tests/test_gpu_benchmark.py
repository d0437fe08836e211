"""The benchmark for GPUs, as far as it goes without one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gcnet.ops.triton_pool import READY

ROOT = Path(__file__).parent.parent


def benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


pytestmark = pytest.mark.skipif(not READY, reason="needs Triton")


def test_the_table_of_bytes_is_the_one_in_the_documentation() -> None:
    done = benchmark("--paper")
    assert done.returncode == 0, done.stderr
    assert done.stdout in (ROOT / "docs" / "speed.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_sentence() -> None:
    done = benchmark()
    assert done.returncode == 1
    assert (
        done.stderr
        == "times are taken on a CUDA device, and PyTorch sees none here; --paper prints bytes without one\n"
    )
