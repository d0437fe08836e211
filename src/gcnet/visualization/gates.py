"""Mean channel weights of gates by class."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gcnet.analysis.capture import Gate

ALL_IMAGES = "all images"
"""The one row of images that have no class, such as a detector's."""


class GateMeans:
    """Sums up gates call by call, and gives the mean weights of each class that was seen."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[int, Tensor]] = {}
        self._counts: dict[str, dict[int, int]] = {}

    @property
    def names(self) -> list[str]:
        """Of the gates, in the order of their calls."""
        return list(self._sums)

    @property
    def labels(self) -> list[int]:
        """The classes that were seen, sorted."""
        return sorted({label for counts in self._counts.values() for label in counts})

    def add(self, gates: Sequence[Gate], labels: Sequence[int]) -> None:
        """Count the gates of a batch of images of these classes."""
        for gate in gates:
            sums, counts = self._sums.setdefault(gate.name, {}), self._counts.setdefault(gate.name, {})
            for label, weights in zip(labels, gate.weights.double().cpu(), strict=True):
                sums[label] = sums.get(label, torch.zeros(())) + weights
                counts[label] = counts.get(label, 0) + 1

    def rows(self) -> list[tuple[str, Float[np.ndarray, "k _"]]]:
        """Each gate's name, and the mean weights of its channels, a row for each of `labels`."""
        return [
            (name, torch.stack([sums[label] / self._counts[name][label] for label in self.labels]).numpy())
            for name, sums in self._sums.items()
        ]
