"""torch.compile of a network in place: state-dict keys, copies and checkpoints stay those of the network."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from gcnet.errors import UserError, raise_if_out_of_memory

_LONGEST = 300


def compile_network(network: nn.Module) -> None:
    """Compile the forward pass of `network`, for each batch size; of a detector its backbone, for images of any size.

    A forward pass for any batch size, which PyTorch would compile after the second size, rounds differently: the bits
    of a step would depend on the sizes before it, which a resumed run does not see.
    """
    if hasattr(network, "roi_heads"):
        network.get_submodule("backbone").compile(dynamic=True)
    else:
        network.compile(dynamic=False)


def is_compiled(network: nn.Module) -> bool:
    """Return whether `network` or a part of it is compiled."""
    return any(module._compiled_call_impl is not None for module in network.modules())


def uncompiled(network: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which `network` runs without compilation, for hooks that were added after compilation.

    `torch.compile` does not call such hooks.
    """
    return torch.compiler.set_stance("force_eager") if is_compiled(network) else nullcontext()


@contextmanager
def explained_compile_errors() -> Generator[None]:
    """Turn errors of `torch.compile` into one sentence.

    Raises:
        UserError: `torch.compile` fails, for example because there is no C++ compiler.
    """
    try:
        yield
    except Exception as error:
        if "TorchDynamoException" not in {kind.__name__ for kind in type(error).__mro__}:
            raise
        raise_if_out_of_memory(error)
        cause = getattr(error, "inner_exception", error)
        reason = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0][:_LONGEST].rstrip('.:')}"
        raise UserError(f"torch.compile failed ({reason}); run without `compile`, or install what it needs") from error
