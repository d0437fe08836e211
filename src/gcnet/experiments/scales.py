"""Comparisons for the rows of tables: with the published networks, or with small ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gcnet.comparison.plan import Variant
from gcnet.comparison.results import BASELINE
from gcnet.experiments.rows import PaperTable, TableRow
from gcnet.models.registry import published_placement, split_name

_SMALL_MODELS = {
    "mask_rcnn_resnet50": "cifar_resnet20",
    "mask_rcnn_resnet101": "cifar_resnet56",
    "resnet50": "cifar_resnet20",
}
_SMALL_STAGES = {3: 1, 4: 2, 5: 3}
_PLACEMENT = ("ratio", "stages", "blocks", "position", "insert_at")
# Default options and placement of a block in a row.
_USUAL: Mapping[str, Any] = {
    "ratio": 16,
    "stages": (3, 4, 5),
    "position": "after_norm",
    "pooling": "attention",
    "fusion": "add",
}
SMALL_RATIO = 4
"""Ratio at small scale (blocks of 16 to 64 channels) for the paper's 16; other ratios are divided by 4, too."""


@dataclass(frozen=True)
class Series:
    """Rows on one network: the blocks of one comparison, and the name of each row.

    Attributes:
        model: the plain network.
        variants: by the name in the comparison; that without a block is "none".
        names: of a row, by its table's name and its label.
    """

    model: str
    variants: Mapping[str, Variant]
    names: Mapping[tuple[str, str], str]


def series_of(tables: Mapping[str, PaperTable], *, small: bool) -> list[Series]:
    """Group the rows of tables by network.

    Args:
        tables: by name.
        small: small scale, where rows without a small counterpart are omitted.

    Returns:
        One series per network.
    """
    by_model: dict[str, list[tuple[str, TableRow]]] = {}
    for name, table in tables.items():
        for row in table.rows:
            base = split_name(row.model)[1]
            model = base if not small else _small_model(base, row)
            if model is not None:
                by_model.setdefault(model, []).append((name, row))
    return [_series(model, rows, small=small) for model, rows in by_model.items()]


def _small_model(base: str, row: TableRow) -> str | None:
    """The small counterpart of a base model; None without one, or if it lacks the site of the row's block.

    After the second of three convolutions there is no place in blocks that have two.
    """
    return None if row.options.get("position") == "after_conv2" else _SMALL_MODELS.get(base)


def _series(model: str, rows: Sequence[tuple[str, TableRow]], *, small: bool) -> Series:
    found: dict[str, Variant] = {BASELINE: Variant(None)}
    names: dict[tuple[str, str], str] = {}
    for table, row in rows:
        variant = row_variant(row, small=small)
        names[table, row.label] = next((name for name, other in found.items() if other == variant), row.label)
        found.setdefault(names[table, row.label], variant)
    return Series(model, found, names)


def row_variant(row: TableRow, *, small: bool) -> Variant:
    """Return the block of a row; equal for rows with the same block.

    Args:
        row: of a table.
        small: small scale.

    Returns:
        The block with options and placement.
    """
    given: dict[str, Any] = {**published_placement(*split_name(row.model)), **row.options}
    chosen = {name: value for name, value in given.items() if value != _USUAL.get(name)}
    block = chosen.pop("block", None)
    if block is None:
        return Variant(None)
    if small and "ratio" in chosen:
        chosen["ratio"] *= SMALL_RATIO / _USUAL["ratio"]
    if small and "stages" in chosen:
        chosen["stages"] = tuple(_SMALL_STAGES[stage] for stage in chosen["stages"])
    placement = {name: value for name, value in chosen.items() if name in _PLACEMENT}
    return Variant(
        block, tuple(f"{name}={value}" for name, value in chosen.items() if name not in placement), placement
    )
