"""How the labels stand: the rows behind every figure, and the figures; all SQL of it.

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

from annotation.database import Database
from annotation.metrics import agreement, bradley_terry, intervals_and_bias
from annotation.metrics import reliability as reliability_of
from annotation.metrics.agreement import Agreement, ClearCase, Dispute, Period
from annotation.metrics.bradley_terry import Strengths
from annotation.metrics.intervals_and_bias import AnnotatorFigures, Bias, Estimate, Vote
from annotation.metrics.reliability import Reliability
from annotation.store.judgement_store import excluded_annotators

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
    comparison_id: int
    flag: str
    note: str
    annotator: str
    created: str
    prompt: str


DecisionKind = Literal["leave-out", "take-back", "make", "retire", "reinstate", "release"]


@dataclass(frozen=True)
class AdminDecision:
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
    judgements: int
    """Those that training counts (`to_train_on`)."""
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
# From which rows, everybody's reliability, and the report where somebody has asked for it.
Kept = tuple[CacheKey, Mapping[str, Reliability], QualityReport | None]
NOTHING_KEPT: Kept = ((), {}, None)
_kept: WeakKeyDictionary[Database, Kept] = WeakKeyDictionary()
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
        key = cache_key(db)
        kept_for, _reliabilities, found = _kept.get(db, NOTHING_KEPT)
        if found is None or kept_for != key:
            found = assemble(db)
            _kept[db] = key, found.reliabilities, found
    return found


def cache_key(db: Database) -> CacheKey:
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
        key = cache_key(db)
        kept_for, found, _report = _kept.get(db, NOTHING_KEPT)
        if kept_for != key:
            found = estimate(votes(db), known_answers(db), excluded_annotators(db))
            _kept[db] = key, found, None
    return found


def estimate(
    everything: Sequence[Vote], known: Mapping[int, tuple[int, ...]], excluded: Mapping[str, str]
) -> dict[str, Reliability]:
    """Everybody's reliability; what annotators who are left out say does not count as evidence about the others."""
    names = {vote.annotator for vote in everything}
    return reliability_of.estimate(reliability_of.evidence_of(everything, known), names, distrusted=excluded)


def assemble(db: Database) -> QualityReport:
    """All figures from the rows. Overall figures and lists leave out the annotators who are left out of training."""
    everything, known, excluded = votes(db), known_answers(db), excluded_annotators(db)
    trusted = [vote for vote in everything if vote.annotator not in excluded]
    settled = {vote.comparison_id for vote in trusted if vote.purpose == "settle"}
    # A flagged comparison gives no training pair, so there is nothing to settle; nor is it fit to measure people.
    flagged = flagged_comparisons(db)
    unfit = set(known) | flagged
    held_out = db.rows("SELECT c.id FROM comparison c JOIN prompt p ON p.id = c.prompt_id WHERE p.split = 'held-out'")
    training = to_train_on(trusted, flagged | {row["id"] for row in held_out})
    fit = [vote for vote in trusted if vote.comparison_id not in unfit]
    # Where heads chose answers that they disagree on, people may agree more or less than on any others.
    random = [vote for vote in trusted if not vote.by_heads]
    measured = golds(db, everything, known)
    return QualityReport(
        judgements=len(training),
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
