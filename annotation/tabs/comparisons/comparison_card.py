"""The page of one comparison with its whole history, as HTML; all text is escaped. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from annotation.metrics.aggregation import settling
from annotation.project import reason_as_read
from annotation.tabs.comparisons import words
from annotation.tabs.comparisons.comparison_table import acts
from annotation.tabs.quality_report import FLAG_NAMES, PURPOSES, verdict
from annotation.translation import _, ngettext, numeral
from annotation.ui.differences import marked
from annotation.ui.formatting import NOTHING, count_words, duration, moment, percent
from annotation.ui.markup import (
    Row,
    Way,
    card,
    chip,
    conversation,
    escape,
    facts,
    or_empty,
    paragraph,
    sides,
    table,
    text_box,
)
from annotation.ui.tab_addresses import Place, link
from annotation.workbench.comparison_history import ComparisonHistory, HistoryAnswer, SaidJudgement, UsedBy
from annotation.workbench.comparison_list import FilterChoices


def card_of(found: ComparisonHistory, used: Sequence[UsedBy], known: FilterChoices) -> str:
    """Everything about one comparison, from how it was formed to who learnt of it."""
    number = found.listed.id
    title = _("Comparison {number}").format(number=number)
    label = escape(_("With this comparison"))
    bar = f'<div class="bulk" role="group" aria-label="{label}">{acts(known)}</div>'
    parts = [part(found) for part in (formed, given, said, judged_by_machines, decided)]
    return (
        f'<div class="workbench one" data-only="{number}">'
        f"<h2>{escape(title)} {chip(words.status_chip(found.listed.status))}</h2>{bar}"
        f"{asked(found)}{''.join(parts)}{learnt(used)}</div>"
    )


def asked(found: ComparisonHistory) -> str:
    """The prompt and the answers, those of a pair with the words marked in which they differ."""
    texts = [escape(answer.text) for answer in found.answers]
    if len(found.answers) == 2:
        texts = list(marked(found.answers[0].text, found.answers[1].text))
    answers = enumerate(zip(found.answers, texts, strict=True), 1)
    boxes = [text_box(answer_title(number, answer), or_empty(text), scrolls=True) for number, (answer, text) in answers]
    return conversation(found.messages) + sides(boxes)


def answer_title(number: int, answer: HistoryAnswer) -> str:
    """What stands above an answer: who wrote it and how long it is."""
    count = count_words(answer.text)
    parts = [
        _("Answer {number}").format(number=number),
        answer.writer,
        ngettext("{count:,} word", "{count:,} words", count).format(count=count),
        _("cut off") if answer.finish_reason == "length" else "",
        {"writing": _("being written"), "failed": _("not written to its end")}.get(answer.state, ""),
    ]
    return " · ".join(filter(None, parts))


def formed(found: ComparisonHistory) -> str:
    origin = found.listed.source
    split = _("held out") if found.listed.split == "held-out" else _("to train on")
    pairs = [
        (_("Made"), f"{moment(found.created)} UTC"),
        (_("Prompt"), f"{origin} · {split}"),
        (_("Asked now"), asked_now(found)),
        (_("Chance of its prompt"), chance(found.formed_chance)),
        (_("Chance that people get it"), people(found)),
    ]
    if found.asked_by:
        pairs.append((_("Asked for by"), found.asked_by))
    if found.import_name:
        pairs.append((_("Import"), found.import_name))
    if found.candidate:
        pairs.append((_("Measures"), f"{found.candidate} / {found.against or NOTHING}"))
    return card(_("How it was formed"), facts(pairs))


def asked_now(found: ComparisonHistory) -> str:
    """Who is asked, and why people are although judges have been; or why nobody is."""
    listed, asked = found.listed, _(words.ASKS[found.asks])
    if listed.status == "gold":
        retired = found.state == "closed"
        return _("nobody: it is retired") if retired else _("now and then people who have not seen it")
    if found.asks == "nobody" or listed.status == "unfit":
        return _(words.ASKS["nobody"])
    if listed.assigned:
        return listed.assigned
    if listed.judged >= listed.wanted:
        return _("nobody else: it has been judged by as many as it is to be")
    why = words.ASKED_WHY.get(found.asks_why or "")
    return f"{asked} ({_(why)})" if why else asked


def people(found: ComparisonHistory) -> str:
    """The chance that people were to get it, and what came of it."""
    if found.people_drawn is None or found.people_chance in (0, 1):
        return chance(found.people_chance)
    drawn = _("{chance}: people got it") if found.people_drawn else _("{chance}: people did not get it")
    return drawn.format(chance=chance(found.people_chance))


def chance(value: float | None) -> str:
    """A recorded chance; one that nobody recorded is unknown."""
    if value is None:
        return _("unknown")
    return percent(value) if value >= 0.01 or value == 0 else f"{numeral(100 * value, '.2g')}%"


def given(found: ComparisonHistory) -> str:
    rows: list[Row] = [
        (
            one.annotator,
            moment(one.when),
            _(PURPOSES[one.purpose]),
            _(words.CLAIM_STATES[one.state]),
            _("assigned by {name}").format(name=one.assigned_by) if one.assigned_by else chance(one.chance),
        )
        for one in found.hand_outs
    ]
    headers = (_("Annotator"), _("When (UTC)"), _("Why"), _("What became of it"), _("Chance"))
    return card(_("Given to"), table(headers, rows, _("Nobody has been given it.")))


def said(found: ComparisonHistory) -> str:
    rows = [judgement_row(one, found) for one in found.judgements]
    headers = (_("Annotator"), _("When (UTC)"), _("Judgement"), _("Stands"), _("Along with it"), _("Took"))
    return card(_("Judgements"), table(headers, rows, _("Nobody has judged it yet.")))


def judgement_row(one: SaidJudgement, found: ComparisonHistory) -> Row:
    along = [*map(reason_as_read, one.tags)]
    along += [_(FLAG_NAMES[one.flag])] if one.flag else []
    along += [_("judged before its end")] if one.early else []
    note = f"\n{one.note}" if one.note else ""
    edited = "\n" + _("Edited: {text}").format(text=one.edited) if one.edited else ""
    return (
        f"{one.annotator}\n{_(PURPOSES[one.purpose])}",
        moment(one.when),
        verdict(one.outcome, one.ranking, one.strength),
        stands(one, found.judgements),
        f"{', '.join(along) or NOTHING}{note}{edited}",
        duration(one.seconds) if one.seconds else NOTHING,
    )


def stands(one: SaidJudgement, all_of_them: Sequence[SaidJudgement]) -> str:
    """Whether a judgement counts, and what took its place if it does not."""
    if one.outcome == "undone":
        return _("takes the one before back")
    after = next((later for later in all_of_them if later.supersedes == one.id), None)
    if after is None:
        settled = settling([said for said in all_of_them if said.stands and not said.early])
        if settled and settled is not one:
            return _("no: {name} has settled it").format(name=settled.annotator)
        return _("yes, a change") if one.supersedes else _("yes")
    return _("taken back") if after.outcome == "undone" else _("changed since")


def judged_by_machines(found: ComparisonHistory) -> str:
    """AI judges' answers, each order by itself; nothing without any."""
    choices = {"first": 0, "second": 1}
    rows: list[Row] = []
    for one in found.verdicts:
        shown = (one.first, one.second)
        place = choices.get(one.choice)
        words_of = _("tie") if place is None else _("answer {number}").format(number=shown[place] + 1)
        sure = "" if one.chance is None else f"\n{percent(one.chance if place != 1 else 1 - one.chance)}"
        order = f"{one.first + 1}, {one.second + 1}"
        rows.append((one.judge, moment(one.when), order, f"{words_of}{sure}", one.reply or NOTHING))
    headers = (_("AI judge"), _("When (UTC)"), _("Shown in this order"), _("Better"), _("Its words"))
    return card(_("AI judges"), table(headers, rows)) if rows else ""


def decided(found: ComparisonHistory) -> str:
    """What admins did with it; nothing where they did nothing."""
    rows: list[Row] = [
        (
            _("Assigned to {whom}").format(whom=one.whom) if one.kind == "assign" else _(words.KINDS[one.kind]),
            one.who,
            moment(one.when),
            _("taken back by {name}, {when}").format(name=one.undone_by, when=moment(one.undone))
            if one.undone_by and one.state != "done"
            else _("given back")
            if one.state == "released"
            else NOTHING,
        )
        for one in found.acts
    ]
    headers = (_("What"), _("By"), _("When (UTC)"), _("What became of it"))
    return card(_("What admins did"), table(headers, rows)) if rows else ""


def job_with(one: UsedBy) -> Way:
    """A job that was given frozen data, and how it stands: one that failed has learnt nothing."""
    said = _("job {number}: {state}").format(number=one.job, state=_(str(one.status)))
    return Way(link("runs", Place((str(one.job),))), said)


def learnt(used: Sequence[UsedBy]) -> str:
    if not used:
        return card(_("Used by"), paragraph(_("No job has used it."), "quiet"))
    rows: list[Row] = []
    for one in used:
        frozen = f"{one.snapshot[:12]}\n{moment(one.created)} UTC"
        rows.append((NOTHING if one.job is None else job_with(one), one.revision or NOTHING, frozen))
    return card(_("Used by"), table((_("Job"), _("Made"), _("Frozen data")), rows))
