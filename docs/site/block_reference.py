"""The block reference, from the `BlockSpec` of every block."""

import inspect
import re

from gcnet.blocks import BLOCKS, BlockSpec, build_block
from gcnet.text_files import markdown_table

_CHANNELS = 256
_INTRODUCTION = f"""# Block reference

A block computes a context of the feature map, transforms it, and fuses the result with the map. Parameters are those of
a block with the default options for {_CHANNELS} channels. In formulas, x_i is the input and y_i the output at
position i; C, P and C' are the channels of the map, of the bottleneck and of the embeddings.
[Choosing a block](blocks.md) compares cost and accuracy.
`gcnet blocks` prints these tables for other numbers of channels.
"""


def block_page() -> str:
    """Return the page: a table of all blocks, then a section for each."""
    rows = [(f"[`{name}`](#{name})", *_parts(spec), f"{parameters(name):,}") for name, spec in BLOCKS.items()]
    table = markdown_table(("block", "context", "transform", "fusion", "parameters"), rows, right=("parameters",))
    return "\n\n".join([_INTRODUCTION + "\n" + table, *(_section(name, spec) for name, spec in BLOCKS.items())]) + "\n"


def parameters(name: str) -> int:
    """Return the number of parameters of the block `name` with its default options."""
    return sum(parameter.numel() for parameter in build_block(name, channels=_CHANNELS).parameters())


def _parts(spec: BlockSpec) -> tuple[str, str, str]:
    return spec.context, spec.transform, spec.fusion


def _section(name: str, spec: BlockSpec) -> str:
    """Description with the formula, parts, source and options of a block."""
    description = (inspect.getdoc(spec.build) or "").partition("\nArgs:")[0].strip()
    source = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", spec.source)
    rows = [
        *zip(("context", "transform", "fusion"), _parts(spec), strict=True),
        ("parameters", f"{parameters(name):,}"),
        ("source", source),
    ]
    table = markdown_table(("part", name), rows, right=())
    return f"## {name} {{ #{name} }}\n\n{description}\n\n{table}\n\n{_options(spec)}".rstrip()


def _options(spec: BlockSpec) -> str:
    """A table of the options of a block."""
    if not spec.options:
        return "No options."
    defaults = {key: value.default for key, value in inspect.signature(spec.build).parameters.items()}
    rows = [(f"`{option}`", text, f"`{defaults[option]!r}`") for option, text in spec.options.items()]
    return markdown_table(("option", "description", "default"), rows, right=())
