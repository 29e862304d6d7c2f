"""Data out: judgements as rows that others train on, with a card, and the raw archive.

Not here: freezing them for one training (`rlhf.data`), and safe copies (`annotation.copies`).
"""
