"""Tensors in, tensors out: the sums over positions that context models are made of, without modules or parameters."""
