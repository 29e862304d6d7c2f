"""The gate on rows: what was measured of a candidate, what follows, and what is recorded of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from gettext import NullTranslations
from pathlib import Path
from random import Random
from typing import Any

import pytest

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.jobs import job_table
from annotation.metrics.evidence import DecidedOutcome
from annotation.records import Prompt, UserError
from annotation.store import answer_changes, comparison_store, policy_comparisons, project_store, prompt_store
from annotation.tabs.guard import Context
from annotation.translation import FIELD, Language, chosen, speaking
from annotation.web import access
from annotation.workbench import exclusions
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data import held_out_sets, snapshots
from rlhf.evaluation import gate_words, pair_outcomes, rule_store, win_rates
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import (
    asking_people,
    candidate_decision,
    candidate_findings,
    check_status,
    decision_cache,
    gate_acts,
    judge_findings,
    peoples_decisions,
)
from rlhf.evaluation.finished_checks import FinishedCheck
from rlhf.evaluation.gate import corrected_by_judges
from rlhf.evaluation.report import CheckReport
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.job_spec import TrainingSpec, to_json
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.verdicts import Verdict
from rlhf.loop import controller
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy
from rlhf.submission import job_submission
from rlhf.tabs.iterations import iterations_tab, loop_status
from tests.conftest import BASE_NAME, act, make_response, seed_comparisons, seed_prompts

pytestmark = pytest.mark.slow

PROBED = {"asked": "a", "precision": "bf16", "chances": {"knowledge": [0.9, 0.7], "refusals": [1.0, 0.9]}}
SOUND = {
    "kl_to_anchor": 0.05, "nll_under_anchor": 1.2, "distinct_2": 0.8, "ended_share": 0.9, "perplexity": 14.0,
    "probes": PROBED,
}  # fmt: skip


def make_candidate(
    db: Database,
    data_dir: Path,
    revision: str = "sft-1",
    number: int = 40,
    *,
    checked: bool = False,
    share: float = 1.0,
) -> Policy:
    """A candidate of a finished training, and its and the base's answers to as many held-out prompts.

    Its training may have asked to have it checked.
    """
    job_id = job_store.enqueue(db, SFTSpec(check=checked), "ann")
    job_store.claim(db, job_id, "w")
    directory = data_dir / "adapters" / revision
    directory.mkdir(parents=True)
    (directory / "adapter.txt").write_text(revision)
    made = registry.add(
        db, revision=revision, algorithm="sft", base=BASE_NAME, parent_id=1, job_id=job_id,
        path=f"adapters/{revision}", sha256=directory_sha256(directory),
    )  # fmt: skip
    job_table.finish(db, job_id, "w", {"revision": revision})
    for prompt in seed_prompts(db, number, "held-out")[-number:]:
        for model_id in (1, made.id):
            text = f"policy {model_id} answers {prompt.text}"
            comparison_store.add_response(db, make_response(prompt, text, model_id, seed=prompt.id), "check")
    policy_comparisons.compare_policies(db, made.id, registry.serving(db).id, share=share)
    project_store.set_project(db, replace(project_store.project(db), candidate_share=0.5))
    return made


def finish_check(db: Database, data_dir: Path, policy: Policy, panel: str = "", **changed: Any) -> None:
    """A finished check of a policy against what serves now, as its worker leaves it."""
    finish_job(
        db, job_submission.submit(db, data_dir, CheckSpec(candidate=policy.revision, judges=panel), "ann"), **changed
    )


def finish_job(db: Database, job_id: int, **changed: Any) -> None:
    """End a check well that waits, as its worker does; `changed` is what it measured otherwise."""
    job = job_store.claim(db, job_id, "w")
    assert job is not None
    assert isinstance(job.spec, CheckSpec)
    serving = registry.serving(db).revision
    result = {
        "candidate": {"revision": job.spec.candidate, **SOUND},
        "against": {"revision": serving, **SOUND},
        "anchor": {"revision": "base", **SOUND},
        "win_rates": {serving: {}},
        "same_answers": 0,
        "judged": {},
        "reward_hacking": None,
        "prompts": 60,
        **changed,
    }
    job_table.finish(db, job_id, "w", result)


def people_say(db: Database, count: int, side: str) -> None:
    """Annotators prefer one side's answers: 'candidate' or 'serving'."""
    known = access.find(db, "ann")
    ann = access.add_account(db, "ann", "annotator", "ann's password") if known is None else known.annotator
    for _ in range(count):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        first_is_candidate = claim.shown_order[0] == 0
        left = first_is_candidate == (side == "candidate")
        judging.judge(db, ann.id, claim.nonce, act("left-clearly" if left else "right-clearly"))


def test_people_promote_and_the_record_says_who_and_why(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    rule_store.set_rule(db, {"mode": "automatic"})
    people_say(db, 5, "candidate")
    assert gate_acts.act(db, data_dir) is None
    pending = candidate_decision.pending(db)
    assert pending is not None
    assert (pending.decision.says, pending.decision.more_by) == ("not enough evidence", None)
    people_say(db, 10, "candidate")
    assert controller.advance(db, data_dir) is None, "deciding makes no job"
    assert registry.serving(db).revision == "sft-1"
    (record,) = decision_store.decisions(db)
    assert (record.action, record.decided_by) == ("promote", "the gate")
    assert record.reason.startswith("People find it better: it won 100% on 15 prompts")
    assert candidate_decision.pending(db) is None


def test_people_reject_and_are_not_asked_about_it_any_more(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    rule_store.set_rule(db, {"mode": "automatic"})
    people_say(db, 15, "serving")
    assert gate_acts.act(db, data_dir) is not None
    assert registry.by_revision(db, "sft-1").status == "rejected"
    assert decision_store.decisions(db)[0].reason.startswith("People find it worse")
    ann = access.find(db, "ann")
    assert ann is not None
    assert handing_out.claim_next(db, ann.id) is None


@pytest.mark.parametrize("mode", ["ask", "never"])
def test_the_gate_does_nothing_by_itself_unless_it_is_told_to(db: Database, data_dir: Path, mode: str) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    rule_store.set_rule(db, {"mode": mode})
    people_say(db, 15, "candidate")
    assert controller.advance(db, data_dir) is None
    assert registry.serving(db).revision == "base"
    pending = candidate_decision.pending(db)
    assert pending is not None
    assert pending.decision.says == "promote"


def test_a_limit_stops_what_people_like_and_a_missing_figure_passes_nothing(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    people_say(db, 15, "candidate")
    finish_check(db, data_dir, made, candidate={"revision": "sft-1", **SOUND, "nll_under_anchor": 1.2 * 1.3})
    assert candidate_decision.decision_on(db, made).says == "reject"
    missing = {name: value for name, value in SOUND.items() if name != "perplexity"}
    finish_check(db, data_dir, made, candidate={"revision": "sft-1", **missing})
    found = candidate_decision.decision_on(db, made)
    assert found.says == "not enough evidence"
    assert "Perplexity" in gate_words.sentence(found)


def test_a_candidate_that_answers_like_what_serves_is_not_promoted(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made, same_answers=60)
    found = candidate_decision.decision_on(db, made)
    assert (found.says, found.reason) == ("reject", "same")


def test_a_check_against_what_served_before_counts_for_nothing(db: Database, data_dir: Path) -> None:
    first = make_candidate(db, data_dir)
    second = make_candidate(db, data_dir, "sft-2")
    finish_check(db, data_dir, second)
    people_say(db, 15, "candidate")
    decision_store.promote(db, first.revision, "ann")
    assert candidate_decision.pending(db) is None
    assert candidate_findings.findings(db, second).people == ()
    assert candidate_findings.findings(db, second).kl_per_token is None


def test_alpha_is_spent_for_each_policy_that_a_candidate_is_checked_against(db: Database, data_dir: Path) -> None:
    """Against another opponent it is another hypothesis: all of them together are to be wrong in 5% of projects."""
    first, second = make_candidate(db, data_dir), make_candidate(db, data_dir, "sft-2")
    assert candidate_findings.place_of(db, first) == candidate_findings.place_of(db, second) == 1
    for one in (first, second, first):
        finish_check(db, data_dir, one)
    assert [candidate_findings.findings(db, one).number for one in (first, second)] == [1, 2]
    decision_store.promote(db, second.revision, "ann")
    assert candidate_findings.place_of(db, first) == 3, "before its check against what serves now"
    finish_check(db, data_dir, first)
    made = make_candidate(db, data_dir, "sft-3")
    finish_check(db, data_dir, made)
    promoted = registry.by_revision(db, "sft-2")
    assert [candidate_findings.findings(db, one).number for one in (first, promoted, made)] == [3, 2, 4]


def test_the_places_of_all_candidates_are_read_once(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make_candidate(db, data_dir, f"sft-{number}", number=1) for number in range(1, 5)]
    for one in made:
        finish_check(db, data_dir, one)
    asked = list[str | None]()
    read = candidate_findings.finished_checks

    def counted(db: Database, revision: str | None = None) -> list[FinishedCheck]:
        asked.append(revision)
        return read(db, revision)

    monkeypatch.setattr(candidate_findings, "finished_checks", counted)
    assert [candidate_findings.place_of(db, one) for one in made] == [1, 2, 3, 4]
    assert asked.count(None) == 1
    finish_check(db, data_dir, make_candidate(db, data_dir, "sft-5", number=1))
    assert candidate_findings.place_of(db, made[0]) == 1
    assert asked.count(None) == 2, "what is kept goes by the checks that there are"


def test_a_judge_decides_only_when_it_may_and_agrees_with_people(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    for comparison in verdict_store.to_judge(db, judge, "candidate", 100, made.id):
        for pair, choice in (((0, 1), "first"), ((1, 0), "second")):
            verdict = Verdict(choice=choice, chance=None, reply="", prompt_tokens=0, completion_tokens=0, seconds=0.0)  # type: ignore[arg-type]
            verdict_store.add_verdict(db, judge, comparison.id, pair, verdict, 0, (), None)
        verdict_store.judge_comparison(db, judge, comparison)
    controlled = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}
    rates = {"j": {"value": 1.0, "low": 0.9, "high": 1.0, "n": 40, "ties": 0, "length_controlled": controlled}}
    finish_check(db, data_dir, made, "j", win_rates={"base": rates})
    assert candidate_decision.decision_on(db, made).says == "not enough evidence", "it may not decide"
    rule_store.set_rule(db, {"judge_may_decide": True})
    found = candidate_decision.decision_on(db, made)
    assert found.says == "not enough evidence", "nobody knows whether it speaks for people"
    assert "not been compared with people" in gate_words.sentence(found)
    agreeing_people(db, judge, 30)
    assert candidate_decision.decision_on(db, made).says == "promote"


def agreeing_people(db: Database, judge: judge_store.Judge, count: int) -> None:
    """Comparisons on which a person and the judge say the same."""
    bob = access.add_account(db, "bob", "annotator", "bob's password")
    project_store.set_project(db, replace(project_store.project(db), candidate_share=0.0))
    for prompt in seed_prompts(db, count)[-count:]:
        made = comparison_store.add_comparison(
            db, [make_response(prompt, f"{word} to {prompt.text}") for word in ("yes", "no")]
        )
        claim = handing_out.claim_next(db, bob.id)
        assert claim is not None
        assert claim.comparison_id == made
        left = claim.shown_order[0] == 0
        judging.judge(db, bob.id, claim.nonce, act("left-clearly" if left else "right-clearly"))
    for comparison in verdict_store.to_judge(db, judge, "judged", count):
        for pair, choice in (((0, 1), "first"), ((1, 0), "second")):
            verdict = Verdict(choice=choice, chance=None, reply="", prompt_tokens=0, completion_tokens=0, seconds=0.0)  # type: ignore[arg-type]
            verdict_store.add_verdict(db, judge, comparison.id, pair, verdict, 0, (), None)
        verdict_store.judge_comparison(db, judge, comparison)


# -------------------------------------------------------------------------------------------------- held-out prompts
def test_the_held_out_set_stays_what_it_was_until_a_new_version_is_made(db: Database, data_dir: Path) -> None:
    with pytest.raises(UserError, match="no held-out prompt"):
        held_out_sets.current(db, data_dir, 5)
    seed_prompts(db, 3, "held-out")
    first = held_out_sets.current(db, data_dir, 3)
    seed_prompts(db, 4, "held-out")
    assert held_out_sets.current(db, data_dir, 5) == first
    second = held_out_sets.renew(db, data_dir, 7)
    assert (first.version, first.prompts, second.version, second.prompts) == (1, 3, 2, 7)
    assert held_out_sets.renew(db, data_dir, 8) == second == held_out_sets.current(db, data_dir, 5)
    assert [prompt.id for prompt in held_out_sets.prompts_of(data_dir, first.sha256)] == [
        prompt.id for prompt in prompt_store.prompts(db, "held-out")[:3]
    ]
    path = data_dir / "snapshots" / f"{first.sha256}.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="was changed"):
        held_out_sets.prompts_of(data_dir, first.sha256)


def test_training_on_a_held_out_prompt_is_found_by_its_content_through_the_lineage(
    db: Database, data_dir: Path
) -> None:
    """The example set's first question is held out as well, under another source."""
    from annotation.examples.example_sets import read_example
    from rlhf.data.snapshots import demonstrations, store_snapshot

    shown = next(row for row in read_example("medical-answers") if row.split == "train")
    prompt_store.add_prompts(db, [Prompt(shown.messages, "held-out", "import")])
    seed_prompts(db, 1, "held-out")
    prompts = held_out_sets.prompts_of(data_dir, held_out_sets.current(db, data_dir, 10).sha256)
    snapshot = store_snapshot(db, data_dir, demonstrations(db, "example:medical-answers"))
    job_id = job_store.enqueue(db, SFTSpec(snapshot=snapshot), "ann")
    child = job_store.enqueue(db, SFTSpec(), "ann")
    for number, parent in ((job_id, 1), (child, 2)):
        registry.add(
            db, revision=f"sft-{number}", algorithm="sft", base=BASE_NAME, parent_id=parent, job_id=number, path="x",
            sha256="x",
        )  # fmt: skip
    # The second one's, as a reward model, scored what a policy on the base was trained on.
    scored = job_store.enqueue(db, PPOSpec(reward_model=f"sft-{child}"), "ann")
    registry.add(
        db, revision="ppo-1", algorithm="ppo", base=BASE_NAME, parent_id=1, job_id=scored, path="x", sha256="x"
    )  # fmt: skip
    for revision in (f"sft-{job_id}", f"sft-{child}", "ppo-1"):
        found = held_out_sets.trained_on(db, data_dir, registry.by_revision(db, revision), prompts)
        assert [prompt.text for prompt in found] == [shown.messages[-1]["content"]]
    assert held_out_sets.trained_on(db, data_dir, registry.by_revision(db, "base"), prompts) == []


def test_when_all_has_been_compared_the_loop_draws_new_answers(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, number=12)
    seed_prompts(db, 3, "held-out")
    finish_check(db, data_dir, made)
    rule_store.set_rule(db, {"mode": "automatic"})
    people_say(db, 6, "candidate")
    pending = candidate_decision.pending(db)
    assert pending is not None
    assert not pending.exhausted
    assert controller.advance(db, data_dir) is None, "six are still before people"
    people_say(db, 6, "serving")
    job_id = controller.advance(db, data_dir)
    assert job_id is not None
    spec = job_store.get(db, job_id).spec
    assert isinstance(spec, CheckSpec)
    assert (spec.candidate, spec.seed) == ("sft-1", CheckSpec.seed)
    assert spec.compared_seed == CheckSpec.seed + held_out_sets.SEEDS_APART
    assert len(held_out_sets.prompts_of(data_dir, spec.compared_set)) == 3, "those that were never compared"


def test_where_every_prompt_was_compared_a_candidate_is_not_waited_for(db: Database, data_dir: Path) -> None:
    """More seeds of the same prompts are no evidence: it takes other prompts."""
    made = make_candidate(db, data_dir, number=12)
    finish_check(db, data_dir, made)
    people_say(db, 6, "candidate")
    people_say(db, 6, "serving")
    decision = candidate_decision.decision_on(db, made)
    assert (decision.says, decision.used_up) == ("reject", True)
    seed_prompts(db, 3, "held-out")
    assert candidate_decision.decision_on(db, made).says == "not enough evidence"


def test_before_it_is_given_up_people_are_given_what_was_left_to_judges(db: Database, data_dir: Path) -> None:
    """Of some prompts nobody has compared the answers: not every prompt has been compared."""
    made = make_candidate(db, data_dir, number=12)
    leave_to_judges(db, made)
    finish_check(db, data_dir, made)
    rule_store.set_rule(db, {"mode": "automatic"})
    people_say(db, 3, "candidate")
    assert controller.advance(db, data_dir) is None
    assert pair_outcomes.open_to_people(db, made.id, 1) == 3, "these come first"
    people_say(db, 3, "serving")
    assert candidate_decision.decision_on(db, made).says == "not enough evidence"
    state = controller.state_of(db)
    assert loop_status.loop_status(state).then == "People are given what they were not asked about."
    assert iterations_tab.needed_of_people(db, made, state) is None, "it is done by itself"
    assert iterations_tab.needed_of_people(db, made, replace(state, gate="ask")) == "ask"
    assert controller.advance(db, data_dir) is None, "asking makes no job"
    assert pair_outcomes.open_to_people(db, made.id, 1) == 6
    assert loop_status.loop_status(controller.state_of(db)).then.startswith("People compare sft-1")
    people_say(db, 3, "candidate")
    people_say(db, 3, "serving")
    assert gate_words.sentence(candidate_decision.decision_on(db, made)).startswith("No held-out prompt is new to it")
    assert controller.advance(db, data_dir) is None, "deciding makes no job"
    rejected = registry.by_revision(db, made.revision)
    assert candidate_decision.decision_on(db, rejected).says == "reject", "what it was decided by stays"


def leave_to_judges(db: Database, policy: Policy, apart: int = 2) -> None:
    """Leave a candidate's comparisons to judges, as the lot may: people keep one in so many."""
    db.write(
        """UPDATE comparison SET asks = 'nobody', people_chance = 0.5, people_drawn = 0
           WHERE candidate_id = ? AND id % ?""",
        (policy.id, apart),
    )


def test_why_a_judge_gave_up_is_said_in_the_language_of_whoever_reads_it(db: Database, data_dir: Path) -> None:
    """Also after somebody else has read it in another one."""
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    agreeing_people(db, judge, 30)
    made = make_candidate(db, data_dir, number=12)
    leave_to_judges(db, made, apart=3)
    with pytest.raises(UserError) as error:
        registry.by_revision(db, "gone")
    why = str(error.value)
    calls = {"j": {"judged": 1, "left_open": 11, "failed": {}, "gave_up": why}}
    finish_check(db, data_dir, made, "j", judged=calls)
    gave_up = []
    for language in ("de", "en", "de"):
        with speaking(chosen(language)):
            gave_up.append([one.gave_up for one in candidate_decision.decided(db, made)[0].judges])
    assert gave_up[1] == [why]
    assert gave_up[0] == gave_up[2] != gave_up[1]


def test_where_a_judge_is_nearer_people_who_have_begun_are_asked_and_waited_for(db: Database, data_dir: Path) -> None:
    """A judge that has judged everything judges nothing more: people's fewest comparisons are no reason to give up."""
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    agreeing_people(db, judge, 30)
    rule_store.set_rule(db, {"mode": "automatic", "judge_may_decide": True})
    made = make_candidate(db, data_dir, number=12)
    leave_to_judges(db, made, apart=3)
    judge_says(db, judge, made)
    finish_check(db, data_dir, made, "j", judged={"j": {"judged": 12, "left_open": 0, "failed": {}, "gave_up": ""}})
    assert candidate_decision.decision_on(db, made).says == "reject", "nobody has begun to compare it"
    people_say(db, 1, "candidate")
    assert pair_outcomes.open_to_people(db, made.id, 1) == 3
    assert candidate_decision.decision_on(db, made).more_by == "j"
    assert controller.advance(db, data_dir) is None, "people are waited for"
    people_say(db, 1, "candidate")
    people_say(db, 2, "serving")
    assert candidate_decision.decision_on(db, made).more_by == "j"
    assert controller.advance(db, data_dir) is None, "asking makes no job"
    assert pair_outcomes.open_to_people(db, made.id, 1) == 8
    people_say(db, 1, "candidate")
    assert candidate_decision.decision_on(db, made).more_by == "j"
    assert loop_status.loop_status(controller.state_of(db)).then.startswith("People compare sft-1")
    assert controller.advance(db, data_dir) is None, "they have begun"
    people_say(db, 3, "candidate")
    people_say(db, 4, "serving")
    assert candidate_decision.decision_on(db, made).used_up, "nothing is left to ask"


def test_whoever_only_skips_has_not_begun(db: Database, data_dir: Path) -> None:
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    agreeing_people(db, judge, 30)
    rule_store.set_rule(db, {"judge_may_decide": True})
    made, kim = make_candidate(db, data_dir, number=12), access.add_account(db, "kim", "annotator", "kim's password")
    db.connection.execute("UPDATE comparison SET people_chance = 0.5 WHERE candidate_id = ?", (made.id,))
    judge_says(db, judge, made)
    finish_check(db, data_dir, made, "j", judged={"j": {"judged": 12, "left_open": 0, "failed": {}, "gave_up": ""}})
    skip(db, kim.id)
    assert [one.skipped for one in candidate_findings.findings(db, made).people] == [True]
    assert candidate_decision.decision_on(db, made).says == "reject"
    people_say(db, 1, "candidate")
    assert candidate_decision.decision_on(db, made).more_by == "j"


def test_people_are_not_waited_for_where_it_is_a_figure_that_is_missing(db: Database, data_dir: Path) -> None:
    """They have said enough: what was left to judges would change nothing."""
    made = make_candidate(db, data_dir)
    leave_to_judges(db, made)
    missing = {name: value for name, value in SOUND.items() if name != "perplexity"}
    rule_store.set_rule(db, {"mode": "automatic"})
    people_say(db, 20, "candidate")
    for _ in range(candidate_decision.MOST_CHECKS):
        assert candidate_decision.decision_on(db, made).says == "not enough evidence"
        finish_check(db, data_dir, made, candidate={"revision": made.revision, **missing})
    assert asking_people.left_to_ask(db, made)
    assert controller.advance(db, data_dir) is None, "deciding makes no job"
    assert registry.by_revision(db, made.revision).status == "rejected"


@pytest.mark.parametrize("decide", [decision_store.reject, decision_store.promote])
def test_people_are_asked_nothing_about_what_somebody_decides_while_the_loop_looks(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch, decide: Callable[..., Any]
) -> None:
    made = make_candidate(db, data_dir, number=12)
    leave_to_judges(db, made)
    finish_check(db, data_dir, made)
    rule_store.set_rule(db, {"mode": "automatic"})
    people_say(db, 3, "candidate")
    people_say(db, 3, "serving")
    look = controller.next_step

    def look_and_be_overtaken(state: controller.LoopState) -> controller.Step | None:
        step = look(state)
        assert step == controller.Step("ask", made.revision)
        decide(db, made.revision, "owner")
        return step

    monkeypatch.setattr(controller, "next_step", look_and_be_overtaken)
    assert controller.advance(db, data_dir) is None
    assert pair_outcomes.open_to_people(db, made.id, 1) == 0


@pytest.mark.parametrize("mode", ["automatic", "ask"])
def test_a_check_against_another_policy_keeps_nothing_from_people(db: Database, data_dir: Path, mode: str) -> None:
    other = make_candidate(db, data_dir, "sft-9", number=0)
    made = make_candidate(db, data_dir, number=12)
    leave_to_judges(db, made)
    finish_check(db, data_dir, made)
    by_hand = job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision, against=other.revision), "ann")
    finish_job(db, by_hand, against={"revision": other.revision, **SOUND})
    rule_store.set_rule(db, {"mode": mode})
    people_say(db, 3, "candidate")
    people_say(db, 3, "serving")
    assert candidate_decision.decision_on(db, made).says == "not enough evidence"
    if mode == "automatic":
        assert controller.advance(db, data_dir) is None, "asking makes no job"
    else:
        parts, _ = iterations_tab.view(Context(db, data_dir, BASE_NAME), made.revision, 0, {})
        assert (parts["ask"]["visible"], parts["ask"]["variant"]) == (True, "primary")
        assert iterations_tab.ask_people(db, made.revision).startswith("6 comparisons of sft-1 with base")
    assert pair_outcomes.open_to_people(db, made.id, 1) == 6


def test_a_comparison_that_all_have_skipped_is_not_waited_for(db: Database, data_dir: Path) -> None:
    """It is offered to nobody any more: the gate would wait for it, and automatic training for the gate."""
    made = make_candidate(db, data_dir, number=12)
    finish_check(db, data_dir, made)
    rule_store.set_rule(db, {"mode": "automatic"})
    people_say(db, 6, "candidate")
    people_say(db, 5, "serving")
    ann, bob = access.find(db, "ann"), access.add_account(db, "bob", "annotator", "bob's password")
    assert ann is not None
    skip(db, ann.id)
    assert handing_out.claim_next(db, ann.id) is None
    assert pair_outcomes.open_to_people(db, made.id, 1) == 1, "somebody else may judge it"
    assert candidate_decision.decision_on(db, made).says == "not enough evidence"
    access.deactivate(db, "bob")
    assert pair_outcomes.open_to_people(db, made.id, 1) == 0
    assert candidate_decision.decision_on(db, made).says == "reject", "no prompt is left"
    access.activate(db, "bob")
    assert pair_outcomes.open_to_people(db, made.id, 1) == 1
    skip(db, bob.id)
    assert pair_outcomes.open_to_people(db, made.id, 1) == 0
    seed_prompts(db, 3, "held-out")
    pending = candidate_decision.pending(db)
    assert pending is not None
    assert pending.exhausted
    assert controller.advance(db, data_dir) is not None, "a further check"


def test_a_check_ends_of_which_somebody_skipped_all_and_the_next_one_can_still_show_it(
    db: Database, data_dir: Path
) -> None:
    """What was drawn is given to nobody else then: others are not waited for, and the next check has other prompts."""
    made, kim = make_candidate(db, data_dir, number=12), access.add_account(db, "kim", "annotator", "kim's password")
    rule_store.set_rule(db, {"mode": "automatic"})
    drawn = "UPDATE comparison SET people_chance = 0.5 WHERE candidate_id = ?"
    db.connection.execute(drawn, (made.id,))
    finish_check(db, data_dir, made)
    access.add_account(db, "ann", "annotator", "ann's password")
    for left in range(11, -1, -1):
        skip(db, kim.id)
        assert pair_outcomes.open_to_people(db, made.id, 1) == left
    decision = candidate_decision.decision_on(db, made)
    assert (decision.says, decision.unheard) == ("not enough evidence", True), "no prompt is left"
    assert controller.advance(db, data_dir) is None
    prompts = seed_prompts(db, 15, "held-out")[-15:]
    pending = candidate_decision.pending(db)
    assert pending is not None
    assert (pending.exhausted, pending.decision.more) == (True, 10)
    job_id = controller.advance(db, data_dir)
    assert job_id is not None
    for prompt in prompts:
        for model_id in (1, made.id):
            text = f"policy {model_id} answers {prompt.text}"
            comparison_store.add_response(db, make_response(prompt, text, model_id, seed=prompt.id), "check")
    policy_comparisons.compare_policies(db, made.id, 1)
    db.connection.execute(drawn, (made.id,))
    finish_job(db, job_id)
    people_say(db, 12, "candidate")
    assert candidate_decision.decision_on(db, made).says == "promote"


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("then", ["nothing", "judged", "left out", "heard by a judge", "checked eight times"])
def test_nobody_is_rejected_by_skips_alone(db: Database, data_dir: Path, share: float, then: str) -> None:
    """It waits, and is bet on as before: so no more candidates are promoted that are no better."""
    made, kim = make_candidate(db, data_dir, number=12), access.add_account(db, "kim", "annotator", "kim's password")
    rule_store.set_rule(db, {"mode": "automatic"})
    db.connection.execute("UPDATE comparison SET people_chance = ? WHERE candidate_id = ?", (share, made.id))
    for _ in range(candidate_decision.MOST_CHECKS if then == "checked eight times" else 1):
        finish_check(db, data_dir, made)
    if then == "judged":
        people_say(db, 1, "candidate")
        access.deactivate(db, "ann")
    if then == "left out":
        people_say(db, 12, "candidate")
        exclusions.leave_out(db, "ann", "clicks without reading", "owner")
    else:
        for _ in range(pair_outcomes.open_to_people(db, made.id, 1)):
            skip(db, kim.id)
    if then == "heard by a judge":
        judge = judge_store.add(db, "other", "local", {"model": "base"}, "owner")
        judge_says(db, judge, made)
        finish_check(db, data_dir, made, "other")
    controller.advance(db, data_dir)
    decision = candidate_decision.decision_on(db, registry.by_revision(db, made.revision))
    heard = then in ("judged", "heard by a judge")
    assert (decision.unheard, registry.by_revision(db, made.revision).status) == (
        (False, "rejected") if heard else (True, "candidate")
    )
    if not heard:
        pending = candidate_decision.pending(db)
        assert pending is not None
        assert (pending.exhausted, pending.askable) == (False, False), "no check would show more"


def test_what_is_in_somebodys_hands_is_waited_for(db: Database, data_dir: Path) -> None:
    """What they find may be what tells."""
    made = make_candidate(db, data_dir, number=12)
    finish_check(db, data_dir, made)
    rule_store.set_rule(db, {"mode": "automatic"})
    people_say(db, 9, "candidate")
    people_say(db, 1, "serving")
    ann, bob = access.find(db, "ann"), access.add_account(db, "bob", "annotator", "bob's password")
    assert ann is not None
    held = [handing_out.claim_next(db, annotator_id) for annotator_id in (ann.id, bob.id)]
    assert None not in held
    assert pair_outcomes.open_to_people(db, made.id, 1) == 2
    assert controller.advance(db, data_dir) is None
    assert registry.by_revision(db, made.revision).status == "candidate"


def test_whoever_has_judged_as_many_as_they_shall_is_not_waited_for(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, number=2)
    people_say(db, 1, "candidate")
    ann, bob = access.find(db, "ann"), access.add_account(db, "bob", "annotator", "bob's password")
    assert ann is not None
    skip(db, bob.id)
    assert pair_outcomes.open_to_people(db, made.id, 1) == 1
    db.connection.execute("UPDATE annotator SET quota = 1 WHERE name = 'ann'")
    assert handing_out.claim_next(db, ann.id) is None
    assert pair_outcomes.open_to_people(db, made.id, 1) == 0


def test_where_nobody_can_compare_it_is_not_said_that_people_do(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, number=12)
    finish_check(db, data_dir, made)
    people_say(db, 3, "candidate")
    assert controller.state_of(db).given
    exclusions.leave_out(db, "ann", "clicks without reading", "owner")
    assert not controller.state_of(db).given
    exclusions.take_back(db, "ann", "", "owner")
    db.connection.execute("UPDATE annotator SET quota = 3 WHERE name = 'ann'")
    assert not controller.state_of(db).given
    access.add_account(db, "bob", "annotator", "bob's password")
    assert controller.state_of(db).given
    project_store.set_project(db, replace(project_store.project(db), candidate_share=0.0))
    assert not controller.state_of(db).given


def skip(db: Database, annotator_id: int) -> None:
    """An annotator skips what is shown next."""
    claim = handing_out.claim_next(db, annotator_id)
    assert claim is not None
    judging.judge(db, annotator_id, claim.nonce, act("skip"))


def each(outcomes: tuple[float, ...]) -> tuple[DecidedOutcome, ...]:
    """These outcomes, each on a prompt of its own."""
    return tuple(DecidedOutcome(prompt, outcome) for prompt, outcome in enumerate(outcomes))


def rewarded(rise: float | None) -> CheckReport:
    """The check of a candidate whose reward rose by so much."""
    return CheckReport.from_json({"reward_hacking": {"rise": rise, "length": 0.1}})


@pytest.mark.parametrize(("rise", "expected"), [(0.5, "open"), (0.0, False), (-0.1, False), (None, None)])
def test_whether_a_reward_that_rose_was_hacked_is_told_by_who_compares(
    rise: float | None, expected: bool | str | None
) -> None:
    assert candidate_findings.hacking(rewarded(rise)) is expected
    assert candidate_findings.hacking(CheckReport.from_json({"reward_hacking": None})) == "no reward"
    assert candidate_findings.hacking(CheckReport.from_json({})) is None
    assert candidate_findings.hacking(rewarded(math.nan)) is None, "nothing was measured"


def test_a_judge_that_may_not_decide_rejects_nothing_whose_reward_rose(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    agreeing_people(db, judge, 30)
    judge_says(db, judge, made, better=False)
    finish_check(db, data_dir, made, "j", reward_hacking={"rise": 0.5, "length": None})
    rule_store.set_rule(db, {"mode": "automatic"})
    assert gate_acts.act(db, data_dir) is None
    rule_store.set_rule(db, {"mode": "automatic", "judge_may_decide": True})
    assert gate_acts.act(db, data_dir) is not None
    assert decision_store.decisions(db)[0].reason.startswith("It is past a limit. No reward hacking: no")


def judge_says(db: Database, judge: judge_store.Judge, policy: Policy, *, better: bool = True) -> None:
    """A judge prefers every answer of a candidate, or none."""
    for comparison in verdict_store.to_judge(db, judge, "candidate", 1000, policy.id):
        for pair, choice in (((0, 1), "first" if better else "second"), ((1, 0), "second" if better else "first")):
            verdict = Verdict(choice=choice, chance=None, reply="", prompt_tokens=0, completion_tokens=0, seconds=0.0)  # type: ignore[arg-type]
            verdict_store.add_verdict(db, judge, comparison.id, pair, verdict, 0, (), None)
        verdict_store.judge_comparison(db, judge, comparison)


def test_neither_the_reward_model_that_ppo_maximised_nor_the_candidate_decides(db: Database, data_dir: Path) -> None:
    registry.add(
        db, revision="rm-1", algorithm="reward_model", base=BASE_NAME, parent_id=1,
        job_id=job_store.enqueue(db, RewardModelSpec(), "a"), path="x", sha256="x", kind="reward-model",
    )  # fmt: skip
    made = make_candidate(db, data_dir)
    with db.transaction() as connection:  # as if PPO had made it
        spec = to_json(PPOSpec(reward_model="rm-1"))
        connection.execute("UPDATE job SET kind = 'ppo', spec = ? WHERE id = ?", (spec, made.job_id))
    panel = [
        judge_store.add(db, "reward", "reward-model", {"model": "rm-1"}, "owner"),
        judge_store.add(db, "itself", "local", {"model": made.revision}, "owner"),
        judge_store.add(db, "other", "local", {"model": "base"}, "owner"),
    ]
    for judge in panel:
        judge_says(db, judge, made)
    finish_check(db, data_dir, made, "reward, itself, other", reward_hacking={"rise": 1.0, "length": None})
    found = candidate_findings.findings(db, made)
    assert {judge.name: judge.informs for judge in found.judges} == {
        "reward": "optimised-against",
        "itself": "itself",
        "other": None,
    }
    assert found.reward_hacking == "open", "the other judge has not been compared with people"
    # Whatever it was trained with since, until what it was trained on serves.
    later = registry.add(
        db, revision="dpo-9", algorithm="dpo", base=BASE_NAME, parent_id=made.id,
        job_id=job_store.enqueue(db, DPOSpec(parent=made.revision), "a"), path="y", sha256="y",
    )  # fmt: skip
    said = judge_findings.conflict_of_interest(db, panel[0], later, registry.serving(db))
    assert said == "optimised-against"
    assert judge_findings.conflict_of_interest(db, panel[0], later, made) is None
    agreeing_people(db, panel[0], 30)
    rule_store.set_rule(db, {"judge_may_decide": True})
    assert candidate_findings.findings(db, made).reward_hacking == "open"
    assert candidate_decision.decision_on(db, made).says == "not enough evidence"


def test_a_judge_whose_labels_trained_the_candidate_helps_and_does_not_decide(db: Database, data_dir: Path) -> None:
    teacher, copy = (
        judge_store.add(db, name, "endpoint", {"address": address, "model": "m", "calls": calls}, "owner")
        for name, address, calls in (("teacher", "http://a/v1", 9), ("copy", "http://a/v1/", 10))
    )
    other = judge_store.add(db, "other", "local", {"model": "base"}, "owner")
    (prompt,) = seed_prompts(db, 1)
    labelled = comparison_store.add_comparison(db, [make_response(prompt, word) for word in ("yes", "no")])
    with db.transaction():
        db.insert(
            "judgement",
            {
                "comparison_id": labelled, "annotator_id": teacher.id, "purpose": "judge", "kind": "pair",
                "outcome": "ranked", "ranking": "[1, 2]", "shown_order": "[0, 1]", "seconds": 0.0, "created": "",
            },
        )  # fmt: skip
    made = make_candidate(db, data_dir)
    for judge in (teacher, copy, other):
        judge_says(db, judge, made)
    finish_check(db, data_dir, made, "teacher, copy, other")
    assert [judge.informs for judge in candidate_findings.findings(db, made).judges] == [None, None, None]
    with db.transaction() as connection:  # as if it had learnt from what there was
        connection["snapshot"].insert(
            {"sha256": "s", "path": "p", "rows": 1, "counts": "{}", "last_judgement_id": 1, "created": ""}
        )
        spec = to_json(DPOSpec(snapshot="s"))
        connection.execute("UPDATE job SET kind = 'dpo', spec = ? WHERE id = ?", (spec, made.job_id))
    told = {judge.name: judge.informs for judge in candidate_findings.findings(db, made).judges}
    assert told == {"teacher": "its-labels", "copy": "its-labels", "other": None}
    # A reward model that has learnt the same judge's labels says what that says.
    registry.add(
        db, revision="rm-1", algorithm="reward_model", base=BASE_NAME, parent_id=1,
        job_id=job_store.enqueue(db, RewardModelSpec(snapshot="s"), "a"), path="x", sha256="x", kind="reward-model",
    )  # fmt: skip
    pupil = judge_store.add(db, "pupil", "reward-model", {"model": "rm-1"}, "owner")
    serving = registry.serving(db)
    assert judge_findings.conflict_of_interest(db, pupil, made, serving) == "shared-labels"
    assert judge_findings.conflict_of_interest(db, pupil, serving, serving) is None
    # What people have judged since takes nothing from what an earlier training learnt.
    with db.transaction() as connection:
        ann = access.add_account(db, "ann", "annotator", "ann's password").id
        said = {
            "comparison_id": labelled,
            "annotator_id": ann,
            "purpose": "import",
            "kind": "pair",
            "outcome": "ranked",
        }
        shown = {"ranking": "[1, 2]", "shown_order": "[0, 1]", "seconds": 0.0, "created": ""}
        newest = db.insert("judgement", {**said, **shown})
        connection["snapshot"].insert(
            {"sha256": "t", "path": "q", "rows": 1, "counts": "{}", "last_judgement_id": newest, "created": ""}
        )
    later = registry.add(
        db, revision="dpo-9", algorithm="dpo", base=BASE_NAME, parent_id=made.id,
        job_id=job_store.enqueue(db, DPOSpec(parent=made.revision, snapshot="t"), "a"), path="y", sha256="y",
    )  # fmt: skip
    assert judge_findings.conflict_of_interest(db, teacher, later, serving) == "its-labels"


def test_a_judge_has_taught_what_was_trained_while_it_alone_had_labelled(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked up once, however many trainings there were: a judge's labels are many."""
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    ann = access.add_account(db, "ann", "annotator", "ann's password").id
    (prompt,) = seed_prompts(db, 1)
    labelled = comparison_store.add_comparison(db, [make_response(prompt, word) for word in ("yes", "no")])
    said = {"comparison_id": labelled, "kind": "pair", "shown_order": "[0, 1]", "seconds": 0.0, "created": ""}
    ranked = {"outcome": "ranked", "ranking": "[1, 2]"}
    for number, by, purpose, what in (
        (10, ann, "import", {"outcome": "skip"}),
        (20, judge.id, "judge", ranked),
        (40, ann, "import", ranked),
    ):
        db.insert("judgement", {"id": number, "annotator_id": by, "purpose": purpose, **said, **what})
    model = registry.serving(db)
    monkeypatch.setattr(snapshots, "seen_until", lambda _, one: one.id)

    def taught(*trainings: int) -> bool:
        family = [replace(model, id=number) for number in trainings]
        monkeypatch.setattr(registry, "family", lambda *_: family)
        return bool(judge_findings.teachers(db, model))

    assert [taught(number) for number in (19, 20, 39, 40, 99)] == [False, True, True, False, False]
    assert (taught(5, 39, 99), taught(5, 15, 40, 99), taught()) == (True, False, False)
    asked: list[str] = []
    db.connection.conn.set_trace_callback(asked.append)
    assert not taught(*range(50, 99))
    db.connection.conn.set_trace_callback(None)
    assert sum("FROM judgement" in one for one in asked) == 1
    db.write("UPDATE prompt SET split = 'held-out'")
    assert not taught(39), "nothing is trained on it"


def test_what_was_left_to_judges_helps_people_and_its_chance_is_that_of_the_draw(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough of both are drawn.
    monkeypatch.setattr("annotation.store.policy_comparisons.secrets.SystemRandom", lambda: Random(3))
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    made = make_candidate(db, data_dir, number=40, share=0.4)
    judge_says(db, judge, made)
    drawn = pair_outcomes.open_to_people(db, made.id, 1)
    people_say(db, drawn, "candidate")
    finish_check(db, data_dir, made, "j")
    found = candidate_findings.findings(db, made)
    assert {one.probability for one in found.people} == {0.4}
    assert len(found.left_to_judges) == 40 - drawn
    assert not {one.prompt_id for one in found.people} & set(found.left_to_judges)
    prompts = corrected_by_judges(found)
    assert prompts.helped > 0
    assert len(prompts.outcomes) == drawn
    # Who has people compare the rest changes no bet that was made: the record of the draw stays.
    spent = candidate_findings.spent_prompts(db, made, registry.serving(db))
    assert spent <= set(found.left_to_judges)
    asked = iterations_tab.ask_people(db, made.revision)
    assert asked.startswith(f"{40 - drawn - len(spent)} comparisons of "), "the button spares what counts no more"
    with pytest.raises(UserError, match="counts no more" if spent else "queue already"):
        iterations_tab.ask_people(db, made.revision)
    later = candidate_findings.findings(db, made)
    assert ({one.probability for one in later.people}, list(later.left_to_judges)) == (
        {0.4},
        list(found.left_to_judges),
    )
    assert {prompt for prompt, one in later.left_to_judges.items() if one.given is None} == spent
    assert corrected_by_judges(later) == prompts
    # All that people are asked for now counts.
    people_say(db, 5, "serving")
    assert len(corrected_by_judges(candidate_findings.findings(db, made)).outcomes) == drawn + 5


def test_what_answers_show_without_anybody_changes_no_bet_that_was_made_before_them(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers tie for every judge; were they taken as said from the start, a later check would change bets."""
    monkeypatch.setattr("annotation.store.policy_comparisons.secrets.SystemRandom", lambda: Random(3))
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    made = make_candidate(db, data_dir, number=40, share=0.4)
    judge_says(db, judge, made)
    people_say(db, pair_outcomes.open_to_people(db, made.id, 1), "candidate")
    finish_check(db, data_dir, made, "j")
    before = corrected_by_judges(candidate_findings.findings(db, made))
    for prompt in seed_prompts(db, 30, "held-out")[-30:]:
        for model_id in (1, made.id):
            text = "The same." if prompt.id % 2 else f"policy {model_id} answers {prompt.text}"
            comparison_store.add_response(db, make_response(prompt, text, model_id, seed=prompt.id), "check")
    policy_comparisons.compare_policies(db, made.id, 1, share=0.4)
    finish_check(db, data_dir, made, "j")
    assert corrected_by_judges(candidate_findings.findings(db, made)) == before
    # Nor does the first word of a judge that is asked later.
    late = judge_store.add(db, "late", "local", {"model": "base"}, "owner")
    judge_says(db, late, made)
    finish_check(db, data_dir, made, "j, late")
    after = corrected_by_judges(candidate_findings.findings(db, made))
    assert (after.outcomes, after.prompts, after.spent) == (before.outcomes, before.prompts, before.spent)
    # What people compare from now on is corrected by these too.
    people_say(db, pair_outcomes.open_to_people(db, made.id, 1), "candidate")
    assert corrected_by_judges(candidate_findings.findings(db, made)).spent > before.spent
    asked = {one.asked for one in candidate_findings.findings(db, made).people if one.outcome == 0.5}
    assert asked == {False}, "they tied without anybody"


def test_people_get_a_share_by_what_is_known_of_the_judges_before(db: Database, data_dir: Path) -> None:
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    agreeing_people(db, judge, 30)
    made = make_candidate(db, data_dir)
    assert candidate_findings.share_of_next_check(db, made, [], 200) == 1.0
    known = candidate_findings.share_of_next_check(db, made, [judge], 200)
    assert known < 0.6
    # What both say of the candidate itself is no part of it.
    judge_says(db, judge, made)
    assert judge_findings.agreement_before(db, judge, made) == judge_findings.agreement_of(db, judge)
    people_say(db, 5, "serving")
    before, now = judge_findings.agreement_before(db, judge, made), judge_findings.agreement_of(db, judge)
    assert before is not None
    assert now is not None
    assert (before.n, now.n) == (30, 35)
    # Nor what somebody says later of comparisons that are older than the candidate.
    (prompt,) = seed_prompts(db, 1)[-1:]
    comparison_store.add_comparison(db, [make_response(prompt, word) for word in ("yes", "no")])
    bob, project = access.find(db, "bob"), project_store.project(db)
    assert bob is not None
    project_store.set_project(db, replace(project, overlap=2))
    ann = access.find(db, "ann")
    assert ann is not None
    project_store.set_project(db, replace(project, overlap=2, candidate_share=0.0))
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("tie"))
    assert judge_findings.agreement_of(db, judge) != now
    assert judge_findings.agreement_before(db, judge, made) == before


def test_a_judge_is_believed_by_what_its_comparisons_are_worth(db: Database, data_dir: Path) -> None:
    """One that a draw seldom gave to people stands for many others, and all together tell less than their number."""
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    agreeing_people(db, judge, 30)
    rare = "UPDATE comparison SET people_chance = 0.1, people_drawn = 1 WHERE id = (SELECT min(id) FROM comparison)"
    db.connection.execute(rare)
    made = make_candidate(db, data_dir, number=1)
    before, now = judge_findings.agreement_before(db, judge, made), judge_findings.agreement_of(db, judge)
    assert before is not None
    assert now is not None
    assert (before.n, now.n) == (round((29 + 10) ** 2 / (29 + 10**2)), 30)


def test_a_flagged_comparison_counts_as_it_was_ranked(db: Database, data_dir: Path) -> None:
    """A candidate's harmful answers are its worst: without them it would seem better than it is."""
    made, ann = make_candidate(db, data_dir, number=3), access.add_account(db, "ann", "annotator", "ann's password")
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    worse = "right-much" if claim.shown_order[0] == 0 else "left-much"
    judging.judge(db, ann.id, claim.nonce, act(worse, flag="harmful"))
    for word in ("all-bad", "skip"):  # of which answer, nobody says
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act(word, flag="broken"))
    assert [one.outcome for one in candidate_findings.findings(db, made).people] == [0.0, 0.5, 0.5]


def test_the_base_is_the_anchor_under_other_weights_too(db: Database, data_dir: Path) -> None:
    """Earlier versions took the figures against the weights that an adapter hangs on, so that steps added up unseen."""
    made = make_candidate(db, data_dir)
    merged = {"revision": "merge-3", **SOUND}
    finish_check(db, data_dir, made, anchor=merged, rule=2)
    assert candidate_findings.findings(db, made).kl_per_token is None
    assert (
        "Its check left out some of what the rule asks: check it again." in check_status.check_status(db, made).sentence
    )
    finish_check(db, data_dir, made, rule=3, kl_to_ground=0.01)
    assert candidate_findings.findings(db, made).kl_per_token == SOUND["kl_to_anchor"]
    # Where memory did not hold both, the weights stand in for the base.
    finish_check(db, data_dir, made, anchor=merged, rule=3)
    assert candidate_findings.findings(db, made).kl_per_token == SOUND["kl_to_anchor"]


def test_of_a_check_in_two_precisions_nothing_of_the_candidates_answers_is_left(db: Database, data_dir: Path) -> None:
    made = replace(make_candidate(db, data_dir), precision="bf16")
    equal = {"equal_length_kl": 0.1, "equal_length_distinct": 1.0, "equal_length_nll_ratio": 1.0}
    report = CheckReport.from_json({"candidate": {**SOUND, "precision": ""}, "anchor": SOUND, **equal})
    check = FinishedCheck(1, CheckSpec(), report)
    found = candidate_findings.comparable(check, "", made)
    assert [found.kl_per_token, found.distinct_ratio, found.nll_ratio, found.perplexity_ratio] == [None] * 4
    assert candidate_findings.comparable(check, "", replace(made, precision="nf4")) == report


def test_alpha_is_spent_for_each_precision_of_what_serves(db: Database, data_dir: Path) -> None:
    """In another one the base answers as another policy, against which there is evidence anew."""
    first, second = make_candidate(db, data_dir), make_candidate(db, data_dir, "sft-2")
    held = registry.serving(db).precision
    assert held == "nf4"
    finish_check(db, data_dir, first)  # one of an earlier version, which does not say so
    finish_check(db, data_dir, first, against={"revision": "base", "precision": "nf4", **SOUND})
    registry.set_precision(db, "bf16", "ann")
    assert candidate_findings.findings(db, first).number == 2, "before its check against what serves now"
    for one in (first, second):
        finish_check(db, data_dir, one, against={"revision": "base", "precision": "bf16", **SOUND})
    assert [candidate_findings.findings(db, one).number for one in (first, second)] == [2, 3]
    registry.set_precision(db, "nf4", "ann")
    assert [candidate_findings.findings(db, one).number for one in (first, second)] == [1, 4]
    decision_store.promote(db, first.revision, "ann")
    registry.set_precision(db, "bf16", "ann")
    promoted = registry.by_revision(db, first.revision)
    assert candidate_findings.findings(db, promoted).number == 2, "by its newest check"


def test_limits_are_against_the_anchor_that_the_rule_names(db: Database, data_dir: Path) -> None:
    style, made = make_candidate(db, data_dir, "sft-1"), make_candidate(db, data_dir, "sft-2")
    finish_check(db, data_dir, made)
    assert candidate_findings.findings(db, made).kl_per_token == SOUND["kl_to_anchor"]
    rule_store.set_rule(db, {"anchor": style.revision})
    assert candidate_findings.findings(db, made).kl_per_token is None, "it was measured against the base"
    finish_check(db, data_dir, made)
    (check, _) = candidate_findings.checks_of(db, made)
    assert check.spec.anchor == "sft-1"
    assert candidate_findings.findings(db, made).kl_per_token == SOUND["kl_to_anchor"]
    with pytest.raises(UserError, match="nobody"):
        rule_store.set_rule(db, {"anchor": "nobody"})


def test_a_candidates_place_in_the_project_is_that_of_its_first_check(db: Database, data_dir: Path) -> None:
    first, second = make_candidate(db, data_dir), make_candidate(db, data_dir, "sft-2")
    assert candidate_findings.findings(db, second).number == 1
    for policy in (first, second, first):
        finish_check(db, data_dir, policy)
    third = make_candidate(db, data_dir, "sft-3")
    assert [candidate_findings.findings(db, one).number for one in (first, second, third)] == [1, 2, 3]


def test_who_may_decide_is_settled_by_the_first_check(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    early, late = (judge_store.add(db, name, "local", {"model": "base"}, "owner") for name in ("early", "late"))
    finish_check(db, data_dir, made, "early")
    finish_check(db, data_dir, made, "early, late")
    for judge in (early, late):
        judge_says(db, judge, made)
    found = candidate_findings.findings(db, made)
    assert [(judge.name, judge.informs) for judge in found.judges] == [("early", None), ("late", "late")]
    assert [judge.name for judge in found.panel] == ["early"]


def test_a_check_that_is_resumed_after_a_later_one_gives_the_figures_and_settles_nothing(
    db: Database, data_dir: Path
) -> None:
    """Its judges were not asked before the other's had answered; its figures are the newest, as the page says."""
    made = make_candidate(db, data_dir)
    for name in ("early", "late"):
        judge_store.add(db, name, "local", {"model": "base"}, "owner")
    resumed = job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision, judges="late"), "ann")
    come_to_nothing(db, resumed, "failed")
    finish_check(db, data_dir, made, "early", candidate={"revision": made.revision, **SOUND, "kl_to_anchor": 0.3})
    job_store.resume(db, resumed)
    finish_job(db, resumed)
    found = candidate_findings.findings(db, made)
    assert found.kl_per_token == SOUND["kl_to_anchor"]
    assert [(judge.name, judge.informs) for judge in found.judges] == [("early", None), ("late", "late")]
    job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision), "ann")
    assert f"The figures are those of the check before (job {resumed})." in said_of(db, made)


def test_length_is_controlled_on_all_comparisons_and_not_on_the_newest_checks(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    judge_says(db, judge, made)
    stale = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 12}
    rates = {"j": {"value": 1.0, "low": 0.9, "high": 1.0, "n": 40, "ties": 0, "length_controlled": stale}}
    finish_check(db, data_dir, made, "j", win_rates={"base": rates})
    (found,) = candidate_findings.findings(db, made).judges
    assert found.length_controlled is not None
    assert found.length_controlled.n == len(found.outcomes) == 40
    assert found.length_controlled.value > 0.5


def test_after_the_most_checks_a_candidate_with_nothing_left_to_compare_is_rejected(
    db: Database, data_dir: Path
) -> None:
    made = make_candidate(db, data_dir, number=12)
    seed_prompts(db, 3, "held-out")
    rule_store.set_rule(db, {"mode": "automatic"})
    for _ in range(candidate_decision.MOST_CHECKS):
        finish_check(db, data_dir, made)
    people_say(db, 6, "candidate")
    assert gate_acts.act(db, data_dir) is None, "six are still before people"
    people_say(db, 6, "serving")
    found = loop_status.loop_status(controller.state_of(db))
    assert found.then == "The gate will reject sft-1 within seconds."
    assert controller.advance(db, data_dir) is None, "deciding makes no job"
    (record,) = decision_store.decisions(db)
    assert (record.action, record.decided_by) == ("reject", "the gate")
    assert record.reason == "Nothing is left to compare after 8 checks, and that is not enough evidence."
    assert candidate_decision.pending(db) is None


def test_a_judge_that_nobody_helps_ends_it_after_the_most_checks_too(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, number=12)
    seed_prompts(db, 3, "held-out")
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    agreeing_people(db, judge, 30)
    rule_store.set_rule(db, {"mode": "automatic", "judge_may_decide": True})
    judge_says(db, judge, made)
    said = {"j": {"judged": 12, "left_open": 0, "failed": {}, "gave_up": ""}}
    for number in range(1, candidate_decision.MOST_CHECKS + 1):
        pending = candidate_decision.pending(db)
        assert pending is None or pending.exhausted, number
        finish_check(db, data_dir, made, "j", judged=said)
    pending = candidate_decision.pending(db)
    assert pending is not None
    assert pending.decision.says == "reject", "nobody has begun to compare it"


def test_what_was_decided_on_can_be_looked_at_afterwards(db: Database, data_dir: Path) -> None:
    first = make_candidate(db, data_dir)
    finish_check(db, data_dir, first)
    people_say(db, 15, "candidate")
    decision_store.promote(db, first.revision, "ann")
    found, decision = candidate_decision.decided(db, registry.by_revision(db, first.revision))
    assert (len(found.people), found.kl_per_token, decision.says) == (15, SOUND["kl_to_anchor"], "promote")
    decision_store.promote(db, "base", "ann")
    retired = registry.by_revision(db, first.revision)
    assert decision_store.decided_against(db, retired) == registry.by_revision(db, "base")
    assert decision_store.decided_against(db, registry.by_revision(db, "base")) is None, (
        "to go back is no such decision"
    )


# ------------------------------------------------------------------------------------------ what comes to nothing
def come_to_nothing(db: Database, job_id: int, status: str, seconds_ago: float = 0.0) -> None:
    """End a job as its worker or a person would, without a result."""
    if status == "cancelled":
        job_store.cancel(db, job_id)
    else:
        job_store.claim(db, job_id, "w")
        job_table.stop(db, job_id, "w", status, "Memory ran out.")
    let_pass(db, job_id, seconds_ago)


def let_pass(db: Database, job_id: int, seconds: float) -> None:
    """As if a job had ended so long ago."""
    ended = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="microseconds")
    db.write("UPDATE job SET finished = ? WHERE id = ?", (ended, job_id))


def test_a_check_waits_for_held_out_prompts_and_then_starts_by_itself(db: Database, data_dir: Path) -> None:
    """Without any it could only fail."""
    make_candidate(db, data_dir, number=0, checked=True)
    seed_prompts(db, 3)
    assert controller.advance(db, data_dir) is None
    assert "Import some on the Data tab." in loop_status.loop_status(controller.state_of(db)).then
    seed_prompts(db, 1, "held-out")
    assert "The check starts within seconds." in loop_status.loop_status(controller.state_of(db)).then
    assert controller.advance(db, data_dir) is not None


@pytest.mark.parametrize("status", ["failed", "lost"])
def test_a_check_that_failed_is_tried_once_more_after_a_while_and_then_no_more(
    db: Database, data_dir: Path, status: str
) -> None:
    make_candidate(db, data_dir, checked=True)
    first = controller.advance(db, data_dir)
    assert first is not None
    come_to_nothing(db, first, status)
    assert controller.advance(db, data_dir) is None, "not at once"
    found = loop_status.loop_status(controller.state_of(db))
    assert found.stage == "checking"
    assert "The loop tries it once more" in found.problems[0]
    let_pass(db, first, controller.RETRY_SECONDS)
    second = controller.advance(db, data_dir)
    assert second is not None
    assert job_store.get(db, second).spec == job_store.get(db, first).spec
    assert loop_status.loop_status(controller.state_of(db)).problems == (), "it is being checked"
    come_to_nothing(db, second, status, controller.RETRY_SECONDS)
    assert controller.advance(db, data_dir) is None, "twice is enough"
    found = loop_status.loop_status(controller.state_of(db))
    assert found.stage == "collecting"
    (trouble,) = found.problems
    assert trouble.startswith(f"Job {second} (check of sft-1) ")
    assert "Memory ran out. 2 tries came to nothing" in trouble


def test_a_check_that_a_person_cancelled_is_not_repeated_and_holds_up_no_other(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, checked=True)
    first = controller.advance(db, data_dir)
    assert first is not None
    come_to_nothing(db, first, "cancelled", controller.RETRY_SECONDS)
    assert controller.advance(db, data_dir) is None
    (trouble,) = loop_status.loop_status(controller.state_of(db)).problems
    assert "sft-1 waits: its check was cancelled" in trouble
    make_candidate(db, data_dir, "sft-2", checked=True)
    second = controller.advance(db, data_dir)
    assert second is not None
    assert getattr(job_store.get(db, second).spec, "candidate", "") == "sft-2"
    come_to_nothing(db, second, "cancelled")
    finish_check(db, data_dir, made)
    found = loop_status.loop_status(controller.state_of(db))
    assert found.stage == "deciding", "a person had it checked"
    assert "sft-2 waits" in found.problems[0]


def test_the_check_that_draws_new_answers_is_not_repeated_for_ever(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, number=12)
    seed_prompts(db, 3, "held-out")
    finish_check(db, data_dir, made)
    rule_store.set_rule(db, {"mode": "automatic"})
    people_say(db, 6, "candidate")
    people_say(db, 6, "serving")
    for _ in range(controller.MOST_FAILURES):
        job_id = controller.advance(db, data_dir)
        assert job_id is not None
        come_to_nothing(db, job_id, "failed", controller.RETRY_SECONDS)
    assert controller.advance(db, data_dir) is None
    found = loop_status.loop_status(controller.state_of(db))
    assert "2 tries came to nothing" in found.problems[0]
    assert "has to be checked again" in found.then


def test_a_retry_asks_the_judges_that_were_chosen(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, checked=True)
    for name in ("i", "j"):
        judge_store.add(db, name, "local", {"model": "base"}, "owner")
    chosen = job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision, judges="j"), "ann")
    come_to_nothing(db, chosen, "failed", controller.RETRY_SECONDS)
    job_id = controller.advance(db, data_dir)
    assert job_id is not None
    assert getattr(job_store.get(db, job_id).spec, "judges", "") == "j"


@pytest.mark.parametrize(("status", "said"), [("failed", "failed"), ("lost", "was lost")])
def test_a_training_that_came_to_nothing_is_named_until_the_next(
    db: Database, data_dir: Path, status: str, said: str
) -> None:
    job_id = job_store.enqueue(db, DPOSpec(method="qlora"), "ann")
    come_to_nothing(db, job_id, status)
    (problem,) = loop_status.loop_status(controller.state_of(db)).problems
    assert problem.startswith(f"Job {job_id} (preference training (DPO), QLoRA) {said}: ")
    assert problem.endswith("resume it on the Runs tab.")
    job_store.resume(db, job_id)
    assert loop_status.loop_status(controller.state_of(db)).problems == ()


# ------------------------------------------------------------------------------------------------- how a check stands
def said_of(db: Database, policy: Policy) -> str:
    """How its check stands, as every page and command says it."""
    return check_status.check_status(db, registry.by_id(db, policy.id)).sentence


def test_while_a_check_waits_or_runs_the_gate_says_so_and_asks_for_none(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    assert said_of(db, made) == "It has not been checked yet."
    training = job_store.enqueue(db, SFTSpec(), "ann")
    check = job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision), "ann")
    assert said_of(db, made) == f"It waits for its check (job {check}, second in the queue)."
    assert check_status.check_status(db, made).active
    job_store.claim(db, training, "w")
    assert said_of(db, made) == f"It waits for its check (job {check}, first in the queue, behind job {training})."
    job_table.stop(db, training, "w", "failed", "")
    job_store.claim(db, check, "w")
    assert said_of(db, made) == f"Job {check} is checking it."
    job_table.report(db, check, "w", 40, 247, {}, "sft-1 answers")
    assert said_of(db, made) == f"Job {check} is checking it: step 40 of 247."
    job_store.cancel(db, check)
    assert said_of(db, made) == f"Job {check}, its check, is being cancelled."
    job_table.stop(db, check, "w", "cancelled", "Cancelled.")
    ended = f"Job {check} (check of {made.revision}) was cancelled."
    assert said_of(db, made) == f"{ended} Check it again, or resume job {check}."
    assert not check_status.check_status(db, made).active


@pytest.mark.parametrize(
    ("status", "word"), [("failed", "failed"), ("lost", "was lost"), ("cancelled", "was cancelled")]
)
def test_a_check_that_came_to_nothing_says_how_and_how_to_go_on(
    db: Database, data_dir: Path, status: str, word: str
) -> None:
    made = make_candidate(db, data_dir)
    check = job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision), "ann")
    come_to_nothing(db, check, status)
    why = "" if status == "cancelled" else ": Memory ran out"
    ended = f"Job {check} (check of {made.revision}) {word}{why}."
    assert said_of(db, made) == f"{ended} Check it again, or resume job {check}."
    job_store.resume(db, check)
    assert said_of(db, made) == f"It waits for its check (job {check}, first in the queue)."


def test_an_older_check_is_named_beside_the_newer_one_that_runs_or_failed(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    (old,) = candidate_findings.checks_of(db, made)
    assert said_of(db, made) == ""
    again = job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision), "ann")
    job_store.claim(db, again, "w")
    before = f"The figures are those of the check before (job {old.job_id})."
    assert said_of(db, made) == f"Job {again} is checking it. {before}"
    job_table.stop(db, again, "w", "failed", "Memory ran out.")
    assert said_of(db, made).startswith(f"Job {again} (check of {made.revision}) failed: Memory ran out. ")
    assert said_of(db, made).endswith(before)
    job_store.resume(db, again)
    job_store.claim(db, again, "w")
    job_table.finish(db, again, "w", old.report.to_json())
    assert said_of(db, made) == ""


def test_a_check_against_what_serves_no_more_is_said_to_count_for_nothing(db: Database, data_dir: Path) -> None:
    first, second = make_candidate(db, data_dir), make_candidate(db, data_dir, "sft-2")
    finish_check(db, data_dir, second)
    running = job_submission.submit(db, data_dir, CheckSpec(candidate=second.revision), "ann")
    decision_store.promote(db, first.revision, "ann")
    counts = f"The gate counts checks against {first.revision}, which serves now"
    assert said_of(db, second) == (
        f"It waits for its check (job {running}, first in the queue). {counts}; this one is against base."
    )
    assert not check_status.check_status(db, second).active, "one that counts can be asked for"
    job_store.cancel(db, running)
    let_pass(db, running, 3600)
    assert said_of(db, second) == f"{counts}; its check (job {running - 1}) was against base. Check it again."


def test_a_check_that_left_something_out_is_to_be_repeated_unless_one_runs(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    missing = {name: value for name, value in SOUND.items() if name != "perplexity"}
    finish_check(db, data_dir, made, candidate={"revision": "sft-1", **missing})
    assert said_of(db, made) == "Its check left out some of what the rule asks: check it again."
    job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision), "ann")
    assert "heck it again" not in said_of(db, made)


def test_a_check_that_left_something_out_is_not_to_be_repeated_where_it_was_rejected(
    db: Database, data_dir: Path
) -> None:
    made = make_candidate(db, data_dir)
    missing = {name: value for name, value in SOUND.items() if name != "perplexity"}
    finish_check(db, data_dir, made, candidate={"revision": "sft-1", **missing, "kl_to_anchor": 9.0})
    assert candidate_decision.decision_on(db, made).reason == "past-a-limit"
    assert said_of(db, made) == ""


# ------------------------------------------------------------------------------------------- against what the rule says
WHY = "I read twenty of its answers"


def undecided(db: Database, data_dir: Path) -> Policy:
    """Nobody has compared it yet."""
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    return made


def turned_down(db: Database, data_dir: Path) -> Policy:
    """The rule says: reject."""
    made = undecided(db, data_dir)
    people_say(db, 15, "serving")
    return made


def unchecked(db: Database, data_dir: Path) -> Policy:
    """Nothing was measured of it."""
    return make_candidate(db, data_dir)


def being_checked(db: Database, data_dir: Path) -> Policy:
    """Its check runs."""
    made = make_candidate(db, data_dir)
    job_store.claim(db, job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision), "ann"), "w")
    return made


def overtaken(db: Database, data_dir: Path) -> Policy:
    """It was measured against what serves no more, and was better than that."""
    other, made = make_candidate(db, data_dir, "sft-9"), undecided(db, data_dir)
    people_say(db, 15, "candidate")
    decision_store.promote(db, other.revision, "ann")
    return made


def rejected(db: Database, data_dir: Path) -> Policy:
    """It was better, and somebody rejected it all the same."""
    made = undecided(db, data_dir)
    people_say(db, 15, "candidate")
    decision_store.reject(db, made.revision, "kim", "It swears.")
    return made


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (undecided, "The rule says: not enough evidence. It takes at least 10 more prompts"),
        (turned_down, "The rule says: reject. People find it worse"),
        (unchecked, "The rule says: not enough evidence. "),
        (unchecked, "It has not been checked yet."),
        (being_checked, "is checking it."),
        (overtaken, "The gate counts checks against sft-9, which serves now"),
        (rejected, "kim rejected it on "),
    ],
)
def test_a_promotion_against_the_rule_takes_a_reason_which_is_kept_with_what_the_rule_said(
    db: Database, data_dir: Path, make: Any, named: str
) -> None:
    made, before = make(db, data_dir), registry.serving(db).revision
    for blank in ("", "  ", "\n\t", "\u200b\u2060\u3164", "\0"):
        with pytest.raises(peoples_decisions.PromotionAgainstRule) as refused:
            peoples_decisions.promote(db, data_dir, made.revision, "ann", blank)
        assert named in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="at most 1000"):
        peoples_decisions.promote(db, data_dir, made.revision, "ann", "x" * 1001)
    assert registry.serving(db).revision == before
    assert [row.action for row in decision_store.decisions(db)].count("promote") == int(before != "base")
    peoples_decisions.promote(db, data_dir, made.revision, "ann", f"  {WHY}\ud800 ")
    assert registry.serving(db).revision == made.revision
    record = decision_store.decisions(db)[0]
    assert (record.action, record.revision, record.decided_by) == ("promote", made.revision, "ann")
    assert record.created
    assert record.reason.startswith(f"{WHY}\ufffd. ")
    assert named.replace("The rule says", "The rule said") in record.reason


def test_what_the_rule_says_to_promote_needs_no_reason_and_going_back_never_does(db: Database, data_dir: Path) -> None:
    made = undecided(db, data_dir)
    people_say(db, 15, "candidate")
    assert peoples_decisions.objection(db, made) == ""
    peoples_decisions.promote(db, data_dir, made.revision, "ann")
    peoples_decisions.promote(db, data_dir, "base", "ann")
    peoples_decisions.promote(db, data_dir, made.revision, "ann")
    assert [row.action for row in decision_store.decisions(db)] == ["go-back", "go-back", "promote"]
    again, back, _first = (row.reason for row in decision_store.decisions(db))
    assert again.startswith("The rule said: promote.")
    assert back == "no reason given"


def test_what_was_promoted_against_the_rule_and_taken_back_takes_a_reason_again(db: Database, data_dir: Path) -> None:
    made = undecided(db, data_dir)
    peoples_decisions.promote(db, data_dir, made.revision, "ann", WHY)
    peoples_decisions.promote(db, data_dir, "base", "ann")
    gone = registry.by_revision(db, made.revision)
    assert peoples_decisions.objection(db, gone).startswith("The rule says: ")
    with pytest.raises(peoples_decisions.PromotionAgainstRule):
        peoples_decisions.promote(db, data_dir, made.revision, "ann")
    assert peoples_decisions.promote(db, data_dir, made.revision, "ann", WHY).against
    other = make_candidate(db, data_dir, "dpo-9")
    peoples_decisions.promote(db, data_dir, other.revision, "ann", WHY)
    assert not peoples_decisions.promote(db, data_dir, made.revision, "ann").against, (
        "it was followed, not gone back from"
    )
    peoples_decisions.promote(db, data_dir, other.revision, "ann", WHY)
    assert not peoples_decisions.promote(db, data_dir, made.revision, "ann").against, "only the later one was"


def test_where_nobody_is_to_be_advised_nothing_is_against_the_rule(db: Database, data_dir: Path) -> None:
    made = undecided(db, data_dir)
    rule_store.set_rule(db, {"mode": "never"})
    assert not peoples_decisions.promote(db, data_dir, made.revision, "ann").against
    assert registry.serving(db).revision == made.revision


def test_the_rule_is_asked_at_the_moment_of_the_promotion(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the click and the promotion the files are read: what is judged meanwhile counts."""
    made = undecided(db, data_dir)
    people_say(db, 15, "candidate")
    assert candidate_decision.decision_on(db, made).says == "promote"
    verify = registry.verify

    def meanwhile(data_dir: Path, policy: Policy) -> None:
        verify(data_dir, policy)
        people_say(db, 15, "serving")

    monkeypatch.setattr(registry, "verify", meanwhile)
    with pytest.raises(peoples_decisions.PromotionAgainstRule, match="The rule says: not enough evidence"):
        peoples_decisions.promote(db, data_dir, made.revision, "ann")
    assert registry.serving(db).revision == "base"


def test_the_loop_never_promotes_against_the_rule(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = undecided(db, data_dir)
    people_say(db, 15, "candidate")
    rule_store.set_rule(db, {"mode": "automatic"})
    verify = registry.verify

    def meanwhile(data_dir: Path, policy: Policy) -> None:
        verify(data_dir, policy)
        people_say(db, 15, "serving")

    monkeypatch.setattr(registry, "verify", meanwhile)
    assert gate_acts.act(db, data_dir) is None
    assert registry.serving(db).revision == "base"
    assert registry.by_id(db, made.id).status == "candidate"
    assert decision_store.decisions(db) == []


def test_what_was_promoted_by_a_second_admin_meanwhile_is_not_undone_without_a_reason(
    db: Database, data_dir: Path
) -> None:
    made, other = undecided(db, data_dir), make_candidate(db, data_dir, "sft-2")
    people_say(db, 15, "candidate")
    peoples_decisions.promote(db, data_dir, other.revision, "kim", WHY)
    with pytest.raises(peoples_decisions.PromotionAgainstRule):
        peoples_decisions.promote(db, data_dir, made.revision, "ann")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [(SFTSpec(), "no reward"), (DPOSpec(), "no reward"), (PPOSpec(reward_model="rm-1"), None)],
)
def test_whether_a_reward_took_part_is_told_from_the_training(
    db: Database, data_dir: Path, spec: TrainingSpec, expected: str | None
) -> None:
    """Also of merged weights, whose own job is no training, and of checks of an earlier version."""
    made = make_candidate(db, data_dir)
    db.write("UPDATE job SET kind = ?, spec = ? WHERE id = ?", (spec.kind, to_json(spec), made.job_id))
    merging = job_store.enqueue(db, MergeSpec(revision=made.revision), "ann")
    merged = registry.add(
        db, revision="merge-9", algorithm="merge", base=BASE_NAME, parent_id=1, job_id=merging, path="x", sha256="x"
    )
    pulled = registry.add(
        db, revision="pulled-9", algorithm="pulled", base=BASE_NAME, parent_id=1, job_id=None, path="y", sha256="y",
        source="a/b@c",
    )  # fmt: skip
    for policy, said in ((made, expected), (merged, expected), (pulled, "made elsewhere")):
        finish_check(db, data_dir, policy)
        assert candidate_findings.findings(db, policy).reward_hacking == said


# ---------------------------------------------------------------------------------------------- reasons and figures
def test_a_persons_reason_stands_before_the_rules_advice(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    people_say(db, 15, "candidate")
    said = peoples_decisions.reason(db, made, peoples_decisions.clean_reason("  I read twenty \n of them  "))
    assert said.startswith("I read twenty of them. The rule said: promote. People find it better")
    assert peoples_decisions.reason(db, made, "").startswith("The rule said: promote.")
    rule_store.set_rule(db, {"mode": "never"})
    assert peoples_decisions.reason(db, made, "My own choice!") == "My own choice!", "nobody was advised"
    assert peoples_decisions.reason(db, registry.by_revision(db, "base"), "") == "no reason given"
    with pytest.raises(UserError, match="at most 1000"):
        peoples_decisions.clean_reason("x" * 1001)
    for told in ("ok", "👍", "1", "لا", "not “safe”"):
        assert peoples_decisions.clean_reason(told) == told


def test_findings_are_kept_until_something_changes(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    finish_check(db, data_dir, made)
    people_say(db, 3, "candidate")
    found, decision = candidate_decision.decided(db, made)
    again = candidate_decision.decided(db, made)
    assert again[0] is found
    assert again[1] is decision is candidate_decision.decision_on(db, made)
    people_say(db, 1, "candidate")
    assert len(candidate_decision.decided(db, made)[0].people) == 4
    found = candidate_decision.decided(db, made)[0]
    # A judge's evidence is that of the rubric that holds.
    judge_store.write_rubric(db, "Which answer is shorter?", ["It is short."], 0, "ann")
    assert candidate_decision.decided(db, made)[0] is not found


def test_people_and_what_was_judged_are_counted_once_whatever_the_scope(db: Database, data_dir: Path) -> None:
    ann = access.add_account(db, "ann", "annotator", "ann's password")

    def judge(count: int) -> None:
        for prompt in seed_prompts(db, count)[-count:]:
            comparison_store.add_comparison(
                db, [make_response(prompt, f"{word} to {prompt.text}") for word in ("yes", "no")]
            )
            claim = handing_out.claim_next(db, ann.id)
            assert claim is not None
            judging.judge(db, ann.id, claim.nonce, act("left-clearly"))

    def train(spec: TrainingSpec, parent: str, kind: Any = "policy") -> Policy:
        job_id = job_submission.submit(db, data_dir, replace(spec, parent=parent), "ann")
        job_store.claim(db, job_id, "w")
        job_table.finish(db, job_id, "w", {})
        return registry.add(
            db, revision=f"{spec.kind}-{job_id}", algorithm=spec.kind, base=BASE_NAME, job_id=job_id, path="x",
            kind=kind, parent_id=registry.by_revision(db, parent).id, sha256="x",
        )  # fmt: skip

    base = registry.by_revision(db, "base")
    judge(10)
    first = train(DPOSpec(scope="new"), "base")
    judge(9)
    second, whole = train(DPOSpec(scope="new"), first.revision), train(DPOSpec(scope="all"), first.revision)
    assert [win_rates.judged_for(db, one) for one in (base, first, second, whole)] == [0, 10, 19, 19]
    judge(2)
    reward = train(RewardModelSpec(scope="all"), "base", "reward-model")
    by_ppo = train(PPOSpec(reward_model=reward.revision, accepted_accuracy=0.01), first.revision)
    assert win_rates.judged_for(db, by_ppo) == 21


def test_what_was_found_of_policies_that_thought_decides_nothing_while_they_do_not(
    db: Database, data_dir: Path
) -> None:
    made = make_candidate(db, data_dir)
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    judge_says(db, judge, made)
    people_say(db, 15, "candidate")
    finish_check(db, data_dir, made, "j")
    before, decision = candidate_findings.findings(db, made), candidate_decision.decision_on(db, made)
    assert (before.number, decision.says) == (1, "promote")
    registry.set_thinking(db, "template")
    after = candidate_findings.findings(db, made)
    assert (after.people, after.judges, after.prompts, after.left_to_judges) == ((), (), None, {})
    assert candidate_decision.decision_on(db, made).says == "not enough evidence"
    assert held_out_sets.compared_before(db, made, registry.serving(db)) == {}
    # A check of them as they are now is another question, with a chance of its own to be wrong.
    finish_check(db, data_dir, made)
    assert candidate_findings.findings(db, made).number == 2
    registry.set_thinking(db, "off")
    again = candidate_findings.findings(db, made)
    assert (again.people, again.judges, again.prompts) == (before.people, before.judges, before.prompts)
    assert candidate_decision.decision_on(db, made).says == "promote"


def test_a_check_counts_by_when_it_ran_and_where_it_does_not_the_loop_makes_another(
    db: Database, data_dir: Path
) -> None:
    """Asked for while policies thought, it measures them as they are when a worker takes it."""
    made = make_candidate(db, data_dir, checked=True)
    queued = job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision), "ann")
    registry.set_thinking(db, "template")
    finish_job(db, queued)
    assert candidate_findings.findings(db, made).prompts == 60
    assert controller.without_check(db, job_store.checks(db)) == []
    registry.set_thinking(db, "off")
    assert candidate_findings.findings(db, made).prompts is None
    without = controller.without_check(db, job_store.checks(db))
    assert controller.unchecked_candidates(db, without) == [made.revision]
    said = check_status.check_status(db, made).sentence
    assert said == f"Its check (job {queued}) is of when policies answered otherwise than now. Check it again."


def test_what_comes_after_a_change_counts_though_the_clock_was_set_back(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_candidate(db, data_dir, checked=True)
    with monkeypatch.context() as ahead:
        ahead.setattr(answer_changes, "now", lambda: "2999-01-01")
        registry.set_thinking(db, "template")
    assert candidate_findings.findings(db, made).prompts is None
    finish_check(db, data_dir, made)
    assert candidate_findings.findings(db, made).prompts == 60
    assert controller.without_check(db, job_store.checks(db)) == []
    (job_id,) = db.rows("SELECT max(id) AS id FROM job")
    db.connection.execute("UPDATE job SET finished = '2999-01-01' WHERE id = ?", (job_id["id"],))
    kept = decision_cache.cached(db, ("what is kept",), object)
    finish_check(db, data_dir, made)
    assert decision_cache.cached(db, ("what is kept",), object) is not kept


def test_whether_a_base_thinks_stays_as_it_is_while_a_check_runs(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    job_store.claim(db, job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision), "ann"), "w")
    with pytest.raises(UserError, match="A check is running"):
        registry.set_thinking(db, "template")
    assert registry.no_thinking(db)


def test_whether_a_base_thinks_withdraws_what_was_answered_otherwise(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir, number=4)
    people_say(db, 1, "candidate")
    (policies_own,) = seed_comparisons(db, 1)
    (imported,) = seed_comparisons(db, 1)
    db.write("UPDATE comparison SET model_id = NULL WHERE id = ?", (imported,))
    assert registry.set_thinking(db, "template") == 4
    assert registry.set_thinking(db, "template") == 0
    assert pair_outcomes.open_to_people(db, made.id, 1) == 0
    asked = {row["id"]: row["asks"] for row in db.rows("SELECT id, asks FROM comparison WHERE taken = 0")}
    assert (asked.pop(imported), asked[policies_own], set(asked.values())) == ("people", "nobody", {"nobody"})
    # Nobody takes them up again who has people compare what was left to judges, and what was said stays said.
    assert policy_comparisons.ask_people_of_candidate(db, made.id, 1) == 0
    assert pair_outcomes.open_to_people(db, made.id, 1) == 0
    assert pair_outcomes.could_be_asked(db, made, registry.by_revision(db, "base")) == 0
    assert db.value("SELECT count(*) FROM current_judgement") == 1


def test_saying_for_the_first_time_that_a_base_thinks_as_it_did_withdraws_nothing(db: Database, data_dir: Path) -> None:
    """Of a data directory from before there was the choice, also while a check runs."""
    made = make_candidate(db, data_dir, number=4)
    db.write("UPDATE model SET thinking = NULL WHERE revision = 'base'")
    seed_comparisons(db, 1)
    before = db.rows("SELECT id, asks, state FROM comparison")
    assert pair_outcomes.open_to_people(db, made.id, 1) == 4
    job_store.claim(db, job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision), "ann"), "w")
    assert registry.set_thinking(db, "template") == 0
    assert registry.by_revision(db, "base").thinking == "template"
    assert db.rows("SELECT id, asks, state FROM comparison") == before


def test_people_rate_a_policy_against_the_base(db: Database, data_dir: Path) -> None:
    made = make_candidate(db, data_dir)
    base = registry.by_revision(db, "base")
    assert win_rates.by_people(db, made, base) is None
    people_say(db, 6, "candidate")
    people_say(db, 2, "serving")
    found = win_rates.by_people(db, made, base)
    assert found is not None
    assert (found.value, found.n) == (0.75, 8)
    assert found.low < 0.5 < 0.75 < found.high


class Brackets(NullTranslations):
    """A language in which every sentence stands in brackets, several beside each other and bare figures as they are."""

    def gettext(self, message: str) -> str:
        return f"⟦{message}⟧" if re.search("[a-z]", FIELD.sub("", message)) else message

    def ngettext(self, one: str, several: str, count: int) -> str:
        return self.gettext(one if count == 1 else several)


def test_each_admin_reads_the_decision_and_its_record_in_their_own_language(db: Database, data_dir: Path) -> None:
    """What a decision comes to is kept between requests; its words are not those of whoever asked first."""
    made = turned_down(db, data_dir)
    english = candidate_decision.decision_on(db, made)
    with speaking(Language(code="xx", sentences=Brackets())):
        marked = candidate_decision.decision_on(db, made)
        assert peoples_decisions.objection(db, made).startswith("⟦The rule says: reject.⟧ ⟦People find it worse")
        peoples_decisions.promote(db, data_dir, made.revision, "ann", WHY)
        said = [gate_words.criterion_words(one) for one in marked.criteria]
        assert [one.name for one in said if "⟦" not in one.name] == []
    assert english == marked
    assert gate_words.sentence(english).startswith("People find it worse")
    reason = decision_store.decisions(db)[0].reason
    assert reason.startswith(f"{WHY}. The rule said: reject. People find it worse")
    assert "⟦" not in reason
    with speaking(Language(code="xx", sentences=Brackets())):
        assert decision_store.decisions(db)[0].reason.startswith(
            f"{WHY}. ⟦The rule said: reject.⟧ ⟦People find it worse"
        )


def test_each_admin_reads_the_figures_over_the_iterations_in_their_own_language(db: Database, data_dir: Path) -> None:
    names = ("base", make_candidate(db, data_dir).revision)
    checked = {name: FinishedCheck(1, CheckSpec(), rewarded(1.0)) for name in names}
    english, _ = iterations_tab.over_view(db, checked)
    with speaking(Language(code="xx", sentences=Brackets())):
        marked, _ = iterations_tab.over_view(db, checked)
    assert "Nobody has compared these" in english
    assert "⟦Nobody has compared these" in marked
    assert iterations_tab.over_view(db, checked)[0] == english
