"""Random weights with which the maps of a network are of order one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (nn.modules.batchnorm._BatchNorm,)


@torch.no_grad()
def randomize(network: nn.Module, run: Any, *, seed: int, spread: Mapping[str, float]) -> None:
    """Draw all weights and statistics anew, each layer scaled by its outputs in the first call.

    Args:
        network: in evaluation mode, changed in place.
        run: a function without arguments that runs the network.
        seed: of the random numbers.
        spread: standard deviation of the outputs of layers by a part of their name; 1 for others.
    """
    generator = torch.Generator().manual_seed(seed)
    handles = []
    for name, module in network.named_modules():
        deviation = next((spread[part] for part in reversed(name.split(".")) if part in spread), 1.0)
        if isinstance(module, _LAYERS):
            module.weight.normal_(generator=generator)
            if module.bias is not None:
                module.bias.zero_()
            handles.append(_scale_first_output(module, deviation, generator))
        elif isinstance(module, _NORMS):
            handles.append(_take_statistics(module, deviation, generator))
        elif isinstance(module, nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.2, generator=generator)
    run()
    for handle in handles:
        handle.remove()


def _scale_first_output(layer: Any, spread: float, generator: torch.Generator) -> Any:
    """At the first call of `layer`, scale its weights for outputs with the given deviation and draw its bias."""

    def hook(layer: Any, _: Any, output: Tensor) -> Tensor:
        handle.remove()
        scale = spread / output.std().clamp(min=1e-6) if output.numel() > 1 else torch.tensor(1.0)
        layer.weight.mul_(scale)
        if layer.bias is None:
            return output * scale
        layer.bias.normal_(0, 0.2 * spread, generator=generator)
        return output * scale + layer.bias.view(-1, *[1] * (output.dim() - 2))

    handle = layer.register_forward_hook(hook)
    return handle


def _take_statistics(norm: Any, spread: float, generator: torch.Generator) -> Any:
    """At the first call of `norm`, take statistics near those of its input, and draw scale and shift."""

    def hook(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        handle.remove()
        rest = [axis for axis in range(inputs[0].dim()) if axis != 1]
        noise = torch.empty_like(norm.running_mean)
        norm.running_mean.copy_(inputs[0].mean(rest)).add_(noise.normal_(0, 0.1, generator=generator))
        norm.running_var.copy_(inputs[0].var(rest).clamp(min=1e-3)).mul_(noise.uniform_(0.7, 1.4, generator=generator))
        norm.weight.copy_(noise.uniform_(0.5 * spread, 1.5 * spread, generator=generator))
        norm.bias.copy_(noise.normal_(0, 0.2 * spread, generator=generator))

    handle = norm.register_forward_pre_hook(hook)
    return handle
