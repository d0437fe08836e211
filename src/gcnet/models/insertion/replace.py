"""Other blocks in place of inserted ones."""

from collections.abc import Collection

from torch import nn

from gcnet.blocks import block_options, build_block, check_options
from gcnet.errors import UserError, nearest
from gcnet.models.insertion.choice import narrow_ratio
from gcnet.models.insertion.installed import (
    Installed,
    Request,
    install,
    installed_modules,
    match_host,
    next_order,
    uninstall,
)
from gcnet.models.insertion.layout import Layout
from gcnet.models.insertion.residual import residual_family


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
        raise UserError(f"places must be modules with an inserted block, found {', '.join(missing)}{proposal}")
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
