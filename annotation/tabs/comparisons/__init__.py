"""The table of all comparisons on the Data tab: filters, bulk changes, the page of each, statistics.

Not here: what is counted and changed (`annotation.workbench`), import and export (`annotation.tabs`).
"""
