"""A reward model: learn to score answers as people prefer them.

Not here: a trained one that scores and how good it is (`rlhf.models`), and its use as a judge (`rlhf.judges`).
"""
