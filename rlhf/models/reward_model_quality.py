"""The quality of a reward model: how it does on held-out comparisons, before a policy learns to please it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotation.database import Database
from annotation.metrics.calibration import (
    Calibration,
    PairMargin,
    calibration,
    credit,
    fitted_temperature,
    weighted_share,
)
from annotation.metrics.intervals_and_bias import Share
from annotation.store.answer_changes import weights_since
from annotation.validation import NonNegativeFloat, PositiveFloat, read, stored
from rlhf.jobs import job_store
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.models.model_files import read_object
from rlhf.models.registry import Policy

Array = NDArray[np.float64]
# To train against a reward model that is right less often than this on held-out comparisons needs a person's word.
REWARD_THRESHOLD = 0.6
# With fewer held-out comparisons even a model that is right on all of them has an interval that reaches below the
# threshold of 60%: 6 / (6 + 1.96²) = 0.61, 5 / (5 + 1.96²) = 0.57.
FEWEST = 6
SCORE_BINS = 12
SCALE_FILE = "reward.json"


# ------------------------------------------------------------------------------------------------------------- records
@dataclass(frozen=True)
class LengthFigures:
    """How scores go with length over all answers, and how often the longer of two answers is the preferred one."""

    spearman: float | None
    pearson: float | None
    """None where all scores, or all lengths, are the same."""
    answers: int
    longer_wins: Share


@dataclass(frozen=True)
class ScoreHistogram:
    """The scores of chosen and of rejected answers, as shares by bin; each comparison weighs the same."""

    edges: tuple[float, ...]
    chosen: tuple[float, ...]
    rejected: tuple[float, ...]
    mean: float
    std: float


@dataclass(frozen=True)
class RewardModelQuality:
    """What is known of a reward model; figures of fewer than FEWEST held-out comparisons are None."""

    accuracy: Share
    """On held-out comparisons: how often it prefers what was preferred."""
    train_accuracy: Share | None = None
    calibration: Calibration | None = None
    length: LengthFigures | None = None
    scores: ScoreHistogram | None = None
    temperature: float | None = None
    """By which differences of scores are divided to say how often an answer is preferred."""
    by_judges: int | None = None
    """Of these comparisons those that AI judges alone have judged; None of one measured by an earlier version."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def quality_in(result: Mapping[str, Any] | None) -> RewardModelQuality | None:
    """What the result of a job says of the reward model that it made; None where that was not measured."""
    try:
        return stored(RewardModelQuality, FinishedTraining.of(result).quality)
    except TypeError:  # no accuracy that can be meant
        return None


def quality_of(db: Database, reward: Policy) -> RewardModelQuality | None:
    """What was measured of a reward model; None of one that was not trained here, or not checked as it scores now."""
    if reward.job_id is None or on_other_weights(db, reward):
        return None
    return quality_in(job_store.get(db, reward.job_id).result)


def on_other_weights(db: Database, reward: Policy) -> bool:
    """Whether other weights have taken the name of the base since a reward model was trained on it."""
    if reward.lies_on is not None or reward.job_id is None:
        return False
    job = job_store.get(db, reward.job_id)
    return (job.started or job.created) <= weights_since(db)


@dataclass(frozen=True)
class ScoreScale:
    """How the scores of a reward model are read: what stands in reward.json beside its weights."""

    mean: float
    """Over the answers that it was trained on; a training shifts and scales scores by this and `std`."""
    std: NonNegativeFloat
    pairs: int = 0
    temperature: PositiveFloat | None = None
    """None where it is unknown: it was trained before temperatures were fitted, or with too little to fit one on."""

    def chance(self, first: float, second: float) -> float:
        """The probability that the answer with the first of two raw scores is the better one (Bradley and Terry)."""
        difference = (first - second) / (self.temperature or 1.0)
        return 1 / (1 + exp(-difference)) if difference >= 0 else exp(difference) / (1 + exp(difference))


def read_scale(directory: Path) -> ScoreScale:
    """The scale of a stored reward model. Raises UserError where it is not there, or is none."""
    found = read_object(directory / SCALE_FILE)
    known = {name: found[name] for name in ScoreScale.__dataclass_fields__ if name in found}
    return read(ScoreScale, known, f"{directory / SCALE_FILE}")


# ----------------------------------------------------------------------------------------------------------- measuring
@dataclass(frozen=True)
class ScoredComparison:
    """A comparison under a reward model: each answer's score and length in tokens, and its (better, worse) pairs."""

    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    ai: bool = False


def measure(train: Sequence[ScoredComparison], held_out: Sequence[ScoredComparison]) -> RewardModelQuality:
    """The quality of a reward model by how it scores the comparisons that it was trained on, and others.

    What AI judges alone say of these counts only where people have judged too few. Held-out comparisons are taken to be
    independent; pairs of one comparison are not, and have one say together.
    """
    by_people = [one for one in held_out if not one.ai]
    held_out = by_people if len(by_people) >= FEWEST else held_out
    pairs = pair_margins(held_out) if len(held_out) >= FEWEST else []
    learnt = weighted_share([(credit(pair.score), pair.weight) for pair in pair_margins(train)])
    if not pairs:
        return RewardModelQuality(Share(None, None, None, len(held_out)), learnt)
    return RewardModelQuality(
        accuracy=weighted_share([(credit(pair.score), pair.weight) for pair in pairs]),
        train_accuracy=learnt,
        calibration=calibration(pairs),
        length=length_figures(held_out, pairs),
        scores=histogram(held_out),
        temperature=fitted_temperature(pairs),
        by_judges=sum(one.ai for one in held_out),
    )


def pair_margins(comparisons: Iterable[ScoredComparison]) -> list[PairMargin]:
    return [
        PairMargin(one.scores[better] - one.scores[worse], one.lengths[better] - one.lengths[worse], 1 / len(one.pairs))
        for one in comparisons
        for better, worse in one.pairs
    ]


def length_figures(comparisons: Sequence[ScoredComparison], pairs: Sequence[PairMargin]) -> LengthFigures:
    """How scores go with length over all answers, and how often the longer of two answers is the preferred one."""
    scores = np.array([score for one in comparisons for score in one.scores])
    lengths = np.array([float(length) for one in comparisons for length in one.lengths])
    differ = any(pair.length for pair in pairs)
    return LengthFigures(
        correlation(ranks(scores), ranks(lengths)),
        correlation(scores, lengths),
        len(scores),
        # Where no two answers differ in length, the rule was never put to use.
        weighted_share([(credit(pair.length), pair.weight) for pair in pairs] if differ else []),
    )


def correlation(one: Array, other: Array) -> float | None:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def ranks(values: Array) -> Array:
    """Ranks from 1 on; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Array = (ends - (counts - 1) / 2)[places]
    return means


def histogram(comparisons: Sequence[ScoredComparison]) -> ScoreHistogram:
    """Histograms of the scores of chosen and of rejected answers, as shares; each comparison weighs the same."""
    chosen, rejected, weights = [], [], []
    for one in comparisons:
        for better, worse in one.pairs:
            chosen.append(one.scores[better])
            rejected.append(one.scores[worse])
            weights.append(1 / len(one.pairs) / len(comparisons))
    every = [score for one in comparisons for score in one.scores]
    edges = np.histogram_bin_edges(every, SCORE_BINS)

    def counted(values: list[float]) -> tuple[float, ...]:
        return tuple(np.histogram(values, edges, weights=weights)[0].tolist())

    mean, std = float(np.mean(every)), float(np.std(every))
    return ScoreHistogram(
        edges=tuple(edges.tolist()), chosen=counted(chosen), rejected=counted(rejected), mean=mean, std=std
    )
