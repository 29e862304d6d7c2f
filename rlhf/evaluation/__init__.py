"""Which model is better: the check of a candidate, win rates, the gate's rule and the decision; a reward model's
quality.

Not here: asking judges (`rlhf.judges`) and people (`annotation`), and pages about it (`rlhf.tabs.iterations`).
"""
