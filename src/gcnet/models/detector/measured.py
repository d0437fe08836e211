"""Networks as the measurements of time and memory take them: a batch of images in, one tensor out."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_OBJECTS = 8
_CERTAIN = 20.0  # a logit beside which all others count for nothing


class MeasuredDetector(nn.Module):
    """A detector whose work does not depend on what it has learned, for measuring time and memory.

    In training mode it maps images (N, 3, H, W) to the sum of its losses on made-up objects, shape (); in evaluation
    mode to what it finds. It takes every region for an object of the first class, so that all detections that it may
    give are kept and get a mask, as those of a trained one do and those of a new one do not.

    Arguments:
        detector: of `gcnet.models.detector.mask_rcnn.build_mask_rcnn`; it is changed.
        num_classes: classes of objects.
    """

    def __init__(self, detector: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.detector, self.num_classes = detector, num_classes
        transform: Any = detector.transform
        transform.min_size = transform.min_size[-1:]  # of several sizes, training would draw one at random
        for name, parameter in detector.named_parameters():
            if name.endswith("box_predictor.cls_score.bias"):
                parameter.data[1] += _CERTAIN

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Any:
        """The sum of the losses in training mode, else detections."""
        if not self.training:
            return self.detector(list(images))
        losses = self.detector(list(images), [self._objects(image) for image in images])
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def _objects(self, image: Float[Tensor, "3 height width"]) -> dict[str, Tensor]:
        """The same objects for every image of a size: rectangles of a third of its sides, along a diagonal."""
        height, width = image.shape[-2:]
        boxes = torch.zeros(_OBJECTS, 4)
        masks = torch.zeros(_OBJECTS, height, width, dtype=torch.uint8)
        for index in range(_OBJECTS):
            start = 2 / 3 * index / (_OBJECTS - 1)
            left, top = int(start * width), int(start * height)
            right, bottom = left + max(width // 3, 1), top + max(height // 3, 1)
            boxes[index] = torch.tensor([left, top, right, bottom])
            masks[index, top:bottom, left:right] = 1
        labels = torch.arange(_OBJECTS) % self.num_classes + 1
        return {
            name: value.to(image.device) for name, value in (("boxes", boxes), ("labels", labels), ("masks", masks))
        }
