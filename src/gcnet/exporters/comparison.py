"""Comparison of an exported file with PyTorch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gcnet.exporters.graph import ExportGraph


@dataclass(frozen=True)
class Difference:
    """Largest difference of a quantity between a file and PyTorch.

    Attributes:
        quantity: name, such as "probability".
        largest: over all images.
        tolerance: its limit.
        detections: number of detections compared, each time it was; None for classifiers.
    """

    quantity: str
    largest: float
    tolerance: float
    detections: int | None = None

    @property
    def is_within(self) -> bool:
        """Whether it is within the tolerance; NaN is not."""
        return self.largest <= self.tolerance

    def __str__(self) -> str:
        compared = "" if self.detections is None else f", {self.detections:,} detections compared"
        return f"{self.quantity}: difference from PyTorch {self.largest:.1e} (tolerance {self.tolerance:g}){compared}"


def compare_outputs(
    graph: ExportGraph, run: Callable[[Tensor], tuple[Tensor, ...]], batches: Iterable[Tensor]
) -> tuple[Difference, ...]:
    """Return the largest differences of the outputs of a file from those of the graph.

    Args:
        graph: the graph in PyTorch.
        run: the file as a function of images.
        batches: images (N, 3, H, W) in [0, 1].
    """
    largest: dict[str, float] = {}
    detections = None if graph.count is None else 0
    reference = graph.reference or graph.module
    with torch.no_grad():
        for images in batches:
            expected = reference(images)
            if graph.count is not None:
                detections = (detections or 0) + graph.count(expected)
            for name, value in graph.compare(expected, run(images)).items():
                largest[name] = max(largest.get(name, 0.0), value) if value == value else float("nan")
    return tuple(Difference(name, value, graph.tolerances[name], detections) for name, value in largest.items())
