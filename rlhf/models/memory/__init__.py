"""Before a run: what would be trained, and the memory it takes on this machine. Torch-free.

Not here: how long it takes (`rlhf.submission.step_time`), and what the form says of it (`rlhf.tabs.train`).
"""
