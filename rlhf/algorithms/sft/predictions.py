"""What a model predicts of demonstrated answers: the log-probability of each token, and how held-out ones score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from annotation.translation import _
from rlhf.algorithms.trl_trainer import JobTrainer
from rlhf.jobs.run import Run
from rlhf.models.hidden_states import completions, head_of
from rlhf.models.log_probabilities import CHUNK, Head
from rlhf.models.tokenise import TokenisedDemonstration

# The held-out demonstrations are scored before training too where that costs less than this share of it; a pass
# without gradients takes about a third of one with.
BEFORE_SHARE, FORWARD_SHARE = 0.1, 1 / 3


def predictions(model: Any, batch: Any, packed: bool, *, float32: bool = False) -> tuple[Tensor, Tensor]:
    """log p of each answer token, (N,) float32, and whether the model finds it the likeliest, (N,) bool."""
    ids_BT, attention_BT, completion_BT = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    states = completions(model, ids_BT, attention_BT, completion_BT, packed=packed)
    head = head_of(model, float32=float32)
    chunks = zip(torch.split(states.before_NH, CHUNK), torch.split(states.labels_N, CHUNK), strict=True)
    parts = [checkpoint(predict, hidden_NH, head, label_N, use_reentrant=False) for hidden_NH, label_N in chunks]
    logps, right = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(right)


def predict(hidden_NH: Tensor, head: Head, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """log p(label) at N positions, and whether it would be answered, the likeliest token: (N,) and (N,).

    Of tokens that are equally likely one is answered: a model to which all are alike is not right everywhere.
    """
    logits_NV = head.logits(hidden_NH)
    label_N = logits_NV.gather(-1, labels_N[:, None])[:, 0]
    return label_N - logits_NV.logsumexp(-1), logits_NV.detach().argmax(-1) == labels_N


@torch.no_grad()
def score(trainer: JobTrainer, items: Sequence[TokenisedDemonstration]) -> dict[str, Any]:
    """Loss (nats a token), perplexity and token accuracy on demonstrations, over all their answers' tokens together.

    All None without any. Raises Stopped when the job is told to stop.
    """
    if not items:
        return {"loss": None, "perplexity": None, "token_accuracy": None, "n": 0}
    nll = right = tokens = 0.0
    size = trainer.args.per_device_train_batch_size
    for first in range(0, len(items), size):
        if trainer.run is not None:
            trainer.run.raise_if_stopped()
        batch = trainer.data_collator(items[first : first + size])
        inputs = {name: part.to(trainer.accelerator.device) for name, part in batch.items()}
        with trainer.accelerator.autocast():
            logps_N, right_N = predictions(trainer.model, inputs, trainer.spec.packing, float32=True)
        nll, right, tokens = nll - logps_N.sum().item(), right + right_N.sum().item(), tokens + len(logps_N)
    loss = nll / tokens
    return {"loss": loss, "perplexity": math.exp(loss), "token_accuracy": right / tokens, "n": len(items)}


def score_before(trainer: JobTrainer, run: Run) -> dict[str, Any]:
    """The held-out demonstrations' `score` before training, where that costs little beside it; empty where not."""
    data = trainer.data
    cheap = FORWARD_SHARE * len(data.held_out) <= BEFORE_SHARE * len(data.items) * trainer.spec.epochs
    # Several processes would have to wait for it, longer than they may.
    if run.measured_steps or not cheap or trainer.accelerator.num_processes > 1:
        return {}
    run.report(0, 0, {}, _("It scores the held-out demonstrations."))
    return score(trainer, data.held_out)
