"""The AI judges tab: who judges, the judges and how far each can be trusted, jobs that judge, the rubric, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.metrics.intervals_and_bias import Estimate
from annotation.records import Annotator, Feedback, UserError, now
from annotation.store import project_store
from annotation.tabs.address import place_bar, told, visits
from annotation.tabs.components import (
    QUEUED,
    QUIET,
    FollowedPage,
    Seen,
    Update,
    acting_box,
    button,
    changes,
    drafted,
    html_box,
    open_choice,
    opening_of,
    text_in,
    undrafted,
    whole_number,
)
from annotation.tabs.guard import Context, guarded
from annotation.tabs.polling import poll, pulse
from annotation.translation import N_, _, joined, ngettext, numeral
from annotation.ui import markup
from annotation.ui.formatting import NOTHING, moment, money, percent, percent_with_interval
from annotation.ui.markup import Chip, Way, paragraph, status, table, within
from annotation.ui.tab_addresses import Place
from annotation.validation import whole
from rlhf.evaluation import rule_store
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.judges import judge_history, judge_store, verdict_store
from rlhf.judges.judge_agreement import Trust
from rlhf.judges.judge_history import JudgeUsage, JudgingStatus, VerdictView
from rlhf.judges.judge_result import JudgeResult
from rlhf.judges.judge_settings import EndpointSettings
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.judges.judge_store import Judge
from rlhf.judges.verdict_store import JudgeScope
from rlhf.models import registry
from rlhf.submission import job_submission
from rlhf.tabs.jobs import job_cards
from rlhf.tabs.judges import judge_card, judge_form, rubric_form
from rlhf.tabs.judges.judge_form import CHOSEN, JudgeFormPage
from rlhf.tabs.overview import next_steps

POLL_SECONDS = 3
SHOWN_VERDICTS = 20
MOST = N_("Comparisons to judge, at most")


MODES: Mapping[str, tuple[str, str]] = {
    "people": (
        N_("People only"),
        N_("Every comparison goes to people. Judges judge what you tell them to."),
    ),
    "ai": (
        N_("AI only (RLAIF)"),
        N_(
            "AI judges label the comparisons. People get only those that measure a candidate or themselves, what is "
            "assigned to them, and their own prompts."
        ),
    ),
    "mixed": (
        N_("Mixed"),
        N_(
            "AI judges come first. People get what judges contradict themselves on, disagree on or are unsure of, "
            "and a share of the rest by lot."
        ),
    ),
}
NOBODY_DECIDES = N_(
    "By the gate's rule judges inform and do not decide, so nothing is promoted by itself until people have compared a "
    "candidate's answers. “The gate's rule” on the Iterations tab can let a trusted judge decide."
)
SAVED = N_("Saved. This holds for comparisons that nobody has judged yet.")
WHY: Mapping[str, str] = {
    "flip": N_("A judge contradicted itself: {count:,}."),
    "disagreement": N_("Judges disagree: {count:,}."),
    "unsure": N_("A judge was unsure or could not judge: {count:,}."),
    "audit": N_("Drawn by lot: {count:,}."),
}
JUDGES_NOTE = N_(
    "Every judge that is switched on judges what waits for AI judges, in both orders. What a judge is never changes: "
    "for other settings make another."
)


# ------------------------------------------------------------------------------------------------------- who judges
def status_card(
    found: JudgingStatus, feedback: Feedback, active: int, judge_may_decide: bool, in_vain: Mapping[str, int]
) -> str:
    """What the mode means, who is asked about the comparisons now, and which judges they wait for in vain."""
    _label, meaning = MODES[feedback.mode]
    counts = [
        (_("Waiting for AI judges"), numeral(found.judges)),
        (_("Waiting for people"), numeral(found.people)),
        (_("Labelled by judges alone"), numeral(found.labelled)),
    ]
    lines = [_(meaning)]
    if feedback.mode == "ai" and not judge_may_decide:
        lines.append(_(NOBODY_DECIDES))
    if feedback.mode != "people" and not active:
        lines.append(
            _("No judge is switched on: what comes to judges waits in vain. Make one below, or switch one on.")
        )
    why = [_(said).format(count=found.why[reason]) for reason, said in WHY.items() if found.why.get(reason)]
    if why:
        judged = _("Of those that wait for people, judges have judged {total:,}.").format(total=sum(found.why.values()))
        lines.append(joined(judged, *why))
    if found.given_up:
        lines.append(
            _(
                "Given up: {given_up:,}, because judges failed on each in {most_failed_jobs} jobs. Nobody is "
                "asked about them."
            ).format(given_up=found.given_up, most_failed_jobs=verdict_store.MOST_FAILED_JOBS)
        )
    warnings = [
        ngettext(
            "{count:,} comparison waits for {name}, whose last job failed. Mend what it says below, or switch the "
            "judge off.",
            "{count:,} comparisons wait for {name}, whose last job failed. Mend what it says below, or switch the "
            "judge off.",
            count,
        ).format(count=count, name=name)
        for name, count in in_vain.items()
    ]
    said = "".join(map(paragraph, lines)) + "".join(paragraph(warning, "warning") for warning in warnings)
    return said + (markup.facts(counts) if any((found.judges, found.people, found.labelled)) else "")


def feedback_of(mode: Any, audit: Any, unsure: Any, check: Any) -> Feedback:
    """Who judges, from the form's fields. Raises UserError naming the one at fault."""
    if text_in(mode) not in MODES:
        raise UserError(_("Choose who judges: people only, AI only, or mixed."))
    return Feedback(
        mode,
        audit_share=share_of(audit, 0, _("The audit share must be between 0 and 100 percent.")),
        unsure_below=share_of(
            unsure, 50, _("The chance below which a judge is unsure must be between 50 and 100 percent.")
        ),
        check_share=share_of(check, 1, _("People's share of a check must be between 1 and 100 percent.")),
    )


def share_of(value: Any, least: float, refusal: str) -> float:
    """A percentage as a share. Raises UserError if it is none, or below `least` percent."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 100:
        raise UserError(refusal)
    return round(value / 100, 8)


def form_of(feedback: Feedback) -> dict[str, Any]:
    """Who judges, as the form's fields show it: shares in percent."""
    shares = {"audit": feedback.audit_share, "unsure": feedback.unsure_below, "check": feedback.check_share}
    return {"mode": feedback.mode} | {name: round(100 * share, 6) for name, share in shares.items()}


# ------------------------------------------------------------------------------------------------------- the judges
HEADERS = (
    *(N_("Judge"), N_("What it is"), N_("Switched"), N_("Agrees with people"), N_("Contradicts itself")),
    *(N_("Chose the first shown"), N_("Verdicts"), N_("Tokens in · out"), N_("Cost")),
)
NUMBERS = (N_("Verdicts"), N_("Tokens in · out"), N_("Cost"))


def judges_table(known: Sequence[tuple[Judge, Trust, JudgeUsage]]) -> str:
    """A row for each judge: how it does, and what it has spent."""
    rows = [
        (
            judge.name,
            what_it_is(judge, spent),
            Chip(_("on"), "good") if judge.active else Chip(_("off")),
            NOTHING
            if found.with_people is None
            else _("{share_text} of {n:,}").format(
                share_text=share_text(found.with_people.share), n=found.with_people.share.n
            ),
            share_text(found.flips),
            share_text(found.first_place),
            numeral(spent.verdicts),
            tokens_text(spent),
            money(spent.cost),
        )
        for judge, found, spent in known
    ]
    return table(tuple(map(_, HEADERS)), rows, _("There is no AI judge yet. Make one below."), tuple(map(_, NUMBERS)))


def share_text(share: Estimate | None) -> str:
    return NOTHING if share is None else percent_with_interval(share)


def what_it_is(judge: Judge, spent: JudgeUsage) -> str:
    """What a judge is, and how many of its calls are made, where there is a limit over all jobs."""
    is_what = judge_form.what_it_is(judge)
    match judge.settings:
        case EndpointSettings(total_calls=total) if total:
            made = _("calls made: {calls:,} of {total:,}").format(calls=spent.calls, total=total)
            return f"{is_what} · {made}"
    return is_what


# Why there is no verdict, by the kinds that are counted.
FAILED: Mapping[str, str] = {
    "timeout": N_("without an answer in time"),
    "rate limit": N_("above the rate limit"),
    "server error": N_("with an error of the server"),
    "unreachable": N_("not reached"),
    "unreadable": N_("not readable"),
    verdict_store.NO_VERDICT: N_("without a verdict"),
    "refused": N_("refused"),
    verdict_store.TOO_LONG: N_("too long"),
}


def tokens_text(spent: JudgeUsage) -> str:
    return f"{numeral(spent.prompt_tokens)} · {numeral(spent.completion_tokens)}"


def latest_verdicts(found: Sequence[VerdictView]) -> str:
    """The latest verdicts, when asked for; nothing without any."""
    rows = [
        (
            f"#{one.comparison_id}",
            f"{one.first + 1}, {one.second + 1}",
            _("tie")
            if one.choice == "tie"
            else _("answer {first}").format(first=(one.first if one.choice == "first" else one.second) + 1),
            NOTHING if one.chance is None else percent(one.chance),
            one.reply or NOTHING,
            str(one.rubric_version or 0),
            moment(one.created),
        )
        for one in found
    ]
    headers = (
        _("Comparison"),
        _("Answers as shown"),
        _("Chose"),
        _("Chance of the first shown"),
        _("Reply"),
        _("Rubric"),
        _("When (UTC)"),
    )
    return markup.unfold(_("Latest verdicts"), table(headers, rows)) if rows else ""


# ------------------------------------------------------------------------------------------------- jobs that judge
def submit(context: Context, judge: Judge, scope: Any, most: Any, requested_by: str, candidate: str = "") -> int:
    """Queue a job that lets a judge judge. Raises UserError while one like it waits or runs."""
    number = whole(most, MOST, 1)
    for job in job_store.active(context.db, (JudgeSpec.kind,)):
        spec = job.spec
        if isinstance(spec, JudgeSpec) and (spec.judge, spec.scope, spec.candidate) == (judge.name, scope, candidate):
            raise UserError(_("{name} is at that already, in job {id}.").format(name=judge.name, id=job.id))
    spec = JudgeSpec(model=context.model, judge=judge.name, scope=scope, candidate=candidate, comparisons=number)
    return job_submission.submit(context.db, context.data_dir, spec, requested_by)


def awaited(db: Database, judges: Sequence[Judge]) -> list[Judge]:
    """Those of the judges that open comparisons wait for."""
    return [judge for judge in judges if verdict_store.any_to_judge(db, judge, "open")]


def not_at(db: Database, judges: Sequence[Judge], scope: JudgeScope) -> list[Judge]:
    """Those of the judges for which no job of this scope waits or runs."""
    specs = [job.spec for job in job_store.active(db, (JudgeSpec.kind,))]
    busy = {spec.judge for spec in specs if isinstance(spec, JudgeSpec) and spec.scope == scope}
    return [judge for judge in judges if judge.name not in busy]


def judge_open(context: Context, most: Any, requested_by: str) -> str:
    """Let every judge that is switched on judge the open comparisons, and say so. Raises UserError where none wait."""
    active = judge_store.judges(context.db, active=True)
    if not active:
        raise UserError(_("No judge is switched on. Make one, or switch one on."))
    waiting = awaited(context.db, active)
    if not waiting:
        raise UserError(
            _(
                "No comparison waits for AI judges. With “AI only” or “Mixed” they do, as soon as the model has "
                "answered."
            )
        )
    with context.db.transaction():  # all of them or none
        idle = not_at(context.db, waiting, "open") or waiting  # whoever is at it says so
        made = [submit(context, judge, "open", most, requested_by) for judge in idle]
    queued = ngettext("{count} job queued: {numbers}.", "{count} jobs queued: {numbers}.", len(made))
    return queued.format(count=len(made), numbers=", ".join(map(str, made)))


def judge_judged(context: Context, judge: Judge, most: Any, requested_by: str) -> str:
    """Let a judge judge what people have judged, and say so. Raises UserError where there is nothing."""
    if not verdict_store.to_judge(context.db, judge, "judged", 1):
        raise UserError(_("There is nothing that people have judged and {name} has not.").format(name=judge.name))
    number = submit(context, judge, "judged", most, requested_by)
    return _("Job {number} was queued.").format(number=number)


def judge_candidate(context: Context, judge: Judge, revision: Any, most: Any, requested_by: str) -> str:
    """Let a judge compare a candidate's answers with the others', and say so. Raises UserError where there is nothing.

    A check does so too, with answers of its own; this one goes on where a judge gave up, and draws none.
    """
    if not text_in(revision):
        raise UserError(_("Choose the candidate whose answers are to be judged."))
    policy = registry.by_revision(context.db, text_in(revision))
    if not verdict_store.to_judge(context.db, judge, "candidate", 1, policy.id):
        said = _("There is no comparison of {revision} that {name} has not judged.")
        raise UserError(said.format(revision=policy.revision, name=judge.name))
    number = submit(context, judge, "candidate", most, requested_by, policy.revision)
    return _("Job {number} was queued.").format(number=number)


def job_to_show(db: Database) -> Job | None:
    """The judging that runs, else the one that is next, else the last one."""
    waiting = job_store.active(db, (JudgeSpec.kind,))
    running = [job for job in waiting if job.status != "queued"]
    return next(iter([*running, *waiting, *job_store.recent(db, (JudgeSpec.kind,), 1)]), None)


def job_parts(db: Database, job: Job | None, known: Sequence[Judge], at: str) -> dict[str, Update]:
    if job is None:
        return {"job": gr.update(value=""), "cancel": gr.update(visible=False)}
    return {
        "job": gr.update(value=job_card(db, job, known, at)),
        "cancel": gr.update(visible=job.status in ("queued", "running")),
    }


def job_card(db: Database, job: Job, known: Sequence[Judge], at: str) -> str:
    """A judging in words, with its progress, what it has cost so far, and what failed."""
    assert isinstance(job.spec, JudgeSpec)
    left = job_cards.seconds_left(job_store.step_times(db, job), job, at)
    told = job.spec.facts()
    judge = next((one for one in known if one.name == job.spec.judge), None)
    if judge is not None:
        spent = judge_history.usage(db, judge, job.id)
        told += [
            (_("Verdicts"), numeral(spent.verdicts)),
            (_("Tokens in · out"), tokens_text(spent)),
            (_("Cost"), money(spent.cost)),
        ]
    result = JudgeResult.of(job.result)
    counted = sorted(result.failed.items())
    failed = ", ".join(f"{_(FAILED.get(reason, reason))} ({numeral(count)})" for reason, count in counted)
    told += [(_("Failed verdicts"), failed)] if failed else []
    told += [(_("Comparisons left open"), numeral(result.left_open))] if result.left_open else []
    said = _("It gave up. {gave_up}").format(gave_up=_(result.gave_up))
    gave_up = paragraph(said, "warning") if result.gave_up else ""
    remark = paragraph(_(result.remark), "quiet") if result.remark else ""
    why = _("See why job {number} ended").format(number=job.id)
    more = "" if job.is_open or job.status == "finished" else f"<p>{within(Way(next_steps.run(job), why))}</p>"
    return job_cards.job_card(job, left, None, at) + more + gave_up + markup.facts(told) + remark


def cancel(db: Database, seen: Any) -> str:
    """Cancel the judging that this session was shown, and say so. Raises UserError where none is."""
    job_id = seen.get("shown_job") if isinstance(seen, dict) else None
    if not isinstance(job_id, int):
        raise UserError(_("No job is shown; reload the page."))
    job_store.cancel(db, job_id)
    return _("Job {job_id} was asked to stop. Its verdicts stay, and are not asked for again.").format(job_id=job_id)


# ----------------------------------------------------------------------------------------------- what the page shows
# What the button does, by whether the judge is on.
SWITCH: Mapping[bool, str] = {True: N_("Switch it off"), False: N_("Switch it on")}


def chosen_judge(known: Sequence[Judge], selected: Any) -> Judge | None:
    """The judge to look at: the selected one, else the first."""
    return next((judge for judge in known if judge.name == selected), known[0] if known else None)


def the_judge(db: Database, selected: Any) -> Judge:
    """The judge to look at. Raises UserError where there is none."""
    if said := unknown_judge(db, selected):
        raise UserError(said)
    judge = chosen_judge(judge_store.judges(db), selected)
    if judge is None:
        raise UserError(_("There is no judge yet. Make one first."))
    return judge


def unknown_judge(db: Database, name: Any) -> str:
    """What is to be said where a judge was named, typed or by an address, and there is none of that name."""
    unknown = text_in(name) and text_in(name) not in {judge.name for judge in judge_store.judges(db)}
    return _("There is no judge {name}.").format(name=name) if unknown else ""


def judge_parts(db: Database, known: Sequence[Judge], judge: Judge | None) -> dict[str, Update]:
    """The choice of a judge, and what can be done with it and with all that are switched on."""
    idle = not_at(db, [one for one in known if one.active], "open")
    switch = _(SWITCH[judge is not None and judge.active])
    return {
        "one": gr.update(visible=bool(known)),
        "selector": gr.update(choices=[one.name for one in known], value=None if judge is None else judge.name),
        "switch": gr.update(value=switch, interactive=judge is not None),
        "judge_open": gr.update(visible=bool(awaited(db, idle))),
    }


def figure_parts(db: Database, known: Sequence[Judge], judge: Judge | None, idle: bool) -> dict[str, Update]:
    """What follows from verdicts and judgements: costly, and the same until one is added.

    `idle`: whether the judge is not at what people have judged.
    """
    found = {one.id: judge_history.trust_in(db, one) for one in known}
    judged = judge is not None and idle and verdict_store.any_to_judge(db, judge, "judged")
    shown = {
        "judges": judges_table([(one, found[one.id], judge_history.usage(db, one)) for one in known]),
        "card": "" if judge is None else trust_card(db, judge, found[judge.id]),
        "verdicts": "" if judge is None else latest_verdicts(judge_history.latest(db, judge, SHOWN_VERDICTS)),
    }
    parts = {name: gr.update(value=html) for name, html in shown.items()}
    return parts | {"judge_judged": gr.update(visible=judged)}


def trust_card(db: Database, judge: Judge, found: Trust) -> str:
    rule, basis = rule_store.rule(db), judge_history.basis(db, judge)
    return judge_card.card(judge.name, found, rule.judge_trust, basis, may_decide=rule.judge_may_decide)


def view(context: Context, selected: Any, seen: Any) -> tuple[dict[str, Update], Seen]:
    """The parts of the page that differ from what this browser session was sent last, and what it has now."""
    seen = seen if isinstance(seen, dict) else {}
    db = context.db
    known, job = judge_store.judges(db), job_to_show(db)
    judge, active = chosen_judge(known, selected), sum(one.active for one in known)
    decides, candidates = rule_store.rule(db).judge_may_decide, judge_history.candidates(db)
    parts = {
        "candidate": gr.update(choices=candidates, visible=bool(candidates)),
        "judge_candidate": gr.update(visible=bool(candidates)),
        "standing": gr.update(
            value=status_card(
                judge_history.judging_status(db),
                project_store.feedback(db),
                active,
                decides,
                judge_history.waiting_without_verdict(db),
            )
        ),
        **judge_parts(db, known, judge),
        **judge_form.choice_parts(db),
        **job_parts(db, job, known, now()),
    }
    changed, marks = changes(parts, seen)
    idle = judge is not None and bool(not_at(db, [judge], "judged"))
    figures = [*judge_history.cache_key(db), None if judge is None else judge.id, idle]
    if seen.get("figures") != figures:
        changed |= figure_parts(db, known, judge, idle)
    shown = None if job is None else job.id
    state = [] if job is None else [job.id, job.status]
    return changed, {**marks, "figures": figures, "shown_job": shown, "state": state, "sent": seen.get("sent", {})}


# ---------------------------------------------------------------------------------------------------------- the page
FEEDBACK = ("mode", "audit", "unsure", "check")
# Parts in which buttons say what they did.
SAID = ("save", "add", "jobs")


@dataclass(frozen=True)
class JudgesPage(FollowedPage):
    """The tab's components down to the rubric; nothing of the rows is in them.

    Fields that differ from what a session has `seen` under "sent" are a draft.
    """

    notices = {"jobs": "state"}

    feedback: Mapping[str, Any]
    save: gr.Button
    making: gr.Accordion
    form: JudgeFormPage
    add: gr.Button
    most: gr.Number
    pulse: gr.HTML

    @property
    def looked(self) -> list[Any]:
        """The inputs of every handler: the judge that is looked at, and what was sent."""
        return [self.parts["selector"], self.seen]

    def sent(
        self, changed: Mapping[str, Any], seen: Mapping[str, Any], where: str = "", sentence: str = "", more: str = ""
    ) -> list[Any]:
        """As of every page; with a sentence and HTML beside the button that was pressed, and beside no other."""
        said = (status(sentence, "quiet") if sentence else "") + more
        return super().sent({**changed, **dict.fromkeys(SAID, ""), where: said} if where else changed, seen)


def lay_out() -> JudgesPage:
    parts: dict[str, Any] = {}
    gr.Markdown(_("## Who judges"))
    parts["standing"] = html_box()
    feedback = lay_out_feedback()
    save = button(_("Save"), "judges-save", "primary")
    parts["save"] = html_box()
    gr.Markdown(_("## The judges"))
    parts["judges"] = html_box()
    with gr.Accordion(_("Make a judge"), open=False) as making:
        html_box(paragraph(_(JUDGES_NOTE), "quiet"))
        form = judge_form.lay_out()
        add = button(_("Make this judge"), "judge-add", "primary")
    parts["add"] = acting_box(speaks=True, elem_id="judge-made")
    parts |= {name: form.fields[name] for name in CHOSEN}
    with gr.Column(visible=False) as parts["one"]:
        most = lay_out_one(parts)
        parts["verdicts"] = html_box()
    return JudgesPage(
        parts,
        gr.State({}),
        feedback=feedback,
        save=save,
        making=making,
        form=form,
        add=add,
        most=most,
        pulse=pulse(POLL_SECONDS),
    )


def build(demo: gr.Blocks, context: Context) -> None:
    page = lay_out()
    rubric_form.build(context, opening_of(demo), page.parts["selector"])
    wire_views(page, context)
    wire_judges(page, context)
    wire_jobs(page, context)


def lay_out_one(parts: dict[str, Any]) -> gr.Number:
    """The components about one judge, which are there once there is a judge; returns how much is judged at most."""
    with gr.Row():
        parts["selector"] = open_choice(_("Judge to look at"), elem_id="judge-selector")
        most = whole_number(_(MOST), JudgeSpec.comparisons)
    with gr.Row():
        parts["judge_open"] = button(_("Judge the open comparisons now"), "judge-open", "primary", visible=False)
        parts["judge_judged"] = button(_("Judge what people have judged"), "judge-judged", visible=False)
        parts["switch"] = button(_(SWITCH[False]), "judge-switch", interactive=False)
    with gr.Row():
        parts["candidate"] = open_choice(_("Candidate"), visible=False, elem_id="judge-candidate-of")
        parts["judge_candidate"] = button(_("Judge the candidate's answers"), "judge-candidate", visible=False)
    parts["jobs"] = acting_box(speaks=True, elem_id="judge-said")
    parts["job"] = html_box()
    parts["cancel"] = button(_("Cancel"), "judge-cancel", "stop", visible=False)
    parts["card"] = html_box()
    return most


def lay_out_feedback() -> dict[str, Any]:
    modes = [(_(label), mode) for mode, (label, _meaning) in MODES.items()]
    fields: dict[str, Any] = {"mode": gr.Radio(modes, label=_("Who judges"), show_label=False, elem_id="judges-mode")}
    with gr.Accordion(_("How much people get"), open=False), gr.Row(elem_classes=["fields"]):
        fields["audit"] = gr.Number(
            label=_("Audit share, %"),
            info=_("Mixed: of what judges can label, how much people judge too."),
            min_width=240,
        )
        fields["unsure"] = gr.Number(
            label=_("Unsure below, %"),
            info=_("Mixed: a judge whose chance for its choice is lower is unsure. Endpoints give no chances."),
            min_width=240,
        )
        fields["check"] = gr.Number(
            label=_("People's least share of a check, %"),
            info=_(
                "By lot, where judges compare a candidate's answers too. They get more where it takes more to tell."
            ),
            min_width=240,
        )
    return fields


# Handlers are plain functions, which Gradio runs in threads of their own: figures keep no annotator waiting.
def wire_views(page: JudgesPage, context: Context) -> None:
    """Fill the page when it is opened, send what changes, and store who judges."""
    admin, fields = guarded(context, "admin"), [page.feedback[name] for name in FEEDBACK]
    labels = {name: str(page.feedback[name].label) for name in FEEDBACK}

    def open_judges(place: Place, was: Any, *here: Any) -> list[Any]:
        changed, seen = view(context, place.first, {})
        sent, holds = was.get("sent", {}) if isinstance(was, dict) else {}, form_of(project_store.feedback(context.db))
        fresh = undrafted(sent, dict(zip(FEEDBACK, here, strict=True)), holds)
        drafts = [fresh.get(name, gr.skip()) for name in FEEDBACK]
        unknown = unknown_judge(context.db, place.first)
        shown = page.sent(changed, {**seen, "sent": {**sent, **fresh}}, said_where(unknown), unknown)
        return [*shown, *drafts, told(Place() if unknown else place, step=False)]

    def said_where(unknown: str) -> str:
        """Beside the choice of a judge; where there is none to choose, that is hidden."""
        return "" if not unknown else "jobs" if judge_store.judges(context.db) else "add"

    def look_at_judge(selected: Any, was: Any) -> list[Any]:
        held = page.held(was)
        changed, seen = view(context, selected, was)
        return page.sent({**changed, **page.overtaken(held, seen)}, seen)

    @admin
    def save_feedback(selected: Any, was: Any, *values: Any) -> list[Any]:
        here, sent = dict(zip(FEEDBACK, values, strict=True)), was.get("sent", {}) if isinstance(was, dict) else {}
        with context.db.transaction():
            draft = drafted(sent, here, form_of(project_store.feedback(context.db)), labels)
            if not draft.both:
                project_store.set_feedback(context.db, feedback_of(*(draft.values[name] for name in FEEDBACK)))
        changed, seen = view(context, selected, was)
        if draft.both:
            shown = page.sent(changed, {**seen, "sent": draft.sent}, "save", more=draft.refusal)
            return [*shown, *(gr.skip() for _name in FEEDBACK)]
        form = form_of(project_store.feedback(context.db))
        return [*page.sent(changed, {**seen, "sent": form}, "save", _(SAVED), draft.remark), *form.values()]

    @admin
    def choose_judge(selected: Any, was: Any) -> list[Any]:
        if not (unknown := unknown_judge(context.db, selected)):
            return [*page.sent(*view(context, selected, was)), told(Place((text_in(selected),)))]
        changed, seen = view(context, None, was)
        first = chosen_judge(judge_store.judges(context.db), None)
        changed["selector"] = {**changed.get("selector", gr.update()), "value": None if first is None else first.name}
        return [*page.sent(changed, seen, said_where(unknown), unknown), told(Place())]

    bar = place_bar()
    visits(bar, context, open_judges, [page.seen, *fields], [*page.followed, *fields, bar])
    page.parts["selector"].input(choose_judge, page.looked, [*page.followed, bar], **QUIET)
    poll(page.pulse, context, look_at_judge, page.looked, page.followed)
    page.save.click(save_feedback, [*page.looked, *fields], [*page.followed, *fields], **QUEUED)


def wire_judges(page: JudgesPage, context: Context) -> None:
    admin, form = guarded(context, "admin"), page.form

    @admin
    def choose_backend(backend: Any) -> list[Any]:
        return form.shown(backend)

    @admin
    def add_judge(annotator: Annotator, selected: Any, was: Any, *values: Any) -> list[Any]:
        form_values = dict(zip(judge_form.FIELDS, values, strict=True))
        backend, settings = judge_form.settings_of(context.db, form_values)
        judge = judge_store.add(context.db, text_in(form_values["name"]), backend, settings, annotator.name)
        said = (
            _("{name} is there and switched on. Let it judge what people have judged, to see how far to trust it.")
            if verdict_store.any_to_judge(context.db, judge, "judged")
            else _("{name} is there and switched on. How far to trust it shows once people have judged as well.")
        ).format(name=judge.name)
        changed, seen = view(context, judge.name, was)
        for name in CHOSEN:  # choices of the form, which follow the rows
            changed[name] = {**changed.get(name, gr.update()), "value": None}
        return [*page.sent(changed, seen, "add", said), gr.update(open=False), *form.emptied()]

    @admin
    def switch_judge(selected: Any, was: Any, label: Any) -> list[Any]:
        """As the button says, whatever somebody else has switched meanwhile."""
        judge, on = the_judge(context.db, selected), label == _(SWITCH[False])
        if not on and label != _(SWITCH[True]):
            raise UserError(_("That can't be done here; reload the page."))
        verdict_store.set_active(context.db, judge.name, on)
        said = (_("{name} is switched on.") if on else _("{name} is switched off.")).format(name=judge.name)
        return page.sent(*view(context, judge.name, was), "jobs", said)

    chosen, groups = form.fields["backend"], [*form.groups.values()]
    chosen.input(choose_backend, chosen, groups, **QUIET)
    made = [*page.followed, page.making, *form.typed, *groups]
    page.add.click(add_judge, [*page.looked, *form.inputs], made, **QUEUED)
    page.parts["switch"].click(switch_judge, [*page.looked, page.parts["switch"]], page.followed, **QUEUED)


def wire_jobs(page: JudgesPage, context: Context) -> None:
    admin = guarded(context, "admin")

    @admin
    def start_open(annotator: Annotator, selected: Any, was: Any, most: Any) -> list[Any]:
        said = judge_open(context, most, annotator.name)
        return page.sent(*view(context, selected, was), "jobs", said)

    @admin
    def start_judged(annotator: Annotator, selected: Any, was: Any, most: Any) -> list[Any]:
        said = judge_judged(context, the_judge(context.db, selected), most, annotator.name)
        return page.sent(*view(context, selected, was), "jobs", said)

    @admin
    def start_candidate(annotator: Annotator, selected: Any, was: Any, most: Any, revision: Any) -> list[Any]:
        said = judge_candidate(context, the_judge(context.db, selected), revision, most, annotator.name)
        return page.sent(*view(context, selected, was), "jobs", said)

    @admin
    def cancel_judging(selected: Any, was: Any) -> list[Any]:
        said = cancel(context.db, was)
        return page.sent(*view(context, selected, was), "jobs", said)

    page.parts["judge_open"].click(start_open, [*page.looked, page.most], page.followed, **QUEUED)
    page.parts["judge_judged"].click(start_judged, [*page.looked, page.most], page.followed, **QUEUED)
    asked = [*page.looked, page.most, page.parts["candidate"]]
    page.parts["judge_candidate"].click(start_candidate, asked, page.followed, **QUEUED)
    page.parts["cancel"].click(cancel_judging, page.looked, page.followed, **QUEUED)
