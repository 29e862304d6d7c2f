"""The reward model on a tiny real model: it learns, its loss is a slow loop's, PPO reads it, it can be broken off."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from annotation.exports.frozen_rows import PreferenceRow
from annotation.jobs import liveness
from annotation.records import Feedback, UserError
from annotation.store import project_store
from rlhf.algorithms.checkpoints import MANIFEST, checkpoints_of
from rlhf.algorithms.comparisons import with_targets
from rlhf.algorithms.ppo.roles import SampledResponse, load_roles
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.reward_model.train import ComparisonTrainer, build_trainer, score, scores_of
from rlhf.algorithms.trainer import TokenisedData
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.run import Run, perform
from rlhf.models import hidden_states, registry
from rlhf.models.hidden_states import inner_model
from rlhf.models.loading.base_weights import load_for_training
from rlhf.models.reward_model_quality import SCALE_FILE, ScoreScale
from rlhf.models.stored_reward_model import read_reward_model
from rlhf.models.tokenise import load_snapshot, of_split, tokenise_comparisons
from rlhf.submission import job_submission, preconditions
from tests.architectures import built, with_eyes
from tests.machine_fixtures import Machine, make_machine
from tests.rlhf.algorithms.pair_losses import slow_order_loss
from tests.tiny_model import VOCABULARY

pytestmark = pytest.mark.slow
JUDGED = (16, 8)

QUICK = RewardModelSpec(
    method="lora",
    precision="fp32",
    epochs=2,
    batch_size=4,
    learning_rate=5e-3,
    lora_r=4,
    lora_alpha=8,
    checkpoint_steps=1,
)
METHOD_AND_PRECISION = list(product(RewardModelSpec.methods, ("bf16", "fp32")))
# Whatever the form offers of adapters.
VARIANTS: list[dict[str, Any]] = [
    *({"method": method, "precision": precision} for method, precision in METHOD_AND_PRECISION),
    {"method": "qlora", "precision": "bf16", "dora": True},
    {"method": "lora", "precision": "fp32", "dora": True, "rslora": True},
    {"method": "qlora", "precision": "bf16", "rslora": True},
]


def items_of(machine: Machine, sha256: str, split: str = "train") -> list[dict[str, Any]]:
    """The comparisons of frozen data as the job tokenises them."""
    rows = of_split(load_snapshot(machine.data_dir, sha256, PreferenceRow), split)
    return tokenise_comparisons(machine.tokenizer, rows, QUICK.max_length)[0]


def trainer_of(machine: Machine, spec: RewardModelSpec) -> tuple[ComparisonTrainer, list[dict[str, Any]]]:
    """The trainer as the job builds it, and its comparisons as they were tokenised."""
    spec = job_submission.freeze_training(machine.db, machine.data_dir, spec)
    items = items_of(machine, spec.snapshot)
    torch.manual_seed(spec.seed)
    start = machine.start(spec.parent)
    directory = machine.data_dir / "checkpoints"
    data = TokenisedData(with_targets(items, spec.annotator_noise))
    return build_trainer(spec, start, machine.tokenizer, data, directory), items


def randomise(trainer: ComparisonTrainer, scale: float = 0.1) -> None:
    """Give adapter and head values, the same in every model: scores that differ."""
    generator = torch.Generator().manual_seed(5)
    for _, parameter in sorted(trainer.model.named_parameters()):
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * scale


def batch_of(trainer: ComparisonTrainer, places: Sequence[int]) -> dict[str, Tensor]:
    """These comparisons, collated by the trainer."""
    batch: dict[str, Tensor] = trainer.data_collator([trainer.train_dataset[place] for place in places])
    return batch


def logit_alone(model: Any, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Tensor:
    """An answer's score by transformers' own classifier, without a batch, padding or packing."""
    logit: Tensor = model(input_ids=torch.tensor([[*prompt_ids, *answer_ids]])).logits[0, 0]
    return logit


def flip_of(item: Mapping[str, Any]) -> float:
    """A comparison's chance of error: all its pairs have the same here."""
    (flip,) = {flip for *_, flip, _ in item["pairs"]}
    return float(flip)


def decided_of(item: Mapping[str, Any]) -> float:
    """What a comparison decides: a pair one bit, four with the last two tied 12 of the 24 orders."""
    return {1: 1.0, 5: math.log2(12)}[len(item["pairs"])]


def weighted_mean(values: Sequence[tuple[float, float]]) -> float:
    """Of (weight, value)."""
    return sum(weight * value for weight, value in values) / sum(weight for weight, _ in values)


def gradients(trainer: ComparisonTrainer, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of everything that is trained."""
    trainer.model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    assert len(found) == 2 * 7 * 2 + 1  # A and B of seven layers in each of two blocks, and the head
    return found


# ------------------------------------------------------------------------------------------------------------ the loss
@pytest.mark.parametrize("noise", ["ignore", "weight", "smooth"])
def test_the_loss_of_a_batch_equals_a_slow_loop_over_all_orders(judged: Machine, noise: Any) -> None:
    """Pairs with strengths and rankings without, in one batch; a second annotator makes chances of error differ."""
    judged.judge("train", 16, "left-much", by="bob")
    judged.rank(4)
    snapshot = judged.freeze({"ann": 0.95, "bob": 0.7})
    spec = replace(QUICK, snapshot=snapshot, annotator_noise=noise, centre=0.05)
    trainer, items = trainer_of(judged, spec)
    randomise(trainer)
    flips = [flip for item in items for *_, flip, _ in item["pairs"]]
    assert len(flips) == 32 + 4 * 5
    assert sorted(set(flips)) == pytest.approx([0.05, 0.3])
    mean_weight = weighted_mean([(decided_of(item), 1 - 2 * flip_of(item)) for item in items])

    places = [0, 20, len(items) - 1, 5, len(items) - 2]
    losses, decided = [], []
    for place in places:
        item = items[place]
        scores = [logit_alone(trainer.model, item["prompt_ids"], ids) for ids in item["answers"]]
        above = {(better, worse): (strength or 0) / 3 for better, worse, strength, *_ in item["pairs"]}
        below = {(worse, better): margin for (better, worse), margin in above.items()}
        chance = flip_of(item) if noise == "smooth" else 0.0
        weight = (1 - 2 * flip_of(item)) / mean_weight if noise == "weight" else 1.0
        loss = weight * ((1 - chance) * slow_order_loss(scores, above) + chance * slow_order_loss(scores, below))
        centre = torch.stack([(scores[better] + scores[worse]) ** 2 for better, worse in above]).mean()
        losses.append(loss + decided_of(item) * 0.05 * centre)
        decided.append(decided_of(item))
    slow = torch.stack(losses).sum() / sum(decided)
    fast = trainer.compute_loss(trainer.model, batch_of(trainer, places))
    assert {len(items[place]["pairs"]) for place in places} == {1, 5}
    assert fast.item() == pytest.approx(slow.item(), rel=1e-5)
    expected = gradients(trainer, slow)
    for name, gradient in gradients(trainer, fast).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


def test_without_a_margin_a_fresh_model_pays_ln_2_and_with_one_the_strength_counts(judged: Machine) -> None:
    """Clear preferences ask for 2/3: -ln sigmoid(-2/3)."""
    for margin, loss in ((False, math.log(2)), (True, math.log(1 + math.exp(2 / 3)))):
        trainer, _ = trainer_of(judged, replace(QUICK, margin=margin))
        assert trainer.compute_loss(trainer.model, batch_of(trainer, range(4))).item() == pytest.approx(loss)


def test_answers_score_the_same_alone_in_a_packed_batch_and_in_a_padded_one(
    judged: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.rank(3)
    trainer, items = trainer_of(judged, QUICK)
    randomise(trainer)
    places = [0, len(items) - 1, 3, len(items) - 2]
    with torch.no_grad():
        alone = [
            logit_alone(trainer.model, items[place]["prompt_ids"], ids).item()
            for place in places
            for ids in items[place]["answers"]
        ]
        packed = scores_of(trainer.model, batch_of(trainer, places)).tolist()
        monkeypatch.setattr(hidden_states, "ROW_TOKENS", 80)
        in_rows = scores_of(trainer.model, batch_of(trainer, places)).tolist()
        hidden_states.PACKS[inner_model(trainer.model)] = False
        padded = scores_of(trainer.model, batch_of(trainer, places)).tolist()
    assert len(set(alone)) == 2 + 4 + 2 + 4
    assert packed == pytest.approx(alone, abs=1e-4)
    assert in_rows == pytest.approx(alone, abs=1e-4)
    assert padded == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_every_trained_tensor_has_a_gradient_and_nothing_else_has(judged: Machine, variant: dict[str, Any]) -> None:
    """From the third step on: the head begins at zero, and so does each adapter's second matrix.

    Answers have been scored before: on some processors a pass in eval mode would have cut gradients off.
    """
    spec = replace(QUICK, **variant)
    trainer, _ = trainer_of(judged, spec)
    score(trainer, list(trainer.train_dataset)[:2])
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.SGD(trained.values(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(trainer.model, batch_of(trainer, range(4)))
        loss.backward()
        optimiser.step()
    assert sum(name.endswith("score.modules_to_save.default.weight") for name in trained) == 1
    assert len(trained) == 2 * 7 * (3 if spec.dora else 2) + 1
    for name, parameter in trainer.model.named_parameters():
        if name in trained:
            assert parameter.dtype == torch.float32, name
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
        else:
            assert parameter.grad is None, name


# ------------------------------------------------------------------------------------------------------------- the job
def finished(machine: Machine, spec: RewardModelSpec) -> tuple[job_store.Job, Mapping[str, Any]]:
    """A job that ran to its end, and its result."""
    job = machine.perform(machine.submit(spec))
    assert job.status == "finished", job.message
    assert job.result is not None
    return job, job.result


def test_it_learns_that_the_shorter_answer_is_preferred(judged: Machine) -> None:
    """On rankings and pairs; it is right on held-out comparisons, and PPO may follow it without a person's word."""
    judged.rank(8)
    job, result = finished(judged, replace(QUICK, epochs=4))
    curve = job_store.metrics(judged.db, job.id)
    assert (job.step, len(curve)) == (24, 24)
    assert (curve[0]["accuracy"], curve[0]["margin"]) == (0.5, 0.0)
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.4
    assert curve[-1]["margin"] > 1.0
    assert {"learning_rate", "grad_norm", "memory_gb"} <= curve[0].keys()
    assert result["trained_on"] == 16 + 8 * 5
    accuracy = result["quality"]["accuracy"]
    assert (accuracy["n"], accuracy["value"] > 0.8, accuracy["low"] > 0.5) == (8, True, True)
    assert result["quality"]["length"]["longer_wins"]["value"] == 0.0
    assert result["quality"]["length"]["spearman"] < -0.5
    reward = registry.by_revision(judged.db, result["revision"])
    assert (reward.kind, reward.form, reward.precision, reward.status) == ("reward-model", "lora", "fp32", "candidate")
    assert preconditions.accuracy_of(judged.db, reward) == accuracy["value"]
    ppo = PPOSpec(reward_model=reward.revision, method="lora", parent="base")
    assert preconditions.check(judged.db, ppo) == []
    weights = judged.adapter(reward.revision)
    assert len(weights) == 2 * 7 * 2 + 1
    assert all(tensor.dtype == torch.float32 and tensor.any() for tensor in weights.values())
    assert not list((judged.data_dir / "checkpoints").iterdir())
    assert scale_of(judged, reward.revision, ppo).temperature is not None
    registry.answer_otherwise(judged.db)  # it scores on other weights from now on
    assert preconditions.accuracy_of(judged.db, reward) is None
    [problem] = preconditions.check(judged.db, ppo)
    assert "is not known here" in problem
    assert scale_of(judged, reward.revision, ppo).temperature is None


def test_how_good_it_is_is_what_people_say_where_they_have_said_enough(judged: Machine) -> None:
    """Not an AI judge that has labelled as many held-out comparisons and prefers the longer answer."""
    judged.judge("held-out", 8, "longer", by="robot")
    judged.db.write("UPDATE annotator SET kind = 'ai' WHERE name = 'robot'")
    project_store.set_feedback(judged.db, Feedback(mode="mixed"))
    _, result = finished(judged, replace(QUICK, epochs=3))
    quality = result["quality"]
    assert (quality["accuracy"]["n"], quality["accuracy"]["value"] > 0.8, quality["by_judges"]) == (8, True, 0)


def test_with_few_held_out_comparisons_there_is_no_accuracy_and_ppo_asks_for_a_word(machine: Machine) -> None:
    machine.add_prompts(train=8, held_out=2)
    machine.judge("train", 8)
    machine.judge("held-out", 2)
    _, result = finished(machine, replace(QUICK, epochs=1, samples=2))
    assert result["quality"]["accuracy"] == {"value": None, "low": None, "high": None, "n": 2}
    assert result["quality"]["train_accuracy"]["n"] == 8
    ppo = PPOSpec(reward_model=result["revision"], method="lora", parent="base")
    assert "is not known here" in " ".join(preconditions.check(machine.db, ppo))
    asked = ppo.confirmation(machine.db)
    assert asked is not None
    assert "nobody knows" in asked.label


def test_ties_give_no_pair_and_too_little_data_is_refused_with_its_counts(machine: Machine) -> None:
    machine.add_prompts(train=9, held_out=2)
    machine.judge("train", 7)
    machine.judge("train", 1, "tie")
    with pytest.raises(UserError, match=r"Pairs to train on: 7\. It takes at least 8.*Left out: tie \(1\)"):
        machine.submit(QUICK)


def test_pairs_that_tokenising_finds_too_long_are_refused_with_their_counts(judged: Machine) -> None:
    """The count at the freeze goes by the tokens that were generated and the length limit of then."""
    snapshot = job_submission.freeze_training(judged.db, judged.data_dir, QUICK).snapshot
    lengths = sorted(len(item["prompt_ids"]) + max(map(len, item["answers"])) for item in items_of(judged, snapshot))
    limit = lengths[5]
    fit = sum(length <= limit for length in lengths)
    job = judged.perform(judged.submit(replace(QUICK, snapshot=snapshot, max_length=limit)))
    assert job.status == "failed"
    assert f"Pairs to train on: {fit}. It takes at least 8." in job.message
    assert f"Left out: too long ({16 - fit})." in job.message


def scale_of(machine: Machine, revision: str, spec: PPOSpec) -> ScoreScale:
    """How a job reads the scores of a stored reward model."""
    worker = uuid.uuid4().hex
    job = job_store.claim(machine.db, job_store.enqueue(machine.db, spec, "a test"), worker)
    assert job is not None
    try:
        return read_reward_model(Run(machine.db, machine.data_dir, job, worker), revision).scale
    finally:
        liveness.end(machine.db, worker)
        job_store.cancel(machine.db, job.id)


def rewards(machine: Machine, revision: str, spec: PPOSpec, items: Sequence[Mapping[str, Any]]) -> list[float]:
    """What PPO makes of the answers of some comparisons with a stored reward model."""
    worker = uuid.uuid4().hex
    job = job_store.claim(machine.db, job_store.enqueue(machine.db, spec, "a test"), worker)
    assert job is not None
    stored = read_reward_model(Run(machine.db, machine.data_dir, job, worker), revision)
    roles = load_roles(spec, machine.start(), stored, machine.tokenizer.pad_token_id)
    answers = [
        SampledResponse(tuple(item["prompt_ids"]), tuple(ids), "", True) for item in items for ids in item["answers"]
    ]
    with torch.no_grad():
        found: list[float] = roles.score(answers).tolist()
    return found


@pytest.mark.parametrize(("method", "precision"), METHOD_AND_PRECISION)
def test_ppo_reads_the_scores_that_training_ended_with(judged: Machine, method: Any, precision: Any) -> None:
    """It shifts and scales them by the mean and deviation that are stored, which must be those of these answers.

    Transformers' own classifier with PEFT's own loading agrees with both.
    """
    job, result = finished(judged, replace(QUICK, method=method, precision=precision, epochs=1))
    assert isinstance(job.spec, RewardModelSpec)
    items = items_of(judged, job.spec.snapshot)
    found = rewards(judged, result["revision"], PPOSpec(method=method, precision=precision, parent="base"), items)
    directory = judged.data_dir / "adapters" / result["revision"]
    figures = json.loads((directory / "reward.json").read_text("utf-8"))
    tolerance = 1e-3 if precision == "fp32" else 0.05  # bfloat16 in batches of another make-up
    assert (figures["pairs"], figures["std"] > 0.1) == (16, True)
    assert figures["temperature"] == result["quality"]["temperature"]
    assert (fmean(found), pstdev(found)) == pytest.approx((0.0, 1.0), abs=tolerance)
    if method == "lora" and precision == "fp32":
        base = AutoModelForSequenceClassification.from_pretrained(judged.model, num_labels=1, dtype=torch.float32)
        stored = PeftModel.from_pretrained(base, directory).eval()
        with torch.no_grad():
            plain = [logit_alone(stored, item["prompt_ids"], ids).item() for item in items for ids in item["answers"]]
        assert found == pytest.approx([(score - figures["mean"]) / figures["std"] for score in plain], abs=1e-3)


def test_a_continued_reward_model_starts_from_the_weights_of_its_parent_to_the_bit(judged: Machine) -> None:
    _, result = finished(judged, replace(QUICK, epochs=1))
    spec = replace(QUICK, parent=result["revision"])
    trainer, _ = trainer_of(judged, spec)
    started = get_peft_model_state_dict(trainer.model, adapter_name="default")
    stored = judged.adapter(result["revision"])
    assert started.keys() == stored.keys()
    assert any(name.endswith("score.weight") for name in stored)
    assert all(torch.equal(started[name], stored[name]) for name in stored)
    _, again = finished(judged, spec)
    assert (
        registry.by_revision(judged.db, again["revision"]).parent_id
        == registry.by_revision(judged.db, result["revision"]).id
    )


def test_a_base_that_also_sees_can_be_grown_on(judged: Machine, tmp_path: Path) -> None:
    """Its configuration has in a part of its own which token pads."""
    built("gemma3", **with_eyes(vocab_size=VOCABULARY)).save_pretrained(tmp_path)
    spec = job_submission.freeze_training(judged.db, judged.data_dir, QUICK)
    data = TokenisedData(with_targets(items_of(judged, spec.snapshot), spec.annotator_noise))
    start = replace(judged.start("base"), ground=tmp_path, tried=None)
    trainer = build_trainer(spec, start, judged.tokenizer, data, judged.data_dir / "checkpoints")
    assert trainer.model.config.get_text_config().pad_token_id == judged.tokenizer.pad_token_id
    assert scores_of(trainer.model, batch_of(trainer, [0])).tolist() == [0.0, 0.0]


def test_a_reward_model_of_merged_or_fully_trained_weights_lies_on_them(judged: Machine) -> None:
    """PPO holds one copy of the weights for it and the policy."""
    base = registry.by_revision(judged.db, "base")
    model = load_for_training(judged.model, QUICK)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 1:] *= 1.5
    directory = judged.data_dir / "adapters" / "full"
    model.save_pretrained(directory)
    job_id = job_store.enqueue(judged.db, QUICK, "a test")
    job_store.cancel(judged.db, job_id)
    full = registry.add(
        judged.db,
        revision="full",
        algorithm="sft",
        base=base.base,
        parent_id=base.id,
        job_id=job_id,
        path="adapters/full",
        sha256=directory_sha256(directory),
        form="full",
        precision="fp32",
    )
    _, result = finished(judged, replace(QUICK, parent="full", epochs=1))
    reward = registry.by_revision(judged.db, result["revision"])
    assert (reward.ground_id, reward.parent_id) == (full.id, full.id)


def test_accumulated_passes_of_any_size_learn_what_whole_batches_learn(judged: Machine) -> None:
    """Also in the last step of a pass over the data, whose passes have 3 comparisons and 1."""
    weights, losses = [], []
    for batch_size, accumulation in ((6, 1), (3, 2)):
        spec = replace(QUICK, batch_size=batch_size, accumulation=accumulation, learning_rate=1e-3)
        job, result = finished(judged, spec)
        curve = job_store.metrics(judged.db, job.id)
        assert len(curve) == 6
        losses.append([(entry["loss"], entry["accuracy"], entry["margin"]) for entry in curve])
        weights.append(judged.adapter(result["revision"]))
    for whole, parts in zip(*losses, strict=True):
        assert whole == pytest.approx(parts, abs=1e-4)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_no_number_ends_the_run_in_words_and_registers_nothing(judged: Machine) -> None:
    job = judged.perform(judged.submit(replace(QUICK, learning_rate=1e30)))
    assert job.status == "failed"
    assert "became not a number" in job.message
    assert "checkpoint-" in job.message
    assert registry.of_job(judged.db, job.id) is None


# ------------------------------------------------------------------------------------------- killed, cancelled, resumed
@dataclass
class Unbroken:
    """A run that nobody disturbed, to measure the others by."""

    machine: Machine
    spec: RewardModelSpec
    weights: dict[str, Tensor]
    curve: list[dict[str, Any]]
    quality: Mapping[str, Any]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Unbroken]:
    """A machine with a finished job of 8 steps, on the 4-bit base."""
    machine = make_machine(tmp_path_factory.mktemp("unbroken") / "data", tiny_model)
    machine.add_prompts(train=16, held_out=6)
    machine.judge("train", 16)
    machine.judge("held-out", 6)
    spec = replace(QUICK, method="qlora", precision="auto", epochs=1, batch_size=2, learning_rate=1e-3)
    job, result = finished(machine, spec)
    assert job.steps == 8
    assert isinstance(job.spec, RewardModelSpec)
    curve = job_store.metrics(machine.db, job.id)
    yield Unbroken(
        machine=machine,
        spec=job.spec,
        weights=machine.adapter(result["revision"]),
        curve=curve,
        quality=result["quality"],
    )
    machine.db.close()


def assert_as_if_unbroken(unbroken: Unbroken, job: job_store.Job) -> None:
    """The same weights, head included, the same loss curve, each step once, and the same quality."""
    assert job.status == "finished", job.message
    assert job.result is not None
    weights = unbroken.machine.adapter(job.result["revision"])
    assert weights.keys() == unbroken.weights.keys()
    for name, expected in unbroken.weights.items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-3, atol=1e-5)
    curve = job_store.metrics(unbroken.machine.db, job.id)
    assert [entry["step"] for entry in curve] == [entry["step"] for entry in unbroken.curve]
    assert [entry["loss"] for entry in curve] == pytest.approx([entry["loss"] for entry in unbroken.curve], rel=1e-3)
    assert job.result["quality"]["accuracy"] == unbroken.quality["accuracy"]


def test_a_worker_killed_in_the_middle_is_resumed_to_the_weights_of_an_unbroken_run(unbroken: Unbroken) -> None:
    machine = unbroken.machine
    job_id = machine.submit(unbroken.spec)
    machine.kill_worker(job_id, 4)
    checkpoints = machine.data_dir / "checkpoints" / f"job-{job_id}"
    saved = sorted(int(mark.parent.name.split("-")[1]) for mark in checkpoints.glob(f"checkpoint-*/{MANIFEST}"))
    assert saved
    assert saved[-1] < 7
    job_store.resume(machine.db, job_id)
    job = machine.perform(job_id)
    assert job.attempt == 2
    assert any(f"resuming from checkpoint-{saved[-1]}" in line for line in job_store.log_tail(machine.db, job_id))
    assert_as_if_unbroken(unbroken, job)


class Impatient(Run):
    """A run whose job is cancelled when it says this for the first time."""

    when = (0, "")

    def report(self, step: int, steps: int, metrics: Mapping[str, float], message: str = "") -> None:
        """Report, and be cancelled if it is time."""
        if (step, message) == self.when:
            job_store.cancel(self.db, self.job_id)
        super().report(step, steps, metrics, message)


@pytest.mark.parametrize("when", [(3, ""), (8, "It scores the comparisons.")])
def test_a_cancelled_run_is_resumed_to_the_weights_of_an_unbroken_run(
    unbroken: Unbroken, when: tuple[int, str]
) -> None:
    """In the middle of training, and after it, while the comparisons are scored."""
    machine, worker = unbroken.machine, uuid.uuid4().hex
    job = job_store.claim(machine.db, machine.submit(unbroken.spec), worker)
    assert job is not None
    run = Impatient(machine.db, machine.data_dir, job, worker)
    run.when = when
    perform(run, job.spec)
    assert job_store.get(machine.db, job.id).status == "cancelled"
    assert registry.of_job(machine.db, job.id) is None
    assert (checkpoints_of(run) / f"checkpoint-{when[0]}" / MANIFEST).exists()
    job_store.resume(machine.db, job.id)
    assert_as_if_unbroken(unbroken, machine.perform(job.id))


def test_answers_that_are_all_bad_are_learnt_below_zero(machine: Machine) -> None:
    """A job on rankings of two and on answers that nobody wanted; its scale and health are of the answers alone."""
    machine.add_prompts(train=16, held_out=8)
    machine.judge("train", 10)
    machine.judge("train", 6, word="all-bad")
    machine.judge("held-out", 4)
    trainer, items = trainer_of(machine, QUICK)
    bad = [item for item in items if not all(item["answers"])]
    assert [len(item["answers"]) for item in bad] == [3] * 6
    randomise(trainer)
    batch = trainer.data_collator(with_targets(bad))
    scores = scores_of(trainer.model, batch).tolist()
    assert scores[::3] == [0] * 6
    assert all(scores[1::3] + scores[2::3])
    job = machine.perform(machine.submit(QUICK))
    assert job.status == "finished", job.message
    assert job.result is not None
    assert job.result["trained_on"] == 10 + 2 * 6
    scale = json.loads((machine.data_dir / "adapters" / job.result["revision"] / SCALE_FILE).read_text("utf-8"))
    assert scale["pairs"] == 10
