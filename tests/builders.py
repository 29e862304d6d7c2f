"""Records as tests need them: what matters is said by the test, everything else is something usual."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from annotation.records import CheckedAnswer, JudgedAnswer, Judgement, Response, Sampling
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.data.label_noise import Noise
from rlhf.jobs.job_store import Job
from rlhf.models.registry import Policy
from rlhf.submission.job_submission import TrainingPreview


def response(**changes: Any) -> Response:
    """An answer as the answering worker records it."""
    made = Response(
        prompt_id=1,
        model_id=1,
        text="So.",
        sampling=Sampling(),
        seed=0,
        rendered_prompt="<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        prompt_tokens=12,
        tokens=3,
        finish_reason="stop",
    )
    return replace(made, **changes)


def checked_answer(**changes: Any) -> CheckedAnswer:
    """An answer to a held-out prompt, as a check reads it."""
    return replace(CheckedAnswer(**vars(response())), **changes)


def stored_answer(number: int) -> JudgedAnswer:
    """An answer as the store gives it with a judgement."""
    return JudgedAnswer(
        id=number,
        text=f"answer {number}",
        origin="policy",
        model_id=1,
        revision="base",
        finish_reason="stop",
        tokens=5,
        prompt_tokens=10,
        rendered_prompt="<user>Why?<assistant>",
    )


def judgement(annotator: str, ranking: tuple[int, ...] | None, number: int = 1, **changes: Any) -> Judgement:
    """A person's judgement of as many answers as the ranking has."""
    size = len(ranking) if ranking else 2
    made = Judgement(
        id=number,
        comparison_id=1,
        prompt_id=7,
        split="train",
        messages=({"role": "user", "content": "Why?"},),
        annotator=annotator,
        annotator_kind="person",
        purpose="own",
        kind="pair" if size == 2 else "rank",
        outcome="ranked",
        ranking=ranking,
        strength=None,
        responses=tuple(stored_answer(place) for place in range(size)),
        shown_order=tuple(range(size)),
        edited=None,
        tags=(),
        note="",
        flag=None,
        early=False,
        guidelines_version=None,
        seconds=3.0,
        created="2026-11-24T00:00:00.000000+00:00",
    )
    return replace(made, **changes)


def policy(**changes: Any) -> Policy:
    """An adapter on the base that was trained as dpo-7 and not decided on."""
    made = Policy(
        id=2,
        revision="dpo-7",
        algorithm="dpo",
        base="SmolLM2",
        parent_id=1,
        job_id=7,
        path="adapters/dpo-7",
        sha256="0" * 64,
        status="candidate",
        created="2026-01-02T10:10:00.000000+00:00",
        kind="policy",
        form="lora",
        precision="nf4",
        ground_id=None,
        deleted=None,
    )
    return replace(made, **changes)


def job(**changes: Any) -> Job:
    """A training that runs."""
    made = Job(
        id=7,
        kind="dpo",
        spec=DPOSpec(snapshot="abcdef0123456789"),
        status="running",
        attempt=1,
        worker="w",
        requested_by="owner",
        created="2026-01-02T09:59:00.000000+00:00",
        started="2026-01-02T10:00:00.000000+00:00",
        heartbeat="2026-01-02T10:09:59.000000+00:00",
        finished=None,
        step=4,
        steps=10,
        message="",
        result=None,
    )
    return replace(made, **changes)


def training_preview(train: int, held_out: int, **changes: Any) -> TrainingPreview:
    """What a training on pairs would use, of whose labels nothing is known; without any there is nothing to know."""
    noise = Noise(train) if train else None
    made = TrainingPreview(train=train, held_out=held_out, left_out={}, parent="base", unit="pairs", noise=noise)
    return replace(made, **changes)
