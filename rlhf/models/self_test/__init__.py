"""Whether a model can be computed rightly: tried once, when a base is prepared.

Not here: what is kept of it (`rlhf.models.self_test_results`), and whether files are whole, the template works and
memory suffices (`rlhf.models.base`).
"""
