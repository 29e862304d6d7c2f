"""Accounts, sessions, links and the login throttle, on a real file; and the command line for them."""

from __future__ import annotations

import getpass
import io
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from annotation.__main__ import main
from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.ui import terminal
from annotation.web import access
from annotation.web.access import LoginThrottle
from tests.conftest import SLOW_HASHER, dump
from tests.machine_fixtures import ROOT

pytestmark = pytest.mark.slow

PASSWORD = "correct horse"


@pytest.fixture
def kim(db: Database) -> Annotator:
    return access.add_account(db, "kim", "admin", PASSWORD)


@pytest.fixture
def slow_hasher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The program's own hashes, in the place of the quick ones of tests."""
    monkeypatch.setattr(access, "hasher", SLOW_HASHER)
    access.decoy_hash.cache_clear()
    yield
    access.decoy_hash.cache_clear()


def everything_stored(db: Database) -> str:
    return "\n".join(dump(db))


# ---------------------------------------------------------------------------------------------------------- accounts
def test_a_password_is_stored_as_argon2id_only(slow_hasher: None, db: Database, kim: Annotator) -> None:
    assert PASSWORD not in everything_stored(db)
    assert db.value("SELECT password_hash FROM annotator").startswith("$argon2id$v=19$m=65536,")


@pytest.mark.parametrize("name", ["", "x" * 41, "a b", "<b>", "a/b", "${x}", "ä", "a\n"])
def test_bad_names_are_refused(db: Database, name: str) -> None:
    with pytest.raises(UserError, match="can't be a name"):
        access.add_account(db, name, "annotator", PASSWORD)
    assert access.accounts(db) == []


def test_accounts_are_listed_as_one_counts(db: Database) -> None:
    for name in ("pupil-10", "pupil-2", "9", "ann", "Bea"):
        access.insert_account(db, name, "annotator", "a hash")
    access.deactivate(db, "9")
    assert [account.name for account in access.accounts(db)] == ["ann", "Bea", "pupil-2", "pupil-10", "9"]


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
    assert access.check_password(db, "kim", PASSWORD + " ") is None
    with pytest.raises(UserError, match="deactivated"):
        access.check_password(db, "kim", PASSWORD)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "too short"),
        ("ninechars", "at least 10"),
        (" " * 10, "different characters"),
        (" \t\u00a0\u2003\u3000\u2028 \n\r\x0b", "different characters"),
        ("\u200b\u200c\u200d\u2060\ufeff\u00ad\u202e\u200e\u200f\u061c\u180e", "different characters"),
        ("aaaaaaaaaa", "different characters"),
        ("abababababab", "different characters"),
        ("aAbBaAbBcCdD", "different characters"),
        ("1111122222333", "different characters"),
        ("Kimberley.Jones", "different characters"),
        ("kimberley.jones12", "different characters"),
        ("kimberley.joneskimberley.jones", "different characters"),
        ("Password2026!", "first that somebody would try"),
        ("password password", "first that somebody would try"),
        ("1234567890", "first that somebody would try"),
        ("0987654321", "first that somebody would try"),
        ("QWERTYUIOP", "first that somebody would try"),
        ("admin-admin-1", "first that somebody would try"),
        ("abcdefghijkl", "first that somebody would try"),
        ("correct horse \ud800", "half a character"),
        ("correct horse " * 74, "at most 1,024"),
    ],
)
def test_passwords_that_can_be_guessed_or_not_be_typed_are_refused(db: Database, password: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        access.add_account(db, "kimberley.jones", "annotator", password)
    assert access.accounts(db) == []


@pytest.mark.parametrize(
    "password",
    [
        "correct horse", "ten4chars!", "  leading and trailing  ", "пароль из слов", "漢字と仮名の合い言葉です",
        "a" * 1019 + "bcdef",        "admin of the purple hill", "ab1ab2ab3ab", "🙂🙃🐎🔋📎" * 2,
    ],
)  # fmt: skip
def test_passwords_that_are_taken(db: Database, password: str) -> None:
    access.add_account(db, "kim", "annotator", password)
    assert access.check_password(db, "kim", password) is not None
    assert access.check_password(db, "kim", password + "x") is None


def test_a_password_is_the_same_in_both_spellings_of_a_letter_with_an_accent(db: Database) -> None:
    composed, decomposed = "crème brûlée", "cre\u0300me bru\u0302le\u0301e"
    access.add_account(db, "kim", "annotator", decomposed)
    assert access.check_password(db, "kim", composed) is not None
    assert access.check_password(db, "kim", decomposed) is not None
    assert access.check_password(db, "kim", "creme brulee") is None


def test_passwords_of_earlier_releases_still_sign_in(db: Database, kim: Annotator) -> None:
    for old in ("aaaaaaaaaa", " " * 10, "kim" * 4, "cre\u0300me bru\u0302le\u0301e", "x" * 2000):
        db.write("UPDATE annotator SET password_hash = ?", (access.hasher.hash(old),))
        assert access.check_password(db, "kim", old) == kim


def test_passwords_that_are_made_up_are_taken(db: Database) -> None:
    for _ in range(500):
        access.check_new_password("kim", access.generate_password())


def test_an_unknown_name_costs_as_much_as_a_wrong_password(
    slow_hasher: None, db: Database, kim: Annotator, monkeypatch: pytest.MonkeyPatch
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
    db.write("UPDATE session SET expires = '2020-01-01T00:00:00.000000+00:00'")
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
    access.add_account(db, "kim", "admin", PASSWORD)
    assert access.has_password_accounts(db)
    db.connection.execute("UPDATE annotator SET active = 0 WHERE name = 'kim'")
    assert not access.has_password_accounts(db)


def test_a_new_link_voids_the_old_one_and_an_old_one_expires(db: Database) -> None:
    first, second = access.owner_link_token(db), access.owner_link_token(db)
    with pytest.raises(UserError):
        access.use_link(db, first)
    db.write("UPDATE sign_in_link SET expires = '2020-01-01T00:00:00.000000+00:00'")
    with pytest.raises(UserError):
        access.use_link(db, second)
    assert [account.name for account in access.accounts(db)] == ["owner"]


def test_the_link_is_for_an_admin_who_may_still_act(db: Database, kim: Annotator) -> None:
    access.owner_link_token(db)
    access.set_role(db, "owner", "annotator")
    assert access.use_link(db, access.owner_link_token(db)) == kim


def test_where_there_is_no_admin_a_sentence_says_how_to_make_one(db: Database) -> None:
    """As in an archive in which the owner is an annotator."""
    db.connection.execute("INSERT INTO annotator (name, role, created) VALUES ('owner', 'annotator', '2026-01-01')")
    with pytest.raises(UserError, match=r"no active admin.* accounts add NAME --role admin --data "):
        access.owner_link_token(db)
    access.add_account(db, "kim", "admin", "a long enough password")
    assert access.use_link(db, access.owner_link_token(db)).name == "kim"


# ---------------------------------------------------------------------------------------------------------- throttle
class Clock:
    """A clock that a test moves."""

    time = 1000.0

    def __call__(self) -> float:
        return self.time


def spend(throttle: LoginThrottle, address: str, names: Iterable[str]) -> list[float]:
    """Wrong attempts on each of the names."""
    return [throttle.attempt(address, name) for name in names]


def test_the_sixth_attempt_on_a_name_waits_and_other_names_and_places_do_not() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    assert spend(throttle, "1.1.1.1", ["ann"] * 5) == [0] * 5
    clock.time += 20
    assert throttle.attempt("1.1.1.1", "ANN") == 40
    assert throttle.attempt("1.1.1.1", "bob") == 0
    assert throttle.attempt("2.2.2.2", "ann") == 0
    clock.time += 41
    assert spend(throttle, "1.1.1.1", ["ann"] * 2) == [0, pytest.approx(59)]


def test_in_the_long_run_a_name_can_be_tried_five_times_in_five_minutes() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    tried = 0
    for _ in range(3600):
        tried += throttle.attempt("1.1.1.1", "ann") == 0
        clock.time += 1
    assert tried <= 5 + 3600 / 60


def test_whoever_tries_many_names_keeps_nobody_out_and_gets_fewer_tries_on_each() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    assert set(spend(throttle, "1.1.1.1", (f"name{number}" for number in range(150)))) == {0}
    assert throttle.attempt("1.1.1.1", "ann") == 0
    assert throttle.attempt("1.1.1.1", "ann") == 0
    assert throttle.attempt("1.1.1.1", "ann") > 0
    throttle = LoginThrottle(clock)
    tried = 0
    for _ in range(1200):  # an attacker who goes through twenty names without a pause, for an hour
        for number in range(20):
            tried += throttle.attempt("1.1.1.1", f"name{number}") == 0
        clock.time += 3
    assert tried <= 30 + 3600 / 10 + 20 * (2 + 3600 / 150)


def test_what_a_place_makes_the_server_compute_is_bounded() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    waits = spend(throttle, "1.1.1.1", (f"name{number}" for number in range(1000)))
    assert waits.count(0) == LoginThrottle.CHECKS.count
    assert max(waits) <= 1
    assert throttle.attempt("2.2.2.2", "ann") == 0
    clock.time += 1
    assert throttle.attempt("1.1.1.1", "ann") == 0


def test_successes_cost_nothing_however_many_people_share_an_address() -> None:
    throttle = LoginThrottle(Clock())
    for number in range(1000):
        assert throttle.attempt("1.1.1.1", f"name{number}") == 0
        throttle.succeeded("1.1.1.1", f"name{number}")
    assert spend(throttle, "1.1.1.1", ["ann"] * 6) == [0] * 5 + [60]


def test_a_success_forgets_the_failures_of_its_name_only() -> None:
    throttle = LoginThrottle(Clock())
    for _ in range(5):
        throttle.attempt("1.1.1.1", "ann")
        throttle.attempt("1.1.1.1", "bob")
    throttle.succeeded("1.1.1.1", "ann")
    assert throttle.attempt("1.1.1.1", "ann") == 0
    assert throttle.attempt("1.1.1.1", "bob") > 0


def test_a_known_browser_is_counted_apart_and_has_no_more_tries_than_others() -> None:
    throttle = LoginThrottle(Clock())
    spend(throttle, "1.1.1.1", ["ann"] * 10)
    spend(throttle, "1.1.1.1", (f"name{number}" for number in range(500)))
    assert throttle.attempt("1.1.1.1", "ann") > 0
    assert [throttle.attempt("1.1.1.1", "ann", "number") for _ in range(6)] == [0] * 5 + [60]
    assert throttle.attempt("9.9.9.9", "ann", "number") == 60


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("", "unknown", False),
    ],
)
def test_a_place_is_an_address_or_a_customers_network(one: str, other: str, same: bool) -> None:
    assert (access.network_of(one) == access.network_of(other)) is same


def test_names_and_places_that_are_made_up_do_not_fill_the_memory_or_hide_a_name_that_was_tried() -> None:
    throttle = LoginThrottle(Clock())
    throttle.MOST = 300  # type: ignore[misc]
    spend(throttle, "1.1.1.1", ["ann"] * 5)
    for number in range(500):
        throttle.attempt(f"10.0.{number // 250}.{number % 250}", "x" * 1000 + str(number))
        assert len(throttle._paid) <= throttle.MOST
    assert throttle.attempt("1.1.1.1", "ann") > 0
    assert max(len(key) for key in throttle._paid) <= 16


def test_a_browser_is_known_for_the_account_that_signed_in_from_it_until_the_password_changes(
    db: Database, kim: Annotator
) -> None:
    access.add_account(db, "ann", "annotator", PASSWORD)
    mark = access.browser_mark(db, "kim")
    assert access.known_browser(db, "KIM", mark) == mark.split(".")[0]
    number, seal = mark.split(".")
    for forged in ("", ".", number, f"{number}.", f"x{number}.{seal}", f"{number}.{seal[:-1]}0x", "ä.ö", "\ud800.x"):
        assert access.known_browser(db, "kim", forged) == ""
    for name in ("ann", "nobody", ""):
        assert access.known_browser(db, name, mark) == ""
    access.set_password(db, "kim", "another fine phrase")
    assert access.known_browser(db, "kim", mark) == ""


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
    monkeypatch.setattr(terminal, "somebody_is_there", lambda: True)
    assert run(data_dir, "add", "kim") == 0
    assert access.check_password(db, "kim", PASSWORD) is not None
    assert run(data_dir, "add", "lee") == 2
    assert "differ" in capsys.readouterr().err
    assert [account.name for account in access.accounts(db)] == ["kim"]


def test_mistakes_on_the_command_line_are_one_sentence(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["deactivate", "nobody"], ["add", "a b", "--generate"], ["password", "nobody", "--generate"]):
        assert run(data_dir, *words) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_what_a_sentence_quotes_does_nothing_to_a_terminal(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data_dir, "add", "a\x1b[2J\u202eb", "--generate") == 2
    assert capsys.readouterr().err.startswith("'a⟨U+001B⟩[2J⟨U+202E⟩b' can't be a name")


def add_kim(data_dir: Path, **how: Any) -> subprocess.CompletedProcess[bytes]:
    """`accounts add kim` in a session of its own, which has no terminal."""
    words = ["-m", "annotation", "accounts", "add", "kim", "--data", str(data_dir)]
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, start_new_session=True, check=False, **how
    )


def test_without_a_terminal_a_password_is_read_from_what_is_piped_in(db: Database, data_dir: Path) -> None:
    done = add_kim(data_dir, input=PASSWORD.encode() + b"\r\nand what follows is nothing to us\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert access.check_password(db, "kim", PASSWORD) is not None


@pytest.mark.parametrize("given", [b"", b"\n", b"not UTF-8: \xff\xfe\n", None])
def test_without_a_terminal_and_a_password_a_sentence_says_what_to_do(
    db: Database, data_dir: Path, given: bytes | None
) -> None:
    closed: dict[str, Any] = {"preexec_fn": lambda: os.close(0)}
    done = add_kim(data_dir, **(closed if given is None else {"input": given}))
    assert done.returncode == 2
    said = done.stderr.decode().strip().splitlines()
    assert len(said) == 1
    if not given:
        assert "--generate" in said[0]
    assert access.accounts(db) == []


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
@pytest.mark.parametrize("again", [f"{PASSWORD}\n", "\x04"])
def test_in_a_terminal_it_is_asked_for_twice_and_not_shown(db: Database, data_dir: Path, again: str) -> None:
    import pty

    words = ["-m", "annotation", "accounts", "add", "kim", "--data", str(data_dir)]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        for prompt, typed in ((b"characters): ", f"{PASSWORD}\n"), (b"Once more: ", again)):
            while prompt not in shown:
                shown += os.read(ours, 1024)
            os.write(ours, typed.encode())
        with suppress(OSError):  # a terminal whose other end is closed
            while more := os.read(ours, 1024):
                shown += more
    os.close(ours)
    assert PASSWORD.encode() not in shown
    assert b"Traceback" not in shown
    added = again != "\x04"
    assert process.returncode == (0 if added else 2)
    assert (access.check_password(db, "kim", PASSWORD) is not None) is added


def test_no_answer_agrees_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, agreed in (("y\n", True), (" YES \n", True), ("n\n", False), ("\n", False), ("", False)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        assert terminal.agreed("Spend it?") is agreed
    monkeypatch.setattr(sys, "stdin", None)
    assert not terminal.agreed("Spend it?")
    assert not terminal.somebody_is_there()
