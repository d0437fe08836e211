"""What a network or a block costs in parameters and arithmetic.

Convention: FLOPs as `torch.utils.flop_counter` counts them, a multiply-add being two, for one image; matrix products,
convolutions and attention are counted, element-wise work, pooling and normalisation are not. Papers on vision networks
print multiply-adds under the name "FLOPs" (ResNet-50: 4.1 G), which is half of the number here. A deformable
convolution counts as a convolution, and the one of its offsets besides; sampling between pixels is element-wise work.
"""

import copy
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gcnet.blocks.channel import channel_kernel_size
from gcnet.errors import UserError


@dataclass(frozen=True)
class BlockShape:
    """The feature map a block works on, and the width of what is inside it."""

    channels: int
    positions: int
    hidden: int
    key_positions: int


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; a parameter that is used twice counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, input_shape: Sequence[int]) -> int:
    """FLOPs (multiply-add = 2) of one forward pass of `model` in evaluation mode on an input of this shape.

    Runs on a copy on the meta device: no arithmetic is done, and `scaled_dot_product_attention` is seen.
    """
    return _count(as_meta(model), input_shape)


def count_block_flops(model: nn.Module, input_shape: Sequence[int], names: Sequence[str]) -> dict[str, int]:
    """FLOPs of the named submodules within one forward pass of `model`, each counted on its own."""
    shapes = submodule_input_shapes(model, input_shape, names)
    return {name: count_flops(model.get_submodule(name), shape) for name, shape in shapes.items()}


def count_detector_flops(
    model: nn.Module, size: tuple[int, int] = (800, 1280), *, proposals: int = 1000, detections: int = 100
) -> int:
    """FLOPs (multiply-add = 2) of a detector of `build_mask_rcnn` for one image of this size.

    Counted are the backbone, the pyramid and the proposals' head over the whole image, the heads of boxes over
    `proposals` regions and those of masks over `detections` regions, in a cascade once for each stage. Pooling of
    regions, suppression, resizing and pasting of masks are not. Real images have as many regions as are found in them.

    Args:
        model: the detector.
        size: height and width in pixels of the image once resized; it is padded to multiples of 32, as ever.
        proposals: regions whose class and box are found.
        detections: regions whose mask is found, if the detector predicts masks.

    Raises:
        UserError: the network is no such detector, or a number is out of range.
    """
    if not hasattr(model, "roi_heads"):
        raise UserError(
            f"count_detector_flops takes a detector, such as mask_rcnn_resnet50; found {type(model).__name__}"
        )
    if min(size) < 1 or min(proposals, detections) < 0:
        raise UserError(
            f"size is at least 1 pixel and regions at least none, found {size}, {proposals} proposals and "
            f"{detections} detections"
        )
    skeleton = as_meta(model)
    return _total(lambda: run_detector(skeleton, size, proposals=proposals, detections=detections))


def run_detector(skeleton: Any, size: tuple[int, int], *, proposals: int, detections: int, images: int = 1) -> None:
    """Run the parts of a detector on the meta device, as far as their work does not depend on what is found.

    Args:
        skeleton: of `as_meta`, in training or in evaluation mode.
        size: height and width of the images, which are padded to the multiple that the detector asks for.
        proposals: regions of all images whose class and box are found.
        detections: regions of all images whose mask is found.
        images: how many.
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
    """Height and width of an image of this size once a detector has padded it."""
    height, width = (math.ceil(side / detector.transform.size_divisible) for side in size)
    return height * detector.transform.size_divisible, width * detector.transform.size_divisible


def submodule_input_shapes(
    model: nn.Module, input_shape: Sequence[int], names: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """The shape of the first input that each named submodule sees in a forward pass of `model`."""
    skeleton = as_meta(model)
    shapes: dict[str, tuple[int, ...]] = {}
    with _recording(skeleton, names, shapes):
        _count(skeleton, input_shape)
    return shapes


def analytic_flops(
    name: str,
    *,
    channels: int,
    positions: int,
    ratio: float = 16,
    pooling: str = "attention",
    fusion: str = "add",
    reduction: int = 2,
    key_positions: int | None = None,
) -> int | None:
    """FLOPs of one block by formula, for one image; None for a block that no formula is written for.

    With C channels, P positions, P' key positions (fewer than P when sub-sampled), D = C / ratio (se, gc, fca) or
    C / reduction (non-local, dnl), k of the filter over channels by ECA's formula, options not named here at their
    defaults, and a multiply-add counted as two:

    * se: 4 C D
    * snl: 4 P C + 2 C^2
    * gc: 4 P C (attention pooling only) + 4 C D for each of its branches
    * nl_embedded_gaussian: 8 P C D + 4 P P' D
    * nl_gaussian: 4 P C D + 4 P P' C (the fused attention takes values as wide as queries)
    * nl_dot_product: 8 P C D + 2 P D^2 + 2 P' D^2 (theta (phi^T g), which is the same sum)
    * nl_concatenation: 8 P C D + 2 P D + 2 P' D (the sum over pairs is done by sorting and running sums)
    * dnl: 8 P C D + 4 P^2 D + 2 P C + 2 P D (the last two for the unary term)
    * gc_slots: 32 P C + 8 C^2 (four slots)
    * gc_eca: 4 P C + 2 C k
    * gc_affine: 4 P C
    * eca: 2 C k
    * ese: 2 C^2
    * fca: 98 C + 4 C D (a grid of 7 x 7)
    * lct, gct, gated_gct, grn, srm, ge: 0 (element-wise work, pooling and normalisation only)
    """
    formula = _FORMULAS.get(name)
    if formula is None:
        return None
    hidden = max(channels // reduction, 1) if name.startswith(("nl_", "dnl")) else max(int(channels / ratio), 1)
    shape = BlockShape(channels, positions, hidden, positions if key_positions is None else key_positions)
    return formula(shape) if name != "gc" else _global_context(shape, pooling, fusion)


def _global_context(shape: BlockShape, pooling: str = "attention", fusion: str = "add") -> int:
    pooled = 4 * shape.positions * shape.channels if pooling == "attention" else 0
    return pooled + (2 if fusion == "both" else 1) * 4 * shape.channels * shape.hidden


def _filter(shape: BlockShape) -> int:
    return 2 * shape.channels * channel_kernel_size(shape.channels, None)


_FORMULAS: dict[str, Callable[[BlockShape], int]] = {
    "none": lambda _: 0,
    "se": lambda s: 4 * s.channels * s.hidden,
    "snl": lambda s: 4 * s.positions * s.channels + 2 * s.channels**2,
    "gc": _global_context,
    "nl_embedded_gaussian": lambda s: (
        8 * s.positions * s.channels * s.hidden + 4 * s.positions * s.key_positions * s.hidden
    ),
    "nl_gaussian": lambda s: 4 * s.positions * s.channels * s.hidden + 4 * s.positions * s.key_positions * s.channels,
    "nl_dot_product": lambda s: (
        8 * s.positions * s.channels * s.hidden + 2 * (s.positions + s.key_positions) * s.hidden**2
    ),
    "nl_concatenation": lambda s: (
        8 * s.positions * s.channels * s.hidden + 2 * (s.positions + s.key_positions) * s.hidden
    ),
    "dnl": lambda s: (
        8 * s.positions * s.channels * s.hidden
        + 4 * s.positions**2 * s.hidden
        + 2 * s.positions * (s.channels + s.hidden)
    ),
    "gc_slots": lambda s: 32 * s.positions * s.channels + 8 * s.channels**2,
    "gc_eca": lambda s: 4 * s.positions * s.channels + _filter(s),
    "gc_affine": lambda s: 4 * s.positions * s.channels,
    "eca": _filter,
    "ese": lambda s: 2 * s.channels**2,
    "fca": lambda s: 98 * s.channels + 4 * s.channels * s.hidden,
    **dict.fromkeys(("lct", "gct", "gated_gct", "grn", "srm", "ge"), lambda _: 0),
}


def as_meta(model: nn.Module) -> nn.Module:
    """A copy on the meta device, where nothing is computed but shapes, in evaluation mode."""
    return copy.deepcopy(model).to("meta").eval()


def _count(skeleton: nn.Module, input_shape: Sequence[int]) -> int:
    skeleton.requires_grad_(False)  # The counter's own hooks fail on views of parameters.
    example = torch.empty(tuple(input_shape), device="meta")
    return _total(lambda: skeleton(example)) // input_shape[0]


def _total(run: Callable[[], object]) -> int:
    """The FLOPs of what `run` does on the meta device."""
    counter = flop_counter()
    with torch.no_grad(), counter:
        run()
    return counter.get_total_flops()


def flop_counter() -> FlopCounterMode:
    """The counter of torch, with the operations that it does not know."""
    return FlopCounterMode(display=False, custom_mapping=_MATRIX_VECTOR | _deformable())


@contextmanager
def _recording(model: nn.Module, names: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> Generator[None]:
    def record(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_: nn.Module, inputs: Any) -> None:
            shapes.setdefault(name, tuple(inputs[0].shape))

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(record(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _matrix_vector_flops(matrix: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


# torch's counter knows matrix-matrix products only, and counts these two as nothing.
_MATRIX_VECTOR = {
    torch.ops.aten.mv: _matrix_vector_flops,
    torch.ops.aten.addmv: lambda _, matrix, *__, **___: 2 * math.prod(matrix),
}


def _deformable() -> dict[Any, Callable[..., int]]:
    """The operation that torch's counter does not know, by torchvision; it is there once torchvision is imported."""
    operation = getattr(torch.ops.torchvision, "deform_conv2d", None)
    return {} if operation is None else {operation: _deformable_flops}


def _deformable_flops(_: Any, weight: Sequence[int], *__: Any, out_shape: Sequence[int], **___: Any) -> int:
    images, _, height, width = out_shape
    return 2 * images * height * width * math.prod(weight)
