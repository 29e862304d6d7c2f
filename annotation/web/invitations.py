"""Invitations: a link by which somebody makes an account of their own, as an annotator. SQL of it, and its pages.

An admin makes one, with how often and how long it can be used. Only the hash of its token is stored, so it can be shown
once. It makes annotators and nothing else; what it may is checked before a password is hashed, and spent with the
account in one transaction.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final

from annotated_types import Interval
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from annotation.database import Database
from annotation.records import Annotator, UserError, now
from annotation.translation import N_, _
from annotation.validation import read
from annotation.web import access, sign_in_pages
from annotation.web.middleware import NOT_STORED, SignIn, after_waiting, read_form, waiting_said, waiting_write
from annotation.workbench import annotator_groups

PATH: Final = "/join"
MOST_USES: Final = 1_000
MOST_DAYS: Final = 90
MOST_JUDGEMENTS: Final = 1_000_000
NOT_VALID: Final = N_(
    "This invitation is not valid: it was used up, has expired or was withdrawn. Ask whoever sent it for a new one."
)


@dataclass(frozen=True)
class InvitationTerms:
    uses: Annotated[int, Interval(ge=1, le=MOST_USES), N_("Accounts")] = 1
    """How many accounts can be made with it."""
    days: Annotated[int, Interval(ge=1, le=MOST_DAYS), N_("Days")] = 7
    """For how long."""
    group: str = ""
    """The group that they are in from the start; empty for none."""
    quota: Annotated[int, Interval(ge=0, le=MOST_JUDGEMENTS), N_("Judgements each")] = 0
    """How many comparisons each shall judge; 0 for no end."""


@dataclass(frozen=True)
class Invitation:
    """An invitation as admins see it: never with its token."""

    id: int
    group_name: str | None
    quota: int | None
    uses: int
    used: int
    invited_by: str
    created: str
    expires: str
    withdrawn: str | None

    @property
    def state(self) -> str:
        """'open', or why nobody can use it any more."""
        if self.withdrawn is not None:
            return "withdrawn"
        if self.used >= self.uses:
            return "used"
        return "open" if self.expires > now() else "expired"


def invite(db: Database, asked: Any, by: str) -> str:
    """Make an invitation; returns the path of its link, which nobody can be told again. Raises UserError."""
    terms = read(InvitationTerms, asked, _("The invitation"))
    groups = annotator_groups.group_names(terms.group)
    if len(groups) > 1:
        raise UserError(_("An invitation leads into one group at most."))
    token = secrets.token_urlsafe(32)
    given = {"group_name": groups[0] if groups else None, "quota": terms.quota or None, "uses": terms.uses}
    expires = access.later(timedelta(days=terms.days))
    row = {"token_sha256": access.digest(token), **given, "invited_by": by, "created": now(), "expires": expires}
    db.insert("invitation", row)
    return f"{PATH}?token={token}"


def invitations(db: Database) -> list[Invitation]:
    """All invitations, the newest first."""
    rows = db.rows(
        """SELECT id, group_name, quota, uses, used, invited_by, created, expires, withdrawn FROM invitation
           ORDER BY id DESC"""
    )
    return [Invitation(**row) for row in rows]


def withdraw(db: Database, invitation_id: int) -> None:
    """Let nobody use it any more; accounts that were made with it stay. Raises UserError where it is not open."""
    changed = db.write(
        "UPDATE invitation SET withdrawn = ?1 WHERE id = ?2 AND withdrawn IS NULL AND used < uses AND expires > ?1",
        (now(), invitation_id),
    )
    if not changed:
        raise UserError(_("This invitation is over already. Nothing was changed."))


def is_open(db: Database, token: str) -> bool:
    sql = "SELECT 1 FROM invitation WHERE token_sha256 = ? AND withdrawn IS NULL AND used < uses AND expires > ?"
    return db.value(sql, (access.digest(token), now())) is not None


def has_made(db: Database, token: str, name: str) -> bool:
    """Whether the account of this name was made with this invitation."""
    sql = (
        "SELECT 1 FROM annotator WHERE name = ? AND invitation_id = (SELECT id FROM invitation WHERE token_sha256 = ?)"
    )
    return db.value(sql, (name, access.digest(token))) is not None


def accept(db: Database, token: str, name: str, password: str) -> Annotator:
    """Make the account of somebody who was invited. Raises UserError, and spends nothing, where that can't be.

    Who presses twice, or never got the answer, gets the account that was made.
    """
    if has_made(db, token, name) and (made := access.check_password(db, name, password)) is not None:
        return made
    if not is_open(db, token):
        raise UserError(_(NOT_VALID))
    access.check_name(name)
    refuse_taken(db, name)
    hashed = access.hash_password(name, password)  # before the transaction: it takes a tenth of a second
    with db.transaction() as connection:
        spent = connection.execute(
            """UPDATE invitation SET used = used + 1
               WHERE token_sha256 = ?1 AND withdrawn IS NULL AND used < uses AND expires > ?2""",
            (access.digest(token), now()),
        ).rowcount
        if not spent:
            raise UserError(_(NOT_VALID))
        row = db.one("SELECT id, group_name, quota FROM invitation WHERE token_sha256 = ?", (access.digest(token),))
        refuse_taken(db, name)
        annotator = access.insert_account(db, name, "annotator", hashed)
        connection.execute(
            "UPDATE annotator SET invitation_id = ?, quota = ? WHERE id = ?", (row["id"], row["quota"], annotator.id)
        )
        if row["group_name"] is not None:
            annotator_groups.set_groups(db, annotator.id, (row["group_name"],))
    return annotator


def refuse_taken(db: Database, name: str) -> None:
    """Raises UserError for a name that somebody has, or that is the owner's of a program on a machine."""
    if name.casefold() == access.OWNER or access.find(db, name) is not None:
        raise UserError(_("The name '{name}' is taken. Choose another one.").format(name=name))


@dataclass(frozen=True)
class JoinPages:
    db: Database
    sign_in: SignIn

    def routes(self) -> list[Route]:
        """What the server adds beside the pages, open to whoever has the link."""
        return [Route(PATH, self.show_form, methods=["GET"]), Route(PATH, self.join, methods=["POST"])]

    async def show_form(self, request: Request) -> Response:
        token = request.query_params.get("token", "")
        if not await asyncio.to_thread(is_open, self.db, token):
            return self.page("", _(NOT_VALID), 404)
        return self.page(token)

    async def join(self, request: Request) -> Response:
        """Make the account and sign it in; too many attempts have to wait."""
        form = await read_form(request)
        if form is None:
            return self.page("", _("This form is too large."), 413)
        token, name = form.get("token", ""), form.get("name", "").strip()
        made = await asyncio.to_thread(has_made, self.db, token, name)
        if not made and not await asyncio.to_thread(is_open, self.db, token):
            return self.page("", _(NOT_VALID), 404)
        address = request.client.host if request.client else ""
        # A password that is there can be tried as often as at the sign-in, altogether. By what else is tried here
        # nobody is kept from signing in: no name has a blank.
        attempted = name if made else f"{PATH} {name}"
        wait = self.sign_in.throttle.attempt(address, attempted)
        if wait:
            return after_waiting(self.page(token, waiting_said(wait), 429, name), wait)
        try:
            async with self.sign_in.turn(access.network_of(address)):
                annotator = await waiting_write(accept, self.db, token, name, form.get("password", ""))
        except UserError as error:
            gone = str(error) == _(NOT_VALID)
            return self.page("" if gone else token, str(error), 404 if gone else 409, name)
        self.sign_in.throttle.succeeded(address, attempted)
        return await self.sign_in.welcome(request, annotator)

    def page(self, token: str, problem: str = "", status: int = 200, name: str = "") -> HTMLResponse:
        space = self.sign_in.space
        html = sign_in_pages.join_page(token, problem, name, None if space is None else space.author)
        return HTMLResponse(html, status, NOT_STORED)
