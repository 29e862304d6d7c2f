"""One run as a Markdown report: what it was asked, what it learnt from, how it went, what its check and people said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from annotation.database import Database
from annotation.records import now, who
from annotation.translation import _, joined, ngettext
from annotation.ui.formatting import moment
from annotation.ui.invisible import visible
from rlhf.data.snapshots import SnapshotCounts, snapshot_counts
from rlhf.evaluation import rule_store
from rlhf.evaluation.decisions import asking_people, candidate_decision, candidate_findings, check_status
from rlhf.evaluation.finished_checks import FinishedCheck, check_of, newest_check
from rlhf.jobs import job_store, run_labels
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.jobs.run_labels import RunLabel
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy
from rlhf.tabs.iterations import candidate_headline, check_report
from rlhf.tabs.jobs import job_cards, job_words
from rlhf.tabs.runs.compare_runs import RunSummary, figures


def report_of(db: Database, job: Job) -> str:
    made = registry.of_job(db, job.id)
    check = check_of(job) or (None if made is None else newest_check(db, made.revision))
    metrics = job_store.metrics(db, job.id)
    summary = RunSummary(job, metrics, None if made is None else made.revision, None if check is None else check.report)
    data = snapshot_counts(db, job.spec.snapshot) if isinstance(job.spec, TrainingSpec) else SnapshotCounts()
    subject = registry.by_revision(db, check.spec.candidate) if made is None and check is not None else made
    parts = [
        top(job, run_labels.label_of(db, job.id), made),
        section(_("Settings"), pairs(job_words.spec_facts(job.spec)), code(job_words.spec_text(job.spec))),
        section(_("Data"), pairs(job_words.data_facts(job, data))),
        section(_("Last values and costs"), pairs([*figures(summary).items()])),
        section(_("Check"), "" if check is None or subject is None else checked(db, subject, check)),
        section(_("Decisions"), "" if subject is None else decisions(db, subject)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def top(job: Job, label: RunLabel, made: Policy | None) -> str:
    at = now()
    missing = _("not yet") if job.is_open or job.status == "finished" else _("never")
    name = label.name or job_words.about(job)
    said = joined(job_cards.headline(job, at), job_cards.made_sentence(made))
    facts = [
        (_("Job"), f"{job.id}, {job_words.about(job)}"),
        *([(_("Tags"), ", ".join(label.tags))] if label.tags else []),
        (_("Requested by"), who(job.requested_by)),
        (_("Started (UTC)"), moment(job.started) if job.started else missing),
        (_("Ended (UTC)"), moment(job.finished) if job.finished else missing),
        (_("Attempt"), str(job.attempt)),
    ]
    return "\n\n".join(filter(None, (f"# {plain(name)}", plain(said), pairs(facts), quoted(label.notes))))


def checked(db: Database, subject: Policy, check: FinishedCheck) -> str:
    against = candidate_findings.opponent(db, subject).revision
    first = ""
    if subject.undecided:
        found, decision = candidate_decision.decided(db, subject)
        headline = candidate_headline.headline_of(found, decision, against, asking_people.given_to_people(db))
        if not candidate_findings.checks_of(db, subject):
            headline = candidate_headline.unchecked(headline, check_status.check_status(db, subject).sentence)
        first = joined(headline.saying, candidate_headline.score(headline), headline.then)
    sides = check_report.report_sides(check.report)
    head = [_("Figure"), *(name for name, _values in sides)]
    rows = [
        [_(one.label), *check_report.side_figures(one, check.report)] for one in check_report.figures_of(check.report)
    ]
    accuracy = [_("Accuracy on held-out judgements"), check_report.held_out_accuracy(check.report)]
    rows.append([*accuracy, *("" for _side in sides[1:])])
    rows += [[entry.name, *values] for entry, values in check_report.probe_rows(check.report, sides)]
    prompts = check.report.prompts
    asked = ngettext("Job {id}: {prompts} held-out prompt.", "Job {id}: {prompts} held-out prompts.", prompts)
    asked = asked.format(id=check.job_id, prompts=prompts)
    warned = [f"- {plain(sentence)}" for sentence in check_report.warnings(check.report, rule_store.rule(db))]
    return "\n\n".join(filter(None, (plain(first), asked, "\n".join(warned), grid(head, rows))))


def decisions(db: Database, policy: Policy) -> str:
    """Who decided what about a policy, or let another take its place, the newest first."""
    rows = [
        row
        for row in decision_store.decisions(db, 10_000)
        if policy.revision == row.revision or (policy.revision == row.previous and row.action in ("promote", "go-back"))
    ]
    head = [_("When (UTC)"), _("Decision"), _("Policy"), _("By"), _("Why")]
    said = [
        (
            moment(one.created),
            _(check_report.ACTIONS[one.action]),
            one.revision,
            who(one.decided_by),
            decision_store.why(one.reason),
        )
        for one in rows
    ]
    return grid(head, said)


def section(title: str, *parts: str) -> str:
    said = "\n\n".join(filter(None, parts))
    return f"## {title}\n\n{said}" if said else ""


def pairs(facts: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {plain(f'{name}: {value}')}" for name, value in facts)


def grid(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    first, *others = (f"| {' | '.join(plain(str(cell)) for cell in line)} |" for line in (head, *rows))
    return "\n".join((first, "| --- " * len(head) + "|", *others))


def code(text: str) -> str:
    """JSON as it is, behind a fence that is longer than any of its own."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}json\n{text.rstrip()}\n{fence}"


def quoted(text: str) -> str:
    lines = [*map(plain, text.splitlines()), ""]
    broken = (f"> {line}\\" if line and after else f"> {line}".rstrip() for line, after in pairwise(lines))
    return "\n".join(broken)


# What means something to a Markdown viewer: wherever it stands, and the beginning of an address, of which some make a
# link; and what does only at the beginning of a line.
ANYWHERE: Final = re.compile(r"[\\`*_\[\]|~#$]|:(?=//)|(?<=\bwww)\.")
AT_THE_BEGINNING: Final = re.compile(r"^(\d*(?=[.)](?:\s|$))|(?=[-+=>:]))")


def plain(text: str) -> str:
    """A text on one line, as the same text in any Markdown viewer, wherever it stands."""
    escaped = ANYWHERE.sub(r"\\\g<0>", visible(" ".join(text.split())))
    return AT_THE_BEGINNING.sub(r"\1\\", escaped).replace("&", "&amp;").replace("<", "&lt;")
