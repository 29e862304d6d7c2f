"""The result of a training's job as a record, whichever version wrote it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

# What earlier versions called the number of rows that were trained on, each algorithm in its own way.
TRAINED_ON = ("train_pairs", "train_items", "train_prompts")


@dataclass(frozen=True)
class FinishedTraining:
    """What a training learnt from, measured and cost; None or empty where its result does not say."""

    snapshot: str = ""
    trained_on: int | None = None
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
    trainable: int | None = None
    trainable_percent: float | None = None
    accumulation: int | None = None
    """Forward passes in a step."""
    seconds_per_step: float | None = None
    seconds: float | None = None
    peak_rss_mb: float | None = None
    checkpoint_bytes: int | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> FinishedTraining:
        """The result of a job; of one that trains nothing what it says by the same names.

        A rented machine may send anything: what is no mapping where one is meant, or one elsewhere, is not read.
        """
        told = {name: value for name, value in (result or {}).items() if value is not None}
        known: dict[str, Any] = {"trained_on": next((told[name] for name in TRAINED_ON if name in told), None)}
        for entry in fields(cls):
            if entry.name in told and isinstance(told[entry.name], Mapping) == (entry.default_factory is dict):
                known[entry.name] = told[entry.name]
        return cls(**known)
