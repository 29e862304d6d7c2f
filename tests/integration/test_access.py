"""Accounts, sessions, links and the login throttle, on a real file with real hashes; and the command line for them."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from annotation import access
from annotation.__main__ import main
from annotation.database import Database
from annotation.records import Annotator, UserError

PASSWORD = "correct horse"


@pytest.fixture
def kim(db: Database) -> Annotator:
    return access.add_account(db, "kim", "admin", PASSWORD)


def everything_stored(db: Database) -> str:
    return "\n".join(db.connection.conn.iterdump())


# ---------------------------------------------------------------------------------------------------------- accounts
def test_a_password_is_stored_as_argon2id_only(db: Database, kim: Annotator) -> None:
    assert PASSWORD not in everything_stored(db)
    assert db.value("SELECT password_hash FROM annotator").startswith("$argon2id$v=19$m=65536,")


@pytest.mark.parametrize("name", ["", "x" * 41, "a b", "<b>", "a/b", "${x}", "ä", "a\n"])
def test_bad_names_are_refused(db: Database, name: str) -> None:
    with pytest.raises(UserError, match="can't be a name"):
        access.add_account(db, name, "annotator", PASSWORD)
    assert access.accounts(db) == []


def test_short_passwords_unknown_roles_and_taken_names_are_refused(db: Database, kim: Annotator) -> None:
    with pytest.raises(UserError, match="at least 10"):
        access.add_account(db, "lee", "annotator", "ninechars")
    with pytest.raises(UserError, match="not a role"):
        access.add_account(db, "lee", "root", PASSWORD)
    with pytest.raises(UserError, match="already"):
        access.add_account(db, "KIM", "annotator", PASSWORD)
    assert [account.name for account in access.accounts(db)] == ["kim"]


def test_the_last_active_admin_stays(db: Database, kim: Annotator) -> None:
    with pytest.raises(UserError, match="last active admin"):
        access.set_role(db, "kim", "annotator")
    with pytest.raises(UserError, match="last active admin"):
        access.deactivate(db, "kim")
    access.add_account(db, "lee", "admin", PASSWORD)
    access.deactivate(db, "kim")
    with pytest.raises(UserError, match="last active admin"):
        access.set_role(db, "lee", "annotator")
    assert access.authorise(db, "lee", "admin").name == "lee"


def test_roles_are_checked_on_every_call(db: Database, kim: Annotator) -> None:
    access.add_account(db, "ann", "annotator", PASSWORD)
    assert access.authorise(db, "kim", "annotator").role == "admin"
    assert access.authorise(db, "ann", "annotator").name == "ann"
    with pytest.raises(UserError, match="Only an admin"):
        access.authorise(db, "ann", "admin")
    access.deactivate(db, "ann")
    for name in ("ann", "nobody", "", None):
        with pytest.raises(UserError, match="can't be used"):
            access.authorise(db, name, "annotator")


# --------------------------------------------------------------------------------------------------------- passwords
def test_only_the_right_password_of_an_active_account_is_accepted(db: Database, kim: Annotator) -> None:
    assert access.check_password(db, "kim", PASSWORD) == kim
    assert access.check_password(db, "kim", PASSWORD + " ") is None
    assert access.check_password(db, "nobody", PASSWORD) is None
    access.owner_link_token(db)
    assert access.check_password(db, "owner", "") is None
    access.deactivate(db, "kim")
    assert access.check_password(db, "kim", PASSWORD) is None


def test_an_unknown_name_costs_as_much_as_a_wrong_password(
    db: Database, kim: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one argon2 hash of the same cost, which is nearly all of the time that an answer takes."""
    costs: list[list[str]] = []

    class Counted(PasswordHasher):
        """Notes the parameters of each hash that is checked."""

        def verify(self, hash: str | bytes, password: str | bytes) -> Any:
            costs.append(str(hash).split("$")[1:4])
            return super().verify(hash, password)

    monkeypatch.setattr(access, "hasher", Counted())
    for name in ("kim", "nobody"):
        assert access.check_password(db, name, "wrong password") is None
    known, unknown = costs
    assert known == unknown
    assert known[0] == "argon2id"


# ---------------------------------------------------------------------------------------------------------- sessions
def test_a_session_is_stored_as_a_hash_and_ends(db: Database, kim: Annotator) -> None:
    token = access.open_session(db, kim)
    assert token not in everything_stored(db)
    assert access.session_annotator(db, token) == kim
    assert access.session_annotator(db, token + "x") is None
    access.close_session(db, token)
    assert access.session_annotator(db, token) is None


def test_an_expired_session_is_nobody(db: Database, kim: Annotator) -> None:
    token = access.open_session(db, kim)
    with db.transaction() as connection:
        connection.execute("UPDATE session SET expires = '2020-01-01T00:00:00.000000+00:00'")
    assert access.session_annotator(db, token) is None
    access.open_session(db, kim)
    assert db.value("SELECT count(*) FROM session") == 1


def test_a_new_password_a_new_role_and_deactivation_end_sessions(db: Database, kim: Annotator) -> None:
    lee = access.add_account(db, "lee", "admin", PASSWORD)
    other = access.open_session(db, kim)
    changes = [
        lambda: access.set_password(db, "lee", "another password"),
        lambda: access.set_role(db, "lee", "annotator"),
        lambda: access.deactivate(db, "lee"),
    ]
    for change in changes:
        token = access.open_session(db, lee)
        change()
        assert access.session_annotator(db, token) is None
    assert access.session_annotator(db, other) == kim


# ------------------------------------------------------------------------------------------------------------- links
def test_the_owners_link_works_once(db: Database) -> None:
    token = access.owner_link_token(db)
    assert token not in everything_stored(db)
    assert access.use_link(db, token).role == "admin"
    for spent in (token, "made up", ""):
        with pytest.raises(UserError, match="used already or is too old"):
            access.use_link(db, spent)
    assert not access.has_password_accounts(db)


def test_a_new_link_voids_the_old_one_and_an_old_one_expires(db: Database) -> None:
    first, second = access.owner_link_token(db), access.owner_link_token(db)
    with pytest.raises(UserError):
        access.use_link(db, first)
    with db.transaction() as connection:
        connection.execute("UPDATE sign_in_link SET expires = '2020-01-01T00:00:00.000000+00:00'")
    with pytest.raises(UserError):
        access.use_link(db, second)
    assert [account.name for account in access.accounts(db)] == ["owner"]


def test_the_link_is_for_an_admin_who_may_still_act(db: Database, kim: Annotator) -> None:
    access.owner_link_token(db)
    access.set_role(db, "owner", "annotator")
    assert access.use_link(db, access.owner_link_token(db)) == kim


# ---------------------------------------------------------------------------------------------------------- throttle
class Clock:
    """A clock that a test moves."""

    time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_the_sixth_attempt_on_a_name_waits_and_other_names_and_places_do_not() -> None:
    clock = Clock()
    throttle = access.LoginThrottle(clock)
    assert [throttle.attempt("1.1.1.1", "ann") for _ in range(5)] == [0] * 5
    clock.time += 100
    assert throttle.attempt("1.1.1.1", "ANN") == 200
    assert throttle.attempt("1.1.1.1", "bob") == 0
    assert throttle.attempt("2.2.2.2", "ann") == 0
    clock.time += 201
    assert throttle.attempt("1.1.1.1", "ann") == 0


def test_trying_many_names_from_one_place_waits() -> None:
    throttle = access.LoginThrottle(Clock())
    waits = [throttle.attempt("1.1.1.1", f"name{number}") for number in range(31)]
    assert waits == [0] * 30 + [300]


def test_a_success_forgets_the_failures_of_its_name_only() -> None:
    throttle = access.LoginThrottle(Clock())
    for _ in range(5):
        throttle.attempt("1.1.1.1", "ann")
        throttle.attempt("1.1.1.1", "bob")
    throttle.succeeded("1.1.1.1", "ann")
    assert throttle.attempt("1.1.1.1", "ann") == 0
    assert throttle.attempt("1.1.1.1", "bob") > 0


# ------------------------------------------------------------------------------------------------------ command line
def run(data_dir: Path, *words: str) -> int:
    return main(["accounts", *words, "--data", str(data_dir)])


def test_accounts_on_the_command_line(db: Database, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data_dir, "add", "kim", "--role", "admin", "--generate") == 0
    password = capsys.readouterr().out.split("Password: ")[1].split()[0]
    assert access.check_password(db, "kim", password) is not None
    assert run(data_dir, "password", "kim", "--generate") == 0
    assert access.check_password(db, "kim", password) is None
    assert run(data_dir, "add", "ann", "--generate") == 0
    assert run(data_dir, "deactivate", "ann") == 0
    capsys.readouterr()
    assert run(data_dir, "list") == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert listed == [["kim", "admin", "active", "password"], ["ann", "annotator", "deactivated", "password"]]


def test_the_password_is_asked_for_twice(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter([PASSWORD, PASSWORD, PASSWORD, "something else"])
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(typed))
    assert run(data_dir, "add", "kim") == 0
    assert access.check_password(db, "kim", PASSWORD) is not None
    assert run(data_dir, "add", "lee") == 2
    assert "differ" in capsys.readouterr().err
    assert [account.name for account in access.accounts(db)] == ["kim"]


def test_mistakes_on_the_command_line_are_one_sentence(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["deactivate", "nobody"], ["add", "a b", "--generate"], ["password", "nobody", "--generate"]):
        assert run(data_dir, *words) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
