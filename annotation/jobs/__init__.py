"""What all jobs have in common: their row from queued to done, the lanes they wait in, and the loop that does them.

Not here: what a kind of job does; that stands with its subject (`annotation.exports`, `annotation.imports`, `rlhf`).
"""
