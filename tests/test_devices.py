"""Decisions about devices; a GPU is only named here, and `tests/cuda` runs on one."""

import os

import pytest
import torch
from torch import nn

from gcnet import devices
from gcnet.devices import (
    AUTOCAST,
    autocast_dtype,
    choose_device,
    choose_memory_format,
    choose_precision,
    describe_kernels,
    gpu_kernels,
    gpu_names,
    kernel_words,
    place_network,
    visible_gpus,
)
from gcnet.training.settings import MachineSettings

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
TF32_WORDS = {
    (True, False): "TF32 in convolutions",
    (True, True): "TF32 in convolutions and matmul",
    (False, False): "no TF32",
}


@pytest.fixture(params=[True, False], ids=["with bfloat16", "without bfloat16"])
def has_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the GPU has bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: request.param)
    return request.param


def test_automatic_precision_is_bf16_on_gpus_that_have_it_and_float32_elsewhere(has_bf16: bool) -> None:
    assert choose_precision("auto", CPU) == "float32"
    assert choose_precision("auto", GPU) == ("bf16" if has_bf16 else "float32")
    assert autocast_dtype("auto", GPU) == (torch.bfloat16 if has_bf16 else None)


@pytest.mark.parametrize("name", AUTOCAST)
def test_a_given_precision_stays(name: str) -> None:
    assert {choose_precision(name, device) for device in (CPU, GPU)} == {name}


def test_channels_last_is_the_default_on_gpus_only() -> None:
    last, contiguous = torch.channels_last, torch.contiguous_format
    assert [choose_memory_format(None, device) for device in (CPU, GPU)] == [contiguous, last]
    assert [choose_memory_format(False, device) for device in (CPU, GPU)] == [contiguous] * 2
    assert [choose_memory_format(True, device) for device in (CPU, GPU)] == [last] * 2


def test_networks_are_placed_in_the_memory_format_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5, 2))
    place_network(network, CPU)
    assert network[0].weight.is_contiguous()
    monkeypatch.setattr(devices, "choose_memory_format", lambda *_: torch.channels_last)  # as for a GPU
    place_network(network, CPU)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not network[0].weight.is_contiguous()


def test_resolved_settings_name_precision_and_memory_format(has_bf16: bool) -> None:
    on_cpu, on_gpu = (MachineSettings().resolved(device) for device in (CPU, GPU))
    assert (on_cpu.precision, on_cpu.channels_last) == ("float32", False)
    assert (on_gpu.precision, on_gpu.channels_last) == ("bf16" if has_bf16 else "float32", True)
    assert on_gpu.resolved(CPU) == on_gpu


@pytest.mark.parametrize("before", [None, ":16:8"])
def test_the_workspace_of_cublas_is_set_before_the_first_use_of_a_gpu(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before or "")
    if before is None:
        del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    seen: list[str | None] = []
    for name, stand_in in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda _: seen.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG")),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    assert choose_device("cpu") == CPU
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == before
    assert choose_device("auto") == GPU
    assert seen == [before or ":4096:8"]


def test_cudnn_times_its_algorithms_for_fixed_sizes_of_runs_that_need_not_be_deterministic() -> None:
    timed = []
    for deterministic in (False, True):
        for fixed in (False, True):
            with gpu_kernels(GPU, deterministic=deterministic, fixed_sizes=fixed):
                timed.append(torch.backends.cudnn.benchmark)
    assert timed == [False, True, False, False]
    assert not torch.backends.cudnn.benchmark


def test_deterministic_algorithms_of_the_caller_stay_on() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with gpu_kernels(GPU, fixed_sizes=True):
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.backends.cudnn.benchmark
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("tf32", "expected"), [(None, (True, False)), (True, (True, True)), (False, (False, False))])
def test_tf32_is_a_setting_that_is_recorded_and_restored(tf32: bool | None, expected: tuple[bool, bool]) -> None:
    for _ in range(2):
        with gpu_kernels(GPU, tf32=tf32):
            kernels = describe_kernels(GPU)
            assert (kernels["tf32_convolutions"], kernels["tf32_matmul"]) == expected
            assert kernel_words(GPU) == [TF32_WORDS[expected]]
    kernels = describe_kernels(GPU)
    assert (kernels["tf32_convolutions"], kernels["tf32_matmul"]) == (True, False)


def test_settings_of_gpu_kernels_are_restored_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="stop"), gpu_kernels(GPU, deterministic=True, tf32=True, fixed_sizes=True):
        raise RuntimeError("stop")
    assert describe_kernels(GPU) == {
        "tf32_convolutions": True,
        "tf32_matmul": False,
        "cudnn_benchmark": False,
        "deterministic": False,
    }
    assert describe_kernels(CPU) == {}


def test_kernels_are_words_to_print() -> None:
    assert kernel_words(CPU) == []
    with gpu_kernels(GPU, fixed_sizes=True):
        assert kernel_words(GPU) == ["TF32 in convolutions", "cudnn benchmark"]


def test_gpus_are_numbered_unless_the_environment_names_them() -> None:
    assert gpu_names(3, None) == ("0", "1", "2")
    assert gpu_names(2, "5, GPU-8932f937") == ("5", "GPU-8932f937")
    assert gpu_names(0, "") == ()


def test_entries_that_cuda_does_not_see_are_no_gpus() -> None:
    assert gpu_names(1, "4,99") == ("4",)


@pytest.mark.parametrize(("device", "count"), [("auto", 2), ("cuda", 2), ("cpu", 0), ("cuda:1", 0)])
def test_only_a_device_without_a_number_means_all_gpus(
    device: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(device) == ("0", "1")[:count]
