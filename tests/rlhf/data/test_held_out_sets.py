"""Held-out prompts: drawn at random and grown, the gate's own among them, and what a further check compares on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from annotation.database import Database
from annotation.exports.frozen_rows import PromptRow
from annotation.imports.importing import starter_prompts
from annotation.jobs import job_table
from annotation.metrics.evidence import LeftPrompt
from annotation.records import Feedback, Prompt, UserError, now
from annotation.store import comparison_store, policy_comparisons, project_store, prompt_store, setting_store
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data import held_out_sets, snapshots
from rlhf.data.held_out_sets import LEAST, MOST_WEIGHED, gate_set_status
from rlhf.data.snapshots import CountedRows, prompt_rows, store_snapshot
from rlhf.evaluation import pair_outcomes
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import candidate_findings
from rlhf.evaluation.gate_words import gate_set_sentence
from rlhf.generation import prompt_set_spec
from rlhf.generation.prompt_set_spec import PromptSetSpec
from rlhf.jobs import job_store
from rlhf.judges import judge_store
from rlhf.loop import controller
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy
from rlhf.submission import job_submission
from tests.conftest import BASE_NAME, make_response, seed_prompts

pytestmark = pytest.mark.slow


def ids_of(data_dir: Path, sha256: str) -> list[int]:
    return [prompt.id for prompt in held_out_sets.prompts_of(data_dir, sha256)]


def candidate(db: Database, number: int = 1) -> Policy:
    """A candidate of a training."""
    job_id = job_store.enqueue(db, SFTSpec(), "ann")
    job_store.claim(db, job_id, "w")
    made = registry.add(
        db, revision=f"sft-{number}", algorithm="sft", base=BASE_NAME, parent_id=1, job_id=job_id, path="x", sha256="x"
    )
    job_table.finish(db, job_id, "w", {"revision": made.revision})
    return made


def compared_prompts(data_dir: Path, spec: CheckSpec) -> list[int]:
    """The prompts on which a check compares, by id, in the order of their seeds."""
    return ids_of(data_dir, spec.compared_set or spec.prompt_set)


def checked(db: Database, data_dir: Path, made: Policy, against: str = "serving") -> CheckSpec:
    """A finished check as its worker leaves it: both have answered, and what differs is before people; its spec."""
    job_id = job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision, against=against), "ann")
    job = job_store.claim(db, job_id, "w")
    assert job is not None
    spec = job.spec
    assert isinstance(spec, CheckSpec)
    sides = (made, registry.by_revision(db, spec.against))
    answer(db, sides, ids_of(data_dir, spec.prompt_set), spec.seed)
    if spec.compared_set:
        answer(db, sides, compared_prompts(data_dir, spec), spec.compared_seed)
    on = held_out_sets.that_count(db, spec.gate_set)
    policy_comparisons.compare_policies(db, made.id, sides[1].id, "people", on, spec.people_share)
    job_table.finish(db, job_id, "w", {"win_rates": {}, "prompts": 60, "judged": {}})
    return spec


def answer(db: Database, sides: Sequence[Policy], prompt_ids: Sequence[int], seed: int) -> None:
    """Both policies answer, each prompt with its seed, what they have not answered with it before."""
    rows = db.rows("SELECT model_id, prompt_id, seed FROM response")
    known = {(row["model_id"], row["prompt_id"], row["seed"]) for row in rows}
    prompts = {prompt.id: prompt for prompt in prompt_store.prompts(db, "held-out")}
    for place, prompt_id in enumerate(prompt_ids):
        for side in sides:
            if (side.id, prompt_id, seed + place) not in known:
                text = f"{side.revision} answers {prompt_id} by {seed + place}"
                comparison_store.add_response(
                    db, make_response(prompts[prompt_id], text, side.id, seed + place), "check"
                )


# ---------------------------------------------------------------------------------------------------------- the draws
def test_the_set_is_drawn_at_random_and_its_seed_draws_it_again(db: Database, data_dir: Path) -> None:
    prompts = seed_prompts(db, 100, "held-out")
    made = held_out_sets.current(db, data_dir, 60)
    found = ids_of(data_dir, made.sha256)
    assert len(set(found)) == made.prompts == 60
    assert found == sorted(found)
    assert found != [prompt.id for prompt in prompts[:60]]
    assert made.seed is not None
    assert [prompt.id for prompt in held_out_sets.drawn(prompts, 60, made.seed)] == found
    assert held_out_sets.renew(db, data_dir, 60).seed != made.seed


def test_a_set_that_falls_short_takes_in_what_is_held_out_later_behind_its_prompts(
    db: Database, data_dir: Path
) -> None:
    seed_prompts(db, 30, "held-out")
    first = held_out_sets.current(db, data_dir, 60)
    seed_prompts(db, 50, "held-out")
    second = held_out_sets.current(db, data_dir, 60)
    assert (first.prompts, second.prompts, second.version) == (30, 60, 2)
    assert ids_of(data_dir, second.sha256)[:30] == ids_of(data_dir, first.sha256), "each keeps its place, and its seed"
    seed_prompts(db, 50, "held-out")
    assert held_out_sets.current(db, data_dir, 60) == second


def shouted(prompt: Prompt) -> Prompt:
    """The same prompt in other letters."""
    (message,) = prompt.messages
    return replace(prompt, messages=({**message, "content": message["content"].upper() + "!"},))


def test_of_prompts_that_say_the_same_one_is_drawn_and_none_where_the_other_set_has_it(
    db: Database, data_dir: Path
) -> None:
    prompts = seed_prompts(db, 70, "held-out")
    prompt_store.add_prompts(db, map(shouted, prompts[:50]))
    made = held_out_sets.current(db, data_dir, 60)
    known = [prompt_store.letters_of(prompt.messages) for prompt in held_out_sets.prompts_of(data_dir, made.sha256)]
    assert (len(known), len(set(known))) == (60, 60)
    assert 50 <= gate_set_status(db).missing <= 53, "the set has the others, and a run shows three"
    assert held_out_sets.gate_set(db) is None
    assert held_out_sets.renew(db, data_dir, 100).prompts == 70
    assert held_out_sets.renew(db, data_dir, 100).version == 2, "nothing else is said in the others"


def test_a_prompt_that_is_nearly_one_to_train_on_was_trained_on(db: Database, data_dir: Path) -> None:
    trained, held_out = seed_prompts(db, 1), shouted(seed_prompts(db, 1)[0])
    rows = CountedRows([PromptRow("train", trained[0].messages, trained[0].id)])
    snapshot = store_snapshot(db, data_dir, rows)
    job_id = job_store.enqueue(db, SFTSpec(snapshot=snapshot), "ann")
    made = registry.add(
        db, revision="sft-1", algorithm="sft", base=BASE_NAME, parent_id=1, job_id=job_id, path="x", sha256="x"
    )
    assert held_out_sets.trained_on(db, data_dir, made, [held_out]) == [held_out]


def test_a_set_of_an_earlier_version_stays_as_it_is_and_says_how_it_came_about(db: Database, data_dir: Path) -> None:
    prompts = seed_prompts(db, 70, "held-out")
    old = {
        "version": 1,
        "prompts": 20,
        "created": "2026-01-01",
        "sha256": held_out_sets.freeze(db, data_dir, prompts[:20]),
    }
    setting_store.set_setting(db, held_out_sets.SETTING, [old])
    kept = held_out_sets.current(db, data_dir, 60)
    assert (kept.seed, kept.prompts, ids_of(data_dir, kept.sha256)) == (None, 20, [one.id for one in prompts[:20]])


def test_what_was_used_to_train_never_becomes_held_out(db: Database, data_dir: Path) -> None:
    prompts = seed_prompts(db, 400)
    answered, compared, frozen = prompts[:100], prompts[100:150], prompts[150:250]
    for prompt in answered:
        comparison_store.add_response(db, make_response(prompt, "yes"), "compare")
    for prompt in compared:
        comparison_store.insert_comparison(db, prompt.id)
    snapshot = store_snapshot(
        db, data_dir, CountedRows(row for row in prompt_rows(db) if row.prompt_id in {one.id for one in frozen})
    )
    assert held_out_sets.hold_out_more(db, data_dir) == 80, "a fifth of them"
    moved = {prompt.id for prompt in prompt_store.prompts(db, "held-out")}
    assert moved.isdisjoint(prompt.id for prompt in (*answered, *compared, *frozen))
    assert moved != {prompt.id for prompt in prompts[250:330]}, "not the first ones"
    assert held_out_sets.hold_out_more(db, data_dir) == 0
    seed_prompts(db, 200)
    (data_dir / "snapshots" / f"{snapshot}.jsonl").unlink()
    assert held_out_sets.hold_out_more(db, data_dir) == 0, "what was in it can't be told"


def test_a_prompt_that_is_nearly_there_twice_never_becomes_held_out(db: Database, data_dir: Path) -> None:
    """The other one may be trained on, or was."""
    twins = [
        Prompt(({"role": "user", "content": one.text.upper()},), "train", "again") for one in seed_prompts(db, 150)
    ]
    prompt_store.add_prompts(db, twins)
    assert held_out_sets.hold_out_more(db, data_dir) == 0
    seed_prompts(db, 20)
    assert held_out_sets.hold_out_more(db, data_dir) == 20
    frozen = Prompt(({"role": "user", "content": "What was trained on?"},), "train", "test")
    store_snapshot(db, data_dir, CountedRows([PromptRow("train", frozen.messages, 0)]))
    prompt_store.add_prompts(db, [Prompt(({"role": "user", "content": "what was trained on"},), "train", "test")])
    assert held_out_sets.hold_out_more(db, data_dir) == 0


def test_a_small_project_keeps_its_prompts_and_is_told_that_it_takes_more(db: Database, data_dir: Path) -> None:
    seed_prompts(db, 200)
    assert held_out_sets.name_of_current(db, data_dir, 60) == ""
    assert held_out_sets.hold_out_more(db, data_dir) == 0


# --------------------------------------------------------------------------------------------------- the gate's own set
def test_the_starter_prompts_make_one_set_and_that_is_said(db: Database, data_dir: Path) -> None:
    prompt_store.add_prompts(db, starter_prompts())
    spec = checked(db, data_dir, candidate(db))
    assert (spec.compared_set, spec.gate_set) == ("", 0)
    assert len(ids_of(data_dir, spec.prompt_set)) == LEAST
    assert "It goes by" not in gate_set_sentence(gate_set_status(db))
    assert "60 more held-out prompts are needed" in gate_set_sentence(gate_set_status(db))


def test_the_gates_own_prompts_are_compared_and_shown_nowhere(db: Database, data_dir: Path) -> None:
    seed_prompts(db, 200, "held-out")
    made = candidate(db)
    spec = checked(db, data_dir, made)
    own, reported = {prompt.id for prompt in prompt_store.reserved_prompts(db)}, ids_of(data_dir, spec.prompt_set)
    assert spec.gate_set == 1
    assert len(own) >= LEAST
    assert own.isdisjoint(reported)
    assert set(compared_prompts(data_dir, spec)) <= own
    asked = {row["prompt_id"] for row in db.rows("SELECT prompt_id FROM comparison WHERE asks = 'people'")}
    assert asked == set(compared_prompts(data_dir, spec)), "what people say of the others would decide nothing"
    # Neither ordinary comparisons nor answers to a prompt set nor sample answers of runs.
    for shown in (
        [prompt for prompt, _, _ in prompt_store.prompts_to_answer(db, 1, "held-out", 200)],
        prompt_set_spec.prompts_of(db, PromptSetSpec(split="held-out")),
        held_out_sets.sample_prompts(db),
        held_out_sets.open_prompts(db),
    ):
        assert shown
        assert own.isdisjoint(prompt.id for prompt in shown)


def judge_everything(db: Database, made: Policy, flag: str | None = None) -> None:
    """A person finds the candidate better in everything that was compared, whoever was asked."""
    db.connection.execute("INSERT INTO annotator (id, name, role, created) VALUES (90, 'eve', 'annotator', '')")
    for row in db.rows("SELECT id FROM comparison WHERE candidate_id = ?", (made.id,)):
        claim = {"nonce": str(row["id"]), "comparison_id": row["id"], "annotator_id": 90, "purpose": "own", "slot": 0}
        times = {"shown_order": "[0, 1]", "state": "judged", "created": "", "expires": ""}
        claim_id = db.insert("claim", {**claim, **times, "kind": "pair"})
        said = {"outcome": "ranked", "ranking": "[1, 2]", "strength": 2, "shown_order": "[0, 1]", "flag": flag}
        db.insert(
            "judgement",
            {**said, "claim_id": claim_id, "comparison_id": row["id"], "annotator_id": 90, "purpose": "own",
             "kind": "pair", "seconds": 1.0, "created": now()},
        )  # fmt: skip


def test_only_outcomes_on_the_gates_own_prompts_decide_and_no_accuracy_is_measured_on_them(
    db: Database, data_dir: Path
) -> None:
    seed_prompts(db, 200, "held-out")
    made = candidate(db)
    spec = checked(db, data_dir, made)
    judge_everything(db, made)
    compared = compared_prompts(data_dir, spec)
    assert len(pair_outcomes.outcomes(db, made.id, 1)) == len(compared) + 60
    assert len(candidate_findings.findings(db, made).people) == len(compared)
    rows = list(snapshots.collect(db, registry.by_revision(db, "base"), "all", 10_000))
    assert {row.prompt_id for row in rows} == set(ids_of(data_dir, spec.prompt_set))


def test_the_gate_is_given_the_chance_of_each_outcome_and_what_was_left_to_judges(db: Database, data_dir: Path) -> None:
    """Which prompts were left stays so when somebody has people compare them too: bets that were made would change."""
    seed_prompts(db, 200, "held-out")
    made = candidate(db)
    judge_store.add(db, "j", "local", {"model": "base"}, "ann")
    project_store.set_feedback(db, Feedback(check_share=0.4))
    spec = checked(db, data_dir, made)
    drawn = {row["prompt_id"] for row in db.rows("SELECT prompt_id FROM comparison WHERE people_drawn")}
    left = candidate_findings.findings(db, made).left_to_judges
    assert set(left) == set(compared_prompts(data_dir, spec)) - drawn
    assert list(left) != sorted(left), "their order says nothing about them"
    assert 0 < len(drawn) < 60
    on = held_out_sets.that_count(db, spec.gate_set)
    assert policy_comparisons.ask_people_of_candidate(db, made.id, 1, on) == len(left)
    judge_everything(db, made)
    found = candidate_findings.findings(db, made)
    assert list(found.left_to_judges) == list(left)
    assert set(left.values()) == {LeftPrompt(since=0)}
    assert set(found.left_to_judges.values()) == {LeftPrompt(since=0, given=0)}, "before any judgement"
    assert [one.probability for one in found.people] == [0.4] * 60


def test_flagged_comparisons_count(db: Database, data_dir: Path) -> None:
    """Flags are put on bad answers: without these comparisons a candidate's worst answers would not count."""
    seed_prompts(db, 60, "held-out")
    made = candidate(db)
    checked(db, data_dir, made)
    judge_everything(db, made, "harmful")
    assert len(candidate_findings.findings(db, made).people) == 60


def test_decisions_are_counted_and_a_worn_set_is_replaced_where_prompts_suffice(db: Database, data_dir: Path) -> None:
    seed_prompts(db, 200, "held-out")
    used = []
    for number in range(MOST_WEIGHED + 1):
        made = candidate(db, number)
        spec = checked(db, data_dir, made)
        used.append(spec.gate_set)
        assert len(held_out_sets.weighed(db, 1)) == min(number + 1, MOST_WEIGHED)
        decision_store.reject(db, made.revision, "ann", "no")
    assert used == [1] * MOST_WEIGHED + [2], "a comparison that has begun stays with its version"
    first, second = (prompt_store.reserved_prompts(db, version) for version in (1, 2))
    assert len(held_out_sets.without(first, second)) == len(first)
    for number in range(MOST_WEIGHED):
        made = candidate(db, 100 + number)
        assert checked(db, data_dir, made).gate_set == 2, "there are too few for a third"
        decision_store.reject(db, made.revision, "ann", "no")
    said = gate_set_sentence(gate_set_status(db))
    assert f"{MOST_WEIGHED + 1} candidates have been weighed on them" in said
    assert "more held-out prompts, and the next candidate has a new version" in said


def test_a_candidate_that_the_gate_has_looked_at_counts_once_for_each_set(db: Database, data_dir: Path) -> None:
    """However often it is checked, turned down and taken up again; also where nobody ever decides on it."""
    seed_prompts(db, 200, "held-out")
    made, other = candidate(db, 1), candidate(db, 2)
    assert len(held_out_sets.weighed(db, 1)) == 0
    for _ in range(2):
        checked(db, data_dir, made)
        decision_store.reject(db, made.revision, "ann", "no")
        decision_store.take_back_rejection(db, made.revision, "ann")
    assert len(held_out_sets.weighed(db, 1)) == 1
    assert candidate_findings.findings(db, made).carried == 0, "others, before it"
    checked(db, data_dir, other)
    assert (len(held_out_sets.weighed(db, 1)), len(held_out_sets.weighed(db, 0))) == (2, 0)
    assert [candidate_findings.findings(db, one).carried for one in (made, other)] == [0, 1]


def test_what_was_decided_by_or_shown_is_not_reserved(db: Database, data_dir: Path) -> None:
    """In a shared set further checks compare on prompts that no report shows; they have decided all the same."""
    seed_prompts(db, 100, "held-out")
    made, base = candidate(db), registry.by_revision(db, "base")
    for _ in range(2):
        assert checked(db, data_dir, made).gate_set == 0
    assert len(held_out_sets.compared_before(db, made, base)) == 100
    decision_store.reject(db, made.revision, "ann", "no")
    seed_prompts(db, 20, "held-out")
    assert held_out_sets.reserve(db) is None
    assert "1 candidate has been weighed on them. For a set of its own" in gate_set_sentence(gate_set_status(db))
    assert "40 more held-out prompts are needed" in gate_set_sentence(gate_set_status(db))
    seed_prompts(db, 40, "held-out")
    assert held_out_sets.reserve(db) is not None
    reserved = held_out_sets.that_count(db, 1)
    assert reserved is not None
    assert not reserved & set(held_out_sets.compared_before(db, made, base))


def test_what_has_not_arrived_as_a_whole_is_not_reserved(db: Database) -> None:
    """Were the import given up, its prompts would be gone out of the set."""
    seed_prompts(db, 60 + held_out_sets.SAMPLE_PROMPTS, "held-out")
    with db.transaction() as connection:
        words = dict.fromkeys(("name", "sha256", "format", "counts", "requested_by", "created"), "")
        connection["import"].insert({"id": 7, **words})
        connection.execute("UPDATE prompt SET import_id = 7")
    setting_store.set_setting(db, setting_store.UNFINISHED, 7)
    assert (held_out_sets.reserve(db), held_out_sets.can_measure(db)) == (None, False)
    db.connection.execute("DELETE FROM setting WHERE key = ?", (setting_store.UNFINISHED,))
    made = held_out_sets.reserve(db)
    assert made is not None
    assert (made.prompts, held_out_sets.can_measure(db)) == (60, True)


def test_what_people_have_compared_otherwise_is_reserved_last_and_that_is_said(db: Database) -> None:
    seen = seed_prompts(db, 70, "held-out")[3:60]  # the first three are what runs are asked
    for prompt in seen:
        assert comparison_store.add_comparison(
            db, [make_response(prompt, f"{word} to {prompt.id}") for word in ("yes", "no")]
        )
    made = held_out_sets.reserve(db)
    assert made is not None
    assert (made.prompts, made.seen) == (60, 50), "10 that nobody has seen, and 50 of the others"
    assert "50 of them people or judges had compared answers to before" in gate_set_sentence(gate_set_status(db))
    seed_prompts(db, 130, "held-out")
    fresh = held_out_sets.reserve(db)
    assert fresh is not None
    assert (fresh.prompts, fresh.seen) == (65, 0)


# ------------------------------------------------------------------------------------------------------- further checks
@pytest.mark.parametrize("count", [200, 100])
def test_further_checks_take_prompts_never_compared_and_repeat_when_none_is_left(
    db: Database, data_dir: Path, count: int
) -> None:
    """With a set of the gate's own (200) and without (100)."""
    seed_prompts(db, count, "held-out")
    made = candidate(db)
    specs = [checked(db, data_dir, made) for _ in range(2)]
    pool = held_out_sets.that_count(db, specs[0].gate_set) or {
        prompt.id for prompt in prompt_store.prompts(db, "held-out")
    }
    first, second = (compared_prompts(data_dir, spec) for spec in specs)
    assert len(first) == 60
    assert len(second) == min(60, len(pool) - 60)
    assert set(first).isdisjoint(second)
    assert {spec.prompt_set for spec in specs} == {specs[0].prompt_set}, "the report speaks of the same prompts"
    assert {(spec.seed, spec.gate_set) for spec in specs} == {(CheckSpec.seed, specs[0].gate_set)}
    while len(asked := {one for spec in specs for one in compared_prompts(data_dir, spec)}) < len(pool):
        specs.append(checked(db, data_dir, made))
    assert asked == pool
    again = checked(db, data_dir, made)
    assert set(compared_prompts(data_dir, again)) <= pool
    answers = [
        {(one, spec.compared_seed + place) for place, one in enumerate(compared_prompts(data_dir, spec))}
        for spec in (*specs, again)
    ]
    assert sum(map(len, answers)) == len(set.union(*answers)), "a prompt that is asked again is answered anew"


def test_the_loop_and_the_button_take_the_next_prompts_alike(db: Database, data_dir: Path) -> None:
    seed_prompts(db, 100, "held-out")
    made = candidate(db)
    checked(db, data_dir, made)
    frozen = {
        job_submission.freeze(db, data_dir, spec)
        for spec in (controller.next_check(made.revision, None), CheckSpec(candidate=made.revision))
    }
    (spec,) = frozen
    assert isinstance(spec, CheckSpec)
    assert len(compared_prompts(data_dir, spec)) == 40


def test_a_check_that_failed_is_repeated_on_the_same_prompts(db: Database, data_dir: Path) -> None:
    """Answers that it has drawn are used again."""
    seed_prompts(db, 200, "held-out")
    made = candidate(db)
    first, second = (
        job_submission.freeze(db, data_dir, CheckSpec(candidate=made.revision, judges="")) for _ in range(2)
    )
    assert first == second


def test_a_check_against_another_policy_leaves_the_gates_own_prompts_alone(db: Database, data_dir: Path) -> None:
    """It decides nothing."""
    seed_prompts(db, 200, "held-out")
    made = candidate(db)
    decision_store.reject(db, made.revision, "ann", "no")
    specs = [checked(db, data_dir, made) for _ in range(2)]
    assert [spec.gate_set for spec in specs] == [0, 0]
    assert prompt_store.reserved_prompts(db) == []
    assert set(compared_prompts(data_dir, specs[0])).isdisjoint(compared_prompts(data_dir, specs[1]))


def test_a_policy_whose_files_are_deleted_is_not_checked(db: Database, data_dir: Path) -> None:
    seed_prompts(db, 60, "held-out")
    made = candidate(db)
    decision_store.mark_deleted(db, made, "ann")
    with pytest.raises(UserError, match=f"The files of '{made.revision}' were deleted"):
        job_submission.submit(db, data_dir, CheckSpec(candidate=made.revision), "ann")
    assert held_out_sets.versions(db) == [], "nothing was drawn for it"


def test_people_get_their_share_where_judges_compare_and_all_where_none_does_or_nothing_is_left(
    db: Database, data_dir: Path
) -> None:
    seed_prompts(db, 60, "held-out")
    made = candidate(db)
    project_store.set_feedback(db, Feedback(check_share=0.4))
    assert checked(db, data_dir, made).people_share == 1, "no judge"
    other = candidate(db, 2)
    judge_store.add(db, "j", "local", {"model": "base"}, "ann")
    specs = [checked(db, data_dir, other) for _ in range(2)]
    assert [spec.people_share for spec in specs] == [0.4, 1.0], "the second repeats prompts"


def test_held_out_prompts_that_are_gone_from_the_disk_are_said_to_be(db: Database, data_dir: Path) -> None:
    prompts = seed_prompts(db, 5, "held-out")
    made = held_out_sets.current(db, data_dir, 60)
    (data_dir / "snapshots" / f"{made.sha256}.jsonl").unlink()
    with pytest.raises(UserError, match="is gone"):
        held_out_sets.prompts_of(data_dir, made.sha256)
    renewed = held_out_sets.renew(db, data_dir, 60)
    assert ids_of(data_dir, renewed.sha256) == [prompt.id for prompt in prompts]


def test_a_set_that_is_gone_from_the_disk_is_drawn_anew_for_the_next_check(db: Database, data_dir: Path) -> None:
    seed_prompts(db, 5, "held-out")
    for wanted in (3, 60):  # one that has all that it wants, and one that falls short while there are more prompts
        made = held_out_sets.renew(db, data_dir, wanted)
        (data_dir / "snapshots" / f"{made.sha256}.jsonl").unlink()
        prompts = seed_prompts(db, 2, "held-out")
        again = held_out_sets.current(db, data_dir, 60)
        assert len(ids_of(data_dir, again.sha256)) == min(wanted, len(prompts))
