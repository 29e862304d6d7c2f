"""Comparisons in people's hands: handing them out, and their judgements: made, taken back, changed and settled.

Not here: the draws behind handing out (`annotation.selection`), who may sign in (`annotation.web`), and looking at all
comparisons and changing many at once (`annotation.workbench`).
"""
