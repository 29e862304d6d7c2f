"""All comparisons as data: filtered, listed, changed many at once, the history of each; what admins decide about labels.

Not here: handing out and judging (`annotation.claims`), and how the labels stand (`annotation.metrics`).
"""
