"""Times and memory on a GPU: a network with and without global context, and its kernels by Triton and without.

Contestants take turns; each line gives median and spread. The most important cases come first, and the last lines say
whether the Triton kernels are faster than torch.compile. It needs a clone, torch, torchvision and timm; mmcv's block
takes part if it is installed.
"""

import argparse
import csv
import datetime
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

if __name__ == "__main__":
    # Run as a file, in a clone that need not be installed.
    sys.path[:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "src")]
    if find_spec("jaxtyping") is None:
        # Annotations without the shapes.
        shapeless = type("Shapeless", (), {"__class_getitem__": lambda _, item: item[0]})
        names = ("Bool", "Float", "Int", "Int32", "Int64", "Integer", "Shaped", "UInt8")
        sys.modules["jaxtyping"] = cast(ModuleType, SimpleNamespace(**dict.fromkeys(names, shapeless)))

import torch

from benchmarks.gpu_case import Case, Precision
from benchmarks.gpu_networks import network_cases
from benchmarks.gpu_norm import norm_cases
from benchmarks.gpu_pooling import DTYPES, STAGES, pooling_cases, shape_of_map, table_of_bytes
from benchmarks.gpu_verdicts import verdicts
from benchmarks.turns import Limits, Measured, measure_in_turn
from gcnet.devices import describe_kernels
from gcnet.errors import UserError
from gcnet.ops.triton_check import has_triton


def main() -> None:
    """Print the table of bytes, or measure, print, and write rows where that is asked for."""
    options = parse_arguments()
    try:
        if options.paper:
            print_bytes(options)
        else:
            measure(options)
    except UserError as error:
        sys.exit(str(error))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats")
    parser.add_argument("--minutes", type=float, default=4, help="start nothing new after so many (default: 4)")
    parser.add_argument("--paper", action="store_true", help="print bytes moved instead of taking times")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N, or cpu to try the command out")
    parser.add_argument("--host", default="resnet50", help="network that gets the blocks (default: resnet50)")
    parser.add_argument("--batch", type=int, default=256, help="images (default: 256)")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (default: 224)")
    parser.add_argument("--repeats", type=int, help="runs of each that count (default: 100; with --quick 20)")
    parser.add_argument("--output", type=Path, help="append rows to this CSV, such as docs/results/gpu.csv")
    return parser.parse_args()


def print_bytes(options: argparse.Namespace) -> None:
    """The table of docs/speed.md."""
    if not has_triton():
        raise UserError("--paper needs Triton, which comes with PyTorch for CUDA on Linux, and a C compiler")
    print(table_of_bytes(options.batch, options.size))


def measure(options: argparse.Namespace) -> None:
    """All cases, one after the other.

    Raises:
        UserError: there is no such device.
    """
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "benchmarks/gpu.py needs a CUDA GPU, and PyTorch finds none here; --device cpu only tries it out, "
            "--paper prints bytes moved"
        )
    torch.backends.cudnn.benchmark = True  # as in training
    seconds = 60 * options.minutes
    limits = Limits(options.repeats or (20 if options.quick else 100), seconds / 25, time.perf_counter() + seconds)
    where = circumstances(device)
    print(", ".join(f"{name} {value}" for name, value in where.items() if value != ""))
    if find_spec("mmcv") is None:
        print("mmcv is not installed: its block is left out")
    found: list[dict[str, Any]] = []
    for cases in plan(options, device):
        if limits.over:
            print(f"The {options.minutes:g} minutes are over; some cases are left out.")
            break
        for case in cases:
            measured = measure_in_turn(case.works, device, limits)
            rows = [where | row for row in table(case, measured)]
            found += rows
            append(options.output, rows)
    closing = [where | row for row in verdicts(found)]
    for row in closing:
        print(f"{row['task']:24} Triton takes {row['ratio']} of the time of torch.compile, {row['shape']}")
    append(options.output, closing)


def plan(options: argparse.Namespace, device: torch.device) -> Iterator[Iterator[Case]]:
    """Groups of cases, the most important first."""
    shape = (options.batch, 3, options.size, options.size)
    half, single = Precision("bf16 autocast", "channels_last"), Precision("float32", "channels_last")
    yield network_cases(options.host, shape, half, device)
    yield from kernel_cases(options, device, ("bfloat16",), ("channels_last",), ("c4",))
    if device.type == "cuda":
        yield network_cases(options.host, shape, half, device, compile_them=True)
    if options.quick:
        yield from kernel_cases(options, device, ("float32",), ("channels_last",), ("c4",))
        return
    stages = tuple(STAGES)
    yield from kernel_cases(
        options, device, ("bfloat16",), ("channels_last",), [name for name in stages if name != "c4"]
    )
    yield network_cases(options.host, shape, single, device)
    yield from kernel_cases(options, device, ("float32",), ("channels_last",), stages)
    yield from kernel_cases(options, device, tuple(DTYPES), ("contiguous",), stages)
    yield network_cases(options.host, shape, Precision("float32", "contiguous"), device)


def kernel_cases(
    options: argparse.Namespace,
    device: torch.device,
    dtypes: Sequence[str],
    layouts: Sequence[str],
    stages: Sequence[str],
) -> Iterator[Iterator[Case]]:
    """Attention pooling, and batch norm with shortcut and ReLU, on the maps at the ends of ResNet-50's stages."""
    for dtype, layout, stage in product(dtypes, layouts, stages):
        shape, precision = shape_of_map(stage, options.batch, options.size), Precision(dtype, layout)
        yield pooling_cases(shape, precision, device)
        yield norm_cases(shape, precision, device)


def table(case: Case, measured: dict[str, Measured]) -> list[dict[str, Any]]:
    """A row for each contestant, printed as well."""
    rows = []
    base = measured[case.against].quantile(0.5) if case.against in measured else float("nan")
    for name, found in measured.items():
        low, median, high = (found.quantile(share) for share in (0.1, 0.5, 0.9))
        row: dict[str, Any] = {
            "task": case.task,
            "contestant": name,
            "against": case.against if name != case.against else "",
        }
        row |= {"dtype": case.precision.dtype, "layout": case.precision.layout, "shape": "x".join(map(str, case.shape))}
        row |= {"median_ms": f"{median:.4f}", "p10_ms": f"{low:.4f}", "p90_ms": f"{high:.4f}"}
        row |= {
            "repeats": len(found.times),
            "ratio": f"{median / base:.4f}",
            "peak_bytes": "" if found.peak_bytes is None else found.peak_bytes,
        }
        rows.append(row | {"minimum_bytes": case.minimum_bytes.get(name, "")})
        memory = "" if found.peak_bytes is None else f"  {found.peak_bytes / 2**20:8,.0f} MiB"
        print(
            f"{case.task:23} {case.precision.dtype:13} {case.precision.layout:13} {row['shape']:15} {name:17} "
            f"{median:9.3f} ms ({low:.3f} to {high:.3f})  x{median / base:.3f}{memory}",
            flush=True,
        )
    return rows


def circumstances(device: torch.device) -> dict[str, Any]:
    """Where and with what rows are measured."""
    gpu = device.type == "cuda"
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "card": torch.cuda.get_device_name(device) if gpu else "cpu",
        "driver": driver_version() if gpu else "",
        "cuda": torch.version.cuda or "",
        "cudnn": torch.backends.cudnn.version() or "",
        "torch": torch.__version__,
        "triton": triton_version() if has_triton() else "",
        "tf32": describe_kernels(device)["tf32_convolutions"] if gpu else "",
    }


def driver_version() -> str:
    """What nvidia-smi says, or nothing where it is missing."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.partition("\n")[0].strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def triton_version() -> str:
    """Imported only here: pooling imports it where it is used."""
    from triton import __version__

    return __version__


def append(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Add rows to a CSV, if one is asked for, with its header if it is new."""
    if path is None or not rows:
        return
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
