"""Servers that stand for others: the Hub, its jobs and sign-in, a chat model's endpoint. Real HTTP on loopback."""
