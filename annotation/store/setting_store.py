"""What is set once for the whole program, by its key, as JSON."""

from __future__ import annotations

import json
from typing import Any

from annotation.database import Database


def setting(db: Database, key: str, default: Any) -> Any:
    stored = db.value("SELECT value FROM setting WHERE key = ?", (key,))
    return default if stored is None else json.loads(stored)


def set_setting(db: Database, key: str, value: Any) -> None:
    db.write("INSERT OR REPLACE INTO setting (key, value) VALUES (?, ?)", (key, json.dumps(value)))


# The setting that names an import which goes on in pieces, or whose rest was not cleared away yet.
UNFINISHED = "unfinished_import"


def arriving(table: str) -> str:
    """The condition that a row of a table, by its name in a query, came with such an import."""
    return f"EXISTS (SELECT 1 FROM setting WHERE key = '{UNFINISHED}' AND value = {table}.import_id)"
