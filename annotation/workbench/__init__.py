"""All comparisons as data: filtered, listed, counted, changed many at once, each with its history; admins' decisions.

Not here: handing out and judging (`annotation.claims`), and how the labels stand (`annotation.metrics`).
"""
