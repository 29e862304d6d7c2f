"""AI judges: who they are, what they are asked and answer, and how far they agree with people.

Not here: what follows for a candidate from their verdicts (`rlhf.evaluation`).
"""
