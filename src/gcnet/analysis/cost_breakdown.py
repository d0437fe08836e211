"""Costs by stage and by context block: parameters, FLOPs, and activations saved in a training forward pass.

Parameters and FLOPs as in `gcnet.analysis.cost`. Saved bytes are what autograd saves in the forward pass of a
training step for the backward one: each storage once, without parameters and buffers, counted where it is saved first,
nothing checkpointed or frozen, all in the dtype of the weights. Both passes run on the meta device, where only shapes
are computed; a convolution library may keep additional workspace.
"""

import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from gcnet.analysis.cost import as_meta, count_parameters, flop_counter
from gcnet.insertion.attach import installed_modules

_STAGE = re.compile(r"layer\d+")


@dataclass(frozen=True)
class CostPart:
    """Costs of one part of a network.

    Attributes:
        name: of the part.
        parameters: number of parameters.
        flops: of one image (multiply-add = 2).
        saved_bytes: activations that autograd saves for the backward pass of a training batch.
    """

    name: str
    parameters: int
    flops: int
    saved_bytes: int


@dataclass(frozen=True)
class CostBreakdown:
    """Costs of a network.

    Attributes:
        total: of the whole network.
        stages: of its stages, which sum up to the total.
        blocks: of its context blocks, which are included in the costs of their stages.
    """

    total: CostPart
    stages: tuple[CostPart, ...]
    blocks: tuple[CostPart, ...]


def image_stages(model: nn.Module) -> dict[str, str]:
    """Return the stage of each part of `model` by the path of the part, in the order of the network.

    The stages of a residual network are `layer1` and so on, `stem` before and `head` after them. Those of another
    network are its children, and of a sequence with most of its parameters (`stages` of a ConvNeXt, `blocks` of a ViT,
    `features` of a MobileNet) the parts of that sequence.
    """
    return body_parts(model, "")


def run_images(skeleton: nn.Module, size: tuple[int, int], images: int) -> None:
    """Run a forward pass of a network on the meta device.

    Args:
        skeleton: the network.
        size: height and width of the images in pixels.
        images: number of images.
    """
    skeleton(torch.empty(images, 3, *size, device="meta"))


def cost_breakdown(
    model: nn.Module,
    size: tuple[int, int],
    batch: int,
    *,
    stages: Callable[[nn.Module], dict[str, str]] = image_stages,
    run: Callable[[nn.Module, tuple[int, int], int], None] = run_images,
) -> CostBreakdown:
    """Return the costs of a network by stage and by context block, without its losses.

    Args:
        model: the network, on any device; it does not change.
        size: height and width of the images in pixels.
        batch: images of a training step.
        stages: function of the network that returns the stage of each part by its path.
        run: forward pass of a network on the meta device, on a number of images of a size.

    Returns:
        The costs.
    """
    skeleton = as_meta(model)
    parts = stages(skeleton)
    blocks = block_paths(skeleton)
    named = parts | {path: path for path in blocks}
    counter = flop_counter()
    trained = [parameter for parameter in skeleton.parameters() if parameter.requires_grad]
    skeleton.requires_grad_(False)  # The counter's own hooks fail on views of parameters.
    with torch.no_grad(), counter, _metered(skeleton, named, counter.get_total_flops) as flops:
        run(skeleton, size, 1)
    for parameter in trained:
        parameter.requires_grad_()
    with (
        _FusedAttention(),
        _saved_bytes(skeleton.train()) as total_saved,
        _metered(skeleton, named, total_saved) as saved,
    ):
        run(skeleton, size, batch)
    total = CostPart("total", count_parameters(skeleton), counter.get_total_flops(), total_saved())
    items = {
        name: CostPart(name, _parameters(skeleton, named, name), flops[name], saved[name])
        for name in dict.fromkeys(named.values())
    }
    found = [items[stage] for stage in dict.fromkeys(parts.values())]
    found = [stage for stage in found if stage.parameters or stage.flops or stage.saved_bytes]
    return CostBreakdown(total, (*found, *_rest(total, found)), tuple(items[path] for path in blocks))


def block_paths(model: nn.Module) -> list[str]:
    """Return the names of the inserted context blocks of `model`, in its order."""
    return [f"{name}.context" if name else "context" for name, _ in installed_modules(model)]


def body_parts(body: nn.Module, prefix: str) -> dict[str, str]:
    """Return `image_stages` of a network within another one.

    Args:
        body: the network.
        prefix: its path with a dot behind it, or "".

    Returns:
        Stages by path in the outer network.
    """
    names = [name for name, _ in body.named_children()]
    stages = [index for index, name in enumerate(names) if _STAGE.fullmatch(name)]
    parts = {}
    for index, (name, child) in enumerate(body.named_children()):
        place = "stem" if stages and index < stages[0] else "head" if stages and index > stages[-1] else name
        listed = isinstance(child, nn.ModuleList)  # which is not called itself
        if not stages and _is_body(child, body):
            parts |= {f"{prefix}{name}.{part}": f"{name}.{part}" for part in child._modules}
        elif listed:
            parts |= {f"{prefix}{name}.{number}": place for number in range(len(child))}
        else:
            parts[prefix + name] = place
    return parts


def _is_body(child: nn.Module, network: nn.Module) -> bool:
    """Whether the child is a plain sequence of several modules with most of the network's parameters."""
    sequence = isinstance(child, nn.ModuleList) or type(child).forward is nn.Sequential.forward
    return sequence and len(child._modules) > 1 and 2 * count_parameters(child) > count_parameters(network)


def _parameters(model: nn.Module, named: Mapping[str, str], name: str) -> int:
    """Parameters in the parts of this name; shared ones count once."""
    return count_parameters(nn.ModuleList(model.get_submodule(path) for path in named if named[path] == name))


def _rest(total: CostPart, stages: Sequence[CostPart]) -> list[CostPart]:
    """What the network does and holds itself, outside its parts, if that is anything."""
    left = [
        getattr(total, key) - sum(getattr(stage, key) for stage in stages)
        for key in ("parameters", "flops", "saved_bytes")
    ]
    return [CostPart("other", *left)] if any(left) else []


@contextmanager
def _metered(model: nn.Module, named: Mapping[str, str], read: Callable[[], int]) -> Generator[Counter[str]]:
    """Increase of `read()` while the modules at the paths in `named` run, by name."""
    found: Counter[str] = Counter()
    starts: list[int] = []

    def enter(*_: object) -> None:
        starts.append(read())

    def leave(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            found[name] += read() - starts.pop()

        return hook

    modules = {path: model.get_submodule(path) for path in named}
    handles = [module.register_forward_pre_hook(enter) for module in modules.values()]
    handles += [module.register_forward_hook(leave(named[path])) for path, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _saved_bytes(model: nn.Module) -> Generator[Callable[[], int]]:
    """Yield a function that returns how many bytes autograd has saved so far."""
    own = {tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())}
    saved: set[Any] = set()  # holds the storages, so that no other takes the address of one

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in own:
            saved.add(storage)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in saved)


class _FusedAttention(TorchFunctionMode):
    """Keeps attention fused, as on the CPU; on the meta device torch takes it apart, and saves every pair's weight."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # With a mask that needs a gradient the CPU has no fused attention either.
        mask = args[3] if len(args) > 3 else (kwargs or {}).get("attn_mask")
        if func is F.scaled_dot_product_attention and (mask is None or not mask.requires_grad):
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **(kwargs or {}))[0]
        return func(*args, **(kwargs or {}))
