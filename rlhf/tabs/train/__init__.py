"""The Train page: a form for each kind of training, what a run would learn from and cost, renting hardware for it.

Not here: what a run learns from and costs (`rlhf.submission`), and a run once it is queued (`rlhf.tabs.runs`).
"""
