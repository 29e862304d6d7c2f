"""The list of all runs: which of them a search finds, in which order, as a table with links. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from annotation.records import who
from annotation.translation import N_, _
from annotation.ui.formatting import NOTHING, duration, moment
from annotation.ui.markup import Cell, Chip, Way, paragraph, table
from annotation.ui.tab_addresses import Place, link
from rlhf.jobs.job_store import Job
from rlhf.jobs.run_labels import NONE, RunLabel
from rlhf.models.registry import Policy
from rlhf.tabs.jobs.job_cards import seconds_taken, setback
from rlhf.tabs.jobs.job_words import STATUS_COLOURS, STATUS_WORDS, about, message

LISTED: Final = 100
# The orders of the list, by their name in the address, and what they are called.
ORDERS: Final[Mapping[str, str]] = {
    "newest": N_("Newest first"),
    "oldest": N_("Oldest first"),
    "name": N_("By name"),
    "tags": N_("By tags"),
    "status": N_("By status"),
    "longest": N_("Longest first"),
}
NEWEST: Final = "newest"


@dataclass(frozen=True)
class Listed:
    job: Job
    label: RunLabel
    made: Policy | None
    """The policy or reward model that it made, if any."""
    seconds: float

    @property
    def name(self) -> str:
        return self.label.name or about(self.job)

    def words(self) -> str:
        label, job = self.label, self.job
        texts = (
            f"#{job.id}",
            about(job),
            _(STATUS_WORDS[job.status]),
            who(job.requested_by),
            "" if self.made is None else self.made.revision,
            label.name,
            *label.tags,
            label.notes,
        )
        return "\n".join(texts).casefold()


def listed(jobs: Sequence[Job], labels: Mapping[int, RunLabel], made: Mapping[int, Policy], at: str) -> list[Listed]:
    return [Listed(job, labels.get(job.id, NONE), made.get(job.id), seconds_taken(job, at)) for job in jobs]


KEYS: Mapping[str, Callable[[Listed], Any]] = {
    "newest": lambda run: -run.job.id,
    "oldest": lambda run: run.job.id,
    "name": lambda run: (run.name.casefold(), -run.job.id),
    "tags": lambda run: (not run.label.tags, [tag.casefold() for tag in run.label.tags], -run.job.id),
    "status": lambda run: (run.job.status, -run.job.id),
    "longest": lambda run: (-run.seconds, -run.job.id),
}


def found(runs: Sequence[Listed], search: str, order: str) -> list[Listed]:
    """The runs in which all words of a search stand, in an order; in no known one, the newest first."""
    words = search.casefold().split()
    return sorted(
        (run for run in runs if all(word in run.words() for word in words)), key=KEYS.get(order, KEYS[NEWEST])
    )


def runs_table(runs: Sequence[Listed], search: str) -> str:
    """The runs, each with the link to it; and that there are more where they are not all shown."""
    nothing = _("No run has these words.") if search.strip() else _("No job has been started yet.")
    took = _("Took")
    headers = ("#", _("Run"), _("Tags"), _("Status"), _("Made"), _("Started (UTC)"), took, _("By"), _("Message"))
    columns = zip(headers, *(row(run) for run in runs[:LISTED]), strict=True)
    said = [column for column in columns if any(cell != NOTHING for cell in column[1:])]
    head, *rows = zip(*said, strict=True) if said else [headers]
    shown = table(head, rows, nothing, (took,))
    return shown + paragraph(_("There are more: search for them."), "quiet") if len(runs) > LISTED else shown


def row(run: Listed) -> Sequence[Cell]:
    job, worse = run.job, setback(run.job)
    status = Chip(_(STATUS_WORDS[job.status]), "bad" if worse else STATUS_COLOURS.get(job.status, ""))
    made: Cell = NOTHING if run.made is None else run.made.revision
    if run.made is not None and run.made.kind == "policy":
        made = Way(link("iterations", Place((run.made.revision,))), run.made.revision)
    return (
        str(job.id),
        Way(f"{link('runs', Place((str(job.id),)))}#run-job", run.name),  # which is drawn below the list
        ", ".join(run.label.tags) or NOTHING,
        status,
        made,
        moment(job.started),
        NOTHING if job.is_open or job.started is None else duration(run.seconds),
        who(job.requested_by),
        message(job) or worse or NOTHING,
    )
