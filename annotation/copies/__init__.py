"""Safe copies of the database and the serving adapters: making them, where they lie, and going on from one.

Not here: exports that people read (`annotation.exports`), and speaking to the Hub itself (`annotation.hub_client`).
"""
