"""The Iterations tab on a real data directory, and that every handler of it and of the Train tab is guarded."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.claims import backlog, handing_out, judging
from annotation.database import Database
from annotation.jobs import job_table
from annotation.metrics import quality
from annotation.records import UserError, now
from annotation.store import comparison_store, policy_comparisons, project_store, prompt_store
from annotation.tabs import address
from annotation.tabs.guard import Context
from annotation.web import access
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.data import held_out_sets
from rlhf.evaluation import gate, rule_store
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import peoples_decisions
from rlhf.evaluation.gate import COUNTS, Rule
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.loop import controller
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy
from rlhf.submission import job_submission, preconditions
from rlhf.tabs.iterations import gate_form, iterations_tab
from rlhf.tabs.jobs import policy_decisions
from rlhf.tabs.runs import run_report
from rlhf.tabs.train import automatic_training, train_and_runs
from tests.conftest import BASE_NAME, act, make_response, seed_comparisons, seed_prompts, shown_texts
from tests.handlers import asked_by

pytestmark = pytest.mark.slow


@pytest.fixture
def context(db: Database, data_dir: Path) -> Context:
    """A data directory with an admin, an annotator, and 14 judgements: 12 pairs to train on, a tie and a skip."""
    with db.transaction() as connection:
        for name, role in (("owner", "admin"), ("ann", "annotator")):
            connection.execute("INSERT INTO annotator (name, role, created) VALUES (?, ?, ?)", (name, role, now()))
    judge(db, 12, "left-clearly")
    judge(db, 1, "tie")
    judge(db, 1, "skip")
    return Context(db, data_dir, BASE_NAME)


@pytest.fixture
def pages(context: Context) -> gr.Blocks:
    """Both tabs, built as the app builds them."""
    with gr.Blocks() as demo:
        guide = address.guide()
        with gr.Tabs():
            train_and_runs.build(demo, context, guide)
            with gr.Tab("Iterations"):
                iterations_tab.build(demo, context)
    return demo


def judge(db: Database, count: int, word: str) -> None:
    """Make comparisons and judge them all with one word."""
    owner = db.value("SELECT id FROM annotator WHERE name = 'owner'")
    seed_comparisons(db, count)
    for _ in range(count):
        claim = handing_out.claim_next(db, owner)
        assert claim is not None
        judging.judge(db, owner, claim.nonce, act(word))


def run_job(context: Context, job_id: int, steps: int, total: int = 20) -> None:
    """Claim a job and report its first steps, as a worker would."""
    assert job_store.claim(context.db, job_id, "w") is not None
    for step in range(1, steps + 1):
        metrics = {"loss": 1 / step, "rewards/margins": step / 10, "rewards/accuracies": 0.5, "rewards/chosen": 0.1}
        assert job_table.report(context.db, job_id, "w", step, total, metrics, "Training")
    job_table.log(context.db, job_id, "step <b>done</b>")


def make_candidate(context: Context) -> Policy:
    """A finished training with its adapter."""
    job_id = job_submission.submit(context.db, context.data_dir, DPOSpec(), requested_by="owner")
    run_job(context, job_id, 20)
    spec = job_store.get(context.db, job_id).spec
    assert isinstance(spec, DPOSpec)
    files = context.data_dir / "adapters" / f"dpo-{job_id}"
    files.mkdir(parents=True)
    (files / "adapter_model.safetensors").write_bytes(b"weights")
    policy = registry.add(
        context.db,
        revision=f"dpo-{job_id}",
        algorithm="dpo",
        base=BASE_NAME,
        parent_id=registry.by_revision(context.db, spec.parent).id,
        job_id=job_id,
        path=f"adapters/dpo-{job_id}",
        sha256=directory_sha256(files),
    )
    result = {"trained_on": 12, "left_out": {"too-long": 2}, "final": {"loss": 0.6125}, "snapshot": spec.snapshot}
    assert job_table.finish(context.db, job_id, "w", result)
    return policy


def check_candidate(context: Context, policy: Policy, prompts: int = 12, sound: bool = False) -> int:
    """A finished check of a candidate against the serving policy, with the answers of both.

    It leaves out some of what the rule asks, unless it is `sound`.
    """
    spec = CheckSpec(candidate=policy.revision)
    job_id = job_submission.submit(context.db, context.data_dir, spec, requested_by="the loop")
    assert job_store.claim(context.db, job_id, "e") is not None
    against = registry.serving(context.db)
    seed_comparisons(context.db, prompts, "held-out")
    for number, prompt in enumerate(prompt_store.prompts(context.db, "held-out")):
        for side in (policy, against):
            answer = make_response(prompt, f"<think>{side.revision}</think> answers {number}", side.id, 20_000 + number)
            comparison_store.add_response(context.db, answer, "check")
    figures: dict[str, Any] = {
        "mean_length": 20.0,
        "distinct_1": 0.3,
        "distinct_2": 0.8,
        "kl_to_anchor": 0.0712,
        "nll_under_anchor": 1.2,
    }
    if sound:
        figures |= {
            "ended_share": 0.9,
            "perplexity": 14.0,
            "probes": {"asked": "a", "precision": "nf4", "chances": {"x": [0.9, 0.7]}},
        }
    result: dict[str, Any] = {
        "candidate": {"revision": policy.revision, "ended_share": 0.9, **figures},
        "against": {"revision": against.revision, **figures},
        "anchor": {"revision": "base", **figures},
        "implicit_accuracy": {"value": 0.75, "low": 0.6, "high": 0.86, "n": 40},
        "prompts": prompts,
        "seconds": 3.0,
    }
    if sound:
        result |= {"win_rates": {}, "judged": {}, "same_answers": 0, "reward_hacking": None, "prompts": 60}
    assert job_table.finish(context.db, job_id, "e", result)
    return job_id


SELECTOR = 1  # among the parts


def handler(pages: gr.Blocks, name: str) -> Any:
    """A registered function, as Gradio calls it."""
    return next(block.fn for block in pages.fns.values() if block.fn.__name__ == name)


# -------------------------------------------------------------------------------------------------------------- guard
def test_every_listener_is_for_admins_only(pages: gr.Blocks) -> None:
    assert len(pages.fns) >= 16
    assert {getattr(block.fn, "required_role", None) for block in pages.fns.values()} == {"admin"}


def test_an_annotator_is_refused_by_every_listener(pages: gr.Blocks, context: Context) -> None:
    for block in pages.fns.values():
        with pytest.raises(gr.Error, match="Only an admin"):
            block.fn(*asked_by("ann", block.fn), *(None for _ in block.inputs))
    assert job_store.recent(context.db, job_store.waiting_kinds()) == []


def test_the_page_that_everyone_is_sent_holds_no_rows(context: Context) -> None:
    policy = make_candidate(context)
    check_candidate(context, policy)
    with gr.Blocks() as demo:
        guide = address.guide()
        with gr.Tabs():
            train_and_runs.build(demo, context, guide)
            with gr.Tab("Iterations"):
                iterations_tab.build(demo, context)
    sent = str(demo.get_config_file())
    for secret in (policy.revision, "owner", "answers 0", "0.0712"):
        assert secret not in sent


# --------------------------------------------------------------------------------------------------------- iterations
def test_before_the_first_training_the_base_serves_unmeasured(context: Context) -> None:
    parts, _ = iterations_tab.view(context, None, 0, {})
    assert "<b>base</b>" in parts["serving"]["value"]
    offered = ("promote", "reject", "ask", "check", "judges", "why")
    assert not any(parts[name]["visible"] for name in offered), "there is nothing to be done with it"
    folds = ("side_by_side", "figures", "over_fold", "selector")
    assert not any(parts[name]["visible"] for name in folds), "nothing is in them"
    assert parts["gate"]["value"] == parts["report"]["value"] == ""
    assert parts["decisions"]["value"] == ""


def test_who_has_chosen_nothing_is_shown_the_next_candidate(pages: gr.Blocks, context: Context) -> None:
    visit, poll, choose = (handler(pages, name) for name in ("open_iterations", "poll_iterations", "choose_policy"))
    *_parts, opened, _told = visit(*asked_by("owner", visit, part=""))
    *_parts, chosen, _told = choose(*asked_by("owner", choose), "base", opened)
    first = make_candidate(context).revision
    *parts, seen, told, _pulse = poll(*asked_by("owner", poll), "base", opened)
    assert parts[SELECTOR]["value"] == first
    assert json.loads(told)[1:] == ["view", "", f"/{first}"]
    *parts, _seen, _told, _pulse = poll(*asked_by("owner", poll), "base", chosen)
    assert parts[SELECTOR]["value"] == "base", "somebody looks at what they have chosen"
    second = make_candidate(context).revision
    *parts, seen, _told, _pulse = poll(*asked_by("owner", poll), first, seen)
    assert parts[SELECTOR]["value"] == first, "somebody looks at a candidate"
    decision_store.reject(context.db, first, "the gate", "worse")
    *parts, seen, _told, _pulse = poll(*asked_by("owner", poll), first, seen)
    assert parts[SELECTOR]["value"] == second
    decision_store.reject(context.db, second, "the gate", "worse")
    *parts, _seen, _told, _pulse = poll(*asked_by("owner", poll), second, seen)
    assert parts[SELECTOR]["value"] == second, "what became of it is told until there is another"


def test_a_question_that_is_faster_than_the_visit_shows_no_other_policy(pages: gr.Blocks, context: Context) -> None:
    """On a slow machine the page asks what has changed before it is told what its address names."""
    make_candidate(context)
    visit, poll = (handler(pages, name) for name in ("open_iterations", "poll_iterations"))
    *parts, told, pulse = poll(*asked_by("owner", poll), None, {})
    assert [part for part in parts if part != gr.skip()] == []
    assert pulse != poll(*asked_by("owner", poll), None, {})[-1], "it asks again"
    *_parts, seen, _told = visit(*asked_by("owner", visit, part="/base"))
    *parts, _seen, told, _pulse = poll(*asked_by("owner", poll), None, seen)
    assert told == gr.skip()
    assert parts[SELECTOR] == gr.skip(), "the base is shown, as was asked for"


def test_a_checked_candidate_is_reported_with_answers_side_by_side(context: Context) -> None:
    policy = make_candidate(context)
    check_candidate(context, policy)
    parts, seen = iterations_tab.view(context, None, 0, {})
    assert parts["selector"]["value"] == policy.revision
    assert all(parts[name]["visible"] for name in ("side_by_side", "figures", "selector"))
    assert not parts["over_fold"]["visible"], "of one check there is no course"
    assert "75% (60–86%, n = 40)" in parts["report"]["value"]
    assert policy.revision in parts["history"]["value"]
    page = parts["answers"]["value"]
    assert page.count('class="pair"') == iterations_tab.PAGE_SIZE
    plain = page.replace("<mark>", "").replace("</mark>", "")
    assert f"&lt;think&gt;{policy.revision}&lt;/think&gt; answers 0" in plain
    assert "&lt;think&gt;<mark>base</mark>&lt;/think&gt; answers 0" in page
    assert parts["next"]["interactive"]
    again, seen = iterations_tab.view(context, policy.revision, 0, seen)
    assert {"answers", "report", "history", "selector"}.isdisjoint(again)
    turned, seen = iterations_tab.view(context, policy.revision, 2, seen)
    assert turned["answers"]["value"].count('class="pair"') == 4
    assert not turned["next"]["interactive"]
    assert iterations_tab.page_of(seen) == 2


def test_there_are_no_more_pages_of_answers_than_there_are(pages: gr.Blocks, context: Context) -> None:
    policy = make_candidate(context)
    check_candidate(context, policy)
    visit = handler(pages, "open_iterations")
    *parts, _seen, told = visit(*asked_by("owner", visit, part=f"/{policy.revision}?page=99"))
    assert "Prompts 9 to 12 of 12" in str(parts)
    assert {"visible": True, "open": True, "__type__": "update"} in parts, "the answers are unfolded"
    assert json.loads(told)[2] == f"/{policy.revision}?page=3"
    (_parts, seen), again = iterations_tab.view(context, policy.revision, 99, {}), iterations_tab.page_of
    assert again(seen) == 2
    assert "answers" not in iterations_tab.view(context, policy.revision, again(seen), seen)[0]


def test_a_policy_that_was_typed_and_is_none_is_said_to_be_none(pages: gr.Blocks, context: Context) -> None:
    policy = make_candidate(context)
    choose = next(block for block in pages.fns.values() if block.fn.__name__ == "choose_policy")
    seen = iterations_tab.view(context, policy.revision, 0, {})[1]
    *sent, told = choose.fn(*asked_by("owner", choose.fn), "of mine", seen)
    assert "There is no policy of mine; this is another one." in str(sent)
    assert sent[choose.outputs.index(choose.inputs[0])]["value"] == policy.revision
    assert json.loads(told)[2] == ""
    follow = handler(pages, "poll_iterations")
    follow(*asked_by("owner", follow), "of mi", seen)  # while it is typed


def test_what_waits_is_told_by_who_wrote_it(context: Context) -> None:
    """After a promotion the earlier policy's comparisons wait behind the new one's."""
    seed_comparisons(context.db, 3)
    policy = make_candidate(context)
    decision_store.promote(context.db, policy.revision, "owner")
    seed_comparisons(context.db, 2, model_id=policy.id)
    card = iterations_tab.view(context, None, 0, {})[0]["serving"]["value"]
    assert "2 for training, 0 held-out" in card
    assert "<dd>3 by other policies or imported</dd>" in card


def test_an_unchecked_candidate_is_not_measured(context: Context) -> None:
    make_candidate(context)
    seed_prompts(context.db, 1, "held-out")
    parts, _ = iterations_tab.view(context, None, 0, {})
    assert parts["gate"]["value"].count("not been checked") == 1
    assert parts["report"]["value"] == ""
    assert "check it again" not in str(parts).lower(), "it has not been checked once"
    assert parts["check"] == gr.update(value="Check it", visible=True, variant="secondary")
    assert "The check starts within seconds." in parts["standing"]["value"]
    job_id = job_store.enqueue(context.db, JudgeSpec(judge="helper"), "owner")
    parts, _ = iterations_tab.view(context, None, 0, {})
    assert f"The check starts after job {job_id} (" in parts["gate"]["value"], "what is done meanwhile is said above"


def test_while_a_check_runs_the_page_says_how_far_it_is_and_asks_for_no_other(context: Context) -> None:
    policy = make_candidate(context)
    job_id = job_submission.submit(context.db, context.data_dir, CheckSpec(candidate=policy.revision), "the loop")
    parts, seen = iterations_tab.view(context, None, 0, {})
    assert f"It waits for its check (job {job_id}, first in the queue)." in parts["gate"]["value"]
    assert "being checked" not in parts["gate"]["value"], "nothing runs yet"
    assert not parts["promote"]["visible"], "no rule has said anything yet that it could be against"
    assert (parts["reject"]["visible"], parts["why"]["label"]) == (True, "Why (for the record)")
    run_job(context, job_id, 4, 247)
    parts, seen = iterations_tab.view(context, None, 0, seen)
    assert f"Job {job_id} is checking it: step 4 of 247." in parts["gate"]["value"]
    shown = iterations_tab.view(context, None, 0, {})[0]
    assert not shown["check"]["visible"]
    for untrue in ("not been checked", "check it again", "checked yet"):
        assert untrue not in str(shown).lower()
    job_table.stop(context.db, job_id, "w", "failed", "Memory <b>ran out</b>.")
    parts, _ = iterations_tab.view(context, None, 0, seen)
    said = (
        f"Job {job_id} (check of {policy.revision}) failed: Memory &lt;b&gt;ran out&lt;/b&gt;. "
        f"Check it again, or resume job {job_id}."
    )
    assert said in parts["gate"]["value"]
    assert parts["check"] == gr.update(value="Check it", visible=True, variant="secondary"), "the loop retries"


def test_a_promotion_against_the_rule_is_asked_for_its_reason_and_refused_without(
    pages: gr.Blocks, context: Context
) -> None:
    policy, owner = make_candidate(context), gr.Request(username="owner")
    check_candidate(context, policy)
    shown, seen = iterations_tab.view(context, policy.revision, 0, {})
    assert shown["promote"]["value"] == "Promote against the rule"
    assert shown["why"]["visible"]
    assert shown["why"]["label"] == "Why (needed to promote it against the rule)"
    assert "The rule says: not enough evidence." in shown["gate"]["value"]
    promote, really = handler(pages, "promote_policy"), handler(pages, "promote_all_the_same")
    with pytest.raises(gr.Error, match="Press “Promote against the rule” first"):
        really(owner, policy.revision, "I read ten of them", seen)
    unsaid = promote(owner, policy.revision, " ", seen)
    assert "Say why in the field above." in str(unsaid)
    asked = promote(owner, policy.revision, "I read ten of them", seen)
    assert registry.serving(context.db).revision == "base", "it asks first"
    assert f"Let {policy.revision} serve although the rule does not promote it? Say why" in str(asked)
    confirming = asked[-1]
    assert confirming["confirming"] == policy.revision
    kept = handler(pages, "promote_not")(owner, policy.revision, "", confirming)[-1]
    assert kept["confirming"] is None
    sentences = set()
    for sent in ("", "   ", None, 7, ["it is good"], {"why": "x"}):
        unsaid = str(really(owner, policy.revision, sent, confirming))
        assert "Against the rule it takes a reason: say why in the field above." in unsaid
        assert "'confirming': " + repr(policy.revision) in unsaid
        sentences.add(unsaid)
    assert len(sentences) == 6, "each is drawn anew, so that it is heard"
    assert registry.serving(context.db).revision == "base"
    said = str(really(owner, policy.revision, "I read <b>ten</b> of them", confirming))
    assert f"{policy.revision} serves now, against the rule." in said
    assert registry.serving(context.db).revision == policy.revision
    shown, _ = iterations_tab.view(context, "base", 0, {})
    assert "I read &lt;b&gt;ten&lt;/b&gt; of them. The rule said: not enough evidence." in shown["decisions"]["value"]
    assert (shown["promote"]["value"], shown["why"]["label"]) == ("Go back to this one", "Why (for the record)")
    assert "Undo: base serves again" in shown["decisions"]["value"]
    assert "serves now." in str(promote(owner, "base", "", {})), "going back needs no reason and no question"
    shown, _ = iterations_tab.view(context, policy.revision, 0, {})
    assert shown["promote"]["value"] == "Promote against the rule", "as before it was gone back from"
    assert f"Let {policy.revision} serve although the rule does not promote it?" in str(
        promote(owner, policy.revision, "", {})
    )
    assert registry.serving(context.db).revision == "base"


def test_what_somebody_has_decided_meanwhile_is_not_overruled_unseen(pages: gr.Blocks, context: Context) -> None:
    policy, owner, other = make_candidate(context), gr.Request(username="owner"), make_candidate_from_all(context)
    check_candidate(context, policy)
    promote, really = handler(pages, "promote_policy"), handler(pages, "promote_all_the_same")
    _shown, seen = iterations_tab.view(context, policy.revision, 0, {})
    confirming = promote(owner, policy.revision, "", seen)[-1]
    peoples_decisions.reject(context.db, policy.revision, "kim", "Too short")
    with pytest.raises(gr.Error, match="Nothing was changed: kim has decided meanwhile"):
        really(owner, policy.revision, "I like it", confirming)
    assert registry.by_revision(context.db, policy.revision).status == "rejected"
    _shown, seen = iterations_tab.view(context, policy.revision, 0, confirming)
    assert "serves now" in str(really(owner, policy.revision, "I like it", seen))
    _shown, before = iterations_tab.view(context, "base", 0, seen)
    peoples_decisions.promote(context.db, context.data_dir, other.revision, "kim", "Better")
    with pytest.raises(gr.Error, match="kim has decided meanwhile"):
        promote(owner, "base", "", before)
    assert registry.serving(context.db).revision == other.revision


def test_every_decision_is_taken_back_where_it_is_shown(pages: gr.Blocks, context: Context) -> None:
    policy, owner = make_candidate(context), gr.Request(username="owner")
    check_candidate(context, policy)
    policy_comparisons.compare_policies(context.db, policy.id, 1, "nobody")
    take_back = handler(pages, "take_back")

    def undo(number: Any, act: Any = "undo") -> str:
        event = gr.EventData(None, {"act": act, "subject": number})
        return str(take_back(owner, event, policy.revision, {}))

    def newest() -> decision_store.Decision:
        return decision_store.decisions(context.db)[0]

    peoples_decisions.reject(context.db, policy.revision, "owner")
    shown = iterations_tab.view(context, policy.revision, 0, {})[0]["decisions"]["value"]
    assert f"Undo: {policy.revision} is a candidate again" in shown
    rejected = str(newest().id)
    assert f"{policy.revision} is a candidate again. “Let people compare” puts" in undo(rejected)
    assert iterations_tab.view(context, policy.revision, 0, {})[0]["ask"]["visible"]
    assert registry.by_revision(context.db, policy.revision).status == "candidate"
    assert (newest().action, newest().decided_by) == ("take-back-rejection", "owner")
    with pytest.raises(gr.Error, match=r"Nothing was undone: .* owner decided last; base serves now"):
        undo(rejected)
    peoples_decisions.reject(context.db, policy.revision, "owner")
    with pytest.raises(gr.Error, match="Nothing was undone"):
        undo(rejected)  # another admin's rejection was not what was seen
    undo(str(newest().id))
    peoples_decisions.promote(context.db, context.data_dir, policy.revision, "owner", "It is good")
    promoted = str(newest().id)
    access.set_language(context.db, "owner", "de")
    assert "base antwortet jetzt." in undo(promoted)
    access.set_language(context.db, "owner", "en")
    assert f"{policy.revision} was taken back." in newest().reason, "in the server's language, as everybody reads it"
    assert registry.serving(context.db).revision == "base"
    with pytest.raises(gr.Error, match=r"Nothing was undone: .* owner decided last; base serves now"):
        undo(promoted)
    peoples_decisions.promote(context.db, context.data_dir, policy.revision, "kim", "It is good")
    with pytest.raises(gr.Error, match=f"Nothing was undone: .* kim decided last; {policy.revision} serves now"):
        undo(promoted)  # that it serves again is another decision
    undo(str(newest().id))
    for number, name in (("999", "undo"), ("x", "undo"), (None, "undo"), (promoted, "delete"), (promoted, None)):
        with pytest.raises(gr.Error, match="reload the page"):
            undo(number, name)
    assert registry.serving(context.db).revision == "base"


def test_undoing_a_rejection_names_no_button_that_is_not_there(context: Context) -> None:
    policy = make_candidate(context)
    peoples_decisions.reject(context.db, policy.revision, "owner")
    said = policy_decisions.undo(context, decision_store.decisions(context.db)[0].id, "owner")
    assert said == f"{policy.revision} is a candidate again.", "nothing of it has been checked"
    assert not iterations_tab.view(context, policy.revision, 0, {})[0]["ask"]["visible"]


def test_a_promotion_by_the_rule_needs_no_reason_and_what_is_typed_stays_until_another_is_chosen(
    pages: gr.Blocks, context: Context
) -> None:
    policy, owner = make_candidate(context), gr.Request(username="owner")
    check_candidate(context, policy)
    shown, seen = iterations_tab.view(context, policy.revision, 0, {})
    assert "value" not in shown["why"], "what somebody types is not taken away by a poll"
    choose = handler(pages, "choose_policy")
    with gr.Blocks():
        page = iterations_tab.lay_out()
    for revision, was in ((policy.revision, {}), ("base", seen)):
        sent = dict(zip(page.parts, choose(owner, revision, was), strict=False))
        assert sent["why"]["value"] == ""
    rule_store.set_rule(context.db, {"mode": "never"})
    shown, _ = iterations_tab.view(context, policy.revision, 0, seen)
    assert (shown["promote"]["value"], shown["why"]["label"]) == ("Promote: let it serve", "Why (for the record)")
    assert "serves now." in str(handler(pages, "promote_policy")(owner, policy.revision, "", {}))


def test_promote_roll_back_and_reject_through_their_handlers(pages: gr.Blocks, context: Context) -> None:
    policy, owner = make_candidate(context), gr.Request(username="owner")
    promote, reject = handler(pages, "promote_policy"), handler(pages, "reject_policy")
    really = handler(pages, "promote_all_the_same")
    sent = str(really(owner, policy.revision, "It reads better", {"confirming": policy.revision}))
    assert "Its answers come first from now on" in sent
    assert registry.serving(context.db).revision == policy.revision
    assert iterations_tab.view(context, "base", 0, {})[0]["promote"]["value"] == "Go back to this one"
    promote(owner, "base", "", {})
    assert [row.action for row in decision_store.decisions(context.db)] == ["go-back", "promote"]
    assert {row.decided_by for row in decision_store.decisions(context.db)} == {"owner"}
    with pytest.raises(gr.Error, match="serves already"):
        promote(owner, "base", "", {})
    with pytest.raises(gr.Error, match="not a candidate"):
        reject(owner, policy.revision, "", {})
    second = make_candidate_from_all(context)
    assert "was rejected" in str(reject(owner, second.revision, "Two <b>lies</b>", {}))
    assert registry.by_revision(context.db, second.revision).status == "rejected"
    rejected, _, promoted = decision_store.decisions(context.db)
    assert rejected.reason.startswith("Two <b>lies</b>. The rule said: ")
    assert promoted.reason.startswith("It reads better. The rule said: ")
    shown = iterations_tab.view(context, None, 0, {})[0]["decisions"]["value"]
    assert "Two &lt;b&gt;lies&lt;/b&gt;." in shown
    assert "<b>lies" not in shown


def test_what_a_button_said_goes_with_the_next_decision_and_not_with_a_late_poll(
    pages: gr.Blocks, context: Context
) -> None:
    policy, owner, follow = make_candidate(context), gr.Request(username="owner"), handler(pages, "poll_iterations")

    def poll(seen: Any) -> list[Any]:
        return list(follow(*asked_by("owner", follow), policy.revision, seen))

    before = iterations_tab.view(context, policy.revision, 0, {})[1]
    *sent, after = handler(pages, "reject_policy")(owner, policy.revision, "Lies", before)
    (said,) = [place for place, one in enumerate(sent) if isinstance(one, str) and "was rejected" in one]
    late = poll(before)
    for seen in (after, late[-3]):
        assert late[said] == poll(seen)[said] == gr.skip()
    decision_store.take_back_rejection(context.db, policy.revision, "owner")
    for seen in (after, late[-3]):
        assert poll(seen)[said]["value"].endswith("-->")


def test_what_was_decided_on_keeps_its_criteria_and_a_rollback_without_words_says_so(
    pages: gr.Blocks, context: Context
) -> None:
    policy, owner = make_candidate(context), gr.Request(username="owner")
    check_candidate(context, policy)
    assert "The rule says: " in iterations_tab.view(context, policy.revision, 0, {})[0]["gate"]["value"]
    promote = handler(pages, "promote_policy")
    peoples_decisions.promote(context.db, context.data_dir, policy.revision, "owner", "It reads better")
    shown = iterations_tab.view(context, policy.revision, 0, {})[0]
    card = shown["gate"]["value"]
    assert "It was decided on against base;" in card
    assert "Surprise at its answers" in shown["report"]["value"]
    assert "The rule says: " not in card
    promote(owner, "base", "", {})
    assert decision_store.decisions(context.db)[0].reason == "no reason given"
    parts = iterations_tab.view(context, "base", 0, {})[0]
    assert parts["gate"]["value"] == ""
    assert not parts["why"]["visible"], "nothing can be decided on what serves"


def test_where_the_prompts_of_a_check_are_gone_the_page_says_so_and_shows_all_else(context: Context) -> None:
    policy = make_candidate(context)
    seed_comparisons(context.db, 3, "held-out")
    check_candidate(context, policy)
    assert "answers 0" in iterations_tab.view(context, policy.revision, 0, {})[0]["answers"]["value"]
    for path in (context.data_dir / "snapshots").iterdir():
        path.unlink()
    parts, _ = iterations_tab.view(context, policy.revision, 0, {})
    assert 'class="warning"' in parts["answers"]["value"]
    assert "no answers of both policies" not in parts["answers"]["value"]
    assert "Nobody has compared it" in parts["gate"]["value"]
    assert parts["report"]["value"]


def test_people_can_be_asked_where_there_are_comparisons_to_open(context: Context) -> None:
    policy = make_candidate(context)
    check_candidate(context, policy)

    def ask(revision: str) -> bool:
        return bool(iterations_tab.view(context, revision, 0, {})[0]["ask"]["visible"])

    policy_comparisons.compare_policies(context.db, policy.id, 1, "nobody")
    assert ask(policy.revision)
    iterations_tab.ask_people(context.db, policy.revision)
    assert not ask(policy.revision), "they are before people already"
    policy_comparisons.withdraw_candidate(context.db, policy.id)
    assert ask(policy.revision)
    decision_store.promote(context.db, policy.revision, "owner")
    assert ask(policy.revision), "what serves, beside the base"
    decision_store.promote(context.db, "base", "owner")
    assert not ask(policy.revision), "it is retired"


@pytest.mark.parametrize("wrong", [math.inf, math.nan, -math.inf, 1e300, "x", None, 2.5])
def test_no_number_that_can_be_sent_is_a_bug(pages: gr.Blocks, context: Context, wrong: Any) -> None:
    owner, save, renew = gr.Request(username="owner"), handler(pages, "save_rule"), handler(pages, "renew_held_out")
    saved = [getattr(Rule(), name) for name in gate_form.NAMES]
    for block in pages.fns.values():
        if block.fn.__name__ in ("save_rule", "renew_held_out", "save_auto_train") and wrong in (math.inf, 1e300, 2.5):
            given = [field.preprocess(wrong) for field in block.inputs if isinstance(field, gr.Number)]
            assert given == [wrong] * len(given), "nothing fails before the handler says what is wrong"
    for name in COUNTS:
        values = [wrong if name == field else value for field, value in zip(gate_form.NAMES, saved, strict=True)]
        with pytest.raises(gr.Error, match=f"“{gate.label(name)}” must be a whole number"):
            save(owner, {}, *values)
    with pytest.raises(gr.Error, match="“Held-out prompts in a new version” must be a whole number"):
        renew(owner, wrong, 5)
    with pytest.raises(gr.Error, match="“Held-out prompts in a new version” must be a whole number"):
        handler(pages, "ask_renewal")(owner, wrong)
    with pytest.raises(UserError, match="“After so many new judgements” must be a whole number"):
        automatic_training.store(context.db, True, wrong, "dpo")
    save(
        owner,
        {},
        *(float(value) if name in COUNTS else value for name, value in zip(gate_form.NAMES, saved, strict=True)),
    )
    assert rule_store.rule(context.db) == Rule()


def test_a_rule_that_another_admin_has_made_stricter_meanwhile_is_not_put_back(
    pages: gr.Blocks, context: Context
) -> None:
    owner, save, opened = gr.Request(username="owner"), handler(pages, "save_rule"), handler(pages, "open_rule")
    sent, here = opened(owner, None)[0], Rule().to_setting()
    rule_store.set_rule(context.db, {**here, "alpha": 0.01})
    said = save(owner, sent, *{**here, "people_least": 12}.values())
    assert "stays: " in said[-1]
    assert (rule_store.rule(context.db).alpha, rule_store.rule(context.db).people_least) == (0.01, 12)
    sent = said[0]
    rule_store.set_rule(context.db, {**here, "alpha": 0.02, "people_least": 12})
    mine = {**here, "alpha": 0.04, "people_least": 12}
    refused = save(owner, sent, *mine.values())
    assert "Not saved: somebody has changed this meanwhile" in refused[-1]
    assert rule_store.rule(context.db).alpha == 0.02
    assert "The rule is saved." in save(owner, refused[0], *mine.values())[-1]
    assert rule_store.rule(context.db).alpha == 0.04


def test_a_change_of_the_rule_is_taken_back_where_it_is_made_and_once_only(pages: gr.Blocks, context: Context) -> None:
    owner, save, opened = gr.Request(username="owner"), handler(pages, "save_rule"), handler(pages, "open_rule")
    undo_rule, sent = handler(pages, "undo_rule"), opened(owner, None)
    assert sent[2] == "", "nothing was changed"
    stricter = {**Rule().to_setting(), "mode": "automatic", "alpha": 0.01, "judge_may_decide": True}

    def undo(number: Any) -> list[Any]:
        return list(undo_rule(owner, gr.EventData(None, {"act": "undo-rule", "subject": number})))

    shown = save(owner, sent[0], *stricter.values())[2]
    for said in (
        "owner changed the rule",
        "Share of wrong promotions: 0.05 → 0.01",
        "people have not: no → yes",
        "Ask: a",
    ):
        assert said in shown
    assert 'data-subject="1"' in shown
    save(owner, {}, *stricter.values())
    assert opened(owner, None)[2] == shown, "saved again as it is, nothing has changed"
    access.set_language(context.db, "owner", "de")
    undone = undo("1")
    access.set_language(context.db, "owner", "en")
    assert rule_store.rule(context.db) == Rule()
    assert "0,01 → 0,05" in undone[2]
    again = undo("1")
    assert "Nothing was undone: owner has changed the rule since." in again[-1]
    assert rule_store.rule(context.db) == Rule(), "the undo is not undone by who saw the first button"
    assert "0.01 → 0.05" in again[2], "what holds now"
    assert all(one == gr.skip() for one in again[3:-1]), "what was typed stays"
    undo("2")
    assert rule_store.rule(context.db).alpha == 0.01
    assert "reload the page" in undo("7")[-1]
    assert rule_store.rule(context.db).alpha == 0.01


def test_the_rule_in_a_sentence_rounds_nothing_away() -> None:
    said = gate_form.summary(Rule(alpha=0.001, judge_may_decide=True, judge_trust=0.675))
    assert "By this rule at most 0.1% of candidates" in said
    assert "at least 67.5% agreement" in said


def test_a_new_version_of_the_held_out_prompts_has_as_many_as_are_asked_for(pages: gr.Blocks, context: Context) -> None:
    seed_comparisons(context.db, 70, "held-out")
    owner, renew, opened = gr.Request(username="owner"), handler(pages, "renew_held_out"), handler(pages, "open_rule")
    *_rule, offered_first, confirm, _question, asked = opened(owner, 7)
    assert (offered_first, confirm["visible"], asked) == (CheckSpec.prompts, False, None)
    assert opened(owner, None)[-3:] == [gr.skip()] * 3, "a question may have been asked meanwhile"
    for number, offered in ((65, 65), (5.0, CheckSpec.prompts)):
        shown, question, asked = handler(pages, "ask_renewal")(owner, number)
        assert shown["visible"]
        assert f"held-out prompts, {number:.0f} at most?" in question
        with pytest.raises(gr.Error, match="another number of prompts"):
            renew(owner, 7, asked)
        sent = renew(owner, number, asked)
        assert (sent[-5], sent[-3]["visible"], sent[-1]) == (offered, False, None)
        assert held_out_sets.versions(context.db)[-1].prompts == number


def make_candidate_from_all(context: Context) -> Policy:
    """Another candidate, whatever serves."""
    judge(context.db, 10, "left-clearly")
    return make_candidate(context)


def test_people_are_asked_to_compare_a_checks_answers_and_their_verdicts_give_strengths(context: Context) -> None:
    """From the button to the Bradley–Terry figure: the candidate's answers win two times in three."""
    policy = make_candidate(context)
    with pytest.raises(UserError, match="not been checked"):
        iterations_tab.ask_people(context.db, policy.revision)
    check_candidate(context, policy)
    project_store.set_project(context.db, replace(project_store.project(context.db), candidate_share=0.5))
    asked = iterations_tab.ask_people(context.db, policy.revision)
    made = context.db.value("SELECT count(*) FROM comparison WHERE model_id IS NULL")
    assert made >= 12
    assert asked.startswith(f"{made} comparisons of {policy.revision} with base")
    with pytest.raises(UserError, match="in the annotators' queue already"):
        iterations_tab.ask_people(context.db, policy.revision)
    owner = context.db.value("SELECT id FROM annotator WHERE name = 'owner'")
    judged = 0
    while (claim := handing_out.claim_next(context.db, owner)) is not None:
        by_policy = [policy.revision in text for text in shown_texts(claim)]
        wins = judged % 3 != 0
        judged += any(by_policy)
        judging.judge(context.db, owner, claim.nonce, act("left-much" if by_policy[0] == wins else "right-much"))
    assert judged == made
    strength = {placed.policy: placed.estimate.value for placed in quality.report(context.db).policies.placed}
    assert strength[policy.revision] > strength["base"]


def test_a_policy_is_checked_again_against_the_serving_one_or_the_base(pages: gr.Blocks, context: Context) -> None:
    first, second = make_candidate(context), make_candidate_from_all(context)
    check, owner = handler(pages, "check_policy"), gr.Request(username="owner")
    decision_store.promote(context.db, first.revision, "owner")
    assert f"is to check {second.revision}" in str(check(owner, second.revision, [], {}))
    check(owner, first.revision, [], {})
    specs = [job.spec for job in job_store.queue(context.db)]
    assert [(spec.candidate, spec.against) for spec in specs if isinstance(spec, CheckSpec)] == [
        (second.revision, first.revision),
        (first.revision, "base"),
    ]
    with pytest.raises(gr.Error, match="Choose a policy"):
        check(owner, None, [], {})


def test_a_second_press_makes_no_second_check_or_merge(pages: gr.Blocks, context: Context) -> None:
    """Nor does another admin's."""
    policy, db = make_candidate(context), context.db
    for ask in (policy_decisions.check, policy_decisions.merge):
        assert ask(context, policy.revision, "owner").startswith("Job ")
        with pytest.raises(UserError, match=r"Job \d+ \((check of|merging) dpo-\d+\) waits or runs already"):
            ask(context, policy.revision, "ann")
    assert [job.kind for job in job_store.queue(db)] == ["check", "merge"]
    for job in job_store.queue(db):
        job_store.cancel(db, job.id)
    assert policy_decisions.check(context, policy.revision, "ann").startswith("Job ")


def test_automatic_training_that_finds_too_few_pairs_says_so(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where all were ties: due, and never begun."""
    db.insert("annotator", {"name": "owner", "role": "admin", "created": now()})
    automatic_training.store(db, True, 1, "dpo")
    setting = controller.automatic_training(db)
    assert automatic_training.sentence(db, setting).endswith("starts after every 8 new judgements."), "one is too few"
    judge(db, 9, "tie")
    assert controller.advance(db, data_dir) is None
    few = "Pairs to train on: 0. It takes at least 8."
    assert f"but none can start. {few}" in iterations_tab.status_part(db, controller.state_of(db))["value"]
    assert f"At the moment none can start. {few}" in automatic_training.sentence(db, setting)
    judge(db, 8, "left-clearly")
    assert controller.automatic_problems(db) == []
    monkeypatch.setattr(preconditions, "check", lambda db, spec: ["Raise max_length."])
    assert controller.automatic_problems(db) == ["Raise “Max length”."], "as the form calls it"


def test_a_check_asks_the_judges_that_were_chosen(pages: gr.Blocks, context: Context) -> None:
    policy, owner = make_candidate(context), gr.Request(username="owner")
    assert not iterations_tab.view(context, None, 0, {})[0]["judges"]["visible"]
    for name in ("i", "j", "k"):
        judge_store.add(context.db, name, "local", {"model": "base"}, "owner")
    verdict_store.set_active(context.db, "k", False)
    offered = iterations_tab.view(context, None, 0, {})[0]["judges"]
    assert (offered["choices"], offered["value"]) == (["i", "j"], ["i", "j"])
    check, asked = handler(pages, "check_policy"), []
    for given in (offered["value"], ["j"], [], None):
        check(owner, policy.revision, given, {})
        (job,) = job_store.queue(context.db)
        asked.append(getattr(job.spec, "judges", None))
        job_store.cancel(context.db, job.id)
    assert asked == ["i, j", "j", "", "i, j"]
    with pytest.raises(gr.Error, match="no judge 'x'"):
        check(owner, policy.revision, ["x"], {})


def test_what_the_rule_advises_stands_out_and_never_means_that_nobody_is_advised(context: Context) -> None:
    policy = make_candidate(context)
    check_candidate(context, policy)
    with context.db.transaction() as connection:  # all answers alike: there is nothing to promote
        connection.execute("UPDATE job SET result = json_set(result, '$.same_answers', 12) WHERE kind = 'check'")

    def shown() -> tuple[str, str, str]:
        parts = iterations_tab.view(context, policy.revision, 0, {})[0]
        card = f"{parts['gate']['value']} {parts['report']['value']}"
        return parts["promote"]["variant"], parts["reject"]["variant"], card

    promote, reject, card = shown()
    assert (promote, reject) == ("secondary", "primary")
    assert "The rule says: reject." in card
    rule_store.set_rule(context.db, {"mode": "never"})
    promote, reject, card = shown()
    assert (promote, reject) == ("secondary", "secondary")
    assert "nobody is advised" in card
    assert "Different from what serves" in card
    assert "The rule says" not in card


def stands_out(context: Context, policy: Policy) -> tuple[list[str], str]:
    """Which of the buttons that bring a candidate on stand out, and what the page says of where the loop stands."""
    parts = iterations_tab.view(context, policy.revision, 0, {})[0]
    for name in ("ask", "check"):
        assert parts[name]["visible"] or parts[name]["variant"] == "secondary"
    primary = [name for name in ("ask", "check") if parts[name]["variant"] == "primary"]
    return primary, f"{parts['standing']['value']} {parts['gate']['value']}"


def unasked(context: Context) -> controller.Step | None:
    """What the loop does next by itself."""
    return controller.next_step(controller.state_of(context.db))


@pytest.mark.parametrize("mode", ["ask", "automatic", "never"])
def test_a_check_that_the_loop_makes_does_not_stand_out(context: Context, mode: str) -> None:
    first, second = make_candidate(context), make_candidate(context)
    seed_prompts(context.db, 1, "held-out")
    rule_store.set_rule(context.db, {"mode": mode})
    assert unasked(context) == controller.Step("check", first.revision)
    assert "The check starts within seconds." in stands_out(context, first)[1]
    assert [stands_out(context, one)[0] for one in (first, second)] == [[], []]


@pytest.mark.parametrize("mode", ["ask", "automatic", "never"])
def test_a_check_stands_out_that_the_loop_does_not_repeat(context: Context, mode: str) -> None:
    policy = make_candidate(context)
    seed_prompts(context.db, 1, "held-out")
    rule_store.set_rule(context.db, {"mode": mode})
    cancelled = controller.advance(context.db, context.data_dir)
    assert cancelled is not None
    job_store.cancel(context.db, cancelled)
    assert unasked(context) is None
    primary, said = stands_out(context, policy)
    assert primary == ["check"]
    assert f"the loop does not repeat it. Check {policy.revision} again below" in said


@pytest.mark.parametrize("mode", ["ask", "automatic"])
def test_a_check_stands_out_that_failed_twice_or_was_not_asked_for(context: Context, mode: str) -> None:
    policy = make_candidate(context)
    rule_store.set_rule(context.db, {"mode": mode})
    for primary in ([], ["check"]):
        job_id = job_submission.submit(context.db, context.data_dir, CheckSpec(candidate=policy.revision), "the loop")
        run_job(context, job_id, 1)
        job_table.stop(context.db, job_id, "w", "failed", "Memory ran out.")
        assert stands_out(context, policy)[0] == primary
    other = make_candidate(context)
    context.db.write("UPDATE job SET spec = json_set(spec, '$.check', json('false')) WHERE id = ?", (other.job_id,))
    assert unasked(context) is None
    assert stands_out(context, other)[0] == ["check"]


def test_a_check_stands_out_where_those_before_count_for_nothing(context: Context) -> None:
    """It was against what served before; or it left out figures that the rule asks for."""
    old, policy = make_candidate(context), make_candidate(context)
    check_candidate(context, policy, sound=True)
    policy_comparisons.compare_policies(context.db, policy.id, 1)
    assert stands_out(context, policy)[0] == [], "people compare"
    check_candidate(context, policy)
    primary, said = stands_out(context, policy)
    assert primary == ["check"]
    assert "Its check left out some of what the rule asks: check it again." in said
    decision_store.promote(context.db, old.revision, "owner")
    primary, said = stands_out(context, policy)
    assert primary == ["check"]
    assert f"The gate counts checks against {old.revision}, which serves now" in said
    assert policy.job_id is not None
    report = run_report.report_of(context.db, job_store.get(context.db, policy.job_id))
    assert f"The gate counts checks against {old.revision}, which serves now" in report
    assert "Nobody has compared" not in report, "there is nothing yet that could be compared"


def test_a_check_stands_out_where_nothing_is_left_to_compare_unless_judges_have_some(context: Context) -> None:
    policy = make_candidate(context)
    check_candidate(context, policy, sound=True)
    seed_comparisons(context.db, 1, "held-out")  # a prompt for another check
    primary, said = stands_out(context, policy)
    assert primary == ["check"]
    assert f"It takes new answers to compare: {policy.revision} has to be checked again" in said
    policy_comparisons.compare_policies(context.db, policy.id, 1, "nobody")
    primary, said = stands_out(context, policy)
    assert primary == ["ask"]
    assert (
        "People have nothing left to compare: let them compare what they were not asked about, or check "
        f"{policy.revision} again." in said
    )
    rule_store.set_rule(context.db, {"mode": "automatic"})
    assert unasked(context) == controller.Step("check", policy.revision)
    assert stands_out(context, policy)[0] == []
    iterations_tab.ask_people(context.db, policy.revision)
    assert unasked(context) is None
    primary, said = stands_out(context, policy)
    assert primary == [], "people compare"
    assert "left to compare" not in said


def test_the_warnings_follow_the_rule_on_a_page_that_is_open(context: Context) -> None:
    """KL to the base is 0.0712 nats a token: the rule as it is lets that pass, a stricter one does not."""
    policy = make_candidate(context)
    check_candidate(context, policy)
    parts, seen = iterations_tab.view(context, policy.revision, 0, {})
    assert "It has moved too far" not in parts["report"]["value"]
    parts, seen = iterations_tab.view(context, policy.revision, 0, seen)
    assert "report" not in parts, "nothing has changed"
    rule_store.set_rule(context.db, {"kl_most": 0.05})
    parts, _ = iterations_tab.view(context, policy.revision, 0, seen)
    said = "It has moved too far (KL to its anchor, nats a token: 0.071, asked for: at most 0.05)."
    assert said in parts["gate"]["value"]
    assert said not in parts["report"]["value"], "once is enough"
    assert ">not met<" in parts["report"]["value"]


def test_reward_models_are_no_policies_and_deleted_files_are_told_of(context: Context) -> None:
    policy = make_candidate(context)
    context.db.write("UPDATE model SET kind = 'reward-model' WHERE id = ?", (policy.id,))
    parts, _ = iterations_tab.view(context, None, 0, {})
    assert policy.revision not in str(parts)
    context.db.write("UPDATE model SET kind = 'policy' WHERE id = ?", (policy.id,))
    job_submission.delete_policy(context.db, context.data_dir, policy.revision, "owner")
    parts, _ = iterations_tab.view(context, policy.revision, 0, {})
    assert (f"{policy.revision} · files deleted", policy.revision) in parts["selector"]["choices"]
    assert "candidate, files deleted" in parts["history"]["value"]
    assert not any(parts[name]["visible"] for name in ("promote", "check"))
    assert f"owner deleted the files of {policy.revision}" in parts["decisions"]["value"]


def test_of_a_candidate_whose_files_are_deleted_nothing_is_asked_any_more(context: Context) -> None:
    """Neither people, who would compare what can't serve, nor whoever opens the page, nor the loop."""
    policy = make_candidate(context)
    check_candidate(context, policy)
    project_store.set_project(context.db, replace(project_store.project(context.db), candidate_share=0.5))
    iterations_tab.ask_people(context.db, policy.revision)
    owner = context.db.value("SELECT id FROM annotator WHERE name = 'owner'")
    assert backlog.waiting_for(context.db, owner).of_candidates
    job_submission.delete_policy(context.db, context.data_dir, policy.revision, "owner")
    assert not backlog.waiting_for(context.db, owner).of_candidates
    parts, _ = iterations_tab.view(context, None, 0, {})
    assert parts["selector"]["value"] == "base"
    parts, _ = iterations_tab.view(context, policy.revision, 0, {})
    assert f"The files of {policy.revision} were deleted on" in parts["gate"]["value"]
    assert "Nobody has compared" not in parts["gate"]["value"]
    assert [name for name in ("reject", "why") if parts[name]["visible"]] == [], "it is no candidate any more"
    with pytest.raises(UserError, match="were deleted on"):  # from a tab that was opened before
        policy_decisions.reject(context, policy.revision, "owner")
    deleted = registry.by_revision(context.db, policy.revision)
    assert not iterations_tab.can_be_asked(context.db, deleted)
    assert {parts[name]["variant"] for name in ("check", "ask")} == {"secondary"}
    with pytest.raises(UserError, match="were deleted on"):
        iterations_tab.ask_people(context.db, policy.revision)


def test_a_failed_check_of_deleted_files_asks_nobody_to_check_them_again(context: Context) -> None:
    policy = make_candidate(context)
    job_id = job_submission.submit(context.db, context.data_dir, CheckSpec(candidate=policy.revision), "the loop")
    assert job_store.claim(context.db, job_id, "e") is not None
    assert job_table.stop(context.db, job_id, "e", "failed", "broken")
    assert [job.id for job in controller.state_of(context.db).broken] == [job_id]
    job_submission.delete_policy(context.db, context.data_dir, policy.revision, "owner")
    assert controller.state_of(context.db).broken == ()


def test_where_annotators_are_given_no_candidates_nobody_is_told_that_they_compare_one(context: Context) -> None:
    policy = make_candidate(context)
    check_candidate(context, policy)
    project_store.set_project(context.db, replace(project_store.project(context.db), candidate_share=0.0))
    share = "on the Project tab the share “Candidate against serving” is 0%"
    asked = iterations_tab.ask_people(context.db, policy.revision)
    assert share in asked
    assert "in turn with the others" not in asked
    parts, _ = iterations_tab.view(context, policy.revision, 0, {})
    assert share in parts["gate"]["value"]
    assert "People compare" not in parts["standing"]["value"]
    assert "waits for comparisons that people are not given" in parts["standing"]["value"]
    project_store.set_project(context.db, replace(project_store.project(context.db), candidate_share=0.2))
    parts, _ = iterations_tab.view(context, policy.revision, 0, {})
    assert share not in parts["gate"]["value"]
    assert "People compare" in parts["standing"]["value"]


def test_of_what_was_decided_no_more_comparisons_are_said_to_be_needed(context: Context) -> None:
    policy = make_candidate(context)
    check_candidate(context, policy, sound=True)
    policy_comparisons.compare_policies(context.db, policy.id, 1)
    seed_comparisons(context.db, 3, "held-out")  # which another check could draw
    needed = "more prompts compared by people"

    def gate() -> str:
        return str(iterations_tab.view(context, policy.revision, 0, {})[0]["gate"]["value"])

    project_store.set_project(context.db, replace(project_store.project(context.db), candidate_share=0.5))
    owner = context.db.value("SELECT id FROM annotator WHERE name = 'owner'")
    while (claim := handing_out.claim_next(context.db, owner)) is not None:
        judging.judge(context.db, owner, claim.nonce, act("tie"))
        if policy.revision in str(shown_texts(claim)):
            break
    assert needed in gate()
    decision_store.reject(context.db, policy.revision, "owner")
    assert needed not in gate()
    decision_store.promote(context.db, policy.revision, "owner")
    assert needed not in gate()
