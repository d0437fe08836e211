"""Gradients that have gradients themselves, for the backward passes of custom functions."""

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor


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
    # Aliases, or the gradient of an argument would include its effect through other arguments.
    aliases = [argument.view_as(argument) for argument in arguments]
    found = iter(torch.autograd.grad(function(*aliases), list(compress(aliases, needed)), gradients, create_graph=True))
    return [next(found).contiguous() if is_needed else None for is_needed in needed]
