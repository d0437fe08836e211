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
    """

    quantity: str
    largest: float
    tolerance: float

    @property
    def is_within(self) -> bool:
        """Whether it is within the tolerance; NaN is not."""
        return self.largest <= self.tolerance

    def __str__(self) -> str:
        return f"{self.quantity}: difference from PyTorch {self.largest:.1e} (tolerance {self.tolerance:g})"


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
    reference = graph.reference or graph.module
    with torch.no_grad():
        for images in batches:
            for name, value in graph.compare(reference(images), run(images)).items():
                largest[name] = max(largest.get(name, 0.0), value) if value == value else float("nan")
    return tuple(Difference(name, value, graph.tolerances[name]) for name, value in largest.items())
