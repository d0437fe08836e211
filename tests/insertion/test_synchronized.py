"""`nn.SyncBatchNorm` with contexts before the last convolution, judged by one process with the whole batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gcnet.ops.synchronized_batch_norm import group_of_norm
from insertion import synchronized
from insertion.synchronized import IMAGES, own_images, weights_of_loss
from insertion.test_fuse import images, network
from insertion.test_training import without_early_contexts
from training.photos import call_as_two, exit_codes

PATIENCE = 300
CONTEXTS = 2 * 6  # of two steps
CASES = {
    "equal": (3, ()),
    "uneven": (4, ()),
    "nothing in the second": (IMAGES, ()),
    "hooks in the first": (4, (0,)),
    "hooks in both": (4, (0, 1)),
}


def by_two(folder: Path, device: str, cases: Mapping[str, tuple[int, tuple[int, ...]]]) -> list[dict[str, Any]]:
    """What two processes found, by rank; both must have ended well."""
    assert exit_codes(call_as_two(synchronized.run_all, folder, device, cases), PATIENCE) == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes find on the CPU, by rank."""
    return by_two(tmp_path_factory.mktemp("two"), "cpu", CASES)


@pytest.fixture(scope="module")
def alone() -> tuple[nn.Module, Tensor, Tensor]:
    """A network after a step with all images and `nn.BatchNorm2d`, its blocks after the norms; images and output."""
    model = without_early_contexts(network("torchvision", "gc")).train()
    x = images(IMAGES).requires_grad_()
    y = model(x)
    (y * weights_of_loss()).sum().backward()
    return model, x, y.detach()


def assert_step_of_one(
    found: list[dict[str, Any]], alone: tuple[nn.Module, Tensor, Tensor], first: int, tolerance: float
) -> None:
    """Each process has its part of the outputs and all of the gradients and buffers."""
    model, x, y = alone
    assert x.grad is not None
    expected = dict(model.named_buffers()) | {name: parameter.grad for name, parameter in model.named_parameters()}
    for rank, one in enumerate(found):
        own = own_images(rank, first)
        for name, value in (expected | {"output": y[own], "input": x.grad[own]}).items():
            assert value is not None
            if value.numel() and not name.endswith("key.bias"):  # the softmax cancels it: rounding
                difference = (one[name] - value).abs().max().item()
                assert difference <= tolerance * value.abs().max().item(), f"{name}: {difference:.1e}"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_step_of_one(
    case: str, found: list[dict[str, Any]], alone: tuple[nn.Module, Tensor, Tensor]
) -> None:
    first, late = CASES[case]
    without = {*late, *((1,) if first == IMAGES else ())}
    assert [one[case]["early"] for one in found] == [0 if rank in without else CONTEXTS for rank in range(2)]
    assert_step_of_one([one[case] for one in found], alone, first, 1e-10)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_two_processes_on_a_gpu_are_near_the_step_of_one_in_float64(
    alone: tuple[nn.Module, Tensor, Tensor], tmp_path: Path
) -> None:
    on_gpu = by_two(tmp_path, "cuda", {"uneven": CASES["uneven"]})
    assert_step_of_one([one["uneven"] for one in on_gpu], alone, 4, 2e-2)


@pytest.mark.slow
def test_running_statistics_are_those_of_the_norm_itself_to_the_bit(found: list[dict[str, Any]]) -> None:
    for one in found:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            buffers = [one[case][f"layer2.0.bn3.{name}"] for case in ("uneven", "hooks in both")]
            assert torch.equal(*buffers)


@pytest.mark.slow
def test_gradients_with_a_graph_are_equal_and_have_no_gradients_themselves(found: list[dict[str, Any]]) -> None:
    for one in found:
        torch.testing.assert_close(one["twice"]["with graph"], one["twice"]["once"], rtol=1e-9, atol=1e-12)
        assert "differentiate twice" in one["twice"]["error"]


@pytest.mark.slow
def test_both_ways_to_gather_vectors_are_the_same(found: list[dict[str, Any]]) -> None:
    for one in found:
        assert torch.equal(one["gathered"]["gloo"], torch.tensor([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]))
        assert torch.equal(one["gathered"]["others"], one["gathered"]["gloo"])


def test_a_single_process_takes_its_own_statistics() -> None:
    assert group_of_norm(nn.SyncBatchNorm(3)) is None
    found = []
    for convert in (lambda model: model, nn.SyncBatchNorm.convert_sync_batchnorm):
        model = convert(network("torchvision", "gc")).train()
        y = model(images())
        y.square().sum().backward()
        found.append([y, model.conv1.weight.grad, *model.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
