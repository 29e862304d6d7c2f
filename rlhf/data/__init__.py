"""What is learnt from and measured on: frozen snapshots, held-out prompts, how many labels are wrong. No torch.

Not here: turning rows into tokens (`rlhf.models`), and rows for others (`annotation.exports`).
"""
