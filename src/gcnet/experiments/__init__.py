"""The tables of GCNet's paper as rows, and what their networks cost."""
