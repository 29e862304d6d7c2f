"""What the Iterations tab says: who serves, how each candidate did in its check, answers side by side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotation.metrics.intervals_and_bias import Estimate
from annotation.records import Split, seconds_between
from annotation.store import AnswerCounts
from annotation.ui.formatting import NOTHING, moment, percent_with_interval
from annotation.ui.markup import escape, paragraph, table
from rlhf.evaluation.check_spec import EvaluateSpec
from rlhf.evaluation.gate import Rule
from rlhf.jobs import specs
from rlhf.jobs.descriptions import NOT_MEASURED
from rlhf.jobs.job_store import Job
from rlhf.jobs.specs import REFERENCES, SHORT_METHODS, TrainingSpec
from rlhf.models.registry import Policy
from rlhf.tabs.runs.job_cards import answer_box, duration, facts, figure, share
from rlhf.tabs.runs.job_words import trained_on

# Below this the interval spans most of what is possible, so the figure would only mislead.
FEW_HELD_OUT = 20
# The limits between "learned the preference" and "lost the language"; the loop's benchmark uses the same.
NLL_LIMIT, DISTINCT_LIMIT = Rule.nll_ratio_most, Rule.distinct_ratio_least


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
    "Revision", "Method", "Parent", "Status", "Job", "Data snapshot", "Trained on", "Reference", "Final loss",
    "Held-out accuracy", "KL per token", "Mean words", "Made (UTC)",
)  # fmt: skip


def history_table(policies: Sequence[Policy], training: Mapping[int, Job], checks: Mapping[str, Job]) -> str:
    """Every policy, newest first, with what it came from and how it did."""
    names = {policy.id: policy.revision for policy in policies}
    rows = [
        history_row(policy, names, training.get(policy.job_id or 0), checks.get(policy.revision))
        for policy in reversed(policies)
    ]
    return table(HISTORY, rows, "No policy yet.", ("Job", "Final loss", "KL per token", "Mean words"))


def history_row(policy: Policy, names: Mapping[int, str], job: Job | None, check: Job | None) -> tuple[str, ...]:
    """One policy's row."""
    spec = job.spec if job is not None and isinstance(job.spec, TrainingSpec) else None
    result = (job.result if job is not None else None) or {}
    evaluation = check.result if check is not None else None
    candidate = figures_of(evaluation, "candidate")
    snapshot = result.get("snapshot") or (spec.snapshot if spec else "")
    missing = NOTHING if policy.path is None else NOT_MEASURED
    loss = (result.get("final") or {}).get("loss")
    measured = (
        NOTHING if loss is None and not (spec and "loss" in spec.last_step) else figure(loss, 3),
        held_out_accuracy(evaluation),
        figure(candidate.get("kl_to_base"), 3),
        figure(candidate.get("mean_length"), 1),
    )
    return (
        policy.revision,
        specs.short_of(policy.method) + (f", {SHORT_METHODS[spec.method]}" if spec else ""),
        names.get(policy.parent_id or 0, NOTHING),
        f"{policy.status}, files deleted" if policy.deleted else policy.status,
        str(policy.job_id or NOTHING),
        snapshot[:12] or NOTHING,
        NOTHING if trained_on(result) is None else f"{trained_on(result)} {spec.unit if spec else 'pairs'}",
        REFERENCES.get(getattr(spec, "reference", ""), NOTHING),
        *(missing if text == NOT_MEASURED else text for text in measured),
        moment(policy.created),
    )


def decisions_table(decisions: Sequence[Mapping[str, Any]]) -> str:
    """Promotions, rejections and rollbacks, newest first."""
    rows = [
        (
            *(moment(row["created"]), row["action"], row["revision"], row["previous"] or NOTHING, row["decided_by"]),
            row["reason"] or NOTHING,
        )
        for row in decisions
    ]
    return table(("When (UTC)", "Decision", "Policy", "Served until then", "By", "Why"), rows, "No decision yet.")


def policy_order(policies: Sequence[Policy]) -> list[Policy]:
    """For a choice: candidates first, newest first, then the others, newest first."""
    return sorted(policies, key=lambda policy: (policy.status != "candidate", -policy.id))


def promote_label(policy: Policy, against: bool = False) -> str:
    """What promoting this policy is called; `against`: the rule speaks against it."""
    if policy.status == "serving":
        return "Serves now"
    if policy.status == "retired":
        return "Roll back to this one"
    return "Promote against the rule" if against else "Promote: let it serve"


def check_label(active: bool, checked: bool) -> str:
    """What having a policy checked is called, while a check is `active` and where there was one before."""
    return "Being checked" if active else "Check it again" if checked else "Check it"


def can_serve(policy: Policy) -> bool:
    """Whether a policy could be promoted: it answers, its files are there, and it does not serve already."""
    return policy.kind == "policy" and policy.deleted is None and policy.status != "serving"


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
    Figure(
        "Perplexity of plain text",
        "perplexity",
        2,
        "Of a fixed English text that no policy is trained on. Far above the base's the policy forgets the language.",
    ),
    Figure("Distinct-1", "distinct_1", 3, "Different words as a share of all words. Falling means repetition."),
    Figure("Distinct-2", "distinct_2", 3, "Different word pairs as a share of all pairs. Falling means repetition."),
    Figure(
        "Repetition", "repetition", 3, "Share of an answer's groups of four words that it has said before; 0 is best."
    ),
    Figure(
        "Ended by itself", "ended_share", 2, "Share of answers that ended before the limit; the others are cut off."
    ),
)


def report(evaluation: Mapping[str, Any] | None) -> str:
    """The check of a candidate: its figures beside those of the policy it was compared with and of the base."""
    if not evaluation:
        return ""  # why there is none, `gate_decisions.checking` says
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
        f"{warned}{win_rates(evaluation)}{reward_sentence(evaluation)}"
        f"{table(headers, rows, '', tuple(name for name, _ in sides))}"
        f'<p class="quiet">{escape(str(evaluation.get("prompts", NOT_MEASURED)))} held-out prompts, the same seeds for '
        "every policy.</p>"
    )


def reward_sentence(evaluation: Mapping[str, Any]) -> str:
    """How much PPO's reward rose, and how it goes with length; nothing without PPO."""
    found = evaluation.get("reward_hacking")
    if not found:
        return ""
    rise = "can't be told from so few rounds" if found["rise"] is None else f"{found['rise']:+.2f}"
    length = "not measured" if found["length"] is None else f"{found['length']:.2f}"
    return paragraph(
        f"Change of the reward in its PPO training: {rise}, in standard deviations of the reward model's scores; "
        f"correlation of the reward with length: {length}. A reward that rises while nobody finds the answers better "
        "is being hacked."
    )


def win_rates(evaluation: Mapping[str, Any]) -> str:
    """How often judges find the candidate's answers better, against each other policy; a sentence without judges."""
    rows = []
    for other, judged in evaluation.get("win_rates", {}).items():
        for judge, rate in judged.items():
            if rate["value"] is None:
                continue
            controlled = rate["length_controlled"]
            at_equal = percent_with_interval(Estimate(**controlled)) if controlled else NOT_MEASURED
            found = percent_with_interval(Estimate(rate["value"], rate["low"], rate["high"], rate["n"]))
            rows.append((other, judge, found, at_equal, str(rate["n"]), str(rate["ties"])))
    open_ones = {judge: said["left_open"] for judge, said in evaluation.get("judged", {}).items() if said["left_open"]}
    missing = "".join(
        paragraph(f"{judge} left {count} comparisons open. {evaluation['judged'][judge]['gave_up']}", "warning")
        for judge, count in open_ones.items()
    )
    headers = ("Against", "Judge", "Won (95%)", "Won at equal lengths (95%)", "Answers", "Ties")
    none = "No AI judge has compared its answers with others: the AI judges tab has them."
    return table(headers, rows, none, ("Answers", "Ties")) + missing


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
            f"{100 * (NLL_LIMIT - 1):.0f}% is a bad sign). Read some of them before you promote it."
        )
    distinct = ratio(candidate.get("distinct_2"), base.get("distinct_2"))
    if distinct is not None and distinct < DISTINCT_LIMIT:
        found.append(
            f"Its answers repeat themselves: distinct-2 is {100 * distinct:.0f}% of the base's (under "
            f"{100 * DISTINCT_LIMIT:.0f}% is a bad sign). Read some of them before you promote it."
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


def page_label(total: int, page: int, size: int) -> str:
    """Which of the prompts are shown."""
    if not total:
        return ""
    return f"Prompts {page * size + 1} to {min(total, (page + 1) * size)} of {total}"
