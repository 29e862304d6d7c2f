"""The quality of a reward model: its figures against numbers worked out by hand, and what it says of them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.metrics.calibration import PairMargin, calibration, fitted_temperature
from annotation.metrics.intervals_and_bias import Z_95, Share
from annotation.ui.charts import HEIGHT
from annotation.ui.line_plots import outline
from rlhf.models.reward_model_quality import (
    FEWEST,
    REWARD_THRESHOLD,
    RewardModelQuality,
    ScoredComparison,
    ScoreScale,
    correlation,
    measure,
    pair_margins,
    quality_in,
    ranks,
    read_scale,
)
from rlhf.tabs.jobs.reward_model_card import calibration_sentence, card


def pair(difference: float, lengths: tuple[int, int] = (5, 5), middle: float = 0.0) -> ScoredComparison:
    """A comparison of two answers whose better one scores this much more."""
    return ScoredComparison((middle + difference / 2, middle - difference / 2), lengths, ((0, 1),))


def sure(chance: float) -> float:
    """The difference of scores at which the model gives the favoured answer this chance."""
    return math.log(chance / (1 - chance))


def measured(held_out: list[ScoredComparison]) -> RewardModelQuality:
    """The quality of a model with some training data."""
    return measure([pair(1.0), pair(-1.0)], held_out)


# ------------------------------------------------------------------------------------------------------------ accuracy
def test_a_comparison_has_one_say_however_many_pairs_it_has() -> None:
    """Four right, one with 2 of 3 pairs right, one undecided: (4 + 2/3 + 1/2) / 6."""
    ranking = ScoredComparison((1.0, 3.0, 2.0), (5, 5, 5), ((0, 1), (1, 2), (2, 0)))
    found = measured([*[pair(1.0)] * 4, ranking, pair(0.0)]).accuracy.estimate
    assert found is not None
    assert found.value == pytest.approx((4 + 2 / 3 + 1 / 2) / 6)
    assert found.n == 6
    for bound in (found.low, found.high):  # where the score test at 95% just rejects (Wilson 1927)
        assert abs(found.value - bound) == pytest.approx(Z_95 * math.sqrt(bound * (1 - bound) / 6))


def test_many_pairs_of_few_comparisons_do_not_shorten_the_interval() -> None:
    """Eight answers ranked rightly are 28 pairs, and tell no more than two answers do."""
    every = tuple((better, worse) for better in range(8) for worse in range(better + 1, 8))
    ranking = ScoredComparison(tuple(range(8, 0, -1)), (5,) * 8, every)
    many, few = (measured([one] * 7).accuracy.to_json() for one in (ranking, pair(1.0)))
    assert many == pytest.approx(few)


def by_judge(difference: float) -> ScoredComparison:
    """One that AI judges alone have judged."""
    return replace(pair(difference), ai=True)


def test_it_is_checked_with_what_people_say_where_they_have_said_enough() -> None:
    people = [*[pair(1.0)] * 4, *[pair(-1.0)] * 4]
    quality = measured([*people, *[by_judge(1.0)] * 40])
    assert quality == measured(people)
    assert (quality.accuracy.value, quality.accuracy.n, quality.by_judges) == (0.5, 8, 0)
    assert "AI judges" not in card(quality)


def test_where_ai_judges_alone_have_judged_the_card_says_so() -> None:
    for people, of in ((0, "what was held out"), (FEWEST - 1, "held-out comparisons (8 of 13)")):
        quality = measured([*[pair(1.0)] * people, *[by_judge(1.0)] * 8])
        assert (quality.accuracy.n, quality.by_judges) == (8 + people, 8)
        said = card(quality)
        assert f"AI judges alone have judged {of}: all this says" in said
        assert "people prefer" not in said
    quality = measured([by_judge(1.0)] * (FEWEST - 1))
    assert quality.accuracy.value is None
    assert "AI judges alone" not in card(quality), "there is no figure"
    assert quality_in({"quality": {"accuracy": Share(0.8, 0.6, 0.9, 30).to_json()}}) == RewardModelQuality(
        Share(0.8, 0.6, 0.9, 30)
    ), "one of an earlier version"


def test_training_data_are_counted_apart() -> None:
    quality = measure([pair(1.0)] * 3 + [pair(-1.0)], [pair(1.0)] * 6)
    assert quality.train_accuracy is not None
    assert (quality.train_accuracy.value, quality.train_accuracy.n) == (0.75, 4)
    assert quality.accuracy.value == 1.0


@pytest.mark.parametrize("number", [0, 1, FEWEST - 1])
def test_few_held_out_comparisons_give_no_figures_and_the_card_says_so(number: int) -> None:
    quality = measured([pair(1.0)] * number)
    assert quality.accuracy == Share(None, None, None, number)
    assert quality.calibration is quality.length is quality.scores is None
    said = card(quality)
    assert ("No held-out" if number == 0 else f"only {number} held-out") in said
    assert "On held-out comparisons" not in said
    assert "On its training data" in said


def test_the_fewest_comparisons_are_those_with_which_a_perfect_model_is_told_from_the_threshold() -> None:
    found = measured([pair(1.0)] * FEWEST).accuracy.estimate
    assert found is not None
    assert found.low >= REWARD_THRESHOLD
    with_one_less = (FEWEST - 1) / (FEWEST - 1 + Z_95**2)  # Wilson's lower bound where all are right
    assert with_one_less < REWARD_THRESHOLD


# --------------------------------------------------------------------------------------------------------- calibration
def test_calibration_worked_out_by_hand() -> None:
    """Sure to 55% and right on 1 of 2, sure to 95% and right on 3 of 4: distances of 0.05 and 0.2."""
    low, high = sure(0.55), sure(0.95)
    found = measured([pair(low), pair(-low), *[pair(high)] * 3, pair(-high)]).calibration
    assert found is not None
    assert [(one.start, one.end, one.pairs) for one in found.bins] == [(0.5, 0.6, 2), (0.9, 1.0, 4)]
    assert [one.predicted for one in found.bins] == pytest.approx([0.55, 0.95])
    assert [one.value for one in found.bins] == pytest.approx([0.5, 0.75])
    assert found.error == pytest.approx((2 * 0.05 + 4 * 0.2) / 6)
    assert found.surplus == pytest.approx(found.error)
    assert "surer than it should be" in card(measured([*[pair(high)] * 3, *[pair(-high)] * 3]))


def test_a_model_that_is_less_sure_than_right_has_a_negative_surplus() -> None:
    found = measured([pair(sure(0.65))] * 8).calibration
    assert found is not None
    assert found.surplus == pytest.approx(-0.35)
    assert found.error == pytest.approx(0.35)


def test_scores_far_apart_do_not_overflow() -> None:
    found = measured([pair(5000.0)] * 6).calibration
    assert found is not None
    assert found.bins[0].predicted == 1.0


# -------------------------------------------------------------------------------------------------------------- length
def test_ranks_share_the_mean_of_ties_and_spearman_is_as_by_hand() -> None:
    """Deviations -1.5, -0.5, 0.5, 1.5 and -1.5, 0, 0, 1.5: 4.5 / sqrt(5 x 4.5)."""
    assert ranks(np.array([10.0, 20.0, 20.0, 30.0])).tolist() == [1.0, 2.5, 2.5, 4.0]
    found = correlation(ranks(np.array([1.0, 2.0, 3.0, 40.0])), ranks(np.array([10.0, 20.0, 20.0, 30.0])))
    assert found == pytest.approx(4.5 / math.sqrt(5 * 4.5))


def test_correlations_take_every_answer_once_and_pearson_is_as_by_hand() -> None:
    """Scores 1, 0, 1, 0 ... and lengths 2, 6, 2, 6 ... lie on a falling line."""
    found = measured([pair(1.0, (2, 6), 0.5)] * 6).length
    assert found is not None
    assert found.answers == 12
    assert (found.pearson, found.spearman) == pytest.approx((-1.0, -1.0))
    assert found.longer_wins.value == 0.0


def test_the_longer_answer_wins_in_two_of_eight_and_ties_in_one() -> None:
    lengths = [(9, 3)] * 2 + [(3, 9)] * 5 + [(4, 4)]
    quality = measured([pair(1.0, own) for own in lengths])
    assert quality.length is not None
    assert quality.length.longer_wins.value == pytest.approx(2.5 / 8)
    assert "the rule “the shorter answer wins” alone on 68.8%." in card(quality)


def test_answers_of_one_length_have_no_correlation() -> None:
    quality = measured([pair(1.0)] * 6)
    assert quality.length is not None
    assert quality.length.spearman is quality.length.pearson is None
    assert "compared with length" in card(quality)


@pytest.mark.parametrize(
    ("comparisons", "words"),
    [
        ([pair(1.0, (9, 3))] * 6, "learnt little but length"),  # right on all, and so is the rule
        ([pair(1.0, (9, 3))] * 4 + [pair(-1.0, (3, 9))] * 2, "learnt little but length"),
        ([pair(-1.0, (9, 3))] * 3 + [pair(1.0, (9, 3))] * 3, "Length alone tells more"),
    ],
)
def test_a_model_that_is_no_better_than_a_rule_of_length_is_told(
    comparisons: list[ScoredComparison], words: str
) -> None:
    assert words in card(measured(comparisons))


def test_a_model_that_beats_the_rules_is_not_suspected() -> None:
    said = card(measured([pair(1.0, (9, 3)), pair(1.0, (3, 9))] * 4))
    assert "little but length" not in said
    assert "tells more" not in said


# -------------------------------------------------------------------------------------------------------------- scores
def test_histograms_count_each_side_of_each_pair() -> None:
    found = measured([pair(2.0)] * 3 + [pair(-2.0)] * 3).scores
    assert found is not None
    assert (found.edges[0], found.edges[-1]) == (-1.0, 1.0)
    for shares in (found.chosen, found.rejected):
        assert (shares[0], shares[-1]) == pytest.approx((0.5, 0.5))
        assert sum(shares) == pytest.approx(1.0)
    assert (found.mean, found.std) == (0.0, 1.0)


def test_an_outline_covers_the_area_of_its_histogram() -> None:
    points = outline([0.0, 1.0, 3.0], [0.25, 0.75])
    assert points == [(0.0, 0.0), (0.0, 0.25), (1.0, 0.25), (1.0, 0.75), (3.0, 0.75), (3.0, 0.0)]


# ---------------------------------------------------------------------------------------------------------------- card
def tree(html: str) -> ElementTree.Element:
    """The card as a tree: it must be well-formed."""
    return ElementTree.fromstring(f"<div>{html}</div>")


@pytest.mark.parametrize(
    ("right", "of", "words"),
    [
        (6, 6, "above the 60%"),
        (
            8,
            10,
            "60% from which a policy is trained against it without asking. The interval reaches below it",
        ),
        (5, 10, "It may be no better than guessing. A policy trained against it would mostly"),
        (59, 100, "It is right on 59.0% of 100"),
    ],
)
def test_the_card_says_in_words_whether_the_accuracy_is_enough(right: int, of: int, words: str) -> None:
    said = card(measured([pair(1.0)] * right + [pair(-1.0)] * (of - right)))
    assert words in said
    assert ("below the 60%" in said) == (right / of < REWARD_THRESHOLD)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_the_one_by_which_people_prefer(temperature: float) -> None:
    """4,000 comparisons whose better answer is drawn with the chance sigmoid(difference / temperature)."""
    random = np.random.default_rng(20)
    differences = random.normal(0, 2, 4000)
    first_better = random.random(4000) < 1 / (1 + np.exp(-differences / temperature))
    margins = np.where(first_better, differences, -differences)
    fitted = fitted_temperature([PairMargin(float(margin), 0.0, 1.0) for margin in margins])
    assert fitted == pytest.approx(temperature, rel=0.1)
    assert measured([pair(float(margin)) for margin in margins]).temperature == pytest.approx(fitted)


def test_a_few_pairs_alone_make_no_model_sure_or_unsure_without_end() -> None:
    """Six that are told rightly can't say that every such pair would be; six wrong ones make it unsure, and finite."""
    right, wrong = (fitted_temperature([PairMargin(score, 0.0, 1.0)] * 6) for score in (1.0, -1.0))
    assert 0.2 < right < 1.0 < wrong < 10.0
    assert fitted_temperature([PairMargin(0.0, 0.0, 1.0)] * 6) == pytest.approx(1.0, rel=0.01)
    assert measured([pair(1.0)] * (FEWEST - 1)).temperature is None


def test_the_chance_is_the_logistic_of_the_raw_difference_over_the_temperature(tmp_path: Path) -> None:
    """Two answers that differ by 1: 0.731 whatever the standard deviation, which is of PPO's scale only."""
    (tmp_path / "reward.json").write_text('{"mean": -3.0, "std": 0.3, "pairs": 16}')
    old = read_scale(tmp_path)
    assert (old.temperature, old.chance(2.0, 1.0)) == (None, pytest.approx(0.731, abs=5e-4))
    fitted = ScoreScale(mean=-3.0, std=0.3, temperature=2.0)
    assert fitted.chance(2.0, 1.0) == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert fitted.chance(1.0, 2.0) == pytest.approx(1 - fitted.chance(2.0, 1.0))
    assert (fitted.chance(1e6, 0.0), fitted.chance(0.0, 1e6)) == (1.0, 0.0)


def test_marks_of_the_calibration_lie_where_their_numbers_are() -> None:
    low, high = sure(0.55), sure(0.95)
    said = card(measured([pair(low), pair(-low), *[pair(high)] * 3, pair(-high)]))
    plot = next(figure for figure in tree(said).iter("figure") if "Calibration" in "".join(figure.itertext()))
    dots = [(float(str(dot.get("cx")).rstrip("%")), float(str(dot.get("cy")))) for dot in plot.iter("circle")]
    assert dots == [(pytest.approx(10), HEIGHT / 2), (pytest.approx(90), pytest.approx(HEIGHT / 4, abs=0.06))]
    assert {"50%", "100%", "2", "4", "how sure it is; number of pairs"} <= {text.text for text in plot.iter("text")}


def test_the_ids_of_two_cards_on_one_page_differ_and_their_labels_point_at_them() -> None:
    both = card(measured([pair(1.0)] * 6)) + card(measured([pair(-1.0)] * 6))
    ids = [element.get("id") for element in tree(both).iter() if element.get("id")]
    assert len(ids) == len(set(ids)) == 12
    named = [name for svg in tree(both).iter("svg") for name in str(svg.get("aria-labelledby", "")).split()]
    assert sorted(named) == sorted(filter(None, ids))


def test_the_card_names_no_style_that_the_pages_lack() -> None:
    from annotation.ui.stylesheet import SHEET

    said = card(measured([pair(1.0, (3, 4)), pair(-0.5)] * 4))
    classes = {name for element in tree(said).iter() for name in str(element.get("class", "")).split()}
    assert all(f".{name}" in SHEET for name in classes)
    assert not re.search(r"style=|<script|on\w+=", said)


scored = st.lists(
    st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.integers(1, 50), st.integers(1, 50)).map(
        lambda values: ScoredComparison(values[:2], values[2:], ((0, 1),))
    ),
    max_size=12,
)


@given(train=scored, held_out=scored)
def test_any_quality_can_be_stored_and_shown(train: list[ScoredComparison], held_out: list[ScoredComparison]) -> None:
    """Through JSON without a number that is none, and back."""
    quality = measure(train, held_out)
    stored = quality_in(json.loads(json.dumps({"quality": quality.to_json()}, allow_nan=False)))
    assert stored == quality
    said = card(stored)
    tree(said)
    assert "nan" not in said


def test_a_figure_that_can_not_be_meant_is_not_read_and_the_others_are() -> None:
    accuracy = Share(0.8, 0.6, 0.9, 30)
    for odd in (math.nan, "x", [1]):
        assert quality_in({"quality": {"accuracy": accuracy.to_json(), "temperature": odd}}) == RewardModelQuality(
            accuracy
        )
        assert quality_in({"quality": {"accuracy": accuracy.to_json() | {"value": odd}, "temperature": 1.5}}) is None
    assert quality_in(
        {"quality": {"accuracy": accuracy.to_json(), "train_accuracy": accuracy.to_json() | {"n": "9"}}}
    ) == (RewardModelQuality(accuracy))


def test_figures_of_earlier_versions_are_read() -> None:
    """What bins were called, and a share without its interval."""
    quality = measured([pair(1.0)] * 6)
    stored = json.loads(json.dumps(quality.to_json()))
    for one in stored["calibration"]["bins"]:
        one |= {"from": one.pop("start"), "to": one.pop("end")}
    assert quality_in({"health": stored}) == quality
    assert quality_in({"health": {"accuracy": {"value": 0.7}}}) == RewardModelQuality(Share(0.7, None, None, 0))


def test_where_no_two_answers_differ_in_length_nothing_is_said_of_length() -> None:
    quality = measured([pair(1.0), *[pair(-1.0)] * 6])
    assert quality.length is not None
    assert quality.length.longer_wins.value is None
    said = card(quality)
    assert "No two answers that were compared differ in length." in said
    assert "Rule: the" not in said
    assert "50.0%" not in said


def test_of_few_pairs_it_is_not_said_how_sure_a_model_should_be() -> None:
    one = calibration_sentence(calibration(pair_margins([pair(3.0)])))
    assert "1 pair is too few to tell" in one
    assert "On the whole" not in one
    assert "On the whole" in calibration_sentence(calibration(pair_margins([pair(3.0)] * FEWEST)))
