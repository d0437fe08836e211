"""Results of a device against float64 on the CPU."""

import copy

import torch
from torch import Tensor, nn

from tolerances import TOLERANCE, assert_equal_within

# Of several operations, each with roundings of its own; at the kinks of ReLU a rounding moves a gradient far.
SLACK = 5.0


def results(module: nn.Module, x: Tensor, direction: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output of a module, and the gradients of its input and of its parameters for one direction."""
    x = x.detach().requires_grad_()
    output = module(x)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return output, list(torch.autograd.grad((output * direction).sum(), [x, *parameters], materialize_grads=True))


def assert_near_float64(
    module: nn.Module, x: Tensor, device: torch.device, layout: torch.memory_format = torch.contiguous_format
) -> None:
    """Output and gradients of a module on the device, in the dtype of `x`, are those of float64 on the CPU."""
    module = module.to(x.dtype)
    exact = copy.deepcopy(module).double()
    direction = torch.randn_like(exact(x.double())).to(x.dtype)
    output, gradients = results(module.to(device), x.to(device, memory_format=layout), direction.to(device))
    expected, exact_gradients = results(exact, x.double(), direction.double())
    assert output.dtype == x.dtype
    assert_equal_within(output.cpu(), expected, x.dtype, scale=SLACK)
    assert_near_together(gradients, exact_gradients, x.dtype)


def assert_near_together(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    """The L2 distance of all tensors as one vector, as a share of its length."""
    one, other = (torch.cat([tensor.detach().cpu().double().flatten() for tensor in one]) for one in (found, expected))
    assert one.isfinite().all()
    assert float((one - other).norm() / other.norm()) <= SLACK * TOLERANCE[dtype]
