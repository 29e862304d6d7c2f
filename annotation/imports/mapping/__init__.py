"""Raw rows to records: what columns are there for, what their cells say, and what becomes of a row, or why not. Pure.

Not here: how files are read (`annotation.imports.sources`), and where records go (`annotation.imports.staging`).
"""
