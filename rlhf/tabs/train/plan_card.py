"""What the Train tab says before a run, as pure functions: data, exact rows with their loss mask, memory, time."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from annotation.metrics.aggregation import UNKNOWN_RELIABILITY
from annotation.records import Split
from annotation.ui import invisible
from annotation.ui.formatting import moment, percent
from annotation.ui.markup import BOX_STYLE, class_of, escape, paragraph, table
from rlhf.data.label_noise import FEWEST_EVIDENCE, Noise
from rlhf.data.snapshots import reason_text
from rlhf.jobs.descriptions import Part, TokenSequence, TokenSpan
from rlhf.jobs.job_spec import SHORT_METHODS, JobSpec, TrainingSpec
from rlhf.models.memory import GB, Fit, Machine
from rlhf.submission.inspect_rows import TOKENISED_ITEMS, DataSummary, InspectedItem
from rlhf.submission.preflight import CostEstimate, TrainingData
from rlhf.tabs.runs.curves import short_number
from rlhf.tabs.runs.job_cards import PAIR_REASONS, STYLE, duration, facts, notice, share
from rlhf.tabs.runs.job_words import size, spec_text

# Goes through Gradio's template engine: no backtick, no backslash, no double brace.
PLAN_STYLE = (
    STYLE
    + """
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; font-family: var(--font-mono); font-size: var(--text-sm);
  line-height: 2; border: 1px solid var(--border-color-primary); border-radius: var(--radius-md); padding: 8px;
  margin: 4px 0 10px 0; max-height: 30em; overflow-y: auto; }
.tokens span, .key { border-inline-start: 1px solid var(--border-color-primary); }
.context { opacity: 0.8; }
.raised, .lowered, .scored, .virtual { text-decoration-line: underline; text-decoration-thickness: 2px;
  text-underline-offset: 3px; }
.raised { background: #12914a33; text-decoration-style: solid; text-decoration-color: #12914a; }
.lowered { background: #d9542b33; text-decoration-style: wavy; text-decoration-color: #d9542b;
  text-decoration-thickness: 1px; }
.scored { background: #a855f744; text-decoration-style: double; text-decoration-color: #a855f7; }
.virtual { background: #2f7de133; text-decoration-style: dotted; text-decoration-color: #2f7de1; }
.key { padding: 0 6px; font-family: var(--font-mono); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: var(--text-sm); margin: 6px 0; padding: 0;
  list-style: none; }
.costs { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.memory td { vertical-align: middle; }
.memory td:last-child { white-space: normal; min-width: 20em; }
.memory .bar { min-width: 90px; margin: 0; }
.memory tr.sum td { font-weight: 600; border-bottom: 0; }
.memory tr.over .bar > div { background: repeating-linear-gradient(45deg, #d9542b, #d9542b 6px, #b42318 6px,
  #b42318 12px); }
ul.trouble { margin: 4px 0; padding-inline-start: 1.2em; }
"""
)

# The fields of the forms. They are Gradio's own components, which a box's style reaches only by asking whether the page
# has the box: what is typed stands in line, choices have room for their sentences, nothing is stretched over the page.
FIELDS_STYLE = (
    BOX_STYLE
    + """
body:has(&) .fields > .form { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr));
  background: var(--block-background-fill); }
body:has(&) .fields.lists > .form { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
body:has(&) .fields.choices > .form { grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
body:has(&) .fields > .form > .block { min-width: 0 !important; }
body:has(&) .fields .container { display: flex; flex-direction: column; height: 100%; }
body:has(&) .fields .container > input, body:has(&) .fields .container > .wrap { flex: none; margin-top: auto; }
body:has(&) input[role=combobox] { text-overflow: ellipsis; padding-inline-end: 1.5em; }
body:has(&) .code textarea { font-family: var(--font-mono); font-size: var(--text-sm); }
"""
)

MEASURING = (
    "“Measure a step” runs three steps of exactly this and keeps nothing but their time and memory, from which the "
    "time below is worked out."
)
THROUGH = "“Look through all rows” names those that would be left out, with the reason, and finds the longest."
LEGEND: Mapping[Part, str] = {
    "context": "read, not trained on",
    "raised": "trained on: made likelier",
    "lowered": "trained on: made less likely",
    "scored": "the token whose state gives the score",
    "virtual": "virtual tokens, which are what is trained",
}
PAIRS_SENTENCE = (
    "A comparison gives a pair for every two of its answers of which one is found better. What several annotators say "
    "of them is one pair, the surer the more they agree."
)


# ---------------------------------------------------------------------------------------------------------------- data
def data_card(data: TrainingData, spec: TrainingSpec) -> str:
    """What a run would learn from, and what of the judgements is left out and why."""
    unit, found, items = spec.items, data.found, data.items
    numbers = [("Parent", found.parent), (f"{unit.capitalize()} to train on", f"{items:,}")]
    if items != found.train:
        numbers.append(("Pairs in them", f"{found.train:,}"))
    if found.noise is not None and found.noise.share is not None:
        numbers.append(("Labelled wrong, estimated", share(found.noise.share)))
    if spec.unit != "prompts":
        held_out = unit if items == found.train else found.unit
        numbers.append((f"Held-out {held_out} to check with", f"{found.held_out:,}"))
    known = facts(numbers, "facts figures") + (paragraph(data.unchecked, "warning") if data.unchecked else "")
    if found.unit != "pairs":
        return known + (left_out_table(found.left_out, found.unit) if found.left_out else "")
    explained = paragraph(f"{PAIRS_SENTENCE} {noise_sentence(found.noise)}".strip(), "quiet")
    return known + explained + left_out_table(found.left_out)


def noise_sentence(noise: Noise | None) -> str:
    """What the estimate of how many pairs are labelled wrong rests on, or that there is none; empty without pairs."""
    if noise is None:
        return ""
    evidence = noise.evidence
    if noise.share is None:
        return (
            f"How many are labelled wrong is not known: of nobody who judged them are there {FEWEST_EVIDENCE} "
            "comparisons that others judged too, gold ones or ones asked again. Where a training goes by it, it "
            f"assumes {percent(1 - UNKNOWN_RELIABILITY)} after one annotator of whom nothing is known."
        )
    rest = noise.pairs - noise.measured
    others = f" for {noise.measured:,} of the {noise.pairs:,} pairs; too little is known of who judged the rest"
    return (
        f"How many are labelled wrong is estimated from {evidence.shared:,} judgements of comparisons that others "
        f"judged too, {evidence.known:,} of gold ones and {evidence.repeats:,} asked again{others if rest else ''}."
    )


def left_out_table(left_out: Mapping[str, int], unit: str = "pairs") -> str:
    """What is left out of the data, by reason; what is no judgement is of this unit."""
    rows = [
        (reason_text(reason, left_out), f"{count:,}", unit if reason in PAIR_REASONS else "judgements")
        for reason, count in sorted(left_out.items())
        if count
    ]
    return table(("Left out, because", "How many", "Of what"), rows, "Nothing is left out.", ("How many",))


def survey_card(found: DataSummary, spec: TrainingSpec) -> str:
    """All rows looked at: how long they are, and what is left out and why, with examples."""
    unit = spec.items
    answered = " with an answer at the limit" if spec.drawn_tokens() else ""
    numbers = [
        (f"{unit.capitalize()} to train on", f"{found.items['train']:,}"),
        *([] if spec.unit == "prompts" else [("Held-out", f"{found.items['held-out']:,}")]),
        (f"Tokens of the longest{answered}", f"{found.largest:,}"),
        (f"Tokens on average{answered}", f"{found.mean_tokens:.0f}"),
    ]
    some = f"Lengths, and what is left out for them, are those of the first {TOKENISED_ITEMS:,} of {found.seen:,}."
    rows = [
        (reason_text(reason, found.left_out), f"{count:,}", examples_of(found, reason))
        for reason, count in sorted(found.left_out.items())
        if count
    ]
    headers = ("Left out, because", "How many", "For example")
    return (
        facts(numbers, "facts figures")
        + (paragraph(some, "quiet") if found.seen > TOKENISED_ITEMS else "")
        + table(headers, rows, "Nothing is left out.", ("How many",))
    )


def examples_of(found: DataSummary, reason: str) -> str:
    """A few items that are left out for a reason, with how their questions begin."""
    return "; ".join(f"{name} (“{beginning(asked)}”)" for name, asked in found.examples.get(reason, []))


def beginning(text: str, length: int = 60) -> str:
    """The first words of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


# ------------------------------------------------------------------------------------------------------------ one item
def shown_card(shown: InspectedItem | None, spec: TrainingSpec, split: Split) -> str:
    """One item as it would be trained on: every token, with its part in the loss."""
    where = "to train on" if split == "train" else "held out"
    if shown is None:
        return notice(f"There are no {spec.items} {where}, so there is nothing to show.")
    headline = f"Row {shown.number:,} of {shown.total:,} {where} · {shown.item.name}"
    head = f'<p class="headline" role="status"><b>{escape(headline)}</b></p>'
    problem = "".join(paragraph(sentence, "warning") for sentence in left_out_sentences(shown))
    known = facts(shown.facts) if shown.facts else ""
    boxes = "".join(sequence_box(sequence) for sequence in shown.sequences)
    return head + problem + known + legend(shown.sequences) + boxes


def left_out_sentences(shown: InspectedItem) -> list[str]:
    """What of an item would be left out."""
    what = "Of this, left out" if shown.used else "This would be left out"
    return [f"{what}: {reason_text(reason, shown.left_out)} ({count})." for reason, count in shown.left_out.items()]


def legend(sequences: Sequence[TokenSequence]) -> str:
    """What the marks of tokens mean, for those that occur."""
    used = {span.part for sequence in sequences for span in sequence.spans if span.tokens}
    entries = "".join(
        f'<li><span class="key {part}">{escape(meaning)}</span></li>'
        for part, meaning in LEGEND.items()
        if part in used
    )
    return f'<ul class="legend">{entries}</ul>' if entries else ""


def sequence_box(sequence: TokenSequence) -> str:
    """One sequence, token by token."""
    trained = sum(span.tokens for span in sequence.spans if span.part in ("raised", "lowered"))
    counts = f"{sequence.tokens:,} tokens" + (f", {trained:,} of them trained on" if trained else "")
    label = f"{sequence.title} · {counts}"
    body = "".join(span_html(span) for span in sequence.spans)
    return (
        f'<p class="label">{escape(label)}</p>'
        f'<pre class="tokens" tabindex="0" role="group" aria-label="{escape(label)}">{body}</pre>'
    )


def span_html(span: TokenSpan) -> str:
    """Successive tokens, each in a box of its own, literally."""
    if span.part == "virtual":
        return f'<span class="virtual">[{span.tokens} virtual tokens]</span>'
    return "".join(
        f"<span{class_of(span.part)}{several(tokens)}>{escape(visible(text))}</span>" for text, tokens in span.pieces
    )


def several(tokens: int) -> str:
    """Says of a character that it takes several tokens."""
    return f' title="{tokens} tokens"' if tokens > 1 else ""


def visible(text: str) -> str:
    """A token's text with what can't be seen written out, ends of lines too."""
    return invisible.visible(text.replace("\n", "↵\n"))


# ------------------------------------------------------------------------------------------------------ memory and time
def cost_card(cost: CostEstimate) -> str:
    """What is trained, how long it takes, and its memory by component against what the machine has."""
    fit, machine, counted, pace = cost.fit, cost.machine, cost.counted, cost.pace
    numbers = [
        ("Trainable parameters", f"{counted.trainable:,} ({counted.percent:.3g}% of {counted.total:,})"),
        ("Memory, estimated", size(fit.total)),
        ("Free now", f"{size(machine.free)} of {size(machine.total)}"),
        ("Machine", machine.name),
    ]
    if pace is not None and pace.peak_rss_mb:
        numbers.append(("Peak of memory, measured", size(pace.peak_rss_mb * 1e6)))
    if fit.processes > 1:
        numbers.append(("Processes, each with all of it", str(fit.processes)))
    fits = paragraph(fit.sentence, "" if fit.fits else "warning") + paragraph(length_sentence(cost), "quiet")
    return facts(numbers, "facts costs") + paragraph(time_sentence(cost)) + fits + memory_table(fit, machine)


def length_sentence(cost: CostEstimate) -> str:
    """What length the rows are taken to have."""
    if cost.longest:
        return f"Estimated as if every row were as long as the longest, which has {cost.longest:,} tokens."
    return "Estimated as if every row were as long as max_length allows. Looking through all rows finds the longest."


def memory_table(fit: Fit, machine: Machine) -> str:
    """The components of a run's memory with a bar each, as long as their share of what is free."""
    rows = [(part.name, part.size * fit.processes, part.why) for part in fit.components]
    body = "".join(memory_row(name, amount, why, machine.free) for name, amount, why in rows)
    body += memory_row("Together", fit.total, "estimated; what is free is the whole bar", machine.free, "sum")
    head = '<tr><th>Part</th><th class="number">Memory</th><th>Of what is free</th><th>What it is</th></tr>'
    return f'<div class="scroll memory" tabindex="0"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def memory_row(name: str, amount: float, why: str, free: float, style: str = "") -> str:
    """One component."""
    part = amount / free if free else 1.0
    styles = " ".join(filter(None, (style, "over" if part > 1 else "")))
    bar = f'<div class="bar" title="{part:.0%} of what is free"><div style="width: {min(part, 1):.1%}"></div></div>'
    gigabytes = f"{amount / GB:.2f} GB"
    return (
        f'<tr{class_of(styles)}><td>{escape(name)}</td><td class="number">{gigabytes}</td><td>{bar}</td>'
        f"<td>{escape(why)}</td></tr>"
    )


def time_sentence(cost: CostEstimate) -> str:
    """How long a run would take, from a measured step."""
    pace, steps, waiting = cost.pace, cost.steps, cost.waiting
    if not steps:
        return "Time: none, because there is nothing to train on."
    named = f"{steps:,} {cost.unit if steps != 1 else cost.unit[:-1]}"
    queue = f" {waiting} {'job runs or waits' if waiting == 1 else 'jobs run or wait'} before it." if waiting else ""
    if pace is None:
        return f"Time: {named}. How long a step takes with these settings has not been measured yet.{queue}"
    when = f"{pace.seconds_per_step:.2g} s each, measured on {moment(pace.measured)} UTC by job {pace.job_id}"
    return f"Time: about {duration(pace.seconds_per_step * steps)} for {named} ({when}).{queue}"


# ------------------------------------------------------------------------------------------------------------ settings
def rate_note(spec: TrainingSpec) -> str:
    """The learning rate, and what else 0 stands for, with their sources; nothing where others were given."""
    said = []
    rate = spec.methods.get(spec.method)
    if not spec.learning_rate and rate is not None:
        method = SHORT_METHODS[spec.method]
        said.append(
            f"A learning rate of 0 means {short_number(rate.value)}, the default for {method} here ({rate.source})."
        )
    said += spec.default_notes()
    return "".join(paragraph(sentence, "quiet") for sentence in said)


def problem_box(sentences: Sequence[str]) -> str:
    """Why a run can't be started with these settings; nothing if it can."""
    if not sentences:
        return ""
    entries = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<div class="warning" role="status"><p>This can’t be run:</p><ul class="trouble">{entries}</ul></div>'


def command_text(spec: JobSpec, data_dir: Path) -> str:
    """The commands that run the very same spec without the page."""
    return (
        f"cat > spec.json <<'SPEC'\n{spec_text(spec)}\nSPEC\n"
        f"python -m rlhf --data {shlex.quote(str(data_dir))} run spec.json"
    )


def reward_intro(revision: str, result: Mapping[str, Any] | None) -> str:
    """What is known of a chosen reward model, where it has no health card."""
    if result is None:
        return notice(f"{revision} has no finished training here, so nothing is known of how good it is.")
    return notice(f"{revision} was not checked on held-out comparisons when it was trained.")
