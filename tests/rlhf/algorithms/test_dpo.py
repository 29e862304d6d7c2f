"""DPO on a tiny real model: TRL's own loss, true gradients through 4-bit layers, references, resuming after SIGKILL."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from trl import DPOConfig, DPOTrainer

from annotation.exports.frozen_rows import PreferenceRow
from annotation.records import UserError
from annotation.store import prompt_store
from rlhf.algorithms import reference, trl_trainer
from rlhf.algorithms.checkpoints import (
    MANIFEST,
    CheckpointManifest,
    forget_broken_checkpoints,
    newest_checkpoint,
    write_checkpoint,
)
from rlhf.algorithms.comparisons import with_targets
from rlhf.algorithms.dpo.drift import Drift, DriftMeter
from rlhf.algorithms.dpo.spec import DPOSpec, far_enough, with_ends_to_learn
from rlhf.algorithms.dpo.train import PreferenceTrainer, best_of, build_trainer
from rlhf.algorithms.reference import answer_logps
from rlhf.algorithms.trainer import TokenisedData
from rlhf.data.snapshots import snapshot_counts
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.job_spec import Precision
from rlhf.jobs.run import Run, perform
from rlhf.models import hidden_states, packing, registry
from rlhf.models.hidden_states import head_of
from rlhf.models.loading.adapter_loading import adapter_config, load_adapter, put_weights
from rlhf.models.loading.base_weights import compute_dtype, load_for_answering, load_plain, load_quantised
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.registry import Policy
from rlhf.models.tokenise import load_snapshot, of_split, tokenise_comparisons, tokenise_pairs
from rlhf.tabs.jobs.job_cards import early_end
from tests.machine_fixtures import QUICK_DPO, Machine, make_machine

pytestmark = pytest.mark.slow
JUDGED = (12, 4)


def frozen_rows(machine: Machine) -> list[PreferenceRow]:
    """The train rows of the data frozen last."""
    sha256 = machine.db.value("SELECT sha256 FROM snapshot ORDER BY created DESC LIMIT 1")
    return of_split(load_snapshot(machine.data_dir, sha256, PreferenceRow), "train")


def trainer_of(machine: Machine, spec: DPOSpec, parent: str = "base") -> PreferenceTrainer:
    """The trainer as the job builds it, on the machine's judgements."""
    job_store.cancel(machine.db, machine.submit(replace(spec, parent=parent)))
    items, _ = spec.tokenise(machine.tokenizer, frozen_rows(machine))
    data = TokenisedData(with_targets(items, spec.annotator_noise))
    torch.manual_seed(spec.seed)
    start = machine.start(parent)
    return build_trainer(spec.filled(), start, machine.tokenizer, data, machine.data_dir / "checkpoints")


def stock_trainer(machine: Machine, spec: DPOSpec, loss: Mapping[str, float]) -> DPOTrainer:
    """TRL's own trainer on the text of the same rows."""
    arguments = DPOConfig(
        output_dir=str(machine.data_dir / "stock"),
        use_cpu=not torch.cuda.is_available(),
        bf16=compute_dtype() == torch.bfloat16,
        gradient_checkpointing=False,
        per_device_train_batch_size=4,
        beta=spec.beta,
        loss_type=list(loss),
        loss_weights=list(loss.values()),
        max_length=None,
        precompute_ref_log_probs=True,
        report_to="none",
        disable_tqdm=True,
    )
    texts = [
        {"prompt": row.rendered_prompt, "chosen": row.chosen.text, "rejected": row.rejected.text}
        for row in frozen_rows(machine)
    ]
    torch.manual_seed(spec.seed)
    return DPOTrainer(
        model=load_quantised(machine.model),
        args=arguments,
        train_dataset=Dataset.from_list(texts),
        processing_class=machine.tokenizer,
        peft_config=lora(spec),
    )


def lora(spec: DPOSpec) -> LoraConfig:
    """The adapter that a spec asks for."""
    return LoraConfig(r=spec.lora_r, lora_alpha=spec.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def first_batch(trainer: DPOTrainer, pairs: int = 4) -> dict[str, Any]:
    """The first pairs of the data, collated by the trainer."""
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(pairs)])
    return {name: tensor.to(trainer.model.device) for name, tensor in batch.items()}


def loss_of(trainer: DPOTrainer, batch: dict[str, Any]) -> torch.Tensor:
    """The training loss of a batch, computed as in a training step."""
    trainer.model.train()
    with trainer.compute_loss_context_manager():
        return trainer.compute_loss(trainer.model, dict(batch))


def randomise(model: Any, scale: float = 0.1) -> None:
    """Give every adapter matrix values, the same in every model: an adapter that does something."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name and ".default." in name:
            drawn = torch.randn(parameter.shape, generator=generator) * scale
            parameter.data = drawn.to(parameter.device)


def adapter_gradients(model: Any) -> dict[str, torch.Tensor]:
    """The gradient of every adapter matrix, by a name that is the same in every wrapping."""
    found = {
        name[name.index("layers.") :]: parameter.grad.float().flatten()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }
    assert len(found) == 2 * 7 * 2  # A and B of seven linear layers in each of two blocks
    return found


def assert_same_gradients(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """None is zero, and all point the same way with the same length."""
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        assert gradient.any(), f"the gradient of {name} is exactly zero"
        assert torch.cosine_similarity(gradient, expected[name], dim=0) > 0.99, name
        assert gradient.norm().item() == pytest.approx(expected[name].norm().item(), rel=0.15), name


def add_parent(machine: Machine, revision: str = "earlier", scale: float = 0.1) -> Policy:
    """A stored adapter with random weights, as an earlier training would have left it."""
    model = get_peft_model(load_quantised(machine.model), lora(QUICK_DPO))
    randomise(model, scale)
    model.save_pretrained(machine.data_dir / "adapters" / revision)
    path = f"adapters/{revision}"
    kept = {"base": str(machine.model), "path": path, "sha256": directory_sha256(machine.data_dir / path)}
    return registry.add(machine.db, revision=revision, algorithm="dpo", parent_id=1, job_id=None, **kept)


# ---------------------------------------------------------------------------------------------------------- the loss
@pytest.mark.parametrize("sft_weight", [0.0, 0.2])
def test_the_first_loss_equals_that_of_trl_and_is_ln_2_from_a_fresh_adapter(judged: Machine, sft_weight: float) -> None:
    """The same pairs through TRL's tokenisation, padding and loss, and through ours; also with an adapter that acts."""
    spec = replace(QUICK_DPO, sft_weight=sft_weight)
    ours = trainer_of(judged, spec)
    stock = stock_trainer(judged, spec, {"sigmoid": 1.0, "sft": sft_weight} if sft_weight else {"sigmoid": 1.0})
    our_batch, stock_batch = first_batch(ours), first_batch(stock)
    as_stock = torch.cat([our_batch["better"], our_batch["worse"]])
    for name in ("input_ids", "attention_mask", "completion_mask"):
        assert torch.equal(our_batch[name][as_stock], stock_batch[name])

    fresh = loss_of(ours, our_batch).item()
    chosen_tokens = our_batch["completion_mask"][our_batch["better"]].sum().item()
    likelihood_term = -sft_weight * our_batch["reference_logps"][our_batch["better"]].sum().item() / chosen_tokens
    assert fresh == pytest.approx(math.log(2) + likelihood_term, abs=2e-3)
    assert fresh == pytest.approx(loss_of(stock, stock_batch).item(), abs=2e-3)

    randomise(ours.model)
    randomise(stock.model)
    moved = loss_of(ours, our_batch)
    assert abs(moved.item() - fresh) > 0.1, "the adapter does nothing, so the comparison would prove nothing"
    stock_moved = loss_of(stock, stock_batch)
    assert moved.item() == pytest.approx(stock_moved.item(), rel=5e-3)
    moved.backward()
    stock_moved.backward()
    assert_same_gradients(adapter_gradients(ours.model), adapter_gradients(stock.model))


def test_pairs_packed_without_padding_give_the_log_probabilities_of_the_padded_batch(judged: Machine) -> None:
    """Models that can't be packed take the padded path; both must agree, up to bfloat16."""
    trainer = trainer_of(judged, QUICK_DPO)
    batch = first_batch(trainer, 6)
    with torch.no_grad():
        packed = answer_logps(trainer.model, batch)
        hidden_states.PACKS[hidden_states.inner_model(trainer.model)] = False
        padded = answer_logps(trainer.model, batch)
    assert packed.tolist() == pytest.approx(padded.tolist(), rel=5e-3)
    assert len(set(packed.tolist())) == 12


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_pairs_in_several_packed_rows_give_what_they_give_in_one(
    judged: Machine, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    """Answers come back in the order of the batch, and no row is longer than the limit, so the mask stays small."""
    trainer = trainer_of(judged, replace(QUICK_DPO, method=method, precision="fp32", virtual_tokens=4))
    randomise_all(trainer.model)
    lengths: list[int] = []

    def pack(*arguments: Any) -> packing.Packed:
        row = packing.pack(*arguments)
        lengths.append(row.ids_1L.shape[1])
        return row

    monkeypatch.setattr(hidden_states, "pack", pack)
    batch = first_batch(trainer, 6)
    found = []
    for limit in (4096, 150):
        monkeypatch.setattr(hidden_states, "ROW_TOKENS", limit)
        lengths.clear()
        trainer.model.zero_grad()
        with torch.no_grad():
            logps = answer_logps(trainer.model, batch)
        assert (len(lengths) == 1, max(lengths) <= limit) == (limit == 4096, True)
        loss = loss_of(trainer, batch)
        loss.backward()
        gradients = [p.grad.clone() for p in trainer.model.parameters() if p.requires_grad]
        found.append([logps, loss.detach(), *gradients])
    assert len(set(found[0][0].tolist())) == 12
    assert all(part.any() for part in found[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("packs", [True, False])
def test_a_batch_in_passes_of_fewer_tokens_has_the_same_gradient(judged: Machine, packs: bool) -> None:
    """And the same loss and figures, whether the model can pack sequences or not."""
    trainer = trainer_of(judged, replace(QUICK_DPO, method="lora", precision="fp32"))
    randomise_all(trainer.model)
    hidden_states.PACKS[hidden_states.inner_model(trainer.model)] = packs
    batch = first_batch(trainer, 6)
    found = []
    for tokens in (math.inf, 150):
        trainer.pass_tokens = tokens
        parts = trainer.parts_of(batch)
        assert (len(parts) > 1) == (tokens == 150)
        assert sum(len(part["input_ids"]) for part in parts) == 12
        trainer.model.zero_grad()
        trainer.noted.clear()
        loss = trainer.training_step(trainer.model, batch)
        noted = [total for total, _ in trainer.noted.values()]
        found.append([loss, *noted, *(p.grad.clone() for p in trainer.model.parameters() if p.requires_grad)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


def test_a_run_whose_layers_are_computed_again_has_the_very_same_weights(
    judged: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it may be resumed on a machine with more memory or less. Samples are drawn in between."""
    spec = replace(QUICK_DPO, method="lora", epochs=1, samples=1, check=False, batch_size=4, accumulation=1)
    passes, found = Counter[str](), []
    layer = GradientCheckpointingLayer.__call__

    def counted(self: Any, *arguments: Any, **keywords: Any) -> Any:
        passes["again" if self.gradient_checkpointing and self.training else "kept"] += 1
        return layer(self, *arguments, **keywords)

    monkeypatch.setattr(GradientCheckpointingLayer, "__call__", counted)
    for recompute in (False, True):
        passes.clear()
        monkeypatch.setattr(trl_trainer, "passes_here", lambda *_, wanted=recompute: (4096, wanted))
        job = judged.perform(judged.submit(spec))
        assert job.result is not None, job.message
        assert (passes["again"] > 0) == recompute
        directory = judged.data_dir / str(registry.by_revision(judged.db, job.result["revision"]).path)
        found.append(load_file(directory / "adapter_model.safetensors"))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_what_lies_below_the_adapters_is_computed_once_and_weights_stay_the_same(
    judged: Machine, monkeypatch: pytest.MonkeyPatch, recompute: bool
) -> None:
    """Also of a run that is stopped and goes on, and where layers are computed again in the backward pass."""
    monkeypatch.setattr(trl_trainer, "passes_here", lambda *_: (4096, recompute))
    spec = replace(QUICK_DPO, method="lora", lora_targets="upper-half", precision="fp32", epochs=2, samples=1)
    spec, found, calls = replace(spec, check=False, seed=int(recompute)), [], Counter[str]()
    lowest = LlamaDecoderLayer.forward

    def counted(self: Any, *arguments: Any, **keywords: Any) -> Any:
        calls[str(self.self_attn.layer_idx)] += 1
        return lowest(self, *arguments, **keywords)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", counted)
    for how in ("at once", "stopped", "whole"):
        if how == "whole":
            monkeypatch.setattr(trl_trainer, "lower_layers", lambda model: None)
        calls.clear()
        job_id = judged.submit(spec)
        if how == "stopped":
            cancelled_at_step_3(judged, job_id)
            job_store.resume(judged.db, job_id)
        assert judged.perform(job_id).status == "finished"
        assert calls["0"]
        assert (calls["0"] == calls["1"]) == (how == "whole")
        found.append(judged.adapter(f"dpo-{job_id}"))
    assert found[0]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-6)


def randomise_all(model: Any) -> None:
    """Give everything that is trained values: an adapter that does something."""
    generator = torch.Generator().manual_seed(5)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.device) * 0.1


# ----------------------------------------------------------------------------------------------------- annotator noise
RELIABILITY = {"ann": 0.95, "bob": 0.6}


@pytest.fixture
def mixed(machine: Machine) -> Machine:
    """Twelve pairs judged rightly by one annotator, twelve wrongly on purpose by another, and six held-out ones."""
    machine.add_prompts(train=12, held_out=6)
    machine.judge("train", 12)
    machine.judge("train", 12, "longer", by="bob")
    machine.judge("held-out", 6)
    return machine


def noisy(machine: Machine, noise: Any, **changes: Any) -> DPOSpec:
    """A spec on frozen data in which the annotators' reliability is known."""
    return replace(QUICK_DPO, annotator_noise=noise, snapshot=machine.freeze(RELIABILITY), check=False, **changes)


def test_each_pair_keeps_its_own_chance_of_error_up_to_the_loss(mixed: Machine) -> None:
    """Through the dataset, the shuffled loader, which drops columns it does not know, and the collator."""
    trainer = trainer_of(mixed, noisy(mixed, "smooth"))
    items, _ = tokenise_comparisons(mixed.tokenizer, frozen_rows(mixed), QUICK_DPO.max_length)
    expected = {
        tuple(item["prompt_ids"] + item["answers"][pair.better]): pair.flip for item in items for pair in item["pairs"]
    }
    assert sorted(set(expected.values())) == pytest.approx([0.05, 0.4])
    seen = {}
    for batch in trainer.get_train_dataloader():
        lengths = batch["attention_mask"].sum(-1)
        for row, flip, weight in zip(*(batch[name].tolist() for name in ("better", "flip", "weight")), strict=True):
            seen[tuple(batch["input_ids"][row, : lengths[row]].tolist())] = flip
            assert weight == 1.0
    assert seen == pytest.approx(expected)


def test_the_first_gradient_of_a_doubted_pair_is_smaller_by_hand(mixed: Machine) -> None:
    """At margin 0 the pull of a pair is 1/2 - flip under 'smooth': (1 - 2 flip) times what it is under 'ignore'.

    So 'smooth' and 'weight' start in the same direction, which is 0.9 of the sure pair's and 0.2 of the doubted one's,
    and 'weight' divides by their mean over the data, 0.55.
    """
    grads = {}
    for noise in ("ignore", "weight", "smooth"):
        trainer = trainer_of(mixed, noisy(mixed, noise, sft_weight=0.0))
        for name, rows in (("both", [0, 12]), ("sure", [0]), ("doubted", [12])):
            batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
            trainer.model.zero_grad()
            loss_of(trainer, {key: tensor.to(trainer.model.device) for key, tensor in batch.items()}).backward()
            grads[noise, name] = b_gradient(trainer.model)
    by_hand = (0.9 * grads["ignore", "sure"] + 0.2 * grads["ignore", "doubted"]) / 2
    assert_close(grads["smooth", "both"], by_hand)
    assert_close(grads["weight", "both"], by_hand / 0.55)
    assert_close(grads["ignore", "both"], (grads["ignore", "sure"] + grads["ignore", "doubted"]) / 2)
    assert torch.cosine_similarity(grads["smooth", "both"], grads["ignore", "both"], dim=0) < 0.95, "it matters here"


def b_gradient(model: Any) -> torch.Tensor:
    """The gradient of all B matrices; those of A are zero in a fresh adapter."""
    found = [
        parameter.grad.float().flatten().cpu()
        for name, parameter in sorted(model.named_parameters())
        if "lora_B" in name and parameter.requires_grad and parameter.grad is not None
    ]
    return torch.cat(found)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Same direction and length, within bfloat16."""
    assert torch.cosine_similarity(actual, expected, dim=0) > 0.995
    assert actual.norm().item() == pytest.approx(expected.norm().item(), rel=0.03)


def held_out_margin(machine: Machine, spec: DPOSpec) -> tuple[float, float]:
    """Train, and measure on the held-out pairs: (share of pairs won, mean margin) of the implicit reward."""
    job = machine.perform(machine.submit(spec))
    assert job.status == "finished", job.message
    assert job.result is not None
    assert job.result["trained_on"] == 24
    trained = registry.by_revision(machine.db, job.result["revision"])
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    rows = of_split(load_snapshot(machine.data_dir, spec.snapshot, PreferenceRow), "held-out")
    pairs, _ = tokenise_pairs(machine.tokenizer, rows, spec.max_length)
    gained = {}
    for policy in (trained, registry.by_revision(machine.db, "base")):
        model = models.use(policy)
        gained[policy.id] = [
            plain_logp(model, pair["prompt_ids"], pair["chosen_ids"])
            - plain_logp(model, pair["prompt_ids"], pair["rejected_ids"])
            for pair in pairs
        ]
    margins = [spec.beta * (new - old) for new, old in zip(gained[trained.id], gained[1], strict=True)]
    return sum(margin > 0 for margin in margins) / len(margins), sum(margins) / len(margins)


def test_what_is_known_of_the_annotators_helps_to_learn_what_is_right(mixed: Machine) -> None:
    """Half of the pairs are the wrong way round. Taken at their word the annotators teach nothing; weighed they do."""
    bare: dict[str, Any] = {"epochs": 3, "samples": 0, "checkpoint_steps": 99, "batch_size": 4, "accumulation": 1}
    learned = {noise: held_out_margin(mixed, noisy(mixed, noise, **bare)) for noise in ("ignore", "weight", "smooth")}
    print(learned)
    ignored = learned.pop("ignore")
    for share, margin in learned.values():
        assert share >= 5 / 6
        assert share >= ignored[0]
        assert margin > ignored[1] + 0.2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_passes_of_any_size_add_up_to_the_loss_of_the_whole_step(judged: Machine, precision: Precision) -> None:
    trainer = trainer_of(judged, replace(QUICK_DPO, method="lora", precision=precision, sft_weight=0.5))
    randomise(trainer.model)
    whole = first_batch(trainer, 5)
    parts = [
        trainer.data_collator([trainer.train_dataset[place] for place in places]) for places in ((0, 1, 2), (3,), (4,))
    ]
    batches, counts = trainer.get_batch_samples(iter(parts), len(parts), trainer.accelerator.device)
    assert batches == parts
    with torch.no_grad(), trainer.compute_loss_context_manager():
        expected = trainer.compute_loss(trainer.model, whole)
        found = sum(trainer.compute_loss(trainer.model, part, num_items_in_batch=counts) for part in parts)
    assert float(found) == pytest.approx(float(expected), rel=1e-5 if precision == "fp32" else 2e-2)


def test_full_training_in_16_bits_begins_without_a_margin_because_policy_and_reference_are_one(judged: Machine) -> None:
    trainer = trainer_of(judged, replace(QUICK_DPO, method="full", precision="bf16", sft_weight=0.0))
    assert loss_of(trainer, first_batch(trainer)).item() == pytest.approx(math.log(2), abs=1e-6)


# --------------------------------------------------------------------------- gradients through 4-bit layers on a CPU
def independent_gradients(machine: Machine, batch: dict[str, Any], beta: float) -> dict[str, torch.Tensor]:
    """Gradients of the DPO loss on a 16-bit copy of the 4-bit weights, one answer at a time, from full logits."""
    model = get_peft_model(load_quantised(machine.model).dequantize(), lora(QUICK_DPO))
    randomise(model)
    logps = []
    for ids, attention, completion in zip(
        batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
    ):
        length = int(attention.sum())
        with torch.autocast(batch["input_ids"].device.type, dtype=torch.bfloat16):
            logits = model(input_ids=ids[None, :length]).logits[0].float().log_softmax(-1)
        logps.append(sum(logits[at - 1, ids[at]] for at in range(1, length) if completion[at]))
    gained = [logp - reference for logp, reference in zip(logps, batch["reference_logps"], strict=True)]
    losses = [
        -torch.nn.functional.logsigmoid(beta * (gained[better] - gained[worse]))
        for better, worse in zip(batch["better"], batch["worse"], strict=True)
    ]
    (sum(losses) / len(losses)).backward()
    return adapter_gradients(model)


def test_the_trainer_has_true_gradients_after_the_reference_was_computed(judged: Machine) -> None:
    """On CPUs with AVX512-BF16 one forward pass in eval mode, such as the reference's, silently breaks them."""
    spec = replace(QUICK_DPO, sft_weight=0.0)
    trainer = trainer_of(judged, spec)
    batch = first_batch(trainer, 3)
    randomise(trainer.model)
    loss_of(trainer, batch).backward()
    assert_same_gradients(adapter_gradients(trainer.model), independent_gradients(judged, batch, spec.beta))


def test_unpacking_mends_the_gradients_after_a_generation(judged: Machine) -> None:
    """The bug is silent: generate, train on, and most adapter matrices get a wrong gradient or none."""
    spec = replace(QUICK_DPO, sft_weight=0.0)
    trainer = trainer_of(judged, spec)
    batch = first_batch(trainer, 3)
    randomise(trainer.model)
    trainer.model.eval()
    with torch.no_grad():
        trainer.model.generate(batch["input_ids"][:1, :8], max_new_tokens=2, do_sample=False)
    trainer.model.state_dict()  # unpacks what a forward pass in eval mode has packed
    loss_of(trainer, batch).backward()
    assert_same_gradients(adapter_gradients(trainer.model), independent_gradients(judged, batch, spec.beta))


# --------------------------------------------------------------------------------------------- reference and parent
def plain_logp(model: Any, prompt_ids: list[int], answer_ids: list[int]) -> float:
    """log π(answer | prompt), a token at a time from full logits."""
    ids = torch.tensor([[*prompt_ids, *answer_ids]], device=model.device)
    with torch.no_grad():
        logps = model(input_ids=ids).logits[0].float().log_softmax(-1)
    start = len(prompt_ids)
    return sum(logps[at - 1, ids[0, at]].item() for at in range(start, ids.shape[1]))


def first_margin(trainer: PreferenceTrainer) -> float:
    """The mean reward margin of the first batch, before any step."""
    trainer.noted.clear()
    loss_of(trainer, first_batch(trainer))
    total, pairs = trainer.noted["rewards/margins"]
    return float(total / pairs)


def test_a_policy_that_has_not_moved_is_right_of_half_the_pairs(judged: Machine) -> None:
    trainer = trainer_of(judged, QUICK_DPO)
    assert first_margin(trainer) == 0
    right, pairs = trainer.noted["rewards/accuracies"]
    assert float(right / pairs) == 0.5


def test_with_the_base_as_reference_a_continued_adapter_starts_with_the_margin_it_has_earned(judged: Machine) -> None:
    """TRL alone would make the parent the reference, and the tie to the base would be lost."""
    parent = add_parent(judged)
    trainer = trainer_of(judged, replace(QUICK_DPO, reference="base"), parent.revision)
    assert "ref" not in trainer.model.peft_config

    assert parent.path is not None
    policy = PeftModel.from_pretrained(load_for_answering(judged.model), judged.data_dir / parent.path).eval()
    margins = []
    for item in list(trainer.train_dataset)[:4]:
        answers = [item["answers"][item[side][0]] for side in ("better", "worse")]
        own = [plain_logp(policy, item["prompt_ids"], answer) for answer in answers]
        with policy.disable_adapter():
            reference = [plain_logp(policy, item["prompt_ids"], answer) for answer in answers]
        margins.append(QUICK_DPO.beta * ((own[0] - reference[0]) - (own[1] - reference[1])))
    by_hand = sum(margins) / len(margins)
    assert abs(by_hand) > 0.1
    assert first_margin(trainer) == pytest.approx(by_hand, rel=0.03)


def test_with_the_parent_as_reference_a_continued_adapter_starts_without_a_margin(judged: Machine) -> None:
    parent = add_parent(judged)
    trainer = trainer_of(judged, replace(QUICK_DPO, reference="parent"), parent.revision)
    assert "ref" not in trainer.model.peft_config
    assert first_margin(trainer) == pytest.approx(0.0, abs=0.02)  # bfloat16 in batches of another make-up
    assert loss_of(trainer, first_batch(trainer)).item() > math.log(2)


def test_what_a_reference_says_is_computed_once_for_all_runs(judged: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rate, more judgements, another precision, the parent as the reference; and a file that is damaged."""
    computed: list[int] = []
    few_passes: dict[str, Any] = {"epochs": 1, "batch_size": 8, "accumulation": 1, "check": False, "scope": "all"}

    def counted(model: Any, batch: Any, **keywords: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            computed.append(len(batch["group"]))
        return answer_logps(model, batch, **keywords)

    def run(**changes: Any) -> int:
        computed.clear()
        job = judged.perform(judged.submit(replace(QUICK_DPO, **few_passes, **changes)))
        assert job.status == "finished", job.message
        return sum(computed)

    monkeypatch.setattr(reference, "answer_logps", counted)
    assert run(samples=0) == 24
    assert run(samples=0, learning_rate=1e-3) == 0
    judged.judge("train", 2)
    assert run(samples=0) == 4
    assert run(samples=0, method="lora", precision="fp32") == 28
    parent = add_parent(judged)
    assert run(samples=0, reference="parent", parent=parent.revision) == 28
    kept = list((judged.data_dir / "references").iterdir())
    assert len(kept) == 3
    for path in kept:
        assert len(json.loads(path.read_text("utf-8"))) == 28
        path.write_text("{half", "utf-8")
    assert run(samples=0) == 28


@pytest.mark.parametrize("reference", ["base", "parent"])
def test_a_continued_adapter_starts_from_the_weights_of_its_parent_to_the_bit(judged: Machine, reference: Any) -> None:
    """Rounded to bfloat16 on the way, each iteration would lose a little of what the last one learned."""
    parent = add_parent(judged)
    trainer = trainer_of(judged, replace(QUICK_DPO, reference=reference), parent.revision)
    started = get_peft_model_state_dict(trainer.model, adapter_name="default")
    stored = judged.adapter(parent.revision)
    assert started.keys() == stored.keys()
    assert all(torch.equal(started[name].cpu(), stored[name]) for name in stored)


def test_a_parent_of_another_rank_is_refused_with_a_sentence(judged: Machine) -> None:
    parent = add_parent(judged)
    spec = replace(QUICK_DPO, parent="earlier", lora_r=8)
    with pytest.raises(UserError, match=r"The parent earlier has lora_r 4\. Use the same"):
        judged.submit(spec)
    with pytest.raises(UserError, match="another shape"):
        load_adapter(get_peft_model(load_quantised(judged.model), lora(spec)), judged.data_dir / str(parent.path))


@pytest.mark.parametrize("otherwise", ["renamed", "fewer", "more"])
def test_an_adapter_that_is_not_on_the_layers_asked_for_is_refused(tiny_model: Path, otherwise: str) -> None:
    """PEFT leaves out what fits nothing, and what is missing as it was drawn: another adapter, without a word."""
    spec = replace(QUICK_DPO, method="lora", lora_layers="q_proj, v_proj", lora_targets="named")
    model = get_peft_model(load_plain(tiny_model, torch.float32), adapter_config(spec, tiny_model))
    whole = get_peft_model_state_dict(model)
    put_weights(model, whole, "default", "a-run")
    weights = {
        "renamed": {name.replace(".layers.", ".blocks."): value for name, value in whole.items()},
        "fewer": {name: value for name, value in whole.items() if "v_proj" not in name},
        "more": {**whole, **{name.replace("q_proj", "k_proj"): value for name, value in whole.items()}},
    }[otherwise]
    with pytest.raises(UserError, match=r"The adapter a-run is on other layers than the one asked for \(base_model"):
        put_weights(model, weights, "default", "a-run")


# ----------------------------------------------------------------------------------------------------- the whole job
def test_training_raises_the_margin_and_the_candidate_prefers_what_was_preferred(judged: Machine) -> None:
    """The learning test: the shorter answer is preferred, and its margin over the longer one must grow."""
    job = judged.perform(judged.submit(replace(QUICK_DPO, epochs=3)))
    assert (job.status, job.step, job.steps) == ("finished", 9, 9)
    curve = job_store.metrics(judged.db, job.id)
    assert [entry["step"] for entry in curve] == list(range(1, 10))
    assert abs(curve[0]["rewards/margins"]) < 0.02
    assert curve[-1]["rewards/margins"] > 0.5
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.1
    assert job.result is not None
    assert job.result["trained_on"] == 12
    candidate = registry.by_revision(judged.db, job.result["revision"])
    assert (candidate.status, candidate.job_id) == ("candidate", job.id)
    weights = judged.adapter(candidate.revision)
    assert len(weights) == 28
    assert all(tensor.dtype == torch.float32 and tensor.any() for tensor in weights.values())
    assert not list((judged.data_dir / "checkpoints").iterdir())
    asked = list(job_store.samples(judged.db, job.id))
    assert asked == [prompt.text for prompt in prompt_store.prompts(judged.db, "held-out")[:3]]


def test_pairs_beyond_the_length_limit_are_left_out_and_counted(judged: Machine) -> None:
    """Once more after tokenising: the count at the freeze uses the tokens that were generated."""
    lengths = sorted(
        len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
        for pair in tokenise_pairs(
            judged.tokenizer, load_snapshot(judged.data_dir, snapshot_of(judged), PreferenceRow), QUICK_DPO.max_length
        )[0]
    )
    limit = lengths[-3] - 1
    within = sum(length <= limit for length in lengths)
    rows = load_snapshot(judged.data_dir, snapshot_of(judged), PreferenceRow)
    pairs, left_out = tokenise_pairs(judged.tokenizer, rows, limit)
    assert (len(pairs), left_out) == (within, {"too-long": len(lengths) - within})
    spec = replace(QUICK_DPO, max_length=limit, epochs=1, snapshot=snapshot_of(judged))
    job = judged.perform(judged.submit(spec))
    assert job.result is not None
    train = of_split(rows, "train")
    fitting, left = tokenise_pairs(judged.tokenizer, train, limit)
    assert left["too-long"] > 0
    assert (job.result["trained_on"], job.result["left_out"]) == (len(fitting), left)
    card = (judged.data_dir / "adapters" / job.result["revision"] / "README.md").read_text("utf-8")
    counts = snapshot_counts(judged.db, spec.snapshot)
    missing = sum(counts.left_out.values()) + left["too-long"]
    assert f"| data | {len(fitting)} pairs, {counts.held_out} held out, {missing} left out |" in card


def snapshot_of(machine: Machine) -> str:
    """Freeze today's judgements through a job that is then cancelled; returns the data's name."""
    job_id = machine.submit(QUICK_DPO)
    job_store.cancel(machine.db, job_id)
    spec = job_store.get(machine.db, job_id).spec
    assert isinstance(spec, DPOSpec)
    return spec.snapshot


def test_a_damaged_parent_fails_the_job_with_a_sentence_and_loses_nothing(judged: Machine) -> None:
    parent = add_parent(judged)
    assert parent.path is not None
    weights = judged.data_dir / parent.path / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    job = judged.perform(judged.submit(replace(QUICK_DPO, parent="earlier")))
    assert job.status == "failed"
    assert "The files of earlier in" in job.message
    assert "sha256 differs" in job.message
    assert registry.of_job(judged.db, job.id) is None


# ------------------------------------------------------------------------------------------- killed, cancelled, resumed
STEPS = 6


@dataclass
class Unbroken:
    """A run that nobody disturbed, to measure the others by."""

    machine: Machine
    spec: DPOSpec
    weights: dict[str, torch.Tensor]
    curve: list[dict[str, Any]]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Unbroken]:
    """A machine with a finished job of STEPS steps."""
    machine = make_machine(tmp_path_factory.mktemp("unbroken") / "data", tiny_model)
    machine.add_prompts(train=12, held_out=1)
    machine.judge("train", 12)
    job = machine.perform(machine.submit(replace(QUICK_DPO, epochs=STEPS // 3, learning_rate=1e-3, check=False)))
    assert (job.status, job.steps) == ("finished", STEPS)
    assert isinstance(job.spec, DPOSpec)
    yield Unbroken(machine, job.spec, machine.adapter(f"dpo-{job.id}"), job_store.metrics(machine.db, job.id))
    machine.db.close()


def checkpoint_steps(machine: Machine, job_id: int) -> list[int]:
    """The steps of a job's whole checkpoints."""
    marks = (machine.data_dir / "checkpoints" / f"job-{job_id}").glob(f"checkpoint-*/{MANIFEST}")
    return sorted(int(mark.parent.name.removeprefix("checkpoint-")) for mark in marks)


def assert_as_if_unbroken(unbroken: Unbroken, job: job_store.Job) -> None:
    """The same weights and the same loss curve, each step once."""
    assert job.status == "finished", job.message
    weights = unbroken.machine.adapter(f"dpo-{job.id}")
    for name, expected in unbroken.weights.items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-3, atol=1e-5)
    curve = job_store.metrics(unbroken.machine.db, job.id)
    assert [entry["step"] for entry in curve] == [entry["step"] for entry in unbroken.curve]
    assert [entry["loss"] for entry in curve] == pytest.approx([entry["loss"] for entry in unbroken.curve], rel=1e-3)


def test_each_step_has_a_learning_rate_the_first_one_too(unbroken: Unbroken) -> None:
    """At a rate of 0 what the first step sees would teach nothing, in a run that may have a dozen."""
    rates = [entry["learning_rate"] for entry in unbroken.curve if "learning_rate" in entry]
    assert unbroken.spec.warmup_steps == 2
    rising, falling = [0.5, 1.0], [1 - step / (STEPS - 2) for step in range(1, STEPS - 2)]
    assert rates == pytest.approx([unbroken.spec.learning_rate * share for share in (*rising, 1.0, *falling)])


def test_a_worker_killed_at_a_random_step_is_resumed_to_the_weights_of_an_unbroken_run(unbroken: Unbroken) -> None:
    """SIGKILL, marked lost by its silence, resumed by another process from the last whole checkpoint."""
    machine = unbroken.machine
    job_id = machine.submit(unbroken.spec)
    fatal_step = random.Random(os.urandom(8)).randint(2, STEPS // 2)
    print(f"killing the worker at step {fatal_step}")
    assert machine.kill_worker(job_id, fatal_step).status == "lost"
    saved = checkpoint_steps(machine, job_id)
    assert saved
    assert saved[-1] <= fatal_step
    # What a process killed while writing leaves: a newer directory without the mark.
    half = machine.data_dir / "checkpoints" / f"job-{job_id}" / f"checkpoint-{STEPS - 1}"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")

    job_store.resume(machine.db, job_id)
    job = machine.perform(job_id)
    assert job.attempt == 2
    assert any(f"resuming from checkpoint-{saved[-1]}" in line for line in job_store.log_tail(machine.db, job_id))
    assert_as_if_unbroken(unbroken, job)


class CancelledAtStep3(Run):
    """A run that somebody cancels."""

    def report(self, step: int, steps: int, metrics: Mapping[str, float], message: str = "") -> None:
        if step == 3:
            job_store.cancel(self.db, self.job_id)
        super().report(step, steps, metrics, message)


def cancelled_at_step_3(machine: Machine, job_id: int) -> None:
    claimed = job_store.claim(machine.db, job_id, "w")
    assert claimed is not None
    assert perform(CancelledAtStep3(machine.db, machine.data_dir, claimed, "w"), claimed.spec) == 0
    job = job_store.get(machine.db, job_id)
    assert (job.status, job.step) == ("cancelled", 3)


def test_a_cancelled_run_stops_at_that_step_and_can_be_finished_later(unbroken: Unbroken) -> None:
    machine = unbroken.machine
    job_id = machine.submit(unbroken.spec)
    cancelled_at_step_3(machine, job_id)
    assert checkpoint_steps(machine, job_id)[-1] == 3
    assert registry.of_job(machine.db, job_id) is None
    job_store.resume(machine.db, job_id)
    assert_as_if_unbroken(unbroken, machine.perform(job_id))


def test_a_worker_killed_after_its_adapter_was_registered_is_resumed_to_that_adapter(judged: Machine) -> None:
    """Training again would put other files under a name whose sha256 is recorded."""
    job = judged.perform(judged.submit(replace(QUICK_DPO, epochs=1, check=False)))
    registered = registry.of_job(judged.db, job.id)
    assert job.status == "finished"
    with judged.db.transaction() as connection:  # the rows as the killed worker left them
        connection.execute("UPDATE job SET status = 'lost', result = NULL WHERE id = ?", (job.id,))
    job_store.resume(judged.db, job.id)
    again = judged.perform(job.id)
    assert (again.status, again.attempt) == ("finished", 2)
    assert {**(again.result or {}), "seconds": 0} == {**(job.result or {}), "seconds": 0}
    assert registry.of_job(judged.db, job.id) == registered
    assert registered is not None
    assert directory_sha256(judged.data_dir / (registered.path or "")) == registered.sha256


@pytest.mark.parametrize("method", ["qlora", "lora", "prompt", "full"])
def test_a_policy_has_not_moved_before_it_was_trained(judged: Machine, method: Any) -> None:
    add_parent(judged)
    parent = "earlier" if method == "qlora" else "base"
    trainer = trainer_of(judged, replace(QUICK_DPO, method=method), parent)
    said: list[str] = []
    drift = DriftMeter(trainer, list(trainer.train_dataset), 0.1, said.append)
    assert drift.measure().kl == pytest.approx(0, abs=1e-4)
    assert drift.measure().surprise == pytest.approx(1, abs=1e-3)
    with torch.no_grad():
        for weights in trainer.weights().values():
            weights.add_(0.1 * torch.randn_like(weights))
    assert drift.measure().kl > 1e-3


def test_words_that_were_likely_surprise_less_where_training_began(judged: Machine) -> None:
    trainer = trainer_of(judged, replace(QUICK_DPO, method="lora"), "base")
    drift = DriftMeter(trainer, list(trainer.train_dataset), 0.1, [].append)
    weight_VH = head_of(trainer.model).weight_VH
    with torch.no_grad():
        weight_VH.mul_(2)  # all that was likely is likelier
        sharper = drift.measure()
        weight_VH.mul_(0.25)  # and less so
        flatter = drift.measure()
    assert sharper.kl > 1e-3
    assert flatter.kl > 1e-3
    assert sharper.surprise < 1 < flatter.surprise


@pytest.mark.parametrize(
    ("kl", "surprise", "enough"),
    [(0.09, 1.5, 0.0), (0.11, 1.01, 0.1), (0.11, 1.0, 0.0), (0.29, 0.9, 0.0), (0.31, 0.9, 0.3), (0.5, 1.2, 0.1)],
)
def test_to_likely_words_a_policy_may_move_further(kl: float, surprise: float, enough: float) -> None:
    spec = DPOSpec(stop_kl=0.1)
    assert far_enough(kl, surprise, spec.stop_kl) == bool(enough)
    said = f"The policy had moved {kl:g} nats a token, and {enough:g} was enough." if enough else ""
    if surprise > 1:
        said = said.replace(",", " to less likely words,")
    assert spec.ended_early({"kl": kl, "surprise": surprise}) == said


@pytest.mark.parametrize("final", [{"kl": 0.11}, {"kl": 0.11, "surprise": None}])
def test_earlier_runs_ended_at_the_limit_whatever_the_words(final: dict[str, float | None]) -> None:
    assert "0.1 was enough" in DPOSpec(stop_kl=0.1).ended_early(final)


# Twelve comparisons, four a step: three steps a pass.
LIMITED = replace(QUICK_DPO, method="lora", epochs=20, check=False, stop_kl=0.08)


@dataclass
class Limited:
    """A run that ended early, and the machine on which it was made."""

    machine: Machine
    job: job_store.Job


@pytest.fixture(scope="module")
def limited(judged_once: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    machine = judged_once.copied(tmp_path_factory.mktemp("limited") / "data")
    yield Limited(machine, machine.perform(machine.submit(LIMITED)))
    machine.db.close()


def test_training_ends_where_the_policy_has_moved_far_enough(limited: Limited) -> None:
    machine, job = limited.machine, limited.job
    assert job.status == "finished", job.message
    assert 3 < job.step == job.steps < 60
    curve = job_store.metrics(machine.db, job.id)
    moved = {entry["step"]: (entry["kl"], entry["surprise"]) for entry in curve if "kl" in entry}
    assert list(moved) == list(range(3, job.steps + 1))
    assert [far_enough(*there, LIMITED.stop_kl) for there in moved.values()] == [False] * (job.steps - 3) + [True]
    assert early_end(job)
    assert any(f"ends after step {job.step} of 60" in line for line in job_store.log_tail(machine.db, job.id))
    assert (job.result or {})["final"]["kl"] == moved[job.steps][0]
    assert all(max(answers) == job.steps for answers in job_store.samples(machine.db, job.id).values())


@pytest.mark.parametrize(("surprise", "steps"), [(0.9, 6), (1.1, 4)])
def test_how_far_a_training_goes_depends_on_the_words_that_it_moves_to(
    judged: Machine, monkeypatch: pytest.MonkeyPatch, surprise: float, steps: int
) -> None:
    """Three steps are a pass; 0.08 is reached after the fourth, three times that after the sixth."""
    moves = iter([Drift(kl, surprise) for kl in (0.03, 0.1, 0.2, 0.25, 0.4)])
    monkeypatch.setattr(DriftMeter, "measure", lambda _: next(moves))
    job = judged.perform(judged.submit(LIMITED))
    assert (job.status, job.step) == ("finished", steps), job.message
    assert (job.result or {})["final"]["surprise"] == surprise
    assert early_end(job)


def test_no_training_ends_before_it_has_learnt_from_all_its_data(judged: Machine) -> None:
    """What comes after would be left out for good: a policy counts as taught with all that it was frozen with."""
    job = judged.perform(judged.submit(replace(LIMITED, stop_kl=1e-9)))
    assert (job.status, job.step) == ("finished", 3), job.message


def test_where_the_last_planned_step_moves_it_far_enough_nothing_ended_early(judged: Machine) -> None:
    job = judged.perform(judged.submit(replace(LIMITED, epochs=1, stop_kl=1e-9)))
    assert (job.status, job.step) == ("finished", 3), job.message
    assert early_end(job) == ""


@pytest.mark.parametrize(("items", "passes"), [(1, 1), (24, 1), (25, 2), (60, 3), (73, 4), (1000, 42)])
def test_a_pass_over_the_data_has_six_steps_at_most(items: int, passes: int) -> None:
    spec = DPOSpec(epochs=3)
    assert spec.over(items).accumulated() == passes
    assert spec.steps_over(items) <= 18
    assert replace(spec, accumulation=1).over(items).accumulated() == 1
    halved = spec.halved()
    assert halved is not None
    assert halved.batch_size * halved.over(items).accumulated() == 4 * passes, "a step takes as many as before"


END = 2


@pytest.mark.parametrize(
    ("pairs", "without"),
    [
        ([(0, 1), (0, 2), (1, 2)], []),  # the shortest is best: every end teaches what was asked for
        ([(2, 1), (2, 0), (1, 0)], [0, 1]),
        ([(1, 0), (1, 2)], [0]),
        ([(2, 3), (3, 0)], [0]),  # cut off: has no end
        ([(0, 5)], []),  # nothing but its end
        ([(4, 0), (0, 1)], []),  # better than answers that are all bad
    ],
)
def test_an_answer_to_which_a_longer_one_was_preferred_does_not_teach_when_to_end(
    pairs: list[tuple[int, int]], without: list[int]
) -> None:
    answers = [[5, END], [5, 6, END], [5, 6, 7, END], [5, 6, 7], [], [END]]
    item = {"answers": answers, "pairs": [(*pair, None, None, False) for pair in pairs]}
    expected = [ids[:-1] if place in without else ids for place, ids in enumerate(answers)]
    assert with_ends_to_learn(item, {END}) == expected


@pytest.mark.parametrize(("word", "kept"), [("shorter", True), ("longer", False)])
def test_what_is_trained_on_has_the_ends_that_are_to_be_learnt(machine: Machine, word: str, kept: bool) -> None:
    machine.add_prompts(train=8, held_out=2)
    machine.judge("train", 8, word)
    machine.judge("held-out", 2, word)
    trainer = trainer_of(machine, QUICK_DPO)
    end = machine.tokenizer.eos_token_id
    ended = [[ids[-1] == end for ids in item["answers"]] for item in trainer.train_dataset]
    assert ended == [[True, kept]] * 8


def test_only_the_best_of_a_ranking_is_made_likelier_by_itself() -> None:
    better, worse = torch.tensor([0, 0, 0, 1, 1, 2, 4]), torch.tensor([1, 2, 3, 2, 3, 3, 5])
    assert best_of({"better": better, "worse": worse}).tolist() == [1, 1, 1, 0, 0, 0, 1]


def test_a_worker_killed_after_a_training_that_ended_early_does_not_train_on(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, whole = limited.machine, limited.job
    job_id = machine.submit(whole.spec)
    with monkeypatch.context() as broken:
        broken.setattr("rlhf.algorithms.dpo.train.conclude", MagicMock(side_effect=MemoryError))
        claimed = job_store.claim(machine.db, job_id, "w")
        assert claimed is not None
        perform(Run(machine.db, machine.data_dir, claimed, "w"), claimed.spec)
    assert job_store.get(machine.db, job_id).status == "failed"
    assert checkpoint_steps(machine, job_id)[-1] == whole.steps
    job_store.resume(machine.db, job_id)
    job = machine.perform(job_id)
    assert (job.status, job.steps) == ("finished", whole.steps), job.message
    expected = machine.adapter(f"dpo-{whole.id}")
    for name, weights in machine.adapter(f"dpo-{job_id}").items():
        torch.testing.assert_close(weights, expected[name])


def test_only_whole_checkpoints_are_resumed_from_and_broken_ones_are_removed(tmp_path: Path) -> None:
    """What was killed while it was written has no manifest, or not yet its name."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimiser = torch.optim.AdamW([weight])
    assert newest_checkpoint(tmp_path / "none") is None
    for step in (2, 9, 10):
        with torch.no_grad():
            weight.fill_(step)
        write_checkpoint(tmp_path, CheckpointManifest("dpo", step, 20, ""), {"w": weight}, optimiser, {"seen": [step]})
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-10").rename(tmp_path / "checkpoint-10.part")
    forget_broken_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-9"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.restore({"w": weight}, optimiser, torch.device("cpu")) == {"seen": [9]}
    assert weight.item() == 9


@pytest.mark.parametrize(("name", "content"), [("complete", ""), (MANIFEST, '{"format": 2}')])
def test_a_run_with_checkpoints_of_another_version_is_refused_until_they_are_deleted(
    judged: Machine, name: str, content: str
) -> None:
    job_id = judged.submit(replace(QUICK_DPO, epochs=1, check=False))
    directory = judged.data_dir / "checkpoints" / f"job-{job_id}"
    other = directory / "checkpoint-2"
    other.mkdir(parents=True)
    judged.db.connection.execute("UPDATE job SET attempt = 1 WHERE id = ?", (job_id,))  # another one wrote them
    (other / "adapter_model.safetensors").write_bytes(b"weights")
    (other / name).write_text(content, "utf-8")
    job = judged.perform(job_id)
    assert job.status == "failed"
    assert f"checkpoints in checkpoints/job-{job_id} were written by another version" in job.message
    assert "Delete them on the Runs tab, then resume" in job.message
    assert (other / "adapter_model.safetensors").read_bytes() == b"weights"
    shutil.rmtree(directory)
    job_store.resume(judged.db, job_id)
    assert judged.perform(job_id).status == "finished"


def test_answers_that_are_all_bad_become_less_likely(machine: Machine) -> None:
    """Beside preferences; losses of pairs leave them out and say so, and alone they are no data."""
    machine.add_prompts(train=16, held_out=4)
    machine.judge("train", 8)
    machine.judge("train", 8, word="all-bad")
    quick = replace(QUICK_DPO, epochs=1, check=False, sft_weight=0.0, batch_size=8, accumulation=1, samples=0)
    trainer = trainer_of(machine, quick)
    batch = next(one for one in trainer.get_train_dataloader() if (one["completion_mask"].sum(-1) == 0).any())
    empty_B = batch["completion_mask"].sum(-1) == 0
    assert (batch["reference_logps"][empty_B] == 0).all()
    assert (answer_logps(trainer.model, batch)[empty_B] == 0).all()
    loss_of(trainer, batch).backward()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in trainer.model.parameters() if p.requires_grad
    )
    bad = trainer.data_collator([one for one in trainer.train_dataset if not all(one["answers"])][:4])
    with_likelihood = trainer_of(machine, replace(quick, sft_weight=0.2))
    assert torch.isfinite(loss_of(with_likelihood, bad)), "a batch of nothing else has no better answers to learn"
    done = machine.perform(machine.submit(quick))
    assert (done.status, (done.result or {})["trained_on"]) == ("finished", 8 + 2 * 8)
    robust = machine.perform(machine.submit(replace(quick, loss="robust", flip_rate=0.1)))
    assert (robust.result or {})["left_out"] == {"all-bad": 8}
