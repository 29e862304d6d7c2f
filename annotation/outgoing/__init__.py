"""Data out: judgements in the formats that others train on, and everything as a lossless archive."""
