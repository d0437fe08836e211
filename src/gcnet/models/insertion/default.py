"""Where blocks go in a network of no known family: before each change of resolution, or after every token block."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby

from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.models.insertion.answers import answer_modules
from gcnet.models.insertion.axes import Axes
from gcnet.models.insertion.observe import Call, DryRun
from gcnet.models.insertion.reading import reads_all_tokens
from gcnet.models.insertion.resolve import unfit

# Maps of a smaller stride are the stem's, and take no block where enough deeper ones do, as the paper's c3 to c5.
_STEM_STRIDE, _ENOUGH = 4, 3
_LEAST_CHANNELS = 4  # The bottleneck of narrower maps would have one channel.
# How much more than halving its sides (as 35 to 17 is) counts as one change of resolution.
_SLACK = 1.5


def default_places(model: nn.Module, run: DryRun, axes: Axes) -> list[str]:
    """The last module of each resolution, or every token block, where these hold more of the parameters.

    Raises:
        UserError: there is neither.
    """
    answers = answer_modules(model, run)
    trunk = [call for call in _trunk(run.calls[0], axes) if call.name not in answers and _fits(call, run)]
    tokens = _token_blocks(run, axes)
    if len(tokens) > 1:
        layout = axes.layout(tokens[-1])
        may_be_unread = layout.prefix + layout.suffix or not isinstance(tokens[-1].output, Tensor)
        if may_be_unread and not reads_all_tokens(model, run, tokens[-1].name, layout):
            del tokens[-1]  # What a block did to the other tokens there would be read by nothing.
    in_maps, in_tokens = (_size({call.module for call in calls}) for calls in (trunk, tokens))
    places = _last_of_resolutions(_without_logits(trunk, run, axes), axes, run)
    if tokens and (in_tokens > in_maps or not places):
        places = [call.name for call in tokens]
    if not places:
        raise UserError(
            f"found no place for a block in {type(model).__name__}, neither a map before a change of resolution nor "
            "blocks of tokens: give at="
        )
    return list(dict.fromkeys(places))


def _fits(call: Call, run: DryRun) -> bool:
    """Whether a block can go there: one shape, wide enough, and no activation that is used elsewhere too."""
    calls = run.of(call.name)
    shapes = {getattr(other.tensor, "shape", None) for other in calls}
    width = 0 if call.tensor is None else max(call.tensor.shape[1], call.tensor.shape[-1])
    return len(shapes) == 1 and width >= _LEAST_CHANNELS and not run.is_shared(call.name)


def _size(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _token_blocks(run: DryRun, axes: Axes) -> list[Call]:
    """The outermost modules of a type that is repeated with the same tokens coming out."""
    kinds: dict[Call, tuple[type, tuple[int, ...]]] = {}
    for call in run.calls:
        fit = unfit(call.module) is None and not isinstance(call.module, nn.Sequential)
        output = call.tensor
        if call.children and fit and output is not None and _is_tokens(call, axes) and output.shape[1] > 1:
            kinds[call] = (type(call.module), tuple(output.shape))
    repeated = Counter(kind for _, kind in {(call.name, kind) for call, kind in kinds.items()})
    blocks = {call: kind for call, kind in kinds.items() if repeated[kind] > 1}
    return [call for call in blocks if not any(holder in blocks for holder in call.ancestors())]


def _without_logits(trunk: list[Call], run: DryRun, axes: Axes) -> list[Call]:
    """The trunk without maps of the logits at its end, which some classifiers make before they pool."""
    logits = getattr(run.calls[0].output, "shape", ())[1:]
    kept = list(trunk)
    while kept and _channels(kept[-1], axes) == tuple(logits):
        kept.pop()
    lost = {_spatial(call, axes) for call in trunk[len(kept) :]}
    left = {_spatial(call, axes) for call in kept if _size([call.module])}
    return kept if all(spatial in left or _positions(spatial) == 1 for spatial in lost) else trunk


def _channels(call: Call, axes: Axes) -> tuple[int, ...]:
    return () if call.tensor is None else (call.tensor.shape[-1 if axes.channels_last(call) else 1],)


def _last_of_resolutions(trunk: list[Call], axes: Axes, run: DryRun) -> list[str]:
    """The last module of every resolution that has parameters, without the stem's."""
    width = sum(_input_spatial(run.calls[0])[-1:])
    ends: list[tuple[str, float]] = []
    for spatial, group in groupby(trunk, lambda call: _spatial(call, axes)):
        calls = list(group)
        fit = [name for name in (_end(call, axes, run) for call in calls) if name is not None]
        if spatial and fit and _positions(spatial) > 1 and _size(call.module for call in calls):
            ends.append((fit[-1], width / spatial[-1]))
    deep = [name for name, stride in ends if round(stride) >= _STEM_STRIDE]
    return deep if len(set(deep)) >= _ENOUGH else [name for name, _ in ends]


def _trunk(call: Call, axes: Axes) -> Iterator[Call]:
    """The calls that give maps, outermost first; one that changes the resolution more than once is looked into."""
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


def _spatial(call: Call, axes: Axes) -> tuple[int, ...] | None:
    """The axes of positions of a call that gives a map, else None."""
    output = call.tensor
    if output is None or not 3 <= output.dim() <= 5 or _is_tokens(call, axes):
        return None
    return tuple(output.shape[1:-1] if axes.channels_last(call) else output.shape[2:])


def _input_spatial(call: Call) -> tuple[int, ...]:
    return next((tuple(tensor.shape[2:]) for tensor in call.inputs if tensor.dim() >= 3), ())


def _is_tokens(call: Call, axes: Axes, *, of_input: bool = False) -> bool:
    if of_input:
        return any(tensor.dim() == 3 and axes.taken_last(tensor) for tensor in call.inputs)
    return call.tensor is not None and call.tensor.dim() == 3 and axes.channels_last(call)


def _positions(spatial: tuple[int, ...] | None) -> int:
    count = 1
    for side in spatial or ():
        count *= side
    return count


def _end(call: Call, axes: Axes, run: DryRun) -> str | None:
    """The module that can take a block for the output of the call: of a Sequential the last within it that can."""
    if not isinstance(call.module, nn.Sequential):
        return call.name if unfit(call.module) is None and _fits(call, run) else None
    same = (child for child in reversed(call.children) if _spatial(child, axes) == _spatial(call, axes))
    return next((name for name in (_end(child, axes, run) for child in same) if name is not None), None)
