"""Subcommands of `python -m rlhf`, a module for each subject: arguments, what is printed, and waiting for a job's end.

Not here: what the page can do as well, which stands with its subject (`rlhf.submission`, `rlhf.evaluation`, …).
"""
