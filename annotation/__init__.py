"""People: prompts, comparisons, judgements and the accounts that make them. Never imports torch or transformers."""
