"""Quality on a real file: figures of simulated annotators, decisions that are kept, gold, settling, and the tab."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.claims import changing, handing_out, judging, own_judgements
from annotation.database import FILE_NAME, Database, copy_database, open_database
from annotation.metrics import quality
from annotation.metrics.intervals_and_bias import Vote, wilson_interval
from annotation.records import Annotator, Claim, UserError, now
from annotation.store import comparison_store, judgement_store, project_store, training_data
from annotation.tabs import quality as tab
from annotation.tabs.guard import Context
from annotation.web import access
from annotation.workbench import annotator_groups
from rlhf.models import registry
from tests.conftest import BASE_NAME, act, make_response, seed_comparisons, seed_prompts
from tests.frozen_in_memory import Frozen, current_judgements, freeze
from tests.handlers import asked_by
from tests.machine_fixtures import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror='window.ran=1'>${window.ran=1}"
PEOPLE = {"ann": 0.92, "bob": 0.85, "carla": 0.75, "eve": 0.25}


def people(db: Database, *names: str, role: str = "annotator") -> dict[str, int]:
    """Accounts by name, without a password: hashing takes its time."""
    with db.transaction() as connection:
        for name in names:
            connection.execute("INSERT INTO annotator (name, role, created) VALUES (?, ?, ?)", (name, role, now()))
    return {name: db.value("SELECT id FROM annotator WHERE name = ?", (name,)) for name in names}


def set_project(db: Database, **changes: Any) -> None:
    project_store.set_project(db, replace(project_store.project(db), **changes))


def judge(db: Database, annotator_id: int, word: str, **extras: Any) -> Claim:
    """Judge the next comparison with one word."""
    claim = handing_out.claim_next(db, annotator_id)
    assert claim is not None
    judging.judge(db, annotator_id, claim.nonce, act(word, **extras))
    return claim


def prefer(db: Database, annotator_id: int, position: int, degree: str = "clearly", **extras: Any) -> Claim:
    """Judge the next comparison for the answer at a position, wherever it is shown."""
    claim = handing_out.claim_next(db, annotator_id)
    assert claim is not None
    side = "left" if claim.shown_order[0] == position else "right"
    judging.judge(db, annotator_id, claim.nonce, act(f"{side}-{degree}", **extras))
    return claim


def frozen(db: Database, **options: Any) -> Frozen:
    """What training would get."""
    return freeze(current_judgements(db), 512, excluded=judgement_store.excluded_annotators(db), **options)


@pytest.fixture
def owner(db: Database) -> Annotator:
    people(db, "owner", role="admin")
    return access.authorise(db, "owner", "admin")


# -------------------------------------------------------------------------------------------- simulated annotators
def simulate(db: Database, reliabilities: Mapping[str, float], comparisons: int, seed: int) -> dict[int, int]:
    """Annotators judge all there is, three to a comparison, with gold and re-asks; returns the truths by comparison."""
    source = random.Random(seed)
    set_project(db, overlap=3, gold_share=0.08, re_ask_share=0.08)
    ids = people(db, *reliabilities)
    truth = {number: source.randrange(2) for number in seed_comparisons(db, comparisons)}
    with db.transaction() as connection:
        for number in list(truth)[:15]:
            expected = json.dumps([1, 2] if truth[number] == 0 else [2, 1])
            connection.execute("UPDATE comparison SET purpose = 'gold', expected = ? WHERE id = ?", (expected, number))
    waiting = sorted(reliabilities)
    while waiting:
        name = source.choice(waiting)
        claim = handing_out.claim_next(db, ids[name], source)
        if claim is None:
            waiting.remove(name)
            continue
        best = truth[claim.comparison_id] if source.random() < reliabilities[name] else 1 - truth[claim.comparison_id]
        side = "left" if claim.shown_order[0] == best else "right"
        word = "tie" if source.random() < 0.06 else f"{side}-{source.choice(('slightly', 'clearly', 'much'))}"
        judging.judge(db, ids[name], claim.nonce, act(word))
    return truth


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of simulated judgements, made once."""
    directory = tmp_path_factory.mktemp("simulated")
    db = open_database(directory / "made")
    registry.ensure_base(db, BASE_NAME)
    simulate(db, PEOPLE, 120, seed=3)
    copy_database(db, directory / "copy.db")
    db.close()
    return directory / "copy.db"


@pytest.fixture
def simulated(template: Path, data_dir: Path) -> Iterator[Database]:
    """Simulated judgements in a data directory of the test's own."""
    data_dir.mkdir()
    shutil.copy(template, data_dir / FILE_NAME)
    db = open_database(data_dir)
    yield db
    db.close()


def test_figures_equal_a_plain_count_of_the_rows(simulated: Database) -> None:
    rows = simulated.rows("SELECT j.*, a.name FROM judgement j JOIN annotator a ON a.id = j.annotator_id")
    expected = {
        row["id"]: json.loads(row["expected"])
        for row in simulated.rows("SELECT id, expected FROM comparison WHERE purpose = 'gold'")
    }
    figures = quality.report(simulated)
    assert [one.name for one in figures.annotators] == sorted(PEOPLE)
    for one in figures.annotators:
        own = [row for row in rows if row["name"] == one.name]
        of = {purpose: [r for r in own if r["purpose"] == purpose] for purpose in ("own", "gold", "re-ask")}
        assert one.judgements == len(of["own"])
        right = sum(
            0.5 if row["strength"] == 0 else json.loads(row["ranking"]) == expected[row["comparison_id"]]
            for row in of["gold"]
        )
        assert one.gold is not None
        assert (one.gold.n, one.gold.value) == (len(of["gold"]), pytest.approx(right / len(of["gold"])))
        assert (one.gold.low, one.gold.high) == pytest.approx(wilson_interval(right, len(of["gold"])))
        assert one.consistency is not None
        assert one.consistency.n == len(of["re-ask"]) > 0
        decisive = [row for row in own if row["strength"]]
        left = sum(json.loads(r["ranking"])[json.loads(r["shown_order"])[0]] == 1 for r in decisive)
        assert one.first_place is not None
        assert (one.first_place.value, one.first_place.n) == (pytest.approx(left / len(decisive)), len(decisive))
        assert one.undecided is not None
        assert one.undecided.value == pytest.approx(sum(r["strength"] == 0 for r in of["own"]) / len(of["own"]))
    assert figures.judgements == sum(row["purpose"] == "own" for row in rows)
    assert figures.per_day == tuple(sorted(Counter(row["created"][:10] for row in rows).items()))
    assert figures.shared == 105
    assert {found.level for found in figures.agreement} == {"nominal", "ordinal"}


def test_reliabilities_follow_the_annotators(simulated: Database) -> None:
    found = quality.reliabilities(simulated)
    assert sorted(found, key=lambda name: -found[name].estimate) == ["ann", "bob", "carla", "eve"]
    # How often the intervals hold the truth is tested over many seeds in tests/annotation/metrics/test_reliability.py.
    assert all(abs(found[name].estimate - right) < 0.15 for name, right in PEOPLE.items())
    assert found["eve"].estimate < 0.5 < found["carla"].estimate
    for name, one in found.items():
        counts = Counter(
            row["purpose"]
            for row in simulated.rows(
                """SELECT j.purpose FROM judgement j JOIN annotator a ON a.id = j.annotator_id
                   WHERE a.name = ? AND j.strength > 0""",
                (name,),
            )
        )
        assert one.known == counts["gold"]
        assert 0 < one.repeats <= counts["re-ask"]
        assert 0 < one.overlap <= counts["own"]


def test_training_gets_its_chances_of_error_from_them(simulated: Database) -> None:
    chances = {name: one.estimate for name, one in quality.reliabilities(simulated).items()}
    plain, weighed = frozen(simulated), frozen(simulated, reliability=chances)
    by_comparison = {row.comparison: row for row in weighed.rows}
    alone = [row for row in plain.rows if row.annotators == ("ann",)]
    assert {row.flip for row in alone} == {0.27} or not alone
    sure = [row for row in weighed.rows if set(row.annotators) == {"ann", "bob", "carla"}]
    assert sure
    assert max(row.flip or 0.0 for row in sure) < 0.1
    # Whoever is believed to be worse than a coin decides nothing.
    assert not [row for row in by_comparison.values() if row.annotators == ("eve",)]


def test_no_gold_judgement_is_trained_on_and_all_own_ones_are(simulated: Database) -> None:
    golds = {row["id"] for row in simulated.rows("SELECT id FROM comparison WHERE purpose = 'gold'")}
    found = frozen(simulated)
    assert found.left_out["gold"] == simulated.value("SELECT count(*) FROM judgement WHERE purpose = 'gold'")
    assert not golds & {row.comparison for row in found.rows}


def test_figures_are_kept_until_something_changes(simulated: Database) -> None:
    first = quality.report(simulated)
    assert quality.report(simulated) is first
    assert quality.reliabilities(simulated) is first.reliabilities
    quality.leave_out(simulated, "eve", "clicks", "owner")
    measured = quality.reliabilities(simulated)
    assert measured is not first.reliabilities
    assert quality.reliabilities(simulated) is measured
    second = quality.report(simulated)
    assert second is not first
    assert second.reliabilities == measured
    ann = simulated.value("SELECT id FROM annotator WHERE name = 'ann'")
    changing.undo(simulated, ann, "")
    third = quality.report(simulated)
    assert third is not second
    quality.make_gold(simulated, third.clear[0].comparison_id, None, "owner")
    assert len(quality.report(simulated).golds) == len(third.golds) + 1


def test_who_is_left_out_measures_nobody(simulated: Database) -> None:
    before = quality.report(simulated)
    quality.leave_out(simulated, "eve", "clicks", "owner")
    after = quality.report(simulated)
    percent = [next(f.percent.value for f in figures.agreement if f.level == "nominal") for figures in (before, after)]
    assert percent[1] > percent[0] + 0.05
    assert after.judgements < before.judgements
    assert [one.name for one in after.annotators] == sorted(PEOPLE)  # still to be seen
    agreed = {one.name: one.agreement.value for one in after.annotators if one.agreement}
    assert agreed["ann"] > 0.65
    assert agreed["eve"] < 0.45
    assert after.reliabilities["eve"].estimate < 0.5
    assert len(after.disputes) < len(before.disputes)


# ------------------------------------------------------------------------------------------------------- hand-worked
def test_two_annotators_by_hand(db: Database) -> None:
    ids = people(db, "ann", "bob")
    set_project(db, overlap=2)
    numbers = seed_comparisons(db, 4)
    for position in (0, 0, 1, 1):
        prefer(db, ids["ann"], position, "much")
    for position in (0, 1, 1):
        prefer(db, ids["bob"], position, "slightly", flag="broken" if position == 0 else None)
    judge(db, ids["bob"], "all-bad")
    figures = quality.report(db)
    verdict, strength = figures.agreement
    assert (verdict.percent.value, verdict.comparisons) == (pytest.approx(2 / 3), 3)
    assert strength.percent.value == 0
    assert [dispute.comparison_id for dispute in figures.disputes] == [numbers[1]]
    assert figures.disputes[0].spread == 4
    assert [(one.comparison_id, one.flag, one.annotator) for one in figures.flagged] == [(numbers[0], "broken", "bob")]
    # The flagged one is no good case to measure people with, however clear it is.
    assert [case.comparison_id for case in figures.clear] == [numbers[2], numbers[3]]
    assert (figures.judgements, figures.comparisons, figures.shared) == (6, 3, 3)  # the flagged one trains nothing
    assert figures.policies.placed == ()
    quality.decide_on(db, "bob", True, "Flags everything.", "kim")
    after = quality.report(db)
    assert after.comparisons == training_data.new_to_train_on(db, "") == 4, "a flag of somebody left out counts no more"


def test_an_empty_database_has_no_figures(db: Database) -> None:
    figures = quality.report(db)
    assert (figures.judgements, figures.annotators, figures.agreement, figures.per_day) == (0, (), (), ())
    assert quality.reliabilities(db) == {}


def test_skips_and_undone_judgements_count_nowhere(db: Database) -> None:
    ids = people(db, "ann")
    seed_comparisons(db, 3)
    judge(db, ids["ann"], "skip")
    prefer(db, ids["ann"], 0)
    held = handing_out.claim_next(db, ids["ann"])
    assert held is not None
    changing.undo(db, ids["ann"], held.nonce)
    assert quality.votes(db) == []
    prefer(db, ids["ann"], 1)
    changed = own_judgements.latest(db, ids["ann"])[0]["id"]
    changing.revise(db, ids["ann"], changed, act("tie"))
    assert [vote.ranking for vote in quality.votes(db)] == [(1, 1)]


def test_what_training_does_not_count_is_not_said_to_train(db: Database, owner: Annotator) -> None:
    """Not what is held out, flagged, or settled by somebody else; as many as training counts itself."""
    set_project(db, overlap=2)
    (ann, bob), numbers = people(db, "ann", "bob").values(), seed_comparisons(db, 4)
    for _each in numbers:
        for person in (ann, bob):
            prefer(db, person, 0 if person == ann else 1)
    assert (quality.report(db).judgements, quality.report(db).comparisons) == (8, 4)
    settled = quality.settle_next(db, owner.id).comparison_id
    prefer(db, owner.id, 0)
    held_out, flagged = [number for number in numbers if number != settled][:2]
    db.write(
        """UPDATE prompt SET split = 'held-out' WHERE id = (SELECT prompt_id FROM comparison WHERE id = ?)""",
        (held_out,),
    )
    claim = handing_out.take_to_settle(db, owner.id, flagged)
    judging.judge(db, owner.id, claim.nonce, act("left-much", flag="broken"))
    figures = quality.report(db)
    assert (figures.judgements, figures.people, figures.comparisons) == (3, 3, 2)
    assert figures.flags == len(figures.flagged) == 1


def test_a_re_ask_is_compared_with_what_was_said_then(db: Database) -> None:
    """Whoever changes the first judgement afterwards was still inconsistent."""
    ids = people(db, "ann")
    set_project(db, re_ask_share=0.5)
    seed_comparisons(db, 40)
    source = random.Random(1)
    while (claim := handing_out.claim_next(db, ids["ann"], source)) is not None:
        left = claim.shown_order[0] == (0 if claim.purpose == "own" else 1)
        judging.judge(db, ids["ann"], claim.nonce, act("left-much" if left else "right-much"))
    again = [vote for vote in quality.votes(db) if vote.purpose == "re-ask"]
    assert len(again) >= 3
    assert {(vote.first_ranking, vote.ranking) for vote in again} == {((1, 2), (2, 1))}
    first = db.value("SELECT re_ask_of FROM judgement WHERE id = ?", (again[0].id,))
    changing.revise(db, ids["ann"], first, act("tie"))
    consistency = quality.report(db).annotators[0].consistency
    assert consistency is not None
    assert (consistency.value, consistency.n) == (0.0, len(again))


def test_policies_are_placed_by_comparisons_of_their_answers(db: Database) -> None:
    ids = people(db, "ann")
    db.write("INSERT INTO job (kind, spec, status, requested_by, created) VALUES ('dpo', '{}', 'finished', '', '')")
    registry.add(db, revision="dpo-1", algorithm="dpo", base=BASE_NAME, parent_id=1, job_id=1, path="p", sha256="0")
    assert not quality.report(db).policies.placed
    for prompt in seed_prompts(db, 20):
        comparison_store.add_comparison(
            db, [make_response(prompt, "old answer"), make_response(prompt, "new answer", 2)]
        )
    for number in range(20):
        prefer(db, ids["ann"], int(number < 15))
    (best, base) = quality.report(db).policies.placed
    assert (best.policy, base.policy) == ("dpo-1", "base")
    assert best.estimate.value == pytest.approx(1.0986, abs=1e-3)  # log 3
    assert best.estimate.low > 0 == base.estimate.value


# ------------------------------------------------------------------------------------------------------ who is left out
def test_leaving_out_is_recorded_reversible_and_deletes_nothing(db: Database) -> None:
    ids = people(db, "ann", "bob")
    seed_comparisons(db, 2)
    for name in ("ann", "bob"):
        prefer(db, ids[name], 0)
    assert len(frozen(db).rows) == 2
    quality.leave_out(db, "Ann", " clicks without reading ", "owner")
    assert judgement_store.excluded_annotators(db) == {"ann": "clicks without reading"}
    assert [row.annotators for row in frozen(db).rows] == [("bob",)]
    assert frozen(db).left_out["excluded"] == 1
    assert db.value("SELECT count(*) FROM judgement") == 2
    quality.take_back(db, "ann", "", "second")
    assert len(frozen(db).rows) == 2
    decided = [(one.what, one.annotator, one.reason, one.decided_by) for one in quality.report(db).decisions]
    assert decided == [
        ("take-back", "ann", "", "second"),
        ("leave-out", "ann", "clicks without reading", "owner"),
    ]


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("nobody", "clicks", "Choose an annotator"),
        ("", "clicks", "Choose an annotator"),
        ("ann", "  ", "Give a reason"),
        ("ann", "x" * 501, "up to 500"),
        ("bob", "clicks", "left out of training already"),
    ],
)
def test_a_decision_that_can_not_be_is_refused(db: Database, name: str, reason: str, words: str) -> None:
    people(db, "ann", "bob")
    quality.leave_out(db, "bob", "first", "owner")
    with pytest.raises(UserError, match=words):
        quality.leave_out(db, name, reason, "owner")
    with pytest.raises(UserError, match="not left out"):
        quality.take_back(db, "ann", "", "owner")
    assert db.value("SELECT count(*) FROM exclusion") == 1


# ---------------------------------------------------------------------------------------------------------------- gold
def test_a_comparison_becomes_gold_and_measures_those_who_have_not_seen_it(db: Database) -> None:
    ids = people(db, "ann", "bob")
    (number, *_) = seed_comparisons(db, 1)
    prefer(db, ids["ann"], 1)
    assert quality.make_gold(db, number, None, "owner") == 1
    set_project(db, gold_share=1.0)
    assert handing_out.claim_next(db, ids["ann"]) is None
    assert prefer(db, ids["bob"], 0).purpose == "gold"
    figures = quality.report(db)
    assert [(gold.comparison_id, gold.best, gold.retired, gold.made_by) for gold in figures.golds] == [
        (number, (1,), False, "owner")
    ]
    assert figures.golds[0].right is not None
    assert (figures.golds[0].right.value, figures.golds[0].right.n) == (0.0, 1)
    assert figures.gold_accuracy is not None
    assert figures.gold_accuracy.value == 0.0
    # Ann's own judgement is still trained on; bob's only measures him.
    assert [row.annotators for row in frozen(db).rows] == [("ann",)]
    assert frozen(db).left_out["gold"] == 1
    ann, bob = figures.annotators
    assert (ann.gold, bob.judgements) == (None, 0)
    assert figures.reliabilities["bob"].estimate < figures.reliabilities["ann"].estimate


def test_gold_can_be_retired_handed_out_again_and_made_ordinary(db: Database) -> None:
    ids = people(db, "ann", "bob")
    set_project(db, overlap=2, gold_share=1.0)
    (number,) = seed_comparisons(db, 1)
    prefer(db, ids["ann"], 0)
    quality.make_gold(db, number, 1, "owner")
    quality.retire_gold(db, number, "owner")
    assert handing_out.claim_next(db, ids["bob"]) is None
    assert quality.report(db).golds[0].retired
    with pytest.raises(UserError, match="retired already"):
        quality.retire_gold(db, number, "owner")
    quality.reinstate_gold(db, number, "second")
    with pytest.raises(UserError, match="handed out already"):
        quality.reinstate_gold(db, number, "owner")
    held = handing_out.claim_next(db, ids["bob"])
    assert held is not None
    assert held.purpose == "gold"
    judging.judge(db, ids["bob"], held.nonce, act("skip"))
    quality.release_gold(db, number, "owner")
    assert db.row("SELECT purpose, state, expected FROM comparison WHERE id = ?", (number,)) == {
        "purpose": "preference",
        "state": "ready",
        "expected": None,
    }
    (carla,) = people(db, "carla").values()
    assert prefer(db, carla, 0).purpose == "own"
    assert [(one.what, one.decided_by) for one in quality.report(db).decisions] == [
        ("release", "owner"),
        ("reinstate", "second"),
        ("retire", "owner"),
        ("make", "owner"),
    ]
    for change in (quality.retire_gold, quality.reinstate_gold, quality.release_gold):
        with pytest.raises(UserError, match="Choose a gold comparison"):
            change(db, number, "owner")


def test_an_imported_comparison_can_be_gold_and_goes_back_to_being_closed(db: Database) -> None:
    (number,) = seed_comparisons(db, 1)
    with db.transaction() as connection:
        connection.execute("INSERT INTO annotator (name, role, kind, active, created) VALUES ('import-1', "
                           "'annotator', 'import', 0, '')")  # fmt: skip
        connection.execute("UPDATE comparison SET state = 'closed' WHERE id = ?", (number,))
        connection.execute(
            """INSERT INTO judgement (comparison_id, annotator_id, purpose, kind, outcome, ranking, shown_order,
                   created) VALUES (?, 1, 'import', 'pair', 'ranked', '[2, 1]', '[0, 1]', ?)""",
            (number, now()),
        )
    assert quality.make_gold(db, number, None, "owner") == 1
    set_project(db, gold_share=1.0)
    (ann,) = people(db, "ann").values()
    assert prefer(db, ann, 1).purpose == "gold"
    quality.release_gold(db, number, "owner")
    assert db.value("SELECT state FROM comparison WHERE id = ?", (number,)) == "closed"
    assert [count for _, count in quality.report(db).per_day] == [1]  # nobody judged the imported one here


def test_what_can_not_measure_anybody_is_refused(db: Database) -> None:
    ids = people(db, "ann", "bob")
    set_project(db, overlap=2)
    unjudged, split, flagged, tied, failed = reversed(seed_comparisons(db, 5))
    judge(db, ids["ann"], "tie")
    judge(db, ids["ann"], "tie")
    prefer(db, ids["ann"], 0, flag="harmful")
    prefer(db, ids["ann"], 0)
    for word in ("tie", "tie", "tie"):
        judge(db, ids["bob"], word)
    prefer(db, ids["bob"], 1)
    db.write("UPDATE comparison SET state = 'failed' WHERE id = ?", (failed,))
    for number, best, words in (
        (unjudged, 0, "Nobody has judged"),
        (split, None, "agree on no best answer"),
        (tied, None, "agree on no best answer"),
        (tied, 2, "has 2 answers"),
        (flagged, 0, "is flagged"),
        (failed, 0, "its answers are not complete"),
        (999, 0, "no comparison 999"),
    ):
        with pytest.raises(UserError, match=words):
            quality.make_gold(db, number, best, "owner")
    assert db.value("SELECT count(*) FROM gold_decision") == 0
    assert quality.make_gold(db, split, 1, "owner") == 1
    with pytest.raises(UserError, match="gold already"):
        quality.make_gold(db, split, 0, "owner")


def test_a_case_shows_everything_that_was_said(db: Database) -> None:
    ids = people(db, "ann", "bob")
    set_project(db, overlap=2)
    (number,) = seed_comparisons(db, 1)
    prefer(db, ids["ann"], 1, "much")
    judge(db, ids["bob"], "tie")
    found = quality.review(db, number)
    assert [(o.annotator, o.ranking, o.strength) for o in found.opinions] == [("ann", (2, 1), 3), ("bob", (1, 1), 0)]
    assert (found.consensus, len(found.answers)) == (1, 2)
    quality.leave_out(db, "ann", "clicks", "owner")
    assert quality.review(db, number).consensus is None


# ------------------------------------------------------------------------------------------------------------ settling
def contradict(db: Database, degrees: tuple[str, ...]) -> tuple[dict[str, int], list[int]]:
    """Two annotators who contradict each other on each comparison, to these degrees."""
    ids = people(db, "ann", "bob")
    set_project(db, overlap=2)
    numbers = seed_comparisons(db, len(degrees))
    for degree in degrees:
        prefer(db, ids["ann"], 0, degree)
        prefer(db, ids["bob"], 1, degree)
    return ids, numbers


def test_the_most_disputed_is_settled_first_and_stands(db: Database, owner: Annotator) -> None:
    _, numbers = contradict(db, ("slightly", "much", "clearly"))
    seed_comparisons(db, 1)
    pool = handing_out.claim_next(db, owner.id)
    assert pool is not None
    assert [dispute.comparison_id for dispute in quality.report(db).disputes] == [numbers[1], numbers[2], numbers[0]]
    claim = quality.settle_next(db, owner.id)
    assert (claim.comparison_id, claim.purpose) == (numbers[1], "settle")
    assert db.value("SELECT state FROM claim WHERE nonce = ?", (pool.nonce,)) == "released"
    assert quality.settle_next(db, owner.id) == claim  # pressed twice
    assert prefer(db, owner.id, 1, "slightly").nonce == claim.nonce
    figures = quality.report(db)
    assert [dispute.comparison_id for dispute in figures.disputes] == [numbers[2], numbers[0]]
    row = next(row for row in frozen(db).rows if row.comparison == numbers[1])
    assert (row.annotators, row.chosen.text[:8]) == (("owner",), "Answer B")
    assert db.value("SELECT count(*) FROM current_judgement WHERE comparison_id = ?", (numbers[1],)) == 3


def test_settling_goes_on_past_what_was_passed_over_or_is_in_others_hands(db: Database, owner: Annotator) -> None:
    _, numbers = contradict(db, ("much", "clearly", "slightly"))
    (second,) = people(db, "second", role="admin").values()
    assert quality.settle_next(db, second).comparison_id == numbers[0]
    first = quality.settle_next(db, owner.id)
    assert first.comparison_id == numbers[1]
    judging.judge(db, owner.id, first.nonce, act("skip"))
    assert prefer(db, owner.id, 0) if quality.settle_next(db, owner.id).comparison_id == numbers[2] else False
    with pytest.raises(UserError, match=r"2 comparisons wait to be settled: other admins have them in hand, or you"):
        quality.settle_next(db, owner.id)
    judge(db, second, "tie")
    assert quality.settle_next(db, second).comparison_id == numbers[1]


def test_what_was_passed_over_is_settled_after_all_whatever_was_asked_of_the_admin(
    db: Database, owner: Annotator
) -> None:
    _, numbers = contradict(db, ("much",))
    seed_comparisons(db, 1)
    prefer(db, owner.id, 0)
    annotator_groups.set_quota(db, owner.id, 1)
    judging.judge(db, owner.id, quality.settle_next(db, owner.id).nonce, act("skip"))
    assert changing.undo(db, owner.id, "").comparison_id == numbers[0]


def test_where_nobody_contradicts_anybody_nothing_is_to_be_settled(db: Database, owner: Annotator) -> None:
    with pytest.raises(UserError, match="annotators contradict each other nowhere"):
        quality.settle_next(db, owner.id)


def test_what_somebody_left_out_settled_waits_again(db: Database, owner: Annotator) -> None:
    _, numbers = contradict(db, ("much",))
    (second,) = people(db, "second", role="admin").values()
    quality.settle_next(db, second)
    prefer(db, second, 0)
    assert quality.report(db).disputes == ()
    quality.leave_out(db, "second", "was never asked to", "owner")
    assert quality.settle_next(db, owner.id).comparison_id == numbers[0]


# ------------------------------------------------------------------------------------------------------- many of them
def fill(db: Database, comparisons: int, overlap: int, annotators: int) -> None:
    """Judgements as many people would have left them, written straight into the tables."""
    source = random.Random(1)
    judged: list[dict[str, int | float | str]] = []
    with db.transaction() as connection:
        many = connection.conn.executemany
        many(
            "INSERT INTO annotator (id, name, role, created) VALUES (?, ?, 'annotator', '')",
            [(number, f"person-{number:02}") for number in range(1, annotators + 1)],
        )
        many(
            "INSERT INTO prompt (id, fingerprint, messages, source, split, created) VALUES (?, ?, ?, '', 'train', '')",
            [(n, str(n), json.dumps([{"role": "user", "content": "?"}])) for n in range(1, comparisons + 1)],
        )
        many(
            """INSERT INTO response (id, prompt_id, origin, model_id, purpose, text, created)
               VALUES (?, ?, 'policy', 1, 'compare', ?, '')""",
            [
                (2 * n + side - 1, n, "x" * source.randint(99, 599))
                for n in range(1, comparisons + 1)
                for side in (0, 1)
            ],
        )
        many(
            "INSERT INTO comparison (id, prompt_id, model_id, purpose, created) VALUES (?, ?, 1, 'preference', '')",
            [(n, n) for n in range(1, comparisons + 1)],
        )
        many(
            "INSERT INTO comparison_response (comparison_id, position, response_id) VALUES (?, ?, ?)",
            [(n, side, 2 * n + side - 1) for n in range(1, comparisons + 1) for side in (0, 1)],
        )
        for n in range(1, comparisons + 1):
            truth = source.randrange(2)
            for slot, person in enumerate(source.sample(range(1, annotators + 1), overlap)):
                best = truth if source.random() < 0.6 + 0.3 * person / annotators else 1 - truth
                day = f"2026-{1 + 9 * n // comparisons:02}-{1 + n % 28:02}T10:00:00.000000+00:00"
                order = source.choice(("[0, 1]", "[1, 0]"))
                one = {"id": len(judged) + 1, "comparison": n, "person": person, "slot": slot, "order": order}
                said = {"ranking": "[1, 2]" if best == 0 else "[2, 1]", "strength": source.randint(1, 3)}
                judged.append({**one, **said, "seconds": source.lognormvariate(2, 0.6), "day": day})
        many(
            """INSERT INTO claim (id, nonce, comparison_id, annotator_id, purpose, kind, slot, shown_order, state,
                   created, expires)
               VALUES (:id, :id, :comparison, :person, 'own', 'pair', :slot, :order, 'judged', :day, :day)""",
            judged,
        )
        many(
            """INSERT INTO judgement (claim_id, comparison_id, annotator_id, purpose, kind, outcome, ranking, strength,
                   shown_order, seconds, created)
               VALUES (:id, :comparison, :person, 'own', 'pair', 'ranked', :ranking, :strength, :order, :seconds,
                   :day)""",
            judged,
        )


def test_many_judgements_cost_no_more_each_and_keep_nobody_waiting(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, small = (open_database(tmp_path / name) for name in ("first", "small"))
    for other, comparisons in ((first, 100), (small, 750)):
        registry.ensure_base(other, BASE_NAME)
        fill(other, comparisons, 3, 50)
    quality.report(first)  # which costs more: all is imported and compiled for it
    first.close()
    fill(db, 3_000, 3, 50)
    (ann,) = people(db, "ann").values()
    seed_comparisons(db, 20)
    votes = quality.votes
    begun, judged = threading.Event(), threading.Event()

    def votes_and_wait(of: Database) -> list[Vote]:
        found = votes(of)
        begun.set()
        assert judged.wait(PATIENCE_SECONDS)
        return found

    def cost(of: Database) -> float:
        """Of new figures, in seconds of this thread's processor time, which other programs don't change."""
        began = time.thread_time()
        made.append(quality.report(of))
        return time.thread_time() - began

    made: list[quality.QualityReport] = []
    costs: list[float] = []
    thread = threading.Thread(target=lambda: costs.append(cost(db)))
    with monkeypatch.context() as held:
        held.setattr(quality, "votes", votes_and_wait)
        thread.start()
        assert begun.wait(PATIENCE_SECONDS)
        for _ in range(10):
            prefer(db, ann, 0)  # in the middle of it
        judged.set()
        thread.join()
    assert made[0].judgements == 9_000
    assert len(made[0].reliabilities) >= 50

    assert costs[0] < 10 * cost(small), "four times as many"
    small.close()


# ---------------------------------------------------------------------------------------------------------------- tab
@pytest.fixture
def context(simulated: Database, data_dir: Path) -> Context:
    people(simulated, "owner", role="admin")
    ann = simulated.value("SELECT id FROM annotator WHERE name = 'ann'")
    seed_comparisons(simulated, 1)
    set_project(simulated, gold_share=0.0, re_ask_share=0.0)
    judge(simulated, ann, "tie", flag="broken", note=HOSTILE)
    return Context(simulated, data_dir, BASE_NAME)


@pytest.fixture
def pages(context: Context) -> Iterator[gr.Blocks]:
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Quality"):
        tab.build(demo, context)
    return demo


# What the boxes beside the buttons say as the page is opened.
SILENT = ("", "", "", "")


def press(pages: gr.Blocks, name: str, *inputs: Any, by: str = "owner", **said: Any) -> dict[str, Any]:
    """Call a registered function as Gradio does; what it sends, by the component's label or its place."""
    block = next(block for block in pages.fns.values() if block.api_name == name)
    sent = block.fn(*asked_by(by, block.fn, **said), *inputs)
    values = sent if isinstance(sent, list) else [sent]
    assert len(values) == len(block.outputs)
    return {str(number): value for number, value in enumerate(values)}


def text_of(sent: Mapping[str, Any]) -> str:
    return " ".join(str(value["value"] if isinstance(value, dict) and "value" in value else value)
                    for value in sent.values())  # fmt: skip


def test_every_listener_is_for_admins_only(pages: gr.Blocks, context: Context) -> None:
    assert len(pages.fns) == 10
    for block in pages.fns.values():
        assert block.fn.required_role == "admin"
        with pytest.raises(gr.Error, match="Only an admin"):
            block.fn(*asked_by("ann", block.fn), *(None for _ in block.inputs))
    assert context.db.value("SELECT count(*) FROM gold_decision") == 0


def test_the_page_that_everyone_is_sent_holds_no_rows(pages: gr.Blocks) -> None:
    sent = str(pages.get_config_file())
    for secret in ("carla", "broken", "Answer A to", "window.ran"):
        assert secret not in sent


def test_opening_the_tab_fills_it(pages: gr.Blocks) -> None:
    said = text_of(press(pages, "open_quality", *SILENT))
    for words in (
        "Judgements that train the model",
        "eve",
        "Krippendorff",
        "Position bias",
        "Length bias",
        "Gold comparisons",
    ):
        assert words in said
    assert "<svg" in said
    # A part that has nothing to say yet is not there.
    assert "Policies</summary>" not in said
    assert "Decisions</summary>" not in said
    assert "Kinds of acts</summary>" in said
    assert "&lt;img" in said
    assert "<img" not in said
    assert text_of(press(pages, "refresh_quality", *SILENT)) in said


def test_what_a_button_said_before_goes_and_not_what_one_says_meanwhile(pages: gr.Blocks) -> None:
    for name in ("refresh_quality", "open_quality"):
        sent = [*press(pages, name, "It is settled.", *SILENT[1:]).values()]
        told = sent.index("")
        assert sent[told : told + len(SILENT)] == ["", *[gr.skip()] * 3]


def test_the_address_leads_to_the_comparison_that_is_looked_at(pages: gr.Blocks, context: Context) -> None:
    clear = quality.report(context.db).clear[0].comparison_id
    *_, told = press(pages, "look_at_comparison", clear).values()
    assert f'"/{clear}"' in told
    *sent, view, form, _told = press(pages, "open_quality", *SILENT, part=f"/{clear}").values()
    assert "what the annotators agree on" in view
    assert form["open"]
    assert str(clear) in [part.get("value") for part in sent if isinstance(part, dict) and "choices" in part]
    for wrong, words in (("/99999999999", "no comparison"), ("/seven", "Choose a comparison")):
        assert words in press(pages, "open_quality", *SILENT, part=wrong)[str(len(sent))]


def test_buttons_do_what_they_say(pages: gr.Blocks, context: Context) -> None:
    assert "eve is left out" in text_of(press(pages, "leave_out_annotator", "eve", "contradicts everybody"))
    assert "eve counts in training again" in text_of(press(pages, "take_annotator_back", "eve", ""))
    clear = quality.report(context.db).clear[0].comparison_id
    seen = press(pages, "look_at_comparison", f"#{clear}: answer 1 for all 3")["0"]
    assert "what the annotators agree on" in seen
    assert f"Comparison {clear} is gold now" in text_of(press(pages, "make_comparison_gold", clear, tab.CONSENSUS))
    assert "to nobody any more" in text_of(press(pages, "retire_gold_comparison", str(clear)))
    assert "handed out again" in text_of(press(pages, "reinstate_gold_comparison", f"#{clear}"))
    assert "ordinary one again" in text_of(press(pages, "release_gold_comparison", clear))
    other = quality.report(context.db).clear[1]
    wrong = str(2 - other.best)
    assert f"answer {2 - other.best} is the known one" in text_of(
        press(pages, "make_comparison_gold", other.comparison_id, wrong)
    )
    settled = text_of(press(pages, "settle_next_comparison"))
    held = handing_out.claim_next(context.db, access.authorise(context.db, "owner", "admin").id)
    assert held is not None
    assert held.purpose == "settle"
    assert f"Comparison {held.comparison_id} is in your hands" in settled


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("leave_out_annotator", (None, "reason"), "Choose an annotator"),
        ("leave_out_annotator", ("eve", None), "Give a reason"),
        ("look_at_comparison", (None,), "Choose a comparison"),
        ("look_at_comparison", ("seven",), "Choose a comparison"),
        ("look_at_comparison", ("99999999999",), "no comparison"),
        ("make_comparison_gold", ("1" * 30, "1"), "Choose a comparison"),
        ("retire_gold_comparison", ("",), "Choose a gold comparison"),
    ],
)
def test_a_button_without_a_sound_choice_says_what_is_missing(
    pages: gr.Blocks, name: str, inputs: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(gr.Error, match=words):
        press(pages, name, *inputs)
