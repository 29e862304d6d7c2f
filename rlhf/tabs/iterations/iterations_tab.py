"""The Iterations tab: where the loop stands, which policy serves, how each candidate did, the gate, and decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from annotation.database import Database
from annotation.records import Annotator, CheckedAnswer, UserError, now
from annotation.store import check_store, prompt_store, stock_counts
from annotation.tabs.address import place_bar, told, told_view, visits
from annotation.tabs.components import (
    ANSWERS,
    QUEUED,
    QUIET,
    FollowedPage,
    Seen,
    Update,
    acting_box,
    asking_box,
    changes,
    html_box,
    open_choice,
    opening_of,
    pressed,
    row_number,
    text_in,
)
from annotation.tabs.guard import Context, guarded, guarded_event
from annotation.tabs.polling import poll, pulse
from annotation.translation import N_, _, ngettext, spoken
from annotation.ui import markup
from annotation.ui.tab_addresses import Place
from rlhf.data import held_out_sets
from rlhf.evaluation import gate_words, rule_store, win_rates
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import (
    asking_people,
    candidate_decision,
    candidate_findings,
    check_status,
    decision_cache,
    judge_findings,
    peoples_decisions,
)
from rlhf.evaluation.decisions.check_status import CheckStatus
from rlhf.evaluation.finished_checks import FinishedCheck, newest_check, newest_checks
from rlhf.evaluation.gate import Criterion, alphas, corrected_by_judges
from rlhf.generation import answering_spec
from rlhf.jobs import job_store
from rlhf.judges import judge_store
from rlhf.loop import controller
from rlhf.loop.controller import LoopState
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy
from rlhf.tabs import plot_zoom
from rlhf.tabs.iterations import candidate_headline, check_report, gate_form, iteration_card, loop_status
from rlhf.tabs.iterations.iteration_card import CheckedPolicy
from rlhf.tabs.jobs import policy_decisions
from rlhf.tabs.plot_zoom import CurveData

PAGE_SIZE = 4
# The figure over the iterations that is looked at closely.
LOOK = "figure"
POLL_SECONDS = 3
ALL_JOBS = 1000


FILES_DELETED = N_("files deleted")


# ------------------------------------------------------------------------------------------------ what the page shows
def serving_part(db: Database) -> Update:
    policy = registry.serving(db)
    card = check_report.serving_card(
        policy,
        answering_spec.newest_answering(db),
        stock_counts.stock_sizes(db, policy.id),
        stock_counts.waiting_elsewhere(db, policy.id),
        stock_counts.answer_counts(db),
        now(),
    )
    return gr.update(value=card)


def history_part(db: Database) -> Update:
    made_by = {job.id: job for job in job_store.recent(db, job_store.waiting_kinds(), ALL_JOBS)}
    return gr.update(value=check_report.history_table(those_that_answer(db), made_by))


def those_that_answer(db: Database) -> list[Policy]:
    """Every policy, oldest first; reward models score answers and can't give any."""
    return [policy for policy in registry.all_policies(db) if policy.kind == "policy"]


def selected_policy(db: Database, revision: str | None) -> Policy:
    """The policy to look at: the chosen one, else the newest that waits for a decision, else what serves."""
    known = check_report.policy_order(those_that_answer(db))
    named = [policy for policy in known if policy.revision == revision]
    return named[0] if named else known[0] if known[0].undecided else registry.serving(db)


def next_candidate(db: Database, unchosen: str | None) -> str | None:
    """The candidate to go on to, if there is one, from a policy that nobody chose and that waits for no decision."""
    if unchosen is None or selected_policy(db, unchosen).undecided:
        return None
    found = selected_policy(db, None)
    return found.revision if found.undecided else None


def policy_at(db: Database, place: Place) -> tuple[str | None, str]:
    """The policy that an address names, if there is one, and what is to be said where there is not."""
    if not place.first or place.first in {one.revision for one in those_that_answer(db)}:
        return place.first or None, ""
    return None, markup.notice(_("There is no policy {revision}; this is another one.").format(revision=place.first))


def place_of(revision: str | None, page: int) -> Place:
    return Place((revision,) if revision else (), {"page": str(page + 1) if page else ""})


def answers_in(db: Database, data_dir: Path, policy: Policy, check: FinishedCheck | None) -> list[CheckedAnswer]:
    """A policy's answers to the held-out prompts of a check; none without a check."""
    if check is None:
        return []
    if check.spec.prompt_set:
        prompts = held_out_sets.prompts_of(data_dir, check.spec.prompt_set)
    else:  # an earlier version's check
        prompts = prompt_store.prompts(db, "held-out")[: check.spec.prompts]
    until = job_store.get(db, check.job_id).finished
    found = check_store.answers_of_check(db, policy.id, prompts, check.spec.seed, check.spec.sampling, until=until)
    return list({(one.prompt_id, one.seed): one for one in found}.values())  # it may have answered anew since the first


def status_part(db: Database, state: LoopState) -> Update:
    hindered = controller.automatic_problems(db) if controller.due(state) else ()
    status = loop_status.loop_status(state, hindered)
    if not answering_spec.answers_come(db) and not any(stock_counts.stock_sizes(db, registry.serving(db).id).values()):
        silent = check_report.worker_sentence(answering_spec.newest_answering(db), now())
        status = replace(status, problems=(*status.problems, silent))
    return gr.update(value=iteration_card.status_card(status))


def gate_parts(db: Database, policy: Policy, stands: CheckStatus, state: LoopState) -> dict[str, Update]:
    """What is said first of a candidate, or of what it was when it was decided on, and what people say so far."""
    if policy.status == "candidate" and policy.deleted:
        return {"gate": gr.update(value=markup.paragraph(registry.gone(policy))), "running": gr.update(value="")}
    against = "" if policy.status == "candidate" else decided_against(db, policy)
    if policy.status != "candidate" and not against:
        return {"gate": gr.update(value=iteration_card.checking_line(stands.sentence)), "running": gr.update(value="")}
    rule = rule_store.rule(db)
    found, decision = candidate_decision.decided(db, policy)
    alpha, _judges = alphas(rule, len(found.panel), found.number)
    against_now = candidate_findings.opponent(db, policy).revision
    headline = candidate_headline.headline_of(found, decision, against_now, asking_people.given_to_people(db))
    if against:
        headline = replace(headline, then="")  # nobody is asked any more
    missing = gate_words.unmeasured(decision.weighed.limits)
    more = [*iteration_card.in_sentences(decision, rule.mode, against, missing), stands.sentence]
    if not candidate_findings.checks_of(db, policy):
        newest = newest_check(db, policy.revision)
        elsewhere = against_now if newest is not None and newest.spec.against != against_now else ""
        outdated = newest is not None and not elsewhere  # of when policies answered otherwise
        said = stands.sentence if stands.active or outdated else ""
        headline = candidate_headline.unchecked(headline, said, elsewhere)
        more = [one for one in [*(more[:-1] if against else ()), stands.sentence] if one != headline.saying]
        if state.active and not stands.active and controller.will_check(db, state, policy):
            more.append(loop_status.soon(state, policy.revision))
    running = iteration_card.running_chart(corrected_by_judges(found), rule, alpha, against_now)
    unknown = sum(one.probability is None for one in found.people)
    return {
        "gate": gr.update(value=candidate_headline.headline_card(headline, more)),
        "running": gr.update(value=running + iteration_card.unknown_chances(unknown)),
    }


def decided_against(db: Database, policy: Policy) -> str:
    """The revision that a policy was promoted or rejected against; empty where it was not."""
    found = decision_store.decided_against(db, policy)
    return "" if found is None else found.revision


def over_view(db: Database, checked: Mapping[str, FinishedCheck]) -> tuple[str, list[CurveData]]:
    """Figures over the policies that were checked, drawn, and to be looked at closely."""
    return decision_cache.cached(db, ("over", spoken().code), lambda: over_iterations(db, checked))


def over_iterations(db: Database, checked: Mapping[str, FinishedCheck]) -> tuple[str, list[CurveData]]:
    base = registry.by_revision(db, "base")
    rows = [
        CheckedPolicy(
            policy.revision,
            check.report,
            win_rates.by_people(db, policy, base) if policy.id != base.id else None,
            win_rates.judged_for(db, policy),
        )
        for policy in registry.all_policies(db)
        if (check := checked.get(policy.revision)) is not None
    ]
    agreement = {judge.name: judge_findings.agreement_of(db, judge) for judge in judge_store.judges(db)}
    return iteration_card.over_iterations(rows, agreement), iteration_card.over_curves(rows)


def report_parts(
    db: Database, data_dir: Path, policy: Policy, check: FinishedCheck | None, page: int
) -> tuple[dict[str, Update], int]:
    """The check of a policy: figures, and a page of its answers beside those of the policy it was compared with.

    With the number of that page: the last where there are not so many.
    """
    report = None if check is None else check.report
    against = compared_with(check) or "base"
    other = registry.by_revision(db, against)
    try:
        own, others = (answers_in(db, data_dir, one, check) for one in (policy, other))
        pairs = check_report.answer_pairs(own, others)
        missing = ""
    except UserError as error:  # the prompts are gone, say; all else is there
        pairs, missing = [], markup.paragraph(str(error), "warning")
    names = (_("{revision} (this)").format(revision=policy.revision), against)
    page = min(page, max(0, len(pairs) - 1) // PAGE_SIZE)
    return {
        "report": gr.update(value=check_report.report_card(report, rule_store.rule(db), criteria_of(db, policy))),
        "answers": gr.update(value=missing or check_report.answers_page(pairs, page, PAGE_SIZE, names)),
        "where": gr.update(value=markup.notice(check_report.page_label(len(pairs), page, PAGE_SIZE))),
        "previous": gr.update(interactive=page > 0),
        "next": gr.update(interactive=(page + 1) * PAGE_SIZE < len(pairs)),
    }, page


def criteria_of(db: Database, policy: Policy) -> Sequence[Criterion]:
    """What the rule asks and found of a policy that it looks at, or looked at."""
    asked = policy.status == "candidate" or decided_against(db, policy)
    return candidate_decision.decided(db, policy)[1].criteria if asked else ()


def decisions_part(db: Database) -> Update:
    undo = {number: check_report.undo_of(row) for number, row in decision_store.undoable(db).items()}
    return gr.update(value=check_report.decisions_card(decision_store.decisions(db), undo))


def confirm_parts(db: Database, policy: Policy, confirming: bool) -> dict[str, Update]:
    """The question whether a policy is to serve against the rule, while it is asked."""
    against = confirming and bool(peoples_decisions.objection(db, policy))
    asks = _("Let {revision} serve although the rule does not promote it? Say why in the field above.")
    if policy.status == "rejected":
        asks = _("Let {revision} serve although it was rejected? Say why in the field above.")
    said = asks.format(revision=policy.revision) if against else ""
    return {"confirm": gr.update(visible=against), "question": gr.update(value=markup.status(said, "warning"))}


def needed_of_people(db: Database, policy: Policy, state: LoopState) -> Literal["ask", "check"] | None:
    """The button without which nothing more comes of a candidate, because the loop does not do that by itself."""
    by_itself = controller.to_ask_about(state) == policy.revision or controller.will_check(db, state, policy)
    if not policy.undecided or by_itself:
        return None
    pending = state.pending if state.pending is not None and state.pending.policy.id == policy.id else None
    if pending is not None and pending.askable:
        return "ask"
    if not candidate_findings.checks_of(db, policy) or (pending is not None and pending.exhausted):
        return "check"
    return "check" if check_status.left_out(db, policy) else None


WHY = N_("Why (for the record)")
WHY_AGAINST = N_("Why (needed to promote it against the rule)")


def button_parts(
    db: Database, policy: Policy, checking: bool, check: FinishedCheck | None, state: LoopState
) -> dict[str, Update]:
    """What can be done with a policy; what is to be done stands out, and against the rule a reason is asked for.

    `checking`: a check of it waits or runs; `check` is the newest that has finished.
    """
    needed = None if checking else needed_of_people(db, policy, state)
    can_check = policy.path is not None and policy.deleted is None and not checking
    candidate = policy.undecided
    in_first_check = checking and candidate and not candidate_findings.checks_of(db, policy)
    can_serve = check_report.can_serve(policy) and not in_first_check  # nothing is known yet that it could be against
    decision = peoples_decisions.advised(db, policy)
    says, against = None if decision is None else decision.says, bool(peoples_decisions.objection(db, policy))
    names = [judge.name for judge in judge_store.judges(db, active=True)]
    return {
        "promote": gr.update(
            value=check_report.promote_label(policy, against),
            visible=can_serve,
            variant="primary" if says == "promote" else "secondary",
        ),
        "reject": gr.update(visible=candidate, variant="primary" if says == "reject" else "secondary"),
        "check": gr.update(
            value=_("Check it") if check is None else _("Check it again"),
            visible=can_check,
            variant="primary" if can_check and needed == "check" else "secondary",
        ),
        "judges": gr.update(choices=names, value=names, visible=can_check and bool(names)),
        "ask": gr.update(visible=can_be_asked(db, policy), variant="primary" if needed == "ask" else "secondary"),
        "why": gr.update(label=_(WHY_AGAINST if against and can_serve else WHY), visible=can_serve or candidate),
    }


def selector_part(known: Sequence[Policy], policy: Policy) -> Update:
    """The policies that can be chosen, and this one; nothing while there is no other."""
    listed = [
        (f"{entry.revision} · {_(FILES_DELETED) if entry.deleted else entry.status_word}", entry.revision)
        for entry in check_report.policy_order(known)
    ]
    return gr.update(choices=listed, value=policy.revision, visible=len(known) > 1)


def view(context: Context, revision: str | None, page: int, seen: Seen) -> tuple[dict[str, Update], Seen]:
    """The parts of the page that differ from what this browser session was sent last, and what it has now."""
    db = context.db
    checked = newest_checks(db)
    policy = selected_policy(db, revision)
    check, stands = checked.get(policy.revision), check_status.check_status(db, policy)
    state, known = controller.state_of(db), those_that_answer(db)
    over, curves = over_view(db, checked)
    parts = {
        "standing": status_part(db, state),
        "serving": serving_part(db),
        "history": history_part(db),
        "decisions": decisions_part(db),
        "selector": selector_part(known, policy),
        **button_parts(db, policy, stands.active, check, state),
        **confirm_parts(db, policy, seen.get("confirming") == policy.revision),
        **gate_parts(db, policy, stands, state),
        "over": gr.update(value=over),
        "side_by_side": gr.update(visible=check is not None),
        "figures": gr.update(visible=check is not None),
        "over_fold": gr.update(visible=len(checked) >= iteration_card.LEAST_COMPARED),
    }
    changed, marks = changes(parts, seen)
    # A page of answers is the one costly part; it changes only with what names it, the warnings only with the rule.
    criteria = [(one.passed, *astuple(gate_words.criterion_words(one))) for one in criteria_of(db, policy)]
    named = [policy.revision, None if check is None else check.job_id, rule_store.rule(db).to_setting(), criteria]
    if seen.get("drawn") != [*named, page]:
        report, page = report_parts(db, context.data_dir, policy, check, page)
        changed |= report
    decided = [decision_store.newest_decision(db), policy.revision, stands.sentence]
    look = seen.get(LOOK)
    if "over" in changed:
        close, look = plot_zoom.updates(LOOK, curves, (), look)
        changed |= close
    confirming = policy.revision if parts["confirm"]["visible"] else None
    return changed, {
        **marks,
        "drawn": [*named, page],
        "decided": decided,
        "page": page,
        "confirming": confirming,
        "unchosen": policy.revision if revision is None else None,
        LOOK: look,
    }


def page_of(seen: Seen) -> int:
    page = seen.get("page", 0) if isinstance(seen, dict) else 0
    return max(0, page) if isinstance(page, int) else 0


def compared_with(check: FinishedCheck | None) -> str | None:
    """The policy that a check compared its candidate with; None without a check."""
    return None if check is None else check.report.against.revision or None


def newest_shown(seen: Seen) -> int | None:
    """The number of the newest decision that the page was drawn with."""
    decided = seen.get("decided") if isinstance(seen, dict) else None
    return decided[0] if decided else None


def can_be_asked(db: Database, policy: Policy) -> bool:
    """Whether asking people would put comparisons before them: of the check of a candidate, or of what serves."""
    check = asking_people.check_to_ask_about(db, policy)
    if check is None or compared_with(check) is None or not (policy.undecided or policy.status == "serving"):
        return False
    return asking_people.can_be_asked(db, policy, check)


def ask_people(db: Database, revision: str | None) -> str:
    """Put the check's answers of the chosen policy and of what it was compared with before annotators, and say so.

    Raises UserError where there is no check, or nothing new to compare.
    """
    policy = registry.by_revision(db, chosen(revision))
    if policy.deleted:
        raise UserError(registry.gone(policy))
    check = asking_people.check_to_ask_about(db, policy)
    against = compared_with(check)
    if check is None or against is None:
        said = _("{revision} has not been checked yet. Check it first: people compare the check's answers.")
        raise UserError(said.format(revision=policy.revision))
    made = asking_people.ask_people(db, policy, check)
    if not made:
        queued = _("All answers of {revision} and {against} that differ are in the annotators' queue already.")
        counted = _(
            "All answers of {revision} and {against} that differ are in the annotators' queue already, or judges' "
            "verdicts on them have served to correct people's on others: what people say of these counts no more."
        )
        spent = candidate_findings.spent_prompts(db, policy, registry.by_revision(db, against))
        raise UserError((counted if spent else queued).format(revision=policy.revision, against=against))
    ready = ngettext(
        "{made} comparison of {revision} with {against} is ready.",
        "{made} comparisons of {revision} with {against} are ready.",
        made,
    ).format(made=made, revision=policy.revision, against=against)
    if not asking_people.given_to_people(db):
        return f"{ready} {_(candidate_headline.NOT_GIVEN)}"
    blind = _(
        "People get them in turn with the others, blind. They are on held-out prompts, so nothing is trained on them; "
        "the Quality tab shows who wins."
    )
    return f"{ready} {blind}"


def chosen(revision: str | None) -> str:
    """The chosen policy's revision. Raises UserError when none is chosen."""
    if not revision:
        raise UserError(_("Choose a policy first."))
    return revision


def asked(panel: Any) -> str:
    """The chosen judges, as a check's spec names them; those that label comparisons where the browser sent no list."""
    return ", ".join(map(str, panel)) if isinstance(panel, list) else CheckSpec.judges


# ---------------------------------------------------------------------------------------------------------- the page
@dataclass(frozen=True)
class IterationsPage(FollowedPage):
    notices = {"said": "decided"}

    pulse: gr.HTML
    bar: gr.HTML

    @property
    def selector(self) -> Any:
        return self.parts["selector"]


def lay_out() -> IterationsPage:
    """The components, top to bottom, without any value: the headline and what can be decided, then what it rests on."""
    parts: dict[str, Any] = {"standing": html_box()}
    parts["selector"] = open_choice(_("Policy"))
    parts["gate"] = html_box()
    with gr.Row():
        parts["promote"] = gr.Button(_("Promote: let it serve"), elem_id="promote", visible=False)
        parts["reject"] = gr.Button(_("Reject"), elem_id="reject", visible=False)
        parts["ask"] = gr.Button(_("Let people compare"), elem_id="ask-people", visible=False)
        parts["check"] = gr.Button(_("Check it again"), elem_id="check-again", visible=False)
    with gr.Row():
        parts["why"] = gr.Textbox(
            label=_(WHY),
            max_length=peoples_decisions.MOST_WHY,
            elem_id="why",
            elem_classes=["of-subject"],
            min_width=300,
        )
        parts["judges"] = open_choice(
            _("Judges to ask in a check"),
            info=_("Without any, people alone compare."),
            multiselect=True,
            visible=False,
            elem_id="check-judges",
            min_width=300,
        )
    with gr.Column(visible=False) as parts["confirm"]:
        parts["question"] = asking_box()
        with gr.Row():
            parts["really"] = gr.Button(_("Yes, promote it"), variant="stop", elem_id="promote-really")
            parts["keep"] = gr.Button(_("No"), elem_id="promote-not")
    parts["said"] = acting_box(speaks=True, elem_id="decided")
    parts["decisions"] = acting_box(elem_id="decisions")
    with gr.Accordion(_("Answers side by side"), open=False, visible=False) as parts["side_by_side"]:
        parts["answers"] = html_box()
        with gr.Row():
            parts["previous"] = gr.Button(_("Previous"), interactive=False)
            parts["next"] = gr.Button(_("Next"), interactive=False)
        parts["where"] = html_box()
    with gr.Accordion(_("Figures, and what the rule asks"), open=False, visible=False) as parts["figures"]:
        parts["report"] = html_box()
        parts["running"] = html_box()
    with gr.Accordion(_("All policies, and what serves"), open=False):
        parts["serving"] = html_box()
        parts["history"] = html_box()
    with gr.Accordion(_("Over the iterations"), open=False, visible=False) as parts["over_fold"]:
        parts["over"] = html_box()
        parts |= plot_zoom.lay_out(LOOK, _("Look closer"))
    return IterationsPage(parts, gr.State({}), pulse(POLL_SECONDS), place_bar())


def build(demo: gr.Blocks, context: Context) -> None:
    page = lay_out()
    gate_form.build(context, opening_of(demo))
    wire_views(page, context)
    wire_promotion(page, context)
    wire_decisions(page, context)


def wire_views(page: IterationsPage, context: Context) -> None:
    """Fill the page with what its address names, and send what changes."""
    followed = [*page.followed, page.bar]

    def open_iterations(place: Place) -> list[Any]:
        revision, unknown = policy_at(context.db, place)
        changed, seen = view(context, revision, max(0, (row_number(place.query.get("page", "")) or 1) - 1), {})
        shown = {**changed, "said": unknown, **policy_decisions.emptied(changed)}
        if "page" in place.query:
            shown["side_by_side"] = {**changed["side_by_side"], "open": True}
        shows = place_of(selected_policy(context.db, revision).revision, page_of(seen))
        address = Place() if unknown else place_of(revision, page_of(seen))
        return [*page.sent(shown, seen), told(address, step=False, shows=shows)]

    def poll_iterations(revision: str | None, was: Seen) -> list[Any]:
        if "drawn" not in was:  # the visit, which knows what the address names, is not answered yet
            return [*(gr.skip() for _part in page.followed), told_view(Place(), Place())]
        revision, held = revision or was["drawn"][0], page.held(was)
        unchosen = revision if revision == was.get("unchosen") else None
        coming = next_candidate(context.db, unchosen)
        changed, seen = view(context, coming or revision, 0 if coming else page_of(was), was)
        if page.asked_since(held, seen):
            return [gr.skip() for _part in followed]
        changed |= page.overtaken(held, seen)
        if coming:
            changed |= policy_decisions.emptied(changed)
        address = told_view(Place(), place_of(coming, 0)) if coming else gr.skip()
        return [*page.sent(changed, {**seen, "unchosen": coming or unchosen}), address]

    visits(page.bar, context, open_iterations, [], followed)
    poll(page.pulse, context, poll_iterations, [page.selector, page.seen], followed)
    wire_choice(page, context)
    wire_look(page, context)


def wire_choice(page: IterationsPage, context: Context) -> None:
    """Show the policy that somebody chooses, and turn the pages of its answers."""

    @guarded(context, "admin")
    def choose_policy(revision: str | None, was: Seen) -> list[Any]:
        found, unknown = policy_at(context.db, place_of(text_in(revision), 0))
        changed, seen = view(context, found, 0, was)
        if unknown:
            there = selected_policy(context.db, None).revision
            changed["selector"] = {**changed.get("selector", gr.update()), "value": there}
        sent = page.sent({**changed, **policy_decisions.emptied(changed), "said": unknown}, seen)
        return [*sent, told(place_of(found, 0))]

    def turned_to(number: int, revision: str | None, was: Seen) -> list[Any]:
        changed, seen = view(context, revision, number, was)
        return [*page.sent(changed, seen), told(place_of(text_in(revision), page_of(seen)))]

    @guarded(context, "admin")
    def previous_page(revision: str | None, was: Seen) -> list[Any]:
        return turned_to(max(0, page_of(was) - 1), revision, was)

    @guarded(context, "admin")
    def next_page(revision: str | None, was: Seen) -> list[Any]:
        return turned_to(page_of(was) + 1, revision, was)

    listeners = (
        (page.selector.input, choose_policy),
        (page.parts["previous"].click, previous_page),
        (page.parts["next"].click, next_page),
    )
    for listen, handler in listeners:
        listen(handler, [page.selector, page.seen], [*page.followed, page.bar], **QUIET)


def wire_look(page: IterationsPage, context: Context) -> None:
    @guarded(context, "admin")
    def choose_figure(choice: Any, was: Seen) -> list[Any]:
        _drawn, curves = over_view(context.db, newest_checks(context.db))
        close, look = plot_zoom.updates(LOOK, curves, (), was.get(LOOK), text_in(choice))
        return page.sent(close, {**was, LOOK: look})

    choice = page.parts[f"{LOOK}_choice"]
    choice.input(choose_figure, [choice, page.seen], page.followed, **QUIET)
    plot_zoom.wire(LOOK, context, page.parts)


def shown_anew(page: IterationsPage, context: Context, revision: str | None, was: Seen, **said: str) -> list[Any]:
    """The page as it is after a press, with what is said of that."""
    changed, seen = view(context, revision, page_of(was), was)
    return page.sent({**changed, **said}, seen)


def after_decision(page: IterationsPage, context: Context, revision: str | None, was: Seen, sentence: str) -> list[Any]:
    """The page after a decision: what the reason was for is emptied."""
    changed, seen = view(context, revision, page_of(was), was)
    return page.sent({**changed, **policy_decisions.emptied(changed), "said": markup.done(sentence)}, seen)


def wire_promotion(page: IterationsPage, context: Context) -> None:
    """Promote; against the rule after a question, and with a reason."""

    @guarded(context, "admin")
    def promote_policy(annotator: Annotator, revision: str | None, why: Any, was: Seen) -> list[Any]:
        policy = registry.by_revision(context.db, chosen(revision))
        if peoples_decisions.objection(context.db, policy):
            return shown_anew(page, context, revision, {**was, "confirming": policy.revision}, said="")
        said = policy_decisions.promote(context, policy.revision, annotator.name, text_in(why), after=newest_shown(was))
        return after_decision(page, context, revision, was, said)

    @guarded(context, "admin")
    def promote_all_the_same(annotator: Annotator, revision: str | None, why: Any, was: Seen) -> list[Any]:
        if not isinstance(was, dict) or was.get("confirming") != chosen(revision):
            raise UserError(_("Press “Promote against the rule” first."))
        policy = registry.by_revision(context.db, chosen(revision))
        if not text_in(why).strip() and peoples_decisions.objection(context.db, policy):
            reason = _("Against the rule it takes a reason: say why in the field above.")
            anew = f"<!--{next(ANSWERS)}-->"  # so that it is drawn, and told, at each press
            return shown_anew(page, context, revision, was, question=markup.status(reason, "warning") + anew)
        said = policy_decisions.promote(context, policy.revision, annotator.name, text_in(why), after=newest_shown(was))
        return after_decision(page, context, revision, {**was, "confirming": None}, said)

    @guarded(context, "admin")
    def promote_not(revision: str | None, why: Any, was: Seen) -> list[Any]:
        return shown_anew(page, context, revision, {**was, "confirming": None})

    given = [page.selector, page.parts["why"], page.seen]
    for name, handler in (("promote", promote_policy), ("really", promote_all_the_same), ("keep", promote_not)):
        page.parts[name].click(handler, given, page.followed, **QUEUED)


def wire_decisions(page: IterationsPage, context: Context) -> None:
    """Reject, check again, ask people, and take decisions back."""

    @guarded_event(context, "admin")
    def take_back(annotator: Annotator, event: Any, revision: str | None, was: Seen) -> list[Any]:
        act, subject = pressed(event, {"undo": policy_decisions.undo})
        return after_decision(page, context, revision, was, act(context, row_number(subject) or 0, annotator.name))

    @guarded(context, "admin")
    def reject_policy(annotator: Annotator, revision: str | None, why: Any, was: Seen) -> list[Any]:
        said = policy_decisions.reject(context, chosen(revision), annotator.name, text_in(why))
        return after_decision(page, context, revision, was, said)

    @guarded(context, "admin")
    def check_policy(annotator: Annotator, revision: str | None, panel: Any, was: Seen) -> list[Any]:
        said = policy_decisions.check(context, chosen(revision), annotator.name, asked(panel))
        return shown_anew(page, context, revision, was, said=markup.notice(said))

    @guarded(context, "admin")
    def ask_annotators(revision: str | None, was: Seen) -> list[Any]:
        return shown_anew(page, context, revision, was, said=markup.notice(ask_people(context.db, revision)))

    parts = page.parts
    for name, handler, given in (
        ("reject", reject_policy, [parts["why"]]),
        ("check", check_policy, [parts["judges"]]),
        ("ask", ask_annotators, []),
    ):
        parts[name].click(handler, [page.selector, *given, page.seen], page.followed, **QUEUED)
    parts["decisions"].act(take_back, [page.selector, page.seen], page.followed, **QUEUED)
