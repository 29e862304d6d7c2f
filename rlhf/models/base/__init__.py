"""The base model: found, checked, told apart from others of its name, and held in the precision that suits the machine.

Not here: what its files may say (`model_files`), and whether it computes rightly (`self_test`).
"""
