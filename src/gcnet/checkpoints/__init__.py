"""Weights published by others, in our keys: literal key tables, strict."""

from gcnet.checkpoints.blocks import convert_block, infer_block

__all__ = ["convert_block", "infer_block"]
