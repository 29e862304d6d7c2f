"""Proximal policy optimisation: learn to give answers that a reward model scores highly."""
