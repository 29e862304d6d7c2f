"""What an admin can do next to bring the loop on, most pressing first, each with the address where it is done. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from annotation.claims.backlog import Waiting
from annotation.metrics.act_times import MEASURED_ANSWERS, RicherAct
from annotation.records import Project
from annotation.translation import _, ngettext
from annotation.ui.tab_addresses import Place, link
from rlhf.jobs.job_store import Job
from rlhf.loop.controller import LoopState, candidate_of, checked_by_loop, due

# With fewer comparisons in stock people might have to wait for longer ones.
ENOUGH_STOCK = 12


@dataclass(frozen=True)
class NextStep:
    """Something to be done, as its link says it, and the address of the page where it is done; '' to wait for it."""

    words: str
    address: str


def run(job: Job) -> str:
    return link("runs", Place((str(job.id),)))


def iteration(revision: str) -> str:
    return link("iterations", Place((revision,)))


# Of the model's next answers: they are being written, nothing writes them, there is no prompt to answer, or they go to
# others.
Supply = Literal["coming", "unwritten", "lacking", "elsewhere"]


def next_steps(state: LoopState, waiting: Waiting, supply: Supply, hindered: bool = False) -> list[NextStep]:
    """Every step that can be done now; `waiting` for whom it is said. What has failed hides nothing that goes on.

    `hindered`: whether a training is due by itself and can't start.
    """
    judging = about_judgements(state, waiting.count, supply)
    stuck = [NextStep(_("See why no training starts"), "/iterations")] if hindered else []
    broken = [NextStep(_("See why job {number} ended").format(number=job.id), run(job)) for job in state.broken]
    return [*about_the_candidate(state, waiting), *stuck, *judging, *broken]


def about_the_candidate(state: LoopState, waiting: Waiting) -> list[NextStep]:
    to_check = state.unchecked or state.unasked
    if to_check and not state.measurable:
        return [NextStep(_("Import held-out prompts to check {revision}").format(revision=to_check), "/data/import")]
    ruled = about_the_pending(state, waiting)
    if state.unasked:
        return [NextStep(_("Check {revision}").format(revision=state.unasked), iteration(state.unasked)), *ruled]
    return ruled


def about_the_pending(state: LoopState, waiting: Waiting) -> list[NextStep]:
    """What the candidate waits for that the loop is at."""
    if state.unchecked and not state.active and not checked_by_loop(state, state.unchecked):
        return [NextStep(_("Check {revision} again").format(revision=state.unchecked), iteration(state.unchecked))]
    if state.pending is None:
        return []
    revision = state.pending.policy.revision
    in_check = any(candidate_of(job) == revision for job in state.active)
    decision = state.pending.decision
    decided = decision.says != "not enough evidence"
    unmeasured = not decided and decision.more is None
    exhausted = state.pending.exhausted and not state.pending.askable and state.gate != "automatic"
    if (exhausted or unmeasured) and not in_check:
        return [NextStep(_("Check {revision} again").format(revision=revision), iteration(revision))]
    unheard = decision.unheard and not in_check and not state.pending.askable
    if unheard or (decided and state.gate != "automatic"):
        return [NextStep(_("Decide on {revision}").format(revision=revision), iteration(revision))]
    if waiting.of_candidates.get(state.pending.policy.id):
        return [NextStep(_("Compare answers of {revision}").format(revision=revision), "/annotate")]
    if in_check:
        return []
    return [NextStep(_("Look at {revision}").format(revision=revision), iteration(revision))]


def about_judgements(state: LoopState, waiting: int, supply: Supply) -> list[NextStep]:
    """What the next training waits for, or that it can begin."""
    steps = []
    if state.new >= state.auto_train.wanted and not due(state) and not state.active and not state.rented:
        said = ngettext("Train on {count:,} new judgement", "Train on {count:,} new judgements", state.new)
        steps.append(NextStep(said.format(count=state.new), "/train"))
    if waiting:
        said = ngettext(
            "Judge: {count:,} comparison waits for you", "Judge: {count:,} comparisons wait for you", waiting
        )
        steps.append(NextStep(said.format(count=waiting), "/annotate"))
    if state.active:
        steps.append(NextStep(_("Watch job {number}").format(number=state.active[0].id), run(state.active[0])))
    elif not waiting:
        steps += of_supply(supply)
    return steps


def of_supply(supply: Supply) -> list[NextStep]:
    """Where more to judge comes from, with nothing to judge."""
    told = {
        "coming": NextStep(_("The next answers are on their way"), ""),
        "unwritten": NextStep(_("No answers are being written: see why"), "/iterations"),
        "lacking": NextStep(_("Import prompts or answers"), "/data/import"),
    }
    return [told[supply]] if supply in told else []


def richer_offer(project: Project, richer: RicherAct | None, stock: int) -> NextStep | None:
    """To let people rank instead of choosing one of two, where that teaches more and nobody would wait for it."""
    if project.kind != "pair" or richer is None or stock < ENOUGH_STOCK:
        return None
    said = (
        _("Ask for rankings of {answers}: in our benchmark one taught {times:.1f} times as much")
        if richer.by == "act"
        else _("Ask for rankings of {answers}: by our benchmark a minute teaches {times:.1f} times as much here")
    )
    return NextStep(said.format(answers=MEASURED_ANSWERS, times=richer.times), "/project")
