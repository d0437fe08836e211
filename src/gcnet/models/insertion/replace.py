"""Other blocks in place of inserted ones."""

from collections.abc import Collection

from torch import nn

from gcnet.blocks import block_options
from gcnet.errors import UserError
from gcnet.models.insertion.choice import Choice, narrow_ratio
from gcnet.models.insertion.insert import put
from gcnet.models.insertion.installed import Request, installed_modules, next_order, uninstall
from gcnet.models.insertion.layout import Layout
from gcnet.models.insertion.residual import residual_family


def replace(model: nn.Module, places: Collection[str], block: str, *, ratio: float | None = None) -> None:
    """Put new blocks where inserted ones are, in place; where and on what they act stays.

    Args:
        model: the network.
        places: names of modules that have a block (`layer3.4`).
        block: a name of `gcnet.list_blocks()`.
        ratio: the paper's r; None for the default of `gcnet.insert`.

    Raises:
        UserError: a place has no block, or the new block refuses the channels; the old ones may then be gone.
    """
    found = dict(installed_modules(model))
    missing = sorted(set(places) - set(found))
    if missing:
        raise UserError(f"places must be modules with an inserted block, found {', '.join(missing)}")
    by_position: dict[str | None, dict[str, Layout]] = {}
    for name, module in found.items():
        if name in places:
            installed = vars(module)["context_insertion"]
            by_position.setdefault(installed.request.position, {})[name] = installed.layout
            family = residual_family(module)
            if ratio is None and family is not None:
                ratio = family.default_ratio
            uninstall(module)
    for position, layouts in by_position.items():
        width = (ratio or narrow_ratio(layouts)) if "ratio" in block_options(block) else None
        request = Request(next_order(model), block, False, width, None, None, position, {})
        put(model, block, request, Choice(layouts, position, None, None, None))
