"""`gcnet blocks`: every block with its parts, parameters and options."""

import inspect
from dataclasses import dataclass

from gcnet.errors import UserError

SUMMARY = "list the blocks with their parameters and options"

_COLUMNS = ("block", "context", "transform", "fusion", "parameters", "source")

# Context, transform and fusion in the paper's words (arXiv 1904.11492, section 3), and where the block is from.
_PARTS = {
    "gc": ("attention pooling", "bottleneck with LayerNorm", "add", "GCNet, arXiv 1904.11492"),
    "snl": ("attention pooling", "linear", "add", "GCNet, arXiv 1904.11492, eq. 4"),
    "se": ("average pooling", "bottleneck", "scale", "SENet, arXiv 1709.01507"),
    "nl_gaussian": ("per query, softmax of x_i.x_j", "linear", "add", "NL, arXiv 1711.07971, eq. 2"),
    "nl_embedded_gaussian": ("per query, softmax of q_i.k_j", "linear", "add", "NL, arXiv 1711.07971, eq. 3"),
    "nl_dot_product": ("per query, q_i.k_j", "linear", "add", "NL, arXiv 1711.07971, eq. 4"),
    "nl_concatenation": ("per query, relu(w.[q_i;k_j])", "linear", "add", "NL, arXiv 1711.07971, eq. 5"),
    "dnl": ("per query, whitened + shared", "linear", "add", "DNL, arXiv 2006.06668"),
    "gc_slots": ("attention pooling into slots", "linear", "add, by query", "after arXiv 1812.01243"),
    "gc_eca": ("attention pooling", "filter over channels", "add", "ours, of GC and ECA"),
    "gc_affine": ("attention pooling", "LayerNorm over channels", "add", "ours, of GC and LCT"),
    "eca": ("average pooling", "filter over channels", "scale", "ECA-Net, arXiv 1910.03151"),
    "ese": ("average pooling", "linear", "hard scale", "CenterMask, arXiv 1911.06667"),
    "lct": ("average pooling", "norm over channel groups", "scale", "LCT, arXiv 1909.03834"),
    "gct": ("average pooling", "Gaussian over channels", "multiply", "Ruan et al., CVPR 2021"),
    "gated_gct": ("l2 norm", "tanh over channels", "scale by 1 + term", "GCT, arXiv 1909.11519"),
    "grn": ("l2 norm", "norm over channels", "scale by 1 + term", "ConvNeXt V2, arXiv 2301.00808"),
    "srm": ("mean and deviation", "by channel, batch norm", "scale", "SRM, arXiv 1903.10829"),
    "fca": ("cosine components", "bottleneck", "scale", "FcaNet, arXiv 2012.11879"),
    "ge": ("average, of all or around", "none or bottleneck", "scale", "GENet, arXiv 1810.12348"),
}


@dataclass(frozen=True)
class Settings:
    """List the blocks: context, transform, fusion, parameters, source and options."""

    channels: int = 256
    """Channels of the map for which parameters are counted."""
    ratio: float = 16
    """Reduction ratio r of the blocks that have one."""
    dims: int = 2
    """Spatial axes of the map: 1, 2 or 3."""


def run(settings: Settings) -> int:
    """Print the table, then the options."""
    from gcnet.blocks import list_blocks
    from gcnet.report.summary import markdown_table

    counts, refusals = _parameters(settings)
    rows = [(name, *_PARTS[name][:3], counts.get(name, "-"), _PARTS[name][3]) for name in list_blocks()]
    print(f"Parameters for {settings.channels} channels" + f", ratio {settings.ratio:g} where a block has one.\n")
    print(markdown_table(_COLUMNS, rows, right=("parameters",)))
    if refusals:
        print("\nWithout a number, since with these channels its defaults do not go:")
        print("\n".join(f"  {name}: {refusal}" for name, refusal in refusals.items()))
    print("\nOptions, with their defaults:")
    print("\n".join(f"  {name}: {_options(name)}" for name in list_blocks()))
    return 0


def _options(name: str) -> str:
    from gcnet.blocks import block_options, find_builder

    parameters = inspect.signature(find_builder(name)).parameters
    return ", ".join(f"{option}={parameters[option].default}" for option in block_options(name)) or "none"


def _parameters(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """Of each block the number of parameters, or why there is none.

    Raises:
        UserError: no block takes such channels, ratio and axes.
    """
    from gcnet.analysis.cost import count_parameters
    from gcnet.blocks import block_options, build_block, list_blocks

    counts, refusals = {}, {}
    for name in list_blocks():
        ratio = settings.ratio if "ratio" in block_options(name) else None
        try:
            block = build_block(name, channels=settings.channels, ratio=ratio, dims=settings.dims)
            counts[name] = f"{count_parameters(block):,}"
        except UserError as error:
            refusals[name] = str(error)
    if not counts:
        raise UserError(next(iter(refusals.values())))
    return counts, refusals
