"""What is known of a run before it: read again only when it may have changed, and the same that submitting says."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.jobs import job_table
from annotation.records import Feedback, UserError, now
from annotation.store import comparison_store, project_store, setting_store, training_data
from annotation.workbench import exclusions
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.ppo.spec import SOME_ACCURACY, PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec, TrainingSpec
from rlhf.judges import judge_store
from rlhf.models import decision_store, registry
from rlhf.models.registry import Made, Policy, PolicyForm
from rlhf.models.self_test_results import SelfTestResult, keep_result
from rlhf.submission import form_fields, job_submission, preconditions, preflight
from rlhf.submission.preflight import Preflight
from tests import quantised_model
from tests.architectures import built
from tests.conftest import BASE_NAME, act, make_response, seed_comparisons, seed_prompts

BY_NAME = {form.name: form for form in form_fields.forms()}


@pytest.fixture
def judged(db: Database) -> Database:
    """Twelve pairs to train on, and a tie."""
    db.write("INSERT INTO annotator (name, role, created) VALUES ('ann', 'annotator', ?)", (now(),))
    judge(db, 12)
    judge(db, 1, "tie")
    return db


@pytest.fixture
def known(judged: Database, data_dir: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Preflight:
    """Of a data directory whose base model is the tiny one, under the usual name; no count of data takes long."""
    monkeypatch.setattr(preflight, "QUICK_SECONDS", math.inf)
    (data_dir / "models").mkdir()
    (data_dir / "models" / BASE_NAME).symlink_to(tiny_model)
    return Preflight(judged, data_dir, BASE_NAME)


def judge(db: Database, count: int, word: str = "left-clearly") -> None:
    """Make comparisons and judge them all with one word."""
    annotator = db.value("SELECT id FROM annotator WHERE name = 'ann'")
    seed_comparisons(db, count)
    for _ in range(count):
        claim = handing_out.claim_next(db, annotator)
        assert claim is not None
        judging.judge(db, annotator, claim.nonce, act(word))


def made(
    db: Database,
    spec: JobSpec,
    result: dict[str, Any] | None = None,
    kind: Made = "policy",
    form: PolicyForm = "lora",
    ground: Policy | None = None,
) -> Policy:
    """What a finished job has made, without files."""
    job_id = job_store.enqueue(db, spec, "ann")
    assert job_store.claim(db, job_id, "w") is not None
    assert job_table.finish(db, job_id, "w", result or {})
    revision = f"{spec.kind.replace('_', '-')}-{job_id}"
    return registry.add(
        db,
        revision=revision,
        algorithm=spec.kind,
        base=BASE_NAME,
        parent_id=1,
        job_id=job_id,
        path=f"adapters/{revision}",
        sha256="0" * 64,
        kind=kind,
        form=form,
        precision="nf4" if getattr(spec, "method", "") == "qlora" else "bf16",
        ground_id=None if ground is None else ground.id,
    )


def reward(db: Database, accuracy: float | None) -> Policy:
    """A reward model that is right so often."""
    quality = {"quality": {"accuracy": {"value": accuracy, "low": 0.0, "high": 1.0, "n": 40}}}
    return made(db, RewardModelSpec(method="lora"), quality, "reward-model")


# ---------------------------------------------------------------------------------------------------------------- data
def test_data_is_counted_again_only_when_it_may_have_changed(known: Preflight, judged: Database) -> None:
    first = known.data(DPOSpec(parent="base"))
    assert (first.items, first.found.left_out) == (12, {"tie": 1})
    assert known.data(replace(DPOSpec(parent="base"), epochs=9, beta=0.7, method="lora", seed=4)) is first
    assert known.data(DPOSpec(parent="base", scope="all")) is not first, "another choice is answered at once"
    judge(judged, 2)
    again = known.data(DPOSpec(parent="base"))
    assert again.items == 14
    exclusions.leave_out(judged, "ann", "a test", "ann")
    assert known.data(DPOSpec(parent="base")).items == 0


@pytest.mark.parametrize(
    ("spec", "change"),
    [
        (PPOSpec(parent="base"), lambda db: seed_prompts(db, 3)),
        (RewardModelSpec(), lambda db: judge(db, 3)),
    ],
    ids=["prompts", "judgements"],
)
def test_what_each_kind_learns_from_is_counted_anew(
    known: Preflight, judged: Database, spec: TrainingSpec, change: Callable[[Database], Any]
) -> None:
    before = known.data(spec).items
    change(judged)
    assert known.data(spec).items == before + 3


def judges_label(db: Database, count: int) -> None:
    """So many comparisons that an AI judge alone has judged."""
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    for comparison in seed_comparisons(db, count):
        row = {"comparison_id": comparison, "annotator_id": judge.id, "purpose": "judge", "kind": "pair"}
        said = {"outcome": "ranked", "ranking": "[1, 2]", "shown_order": "[0, 1]", "seconds": 0.0, "created": now()}
        with db.transaction():
            db.insert("judgement", {**row, **said})


@pytest.mark.parametrize("kind", [DPOSpec, RewardModelSpec])
def test_what_ai_judges_labelled_counts_by_its_weight_and_by_who_judges(
    known: Preflight, judged: Database, kind: type[DPOSpec | RewardModelSpec]
) -> None:
    judges_label(judged, 5)
    project_store.set_feedback(judged, Feedback(mode="ai"))
    spec = kind(parent="base")
    assert known.data(spec).items == 17
    assert known.data(replace(spec, ai_weight=0.0)).items == 12
    assert known.data(spec).items == 17
    project_store.set_feedback(judged, Feedback(mode="people"))
    assert known.data(spec).items == 12


def test_what_a_check_holds_out_or_reserves_is_counted_no_more(known: Preflight, judged: Database) -> None:
    """Of prompts that were there before."""
    seed_prompts(judged, 1)
    assert known.data(PPOSpec(parent="base")).items == 14
    judged.write("UPDATE prompt SET split = 'held-out' WHERE id IN (1, (SELECT max(id) FROM prompt))")
    assert known.data(PPOSpec(parent="base")).items == 12
    reward = known.data(RewardModelSpec(parent="base"))
    assert (reward.items, reward.found.held_out, reward.unchecked) == (11, 1, "")
    judged.write("UPDATE prompt SET held_for = 1 WHERE id = 1")
    assert known.data(RewardModelSpec(parent="base")).found.held_out == 0


def test_what_an_import_brought_counts_from_its_end_on(known: Preflight, judged: Database) -> None:
    prompt = seed_prompts(judged, 1)[-1]
    judged.write(
        "INSERT INTO import (name, sha256, format, counts, requested_by, created) VALUES ('x', '', '', '{}', '', '')"
    )
    comparison_store.add_response(judged, make_response(prompt, "So."), "demonstrate")
    judged.write("UPDATE response SET import_id = 1 WHERE purpose = 'demonstrate'")
    setting_store.set_setting(judged, setting_store.UNFINISHED, 1)
    spec = SFTSpec(parent="base")
    assert known.data(spec).items == 0
    judged.write("DELETE FROM setting WHERE key = ?", (setting_store.UNFINISHED,))
    assert known.data(spec).items == 1


def test_data_that_takes_long_to_count_rests_before_it_is_counted_again(
    known: Preflight, judged: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "QUICK_SECONDS", 0.1)
    assert preflight.rest_after(100.0, 100.05) == 100.05
    assert preflight.rest_after(100.0, 103.0) == 163.0
    monkeypatch.setattr(preflight, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(preflight, "REST_FACTOR", 1e9)
    first = known.data(DPOSpec(parent="base"))
    judge(judged, 1)
    assert known.data(DPOSpec(parent="base")) is first
    assert known.data(RewardModelSpec()).found.train == 13, "other data does not rest"


def test_only_so_much_is_kept() -> None:
    kept: dict[Any, Any] = {}
    for number in (1, 2, 3, 1, 4):
        preflight.cache(kept, number, str(number), 3)
    assert kept == {3: "3", 1: "1", 4: "4"}


# ------------------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (SFTSpec(), "Demonstrations to train on: 0. It takes at least 8"),
        (DPOSpec(method="qlora", lora_init="pissa"), "PiSSA"),
        (DPOSpec(parent="dpo-99"), "There is no policy 'dpo-99'"),
        (PPOSpec(), "PPO needs a reward model"),
        (SFTSpec(source="example:poems"), "example"),
    ],
)
def test_a_run_is_refused_as_submitting_it_would_be(known: Preflight, spec: TrainingSpec, reason: str) -> None:
    said = known.of(spec).problems
    assert any(reason in sentence for sentence in said)
    with pytest.raises(UserError) as refused:
        job_submission.submit(known.db, known.data_dir, spec, "ann")
    assert str(refused.value) in said


@pytest.fixture
def on(known: Preflight) -> Callable[[Path], None]:
    """Put another model into the place of the base."""

    def put(model: Path) -> None:
        place = known.data_dir / "models" / BASE_NAME
        place.unlink()
        place.symlink_to(model)

    return put


def refusal(db: Database, spec: TrainingSpec) -> str:
    """Why a job is refused, in one text; empty if it is not."""
    return " ".join(preconditions.check(db, spec))


def test_what_a_base_in_four_bits_cannot_do_is_refused(
    judged: Database, on: Callable[[Path], None], tiny_model: Path, tmp_path: Path
) -> None:
    assert refusal(judged, SFTSpec(method="full")) == ""
    on(quantised_model.build(tmp_path / "nf4", tiny_model))
    for full in (SFTSpec(method="full"), DPOSpec(method="full"), SFTSpec(method="full", precision="fp32")):
        assert "quantised already (4 bits), and only those in 16 or 32 bits can be trained" in refusal(judged, full)
    assert "PiSSA" in refusal(judged, SFTSpec(lora_init="pissa"))
    for method in ("lora", "qlora", "prompt"):
        assert refusal(judged, DPOSpec(method=method)) == ""
    assert refusal(judged, RewardModelSpec(dora=True)) == ""


def test_what_a_base_in_eight_bits_cannot_do_is_refused(
    judged: Database, on: Callable[[Path], None], tiny_model: Path, tmp_path: Path
) -> None:
    on(quantised_model.build(tmp_path / "int8", tiny_model, bits=8))
    assert "quantised already (8 bits), and can't be held in 4 bits" in refusal(judged, DPOSpec(method="qlora"))
    assert "DoRA needs them in" in refusal(judged, DPOSpec(method="lora", dora=True))
    assert "only those in 16 or 32 bits" in refusal(judged, SFTSpec(method="full"))
    assert refusal(judged, DPOSpec(method="lora")) == refusal(judged, SFTSpec(method="prompt")) == ""


def test_prompt_tuning_is_refused_on_a_base_that_does_not_take_virtual_tokens(
    judged: Database, on: Callable[[Path], None], tiny_model: Path
) -> None:
    on(tiny_model)
    for takes, said in ((True, ""), (False, "does not take virtual tokens as it takes words")):
        keep_result(
            judged.path.parent, tiny_model, SelfTestResult(packs=True, shares_prompts=True, virtual_tokens=takes)
        )
        assert said in refusal(judged, SFTSpec(method="prompt"))
        assert bool(refusal(judged, DPOSpec(method="prompt"))) != takes
        assert refusal(judged, SFTSpec(method="lora")) == ""


LONGROPE = {
    "original_max_position_embeddings": 256,
    "max_position_embeddings": 1024,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [9.0] * 4,
    },
}


@pytest.mark.parametrize(("family", "settings"), [("gpt2", {}), ("opt", {}), ("phi3", LONGROPE)])
def test_more_tokens_than_a_base_has_places_for_are_refused(
    judged: Database, on: Callable[[Path], None], tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    built(family, **settings).save_pretrained(tmp_path / family)
    on(tmp_path / family)
    said = "has places for 256 tokens, and an item may have {}: lower max_length"
    for method in ("lora", "full"):
        assert refusal(judged, DPOSpec(method=method, max_length=256)) == ""
        assert said.format(257) in refusal(judged, DPOSpec(method=method, max_length=257))
    assert said.format(258) in refusal(judged, DPOSpec(method="prompt", max_length=250, virtual_tokens=8))


@pytest.mark.parametrize(("kind", "scored"), [("llama", True), ("granite", False), ("gemma3", True)])
def test_a_reward_model_is_refused_where_transformers_can_make_none(
    judged: Database, on: Callable[[Path], None], tiny_model: Path, tmp_path: Path, kind: str, scored: bool
) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    config = json.loads((other / "config.json").read_text("utf-8"))
    (other / "config.json").write_text(json.dumps({**config, "model_type": kind}), "utf-8")
    on(other)
    assert ("has no scoring model of this base's kind" in refusal(judged, RewardModelSpec())) != scored
    assert refusal(judged, DPOSpec()) == ""


def test_it_is_the_weights_under_the_parent_that_count(
    known: Preflight, judged: Database, on: Callable[[Path], None], tiny_model: Path, tmp_path: Path
) -> None:
    """Weights of their own in 16 bits can be trained also where the base is quantised, and the other way round."""
    full = made(judged, SFTSpec(method="full"), form="full")
    adapter = made(judged, DPOSpec(method="lora"), ground=full)
    on_base = made(judged, DPOSpec(method="lora"))
    (known.data_dir / "adapters").mkdir()
    (known.data_dir / str(full.path)).symlink_to(tiny_model)
    on(quantised_model.build(tmp_path / "nf4", tiny_model))
    spec = DPOSpec(method="full", parent=full.revision, reference="parent")
    assert refusal(judged, spec) == ""
    assert "quantised" in refusal(judged, replace(spec, parent="base"))
    assert preconditions.merge_problem(judged, adapter) == ""
    assert "quantised (4 bits), and there are none in 16 bits" in preconditions.merge_problem(judged, on_base)
    with pytest.raises(UserError, match="none in 16 bits"):
        job_submission.submit(judged, known.data_dir, MergeSpec(revision=on_base.revision), "ann")
    said = refusal(judged, RewardModelSpec(parent=on_base.revision))
    assert said.endswith("is an adapter. Start from the base."), "nobody is sent to merge what can't be merged"


def test_a_configuration_that_cannot_be_read_is_named(
    judged: Database, on: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{", "utf-8")
    on(tmp_path)
    assert "config.json can't be read" in refusal(judged, DPOSpec())


def test_layers_that_the_model_has_not_are_refused_with_those_that_it_has(
    judged: Database, on: Callable[[Path], None], tmp_path: Path
) -> None:
    """PEFT would train nothing, or half of what was meant."""
    from transformers import GPT2Config, GPT2LMHeadModel

    named = SFTSpec(lora_targets="named", lora_layers="c_attn, q_proj")
    assert "needs layers named c_attn, and this model has none" in refusal(judged, named)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=512, vocab_size=50)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    on(tmp_path)
    said = refusal(judged, SFTSpec(lora_targets="attention"))
    assert "needs layers named q_proj, k_proj, v_proj, o_proj" in said
    assert "its linear layers are c_attn, c_fc, c_proj" in said
    assert "needs layers named q_proj" in refusal(judged, named)
    assert refusal(judged, replace(named, lora_layers="c_attn")) == refusal(judged, SFTSpec()) == ""
    assert refusal(judged, SFTSpec(method="full", lora_targets="attention")) == ""


def test_no_more_processes_than_there_are_gpus(
    judged: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in the place of the driver's, with one card, two, or none that answers."""
    driver = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    card = "echo 'Some Card, 81559, 80994, 9.0'\n"
    for cards, most in ((1, 1), (2, 2), (0, 64)):
        driver.write_text("#!/bin/sh\n" + card * cards + f"exit {0 if cards else 6}\n")
        driver.chmod(0o755)
        assert refusal(judged, DPOSpec(processes=most)) == ""
        said = refusal(judged, DPOSpec(processes=most + 1))
        assert (
            f"{most + 1} processes are more than this machine has {'GPUs' if cards else 'processors'} ({most})" in said
        )
        assert ("needs a GPU" in refusal(judged, DPOSpec(optimiser="adamw-8bit"))) == (cards == 0)


@pytest.mark.parametrize(
    "spec", [SFTSpec(method="lora"), DPOSpec(method="full"), RewardModelSpec(), PPOSpec(method="lora")],
    ids=lambda spec: spec.kind,
)  # fmt: skip
def test_nobody_is_told_to_merge_virtual_tokens(judged: Database, spec: TrainingSpec) -> None:
    tuned = made(judged, SFTSpec(method="prompt", virtual_tokens=6), form="prompt")
    said = refusal(judged, replace(spec, parent=tuned.revision))
    assert "Its virtual tokens can't be merged into weights" in said
    assert "start from the base" in said
    assert "merge it" not in said
    assert ("continue with prompt tuning of 6, or" in said) == (spec.kind in ("sft", "dpo"))


def test_few_pairs_are_refused_with_their_count_until_there_are_enough(known: Preflight, judged: Database) -> None:
    exclusions.leave_out(judged, "ann", "a test", "ann")
    (few,) = known.of(DPOSpec()).problems
    assert "Pairs to train on: 0. It takes at least 8" in few
    with pytest.raises(UserError) as refused:
        job_submission.submit(judged, known.data_dir, DPOSpec(), "ann")
    assert str(refused.value) == few
    exclusions.take_back(judged, "ann", "a mistake", "ann")
    assert known.of(DPOSpec()).problems == []


# ---------------------------------------------------------------------------------------------------------------- cost
def test_the_spec_is_the_one_that_would_be_queued(known: Preflight, judged: Database) -> None:
    for asked in (DPOSpec(model=BASE_NAME), SFTSpec(model=BASE_NAME, source="example:financial-sentiment")):
        planned = known.of(asked)
        queued = job_store.get(judged, job_submission.submit(judged, known.data_dir, asked, "ann")).spec
        assert isinstance(queued, TrainingSpec)
        assert replace(queued, snapshot="") == planned.spec
        assert planned.asked == asked
        assert planned.spec.learning_rate > 0
        assert getattr(planned.spec, "beta", 0.1) == 0.1


def test_a_reward_models_memory_is_that_of_the_largest_ranking(known: Preflight, judged: Database) -> None:
    annotator, prompt = judged.value("SELECT id FROM annotator WHERE name = 'ann'"), seed_prompts(judged, 1)[-1]
    pairs = known.of(RewardModelSpec())
    project_store.set_project(judged, replace(project_store.project(judged), kind="rank", answers=5))
    assert (
        comparison_store.add_comparison(judged, [make_response(prompt, f"Answer {place}") for place in "ABCDE"], 5)
        is not None
    )
    claim = handing_out.claim_next(judged, annotator)
    assert claim is not None
    judging.judge(judged, annotator, claim.nonce, {"outcome": "ranked", "ranks": [2, 1, 3, 4, 5]})
    ranked = known.of(RewardModelSpec())
    assert pairs.data is not None
    assert ranked.data is not None
    assert (pairs.data.answers, ranked.data.answers) == (2, 5)
    small, large = ({part.name: part.size for part in one.cost.fit.components} for one in (pairs, ranked) if one.cost)
    assert large["Activations"] > 2.5 * small["Activations"]


def test_steps_time_and_the_queue_are_known(known: Preflight, judged: Database) -> None:
    fresh = known.of(DPOSpec()).cost
    assert fresh is not None
    assert (fresh.counted_steps(fresh.steps), fresh.step_time, fresh.waiting) == ("18 optimiser steps", None, 0)
    made(judged, replace(known.of(DPOSpec()).spec, epochs=1), {"seconds_per_step": 1.5})
    job_store.enqueue(judged, SFTSpec(), "ann")
    now_known = Preflight(judged, known.data_dir, known.model).of(DPOSpec()).cost
    assert now_known is not None
    assert now_known.step_time is not None
    assert (now_known.step_time.seconds_per_step, now_known.waiting) == (1.5, 1)


def test_looking_through_all_rows_sharpens_the_memory(known: Preflight) -> None:
    before = known.of(DPOSpec()).cost
    found = known.survey(DPOSpec())
    after = known.of(replace(DPOSpec(), epochs=7)).cost
    assert before is not None
    assert after is not None
    assert (before.longest, after.longest) == (0, found.largest)
    assert 0 < after.fit.total < before.fit.total
    other = known.of(DPOSpec(method="prompt", virtual_tokens=3)).cost
    assert other is not None
    assert other.longest == 0, "virtual tokens make rows longer"


def test_without_the_models_files_the_cost_is_unknown_and_the_data_is_not(judged: Database, data_dir: Path) -> None:
    planned = Preflight(judged, data_dir, BASE_NAME).of(DPOSpec())
    assert planned.data is not None
    assert planned.cost is None
    assert "no safetensors weights" in planned.unknown


def test_why_the_cost_is_unknown_calls_settings_as_the_form_does(
    judged: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cost(*_asked: Any) -> None:
        raise UserError("A max_length of 0 says nothing.")

    monkeypatch.setattr(Preflight, "cost", cost)
    assert Preflight(judged, data_dir, BASE_NAME).of(DPOSpec()).unknown == "A “Max length” of 0 says nothing."


def test_the_weights_under_a_parent_are_the_ones_that_are_measured(
    known: Preflight, judged: Database, tiny_model: Path
) -> None:
    full = made(judged, SFTSpec(method="full"), form="full")
    (known.data_dir / "adapters").mkdir()
    (known.data_dir / str(full.path)).symlink_to(tiny_model)
    (known.data_dir / "models" / BASE_NAME).unlink()
    on_it = made(judged, DPOSpec(), ground=full)
    for parent in (full.revision, on_it.revision):
        assert known.shapes(DPOSpec(parent=parent)).hidden == 64
    with pytest.raises(UserError, match="no safetensors"):
        known.shapes(DPOSpec(parent="base"))


# ---------------------------------------------------------------------------------------------------- a person's word
def word_of(db: Database, spec: TrainingSpec) -> float | None:
    """The accuracy that a person would accept, where that is asked."""
    asked = spec.confirmation(db)
    return None if asked is None else asked.settings["accepted_accuracy"]


@pytest.mark.parametrize(
    ("accuracy", "word"), [(0.531, 0.531), (0.0, SOME_ACCURACY), (None, SOME_ACCURACY), (0.7, None)]
)
def test_a_word_is_needed_for_a_reward_model_below_the_threshold(
    known: Preflight, judged: Database, accuracy: float | None, word: float | None
) -> None:
    spec = PPOSpec(method="lora", reward_model=reward(judged, accuracy).revision)
    assert word_of(judged, spec) == word
    assert bool(known.of(spec).problems) == (word is not None)
    if word is not None:
        accepted = replace(spec, accepted_accuracy=word)
        assert known.of(accepted).problems == []
        assert word_of(judged, accepted) == word, "it is still asked for, so that it can be taken back"


def test_no_word_helps_where_other_things_are_wrong_too(judged: Database) -> None:
    bad = reward(judged, 0.5)
    assert word_of(judged, PPOSpec(method="qlora", reward_model=bad.revision)) is None
    assert word_of(judged, PPOSpec(reward_model=bad.revision)) is None, "the base is in 4 bits, where auto is QLoRA"
    assert word_of(judged, PPOSpec(method="lora", reward_model="base")) is None
    assert word_of(judged, PPOSpec(method="lora", reward_model="nothing")) is None
    assert word_of(judged, DPOSpec()) is None


# ------------------------------------------------------------------------------------------------------------- choices
def test_parents_are_named_so_that_people_know_them(judged: Database) -> None:
    first, second = made(judged, DPOSpec(method="lora")), made(judged, SFTSpec(method="full"), form="full")
    judge_model, merged = reward(judged, 0.62), made(judged, MergeSpec(revision=first.revision), form="full")
    gone = made(judged, DPOSpec())
    decision_store.mark_deleted(judged, gone, "ann")
    decision_store.promote(judged, first.revision, "ann")
    day = "2026-01-02"
    judged.write("UPDATE model SET created = ?", (f"{day}T10:00:00.000000+00:00",))
    serving = f"{first.revision} · LoRA · serving · {day}"
    base = f"base · {BASE_NAME}"
    expected = {
        serving: first.revision,
        f"{second.revision} · Full · candidate · {day}": second.revision,
        f"{merged.revision} · merged · candidate · {day}": merged.revision,
        base: "base",
    }
    found = preflight.parents(judged, BY_NAME["dpo"])
    assert found[0] == (f"What serves now: {serving}", "serving")
    assert found[1] == (base, "base")
    assert dict(found[1:]) == expected
    assert [revision for _, revision in found[2:]] == [merged.revision, second.revision, first.revision]
    judges = {f"{judge_model.revision} · LoRA · right on 62% · {day}": judge_model.revision}
    assert dict(preflight.models_of(judged, "reward-model")) == judges
    grown = dict(preflight.parents(judged, BY_NAME["reward_model"]))
    assert grown.keys() == expected.keys() - {serving} | judges.keys()
    assert first.revision not in dict(preflight.parents(judged, BY_NAME["full"])).values()


def test_going_on_from_a_run_takes_its_parent_and_its_shape(judged: Database) -> None:
    adapter = made(judged, DPOSpec(method="lora", lora_r=4, lora_targets="attention", dora=True, beta=0.7, epochs=9))
    form, filled = preflight.continuing(judged, adapter.revision)
    assert form.name == "dpo"
    assert filled == {
        "parent": adapter.revision, "method": "lora", "lora_r": 4, "lora_alpha": 32, "lora_targets": "attention",
        "lora_layers": "", "dora": True, "rslora": False, "lora_init": "default",
    }  # fmt: skip
    tuned = made(judged, SFTSpec(method="prompt", virtual_tokens=6), form="prompt")
    form, filled = preflight.continuing(judged, tuned.revision)
    assert (form.name, filled) == ("sft", {"parent": tuned.revision, "method": "prompt", "virtual_tokens": 6})
    full = made(judged, SFTSpec(method="full"), form="full")
    form, filled = preflight.continuing(judged, full.revision)
    assert (form.name, filled) == ("full", {"parent": full.revision})
    merged = made(judged, MergeSpec(revision=adapter.revision), form="full")
    form, filled = preflight.continuing(judged, merged.revision)
    assert (form.name, filled) == ("dpo", {"parent": merged.revision})
    assert preflight.continuing(judged, reward(judged, 0.6).revision)[0].name == "reward_model"


def test_what_is_filled_in_can_be_continued(judged: Database) -> None:
    runs: list[tuple[TrainingSpec, PolicyForm]] = [
        (DPOSpec(method="qlora", lora_r=3, rslora=True), "lora"),
        (SFTSpec(method="prompt", virtual_tokens=5), "prompt"),
    ]
    for spec, form in runs:
        policy = made(judged, spec, form=form)
        _, filled = preflight.continuing(judged, policy.revision)
        assert preconditions.check(judged, replace(type(spec)(), **filled)) == []


def test_prompts_of_both_splits_are_shown_and_the_store_says_when_to_look_again(known: Preflight) -> None:
    mark = training_data.data_mark(known.db)
    shown = known.show(RewardModelSpec(), "train", 2)
    assert shown is not None
    assert (shown.number, shown.total, len(shown.sequences)) == (2, 12, 2)
    assert known.show(DPOSpec(), "held-out", 1) is None
    assert training_data.data_mark(known.db) == mark
    seed_prompts(known.db, 1, "held-out")
    assert training_data.data_mark(known.db) != mark
