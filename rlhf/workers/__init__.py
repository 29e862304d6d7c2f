"""Workers: the process that does a job, how it is started or forked, told to end, and what is said of its death.

Not here: a job's row and its run (`rlhf.jobs`), and who starts workers and watches them (`rlhf.loop`).
"""
