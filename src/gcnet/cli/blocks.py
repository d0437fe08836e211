"""`gcnet blocks`: every block with its parts, parameters and options."""

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gcnet.arguments import arguments_of
from gcnet.cli.wording import with_flags
from gcnet.errors import UserError

if TYPE_CHECKING:
    from gcnet.blocks import BlockSpec

SUMMARY = "list blocks with parts, parameters and options"

_MOST_CHANNELS = 1_000_000
_PARTS = ("block", "context", "transform", "parameters")
_SOURCES = ("block", "fusion", "source")


@dataclass(frozen=True)
class Settings:
    """List blocks with context, transform, fusion, parameters, source and options."""

    channels: int = 256
    """Number of input channels."""
    ratio: float = 16
    """Reduction ratio of blocks that have one."""
    dims: int = 2
    """Number of spatial dimensions: 1, 2 or 3."""

    def __post_init__(self) -> None:
        """Check the number of channels."""
        if self.channels > _MOST_CHANNELS:
            raise UserError(f"--channels must be at most {_MOST_CHANNELS:,}, found {self.channels}")


def run(settings: Settings) -> int:
    """Print the tables, then the options.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.
    """
    from gcnet.blocks import BLOCKS
    from gcnet.text_files import markdown_table

    counts, refusals = _parameters(settings)
    parts = [(name, spec.context, spec.transform, counts.get(name, "-")) for name, spec in BLOCKS.items()]
    sources = [(name, spec.fusion, spec.source) for name, spec in BLOCKS.items()]
    print(f"Parameters for {settings.channels} channels" + f", ratio {settings.ratio:g} where a block has one.\n")
    print(f"{markdown_table(_PARTS, parts, right=('parameters',))}\n")
    print(markdown_table(_SOURCES, sources, right=()))
    if refusals:
        print("\nNot counted (the default options are invalid for this number of channels):")
        print("\n".join(f"  {name}: {refusal}" for name, refusal in refusals.items()))
    print("\nOptions, with their defaults:")
    for name, spec in BLOCKS.items():
        print(f"  {name}" if spec.options else f"  {name}: none")
        for option, text in _options(spec).items():
            print(f"    {option:<28}  {text}")
    return 0


def _options(spec: "BlockSpec") -> dict[str, str]:
    """Help by option and default, as "ratio=16"."""
    parameters = inspect.signature(spec.build).parameters
    return {f"{option}={parameters[option].default}": text for option, text in spec.options.items()}


def _parameters(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """Numbers of parameters by block, and error messages by block.

    Raises:
        UserError: these channels, ratio and dimensions are invalid for every block.
    """
    import torch

    from gcnet.analysis.cost import count_parameters
    from gcnet.blocks import block_options, build_block, list_blocks

    counts, refusals = {}, {}
    for name in list_blocks():
        ratio = settings.ratio if "ratio" in block_options(name) else None
        try:
            with torch.device("meta"):
                block = build_block(name, channels=settings.channels, ratio=ratio, dims=settings.dims)
            counts[name] = f"{count_parameters(block):,}"
        except UserError as error:
            refusals[name] = with_flags(str(error), arguments_of(Settings))
    if not counts:
        raise UserError(next(iter(refusals.values())))
    return counts, refusals
