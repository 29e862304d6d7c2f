"""Machines: jobs, training, evaluation and the policies that come of them. Never imports gradio outside rlhf.tabs."""
