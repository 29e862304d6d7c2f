"""The pages for people; with app.py the only place on this side that imports gradio."""
