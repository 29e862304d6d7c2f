"""Proximal policy optimisation: learn to score higher by a reward model.

Not here: training the reward model (`rlhf.algorithms.reward_model`).
"""
