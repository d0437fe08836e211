"""Clipping, overlap and suppression of boxes under the two meanings of their right and bottom coordinates."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms, box_iou


@dataclass(frozen=True)
class BoxCoordinates:
    """Meaning of the right and bottom coordinates of boxes.

    Attributes:
        pixel: width of a box in pixels minus the difference of its left and right coordinates: 0 if they are edges, 1
            if they are the indices of the first and last pixel, as in mmdet 1.
    """

    pixel: float

    def edges(self, boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
        """Convert boxes to edges, whose difference is their width and height.

        Args:
            boxes: left, top, right, bottom in pixels, in these coordinates.

        Returns:
            The edges in pixels; `boxes` itself where they are edges already.
        """
        return boxes + boxes.new_tensor([0.0, 0.0, self.pixel, self.pixel]) if self.pixel else boxes

    def from_edges(self, edges: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
        """Convert edges to boxes in these coordinates, the inverse of `edges`.

        Args:
            edges: left, top, right, bottom in pixels.

        Returns:
            The boxes in pixels.
        """
        return edges - edges.new_tensor([0.0, 0.0, self.pixel, self.pixel]) if self.pixel else edges

    def clip(
        self, boxes: Float[Tensor, "*n 4"], shape: tuple[int, int] | tuple[Tensor, Tensor]
    ) -> Float[Tensor, "*n 4"]:
        """Clip boxes to an image.

        Args:
            boxes: in these coordinates, in pixels.
            shape: height and width of the image in pixels, whole numbers or scalar tensors ().

        Returns:
            The clipped boxes, in these coordinates.
        """
        height, width = shape
        x = boxes[..., 0::2].clamp(min=0).clamp(max=width - self.pixel)
        y = boxes[..., 1::2].clamp(min=0).clamp(max=height - self.pixel)
        return torch.stack([x, y], dim=-1).flatten(-2)

    def have_area(self, boxes: Float[Tensor, "*n 4"]) -> Bool[Tensor, "*n"]:
        """Return which boxes, in these coordinates, have a width and a height above zero."""
        edges = self.edges(boxes)
        return (edges[..., 2:] > edges[..., :2]).all(dim=-1)

    def iou(self, boxes: Float[Tensor, "n 4"], others: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
        """Return the intersection over union of all pairs, in [0, 1].

        Args:
            boxes: in these coordinates, in pixels.
            others: likewise.
        """
        return box_iou(self.edges(boxes), self.edges(others))

    def suppress(
        self, boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], groups: Int[Tensor, " n"], threshold: float
    ) -> Int[Tensor, " k"]:
        """Apply non-maximum suppression within each group.

        Args:
            boxes: in these coordinates, in pixels.
            scores: of the boxes.
            groups: level or class of each box.
            threshold: IoU above which the box with the lower score is removed, in [0, 1].

        Returns:
            Indices of the boxes that are kept, by descending score.
        """
        return batched_nms(self.edges(boxes), scores, groups, threshold)


EDGES = BoxCoordinates(pixel=0.0)
"""Right and bottom are edges, as in torchvision, in mmdet 2 and 3 and in the results of every detector here."""

PIXELS = BoxCoordinates(pixel=1.0)
"""Right and bottom are indices of the last pixel, as in mmdet 1."""
