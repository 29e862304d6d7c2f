"""What can be imported, as raw rows: files of every format that is read, directories of datasets, datasets on the Hub.

Not here: what the columns of a row mean (`annotation.imports.mapping`), and reading an archive of our own
(`annotation.exports`).
"""
