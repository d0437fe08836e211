"""Costs of a detector: FLOPs, stages, and forward passes that do not depend on the detections."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.analysis.cost import as_meta, total_flops
from gcnet.analysis.cost_breakdown import body_parts
from gcnet.errors import UserError
from gcnet.tasks.network_costs import NetworkCosts

_PROPOSALS, _DETECTIONS = 1000, 100  # per image, as in `count_detector_flops`


def count_detector_flops(
    model: nn.Module, size: tuple[int, int] = (800, 1280), *, proposals: int = 1000, detections: int = 100
) -> int:
    """Count the FLOPs of a detector for one image; a multiply-add counts as two.

    The count includes the backbone, the feature pyramid, the region proposal network, the box head on `proposals`
    RoIs and the mask head on `detections` RoIs (in a cascade for each stage). It excludes RoI pooling,
    non-maximum suppression, and resizing and pasting of masks. The numbers of RoIs of real images depend on the
    detections.

    Args:
        model: detector of `build_mask_rcnn`.
        size: height and width of the resized image in pixels; padded to multiples of 32, as by the detector.
        proposals: number of RoIs for the box head.
        detections: number of RoIs for the mask head, if there is one.

    Returns:
        FLOPs of one image.

    Raises:
        UserError: the model is not such a detector, or a number is out of range.
    """
    if not hasattr(model, "roi_heads"):
        raise UserError(
            f"count_detector_flops takes a detector, such as mask_rcnn_resnet50; found {type(model).__name__}"
        )
    if min(size) < 1 or min(proposals, detections) < 0:
        raise UserError(
            f"`size` must be at least 1 pixel, `proposals` and `detections` at least 0; found {size}, "
            f"{proposals} proposals and {detections} detections"
        )
    skeleton = as_meta(model)
    return total_flops(lambda: run_detector(skeleton, size, proposals=proposals, detections=detections))


def run_detector(skeleton: Any, size: tuple[int, int], *, proposals: int, detections: int, images: int = 1) -> None:
    """Run a detector on the meta device, with given numbers of RoIs.

    Args:
        skeleton: network of `as_meta`, in training or evaluation mode.
        size: height and width of the images in pixels, before padding.
        proposals: total number of RoIs for the box head.
        detections: total number of RoIs for the mask head.
        images: batch size.
    """
    maps = skeleton.backbone(torch.empty(images, 3, *padded_size(skeleton, size), device="meta"))
    skeleton.rpn.head(list(maps.values()))
    channels = skeleton.backbone.out_channels
    for stage in getattr(skeleton.roi_heads, "stages", [skeleton.roi_heads]):
        boxes = torch.empty(proposals, channels, *stage.box_roi_pool.output_size, device="meta")
        stage.box_predictor(stage.box_head(boxes))
        if stage.has_mask():
            masks = torch.empty(detections, channels, *stage.mask_roi_pool.output_size, device="meta")
            stage.mask_predictor(stage.mask_head(masks))


def padded_size(detector: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Compute the size of an image after padding by a detector.

    Args:
        detector: the detector.
        size: height and width in pixels.

    Returns:
        Height and width in pixels.
    """
    height, width = (math.ceil(side / detector.transform.size_divisible) for side in size)
    return height * detector.transform.size_divisible, width * detector.transform.size_divisible


_OBJECTS = 8
_CERTAIN = 20.0  # a logit that dominates the softmax


class MeasuredDetector(nn.Module):
    """A detector with a fixed amount of work, for measuring time and memory.

    In training mode it maps images (N, 3, H, W) to the sum of the losses on synthetic objects, shape (), in evaluation
    mode to detections. Every region is classified as the first class, so that every image has the maximum number of
    detections and masks, whatever the weights.

    Args:
        detector: detector of `gcnet.models.detector.mask_rcnn.build_mask_rcnn`; it is modified.
        num_classes: number of object classes.
    """

    def __init__(self, detector: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.detector, self.num_classes = detector, num_classes
        transform: Any = detector.transform
        transform.min_size = transform.min_size[-1:]  # training draws one of several sizes at random
        for name, parameter in detector.named_parameters():
            if name.endswith("box_predictor.cls_score.bias"):
                parameter.data[1] += _CERTAIN

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Any:
        if not self.training:
            return self.detector(list(images))
        losses = self.detector(list(images), [self._objects(image) for image in images])
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def _objects(self, image: Float[Tensor, "3 height width"]) -> dict[str, Tensor]:
        """Return the same objects for every image: boxes of a third of its sides, along a diagonal."""
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


class DetectorCosts(NetworkCosts):
    """Costs of detectors."""

    step_images, timed_images = 2, 2
    timed_input = "random images with made-up objects"
    counted_image = "the largest size, with 1,000 proposals and 100 detections,"
    flops_note = (
        "A detector's FLOPs are for an image of this height and width, with 1000 RoIs for the box head and 100\n"
        "for the mask head; the numbers of RoIs of a real image depend on its content."
    )
    notes = ("A detector's FLOPs are with 1000 RoIs and 100 masks, activations with the RoIs sampled in training.",)

    def default_image_size(self, name: str, model: nn.Module) -> tuple[int, int]:  # noqa: ARG002
        """Return a size with sides 5:8, as in the usual 800 x 1280.

        Args:
            name: network name.
            model: the detector.

        Returns:
            Height and width in pixels; the width at most the maximum of the detector.
        """
        transform: Any = model.transform
        short = transform.min_size[-1]
        return short, min(short * 8 // 5, transform.max_size)

    def count_flops(self, model: nn.Module, size: tuple[int, int]) -> int:
        return count_detector_flops(model, size)

    def stages(self, model: nn.Module) -> dict[str, str]:
        """Map the modules of the detector `model` to stages.

        Returns:
            Stage by module path, in the order of the network: the stages of the backbone, `pyramid`, `proposals`,
            `boxes` and, with a mask head, `masks`.
        """
        detector: Any = model
        heads = detector.roi_heads
        parts = body_parts(detector.backbone.body, "backbone.body.")
        parts |= {"backbone.fpn": "pyramid", "rpn.head": "proposals"}
        cascade = [f"roi_heads.stages.{index}." for index in range(len(getattr(heads, "stages", ())))]
        kinds = (("boxes", "box"), ("masks", "mask")) if _has_mask_head(heads) else (("boxes", "box"),)
        for stage, kind in kinds:
            for prefix in cascade or ["roi_heads."]:
                parts |= {f"{prefix}{kind}_{part}": stage for part in ("head", "predictor")}
        return parts

    def run_on_meta(self, skeleton: Any, size: tuple[int, int], images: int) -> None:
        """Run a forward pass on the meta device with as many RoIs as sampled in training, or 1000 with 100 masks.

        Args:
            skeleton: network of `as_meta`.
            size: height and width of the images in pixels, before padding.
            images: batch size.
        """
        proposals, detections = images * _PROPOSALS, images * _DETECTIONS
        if skeleton.training:
            sampler = getattr(skeleton.roi_heads, "stages", [skeleton.roi_heads])[0].fg_bg_sampler
            proposals = images * sampler.batch_size_per_image
            detections = int(proposals * sampler.positive_fraction)
        run_detector(skeleton, size, proposals=proposals, detections=detections, images=images)

    def body(self, model: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, str, tuple[int, int]]:
        detector: Any = model
        return detector.backbone, "backbone.", padded_size(model, size)

    def measured(self, model: nn.Module, num_classes: int, size: tuple[int, int] | None = None) -> nn.Module:
        if size is not None:
            transform: Any = model.transform
            transform.min_size, transform.max_size = (min(size),), max(size)
        return MeasuredDetector(model, num_classes)


def _has_mask_head(heads: Any) -> bool:
    return getattr(heads, "stages", [heads])[0].has_mask()
