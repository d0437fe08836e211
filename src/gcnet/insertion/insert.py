"""`insert` and `replace`: choose sites, build and attach a block at each, verify that all run."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gcnet.blocks import Builder, block_options, build_block, check_options
from gcnet.errors import UserError, nearest
from gcnet.insertion.attach import (
    InsertRequest,
    Installed,
    build_device,
    check_network,
    check_no_context,
    describe,
    install,
    installed_modules,
    keep_padding,
    match_module,
    next_order,
    refuse_fused,
    uninstall,
)
from gcnet.insertion.dry_run import CannotRun, Example, run_once
from gcnet.insertion.families import check_position, residual_family
from gcnet.insertion.layout import Layout
from gcnet.insertion.record import Insertion, check_record
from gcnet.insertion.sites import At, SiteChoice, SiteChooser, narrow_ratio

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
    """Insert context blocks into `model`, in place; the keys of its own weights stay.

    Each block becomes the child `context` of a module, on its device and in its dtype, and acts on the module's output
    (the first item of a tuple or list): a map (N, C, *S) or (N, *S, C), or tokens (N, P, C) without class tokens and
    registers. In the residual blocks of torchvision's and timm's ResNets and ResNeXts, of the CIFAR ResNets and the
    scenes network, it acts at `position`.

    Without `at`, the sites are:

    * in ResNets, RegNets, ConvNeXts, EfficientNets, MobileNets, Swin and video ResNets, every block of the stages c3 to
      c5 that the network calls (CIFAR ResNets: all stages);
    * in DenseNets, every transition;
    * in any other network, the last module before each change of resolution, without the stem and without outputs such
      as logits; or every transformer block, without the last if only class tokens are read after it.

    The model is run a few times: on the meta device if possible, else a copy. Only a model that cannot be copied is run
    itself; its buffers, attributes, modes and random states are restored.

    Args:
        model: the network.
        block: a name of `gcnet.list_blocks()`, or a builder of your own, `channels -> module`.
        ratio: the paper's r; None for the default: 16, or the largest of 8, 4, 2 that leaves four channels at every
            site.
        stages: the paper's numbers, 2 to 5 for c2 to c5 (c4 is `layer3`, with stride 16); in CIFAR ResNets 1 to 3.
        blocks: indices within each stage, negative from its end; by default all.
        position: in residual blocks, "after_norm" (after1x1 in the paper: after the last norm, before the addition; the
            default with stages), "after_add" (the output) or "after_conv2" (after norm and activation of the second
            convolution, bottlenecks only).
        at: instead of stages: module names, patterns (`layer3.*`; of nested matches the outermost), module types or
            their names, or "c3" for a whole stage; one or several. A plain Sequential means its last child.
        example_input: input to run the network on: a tensor, a tuple of arguments, a dict of keyword arguments, or a
            shape with or without the batch; by default the size that the network names, else 224 pixels.
        layout: "channels_first", "channels_last" or "tokens", (N, P, C), for all sites; by default measured by running
            the network on a second size, else inferred from its layers.
        prefix_tokens: number of class tokens and registers at the start of tokens, or (start, end); by default measured
            by running the network on two images, in which they are equal.
        **options: further options of the block.

    Returns:
        The sites and the added parameters; `str()` gives them in one line.

    Raises:
        UserError: an unknown name, option, stage, index or position; a site that cannot take a block, does not run, or
            has an unknown layout; a network that does not run on `example_input`. The model is then unchanged.

    Example:
        >>> from torchvision.models import resnet18
        >>> insertion = insert(resnet18(), "gc", ratio=16)
        >>> len(insertion.sites), insertion.parameters
        (6, 89942)
    """
    check_network(model)
    refuse_fused(model, "changed")
    check_options(block, options)
    if at is not None and (stages is not None or blocks is not None):
        raise UserError("`at` cannot be combined with `stages` or `blocks`")
    _require_plain(model)
    chooser = SiteChooser(model, example_input, layout=layout, prefix_tokens=prefix_tokens)
    choice = chooser.by_stage(stages, blocks, position) if at is None else chooser.by_name(at, position)
    if ratio is None and "ratio" in block_options(block):
        ratio = choice.default_ratio
    request = InsertRequest(
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


def put(model: nn.Module, block: str | Builder, request: InsertRequest, choice: SiteChoice) -> Insertion:
    """Build and attach the blocks of a request; if one of them does not run, all are removed again.

    Args:
        model: the network.
        block: a name of `gcnet.list_blocks()`, or a builder.
        request: the call of `insert`.
        choice: the sites.

    Returns:
        The sites and the added parameters.

    Raises:
        UserError: as for `insert`.
    """
    modules = [(name, model.get_submodule(name)) for name in choice.sites]
    for name, module in modules:
        check_no_context(name, module)
        if request.position is not None:
            check_position(name, module, request.position)
    built = []
    for (name, module), layout in zip(modules, choice.sites.values(), strict=True):
        with torch.inference_mode(False), build_device(model, name):
            context = build_block(
                block, channels=layout.channels, ratio=request.ratio, dims=layout.dims, **request.options
            )
            built.append((module, match_module(context, model, name), Installed(request, layout)))
    for module, context, installed in built:
        install(module, context, installed)
    keep_padding(model, {module for _, module in installed_modules(model)})
    try:
        if choice.run is not None:
            _require_all_run(model, choice.sites, choice.run.example)
    except BaseException:
        for module, _, _ in built:
            uninstall(module)
        keep_padding(model, {module for _, module in installed_modules(model)})
        raise
    return describe(request, modules)


def _require_all_run(model: nn.Module, names: Collection[str], example: Example) -> None:
    """Run the network with its blocks, each of which must run once per call of its module and keep the shape."""
    try:
        run = run_once(model, example, names=[f"{name}.context" for name in names], partial=True)
    except CannotRun as error:
        raise UserError(f"the network runs without the blocks and fails with them: {error.reason}") from error.__cause__
    for name in names:
        expected, calls = len(run.of(name)), run.of(f"{name}.context")
        if len(calls) != expected:
            raise UserError(
                f"{name} cannot take a block: the network calls the children of {name} itself, but the block ran "
                f"{len(calls)} times in {expected} calls; use another module"
            )
        for call in calls:
            before, after = tuple(call.inputs[0].shape), getattr(call.tensor, "shape", None)
            if after != before:
                shown = type(call.output).__name__ if after is None else tuple(after)
                raise UserError(
                    f"a block must keep the shape of its input, and at {name} it returns {shown} for {before}"
                )


def _require_plain(model: nn.Module) -> None:
    """Raise UserError for networks with lazy parameters, and for wrapped or compiled ones."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("the network is TorchScript: insert before torch.jit")
    for name, module in model.named_modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise UserError("DistributedDataParallel does not synchronize added parameters: insert before wrapping")
        if _FULLY_SHARDED.intersection(kind.__name__ for kind in type(module).__mro__):
            raise UserError(f"{name or 'the network'} is already fully sharded (FSDP): insert before sharding")
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise UserError(f"{name or 'the network'} is already compiled: insert before torch.compile")
        if any(isinstance(value, nn.UninitializedParameter) for value in module.parameters(recurse=False)):
            raise UserError(f"{name or 'the network'} has lazy parameters: run the network once, then insert")


def _own_name(block: Builder) -> str:
    return f"{block.__module__}.{getattr(block, '__qualname__', repr(block))}"


def replace(model: nn.Module, sites: str | Collection[str], block: str, *, ratio: float | None = None) -> None:
    """Replace inserted blocks by new ones at the same sites, in place.

    Args:
        model: the network.
        sites: names of modules that have a block (`layer3.4`); one or several.
        block: a name of `gcnet.list_blocks()`.
        ratio: the paper's r; None for the default of `gcnet.insert` at each site.

    Raises:
        UserError: a module has no block, or the new block does not accept the ratio or the channels of a site. The
            model is then unchanged.
    """
    check_network(model)
    refuse_fused(model, "changed")
    if ratio is not None:
        check_options(block, {"ratio": ratio})
    wanted = {sites} if isinstance(sites, str) else set(sites)
    holders = dict(installed_modules(model))
    missing = sorted(wanted - set(holders))
    if missing:
        proposal = nearest(missing[0], holders)
        raise UserError(f"`sites` must be modules with an inserted block, found {', '.join(missing)}{proposal}")
    modules = {name: module for name, module in holders.items() if name in wanted}
    ratios = _ratios(modules, ratio) if "ratio" in block_options(block) else dict.fromkeys(modules)
    requests: dict[tuple[str | None, float | None], InsertRequest] = {}
    built = []
    for name, module in modules.items():
        layout, position, width = _layout(module), _position(module), ratios[name]
        order = next_order(model) + len(requests)
        new = InsertRequest(order, block, False, width, None, None, position, {})
        request = requests.setdefault((position, width), new)
        context = build_block(block, channels=layout.channels, ratio=width, dims=layout.dims)
        built.append((module, match_module(context, model, name), Installed(request, layout)))
    for module, context, installed in built:
        uninstall(module)
        install(module, context, installed)


def _ratios(modules: dict[str, nn.Module], ratio: float | None) -> dict[str, float | None]:
    """The ratio of each site: as given, or the default of its residual family, or the largest for all other sites."""
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
    """Insert the blocks of one record of `insertion_records`, without running the network.

    Args:
        model: the network.
        record: the record.
        builders: the user's own builders by name.

    Raises:
        UserError: an invalid record, a site that the network does not have, or a missing builder.
    """
    check_record(record)
    name: str = record["block"]
    if record["custom"] and name not in builders:
        raise UserError(f'the block "{name}" is not one of gcnet.list_blocks(): pass builders={{"{name}": builder}}')
    block = builders[name] if record["custom"] else name
    arguments = {key: record[key] for key in ("ratio", "stages", "blocks", "position")}
    if "places" not in record:  # files of early versions, for ResNets only
        insert(model, block, **arguments, **record["options"])
        return
    sites = {site["name"]: Layout(**{key: site[key] for key in site if key != "name"}) for site in record["places"]}
    names = {name for name, _ in model.named_modules()}
    for site in sites:
        if site not in names:
            raise UserError(f"blocks were inserted at {site}, which this network does not have{nearest(site, names)}")
    request = InsertRequest(next_order(model), name, record["custom"], **arguments, options=dict(record["options"]))
    put(model, block, request, SiteChoice(sites, record["position"], record["stages"], None, None))
