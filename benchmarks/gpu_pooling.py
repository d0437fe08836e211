"""Attention pooling and the GC block on a GPU: plain layers, torch.compile, Triton kernels and a copy of the map."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._functorch import config as functorch_config

from benchmarks.gpu_case import Case, Precision
from benchmarks.gpu_compiled import compiled, forget_compiled
from benchmarks.gpu_networks import peers
from benchmarks.turns import Work
from gcnet.analysis.timing import fill_zero_parameters
from gcnet.blocks import build_block
from gcnet.errors import UserError
from gcnet.ops.triton_check import TOLERANCE
from gcnet.ops.triton_pool import attention_pool_triton, can_pool

STAGES = {"c2": (256, 4), "c3": (512, 8), "c4": (1024, 16), "c5": (2048, 32)}  # channels and stride in ResNet-50
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Pool = Callable[[Tensor, Tensor, Tensor], Tensor]


def pool_plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The layers that other implementations use: a 1x1 convolution, a softmax, a matrix product."""
    logits = F.conv1d(x.flatten(2), weight.unsqueeze(-1), bias)
    attention = torch.softmax(logits, dim=-1, dtype=torch.float32).to(x.dtype)
    return torch.bmm(x.flatten(2), attention.transpose(1, 2)).squeeze(-1)


def pooling_cases(shape: tuple[int, ...], precision: Precision, device: torch.device) -> Iterator[Case]:
    """Forward, backward and the whole block in inference, for one map."""
    torch.manual_seed(0)
    forget_compiled()
    dtype = DTYPES[precision.dtype]
    x = (
        torch.randn(shape, device=device, dtype=dtype)
        .contiguous(memory_format=precision.memory_format)
        .requires_grad_()
    )
    block: Any = build_block("gc", channels=shape[1]).to(device, dtype).eval()
    pools: dict[str, Pool] = {"plain": pool_plain, "compiled": compiled(pool_plain, device)}
    moved = {}
    if can_pool(x):
        pools["triton"] = attention_pool_triton
        moved = bytes_moved(x)
        _check(attention_pool_triton, x, block.context.key)
    copied = {"copy": 2 * x.numel() * x.element_size()}
    for task, works in (
        ("pooling_forward", _forwards(pools, x, block.context.key)),
        ("pooling_backward", _backwards(pools, x, block.context.key)),
        ("gc_block", _blocks(pools, x, block) | _peer_blocks(x)),
    ):
        least = dict.fromkeys(works, moved[task]["minimum"]) if moved else {}
        yield Case(task, precision, shape, works | {"copy": copy_of(x)}, "plain", least | copied)


def shape_of_map(stage: str, batch: int, size: int) -> tuple[int, ...]:
    """The map at the end of a stage of ResNet-50, for images of this size."""
    channels, stride = STAGES[stage]
    return (batch, channels, size // stride, size // stride)


def _check(pool: Pool, x: Tensor, key: Any) -> None:
    """Refuse to time pooling whose context or gradient is not that of float64: wrong results have no speed."""
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, key.weight, key.bias)]
    expected = _context_and_gradients(pool_plain, *exact)
    for found, other in zip(_context_and_gradients(pool, x, key.weight, key.bias), expected, strict=True):
        error = float((found.double() - other).detach().abs().max() / other.detach().abs().max())
        if not error <= TOLERANCE[x.dtype]:
            raise UserError(
                f"Triton differs from float64 by {error:.1e} for {tuple(x.shape)} in {x.dtype}; wrong results are not "
                "timed"
            )


def _context_and_gradients(pool: Pool, x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    context = pool(x, weight, bias)
    return [context, *torch.autograd.grad(context.square().sum(), (x, weight))]


def _forwards(pools: dict[str, Pool], x: Tensor, key: Any) -> dict[str, Work]:
    """Pooling without gradients."""
    arguments = (x.detach(), key.weight.detach(), key.bias.detach())
    return {name: lambda pool=pool: pool(*arguments) for name, pool in pools.items()}


def _backwards(pools: dict[str, Pool], x: Tensor, key: Any) -> dict[str, Work]:
    """The gradients of pooling alone."""
    arguments = (x, key.weight, key.bias)
    return {name: _backward(pool, arguments) for name, pool in pools.items()}


def _backward(pool: Pool, arguments: tuple[Tensor, Tensor, Tensor]) -> Work:
    kept: list[Tensor] = []

    def run() -> None:
        if not kept:  # in the warm-up, in which torch.compile may fail
            with functorch_config.patch(donated_buffer=False):  # a backward pass that can be repeated
                context = pool(*arguments)
            kept.extend((context, torch.randn_like(context)))
        torch.autograd.grad(kept[0], arguments, kept[1], retain_graph=True)

    return run


def _blocks(pools: dict[str, Pool], x: Tensor, block: Any) -> dict[str, Work]:
    """Pooling, bottleneck and addition in inference."""
    x, key, branch = x.detach(), block.context.key, block.get_submodule("add")

    def run(pool: Pool) -> Tensor:
        return branch(x, pool(x, key.weight, key.bias)[..., None, None])

    works: dict[str, Work] = {name: partial(run, pool) for name, pool in pools.items() if name != "compiled"}
    works["compiled"] = partial(compiled(run, x.device), pool_plain)
    return {name: _in_inference(work) for name, work in works.items()}


def _peer_blocks(x: Tensor) -> dict[str, Work]:
    """The blocks of other libraries, and the same compiled."""
    works: dict[str, Work] = {}
    for library, build in peers().items():
        block = build(x.shape[1]).to(x.device, x.dtype).eval()
        fill_zero_parameters(block)
        works[library] = _in_inference(partial(block, x.detach()))
        works[f"{library}, compiled"] = _in_inference(partial(compiled(block, x.device), x.detach()))
    return works


def _in_inference(work: Work) -> Work:
    def run() -> None:
        with torch.inference_mode():
            work()

    return run


def copy_of(x: Tensor) -> Work:
    """One read and one write of the map."""
    source, target = x.detach(), torch.empty_like(x.detach())
    return lambda: target.copy_(source)


def bytes_moved(x: Tensor) -> dict[str, dict[str, int]]:
    """Bytes read and written for one map (N, C, *S), by task and variant: whole maps, and the kernels' partial sums.

    Plain layers read the map for logits and for the sum. Backward they read it for the gradients of attention and key,
    write a gradient of the map for each of the two uses, and add these up: 4 reads and 3 writes.
    """
    from gcnet.ops.triton_kernels import plan

    samples, channels = x.shape[:2]
    splits, _, _ = plan(x.flatten(2), channels)
    one = x.numel() * x.element_size()
    partial = 2 * samples * int(splits) * channels * 4  # written, then read, in float32
    return {
        "pooling_forward": {"minimum": one, "triton": one + partial, "plain": 2 * one},
        "pooling_backward": {"minimum": 2 * one, "triton": 2 * one + partial, "plain": 7 * one},
        "gc_block": {"minimum": 3 * one, "triton": 3 * one + partial, "plain": 4 * one},
    }


def table_of_bytes(batch: int, size: int) -> str:
    """Megabytes for the four stages in float32, as Markdown."""
    tasks = {"forward": "pooling_forward", "backward": "pooling_backward", "block": "gc_block"}
    variants = ("minimum", "triton", "plain")
    lines = [
        "| map, MB | " + " | ".join(f"{name}: {variant}" for name in tasks for variant in variants) + " |",
        "| --- |" + " ---: |" * 9,
    ]
    for stage in STAGES:
        shape = shape_of_map(stage, batch, size)
        moved = bytes_moved(torch.empty(shape, device="meta"))
        cells = [f"{moved[task][variant] / 1e6:.1f}" for task in tasks.values() for variant in variants]
        lines.append(f"| {stage}, {' x '.join(map(str, shape))} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
