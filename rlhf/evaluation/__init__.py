"""Which model is better: the check of a candidate, win rates, the gate and its decision, reward models' quality.

Not here: asking judges (`rlhf.judges`) and people (`annotation`), and pages about it (`rlhf.tabs.iterations`).
"""
