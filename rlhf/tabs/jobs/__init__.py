"""What several pages show of a job and of the policy that comes of it, and what an admin decides about that policy.

Not here: a page (each has a package of its own), and the jobs' rows (`rlhf.jobs`).
"""
