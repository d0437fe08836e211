"""Batch norms that see a single value per channel, and so have no variance."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def training_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms in training mode whose statistics are of this process' images alone, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm) and module.training
    }


@contextmanager
def single_values_seen(norms: Mapping[str, _BatchNorm]) -> Generator[list[str]]:
    """Inside, a list of the names of the norms that were called with a single value per channel."""
    names: list[str] = []
    with _watched(norms, lambda name, _: names.append(name)):
        yield names


@contextmanager
def running_statistics_for_single_values(network: nn.Module) -> Generator[list[str]]:
    """Inside, a norm in training mode that gets a single value per channel normalizes by its running statistics.

    PyTorch would raise an error. The running statistics stay as they are. Yields the names of these norms.
    """
    norms = training_norms(network)
    names: list[str] = []

    def use_running_statistics(name: str, norm: _BatchNorm) -> None:
        names.append(name)
        norm.eval()

    try:
        with _watched(norms, use_running_statistics):
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
