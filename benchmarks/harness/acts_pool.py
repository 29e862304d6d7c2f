"""What `benchmarks.acts` judges and learns from: answers of a base model to the starter prompts, with hidden states.

They are drawn once, with the product's own sampler, and kept in the data directory: a run that was broken off goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from annotation.database import open_database
from annotation.imports.importing import starter_prompts
from annotation.records import Prompt, Sampling
from benchmarks.harness import driver
from benchmarks.harness.driver import say
from rlhf.models import registry
from rlhf.models.base import base_identity, base_model
from rlhf.models.hidden_states import mean_states
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.orders.heads import DEPTH
from rlhf.models.sampling.drawing import draw
from rlhf.models.tokenise import text_ids

PROMPTS_TOGETHER = 12
# Short ones: most of a run's time goes into drawing, and the rules are about a sentence or two.
SAMPLING = Sampling(max_new_tokens=48)


@dataclass(frozen=True)
class PooledPrompt:
    """A prompt with K answers and, of each, the mean of a middle layer's states over its tokens, (K, H)."""

    split: str
    prompt: str
    texts: tuple[str, ...]
    states_KH: Tensor


def pool(directory: Path, model: str, prompts: tuple[int, int], answers: int) -> list[PooledPrompt]:
    """The prompts with their answers, drawn where an earlier start has not; so many to train on, and held-out ones."""
    path = kept_in(directory, model, prompts, answers)
    stored: list[dict[str, Any]] = torch.load(path, weights_only=True) if path.exists() else []
    missing = wanted(prompts)[len(stored) :]
    if missing:
        driver.share_base_model(directory)
        base = base_model.prepare(directory, model)
        db = open_database(directory)
        base_identity.register(db, base)
        models = LoadedPolicies(db, directory, base.path)
        policy = registry.by_revision(db, "base")
        for start in range(0, len(missing), PROMPTS_TOGETHER):
            part_of = missing[start : start + PROMPTS_TOGETHER]
            stored += answered(models, models.use(policy), part_of, answers, len(stored) * answers)
            part = path.with_suffix(".part")
            torch.save(stored, part)
            part.replace(path)
            say(f"{len(stored)} prompts answered")
        db.close()
    return [PooledPrompt(one["split"], one["prompt"], tuple(one["texts"]), one["states"]) for one in stored]


def kept_in(directory: Path, model: str, prompts: tuple[int, int], answers: int) -> Path:
    """The file of what is drawn so: a quick run, or one of another model, has its own."""
    drawn_by = repr((model, prompts, answers, SAMPLING, DEPTH))
    return directory / f"pool-{sha256(drawn_by.encode()).hexdigest()[:12]}.pt"


def wanted(numbers: tuple[int, int]) -> list[Prompt]:
    """The first starter prompts: so many to train on, then so many held-out ones."""
    found = starter_prompts()
    by_split = ([prompt for prompt in found if prompt.split == split] for split in ("train", "held-out"))
    return [prompt for prompts, number in zip(by_split, numbers, strict=True) for prompt in prompts[:number]]


def answered(
    models: LoadedPolicies, model: Any, prompts: Sequence[Prompt], answers: int, seed: int
) -> list[dict[str, Any]]:
    """A few prompts with their answers and states, as they are stored; their seeds begin with this one."""
    fed = [models.feed(prompt.messages, SAMPLING.max_new_tokens) for prompt in prompts]
    seeds = [[seed + place * answers + sample for sample in range(answers)] for place in range(len(prompts))]
    drawn = draw(model, models.tokenizer, fed, seeds, SAMPLING)
    return [
        {
            "split": prompt.split,
            "prompt": prompt.text,
            "texts": [one.text for one in group],
            "states": mean_states(
                model,
                [(text_ids(models.tokenizer, text), one.ids) for one in group],
                models.tokenizer.pad_token_id,
                DEPTH,
            ),
        }
        for prompt, text, group in zip(prompts, fed, drawn, strict=True)
    ]
