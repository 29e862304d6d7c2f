"""The result of a judge's job as a record, whichever version wrote it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from annotation.validation import stored


@dataclass(frozen=True)
class JudgeResult:
    """What came of a judging, and what it took; as before it began where its result does not say."""

    judge: str = ""
    comparisons: int = 0
    left_open: int = 0
    """Those that waited and were not."""
    verdicts: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    gave_up: str = ""
    remark: str = ""
    """What its chances rest on."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    rubric_version: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> JudgeResult:
        """The result of a job; what is not of its field's type is not read."""
        return stored(cls, result)
