"""The resident worker: keeps comparisons by the serving policy ahead of the annotators; swaps policies in seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from annotation import store
from annotation.records import Prompt, Response, Split
from annotation.selection import HELD_OUT_SHARE
from rlhf import jobs, policies
from rlhf.base_model import ready
from rlhf.models import Policies, render
from rlhf.policies import Policy
from rlhf.sampling import Draw, draw
from rlhf.specs import GenerateSpec
from rlhf.worker import Run

IDLE_SECONDS = 0.5
FRUITLESS_SECONDS = 5.0


def run(run: Run, spec: GenerateSpec) -> dict[str, Any]:
    """Fill the buffer, and refill it whenever annotators or a promotion have emptied it, until told to stop."""
    models = Policies(run.data_dir, ready(run.data_dir, spec.model).path)
    serving: Policy | None = None
    filling, made = True, 0
    while not run.stopped:
        now_serving = policies.serving(run.db)
        if serving is None or now_serving.id != serving.id:
            models.use(now_serving)
            models.keep_only(now_serving)
            run.log(f"answering as {now_serving.revision}")
            serving, filling = now_serving, True
        wanted = max(1, spec.buffer // 4) if training(run) else spec.buffer
        missing = wanted - sum(store.buffer_sizes(run.db, serving.id).values())
        # A batch costs less than its parts: wait until a quarter of the stock is gone, then fill it up.
        filling = missing > 0 and (filling or missing >= max(1, wanted // 4))
        batch = next_prompts(run, spec, serving, missing) if filling else []
        if not batch:
            if spec.until_full:
                break
            time.sleep(IDLE_SECONDS)
            continue
        new = answer(run, spec, models, serving, batch)
        made += new
        if not new and not outdated(run, serving):
            # Nothing but empty or equal answers: a policy that has collapsed must not take all the processors.
            time.sleep(FRUITLESS_SECONDS)
        run.report(made, 0, {}, f"{sum(store.buffer_sizes(run.db, serving.id).values())} comparisons in stock")
    run.raise_if_stopped()
    return {"comparisons": made, "seconds": run.seconds()}


def outdated(run: Run, serving: Policy) -> bool:
    """Whether answers of this policy are no longer wanted: another serves, or the worker is to stop."""
    return run.stopped or policies.serving(run.db).id != serving.id


def training(run: Run) -> bool:
    """Whether a training or a check wants the processors: then a small stock is enough."""
    return any(job.status == "running" for job in jobs.active(run.db, ("dpo", "evaluate")))


def next_prompts(run: Run, spec: GenerateSpec, serving: Policy, missing: int) -> list[tuple[Prompt, int]]:
    """The prompts of the next batch with their attempt numbers; few while nobody has anything to judge."""
    nothing_to_judge = not any(store.buffer_sizes(run.db, serving.id).values())
    room = max(1, spec.prompts_per_batch // 6) if nothing_to_judge else spec.prompts_per_batch
    shares = next_splits(store.comparison_counts(run.db), min(missing, room))
    batch: list[tuple[Prompt, int]] = []
    for split, count in shares.items():
        batch += store.prompts_to_answer(run.db, serving.id, split, count)
    return batch


def next_splits(made: Mapping[Split, int], count: int) -> dict[Split, int]:
    """How many of the next `count` comparisons go to each split that has prompts: one in six of all is held out."""
    so_far = dict(made)
    for _ in range(count if made else 0):
        total = sum(so_far.values()) + 1
        held_out_due = so_far.get("held-out", total) < int(total * HELD_OUT_SHARE)
        split: Split = "held-out" if held_out_due or "train" not in so_far else "train"
        so_far[split] += 1
    return {split: so_far[split] - made[split] for split in so_far}


def answer(run: Run, spec: GenerateSpec, models: Policies, serving: Policy, batch: Sequence[tuple[Prompt, int]]) -> int:
    """Draw answers to a batch of prompts and store the comparisons they give; returns how many."""
    rendered = [render(models.tokenizer, prompt.messages) for prompt, _ in batch]
    count = spec.answers + spec.spare
    seeds = [[seed_of(spec.seed, prompt.id, attempts + index) for index in range(count)] for prompt, attempts in batch]
    draws = draw(models.use(serving), models.tokenizer, rendered, seeds, spec.sampling, lambda: outdated(run, serving))
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
