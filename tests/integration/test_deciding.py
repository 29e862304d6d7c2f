"""The gate on rows: what was measured of a candidate, what follows, and what is recorded of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from annotation import access, claims, store
from annotation.database import Database
from annotation.measuring.analysis import Estimate
from annotation.records import Prompt, UserError
from rlhf import deciding, heldout, iteration, jobs, judges, loop, policies, winning
from rlhf.artifacts import directory_sha256
from rlhf.gate import JudgeFindings
from rlhf.policies import Policy
from rlhf.specs import DPOSpec, EvaluateSpec, PPOSpec, RewardModelSpec, SFTSpec, TrainingSpec, to_json
from rlhf.verdicts import Verdict
from tests.conftest import BASE_NAME, act, make_response, seed_prompts

SOUND = {"kl_to_base": 0.05, "nll_under_base": 1.2, "distinct_2": 0.8, "ended_share": 0.9, "perplexity": 14.0}


def make_candidate(
    db: Database, data_dir: Path, revision: str = "sft-1", number: int = 40, *, checked: bool = False
) -> Policy:
    """A candidate of a finished training, and its and the base's answers to as many held-out prompts.

    Its training may have asked to have it checked.
    """
    job_id = jobs.enqueue(db, SFTSpec(evaluate=checked), "ann")
    jobs.claim(db, job_id, "w")
    directory = data_dir / "adapters" / revision
    directory.mkdir(parents=True)
    (directory / "adapter.txt").write_text(revision)
    made = policies.add(
        db, revision=revision, method="sft", base=BASE_NAME, parent_id=1, job_id=job_id,
        path=f"adapters/{revision}", sha256=directory_sha256(directory),
    )  # fmt: skip
    jobs.finish(db, job_id, "w", {"revision": revision})
    for prompt in seed_prompts(db, number, "held-out")[-number:]:
        for model_id in (1, made.id):
            text = f"policy {model_id} answers {prompt.text}"
            store.add_response(db, make_response(prompt, text, model_id, seed=prompt.id), "evaluate")
    store.compare_policies(db, made.id, policies.serving(db).id)
    store.set_project(db, replace(store.project(db), candidate_share=0.5))
    return made


def finish_check(db: Database, data_dir: Path, policy: Policy, panel: str = "", **changed: Any) -> None:
    """A finished check of a policy against what serves now, as its worker leaves it."""
    job_id = loop.submit(db, data_dir, EvaluateSpec(candidate=policy.revision, judges=panel), "ann")
    jobs.claim(db, job_id, "w")
    serving = policies.serving(db).revision
    result = {
        "candidate": {"revision": policy.revision, **SOUND},
        "against": {"revision": serving, **SOUND},
        "base": {"revision": "base", **SOUND},
        "win_rates": {serving: {}},
        "same_answers": 0,
        "judged": {},
        "reward_hacking": None,
        "prompts": 40,
        **changed,
    }
    jobs.finish(db, job_id, "w", result)


def people_say(db: Database, count: int, side: str) -> None:
    """Annotators prefer one side's answers: 'candidate' or 'serving'."""
    row = access.find(db, "ann")
    ann = access.add_account(db, "ann", "annotator", "ann's password") if row is None else access.read_annotator(row)
    for _ in range(count):
        claim = claims.claim_next(db, ann.id)
        assert claim is not None
        first_is_candidate = claim.shown_order[0] == 0
        left = first_is_candidate == (side == "candidate")
        claims.judge(db, ann.id, claim.nonce, act("left-clearly" if left else "right-clearly"))


def test_people_promote_and_the_record_says_who_and_why(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    deciding.set_rule(db, {"mode": "automatic"})
    people_say(db, 5, "candidate")
    assert deciding.act(db, data_dir) is None
    pending = deciding.pending(db)
    assert pending is not None
    assert (pending.decision.verdict, pending.decision.more_by) == ("not enough evidence", None)
    people_say(db, 10, "candidate")
    assert iteration.advance(db, data_dir) is None, "deciding makes no job"
    assert policies.serving(db).revision == "sft-1"
    (record,) = policies.decisions(db)
    assert (record["action"], record["decided_by"]) == ("promote", "the gate")
    assert record["reason"].startswith("People find it better: it won 100% of 15")
    assert deciding.pending(db) is None


def test_people_reject_and_are_not_asked_about_it_any_more(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    deciding.set_rule(db, {"mode": "automatic"})
    people_say(db, 15, "serving")
    assert deciding.act(db, data_dir) is not None
    assert policies.by_revision(db, "sft-1").status == "rejected"
    assert policies.decisions(db)[0]["reason"].startswith("People find it worse")
    ann = access.find(db, "ann")
    assert ann is not None
    assert claims.claim_next(db, ann["id"]) is None


@pytest.mark.parametrize("mode", ["ask", "never"])
def test_the_gate_does_nothing_by_itself_unless_it_is_told_to(db: Database, data_dir: Path, mode: str) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    deciding.set_rule(db, {"mode": mode})
    people_say(db, 15, "candidate")
    assert iteration.advance(db, data_dir) is None
    assert policies.serving(db).revision == "base"
    pending = deciding.pending(db)
    assert pending is not None
    assert pending.decision.verdict == "promote"


def test_a_limit_stops_what_people_like_and_a_missing_figure_passes_nothing(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    people_say(db, 15, "candidate")
    finish_check(db, data_dir, made, candidate={"revision": "sft-1", **SOUND, "nll_under_base": 1.2 * 1.3})
    assert deciding.decision_on(db, made).verdict == "reject"
    missing = {name: value for name, value in SOUND.items() if name != "perplexity"}
    finish_check(db, data_dir, made, candidate={"revision": "sft-1", **missing})
    found = deciding.decision_on(db, made)
    assert found.verdict == "not enough evidence"
    assert "Perplexity" in found.sentence


def test_a_candidate_that_answers_like_what_serves_is_not_promoted(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made, same_answers=40)
    found = deciding.decision_on(db, made)
    assert found.verdict == "reject"
    assert "Different from what serves" in found.sentence


def test_a_check_against_what_served_before_counts_for_nothing(db: Database, data_dir: Path) -> None:
    first = make_candidate(db, data_dir)
    second = make_candidate(db, data_dir, "sft-2")
    finish_check(db, data_dir, second)
    people_say(db, 15, "candidate")
    loop.promote(db, data_dir, first.revision, "ann")
    assert deciding.pending(db) is None
    assert deciding.findings(db, second).people == ()
    assert deciding.findings(db, second).kl_per_token is None


def test_a_judge_decides_only_when_it_may_and_agrees_with_people(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    judge = judges.add(db, "j", "local", {"model": "base"}, "owner")
    for comparison in judges.to_judge(db, judge, "candidate", 100, made.id):
        for pair, choice in (((0, 1), "first"), ((1, 0), "second")):
            verdict = Verdict(choice, None, "", 0, 0, 0.0)  # type: ignore[arg-type]
            judges.add_verdict(db, judge, comparison.id, pair, verdict, 0, (), None)
        judges.judge_comparison(db, judge, comparison)
    controlled = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}
    rates = {"j": {"value": 1.0, "low": 0.9, "high": 1.0, "n": 40, "ties": 0, "length_controlled": controlled}}
    finish_check(db, data_dir, made, "j", win_rates={"base": rates})
    assert deciding.decision_on(db, made).verdict == "not enough evidence", "it may not decide"
    deciding.set_rule(db, {"judge_may_decide": True})
    found = deciding.decision_on(db, made)
    assert found.verdict == "not enough evidence", "nobody knows whether it speaks for people"
    assert "not been compared with people" in found.sentence
    agreeing_people(db, judge, 30)
    assert deciding.decision_on(db, made).verdict == "promote"


def agreeing_people(db: Database, judge: judges.Judge, count: int) -> None:
    """Comparisons on which a person and the judge say the same."""
    bob = access.add_account(db, "bob", "annotator", "bob's password")
    store.set_project(db, replace(store.project(db), candidate_share=0.0))
    for prompt in seed_prompts(db, count)[-count:]:
        made = store.add_comparison(db, [make_response(prompt, f"{word} to {prompt.text}") for word in ("yes", "no")])
        claim = claims.claim_next(db, bob.id)
        assert claim is not None
        assert claim.comparison_id == made
        left = claim.shown_order[0] == 0
        claims.judge(db, bob.id, claim.nonce, act("left-clearly" if left else "right-clearly"))
    for comparison in judges.to_judge(db, judge, "judged", count):
        for pair, choice in (((0, 1), "first"), ((1, 0), "second")):
            verdict = Verdict(choice, None, "", 0, 0, 0.0)  # type: ignore[arg-type]
            judges.add_verdict(db, judge, comparison.id, pair, verdict, 0, (), None)
        judges.judge_comparison(db, judge, comparison)


# -------------------------------------------------------------------------------------------------- held-out prompts
def test_the_held_out_set_stays_what_it_was_until_a_new_version_is_made(db: Database, data_dir: Path) -> None:
    with pytest.raises(UserError, match="no held-out prompt"):
        heldout.current(db, data_dir, 5)
    seed_prompts(db, 3, "held-out")
    first = heldout.current(db, data_dir, 5)
    seed_prompts(db, 4, "held-out")
    assert heldout.current(db, data_dir, 5) == first
    second = heldout.renew(db, data_dir, 5)
    assert (first.version, first.prompts, second.version, second.prompts) == (1, 3, 2, 5)
    assert heldout.renew(db, data_dir, 5) == second == heldout.current(db, data_dir, 5)
    assert [prompt.id for prompt in heldout.prompts_of(data_dir, first.sha256)] == [
        prompt.id for prompt in store.prompts(db, "held-out")[:3]
    ]
    path = data_dir / "snapshots" / f"{first.sha256}.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="was changed"):
        heldout.prompts_of(data_dir, first.sha256)


def test_training_on_a_held_out_prompt_is_found_by_its_content_through_the_lineage(
    db: Database, data_dir: Path
) -> None:
    """The example set's first question is held out as well, under another source."""
    from annotation.examples import read_example
    from rlhf.freezing import demonstrations, store_snapshot

    shown = next(row for row in read_example("medical-answers") if row.split == "train")
    store.add_prompts(db, [Prompt(shown.messages, "held-out", "import")])
    seed_prompts(db, 1, "held-out")
    prompts = heldout.prompts_of(data_dir, heldout.current(db, data_dir, 10).sha256)
    snapshot = store_snapshot(db, data_dir, demonstrations(db, "example:medical-answers"))
    job_id = jobs.enqueue(db, SFTSpec(snapshot=snapshot), "ann")
    child = jobs.enqueue(db, SFTSpec(), "ann")
    for number, parent in ((job_id, 1), (child, 2)):
        policies.add(
            db, revision=f"sft-{number}", method="sft", base=BASE_NAME, parent_id=parent, job_id=number, path="x",
            sha256="x",
        )  # fmt: skip
    # The second one's, as a reward model, scored what a policy on the base was trained on.
    scored = jobs.enqueue(db, PPOSpec(reward_model=f"sft-{child}"), "ann")
    policies.add(
        db, revision="ppo-1", method="ppo", base=BASE_NAME, parent_id=1, job_id=scored, path="x", sha256="x"
    )  # fmt: skip
    for revision in (f"sft-{job_id}", f"sft-{child}", "ppo-1"):
        found = heldout.trained_on(db, data_dir, policies.by_revision(db, revision), prompts)
        assert [prompt.text for prompt in found] == [shown.messages[-1]["content"]]
    assert heldout.trained_on(db, data_dir, policies.by_revision(db, "base"), prompts) == []


def test_when_all_has_been_compared_the_loop_draws_new_answers(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, number=12)
    finish_check(db, data_dir, made, prompts=24)
    deciding.set_rule(db, {"mode": "automatic"})
    people_say(db, 6, "candidate")
    pending = deciding.pending(db)
    assert pending is not None
    assert not pending.exhausted
    assert iteration.advance(db, data_dir) is None, "six are still before people"
    people_say(db, 6, "serving")
    job_id = iteration.advance(db, data_dir)
    assert job_id is not None
    spec = jobs.get(db, job_id).spec
    assert isinstance(spec, EvaluateSpec)
    assert (spec.candidate, spec.seed) == ("sft-1", EvaluateSpec.seed + iteration.SEEDS_APART)


@pytest.mark.parametrize(
    ("rise", "people", "expected"),
    [
        (0.5, (1.0,) * 4, False),
        (0.5, (1.0, 1.0, 0.0), "open"),
        (0.5, (0.0, 1.0), "open"),
        (0.5, (0.0,) * 4, True),
        (-0.1, (0.0,), False),
        (0.5, (), "open"),
        (None, (1.0,), None),
    ],
)
def test_a_reward_that_rises_while_nobody_finds_it_better_is_hacked(
    rise: float | None, people: tuple[float, ...], expected: bool | str | None
) -> None:
    assert deciding.hacking({"reward_hacking": {"rise": rise, "length": 0.1}}, people, ()) is expected
    assert deciding.hacking({"reward_hacking": None}, people, ()) is False
    assert deciding.hacking({}, people, ()) is None


def test_people_are_heard_on_hacking_first_then_the_judge_that_surely_agrees_with_them_most() -> None:
    hacked, better, worse = {"reward_hacking": {"rise": 0.5, "length": None}}, (1.0,) * 20, (0.0,) * 20
    best = JudgeFindings("best", worse, Estimate(0.8, 0.7, 0.9, 60))
    lucky = JudgeFindings("lucky", better, Estimate(0.9, 0.4, 1.0, 5))
    assert deciding.hacking(hacked, (), (lucky, best)) is True
    assert deciding.hacking(hacked, better, (lucky, best)) is False
    assert deciding.hacking(hacked, (), (replace(best, informs="It is asked for the reward."), lucky)) is False
    assert deciding.hacking(hacked, (), (replace(lucky, trust=None),)) == "open", "nobody knows for whom it speaks"


def judge_says(db: Database, judge: judges.Judge, policy: Policy) -> None:
    """A judge prefers every answer of a candidate."""
    for comparison in judges.to_judge(db, judge, "candidate", 1000, policy.id):
        for pair, choice in (((0, 1), "first"), ((1, 0), "second")):
            verdict = Verdict(choice, None, "", 0, 0, 0.0)  # type: ignore[arg-type]
            judges.add_verdict(db, judge, comparison.id, pair, verdict, 0, (), None)
        judges.judge_comparison(db, judge, comparison)


def test_neither_the_reward_model_that_ppo_maximised_nor_the_candidate_decides(db: Database, data_dir: Path) -> None:
    policies.add(
        db, revision="rm-1", method="reward_model", base=BASE_NAME, parent_id=1,
        job_id=jobs.enqueue(db, RewardModelSpec(), "a"), path="x", sha256="x", kind="reward",
    )  # fmt: skip
    made = make_candidate(db, data_dir)
    with db.transaction() as connection:  # as if PPO had made it
        spec = to_json(PPOSpec(reward_model="rm-1"))
        connection.execute("UPDATE job SET kind = 'ppo', spec = ? WHERE id = ?", (spec, made.job_id))
    panel = [
        judges.add(db, "reward", "reward-model", {"model": "rm-1"}, "owner"),
        judges.add(db, "itself", "local", {"model": made.revision}, "owner"),
        judges.add(db, "other", "local", {"model": "base"}, "owner"),
    ]
    for judge in panel:
        judge_says(db, judge, made)
    finish_check(db, data_dir, made, "reward, itself, other", reward_hacking={"rise": 1.0, "length": None})
    found = deciding.findings(db, made)
    assert {judge.name: judge.informs for judge in found.judges} == {
        "reward": "It is the reward model that the candidate was trained to please.",
        "itself": "It is the candidate itself.",
        "other": "",
    }
    assert found.reward_hacking == "open", "the other judge has not been compared with people"
    agreeing_people(db, panel[0], 30)
    deciding.set_rule(db, {"judge_may_decide": True})
    assert deciding.findings(db, made).reward_hacking == "open"
    assert deciding.decision_on(db, made).verdict == "not enough evidence"


def test_who_may_decide_is_settled_by_the_first_check(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    early, late = (judges.add(db, name, "local", {"model": "base"}, "owner") for name in ("early", "late"))
    finish_check(db, data_dir, made, "early")
    finish_check(db, data_dir, made, "early, late")
    for judge in (early, late):
        judge_says(db, judge, made)
    found = deciding.findings(db, made)
    assert [(judge.name, judge.informs) for judge in found.judges] == [("early", ""), ("late", deciding.LATER)]
    assert [judge.name for judge in found.panel] == ["early"]


def test_length_is_controlled_on_all_comparisons_and_not_on_the_newest_checks(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    judge = judges.add(db, "j", "local", {"model": "base"}, "owner")
    judge_says(db, judge, made)
    stale = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 12}
    rates = {"j": {"value": 1.0, "low": 0.9, "high": 1.0, "n": 40, "ties": 0, "length_controlled": stale}}
    finish_check(db, data_dir, made, "j", win_rates={"base": rates})
    (found,) = deciding.findings(db, made).judges
    assert found.length_controlled is not None
    assert found.length_controlled.n == len(found.outcomes) == 40
    assert found.length_controlled.value > 0.5


def test_after_the_most_checks_a_candidate_with_nothing_left_to_compare_is_rejected(
    db: Database, data_dir: Path
) -> None:
    made = make_candidate(db, data_dir, number=12)
    deciding.set_rule(db, {"mode": "automatic"})
    for _ in range(deciding.MOST_CHECKS):
        finish_check(db, data_dir, made, prompts=24)
    people_say(db, 6, "candidate")
    assert deciding.act(db, data_dir) is None, "six are still before people"
    people_say(db, 6, "serving")
    found = iteration.standing(iteration.state_of(db))
    assert found.now.startswith("Nothing is left to compare after 8 checks. Not enough evidence")
    assert found.then == "The gate will reject sft-1 within seconds."
    assert iteration.advance(db, data_dir) is None, "deciding makes no job"
    (record,) = policies.decisions(db)
    assert (record["action"], record["decided_by"]) == ("reject", "the gate")
    assert record["reason"] == found.now
    assert deciding.pending(db) is None


def test_a_judge_that_nobody_helps_ends_it_after_the_most_checks_too(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, number=12)
    judge = judges.add(db, "j", "local", {"model": "base"}, "owner")
    agreeing_people(db, judge, 30)
    deciding.set_rule(db, {"mode": "automatic", "judge_may_decide": True})
    judge_says(db, judge, made)
    said = {"j": {"judged": 12, "left_open": 0, "failed": {}, "gave_up": ""}}
    for number in range(1, deciding.MOST_CHECKS + 1):
        pending = deciding.pending(db)
        assert pending is None or pending.exhausted, number
        finish_check(db, data_dir, made, "j", prompts=24, judged=said)
    pending = deciding.pending(db)
    assert pending is not None
    assert pending.decision.verdict == "reject", "nobody has begun to compare it"


def test_what_was_decided_on_can_be_looked_at_afterwards(db: Database, data_dir: Path) -> None:
    first = make_candidate(db, data_dir)
    finish_check(db, data_dir, first)
    people_say(db, 15, "candidate")
    loop.promote(db, data_dir, first.revision, "ann")
    found, decision = deciding.decided(db, policies.by_revision(db, first.revision))
    assert (len(found.people), found.kl_per_token, decision.verdict) == (15, SOUND["kl_to_base"], "promote")
    loop.promote(db, data_dir, "base", "ann")
    retired = policies.by_revision(db, first.revision)
    assert policies.decided_against(db, retired) == policies.by_revision(db, "base")
    assert policies.decided_against(db, policies.by_revision(db, "base")) is None, "a rollback is no such decision"


# ------------------------------------------------------------------------------------------ what comes to nothing
def come_to_nothing(db: Database, job_id: int, status: str, seconds_ago: float = 0.0) -> None:
    """End a job as its worker or a person would, without a result."""
    if status == "cancelled":
        jobs.cancel(db, job_id)
    else:
        jobs.claim(db, job_id, "w")
        jobs.stop(db, job_id, "w", status, "Memory ran out.")
    let_pass(db, job_id, seconds_ago)


def let_pass(db: Database, job_id: int, seconds: float) -> None:
    """As if a job had ended so long ago."""
    ended = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="microseconds")
    with db.transaction() as connection:
        connection.execute("UPDATE job SET finished = ? WHERE id = ?", (ended, job_id))


@pytest.mark.parametrize("status", ["failed", "lost"])
def test_a_check_that_failed_is_tried_once_more_after_a_while_and_then_no_more(
    db: Database, data_dir: Path, status: str
) -> None:
    make_candidate(db, data_dir, checked=True)
    first = iteration.advance(db, data_dir)
    assert first is not None
    come_to_nothing(db, first, status)
    assert iteration.advance(db, data_dir) is None, "not at once"
    found = iteration.standing(iteration.state_of(db))
    assert found.stage == "checking"
    assert "The loop tries it once more" in found.troubles[0]
    let_pass(db, first, iteration.RETRY_SECONDS)
    second = iteration.advance(db, data_dir)
    assert second is not None
    assert jobs.get(db, second).spec == jobs.get(db, first).spec
    assert iteration.standing(iteration.state_of(db)).troubles == (), "it is being checked"
    come_to_nothing(db, second, status, iteration.RETRY_SECONDS)
    assert iteration.advance(db, data_dir) is None, "twice is enough"
    found = iteration.standing(iteration.state_of(db))
    assert found.stage == "collecting"
    (trouble,) = found.troubles
    assert trouble.startswith(f"Job {second} (check of sft-1) ")
    assert "Memory ran out. 2 tries came to nothing" in trouble


def test_a_check_that_a_person_cancelled_is_not_repeated_and_holds_up_no_other(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, checked=True)
    first = iteration.advance(db, data_dir)
    assert first is not None
    come_to_nothing(db, first, "cancelled", iteration.RETRY_SECONDS)
    assert iteration.advance(db, data_dir) is None
    (trouble,) = iteration.standing(iteration.state_of(db)).troubles
    assert "sft-1 waits: its check was cancelled" in trouble
    make_candidate(db, data_dir, "sft-2", checked=True)
    second = iteration.advance(db, data_dir)
    assert second is not None
    assert getattr(jobs.get(db, second).spec, "candidate", "") == "sft-2"
    come_to_nothing(db, second, "cancelled")
    finish_check(db, data_dir, made)
    found = iteration.standing(iteration.state_of(db))
    assert found.stage == "deciding", "a person had it checked"
    assert "sft-2 waits" in found.troubles[0]


def test_the_check_that_draws_new_answers_is_not_repeated_for_ever(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, number=12)
    finish_check(db, data_dir, made, prompts=24)
    deciding.set_rule(db, {"mode": "automatic"})
    people_say(db, 6, "candidate")
    people_say(db, 6, "serving")
    for _ in range(iteration.MOST_FAILURES):
        job_id = iteration.advance(db, data_dir)
        assert job_id is not None
        come_to_nothing(db, job_id, "failed", iteration.RETRY_SECONDS)
    assert iteration.advance(db, data_dir) is None
    found = iteration.standing(iteration.state_of(db))
    assert "2 tries came to nothing" in found.troubles[0]
    assert "has to be checked again" in found.then


def test_a_retry_asks_the_judges_that_were_chosen(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, checked=True)
    for name in ("i", "j"):
        judges.add(db, name, "local", {"model": "base"}, "owner")
    chosen = loop.submit(db, data_dir, EvaluateSpec(candidate=made.revision, judges="j"), "ann")
    come_to_nothing(db, chosen, "failed", iteration.RETRY_SECONDS)
    job_id = iteration.advance(db, data_dir)
    assert job_id is not None
    assert getattr(jobs.get(db, job_id).spec, "judges", "") == "j"


@pytest.mark.parametrize("status", ["failed", "lost", "cancelled"])
def test_a_training_that_came_to_nothing_is_named_until_the_next(db: Database, data_dir: Path, status: str) -> None:
    job_id = jobs.enqueue(db, DPOSpec(), "ann")
    come_to_nothing(db, job_id, status)
    (trouble,) = iteration.standing(iteration.state_of(db)).troubles
    assert trouble.startswith(f"Job {job_id} (preference training (DPO), QLoRA) {iteration.ENDINGS[status]}: ")
    assert trouble.endswith("resume it, or delete its checkpoints, on the Runs tab.")
    jobs.resume(db, job_id)
    assert iteration.standing(iteration.state_of(db)).troubles == ()


# ---------------------------------------------------------------------------------------------- reasons and figures
def test_a_persons_reason_stands_before_the_rules_advice(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    people_say(db, 15, "candidate")
    said = deciding.reason(db, made, "  I read twenty of them  ")
    assert said.startswith("I read twenty of them. The rule said: promote. People find it better")
    assert deciding.reason(db, made, "").startswith("The rule said: promote.")
    deciding.set_rule(db, {"mode": "never"})
    assert deciding.reason(db, made, "My own choice!") == "My own choice!", "nobody was advised"
    assert deciding.reason(db, policies.by_revision(db, "base"), "  ") == "no reason given"
    with pytest.raises(UserError, match="at most 1000"):
        deciding.reason(db, made, "x" * 1001)


def test_findings_are_kept_until_something_changes(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    people_say(db, 3, "candidate")
    found, decision = deciding.decided(db, made)
    again = deciding.decided(db, made)
    assert again[0] is found
    assert again[1] is decision is deciding.decision_on(db, made)
    people_say(db, 1, "candidate")
    assert len(deciding.decided(db, made)[0].people) == 4
    found = deciding.decided(db, made)[0]
    # A judge's evidence is that of the rubric that holds.
    judges.write_rubric(db, "Which answer is shorter?", ["It is short."], 0, "ann")
    assert deciding.decided(db, made)[0] is not found


def test_people_and_what_was_judged_are_counted_once_whatever_the_scope(db: Database, data_dir: Path) -> None:
    ann = access.add_account(db, "ann", "annotator", "ann's password")

    def judge(count: int) -> None:
        for prompt in seed_prompts(db, count)[-count:]:
            store.add_comparison(db, [make_response(prompt, f"{word} to {prompt.text}") for word in ("yes", "no")])
            claim = claims.claim_next(db, ann.id)
            assert claim is not None
            claims.judge(db, ann.id, claim.nonce, act("left-clearly"))

    def train(spec: TrainingSpec, parent: str, kind: Any = "policy") -> Policy:
        job_id = loop.submit(db, data_dir, replace(spec, parent=parent), "ann")
        jobs.claim(db, job_id, "w")
        jobs.finish(db, job_id, "w", {})
        return policies.add(
            db, revision=f"{spec.kind}-{job_id}", method=spec.kind, base=BASE_NAME, job_id=job_id, path="x", kind=kind,
            parent_id=policies.by_revision(db, parent).id, sha256="x",
        )  # fmt: skip

    base = policies.by_revision(db, "base")
    judge(10)
    first = train(DPOSpec(scope="new"), "base")
    judge(9)
    second, whole = train(DPOSpec(scope="new"), first.revision), train(DPOSpec(scope="all"), first.revision)
    assert [winning.judged_for(db, one) for one in (base, first, second, whole)] == [0, 10, 19, 19]
    judge(2)
    reward = train(RewardModelSpec(scope="all"), "base", "reward")
    by_ppo = train(PPOSpec(reward_model=reward.revision, accepted_accuracy=0.01), first.revision)
    assert winning.judged_for(db, by_ppo) == 21


def test_people_rate_a_policy_against_the_base(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    base = policies.by_revision(db, "base")
    assert winning.by_people(db, made, base) is None
    people_say(db, 6, "candidate")
    people_say(db, 2, "serving")
    found = winning.by_people(db, made, base)
    assert found is not None
    assert (found.value, found.n) == (0.75, 8)
    assert found.low < 0.5 < 0.75 < found.high
