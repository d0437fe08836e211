"""`insert`, `replace` and the rebuilding of a file's insertions: choose sites, build and attach a block at each."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gcnet.blocks import Builder, block_options, build_block, check_options
from gcnet.errors import UserError, nearest
from gcnet.insertion.attach import (
    Installed,
    Request,
    build_device,
    describe,
    install,
    installed_modules,
    keep_padding,
    match_host,
    next_order,
    require_network,
    require_room,
    uninstall,
)
from gcnet.insertion.choice import Choice, Chooser, narrow_ratio
from gcnet.insertion.dry_run import CannotRun, dry_run
from gcnet.insertion.examples import Example
from gcnet.insertion.families import require_position, residual_family
from gcnet.insertion.layout import Layout
from gcnet.insertion.record import Insertion, check_record
from gcnet.insertion.sites import At

_FULLY_SHARDED = {"FSDPModule", "FullyShardedDataParallel"}  # by name: their module takes long to import


def insert(
    model: nn.Module,
    block: str | Builder,
    *,
    ratio: float | None = None,
    stages: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    position: str | None = None,
    at: At | None = None,
    example_input: Any = None,
    layout: str | None = None,
    prefix_tokens: int | tuple[int, int] | None = None,
    **options: Any,
) -> Insertion:
    """Put a context block into each of several places of `model`, in place; the model's own weight names stay.

    A block becomes the child `context` of a module, on its device and in its dtype, and acts on the module's output (of
    a tuple or list on the first item): a map (N, C, *S) or (N, *S, C), or tokens (N, P, C), without class tokens and
    registers. In the residual blocks of torchvision's and timm's ResNets and ResNeXts, of the CIFAR ResNets and the
    scenes network, it acts at `position`.

    Without `at`, blocks go into every residual block, or block of a RegNet, ConvNeXt, EfficientNet, MobileNet, Swin
    or video ResNet, of those of c3 to c5 that the network has and calls (in CIFAR ResNets of all stages), and into
    every transition of a DenseNet; in any other network after the last module before each change of resolution (without
    the stem and without what only makes the answer: logits of pixels, images, boxes), or after every transformer block
    (but the last, where only class tokens are read after it). `str()` of the result says where.

    The model is run a few times: on the meta device where it can run there, else a copy of it; only a model that cannot
    be copied is run itself, and its buffers, attributes, modes and random states are restored.

    Args:
        model: the network.
        block: a name of `gcnet.list_blocks()`, or a builder of your own, `channels -> module`.
        ratio: the paper's r; None for the default: 16, or the largest of 8, 4, 2 that leaves every place four channels.
        stages: the paper's numbers, 2 to 5 for c2 to c5 (c4 is `layer3`, and a stride of 16), in CIFAR ResNets 1 to 3.
        blocks: indices within each stage, negative from its end; by default all.
        position: in residual blocks, "after_norm" (the paper's after1x1: after the last norm, before the addition; what
            stages mean by default), "after_add" (the block's output) or "after_conv2" (after the second convolution's
            norm and activation, bottlenecks only).
        at: instead of stages: names of modules, patterns of them (`layer3.*`, of nested matches the outermost), module
            types or their names, and "c3" for a whole stage; one or several. A plain Sequential means its last child.
        example_input: what the network is run on, to see its shapes: a tensor, a tuple of arguments, a dict of keyword
            arguments, or a shape with or without the batch; by default the size that the network names, else 224
            pixels.
        layout: "channels_first", "channels_last" or "tokens", (N, P, C), for all places; by default measured by running
            the network on a second size, else inferred from its layers.
        prefix_tokens: number of class tokens and registers at the start of tokens, or (start, end); by default measured
            by running the network on two images: they are the same in both.
        options: further options of the block.

    Returns:
        What went where.

    Raises:
        UserError: an unknown name, option, stage, index or position; a place that cannot take a block or does not run,
            or whose layout is unknown; a network that cannot be run on `example_input`. The model is then unchanged.
    """
    require_network(model)
    check_options(block, options)
    if at is not None and (stages is not None or blocks is not None):
        raise UserError("at names the places, so stages and blocks go without it")
    _require_plain(model)
    chooser = Chooser(model, example_input, layout=layout, prefix_tokens=prefix_tokens)
    choice = chooser.by_stage(stages, blocks, position) if at is None else chooser.by_name(at, position)
    if ratio is None and "ratio" in block_options(block):
        ratio = choice.default_ratio
    request = Request(
        order=next_order(model),
        block=block if isinstance(block, str) else _own_name(block),
        custom=not isinstance(block, str),
        ratio=ratio,
        stages=choice.stages,
        blocks=None if blocks is None else list(blocks),
        position=choice.position,
        options=options,
    )
    return put(model, block, request, choice)


def put(model: nn.Module, block: str | Builder, request: Request, choice: Choice) -> Insertion:
    """Build the blocks of a request and put them into their places; where one then does not run, none stays.

    Raises:
        UserError: as for `insert`.
    """
    modules = [(name, model.get_submodule(name)) for name in choice.places]
    for name, module in modules:
        require_room(name, module)
        if request.position is not None:
            require_position(name, module, request.position)
    built = []
    for (name, module), layout in zip(modules, choice.places.values(), strict=True):
        with torch.inference_mode(False), build_device(model, name):
            context = build_block(
                block, channels=layout.channels, ratio=request.ratio, dims=layout.dims, **request.options
            )
            built.append((module, match_host(context, model, name), Installed(request, layout)))
    for module, context, installed in built:
        install(module, context, installed)
    keep_padding(model, {module for _, module in installed_modules(model)})
    try:
        if choice.run is not None:
            _require_all_run(model, choice.places, choice.run.example)
    except BaseException:
        for module, _, _ in built:
            uninstall(module)
        keep_padding(model, {module for _, module in installed_modules(model)})
        raise
    return describe(request, modules)


def _require_all_run(model: nn.Module, names: Collection[str], example: Example) -> None:
    """Run the network with its blocks.

    Raises:
        UserError: it fails, or a block does not run once for every call or does not keep the shape.
    """
    try:
        run = dry_run(model, example, names=[f"{name}.context" for name in names], partial=True)
    except CannotRun as error:
        raise UserError(f"the network runs without the blocks and fails with them: {error.reason}") from error.__cause__
    for name in names:
        host, calls = len(run.of(name)), run.of(f"{name}.context")
        if len(calls) != host:
            raise UserError(
                f"{name} cannot take a block: its network runs the children of {name} itself, so that a block there "
                f"ran {len(calls)} times in {host} calls; name another module"
            )
        for call in calls:
            taken, given = tuple(call.inputs[0].shape), getattr(call.tensor, "shape", None)
            if given != taken:
                found = type(call.output).__name__ if given is None else tuple(given)
                raise UserError(f"a block must keep the shape of its input, and at {name} it gives {found} for {taken}")


def _require_plain(model: nn.Module) -> None:
    """Raise UserError for a network that is not yet built, or was wrapped or compiled and would not see its blocks."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("TorchScript is compiled already: insert before torch.jit")
    for name, module in model.named_modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise UserError("DistributedDataParallel shares the parameters it began with: insert before wrapping")
        if _FULLY_SHARDED.intersection(kind.__name__ for kind in type(module).__mro__):
            raise UserError(f"{name or 'the network'} is fully sharded (FSDP) already: insert before sharding it")
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise UserError(f"{name or 'the network'} is compiled already: insert before torch.compile")
        if any(isinstance(value, nn.UninitializedParameter) for value in module.parameters(recurse=False)):
            raise UserError(f"{name or 'the network'} has no shape yet: run the network once, then insert")


def _own_name(block: Builder) -> str:
    return f"{block.__module__}.{getattr(block, '__qualname__', repr(block))}"


def replace(model: nn.Module, places: str | Collection[str], block: str, *, ratio: float | None = None) -> None:
    """Put new blocks where inserted ones are, in place; where and on what they act stays.

    Args:
        model: the network.
        places: names of modules that have a block (`layer3.4`); one or several.
        block: a name of `gcnet.list_blocks()`.
        ratio: the paper's r; None for the default of `gcnet.insert`, by the kind of each place.

    Raises:
        UserError: a place has no block, or the new block does not take the ratio or the channels of a place. The model
            is then unchanged.
    """
    if ratio is not None:
        check_options(block, {"ratio": ratio})
    wanted = {places} if isinstance(places, str) else set(places)
    found = dict(installed_modules(model))
    missing = sorted(wanted - set(found))
    if missing:
        proposal = nearest(missing[0], found)
        raise UserError(f"`places` must be modules with an inserted block, found {', '.join(missing)}{proposal}")
    modules = {name: module for name, module in found.items() if name in wanted}
    ratios = _ratios(modules, ratio) if "ratio" in block_options(block) else dict.fromkeys(modules)
    requests: dict[tuple[str | None, float | None], Request] = {}
    built = []
    for name, module in modules.items():
        layout, position, width = _layout(module), _position(module), ratios[name]
        order = next_order(model) + len(requests)
        new = Request(order, block, False, width, None, None, position, {})
        request = requests.setdefault((position, width), new)
        context = build_block(block, channels=layout.channels, ratio=width, dims=layout.dims)
        built.append((module, match_host(context, model, name), Installed(request, layout)))
    for module, context, installed in built:
        uninstall(module)
        install(module, context, installed)


def _ratios(modules: dict[str, nn.Module], ratio: float | None) -> dict[str, float | None]:
    """The ratio of each place: as given, or the default of its residual family, or of the other places together."""
    families = {name: residual_family(module) for name, module in modules.items()}
    usual = {name: family.default_ratio if family else None for name, family in families.items()}
    others = {name: _layout(module) for name, module in modules.items() if usual[name] is None}
    narrow = narrow_ratio(others) if others else None
    return {name: (usual[name] or narrow) if ratio is None else ratio for name in modules}


def _layout(module: nn.Module) -> Layout:
    return vars(module)["context_insertion"].layout


def _position(module: nn.Module) -> str | None:
    return vars(module)["context_insertion"].request.position


def insert_record(model: nn.Module, record: Mapping[str, Any], builders: Mapping[str, Builder]) -> None:
    """Insert the blocks that one record of `insertion_records` describes; the network is not run for it.

    Raises:
        UserError: the record is invalid, the network lacks a place, or `builders` a builder of the user's own.
    """
    check_record(record)
    name: str = record["block"]
    if record["custom"] and name not in builders:
        raise UserError(f'the block "{name}" is your own: pass builders={{"{name}": builder}}')
    block = builders[name] if record["custom"] else name
    told = {key: record[key] for key in ("ratio", "stages", "blocks", "position")}
    if "places" not in record:  # Files from before any network could be a host.
        insert(model, block, **told, **record["options"])
        return
    places = {
        place["name"]: Layout(**{key: place[key] for key in place if key != "name"}) for place in record["places"]
    }
    names = {name for name, _ in model.named_modules()}
    for place in places:
        if place not in names:
            raise UserError(f"blocks were inserted at {place}, which this network does not have{nearest(place, names)}")
    request = Request(next_order(model), name, record["custom"], **told, options=dict(record["options"]))
    put(model, block, request, Choice(places, record["position"], record["stages"], None, None))
