"""A batch of objects of all sizes, proposals around them, and random maps of the pyramid."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

SHAPES = ((640, 560), (509, 640))
"""Height and width of the images; the batch is padded to 640 x 640 pixels."""
SIDE, STRIDES = 640, (4, 8, 16, 32, 64)
CHANNELS = 16


def write_batch(folder: Path, *, seed: int) -> None:
    """Write `inputs.safetensors` for `original/detector_losses.py`."""
    generator = torch.Generator().manual_seed(seed)
    content = {
        f"map.{level}": torch.randn(len(SHAPES), CHANNELS, SIDE // stride, SIDE // stride, generator=generator)
        for level, stride in enumerate(STRIDES)
    }
    for image, shape in enumerate(SHAPES):
        boxes = _objects(shape, generator)
        content[f"boxes.{image}"] = boxes
        content[f"labels.{image}"] = torch.randint(80, (len(boxes),), generator=generator)
        content[f"masks.{image}"] = _ellipses(boxes)
        content[f"proposals.{image}"] = _proposals(boxes, shape, generator)
    save_file(content, folder / "inputs.safetensors")


def _objects(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Boxes of 5 to 500 pixels; a narrow one, and two that almost coincide."""
    sides = torch.tensor([[5, 6], [4, 90], [30, 40], [60, 70], [61, 70], [130, 110], [250, 230], [470, 480]])
    size = torch.tensor([shape[1], shape[0]])
    corners = torch.rand(len(sides), 2, generator=generator) * (size - sides)
    corners[4] = corners[3] + torch.tensor([3.0, 2.0])
    boxes = torch.cat([corners, corners + sides], dim=1)
    return boxes.minimum(size.repeat(2))


def _ellipses(boxes: Tensor) -> Tensor:
    """Masks (K, SIDE, SIDE) of 0 and 1."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    left, top, right, bottom = boxes[:, :, None, None].unbind(1)
    across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
    return (across**2 + down**2 <= 1).to(torch.uint8)


def _proposals(boxes: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Objects moved and scaled at random, and boxes anywhere; below 512, so that all background RoIs are samples."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(12, 2)
    near = boxes.repeat(12, 1) + 0.08 * sides * torch.randn(len(sides), 4, generator=generator)
    size = torch.tensor([shape[1], shape[0]])
    ends = torch.rand(250, 2, 2, generator=generator).sort(dim=1).values * size
    proposals = torch.cat([near, ends.flatten(1)]).clamp(min=0).minimum(size.repeat(2))
    return proposals[(proposals[:, 2:] > proposals[:, :2]).all(1)]
