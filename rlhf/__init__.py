"""Machines: jobs, training, checks and the policies that come of them. Never imports gradio outside rlhf.tabs.

Not here: what people do, and what is stored of it (`annotation`).
"""
