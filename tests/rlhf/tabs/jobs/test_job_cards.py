"""The sentences, times and tables of the Runs page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import pytest

from annotation.metrics.aggregation import REASONS
from annotation.metrics.intervals_and_bias import Share
from annotation.translation import language_of, speaking
from annotation.ui import formatting
from annotation.ui.markup import Chip
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data.snapshots import SnapshotCounts
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs.job_spec import to_json
from rlhf.jobs.job_store import Job, SampleAnswer
from rlhf.jobs.run_labels import RunLabel
from rlhf.tabs.iterations import check_report, loop_status
from rlhf.tabs.jobs import job_cards
from rlhf.tabs.runs import run_list
from tests.builders import checked_answer, job, policy

AT = "2026-01-02T10:10:00.000000+00:00"
PREFERENCES = DPOSpec(method="qlora", parent="base", snapshot="abcdef0123456789", stop_kl=0.15)
JOB = job(spec=PREFERENCES)
ANSWER = checked_answer(model_id=2, seed=5, rendered_prompt="Why?", prompt_tokens=2)
BASE = policy(
    id=1,
    revision="base",
    algorithm="base",
    parent_id=None,
    job_id=None,
    path=None,
    sha256=None,
    status="retired",
    form="base",
    precision="bf16",
)
ADAPTER = policy()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (45.4, "45 s"), (59.7, "1 min"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (3900, "1 h 5 min")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_time_left_follows_the_pace_of_this_attempt() -> None:
    times = [(2, "2026-01-02T10:08:00.000000+00:00"), (4, "2026-01-02T10:09:40.000000+00:00")]
    # 50 s a step, 6 steps to go, 20 s of them gone.
    assert job_cards.seconds_left(times, JOB, AT) == pytest.approx(280)


def test_time_left_is_unknown_before_there_is_a_pace() -> None:
    one = [(4, "2026-01-02T10:09:40.000000+00:00")]
    assert job_cards.seconds_left(one, JOB, AT) is None
    assert job_cards.seconds_left([], replace(JOB, attempt=2), AT) is None
    assert job_cards.seconds_left([], replace(JOB, status="lost"), AT) is None
    assert job_cards.seconds_left([], replace(JOB, steps=0), AT) is None
    silent = replace(JOB, heartbeat="2026-01-01T00:00:00.000000+00:00")
    assert job_cards.seconds_left([], silent, AT) is None, "nobody knows whether it goes on"


def test_time_left_does_not_count_what_the_machine_slept_or_its_clock_was_set() -> None:
    steady = [f"2026-01-02T10:0{minute}:00.000000+00:00" for minute in range(5)]
    running = replace(JOB, steps=20)
    at = "2026-01-02T10:04:00.000000+00:00"
    assert job_cards.seconds_left([*enumerate(steady, 1)], running, at) == pytest.approx(15 * 60)
    later = [f"2026-01-02T{hour}:0{minute}:00.000000+00:00" for hour, minute in ((10, 3), (18, 4), (18, 5), (18, 6))]
    slept = [*enumerate([*steady[:3], *later], 1)]
    assert job_cards.seconds_left(slept, replace(running, heartbeat=later[-1]), later[-1]) == pytest.approx(13 * 60)
    set_back = [*enumerate([*steady, "2026-01-02T09:01:00.000000+00:00", "2026-01-02T09:02:00.000000+00:00"], 1)]
    assert job_cards.seconds_left(set_back, running, "2026-01-02T09:02:00.000000+00:00") == pytest.approx(13 * 60)
    assert job_cards.seconds_left([], JOB, "2026-01-02T09:59:00.000000+00:00") is None, "it began later than now"


def test_the_pace_is_that_of_all_steps_and_a_slow_one_is_one_of_them() -> None:
    def left(*seconds: int, each: int = 1) -> float | None:
        whens = [datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=one) for one in accumulate(seconds, initial=0)]
        times = [(1 + (number and 1 + (number - 1) * each), when.isoformat()) for number, when in enumerate(whens)]
        return job_cards.seconds_left(times, replace(JOB, steps=times[-1][0] + 10), times[-1][1])

    assert left(100, 100, 100, each=10) == pytest.approx(10 * 300 / 21), "a first step that took long is one of many"
    assert left(1, 1, 1, 297) == pytest.approx(10 * 75), "samples are written every few steps"
    assert left(1, 1, 1, 28_000) == pytest.approx(10), "it slept"
    assert left(0, 0, 0) is None, "the clock says nothing"


def test_a_first_attempt_without_events_is_judged_by_its_age() -> None:
    assert job_cards.seconds_left([], JOB, AT) == pytest.approx(900)
    assert job_cards.seconds_left([], replace(JOB, steps=41), AT) is None, "mostly, the model was loaded"
    almost = replace(JOB, step=2999, steps=3000)
    assert job_cards.seconds_left([], almost, AT) is None, "0 s are left of none that runs on"


def test_time_left_is_never_negative() -> None:
    times = [(1, "2026-01-02T10:00:00.000000+00:00"), (9, "2026-01-02T10:00:08.000000+00:00")]
    assert job_cards.seconds_left(times, replace(JOB, step=9), AT) is None, "the last one takes longer: how long?"
    at = "2026-01-02T10:00:10.000000+00:00"
    assert job_cards.seconds_left(times, replace(JOB, step=9, steps=12), at) == pytest.approx(2), "after this one"


def test_what_stands_still_is_not_said_to_end_soon_again_and_again() -> None:
    """Samples are written between two steps, and a judge that gave no verdict is asked again after a while."""
    times = [(step, f"2026-01-02T10:00:{step:02}.000000+00:00") for step in range(6)]
    job = replace(JOB, step=5, steps=8, heartbeat="2026-01-02T10:00:30.000000+00:00")
    assert job_cards.seconds_left(times, job, "2026-01-02T10:00:07.000000+00:00") == pytest.approx(2)
    assert job_cards.seconds_left(times, job, "2026-01-02T10:00:30.000000+00:00") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "queued"}, "Queued"),
        ({"message": "dpo-7 answers."}, "Running. dpo-7 answers."),
        ({"heartbeat": "2026-01-02T10:09:40.000000+00:00"}, "said nothing for 20 s"),
        ({"status": "cancelling"}, "Cancelling: it stops when what it is at is done, and can be resumed."),
        ({"status": "lost", "message": "The worker stopped without a word."}, "Lost. The worker stopped"),
        ({"status": "failed", "message": "No memory."}, "Failed. No memory."),
        ({"status": "cancelled"}, "Cancelled."),
        ({"status": "cancelled", "message": "It had not begun."}, "Cancelled. It had not begun."),
        ({"status": "finished", "finished": AT}, "Finished in 10 min."),
    ],
)
def test_every_status_has_its_sentence(changes: dict[str, Any], words: str) -> None:
    said = job_cards.headline(replace(JOB, **changes), AT)
    assert words in said
    assert said.count("Cancelled") < 2


def test_progress_line() -> None:
    whole = replace(JOB, spec=replace(PREFERENCES, stop_kl=0.0))
    assert job_cards.progress_line(whole, 280, AT) == "40% · step 4 of 10 · 10 min so far · about 4 min 40 s left"
    assert job_cards.progress_line(whole, None, AT) == "40% · step 4 of 10 · 10 min so far"
    resumed = job_cards.progress_line(replace(whole, attempt=2), None, AT)
    assert resumed == "40% · step 4 of 10 · 10 min in this attempt so far"
    assert "<pre><i>(empty)</i></pre>" in job_cards.answer_box("base", "", 1, "stop")
    # What it has made is being saved.
    assert job_cards.progress_line(replace(whole, step=10), None, AT) == "100% · step 10 of 10 · 10 min so far"
    assert job_cards.progress_line(replace(JOB, steps=0), None, AT) == "Preparing for 10 min."
    assert job_cards.progress_line(replace(JOB, status="queued", attempt=0), None, AT) == "Waiting for 11 min."
    resumed = replace(JOB, status="queued")
    assert job_cards.progress_line(resumed, None, AT) == "It waits to go on; it had come to step 4."
    assert job_cards.progress_line(replace(resumed, step=0), None, AT) == "It waits to begin again."


def test_a_run_that_may_end_early_says_so_and_then_where_and_why_it_did() -> None:
    left = "40% · step 4 of at most 10 · 10 min so far · at most about 4 min 40 s left"
    assert job_cards.progress_line(JOB, 280, AT) == left
    assert "step 4 of at most 10" in job_cards.progress_line(replace(JOB, status="lost"), None, AT)
    far = replace(JOB, status="finished", finished=AT, step=8, steps=8, result={"final": {"kl": 0.1634}})
    said = "Finished in 10 min. It ended after step 8. The policy had moved 0.1634 nats a token, and 0.15 was enough."
    assert job_cards.headline(far, AT) == said
    assert "at most" not in job_cards.progress_line(far, None, AT)
    assert "ended after" not in job_cards.headline(replace(far, result={"final": {"kl": 0.12}}), AT)
    assert "ended after" not in job_cards.headline(replace(far, result=None), AT)
    never = replace(PREFERENCES, stop_kl=0.0)
    assert "ended after" not in job_cards.headline(replace(far, spec=never), AT)
    assert "<dd>at most 6 · 4 or more</dd>" in job_cards.job_facts(JOB, SnapshotCounts())
    assert "<dd>6 · 4 or more</dd>" in job_cards.job_facts(replace(JOB, spec=never), SnapshotCounts())


def test_the_time_of_a_run_that_was_resumed_is_that_of_its_last_attempt() -> None:
    again = replace(JOB, status="finished", finished=AT, attempt=2)
    assert job_cards.headline(again, AT) == "Finished; its last attempt took 10 min."


def test_a_jobs_facts_name_its_reference_data_and_what_was_left_out() -> None:
    finished = replace(JOB, status="finished", finished=AT, result={"trained_on": 21, "left_out": {"too-long": 2}})
    counts = SnapshotCounts(train=23, held_out=9, left_out={"tie": 3, "too-long": 1})
    facts, _, every = job_cards.job_facts(finished, counts).partition("<details>")
    for words in ("The weights under", "abcdef012345", "owner", "21 to train, 9 held-out", "tie (3), too long (3)"):
        assert words in facts
    assert "<dt>Seed</dt><dd>0</dd>" in facts
    assert "<dt>Annotator noise</dt><dd>Ignore</dd>" in facts
    assert "abcdef0123456789" not in facts
    assert "&quot;snapshot&quot;: &quot;abcdef0123456789&quot;" in every, "the spec to copy names it whole"
    assert "Attempt" not in facts, "that it is the first goes without saying"
    assert "<dt>Attempt</dt><dd>2</dd>" in job_cards.job_facts(replace(JOB, attempt=2), SnapshotCounts())
    noisy = job_cards.job_facts(replace(JOB, spec=DPOSpec(annotator_noise="smooth")), SnapshotCounts())
    assert "<dd>Smooth</dd>" in noisy


def test_a_job_card_says_what_it_made_and_how_that_stands() -> None:
    finished = replace(JOB, status="finished", finished=AT)
    assert "It made the policy dpo-7 (candidate)." in job_cards.job_card(finished, None, ADAPTER, AT)
    reward = replace(ADAPTER, revision="reward-model-7", kind="reward-model")
    assert "It made the reward model reward-model-7." in job_cards.job_card(finished, None, reward, AT)
    gone = replace(ADAPTER, deleted=AT)
    assert "It made dpo-7, whose files were deleted on 2026-01-02." in job_cards.job_card(finished, None, gone, AT)
    assert "It made" not in job_cards.job_card(JOB, None, None, AT)
    assert 'aria-valuenow="40"' in job_cards.job_card(JOB, None, None, AT)


def test_a_job_that_was_made_smaller_says_so_once() -> None:
    retry = "Memory ran out. Queued again with a smaller batch: batch_size 8 → 4, accumulation 1 → 2."
    running = job_cards.job_card(JOB, None, None, AT, [retry])
    shown = "Memory ran out. Queued again with a smaller batch: “Batch size” 8 → 4, “Accumulation” 1 → 2."
    assert f'<p class="warning">{shown}</p>' in running
    waiting = job_cards.job_card(replace(JOB, status="queued", message=retry), None, None, AT, [retry])
    assert waiting.count(shown) == 1
    measuring = replace(JOB, kind="measure", spec=MeasureSpec(training=to_json(DPOSpec())))
    assert shown in job_cards.job_card(measuring, None, None, AT, [retry])


# ---------------------------------------------------------------------------------------------------------- the queue
def test_the_queue_tells_what_runs_and_who_waits_in_order() -> None:
    waiting = [
        replace(JOB, id=9, kind="sft", spec=SFTSpec(method="full"), status="queued", attempt=0),
        replace(JOB, id=8, kind="check", spec=CheckSpec(candidate="dpo-3"), status="queued"),
    ]
    html = job_cards.queue_table([JOB], waiting, AT)
    rows = html.split("<tr>")[2:]
    for row, words in zip(
        rows,
        (
            ("<td>now</td><td>7</td>", '<a href="/runs/7">preference training (DPO), QLoRA</a>', "running for 10 min"),
            ("<td>1</td><td>9</td>", "supervised training, full", "since 2026-01-02 09:59 UTC"),
            ("<td>2</td><td>8</td>", "check of dpo-3", "owner", "waits to go on"),
        ),
        strict=True,
    ):
        assert [word for word in words if word not in row] == []
    assert job_cards.queue_table([JOB], [], AT) == job_cards.queue_table([], [], AT) == "", "nobody waits"
    assert "<td>rented</td>" in job_cards.queue_table([JOB], [], AT, [replace(JOB, id=8, flavor="a10g-small")])


# ------------------------------------------------------------------------------------------------------- what came out
BEFORE = {"loss": 1.8, "perplexity": 6.05, "token_accuracy": 0.61, "n": 60}
AFTER = {"loss": 0.4321, "perplexity": 1.54, "token_accuracy": 0.884, "n": 60}


def test_held_out_figures_stand_before_and_after() -> None:
    def table(after: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
        done = replace(JOB, status="finished", spec=SFTSpec(), result={"held_out": after, "held_out_before": before})
        return job_cards.outcome_card(done, None, "")

    html = table(AFTER, BEFORE)
    assert "Held-out demonstrations: 60" in html
    for before, after in (("1.800", "0.432"), ("6.05", "1.54"), ("61%", "88%")):
        assert f'<td class="number">{before}</td><td class="number">{after}</td>' in html
    alone = table(AFTER, None)
    assert alone.count("not measured") == 3
    assert "would have cost" in alone
    assert "no held-out demonstrations" in table({**AFTER, "n": 0, "loss": None}, None)
    assert job_cards.outcome_card(replace(JOB, result={"trained_on": 12, "held_out": AFTER}), None, "") == ""


def test_a_training_after_which_held_out_figures_are_worse_says_so() -> None:
    def finished(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Job:
        result = {"held_out": after, "held_out_before": before}
        return replace(JOB, status="finished", finished=AT, spec=SFTSpec(), result=result)

    said = "Held-out loss got worse: from 0.432 before training to 1.800."
    worse = finished(AFTER, BEFORE)
    assert job_cards.headline(worse, AT) == f"Finished in 10 min. {said}"
    assert '<p class="headline bad" role="status">' in job_cards.job_card(worse, None, None, AT)
    row = run_list.row(run_list.listed([worse], {}, {}, AT)[0])
    assert Chip("finished", "bad") in row
    assert row[-1] == said
    unsure = finished({"token_accuracy": 0.61, "n": 9}, {"token_accuracy": 0.4, "n": 9})
    assert job_cards.setback(unsure) == "Held-out token accuracy got worse: from 61% before training to 40%."
    for fine in (
        finished(BEFORE, AFTER),
        finished(BEFORE, {**BEFORE, "loss": BEFORE["loss"] * 1.009}),
        finished(BEFORE, {**BEFORE, "loss": BEFORE["loss"] * 0.9, "token_accuracy": 0.4}),
        finished(None, AFTER),
        finished(BEFORE, {"n": 0}),
        replace(worse, status="cancelled"),
        replace(worse, spec=DPOSpec()),
    ):
        assert job_cards.setback(fine) == ""
        assert '<p class="headline" role="status">' in job_cards.job_card(fine, None, None, AT)
    assert Chip("finished", "good") in run_list.row(run_list.listed([finished(BEFORE, AFTER)], {}, {}, AT)[0])


def test_a_policy_that_moved_so_far_that_it_is_probably_ruined_says_so() -> None:
    def finished(spec: DPOSpec, **final: float) -> Job:
        return replace(JOB, status="finished", spec=spec, result={"final": final})

    said = job_cards.setback(finished(DPOSpec(), kl=27.65, surprise=8.4))
    assert said.startswith(
        "The policy moved 27.65 nats a token from where it began, and its answers are probably ruined"
    )
    # A little further than a little is no ruin.
    for fine in (finished(DPOSpec(), kl=0.31), finished(DPOSpec()), finished(DPOSpec(stop_kl=0.01), kl=0.15)):
        assert job_cards.setback(fine) == ""


def test_a_reward_model_that_is_worse_than_guessing_says_so() -> None:
    def finished(accuracy: Any) -> Job:
        return replace(JOB, status="finished", spec=RewardModelSpec(), result={"quality": {"accuracy": accuracy}})

    def of(right: float | None, low: float | None, high: float | None) -> Job:
        return finished(Share(right, low, high, 30).to_json())

    assert job_cards.setback(of(0.3, 0.2, 0.44)) == "It is worse than guessing: right on 30% of held-out comparisons."
    for unsaid in (of(0.38, 0.14, 0.69), of(0.62, 0.5, 0.7), of(None, None, None), finished({"value": 0.3})):
        assert job_cards.setback(unsaid) == ""
    # As a rented machine might send it.
    for unmeant in (0.6, "good", {"value": "x"}, {"value": "0.3", "low": "0.2", "high": "0.4", "n": 30}, [0.3], None):
        assert job_cards.setback(finished(unmeant)) == ""
        assert Chip("finished", "good") in run_list.row(run_list.listed([finished(unmeant)], {}, {}, AT)[0])
    assert job_cards.setback(replace(JOB, status="finished", spec=RewardModelSpec(), result={"quality": "good"})) == ""


def test_what_a_failed_job_says_of_settings_is_said_with_their_labels() -> None:
    failed = replace(JOB, status="failed", message="Set batch_size below 8.")
    said = "Set “Batch size” below 8."
    assert job_cards.headline(failed, AT) == f"Failed. {said}"
    row = run_list.row(run_list.listed([failed], {}, {}, AT)[0])
    assert Chip("failed", "bad") in row
    assert row[-1] == said
    assert '<p class="headline bad" role="status">' in job_cards.job_card(failed, None, None, AT)
    assert loop_status.how_it_ended(failed).endswith(f"failed: {said}")


def test_an_outcome_says_what_was_made_and_what_it_cost() -> None:
    result = {
        "trainable": 460_800,
        "trainable_percent": 0.3414,
        "seconds_per_step": 1.234,
        "peak_memory_mb": 1234.0,
        "checkpoint_bytes": 1_900_000,
    }
    finished = replace(JOB, status="finished", result=result)
    html = job_cards.outcome_card(finished, ADAPTER, "1.9 MB")
    for label, text in (
        ("Form", "LoRA adapter on 4-bit (NF4) weights"),
        ("Trainable parameters", "460,800 (0.341% of all)"),
        ("Time for a step", "1.23 s"),
        ("Peak memory", "1.23 GB"),
    ):
        assert f"<dt>{label}</dt><dd>{text}</dd>" in html
    assert html.count("Size on disk") == 1
    assert "dpo-7" not in html, "the line above says it"
    assert job_cards.outcome_card(replace(JOB, status="failed"), None, "") == ""
    whole = replace(ADAPTER, revision="merge-9", form="full", precision="bf16")
    merged = replace(finished, kind="merge", spec=MergeSpec(revision="dpo-7"), result={})
    assert "<dt>Form</dt><dd>whole weights, bf16</dd>" in job_cards.outcome_card(merged, whole, "0.27 GB")


def test_what_would_be_deleted_is_named_with_its_size() -> None:
    question = job_cards.delete_question(ADAPTER, "1.9 MB")
    assert "Delete dpo-7 with its files (1.9 MB)?" in question
    ends = "It is no candidate any more then"
    assert (ends in question) == (ADAPTER.status == "candidate")
    assert ends in job_cards.delete_question(replace(ADAPTER, status="candidate"), "1.9 MB")
    assert ends not in job_cards.delete_question(replace(ADAPTER, status="retired"), "1.9 MB")
    assert ends not in job_cards.delete_question(replace(ADAPTER, status="candidate", kind="reward-model"), "1.9 MB")


def test_samples_stand_side_by_side_over_the_steps() -> None:
    def answer(text: str, reason: str = "stop") -> SampleAnswer:
        return SampleAnswer("Why?", text, reason, tokens=5)

    html = job_cards.samples_box({"Why?": {0: answer("So."), 10: answer("So what.", "length"), 20: answer("So it is")}})
    assert html.index("before training · 5 tokens") < html.index("step 10 · 5 tokens, cut off at the limit")
    assert html.count('class="pair"') == 1
    assert [f"<pre>{shown}</pre>" in html for shown in ("So.", "So <mark>what</mark>.", "So <mark>it is</mark>")] == [
        *(True, True, True)
    ], "what the answer before has not is marked"
    assert job_cards.samples_box({}) == ""


def test_whatever_was_written_is_shown_literally() -> None:
    nasty = "<img src=x onerror=alert(1)> <think>hm</think> ${alert(1)} {{value}}"
    sample = SampleAnswer(nasty, nasty, "length", tokens=3)
    answer = replace(ANSWER, text=nasty, finish_reason="length")
    pair = check_report.AnswerPair(nasty, answer, answer)
    spec = DPOSpec(virtual_text=nasty)
    for html in (
        job_cards.log_box([nasty]),
        job_cards.samples_box({nasty: {3: sample}}),
        check_report.answers_page([pair], 0, 10, (nasty, nasty)),
        run_list.runs_table(
            run_list.listed([replace(JOB, message=nasty)], {7: RunLabel(nasty, (nasty,))}, {}, AT), nasty
        ),
        job_cards.queue_table([], [replace(JOB, requested_by=nasty)], AT),
        job_cards.job_card(replace(JOB, message=nasty), None, replace(ADAPTER, revision=nasty), AT, [nasty + nasty]),
        job_cards.job_facts(replace(JOB, requested_by=nasty, spec=spec), SnapshotCounts()),
        job_cards.outcome_card(replace(JOB, result={}), replace(ADAPTER, revision=nasty), nasty),
        job_cards.delete_question(replace(ADAPTER, revision=nasty), nasty),
    ):
        assert "<img" not in html
        assert "<think>" not in html
        assert "&lt;think&gt;hm&lt;/think&gt;" in html


def test_reasons_that_count_pairs_are_reasons() -> None:
    assert set(job_cards.PAIR_REASONS) < set(REASONS)


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_what_was_not_measured_is_no_number(nothing: float | None) -> None:
    assert formatting.figure(nothing, 3) == formatting.share(nothing) == "not measured"


def test_what_a_policy_is_made_of_is_said_in_one_language() -> None:
    with speaking(language_of("de")):
        (_form, said), *_rest = job_cards.policy_facts(ADAPTER, "19,6 MB")
    assert said.startswith("LoRA-Adapter auf Gewichten in")
