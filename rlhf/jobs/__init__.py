"""A job: its spec, its row from queued to done, its run, and the files it leaves.

Not here: what a job is frozen from and whether it may start (`rlhf.submission`); `rlhf.kinds` lists where each is done,
by processes of `rlhf.workers`.
"""
