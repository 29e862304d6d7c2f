"""The Quality tab: how the labels stand, who is left out of training, gold comparisons, and what is to be settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.metrics import quality
from annotation.metrics.act_times import act_times
from annotation.metrics.agreement import ClearCase
from annotation.metrics.quality import QualityReport
from annotation.records import MAXIMUM_ANSWERS, Annotator, UserError, now
from annotation.store import project_store
from annotation.tabs import act_table, quality_report
from annotation.tabs.address import place_bar, told, visits
from annotation.tabs.components import QUEUED, Update, button, html_box, open_choice, row_number
from annotation.tabs.guard import Context, guarded
from annotation.translation import N_, _
from annotation.ui.formatting import clock
from annotation.ui.markup import heading, paragraph, status, unfold
from annotation.ui.tab_addresses import Place
from annotation.workbench import exclusions, gold, settling
from annotation.workbench.exclusions import MAXIMUM_REASON

NO_COMPARISON = N_("Choose a comparison first, or type its number.")
NO_GOLD = N_("Choose a gold comparison first, or type its number.")
CONSENSUS = N_("What its annotators agree on")
GOLD_EXPLANATION = N_(
    "A gold comparison has a known answer and looks like any other; annotators who have not seen it get it now and "
    "then (how often: Project tab). Judgements made before it became gold are still trained on; later ones only "
    "measure. It can be retired, handed out again, or made an ordinary one again; nothing is deleted."
)
SETTLE_EXPLANATION = N_(
    "Annotators contradict each other on these. “Settle the next one” gives you the one with the most "
    "disagreement on the Annotate tab, blind; what you hold now goes back. Your judgement then stands for "
    "the comparison; the others stay in the record."
)
EXCLUSION_EXPLANATION = N_(
    "Their judgements and flags leave training and agreement from now on; models trained before keep what "
    "they learned. Nothing is deleted, and you can take them back in."
)


# ------------------------------------------------------------------------------------------------ what the page shows
def parts_of(db: Database, figures: QualityReport) -> dict[str, Update]:
    project = project_store.project(db)
    known = any(one.evidence for one in figures.reliabilities.values())
    several, per_day = figures.over_time, figures.per_day
    over_time = quality_report.over_time(several, per_day) if several else quality_report.days_chart(per_day)
    shown = {
        "standing": quality_report.status_sentence(figures, project),
        "as_of": paragraph(_("As of {time} UTC").format(time=clock(now()))),
        "annotators": quality_report.annotators_table(figures) + quality_report.reliability_explained()
        if figures.annotators
        else "",
        "reliability": folded(_("Reliability as a chart"), known, quality_report.reliability_chart(figures)),
        "agreement": folded(_("Agreement"), figures.agreement, quality_report.agreement_table(figures.agreement)),
        "over_time": folded(_("Over time"), per_day, over_time),
        "acts": folded(_("Ways to judge"), figures.annotators, act_table.acts_table(act_times(db))),
        "biases": folded(
            _("Biases"),
            figures.position or figures.length,
            quality_report.bias_meters(figures.position, figures.length),
        ),
        "policies": folded(
            _("Policies"), figures.policies.comparisons, quality_report.policies_chart(figures.policies)
        ),
        "disputes": titled(
            _("To settle"),
            figures.disputes,
            unfold(_("How settling works"), paragraph(_(SETTLE_EXPLANATION)))
            + quality_report.disputes_table(figures.disputes),
        ),
        "golds": titled(
            _("Gold comparisons"), figures.golds, quality_report.gold_table(figures.golds, figures.gold_accuracy)
        ),
        "flagged": titled(_("Flagged"), figures.flagged, quality_report.flagged_table(figures.flagged, figures.flags)),
        "decisions": folded(_("Decisions"), figures.decisions, quality_report.decisions_table(figures.decisions)),
    }
    names = [one.name for one in figures.annotators]
    clear = [(clear_label(one), one.comparison_id) for one in figures.clear]
    golds = [(f"#{gold.comparison_id}", gold.comparison_id) for gold in figures.golds]
    return {
        **{name: gr.update(value=html) for name, html in shown.items()},
        "settle": gr.update(interactive=bool(figures.disputes), visible=bool(figures.disputes)),
        "annotator": gr.update(choices=names),
        "case": gr.update(choices=clear),
        "gold": gr.update(choices=golds),
    }


def titled(title: str, there: Sequence[Any] | int, inside: str) -> str:
    """A part of the page with its heading; nothing while there is nothing to say in it."""
    return f"{heading(title)}{inside}" if there else ""


def folded(title: str, there: Sequence[Any] | int, inside: str) -> str:
    """A part of the page that is shown when asked for; nothing while there is nothing to say in it."""
    return unfold(title, inside) if there else ""


def clear_label(found: ClearCase) -> str:
    """A comparison that would make good gold, without what a stranger wrote."""
    label = (
        _("#{number}: answer {best} for all {annotators}")
        if found.strength is None
        else _("#{number}: answer {best} for all {annotators}, strength {strength:.1f} of 3")
    )
    return label.format(
        number=found.comparison_id, best=found.best + 1, annotators=found.annotators, strength=found.strength
    )


def number_in(value: Any, otherwise: str) -> int:
    """The number of a chosen or typed comparison. Raises UserError that says `otherwise` if it is none."""
    number = row_number(str(value).split(":")[0])
    if number is None:
        raise UserError(otherwise)
    return number


ANSWER_NUMBERS = [str(number) for number in range(1, MAXIMUM_ANSWERS + 1)]


# ---------------------------------------------------------------------------------------------------------- the page
class QualityPage:
    """The tab's components; nothing of the rows is in them.

    `parts` follow the figures, `said` is what the buttons beside it did.
    """

    def __init__(self) -> None:
        parts: dict[str, Any] = {}
        said: dict[str, Any] = {}
        self.buttons: dict[str, gr.Button] = {}
        parts["standing"] = html_box(paragraph(_("Reading the judgements …")))
        with gr.Row(elem_classes=["beside"]):
            parts["as_of"] = html_box()
            self.buttons["refresh"] = button(_("Refresh"))

        parts["disputes"] = html_box()
        with gr.Row():
            parts["settle"] = button(_("Settle the next one"), variant="primary", interactive=False, visible=False)
        said["settle"] = html_box()

        for name in ("annotators", "reliability", "agreement", "biases"):
            parts[name] = html_box()
        with gr.Accordion(_("Leave someone out of training, or take them back in"), open=False):
            gr.Markdown(_(EXCLUSION_EXPLANATION))
            with gr.Row():
                parts["annotator"] = open_choice(_("Annotator"), min_width=160)
                self.reason = gr.Textbox(label=_("Reason"), max_length=MAXIMUM_REASON, scale=2, min_width=240)
            with gr.Row():
                self.buttons["leave_out"] = button(_("Leave out of training"), variant="stop")
                self.buttons["take_back"] = button(_("Take back in"))
            said["exclusion"] = html_box()

        parts["golds"] = html_box()
        with gr.Accordion(_("Make a comparison gold, or change one"), open=False) as self.gold_form:
            gr.Markdown(_(GOLD_EXPLANATION))
            with gr.Row():
                parts["case"] = open_choice(
                    _("Comparison"), info=_("Those on which all agree; or type a number."), min_width=240
                )
                answers = [(_("Answer {number}").format(number=number), number) for number in ANSWER_NUMBERS]
                self.best = gr.Dropdown(
                    [(_(CONSENSUS), CONSENSUS), *answers],
                    value=CONSENSUS,
                    label=_("Best answer"),
                    info=_("Known from now on."),
                    min_width=200,
                )
            with gr.Row():
                self.buttons["look"] = button(_("Look at it"))
                self.buttons["make"] = button(_("Make it gold"), variant="primary")
            said["make"] = html_box()
            self.view = html_box()
            parts["gold"] = open_choice(_("Gold comparison"), min_width=240)
            with gr.Row():
                self.buttons["retire"] = button(_("Retire"))
                self.buttons["reinstate"] = button(_("Hand out again"))
                self.buttons["release"] = button(_("No longer gold"), variant="stop")
            said["gold"] = html_box()

        parts["flagged"] = html_box()
        for name in ("over_time", "policies", "acts", "decisions"):
            parts[name] = html_box()
        self.parts, self.said, self.bar = parts, said, place_bar()

    @property
    def outputs(self) -> list[Any]:
        return [*self.parts.values(), *self.said.values()]

    def sent(self, db: Database, where: str, sentence: str) -> list[Any]:
        """The whole page as it stands now, with a sentence (HTML) beside the button that was pressed."""
        parts = parts_of(db, quality.report(db))
        return [*(parts[name] for name in self.parts), *(sentence if name == where else "" for name in self.said)]

    def sent_anew(self, db: Database, *said: Any) -> list[Any]:
        """The same without a press: what was `said` goes; a button may have said something since this was asked for."""
        parts = parts_of(db, quality.report(db))
        return [*(parts[name] for name in self.parts), *("" if before else gr.skip() for before in said)]


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay the tab out and wire it; every value comes from a guarded handler."""
    page = QualityPage()
    wire_views(page, context)
    wire_exclusion(page, context)
    wire_settling(page, context)
    wire_gold(page, context)


# Handlers are plain functions, which Gradio runs in threads of their own: figures keep no annotator waiting.
def wire_views(page: QualityPage, context: Context) -> None:
    """Fill the page when it is opened and on request; look at one comparison, which the address names."""

    def open_quality(place: Place, *said: Any) -> list[Any]:
        sent = page.sent_anew(context.db, *said)
        if not place.first:
            return [*sent, gr.skip(), gr.skip()]
        case = [*page.parts].index("case")
        sent[case] = {**sent[case], "value": place.first}
        return [*sent, case_at(context.db, place.first), gr.update(open=True)]

    @guarded(context, "admin")
    def refresh_quality(*said: Any) -> list[Any]:
        return page.sent_anew(context.db, *said)

    @guarded(context, "admin")
    def look_at_comparison(number: Any) -> list[Any]:
        comparison = number_in(number, _(NO_COMPARISON))
        view = quality_report.case_view(gold.review(context.db, comparison))
        return [view, told(Place((str(comparison),)))]

    said = [*page.said.values()]
    visits(page.bar, context, open_quality, said, [*page.outputs, page.view, page.gold_form], **QUEUED)
    page.buttons["refresh"].click(refresh_quality, said, page.outputs, **QUEUED)
    page.buttons["look"].click(look_at_comparison, page.parts["case"], [page.view, page.bar], **QUEUED)


def case_at(db: Database, number: str) -> str:
    """The comparison that an address names; or why there is none."""
    try:
        return quality_report.case_view(gold.review(db, number_in(number, _(NO_COMPARISON))))
    except UserError as error:
        return status(str(error), "warning")


def wire_exclusion(page: QualityPage, context: Context) -> None:
    db = context.db

    @guarded(context, "admin")
    def leave_out_annotator(annotator: Annotator, name: Any, reason: Any) -> list[Any]:
        exclusions.leave_out(db, str(name or ""), str(reason or ""), annotator.name)
        return page.sent(db, "exclusion", status(_("{name} is left out of training from now on.").format(name=name)))

    @guarded(context, "admin")
    def take_annotator_back(annotator: Annotator, name: Any, reason: Any) -> list[Any]:
        exclusions.take_back(db, str(name or ""), str(reason or ""), annotator.name)
        return page.sent(db, "exclusion", status(_("{name} counts in training again.").format(name=name)))

    for name, handler in (("leave_out", leave_out_annotator), ("take_back", take_annotator_back)):
        page.buttons[name].click(handler, [page.parts["annotator"], page.reason], page.outputs, **QUEUED)


def wire_settling(page: QualityPage, context: Context) -> None:
    @guarded(context, "admin")
    def settle_next_comparison(annotator: Annotator) -> list[Any]:
        claim = settling.settle_next(context.db, annotator.id)
        return page.sent(context.db, "settle", quality_report.in_hand(claim.comparison_id))

    page.parts["settle"].click(settle_next_comparison, None, page.outputs, **QUEUED)


def wire_gold(page: QualityPage, context: Context) -> None:
    """Make comparisons gold, retire them, hand them out again, and make them ordinary ones."""
    db = context.db

    @guarded(context, "admin")
    def make_comparison_gold(annotator: Annotator, number: Any, best: Any) -> list[Any]:
        comparison = number_in(number, _(NO_COMPARISON))
        position = int(best) - 1 if best in ANSWER_NUMBERS else None  # that of the consensus
        known = gold.make_gold(db, comparison, position, annotator.name)
        said = _("Comparison {comparison} is gold now: answer {known} is the known one.")
        return page.sent(db, "make", status(said.format(comparison=comparison, known=known + 1)))

    def change_gold(act: str, annotator: Annotator, number: Any) -> list[Any]:
        comparison, (decide, said) = number_in(number, _(NO_GOLD)), GOLD_CHANGES[act]
        decide(db, comparison, annotator.name)
        return page.sent(db, "gold", status(_(said).format(comparison=comparison)))

    page.buttons["make"].click(make_comparison_gold, [page.parts["case"], page.best], page.outputs, **QUEUED)
    for act in GOLD_CHANGES:
        handler, name = guarded(context, "admin")(partial(change_gold, act)), f"{act}_gold_comparison"
        page.buttons[act].click(handler, page.parts["gold"], page.outputs, api_name=name, **QUEUED)


GOLD_CHANGES: Mapping[str, tuple[Callable[[Database, int, str], None], str]] = {
    "retire": (gold.retire_gold, N_("Comparison {comparison} is handed out to nobody any more.")),
    "reinstate": (gold.reinstate_gold, N_("Comparison {comparison} is handed out again.")),
    "release": (gold.release_gold, N_("Comparison {comparison} is an ordinary one again.")),
}
