"""The result of a training's job as a record: trainings fill it, others read it, whichever version wrote it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from annotation.validation import StoredAs, stored


@dataclass(frozen=True)
class FinishedTraining:
    """What a training made, learnt from, measured and cost; None or empty where its result does not say."""

    revision: str = ""
    """Of the policy that it made."""
    snapshot: str = ""
    trained_on: Annotated[int | None, StoredAs("train_pairs", "train_items", "train_prompts")] = None
    """Rows, of the unit that its spec names."""
    planned_steps: int | None = None
    """Steps that its data and its spec ask for; it may have ended before."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What gave no tokens, by reason."""
    final: Mapping[str, float | None] = field(default_factory=dict)
    """The metrics of the last step."""
    held_out: Mapping[str, float | None] = field(default_factory=dict)
    """The figures that its spec names, on as many held-out rows as `n` says."""
    held_out_before: Mapping[str, float] = field(default_factory=dict)
    """The same before its first step."""
    quality: Annotated[Mapping[str, Any], StoredAs("health")] = field(default_factory=dict)
    """Of a reward model, as `rlhf.models.reward_model_quality` reads it."""
    trainable: int | None = None
    trainable_percent: float | None = None
    accumulation: int | None = None
    """Forward passes in a step."""
    flip_rate: float | None = None
    """The share of wrong labels that its loss expected."""
    steps: int | None = None
    """Those of the worker that ended it."""
    seconds_per_step: float | None = None
    seconds: float | None = None
    peak_memory_mb: Annotated[float | None, StoredAs("peak_rss_mb")] = None
    """On the GPU where there was one."""
    checkpoint_bytes: int | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> FinishedTraining:
        """The result of a job; of one that trains nothing what it says by the same names."""
        return stored(cls, result)

    def cost(self) -> FinishedTraining:
        return FinishedTraining(
            trainable=self.trainable,
            trainable_percent=self.trainable_percent,
            steps=self.steps,
            seconds_per_step=self.seconds_per_step,
            peak_memory_mb=self.peak_memory_mb,
        )

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in (None, "", {})}
