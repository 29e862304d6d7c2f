"""The Hub page: models and data sent and fetched, this program as a Space, how safe copies stand.

Not here: what the Hub is asked (`rlhf.hub`), and making safe copies (`annotation.copies`).
"""
