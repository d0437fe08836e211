"""Residual blocks of known networks whose own forward runs a context block at a position of the paper.

An instance of a library's class becomes one of these by `block.__class__ = ...`, which keeps its weights, their names,
and copying, pickling, compiling and exporting.
"""
