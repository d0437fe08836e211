"""The last layers of the heads, which speak in float32 at least, whatever precision they compute in.

Coordinates need it: in bfloat16 a corner at 800 pixels would be off by up to two, and each score from 0.998 on be 1.
"""

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead


class ProposalHead(RPNHead):
    """torchvision's, of the region proposal network."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [_precise(level) for level in logits], [_precise(level) for level in deltas]


class BoxPredictor(FastRCNNPredictor):
    """torchvision's, of classes and boxes."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = super().forward(x)
        return _precise(logits), _precise(deltas)


class MaskPredictor(MaskRCNNPredictor):
    """torchvision's, of masks."""

    def forward(self, input: Tensor) -> Tensor:
        return _precise(super().forward(input))


def _precise(found: Tensor) -> Tensor:
    return found.to(torch.promote_types(found.dtype, torch.float32))
