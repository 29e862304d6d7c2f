"""The database that a command works on."""

from __future__ import annotations

import argparse
from typing import Any

from annotation.database import Database, existing_database
from rlhf.jobs import job_store

Commands = Any
"""What `argparse.ArgumentParser.add_subparsers` returns."""


def database_of(options: argparse.Namespace) -> Database:
    """That of the data directory, once jobs whose worker is gone are lost. Raises UserError where there is none."""
    db = existing_database(options.data)
    job_store.mark_lost(db)
    return db
