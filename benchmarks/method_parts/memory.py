"""Part three of `benchmarks.methods`: peak memory of PPO against SFT, passes of the same number of tokens, all used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from annotation.exports.frozen_rows import DemonstrationRow
from annotation.imports.importing import starter_prompts
from annotation.records import Sampling
from benchmarks.harness.driver import BenchmarkError
from benchmarks.harness.laboratory import Laboratory
from benchmarks.method_parts.frontier import Ground, accepted
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data.snapshots import CountedRows, store_snapshot
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import to_json

SFT, PPO = "memory sft", "memory ppo"
ROWS = 16


@dataclass(frozen=True)
class Sizes:
    """How much goes through the model at once."""

    batch_size: int = 4
    max_length: int = 256
    new_tokens: int = 64
    rollouts: int = 16
    steps: int = 2


QUICK = Sizes(batch_size=2, max_length=64, new_tokens=16, rollouts=4)


def plan() -> dict[str, float]:
    """The parts with their relative times."""
    return {SFT: 1.5, PPO: 8.0}


def compare(lab: Laboratory, ground: Ground, sizes: Sizes) -> dict[str, Any]:
    """Peak memory of both, each in a process of its own, on bf16 weights, and the ratio."""
    snapshot = frozen(lab, sizes)
    common: dict[str, Any] = {
        "parent": ground.sft,
        "snapshot": snapshot,
        "method": "lora",
        "precision": "bf16",
        "batch_size": sizes.batch_size,
        "max_length": sizes.max_length,
        "samples": 0,
    }
    sft = SFTSpec(**common)
    ppo = PPOSpec(
        **common,
        reward_model=ground.reward_model,
        accepted_accuracy=accepted(ground),
        rollouts=sizes.rollouts,
        epochs=1,
        sampling=Sampling(temperature=1.0, min_p=0.0, max_new_tokens=sizes.new_tokens),
    )
    measured = {
        name: lab.run(name, MeasureSpec(training=to_json(spec), steps=sizes.steps))
        for name, spec in ((SFT, sft), (PPO, ppo))
    }
    peaks = {name: float((job.result or {})["peak_memory_mb"]) for name, job in measured.items()}
    drawn = fmean(entry["length"] for entry in job_store.metrics(lab.db, measured[PPO].id))
    memory = {
        "ppo_peak_rss_mb": peaks[PPO],
        "sft_peak_rss_mb": peaks[SFT],
        "batch_size": sizes.batch_size,
        "max_length": sizes.max_length,
        "new_tokens": sizes.new_tokens,
        "drawn_tokens": round(drawn, 1),
    }
    return {"ppo_memory_ratio": round(peaks[PPO] / peaks[SFT], 3), "memory": memory}


@dataclass(frozen=True)
class AskedAndAnswered(DemonstrationRow):
    """A row that supervised training reads as a demonstration and PPO as a prompt."""

    prompt_id: int = 0

    def to_json(self) -> dict[str, Any]:
        """The row as it is stored."""
        return {**super().to_json(), "prompt_id": self.prompt_id}


def frozen(lab: Laboratory, sizes: Sizes) -> str:
    """Demonstrations that fill max_length to the last token, whose prompts leave PPO new_tokens for its answers."""
    from rlhf.models.loading.tokenizer_loading import load_tokenizer
    from rlhf.models.tokenise import render, text_ids

    tokenizer = load_tokenizer(lab.base.path)

    def fed(text: str) -> int:
        return len(text_ids(tokenizer, render(tokenizer, asking(text))))

    prompt = of_length(sizes.max_length - sizes.new_tokens, fed)
    # The end-of-text token is one of the answer's.
    answer = of_length(sizes.new_tokens - 1, lambda text: len(text_ids(tokenizer, text)))
    rows = [
        AskedAndAnswered("train", tuple(asking(prompt)), answer, "written", prompt_id=place) for place in range(ROWS)
    ]
    return store_snapshot(lab.db, lab.directory, CountedRows(rows))


def asking(text: str) -> list[dict[str, str]]:
    """A conversation that is likely to be answered at length."""
    return [{"role": "user", "content": f"Tell a long story of all this: {text}"}]


def of_length(wanted: int, count: Callable[[str], int]) -> str:
    """A text of exactly so many tokens. Raises BenchmarkError where the words at hand give none."""
    text = ""
    for word in " ".join(prompt.text for prompt in starter_prompts()).split():
        longer = f"{text} {word}".strip()
        if count(longer) <= wanted:
            text = longer
        if count(text) == wanted:
            return text
    raise BenchmarkError(f"No text of {wanted} tokens could be put together.")


def describe(found: Mapping[str, Any]) -> str:
    """The ratio in a sentence, of all figures."""
    memory = found["memory"]
    return (
        f"Peak memory of PPO {memory['ppo_peak_rss_mb']:,.0f} MB, of SFT {memory['sft_peak_rss_mb']:,.0f} MB: a ratio "
        f"of {found['ppo_memory_ratio']:.2f} (LoRA on bf16 weights; passes of {memory['batch_size']} × "
        f"{memory['max_length']} tokens, {memory['new_tokens']} of them the answer; PPO drew "
        f"{memory['drawn_tokens']:.0f} on average)."
    )
