"""The AI judges page: the judges, how far each can be trusted, their jobs, and the rubric.

Not here: asking judges and how far they agree with people (`rlhf.judges`).
"""
