"""What the Train tab says before a run, as pure functions: data, exact rows with their loss mask, memory, time."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from annotation.metrics.aggregation import UNKNOWN_RELIABILITY
from annotation.records import Split
from annotation.translation import N_, _, ngettext, numeral
from annotation.ui import invisible, markup
from annotation.ui.formatting import cut, duration, moment, percent, share, short_number, size
from annotation.ui.markup import Bar, Row, card_title, class_of, escape, facts, notice, paragraph, points, table
from rlhf.data.label_noise import FEWEST_EVIDENCE, Noise
from rlhf.data.snapshots import left_out_list, left_out_sentence, reason_text, template_sentences
from rlhf.jobs.descriptions import UNITS, Part, TokenSequence, TokenSpan, Unit
from rlhf.jobs.job_spec import SHORT_METHODS, JobSpec, TrainingSpec
from rlhf.models.memory.fitting import Fit
from rlhf.models.memory.machines import GB, Machine
from rlhf.models.precisions.precisions_spec import PrecisionMismatch
from rlhf.submission import preflight
from rlhf.submission.form_fields import label_of
from rlhf.submission.inspect_rows import TOKENISED_ITEMS, DataSummary, InspectedItem
from rlhf.submission.preflight import CostEstimate, PlannedRun, TrainingData
from rlhf.tabs.jobs.job_cards import PAIR_REASONS
from rlhf.tabs.jobs.job_words import spec_text

LEGEND: Mapping[Part, str] = {
    "context": N_("read, not trained on"),
    "raised": N_("trained on: made likelier"),
    "lowered": N_("trained on: made less likely"),
    "scored": N_("the token whose state gives the score"),
    "virtual": N_("virtual tokens, which are what is trained"),
}
PAIRS_SENTENCE = N_(
    "A comparison gives a pair for every two of its answers of which one is found better, and one for each answer "
    "where all are bad. What several annotators say of them is one pair, the surer the more they agree. Those on "
    "held-out prompts that a check has drawn for the gate alone are not counted."
)


def summary_line(run: PlannedRun) -> str:
    """What a run would be, in one line: on how much it learns, how many steps it makes, and how long that takes; below
    it what is likely to go wrong."""
    parts = []
    # Where there is too little to train on, the reason for that says all, and names what is left out.
    short = run.data is not None and bool(preflight.shortage(run.spec, run.data.found))
    cost = None if short else run.cost
    if run.data is not None:
        parts.append(run.spec.items.counted(run.data.items))
    if cost is not None and cost.steps:
        steps = cost.counted_steps(cost.steps)
        parts.append(_("at most {steps}").format(steps=steps) if cost.ends_early else steps)
        if cost.step_time is None:
            parts.append(_("time not measured yet"))
        else:
            about = _("at most about {duration}") if cost.ends_early else _("about {duration}")
            parts.append(about.format(duration=duration(cost.step_time.seconds(cost.steps))))
        parts.append(_("fits in memory") if cost.fit.fits else _("more memory than there is"))
    memory = "" if cost is None or cost.fit.fits else cost.fit.sentence
    line = card_title(" · ".join(parts)) if parts else ""
    rest = "" if run.data is None or short else where_the_rest_is(run.data, run.spec)
    return line + rest + "".join(paragraph(one, "warning") for one in (memory, rate_warning(run.spec)) if one)


def where_the_rest_is(data: TrainingData, spec: TrainingSpec) -> str:
    """What of the judgements is not trained on: it is kept to check with, or left out; nothing where all is."""
    said = left_out_sentence(data.found.left_out)
    if spec.items.to_check_with and data.found.held_out:
        kept = _("{what}: {count}.").format(what=_(spec.items.to_check_with), count=numeral(data.found.held_out))
        said = f"{kept} {said}".strip()
    return paragraph(said, "quiet") if said else ""


# How many times its method's default a learning rate may be before something is said of it.
FAST, SLOW = 30, 1 / 1000


def rate_warning(meant: TrainingSpec) -> str:
    """That a learning rate is far from its method's default, in a sentence; empty where it is not."""
    default = meant.default_rate()
    if default is None or not meant.learning_rate or SLOW <= meant.learning_rate / default.value <= FAST:
        return ""
    fast = _("The learning rate {rate} is far above the usual {usual}: expect it to destroy what the model can.")
    slow = _("The learning rate {rate} is far below the usual {usual}: expect the model to learn next to nothing.")
    return (fast if meant.learning_rate > default.value else slow).format(
        rate=short_number(meant.learning_rate), usual=short_number(default.value)
    )


# ---------------------------------------------------------------------------------------------------------------- data
def data_card(data: TrainingData, spec: TrainingSpec) -> str:
    """What a run would learn from, and what of the judgements is left out and why."""
    found, items = data.found, data.items
    numbers = [(_("Parent"), found.parent), (_(spec.items.to_train_on), numeral(items))]
    if items != found.train:
        numbers.append((_("Pairs in them"), numeral(found.train)))
    if found.noise is not None and found.noise.share is not None:
        numbers.append((_("Labelled wrong, estimated"), share(found.noise.share)))
    if spec.items.to_check_with:
        numbers.append((_(spec.items.to_check_with), numeral(found.held_out)))
    known = facts(numbers, "facts figures") + (paragraph(_(data.unchecked), "warning") if data.unchecked else "")
    if found.unit != "pairs":
        return known + (left_out_table(found.left_out, found.unit) if found.left_out else "")
    explained = points([sentence for sentence in (_(PAIRS_SENTENCE), noise_sentence(found.noise)) if sentence])
    return known + left_out_table(found.left_out) + markup.unfold(_("How pairs are counted"), explained)


def noise_sentence(noise: Noise | None) -> str:
    """What the estimate of how many pairs are labelled wrong rests on, or that there is none; empty without pairs."""
    if noise is None:
        return ""
    evidence = noise.evidence
    if noise.share is None:
        return _(
            "How many are labelled wrong is not known: nobody who judged them has {fewest_evidence} comparisons "
            "that others judged too, gold ones or ones asked again. Training that goes by it assumes "
            "{unknown_reliability} after one such annotator."
        ).format(fewest_evidence=FEWEST_EVIDENCE, unknown_reliability=percent(1 - UNKNOWN_RELIABILITY))
    rest = noise.pairs - noise.measured
    said = _(
        "How many are labelled wrong is estimated from {shared:,} judgements of comparisons that others "
        "judged too, {known:,} of gold ones and {repeats:,} asked again."
    ).format(shared=evidence.shared, known=evidence.known, repeats=evidence.repeats)
    if not rest:
        return said
    others = _("That is for {measured:,} of the {pairs:,} pairs; too little is known of who judged the rest.").format(
        measured=noise.measured, pairs=noise.pairs
    )
    return f"{said} {others}"


def left_out_table(left_out: Mapping[str, int], unit: Unit = "pairs") -> str:
    """What is left out of the data, by reason; what is no judgement is of this unit."""
    row, judgement = _(UNITS[unit].plural), _("judgements")
    rows = [
        (reason_text(reason, left_out), numeral(count), row if reason in PAIR_REASONS else judgement)
        for reason, count in sorted(left_out.items())
        if count
    ]
    headers = (_("Left out, because"), _("How many"), _("Of what"))
    return table(headers, rows, _("Nothing is left out."), headers[1:2])


def survey_card(found: DataSummary, spec: TrainingSpec) -> str:
    """All rows looked at: how long they are, and what is left out and why, with examples."""
    longest, average = _("Tokens of the longest"), _("Tokens on average")
    if spec.drawn_tokens():
        longest = _("Tokens of the longest with an answer at the limit")
        average = _("Tokens on average with an answer at the limit")
    numbers = [
        (_(spec.items.to_train_on), numeral(found.items["train"])),
        *([(_("Held-out"), numeral(found.items["held-out"]))] if spec.items.to_check_with else []),
        (longest, numeral(found.largest)),
        (average, numeral(found.tokens / max(found.tokenised, 1), ".0f")),
    ]
    some = _("Lengths, and what is left out for them, are those of the first {tokenised_items:,} of {seen:,}.").format(
        tokenised_items=TOKENISED_ITEMS, seen=found.seen
    )
    rows = [
        (reason_text(reason, found.left_out), numeral(count), examples_of(found, reason))
        for reason, count in sorted(found.left_out.items())
        if count
    ]
    headers = (_("Left out, because"), _("How many"), _("For example"))
    known = facts(numbers, "facts figures") + (paragraph(some, "quiet") if found.seen > TOKENISED_ITEMS else "")
    return known + table(headers, rows, _("Nothing is left out."), headers[1:2])


def examples_of(found: DataSummary, reason: str) -> str:
    """A few items that are left out for a reason, with how their questions begin."""
    shown = ((name, cut(" ".join(asked.split()), 60)) for name, asked in found.examples.get(reason, []))
    return "; ".join(f"{name} (“{asked}”)" for name, asked in shown)


# ------------------------------------------------------------------------------------------------------------ one item
def shown_card(shown: InspectedItem | None, split: Split) -> str:
    """One item as it would be trained on: every token, with its part in the loss."""
    trained = split == "train"
    if shown is None:
        return notice(_("There is nothing to train on.") if trained else _("Nothing is held out."))
    place = (
        _("Row {number:,} of {total:,} to train on · {name}")
        if trained
        else _("Row {number:,} of {total:,} held out · {name}")
    )
    headline = place.format(number=shown.number, total=shown.total, name=shown.item.name)
    head = f'<p class="headline" role="status"><b>{escape(headline)}</b></p>'
    problem = "".join(paragraph(sentence, "warning") for sentence in left_out_sentences(shown))
    known = facts(shown.facts) if shown.facts else ""
    boxes = "".join(sequence_box(sequence) for sequence in shown.sequences)
    used = {span.part for sequence in shown.sequences for span in sequence.spans if span.tokens}
    entries = "".join(
        f'<li><span class="key {part}">{escape(_(meaning))}</span></li>'
        for part, meaning in LEGEND.items()
        if part in used
    )
    return head + problem + known + (f'<ul class="legend">{entries}</ul>' if entries else "") + boxes


def left_out_sentences(shown: InspectedItem) -> list[str]:
    said = _("Of this, left out: {reasons}.") if shown.used else _("This would be left out: {reasons}.")
    listed = [said.format(reasons=left_out_list(shown.left_out))] if shown.left_out else []
    return [*listed, *template_sentences(shown.left_out)]


def sequence_box(sequence: TokenSequence) -> str:
    trained = sum(span.tokens for span in sequence.spans if span.part in ("raised", "lowered"))
    titled = (
        ngettext(
            "{title} · {tokens:,} token, {trained:,} of them trained on",
            "{title} · {tokens:,} tokens, {trained:,} of them trained on",
            sequence.tokens,
        )
        if trained
        else ngettext("{title} · {tokens:,} token", "{title} · {tokens:,} tokens", sequence.tokens)
    )
    label = titled.format(title=sequence.title, tokens=sequence.tokens, trained=trained)
    body = "".join(span_html(span) for span in sequence.spans)
    return (
        f'{markup.label(label)}<pre class="tokens" tabindex="0" role="group" aria-label="{escape(label)}">{body}</pre>'
    )


def span_html(span: TokenSpan) -> str:
    """Successive tokens, each in a box of its own, literally."""
    if span.part == "virtual":
        virtual = ngettext("[{tokens} virtual token]", "[{tokens} virtual tokens]", span.tokens)
        virtual = virtual.format(tokens=span.tokens)
        return f'<span class="virtual">{escape(virtual)}</span>'
    return "".join(
        f"<span{class_of(span.part)}{several(tokens)}>{escape(visible(text))}</span>" for text, tokens in span.pieces
    )


def several(tokens: int) -> str:
    """Says of a character that it takes several tokens."""
    title = ngettext("{tokens} token", "{tokens} tokens", tokens).format(tokens=tokens)
    return f' title="{escape(title)}"' if tokens > 1 else ""


def visible(text: str) -> str:
    """A token's text with what can't be seen written out, ends of lines too."""
    return invisible.visible(text.replace("\n", "↵\n"))


# ------------------------------------------------------------------------------------------------------ memory and time
def cost_card(cost: CostEstimate) -> str:
    """What is trained, how long it takes, and its memory by component against what the machine has."""
    fit, machine, counted, step_time = cost.fit, cost.machine, cost.counted, cost.step_time
    trained = _("{trainable:,} ({percent:.3g}% of {total:,})")
    numbers = [
        (_("Trainable parameters"), trained.format(**vars(counted), percent=counted.percent)),
        (_("Memory, estimated"), size(fit.total)),
        (_("Free now"), _("{size} of {size_2}").format(size=size(machine.free), size_2=size(machine.total))),
        (_("Machine"), machine.called),
    ]
    if step_time is not None and step_time.peak_memory_mb:
        numbers.append((_("Peak of memory, measured"), size(step_time.peak_memory_mb * 1e6)))
    if fit.processes > 1:
        numbers.append((_("Processes, each with all of it"), str(fit.processes)))
    fits = paragraph(fit.sentence, "" if fit.fits else "warning") + paragraph(length_sentence(cost), "quiet")
    return facts(numbers, "facts") + paragraph(time_sentence(cost)) + fits + memory_table(fit, machine)


def length_sentence(cost: CostEstimate) -> str:
    if cost.longest:
        return _("Estimated as if every row were as long as the longest, which has {longest:,} tokens.").format(
            longest=cost.longest
        )
    return _(
        "Estimated as if every row were as long as “{max_length}” allows. Looking through all rows finds the longest."
    ).format(max_length=label_of("max_length", ()))


MEMORY = (N_("Part"), N_("Memory"), N_("Of what is free"), N_("What it is"))


def memory_table(fit: Fit, machine: Machine) -> str:
    """The components of a run's memory with a bar each, as long as their share of what is free."""
    rows = [(_(part.name), part.size * fit.processes, part.why) for part in fit.components]
    body = [memory_row(name, amount, why, machine.free) for name, amount, why in rows]
    body.append(memory_row(_("Together"), fit.total, _("estimated; what is free is the whole bar"), machine.free))
    heads = tuple(map(_, MEMORY))
    return f'<div class="memory">{table(heads, body, "", heads[1:2])}</div>'


def memory_row(name: str, amount: float, why: str, free: float) -> Row:
    part = amount / free if free else 1.0
    bar = Bar(part, _("{part:.0%} of what is free").format(part=part))
    return name, f"{numeral(amount / GB, '.2f')} GB", bar, why


def time_sentence(cost: CostEstimate) -> str:
    step_time, steps, waiting = cost.step_time, cost.steps, cost.waiting
    if not steps:
        return _("Time: none, because there is nothing to train on.")
    # Where the time is known, it is that which is said to be at most so much.
    named = cost.counted_steps(steps)
    named = _("at most {steps}").format(steps=named) if cost.ends_early and step_time is None else named
    if step_time is None:
        said = _("Time: {named}. How long a step takes with these settings has not been measured yet.").format(
            named=named
        )
    else:
        about, at_most = (
            _(
                "Time: about {duration} for {named} ({each} each, {beside} beside them; measured on {measured} UTC by "
                "job {number})."
            ),
            _(
                "Time: at most about {duration} for {named} ({each} each, {beside} beside them; measured on {measured} "
                "UTC by job {number}); it ends early where the policy has moved far enough."
            ),
        )
        said = (at_most if cost.ends_early else about).format(
            duration=duration(step_time.seconds(steps)),
            named=named,
            each=pace(step_time.seconds_per_step),
            beside=duration(step_time.beside),
            measured=moment(step_time.measured),
            number=step_time.job_id,
        )
    before = ngettext("{count} job runs or waits before it.", "{count} jobs run or wait before it.", waiting).format(
        count=waiting
    )
    return f"{said} {before}" if waiting else said


def pace(seconds: float) -> str:
    """How long a step takes, in two digits where it is short."""
    return duration(seconds) if seconds >= 60 else f"{numeral(seconds, '.2g')} s"


# ------------------------------------------------------------------------------------------------------------ settings
def rate_note(spec: TrainingSpec, meant: TrainingSpec) -> str:
    """What is left to a default stands for, folded, with its source; nothing where all was given.

    `meant` is the spec as it will be queued.
    """
    said, method = [], _(SHORT_METHODS[meant.method])
    if spec.method == "auto":
        held = _("4 bits") if meant.method == "qlora" else meant.precision
        told = _("Automatic means {method} here: the parent's weights are held in {held}.")
        said.append(told.format(method=method, held=held))
    rate = meant.default_rate()
    if not spec.learning_rate and rate is not None:
        told = _("Left empty, the learning rate is {short_number}, the default for {method} here ({source}).")
        said.append(told.format(short_number=short_number(rate.value), method=method, source=_(rate.source)))
    said += spec.default_notes()
    return markup.unfold(_("What is left to defaults"), points(said)) if said else ""


def crossing_note(found: PrecisionMismatch | None) -> str:
    """What it costs to train in another precision than the parent answers in; nothing where a run does not."""
    return "" if found is None else paragraph(found.sentence(), "warning")


def problem_box(sentences: Sequence[str]) -> str:
    """Why a run can't be started with these settings; nothing if it can."""
    if not sentences:
        return ""
    said = paragraph(_("This can't be run:"))
    return f'<div class="warning" role="status">{said}{points(sentences)}</div>'


def command_text(spec: JobSpec, data_dir: Path) -> str:
    run = f"python -m rlhf --data {shlex.quote(str(data_dir))} run spec.json"
    return f"cat > spec.json <<'SPEC'\n{spec_text(spec)}\nSPEC\n{run}"


def reward_intro(revision: str, trained: bool) -> str:
    """What is known of a chosen reward model, where its quality was not measured; whether it was `trained` here."""
    said = _("{revision} was not checked on held-out comparisons, or the base has other weights since.")
    if not trained:
        said = _("{revision} has no finished training here, so nothing is known of how good it is.")
    return notice(said.format(revision=revision))
