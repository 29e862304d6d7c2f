"""What makes a safe copy due, table by table, and what of it is somebody's work.

Every other table, and column that changes in place, is named in `tests/annotation/copies/test_copy_reasons.py` with the
reason why not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, cast

from annotation.database import Database
from annotation.web import access
from annotation.workbench import word_index

CHOICE: Final = "restore_choice"
# The setting that says what admins should know of how this database began; empty for nothing.
BEGINNING: Final = "beginning"
# The setting that says what people had done when this database began or was last copied.
SAFE_WORK: Final = "safe_work"
# The jobs that train, answer and judge, here or on rented hardware.
TRAINING: Final = "(lane = 'device' OR flavor IS NOT NULL)"


@dataclass(frozen=True)
class WatchedRows:
    """By what it is seen that a table has changed."""

    columns: tuple[str, ...] = ()
    """Read of every row, where they change in place or rows go; without any the newest row tells."""
    where: str = "1"

    def state(self, db: Database, table: str) -> int | str | None:
        """Changes with the table; None without rows. SQLite puts it together: that costs a tenth of doing it here."""
        if not self.columns:
            return cast(int | None, db.value(f'SELECT max(rowid) FROM "{table}" WHERE {self.where}'))
        named = ", ".join(self.columns)
        return cast(
            str | None,
            db.value(
                f"""SELECT json_group_array(json_array({named}))
                    FROM (SELECT {named} FROM "{table}" WHERE {self.where} ORDER BY {named}) HAVING count(*)"""
            ),
        )


ADDED: Final = WatchedRows()
# A candidate's comparisons that people are asked about: somebody may have asked, and nothing else tells. No work: the
# loop asks, too, and a click asks anew.
ASKED_OF_CANDIDATES: Final = """SELECT count(*) FROM comparison WHERE asks = 'people'
    AND candidate_id IN (SELECT id FROM model WHERE status = 'candidate')"""
# What a copy is made for.
WATCHED: Final[Mapping[str, WatchedRows]] = {
    **dict.fromkeys(("judgement", "prompt", "response", "comparison", "decision", "import", "guidelines"), ADDED),
    **dict.fromkeys(("exclusion", "gold_decision", "rubric", "verdict", "snapshot", "score", "publication"), ADDED),
    "setting": WatchedRows(("key", "value"), f"key != '{SAFE_WORK}'"),
    "annotator": WatchedRows(
        ("id", "name", "role", "active", "password_hash", "hub_id", "quota", "invitation_id", "language")
    ),
    "annotator_group": WatchedRows(("name", "annotator_id")),
    "invitation": WatchedRows(("id", "used", "withdrawn")),
    "bulk_change": WatchedRows(("id", "undone", "undone_for")),
    "model": WatchedRows(("id", "status", "deleted", "precision", "thinking")),
    "judge": WatchedRows(("annotator_id", "active")),
    # Of what the Hub's and the web server's lanes do, what came of it is in tables of its own.
    "job": WatchedRows(("id", "status", "position"), f"{TRAINING} AND kind != 'answering'"),
    "run_label": WatchedRows(("job_id", "changed")),
    "rental": WatchedRows(("job_id", "namespace", "hub_job")),
}
# Settings that the program writes by itself: also which prompts were held out for a check that the loop asked for, what
# a base's files hash to, its template too, its commit on the Hub, and how often a judge was called.
OWN_SETTINGS: Final = (
    *(CHOICE, SAFE_WORK, BEGINNING, access.RULES, word_index.INDEXED),
    *("held_out_sets", "gate_sets", "base_sha256", "base_commit", "base_content"),
)
# What people do beside judging: nothing in a database that a program has only just set up.
WORK: Final[Mapping[str, WatchedRows]] = {
    **dict.fromkeys(("import", "decision", "guidelines", "rubric", "exclusion", "gold_decision"), ADDED),
    "publication": ADDED,
    "rental": WatchedRows(("job_id",)),
    "prompt": WatchedRows(where="source != 'starter'"),
    "comparison": WatchedRows(where="asked_by IN (SELECT id FROM annotator)"),
    "setting": WatchedRows(("key", "value"), f"key NOT IN {OWN_SETTINGS} AND key NOT LIKE 'calls of judge %'"),
    "annotator": WatchedRows(
        ("id", "name", "role", "active", "password_hash", "hub_id", "quota", "invitation_id"),
        "NOT (name = 'owner' AND role = 'admin' AND active AND password_hash IS NULL AND quota IS NULL)",
    ),
    **{name: WATCHED[name] for name in ("annotator_group", "invitation", "bulk_change", "judge", "run_label")},
    "model": WatchedRows(WATCHED["model"].columns, "algorithm != 'base' OR status != 'serving'"),
    # Names of people have no blanks: what acts by itself is called "the loop", say.
    "job": WatchedRows(
        ("id", "position"),
        f"{WATCHED['job'].where} AND (requested_by NOT LIKE '% %' OR requested_by = 'the command line')",
    ),
}


def state_mark(db: Database) -> str:
    """Changes whenever something that is worth keeping does; not with the heartbeats of workers."""
    return json.dumps([db.value(ASKED_OF_CANDIDATES), *(watch.state(db, name) for name, watch in WATCHED.items())])


def work(db: Database) -> str:
    """Changes whenever people do something beside judging that would be missed; empty if they have done nothing."""
    found = [watch.state(db, name) for name, watch in WORK.items()]
    return sha256(json.dumps(found).encode()).hexdigest() if any(found) else ""
