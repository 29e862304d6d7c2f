"""Supervised fine-tuning: learn to give demonstrated answers.

Not here: the trainer that other algorithms use, too (`rlhf.algorithms.trl_trainer`), and which demonstrations there are
(`rlhf.data`).
"""
