"""Proximal policy optimisation: learn to score higher by a reward model."""
