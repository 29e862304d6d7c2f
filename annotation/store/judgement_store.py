"""Judgements as they stand, with what they are on; whose are left out; which were there at a time."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from annotation.database import Database
from annotation.records import JudgedAnswer, Judgement
from annotation.store.prompt_store import RESERVED

# Of judgements `j`: that they are on one of the comparisons to train on that were judged last.
JUDGED_LAST = """j.comparison_id IN (SELECT c.id FROM current_judgement l JOIN comparison c ON c.id = l.comparison_id
    JOIN prompt p ON p.id = c.prompt_id WHERE p.split = 'train' AND c.purpose = 'preference' AND l.outcome != 'skip'
    GROUP BY c.id ORDER BY max(l.id) DESC LIMIT :latest)"""
# Of judgements `j`: that somebody edited an answer of their comparison.
EDITED = "j.comparison_id IN (SELECT comparison_id FROM current_judgement WHERE edited_response_id NOT NULL)"


def judged_comparisons(
    db: Database, *, reserved: bool = True, token_ids: bool = False, edited: bool = False, latest: int | None = None
) -> Iterator[list[Judgement]]:
    """Current judgements, the ones of a comparison together, in the comparisons' order, read as they are needed.

    With those on prompts that are the gate's own, unless they are not wanted. With `token_ids` the answers have these
    too, which are as long as the texts. With `edited` only comparisons of which somebody edited an answer, with
    `latest` only so many to train on: those judged last.
    """
    query = JUDGEMENTS.replace(LAST_FIELD, f"{LAST_FIELD}, 'token_ids', json(r.token_ids)") if token_ids else JUDGEMENTS
    conditions = {f"NOT {RESERVED}": not reserved, EDITED: edited, JUDGED_LAST: latest is not None}
    wanted = " AND ".join(["TRUE", *(condition for condition, asked in conditions.items() if asked)])
    rows = db.connection.query(f"{query} WHERE {wanted} ORDER BY j.comparison_id, j.id", {"latest": latest})
    for _comparison, group in groupby(rows, key=itemgetter("comparison_id")):
        yield [read_judgement(row) for row in group]


LAST_FIELD = "'edited_from', r.edited_from"
RESPONSE_FIELDS = f"""json_object('id', r.id, 'origin', r.origin, 'model_id', r.model_id, 'revision', r.revision,
    'text', r.text, 'finish_reason', r.finish_reason, 'tokens', r.tokens, 'prompt_tokens', r.prompt_tokens,
    'rendered_prompt', r.rendered_prompt, {LAST_FIELD})"""
JUDGEMENTS = f"""SELECT j.*, c.prompt_id, c.formed_chance, c.people_chance,
         c.answers_by, c.answers_chance,
         coalesce(j.imported_chance, (SELECT k.chance FROM claim k WHERE k.id = j.claim_id)) AS shown_chance,
         p.split, p.messages, a.name AS annotator, a.kind AS annotator_kind,
        (SELECT json_group_array({RESPONSE_FIELDS})
           FROM (SELECT response.*, m.revision FROM comparison_response cr JOIN response ON response.id = cr.response_id
                     LEFT JOIN model m ON m.id = response.model_id
                 WHERE cr.comparison_id = j.comparison_id ORDER BY cr.position) r) AS responses,
        (SELECT {RESPONSE_FIELDS} FROM (SELECT *, NULL AS revision FROM response) r
           WHERE r.id = j.edited_response_id) AS edited
    FROM current_judgement j JOIN comparison c ON c.id = j.comparison_id JOIN prompt p ON p.id = c.prompt_id
    JOIN annotator a ON a.id = j.annotator_id"""
COPIED = (
    *("id", "comparison_id", "prompt_id", "split", "annotator", "annotator_kind", "purpose", "kind", "outcome"),
    *("strength", "note", "flag", "guidelines_version", "seconds", "created"),
    *("formed_chance", "people_chance", "shown_chance", "answers_by", "answers_chance"),
)


def read_judgement(row: Mapping[str, Any]) -> Judgement:
    return Judgement(
        **{key: row[key] for key in COPIED},
        messages=tuple(json.loads(row["messages"])),
        ranking=None if row["ranking"] is None else tuple(json.loads(row["ranking"])),
        responses=tuple(JudgedAnswer.from_json(answer) for answer in json.loads(row["responses"])),
        shown_order=tuple(json.loads(row["shown_order"])),
        edited=None if row["edited"] is None else JudgedAnswer.from_json(json.loads(row["edited"])),
        tags=tuple(json.loads(row["tags"])),
        early=bool(row["early"]),
    )


def judged_count(db: Database) -> int:
    return int(db.value("SELECT count(*) FROM current_judgement"))


def largest_comparison(db: Database) -> int:
    return int(db.value("SELECT coalesce(max(position) + 1, 0) FROM comparison_response"))


def newest_judgement(db: Database) -> int:
    """The id of the judgement that was made last, which grows with each; 0 without any."""
    return int(db.value("SELECT max(id) FROM judgement") or 0)


def last_judgement_before(db: Database, time: str) -> int:
    """The id of the last judgement that was stored by a time; 0 where there is none."""

    def stored(judgement: int) -> str:
        """When the last one up to this was."""
        return db.value("SELECT created FROM judgement WHERE id <= ? ORDER BY id DESC LIMIT 1", (judgement,)) or ""

    return bisect_right(range(newest_judgement(db) + 1), time, key=stored) - 1  # times have no index of their own


def last_judgements_before(db: Database, times: Iterable[str]) -> dict[str, int]:
    """The same for each of these times."""
    found, last, until = dict[str, int](), 0, ""
    for time in sorted(set(times)):
        if until is not None and time >= until:
            last = last_judgement_before(db, time)
            until = db.value("SELECT created FROM judgement WHERE id > ? ORDER BY id LIMIT 1", (last,))
        found[time] = last
    return found


def excluded_annotators(db: Database) -> dict[str, str]:
    """Names of annotators whose judgements are left out of training, each with the reason given."""
    rows = db.rows(
        """SELECT a.name, e.reason FROM exclusion e JOIN annotator a ON a.id = e.annotator_id
           WHERE e.excluded AND e.id = (SELECT max(id) FROM exclusion l WHERE l.annotator_id = e.annotator_id)"""
    )
    return {row["name"]: row["reason"] for row in rows}
