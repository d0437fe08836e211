"""The benchmark for GPUs, as far as it goes without one."""

import csv
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_verdicts import verdicts
from benchmarks.turns import Limits, measure_in_turn
from gcnet.ops.triton_check import has_triton

ROOT = Path(__file__).parent.parent
TASKS = ("inference", "training_step")


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

for name in ("jaxtyping", "rich", "safetensors", "scipy", "pycocotools", "mmcv"):
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
    assert "mmcv is not installed: its block is left out" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_it_measures_networks_and_kernels_and_writes_a_row_for_each(device: str, tmp_path: Path) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    small = ["--host", "resnet18", "--batch", "2", "--size", "32", "--repeats", "1"]
    done = benchmark("--quick", "--device", device, *small, "--output", tmp_path / "gpu.csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "gpu.csv").read_text().splitlines()))
    peers = ("timm", *(["mmcv"] if find_spec("mmcv") else []))
    networks = ("resnet18", "resnet18, again", "gc_resnet18", *(f"{peer}_gc_resnet18" for peer in peers))
    kernels = [f"{task}_{way}" for task in ("pooling", "norm_add_relu") for way in ("forward", "backward")]
    blocks = ("plain", "compiled", *peers, *(f"{peer}, compiled" for peer in peers), "copy")
    variants = ("eager", "compiled") if device == "cuda" else ("eager",)
    expected = {(f"{task}, {variant}", network) for task in TASKS for variant in variants for network in networks}
    expected |= {(task, contestant) for task in kernels for contestant in ("plain", "compiled", "copy")}
    expected |= {("gc_block", contestant) for contestant in blocks}
    measured = [row for row in rows if row["median_ms"]]
    found = {(row["task"], row["contestant"]) for row in measured}
    assert {pair for pair in found if pair[1] != "triton"} == expected
    assert all(float(row["p10_ms"]) <= float(row["median_ms"]) <= float(row["p90_ms"]) for row in measured)
    assert {row["against"] for row in measured} == {"", "resnet18", "plain"}
    assert {row["task"] for row in rows if not row["median_ms"]} == (
        {*kernels, "gc_block"} if device == "cuda" else set()
    )


@pytest.mark.slow
def test_nothing_is_started_after_the_last_minute(tmp_path: Path) -> None:
    small = ["--host", "resnet18", "--batch", "2", "--size", "32", "--minutes", "0"]
    done = benchmark("--quick", "--device", "cpu", *small, "--output", tmp_path / "gpu.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "The 0 minutes are over; some cases are left out."
    assert not (tmp_path / "gpu.csv").exists()


def test_a_work_that_fails_or_has_no_time_left_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("no memory\nat all")

    limits = Limits(repeats=3, seconds=60, end=time.perf_counter() + 60)
    found = measure_in_turn({"fails": fail, "works": list}, torch.device("cpu"), limits)
    assert [(name, len(measured.times)) for name, measured in found.items()] == [("works", 3)]
    assert capsys.readouterr().err == "fails: left out, OutOfMemoryError: no memory\n"
    assert measure_in_turn({"works": list}, torch.device("cpu"), Limits(3, 60, end=0)) == {}
    assert capsys.readouterr().err == "works: left out, the time is over\n"


def test_runs_end_with_the_time_of_a_case() -> None:
    limits = Limits(repeats=1000, seconds=0, end=time.perf_counter() + 60)
    assert len(measure_in_turn({"works": list}, torch.device("cpu"), limits)["works"].times) == 2


def row(task: str, contestant: str, shape: str, median: float) -> dict[str, str]:
    return {"task": task, "contestant": contestant, "dtype": "float32", "layout": "contiguous", "shape": shape} | {
        "median_ms": f"{median:.4f}"
    }


def test_the_verdict_on_a_kernel_is_the_geometric_mean_over_its_maps() -> None:
    rows = [
        *(row("pooling_forward", "triton", shape, median) for shape, median in (("1x2", 1), ("1x4", 8))),
        *(row("pooling_forward", "compiled", shape, median) for shape, median in (("1x2", 2), ("1x4", 4))),
        *(row("pooling_forward", "plain", shape, 0.5) for shape in ("1x2", "1x4")),
        row("gc_block", "triton", "1x2", 1),
    ]
    (found,) = verdicts(rows)
    assert (found["task"], found["contestant"], found["against"]) == ("pooling_forward", "triton", "compiled")
    assert float(found["ratio"]) == pytest.approx((0.5 * 2) ** 0.5)
    assert found["shape"] == "0.50 to 2.00, faster for 1 of 2 maps"
