"""Example data that ships with Prefloop: sentiment of financial news, and careful answers to questions on health.

Not here: the prompts that a new data directory begins with (`annotation.imports`), and freezing examples for a training
(`rlhf.data`).
"""
