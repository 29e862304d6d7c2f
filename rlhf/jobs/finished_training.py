"""The result of a training's job as a record: trainings fill it, others read it, whichever version wrote it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Final, get_args, get_origin, get_type_hints

# What earlier versions called a field, some each algorithm in its own way.
EARLIER_NAMES: Final[Mapping[str, Sequence[str]]] = {
    "trained_on": ("train_pairs", "train_items", "train_prompts"),
    "quality": ("health",),
    "peak_memory_mb": ("peak_rss_mb",),
}
NONE_EARLIER: Final[Mapping[str, Sequence[str]]] = {}
# No number that anybody means is as great.
MOST: Final = 2**63


@dataclass(frozen=True)
class FinishedTraining:
    """What a training made, learnt from, measured and cost; None or empty where its result does not say."""

    revision: str = ""
    """Of the policy that it made."""
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
    quality: Mapping[str, Any] = field(default_factory=dict)
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
    peak_memory_mb: float | None = None
    """On the GPU where there was one."""
    checkpoint_bytes: int | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> FinishedTraining:
        """The result of a job; of one that trains nothing what it says by the same names.

        A rented machine may send anything: what is not of its field's type, in a mapping too, is not read.
        """
        return cls(**told_fields(cls, result or {}, EARLIER_NAMES))

    def told(self, snapshot: str, trained_on: int, left_out: Mapping[str, int]) -> dict[str, Any]:
        """The result of the job, which learnt from so many rows of this frozen data."""
        return replace(self, snapshot=snapshot, trained_on=trained_on, left_out=dict(left_out)).to_json()

    def cost(self) -> FinishedTraining:
        """What its steps cost, and nothing else."""
        return FinishedTraining(
            trainable=self.trainable,
            trainable_percent=self.trainable_percent,
            steps=self.steps,
            seconds_per_step=self.seconds_per_step,
            peak_memory_mb=self.peak_memory_mb,
        )

    def to_json(self) -> dict[str, Any]:
        """What it says, as it is stored."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "", {})}


def told_fields(
    record: type, told: Mapping[str, Any], earlier: Mapping[str, Sequence[str]] = NONE_EARLIER
) -> dict[str, Any]:
    """What a stored result says of a record's fields, by their names or `earlier` ones, as far as it can be meant."""
    found: dict[str, Any] = {}
    for name, kind in kinds(record).items():
        values = (meant(told.get(one), kind) for one in (name, *earlier.get(name, ())))
        found[name] = next((value for value in values if value is not None), None)
    return {name: value for name, value in found.items() if value is not None}


@cache
def kinds(record: type) -> Mapping[str, Any]:
    """The type of each field."""
    return get_type_hints(record)


def meant(value: Any, kind: Any) -> Any:
    """A stored value as a field of this type takes it, of a mapping what can be; None where it can't be meant."""
    if get_origin(kind) is not Mapping:
        return value if fits(value, kind) else None
    if not isinstance(value, Mapping):
        return None
    return {name: one for name, one in value.items() if fits(one, get_args(kind)[1])}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type or union; a whole number passes for any, and none for one that is endless."""
    if kind is Any:
        return True
    of = get_args(kind) or (kind,)
    if type(value) not in of and not (type(value) is int and float in of):
        return False
    return not isinstance(value, int | float) or abs(value) < MOST
