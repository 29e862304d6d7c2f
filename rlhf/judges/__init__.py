"""AI judges: who they are, what they are asked and answer, how far they agree with people, what is left to people.

Not here: what follows for a candidate from their verdicts (`rlhf.evaluation`).
"""
