"""Direct preference optimisation: learn from pairs, without a reward model."""
