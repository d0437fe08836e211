"""Batch norms that see a single value per channel, and so have no variance."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcnet.compilation import uncompiled
from gcnet.framework.fixed_batch_norm import FixedBatchNorm2d

_OTHERS = (nn.SyncBatchNorm, FixedBatchNorm2d)  # with the statistics of all processes, or fixed ones


def training_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch norms of `network` in training mode with statistics of this process only, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, _OTHERS) and module.training
    }


@contextmanager
def single_values_seen(norms: Mapping[str, _BatchNorm]) -> Generator[list[str]]:
    """Record batch norms that are called with a single value per channel.

    Args:
        norms: by name.

    Yields:
        The names of such norms, filled in as they are called.
    """
    names: list[str] = []
    with _watched(norms, lambda name, _: names.append(name)):
        yield names


@contextmanager
def running_statistics_for_single_values(network: nn.Module) -> Generator[list[str]]:
    """Let batch norms in training mode use their running statistics for inputs with a single value per channel.

    PyTorch raises an error for such inputs. The running statistics are not updated by them.

    Args:
        network: in training mode.

    Yields:
        The names of such norms, filled in as they are called.
    """
    norms = training_norms(network)
    names: list[str] = []

    def use_running_statistics(name: str, norm: _BatchNorm) -> None:
        names.append(name)
        norm.eval()

    try:
        with uncompiled(network), _watched(norms, use_running_statistics):
            yield names
    finally:
        for name in names:
            norms[name].train()


@contextmanager
def _watched(norms: Mapping[str, _BatchNorm], act: Callable[[str, _BatchNorm], None]) -> Generator[None]:
    def watch(name: str, norm: _BatchNorm) -> Any:
        def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            values = inputs[0]
            if isinstance(values, Tensor) and values.ndim >= 2 and values.numel() == values.shape[1]:
                act(name, norm)

        return norm.register_forward_pre_hook(before)

    hooks = [watch(name, norm) for name, norm in norms.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
