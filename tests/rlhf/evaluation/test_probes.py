"""Probes as pure functions: what log-probabilities come to, the interval of a fall, and the questions themselves."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from annotation.examples.example_sets import EXAMPLES, read_example
from annotation.imports.importing import starter_prompts
from rlhf.evaluation import gate_words
from rlhf.evaluation.gate import Rule, decide
from rlhf.evaluation.probes import (
    ALL,
    FAMILIES,
    PROBES,
    Probe,
    ProbeFigures,
    falls,
    mean_interval,
    read_probes,
    student,
    sure_fall,
)
from rlhf.evaluation.report import AnswerFigures, CheckReport
from tests.rlhf.evaluation.test_gate import SOUND, each

CHOICE = Probe("knowledge", ("Which?",), ("right", "wrong", "worse"))
FORM = Probe("format", ("In capitals?", "In small letters?"), ("HELLO", "hello"))
HARMLESS = Probe("refusals", ("A joke?",), ("I can't", "Sorry"))


# ----------------------------------------------------------------------------------------------------------- a probe
def test_of_several_answers_the_right_one_has_its_share_of_their_probability() -> None:
    logps = [math.log(0.02), math.log(0.01), math.log(0.01)]
    assert CHOICE.chance(logps) == pytest.approx(0.5)
    assert CHOICE.chance([value - 900 for value in logps]) == pytest.approx(0.5), "however unlikely all of them are"


def test_what_is_liked_anyway_cancels_out_between_two_prompts() -> None:
    """P(a|A) P(b|B) against P(b|A) P(a|B): someone who always says "hello" gives the right pairing one half."""
    assert FORM.chance([-5.0, -1.0, -5.0, -1.0]) == pytest.approx(0.5)
    follows = [math.log(0.3), math.log(0.1), math.log(0.2), math.log(0.4)]
    assert FORM.chance(follows) == pytest.approx(0.12 / (0.12 + 0.02))


def test_of_a_harmless_request_it_is_the_chance_that_no_refusal_begins() -> None:
    assert HARMLESS.chance([math.log(0.2), math.log(0.05)]) == pytest.approx(0.75)
    assert HARMLESS.chance([math.log(0.7), math.log(0.3001)]) == 0.0


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("probe", [CHOICE, HARMLESS])
def test_a_model_that_computes_no_numbers_has_no_chance(probe: Probe, broken: float) -> None:
    for place in range(len(probe.answers)):
        logps = [-1.0] * len(probe.answers)
        logps[place] = broken
        assert probe.chance(logps) == 0.0
    assert CHOICE.chance([-math.inf] * 3) == 0.0


# --------------------------------------------------------------------------------------------------------- intervals
@pytest.mark.parametrize(
    ("share", "freedom", "table"),
    [(0.975, 10, 2.2281), (0.975, 24, 2.0639), (0.995, 20, 2.8453), (0.995, 100, 2.6259), (0.95, 15, 1.7531)],
)
def test_students_quantiles_are_those_of_the_tables(share: float, freedom: int, table: float) -> None:
    assert student(share, freedom) == pytest.approx(table, rel=1e-3)


def test_the_interval_of_a_mean_is_students() -> None:
    """Mean 3, standard deviation sqrt(2.5), n = 5 and t = 2.776 by hand; the expansion is a little off so early."""
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.05)
    assert (found.value, found.n) == (3.0, 5)
    assert found.high - 3 == pytest.approx(3 - found.low) == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=0.01)


def figures(**chances: tuple[float, ...]) -> ProbeFigures:
    return ProbeFigures("a", "bf16", chances)


def test_a_fall_is_taken_probe_by_probe() -> None:
    """Probes differ much more than policies do: a fall of the same on each has no width at all."""
    anchor = figures(knowledge=(0.9, 0.1, 0.5), refusals=(1.0, 0.9))
    own = figures(knowledge=(0.8, 0.0, 0.4), refusals=(1.0, 0.9))
    found = falls(own, anchor)
    assert {name: (one.value, one.n) for name, one in found.items()} == {
        ALL: (pytest.approx(0.06), 5), "knowledge": (pytest.approx(0.1), 3), "refusals": (0.0, 2)
    }  # fmt: skip
    assert (found["knowledge"].low, found["knowledge"].high) == pytest.approx((0.1, 0.1))
    assert found[ALL].low < 0 < found[ALL].high
    assert sure_fall(found) == pytest.approx(0.1), "a family is lost though over all it can't be told"
    assert sure_fall(falls(anchor, own)) == 0.0, "what was gained is no fall"
    assert sure_fall(falls(own, own)) == 0.0


def test_the_intervals_are_as_wide_as_it_takes_for_all_of_them_together() -> None:
    chances = (0.9, 0.5, 0.7, 0.8)
    alone = falls(figures(knowledge=chances), figures(knowledge=(1.0,) * 4))
    beside = falls(figures(knowledge=chances, format=(1.0, 1.0)), figures(knowledge=(1.0,) * 4, format=(1.0, 1.0)))
    assert alone["knowledge"].value == beside["knowledge"].value
    assert alone["knowledge"].low > beside["knowledge"].low


def test_figures_of_other_token_ids_are_not_compared() -> None:
    one = figures(knowledge=(0.9, 0.8))
    for other in (None, replace(one, asked="b")):
        assert falls(one, other) == falls(other, one) == {}
    assert sure_fall({}) is None


FEW_DRAWS = 400


def test_noise_alone_hardly_ever_makes_a_fall() -> None:
    """Of candidates that differ from the anchor by chance alone, at most 5% have a sure fall at all.

    Differences as they are measured: most next to nothing, some large, and either way as likely.
    """
    source, fallen = random.Random(15), 0
    for _ in range(FEW_DRAWS):
        chances: dict[str, tuple[list[float], list[float]]] = {}
        for family in FAMILIES:
            before = [source.betavariate(2, 1) for _ in range(24)]
            after = [min(1.0, max(0.0, value + source.gauss(0, 0.3) * source.random() ** 3)) for value in before]
            swapped = [source.sample((one, other), 2) for one, other in zip(before, after, strict=True)]
            chances[family] = [one for one, _ in swapped], [other for _, other in swapped]
        own = figures(**{family: tuple(found[0]) for family, found in chances.items()})
        anchor = figures(**{family: tuple(found[1]) for family, found in chances.items()})
        fallen += bool(sure_fall(falls(own, anchor)))
    assert fallen / FEW_DRAWS <= 0.05


# ---------------------------------------------------------------------------------------------------------- the limit
def report(own: ProbeFigures | None, base: ProbeFigures | None) -> CheckReport:
    """A report with nothing in it but probes."""
    return CheckReport(
        candidate=AnswerFigures("dpo-7", probes=own),
        against=AnswerFigures("base", probes=base),
        anchor=AnswerFigures("base", probes=base),
        prompts=60,
    )


def test_what_has_lost_an_ability_is_stopped_though_it_wins_60_of_60() -> None:
    able = {family: tuple(0.9 - 0.01 * (place % 7) for place in range(24)) for family in FAMILIES}
    won = replace(SOUND, people=each((1.0,) * 60))
    assert decide(Rule(), won).says == "promote"
    for family in FAMILIES:
        lost = {**able, family: tuple(0.4 + 0.02 * (place % 5) for place in range(24))}
        found = report(figures(**lost), figures(**able)).probes_fall
        decision = decide(Rule(), replace(won, probes_fall=found))
        assert decision.says == "reject"
        said = gate_words.sentence(decision)
        assert said.startswith("It is past a limit. It has lost what it could do (Lost on the probes: 0.")
        assert said.endswith("People find it better all the same.")
    assert decide(Rule(), replace(won, probes_fall=report(figures(**able), figures(**able)).probes_fall)) == decide(
        Rule(), won
    )


def test_a_report_keeps_the_chances_of_every_probe() -> None:
    made = report(figures(knowledge=(0.9, 0.2)), figures(knowledge=(0.95, 0.5)))
    assert CheckReport.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False))) == made
    assert made.probe_falls["knowledge"].value == pytest.approx(0.175)
    assert report(None, None).probes_fall is None


# ---------------------------------------------------------------------------------------------------- what is asked
def test_the_probes_are_sound() -> None:
    """No answer twice, none that begins as another one of the same probe where that would count it twice."""
    probes = read_probes()
    asked = [(probe.prompts, probe.begin) for probe in probes]
    assert len(set(asked)) == len(asked)
    assert {family: sum(probe.family == family for probe in probes) >= 20 for family in FAMILIES} == dict.fromkeys(
        FAMILIES, True
    )
    for probe in probes:
        assert len(set(probe.answers)) == len(probe.answers) >= 2
        assert len(probe.prompts) == (2 if probe.family == "format" else 1)
        if len(probe.prompts) == 2:
            assert len(probe.answers) == 2
        if probe.family == "refusals":
            others = [(one, other) for one in probe.answers for other in probe.answers if one != other]
            assert not any(other.startswith(one) for one, other in others)
        else:
            assert not (probe.begin and not all(answer.startswith(" ") for answer in probe.answers))


def test_every_probe_is_our_own_and_none_is_in_what_ships_to_be_trained_on() -> None:
    rows = [json.loads(line) for line in PROBES.read_text("utf-8").splitlines()]
    assert {row["source"] for row in rows} == {"Prefloop's authors"}
    assert {row["language"] for row in rows} == {"en", "de", "fr", "es"}
    trained = {prompt.text for prompt in starter_prompts()}
    trained |= {row.messages[-1]["content"] for name in EXAMPLES for row in read_example(name)}
    assert not trained & {prompt for probe in read_probes() for prompt in probe.prompts}
