"""What makes a safe copy due, table by table, and what of it is somebody's work.

Every table, and every column that changes in place, is named here: watched, or with the reason why not.
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
    """Which rows are looked at."""

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
# What a copy is made for; every other table, and column that changes in place, is in NOT_WATCHED.
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
# Tables, columns that change in place, and `rowid` for rows that go, that make no copy due, with the reason.
NOT_WATCHED: Final[Mapping[str, str]] = {
    "session": "signing in again makes a new one",
    "sign_in_link": "made anew at each start",
    "claim": "hand-outs; what came of them is a judgement",
    "comparison_response": "added with its comparison",
    "bulk_change_comparison": "changes with a bulk change, a judgement, an account, a group or a quota",
    "event": "the progress of jobs",
    "chat": "tried out and gone",
    "safe_copy": "what copies themselves write",
    "comparison.taken": "hand-outs",
    **dict.fromkeys(
        ("comparison.judged", "comparison.last_judged", "comparison.flagged", "comparison.opinion"),
        "counted from judgements and exclusions",
    ),
    "comparison.assigned": "counted from the bulk changes",
    "comparison.state": "changes with a bulk change, a gold decision, a setting, a model, or as answers are written",
    "comparison.model_id": "as answers are written",
    **dict.fromkeys(("comparison.purpose", "comparison.expected"), "change with a gold decision"),
    **dict.fromkeys(
        (
            *("comparison.asks", "comparison.asks_why", "comparison.people_chance", "comparison.people_drawn"),
            "comparison.people_given",
        ),
        "change with a bulk change, a setting, a decision, a judge, a verdict, a job, or ASKED_OF_CANDIDATES",
    ),
    "prompt.split": "changes with a job",
    "prompt.held_for": "changes with a setting",
    "prompt.import_id": "changes with a setting: of an import that never came to its end",
    **dict.fromkeys(("prompt.rowid", "response.rowid", "import.rowid"), "of an import that never came to its end"),
    **dict.fromkeys(
        (
            *("response.state", "response.text", "response.tokens", "response.prompt_tokens", "response.token_ids"),
            *("response.finish_reason", "response.dropped", "response.precision"),
        ),
        "as an answer is written, after its row is",
    ),
    "verdict.rowid": "makes room for another one",
    "score.rowid": "makes room for another one",
    **dict.fromkeys(("snapshot.counts", "snapshot.last_judgement_id"), "of the same rows, for another job"),
    **dict.fromkeys(
        (
            *("job.worker", "job.heartbeat", "job.attempt", "job.created", "job.started", "job.finished", "job.step"),
            *("job.steps", "job.message", "job.reason", "job.result", "job.spec"),
        ),
        "the progress of jobs; at its end the status changes",
    ),
    **dict.fromkeys(("rental.url", "rental.batches", "rental.stage", "rental.seconds", "rental.cleared"), "progress"),
    "bulk_change.undone_by": "changes with `undone`",
    "gold_decision.previous_state": "changes with `bulk_change.undone`",
    **dict.fromkeys(
        ("run_label.name", "run_label.tags", "run_label.notes", "run_label.changed_by"), "change with `changed`"
    ),
}
# Settings that the program writes by itself: also which prompts were held out for a check that the loop asked for, what
# a base's files hash to, its template too, its commit on the Hub, and how often a judge was called.
OWN_SETTINGS: Final = (
    *(CHOICE, SAFE_WORK, BEGINNING, access.RULES, word_index.INDEXED),
    *("held_out_sets", "gate_sets", "base_sha256", "base_commit", "base_content"),
)
# What people do beside judging: nothing in a database that a program has only just set up. What else is watched is in
# NOT_WORK.
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
NOT_WORK: Final[Mapping[str, str]] = {
    "judgement": "counted for itself",
    "response": "the model's, or added with a judgement",
    **dict.fromkeys(("verdict", "score", "snapshot"), "the machines'"),
    "annotator.language": "the browser's, mostly; chosen again with a click",
    "job.status": "changes as it is done",
    **dict.fromkeys(("rental.namespace", "rental.hub_job"), "come from the Hub"),
}


def state_mark(db: Database) -> str:
    """Changes whenever something that is worth keeping does; not with the heartbeats of workers."""
    return json.dumps([db.value(ASKED_OF_CANDIDATES), *(watch.state(db, name) for name, watch in WATCHED.items())])


def work(db: Database) -> str:
    """Changes whenever people do something beside judging that would be missed; empty if they have done nothing."""
    found = [watch.state(db, name) for name, watch in WORK.items()]
    return sha256(json.dumps(found).encode()).hexdigest() if any(found) else ""
