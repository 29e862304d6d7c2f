"""Lists as addresses name them: what can't be read is refused, and is never all comparisons."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from annotation.database import Database
from annotation.records import UserError
from annotation.tabs.comparisons.comparison_table import ListPlace
from annotation.tabs.comparisons.comparisons_tab import FIELDS, ConfirmedChange, confirm, list_of, looked_at, planned
from annotation.tabs.export_form import DEFAULTS, narrow_export
from annotation.ui.tab_addresses import MAXIMUM_LENGTH, place_in
from annotation.web import access
from annotation.workbench.comparison_filter import ComparisonFilter
from annotation.workbench.comparison_list import matching
from tests.conftest import seed_comparisons

TOO_LONG = "?" + "&".join(["status=open", "source=" + ",".join(f"a prompt set {number}" for number in range(200))])


def fields(**filled: Any) -> list[Any]:
    return [filled.get(name, "") for name in FIELDS]


def of_all(part: str, shown: str, **filled: Any) -> ComparisonFilter:
    """What a press on "all in this list" is about, where this table was shown below these fields."""
    return planned({"subject": "withdraw", "all": True, "filter": shown}, place_in(part), fields(**filled)).comparisons


def test_all_of_a_list_is_what_is_shown() -> None:
    assert of_all("", "") == ComparisonFilter()
    part, shown = "?status=open&q=two+words&sort=oldest&page=3", "status=open&q=two+words"
    found = of_all(part, shown, status=["open"], q="two words", sort="oldest")
    assert found == ComparisonFilter(status=("open",), q="two words")
    assert of_all("?ids=3,5&status=open", "ids=3,5&status=open", status=["open"]).ids == (3, 5)


@pytest.mark.parametrize("part", [TOO_LONG, "?" + "&".join(f"a{number}=1" for number in range(50)), "?status=great"])
def test_all_of_what_cannot_be_read_is_not_everything(part: str) -> None:
    for shown in ("", part.removeprefix("?")):
        with pytest.raises(UserError):
            of_all(part, shown)
    with pytest.raises(UserError):
        looked_at(place_in(part))


def test_all_of_another_list_than_is_shown_is_refused() -> None:
    with pytest.raises(UserError, match="another list"):
        of_all("", "status=open")  # the program was restarted meanwhile
    with pytest.raises(UserError, match="another list"):
        of_all("", "", person=["kim"])  # so say the fields above it
    with pytest.raises(UserError, match="another list"):
        planned({"subject": "withdraw", "all": True}, place_in(""), fields())


def test_a_list_that_no_address_can_hold_is_refused_where_it_is_made() -> None:
    assert list_of(fields(q=" rice ", sort="oldest")) == ListPlace(ComparisonFilter(q="rice"), "oldest")
    with pytest.raises(UserError, match="Choose fewer"):
        list_of(fields(source=["a prompt set"] * 200))
    part = list_of(fields(source=["x" * (MAXIMUM_LENGTH - 60)])).place.part()
    assert looked_at(place_in(part)).comparisons.source


def test_a_change_of_other_comparisons_than_were_confirmed_is_asked_anew(db: Database) -> None:
    """Whatever has changed since the question: what is asked then can be confirmed."""
    kim = access.add_account(db, "kim", "admin", "long enough words")
    ids = seed_comparisons(db, 3)
    asked = ConfirmedChange("withdraw", ComparisonFilter(ids=tuple(ids)).text, "", expected=3)
    elsewhere = replace(asked, comparisons=ComparisonFilter(ids=(ids[0],)).text, expected=1)
    assert confirm(db, elsewhere, kim)[1] is not None

    said, made = confirm(db, asked, kim)
    withdrawn = ComparisonFilter(status=("withdrawn",))
    assert made is None
    assert matching(db, withdrawn) == {ids[0]}
    assert "Withdraw 2 comparisons?" in said
    assert "Meanwhile it would be 2 comparisons, not 3." in said
    held = re.search(r'"([^"]*expected[^"]*)"', said)
    assert held is not None
    assert confirm(db, ConfirmedChange(**json.loads(html.unescape(held[1]))), kim)[1] is not None
    assert matching(db, withdrawn) == set(ids)
    said, made = confirm(db, asked, kim)
    assert made is None
    assert "None of these can be changed so." in said


def test_the_export_of_a_list_without_a_filter_is_of_all() -> None:
    """Whatever an earlier list has left in the form."""

    def sent(part: str) -> dict[str, Any]:
        shown = zip(DEFAULTS, narrow_export(place_in(part)), strict=False)
        return {name: one["value"] for name, one in shown if "value" in one}

    assert sent("?all=1") == {"comparisons": ""}
    assert sent("?status=judged") == {"comparisons": "status=judged"}
    assert sent("") == {}, "what was typed stays"


def test_an_address_unfolds_what_it_fills() -> None:
    for part, unfolded in (
        ("?policies=base", [True, False]),
        ("?licence=MIT&all=1", [False, True]),
        ("?names=yes&last=2026-01-31", [True, True]),
        ("?format=raw&status=judged", [False, False]),
    ):
        assert [one.get("open", False) for one in narrow_export(place_in(part))[len(DEFAULTS) :]] == unfolded


@pytest.mark.parametrize("part", ["?status=great", TOO_LONG + "&status=great", "/" + "x" * MAXIMUM_LENGTH])
def test_an_export_of_what_cannot_be_read_stays_refused(part: str) -> None:
    sent = dict(zip(DEFAULTS, narrow_export(place_in(part)), strict=False))
    assert [name for name in sent if "value" in sent[name]] == ["comparisons"]
    with pytest.raises(UserError):
        ComparisonFilter.of(sent["comparisons"]["value"])


@pytest.mark.parametrize(
    "sent",
    [
        *("withdraw", None, [], {}, {"subject": 1, "ids": ["1"]}, {"subject": "withdraw", "ids": "1"}),
        *({"subject": "withdraw", "ids": ["1"], "all": "yes"}, {"subject": "withdraw", "ids": [1.5]}),
        *({"subject": "withdraw", "ids": [[1]]}, {"subject": "withdraw", "ids": ["1,2; 3"]}),
        {"subject": "withdraw", "ids": ["1"], "whom": ["ann"]},
    ],
)
def test_a_press_of_no_form_is_refused_as_a_sentence(sent: Any) -> None:
    with pytest.raises(UserError):
        planned(sent, place_in(""), fields())
    chosen = {"act": "plan", "subject": "withdraw", "ids": ["3", "5"]}
    assert planned(chosen, place_in(""), fields()).comparisons.ids == (3, 5)
