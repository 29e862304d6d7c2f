"""Speaking to the Hugging Face Hub: a client that gives up in time, and a sentence for everything that can go wrong."""

from __future__ import annotations

import errno
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from annotation.records import UserError
from annotation.translation import N_, _, joined, ngettext

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi

RepoKind = Literal["model", "dataset", "space"]
CONNECT_SECONDS: Final = 30.0
# Between two pieces of an answer. A commit of many files takes the Hub a while.
READ_SECONDS: Final = 120.0
# Lists of the files of large repositories have some megabytes.
LONGEST_ANSWER: Final = 32 * 1024 * 1024
ANSWER_SECONDS: Final = 600.0
SLOWEST_BYTES: Final = 20_000
"""A second, of a file, once the seconds for an answer are over."""
NAME_PART: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
LONGEST_NAME: Final = 96
MAXIMUM_CARD: Final = 1024 * 1024
TOKENS_PAGE: Final = "https://huggingface.co/settings/tokens"
TOKEN: Final = re.compile(r"\bhf_(?:oauth_|jwt_)?[A-Za-z0-9]{16,}(?:[\w.-]*\w)?|(?<=Bearer )[^\s.]+(?:\.[^\s.]+)*")
REFUSED: Final[Mapping[int, str]] = {
    401: N_(
        "The Hub does not accept the token: it is wrong, has expired or was withdrawn. Make a new one on "
        "{tokens_page} and set HF_TOKEN to it; a Prefloop that runs has it when it is started again."
    ),
    402: N_(
        "The Hub asks for payment: what was asked for is not in this account's plan. "
        "Choose something that is (free hardware, a private repository less), or change the plan."
    ),
    403: N_(
        "The token has no right to do that. It must be one that may write ('write', or 'fine-grained' with "
        "write access to this repository), of somebody who may write there: {tokens_page}."
    ),
    404: N_("There is no such repository, or the token may not see it. Check the name, and whose token HF_TOKEN is."),
    409: N_("There is something of that name already. Choose another name."),
}
NO_TOKEN: Final = N_(
    "No token for the Hub is set. Make one that may write on {tokens_page} and set the variable HF_TOKEN to it."
)
NO_CONNECTION: Final = N_(
    "The connection to the Hub could not be made or was lost. What was not finished there has no effect: repeat it."
)


# What the client raises of an answer that is not what it should be.
NO_ANSWER: Final = (ValueError, RuntimeError, TypeError, LookupError, AttributeError)


class EndlessAnswer(ValueError):
    """The Hub, or who answers in its place, sends more than it should, or for longer."""


@dataclass(frozen=True)
class Bounds:
    """How much an answer may be, and when it has to be there."""

    most: int
    end: float
    """By `time.monotonic`."""

    @classmethod
    def of(cls, most: int) -> Bounds:
        return cls(most, time.monotonic() + ANSWER_SECONDS + most / SLOWEST_BYTES)

    def check(self, size: int) -> None:
        """Raises EndlessAnswer once it is beyond them."""
        if size > self.most:
            raise EndlessAnswer(_("It sends more than the {most:,} bytes that it should.").format(most=self.most))
        if time.monotonic() > self.end:
            raise EndlessAnswer(_("It sends so slowly that there is no end to it."))


# Of a request, that what it asks for is no file.
ASKED: Final = "asked"
BOUNDS: Final[ContextVar[Bounds | None]] = ContextVar("bounds", default=None)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Fetch one file meanwhile, of at most so many bytes whatever the Hub says of its length; raises EndlessAnswer."""
    token = BOUNDS.set(Bounds.of(max(size, 0)))
    try:
        yield
    finally:
        BOUNDS.reset(token)


class Conflict(UserError):
    """Somebody else has changed the repository since it was read (412)."""


@dataclass(frozen=True)
class Hub:
    """A Hub, and who we are there. Without a token only what is public can be read."""

    api: HfApi
    endpoint: str
    token: str | None = field(repr=False)


@dataclass(frozen=True)
class TokenInfo:
    """Whose token it is, what it may do, and the organisations that its owner is in."""

    name: str
    role: str
    """'read', 'write', or 'fineGrained', which may write where it says so."""
    organisations: tuple[str, ...]
    pays: bool


def connect(token: str | None, endpoint: str | None = None) -> Hub:
    """A client for the Hub of HF_ENDPOINT, or another; nothing is asked yet."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import disable_progress_bars

    limit_waiting()
    silence_client_warnings()
    disable_progress_bars()
    address = endpoint or constants.ENDPOINT
    return Hub(HfApi(endpoint=address, token=token or False, library_name="prefloop"), address, token or None)


def token_here() -> str | None:
    """The token of HF_TOKEN, or the one that `hf auth login` has stored; None without any."""
    from huggingface_hub import get_token

    found: str | None = get_token()
    return found


def silence_client_warnings() -> None:
    """Keep the client's own warnings from standing before the sentence that says the same to people."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()


@cache
def limit_waiting() -> None:
    """Without this a Hub that never answers is waited for without end."""
    import httpx2
    from huggingface_hub import get_session, set_client_factory

    by_the_library = get_session().event_hooks["request"]

    def client() -> httpx2.Client:
        return httpx2.Client(
            event_hooks={"request": [*by_the_library, mark], "response": [bound]},
            follow_redirects=True,
            timeout=httpx2.Timeout(CONNECT_SECONDS, read=READ_SECONDS),
        )

    set_client_factory(client)


def mark(request: httpx2.Request) -> None:
    """Note what is no file, as which it may be answered from elsewhere."""
    if request.url.path.startswith("/api/"):
        request.extensions = {**request.extensions, ASKED: True}


def bound(response: httpx2.Response) -> None:
    """Read no more of it than there may be: of a file, what who fetches it says."""
    bounds = Bounds.of(LONGEST_ANSWER) if response.request.extensions.get(ASKED) else BOUNDS.get()
    if bounds is None:
        return
    plain = response.iter_bytes

    def pieces(chunk_size: int | None = None) -> Iterator[bytes]:
        size = 0
        for piece in plain(chunk_size):
            size += len(piece)
            bounds.check(size)
            yield piece

    bounds.check(0)
    response.iter_bytes = pieces  # type: ignore[method-assign]


# ---------------------------------------------------------------------------------------------------------- sentences
@contextmanager
def explained(sentence: str, **gaps: object) -> Iterator[None]:
    """Whatever the client raises becomes this sentence, and one that says why, and how to mend it.

    Raises Conflict where somebody else was quicker, UserError for all else.
    """
    import httpx2

    try:
        yield
    except (httpx2.HTTPError, OSError, *NO_ANSWER) as error:
        kind = Conflict if status_of(error) == 412 else UserError
        raise kind(without_tokens(joined(sentence.format(**gaps), reason(error)))) from error


def no_token() -> str:
    return _(NO_TOKEN).format(tokens_page=TOKENS_PAGE)


def reason(error: BaseException) -> str:
    """Why a call to the Hub failed and what to do about it."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalTokenNotFoundError):
        return no_token()
    if isinstance(error, EndlessAnswer):
        return str(error)
    if isinstance(error, errors.HFValidationError):
        return joined(first_line(error), name_rule())
    if isinstance(error, errors.OfflineModeIsEnabled):
        return _("HF_HUB_OFFLINE is set, so that nothing may ask the Hub. Unset it.")
    if isinstance(error, errors.RevisionNotFoundError):
        return _("The repository has no such revision. Give a branch, a tag or a commit that it has.")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return _("The repository has no such file.")
    response = getattr(error, "response", None)
    if response is not None:
        return refusal(response, error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _("The disk is full. Free some space, then repeat it.")
    if is_connection(error):
        return _(NO_CONNECTION)
    # The client wraps what went wrong with a file into an error that says only which file it was.
    if error.__cause__ is not None and isinstance(error, (RuntimeError, errors.LocalEntryNotFoundError)):
        return reason(error.__cause__)
    if isinstance(error, OSError):
        return f"{error.strerror or first_line(error)}."
    return _("It could not be used ({what}).").format(what=" ".join(str(error).split())[:300] or type(error).__name__)


def refusal(response: Any, error: BaseException) -> str:
    status: int = response.status_code
    if status == 401 and "authorization" not in response.request.headers:
        return joined(_(REFUSED[404]), _("Without a token only what is public can be seen."), no_token())
    if status == 412:
        return _("Somebody else has changed the repository meanwhile. Look at what is there, then repeat it.")
    if status == 429:
        # How long the Hub asks us to wait, by `RateLimit: "api";r=0;t=55` or `Retry-After: 55`.
        found = re.search(r"(?:^|;)\s*t=(\d+)", response.headers.get("ratelimit", "")) or re.fullmatch(
            r"\s*(\d{1,9})\s*", response.headers.get("retry-after", "")
        )
        seconds = int(found[1]) if found else None
        if not seconds:
            return _("The Hub's rate limit is reached. Repeat it later.")
        return ngettext(
            "The Hub's rate limit is reached. Repeat it in {seconds} second.",
            "The Hub's rate limit is reached. Repeat it in {seconds} seconds.",
            seconds,
        ).format(seconds=seconds)
    if status >= 500:
        return _("The Hub has trouble of its own (status {status}). Repeat it later.").format(status=status)
    if status in REFUSED:
        return _(REFUSED[status]).format(tokens_page=TOKENS_PAGE)
    return _("The Hub refuses it (status {status}: {first_line}).").format(status=status, first_line=first_line(error))


def is_connection(error: BaseException) -> bool:
    """Whether nothing was answered, or not all of it."""
    import httpx2
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):  # neither from the Hub nor from the cache
        return error.__cause__ is None or is_connection(error.__cause__)
    return isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError))


def is_missing_file(error: UserError) -> bool:
    """Whether an explained error means that a repository is there but has no such file."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    return isinstance(error.__cause__, RemoteEntryNotFoundError)


def is_passing(error: UserError) -> bool:
    """Whether an explained error may be gone soon: no connection, the rate limit, or trouble of the Hub's own."""
    cause = error.__cause__
    while isinstance(cause, UserError):
        cause = cause.__cause__
    status = None if cause is None else status_of(cause)
    return cause is not None and (is_connection(cause) or status in (408, 429) or (status or 0) >= 500)


def status_of(error: BaseException) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def without_tokens(text: str) -> str:
    """A text in which nothing looks like a token: where nothing does, as it was said."""
    return TOKEN.sub("[token]", text) if TOKEN.search(text) else text


def for_log(error: Exception) -> str:
    """An error without tokens, to be logged: a refusal as its sentence, for a full disk may refuse for days."""
    said = str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error))
    return without_tokens(said)


# -------------------------------------------------------------------------------------------------------------- checks
def front_matter(text: str) -> dict[str, Any]:
    """The YAML at the head of a card, which may be anybody's; empty where there is none that can be read."""
    import yaml

    if not text.startswith("---\n"):
        return {}
    try:
        # By libyaml, where it is: a megabyte takes seconds by it, and half a minute without.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        found = yaml.load(text[4:].split("\n---", 1)[0], loader)
    except Exception:  # a value that is not what it is tagged as fails in ways of its own
        return {}
    return found if isinstance(found, dict) else {}


def card_head(path: Path) -> dict[str, Any]:
    """The same of a card in a file, which is read no further than any card goes."""
    with path.open("rb") as file:
        return front_matter(file.read(MAXIMUM_CARD).decode("utf-8", "replace"))


def to_front_matter(fields: Mapping[str, Any]) -> str:
    """Fields as the YAML at the head of a card, between its dashes."""
    import yaml

    # huggingface_hub's ModelCardData and DatasetCardData make the same YAML, in another order. Tests read ours with
    # them; used here, every export and training would import it to write a card that may never leave this machine.
    return f"---\n{yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True)}---"


def split_address(address: str) -> tuple[str, str | None]:
    """OWNER/NAME and the revision of OWNER/NAME@REVISION, if it has one. Raises UserError for what can't be either."""
    repo, _at, revision = address.partition("@")
    check_name(repo)
    if revision and not re.fullmatch(r"[\w./+-]{1,200}", revision, re.ASCII):
        said = _("'{revision}' can't be a revision. Give a branch, a tag or a commit of {repo}.")
        raise UserError(said.format(revision=revision[:80], repo=repo))
    return repo, revision or None


NAME_RULE: Final = N_(
    "A repository's name is OWNER/NAME, of letters, digits, '-', '_' and '.', neither beginning nor ending "
    "with '-' or '.', without '--' and '..', and of at most {longest_name} characters."
)


def name_rule() -> str:
    return _(NAME_RULE).format(longest_name=LONGEST_NAME)


def check_name(repo: str) -> None:
    """Raises UserError for what can't be OWNER/NAME on the Hub."""
    parts = repo.split("/")
    sound = len(parts) == 2 and all(NAME_PART.fullmatch(part) for part in parts) and len(repo) <= LONGEST_NAME
    if not sound or "--" in repo or ".." in repo or repo.endswith((".git", ".ipynb")):
        refused = _("'{repo}' can't be the name of a repository.").format(repo=repo[:120])
        raise UserError(joined(refused if repo else _("Name the repository."), name_rule()))


def hourly_price(hardware: Any) -> float:
    """What the hardware of a Space or a job costs, in dollars an hour; the Hub says it by the minute."""
    return round(float(hardware.unit_cost_usd) * (60 if hardware.unit_label == "minute" else 1), 4)


def check_token(hub: Hub, repo: str | None = None) -> TokenInfo:
    """Who the token says we are. Raises UserError where it is missing, refused, may only read, or can't write to repo.

    What a fine-grained token may do shows only when it does it.
    """
    if hub.token is None:
        raise UserError(joined(_("This can't be done."), no_token()))
    with explained(_("Asking the Hub whose token it is failed.")):
        told = hub.api.whoami(cache=True)
    token = told.get("auth", {}).get("accessToken", {})
    organisations = tuple(one["name"] for one in told.get("orgs", []))
    who = TokenInfo(told["name"], token.get("role", "write"), organisations, bool(told.get("isPro")))
    if who.role == "read":
        said = _(
            "The token is {name}'s and may only read. Make one that may write on {tokens_page} and set "
            "HF_TOKEN to it; a Prefloop that runs has it when it is started again."
        )
        raise UserError(said.format(name=who.name, tokens_page=TOKENS_PAGE))
    if repo is not None:
        check_name(repo)
        owner = repo.split("/")[0]
        if owner not in (who.name, *who.organisations):
            places = ", ".join(f"{name}/…" for name in (who.name, *who.organisations))
            said = _("The token is {name}'s, who has no right to write to {repo}. Use {places}.")
            raise UserError(said.format(name=who.name, repo=repo, places=places))
    return who


# ------------------------------------------------------------------------------------------------------------- writing
def ensure_repo(
    hub: Hub, repo: str, kind: RepoKind, private: bool, *, public_before: bool = False, **settings: Any
) -> bool:
    """Create a repository where there is none; returns whether it is private. `settings` are those of a Space.

    Raises UserError where it can't be, or where one is there that others can see though it should be private, or the
    other way round: who may see a repository is never changed in passing. With `public_before` it was public when we
    last put something there, and may stay so.
    """
    check_name(repo)
    with explained(_("Creating {repo} failed."), repo=repo):
        hub.api.create_repo(repo, repo_type=kind, private=private, exist_ok=True, **settings)
        is_private = bool(hub.api.repo_info(repo, repo_type=kind).private)
    if is_private != private and not (public_before and not is_private):
        raise UserError(_(IS_PRIVATE if is_private else IS_PUBLIC).format(repo=repo))
    return is_private


IS_PRIVATE = N_(
    "{repo} is there and private, and this was to be public. Change that on its settings page on the Hub, choose "
    "another name, or ask for private."
)
IS_PUBLIC = N_(
    "{repo} is there and public, and this was to be private. Change that on its settings page on the Hub, choose "
    "another name, or ask for public."
)


def commit(
    hub: Hub,
    repo: str,
    kind: RepoKind,
    files: Mapping[str, Path | bytes],
    message: str,
    parent: str | None = None,
    *,
    gone: Sequence[str] = (),
    branch: str = "main",
) -> str:
    """Put files into a repository and take those in `gone` out, all in one commit or not at all; returns its sha.

    `parent` is the commit that the branch must still be at. Where no file differs from what is there, nothing is asked
    of the Hub, not even that: the head's sha comes back, whoever made it. Raises Conflict for a stale parent, UserError
    for all else.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations = [CommitOperationDelete(path) for path in gone]
    with explained(_("Uploading to {repo} failed."), repo=repo):
        for path, content in files.items():
            operations.append(CommitOperationAdd(path, content if isinstance(content, bytes) else str(content)))
        done = hub.api.create_commit(
            repo, operations, commit_message=message, repo_type=kind, revision=branch, parent_commit=parent
        )
    return str(done.oid)
