"""Signing in with Hugging Face: OpenID's code flow on the server, with state and PKCE. Keeps no token of anybody's."""

from __future__ import annotations

import logging
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

import httpx
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.translation import N_, _
from annotation.web import access
from annotation.web.access import LoginThrottle
from annotation.web.destinations import destination
from annotation.web.middleware import SignIn, waiting_write, wanted_by
from annotation.web.space import HubUser, Space

LEAVE: Final = "/oauth/login"
RETURN: Final = "/login/callback"
COOKIE: Final = "prefloop-sign-in"
MINUTES: Final = 10
TIMEOUT_SECONDS: Final = 10.0
AGAIN: Final = N_("Try again.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provider:
    """The Hub as the one who says who somebody is, and what we are to it."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: str
    redirect_uri: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], space: Space) -> Provider | None:
        """What a Space with `hf_oauth: true` finds in its environment; None without."""
        client_id, secret = environment.get("OAUTH_CLIENT_ID"), environment.get("OAUTH_CLIENT_SECRET")
        if not client_id or not secret:
            return None
        scopes = environment.get("OAUTH_SCOPES") or "openid profile"
        return cls(space.hub, client_id, secret, scopes, redirect_uri=space.address.rstrip("/") + RETURN)


@dataclass(frozen=True)
class Endpoints:
    authorization: str
    token: str
    userinfo: str


@dataclass
class HubSignIn:
    """The two routes between which somebody is on the Hub."""

    db: Database
    space: Space
    provider: Provider
    door: SignIn
    throttle: LoginThrottle = field(default_factory=LoginThrottle)
    endpoints: Endpoints | None = None
    """Asked of the Hub by the first who signs in."""

    def routes(self) -> list[Route]:
        return [Route(LEAVE, self.leave, methods=["GET"]), Route(RETURN, self.come_back, methods=["GET"])]

    async def leave(self, request: Request) -> Response:
        """Send the browser to the Hub. What it has to bring back is in a cookie of its own, so nobody else can."""
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        try:
            endpoints = await self.known_endpoints()
        except UserError as error:
            return self.door.page(str(error), 502)
        asked = {
            "response_type": "code",
            "client_id": self.provider.client_id,
            "redirect_uri": self.provider.redirect_uri,
            "scope": self.provider.scopes,
            "state": state,
            "code_challenge": urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        response = RedirectResponse(f"{endpoints.authorization}?{urlencode(asked)}", 303)
        # Lax, not strict: the browser comes back from another site.
        response.set_cookie(
            COOKIE,
            f"{state}.{verifier}.{quote(wanted_by(request), safe='')}",
            max_age=MINUTES * 60,
            path=RETURN,
            httponly=True,
            samesite="lax",
            secure=self.space.secure,
        )
        response.headers["Cache-Control"] = "no-store"
        return response

    async def come_back(self, request: Request) -> Response:
        """Let in whom the Hub has named, if the rules do; say in a sentence why not."""
        state, verifier, wanted = brought_back(request.cookies.get(COOKIE, ""))
        if not state or not secrets.compare_digest(state.encode(), request.query_params.get("state", "").encode()):
            problem = _("This sign-in took longer than {minutes} minutes, or began in another browser. {again}").format(
                minutes=MINUTES, again=_(AGAIN)
            )
            return self.refuse(problem, 400)
        if "error" in request.query_params:
            return self.refuse(refusal(request.query_params["error"]), 403)
        address = request.client.host if request.client else ""
        if self.throttle.attempt(address, state):
            return self.refuse(_("Too many attempts. Wait some minutes and try again."), 429)
        try:
            user = await self.whoever(request.query_params.get("code", ""), verifier)
            annotator = await waiting_write(self.let_in, user)
        except Unreachable as error:
            return self.refuse(str(error), 502)
        except UserError as error:
            return self.refuse(str(error), 403)
        self.throttle.succeeded(address, state)
        return self.forgotten(await self.door.welcome(request, annotator, wanted))

    def refuse(self, problem: str, status: int) -> Response:
        """The sign-in page with what went wrong."""
        return self.forgotten(self.door.page(problem, status))

    def forgotten(self, response: Response) -> Response:
        """An answer after which what the browser brought back can't be brought again."""
        response.delete_cookie(COOKIE, path=RETURN, httponly=True, samesite="lax", secure=self.space.secure)
        return response

    def let_in(self, user: HubUser) -> Annotator:
        """The account of somebody whom the rules let in. Raises UserError."""
        role = self.space.role_of(user)
        if role is None:
            said = _("{name} is not among those who may take part here. Ask {author}.")
            raise UserError(said.format(name=user.name, author=self.space.author))
        return access.hub_account(self.db, user, role)

    async def known_endpoints(self) -> Endpoints:
        """Where to send people and codes. Raises UserError where the Hub does not say."""
        if self.endpoints is None:
            found = await self.ask("GET", f"{self.provider.url}/.well-known/openid-configuration")
            names = ("authorization_endpoint", "token_endpoint", "userinfo_endpoint")
            self.endpoints = Endpoints(*(text_in(found, name) for name in names))
        return self.endpoints

    async def whoever(self, code: str, verifier: str) -> HubUser:
        """Who has come back with this code. The token it buys is used once and forgotten. Raises UserError."""
        endpoints = await self.known_endpoints()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.provider.redirect_uri,
            "client_id": self.provider.client_id,
            "code_verifier": verifier,
        }
        secret = httpx.BasicAuth(self.provider.client_id, self.provider.client_secret)
        bought = await self.ask("POST", endpoints.token, data=form, auth=secret)
        bearer = {"Authorization": f"Bearer {text_in(bought, 'access_token')}"}
        return read_user(await self.ask("GET", endpoints.userinfo, headers=bearer))

    async def ask(self, method: str, url: str, **more: Any) -> Mapping[str, Any]:
        """One question to the Hub. Raises Unreachable where it gives no answer, UserError where it refuses."""
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
                answer = await client.request(method, url, **more)
            found = answer.json() if answer.status_code < 500 else None
        except (httpx.HTTPError, ValueError) as error:
            logger.warning("%s did not answer: %s", url, type(error).__name__)
            raise Unreachable from error
        if answer.is_client_error:
            logger.warning("%s refused (%d)", url, answer.status_code)
            said = _("Hugging Face did not accept this sign-in, perhaps because it was used already. {again}")
            raise UserError(said.format(again=_(AGAIN)))
        if not isinstance(found, dict):
            raise Unreachable
        return found


class Unreachable(UserError):
    """The Hub gives no answer, or none that can be understood."""

    def __init__(self) -> None:
        super().__init__(_("Hugging Face can't be asked who you are at the moment. Try again in a minute."))


def brought_back(cookie: str) -> tuple[str, str, str]:
    """The state, the secret and the wanted address that a browser brings back; empty texts where it brings none."""
    state, _dot, rest = cookie.partition(".")
    verifier, _dot, wanted = rest.partition(".")
    return state, verifier, destination(unquote(wanted))


def refusal(error: str) -> str:
    """What the Hub's word for a refusal means."""
    if error == "access_denied":
        return _("You did not let Prefloop know who you are, so you are not signed in.")
    return _("Hugging Face did not sign you in ({error}). {again}").format(error=error[:60], again=_(AGAIN))


def read_user(told: Mapping[str, Any]) -> HubUser:
    """Who somebody is, from what the Hub says. Raises Unreachable where that names nobody."""
    organisations = told.get("orgs")
    # Not their display names, which anybody may give to an organisation.
    names = [one.get("preferred_username") for one in organisations or () if isinstance(one, dict)]
    return HubUser(
        text_in(told, "sub"),
        text_in(told, "preferred_username"),
        tuple(name for name in names if isinstance(name, str)),
    )


def text_in(found: Mapping[str, Any], key: str) -> str:
    """A text that must be there. Raises Unreachable."""
    value = found.get(key)
    if not isinstance(value, str) or not value:
        raise Unreachable
    return value
