"""From a wish to a queued job: its form, what it would cost and learn from, why it can't start, freezing it. No torch.

Not here: the queue and the workers (`rlhf.jobs`, `rlhf.loop`), and starting jobs unasked (`rlhf.loop`).
"""
