"""A job: its spec, its row from queued to done, the process that does it, and the files it leaves.

Not here: what a job is frozen from and whether it may start (`rlhf.submission`); `rlhf.kinds` lists where each is done.
"""
