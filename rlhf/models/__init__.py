"""Models: their rows and lineage, files, templates and tokens, a reward model's quality, weights in memory, sampling.

Not here: how weights are trained (`rlhf.algorithms`) and which model is better (`rlhf.evaluation`).
"""
