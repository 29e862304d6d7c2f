"""Answers that people see: the answering worker, sets of prompts answered at once, the playground's chats.

Not here: the sampler itself (`rlhf.models.sampling`).
"""
