"""The Hub tab: models and data to and from the Hugging Face Hub, this program as a Space, and how safe copies stand.

The web server has no token. What is asked here is done by whoever has it (`rlhf.hub.hub_requests`), and what came of it
is shown at its form.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from types import MappingProxyType
from typing import Any

import gradio as gr

from annotation.copies import safe_copies, targets
from annotation.database import Database
from annotation.exports.formats import FORMATS, ONE_FILE
from annotation.imports.import_process import FROM_HUB
from annotation.jobs import job_table
from annotation.jobs.job_queue import JobQueue, JobRequest
from annotation.records import Annotator, UserError, now, who
from annotation.tabs.components import (
    QUEUED,
    QUIET,
    Seen,
    Update,
    button,
    changes,
    html_box,
    licence_choice,
    meanings,
    open_choice,
    opening_of,
    row_number,
    text_in,
)
from annotation.tabs.guard import Context, guarded
from annotation.tabs.polling import again, poll, pulse
from annotation.translation import N_, _, joined
from annotation.ui.formatting import moment
from annotation.ui.markup import heading, paragraph, status, table
from rlhf.hub import publications, space_upload
from rlhf.hub.hub_requests import (
    REQUESTS,
    CheckSpace,
    CheckToken,
    MakeSpace,
    PublishModel,
    PullModel,
    PushData,
    Request,
    SpaceCheck,
)
from rlhf.hub.publications import Publication
from rlhf.hub.pull_model import PRECISIONS
from rlhf.hub.token_launcher import PLACE
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import TrainingSpec, short_of, trainings
from rlhf.jobs.job_store import Job
from rlhf.models import registry
from rlhf.models.registry import PRECISION_WORDS, Policy
from rlhf.tabs.hub import hub_preview
from rlhf.tabs.jobs import job_words

# While something that was asked is not done, and while only the safe copies change.
POLL_SECONDS, RESTING_SECONDS = 1, 15
SHOWN_REQUESTS = 10
# The buttons that do nothing without a token; those that only look say what they can.
NEED_TOKEN = ("token", "publish", "pull", "push")
NO_TOKEN = N_(
    "Nobody has a token for the Hub here: set HF_TOKEN to one that may write, or run “hf auth login”, "
    "then start Prefloop again."
)
JUDGEMENTS = "judgements"
# The fields of a Space, in the form's order; "public" is the last one.
SPACE_TEXTS = ("repo", "hardware", "admins", "annotators", "copies", "model")
SPACE_FIELDS = (
    (N_("What is left empty"), N_("It stays as the Space has it; a new one goes by what stands there in grey.")),
    (N_("Hardware"), N_("For example cpu-upgrade.")),
    (N_("Safe copies go to"), N_("A dataset, or a mounted directory. Without it a restart loses everything.")),
    (N_("Admins"), N_("owner, org, or names.")),
    (N_("Annotators"), N_("everybody, nobody, owner, org, or names.")),
    (N_("Base model"), N_("A public chat model on the Hub.")),
)

NAMES: Mapping[str, str] = {
    "token": N_("Check the token"),
    "prices": N_("Ask for prices"),
    "publish": N_("Publish a model"),
    "pull": N_("Pull a model"),
    "push-data": N_("Push data"),
    "check-space": N_("Check a Space"),
    "make-space": N_("Create or update a Space"),
    "import": N_("Import a dataset"),
    "look": N_("Look at a dataset"),
}
STATES: Mapping[str, str] = {
    "queued": N_("waits"),
    "running": N_("at work"),
    "cancelling": N_("is to stop"),
    "finished": N_("done"),
    "failed": N_("failed"),
    "cancelled": N_("cancelled"),
}
# Everything in the Hub's lane that is asked for on a page, imports of the Data tab too.
HUB_LANE: JobQueue[JobRequest] = JobQueue("hub", {**REQUESTS.kinds, **FROM_HUB.kinds})
HubJob = job_table.Job[Any]
# Which kinds' newest job is shown at which form.
FORMS: Mapping[str, tuple[str, ...]] = {
    "token": ("token",),
    "publish": ("publish",),
    "pull": ("pull",),
    "push": ("push-data",),
    "space": ("check-space", "make-space"),
}


# ------------------------------------------------------------------------------------------------------- what is shown
def request_card(job: HubJob | None, held: bool = True) -> str:
    """What became of what was asked at a form last; `held`: whether somebody has a token to do it."""
    if job is None:
        return ""
    if job.is_open and not held:
        return status(_("Waits until Prefloop has a token: {what}.").format(what=about(job)), "warning")
    if job.is_open:
        waits = job.status == "queued"
        text = _("Waits for its turn: {what} …") if waits else _("At work: {what} …")
        return status(text.format(what=about(job)))
    said = status(_(job.message), "" if job.status == "finished" else "warning")
    asked = _("Requested by {name}; it ended on {when} UTC.")
    said += paragraph(asked.format(name=who(job.requested_by), when=moment(job.finished)), "quiet")
    found = SpaceCheck.of(job.result) if job.kind == "check-space" else None
    return said + (hub_preview.findings_table(found.findings) if found is not None and found.findings else "")


def about(job: HubJob) -> str:
    name = _(NAMES[job.kind])
    match job.spec:
        case PublishModel(revision, repo):
            return _("{name}: {revision} to {repo}").format(name=name, revision=revision, repo=repo)
        case PullModel(address):
            return f"{name}: {address}"
        case PushData(repo) | CheckSpace(repo):
            return f"{name}: {repo}"
    return name


def requests_table(found: Sequence[HubJob]) -> str:
    """What was asked here; nothing while nothing was."""
    rows = [
        (moment(one.created), about(one), who(one.requested_by), _(STATES[one.status]), _(one.message)) for one in found
    ]
    headers = (_("When (UTC)"), _("What"), _("Requested by"), _("State"), _("What came of it"))
    return heading(_("What was asked")) + table(headers, rows) if rows else ""


def publications_table(found: Sequence[Publication], revisions: Mapping[int, str]) -> str:
    """What was put on the Hub from here, if anything; addresses are text, since a name on the Hub is anybody's."""
    rows = [
        (
            revisions.get(one.model_id, "") if one.model_id else _("frozen data") if one.tag else _("judgements"),
            f"{one.repo}{f'@{one.tag}' if one.tag else ''}",
            one.commit_sha[:12],
            _("private") if one.private else _("public"),
            who(one.published_by),
            moment(one.created),
        )
        for one in found
    ]
    headers = (_("What"), _("Where on the Hub"), _("Commit"), _("Published as"), _("By"), _("When (UTC)"))
    return heading(_("Published from here")) + table(headers, rows) if rows else ""


def copies_card(db: Database, environment: Mapping[str, str]) -> str:
    place = targets.target_name(environment.get(PLACE, "").strip())
    if not place:
        return paragraph(
            _(
                "No safe copies are made. Start Prefloop with {place}=OWNER/NAME-copies, a private dataset, or with a "
                "directory on another disk."
            ).format(place=PLACE)
        ) + hub_preview.copies_preview(safe_copies.Schedule.from_environment(environment))
    found = safe_copies.status(db, place)
    said = _("No copy has been begun yet.") if found is None else safe_copies.sentence(found, now(), "admin")
    began = safe_copies.start_notice(db)
    card = paragraph(
        _("To {place}. {said}").format(place=place, said=said), "warning" if found is not None and found.problem else ""
    )
    when = safe_copies.noticed(db)
    if when is not None:
        began = _("When Prefloop started, on {when} UTC: {notice}").format(when=moment(when), notice=began)
    return card + (paragraph(began, "warning") if began else "")


def model_choices(known: Sequence[Policy]) -> list[tuple[str, str]]:
    """The models with files, newest first."""
    policy = _("{revision} ({algorithm}, {status})")
    reward_model = _("{revision} ({algorithm}, reward model, {status})")
    found = []
    for one in reversed(known):
        if one.path is not None and one.deleted is None:
            said = policy if one.kind == "policy" else reward_model
            algorithm, status = short_of(one.algorithm), one.status_word
            found.append((said.format(revision=one.revision, algorithm=algorithm, status=status), one.revision))
    return found


def to_publish(known: Sequence[Policy]) -> str | None:
    """The model that is chosen before anybody chooses: the one that serves, else the newest; None without files."""
    there = [revision for _, revision in model_choices(known)]
    serving = [one.revision for one in known if one.status == "serving" and one.revision in there]
    return next(iter([*serving, *there]), None)


def all_judgements() -> tuple[str, str]:
    """What is chosen for the judgements, where others choose a run."""
    return _("All judgements of a format"), JUDGEMENTS


def run_choices(found: Sequence[Job]) -> list[tuple[str, str]]:
    """The training runs whose frozen data can be pushed, newest first."""
    said = _("The frozen data of run {id} ({kind}, {status})")
    states = job_words.STATUS_WORDS
    frozen = [one for one in found if isinstance(one.spec, TrainingSpec) and one.spec.snapshot]
    return [
        (said.format(id=one.id, kind=short_of(one.kind), status=_(states[one.status])), str(one.id)) for one in frozen
    ]


# ----------------------------------------------------------------------------------------------------------- the Space
def agreement(checked: HubJob | None) -> str:
    """What somebody who makes the checked Space agrees to; empty where it can't be made."""
    found = None if checked is None else SpaceCheck.of(checked.result)
    if checked is None or found is None or found.errors:
        return ""
    asked = checked.spec
    assert isinstance(asked, CheckSpace)
    if found.public:
        seen = _("{repo} will be public: everybody can open it and read the program's files and settings.")
    elif found.shuts_out:
        seen = _(
            "{repo} will be private: only its owner, or the members of its organisation, can open it, though {setting} "
            "lets others in."
        )
    else:
        seen = _("{repo} will be private: only its owner, or the members of its organisation, can open it.")
    cost = (
        _("{hardware} costs ${price:.2f} an hour while it runs.")
        if found.price
        else _("No paid hardware is asked for.")
    ).format(hardware=found.hardware, price=found.price)
    return joined(_("I agree."), seen.format(repo=asked.repo, setting=found.shuts_out), cost)


def valid_check(db: Database) -> HubJob | None:
    """The newest check of a Space, unless one was made since."""
    latest = REQUESTS.newest(db, "check-space", "make-space")
    return latest if latest is not None and latest.kind == "check-space" else None


def space_to_make(db: Database, *values: Any) -> MakeSpace:
    """The Space of the form, as it was checked and agreed to. Raises UserError where it was not."""
    *fields, agreed = values
    asked = space_of(*fields)
    asked.check()
    checked = valid_check(db)
    found = None if checked is None else SpaceCheck.of(checked.result)
    if checked is None or found is None or not agreement(checked):
        raise UserError(_("Check the Space as the form describes it now. What it costs and makes public is said then."))
    if checked.spec != asked:
        raise UserError(_("The form says something else than what was checked. Check it again first."))
    if agreed is not True:
        raise UserError(_("Tick that you agree to what the check has found first."))
    return MakeSpace(**asdict(asked), price=found.price)


def space_of(*values: Any) -> CheckSpace:
    *texts, public = values
    typed = {name: text_in(text).strip() for name, text in zip(SPACE_TEXTS, texts, strict=True)}
    return CheckSpace(**typed, public=public is True)


# ------------------------------------------------------------------------------------------------------------ the view
def said_of(form: str) -> str:
    """The name of the part that says what became of a form."""
    return " ".join(("said", form))


def view(context: Context, seen: Any) -> tuple[dict[str, Update], Seen]:
    """The parts of the page that differ from what this browser session was sent last, and what it has now."""
    db, here = context.db, seen if isinstance(seen, dict) else {}
    known, held = registry.all_policies(db), context.token_held
    checked = valid_check(db)
    agreed = agreement(checked)
    revisions = {one.id: one.revision for one in known}
    parts = {
        "held": gr.update(value="" if held else hub_preview.without_token()),
        **{name: gr.update(interactive=held) for name in NEED_TOKEN},
        "token": gr.update(interactive=held, visible=held),
        "revision": gr.update(choices=model_choices(known)),
        "data": gr.update(choices=[all_judgements(), *run_choices(job_store.recent(db, tuple(trainings())))]),
        "published": gr.update(value=publications_table(publications.all_of(db), revisions)),
        "copies": gr.update(value=copies_card(db, os.environ)),
        "requests": gr.update(value=requests_table(HUB_LANE.recent(db, SHOWN_REQUESTS))),
        "agreed": gr.update(visible=bool(agreed), label=agreed, value=False),
        "make": gr.update(interactive=bool(agreed)),
        **{
            said_of(form): gr.update(value=request_card(REQUESTS.newest(db, *kinds), held))
            for form, kinds in FORMS.items()
        },
    }
    changed, marks = changes(parts, here)
    # A tick is for the check that it was given for, even where another says the same.
    marks["checked"] = None if checked is None else checked.id
    return changed if here.get("checked") == marks["checked"] else {**changed, "agreed": parts["agreed"]}, marks


# ------------------------------------------------------------------------------------------------------------ the page
class HubPage:
    """The components: `parts` follow the rows, `forms` are the fields by form, `seen` is what was sent last."""

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {}
        self.forms: dict[str, Sequence[Any]] = {}
        self.buttons: dict[str, gr.Button] = {}
        parts, forms, buttons = self.parts, self.forms, self.buttons
        parts["held"] = html_box()
        with gr.Column():
            buttons["token"] = button(_("Check the token"), "hub-token")
            forms["token"], parts["said token"] = [], html_box()
            with gr.Accordion(_("Publish a model"), open=False, elem_id="hub-publish"):
                lay_out_publish(parts, forms, buttons)
            with gr.Accordion(_("Pull a model"), open=False, elem_id="hub-pull"):
                lay_out_pull(parts, forms, buttons)
            with gr.Accordion(_("Push data"), open=False, elem_id="hub-push"):
                lay_out_push(parts, forms, buttons)
            with gr.Accordion(_("This program as a Space"), open=False, elem_id="hub-space"):
                lay_out_space(parts, forms, buttons)
            parts["requests"] = html_box()
        parts["published"] = html_box()
        gr.Markdown(_("## Safe copies"))
        parts["copies"] = html_box()
        parts.update({name: buttons[name] for name in NEED_TOKEN})
        self.seen, self.pulse = gr.State({}), pulse()

    @property
    def followed(self) -> list[Any]:
        return [*self.parts.values(), self.seen, self.pulse]

    def sent(self, context: Context, seen: Any, chosen: Mapping[str, Any] = MappingProxyType({})) -> list[Any]:
        """What goes to the browser: what has changed, with what is chosen in it, and when to ask again."""
        changed, marks = view(context, seen)
        changed |= {name: {**changed[name], "value": value} for name, value in chosen.items()}
        seconds = POLL_SECONDS if HUB_LANE.open(context.db) else RESTING_SECONDS
        return [*(changed.get(name, gr.skip()) for name in self.parts), marks, again(seconds)]


def build(demo: gr.Blocks, context: Context) -> None:
    page = HubPage()
    wire(page, context, opening_of(demo))
    wire_previews(page, context)


def lay_out_publish(parts: dict[str, Any], forms: dict[str, Sequence[Any]], buttons: dict[str, gr.Button]) -> None:
    with gr.Row():
        parts["revision"] = open_choice(_("Model"), min_width=240, elem_id="hub-model")
        repo = address(_("Repository"), "hub-publish-repo")
        licence = licence_choice()
    private = gr.Checkbox(True, label=_("Private, if it is new"))
    with gr.Row():
        buttons["look"] = button(_("What would be sent"), "hub-publish-look")
        buttons["publish"] = button(_("Publish"), "hub-publish-go", "primary")
    parts["said publish"] = html_box()
    forms["publish"] = [parts["revision"], repo, private, licence]


def lay_out_pull(parts: dict[str, Any], forms: dict[str, Sequence[Any]], buttons: dict[str, gr.Button]) -> None:
    with gr.Row():
        source = address(_("Repository"), "hub-pull-repo", _("OWNER/NAME, or OWNER/NAME@REVISION"))
        precision = gr.Radio(
            [(_("as its card says"), ""), *((_(PRECISION_WORDS[name]), name) for name in PRECISIONS)],
            value="",
            min_width=240,
            label=_("Precision of the adapter's base"),
        )
    buttons["pull"] = button(_("Pull"), "hub-pull-go", "primary")
    parts["said pull"] = html_box()
    forms["pull"] = [source, precision]


def lay_out_push(parts: dict[str, Any], forms: dict[str, Sequence[Any]], buttons: dict[str, gr.Button]) -> None:
    parts["data"] = open_choice(_("What"), [all_judgements()], value=JUDGEMENTS, elem_id="hub-push-what")
    formats = [(_(entry.title), name) for name, entry in FORMATS.items() if name not in ONE_FILE]
    chosen = gr.Radio(formats, value="preference", label=_("Format"), info=_("Of judgements."))
    with gr.Row():
        repo = address(_("Repository"), "hub-push-repo")
        licence = licence_choice()
    private = gr.Checkbox(True, label=_("Private, if it is new"))
    names = gr.Checkbox(label=_("Name the annotators (otherwise each has a pseudonym)"))
    with gr.Row():
        buttons["look at data"] = button(_("What would be sent"), "hub-push-look")
        buttons["push"] = button(_("Push the data"), "hub-push-go", "primary")
    parts["said push"] = html_box()
    forms["push"] = [parts["data"], repo, chosen, private, names, licence]


def lay_out_space(parts: dict[str, Any], forms: dict[str, Sequence[Any]], buttons: dict[str, gr.Button]) -> None:
    with gr.Row():
        repo = address(_("Name of the Space"), "hub-space-repo")
        hardware = gr.Textbox(
            label=_("Hardware"), placeholder=space_upload.FREE, min_width=240, elem_id="hub-space-hardware"
        )
        copies = gr.Textbox(label=_("Safe copies go to"), placeholder="OWNER/NAME-copies", min_width=240)
    with gr.Row():
        admins = gr.Textbox(label=_("Admins"), placeholder="owner", min_width=240)
        annotators = gr.Textbox(label=_("Annotators"), placeholder="everybody", min_width=240)
        model = gr.Textbox(label=_("Base model"), placeholder="OWNER/NAME", min_width=240)
    meanings([(_(label), _(meaning)) for label, meaning in SPACE_FIELDS])
    public = gr.Checkbox(label=_("Public: everybody can open it"))
    buttons["check"] = button(_("Check it"), "hub-space-check", "primary")
    parts["said space"] = html_box()
    parts["agreed"] = gr.Checkbox(label=_("I agree"), visible=False, elem_id="hub-space-agreed")
    parts["make"] = buttons["make"] = button(_("Create or update"), "hub-space-make", interactive=False)
    forms["space"] = [repo, hardware, admins, annotators, copies, model, public]


def address(label: str, name: str, shape: str = "OWNER/NAME") -> gr.Textbox:
    return gr.Textbox(label=label, placeholder=shape, max_length=200, min_width=240, elem_id=name)


# ------------------------------------------------------------------------------------------------------------ handlers
def wire(page: HubPage, context: Context, opening: Callable[..., Any]) -> None:
    admin = guarded(context, "admin")

    @admin
    def open_hub(model: Any, *form: Any) -> list[Any]:
        chosen = {} if text_in(model) else {"revision": to_publish(registry.all_policies(context.db))}
        return [*page.sent(context, {}, chosen), *space_form(context.db, form)]

    def follow_hub(seen: Any) -> list[Any]:
        return page.sent(context, seen)

    opening(
        open_hub,
        [page.parts["revision"], *page.forms["space"]],
        [*page.followed, *page.forms["space"]],
        api_name="hub-open",
        **QUIET,
    )
    poll(page.pulse, context, follow_hub, [page.seen], page.followed, api_name="hub-follow")
    for name, fields, request_of in (
        ("token", [], lambda: CheckToken()),
        ("publish", page.forms["publish"], publish_of),
        ("pull", page.forms["pull"], lambda source, precision: PullModel(text_in(source).strip(), text_in(precision))),
        ("push", page.forms["push"], push_of),
        ("check", page.forms["space"], space_of),
        ("make", [*page.forms["space"], page.parts["agreed"]], partial(space_to_make, context.db)),
    ):
        asks = partial(ask_hub, page, context, request_of)
        page.buttons[name].click(admin(asks), [page.seen, *fields], page.followed, api_name=f"hub-{name}", **QUEUED)


def wire_previews(page: HubPage, context: Context) -> None:
    """Say what would be sent; without a token, a check of a Space says what can be seen from here."""

    @guarded(context, "admin")
    def look_at_publication(*values: Any) -> str:
        return hub_preview.publish_preview(context.db, context.data_dir, publish_of(*values))

    @guarded(context, "admin")
    def look_at_data(*values: Any) -> str:
        return hub_preview.data_preview(context.db, context.data_dir, push_of(*values))

    page.buttons["look"].click(
        look_at_publication, page.forms["publish"], page.parts["said publish"], api_name="hub-look", **QUEUED
    )
    page.buttons["look at data"].click(
        look_at_data, page.forms["push"], page.parts["said push"], api_name="hub-look-data", **QUEUED
    )


def ask_hub(
    page: HubPage, context: Context, request_of: Callable[..., Request], annotator: Annotator, seen: Any, *values: Any
) -> list[Any]:
    """The handler of a button: ask for what its form says."""
    request = request_of(*values)
    if not context.token_held and type(request) is CheckSpace:
        said = {said_of("space"): gr.update(value=hub_preview.space_preview(request))}
        return [*(said.get(name, gr.skip()) for name in page.parts), seen, again(RESTING_SECONDS)]
    if not context.token_held:
        raise UserError(_(NO_TOKEN))
    waiting = REQUESTS.newest(context.db, status="queued")
    if waiting is not None and waiting.spec == request:
        raise UserError(_("That has been asked already, and waits for its turn."))
    REQUESTS.enqueue(context.db, request, annotator.name)
    return page.sent(context, seen)


def space_form(db: Database, form: Sequence[Any]) -> list[Any]:
    """The Space's fields when the tab is opened: as they were checked last, unless something has been typed."""
    checked = REQUESTS.newest(db, "check-space")
    if checked is None or text_in(form[0]).strip():
        return [gr.skip() for _ in form]
    assert isinstance(checked.spec, CheckSpace)
    return [*(getattr(checked.spec, name) for name in SPACE_TEXTS), checked.spec.public]


def publish_of(revision: Any, repo: Any, private: Any, licence: Any) -> PublishModel:
    """The form that publishes a model. What is not plainly asked to be public is private."""
    return PublishModel(text_in(revision), text_in(repo).strip(), private is not False, text_in(licence).strip())


def push_of(data: Any, repo: Any, chosen: Any, private: Any, names: Any, licence: Any) -> PushData:
    """The form that pushes data. Raises UserError for data that is not in its list."""
    what = text_in(data).strip()
    if what != JUDGEMENTS and row_number(what) is None:
        raise UserError(
            _("Choose what to push from the list: all judgements of a format, or the frozen data of a run.")
        )
    return PushData(
        repo=text_in(repo).strip(),
        format=text_in(chosen),
        private=private is not False,
        names=names is True,
        licence=text_in(licence).strip(),
        run=None if what == JUDGEMENTS else row_number(what),
    )
