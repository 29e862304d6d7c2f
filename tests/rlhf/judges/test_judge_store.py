"""AI judges' rows: verdicts become judgements once, and who is asked next follows from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotation.claims import backlog, handing_out, judging, own_prompts
from annotation.database import Database, Params
from annotation.exports.preference_rows import PreferenceRows
from annotation.metrics.aggregation import people_first
from annotation.records import Annotator, Feedback, UserError
from annotation.store import (
    comparison_store,
    data_sources,
    judgement_store,
    policy_comparisons,
    project_store,
    setting_store,
    stock_counts,
    training_data,
)
from annotation.store.data_sources import KnownAnnotator
from annotation.web import access
from annotation.workbench import bulk_changes, exclusions
from annotation.workbench.bulk_changes import BulkRequest
from annotation.workbench.comparison_filter import ComparisonFilter
from rlhf.__main__ import main as command_line
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.data import snapshots
from rlhf.evaluation import pair_outcomes
from rlhf.jobs import job_store
from rlhf.judges import judge_history, judge_store, verdict_store
from rlhf.judges.judge_agreement import TrustBasis
from rlhf.judges.judge_settings import (
    Backend,
    DirectorySettings,
    EndpointSettings,
    JudgeSettings,
    LocalSettings,
    RewardModelSettings,
)
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.judges.judge_store import Judge
from rlhf.judges.openai_client import Failure
from rlhf.judges.verdict_store import StoredVerdict
from rlhf.judges.verdicts import Verdict
from rlhf.models import decision_store, registry
from tests.conftest import BASE_NAME, act, make_response, seed_comparisons, seed_prompts
from tests.frozen_in_memory import current_judgements
from tests.rlhf.evaluation.test_pair_outcomes import duel

pytestmark = pytest.mark.slow

MIXED = Feedback(mode="mixed", audit_share=0.0)
FIRST_BETTER = {(0, 1): ("first", 0.9), (1, 0): ("second", 0.1)}
FLIPPED = {(0, 1): ("first", 0.9), (1, 0): ("first", 0.9)}
UNSURE = {(0, 1): ("first", 0.55), (1, 0): ("second", 0.45)}
SECOND_BETTER = {(0, 1): ("second", 0.2), (1, 0): ("first", 0.8)}
Said_of = Mapping[tuple[int, int], tuple[str, float]]


@pytest.fixture
def ann(db: Database) -> Annotator:
    return access.add_account(db, "ann", "annotator", "ann's password")


def panel(db: Database, *names: str) -> list[Judge]:
    """Local judges that label open comparisons."""
    return [judge_store.add(db, name, "local", {"model": "base"}, "owner") for name in names]


def say(
    db: Database,
    judge: Judge,
    comparison_id: int,
    said: Said_of,
    scope: verdict_store.JudgeScope = "open",
    version: int = 0,
) -> bool:
    """Let a judge say this of a comparison that it is to judge; whether that makes a judgement."""
    found = [one for one in verdict_store.to_judge(db, judge, scope, 1000) if one.id == comparison_id]
    for pair, (choice, chance) in said.items():
        verdict = Verdict(
            choice=choice, chance=chance, reply="because", prompt_tokens=10, completion_tokens=1, seconds=0.5
        )  # type: ignore[arg-type]
        verdict_store.add_verdict(db, judge, comparison_id, pair, verdict, version, (), None)
    return verdict_store.judge_comparison(db, judge, found[0])


def judge_first_better(db: Database, ann: Annotator) -> None:
    """A person judges the next comparison as FIRST_BETTER does."""
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act(f"{'left' if claim.shown_order[0] == 0 else 'right'}-clearly"))


def asks(db: Database, comparison_id: int) -> tuple[str, str | None]:
    row = db.one("SELECT asks, asks_why FROM comparison WHERE id = ?", (comparison_id,))
    return row["asks"], row["asks_why"]


# -------------------------------------------------------------------------------------------------------------- judges
def test_a_judge_is_an_annotator_who_can_not_sign_in_and_whose_name_is_its_own(db: Database) -> None:
    (judge,) = panel(db, "  careful   judge ")
    assert judge.name == "careful judge"
    assert KnownAnnotator(judge.id, "careful judge", "ai") in data_sources.annotators(db)
    assert "careful judge" not in [account.name for account in access.accounts(db)]
    for name, expected in (
        ("Careful Judge", "already"),
        ("  ", "1 to 60"),
        ("one, two", "comma"),
        ("x" * 61, "1 to 60"),
        ("Active", "stands for all judges"),
    ):
        with pytest.raises(UserError, match=expected):
            judge_store.add(db, name, "local", {}, "owner")
    assert [one.name for one in judge_store.judges_named(db, "careful judge")] == ["careful judge"]
    with pytest.raises(UserError, match="no judge 'other'"):
        judge_store.judges_named(db, "careful judge, other")


def test_settings_are_read_by_their_backend_and_others_are_refused(db: Database) -> None:
    """Also those of a directory that an earlier version kept: held in 4 bits."""
    here = {"address": "http://127.0.0.1/v1", "model": "m"}
    known: list[tuple[Backend, dict[str, Any], JudgeSettings]] = [
        ("local", {"model": "base"}, LocalSettings("base")),
        ("local", {}, LocalSettings("base")),
        ("local", {"directory": "/m"}, DirectorySettings("/m", "nf4")),
        ("local", {"directory": "/m", "precision": "fp32"}, DirectorySettings("/m", "fp32")),
        ("reward-model", {"model": "rm-1"}, RewardModelSettings("rm-1")),
        ("endpoint", here, EndpointSettings(**here)),
    ]
    for number, (backend, kept, expected) in enumerate(known):
        made = judge_store.add(db, f"judge {number}", backend, kept, "owner")
        assert judge_store.by_name(db, made.name).settings == expected
        more = json.dumps({**kept, "of": "another version"})
        db.connection.execute("UPDATE judge SET settings = ? WHERE annotator_id = ?", (more, made.id))
        assert judge_store.by_name(db, made.name).settings == expected
    refused: list[tuple[Backend, dict[str, Any], str]] = [
        ("local", {"model": 3}, "'model' must be of type str"),
        ("local", {"directory": "/m", "precision": "int8"}, "'precision' must be one of nf4, bf16, fp32"),
        ("reward-model", {"model": "rm-1", "directory": "/m"}, "no field 'directory'"),
        ("endpoint", {"address": "http://x"}, "'model' is missing"),
    ]
    for backend, wrong, words in refused:
        with pytest.raises(UserError, match=words):
            judge_store.add(db, "another", backend, wrong, "owner")


def test_a_judge_whose_models_files_are_deleted_can_not_be_switched_on(db: Database) -> None:
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    judge_store.add(db, "gone", "local", {"model": "dpo-1"}, "owner")
    judge_store.add(db, "far", "endpoint", {"address": "http://x", "model": "dpo-1"}, "owner")
    for name in ("gone", "far"):
        verdict_store.set_active(db, name, False)
    decision_store.mark_deleted(db, registry.by_revision(db, "dpo-1"), "owner")
    with pytest.raises(UserError, match="gone judges with dpo-1, whose files were deleted"):
        verdict_store.set_active(db, "gone", True)
    verdict_store.set_active(db, "far", True)  # the endpoint's model only has the same name
    verdict_store.set_active(db, "gone", False)


def test_a_rubric_is_a_new_version_only_when_it_says_something_else(db: Database) -> None:
    assert judge_store.rubric(db).version == 0
    assert judge_store.write_rubric(db, "Judge.", ["Be kind.", "Be brief."], 1, "owner") == 1
    assert judge_store.write_rubric(db, "Judge.", ["Be kind.", "Be brief."], 1, "other") == 1
    assert judge_store.write_rubric(db, "Judge.", ["Be kind."], 0, "other") == 2
    assert judge_store.rubric(db).principles == ("Be kind.",)
    first = judge_store.rubrics(db)[-1]
    assert (first.version, first.principles, first.drawn) == (1, ("Be kind.", "Be brief."), 1)
    assert [rubric.version for rubric in judge_store.rubrics(db)] == [2, 1]


# ------------------------------------------------------------------------------------------------------------- verdicts
def test_both_orders_make_one_judgement_and_a_resumed_job_makes_no_second(db: Database) -> None:
    project_store.set_feedback(db, MIXED)
    (judge,) = panel(db, "j")
    (comparison,) = seed_comparisons(db, 1)
    assert not say(db, judge, comparison, {(0, 1): ("first", 0.9)})
    waiting = verdict_store.to_judge(db, judge, "open", 10)
    assert [one.missing for one in waiting] == [[(1, 0)]], "only what was not asked is asked again"
    assert say(db, judge, comparison, {(1, 0): ("second", 0.2)})
    assert verdict_store.to_judge(db, judge, "open", 10) == []
    assert verdict_store.judge_comparison(db, judge, waiting[0])
    (judgement,) = current_judgements(db)
    assert (judgement.ranking, judgement.purpose, judgement.annotator_kind) == ((1, 2), "judge", "ai")
    assert judgement.seconds == 1.0


def test_whether_any_comparison_waits_for_a_judge_is_whether_it_would_get_one(db: Database, ann: Annotator) -> None:
    early, late = panel(db, "early", "late")

    def waits() -> list[bool]:
        asked = [verdict_store.any_to_judge(db, judge, "open") for judge in (early, late)]
        assert asked == [bool(verdict_store.to_judge(db, judge, "open", 1)) for judge in (early, late)]
        return asked

    (for_people,) = seed_comparisons(db, 1)
    assert waits() == [False, False], "people are asked"
    project_store.set_feedback(db, MIXED)
    assert waits() == [True, True]
    assert say(db, early, for_people, FIRST_BETTER)
    assert waits() == [False, True]
    judge_store.write_rubric(db, "Judge.", [], 0, "owner")
    assert waits() == [False, True], "a label is bought once"
    project_store.set_feedback(db, Feedback("people"))
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    assert waits() == [False, False]
    duel(db, [("new", "old")])
    assert waits() == [False, False], "a candidate's are another scope"


def test_both_orders_go_by_one_version_of_the_rubric(db: Database) -> None:
    """One order was asked before a change: it is asked again, and no late verdict by the old rubric comes between."""
    project_store.set_feedback(db, MIXED)
    (judge,) = panel(db, "j")
    (comparison,) = seed_comparisons(db, 1)
    assert not say(db, judge, comparison, {(0, 1): ("first", 0.9)})
    judge_store.write_rubric(db, "Judge.", [], 0, "owner")
    waiting = verdict_store.to_judge(db, judge, "open", 10)
    assert [one.missing for one in waiting] == [[(0, 1), (1, 0)]]
    assert not say(db, judge, comparison, {(1, 0): ("second", 0.2)}, version=1), "two rubrics make no judgement"
    assert list(current_judgements(db)) == []
    assert say(db, judge, comparison, {(0, 1): ("second", 0.3), (1, 0): ("first", 0.6)}, version=1)
    late = Verdict(choice="first", chance=0.9, reply="", prompt_tokens=1, completion_tokens=1, seconds=0.5)
    verdict_store.add_verdict(db, judge, comparison, (0, 1), late, 0, (), None)
    assert {(one.choice, one.rubric_version) for one in verdict_store.verdicts_on(db, judge, comparison)} == {
        ("second", 1),
    }
    assert [one.ranking for one in current_judgements(db)] == [(1, 1)]


def test_trust_rests_on_random_comparisons_alone(db: Database, ann: Annotator) -> None:
    """Where heads chose answers that they disagree on, a judge may be right more or less often than on any others."""
    (judge,) = panel(db, "j")
    random, chosen, unknown = seed_comparisons(db, 3)
    for _ in range(3):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    for comparison in (random, chosen, unknown):
        assert say(db, judge, comparison, FIRST_BETTER, "judged")
    db.connection.execute("UPDATE comparison SET answers_by = 'heads', answers_chance = 0.2 WHERE id = ?", (chosen,))
    db.connection.execute("UPDATE comparison SET answers_by = NULL WHERE id = ?", (unknown,))
    assert [case.comparison_id for case in verdict_store.jointly_judged(db, judge)] == [random, unknown]


def test_trust_reads_nothing_of_what_the_judge_alone_has_judged(
    db: Database, ann: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (judge,) = panel(db, "j")
    made = seed_comparisons(db, 6)
    db.connection.execute("UPDATE comparison SET asks = 'judges'")
    for comparison in made:
        assert say(db, judge, comparison, FIRST_BETTER)
    db.connection.execute("UPDATE comparison SET asks = 'people'")
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("tie"))
    read, rows = list[int](), db.rows

    def counted(sql: str, params: Params = ()) -> list[dict[str, Any]]:
        found = rows(sql, params)
        read.append(len(found))
        return found

    monkeypatch.setattr(db, "rows", counted)
    assert len(verdict_store.jointly_judged(db, judge)) == 1
    assert max(read) <= 2, "a verdict in each order"


def test_trust_knows_by_what_chance_people_got_a_comparison(db: Database, ann: Annotator) -> None:
    """What an admin gave to people though the draw had not, or was imported, stands for nothing but itself."""
    (judge,) = panel(db, "j")
    certain, drawn, given, imported = made = seed_comparisons(db, 4)
    for _ in made:
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    for comparison in made:
        assert say(db, judge, comparison, FIRST_BETTER, "judged")
    for comparison, chance, came in ((drawn, 0.25, 1), (given, 0.25, 0), (imported, 1e-9, None)):
        db.connection.execute(
            "UPDATE comparison SET people_chance = ?, people_drawn = ? WHERE id = ?", (chance, came, comparison)
        )
    assert {case.comparison_id: case.people_chance for case in verdict_store.jointly_judged(db, judge)} == {
        certain: 1.0,
        drawn: 0.25,
        given: 1.0,
        imported: 1.0,
    }


@pytest.mark.parametrize(("backend", "told"), [("reward-model", 1), ("local", 2)])
def test_chances_are_not_checked_on_what_their_temperature_was_fitted_on(
    db: Database, ann: Annotator, backend: judge_store.Backend, told: int
) -> None:
    """A reward model's, on the held-out comparisons that its data held; those tell how far it agrees all the same."""
    (fitted,) = seed_comparisons(db, 1, "held-out")
    judge_first_better(db, ann)
    job_id = job_store.enqueue(db, RewardModelSpec(), "owner")
    registry.add(
        db, revision="made", algorithm="reward_model", base=BASE_NAME, parent_id=1, job_id=job_id, path="p", sha256="s"
    )
    (later,) = seed_comparisons(db, 1, "held-out")
    judge_first_better(db, ann)
    judge = judge_store.add(db, "j", backend, {"model": "made"}, "owner")
    for comparison in (fitted, later):
        assert say(db, judge, comparison, FIRST_BETTER, "judged")
    found = judge_history.trust_in(db, judge)
    assert found.with_people is not None
    assert found.calibration is not None
    assert (found.with_people.share.n, found.calibration.pairs) == (2, told)


def test_trust_and_the_word_on_a_candidate_go_by_the_present_rubric(db: Database, ann: Annotator) -> None:
    """After a change it is another judge, until it has judged the same again; its first word is taken back then."""
    (judge,) = panel(db, "j")
    (comparison,) = seed_comparisons(db, 1)
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    assert say(db, judge, comparison, FIRST_BETTER, "judged")
    duel(db, [("new", "old")])
    (dueled,) = verdict_store.to_judge(db, judge, "candidate", 10, 2)
    for pair, (choice, chance) in FIRST_BETTER.items():
        verdict = Verdict(choice=choice, chance=chance, reply="", prompt_tokens=0, completion_tokens=0, seconds=0.0)  # type: ignore[arg-type]
        verdict_store.add_verdict(db, judge, dueled.id, pair, verdict, 0, (), None)
    assert verdict_store.judge_comparison(db, judge, dueled)
    assert [one.outcome for one in pair_outcomes.outcomes(db, 2, 1, judge.id)] == [1.0]
    assert [case.judged for case in verdict_store.jointly_judged(db, judge)] == [(1, 2)]
    assert len(judge_history.verdict_pairs(db, judge)) == 2
    judge_store.write_rubric(db, "Judge.", [], 0, "owner")
    assert verdict_store.jointly_judged(db, judge) == judge_history.verdict_pairs(db, judge) == []
    assert pair_outcomes.outcomes(db, 2, 1, judge.id) == []
    assert judge_history.basis(db, judge) == TrustBasis(1, 4)
    assert say(db, judge, comparison, SECOND_BETTER, "judged", 1)
    assert [case.judged for case in verdict_store.jointly_judged(db, judge)] == [(2, 1)]
    assert [one.id for one in verdict_store.to_judge(db, judge, "candidate", 10, 2)] == [dueled.id]
    outcomes = db.rows("SELECT outcome FROM judgement WHERE purpose = 'judge' AND comparison_id = ?", (comparison,))
    assert [row["outcome"] for row in outcomes] == ["ranked", "undone", "ranked"]
    assert judge_history.basis(db, judge) == TrustBasis(1, 2)


@pytest.mark.parametrize(
    ("backend", "settings", "change", "another"),
    [
        ("local", {"model": "base"}, registry.answer_otherwise, True),
        ("local", {"model": "base"}, lambda db: registry.set_precision(db, "bf16", "owner"), True),
        ("local", {"model": "base"}, lambda db: registry.set_precision(db, "bf16", None), False),
        ("local", {"model": "base"}, lambda db: registry.set_thinking(db, "template"), False),
        ("reward-model", {"model": "reward"}, registry.answer_otherwise, True),
        ("reward-model", {"model": "reward"}, lambda db: registry.set_precision(db, "bf16", "owner"), False),
        ("local", {"model": "whole"}, registry.answer_otherwise, False),
        ("local", {"directory": "/a/model"}, registry.answer_otherwise, False),
        ("endpoint", {"address": "http://a/v1", "model": "base"}, registry.answer_otherwise, False),
    ],
)
def test_a_judge_on_other_weights_is_another_judge(
    db: Database, ann: Annotator, backend: Backend, settings: Mapping[str, Any],
    change: Callable[[Database], object], another: bool,
) -> None:  # fmt: skip
    """As under another rubric, where it runs on what lies under the base's name; only its labels stay."""
    files = dict.fromkeys(("algorithm", "path", "sha256"), "x")
    made: dict[str, Any] = {"base": BASE_NAME, "parent_id": 1, "job_id": None, **files}
    registry.add(db, revision="reward", kind="reward-model", **made)
    registry.add(db, revision="whole", form="full", **made)
    judge = judge_store.add(db, "j", backend, settings, "owner")
    comparison, labelled = seed_comparisons(db, 2)
    judge_first_better(db, ann)
    assert say(db, judge, comparison, FIRST_BETTER, "judged")
    project_store.set_feedback(db, Feedback(mode="ai"))
    assert say(db, judge, labelled, FIRST_BETTER)
    drawn = judge_history.cache_key(db)
    change(db)
    assert judge_history.cache_key(db) != drawn or not another, "the figures on the page are of before"
    assert judge_history.basis(db, judge).left_out == (4 if another else 0)
    assert (verdict_store.jointly_judged(db, judge) == []) == another
    assert verdict_store.any_to_judge(db, judge, "judged") == another
    assert verdict_store.count_open(db, judge) == 0
    if another:
        (asked,) = verdict_store.to_judge(db, judge, "judged", 10)
        assert len(asked.missing) == 2
        verdict = Verdict(choice="second", chance=0.2, reply="", prompt_tokens=0, completion_tokens=0, seconds=0.0)
        verdict_store.add_verdict(db, judge, comparison, (0, 1), verdict, 0, (), None)
        assert not verdict_store.judge_comparison(db, judge, asked), "one order is of before"
        assert say(db, judge, comparison, SECOND_BETTER, "judged")
        assert [case.judged for case in verdict_store.jointly_judged(db, judge)] == [(2, 1)]


def test_which_verdicts_are_of_other_weights_is_looked_up_once_whatever_changed_how_often(db: Database) -> None:
    """Of changes that earlier versions noted the time alone counts, of later ones also which verdict was the newest."""
    (judge,) = panel(db, "j")
    changes: list[dict[str, Any]] = [
        {"told": None, "until": "2026-01-02"},
        {"told": True, "until": "2026-01-31", "newest": {"verdict": 1000}},
        {"told": None, "until": "2026-01-09", "newest": {"verdict": 200}},
        {"told": None, "until": "2026-01-06", "newest": {"verdict": 300}},
    ]
    with db.transaction():
        for number, comparison in enumerate(seed_comparisons(db, 400)):
            said = {"annotator_id": judge.id, "comparison_id": comparison, "first": 0, "second": 1, "seconds": 0}
            db.insert("verdict", {**said, "choice": "tie", "created": f"2026-01-{number % 11 + 1:02}"})
    before = {row["id"]: row["created"] for row in db.rows("SELECT id, created FROM verdict")}

    def of_before() -> set[int]:
        return {row["id"] for row in db.rows(f"SELECT id FROM verdict v WHERE {verdict_store.EARLIER}")}

    assert db.value(f"SELECT count(*) FROM verdict v WHERE NOT {verdict_store.EARLIER}") == 400
    setting_store.set_setting(db, "thinking_changes", changes)
    assert of_before() == {
        number
        for number, at in before.items()
        if at <= "2026-01-02" or (at <= "2026-01-09" and number <= 200) or (at <= "2026-01-06" and number <= 300)
    }
    steps: list[int] = []
    db.connection.conn.set_progress_handler(lambda: steps.append(1), 100)
    of_before()
    db.connection.conn.set_progress_handler(None, 0)
    assert len(steps) < 240, "at most sixty operations of SQLite for each verdict, not as many again for each change"


def test_a_reward_model_goes_by_no_rubric(db: Database, ann: Annotator) -> None:
    judge = judge_store.add(db, "scores", "reward-model", {"model": "reward_model-1"}, "owner")
    (comparison,) = seed_comparisons(db, 1)
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    assert not say(db, judge, comparison, {(0, 1): ("first", 0.9)}, "judged")
    judge_store.write_rubric(db, "Judge.", [], 0, "owner")
    assert say(db, judge, comparison, {(1, 0): ("second", 0.1)}, "judged", 1)
    assert len(verdict_store.jointly_judged(db, judge)) == len(judge_history.verdict_pairs(db, judge)) == 1
    assert judge_history.basis(db, judge) == TrustBasis(None, 0)


def test_what_made_room_for_another_verdict_keeps_its_text_and_its_cost(db: Database) -> None:
    project_store.set_feedback(db, MIXED)
    (judge,) = panel(db, "j")
    (comparison,) = seed_comparisons(db, 1)
    old, new = (
        job_store.enqueue(db, JudgeSpec(judge="j"), "owner"),
        job_store.enqueue(db, JudgeSpec(judge="j"), "owner"),
    )
    verdict_store.add_verdict(
        db,
        judge,
        comparison,
        (0, 1),
        Verdict(choice="tie", chance=0.5, reply="before", prompt_tokens=10, completion_tokens=1, seconds=0.5),
        0,
        (),
        old,
    )
    judge_store.write_rubric(db, "Judge.", [], 0, "owner")
    verdict_store.add_verdict(
        db,
        judge,
        comparison,
        (0, 1),
        Verdict(choice="tie", chance=0.5, reply="after", prompt_tokens=20, completion_tokens=2, seconds=0.5),
        1,
        (),
        new,
    )
    assert [judge_history.usage(db, judge, job).prompt_tokens for job in (old, new, None)] == [10, 20, 30]
    assert "before" in db.value("SELECT data FROM event WHERE job_id = ?", (old,))
    assert not verdict_store.fails_on(db, judge, comparison)


# ------------------------------------------------------------------------------------------------- verdicts that failed
def fail(db: Database, judge: Judge, comparison: int, times: int, reason: str = "no verdict") -> None:
    """A judge that gave verdicts before fails on a comparison in so many jobs."""
    (other,) = seed_comparisons(db, 1)
    verdict_store.add_verdict(
        db,
        judge,
        other,
        (0, 1),
        Verdict(choice="first", chance=0.9, reply="", prompt_tokens=1, completion_tokens=1, seconds=0.5),
        0,
        (),
        None,
    )
    db.write("UPDATE comparison SET state = 'dropped' WHERE id = ?", (other,))
    for _ in range(times):
        job_id = job_store.enqueue(db, JudgeSpec(judge=judge.name), "owner")
        for _ in range(2):  # both orders
            verdict_store.add_failure(db, judge, comparison, Failure(reason, "why", 10, 5), job_id)
        verdict_store.pass_over(db, [comparison])


@pytest.mark.parametrize(("mode", "expected"), [("mixed", ("people", "unsure")), ("ai", ("nobody", "unsure"))])
def test_a_comparison_on_which_a_judge_fails_in_three_jobs_is_waited_for_no_more(
    db: Database, mode: Any, expected: tuple[str, str]
) -> None:
    project_store.set_feedback(db, Feedback(mode=mode, audit_share=0.0))
    (judge,) = panel(db, "j")
    stuck, other = seed_comparisons(db, 2)
    fail(db, judge, stuck, 2)
    assert asks(db, stuck) == ("judges", None)
    fail(db, judge, stuck, 1)
    assert (asks(db, stuck), asks(db, other)) == (expected, ("judges", None))
    assert verdict_store.count_open(db, judge) == 1


def test_a_judge_that_never_gave_a_verdict_fails_by_itself(db: Database) -> None:
    """Say one whose model is the wrong one: what it can't judge stays for a judge that can."""
    project_store.set_feedback(db, Feedback(mode="ai"))
    (judge,) = panel(db, "j")
    (comparison,) = seed_comparisons(db, 1)
    for _ in range(5):
        job_id = job_store.enqueue(db, JudgeSpec(judge="j"), "owner")
        verdict_store.add_failure(db, judge, comparison, Failure("no verdict", ""), job_id)
        verdict_store.pass_over(db, [comparison])
    assert asks(db, comparison) == ("judges", None)


def test_another_judges_word_decides_it_where_people_are_not_asked(db: Database) -> None:
    project_store.set_feedback(db, Feedback(mode="ai"))
    one, two = panel(db, "one", "two")
    (comparison,) = seed_comparisons(db, 1)
    fail(db, two, comparison, 3)
    assert asks(db, comparison) == ("judges", None), "the other judge has not judged yet"
    say(db, one, comparison, FIRST_BETTER)
    assert asks(db, comparison) == ("nobody", None)


def test_a_refusal_is_the_comparisons_fault_only_where_the_service_answered_others(db: Database) -> None:
    project_store.set_feedback(db, MIXED)
    (judge,) = panel(db, "j")
    refused, *fine = seed_comparisons(db, 4)
    fail(db, judge, refused, 3, "refused")
    assert asks(db, refused) == ("judges", None)
    for job, other in zip(job_store.recent(db, ("judge",)), fine, strict=True):  # each gave a verdict on another one
        assert asks(db, refused) == ("judges", None)
        verdict_store.add_verdict(
            db,
            judge,
            other,
            (0, 1),
            Verdict(choice="first", chance=0.9, reply="", prompt_tokens=1, completion_tokens=1, seconds=0.5),
            0,
            (),
            job.id,
        )
        verdict_store.pass_over(db, [refused])
    assert asks(db, refused) == ("people", "unsure")


def test_a_flip_is_a_tie_and_gives_no_pair_to_train_on(db: Database) -> None:
    project_store.set_feedback(db, MIXED)
    (judge,) = panel(db, "j")
    (comparison,) = seed_comparisons(db, 1)
    say(db, judge, comparison, FLIPPED)
    (judgement,) = current_judgements(db)
    assert judgement.ranking == (1, 1)


def test_a_comparison_of_three_is_ranked_by_all_its_pairs_in_both_orders(db: Database) -> None:
    project_store.set_feedback(db, MIXED)
    (judge,) = panel(db, "j")
    prompt = seed_prompts(db, 1)[0]
    made = comparison_store.add_comparison(db, [make_response(prompt, text) for text in ("one", "two", "three")], 3)
    assert made is not None
    order = (2, 0, 1)  # the third is best, then the first
    better = {
        (a, b): ("first" if order.index(a) < order.index(b) else "second", 0.5)
        for a in range(3)
        for b in range(3)
        if a != b
    }
    assert say(db, judge, made, better)
    (judgement,) = current_judgements(db)
    assert (judgement.ranking, judgement.kind) == ((2, 3, 1), "rank")


def test_sureness_is_that_of_both_orders_together() -> None:
    def of(said: Said_of) -> float | None:
        return verdict_store.sureness(
            StoredVerdict(first=a, second=b, choice=choice, chance=chance, seconds=0.0)  # type: ignore[arg-type]
            for (a, b), (choice, chance) in said.items()
        )

    assert of(FIRST_BETTER) == pytest.approx(0.9)
    assert of(FLIPPED) == pytest.approx(0.5)
    assert of(SECOND_BETTER) == pytest.approx(0.8)
    assert (
        verdict_store.sureness(
            [
                StoredVerdict(first=0, second=1, choice="first", chance=None, seconds=0.0),
                StoredVerdict(first=1, second=0, choice="second", chance=None, seconds=0.0),
            ]
        )
        is None
    )


# -------------------------------------------------------------------------------------------------------- who is asked
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (FIRST_BETTER, FIRST_BETTER, ("nobody", None)),
        (FIRST_BETTER, FLIPPED, ("people", "flip")),
        (FIRST_BETTER, SECOND_BETTER, ("people", "disagreement")),
        (FIRST_BETTER, UNSURE, ("people", "unsure")),
    ],
)
def test_people_get_what_judges_can_not_label(
    db: Database, ann: Annotator, first: Said_of, second: Said_of, expected: tuple[str, str | None]
) -> None:
    project_store.set_feedback(db, MIXED)
    one, two = panel(db, "one", "two")
    (comparison,) = seed_comparisons(db, 1)
    assert asks(db, comparison) == ("judges", None)
    assert handing_out.claim_next(db, ann.id) is None
    say(db, one, comparison, first)
    assert asks(db, comparison) == ("judges", None), "the other judge has not judged yet"
    say(db, two, comparison, second)
    assert asks(db, comparison) == expected
    assert (handing_out.claim_next(db, ann.id) is not None) == (expected[0] == "people")


def test_people_are_asked_about_a_share_of_what_judges_label(db: Database) -> None:
    (judge,) = panel(db, "j")
    project_store.set_feedback(db, Feedback(mode="mixed", audit_share=0.25))
    made = seed_comparisons(db, 200)
    for comparison in made:
        say(db, judge, comparison, FIRST_BETTER)
    audited = [comparison for comparison in made if asks(db, comparison) == ("people", "audit")]
    assert 30 <= len(audited) <= 70  # 50 on average, five standard deviations of 6 or so on either side
    rows = db.rows("SELECT id, people_chance, people_drawn FROM comparison")
    assert {row["people_chance"] for row in rows} == {0.25}
    assert [row["id"] for row in rows if row["people_drawn"]] == audited
    (flipped,) = seed_comparisons(db, 1)
    say(db, judge, flipped, FLIPPED)
    project_store.set_feedback(db, Feedback(mode="ai", audit_share=0.25))
    (labelled,) = seed_comparisons(db, 1)
    say(db, judge, labelled, FIRST_BETTER)
    rows = db.rows("SELECT people_chance, people_drawn FROM comparison WHERE id IN (?, ?)", (flipped, labelled))
    assert [tuple(row.values()) for row in rows] == [(1.0, 1), (0.0, 0)]


def test_with_judges_only_people_are_asked_nothing_and_back_again_everything(db: Database, ann: Annotator) -> None:
    (judge,) = panel(db, "j")
    before = seed_comparisons(db, 2)
    project_store.set_feedback(db, Feedback(mode="ai"))
    after = seed_comparisons(db, 1)
    assert [asks(db, comparison)[0] for comparison in (*before, *after)] == ["judges"] * 3
    assert handing_out.claim_next(db, ann.id) is None
    say(db, judge, before[0], FLIPPED)
    assert asks(db, before[0]) == ("nobody", None)
    assert sum(stock_counts.stock_sizes(db, 1).values()) == 2, "what judges have labelled makes room for new ones"
    project_store.set_feedback(db, Feedback(mode="people"))
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    assert claim.comparison_id == before[1]


def test_a_prompt_of_an_annotators_own_is_always_theirs(db: Database, ann: Annotator) -> None:
    project_store.set_feedback(db, Feedback(mode="ai"))
    assert asks(db, own_prompts.ask(db, ann.id, [{"role": "user", "content": "Mine?"}])) == ("people", None)


def test_a_judge_that_is_put_aside_is_waited_for_no_more(db: Database) -> None:
    project_store.set_feedback(db, MIXED)
    one, _ = panel(db, "one", "two")
    (comparison,) = seed_comparisons(db, 1)
    say(db, one, comparison, FIRST_BETTER)
    verdict_store.set_active(db, "two", False)
    assert asks(db, comparison) == ("nobody", None)


def test_what_people_have_judged_is_there_to_measure_a_judge_by_the_newest_first(db: Database, ann: Annotator) -> None:
    (judge,) = panel(db, "j")
    made = seed_comparisons(db, 3)
    for _ in made[:2]:
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    assert [one.id for one in verdict_store.to_judge(db, judge, "judged", 10)] == [made[1], made[0]]
    assert verdict_store.to_judge(db, judge, "open", 10) == []
    say(db, judge, made[0], FIRST_BETTER, "judged")
    assert asks(db, made[0])[0] == "people", "measuring a judge decides nothing"
    (case,) = verdict_store.jointly_judged(db, judge)
    assert (case.comparison_id, case.judged, case.chances) == (made[0], (1, 2), {(0, 1): pytest.approx(0.9)})


# ---------------------------------------------------------------------------------------------------------- candidates
def test_what_somebody_holds_who_is_shut_out_is_others_at_once(db: Database, ann: Annotator) -> None:
    seed_comparisons(db, 1)
    bob = access.add_account(db, "bob", "annotator", "bob's password")
    held = handing_out.claim_next(db, bob.id)
    assert held is not None
    assert handing_out.claim_next(db, ann.id) is None
    access.deactivate(db, "bob")
    assert backlog.waiting_for(db, ann.id).count == 1
    judge_first_better(db, ann)
    access.activate(db, "bob")
    with pytest.raises(UserError, match=r"^The time for this comparison ran out\. Nothing was recorded\.$"):
        judging.judge(db, bob.id, held.nonce, act("tie"))


def test_judges_are_measured_on_what_is_withdrawn_but_asked_of_no_withdrawn_candidate(
    db: Database, ann: Annotator
) -> None:
    (judge,) = panel(db, "j")
    (judged,) = seed_comparisons(db, 1)
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    asked = BulkRequest("withdraw", ComparisonFilter(ids=(judged,)))
    bulk_changes.make(db, asked, ann, 1)
    duel(db, [("new", "old")])
    assert len(verdict_store.to_judge(db, judge, "candidate", 10, 2)) == 1
    policy_comparisons.withdraw_open(db)
    assert verdict_store.to_judge(db, judge, "candidate", 10, 2) == []
    assert [one.id for one in verdict_store.to_judge(db, judge, "judged", 10)] == [judged]


def test_a_decided_candidate_is_asked_about_no_more(db: Database, ann: Annotator) -> None:
    duel(db, [("new", "old"), ("new one", "old one")])
    held = handing_out.claim_next(db, ann.id)
    assert held is not None
    decision_store.reject(db, "dpo-1", "owner", "worse")
    judging.judge(db, ann.id, held.nonce, act("tie"))
    assert handing_out.claim_next(db, ann.id) is None
    assert decision_store.decisions(db)[0].reason == "worse"


def test_a_candidate_takes_its_share_of_what_annotators_see(db: Database, ann: Annotator) -> None:
    duel(db, [(f"new {number}", f"old {number}") for number in range(60)])
    seed_comparisons(db, 60)
    purposes = []
    for _ in range(60):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
        row = db.row("SELECT candidate_id FROM comparison WHERE id = ?", (claim.comparison_id,))
        purposes.append(row is not None and row["candidate_id"] == 2)
    assert 2 <= sum(purposes) <= 26  # 12 on average; three standard deviations are 9


def test_the_ranking_is_stored_as_json_by_position(db: Database) -> None:
    project_store.set_feedback(db, MIXED)
    (judge,) = panel(db, "j")
    (comparison,) = seed_comparisons(db, 1)
    say(db, judge, comparison, SECOND_BETTER)
    row = db.one("SELECT ranking, shown_order, claim_id FROM judgement")
    assert (json.loads(row["ranking"]), json.loads(row["shown_order"]), row["claim_id"]) == ([2, 1], [0, 1], None)


# ---------------------------------------------------------------------------------------------------- the command line
def test_judges_are_made_and_listed_from_the_command_line(
    db: Database, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--data", str(data_dir)]
    settings = {"address": "http://127.0.0.1:9/v1", "model": "m", "retries": 1}
    assert command_line([*run, "add-judge", "far", "endpoint", json.dumps(settings)]) == 0
    assert command_line([*run, "add-judge", "near", "local", '{"model": "serving"}']) == 0
    assert judge_store.by_name(db, "near").settings == LocalSettings("base")
    assert judge_store.by_name(db, "far").settings == EndpointSettings("http://127.0.0.1:9/v1", "m", retries=1)
    capsys.readouterr()
    assert command_line([*run, "judges"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["far", "near"]
    assert command_line([*run, "add-judge", "f\x1b[2Jar", "local", '{"model": "base"}']) == 2
    assert "can't be seen (U+001B)" in capsys.readouterr().err
    db.connection.execute("UPDATE annotator SET name = 'f' || char(27) || '[2Jar' WHERE name = 'far'")
    assert command_line([*run, "judges"]) == 0
    assert capsys.readouterr().out.startswith("f⟨U+001B⟩[2Jar ")
    for backend, wrong, expected in (
        ("endpoint", '{"address": "ftp://x", "model": "m"}', "http"),
        ("endpoint", '{"addres": "http://x"}', "no field 'addres'"),
        ("endpoint", '{"address": "http://x", "model": "m", "key_variable": "HF_TOKEN"}', "PREFLOOP_JUDGE_"),
        ("local", "{}", "one setting"),
        ("reward-model", '{"model": "base"}', "no reward model"),
        ("local", "nothing", "not JSON"),
    ):
        assert command_line([*run, "add-judge", "other", backend, wrong]) == 2
        assert expected in capsys.readouterr().err
    assert command_line([*run, "gate"]) == 2
    assert "No candidate was checked" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- what a training could learn
def test_only_what_a_training_could_learn_from_counts_towards_the_next(db: Database, ann: Annotator) -> None:
    """People's and judges' verdicts on candidates, held-out prompts and, where people alone judge, judges' do not."""
    (judge,) = panel(db, "j")
    assert duel(db, [("new", "old"), ("newer", "older")]) == 2
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    for comparison in verdict_store.to_judge(db, judge, "candidate", 10, 2):
        for pair, (choice, chance) in FIRST_BETTER.items():
            verdict = Verdict(choice=choice, chance=chance, reply="", prompt_tokens=0, completion_tokens=0, seconds=0.0)  # type: ignore[arg-type]
            verdict_store.add_verdict(db, judge, comparison.id, pair, verdict, 0, (), None)
        assert verdict_store.judge_comparison(db, judge, comparison)
    seed_comparisons(db, 1, "held-out")
    assert training_data.new_to_train_on(db, "") == 0
    project_store.set_project(db, replace(project_store.project(db), candidate_share=0.0))
    (by_person,) = seed_comparisons(db, 1)
    while (claim := handing_out.claim_next(db, ann.id)) is not None:
        judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    assert training_data.new_to_train_on(db, "") == 1
    say(db, judge, by_person, FIRST_BETTER, "judged")
    project_store.set_feedback(db, MIXED)
    assert training_data.new_to_train_on(db, "") == 1, "a judge's word beside a person's is no second one"
    (by_judge,) = seed_comparisons(db, 1)
    say(db, judge, by_judge, FIRST_BETTER)
    assert training_data.new_to_train_on(db, "") == 2
    (tied,) = seed_comparisons(db, 1)
    say(db, judge, tied, FLIPPED)
    assert training_data.new_to_train_on(db, "") == 2, "what it contradicted itself on labels nothing"
    project_store.set_feedback(db, Feedback(mode="people"))
    assert training_data.new_to_train_on(db, "") == 1


def test_what_is_left_out_of_training_does_not_count_towards_the_next_training(db: Database, ann: Annotator) -> None:
    made = seed_comparisons(db, 3)
    while (claim := handing_out.claim_next(db, ann.id)) is not None:
        judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    assert training_data.new_to_train_on(db, "") == 3
    exclusions.decide_on(db, "ann", True, "guesses", "owner")
    assert training_data.new_to_train_on(db, "") == 0
    exclusions.decide_on(db, "ann", False, "", "owner")
    db.connection.execute("DROP TRIGGER judgement_no_update")
    db.connection.execute("UPDATE judgement SET flag = 'harmful' WHERE comparison_id = ?", (made[0],))
    db.connection.execute("UPDATE judgement SET early = 1 WHERE comparison_id = ?", (made[1],))
    assert training_data.new_to_train_on(db, "") == 1, (
        "what is flagged, or was judged before its answers ended, is left out"
    )


def test_where_people_have_judged_a_judge_does_not_vote(db: Database, ann: Annotator) -> None:
    (judge,) = panel(db, "j")
    (comparison,) = seed_comparisons(db, 1)
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    left = "left-much" if claim.shown_order[0] == 0 else "right-much"
    judging.judge(db, ann.id, claim.nonce, act(left))
    say(db, judge, comparison, SECOND_BETTER, "judged")
    (group,) = judgement_store.judged_comparisons(db)
    counted, reasons = people_first(group)
    assert ([one.annotator for one in counted], reasons) == (["ann"], ["judge"])
    frozen = PreferenceRows(judgement_store.judged_comparisons(db), 512)
    (row,) = list(frozen)
    assert (row.annotators, frozen.left_out) == (("ann",), {"judge": 1})


def test_what_judges_alone_have_said_is_not_left_out_as_if_somebody_had_left_them_out(db: Database) -> None:
    base = registry.ensure_base(db, BASE_NAME)
    (judge,) = panel(db, "j")
    project_store.set_feedback(db, MIXED)
    (comparison,) = seed_comparisons(db, 1)
    say(db, judge, comparison, FIRST_BETTER)
    project_store.set_feedback(db, Feedback(mode="people"))
    rows = snapshots.collect(db, base, "all", 512)
    assert (list(rows), rows.left_out) == ([], {"judge-alone": 1})
    assert "left out count again" not in snapshots.shortage("pairs", 0, 1, rows.left_out)


def test_a_change_back_to_people_hands_over_what_one_of_two_judges_has_judged(db: Database, ann: Annotator) -> None:
    project_store.set_feedback(db, MIXED)
    one, _ = panel(db, "one", "two")
    (comparison,) = seed_comparisons(db, 1)
    say(db, one, comparison, FIRST_BETTER)
    assert handing_out.claim_next(db, ann.id) is None
    project_store.set_feedback(db, Feedback(mode="people"))
    assert handing_out.claim_next(db, ann.id) is not None


def test_when_another_policy_comes_to_serve_nobody_is_asked_about_the_one_before(db: Database, ann: Annotator) -> None:
    duel(db, [("new", "old"), ("newer", "older")])
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 3, "revision": "dpo-2", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    decision_store.promote(db, "dpo-2", "owner")
    assert handing_out.claim_next(db, ann.id) is None
