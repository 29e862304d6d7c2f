"""What is loaded into memory: tokenizers, weights, adapters on them, and policies, one of them active at a time.

Not here: whether a model can be computed (`rlhf.models.self_test`), and what an adapter computes (`adapters`).
"""
