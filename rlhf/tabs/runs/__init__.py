"""The Runs page: the queue, one run live, its curves and what came of it, runs compared.

Not here: starting a run (`rlhf.tabs.train`), and the jobs' rows (`rlhf.jobs`).
"""
