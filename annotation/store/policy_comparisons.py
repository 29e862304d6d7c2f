"""Comparisons of two policies: what they answered to the same prompts, put before people or left to judges."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Collection
from dataclasses import dataclass

from annotation.database import Database
from annotation.records import Asks
from annotation.store.answer_changes import as_told_now
from annotation.store.comparison_store import insert_comparison, place_responses


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
    db: Database, candidate_id: int, against_id: int, on: Collection[int] | None = None, but: Collection[int] = ()
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
    db.write("UPDATE comparison SET asks = 'nobody' WHERE candidate_id = :id OR against_id = :id", {"id": candidate_id})


def withdraw_open(db: Database) -> int:
    """Put nothing before anybody any more that policies have answered so far; returns how many comparisons that were.

    What somebody has in hand or has judged stays, and so does what was imported. A comparison of two policies is never
    taken up again: they answer otherwise now.
    """
    return db.write(
        """UPDATE comparison SET asks = 'nobody', state = 'withdrawn'
           WHERE purpose = 'preference' AND state = 'ready' AND taken = 0
             AND (candidate_id IS NOT NULL OR model_id IS NOT NULL AND asks != 'nobody')"""
    )
