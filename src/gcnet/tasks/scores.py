"""Scores by which networks of a task are compared, and the training of the demonstration."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Score:
    """A metric from 0 to 1, shown times 100.

    Attributes:
        column: its key in metrics.jsonl and results.json.
        name: its name in sentences and on axes.
        label: its name in titles.
        unit: unit after a value, with a leading space; may be empty.
        points: unit of a difference, in words.
        is_share: whether it is a fraction of the validation images, so that their number determines its sampling error;
            False for average precision.
    """

    column: str
    name: str
    label: str
    unit: str
    points: str
    is_share: bool

    @property
    def heading(self) -> str:
        """Heading of a column, or label of an axis."""
        return f"{self.name} ({self.unit.strip()})" if self.unit else self.name

    @property
    def title(self) -> str:
        """`label` with a capital letter."""
        return self.label[0].upper() + self.label[1:]


@dataclass(frozen=True)
class Demonstration:
    """A short training on generated scenes.

    Attributes:
        recipe: recipe settings.
        train: number of training scenes.
        val: number of validation scenes.
    """

    recipe: Mapping[str, Any]
    train: int
    val: int


# Chosen by experiments on generated scenes: sufficient for every block, and minutes on two cores.
SHORT_RECIPE: Mapping[str, Any] = MappingProxyType(
    {"optimizer": "adamw", "weight_decay": 0.01, "decay_all": False, "clip_grad_norm": 5.0}
)
"""Recipe settings of every demonstration."""
