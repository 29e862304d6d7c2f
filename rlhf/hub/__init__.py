"""Everything that needs the Hub: models and data to and fro, Spaces, rented hardware, the process with the token.

Not here: the client and its sentences (`annotation.hub_client`), and safe copies (`annotation.backup`).
"""
