"""Parameters and FLOPs of networks and blocks.

Convention: FLOPs as `torch.utils.flop_counter` counts them, a multiply-add being two, for one image; matrix products,
convolutions and attention are counted, element-wise work, pooling and normalization are not. Papers on vision networks
print multiply-adds under the name "FLOPs" (ResNet-50: 4.1 G), which is half of the number here. A deformable
convolution counts as two convolutions, one of them for the offsets; interpolation is element-wise.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gcnet.blocks import BLOCKS, BlockShape
from gcnet.insertion.model_copies import on_meta

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters of `model`; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Return the FLOPs (multiply-add = 2) of one forward pass in evaluation mode.

    Runs on a copy on the meta device: nothing is computed, and `scaled_dot_product_attention` is counted.

    Args:
        model: the network.
        input_shape: of its input, such as (1, 3, 224, 224).

    Returns:
        Number of FLOPs.
    """
    return _count(as_meta(model), input_shape)


def submodule_input_shapes(
    model: nn.Module, input_shape: Sequence[int], names: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of the first input of submodules in a forward pass.

    Args:
        model: the network.
        input_shape: of its input, such as (1, 3, 224, 224).
        names: of the submodules.

    Returns:
        Shapes by name; submodules that did not run are missing.
    """
    skeleton = as_meta(model)
    shapes: dict[str, tuple[int, ...]] = {}
    with _recording(skeleton, names, shapes):
        _count(skeleton, input_shape)
    return shapes


def analytic_flops(
    name: str, *, channels: int, positions: int, key_positions: int | None = None, **options: Any
) -> int | None:
    """FLOPs of one block by the formula of its `BlockSpec`, for one image, a multiply-add counted as two.

    Args:
        name: of a block, or "none".
        channels: C of the map.
        positions: P of the map.
        key_positions: P' of keys and values, fewer than P where they are sub-sampled.
        options: of the block; options outside of its formula are ignored.

    Returns:
        The number, or None for a block that is not among `gcnet.list_blocks()`.
    """
    if name not in BLOCKS:
        return 0 if name == "none" else None
    spec = BLOCKS[name]
    defaults = signature(spec.build).parameters
    if "reduction" in spec.options:
        hidden = max(channels // options.get("reduction", defaults["reduction"].default), 1)
    else:
        hidden = max(int(channels / options.get("ratio", 16)), 1)
    counted = {option: value for option, value in options.items() if option in signature(spec.flops).parameters}
    shape = BlockShape(channels, positions, hidden, positions if key_positions is None else key_positions)
    return spec.flops(shape, **counted)


def as_meta(model: nn.Module) -> nn.Module:
    """Return a copy of `model` on the meta device, in evaluation mode, without copying any values."""
    with on_meta(model) as skeleton:
        for parameter, original in zip(skeleton.parameters(), model.parameters(), strict=True):
            parameter.requires_grad_(original.requires_grad)
        return skeleton


def _count(skeleton: nn.Module, input_shape: Sequence[int]) -> int:
    skeleton.requires_grad_(False)  # The counter's own hooks fail on views of parameters.
    example = torch.empty(tuple(input_shape), device="meta")
    return total_flops(lambda: skeleton(example)) // input_shape[0]


def total_flops(run: Callable[[], object]) -> int:
    """Return the FLOPs of a call on the meta device.

    Args:
        run: the call.

    Returns:
        Number of FLOPs (multiply-add = 2).
    """
    counter = flop_counter()
    with torch.no_grad(), counter:
        run()
    return counter.get_total_flops()


def flop_counter() -> "FlopCounterMode":
    """Return the FLOP counter of PyTorch, extended by operations that it does not count."""
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton

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
