"""The sentences, times and tables of the Train and Iterations tabs."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

import pytest

from annotation.consensus import REASONS
from annotation.store import AnswerCounts
from rlhf import presenting
from rlhf.jobs import Job
from rlhf.policies import Policy
from rlhf.specs import DPOSpec, EvaluateSpec, GenerateSpec

AT = "2026-01-02T10:10:00.000000+00:00"
JOB = Job(
    id=7,
    kind="dpo",
    spec=DPOSpec(parent="base", snapshot="abcdef0123456789"),
    status="running",
    attempt=1,
    worker="w",
    requested_by="owner",
    created="2026-01-02T09:59:00.000000+00:00",
    started="2026-01-02T10:00:00.000000+00:00",
    heartbeat="2026-01-02T10:09:59.000000+00:00",
    finished=None,
    step=4,
    steps=10,
    message="",
    result=None,
)
BASE = Policy(1, "base", "base", "SmolLM2", None, None, None, None, "retired", AT)
ADAPTER = Policy(2, "dpo-7", "dpo", "SmolLM2", 1, 7, "adapters/dpo-7", "0" * 64, "candidate", AT)
FIGURES = {
    "mean_length": 20.0,
    "distinct_1": 0.3,
    "distinct_2": 0.8,
    "kl_to_base": 0.1,
    "nll_under_base": 1.2,
    "ended_share": 0.9,
}
EVALUATION: dict[str, Any] = {
    "candidate": {"revision": "dpo-7", **FIGURES},
    "against": {"revision": "base", **FIGURES},
    "base": {"revision": "base", **FIGURES},
    "implicit_accuracy": {"value": 0.66, "low": 0.5, "high": 0.8, "n": 40},
    "prompts": 60,
    "seconds": 1.0,
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (45.4, "45 s"), (59.7, "1 min"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (3900, "1 h 5 min")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert presenting.duration(seconds) == text


def test_time_left_follows_the_pace_of_this_attempt() -> None:
    times = [(2, "2026-01-02T10:08:00.000000+00:00"), (4, "2026-01-02T10:09:40.000000+00:00")]
    # 50 s a step, 6 steps to go, 20 s of them gone.
    assert presenting.seconds_left(times, JOB, AT) == pytest.approx(280)


def test_time_left_is_unknown_before_there_is_a_pace() -> None:
    one = [(4, "2026-01-02T10:09:40.000000+00:00")]
    assert presenting.seconds_left(one, JOB, AT) is None
    assert presenting.seconds_left([], replace(JOB, attempt=2), AT) is None
    assert presenting.seconds_left([], replace(JOB, status="lost"), AT) is None
    assert presenting.seconds_left([], replace(JOB, steps=0), AT) is None


def test_a_first_attempt_without_events_is_judged_by_its_age() -> None:
    assert presenting.seconds_left([], JOB, AT) == pytest.approx(900)


def test_time_left_is_never_negative() -> None:
    times = [(1, "2026-01-02T10:00:00.000000+00:00"), (9, "2026-01-02T10:00:08.000000+00:00")]
    assert presenting.seconds_left(times, replace(JOB, step=9), AT) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "queued"}, "Queued"),
        ({"message": "Training, epoch 1"}, "Running. Training, epoch 1"),
        ({"heartbeat": "2026-01-02T10:09:40.000000+00:00"}, "said nothing for 20 s"),
        ({"status": "cancelling"}, "Cancelling"),
        ({"status": "lost", "message": "The worker stopped without a word."}, "Lost. The worker stopped"),
        ({"status": "failed", "message": "No memory."}, "Failed. No memory."),
        ({"status": "cancelled"}, "Cancelled."),
        ({"status": "finished", "finished": AT}, "Finished in 10 min."),
    ],
)
def test_every_status_has_its_sentence(changes: dict[str, Any], words: str) -> None:
    assert words in presenting.headline(replace(JOB, **changes), AT)


def test_progress_line() -> None:
    assert presenting.progress_line(JOB, 280, AT) == "40% · step 4 of 10 · 10 min so far · about 4 min 40 s left"
    assert "not known yet" in presenting.progress_line(JOB, None, AT)
    assert presenting.progress_line(replace(JOB, steps=0), None, AT) == "Preparing for 10 min."
    assert presenting.progress_line(replace(JOB, status="queued"), None, AT) == "Waiting for 11 min."


def test_a_job_card_names_its_reference_data_and_what_was_left_out() -> None:
    finished = replace(JOB, status="finished", finished=AT, result={"train_pairs": 21, "left_out": {"too-long": 2}})
    card = presenting.job_card(
        finished, {"train": 23, "held-out": 9, "left_out": {"tie": 3, "too-long": 1}}, None, ADAPTER, AT
    )
    for words in ("the base model", "abcdef012345", "owner", "21 to train, 9 held-out", "3 tie", "3 too long", "dpo-7"):
        assert words in card
    assert "<dt>Annotator noise</dt><dd>ignored</dd>" in card
    noisy = presenting.job_card(replace(JOB, spec=DPOSpec(annotator_noise="smooth")), {}, None, None, AT)
    assert "<dd>smooths labels</dd>" in noisy
    assert "abcdef0123456789" not in card


def test_whatever_was_written_is_shown_literally() -> None:
    nasty = "<img src=x onerror=alert(1)> <think>hm</think> ${alert(1)} {{value}}"
    row = {"text": nasty, "tokens": 3, "finish_reason": "length", "prompt_id": 1, "seed": 5}
    pair = presenting.AnswerPair(nasty, 5, row, row)
    for html in (
        presenting.log_box([nasty]),
        presenting.answers_page([pair], 0, 10, (nasty, nasty)),
        presenting.jobs_table([replace(JOB, message=nasty)], AT),
        presenting.job_card(replace(JOB, message=nasty, requested_by=nasty), {}, None, None, AT),
    ):
        assert "<img" not in html
        assert "<think>" not in html
        assert "&lt;think&gt;hm&lt;/think&gt;" in html


def test_the_style_survives_gradios_template_engine() -> None:
    assert [part for part in ("`", "\\", "{{", "${") if part in presenting.STYLE] == []


def test_a_plot_leaves_out_steps_without_the_metric() -> None:
    metrics = [{"step": 1, "loss": 0.7}, {"step": 2, "rewards/margins": 0.1}, {"step": 3, "loss": 0.5}]
    rows = presenting.plot_rows(metrics, {"loss": "loss", "margin": "rewards/margins"})
    assert rows["data"] == [[1, 0.7, "loss"], [3, 0.5, "loss"], [2, 0.1, "margin"]]
    assert rows["datatypes"]["series"] == "nominal"


def test_fingerprints_tell_what_changed() -> None:
    first, second = presenting.fingerprints({"a": 1, "b": [2]}), presenting.fingerprints({"a": 1, "b": [3]})
    assert first["a"] == second["a"]
    assert first["b"] != second["b"]


def test_the_preview_says_what_is_left_out_and_why() -> None:
    card = presenting.preview_card("base", 30, 20, 5, {"tie": 3, "all-bad": 2, "too-long": 0}, 0.184)
    for words in ("base", "30", "20", "5", "18%"):
        assert f"<dd>{words}</dd>" in card
    assert '<td>tie</td><td class="number">3</td><td>pairs</td>' in card
    assert '<td>all bad</td><td class="number">2</td><td>judgements</td>' in card
    assert "too long" not in card
    empty = presenting.preview_card("base", 0, 0, 0, {}, None)
    assert "Nothing is left out." in empty
    assert "not measured" in empty


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_its_words_on_the_page(reason: str) -> None:
    card = presenting.preview_card("base", 1, 1, 0, {reason: 7}, 0.1)
    assert f"<td>{escape(REASONS[reason])}</td>" in card or f'<td class="wordy">{escape(REASONS[reason])}</td>' in card
    assert '<td class="number">7</td>' in card


def test_reasons_that_count_pairs_are_reasons() -> None:
    assert set(presenting.PAIR_REASONS) < set(REASONS)


def test_few_held_out_judgements_are_said_to_tell_nothing() -> None:
    assert presenting.held_out_accuracy(EVALUATION) == "66% (50% to 80%, n = 40)"
    few = EVALUATION | {"implicit_accuracy": {"value": 0.66, "low": 0.35, "high": 0.88, "n": 12}}
    assert "too few held-out judgements to tell" in presenting.held_out_accuracy(few)
    for missing in (None, {}, {"implicit_accuracy": None}, {"implicit_accuracy": {"value": None, "n": 0}}):
        assert presenting.held_out_accuracy(missing) == "not measured"


def test_a_report_bears_missing_figures_and_names_each_policy_once() -> None:
    html = presenting.report(EVALUATION | {"base": None, "candidate": {"revision": "dpo-7", "kl_to_base": None}})
    assert "not measured" in html
    assert html.count(">base<") == 1
    assert "not been checked" in presenting.report(None)
    three = presenting.report(EVALUATION | {"against": {"revision": "dpo-3", **FIGURES}})
    assert "dpo-3 (compared with)" in three


def test_a_policy_that_loses_the_language_is_warned_of() -> None:
    assert presenting.warnings(EVALUATION) == []
    worse = EVALUATION | {"candidate": {**FIGURES, "nll_under_base": 1.5, "distinct_2": 0.6}}
    surprise, repetition = presenting.warnings(worse)
    assert "25% more" in surprise
    assert "75% of the base's" in repetition


def test_history_is_newest_first_and_bears_a_policy_without_a_check() -> None:
    trained = replace(
        JOB, status="finished", result={"train_pairs": 21, "final": {"loss": 0.6123}, "snapshot": "f" * 64}
    )
    html = presenting.history_table([BASE, ADAPTER], {7: trained}, {})
    assert html.index(">dpo-7<") < html.index("<td>base</td>")
    for words in ("0.612", "f" * 12, "21", "the base model", "not measured", "candidate"):
        assert words in html
    assert "f" * 13 not in html


def test_the_newest_finished_check_counts() -> None:
    def check(number: int, status: str, result: dict[str, Any] | None) -> Job:
        return replace(
            JOB, id=number, kind="evaluate", spec=EvaluateSpec(candidate="dpo-7"), status=status, result=result
        )

    found = presenting.newest_evaluations(
        [check(9, "running", None), check(8, "finished", {}), check(6, "finished", {})]
    )
    assert found["dpo-7"].id == 8


def test_candidates_come_first_and_promotion_is_called_what_it_is() -> None:
    serving = replace(ADAPTER, id=3, revision="dpo-9", status="serving")
    assert [policy.id for policy in presenting.policy_order([BASE, ADAPTER, serving])] == [2, 3, 1]
    assert presenting.promote_label(ADAPTER) == "Promote: let it serve"
    assert presenting.promote_label(BASE) == "Roll back to this one"
    assert presenting.promote_label(serving) == "Serves now"


def test_answers_are_paired_by_prompt_and_seed_and_the_newest_count() -> None:
    def row(prompt_id: int, seed: int, text: str) -> dict[str, Any]:
        message = {"role": "user", "content": f"prompt {prompt_id}"}
        return {
            "prompt_id": prompt_id,
            "seed": seed,
            "text": text,
            "messages": [message],
            "tokens": 1,
            "finish_reason": "stop",
        }

    left = [row(1, 10, "old"), row(1, 10, "new"), row(2, 11, "alone"), row(3, 12, "third")]
    pairs = presenting.answer_pairs(left, [row(1, 10, "base 1"), row(3, 12, "base 3"), row(3, 13, "other seed")])
    assert [(pair.prompt, pair.left["text"], pair.right["text"]) for pair in pairs] == [
        ("prompt 1", "new", "base 1"),
        ("prompt 3", "third", "base 3"),
    ]
    assert presenting.page_label(len(pairs), 0, 10) == "Prompts 1 to 2 of 2"
    assert presenting.page_label(23, 2, 10) == "Prompts 21 to 23 of 23"
    assert presenting.page_label(0, 0, 10) == ""


def test_a_conversation_says_who_said_what() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert presenting.conversation(turns) == "user: Hi\nassistant: Hello"
    assert presenting.conversation(turns[:1]) == "Hi"


@pytest.mark.parametrize(
    ("status", "words"),
    [("running", "runs (heard of 1 s ago)"), ("queued", "starting"), ("failed", "does not run (failed)")],
)
def test_the_answering_workers_state(status: str, words: str) -> None:
    worker = replace(JOB, kind="generate", spec=GenerateSpec(), status=status)
    assert words in presenting.worker_sentence(worker, AT)
    assert "not been started" in presenting.worker_sentence(None, AT)


def test_the_serving_card_counts_answers() -> None:
    card = presenting.serving_card(BASE, None, {"train": 20, "held-out": 4}, 9, AnswerCounts(200, 170, 3, 5), AT)
    for words in (
        *("20 for training, 4 held-out", "9 by earlier policies or imported"),
        *("85%", "200", "<dd>3</dd>", "<dd>5</dd>"),
    ):
        assert words in card
    assert "not measured" in presenting.serving_card(
        BASE, None, {"train": 0, "held-out": 0}, 0, AnswerCounts(0, 0, 0, 0), AT
    )
