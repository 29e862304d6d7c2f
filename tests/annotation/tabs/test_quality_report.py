"""The Quality tab's words: what calls for attention, what is not known, and that strangers' text stays text."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from annotation import translation
from annotation.metrics.agreement import Agreement, Dispute, Period
from annotation.metrics.bradley_terry import Strength, Strengths
from annotation.metrics.intervals_and_bias import AnnotatorFigures, Bias, Estimate
from annotation.metrics.quality import (
    AdminDecision,
    FlaggedCase,
    Gold,
    QualityReport,
)
from annotation.metrics.reliability import Reliability
from annotation.records import Project
from annotation.tabs import quality_report
from annotation.ui.formatting import number_with_interval
from annotation.ui.markup import paragraph
from annotation.workbench.gold import ComparisonReview
from tests.votes import vote

HOSTILE = "<img src=x onerror='window.ran=1'>${window.ran=1}"
SHARED = Project(overlap=3, gold_share=0.0)


def annotator(name: str, **changes: object) -> AnnotatorFigures:
    share = Estimate(0.5, 0.4, 0.6, 100)
    plain = AnnotatorFigures(
        name=name,
        judgements=100,
        gold=share,
        consistency=share,
        first_place=share,
        fair=0.5,
        seconds=9.1,
        hasty=0,
        undecided=share,
        agreement=share,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


EMPTY = QualityReport(
    judgements=0, comparisons=0, shared=0, annotators=(), reliabilities={}, excluded={},
    agreement=(), over_time=(), position=(), length=(), policies=Strengths("base", (), (), 0), per_day=(),
    disputes=(), clear=(), golds=(), gold_accuracy=None, flags=0, flagged=(), decisions=(),
)  # fmt: skip
GOOD = replace(
    EMPTY,
    judgements=1204,
    comparisons=430,
    shared=400,
    annotators=(annotator("ann"), annotator("bob")),
    reliabilities={
        "ann": Reliability(estimate=0.85, low=0.8, high=0.9, overlap=90, known=5, repeats=4),
        "bob": Reliability(estimate=0.8, low=0.7, high=0.9, overlap=90, known=5, repeats=4),
    },
    agreement=(
        Agreement(
            question="Which of two is better, or neither",
            size=2,
            level="nominal",
            comparisons=400,
            judgements=1200,
            percent=Estimate(0.74, 0.71, 0.77, 400),
            alpha=Estimate(0.48, 0.43, 0.54, 400),
        ),
        Agreement(
            question="How much better, from −3 to 3",
            size=2,
            level="ordinal",
            comparisons=400,
            judgements=1200,
            percent=Estimate(0.3, 0.2, 0.4, 400),
            alpha=None,
        ),
    ),
)


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).strip()


def test_figures_that_somebody_else_had_counted_are_read_in_ones_own_language() -> None:
    left = Bias("Chose the left of two", Estimate(0.5, 0.4, 0.6, 30), 0.5)
    with translation.speaking(translation.language_of("de")):
        said = words(quality_report.agreement_table(GOOD.agreement))
        chart = words(quality_report.meter("place", "Platz", [left], ""))
    assert "Welche von zweien besser ist" in said
    assert "Which" not in said
    assert "How much" not in said
    assert "Chose" not in chart


# ----------------------------------------------------------------------------------------------------------- standing
def test_the_page_starts_with_how_the_labels_stand() -> None:
    said = words(quality_report.status_sentence(GOOD, SHARED))
    assert said == (
        "Annotators agree as is usual where taste decides; more annotators for each comparison help. Judgements that "
        "train the model 1,204 Comparisons 430 Say the same 74% (71–77%) Krippendorff&#x27;s alpha 0.48 "
        "(0.43 to 0.54)"
    )


def test_without_judgements_it_says_what_comes() -> None:
    assert words(quality_report.status_sentence(EMPTY, SHARED)) == quality_report.NO_JUDGEMENTS
    assert quality_report.annotators_table(EMPTY) == paragraph(quality_report.NO_JUDGEMENTS, "quiet")
    assert quality_report.reliability_chart(EMPTY) == ""
    assert "Project tab" in quality_report.agreement_table(EMPTY.agreement)
    assert "20 comparisons" in quality_report.over_time((), ())
    assert "once somebody has preferred" in quality_report.bias_meters((), ())
    assert "make it gold" in quality_report.gold_table((), None)
    assert "Nothing to settle" in quality_report.disputes_table(())
    assert "Nobody has flagged" in quality_report.flagged_table((), 0)
    assert "No decision" in quality_report.decisions_table(())


def test_figures_of_few_comparisons_are_not_made_much_of() -> None:
    few = replace(GOOD.agreement[0], comparisons=9)
    said = quality_report.status_sentence(replace(GOOD, agreement=(few,)), SHARED)
    assert "too few" in said
    assert "74%" not in said
    table = quality_report.agreement_table((few, replace(few, level="ordinal")))
    assert "hardly to be relied on" in table
    assert all(words in table for words in ("<td>the same or not</td>", "<td>how far apart</td>"))
    assert "nominal" not in table
    alone = quality_report.status_sentence(replace(GOOD, agreement=(), shared=0), SHARED)
    assert "no comparison has two independent judgements" in alone
    assert "chosen by doubt" in quality_report.status_sentence(replace(GOOD, agreement=()), SHARED)


def test_agreement_that_is_measured_is_not_said_to_be_unmeasurable() -> None:
    """Once set to one annotator, what several judged before still tells."""
    assert not [*quality_report.to_look_at(GOOD, replace(SHARED, overlap=1))]


@pytest.mark.parametrize(
    ("changes", "project", "expected"),
    [
        (
            {
                "reliabilities": {
                    **GOOD.reliabilities,
                    "bob": Reliability(estimate=0.4, low=0.3, high=0.55, overlap=9, known=0, repeats=0),
                }
            },
            SHARED,
            "bob: hardly better than guessing",
        ),
        ({"disputes": (Dispute(1, 2, 1.0, 6),) * 3}, SHARED, "3 comparisons wait to be settled"),
        (
            {"length": (Bias("Chose the longer of two", Estimate(0.67, 0.63, 0.71, 500), 0.5),)},
            SHARED,
            "Chose the longer of two: 67% (63–71%), where 50% would be even.",
        ),
        (
            {"position": (Bias("Chose the left of two", Estimate(0.4, 0.36, 0.44, 500), 0.5),)},
            SHARED,
            "Chose the left of two: 40%",
        ),
        ({"annotators": (annotator("ann", hasty=6), annotator("bob"))}, SHARED, "ann: more than one judgement in"),
        (
            {
                "golds": (
                    Gold(
                        comparison_id=7,
                        best=(0,),
                        retired=False,
                        right=Estimate(0.1, 0.0, 0.4, 8),
                        made_by="o",
                        made="",
                    ),
                )
            },
            SHARED,
            "Is the known answer right?",
        ),
        (
            {"flags": 201},
            SHARED,
            "201 judgements carry a flag",
        ),
        ({"shared": 0, "agreement": ()}, replace(SHARED, overlap=1), "judged by one annotator"),
        ({}, replace(SHARED, gold_share=0.05), "5% of what annotators see is meant to be gold"),
        (
            {"golds": (Gold(comparison_id=7, best=(0,), retired=True, right=None, made_by="o", made=""),)},
            replace(SHARED, gold_share=0.05),
            "no gold comparison is handed out",
        ),
    ],
)
def test_what_calls_for_attention_is_said(changes: dict[str, object], project: Project, expected: str) -> None:
    figures = replace(GOOD, **changes)  # type: ignore[arg-type]
    points = [*quality_report.to_look_at(figures, project)]
    assert len(points) == 1
    assert expected in points[0]


def test_what_is_well_calls_for_nothing() -> None:
    fine = replace(
        GOOD,
        position=(Bias("Chose the left of two", Estimate(0.52, 0.49, 0.55, 900), 0.5),),
        golds=(
            Gold(comparison_id=7, best=(0,), retired=True, right=Estimate(0.1, 0.0, 0.4, 8), made_by="o", made=""),
        ),  # retired: nobody gets it
        excluded={"eve": "clicks"},
        annotators=(*GOOD.annotators, annotator("eve", hasty=50)),
        reliabilities={
            **GOOD.reliabilities,
            "eve": Reliability(estimate=0.3, low=0.2, high=0.4, overlap=90, known=0, repeats=0),
        },
    )
    assert not [*quality_report.to_look_at(fine, SHARED)]


@pytest.mark.parametrize("alpha", [-0.2, 0.05, 0.2, 0.5, 0.7, 0.9])
def test_each_alpha_has_a_meaning_of_its_own(alpha: float) -> None:
    levels = [-0.2, 0.05, 0.2, 0.5, 0.7, 0.9]
    same = [other for other in levels if quality_report.meaning(other) == quality_report.meaning(alpha)]
    assert same == ([-0.2, 0.05] if alpha < 0.1 else [alpha])


# ------------------------------------------------------------------------------------------------------------- tables
def test_an_annotator_has_a_row_with_intervals_and_evidence() -> None:
    figures = replace(GOOD, excluded={"bob": "clicks without reading"})
    table = quality_report.annotators_table(figures)
    said = words(table)
    assert "ann 85% 80–90% 90 shared, 5 gold, 4 again 100 50% 40–60% of 100" in said
    assert "9.1 s" in said
    assert "left out clicks without reading" in said
    assert table.count("<tr>") == 3
    assert 'scope="row">ann<' in table
    three = annotator("cat", first_place=Estimate(0.4, 0.3, 0.5, 50), fair=1 / 3, gold=None, seconds=None)
    row = quality_report.annotator_row(
        three, Reliability(estimate=0.73, low=0.4, high=0.9, overlap=0, known=0, repeats=0), None
    )
    assert row[1] == "not measured\nno evidence yet"
    nobody = replace(
        GOOD,
        reliabilities={
            name: Reliability(estimate=0.73, low=0.4, high=0.9, overlap=0, known=0, repeats=0)
            for name in ("ann", "bob")
        },
    )
    assert words(quality_report.reliability_chart(nobody)) == quality_report.NO_EVIDENCE
    one = replace(
        GOOD,
        reliabilities={
            **GOOD.reliabilities,
            "bob": Reliability(estimate=0.73, low=0.4, high=0.9, overlap=0, known=0, repeats=0),
        },
    )
    assert "ann" in quality_report.reliability_chart(one)
    assert "bob" not in quality_report.reliability_chart(one)
    assert row[3] == "–"
    assert "even 33%" in row[6]
    assert row[8] == "–"


def test_strangers_text_stays_text() -> None:
    case = ComparisonReview(
        comparison_id=7,
        state="ready",
        messages=({"role": "user", "content": HOSTILE},),
        answers=(HOSTILE, "B"),
        opinions=(vote(7, "ann", (1, 2), strength=3),),
        consensus=0,
    )
    pages = [
        quality_report.case_view(case),
        quality_report.flagged_table(
            [
                FlaggedCase(
                    comparison_id=7,
                    flag="harmful",
                    note=HOSTILE,
                    annotator="ann",
                    created="2026-11-01T10:00",
                    prompt=HOSTILE,
                )
            ],
            1,
        ),
        quality_report.decisions_table(
            [
                AdminDecision(
                    what="leave-out",
                    annotator="ann",
                    comparison_id=None,
                    reason=HOSTILE,
                    decided_by="owner",
                    created="2026-11-01T10:00",
                )
            ]
        ),
        quality_report.annotators_table(replace(GOOD, excluded={"ann": HOSTILE})),
    ]
    for page in pages:
        assert "&lt;img" in page
        assert "<img" not in page
    assert "what the annotators agree on" in pages[0]
    assert "1 &gt; 2, much" in pages[0]
    assert "<td>to learn from</td>" in pages[0], "a purpose in words"


def test_rankings_are_written_by_the_answers_numbers() -> None:
    def text(ranking: tuple[int, ...] | None, strength: int | None = None, outcome: str = "ranked") -> str:
        return quality_report.verdict(outcome, ranking, strength)

    assert text((2, 1, 2)) == "2 > 1 = 3"
    assert text((2, 1), 1) == "2 > 1, slightly"
    assert text((1, 1), 0) == "1 = 2"
    assert text(None, outcome="all-bad") == "all bad"


def test_long_lists_say_that_they_go_on() -> None:
    flag = FlaggedCase(comparison_id=1, flag="broken", note="", annotator="ann", created="", prompt="")
    assert "And 199 earlier flags." in quality_report.flagged_table([flag], 200)
    table = quality_report.disputes_table([Dispute(n, 2, 1.0, 0) for n in range(12)])
    assert table.count("<tr>") == 11
    assert "And 2 more comparisons." in table


# ------------------------------------------------------------------------------------------------------------- charts
def test_charts_have_ids_of_their_own_and_axes_with_units() -> None:
    figures = replace(
        GOOD,
        position=(Bias("Chose the left of two", Estimate(0.5, 0.4, 0.6, 300), 0.5),
                  Bias("Chose the first shown of several", Estimate(0.3, 0.2, 0.4, 90), 0.25)),
        length=(Bias("Chose the longer of two", Estimate(0.6, 0.5, 0.7, 300), 0.5),),
        over_time=tuple(Period(f"2026-11-0{n}", Estimate(0.7, 0.6, 0.8, 20)) for n in (1, 2, 3)),
        per_day=(("2026-11-01", 30), ("2026-11-02", 20)),
        policies=Strengths("base", (Strength("dpo-1", Estimate(0.5, 0.1, 0.9, 30)),
                                    Strength("base", Estimate(0.0, 0.0, 0.0, 30))), ("dpo-2",), 30),
    )  # fmt: skip
    page = "".join(
        [
            quality_report.reliability_chart(figures),
            quality_report.over_time(figures.over_time, figures.per_day),
            quality_report.bias_meters(figures.position, figures.length),
            quality_report.policies_chart(figures.policies),
        ]
    )
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) == 14
    said = words(page)
    for unit in (
        "log-odds; base is 0",
        "share of decisive choices, 90 in all (even: 25%)",
        "each day (UTC)",
        "judgements",
    ):
        assert unit in said
    assert "+0.50 (+0.10 to +0.90), 62% wins" in said
    assert "dpo-2" in said


def test_too_few_comparisons_of_policies_are_said_to_be_too_few() -> None:
    assert "4 comparisons" in quality_report.policies_chart(Strengths("base", (), ("base", "dpo-1"), 4))
    assert "not enough" in quality_report.policies_chart(Strengths("base", (), ("base", "dpo-1"), 4))


def test_nothing_is_not_below_nothing() -> None:
    assert number_with_interval(Estimate(0.2, -0.004, 0.4, 9)) == "0.20 (0.00 to 0.40)"
    assert number_with_interval(Estimate(-0.2, -0.4, -0.006, 9)) == "-0.20 (-0.40 to -0.01)"
