"""State of a run in addition to its trainer, saved in checkpoints: evaluations, skipped images, sums of losses."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gcnet.renamed import upgraded_metrics
from gcnet.training.trainer import StepOutcome


@dataclass
class LossSums:
    """Sums of losses since the last logged row.

    Attributes:
        sums: by loss, over the images of this process.
        own_images: images of this process.
        images: images of all processes.
    """

    sums: dict[str, float] = field(default_factory=dict)
    own_images: int = 0
    images: int = 0

    def add(self, outcome: StepOutcome) -> None:
        """Add the `outcome` of a step."""
        self.images += outcome.images
        self.own_images += outcome.own_images
        for name, value in outcome.loss_sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


@dataclass
class RunState:
    """State of a run in addition to its trainer, saved in checkpoints.

    Attributes:
        evaluated: step of the last evaluation.
        best: row of the best evaluation.
        last: row of the last evaluation.
        skipped: reason by name of each image that could not be read.
        seconds: training time so far.
    """

    evaluated: int = 0
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def read_state(stored: Mapping[str, Any]) -> RunState:
    """Return the state in a checkpoint of this or an earlier version.

    Args:
        stored: the state as JSON values.
    """
    state = RunState(**stored)
    best, last = (None if row is None else upgraded_metrics(row) for row in (state.best, state.last))
    return replace(state, best=best, last=last)
