"""How good labels are: agreement, biases, reliability, strengths, and tests that may be looked at at any time.

Not here: sentences and charts about these figures (`annotation.tabs`), and what is measured of models
(`rlhf.evaluation`).
"""
