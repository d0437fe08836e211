"""Default insertion sites of any network, from a dry run: by resolution of the maps, or token blocks."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gcnet.errors import UserError
from gcnet.insertion.attach import find_obstacle
from gcnet.insertion.dry_run import DryRun, ModuleCall
from gcnet.insertion.layout import Axes, Layout
from gcnet.insertion.model_copies import in_place, like_training, note_failure, on_meta, on_own_device

# Maps of a smaller stride are the stem's, and get no block if there are enough deeper maps, as c3 to c5 in the paper.
_STEM_STRIDE, _ENOUGH = 4, 3


_LEAST_CHANNELS = 4  # the bottleneck of narrower maps would have one channel


# Tolerance of one change of resolution, since sides may not be halved exactly (35 to 17).
_SLACK = 1.5


def default_sites(model: nn.Module, run: DryRun, axes: Axes) -> list[str]:
    """Find the last module before each change of resolution, or every token block if these have more parameters.

    Outputs such as logits are excluded, and the last token block if only class tokens are read after it.

    Args:
        model: the network.
        run: a dry run of it.
        axes: layouts of its outputs.

    Returns:
        Names of modules, in the order of the run.

    Raises:
        UserError: there is neither.
    """
    outputs = output_modules(model, run)
    trunk = [call for call in _trunk(run.calls[0], axes) if call.name not in outputs and _fits(call, run)]
    tokens = _token_blocks(run, axes)
    if len(tokens) > 1:
        layout = axes.layout(tokens[-1])
        may_be_unread = layout.prefix + layout.suffix or not isinstance(tokens[-1].output, Tensor)
        if may_be_unread and not reads_all_tokens(model, run, tokens[-1].name, layout):
            del tokens[-1]  # later layers do not use the other tokens
    in_maps, in_tokens = (_size({call.module for call in calls}) for calls in (trunk, tokens))
    sites = _last_of_resolutions(_without_logits(trunk, run, axes), axes, run)
    if tokens and (in_tokens > in_maps or not sites):
        sites = [call.name for call in tokens]
    if not sites:
        raise UserError(
            f"no default sites in {type(model).__name__}: it has neither maps before a change of resolution nor "
            "transformer blocks; use `at`"
        )
    return list(dict.fromkeys(sites))


def _fits(call: ModuleCall, run: DryRun) -> bool:
    """Whether the output can take a block: one shape, wide enough, not an activation shared by other modules."""
    calls = run.of(call.name)
    shapes = {getattr(other.tensor, "shape", None) for other in calls}
    width = 0 if call.tensor is None else max(call.tensor.shape[1], call.tensor.shape[-1])
    return len(shapes) == 1 and width >= _LEAST_CHANNELS and not run.is_shared(call.name)


def _size(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _token_blocks(run: DryRun, axes: Axes) -> list[ModuleCall]:
    """The outermost modules of a type that repeatedly returns tokens of the same shape."""
    kinds: dict[ModuleCall, tuple[type, tuple[int, ...]]] = {}
    for call in run.calls:
        fit = find_obstacle(call.module) is None and not isinstance(call.module, nn.Sequential)
        output = call.tensor
        if call.children and fit and output is not None and _is_tokens(call, axes) and output.shape[1] > 1:
            kinds[call] = (type(call.module), tuple(output.shape))
    repeated = Counter(kind for _, kind in {(call.name, kind) for call, kind in kinds.items()})
    blocks = {call: kind for call, kind in kinds.items() if repeated[kind] > 1}
    return [call for call in blocks if not any(holder in blocks for holder in call.ancestors())]


def _without_logits(trunk: list[ModuleCall], run: DryRun, axes: Axes) -> list[ModuleCall]:
    """The trunk without maps of logits at its end, which some classifiers compute before pooling."""
    logits = getattr(run.calls[0].output, "shape", ())[1:]
    kept = list(trunk)
    while kept and _channels(kept[-1], axes) == tuple(logits):
        kept.pop()
    lost = {_spatial(call, axes) for call in trunk[len(kept) :]}
    left = {_spatial(call, axes) for call in kept if _size([call.module])}
    return kept if all(spatial in left or _positions(spatial) == 1 for spatial in lost) else trunk


def _channels(call: ModuleCall, axes: Axes) -> tuple[int, ...]:
    return () if call.tensor is None else (call.tensor.shape[-1 if axes.channels_last(call) else 1],)


def _last_of_resolutions(trunk: list[ModuleCall], axes: Axes, run: DryRun) -> list[str]:
    """The last module of every resolution with parameters, without the stem."""
    width = sum(_input_spatial(run.calls[0])[-1:])
    ends: list[tuple[str, float]] = []
    for spatial, group in groupby(trunk, lambda call: _spatial(call, axes)):
        calls = list(group)
        fit = [name for name in (_end(call, axes, run) for call in calls) if name is not None]
        if spatial and fit and _positions(spatial) > 1 and _size(call.module for call in calls):
            ends.append((fit[-1], width / spatial[-1]))
    deep = [name for name, stride in ends if round(stride) >= _STEM_STRIDE]
    return deep if len(set(deep)) >= _ENOUGH else [name for name, _ in ends]


def _trunk(call: ModuleCall, axes: Axes) -> Iterator[ModuleCall]:
    """The outermost calls that return maps and change the resolution at most once."""
    current: int | None = None
    for child in call.children:
        spatial = _spatial(child, axes)
        if spatial is None:
            if child.children and not _is_tokens(child, axes, of_input=True):
                yield from _trunk(child, axes)
            continue
        positions = _positions(spatial)
        before = _positions(_input_spatial(child)) if current is None else current
        step = _SLACK * 2 ** len(spatial)
        if child.children and not positions * step >= before >= positions / step:
            yield from _trunk(child, axes)
        else:
            yield child
        current = positions


def _spatial(call: ModuleCall, axes: Axes) -> tuple[int, ...] | None:
    """The spatial sizes of the output of a call that returns a map, else None."""
    output = call.tensor
    if output is None or not 3 <= output.dim() <= 5 or _is_tokens(call, axes):
        return None
    return tuple(output.shape[1:-1] if axes.channels_last(call) else output.shape[2:])


def _input_spatial(call: ModuleCall) -> tuple[int, ...]:
    return next((tuple(tensor.shape[2:]) for tensor in call.inputs if tensor.dim() >= 3), ())


def _is_tokens(call: ModuleCall, axes: Axes, *, of_input: bool = False) -> bool:
    if of_input:
        return any(tensor.dim() == 3 and axes.taken_last(tensor) for tensor in call.inputs)
    return call.tensor is not None and call.tensor.dim() == 3 and axes.channels_last(call)


def _positions(spatial: tuple[int, ...] | None) -> int:
    count = 1
    for side in spatial or ():
        count *= side
    return count


def _end(call: ModuleCall, axes: Axes, run: DryRun) -> str | None:
    """The module that can take a block for the output of the call; of a Sequential, the last child that can."""
    if not isinstance(call.module, nn.Sequential):
        return call.name if find_obstacle(call.module) is None and _fits(call, run) else None
    same = (child for child in reversed(call.children) if _spatial(child, axes) == _spatial(call, axes))
    return next((name for name in (_end(child, axes, run) for child in same) if name is not None), None)


_WEIGHTED = re.compile(r"\w*(Convolution|Conv\dd|ConvTranspose\dd|Addmm|Linear|Mm|Bmm)\w*Backward")
_NORM_OR_ACTIVATION = re.compile(
    r"\w*(BatchNorm|LayerNorm|GroupNorm|RmsNorm|Relu|Gelu|Silu|Elu|Hardswish|Hardtanh|Mish)\w*Backward"
)


def output_modules(model: nn.Module, run: DryRun) -> set[str]:
    """Find modules whose outputs are only part of the network's output.

    Such an output is a projection (a convolution or linear layer without a later norm or activation) that no layer
    reads, according to the autograd graph. A residual block at the end of a backbone is none: it consists of several
    modules and keeps the shape of its input.

    Args:
        model: the network.
        run: a dry run of it; empty result if the network cannot be copied, since no graph is recorded then.

    Returns:
        Names of modules.
    """
    if run.runnable is in_place:
        return set()
    made: list[tuple[str, Any]] = []
    outputs: list[Any] = []
    try:
        with run.runnable(model) as copy, torch.enable_grad(), like_training(copy):
            for parameter in copy.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            for name, module in copy.named_modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    module.register_forward_hook(lambda _, __, output, name=name: made.append((name, _node(output))))
            example = run.example.to(run.device)
            outputs = tree_leaves(copy(*example.args, **example.kwargs))
    except Exception:  # a network that only runs without gradients has no graph
        note_failure("the network with gradients")
        return set()
    graph = _Graph(node for node in (*(node for _, node in made), *map(_node, outputs)) if node is not None)
    names = {name for name, node in made if graph.is_output(node)}
    return {call.name for call in run.calls if call.name in names and not _is_residual(_last(call))}


def _last(call: ModuleCall) -> ModuleCall:
    """The innermost call that returns the output of a plain Sequential."""
    while isinstance(call.module, nn.Sequential) and call.children:
        call = call.children[-1]
    return call


def _is_residual(call: ModuleCall) -> bool:
    shape = None if call.tensor is None else call.tensor.shape
    return bool(call.children) and any(tensor.shape == shape for tensor in call.inputs)


def _node(output: Any) -> Any:
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first.grad_fn if isinstance(first, Tensor) else None


class _Graph:
    """The operations of one forward pass and their consumers."""

    def __init__(self, nodes: Iterable[Any]) -> None:
        self._readers: dict[Any, list[Any]] = defaultdict(list)
        waiting, seen = list(nodes), set()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            for source in self._sources(node):
                self._readers[source].append(node)
                waiting.append(source)

    def is_output(self, node: Any) -> bool:
        """Whether the result of the node is a projection that no layer reads."""
        return node is not None and self._is_projection(node) and not any(map(_is_layer, self._later(node)))

    def _is_projection(self, node: Any) -> bool:
        waiting, seen, weighted = [node], set(), False
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            if _NORM_OR_ACTIVATION.match(current.name()):
                return False
            if _WEIGHTED.match(current.name()):
                weighted = True
            else:
                waiting += self._sources(current)
        return weighted

    def _later(self, node: Any) -> set[Any]:
        waiting, seen = list(self._readers[node]), set()
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                waiting += self._readers[current]
        return seen

    @staticmethod
    def _sources(node: Any) -> list[Any]:
        return [source for source, _ in node.next_functions if source is not None]


def _is_layer(node: Any) -> bool:
    return bool(_WEIGHTED.match(node.name()) or _NORM_OR_ACTIVATION.match(node.name()))


def reads_all_tokens(model: nn.Module, run: DryRun, name: str, layout: Layout) -> bool:
    """Whether the network's output depends on more than the extra tokens of a module's output.

    Measured by a second run with the other tokens changed; on the meta device from timm's `global_pool`.

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
            with runnable(model) as copy, torch.no_grad(), like_training(copy):
                shift = _Shift(change)
                copy.get_submodule(name).register_forward_hook(
                    lambda _, __, output, shift=shift: layout.run(shift, output)
                )
                example = run.example.to(device)
                outputs.append(tree_leaves(copy(*example.args, **example.kwargs)))
        except Exception:  # a network that only runs on the meta device: assume so
            note_failure("the network on its own device")
            return True
    return any(not _equal(first, second) for first, second in zip(*outputs, strict=True))


class _Shift(nn.Module):
    """Adds a different value to each channel of every token that a block would see."""

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
