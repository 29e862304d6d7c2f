"""Supervised fine-tuning: learn to give demonstrated answers."""
