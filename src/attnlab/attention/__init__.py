"""Attention mechanisms: mathematics only, no Hydra, no Lightning, no TensorBoard."""
