"""The pages for people, and the parts all pages are built from: the only place on this side that imports gradio.

Not here: HTML and charts (`annotation.ui`), and anything that writes a row.
"""
