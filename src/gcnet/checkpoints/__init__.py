"""Published weights: one file with a key table per source, and safe reading of files of other libraries."""

from gcnet.checkpoints.convert import convert_block, infer_block

__all__ = ["convert_block", "infer_block"]
