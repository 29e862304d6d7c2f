"""The Overview tab, and the strip above all tabs, filled from the rows; their links lead to other tabs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from annotation import claims
from annotation.database import Database
from annotation.records import Annotator, now
from annotation.tabs.components import QUIET, html_box, opening_of
from annotation.tabs.guard import Context, guarded
from annotation.tabs.polling import poll, pulse
from rlhf.evaluation import gate_decisions, win_rates
from rlhf.evaluation.gate import Findings
from rlhf.jobs import job_store
from rlhf.models import registry
from rlhf.tabs.iterations import verdict_card
from rlhf.tabs.overview import overview_card
from rlhf.tabs.overview.standing import STRIP, standing_of
from rlhf.tabs.runs import job_cards

STRIP_SECONDS = 10
OVERVIEW_SECONDS = 5


def overview_of(db: Database, annotator_id: int) -> str:
    """The Overview as it is now for this annotator."""
    serving, base = registry.serving(db), registry.by_revision(db, "base")
    rate = None if serving.id == base.id else win_rates.by_people(db, serving, base)
    latest = job_store.recent(db, job_store.waiting_kinds(), 1)
    at = now()
    return overview_card.overview(
        standing_of(db, annotator_id),
        verdict_of_pending(db),
        "" if serving.id == base.id else overview_card.record_of(serving.revision, rate),
        claims.judged_by_each(db, at[:10]),
        f"{job_cards.name_of(latest[0])} {job_cards.headline(latest[0], at)}" if latest else "",
    )


def verdict_of_pending(db: Database) -> str:
    """The verdict on the candidate that waits for a decision; without one, that there is none."""
    pending = gate_decisions.pending(db)
    if pending is None:
        return overview_card.no_candidate()
    found: Findings = gate_decisions.decided(db, pending.policy)[0]
    against = gate_decisions.opponent(db, pending.policy).revision
    verdict = verdict_card.verdict_of(found, pending.decision, against, gate_decisions.given_to_people(db))
    return overview_card.about_candidate(pending.policy.revision) + verdict_card.verdict_card(verdict)


# ---------------------------------------------------------------------------------------------------------- the page
SCRIPT = Path(__file__).with_name("strip.js").read_text(encoding="utf-8")


def build_strip() -> None:
    """Lay out the strip, which its script fills."""
    options: dict[str, Any] = {"elem_classes": ["kit"], "elem_id": "standing"}
    gr.HTML("", js_on_load=SCRIPT, named=STRIP, seconds=STRIP_SECONDS, **options)


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay the tab out inside the caller's `with gr.Tab(...)` and wire it."""
    box = html_box(elem_id="overview")
    opening: Callable[..., Any] = opening_of(demo)

    def show_overview(annotator: Annotator) -> list[Any]:
        return [overview_of(context.db, annotator.id)]

    opening(guarded(context, "admin")(show_overview), None, [box], **QUIET)
    poll(pulse(OVERVIEW_SECONDS), context, show_overview, [], [box])
