"""Cases of `test_norm_add_relu.py` in a process of their own: on the CPU by Triton's interpreter, or on a GPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gcnet.ops import norm_add_relu as module
from gcnet.ops import triton_check, triton_norm_kernels
from gcnet.ops.batch_norm import batch_statistics, fixed_statistics
from gcnet.ops.norm_add_relu import norm_add_relu
from tolerances import assert_equal_within

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
SHAPES = [(2, 1, 1, 1), (3, 5, 7, 37), (1, 130, 20, 20), (2, 48, 1, 300), (5, 17, 2, 1)]
NAMES = ("z", "gamma", "beta", "key", "shortcut")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(20190425)


def values(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> list[Tensor]:
    """Maps in `dtype` and vectors in float32: input of the norm, gamma, beta, key and shortcut."""
    maps = [torch.randn(shape).to(DEVICE, dtype, memory_format=LAYOUTS[layout]) for _ in range(2)]
    vectors = [torch.randn(shape[1], device=DEVICE) for _ in range(3)]
    return [maps[0], *vectors, maps[1]]


def fused(z: Tensor, gamma: Tensor, beta: Tensor, key: Tensor, shortcut: Tensor, training: bool) -> Tensor:
    """A term that depends on the statistics, as the context of `alpha (z - mean)` does."""
    running = torch.zeros_like(gamma), torch.ones_like(gamma)
    if training:
        statistics = batch_statistics(z, gamma, running, momentum=0.1, eps=1e-5)
    else:
        statistics = fixed_statistics(gamma, running, eps=1e-5)
    term = torch.tanh(key * statistics.alpha - statistics.mean).expand(len(z), -1)
    return norm_add_relu(z, statistics, beta, term, shortcut)


def plain(z: Tensor, gamma: Tensor, beta: Tensor, key: Tensor, shortcut: Tensor, training: bool) -> Tensor:
    """The definition by PyTorch's batch norm."""
    running = torch.zeros_like(gamma), torch.ones_like(gamma)
    y = F.batch_norm(z, running[0].clone(), running[1].clone(), gamma, beta, training=training, eps=1e-5)
    if training:
        variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
    else:
        mean, variance = running
    term = torch.tanh(key * gamma * torch.rsqrt(variance + 1e-5) - mean)
    return torch.relu(y + term[:, None, None] + shortcut)


def step(function: Any, given: list[Tensor], training: bool, weights: Tensor, *, twice: bool = False) -> list[Tensor]:
    """The output and the gradients of all arguments; with `twice` those of the squares of the gradients."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in given]
    out = function(*leaves, training)
    loss = (out.to(weights.dtype) * weights).sum()
    if twice:
        loss = sum(grad.square().sum() for grad in torch.autograd.grad(loss, leaves, create_graph=True))
    return [out.detach(), *torch.autograd.grad(loss, leaves, materialize_grads=True)]


@pytest.mark.parametrize("training", [True, False], ids=["batch", "fixed"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", triton_check.DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_equal_float64(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, training: bool
) -> None:
    given = values(shape, layout, dtype)
    weights = torch.randn(shape, device=DEVICE)
    found = step(fused, given, training, weights)
    expected = step(plain, [tensor.double() for tensor in given], training, weights.double())
    # Values next to 0 may fall on its other side, where the ReLU has no gradient.
    clear = (expected[0] > 0) == (found[0] > 0)
    assert clear.double().mean() > 0.99
    tolerance = torch.float32 if clear.all() and dtype == torch.float32 else torch.bfloat16
    assert_equal_within(found[0], expected[0], dtype)
    assert found[0].dtype == dtype
    assert found[0].is_contiguous(memory_format=LAYOUTS[layout])
    scale = max(float(value.abs().max()) for value in expected[1:])
    for name, ours, theirs in zip(NAMES, found[1:], expected[1:], strict=True):
        assert_equal_within(ours, theirs, tolerance, name, scale=scale)


def test_second_derivatives_equal_float64() -> None:
    given = values((3, 5, 7, 9), "contiguous", torch.float32)
    weights = torch.randn(3, 5, 7, 9, device=DEVICE)
    found = step(fused, given, True, weights, twice=True)
    expected = step(plain, [tensor.double() for tensor in given], True, weights.double(), twice=True)
    for name, ours, theirs in zip(NAMES, found[1:], expected[1:], strict=True):
        assert_equal_within(ours, theirs, torch.float32, name, scale=10.0)


def test_a_split_may_have_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_norm_kernels, "_PROGRAMS", 2)
    monkeypatch.setattr(triton_norm_kernels, "_TILE", 256)
    test_outputs_and_gradients_equal_float64((1, 130, 20, 20), torch.float32, "channels-last", True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shortcut_and_gradient_may_have_another_memory_format(layout: str) -> None:
    other = next(name for name in LAYOUTS if name != layout)
    given = values((3, 5, 7, 37), layout, torch.float32)
    given[4] = given[4].contiguous(memory_format=LAYOUTS[other])
    weights = torch.randn(3, 5, 7, 37, device=DEVICE).contiguous(memory_format=LAYOUTS[other])
    found = step(fused, given, True, weights)
    expected = step(plain, [tensor.double() for tensor in given], True, weights.double())
    for ours, theirs in zip(found, expected, strict=True):
        assert_equal_within(ours, theirs, torch.float32, scale=10.0)


def test_not_a_number_and_infinity_stay() -> None:
    given = values((1, 3, 4, 4), "contiguous", torch.float32)
    given[4][0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    with torch.no_grad():
        row = fused(*given, False)[0, 0, 0, :3]
    assert row.isnan().tolist() == [True, False, False]
    assert row[1:].tolist() == [float("inf"), 0.0]


def test_twice_the_same_bits() -> None:
    given = values((3, 5, 20, 37), "channels-last", torch.bfloat16)
    weights = torch.randn(3, 5, 20, 37, device=DEVICE)
    first, second = (step(fused, given, True, weights) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_no_samples() -> None:
    given = values((0, 5, 4, 4), "contiguous", torch.float32)
    out, *gradients = step(fused, given, False, torch.zeros(0, 5, 4, 4, device=DEVICE))
    assert out.shape == (0, 5, 4, 4)
    assert not any(gradient.any() for gradient in gradients)


def test_the_wide_maps_saved_are_the_input_and_the_output() -> None:
    given = [tensor.requires_grad_() for tensor in values((2, 5, 20, 20), "contiguous", torch.float32)]
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        out = fused(*given, False)
    wide = {tensor.data_ptr() for tensor in kept if tensor.shape == out.shape}
    assert wide == {given[0].data_ptr(), out.data_ptr()}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("norm_add_relu", ("z", "shortcut", "gamma", "shift")),
        ("norm_add_relu_backward", ("shortcut", "z", "z", "gamma")),
        ("norm_add_relu_input_gradient", ("shortcut", "z", "gamma", "beta", "key")),
    ],
)
def test_the_operators_pass_the_checks_of_pytorch(name: str, arguments: tuple[str, ...]) -> None:
    named = dict(zip(NAMES, values((2, 5, 4, 4), "channels-last", torch.float32), strict=True))
    named["shift"] = torch.randn(2, 5, device=DEVICE)
    operator = getattr(torch.ops.gcnet, name).default
    torch.library.opcheck(operator, tuple(named[a] for a in arguments), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("dtype", triton_check.DTYPES, ids=str)
def test_the_check_before_first_use_passes(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_check, "_results", {})
    assert triton_check.usable("batch norm with shortcut", DEVICE, dtype)


@pytest.mark.parametrize("kernel", ["output", "gradient_sums", "input_gradient"])
def test_a_wrong_kernel_disables_these_and_not_those_of_pooling(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Tensor) -> Any:
        results = right(*given)
        return 1.001 * results if isinstance(results, Tensor) else tuple(1.001 * result for result in results)

    right = getattr(triton_norm_kernels, kernel)
    monkeypatch.setattr(triton_check, "_results", {})
    monkeypatch.setattr(triton_norm_kernels, kernel, wrong)
    with pytest.warns(RuntimeWarning, match="the Triton kernels of batch norm with shortcut differ .* are disabled"):
        assert not triton_check.usable("batch norm with shortcut", DEVICE, torch.float32)
    assert not triton_check.usable("batch norm with shortcut", DEVICE, torch.float16)
    assert triton_check.usable("attention pooling", DEVICE, torch.float32)
    monkeypatch.setattr(triton_check, "_results", {})
    monkeypatch.setenv("GCNET_TRITON", "1")
    with pytest.raises(RuntimeError, match="batch norm with shortcut differ .*; set GCNET_TRITON=auto"):
        triton_check.usable("batch norm with shortcut", DEVICE, torch.float32)


@pytest.mark.parametrize(
    ("z", "shortcut", "weight"),
    [
        (torch.zeros(2, 3, 4, 4).double(), torch.zeros(2, 3, 4, 4).double(), torch.zeros(3)),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4).half(), torch.zeros(3)),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(3)),
        (torch.zeros(2, 3, 4, 8)[..., ::2], torch.zeros(2, 3, 4, 4), torch.zeros(3)),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(3).half()),
    ],
    ids=["float64", "two dtypes", "two shapes", "gaps", "half gamma"],
)
def test_other_arguments_do_not_fit(z: Tensor, shortcut: Tensor, weight: Tensor) -> None:
    assert not module._fits(z, shortcut, weight)
    assert module._fits(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(3))
