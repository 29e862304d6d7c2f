"""What trainings on comparisons have in common: their rows and items, and what is said of these. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from annotation.database import Database
from annotation.exports.frozen_rows import PreferenceRow
from annotation.metrics.aggregation import UNKNOWN_RELIABILITY
from annotation.records import MAXIMUM_ANSWERS, STRENGTHS
from annotation.translation import _
from annotation.ui.formatting import percent
from annotation.validation import NonNegativeFloat
from rlhf.data.snapshots import MIN_PAIRS, collect
from rlhf.jobs.descriptions import COMPARISONS, Facts, Rows, Tokenised
from rlhf.jobs.job_spec import Scope, TrainingSpec
from rlhf.models import registry
from rlhf.models.tokenise import TokenisedComparison, tokenise_comparisons

# Rows and the prior's top are rounded.
SAME = 1e-4


@dataclass(frozen=True)
class ComparisonSpec(TrainingSpec):
    """A training on comparisons, all pairs of one together."""

    items: ClassVar = COMPARISONS
    at_least: ClassVar = MIN_PAIRS
    answers_per_item: ClassVar = MAXIMUM_ANSWERS
    pace_free: ClassVar = (*TrainingSpec.pace_free, "scope")

    scope: Scope = "all"
    """Train on judgements made since the parent's data was frozen ('new') or on every judgement ('all')."""
    ai_weight: NonNegativeFloat = 1.0
    """Weight of a pair that AI judges alone prefer, beside 1 for people's; 0 leaves their judgements out. As much as
    people's in RLAIF (Lee et al. 2023)."""

    def rows(self, db: Database) -> Rows:
        parent = registry.by_revision(db, self.parent)
        return collect(db, parent, self.scope, self.max_length, judges_too=self.ai_weight > 0)

    def data_key(self) -> tuple[Any, ...]:
        """Without any weight, AI judges' labels are no rows."""
        return *super().data_key(), self.ai_weight > 0

    def tokenise(self, tokenizer: Any, rows: Sequence[PreferenceRow]) -> Tokenised:
        """Comparisons with all their pairs together."""
        return tokenise_comparisons(tokenizer, rows, self.max_length)

    def answers_of(self, item: TokenisedComparison) -> list[Sequence[int]]:
        """All answers of a comparison, each once."""
        return list(filter(None, item["answers"]))


def places_of(rows: Sequence[PreferenceRow]) -> dict[int, int]:
    """The number of each answer of a comparison, in the order in which its pairs name them."""
    places: dict[int, int] = {}
    for row in rows:
        for answer in row.sides:
            places.setdefault(answer.id, len(places) + 1)
    return places


def strength_word(row: PreferenceRow) -> str:
    """How strongly the chosen answer was preferred, in the words that annotators see."""
    strength = row.strength
    return _("no strength given") if strength is None else _(STRENGTHS[round(strength)])


def pair_facts(row: PreferenceRow) -> Facts:
    """How strongly and how often a pair was preferred, and the chance that it is the wrong way round."""
    return [(_("Preferred"), strength_word(row)), (_("Judgements"), str(len(row.judgements))), *chance(row)]


def ranking_facts(rows: Sequence[PreferenceRow]) -> Facts:
    if rows[0].chosen.outside:
        return [(_("Better"), _("none of them: all bad")), *chance(rows[0])]
    places = places_of(rows)
    orders = [
        _("{places} over {places_2}").format(places=places[row.chosen.id], places_2=places[row.rejected.id])
        for row in rows
    ]
    return [(_("Better"), ", ".join(orders)), (_("Preferred"), ", ".join(map(strength_word, rows)))]


def chance(row: PreferenceRow) -> Facts:
    """The estimated chance that a pair is the wrong way round, or what is assumed where nothing is known."""
    if row.flip is None:
        return []
    assumed = len(row.annotators) == 1 and abs(row.flip - (1 - UNKNOWN_RELIABILITY)) < SAME
    flip = _("{flip}, assumed") if assumed else "{flip}"
    return [(_("Chance of the wrong way round"), flip.format(flip=percent(row.flip)))]
