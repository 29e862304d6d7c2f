"""What a judge of each kind is, as its row keeps it. Without what asks it: every worker imports this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from annotated_types import Interval

from rlhf.models.chat_template import NO_THINKING
from rlhf.models.registry import HeldPrecision

Backend = Literal["local", "reward-model", "endpoint"]
PATH = "/chat/completions"
NoThinking = Literal["", "enable_thinking", "none", "minimal", "low"]
Price = Annotated[float, Interval(ge=0, le=1_000_000)]


@dataclass(frozen=True)
class EndpointSettings:
    """Where a judge answers and what may be asked of it. Holds no secret: the key is named, not given."""

    address: str
    """Without the /chat/completions at its end: https://api.openai.com/v1"""
    model: str
    key_variable: str = ""
    """The environment variable, where Prefloop runs, that holds the key; empty for none."""
    temperature: Annotated[float, Interval(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Interval(ge=1, le=100_000)] = 400
    """Tokens of a reply. A model that thinks before it answers needs thousands."""
    timeout_seconds: Annotated[float, Interval(ge=1, le=600)] = 60.0
    retries: Annotated[int, Interval(ge=0, le=10)] = 4
    """How often a call is repeated that failed for a reason that may pass."""
    concurrency: Annotated[int, Interval(ge=1, le=32)] = 4
    """Calls under way at the same time."""
    calls: Annotated[int, Interval(ge=1, le=1_000_000)] = 2_000
    """The most calls of one job, repeated ones included."""
    total_calls: Annotated[int, Interval(ge=0, le=1_000_000_000)] = 0
    """The most calls of all jobs together; 0 for no limit."""
    no_thinking: NoThinking = ""
    """How it is told not to think before it answers: 'enable_thinking' as servers with a chat template take it (vLLM,
    SGLang, llama.cpp), or 'none', 'minimal' or 'low' as the reasoning_effort of others. Empty where it is not known
    what the endpoint takes: nothing is said then."""
    price_in: Price = 0.0
    """Price of a million tokens of prompts; 0 where it is not known."""
    price_out: Price = 0.0
    """Price of a million tokens of replies."""

    @property
    def url(self) -> str:
        return self.address.rstrip("/").removesuffix(PATH) + PATH

    @property
    def told(self) -> dict[str, Any]:
        """What calls say of thinking; nothing where nothing is to be said."""
        if self.no_thinking == "enable_thinking":
            return {"chat_template_kwargs": dict(NO_THINKING)}
        return {"reasoning_effort": self.no_thinking} if self.no_thinking else {}

    @property
    def host(self) -> str:
        """The endpoint's name in sentences."""
        return urlsplit(self.address).netloc


@dataclass(frozen=True)
class LocalSettings:
    """A policy of this data directory, or the base model, that judges by its next token."""

    model: str = "base"
    """Its revision."""


@dataclass(frozen=True)
class DirectorySettings:
    """A model in a directory of its own that judges by its next token."""

    directory: str
    precision: HeldPrecision = "nf4"
    """How it is held, as when the judge was made; earlier versions held all in 4 bits and kept no word of it."""


@dataclass(frozen=True)
class RewardModelSettings:
    model: str
    """Its revision."""


JudgeSettings = LocalSettings | DirectorySettings | RewardModelSettings | EndpointSettings


def kind_of(backend: Backend, values: Mapping[str, Any]) -> type[JudgeSettings]:
    """What a judge's settings are read into."""
    match backend:
        case "local":
            return DirectorySettings if "directory" in values else LocalSettings
        case "reward-model":
            return RewardModelSettings
        case "endpoint":
            return EndpointSettings
