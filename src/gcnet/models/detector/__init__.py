"""Mask R-CNN on a residual network with context blocks, its numerics a bundle of parts (arXiv 1703.06870)."""
