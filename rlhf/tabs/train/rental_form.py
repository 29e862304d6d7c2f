"""Under a training's form: rent hardware for it. What it costs is said, and agreed to, before anything is rented."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.tabs.components import QUEUED, QUIET, asking_box, button, html_box, number_field, open_choice, text_in
from annotation.tabs.guard import Context, guarded
from annotation.translation import N_, _
from annotation.ui import formatting, markup
from annotation.ui.markup import paragraph, status
from rlhf.hub import hub_requests
from rlhf.hub.token_launcher import HELD
from rlhf.jobs import rental_store
from rlhf.jobs.rental_store import Terms

EXPLANATION = N_(
    "Runs this training on hardware that the Hub rents out by the minute (Hugging Face Jobs). Spec and data go there "
    "with the annotators' names, and what it makes comes back, through a private dataset that is deleted once nothing "
    "more can come; Prefloop's token goes along as a secret. The Runs tab shows how far it is."
)
NO_TOKEN = N_(
    "Nobody has a token for the Hub here, so nothing can be rented. Set HF_TOKEN to one that may write and "
    "start jobs, then start Prefloop again."
)
ASKING = N_("The Hub was asked: open the list again in a few seconds.")
Begin = Callable[..., tuple[int, Sequence[Any]]]


class RentalFormPage:
    def __init__(self, name: str) -> None:
        with gr.Accordion(_("On rented hardware"), open=False) as self.section:
            html_box(paragraph(_(EXPLANATION), "quiet"))
            if HELD not in os.environ:
                html_box(paragraph(_(NO_TOKEN), "warning"))
            with gr.Row():
                self.flavor = open_choice(
                    _("Hardware"),
                    info=_("As the Hub names it; the list is what it has told."),
                    min_width=220,
                    elem_id=f"{name}-flavor",
                )
                self.price = number_field(
                    label=_("Dollars an hour"),
                    info=_("Filled in from the list. If the Hub asks for more, nothing is rented."),
                    min_width=160,
                    elem_id=f"{name}-price",
                )
                self.hours = gr.Number(
                    1,
                    label=_("Hours at most"),
                    info=_("Then it is ended, with nothing kept. Installing takes the first few minutes."),
                    min_width=160,
                    elem_id=f"{name}-hours",
                )
                self.payer = gr.Textbox(
                    label=_("Who pays"),
                    info=_("An organisation's name on the Hub, or empty for whose token it is."),
                    max_length=96,
                    min_width=160,
                )
            with gr.Row():
                self.prices = button(_("Ask the Hub for its prices"))
                self.rent = button(_("Rent and train"), f"{name}-rent")
            self.told = html_box()  # what became of asking for prices
            self.question = asking_box()
            with gr.Row(visible=False) as self.answers:
                self.yes = button(_("Spend it"), f"{name}-spend", "primary")
                self.no = button(_("Don't"))
            self.said = html_box()
        self.agreed = gr.State(None)


def choices(db: Database) -> list[tuple[str, str]]:
    """What the Hub rents, cheapest first, as it said last."""
    known = sorted(hub_requests.prices(db), key=lambda one: one.price_per_hour)
    said, dollars = _("{label} ({name}): {dollars} an hour"), formatting.dollars
    return [
        (said.format(label=one.label, name=one.name, dollars=dollars(one.price_per_hour)), one.name) for one in known
    ]


def asking(db: Database) -> str:
    """What became of asking for prices; nothing where the list has them."""
    latest = hub_requests.REQUESTS.newest(db, "prices")
    if latest is None or latest.status == "finished":
        return ""
    if latest.is_open:
        return markup.notice(_(ASKING))
    told = hub_requests.REQUESTS.newest(db, "prices", status="finished")
    if told is None:
        return status(_("The Hub has told no prices. {why}").format(why=_(latest.message)), "warning")
    words = _("The Hub has told no new prices. These prices are of {when} UTC. {why}")
    return status(words.format(when=formatting.moment(told.finished), why=_(latest.message)), "warning")


def wire(
    asked: RentalFormPage, name: str, context: Context, sent: Sequence[Any], begin: Begin, after: Sequence[Any]
) -> None:
    """Answer what is done in the section.

    `begin(by, terms, *sent)` queues the job and returns its id, and what the components `after` are set to.
    """
    admin = guarded(context, "admin")
    question = [asked.question, asked.answers, asked.yes, asked.agreed]

    def no_question() -> list[Any]:
        return ["", gr.update(visible=False), gr.skip(), None]

    def opened() -> list[Any]:
        return [gr.update(choices=choices(context.db)), asking(context.db)]

    def chosen(flavor: Any) -> list[Any]:
        told = {one.name: one.price_per_hour for one in hub_requests.prices(context.db)}
        return [told.get(text_in(flavor), gr.skip()), *no_question()]

    def ask_prices(annotator: Annotator) -> str:
        if HELD not in os.environ:
            raise UserError(_(NO_TOKEN))
        hub_requests.REQUESTS.enqueue(context.db, hub_requests.AskPrices(), annotator.name)
        return markup.notice(_(ASKING))

    def ask(flavor: Any, price: Any, hours: Any, payer: Any) -> list[Any]:
        if HELD not in os.environ:
            raise UserError(_(NO_TOKEN))
        terms = rental_store.checked_terms(flavor, price, hours, text_in(payer))
        question = _("{terms} It is billed by the minute while it runs. Go ahead?").format(terms=terms.sentence)
        spend = _("Spend up to {most_dollars}").format(most_dollars=formatting.most_dollars(terms.most))
        return [status(question, "warning"), gr.update(visible=True), gr.update(value=spend), asdict(terms), ""]

    def spend(annotator: Annotator, agreed: Any, *values: Any) -> list[Any]:
        job_id, then = begin(annotator.name, agreed_terms(agreed), *values)
        said = markup.notice(
            _("Job {job_id} is for rented hardware. It is sent there within seconds.").format(job_id=job_id)
        )
        return [*no_question(), said, *then]

    for handler, verb in ((opened, "list"), (chosen, "price"), (ask_prices, "ask_prices"), (ask, "ask_to_rent")):
        handler.__name__ = f"{verb}_{name}"
    no_question.__name__, spend.__name__ = f"refuse_to_rent_{name}", f"rent_{name}"
    asked.section.expand(admin(opened), None, [asked.flavor, asked.told], **QUIET)
    asked.flavor.focus(admin(opened), None, [asked.flavor, asked.told], **QUIET)
    asked.flavor.input(admin(chosen), asked.flavor, [asked.price, *question], **QUIET)
    asked.prices.click(admin(ask_prices), None, asked.told, **QUEUED)
    terms = [asked.flavor, asked.price, asked.hours, asked.payer]
    asked.rent.click(admin(ask), terms, [*question, asked.said], **QUEUED)
    asked.no.click(admin(no_question), None, question, **QUIET)
    asked.yes.click(admin(spend), [asked.agreed, *sent], [*question, asked.said, *after], **QUEUED)


def agreed_terms(agreed: Any) -> Terms:
    """The terms that were shown. Raises UserError where none were."""
    if not isinstance(agreed, Mapping):
        raise UserError(_("Nothing was agreed to yet. Press “Rent and train” and read what it costs first."))
    return Terms(**agreed)
