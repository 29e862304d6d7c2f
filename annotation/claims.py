"""Comparisons in people's hands: handing them out, and their judgements: made, taken back, changed and settled."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar, cast

from annotated_types import Interval

from annotation import selection, store
from annotation.database import Database
from annotation.records import (
    MAXIMUM_EDIT,
    MAXIMUM_MINUTES,
    MAXIMUM_NOTE,
    Act,
    Claim,
    ClaimState,
    Edit,
    Flag,
    Kind,
    Outcome,
    Project,
    Purpose,
    ShownAnswer,
    UserError,
    now,
    seconds_between,
    storable,
)
from annotation.translation import N_, _, ngettext
from annotation.validation import FromMapping, NonNegativeInt, PositiveInt, read

NOT_IN_HAND = N_("This comparison is not in your hands. Nothing was recorded; here is your next one.")
JUDGED = N_("You have judged this comparison already, and that judgement stands. Nothing was recorded now.")
EXPIRED = N_("The time for this comparison ran out and it went back to the pool. Nothing was recorded.")
TAKEN_UP = N_("You have taken up another comparison in another tab. Nothing was recorded; judge what is shown now.")
HERE_AGAIN = N_("The time for this comparison ran out. It is yours again; its answers may have changed places.")
TAKEN_BACK = N_("You took this judgement back. Nothing was recorded; judge what is shown now.")
ONLY_ADMINS = N_("Only an admin may do this. Ask one of them.")
CHANGED_SINCE = N_("This judgement has been changed or taken back since. Look at your list again.")
UNFIT = {
    "failed": N_(
        "An answer could not be written to its end, so this comparison can't be judged. Here is your next one."
    ),
    "dropped": N_("The answers came out the same or empty, so there is nothing to compare. Here is your next one."),
}


# ------------------------------------------------------------------------------------------------------------- rows
@dataclass(frozen=True)
class StoredClaim:
    """A row of `claim`: a comparison as it was put into an annotator's hands."""

    id: int
    nonce: str
    comparison_id: int
    annotator_id: int
    purpose: Purpose
    kind: Kind
    re_ask_of: int | None
    guidelines_version: int | None
    shown_order: tuple[int, ...]
    chance: float | None
    assigned_by: int | None
    state: ClaimState
    created: str
    expires: str


@dataclass(frozen=True)
class StoredJudgement:
    """A row of `judgement`; `ranking` is by the answers' positions."""

    id: int
    claim_id: int | None
    comparison_id: int
    annotator_id: int
    purpose: Purpose
    kind: Kind
    re_ask_of: int | None
    shown_order: tuple[int, ...]
    outcome: Outcome
    ranking: tuple[int, ...] | None
    strength: int | None
    tags: tuple[str, ...]
    note: str
    flag: Flag | None
    edited_response_id: int | None
    seconds: float | None

    def act(self, order: Sequence[int] | None = None) -> dict[str, Any]:
        """What was done, in the terms of the screen: as `parse_act` reads it, except for the edit's text."""
        order = order or self.shown_order
        return {
            "outcome": self.outcome,
            "ranks": None if self.ranking is None else [self.ranking[position] for position in order],
            "strength": self.strength,
            "tags": list(self.tags),
            "note": self.note,
            "flag": self.flag,
        }


Stored = TypeVar("Stored", StoredClaim, StoredJudgement)


def read_row(kind: type[Stored], row: Mapping[str, Any]) -> Stored:
    """A row as its record."""
    values = {entry.name: row[entry.name] for entry in fields(kind)}
    lists = {name: tuple(json.loads(values[name])) for name in ("shown_order", "ranking", "tags") if values.get(name)}
    return kind(**values | lists)


def read_found(kind: type[Stored], row: Mapping[str, Any] | None) -> Stored | None:
    """The same of a row that may not be there."""
    return None if row is None else read_row(kind, row)


# ------------------------------------------------------------------------------------------------------- handing out
def claim_next(db: Database, annotator_id: int, source: random.Random | None = None) -> Claim | None:
    """The comparison this annotator holds, or a new one from the pool; None when there is none for this annotator.

    Asking again (a reload, a second tab) gives the same comparison in the same order until it is judged, expires, or
    turns out unfit to be judged.
    """
    held = held_claim(db, annotator_id)
    if held is not None and held.comparison_state not in UNFIT:
        show_todays_guidelines(db, held)
        return held
    source = source or secrets.SystemRandom()
    with db.transaction():
        release_unfit(db)
        held = held_claim(db, annotator_id)
        if held is not None:
            return held
        project = store.project(db)
        chosen = choose(db, annotator_id, project, source)
        if chosen is None:
            return None
        insert_claim(db, project, annotator_id, chosen)
    return held_claim(db, annotator_id)


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

    What they are to settle and a prompt of their own come first, now and then gold or a re-ask, then what is assigned
    to them, then the pool.
    """
    if quota_reached(db, annotator_id):
        return None
    settling = standing_assignment(db, annotator_id, "settle", project.overlap)
    if settling is not None:
        order = selection.draw_order(size_of(db, settling[0]), source)
        return ChosenComparison(settling[0], "settle", order, chance=None, assigned_by=settling[1])
    own = db.row(
        f"""SELECT c.id FROM comparison c WHERE c.asked_by = :annotator AND c.purpose = 'preference'
              AND c.state IN ('writing', 'ready') AND c.taken = 0 AND {UNSEEN} ORDER BY c.id LIMIT 1""",
        {"annotator": annotator_id},
    )
    if own is not None:
        return for_learning(db, own["id"], source, 1.0)
    # All are looked for, so that the chance of what is shown is known and not only its share.
    measuring = {
        "gold": choose_gold(db, annotator_id, source) if project.gold_share else None,
        "re-ask": choose_re_ask(db, annotator_id) if project.re_ask_share else None,
    }
    assigned = standing_assignment(db, annotator_id, "assign", project.overlap)
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
              AND c.assigned = 0 AND c.taken = 0 AND {UNSEEN} AND NOT {store.SKIPPED_FOR_GOOD}
              AND NOT {store.WOULD_NOT_COUNT.format(":annotator")}
            ORDER BY c.candidate_id DESC, c.id LIMIT 1""",
        {"annotator": annotator_id},
    )
    return None if found is None else (int(found), 1.0)


# Not held, judged or skipped by this annotator before, in whatever role.
UNSEEN = """NOT EXISTS (SELECT 1 FROM claim k WHERE k.annotator_id = :annotator AND k.comparison_id = c.id
    AND k.state IN ('held', 'judged', 'skipped'))"""
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
    """A gold comparison that this annotator has not seen."""
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


def insert_claim(db: Database, project: Project, annotator_id: int, chosen: ChosenComparison) -> None:
    """Put a comparison into an annotator's hands, inside the caller's transaction."""
    created = datetime.now(UTC)
    db.insert(
        "claim",
        {
            "nonce": secrets.token_urlsafe(16),
            "comparison_id": chosen.comparison_id,
            "annotator_id": annotator_id,
            "purpose": chosen.purpose,
            "kind": selection.kind_of(project, len(chosen.order)),
            "slot": chosen.slot,
            "re_ask_of": chosen.re_ask_of,
            "guidelines_version": db.value("SELECT max(version) FROM guidelines"),
            "shown_order": json.dumps(list(chosen.order)),
            "chance": chosen.chance,
            "assigned_by": chosen.assigned_by,
            "state": "held",
            "created": created.isoformat(timespec="microseconds"),
            "expires": (created + timedelta(minutes=project.claim_minutes)).isoformat(timespec="microseconds"),
        },
    )


def held_claim(db: Database, annotator_id: int) -> Claim | None:
    """The unexpired comparison in this annotator's hands, if any."""
    row = db.row("SELECT * FROM claim WHERE annotator_id = ? AND state = 'held' AND expires > ?", (annotator_id, now()))
    return None if row is None else read_claim(db, read_row(StoredClaim, row))


def read_claim(db: Database, claim: StoredClaim) -> Claim:
    """A claim with the conversation and the answers."""
    answers = db.rows(
        """SELECT r.text, r.state, p.messages, c.state AS comparison_state FROM comparison c
           JOIN comparison_response cr ON cr.comparison_id = c.id JOIN response r ON r.id = cr.response_id
           JOIN prompt p ON p.id = c.prompt_id WHERE c.id = ? ORDER BY cr.position""",
        (claim.comparison_id,),
    )
    return Claim(
        nonce=claim.nonce,
        comparison_id=claim.comparison_id,
        annotator_id=claim.annotator_id,
        purpose=claim.purpose,
        kind=claim.kind,
        guidelines_version=claim.guidelines_version,
        shown_order=claim.shown_order,
        messages=tuple(json.loads(answers[0]["messages"])),
        answers=tuple(ShownAnswer(answer["text"], answer["state"]) for answer in answers),
        comparison_state=answers[0]["comparison_state"],
    )


def show_todays_guidelines(db: Database, claim: Claim) -> None:
    """A comparison in hand is judged under the guidelines that the page shows now, not those of when it was claimed."""
    latest = store.guidelines(db).version or None
    if claim.guidelines_version != latest:
        with db.transaction() as connection:
            connection.execute(
                "UPDATE claim SET guidelines_version = ? WHERE nonce = ? AND state = 'held'", (latest, claim.nonce)
            )


def release_unfit(db: Database) -> None:
    """Take comparisons out of hands whose time is over, whose account is shut out, of whom a word would not count, or
    that can't be judged any more."""
    with db.transaction() as connection:
        connection.execute(
            f"""UPDATE claim SET expires = ? WHERE state = 'held' AND (
                    annotator_id IN (SELECT id FROM annotator WHERE NOT active)
                    OR slot NOT NULL AND EXISTS (SELECT 1 FROM comparison c WHERE c.id = claim.comparison_id
                        AND {store.WOULD_NOT_COUNT.format("claim.annotator_id")}))""",
            (now(),),
        )
        connection.execute("UPDATE claim SET state = 'released' WHERE state = 'held' AND expires <= ?", (now(),))
        connection.execute(
            """UPDATE claim SET state = 'released' WHERE state = 'held' AND EXISTS (
                   SELECT 1 FROM comparison c WHERE c.id = claim.comparison_id AND c.purpose = 'preference'
                     AND c.state IN ('failed', 'dropped'))"""
        )


# ------------------------------------------------------------------------------------------------- what is assigned
# The annotators to whom a bulk change `x` gives comparisons, by name or as those of a group.
GIVEN_TO = "SELECT x.annotator_id UNION ALL SELECT annotator_id FROM annotator_group WHERE name = x.group_name"


# CROSS: in this order, from the few that stand.
STANDING = f"""FROM bulk_change x
    CROSS JOIN bulk_change_comparison i ON i.change_id = x.id AND i.state = 'stands'
    CROSS JOIN comparison c ON c.id = i.comparison_id
    WHERE x.kind = :kind AND :annotator IN ({GIVEN_TO}) AND c.purpose = 'preference'
      AND (:kind = 'assign' OR (SELECT role FROM annotator WHERE id = :annotator) = 'admin')
      AND c.state IN ('ready', 'writing', 'closed', 'withdrawn')
      AND (:kind = 'settle' OR c.state != 'withdrawn' AND NOT {store.SKIPPED_FOR_GOOD} AND {UNSEEN}
        AND NOT {store.WOULD_NOT_COUNT.format(":annotator")} AND (
          x.group_name IS NULL OR c.taken < :overlap OR NOT EXISTS (SELECT 1 FROM claim k
              JOIN annotator_group g ON g.annotator_id = k.annotator_id
              WHERE g.name = x.group_name AND k.comparison_id = c.id AND k.state IN ('held', 'judged'))))"""


def standing_assignment(db: Database, annotator_id: int, kind: str, overlap: int) -> tuple[int, int] | None:
    """What an annotator is to judge ('assign') or to settle ('settle') first: the comparison, and the bulk change.

    Nobody judges anew what they have judged or skipped. A group's goes to as many of it as a comparison has annotators,
    and to one at least, whoever else has judged it; a person's to that person in any case.
    """
    row = db.row(
        f"SELECT i.comparison_id, i.change_id {STANDING} ORDER BY x.id, i.comparison_id LIMIT 1",
        {"annotator": annotator_id, "kind": kind, "overlap": overlap},
    )
    return None if row is None else (int(row["comparison_id"]), int(row["change_id"]))


def given_to(db: Database, annotator_id: int, overlap: int) -> int:
    """How many comparisons an annotator is still to judge or to settle because they were assigned."""
    return sum(
        int(
            db.value(
                f"SELECT count(DISTINCT i.comparison_id) {STANDING}",
                {"annotator": annotator_id, "kind": kind, "overlap": overlap},
            )
        )
        for kind in ("assign", "settle")
    )


# Who has judged as many comparisons as they shall: they get no more.
REACHED_QUOTA = """SELECT id FROM annotator q WHERE q.quota <=
    (SELECT count(*) FROM claim k WHERE k.annotator_id = q.id AND k.state = 'judged')"""
# Of comparison `i.comparison_id` in the assignment `x`: that somebody is still to judge it under it.
STILL_TO_JUDGE = f"""SELECT EXISTS (SELECT 1 FROM annotator a WHERE a.active AND a.id IN ({GIVEN_TO})
        AND a.id NOT IN ({REACHED_QUOTA})
        AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.annotator_id = a.id AND k.comparison_id = i.comparison_id
            AND k.state IN ('judged', 'skipped'))
        AND NOT EXISTS (SELECT 1 FROM comparison c
            WHERE c.id = i.comparison_id AND {store.WOULD_NOT_COUNT.format("a.id")}))
    AND NOT (x.group_name IS NOT NULL
        AND (SELECT count(*) FROM claim k WHERE k.comparison_id = i.comparison_id AND k.state = 'judged'
            AND k.slot IS NOT NULL) >= :overlap
        AND EXISTS (SELECT 1 FROM claim k JOIN annotator_group g ON g.annotator_id = k.annotator_id
            WHERE g.name = x.group_name AND k.comparison_id = i.comparison_id AND k.state = 'judged'))
    AND NOT EXISTS (SELECT 1 FROM comparison c WHERE c.id = i.comparison_id AND {store.SKIPPED_FOR_GOOD})"""
SETTLED = """SELECT EXISTS (SELECT 1 FROM claim k WHERE k.assigned_by = x.id AND k.comparison_id = i.comparison_id
    AND k.state IN ('judged', 'skipped'))"""


def follow_assignments(db: Database, comparison_id: int | None = None) -> None:
    """Note which assignments of a comparison, or of all, still stand, inside the caller's transaction.

    One ends when everybody whom it names has judged or skipped the comparison, can't sign in any more, or has reached
    their quota, would not count, or when somebody skips it for good. While one stands nobody else gets the comparison.
    What was taken back never stands again.
    """
    if (
        comparison_id
        and db.row("SELECT 1 FROM bulk_change_comparison WHERE comparison_id = ?", (comparison_id,)) is None
    ):
        return
    mine = "comparison_id = :comparison" if comparison_id else "1"
    db.connection.execute(
        f"""UPDATE bulk_change_comparison AS i SET state = (SELECT iif(
                CASE x.kind WHEN 'settle' THEN NOT ({SETTLED}) ELSE ({STILL_TO_JUDGE}) END, 'stands', 'done')
            FROM bulk_change x WHERE x.id = i.change_id) WHERE state IN ('stands', 'done') AND {mine}
              AND change_id IN (SELECT id FROM bulk_change WHERE undone IS NULL)""",
        {"overlap": store.project(db).overlap, "comparison": comparison_id},
    )
    among = f"SELECT comparison_id FROM bulk_change_comparison WHERE state IS NOT NULL AND {mine}"
    hold_back(db, among, {"comparison": comparison_id})


def follow_act(db: Database, annotator_id: int, comparison_id: int) -> None:
    """Note what a judgement, or its undo, does to assignments: to all, where it may be the one that ends a quota."""
    quota = quota_of(db, annotator_id)
    at_its_end = quota is not None and judged_by(db, annotator_id) in (quota - 1, quota)
    follow_assignments(db, None if at_its_end else comparison_id)


def hold_back(db: Database, among: str, values: Mapping[str, Any]) -> None:
    """Keep those of the comparisons `among` for whom they are assigned to whose assignment stands, and no others.

    Inside the caller's transaction.
    """
    db.connection.execute(
        f"""UPDATE comparison SET assigned = NOT assigned
            WHERE id IN ({among}) AND assigned != EXISTS (SELECT 1 FROM bulk_change_comparison i
                JOIN bulk_change x ON x.id = i.change_id
                WHERE i.comparison_id = comparison.id AND i.state = 'stands' AND x.kind = 'assign')""",
        dict(values),
    )


def kinds_by_size(db: Database) -> dict[str, str]:
    """What is asked about a comparison of two answers, and of several."""
    project = store.project(db)
    return {"two": selection.kind_of(project, 2), "several": selection.kind_of(project, 3)}


def quota_of(db: Database, annotator_id: int) -> int | None:
    """How many comparisons an annotator shall judge in all; None for no end."""
    quota = db.value("SELECT quota FROM annotator WHERE id = ?", (annotator_id,))
    return None if quota is None else int(quota)


def quota_reached(db: Database, annotator_id: int) -> bool:
    """Whether an annotator has judged as many comparisons as they shall."""
    quota = quota_of(db, annotator_id)
    return quota is not None and judged_by(db, annotator_id) >= quota


# ----------------------------------------------------------------------------------------------------------- judging
class JudgementConflict(UserError):
    """A judgement was refused because another one stands for the comparison: the current one with id `stands`."""

    def __init__(self, stands: int) -> None:
        super().__init__(_(JUDGED))
        self.stands = stands


def judge(db: Database, annotator_id: int, nonce: str, value: Any) -> int:
    """Record a judgement (as `parse_act` reads it) on the comparison shown under `nonce`, once; returns its id.

    The same request again (double click, retry) returns the judgement that stands, unchanged. Raises JudgementConflict
    where that says something else (a second tab, a change since), and UserError when nothing was recorded and nothing
    stands: an unknown nonce, another person's claim, one undone, expired or unfit.
    """
    with db.transaction() as connection:
        claim = claim_under(db, annotator_id, nonce)
        if claim is None:
            raise UserError(_(NOT_IN_HAND))
        stands = current_judgement(db, claim)
        if stands is not None:
            return same_or_refused(db, stands, value, claim.shown_order)
        if claim.state != "held" or claim.expires <= now():
            raise UserError(why_closed(db, claim))
        act = parse_for(db, claim, value)
        if act.outcome == "skip" and act.flag is None:
            refuse_skipping_on(db, claim)
        connection.execute(
            "UPDATE claim SET state = ? WHERE id = ?", ("skipped" if act.outcome == "skip" else "judged", claim.id)
        )
        made = insert_judgement(db, claim, act, seconds_between(claim.created, now()))
        follow_act(db, annotator_id, claim.comparison_id)
        return made


def claim_under(db: Database, annotator_id: int, nonce: str) -> StoredClaim | None:
    """What was shown to an annotator under a nonce."""
    row = db.row("SELECT * FROM claim WHERE nonce = ? AND annotator_id = ?", (nonce, annotator_id))
    return read_found(StoredClaim, row)


def current_judgement(db: Database, claim: StoredClaim) -> StoredJudgement | None:
    """The judgement that stands for what a claim asked: made on it, or on a later one of the same comparison
    (after an undo, or when the time had run out)."""
    row = db.row(
        """SELECT * FROM current_judgement WHERE annotator_id = :annotator_id AND comparison_id = :comparison_id
             AND purpose = :purpose AND re_ask_of IS :re_ask_of AND claim_id >= :id
           ORDER BY claim_id = :id DESC, id DESC LIMIT 1""",
        vars(claim),
    )
    return read_found(StoredJudgement, row)


def same_or_refused(db: Database, stands: StoredJudgement, value: Any, order: Sequence[int]) -> int:
    """The id of a judgement that stands, if what was sent says the same of answers shown in an order (by the time that
    a comparison is shown again they may have changed places). Raises JudgementConflict if not."""
    stored = whole_act_of(db, stands, order)
    try:
        # By the reasons known then: the project's may have changed since.
        sent = parse_act(value, stands.kind, len(stands.shown_order), stored["tags"])
    except UserError:
        raise JudgementConflict(stands.id) from None
    if sent != parse_act(stored, stands.kind, len(stands.shown_order), stored["tags"]):
        raise JudgementConflict(stands.id)
    return int(stands.id)


def why_closed(db: Database, claim: StoredClaim) -> str:
    """Why a claim that is not in hand any more, and for which no judgement stands, can't be judged."""
    if db.value("SELECT count(*) FROM judgement WHERE claim_id = ?", (claim.id,)):
        return _(TAKEN_BACK)
    gone = TAKEN_UP if gave_way(db, claim) or claim.expires > now() else EXPIRED
    return _(UNFIT.get(read_claim(db, claim).comparison_state, gone))


def gave_way(db: Database, claim: StoredClaim) -> bool:
    """Whether its annotator took up another comparison while there was still time for this one."""
    return bool(
        db.value(
            f"""SELECT EXISTS (SELECT 1 FROM claim k WHERE k.annotator_id = ? AND k.id > ? AND k.created < ?
                 AND NOT {PASSED_OVER})""",
            (claim.annotator_id, claim.id, claim.expires),
        )
    )


def parse_for(db: Database, claim: StoredClaim, value: Any) -> Act:
    """What the browser sent about a claim's comparison. Raises UserError if it does not fit, or can't be judged."""
    shown = read_claim(db, claim)
    if shown.comparison_state in UNFIT:
        raise UserError(_(UNFIT[shown.comparison_state]))
    act = parse_act(value, shown.kind, len(shown.answers), [tag.label for tag in store.project(db).tags])
    if any(answer.state == "failed" for answer in shown.answers) and act.outcome != "skip":
        raise UserError(_(UNFIT["failed"]))
    return act


def of_claim(row: StoredClaim | StoredJudgement) -> dict[str, Any]:
    """What a judgement takes over from the claim that it is on, and the row that takes it back from the judgement."""
    names = ("comparison_id", "annotator_id", "purpose", "kind", "re_ask_of")
    return {**{name: getattr(row, name) for name in names}, "shown_order": json.dumps(row.shown_order)}


def insert_judgement(
    db: Database, claim: StoredClaim, act: Act, seconds: float | None, supersedes: int | None = None
) -> int:
    """Write a judgement on a claim, and the answer if it edits one, inside the caller's transaction; returns its id."""
    ranking = act.ranking(claim.shown_order)
    edited = None if act.edit is None else insert_edit(db, claim, claim.shown_order[act.edit.place], act.edit.text)
    early = db.value(
        """SELECT count(*) FROM comparison_response cr JOIN response r ON r.id = cr.response_id
           WHERE cr.comparison_id = ? AND r.state = 'writing'""",
        (claim.comparison_id,),
    )
    return db.insert(
        "judgement",
        {
            "claim_id": claim.id,
            **of_claim(claim),
            "guidelines_version": claim.guidelines_version,
            "outcome": act.outcome,
            "ranking": None if ranking is None else json.dumps(ranking),
            "strength": act.strength,
            "tags": json.dumps(act.tags, ensure_ascii=False),
            "note": act.note,
            "flag": act.flag,
            "edited_response_id": edited,
            "early": int(early > 0 and act.outcome != "skip"),
            "seconds": seconds,
            "supersedes": supersedes,
            "created": now(),
        },
    )


def insert_edit(db: Database, claim: StoredClaim, position: int, text: str) -> int:
    """Store a person's edited version of the answer at a position; returns its id."""
    original = db.row(
        """SELECT r.id, r.prompt_id, r.text FROM comparison_response cr JOIN response r ON r.id = cr.response_id
           WHERE cr.comparison_id = ? AND cr.position = ?""",
        (claim.comparison_id, position),
    )
    assert original is not None
    if original["text"].strip() == text:
        raise UserError(_("The edited answer is the same as before. Change it, or judge without an edit."))
    return db.insert(
        "response",
        {
            "prompt_id": original["prompt_id"],
            "origin": "person",
            "annotator_id": claim.annotator_id,
            "edited_from": original["id"],
            "purpose": "demonstrate",
            "text": text,
            "created": now(),
        },
    )


# ------------------------------------------------------------------------------------------ taking back and changing
def undo(db: Database, annotator_id: int, shown_nonce: str) -> Claim:
    """Take back this annotator's latest judgement: a superseding row says so, and the comparison is in hand again.

    `shown_nonce` is what the person sees while asking (empty: the waiting card); a repeated request finds another
    comparison in hand and undoes nothing more. Raises UserError then, when there is nothing to undo, or when others
    have the comparison by now (after a skip).
    """
    with db.transaction() as connection:
        in_hand = held_claim(db, annotator_id)
        if shown_nonce != (in_hand.nonce if in_hand else ""):
            raise UserError(_("This page showed an older comparison. Nothing was undone now; here is where you are."))
        last = latest_judgement(db, annotator_id)
        if last is None:
            raise UserError(_("There is no judgement of yours to undo."))
        claim = claim_judged(db, last)
        refuse_settling(db, claim)
        refuse_changing_on(db, claim)
        if claim.state == "skipped":
            refuse_skipped(db, claim)
        connection.execute("UPDATE claim SET state = 'released' WHERE id = ?", (claim.id,))
        insert_undone(db, last)
        connection.execute(
            "UPDATE claim SET state = 'released' WHERE annotator_id = ? AND state = 'held'", (annotator_id,)
        )
        slot = free_slot(db, claim.comparison_id) if claim.purpose == "own" else None
        again = ChosenComparison(
            comparison_id=claim.comparison_id,
            purpose=claim.purpose,
            order=claim.shown_order,
            slot=slot,
            re_ask_of=claim.re_ask_of,
            chance=claim.chance,
            assigned_by=claim.assigned_by,
        )
        insert_claim(db, store.project(db), annotator_id, again)
        follow_act(db, annotator_id, claim.comparison_id)
    held = held_claim(db, annotator_id)
    assert held is not None
    return held


# Of a claim `k`: that a bulk change passed its comparison over, so that it never was in anybody's hands.
PASSED_OVER = "EXISTS (SELECT 1 FROM bulk_change x WHERE x.id = k.assigned_by AND x.kind = 'skip')"
# Of a judgement `j`: that its annotator made it, one by one; what a bulk change passed over, that change takes back.
MADE_IN_HAND = f"""j.claim_id NOT NULL AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.id = j.claim_id
    AND {PASSED_OVER})"""


def claim_judged(db: Database, judgement: StoredJudgement) -> StoredClaim:
    """The claim that a person's judgement is on."""
    row = db.row("SELECT * FROM claim WHERE id = ?", (judgement.claim_id,))
    assert row is not None
    return read_row(StoredClaim, row)


def latest_judgement(db: Database, annotator_id: int) -> StoredJudgement | None:
    """This annotator's latest current judgement: the one that `undo` takes back."""
    row = db.row(
        f"SELECT * FROM current_judgement j WHERE annotator_id = ? AND {MADE_IN_HAND} ORDER BY id DESC LIMIT 1",
        (annotator_id,),
    )
    return read_found(StoredJudgement, row)


def latest_act(db: Database, annotator_id: int) -> dict[str, Any] | None:
    """What this annotator's latest current judgement says, as `stored_act` has it."""
    last = latest_judgement(db, annotator_id)
    return None if last is None else judgement_view(db, last)


def stored_act(db: Database, judgement_id: int, order: Sequence[int] | None = None) -> dict[str, Any]:
    """What a judgement says in the terms of the screen, read from its row: `parse_act`'s fields, id, kind and size.

    The screen is the one that showed the answers in `order`; by default the one on which it was judged.
    """
    row = db.row("SELECT * FROM judgement WHERE id = ?", (judgement_id,))
    assert row is not None
    return judgement_view(db, read_row(StoredJudgement, row), order)


def order_under(db: Database, annotator_id: int, nonce: str) -> tuple[int, ...] | None:
    """The order in which answers were shown to this annotator under a nonce; None without such a hand-out."""
    claim = claim_under(db, annotator_id, nonce)
    return None if claim is None else claim.shown_order


def judged_meanwhile(db: Database, annotator_id: int, nonce: str) -> dict[str, Any] | None:
    """What stands for a comparison that was shown to this annotator and is not in hand any more; None for nothing."""
    claim = claim_under(db, annotator_id, nonce)
    stands = None if claim is None else current_judgement(db, claim)
    return None if stands is None or claim is None else judgement_view(db, stands, claim.shown_order)


def judgement_view(db: Database, made: StoredJudgement, order: Sequence[int] | None = None) -> dict[str, Any]:
    """A judgement as the page words it, for answers shown in `order`."""
    return {"id": made.id, "kind": made.kind, "size": len(made.shown_order), **whole_act_of(db, made, order)}


def insert_undone(db: Database, last: StoredJudgement) -> None:
    """The row that takes a judgement back."""
    db.insert(
        "judgement",
        {
            "claim_id": last.claim_id,
            **of_claim(last),
            "outcome": "undone",
            "seconds": 0,
            "supersedes": last.id,
            "created": now(),
        },
    )


def latest(db: Database, annotator_id: int, before: int | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """This annotator's latest current judgements, newest first: id, prompt, outcome, ranks by place, and the extras.

    Those that were made before one, where its id is given.
    """
    rows = db.rows(
        f"""SELECT j.*, j.supersedes IS NOT NULL AS changed, json_array_length(j.shown_order) AS size,
               e.text AS edited, p.messages FROM current_judgement j
           JOIN comparison c ON c.id = j.comparison_id JOIN prompt p ON p.id = c.prompt_id
           LEFT JOIN response e ON e.id = j.edited_response_id
           WHERE j.annotator_id = :annotator AND {MADE_IN_HAND} AND (:before IS NULL OR j.id < :before)
           ORDER BY j.id DESC LIMIT :limit""",
        {"annotator": annotator_id, "before": before, "limit": limit},
    )
    return [
        {**row, **read_row(StoredJudgement, row).act(), "prompt": json.loads(row["messages"])[-1]["content"]}
        for row in rows
    ]


def whole_act_of(db: Database, made: StoredJudgement, order: Sequence[int] | None = None) -> dict[str, Any]:
    """What was done, in the terms of the screen, with the edit: as `parse_act` reads it."""
    order = order or made.shown_order
    act = made.act(order)
    if made.edited_response_id is None:
        return act
    edited = db.row(
        """SELECT e.text, cr.position FROM response e JOIN comparison_response cr ON cr.response_id = e.edited_from
           WHERE e.id = ? AND cr.comparison_id = ?""",
        (made.edited_response_id, made.comparison_id),
    )
    assert edited is not None
    return {**act, "edit": {"place": order.index(edited["position"]), "text": edited["text"]}}


def reordered(act: Act, seen: Sequence[int], order: Sequence[int]) -> Act:
    """What was done with answers that were seen in one order, in the terms of a screen that shows them in another."""
    ranks = None if act.ranks is None else tuple(act.ranks[seen.index(position)] for position in order)
    edit = None if act.edit is None else replace(act.edit, place=order.index(seen[act.edit.place]))
    return replace(act, ranks=ranks, edit=edit)


def reopen(db: Database, annotator_id: int, judgement_id: int) -> tuple[Claim, dict[str, Any]]:
    """An own current judgement to look at and change: the comparison as it was shown, and what was done with it.

    Raises UserError if it is no current judgement of this annotator.
    """
    made = own_judgement(db, annotator_id, judgement_id)
    return read_claim(db, claim_judged(db, made)), whole_act_of(db, made)


def revise(db: Database, annotator_id: int, judgement_id: int, value: Any, nonce: str = "") -> int:
    """Replace an own current judgement by a superseding one and return its id.

    With a `nonce`, the answers are those in the places in which that hand-out showed them; without, in which they were
    when they were judged. The same request again returns the judgement that it made. Raises JudgementConflict if it has
    been replaced by something else, UserError if it has been taken back or if the new one does not fit the comparison.
    """
    with db.transaction() as connection:
        row = db.row(
            """SELECT k.* FROM judgement j JOIN claim k ON k.id = j.claim_id WHERE j.id = ? AND j.annotator_id = ?""",
            (judgement_id, annotator_id),
        )
        claim = read_found(StoredClaim, row)
        made = None if claim is None else current_judgement(db, claim)
        if claim is None or made is None:
            raise UserError(_(CHANGED_SINCE))
        order = claim.shown_order
        seen = order_under(db, annotator_id, nonce) if nonce else order
        if seen is None or sorted(seen) != sorted(order) or (not nonce and made.shown_order != order):
            raise UserError(_(CHANGED_SINCE))
        if made.id != judgement_id:
            return same_or_refused(db, made, value, seen)
        refuse_settling(db, claim)
        refuse_changing_on(db, claim)
        act = reordered(parse_for(db, claim, value), seen, order)
        state = "skipped" if act.outcome == "skip" else "judged"
        if state == "judged" and claim.state == "skipped":
            refuse_skipped(db, claim)
            slot = free_slot(db, claim.comparison_id) if claim.purpose == "own" else None
            connection.execute("UPDATE claim SET slot = ? WHERE id = ?", (slot, claim.id))
        connection.execute("UPDATE claim SET state = ? WHERE id = ?", (state, claim.id))
        claim = replace(claim, guidelines_version=store.guidelines(db).version or None)  # the page shows today's
        revised = insert_judgement(db, claim, act, made.seconds, supersedes=judgement_id)
        follow_act(db, annotator_id, claim.comparison_id)
        return revised


def refuse_skipped(db: Database, claim: StoredClaim) -> None:
    """Raises UserError where what was skipped is not to be judged by this person any more."""
    if claim.purpose != "settle" and quota_reached(db, claim.annotator_id):
        raise UserError(_("You have judged all that you were asked for; your skip stays."))
    if claim.purpose != "own":
        return
    taken = db.value("SELECT taken FROM comparison WHERE id = ?", (claim.comparison_id,))
    if claim.assigned_by is None and taken >= store.project(db).overlap:
        raise UserError(_("Others have judged the comparison you skipped; your skip stays."))
    if db.value(
        f"""SELECT 1 FROM bulk_change_comparison i JOIN bulk_change x ON x.id = i.change_id
           WHERE i.comparison_id = ? AND i.state = 'stands' AND x.kind = 'assign' AND x.created > ?
             AND ? NOT IN (SELECT annotator_id FROM ({GIVEN_TO}) WHERE annotator_id NOT NULL)""",
        (claim.comparison_id, claim.created, claim.annotator_id),
    ):
        raise UserError(_("The comparison you skipped is assigned to others by now; your skip stays."))


# Far more than anybody needs. Each change is a row for ever, and for each skip the model writes another comparison.
MOST_ROWS = 100
MOST_SKIPS = 200
FAILED_ANSWER = """EXISTS (SELECT 1 FROM comparison_response cr JOIN response r ON r.id = cr.response_id
    WHERE cr.comparison_id = {} AND r.state = 'failed')"""


def refuse_changing_on(db: Database, claim: StoredClaim) -> None:
    """Raises UserError where somebody has judged a comparison, changed and taken back what they said, for ever."""
    rows = db.value(
        "SELECT count(*) FROM judgement WHERE annotator_id = ? AND comparison_id = ?",
        (claim.annotator_id, claim.comparison_id),
    )
    if rows >= MOST_ROWS:
        raise UserError(_("This judgement has been changed and taken back so often that it stays as it is now."))


def refuse_skipping_on(db: Database, claim: StoredClaim) -> None:
    """Raises UserError where somebody has only skipped for a day what could be judged, and says nothing of it."""
    if db.value(f"SELECT {FAILED_ANSWER.format('?')}", (claim.comparison_id,)):
        return
    skips = db.value(
        f"""SELECT count(*) FROM judgement j WHERE annotator_id = :annotator AND outcome = 'skip' AND {MADE_IN_HAND}
             AND flag IS NULL AND created > :since
             AND NOT {FAILED_ANSWER.format("j.comparison_id")}
             AND id > coalesce((SELECT max(id) FROM judgement
                 WHERE annotator_id = :annotator AND outcome IN ('ranked', 'all-bad')), 0)""",
        {
            "annotator": claim.annotator_id,
            "since": (datetime.fromisoformat(now()) - timedelta(days=1)).isoformat(timespec="microseconds"),
        },
    )
    if skips >= MOST_SKIPS:
        raise UserError(
            _(
                "You have skipped {most} comparisons within a day and judged none since. Judge this one, or wait until "
                "a day has passed."
            ).format(most=MOST_SKIPS)
        )


def refuse_settling(db: Database, claim: StoredClaim) -> None:
    """Raises UserError where what stands for everybody would be changed by somebody who is no admin any more."""
    if claim.purpose == "settle" and not db.value(
        "SELECT 1 FROM annotator WHERE id = ? AND role = 'admin'", (claim.annotator_id,)
    ):
        raise UserError(_(ONLY_ADMINS))


def own_judgement(db: Database, annotator_id: int, judgement_id: int) -> StoredJudgement:
    """An own current judgement. Raises UserError if there is none."""
    row = db.row(
        "SELECT * FROM current_judgement WHERE id = ? AND annotator_id = ? AND claim_id IS NOT NULL",
        (judgement_id, annotator_id),
    )
    if row is None:
        raise UserError(_(CHANGED_SINCE))
    return read_row(StoredJudgement, row)


def why_gone(db: Database, annotator_id: int, nonce: str) -> str:
    """Why a comparison that was in this annotator's hands is there no more, unjudged; empty without such a reason."""
    claim = claim_under(db, annotator_id, nonce)
    if claim is None or claim.state not in ("held", "released") or current_judgement(db, claim) is not None:
        return ""
    if claim.state == "held" and claim.expires > now():
        return ""
    why, in_hand = why_closed(db, claim), held_claim(db, annotator_id)
    again = in_hand is not None and in_hand.comparison_id == claim.comparison_id
    return _(HERE_AGAIN) if again and why == _(EXPIRED) else why


def prompts_in_answer(db: Database, annotator_id: int) -> int:
    """How many prompts of this annotator's own are still to be answered or being answered, and not in hand yet."""
    return int(
        db.value(
            f"""SELECT count(*) FROM comparison c WHERE c.asked_by = :annotator AND c.purpose = 'preference'
                  AND c.state IN ('asked', 'writing') AND {UNSEEN}""",
            {"annotator": annotator_id},
        )
    )


UNANSWERED_MINUTES = 30
UNANSWERED = {
    "refused": N_(
        "Your prompt could not be answered: the model can't take it, perhaps because it is too long. "
        "Write it in another way."
    ),
    "failed": N_("Your prompt could not be answered: the writing of its answers broke off. Ask it again."),
    "dropped": N_(
        "Your prompt could not be answered: the answers came out the same or empty. Write it in another way."
    ),
}


def why_unanswered(db: Database, annotator_id: int) -> str:
    """Why the prompt that this annotator asked last, not long ago, can't be judged; empty without such a reason."""
    last = db.row(
        """SELECT c.state, c.created, EXISTS (SELECT 1 FROM comparison_response r WHERE r.comparison_id = c.id) AS begun
           FROM comparison c WHERE c.asked_by = ? AND c.purpose = 'preference' ORDER BY c.id DESC LIMIT 1""",
        (annotator_id,),
    )
    if last is None or seconds_between(last["created"], now()) > 60 * UNANSWERED_MINUTES:
        return ""
    refused = last["state"] == "failed" and not last["begun"]
    return _(UNANSWERED.get("refused" if refused else last["state"], ""))


# ---------------------------------------------------------------------------------------------------------- settling
def take_to_settle(db: Database, annotator_id: int, comparison_id: int) -> Claim:
    """Put a comparison whose annotators disagree into this person's hands, blind; what they hold goes back to the pool.

    Their judgement then stands for the comparison. Raises UserError if nobody has judged it.
    """
    with db.transaction() as connection:
        judged = db.value("SELECT count(*) FROM current_judgement WHERE comparison_id = ?", (comparison_id,))
        if not judged:
            raise UserError(
                _("Nobody has judged comparison {comparison_id}, so there is nothing to settle.").format(
                    comparison_id=comparison_id
                )
            )
        connection.execute(
            "UPDATE claim SET state = 'released' WHERE annotator_id = ? AND state = 'held'", (annotator_id,)
        )
        order = selection.draw_order(size_of(db, comparison_id), secrets.SystemRandom())
        insert_claim(db, store.project(db), annotator_id, ChosenComparison(comparison_id, "settle", order))
    held = held_claim(db, annotator_id)
    assert held is not None
    return held


# ---------------------------------------------------------------------------------------------------------- progress
# Of a claim `k`: that it was judged after `since`, and at the soonest handed out at `earliest`, by which it is found.
JUDGED_SINCE = """k.state = 'judged' AND k.created >= :earliest AND (:since = '' OR (SELECT j.created FROM judgement j
    WHERE j.claim_id = k.id AND j.supersedes IS NULL) >= :since)"""


def judged_since(since: str) -> dict[str, str]:
    """The values of JUDGED_SINCE: nothing stays in hand for longer than the most minutes that a project can give."""
    earliest = (datetime.fromisoformat(since) - timedelta(minutes=MAXIMUM_MINUTES)).isoformat() if since else ""
    return {"since": since, "earliest": earliest}


def judged_by(db: Database, annotator_id: int, since: str = "") -> int:
    """How many comparisons this annotator has judged (skips aside) after `since`."""
    asked = {"annotator": annotator_id, **judged_since(since)}
    return int(db.value(f"SELECT count(*) FROM claim k WHERE annotator_id = :annotator AND {JUDGED_SINCE}", asked))


def judged_by_each(db: Database, since: str) -> list[dict[str, Any]]:
    """Who has judged how many comparisons (skips aside) after `since`; most first.

    `latest` is when they last judged, changed or skipped one.
    """
    return db.rows(
        f"""SELECT a.name, count(*) AS today, (SELECT j.created FROM judgement j WHERE j.annotator_id = a.id
               ORDER BY j.id DESC LIMIT 1) AS latest
           FROM claim k JOIN annotator a ON a.id = k.annotator_id
           WHERE {JUDGED_SINCE} GROUP BY a.id ORDER BY today DESC, a.name""",
        judged_since(since),
    )


def judged_by_all(db: Database) -> int:
    """How many comparisons have been judged, each counted once for every annotator."""
    return int(db.value("SELECT count(*) FROM claim WHERE state = 'judged'"))


# Of a comparison `c`: that people may still be given it; parameters as `asked_of` has them.
TO_HAND_OUT = f"""(c.purpose = 'preference' AND c.state IN ('ready', 'writing') AND c.asks = 'people'
    AND c.taken < iif(c.candidate_id IS NULL, :overlap, :measured) AND NOT {store.SKIPPED_FOR_GOOD})"""
# That it waits for people: it is to be handed out, is in somebody's hands, or is assigned.
WAITS_FOR_PEOPLE = f"""({TO_HAND_OUT} OR c.purpose = 'preference' AND (c.assigned = 1
    OR c.id IN (SELECT comparison_id FROM claim WHERE state = 'held' AND slot IS NOT NULL)))"""


def asked_of(db: Database) -> dict[str, int]:
    """How many annotators a comparison has, and one of a candidate."""
    project = store.project(db)
    return {"overlap": project.overlap, "measured": int(project.candidate_share > 0)}


def waiting_for_people(db: Database) -> dict[int, int]:
    """How many comparisons wait for people, by their number of answers."""
    rows = db.rows(
        f"""SELECT size, count(*) AS n FROM (SELECT (SELECT count(*) FROM comparison_response cr
               WHERE cr.comparison_id = c.id) AS size FROM comparison c WHERE {WAITS_FOR_PEOPLE})
           GROUP BY size ORDER BY size""",
        asked_of(db),
    )
    return {row["size"]: row["n"] for row in rows}


@dataclass(frozen=True)
class Waiting:
    """How many of the comparisons that wait for people one annotator would be given, or is to settle.

    Gold and re-asks come in between, and count in hand only.
    """

    count: int
    """All of them, what is in hand included."""
    of_candidates: Mapping[int, int]
    """Those that measure a candidate, by its number."""


def waiting_for(db: Database, annotator_id: int) -> Waiting:
    """What waits for this annotator: neither what they have judged, nor what is first somebody else's to judge."""
    if quota_reached(db, annotator_id):
        return Waiting(0, {})
    asked = asked_of(db)
    rows = db.rows(
        f"""SELECT c.candidate_id, count(*) AS n FROM comparison c
            WHERE {TO_HAND_OUT} AND c.assigned = 0 AND ({UNSEEN}) AND NOT {store.WOULD_NOT_COUNT.format(":annotator")}
              AND (c.asked_by IS NULL OR c.taken > 0 OR c.asked_by = :annotator)
            GROUP BY c.candidate_id""",
        {"annotator": annotator_id, **asked},
    )
    of_candidates = {row["candidate_id"]: row["n"] for row in rows if row["candidate_id"] is not None}
    in_hand = db.row(
        """SELECT c.candidate_id FROM claim k JOIN comparison c ON c.id = k.comparison_id
           WHERE k.annotator_id = ? AND k.state = 'held'
             AND (k.purpose != 'settle' OR k.assigned_by IS NULL)""",
        (annotator_id,),
    )
    count = sum(row["n"] for row in rows) + given_to(db, annotator_id, asked["overlap"])
    if in_hand is not None and in_hand["candidate_id"] is not None:
        of_candidates[in_hand["candidate_id"]] = of_candidates.get(in_hand["candidate_id"], 0) + 1
    return Waiting(count + (in_hand is not None), of_candidates)


# More than so many are not counted for a sentence.
MOST_COUNTED = 100


def waiting_for_others(db: Database, annotator_id: int) -> int:
    """How many of them wait for somebody else who can sign in, and has not skipped them; not counted on for ever."""
    return int(
        db.value(
            f"""SELECT count(*) FROM (SELECT 1 FROM comparison c WHERE {WAITS_FOR_PEOPLE}
                  AND EXISTS (SELECT 1 FROM annotator a WHERE a.active AND a.kind = 'person' AND a.id != :annotator
                      AND (c.asked_by IS NULL OR c.taken > 0 OR c.asked_by = a.id) AND a.id NOT IN ({REACHED_QUOTA})
                      AND NOT {store.WOULD_NOT_COUNT.format("a.id")}
                      AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.annotator_id = a.id AND k.comparison_id = c.id
                          AND k.state IN ('judged', 'skipped')))
                LIMIT {MOST_COUNTED + 1})""",
            {"annotator": annotator_id, **asked_of(db)},
        )
    )


BY_JUDGES = {
    "people": "",
    "ai": N_("AI judges judge the comparisons. What takes a person appears here by itself."),
    "mixed": N_("AI judges judge the comparisons; you are asked where they can't label one."),
}


def why_none(db: Database, annotator_id: int) -> str:
    """Who judges what this annotator, who has nothing in hand, is not given; empty where nobody does."""
    by_judges, count = _(BY_JUDGES[store.feedback(db).mode]), waiting_for_others(db, annotator_id)
    if by_judges or not count:
        return by_judges
    if count > MOST_COUNTED:
        said = _("There is nothing more for you to judge; others are still to judge more than {count} comparisons.")
        return said.format(count=MOST_COUNTED)
    return ngettext(
        "There is nothing more for you to judge; others are still to judge {count} comparison.",
        "There is nothing more for you to judge; others are still to judge {count} comparisons.",
        count,
    ).format(count=count)


def gold_comparisons(db: Database) -> int:
    """How many gold comparisons there are to hand out."""
    return int(db.value("SELECT count(*) FROM comparison WHERE purpose = 'gold' AND state = 'ready'"))


# ------------------------------------------------------------------------------------------------- what a browser sends
@dataclass(frozen=True)
class SentEdit:
    """An edited answer by the place in which it was shown."""

    place: NonNegativeInt
    text: str


@dataclass(frozen=True)
class SentAct:
    """What a browser sends of a judgement; whether it fits the comparison, `parse_act` says."""

    outcome: Literal["ranked", "all-bad", "skip"]
    ranks: list[PositiveInt] | None = None
    strength: Annotated[int, Interval(ge=0, le=3)] | None = None
    tags: list[str] = field(default_factory=list)
    note: str = ""
    flag: Flag | None = None
    edit: Annotated[SentEdit, FromMapping()] | None = None


def parse_act(value: Any, kind: Kind, size: int, tags: Sequence[str]) -> Act:
    """What a browser sent, checked against the comparison's kind and number of answers and the project's tags.

    Raises UserError that names the field at fault; ranks are made dense (1, 3, 3 becomes 1, 2, 2).
    """
    sent = read(SentAct, value, _("The judgement"))
    ranks, strength = None, None
    if sent.outcome == "ranked":
        ranks = dense(sent.ranks or (), size)
        strength = fitting_strength(sent.strength, ranks) if kind == "pair" else None
        if kind == "best" and len(set(ranks)) > 2:
            raise UserError(_("Only the best is asked for here, not a ranking. Nothing was recorded."))
    if any(tag not in tags for tag in sent.tags):
        raise UserError(_("A reason was given that this project does not have. Reload the page to see today's list."))
    if len(sent.note) > MAXIMUM_NOTE:
        raise UserError(
            _("A note can have up to {maximum_note:,} characters. Shorten it; nothing was recorded.").format(
                maximum_note=MAXIMUM_NOTE
            )
        )
    return Act(
        outcome=sent.outcome,
        ranks=ranks,
        strength=strength,
        tags=tuple(tag for tag in tags if tag in sent.tags),
        note=storable(sent.note).strip(),
        flag=sent.flag,
        edit=None if sent.edit is None else fitting_edit(sent.edit, ranks),
    )


def dense(ranks: Sequence[int], size: int) -> tuple[int, ...]:
    """One rank for each place, without gaps."""
    if len(ranks) != size:
        raise UserError(
            _("A ranking needs one whole number from 1 up for each of the {size} answers.").format(size=size)
        )
    levels = sorted(set(ranks))
    return tuple(levels.index(rank) + 1 for rank in ranks)


def fitting_strength(strength: int | None, ranks: Sequence[int]) -> int:
    """How much better the better of two is: 0 for a tie, else 1 slightly, 2 clearly, 3 much."""
    tied = len(set(ranks)) == 1
    if strength is None or (strength == 0) != tied:
        raise UserError(_("The strength of a preference is 1 slightly, 2 clearly or 3 much, and 0 for a tie."))
    return strength


def fitting_edit(edit: SentEdit, ranks: Sequence[int] | None) -> Edit:
    """An edited answer; it must be the (or a) best one, because it counts as better than all."""
    if not edit.text.strip() or len(edit.text) > MAXIMUM_EDIT:
        raise UserError(
            _("An edited answer has 1 to {maximum_edit:,} characters. Nothing was recorded.").format(
                maximum_edit=MAXIMUM_EDIT
            )
        )
    if ranks is None or edit.place >= len(ranks) or ranks[edit.place] != 1:
        raise UserError(
            _("Edit the answer that you find best: the edit counts as better than it. Nothing was recorded.")
        )
    return Edit(edit.place, storable(edit.text).strip())
