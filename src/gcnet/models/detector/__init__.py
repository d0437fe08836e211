"""Mask R-CNN and its cascade on residual networks with context blocks, their numerics a bundle of parts."""
