"""Mean channel weights of gates by class."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gcnet.analysis.capture import Gate

ALL_IMAGES = "all images"
"""The only row if images have no class, as those of detectors."""


class GateMeans:
    """Mean channel weights of gates for each class, accumulated batch by batch."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[int, Tensor]] = {}
        self._counts: dict[str, dict[int, int]] = {}

    @property
    def names(self) -> list[str]:
        """Names of the gates, in the order of their calls."""
        return list(self._sums)

    @property
    def labels(self) -> list[int]:
        """The classes of the images added, sorted."""
        return sorted({label for counts in self._counts.values() for label in counts})

    def add(self, gates: Sequence[Gate], labels: Sequence[int]) -> None:
        """Add a batch.

        Args:
            gates: channel weights of each gate, for all images of the batch.
            labels: class of each image.
        """
        for gate in gates:
            sums, counts = self._sums.setdefault(gate.name, {}), self._counts.setdefault(gate.name, {})
            for label, weights in zip(labels, gate.weights.double().cpu(), strict=True):
                sums[label] = sums.get(label, torch.zeros(())) + weights
                counts[label] = counts.get(label, 0) + 1

    def merge(self, other: "GateMeans") -> None:
        """Add the images of `other`, such as those of another process."""
        for name, others in other._sums.items():
            sums, counts = self._sums.setdefault(name, {}), self._counts.setdefault(name, {})
            for label, weights in others.items():
                sums[label] = sums.get(label, torch.zeros(())) + weights
                counts[label] = counts.get(label, 0) + other._counts[name][label]

    def rows(self) -> list[tuple[str, Float[np.ndarray, "k _"]]]:
        """Return the name of each gate and its mean channel weights (classes, channels), a row for each of `labels`."""
        return [
            (name, torch.stack([sums[label] / self._counts[name][label] for label in self.labels]).numpy())
            for name, sums in self._sums.items()
        ]
