"""The gate at work: a candidate's findings read from the rows, the decision on it, and what follows. Torch-free.

Not here: the rule, which is pure (`rlhf.evaluation.gate`), and what is measured (`rlhf.evaluation`).
"""
