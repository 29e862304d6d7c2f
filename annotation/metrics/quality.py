"""How the labels stand: the rows behind every figure, who is left out, gold, and what is to be settled; all SQL of it.

The figures of 50,000 judgements take a few seconds, so they are kept until a judgement or a decision is added.
"""

from __future__ import annotations

import gc
import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, Literal
from weakref import WeakKeyDictionary

from annotation.claims import assignments, handing_out
from annotation.database import Database
from annotation.metrics import agreement, bradley_terry, intervals_and_bias
from annotation.metrics import reliability as reliability_of
from annotation.metrics.agreement import Agreement, ClearCase, Dispute, Period
from annotation.metrics.bradley_terry import Strengths
from annotation.metrics.intervals_and_bias import AnnotatorFigures, Bias, Estimate, Vote
from annotation.metrics.reliability import Reliability
from annotation.records import Claim, ComparisonState, Message, Outcome, Purpose, UserError, now
from annotation.store.judgement_store import excluded_annotators
from annotation.translation import N_, _, ngettext

MAXIMUM_REASON = 500
SHOWN_CASES, SHOWN_FLAGS, SHOWN_DECISIONS = 50, 200, 50


# ------------------------------------------------------------------------------------------------------ rows to votes
@lru_cache(maxsize=4096)
def parse_numbers(text: str) -> tuple[int, ...]:
    """A JSON list of whole numbers; the same few texts come again and again."""
    return tuple(json.loads(text))


VOTES = """SELECT j.id, j.comparison_id, a.name, j.purpose, j.kind, j.outcome, j.ranking, j.strength, j.shown_order,
        j.seconds, j.early, j.created, first.ranking, c.answers_by IS 'heads'
    FROM current_judgement j JOIN annotator a ON a.id = j.annotator_id JOIN comparison c ON c.id = j.comparison_id
        LEFT JOIN judgement first ON first.id = j.re_ask_of
    WHERE j.outcome != 'skip' AND j.purpose != 'judge' AND (:comparison IS NULL OR j.comparison_id = :comparison)
    ORDER BY j.id"""
ANSWERS = """SELECT cr.comparison_id, length(r.text), m.revision
    FROM comparison_response cr JOIN response r ON r.id = cr.response_id LEFT JOIN model m ON m.id = r.model_id
    WHERE (:comparison IS NULL OR cr.comparison_id = :comparison)
      AND EXISTS (SELECT 1 FROM judgement j WHERE j.comparison_id = cr.comparison_id)
    ORDER BY cr.comparison_id, cr.position"""


def votes(db: Database, comparison_id: int | None = None) -> list[Vote]:
    """People's current judgements (skips aside) as the figures need them, oldest first: all, or on one comparison."""
    only = {"comparison": comparison_id}
    # The judgements first: answers are never taken away, so that those of each judgement are found.
    rows = db.connection.execute(VOTES, only).fetchall()
    answers: dict[int, list[tuple[int, str | None]]] = defaultdict(list)
    for comparison, length, revision in db.connection.execute(ANSWERS, only):
        answers[comparison].append((length, revision))
    sides = {comparison: tuple(zip(*parts, strict=True)) for comparison, parts in answers.items()}
    return [read_vote(row, *sides[row[1]]) for row in rows]


# What the columns of VOTES say, by the fields of a `Vote`.
COLUMNS = (
    *("id", "comparison_id", "annotator", "purpose", "kind", "outcome", "ranking", "strength", "shown_order"),
    *("seconds", "early", "created", "first_ranking", "by_heads"),
)


def read_vote(row: Sequence[Any], lengths: tuple[int, ...], revisions: tuple[str | None, ...]) -> Vote:
    said = dict(zip(COLUMNS, row, strict=True))
    for name in ("ranking", "shown_order", "first_ranking"):
        said[name] = None if said[name] is None else parse_numbers(said[name])
    said |= {"early": bool(said["early"]), "by_heads": bool(said["by_heads"])}
    return Vote(**said, lengths=lengths, revisions=revisions)


def known_answers(db: Database) -> dict[int, tuple[int, ...]]:
    """The best answers of each gold comparison, retired ones too."""
    rows = db.rows("SELECT id, expected FROM comparison WHERE purpose = 'gold'")
    return {row["id"]: intervals_and_bias.best_of(parse_numbers(row["expected"])) for row in rows}


# ------------------------------------------------------------------------------------------------------------ figures
@dataclass(frozen=True)
class Gold:
    """A comparison with a known answer, and how annotators did on it."""

    comparison_id: int
    best: tuple[int, ...]
    retired: bool
    right: Estimate | None
    made_by: str
    made: str


@dataclass(frozen=True)
class FlaggedCase:
    """A comparison that somebody flagged, with what they wrote."""

    comparison_id: int
    flag: str
    note: str
    annotator: str
    created: str
    prompt: str


DecisionKind = Literal["leave-out", "take-back", "make", "retire", "reinstate", "release"]


@dataclass(frozen=True)
class AdminDecision:
    """What an admin decided about an annotator or a gold comparison."""

    what: DecisionKind
    annotator: str | None
    """Whom it is about, where it is about an annotator."""
    comparison_id: int | None
    """Which comparison it is about, else."""
    reason: str
    decided_by: str
    created: str


@dataclass(frozen=True)
class QualityReport:
    """Everything that the Quality tab shows."""

    stamp: tuple[Any, ...]
    judgements: int
    """Those that training counts (`to_train_on`)."""
    people: int
    """Whose they are."""
    comparisons: int
    shared: int
    """Comparisons that several annotators have judged."""
    annotators: tuple[AnnotatorFigures, ...]
    reliabilities: Mapping[str, Reliability]
    excluded: Mapping[str, str]
    agreement: tuple[Agreement, ...]
    over_time: tuple[Period, ...]
    position: tuple[Bias, ...]
    length: tuple[Bias, ...]
    policies: Strengths
    per_day: tuple[tuple[str, int], ...]
    disputes: tuple[Dispute, ...]
    clear: tuple[ClearCase, ...]
    golds: tuple[Gold, ...]
    gold_accuracy: Estimate | None
    """Over the gold comparisons that somebody was measured with; n counts them."""
    flags: int
    """Judgements with a flag; the latest of them are `flagged`."""
    flagged: tuple[FlaggedCase, ...]
    decisions: tuple[AdminDecision, ...]


CacheKey = tuple[Any, ...]
_cache: WeakKeyDictionary[Database, QualityReport] = WeakKeyDictionary()
_measured: WeakKeyDictionary[Database, tuple[CacheKey, Mapping[str, Reliability]]] = WeakKeyDictionary()
_one_at_a_time = Lock()


@contextmanager
def without_collections() -> Iterator[None]:
    """One computation at a time, without collections of cyclic garbage meanwhile.

    A full collection looks at every vote while all threads of the process wait: a quarter of a second among 50,000.
    """
    with _one_at_a_time:
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()


def report(db: Database) -> QualityReport:
    """How the labels stand now. A second admin who asks meanwhile waits for the same figures."""
    with without_collections():
        stamp = cache_key(db)
        kept = _cache.get(db)
        if kept is None or kept.stamp != stamp:
            kept = _cache[db] = assemble(db, stamp)
            _measured[db] = stamp, kept.reliabilities
    return kept


def cache_key(db: Database) -> tuple[Any, ...]:
    """What changes whenever a figure can: judgements and decisions are only ever added."""
    row = db.one(
        """SELECT (SELECT max(id) FROM judgement) AS judgement, (SELECT max(id) FROM exclusion) AS exclusion,
               (SELECT max(id) FROM gold_decision) AS decision,
               (SELECT count(*) FROM comparison WHERE purpose = 'gold') AS golds"""
    )
    return tuple(row.values())


def reliabilities(db: Database) -> Mapping[str, Reliability]:
    """For each annotator who has judged the chance to be right, with its interval and the counts of the evidence."""
    with without_collections():
        stamp = cache_key(db)
        measured = _measured.get(db)
        if measured is None or measured[0] != stamp:
            found = estimate(votes(db), known_answers(db), excluded_annotators(db))
            measured = _measured[db] = stamp, found
    return measured[1]


def estimate(
    everything: Sequence[Vote], known: Mapping[int, tuple[int, ...]], excluded: Mapping[str, str]
) -> dict[str, Reliability]:
    """Everybody's reliability; what annotators who are left out say does not count as evidence about the others."""
    names = {vote.annotator for vote in everything}
    return reliability_of.estimate(reliability_of.evidence_of(everything, known), names, distrusted=excluded)


def assemble(db: Database, stamp: tuple[Any, ...]) -> QualityReport:
    """All figures from the rows. Overall figures and lists leave out the annotators who are left out of training."""
    everything, known, excluded = votes(db), known_answers(db), excluded_annotators(db)
    trusted = [vote for vote in everything if vote.annotator not in excluded]
    settled = {vote.comparison_id for vote in trusted if vote.purpose == "settle"}
    # A flagged comparison gives no training pair, so there is nothing to settle; nor is it fit to measure people.
    flagged = flagged_comparisons(db)
    unfit = set(known) | flagged
    training = to_train_on(trusted, flagged | held_out_comparisons(db))
    fit = [vote for vote in trusted if vote.comparison_id not in unfit]
    # Where heads chose answers that they disagree on, people may agree more or less than on any others.
    random = [vote for vote in trusted if not vote.by_heads]
    measured = golds(db, everything, known)
    return QualityReport(
        stamp=stamp,
        judgements=len(training),
        people=len({vote.annotator for vote in training}),
        comparisons=len({vote.comparison_id for vote in training}),
        shared=len(intervals_and_bias.overlapping(trusted)),
        annotators=tuple(intervals_and_bias.annotator_figures(everything, known, {vote.annotator for vote in trusted})),
        reliabilities=estimate(everything, known, excluded),
        excluded=excluded,
        agreement=tuple(agreement.agreements(random)),
        over_time=tuple(agreement.agreement_over_time(random)),
        position=tuple(intervals_and_bias.position_biases(random)),
        length=tuple(intervals_and_bias.length_biases(random)),
        policies=bradley_terry.bradley_terry(bradley_terry.pairwise_results(random)),
        per_day=tuple(sorted(Counter(vote.created[:10] for vote in everything if vote.purpose != "import").items())),
        disputes=tuple(agreement.disputes(fit, settled)),
        clear=tuple(agreement.clear_cases(fit, SHOWN_CASES)),
        golds=tuple(measured),
        gold_accuracy=intervals_and_bias.clustered_share(
            (gold.right.value * gold.right.n, gold.right.n) for gold in measured if gold.right is not None
        ),
        flags=int(db.value("SELECT count(*) FROM current_judgement WHERE flag NOT NULL")),
        flagged=tuple(flagged_cases(db)),
        decisions=tuple(decisions(db)),
    )


def to_train_on(trusted: Sequence[Vote], not_on: Container[int]) -> list[Vote]:
    """The judgements that training counts, as `aggregation.usable` chooses them; what settled a comparison alone.

    Neither gold nor asked again, nor made before the answers were complete, nor on the comparisons `not_on`.
    """
    counted = [
        vote
        for vote in trusted
        if vote.purpose not in ("gold", "re-ask") and not vote.early and vote.comparison_id not in not_on
    ]
    last = {vote.comparison_id: vote.id for vote in counted if vote.purpose == "settle"}
    return [vote for vote in counted if last.get(vote.comparison_id, vote.id) == vote.id]


def held_out_comparisons(db: Database) -> set[int]:
    rows = db.rows("SELECT c.id FROM comparison c JOIN prompt p ON p.id = c.prompt_id WHERE p.split = 'held-out'")
    return {row["id"] for row in rows}


def golds(db: Database, everything: Sequence[Vote], known: Mapping[int, tuple[int, ...]]) -> list[Gold]:
    """Gold comparisons with everybody's accuracy on each, the newest first."""
    earned: dict[int, list[float]] = defaultdict(list)
    for vote in everything:
        credit = intervals_and_bias.gold_credit(vote, known) if vote.purpose == "gold" else None
        if credit is not None:
            earned[vote.comparison_id].append(credit)
    rows = db.rows(
        """SELECT c.id, c.state, d.decided_by, d.created FROM comparison c LEFT JOIN gold_decision d ON d.id =
               (SELECT max(id) FROM gold_decision l WHERE l.comparison_id = c.id AND l.action = 'make')
           WHERE c.purpose = 'gold' ORDER BY c.id DESC"""
    )
    return [
        Gold(
            comparison_id=row["id"],
            best=known[row["id"]],
            retired=row["state"] == "closed",
            right=intervals_and_bias.share_of(sum(earned[row["id"]]), len(earned[row["id"]])),
            made_by=row["decided_by"] or "imported",
            made=row["created"] or "",
        )
        for row in rows
        if row["id"] in known
    ]


def flagged_comparisons(db: Database) -> set[int]:
    """Those that somebody flagged who is not left out."""
    rows = db.rows(
        """SELECT comparison_id FROM current_judgement
           WHERE flag NOT NULL AND annotator_id NOT IN (SELECT annotator_id FROM excluded_annotator)"""
    )
    return {row["comparison_id"] for row in rows}


def flagged_cases(db: Database) -> list[FlaggedCase]:
    """The latest flags, newest first."""
    rows = db.rows(
        f"""SELECT j.comparison_id, j.flag, j.note, a.name AS annotator, j.created, p.messages
            FROM current_judgement j JOIN annotator a ON a.id = j.annotator_id
            JOIN comparison c ON c.id = j.comparison_id JOIN prompt p ON p.id = c.prompt_id
            WHERE j.flag NOT NULL ORDER BY j.id DESC LIMIT {SHOWN_FLAGS}"""
    )
    return [FlaggedCase(prompt=json.loads(row.pop("messages"))[-1]["content"], **row) for row in rows]


NOTHING_CHANGED = N_("Nothing was changed.")


def decisions(db: Database) -> list[AdminDecision]:
    """The latest decisions about annotators and gold comparisons, newest first."""
    rows = db.rows(
        f"""SELECT CASE excluded WHEN 1 THEN 'leave-out' ELSE 'take-back' END AS what, a.name AS annotator,
                NULL AS comparison_id, e.reason, e.decided_by, e.created
            FROM exclusion e JOIN annotator a ON a.id = e.annotator_id
            UNION ALL
            SELECT action, NULL, comparison_id, '', decided_by, created FROM gold_decision
            ORDER BY created DESC LIMIT {SHOWN_DECISIONS}"""
    )
    return [AdminDecision(**row) for row in rows]


# --------------------------------------------------------------------------------------------- who is left out
def leave_out(db: Database, name: str, reason: str, decided_by: str) -> None:
    """Leave an annotator's judgements out of training from now on; nothing is deleted.

    Raises UserError for an unknown annotator, without a reason, or if they are left out already.
    """
    if not reason.strip():
        raise UserError(_("Give a reason: it is kept with the decision, and others will want to know it."))
    decide_on(db, name, True, reason, decided_by)


def take_back(db: Database, name: str, reason: str, decided_by: str) -> None:
    """Train on an annotator's judgements again. Raises UserError for an unknown one, or one who is not left out."""
    decide_on(db, name, False, reason, decided_by)


def decide_on(db: Database, name: str, excluded: bool, reason: str, decided_by: str) -> None:
    """Record whether an annotator's judgements are left out of training."""
    if len(reason) > MAXIMUM_REASON:
        told = _("A reason can have up to {maximum_reason} characters. Shorten it; nothing was changed.")
        raise UserError(told.format(maximum_reason=MAXIMUM_REASON))
    with db.transaction():
        row = db.row("SELECT id, name FROM annotator WHERE name = ?", (name,))
        if row is None:
            raise UserError(_("Choose an annotator from the list. Nothing was changed."))
        if excluded == (row["name"] in excluded_annotators(db)):
            out, there = _("{name} is left out of training already."), _("{name} is not left out of training.")
            said = (out if excluded else there).format(name=row["name"])
            raise UserError(f"{said} {_(NOTHING_CHANGED)}")
        decided = {"annotator_id": row["id"], "excluded": int(excluded), "reason": reason.strip()}
        db.insert("exclusion", {**decided, "decided_by": decided_by, "created": now()})
        assignments.follow_assignments(db)  # of what they have skipped, or are to judge in vain
        handing_out.release_unfit(db)  # of which others are to have what they hold


# ---------------------------------------------------------------------------------------------------------------- gold
@dataclass(frozen=True)
class ReviewedJudgement:
    """One judgement on a comparison, as an admin reads it."""

    annotator: str
    purpose: Purpose
    outcome: Outcome
    ranking: tuple[int, ...] | None
    strength: int | None


@dataclass(frozen=True)
class ComparisonReview:
    """A comparison with all that was said of it."""

    comparison_id: int
    state: ComparisonState
    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    opinions: tuple[ReviewedJudgement, ...]
    consensus: int | None
    """The answer that its annotators find best, by their reliability; None where they don't agree on one."""


def review(db: Database, comparison_id: int) -> ComparisonReview:
    """Look at one comparison. Raises UserError if there is none of that number."""
    row = db.row(
        "SELECT c.state, p.messages FROM comparison c JOIN prompt p ON p.id = c.prompt_id WHERE c.id = ?",
        (comparison_id,),
    )
    if row is None:
        said = _("There is no comparison {comparison_id}. Choose one from the list, or type another number.")
        raise UserError(said.format(comparison_id=comparison_id))
    answers = db.rows(
        """SELECT r.text FROM comparison_response cr JOIN response r ON r.id = cr.response_id
           WHERE cr.comparison_id = ? ORDER BY cr.position""",
        (comparison_id,),
    )
    judged, excluded = votes(db, comparison_id), excluded_annotators(db)
    trusted = [vote for vote in judged if vote.annotator not in excluded]
    chances = {name: figure.estimate for name, figure in reliabilities(db).items()}
    return ComparisonReview(
        comparison_id=comparison_id,
        state=row["state"],
        messages=tuple(json.loads(row["messages"])),
        answers=tuple(answer["text"] for answer in answers),
        opinions=tuple(
            ReviewedJudgement(
                annotator=vote.annotator,
                purpose=vote.purpose,
                outcome=vote.outcome,
                ranking=vote.ranking,
                strength=vote.strength,
            )
            for vote in judged
        ),
        consensus=reliability_of.weighted_best(trusted, chances),
    )


def make_gold(db: Database, comparison_id: int, best: int | None, decided_by: str) -> int:
    """Make a judged comparison one with a known answer: `best` (a position), or what its annotators agree on.

    From then on it is handed out only to measure annotators who have not seen it. Judgements made before stay what
    they were and are trained on; those made from now on are not. Returns the position of the known answer.
    Raises UserError where it can't measure anybody.
    """
    found = review(db, comparison_id)  # before the transaction: its figures may take a second
    known = found.consensus if best is None else best
    with db.transaction() as connection:
        refuse_as_gold(db, found, known)
        assert known is not None
        expected = json.dumps([1 if position == known else 2 for position in range(len(found.answers))])
        connection.execute(
            "UPDATE comparison SET purpose = 'gold', state = 'ready', expected = ? WHERE id = ?",
            (expected, comparison_id),
        )
        record_gold(db, comparison_id, "make", expected, found.state, decided_by)
    return known


def refuse_as_gold(db: Database, found: ComparisonReview, known: int | None) -> None:
    """Raises UserError where a comparison can't become gold with this answer."""
    number = found.comparison_id
    if db.value("SELECT purpose FROM comparison WHERE id = ?", (number,)) == "gold":
        said = _("Comparison {number} is gold already. To change its answer, make it no longer gold first.")
        raise UserError(said.format(number=number))
    if found.state not in ("ready", "closed", "withdrawn"):
        said = _("Comparison {number} is unfit, or its answers are not complete. Choose another one.")
        raise UserError(said.format(number=number))
    if not any(opinion.ranking for opinion in found.opinions):
        raise UserError(
            _("Nobody has judged comparison {number} yet. Choose one that has been judged.").format(number=number)
        )
    if number in flagged_comparisons(db):
        raise UserError(
            _("Comparison {number} is flagged. Choose one that is fit to measure people.").format(number=number)
        )
    if known is None:
        said = _("The annotators of comparison {number} agree on no best answer. Say which one is best.")
        raise UserError(said.format(number=number))
    if not 0 <= known < len(found.answers):
        said = _("Comparison {number} has {count} answers. Choose one of those as the best.")
        raise UserError(said.format(number=number, count=len(found.answers)))


def retire_gold(db: Database, comparison_id: int, decided_by: str) -> None:
    """Hand a gold comparison out to nobody any more; what was measured with it stays. Raises UserError if it is not."""
    change_gold(db, comparison_id, "retire", "ready", "closed", decided_by)


def reinstate_gold(db: Database, comparison_id: int, decided_by: str) -> None:
    """Hand a retired gold comparison out again. Raises UserError if it is not retired."""
    change_gold(db, comparison_id, "reinstate", "closed", "ready", decided_by)


def change_gold(db: Database, comparison_id: int, action: str, before: str, after: str, decided_by: str) -> None:
    """Move a gold comparison from one state to another, and record it."""
    with db.transaction() as connection:
        row = gold_row(db, comparison_id)
        if row["state"] != before:
            said = (
                _("Comparison {number} is handed out already.")
                if row["state"] == "ready"
                else _("Comparison {number} is retired already.")
            )
            raise UserError(f"{said.format(number=comparison_id)} {_(NOTHING_CHANGED)}")
        connection.execute("UPDATE comparison SET state = ? WHERE id = ?", (after, comparison_id))
        record_gold(db, comparison_id, action, row["expected"], before, decided_by)


def release_gold(db: Database, comparison_id: int, decided_by: str) -> None:
    """Make a gold comparison an ordinary one again, as it was before. Its known answer no longer measures anybody.

    Raises UserError if it is not gold.
    """
    with db.transaction() as connection:
        row = gold_row(db, comparison_id)
        before = db.value(
            """SELECT previous_state FROM gold_decision WHERE comparison_id = ? AND action = 'make'
               ORDER BY id DESC LIMIT 1""",
            (comparison_id,),
        )
        connection.execute(
            "UPDATE comparison SET purpose = 'preference', expected = NULL, state = ? WHERE id = ?",
            (before or "ready", comparison_id),
        )
        record_gold(db, comparison_id, "release", row["expected"], row["state"], decided_by)


def gold_row(db: Database, comparison_id: int) -> dict[str, Any]:
    """A gold comparison's state and known answer. Raises UserError if it is none."""
    row = db.row("SELECT state, expected FROM comparison WHERE id = ? AND purpose = 'gold'", (comparison_id,))
    if row is None:
        raise UserError(_("Choose a gold comparison from the list. Nothing was changed."))
    return row


def record_gold(db: Database, comparison_id: int, action: str, expected: str, before: str, decided_by: str) -> None:
    """Keep what was decided about a gold comparison, inside the caller's transaction."""
    decided = {"comparison_id": comparison_id, "action": action, "expected": expected, "previous_state": before}
    db.insert("gold_decision", {**decided, "decided_by": decided_by, "created": now()})


# ------------------------------------------------------------------------------------------------------------ settling
def settle_next(db: Database, annotator_id: int) -> Claim:
    """Put the comparison with the most disagreement into this person's hands, blind, to settle it for all.

    Not one that another person is settling or that this person has passed over. Raises UserError if there is none.
    """
    held = handing_out.held_claim(db, annotator_id)
    if held is not None and held.purpose == "settle":
        return held
    disputed = report(db).disputes
    with db.transaction():
        rows = db.rows(
            """SELECT comparison_id FROM claim WHERE purpose = 'settle'
               AND (state = 'held' AND expires > :now OR state = 'skipped' AND annotator_id = :annotator)""",
            {"now": now(), "annotator": annotator_id},
        )
        busy = {row["comparison_id"] for row in rows}
        waiting = [dispute.comparison_id for dispute in disputed if dispute.comparison_id not in busy]
        if not waiting:
            raise UserError(nothing_to_settle(len(disputed)))
        return handing_out.take_to_settle(db, annotator_id, waiting[0])


def nothing_to_settle(disputed: int) -> str:
    """Why nobody is given one of so many comparisons to settle."""
    if not disputed:
        return _("No comparison waits to be settled: annotators contradict each other nowhere.")
    return ngettext(
        "{count} comparison waits to be settled: another admin has it in hand, or you have passed it over.",
        "{count} comparisons wait to be settled: other admins have them in hand, or you have passed them over.",
        disputed,
    ).format(count=disputed)
