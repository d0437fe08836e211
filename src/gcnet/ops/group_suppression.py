"""Non-maximum suppression of groups of boxes as an operator whose result has a fixed size."""

import torch
from torch import Tensor
from torchvision.ops import nms

_SCHEMA = "(Tensor boxes, Tensor scores, float threshold) -> Tensor"


@torch.library.custom_op("gcnet::suppress_groups", mutates_args=(), schema=_SCHEMA)
def suppress_groups(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Apply non-maximum suppression within each group.

    Exported programs hold it as one node.

    Args:
        boxes: left, top, right, bottom of the boxes of each group in pixels, (G, B, 4).
        scores: of the boxes, (G, B), from 0 to 1; boxes with a negative score are ignored.
        threshold: IoU above which the box with the lower score is removed, in [0, 1].

    Returns:
        Which boxes are kept, (G, B), bool.
    """
    result = torch.zeros_like(scores, dtype=torch.bool)
    groups, rows = torch.nonzero(scores >= 0, as_tuple=True)
    if not len(rows):
        return result
    flat = boxes[groups, rows].double()  # in float64 the distance between groups changes no overlap
    distance = 2 * flat.abs().amax() + 1
    kept = nms(flat + (groups * distance)[:, None], scores[groups, rows].double(), threshold)
    result[groups[kept], rows[kept]] = True
    return result


@suppress_groups.register_fake
def _(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(scores, dtype=torch.bool)
