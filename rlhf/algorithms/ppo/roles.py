"""One base model in memory that acts as policy, reference, reward model and critic, each with an adapter of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.trainer import Start, passes_here
from rlhf.models.adapters.low_rank import compute_adapters_at_once
from rlhf.models.hidden_states import Completions, completions, head_of, inner_model
from rlhf.models.loading.adapter_loading import adapter_config, hold_in_float32, load_adapter, put_weights
from rlhf.models.loading.base_weights import dtype_of, load_for_training
from rlhf.models.log_probabilities import Head
from rlhf.models.packing import pad
from rlhf.models.stored_reward_model import RewardModel, scalar_head
from rlhf.private_members import compute_with, forget_precision

AdapterRole = Literal["policy", "reference", "reward", "critic"]
ADAPTERS: Mapping[AdapterRole, str] = {
    "policy": "default",
    "reference": "reference",
    "reward": "reward",
    "critic": "critic",
}
TRAINED: tuple[AdapterRole, ...] = ("policy", "critic")


@dataclass(frozen=True)
class SampledResponse:
    """A prompt and the tokens that the policy drew to it, the end-of-text token included if there is one."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    ended: bool


class Roles:
    """One base model that acts in four roles, and what is trained of it."""

    def __init__(
        self, spec: PPOSpec, model: Any, reward_model: RewardModel | None, pad_id: int, passes: tuple[float, bool]
    ) -> None:
        """`passes`: how many tokens are computed together, and whether layers are computed again (`passes_here`)."""
        forget_precision()  # that of an earlier job of this process
        bf16 = dtype_of(spec.precision) == torch.bfloat16
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if bf16 else "no")
        self.model, self.pad_id = model, pad_id
        self.pass_tokens, self.recompute = passes
        width = inner_model(model).config.get_text_config().hidden_size
        self.critic_head = scalar_head(width, reward_model).to(self.accelerator.device)
        self.reward_head = scalar_head(width, reward_model).to(self.accelerator.device).requires_grad_(False)
        self.adapted = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
        model.set_adapter(ADAPTERS["policy"], inference_mode=True)
        model.set_requires_grad([ADAPTERS[trained] for trained in TRAINED], True)
        hold_in_float32(model)
        compute_adapters_at_once(model)

    def act_as(self, role: AdapterRole) -> Any:
        """The model that computes as this role. What is trained stays trainable, whichever adapter is active."""
        adapter = ADAPTERS[role] if ADAPTERS[role] in self.model.peft_config else None
        for layer in self.adapted:
            compute_with(layer, adapter)
        return self.model

    def parameters_of(self, role: AdapterRole) -> dict[str, nn.Parameter]:
        own = {name: value for name, value in self.model.named_parameters() if f".{ADAPTERS[role]}." in name}
        head = {f"critic_head.{name}": value for name, value in self.critic_head.named_parameters()}
        return {**own, **(head if role == "critic" else {})}

    def states(self, role: AdapterRole, answers: Sequence[SampledResponse]) -> Completions:
        padded = pad([(answer.prompt_ids, answer.ids) for answer in answers], self.pad_id)
        ids_BT, attention_BT, completion_BT = (part.to(self.accelerator.device) for part in padded)
        with self.accelerator.autocast():
            return completions(self.act_as(role), ids_BT, attention_BT, completion_BT)

    def head(self, role: AdapterRole) -> Head:
        """What this role makes its logits with, in float32: PPO lives by small differences."""
        return head_of(self.act_as(role), float32=True)

    def values(self, answers: Sequence[SampledResponse]) -> Tensor:
        """What the critic expects before each token of the answers, (N,)."""
        values_N: Tensor = self.critic_head(self.states("critic", answers).before_NH.float())[:, 0]
        return values_N

    def score(self, answers: Sequence[SampledResponse]) -> Tensor:
        """The reward model's scores of answers, (B,)."""
        scores_B: Tensor = self.reward_head(self.states("reward", answers).last_BH.float())[:, 0]
        return scores_B


def load_roles(spec: PPOSpec, start: Start, reward_model: RewardModel | None, pad_id: int) -> Roles:
    """Load the weights and hang the roles on them. Without a reward model the critic begins with a head of zeros.

    Raises UserError if the parent's adapter has another shape than the spec.
    """
    torch.manual_seed(spec.seed)
    model = load_for_training(start.ground, spec, tried=start.tried)
    model = get_peft_model(model, adapter_config(spec, start.ground), adapter_name=ADAPTERS["policy"])
    critic = adapter_config(spec, start.ground) if reward_model is None else reward_model.config
    model.add_adapter(ADAPTERS["critic"], replace(critic))
    if start.adapter is not None:
        load_adapter(model, start.adapter, ADAPTERS["policy"])
        if spec.reference == "parent":
            model.add_adapter(ADAPTERS["reference"], adapter_config(spec, start.ground))
            load_adapter(model, start.adapter, ADAPTERS["reference"])
    if reward_model is not None:
        model.add_adapter(ADAPTERS["reward"], replace(reward_model.config))
        for role in (ADAPTERS["reward"], ADAPTERS["critic"]):
            put_weights(model, reward_model.weights, role, spec.reward_model)
    return Roles(spec, model.train(), reward_model, pad_id, passes_here(start.ground, spec))
