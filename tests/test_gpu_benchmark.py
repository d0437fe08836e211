"""The benchmark for GPUs, as far as it goes without one."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gcnet.ops.triton_check import has_triton

ROOT = Path(__file__).parent.parent


def benchmark(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd="/")


@pytest.mark.skipif(not has_triton(), reason="needs Triton and a C compiler")
def test_the_table_of_bytes_is_the_one_in_the_documentation() -> None:
    done = benchmark("--paper")
    assert done.returncode == 0, done.stderr
    assert done.stdout in (ROOT / "docs" / "speed.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_reported_in_one_sentence() -> None:
    done = benchmark("--quick")
    assert done.returncode == 1
    assert done.stderr == (
        "benchmarks/gpu.py needs a CUDA GPU, and PyTorch finds none here; --device cpu only tries it out, "
        "--paper prints bytes moved\n"
    )


WITH_TORCH_ALONE = """
import runpy, sys

for name in ("jaxtyping", "rich", "safetensors", "scipy", "pycocotools"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_it_starts_without_the_other_requirements_of_the_package() -> None:
    options = ["--device", "cpu", "--quick", "--host", "cifar_resnet20", "--batch", "2", "--size", "32"]
    command = [sys.executable, "-c", WITH_TORCH_ALONE, ROOT / "benchmarks" / "gpu.py", *options, "--repeats", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    assert "norm_add_relu_backward" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_it_measures_networks_and_kernels_and_writes_a_row_for_each(device: str, tmp_path: Path) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    small = ["--host", "resnet18", "--batch", "2", "--size", "32", "--repeats", "1"]
    done = benchmark("--quick", "--device", device, *small, "--output", tmp_path / "gpu.csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "gpu.csv").read_text().splitlines()))
    assert {(row["task"], row["contestant"]) for row in rows} >= {
        *((f"{task}, eager", name) for task in ("inference", "training_step") for name in ("resnet18", "gc_resnet18")),
        *((f"{task}, compiled", "gc_resnet18") for task in ("inference", "training_step") if device == "cuda"),
        *((task, "plain") for task in ("pooling_forward", "pooling_backward", "gc_block")),
        *((f"norm_add_relu_{task}", "plain") for task in ("forward", "backward")),
    }
    assert all(float(row["p10_ms"]) <= float(row["median_ms"]) <= float(row["p90_ms"]) for row in rows)
    assert {row["against"] for row in rows} == {"", "resnet18", "plain"}
