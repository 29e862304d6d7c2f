"""Answers drawn from a model: many prompts at once, several answers each, each by a seed of its own.

Not here: which prompts are answered, and when (`rlhf.generation`); a model's other passes
(`rlhf.models.hidden_states`).
"""
