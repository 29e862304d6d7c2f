"""The pages about jobs and models, a package a page; the only place on this side that imports gradio.

Each page is a tab (`*_tab`), its parts, and pure functions that make its words. Not here: anything that decides.
"""
