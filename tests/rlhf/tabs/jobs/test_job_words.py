"""Jobs in words: every kind of spec has a name and the settings that make it the run it is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from annotation.ui import formatting
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data.snapshots import SnapshotCounts
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs.job_spec import JobSpec, from_json, to_json
from rlhf.kinds import KINDS
from rlhf.tabs.jobs import job_words
from tests.rlhf.tabs.jobs.test_job_cards import JOB

# What a spec by default leaves to whoever submits it.
UNNAMED = ("Adapter", "Candidate", "Judge")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_word_and_its_facts(kind: str) -> None:
    spec: JobSpec = KINDS[kind]()
    assert spec.title
    assert all(label and text for label, text in job_words.spec_facts(spec) if label not in UNNAMED)
    assert from_json(job_words.spec_text(spec)) == spec, "what is shown can be run"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (SFTSpec(), "supervised training, LoRA or QLoRA"),
        (RewardModelSpec(method="qlora"), "reward model training, QLoRA"),
        (DPOSpec(method="prompt"), "preference training (DPO), prompt tuning"),
        (PPOSpec(method="lora"), "PPO, LoRA"),
        (CheckSpec(candidate="dpo-3"), "check of dpo-3"),
        (MergeSpec(revision="dpo-3"), "merging dpo-3"),
        (MeasureSpec(), "measuring"),
        (MeasureSpec(training=to_json(SFTSpec(method="lora"))), "measuring supervised training, LoRA"),
        (AnsweringSpec(), "answering"),
    ],
)
def test_a_job_is_named_by_what_it_does(spec: JobSpec, words: str) -> None:
    job = replace(JOB, kind=spec.kind, spec=spec)
    assert job_words.about(job) == words
    assert job_words.title(job) == f"7 · {words} · running"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (SFTSpec(batch_size=4, accumulation=3, processes=2), {"Epochs · demonstrations a step": "3 · 24"}),
        (SFTSpec(processes=2), {"Processes": "2"}),
        (SFTSpec(source="example:x", packing=False), {"Data": "example:x", "Packing": "no"}),
        (SFTSpec(precision="fp32"), {"Precision": "fp32"}),
        (SFTSpec(learning_rate=2e-4), {"Learning rate": "0.0002"}),
        (SFTSpec(learning_rate=7e-5), {"Learning rate": "7e-5"}),
        (SFTSpec(), {"Learning rate": "the method's default", "Data snapshot": "frozen at the start"}),
        (SFTSpec(dora=True, rslora=True), {"LoRA rank · alpha · layers": "16 · 32 · all-linear · DoRA · rsLoRA"}),
        (SFTSpec(method="lora", lora_init="pissa"), {"LoRA rank · alpha · layers": "16 · 32 · all-linear · pissa"}),
        (SFTSpec(method="prompt", virtual_init="random"), {"Virtual tokens": "20, from random"}),
        (DPOSpec(loss="robust", flip_rate=0.1), {"Loss": "Robust", "Flip rate": "0.1"}),
        (DPOSpec(offset=0.5), {"Loss": "Sigmoid", "Offset": "0.5"}),
        (DPOSpec(reference="parent", seed=4), {"Reference": "The parent", "Seed": "4"}),
        (RewardModelSpec(margin=False), {"Margin by strength": "no", "Epochs · comparisons a step": "2 · 4"}),
        (PPOSpec(reward_model="reward-model-3"), {"Reward model": "reward-model-3"}),
        (PPOSpec(steps=9), {"Rounds · answers a round": "9 · 16"}),
        (PPOSpec(), {"KL penalty": "adaptive, from 0.1, target 6 nats"}),
        (PPOSpec(kl_control="fixed"), {"KL penalty": "fixed, from 0.1"}),
        (MeasureSpec(training=to_json(DPOSpec())), {"Of": "preference training (DPO)"}),
    ],
)  # fmt: skip
def test_settings_are_told_in_words(spec: JobSpec, expected: dict[str, str]) -> None:
    facts = dict(job_words.spec_facts(spec))
    assert {label: facts.get(label) for label in expected} == expected


def test_full_fine_tuning_has_no_adapter_to_describe() -> None:
    assert not [label for label, _ in job_words.spec_facts(SFTSpec(method="full")) if "LoRA" in label]


def test_the_data_is_what_was_trained_on_once_that_is_known() -> None:
    counts = SnapshotCounts(train=30, held_out=8, left_out={"tie": 2})
    assert job_words.data_facts(JOB, counts) == [("Pairs", "30 to train, 8 held-out"), ("Left out", "tie (2)")]
    sft = replace(JOB, kind="sft", spec=SFTSpec(), result={"train_items": 28, "left_out": {"too-long": 2}})
    assert dict(job_words.data_facts(sft, counts)) == {
        "Demonstrations": "28 to train, 8 held-out",
        "Left out": "tie (2), too long (2)",
    }
    ppo = replace(JOB, kind="ppo", spec=PPOSpec())
    assert job_words.data_facts(ppo, SnapshotCounts(train=40, held_out=0)) == [
        ("Prompts", "40"),
        ("Left out", "nothing"),
    ]
    assert job_words.data_facts(replace(JOB, kind="check", spec=CheckSpec()), counts) == []
    assert job_words.data_facts(JOB, SnapshotCounts()) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (812, "812 bytes"), (4_200, "4.2 kB"), (19_600_000, "19.6 MB"), (538_000_000, "0.54 GB")],
)
def test_sizes_read_as_people_say_them(count: int, text: str) -> None:
    assert formatting.size(count) == text


def test_the_final_figures_are_the_last_that_were_reported() -> None:
    metrics: list[dict[str, Any]] = [{"step": 1, "loss": 2.0, "kl": 0.1}, {"step": 2, "loss": 1.0, "kl": None}]
    assert job_words.final_figures(metrics) == {"loss": 1.0, "kl": 0.1}


def test_the_spec_to_copy_is_the_jobs_spec() -> None:
    spec = DPOSpec(beta=0.3, snapshot="ab")
    assert json.loads(job_words.spec_text(spec)) == json.loads(to_json(spec))
