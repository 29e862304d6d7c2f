"""What the Iterations tab says: who serves, how each candidate did in its check, answers side by side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from annotation.jobs.job_table import HEARD_WITHIN_SECONDS
from annotation.metrics.intervals_and_bias import Estimate
from annotation.records import CheckedAnswer, Split, seconds_between, who
from annotation.store.stock_counts import AnswerCounts
from annotation.translation import N_, _, joined, ngettext, numeral
from annotation.ui import differences, markup
from annotation.ui.formatting import (
    NOT_MEASURED,
    NOTHING,
    duration,
    figure,
    moment,
    percent,
    percent_span,
    percent_with_interval,
    share,
)
from annotation.ui.markup import Button, Chip, Explained, Row, card_title, facts, paragraph, table
from rlhf.evaluation import gate_words
from rlhf.evaluation.gate import Criterion, Passed, Requirement, Rule, within_limits
from rlhf.evaluation.probes import ALL
from rlhf.evaluation.report import AnswerFigures, CheckReport, RewardChange
from rlhf.generation.answering_spec import STARTS_WITHIN_SECONDS
from rlhf.jobs import job_spec
from rlhf.jobs.descriptions import UNITS
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import SHORT_METHODS, TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.models import decision_store
from rlhf.models.decision_store import Decision
from rlhf.models.registry import PRECISION_WORDS, Policy
from rlhf.submission.form_fields import choice_label
from rlhf.tabs.jobs import job_words
from rlhf.tabs.jobs.job_cards import answer_box

# Below this the interval spans most of what is possible, so the figure would only mislead.
FEW_HELD_OUT = 20


def serving_card(
    policy: Policy, worker: Job | None, stock: Mapping[Split, int], elsewhere: int, counts: AnswerCounts, at: str
) -> str:
    """The serving policy, the worker that answers with it, and what it has produced so far."""
    in_stock = _("{train} for training, {held_out} held-out")
    by_others = _("{elsewhere:,} by other policies or imported").format(elsewhere=elsewhere)
    told = (
        (_("In stock"), in_stock.format(train=stock["train"], held_out=stock["held-out"]), True),
        (_("Also in stock"), by_others, elsewhere),
        (_("Answers drawn"), numeral(counts.total), True),
        (_("Ended before the length limit"), share(counts.ended_share), counts.total),
        (_("Dropped: empty"), numeral(counts.empty), counts.empty),
        (_("Dropped: the same as another"), numeral(counts.duplicate), counts.duplicate),
    )
    title = card_title(policy.revision, _("on {base}").format(base=policy.base))
    return title + paragraph(worker_sentence(worker, at)) + facts([(name, words) for name, words, some in told if some])


def worker_sentence(worker: Job | None, at: str) -> str:
    """Whether the answering worker lives, and what it says."""
    waiting = worker is not None and worker.status == "queued"
    if worker is None or (waiting and seconds_between(worker.created, at) > STARTS_WITHIN_SECONDS):
        return _("No model is writing answers here.")
    if worker.status == "running":
        silent = seconds_between(worker.heartbeat or at, at)
        runs = _("The answering worker runs. {message}")
        if silent > HEARD_WITHIN_SECONDS / 2:
            runs = _("The answering worker has said nothing for {silent}. {message}")
        return runs.format(silent=duration(silent), message=_(worker.message)).strip()
    if worker.status == "queued":
        return _("The answering worker is starting.")
    said = _("The answering worker does not run ({status}). {message}")
    return said.format(status=_(job_words.STATUS_WORDS[worker.status]), message=_(worker.message)).strip()


def held_out_accuracy(report: CheckReport | None) -> str:
    """Implicit-reward accuracy with its 95% interval, or why there is none."""
    accuracy = None if report is None else report.implicit_accuracy
    found = None if accuracy is None else accuracy.estimate
    if found is None:
        return share(None if accuracy is None else accuracy.value)  # an early version's has no interval
    interval = f"{percent(found.value)} ({percent_span(found.low, found.high)}, n = {found.n})"
    few = _("{interval}; too few to tell")
    return few.format(interval=interval) if found.n < FEW_HELD_OUT else interval


AT_EQUAL_LENGTH: Final = N_("KL per token, at equal length")


def kl_words(report: CheckReport | None) -> str:
    """The KL that the limit is on; of a check that took it over whole answers with these words."""
    kl = None if report is None else report.kl_per_token
    if kl is None or (report is not None and report.equal_length_kl is not None):
        return figure(kl, 3)
    return _("{kl}, of whole answers").format(kl=figure(kl, 3))


HISTORY = (
    *(N_("Policy"), N_("Algorithm, method"), N_("Parent"), N_("Status"), N_("Job"), N_("Data snapshot")),
    *(N_("Trained on"), N_("Reference"), N_("Made (UTC)")),
)


def history_table(policies: Sequence[Policy], training: Mapping[int, Job]) -> str:
    """Every policy, newest first, with what it came from; how it did stands with its check."""
    names = {policy.id: policy.revision for policy in policies}
    rows = [history_row(policy, names, training.get(policy.job_id or 0)) for policy in reversed(policies)]
    return table(tuple(map(_, HISTORY)), rows, _("No policy yet."), (_("Job"),))


def history_row(policy: Policy, names: Mapping[int, str], job: Job | None) -> tuple[str, ...]:
    spec = job.spec if job is not None and isinstance(job.spec, TrainingSpec) else None
    done = FinishedTraining.of(None if job is None else job.result)
    snapshot, learnt = done.snapshot or (spec.snapshot if spec else ""), done.trained_on
    return (
        policy.revision,
        job_spec.short_of(policy.algorithm) + (f", {_(SHORT_METHODS[spec.method])}" if spec else ""),
        names.get(policy.parent_id or 0, NOTHING),
        _("{status}, files deleted").format(status=policy.status_word) if policy.deleted else policy.status_word,
        str(policy.job_id or NOTHING),
        snapshot[:12] or NOTHING,
        NOTHING if learnt is None else UNITS[spec.unit if spec else "pairs"].counted(learnt),
        choice_label(type(spec), "reference", spec.reference) if spec and spec.reference else NOTHING,
        moment(policy.created),
    )


ACTIONS: Mapping[str, str] = {
    "promote": N_("promote"),
    "go-back": N_("go back"),
    "reject": N_("reject"),
    "take-back-rejection": N_("take back the rejection"),
    "delete": N_("delete the files"),
}
LATEST_DECISION: Mapping[str, str] = {
    "promote": N_("Latest decision: {who} promoted {revision}, {when} UTC."),
    "go-back": N_("Latest decision: {who} went back to {revision}, {when} UTC."),
    "reject": N_("Latest decision: {who} rejected {revision}, {when} UTC."),
    "take-back-rejection": N_("Latest decision: {who} took back the rejection of {revision}, {when} UTC."),
    "delete": N_("Latest decision: {who} deleted the files of {revision}, {when} UTC."),
}


def decisions_card(decisions: Sequence[Decision], undoable: Mapping[int, Button]) -> str:
    """The latest decision with its undo, and a list of the latest; `undoable` by the number of the decision."""
    if not decisions:
        return ""
    latest = decisions[0]
    said = _(LATEST_DECISION[latest.action]).format(
        who=who(latest.decided_by), revision=latest.revision, when=moment(latest.created)
    )
    undo = undoable.get(latest.id)
    button = markup.act_button(undo.words, undo.act, undo.subject) if undo else ""
    first = markup.decided(paragraph(said), button)
    rows: list[Row] = [
        (
            *(moment(row.created), who(row.decided_by), _(ACTIONS[row.action]), row.revision),
            *(row.previous or NOTHING, decision_store.why(row.reason) or NOTHING, undoable.get(row.id, "")),
        )
        for row in decisions
    ]
    headers = (_("When (UTC)"), _("Who"), _("Decision"), _("Policy"), _("Served until then"), _("Why"), _("Undo"))
    return first + markup.unfold(_("Latest decisions"), table(headers, rows))


def undo_of(row: Decision) -> Button:
    """The button that takes a decision back; it names the decision, so that a press never takes back another."""
    if row.action == "reject":
        return Button(_("Undo: {revision} is a candidate again").format(revision=row.revision), "undo", str(row.id))
    return Button(_("Undo: {revision} serves again").format(revision=row.previous), "undo", str(row.id))


def policy_order(policies: Sequence[Policy]) -> list[Policy]:
    """For a choice: those that wait for a decision first, newest first, then the others, newest first."""
    return sorted(policies, key=lambda policy: (not policy.undecided, -policy.id))


def promote_label(policy: Policy, against: bool = False) -> str:
    """What promoting this policy is called; `against`: the rule speaks against it."""
    if policy.status == "serving":
        return _("Serves now")
    if against:
        return _("Promote against the rule")
    return _("Go back to this one") if policy.status == "retired" else _("Promote: let it serve")


def can_serve(policy: Policy) -> bool:
    """Whether a policy could be promoted: it answers, its files are there, and it does not serve already."""
    return policy.can_answer and policy.status != "serving"


@dataclass(frozen=True)
class ReportRow:
    """A row of the report: what was measured and how to read it."""

    label: str
    key: str
    digits: int
    reading: str


FIGURES = (
    ReportRow(
        N_("Mean words"),
        "mean_length",
        1,
        N_("Words in an answer. A preference for short or long answers shows here."),
    ),
    ReportRow(
        N_("KL per token"),
        "kl_to_anchor",
        3,
        N_("How far the policy is from what the limits are against, in nats a token; 0 is not at all."),
    ),
    ReportRow(
        AT_EQUAL_LENGTH,
        "equal_length_kl",
        3,
        N_("The same over as many tokens as the answers of what it is measured against have: the limit is on this."),
    ),
    ReportRow(
        N_("Surprise at its answers"),
        "nll_under_anchor",
        3,
        N_(
            "How unlikely the answers are to what the limits are against (negative log-likelihood, in nats a token). "
            "Far above its own figure they stop being its language."
        ),
    ),
    ReportRow(
        N_("Perplexity of plain text"),
        "perplexity",
        2,
        N_(
            "Of a fixed English text that no policy is trained on. Far above its anchor's the policy forgets the "
            "language."
        ),
    ),
    ReportRow("Distinct-1", "distinct_1", 3, N_("Different words as a share of all words. Falling means repetition.")),
    ReportRow(
        "Distinct-2", "distinct_2", 3, N_("Different word pairs as a share of all pairs. Falling means repetition.")
    ),
    ReportRow(
        N_("Repetition"),
        "repetition",
        3,
        N_("Share of an answer's groups of four words that it has said before; 0 is best."),
    ),
    ReportRow(N_("Cut off"), "cut_off_share", 2, N_("Share of answers that the limit cut off, or that are empty.")),
)


# What it is called whether a criterion has passed, and its colour.
PASSED_CHIPS: Mapping[Passed, Chip] = {
    "pass": Chip(N_("met"), "good"),
    "fail": Chip(N_("not met"), "bad"),
    "open": Chip(N_("not enough yet"), "open"),
    "few": Chip(N_("too few"), "open"),
    "missing": Chip(N_("not measured"), "open"),
    "inapplicable": Chip(N_("does not apply")),
    "informs": Chip(N_("informs only")),
}


def report_card(report: CheckReport | None, rule: Rule, criteria: Sequence[Criterion] = ()) -> str:
    """The check of a candidate: its figures beside those of the policy it was compared with and of its anchor,
    with what the rule asks and found where its criteria are given; without them it warns of what is past a limit.
    """
    if report is None:
        return ""  # why there is none, `check_status` says
    past = () if criteria else warnings(report, rule)
    warned = "".join(paragraph(sentence, "warning") for sentence in past)
    answered = ngettext(
        "{prompts} held-out prompt, the same random numbers for every policy.",
        "{prompts} held-out prompts, the same random numbers for every policy.",
        report.prompts,
    ).format(prompts=report.prompts)
    apart = ngettext(
        "What people and judges compare are other answers, to {count} prompt, which are not shown.",
        "What people and judges compare are other answers, to {count} prompts, which are not shown.",
        report.compared_apart,
    )
    apart = apart.format(count=report.compared_apart) if report.compared_apart else ""
    return (
        f"{warned}{judges_rates(report)}{reward_sentence(report.reward)}{figures_table(report, criteria)}"
        f"{paragraph(f'{answered} {apart}'.strip(), 'quiet')}"
        f"{ground_note(report)}"
        f"{paragraph(_(EARLIER_RULES[report.rule]), 'quiet') if report.rule in EARLIER_RULES else ''}"
        f"{'' if report.candidate.precision else paragraph(_(EARLIER), 'quiet')}"
    )


def ground_note(report: CheckReport) -> str:
    """How far a policy is from the trained or merged weights that its adapter hangs on; nothing of any other."""
    if report.kl_to_ground is None:
        return ""
    said = _("From the whole weights that its adapter hangs on it has moved {kl} nats a token.")
    return paragraph(said.format(kl=figure(report.kl_to_ground, 3)), "quiet")


RULE_HEADS = (N_("Found"), N_("Asked for"), N_("Verdict"))


def figures_of(report: CheckReport) -> Sequence[ReportRow]:
    """The rows that a report has: an earlier version took no KL at equal length."""
    return [row for row in FIGURES if row.label != AT_EQUAL_LENGTH or report.equal_length_kl is not None]


def limited_by(one: Criterion, report: CheckReport) -> str | None:
    """The key of the row of the figure that a limit is on, empty for that of probes, which have rows of their own; None
    where it is no limit."""
    if not isinstance(one, Requirement) or one.asks not in gate_words.LIMITS:
        return None
    if one.asks == "kl_per_token" and report.equal_length_kl is not None:
        return "equal_length_kl"
    return gate_words.LIMITS[one.asks].of


def figures_table(report: CheckReport, criteria: Sequence[Criterion]) -> str:
    """Every figure once: what the rule asks of it and found, if anything, and what each policy has of it."""
    sides = report_sides(report)
    shown = {entry.key: entry for entry in figures_of(report)}
    rows: list[Row] = []
    for one in filter(says_something, criteria):
        words = gate_words.criterion_words(one)
        entry = shown.pop(limited_by(one, report) or "", None)
        values = side_figures(entry, report)
        name = _(AT_EQUAL_LENGTH) if entry is not None and entry.label == AT_EQUAL_LENGTH else words.name
        why = f"{words.why} {_(entry.reading)}" if entry is not None else words.why
        chip = PASSED_CHIPS[one.passed]
        verdict = replace(chip, words=_(chip.words))
        rows.append((Explained(name, why), words.value, words.threshold, verdict, *values))
    blank = ("",) * len(RULE_HEADS) if criteria else ()
    rows += [(Explained(_(one.label), _(one.reading)), *blank, *side_figures(one, report)) for one in shown.values()]
    accuracy = (held_out_accuracy(report), *("" for _side in sides[1:]))
    rows.append((Explained(_("Accuracy on held-out judgements"), _(ACCURACY_NOTE)), *blank, *accuracy))
    rows += [(name, *blank, *values) for name, values in probe_rows(report, sides)]
    names = tuple(side for side, _values in sides)
    headers = (_("Figure"), *(map(_, RULE_HEADS) if criteria else ()), *names)
    return table(headers, rows, "", names, caption=_("Figures of the check"))


def says_something(one: Criterion) -> bool:
    """Whether a criterion is worth a row: not one that does not apply, nor that nothing was weighed before."""
    if not isinstance(one, Requirement):
        return True
    return one.passed != "inapplicable" and (one.asks, one.found) != ("weighed-before", 0)


def side_figures(entry: ReportRow | None, report: CheckReport) -> Sequence[str]:
    """A figure of each policy; nothing for none, and of the candidate alone KL at equal length."""
    sides = report_sides(report)
    if entry is not None and entry.label == AT_EQUAL_LENGTH:
        return [figure(report.equal_length_kl, entry.digits), *("" for _side in sides[1:])]
    return [figure(getattr(values, entry.key), entry.digits) if entry else "" for _side, values in sides]


def probe_means(family: str, sides: Sequence[tuple[str, AnswerFigures]]) -> Sequence[str]:
    """The mean chance of what is right on probes of a family, of each policy."""
    return [figure(None if values.probes is None else values.probes.mean(family), 3) for _side, values in sides]


def probe_rows(report: CheckReport, sides: Sequence[tuple[str, AnswerFigures]]) -> list[tuple[Explained, list[str]]]:
    """By family of probes what chance each policy gives to what is right, below the candidate's own what it has lost
    to its anchor; nothing of a check of an earlier version.
    """
    if report.candidate.probes is None:
        return []
    rows = []
    for family, (name, reading) in PROBE_ROWS.items():
        fall = report.probe_falls.get(family)
        first, *others = probe_means(family, sides)
        if fall is not None:
            lost = _("lost: {fall}").format(fall=with_interval(fall))
            first = f"{first}\n{lost}"
        rows.append((Explained(_(name), _(reading)), [first, *others]))
    return rows


# What is said of a check that was made for an earlier version of the rule.
EARLIER_RULES: Mapping[int | None, str] = {
    None: N_(
        "Made for the earlier rule, which counted every comparison by itself, also several of one prompt, and compared "
        "distinct-2 and the likelihood whatever the lengths."
    ),
    2: N_("Made for the earlier rule, which compared the likelihood whatever the lengths."),
    3: N_("Made for the earlier rule, which took the end of a short answer for words that surprise."),
    4: N_(
        "Made for the earlier rule: KL was over whole answers of any length, what was said later of a prompt changed "
        "what it counted for, and judges who had not judged it could correct it. What people say is counted by today's."
    ),
}


PROBE_ROWS: Mapping[str, tuple[str, str]] = {
    ALL: (
        N_("Probes: all"),
        N_(
            "Short fixed questions; 1 is best. A figure is the mean chance of what is right; lost: how much better its "
            "anchor is."
        ),
    ),
    "knowledge": (N_("Probes: knowledge"), N_("Plain questions with several answers.")),
    "arithmetic": (N_("Probes: arithmetic"), N_("Small sums, against near misses.")),
    "format": (N_("Probes: format"), N_("Which of two answers has the form that was asked for.")),
    "refusals": (N_("Probes: no refusal"), N_("Harmless requests: the chance that the answer is no refusal.")),
}


def with_interval(fall: Estimate) -> str:
    rounded = (round(end, 3) for end in (fall.value, fall.low, fall.high))
    shown = [numeral(end, "+.3f") if end else numeral(0, ".3f") for end in rounded]  # nothing is neither lost nor won
    return _("{value} ({low} to {high})").format(value=shown[0], low=shown[1], high=shown[2])


def reward_sentence(found: RewardChange | None) -> str:
    """How much the reward of its training rose, and how it goes with length; nothing where no reward took part."""
    if found is None:
        return ""
    change = _("Change of the reward in its training: {rise}, in standard deviations of the reward model's scores.")
    said = [
        _("The change of the reward in its training can't be told from so few rounds.")
        if found.rise is None
        else change.format(rise=numeral(found.rise, "+.2f")),
        _("The correlation of the reward with length was not measured.")
        if found.length is None
        else _("Correlation of the reward with length: {length}.").format(length=numeral(found.length, ".2f")),
        _("A reward that rises while nobody finds the answers better is being hacked."),
    ]
    return paragraph(joined(*said))


def judges_rates(report: CheckReport) -> str:
    """How often judges find the candidate's answers better, against each other policy; nothing without judges."""
    rows = []
    for other, judged in (report.win_rates or {}).items():
        for judge, rate in judged.items():
            if rate.estimate is not None:
                controlled = rate.length_controlled
                at_equal = _(NOT_MEASURED) if controlled is None else percent_with_interval(controlled)
                found = percent_with_interval(rate.estimate)
                rows.append((other, judge, found, at_equal, str(rate.n), str(rate.ties)))
    missing = "".join(
        paragraph(
            ngettext(
                "{judge} left {left_open} comparison open. {gave_up}",
                "{judge} left {left_open} comparisons open. {gave_up}",
                calls.left_open,
            ).format(judge=judge, left_open=calls.left_open, gave_up=calls.gave_up),
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
    return (table(headers, rows, "", (_("Answers"), _("Ties"))) if rows else "") + missing + bases


def report_sides(report: CheckReport) -> list[tuple[str, AnswerFigures]]:
    """(column title, figures): candidate, the policy it was compared with, and its anchor, each named once."""
    anchor = report.anchor if report.anchor.revision else report.against
    this = _("{revision} (this)").format(revision=report.candidate.revision or _("candidate"))
    sides = [(this, report.candidate)]
    if report.against.revision and report.against != anchor:
        sides.append((_("{revision} (compared with)").format(revision=report.against.revision), report.against))
    sides.append((anchor.revision or "base", anchor))
    if len({figures.precision for _title, figures in sides}) == 1:
        return sides
    return [
        (f"{title}, {_(PRECISION_WORDS.get(figures.precision, figures.precision))}", figures)
        for title, figures in sides
    ]


EARLIER = N_(
    "An earlier version measured this against the base in 4 bits (NF4): of a policy on 16-bit weights the "
    "figures are also of the difference between the two precisions. Check it again."
)
ACCURACY_NOTE = N_(
    "How often the candidate gives the answer that people chose the higher implicit reward, with its 95% interval: "
    "where that holds 50%, it may be guessing."
)


def warnings(report: CheckReport, rule: Rule) -> list[str]:
    """Sentences on figures that are past a limit of the project's rule, which the gate goes by."""
    return [gate_words.failure(one) for one in within_limits(rule, report) if one.passed == "fail"]


@dataclass(frozen=True)
class AnswerPair:
    prompt: str
    left: CheckedAnswer
    right: CheckedAnswer


def answer_pairs(left: Sequence[CheckedAnswer], right: Sequence[CheckedAnswer]) -> list[AnswerPair]:
    """Answers to the same prompt with the same seed side by side; of a repeated check the newest answers count."""
    newest_right = {(answer.prompt_id, answer.seed): answer for answer in right}
    newest_left = {(answer.prompt_id, answer.seed): answer for answer in left}
    return [
        AnswerPair(markup.conversation_text(answer.messages), answer, newest_right[key])
        for key, answer in newest_left.items()
        if key in newest_right
    ]


def answers_page(pairs: Sequence[AnswerPair], page: int, size: int, names: tuple[str, str]) -> str:
    """One page of answers side by side, literally, with the words marked in which they differ."""
    shown = pairs[page * size : (page + 1) * size]
    if not shown:
        return paragraph(_("There are no answers of both policies to the same held-out prompts yet."), "quiet")
    return paragraph(_("Marked: words that the other answer has not."), "quiet") + "".join(
        map(partial(pair_box, names), shown)
    )


def pair_box(names: tuple[str, str], pair: AnswerPair) -> str:
    both = (pair.left, pair.right)
    marked = differences.marked(*(side.text for side in both))
    boxes = [
        answer_box(name, inside, side.tokens, side.finish_reason, as_html=True)
        for name, inside, side in zip(names, marked, both, strict=True)
    ]
    return markup.answers_to(pair.prompt, boxes)


def page_label(total: int, page: int, size: int) -> str:
    if not total:
        return ""
    return _("Prompts {page} to {total} of {total_2}").format(
        page=page * size + 1, total=min(total, (page + 1) * size), total_2=total
    )
