"""Part four of `benchmarks.methods`: SFT → reward model → PPO, and SFT → DPO, on preferences by one gold reward.

Gao et al. 2023, "Scaling Laws for Reward Model Overoptimization": what a policy gains by a gold reward that is seen
through preferences only, against how far it has gone from where it began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from annotation.exports.frozen_rows import FrozenAnswer, PreferenceRow
from annotation.imports.importing import starter_prompts
from annotation.records import Prompt, Sampling
from annotation.store import prompt_store
from benchmarks.harness.driver import say
from benchmarks.harness.gold import gold
from benchmarks.harness.intervals import crossed
from benchmarks.harness.laboratory import Laboratory
from benchmarks.method_parts.sentiment import revision_of, small_snapshot
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data import snapshots
from rlhf.data.snapshots import CountedRows, store_snapshot
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.models.reward_model_quality import RewardModelQuality, quality_in

EXAMPLE = "medical-answers"
NEVER = 100_000
PREFERENCE_SEED, TEST_SEED = 1_000, 500_000
# Rounds of PPO whose mean reward is called that of its start and of its end.
ROUNDS_AT_AN_END = 5


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    betas: tuple[float, ...] = (0.03, 0.1, 0.3)
    prompts: int = 170
    """To draw preferences for, and for PPO to answer."""
    comparisons: int = 2
    """Of two answers each, to every prompt."""
    held_out: int = 60
    """Prompts to test on; the reward model's held-out comparisons are answers to them too."""
    samples: int = 1
    """Answers to each of them."""
    tokens: int = 48
    sft_epochs: int = 1
    demonstrations: int | None = None
    """Of each split, to learn from before that; None for all."""
    reward_epochs: int = 2
    dpo_epochs: int = 1
    rounds: int = 8
    rollouts: int = 16
    ppo_learning_rate: float = 2e-4
    """Above PPO's default: there are few rounds."""
    seed: int = 0


QUICK = Sizes(betas=(0.1,), prompts=8, held_out=6, tokens=16, demonstrations=12, reward_epochs=1, rounds=1, rollouts=8)


def plan_of_reward_model() -> dict[str, float]:
    """The parts up to the reward model, with their relative times."""
    return {"frontier sft": 2.0, "frontier preferences": 6.0, "frontier reward model": 8.0}


def plan(sizes: Sizes) -> dict[str, float]:
    """The parts after it, with their relative times."""
    ppo = {name_of("ppo", beta): 0.25 * sizes.rounds for beta in sizes.betas}
    dpo = {name_of("dpo", beta): 4.0 * sizes.dpo_epochs for beta in sizes.betas}
    return {**dpo, **ppo, "frontier answers": 8.0}


def name_of(kind: str, beta: float) -> str:
    """The part's name."""
    return f"frontier {kind} beta {beta:g}"


# --------------------------------------------------------------------------------------------------- up to the reward
@dataclass(frozen=True)
class Ground:
    """What PPO and DPO both begin with."""

    sft: str
    """The SFT policy: weights of its own, on which everything else lies."""
    preferences: str
    """The frozen preferences."""
    reward_model: str
    quality: RewardModelQuality


def reward_model(lab: Laboratory, sizes: Sizes) -> Ground:
    """The SFT policy, preferences between its answers, and a reward model that was trained on them."""
    prompt_store.add_prompts(lab.db, starter_prompts())
    spec = SFTSpec(
        source=f"example:{EXAMPLE}",
        snapshot="" if sizes.demonstrations is None else small_snapshot(lab, EXAMPLE, sizes.demonstrations),
        method="full",
        learning_rate=2e-5,
        epochs=sizes.sft_epochs,
        seed=sizes.seed,
        samples=0,
        checkpoint_steps=NEVER,
    )
    sft = revision_of(lab.run("frontier sft", spec))
    preferences = preferences_of(lab, sizes, sft)
    trained = lab.run(
        "frontier reward model",
        RewardModelSpec(
            parent=sft,
            snapshot=preferences,
            method="lora",
            epochs=sizes.reward_epochs,
            seed=sizes.seed,
            checkpoint_steps=NEVER,
        ),
    )
    quality = quality_in(trained.result)
    assert quality is not None
    say(f"reward model: accuracy {quality.accuracy}")
    return Ground(sft, preferences, revision_of(trained), quality)


def held_out_prompts(lab: Laboratory, sizes: Sizes) -> list[Prompt]:
    """The held-out prompts."""
    return prompt_store.prompts(lab.db, "held-out")[: sizes.held_out]


def preferences_of(lab: Laboratory, sizes: Sizes, sft: str) -> str:
    """Pairs of the SFT policy's own answers, the better one by the gold reward first, as frozen data."""
    train = prompt_store.prompts(lab.db, "train")[: sizes.prompts]
    prompts = [*train, *held_out_prompts(lab, sizes)]
    request = {
        "policies": [(sft, None)],
        "prompts": [[dict(message) for message in prompt.messages] for prompt in prompts],
        "samples": 2 * sizes.comparisons,
        "seed": PREFERENCE_SEED,
        **drawing(lab, sizes),
    }
    (answers,) = lab.compute("frontier preferences", request)
    rows = [
        row
        for prompt, drawn in zip(prompts, answers, strict=True)
        for place in range(sizes.comparisons)
        for row in judged(prompt, drawn[2 * place : 2 * place + 2], prompt.id * sizes.comparisons + place)
    ]
    say(f"{len(rows)} of {len(prompts) * sizes.comparisons} comparisons have a better answer")
    return store_snapshot(lab.db, lab.directory, CountedRows(rows), snapshots.MIN_PAIRS)


def drawing(lab: Laboratory, sizes: Sizes) -> dict[str, Any]:
    """How answers are drawn everywhere: from the policy's own distribution, as PPO draws them."""
    sampling = Sampling(temperature=1.0, min_p=0.0, max_new_tokens=sizes.tokens)
    return {"sampling": asdict(sampling), "model": lab.base.name, "reference": None}


def judged(prompt: Prompt, pair: Sequence[Mapping[str, Any]], comparison: int) -> list[PreferenceRow]:
    """A comparison as a frozen row with the better answer as the chosen one; none where the two are as good."""
    worths = [gold(answer["text"]) for answer in pair]
    if worths[0] == worths[1]:
        return []
    sides = [
        FrozenAnswer(
            2 * comparison + place,
            answer["text"],
            "stop" if answer["ended"] else "length",
            len(answer["ids"]),
            origin="model",
        )
        for place, answer in enumerate(pair)
    ]
    better = int(worths[1] > worths[0])
    row = PreferenceRow(
        split=prompt.split,
        messages=prompt.messages,
        comparison=comparison,
        prompt_id=prompt.id,
        chosen=sides[better],
        rejected=sides[1 - better],
        rendered_prompt=pair[0]["prompt"],
        agreement=1.0,
        flip=0.0,
    )
    return [row]


# ------------------------------------------------------------------------------------------------------- the frontier
def ppo_spec(ground: Ground, sizes: Sizes, beta: float) -> PPOSpec:
    """PPO from the SFT policy, with a fixed KL penalty; the reference is what its adapter lies on, the SFT policy."""
    return PPOSpec(
        parent=ground.sft,
        reward_model=ground.reward_model,
        method="lora",
        steps=sizes.rounds,
        rollouts=sizes.rollouts,
        batch_size=sizes.rollouts // 2,
        learning_rate=sizes.ppo_learning_rate,
        kl_control="fixed",
        kl_coefficient=beta,
        accepted_accuracy=accepted(ground),
        sampling=Sampling(temperature=1.0, min_p=0.0, max_new_tokens=sizes.tokens),
        seed=sizes.seed,
        samples=0,
        check=False,
    )


def accepted(ground: Ground) -> float:
    """The reward model's accuracy, which PPO wants to hear named where it is low."""
    value = ground.quality.accuracy.value
    return 0.01 if value is None else max(round(value, 3), 0.001)


def dpo_spec(ground: Ground, sizes: Sizes, beta: float) -> DPOSpec:
    """DPO from the SFT policy as in the paper, without a likelihood term beside its loss."""
    return DPOSpec(
        parent=ground.sft,
        snapshot=ground.preferences,
        method="lora",
        beta=beta,
        sft_weight=0.0,
        epochs=sizes.dpo_epochs,
        batch_size=4,
        accumulation=1,
        seed=sizes.seed,
        samples=0,
        checkpoint_steps=NEVER,
        check=False,
    )


def measure(lab: Laboratory, sizes: Sizes) -> dict[str, Any]:
    """Gold reward and KL of every policy, by method and at the start, and how often the reward model is right."""
    ground = reward_model(lab, sizes)
    trained: dict[str, tuple[str, float, Job]] = {}
    for beta in sizes.betas:
        for kind, spec in (("dpo", dpo_spec(ground, sizes, beta)), ("ppo", ppo_spec(ground, sizes, beta))):
            job = lab.run(name_of(kind, beta), spec)
            trained[revision_of(job)] = kind, beta, job
            if kind == "ppo":
                say(f"{name_of(kind, beta)}: {rewards(lab, job)}")
    prompts = held_out_prompts(lab, sizes)
    request = {
        **drawing(lab, sizes),
        "policies": [(revision, None) for revision in (ground.sft, *trained)],
        "prompts": [[dict(message) for message in prompt.messages] for prompt in prompts],
        "samples": sizes.samples,
        "seed": TEST_SEED,
        "reference": ground.sft,
    }
    sft, *others = lab.compute("frontier answers", request)
    found: dict[str, list[dict[str, Any]]] = {"ppo": [], "dpo": []}
    for (kind, beta, job), answers in zip(trained.values(), others, strict=True):
        curve = rewards(lab, job) if kind == "ppo" else {}
        found[kind].append({"beta": beta, **point(answers), **curve})
    accuracy = ground.quality.accuracy.to_json()
    return {"frontier": found, "frontier_start": point(sft), "reward_model_accuracy": accuracy}


def point(answers: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """A policy's mean gold reward and sequence KL with intervals over prompts, and what its answers are like."""
    worth = crossed([[fmean(gold(answer["text"]) for answer in row) for row in answers]])
    kl = crossed([[fmean(answer["kl"] for answer in row) for row in answers]])
    flat = [answer for row in answers for answer in row]
    return {
        "kl": round(kl.value, 3),
        "kl_low": round(kl.low, 3),
        "kl_high": round(kl.high, 3),
        "gold": round(worth.value, 3),
        "gold_low": round(worth.low, 3),
        "gold_high": round(worth.high, 3),
        "words": round(fmean(len(answer["text"].split()) for answer in flat), 1),
        "ended": round(fmean(answer["ended"] for answer in flat), 3),
    }


def rewards(lab: Laboratory, job: Job) -> dict[str, float]:
    """The mean reward that PPO saw in its first and its last rounds, and the KL of the last ones."""
    curve = job_store.metrics(lab.db, job.id)
    first, last = curve[:ROUNDS_AT_AN_END], curve[-ROUNDS_AT_AN_END:]
    return {
        "reward_start": round(fmean(entry["reward"] for entry in first), 3),
        "reward_end": round(fmean(entry["reward"] for entry in last), 3),
        "kl_end": round(fmean(entry["kl"] for entry in last), 3),
        "rounds": len(curve),
    }


# ---------------------------------------------------------------------------------------------------------- reporting
def table(found: Mapping[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    """Headers and rows for people, of all figures."""
    headers = ("policy", "beta", "KL from SFT (95%)", "gold (95%)", "words", "ended", "reward it saw: start → end")
    rows = [["SFT", "–", *cells(found["frontier_start"])]]
    for kind in ("ppo", "dpo"):
        rows += [[kind.upper(), f"{entry['beta']:g}", *cells(entry)] for entry in found["frontier"][kind]]
    return headers, rows


def cells(entry: Mapping[str, Any]) -> list[str]:
    """One policy's cells after its beta."""
    seen = f"{entry['reward_start']:.2f} → {entry['reward_end']:.2f}" if "reward_start" in entry else "–"
    return [
        f"{entry['kl']:.2f} ({entry['kl_low']:.2f}–{entry['kl_high']:.2f})",
        f"{entry['gold']:.2f} ({entry['gold_low']:.2f}–{entry['gold_high']:.2f})",
        f"{entry['words']:.1f}",
        f"{entry['ended']:.0%}",
        seen,
    ]


def describe(found: Mapping[str, Any]) -> str:
    """What the table does not say."""
    accuracy = found["reward_model_accuracy"]
    value = "not measured" if accuracy["value"] is None else f"{accuracy['value']:.1%}"
    return f"The reward model is right on {value} of {accuracy['n']} held-out comparisons."
