"""Tables of the GCNet paper as rows, and the costs of their networks."""
