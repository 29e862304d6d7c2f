"""Invitations: an account of one's own by a link, as an annotator, so often and so long; nothing secret is stored."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import closing
from typing import Literal
from urllib.parse import unquote

import pytest
from httpx import ASGITransport, AsyncClient, Response
from starlette.applications import Starlette
from starlette.testclient import TestClient

from annotation.database import Database
from annotation.records import UserError
from annotation.ui.stylesheet import LOGO
from annotation.web import access, invitations, sign_in_pages
from annotation.web.invitations import JoinPages
from annotation.web.middleware import SECURITY_HEADERS, SignIn
from annotation.workbench import annotator_groups

PASSWORD = "seven wooden bridges"


def token_of(path: str) -> str:
    return path.removeprefix("/join?token=")


@pytest.fixture
def client(db: Database) -> TestClient:
    sign_in = SignIn(db, "cookie")
    return TestClient(Starlette(routes=JoinPages(db, sign_in).routes()), follow_redirects=False)


@pytest.mark.parametrize("shown", [sign_in_pages.login_page(), sign_in_pages.join_page("t", "", "", None)])
def test_pages_without_a_session_have_the_logo_as_their_icon(shown: str) -> None:
    """In the page itself, which its policy allows: files are for who is signed in."""
    icon = re.search('<link rel="icon" href="data:image/svg[+]xml,([^"<>]+)">', shown)
    assert icon is not None
    assert unquote(icon[1]) == LOGO.read_text("utf-8").strip()
    assert re.search("img-src [^;]*data:", SECURITY_HEADERS["Content-Security-Policy"])


def test_the_sign_in_says_how_to_come_in_without_a_password(db: Database) -> None:
    """Only where only this machine can reach the program was a link printed in the terminal."""
    for printed in (True, False):
        shown = TestClient(Starlette(routes=SignIn(db, "cookie", owners_link=printed).routes())).get("/login").text
        assert ("printed in the terminal" in shown, "accounts password" in shown) == (printed, not printed)


def test_whoever_has_the_link_makes_an_annotators_account_and_is_signed_in(db: Database, client: TestClient) -> None:
    path = invitations.invite(db, {"uses": 2, "days": 1, "group": " the  crowd ", "quota": 30}, "eve")
    assert 'name="password"' in client.get(path).text
    answer = client.post("/join", data={"token": token_of(path), "name": "ann", "password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    joined = access.session_annotator(db, answer.cookies["cookie"])
    assert joined is not None
    assert (joined.name, joined.role) == ("ann", "annotator")
    account = access.accounts(db)[0]
    assert (account.quota, annotator_groups.groups_of_each(db)[account.id]) == (30, ("the crowd",))
    assert invitations.invitations(db)[0].used == 1
    token = token_of(path)
    assert token not in "".join(str(row) for row in db.rows("SELECT * FROM invitation"))


def test_a_stranger_is_told_of_no_path_where_nothing_can_be_stored(
    db: Database, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = token_of(invitations.invite(db, {}, "eve"))
    monkeypatch.setattr("annotation.database.WAIT_SECONDS", 0.0)
    with closing(Database(db.path)) as other, other.transaction():
        answer = client.post("/join", data={"token": token, "name": "ann", "password": PASSWORD})
    assert answer.status_code == 409
    assert "The server can store nothing now. Tell whoever runs it." in answer.text
    assert str(db.path) not in answer.text


@pytest.mark.parametrize(
    "gone",
    [
        access.deactivate,
        lambda db, name: access.set_role(db, name, "annotator"),
        lambda db, name: access.set_password(db, name, "another password"),
    ],
)
def test_what_an_admin_sent_is_withdrawn_where_they_are_none_any_more_or_somebody_else_may_have_sent_it(
    db: Database, gone: Callable[[Database, str], None]
) -> None:
    for name in ("eve", "kim"):
        access.add_account(db, name, "admin", PASSWORD)
    sent, others = (invitations.invite(db, {"uses": 3}, name) for name in ("eve", "kim"))
    gone(db, "EVE")
    assert [invitations.is_open(db, token_of(path)) for path in (sent, others)] == [False, True]


def test_a_link_ends_with_its_uses_its_days_and_its_withdrawal(db: Database, client: TestClient) -> None:
    used, old, withdrawn = (invitations.invite(db, {"uses": 1}, "eve") for _turn in range(3))
    invitations.accept(db, token_of(used), "ann", PASSWORD)
    db.write("UPDATE invitation SET expires = '2020' WHERE id = 2")
    invitations.withdraw(db, 3)
    for path in (used, old, withdrawn, "/join?token=made-up", "/join", "/join?token="):
        answer = client.get(path)
        assert (answer.status_code, "not valid" in answer.text, "<form" in answer.text) == (404, True, False)
        with pytest.raises(UserError, match="not valid"):
            invitations.accept(db, token_of(path), "bob", PASSWORD)
    assert [one.state for one in invitations.invitations(db)] == ["withdrawn", "expired", "used"]
    for number in (1, 2, 3, 9):
        with pytest.raises(UserError, match="over already"):
            invitations.withdraw(db, number)
    assert len(access.accounts(db)) == 1


@pytest.mark.parametrize("uses", [1, 2])
def test_who_presses_twice_or_lost_the_answer_gets_the_account_that_was_made(
    db: Database, client: TestClient, uses: int
) -> None:
    token = token_of(invitations.invite(db, {"uses": uses}, "eve"))
    for _ in range(2):
        answer = client.post("/join", data={"token": token, "name": "ann", "password": PASSWORD})
        assert answer.status_code == 303
        joined = access.session_annotator(db, answer.cookies["cookie"])
        assert joined is not None
        assert joined.name == "ann"
    assert invitations.invitations(db)[0].used == 1
    refused = client.post("/join", data={"token": token, "name": "ann", "password": "eight wooden bridges"})
    assert "cookie" not in refused.cookies
    assert ("The name &#x27;ann&#x27; is taken", "This invitation is not valid")[uses == 1] in refused.text
    other = token_of(invitations.invite(db, {"uses": uses}, "eve"))
    assert client.post("/join", data={"token": other, "name": "ann", "password": PASSWORD}).status_code == 409


def test_a_refused_name_or_password_spends_nothing_and_is_said_on_the_form(db: Database, client: TestClient) -> None:
    access.add_account(db, "eve", "admin", PASSWORD)
    path = invitations.invite(db, {}, "eve")
    for name, password, said in (
        ("eve", PASSWORD, "is taken"), ("EVE", PASSWORD, "is taken"), ("Owner", PASSWORD, "is taken"),
        ("<b>", PASSWORD, "be a name"), ("ann", "short", "too short"), ("ann", "", "too short"),
    ):  # fmt: skip
        answer = client.post("/join", data={"token": token_of(path), "name": name, "password": password})
        assert answer.status_code == 409
        assert said in answer.text
        assert "<b>" not in answer.text
        assert "reset its password" not in answer.text
    assert invitations.invitations(db)[0].used == 0


def test_a_bad_token_costs_no_hash(db: Database, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "hash_password", lambda *_: pytest.fail("it was hashed"))
    answer = client.post("/join", data={"token": "guessed", "name": "ann", "password": PASSWORD})
    assert answer.status_code == 404


def test_a_name_that_cannot_be_had_costs_no_hash(
    db: Database, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    access.add_account(db, "eve", "admin", PASSWORD)
    token = token_of(invitations.invite(db, {}, "eve"))
    monkeypatch.setattr(access, "hash_password", lambda *_: pytest.fail("it was hashed"))
    for name in ("eve", "OWNER", "a b"):
        assert client.post("/join", data={"token": token, "name": name, "password": PASSWORD}).status_code == 409


def test_trying_on_and_on_has_to_wait_and_costs_no_hash(
    db: Database, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = invitations.invite(db, {"uses": 3}, "eve")

    def join(name: str, password: str = PASSWORD) -> Response:
        return client.post("/join", data={"token": token_of(path), "name": name, "password": password})

    assert [join("ann", "short").status_code for _turn in range(5)] == [409] * 5
    with monkeypatch.context() as patched:
        patched.setattr(access, "hash_password", lambda *_: pytest.fail("it was hashed"))
        waiting = join("ANN")
    assert (waiting.status_code, int(waiting.headers["Retry-After"]) > 0) == (429, True)
    assert "Too many attempts" in waiting.text
    assert token_of(path) in waiting.text, "the form stays"
    assert join("bob").status_code == 303
    assert join("cat").status_code == 303
    for number in range(300):
        if join(f"other-{number}", "short").status_code == 429:
            break
    assert number < 250, "a place has so many checks, whatever the names"


def test_a_password_is_tried_at_the_invitation_as_often_as_at_the_sign_in_altogether(db: Database) -> None:
    sign_in, token = SignIn(db, "cookie"), token_of(invitations.invite(db, {"uses": 3}, "eve"))
    invitations.accept(db, token, "ann", PASSWORD)
    routes = [*JoinPages(db, sign_in).routes(), *sign_in.routes()]
    client = TestClient(Starlette(routes=routes), follow_redirects=False)
    guess = {"token": token, "name": "ann", "password": "a guess of it"}
    answers = [client.post(path, data=guess).status_code for path in ("/join", "/login") * 3]
    assert answers == [409, 401, 409, 401, 409, 429]


@pytest.mark.parametrize("path", ["/join", "/login"])
def test_whose_turn_comes_after_the_end_of_the_program_is_told_to_press_again(db: Database, path: str) -> None:
    waits, token = asyncio.Event(), token_of(invitations.invite(db, {}, "eve"))
    form = {"token": token, "name": "ann", "password": PASSWORD}

    class Queue(asyncio.Semaphore):
        async def acquire(self) -> Literal[True]:
            waits.set()
            return await super().acquire()

    sign_in = SignIn(db, "cookie", hashing=Queue(0))
    asgi = Starlette(routes=[*JoinPages(db, sign_in).routes(), *sign_in.routes()])

    async def ended() -> Response:
        transport = ASGITransport(asgi)
        async with AsyncClient(transport=transport, base_url="http://localhost") as client:
            request = asyncio.create_task(client.post(path, data=form))
            await waits.wait()
            request.cancel()  # as the server cancels what it still answers when it has to end
            return await request

    answer = asyncio.run(ended())
    assert "Once it runs again, press the button again." in answer.text
    assert 'value="ann"' in answer.text


def test_the_last_use_is_given_once(db: Database) -> None:
    token = token_of(invitations.invite(db, {"uses": 1}, "eve"))

    async def both() -> list[object]:
        tries = (asyncio.to_thread(invitations.accept, db, token, name, PASSWORD) for name in ("ann", "bob"))
        return await asyncio.gather(*tries, return_exceptions=True)

    done = asyncio.run(both())
    assert sum(isinstance(one, UserError) for one in done) == 1
    assert len(access.accounts(db)) == 1


BAD = ({"uses": 0}, {"uses": 1001}, {"days": 0}, {"days": 91}, {"quota": -1}, {"uses": "many"}, {"group": "a, b"}, 7)


@pytest.mark.parametrize("asked", BAD)
def test_what_no_invitation_can_be_is_refused(db: Database, asked: object) -> None:
    with pytest.raises(UserError):
        invitations.invite(db, asked, "eve")
    assert invitations.invitations(db) == []
