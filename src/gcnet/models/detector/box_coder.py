"""Coders of box deltas."""

from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from gcnet.models.detector.coordinates import PIXELS


class ClampedBoxCoder(BoxCoder):
    """torchvision's `BoxCoder` with the width and height ratios clamped on both sides, to 16/1000 and 1000/16."""

    def decode_single(
        self, rel_codes: Float[Tensor, "n deltas"], boxes: Float[Tensor, "n 4"]
    ) -> Float[Tensor, "n deltas"]:
        deltas = rel_codes.clone().unflatten(1, (-1, 4))  # (N, K, 4)
        for axis in (2, 3):
            deltas[..., axis].clamp_(min=-self.bbox_xform_clip * self.weights[axis])
        return super().decode_single(deltas.flatten(1), boxes)


class PixelBoxCoder(ClampedBoxCoder):
    """`ClampedBoxCoder` of mmdet 1, for boxes whose right and bottom are their last pixel."""

    def encode_single(
        self, reference_boxes: Float[Tensor, "n 4"], proposals: Float[Tensor, "n 4"]
    ) -> Float[Tensor, "n 4"]:
        return super().encode_single(PIXELS.edges(reference_boxes), PIXELS.edges(proposals))

    def decode_single(
        self, rel_codes: Float[Tensor, "n deltas"], boxes: Float[Tensor, "n 4"]
    ) -> Float[Tensor, "n deltas"]:
        return PIXELS.from_edges(super().decode_single(rel_codes, PIXELS.edges(boxes)).unflatten(1, (-1, 4))).flatten(1)
