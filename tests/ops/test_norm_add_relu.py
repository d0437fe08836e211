"""Batch norm, term, shortcut and ReLU by Triton: the cases in a process of their own, compilation for GPUs, use."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gcnet.errors import UserError
from gcnet.insertion.residual_blocks import expansion
from gcnet.ops import triton_check
from gcnet.ops.norm_add_relu import can_norm_add_relu
from insertion.test_fuse import images, network
from insertion.test_training import assert_same_step, step, without_early_contexts
from ops.test_triton_pool import CUDA, compiled_for, needs_triton, run_cases


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("device", ["interpreter", CUDA])
def test_all_cases(device: str, tmp_path: Path) -> None:
    assert run_cases("triton_norm_cases.py", device, tmp_path) > 75


def test_maps_on_the_cpu_are_left_to_pytorch() -> None:
    z = torch.zeros(2, 3, 4, 4)
    assert not can_norm_add_relu(z, z, torch.ones(3))


def test_an_unknown_value_of_the_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCNET_TRITON", "maybe")
    with pytest.raises(UserError, match='GCNET_TRITON must be 0, 1 or auto, found "maybe"'):
        triton_check.usable("attention pooling", torch.device("cpu"), torch.float64)


def test_kernels_that_are_required_and_not_installed_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_check, "has_triton", lambda: False)
    monkeypatch.setattr(triton_check, "_results", {})
    monkeypatch.setenv("GCNET_TRITON", "1")
    with pytest.raises(UserError, match="GCNET_TRITON=1 needs Triton and a C compiler"):
        triton_check.usable("attention pooling", torch.device("cpu"), torch.float32)
    monkeypatch.setenv("GCNET_TRITON", "auto")
    assert not triton_check.usable("attention pooling", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("block", ["gc", "snl"])
@pytest.mark.parametrize("host", ["torchvision", "timm"])
def test_a_residual_block_ends_with_the_operator_where_it_is_usable(
    host: str, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator itself is replaced by its definition, since the kernels need a GPU."""
    calls: list[int] = []

    def joined(z: torch.Tensor, statistics: Any, bias: Any, term: Any, shortcut: torch.Tensor) -> torch.Tensor:
        calls.append(z.shape[1])
        return torch.relu(expansion.normalized_plus(z, statistics, bias, term) + shortcut)

    model = network(host, block)
    expected = step(without_early_contexts(model), images())
    monkeypatch.setattr(expansion, "can_norm_add_relu", lambda *_: True)
    monkeypatch.setattr(expansion, "norm_add_relu", joined)
    assert_same_step(step(model, images()), expected)
    assert len(calls) == 6


@needs_triton
@pytest.mark.parametrize(("dtype", "capability"), [("fp32", 80), ("bf16", 90)])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("name", ["_output_kernel", "_sums_kernel", "_input_gradient_kernel"])
def test_kernels_compile_for_gpus_without_spilled_registers(
    name: str, channels_last: bool, dtype: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gcnet.ops import triton_norm_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    x = torch.empty(2, 1024, 196, device="meta")
    x = x.transpose(1, 2).contiguous().transpose(1, 2) if channels_last else x
    tile = triton_norm_kernels.tile_of(x)
    constants = tile | {"stride_channel" if channels_last else "stride_position": 1}
    maps = ("z_ptr", "shortcut_ptr", "out_ptr", "grad_ptr", "masked_ptr")
    types = {name: f"*{dtype}" for name in maps}
    assert compiled_for(getattr(triton_norm_kernels, name), constants, types, capability, tmp_path) == 0
