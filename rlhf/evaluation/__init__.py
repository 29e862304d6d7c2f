"""Which model is better: the check of a candidate and its report, win rates, the gate and its decision, in words too.

Not here: asking judges (`rlhf.judges`) and people (`annotation`), and pages about it (`rlhf.tabs.iterations`).
"""
