"""Comparison of blocks: the same network trained with each over seeds, and a report."""
