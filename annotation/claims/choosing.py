"""Which comparison an annotator sees next, in which order and by what chance."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from annotation import selection
from annotation.claims.assignments import standing_assignment
from annotation.claims.judged_counts import quota_reached
from annotation.claims.stored_claims import UNSEEN, StoredClaim, read_row
from annotation.database import Database
from annotation.records import Project, Purpose, now
from annotation.store.policy_comparisons import SKIPPED_FOR_GOOD, WOULD_NOT_COUNT


@dataclass(frozen=True)
class ChosenComparison:
    """What is to be shown next, why, in which order, and by what chance (`annotation.selection` says of which draw)."""

    comparison_id: int
    purpose: Purpose
    order: Sequence[int]
    slot: int | None = None
    re_ask_of: int | None = None
    chance: float | None = 1.0
    assigned_by: int | None = None
    """The bulk change that gave it to this annotator."""


def choose(db: Database, annotator_id: int, project: Project, source: random.Random) -> ChosenComparison | None:
    """What this annotator is to see next; nothing once they have judged as many as they are to judge (their quota).

    What they are to settle and a prompt of their own come first, then what an undo took out of their hands, now and
    then gold or a re-ask, then what is assigned to them, then the pool.
    """
    if quota_reached(db, annotator_id):
        return None
    settling = standing_assignment(db, annotator_id, "settle", project.overlap)
    if settling is not None:
        order = order_again(db, annotator_id, settling[0], source)
        return ChosenComparison(settling[0], "settle", order, chance=None, assigned_by=settling[1])
    assigned = standing_assignment(db, annotator_id, "assign", project.overlap)
    first = own_prompt(db, annotator_id, source) or put_back(db, annotator_id, project.overlap, assigned)
    if first is not None:
        return first
    # All are looked for, so that the chance of what is shown is known and not only its share.
    measuring = {
        "gold": choose_gold(db, annotator_id, source) if project.gold_share else None,
        "re-ask": choose_re_ask(db, annotator_id) if project.re_ask_share else None,
    }
    learning = {
        "candidate": choose_of_candidate(db, annotator_id) if project.candidate_share and not assigned else None,
        "own": assigned or choose_from_pool(db, annotator_id, project.overlap, source),
    }
    offered = cast(
        list[selection.Shown], [purpose for purpose, found in (*measuring.items(), *learning.items()) if found]
    )
    chances = selection.chances(project, offered)
    purpose = selection.draw_purpose(chances, source)
    if purpose is None:
        return None
    if (measure := measuring.get(purpose)) is not None:
        return replace(measure, chance=chances[purpose])
    learn = learning[purpose]
    assert learn is not None
    if purpose == "own" and assigned is not None:
        return replace(for_learning(db, assigned[0], source, None), assigned_by=assigned[1])
    return for_learning(db, learn[0], source, learn[1] * chances[purpose])


# Of a comparison `c` that claim `k` put into an annotator's hands: that they may be shown it for the same again.
STILL_OPEN = f"""CASE k.purpose
    WHEN 're-ask' THEN c.state != 'withdrawn' AND EXISTS (SELECT 1 FROM current_judgement j WHERE j.id = k.re_ask_of)
        AND NOT EXISTS (SELECT 1 FROM claim r WHERE r.annotator_id = k.annotator_id AND r.purpose = 're-ask'
            AND r.comparison_id = c.id AND r.state IN ('held', 'judged', 'skipped'))
    WHEN 'gold' THEN c.purpose = 'gold' AND c.state = 'ready' AND {UNSEEN}
    WHEN 'own' THEN c.purpose = 'preference' AND {UNSEEN} AND iif(k.assigned_by IS NULL,
        c.state IN ('ready', 'writing') AND c.asks = 'people' AND c.assigned = 0
            AND c.taken < iif(c.candidate_id IS NULL, :overlap, 1)
            AND NOT {SKIPPED_FOR_GOOD} AND NOT {WOULD_NOT_COUNT.format(":annotator")},
        c.id = :given AND k.assigned_by = :given_by) END"""


def own_prompt(db: Database, annotator_id: int, source: random.Random) -> ChosenComparison | None:
    """The oldest comparison to a prompt of this annotator's own that nobody has had."""
    row = db.row(
        f"""SELECT c.id FROM comparison c WHERE c.asked_by = :annotator AND c.purpose = 'preference'
              AND c.state IN ('writing', 'ready') AND c.taken = 0 AND {UNSEEN} ORDER BY c.id LIMIT 1""",
        {"annotator": annotator_id},
    )
    if row is None:
        return None
    order = order_again(db, annotator_id, row["id"], source)
    return ChosenComparison(row["id"], "own", order, free_slot(db, row["id"]))


def put_back(
    db: Database, annotator_id: int, overlap: int, assigned: tuple[int, int] | None
) -> ChosenComparison | None:
    """What an undo took out of this annotator's hands, the latest first, as it was drawn, while there is time for it.

    An undo draws nothing anew: who saw many draws would know what is rare, which is gold, and could choose.
    """
    given, given_by = assigned or (None, None)
    row = db.row(
        f"""SELECT k.* FROM claim k JOIN comparison c ON c.id = k.comparison_id
            WHERE k.annotator_id = :annotator AND k.state = 'released' AND k.expires > :now
              AND NOT EXISTS (SELECT 1 FROM judgement j WHERE j.claim_id = k.id) AND {STILL_OPEN}
            ORDER BY k.id DESC LIMIT 1""",
        {"annotator": annotator_id, "now": now(), "overlap": overlap, "given": given, "given_by": given_by},
    )
    return None if row is None else shown_again(db, read_row(StoredClaim, row))


def order_again(db: Database, annotator_id: int, comparison_id: int, source: random.Random) -> Sequence[int]:
    """The order in which this annotator had a comparison in hand until an undo, while there is time for it, or a new
    one."""
    before = db.value(
        """SELECT shown_order FROM claim WHERE annotator_id = ? AND comparison_id = ? AND state = 'released'
             AND expires > ? ORDER BY id DESC LIMIT 1""",
        (annotator_id, comparison_id, now()),
    )
    return json.loads(before) if before else selection.draw_order(size_of(db, comparison_id), source)


def shown_again(db: Database, claim: StoredClaim) -> ChosenComparison:
    """What was in somebody's hands, to be put there again as it was drawn."""
    return ChosenComparison(
        comparison_id=claim.comparison_id,
        purpose=claim.purpose,
        order=claim.shown_order,
        slot=free_slot(db, claim.comparison_id) if claim.purpose == "own" else None,
        re_ask_of=claim.re_ask_of,
        chance=claim.chance,
        assigned_by=claim.assigned_by,
    )


def for_learning(db: Database, comparison_id: int, source: random.Random, chance: float | None) -> ChosenComparison:
    """A comparison to learn from or to measure a candidate by, in a drawn order and a free slot."""
    order = selection.draw_order(size_of(db, comparison_id), source)
    return ChosenComparison(comparison_id, "own", order, free_slot(db, comparison_id), chance=chance)


def choose_of_candidate(db: Database, annotator_id: int) -> tuple[int, float] | None:
    """A candidate's answer beside one of the policy that it would replace; the newest candidate's first, each once.

    With the chance of it, which is 1. Whoever is left out gets none.
    """
    found = db.value(
        f"""SELECT c.id FROM comparison c WHERE c.candidate_id IS NOT NULL AND c.asks = 'people' AND c.state = 'ready'
              AND c.assigned = 0 AND c.taken = 0 AND {UNSEEN} AND NOT {SKIPPED_FOR_GOOD}
              AND NOT {WOULD_NOT_COUNT.format(":annotator")}
            ORDER BY c.candidate_id DESC, c.id LIMIT 1""",
        {"annotator": annotator_id},
    )
    return None if found is None else (int(found), 1.0)


# The oldest open comparisons that are looked at when prompts are to be judged evenly.
CANDIDATES = 400


def choose_from_pool(db: Database, annotator_id: int, overlap: int, source: random.Random) -> tuple[int, float] | None:
    """The open comparison to judge next, and the chance of it: the serving policy's first, older policies' last.

    Comparisons of no single policy (imported, or put in to compare policies) take turns with the serving policy's,
    which the answering worker never lets run out, by a coin. Among those of one kind, comparisons that others have
    begun go first, so that they get their full number of annotators; then `selection.pick` spreads judgements over the
    prompts. Finished answers go before those still being written.
    """
    models = [row["id"] for row in db.rows("SELECT id FROM model ORDER BY status = 'serving' DESC, id DESC")]
    for state in ("ready", "writing"):
        first = [open_of(db, annotator_id, overlap, state, model_id) for model_id in (None, *models[:1])]
        waiting = [comparison_id for comparison_id in first if comparison_id is not None]
        if waiting:
            return source.choice(waiting), 1 / len(waiting)
        for model_id in models[1:]:
            found = open_of(db, annotator_id, overlap, state, model_id)
            if found is not None:
                return found, 1.0
    return None


def open_of(db: Database, annotator_id: int, overlap: int, state: str, model_id: int | None) -> int | None:
    """The open comparison of a policy, or of no single one, to judge first."""
    for taken in reversed(range(overlap)):
        # One that an annotator asked for is first theirs to judge. `min(id)` of each prompt, out of the oldest
        # CANDIDATES only, so that a press costs no more where thousands wait.
        candidates = db.rows(
            f"""SELECT min(open.id) AS id,
                    (SELECT sum(o.taken) FROM comparison o WHERE o.prompt_id = open.prompt_id) AS judged
                FROM (SELECT c.id, c.prompt_id FROM comparison c
                      WHERE c.purpose = 'preference' AND c.state = :state AND c.asks = 'people'
                        AND c.model_id IS :model AND c.candidate_id IS NULL AND c.assigned = 0 AND c.taken = :taken
                        AND (c.asked_by IS NULL OR c.taken > 0) AND {UNSEEN}
                      ORDER BY c.id LIMIT {CANDIDATES}) AS open GROUP BY open.prompt_id""",
            {"state": state, "model": model_id, "taken": taken, "annotator": annotator_id},
        )
        if candidates:
            return selection.pick([(row["id"], row["judged"]) for row in candidates])
    return None


def choose_gold(db: Database, annotator_id: int, source: random.Random) -> ChosenComparison | None:
    row = db.row(
        f"""SELECT c.id FROM comparison c WHERE c.purpose = 'gold' AND c.state = 'ready' AND {UNSEEN}
            ORDER BY c.id LIMIT 1""",
        {"annotator": annotator_id},
    )
    if row is None:
        return None
    return ChosenComparison(row["id"], "gold", selection.draw_order(size_of(db, row["id"]), source))


def choose_re_ask(db: Database, annotator_id: int) -> ChosenComparison | None:
    """An own earlier comparison in the opposite order: not one of the latest, and each once."""
    row = db.row(
        """SELECT j.id, j.comparison_id, j.shown_order FROM current_judgement j
           JOIN comparison c ON c.id = j.comparison_id AND c.state != 'withdrawn'
           WHERE j.annotator_id = ? AND j.purpose = 'own' AND j.outcome = 'ranked' AND NOT j.early
             AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.annotator_id = j.annotator_id
                 AND k.comparison_id = j.comparison_id AND k.purpose = 're-ask'
                 AND k.state IN ('held', 'judged', 'skipped'))
           ORDER BY j.id DESC LIMIT 1 OFFSET ?""",
        (annotator_id, selection.RE_ASK_AFTER),
    )
    if row is None:
        return None
    order = tuple(reversed(json.loads(row["shown_order"])))
    return ChosenComparison(row["comparison_id"], "re-ask", order, re_ask_of=row["id"])


def size_of(db: Database, comparison_id: int) -> int:
    """How many answers a comparison has."""
    return int(db.value("SELECT count(*) FROM comparison_response WHERE comparison_id = ?", (comparison_id,)))


def free_slot(db: Database, comparison_id: int) -> int:
    """The lowest slot of a comparison that nobody holds or has judged."""
    rows = db.rows(
        "SELECT slot FROM claim WHERE comparison_id = ? AND state IN ('held', 'judged') AND slot IS NOT NULL",
        (comparison_id,),
    )
    taken = {row["slot"] for row in rows}
    return next(slot for slot in range(len(taken) + 1) if slot not in taken)
