"""Subcommands of `python -m rlhf`: arguments, what they mean, and what is printed.

Not here: what the commands do.
"""
