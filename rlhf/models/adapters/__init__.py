"""Adapters: their files as records, how layers with one are computed, and those below, which training leaves alone.

Not here: which weights an adapter gets, and how it is hung on a model (`rlhf.models.loading`).
"""
