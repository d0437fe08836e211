"""What a table of the paper is made of: rows, each a network and what was published about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SOURCES: Mapping[str, str] = {
    "O": "README of github.com/xvjiarui/GCNet, commit 029db54",
    "T1": "Table 1 of GCNet, arXiv 1904.11492",
    "ECA": "table of ECA-Net, arXiv 1910.03151",
    "PVT": "table of PVT, arXiv 2102.12122",
}
"""Where published values are printed, by the mark that stands behind them."""


@dataclass(frozen=True)
class Published:
    """A value with the digits that are printed, and the mark of its source in `SOURCES`."""

    value: str
    source: str


@dataclass(frozen=True)
class Row:
    """One network of a table.

    Args:
        label: as the paper calls it.
        model: its name for `create_model`.
        options: further arguments of `create_model`.
        parameters: published, in millions.
        multiply_adds: published, in billions; papers print them under the name "FLOPs".
        scores: published, in percent, in the order of the table's.
    """

    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    parameters: Published | None = None
    multiply_adds: Published | None = None
    scores: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Args:
        title: what is compared, and on what.
        scores: names of what is measured, in percent.
        size: height and width in pixels of the image that multiply-adds are counted for.
        rows: the networks.
        notes: why what is counted and what was published differ, a sentence each.
    """

    title: str
    scores: tuple[str, ...]
    size: tuple[int, int]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
