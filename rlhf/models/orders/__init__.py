"""Scores of answers by which their order becomes likely or not, and small heads that learn such scores in seconds.

Not here: what trains a model by them (`rlhf.algorithms`); which answers are compared (`rlhf.generation`).
"""
