"""Example inputs: the given one, or zeros of the size that the network names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from gcnet.errors import UserError

_BATCH = 2
_SIZES = {1: (1024,), 2: (224, 224), 3: (16, 224, 224)}


@dataclass(frozen=True)
class Example:
    """The arguments of one forward pass; `str()` gives the shapes of their tensors."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Example":
        """The same arguments with `function` applied to every tensor."""
        args, kwargs = tree_map_only(Tensor, function, (self.args, dict(self.kwargs)))
        return Example(args, kwargs)

    def to(self, device: torch.device | str) -> "Example":
        """The same arguments on another device; tensors without values (device "meta") become zeros."""

        def move(tensor: Tensor) -> Tensor:
            return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

        return self.map(move)

    def __str__(self) -> str:
        return ", ".join(str(tuple(tensor.shape)) for tensor in self.tensors) or "the example_input"


def find_examples(model: nn.Module, given: Any) -> list[Example]:
    """The inputs to try, in this order.

    Args:
        model: the network.
        given: as `example_input` of `insert`.

    Raises:
        UserError: a shape with a side below 1, or a text, a number or an array.
    """
    if given is None:
        likely = [_zeros(model, (_BATCH, *shape)) for shape in dict.fromkeys(_likely_shapes(model))]
        # torchvision's detectors, and those built like them, take a list of images.
        is_detector = hasattr(model, "transform") and hasattr(model, "backbone")
        return [Example((list(batch.tensors[0]),)) for batch in likely] if is_detector else likely
    if isinstance(given, Example):
        return [given]
    if isinstance(given, str | int | float) or hasattr(given, "__array_interface__"):
        found = f"a numpy array of shape {given.shape}" if hasattr(given, "shape") else repr(given)
        raise UserError(f"`example_input` must be a tensor, a shape, or a tuple or dict of arguments; found {found}")
    if isinstance(given, Sequence) and given and all(isinstance(side, int) for side in given):
        if min(given) < 1:
            raise UserError(f"example_input: every side of a shape must be at least 1, found {tuple(given)}")
        return [_zeros(model, shape) for shape in ((_BATCH, *given), tuple(given))]
    if isinstance(given, Mapping):  # Keyword arguments, or one argument that is a dict.
        named = [Example(kwargs=dict(given))] if all(isinstance(key, str) for key in given) else []
        return [*named, Example((given,))]
    return [Example(given if isinstance(given, tuple) else (given,))]


def _zeros(model: nn.Module, shape: Sequence[int]) -> Example:
    floats = (tensor.dtype for tensor in model.parameters() if tensor.is_floating_point())
    return Example((torch.zeros(*shape, dtype=next(floats, torch.float32), device="cpu"),))


def _likely_shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes without the batch: those that the network names, then those that suit its first convolution."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd))
    first = next(convolutions, None)
    channels, dims = (3, 2) if first is None else (first.in_channels, first.weight.dim() - 2)
    for size in _named_sizes(model):
        if isinstance(size, int):
            yield (channels, size, size)
        elif isinstance(size, Sequence) and size and all(isinstance(side, int) for side in size):
            yield (channels, *size)
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, dict) else None
        if size is not None:
            yield (channels, *size[1:])
            yield tuple(size)
    yield (channels, *_SIZES[dims])
    yield (3, *_SIZES[2])


def _named_sizes(model: nn.Module) -> Iterator[Any]:
    """Image sizes where timm, torchvision and Hugging Face keep them."""
    yield getattr(getattr(model, "patch_embed", None), "img_size", None)
    yield getattr(model, "image_size", None)
    config: Any = getattr(model, "config", None)
    for holder in (config, getattr(config, "vision_config", None)):
        yield holder.get("image_size") if isinstance(holder, dict) else getattr(holder, "image_size", None)
