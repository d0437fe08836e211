"""Mask R-CNN and its cascade on residual networks with context blocks, their conventions a bundle of parts."""
