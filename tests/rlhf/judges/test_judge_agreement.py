"""The trust card of a judge: its figures against published and hand-worked numbers, and what it says of them."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.metrics.intervals_and_bias import Z_95
from annotation.metrics.sequential_testing import kappas
from rlhf.judges.judge_agreement import (
    JudgedComparison,
    PersonRanking,
    Trust,
    TrustBasis,
    VerdictPair,
    agreement_alone,
    trust,
)
from rlhf.tabs.judges.judge_card import card

FIRST, SECOND, TIE = (1, 2), (2, 1), (1, 1)
NAMES = ("ann", "bob", "carla")


def case(number: int, judged: tuple[int, ...], *people: tuple[int, ...], **changes: Any) -> JudgedComparison:
    """A comparison with a judge's ranking and one by each person; all answers are equally long."""
    opinions = tuple(PersonRanking(name, ranking) for name, ranking in zip(NAMES, people, strict=False))
    return JudgedComparison(number, judged, opinions, **{"chances": {}, "lengths": (10,) * len(judged), **changes})


def cases(*groups: tuple[int, tuple[int, ...], tuple[int, ...]]) -> list[JudgedComparison]:
    """So many comparisons of each kind: (times, the judge's ranking, a person's)."""
    every = [(judged, said) for times, judged, said in groups for _ in range(times)]
    return [case(number, judged, said) for number, (judged, said) in enumerate(every)]


# ----------------------------------------------------------------------------------------------------------- agreement
def test_a_tie_against_a_preference_counts_half_and_two_ties_agree() -> None:
    """Three the same, one of them two ties; two halves; one opposite: (3 + 1) / 6."""
    found = trust(cases((2, FIRST, FIRST), (1, TIE, TIE), (1, TIE, SECOND), (1, FIRST, TIE), (1, FIRST, SECOND)))
    assert found.with_people is not None
    share = found.with_people.share
    assert (share.value, share.n) == (pytest.approx(4 / 6), 6)
    for bound in (share.low, share.high):  # where the score test at 95% just rejects (Wilson 1927)
        assert abs(share.value - bound) == pytest.approx(Z_95 * math.sqrt(bound * (1 - bound) / 6))


def test_kappa_is_that_of_a_published_table() -> None:
    """Fleiss, Cohen and Everitt 1969, table 1: 200 cases in three categories, kappa 0.429."""
    published = (
        *((106, FIRST, FIRST), (10, FIRST, TIE), (4, FIRST, SECOND)),
        *((22, TIE, FIRST), (28, TIE, TIE), (10, TIE, SECOND)),
        *((2, SECOND, FIRST), (12, SECOND, TIE), (6, SECOND, SECOND)),
    )
    found = trust(cases(*published))
    assert found.with_people is not None
    kappa = found.with_people.kappa
    assert kappa is not None
    assert kappa.value == pytest.approx(0.429, abs=5e-4)
    # Their standard error for it (equation 13) is the root of 0.002885.
    deviation = math.sqrt(0.002885)
    assert (kappa.high - kappa.low) / 2 == pytest.approx(Z_95 * deviation, rel=0.1)


def test_kappa_of_pairs_that_one_person_judged_is_that_of_two_labellings_and_scipys_bootstrap() -> None:
    from scipy import stats

    source = random.Random(7)
    drawn = [(source.choice((FIRST, SECOND, TIE)), source.choice((FIRST, FIRST, SECOND))) for _ in range(60)]
    found = trust([case(number, *rankings) for number, rankings in enumerate(drawn)])
    judged, said = (np.array([(FIRST, TIE, SECOND).index(one) for one in side]) for side in zip(*drawn, strict=True))

    def of_labels(judged: Any, said: Any) -> float:
        table = np.zeros((3, 3))
        np.add.at(table, (judged, said), 1)
        return float(kappas(table))

    resampled = stats.bootstrap(
        (judged, said), of_labels, paired=True, vectorized=False, n_resamples=4000, method="percentile", rng=1
    )
    assert found.with_people is not None
    kappa = found.with_people.kappa
    assert kappa is not None
    assert kappa.value == pytest.approx(of_labels(judged, said))
    assert (kappa.low, kappa.high) == pytest.approx(tuple(resampled.confidence_interval), abs=0.02)


def test_a_comparison_has_one_say_however_many_answers_and_people_it_has() -> None:
    """One ranking of eight wholly agreed on by three people, and one pair the other way round: one half of two."""
    ranking = tuple(range(1, 9))
    found = trust([case(1, ranking, ranking, ranking, ranking), case(2, FIRST, SECOND)])
    assert found.with_people is not None
    assert (found.with_people.share.value, found.with_people.share.n) == (0.5, 2)


def test_three_comparisons_that_all_agree_promise_little() -> None:
    """Wilson's lower bound where all of n agree is n / (n + z²)."""
    found = trust(cases((2, FIRST, FIRST), (1, SECOND, SECOND)))
    assert found.with_people.share.low == pytest.approx(3 / (3 + Z_95**2))
    assert found.with_people is not None
    assert found.with_people.kappa is not None
    assert (found.with_people.kappa.value, found.with_people.kappa.low) == (1.0, pytest.approx(3 / (3 + Z_95**2)))


@pytest.mark.parametrize("group", [(9, FIRST, FIRST), (9, FIRST, SECOND)])
def test_kappa_is_none_where_nothing_tells_it(group: tuple[int, Any, Any]) -> None:
    found = trust(cases(group))
    assert found.with_people is not None
    assert found.with_people.kappa is None


def mixed(right: int, wrong: int, picked: int = 40) -> list[JudgedComparison]:
    """Of “Mixed”: what it flipped on, all of which people got, and what they got one in ten of."""
    flipped = [case(n, TIE, FIRST, people_chance=1.0, picked=True) for n in range(picked)]
    audited = [case(100 + n, FIRST, FIRST if n < right else SECOND, people_chance=0.1) for n in range(right + wrong)]
    return flipped + audited


def test_what_people_got_by_lot_stands_for_the_rest_as_well() -> None:
    """40 halves of weight 1, nine right and one wrong of weight 10: (20 + 90) / 140, as sure as 140² / 1040 are."""
    found = trust(mixed(9, 1))
    assert found.with_people is not None
    share, kappa = found.with_people.share, found.with_people.kappa
    assert (share.value, share.n) == (pytest.approx(110 / 140), 50)
    for bound in (share.low, share.high):
        assert abs(share.value - bound) == pytest.approx(Z_95 * math.sqrt(bound * (1 - bound) * 1040 / 140**2))
    assert kappa is not None
    assert kappa.value == pytest.approx(float(kappas(np.array([[0, 0, 0], [0, 0, 40], [10, 0, 90.0]]))))
    assert (found.picked, found.drawn) == (40, 10)


@pytest.mark.parametrize("chance", [None, 0.0, 1.0])
def test_what_nobody_drew_stands_for_itself(chance: float | None) -> None:
    """Of earlier data no chance is known; and what people were to get for certain or never stands for nothing else."""
    changed = [replace(one, people_chance=chance) for one in cases((3, FIRST, FIRST), (1, FIRST, SECOND))]
    found = trust(changed)
    assert (found.with_people, found.drawn) == (trust(cases((3, FIRST, FIRST), (1, FIRST, SECOND))).with_people, 0)


def test_chances_that_differ_tell_no_spread_of_kappa() -> None:
    found = trust([case(n, FIRST, SECOND, people_chance=chance) for n, chance in enumerate((1.0, 0.5, 0.1))])
    assert found.with_people is not None
    assert found.with_people.kappa is None


def test_of_what_it_labels_alone_neither_picked_comparisons_nor_ties_tell() -> None:
    """Its ties are no labels, and people got all that it flipped on: of the rest it is right on 9 of 10."""
    tied = [case(200 + n, TIE, FIRST, people_chance=1.0) for n in range(5)]
    unsure = [case(300 + n, FIRST, SECOND, people_chance=1.0, picked=True) for n in range(5)]
    found = agreement_alone([*mixed(9, 1), *tied, *unsure])
    assert found is not None
    assert (found.share.value, found.share.n) == (0.9, 10)
    assert agreement_alone(mixed(0, 0)) is None


def test_a_best_of_several_says_nothing_about_the_others() -> None:
    """Answer 1 is best of three: two orders are told. The judge has one of them right and ties the other."""
    opinion = PersonRanking("ann", (1, 2, 2), "best")
    found = trust(
        [JudgedComparison(comparison_id=1, judged=(1, 1, 2), people=(opinion,), chances={}, lengths=(10, 10, 10))]
    )
    assert found.with_people is not None
    assert found.with_people.share.value == pytest.approx(1.5 / 2)
    ranked = trust([case(1, (1, 1, 2), (1, 2, 2))])  # the same numbers, but meant as a tie of the last two
    assert ranked.with_people is not None
    assert ranked.with_people.share.value == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_people_are_compared_with_each_other_on_the_same_comparisons() -> None:
    """Of three people two agree: one pair of three. Of two, one ties: a half. One alone says nothing."""
    found = trust([case(1, TIE, FIRST, FIRST, SECOND), case(2, FIRST, FIRST, TIE), case(3, FIRST, FIRST)])
    assert found.each_other is not None
    assert found.each_other.share.value == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found.each_other.share.n == 2


def test_nothing_judged_by_people_leaves_no_figures_of_trust() -> None:
    found = trust([], [VerdictPair(1, "first", "second")])
    assert (found.with_people, found.each_other, found.calibration, found.longer) == (None,) * 4
    assert found.flips is not None


# --------------------------------------------------------------------------------------------------------- calibration
def test_calibration_worked_out_by_hand() -> None:
    """Sure to 65% and right on 1 of 2, to 95% (for the second answer) and right on 3 of 4; a tie says nothing."""
    low = [case(1, FIRST, FIRST, chances={(0, 1): 0.65}), case(2, FIRST, SECOND, chances={(0, 1): 0.65})]
    high = [case(3 + n, SECOND, SECOND if n else FIRST, chances={(0, 1): 0.05}) for n in range(4)]
    tied = [case(9, SECOND, TIE, chances={(0, 1): 0.05})]
    found = trust([*low, *high, *tied, case(10, FIRST, SECOND)]).calibration
    assert found is not None
    assert [(one.start, one.pairs) for one in found.bins] == [(0.6, 2), (0.9, 4)]
    assert [one.predicted for one in found.bins] == pytest.approx([0.65, 0.95])
    assert [one.value for one in found.bins] == pytest.approx([0.5, 0.75])
    assert found.error == pytest.approx((2 * 0.15 + 4 * 0.20) / 6)


def test_what_a_draw_gave_to_people_counts_for_the_rest_in_calibration_and_length() -> None:
    """Judges' disagreements, which people got for certain, are 10 wrong of 12; of the others 1 in 10 was drawn."""
    said = {"chances": {(0, 1): 0.95}, "lengths": (9, 3)}
    wrong, right = ([case(n, FIRST, person, **said) for n in range(10)] for person in (SECOND, FIRST))
    picked = [replace(one, picked=True, people_chance=1.0) for one in (*wrong, *right[:2])]
    drawn = [replace(one, people_chance=0.1) for one in right]
    found = trust([*picked, *drawn])
    assert found.with_people is not None
    assert found.calibration is not None
    (one,) = found.calibration.bins
    agreed, worth = 102 / 112, 112**2 / 1012
    assert (one.pairs, one.n) == (22, round(worth))
    assert one.value == pytest.approx(agreed)
    share = found.with_people.share
    assert (one.low, one.high) == pytest.approx((share.low, share.high))
    assert found.calibration.error == pytest.approx(0.95 - agreed)
    assert found.longer is not None
    assert found.longer_people is not None
    assert (found.longer.value, found.longer_people.value) == pytest.approx((1.0, agreed))
    assert (found.longer_people.low, found.longer_people.high) == pytest.approx((share.low, share.high))
    assert (found.longer.n, found.longer_people.n) == (22, 22)


def test_chances_of_one_and_nought_do_not_overflow() -> None:
    found = trust([case(1, FIRST, FIRST, chances={(0, 1): 1.0}), case(2, FIRST, FIRST, chances={(0, 1): 0.0})])
    assert found.calibration is not None
    assert found.calibration.bins[0].value == pytest.approx(0.5)


# -------------------------------------------------------------------------------------------------- position and length
def test_flips_and_first_places_by_hand() -> None:
    """A judge that names the first twice flips; the two places together are named five times of six, ties apart."""
    verdicts = [VerdictPair(1, "first", "first"), VerdictPair(2, "first", "first"), VerdictPair(3, "first", "tie")]
    found = trust([], [*verdicts, VerdictPair(4, "tie", "tie"), VerdictPair(5, "second", "first")])
    assert found.flips is not None
    assert found.first_place is not None
    assert (found.flips.value, found.flips.n) == (pytest.approx(2 / 5), 5)
    assert (found.first_place.value, found.first_place.n) == (pytest.approx((1 + 1 + 1 + 0.5) / 4), 4)


def test_many_pairs_of_one_comparison_do_not_shorten_the_interval() -> None:
    several = trust([], [VerdictPair(1, "first", "first") for _ in combinations(range(8), 2)])
    assert several.flips == trust([], [VerdictPair(1, "first", "first")]).flips


def test_the_longer_answer_is_counted_on_the_same_pairs_for_judge_and_people() -> None:
    """Four pairs count: the judge takes the longer in three, people in one. Ties and equal lengths are left out."""
    longer_first = {"lengths": (9, 3)}
    counted = [case(n, FIRST, SECOND, **longer_first) for n in range(3)] + [case(3, SECOND, FIRST, **longer_first)]
    left_out = [case(4, TIE, FIRST, **longer_first), case(5, FIRST, TIE, **longer_first), case(6, FIRST, FIRST)]
    found = trust([*counted, *left_out])
    assert found.longer is not None
    assert found.longer_people is not None
    assert (found.longer.value, found.longer.n) == (0.75, 4)
    assert (found.longer_people.value, found.longer_people.n) == (0.25, 4)


# ---------------------------------------------------------------------------------------------------------------- card
def tree(html: str) -> ElementTree.Element:
    """The card as a tree: it must be well-formed."""
    return ElementTree.fromstring(f"<div>{html}</div>")


def full() -> Trust:
    """A judge of whom everything is known."""
    rows = [(FIRST, FIRST, 0.9, (9, 3)), (SECOND, SECOND, 0.2, (3, 9)), (FIRST, SECOND, 0.7, (9, 3))] * 10
    known = [
        case(number, judged, said, said, chances={(0, 1): chance}, lengths=lengths, picked=number < 4)
        for number, (judged, said, chance, lengths) in enumerate(rows)
    ]
    return trust(known, [VerdictPair(number, "first", "second" if number % 4 else "first") for number in range(40)])


@pytest.mark.parametrize(
    ("right", "of", "words"),
    [
        (95, 100, "The gate may go by tester: its agreement with people surely reaches 60%."),
        (7, 10, "its agreement with people does not surely reach 60%. More comparisons narrow the interval."),
        (40, 100, "The gate does not go by tester: its agreement with people does not surely reach 60%."),
    ],
)
def test_the_card_says_in_words_whether_the_gate_may_go_by_it(right: int, of: int, words: str) -> None:
    said = card("tester", trust(cases((right, FIRST, FIRST), (of - right, FIRST, SECOND))), 0.6)
    assert words in said
    assert ("More comparisons narrow" in said) == (right / of >= 0.6 and "narrow" in words)


def test_the_card_does_not_say_that_the_gate_goes_by_a_judge_where_its_rule_lets_none_decide() -> None:
    trusted = trust(cases((95, FIRST, FIRST), (5, FIRST, SECOND)))
    said = card("tester", trusted, 0.6, may_decide=False)
    assert "surely reaches 60%, but by the gate&#x27;s rule judges inform and do not decide." in said
    assert "may go by" not in said


@pytest.mark.parametrize(
    ("basis", "words"),
    [
        (TrustBasis(0, 0), ""),
        (TrustBasis(3, 1), "Left out: 1 verdict by another rubric than now, or on other weights"),
        (TrustBasis(3, 2000), "Left out: 2,000 verdicts by another rubric than now, or on other weights"),
        (TrustBasis(None, 0), ""),
    ],
)
def test_the_card_says_which_verdicts_it_rests_on(basis: TrustBasis, words: str) -> None:
    said = card("tester", full(), 0.6, basis)
    assert words in said
    assert ("another rubric" in said) == bool(basis.left_out)


def test_the_card_says_that_what_the_model_was_trained_on_does_not_count() -> None:
    basis = TrustBasis(version=None, left_out=0, model="dpo-1", frozen="2026-05-04T03:02:01.000000+00:00", seen=12)
    said = card("tester", full(), 0.6, basis)
    assert "Only what the model has not been trained on counts" in said
    assert "after the data of dpo-1 were frozen (2026-05-04 03:02). Its calibration" in said
    assert "Left out: 12 comparisons" in said
    assert "Its calibration" not in card("tester", full(), 0.6, replace(basis, version=1)), "it has no temperature"
    assert "Let people judge more" in card("tester", trust([]), 0.6, basis)


def test_a_judge_of_whom_nothing_is_known_is_not_trusted() -> None:
    said = card("tester", trust([]), 0.6)
    assert "no comparison has been judged both by it and by people" in said
    assert "<svg" not in said


def test_the_card_shows_people_beside_the_judge_and_says_when_comparisons_are_hard() -> None:
    said = card("tester", full(), 0.6)
    assert "People were asked about 4 of these 30 because judges contradicted themselves" in said
    assert "it contradicted itself on 25%" in said
    assert [title.text for title in tree(said).iter("figcaption")] == ["Calibration", "Position", "Length"]
    cells = [cell.text for cell in tree(said).iter("td")]
    assert cells[0:3] == ["With people", "30", "67% (49–81%)"]
    assert cells[4:7] == ["People with each other", "30", "100% (89–100%)"]


def test_the_card_says_what_was_drawn_by_lot() -> None:
    said = card("tester", trust(mixed(90, 10)), 0.6)
    assert "People were asked about 40 of these 140 because judges" in said
    assert "Drawn by lot with a known chance: 100; in what compares it with people each of these counts" in said
    assert "agree more often" not in said


def test_a_judge_that_ties_everything_has_no_position() -> None:
    said = card("tester", trust(cases((3, TIE, FIRST)), [VerdictPair(1, "tie", "tie")]), 0.6)
    assert "it has called everything a tie, over 1 comparison" in said


def test_a_hostile_name_stays_text_and_the_ids_of_two_cards_differ() -> None:
    hostile = "<img src=x onerror='window.ran=1'>${window.ran=1}\"{{value}}"
    both = card(hostile, full(), 0.6) + card("other", full(), 0.6)
    assert {element.tag for element in tree(both).iter()}.isdisjoint({"img", "script", "form"})
    assert hostile in "".join(tree(both).itertext())
    ids = [element.get("id") for element in tree(both).iter() if element.get("id")]
    assert len(ids) == len(set(ids)) == 12
    named = [name for svg in tree(both).iter("svg") for name in str(svg.get("aria-labelledby", "")).split()]
    assert sorted(named) == sorted(filter(None, ids))


def test_the_card_names_no_style_that_the_pages_lack() -> None:
    from annotation.ui.stylesheet import SHEET

    said = card("tester", full(), 0.6)
    classes = {name for element in tree(said).iter() for name in str(element.get("class", "")).split()}
    assert all(f".{name}" in SHEET for name in classes if name != "number")
    assert not re.search(r"style=|<script|on\w+=", said)


rankings = st.lists(st.integers(1, 3), min_size=3, max_size=3).map(tuple)
judged_cases = st.lists(
    st.builds(
        lambda judged, people, chance, lengths: case(
            0, judged, *people, chances={(0, 1): chance, (1, 2): 1 - chance}, lengths=tuple(lengths)
        ),
        rankings,
        st.lists(rankings, min_size=1, max_size=3),
        st.floats(0, 1),
        st.lists(st.integers(0, 3), min_size=3, max_size=3),
    ),
    max_size=6,
)


@given(found=judged_cases)
def test_any_judge_can_be_shown_and_no_figure_leaves_its_range(found: list[JudgedComparison]) -> None:
    known = trust(found)
    said = card("tester", known, 0.6)
    tree(said)
    assert "nan" not in said
    shares = [known.with_people and known.with_people.share, known.each_other and known.each_other.share, known.longer]
    assert all(0 <= one.low <= one.value <= one.high <= 1 for one in shares if one is not None)
