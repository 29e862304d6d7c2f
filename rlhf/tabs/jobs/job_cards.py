"""What pages say of jobs, as pure functions: sentences, times, tables and cards from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from annotation.jobs.job_table import HEARD_WITHIN_SECONDS
from annotation.records import seconds_between, who
from annotation.translation import N_, _, joined, ngettext
from annotation.ui import differences
from annotation.ui.formatting import NOT_MEASURED, dollars, duration, moment, most_dollars
from annotation.ui.markup import (
    Explained,
    Row,
    Way,
    answers_to,
    class_of,
    escape,
    explained,
    facts,
    heading,
    label,
    log,
    or_empty,
    paragraph,
    progress_bar,
    status,
    table,
    unfold,
)
from annotation.ui.tab_addresses import Place, link
from rlhf.data.snapshots import SnapshotCounts
from rlhf.jobs.descriptions import HeldOutFigures
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job, SampleAnswer
from rlhf.jobs.rental_store import ENDED_THERE, Rental
from rlhf.jobs.run_labels import RunLabel
from rlhf.models.registry import PRECISION_WORDS, Policy
from rlhf.submission.form_fields import in_labels
from rlhf.tabs.jobs import job_words
from rlhf.tabs.jobs.job_words import SIZE_ON_DISK, STATUS_COLOURS, STATUS_WORDS

# An interval of so many times what a step takes otherwise, and of so many seconds, was not its steps' alone.
FAR: Final = 20
LONG: Final = 600
# A step under way for so many times what one takes says that something else is done than steps: samples, another try.
LATE: Final = 3
# The share of a job from which on the time since it began says how long the rest takes.
TOLD_FROM: Final = 0.1
# A worker that has said nothing for so long is said to be silent.
SILENT_SECONDS: Final = HEARD_WITHIN_SECONDS / 2
# Reasons that leave out pairs of a comparison's answers; the others leave out judgements.
PAIR_REASONS = ("tie", "identical", "too-long", "disagreement", "unreliable", "template")


# ----------------------------------------------------------------------------------------------------------- one job
def seconds_left(step_times: Sequence[tuple[int, str]], job: Job, at: str) -> float | None:
    """Time left from the pace of this attempt's steps; None where there is none to go by, or it is at a standstill.

    `step_times` are (step, time) of the events of this attempt. A first attempt without events (a check reports
    progress only) is judged by the time since it began, once a tenth is done: before, that is how long loading took.
    """
    if job.status != "running" or not job.steps or job.step >= job.steps or job.started is None:
        return None
    if silence(job, at) > SILENT_SECONDS:
        return None
    pace, left = pace_of(step_times), 0.0
    age = seconds_between(job.started, at)
    if pace is not None:
        last, last_time = step_times[-1]
        since = max(0.0, seconds_between(last_time, at))
        if since > LATE * pace:
            return None
        # A step that takes longer than the others is still one; of the last one nobody knows then.
        left = pace * (job.steps - last) - min(since, pace)
    elif not step_times and job.attempt == 1 and job.step >= job.steps * TOLD_FROM and age > 0:
        left = age / job.step * (job.steps - job.step)
    return left if round(left) else None


def silence(job: Job, at: str) -> float:
    """Seconds for which a job's worker has said nothing."""
    return seconds_between(job.heartbeat or at, at)


def pace_of(step_times: Sequence[tuple[int, str]]) -> float | None:
    """Seconds for a step; None while no step is known to have taken any.

    A long interval far from the others says nothing of steps: the machine slept in it, or its clock was set.
    """
    begun: dict[int, str] = {}
    for step, when in step_times:
        begun.setdefault(step, when)
    found = [(seconds_between(when, then), later - step) for (step, when), (later, then) in pairwise(begun.items())]
    forward = [(seconds, steps) for seconds, steps in found if seconds >= 0]
    far = FAR * median(seconds / steps for seconds, steps in forward) if forward else 0.0
    kept = [(seconds, steps) for seconds, steps in forward if seconds <= LONG or seconds / steps <= far]
    taken = sum(seconds for seconds, _steps in kept)
    return taken / sum(steps for _seconds, steps in kept) if taken else None


# How a job for rented hardware stands that does not run yet, or is to end.
RENTED: Mapping[str, str] = {
    "queued": N_("It is sent to the Hub, or looked for there, within seconds, if Prefloop has a token."),
    "cancelling": N_("Cancelling: the rented machine is given back."),
}


def headline(job: Job, at: str) -> str:
    if job.flavor is not None and job.status in RENTED:
        return f"{_(RENTED[job.status])} {job_words.message(job)}".strip()
    if job.status == "queued":
        said = _("Queued; it starts when it is first in the queue and its device is free. {message}")
        return said.format(message=job_words.message(job)).strip()
    if job.status == "running":
        silent = silence(job, at)
        if silent > SILENT_SECONDS:
            return _("Running, but the worker has said nothing for {duration}.").format(duration=duration(silent))
        return joined(_("Running."), job_words.message(job))
    if job.status == "cancelling":
        return _("Cancelling: it stops when what it is at is done, and can be resumed.")
    if job.status == "finished":
        taken = _("Finished in {duration}.") if job.attempt <= 1 else _("Finished; its last attempt took {duration}.")
        taken = taken.format(duration=duration(seconds_taken(job, at)))
        return joined(taken, early_end(job), setback(job))
    word = {"lost": _("Lost."), "failed": _("Failed."), "cancelled": _("Cancelled.")}[job.status]
    return joined(word, job_words.message(job))


def early_end(job: Job) -> str:
    """After which step a finished training was over, and why, where that was before the last of all it had data for."""
    if job.status != "finished" or not isinstance(job.spec, TrainingSpec):
        return ""
    done = FinishedTraining.of(job.result)
    if done.planned_steps is not None and job.step >= done.planned_steps:
        return ""
    why = job.spec.ended_early(done.final)
    return _("It ended after step {step}. {why}").format(step=job.step, why=why) if why else ""


def setback(job: Job) -> str:
    """What a finished training made worse, in a sentence; empty where it did not, or nobody measured."""
    if job.status != "finished" or not isinstance(job.spec, TrainingSpec):
        return ""
    return job.spec.setback(job.result)


def may_end_early(job: Job) -> bool:
    """Whether a training may be over before the step that is its last by its data."""
    return job.status != "finished" and isinstance(job.spec, TrainingSpec) and job.spec.ends_early()


def left_words(job: Job, left: float) -> str:
    words = _("at most about {duration} left") if may_end_early(job) else _("about {duration} left")
    return words.format(duration=duration(left))


def seconds_taken(job: Job, at: str) -> float:
    """How long the latest attempt has run."""
    return 0.0 if job.started is None else seconds_between(job.started, job.finished or at)


def progress_line(job: Job, left: float | None, at: str) -> str:
    """Percent, step, time so far and time left."""
    if job.status == "queued":
        waited = duration(seconds_between(job.created, at))
        if not job.attempt:
            return _("Waiting for {waited}.").format(waited=waited)
        # What it has saved may be of an earlier step.
        come = _("It waits to go on; it had come to step {step}.") if job.step else _("It waits to begin again.")
        return come.format(step=job.step)
    if not job.steps:
        preparing = _("Preparing for {duration}.").format(duration=duration(seconds_taken(job, at)))
        return preparing if job.status == "running" else ""
    at_most = may_end_early(job) and job.step < job.steps
    of = _("step {step} of at most {steps}") if at_most else _("step {step} of {steps}")
    pieces = [f"{100 * job.step // job.steps}%", of.format(step=job.step, steps=job.steps)]
    if job.status == "running":
        taken = _("{duration} so far") if job.attempt <= 1 else _("{duration} in this attempt so far")
        pieces.append(taken.format(duration=duration(seconds_taken(job, at))))
        if left is not None:
            pieces.append(left_words(job, left))
    return " · ".join(pieces)


def job_card(
    job: Job, left: float | None, made: Policy | None, at: str, retries: Sequence[str] = (), name: str = ""
) -> str:
    """One job's state in words, how far it is, what it has made, and what was made smaller for want of memory."""
    sentence = f"{headline(job, at)} {made_sentence(made)}".strip()
    worse = setback(job) or STATUS_COLOURS.get(job.status) == "bad"
    style = class_of(" ".join(("headline", *(["bad"] if worse else []))))
    said = f'<p{style} role="status"><b>{escape(name_of(job, name))}</b> {escape(sentence)}</p>'
    shrunk = "".join(paragraph(in_labels(retry, job.spec), "warning") for retry in retries if retry != job.message)
    if job.status == "finished":
        return said + shrunk
    bar = progress_bar(_("Progress of job {id}").format(id=job.id), 100 * job.step // job.steps if job.steps else 0)
    return said + shrunk + bar + paragraph(progress_line(job, left, at), "quiet")


def name_of(job: Job, name: str = "") -> str:
    """What a job is, as what is said of it begins, behind what people call it."""
    said = _("Job {number}, {about}.").format(number=job.id, about=job_words.about(job))
    return f"{name} · {said}" if name else said


def label_card(label: RunLabel) -> str:
    """What people have written about a run besides its name."""
    tags = paragraph(", ".join(label.tags), "quiet") if label.tags else ""
    return tags + (f"<pre>{escape(label.notes)}</pre>" if label.notes else "")


def made_sentence(made: Policy | None) -> str:
    """What came out of a job, and how that stands now."""
    if made is None:
        return ""
    if made.deleted:
        gone = _("It made {revision}, whose files were deleted on {day}.")
        return gone.format(revision=made.revision, day=made.deleted[:10])
    if made.kind == "reward-model":
        return _("It made the reward model {revision}.").format(revision=made.revision)
    return _("It made the policy {revision} ({status}).").format(revision=made.revision, status=made.status_word)


def job_facts(job: Job, data: SnapshotCounts, rental: Rental | None = None) -> str:
    """Who asked for a job and the settings that it runs with on `data`, its snapshot's counts, and where."""
    asked = [(_("Requested by"), who(job.requested_by))]
    asked += [(_("Attempt"), str(job.attempt))] if job.attempt > 1 else []
    asked += [] if rental is None else rental_facts(job, rental)
    return facts([*asked, *job_words.spec_facts(job.spec), *job_words.data_facts(job, data)]) + unfold(
        _("Every setting, as JSON"), log(job_words.spec_text(job.spec))
    )


def rental_facts(job: Job, rental: Rental) -> list[tuple[str, str]]:
    """The rented hardware of a job, what it has cost, and where it is watched on the Hub."""
    spent = _("about {spent} of at most {most}") if rental.hub_job else _("nothing yet")
    spent = spent.format(spent=dollars(rental.cost), most=most_dollars(rental.price_per_hour * rental.hours))
    if not rental.stage:
        rented = _("{hardware} at {price} an hour")
    elif rental.stage in ENDED_THERE:
        rented = _("{hardware} at {price} an hour, ended for {duration}")
    else:
        rented = _("{hardware} at {price} an hour, {stage} on the Hub for {duration}")
    price, taken = dollars(rental.price_per_hour), duration(rental.seconds)
    rented = rented.format(hardware=job.flavor, price=price, stage=rental.stage, duration=taken)
    where = [(_("On the Hub"), rental.url)] if rental.url else []
    return [(_("Rented"), rented), (_("Spent"), spent), *where]


def log_box(lines: Sequence[str]) -> str:
    text = escape("\n".join(lines)) if lines else _("The log is empty so far.")
    label = _("Log (times in UTC)")
    return f'<p class="label">{escape(label)}</p><pre class="log tail" tabindex="0"><span>{text}</span></pre>'


# -------------------------------------------------------------------------------------------------------- the queue
def queue_table(running: Sequence[Job], waiting: Sequence[Job], at: str, elsewhere: Sequence[Job] = ()) -> str:
    """Who waits for what, in the order in which it starts, behind what runs now; beside it what runs elsewhere.

    Nothing where nothing waits and one job runs at most, of which the page says more.
    """
    if not waiting and len(running) + len(elsewhere) < 2:
        return ""
    ordered = [(_("now"), job) for job in running]
    ordered += [(str(place), job) for place, job in enumerate(waiting, start=1)]
    ordered += [(_("rented"), job) for job in elsewhere]
    rows = [
        (
            order,
            str(job.id),
            Way(link("runs", Place((str(job.id),))), job_words.about(job)),
            who(job.requested_by),
            state(job, at),
        )
        for order, job in ordered
    ]
    return heading(_("Queue")) + table((_("Order"), _("Job"), _("What"), _("By"), _("State")), rows)


def state(job: Job, at: str) -> str:
    """How a job stands; one for rented hardware waits for nothing here but for somebody with a token."""
    if job.status != "queued":
        said = _("{status} for {duration}")
        return said.format(status=_(STATUS_WORDS[job.status]), duration=duration(seconds_taken(job, at)))
    if job.flavor is not None:
        return _("is sent within seconds, if Prefloop has a token for the Hub")
    return _("waits to go on") if job.attempt else _("since {created} UTC").format(created=moment(job.created))


# ------------------------------------------------------------------------------------------------------ after the run
SAMPLES = N_(
    "The same prompts, answered with the same random numbers at each of these steps. Marked: words that the answer "
    "before has not."
)


def samples_box(samples: Mapping[str, Mapping[int, SampleAnswer]]) -> str:
    """What a run answered to its fixed prompts: a row for each prompt, a box for each recorded step, literally."""
    if not samples:
        return ""
    rows = ""
    for prompt, by_step in samples.items():
        names = [_("step {step}").format(step=step) if step else _("before training") for step in by_step]
        answers = [*by_step.values()]
        first, *others = [one.answer for one in answers]
        shown = [escape(first), *(differences.marked(*two)[1] for two in pairwise((first, *others)))]
        boxes = [
            answer_box(name, inside, one.tokens, one.finish_reason, as_html=True)
            for name, inside, one in zip(names, shown, answers, strict=True)
        ]
        rows += answers_to(prompt, boxes, strip=True)
    title = explained(Explained(_("Sample answers"), _(SAMPLES)))
    return f'<div class="headline"><b>{title}</b></div>{rows}'


def answer_box(name: str, text: str, tokens: int, finish_reason: str, as_html: bool = False) -> str:
    """One answer, literally, with its length and whether it was cut off; `as_html`: the text is escaped already."""
    length = (
        ngettext(
            "{name} · {tokens} token, cut off at the limit", "{name} · {tokens} tokens, cut off at the limit", tokens
        )
        if finish_reason == "length"
        else ngettext("{name} · {tokens} token", "{name} · {tokens} tokens", tokens)
    )
    above = label(length.format(name=name, tokens=tokens))
    return f"{above}<pre>{or_empty(text if as_html else escape(text))}</pre>"


def outcome_card(job: Job, made: Policy | None, size_on_disk: str) -> str:
    """What a finished job measured and cost, and what its policy is made of."""
    if job.result is None:
        return ""
    done = FinishedTraining.of(job.result)
    entries = job_words.result_facts(done)
    if made is not None:
        entries = [*policy_facts(made, size_on_disk), *(one for one in entries if one[0] != _(SIZE_ON_DISK))]
    figures = job.spec.held_out if isinstance(job.spec, TrainingSpec) else None
    measured = "" if figures is None else held_out_table(figures, done)
    return (facts(entries) if entries else "") + measured


def held_out_table(figures: HeldOutFigures, done: FinishedTraining) -> str:
    """How well a training predicts held-out rows, before and after."""
    after, before = done.held_out, done.held_out_before
    if not after:
        return ""
    if not after.get("n"):
        return paragraph(_(figures.missing), "quiet")
    rows: list[Row] = []
    for one in figures.figures:
        values = (side.get(one.metric) for side in (before, after))
        written = (_(NOT_MEASURED) if value is None else one.write(value) for value in values)
        rows.append((Explained(_(one.label), _(one.reading)), *written))
    headers = (_(figures.title).format(n=after["n"]), _("Before"), _("After"))
    why = paragraph(_("Not scored before training: that would have cost over a tenth of it."), "quiet")
    return table(headers, rows, "", headers[1:]) + ("" if before else why)


ADAPTERS = {"lora": N_("LoRA adapter"), "prompt": N_("virtual tokens")}


def policy_facts(policy: Policy, size_on_disk: str) -> list[tuple[str, str]]:
    """What a policy or reward model is made of, and how large it is on disk."""
    precision = _(PRECISION_WORDS[policy.precision])
    if policy.form == "full":
        form = _("whole weights, {precision}").format(precision=precision)
    else:
        form = _("{adapters} on {precision} weights").format(adapters=_(ADAPTERS[policy.form]), precision=precision)
    return [(_("Form"), form), (_(SIZE_ON_DISK), size_on_disk)]


def delete_question(policy: Policy, size_on_disk: str) -> str:
    asked = _(
        "Delete {revision} with its files ({size_on_disk})? Its row, its figures and its curves stay; the "
        "weights can't be brought back."
    ).format(revision=policy.revision, size_on_disk=size_on_disk)
    if (policy.kind, policy.status) == ("policy", "candidate"):
        asked = joined(asked, _("It is no candidate any more then, and nobody is asked about it."))
    return status(asked, "warning")


def checkpoints_question(job: Job, size_on_disk: str) -> str:
    """What is asked before the checkpoints of a run that ended early are deleted."""
    asked = _(
        "Delete the checkpoints of job {id} ({size_on_disk})? Its row, its figures and its curves stay; "
        "resumed, it would begin anew."
    )
    return status(asked.format(id=job.id, size_on_disk=size_on_disk), "warning")
