"""Batch norm in two parts, judged by `F.batch_norm` and autograd."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gcnet.ops.batch_norm import batch_statistics, fixed_statistics, normalized_plus
from tolerances import assert_equal_within

N, C, K, SIZE = 3, 5, 2, (4, 3)
NAMES = ("h", "weight", "gamma", "beta", "key", "running mean", "running variance")


def values(dtype: torch.dtype, layout: torch.memory_format, *, gamma: float | None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(N, K, *SIZE), (C, K), (C,), (C,), (C,), (C,), (C,)]
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    tensors[0] = tensors[0].to(memory_format=layout)
    tensors[6] = tensors[6].square() + 0.5
    if gamma is not None:
        tensors[2].fill_(gamma)
    return tensors


def with_term(h: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, key: Tensor, *running: Tensor) -> Tensor:
    """A term of the attention pool of `y`, computed from `h` and the statistics."""
    z = F.conv2d(h, weight[..., None, None])
    statistics = batch_statistics(z, gamma, (running[0], running[1]), momentum=0.1, eps=1e-5)
    attention = torch.einsum("k,nkhw->nhw", (key * statistics.alpha) @ weight, h).flatten(1).softmax(1)
    pooled = torch.einsum("np,nkp->nk", attention, h.flatten(2))
    context = statistics.alpha * (pooled @ weight.t() - statistics.mean) + beta
    return normalized_plus(z, statistics, beta, torch.tanh(context))


def by_autograd(h: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, key: Tensor, *running: Tensor) -> Tensor:
    y = F.batch_norm(F.conv2d(h, weight[..., None, None]), *running, gamma, beta, training=True, momentum=0.1, eps=1e-5)
    attention = torch.einsum("c,nchw->nhw", key, y).flatten(1).softmax(1)
    context = torch.einsum("np,ncp->nc", attention, y.flatten(2))
    return y + torch.tanh(context)[..., None, None]


def gradients(function: Callable[..., Tensor], tensors: list[Tensor], *, twice: bool) -> list[Tensor]:
    """The output, the buffers after the call, and the gradients; with `twice` those of the squares of the gradients."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors[:5]]
    buffers = [tensor.clone() for tensor in tensors[5:]]
    output = function(*leaves, *buffers)
    loss = (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)).sum()
    if twice:
        loss = sum(g.square().sum() for g in torch.autograd.grad(loss, leaves, create_graph=True))
    loss.backward()
    return [output.detach(), *buffers, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize(
    ("dtype", "gamma"),
    [(torch.float64, None), (torch.float32, None), (torch.float64, 0.0)],
    ids=["float64", "float32", "float64, gamma 0"],
)
@pytest.mark.parametrize("twice", [False, True], ids=["first", "second"])
def test_outputs_and_gradients_through_the_statistics_are_those_of_autograd(
    layout: torch.memory_format, dtype: torch.dtype, gamma: float | None, twice: bool
) -> None:
    tensors = values(dtype, layout, gamma=gamma)
    found, expected = (gradients(function, tensors, twice=twice) for function in (with_term, by_autograd))
    for name, ours, theirs in zip(("output", *NAMES[5:], *NAMES[:5]), found, expected, strict=True):
        assert_equal_within(ours, theirs, dtype, name)
        if name.startswith("running"):
            assert torch.equal(ours, theirs), name
    assert found[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_running_statistics_are_those_of_batch_norm_to_the_bit(dtype: torch.dtype) -> None:
    z = torch.randn(4, 7, 9, 5).to(dtype)
    weight, bias = torch.rand(7), torch.randn(7)
    running, expected = ([torch.zeros(7), torch.ones(7)] for _ in range(2))
    statistics = batch_statistics(z, weight, (running[0], running[1]), momentum=0.3, eps=1e-5)
    y = normalized_plus(z, statistics, bias, torch.zeros(4, 7))
    theirs = F.batch_norm(z, expected[0], expected[1], weight, bias, training=True, momentum=0.3, eps=1e-5)
    assert all(torch.equal(*pair) for pair in zip(running, expected, strict=True))
    assert y.dtype == dtype
    assert_equal_within(y, theirs, dtype)


def test_fixed_statistics_give_batch_norm_in_eval_mode_with_gradients() -> None:
    def ours(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return normalized_plus(z, fixed_statistics(gamma, (mean, variance), eps=1e-5), beta, torch.zeros(N, C).double())

    def theirs(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return F.batch_norm(z, mean, variance, gamma, beta, training=False, eps=1e-5)

    mean, variance = torch.randn(C).double(), torch.rand(C).double() + 0.5
    arguments = [torch.randn(shape).double().requires_grad_() for shape in ((N, C, *SIZE), (C,), (C,))]
    assert torch.autograd.gradcheck(ours, arguments)
    assert torch.autograd.gradgradcheck(ours, arguments)
    torch.testing.assert_close(ours(*arguments), theirs(*arguments))


def test_a_gradient_of_the_output_does_not_reach_a_later_backward_pass_of_the_statistics() -> None:
    z, gamma = torch.randn(N, C, *SIZE).requires_grad_(), torch.rand(C).requires_grad_()
    beta = torch.zeros(C).requires_grad_()
    statistics = batch_statistics(z, gamma, (torch.zeros(C), torch.ones(C)), momentum=0.1, eps=1e-5)
    y = normalized_plus(z, statistics, beta, torch.zeros(N, C))
    torch.autograd.grad(y.sum(), beta, retain_graph=True)  # the pass ends before the statistics
    (found,) = torch.autograd.grad(statistics.alpha.sum(), z)
    variance = z.var((0, 2, 3), correction=0)
    (expected,) = torch.autograd.grad((gamma * torch.rsqrt(variance + 1e-5)).sum(), z)
    torch.testing.assert_close(found, expected)


def test_one_value_in_a_channel_is_refused_as_by_batch_norm() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        batch_statistics(torch.ones(1, C, 1, 1), torch.ones(C), (torch.zeros(C), torch.ones(C)), momentum=0.1, eps=1e-5)
