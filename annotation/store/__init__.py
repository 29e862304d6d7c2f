"""The rows that all sides share: prompts, answers, comparisons, judgements as they stand, settings; records out.

Not here: how judgements are made (`annotation.claims`), jobs (`annotation.jobs`), and what only models need
(`rlhf.models.registry` and its siblings).
"""
