"""Proximal policy optimisation: learn to score higher by a reward model.

Not here: advantages and losses (`rlhf.algorithms.losses`), and training the reward model
(`rlhf.algorithms.reward_model`).
"""
