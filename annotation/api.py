"""The JSON endpoints of the annotators' page: one comparison in, one judgement out, nothing of gradio in between.

The page's own script calls them, so that a failed request is noticed where it happens and a judgement costs one small
request. Who asks comes from the session (`annotation.web.middleware.SignedIn`), never from the request.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any
from weakref import WeakValueDictionary

from annotated_types import Interval
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from annotation.claims import backlog, changing, handing_out, judged_counts, judging, own_judgements, own_prompts
from annotation.claims.own_judgements import OwnJudgement
from annotation.copies import safe_copies
from annotation.database import Database, StorageError
from annotation.project import as_read, follows, reason_as_read
from annotation.records import MAXIMUM_EDIT, MAXIMUM_NOTE, Annotator, Claim, UserError, now, storable
from annotation.store import project_store
from annotation.translation import _, ngettext
from annotation.ui import markdown_process
from annotation.ui.differences import is_long, marked
from annotation.ui.formatting import cut, moment
from annotation.ui.invisible import visible
from annotation.validation import read
from annotation.web.middleware import ANNOTATOR_KEY, read_body
from annotation.workbench.own_agreement import own_agreement

Card = dict[str, Any]
MAXIMUM_BODY = 6 * (MAXIMUM_EDIT + MAXIMUM_NOTE)  # JSON may need six bytes for a character
# Values in a request; a judgement has some fifty. Each may be wrong, and what is wrong takes long to say.
MAXIMUM_VALUES = 1_000
MAXIMUM_PROMPT = 4_000
COUNT_SECONDS = 5.0
# One thread for all: judgements are written one at a time anyway, and many threads would mostly wait for the
# interpreter's lock (with fifty annotators at once they cost half as much again, and twice the 95th percentile).
API_THREAD = ThreadPoolExecutor(1, thread_name_prefix="annotation-api")
# An account's requests wait for each other before they wait for that thread, so a flood of them delays nobody else's.
TURNS: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
# And for what is rendered of one before, so that texts that take long leave others a process to render in.
RENDERING_TURNS: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
# These only wait for the processes that render, so that a text that takes long delays nobody's judgement.
RENDERING_THREADS = ThreadPoolExecutor(8, thread_name_prefix="rendering")
# Characters of a text in the list of one's own judgements.
SHORT = 300
# Of Markdown: a heading, code, a table, strong words, a formula; and of a list two lines, since one may be a dash.
MARKS = re.compile(r"^ {0,3}(?:#{1,6} \S|```|~~~|\|[^\n]*\|)|\*\*\S|`[^`\n]+`|\\\(|\\\[|\$\$", re.MULTILINE)
LIST_LINE = re.compile(r"^ {0,8}(?:[-*+]|\d{1,3}[.)]) +\S", re.MULTILINE)


RowNumber = Annotated[int, Interval(ge=1, le=2**63 - 1)]  # what SQLite can hold
Offset = Annotated[int, Interval(ge=-14 * 60, le=14 * 60)]


@dataclass(frozen=True)
class RequestBody:
    """What the page's script sends: an endpoint takes of it what it needs; what a judgement says, `sent_acts` reads."""

    nonce: str = ""
    id: RowNumber | None = None
    act: Any = None
    prompt: str = ""
    rendered: bool | None = None
    differences: bool = False
    utc_offset_minutes: Offset = 0

    @classmethod
    def of(cls, sent: Mapping[str, Any]) -> RequestBody:
        """What was sent. Raises UserError that names a field that is wrong, or unknown, as an older page's may be."""
        try:
            return read(cls, sent, _("The request"))
        except UserError as error:
            raise UserError(_("{problem} Reload the page.").format(problem=error)) from None

    @property
    def row(self) -> int:
        """The row that it is about. Raises UserError where it names none, or one that there can't be."""
        if self.id is None:
            raise UserError(_("The request names no '{key}'. Reload the page.").format(key="id"))
        return self.id


def no_problem() -> str:
    """What keeps new answers from coming, where nobody looks: nothing."""
    return ""


@dataclass
class AnnotationApi:
    """Where annotators work: each public method answers one endpoint `POST /annotate/NAME` with a card or a list."""

    db: Database
    problem: Callable[[], str] = no_problem
    """Says what keeps new answers from coming, empty while nothing does."""
    unsafe: str = ""
    """What is said where nothing is copied although this machine's disk may be lost."""
    copies: str = ""
    """The place of the safe copies; empty for none."""
    _counted: tuple[float, int] = field(default=(-COUNT_SECONDS, 0))

    def routes(self) -> list[Route]:
        cards = (self.card, self.judge, self.undo, self.revise, self.reopen, self.ask)
        handlers = (*cards, self.latest, self.guidelines, self.safety)
        return [Route(f"/annotate/{handler.__name__}", endpoint(handler), methods=["POST"]) for handler in handlers]

    def card(self, annotator: Annotator, asked: RequestBody) -> Card:
        """The comparison in this annotator's hands, or the next one; and why the one shown so far (`nonce`) is gone.

        `judged` is what stands for that one, where it has been judged (in another tab; or the answer got lost).
        """
        card = self.next_card(annotator, asked)
        if asked.nonce and asked.nonce != card["nonce"]:
            card["notice"] = f"{judging.why_gone(self.db, annotator.id, asked.nonce)} {card['notice']}".strip()
            card["judged"] = own_judgements.judged_meanwhile(self.db, annotator.id, asked.nonce)
        return card

    def judge(self, annotator: Annotator, asked: RequestBody) -> Card:
        """Record the judgement in `act` of the comparison shown under `nonce`, and give the next comparison.

        `saved` says whether it stands; if not, `notice` says why. `judged` is what stands for that comparison, read
        from its row: the page's words come from it, never from what was sent.
        """
        try:
            # One transaction for both: half the writing, and half the waiting for others who write.
            with self.db.transaction():
                made = judging.judge(self.db, annotator.id, asked.nonce, asked.act)
                claim = handing_out.claim_next(self.db, annotator.id)
        except judging.JudgementConflict as refused:
            return self.refused(annotator, asked, refused)
        except StorageError:
            raise
        except UserError as error:
            return {**self.next_card(annotator, asked, str(error)), "saved": False}
        return self.saved(annotator, asked, self.handed_out(annotator, asked, claim), made)

    def undo(self, annotator: Annotator, asked: RequestBody) -> Card:
        """Take back the latest judgement and show its comparison again, with what had been done (`undone`)."""
        try:
            with self.db.transaction():
                act = own_judgements.latest_act(self.db, annotator.id)
                claim = changing.undo(self.db, annotator.id, asked.nonce)
        except StorageError:
            raise
        except UserError as error:
            return self.next_card(annotator, asked, str(error))
        return {**self.handed_out(annotator, asked, claim, _("Undone. Judge it again.")), "undone": act}

    def reopen(self, annotator: Annotator, asked: RequestBody) -> Card:
        """The comparison of an own judgement `id`, with what was done, to change it."""
        claim, act = changing.reopen(self.db, annotator.id, asked.row)
        card = self.card_of(annotator, asked, claim, "")  # the page says that it is being changed
        return {**card, "nonce": "", "revising": {"id": asked.row, "act": act}}

    def revise(self, annotator: Annotator, asked: RequestBody) -> Card:
        """Replace the own judgement `id` by the one in `act`, and go back to the comparison in hand.

        `act` is about the answers as `nonce` showed them, if there is one. `saved` and `judged` as for `judge`.
        """
        try:
            made = changing.revise(self.db, annotator.id, asked.row, asked.act, asked.nonce)
        except judging.JudgementConflict as refused:
            return self.refused(annotator, asked, refused)
        card = self.next_card(annotator, asked, _("The earlier judgement is kept in the record."))
        return self.saved(annotator, asked, card, made)

    def latest(self, annotator: Annotator, asked: RequestBody) -> dict[str, Any]:
        """The latest judgements, or those before the one that the request names."""
        made, found = own_judgements.latest(self.db, annotator.id, asked.id), own_agreement(self.db, annotator.id)
        # How often others found the same answer best; nothing while there is too little to say so.
        agreement = {"shared": found.shared, "same": found.same} if found.shared else None
        return {"judgements": [listed(one) for one in made], "agreement": agreement}

    def ask(self, annotator: Annotator, asked: RequestBody) -> Card:
        """Have the annotator's own prompt answered before all others."""
        text = asked.prompt.strip()
        if not project_store.project(self.db).own_prompts:
            raise UserError(_("This project takes no prompts from annotators."))
        if not text or len(text) > MAXIMUM_PROMPT:
            said = _("Write a prompt of 1 to {maximum_prompt:,} characters.")
            raise UserError(said.format(maximum_prompt=MAXIMUM_PROMPT))
        if judged_counts.quota_reached(self.db, annotator.id):
            raise UserError(_("You have judged all that you were asked for, so its answers would not reach you."))
        comparison_id = own_prompts.ask(self.db, annotator.id, [{"role": "user", "content": text}])
        return self.next_card(annotator, asked, self.when_answered(comparison_id))

    def when_answered(self, comparison_id: int) -> str:
        """When a prompt of somebody's own is answered, as far as that is known."""
        problem, waiting = self.problem(), [number for number, _prompt in own_prompts.asked(self.db)]
        if self.db.value("SELECT state FROM comparison WHERE id = ?", (comparison_id,)) == "ready":
            return _("Your prompt is answered.")
        if problem:
            return _("Your prompt waits for its answers. {problem}").format(problem=problem)
        if comparison_id not in waiting:
            return _("Your prompt is being answered.")
        before = waiting.index(comparison_id)
        if not before:
            return _("Your prompt is answered next.")
        return ngettext(
            "Your prompt is answered after {count} other that was asked before.",
            "Your prompt is answered after {count} others that were asked before.",
            before,
        ).format(count=before)

    def guidelines(self, annotator: Annotator, asked: RequestBody) -> dict[str, Any]:
        latest, kind = project_store.guidelines(self.db), project_store.project(self.db).kind
        text = as_read(latest.text, kind)
        html = MarkdownSource(text) if text else ""
        return {"version": latest.version, "follow": follows(latest.text, kind), "html": html}

    def safety(self, annotator: Annotator, asked: RequestBody) -> dict[str, Any]:
        """How far the judgements are safe from the loss of this machine: a sentence, empty where no copies are made."""
        status = safe_copies.status(self.db, self.copies)
        if status is None:
            return {"text": _(self.unsafe), "trouble": bool(self.unsafe)}
        beginning = safe_copies.start_notice(self.db) if annotator.role == "admin" else ""
        said = safe_copies.sentence(status, now(), annotator.role)
        return {"text": f"{said} {beginning}".strip(), "trouble": bool(status.problem or beginning)}

    # ------------------------------------------------------------------------------------------------------- cards
    def saved(self, annotator: Annotator, asked: RequestBody, card: Card, judgement_id: int) -> Card:
        return {**card, "saved": True, "judged": self.stored(annotator, asked, judgement_id)}

    def refused(self, annotator: Annotator, asked: RequestBody, refusal: judging.JudgementConflict) -> Card:
        """A card that says that another judgement stands, and which: `revise` with its id changes it."""
        stands = self.stored(annotator, asked, refusal.stands)
        return {**self.next_card(annotator, asked, str(refusal)), "saved": False, "judged": stands}

    def stored(self, annotator: Annotator, asked: RequestBody, judgement_id: int) -> dict[str, Any]:
        """What a judgement says, in the terms of the screen that asks."""
        order = own_judgements.order_under(self.db, annotator.id, asked.nonce)
        return own_judgements.stored_act(self.db, judgement_id, order)

    def next_card(self, annotator: Annotator, asked: RequestBody, notice: str = "") -> Card:
        """The card of the comparison in hand or the next one, or one that says what is waited for."""
        return self.handed_out(annotator, asked, handing_out.claim_next(self.db, annotator.id), notice)

    def handed_out(self, annotator: Annotator, asked: RequestBody, claim: Claim | None, notice: str = "") -> Card:
        """The card of a comparison in hand, or one that says what is waited for."""
        if claim is not None and claim.purpose == "settle":
            notice = notice or _("To settle: annotators disagree on this comparison. Your judgement will stand for it.")
        return self.card_of(annotator, asked, claim, notice)

    def card_of(self, annotator: Annotator, asked: RequestBody, claim: Claim | None, notice: str) -> Card:
        """All that the browser gets: answers in the order shown and the nonce; nothing of ids, policies or purposes."""
        project, guidelines = project_store.project(self.db), project_store.guidelines(self.db)
        card: Card = {
            "me": annotator.name,
            "nonce": "",
            "notice": notice,
            "trouble": self.problem() if claim is None else "",
            "elsewhere": backlog.why_none(self.db, annotator.id) if claim is None else "",
            "by_judges": project_store.feedback(self.db).mode != "people",
            "tags": [{"key": tag.key, "label": tag.label, "name": reason_as_read(tag.label)} for tag in project.tags],
            "rendered": bool(project.rendered),
            "own_prompts": project.own_prompts,
            "asked": own_prompts.prompts_in_answer(self.db, annotator.id),
            "undo": own_judgements.latest_judgement(self.db, annotator.id) is not None,
            "unanswered": own_prompts.why_unanswered(self.db, annotator.id) if project.own_prompts else "",
            "guidelines_version": guidelines.version,
            "guidelines_follow": follows(guidelines.text, project.kind),
            "progress": self.progress(annotator, asked, project.daily_target),
            "revising": None,
        }
        if claim is not None:
            chosen = project.rendered if asked.rendered is None else asked.rendered
            rendered = has_marks(claim) if chosen is None else chosen
            card |= {"nonce": claim.nonce, "rendered": rendered, **comparison_part(claim, rendered)}
            if asked.differences and asked.nonce in ("", claim.nonce) and len(claim.shown) == 2:
                texts = [visible(answer.text) for answer in claim.shown]
                left, right = card["answers"]
                left["marked"], right["marked"] = marked(*texts)
                card["marked_in_part"] = any(map(is_long, texts))
        return card

    def progress(self, annotator: Annotator, asked: RequestBody, target: int) -> dict[str, int]:
        """Comparisons judged: today by this annotator, ever by this annotator, and by all (a few seconds old).

        And how many they are to judge: today, which is no more than what is left of all, and in all, 0 for no end.
        """
        counted_at, count = self._counted
        if time.monotonic() - counted_at > COUNT_SECONDS:
            count = judged_counts.judged_by_all(self.db)
            self._counted = (time.monotonic(), count)
        yours = judged_counts.judged_by(self.db, annotator.id)
        today = judged_counts.judged_by(self.db, annotator.id, day_start(asked.utc_offset_minutes))
        quota = judged_counts.quota_of(self.db, annotator.id)
        if quota is not None:
            target = min(target, today + max(0, quota - yours))
        return {"today": today, "yours": yours, "everyone": max(count, yours), "target": target, "quota": quota or 0}


def has_marks(claim: Claim) -> bool:
    """Whether a comparison has something that is read better rendered; all of it is shown alike."""
    texts = (*(message["content"] for message in claim.messages), *(answer.text for answer in claim.shown))
    return any(MARKS.search(text) or len(LIST_LINE.findall(text)) > 1 for text in texts)


def comparison_part(claim: Claim, rendered: bool) -> Card:
    return {
        "kind": claim.kind,
        "messages": [{"role": message["role"], **shown(message["content"], rendered)} for message in claim.messages],
        "answers": [{"state": answer.state, **shown(answer.text, rendered)} for answer in claim.shown],
    }


def shown(text: str, rendered: bool) -> dict[str, str]:
    """A text as it is; also as safe HTML if asked for; and with what can't be seen spelt out, where that differs."""
    spelt_out = visible(text)
    return {
        "text": text,
        **({"visible": spelt_out} if spelt_out != text else {}),
        **({"html": MarkdownSource(text)} if rendered else {}),
    }


class MarkdownSource(str):
    """A text in an answer that is sent as HTML: `endpoint` has it rendered, outside of the API thread."""


def has_source(part: Any) -> bool:
    """Whether something in an answer is to be rendered."""
    parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return isinstance(part, MarkdownSource) or any(map(has_source, parts))


def rendered_whole(part: Any) -> Any:
    """An answer with HTML in place of what was to be rendered."""
    if isinstance(part, MarkdownSource):
        return markdown_process.to_html(str(part))
    if isinstance(part, dict):
        return {key: rendered_whole(value) for key, value in part.items()}
    return [rendered_whole(value) for value in part] if isinstance(part, list) else part


def listed(own: OwnJudgement) -> dict[str, Any]:
    """A judgement in the list of one's own, its texts to be read only."""
    return {
        **own_judgements.told(own.made),
        **own.made.act(),
        "note": visible(own.made.note),
        "prompt": in_short(own.prompt),
        "edited": None if own.edited is None else in_short(own.edited),
        "changed": own.changed,
        "made": moment(own.created),
    }


def in_short(text: str) -> str:
    """The beginning of a text, for a list."""
    return cut(visible(text), SHORT)


def day_start(utc_offset_minutes: int, moment: datetime | None = None) -> str:
    """Midnight before now, or before a moment, on the annotator's day, as `records.now` writes times.

    The browser knows its offset from UTC.
    """
    offset = timedelta(minutes=utc_offset_minutes)
    local = (moment or datetime.now(UTC)) + offset
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0) - offset
    return midnight.isoformat(timespec="microseconds")


# ------------------------------------------------------------------------------------------------------------- guard
class ApiResponse(JSONResponse):
    """JSON, whatever is in it: what was sent may be quoted, and may have halves of characters."""

    def render(self, content: Any) -> bytes:
        """With a question mark for each half."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def endpoint(handler: Callable[[Annotator, RequestBody], dict[str, Any]]) -> Callable[[Request], Any]:
    """The one guard of these endpoints: a signed-in annotator, a small JSON object; a UserError is a sentence, 409."""

    async def answer(request: Request) -> Response:
        annotator: Annotator | None = request.scope.get(ANNOTATOR_KEY)
        if annotator is None:
            return JSONResponse({"error": _("Sign in first.")}, 401)
        is_json = request.headers.get("content-type", "").split(";")[0] == "application/json"
        body = await read_body(request, MAXIMUM_BODY) if is_json else None
        answered: dict[str, Any] | None = None
        try:
            loop, run = asyncio.get_running_loop(), copy_context().run  # the language goes along
            if body is not None:
                async with TURNS.setdefault(annotator.id, asyncio.Lock()):
                    answered = await loop.run_in_executor(API_THREAD, run, answer_to, handler, annotator, body)
            if answered is None:
                return JSONResponse({"error": _("This request is no JSON object, or too large.")}, 400)
            if has_source(answered):
                async with RENDERING_TURNS.setdefault(annotator.id, asyncio.Lock()):
                    answered = await loop.run_in_executor(RENDERING_THREADS, run, rendered_whole, answered)
            return ApiResponse(answered)
        except UserError as error:
            if isinstance(error, StorageError) and annotator.role != "admin":
                error = error.for_annotators()
            return ApiResponse({"error": str(error)}, 409)

    return answer


def answer_to(
    handler: Callable[[Annotator, RequestBody], dict[str, Any]], annotator: Annotator, body: bytes
) -> dict[str, Any] | None:
    """What a handler answers; None to what is no JSON object, or holds more than a judgement can."""
    try:
        sent = json.loads(body)
        if not isinstance(sent, dict) or len(list(islice(values_in(sent), MAXIMUM_VALUES + 1))) > MAXIMUM_VALUES:
            return None
        whole = whole_characters(sent)
    except (ValueError, RecursionError):
        return None
    return handler(annotator, RequestBody.of(whole))


def values_in(value: Any) -> Iterator[Any]:
    """Something that was sent, and all that is in it."""
    left = [value]
    while left:
        one = left.pop()
        yield one
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def whole_characters(value: Any) -> Any:
    """What was sent, its texts without halves of characters, which nothing else takes."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(key): whole_characters(one) for key, one in value.items()}
    return [whole_characters(one) for one in value] if isinstance(value, list) else value
