"""Attention pooling and the GC block on a GPU: plain layers, Triton kernels and a copy of the map, timed in turn.

It appends a row for each to benchmarks/gpu.csv; with --paper it prints the bytes that each moves, which needs no GPU.
"""

import argparse
import csv
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gcnet.blocks import build_block
from gcnet.ops.triton_pool import READY, attention_pool_triton

STAGES = {"c2": (256, 4), "c3": (512, 8), "c4": (1024, 16), "c5": (2048, 32)}  # channels and stride in ResNet-50
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}

Pool = Callable[[Tensor, Tensor, Tensor], Tensor]
Work = Callable[[], object]


def pool_plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The layers that other implementations use: a 1x1 convolution, a softmax, a matrix product."""
    logits = F.conv1d(x.flatten(2), weight.unsqueeze(-1), bias)
    attention = torch.softmax(logits, dim=-1, dtype=torch.float32).to(x.dtype)
    return torch.bmm(x.flatten(2), attention.transpose(1, 2)).squeeze(-1)


POOLS: dict[str, Pool] = {"plain": pool_plain, "triton": attention_pool_triton}


def main() -> None:
    """Print the table of bytes, or time and append."""
    options = parse_arguments()
    if not READY:
        sys.exit(
            "the kernels need Triton, which comes with PyTorch for CUDA on Linux, and a C compiler; one is missing"
        )
    if options.paper:
        print(table_of_bytes(options.batch, options.size))
        return
    if not torch.cuda.is_available():
        sys.exit("times are taken on a CUDA device, and PyTorch sees none here; --paper prints bytes without one")
    for dtype in options.dtype:
        for layout in LAYOUTS:
            for stage in STAGES:
                append(options.output, time_stage(stage, dtype, layout, options))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true", help="print bytes instead of taking times")
    parser.add_argument("--batch", type=int, default=32, help="images (default: 32)")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (default: 224)")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=100, help="times that each is run (default: 100)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "gpu.csv", help="CSV to append to")
    return parser.parse_args()


def bytes_moved(x: Tensor) -> dict[str, dict[str, int]]:
    """Bytes read and written for one map (N, C, P), by pass and variant: whole maps, and the kernels' partial sums.

    Plain layers read the map for logits and for the sum. Backward they read it for the gradients of attention and key,
    write a gradient of the map for each of the two uses, and add these up: 4 reads and 3 writes.
    """
    from gcnet.ops.triton_kernels import plan

    samples, channels, _ = x.shape
    splits, _, _ = plan(x, channels)
    one = x.numel() * x.element_size()
    partial = 2 * samples * int(splits) * channels * 4  # written, then read, in float32
    return {
        "forward": {"minimum": one, "triton": one + partial, "plain": 2 * one},
        "backward": {"minimum": 2 * one, "triton": 2 * one + partial, "plain": 7 * one},
        "block": {"minimum": 3 * one, "triton": 3 * one + partial, "plain": 4 * one},
    }


def table_of_bytes(batch: int, size: int) -> str:
    """Megabytes for the four stages in float32, as Markdown."""
    passes, variants = ("forward", "backward", "block"), ("minimum", "triton", "plain")
    lines = [
        "| map, MB | " + " | ".join(f"{name}: {variant}" for name in passes for variant in variants) + " |",
        "| --- |" + " ---: |" * 9,
    ]
    for stage, (channels, stride) in STAGES.items():
        side = size // stride
        x = torch.empty(batch, channels, side * side, device="meta")
        moved = bytes_moved(x)
        cells = [f"{moved[name][variant] / 1e6:.1f}" for name in passes for variant in variants]
        lines.append(f"| {stage}, {batch} x {channels} x {side} x {side} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def time_stage(stage: str, dtype: str, layout: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of one map: forward, backward and the whole block in inference, each plain, by Triton, and as a copy."""
    channels, stride = STAGES[stage]
    side = options.size // stride
    torch.manual_seed(0)
    x = torch.randn(options.batch, channels, side, side, device="cuda", dtype=DTYPES[dtype])
    x = x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    block = build_block("gc", channels=channels).to("cuda", DTYPES[dtype]).eval()
    check(x, block)
    moved = bytes_moved(x.detach().flatten(2))
    rows = []
    for name, works in (
        ("forward", forwards(x, block)),
        ("backward", backwards(x, block)),
        ("block", blocks(x, block)),
    ):
        for variant, times in time_in_turn(works, options.repeats).items():
            low, median, high = torch.tensor(times).quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
            rows.append(
                circumstances(options)
                | {"dtype": dtype, "layout": layout, "stage": stage, "shape": "x".join(map(str, x.shape))}
                | {"pass": name, "variant": variant, "median_ms": f"{median:.4f}"}
                | {"p10_ms": f"{low:.4f}", "p90_ms": f"{high:.4f}"}
                | {"minimum_bytes": 2 * x.numel() * x.element_size() if variant == "copy" else moved[name]["minimum"]}
            )
            print(f"{dtype:9} {layout:13} {stage} {name:8} {variant:6} {median:8.4f} ms  ({low:.4f} to {high:.4f})")
    return rows


def check(x: Tensor, block: Any) -> None:
    """Stop if Triton's context or gradient is not that of float64: wrong results have no speed."""
    key = block.context.key
    results = []
    for pool, arguments in (
        (attention_pool_triton, (x, key.weight, key.bias)),
        (pool_plain, tuple(tensor.detach().double().requires_grad_() for tensor in (x, key.weight, key.bias))),
    ):
        context = pool(*arguments)
        results.append((context, *torch.autograd.grad(context.square().sum(), arguments[:2])))
    for found, expected in zip(*results, strict=True):
        error = (found.double() - expected).abs().max() / expected.abs().max()
        if not error <= TOLERANCE[x.dtype]:
            sys.exit(f"Triton differs from float64 by {error:.1e} for {tuple(x.shape)} in {x.dtype}; nothing was timed")


def forwards(x: Tensor, block: Any) -> dict[str, Work]:
    """Pooling without gradients."""
    arguments = (x.detach(), block.context.key.weight.detach(), block.context.key.bias.detach())
    return {name: lambda pool=pool: pool(*arguments) for name, pool in POOLS.items()} | {"copy": copier(x)}


def backwards(x: Tensor, block: Any) -> dict[str, Work]:
    """The gradients of pooling alone."""
    arguments = (x, block.context.key.weight, block.context.key.bias)
    works: dict[str, Work] = {}
    for name, pool in POOLS.items():
        context = pool(*arguments)
        grad = torch.randn_like(context)
        works[name] = lambda context=context, grad=grad: torch.autograd.grad(
            context, arguments, grad, retain_graph=True
        )
    return works | {"copy": copier(x)}


def blocks(x: Tensor, block: Any) -> dict[str, Work]:
    """Pooling, bottleneck and addition in inference."""
    x, key, branch = x.detach(), block.context.key, block.get_submodule("add")

    def run(pool: Pool) -> Tensor:
        with torch.inference_mode():
            return branch(x, pool(x, key.weight, key.bias)[..., None, None])

    return {name: lambda pool=pool: run(pool) for name, pool in POOLS.items()} | {"copy": copier(x)}


def copier(x: Tensor) -> Work:
    """One read and one write of the map."""
    source, target = x.detach(), torch.empty_like(x.detach())
    return lambda: target.copy_(source)


def time_in_turn(works: dict[str, Work], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each run by CUDA events, one of each in turn.

    Before each, a gigabyte is cleared: nothing of the map is left in the cache, and the launches that follow are queued
    meanwhile, so that they do not count.
    """
    flush = torch.empty(2**30, dtype=torch.int8, device="cuda")
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in works}
    for repeat in range(repeats + 10):
        for name, work in works.items():
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            if repeat >= 10:  # those before compile and warm up
                events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: [start.elapsed_time(end) for start, end in pairs] for name, pairs in events.items()}


def circumstances(options: argparse.Namespace) -> dict[str, object]:
    """Where and with what a row was measured."""
    from triton import __version__ as triton

    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton,
        "repeats": options.repeats,
    }


def append(path: Path, rows: list[dict[str, object]]) -> None:
    """Add rows to a CSV, with its header if it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
