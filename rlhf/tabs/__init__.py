"""The pages about jobs and models, a package each; the only package of `rlhf` that imports gradio.

A page is a tab (`*_tab`), its parts, and pure functions that make its words. Not here: how anything is decided.
"""
