"""The same weights in two precisions: how far apart they are as policies, by a fixed plain text.

Not here: in which precisions weights are loaded (`rlhf.models.loading`).
"""
