"""Data that ships with Prefloop: examples to train on (sentiment of financial news, careful answers to questions on
health), and the probes and the plain text that checks read.

Not here: the prompts that a new data directory begins with (`annotation.imports`), and freezing examples for a training
(`rlhf.data`).
"""
