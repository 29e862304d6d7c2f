"""Rows of every format against rows written by hand; filters, reasons, and cells that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import re
import string
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.__main__ import parser
from annotation.exports import export_command
from annotation.exports.formats import (
    CONTAINERS,
    FORMATS,
    LEFT_OUT,
    SOURCES,
    ExportContext,
    ExportedRows,
    ExportRequest,
    Filters,
    aggregate,
    check_request,
    demonstration,
    escape_cell,
    export_rows,
    iteration_of,
    iterations_of,
    margin,
    pseudonyms,
    unescape_cell,
)
from annotation.exports.transcripts import transcript
from annotation.metrics.aggregation import usable
from annotation.records import Demonstration, Judgement, UserError
from annotation.store.data_sources import KnownAnnotator, KnownModel
from tests.builders import judgement as judged_by
from tests.builders import stored_answer as answer

PEOPLE = ("ann", "bob", "kim", "bot", "file")
KNOWN = ExportContext({"base": 0, "dpo-1": 1, "dpo-2": 2}, {name: name.upper() for name in PEOPLE})
EDITED = replace(answer(90), origin="person", model_id=None, revision=None, text="mended", edited_from=0)


def judged(annotator: str, ranking: tuple[int, ...] | None, number: int = 1, **changes: Any) -> Judgement:
    """A judgement of a comparison; of a pair with a strength."""
    made = judged_by(annotator, ranking, number, **changes)
    if made.strength is None and made.kind == "pair" and ranking is not None and "strength" not in changes:
        return replace(made, strength=2 if ranking[0] != ranking[1] else 0)
    return made


def rows(
    group: list[Judgement], name: str = "preference", known: ExportContext = KNOWN, **filters: Any
) -> ExportedRows:
    """What a format makes of a comparison."""
    request = ExportRequest(name, filters=Filters(**filters))
    return export_rows(aggregate(group, request.filters, known), request, known)


def sides(group: list[Judgement], **filters: Any) -> list[tuple[str, str]]:
    """(chosen, rejected) of a comparison's pairs."""
    made = rows(group, **filters)
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in made.rows]


# ------------------------------------------------------------------------------------------------------------- formats
def test_a_preference_row_is_what_trl_reads_with_what_tracing_needs() -> None:
    made = rows([judged("ann", (2, 1), 5, strength=3), judged("bob", (2, 1), 6, strength=1), judged("kim", (1, 2), 7)])
    assert made == ExportedRows(
        [
            {
                "prompt": [{"role": "user", "content": "Why?"}],
                "chosen": [{"role": "assistant", "content": "answer 1"}],
                "rejected": [{"role": "assistant", "content": "answer 0"}],
                "margin": 2 / 3,
                "strength": 2.0,
                "agreement": 2 / 3,
                "flip": 0.27,
                "annotators": ["ANN", "BOB"],
                "source": "human",
                "chosen_by": "base",
                "rejected_by": "base",
                "iteration": 0,
                "prompt_id": 7,
                "comparison_id": 1,
                "judged": "2026-11-24T00:00:00.000000+00:00",
                "formed_chance": None,
                "people_chance": None,
                "shown_chances": [None, None],
                "answers_by": None,
                "answers_chance": None,
            }
        ],
        [],
    )


def test_a_plain_prompt_is_the_hh_transcript_up_to_where_the_answer_begins() -> None:
    turns = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Why?"},
    )
    (row,) = rows([judged("ann", (1, 2), messages=turns)], "preference-plain").rows
    assert row["prompt"] == "\n\nSystem: Be brief.\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant:"
    assert (row["chosen"], row["rejected"]) == (" answer 0", " answer 1")
    assert transcript([{"role": "tool", "content": "4"}]) == "\n\nTool: 4\n\nAssistant:"


def test_a_reward_row_holds_two_whole_conversations_and_always_a_margin() -> None:
    (row,) = rows([judged("ann", (1, 2), strength=1)], "reward").rows
    assert "prompt" not in row
    assert row["chosen"] == [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "answer 0"}]
    assert row["rejected"] == [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "answer 1"}]
    assert row["margin"] == 1 / 3
    ranked = rows([judged("ann", (1, 2, 3))], "reward").rows
    assert [(row["strength"], row["margin"]) for row in ranked] == [(None, 0.0)] * 3


@pytest.mark.parametrize(("strength", "expected"), [(None, 0.0), (1, 1 / 3), (2, 2 / 3), (3, 1.0), (1.5, 0.5)])
def test_the_margin_grows_with_the_strength(strength: float | None, expected: float) -> None:
    assert margin(strength) == pytest.approx(expected)


def test_extra_keys_of_messages_do_not_reach_the_columns() -> None:
    messages = ({"role": "user", "content": "Why?", "name": "Jo"},)
    (row,) = rows([judged("ann", (1, 2), messages=messages)]).rows
    assert row["prompt"] == [{"role": "user", "content": "Why?"}]


# ----------------------------------------------------------------------------------------------------------------- KTO
def labels(group: list[Judgement], **filters: Any) -> dict[str, bool]:
    """Label by answer."""
    return {row["completion"][0]["content"]: row["label"] for row in rows(group, "kto", **filters).rows}


def test_kto_takes_the_best_as_good_and_the_worst_as_bad() -> None:
    made = rows([judged("ann", (2, 1, 3))], "kto")
    assert labels([judged("ann", (2, 1, 3))]) == {"answer 1": True, "answer 2": False}
    assert made.left_out == ["middle"]
    assert made.rows[0]["agreement"] == 1.0
    assert (made.rows[0]["written_by"], made.rows[0]["source"], made.rows[0]["annotators"]) == (
        "base",
        "human",
        ["ANN"],
    )


def test_kto_takes_every_answer_as_bad_where_most_found_all_bad() -> None:
    bad = [judged("ann", None, 1, outcome="all-bad"), judged("bob", None, 2, outcome="all-bad")]
    made = rows([*bad, judged("kim", (1, 2), 3)], "kto")
    assert [row["label"] for row in made.rows] == [False, False]
    assert {(row["agreement"], tuple(row["annotators"])) for row in made.rows} == {(2 / 3, ("ANN", "BOB"))}
    assert labels([bad[0], judged("kim", (1, 2), 3)]) == {"answer 0": True, "answer 1": False}
    assert rows(bad, "kto", agreement=0.9).left_out == []
    assert rows([*bad, judged("kim", (1, 2), 3)], "kto", agreement=0.9).left_out == ["low-agreement"] * 2
    assert rows([bad[0], judged("kim", None, 3, outcome="skip")], "kto").left_out == ["skip"]


def test_kto_takes_an_edit_as_good_and_what_it_mends_for_neither() -> None:
    group = [judged("ann", (1, 2), edited=EDITED)]
    assert labels(group) == {"mended": True, "answer 1": False}
    assert rows(group, "kto").left_out == ["middle"]
    assert labels(group, sources=("human",)) == {"answer 0": True, "answer 1": False}


def test_kto_has_nothing_of_a_tie() -> None:
    assert rows([judged("ann", (1, 1))], "kto") == ExportedRows([], ["tie"])


# ----------------------------------------------------------------------------------------------------------------- SFT
SHOWN = Demonstration(
    id=3,
    prompt_id=9,
    split="held-out",
    messages=({"role": "user", "content": "How?"},),
    text="Thus.",
    origin="import",
    annotator=None,
    created="2026-11-20T10:00:00.000000+00:00",
)


def test_sft_rows_come_of_edits_only() -> None:
    made = rows([judged("ann", (1, 2), 1, edited=EDITED), judged("bob", (1, 2), 2)], "sft")
    assert made == ExportedRows(
        [
            {
                "prompt": [{"role": "user", "content": "Why?"}],
                "completion": [{"role": "assistant", "content": "mended"}],
                "prompt_id": 7,
                "annotators": ["ANN"],
                "source": "edited",
                "iteration": 0,
                "comparison_id": 1,
                "written": "2026-11-24T00:00:00.000000+00:00",
            }
        ],
        ["no-edit"],
    )


def test_a_demonstration_is_a_row_as_it_is() -> None:
    row = demonstration(SHOWN, Filters(), KNOWN)
    assert row == {
        "prompt": [{"role": "user", "content": "How?"}],
        "completion": [{"role": "assistant", "content": "Thus."}],
        "prompt_id": 9,
        "annotators": [],
        "source": "imported",
        "iteration": None,
        "comparison_id": None,
        "written": "2026-11-20T10:00:00.000000+00:00",
    }
    by_ann = replace(SHOWN, origin="person", annotator="ann")
    found = demonstration(by_ann, Filters(annotators=("ann",)), KNOWN)
    assert isinstance(found, dict)
    assert (found["source"], found["annotators"]) == ("human", ["ANN"])


@pytest.mark.parametrize(
    ("changes", "filters", "reason"),
    [
        ({"annotator": "kim"}, {}, "excluded"),
        ({}, {"sources": ("human", "edited")}, "other-source"),
        ({"origin": "person"}, {"sources": ("imported",)}, "other-source"),
        ({}, {"annotators": ("ann",)}, "other-annotator"),
        ({}, {"since": "2026-11-21"}, "other-date"),
        ({}, {"policies": ("base",)}, "other-policy"),
        ({}, {"iterations": (0,)}, "other-policy"),
    ],
)
def test_a_demonstration_that_is_not_wanted_says_why(
    changes: dict[str, Any], filters: dict[str, Any], reason: str
) -> None:
    known = replace(KNOWN, excluded=frozenset({"kim"}))
    assert demonstration(replace(SHOWN, **changes), Filters(**filters), known) == reason


# ----------------------------------------------------------------------------------------------------------------- CSV
def test_csv_has_a_flat_row_for_each_judgement_ties_and_all_bad_too() -> None:
    group = [
        judged("ann", (2, 1), 1, edited=replace(EDITED, edited_from=1), tags=("clear", "a, b"), note="=1+1"),
        judged("bob", (1, 1), 2),
        judged("kim", None, 3, outcome="all-bad"),
        judged("bot", None, 4, outcome="skip", annotator_kind="ai"),
    ]
    made = rows(group, "csv")
    assert made.left_out == ["skip"]
    assert made.rows[0] == {
        "judgement_id": 1,
        "comparison_id": 1,
        "prompt_id": 7,
        "split": "train",
        "judged": "2026-11-24T00:00:00.000000+00:00",
        "annotator": "ANN",
        "source": "human",
        "kind": "pair",
        "outcome": "ranked",
        "prompt": "Why?",
        "conversation": '[{"role": "user", "content": "Why?"}]',
        "chosen": "answer 1",
        "rejected": "answer 0",
        "strength": 2,
        "ranking": "[2, 1]",
        "edited": "mended",
        "tags": '["clear", "a, b"]',
        "note": "=1+1",
        "agreement": 1.0,
        "seconds": 3.0,
        "shown_order": "[0, 1]",
        "guidelines_version": None,
        "formed_chance": "unknown",
        "people_chance": "unknown",
        "shown_chance": "unknown",
        "answers_by": "unknown",
        "answers_chance": "unknown",
        "iteration": 0,
        "written_by": '["base", "base"]',
        "answer_1": "answer 0",
        "answer_2": "answer 1",
    }
    assert [(row["outcome"], row["chosen"], row["ranking"]) for row in made.rows[1:]] == [
        ("ranked", None, "[1, 1]"),
        ("all-bad", None, None),
    ]


def test_csv_filters_by_the_least_agreement_of_a_comparison() -> None:
    # The first answer beats the second for all three, the third for two of three.
    group = [judged("ann", (1, 2, 3), 1), judged("bob", (1, 2, 3), 2), judged("kim", (2, 3, 1), 3)]
    assert {row["agreement"] for row in rows(group, "csv").rows} == {2 / 3}
    assert len(rows(group, "csv", agreement=0.66).rows) == 3
    assert rows(group, "csv", agreement=0.67).left_out == ["low-agreement"] * 3


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\ta", "\ra", "  =1", "\na", "＝1+1", "'=1", "\0=1"])
def test_a_cell_that_a_spreadsheet_could_run_begins_with_an_apostrophe(cell: str) -> None:
    assert escape_cell(cell) == f"'{cell}"
    assert unescape_cell(escape_cell(cell)) == cell


@pytest.mark.parametrize(
    ("cell", "escaped"),
    [
        ("fine;=1+cmd|'/c calc'!A1;x", "fine;'=1+cmd|'/c calc'!A1;x"),
        ("a; =1\n-1\t@x", "a;' =1\n'-1\t'@x"),
        ("a;'=1", "a;''=1"),
        ("\n=1", "'\n'=1"),
        ('a;"=1";"b"', 'a;\'"=1";"b"'),
    ],
)
def test_nor_does_it_run_what_stands_where_it_could_begin_another_cell(cell: str, escaped: str) -> None:
    """A spreadsheet whose list separator is the semicolon takes the commas for text."""
    assert escape_cell(cell) == escaped
    assert unescape_cell(escaped) == cell


@pytest.mark.parametrize(
    "cell", ["a; b", "a;'b'", "x\n'quoted'", "", "plain", "a=1", "1-1", "[1, 2]", '"quoted"', " ", "(-1)"]
)
def test_other_cells_stay_as_they_are(cell: str) -> None:
    assert escape_cell(cell) == cell == unescape_cell(cell)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | st.text("=+-@'\t\r\n ,;\"a", max_size=8))
def test_every_cell_comes_back_from_a_csv_file(cell: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerow([escape_cell(cell), "next"])
    ((read, following),) = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert following == "next"
    assert unescape_cell(read) == cell
    assert not any(part.lstrip()[:1] in tuple("=+-@") for part in re.split("[;\t\r\n]", read))


# ------------------------------------------------------------------------------------------------------------- columns
RICH = [
    judged("ann", (1, 2, 3), 1, edited=EDITED),
    judged("bob", (1, 2, 3), 2),
    judged("bot", (2, 1, 3), 3, annotator_kind="ai"),
    judged("file", (1, 3, 2), 4, annotator_kind="import", purpose="import"),
]


@pytest.mark.parametrize("name", FORMATS)
def test_every_row_has_the_columns_that_the_format_declares(name: str) -> None:
    made = rows(RICH, name)
    assert made.rows
    kinds = {
        "text": str,
        "number": float | int,
        "whole": int,
        "truth": bool,
        "texts": list,
        "numbers": list,
        "messages": list,
    }
    for row in made.rows:
        declared = [column for column in FORMATS[name].columns if column in row or not column.startswith("answer_")]
        assert set(row) == set(declared)
        for column, value in row.items():
            untyped = name == "csv"
            assert untyped or value is None or isinstance(value, kinds[FORMATS[name].columns[column]]), column


def test_sources_of_a_pair_are_named_in_one_order() -> None:
    found = {(row["chosen"][0]["content"], row["rejected"][0]["content"]): row["source"] for row in rows(RICH).rows}
    assert found["mended", "answer 1"] == "edited"
    assert found["answer 0", "answer 1"] == "human+imported"
    assert found["answer 1", "answer 2"] == "human+ai"


# ------------------------------------------------------------------------------------------------------------- filters
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"purpose": "gold"}, "gold"),
        ({"purpose": "re-ask"}, "re-ask"),
        ({"early": True}, "early"),
        ({"flag": "harmful"}, "flagged"),
        ({"annotator": "kim"}, "excluded"),
    ],
)
def test_what_training_leaves_out_every_format_leaves_out(name: str, changes: dict[str, Any], reason: str) -> None:
    known = replace(KNOWN, excluded=frozenset({"kim"}))
    judgement = replace(judged("ann", (1, 2), edited=EDITED), **changes)
    assert rows([judgement], name, known) == ExportedRows([], [reason])
    assert rows([judged("ann", (1, 2), edited=EDITED)], name, known).rows


def test_filters_by_annotator_and_day_choose_judgements() -> None:
    group = [
        judged("ann", (1, 2), 1, created="2026-11-24T23:59:59.999999+00:00"),
        judged("bob", (2, 1), 2, created="2026-11-25T00:00:00.000000+00:00"),
        judged("kim", (2, 1), 3, created="2026-11-26T12:00:00.000000+00:00"),
    ]
    assert sides(group) == [("answer 1", "answer 0")]
    assert sides(group, annotators=("ann",)) == [("answer 0", "answer 1")]
    assert sides(group, until="2026-11-24") == [("answer 0", "answer 1")]
    made = rows(group, since="2026-11-25", until="2026-11-25")
    assert made.rows[0]["annotators"] == ["BOB"]
    assert made.left_out == ["other-date", "other-date"]
    assert rows(group, annotators=("ann", "bob")).left_out == ["other-annotator", "disagreement"]


def test_a_flag_by_somebody_else_still_takes_the_comparison_out() -> None:
    group = [judged("ann", (1, 2), 1), judged("bob", (1, 2), 2, flag="broken")]
    assert rows(group, annotators=("ann",)).left_out == ["flagged", "flagged"]


def test_a_filter_by_agreement_chooses_pairs() -> None:
    group = [judged("ann", (1, 2), 1), judged("bob", (1, 2), 2), judged("kim", (2, 1), 3)]
    assert sides(group, agreement=0.66) == [("answer 0", "answer 1")]
    assert rows(group, agreement=0.67).left_out == ["low-agreement"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (("human",), [("answer 0", "answer 1")]),
        (("ai",), [("answer 1", "answer 0")]),
        (("imported",), [("answer 1", "answer 0")]),
        (("edited",), [("mended", "answer 0"), ("mended", "answer 1")]),
        (("ai", "edited"), [("mended", "answer 0"), ("mended", "answer 1"), ("answer 1", "answer 0")]),
        (SOURCES, [("mended", "answer 0"), ("mended", "answer 1"), ("answer 1", "answer 0")]),
    ],
)
def test_a_filter_by_source_chooses_whose_voices_count(sources: Any, expected: list[tuple[str, str]]) -> None:
    group = [
        judged("ann", (1, 2), 1, edited=EDITED),
        judged("bot", (2, 1), 2, annotator_kind="ai"),
        judged("file", (2, 1), 3, annotator_kind="import", purpose="import"),
    ]
    assert sides(group, sources=sources) == expected


def test_a_filter_by_policy_wants_every_answer_of_a_pair_to_be_of_one() -> None:
    answers = (answer(0), replace(answer(1), revision="dpo-2"), replace(answer(2), revision=None, origin="import"))
    group = [judged("ann", (1, 2, 3), responses=answers, edited=replace(EDITED, edited_from=1))]
    both = {"policies": ("base", "dpo-2")}
    assert len(sides(group)) == 6
    assert sides(group, policies=("base",)) == [("answer 0", "answer 2")]
    assert sides(group, iterations=(2,)) == [("mended", "answer 1"), ("mended", "answer 2"), ("answer 1", "answer 2")]
    assert sides(group, **both, iterations=(0,)) == [("answer 0", "answer 2")]
    assert len(sides(group, **both)) == 6
    (edit, *_) = rows(group).rows
    assert (edit["chosen_by"], edit["rejected_by"], edit["iteration"]) == ("person", "dpo-2", 2)
    assert rows(group, "sft", iterations=(0,)).left_out == ["other-policy"]
    assert iteration_of(set(), KNOWN) is None


def test_identical_answers_teach_nothing() -> None:
    same = (answer(0), replace(answer(1), text=" answer 0\n"))
    assert rows([judged("ann", (1, 2), responses=same)]).left_out == ["identical"]


RANKINGS = st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=4)


@given(RANKINGS, st.sets(st.sampled_from(PEOPLE[:4]), min_size=1))
def test_filtering_by_annotator_is_the_same_as_having_only_their_judgements(
    ranks: list[tuple[int, ...]], wanted: set[str]
) -> None:
    group = [judged(PEOPLE[place], ranking, place) for place, ranking in enumerate(ranks)]
    only = [judgement for judgement in group if judgement.annotator in wanted]
    filtered = rows(group, annotators=tuple(wanted))
    assert filtered.rows == (rows(only).rows if only else [])
    assert filtered.left_out.count("other-annotator") == len(group) - len(only)


@given(RANKINGS)
def test_rows_follow_the_majority_counted_by_hand(ranks: list[tuple[int, ...]]) -> None:
    """An independent slow count: without reliabilities everybody's vote weighs the same."""
    group = [judged(PEOPLE[place], ranking, place) for place, ranking in enumerate(ranks)]
    expected = set()
    for first, second in combinations(range(3), 2):
        votes = Counter((ranking[first] < ranking[second]) - (ranking[first] > ranking[second]) for ranking in ranks)
        if votes[1] != votes[-1]:
            better, worse = (first, second) if votes[1] > votes[-1] else (second, first)
            share = max(votes[1], votes[-1]) / (votes[1] + votes[-1])
            expected.add((f"answer {better}", f"answer {worse}", share))
    found = rows(group)
    assert {
        (row["chosen"][0]["content"], row["rejected"][0]["content"], row["agreement"]) for row in found.rows
    } == expected
    assert len(found.rows) + len(found.left_out) == 3
    good = {chosen for chosen, _, _ in expected} - {rejected for _, rejected, _ in expected}
    assert {text for text, label in labels(group).items() if label} == good


@given(st.lists(st.sampled_from(["own", "gold", "re-ask", "settle"]), min_size=1, max_size=5))
def test_every_reason_has_words_for_the_card(purposes: list[Any]) -> None:
    group = [judged(PEOPLE[place], (1, 2), place, purpose=purpose) for place, purpose in enumerate(purposes)]
    counted, reasons = usable(group)
    for name in FORMATS:
        made = rows(group, name)
        assert set(made.left_out) <= set(LEFT_OUT)
        assert [reason for reason in made.left_out if reason in reasons] == reasons
        assert bool(made.rows) == (bool(counted) and name != "sft")


# ------------------------------------------------------------------------------------------------------------- request
def known_model(number: int, revision: str, parent: int | None) -> KnownModel:
    made = {"algorithm": "dpo", "base": "base", "created": "2026-01-01"}
    return KnownModel(id=number, revision=revision, parent_id=parent, **made)


def test_iterations_count_ancestors_and_a_damaged_lineage_ends() -> None:
    models = [
        known_model(1, "base", None),
        known_model(2, "dpo-1", 1),
        known_model(3, "dpo-2", 2),
        known_model(4, "dpo-3", 1),
    ]
    assert iterations_of(models) == {"base": 0, "dpo-1": 1, "dpo-2": 2, "dpo-3": 1}
    circle = [known_model(1, "a", 2), known_model(2, "b", 1)]
    assert set(iterations_of(circle)) == {"a", "b"}


def test_pseudonyms_say_nothing_but_the_kind_and_stay_the_same() -> None:
    people = [
        KnownAnnotator(2, "Ann Smith", "person"),
        KnownAnnotator(5, "gpt", "ai"),
        KnownAnnotator(9, "file.csv", "import"),
    ]
    assert pseudonyms(people) == {"Ann Smith": "annotator-2", "gpt": "ai-5", "file.csv": "import-9"}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ExportRequest("xlsx"), "no format 'xlsx'"),
        (ExportRequest(container="zip"), "no container 'zip'"),
        (ExportRequest("raw", filters=Filters(agreement=0.5)), "takes no filters"),
        (ExportRequest(filters=Filters(policies=("dpo-9",))), "no policy 'dpo-9' here. There is: base, dpo-1, dpo-2"),
        (ExportRequest(filters=Filters(annotators=("zoe",))), "no annotator 'zoe'"),
        (
            ExportRequest(filters=Filters(iterations=(7,))),
            "has this many trainings behind it: 7. There is: 0, 1, 2",
        ),
        (ExportRequest(filters=Filters(sources=("robot",))), "no source 'robot'"),  # type: ignore[arg-type]
        (ExportRequest(filters=Filters(sources=())), "at least one source"),
        (ExportRequest(filters=Filters(since="yesterday")), "'yesterday' is no day"),
        (ExportRequest(filters=Filters(until="2026-02-30")), "'2026-02-30' is no day"),
        (ExportRequest(filters=Filters(until="20260201")), "'20260201' is no day"),
        (ExportRequest(filters=Filters(until="9999-12-31")), "is no day"),
        (ExportRequest(filters=Filters(since="2026-02-02", until="2026-02-01")), "is after the last day"),
        (ExportRequest(filters=Filters(agreement=1.5)), "a share from 0 to 1, not 1.5"),
        (ExportRequest(filters=Filters(agreement=float("nan"))), "a share from 0 to 1"),
    ],
)
def test_what_can_not_be_had_is_said_in_one_sentence(request_: ExportRequest, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        check_request(request_, KNOWN)


@given(st.text(max_size=12) | st.text(string.digits + "-W", max_size=12))
def test_any_text_is_a_day_or_refused(text: str) -> None:
    try:
        is_day = text == "" or str(date.fromisoformat(text)) == text < "9999-12-31"
    except ValueError:
        is_day = False
    with nullcontext() if is_day else pytest.raises(UserError, match="is no day"):
        check_request(ExportRequest(filters=Filters(since=text)), KNOWN)


DAYS = st.dates(date(2000, 1, 1), date(2100, 1, 1)).map(str) | st.just("")
REQUESTS = st.builds(
    ExportRequest,
    st.sampled_from([*FORMATS, "raw"]),
    st.sampled_from(list(CONTAINERS)),
    st.builds(
        Filters,
        iterations=st.lists(st.integers(0, 99), max_size=3).map(tuple),
        policies=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
        annotators=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
        since=DAYS,
        until=DAYS,
        agreement=st.floats(0, 1),
        sources=st.sets(st.sampled_from(SOURCES), min_size=1).map(lambda some: tuple(s for s in SOURCES if s in some)),
    ),
    st.booleans(),
)


@given(REQUESTS)
def test_the_command_line_of_a_request_means_that_request(request_: ExportRequest) -> None:
    arguments = export_command.arguments_of(request_)
    found = export_command.request_of(parser().parse_args(["export", *arguments]))
    if request_.format in ("csv", "raw"):
        request_ = replace(request_, container="dataset")
    assert found == request_
