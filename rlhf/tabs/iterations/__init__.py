"""The Iterations page: where the loop stands, how candidates did, the gate's rule, and an admin's decisions.

Not here: the loop's steps (`rlhf.loop`), and what the gate decides (`rlhf.evaluation`).
"""
