"""What a rented job reports: the JSON of a machine that others can write to, read into records that pages can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from annotated_types import Interval, Predicate

from annotation.records import is_time, now
from annotation.translation import _
from annotation.validation import FromMapping, adapter
from rlhf.jobs.job_store import SampleAnswer

if TYPE_CHECKING:
    from pydantic import ConfigDict

# A program of another version may say more; that is left out.
AS_REPORTED: ConfigDict = {"strict": True, "extra": "ignore"}
StepCount = Annotated[int, Interval(ge=0, lt=2**31)]
Moment = Annotated[str, Predicate(is_time)]


@dataclass(frozen=True)
class LogEvent:
    """A line of a job's log, or what was changed of its settings."""

    __pydantic_config__ = AS_REPORTED
    kind: Literal["log", "change"]
    step: StepCount
    data: str
    created: Moment


@dataclass(frozen=True)
class MetricEvent:
    """What a step measured, by name."""

    __pydantic_config__ = AS_REPORTED
    kind: Literal["metric"]
    step: StepCount
    data: Mapping[str, int | float]
    created: Moment


@dataclass(frozen=True)
class SampleEvent:
    """An answer to one of a run's fixed prompts."""

    __pydantic_config__ = AS_REPORTED
    kind: Literal["sample"]
    step: StepCount
    data: Annotated[SampleAnswer, FromMapping()]
    created: Moment


Event = (
    Annotated[LogEvent, FromMapping()] | Annotated[MetricEvent, FromMapping()] | Annotated[SampleEvent, FromMapping()]
)


@dataclass(frozen=True)
class RentalReport:
    """How far a job is there, and what it has said since the report before."""

    __pydantic_config__ = AS_REPORTED
    step: StepCount
    steps: StepCount
    message: str
    events: Sequence[Event]


def readable(batch: Any, number: int) -> RentalReport:
    """A report as the pages can show it; in place of one that they can't, a line in the log that says so."""
    try:
        return cast(RentalReport, adapter(RentalReport).validate_python(batch))
    except ValueError:
        told = _("Report {number} can't be read and is left out.").format(number=number)
        return RentalReport(0, 0, "", [LogEvent("log", 0, told, now())])
