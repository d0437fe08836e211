"""What of a network reads the last tokens: all of them, or the class token alone."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gcnet.models.insertion.copies import like_training, note_failure, on_meta, on_own_device
from gcnet.models.insertion.layout import Layout
from gcnet.models.insertion.observe import DryRun


def reads_all_tokens(model: nn.Module, run: DryRun, name: str, layout: Layout) -> bool:
    """Whether the network's output depends on more than the extra tokens of the module's output.

    Measured by changing the others in a second run; without values (on the meta device) from timm's `global_pool`.

    Args:
        model: the network.
        run: a dry run of it.
        name: of the module.
        layout: of the module's output.
    """
    device = next(chain(model.parameters(), model.buffers()), torch.empty(0, device="cpu")).device
    if device.type == "meta":
        return getattr(model, "global_pool", "token") != "token"
    runnable = on_own_device if run.runnable is on_meta else run.runnable
    outputs = []
    for change in (0, 1):
        try:
            with runnable(model) as host, torch.no_grad(), like_training(host):
                shift = _Shift(change)
                host.get_submodule(name).register_forward_hook(
                    lambda _, __, output, shift=shift: layout.run(shift, output)
                )
                example = run.example.to(device)
                outputs.append(tree_leaves(host(*example.args, **example.kwargs)))
        except Exception:  # A network that runs on the meta device alone: nothing is known, so nothing is left out.
            note_failure("the network on its own device")
            return True
    return any(not _equal(first, second) for first, second in zip(*outputs, strict=True))


class _Shift(nn.Module):
    """Adds something else to each channel of every token that a block would see."""

    def __init__(self, amount: int) -> None:
        super().__init__()
        self._amount = amount

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.linspace(1, 2, x.shape[1], device=x.device, dtype=x.dtype)
        return x + self._amount * ramp[:, None]


def _equal(first: Any, second: Any) -> bool:
    if not isinstance(first, Tensor):
        return True
    return bool(torch.equal(first.nan_to_num(), second.nan_to_num())) if first.is_floating_point() else True
