"""The Playground tab: chat with up to four policies side by side, and let one of them answer a whole prompt set."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.records import Annotator, Sampling, UserError, now, seconds_between
from annotation.store import project_store
from annotation.tabs.address import place_bar, told, visits
from annotation.tabs.components import (
    COPYING,
    QUEUED,
    QUIET,
    Update,
    button,
    changes,
    copy_button,
    html_box,
    open_choice,
    text_in,
    whole_number,
)
from annotation.tabs.guard import Context, guarded
from annotation.tabs.polling import again, poll, pulse
from annotation.translation import N_, _, ngettext
from annotation.ui import markdown, markdown_process, markup
from annotation.ui.invisible import visible
from annotation.ui.markup import escape, label, paragraph, role_name
from annotation.ui.tab_addresses import Place
from rlhf.generation import playground_store
from rlhf.generation.playground_store import Chat
from rlhf.models import registry
from rlhf.models.registry import Policy
from rlhf.tabs.playground import prompt_set_form

# How often the page asks while answers are being written, and otherwise.
WRITING_SECONDS, RESTING_SECONDS = 0.25, 15
# Whoever waits longer than this is told what keeps the answer from coming.
PATIENCE_SECONDS = 3.0
FIRST = Sampling(max_new_tokens=256)
LITERAL, RENDERED = N_("Literal text"), N_("Rendered Markdown")
MODES = {LITERAL: False, RENDERED: True}
WHO_JUDGES = {
    "people": N_("It is in the annotators' queue."),
    "ai": N_("AI judges judge it, and people do not."),
    "mixed": N_("AI judges judge it first, and people where these can't label it or a lot is drawn."),
}


# ------------------------------------------------------------------------------------------------ what the page shows
def columns(asked: Sequence[Chat], rendered: bool, problem: str) -> str:
    """The conversations beside each other; `problem` is what keeps the answering worker from answering."""
    if not asked:
        return paragraph(
            _("Choose one or more policies and write a message. All of them answer it with the same seed.")
        )
    return f'<div class="talks">{"".join(column(chat, rendered, problem) for chat in asked)}</div>'


def column(chat: Chat, rendered: bool, problem: str) -> str:
    turns = [turn(message["role"], message["content"], rendered) for message in chat.messages]
    if chat.text:
        turns.append(turn("assistant", chat.text, rendered))
    style = "warning" if chat.state == "failed" else "quiet"
    return (
        f'<section class="talk" data-state="{chat.state}"><h2>{escape(chat.revision)}</h2>{"".join(turns)}'
        f"{paragraph(status_sentence(chat, problem), style)}</section>"
    )


def turn(role: str, text: str, rendered: bool) -> str:
    shown = markdown_process.to_html(text) if rendered else markdown.literal(visible(text))
    shown = shown.replace("<pre><code>", f"{copy_button()}<pre><code>")
    said = f'{label(role_name(role))}<div class="rendered" dir="auto">{shown}</div>'
    return f'<div class="turn {escape(role)}">{said}</div>'


ENDS = {"stop": "", "length": N_("cut off at the limit"), "stopped": N_("stopped")}


def status_sentence(chat: Chat, problem: str) -> str:
    """How an answer stands, with its tokens and the seconds to the first one as far as they are known."""
    if chat.state == "failed":
        return _(chat.message)
    if chat.state == "asked":
        return problem or _("Waits for its turn …")
    first = chat.first_token_seconds if chat.open or chat.tokens else None  # of one that shows as no text, nothing
    known = [] if first is None else [_("first token after {first:.2f} s").format(first=first)]
    if chat.open:
        word = _("Reads the conversation …") if first is None else _("Writes …")
        return " · ".join([_("Stopping …") if chat.state == "stopping" else word, *known])
    tokens = chat.tokens
    count = [] if tokens is None else [ngettext("{tokens} token", "{tokens} tokens", tokens).format(tokens=tokens)]
    return " · ".join(filter(None, [*count, *known, _(ENDS.get(chat.finish_reason or "", ""))]))


def problem_of(context: Context, asked: Sequence[Chat]) -> str:
    """What keeps answers from coming, once somebody has waited for one."""
    waiting = [chat for chat in asked if chat.state == "asked"]
    late = any(seconds_between(chat.created, now()) > PATIENCE_SECONDS for chat in waiting)
    return context.problem() if late and not any(chat.state == "writing" for chat in asked) else ""


def conversation(db: Database, annotator: Annotator, talk: Any) -> list[Chat]:
    """What this session talks about: its own last chats; for a page that is new, what this person asked last."""
    ids = talk.get("chats") if isinstance(talk, dict) else None
    return playground_store.latest(db, annotator.name) if ids is None else playground_store.with_ids(db, ids)


def view(context: Context, asked: Sequence[Chat], rendered: Any, seen: Any) -> tuple[dict[str, Update], dict[str, str]]:
    """The parts of the page that differ from what this session was sent last, and what it has now."""
    writing = any(chat.open for chat in asked)
    shown = columns(asked, MODES.get(text_in(rendered), False), problem_of(context, asked))
    parts = {
        "columns": gr.update(value=shown),
        "send": gr.update(interactive=not writing),
        "stop": gr.update(interactive=writing),
        "compare": gr.update(interactive=len(asked) > 1 and not writing),
        "files": gr.update(value=prompt_set_form.files_table(context)),
    }
    offered = prompt_set_form.choices(context.db)  # with how each stands now, whatever is chosen
    parts |= {name: gr.update(choices=offered) for name in OFFERING}
    changed, marks = changes(parts, seen if isinstance(seen, dict) else {})
    return {**changed, "pulse": gr.update(value=again(WRITING_SECONDS if writing else RESTING_SECONDS))}, marks


# ----------------------------------------------------------------------------------------------------- what is asked
def chosen(db: Database, revisions: Any) -> list[Policy]:
    """The chosen policies, each once. Raises UserError for none, too many, or one that can't answer."""
    names = [name for name in revisions if isinstance(name, str)] if isinstance(revisions, list) else []
    found = {policy.id: policy for policy in (registry.by_revision(db, name) for name in names)}
    if not 1 <= len(found) <= playground_store.COLUMNS:
        raise UserError(_("Choose one to {columns} policies.").format(columns=playground_store.COLUMNS))
    for policy in found.values():
        registry.require_answering(policy)
    return list(found.values())


def send(
    db: Database, annotator: Annotator, before: Sequence[Chat], form: Mapping[str, Any], message: Any
) -> tuple[list[int], int]:
    """Ask the chosen policies, each after its own conversation so far; returns the chats' ids and the seed.

    Raises UserError while answers are being written, and for a form that can't be meant.
    """
    asked = chosen(db, form["models"])
    if any(chat.open for chat in before):
        raise UserError(_("Wait until the answers are written, or stop them."))
    sampling = prompt_set_form.sampling_of(form)
    last = {chat.model_id: chat for chat in before}
    system, text = text_in(form["system"]), text_in(message)
    turns = {policy.id: playground_store.next_turn(last.get(policy.id), system, text) for policy in asked}
    seed = secrets.randbelow(playground_store.SEEDS) if form["fresh"] else prompt_set_form.seed_of(form)
    return playground_store.ask(db, turns, sampling, seed, annotator.name), seed


def form_of(db: Database, asked: Sequence[Chat]) -> dict[str, Any]:
    """The form as these chats were asked; as it is at first where there are none."""
    if not asked:
        return {"models": [registry.serving(db).revision]}
    there = {revision for _, revision in prompt_set_form.choices(db)}
    system = [message["content"] for message in asked[0].messages if message["role"] == "system"]
    return {
        "models": [chat.revision for chat in asked if chat.revision in there],
        "system": system[0] if system else "",
        "temperature": asked[0].sampling.temperature,
        "min_p": asked[0].sampling.min_p,
        "tokens": asked[0].sampling.max_new_tokens,
        "seed": asked[0].seed,
    }


# ---------------------------------------------------------------------------------------------------------- the page
FORM = ("models", "system", "temperature", "min_p", "tokens", "seed", "fresh")
OFFERING = ("models", "revision")
FOLLOWED = (*("columns", "send", "stop", "compare", "files"), *OFFERING, "pulse")


@dataclass(frozen=True)
class PlaygroundPage:
    """The tab's components. `talk` names the chats that are shown; `seen` is what this session was sent last.

    Apart, because a poll that is late must not bring an earlier conversation back.
    """

    parts: Mapping[str, Any]
    talk: gr.State
    seen: gr.State

    def some(self, names: Sequence[str]) -> list[Any]:
        return [self.parts[name] for name in names]

    @property
    def followed(self) -> list[Any]:
        return [*self.some(FOLLOWED), self.seen]

    @staticmethod
    def sent(changed: Mapping[str, Any], seen: Mapping[str, str]) -> list[Any]:
        """What goes to the browser: the changed parts, and nothing for the others."""
        return [*(changed.get(name, gr.skip()) for name in FOLLOWED), seen]


def lay_out() -> PlaygroundPage:
    parts: dict[str, Any] = {}
    parts["models"] = open_choice(
        _("Policies"), multiselect=True, max_choices=playground_store.COLUMNS, elem_id="chat-models"
    )
    with gr.Accordion(_("System prompt, sampling and seed"), open=False):
        parts["system"] = gr.Textbox(
            label=_("System prompt"), lines=2, max_lines=8, max_length=playground_store.MAXIMUM_MESSAGE
        )
        with gr.Row():
            parts["temperature"] = gr.Number(FIRST.temperature, label=_("Temperature"), step=0.1, min_width=120)
            parts["min_p"] = gr.Number(FIRST.min_p, label="min_p", step=0.05, min_width=120)
            parts["tokens"] = whole_number(_("Tokens at most"), FIRST.max_new_tokens, min_width=120)
            parts["seed"] = whole_number(_("Seed"), 0, min_width=120)
        parts["fresh"] = gr.Checkbox(True, label=_("New seed each time"))
    modes = [(_(name), name) for name in MODES]
    parts["mode"] = gr.Radio(
        modes, value=LITERAL, label=_("How answers are shown"), show_label=False, container=False, min_width=280
    )
    parts["columns"] = html_box(js_on_load=COPYING)
    with gr.Column(elem_id="chat-bar"):
        parts["message"] = gr.Textbox(
            label=_("Message"),
            info=_("Enter sends it, Shift and Enter make a new line."),
            lines=1,
            max_lines=10,
            max_length=playground_store.MAXIMUM_MESSAGE,
            elem_id="chat-message",
        )
        with gr.Row():
            parts["send"] = button(_("Send"), "chat-send", "primary")
            parts["stop"] = button(_("Stop"), "chat-stop", "stop")
            parts["new"] = button(_("New conversation"), "chat-new")
            parts["compare"] = button(_("Send to annotation"), "chat-compare")
        parts["said"] = html_box()
    parts |= prompt_set_form.lay_out()
    parts["pulse"] = pulse()
    return PlaygroundPage(parts, gr.State({}), gr.State({}))


def build(demo: gr.Blocks, context: Context) -> None:
    page = lay_out()
    wire_views(page, context)
    wire_talk(page, context)
    prompt_set_form.wire(page.parts, context)


def wire_views(page: PlaygroundPage, context: Context) -> None:
    """Fill the page with what its address names, and from then on send what changes."""
    db = context.db

    def open_playground(annotator: Annotator, place: Place, talk: Any, mode: Any) -> list[Any]:
        known = isinstance(talk, dict) and "chats" in talk  # then what is in the form stays
        asked = conversation(db, annotator, talk)
        form = {} if known else form_of(db, asked)
        # What is none of ours is refused as what is typed.
        if named := list(dict.fromkeys(filter(None, place.query.get("models", "").split(",")))):
            form = {**form, "models": named[: playground_store.COLUMNS]}
        updates = [gr.update(value=form[name]) if name in form else gr.skip() for name in FORM[1:]]
        changed, seen = view(context, asked, mode, {})
        if "models" in form:
            changed["models"] = {**changed["models"], "value": form["models"]}
        held = {"chats": [chat.id for chat in asked]}
        return [held, *updates, prompt_set_form.opened(context), *page.sent(changed, seen)]

    def poll_playground(annotator: Annotator, talk: Any, mode: Any, seen: Any) -> list[Any]:
        return page.sent(*view(context, conversation(db, annotator, talk), mode, seen))

    outputs = [page.talk, *page.some(FORM[1:]), page.parts["source"], *page.followed]
    inputs = [page.talk, page.parts["mode"], page.seen]
    bar = place_bar()
    visits(bar, context, open_playground, inputs[:2], outputs, api_name="playground-open")

    @guarded(context, "admin")
    def choose_models(revisions: Any) -> str:
        names = [name for name in revisions if isinstance(name, str)] if isinstance(revisions, list) else []
        return told(Place((), {"models": ",".join(names)}), step=False)

    @guarded(context, "admin")
    def refuse_unknown(revisions: Any) -> list[Any]:
        """Take what was typed and is no model out again: the component takes any text, and tells only of a change."""
        there = {revision for _, revision in prompt_set_form.choices(db)}
        names = revisions if isinstance(revisions, list) else []
        unknown = [name for name in names if name not in there]
        if not unknown:
            return [gr.skip(), gr.skip()]
        said = markup.notice(_("There is no model '{name}'. Choose one of the list.").format(name=unknown[0]))
        return [gr.update(value=[name for name in names if name in there]), said]

    models = page.parts["models"]
    models.input(choose_models, models, bar, api_name="playground-models", **QUIET)
    models.change(refuse_unknown, models, [models, page.parts["said"]], api_name="playground-unknown", **QUIET)
    poll(page.parts["pulse"], context, poll_playground, inputs, page.followed, api_name="playground-poll")
    redraw = guarded(context, "admin")(poll_playground)
    page.parts["mode"].input(redraw, inputs, page.followed, api_name="playground-mode", **QUIET)


def wire_talk(page: PlaygroundPage, context: Context) -> None:
    """Send a message, stop the answers, begin anew, and send the answers to annotation."""
    db = context.db

    @guarded(context, "admin")
    def send_message(annotator: Annotator, talk: Any, mode: Any, seen: Any, message: Any, *sent: Any) -> list[Any]:
        form = dict(zip(FORM, sent, strict=True))
        ids, seed = send(db, annotator, conversation(db, annotator, talk), form, message)
        shown = page.sent(*view(context, playground_store.with_ids(db, ids), mode, seen))
        return [{"chats": ids}, "", seed, "", *shown]

    @guarded(context, "admin")
    def stop_answers(annotator: Annotator, talk: Any, mode: Any, seen: Any) -> list[Any]:
        asked = conversation(db, annotator, talk)
        playground_store.stop(db, [chat.id for chat in asked])
        return page.sent(*view(context, conversation(db, annotator, talk), mode, seen))

    @guarded(context, "admin")
    def new_conversation(annotator: Annotator, talk: Any, mode: Any, seen: Any) -> list[Any]:
        playground_store.stop(
            db, [chat.id for chat in conversation(db, annotator, talk)]
        )  # nobody watches them any more
        return [{"chats": []}, "", *page.sent(*view(context, [], mode, seen))]

    @guarded(context, "admin")
    def compare_answers(annotator: Annotator, talk: Any) -> str:
        asked = conversation(db, annotator, talk)
        number, count = playground_store.compare(db, [chat.id for chat in asked])
        return markup.notice(
            _(
                "Comparison {number} was made of these {count} answers, shown blind. {who_judges} Their prompt joins "
                "those to train on, unless it is held out already."
            ).format(count=count, number=number, who_judges=_(WHO_JUDGES[project_store.feedback(db).mode]))
        )

    inputs = [page.talk, page.parts["mode"], page.seen]
    asked = [*inputs, page.parts["message"], *page.some(FORM)]
    after = [page.talk, *page.some(("message", "seed", "said")), *page.followed]
    page.parts["send"].click(send_message, asked, after, api_name="playground-send", **QUEUED)
    page.parts["message"].submit(send_message, asked, after, api_name="playground-enter", **QUEUED)
    page.parts["stop"].click(stop_answers, inputs, page.followed, api_name="playground-stop", **QUEUED)
    outputs = [page.talk, page.parts["said"], *page.followed]
    page.parts["new"].click(new_conversation, inputs, outputs, api_name="playground-new", **QUEUED)
    page.parts["compare"].click(compare_answers, page.talk, page.parts["said"], api_name="playground-compare", **QUEUED)
