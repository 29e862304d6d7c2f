"""What is said of preference pairs beside their text: how strongly one was preferred, how surely. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from annotation.exports.frozen_rows import PreferenceRow
from annotation.metrics.aggregation import UNKNOWN_RELIABILITY
from annotation.records import STRENGTHS
from annotation.translation import _
from annotation.ui.formatting import percent
from rlhf.jobs.descriptions import Facts

# Rows and the prior's top are rounded.
SAME = 1e-4


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
    return _("no strength given") if strength is None else STRENGTHS[round(strength)]


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
