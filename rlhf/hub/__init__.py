"""What needs the Hub: models and data sent and fetched, with the record of it; Spaces, rented hardware, the token.

Not here: the client and its sentences (`annotation.hub_client`), and safe copies (`annotation.copies`).
"""
