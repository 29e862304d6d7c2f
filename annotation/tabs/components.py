"""What the admin's tabs have in common: how listeners listen, a box for HTML, text from a field, when a tab opens."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gradio as gr
from gradio.blocks import Block

from annotation.exports.formats import LICENCES
from annotation.records import UserError
from annotation.translation import _
from annotation.ui.markup import escape, paragraph, status, unfold

# Listeners that never fail with a message for people: what follows a form, a pulse or the opening of a tab. Progress is
# shown on nothing, not only hidden: at each event the browser walks the whole page for every component that ever had
# progress to show, and all that is in it, so that a page whose tabs were all opened stands still.
QUIET: Mapping[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "show_progress_on": [],
    "api_visibility": "private",
}
# Buttons go through the queue: Gradio 6.31 shows no message for an error of a handler outside it.
QUEUED: Mapping[str, Any] = {**QUIET, "queue": True}
# Says which of two answers came later. Greater than before also after a restart, which open pages outlive.
ANSWERS = itertools.count(time.time_ns() // 1_000_000)
Update = dict[str, Any]
"""What a component is set to, as `gr.update` makes it."""
Seen = dict[str, Any]
"""What a browser session was sent last."""
Variant = Literal["primary", "secondary", "stop"]
# Digits of a row's number: SQLite could hold four more.
LONGEST_NUMBER = 15


def keep_signatures(kind: type[Block]) -> None:
    """Keep what the constructors of these components take: Gradio has it worked out twice for each that it makes."""
    constructor: Any = inspect.unwrap(kind.__init__)
    constructor.__signature__ = inspect.signature(constructor)
    for special in kind.__subclasses__():
        keep_signatures(special)


keep_signatures(Block)


def html_box(value: str = "", **options: Any) -> gr.HTML:
    """A box for HTML that is made here, by functions that escape whatever a person or a model wrote."""
    # The default template puts the value in as it is. "{{value}}" would evaluate `${…}` found in it as JavaScript.
    return gr.HTML(value=value, elem_classes=["kit"], **options)


# A button of `copy_button` copies what stands after it, or else before it.
COPYING = """
element.addEventListener("click", async (event) => {
  const copying = event.target.closest("button[data-copy]");
  if (!copying) return;
  const copied = copying.nextElementSibling ?? copying.previousElementSibling;
  try {
    await navigator.clipboard.writeText(copied.textContent); // which plain HTTP has not
    copying.textContent = copying.dataset.copy;
  } catch {
    getSelection().selectAllChildren(copied);
    copying.textContent = copying.dataset.select;
  }
});
"""


def copy_button() -> str:
    words, copied, selected = map(escape, (_("Copy"), _("Copied"), _("Not copied: copy what is selected")))
    return f'<button type="button" class="copy" data-copy="{copied}" data-select="{selected}">{words}</button>'


# Whoever does not see the page goes on from where the focus is, which falls to the page itself where the button that
# was pressed is drawn anew or can't be pressed for a moment: then it goes to what is said of the press, or a button.
ACTING = """
function lost() {
  const now = document.activeElement;
  if ([document.body, null, window.prefloop.pressed].includes(now) || now.disabled) return true;
  return now.checkVisibility?.() === false;
}
const PATIENCE_MS = 2000; // a button may be drawn anew after what is said of it
let changed = 0;
let waiting = false; // whether something was pressed here
function follow() {
  const said = element.querySelector("[role=status]");
  if (!(waiting || (said && SPEAKS))) return;
  if (!lost()) {
    if (performance.now() - changed < PATIENCE_MS) requestAnimationFrame(follow);
    else waiting = false; // the focus went on elsewhere
    return;
  }
  const within = said ?? element.querySelector("button:not(:disabled)") ?? element.querySelector("[tabindex]");
  const next = within ?? window.prefloop.before; // where the question came from that is gone
  if (!next?.isConnected) return;
  if (next === said) next.tabIndex = -1;
  waiting = false;
  next.focus();
}
// What a press says is put away by no answer that knew only what was said before it, however late that comes.
let [newest, kept] = [0, ""];
watch("value", () => {
  const number = Number(/^<!--([\\d.]+)-->/.exec(props.value)?.[1] ?? newest);
  if (number < newest) props.value = kept;
  else [newest, kept] = [number, props.value];
});
// A button that takes another's place can't have been read: a press meant for the one before must not count.
const UNREAD_MS = 1000;
let shown = []; // what stands at each place, and from when on it has been read
function rest() {
  const before = shown;
  shown = [...element.querySelectorAll("button[data-act]")].map((button, place) => {
    const what = `${button.dataset.act} ${button.dataset.subject}`;
    const known = before[place] ?? { what, read: 0 };
    const read = known.what === what ? known.read : performance.now() + UNREAD_MS;
    const unread = read - performance.now();
    if (unread > 0 && !button.ariaDisabled) {
      button.ariaDisabled = "true";
      setTimeout(() => { button.ariaDisabled = null; }, unread);
    }
    return { what, read };
  });
}
// What is said here and has the focus may hold no more: then the button before it is where to go on.
let at = null;
element.addEventListener("focusin", (event) => { at = event.target; });
element.addEventListener("focusout", ({ target }) => queueMicrotask(() => { if (target.isConnected) at = null; }));
function leave() {
  const gone = at && !at.isConnected;
  if (gone) at = null;
  if (!gone || !lost() || element.childElementCount) return;
  const panel = element.closest("[role=tabpanel]") ?? document.body;
  const there = [...panel.querySelectorAll("button:not(:disabled)")].filter((one) => one.checkVisibility());
  there.findLast((one) => one.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING)?.focus();
}
new MutationObserver(() => {
  changed = performance.now();
  rest();
  setTimeout(follow);
  requestAnimationFrame(leave);
}).observe(element, { childList: true, characterData: true, subtree: true });
element.addEventListener("click", (event) => {
  const pressed = event.target.closest("button[data-act]");
  if (!pressed || !element.contains(pressed) || pressed.disabled || pressed.ariaDisabled) return;
  pressed.disabled = waiting = true;
  [window.prefloop.before, window.prefloop.pressed] = [window.prefloop.pressed, pressed]; // of all boxes
  setTimeout(() => {
    pressed.disabled = false;
    const last = window.prefloop.pressed === pressed; // else what was pressed since, in any box, leads on
    if (last && pressed.isConnected && lost()) pressed.focus();
    waiting &&= document.activeElement === pressed; // else nobody is there to be led on by a late answer
    // Whoever leaves the button while it is there goes on elsewhere, after an act that has drawn nothing anew.
    const left = () => { waiting &&= document.activeElement === pressed || pressed.disabled || !pressed.isConnected; };
    pressed.addEventListener("blur", () => setTimeout(left), { once: true });
  }, 2000);
  trigger("act", { act: pressed.dataset.act, subject: pressed.dataset.subject });
});
"""


def acting_box(value: str = "", speaks: bool = False, **options: Any) -> gr.HTML:
    """A box as `html_box`, whose buttons (`markup.act_button`) raise its event `act`, with what is to be done to what.

    One component in place of a button for each row, which could not be as many as there are rows. What the browser says
    of it is unchecked, as always: the handler, `guarded_event`, checks it. `speaks`: it answers presses elsewhere as
    well, so that the focus may follow to it from there.
    """
    # Not as one of the box's properties: Gradio 6.31 forgets those where the box is laid out hidden.
    script = ACTING.replace("SPEAKS", str(speaks).lower())
    return html_box(value, js_on_load=script, **options)


# Whoever does not see the page hears what is asked: the focus stays on the button that asks, far from it.
ASKING = """
function look() {
  const said = element.querySelector("[role=status]");
  if (!said) return;
  said.tabIndex = -1;
  requestAnimationFrame(() => said.focus()); // the question may be about to be shown
}
new MutationObserver(look).observe(element, { childList: true, characterData: true, subtree: true });
look();
"""


def numbered(html: str, number: float) -> str:
    """A value for an acting box that tells what became of presses: one with a smaller number is not shown after it."""
    return f"<!--{number}-->{html}"


def asking_box() -> gr.HTML:
    """A box for a question that a button of Gradio's asks before it does something, as a `markup.status`."""
    return html_box(js_on_load=ASKING)


class Question:
    """What a page asks before it does something, hidden until then; `about` holds what was asked about, else None."""

    def __init__(self, yes: str, name: str) -> None:
        """Lay it out; `name` begins the names of its buttons."""
        with gr.Column(visible=False) as self.box:
            self.said = asking_box()
            with gr.Row():
                self.yes = button(yes, f"{name}-really", "stop")
                self.no = button(_("No"), f"{name}-not")
        self.about = gr.State(None)

    @property
    def parts(self) -> list[Any]:
        """The outputs of `asking` and of `unasked`."""
        return [self.box, self.said, self.about]


def asking(question: str, about: Any) -> list[Any]:
    """For the parts of a question: it is asked."""
    return [gr.update(visible=True), status(question, "warning"), about]


def unasked() -> list[Any]:
    """For the parts of a question: nothing is asked any more."""
    return [gr.update(visible=False), "", None]


def pressed(event: Any, acts: Mapping[str, Any]) -> tuple[Any, str]:
    """What one of `acts` a press asked for, and its subject. Raises UserError for anything else."""
    act, subject = (event.get("act"), event.get("subject")) if isinstance(event, dict) else (None, None)
    if not isinstance(act, str) or act not in acts or not isinstance(subject, str):
        raise UserError(_("That can't be done here; reload the page."))
    return acts[act], subject


def meanings(entries: Sequence[tuple[str, str]]) -> gr.HTML:
    """What fields mean, (label, sentence) each, for whoever asks: below them, folded."""
    said = "".join(f"<dt>{escape(label)}</dt><dd>{escape(sentence)}</dd>" for label, sentence in entries)
    return html_box(unfold(_("What these mean"), f'<dl class="meanings">{said}</dl>'))


def in_template(sentence: str) -> str:
    """A sentence as part of a template of Gradio's, which would run `${…}` and fill `{{…}}` in."""
    return re.sub(r"[`\\${}]", lambda found: f"&#{ord(found[0])};", escape(sentence))


def button(label: str, name: str | None = None, variant: Variant = "secondary", **options: Any) -> gr.Button:
    return gr.Button(label, variant=variant, elem_id=name, **options)


def open_choice(label: str, choices: Sequence[Any] = (), **options: Any) -> gr.Dropdown:
    """A choice of what the rows hold by then; what was chosen before a restart must be accepted after it."""
    return gr.Dropdown(list(choices), label=label, allow_custom_value=True, **options)


def licence_choice(**options: Any) -> gr.Dropdown:
    """A choice of a licence, which may also be typed, as the Hub names it."""
    named = [(_("Not chosen (the card says so)"), ""), *((name, name) for name in LICENCES)]
    return open_choice(_("Licence"), named, value="", min_width=240, **options)


def labelled(choices: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Choices of a field, marked with `N_`, with their labels as the page says them."""
    return [(_(label), value) for label, value in choices]


def text_in(value: Any) -> str:
    """What a field holds; nothing where the browser sent no text."""
    return value if isinstance(value, str) else ""


def row_number(value: Any) -> int | None:
    """The number of a row that was chosen or typed, '#' in front or not; None for what can be no row's number."""
    typed = str(value).strip().removeprefix("#")
    return int(typed) if typed.isascii() and typed.isdigit() and len(typed) <= LONGEST_NUMBER else None


def number_field(value: float | None = None, **options: Any) -> gr.Number:
    """A field for a number that may be left empty: where none is given, Gradio's page would show a 0, and send it."""
    field = gr.Number(value, **options)

    def config(cls: type[Block] | None = None) -> dict[str, Any]:
        return {**gr.Number.get_config(field, cls), "value": ""}

    def preprocess(payload: Any) -> Any:
        return None if payload == "" else gr.Number.preprocess(field, payload)

    # Not a class of its own, for which Gradio would write a file beside this one.
    if value is None:
        vars(field).update(get_config=config, preprocess=preprocess)
    return field


def whole_number(label: str, value: int | None = None, **options: Any) -> gr.Number:
    """A field for a whole number, which its handler must check: `annotation.validation.whole` says what is wrong.

    Asked to round or to bound what is sent, Gradio fails on infinity, NaN and text before any handler sees them.
    """
    return number_field(value, label=label, **options)


@dataclass(frozen=True)
class DraftedForm:
    """What one admin's form comes to, where another may have stored something since it was filled in."""

    values: Mapping[str, Any]
    """What is to be stored: what was changed here, and for the rest what is stored by now."""
    theirs: Sequence[str]
    """Labels of the fields that others have changed, and that stay as they have them."""
    both: Sequence[str]
    """Labels of the fields that were changed here and by others to something else: nothing is stored for these."""
    sent: Mapping[str, Any]
    """What this session knows from now on, so that the next press means it."""

    @property
    def refusal(self) -> str:
        """Why nothing is stored, as HTML; empty where it is to be."""
        said = _("Not saved: somebody has changed this meanwhile ({fields}). Save again to have yours instead.")
        return status(said.format(fields=", ".join(self.both)), "warning") if self.both else ""

    @property
    def remark(self) -> str:
        """What stays of others, as HTML."""
        said = _("What somebody else has changed meanwhile stays: {fields}.")
        return paragraph(said.format(fields=", ".join(self.theirs))) if self.theirs else ""


def drafted(sent: Any, here: Mapping[str, Any], holds: Mapping[str, Any], labels: Mapping[str, str]) -> DraftedForm:
    """A form's values `here` beside what this session was `sent` before and what `holds` by now, all by field.

    A field of which the session was sent nothing counts as changed here alone.
    """
    was = sent if isinstance(sent, dict) else {}
    other = [name for name in here if name in was and holds[name] != was[name] and holds[name] != here[name]]
    both = [name for name in other if here[name] != was[name]]
    theirs = [name for name in other if name not in both]
    return DraftedForm(
        values={**here, **{name: holds[name] for name in theirs}},
        theirs=[labels[name] for name in theirs],
        both=[labels[name] for name in both],
        sent={**was, **{name: holds[name] for name in both}},
    )


def undrafted(was: Mapping[str, Any], here: Mapping[str, Any], holds: Mapping[str, Any]) -> dict[str, Any]:
    """What a form `holds` by now in the fields of which no draft was begun: those stand as this session `was` sent."""
    return {name: value for name, value in holds.items() if name not in was or here[name] == was[name]}


def changes(parts: Mapping[str, Any], seen: Mapping[str, Any]) -> tuple[dict[str, Any], Seen]:
    """The parts of a page that differ from what a browser session was sent last, and a short mark of each part.

    With the marks goes what the session's `notices` rest on: the one dict of all answers, however late they come.
    """
    marks: Seen = {
        name: hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()[:16]
        for name, part in parts.items()
    }
    changed = {name: part for name, part in parts.items() if seen.get(name) != marks[name]}
    return changed, {**marks, "notices": seen.get("notices", {})}


@dataclass(frozen=True)
class FollowedPage:
    """A page of which a browser session is sent what has changed: `parts` by name follow the rows."""

    # Parts in which a button says what it did, which holds while what was seen by this name stays as it is.
    notices: ClassVar[Mapping[str, str]] = {}

    parts: Mapping[str, Any]
    seen: gr.State
    """What this session was sent last."""

    @staticmethod
    def held(was: Any) -> dict[str, Any]:
        """The number of each notice and what stood then: a handler that polls asks before it looks, for `overtaken`."""
        return dict(was.get("notices", {})) if isinstance(was, dict) else {}

    def overtaken(self, held: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
        """The notices emptied that hold no more, here or in another tab; what was said since stays."""
        there = {part: held[part] for part in self.notices.keys() & held.keys()}
        gone = {part: number for part, (number, stood) in there.items() if stood != seen[self.notices[part]]}
        return {part: gr.update(value=numbered("", number + 0.5)) for part, number in gone.items()}

    @staticmethod
    def asked_since(held: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
        """Whether a question was asked or answered while a handler that polls has looked, which knows nothing of it."""
        return bool(held.get("confirming") != seen["notices"].get("confirming"))

    @property
    def followed(self) -> list[Any]:
        """The outputs of every handler that redraws what changed."""
        return [*self.parts.values(), self.seen]

    def sent(self, changed: Mapping[str, Any], seen: Mapping[str, Any]) -> list[Any]:
        """What goes to the browser: the changed parts, and nothing for the others; with a notice what stands then."""
        told = dict(changed)
        if "confirming" in seen:
            seen["notices"]["confirming"] = seen["confirming"]
        for part in self.notices.keys() & changed.keys():
            if isinstance(changed[part], str):
                told[part] = numbered(changed[part], number := next(ANSWERS))
                if changed[part]:
                    seen["notices"][part] = number, seen[self.notices[part]]
        return [*(told.get(name, gr.skip()) for name in self.parts), seen]


def opening_of(demo: gr.Blocks) -> Callable[..., Any]:
    """Listens to the opening of the tab that is being laid out, however deep; without a tab, of the page."""
    block = gr.context.Context.block
    while block is not None and not isinstance(block, gr.Tab):
        block = block.parent
    opening: Callable[..., Any] = demo.load if block is None else block.select
    return opening
