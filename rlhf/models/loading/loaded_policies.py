"""Policies in memory: weights once, adapters hung on them by name, and what they are fed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from annotation.database import Database
from annotation.records import Message, Prompt, UserError
from annotation.translation import _
from rlhf.jobs.artifacts import verify_directory
from rlhf.models import chat_template, registry
from rlhf.models.adapters.low_rank import compute_adapters_at_once
from rlhf.models.adapters.stored_adapter import StoredPrompt, read_adapter
from rlhf.models.loading.adapter_loading import hung_on, peft_config
from rlhf.models.loading.base_weights import load_for_answering, remember
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.memory.model_shapes import steady_places
from rlhf.models.registry import HeldPrecision, Policy
from rlhf.models.self_test_results import kept_result
from rlhf.models.tokenise import render, text_ids


@dataclass
class LoadedWeights:
    """Weights in memory, and the adapters that have been loaded onto them."""

    model: Any
    lora: Any = None
    """The PeftModel of all LoRA adapters, by revision."""
    prompts: dict[str, Any] = field(default_factory=dict)
    """A PeftModel for each prompt-tuning adapter, by revision."""

    def plain(self) -> Any:
        if self.lora is not None:
            self.lora.base_model.disable_adapter_layers()
        return self.lora or self.model

    def with_lora(self, revision: str) -> Any:
        self.lora.base_model.enable_adapter_layers()
        self.lora.set_adapter(revision, inference_mode=True)
        return self.lora

    def with_prompt(self, revision: str) -> Any:
        self.plain()
        return self.prompts[revision]

    def has(self, revision: str) -> bool:
        return revision in self.prompts or (self.lora is not None and revision in self.lora.peft_config)

    def attach(self, path: Path, revision: str) -> None:
        """Load an adapter beside those that are loaded. Raises UserError where it fits other weights than these."""
        from peft import PeftModel

        stored = read_adapter(path)
        if isinstance(stored, StoredPrompt):
            config = peft_config(stored)
            hung = PeftModel.from_pretrained(self.model, path, adapter_name=revision, config=config)
            self.prompts[revision] = hung.eval()
        else:
            self.lora = hung_on(self.lora or self.model, path, revision).eval()
            compute_adapters_at_once(self.lora)

    def keep_only(self, revisions: Collection[str]) -> None:
        self.prompts = {name: model for name, model in self.prompts.items() if name in revisions}
        if self.lora is None:
            return
        names = list(self.lora.peft_config)
        stays = next((name for name in names if name in revisions), names[0])  # PEFT wants one at least
        self.lora.set_adapter(stays, inference_mode=True)  # and none deleted that is active
        for name in names:
            if name != stays and name not in revisions:
                self.lora.delete_adapter(name)


class LoadedPolicies:
    """Policies in memory, one of them active at a time; those with the same weights under them share these.

    For one thread.
    """

    def __init__(self, db: Database, data_dir: Path, base_path: Path, no_thinking: bool | None = None) -> None:
        """`no_thinking`: whether prompts tell the model not to think; None: as the base's row says."""
        self.db, self.data_dir, self.base_path = db, data_dir, base_path
        self.no_thinking = registry.no_thinking(db) if no_thinking is None else no_thinking
        self.tokenizer = load_tokenizer(base_path, self.no_thinking)
        self.grounds: dict[tuple[int | None, HeldPrecision], LoadedWeights] = {}
        self.context = context_of(base_path)

    def tell(self, no_thinking: bool) -> None:
        """Whether prompts tell the model not to think, from now on."""
        self.no_thinking, self.tokenizer.template_options = no_thinking, chat_template.options_of(no_thinking)

    def use(self, policy: Policy) -> Any:
        """The model that computes as this policy. Raises UserError if its files are gone or damaged."""
        ground = self.ground_of(policy)
        if policy.path is None or policy.form == "full":
            return ground.plain()
        if not ground.has(policy.revision):
            ground.attach(verified(self.data_dir, policy), policy.revision)
        return ground.with_prompt(policy.revision) if policy.form == "prompt" else ground.with_lora(policy.revision)

    def ground_of(self, policy: Policy) -> LoadedWeights:
        """The weights under this policy, loaded when they are first needed."""
        key = ground_key(policy)
        if key not in self.grounds:
            path = ground_path(self.db, self.data_dir, self.base_path, key[0])
            model = load_for_answering(path, key[1])
            remember(model, kept_result(self.data_dir, self.base_path))
            self.grounds[key] = LoadedWeights(model)
        return self.grounds[key]

    def feed(self, messages: Sequence[Message], room: int, *policies: Policy) -> str:
        """The text that policies are fed for a conversation that is to be answered in up to `room` tokens.

        Raises UserError if the chat template refuses the conversation, or the model's context is too short for both
        and the virtual tokens that stand before them.
        """
        virtual = (virtual_tokens_in(self.data_dir / str(one.path)) for one in policies if one.form == "prompt")
        return fed(self.tokenizer, messages, room + max(virtual, default=0), self.context)

    def feed_each(self, prompts: Sequence[Prompt], room: int, *policies: Policy) -> tuple[dict[int, str], list[str]]:
        """The text to feed by prompt id, and why the others are refused."""
        fed: dict[int, str] = {}
        refused: list[str] = []
        for prompt in prompts:
            try:
                fed[prompt.id] = self.feed(prompt.messages, room, *policies)
            except UserError as error:
                refused.append(str(error))
        return fed, refused

    def keep_only(self, *kept: Policy) -> None:
        """Forget other policies and weights, to free their memory. Which policy is active has to be said again."""
        keys = {ground_key(policy) for policy in kept}
        self.grounds = {key: ground for key, ground in self.grounds.items() if key in keys}
        for ground in self.grounds.values():
            ground.keep_only({policy.revision for policy in kept})


@cache
def virtual_tokens_in(path: Path) -> int:
    adapter = read_adapter(path)
    return adapter.num_virtual_tokens if isinstance(adapter, StoredPrompt) else 0


def fed(tokenizer: Any, messages: Sequence[Message], room: int, context: float) -> str:
    """The text that a model of this context is fed, as `LoadedPolicies.feed` has it. Raises UserError."""
    text = render(tokenizer, messages)
    refuse_too_long(len(text_ids(tokenizer, text)), room, context)
    return text


def refuse_too_long(tokens: int, room: int, context: float) -> None:
    """Raises UserError where a prompt of so many tokens leaves no `room` for an answer."""
    if tokens + room > context:
        said = _("A prompt of {tokens} tokens leaves no room for {room} more in a context of {context}.")
        raise UserError(said.format(tokens=tokens, room=room, context=context))


def context_of(path: Path) -> float:
    """How many tokens a model takes, also where its configuration says so for text alone; infinite without a limit."""
    from transformers import AutoConfig

    return context_in(AutoConfig.from_pretrained(path))


def context_in(config: Any) -> float:
    """How many tokens a model of this configuration takes; infinite without a limit."""
    text = config.get_text_config()
    limits = (getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return min(next(filter(None, limits), math.inf), steady_places(text.to_dict()) or math.inf)


def ground_key(policy: Policy) -> tuple[int | None, HeldPrecision]:
    """What identifies the weights under a policy: whose they are (None: the base's), and in which precision."""
    return policy.lies_on, policy.precision


def ground_path(db: Database, data_dir: Path, base_path: Path, ground_id: int | None) -> Path:
    """Where weights lie, after checking them. Raises UserError if they are gone or damaged."""
    return base_path if ground_id is None else verified(data_dir, registry.by_id(db, ground_id))


def verified(data_dir: Path, policy: Policy) -> Path:
    """The directory of a policy with files of its own. Raises UserError if they are gone or damaged."""
    assert policy.path is not None
    assert policy.sha256 is not None
    if policy.deleted:
        said = _("The files of {revision} were deleted on {deleted}. Use another revision.")
        raise UserError(said.format(revision=policy.revision, deleted=policy.deleted[:10]))
    path = data_dir / policy.path
    verify_directory(path, policy.sha256, policy.revision)
    return path
