"""The Hub page: models and data sent and fetched, this program as a Space, how safe copies stand."""
