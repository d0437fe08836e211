"""What `test_triton_pool.py` runs in a process of its own: on the CPU by Triton's interpreter, or on a GPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gcnet.blocks.paper import build_gc
from gcnet.ops import triton_check, triton_kernels, triton_pool
from gcnet.ops.attention_pool import attention_pool
from gcnet.ops.triton_pool import attention_pool_triton
from tolerances import assert_equal_within

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIDES = {1: (1, 1), 2: (1, 2), 31: (31, 1), 257: (1, 257), 1000: (25, 40), 2081: (1, 2081)}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(20190425)


def arguments(
    samples: int, channels: int, positions: int, *, layout: str = "contiguous", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(samples, channels, *SIDES[positions]).to(DEVICE, dtype, memory_format=LAYOUTS[layout])
    weight = (2 * torch.randn(1, channels) * channels**-0.5).to(DEVICE, dtype)
    return x.requires_grad_(), weight.requires_grad_(), torch.randn(1).to(DEVICE, dtype).requires_grad_()


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The definition."""
    attention = torch.softmax(torch.einsum("ncp,c->np", x.flatten(2), weight.flatten()) + bias, dim=1)
    return torch.einsum("ncp,np->nc", x.flatten(2), attention)


def assert_agrees_with_float64(x: Tensor, weight: Tensor, bias: Tensor, *, scale: float = 1.0) -> None:
    """Context and all three gradients (these against `scale` or more), within what the dtype of x allows."""
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    context, expected = attention_pool_triton(x, weight, bias), reference(*exact)
    grad = torch.randn_like(context)
    found = torch.autograd.grad(context, (x, weight, bias), grad)
    wanted = torch.autograd.grad(expected, exact, grad.double())
    assert context.dtype == x.dtype
    assert_equal_within(context, expected, x.dtype, "contexts")
    for name, tensor, one, other in zip(("map", "weight", "bias"), (x, weight, bias), found, wanted, strict=True):
        assert one.dtype == tensor.dtype
        assert_equal_within(one, other, x.dtype, f"gradients of the {name}", scale=scale)


SIZES = [(channels, positions) for channels in (1, 3, 17, 64, 130) for positions in (1, 2, 31, 257, 1000)]


@pytest.mark.parametrize(("index", "size"), list(enumerate(SIZES)), ids=map(str, SIZES))
def test_float32_equals_float64(index: int, size: tuple[int, int]) -> None:
    samples, layout = (1, 3)[index % 2], list(LAYOUTS)[index // 2 % 2]  # all four pairs, in turn
    assert_agrees_with_float64(*arguments(samples, *size, layout=layout))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(3, 17, 31), (1, 64, 1000), (1, 130, 257)], ids=str)
def test_half_precision_equals_float64(size: tuple[int, int, int], layout: str, dtype: torch.dtype) -> None:
    assert_agrees_with_float64(*arguments(*size, layout=layout, dtype=dtype))


def test_weights_may_have_another_dtype_than_the_map() -> None:
    x, _, _ = arguments(3, 17, 31, dtype=torch.bfloat16)
    _, weight, bias = arguments(3, 17, 31)
    exact = reference(x.double(), weight.double(), bias.double())
    assert_equal_within(attention_pool_triton(x, weight, bias), exact, torch.bfloat16)


def test_a_program_may_have_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "PROGRAMS", 7)
    x, weight, bias = arguments(3, 17, 1000)
    splits, each, _ = triton_kernels.plan(x.flatten(2), 17)
    assert splits > 1 and each > 1
    assert_agrees_with_float64(x, weight, bias)


def test_more_samples_than_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "PROGRAMS", 2)
    assert_agrees_with_float64(*arguments(3, 130, 257))


def test_more_splits_than_are_merged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "TILE", 16 * 32)
    x, weight, bias = arguments(1, 3, 2081)
    assert triton_kernels.plan(x.flatten(2), 3)[0] == 66
    assert_agrees_with_float64(x, weight, bias)


@pytest.mark.parametrize("spatial", [(31,), (5, 7), (2, 3, 5)], ids=["1-d", "2-d", "3-d"])
def test_one_two_and_three_spatial_axes(spatial: tuple[int, ...]) -> None:
    _, weight, bias = arguments(1, 17, 1)
    assert_agrees_with_float64(torch.randn(3, 17, *spatial, device=DEVICE).requires_grad_(), weight, bias)


@pytest.mark.parametrize("gap", ["samples", "channels", "rows", "columns", "one sample"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_maps_with_gaps(layout: str, gap: str) -> None:
    whole = torch.randn(3, 34, 10, 14).to(DEVICE, memory_format=LAYOUTS[layout])
    parts = {
        "samples": whole[::2, :17],
        "channels": whole[:, 1::2],
        "rows": whole[:, :17, 2:7],
        "columns": whole[:, :17, :, 3:8],
        "one sample": whole[1:2, :17],
    }
    _, weight, bias = arguments(1, 17, 1)
    assert_agrees_with_float64(parts[gap].detach().requires_grad_(), weight, bias)


def test_a_map_that_is_one_value_everywhere_in_memory() -> None:
    x = torch.randn(3, 17, 1, 1, device=DEVICE).expand(3, 17, 5, 7).detach().requires_grad_()
    assert_agrees_with_float64(x, *arguments(1, 17, 1)[1:])


@pytest.mark.parametrize("sign", [1, -1])
def test_very_large_logits(sign: int) -> None:
    # Whole numbers, so that logits of up to a million are exact in float32.
    x = torch.randint(-9, 10, (3, 17, 257)).float().to(DEVICE).requires_grad_()
    weight = (sign * torch.randint(4000, 7000, (17,))).float().to(DEVICE).requires_grad_()
    assert_agrees_with_float64(x, weight, torch.zeros((), device=DEVICE, requires_grad=True), scale=7000)


def test_offsets_beyond_32_bits() -> None:
    # Memory is reserved, but only touched where the map lies: between channels are 2 GB of float16.
    step = 2**30 + 8
    storage = torch.empty(2 * step + 31, dtype=torch.float16, device=DEVICE)
    x = storage.as_strided((1, 3, 31), (3 * step, step, 1))
    x.copy_(torch.randn(1, 3, 31))
    assert triton_kernels.plan(x, 3)[2]["WIDE"]
    _, weight, bias = arguments(1, 3, 1)
    expected = reference(x.double(), weight.double(), bias.double())
    assert_equal_within(attention_pool_triton(x, weight, bias), expected, torch.float16)


def test_no_samples() -> None:
    x, weight, bias = arguments(3, 17, 31)
    context = attention_pool_triton(x[:0], weight, bias)
    assert context.shape == (0, 17)
    assert all(not grad.any() for grad in torch.autograd.grad(context.sum(), (x, weight, bias)))


def test_the_bias_changes_no_bit_and_its_gradient_is_zero() -> None:
    x, weight, bias = arguments(3, 17, 257)
    context = attention_pool_triton(x, weight, bias)
    assert torch.equal(context, attention_pool_triton(x, weight, bias + 1000))
    (grad,) = torch.autograd.grad(context.sum(), bias)
    assert torch.equal(grad, torch.zeros_like(bias))


def test_twice_the_same_bits() -> None:
    x, weight, bias = arguments(3, 17, 257)
    results = []
    for _ in range(2):
        context = attention_pool_triton(x, weight, bias)
        results.append((context, *torch.autograd.grad(context.square().sum(), (x, weight))))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_the_gradient_has_the_layout_of_the_map() -> None:
    x, weight, bias = arguments(3, 17, 257, layout="channels-last")
    (grad,) = torch.autograd.grad(attention_pool_triton(x, weight, bias).sum(), x)
    assert grad.stride() == x.stride()


def test_only_vectors_and_the_map_are_saved_for_the_gradient() -> None:
    x, weight, bias = arguments(3, 17, 1000)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        attention_pool_triton(x, weight, bias)
    others = [tensor for tensor in kept if tensor.data_ptr() != x.data_ptr()]
    assert len(others) == len(kept) - 1
    assert sum(tensor.numel() for tensor in others) <= 17 + 1 + 3 * (17 + 2)


def test_second_derivatives_equal_float64() -> None:
    def penalty(pool: Any, x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        context = pool(x, weight, bias)
        first = torch.autograd.grad(context.square().sum(), (x, weight), create_graph=True)
        return list(torch.autograd.grad(sum(grad.square().sum() for grad in first), (x, weight)))

    given = arguments(3, 17, 31)
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    expected = penalty(reference, *exact)
    for ours, theirs in zip(penalty(attention_pool_triton, *given), expected, strict=True):
        assert_equal_within(ours, theirs, torch.float32)


def test_the_operator_passes_the_checks_of_pytorch() -> None:
    x, weight, bias = arguments(3, 17, 31)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.gcnet.attention_pool.default, (x.flatten(2), weight.flatten(), bias), test_utils=checks
    )


def test_compilation_breaks_no_graph() -> None:
    x, weight, bias = arguments(3, 17, 31)
    compiled = torch.compile(attention_pool_triton, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, weight, bias), attention_pool_triton(x, weight, bias))


def test_flops_are_those_of_the_plain_layers() -> None:
    x, weight, bias = arguments(3, 17, 31)

    def plain() -> Tensor:
        logits = F.conv1d(x.flatten(2), weight.unsqueeze(-1), bias)
        return torch.bmm(x.flatten(2), logits.softmax(-1).transpose(1, 2))

    counts = []
    for pool in (plain, lambda: attention_pool_triton(x, weight, bias)):
        with FlopCounterMode(display=False) as forward:
            pooled = pool()
        with FlopCounterMode(display=False) as backward:
            pooled.sum().backward()
        counts.append((forward.get_total_flops(), backward.get_total_flops()))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fusion", ["add", "scale", "both"])
def test_the_whole_block_in_inference(fusion: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = build_gc(130, fusion=fusion).to(DEVICE).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, _, _ = arguments(3, 130, 31, layout=layout)
    with torch.inference_mode():
        expected = block.double()(x.double())
        key = block.float().context.key
        monkeypatch.setattr(
            block.context, "forward", lambda x: attention_pool_triton(x, key.weight, key.bias)[..., None, None]
        )
        found = block(x)
    assert_equal_within(found, expected, torch.float32)
    assert found.stride() == x.stride()


@pytest.mark.parametrize("dtype", triton_check.TOLERANCE, ids=str)
def test_the_check_before_first_use_passes_under_tracing_too(dtype: torch.dtype, monkeypatch: Any) -> None:
    monkeypatch.setattr(triton_check, "_results", {})
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        assert triton_check.usable("attention pooling", torch.device(DEVICE), dtype)
    assert counter.get_total_flops() == 0


def too_large(context: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    return 1.001 * context, *others


def not_a_number(context: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    return context * float("nan"), *others


def not_compiled(*_: Tensor) -> tuple[Tensor, ...]:
    raise triton.CompilationError("", None, "no such instruction")


@pytest.mark.parametrize("kernel", ["pool", "gradient"])
@pytest.mark.parametrize("fault", [too_large, not_a_number, not_compiled])
def test_kernels_with_a_wrong_result_are_switched_off_with_one_warning(
    fault: Any, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(triton_kernels, kernel)
    monkeypatch.setattr(triton_check, "_results", {})
    monkeypatch.setattr(triton_kernels, kernel, lambda *given: fault(*right(*given)))
    monkeypatch.setattr(triton_pool, "_suits", lambda _: True)
    x, weight, bias = arguments(3, 17, 31)
    given = x.flatten(2), weight[0], bias[0]
    with pytest.warns(RuntimeWarning, match="the Triton kernels of attention pooling .* are disabled") as warned:
        found = attention_pool(*given)
    assert len(warned) == 1
    assert torch.equal(found, attention_pool(*given))
    assert not triton_check.usable("attention pooling", torch.device(DEVICE), torch.bfloat16)
    assert_equal_within(found, reference(*(one.double() for one in (x, weight, bias))), torch.float32)


@pytest.mark.parametrize(
    ("x", "channels"),
    [(torch.zeros(1, 3, 5).double(), 3), (torch.zeros(1, 2049, 5), 2049), (torch.zeros(1, 3, 5), 2)],
    ids=["float64", "2049 channels", "weight of another length"],
)
def test_inputs_that_do_not_fit_are_refused(x: Tensor, channels: int) -> None:
    with pytest.raises(ValueError, match=f"at most 2048 channels, here {channels} .* found torch.float.* of shape"):
        attention_pool_triton(x, torch.zeros(channels), torch.zeros(()))
