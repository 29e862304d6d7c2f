"""Models: their rows, files, templates and tokens, weights in memory, and drawing answers from them.

Not here: how weights are trained (`rlhf.algorithms`) and which model is better (`rlhf.evaluation`).
"""
