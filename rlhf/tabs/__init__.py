"""The pages about jobs and policies; the only place on this side that imports gradio."""
