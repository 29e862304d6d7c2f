"""Reward models: learn from comparisons to score answers."""
