"""Answers that people see: the answering worker, prompt sets answered at once, the playground's chats.

Not here: the sampler itself (`rlhf.models.sampling`).
"""
