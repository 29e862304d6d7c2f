"""How good labels are: agreement, biases, reliability, strengths, and tests that hold however often one looks.

Not here: sentences and charts about these figures (`annotation.tabs`), and what is measured of models
(`rlhf.evaluation`).
"""
