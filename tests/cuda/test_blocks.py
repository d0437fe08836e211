"""Every block, forward and backward, in each dtype and memory format, against float64 on the CPU."""

import pytest
import torch

from cuda.closeness import assert_near_float64, results
from gcnet.errors import UserError
from gcnet.training.trial import refuse_nondeterministic
from named_blocks import every, make
from random_weights import randomize

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bf16", "fp16"])
@every
def test_forward_and_backward_are_near_float64(
    name: str, dtype: torch.dtype, layout: str, device: torch.device
) -> None:
    block = randomize(make(name)).eval()
    assert_near_float64(block, (torch.randn(2, 22, 5, 7) + 1).to(dtype), device, LAYOUTS[layout])


@every
def test_with_deterministic_algorithms_two_passes_give_the_same_bits(name: str, device: torch.device) -> None:
    block = randomize(make(name)).eval().to(device)
    x, direction = torch.randn(2, 22, 5, 7, device=device), torch.randn(2, 22, 5, 7, device=device)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (results(block, x, direction) for _ in range(2))
    except RuntimeError as error:
        assert "does not have a deterministic implementation" in str(error)
        with pytest.raises(UserError):  # training refuses such a block in advance
            refuse_nondeterministic(block)
        return
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(one, other) for one, other in zip(first[1], second[1], strict=True))
