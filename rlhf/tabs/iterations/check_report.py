"""What the Iterations tab says: who serves, how each candidate did in its check, answers side by side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from annotation.metrics.intervals_and_bias import Estimate
from annotation.records import CheckedAnswer, Split, seconds_between
from annotation.store import AnswerCounts
from annotation.translation import _
from annotation.ui.formatting import NOT_MEASURED, NOTHING, duration, figure, moment, percent_with_interval, share
from annotation.ui.markup import card_title, escape, facts, paragraph, table
from rlhf.evaluation.finished_checks import FinishedCheck
from rlhf.evaluation.gate import MetricLimit, Rule, past_limits
from rlhf.evaluation.probes import ALL
from rlhf.evaluation.report import AnswerFigures, CheckReport, RewardChange
from rlhf.jobs import job_spec
from rlhf.jobs.job_spec import REFERENCES, SHORT_METHODS, TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.models.registry import Policy
from rlhf.tabs.runs.job_cards import WEIGHTS, answer_box
from rlhf.tabs.runs.job_words import trained_on

# Below this the interval spans most of what is possible, so the figure would only mislead.
FEW_HELD_OUT = 20


def serving_card(
    policy: Policy, worker: Job | None, stock: Mapping[Split, int], elsewhere: int, counts: AnswerCounts, at: str
) -> str:
    """The serving policy, the worker that answers with it, and what it has produced so far."""
    return (
        card_title(policy.revision, _("on {base}").format(base=policy.base))
        + paragraph(worker_sentence(worker, at))
        + facts(
            (
                (
                    _("Waiting to be judged"),
                    _("{train} for training, {held_out} held-out").format(
                        train=stock["train"], held_out=stock["held-out"]
                    ),
                ),
                (_("Also waiting"), _("{elsewhere} by earlier policies or imported").format(elsewhere=elsewhere)),
                (_("Answers drawn"), str(counts.total)),
                (_("Ended by themselves"), share(counts.ended_share) if counts.total else NOT_MEASURED),
                (_("Dropped: empty"), str(counts.empty)),
                (_("Dropped: the same as another"), str(counts.duplicate)),
            )
        )
    )


def worker_sentence(worker: Job | None, at: str) -> str:
    """Whether the answering worker lives, and what it says."""
    if worker is None:
        return _("The answering worker has not been started yet.")
    if worker.status == "running":
        heard = duration(seconds_between(worker.heartbeat or at, at))
        return (
            _("The answering worker runs (heard of {heard} ago). {message}")
            .format(heard=heard, message=worker.message)
            .strip()
        )
    if worker.status == "queued":
        return _("The answering worker is starting.")
    return (
        _("The answering worker does not run ({status}). {message}")
        .format(status=worker.status, message=worker.message)
        .strip()
    )


def held_out_accuracy(report: CheckReport | None) -> str:
    """Implicit-reward accuracy with its 95% interval, or why there is none."""
    accuracy = None if report is None else report.implicit_accuracy
    if accuracy is None or accuracy.value is None:
        return NOT_MEASURED
    interval = _("{share} ({share_2} to {share_3}, n = {n})").format(
        share=share(accuracy.value), share_2=share(accuracy.low), share_3=share(accuracy.high), n=accuracy.n
    )
    return (
        _("{interval}; too few held-out judgements to tell").format(interval=interval)
        if accuracy.n < FEW_HELD_OUT
        else interval
    )


HISTORY = (
    _("Revision"),
    _("Method"),
    _("Parent"),
    _("Status"),
    _("Job"),
    _("Data snapshot"),
    _("Trained on"),
    _("Reference"),
    _("Final loss"),
    _("Held-out accuracy"),
    _("KL per token"),
    _("Mean words"),
    _("Made (UTC)"),
)


def history_table(policies: Sequence[Policy], training: Mapping[int, Job], checks: Mapping[str, FinishedCheck]) -> str:
    """Every policy, newest first, with what it came from and how it did."""
    names = {policy.id: policy.revision for policy in policies}
    rows = [
        history_row(policy, names, training.get(policy.job_id or 0), checks.get(policy.revision))
        for policy in reversed(policies)
    ]
    return table(HISTORY, rows, _("No policy yet."), (_("Job"), _("Final loss"), _("KL per token"), _("Mean words")))


def history_row(
    policy: Policy, names: Mapping[int, str], job: Job | None, check: FinishedCheck | None
) -> tuple[str, ...]:
    """One policy's row."""
    spec = job.spec if job is not None and isinstance(job.spec, TrainingSpec) else None
    result = (job.result if job is not None else None) or {}
    report = None if check is None else check.report
    own = AnswerFigures() if report is None else report.candidate
    snapshot = result.get("snapshot") or (spec.snapshot if spec else "")
    missing = NOTHING if policy.path is None else NOT_MEASURED
    loss = (result.get("final") or {}).get("loss")
    measured = (
        NOTHING if loss is None and not (spec and "loss" in spec.last_step) else figure(loss, 3),
        held_out_accuracy(report),
        figure(own.kl_to_base, 3),
        figure(own.mean_length, 1),
    )
    return (
        policy.revision,
        job_spec.short_of(policy.method) + (f", {SHORT_METHODS[spec.method]}" if spec else ""),
        names.get(policy.parent_id or 0, NOTHING),
        _("{status}, files deleted").format(status=policy.status) if policy.deleted else policy.status,
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
    return table(
        (_("When (UTC)"), _("Decision"), _("Policy"), _("Served until then"), _("By"), _("Why")),
        rows,
        _("No decision yet."),
    )


def policy_order(policies: Sequence[Policy]) -> list[Policy]:
    """For a choice: candidates first, newest first, then the others, newest first."""
    return sorted(policies, key=lambda policy: (policy.status != "candidate", -policy.id))


def promote_label(policy: Policy, against: bool = False) -> str:
    """What promoting this policy is called; `against`: the rule speaks against it."""
    if policy.status == "serving":
        return _("Serves now")
    if policy.status == "retired":
        return _("Roll back to this one")
    return _("Promote against the rule") if against else _("Promote: let it serve")


def check_label(active: bool, checked: bool) -> str:
    """What having a policy checked is called, while a check is `active` and where there was one before."""
    return _("Being checked") if active else _("Check it again") if checked else _("Check it")


def can_serve(policy: Policy) -> bool:
    """Whether a policy could be promoted: it answers, its files are there, and it does not serve already."""
    return policy.kind == "policy" and policy.deleted is None and policy.status != "serving"


@dataclass(frozen=True)
class ReportRow:
    """A row of the report: what was measured and how to read it."""

    label: str
    key: str
    digits: int
    reading: str


FIGURES = (
    ReportRow(
        _("Mean length"), "mean_length", 1, _("Words in an answer. A preference for short or long answers shows here.")
    ),
    ReportRow(
        _("KL per token"),
        "kl_to_base",
        3,
        _("How far the policy has moved from the weights that it hangs on, in nats a token; 0 is not at all."),
    ),
    ReportRow(
        _("Surprise to the base"),
        "nll_under_base",
        3,
        _(
            "Negative log-likelihood of the answers under the base model, in nats a token. Far above the "
            "base's own figure the answers stop being its language."
        ),
    ),
    ReportRow(
        _("Perplexity of plain text"),
        "perplexity",
        2,
        _(
            "Of a fixed English text that no policy is trained on. Far above the base's the policy forgets the "
            "language."
        ),
    ),
    ReportRow("Distinct-1", "distinct_1", 3, _("Different words as a share of all words. Falling means repetition.")),
    ReportRow(
        "Distinct-2", "distinct_2", 3, _("Different word pairs as a share of all pairs. Falling means repetition.")
    ),
    ReportRow(
        _("Repetition"),
        "repetition",
        3,
        _("Share of an answer's groups of four words that it has said before; 0 is best."),
    ),
    ReportRow(
        _("Ended by itself"),
        "ended_share",
        2,
        _("Share of answers that ended before the limit; the others are cut off."),
    ),
)


def report_card(report: CheckReport | None, rule: Rule) -> str:
    """The check of a candidate: its figures beside those of the policy it was compared with and of what it hangs on.

    It warns of what is past a limit of the project's rule.
    """
    if report is None:
        return ""  # why there is none, `gate_decisions.check_status` says
    sides = report_sides(report)
    headers = (_("Figure"), *(name for name, _values in sides), _("How to read it"))
    rows = [
        (entry.label, *(figure(getattr(values, entry.key), entry.digits) for _, values in sides), entry.reading)
        for entry in FIGURES
    ]
    warned = "".join(paragraph(sentence, "warning") for sentence in warnings(report, rule))
    accuracy = _("Accuracy on held-out judgements: {accuracy}.").format(accuracy=held_out_accuracy(report))
    answered = _("{prompts} held-out prompts, the same seeds for every policy.").format(prompts=report.prompts)
    apart = _("People and judges have compared answers to {count} others, which are not shown.")
    apart = apart.format(count=report.compared_apart) if report.compared_apart else ""
    return (
        f"<p><b>{escape(accuracy)}</b> {escape(ACCURACY_NOTE)}</p>"
        f"{warned}{win_rates(report)}{reward_sentence(report.reward)}"
        f"{table(headers, rows, '', tuple(name for name, _values in sides))}{probe_table(report, sides)}"
        f"{paragraph(f'{answered} {apart}'.strip(), 'quiet')}"
        f"{paragraph(EARLIER_RULE, 'quiet') if report.rule is None else ''}"
        f"{'' if report.candidate.weights else paragraph(EARLIER, 'quiet')}"
    )


EARLIER_RULE = _(
    "Made for the earlier rule, which counted every comparison by itself, also several of one prompt, and compared "
    "distinct-2 whatever the lengths."
)


PROBE_ROWS: Mapping[str, tuple[str, str]] = {
    ALL: (_("Probes: all"), _("Short fixed questions; 1 is best. A figure is the mean chance of what is right.")),
    "knowledge": (_("Probes: knowledge"), _("Plain questions with several answers.")),
    "arithmetic": (_("Probes: arithmetic"), _("Small sums, against near misses.")),
    "format": (_("Probes: format"), _("Which of two answers has the form that was asked for.")),
    "refusals": (_("Probes: no refusal"), _("Harmless requests: the chance that the answer is no refusal.")),
}


def probe_table(report: CheckReport, sides: Sequence[tuple[str, AnswerFigures]]) -> str:
    """What chance each policy gives to what is right on the probes, and what the candidate has lost to the base."""
    asked = [(name, values.probes) for name, values in sides]
    if report.candidate.probes is None:
        return ""  # a check of an earlier version
    lost = _("Lost to the base (interval)")
    rows = []
    for family, (label, reading) in PROBE_ROWS.items():
        fall = report.probe_falls.get(family)
        means = (figure(None if probes is None else probes.mean(family), 3) for _name, probes in asked)
        rows.append((label, *means, NOT_MEASURED if fall is None else with_interval(fall), reading))
    headers = (_("Chance of what is right"), *(name for name, _probes in asked), lost, _("How to read it"))
    return table(headers, rows, "", (*(name for name, _probes in asked), lost))


def with_interval(fall: Estimate) -> str:
    """A difference of chances with its interval."""
    value, low, high = (f"{end:+.3f}" for end in (fall.value, fall.low, fall.high))
    shown = [text if float(text) else text[1:] for text in (value, low, high)]  # nothing is neither lost nor won
    return _("{value} ({low} to {high})").format(value=shown[0], low=shown[1], high=shown[2])


def reward_sentence(found: RewardChange | None) -> str:
    """How much PPO's reward rose, and how it goes with length; nothing without PPO."""
    if found is None:
        return ""
    rise = _("can't be told from so few rounds") if found.rise is None else f"{found.rise:+.2f}"
    length = _("not measured") if found.length is None else f"{found.length:.2f}"
    return paragraph(
        _(
            "Change of the reward in its PPO training: {rise}, in standard deviations of the reward model's "
            "scores; correlation of the reward with length: {length}. A reward that rises while nobody finds "
            "the answers better is being hacked."
        ).format(rise=rise, length=length)
    )


def win_rates(report: CheckReport) -> str:
    """How often judges find the candidate's answers better, against each other policy; a sentence without judges."""
    rows = []
    for other, judged in (report.win_rates or {}).items():
        for judge, rate in judged.items():
            if rate.estimate is not None:
                controlled = rate.length_controlled
                at_equal = NOT_MEASURED if controlled is None else percent_with_interval(controlled)
                found = percent_with_interval(rate.estimate)
                rows.append((other, judge, found, at_equal, str(rate.n), str(rate.ties)))
    missing = "".join(
        paragraph(
            _("{judge} left {left_open} comparisons open. {gave_up}").format(
                judge=judge, left_open=calls.left_open, gave_up=calls.gave_up
            ),
            "warning",
        )
        for judge, calls in report.judged.items()
        if calls.left_open
    )
    bases = "".join(
        paragraph(f"{judge}: {calls.chances.sentence()}", "quiet")
        for judge, calls in report.judged.items()
        if calls.chances is not None
    )
    headers = (_("Against"), _("Judge"), _("Won (95%)"), _("Won at equal lengths (95%)"), _("Answers"), _("Ties"))
    none = _("No AI judge has compared its answers with others: the AI judges tab has them.")
    return table(headers, rows, none, (_("Answers"), _("Ties"))) + missing + bases


def report_sides(report: CheckReport) -> list[tuple[str, AnswerFigures]]:
    """(column title, figures): candidate, the policy it was compared with, and what it hangs on, each named once."""
    ground = report.base if report.base.revision else report.against
    this = _("{revision} (this)").format(revision=report.candidate.revision or _("candidate"))
    sides = [(this, report.candidate)]
    if report.against.revision and report.against != ground:
        sides.append((_("{revision} (compared with)").format(revision=report.against.revision), report.against))
    sides.append((ground.revision or "base", ground))
    if len({figures.weights for _title, figures in sides}) == 1:
        return sides
    return [(f"{title}, {WEIGHTS.get(figures.weights, figures.weights)}", figures) for title, figures in sides]


EARLIER = _(
    "An earlier version measured this, every policy against the base in 4 bits (NF4): of a policy on 16-bit weights "
    "the figures are also of the difference between the two precisions. Check it again to have it measured in its own."
)
# What is said of a figure that is past its limit, by the figure's name.
WARNINGS: Mapping[str, str] = {
    "kl_per_token": (
        _(
            "It has moved {value} nats a token from the base (more than {bound} is a bad sign). Read some of "
            "its answers before you promote it."
        )
    ),
    "nll_ratio": (
        _(
            "Its answers surprise the base model {value} more than the base's own do (more than {bound} is a "
            "bad sign). Read some of them before you promote it."
        )
    ),
    "distinct_ratio": (
        _(
            "Its answers repeat themselves: distinct-2 is {value} of the base's (under {bound} is a bad sign). "
            "Read some of them before you promote it."
        )
    ),
    "truncated_more": (
        _(
            "Its answers are cut off at the length limit {value} more often than the base's (more than {bound} "
            "is a bad sign). Read some of them before you promote it."
        )
    ),
    "perplexity_ratio": (
        _(
            "It finds a plain text {value} more perplexing than the base does (more than {bound} is a bad "
            "sign): it forgets what it was not trained on. Read some of its answers before you promote it."
        )
    ),
    "probes_fall": (
        _(
            "On the probes it gives what is right surely {value} less chance than the base does (more than {bound} is "
            "a bad sign): it has lost something that it could do. See what, below, before you promote it."
        )
    ),
}
# Of whatever limit.
ACCURACY_NOTE = _(
    "How often the candidate gives the answer that people chose the higher implicit reward, with its 95% interval: an "
    "interval that holds 50% says that it can't be told from a coin."
)
NO_NUMBER = _("{name}: not a number, so some of its answers could not be scored. Read them before you promote it.")


def warnings(report: CheckReport, rule: Rule) -> list[str]:
    """Sentences on figures that are past a limit of the project's rule, which the gate goes by."""
    return [warning(limit, value, bound) for limit, value, bound in past_limits(rule, report)]


def warning(limit: MetricLimit, value: float, bound: float) -> str:
    """What a figure that is past its limit says of a policy."""
    if isnan(value):
        return NO_NUMBER.format(name=limit.name)
    shown = [in_its_unit(limit, number) for number in (value, bound)]
    return WARNINGS[limit.figure].format(value=shown[0], bound=shown[1])


def in_its_unit(limit: MetricLimit, value: float) -> str:
    """A figure as its warning says it: a ratio to the base's as what it has more."""
    if limit.figure == "kl_per_token":
        return f"{value:.3g}"
    return f"{100 * (value - 1 if limit.bound.endswith('ratio_most') else value):.3g}%"


@dataclass(frozen=True)
class AnswerPair:
    """Two policies' answers to one held-out prompt, drawn with the same seed."""

    prompt: str
    seed: int
    left: CheckedAnswer
    right: CheckedAnswer


def answer_pairs(left: Sequence[CheckedAnswer], right: Sequence[CheckedAnswer]) -> list[AnswerPair]:
    """Answers to the same prompt with the same seed side by side; of a repeated check the newest answers count."""
    newest_right = {(answer.prompt_id, answer.seed): answer for answer in right}
    newest_left = {(answer.prompt_id, answer.seed): answer for answer in left}
    return [
        AnswerPair(conversation(answer.messages), answer.seed, answer, newest_right[key])
        for key, answer in newest_left.items()
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
        return paragraph(_("There are no answers of both policies to the same held-out prompts yet."), "quiet")
    return "".join(
        f'<div class="pair"><pre class="prompt">{escape(pair.prompt)}</pre><div class="sides">'
        f"{checked_box(names[0], pair.left)}{checked_box(names[1], pair.right)}</div></div>"
        for pair in shown
    )


def checked_box(name: str, answer: CheckedAnswer) -> str:
    """One side of a pair."""
    return answer_box(name, answer.text, answer.tokens, answer.finish_reason)


def page_label(total: int, page: int, size: int) -> str:
    """Which of the prompts are shown."""
    if not total:
        return ""
    return _("Prompts {page} to {total} of {total_2}").format(
        page=page * size + 1, total=min(total, (page + 1) * size), total_2=total
    )
