"""All comparisons as data: filtered, listed, counted, changed many at once, and the history of each.

Not here: handing out and judging (`annotation.claims`), and how the labels stand (`annotation.metrics`).
"""
