"""Accounts, passwords, sessions, one-time links and roles: who may do what. Every SQL statement about them."""

from __future__ import annotations

import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from annotation import store
from annotation.database import Database
from annotation.records import ROLES, Annotator, Role, UserError, now
from annotation.space import HubUser

OWNER = "owner"
LONGEST_NAME = 40
NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}")
MINIMUM_PASSWORD = 10
SESSION_DAYS = 30
LINK_HOURS = 1
RULES = "space_rules"

hasher = PasswordHasher()  # argon2id with the parameters of RFC 9106 for 64 MiB


@dataclass(frozen=True)
class Account:
    """An annotator's row without its password hash."""

    name: str
    role: Role
    active: bool
    has_password: bool
    created: str
    on_hub: bool = False
    """Whether it is a Hub user's, made when they first signed in."""


# --------------------------------------------------------------------------------------------------------- accounts
def add_account(db: Database, name: str, role: str, password: str) -> Annotator:
    """Make an account. Raises UserError for a bad name, role or password, or a name that is taken."""
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' can't be a name: use 1 to 40 letters, digits, dots, dashes or underscores.")
    checked_role, hashed = check_role(role), hash_password(password)
    with db.transaction() as connection:
        if find(db, name) is not None:
            raise UserError(f"There is an account '{name}' already. Choose another name, or reset its password.")
        connection.execute(
            "INSERT INTO annotator (name, role, password_hash, created) VALUES (?, ?, ?, ?)",
            (name, checked_role, hashed, now()),
        )
        return read_annotator(existing(db, name))


def set_password(db: Database, name: str, password: str) -> None:
    """Replace a password and end the account's sessions.

    Raises UserError for an unknown name, a short password, or the account of a Hub user, for whom the rules decide.
    """
    hashed = hash_password(password)
    with db.transaction() as connection:
        row = existing(db, name)
        if row["hub_id"] is not None:
            raise UserError(
                f"'{row['name']}' signs in with Hugging Face and has no password here: the Space's rules decide who "
                "may come in. Make an account of another name for one with a password."
            )
        connection.execute("UPDATE annotator SET password_hash = ? WHERE id = ?", (hashed, row["id"]))
        end_sessions(db, row["id"])


def set_role(db: Database, name: str, role: str) -> None:
    """Change a role and end the account's sessions. Raises UserError if no active admin would be left."""
    checked_role = check_role(role)
    with db.transaction() as connection:
        row = existing(db, name)
        if checked_role != "admin":
            keep_an_admin(db, row)
        connection.execute("UPDATE annotator SET role = ? WHERE id = ?", (checked_role, row["id"]))
        end_sessions(db, row["id"])


def deactivate(db: Database, name: str) -> None:
    """Shut an account out; its judgements stay. Raises UserError if no active admin would be left."""
    with db.transaction() as connection:
        row = existing(db, name)
        keep_an_admin(db, row)
        connection.execute("UPDATE annotator SET active = 0 WHERE id = ?", (row["id"],))
        end_sessions(db, row["id"])


def activate(db: Database, name: str) -> None:
    """Let a deactivated account in again. Raises UserError for an unknown name."""
    with db.transaction() as connection:
        connection.execute("UPDATE annotator SET active = 1 WHERE id = ?", (existing(db, name)["id"],))


def accounts(db: Database) -> list[Account]:
    """All accounts of people, active ones first, by name."""
    rows = db.rows(
        """SELECT name, role, active, password_hash IS NOT NULL AS has_password, created, hub_id IS NOT NULL AS on_hub
           FROM annotator WHERE kind = 'person' ORDER BY active DESC, name"""
    )
    return [
        Account(
            row["name"],
            row["role"],
            bool(row["active"]),
            bool(row["has_password"]),
            row["created"],
            bool(row["on_hub"]),
        )
        for row in rows
    ]


def active_people(db: Database) -> int:
    """How many people can judge: active accounts of either role."""
    return int(db.value("SELECT count(*) FROM annotator WHERE active AND kind = 'person'"))


def has_password_accounts(db: Database) -> bool:
    """Whether anyone can sign in with a password."""
    return any(account.active and account.has_password for account in accounts(db))


def hub_account(db: Database, user: HubUser, role: Role) -> Annotator:
    """The account of a Hub user, made on their first visit, with the role that the Space's rules give them today.

    It is found by the user's id, so a new name on the Hub changes nothing, and an account that somebody else has under
    this name is left alone. Raises UserError if the account is deactivated.
    """
    with db.transaction() as connection:
        row = db.row("SELECT * FROM annotator WHERE hub_id = ?", (user.id,))
        if row is None:
            name = free_name(db, user.name)
            connection.execute(
                "INSERT INTO annotator (name, role, hub_id, created) VALUES (?, ?, ?, ?)", (name, role, user.id, now())
            )
            return read_annotator(existing(db, name))
        if not row["active"]:
            raise UserError("Your account here was deactivated. Ask one of the admins.")
        if row["role"] != role:  # the last admin too: whom the rules make one can come in at any time
            connection.execute("UPDATE annotator SET role = ? WHERE id = ?", (role, row["id"]))
            end_sessions(db, row["id"])
        return read_annotator({**row, "role": role})


def free_name(db: Database, wanted: str) -> str:
    """A name for a Hub user that no account has, and that is not the owner's of a program on a machine."""
    base = re.sub(r"[^A-Za-z0-9._-]", "-", wanted)[:LONGEST_NAME] or "hub"
    number = 1
    name = base
    while name.casefold() == OWNER or find(db, name) is not None:
        ending = "-hf" if number == 1 else f"-hf{number}"
        name, number = f"{base[: LONGEST_NAME - len(ending)]}{ending}", number + 1
    return name


def authorise(db: Database, username: str | None, role: Role) -> Annotator:
    """The active account of this name, if it may act in this role. An admin may do all that an annotator may.

    Raises UserError otherwise.
    """
    row = find(db, username or "")
    if row is None or not row["active"]:
        raise UserError("Your account can't be used any more. Sign in again, or ask an admin.")
    if role == "admin" and row["role"] != "admin":
        raise UserError("Only an admin may do this. Ask one of them.")
    return read_annotator(row)


def find(db: Database, name: str) -> dict[str, Any] | None:
    """The row of this name, upper and lower case alike."""
    return db.row("SELECT * FROM annotator WHERE name = ?", (name,))


def existing(db: Database, name: str) -> dict[str, Any]:
    """The row of this name. Raises UserError if there is none."""
    row = find(db, name)
    if row is None:
        raise UserError(f"There is no account '{name}'. `python -m annotation accounts list` lists them.")
    return row


def read_annotator(row: dict[str, Any]) -> Annotator:
    """An annotator row as a record."""
    return Annotator(row["id"], row["name"], row["role"])


def check_role(role: str) -> Role:
    """A role parsed. Raises UserError for any other word."""
    for known in ROLES:
        if role == known:
            return known
    raise UserError(f"'{role}' is not a role. Choose one of: {', '.join(ROLES)}.")


def keep_an_admin(db: Database, row: dict[str, Any]) -> None:
    """Raises UserError if this is the last active admin."""
    others = db.value("SELECT count(*) FROM annotator WHERE active AND role = 'admin' AND id != ?", (row["id"],))
    if row["active"] and row["role"] == "admin" and not others:
        raise UserError(f"'{row['name']}' is the last active admin. Make someone else an admin first.")


# -------------------------------------------------------------------------------------------------------- passwords
def hash_password(password: str) -> str:
    """An argon2id hash; takes a tenth of a second and 64 MiB on purpose. Raises UserError for a short password."""
    if len(password) < MINIMUM_PASSWORD:
        raise UserError(f"The password is too short: use at least {MINIMUM_PASSWORD} characters.")
    return hasher.hash(password)


def generate_password() -> str:
    """A password nobody can guess, to be shown once."""
    return secrets.token_urlsafe(12)


def check_password(db: Database, name: str, password: str) -> Annotator | None:
    """The active account with this name and password, or None.

    An unknown name costs the same time as a wrong password, so that names can't be found out.
    """
    row = find(db, name)
    usable = row is not None and row["active"] and row["password_hash"] is not None
    decoy = decoy_hash()
    try:
        hasher.verify(row["password_hash"] if row is not None and usable else decoy, password)
    except (VerificationError, InvalidHashError):
        return None
    return read_annotator(row) if row is not None and usable else None


@cache
def decoy_hash() -> str:
    """The hash of a password that nobody has."""
    return hasher.hash(secrets.token_urlsafe(32))


# --------------------------------------------------------------------------------------------------- sessions, links
def open_session(db: Database, annotator: Annotator, days: int = SESSION_DAYS) -> str:
    """Start a session and return its token; only the token's hash is stored."""
    token = secrets.token_urlsafe(32)
    with db.transaction() as connection:
        connection.execute("DELETE FROM session WHERE expires <= ?", (now(),))
        connection.execute(
            "INSERT INTO session (token_sha256, annotator_id, created, expires) VALUES (?, ?, ?, ?)",
            (digest(token), annotator.id, now(), later(timedelta(days=days))),
        )
    return token


def session_annotator(db: Database, token: str) -> Annotator | None:
    """Whose session this is; None when it is unknown, has expired or the account is deactivated."""
    row = db.row(
        """SELECT a.* FROM session s JOIN annotator a ON a.id = s.annotator_id
           WHERE s.token_sha256 = ? AND s.expires > ? AND a.active""",
        (digest(token), now()),
    )
    return None if row is None else read_annotator(row)


def close_session(db: Database, token: str) -> None:
    """End a session, if it lives."""
    with db.transaction() as connection:
        connection.execute("DELETE FROM session WHERE token_sha256 = ?", (digest(token),))


def end_sessions(db: Database, annotator_id: int) -> None:
    """Sign an account out everywhere and void its links, inside the caller's transaction."""
    db.connection.execute("DELETE FROM session WHERE annotator_id = ?", (annotator_id,))
    db.connection.execute("DELETE FROM sign_in_link WHERE annotator_id = ?", (annotator_id,))


def follow_rules(db: Database, rules: Sequence[str]) -> None:
    """Sign out all Hub users where a Space's rules are not those of the last start: they decide at the next sign-in."""
    with db.transaction() as connection:
        if store.setting(db, RULES, None) == list(rules):
            return
        for table in ("session", "sign_in_link"):
            connection.execute(
                f"DELETE FROM {table} WHERE annotator_id IN (SELECT id FROM annotator WHERE hub_id IS NOT NULL)"
            )
        store.set_setting(db, RULES, list(rules))


def owner_link_token(db: Database) -> str:
    """A token that signs the owner in once within the hour; earlier ones become void.

    Whoever starts the program owns its data directory, so this is for a server on loopback only. The owner is the
    account of that name, made on first use without a password; if it may not act any more, the oldest active admin.
    """
    token = secrets.token_urlsafe(32)
    with db.transaction() as connection:
        connection.execute(
            "INSERT OR IGNORE INTO annotator (name, role, created) VALUES (?, 'admin', ?)", (OWNER, now())
        )
        owner_id = db.value(
            "SELECT id FROM annotator WHERE active AND role = 'admin' ORDER BY name != ?, id LIMIT 1", (OWNER,)
        )
        connection.execute("DELETE FROM sign_in_link")
        connection.execute(
            "INSERT INTO sign_in_link (token_sha256, annotator_id, expires) VALUES (?, ?, ?)",
            (digest(token), owner_id, later(timedelta(hours=LINK_HOURS))),
        )
    return token


def use_link(db: Database, token: str) -> Annotator:
    """Spend a one-time link. Raises UserError if it was used, has expired or never was."""
    with db.transaction() as connection:
        spent = connection.execute(
            "UPDATE sign_in_link SET used = ? WHERE token_sha256 = ? AND used IS NULL AND expires > ?",
            (now(), digest(token), now()),
        ).rowcount
        row = db.row(
            """SELECT a.* FROM sign_in_link l JOIN annotator a ON a.id = l.annotator_id
               WHERE l.token_sha256 = ? AND a.active""",
            (digest(token),),
        )
        if not spent or row is None:
            raise UserError("This link was used already or is too old. Restart Prefloop to get a new one.")
    return read_annotator(row)


def digest(token: str) -> str:
    """What is stored of a token: a stolen database opens no session."""
    return sha256(token.encode()).hexdigest()


def later(delay: timedelta) -> str:
    """The time after a delay, in the format of `now()`."""
    return (datetime.now(UTC) + delay).isoformat(timespec="microseconds")


# --------------------------------------------------------------------------------------------------------- throttle
class LoginThrottle:
    """Counts attempts to sign in, in memory, because one process serves the pages.

    Five a name and address, thirty an address, in five minutes; a success takes its own attempt back.
    """

    WINDOW_SECONDS = 300.0
    PER_NAME = 5
    PER_ADDRESS = 30

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._attempts: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)

    def attempt(self, address: str, name: str) -> float:
        """Seconds to wait before another attempt; 0 means go on, and the attempt counts."""
        self._forget_old()
        limits = {(address,): self.PER_ADDRESS, (address, name.casefold()): self.PER_NAME}
        waits = [
            self._attempts[key][0] + self.WINDOW_SECONDS - self._clock()
            for key, limit in limits.items()
            if len(self._attempts.get(key, ())) >= limit
        ]
        if waits:
            return max(waits)
        for key in limits:
            self._attempts[key].append(self._clock())
        return 0.0

    def succeeded(self, address: str, name: str) -> None:
        """Forget the failures of this name from this address."""
        self._attempts.pop((address, name.casefold()), None)
        if self._attempts.get((address,)):
            self._attempts[(address,)].pop()

    def _forget_old(self) -> None:
        limit = self._clock() - self.WINDOW_SECONDS
        for key, times in list(self._attempts.items()):
            recent = [moment for moment in times if moment > limit]
            if recent:
                self._attempts[key] = recent
            else:
                del self._attempts[key]
