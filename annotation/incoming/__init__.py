"""Data in: files and datasets of others become prompts, demonstrations and judgements, whole or not at all."""
