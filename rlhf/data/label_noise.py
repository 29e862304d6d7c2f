"""How many pairs are labelled wrong, as far as those who judged them have been measured; no guess passes for that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from annotation.database import Database
from annotation.exports.frozen_rows import FrozenRow, PreferenceRow
from annotation.metrics import quality
from annotation.metrics.reliability import PRIOR_WEIGHT
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.judge_agreement import agreement_alone

# As much evidence about somebody as weighs what is believed of an unknown annotator; with less, that belief rules.
FEWEST_EVIDENCE = int(PRIOR_WEIGHT)


@dataclass(frozen=True)
class NoiseEvidence:
    """What somebody's reliability is estimated from, in comparisons."""

    shared: int
    """That others have judged as well; of an AI judge, that people have."""
    known: int = 0
    repeats: int = 0

    @property
    def enough(self) -> bool:
        """Whether it weighs as much as what is believed of somebody unknown."""
        return self.shared + self.known + self.repeats >= FEWEST_EVIDENCE

    def __add__(self, other: NoiseEvidence) -> NoiseEvidence:
        return NoiseEvidence(self.shared + other.shared, self.known + other.known, self.repeats + other.repeats)


@dataclass(frozen=True)
class Noise:
    """The mean chance that a pair is the wrong way round."""

    pairs: int
    measured: int = 0
    """Those of them that only people or judges have judged of whom enough is known."""
    share: float | None = None
    """The mean chance of these; None without any."""
    evidence: NoiseEvidence = NoiseEvidence(0)
    """About those who judged them."""


Voices = tuple[float, frozenset[str]]


def voices_in(rows: Iterable[FrozenRow]) -> list[Voices]:
    """Of each pair to train on the chance that it is the wrong way round, and who judged it; goes through all rows."""
    return [
        (row.flip, frozenset(row.annotators))
        for row in rows
        if isinstance(row, PreferenceRow) and row.split == "train" and row.flip is not None
    ]


def noise_of(db: Database, pairs: Sequence[Voices]) -> Noise | None:
    """What is known of the noise in these pairs; None without any."""
    if not pairs:
        return None
    known = evidence_about(db, {name for _, names in pairs for name in names})
    measured = [(flip, names) for flip, names in pairs if names and all(known[name].enough for name in names)]
    if not measured:
        return Noise(len(pairs))
    judged_by = sorted({name for _, names in measured for name in names})
    evidence = sum((known[name] for name in judged_by), NoiseEvidence(0))
    return Noise(len(pairs), len(measured), fmean(flip for flip, _ in measured), evidence)


def evidence_about(db: Database, names: Iterable[str]) -> dict[str, NoiseEvidence]:
    """What is known of each of these annotators and AI judges."""
    people = {
        name: NoiseEvidence(found.overlap, found.known, found.repeats)
        for name, found in quality.reliabilities(db).items()
    }
    panel = {judge.name: judge for judge in judge_store.judges(db)}
    return {
        name: people.get(name) or (evidence_about_judge(db, panel[name]) if name in panel else NoiseEvidence(0))
        for name in names
    }


def evidence_about_judge(db: Database, judge: judge_store.Judge) -> NoiseEvidence:
    """Comparisons that a judge and people have judged, of those that tell how often its labels are wrong."""
    found = agreement_alone(verdict_store.jointly_judged(db, judge))
    return NoiseEvidence(0 if found is None else found.share.n)
