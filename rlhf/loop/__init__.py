"""The loop: where the iteration stands and what comes next, and the supervisor that starts and watches workers.

Not here: what is decided about a candidate (`rlhf.evaluation`), and the jobs' rows (`rlhf.jobs`).
"""
