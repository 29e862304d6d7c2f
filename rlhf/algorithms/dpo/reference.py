"""What the reference says of each answer: computed once, and kept in the data directory for further runs.

A run that goes on, one with other settings, one on more judgements: all of them ask for the same answers under the same
weights. A file holds the log-probabilities under one reference; what its weights are, how they are held and what they
are computed with is in the file's name, what was fed is in the entry's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from annotation.records import UserError
from annotation.translation import _
from annotation.validation import read
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.trainer import Start
from rlhf.jobs.artifacts import explain_write_errors
from rlhf.models.loading import dtype_of, weights_of
from rlhf.models.self_test.kept_results import mark_of

DIRECTORY: Final = "references"
# What a run that is broken off may have to compute again.
KEPT_EVERY_SECONDS = 60.0
# The token ids of a prompt and an answer.
Answer = tuple[tuple[int, ...], tuple[int, ...]]


class KeptReference:
    """The log-probabilities of answers under one reference, in a file; in none where it is only to be remembered."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, float] = {} if path is None else read_file(path)
        self.kept = time.monotonic()

    def missing(self, answers: Iterable[Answer]) -> list[Answer]:
        """The different answers of which nothing is known, those to one prompt together."""
        return sorted({answer for answer in answers if key_of(answer) not in self.known})

    def add(self, answers: Sequence[Answer], logps: Sequence[float]) -> None:
        """Remember what was computed, and keep it from time to time."""
        self.known |= {key_of(answer): logp for answer, logp in zip(answers, logps, strict=True)}
        if time.monotonic() - self.kept > KEPT_EVERY_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write all that is known, whole or not at all. Raises UserError when the disk refuses."""
        self.kept = time.monotonic()
        if self.path is None:
            return
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.known), "utf-8")
            part.replace(self.path)

    def of(self, answers: Iterable[Answer]) -> list[float]:
        """The log-probability of each."""
        return [self.known[key_of(answer)] for answer in answers]


def read_file(path: Path) -> dict[str, float]:
    """What a file holds; nothing where there is none that can be read."""
    try:
        return read(dict[str, float], json.loads(path.read_text("utf-8")), _("What is kept of a reference"))
    except (FileNotFoundError, ValueError, UserError):
        return {}


def key_of(answer: Answer) -> str:
    """What an answer and its prompt are known by."""
    return sha256(json.dumps(answer).encode()).hexdigest()[:32]


def kept_reference(data_dir: Path, spec: DPOSpec, start: Start, parents: bool, device: str) -> KeptReference:
    """What is known under a run's reference: the weights under its adapter, with its parent's adapter or without."""
    facts: Mapping[str, Any] = {
        "ground": mark_of(start.ground),
        "adapter": start.parent.sha256 if parents else "",
        "held": "fp32" if spec.method == "full" else weights_of(spec),
        "computed": str(dtype_of(spec.precision)),
        "device": device,
    }
    name = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return KeptReference(data_dir / DIRECTORY / f"{name}.json")
