"""Which model is better: the check of a candidate and its report, win rates, the gate's rule and the decision.

Not here: asking judges (`rlhf.judges`) and people (`annotation`), and pages about it (`rlhf.tabs.iterations`).
"""
