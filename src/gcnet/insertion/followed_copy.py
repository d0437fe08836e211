"""`FollowedCopy`: a copy of a network that is made again when the network changes."""

from collections.abc import Callable, Iterator
from itertools import chain
from threading import Lock
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from gcnet.insertion.hook import ContextHook


class FollowedCopy:
    """A copy of a network, made at the first use, and again after a change of the network.

    Changes are new values, dtypes or devices of tensors, replaced modules and hooks. A change through `tensor.data` or
    of a plain attribute of a module is not noticed.

    Args:
        model: the network.
        make: makes the copy; may return the network itself.
    """

    def __init__(self, model: nn.Module, make: Callable[[nn.Module], nn.Module]) -> None:
        self.model, self.make = model, make
        self._lock = Lock()
        self._copy: tuple[_State, nn.Module] | None = None

    def __call__(self) -> nn.Module:
        """Return the copy of the network as it is now."""
        state = _State(self.model)
        with self._lock:
            if self._copy is None or self._copy[0].key != state.key:
                self._copy = state, self.make(self.model)
            return self._copy[1]

    def __reduce__(self) -> tuple[type["FollowedCopy"], tuple[nn.Module, Callable[[nn.Module], nn.Module]]]:
        """Copies and pickles make their copy of the network anew."""
        return FollowedCopy, (self.model, self.make)


class _State:
    """Which objects a network consists of, and the versions of its tensors.

    The objects are kept, so that no new one takes the address of another.
    """

    def __init__(self, model: nn.Module) -> None:
        self.objects = list(_parts(model))
        self.key = [(id(part), _version(part)) for part in self.objects]


def _parts(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        yield module
        yield from module._parameters.values()
        yield from module._buffers.values()
        yield from module._forward_hooks.values()
        yield from module._forward_pre_hooks.values()
        yield vars(module).get("forward")


def _version(part: Any) -> tuple[Any, ...]:
    if not isinstance(part, Tensor):
        return ()
    return part.data_ptr(), part.dtype, 0 if part.is_inference() else part._version


def has_foreign_hooks(model: nn.Module) -> bool:
    """Whether code other than gcnet's sees or replaces the outputs of modules: forward hooks or `forward` methods.

    Args:
        model: the network.
    """
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        return True
    for module in model.modules():
        hooks = chain(module._forward_hooks.values(), module._forward_pre_hooks.values())
        if "forward" in vars(module) or not all(isinstance(hook, ContextHook) for hook in hooks):
            return True
    return False
