"""The named blocks: each a composition of the framework's parts with its published values, in one dict."""

from gcnet.blocks.build import BLOCKS, Builder, block_options, build_block, check_options, find_builder, list_blocks

__all__ = ["BLOCKS", "Builder", "block_options", "build_block", "check_options", "find_builder", "list_blocks"]
