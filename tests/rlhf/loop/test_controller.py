"""The iteration: what comes next by itself, where it stands, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.jobs import job_table
from annotation.records import Annotator
from annotation.store.comparison_store import add_comparison
from annotation.web import access
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.data.snapshots import MIN_PAIRS
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions.candidate_decision import PendingDecision
from rlhf.evaluation.gate import Ruling, decide
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec
from rlhf.jobs.job_store import Job
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.kinds import KINDS
from rlhf.loop.controller import (
    AutomaticTraining,
    FailedCheck,
    LoopState,
    Step,
    automatic_problems,
    automatic_spec,
    failed_lately,
    next_step,
    save_automatic_training,
    state_of,
)
from rlhf.models import decision_store, registry
from rlhf.submission import preconditions
from rlhf.tabs.iterations.loop_status import loop_status
from tests.annotation.claims.people import in_hand
from tests.builders import job, policy
from tests.conftest import BASE_NAME, act, make_response, seed_comparisons, seed_prompts
from tests.rlhf.evaluation.test_gate import ASKED, BETTER, DECIDED
from tests.rlhf.evaluation.test_gate import found as findings

QUIET = LoopState(
    auto_train=AutomaticTraining(on=False, every=20, algorithm="dpo"),
    new=0,
    active=(),
    unchecked=None,
    waiting={},
    pending=None,
    gate="ask",
)
ON = AutomaticTraining(on=True, every=20, algorithm="dpo")
PPO = replace(ON, algorithm="ppo")


def candidate(verdict: Ruling) -> PendingDecision:
    """A candidate with a decision."""
    return PendingDecision(policy(), DECIDED[verdict])


def exhausted() -> PendingDecision:
    """A candidate of which everything has been compared, without enough evidence."""
    return replace(candidate("not enough evidence"), exhausted=True)


def used_up() -> PendingDecision:
    """One of which no check would show more, and people have not compared all."""
    return replace(exhausted(), askable=True, used_up=True)


def unheard() -> PendingDecision:
    """One of which people have skipped all there is."""
    waits = candidate("not enough evidence")
    return replace(waits, used_up=True, decision=replace(waits.decision, unheard=True))


def unmeasured() -> PendingDecision:
    """One that people find better, of which a figure is missing."""
    return replace(candidate("promote"), decision=decide(ASKED, findings(BETTER, kl_per_token=None)))


def job_of(spec: JobSpec, status: str = "running") -> Job:
    """A job that waits or runs."""
    return job(id=9, kind=spec.kind, spec=spec, status=status)


def tried(status: str, failures: int, rested: bool = True) -> dict[str, FailedCheck]:
    """A check of dpo-7 that came to nothing."""
    check = replace(job_of(CheckSpec(candidate="dpo-7"), status), message="Memory ran out.")
    return {"dpo-7": FailedCheck(check, failures, rested)}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, None),
        ({"new": 1000}, None),
        ({"auto_train": ON, "new": 19}, None),
        ({"auto_train": ON, "new": 20}, Step("train")),
        ({"auto_train": ON, "new": 100, "active": (job_of(DPOSpec()),)}, None),
        ({"auto_train": ON, "new": 100, "unchecked": "dpo-3"}, Step("check", "dpo-3")),
        ({"unchecked": "dpo-3"}, Step("check", "dpo-3")),
        ({"unchecked": "dpo-3", "measurable": False}, None),
        ({"unchecked": "dpo-3", "active": (job_of(DPOSpec()),)}, None),
        # a check that came to nothing
        ({"unchecked": "dpo-7", "failed_checks": tried("failed", 1)}, Step("check", "dpo-7")),
        ({"unchecked": "dpo-7", "failed_checks": tried("lost", 1)}, Step("check", "dpo-7")),
        ({"unchecked": "dpo-7", "failed_checks": tried("failed", 1, rested=False)}, None),
        ({"unchecked": "dpo-7", "failed_checks": tried("failed", 2)}, None),
        ({"unchecked": "dpo-7", "failed_checks": tried("cancelled", 0)}, None),
        ({"unchecked": "dpo-7", "failed_checks": tried("cancelled", 0), "auto_train": ON, "new": 20}, Step("train")),
        (
            {"unchecked": "dpo-7", "failed_checks": tried("failed", 1, rested=False), "auto_train": ON, "new": 20}
            | {"gate": "automatic"},
            None,
        ),
        ({"auto_train": replace(ON, every=1), "new": MIN_PAIRS - 1}, None),
        ({"auto_train": replace(ON, every=1), "new": MIN_PAIRS}, Step("train")),
        # judges
        ({"waiting": {"j": 7}}, None),
        ({"waiting": {"i": 7, "j": 8}}, Step("judge", "j")),
        ({"waiting": {"j": 8}, "auto_train": ON, "new": 39}, Step("judge", "j")),
        ({"waiting": {"j": 8}, "auto_train": ON, "new": 40}, Step("train")),  # no labels that nothing will use
        ({"waiting": {"j": 8}, "new": 4000}, Step("judge", "j")),  # people train when they want to
        ({"waiting": {"j": 8}, "auto_train": ON, "new": 60, "spent": 50}, Step("judge", "j")),  # else nothing goes on
        ({"unchecked": "dpo-7", "measurable": False, "auto_train": ON, "new": 20, "gate": "automatic"}, Step("train")),
        (
            {"waiting": {"j": 8}, "auto_train": ON, "new": 40, "pending": candidate("not enough evidence")}
            | {"gate": "automatic"},
            None,
        ),
        ({"waiting": {"j": 8}, "unchecked": "dpo-3"}, Step("check", "dpo-3")),
        # the gate
        ({"pending": candidate("promote")}, None),
        ({"pending": candidate("promote"), "gate": "automatic"}, Step("decide", "dpo-7")),
        ({"pending": candidate("reject"), "gate": "automatic"}, Step("decide", "dpo-7")),
        ({"pending": candidate("promote"), "gate": "never"}, None),
        ({"pending": candidate("not enough evidence"), "gate": "automatic"}, None),
        ({"pending": exhausted(), "gate": "automatic"}, Step("check", "dpo-7")),
        ({"pending": exhausted(), "gate": "automatic", "failed_checks": tried("failed", 2)}, None),
        ({"pending": exhausted(), "gate": "automatic", "failed_checks": tried("cancelled", 0)}, None),
        ({"pending": exhausted(), "gate": "ask"}, None),
        ({"pending": replace(exhausted(), askable=True), "gate": "automatic"}, Step("check", "dpo-7")),
        ({"pending": used_up(), "gate": "automatic"}, Step("ask", "dpo-7")),
        ({"pending": used_up(), "gate": "automatic", "failed_checks": tried("failed", 2)}, Step("ask", "dpo-7")),
        ({"pending": used_up(), "gate": "ask"}, None),
        ({"pending": candidate("not enough evidence"), "gate": "automatic", "auto_train": ON, "new": 50}, None),
        ({"pending": candidate("not enough evidence"), "gate": "ask", "auto_train": ON, "new": 50}, Step("train")),
        ({"pending": unheard(), "gate": "automatic"}, None),
        ({"pending": unheard(), "gate": "automatic", "auto_train": ON, "new": 50}, Step("train")),
        # reward model and PPO
        ({"auto_train": PPO, "new": 20}, Step("train first")),
        ({"auto_train": PPO, "new": 20, "needed_tried": True}, None),
        ({"auto_train": PPO, "new": 20, "needed_model": "rm-4", "needed_tried": True}, Step("train", "rm-4")),
        ({"auto_train": ON, "new": 20, "needed_model": "rm-4"}, Step("train")),
    ],
)
def test_the_next_step(changed: dict[str, Any], expected: Step | None) -> None:
    assert next_step(replace(QUIET, **changed)) == expected


@dataclass(frozen=True)
class TaughtSpec(DPOSpec):
    """An algorithm whose policy learns from another policy's answers."""

    kind: ClassVar = "taught"
    lists: ClassVar = {"teacher": "policy"}
    teacher: str = ""


@dataclass(frozen=True)
class ScoredSpec(TaughtSpec):
    """One that a reward model scores besides."""

    kind: ClassVar = "scored"
    lists: ClassVar = {"teacher": "policy", "reward_model": "reward-model"}
    reward_model: str = ""


def test_what_a_training_names_is_a_model_of_the_kind_that_it_lists(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.ensure_base(db, BASE_NAME)
    for spec_type in (TaughtSpec, ScoredSpec):
        monkeypatch.setitem(KINDS, spec_type.kind, spec_type)
    taught = replace(QUIET, auto_train=replace(ON, algorithm="taught"), new=20)
    assert next_step(taught) == Step("train"), "the policy that serves can teach at once"
    made = automatic_spec(db, Step("train"), TaughtSpec)
    assert isinstance(made, TaughtSpec)
    assert made.teacher == "base"
    assert made.trained_first() is None
    scored = replace(taught, auto_train=replace(ON, algorithm="scored"))
    assert next_step(scored) == Step("train first")
    assert automatic_spec(db, Step("train first"), ScoredSpec).makes == "reward-model"
    assert next_step(replace(scored, needed_model="rm-4")) == Step("train", "rm-4")
    made = automatic_spec(db, Step("train", "rm-4"), ScoredSpec)
    assert isinstance(made, ScoredSpec)
    assert (made.teacher, made.reward_model) == ("base", "rm-4")


@pytest.mark.parametrize(
    ("changed", "stage", "said"),
    [
        ({"auto_train": replace(ON, every=100), "new": 37}, "collecting", ("37 of 100", "After 63 more")),
        ({"new": 37}, "collecting", ("Collecting new judgements: 37; 20 are enough.", "training is off")),
        ({"auto_train": PPO, "new": 25}, "collecting", ("a reward model, then PPO",)),
        ({"active": (job_of(DPOSpec()),)}, "training", ("Job 9 trains", "its candidate is checked")),
        ({"active": (job_of(CheckSpec(candidate="dpo-7")),)}, "checking", ("checks dpo-7", "the rule advises")),
        (
            {"active": (job_of(CheckSpec(candidate="dpo-7")),), "gate": "automatic"},
            "checking",
            ("checks dpo-7", "the gate decides"),
        ),
        ({"active": (job_of(CheckSpec(candidate="dpo-7")),), "gate": "never"}, "checking", ("nobody is advised",)),
        ({"active": (job_of(CheckSpec(candidate="dpo-7"), "queued"),)}, "checking", ("Job 9 waits to check dpo-7",)),
        ({"active": (job_of(DPOSpec(), "queued"),)}, "training", ("Job 9 waits to train.",)),
        ({"active": (job_of(DPOSpec(check=False)),)}, "training", ("Its candidate is not checked by itself.",)),
        ({"active": (job_of(RewardModelSpec()),)}, "training", ("It makes a reward model, which never serves.",)),
        ({"active": (job_of(JudgeSpec(judge="j"), "queued"),)}, "collecting", ("The judge j waits to judge",)),
        (
            {"active": (job_of(MergeSpec(revision="dpo-3")),), "unchecked": "dpo-7"},
            "checking",
            ("The check starts after job 9 (merging dpo-3).",),
        ),
        ({"active": (job_of(JudgeSpec(judge="j")),)}, "collecting", ("The judge j judges",)),
        ({"unchecked": "dpo-7"}, "checking", ("dpo-7 is to be checked",)),
        ({"pending": candidate("promote")}, "deciding", ("dpo-7 waits for your decision.",)),
        ({"pending": candidate("reject"), "gate": "automatic"}, "deciding", ("The gate will reject dpo-7",)),
        (
            {"pending": candidate("not enough evidence"), "gate": "automatic", "auto_train": ON},
            "deciding",
            ("People compare dpo-7", "The next training waits"),
        ),
        (
            {"pending": candidate("not enough evidence"), "gate": "automatic", "auto_train": ON, "given": False},
            "deciding",
            ("dpo-7 waits for comparisons that people are not given. The next training waits for it.",),
        ),
        (
            {"pending": exhausted(), "gate": "automatic"},
            "deciding",
            ("dpo-7 is checked again", "starts within seconds"),
        ),
        (
            {"pending": candidate("promote"), "gate": "automatic", "active": (job_of(MergeSpec(revision="dpo-3")),)},
            "deciding",
            ("The gate will promote dpo-7 as soon as no job runs or waits.",),
        ),
        (
            {"pending": candidate("reject"), "gate": "automatic", "active": (job_of(MergeSpec(revision="dpo-3")),)},
            "deciding",
            ("The gate will reject dpo-7 as soon as no job runs or waits.",),
        ),
        (
            {"pending": used_up(), "gate": "automatic", "active": (job_of(MergeSpec(revision="dpo-3")),)},
            "deciding",
            ("People are given what they were not asked about as soon as no job runs or waits.",),
        ),
        (
            {"active": (job_of(MergeSpec(revision="dpo-3")), job_of(DPOSpec(), "queued")), "unchecked": "dpo-7"},
            "checking",
            ("The check starts as soon as no job runs or waits.",),
        ),
        (
            {"unchecked": "dpo-7", "measurable": False},
            "checking",
            ("The check waits: there is no held-out prompt. Import some on the Data tab.",),
        ),
        (
            {"pending": used_up(), "gate": "automatic"},
            "deciding",
            ("People are given what they were not asked about.",),
        ),
        ({"pending": used_up()}, "deciding", ("let them compare what they were not asked about.",)),
        (
            {"pending": unheard(), "gate": "automatic"},
            "deciding",
            ("dpo-7 stays a candidate:",),
        ),
        (
            {"pending": candidate("not enough evidence"), "gate": "automatic", "auto_train": ON, "new": 40}
            | {"waiting": {"j": 8}},
            "deciding",
            ("Judges label no more until the next training: 40 judgements wait for it already.",),
        ),
        (
            {"pending": unmeasured(), "gate": "automatic", "auto_train": ON},
            "deciding",
            ("dpo-7 waits for what was not measured: check it again. The next training waits for it.",),
        ),
        ({"pending": candidate("promote"), "gate": "never"}, "deciding", ("nobody is advised",)),
        ({"unchecked": "dpo-7", "failed_checks": tried("failed", 1, False)}, "checking", ("starts within 5 minutes",)),
        ({"unchecked": "dpo-7", "failed_checks": tried("failed", 2)}, "collecting", ("Collecting",)),
        (
            {"pending": exhausted(), "gate": "automatic", "failed_checks": tried("cancelled", 0)},
            "deciding",
            ("dpo-7 has to be checked again",),
        ),
        (
            {"pending": replace(exhausted(), askable=True), "gate": "automatic"}
            | {"failed_checks": tried("cancelled", 0)},
            "deciding",
            ("let them compare what they were not asked about, or check dpo-7 again",),
        ),
    ],
)
def test_where_it_stands_and_what_comes_next(changed: dict[str, Any], stage: str, said: tuple[str, ...]) -> None:
    found = loop_status(replace(QUIET, **changed))
    assert found.stage == stage
    assert all(words in f"{found.now} {found.then}" for words in said), found


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ()),
        (
            {
                "broken": (replace(job_of(DPOSpec(method="qlora"), "failed"), message="The disk is full."),),
                "saved": frozenset({9}),
            },
            (
                "Job 9 (preference training (DPO), QLoRA) failed: The disk is full. The loop does not repeat "
                "it: resume it, or delete its checkpoints, on the Runs tab.",
            ),
        ),
        (
            {"broken": (job_of(DPOSpec(method="qlora"), "lost"),)},
            (
                "Job 9 (preference training (DPO), QLoRA) was lost. The loop does not repeat it: resume it on the "
                "Runs tab.",
            ),
        ),
        (
            {"broken": (tried("failed", 1)["dpo-7"].job,)},
            ("Job 9 (check of dpo-7) failed: Memory ran out. The loop does not repeat it: check dpo-7 again below.",),
        ),
        (
            {"unchecked": "dpo-7", "failed_checks": tried("failed", 1), "broken": (tried("failed", 1)["dpo-7"].job,)},
            ("Job 9 (check of dpo-7) failed: Memory ran out. The loop tries it once more, 5 minutes after that.",),
        ),
        (
            {"unchecked": "dpo-7", "failed_checks": tried("lost", 2)},
            (
                "Job 9 (check of dpo-7) was lost: Memory ran out. 2 tries came to nothing, so the loop makes no "
                "further one. Check dpo-7 again below, or reject it.",
            ),
        ),
        (
            {"unchecked": "dpo-7", "failed_checks": tried("cancelled", 0)},
            (
                "dpo-7 waits: its check was cancelled (job 9), so the loop does not repeat it. Check dpo-7 again "
                "below, or reject it.",
            ),
        ),
        ({"pending": exhausted(), "gate": "ask", "failed_checks": tried("failed", 1)}, ()),
    ],
)
def test_what_went_wrong_is_named_with_what_follows(changed: dict[str, Any], said: tuple[str, ...]) -> None:
    assert loop_status(replace(QUIET, **changed)).problems == said


def test_judges_that_go_on_are_not_said_to_rest() -> None:
    state = replace(QUIET, auto_train=ON, new=39, waiting={"j": 8})
    for changed in ({}, {"new": 40, "waiting": {"j": 7}}, {"new": 40, "auto_train": QUIET.auto_train}):
        assert "label no more" not in loop_status(replace(state, **changed)).then


def test_who_is_not_to_be_advised_is_not_told_what_the_rule_makes_of_it() -> None:
    found = loop_status(replace(QUIET, pending=candidate("promote"), gate="never"))
    assert "promote" not in f"{found.now} {found.then}"
    assert "better" not in f"{found.now} {found.then}"


def test_a_training_that_is_due_and_cannot_start_is_not_promised() -> None:
    state = replace(QUIET, auto_train=ON, new=25)
    assert loop_status(state).then == "A training is due: DPO."
    assert loop_status(state, ["Too few."]).then == "A training is due (DPO), but none can start. Too few."
    assert loop_status(replace(state, new=5), ["Too few."]).then == "After 15 more a training starts: DPO."


def judge(db: Database, annotator: Annotator, count: int) -> None:
    """Have somebody judge so many new comparisons."""
    seed_comparisons(db, count)
    for _ in range(count):
        claim = handing_out.claim_next(db, annotator.id)
        assert claim is not None
        judging.judge(db, annotator.id, claim.nonce, act("left-clearly"))


@pytest.mark.parametrize("status", ["failed", "lost", "cancelled"])
def test_what_a_training_that_came_to_nothing_was_to_learn_from_is_still_to_be_learnt_from(
    db: Database, data_dir: Path, status: str
) -> None:
    """And starts no other by itself: that would come to nothing again."""
    save_automatic_training(db, ON)
    ann = access.add_account(db, "ann", "annotator", "ann's password")
    judge(db, ann, 12)
    assert state_of(db).new == 12
    number = job_store.enqueue(db, DPOSpec(snapshot="0" * 64), "owner")
    assert state_of(db).new == 0, "it waits, and will learn from them"
    db.connection.execute("UPDATE job SET status = ? WHERE id = ?", (status, number))
    judge(db, ann, 10)
    state = state_of(db)
    assert (state.new, state.spent) == (22, 12)
    assert next_step(state) is None
    assert loop_status(state).then == "After 10 more a training starts: DPO."
    judge(db, ann, 10)
    assert next_step(state_of(db)) == Step("train")
    db.connection.execute("UPDATE job SET status = 'finished' WHERE id = ?", (number,))
    assert (state_of(db).new, state_of(db).spent) == (20, 0)


def test_too_few_prompts_are_said_to_be_too_few_until_more_are_imported(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a training learns from may grow without a judgement."""
    save_automatic_training(db, replace(PPO, every=8))
    monkeypatch.setattr(preconditions, "check", lambda *_: [])  # a reward model's accuracy, which nobody measured
    registry.add(
        db, revision="rm-1", algorithm="reward_model", base=BASE_NAME, parent_id=1,
        job_id=job_store.enqueue(db, RewardModelSpec(), "a"), path="x", sha256="x", kind="reward-model",
    )  # fmt: skip
    db.connection.execute("UPDATE job SET status = 'finished'")
    ann = access.add_account(db, "ann", "annotator", "ann's password")
    (prompt,) = seed_prompts(db, 1)
    for number in range(9):
        add_comparison(db, [make_response(prompt, f"{word} {number}") for word in ("yes", "no")])
        judging.judge(db, ann.id, in_hand(db, ann).nonce, act("left-clearly"))
    (few,) = automatic_problems(db)
    assert few.endswith("It takes at least 4. Import prompts on the Data tab.")
    seed_prompts(db, 6)
    assert automatic_problems(db) == []


def test_what_ended_before_the_clock_was_set_back_waits_no_longer_for_another_try(db: Database) -> None:
    number = job_store.enqueue(db, JudgeSpec(judge="kim"), "the loop")
    assert job_store.claim(db, number, "w") is not None
    assert job_table.stop(db, number, "w", "failed", "It was away.")
    assert failed_lately(job_store.get(db, number))
    db.connection.execute("UPDATE job SET finished = ? WHERE id = ?", (job_table.seconds_from_now(3600), number))
    assert not failed_lately(job_store.get(db, number))


def test_a_training_that_was_killed_when_its_model_was_stored_is_to_be_resumed(db: Database, data_dir: Path) -> None:
    """Its checkpoints are gone then, and nothing but resuming it has its candidate checked."""
    number = job_store.enqueue(db, DPOSpec(snapshot="0" * 64), "owner")
    assert job_store.claim(db, number, "w") is not None
    assert job_table.report(db, number, "w", 9, 9, {}, "")
    made = registry.add(
        db,
        revision="dpo-1",
        algorithm="dpo",
        base=BASE_NAME,
        parent_id=1,
        job_id=number,
        path="adapters/dpo-1",
        sha256="0" * 64,
    )
    assert job_table.stop(db, number, "w", "lost", "The worker died.")
    assert [one.id for one in state_of(db).broken] == [number]
    decision_store.mark_deleted(db, made, "owner")
    assert state_of(db).broken == (), "a person is done with it"


@pytest.mark.parametrize(
    ("status", "step", "left", "told"),
    [
        ("failed", 0, "", True),
        ("lost", 5, "job-1", True),
        ("failed", 5, "job-1/checkpoint-5", True),
        ("failed", 5, "", False),
        ("cancelled", 5, "job-1/checkpoint-5", False),
    ],
)
def test_a_training_that_a_person_is_done_with_is_no_trouble(
    db: Database, data_dir: Path, status: str, step: int, left: str, told: bool
) -> None:
    """Whoever cancelled it, or deleted its checkpoints, needs not be told of it until the next training."""
    number = job_store.enqueue(db, DPOSpec(snapshot="0" * 64), "owner")
    assert job_store.claim(db, number, "w") is not None
    assert job_table.report(db, number, "w", step, 9, {}, "")
    db.connection.execute("UPDATE job SET status = ? WHERE id = ?", (status, number))
    if left:
        (data_dir / "checkpoints" / left).mkdir(parents=True)
    state = state_of(db)
    assert [one.id for one in state.broken] == [number] * told
    assert state.saved == ({number} if told and "checkpoint-" in left else set())
