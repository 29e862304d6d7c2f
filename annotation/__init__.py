"""People: prompts, comparisons, judgements and the accounts that make them. Never imports torch or transformers.

Not here: what is done with models (`rlhf`), which imports this package and never the reverse.
"""
