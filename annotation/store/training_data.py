"""What can be trained on besides judgements, and how much of all that is new."""

from __future__ import annotations

import json
from collections.abc import Iterator

from annotation.database import Database
from annotation.records import Demonstration
from annotation.store.project_store import feedback
from annotation.store.setting_store import UNFINISHED, arriving, setting


def demonstrations(db: Database) -> Iterator[Demonstration]:
    """Answers that people wrote or that were imported as examples, without a comparison, oldest first."""
    rows = db.connection.query(
        f"""SELECT r.id, r.prompt_id, p.split, p.messages, r.text, r.origin, a.name AS annotator, r.created
            FROM response r JOIN prompt p ON p.id = r.prompt_id LEFT JOIN annotator a ON a.id = r.annotator_id
            WHERE r.purpose = 'demonstrate' AND r.edited_from IS NULL AND NOT {arriving("r")}
            ORDER BY r.id"""
    )
    for row in rows:
        yield Demonstration(**{**row, "messages": tuple(json.loads(row["messages"]))})


def new_to_train_on(db: Database, since: str) -> int:
    """Judgements since then that a training could learn from: people's, imported ones, and what judges alone have said.

    Not those on held-out prompts and of candidates, of whom is left out, flagged, or from before the answers ended; nor
    judges' ties, which label nothing, and none of theirs while people alone are to judge.
    """
    return int(
        db.value(
            """SELECT count(*) FROM (
                   SELECT DISTINCT j.comparison_id, iif(j.purpose = 'judge', 0, j.annotator_id)
                   FROM current_judgement j JOIN comparison c ON c.id = j.comparison_id
                       JOIN prompt p ON p.id = c.prompt_id
                   WHERE j.created > :since AND j.outcome != 'skip' AND p.split = 'train' AND c.candidate_id IS NULL
                     AND NOT j.early
                     AND NOT EXISTS (SELECT 1 FROM current_judgement f
                         WHERE f.comparison_id = j.comparison_id AND f.flag NOT NULL
                           AND f.annotator_id NOT IN (SELECT annotator_id FROM excluded_annotator))
                     AND j.annotator_id NOT IN (SELECT annotator_id FROM excluded_annotator)
                     AND c.purpose = 'preference' AND (j.purpose IN ('own', 'settle', 'import') OR :judges AND
                         j.purpose = 'judge' AND j.ranking GLOB '*[2-8]*'
                         AND NOT EXISTS (SELECT 1 FROM current_judgement o
                             WHERE o.comparison_id = j.comparison_id AND o.purpose != 'judge')))""",
            {"since": since, "judges": feedback(db).mode != "people"},
        )
    )


def data_mark(db: Database) -> list[int | str | None]:
    """Changes whenever what can be trained on may: judgements, who is left out, demonstrations, prompts, who judges."""
    counted = (
        "SELECT max(id) FROM judgement",
        "SELECT max(id) FROM exclusion",
        "SELECT max(id) FROM response WHERE purpose = 'demonstrate'",
        "SELECT max(id) FROM prompt",
        "SELECT count(*) FROM prompt WHERE split = 'held-out'",
        "SELECT count(*) FROM prompt WHERE held_for > 0",
    )
    return [*(db.value(question) for question in counted), setting(db, UNFINISHED, None), feedback(db).mode]
