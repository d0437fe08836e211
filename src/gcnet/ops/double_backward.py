"""Gradients that have gradients themselves or are batched, for the backward passes of custom functions."""

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor


def must_derive(gradients: Sequence[Tensor]) -> bool:
    """Whether a backward pass must use differentiable operations alone: for double backward, and for batched gradients.

    Args:
        gradients: of the outputs; batched by `is_grads_batched` or `vectorize` of `torch.autograd`, they allow no
            operations in place.
    """
    return torch.is_grad_enabled() or any(map(torch._C._functorch.is_legacy_batchedtensor, gradients))


def derived_gradients(
    function: Callable[..., Any], arguments: Sequence[Tensor], needed: Sequence[bool], gradients: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the gradients of the arguments of a function, derived by autograd from its operations.

    Args:
        function: of the arguments, made of differentiable operations.
        arguments: the saved tensors; one may depend on another.
        needed: for each argument, whether its gradient is needed.
        gradients: of the outputs of `function`.

    Returns:
        For each argument its gradient, contiguous, or None. PyTorch's batch norm computes wrong gradients from those of
        one image whose strides fit channels-last but for the first.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, or the gradient of an argument would include its effect through other arguments.
        aliases = [argument.view_as(argument) for argument in arguments]
        wanted = list(compress(aliases, needed))
        found = iter(torch.autograd.grad(function(*aliases), wanted, gradients, create_graph=create_graph))
    return [next(found).contiguous() if is_needed else None for is_needed in needed]
