"""Stored reward models as others use them: an adapter for a language model, and a head that scores its last state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from annotation.records import UserError
from annotation.translation import _
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.adapters.adapter_tensors import ADAPTER_WEIGHTS
from rlhf.models.adapters.stored_adapter import read_adapter
from rlhf.models.loading.adapter_loading import peft_config
from rlhf.models.loading.loaded_policies import verified
from rlhf.models.reward_model_quality import ScoreScale, on_other_weights, read_scale


@dataclass(frozen=True)
class RewardModel:
    """A stored reward model: its adapter, its head (H,), which gives raw scores, and how these are read."""

    config: Any
    weights: dict[str, Tensor]
    head_H: Tensor
    scale: ScoreScale


def read_reward_model(run: Run, revision: str) -> RewardModel:
    """A reward model's files. Raises UserError if it is of no use, there is none of this name, or files are damaged."""
    policy = registry.by_revision(run.db, revision)
    path = verified(run.data_dir, policy)
    adapter = read_adapter(path)
    weights = load_file(path / ADAPTER_WEIGHTS)
    head_H = weights.pop(next(name for name in weights if name.endswith("score.weight")))[0].float()
    scale = read_scale(path)
    if on_other_weights(run.db, policy):
        scale = replace(scale, temperature=None)
    if not scale.std > 0:
        said = _("The reward model {revision} scores all answers alike. Train another one, on more judgements.")
        raise UserError(said.format(revision=revision))
    # As of a language model's adapter: the layers are the same, the head is held apart.
    config = peft_config(adapter, task_type="CAUSAL_LM", modules_to_save=None, inference_mode=False)
    return RewardModel(config, weights, head_H, scale)


@torch.no_grad()
def scalar_head(width: int, reward_model: RewardModel | None) -> nn.Linear:
    """A head like the reward model's, shifted and scaled; without one, of zeros.

    The answers that the reward model was trained on score 0 on average, with a variance of 1.
    """
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    if reward_model is not None:
        scale = reward_model.scale
        head.weight[0], head.bias[0] = reward_model.head_H / scale.std, -scale.mean / scale.std
    return head
