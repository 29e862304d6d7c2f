"""AI judges: who they are, what they are asked and answer, how far they agree with people, and what people are left to
judge.

Not here: what follows for a candidate from their verdicts (`rlhf.evaluation`).
"""
