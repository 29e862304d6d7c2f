"""The result of a training's job as a record, whichever version wrote it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, get_args, get_origin, get_type_hints

# The number of rows that were trained on, and what earlier versions called it, each algorithm in its own way.
TRAINED_ON: Final = ("trained_on", "train_pairs", "train_items", "train_prompts")
# No number that anybody means is as great.
MOST: Final = 2**63


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

        A rented machine may send anything: what is not of its field's type, in a mapping too, is not read.
        """
        told = dict(result or {})
        told["trained_on"] = next((told[name] for name in TRAINED_ON if fits(told.get(name), int)), None)
        return cls(**told_fields(cls, told))


def told_fields(record: type, told: Mapping[str, Any]) -> dict[str, Any]:
    """What a stored result says of a record's fields, as far as it can be meant."""
    known = {name: meant(told.get(name), kind) for name, kind in kinds(record).items()}
    return {name: value for name, value in known.items() if value is not None}


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
    of = get_args(kind) or (kind,)
    if type(value) not in of and not (type(value) is int and float in of):
        return False
    return not isinstance(value, int | float) or abs(value) < MOST
