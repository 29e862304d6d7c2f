"""The pages for people, and the parts all pages are built from: the only package of `annotation` that imports gradio.

Not here: what HTML and charts are built from (`annotation.ui`), and anything that writes a row.
"""
