"""The web server's doors: middleware, signing in, accounts and roles, what a Space says. No gradio.

Not here: the pages behind the doors (`annotation.tabs`), and the endpoints of the Annotate page (`annotation.api`).
"""
