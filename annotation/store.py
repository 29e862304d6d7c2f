"""The rows that all sides share: prompts, answers, comparisons, judgements as they stand, settings; records out."""

from __future__ import annotations

import json
import random
import secrets
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Literal

from annotation.database import Database, Params
from annotation.records import (
    Asks,
    CheckedAnswer,
    ChosenAnswers,
    Demonstration,
    Feedback,
    JudgedAnswer,
    Judgement,
    Message,
    Project,
    Prompt,
    Response,
    Sampling,
    Split,
    Tag,
    UserError,
    now,
    read_token_ids,
    write_token_ids,
)
from annotation.translation import _


# ---------------------------------------------------------------------------------------------------------- prompts
def add_prompts(db: Database, prompts: Iterable[Prompt]) -> int:
    """Insert prompts that are not there yet and return how many were new. A known prompt keeps its split."""
    added = 0
    with db.transaction() as connection:
        for prompt in prompts:
            fingerprint, messages = fingerprint_of(prompt.messages)
            cursor = connection.execute(
                """INSERT OR IGNORE INTO prompt (fingerprint, messages, source, split, created)
                   VALUES (:fingerprint, :messages, :source, :split, :created)""",
                {
                    "fingerprint": fingerprint,
                    "messages": messages,
                    "source": prompt.source,
                    "split": prompt.split,
                    "created": now(),
                },
            )
            added += cursor.rowcount
    return added


def fingerprint_of(messages: Sequence[Message]) -> tuple[str, str]:
    """(sha256, JSON) of a conversation: what makes two prompts the same."""
    text = json.dumps([dict(message) for message in messages], ensure_ascii=False, sort_keys=True)
    return sha256(text.encode()).hexdigest(), text


# The setting that names an import which goes on in pieces, or whose rest was not cleared away yet.
UNFINISHED = "unfinished_import"


def arriving(table: str) -> str:
    """The condition that a row of a table, by its name in a query, came with such an import."""
    return f"EXISTS (SELECT 1 FROM setting WHERE key = '{UNFINISHED}' AND value = {table}.import_id)"


def prompts(db: Database, split: Split) -> list[Prompt]:
    """All prompts of a split, oldest first."""
    rows = db.rows(f"SELECT * FROM prompt p WHERE split = ? AND NOT {arriving('p')} ORDER BY id", (split,))
    return [read_prompt(row) for row in rows]


# Of a prompt `p`: that the gate has it for itself now.
RESERVED = "coalesce(p.held_for > 0 AND p.held_for = (SELECT max(held_for) FROM prompt), 0)"
# Of a prompt `p` to train on: that no answer, comparison or demonstration has been made of it.
UNUSED = f"""(p.split = 'train' AND p.source != 'own prompt' AND NOT {arriving("p")}
    AND NOT EXISTS (SELECT 1 FROM response r WHERE r.prompt_id = p.id)
    AND NOT EXISTS (SELECT 1 FROM comparison c WHERE c.prompt_id = p.id))"""


def reserved_prompts(db: Database, version: int | None = None) -> list[Prompt]:
    """The prompts of the gate's own set as it is now, or of a version of it, oldest first."""
    wanted = RESERVED if version is None else "p.held_for = :version"
    rows = db.rows(f"SELECT * FROM prompt p WHERE {wanted} ORDER BY id", {"version": version})
    return [read_prompt(row) for row in rows]


def hold_for(db: Database, prompt_ids: Iterable[int], version: int) -> None:
    """Note that prompts were drawn into what reports speak of (0), or into a version of the gate's own set."""
    with db.transaction() as connection:
        connection.conn.executemany(
            "UPDATE prompt SET held_for = :version WHERE id = :id AND (held_for IS NULL OR :version > 0)",
            [{"id": prompt_id, "version": version} for prompt_id in prompt_ids],
        )


def prompt_sources(db: Database) -> dict[str, int]:
    """How many prompts there are of each source, by name."""
    return {row["source"]: row["n"] for row in db.rows("SELECT source, count(*) AS n FROM prompt GROUP BY source")}


def has_prompts(db: Database, split: Split) -> bool:
    """Whether there is a prompt of this split."""
    return bool(db.value(f"SELECT EXISTS(SELECT 1 FROM prompt p WHERE split = ? AND NOT {arriving('p')})", (split,)))


def prompts_to_answer(
    db: Database, model_id: int, split: Split, limit: int, refused: Collection[int] = ()
) -> list[tuple[Prompt, int, float]]:
    """Prompts of a split with the number of answers this model has drawn to each, and the chance of being taken.

    Prompts compared least often under any policy come first, ties in random order: judgements spread evenly. Not those
    that are the gate's own, nor those that the model has refused.
    """
    rows = db.rows(
        f"""SELECT *, count(*) OVER (PARTITION BY compared, attempts) AS tied,
                rank() OVER (ORDER BY compared, attempts) - 1 AS before
            FROM (SELECT p.*, (SELECT count(*) FROM comparison c WHERE c.prompt_id = p.id) AS compared,
                   (SELECT count(*) FROM response r WHERE r.prompt_id = p.id AND r.model_id = :model
                       AND r.purpose = 'compare') AS attempts
               FROM prompt p WHERE split = :split AND NOT {RESERVED} AND NOT {arriving("p")}
                   AND p.id NOT IN (SELECT value FROM json_each(:refused)))
            ORDER BY compared, attempts, random() LIMIT :limit""",
        {"model": model_id, "split": split, "limit": limit, "refused": json.dumps(list(refused))},
    )
    return [(read_prompt(row), row["attempts"], min(1.0, (limit - row["before"]) / row["tied"])) for row in rows]


def read_prompt(row: dict[str, Any]) -> Prompt:
    return Prompt(tuple(json.loads(row["messages"])), row["split"], row["source"], row["id"])


# ------------------------------------------------------------------------------------------- answers and comparisons
def add_response(db: Database, response: Response, purpose: str, dropped: str | None = None) -> int:
    """Store one answer and return its id. `dropped` says why it will not be offered: 'empty' or 'duplicate'."""
    return db.insert(
        "response",
        {
            "prompt_id": response.prompt_id,
            "origin": "policy",
            "model_id": response.model_id,
            "purpose": purpose,
            "text": response.text,
            "sampling": json.dumps(asdict(response.sampling)),
            "seed": response.seed,
            "rendered_prompt": response.rendered_prompt,
            "prompt_tokens": response.prompt_tokens,
            "tokens": response.tokens,
            "finish_reason": response.finish_reason,
            "token_ids": write_token_ids(response.token_ids),
            "dropped": dropped,
            "precision": response.precision
            or db.value("SELECT precision FROM model WHERE id = ?", (response.model_id,)),
            "created": now(),
        },
    )


def add_checked_answer(db: Database, response: Response) -> None:
    """Store an answer that a check has drawn, unless another check has stored the same one meanwhile."""
    with db.transaction():
        known = db.value(
            f"""SELECT 1 FROM response r JOIN model m ON m.id = r.model_id
               WHERE r.prompt_id = :prompt AND r.model_id = :model AND r.purpose = 'check' AND r.seed = :seed
                 AND r.sampling = :sampling AND r.rendered_prompt = :rendered
                 AND r.precision = coalesce(nullif(:precision, ''), m.precision)
                 AND {as_told_now(db, "response", "r")}""",
            {
                "prompt": response.prompt_id,
                "model": response.model_id,
                "seed": response.seed,
                "sampling": json.dumps(asdict(response.sampling)),
                "rendered": response.rendered_prompt,
                "precision": response.precision,
            },
        )
        if known is None:
            add_response(db, response, "check")


def add_comparison(
    db: Database,
    responses: Sequence[Response],
    wanted: int = 2,
    chance: float | None = None,
    chosen: ChosenAnswers | None = None,
) -> int | None:
    """Store the answers a policy drew to one prompt, and a comparison of those chosen, or the first that differ.

    Empty answers and answers equal to an earlier one (white space and case aside) are kept, marked and never offered.
    `chance` is that with which the prompt was taken. Returns the comparison's id, or None when too few answers were
    left.
    """
    reasons = reasons_to_drop(response.text for response in responses)
    offered = [place for place, reason in enumerate(reasons) if reason is None][:wanted]
    taken = ChosenAnswers(tuple(offered), "random", 1.0) if chosen is None else chosen
    with db.transaction():
        ids = [
            add_response(db, response, "compare", reason) for response, reason in zip(responses, reasons, strict=True)
        ]
        if len(taken.places) < wanted:
            return None
        comparison_id = insert_comparison(
            db,
            responses[0].prompt_id,
            model_id=responses[0].model_id,
            formed_chance=chance,
            answers_by=taken.by,
            answers_chance=taken.chance,
        )
        place_responses(db, comparison_id, [ids[place] for place in taken.places])
    return comparison_id


def reasons_to_drop(texts: Iterable[str]) -> list[str | None]:
    """Why each of some answers is not to be compared with the others; None of those that differ."""
    seen: set[str] = set()
    reasons: list[str | None] = []
    for text in texts:
        folded = " ".join(text.split()).casefold()
        reasons.append("empty" if not folded else "duplicate" if folded in seen else None)
        seen.add(folded)
    return reasons


def add_mixed_comparison(db: Database, prompt: Prompt, responses: Sequence[Response]) -> int | None:
    """Store answers of several policies to one prompt (a new one is added), and a comparison of them.

    Returns the comparison's id, or None where all of these answers have been compared before.
    """
    with db.transaction():
        add_prompts(db, [prompt])
        prompt_id = int(db.value("SELECT id FROM prompt WHERE fingerprint = ?", (fingerprint_of(prompt.messages)[0],)))
        rows = db.rows(
            """SELECT r.model_id, r.seed, r.text FROM response r JOIN comparison_response c ON c.response_id = r.id
               WHERE r.prompt_id = ? AND r.purpose = 'compare'""",
            (prompt_id,),
        )
        compared = {(row["model_id"], row["seed"], row["text"]) for row in rows}
        if all((response.model_id, response.seed, response.text) in compared for response in responses):
            return None
        comparison_id = insert_comparison(db, prompt_id, formed_chance=1.0, answers_by="person")
        answers = [replace(response, prompt_id=prompt_id) for response in responses]
        place_responses(db, comparison_id, [add_response(db, answer, "compare") for answer in answers])
    return comparison_id


def insert_comparison(db: Database, prompt_id: int | None, **columns: Any) -> int:
    """A comparison of answers to a prompt, still without them, inside the caller's transaction; returns its id.

    Unless it says with what chance people are to judge it, they judge it for certain, or once judges have decided that;
    unless it says what chose its answers, these are the first that were drawn.
    """
    certain = columns.get("asked_by") is not None or feedback(db).mode == "people"
    told = {"people_chance": 1.0, "people_drawn": 1} if certain else {}
    chosen = {"answers_by": "random", "answers_chance": 1.0}
    row = {"prompt_id": prompt_id, "purpose": "preference", **told, **chosen, **columns, "created": now()}
    return db.insert("comparison", row)


def place_responses(db: Database, comparison_id: int, response_ids: Sequence[int]) -> None:
    """Give a comparison its answers, inside the caller's transaction."""
    db.connection.conn.executemany(
        "INSERT INTO comparison_response (comparison_id, position, response_id) VALUES (?, ?, ?)",
        [(comparison_id, position, response_id) for position, response_id in enumerate(response_ids)],
    )


# ------------------------------------------------------------------------------------------ answers while being written
# An annotator's own prompts are answered before everybody's, and stay to be trained on.
MOST_UNANSWERED = 3
MOST_A_DAY = 50


def ask(db: Database, annotator_id: int, messages: Sequence[Message]) -> int:
    """A prompt of an annotator's own, to be answered before all others; returns the comparison's id.

    One that waits for its answers already is not asked twice. Raises UserError, and keeps nothing of the prompt, where
    this annotator has MOST_UNANSWERED waiting, or has asked MOST_A_DAY in the last 24 hours.
    """
    fingerprint = fingerprint_of(messages)[0]
    with db.transaction():
        waiting = db.rows(
            """SELECT c.id, p.fingerprint FROM comparison c JOIN prompt p ON p.id = c.prompt_id
               WHERE c.asked_by = ? AND c.purpose = 'preference' AND c.state IN ('asked', 'writing')""",
            (annotator_id,),
        )
        same = [int(row["id"]) for row in waiting if row["fingerprint"] == fingerprint]
        if same:
            return same[0]
        if len(waiting) >= MOST_UNANSWERED:
            raise UserError(
                _("{count} of your prompts wait for their answers. Ask again when one is answered.").format(
                    count=len(waiting)
                )
            )
        since = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="microseconds")
        today = db.value("SELECT count(*) FROM comparison WHERE asked_by = ? AND created > ?", (annotator_id, since))
        if today >= MOST_A_DAY:
            raise UserError(
                _("You have asked {today} prompts in the last 24 hours. That is enough; ask again later.").format(
                    today=today
                )
            )
        add_prompts(db, [Prompt(tuple(messages), "train", "own prompt")])
        prompt_id = db.value("SELECT id FROM prompt WHERE fingerprint = ?", (fingerprint,))
        return insert_comparison(db, prompt_id, state="asked", asked_by=annotator_id, formed_chance=1.0)


def asked(db: Database) -> list[tuple[int, Prompt]]:
    """Comparisons that annotators have asked for and nobody has begun to answer: each one's first, oldest first."""
    rows = db.rows(
        """SELECT c.id AS comparison_id, p.* FROM comparison c JOIN prompt p ON p.id = c.prompt_id
           WHERE c.purpose = 'preference' AND c.state = 'asked'
           ORDER BY row_number() OVER (PARTITION BY c.asked_by ORDER BY c.id), c.id"""
    )
    return [(row["comparison_id"], read_prompt(row)) for row in rows]


def ask_again(db: Database, comparison_id: int) -> int:
    """Ask anew for what an annotator asked in this comparison, and got the same or no answers to."""
    with db.transaction():
        before = db.row("SELECT prompt_id, purpose, asked_by FROM comparison WHERE id = ?", (comparison_id,))
        assert before is not None
        return insert_comparison(db, **before, state="asked", formed_chance=1.0)


def refuse_asked(db: Database, comparison_id: int) -> None:
    """Mark a prompt that an annotator asked and that the model can't be given."""
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET state = 'failed' WHERE id = ? AND state = 'asked'", (comparison_id,))


def begin_answers(
    db: Database, responses: Sequence[Response], comparison_id: int | None = None, chance: float | None = None
) -> tuple[int, list[int]]:
    """Put answers that are being written into a comparison (a new one, or one asked for) that people can watch.

    `chance` is that with which a new one's prompt was taken. Returns the ids of the comparison and of the answers, in
    order.
    """
    first = responses[0]
    with db.transaction() as connection:
        if comparison_id is None:
            comparison_id = insert_comparison(
                db, first.prompt_id, model_id=first.model_id, state="writing", formed_chance=chance
            )
        else:
            connection.execute(
                "UPDATE comparison SET state = 'writing', model_id = ? WHERE id = ?", (first.model_id, comparison_id)
            )
        ids = [add_response(db, response, "compare") for response in responses]
        connection.execute(
            f"UPDATE response SET state = 'writing', finish_reason = NULL WHERE id IN ({marks(ids)})", ids
        )
        place_responses(db, comparison_id, ids)
    return comparison_id, ids


def update_answers(db: Database, texts: Mapping[int, str]) -> None:
    """Show what has been written so far, by answer id."""
    with db.transaction() as connection:
        connection.conn.executemany(
            "UPDATE response SET text = ? WHERE id = ? AND state = 'writing'",
            [(text, response_id) for response_id, text in texts.items()],
        )


def finish_answers(db: Database, comparison_id: int, responses: Mapping[int, Response]) -> str:
    """The answers as they ended, by id. Returns the comparison's state: 'ready', or 'dropped' if some are the same.

    A judgement made before stays in the record either way; it says that it was early, and is not trained on.
    """
    reasons = reasons_to_drop(response.text for response in responses.values())
    with db.transaction() as connection:
        for (response_id, response), dropped in zip(responses.items(), reasons, strict=True):
            connection.execute(
                """UPDATE response SET text = :text, tokens = :tokens, prompt_tokens = :prompt_tokens,
                       finish_reason = :finish_reason, token_ids = :token_ids, dropped = :dropped, state = 'done'
                   WHERE id = :id""",
                {
                    "text": response.text,
                    "tokens": response.tokens,
                    "prompt_tokens": response.prompt_tokens,
                    "finish_reason": response.finish_reason,
                    "token_ids": write_token_ids(response.token_ids),
                    "dropped": dropped,
                    "id": response_id,
                },
            )
        state = "dropped" if any(reasons) else "ready"
        connection.execute("UPDATE comparison SET state = ? WHERE id = ? AND state = 'writing'", (state, comparison_id))
    return state


def fail_answers(db: Database, comparison_id: int | None = None) -> int:
    """Mark answers that nobody writes any more: a comparison's, or all (when the answering worker starts).

    Such a comparison can't be judged. Returns how many comparisons there were.
    """
    with db.transaction() as connection:
        connection.execute(
            """UPDATE response SET state = 'failed' WHERE state = 'writing' AND (:id IS NULL OR id IN
                   (SELECT response_id FROM comparison_response WHERE comparison_id = :id))""",
            {"id": comparison_id},
        )
        return connection.execute(
            "UPDATE comparison SET state = 'failed' WHERE state = 'writing' AND (:id IS NULL OR id = :id)",
            {"id": comparison_id},
        ).rowcount


def marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


@dataclass(frozen=True)
class PairedAnswers:
    """What two policies answered to the same held-out prompt with the same seed."""

    prompt_id: int
    first: int
    """The response of the one policy."""
    second: int
    texts: tuple[str, str]
    compared: bool
    """Whether they make a comparison already, in whatever order."""
    answered: str
    """When the later of them was stored."""

    @property
    def known_outcome(self) -> float | None:
        """Whether the first won, where nobody has to be asked: the same text ties, and an answer beats none."""
        own, other = (text.strip() for text in self.texts)
        if own == other:
            return 0.5
        return None if own and other else float(bool(own))


# Of the rows that are of a time in which policies thought or did not, the column that says when they began.
BEGAN: Final = {"response": "created", "job": "started"}


def note_change_of_answers(db: Database, told_before: bool | None) -> None:
    """Note that from now on policies answer otherwise; `told_before`: whether they were told not to think until now.

    None: they lie on other weights from now on.
    """
    newest = {table: db.value(f"SELECT coalesce(max(id), 0) FROM {table}") for table in (*BEGAN, "verdict")}
    change = {"told": told_before, "until": now(), "newest": newest}
    set_setting(db, "thinking_changes", [*setting(db, "thinking_changes", []), change])


def as_told_now(db: Database, table: Literal["response", "job"], row: str) -> str:
    """SQL: whether a row, of this name there, is of a time in which policies answered as now.

    That is, on the same weights, and thinking or not as now.

    One that was made after the last change is, whatever the clock says, which may have been set back.
    """
    now_told = bool(db.value("SELECT thinking = 'off' FROM model WHERE revision = 'base'"))
    began, since, when = f"{row}.{BEGAN[table]}", "", list[str]()
    changes = setting(db, "thinking_changes", [])
    for change in changes:
        if change["told"] is None:
            when.clear()
        elif change["told"] == now_told:
            when.append(f"{began} BETWEEN '{since}' AND '{change['until']}'")
        since = change["until"]
    when.append(f"{began} > '{since}'")
    if changes and "newest" in changes[-1]:
        when.append(f"{row}.id > {changes[-1]['newest'][table]}")
    return f"({' OR '.join(when)})"


def paired_answers(db: Database, model_id: int, other_id: int) -> list[PairedAnswers]:
    """What two policies answered to the same text of held-out prompts with the same seeds, by prompt and seed.

    Each in the precision in which it answers now, and thinking or not as now: otherwise it is another policy.
    """
    rows = db.rows(
        f"""SELECT a.prompt_id, a.id AS first, b.id AS second, a.text AS own, b.text AS other,
               max(a.created, b.created) AS answered,
               EXISTS (SELECT 1 FROM comparison_response x JOIN comparison_response y
                   ON y.comparison_id = x.comparison_id WHERE x.response_id = a.id AND y.response_id = b.id) AS compared
           FROM response a JOIN model m ON m.id = a.model_id AND m.precision = a.precision
               JOIN response b ON b.prompt_id = a.prompt_id AND b.seed = a.seed AND b.sampling = a.sampling
                   AND b.rendered_prompt = a.rendered_prompt
               JOIN model n ON n.id = b.model_id AND n.precision = b.precision
           WHERE a.purpose = 'check' AND b.purpose = 'check' AND a.model_id = ? AND b.model_id = ?
               AND {as_told_now(db, "response", "a")} AND {as_told_now(db, "response", "b")}
           ORDER BY a.prompt_id, a.seed""",
        (model_id, other_id),
    )
    return [
        PairedAnswers(
            prompt_id=row["prompt_id"],
            first=row["first"],
            second=row["second"],
            texts=(row["own"], row["other"]),
            compared=bool(row["compared"]),
            answered=row["answered"],
        )
        for row in rows
    ]


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


# Of a comparison `c` of a candidate: that a draw gave it to people and left others to judges. Old ones may lack both.
DRAWN_FOR_PEOPLE = "(c.people_drawn IS 1 AND coalesce(c.people_chance, 0) > 0 AND c.people_chance < 1)"
# That somebody skipped it, which is bet on as a tie where it was drawn, or flagged: what is said later could not count.
# Who is left out neither skips nor flags here.
SKIPPED_FOR_GOOD = f"""(c.candidate_id NOT NULL
    AND ({DRAWN_FOR_PEOPLE} OR c.flagged = 1 AND EXISTS (SELECT 1 FROM current_judgement f
        WHERE f.comparison_id = c.id AND f.flag NOT NULL
          AND f.annotator_id NOT IN (SELECT annotator_id FROM excluded_annotator)))
    AND EXISTS (SELECT 1 FROM claim k WHERE k.comparison_id = c.id AND k.state = 'skipped'
        AND k.annotator_id NOT IN (SELECT annotator_id FROM excluded_annotator)))"""
# Of one of a candidate, that this annotator is left out: what they say is bet on by nobody, and takes it from others.
WOULD_NOT_COUNT = "(c.candidate_id NOT NULL AND {} IN (SELECT annotator_id FROM excluded_annotator))"


def compare_policies(
    db: Database,
    candidate_id: int,
    against_id: int,
    asks: Asks = "people",
    on: Collection[int] | None = None,
    share: float = 1.0,
) -> int:
    """Put what two policies answered to the same held-out prompts with the same seeds before people or judges, blind.

    Each pair of answers that differ and have not been compared yet makes a comparison, in an order that says nothing
    about the prompts, so that the first results stand for all; returns how many. Where people are asked, they are asked
    `on` these prompts only, and of these about a `share` drawn by lot.
    """
    lot = secrets.SystemRandom()
    with db.transaction():
        answered = paired_answers(db, candidate_id, against_id)
        pairs = [pair for pair in answered if pair.known_outcome is None and not pair.compared]
        random.Random(candidate_id).shuffle(pairs)
        for pair in pairs:
            chance = share if asks == "people" and (on is None or pair.prompt_id in on) else 0.0
            drawn = lot.random() < chance
            comparison_id = insert_comparison(
                db,
                pair.prompt_id,
                candidate_id=candidate_id,
                against_id=against_id,
                asks="people" if drawn else "nobody",
                formed_chance=1.0,
                people_chance=chance,
                people_drawn=int(drawn),
            )
            place_responses(db, comparison_id, [pair.first, pair.second])
    return len(pairs)


def ask_people_of_candidate(
    db: Database,
    candidate_id: int,
    against_id: int,
    on: Collection[int] | None = None,
    but: Collection[int] = (),
) -> int:
    """Put a candidate's comparisons with another policy before people, those too that were left to judges.

    All, or those `on` these prompts, `but` not on those. What was drawn stays in the record, with when people were
    given all the same what it left to judges: only what had no chance to be given to people is given to them for
    certain now. Returns how many nobody had judged or been asked about.
    """
    with db.transaction() as connection:
        compare_policies(db, candidate_id, against_id, "nobody")
        return connection.execute(
            f"""UPDATE comparison AS c SET asks = 'people', people_chance = iif(people_chance = 0, 1, people_chance),
                   people_drawn = iif(people_chance = 0, 1, people_drawn),
                   people_given = coalesce(people_given, iif(people_chance > 0 AND people_drawn = 0,
                       (SELECT coalesce(max(id), 0) FROM judgement), NULL))
               WHERE candidate_id = :candidate AND against_id = :against AND asks = 'nobody' AND taken = 0
                 AND state = 'ready' AND prompt_id NOT IN (SELECT value FROM json_each(:but))
                 AND NOT {SKIPPED_FOR_GOOD}
                 AND (:on IS NULL OR prompt_id IN (SELECT value FROM json_each(:on)))""",
            {
                "candidate": candidate_id,
                "against": against_id,
                "on": None if on is None else json.dumps(sorted(on)),
                "but": json.dumps(sorted(but)),
            },
        ).rowcount


def withdraw_candidate(db: Database, candidate_id: int) -> None:
    """Ask people no more about a candidate that was decided on, or against one that serves no more.

    What is in somebody's hands stays there.
    """
    with db.transaction() as connection:
        connection.execute(
            "UPDATE comparison SET asks = 'nobody' WHERE candidate_id = :id OR against_id = :id", {"id": candidate_id}
        )


def withdraw_open(db: Database) -> int:
    """Put nothing before anybody any more that policies have answered so far; returns how many comparisons that were.

    What somebody has in hand or has judged stays, and so does what was imported. A comparison of two policies is never
    taken up again: they answer otherwise now.
    """
    with db.transaction() as connection:
        return connection.execute(
            """UPDATE comparison SET asks = 'nobody', state = 'withdrawn'
               WHERE purpose = 'preference' AND state = 'ready' AND taken = 0
                 AND (candidate_id IS NOT NULL OR model_id IS NOT NULL AND asks != 'nobody')"""
        ).rowcount


def checked_answers(
    db: Database, model_id: int, precision: str | None = None, as_now: bool = False, until: str | None = None
) -> list[CheckedAnswer]:
    """A policy's answers to the held-out prompts, each with prompt and scores, in prompt and seed order.

    Those in this precision, or in that in which it answers now; `as_now`: those alone that it would give today, too;
    `until`: those stored by then.
    """
    rows = db.rows(
        f"""SELECT r.id, r.prompt_id, r.model_id, r.text, r.sampling, r.seed, r.rendered_prompt, r.prompt_tokens,
               r.tokens, r.finish_reason, r.precision, r.token_ids, p.messages,
               (SELECT json_group_object(scorer, value) FROM score s WHERE s.response_id = r.id) AS scores,
               (SELECT json_group_object(scorer, json(per_token)) FROM score s
                WHERE s.response_id = r.id AND per_token IS NOT NULL) AS token_scores
           FROM response r JOIN prompt p ON p.id = r.prompt_id JOIN model m ON m.id = r.model_id
           WHERE r.model_id = :model AND r.purpose = 'check' AND r.precision = coalesce(:precision, m.precision)
             AND (:until IS NULL OR r.created <= :until) AND {as_told_now(db, "response", "r") if as_now else True}
           ORDER BY r.prompt_id, r.seed, r.id""",
        {"model": model_id, "precision": precision, "until": until},
    )
    return [
        CheckedAnswer(
            **{
                **row,
                "sampling": Sampling.from_json(row["sampling"]),
                "messages": tuple(json.loads(row["messages"])),
                "token_ids": read_token_ids(row["token_ids"]),
                "scores": json.loads(row["scores"]),
                "token_scores": {name: tuple(values) for name, values in json.loads(row["token_scores"]).items()},
            }
        )
        for row in rows
    ]


def answers_of_check(
    db: Database,
    model_id: int,
    prompts: Sequence[Prompt],
    seed: int,
    sampling: Sampling,
    rendered: Mapping[int, str] | None = None,
    precision: str | None = None,
    until: str | None = None,
) -> list[CheckedAnswer]:
    """A policy's answers on the terms of one check: prompt i with seed + i. Others may have had other terms.

    With `rendered`, the text that is fed today by prompt id, only answers to that very text: a template may write the
    date into it, and may have been told something else before; and none that it gave on other weights. `precision` and
    `until` as in `checked_answers`.
    """
    wanted = {(prompt.id, seed + place) for place, prompt in enumerate(prompts)}
    return [
        answer
        for answer in checked_answers(db, model_id, precision, as_now=rendered is not None, until=until)
        if (answer.prompt_id, answer.seed) in wanted
        and answer.sampling == sampling
        and (rendered is None or rendered.get(answer.prompt_id) == answer.rendered_prompt)
    ]


def add_score(
    db: Database, response_id: int, scorer: str, value: float, per_token: Sequence[float] | None = None
) -> None:
    """Record what a scorer says of an answer, also of each of its tokens; scoring again replaces the value."""
    row = {
        "response_id": response_id,
        "scorer": scorer,
        "value": value,
        "per_token": None if per_token is None else json.dumps([float(f"{one:.6g}") for one in per_token]),
    }
    with db.transaction() as connection:
        connection.execute(
            """INSERT OR REPLACE INTO score (response_id, scorer, value, per_token)
               VALUES (:response_id, :scorer, :value, :per_token)""",
            row,
        )


def stock_sizes(db: Database, model_id: int) -> dict[Split, int]:
    """How many comparisons by this policy nobody has judged or holds yet, by split; not what only some may have."""
    rows = db.rows(
        # One that somebody skipped is still there for others, but nobody may be left who would judge it; and what an
        # annotator asked for is that annotator's first, who may never come back to it.
        """SELECT p.split, count(*) AS n FROM comparison c JOIN prompt p ON p.id = c.prompt_id
           WHERE c.purpose = 'preference' AND c.state = 'ready' AND c.asks IN ('people', 'judges') AND c.model_id = ?
             AND c.assigned = 0 AND c.asked_by IS NULL AND c.taken = 0
             AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.comparison_id = c.id AND k.state = 'skipped')
           GROUP BY p.split""",
        (model_id,),
    )
    sizes: dict[Split, int] = {"train": 0, "held-out": 0}
    return sizes | {row["split"]: row["n"] for row in rows}


def waiting_elsewhere(db: Database, model_id: int) -> int:
    """How many comparisons that this policy did not write (earlier ones' and imported ones) nobody has judged yet."""
    return int(
        db.value(
            """SELECT count(*) FROM comparison c WHERE c.purpose = 'preference' AND c.state = 'ready' AND c.taken = 0
                 AND c.asks IN ('people', 'judges') AND c.assigned = 0 AND c.asked_by IS NULL AND c.model_id IS NOT ?
                 AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.comparison_id = c.id AND k.state = 'skipped')""",
            (model_id,),
        )
    )


def attempts(db: Database, model_id: int, prompt_id: int) -> int:
    """How many answers a policy has drawn to a prompt for comparisons."""
    return int(
        db.value(
            "SELECT count(*) FROM response WHERE prompt_id = ? AND model_id = ? AND purpose = 'compare'",
            (prompt_id, model_id),
        )
    )


def comparison_counts(db: Database) -> dict[Split, int]:
    """How many comparisons by policies, open or judged, each split that has prompts has got.

    Imported ones don't count: they would shift the share of new ones that is held out.
    """
    rows = db.rows(
        """SELECT p.split, count(c.id) AS n FROM prompt p LEFT JOIN comparison c ON c.prompt_id = p.id
               AND c.model_id IS NOT NULL AND c.state IN ('writing', 'ready')
           GROUP BY p.split ORDER BY p.split DESC"""
    )
    return {row["split"]: row["n"] for row in rows}


@dataclass(frozen=True)
class AnswerCounts:
    """What the answering worker has produced for comparisons, in answers."""

    total: int
    ended: int
    empty: int
    duplicate: int

    @property
    def ended_share(self) -> float:
        """Share of answers that ended by themselves within the limit."""
        return self.ended / self.total if self.total else 0.0


def answer_counts(db: Database) -> AnswerCounts:
    """Counts over all answers drawn for comparisons."""
    row = db.row(
        """SELECT count(*) AS total, coalesce(sum(finish_reason = 'stop'), 0) AS ended,
               coalesce(sum(dropped = 'empty'), 0) AS empty, coalesce(sum(dropped = 'duplicate'), 0) AS duplicate
           FROM response WHERE purpose = 'compare' AND origin = 'policy' AND state = 'done'"""
    )
    assert row is not None
    return AnswerCounts(**row)


# ------------------------------------------------------------------------------------------------------- judgements
# Of judgements `j`: that they are on one of the comparisons to train on that were judged last.
LATEST = """j.comparison_id IN (SELECT c.id FROM current_judgement l JOIN comparison c ON c.id = l.comparison_id
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
    conditions = {f"NOT {RESERVED}": not reserved, EDITED: edited, LATEST: latest is not None}
    wanted = " AND ".join(["TRUE", *(condition for condition, asked in conditions.items() if asked)])
    rows = db.connection.query(f"{query} WHERE {wanted} ORDER BY j.comparison_id, j.id", {"latest": latest})
    for _comparison, group in groupby(rows, key=itemgetter("comparison_id")):
        yield [read_judgement(row) for row in group]


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


def judged_count(db: Database) -> int:
    """How many judgements `judged_comparisons` has."""
    return int(db.value("SELECT count(*) FROM current_judgement"))


def largest_comparison(db: Database) -> int:
    """The number of answers in the comparison that has most."""
    return int(db.value("SELECT coalesce(max(position) + 1, 0) FROM comparison_response"))


def annotators(db: Database) -> list[dict[str, Any]]:
    """Everybody who can have judged: id, name and kind, oldest first."""
    return db.rows("SELECT id, name, kind FROM annotator ORDER BY id")


def models(db: Database) -> list[dict[str, Any]]:
    """The policies that can have written answers, oldest first."""
    return db.rows("SELECT id, revision, algorithm, base, parent_id, created FROM model ORDER BY id")


def imports(db: Database) -> list[dict[str, Any]]:
    """What was imported: name, format and created, oldest first."""
    return db.rows("SELECT name, format, created FROM import ORDER BY id")


def sampling_counts(db: Database) -> list[dict[str, Any]]:
    """How each policy's answers for comparisons were drawn: revision, sampling (JSON) and the number of answers."""
    return db.rows(
        """SELECT m.revision, r.sampling, count(*) AS answers FROM response r JOIN model m ON m.id = r.model_id
           WHERE r.purpose = 'compare' AND r.sampling IS NOT NULL GROUP BY m.id, r.sampling ORDER BY m.id, r.sampling"""
    )


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
    """A row of JUDGEMENTS as a record."""
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


def new_to_train_on(db: Database, since: str) -> int:
    """Judgements made after `since` that a training could learn from: people's, and comparisons that judges alone have.

    Not those on held-out prompts and of candidates, of whom is left out, flagged, or from before the answers ended; nor
    judges' while people alone are to judge.
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
                     AND c.purpose = 'preference' AND (j.purpose IN ('own', 'settle') OR :judges AND
                         j.purpose = 'judge' AND NOT EXISTS (SELECT 1 FROM current_judgement o
                             WHERE o.comparison_id = j.comparison_id AND o.purpose != 'judge')))""",
            {"since": since, "judges": feedback(db).mode != "people"},
        )
    )


def newest_judgement(db: Database) -> int:
    """The id of the judgement that was made last, which grows with each; 0 without any."""
    return int(db.value("SELECT max(id) FROM judgement") or 0)


def data_mark(db: Database) -> list[int | None]:
    """Changes whenever what can be trained on may: judgements, who is left out, demonstrations, prompts."""
    demonstrations = "SELECT max(id) FROM response WHERE purpose = 'demonstrate'"
    newest = ("SELECT max(id) FROM judgement", "SELECT max(id) FROM exclusion", demonstrations)
    return [db.value(question) for question in (*newest, "SELECT max(id) FROM prompt")]


def excluded_annotators(db: Database) -> dict[str, str]:
    """Names of annotators whose judgements are left out of training, each with the reason given."""
    rows = db.rows(
        """SELECT a.name, e.reason FROM exclusion e JOIN annotator a ON a.id = e.annotator_id
           WHERE e.excluded AND e.id = (SELECT max(id) FROM exclusion l WHERE l.annotator_id = e.annotator_id)"""
    )
    return {row["name"]: row["reason"] for row in rows}


# ------------------------------------------------------------------------------------------------- project, guidelines
def project(db: Database) -> Project:
    """What is asked of annotators, and of how many."""
    values = setting(db, "project", {})
    if "tags" in values:
        values = {**values, "tags": tuple(Tag(**tag) for tag in values["tags"])}
    return Project(**values)


def set_project(db: Database, project: Project) -> None:
    """Store what is asked of annotators; `annotation.project.check` has found it sound."""
    set_setting(db, "project", asdict(project))


@dataclass(frozen=True)
class Guidelines:
    """A version of what annotators are asked to go by, in Markdown; version 0 without any."""

    version: int
    text: str
    written_by: str
    created: str


def guidelines(db: Database) -> Guidelines:
    """The latest guidelines."""
    row = db.row("SELECT * FROM guidelines ORDER BY version DESC LIMIT 1")
    return Guidelines(0, "", "", "") if row is None else Guidelines(**row)


def guidelines_versions(db: Database) -> list[Guidelines]:
    """Every version of the guidelines, the latest first."""
    return [Guidelines(**row) for row in db.rows("SELECT * FROM guidelines ORDER BY version DESC")]


def write_guidelines(db: Database, text: str, written_by: str) -> int:
    """Add a version of the guidelines unless the text is that of the latest; returns the version that holds now."""
    with db.transaction():
        latest = guidelines(db)
        if latest.text == text.strip():
            return latest.version
        row = {"version": latest.version + 1, "text": text.strip(), "written_by": written_by, "created": now()}
        return db.insert("guidelines", row)


# Neither asked by an annotator, who waits for it, nor there to measure a candidate.
ORDINARY = "asked_by IS NULL AND candidate_id IS NULL"


def feedback(db: Database) -> Feedback:
    return Feedback(**setting(db, "feedback", {}))


def set_feedback(db: Database, feedback: Feedback) -> None:
    """Store who judges, and hand what nobody has judged yet to them. Later comparisons are handed out by a trigger."""
    with db.transaction():
        set_setting(db, "feedback", asdict(feedback))
        hand_to_judging(db)


def hand_to_judging(db: Database, among: str = "SELECT id FROM comparison", values: Params = ()) -> None:
    """Hand those of some comparisons that nobody has judged yet to whoever judges now, in the caller's transaction."""
    if feedback(db).mode == "people":  # what some of several judges have judged too: nobody else would get it
        db.connection.execute(
            f"""UPDATE comparison SET asks = 'people', asks_why = NULL, people_chance = 1, people_drawn = 1
                WHERE asks = 'judges' AND id IN ({among})""",
            values,
        )
        return
    db.connection.execute(
        f"""UPDATE comparison SET asks = 'judges', people_chance = NULL, people_drawn = NULL
            WHERE purpose = 'preference' AND asks = 'people' AND {ORDINARY} AND id IN ({among})
              AND taken = 0 AND NOT EXISTS (SELECT 1 FROM judgement j WHERE j.comparison_id = comparison.id)""",
        values,
    )


# --------------------------------------------------------------------------------------------------------- settings
def setting(db: Database, key: str, default: Any) -> Any:
    stored = db.value("SELECT value FROM setting WHERE key = ?", (key,))
    return default if stored is None else json.loads(stored)


def set_setting(db: Database, key: str, value: Any) -> None:
    with db.transaction() as connection:
        connection.execute("INSERT OR REPLACE INTO setting (key, value) VALUES (?, ?)", (key, json.dumps(value)))
