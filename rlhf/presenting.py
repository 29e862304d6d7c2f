"""What the Train and Iterations tabs say, as pure functions: sentences, times, tables and plot rows from records."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from annotation.consensus import REASONS
from annotation.markup import BAR_STYLE, BOX_STYLE, TABLE_STYLE, WARNING_STYLE, paragraph, progress_bar, status, table
from annotation.records import Split, seconds_between
from annotation.store import AnswerCounts
from annotation.wording import NOTHING, moment, percent
from rlhf.jobs import LOST_AFTER_SECONDS, Job
from rlhf.policies import Policy
from rlhf.specs import DPOSpec, EvaluateSpec, Spec

NOT_MEASURED = "not measured"
# Below this the interval spans most of what is possible, so the figure would only mislead.
FEW_HELD_OUT = 20
# The limits between "learned the preference" and "lost the language"; the loop's benchmark uses the same.
NLL_LIMIT, DISTINCT_LIMIT = 1.15, 0.90

# Goes through Gradio's template engine: no backtick, no backslash, no double brace.
STYLE = (
    BOX_STYLE
    + TABLE_STYLE
    + BAR_STYLE
    + WARNING_STYLE
    + """
table { margin: 0; }
th, td { white-space: nowrap; }
td.wordy { white-space: normal; min-width: 18em; overflow-wrap: break-word; }
.quiet, .label, dt { font-size: var(--text-sm); font-weight: normal; opacity: 0.75; margin: 4px 0; }
.headline { font-size: var(--text-lg); margin: 0 0 4px 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 6px 16px; margin: 8px 0; }
.facts > div { min-width: 0; overflow-wrap: anywhere; }
.facts dt, .facts dd { margin: 0; }
.figures { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
.figures dd { font-size: var(--text-xl); font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: var(--text-sm); margin: 0; background: none; border: 0;
  padding: 0; color: var(--body-text-color); }
pre.log { max-height: 260px; overflow-y: auto; border: 1px solid var(--border-color-primary); padding: 8px;
  font-family: var(--font-mono); }
.pair { border-top: 1px solid var(--border-color-primary); padding: 10px 0; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 12px; margin-top: 6px; }
.sides > div { border: 1px solid var(--border-color-primary); border-radius: var(--radius-md); padding: 8px;
  min-width: 0; }
.sides pre { font-family: var(--font); font-size: var(--text-md); }
.sides .label { margin: 0 0 4px 0; }
pre.prompt { font-weight: bold; font-family: var(--font); font-size: var(--text-md); }
"""
)


# ------------------------------------------------------------------------------------------------------------ pieces
def duration(seconds: float) -> str:
    """A span of time as people say it: '45 s', '3 min 20 s', '1 h 5 min'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def figure(value: float | None, digits: int = 2) -> str:
    """A measured number, or that it was not measured."""
    return NOT_MEASURED if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """A share as a percentage, or that it was not measured."""
    return NOT_MEASURED if value is None else percent(value)


def facts(pairs: Sequence[tuple[str, str]], style: str = "facts") -> str:
    """Labels with their values, as many beside each other as fit."""
    cells = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in pairs)
    return f'<dl class="{style}">{cells}</dl>'


def notice(sentence: str) -> str:
    """What a button did, announced to screen readers as well."""
    return status(sentence, "quiet")


def fingerprints(parts: Mapping[str, Any]) -> dict[str, str]:
    """A short mark for each part of a page: the same mark means that it need not be sent again."""
    return {
        name: hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()[:16]
        for name, part in parts.items()
    }


# ------------------------------------------------------------------------------------------- what would be trained on
PAIRS_SENTENCE = (
    "A comparison gives a pair for every two of its answers of which one is found better. What several annotators say "
    "of them is one pair, the surer the more they agree."
)
# Reasons that count two answers of a comparison; the others count judgements.
PAIR_REASONS = ("tie", "identical", "too-long", "disagreement", "unreliable", "template")


def preview_card(
    parent: str,
    new_judgements: int,
    train_pairs: int,
    held_out_pairs: int,
    left_out: Mapping[str, int],
    flip: float | None,
) -> str:
    """The data the next iteration would learn from, and what of it is left out and why."""
    numbers = (
        ("Parent", parent),
        ("New judgements since its data", str(new_judgements)),
        ("Pairs to train on", str(train_pairs)),
        ("Of those probably the wrong way round", share(flip)),
        ("Held-out pairs to check with", str(held_out_pairs)),
    )
    rows = [
        (REASONS.get(reason, reason), str(count), "pairs" if reason in PAIR_REASONS else "judgements")
        for reason, count in sorted(left_out.items())
        if count
    ]
    left = table(("Left out, because", "How many", "Of what"), rows, "Nothing is left out.", ("How many",))
    return facts(numbers, "facts figures") + paragraph(PAIRS_SENTENCE, "quiet") + left


# ----------------------------------------------------------------------------------------------------------- one job
def seconds_left(step_times: Sequence[tuple[int, str]], job: Job, at: str) -> float | None:
    """Time left from the pace of this attempt's steps; None while there is no pace to go by.

    `step_times` are (step, time) of the events of this attempt. A first attempt without events (a check reports
    progress only) is judged by the time since it began.
    """
    if job.status != "running" or not job.steps or job.step >= job.steps or job.started is None:
        return None
    if len(step_times) >= 2 and step_times[-1][0] > step_times[0][0]:
        (first, first_time), (last, last_time) = step_times[0], step_times[-1]
        pace, since = seconds_between(first_time, last_time) / (last - first), seconds_between(last_time, at)
        return max(0.0, pace * (job.steps - last) - since)
    if not step_times and job.attempt == 1 and job.step:
        return seconds_between(job.started, at) / job.step * (job.steps - job.step)
    return None


def headline(job: Job, at: str) -> str:
    """A job's state in a sentence."""
    if job.status == "queued":
        return "Queued; it starts when a worker is free."
    if job.status == "running":
        silent = seconds_between(job.heartbeat or at, at)
        if silent > LOST_AFTER_SECONDS / 2:
            return f"Running, but the worker has said nothing for {duration(silent)}."
        return f"Running. {job.message}".strip()
    if job.status == "cancelling":
        return "Cancelling: it stops within seconds and keeps a checkpoint."
    if job.status == "finished":
        return f"Finished in {duration(seconds_taken(job, at))}."
    words = {"lost": "Lost.", "failed": "Failed.", "cancelled": "Cancelled."}
    return f"{words[job.status]} {job.message}".strip()


def seconds_taken(job: Job, at: str) -> float:
    """How long the latest attempt has run."""
    return 0.0 if job.started is None else seconds_between(job.started, job.finished or at)


KIND_WORDS = {"dpo": "training", "evaluate": "check", "generate": "answering"}


def kind_word(job: Job) -> str:
    """What a job does, in a word."""
    return KIND_WORDS.get(job.kind, job.kind)


def title(job: Job) -> str:
    """A job's name in lists."""
    return f"{job.id} · {kind_word(job)} · {job.status}"


def progress_line(job: Job, left: float | None, at: str) -> str:
    """Percent, step, time so far and time left."""
    if job.status == "queued":
        return f"Waiting for {duration(seconds_between(job.created, at))}."
    if not job.steps:
        return f"Preparing for {duration(seconds_taken(job, at))}." if job.status == "running" else ""
    pieces = [f"{100 * job.step // job.steps}%", f"step {job.step} of {job.steps}"]
    if job.status == "running":
        pieces.append(f"{duration(seconds_taken(job, at))} so far")
        pieces.append("time left: not known yet" if left is None else f"about {duration(left)} left")
    return " · ".join(pieces)


REFERENCES = {"base": "the base model", "parent": "the parent adapter"}
SCOPES = {"new": "judgements since the parent's data", "all": "all judgements"}
NOISE = {"ignore": "ignored", "weight": "weighs pairs", "smooth": "smooths labels"}


def spec_facts(spec: Spec) -> list[tuple[str, str]]:
    """What identifies a run, for the page."""
    if isinstance(spec, DPOSpec):
        return [
            ("Parent", spec.parent),
            ("Reference", REFERENCES[spec.reference]),
            ("Data", SCOPES[spec.scope]),
            ("Data snapshot", spec.snapshot[:12] or "frozen at the start"),
            ("Seed", str(spec.seed)),
            ("β · SFT weight", f"{spec.beta:g} · {spec.sft_weight:g}"),
            ("Annotator noise", NOISE[spec.annotator_noise]),
            ("Learning rate", f"{spec.learning_rate:g}"),
            ("Epochs · pairs a step", f"{spec.epochs} · {spec.batch_size * spec.accumulation}"),
            ("LoRA rank · alpha", f"{spec.lora_r} · {spec.lora_alpha}"),
        ]
    if isinstance(spec, EvaluateSpec):
        return [
            ("Candidate", spec.candidate),
            ("Against", spec.against),
            ("Held-out prompts", str(spec.prompts)),
            ("Data snapshot", spec.snapshot[:12] or "frozen at the start"),
            ("First seed", str(spec.seed)),
        ]
    return [("Buffer", str(spec.buffer)), ("Seed", str(spec.seed))]


def job_card(job: Job, data: Mapping[str, Any], left: float | None, made: Policy | None, at: str) -> str:
    """One job: its state in words, progress bar, and the spec that it runs on `data`, its snapshot's counts."""
    sentence = headline(job, at) + (f" It made the candidate {made.revision}: see Iterations." if made else "")
    said = f'<p class="headline" role="status"><b>Job {job.id}, {kind_word(job)}.</b> {escape(sentence)}</p>'
    line = paragraph(progress_line(job, left, at), "quiet")
    asked = [("Requested by", job.requested_by), ("Attempt", str(job.attempt))]
    return said + job_bar(job) + line + facts([*asked, *spec_facts(job.spec), *data_facts(job, data)])


def job_bar(job: Job) -> str:
    """How far a job is."""
    return progress_bar(f"Progress of job {job.id}", 100 * job.step // job.steps if job.steps else 0)


def data_facts(job: Job, data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs that a training job works on, and the judgements left out when they were frozen or tokenised."""
    if job.kind != "dpo" or not data:
        return []
    left_out = Counter(data.get("left_out", {})) + Counter((job.result or {}).get("left_out", {}))
    named = ", ".join(f"{count} {REASONS.get(reason, reason)}" for reason, count in sorted(left_out.items()))
    trained = (job.result or {}).get("train_pairs", data.get("train", NOT_MEASURED))
    return [
        ("Pairs", f"{trained} to train, {data.get('held-out', NOT_MEASURED)} held-out"),
        ("Left out", named or "nothing"),
    ]


def log_box(lines: Sequence[str]) -> str:
    """The log's tail, literally."""
    text = escape("\n".join(lines)) if lines else "The log is empty so far."
    return f'<p class="label">Log (times in UTC)</p><pre class="log" tabindex="0">{text}</pre>'


def jobs_table(jobs: Sequence[Job], at: str) -> str:
    """The last jobs, one a row."""
    rows = [
        (
            str(job.id),
            kind_word(job),
            job.status,
            job.requested_by,
            moment(job.started),
            NOTHING if job.started is None else f"{seconds_taken(job, at) / 60:.1f}",
            job.message or NOTHING,
        )
        for job in jobs
    ]
    headers = ("Job", "Kind", "Status", "Requested by", "Started (UTC)", "Minutes", "Message")
    return table(headers, rows, "No job has been started yet.", ("Minutes",))


@dataclass(frozen=True)
class Curve:
    """One plot of a training run: which metrics, on which axis, and the sentence that tells what to look for."""

    label: str
    axis: str
    series: Mapping[str, str]
    caption: str
    limits: tuple[float | None, float | None] = (None, None)


CURVES = (
    Curve(
        "Loss",
        "loss",
        {"loss": "loss"},
        "What training minimises: the DPO loss (0.69 at the start, it should fall) plus the weighted likelihood term.",
    ),
    Curve(
        "Reward margin",
        "reward",
        {"margin": "rewards/margins", "chosen answer": "rewards/chosen"},
        "Margin: how much more the new policy favours the chosen answer than the reference does; it should rise. "
        "The chosen answer's own reward should not sink far below zero.",
    ),
    Curve(
        "Accuracy",
        "share of pairs",
        {"accuracy": "rewards/accuracies"},
        "Share of the step's training pairs in which the chosen answer has the higher reward; it starts near one half "
        "and should rise. Near 1 for long means that the pairs are learnt by heart.",
        (0.0, 1.0),
    ),
)


def plot_rows(metrics: Sequence[Mapping[str, Any]], series: Mapping[str, str]) -> dict[str, Any]:
    """A run's metrics as Gradio's native plots take them; steps that lack a metric are left out of its line."""
    data = [
        [entry["step"], float(entry[key]), name]
        for name, key in series.items()
        for entry in metrics
        if entry.get(key) is not None
    ]
    return {
        "columns": ["step", "value", "series"],
        "data": data,
        "datatypes": {"step": "quantitative", "value": "quantitative", "series": "nominal"},
        "mark": "line",
    }


# -------------------------------------------------------------------------------------------------------- iterations
def serving_card(
    policy: Policy, worker: Job | None, buffer: Mapping[Split, int], elsewhere: int, counts: AnswerCounts, at: str
) -> str:
    """The serving policy, the worker that answers with it, and what it has produced so far."""
    return (
        f'<p class="headline"><b>{escape(policy.revision)}</b> on {escape(policy.base)}</p>'
        + paragraph(worker_sentence(worker, at))
        + facts(
            (
                ("Waiting to be judged", f"{buffer['train']} for training, {buffer['held-out']} held-out"),
                ("Also waiting", f"{elsewhere} by earlier policies or imported"),
                ("Answers drawn", str(counts.total)),
                ("Ended by themselves", share(counts.ended_share) if counts.total else NOT_MEASURED),
                ("Dropped: empty", str(counts.empty)),
                ("Dropped: the same as another", str(counts.duplicate)),
            )
        )
    )


def worker_sentence(worker: Job | None, at: str) -> str:
    """Whether the answering worker lives, and what it says."""
    if worker is None:
        return "The answering worker has not been started yet."
    if worker.status == "running":
        heard = duration(seconds_between(worker.heartbeat or at, at))
        return f"The answering worker runs (heard of {heard} ago). {worker.message}".strip()
    if worker.status == "queued":
        return "The answering worker is starting."
    return f"The answering worker does not run ({worker.status}). {worker.message}".strip()


def held_out_accuracy(evaluation: Mapping[str, Any] | None) -> str:
    """Implicit-reward accuracy with its 95% interval, or why there is none."""
    accuracy = (evaluation or {}).get("implicit_accuracy")
    if not accuracy or accuracy.get("value") is None:
        return NOT_MEASURED
    low, high, number = share(accuracy.get("low")), share(accuracy.get("high")), accuracy["n"]
    interval = f"{share(accuracy['value'])} ({low} to {high}, n = {number})"
    return f"{interval}; too few held-out judgements to tell" if number < FEW_HELD_OUT else interval


def newest_evaluations(evaluations: Sequence[Job]) -> dict[str, Job]:
    """The newest finished check of each candidate; `evaluations` come newest first."""
    found: dict[str, Job] = {}
    for job in evaluations:
        if job.status == "finished" and job.result is not None and isinstance(job.spec, EvaluateSpec):
            found.setdefault(job.spec.candidate, job)
    return found


def figures_of(evaluation: Mapping[str, Any] | None, side: str) -> Mapping[str, Any]:
    """One policy's figures in a check; empty where it was not measured."""
    return (evaluation or {}).get(side) or {}


HISTORY = (
    "Revision", "Method", "Parent", "Status", "Job", "Data snapshot", "Pairs", "Reference", "Final loss",
    "Held-out accuracy", "KL per token", "Mean words", "Made (UTC)",
)  # fmt: skip


def history_table(policies: Sequence[Policy], training: Mapping[int, Job], checks: Mapping[str, Job]) -> str:
    """Every policy, newest first, with what it came from and how it did."""
    names = {policy.id: policy.revision for policy in policies}
    rows = [
        history_row(policy, names, training.get(policy.job_id or 0), checks.get(policy.revision))
        for policy in reversed(policies)
    ]
    return table(HISTORY, rows, "No policy yet.", ("Job", "Pairs", "Final loss", "KL per token", "Mean words"))


def history_row(policy: Policy, names: Mapping[int, str], job: Job | None, check: Job | None) -> tuple[str, ...]:
    """One policy's row."""
    spec = job.spec if job is not None and isinstance(job.spec, DPOSpec) else None
    result = (job.result if job is not None else None) or {}
    evaluation = check.result if check is not None else None
    candidate = figures_of(evaluation, "candidate")
    snapshot = result.get("snapshot") or (spec.snapshot if spec else "")
    missing = NOTHING if policy.path is None else NOT_MEASURED
    measured = (
        figure((result.get("final") or {}).get("loss"), 3),
        held_out_accuracy(evaluation),
        figure(candidate.get("kl_to_base"), 3),
        figure(candidate.get("mean_length"), 1),
    )
    return (
        policy.revision,
        policy.method,
        names.get(policy.parent_id or 0, NOTHING),
        policy.status,
        str(policy.job_id or NOTHING),
        snapshot[:12] or NOTHING,
        str(result.get("train_pairs", NOTHING)),
        REFERENCES[spec.reference] if spec else NOTHING,
        *(missing if text == NOT_MEASURED else text for text in measured),
        moment(policy.created),
    )


def decisions_table(decisions: Sequence[Mapping[str, Any]]) -> str:
    """Promotions, rejections and rollbacks, newest first."""
    rows = [
        (moment(row["created"]), row["action"], row["revision"], row["previous"] or NOTHING, row["decided_by"])
        for row in decisions
    ]
    return table(("When (UTC)", "Decision", "Policy", "Served until then", "By"), rows, "No decision yet.")


def policy_order(policies: Sequence[Policy]) -> list[Policy]:
    """For a choice: candidates first, newest first, then the others, newest first."""
    return sorted(policies, key=lambda policy: (policy.status != "candidate", -policy.id))


def promote_label(policy: Policy) -> str:
    """What promoting this policy is called."""
    if policy.status == "serving":
        return "Serves now"
    return "Roll back to this one" if policy.status == "retired" else "Promote: let it serve"


@dataclass(frozen=True)
class Figure:
    """A row of the report: what was measured and how to read it."""

    label: str
    key: str
    digits: int
    reading: str


FIGURES = (
    Figure("Mean length", "mean_length", 1, "Words in an answer. A preference for short or long answers shows here."),
    Figure(
        "KL per token",
        "kl_to_base",
        3,
        "How far the policy has moved from the base model, in nats a token; 0 is the base itself.",
    ),
    Figure(
        "Surprise to the base",
        "nll_under_base",
        3,
        "Negative log-likelihood of the answers under the base model, in nats a token. Far above the base's own figure "
        "the answers stop being its language.",
    ),
    Figure("Distinct-1", "distinct_1", 3, "Different words as a share of all words. Falling means repetition."),
    Figure("Distinct-2", "distinct_2", 3, "Different word pairs as a share of all pairs. Falling means repetition."),
    Figure(
        "Ended by itself", "ended_share", 2, "Share of answers that ended before the limit; the others are cut off."
    ),
)


def report(evaluation: Mapping[str, Any] | None) -> str:
    """The check of a candidate: its figures beside those of the policy it was compared with and of the base."""
    if not evaluation:
        return paragraph("This policy has not been checked yet.", "quiet")
    sides = report_sides(evaluation)
    headers = ("Figure", *(name for name, _ in sides), "How to read it")
    rows = [
        (entry.label, *(figure(values.get(entry.key), entry.digits) for _, values in sides), entry.reading)
        for entry in FIGURES
    ]
    warned = "".join(paragraph(sentence, "warning") for sentence in warnings(evaluation))
    return (
        f"<p><b>Accuracy on held-out judgements: {escape(held_out_accuracy(evaluation))}.</b> "
        "How often the candidate gives the answer that people chose the higher implicit reward, with its 95% interval: "
        "an interval that holds 50% says that it can't be told from a coin.</p>"
        f"{warned}{table(headers, rows, '', tuple(name for name, _ in sides))}"
        f'<p class="quiet">{escape(str(evaluation.get("prompts", NOT_MEASURED)))} held-out prompts, the same seeds for '
        "every policy.</p>"
    )


def report_sides(evaluation: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(column title, figures): candidate, the policy it was compared with, and the base, each named once."""
    against = figures_of(evaluation, "against")
    sides = [
        (
            f"{figures_of(evaluation, 'candidate').get('revision', 'candidate')} (this)",
            figures_of(evaluation, "candidate"),
        )
    ]
    if against and against.get("revision") != "base":
        sides.append((f"{against.get('revision')} (compared with)", against))
    return [*sides, ("base", figures_of(evaluation, "base") or against)]


def warnings(evaluation: Mapping[str, Any]) -> list[str]:
    """Sentences on figures that passed the limit between learning a preference and losing the language."""
    candidate, base = figures_of(evaluation, "candidate"), figures_of(evaluation, "base")
    found = []
    nll = ratio(candidate.get("nll_under_base"), base.get("nll_under_base"))
    if nll is not None and nll > NLL_LIMIT:
        found.append(
            f"Its answers surprise the base model {100 * (nll - 1):.0f}% more than the base's own do (more than "
            f"{100 * (NLL_LIMIT - 1):.0f}% is a bad sign). Read some of them below before you promote it."
        )
    distinct = ratio(candidate.get("distinct_2"), base.get("distinct_2"))
    if distinct is not None and distinct < DISTINCT_LIMIT:
        found.append(
            f"Its answers repeat themselves: distinct-2 is {100 * distinct:.0f}% of the base's (under "
            f"{100 * DISTINCT_LIMIT:.0f}% is a bad sign). Read some of them below before you promote it."
        )
    return found


def ratio(value: float | None, to: float | None) -> float | None:
    """One figure over another; None where either is missing or the second is zero."""
    return None if value is None or not to else value / to


@dataclass(frozen=True)
class AnswerPair:
    """Two policies' answers to one held-out prompt, drawn with the same seed."""

    prompt: str
    seed: int
    left: Mapping[str, Any]
    right: Mapping[str, Any]


def answer_pairs(left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]) -> list[AnswerPair]:
    """Answers to the same prompt with the same seed side by side; of a repeated check the newest answers count."""
    newest_right = {(row["prompt_id"], row["seed"]): row for row in right}
    newest_left = {(row["prompt_id"], row["seed"]): row for row in left}
    return [
        AnswerPair(conversation(row["messages"]), row["seed"], row, newest_right[key])
        for key, row in newest_left.items()
        if key in newest_right
    ]


def conversation(messages: Sequence[Mapping[str, str]]) -> str:
    """A prompt as text: its one question, or every turn with who said it."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def answers_page(pairs: Sequence[AnswerPair], page: int, size: int, names: tuple[str, str]) -> str:
    """One page of answers side by side, as literal text."""
    shown = pairs[page * size : (page + 1) * size]
    if not shown:
        return paragraph("There are no answers of both policies to the same held-out prompts yet.", "quiet")
    return "".join(
        f'<div class="pair"><pre class="prompt">{escape(pair.prompt)}</pre><div class="sides">'
        f"{answer_box(names[0], pair.left)}{answer_box(names[1], pair.right)}</div></div>"
        for pair in shown
    )


def answer_box(name: str, answer: Mapping[str, Any]) -> str:
    """One answer, literally, with its length and whether it was cut off."""
    cut = ", cut off at the limit" if answer["finish_reason"] == "length" else ""
    label = f'<p class="label">{escape(name)} · {answer["tokens"]} tokens{cut}</p>'
    return f"<div>{label}<pre>{escape(answer['text'])}</pre></div>"


def page_label(total: int, page: int, size: int) -> str:
    """Which of the prompts are shown."""
    if not total:
        return ""
    return f"Prompts {page * size + 1} to {min(total, (page + 1) * size)} of {total}"
