"""What pages are made of: HTML, Markdown made safe, charts, figures in words, the stylesheet. No gradio, no database.

Not here: whole pages (`annotation.tabs`, `rlhf.tabs`).
"""
