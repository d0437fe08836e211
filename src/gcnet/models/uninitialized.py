"""Networks without random initialization, for weights that are loaded next."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch.overrides import TorchFunctionMode

_RANDOM = frozenset(
    ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_", "trunc_normal_")
)


class Uninitialized(TorchFunctionMode):
    """Context in which networks are built without random initial weights.

    Drawing the weights of a ResNet-50 takes longer than loading them, and on the meta device it imports torch._dynamo.

    Example:
        >>> with Uninitialized():
        ...     model = gcnet.create_model("gc_cifar_resnet20")
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,  # noqa: ARG002
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """Return the tensor of a random initialization unchanged; call anything else."""
        if getattr(func, "__name__", "") in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
