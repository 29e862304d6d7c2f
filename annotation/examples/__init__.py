"""Data that ships with Prefloop: examples to train on, and the probes and the plain text that checks read.

The examples are the sentiment of financial news and careful answers to questions on health.

Not here: the prompts that a new data directory begins with (`annotation.imports`), and freezing examples for a training
(`rlhf.data`).
"""
