"""Networks without random initialization, for weights that are loaded next."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_RANDOM = frozenset(
    ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_", "trunc_normal_")
)
_DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)


class Uninitialized(TorchFunctionMode):
    """Context in which networks are built without random initial weights.

    Drawing the weights of a ResNet-50 takes longer than loading them, and on the meta device it imports torch._dynamo.
    The random state of PyTorch stays as it is.

    Example:
        >>> with Uninitialized():
        ...     model = gcnet.create_model("gc_cifar_resnet20")
    """

    def __init__(self) -> None:
        super().__init__()
        self._generator = torch.Generator()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,  # noqa: ARG002
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """Return the tensor of a random initialization, without random values; call anything else."""
        if getattr(func, "__name__", "") not in _RANDOM:
            return func(*args, **kwargs)
        tensor = args[0] if args else kwargs["tensor"]
        if func in _DRAWS and not tensor.is_meta:
            # One number for all elements: `trunc_normal_` draws again until all are within its range.
            one = torch.empty(1, dtype=tensor.dtype)
            tensor.fill_(func(one, *args[1:], **{**kwargs, "generator": self._generator}).item())
        return tensor
