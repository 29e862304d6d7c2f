"""Data in: files and datasets of others are read, mapped to records and committed, whole or not at all.

Not here: the form that starts an import (`annotation.tabs`), and archives of our own (`annotation.exports`).
"""
