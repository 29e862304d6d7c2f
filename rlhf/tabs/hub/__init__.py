"""The Hub page: models and data to and fro, this program as a Space, how safe copies stand."""
