"""Verdicts: every SQL statement about what AI judges are to judge, what they say of it, and what follows from that.

What a judge makes of a comparison is an ordinary judgement, which training and exports treat as anybody's; the
verdicts, one for each pair of answers in each order, are kept beside it.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any, Literal

from annotation.database import Database
from annotation.jobs import job_table
from annotation.records import AsksWhy, Feedback, Message, TokenIds, UserError, now, read_token_ids
from annotation.store import judgement_store, project_store
from annotation.translation import _
from rlhf.jobs.job_store import Job
from rlhf.judges import judge_store
from rlhf.judges.judge_agreement import JudgedComparison, PersonRanking
from rlhf.judges.judge_result import JudgeResult
from rlhf.judges.judge_store import Judge
from rlhf.judges.verdicts import Choice, CombinedVerdict, Verdict, both_orders, combine, ranking_of

if TYPE_CHECKING:
    from rlhf.judges.openai_client import Failure

JudgeScope = Literal["open", "judged", "candidate"]
TOO_LONG, NO_VERDICT = "too long", "no verdict"
# In so many jobs a judge may fail on a comparison, or give no verdict at all, until it is waited for no more.
MOST_FAILED_JOBS = 3

# Of a verdict `v`: that its judge runs here on the base, or on an adapter that lies on it.
ON_THE_BASE = """v.annotator_id IN (SELECT b.annotator_id FROM judge b JOIN model m
        ON m.revision = coalesce(json_extract(b.settings, '$.model'), 'base')
    WHERE b.backend != 'endpoint' AND json_extract(b.settings, '$.directory') IS NULL
      AND m.ground_id IS NULL AND m.form {form})"""
# And that it gave it when other weights lay under that name or, where it is the base itself, when that was held in
# another precision. What depends on no verdict is looked up once for all.
ON_OTHER_WEIGHTS = f"""({ON_THE_BASE.format(form="!= 'full'")} AND EXISTS (
        WITH change AS MATERIALIZED (SELECT json_extract(c.value, '$.until') AS until,
                json_extract(c.value, '$.newest.verdict') AS newest FROM setting s, json_each(s.value) c
            WHERE s.key = 'thinking_changes' AND json_extract(c.value, '$.told') IS NULL)
        SELECT 1 FROM change WHERE v.created <= until AND v.id <= coalesce(newest, v.id))
    OR {ON_THE_BASE.format(form="= 'base'")} AND v.created <= coalesce(
        (SELECT json_extract(value, '$.at') FROM setting WHERE key = 'precision'), ''))"""
# That this is so, or that it goes by another version of the rubric than holds. A reward model goes by none.
EARLIER = f"""({ON_OTHER_WEIGHTS} OR v.rubric_version IS NOT (SELECT max(version) FROM rubric)
    AND v.annotator_id NOT IN (SELECT annotator_id FROM judge WHERE backend = 'reward-model'))"""
# Of a judgement `j` by a judge: that it rests on such verdicts. On other weights, or by another rubric, a judge is
# another judge.
OUTDATED = f"""EXISTS (SELECT 1 FROM verdict v
    WHERE v.annotator_id = j.annotator_id AND v.comparison_id = j.comparison_id AND {EARLIER})"""


# ------------------------------------------------------------------------------------------------- what is to be judged
@dataclass(frozen=True)
class Comparison:
    """A comparison as a judge gets it: the conversation, and the answers by position."""

    id: int
    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    finish_reasons: tuple[str | None, ...]
    asked: frozenset[tuple[int, int]]
    """Pairs of positions, in the order shown, of which this judge's verdict, as it is now, is there already."""
    token_ids: tuple[TokenIds | None, ...] = ()
    """Of the answers; empty where none are known."""
    rendered_prompt: str | None = None
    """The conversation as the policy was fed it; None where none was."""

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The pairs still to be asked, in both orders."""
        return [pair for pair in permutations(range(len(self.answers)), 2) if pair not in self.asked]


# By people: judgements of annotators and imported ones.
JUDGED_BY_PEOPLE = """EXISTS (SELECT 1 FROM current_judgement p WHERE p.comparison_id = c.id AND p.outcome != 'skip'
    AND p.purpose IN ('own', 'settle', 'import'))"""

SCOPES: Mapping[JudgeScope, str] = {
    "open": f"c.asks = 'judges' AND NOT {JUDGED_BY_PEOPLE}",
    "judged": JUDGED_BY_PEOPLE,
    "candidate": "c.state = 'ready' AND c.candidate_id = :candidate",
}

OPEN_TO_JUDGE = """c.state IN ('ready', 'closed', 'withdrawn') AND c.purpose = 'preference' AND {scope}
    AND NOT EXISTS (SELECT 1 FROM current_judgement j WHERE j.comparison_id = c.id AND j.annotator_id = :judge
        AND j.purpose = 'judge' AND {counts})"""

# Of a comparison `c` to a prompt `p`: that data frozen at :frozen hold nothing of it to train on.
UNLEARNT = """(:frozen IS NULL OR p.split = 'held-out' OR NOT EXISTS
    (SELECT 1 FROM judgement e WHERE e.comparison_id = c.id AND e.created <= :frozen))"""


def wanted(scope: JudgeScope) -> str:
    """The condition by which a judge gets a comparison `c`.

    A label is bought once. What measures a judge or a candidate is asked again once the judge is another (`EARLIER`).
    """
    return OPEN_TO_JUDGE.format(scope=SCOPES[scope], counts=True if scope == "open" else f"NOT {OUTDATED}")


def to_judge(
    db: Database, judge: Judge, scope: JudgeScope, limit: int, candidate_id: int | None = None
) -> list[Comparison]:
    """Comparisons that this judge has not judged: open ones, those that people have, or a candidate's; oldest first.

    Of those that people have judged the newest come first, because they are by policies like those to come; and before
    them those that the judge's own model can't have been trained on. Of these and of a candidate's, what it has judged
    by an earlier version of the rubric, or on other weights, is to be judged again.
    """
    newest = f"NOT {UNLEARNT}, c.id DESC" if scope == "judged" else "c.id"
    rows = db.rows(
        f"""SELECT c.id, p.messages FROM comparison c JOIN prompt p ON p.id = c.prompt_id
            WHERE {wanted(scope)} ORDER BY {newest} LIMIT :limit""",
        {"judge": judge.id, "limit": limit, "candidate": candidate_id, "frozen": judge_store.frozen_before(db, judge)},
    )
    return [read_comparison(db, judge, row) for row in rows]


def read_comparison(db: Database, judge: Judge, row: Mapping[str, Any]) -> Comparison:
    """A row with id and messages, with its answers and what the judge has said of them."""
    answers = db.rows(
        """SELECT r.text, r.finish_reason, r.token_ids, r.rendered_prompt
           FROM comparison_response cr JOIN response r ON r.id = cr.response_id
           WHERE cr.comparison_id = ? ORDER BY cr.position""",
        (row["id"],),
    )
    said = db.rows(
        f"SELECT first, second FROM verdict v WHERE annotator_id = ? AND comparison_id = ? AND NOT {EARLIER}",
        (judge.id, row["id"]),
    )
    return Comparison(
        id=row["id"],
        messages=tuple(json.loads(row["messages"])),
        answers=tuple(answer["text"] for answer in answers),
        finish_reasons=tuple(answer["finish_reason"] for answer in answers),
        asked=frozenset((one["first"], one["second"]) for one in said),
        token_ids=tuple(read_token_ids(answer["token_ids"]) for answer in answers),
        rendered_prompt=next((answer["rendered_prompt"] for answer in answers if answer["rendered_prompt"]), None),
    )


def count_open(db: Database, judge: Judge) -> int:
    return int(db.value(f"SELECT count(*) FROM comparison c WHERE {wanted('open')}", {"judge": judge.id}))


def any_to_judge(db: Database, judge: Judge, scope: Literal["open", "judged"]) -> bool:
    """Whether this judge would get any; the first that is found tells, so that pages can ask often."""
    return bool(db.value(f"SELECT EXISTS (SELECT 1 FROM comparison c WHERE {wanted(scope)})", {"judge": judge.id}))


def gave_no_verdict(db: Database, job: Job) -> bool:
    """Whether a judge's job failed, or left something to judge, without any verdict."""
    left = job.status == "failed" or JudgeResult.of(job.result).left_open > 0
    return left and not db.value("SELECT EXISTS (SELECT 1 FROM verdict WHERE job_id = ?)", (job.id,))


# ----------------------------------------------------------------------------------------------------------- verdicts
def add_verdict(
    db: Database,
    judge: Judge,
    comparison_id: int,
    pair: tuple[int, int],
    verdict: Verdict,
    rubric_version: int,
    principles: Sequence[int],
    job_id: int | None,
) -> None:
    """Keep what a judge said of a pair of answers shown in this order; once for each version of the rubric.

    A verdict by an earlier version, or on other weights, makes room, and the judgement that rests on it is taken back.
    """
    with db.transaction() as connection:
        make_room(db, judge, (comparison_id, *pair), rubric_version, job_id)
        connection.execute(
            """INSERT OR IGNORE INTO verdict (annotator_id, comparison_id, first, second, rubric_version, principles,
                   choice, chance, reply, prompt_tokens, completion_tokens, seconds, job_id, created)
               VALUES (:annotator_id, :comparison_id, :first, :second, :rubric_version, :principles,
                   :choice, :chance, :reply, :prompt_tokens, :completion_tokens, :seconds, :job_id, :created)""",
            {
                **asdict(verdict),
                "annotator_id": judge.id,
                "comparison_id": comparison_id,
                "first": pair[0],
                "second": pair[1],
                "rubric_version": rubric_version or None,
                "principles": json.dumps(list(principles)),
                "job_id": job_id,
                "created": now(),
            },
        )


def heard_in(db: Database, judge: Judge, job_id: int) -> set[int]:
    """The comparisons on which a judge has given a verdict in a job, by id."""
    rows = db.rows("SELECT comparison_id FROM verdict WHERE annotator_id = ? AND job_id = ?", (judge.id, job_id))
    return {row["comparison_id"] for row in rows}


def make_room(db: Database, judge: Judge, where: tuple[int, int, int], version: int, job_id: int | None) -> None:
    """Take away the verdict on (comparison, first, second) if it is by a version of the rubric before this one, or on
    other weights.

    Its text and its cost stay in the record of its job.
    """
    comparison_id, first, second = where
    old = db.row(
        f"""SELECT * FROM verdict v WHERE annotator_id = :judge AND comparison_id = :comparison AND first = :first
              AND second = :second AND (:version > coalesce(rubric_version, 0) OR {ON_OTHER_WEIGHTS})""",
        {
            "judge": judge.id,
            "comparison": comparison_id,
            "first": first,
            "second": second,
            "version": 0 if judge.backend == "reward-model" else version,  # which goes by no rubric
        },
    )
    if old is None:
        return
    in_job = old["job_id"] or job_id
    if in_job is not None:
        job_table.add_event(db, in_job, "sample", 0, {**old, "judge": judge.id, "comparison": comparison_id})
    db.connection.execute("DELETE FROM verdict WHERE id = ?", (old["id"],))
    db.connection.execute(
        """INSERT INTO judgement (comparison_id, annotator_id, purpose, kind, outcome, shown_order, supersedes, created)
           SELECT comparison_id, annotator_id, purpose, kind, 'undone', shown_order, id, ? FROM current_judgement
           WHERE comparison_id = ? AND annotator_id = ? AND purpose = 'judge'""",
        (now(), comparison_id, judge.id),
    )


# What judges gave in vain: failed verdicts, which have a reason, and those that made room for others.
IN_VAIN = """SELECT e.job_id, json_extract(e.data, '$.comparison') AS comparison_id,
        json_extract(e.data, '$.reason') AS reason, json_extract(e.data, '$.prompt_tokens') AS prompt_tokens,
        json_extract(e.data, '$.completion_tokens') AS completion_tokens
    FROM job JOIN event e ON e.job_id = job.id AND e.kind = 'sample'
    WHERE job.kind IN ('judge', 'check') AND json_extract(e.data, '$.judge') = :judge"""


def add_failure(db: Database, judge: Judge, comparison_id: int, failure: Failure, job_id: int) -> None:
    """Keep in a job's record that a verdict failed, why, and what its reply cost."""
    with db.transaction():
        told = {"judge": judge.id, "comparison": comparison_id, **asdict(failure)}
        job_table.add_event(db, job_id, "sample", 0, told)


def fails_on(db: Database, judge: Judge, comparison_id: int) -> bool:
    """Whether a judge has failed on a comparison in `MOST_FAILED_JOBS` jobs.

    Where nothing says that the comparison is at fault, only jobs count in which the judge gave verdicts too: not those
    in which its service was down, or its key wrong. A judge that has never given any fails by itself.
    """
    found = db.value(
        f"""SELECT count(DISTINCT job_id) FROM ({IN_VAIN}) f
            WHERE comparison_id = :comparison AND reason NOT NULL
              AND EXISTS (SELECT 1 FROM verdict v WHERE v.annotator_id = :judge)
              AND (reason IN ('{TOO_LONG}', '{NO_VERDICT}')
                OR EXISTS (SELECT 1 FROM verdict v WHERE v.annotator_id = :judge AND v.job_id = f.job_id))""",
        {"judge": judge.id, "comparison": comparison_id},
    )
    return int(found) >= MOST_FAILED_JOBS


def ask_people_instead(db: Database, judge: Judge) -> None:
    """Once a judge's job gives no verdict, and those before gave none, wait no more for what is open (with “Mixed”)."""
    before = judge_store.ended_jobs(db, judge, MOST_FAILED_JOBS - 1)
    if len(before) < MOST_FAILED_JOBS - 1 or not all(gave_no_verdict(db, job) for job in before):
        return
    with db.transaction():
        if project_store.feedback(db).mode == "mixed":
            for row in db.rows(f"SELECT c.id FROM comparison c WHERE {wanted('open')}", {"judge": judge.id}):
                decide_who_is_asked(db, row["id"], without=judge.id)


def pass_over(db: Database, comparison_ids: Iterable[int]) -> None:
    """Decide on comparisons on which a judge has just failed, where it is waited for no more."""
    with db.transaction():
        for comparison_id in comparison_ids:
            decide_who_is_asked(db, comparison_id)


def set_active(db: Database, name: str, active: bool) -> None:
    """Let a judge label open comparisons, or not. What it has judged stays, and what waited only for it is decided.

    Raises UserError where it is to label and its model's files were deleted.
    """
    judge = judge_store.by_name(db, name)
    model = judge_store.model_of(db, judge)
    if active and model is not None and model.deleted:
        raise UserError(
            _(
                "{name} judges with {revision}, whose files were deleted on {deleted}. Make a judge with another model."
            ).format(name=judge.name, revision=model.revision, deleted=model.deleted[:10])
        )
    with db.transaction() as connection:
        connection.execute("UPDATE judge SET active = ? WHERE annotator_id = ?", (int(active), judge.id))
        waiting = """SELECT id FROM comparison WHERE asks = 'judges' AND id IN (
            SELECT comparison_id FROM current_judgement WHERE purpose = 'judge')"""
        for row in db.rows(waiting):
            decide_who_is_asked(db, row["id"])


# ---------------------------------------------------------------------------------------------------------- judgements
@dataclass(frozen=True)
class StoredVerdict:
    first: int
    second: int
    choice: Choice
    chance: float | None
    seconds: float
    rubric_version: int | None = None
    on_other_weights: bool = False
    """Whether its judge was another by its weights."""


def verdicts_on(db: Database, judge: Judge, comparison_id: int) -> list[StoredVerdict]:
    """What a judge has said of a comparison's pairs."""
    rows = db.rows(
        f"""SELECT first, second, choice, chance, seconds, rubric_version, {ON_OTHER_WEIGHTS} AS on_other_weights
            FROM verdict v WHERE annotator_id = ? AND comparison_id = ?""",
        (judge.id, comparison_id),
    )
    return [StoredVerdict(**{**row, "on_other_weights": bool(row["on_other_weights"])}) for row in rows]


def outcomes_of(said: Iterable[StoredVerdict]) -> dict[tuple[int, int], CombinedVerdict]:
    """What each pair of positions (a, b), a < b, comes to when both orders have been asked."""
    by_order = {(one.first, one.second): one.choice for one in said}
    return {
        (a, b): combine(by_order[a, b], by_order[b, a]) for a, b in sorted(by_order) if a < b and (b, a) in by_order
    }


def sureness(said: Iterable[StoredVerdict]) -> float | None:
    """The lowest probability that the judge gives to the likelier side of a pair, both orders together.

    None where its backend gives none.
    """
    means = both_orders({(one.first, one.second): one.chance for one in said}).values()
    return min((max(mean, 1 - mean) for mean in means), default=None)


def judge_comparison(db: Database, judge: Judge, comparison: Comparison) -> bool:
    """Make the judgement that a judge's verdicts on a comparison come to; False while some are missing.

    Verdicts by different versions of the rubric, or on different weights, make none. What follows from it (who is asked
    next) is decided with it, in one transaction.
    """
    size = len(comparison.answers)
    with db.transaction():
        said = verdicts_on(db, judge, comparison.id)
        rubrics_of = {one.rubric_version for one in said if judge.backend != "reward-model"}
        mixed = len(rubrics_of) > 1 or len({one.on_other_weights for one in said}) > 1
        if len(said) < size * (size - 1) or mixed:
            return False
        last = db.row(
            """SELECT id, outcome FROM judgement WHERE comparison_id = ? AND annotator_id = ? AND purpose = 'judge'
               ORDER BY id DESC LIMIT 1""",
            (comparison.id, judge.id),
        )
        if last is None or last["outcome"] == "undone":
            db.insert(
                "judgement",
                {
                    "comparison_id": comparison.id,
                    "annotator_id": judge.id,
                    "purpose": "judge",
                    "kind": "pair" if size == 2 else "rank",
                    "outcome": "ranked",
                    "ranking": json.dumps(ranking_of(size, outcomes_of(said))),
                    "shown_order": json.dumps(list(range(size))),
                    "seconds": sum(one.seconds for one in said),
                    "supersedes": None if last is None else last["id"],
                    "created": now(),
                },
            )
        decide_who_is_asked(db, comparison.id)
    return True


# ------------------------------------------------------------------------------------------------------ who comes next
def decide_who_is_asked(db: Database, comparison_id: int, without: int | None = None) -> None:
    """Once every active judge has judged an open comparison, decide whether people are asked too, and why.

    A judge that fails on it again and again is waited for no more, nor is the one with the id `without`. With “AI only”
    people are asked nothing: what no judge could judge is asked of nobody, as 'unsure'.
    """
    asks = db.value("SELECT asks FROM comparison WHERE id = ? AND candidate_id IS NULL", (comparison_id,))
    if asks != "judges":
        return
    panel = judge_store.judges(db, active=True)
    rankings = rankings_by_judges(db, comparison_id)
    answered = [judge for judge in panel if judge.id in rankings]
    missing = [judge for judge in panel if judge.id not in rankings]
    if not panel or any(judge.id != without and not fails_on(db, judge, comparison_id) for judge in missing):
        return
    feedback = project_store.feedback(db)
    said = [verdicts_on(db, judge, comparison_id) for judge in answered]
    ranked = [rankings[judge.id] for judge in answered]
    why = why_not_labelled(feedback, comparison_id, said, ranked, len(missing))
    asked, by_lot = why is not None and feedback.mode == "mixed", why in (None, "audit")
    db.connection.execute(
        """UPDATE comparison SET asks = :asks, asks_why = :why, people_chance = :chance, people_drawn = :drawn
           WHERE id = :id""",
        {
            "asks": "people" if asked else "nobody",
            "why": why,
            "chance": 0.0 if feedback.mode != "mixed" else feedback.audit_share if by_lot else 1.0,
            "drawn": int(asked),
            "id": comparison_id,
        },
    )


def rankings_by_judges(db: Database, comparison_id: int) -> dict[int, tuple[int, ...]]:
    """How each judge, by its id, has ranked a comparison's answers."""
    rows = db.rows(
        "SELECT annotator_id, ranking FROM current_judgement WHERE comparison_id = ? AND purpose = 'judge'",
        (comparison_id,),
    )
    return {row["annotator_id"]: tuple(json.loads(row["ranking"])) for row in rows}


def why_not_labelled(
    feedback: Feedback,
    comparison_id: int,
    said: Sequence[Sequence[StoredVerdict]],
    rankings: Sequence[tuple[int, ...]],
    failed: int,
) -> AsksWhy | None:
    """Why judges, of whom so many failed, have not labelled a comparison; None if they have."""
    if feedback.mode != "mixed":
        return None if rankings else "unsure"
    if any(outcome.flipped for one in said for outcome in outcomes_of(one).values()):
        return "flip"
    if len(set(rankings)) > 1:
        return "disagreement"
    sure = [value for one in said if (value := sureness(one)) is not None]
    if failed or (sure and min(sure) < feedback.unsure_below):
        return "unsure"
    # Drawn by the comparison's number, so that asking again gives the same.
    return "audit" if random.Random(comparison_id).random() < feedback.audit_share else None


# -------------------------------------------------------------------------------------------------------------- trust
def has_taught(db: Database, judge: Judge, trainings: Sequence[int]) -> bool:
    """Whether any training saw what this judge had labelled and no person had judged by then.

    `trainings` are the last judgements that they saw, in order, one or more.
    """
    labels = db.rows(
        """SELECT j.id, (SELECT min(o.id) FROM judgement o JOIN annotator a ON a.id = o.annotator_id
                WHERE o.comparison_id = c.id AND a.kind != 'ai' AND o.outcome NOT IN ('skip', 'undone')) AS by_people
           FROM judgement j JOIN comparison c ON c.id = j.comparison_id JOIN prompt p ON p.id = c.prompt_id
           WHERE j.annotator_id = ? AND j.purpose = 'judge' AND j.id <= ? AND p.split = 'train'
             AND c.candidate_id IS NULL""",
        (judge.id, trainings[-1]),
    )
    first = ((trainings[bisect_left(trainings, row["id"])], row["by_people"]) for row in labels)
    return any(by_people is None or seen < by_people for seen, by_people in first)


JUDGED_TOO = "IN (SELECT comparison_id FROM current_judgement WHERE annotator_id = :judge AND purpose = 'judge')"
OLDER = "(:before IS NULL OR j.id < :before)"
OPINIONS = f"""SELECT j.comparison_id, a.name, j.ranking, j.kind
    FROM current_judgement j JOIN annotator a ON a.id = j.annotator_id
    WHERE j.purpose IN ('own', 'settle', 'import') AND j.ranking NOT NULL AND NOT j.early
      AND j.comparison_id {JUDGED_TOO} AND {OLDER} ORDER BY j.id"""
# Of all that a judge has judged people have judged a small part.
BY_PEOPLE_TOO = "IN (SELECT value FROM json_each(:people))"
CHANCES = f"""SELECT comparison_id, first, second, chance FROM verdict
    WHERE annotator_id = :judge AND chance NOT NULL AND comparison_id {BY_PEOPLE_TOO}"""
LENGTHS = f"""SELECT cr.comparison_id, length(r.text) AS length
    FROM comparison_response cr JOIN response r ON r.id = cr.response_id
    WHERE cr.comparison_id {BY_PEOPLE_TOO} ORDER BY cr.comparison_id, cr.position"""
RANKED = f"""FROM current_judgement j JOIN comparison c ON c.id = j.comparison_id JOIN prompt p ON p.id = c.prompt_id
    WHERE j.annotator_id = :judge AND j.purpose = 'judge' AND j.ranking NOT NULL AND NOT {OUTDATED}"""
# What people judged though the draw left it to judges was given to them for certain; what was imported nobody drew.
RANKINGS = f"""SELECT c.id, j.ranking, c.asks_why, iif(c.people_drawn = 1, c.people_chance, 1.0) AS people_chance,
        EXISTS (SELECT 1 FROM judgement e WHERE e.comparison_id = c.id AND e.created <= :frozen) AS frozen
    {RANKED} AND j.comparison_id {BY_PEOPLE_TOO} AND {UNLEARNT} AND {OLDER} AND c.answers_by IS NOT 'heads'
    ORDER BY c.id"""


def jointly_judged(db: Database, judge: Judge, before: int | None = None) -> list[JudgedComparison]:
    """The comparisons that this judge and at least one person have judged, oldest first: what its trust rests on.

    All of them, or as far as that was said `before` a judgement.

    Of the judge: what it has judged as it is now, by the present rubric and on its present weights. Of what
    its own model can have been trained on, nothing; nor where heads chose the answers, as those are no random ones. Of
    what a reward model's temperature can have been fitted on, no chances.
    Of people: own, settling and imported rankings, not those of gold comparisons, none made before the answers were
    complete, and none of annotators who are left out. Of several by one person the last counts.
    """
    only: dict[str, Any] = {"judge": judge.id, "before": before}
    excluded, fitted = judgement_store.excluded_annotators(db), judge.backend == "reward-model"
    people: dict[int, dict[str, PersonRanking]] = defaultdict(dict)
    for row in db.rows(OPINIONS, only):
        if row["name"] not in excluded:
            said = PersonRanking(row["name"], tuple(json.loads(row["ranking"])), row["kind"])
            people[row["comparison_id"]][said.name] = said
    only["people"] = json.dumps(list(people))
    chances: dict[int, dict[tuple[int, int], float | None]] = defaultdict(dict)
    for row in db.rows(CHANCES, only):
        chances[row["comparison_id"]][row["first"], row["second"]] = row["chance"]
    lengths: dict[int, list[int]] = defaultdict(list)
    for row in db.rows(LENGTHS, only):
        lengths[row["comparison_id"]].append(row["length"])
    return [
        JudgedComparison(
            comparison_id=row["id"],
            judged=tuple(json.loads(row["ranking"])),
            people=tuple(people[row["id"]].values()),
            chances=both_orders({} if fitted and row["frozen"] else chances.get(row["id"], {})),
            lengths=tuple(lengths[row["id"]]),
            picked=row["asks_why"] not in (None, "audit"),
            people_chance=row["people_chance"],
        )
        for row in db.rows(RANKINGS, {**only, "frozen": judge_store.frozen_before(db, judge)})
    ]
