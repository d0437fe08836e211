"""The named blocks: compositions of the framework's parts with published values; `BLOCKS` holds their specs."""

from gcnet.blocks.registry import BLOCKS, block_options, build_block, check_options, find_builder, list_blocks
from gcnet.blocks.spec import BlockShape, BlockSpec, Builder

__all__ = [
    "BLOCKS",
    "BlockShape",
    "BlockSpec",
    "Builder",
    "block_options",
    "build_block",
    "check_options",
    "find_builder",
    "list_blocks",
]
