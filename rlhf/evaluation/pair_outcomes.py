"""Comparisons of two policies' answers: whom they wait for, what was said of them, and what that comes to."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from annotation.database import Database
from annotation.store import answer_changes, judgement_store
from annotation.store.policy_comparisons import DRAWN_FOR_PEOPLE, SKIPPED_FOR_GOOD
from rlhf.judges.verdict_store import OUTDATED
from rlhf.models.registry import Policy

# --------------------------------------------------------------------------------------------------- whom they wait for
# Of an annotator `a`: that they may be given comparisons of candidates, and what they say counts.
MAY_COMPARE = """(a.active AND a.kind = 'person' AND a.id NOT IN (SELECT annotator_id FROM excluded_annotator)
    AND (a.quota IS NULL OR a.quota > (SELECT count(*) FROM claim k
        WHERE k.annotator_id = a.id AND k.state = 'judged')))"""


def can_be_compared(db: Database) -> bool:
    """Whether there is anybody who may be given comparisons of candidates."""
    return bool(db.value(f"SELECT EXISTS (SELECT 1 FROM annotator a WHERE {MAY_COMPARE})"))


def open_to_people(db: Database, candidate_id: int, against_id: int) -> int:
    """How many comparisons of two policies are still before people, in somebody's hands too.

    Not those that are skipped for good, nor those that were skipped by everybody who could judge them: whoever may sign
    in and has not reached their quota, and whose word counts.
    """
    return int(
        db.value(
            f"""SELECT count(*) FROM comparison c WHERE candidate_id = ? AND against_id = ? AND asks = 'people'
                 AND state = 'ready' AND NOT EXISTS (SELECT 1 FROM claim k
                     WHERE k.comparison_id = c.id AND k.state = 'judged' AND k.slot NOT NULL)
                 AND NOT {SKIPPED_FOR_GOOD} AND (
                     NOT EXISTS (SELECT 1 FROM claim k WHERE k.comparison_id = c.id AND k.state = 'skipped')
                     OR EXISTS (SELECT 1 FROM annotator a WHERE {MAY_COMPARE} AND NOT EXISTS (SELECT 1 FROM claim k
                         WHERE k.annotator_id = a.id AND k.comparison_id = c.id AND k.state = 'skipped')))""",
            (candidate_id, against_id),
        )
    )


def taken_up_by_people(db: Database, candidate_id: int, against_id: int) -> bool:
    """Whether anybody has judged or skipped a comparison of two policies, whether or not their word counts."""
    return bool(
        db.value(
            """SELECT EXISTS (SELECT 1 FROM comparison c JOIN claim k ON k.comparison_id = c.id
                   WHERE c.candidate_id = ? AND c.against_id = ? AND k.state IN ('judged', 'skipped'))""",
            (candidate_id, against_id),
        )
    )


def could_be_asked(
    db: Database, policy: Policy, other: Policy, on: Collection[int] | None = None, but: Collection[int] = ()
) -> int:
    """How many comparisons of a policy with another people have not been asked but could be.

    `on` these prompts, `but` not on those.
    """
    rows = db.rows(
        f"""SELECT prompt_id FROM comparison c WHERE candidate_id = ? AND against_id = ? AND asks = 'nobody'
             AND taken = 0 AND state = 'ready' AND NOT {SKIPPED_FOR_GOOD}""",
        (policy.id, other.id),
    )
    return sum((on is None or row["prompt_id"] in on) and row["prompt_id"] not in but for row in rows)


@dataclass(frozen=True)
class ComparedAnswer:
    response_id: int
    comparison_id: int
    created: str
    """When the comparison was made."""


def answers_compared(db: Database, policy_id: int, other_id: int) -> list[ComparedAnswer]:
    """The answers in the comparisons of two policies, oldest first."""
    rows = db.rows(
        """SELECT c.id AS comparison_id, c.created, x.response_id
           FROM comparison c JOIN comparison_response x ON x.comparison_id = c.id
           WHERE c.candidate_id = :policy AND c.against_id = :other
              OR c.candidate_id = :other AND c.against_id = :policy
           ORDER BY c.id""",
        {"policy": policy_id, "other": other_id},
    )
    return [ComparedAnswer(**row) for row in rows]


# ------------------------------------------------------------------------------------------------ what was said of them
@dataclass(frozen=True)
class PairOutcome:
    """What came of a candidate's answer beside another policy's to the same prompt."""

    comparison_id: int
    prompt_id: int
    response_id: int
    """Of the candidate's answer."""
    first: float
    """1 better, 1/2 tied, 0 worse: the first that was said. Bets are on this, or they would be changed afterwards."""
    outcome: float
    """What it has come to: of several annotators their mean, or what an admin has settled."""
    length: int
    """Characters of the candidate's answer."""
    other_length: int
    at: int
    """The first judgement on it."""
    created: str
    """When the comparison was made."""
    people_chance: float | None
    """The chance with which people were to get it (`annotation.selection`); None where that was not noted."""
    skipped: bool
    """Whether people have only skipped it."""


def outcomes(
    db: Database, candidate_id: int, against_id: int, judge_id: int | None = None, skips: bool = True
) -> list[PairOutcome]:
    """How a candidate's answers did against another policy's, in the order of the first judgements that count.

    By one judge as it is now (`OUTDATED`); or by people (without `judge_id`) who are not left out, once the
    answers were complete. A flagged comparison counts as it was ranked, so that a candidate's worst answers count; a
    flag that ranks nothing does not say which answer it means, and counts as a tie. With `skips`, what was skipped
    first where a draw left others to judges is bet on as one: people may skip what judges like, and those others hold
    it too. It is given to nobody else; what an earlier version had others say of it changes, as a second opinion does,
    what is shown alone.
    """
    by_comparison: dict[int, list[PairJudgement]] = {}
    for one in judgements_of_pair(db, candidate_id, against_id, judge_id, skips):
        by_comparison.setdefault(one.comparison_id, []).append(one)
    return sorted((pair_outcome(of_one) for of_one in by_comparison.values()), key=lambda one: one.at)


def pair_outcome(judgements: Sequence[PairJudgement]) -> PairOutcome:
    """What the judgements of a comparison come to; the oldest stands first."""
    first = judgements[0]
    # A flag alone tells nothing of who is better where somebody has ranked them.
    said = [one for one in judgements if not one.is_skip] or judgements
    # From what an admin says on, which settles it.
    settled = [number for number, one in enumerate(said) if one.settles]
    return PairOutcome(
        comparison_id=first.comparison_id,
        prompt_id=first.prompt_id,
        response_id=first.own.response_id,
        first=first.win,
        outcome=fmean(one.win for one in (said[settled[-1] :] if settled else said)),
        length=first.own.length,
        other_length=first.other.length,
        at=first.id,
        created=first.created,
        people_chance=first.people_chance,
        skipped=all(one.is_skip and not one.flagged for one in judgements),
    )


@dataclass(frozen=True)
class PairAnswer:
    response_id: int
    length: int
    """In characters."""


@dataclass(frozen=True)
class PairJudgement:
    """A judgement of a candidate's answer beside another policy's to the same prompt."""

    id: int
    comparison_id: int
    prompt_id: int
    created: str
    people_chance: float | None
    own: PairAnswer
    """The candidate's."""
    other: PairAnswer
    win: float
    """1 where the candidate's answer is preferred, 0 for the other one; a half for a tie, and where nothing is ranked:
    both bad, skipped or only flagged."""
    is_skip: bool
    flagged: bool
    settles: bool
    """Whether an admin has settled by it what annotators said."""


def pair_judgement(row: Mapping[str, Any]) -> PairJudgement:
    """A row of `judgements_of_pair`, whose answers and ranks stand by position."""
    answers = [PairAnswer(*side) for side in json.loads(row["sides"])]
    ranks = json.loads(row["ranking"]) if row["ranking"] else [1, 1]
    if not row["ours"]:  # it was measured the other way round
        answers, ranks = answers[::-1], ranks[::-1]
    return PairJudgement(
        id=row["id"],
        comparison_id=row["comparison_id"],
        prompt_id=row["prompt_id"],
        created=row["created"],
        people_chance=row["people_chance"],
        own=answers[0],
        other=answers[1],
        win=0.5 + (ranks[1] > ranks[0]) / 2 - (ranks[1] < ranks[0]) / 2,
        is_skip=row["outcome"] == "skip",
        flagged=row["flag"] is not None,
        settles=row["purpose"] == "settle",
    )


def judgements_of_pair(
    db: Database, candidate_id: int, against_id: int, judge_id: int | None, skips: bool
) -> list[PairJudgement]:
    """The judgements of answers by two policies, oldest first.

    Answers in another precision than the policy has now, or of when it thought and now does not, are another policy's.
    """
    rows = db.rows(
        f"""SELECT c.id AS comparison_id, c.prompt_id, c.created, c.people_chance, j.id, j.ranking, j.purpose,
               j.outcome, j.flag, c.candidate_id = :candidate AS ours,
               (SELECT json_group_array(json_array(id, length)) FROM (SELECT r.id, length(r.text) AS length
                   FROM comparison_response cr JOIN response r ON r.id = cr.response_id
                   WHERE cr.comparison_id = c.id ORDER BY cr.position)) AS sides
           FROM comparison c JOIN current_judgement j ON j.comparison_id = c.id
           WHERE (c.candidate_id = :candidate AND c.against_id = :against
                  OR c.candidate_id = :against AND c.against_id = :candidate)
             AND (j.outcome != 'skip' OR j.flag NOT NULL OR :skips AND {DRAWN_FOR_PEOPLE}) AND NOT j.early
             AND iif(:judge IS NULL, j.purpose IN ('own', 'settle'), j.annotator_id = :judge AND NOT {OUTDATED})
             AND NOT EXISTS (SELECT 1 FROM comparison_response cr JOIN response r ON r.id = cr.response_id
                 JOIN model m ON m.id = r.model_id WHERE cr.comparison_id = c.id
                     AND (r.precision IS NOT m.precision OR NOT {answer_changes.as_told_now(db, "response", "r")}))
             AND NOT EXISTS (SELECT 1 FROM exclusion e WHERE e.annotator_id = j.annotator_id AND e.excluded
                 AND e.id = (SELECT max(id) FROM exclusion l WHERE l.annotator_id = e.annotator_id))
           ORDER BY j.id""",
        {"candidate": candidate_id, "against": against_id, "judge": judge_id, "skips": skips},
    )
    return [pair_judgement(row) for row in rows]


@dataclass(frozen=True)
class LeftToJudges:
    """A comparison of a candidate that a draw left to judges and not to people."""

    comparison_id: int
    prompt_id: int
    since: int
    """The last judgement before it was left to them."""
    given: int | None
    """The last judgement before people were given it all the same; None where they were not, or nobody noted it."""


def left_to_judges(db: Database, candidate_id: int, against_id: int) -> list[LeftToJudges]:
    """The comparisons that a draw left to judges and not to people, in the drawn order.

    By the first draw of each prompt: what people compare of it later changes no bet that was made with it.
    """
    rows = db.rows(
        f"""SELECT c.id AS comparison_id, c.prompt_id, c.created, c.people_given AS given FROM comparison c
           WHERE c.people_drawn = 0 AND c.people_chance > 0 AND c.id IN (SELECT min(f.id) FROM comparison f
               JOIN comparison_response x ON x.comparison_id = f.id JOIN response r ON r.id = x.response_id
               WHERE f.candidate_id = :candidate AND f.against_id = :against
                   AND {answer_changes.as_told_now(db, "response", "r")} GROUP BY f.prompt_id)
           ORDER BY c.id""",
        {"candidate": candidate_id, "against": against_id},
    )
    before = judgement_store.last_judgements_before(db, (row["created"] for row in rows))
    return [LeftToJudges(since=before[row.pop("created")], **row) for row in rows]
