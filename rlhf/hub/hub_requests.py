"""What the page asks of whoever holds the Hub's token: rows that are taken up one by one, and what each does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, get_args

from annotation import hub_client as hubs
from annotation.database import Database
from annotation.environment import SPACE_TOKEN
from annotation.exports.formats import ExportRequest as Export
from annotation.exports.formats import check_licence
from annotation.hub_client import Hub
from annotation.imports.import_command import NOTHING_USABLE
from annotation.records import UserError, now
from annotation.translation import ngettext
from rlhf.hub import pull_model, push_dataset, push_model, space_upload
from rlhf.hub.space_upload import SpaceFinding
from rlhf.hub.token_launcher import LAUNCHER, module
from rlhf.models.registry import Weights

State = Literal["asked", "doing", "done", "failed"]
FOLLOW_SECONDS: Final = 0.4
# How often one is done again that was at work when the keeper ended: it may be what ends the keeper.
MOST_REPETITIONS: Final = 2
ROOT: Final = Path(__file__).resolve().parents[2]
LOG_BYTES: Final = 8_192
CANCELLED: Final = "It was cancelled."
STOPPING: Final = "It was asked to stop."
REFUSED: Final = 2
"""The exit status of an import that a person can mend."""


# ---------------------------------------------------------------------------------------------------------- vocabulary
@dataclass(frozen=True)
class CheckToken:
    """Say whose token it is, and what it may do."""

    def check(self) -> None:
        """There is nothing to get wrong."""


@dataclass(frozen=True)
class AskPrices:
    """Ask what rented hardware costs."""

    def check(self) -> None:
        """There is nothing to get wrong."""


@dataclass(frozen=True)
class PublishModel:
    """Push a model of the registry."""

    revision: str
    repo: str
    private: bool = True
    licence: str = ""

    def check(self) -> None:
        """Raises UserError for what can't be meant."""
        if not self.revision:
            raise UserError("Choose a model to publish first.")
        hubs.check_name(self.repo)
        check_licence(self.licence)


@dataclass(frozen=True)
class PullModel:
    """Take a model into the registry."""

    address: str
    weights: str = ""
    """The precision of what an adapter lies on; empty for what its card says."""

    def check(self) -> None:
        """Raises UserError for what can't be meant."""
        hubs.split_address(self.address)
        weights_of(self.weights)


@dataclass(frozen=True)
class PushData:
    """Push all judgements of a format as a dataset, or the data that a run was frozen with."""

    repo: str
    format: str = "preference"
    private: bool = True
    names: bool = False
    """Whether annotators are named; otherwise each has a pseudonym."""
    licence: str = ""
    run: int | None = None
    """The job whose frozen data it is, whatever the format; None for judgements."""

    def check(self) -> None:
        """Raises UserError for what can't be meant."""
        hubs.check_name(self.repo)
        push_dataset.check_publishable(self.format)
        check_licence(self.licence)


@dataclass(frozen=True)
class CheckSpace:
    """Say what would fail or change on a Space, and what it costs. Empty settings are as the Space has them."""

    repo: str
    hardware: str = ""
    admins: str = ""
    annotators: str = ""
    copies: str = ""
    public: bool = False
    model: str = ""

    def check(self) -> None:
        """Raises UserError for what can't be meant."""
        hubs.check_name(self.repo)

    def plan(self, hub: Hub) -> space_upload.SpacePlan:
        """The Space as it is to be. Raises UserError."""
        asked = {"admins": self.admins, "annotators": self.annotators, "copies": self.copies, "model": self.model}
        return space_upload.planned(
            hub, self.repo, self.hardware, self.public, **{name: text or None for name, text in asked.items()}
        )


@dataclass(frozen=True)
class MakeSpace(CheckSpace):
    """Create a Space or bring it up to date."""

    price: float = 0.0
    """What somebody has agreed to pay for its hardware, in dollars an hour."""


@dataclass(frozen=True)
class ImportData:
    """Run `annotation import` with these arguments, as the import form makes them."""

    arguments: tuple[str, ...]

    def check(self) -> None:
        """The command checks its arguments itself."""


Request = CheckToken | AskPrices | PublishModel | PullModel | PushData | CheckSpace | MakeSpace | ImportData
KINDS: Final[Mapping[str, type[Request]]] = {
    "token": CheckToken,
    "prices": AskPrices,
    "publish": PublishModel,
    "pull": PullModel,
    "push-data": PushData,
    "check-space": CheckSpace,
    "make-space": MakeSpace,
    "import": ImportData,
}
# An import, which people wait for before a form, must not wait for an upload, nor the other way round.
IMPORTS: Final = ("import",)
OTHERS: Final = tuple(kind for kind in KINDS if kind not in IMPORTS)


def weights_of(text: str) -> Weights | None:
    """A precision, or None for none. Raises UserError for anything else."""
    found: Weights | None = next((one for one in get_args(Weights) if one == text), None)
    if text and found is None:
        raise UserError(f"'{text[:40]}' is no precision. Choose one of: {', '.join(get_args(Weights))}.")
    return found


# ---------------------------------------------------------------------------------------------------------------- rows
@dataclass(frozen=True)
class Errand:
    """One row."""

    id: int
    kind: str
    request: Request
    state: State
    message: str
    """One sentence for people, once it is done or has failed."""
    result: Mapping[str, Any]
    requested_by: str
    created: str
    begun: str | None
    finished: str | None

    @property
    def is_open(self) -> bool:
        return self.state in ("asked", "doing")


def read(row: Mapping[str, Any]) -> Errand:
    """A row as a record."""
    told = json.loads(row["request"])
    if row["kind"] == "import":
        told["arguments"] = tuple(told["arguments"])
    result = json.loads(row["result"] or "{}")
    return Errand(**{**row, "request": KINDS[row["kind"]](**told), "result": result})


def ask(db: Database, request: Request, by: str) -> int:
    """Record that somebody wants something done; its number. Raises UserError for what can't be meant."""
    request.check()
    kind = next(name for name, known in KINDS.items() if known is type(request))
    with db.transaction() as connection:
        if kind in IMPORTS:  # first rows of somebody's data, which nobody looks at any more
            connection.execute("UPDATE errand SET result = NULL WHERE kind = ? AND finished IS NOT NULL", (kind,))
        told = json.dumps(asdict(request))
        return db.insert("errand", {"kind": kind, "request": told, "requested_by": by, "created": now()})


def get(db: Database, errand_id: int) -> Errand:
    """The errand of a number; it must exist."""
    row = db.row("SELECT * FROM errand WHERE id = ?", (errand_id,))
    assert row is not None
    return read(row)


def recent(db: Database, limit: int = 20) -> list[Errand]:
    """The latest errands, newest first."""
    return [read(row) for row in db.rows("SELECT * FROM errand ORDER BY id DESC LIMIT ?", (limit,))]


def newest(db: Database, *kinds: str, state: State | None = None) -> Errand | None:
    """The newest errand of these kinds, in a state if one is named."""
    row = db.row(
        f"""SELECT * FROM errand WHERE kind IN ({", ".join("?" * len(kinds))}) AND state = coalesce(?, state)
            ORDER BY id DESC LIMIT 1""",
        (*kinds, state),
    )
    return None if row is None else read(row)


def any_open(db: Database, kinds: Sequence[str] = tuple(KINDS)) -> bool:
    """Whether one of these kinds waits or is at work."""
    found = db.rows("SELECT DISTINCT kind FROM errand WHERE state IN ('asked', 'doing')")
    return any(row["kind"] in kinds for row in found)


def take(db: Database, kinds: Sequence[str] = tuple(KINDS)) -> Errand | None:
    """Take up the oldest errand of these kinds that waits; None where none does."""
    with db.transaction():
        row = db.row(
            f"""UPDATE errand SET state = 'doing', begun = ? WHERE id = (
                    SELECT id FROM errand WHERE state = 'asked' AND kind IN ({", ".join("?" * len(kinds))})
                    ORDER BY id LIMIT 1)
                RETURNING *""",
            (now(), *kinds),
        )
    return None if row is None else read(row)


def reopen(db: Database) -> None:
    """Let what was at work when the keeper ended be done again: all errands can be repeated. Not without end."""
    with db.transaction() as connection:
        connection.execute(
            """UPDATE errand SET state = 'failed', finished = ?,
                   message = 'It was interrupted each time that it was begun. Look at the log, then ask again.'
               WHERE state = 'doing' AND json_extract(result, '$.again') >= ?""",
            (now(), MOST_REPETITIONS),
        )
        connection.execute(
            """UPDATE errand SET state = 'asked', message = '',
                   result = json_object('again', coalesce(json_extract(result, '$.again'), 0) + 1)
               WHERE state = 'doing'"""
        )


def finish(db: Database, errand_id: int, state: State, message: str, result: Mapping[str, Any]) -> None:
    """Record how an errand ended."""
    with db.transaction() as connection:
        connection.execute(
            """UPDATE errand SET state = :state, message = :message, result = :result, finished = :now
               WHERE id = :id AND state = 'doing'""",
            {"state": state, "message": message, "result": json.dumps(result), "now": now(), "id": errand_id},
        )


def stop(db: Database, errand_id: int) -> None:
    """Ask an errand to end. One that nobody has taken up ends at once."""
    with db.transaction() as connection:
        connection.execute(
            "UPDATE errand SET state = 'failed', message = ?, finished = ? WHERE id = ? AND state = 'asked'",
            (CANCELLED, now(), errand_id),
        )
        connection.execute("UPDATE errand SET message = ? WHERE id = ? AND state = 'doing'", (STOPPING, errand_id))


def is_stopping(db: Database, errand_id: int) -> bool:
    """Whether an errand at work was asked to end."""
    return bool(db.value("SELECT message = ? FROM errand WHERE id = ?", (STOPPING, errand_id)))


def tell(db: Database, errand_id: int, progress: Any) -> None:
    """Record how far an errand is."""
    with db.transaction() as connection:
        connection.execute(
            "UPDATE errand SET result = json_set(coalesce(result, '{}'), '$.progress', json(?)) WHERE id = ?",
            (json.dumps(progress), errand_id),
        )


# --------------------------------------------------------------------------------------------------------- doing them
@dataclass(frozen=True)
class Done:
    """What came of an errand: a sentence, and what the page makes more of."""

    message: str
    result: Mapping[str, Any]


def do_next(db: Database, data_dir: Path, kinds: Sequence[str] = tuple(KINDS)) -> bool:
    """Do the next errand with the token of this process, whatever becomes of it; whether there was one."""
    errand = take(db, kinds)
    if errand is None:
        return False
    token = hubs.token_here()
    try:
        done = perform(hubs.connect(token), db, data_dir, errand)
    except UserError as error:
        told = {"status": error.status} if isinstance(error, Ended) else {}
        finish(db, errand.id, "failed", spoken(str(error), token), told)
    except Exception as error:
        said = f"An error of Prefloop's own ended it ({type(error).__name__}: {error}). The log has more."
        finish(db, errand.id, "failed", spoken(said, token), {})
        raise
    else:
        finish(db, errand.id, "done", spoken(done.message, token), done.result)
    return True


def spoken(message: str, token: str | None) -> str:
    """A message in which no token can be."""
    return hubs.without_tokens(message.replace(token, "[token]") if token else message)


def perform(hub: Hub, db: Database, data_dir: Path, errand: Errand) -> Done:
    """Do what is asked. Raises UserError where it can't be done."""
    by = errand.requested_by
    match errand.request:
        case CheckToken():
            return check_token(hub)
        case AskPrices():
            return ask_prices(hub)
        case PublishModel(revision, repo, private, licence):
            made = push_model.publish(hub, db, data_dir, revision, repo, private, licence, by)
            return Done(push_model.described(made), asdict(made))
        case PullModel(address, weights):
            policy = pull_model.pull(hub, db, data_dir, address, weights_of(weights))
            return Done(f"'{policy.revision}' is in the registry, from {policy.source}.", {"revision": policy.revision})
        case PushData(repo, _, private, names, licence, int(run)):
            made = push_dataset.push_snapshot(hub, db, data_dir, run, repo, private, names, licence, by)
            return Done(push_model.described(made), asdict(made))
        case PushData(repo, chosen, private, names, licence):
            made = push_dataset.push_data(hub, db, Export(chosen, names=names, licence=licence), repo, private, by)
            return Done(push_model.described(made), asdict(made))
        case MakeSpace():
            return make_space(hub, errand.request)
        case CheckSpace():
            return check_space(hub, errand.request)
        case ImportData(arguments):
            return import_data(db, data_dir, errand.id, arguments)


def check_token(hub: Hub) -> Done:
    """Whose token it is. Raises UserError where it may only read."""
    who = hubs.check_token(hub)
    where = "where its settings on the Hub say so, at most to" if who.role == "fineGrained" else "to"
    owners = " and ".join((who.name, *who.organisations))
    return Done(f"The token is {who.name}'s. It may write {where} repositories of {owners}.", asdict(who))


def ask_prices(hub: Hub) -> Done:
    """What the hardware of jobs costs."""
    with hubs.explained("Asking the Hub for its hardware"):
        listed = hub.api.list_jobs_hardware()
    found = [
        {
            "name": one.name,
            "label": one.pretty_name,
            "price_per_hour": hubs.hourly_price(one),
            "memory": one.ram,
            "accelerator": ""
            if one.accelerator is None
            else f"{one.accelerator.quantity} × {one.accelerator.model}, {one.accelerator.vram}",
        }
        for one in listed
    ]
    return Done(f"The Hub rents {len(found)} kinds of hardware.", {"flavors": found})


@dataclass(frozen=True)
class Flavor:
    """Hardware that the Hub rents, and its price in dollars."""

    name: str
    label: str
    price_per_hour: float


def prices(db: Database) -> list[Flavor]:
    """What rented hardware costs, as the Hub said last; empty where it has not been asked."""
    told = newest(db, "prices", state="done")
    listed = () if told is None else told.result["flavors"]
    return [Flavor(one["name"], one["label"], one["price_per_hour"]) for one in listed]


def check_space(hub: Hub, asked: CheckSpace) -> Done:
    """What would fail, and what has to be agreed to before it is made."""
    plan = asked.plan(hub)
    found = space_upload.check(plan, hub)
    errors = len(errors_of(found))
    files = len(space_upload.contents(plan))
    mend = ngettext("{count} error to be mended first.", "{count} errors to be mended first.", errors)
    verdict = mend.format(count=errors) if errors else "Nothing would fail."
    return Done(
        f"{files} files would go to {plan.repo}. {verdict}",
        {
            "findings": [[one.level, one.text] for one in found],
            "errors": errors,
            "price": 0.0 if errors else price_of(hub, plan),
            "public": plan.public,
            "shuts_out": plan.shuts_out,
            "hardware": plan.hardware,
        },
    )


def make_space(hub: Hub, asked: MakeSpace) -> Done:
    """Create or update a Space. Raises UserError where something would fail, or costs more than was agreed to."""
    plan = asked.plan(hub)
    found = errors_of(space_upload.check(plan, hub))
    if found:
        raise UserError(f"Nothing was uploaded. {' '.join(one.text for one in found)}")
    price = price_of(hub, plan)
    if price > asked.price:
        raise UserError(
            f"Nothing was uploaded or spent: {plan.hardware} costs ${price:.2f} an hour, and ${asked.price:.2f} was "
            "agreed to. Check it again."
        )
    made = space_upload.create(plan, hub, os.environ.get(SPACE_TOKEN, ""))
    changed = f" Changed: {', '.join(made.changed)}." if made.changed else ""
    state = "made" if made.new else "up to date"
    return Done(f"{made.address} is {state} at {made.commit[:8]}; the Hub builds it.{changed}", asdict(made))


def errors_of(found: Sequence[SpaceFinding]) -> list[SpaceFinding]:
    """What stops an upload."""
    return [one for one in found if one.level == "error"]


def price_of(hub: Hub, plan: space_upload.SpacePlan) -> float:
    """What a Space's hardware costs in dollars an hour, where one is asked for. Raises UserError."""
    return space_upload.hourly_prices(hub).get(plan.hardware, 0.0) if plan.hardware else 0.0


# ------------------------------------------------------------------------------------------------------------- imports
class Ended(UserError):
    """An import has ended without a result; `status` is that of its process."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def import_data(db: Database, data_dir: Path, errand_id: int, arguments: Sequence[str]) -> Done:
    """Run an import in a process of its own that has the token, and pass on what it says. Raises Ended."""
    with (
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            import_command(data_dir, arguments),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(ROOT), LAUNCHER: str(os.getpid())},
        ) as process,
    ):
        said: Mapping[str, Any] = {}
        while process.poll() is None:
            time.sleep(FOLLOW_SECONDS)
            if is_stopping(db, errand_id):
                process.terminate()
            following = last_said(printed)
            if following != said and "progress" in following:
                tell(db, errand_id, following["progress"])
            said = following
        said, words = last_said(printed), last_words(errors)
    if process.returncode == 0 or (process.returncode == NOTHING_USABLE and ("look" in said or "outcome" in said)):
        return Done("", said)
    if process.returncode == REFUSED:
        raise Ended(words.splitlines()[-1] if words else "The import was refused.", REFUSED)
    if is_stopping(db, errand_id):
        raise Ended(CANCELLED, -signal.SIGTERM)
    raise Ended(words or "The import ended without a word.", process.returncode)


def import_command(data_dir: Path, arguments: Sequence[str]) -> list[str]:
    """The keeper's own command line, so that nobody can read the token in the environment of what it starts."""
    nice = ["nice", "-n", "10"] if sys.platform != "win32" else []
    return [*nice, *module("rlhf.hub.token_process"), "--data", str(data_dir), "--import", json.dumps(list(arguments))]


def last_said(printed: IO[bytes]) -> Mapping[str, Any]:
    """The last whole line of a file that another process writes."""
    # Not by seeking, which would move the other process's place as well.
    lines = os.pread(printed.fileno(), os.fstat(printed.fileno()).st_size, 0).split(b"\n")[:-1]
    found: Mapping[str, Any] = json.loads(lines[-1]) if lines else {}
    return found


def last_words(errors: IO[bytes]) -> str:
    """The end of what a process has printed."""
    size = os.fstat(errors.fileno()).st_size
    return os.pread(errors.fileno(), LOG_BYTES, max(0, size - LOG_BYTES)).decode("utf-8", "replace").strip()


def requested_by(arguments: Sequence[str]) -> str:
    """Who an import is for, as its arguments say it; a look is nobody's."""
    options = arguments[: list(arguments).index("--")]
    return next((one.removeprefix("--by=") for one in options if one.startswith("--by=")), "the import form")


@dataclass
class ImportRun:
    """An import as the form follows it: an errand for whoever has the token."""

    db: Database
    errand_id: int
    errand: Errand | None = None

    @classmethod
    def start(cls, db: Database, arguments: Sequence[str]) -> ImportRun:
        return cls(db, ask(db, ImportData(tuple(arguments)), requested_by(arguments)))

    def lines(self) -> Iterator[str]:
        """What the command says, as JSON, until it has ended."""
        told: Mapping[str, Any] = {}
        try:
            while self.errand is None or self.errand.is_open:
                time.sleep(0 if self.errand is None else FOLLOW_SECONDS)
                self.errand = get(self.db, self.errand_id)
                if self.errand.result != told:
                    told = self.errand.result
                    yield json.dumps(told)
        finally:
            self.db.close()  # the connection of this thread

    def end(self) -> tuple[int, str]:
        """The status of the command, and its last words."""
        assert self.errand is not None
        if self.errand.state == "done":
            return 0, ""
        cancelled = self.errand.message == CANCELLED
        return int(self.errand.result.get("status", -signal.SIGTERM if cancelled else REFUSED)), self.errand.message

    def stop(self) -> None:
        stop(self.db, self.errand_id)
