"""What a comparison of blocks found: its results as data, a table, a figure and one self-contained page."""
