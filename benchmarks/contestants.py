"""Who is measured: blocks and networks of ours, the same of mmcv and timm, and a copy of the input.

Other libraries are imported where they are built, so that a fresh process reads only what it measures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.shapes import Shape
from gcnet.analysis.timing import PLAIN, Precision, fill_zero_parameters
from gcnet.insertion.fuse import fuse
from gcnet.models.create import create_model
from gcnet.tasks.detection.costs import MeasuredDetector


@dataclass(frozen=True)
class Contestant:
    """A module, the random map or images that it is given, and the other contestants that it is compared with.

    `build` must be picklable: peak memory is measured in a process of its own.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: Shape
    precision: Precision = PLAIN
    against: tuple[str, ...] = ()

    def prepare(self) -> tuple[nn.Module, Tensor]:
        """The module, with random weights where a new one has zeros, and its input."""
        torch.manual_seed(0)
        module = self.build()
        fill_zero_parameters(module)
        return module, torch.randn(self.shape)


class Copy(nn.Module):
    """`y = x`, in new memory: one read and one write, the least that a block can do."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def build_fused(host: str, block: str | None = None) -> nn.Module:
    """A network by `gcnet.fuse`, with a block or without."""
    network = create_model(host, block=block).eval()
    fill_zero_parameters(network)
    return fuse(network)


def build_compiled(build: Callable[[], nn.Module]) -> nn.Module:
    """A network by `torch.compile`, which compiles it in the first call."""
    network = build()
    fill_zero_parameters(network)
    return cast(nn.Module, torch.compile(network))


class Detector(nn.Module):
    """A detector in inference: images (N, 3, H, W) to the boxes of the first one."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        return self.detector(list(images))[0]["boxes"]


def build_fused_detector(name: str, pixels: tuple[int, int]) -> nn.Module:
    """A fused detector of one class, for images of this size."""
    network = create_model(name, num_classes=1, detector={"image_size": pixels}).eval()
    fill_zero_parameters(network)
    return Detector(fuse(network))


def build_mask_rcnn(pixels: int, rois: int) -> nn.Module:
    """Mask R-CNN on ResNet-18 with made-up objects of one class: images to the sum of the losses."""
    options = {"image_size": (pixels, pixels), "rois_per_image": rois}
    return MeasuredDetector(create_model("mask_rcnn_resnet18", num_classes=1, detector=options), 1)
