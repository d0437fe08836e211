"""`gcnet blocks`: every block with its parts, options and parameters."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gcnet.errors import UserError

if TYPE_CHECKING:
    from torch import nn

SUMMARY = "list the blocks with their parameters and options"

_COLUMNS = ("block", "context", "transform", "fusion", "parameters", "options", "source")

# Context, transform and fusion in the paper's words (arXiv 1904.11492, section 3), and where the block is from.
_PARTS = {
    "gc": ("attention pooling", "bottleneck with LayerNorm", "add", "GCNet, arXiv 1904.11492"),
    "snl": ("attention pooling", "linear", "add", "GCNet, arXiv 1904.11492, eq. 4"),
    "se": ("average pooling", "bottleneck", "scale", "SENet, arXiv 1709.01507"),
    "nl_gaussian": ("per query, softmax of x_i.x_j", "linear", "add", "Non-local, arXiv 1711.07971, eq. 2"),
    "nl_embedded_gaussian": ("per query, softmax of q_i.k_j", "linear", "add", "Non-local, arXiv 1711.07971, eq. 3"),
    "nl_dot_product": ("per query, q_i.k_j", "linear", "add", "Non-local, arXiv 1711.07971, eq. 4"),
    "nl_concatenation": ("per query, relu(w.[q_i;k_j])", "linear", "add", "Non-local, arXiv 1711.07971, eq. 5"),
}


@dataclass(frozen=True)
class Settings:
    """List the blocks: context, transform, fusion, parameters, options and source."""

    channels: int = 256
    """Channels of the map for which parameters are counted."""
    ratio: float = 16
    """Reduction ratio r of the blocks that have one."""
    dims: int = 2
    """Spatial axes of the map: 1, 2 or 3."""


def run(settings: Settings) -> int:
    """Print the table."""
    from gcnet.analysis.cost import count_parameters
    from gcnet.blocks import block_options, list_blocks
    from gcnet.report.summary import markdown_table

    rows = []
    for name in list_blocks():
        context, transform, fusion, source = _PARTS.get(name, ("-", "-", "-", "-"))
        parameters = f"{count_parameters(_build(name, settings)):,}"
        rows.append((name, context, transform, fusion, parameters, ", ".join(block_options(name)) or "-", source))
    print(f"Parameters for {settings.channels} channels" + f", ratio {settings.ratio:g} where a block has one.\n")
    print(markdown_table(_COLUMNS, rows, right=("parameters",)))
    return 0


def _build(name: str, settings: Settings) -> "nn.Module":
    from gcnet.blocks import block_options, build_block

    ratio = settings.ratio if "ratio" in block_options(name) else None
    try:
        return build_block(name, channels=settings.channels, ratio=ratio, dims=settings.dims)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
