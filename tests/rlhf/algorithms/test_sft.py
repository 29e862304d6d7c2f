"""SFT on a tiny real model: loss by hand, packing, accumulation, PiSSA, learning, refusals, cancelled and killed."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file

from annotation.database import Database
from annotation.exports.frozen_rows import DemonstrationRow
from annotation.imports.importing import ImportRequest, run_import
from annotation.imports.sources.opening import open_path
from annotation.records import Prompt, Sampling, UserError
from annotation.store import prompt_store
from rlhf.algorithms.checkpoints import WEIGHTS
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.sft.predictions import predict, score
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.algorithms.sft.train import DemonstrationTrainer, build_trainer
from rlhf.algorithms.trainer import TokenisedData
from rlhf.data import snapshots
from rlhf.data.snapshots import CountedRows
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import Method
from rlhf.jobs.run import Run, perform
from rlhf.loop import controller
from rlhf.models import hidden_states, registry
from rlhf.models.loading.base_weights import load_plain
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.log_probabilities import Head
from rlhf.models.sampling.drawing import draw
from rlhf.models.tokenise import load_snapshot, of_split, tokenise_demonstrations
from rlhf.submission import job_submission
from tests.architectures import built
from tests.demonstrations import demonstrate
from tests.machine_fixtures import Machine, make_machine
from tests.run_fixtures import demonstration_rows

pytestmark = pytest.mark.slow

# Small enough for seconds on the tiny model.
QUICK = SFTSpec(
    method="lora",
    epochs=1,
    batch_size=4,
    learning_rate=5e-3,
    lora_r=4,
    lora_alpha=8,
    virtual_tokens=4,
    precision="fp32",
    samples=0,
)
Item = Mapping[str, Any]


@pytest.fixture
def taught(machine: Machine) -> Machine:
    """Twelve demonstrations to train on and four held-out ones."""
    demonstrate(machine, train=12, held_out=4)
    return machine


def items_of(machine: Machine, spec: SFTSpec, split: str) -> list[dict[str, Any]]:
    """The demonstrations of a split, tokenised as the job does it; the spec must name its snapshot."""
    rows = of_split(load_snapshot(machine.data_dir, spec.snapshot, DemonstrationRow), split)
    items, left_out = tokenise_demonstrations(machine.tokenizer, rows, spec.max_length)
    assert not left_out
    return items


def trainer_of(machine: Machine, spec: SFTSpec) -> DemonstrationTrainer:
    """The trainer as the job builds it."""
    frozen = job_submission.freeze_training(machine.db, machine.data_dir, spec)
    torch.manual_seed(spec.seed)
    return build_trainer(
        frozen,
        machine.start(frozen.parent),
        machine.tokenizer,
        TokenisedData(items_of(machine, frozen, "train")),
        machine.data_dir / "checkpoints",
    )


def finished(machine: Machine, spec: SFTSpec) -> job_store.Job:
    """A job that went well; its result is not None."""
    job = machine.perform(machine.submit(spec))
    assert job.status == "finished", job.message
    assert job.result is not None
    return job


def made_by(machine: Machine, job: job_store.Job) -> registry.Policy:
    """The policy that a job has made."""
    policy = registry.of_job(machine.db, job.id)
    assert policy is not None
    return policy


def by_hand(model: Any, items: Sequence[Item]) -> tuple[float, float]:
    """(Loss, token accuracy) over all answer tokens, from full logits, one demonstration at a time."""
    nll, right = [], []
    for item in items:
        ids = torch.tensor([[*item["prompt_ids"], *item["completion_ids"]]], device=model.device)
        tokens = len(item["completion_ids"])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -tokens - 1 : -1].float()
        labels = ids[0, -tokens:]
        nll += torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
        right += (logits.argmax(-1) == labels).tolist()
    return sum(nll) / len(nll), sum(right) / len(right)


def test_a_model_to_which_all_tokens_are_alike_is_right_on_one_of_them() -> None:
    """As it is where a rate of learning far too high has made all its logits zero."""
    logps, right = predict(torch.zeros(7, 4), Head(torch.zeros(7, 4)), torch.arange(7))
    assert logps.tolist() == pytest.approx([-math.log(7)] * 7)
    assert right.sum() == 1


def loss_and_gradients(trainer: DemonstrationTrainer, items: Sequence[Item]) -> tuple[float, dict[str, torch.Tensor]]:
    """The training loss of a batch, and the gradient of everything that is trained."""
    trainer.model.zero_grad()
    batch = {name: part.to(trainer.model.device) for name, part in trainer.data_collator(items).items()}
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model.train(), batch)
    loss.backward()
    named = trainer.model.named_parameters()
    return loss.item(), {name: p.grad.clone() for name, p in named if p.requires_grad and p.grad is not None}


def randomise(model: Any) -> None:
    """Let every part of an adapter do something: what is trained gets values, the same in every model."""
    generator = torch.Generator().manual_seed(5)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            drawn = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.data = drawn.to(parameter.device)


# ---------------------------------------------------------------------------------------------------------- the loss
def test_the_loss_is_the_mean_over_the_answers_tokens_and_over_no_other(taught: Machine) -> None:
    trainer = trainer_of(taught, QUICK)
    items = list(trainer.train_dataset)[:5]
    plain = load_plain(taught.model, torch.float32).eval()
    expected, accuracy = by_hand(plain, items)
    loss, _ = loss_and_gradients(trainer, items)
    assert loss == pytest.approx(expected, rel=1e-5), "a fresh adapter changes nothing"
    assert score(trainer, items) == pytest.approx(
        {"loss": expected, "perplexity": math.exp(expected), "token_accuracy": accuracy, "n": 5}, rel=1e-5
    )
    ends = {item["completion_ids"][-1] for item in items}
    assert ends == {taught.tokenizer.eos_token_id}, "that an answer ends is learned too"


@pytest.mark.parametrize("method", ["lora", "prompt"])
@pytest.mark.parametrize("row_tokens", [1024, 150])
def test_a_packed_batch_has_the_loss_and_the_gradients_of_the_padded_one(
    taught: Machine, monkeypatch: pytest.MonkeyPatch, method: Any, row_tokens: int
) -> None:
    monkeypatch.setattr(hidden_states, "ROW_TOKENS", row_tokens)
    losses, gradients = {}, {}
    for packing in (True, False):
        trainer = trainer_of(taught, replace(QUICK, method=method, packing=packing))
        randomise(trainer.model)
        items = list(trainer.train_dataset)[:6]
        lengths = [len(item["prompt_ids"]) + len(item["completion_ids"]) for item in items]
        assert len(set(lengths)) > 1, "without padding the comparison would prove nothing"
        assert 150 < sum(lengths) <= 1024, "one row or several"
        losses[packing], gradients[packing] = loss_and_gradients(trainer, items)
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert gradients[True].keys() == gradients[False].keys()
    for name, gradient in gradients[True].items():
        assert gradient.any(), name
        torch.testing.assert_close(gradient, gradients[False][name], rtol=1e-3, atol=1e-6)


def test_two_passes_of_two_teach_what_one_pass_of_four_does(machine: Machine) -> None:
    """Answers differ in length, so a mean of the passes' means would be another loss; the last step has fewer."""
    demonstrate(machine, train=11, held_out=2)
    curves, weights = [], []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        job = finished(machine, replace(QUICK, epochs=2, batch_size=batch_size, accumulation=accumulation))
        curves.append(job_store.metrics(machine.db, job.id))
        weights.append(machine.adapter(made_by(machine, job).revision))
    assert len(curves[0]) == 6
    for curve in curves[1:]:
        for one, other in zip(curves[0], curve, strict=True):
            for name in ("step", "loss", "token_accuracy", "grad_norm", "learning_rate"):
                assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name
    for other_weights in weights[1:]:
        for name, weight in weights[0].items():
            torch.testing.assert_close(weight, other_weights[name], rtol=1e-3, atol=1e-5)


def test_scoring_leaves_the_gradients_of_four_bit_layers_true(taught: Machine) -> None:
    """On CPUs with AVX512-BF16 one forward pass in eval mode silently breaks them."""
    trainer = trainer_of(taught, replace(QUICK, method="qlora", precision="bf16"))
    randomise(trainer.model)
    items = list(trainer.train_dataset)
    before, gradients = loss_and_gradients(trainer, items[:4])
    score(trainer, items[4:])
    after, again = loss_and_gradients(trainer, items[:4])
    assert after == before
    assert gradients.keys() == again.keys()
    assert all(torch.equal(gradient, again[name]) for name, gradient in gradients.items())


def test_layers_that_are_computed_again_in_the_backward_pass_have_the_same_gradients(taught: Machine) -> None:
    """As on a GPU, where a layer's activations are not kept."""
    found = []
    for again in (False, True):
        trainer = trainer_of(taught, QUICK)
        randomise(trainer.model)
        if again:
            trainer.model.activation_checkpointing_enable({"use_reentrant": False})
            trainer.model.enable_input_require_grads()
        found.append(loss_and_gradients(trainer, list(trainer.train_dataset)[:4]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-7)


# ----------------------------------------------------------------------------------------------------- the whole job
def test_it_learns_what_is_demonstrated_and_says_so(taught: Machine) -> None:
    """The held-out loss falls, and everything that the page shows of a run is there."""
    spec = replace(QUICK, epochs=10, learning_rate=2e-2, samples=3, checkpoint_steps=5)
    job = finished(taught, spec)
    assert (job.step, job.steps) == (30, 30)
    result = dict(job.result or {})
    before, after = result["held_out_before"], result["held_out"]
    assert before.keys() == after.keys() == {"loss", "perplexity", "token_accuracy", "n"}
    assert before["n"] == after["n"] == 4
    assert after["loss"] < before["loss"] - 1
    assert after["token_accuracy"] > before["token_accuracy"] + 0.2
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]))
    assert (result["trained_on"], result["steps"]) == (12, 30)
    assert "left_out" not in result, "nothing was"
    assert 0 < result["trainable_percent"] < 100

    frozen = job.spec
    assert isinstance(frozen, SFTSpec)
    expected, accuracy = by_hand(load_plain(taught.model, torch.float32).eval(), items_of(taught, frozen, "held-out"))
    assert (before["loss"], before["token_accuracy"]) == pytest.approx((expected, accuracy), rel=1e-4)

    curve = job_store.metrics(taught.db, job.id)
    assert [entry["step"] for entry in curve] == list(range(1, 31))
    assert curve[-1]["loss"] < curve[0]["loss"] - 1
    for entry in curve:
        assert {"loss", "token_accuracy", "learning_rate", "grad_norm", "memory_gb"} <= entry.keys()
        assert 0 <= entry["token_accuracy"] <= 1
    samples = job_store.samples(taught.db, job.id)
    assert list(samples) == [prompt.text for prompt in prompt_store.prompts(taught.db, "held-out")[:3]]
    assert all(list(answers) == [0, 15, 30] for answers in samples.values())

    policy = made_by(taught, job)
    assert (policy.algorithm, policy.form, policy.precision, policy.status) == ("sft", "lora", "fp32", "candidate")
    assert not list((taught.data_dir / "checkpoints").iterdir())


def test_an_answer_to_a_held_out_prompt_is_held_out_wherever_it_stands(db: Database, tmp_path: Path) -> None:
    """Here it is the beginning of a conversation whose end is trained on."""
    question, further = ({"role": "user", "content": text} for text in ("Name a hill.", "And another?"))
    prompt_store.add_prompts(db, [Prompt((question,), "held-out", "test")])
    turns = [question, {"role": "assistant", "content": "Ben Nevis."}, further]
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"messages": [*turns, {"role": "assistant", "content": "Cat Bells."}]}), "utf-8")
    run_import(db, open_path(path), ImportRequest(split="train"), "a test", lambda what, rows, share: None)
    rows = snapshots.demonstration_rows(db)
    assert {row.text: row.split for row in rows} == {"Ben Nevis.": "held-out", "Cat Bells.": "train"}


@pytest.mark.parametrize("held_out", [True, False])
def test_sample_answers_show_the_task_that_the_data_teaches(machine: Machine, held_out: bool) -> None:
    """Whatever the project asks: its own first held-out prompts that fit, or without any the first it is trained on."""
    machine.add_prompts(train=4, held_out=4)
    rows = [row for row in demonstration_rows() if held_out or row.split == "train"]
    long = {"role": "user", "content": "Is this odd or even? " + "12 " * 200}
    rows.insert(0, replace(rows[-1], messages=(long,)))
    snapshot = snapshots.store_snapshot(machine.db, machine.data_dir, CountedRows(rows))
    job = finished(machine, replace(QUICK, snapshot=snapshot, samples=2, max_length=128))
    first = 12 if held_out else 0
    samples = job_store.samples(machine.db, job.id)
    assert list(samples) == [f"Is {number} odd or even?" for number in range(first, first + 3)]
    assert all(list(answers) == [0, job.steps] for answers in samples.values())


def test_every_answer_of_an_imported_conversation_is_learned_and_what_two_share_only_once(machine: Machine) -> None:
    """In the split of the whole conversation; an answer that a person wrote stands alone."""
    talk = [f"{kind} {number}" for number in range(3) for kind in ("Question", "Answer")]
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(talk)]
    other = [*turns[:2], {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    for split, conversation in (("held-out", turns), ("train", [{"role": "system", "content": "Be kind."}, *other])):
        path = machine.data_dir / f"{split}.jsonl"
        path.write_text(json.dumps({"messages": conversation}) + "\n", "utf-8")
        run_import(machine.db, open_path(path), ImportRequest(split=split), "a test", lambda what, rows, share: None)
    path.write_text(json.dumps({"messages": other}) + "\n", "utf-8")
    run_import(machine.db, open_path(path), ImportRequest(split="train"), "a test", lambda what, rows, share: None)
    rows = [row for row in job_submission.rows_of(machine.db, QUICK) if isinstance(row, DemonstrationRow)]
    assert [(row.split, len(row.messages), row.text) for row in rows] == [
        ("held-out", 1, "Answer 0"),
        ("held-out", 3, "Answer 1"),
        ("held-out", 5, "Answer 2"),
        ("train", 2, "Answer 0"),
        ("train", 4, "So."),
        ("train", 3, "So."),
    ]
    assert [row.messages[-1]["role"] for row in rows] == ["user"] * 6
    assert [list(row.messages) for row in rows[:3]] == [turns[:1], turns[:3], turns[:5]]


def test_a_finished_run_is_checked_next_if_it_asked_for_that(taught: Machine) -> None:
    asked, quiet = (finished(taught, replace(QUICK, check=check)) for check in (True, False))
    check = controller.advance(taught.db, taught.data_dir)
    assert check is not None
    spec = job_store.get(taught.db, check).spec
    assert isinstance(spec, CheckSpec)
    assert spec.candidate == made_by(taught, asked).revision != made_by(taught, quiet).revision
    report = taught.perform(check)
    assert report.status == "finished", report.message
    assert report.result is not None
    assert report.result["prompts"] == 4
    assert controller.advance(taught.db, taught.data_dir) is None


VARIANTS: list[dict[str, Any]] = [
    {"method": "lora", "precision": "bf16"},
    {"method": "lora", "dora": True},
    {"method": "lora", "lora_init": "pissa"},
    {"method": "lora", "lora_init": "pissa", "rslora": True, "lora_targets": "attention"},
    {"method": "qlora", "precision": "bf16", "rslora": True},
    {"method": "qlora", "precision": "bf16", "dora": True},
    {"method": "prompt", "virtual_init": "text"},
    {"method": "prompt", "virtual_init": "random", "precision": "bf16"},
    {"method": "full", "precision": "fp32"},
    {"method": "full", "precision": "bf16"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_the_stored_policy_computes_what_the_trained_model_did(taught: Machine, variant: dict[str, Any]) -> None:
    """The held-out loss by the trainer's model and by the served policy: an adapter must fit the untouched weights."""
    job = finished(taught, replace(QUICK, epochs=2, **variant))
    assert isinstance(job.spec, SFTSpec)
    items = items_of(taught, job.spec, "held-out")
    models = LoadedPolicies(taught.db, taught.data_dir, taught.model)
    policy = made_by(taught, job)
    loss, accuracy = by_hand(models.use(policy), items)
    held_out = (job.result or {})["held_out"]
    exact = policy.precision == "fp32"
    assert held_out["loss"] == pytest.approx(loss, rel=1e-5 if exact else 5e-3)
    assert held_out["token_accuracy"] == pytest.approx(accuracy, abs=1e-6 if exact else 0.06)
    untouched, _ = by_hand(models.use(registry.by_revision(taught.db, "base")), items)
    assert abs(untouched - loss) > 0.005, "training changed nothing"


def test_a_pissa_run_is_stored_as_a_plain_adapter_of_twice_the_rank(taught: Machine) -> None:
    job = finished(taught, replace(QUICK, lora_init="pissa"))
    policy = made_by(taught, job)
    config = LoraConfig.from_pretrained(taught.data_dir / str(policy.path))
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (2 * QUICK.lora_r, 2 * QUICK.lora_alpha, True)
    with pytest.raises(UserError, match="began with PiSSA"):
        taught.submit(replace(QUICK, lora_init="pissa", parent=policy.revision))


# --------------------------------------------------------------------------------------------------------- the parent
@pytest.mark.parametrize("method", ["lora", "prompt", "full"])
def test_a_parent_is_continued_from_its_own_weights_to_the_bit(taught: Machine, method: Any) -> None:
    spec = replace(QUICK, method=method, epochs=3)
    first = finished(taught, spec)
    parent = made_by(taught, first)
    continued = replace(spec, parent=parent.revision)
    trainer = trainer_of(taught, continued)
    if method != "full":
        started = get_peft_model_state_dict(trainer.model, adapter_name="default")
        stored = taught.adapter(parent.revision)
        assert started.keys() == stored.keys()
        assert all(torch.equal(started[name].cpu(), stored[name]) for name in stored)
    second = finished(taught, continued)
    assert made_by(taught, second).parent_id == parent.id
    earlier, later = dict(first.result or {}), dict(second.result or {})
    assert later["held_out_before"]["loss"] == pytest.approx(earlier["held_out"]["loss"], rel=1e-5)


def test_a_dpo_adapter_is_continued_and_one_of_another_shape_is_refused(taught: Machine) -> None:
    taught.judge("train", 8)
    dpo = DPOSpec(epochs=1, method="lora", lora_r=4, lora_alpha=8, precision="fp32", samples=0, check=False)
    parent = made_by(taught, taught.perform(taught.submit(dpo)))
    job = finished(taught, replace(QUICK, parent=parent.revision))
    assert made_by(taught, job).parent_id == parent.id
    with pytest.raises(UserError, match="has lora_r 4"):
        taught.submit(replace(QUICK, parent=parent.revision, lora_r=8))
    with pytest.raises(UserError, match="Merge it into 16-bit weights first"):
        taught.submit(replace(QUICK, parent=parent.revision, method="full"))


# ------------------------------------------------------------------------------------------------------ what can't be
def test_too_few_demonstrations_are_refused_with_their_number(machine: Machine) -> None:
    with pytest.raises(UserError, match=r"Demonstrations to train on: 0\. It takes at least 8"):
        machine.submit(QUICK)
    demonstrate(machine, train=7, held_out=4)
    with pytest.raises(UserError, match=r"Demonstrations to train on: 7\. It takes at least 8"):
        machine.submit(QUICK)
    assert job_store.recent(machine.db, ("sft",), 10) == []
    with pytest.raises(UserError, match=r"no example data called 'poems'.*'medical-answers'"):
        machine.submit(replace(QUICK, source="example:poems"))
    with pytest.raises(UserError, match=r"no data 'poems'.*example:medical-answers"):
        machine.submit(replace(QUICK, source="poems"))


def test_a_limit_that_leaves_too_few_fails_the_job_with_the_counts(taught: Machine) -> None:
    frozen = job_submission.freeze_training(taught.db, taught.data_dir, QUICK)
    lengths = sorted(
        len(item["prompt_ids"]) + len(item["completion_ids"]) for item in items_of(taught, frozen, "train")
    )
    job = taught.perform(taught.submit(replace(QUICK, max_length=lengths[4])))
    fitting = sum(length <= lengths[4] for length in lengths)
    assert job.status == "failed"
    assert f"Demonstrations to train on: {fitting}. It takes at least 8." in job.message
    assert f"Left out: too long ({12 - fitting})." in job.message
    job = finished(taught, replace(QUICK, max_length=lengths[-2]))
    kept = sum(length <= lengths[-2] for length in lengths)
    assert ((job.result or {})["trained_on"], (job.result or {})["left_out"]) == (kept, {"too-long": 12 - kept})


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(taught: Machine) -> None:
    """A step of this size is the end of the weights."""
    job = taught.perform(taught.submit(replace(QUICK, learning_rate=1e37, checkpoint_steps=1, epochs=2)))
    assert job.status == "failed"
    assert "became not a number at step 2" in job.message
    assert "checkpoint-1, is kept" in job.message
    assert "lower learning_rate" in job.message
    assert registry.of_job(taught.db, job.id) is None
    directory = taught.data_dir / "checkpoints" / f"job-{job.id}"
    assert {path.name for path in directory.glob("checkpoint-*")} == {"checkpoint-1"}
    kept = load_file(directory / "checkpoint-1" / WEIGHTS)
    assert all(weight.isfinite().all() for weight in kept.values())


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match")
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_model_of_experts_answers_during_its_training_and_once_it_is_trained(
    tmp_path: Path, tiny_model: Path, method: Method
) -> None:
    """TRL has it return its routers' logits, for a loss that fails with a cache and that is not ours."""
    model = tmp_path / "experts"
    shutil.copytree(tiny_model, model)
    built("mixtral", vocab_size=320).to(torch.bfloat16).save_pretrained(model)
    machine = make_machine(tmp_path / "data", model)
    demonstrate(machine, train=8, held_out=2)
    policy = made_by(machine, finished(machine, replace(QUICK, method=method, epochs=1, samples=1)))
    models = LoadedPolicies(machine.db, machine.data_dir, model)
    prompts = [machine.render([{"role": "user", "content": text}]) for text in ("Sing.", "Is it raining?")]
    assert draw(models.use(policy), models.tokenizer, prompts, [[1], [2]], Sampling(max_new_tokens=4))
    machine.db.close()


# ------------------------------------------------------------------------------------------- killed, cancelled, resumed
class CancelledAt(Run):
    """A worker whose job is cancelled, by somebody, just before it reports this step: it ends with it."""

    step = 3

    def report(self, step: int, steps: int, metrics: Mapping[str, float], message: str = "") -> None:
        if step == self.step:
            job_store.cancel(self.db, self.job_id)
        super().report(step, steps, metrics, message)


def weights_of(machine: Machine, policy: registry.Policy) -> dict[str, torch.Tensor]:
    """All stored weights of a policy, an adapter's or its own."""
    (path,) = (machine.data_dir / str(policy.path)).glob("*.safetensors")
    return dict(load_file(path))


@pytest.mark.parametrize(
    "variant",
    [
        {"method": "qlora", "precision": "bf16"},
        {"lora_init": "pissa"},
        {"method": "prompt"},
        {"method": "full"},
        {"method": "full", "precision": "bf16"},
    ],
    ids=lambda variant: "-".join(map(str, variant.values())),
)
def test_a_cancelled_run_ends_at_its_step_and_is_resumed_to_the_weights_of_an_unbroken_one(
    taught: Machine, variant: dict[str, Any]
) -> None:
    spec = replace(QUICK, epochs=2, checkpoint_steps=2, **variant)
    unbroken = finished(taught, spec)
    job_id = taught.submit(spec)
    claimed = job_store.claim(taught.db, job_id, "somebody")
    assert claimed is not None
    perform(CancelledAt(taught.db, taught.data_dir, claimed, "somebody"), claimed.spec)
    broken = job_store.get(taught.db, job_id)
    assert (broken.status, broken.step) == ("cancelled", 3)
    assert registry.of_job(taught.db, job_id) is None
    job_store.resume(taught.db, job_id)
    resumed = taught.perform(job_id)
    assert resumed.status == "finished", resumed.message
    assert any("resuming from checkpoint-3" in line for line in job_store.log_tail(taught.db, job_id))
    expected = weights_of(taught, made_by(taught, unbroken))
    actual = weights_of(taught, made_by(taught, resumed))
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], weight) for name, weight in expected.items())
    curves = [[entry["loss"] for entry in job_store.metrics(taught.db, job.id)] for job in (unbroken, resumed)]
    assert curves[0] == curves[1]
    for name in ("held_out", "held_out_before"):
        assert (resumed.result or {})[name] == (unbroken.result or {})[name]


@pytest.mark.parametrize("changed", [True, False])
def test_a_run_that_goes_on_with_data_rendered_otherwise_says_so(
    tmp_path: Path, tiny_model: Path, changed: bool
) -> None:
    model = tmp_path / "thinker"
    shutil.copytree(tiny_model, model)
    with (model / "chat_template.jinja").open("a", encoding="utf-8") as template:
        template.write("{% if add_generation_prompt and enable_thinking is defined %}<think></think>{% endif %}")
    machine = make_machine(tmp_path / "data", model)
    demonstrate(machine, train=12, held_out=2)
    job_id = machine.submit(replace(QUICK, epochs=2, checkpoint_steps=2))
    claimed = job_store.claim(machine.db, job_id, "somebody")
    assert claimed is not None
    perform(CancelledAt(machine.db, machine.data_dir, claimed, "somebody"), claimed.spec)
    if changed:
        registry.set_thinking(machine.db, "template")
    job_store.resume(machine.db, job_id)
    assert machine.perform(job_id).status == "finished"
    said = any("give other tokens than before" in line for line in job_store.log_tail(machine.db, job_id))
    assert said is changed
    machine.db.close()


def test_a_killed_worker_is_resumed_to_the_weights_of_an_unbroken_run(tmp_path: Path, tiny_model: Path) -> None:
    """SIGKILL at a random step; another process goes on from the last whole checkpoint."""
    machine = make_machine(tmp_path / "data", tiny_model)
    demonstrate(machine, train=12, held_out=2)
    spec = replace(QUICK, epochs=3, checkpoint_steps=1, learning_rate=1e-3)
    unbroken = made_by(machine, finished(machine, spec))
    job_id = machine.submit(spec)
    fatal_step = random.Random(os.urandom(8)).randint(2, 5)
    print(f"killing the worker at step {fatal_step}")
    machine.kill_worker(job_id, fatal_step)
    job_store.resume(machine.db, job_id)
    resumed = machine.perform(job_id)
    assert (resumed.status, resumed.attempt) == ("finished", 2)
    expected, actual = weights_of(machine, unbroken), weights_of(machine, made_by(machine, resumed))
    assert all(torch.equal(actual[name], weight) for name, weight in expected.items())
    assert [entry["step"] for entry in job_store.metrics(machine.db, job_id)] == list(range(1, 10))
    machine.db.close()
