"""Filters as text and as rows: each field, every status, words in any script, and what means nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.claims import changing, handing_out, judging
from annotation.database import Database, open_database
from annotation.exports import writing
from annotation.exports.formats import ExportRequest, Filters
from annotation.metrics import quality
from annotation.records import Prompt, UserError
from annotation.store import comparison_store, policy_comparisons, project_store, prompt_store, setting_store
from annotation.web import access
from annotation.workbench import bulk_changes, exclusions
from annotation.workbench.bulk_changes import BulkRequest
from annotation.workbench.comparison_filter import SAID, SPLITS, STATUSES, ComparisonFilter
from annotation.workbench.comparison_list import SORTS, choices, list_page, matching
from annotation.workbench.word_index import INDEXED
from tests.conftest import act, make_response, seed_comparisons, seed_prompts

NAMES = st.lists(st.text(min_size=1, max_size=9), max_size=3, unique=True).map(tuple)


@given(
    person=NAMES,
    source=NAMES,
    q=st.text(max_size=20),
    ids=st.lists(st.integers(1, 10**9), max_size=4, unique=True).map(tuple),
    status=st.lists(st.sampled_from(list(STATUSES)), max_size=3, unique=True).map(tuple),
)
def test_a_filter_is_read_as_it_was_written(
    person: tuple[str, ...], source: tuple[str, ...], q: str, ids: tuple[int, ...], status: tuple[str, ...]
) -> None:
    written = ComparisonFilter(person=person, source=source, q=q.strip(), ids=ids, status=status)
    assert ComparisonFilter.of(written.text) == written
    assert ComparisonFilter.of_query(written.query) == written


# What is left of an empty one would mean all.
EMPTY = ("status=", "status=,", "ids=", "q=+", "since=", "&", "?&&")
MEANINGLESS = ("status=great", "said=hello", "since=yesterday", "ids=1;2", "ids=-1", "colour=red", "split=test")


@pytest.mark.parametrize("text", [*MEANINGLESS, *EMPTY, f"q={'a' * 999}"])
def test_what_means_nothing_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError):
        ComparisonFilter.of(text)


def found(db: Database, text: str) -> list[int]:
    """What a filter finds, oldest first; the table and the set agree."""
    wanted = ComparisonFilter.of(text)
    page = list_page(db, wanted, "oldest")
    ids = [row.id for row in page.rows]
    assert (page.total, set(ids)) == (len(ids), matching(db, wanted))
    return ids


def judge_next(db: Database, annotator: int, word: str, **extras: object) -> int:
    claim = handing_out.claim_next(db, annotator)
    assert claim is not None
    judging.judge(db, annotator, claim.nonce, act(word, **extras))
    return claim.comparison_id


def test_every_status_is_found_by_its_filter_and_shown_in_its_row(db: Database) -> None:
    project_store.set_project(db, replace(project_store.project(db), overlap=2))
    ann, bob = (access.add_account(db, name, "admin", "long enough words").id for name in ("ann", "bob"))
    ids = seed_comparisons(db, 12)
    agreed = judge_next(db, ann, "left-clearly")
    with db.transaction() as connection:  # the same answer best for both, whichever side it was on
        connection.execute("UPDATE claim SET shown_order = '[0, 1]'")
        connection.execute("UPDATE comparison SET state = 'writing' WHERE id = ?", (ids[10],))
        connection.execute("UPDATE comparison SET state = 'failed' WHERE id = ?", (ids[9],))
        connection.execute("UPDATE comparison SET state = 'withdrawn', asks = 'nobody' WHERE id = ?", (ids[8],))
        connection.execute("UPDATE comparison SET asks = 'judges' WHERE id = ?", (ids[7],))
        connection.execute("UPDATE comparison SET asks = 'nobody' WHERE id = ?", (ids[6],))
        connection.execute("UPDATE comparison SET purpose = 'gold', expected = '[1, 2]' WHERE id = ?", (ids[5],))
    assert agreed == ids[0]
    held = handing_out.claim_next(db, bob)
    assert held is not None
    assert held.comparison_id == ids[0]
    statuses = {row.id: row.status for row in list_page(db, ComparisonFilter(), "oldest").rows}
    assert statuses == {
        ids[0]: "in-hand", ids[1]: "open", ids[2]: "open", ids[3]: "open", ids[4]: "open", ids[5]: "gold",
        ids[6]: "unasked", ids[7]: "judges", ids[8]: "withdrawn", ids[9]: "unfit", ids[10]: "writing", ids[11]: "open",
    }  # fmt: skip
    for status in STATUSES:
        assert found(db, f"status={status}") == [one for one in ids if statuses[one] == status]
    assert found(db, "status=gold,writing") == [ids[5], ids[10]]


def test_a_candidates_comparison_that_is_skipped_for_good_is_asked_of_nobody(db: Database) -> None:
    ann = access.add_account(db, "ann", "admin", "long enough words")
    ids = seed_comparisons(db, 2)
    skipped = judge_next(db, ann.id, "skip")
    assert found(db, "status=open") == ids
    db.write("UPDATE comparison SET candidate_id = 1, people_chance = 0.5, people_drawn = 1")
    assert found(db, "status=unasked") == [skipped]
    assert found(db, "status=open") == [one for one in ids if one != skipped]


def test_what_is_withdrawn_after_a_change_of_thinking_is_so_in_the_list_and_comes_to_nobody(db: Database) -> None:
    ann = access.add_account(db, "ann", "admin", "long enough words")
    ordinary, candidates, held_back, unfit = seed_comparisons(db, 4)
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET candidate_id = 1, against_id = 1 WHERE id = ?", (candidates,))
        connection.execute("UPDATE comparison SET state = 'dropped' WHERE id = ?", (unfit,))  # answers are the same
    bulk_changes.make(db, BulkRequest("assign", ComparisonFilter(ids=(held_back,)), "person:ann"), ann, 1)
    assert policy_comparisons.withdraw_open(db) == 3
    assert found(db, "status=withdrawn") == [ordinary, candidates, held_back]
    assert found(db, "status=unfit") == [unfit]
    assert found(db, "status=unasked") == []
    assert handing_out.claim_next(db, ann.id) is None
    with pytest.raises(UserError, match="None of these"):
        bulk_changes.make(db, BulkRequest("withdraw", ComparisonFilter()), ann, 3)


def contradict(db: Database) -> tuple[int, int, int]:
    """A comparison on which ann and bob contradict each other, with their ids."""
    project_store.set_project(db, replace(project_store.project(db), overlap=2))
    ann, bob = (access.add_account(db, name, "admin", "long enough words").id for name in ("ann", "bob"))
    comparison = seed_comparisons(db, 1)[0]
    for annotator, best in ((ann, 0), (bob, 1)):
        claim = handing_out.claim_next(db, annotator)
        assert claim is not None
        side = "left" if claim.shown_order[0] == best else "right"
        judging.judge(db, annotator, claim.nonce, act(f"{side}-much"))
    return comparison, ann, bob


def test_disputed_is_what_the_quality_page_has_to_settle(db: Database) -> None:
    comparison, ann, bob = contradict(db)
    assert found(db, "status=disputed") == [comparison]
    assert [one.comparison_id for one in quality.report(db).disputes] == [comparison]
    exclusions.leave_out(db, "bob", "hasty", "ann")
    assert found(db, "status=disputed") == []
    assert found(db, "status=judged") == [comparison]
    exclusions.take_back(db, "bob", "", "ann")
    assert found(db, "status=disputed") == [comparison]
    claim = handing_out.take_to_settle(db, ann, comparison)
    judging.judge(db, ann, claim.nonce, act("tie"))
    assert found(db, "status=settled") == [comparison]
    changing.undo(db, bob, "")
    assert found(db, "status=disputed") == []


def test_what_was_said_and_by_whom(db: Database) -> None:
    ann = access.add_account(db, "ann", "annotator", "long enough words").id
    seed_comparisons(db, 5)
    tie = judge_next(db, ann, "tie")
    flagged = judge_next(db, ann, "left-much", flag="harmful", note="see the second line")
    bad, skipped = judge_next(db, ann, "all-bad"), judge_next(db, ann, "skip")
    texts = {"tie": [tie], "flag": [flagged], "note": [flagged], "all-bad": [bad], "skip": [skipped], "edit": []}
    assert {name: found(db, f"said={name}") for name in SAID} == texts
    assert found(db, "person=ann") == [tie, flagged, bad, skipped]
    assert found(db, "person=nobody") == []
    assert found(db, "person=ann&said=tie,flag") == [tie, flagged]
    row = list_page(db, ComparisonFilter(ids=(flagged,))).rows[0]
    assert (row.flagged, row.judges, row.judged, row.wanted) == (True, "ann", 1, 1)
    changing.undo(db, ann, "")  # the skip
    assert found(db, "said=skip") == []


def test_words_are_found_in_prompts_and_answers_as_they_begin_and_in_any_script(db: Database) -> None:
    texts = {
        "How do I cook rice?": ("Rinse it twelve times", "Bake it"),
        "Übung macht den Meister": ("“quoted” OR AND NOT (", "C:\\path\\new"),
        "日本の料理は何ですか": ("寿司と天ぷら", "ラーメン"),
        "line\nbreak": ("ab*cd", "price: 100%"),
    }
    made = {}
    for prompt, answers in texts.items():
        prompt_store.add_prompts(db, [Prompt(({"role": "user", "content": prompt},), "train", "mine")])
        asked = prompt_store.prompts(db, "train")[-1]
        made[prompt] = comparison_store.add_comparison(db, [make_response(asked, answer) for answer in answers])
    rice, practice, food, lines = made.values()
    for query, expected in {
        "rice": [rice], "RIC": [rice], "twelve cook": [], "cook rice": [rice], "twel": [rice], "ubung": [practice],
        "quoted": [practice], '"quoted"': [practice], "寿司": [food], "料理": [food], "ラーメ": [food],
        "break": [lines], "nbreak": [], "user": [], "role": [], f"#{lines}": [lines], str(rice): [rice],
        "OR": [practice], "100%": [lines],
        "%": [lines], "*": [lines], "'": [], "a\0b": [], "not a word here": [],
        "{": [], '"': [], ":": [practice, lines], '":"': [], "[": [], ",": [],
    }.items():  # fmt: skip
        assert found(db, ComparisonFilter(q=query).text) == expected, query


def test_words_follow_the_texts(db: Database) -> None:
    prompt = seed_prompts(db, 1)[0]
    comparison, answers = comparison_store.begin_answers(
        db, [make_response(prompt, ""), make_response(prompt, "", seed=1)]
    )
    comparison_store.update_answers(db, {answers[0]: "half a zeb"})
    assert found(db, "q=zeb") == []
    comparison_store.finish_answers(
        db,
        comparison,
        {answers[0]: make_response(prompt, "a whole zebra"), answers[1]: make_response(prompt, "two")},
    )
    assert found(db, "q=zebra") == [comparison]
    db.write("UPDATE response SET text = 'reworded' WHERE id = ?", (answers[0],))
    assert (found(db, "q=zebra"), found(db, "q=reworded")) == ([], [comparison])


def test_the_words_of_an_import_are_there_for_the_first_search(db: Database) -> None:
    imported = {"name": "x", "sha256": "0", "format": "csv", "counts": "{}", "requested_by": "", "created": "2026"}
    db.insert("import", imported)
    comparison = seed_comparisons(db, 1)[0]
    with db.transaction() as connection:  # as an import makes them
        connection.execute("INSERT INTO prompt_words (prompt_words) VALUES ('delete-all')")
        connection.execute("INSERT INTO answer_words (answer_words) VALUES ('delete-all')")
        connection.execute("UPDATE prompt SET import_id = 1")
        connection.execute("UPDATE response SET import_id = 1")
    assert (found(db, "q=answer"), found(db, "q=sentence")) == ([comparison], [comparison])
    with db.transaction() as connection:
        connection.execute("DELETE FROM comparison_response")
        connection.execute("DELETE FROM response")
    assert found(db, "q=answer") == []


def test_words_are_indexed_before_rows_are_read_and_never_while_others_are_kept_from_writing(db: Database) -> None:
    imported = {"name": "x", "sha256": "0", "format": "csv", "counts": "{}", "requested_by": "", "created": "2026"}
    db.insert("import", imported)
    with db.reading():
        matching(db, ComparisonFilter(q="rice"))
        with open_database(db.path.parent).transaction():
            """Nobody else waits for what only reads."""
    assert setting_store.setting(db, INDEXED, 0) == 0
    writing.count(db, ExportRequest("csv", filters=Filters(comparisons="q=rice")))
    assert setting_store.setting(db, INDEXED, 0) == 1
    db.insert("import", imported)
    by = access.add_account(db, "eve", "admin", "long enough words")
    with pytest.raises(UserError, match="None of these"):
        bulk_changes.make(db, BulkRequest("withdraw", ComparisonFilter(q="rice")), by, 1)
    assert setting_store.setting(db, INDEXED, 0) == 2, "it is not rolled back with what was refused"


def test_policies_sets_splits_and_days(db: Database) -> None:
    train, held = seed_comparisons(db, 2), seed_comparisons(db, 1, "held-out")
    with db.transaction() as connection:
        connection.execute("UPDATE comparison SET model_id = NULL WHERE id = ?", (train[1],))
        connection.execute(
            "UPDATE comparison SET created = '2026-01-05T00:00:00.000000+00:00' WHERE id = ?", (train[0],)
        )
        connection.execute("UPDATE prompt SET source = 'import 1: a,b%2C.csv' WHERE id = 2")
    assert found(db, "policy=base") == [*train, *held]
    assert found(db, "policy=dpo-1") == []
    assert {name: found(db, f"split={name}") for name in SPLITS} == {"train": train, "held-out": held}
    assert found(db, "until=2026-01-05") == found(db, "since=2026-01-05&until=2026-01-05") == [train[0]]
    assert found(db, ComparisonFilter(source=("import 1: a,b%2C.csv",)).text) == [train[1]]
    about = {"name": "b", "sha256": "0", "format": "csv", "counts": "{}", "requested_by": "", "created": "2026"}
    number = db.insert("import", about)
    db.connection.execute("UPDATE comparison SET import_id = ? WHERE id = ?", (number, held[0]))
    assert found(db, f"source=import {number}: b") == held, "of a prompt that was there before"
    offered = choices(db)
    assert (offered.policies, offered.sources) == (("base",), ("import 1: a,b%2C.csv", "test"))


def test_every_order_has_every_comparison_once_over_all_pages(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotation.workbench.comparison_list.PAGE_ROWS", 3)
    ann = access.add_account(db, "ann", "annotator", "long enough words").id
    ids = seed_comparisons(db, 8)
    judged = [judge_next(db, ann, "tie") for _turn in range(3)]
    for sort in SORTS:
        pages = [list_page(db, ComparisonFilter(), sort, number) for number in (1, 2, 3)]
        assert sorted(row.id for page in pages for row in page.rows) == ids
        assert {page.pages for page in pages} == {3}
    assert [row.id for row in list_page(db, ComparisonFilter(), "latest").rows] == judged[::-1]
    assert list_page(db, ComparisonFilter(), "newest", 99).number == 3
    with pytest.raises(UserError, match="no order"):
        list_page(db, ComparisonFilter(), "id; DROP TABLE")
