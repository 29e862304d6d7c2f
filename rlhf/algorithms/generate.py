"""The resident worker: keeps comparisons by the serving policy ahead of the annotators; swaps policies in seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from annotation import store
from annotation.records import Prompt, Response, Split
from annotation.selection import HELD_OUT_SHARE
from rlhf import policies
from rlhf.base_model import locate
from rlhf.models import Policies, render
from rlhf.policies import Policy
from rlhf.sampling import Draw, draw
from rlhf.specs import GenerateSpec
from rlhf.worker import Run

IDLE_SECONDS = 0.5


def run(run: Run, spec: GenerateSpec) -> dict[str, Any]:
    """Fill the buffer, and refill it whenever annotators or a promotion have emptied it, until told to stop."""
    models = Policies(run.data_dir, locate(run.data_dir, spec.model).path)
    serving: Policy | None = None
    made = 0
    while not run.stopped:
        now_serving = policies.serving(run.db)
        if serving is None or now_serving.id != serving.id:
            models.use(now_serving)
            models.keep_only(now_serving)
            run.log(f"answering as {now_serving.revision}")
            serving = now_serving
        short = shortage(store.buffer_sizes(run.db, serving.id), spec.buffer)
        if short is None:
            if spec.until_full:
                return {"comparisons": made, "seconds": run.seconds()}
            time.sleep(IDLE_SECONDS)
            continue
        split, missing = short
        prompts = store.prompts_to_answer(run.db, serving.id, split, min(missing, batch_size(spec, run, serving)))
        made += answer(run, spec, models, serving, prompts)
        run.report(made, 0, {}, f"{sum(store.buffer_sizes(run.db, serving.id).values())} comparisons in stock")
    run.raise_if_stopped()
    return {"comparisons": made, "seconds": run.seconds()}


def shortage(sizes: dict[Split, int], buffer: int) -> tuple[Split, int] | None:
    """The split that lacks the larger share of its stock, and by how many comparisons; None when both are full."""
    held_out = max(1, round(buffer * HELD_OUT_SHARE))
    targets: dict[Split, int] = {"train": max(1, buffer - held_out), "held-out": held_out}
    missing = {split: targets[split] - sizes[split] for split in targets}
    split = max(targets, key=lambda name: missing[name] / targets[name])
    return (split, missing[split]) if missing[split] > 0 else None


def batch_size(spec: GenerateSpec, run: Run, serving: Policy) -> int:
    """Few prompts at once while nobody has anything to judge, so that the first comparison comes soon."""
    stock = sum(store.buffer_sizes(run.db, serving.id).values())
    return spec.prompts_per_batch if stock >= 2 else max(1, spec.prompts_per_batch // 4)


def answer(run: Run, spec: GenerateSpec, models: Policies, serving: Policy, batch: Sequence[tuple[Prompt, int]]) -> int:
    """Draw answers to a batch of prompts and store the comparisons they give; returns how many."""
    if not batch:
        time.sleep(IDLE_SECONDS)
        return 0
    rendered = [render(models.tokenizer, prompt.messages) for prompt, _ in batch]
    count = spec.answers + spec.spare
    seeds = [[seed_of(spec.seed, prompt.id, attempts + index) for index in range(count)] for prompt, attempts in batch]
    draws = draw(models.use(serving), models.tokenizer, rendered, seeds, spec.sampling, lambda: run.stopped)
    return sum(
        store.add_comparison(run.db, responses(prompt, serving, text, group, spec), spec.answers) is not None
        for (prompt, _), text, group in zip(batch, rendered, draws, strict=False)
    )


def seed_of(start: int, prompt_id: int, attempt: int) -> int:
    """A seed that no other answer of the stream has (up to 100,000 answers a prompt)."""
    return (start * 1_000_003 + prompt_id) * 100_000 + attempt


def responses(
    prompt: Prompt, policy: Policy, rendered: str, draws: Sequence[Draw], spec: GenerateSpec
) -> list[Response]:
    """The draws as records."""
    return [
        Response(
            prompt_id=prompt.id,
            model_id=policy.id,
            text=entry.text,
            sampling=spec.sampling,
            seed=entry.seed,
            rendered_prompt=rendered,
            prompt_tokens=entry.prompt_tokens,
            tokens=entry.tokens,
            finish_reason=entry.finish_reason,
        )
        for entry in draws
    ]
