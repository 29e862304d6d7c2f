"""Whether a model can be computed rightly: tried once when a base is prepared, and kept.

Not here: whether its files are whole, its template works and its memory suffices (`rlhf.models.base_model`).
"""
