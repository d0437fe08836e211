"""What the heads say under autocast: float32, of what half precision computed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gcnet.models.detector.heads import BoxPredictor, MaskPredictor, ProposalHead


def box_predictor() -> tuple[nn.Module, Tensor]:
    return BoxPredictor(8, 3), torch.randn(4, 8)


def mask_predictor() -> tuple[nn.Module, Tensor]:
    return MaskPredictor(8, 8, 3), torch.randn(4, 8, 5, 5)


def proposal_head() -> tuple[nn.Module, list[Tensor]]:
    return ProposalHead(8, 3), [torch.randn(2, 8, 5, 7)]


def tensors(outputs: Tensor | tuple | list) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [tensor for part in outputs for tensor in tensors(part)]


@pytest.mark.parametrize("make", [box_predictor, mask_predictor, proposal_head])
def test_heads_return_float32_after_computing_in_half_precision(make: Callable) -> None:
    torch.manual_seed(0)
    head, features = make()
    expected = tensors(head(features))
    with torch.autocast("cpu", torch.bfloat16):
        found = tensors(head(features))
    for half, single in zip(found, expected, strict=True):
        assert half.dtype == torch.float32
        assert not torch.equal(half, single)
        torch.testing.assert_close(half, single, rtol=0.05, atol=0.05)
