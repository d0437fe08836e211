"""Transforms of a context, `(N, C', ...) -> (N, C, ...)`: bottleneck and norms; the simplest is `Pointwise`."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcnet.framework.pointwise import Pointwise


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of a channels-first map (arXiv 1607.06450).

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, input: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
        last = input.dim() - 1  # The older ONNX exporter needs axes counted from the front.
        channels_last = input.movedim(1, last)
        return F.layer_norm(channels_last, self.normalized_shape, self.weight, self.bias, self.eps).movedim(last, 1)


class BatchStandardization(_BatchNorm):
    """Batch normalization for any number of axes, with beta and, by default, gamma initialized to zero.

    Neither a `BatchNorm2d` for `isinstance` nor named like one, so a base model that initializes norms by type or class
    name does not change it; `convert_sync_batchnorm` converts it.

    Args:
        channels: C.
        gamma: initial gamma.
    """

    def __init__(self, channels: int, *, gamma: float = 0.0) -> None:
        self._gamma = gamma
        super().__init__(channels)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.weight, self._gamma)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 3, 4, 5):
            raise ValueError(
                f"batch normalization takes (N, C, *S) with up to 3 spatial axes, found {input.dim()} axes"
            )


class Bottleneck(nn.Module):
    """`W2 relu(norm(W1 c))`: with LayerNorm the transform of GC (arXiv 1904.11492, eq. 5), without it that of SE.

    Args:
        reduce: C' -> width.
        norm: norm of `width` channels, or `nn.Identity()`.
        expand: width -> C.
    """

    def __init__(self, reduce: Pointwise, norm: nn.Module, expand: Pointwise) -> None:
        super().__init__()
        self.reduce = reduce
        self.norm = norm
        self.expand = expand

    def forward(self, context: Float[Tensor, "n c_in *s"]) -> Float[Tensor, "n c_out *s"]:
        return self.expand(F.relu(self.norm(self.reduce(context))))
