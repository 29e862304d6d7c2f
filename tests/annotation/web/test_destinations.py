"""Where a sign-in leads: back to each address of the page, and from none to another site."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from annotation.database import Database
from annotation.web import access
from annotation.web.destinations import destination, sign_in_address
from annotation.web.middleware import SignedIn, SignIn
from annotation.web.sign_in_pages import login_page


@pytest.mark.parametrize(
    "wanted",
    ["/runs", "/runs/12", "/runs/12/", "/data?status=skipped&q=a%20b", "/iterations/dpo-3", "/train/dpo?from=%C3%A4"],
)
def test_an_address_of_the_page_is_kept(wanted: str) -> None:
    assert destination(wanted) == wanted
    path, _mark, query = wanted.partition("?")
    scope = {"type": "http", "path": path, "raw_path": path.encode(), "query_string": query.encode()}
    shown = login_page(wanted=destination(wanted))
    assert sign_in_address(scope).startswith("/login?next=%2F")
    assert f'action="{sign_in_address(scope)}"' in shown


@pytest.mark.parametrize(
    "wanted",
    [
        *("", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example/runs"),
        *("/runs//evil.example", "/runs\\..\\evil", "javascript:alert(1)", "/ /evil", "/\t/evil.example", "/%2F/evil"),
        *("/runs\r\nSet-Cookie: a=b", "/runs?a=b\r\nX: y", "/runs?<script>", '/runs?"', "/runs#//evil", "runs"),
        *(
            "/login",
            "/login?next=/login",
            "/logout",
            "/signin?token=x",
            "/oauth/login",
            "/RUNS",
            "/1",
            "/@evil.example",
        ),
        *("/.evil.example", "/runs/a/b/c/d", "/" + "a" * 50, "/runs/" + "x" * 700, "/runs?" + "x" * 1600, "/rüns"),
    ],
)
def test_anything_else_leads_to_the_beginning(wanted: str) -> None:
    assert destination(wanted) == "/"


def test_a_page_that_is_no_address_is_not_kept() -> None:
    assert sign_in_address({"type": "http", "path": "/", "raw_path": b"/", "query_string": b""}) == "/login"
    assert sign_in_address({"type": "http", "path": "//evil", "raw_path": b"//evil", "query_string": b""}) == "/login"


def test_a_sign_in_leads_to_the_address_that_was_asked_for_and_to_no_other_site(db: Database) -> None:
    access.add_account(db, "kim", "admin", "a long enough password")
    routes = [*SignIn(db, "prefloop").routes(), Route("/runs/{number}", lambda request: PlainTextResponse("A run."))]
    app = Starlette(routes=routes)
    app.add_middleware(SignedIn, db=db, cookie="prefloop")
    form = {"name": "kim", "password": "a long enough password"}
    with TestClient(app, follow_redirects=False) as browser:
        asked = browser.get("/runs/12?compare=1,2", headers={"accept": "text/html"})
        assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=%2Fruns%2F12%3Fcompare%3D1%2C2")
        shown = browser.get(asked.headers["location"]).text
        assert 'action="/login?next=%2Fruns%2F12%3Fcompare%3D1%2C2"' in shown
        wrong = browser.post(asked.headers["location"], data={**form, "password": "wrong"})
        assert 'action="/login?next=%2Fruns%2F12' in wrong.text, "after a mistake it is still known"
        right = browser.post(asked.headers["location"], data=form)
        assert (right.status_code, right.headers["location"]) == (303, "/runs/12?compare=1,2")
        for evil in ("//evil.example", "https://evil.example", "/%5Cevil.example", "/%0d%0aSet-Cookie:a=b"):
            assert browser.post(f"/login?next={evil}", data=form).headers["location"] == "/"
