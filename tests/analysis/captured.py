"""Attention captured in a forward pass, and its product with values."""

import torch
from torch import Tensor, nn

from gcnet.analysis.attention import Attention
from gcnet.analysis.capture import capture


def captured(model: nn.Module, images: Tensor, **options) -> list[tuple[str, Attention]]:
    with torch.no_grad(), capture(model, **options) as found:
        model(images)
    return found.attention


def heads_times_values(weights: Tensor, values: Tensor) -> Tensor:
    """(N, heads, P, K) and (N, K, heads * d) -> (N, P, heads * d), head by head."""
    parts = values.chunk(weights.shape[1], dim=-1)
    return torch.cat([weights[:, head] @ part for head, part in enumerate(parts)], dim=-1)
