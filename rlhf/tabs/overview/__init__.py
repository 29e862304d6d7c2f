"""The Overview tab and the strip above all tabs: what serves, what came in, what runs, what waits for an admin.

Not here: what is decided and started, which the tabs do that a step leads to.
"""
