"""Attacks on a started program, section by section: `python -m tests.attack [--long]`."""
