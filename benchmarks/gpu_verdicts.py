"""Whether the Triton kernels are faster than torch.compile: one row for each kernel."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

_BLANK = ("dtype", "layout", "median_ms", "p10_ms", "p90_ms", "repeats", "peak_bytes", "minimum_bytes")


def verdicts(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each task that both measured: the geometric mean over its maps of the ratio of their medians.

    Args:
        rows: of `table` in `benchmarks/gpu.py`.
    """
    medians: dict[str, dict[tuple[str, ...], dict[str, float]]] = {}
    for row in rows:
        place = (row["dtype"], row["layout"], row["shape"])
        medians.setdefault(row["task"], {}).setdefault(place, {})[row["contestant"]] = float(row["median_ms"])
    found = []
    for task, places in medians.items():
        ratios = [
            times["triton"] / times["compiled"] for times in places.values() if {"triton", "compiled"} <= {*times}
        ]
        if not ratios:
            continue
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        faster = sum(ratio < 1 for ratio in ratios)
        summary = f"{min(ratios):.2f} to {max(ratios):.2f}, faster for {faster} of {len(ratios)} maps"
        row = {"task": task, "contestant": "triton", "against": "compiled", "shape": summary, "ratio": f"{mean:.4f}"}
        found.append(row | dict.fromkeys(_BLANK, ""))
    return found
