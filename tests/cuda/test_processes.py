"""Two processes that train together: on one GPU by gloo, on two GPUs by NCCL."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from cuda import pair
from gcnet.analysis.memory import training_step_peak_memory
from gcnet.models.create import create_model


def assert_trained_alike(folder: Path) -> None:
    """The processes have seen different images, and have equal weights."""
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.slow
def test_two_processes_on_one_device_train_the_same_weights(device: torch.device, tmp_path: Path) -> None:
    multiprocessing.spawn(pair.train, (str(tmp_path), device.type, "gloo"), nprocs=2)
    assert_trained_alike(tmp_path)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_two_gpus_train_the_same_weights_by_nccl(tmp_path: Path) -> None:
    multiprocessing.spawn(pair.train, (str(tmp_path), "cuda", "nccl"), nprocs=2)
    assert_trained_alike(tmp_path)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_training_step_takes_the_memory_that_cost_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # the default, in both processes
    # Activations of 1.5 GB: beside them the work space of cuBLAS, here allocated earlier, is small.
    build, shape = partial(create_model, "gc_resnet18", num_classes=5), (64, 3, 224, 224)
    reported = training_step_peak_memory(build, shape, device="cuda")
    network = build().cuda()
    images = torch.randn(shape, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    network(images).float().square().mean().backward()
    measured = torch.cuda.max_memory_allocated() - before
    assert reported == pytest.approx(measured, rel=0.25)
