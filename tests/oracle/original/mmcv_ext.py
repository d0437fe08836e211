"""Stand-in for mmcv's compiled operators (`mmcv._ext`), which mmcv-lite lacks, through torchvision's."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d, roi_align
from torchvision.ops import nms as torchvision_nms


def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that are kept, by descending score."""
    if offset != 0:
        raise NotImplementedError("non-maximum suppression with an offset")
    return torchvision_nms(boxes, scores, iou_threshold)


def roi_align_forward(
    features: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options: Any
) -> None:
    """Write the pooled RoIs into `output`."""
    del argmax_y, argmax_x
    output.copy_(_roi_align(features, rois, **options))


def roi_align_backward(
    output_gradient: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, gradient: Tensor, **options: Any
) -> None:
    """Write the gradient of the features into `gradient`; pooling is linear, so it does not depend on them."""
    del argmax_y, argmax_x
    with torch.enable_grad():
        features = torch.zeros_like(gradient, requires_grad=True)
        pooled = _roi_align(features, rois, **options)
    gradient.copy_(torch.autograd.grad(pooled, features, output_gradient)[0])


def _roi_align(
    features: Tensor,
    rois: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> Tensor:
    if pool_mode != 1:
        raise NotImplementedError("RoIAlign by maximum")
    return roi_align(features, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)


def deform_conv_forward(
    features: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **options: int
) -> None:
    """Write the deformable convolution (DCNv1) into `output`."""
    del columns, ones
    geometry = {
        "stride": (options["dH"], options["dW"]),
        "padding": (options["padH"], options["padW"]),
        "dilation": (options["dilationH"], options["dilationW"]),
    }
    output.copy_(deform_conv2d(features, offset, weight, **geometry))


def modulated_deform_conv_forward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    **options: int,
) -> None:
    """Write the modulated deformable convolution (DCNv2) into `output`."""
    del ones, columns
    geometry = {
        name: (options[f"{short}_h"], options[f"{short}_w"])
        for name, short in (("stride", "stride"), ("padding", "pad"), ("dilation", "dilation"))
    }
    bias_or_none = bias if options["with_bias"] else None
    output.copy_(deform_conv2d(features, offset, weight, bias_or_none, **geometry, mask=mask))


_OPERATORS = (nms, roi_align_forward, roi_align_backward, deform_conv_forward, modulated_deform_conv_forward)


class _Operators(ModuleType):
    """A module that has every name; operators that are not written here raise when called."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"mmcv._ext.{name}")

        return missing


def install() -> None:
    """Make `import mmcv._ext` give these operators; call it before anything imports mmcv."""
    module = _Operators("mmcv._ext")
    for operator in _OPERATORS:
        setattr(module, operator.__name__, operator)
    sys.modules["mmcv._ext"] = module
