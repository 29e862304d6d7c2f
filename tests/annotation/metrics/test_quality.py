"""Quality on a real file: figures of simulated annotators and by hand, and the tab."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.claims import changing, handing_out, judging, own_judgements
from annotation.database import FILE_NAME, Database, copy_database, open_database
from annotation.metrics import quality
from annotation.metrics.intervals_and_bias import Vote, wilson_interval
from annotation.store import comparison_store, training_data
from annotation.tabs import quality as tab
from annotation.tabs import quality_report
from annotation.tabs.guard import Context
from annotation.translation import language_of, speaking
from annotation.web import access
from annotation.workbench import exclusions, settling
from annotation.workbench.gold import make_gold
from rlhf.models import registry
from tests.annotation.claims.people import judge, people, prefer, set_project
from tests.conftest import BASE_NAME, act, make_response, seed_comparisons, seed_prompts
from tests.frozen_in_memory import frozen
from tests.handlers import asked_by
from tests.machine_fixtures import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror='window.ran=1'>${window.ran=1}"
PEOPLE = {"ann": 0.92, "bob": 0.85, "carla": 0.75, "eve": 0.25}


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
        assert one.judgements == len(own), "as the Accounts and Statistics pages count them"
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
    exclusions.leave_out(simulated, "eve", "clicks", "owner")
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
    make_gold(simulated, third.clear[0].comparison_id, None, "owner")
    assert len(quality.report(simulated).golds) == len(third.golds) + 1


@pytest.mark.parametrize(("first", "then"), [("en", "de"), ("de", "en")])
def test_figures_that_are_kept_are_told_in_the_language_of_each_who_reads_them(
    simulated: Database, first: str, then: str
) -> None:
    with speaking(language_of(first)):
        quality.report(simulated)
    with speaking(language_of(then)):
        kept = quality.report(simulated)
        told = quality_report.bias_meters(kept.position, kept.length) + quality_report.agreement_table(kept.agreement)
    english = ("Chose the left of two", "Which of two is better", "How much better")
    assert [sentence in told for sentence in english] == [then == "en"] * 3


def test_who_is_left_out_measures_nobody(simulated: Database) -> None:
    before = quality.report(simulated)
    exclusions.leave_out(simulated, "eve", "clicks", "owner")
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
    exclusions.decide_on(db, "bob", True, "Flags everything.", "kim")
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
    changed = own_judgements.latest(db, ids["ann"])[0].made.id
    changing.revise(db, ids["ann"], changed, act("tie"))
    assert [vote.ranking for vote in quality.votes(db)] == [(1, 1)]


def test_what_training_does_not_count_is_not_said_to_train(db: Database) -> None:
    """Not what is held out, flagged, or settled by somebody else; as many as training counts itself."""
    set_project(db, overlap=2)
    (ann, bob), numbers = people(db, "ann", "bob").values(), seed_comparisons(db, 4)
    (owner,) = people(db, "owner", role="admin").values()
    for _each in numbers:
        for person in (ann, bob):
            prefer(db, person, 0 if person == ann else 1)
    assert (quality.report(db).judgements, quality.report(db).comparisons) == (8, 4)
    settled = settling.settle_next(db, owner).comparison_id
    prefer(db, owner, 0)
    held_out, flagged = [number for number in numbers if number != settled][:2]
    db.write(
        """UPDATE prompt SET split = 'held-out' WHERE id = (SELECT prompt_id FROM comparison WHERE id = ?)""",
        (held_out,),
    )
    claim = handing_out.take_to_settle(db, owner, flagged)
    judging.judge(db, owner, claim.nonce, act("left-much", flag="broken"))
    figures = quality.report(db)
    assert (figures.judgements, figures.comparisons) == (3, 2)
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
    assert "Ways to judge</summary>" in said
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
