"""Direct preference optimisation: learn from which of two answers people prefer.

Not here: the loss of an order, which reward models share (`rlhf.algorithms.comparisons`), and the trainer that other
algorithms use, too (`rlhf.algorithms.trl_trainer`).
"""
