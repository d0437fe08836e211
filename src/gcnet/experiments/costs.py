"""The columns of parameters and multiply-adds of a table, counted."""

from dataclasses import dataclass

import torch

from gcnet.analysis.cost import count_detector_flops, count_flops, count_parameters
from gcnet.experiments.rows import Row, Table
from gcnet.models.create import create_model
from gcnet.models.names import is_detector


@dataclass(frozen=True)
class RowCost:
    """What a row's network costs: parameters, and FLOPs of one image, a multiply-add being two."""

    row: Row
    parameters: int
    flops: int


def count_table(table: Table) -> list[RowCost]:
    """The cost of every row, on images of the table's size; of a detector with 1000 boxes and 100 masks."""
    return [_count(row, table.size) for row in table.rows]


def _count(row: Row, size: tuple[int, int]) -> RowCost:
    with torch.device("meta"):
        model = create_model(row.model, **row.options)
    flops = count_detector_flops(model, size) if is_detector(row.model) else count_flops(model, (1, 3, *size))
    return RowCost(row, count_parameters(model), flops)
