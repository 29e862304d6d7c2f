"""What the page asks of whoever holds the Hub's token: the kinds of job in the Hub's lane, and what each does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, get_args

from annotation import hub_client as hubs
from annotation.database import Database
from annotation.environment import SPACE_TOKEN
from annotation.exports.formats import ExportRequest as Export
from annotation.exports.formats import check_licence
from annotation.hub_client import Hub
from annotation.jobs.attempt import Attempt
from annotation.jobs.job_queue import JobQueue, JobRequest, named
from annotation.jobs.job_table import Job
from annotation.jobs.lane_runner import JobOutcome
from annotation.records import UserError
from annotation.translation import _, joined, ngettext
from annotation.validation import stored
from rlhf.hub import pull_model, push_dataset, push_model, space_upload
from rlhf.hub.space_upload import SpaceFinding
from rlhf.models.registry import HeldPrecision


# ---------------------------------------------------------------------------------------------------------- vocabulary
@dataclass(frozen=True)
class CheckToken(JobRequest):
    kind = "token"


@dataclass(frozen=True)
class AskPrices(JobRequest):
    kind = "prices"


@dataclass(frozen=True)
class PublishModel(JobRequest):
    kind = "publish"
    revision: str
    repo: str
    private: bool = True
    licence: str = ""

    def check(self) -> None:
        if not self.revision:
            raise UserError(_("Choose a model to publish first."))
        hubs.check_name(self.repo)
        check_licence(self.licence)


@dataclass(frozen=True)
class PullModel(JobRequest):
    kind = "pull"
    address: str
    precision: str = ""
    """The precision of what an adapter lies on; empty for what its card says."""

    def check(self) -> None:
        hubs.split_address(self.address)
        precision_named(self.precision)


@dataclass(frozen=True)
class PushData(JobRequest):
    """Push all judgements of a format as a dataset, or the data that a run was frozen with."""

    kind = "push-data"
    repo: str
    format: str = "preference"
    private: bool = True
    names: bool = False
    """Whether annotators are named; otherwise each has a pseudonym."""
    licence: str = ""
    run: int | None = None
    """The job whose frozen data it is, whatever the format; None for judgements."""

    def check(self) -> None:
        hubs.check_name(self.repo)
        push_dataset.check_publishable(self.format)
        check_licence(self.licence)


@dataclass(frozen=True)
class CheckSpace(JobRequest):
    """Say what would fail or change on a Space, and what it costs. Empty settings are as the Space has them."""

    kind = "check-space"
    repo: str
    hardware: str = ""
    admins: str = ""
    annotators: str = ""
    copies: str = ""
    public: bool = False
    model: str = ""

    def check(self) -> None:
        hubs.check_name(self.repo)

    def plan(self, hub: Hub | None) -> space_upload.SpacePlan:
        """The Space as it is to be. Raises UserError."""
        asked = {"admins": self.admins, "annotators": self.annotators, "copies": self.copies, "model": self.model}
        return space_upload.planned(
            hub, self.repo, self.hardware, self.public, **{name: text or None for name, text in asked.items()}
        )


@dataclass(frozen=True)
class MakeSpace(CheckSpace):
    """Create a Space or bring it up to date."""

    kind = "make-space"
    price: float = 0.0
    """What somebody has agreed to pay for its hardware, in dollars an hour."""


Request = CheckToken | AskPrices | PublishModel | PullModel | PushData | CheckSpace | MakeSpace
REQUESTS: Final[JobQueue[Request]] = JobQueue(
    "hub", named(CheckToken, AskPrices, PublishModel, PullModel, PushData, CheckSpace, MakeSpace)
)


def precision_named(text: str) -> HeldPrecision | None:
    """A precision, or None for none. Raises UserError for anything else."""
    found: HeldPrecision | None = next((one for one in get_args(HeldPrecision) if one == text), None)
    if text and found is None:
        known = ", ".join(get_args(HeldPrecision))
        raise UserError(_("'{text}' is no precision. Choose one of: {known}.").format(text=text[:40], known=known))
    return found


# --------------------------------------------------------------------------------------------------------- doing them
def perform(attempt: Attempt, job: Job[Request]) -> JobOutcome:
    """Do what is asked, with the token of this process. Raises UserError where it can't be done."""
    hub, db, data_dir, by = hubs.connect(hubs.token_here()), attempt.db, attempt.data_dir, job.requested_by
    match job.spec:
        case CheckToken():
            return check_token(hub)
        case AskPrices():
            return ask_prices(hub)
        case PublishModel(revision, repo, private, licence):
            made = push_model.publish(hub, db, data_dir, revision, repo, private, licence, by)
            return JobOutcome(push_model.described(made), asdict(made))
        case PullModel(address, precision):
            policy = pull_model.pull(hub, db, data_dir, address, precision_named(precision))
            told = _("'{revision}' is here now, from {source}.")
            return JobOutcome(
                told.format(revision=policy.revision, source=policy.source), {"revision": policy.revision}
            )
        case PushData(repo, _, private, names, licence, int(run)):
            made = push_dataset.push_snapshot(hub, db, data_dir, run, repo, private, names, licence, by)
            return JobOutcome(push_model.described(made), asdict(made))
        case PushData(repo, chosen, private, names, licence):
            made = push_dataset.push_data(hub, db, Export(chosen, names=names, licence=licence), repo, private, by)
            return JobOutcome(push_model.described(made), asdict(made))
        case MakeSpace():
            return make_space(hub, job.spec)
        case CheckSpace():
            return check_space(hub, job.spec)


def check_token(hub: Hub) -> JobOutcome:
    """Whose token it is. Raises UserError where it may only read."""
    who = hubs.check_token(hub)
    if who.role == "fineGrained":
        told = _(
            "The token is {name}'s. It may write where its settings on the Hub say so, at most to repositories "
            "of: {owners}."
        )
    else:
        told = _("The token is {name}'s. It may write to repositories of: {owners}.")
    owners = ", ".join((who.name, *who.organisations))
    return JobOutcome(told.format(name=who.name, owners=owners), asdict(who))


def ask_prices(hub: Hub) -> JobOutcome:
    with hubs.explained(_("Asking the Hub for its hardware failed.")):
        listed = hub.api.list_jobs_hardware()
    found = [Flavor(one.name, one.pretty_name, hubs.hourly_price(one)) for one in listed]
    rents = ngettext("The Hub rents {count} kind of hardware.", "The Hub rents {count} kinds of hardware.", len(found))
    return JobOutcome(rents.format(count=len(found)), {"flavors": [asdict(one) for one in found]})


@dataclass(frozen=True)
class Flavor:
    """Hardware that the Hub rents, and its price in dollars."""

    name: str = ""
    label: str = ""
    price_per_hour: float = 0.0


def prices(db: Database) -> list[Flavor]:
    """What rented hardware costs, as the Hub said last; empty where it has not been asked."""
    told = REQUESTS.newest(db, "prices", status="finished")
    listed = () if told is None or told.result is None else told.result["flavors"]
    return [stored(Flavor, one) for one in listed]


@dataclass(frozen=True)
class SpaceCheck:
    """What a check of a Space found, and what has to be agreed to before it is made."""

    findings: tuple[SpaceFinding, ...] = ()
    errors: int = 0
    price: float = 0.0
    """Of the hardware that was asked for, in dollars an hour."""
    public: bool = False
    shuts_out: str = ""
    """The setting that lets people in who could not open it; empty where none does."""
    hardware: str = ""

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> SpaceCheck | None:
        """The result of a job; None where it has none."""
        if result is None:
            return None
        findings = tuple(SpaceFinding(level, text) for level, text in result["findings"])
        return replace(stored(cls, result), findings=findings)

    def stored(self) -> dict[str, Any]:
        return {**vars(self), "findings": [[one.level, one.text] for one in self.findings]}


def check_space(hub: Hub, asked: CheckSpace) -> JobOutcome:
    """What would fail, and what has to be agreed to before it is made."""
    plan = asked.plan(hub)
    found = space_upload.check(plan, hub)
    errors = len(errors_of(found))
    files = len(space_upload.contents(plan))
    hardware, price = (plan.hardware, 0.0) if errors else hardware_and_price(hub, plan)
    mend = ngettext("{count} error to be mended first.", "{count} errors to be mended first.", errors)
    verdict = mend.format(count=errors) if errors else _("Nothing would fail.")
    told = ngettext("{files} file would go to {repo}. {verdict}", "{files} files would go to {repo}. {verdict}", files)
    checked = SpaceCheck(
        findings=tuple(found),
        errors=errors,
        price=price,
        public=plan.public,
        shuts_out=plan.shuts_out,
        hardware=hardware,
    )
    return JobOutcome(told.format(files=files, repo=plan.repo, verdict=verdict), checked.stored())


def make_space(hub: Hub, asked: MakeSpace) -> JobOutcome:
    """Create or update a Space. Raises UserError where something would fail, or costs more than was agreed to."""
    plan = asked.plan(hub)
    found = errors_of(space_upload.check(plan, hub))
    if found:
        raise UserError(_("Nothing was uploaded. {why}").format(why=joined(*(one.text for one in found))))
    hardware, price = hardware_and_price(hub, plan)
    if price > asked.price:
        said = _(
            "Nothing was uploaded or spent: {hardware} costs ${price:.2f} an hour, and ${agreed:.2f} was agreed "
            "to. Check it again."
        )
        raise UserError(said.format(hardware=hardware, price=price, agreed=asked.price))
    made = space_upload.create(plan, hub, os.environ.get(SPACE_TOKEN, ""))
    told = (
        _("{address} is made at {commit}; the Hub builds it.")
        if made.new
        else _("{address} is up to date at {commit}; the Hub builds it.")
    ).format(address=made.address, commit=made.commit[:8])
    if made.changed:
        told = joined(told, _("Changed: {what}.").format(what=", ".join(made.changed)))
    return JobOutcome(told, asdict(made))


def errors_of(found: Sequence[SpaceFinding]) -> list[SpaceFinding]:
    return [one for one in found if one.level == "error"]


def hardware_and_price(hub: Hub, plan: space_upload.SpacePlan) -> tuple[str, float]:
    """The hardware that a Space will have, asked for or its own, and what it costs an hour. Raises UserError."""
    hardware = space_upload.hardware_of(plan, hub)
    return hardware, space_upload.hourly_prices(hub).get(hardware, 0.0)
