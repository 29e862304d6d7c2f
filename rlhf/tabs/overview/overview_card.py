"""What the strip and the Overview tab say. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from annotation.claims.judged_counts import JudgedByOne
from annotation.metrics.intervals_and_bias import Estimate
from annotation.translation import N_, _, ngettext, numeral
from annotation.ui import charts
from annotation.ui.charts import interval_bar
from annotation.ui.formatting import moment, percent, percent_span
from annotation.ui.markup import Way, acts, card, cards, escape, paragraph, progress_bar, table, way, within
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.tabs.jobs.job_cards import left_words
from rlhf.tabs.jobs.job_words import about
from rlhf.tabs.overview.next_steps import NextStep, iteration

HOW_ENDED: Mapping[str, str] = {
    "finished": N_("Done"),
    "failed": N_("Failed"),
    "lost": N_("Lost"),
    "cancelled": N_("Cancelled"),
}


@dataclass(frozen=True)
class OverviewStatus:
    """Where things stand, as the strip and the Overview say it."""

    serves: str
    judged: int
    """New judgements since the last training."""
    wanted: int
    """How many start the next one, or are enough for it."""
    running: Job | None
    """What runs, else what is first in the queue."""
    left: float | None
    """Seconds until that ends, where it is known."""
    steps: tuple[NextStep, ...]
    offer: NextStep | None = None
    """What would teach more, which nothing waits for."""
    least: int = 0
    """How many a first training needs, where nothing was trained yet or is being trained."""
    elsewhere: str = ""
    """What is at work that is none of these jobs: an import, an export, an upload."""


def strip(status: OverviewStatus) -> str:
    """What stands above every page: where things stand, what would teach more, and the most pressing step."""
    told = _("{revision} serves")
    parts = [told.format(revision=status.serves), judged_words(status), running_words(status)]
    said = "".join(f"<span>{escape(part)}</span>" for part in parts)
    if status.offer is not None:
        said += within(Way(status.offer.address, status.offer.words))
    ways = "".join(map(way_to, status.steps[:1]))
    named = escape(_("Where things stand"))
    asks = "" if status.running is None else notify_buttons()
    return f'<section class="standing" aria-label="{named}"><p>{said}{asks}</p>{ways}</section>'


def way_to(step: NextStep) -> str:
    """A step as a button; as text where there is nothing to do."""
    return way(step.address, step.words) if step.address else f"<span>{escape(step.words)}</span>"


def notify_buttons() -> str:
    """Asks to be told of the end, or no more; the script of the strip shows the one that does something."""
    told = (("on", _("Notify me")), ("off", _("Don't notify me")))
    return "".join(f'<button type="button" data-notify="{on}" hidden>{escape(words)}</button>' for on, words in told)


def title_of(job: Job | None) -> str:
    """What runs and how far it is, for the title of the page."""
    if job is None or job.status == "queued":
        return ""
    kind = _("Job")
    if isinstance(job.spec, TrainingSpec):
        kind = _("Training")
    elif isinstance(job.spec, CheckSpec):
        kind = _("Check")
    elif isinstance(job.spec, JudgeSpec):
        kind = _("AI judge")
    return f"{kind} {100 * job.step // job.steps}%" if job.steps else f"{kind} …"


def ended_words(job: Job) -> str:
    """How a job ended and which, for the title of the page and for notifications."""
    return f"{_(HOW_ENDED[job.status])} · {about(job)}"


def judged_words(status: OverviewStatus) -> str:
    if status.judged > status.wanted:
        said = _("{judged:,} judged for the next training; {wanted:,} are enough")
    elif status.least:
        said = _("{judged:,} of {wanted:,} judged for the first training; possible from {least}")
    else:
        said = _("{judged:,} of {wanted:,} judged for the next training")
    return said.format(judged=status.judged, wanted=status.wanted, least=status.least)


def running_words(status: OverviewStatus) -> str:
    """What runs, how far it is and how long it will take."""
    job, left = status.running, status.left
    if job is None:
        return status.elsewhere or _("Nothing runs")
    done = f"{100 * job.step // job.steps}%" if job.steps else _("preparing")
    if job.status in ("queued", "cancelling"):
        done = _("waiting") if job.status == "queued" else _("stopping")
    if left is None:
        return _("{job}: {done}").format(job=about(job), done=done)
    return _("{job}: {done}, {left}").format(job=about(job), done=done, left=left_words(job, left))


def overview(status: OverviewStatus, candidates: str, record: str, today: str, latest: str) -> str:
    """Cards: what waits for the admin, whether the model gets better, what came in today, what runs."""
    offered = (status.offer,) if status.offer else ()
    steps = "".join(map(way_to, (*status.steps, *offered)))
    waits = acts(steps) or paragraph(_("Nothing waits for you."), "quiet")
    parts = (
        (_("Waits for you"), waits + judged_bar(status)),
        (_("Does the model get better?"), candidates + record),
        (_("Came in today"), today),
        (_("Runs"), running_part(status, latest)),
    )
    return cards(card(title, inside) for title, inside in parts)


def judged_bar(status: OverviewStatus) -> str:
    words = judged_words(status)
    share = min(100, 100 * status.judged // max(status.wanted, 1))
    return paragraph(words) + progress_bar(words, share)


def candidates(newest: str, headline: str, others: Sequence[tuple[str, str]], trained: bool = True) -> str:
    """The candidate that the rule looks at with what is said first of it, if any; of each other how it stands."""
    lines = "".join(f"<li>{within(Way(iteration(name), name))}: {escape(said)}</li>" for name, said in others)
    waiting = f'<ul class="points">{lines}</ul>' if others else ""
    if newest:
        return paragraph(_("The candidate {revision}:").format(revision=newest)) + headline + waiting
    none = _("No candidate waits for a decision.") if trained else _("Nothing has been trained yet.")
    return waiting or paragraph(none, "quiet")


def record_of(revision: str, rate: Estimate | None) -> str:
    """How often people prefer what serves to the base."""
    if rate is None:
        return paragraph(
            _("No comparison by people says yet how {revision} does against the base.").format(revision=revision),
            "quiet",
        )
    said = ngettext(
        "What serves, {revision}, against the base: preferred in {value} on {n} prompt ({span}).",
        "What serves, {revision}, against the base: preferred in {value} on {n} prompts ({span}).",
        rate.n,
    ).format(revision=revision, value=percent(rate.value), n=rate.n, span=percent_span(rate.low, rate.high))
    return paragraph(said) + interval_bar(rate, said, (_("worse"), _("even"), _("better")))


def course(rates: Sequence[tuple[str, Estimate]]) -> str:
    """How candidates that were decided on did, each by its name, oldest first."""
    if not rates:
        return ""
    said = _("How often people preferred each candidate to what served then, with 95% intervals.")
    frame = charts.Frame("overview-course", _("Candidates decided on, oldest first"), said)
    marks = [charts.share_mark(name, rate) for name, rate in rates]
    return charts.intervals(frame, marks, _("win rate"), 0.5)


def came_in(judged: Sequence[JudgedByOne], verdicts: int, imports: int) -> str:
    """Who has judged how much today, how much AI judges have, and how often something was imported."""
    by_judges = ngettext("AI judges: {count:,} judgement today.", "AI judges: {count:,} judgements today.", verdicts)
    brought = ngettext("{count} import today.", "{count} imports today.", imports)
    others = [said.format(count=count) for said, count in ((by_judges, verdicts), (brought, imports)) if count]
    return today_table(judged) + "".join(map(paragraph, others))


def today_table(judged: Sequence[JudgedByOne]) -> str:
    """Who has judged how much today; a sentence where nobody has."""
    if not judged:
        return paragraph(_("No person has judged anything today (UTC)."), "quiet")
    total = sum(one.count for one in judged)
    said = ngettext("People: {count:,} judgement today (UTC).", "People: {count:,} judgements today (UTC).", total)
    entries = [(one.name, numeral(one.count), moment(one.latest)[11:]) for one in judged]
    numbers = (_("Judged"), _("Last at"))
    return paragraph(said.format(count=total)) + table((_("Who"), *numbers), entries, "", numbers)


def running_part(status: OverviewStatus, latest: str) -> str:
    """What runs with its progress, else what ran last."""
    job = status.running
    words = running_words(status)
    if job is None:
        return paragraph(words) + (paragraph(latest, "quiet") if latest else "")
    if job.status == "queued":
        return paragraph(words)
    return paragraph(words) + progress_bar(words, 100 * job.step // job.steps if job.steps else None)
