"""Accounts, passwords, sessions, one-time links and roles: who may do what. Every SQL statement about them."""

from __future__ import annotations

import hmac
import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Any, Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from annotation.claims import assignments, handing_out
from annotation.database import Database
from annotation.records import ONLY_ADMINS, ROLES, Annotator, Role, UserError, counted_up, now
from annotation.store import setting_store
from annotation.translation import N_, _, codes
from annotation.web.space import HubUser

OWNER = "owner"
LONGEST_NAME = 40
NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}")
MINIMUM_PASSWORD = 10
MAXIMUM_PASSWORD = 1024
DIFFERENT_CHARACTERS = 5
# What guessers try first, alone or with digits and signs around it.
OBVIOUS_WORDS = "password passwort passphrase letmein welcome changeme iloveyou administrator admin owner user"
OBVIOUS_WORDS += " guest login test demo default secret prefloop qwerty azerty qwertz asdfgh zxcvbn abc"
OBVIOUS = re.compile(rf"[\W\d_]*(?:(?:{OBVIOUS_WORDS.replace(' ', '|')})[\W\d_]*)+")
ROWS = ("01234567890123456789", "abcdefghijklmnopqrstuvwxyz", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiopü")
SESSION_DAYS = 30
LINK_HOURS = 1
RULES = "space_rules"
DEACTIVATED: Final = N_("Your account here was deactivated. Ask one of the admins.")
NO_MATCH: Final = N_("Name and password don't match.")

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
    id: int = 0
    quota: int | None = None
    """How many comparisons they shall judge in all; None for no end."""
    judged: int = 0
    """How many they have."""
    language: str | None = None
    """In which they are answered; None for the server's."""


# --------------------------------------------------------------------------------------------------------- accounts
def add_account(db: Database, name: str, role: str, password: str) -> Annotator:
    """Make an account. Raises UserError for a bad name, role or password, or a name that is taken."""
    check_name(name)
    return insert_account(db, name, check_role(role), hash_password(name, password))


def check_name(name: str) -> None:
    """Raises UserError for what can't be a name."""
    if not NAME.fullmatch(name):
        said = _("'{name}' can't be a name: use 1 to 40 letters a to z, digits, dots, dashes or underscores.")
        raise UserError(said.format(name=name))


def insert_account(db: Database, name: str, role: Role, hashed: str) -> Annotator:
    """Add the row of an account with the hash of its password. Raises UserError where the name is taken."""
    with db.transaction():
        if find(db, name) is not None:
            said = _("There is an account '{name}' already. Choose another name, or reset its password.")
            raise UserError(said.format(name=name))
        db.insert("annotator", {"name": name, "role": role, "password_hash": hashed, "created": now()})
        return existing(db, name).annotator


def set_password(db: Database, name: str, password: str) -> None:
    """Replace a password, end the account's sessions, and let nobody use any more what it has sent.

    Raises UserError for an unknown name, a bad password, or the account of a Hub user, for whom the rules decide.
    """
    hashed = hash_password(name, password)
    with db.transaction() as connection:
        account = existing(db, name)
        if account.hub_id is not None:
            said = _(
                "'{name}' signs in with Hugging Face and has no password here: the Space's rules decide "
                "who may come in. Make an account of another name for one with a password."
            )
            raise UserError(said.format(name=account.name))
        connection.execute("UPDATE annotator SET password_hash = ? WHERE id = ?", (hashed, account.id))
        end_sessions(db, "annotator_id = ?", account.id)
        withdraw_invitations(db, account.name)


def set_role(db: Database, name: str, role: str) -> None:
    """Change a role and end the account's sessions. Raises UserError if no active admin would be left."""
    checked_role = check_role(role)
    with db.transaction():
        account = existing(db, name)
        if checked_role != "admin":
            keep_an_admin(db, account)
        change_role(db, account.id, checked_role)


def change_role(db: Database, annotator_id: int, role: Role) -> None:
    """Give another role, inside the caller's transaction: sessions end, and what only admins do is taken back."""
    db.connection.execute("UPDATE annotator SET role = ? WHERE id = ?", (role, annotator_id))
    db.connection.execute(
        "UPDATE claim SET state = 'released' WHERE annotator_id = ? AND state = 'held' AND purpose = 'settle'",
        (annotator_id,),
    )
    end_sessions(db, "annotator_id = ?", annotator_id)
    withdraw_invitations(db, db.value("SELECT name FROM annotator WHERE id = ?", (annotator_id,)))


def withdraw_invitations(db: Database, name: str | None = None) -> None:
    """Let nobody use any more what this account, or everybody, has sent, inside the caller's transaction."""
    db.connection.execute(
        """UPDATE invitation SET withdrawn = :now WHERE withdrawn IS NULL AND used < uses AND expires > :now
             AND (:name IS NULL OR invited_by = :name)""",
        {"now": now(), "name": name},
    )


def set_language(db: Database, name: str, code: str | None) -> None:
    """Answer an account in another language; None for the server's. Raises UserError for one that there is not."""
    if code is not None and code not in codes():
        said = _("There is no language '{code}'. Choose one of: {codes}.")
        raise UserError(said.format(code=code[:40], codes=", ".join(codes())))
    db.write("UPDATE annotator SET language = ? WHERE id = ?", (code, existing(db, name).id))


def deactivate(db: Database, name: str) -> None:
    """Shut an account out, and its open invitations; its judgements stay.

    Raises UserError if no active admin would be left.
    """
    with db.transaction() as connection:
        account = existing(db, name)
        keep_an_admin(db, account)
        connection.execute("UPDATE annotator SET active = 0 WHERE id = ?", (account.id,))
        end_sessions(db, "annotator_id = ?", account.id)
        withdraw_invitations(db, account.name)
        assignments.follow_assignments(db)
        handing_out.release_unfit(db)


def activate(db: Database, name: str) -> None:
    """Let a deactivated account in again. Raises UserError for an unknown name."""
    with db.transaction() as connection:
        connection.execute("UPDATE annotator SET active = 1 WHERE id = ?", (existing(db, name).id,))
        assignments.follow_assignments(db)


def accounts(db: Database) -> list[Account]:
    """All accounts of people, active ones first, by name."""
    rows = db.rows(
        """SELECT id, name, role, active, password_hash IS NOT NULL AS has_password, created,
               hub_id IS NOT NULL AS on_hub, quota, language,
               (SELECT count(*) FROM claim k WHERE k.annotator_id = annotator.id AND k.state = 'judged') AS judged
           FROM annotator WHERE kind = 'person'"""
    )
    flags = ("active", "has_password", "on_hub")
    found = [Account(**{**row, **{name: bool(row[name]) for name in flags}}) for row in rows]
    return sorted(found, key=lambda account: (not account.active, counted_up(account.name)))


def active_people(db: Database) -> int:
    """How many people can judge: active accounts of either role."""
    return int(db.value("SELECT count(*) FROM annotator WHERE active AND kind = 'person'"))


def has_password_accounts(db: Database) -> bool:
    """Whether anybody can sign in with a password; strangers may ask it often."""
    sql = "SELECT EXISTS (SELECT 1 FROM annotator WHERE active AND kind = 'person' AND password_hash IS NOT NULL)"
    return bool(db.value(sql))


def hub_account(db: Database, user: HubUser, role: Role) -> Annotator:
    """The account of a Hub user, made on their first visit, with the role that the Space's rules give them today.

    It is found by the user's id, so a new name on the Hub changes nothing, and an account that somebody else has under
    this name is left alone. Raises UserError if the account is deactivated.
    """
    with db.transaction():
        row = db.row("SELECT * FROM annotator WHERE hub_id = ?", (user.id,))
        if row is None:
            name = free_name(db, user.name)
            db.insert("annotator", {"name": name, "role": role, "hub_id": user.id, "created": now()})
            return existing(db, name).annotator
        if not row["active"]:
            raise UserError(_(DEACTIVATED))
        if row["role"] != role:  # the last admin too: whom the rules make one can come in at any time
            change_role(db, row["id"], role)
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
    account = find(db, username or "")
    if account is None or not account.active:
        raise UserError(_("Your account can't be used any more. Sign in again, or ask an admin."))
    if role == "admin" and account.role != "admin":
        raise UserError(_(ONLY_ADMINS))
    return account.annotator


@dataclass(frozen=True)
class StoredAccount:
    """An annotator's row, with what tells whether and how they may come in."""

    id: int
    name: str
    role: Role
    language: str | None
    active: bool
    hub_id: str | None
    """Of a Hub user, whom the Space's rules let in."""
    password_hash: str | None = field(repr=False)

    @property
    def annotator(self) -> Annotator:
        return Annotator(self.id, self.name, self.role, self.language)


def find(db: Database, name: str) -> StoredAccount | None:
    """The account of this name, upper and lower case alike."""
    row = db.row(
        "SELECT id, name, role, language, active, hub_id, password_hash FROM annotator WHERE name = ?", (name,)
    )
    return None if row is None else StoredAccount(**{**row, "active": bool(row["active"])})


def existing(db: Database, name: str) -> StoredAccount:
    """The account of this name. Raises UserError if there is none."""
    account = find(db, name)
    if account is None:
        said = _("There is no account '{name}'. `python -m annotation accounts list` lists them.")
        raise UserError(said.format(name=name))
    return account


def read_annotator(row: Mapping[str, Any]) -> Annotator:
    return Annotator(row["id"], row["name"], row["role"], row["language"])


def check_role(role: str) -> Role:
    """A role parsed. Raises UserError for any other word."""
    if role in ROLES:
        return role
    raise UserError(_("'{role}' is not a role. Choose one of: {roles}.").format(role=role, roles=", ".join(ROLES)))


def keep_an_admin(db: Database, account: StoredAccount) -> None:
    """Raises UserError if this is the last active admin."""
    others = db.value("SELECT count(*) FROM annotator WHERE active AND role = 'admin' AND id != ?", (account.id,))
    if account.active and account.role == "admin" and not others:
        said = _("'{name}' is the last active admin. Make someone else an admin first.")
        raise UserError(said.format(name=account.name))


# -------------------------------------------------------------------------------------------------------- passwords
def hash_password(name: str, password: str) -> str:
    """An argon2id hash; takes a tenth of a second and 64 MiB on purpose. Raises UserError for a bad password."""
    spelled = one_spelling(password)
    check_new_password(name, spelled)
    return hasher.hash(spelled)


def one_spelling(password: str) -> str:
    """The same for an é of one character and one of two: keyboards of different systems send either."""
    return unicodedata.normalize("NFC", password)


def check_new_password(name: str, password: str) -> None:
    """Raises UserError for a password that can be guessed, or not be typed. The name is its account's."""
    if len(password) < MINIMUM_PASSWORD:
        said = _("The password is too short: use at least {minimum_password} characters.")
        raise UserError(said.format(minimum_password=MINIMUM_PASSWORD))
    if len(password) > MAXIMUM_PASSWORD:
        said = _("The password is too long: use at most {maximum_password:,} characters.")
        raise UserError(said.format(maximum_password=MAXIMUM_PASSWORD))
    try:
        password.encode()
    except UnicodeEncodeError as error:
        raise UserError(_("The password has half a character in it, which can't be typed. Use another one.")) from error
    folded = password.casefold()
    rest = {one for one in folded.replace(name.casefold(), "") if one.isprintable() and not one.isspace()}
    if len(rest) < DIFFERENT_CHARACTERS:
        said = _(
            "The password is too easy to guess: use at least {different_characters} different characters, "
            "blanks and the account's name not counted."
        )
        raise UserError(said.format(different_characters=DIFFERENT_CHARACTERS))
    if OBVIOUS.fullmatch(folded) or any(folded in row or folded in row[::-1] for row in ROWS):
        raise UserError(
            _("The password is one of the first that somebody would try. Use several words, or make one up.")
        )


def generate_password() -> str:
    """A password nobody can guess, to be shown once."""
    return secrets.token_urlsafe(12)


def check_password(db: Database, name: str, password: str) -> Annotator | None:
    """The account with this name and password, or None. Raises UserError if it is deactivated.

    An unknown name costs the same time as a wrong password, so that names can't be found out.
    """
    account = find(db, name)
    stored = decoy_hash() if account is None or account.password_hash is None else account.password_hash
    # Hashes of earlier releases are of what was typed, whichever spelling that was.
    right = any(is_hash_of(stored, spelling) for spelling in dict.fromkeys((one_spelling(password), password)))
    if account is None or not right:
        return None
    if not account.active:
        raise UserError(_(DEACTIVATED))
    return account.annotator


def password_hash(db: Database, name: str) -> str | None:
    """What the password of an active account is checked by; None where nobody can sign in with one."""
    found: str | None = db.value("SELECT password_hash FROM annotator WHERE name = ? AND active", (name,))
    return found


def is_hash_of(stored: str, password: str) -> bool:
    try:
        return hasher.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


@cache
def decoy_hash() -> str:
    """The hash of a password that nobody has."""
    return hasher.hash(secrets.token_urlsafe(32))


# --------------------------------------------------------------------------------------------------- sessions, links
def open_session(db: Database, annotator: Annotator, days: int = SESSION_DAYS, checked_by: str | None = None) -> str:
    """Start a session and return its token; only the token's hash is stored.

    Raises UserError where the hash that the password was checked by, which takes a while, is another by now: the
    sessions of who knows the old one have been ended.
    """
    token = secrets.token_urlsafe(32)
    expires = later(timedelta(days=days))
    with db.transaction() as connection:
        if checked_by is not None and password_hash(db, annotator.name) != checked_by:
            raise UserError(_(NO_MATCH))
        connection.execute("DELETE FROM session WHERE expires <= ?", (now(),))
        row = {"token_sha256": digest(token), "annotator_id": annotator.id, "created": now(), "expires": expires}
        db.insert("session", row)
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
    db.write("DELETE FROM session WHERE token_sha256 = ?", (digest(token),))


def end_sessions(db: Database, whose: str, *values: object) -> None:
    """Sign out whose rows these are, and void their links, inside the caller's transaction."""
    for table in ("session", "sign_in_link"):
        db.connection.execute(f"DELETE FROM {table} WHERE {whose}", values)


def close_doors(db: Database) -> None:
    """Sign everybody out, and void all links and invitations, inside the caller's transaction."""
    end_sessions(db, "1")
    withdraw_invitations(db)


def follow_rules(db: Database, rules: Sequence[str]) -> None:
    """Sign out all Hub users where a Space's rules are not those of the last start: they decide at the next sign-in.

    What they have sent is withdrawn: whoever is no admin any more may never come back to be told so.
    """
    with db.transaction():
        if setting_store.setting(db, RULES, None) == list(rules):
            return
        end_sessions(db, "annotator_id IN (SELECT id FROM annotator WHERE hub_id IS NOT NULL)")
        for row in db.rows("SELECT name FROM annotator WHERE hub_id IS NOT NULL"):
            withdraw_invitations(db, row["name"])
        setting_store.set_setting(db, RULES, list(rules))


def owner_link_token(db: Database) -> str:
    """A token that signs the owner in once within the hour; earlier ones become void.

    Whoever starts the program owns its data directory, so this is for a server on loopback only. The owner is the
    account of that name, made on first use without a password; if it may not act any more, the oldest active admin.
    Raises UserError where there is none.
    """
    token = secrets.token_urlsafe(32)
    with db.transaction() as connection:
        connection.execute(
            "INSERT OR IGNORE INTO annotator (name, role, created) VALUES (?, 'admin', ?)", (OWNER, now())
        )
        owner_id = db.value(
            "SELECT id FROM annotator WHERE active AND role = 'admin' ORDER BY name != ?, id LIMIT 1", (OWNER,)
        )
        if owner_id is None:
            said = _(
                "There is no active admin, so nobody can be signed in as the owner. Make one: "
                "python -m annotation accounts add NAME --role admin --data {directory}"
            )
            raise UserError(said.format(directory=db.path.parent))
        connection.execute("DELETE FROM sign_in_link")
        expires = later(timedelta(hours=LINK_HOURS))
        db.insert("sign_in_link", {"token_sha256": digest(token), "annotator_id": owner_id, "expires": expires})
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
            raise UserError(_("This link was used already or is too old. Restart Prefloop to get a new one."))
    return read_annotator(row)


def digest(token: str) -> str:
    """What is stored of a token: a stolen database opens no session."""
    return sha256(token.encode()).hexdigest()


def later(delay: timedelta) -> str:
    return (datetime.now(UTC) + delay).isoformat(timespec="microseconds")


# --------------------------------------------------------------------------------------------------------- throttle
@dataclass(frozen=True)
class RateLimit:
    """So many attempts at once, and as many again in the course of so many seconds."""

    count: int
    seconds: float

    @property
    def each(self) -> float:
        """The seconds that one attempt costs."""
        return self.seconds / self.count


class LoginThrottle:
    """Slows down guessing, in memory, because one process serves the pages. Only failures count in the end.

    Nobody is kept out by what others try on other names, nor from other places; and whoever has signed in from a
    browser before (`known_browser`) not even by what is tried on the same name from the same place, say behind the
    same proxy. What a place may do altogether only bounds the work that it makes.
    """

    PER_NAME: Final = RateLimit(5, 300.0)
    """On a name from a place, or on its account by a browser that is known."""
    PER_PLACE: Final = RateLimit(30, 300.0)
    """After so many, whatever the names, a place has FEWER on each."""
    FEWER: Final = RateLimit(2, 300.0)
    CHECKS: Final = RateLimit(200, 200.0)
    """Of passwords, for a place."""
    MOST: Final = 50_000
    """Names and places that are remembered. The least tried are forgotten first, such as names that are made up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paid: dict[bytes, float] = {}
        """When the attempts on each are paid for."""

    def attempt(self, address: str, name: str, browser: str = "") -> float:
        """Seconds to wait before another attempt; 0 means go on, and the attempt counts."""
        keys = Keys.of(address, name, browser)
        if browser:
            costs = [(keys.name, self.PER_NAME)]
        else:
            crowded = self._wait(keys.place, self.PER_PLACE) > 0
            costs = [(keys.name, self.FEWER if crowded else self.PER_NAME), (keys.checks, self.CHECKS)]
        wait = max(self._wait(key, limit) for key, limit in costs)
        if wait:
            return wait
        if not browser:
            costs.append((keys.place, self.PER_PLACE))
        for key, limit in costs:
            self._pay(key, limit)
        return 0.0

    def succeeded(self, address: str, name: str, browser: str = "") -> None:
        """Forget the failures on this name from there, and take this attempt back."""
        keys = Keys.of(address, name, browser)
        self._paid.pop(keys.name, None)
        if not browser:
            for key, limit in ((keys.place, self.PER_PLACE), (keys.checks, self.CHECKS)):
                self._paid[key] = self._paid.get(key, 0.0) - limit.each

    def _wait(self, key: bytes, limit: RateLimit) -> float:
        return max(0.0, self._paid.get(key, 0.0) + limit.each - limit.seconds - self._clock())

    def _pay(self, key: bytes, limit: RateLimit) -> None:
        now = self._clock()
        self._paid[key] = min(max(self._paid.get(key, 0.0), now) + limit.each, now + limit.seconds)
        if len(self._paid) > self.MOST:
            latest = sorted(((paid, known) for known, paid in self._paid.items() if paid > now), reverse=True)
            self._paid = {known: paid for paid, known in latest[: self.MOST // 2]}


@dataclass(frozen=True)
class Keys:
    """What an attempt counts for, in a few bytes each, however long the name is."""

    name: bytes
    place: bytes
    checks: bytes

    @classmethod
    def of(cls, address: str, name: str, browser: str) -> Keys:
        """Of an attempt from an address, or by a known browser."""
        place, folded = network_of(address), name.casefold()
        named = ("browser", browser, folded) if browser else ("name", place, folded)
        return cls(short(*named), short("place", place), short("checks", place))


def short(*parts: str) -> bytes:
    """A digest of words."""
    return sha256(bytes_of(repr(parts))).digest()[:16]


def network_of(address: str) -> str:
    """What counts as one place: an IPv4 address, or the /64 network of an IPv6 one: a customer has all of that."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((int(found), 64), strict=False))


def browser_mark(db: Database, name: str) -> str:
    """What a browser keeps from which somebody has signed in with a password: void once that is another one."""
    number = secrets.token_urlsafe(16)
    stored = existing(db, name).password_hash
    assert stored is not None  # they have just signed in with it
    return f"{number}.{seal(stored, number).decode()}"


def known_browser(db: Database, name: str, mark: str) -> str:
    """The number in a mark that this account gave a browser; empty for any other mark."""
    number, _, sealed = mark.partition(".")
    account = find(db, name)
    if account is None or account.password_hash is None:
        return ""
    return number if hmac.compare_digest(seal(account.password_hash, number), bytes_of(sealed)) else ""


def account_of_mark(db: Database, mark: str) -> int | None:
    """The account that gave a browser this mark; None for any other mark."""
    number, _, sealed = mark.partition(".")
    rows = db.rows("SELECT id, password_hash FROM annotator WHERE active AND password_hash IS NOT NULL")
    given = (row["id"] for row in rows if hmac.compare_digest(seal(row["password_hash"], number), bytes_of(sealed)))
    return next(given, None)


def seal(stored: str, number: str) -> bytes:
    """What only this program can put under a number. Who has stolen the hash, and so could, needs no more guesses."""
    return bytes_of(hmac.new(stored.encode(), bytes_of(number), sha256).hexdigest())


def bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
