"""How far apart the same weights are in two precisions: KL a token and perplexity on a fixed plain text.

The KL is that of the weights as they would be trained to the weights as they answer, over the whole vocabulary at each
token of the text; both read the same tokens. One copy of the weights is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from annotation.translation import _
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.base.base_model import ready
from rlhf.models.hidden_states import completions, head_of
from rlhf.models.loading.base_weights import load_for_answering
from rlhf.models.loading.loaded_policies import ground_path
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.log_probabilities import exact_kl
from rlhf.models.packing import pad
from rlhf.models.precisions.plain_text import PromptAndAnswer, plain_text
from rlhf.models.precisions.precisions_spec import PrecisionGap, PrecisionsSpec
from rlhf.models.registry import HeldPrecision

# Scores kept of the one precision while the other is loaded: a quarter of a gigabyte in float32.
MOST_SCORES = 1 << 26


def run(run: Run, spec: PrecisionsSpec) -> dict[str, Any]:
    """Read the text in both precisions. Returns the job's result; raises Stopped when the job is told to stop."""
    base = ready(run.data_dir, spec.model)
    policy = registry.by_revision(run.db, spec.revision)
    path = ground_path(run.db, run.data_dir, base.path, policy.lies_on)
    sequences = plain_text(load_tokenizer(base.path)).paragraphs
    run.report(0, 2, {}, _("It reads in {precision}.").format(precision=spec.other))
    trained, labels = [], []
    for logits_NV, labels_N in read(path, spec.other, sequences):
        trained.append(logits_NV)
        labels.append(labels_N)
        run.raise_if_stopped()
        if sum(map(Tensor.numel, trained)) + logits_NV.numel() > MOST_SCORES:
            break
    run.report(1, 2, {}, _("It reads in {precision}.").format(precision=spec.precision))
    kl_sum = other_nll = nll = 0.0
    answering = read(path, spec.precision, sequences[: len(trained)])
    for trained_NV, (answering_NV, labels_N) in zip(trained, answering, strict=True):
        kl_sum += float(exact_kl(trained_NV, answering_NV).sum())
        other_nll += surprise(trained_NV, labels_N)
        nll += surprise(answering_NV, labels_N)
        run.raise_if_stopped()
    tokens = sum(map(len, labels))
    run.report(2, 2, {}, "")
    gap = PrecisionGap(kl_sum / tokens, math.exp(nll / tokens), math.exp(other_nll / tokens))
    return {
        "revision": policy.revision,
        "precision": spec.precision,
        "other": spec.other,
        **asdict(gap),
        "tokens": tokens,
        "seconds": run.seconds(),
    }


@torch.no_grad()
def read(path: Path, precision: HeldPrecision, sequences: Sequence[PromptAndAnswer]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (N, V) before each token of each sequence, by a float32 head, and the tokens (N,), off the GPU."""
    model = load_for_answering(path, precision)
    head = head_of(model, float32=True)
    for sequence in sequences:
        ids_1T, attention_1T, completion_1T = (part.to(model.device) for part in pad([sequence], 0))
        states = completions(model, ids_1T, attention_1T, completion_1T, packed=False)
        yield head.logits(states.before_NH).cpu(), states.labels_N.cpu()


def surprise(logits_NV: Tensor, labels_N: Tensor) -> float:
    """Negative log-likelihood of the tokens, summed."""
    return float(-logits_NV.log_softmax(-1).gather(-1, labels_N[:, None]).sum())
