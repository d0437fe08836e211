"""The one table of tolerances, and the comparison that uses it."""

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def assert_equal_within(
    actual: Tensor, expected: Tensor, dtype: torch.dtype, what: str = "values", *, scale: float = 1.0
) -> None:
    """The largest difference is within the tolerance of `dtype`, times the largest expected value (`scale` or more)."""
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    assert actual.isfinite().all(), f"{what} are not finite"
    if actual.numel() == 0:
        return
    difference = (actual.double() - expected.double()).abs().max().item()
    allowed = TOLERANCE[dtype] * max(scale, expected.double().abs().max().item())
    assert difference <= allowed, f"{what} differ by {difference:.2e}, allowed {allowed:.2e}"
