"""What is measured of a contestant: inference, forward and backward of a block, or a training step of a network."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.contestants import Contestant
from gcnet.analysis.timing import PLAIN, Precision, forward_call, training_step_call

Task = Literal["forward", "forward_backward", "training_step"]


def prepare_call(task: Task, contestant: Contestant) -> Callable[[], object]:
    """The call that is timed, everything built."""
    return _CALLS[task](*contestant.prepare(), contestant.precision)


def forward_backward_call(module: nn.Module, x: Tensor, precision: Precision = PLAIN) -> Callable[[], object]:
    """A call for the gradients of the map and all parameters, given a random one of the output, which has x's shape."""
    module, x = precision.arrange(module.train()), precision.arrange(x).requires_grad_()
    gradient = torch.randn_like(x)
    sources = [x, *module.parameters()]

    def call() -> object:
        return torch.autograd.grad(precision.run(module, x), sources, gradient)

    return call


def saved_bytes(module: nn.Module, x: Tensor, precision: Precision = PLAIN) -> int:
    """Bytes that one forward pass keeps for backward: every storage once, the parameters' own left out."""
    module, x = precision.arrange(module.train()), precision.arrange(x).requires_grad_()
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = precision.run(module, x)
    kept = sum(size for place, size in found.items() if place not in own)
    del y  # only now: what backward needs lives as long as the output
    return kept


_CALLS: dict[Task, Callable[[nn.Module, Tensor, Precision], Callable[[], object]]] = {
    "forward": forward_call,
    "forward_backward": forward_backward_call,
    "training_step": training_step_call,
}
