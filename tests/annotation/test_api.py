"""The annotators' endpoints behind the real sign-in: what a card holds, and what each act leaves in the rows."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient

from annotation import api, project, records, selection
from annotation.claims import handing_out, own_prompts
from annotation.database import Database
from annotation.records import Annotator, Feedback, Kind, Project, Prompt, Tag
from annotation.store import comparison_store, project_store, prompt_store
from annotation.ui import markdown_process
from annotation.ui.differences import MOST_WORDS
from annotation.web import access
from annotation.web.middleware import ANNOTATOR_KEY, SignedIn
from annotation.workbench import bulk_changes
from annotation.workbench.bulk_changes import BulkRequest
from annotation.workbench.comparison_filter import ComparisonFilter
from tests.conftest import act, make_response, seed_comparisons, seed_prompts
from tests.frozen_in_memory import current_judgements
from tests.machine_fixtures import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

COOKIE = "session"
Card = dict[str, Any]
Ask = Callable[..., Card]


@pytest.fixture
def person(db: Database) -> Iterator[Callable[[str], Ask]]:
    """Somebody signed in, as a function that asks an endpoint and returns its JSON, with a status that is not 200."""
    own = api.AnnotationApi(db, lambda: "The model sleeps.")
    app = Starlette(routes=list(own.routes()))
    app.add_middleware(SignedIn, db=db, cookie=COOKIE)

    with TestClient(app) as client:

        def sign_in(name: str) -> Ask:
            if name not in {account.name for account in access.accounts(db)}:
                access.add_account(db, name, "annotator", "a long enough password")
            token = access.open_session(db, access.authorise(db, name, "annotator"))

            def ask(endpoint: str, **body: Any) -> Card:
                headers = {"cookie": f"{COOKIE}={token}", "content-type": "application/json"}
                answer = client.post(f"/annotate/{endpoint}", content=json.dumps(body), headers=headers)
                found: Card = answer.json()
                return found if answer.status_code == 200 else {"status": answer.status_code, **found}

            return ask

        yield sign_in


@pytest.fixture
def ann(person: Callable[[str], Ask]) -> Ask:
    return person("ann")


def set_project(db: Database, **values: Any) -> None:
    project_store.set_project(db, replace(project_store.project(db), **values))


def seed_answers(db: Database, count: int, texts: tuple[str, ...] = ()) -> int:
    """A comparison of `count` answers; its id."""
    prompt = seed_prompts(db, 1)[-1]
    answers = [make_response(prompt, text) for text in texts or [f"Answer {place}" for place in range(count)]]
    made = comparison_store.add_comparison(db, answers, wanted=count)
    assert made is not None
    return made


def latest_row(db: Database) -> dict[str, Any]:
    return db.one("SELECT * FROM judgement ORDER BY id DESC LIMIT 1")


# ------------------------------------------------------------------------------------------------------------- the card
@pytest.mark.parametrize(("kind", "count"), [("pair", 2), ("best", 3), ("rank", 4), ("rank", 8)])
def test_a_card_shows_the_conversation_and_the_answers_in_the_claims_order(
    db: Database, ann: Ask, kind: Kind, count: int
) -> None:
    set_project(db, kind=kind, answers=count)
    seed_answers(db, count)
    card = ann("card")
    claim = handing_out.held_claim(db, access.authorise(db, "ann", "annotator").id)
    assert claim is not None
    assert card["nonce"] == claim.nonce
    assert card["kind"] == kind
    assert [answer["text"] for answer in card["answers"]] == [f"Answer {position}" for position in claim.shown_order]
    assert {answer["state"] for answer in card["answers"]} == {"done"}
    assert card["messages"] == [{"role": "user", "text": "Say thing number 0 in one sentence."}]
    assert ann("card") == card, "asking again shows the same"


def test_texts_come_rendered_when_the_project_or_the_annotator_wants_it(db: Database, ann: Ask) -> None:
    seed_answers(db, 2, ("*one*\u202e", "two"))
    first = {answer["text"]: answer for answer in ann("card")["answers"]}
    assert first["two"] == {"state": "done", "text": "two"}
    assert first["*one*\u202e"]["visible"] == "*one*⟨U+202E⟩"
    assert "<em>one</em>⟨U+202E⟩" in str(ann("card", rendered=True))
    set_project(db, rendered=True)
    assert all("html" in answer for answer in ann("card", rendered=None)["answers"])
    assert all("html" in message for message in ann("card")["messages"])
    assert not any("html" in answer for answer in ann("card", rendered=False)["answers"])


def test_what_differs_is_marked_when_asked_for_and_only_in_pairs(db: Database, ann: Ask) -> None:
    seed_answers(db, 2, ("Tea is <b>good</b>\u202e.", "Tea is <b>bad</b>\u202e."))
    plain = ann("card")
    assert not any("marked" in answer for answer in plain["answers"])
    shown = {answer["text"]: answer["marked"] for answer in ann("card", differences=True)["answers"]}
    for word in ("good", "bad"):
        assert shown[f"Tea is <b>{word}</b>\u202e."] == f"Tea is &lt;b&gt;<mark>{word}</mark>&lt;/b&gt;⟨U+202E⟩."
    ann("judge", nonce=plain["nonce"], act=act("tie"))
    again = ann("reopen", id=1, differences=True)["answers"]
    assert all("<mark>" in answer["marked"] for answer in again)
    seed_answers(db, 3, ("one", "two", "three"))
    assert not any("marked" in answer for answer in ann("card", differences=True)["answers"])


def test_differences_are_marked_in_what_they_were_asked_for_and_not_in_the_next_comparison(
    db: Database, ann: Ask
) -> None:
    for long in ("", " again" * MOST_WORDS):
        seed_answers(db, 2, (f"Tea is good{long}.", f"Tea is bad{long}."))
    first = ann("card")
    asked = ann("ask", prompt="Why?", nonce=first["nonce"], differences=True)
    assert all("<mark>" in answer["marked"] for answer in asked["answers"])
    cut = [asked["marked_in_part"]]
    second = ann("judge", nonce=first["nonce"], act=act("tie"))
    for endpoint, terms in (("card", {}), ("ask", {"prompt": "And why?"})):
        answer = ann(endpoint, nonce=first["nonce"], differences=True, **terms)
        assert answer["nonce"] == second["nonce"] != first["nonce"]
        assert not any("marked" in answer for answer in answer["answers"])
    cut.append(ann("card", nonce=second["nonce"], differences=True)["marked_in_part"])
    assert sorted(cut) == [False, True], "the page says that of long answers the first parts are compared"


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("Two words.", False),
        ("- a dash at the start of a line", False),
        ("- one\n- two", True),
        ("1. first\n\n2. second", True),
        ("# Heading\nText", True),
        ("#hashtag", False),
        ("It is **strong**.", True),
        ("5 * 3 ** 2 = 45", False),
        ("```python\nprint(1)\n```", True),
        ("Run `make test`.", True),
        ("| a | b |\n|---|---|", True),
        ("\\(x^2\\)", True),
    ],
)
def test_answers_are_first_shown_as_they_are_written(db: Database, ann: Ask, text: str, rendered: bool) -> None:
    seed_answers(db, 2, (text, "plain"))
    card = ann("card")
    assert card["rendered"] is rendered
    assert [("html" in answer) for answer in card["answers"]] == [rendered, rendered]
    assert ann("card", rendered=not rendered)["rendered"] is not rendered
    set_project(db, rendered=not rendered)
    assert ann("card")["rendered"] is not rendered


def test_gold_and_re_asked_comparisons_look_like_any_other(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 40)
    own = ann("card")
    for _ in range(selection.RE_ASK_AFTER + 1):
        ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    db.write("UPDATE comparison SET purpose = 'gold', expected = '[1, 2]' WHERE taken = 0 AND id % 3 = 0")
    seen = set()
    for gold, again in ((1.0, 0.0), (0.0, 1.0)):
        set_project(db, gold_share=gold, re_ask_share=again)
        ann("judge", nonce=ann("card")["nonce"], act=act("tie"))  # drawn before the shares were set
        card = ann("card")
        row = db.one("SELECT purpose FROM claim WHERE nonce = ?", (card["nonce"],))
        seen.add(row["purpose"])
        assert set(card) == set(own)
        assert {key: card[key] for key in ("notice", "trouble", "revising")} == {
            key: own[key] for key in ("notice", "trouble", "revising")
        }
    assert seen == {"gold", "re-ask"}


def test_a_comparison_to_settle_says_so(db: Database, ann: Ask) -> None:
    comparison_id = seed_comparisons(db, 1)[0]
    ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    handing_out.take_to_settle(db, access.add_account(db, "kim", "admin", "a long enough password").id, comparison_id)
    kim = access.authorise(db, "kim", "admin")
    assert "annotators disagree" in api.AnnotationApi(db).card(kim, api.RequestBody())["notice"]


def test_without_a_comparison_the_card_says_what_is_waited_for(db: Database, ann: Ask) -> None:
    card = ann("card")
    assert (card["nonce"], card["trouble"], card["asked"]) == ("", "The model sleeps.", 0)
    assert "answers" not in card
    seed_comparisons(db, 1)
    assert ann("card")["trouble"] == ""


def test_who_is_given_nothing_is_told_who_judges_the_rest(db: Database, person: Callable[[str], Ask]) -> None:
    set_project(db, overlap=2)
    seed_comparisons(db, 1)
    ann = person("ann")
    ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    assert ann("card")["elsewhere"] == "", "there is nobody else"
    bob = person("bob")
    said = "There is nothing more for you to judge; others are still to judge 1 comparison."
    assert (ann("card")["elsewhere"], ann("card")["trouble"]) == (said, "The model sleeps.")
    bob("judge", nonce=bob("card")["nonce"], act=act("tie"))
    assert ann("card")["elsewhere"] == ""


def test_who_has_only_skipped_can_take_it_back(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 1)
    card = ann("card")
    assert card["undo"] is False
    waiting = ann("judge", nonce=card["nonce"], act=act("skip"))
    assert (waiting["nonce"], waiting["progress"]["yours"], waiting["undo"]) == ("", 0, True)
    assert ann("undo", nonce="")["undo"] is False


@pytest.mark.parametrize(("mode", "said"), [("ai", "What takes a person appears here"), ("mixed", "can't label one")])
def test_where_ai_judges_judge_nobody_is_promised_the_next_answers(
    db: Database, ann: Ask, mode: Any, said: str
) -> None:
    project_store.set_feedback(db, Feedback(mode=mode))
    seed_comparisons(db, 1)
    card = ann("card")
    assert (card["nonce"], card["by_judges"]) == ("", True)
    assert said in card["elsewhere"]


def test_progress_counts_today_in_the_annotators_own_day(
    db: Database, person: Callable[[str], Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    midnight = datetime.now(UTC) - timedelta(hours=23)  # not the real one, which may come while this runs
    monkeypatch.setattr(api, "day_start", lambda offset: midnight.isoformat(timespec="microseconds"))
    seed_comparisons(db, 6)
    ann, bob = person("ann"), person("bob")
    for ask, count in ((ann, 3), (bob, 1)):
        for _ in range(count):
            ask("judge", nonce=ask("card")["nonce"], act=act("tie"))
    ann("judge", nonce=ann("card")["nonce"], act=act("skip"))
    yesterday = datetime.now(UTC) - timedelta(hours=25)
    with db.transaction() as connection:
        connection.execute("DROP TRIGGER judgement_no_update")
        for made in ("claim", "judgement"):
            before = (yesterday.isoformat(timespec="microseconds"),)
            connection.execute(f"UPDATE {made} SET created = ? WHERE id = 1", before)
    fresh = api.AnnotationApi(db)
    shown = fresh.card(access.authorise(db, "ann", "annotator"), api.RequestBody(utc_offset_minutes=0))["progress"]
    assert {key: shown[key] for key in ("yours", "everyone")} == {"yours": 3, "everyone": 4}
    assert shown["today"] == 2


def test_the_day_begins_at_the_annotators_midnight() -> None:
    moments = [datetime(2026, 3, 29, hour, minute, tzinfo=UTC) for hour in range(24) for minute in (0, 59)]
    for minutes, now in itertools.product((0, 120, -330, 14 * 60), moments):
        asked = api.RequestBody.of({"utc_offset_minutes": minutes})
        start = datetime.fromisoformat(api.day_start(asked.utc_offset_minutes, now))
        local = start + timedelta(minutes=minutes)
        assert (local.hour, local.minute, local.second) == (0, 0, 0)
        assert timedelta(0) <= now - start < timedelta(hours=24)


# -------------------------------------------------------------------------------------------------------------- judging
def test_tags_note_flag_and_edit_go_along_with_the_verdict(db: Database, ann: Ask) -> None:
    set_project(db, kind="rank", answers=3, tags=(Tag("x", "exact"), Tag("k", "kind")))
    seed_answers(db, 3)
    card = ann("card")
    assert card["tags"] == [
        {"key": key, "label": label, "name": label} for key, label in (("x", "exact"), ("k", "kind"))
    ]
    done = {"outcome": "ranked", "ranks": [2, 1, 2], "tags": ["kind"], "note": " well ", "flag": "broken"}
    answer = ann("judge", nonce=card["nonce"], act={**done, "edit": {"place": 1, "text": "Mended"}})
    assert (answer["saved"], answer["notice"]) == (True, "")
    judgement = next(iter(current_judgements(db)))
    assert judgement.ranking is not None
    best = judgement.responses[judgement.ranking.index(1)]
    assert best.text == card["answers"][1]["text"]
    assert (judgement.tags, judgement.note, judgement.flag) == (("kind",), "well", "broken")
    assert judgement.edited is not None
    assert (judgement.edited.text, judgement.edited.edited_from) == ("Mended", best.id)


@pytest.mark.parametrize(
    "wrong",
    [
        {"outcome": "ranked", "ranks": [1, 2], "strength": 2, "edit": {"place": 1, "text": "Mended"}},
        {"outcome": "ranked", "ranks": [1, 2], "strength": 0},
        {"outcome": "ranked", "ranks": [1, 2, 3], "strength": 1},
        {"outcome": "all-bad", "edit": {"place": 0, "text": "Mended"}},
        {"outcome": "ranked", "ranks": [1, 1], "strength": 0, "tags": ["no such tag"]},
        {"outcome": "tie", "flag": "odd"},
        {"outcome": "all-bad", "flag": "half \ud800"},
        {"outcome": "undone"},
        None,
        [],
    ],
)
def test_an_act_that_does_not_fit_is_not_saved_and_the_comparison_stays(db: Database, ann: Ask, wrong: Any) -> None:
    seed_comparisons(db, 2)
    card = ann("card")
    answer = ann("judge", nonce=card["nonce"], act=wrong)
    assert answer["saved"] is False
    assert answer["notice"]
    assert answer["nonce"] == card["nonce"]
    assert db.value("SELECT count(*) FROM judgement") == 0


@pytest.mark.parametrize(
    "sent",
    [
        {"act": {"outcome": "ranked", "ranks": [0] * 40_000}},
        {"act": {"outcome": "ranked", "tags": [0] * 40_000}},
        {"act": {f"field{number}": 0 for number in range(9_000)}},
        {"act": [[]] * 30_000},
        {f"field{number}": 0 for number in range(9_000)},
    ],
)
def test_a_request_with_more_in_it_than_a_judgement_has_is_refused_before_it_is_looked_at(
    db: Database, ann: Ask, monkeypatch: pytest.MonkeyPatch, sent: Any
) -> None:
    seed_answers(db, 2)
    card = ann("card")
    looked_at: list[Any] = []
    monkeypatch.setattr(api, "whole_characters", looked_at.append)
    refused = ann("judge", **{"nonce": card["nonce"], **sent})
    assert refused == {"status": 400, "error": "This request is no JSON object, or too large."}
    assert looked_at == []


def test_how_deep_something_lies_costs_nothing() -> None:
    deep: Any = []
    for _level in range(100_000):
        deep = [deep]
    assert sum(1 for _value in api.values_in(deep)) == 100_001


def test_what_is_sent_is_read_where_judgements_are_made_and_holds_up_no_other_request(
    db: Database, ann: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    whole = api.whole_characters

    def noted(value: Any) -> Any:
        threads.append(threading.current_thread().name)
        return whole(value)

    monkeypatch.setattr(api, "whole_characters", noted)
    ann("card")
    assert {name.rpartition("_")[0] for name in threads} == {"annotation-api"}


@pytest.mark.parametrize("press", [{"act": act("left-much")}, {}])
def test_where_nothing_can_be_stored_only_admins_are_told_of_a_path(
    db: Database,
    person: Callable[[str], Ask],
    press: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seed_comparisons(db, 4)
    access.add_account(db, "kim", "admin", "a long enough password")
    monkeypatch.setattr("annotation.database.WAIT_SECONDS", 0.0)
    told = {}
    for name in ("kim", "ann"):
        ask = person(name)
        card = ask("judge", nonce=ask("card")["nonce"], act=act("left-much"))
        with closing(Database(db.path)) as other, other.transaction():
            told[name] = ask("judge" if press else "undo", nonce=card["nonce"], **press)
    assert [refused["status"] for refused in told.values()] == [409, 409]
    assert str(db.path) in told["kim"]["error"]
    assert told["ann"]["error"] == "The server can store nothing now. Tell whoever runs it."
    assert str(db.path) in caplog.text


def test_a_judgement_after_the_time_has_run_out_is_not_saved(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 1)
    card = ann("card")
    db.write("UPDATE claim SET expires = '2000-01-01T00:00:00.000000+00:00'")
    answer = ann("judge", nonce=card["nonce"], act=act("tie"))
    assert answer["saved"] is False
    assert "ran out. Nothing was recorded" in answer["notice"]
    assert answer["nonce"] not in ("", card["nonce"])


def let_expire(db: Database, whose: str = "ann") -> None:
    db.write(
        """UPDATE claim SET expires = '2000-01-01T00:00:00.000000+00:00'
           WHERE state = 'held' AND annotator_id = (SELECT id FROM annotator WHERE name = ?)""",
        (whose,),
    )


@pytest.mark.parametrize("press", ["undo", "settle"])
def test_what_gave_way_to_another_comparison_in_another_tab_has_not_run_out(db: Database, ann: Ask, press: str) -> None:
    """By Undo, or by settling the next one."""
    made = seed_comparisons(db, 3)
    ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    shown = ann("card")["nonce"]
    if press == "undo":
        ann("undo", nonce=shown)
    else:
        handing_out.take_to_settle(db, 1, made[0])
    let_expire(db)  # of what was taken up
    for answer in (ann("judge", nonce=shown, act=act("tie")), ann("card", nonce=shown)):
        assert "You have taken up another comparison meanwhile." in answer["notice"]
        assert "ran out" not in answer["notice"]
    assert latest_row(db)["outcome"] == ("undone" if press == "undo" else "ranked")


def test_what_was_only_passed_over_in_a_bulk_change_was_not_taken_up(db: Database, ann: Ask) -> None:
    made = seed_comparisons(db, 2)
    shown = ann("card")["nonce"]
    asked = BulkRequest("skip", ComparisonFilter(ids=tuple(made[1:])))
    bulk_changes.make(db, asked, access.existing(db, "ann").annotator, 1)
    db.write("UPDATE claim SET expires = ? WHERE nonce = ?", (records.now(), shown))
    assert "ran out. Nothing was recorded" in ann("judge", nonce=shown, act=act("tie"))["notice"]


def test_who_comes_back_too_late_is_told_why_another_comparison_is_shown(
    db: Database, person: Callable[[str], Ask]
) -> None:
    seed_comparisons(db, 2)
    ann, bob = person("ann"), person("bob")
    shown = ann("card")["nonce"]
    let_expire(db)
    bob("card")
    later = ann("card", nonce=shown)
    assert (later["nonce"] not in ("", shown), "ran out. Nothing was recorded" in later["notice"]) == (True, True)
    assert ann("card", nonce=later["nonce"])["notice"] == ""
    let_expire(db)
    again = ann("card", nonce=later["nonce"])
    assert "It is yours again" in again["notice"], "nobody else has taken it"
    assert again["messages"] == later["messages"]


def test_what_was_taken_up_to_settle_is_still_said(db: Database, ann: Ask) -> None:
    made = seed_comparisons(db, 2)
    ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    shown = ann("card")["nonce"]
    handing_out.take_to_settle(db, 1, made[0])
    told = ann("card", nonce=shown)["notice"]
    assert "another comparison meanwhile" in told, "an admin may have taken it up in the same tab"
    assert "To settle" in told


# ------------------------------------------------------------------------------------------------ what is called saved
LEFT = {"outcome": "ranked", "ranks": [1, 2], "strength": 3, "tags": ["accurate", "clear"], "note": "first"}
PARTS = ("outcome", "ranks", "strength", "tags", "note", "flag", "edit")


def says(answer: Card) -> dict[str, Any]:
    """What an answer says that stands."""
    return {key: answer["judged"].get(key) for key in PARTS}


def rows(db: Database) -> list[dict[str, Any]]:
    return db.rows("SELECT * FROM judgement ORDER BY id")


OTHERS: dict[str, Any] = {
    "the other side": {**LEFT, "ranks": [2, 1]},
    "another strength": {**LEFT, "strength": 1},
    "a tie": {**LEFT, "ranks": [1, 1], "strength": 0},
    "both bad": {"outcome": "all-bad"},
    "a skip": {"outcome": "skip"},
    "another note": {**LEFT, "note": "second"},
    "fewer reasons": {**LEFT, "tags": ["accurate"]},
    "a flag": {**LEFT, "flag": "harmful"},
    "an edit": {**LEFT, "edit": {"place": 0, "text": "Mended"}},
    "no judgement": {"outcome": "undone"},
    "nothing": None,
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_second_judgement_that_says_something_else_is_not_called_saved(db: Database, ann: Ask, other: Any) -> None:
    seed_comparisons(db, 2)
    nonce = ann("card")["nonce"]
    first = ann("judge", nonce=nonce, act=LEFT)
    assert (first["saved"], says(first)) == (True, {**LEFT, "flag": None, "edit": None})
    second = ann("judge", nonce=nonce, act=other)
    assert second["saved"] is False
    assert "already" in second["notice"]
    assert second["judged"] == first["judged"], "what stands is told from its row"
    assert second["nonce"] == first["nonce"], "and the comparison in hand is shown"
    assert len(rows(db)) == 1
    if other is not None and other["outcome"] != "undone":
        changed = ann("revise", id=second["judged"]["id"], act=other)
        assert changed["saved"] is True
        assert says(changed) == {**dict.fromkeys(PARTS), "tags": [], "note": "", **other}
        assert [row["supersedes"] for row in rows(db)] == [None, first["judged"]["id"]]


def test_the_same_request_again_is_saved_whatever_the_project_asks_by_now(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 2)
    nonce = ann("card")["nonce"]
    sent = {**LEFT, "note": " first ", "tags": ["clear", "accurate"], "edit": {"place": 0, "text": " Mended "}}
    first = ann("judge", nonce=nonce, act=sent)
    set_project(db, kind="rank", answers=3, tags=(Tag("x", "exact"),))
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET state = 'dropped'")
        connection.execute("UPDATE claim SET expires = '2000-01-01T00:00:00.000000+00:00'")
    again = ann("judge", nonce=nonce, act=sent)
    assert (again["saved"], again["judged"]) == (True, first["judged"])
    assert len(rows(db)) == 1


@pytest.mark.parametrize(("kind", "count"), [("best", 3), ("best", 8), ("rank", 3), ("rank", 8)])
def test_rankings_are_told_as_they_were_shown(db: Database, ann: Ask, kind: Kind, count: int) -> None:
    set_project(db, kind=kind, answers=count)
    for _ in range(2):
        seed_answers(db, count)
    nonce = ann("card")["nonce"]
    best = {"outcome": "ranked", "ranks": [2] * (count - 1) + [1], "edit": {"place": count - 1, "text": "Mended"}}
    first = ann("judge", nonce=nonce, act=best)
    assert (first["judged"]["ranks"], first["judged"]["edit"]) == (best["ranks"], best["edit"])
    assert (first["judged"]["kind"], first["judged"]["size"]) == (kind, count)
    other = ann("judge", nonce=nonce, act={"outcome": "ranked", "ranks": [1] + [2] * (count - 1)})
    assert (other["saved"], other["judged"]) == (False, first["judged"])
    assert ann("judge", nonce=nonce, act={**best, "ranks": [7] * (count - 1) + [3]})["saved"] is True, "the same ranks"


def test_a_late_retry_after_a_change_does_not_claim_to_stand(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 2)
    nonce = ann("card")["nonce"]
    first = ann("judge", nonce=nonce, act=LEFT)
    changed = ann("revise", id=first["judged"]["id"], act=act("right-much"))
    late = ann("judge", nonce=nonce, act=LEFT)
    assert (late["saved"], late["judged"]) == (False, changed["judged"])
    assert ann("judge", nonce=nonce, act=act("right-much"))["saved"] is True, "this stands"
    back = ann("revise", id=changed["judged"]["id"], act=LEFT)
    assert ann("judge", nonce=nonce, act=LEFT)["judged"] == back["judged"]
    assert len(rows(db)) == 3


def test_two_tabs_change_the_same_judgement(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 2)
    first = ann("judge", nonce=ann("card")["nonce"], act=LEFT)["judged"]["id"]
    one = ann("revise", id=first, act=act("right-much"))
    assert ann("revise", id=first, act=act("right-much"))["judged"] == one["judged"], "the same again"
    two = ann("revise", id=first, act=act("tie"))
    assert (two["saved"], two["judged"]) == (False, one["judged"])
    assert len(rows(db)) == 2
    assert ann("revise", id=two["judged"]["id"], act=act("tie"))["saved"] is True


def test_what_was_taken_back_does_not_stand_until_it_is_judged_again(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 2)
    nonce = ann("card")["nonce"]
    following = ann("judge", nonce=nonce, act=LEFT)
    shown = ann("undo", nonce=following["nonce"])
    assert shown["undone"] == following["judged"]
    late = ann("judge", nonce=nonce, act=LEFT)
    assert (late["saved"], late.get("judged")) == (False, None)
    assert "took this judgement back" in late["notice"]
    assert "taken back" in ann("revise", id=following["judged"]["id"], act=LEFT)["error"]
    again = ann("judge", nonce=shown["nonce"], act=act("tie"))
    for refused in (ann("judge", nonce=nonce, act=LEFT), ann("revise", id=following["judged"]["id"], act=LEFT)):
        assert (refused["saved"], refused["judged"]) == (False, again["judged"])


def test_a_judgement_on_an_expired_hand_out_meets_the_one_of_the_next(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 1)
    old = ann("card")["nonce"]
    db.write("UPDATE claim SET expires = '2000-01-01T00:00:00.000000+00:00'")
    stands = ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    late = ann("judge", nonce=old, act=act("left-much"))
    assert (late["saved"], late["judged"]) == (False, stands["judged"])


@pytest.fixture
def turned(db: Database, ann: Ask) -> str:
    """The nonce of a hand-out whose time ran out: its answers were shown the other way round the next time."""
    seed_comparisons(db, 1)
    old, new = "", ""
    for order in ("[0, 1]", "[1, 0]"):
        db.write("UPDATE claim SET expires = '2000-01-01T00:00:00.000000+00:00'")
        old, new = new, ann("card")["nonce"]
        db.write("UPDATE claim SET shown_order = ? WHERE nonce = ?", (order, new))
    assert ann("judge", nonce=new, act={**act("left-much"), "edit": {"place": 0, "text": "Mended"}})["saved"]
    return old


def rankings(db: Database) -> list[Any]:
    return [None if row["ranking"] is None else json.loads(row["ranking"]) for row in rows(db)]


def test_a_late_judgement_of_answers_that_changed_places_since_is_compared_by_the_answers(
    db: Database, ann: Ask, turned: str
) -> None:
    assert rankings(db) == [[2, 1]]
    late = ann("judge", nonce=turned, act={**act("left-much"), "edit": {"place": 0, "text": "Mended"}})
    assert late["saved"] is False, "the left one was another answer"
    assert (late["judged"]["ranks"], late["judged"]["edit"]["place"]) == ([2, 1], 1), "told as that page shows them"
    assert ann("card", nonce=turned)["judged"] == late["judged"]
    same = ann("judge", nonce=turned, act={**act("right-much"), "edit": {"place": 1, "text": "Mended"}})
    assert (same["saved"], same["judged"]) == (True, late["judged"])
    assert rankings(db) == [[2, 1]]


def test_the_offer_to_change_it_means_the_answers_that_the_page_shows(db: Database, ann: Ask, turned: str) -> None:
    done = {**act("left-much"), "edit": {"place": 0, "text": "Mine"}}
    stands = ann("judge", nonce=turned, act=done)["judged"]["id"]
    for _ in range(2):
        changed = ann("revise", id=stands, act=done, nonce=turned)
        assert (changed["saved"], changed["judged"]["ranks"], changed["judged"]["edit"]) == (True, [1, 2], done["edit"])
    assert rankings(db) == [[2, 1], [1, 2]]
    edited = db.row("SELECT * FROM response WHERE text = 'Mine'")
    first = db.value("SELECT response_id FROM comparison_response WHERE position = 0")
    assert edited is not None
    assert edited["edited_from"] == first
    assert ann("reopen", id=changed["judged"]["id"])["revising"]["act"]["ranks"] == [2, 1], "as it was shown last"
    assert "error" in ann("revise", id=changed["judged"]["id"], act=done, nonce="made up")
    assert len(rows(db)) == 2


def test_a_skip_stands_like_a_verdict(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 2)
    nonce = ann("card")["nonce"]
    skipped = ann("judge", nonce=nonce, act=act("skip"))
    assert skipped["judged"]["outcome"] == "skip"
    assert ann("judge", nonce=nonce, act=act("skip"))["saved"] is True
    other = ann("judge", nonce=nonce, act=act("tie"))
    assert (other["saved"], other["judged"]) == (False, skipped["judged"])


def test_a_page_that_shows_what_is_judged_meanwhile_is_told_what_stands(
    db: Database, person: Callable[[str], Ask]
) -> None:
    seed_comparisons(db, 3)
    ann, bob = person("ann"), person("bob")
    nonce = ann("card")["nonce"]
    assert "judged" not in ann("card", nonce=nonce)
    stands = ann("judge", nonce=nonce, act=LEFT)["judged"]
    assert ann("card", nonce=nonce)["judged"] == stands
    assert bob("card", nonce=nonce)["judged"] is None, "it is told to nobody else"
    assert ann("card", nonce="made up")["judged"] is None


def test_a_re_ask_does_not_stand_for_the_first_time(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 40)
    for _ in range(selection.RE_ASK_AFTER + 1):
        ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    set_project(db, gold_share=0.0, re_ask_share=1.0)
    ann("judge", nonce=ann("card")["nonce"], act=act("tie"))  # drawn before the shares were set
    nonce = ann("card")["nonce"]
    again = ann("judge", nonce=nonce, act=LEFT)
    assert (again["saved"], says(again)) == (True, {**LEFT, "flag": None, "edit": None})
    first = db.value("SELECT re_ask_of FROM judgement WHERE id = ?", (again["judged"]["id"],))
    asked = db.value("SELECT k.nonce FROM claim k JOIN judgement j ON j.claim_id = k.id WHERE j.id = ?", (first,))
    late = ann("judge", nonce=asked, act=LEFT)
    assert (late["saved"], late["judged"]["id"]) == (False, first)


NUMBERS = (2**63, 2**63 - 1, 2**64, 10**400, -1, 0, -(2**63), -(2**70), 1.5, 1e308, float("inf"), float("nan"))


@pytest.mark.parametrize("number", NUMBERS, ids=map(str, range(len(NUMBERS))))
def test_numbers_that_no_row_has_are_refused_in_words(db: Database, ann: Ask, number: Any) -> None:
    seed_comparisons(db, 1)
    nonce = ann("card")["nonce"]
    for endpoint in ("reopen", "revise"):
        refused = ann(endpoint, id=number, act=act("tie"))
        assert refused["status"] == 409
        assert refused["error"]
    assert "'rendered' must be of type bool" in ann("card", rendered=number)["error"]
    if number not in (-1, 0):
        assert "'utc_offset_minutes' must be a whole number" in ann("card", utc_offset_minutes=number)["error"]
    for wrong in (
        {"outcome": "ranked", "ranks": [number, number], "strength": number},
        {"outcome": "ranked", "ranks": [1, 2], "strength": 1, "edit": {"place": number or 2, "text": "x"}},
    ):
        assert ann("judge", nonce=nonce, act=wrong)["saved"] is False
    assert rows(db) == []


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"prompt": None}, "The request's 'prompt' must be of type str. Reload the page."),
        ({"nonce": ["x"]}, "The request's 'nonce' must be of type str, not ['x']. Reload the page."),
        ({"rendered": "yes"}, "The request's 'rendered' must be of type bool, not 'yes'. Reload the page."),
        ({"tags": []}, "There is no field 'tags'. The request has these fields: nonce, id, act, prompt, rendered, "),
        ({"half\ud83d": 1}, "There is no field 'half\ufffd'."),
    ],
)
def test_a_request_with_a_field_that_is_wrong_or_unknown_is_refused_by_every_endpoint(
    db: Database, ann: Ask, sent: dict[str, Any], sentence: str
) -> None:
    seed_comparisons(db, 1)
    terms = {"nonce": ann("card")["nonce"], "act": act("tie"), **sent}
    for name in ("card", "judge", "undo", "revise", "reopen", "ask", "latest", "guidelines", "safety"):
        refused = ann(name, **terms)
        assert refused["status"] == 409
        assert refused["error"].startswith(sentence)
    assert rows(db) == []


# ----------------------------------------------------------------------------------------- answers while being written
def begin(db: Database) -> tuple[int, list[int]]:
    """A comparison whose answers are being written."""
    prompt = seed_prompts(db, 1)[-1]
    return comparison_store.begin_answers(db, [make_response(prompt, "Once", seed=seed) for seed in range(2)])


def test_growing_answers_are_shown_and_are_judged_when_they_have_ended(db: Database, ann: Ask) -> None:
    comparison_id, (first, second) = begin(db)
    card = ann("card")
    assert [(answer["text"], answer["state"]) for answer in card["answers"]] == [("Once", "writing")] * 2
    comparison_store.update_answers(db, {first: "Once upon", second: "Once more"})
    grown = ann("card", nonce=card["nonce"])
    assert grown["nonce"] == card["nonce"]
    assert {answer["text"] for answer in grown["answers"]} == {"Once upon", "Once more"}
    refused = ann("judge", nonce=card["nonce"], act=act("left-much"))
    assert (refused["saved"], refused["nonce"]) == (False, card["nonce"])
    assert "still being written" in refused["notice"]
    prompt = prompt_store.prompts(db, "train")[-1]
    ends = {first: make_response(prompt, "Once upon a time"), second: make_response(prompt, "Once more")}
    comparison_store.finish_answers(db, comparison_id, ends)
    assert ann("judge", nonce=card["nonce"], act=act("left-much"))["saved"]


def test_an_answer_that_failed_can_not_be_judged_and_the_page_is_told_why_it_is_gone(db: Database, ann: Ask) -> None:
    comparison_id, _ = begin(db)
    card = ann("card")
    comparison_store.fail_answers(db, comparison_id)
    gone = ann("card", nonce=card["nonce"])
    assert gone["nonce"] == ""
    assert "could not be written to its end" in gone["notice"]
    answer = ann("judge", nonce=card["nonce"], act=act("left-much"))
    assert answer["saved"] is False
    assert "could not be written to its end" in answer["notice"]
    assert db.value("SELECT count(*) FROM judgement") == 0
    assert ann("card")["notice"] == "", "it is said once, to the page that showed it"


def test_one_failed_answer_leaves_only_the_skip(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 1)
    card = ann("card")
    db.write("UPDATE response SET state = 'failed' WHERE id = 1")
    assert sorted(answer["state"] for answer in ann("card")["answers"]) == ["done", "failed"]
    assert ann("judge", nonce=card["nonce"], act=act("tie"))["saved"] is False
    assert ann("judge", nonce=card["nonce"], act=act("skip"))["saved"] is True


# ---------------------------------------------------------------------------------------------------- own judgements
def test_a_change_supersedes_and_the_list_shows_what_holds(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 3)
    shown = ann("card")
    edit = {"place": 0, "text": "Mended"}
    ann("judge", nonce=shown["nonce"], act=act("left-much", tags=["clear"], note="fine", flag="harmful", edit=edit))
    in_hand = ann("card")["nonce"]
    (listed,) = ann("latest")["judgements"]
    assert listed["prompt"] == shown["messages"][0]["text"]
    assert (listed["outcome"], listed["ranks"], listed["strength"], listed["size"]) == ("ranked", [1, 2], 3, 2)
    assert (listed["tags"], listed["note"], listed["flag"]) == (["clear"], "fine", "harmful")
    assert (listed["edited"], listed["changed"]) == ("Mended", 0)
    assert listed["made"] == latest_row(db)["created"][:16].replace("T", " "), "UTC, as admins read it"

    again = ann("reopen", id=listed["id"])
    assert again["nonce"] == ""
    assert again["answers"] == shown["answers"]
    assert again["revising"]["id"] == listed["id"]
    assert again["revising"]["act"]["ranks"] == [1, 2]
    assert again["revising"]["act"]["edit"] == edit
    answer = ann("revise", id=listed["id"], act=act("right-slightly", note="after all"))
    assert answer["nonce"] == in_hand, "the comparison in hand is still there"
    assert answer["saved"] is True
    (listed_now,) = ann("latest")["judgements"]
    assert (listed_now["ranks"], listed_now["strength"], listed_now["note"]) == ([2, 1], 1, "after all")
    assert (listed_now["edited"], listed_now["changed"]) == (None, 1)
    assert latest_row(db)["supersedes"] == listed["id"]
    assert db.value("SELECT count(*) FROM judgement") == 2

    refused = ann("revise", id=listed["id"], act=act("tie"))
    assert refused["saved"] is False
    assert says(refused) == says({"judged": {**listed_now, "edit": None}})
    assert db.value("SELECT count(*) FROM judgement") == 2


def test_earlier_judgements_are_listed_by_the_last_one_that_is_shown(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 52)
    for _ in range(52):
        ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    shown = [one["id"] for one in ann("latest")["judgements"]]
    earlier = [one["id"] for one in ann("latest", id=shown[-1])["judgements"]]
    assert (len(shown), len(earlier)) == (50, 2)
    assert sorted(shown + earlier, reverse=True) == shown + earlier
    assert ann("latest", id=earlier[-1])["judgements"] == []


def test_an_undone_judgement_leaves_the_list_and_is_in_hand_again(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 2)
    first = ann("card")
    following = ann("judge", nonce=first["nonce"], act=act("tie"))
    undone = ann("undo", nonce=following["nonce"])
    assert undone["answers"] == first["answers"]
    assert "Undone" in undone["notice"]
    assert ann("latest")["judgements"] == []


def test_an_undo_says_what_had_been_done_and_a_refused_one_does_not(db: Database, ann: Ask) -> None:
    set_project(db, kind="rank", answers=3)
    for _ in range(3):
        seed_answers(db, 3)
    before = ann("card")
    assert "undone" not in ann("undo", nonce=before["nonce"]), "there is nothing to undo"
    edit = {"place": 2, "text": "Mended"}
    sent = {"outcome": "ranked", "ranks": [2, 1, 1], "tags": ["clear"], "note": "why", "flag": "broken", "edit": edit}
    second = ann("judge", nonce=before["nonce"], act=sent)
    third = ann("judge", nonce=second["nonce"], act={"outcome": "skip"})
    assert third["saved"] is True
    skipped = ann("undo", nonce=third["nonce"])
    assert skipped["undone"]["outcome"] == "skip"
    undone = ann("undo", nonce=skipped["nonce"])
    told = undone["undone"]
    assert told == {**sent, "strength": None, "id": told["id"], "kind": "rank", "size": 3}
    assert undone["answers"] == before["answers"]
    again = ann("undo", nonce=skipped["nonce"])
    assert "undone" not in again, "a repeated request undoes nothing more"
    assert again["nonce"] == undone["nonce"]


def test_a_refused_undo_of_a_skip_says_nothing_of_it(db: Database, person: Callable[[str], Ask]) -> None:
    ann, bob = person("ann"), person("bob")
    seed_comparisons(db, 1)
    waiting = ann("judge", nonce=ann("card")["nonce"], act=act("skip"))
    bob("judge", nonce=bob("card")["nonce"], act=act("tie"))
    refused = ann("undo", nonce=waiting["nonce"])
    assert "your skip stays" in refused["notice"]
    assert "undone" not in refused


def test_nobody_opens_or_changes_the_judgements_of_others(db: Database, person: Callable[[str], Ask]) -> None:
    seed_comparisons(db, 2)
    ann, bob = person("ann"), person("bob")
    ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    number = latest_row(db)["id"]
    assert bob("reopen", id=number)["status"] == 409
    assert bob("revise", id=number, act=act("left-much"))["status"] == 409
    assert bob("latest") == {"judgements": [], "agreement": None}
    for wrong in (None, "1", True, 1.5, [1]):
        assert "Reload the page" in ann("reopen", id=wrong)["error"]


def test_the_list_holds_the_last_fifty_with_prompts_in_short(db: Database, ann: Ask) -> None:
    long = Prompt(({"role": "user", "content": "long\u202e " * 400},), "train", "test")
    prompt_store.add_prompts(db, [long])
    prompt = prompt_store.prompts(db, "train")[-1]
    for number in range(52):
        comparison_store.add_comparison(db, [make_response(prompt, f"{number} {place}") for place in "AB"])
        ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    listed = ann("latest")["judgements"]
    assert [row["id"] for row in listed] == list(range(52, 2, -1))
    assert listed[0]["prompt"].startswith("long⟨U+202E⟩ ")
    assert len(listed[0]["prompt"]) < 310


# --------------------------------------------------------------------------------------------- own prompts, guidelines
def test_an_own_prompt_is_answered_and_shown_to_who_asked_it_first(db: Database, person: Callable[[str], Ask]) -> None:
    seed_comparisons(db, 3)
    ann, bob = person("ann"), person("bob")
    held = ann("card")["nonce"]
    asked = ann("ask", prompt="  What is love?  ")
    assert (asked["nonce"], asked["asked"]) == (held, 1)
    assert bob("card")["asked"] == 0
    ((comparison_id, prompt),) = own_prompts.asked(db)
    assert prompt.text == "What is love?"
    comparison_store.begin_answers(db, [make_response(prompt, "Love", seed=seed) for seed in range(2)], comparison_id)
    shown = ann("judge", nonce=held, act=act("tie"))
    assert shown["messages"][-1]["text"] == "What is love?"
    assert shown["asked"] == 0


def test_too_many_own_prompts_are_refused_in_words(db: Database, ann: Ask) -> None:
    waiting = [ann("ask", prompt=f"Question {number}?") for number in range(own_prompts.MOST_UNANSWERED)]
    assert [card["asked"] for card in waiting] == [1, 2, 3]
    refused = ann("ask", prompt="One more?")
    assert (refused["status"], refused["error"][:18]) == (409, "3 of your prompts ")
    assert ann("ask", prompt="Question 0?")["asked"] == own_prompts.MOST_UNANSWERED, "the same request again"


def test_who_asks_is_told_when_it_is_answered_and_not_that_it_is_next_where_it_is_not(db: Database) -> None:
    endpoint, sleeping = api.AnnotationApi(db), api.AnnotationApi(db, lambda: "The model sleeps.")
    ann, bob = (access.add_account(db, name, "annotator", "a long enough password") for name in ("ann", "bob"))

    def ask(here: api.AnnotationApi, who: Annotator, text: str) -> str:
        return str(here.ask(who, api.RequestBody(prompt=text))["notice"])

    assert ask(endpoint, ann, "One?") == "Your prompt is answered next."
    assert ask(endpoint, bob, "Two?") == "Your prompt is answered after 1 other that was asked before."
    assert ask(endpoint, bob, "Three?") == "Your prompt is answered after 2 others that were asked before."
    comparison_id, prompt = own_prompts.asked(db)[0]
    comparison_store.begin_answers(db, [make_response(prompt, "1", seed=seed) for seed in range(2)], comparison_id)
    assert ask(endpoint, ann, "One?") == "Your prompt is being answered."
    assert ask(sleeping, bob, "Two?") == "Your prompt waits for its answers. The model sleeps."
    comparison_id, prompt = own_prompts.asked(db)[1]
    comparison_store.begin_answers(db, [make_response(prompt, "1", seed=seed) for seed in range(2)], comparison_id)
    db.write("UPDATE comparison SET state = 'ready' WHERE id = ?", (comparison_id,))
    assert ask(sleeping, bob, "Three?") == "Your prompt is answered."


def test_the_days_target_is_no_more_than_what_is_left_of_a_quota(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 3)
    assert ann("card")["progress"]["target"] == 30
    db.write("UPDATE annotator SET quota = 2 WHERE name = 'ann'")
    card = ann("card")
    assert card["progress"]["target"] == 2
    card = ann("judge", nonce=card["nonce"], act=act("tie"))
    assert (card["progress"]["today"], card["progress"]["target"]) == (1, 2)
    db.write("UPDATE annotator SET quota = 40 WHERE name = 'ann'")
    assert ann("card")["progress"]["target"] == 30
    project_store.set_project(db, replace(project_store.project(db), daily_target=0))
    assert ann("card")["progress"]["target"] == 0, "none was set"


def test_who_would_not_be_given_the_answers_asks_for_none(db: Database, ann: Ask) -> None:
    seed_comparisons(db, 2)
    ann("judge", nonce=ann("card")["nonce"], act=act("tie"))
    db.write("UPDATE annotator SET quota = 1 WHERE name = 'ann'")
    refused = ann("ask", prompt="What is love?")
    assert refused["status"] == 409
    assert refused["error"] == "You have judged all that you were asked for, so its answers would not reach you."
    assert own_prompts.asked(db) == []


def test_who_asked_is_told_when_a_prompt_came_to_nothing(db: Database, person: Callable[[str], Ask]) -> None:
    ann, bob = person("ann"), person("bob")
    ann("ask", prompt="Too long?")
    ((comparison_id, _),) = own_prompts.asked(db)
    assert ann("card")["unanswered"] == ""
    own_prompts.refuse_asked(db, comparison_id)
    assert "the model can't take it" in ann("card")["unanswered"]
    assert "Write it in another way" in ann("card")["unanswered"]
    assert bob("card")["unanswered"] == ""
    assert ann("ask", prompt="What is love?")["unanswered"] == "", "something newer is asked"

    ((comparison_id, prompt),) = own_prompts.asked(db)
    responses = [make_response(prompt, "Love", seed=seed) for seed in range(2)]
    _, ids = comparison_store.begin_answers(db, responses, comparison_id)
    assert ann("card")["unanswered"] == ""
    assert comparison_store.finish_answers(db, comparison_id, dict(zip(ids, responses, strict=True))) == "dropped"
    assert "came out the same" in ann("card")["unanswered"]
    again = own_prompts.ask_again(db, comparison_id)
    assert ann("card")["unanswered"] == "", "it is drawn once more"
    comparison_store.begin_answers(db, responses, again)
    comparison_store.fail_answers(db, again)
    assert "Ask it again" in ann("card")["unanswered"]

    set_project(db, own_prompts=False)
    assert ann("card")["unanswered"] == ""
    set_project(db, own_prompts=True)
    old = datetime.now(UTC) - timedelta(minutes=own_prompts.UNANSWERED_MINUTES + 1)
    db.write("UPDATE comparison SET created = ?", (old.isoformat(timespec="microseconds"),))
    assert ann("card")["unanswered"] == ""


def test_without_a_look_at_the_workers_no_trouble_is_known(db: Database) -> None:
    ann = access.add_account(db, "ann", "annotator", "a long enough password")
    card = api.AnnotationApi(db).card(ann, api.RequestBody())
    assert (card["trouble"], card["me"]) == ("", "ann")


def test_prompts_that_are_empty_too_long_or_not_wanted_are_refused(db: Database, ann: Ask) -> None:
    for wrong in ("", "   ", "x" * (api.MAXIMUM_PROMPT + 1)):
        refused = ann("ask", prompt=wrong)
        assert refused["status"] == 409
        assert "1 to 4,000 characters" in refused["error"]
    set_project(db, own_prompts=False)
    assert ann("card")["own_prompts"] is False
    assert "takes no prompts" in ann("ask", prompt="Hello?")["error"]
    assert own_prompts.asked(db) == []


def test_guidelines_come_rendered_with_their_version(db: Database, ann: Ask) -> None:
    assert ann("guidelines") == {"version": 0, "follow": "", "html": ""}
    project_store.write_guidelines(db, "Be **fair**. <script>alert(1)</script>", "owner")
    card = ann("card")
    assert (card["guidelines_version"], card["guidelines_follow"]) == (1, "")
    page = ann("guidelines")
    assert page["version"] == 1
    assert "<strong>fair</strong>" in page["html"]
    assert "<script" not in page["html"]


def test_untouched_guidelines_come_in_the_language_of_the_account(db: Database, ann: Ask) -> None:
    project_store.write_guidelines(db, project.FIRST_GUIDELINES, "Prefloop")
    assert "Read the prompt, then every answer to its end." in ann("guidelines")["html"]
    access.set_language(db, "ann", "de")
    assert "Lies den Prompt, dann jede Antwort bis zum Ende." in ann("guidelines")["html"]
    project_store.set_project(db, Project(kind="best", answers=4))
    assert "Wähle die beste Antwort" in ann("guidelines")["html"]
    project_store.write_guidelines(db, "Read both.", "owner")
    assert "Read both." in ann("guidelines")["html"]


async def ask_endpoint(serve: Callable[[Annotator, api.RequestBody], dict[str, Any]], annotator: Annotator) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    assert (await api.endpoint(serve)(Request({**scope, ANNOTATOR_KEY: annotator}, receive))).status_code == 200


def test_many_requests_of_one_account_keep_nobody_else_waiting(db: Database) -> None:
    people = [access.add_account(db, name, "annotator", "a long enough password") for name in ("ann", "bob")]
    served: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def serve(annotator: Annotator, asked: api.RequestBody) -> dict[str, Any]:
        begun.set()
        assert go_on.wait(PATIENCE_SECONDS)
        served.append(annotator.name)
        return {}

    async def ask_all() -> None:
        asked = [asyncio.create_task(ask_endpoint(serve, person)) for person in (*[people[0]] * 20, people[1])]
        await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
        go_on.set()
        await asyncio.gather(*asked)

    asyncio.run(ask_all())
    assert len(served) == 21
    assert served.index("bob") <= 2


def test_what_one_account_asks_for_is_rendered_one_after_the_other(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts that take long would keep all that renders busy."""
    ann = access.add_account(db, "ann", "annotator", "a long enough password")
    read, under_way, beside = itertools.count(1), list[str](), list[int]()
    all_read = threading.Event()

    def serve(annotator: Annotator, asked: api.RequestBody) -> dict[str, Any]:
        if next(read) == 20:
            all_read.set()
        return {"html": api.MarkdownSource("slow")}

    def to_html(text: str) -> str:
        under_way.append(text)
        beside.append(len(under_way))
        assert all_read.wait(PATIENCE_SECONDS)
        return under_way.pop()

    async def ask_all() -> None:
        await asyncio.gather(*(ask_endpoint(serve, ann) for _ in range(20)))

    monkeypatch.setattr(markdown_process, "to_html", to_html)
    asyncio.run(ask_all())
    assert beside == [1] * 20
