"""A chat model behind an OpenAI-compatible endpoint: time-outs, retries, a budget of calls, several at a time."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from annotation.environment import JUDGE_KEY
from annotation.records import Message, UserError, storable
from annotation.translation import _, ngettext
from annotation.validation import read
from rlhf.judges.judge_settings import EndpointSettings

FailureReason = Literal["timeout", "rate limit", "server error", "unreachable", "unreadable", "no verdict", "refused"]
OPENAI_KEY, OPENAI_HOST = "OPENAI_API_KEY", "api.openai.com"
# Where the environment says whose an OpenAI key is as well, as OpenAI's own library reads it; and behind the name of
# any other variable. Both hold a host or an address.
OPENAI_ADDRESS, HOST = "OPENAI_BASE_URL", "_HOST"
# Shorter ones are placeholders such as EMPTY for servers that check none, and are words of the language.
SHORTEST_KEY = 12
MOST_BYTES = 1_000_000
# Codings of a reply that may make much of little.
PACKED = re.compile("gzip|deflate|br|zstd|compress", re.IGNORECASE)
CONNECT_SECONDS = 10.0
# Before the first repetition; doubled for each further one. Some of it is drawn, so that callers do not come together.
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
LOOK_SECONDS = 0.1
MOST_TOKENS = 2**31 - 1

# They log every call's address, and on request all headers that come back.
for name in ("httpx", "httpcore"):
    logging.getLogger(name).setLevel(logging.WARNING)


# --------------------------------------------------------------------------------------------------------- settings
def settings_of(values: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> EndpointSettings:
    """Given settings, which a form may call by `labels`.

    Raises UserError where an endpoint can't work, or a secret would go where it should not.
    """
    settings = read(EndpointSettings, values, _("The endpoint"), labels)
    check_address(settings.address, bool(settings.key_variable))
    if not 0 < len(settings.model.strip()) <= 200:
        raise UserError(_("Name the model that the endpoint is to answer with, in up to 200 characters."))
    key = settings.key_variable
    if key and (not JUDGE_KEY.fullmatch(key) or key.endswith(HOST)):
        # Whoever may name an address could have any secret of this process sent to it.
        raise UserError(
            _(
                "The key's environment variable must be OPENAI_API_KEY or begin with PREFLOOP_JUDGE_, and not end with "
                "_HOST, so that no other secret can be sent to an endpoint. Give the variable's name here, never the "
                "key."
            )
        )
    if settings.key_variable:
        check_host(settings.key_variable, httpx.URL(settings.address).host)
    return settings


def check_address(address: str, has_key: bool) -> None:
    """Raises UserError unless an address is http(s) with a host and nothing besides a path."""
    example = _("It looks like https://api.openai.com/v1 or http://127.0.0.1:8000/v1.")
    try:
        parts, parsed = urlsplit(address), httpx.URL(address)
        port = parts.port
    except (ValueError, httpx.InvalidURL):
        raise UserError(_("The endpoint's address can't be read. {example}").format(example=example)) from None
    if parts.scheme not in ("http", "https") or not parsed.host or port == 0 or len(address) > 500:
        said = _("The endpoint's address needs http:// or https:// and a host. {example}")
        raise UserError(said.format(example=example))
    # Not repeated in the sentences: it may hold a secret.
    if "@" in parts.netloc or "?" in address or "#" in address or re.search(r"\s", address):
        said = _(
            "The endpoint's address must hold no name, password, query or spaces: it is stored and shown. {example}"
        )
        raise UserError(said.format(example=example))
    if has_key and parts.scheme == "http" and not is_near(parsed.host):
        raise UserError(_("The key would go to {host} unencrypted. Use https://, or no key.").format(host=parsed.host))


def check_host(variable: str, host: str) -> None:
    """Raises UserError where a key would go to another host than the environment says it is for.

    OpenAI's key is for OpenAI and its regions; any other for whatever host an admin names, unless it is said.
    """
    if variable == OPENAI_KEY:
        where, regional = OPENAI_ADDRESS, host.endswith(f".{OPENAI_HOST}")
        hosts = [OPENAI_HOST, named_host(where) or OPENAI_HOST]
    else:
        where, regional = variable + HOST, False
        hosts = [named_host(where) or host]
    if host not in hosts and not regional:
        said = _(
            "The key in {variable} is for {hosts} and would go to {host}. If that is right, whoever starts "
            "Prefloop says so in its environment with {where}={host}."
        )
        raise UserError(said.format(variable=variable, hosts=", ".join(dict.fromkeys(hosts)), host=host, where=where))


def named_host(where: str) -> str:
    """The host that a variable of the environment names, by itself or in an address; empty where it is not set.

    Raises UserError where it names none.
    """
    said = os.environ.get(where, "").strip()
    try:
        host = httpx.URL(said if "//" in said else f"//{said}").host
    except httpx.InvalidURL:
        host = ""
    if said and not host:
        raise UserError(_("{where} in the environment of Prefloop names no host.").format(where=where))
    return host


def is_near(host: str) -> bool:
    """Whether a host is this machine or one of its own network, as far as its name says."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        # A number is an address anywhere, to whoever looks it up.
        named = "." not in host and not re.fullmatch(r"\d+|0x[0-9a-f]*", host, re.IGNORECASE)
        return named or host.endswith((".localhost", ".local", ".internal"))
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_private and not found.is_link_local  # where clouds hand out secrets


# --------------------------------------------------------------------------------------------------------- failures
@dataclass(frozen=True)
class Failure:
    """Why there is no reply: a kind to count by, and a sentence that holds neither the key nor what was received."""

    reason: str
    sentence: str
    prompt_tokens: int = 0
    """Of a reply that came, and was paid for, but is of no use."""
    completion_tokens: int = 0


class EndpointError(UserError):
    """A call that failed. `again`: after how many seconds at least it may be repeated; None where that is no use."""

    def __init__(
        self, reason: FailureReason, sentence: str, again: float | None = None, tokens: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__(sentence)
        self.failure = Failure(reason, sentence, *tokens)
        self.again = again


class RequestsStopped(UserError):
    """Nothing more is asked: the budget of calls is spent, or the job was told to stop."""


# --------------------------------------------------------------------------------------------------------- endpoint
@dataclass(frozen=True)
class Reply:
    """What came back. Token counts are the endpoint's own, 0 where it gives none."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Endpoint:
    def __init__(self, settings: EndpointSettings, stopped: Callable[[], bool] = lambda: False) -> None:
        """`stopped` is asked often, always from the thread that asks. Raises UserError as `settings_of` does."""
        settings_of(vars(settings))
        self.settings = settings
        self.stopped = stopped
        self.calls = 0
        """Calls made so far, repeated ones included."""
        self._counting = threading.Lock()
        self._unsupported: set[str] = set()

    @property
    def exhausted(self) -> bool:
        return self.calls >= self.settings.calls

    def ask_many(self, prompts: Iterable[Sequence[Message]]) -> Iterator[tuple[int, Reply | Failure]]:
        """(place of the prompt, reply or why there is none), in the order in which they come in.

        Ends early when the budget is spent or the job is told to stop. What is under way then is waited for and given
        out, since it is paid for; what was not asked is left out.
        """
        over = threading.Event()
        waiting = enumerate(prompts)
        running: dict[Future[Reply], int] = {}
        with self._connected() as client, ThreadPoolExecutor(self.settings.concurrency, "endpoint") as pool:
            try:
                while True:
                    if self.stopped():
                        over.set()
                    while not over.is_set() and len(running) < self.settings.concurrency:
                        place, messages = next(waiting, (-1, ()))
                        if place < 0:
                            break
                        running[pool.submit(self._ask, client, messages, over.is_set)] = place
                    if not running:
                        return
                    for future in wait(running, LOOK_SECONDS, FIRST_COMPLETED).done:
                        place, outcome = running.pop(future), outcome_of(future)
                        if outcome is None:
                            over.set()
                        else:
                            yield place, outcome
            finally:
                over.set()  # also when nobody wants the rest

    def _connected(self) -> httpx.Client:
        """A client for several threads."""
        seconds = self.settings.timeout_seconds
        return httpx.Client(
            follow_redirects=False,  # it would take the prompt elsewhere
            # A proxy would get the key that may go unencrypted to what is near.
            mounts={"http://": None} if is_near(httpx.URL(self.settings.address).host) else None,
            timeout=httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
            limits=httpx.Limits(max_connections=self.settings.concurrency),
        )

    def _ask(self, client: httpx.Client, messages: Sequence[Message], stopped: Callable[[], bool]) -> Reply:
        """One reply. Raises EndpointError where none comes after all retries, RequestsStopped where it may not ask."""
        attempt = 0
        while not stopped():
            self._count()
            try:
                return self._call(client, messages)
            except EndpointError as error:
                if error.again is None or attempt >= self.settings.retries:
                    raise
                seconds = error.again + pause_before(attempt)
            attempt += 1
            sleep(min(seconds, LONGEST_WAIT), stopped)
        raise RequestsStopped(_("The job was told to stop."))

    def _count(self) -> None:
        """Take a call from the budget. Raises RequestsStopped if none is left."""
        with self._counting:
            if self.exhausted:
                calls = self.settings.calls
                spent = ngettext(
                    "The budget of {calls:,} call is spent.", "The budget of {calls:,} calls is spent.", calls
                )
                raise RequestsStopped(spent.format(calls=calls))
            self.calls += 1

    def _call(self, client: httpx.Client, messages: Sequence[Message]) -> Reply:
        """One call. Raises EndpointError."""
        key = read_key(self.settings)
        began = time.monotonic()
        try:
            with client.stream(
                "POST",
                self.settings.url,
                json=self._request(messages),
                headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})},
            ) as response:
                body = read_body(response, began + self.settings.timeout_seconds)
        except httpx.HTTPError as error:
            problem = connection_failure(self.settings, error)
        else:
            seconds = time.monotonic() - began
            if response.is_success:
                return read_reply(self.settings, body, key, seconds)
            problem = self._status_failure(response, body)
        raise problem  # outside of the handler, so that the request with the key is not part of it

    def _request(self, messages: Sequence[Message]) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in self._unsupported else "max_tokens"
        body: dict[str, Any] = {"model": self.settings.model, "messages": [dict(message) for message in messages]}
        if "temperature" not in self._unsupported:
            body["temperature"] = self.settings.temperature
        return {**body, limit: self.settings.max_tokens, **self.settings.told}

    def _status_failure(self, response: httpx.Response, body: bytes) -> EndpointError:
        """The error for a status that is no success.

        OpenAI's newer models want max_completion_tokens, and some allow no temperature; they name what they refuse,
        and the next call does without.
        """
        error = error_of(body)
        unsupported = {"max_tokens", "temperature"} & {error.get("param")}
        if response.status_code == 400 and unsupported:
            self._unsupported |= unsupported
            told = _("{host} does not take {name}.")
            return EndpointError("refused", told.format(host=self.settings.host, name=unsupported.pop()), again=0.0)
        refused = set(self.settings.told) & {error.get("param")}
        if response.status_code == 400 and refused:
            said = _("{host} does not take {name}: make the judge anew, and have it told otherwise not to think.")
            return EndpointError("refused", said.format(host=self.settings.host, name=refused.pop()))
        return status_failure(self.settings, response, error)


def outcome_of(future: Future[Reply]) -> Reply | Failure | None:
    """What a finished call gave; None if it may not be made."""
    try:
        return future.result()
    except EndpointError as error:
        return error.failure
    except RequestsStopped:
        return None


def pause_before(attempt: int) -> float:
    """Seconds before the next attempt: doubled each time, half of it drawn."""
    return FIRST_WAIT * 2.0**attempt * (1 + random.random()) / 2


def sleep(seconds: float, stopped: Callable[[], bool]) -> None:
    """Wait, unless the job is told to stop meanwhile."""
    until = time.monotonic() + seconds
    while not stopped() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, LOOK_SECONDS))


def read_key(settings: EndpointSettings) -> str:
    """The key from the environment, read for each call and kept nowhere; empty where none is needed."""
    name = settings.key_variable
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise EndpointError(
            "refused",
            _("The environment variable {name} is not set where Prefloop runs. Set it there.").format(name=name),
        )
    if not re.fullmatch(r"[!-~]+", key):
        # The libraries' own errors would show it.
        raise EndpointError(
            "refused", _("The environment variable {name} holds characters that no key has. Mend it.").format(name=name)
        )
    return key


def read_body(response: httpx.Response, until: float) -> bytes:
    """What was received, up to a little more than `MOST_BYTES`.

    Raises httpx.ReadTimeout at `until`: the client's own time-out starts anew with every byte. Raises
    httpx.DecodingError for a reply that is packed, as was not asked for: a kilobyte can be gigabytes.
    """
    if PACKED.search(response.headers.get("content-encoding", "")):
        if response.is_success:
            raise httpx.DecodingError("")
        return b""  # the status says why
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if time.monotonic() > until:
            raise httpx.ReadTimeout("")
        if len(body) > MOST_BYTES:
            break
    return bytes(body[: MOST_BYTES + 1])


# ------------------------------------------------------------------------------------------------- what is received
def read_reply(settings: EndpointSettings, body: bytes, key: str, seconds: float) -> Reply:
    """The reply in a chat completion. Raises EndpointError for anything else."""
    try:
        found = json.loads(body)
        choice = found["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
        raise EndpointError("unreadable", unreadable(settings, body)) from None
    usage = found.get("usage")
    tokens = tokens_in(usage, "prompt_tokens"), tokens_in(usage, "completion_tokens")
    if not isinstance(text, str) or not text.strip():
        empty = (
            _(
                "The reply of {host} was cut off before it said anything: make the judge anew with more “Tokens of a "
                "reply, at most”."
            )
            if finish == "length"
            else _("The reply of {host} holds no text.")
        )
        raise EndpointError("no verdict", empty.format(host=settings.host), tokens=tokens)
    if len(key) >= SHORTEST_KEY:
        text = text.replace(key, "[key]")
    return Reply(storable(text), *tokens, seconds)


def tokens_in(usage: Any, name: str) -> int:
    """A count of tokens; 0 where there is none that can be one."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0


def unreadable(settings: EndpointSettings, body: bytes) -> str:
    """What was received instead of a chat completion, by its kind only."""
    start = body[:500].lstrip().lower()
    if not start:
        sentence = _("{host} answered with nothing instead of a chat completion. Check the address.")
    elif len(body) > MOST_BYTES:
        sentence = _("{host} answered with more than {most:,} bytes instead of a chat completion. Check the address.")
    elif start.startswith((b"<!doctype html", b"<html")):
        sentence = _("{host} answered with an HTML page instead of a chat completion. Check the address.")
    elif start.startswith((b"{", b"[")):
        sentence = _("{host} answered with JSON of another shape instead of a chat completion. Check the address.")
    else:
        sentence = _("{host} answered with something that is no JSON instead of a chat completion. Check the address.")
    return sentence.format(host=settings.host, most=MOST_BYTES)


def error_of(body: bytes) -> dict[str, Any]:
    """The error object of a refusal; empty where there is none."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, RecursionError, TypeError, LookupError):
        return {}
    return {name: value for name, value in error.items() if isinstance(value, str)} if isinstance(error, dict) else {}


def connection_failure(settings: EndpointSettings, error: httpx.HTTPError) -> EndpointError:
    """The error for a call to which there was no whole response."""
    host = settings.host
    if isinstance(error, httpx.TimeoutException):
        limit = settings.timeout_seconds
        sentence = ngettext(
            "{host} did not answer within {limit:g} second. Make the judge anew with a longer “Time-out, seconds” or "
            "fewer “Calls at a time”.",
            "{host} did not answer within {limit:g} seconds. Make the judge anew with a longer “Time-out, seconds” or "
            "fewer “Calls at a time”.",
            1 if limit == 1 else max(2, round(limit)),
        ).format(host=host, limit=limit)
        return EndpointError("timeout", sentence, again=0.0)
    if isinstance(error, httpx.DecodingError):
        return EndpointError(
            "unreadable",
            _("{host} answered with something packed, which was not asked for. Check the address.").format(host=host),
        )
    # Only these errors' texts are the system's own; others quote what was received.
    if isinstance(error, httpx.ConnectError) and str(error):
        sentence = _("{host} can't be reached, or broke off ({error}). Check the address, and whether the server runs.")
    else:
        sentence = _("{host} can't be reached, or broke off. Check the address, and whether the server runs.")
    return EndpointError("unreachable", sentence.format(host=host, error=error), again=0.0)


def status_failure(settings: EndpointSettings, response: httpx.Response, error: Mapping[str, Any]) -> EndpointError:
    status, host = response.status_code, settings.host
    if status == 429 and "insufficient_quota" in (error.get("code"), error.get("type")):
        return EndpointError(
            "refused",
            _("The account at {host} has no quota left ({status}). Top it up.").format(host=host, status=status),
        )
    if status == 429:
        sentence = _(
            "{host} is asked more often than it allows ({status}). Go on later, or make the judge anew with fewer "
            "“Calls at a time”."
        ).format(host=host, status=status)
        return EndpointError("rate limit", sentence, again=retry_after(response))
    if status == 408:
        said = _("{host} took too long ({status}). Go on later.")
        return EndpointError("timeout", said.format(host=host, status=status), again=retry_after(response))
    if status == 409 or status >= 500:
        sentence = _("{host} failed by itself ({status}). Go on later.").format(host=host, status=status)
        return EndpointError("server error", sentence, again=retry_after(response))
    if status in (401, 403) and settings.key_variable:
        mend = _("{host} refuses the key in {variable}. Put one there that is valid for this model ({status}).")
    elif status in (401, 403):
        mend = _(
            "{host} wants a key. Put one into an environment variable, and give the judge that variable's name "
            "({status})."
        )
    elif status == 404:
        mend = _("{host} does not know the address or the model '{model}'. Check both ({status}).")
    elif status == 413:
        mend = _("{host} finds the request too large ({status}).")
    elif response.has_redirect_location:
        mend = _("{host} wants to redirect, which is not followed. Give the address at which it answers ({status}).")
    else:
        mend = _(
            "{host} does not take the request. Check the model '{model}', and whether the texts fit its context "
            "({status})."
        )
    told = mend.format(host=host, variable=settings.key_variable, model=settings.model, status=status)
    return EndpointError("refused", told)


def retry_after(response: httpx.Response) -> float:
    """The seconds that a server asks to wait, at most `LONGEST_WAIT`; 0 where it does not say (RFC 9110, 10.2.3)."""
    said = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", said):
        return min(float(said), LONGEST_WAIT)
    try:
        when = parsedate_to_datetime(said)
    except (ValueError, OverflowError):  # the second for a year or an offset of many digits
        return 0.0
    seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT)
