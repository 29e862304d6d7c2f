"""Direct preference optimisation: learn from which of two answers people prefer.

Not here: the losses themselves (`rlhf.algorithms.losses`), and the trainer that other algorithms use, too
(`rlhf.algorithms.trl_trainer`).
"""
