"""An annotator."""

from __future__ import annotations

import pytest

from annotation.database import Database
from annotation.records import Annotator
from annotation.web import access


@pytest.fixture
def ann(db: Database) -> Annotator:
    return access.add_account(db, "ann", "annotator", "ann's password")
