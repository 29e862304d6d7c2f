"""The Overview tab, and the strip above all tabs, filled from the rows; their links lead to other tabs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from annotation.claims import judged_counts
from annotation.database import Database
from annotation.metrics.intervals_and_bias import Estimate
from annotation.records import Annotator, now
from annotation.store import data_sources
from annotation.tabs.components import QUIET, html_box, opening_of
from annotation.tabs.guard import Context, guarded
from annotation.tabs.polling import poll, pulse
from rlhf.evaluation import win_rates
from rlhf.evaluation.decisions import (
    asking_people,
    candidate_decision,
    candidate_findings,
    check_status,
    decision_cache,
)
from rlhf.jobs import job_store
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy
from rlhf.tabs.iterations import candidate_headline
from rlhf.tabs.iterations.candidate_headline import Headline
from rlhf.tabs.jobs import job_cards
from rlhf.tabs.overview import overview_card
from rlhf.tabs.overview.follow_endpoint import STRIP
from rlhf.tabs.overview.overview_status import overview_status

STRIP_SECONDS = 10
OVERVIEW_SECONDS = 5
# Candidates of which the Overview shows how they did.
COURSE = 8


def overview_of(db: Database, annotator_id: int) -> str:
    serving, base = registry.serving(db), registry.by_revision(db, "base")
    record, decided = "", course_of(db)
    if serving.id != base.id:
        record = overview_card.record_of(serving.revision, win_rates.by_people(db, serving, base))
    latest = job_store.recent(db, job_store.waiting_kinds(), 1)
    at = now()
    today = at[:10]
    return overview_card.overview(
        overview_status(db, annotator_id),
        candidates_part(db),
        # Of the first that was promoted the record says the same already.
        record + ("" if record and len(decided) == 1 else overview_card.course(decided)),
        overview_card.came_in(
            judged_counts.judged_by_each(db, today),
            judged_counts.judged_by_judges(db, today),
            data_sources.imports_since(db, today),
        ),
        f"{job_cards.name_of(latest[0])} {job_cards.headline(latest[0], at)}" if latest else "",
    )


def course_of(db: Database) -> list[tuple[str, Estimate]]:
    """How the latest candidates that were decided on did against what served then, as people have compared them."""

    def look() -> list[tuple[str, Estimate]]:
        policies = [one for one in registry.all_policies(db) if not one.undecided]
        decided = [(one, decision_store.decided_against(db, one)) for one in policies]
        rates = [(one.revision, win_rates.by_people(db, one, ground)) for one, ground in decided if ground is not None]
        return [(name, rate) for name, rate in rates if rate is not None]

    return decision_cache.cached(db, ("course",), look)[-COURSE:]


def candidates_part(db: Database) -> str:
    """What is said first of the candidate that the rule looks at, and what the others wait for, if there are any."""
    pending = candidate_decision.pending(db)
    newest = None if pending is None else pending.policy
    waiting = [one for one in reversed(registry.all_policies(db)) if one.undecided and one != newest]
    others = [(one.revision, candidate_status(db, one)) for one in waiting]
    if newest is None:
        return overview_card.candidates("", "", others, trained=registry.any_trained(db))
    headline = candidate_headline.headline_card(headline_on(db, newest))
    return overview_card.candidates(newest.revision, headline, others)


def candidate_status(db: Database, policy: Policy) -> str:
    """What comparisons say of a candidate that was checked against what serves, else how its check stands."""
    if candidate_findings.checks_of(db, policy):
        return headline_on(db, policy).saying
    return check_status.check_status(db, policy).sentence


def headline_on(db: Database, policy: Policy) -> Headline:
    found, decision = candidate_decision.decided(db, policy)
    against = candidate_findings.opponent(db, policy).revision
    return candidate_headline.headline_of(found, decision, against, asking_people.given_to_people(db))


# ---------------------------------------------------------------------------------------------------------- the page
SCRIPT = Path(__file__).with_name("strip.js").read_text(encoding="utf-8")


def build_strip() -> None:
    """Lay out the strip, which its script fills."""
    options: dict[str, Any] = {"elem_classes": ["kit"], "elem_id": "standing"}
    gr.HTML("", js_on_load=SCRIPT, named=STRIP, seconds=STRIP_SECONDS, **options)


def build(demo: gr.Blocks, context: Context) -> None:
    box = html_box(elem_id="overview")
    opening: Callable[..., Any] = opening_of(demo)

    def show_overview(annotator: Annotator) -> list[Any]:
        return [overview_of(context.db, annotator.id)]

    opening(guarded(context, "admin")(show_overview), None, [box], **QUIET)
    poll(pulse(OVERVIEW_SECONDS), context, show_overview, [], [box])
