"""The strip and the Overview: what is next in every state of the loop, what is said, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from annotation.claims import backlog, handing_out, judged_counts, judging, own_prompts
from annotation.claims.backlog import Waiting
from annotation.claims.judged_counts import JudgedByOne
from annotation.database import Database
from annotation.imports.import_process import HERE, Importer
from annotation.jobs import job_table
from annotation.metrics.act_times import RicherAct
from annotation.metrics.intervals_and_bias import Estimate
from annotation.records import Annotator, Feedback, Project, now
from annotation.store import comparison_store, project_store
from annotation.tabs import project
from annotation.tabs.guard import Context
from annotation.web.middleware import ANNOTATOR_KEY
from annotation.web.watches import Watches
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions.candidate_decision import PendingDecision
from rlhf.evaluation.gate import Ruling
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store
from rlhf.loop import controller
from rlhf.loop.controller import FailedCheck
from rlhf.models import decision_store, registry
from rlhf.submission import job_submission
from rlhf.tabs.iterations import iterations_tab, loop_status
from rlhf.tabs.judges import judges_tab
from rlhf.tabs.overview import follow_endpoint, overview_card, overview_status, overview_tab
from rlhf.tabs.overview.next_steps import ENOUGH_STOCK, next_steps, richer_offer
from rlhf.tabs.train import automatic_training
from tests.conftest import BASE_NAME, act, make_response, seed_comparisons, seed_prompts
from tests.rlhf.evaluation.test_gate import DECIDED
from tests.rlhf.loop.test_controller import QUIET, unheard, unmeasured
from tests.rlhf.tabs.iterations.test_iterations_tab import check_candidate, judge, make_candidate
from tests.rlhf.tabs.jobs.test_job_cards import ADAPTER, JOB


def pending(verdict: Ruling, exhausted: bool = False, askable: bool = False) -> PendingDecision:
    """A candidate on which the rule says that."""
    return PendingDecision(ADAPTER, DECIDED[verdict], exhausted, askable)


OWNER = 1
CHECK = replace(JOB, kind="check", spec=CheckSpec(candidate="dpo-7"))
FAILED = FailedCheck(replace(JOB, status="failed"), failures=2, rested=True)


@pytest.mark.parametrize(
    ("changes", "waiting", "words", "address"),
    [
        ({}, 3, "Judge: 3 comparisons wait for you", "/annotate"),
        ({}, 1, "Judge: 1 comparison waits for you", "/annotate"),
        ({}, 0, "Import prompts or answers", "/data/import"),
        ({"new": 20}, 3, "Train on 20 new judgements", "/train"),
        (
            {"new": 20, "auto_train": replace(QUIET.auto_train, on=True)},
            3,
            "Judge: 3 comparisons wait for you",
            "/annotate",
        ),
        ({"active": (JOB,)}, 0, "Watch job 7", "/runs/7"),
        ({"new": 20, "active": (JOB,)}, 0, "Watch job 7", "/runs/7"),
        ({"broken": (replace(JOB, status="failed"),)}, 3, "Judge: 3 comparisons wait for you", "/annotate"),
        ({"pending": pending("promote")}, 3, "Decide on dpo-7", "/iterations/dpo-7"),
        ({"pending": pending("reject")}, 3, "Decide on dpo-7", "/iterations/dpo-7"),
        ({"pending": pending("promote"), "gate": "automatic"}, 3, "Compare answers of dpo-7", "/annotate"),
        ({"pending": pending("not enough evidence")}, 3, "Compare answers of dpo-7", "/annotate"),
        ({"pending": pending("not enough evidence")}, 0, "Look at dpo-7", "/iterations/dpo-7"),
        ({"pending": pending("not enough evidence", True)}, 3, "Check dpo-7 again", "/iterations/dpo-7"),
        ({"pending": unmeasured(), "gate": "automatic"}, 3, "Check dpo-7 again", "/iterations/dpo-7"),
        ({"pending": unmeasured(), "active": (CHECK,)}, 3, "Compare answers of dpo-7", "/annotate"),
        ({"pending": unheard(), "gate": "automatic"}, 3, "Decide on dpo-7", "/iterations/dpo-7"),
        ({"pending": unheard(), "active": (CHECK,)}, 0, "Watch job 7", "/runs/7"),
        ({"pending": replace(unheard(), askable=True)}, 0, "Look at dpo-7", "/iterations/dpo-7"),
        ({"pending": pending("not enough evidence", True, True)}, 0, "Look at dpo-7", "/iterations/dpo-7"),
        ({"pending": pending("not enough evidence", True), "active": (CHECK,)}, 0, "Watch job 7", "/runs/7"),
        ({"pending": pending("not enough evidence"), "active": (CHECK,)}, 0, "Watch job 7", "/runs/7"),
        ({"pending": pending("promote"), "active": (CHECK,)}, 0, "Decide on dpo-7", "/iterations/dpo-7"),
        (
            {"pending": pending("not enough evidence", True), "active": (JOB,)},
            0,
            "Check dpo-7 again",
            "/iterations/dpo-7",
        ),
        ({"unchecked": "dpo-7", "failed_checks": {"dpo-7": FAILED}}, 3, "Check dpo-7 again", "/iterations/dpo-7"),
        ({"unasked": "sft-8"}, 3, "Check sft-8", "/iterations/sft-8"),
        ({"unasked": "sft-8", "pending": pending("promote")}, 3, "Check sft-8", "/iterations/sft-8"),
        ({"unasked": "sft-8", "measurable": False}, 3, "Import held-out prompts to check sft-8", "/data/import"),
    ],
)
def test_in_every_state_the_next_step_is_a_link_to_where_it_is_done(
    changes: dict[str, Any], waiting: int, words: str, address: str
) -> None:
    first = next_steps(replace(QUIET, **changes), Waiting(waiting, {ADAPTER.id: waiting}), "lacking")[0]
    assert (first.words, first.address) == (words, address)


def test_the_newest_candidate_that_nothing_will_check_is_to_be_checked(context: Context) -> None:
    """As after supervised training, which asks for none; an older one of the kind was left for a newer."""
    db, base = context.db, registry.by_revision(context.db, "base").id
    db.write("UPDATE prompt SET split = 'held-out'")
    for name in ("sft-1", "sft-2"):
        job_id = job_store.enqueue(db, SFTSpec(snapshot="0" * 64), "owner")
        assert job_store.claim(db, job_id, "w") is not None
        made = {"algorithm": "sft", "base": BASE_NAME, "parent_id": base, "job_id": job_id, "path": "x", "sha256": ""}
        registry.add(db, revision=name, **made)
        assert job_table.finish(db, job_id, "w", {})
        assert overview_status.overview_status(db, OWNER).steps[0].words == f"Check {name}"
    job_store.enqueue(db, CheckSpec(candidate="sft-2"), "owner")
    assert not [step for step in overview_status.overview_status(db, OWNER).steps if "Check" in step.words]


def test_where_nothing_is_held_out_to_check_on_the_way_leads_to_the_import() -> None:
    (step, *_) = next_steps(replace(QUIET, unchecked="dpo-7", measurable=False), Waiting(3, {}), "coming")
    assert (step.words, step.address) == ("Import held-out prompts to check dpo-7", "/data/import")


def test_a_training_that_is_due_and_can_not_start_is_told_of_on_every_page(db: Database) -> None:
    db.insert("annotator", {"name": "owner", "role": "admin", "created": now()})
    automatic_training.store(db, True, 1, "dpo")
    judge(db, 9, "tie")  # nothing to learn from
    stuck = overview_status.overview_status(db, OWNER).steps[0]
    assert (stuck.words, stuck.address) == ("See why no training starts", "/iterations")
    judge(db, 8, "left-clearly")
    assert stuck not in overview_status.overview_status(db, OWNER).steps


def test_an_import_an_export_and_an_upload_are_called_at_work(context: Context) -> None:
    assert "Nothing runs" in overview_status.strip_of(context.db, OWNER)["html"]
    Importer(context.db).start("look", ["--", "a.jsonl"], [])
    assert HERE.claim_next(context.db, "w"), "which only shows somebody their first rows"
    for lane, kind, said in (
        ("web", "import", "An import is at work"),
        ("web", "export", "An export is at work"),
        ("hub", "publish", "An upload to the Hub is at work"),
    ):
        number = job_table.enqueue(
            context.db, lane, kind, '{"arguments": ["--json-progress", "--", "--look"]}', "owner"
        )
        assert said not in overview_status.strip_of(context.db, OWNER)["html"], "it waits"
        assert job_table.claim(context.db, number, "w")
        for html in (overview_status.strip_of(context.db, OWNER)["html"], overview_tab.overview_of(context.db, OWNER)):
            assert said in html
            assert "Nothing runs" not in html
        assert job_table.finish(context.db, number, "w", {})
    assert "Nothing runs" in overview_tab.overview_of(context.db, OWNER)


def test_after_a_training_that_came_to_nothing_a_person_can_train_where_none_starts_by_itself() -> None:
    state = replace(QUIET, new=20, spent=20, auto_train=replace(QUIET.auto_train, on=True))
    assert next_steps(state, Waiting(3, {}), "coming")[0].words == "Train on 20 new judgements"


def test_what_failed_comes_after_all_other_steps() -> None:
    state = replace(QUIET, new=20, pending=pending("promote"), broken=(replace(JOB, status="failed"),))
    said = [step.words for step in next_steps(state, Waiting(1, {}), "coming")]
    assert said == [
        "Decide on dpo-7",
        "Train on 20 new judgements",
        "Judge: 1 comparison waits for you",
        "See why job 7 ended",
    ]


def test_only_comparisons_of_the_candidate_are_called_that() -> None:
    state = replace(QUIET, pending=pending("not enough evidence"))
    assert next_steps(state, Waiting(3, {ADAPTER.id + 1: 3}), "coming")[0].words == "Look at dpo-7"


def test_who_can_judge_is_asked_to_before_they_watch_what_runs() -> None:
    said = [step.words for step in next_steps(replace(QUIET, active=(JOB,)), Waiting(3, {}), "coming")]
    assert said == ["Judge: 3 comparisons wait for you", "Watch job 7"]


def test_nobody_is_told_to_import_where_there_are_prompts() -> None:
    """As where AI judges judge all, or somebody has judged as many as they shall: then nothing waits for them."""
    assert next_steps(QUIET, Waiting(0, {}), "elsewhere") == []
    assert [step.address for step in next_steps(QUIET, Waiting(0, {}), "unwritten")] == ["/iterations"]


def test_rankings_are_offered_where_they_teach_more_and_nobody_would_wait() -> None:
    pairs, more = Project(), RicherAct(2.04, "minute")
    offered = richer_offer(pairs, more, ENOUGH_STOCK)
    assert offered is not None
    said = "Ask for rankings of 4: by our benchmark a minute teaches 2.0 times as much here"
    assert (offered.words, offered.address) == (said, "/project")
    assert richer_offer(pairs, more, ENOUGH_STOCK - 1) is None
    assert richer_offer(Project(kind="best", answers=4), more, ENOUGH_STOCK) is None
    assert richer_offer(pairs, None, ENOUGH_STOCK) is None


@pytest.fixture
def context(db: Database, data_dir: Path) -> Context:
    """A project with two people and twelve judgements."""
    with db.transaction() as connection:
        for name, role in (("owner", "admin"), ("ann", "annotator")):
            connection.execute("INSERT INTO annotator (name, role, created) VALUES (?, ?, ?)", (name, role, now()))
    judge(db, 12, "left-clearly")
    return Context(db, data_dir, BASE_NAME)


def test_the_strip_says_what_serves_what_was_judged_and_what_is_next(context: Context) -> None:
    seed_comparisons(context.db, 2)
    strip = overview_status.strip_of(context.db, OWNER)["html"]
    for words in (
        "base serves",
        "12 of 60 judged for the first training; possible from 8",
        "Nothing runs",
        "Judge: 2 comparisons wait for you",
    ):
        assert words in strip
    assert '<a class="button" href="/annotate">' in strip


def test_what_is_judged_while_the_first_training_runs_is_for_the_next_one(context: Context) -> None:
    job_id = job_submission.submit(context.db, context.db.path.parent, DPOSpec(), "owner")
    assert "0 of 60 judged for the next training" in overview_status.strip_of(context.db, OWNER)["html"]
    job_store.cancel(context.db, job_id)
    assert "12 of 60 judged for the first training" in overview_status.strip_of(context.db, OWNER)["html"]


def test_where_answers_are_on_their_way_nobody_is_told_to_import(context: Context) -> None:
    """As when the program starts for the first time, with its own prompts and no answer yet."""
    context.db.write("UPDATE comparison SET state = 'dropped'")
    job_store.enqueue(context.db, AnsweringSpec(), "the program")
    strip = overview_status.strip_of(context.db, OWNER)["html"]
    assert "<span>The next answers are on their way</span>" in strip
    project_store.set_feedback(context.db, Feedback(mode="ai"))
    assert "The next answers are on their way" not in overview_status.strip_of(context.db, OWNER)["html"], (
        "those are for the judges"
    )
    project_store.set_feedback(context.db, Feedback())
    context.db.write("UPDATE prompt SET split = 'held-out'")
    assert "The next answers are on their way" not in overview_status.strip_of(context.db, OWNER)["html"], (
        "there will be none"
    )
    assert "Import" not in strip


def test_nobody_is_told_to_wait_for_answers_that_nothing_writes(context: Context) -> None:
    """Without workers, and where the worker failed, fell silent, or finds too few different answers."""
    context.db.write("UPDATE comparison SET state = 'dropped'")

    def strip() -> str:
        return str(overview_status.strip_of(context.db, OWNER)["html"])

    why = '<a class="button" href="/iterations">No answers are being written: see why</a>'
    assert why in strip()
    worker = job_store.enqueue(context.db, AnsweringSpec(), "the program")
    assert "The next answers are on their way" in strip()
    context.db.connection.execute("UPDATE job SET created = '2026-01-01T00:00:00.000000+00:00'")
    assert why in strip(), "a program that ended left it, and this one starts no workers"
    reason = iterations_tab.status_part(context.db, controller.state_of(context.db))["value"]
    assert "No model is writing answers here." in reason
    assert job_store.claim(context.db, worker, "w") is not None
    assert "The next answers are on their way" in strip()
    assert "answering worker" not in iterations_tab.status_part(context.db, controller.state_of(context.db))["value"]
    job_table.explain(context.db, worker, "w", "too-few-answers", "Too few")
    assert why in strip()
    job_table.report(context.db, worker, "w", 1, 0, {}, "24 in stock")
    assert "The next answers are on their way" in strip()
    context.db.connection.execute("UPDATE job SET heartbeat = '2026-01-01T00:00:00.000000+00:00'")
    assert why in strip()
    job_table.stop(context.db, worker, "w", "failed", "Out of memory")
    assert why in strip()


def test_today_says_when_somebody_judged_last_and_not_when_that_was_handed_out(context: Context) -> None:
    seed_comparisons(context.db, 1)
    claim = handing_out.claim_next(context.db, OWNER)
    assert claim is not None
    today = now()[:10]
    handed_out = (f"{today}T00:00:00.000000+00:00", claim.nonce)
    context.db.connection.execute("UPDATE claim SET created = ? WHERE nonce = ?", handed_out)
    judging.judge(context.db, OWNER, claim.nonce, act("tie"))
    (own,) = [one for one in judged_counts.judged_by_each(context.db, today) if one.name == "owner"]
    judged = context.db.value("SELECT max(created) FROM judgement WHERE annotator_id = ?", (OWNER,))
    assert own.latest == judged


def test_what_was_judged_today_counts_for_today_whenever_it_was_handed_out(context: Context) -> None:
    """Handed out ten minutes before it was judged, and midnight in between or not."""
    db, midnight = context.db, datetime(2026, 3, 2, tzinfo=UTC)
    db.connection.execute("DROP TRIGGER judgement_no_update")
    for minutes, today in ((5, 12), (15, 12), (-5, 0)):
        judged = midnight + timedelta(minutes=minutes)
        times = (judged, judged - timedelta(minutes=10))
        for table, at in zip(("judgement", "claim"), times, strict=True):
            db.connection.execute(f"UPDATE {table} SET created = ?", (at.isoformat(timespec="microseconds"),))
        assert judged_counts.judged_by(db, OWNER, midnight.isoformat(timespec="microseconds")) == today
        assert sum(one.count for one in judged_counts.judged_by_each(db, "2026-03-02")) == today


def test_the_strip_counts_what_its_reader_would_be_given(context: Context) -> None:
    """Neither what they judged or is assigned to others, nor what others asked, are to decide or have skipped."""
    db, ann = context.db, 2
    project_store.set_project(db, replace(project_store.project(db), overlap=2, candidate_share=0.0))
    made = seed_comparisons(db, 4)
    while (claim := handing_out.claim_next(db, OWNER)) is not None and claim.comparison_id != made[-1]:
        judging.judge(db, OWNER, claim.nonce, act("tie"))
    (prompt,) = seed_prompts(db, 1)[-1:]
    asked = own_prompts.ask(db, ann, list(prompt.messages))
    comparison_store.begin_answers(db, [make_response(prompt, f"Way {seed}", seed=seed) for seed in range(2)], asked)
    assert backlog.waiting_for(db, OWNER).count == 1, "what is in hand"
    assert "Judge: 1 comparison waits for you" in overview_status.strip_of(db, OWNER)["html"]
    assert backlog.waiting_for(db, ann).count == len(judged_in_turn(db, ann))
    db.connection.execute("UPDATE annotator SET quota = 1 WHERE id = ?", (OWNER,))
    assert "Import" not in overview_status.strip_of(db, OWNER)["html"], "prompts are there"
    assert "Nothing waits for you." in overview_tab.overview_of(db, OWNER), "they have judged as many as they shall"


def test_what_waits_for_people_is_the_same_number_wherever_it_is_said(context: Context) -> None:
    """What is in somebody's hands waits as well, until it is judged."""
    db = context.db
    seed_comparisons(db, 3)
    for waits in (3, 2):
        claim = handing_out.claim_next(db, OWNER)
        assert claim is not None
        assert f"Judge: {waits} comparisons wait for you" in overview_status.strip_of(db, OWNER)["html"]
        assert f"waiting for people: {waits} with 2 answers ·" in project.counts_card(db)
        shown = judges_tab.view(context, None, {})[0]["standing"]["value"]
        assert f"<dt>Waiting for people</dt><dd>{waits}</dd>" in shown
        judging.judge(db, OWNER, claim.nonce, act("tie"))


def judged_in_turn(db: Database, annotator_id: int) -> list[int]:
    """Judge whatever there is for an annotator, which is written to its end by then; the comparisons."""
    done = []
    while (claim := handing_out.claim_next(db, annotator_id)) is not None:
        db.write("UPDATE response SET state = 'done' WHERE state = 'writing'")
        done.append(claim.comparison_id)
        judging.judge(db, annotator_id, claim.nonce, act("tie"))
    return done


def test_the_strip_offers_rankings_beside_what_is_next(context: Context) -> None:
    """Twelve pairs were judged, in eight seconds each, and as many wait."""
    assert "Ask for rankings" not in overview_status.strip_of(context.db, OWNER)["html"]
    seed_comparisons(context.db, ENOUGH_STOCK)
    context.db.connection.execute("DROP TRIGGER judgement_no_update")
    context.db.connection.execute("UPDATE judgement SET seconds = 8")
    strip = overview_status.strip_of(context.db, OWNER)["html"]
    assert "Ask for rankings of 4: in our benchmark one taught 4.1 times as much" in strip
    assert '<a class="button" href="/annotate">' in strip
    assert '<a href="/project">' in strip, "only what is next is a button"


def test_only_an_admin_is_sent_the_strip(context: Context) -> None:
    endpoint = follow_endpoint.FollowEndpoint(context.db, Watches(context.db))
    (route,) = endpoint.routes()
    assert route.path == f"/{follow_endpoint.ADDRESS}"
    for role, status in (("admin", 200), ("annotator", 403), (None, 403)):
        known = {} if role is None else {ANNOTATOR_KEY: Annotator(id=1, name="kim", role=role)}
        request = Request({"type": "http", "query_string": b"of=strip+1", **known})
        answer = asyncio.run(endpoint.follow(request))
        assert answer.status_code == status
        assert (b"base serves" in bytes(answer.body)) == (status == 200)


def test_a_page_is_told_what_has_changed_and_nothing_of_the_rest(context: Context) -> None:
    watches, kim = Watches(context.db), Annotator(id=1, name="kim", role="admin")
    endpoint = follow_endpoint.FollowEndpoint(context.db, watches)
    strip = endpoint.changes(kim, [("strip", "")])["strip"]
    watches.keep(kim, "pulse", lambda person: str(judged_by(context.db)), str(judged_by(context.db)), live=False)
    asked = [("strip", strip["mark"]), ("pulse", str(judged_by(context.db))), ("unknown", "1")]
    assert endpoint.changes(kim, asked) == {"strip": None, "pulse": None, "unknown": True}
    judge(context.db, 1, "left-clearly")
    found = endpoint.changes(kim, asked)
    assert "13 of 60 judged" in found["strip"]["html"]
    assert found["pulse"] is True
    assert endpoint.changes(Annotator(id=2, name="lee", role="admin"), asked)["pulse"] is True, "it is kim's"


def judged_by(db: Database) -> int:
    """How many judgements there are."""
    return int(db.value("SELECT count(*) FROM judgement"))


def test_the_title_says_what_runs_and_how_it_ended(context: Context) -> None:
    job = replace(JOB, step=4, steps=10)
    assert overview_card.title_of(job) == "Training 40%"
    assert overview_card.title_of(replace(job, steps=0)) == "Training …"
    for status, word in (("finished", "Done"), ("failed", "Failed"), ("lost", "Lost"), ("cancelled", "Cancelled")):
        assert overview_card.ended_words(replace(JOB, status=status)).startswith(f"{word} · ")
    queued = job_store.enqueue(context.db, SFTSpec(snapshot="0" * 64), "owner")
    waits = overview_status.strip_of(context.db, OWNER)
    assert (waits["open"], waits["said"]) == ([queued], "")
    assert job_store.claim(context.db, queued, "w") is not None
    found = overview_status.strip_of(context.db, OWNER)
    assert (found["open"], found["said"], found["over"]) == ([queued], "Training …", {})
    assert "Notify me" in found["html"]
    job_table.finish(context.db, queued, "w", {})
    found = overview_status.strip_of(context.db, OWNER)
    assert (found["open"], found["said"]) == ([], "")
    assert found["over"][str(queued)].startswith("Done · ")
    assert "Notify me" not in found["html"]


def test_more_than_enough_is_no_share() -> None:
    found = overview_card.OverviewStatus(serves="dpo-3", judged=600, wanted=60, running=None, left=None, steps=())
    assert overview_card.judged_words(found) == "600 judged for the next training; 60 are enough"
    assert overview_card.judged_words(replace(found, judged=60)) == "60 of 60 judged for the next training"


def test_thousands_are_told_apart_wherever_they_are_counted() -> None:
    many = overview_card.OverviewStatus(serves="base", judged=1443, wanted=1000, running=None, left=None, steps=())
    assert overview_card.judged_words(many) == "1,443 judged for the next training; 1,000 are enough"
    state = replace(QUIET, new=1443)
    steps = next_steps(state, Waiting(2500, {}), "coming")
    assert [step.words for step in steps] == ["Train on 1,443 new judgements", "Judge: 2,500 comparisons wait for you"]
    assert "Collecting new judgements: 1,443; 20 are enough." in loop_status.collecting(state)
    today = overview_card.today_table([JudgedByOne("ann", 1200, now())])
    assert "People: 1,200 judgements today" in today
    assert today.count("1,200") == 2


def test_the_page_knows_all_that_runs_or_waits_and_what_ended_last_however_much_waits(context: Context) -> None:
    spec = SFTSpec(snapshot="0" * 64)
    here, away, *rest = [
        job_store.enqueue(context.db, spec, "owner", "a10g-small" if number == 1 else None)
        for number in range(overview_status.ENDED_JOBS + 3)
    ]
    for number in (here, away):
        assert job_store.claim(context.db, number, "w") is not None
    assert sorted(overview_status.strip_of(context.db, OWNER)["open"]) == [here, away, *rest]
    job_table.stop(context.db, here, "w", "failed", "Out of memory.")
    found = overview_status.strip_of(context.db, OWNER)
    assert sorted(found["open"]) == [away, *rest]
    assert list(found["over"]) == [str(here)]


def test_the_strip_says_what_runs_and_how_long_it_takes() -> None:
    found = overview_card.OverviewStatus(
        serves="dpo-3", judged=5, wanted=60, running=replace(JOB, step=4, steps=10), left=125.0, steps=()
    )
    assert "40%, at most about 2 min 5 s left" in overview_card.strip(found)
    assert "<a " not in overview_card.strip(found)
    assert "preparing" in overview_card.strip(replace(found, running=replace(JOB, step=0, steps=0), left=None))
    for status, said in (("queued", "waiting"), ("cancelling", "stopping")):
        stands = replace(found, running=replace(JOB, status=status, step=4, steps=10), left=None)
        assert f": {said}" in overview_card.strip(stands)
        assert ("40" in overview_card.running_part(stands, "")) is (status == "cancelling")


def test_the_overview_says_who_judged_today_and_whether_it_got_better(context: Context) -> None:
    before = overview_tab.overview_of(context.db, OWNER)
    assert "People: 12 judgements today (UTC)." in before
    assert "<td>owner</td>" in before
    assert "Nothing has been trained yet." in before
    policy = make_candidate(context)
    check_candidate(context, policy)
    after = overview_tab.overview_of(context.db, OWNER)
    assert f"The candidate {policy.revision}:" in after
    assert "Nobody has compared it with base yet." in after
    assert "No candidate waits" not in after


def test_every_candidate_is_named_that_nobody_has_decided_on_with_what_it_waits_for(context: Context) -> None:
    first = make_candidate(context)

    def overview() -> str:
        return overview_tab.overview_of(context.db, OWNER)

    def named(revision: str) -> str:
        return f'<a href="/iterations/{revision}">{revision}</a>'

    assert f"{named(first.revision)}: It has not been checked yet." in overview()
    check = job_submission.submit(context.db, context.data_dir, CheckSpec(candidate=first.revision), "the loop")
    assert f"{named(first.revision)}: It waits for its check (job {check}, first in the queue)." in overview()
    assert job_store.claim(context.db, check, "e") is not None
    assert f"{named(first.revision)}: Job {check} is checking it." in overview()
    job_table.stop(context.db, check, "e", "failed", "Memory ran out")
    assert f"Job {check} (check of {first.revision}) failed: Memory ran out." in overview()
    assert "No candidate waits" not in overview()
    check_candidate(context, first)
    second = make_candidate(context)
    check_candidate(context, second)
    assert f"The candidate {second.revision}:" in overview()
    assert f"{named(first.revision)}: Nobody has compared it with base yet." in overview()
    decision_store.promote(context.db, second.revision, "owner")
    assert f"The gate counts checks against {second.revision}, which serves now;" in overview()
    decision_store.reject(context.db, first.revision, "owner")
    assert "No candidate waits for a decision." in overview()


def test_the_overview_draws_how_those_did_that_were_decided_on(context: Context) -> None:
    """Each against what served then; of one alone only where what serves says nothing of it."""
    project_store.set_project(context.db, replace(project_store.project(context.db), candidate_share=0.5))
    for before in range(2):
        policy = make_candidate(context)
        check_candidate(context, policy)
        iterations_tab.ask_people(context.db, policy.revision)
        judge(context.db, 40, "left-clearly")
        assert "overview-course" not in overview_tab.overview_of(context.db, OWNER)
        decision_store.promote(context.db, policy.revision, "owner")
        assert ("overview-course" in overview_tab.overview_of(context.db, OWNER)) == (before > 0)
    drawn = overview_tab.overview_of(context.db, OWNER)
    assert "Candidates decided on, oldest first" in drawn
    assert drawn.count('class="interval"') == 2
    undecided = make_candidate(context)
    check_candidate(context, undecided)
    iterations_tab.ask_people(context.db, undecided.revision)
    judge(context.db, 40, "left-clearly")
    decision_store.reject(context.db, undecided.revision, "owner")
    decision_store.take_back_rejection(context.db, undecided.revision, "owner")
    assert overview_tab.overview_of(context.db, OWNER).count('class="interval"') == 2


def test_of_one_candidate_that_was_rejected_the_overview_says_how_it_did(context: Context) -> None:
    project_store.set_project(context.db, replace(project_store.project(context.db), candidate_share=0.5))
    policy = make_candidate(context)
    check_candidate(context, policy)
    iterations_tab.ask_people(context.db, policy.revision)
    judge(context.db, 40, "right-clearly")
    decision_store.reject(context.db, policy.revision, "owner")
    assert "Candidates decided on" in overview_tab.overview_of(context.db, OWNER)


def test_what_judges_gave_and_what_was_imported_came_in_too(context: Context) -> None:
    context.db.connection.execute("DROP TRIGGER judgement_no_update")
    context.db.connection.execute("UPDATE judgement SET created = '2026-03-01T10:00:00.000000+00:00'")
    context.db.connection.execute("UPDATE claim SET created = '2026-03-01T10:00:00.000000+00:00'")
    before = overview_tab.overview_of(context.db, OWNER)
    assert "No person has judged anything today (UTC)." in before
    for absent in ("AI judges: ", "import today"):
        assert absent not in before
    judged_by_ai(context.db, seed_comparisons(context.db, 2))
    row = {"name": "a.jsonl", "sha256": "0" * 64, "format": "jsonl", "counts": "{}", "requested_by": "owner"}
    context.db.insert("import", {**row, "created": now()})
    after = overview_tab.overview_of(context.db, OWNER)
    assert "AI judges: 2 judgements today." in after
    assert "1 import today." in after


def judged_by_ai(db: Database, comparisons: Sequence[int]) -> None:
    """What a judge has said of these comparisons today."""
    row = {"name": "Ada", "role": "annotator", "kind": "ai", "active": 0, "created": now()}
    judge_id = db.insert("annotator", row)
    said = {"annotator_id": judge_id, "purpose": "judge", "kind": "pair", "outcome": "ranked", "ranking": "[0, 1]"}
    for number in comparisons:
        db.insert("judgement", {**said, "comparison_id": number, "shown_order": "[0, 1]", "created": now()})


def test_a_name_is_text() -> None:
    assert "&lt;b&gt;" in overview_card.today_table([JudgedByOne("<b>", 2, now())])


@pytest.mark.parametrize(("count", "words"), [(1, "on 1 prompt ("), (40, "on 40 prompts (")])
def test_what_serves_is_preferred_on_so_many_prompts(count: int, words: str) -> None:
    """However many comparisons of one there were."""
    assert words in overview_card.record_of("dpo-3", Estimate(0.6, 0.45, 0.74, count))
