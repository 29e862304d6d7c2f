"""How layers with an adapter are computed, and those below them, which training leaves as they are.

Not here: what an adapter looks like and which weights it gets (`rlhf.models.loading`).
"""
