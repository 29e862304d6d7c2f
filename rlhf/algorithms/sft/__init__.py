"""Supervised fine-tuning: learn to give the demonstrated answers."""
