"""Every method × precision of the forms, by DPO and SFT on a tiny model: true gradients, stored, served, continued."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from annotation.exports.frozen_rows import DemonstrationRow, PreferenceRow
from annotation.records import Sampling, UserError
from rlhf.algorithms.comparisons import with_targets
from rlhf.algorithms.dpo import train as dpo
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.sft import train as sft
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.algorithms.trainer import TokenisedData
from rlhf.jobs.job_spec import Precision, TrainingSpec
from rlhf.models import decision_store, registry
from rlhf.models.base.base_model import ready
from rlhf.models.hidden_states import completions, inner_model, virtual_tokens
from rlhf.models.loading.base_weights import load_for_answering, load_plain, load_quantised
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.sampling.drawing import draw
from rlhf.models.tokenise import load_snapshot, of_split, tokenise_comparisons, tokenise_demonstrations
from rlhf.submission import job_submission, preconditions
from tests import quantised_model
from tests.machine_fixtures import QUICK_DPO, Machine, make_machine
from tests.run_fixtures import demonstrations

pytestmark = pytest.mark.slow
JUDGED = (8, 2)

PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")
QUICK = replace(QUICK_DPO, epochs=1, virtual_tokens=4, check=False, samples=0, learning_rate=1e-3)
QUICK_SFT = SFTSpec(method="lora", lora_r=4, lora_alpha=8, virtual_tokens=4)
EVERY: list[TrainingSpec] = [
    replace(quick, method=method, precision=precision)
    for quick in (QUICK, QUICK_SFT)
    for method in quick.methods
    for precision in PRECISIONS
]
EVERY.append(replace(QUICK_SFT, lora_init="pissa", precision="fp32"))
EVERY += [replace(quick, method=method, dora=True) for quick in (QUICK, QUICK_SFT) for method in ("lora", "qlora")]


def trainer_of(machine: Machine, spec: TrainingSpec) -> Any:
    """The trainer as the job builds it; a supervised one on twelve demonstrations."""
    if isinstance(spec, SFTSpec):
        spec = replace(spec, snapshot=demonstrations(machine))
    frozen = job_submission.freeze_training(machine.db, machine.data_dir, spec)
    torch.manual_seed(spec.seed)
    start, checkpoints = machine.start(frozen.parent), machine.data_dir / "checkpoints"
    if isinstance(frozen, SFTSpec):
        shown = of_split(load_snapshot(machine.data_dir, frozen.snapshot, DemonstrationRow), "train")
        items, _ = tokenise_demonstrations(machine.tokenizer, shown, spec.max_length)
        return sft.build_trainer(frozen, start, machine.tokenizer, TokenisedData(items), checkpoints)
    assert isinstance(frozen, DPOSpec)
    rows = of_split(load_snapshot(machine.data_dir, frozen.snapshot, PreferenceRow), "train")
    items, _ = tokenise_comparisons(machine.tokenizer, rows, spec.max_length)
    return dpo.build_trainer(frozen, start, machine.tokenizer, TokenisedData(with_targets(items)), checkpoints)


def one_step(trainer: Any) -> None:
    """A forward and backward pass on the first items, as training does it, twice: LoRA's A has no gradient at first."""
    optimizer = torch.optim.SGD([p for p in trainer.model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        batch = trainer.data_collator([trainer.train_dataset[number] for number in range(4)])
        optimizer.zero_grad()
        trainer.model.train()
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        optimizer.step()


def named(spec: TrainingSpec) -> str:
    """What tells a case from the others."""
    init = spec.lora_init if spec.lora_init != "default" else ""
    return "-".join(filter(None, (spec.kind, spec.method, spec.precision, "dora" if spec.dora else "", init)))


@pytest.mark.parametrize("spec", EVERY, ids=named)
def test_after_a_step_every_trainable_gradient_is_finite_and_none_is_zero(judged: Machine, spec: TrainingSpec) -> None:
    trainer = trainer_of(judged, spec)
    one_step(trainer)
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained
    for name, parameter in trained.items():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), f"the gradient of {name} is exactly zero"


VARIANTS: list[dict[str, Any]] = [
    {"method": "lora", "precision": "bf16"},
    {"method": "lora", "precision": "fp32", "dora": True},
    {"method": "qlora", "lora_targets": "upper-half"},
    {"method": "qlora", "rslora": True, "lora_targets": "attention"},
    {"method": "lora", "lora_targets": "named", "lora_layers": "q_proj, mlp.down_proj"},
    {"method": "prompt", "virtual_init": "text"},
    {"method": "prompt", "virtual_init": "random", "precision": "fp32"},
    {"method": "full", "precision": "bf16"},
    {"method": "full", "precision": "fp32"},
]


def finished(machine: Machine, spec: DPOSpec) -> registry.Policy:
    """The policy that a job makes."""
    job = machine.perform(machine.submit(spec))
    assert job.status == "finished", job.message
    assert job.result is not None
    return registry.by_revision(machine.db, job.result["revision"])


def answer(machine: Machine, models: LoadedPolicies, policy: registry.Policy) -> Any:
    """One answer of a policy, drawn as the answering worker draws."""
    text = machine.render([{"role": "user", "content": "Sing."}])
    sampling = Sampling(1.0, 0.0, 12)
    return draw(models.use(policy), models.tokenizer, [text], [[1, 2, 3]], sampling)[0]


def answer_logps(machine: Machine, model: Any) -> list[float]:
    """log p of an answer's tokens by this model, in eval mode."""
    prompt = machine.tokenizer(machine.render([{"role": "user", "content": "Sing."}]))["input_ids"]
    ids = torch.tensor([[*prompt, *machine.tokenizer("sun rain")["input_ids"]]])
    mask = torch.ones_like(ids)
    completion = torch.tensor([[0] * len(prompt) + [1] * (ids.shape[1] - len(prompt))])
    with torch.no_grad():
        states = completions(model, ids, mask, completion)
        logits = inner_model(model).get_output_embeddings()(states.before_NH).float()
    values: list[float] = logits.log_softmax(-1).gather(-1, states.labels_N[:, None])[:, 0].tolist()
    return values


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_what_is_trained_is_stored_and_answers_as_it_was_trained(judged: Machine, variant: dict[str, Any]) -> None:
    policy = finished(judged, replace(QUICK, **variant))
    assert (policy.form, policy.kind, policy.status) == (
        {"prompt": "prompt", "full": "full"}.get(variant["method"], "lora"),
        "policy",
        "candidate",
    )
    models = LoadedPolicies(judged.db, judged.data_dir, judged.model)
    base = registry.by_revision(judged.db, "base")
    before, drawn = answer_logps(judged, models.use(base)), answer(judged, models, policy)
    after = answer_logps(judged, models.use(policy))
    assert before != after, "training changed nothing"
    assert answer_logps(judged, models.use(base)) == before, "the base is no longer what it was"
    assert len(drawn) == 3
    assert all(entry.tokens >= 1 for entry in drawn)


def test_virtual_tokens_change_answers_only_where_they_are_used(judged: Machine) -> None:
    """A policy with virtual tokens beside one with LoRA on the same weights: each computes as if it were alone."""
    prompt = finished(judged, replace(QUICK, method="prompt", learning_rate=0.5))
    lora = finished(judged, replace(QUICK, method="lora", parent="base", learning_rate=1e-2))
    together = LoadedPolicies(judged.db, judged.data_dir, judged.model)
    mixed = [answer_logps(judged, together.use(policy)) for policy in (lora, prompt, lora, prompt)]
    for policy, first, second in ((lora, mixed[0], mixed[2]), (prompt, mixed[1], mixed[3])):
        alone = answer_logps(judged, LoadedPolicies(judged.db, judged.data_dir, judged.model).use(policy))
        assert first == second == alone


def test_the_drawn_tokens_of_virtual_tokens_have_the_probabilities_that_training_sees(judged: Machine) -> None:
    """Drawing puts them into the cache, training before the packed prompt: greedy answers must agree."""
    policy = finished(judged, replace(QUICK, method="prompt", learning_rate=0.5, precision="fp32"))
    model = LoadedPolicies(judged.db, judged.data_dir, judged.model).use(policy)
    assert virtual_tokens(model) is not None
    text = judged.render([{"role": "user", "content": "Sing."}])
    drawn = draw(model, judged.tokenizer, [text, "x" + text], [[5], [5]], Sampling(1e-4, 0.0, 6))[0][0]
    prompt = judged.tokenizer(text)["input_ids"]
    ids = torch.tensor([[*prompt, *drawn.ids]])
    completion = torch.tensor([[0] * len(prompt) + [1] * len(drawn.ids)])
    with torch.no_grad():
        for packed in (True, False):
            states = completions(model, ids, torch.ones_like(ids), completion, packed=packed)
            best = inner_model(model).get_output_embeddings()(states.before_NH).argmax(-1)
            assert best.tolist() == list(drawn.ids)


@pytest.mark.parametrize("method", ["lora", "prompt", "full"])
def test_a_parent_of_each_form_is_continued(judged: Machine, method: Any) -> None:
    first = finished(judged, replace(QUICK, method=method))
    second = finished(judged, replace(QUICK, method=method, parent=first.revision, reference="parent", scope="all"))
    assert second.parent_id == first.id
    models = LoadedPolicies(judged.db, judged.data_dir, judged.model)
    one, two = (answer_logps(judged, models.use(policy)) for policy in (first, second))
    assert one != two
    assert one == pytest.approx(two, abs=1.5), "the parent's weights were lost"


def test_an_adapter_on_fully_trained_weights_has_them_as_its_reference(judged: Machine) -> None:
    full = finished(judged, replace(QUICK, method="full", learning_rate=1e-2))
    spec = replace(QUICK, method="lora", parent=full.revision, scope="all")
    lora = finished(judged, spec)
    assert lora.ground_id == full.id
    models = LoadedPolicies(judged.db, judged.data_dir, judged.model)
    on_full, of_full = answer_logps(judged, models.use(lora)), answer_logps(judged, models.use(full))
    base = answer_logps(judged, models.use(registry.by_revision(judged.db, "base")))
    assert max(abs(a - b) for a, b in zip(on_full, of_full, strict=True)) < max(
        abs(a - b) for a, b in zip(on_full, base, strict=True)
    )
    trainer = trainer_of(judged, replace(spec, parent=full.revision))
    batch = trainer.data_collator([trainer.train_dataset[0]])
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch).item()
    (best,) = batch["better"].tolist()
    chosen = batch["reference_logps"][best].item() / batch["completion_mask"][best].sum().item()
    assert loss == pytest.approx(0.6931 - 0.2 * chosen, abs=5e-3), "a fresh adapter must agree with its reference"
    with pytest.raises(UserError, match="lies on the weights"):
        job_submission.delete_policy(judged.db, judged.data_dir, full.revision, "a test")


def test_full_fine_tuning_from_full_weights_wants_the_parent_as_its_reference(judged: Machine) -> None:
    full = finished(judged, replace(QUICK, method="full"))
    with pytest.raises(UserError, match="take the parent as the reference"):
        judged.submit(replace(QUICK, method="full", parent=full.revision, scope="all"))


def stored_virtual_tokens(machine: Machine, **changes: Any) -> torch.Tensor:
    """The virtual tokens that a job stores which started from tokens of the vocabulary and made steps of no length."""
    start = replace(QUICK, method="prompt", virtual_init="random", precision="fp32", learning_rate=1e-30, parent="base")
    policy = finished(machine, replace(start, scope="all", **changes))
    found: torch.Tensor = machine.adapter(policy.revision)["prompt_embeddings"].float()
    return found


def test_virtual_tokens_without_a_text_start_as_tokens_drawn_by_the_seed(judged: Machine) -> None:
    """Vectors that are far from any token's learn worse."""
    embedding = load_plain(judged.model, torch.float32).get_input_embeddings().weight.detach()
    first, again, other = (stored_virtual_tokens(judged, seed=seed, virtual_tokens=8) for seed in (3, 3, 4))
    places = torch.cdist(first, embedding).argmin(-1)
    torch.testing.assert_close(first, embedding[places], rtol=0, atol=1e-6)
    assert len(set(places.tolist())) > 4
    assert first.equal(again)
    assert not first.equal(other)


# ------------------------------------------------------------------------------------------- a base quantised already
@pytest.fixture
def quantised(tmp_path: Path, tiny_model: Path) -> Iterator[Machine]:
    """The judged data on a base that was saved in 4 bits."""
    machine = make_machine(tmp_path / "quantised", quantised_model.build(tmp_path / "nf4", tiny_model))
    machine.add_prompts(train=8, held_out=2)
    machine.judge("train", 8)
    machine.judge("held-out", 2)
    yield machine
    machine.db.close()


@pytest.mark.parametrize("method", ["lora", "qlora", "prompt"])
def test_adapters_are_trained_on_a_base_that_is_quantised_already(quantised: Machine, method: Any) -> None:
    ready(quantised.data_dir, str(quantised.model))
    policy = finished(quantised, replace(QUICK, method=method, learning_rate=0.5 if method == "prompt" else 1e-2))
    models = LoadedPolicies(quantised.db, quantised.data_dir, quantised.model)
    base = registry.by_revision(quantised.db, "base")
    assert answer_logps(quantised, models.use(policy)) != answer_logps(quantised, models.use(base))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_base_that_is_quantised_already_computes_in_what_the_processor_does(
    quantised: Machine, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files ask for bfloat16, which some processors have to work out."""
    monkeypatch.setattr("rlhf.models.loading.base_weights.compute_dtype", lambda: dtype)
    model = load_quantised(quantised.model)
    assert {module.compute_dtype for module in model.modules() if hasattr(module, "compute_dtype")} == {dtype}
    for loaded in (model, load_for_answering(quantised.model)):
        assert {one.dtype for one in loaded.parameters() if one.is_floating_point()} == {dtype}


def test_what_a_base_that_is_quantised_already_cannot_do_is_refused_before_the_job(quantised: Machine) -> None:
    for precision in PRECISIONS:
        with pytest.raises(UserError, match=r"quantised already \(4 bits\), and only those in 16 or 32 bits"):
            quantised.submit(replace(QUICK, method="full", precision=precision))
    adapter = finished(quantised, replace(QUICK, method="qlora"))
    with pytest.raises(UserError, match=r"lies on weights that are quantised \(4 bits\)"):
        quantised.submit(MergeSpec(revision=adapter.revision))


def test_pissa_of_a_higher_rank_than_a_layer_has_is_refused(judged: Machine) -> None:
    spec = SFTSpec(source="example:medical-answers", method="lora", lora_init="pissa", lora_r=32)
    assert not preconditions.check(judged.db, spec)
    (sentence,) = preconditions.check(judged.db, replace(spec, lora_r=256))
    assert "PiSSA takes lora_r 256 directions out of each layer, and the smallest here has" in sentence


@pytest.mark.parametrize("quick", [QUICK, QUICK_SFT], ids=lambda spec: spec.kind)
def test_whatever_starts_from_pissa_stores_a_plain_adapter_for_the_untouched_base(
    judged: Machine, quick: TrainingSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(type(quick), "base_may_change", True)
    trainer = trainer_of(judged, replace(quick, method="lora", lora_init="pissa", precision="fp32"))
    one_step(trainer)
    trained = answer_logps(judged, trainer.model.eval())
    trainer.save(tmp_path / "stored")
    stored = PeftModel.from_pretrained(load_plain(judged.model, torch.float32), tmp_path / "stored")
    assert stored.peft_config["default"].r == 2 * quick.lora_r
    assert answer_logps(judged, stored.eval()) == pytest.approx(trained, abs=1e-4)


def test_the_reference_of_an_undecided_candidate_is_kept(judged: Machine) -> None:
    parent = finished(judged, QUICK)
    child = finished(judged, replace(QUICK, parent=parent.revision, scope="all", reference="parent"))
    with pytest.raises(UserError, match=f"{child.revision} is compared with {parent.revision}, its reference"):
        job_submission.delete_policy(judged.db, judged.data_dir, parent.revision, "a test")
    decision_store.reject(judged.db, child.revision, "a test")
    assert job_submission.delete_policy(judged.db, judged.data_dir, parent.revision, "a test") > 1000


def test_deleted_files_are_gone_and_the_row_says_so(judged: Machine) -> None:
    policy = finished(judged, QUICK)
    freed = job_submission.delete_policy(judged.db, judged.data_dir, policy.revision, "a test")
    assert freed > 1000
    assert not (judged.data_dir / str(policy.path)).exists()
    assert registry.by_revision(judged.db, policy.revision).deleted
    with pytest.raises(UserError, match="were deleted"):
        judged.submit(replace(QUICK, parent=policy.revision, scope="all"))
    with pytest.raises(UserError, match="were deleted"):
        decision_store.promote(judged.db, policy.revision, "a test")
