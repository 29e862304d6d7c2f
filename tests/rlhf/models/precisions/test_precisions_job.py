"""How far apart a base is in two precisions: the measurement against its definition, and what the form says of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from annotation.records import UserError
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.models import registry
from rlhf.models.loading.base_weights import load_for_answering
from rlhf.models.memory import machines
from rlhf.models.precisions.precisions_job import MOST_SCORES
from rlhf.models.precisions.precisions_spec import PrecisionMismatch, PrecisionsSpec, crossing
from rlhf.models.registry import HeldPrecision
from rlhf.submission import preflight
from rlhf.tabs.train import plan_card
from tests.machine_fixtures import Machine

pytestmark = pytest.mark.slow


@torch.no_grad()
def log_probabilities(machine: Machine, precision: HeldPrecision) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, vocabulary) of the plain text, paragraph by paragraph, by a head that rounds nothing; and the tokens."""
    model, tokenizer = load_for_answering(machine.model, precision), machine.tokenizer
    found, tokens = [], []
    for paragraph in Path("annotation/examples/plain_text.txt").read_text("utf-8").strip().split("\n\n"):
        ids = tokenizer(paragraph.strip(), add_special_tokens=False)["input_ids"]
        states = model.model(torch.tensor([[tokenizer.eos_token_id, *ids]])).last_hidden_state[0, :-1]
        found.append((states.double() @ model.lm_head.weight.double().T).log_softmax(-1))
        tokens += ids
    return torch.cat(found), torch.tensor(tokens)


def crossing_of(machine: Machine, spec: TrainingSpec) -> PrecisionMismatch | None:
    """What is known of it before a run."""
    return crossing(machine.db, preflight.resolved(machine.db, spec), machines.this_machine())


def test_the_gap_is_the_kl_from_what_would_be_trained_to_what_answers(machine: Machine) -> None:
    spec = DPOSpec(method="lora", precision="bf16")
    before = crossing_of(machine, spec)
    assert before is not None
    assert (before.parent.precision, before.held_in, before.gap, before.measuring) == ("nf4", "bf16", None, False)
    assert "has not been measured" in plan_card.crossing_note(before)
    job_id = machine.submit(before.spec)
    waits = crossing_of(machine, spec)
    assert waits is not None
    assert waits.measuring
    assert "is being measured" in plan_card.crossing_note(waits)
    job = machine.perform(job_id)
    assert job.status == "finished", job.message

    (trained, tokens), (answers, _) = (log_probabilities(machine, weights) for weights in ("bf16", "nf4"))
    kl = (trained.exp() * (trained - answers)).sum(-1).mean().item()
    assert kl > 0.01, "the two are the same, so that it would prove nothing"
    after = crossing_of(machine, spec)
    assert after is not None
    assert after.gap is not None
    assert after.gap.kl == pytest.approx(kl, rel=1e-5)
    for found, table in ((after.gap.other_perplexity, trained), (after.gap.perplexity, answers)):
        expected = math.exp(-table.gather(-1, tokens[:, None]).mean().item())
        assert found == pytest.approx(expected, rel=1e-5)
    assert f"{after.gap.kl:.2g} nats a token apart" in plan_card.crossing_note(after)
    assert len(tokens) * trained.shape[-1] < MOST_SCORES, "all of the text was read"
    assert crossing_of(machine, replace(spec, precision="fp32")) is not None
    assert crossing_of(machine, replace(spec, precision="fp32")).gap is None, "that is another pair"  # type: ignore[union-attr]
    registry.answer_otherwise(machine.db)
    anew = crossing_of(machine, spec)
    assert anew is not None
    assert anew.gap is None, "other weights have the name of the base"


@pytest.mark.parametrize("method", ["auto", "qlora"])
def test_a_training_in_the_precision_that_answers_costs_nothing(machine: Machine, method: Any) -> None:
    assert crossing_of(machine, DPOSpec(method=method)) is None
    assert plan_card.crossing_note(None) == ""


def test_on_a_base_in_16_bits_the_recipe_in_4_says_what_it_costs(machine: Machine) -> None:
    registry.set_precision(machine.db, "bf16", "kim")
    found = crossing_of(machine, DPOSpec(method="qlora"))
    assert found is not None
    assert found.spec == PrecisionsSpec(revision="base", precision="bf16", other="nf4")
    assert crossing_of(machine, DPOSpec()) is None
    assert preflight.resolved(machine.db, DPOSpec()).method == "lora"


def test_there_is_nothing_to_compare_within_one_precision_or_of_an_adapter(machine: Machine) -> None:
    with pytest.raises(UserError, match="Both precisions are bf16"):
        machine.submit(PrecisionsSpec(precision="bf16", other="bf16"))
    with pytest.raises(UserError, match="There is no policy 'dpo-9'"):
        machine.submit(PrecisionsSpec(revision="dpo-9"))
