"""The AI judges tab on a real database: who judges, making judges, their jobs, trust cards, the rubric, verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.jobs import job_table
from annotation.metrics.intervals_and_bias import wilson_interval
from annotation.records import Feedback, UserError, now
from annotation.store import comparison_store, policy_comparisons, project_store
from annotation.tabs.guard import Context
from annotation.ui.formatting import percent, percent_span
from annotation.ui.markup import escape
from annotation.workbench import exclusions
from annotation.workbench.gold import make_gold
from rlhf.evaluation import rule_store
from rlhf.jobs import job_store
from rlhf.judges import judge_history, judge_store, rubrics, verdict_store
from rlhf.judges.judge_agreement import PersonRanking
from rlhf.judges.judge_settings import DirectorySettings, EndpointSettings, LocalSettings, RewardModelSettings
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.judges.judge_store import Judge
from rlhf.judges.openai_client import Failure
from rlhf.judges.verdicts import Choice, Verdict
from rlhf.models import registry
from rlhf.models.base.base_precision import precision_by_need
from rlhf.models.memory.machines import this_machine
from rlhf.models.self_test_results import SelfTestResult, keep_result
from rlhf.models.tokenise import render
from rlhf.tabs.judges import judge_form
from rlhf.tabs.judges import judges_tab as tab
from tests.conftest import BASE_NAME, act, make_response, seed_comparisons, seed_prompts
from tests.handlers import asked_by
from tests.machine_fixtures import Machine

pytestmark = pytest.mark.slow

OWNER = gr.Request(username="owner")
HOSTILE = "<img src=x onerror='window.ran=1'>${window.ran=1}{{value}}</pre><script>window.ran=1</script>"
ENDPOINT = {"address": "http://127.0.0.1:8000/v1", "endpoint_model": "tiny", "key_variable": "PREFLOOP_JUDGE_KEY"}


@pytest.fixture
def context(db: Database, data_dir: Path) -> Context:
    """An admin and three people who judge."""
    people = (("owner", "admin"), ("ann", "annotator"), ("bob", "annotator"), ("carla", "annotator"))
    with db.transaction() as connection:
        for name, role in people:
            connection.execute("INSERT INTO annotator (name, role, created) VALUES (?, ?, ?)", (name, role, now()))
    return Context(db, data_dir, BASE_NAME)


@pytest.fixture
def pages(context: Context) -> gr.Blocks:
    """The tab, built as the app builds it."""
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("AI judges"):
        tab.build(demo, context)
    return demo


@pytest.fixture
def local(db: Database, context: Context) -> Judge:
    """A judge that gives chances."""
    return judge_store.add(db, "local", "local", {"model": "base"}, "owner")


def remote(db: Database, name: str = "remote", **settings: Any) -> Judge:
    """A judge behind an endpoint, with prices."""
    known = {"address": "http://127.0.0.1:8000/v1", "model": "tiny", "price_in": 2.0, "price_out": 10.0, **settings}
    return judge_store.add(db, name, "endpoint", known, "owner")


def press(pages: gr.Blocks, name: str, *inputs: Any) -> Any:
    """Call a registered function as Gradio calls it, for the owner."""
    function = next(block.fn for block in pages.fns.values() if block.fn.__name__ == name)
    return function(*asked_by("owner", function), *inputs)


def form(**changes: Any) -> list[Any]:
    """The form of a new judge as the browser sends it."""
    numbers = {name: getattr(EndpointSettings, name) for name in judge_form.NUMBERS}
    empty = dict.fromkeys(judge_form.FIELDS, "")
    return list({**empty, **numbers, "name": "judge", "backend": "local", **changes}.values())


def say(
    db: Database, judge: Judge, number: int, both: tuple[Choice, Choice], chance: float | None = None, **extras: Any
) -> None:
    """A judge's verdicts on a pair in both orders, and the judgement that they come to; as its worker records them.

    `chance` is that of answer 1 to be better than answer 2.
    """
    comparison = next(
        one
        for scope in ("open", "judged")
        for one in verdict_store.to_judge(db, judge, scope, 1000)
        if one.id == number
    )
    spent = {"reply": "", "prompt_tokens": 100, "completion_tokens": 10, "seconds": 0.5}
    job_id, version = extras.pop("job_id", None), extras.pop("version", 0)
    for pair, choice, first in (((0, 1), both[0], chance), ((1, 0), both[1], chance and 1 - chance)):
        verdict = Verdict(choice, first, **{**spent, **extras})
        verdict_store.add_verdict(db, judge, number, pair, verdict, version, (0, 1), job_id)
    assert verdict_store.judge_comparison(db, judge, comparison)


def prefer(db: Database, name: str, position: int) -> int:
    """A person judges the next comparison for the answer at a position; returns its number."""
    annotator = db.value("SELECT id FROM annotator WHERE name = ?", (name,))
    claim = handing_out.claim_next(db, annotator)
    assert claim is not None
    side = "left" if claim.shown_order[0] == position else "right"
    judging.judge(db, annotator, claim.nonce, act(f"{side}-clearly"))
    return claim.comparison_id


# ------------------------------------------------------------------------------------------------------------ standing
def test_the_page_warns_of_comparisons_that_wait_for_a_judge_whose_last_job_failed(
    db: Database, context: Context, local: Judge
) -> None:
    project_store.set_feedback(db, Feedback(mode="mixed"))
    seed_comparisons(db, 2)
    warning = "2 comparisons wait for local, whose last job failed."
    assert warning not in tab.view(context, None, {})[0]["standing"]["value"]
    job_id = job_store.enqueue(db, JudgeSpec(judge="local"), "owner")
    job_store.claim(db, job_id, "w")
    job_table.stop(db, job_id, "w", "failed", "The service is down.")
    assert warning in tab.view(context, None, {})[0]["standing"]["value"]


# -------------------------------------------------------------------------------------------------------------- guard
def test_every_listener_is_for_admins_only_and_refuses_an_annotator(pages: gr.Blocks, context: Context) -> None:
    assert len(pages.fns) >= 14
    for block in pages.fns.values():
        assert getattr(block.fn, "required_role", None) == "admin"
        with pytest.raises(gr.Error, match="Only an admin"):
            block.fn(*asked_by("ann", block.fn), *(None for _ in block.inputs))
    assert judge_store.judges(context.db) == []
    assert judge_store.rubric(context.db).version == 0


def test_the_page_that_everyone_is_sent_holds_no_rows(context: Context, local: Judge) -> None:
    remote(context.db, "secret judge", address="https://secret.example/v1")
    judge_store.write_rubric(context.db, "Secret instruction", ["Secret principle"], 0, "owner")
    with gr.Blocks() as demo:
        tab.build(demo, context)
    sent = str(demo.get_config_file()).lower()
    assert "secret" not in sent


# --------------------------------------------------------------------------------------------------------- who judges
def waiting(card: str) -> list[int]:
    """How many comparisons wait for judges and for people, and how many judges alone have labelled."""
    names = ("Waiting for AI judges", "Waiting for people", "Labelled by judges alone")
    return [int(card.split(f"<dt>{name}</dt><dd>")[1].split("<")[0]) for name in names]


def test_without_judges_the_page_says_what_is_missing(context: Context) -> None:
    parts, _ = tab.view(context, None, {})
    assert "There is no AI judge yet" in parts["judges"]["value"]
    assert parts["card"]["value"] == parts["verdicts"]["value"] == ""
    assert not parts["switch"]["interactive"]
    assert not any(parts[name]["visible"] for name in ("judge_open", "judge_judged", "candidate", "judge_candidate"))
    project_store.set_feedback(context.db, Feedback("ai"))
    assert "No judge is switched on" in tab.view(context, None, {})[0]["standing"]["value"]


def test_who_judges_is_stored_and_the_comparisons_are_handed_to_them(pages: gr.Blocks, context: Context) -> None:
    seed_comparisons(context.db, 3)
    assert "<dt>Waiting for people</dt><dd>3</dd>" in tab.view(context, None, {})[0]["standing"]["value"]
    said = str(press(pages, "save_feedback", None, {}, "mixed", 12.5, 70, 40))
    assert project_store.feedback(context.db) == Feedback("mixed", 0.125, 0.7, 0.4)
    assert "Saved. This holds for comparisons that nobody has judged yet." in said
    assert waiting(said)[:2] == [3, 0]


def test_who_judges_is_not_put_back_by_an_admin_who_saw_it_before(pages: gr.Blocks, context: Context) -> None:
    was = {"sent": tab.form_of(project_store.feedback(context.db))}
    project_store.set_feedback(context.db, Feedback("mixed", 0.125, 0.7, 0.4))
    said = press(pages, "save_feedback", None, was, "people", 10, 60, 33)
    assert project_store.feedback(context.db) == Feedback("mixed", 0.125, 0.7, 0.4)
    assert "Not saved: somebody has changed this meanwhile (People" in str(said)
    said = press(pages, "save_feedback", None, said[-5], "people", 10, 60, 33)
    assert project_store.feedback(context.db) == Feedback("mixed", 0.125, 0.7, 0.33)
    assert "stays: Who judges, Audit share, %, Unsure below, %." in str(said)
    assert said[-4:] == ["mixed", 12.5, 70.0, 33.0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("everyone", 10, 60, 25), "Choose who judges"),
        (("mixed", 101, 60, 25), "The audit share must be between 0 and 100"),
        (("mixed", None, 60, 25), "The audit share must be between 0 and 100"),
        (("mixed", 10, 49, 25), "unsure must be between 50 and 100"),
        (("mixed", 10, float("nan"), 25), "unsure must be between 50 and 100"),
        (([], 10, 60, 25), "Choose who judges"),
        (("mixed", 10, 60, 0), "People's share of a check must be between 1 and 100"),
    ],
)
def test_who_judges_is_refused_where_it_means_nothing(
    pages: gr.Blocks, context: Context, values: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(gr.Error, match=words):
        press(pages, "save_feedback", None, {}, *values)
    assert project_store.feedback(context.db) == Feedback()


def test_the_page_counts_what_waits_for_whom_and_why(context: Context, local: Judge) -> None:
    """Of five: one flipped, one unsure, one labelled, one audited (its number draws it), one that waits."""
    db = context.db
    project_store.set_feedback(db, Feedback("mixed", audit_share=0.0, unsure_below=0.7))
    flipped, unsure, labelled, audited, _ = seed_comparisons(db, 5)
    say(db, local, flipped, ("first", "first"), 0.5)
    say(db, local, unsure, ("first", "second"), 0.65)
    say(db, local, labelled, ("first", "second"), 0.9)
    project_store.set_feedback(db, Feedback("mixed", audit_share=1.0, unsure_below=0.7))
    say(db, local, audited, ("first", "second"), 0.9)
    card = tab.view(context, None, {})[0]["standing"]["value"]
    assert waiting(card) == [1, 3, 1]
    why = "A judge contradicted itself: 1. A judge was unsure or could not judge: 1."
    assert f"judges have judged 3. {why}" in card
    assert prefer(db, "ann", 0) in (flipped, unsure, audited)
    assert "<dt>Waiting for people</dt><dd>2</dd>" in tab.view(context, None, {})[0]["standing"]["value"]


# --------------------------------------------------------------------------------------------------------- the judges
def test_judges_of_every_kind_are_made_and_described(pages: gr.Blocks, context: Context, tiny_judge: Path) -> None:
    db = context.db
    db.write(
        """INSERT INTO model (revision, algorithm, base, parent_id, path, kind, status, created)
           VALUES ('reward_model-1', 'reward_model', ?, 1, 'adapters/r', 'reward-model', 'candidate', ?)""",
        (BASE_NAME, now()),
    )
    keep_result(context.data_dir, tiny_judge, SelfTestResult(packs=True, shares_prompts=True))
    press(pages, "add_judge", None, {}, *form(name="by letters"))
    press(pages, "add_judge", None, {}, *form(name="elsewhere", directory=str(tiny_judge)))
    press(pages, "add_judge", None, {}, *form(name="scores", backend="reward-model", reward="reward_model-1"))
    endless = dict.fromkeys(judge_form.LEFT_OUT)
    values = form(name="remote", backend="endpoint", **ENDPOINT, **endless, calls=50.0)
    sent = press(pages, "add_judge", None, {}, *values)
    assert "remote is there and switched on" in str(sent)
    outputs = next(block.outputs for block in pages.fns.values() if block.fn.__name__ == "add_judge")
    assert len({one._id for one in outputs}) == len(outputs) == len(sent)
    left = {getattr(one, "label", None): update for one, update in zip(outputs, sent, strict=True)}
    assert left["Make a judge"]["open"] is False
    first = {"Name": None, "Address": None, "What judges": "local", "Calls in a job, at most": EndpointSettings.calls}
    first["Calls in all jobs, at most"] = None
    assert {field: left[field]["value"] for field in first} == first, "the form is as it was before"
    assert left["Reward model"]["value"] is None
    made = {judge.name: (judge.backend, judge.settings) for judge in judge_store.judges(db)}
    assert made["by letters"] == ("local", LocalSettings("base"))
    precision = precision_by_need(tiny_judge, this_machine())
    assert precision != "nf4"
    assert made["elsewhere"] == ("local", DirectorySettings(str(tiny_judge), precision))
    assert made["scores"] == ("reward-model", RewardModelSettings("reward_model-1"))
    settings = EndpointSettings("http://127.0.0.1:8000/v1", "tiny", "PREFLOOP_JUDGE_KEY", calls=50)
    assert made["remote"] == ("endpoint", settings)
    parts, _ = tab.view(context, "remote", {})
    assert parts["selector"] == gr.update(choices=["by letters", "elsewhere", "scores", "remote"], value="remote")
    for words in ("reward model reward_model-1", "tiny at 127.0.0.1:8000, key from PREFLOOP_JUDGE_KEY", "model base"):
        assert f"{words}</td>" in parts["judges"]["value"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "name of 1 to 60"),
        ({"name": "ANN"}, "an annotator 'ANN' already"),
        ({"backend": "oracle"}, "Choose what judges"),
        ({"backend": ["local"]}, "Choose what judges"),
        ({"model": "dpo-9"}, "no policy 'dpo-9'"),
        ({"directory": "models/x"}, "Give the full path of the judge's directory, not 'models/x'"),
        ({"directory": "/proc"}, "no model in '/proc'"),
        ({"backend": "reward-model"}, "Choose a reward model"),
        ({"backend": "reward-model", "reward": "base"}, "'base' is no reward model"),
        ({"backend": "endpoint"}, "needs http:// or https://"),
        ({"backend": "endpoint", **ENDPOINT, "address": "http://me:hunter2@host/v1"}, "must hold no name, password"),
        (
            {"backend": "endpoint", **ENDPOINT, "key_variable": "HF_TOKEN"},
            "OPENAI_API_KEY or begin with PREFLOOP_JUDGE",
        ),
        ({"backend": "endpoint", **ENDPOINT, "key_variable": "sk-12345678"}, "never the key"),
        ({"backend": "endpoint", **ENDPOINT, "endpoint_model": " "}, "Name the model"),
        (
            {"backend": "endpoint", **ENDPOINT, "retries": 2.5},
            "“Retries” must be a whole number from 0 to 10, not 2.5.",
        ),
        (
            {"backend": "endpoint", **ENDPOINT, "calls": None},
            "“Calls in a job, at most” must be a whole number from 1 to 1,000,000.",
        ),
        (
            {"backend": "endpoint", **ENDPOINT, "price_in": float("inf")},
            "“Price of a million tokens of prompts” must be a number from 0 to 1,000,000, not inf.",
        ),
        (
            {"backend": "endpoint", **ENDPOINT, "concurrency": 1000},
            "“Calls at a time” must be a whole number from 1 to 32, not 1000.",
        ),
    ],
)
def test_a_judge_that_can_not_work_is_refused(
    pages: gr.Blocks, context: Context, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(gr.Error) as refused:
        press(pages, "add_judge", None, {}, *form(**changes))
    assert words in str(refused.value.message)
    assert "hunter2" not in str(refused.value.message)
    assert judge_store.judges(context.db) == []


def test_the_form_shows_the_fields_of_the_chosen_backend(pages: gr.Blocks) -> None:
    shown = [column["visible"] for column in press(pages, "choose_backend", "endpoint")]
    assert shown == [False, False, True]


def test_a_judge_that_there_is_not_is_said_to_be_none(pages: gr.Blocks, context: Context) -> None:
    """By an address, or typed; where there is no judge, its column is hidden, and what is said in it."""
    names = {block.fn.__name__: block for block in pages.fns.values()}
    visit, choose = names["open_judges"], names["choose_judge"]
    told = next(one for one in visit.outputs if one.elem_id == "judge-made")
    chosen = next(one for one in visit.outputs if one.elem_id == "judge-selector")
    beside = next(one for one in visit.outputs if one.elem_id == "judge-said")
    bar = choose.outputs[-1]

    def shown(block: Any, sent: Sequence[Any]) -> dict[Any, Any]:
        return dict(zip((one._id for one in block.outputs), sent, strict=True))

    asked = asked_by("owner", visit.fn, part="/nobody")
    for judges, box in ((0, told), (1, beside)):
        found = shown(visit, visit.fn(*asked, {}, "people", 10, 60, 33))
        assert "There is no judge nobody." in found[box._id]
        assert json.loads(found[bar._id])[2] == "", "the address of none goes"
        if not judges:
            judge_store.add(context.db, "local", "local", {"model": "base"}, "owner")
    seen = next(one for one in shown(visit, visit.fn(*asked, {}, "people", 10, 60, 33)).values() if "figures" in one)
    found = shown(choose, press(pages, "choose_judge", "locla", seen))
    assert "There is no judge locla." in found[beside._id]
    assert found[chosen._id]["value"] == "local"
    assert json.loads(found[bar._id])[2] == ""
    with pytest.raises(gr.Error, match="There is no judge locla"):
        press(pages, "switch_judge", "locla", {}, "Switch it off")


def test_a_judge_is_switched_off_and_on_again(pages: gr.Blocks, context: Context, local: Judge) -> None:
    assert "local is switched off" in str(press(pages, "switch_judge", "local", {}, "Switch it off"))
    assert [judge.active for judge in judge_store.judges(context.db)] == [False]
    parts, _ = tab.view(context, "local", {})
    assert parts["switch"]["value"] == "Switch it on"
    press(pages, "switch_judge", "local", {}, "Switch it on")
    assert [judge.active for judge in judge_store.judges(context.db)] == [True]


def test_open_comparisons_can_be_judged_where_some_wait_for_a_judge_that_is_not_at_them(
    db: Database, pages: gr.Blocks, context: Context, local: Judge
) -> None:
    def offered() -> bool:
        return bool(tab.view(context, None, {})[0]["judge_open"]["visible"])

    seed_comparisons(db, 1)
    assert not offered(), "people are asked"
    project_store.set_feedback(db, Feedback("ai"))
    assert offered()
    verdict_store.set_active(db, "local", False)
    assert not offered()
    verdict_store.set_active(db, "local", True)
    press(pages, "start_open", None, {}, 10)
    assert not offered(), "it is at that"
    remote(db)
    assert offered()
    press(pages, "start_open", None, {}, 10)
    specs = [job.spec for job in job_store.active(db, ("judge",))]
    assert [spec.judge for spec in specs if isinstance(spec, JudgeSpec)] == ["local", "remote"]
    verdict_store.set_active(db, "remote", False)
    job_store.cancel(db, 1)
    assert offered()
    say(db, local, 1, ("first", "second"), 0.9)
    assert not offered()


# ------------------------------------------------------------------------------------------------------------ figures
def test_the_card_and_the_table_have_the_figures_of_the_rows(context: Context) -> None:
    """The judge agrees with a person on 6 of 8, and on a ninth named the first shown twice: (6 + 1/2) / 9."""
    db, judge = context.db, remote(context.db)
    seed_comparisons(db, 9)
    judged = [prefer(db, "ann", 0 if number % 2 else 1) for number in range(9)]
    for number, comparison in enumerate(judged):
        right: tuple[Choice, Choice] = ("first", "second") if number % 2 else ("second", "first")
        say(db, judge, comparison, ("first", "first") if number == 8 else right if number < 6 else right[::-1])
    parts, _ = tab.view(context, None, {})
    low, high = wilson_interval(6.5, 9)
    agreed = f"{percent(6.5 / 9)} ({percent_span(low, high)})"
    assert f'<td class="number">9, few</td><td>{agreed}</td><td>–</td>' in parts["card"]["value"]
    threshold = rule_store.rule(db).judge_trust
    assert f"does not surely reach {percent(threshold)}." in parts["card"]["value"]
    row = parts["judges"]["value"]
    assert f"<td>{agreed} of 9</td>" in row
    assert "<td>11% (2–43%)</td>" in row  # contradicts itself: Wilson's interval of 1 in 9
    for number in ("18", "1,800 · 180"):
        assert f'<td class="number">{number}</td>' in row
    assert '<td class="number">0.0054</td>' in row  # 1,800 tokens at 2 and 180 at 10 a million


def test_the_card_says_by_which_rubric_and_what_is_left_out(context: Context) -> None:
    db, judge = context.db, remote(context.db)
    first, second = seed_comparisons(db, 2)
    for _ in range(2):
        prefer(db, "ann", 0)
    say(db, judge, first, ("first", "second"))
    judge_store.write_rubric(db, "Be fair.", [], 0, "owner")
    parts, seen = tab.view(context, None, {})
    assert "Left out: 2 verdicts by another rubric than now" in parts["card"]["value"]
    assert "no comparison has been judged both by it and by people" in parts["card"]["value"]
    say(db, judge, second, ("first", "second"), version=1)
    changed, _ = tab.view(context, None, seen)
    assert "its agreement with people does not surely reach 60%." in changed["card"]["value"]
    assert "Left out: 2 verdicts" in changed["card"]["value"]


def test_the_card_and_the_mode_say_whether_judges_may_decide(context: Context) -> None:
    db, judge = context.db, remote(context.db)
    for number in seed_comparisons(db, 9):
        assert prefer(db, "ann", 0) == number
        say(db, judge, number, ("first", "second"))
    project_store.set_feedback(db, Feedback("ai"))
    parts, seen = tab.view(context, None, {})
    assert "surely reaches 60%, but by the gate&#x27;s rule judges inform" in parts["card"]["value"]
    assert "nothing is promoted by itself until people have compared" in parts["standing"]["value"]
    rule_store.set_rule(db, {"judge_may_decide": True})
    changed, _ = tab.view(context, None, seen)
    assert "The gate may go by remote" in changed["card"]["value"]
    assert "nothing is promoted by itself" not in changed["standing"]["value"]


def test_replies_in_vain_and_calls_are_part_of_what_is_spent(context: Context) -> None:
    db, judge = context.db, remote(context.db, total_calls=50)
    number = seed_comparisons(db, 1)[0]
    prefer(db, "ann", 0)
    job_id = job_store.enqueue(db, JudgeSpec(model=BASE_NAME, judge="remote", scope="judged"), "owner")
    _, seen = tab.view(context, None, {})
    verdict_store.add_failure(db, judge, number, Failure("no verdict", "Nothing clear.", 1000, 200), job_id)
    judge_store.count_calls(db, judge, 7)
    changed, _ = tab.view(context, None, seen)
    assert '<td class="number">1,000 · 200</td><td class="number">0.0040</td>' in changed["judges"]["value"]
    assert "calls made: 7 of 50" in changed["judges"]["value"]
    assert "<dd>1,000 · 200</dd>" in changed["job"]["value"]
    assert job_store.samples(db, job_id) == {}, "the Runs page shows a training's answers only"


def test_what_no_judge_could_judge_is_counted_apart(context: Context, local: Judge) -> None:
    db = context.db
    project_store.set_feedback(db, Feedback("ai"))
    number, other = seed_comparisons(db, 2)
    say(db, local, other, ("first", "second"), 0.9)
    for _ in range(verdict_store.MOST_FAILED_JOBS):
        job_id = job_store.enqueue(db, JudgeSpec(model=BASE_NAME, judge="local"), "owner")
        verdict_store.add_failure(db, local, number, Failure("no verdict", ""), job_id)
    verdict_store.pass_over(db, [number])
    card = tab.view(context, None, {})[0]["standing"]["value"]
    assert waiting(card) == [0, 0, 1]
    assert "Given up: 1, because judges failed on each in 3 jobs." in card


def test_a_case_holds_what_people_said_independently(context: Context, local: Judge) -> None:
    db = context.db
    project_store.set_project(db, replace(project_store.project(db), overlap=3))
    number = seed_comparisons(db, 1)[0]
    assert [prefer(db, name, place) for name, place in (("ann", 0), ("bob", 1))] == [number] * 2
    say(db, local, number, ("second", "first"), 0.2)
    case = verdict_store.jointly_judged(db, local)[0]
    assert (case.comparison_id, case.judged, case.picked) == (number, (2, 1), False)
    assert case.people == (PersonRanking("ann", (1, 2), "pair"), PersonRanking("bob", (2, 1), "pair"))
    assert case.chances == {(0, 1): pytest.approx(0.2)}
    texts = db.rows("SELECT text FROM response ORDER BY id")
    assert case.lengths == tuple(len(row["text"]) for row in texts)

    exclusions.leave_out(db, "bob", "careless", "owner")
    make_gold(db, number, 0, "owner")
    project_store.set_project(db, replace(project_store.project(db), gold_share=1.0))
    assert prefer(db, "carla", 1) == number  # to measure her, not for her opinion
    db.write(
        """INSERT INTO judgement (comparison_id, annotator_id, purpose, kind, outcome, ranking, shown_order, early,
               created) SELECT ?, id, 'import', 'pair', 'ranked', '[2, 1]', '[0, 1]', 1, ? FROM annotator
           WHERE name = 'owner'""",
        (number, now()),
    )
    assert verdict_store.jointly_judged(db, local)[0].people == (PersonRanking("ann", (1, 2), "pair"),)


def test_what_judges_could_not_label_is_told_from_what_was_drawn_by_lot(context: Context, local: Judge) -> None:
    db = context.db
    project_store.set_feedback(db, Feedback("mixed", audit_share=1.0))
    flipped, audited = seed_comparisons(db, 2)
    say(db, local, flipped, ("second", "second"), 0.5)
    say(db, local, audited, ("first", "second"), 0.9)
    assert {prefer(db, "ann", 0), prefer(db, "ann", 0)} == {flipped, audited}
    assert {case.comparison_id: case.picked for case in verdict_store.jointly_judged(db, local)} == {
        flipped: True,
        audited: False,
    }
    assert judge_history.trust_in(db, local).picked == 1


def test_only_what_changed_is_sent_again(context: Context, local: Judge) -> None:
    number = seed_comparisons(context.db, 1)[0]
    prefer(context.db, "ann", 0)
    _, seen = tab.view(context, "local", {})
    again, seen = tab.view(context, "local", seen)
    assert again == {}
    say(context.db, local, number, ("first", "second"), 0.9)
    changed, seen = tab.view(context, "local", seen)
    assert {"judges", "card", "verdicts"} <= set(changed)
    assert not {"selector", "model", "switch"} & set(changed)


# --------------------------------------------------------------------------------------------------------------- jobs
def test_every_judge_that_is_on_is_given_the_open_comparisons(pages: gr.Blocks, context: Context, local: Judge) -> None:
    db = context.db
    press_open = ("start_open", None, {}, 50)
    with pytest.raises(gr.Error, match="No comparison waits"):
        press(pages, *press_open)
    project_store.set_feedback(db, Feedback("ai"))
    seed_comparisons(db, 2)
    remote(db)
    verdict_store.set_active(db, remote(db, "off").name, False)
    assert "2 jobs queued: 1, 2." in str(press(pages, *press_open))
    specs = [job.spec for job in job_store.queue(db)]
    wanted = JudgeSpec(model=BASE_NAME, scope="open", comparisons=50)
    assert specs == [replace(wanted, judge="local"), replace(wanted, judge="remote")]
    with pytest.raises(gr.Error, match="local is at that already, in job 1"):
        press(pages, *press_open)
    assert len(job_store.queue(db)) == 2


@pytest.mark.parametrize("most", [0, -1, 1.5, None, True, float("nan"), "many"])
def test_a_number_of_comparisons_that_means_nothing_is_refused(
    pages: gr.Blocks, context: Context, local: Judge, most: Any
) -> None:
    seed_comparisons(context.db, 1)
    prefer(context.db, "ann", 0)
    with pytest.raises(gr.Error, match="“Comparisons to judge, at most” must be a whole number from 1 up"):
        press(pages, "start_judged", "local", {}, most)
    assert job_store.queue(context.db) == []


def test_what_people_have_judged_is_given_to_the_chosen_judge(pages: gr.Blocks, context: Context, local: Judge) -> None:
    remote(context.db)
    with pytest.raises(gr.Error, match="nothing that people have judged and remote has not"):
        press(pages, "start_judged", "remote", {}, 200)
    seed_comparisons(context.db, 1)
    prefer(context.db, "ann", 0)
    assert "Job 1 was queued" in str(press(pages, "start_judged", "remote", {}, 200))
    assert job_store.get(context.db, 1).spec == JudgeSpec(
        model=BASE_NAME, judge="remote", scope="judged", comparisons=200
    )


def test_what_people_have_judged_can_be_judged_where_there_is_any_that_the_judge_has_not(
    db: Database, pages: gr.Blocks, context: Context, local: Judge
) -> None:
    seen: Any = {}

    def offered() -> bool:
        nonlocal seen
        parts, seen = tab.view(context, "local", seen)
        shown.update({name: part for name, part in parts.items() if name == "judge_judged"})
        return bool(shown["judge_judged"]["visible"])

    shown: dict[str, Any] = {}
    (comparison,) = seed_comparisons(db, 1)
    assert not offered(), "nobody has judged anything"
    assert "once people have judged as well" in str(press(pages, "add_judge", None, {}, *form(name="other")))
    prefer(db, "ann", 0)
    assert offered()
    assert "Let it judge what people have judged" in str(press(pages, "add_judge", None, {}, *form(name="another")))
    press(pages, "start_judged", "local", {}, 200)
    assert not offered(), "it is at that"
    job_store.cancel(db, 1)
    assert offered()
    say(db, local, comparison, ("first", "second"), 0.9)
    assert not offered()


def test_a_judge_is_put_to_a_candidates_answers(pages: gr.Blocks, context: Context, local: Judge) -> None:
    db = context.db
    with pytest.raises(gr.Error, match="Choose the candidate"):
        press(pages, "start_candidate", "local", {}, 200, None)
    with db.transaction() as connection:
        connection["model"].insert(
            {"id": 2, "revision": "dpo-1", "algorithm": "dpo", "base": "b", "status": "candidate", "created": ""}
        )
    assert not tab.view(context, None, {})[0]["judge_candidate"]["visible"]
    with pytest.raises(gr.Error, match="no comparison of dpo-1"):
        press(pages, "start_candidate", "local", {}, 200, "dpo-1")
    prompt = seed_prompts(db, 1, "held-out")[0]
    for model_id, text in ((2, "new"), (1, "old")):
        comparison_store.add_response(db, make_response(prompt, text, model_id, seed=1), "check")
    assert policy_comparisons.compare_policies(db, 2, 1) == 1
    parts, _ = tab.view(context, None, {})
    assert (parts["candidate"]["choices"], parts["judge_candidate"]["visible"]) == (["dpo-1"], True)
    sent = str(press(pages, "start_candidate", "local", {}, 200, "dpo-1"))
    assert "Job 1 was queued" in sent
    assert "the answers of dpo-1" in sent
    assert job_store.get(db, 1).spec == JudgeSpec(
        model=BASE_NAME, judge="local", scope="candidate", candidate="dpo-1", comparisons=200
    )
    with pytest.raises(gr.Error, match="at that already"):
        press(pages, "start_candidate", "local", {}, 200, "dpo-1")


def test_a_job_is_followed_with_its_cost_and_cancelled(pages: gr.Blocks, context: Context) -> None:
    db, judge = context.db, remote(context.db)
    numbers = seed_comparisons(db, 4)
    for _ in numbers:
        prefer(db, "ann", 0)
    press(pages, "start_judged", "remote", {}, 200)
    assert job_store.claim(db, 1, "w") is not None
    say(db, judge, numbers[0], ("first", "second"), job_id=1)
    job_table.report(db, 1, "w", 1, 4, {"verdicts": 2.0}, "2 of 8 verdicts")
    parts, seen = tab.view(context, "remote", {})
    for words in ("25%", "step 1 of 4", "2 of 8 verdicts", "200 · 20", "0.0006", "what people have judged"):
        assert words in parts["job"]["value"]
    assert parts["cancel"]["visible"]
    sent = press(pages, "cancel_judging", "remote", seen)
    (said,) = [place for place, one in enumerate(sent) if isinstance(one, str) and "was asked to stop" in one]
    assert job_store.get(db, 1).status == "cancelling"
    late = press(pages, "look_at_judge", "remote", seen)
    assert late[said] == gr.skip(), "a poll that was asked for before is late"
    assert press(pages, "look_at_judge", "remote", late[-2])[said] == gr.skip()
    assert "See why" not in parts["job"]["value"]
    assert job_table.stop(db, 1, "w", "cancelled", "")
    for after in (sent[-1], late[-2]):
        emptied = press(pages, "look_at_judge", "remote", after)[said]["value"]
        assert emptied.endswith("-->"), "it is not so any more"
    job = tab.view(context, "remote", {})[0]["job"]["value"]
    assert 'href="/runs/1">See why job 1 ended</a>' in job, "where it can be resumed"
    with pytest.raises(gr.Error, match="No job is shown"):
        press(pages, "cancel_judging", "remote", {})


def test_a_job_that_gave_up_says_what_failed(context: Context) -> None:
    remote(context.db)
    job_id = job_store.enqueue(context.db, JudgeSpec(model=BASE_NAME, judge="remote"), "owner")
    job_store.claim(context.db, job_id, "w")
    failed = {"timeout": 7, "unreadable": 3}
    result = {"failed": failed, "gave_up": "10 verdicts failed one after the other.", "left_open": 5}
    job_table.finish(context.db, job_id, "w", result)
    parts, _ = tab.view(context, None, {})
    for words in ("It gave up. 10 verdicts failed", "without an answer in time (7), not readable (3)", "<dd>5</dd>"):
        assert words in parts["job"]["value"]
    assert not parts["cancel"]["visible"]


def test_a_job_of_a_judge_that_there_is_not_is_shown_all_the_same(context: Context) -> None:
    job_store.enqueue(context.db, JudgeSpec(model=BASE_NAME, judge=HOSTILE), "owner")
    parts, _ = tab.view(context, None, {})
    assert "&lt;img src=x" in parts["job"]["value"]
    assert "<img" not in parts["job"]["value"]


# ------------------------------------------------------------------------------------------------- rubric and verdicts
def test_the_rubric_is_kept_in_versions(pages: gr.Blocks, context: Context) -> None:
    opened = press(pages, "open_rubric", {}, None, None, None)
    assert "Version 0 (Prefloop&#x27;s own) holds." in opened[0]
    assert opened[2] == rubrics.DEFAULT.instruction
    saved = press(pages, "save_rubric", {}, "Be fair.", "Short\n\n- Correct\n", 1)
    assert "Version 1 holds from now on" in saved[-1]
    assert saved[2:5] == ["Be fair.", "Short\nCorrect", 1]
    assert "no version was added" in press(pages, "save_rubric", {}, "Be fair.", "Short\nCorrect", 1)[-1]
    latest = judge_store.rubric(context.db)
    assert (latest.version, latest.principles, latest.drawn, latest.written_by) == (1, ("Short", "Correct"), 1, "owner")
    assert press(pages, "read_rubric", 1) == "Be fair.\n\n- Short\n- Correct\n\nDrawn for each comparison: 1"
    assert rubrics.DEFAULT.principles[0] in press(pages, "read_rubric", 0)
    assert press(pages, "read_rubric", "9") == ""
    assert press(pages, "edit_rubric", 1) == ["Be fair.", "Short\nCorrect", 1]
    saved = press(pages, "save_rubric", {}, "Be fair.", "Short\nCorrect", None)
    assert judge_store.rubric(context.db).drawn == 0, "all of them"
    assert saved[2:5] == ["Be fair.", "Short\nCorrect", gr.update(value=None)]
    assert press(pages, "edit_rubric", "9") == [gr.skip()] * 3, "a draft stays"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("", "Short", 0), "needs an instruction"),
        (("Be fair.", "Short", 2), "can't be drawn from 1"),
        (("Be fair.", "Short", float("nan")), "“Principles drawn” must be a whole number"),
        ((None, None, 0), "needs an instruction"),
    ],
)
def test_a_rubric_that_means_nothing_is_refused(
    pages: gr.Blocks, context: Context, values: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(gr.Error, match=words):
        press(pages, "save_rubric", {}, *values)
    assert judge_store.rubric(context.db).version == 0


def test_a_rubric_that_another_admin_has_changed_meanwhile_is_not_put_back(pages: gr.Blocks, context: Context) -> None:
    *_, instruction, principles, _all, sent = press(pages, "open_rubric", {}, None, None, None)
    judge_store.write_rubric(context.db, "Theirs.", ["Correct", "Short"], 1, "kim")
    said = press(pages, "save_rubric", sent, instruction, principles + "\nKind", None)
    assert "Not saved: somebody has changed this meanwhile (Principles, one a line)" in str(said[-1])
    assert judge_store.rubric(context.db).version == 1
    said = press(pages, "save_rubric", said[-2], instruction, "Correct\nKind", None)
    assert "stays: Instruction, Principles drawn." in str(said[-1])
    held = judge_store.rubric(context.db)
    assert (held.instruction, held.principles, held.drawn) == ("Theirs.", ("Correct", "Kind"), 1)


def test_a_draft_stays_when_the_tab_is_opened_again(pages: gr.Blocks, context: Context) -> None:
    *_, instruction, principles, drawn, sent = press(pages, "open_rubric", {}, None, None, None)
    again = press(pages, "open_rubric", sent, "My draft", principles, None)
    assert again[2] == gr.skip()
    assert again[3:5] == [principles, drawn]
    *opened, _place = press(pages, "open_judges", {}, None, None, None, None)
    assert opened[-4:] == ["people", 10.0, 60.0, 25.0]
    seen = opened[-5]
    *drafted, _place = press(pages, "open_judges", seen, "people", 33.0, 60.0, 25.0)
    assert drafted[-4:] == ["people", gr.skip(), 60.0, 25.0]
    assert press(pages, "open_judges", drafted[-5], "people", 33.0, 60.0, 25.0)[-5:-1] == drafted[-4:]
    assert instruction == rubrics.DEFAULT.instruction


def test_the_prompt_is_shown_as_it_is_sent_in_both_orders(context: Context, tiny_model: Path, local: Judge) -> None:
    """To a local model letter for letter as transformers' own tokenizer writes it."""
    from rlhf.models.loading.tokenizer_loading import load_tokenizer

    db, tokenizer = context.db, load_tokenizer(tiny_model)
    with gr.Blocks() as pages:
        tab.build(pages, replace(context, model=str(tiny_model)))
    prompt = seed_prompts(db, 1)[0]
    number = comparison_store.add_comparison(db, [make_response(prompt, text) for text in (HOSTILE, "Fine.<|im_end|>")])
    assert number is not None
    shown = press(pages, "show_prompt", "local", "")
    assert f"Comparison {number} by version 0 of the rubric, as local is sent it." in shown
    assert "<img" not in shown
    assert "<script" not in shown
    known, drawn = judge_store.rubric(db), rubrics.principles_for(judge_store.rubric(db), number)
    for answers in ((HOSTILE, "Fine.<|im_end|>"), ("Fine.<|im_end|>", HOSTILE)):
        sent = rubrics.messages_for(known, drawn, prompt.messages, *answers, comparison_id=number, style="letter")
        text = render(tokenizer, sent)
        assert text.startswith("<|im_start|>user\n")
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert f'<pre class="log" tabindex="0">{escape(text)}</pre>' in shown
    assert "Verdict: tie" in press(pages, "show_prompt", remote(db).name, f"#{number}")
    scorer = judge_store.add(db, "scorer", "reward-model", {"model": "reward_model-1"}, "owner")
    assert "is sent no prompt" in press(pages, "show_prompt", scorer.name, "")
    for typed in ("99", "no number", "9" * 15):
        with pytest.raises(gr.Error, match=r"empty for the latest"):
            press(pages, "show_prompt", "local", typed)


def test_verdicts_are_shown_letter_for_letter(context: Context) -> None:
    db, judge = context.db, remote(context.db)
    number = seed_comparisons(db, 1)[0]
    prefer(db, "ann", 0)
    say(db, judge, number, ("second", "tie"), reply=HOSTILE)
    table = tab.view(context, None, {})[0]["verdicts"]["value"]
    assert "<img" not in table
    assert table.count("&lt;img src=x onerror=&#x27;window.ran=1&#x27;&gt;${window.ran=1}{{value}}") == 2
    assert "<td>1, 2</td><td>answer 2</td>" in table
    assert "<td>2, 1</td><td>tie</td>" in table


def test_names_and_addresses_stay_text(context: Context) -> None:
    remote(context.db, HOSTILE[:60], model=HOSTILE)
    parts, _ = tab.view(context, None, {})
    for name in ("judges", "card"):
        assert "<img" not in parts[name]["value"]
        assert "&lt;img src=x" in parts[name]["value"]


# ------------------------------------------------------------------------------------------------------- a real judge
def test_a_local_model_judges_what_people_have_judged_and_gets_its_card(machine: Machine, tiny_judge: Path) -> None:
    """From the button to the card: a tiny model reads both orders of every pair."""
    machine.add_prompts(train=6, held_out=0)
    machine.judge("train", 6)
    db = machine.db
    context = Context(db, machine.data_dir, registry.by_revision(db, "base").base)
    judge_store.write_rubric(db, "The shorter answer is better.", [], 0, "owner")  # its context holds no longer one
    keep_result(machine.data_dir, tiny_judge, SelfTestResult(packs=True, shares_prompts=True))
    judge = judge_store.add(db, "tiny", "local", {"directory": str(tiny_judge)}, "owner")
    tab.judge_judged(context, judge, 200, "owner")
    job = machine.perform(1)
    assert job.status == "finished", job.message
    assert len(judge_history.latest(db, judge, 100)) == 12
    found = judge_history.trust_in(db, judge)
    assert found.with_people is not None
    assert (found.with_people.share.n, found.flips and found.flips.n) == (6, 6)
    assert found.calibration is not None
    parts, _ = tab.view(context, None, {})
    assert '<td class="number">6, few</td>' in parts["card"]["value"]
    assert "Calibration" in parts["card"]["value"]
    assert "P(A) + P(B) of the next token: " in parts["job"]["value"]
    with pytest.raises(UserError, match="nothing that people have judged"):
        tab.judge_judged(context, judge, 200, "owner")
