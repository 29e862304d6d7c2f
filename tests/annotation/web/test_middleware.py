"""The real server over raw HTTP: who gets in, what each of them may do, and what the browser is sent."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

import app
from annotation.api import AnnotationApi
from annotation.database import FILE_NAME, SQLITE_IN_USE, Database, open_database
from annotation.records import ROLES
from annotation.store import comparison_store, prompt_store
from annotation.tabs.guard import Context
from annotation.web import access
from annotation.web.middleware import SECURITY_HEADERS, SignIn
from annotation.web.space import PROXIES
from rlhf.models import decision_store, registry
from rlhf.tabs.pages import build_pages
from tests.conftest import (
    BASE_NAME,
    act,
    dump,
    judgement_count,
    make_response,
    measure_nobody,
    seed_comparisons,
    seed_prompts,
)
from tests.frozen_in_memory import current_judgements
from tests.machine_fixtures import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

PASSWORD = "a long enough password"
REVISION = "iteration-zebra"
ENDPOINTS = ("card", "judge", "undo", "reopen", "revise", "latest", "ask", "guidelines", "safety")
Call = dict[str, Any]


@dataclass(frozen=True)
class Site:
    """A running server with its database."""

    url: str
    cookie: str
    db: Database
    functions: list[Call]
    """Every registered function as Gradio's configuration lists it, with the role its guard asks for."""

    def client(self, name: str | None = None) -> httpx.Client:
        """A browser of this person, or of a stranger."""
        client = httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS)
        if name is not None:
            token = access.open_session(self.db, access.authorise(self.db, name, "annotator"))
            client.cookies.set(self.cookie, token)
        return client


def seed(db: Database) -> None:
    """A base, an adapter that serves, people, and comparisons by the adapter."""
    registry.ensure_base(db, BASE_NAME)
    measure_nobody(db)
    db.write(
        "INSERT INTO job (kind, spec, status, requested_by, created) VALUES ('dpo', ?, 'finished', '', '')",
        ('{"kind": "dpo"}',),
    )
    adapter = registry.add(
        db, revision=REVISION, algorithm="dpo", base=BASE_NAME, parent_id=1, job_id=1, path="adapters/zebra", sha256="0"
    )
    decision_store.promote(db, REVISION, "test")
    for name, role in (("ann", "annotator"), ("bob", "annotator"), ("kim", "admin")):
        access.add_account(db, name, role, PASSWORD)
    seed_comparisons(db, 40, "train", adapter.id)
    seed_comparisons(db, 10, "held-out", adapter.id)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data_dir = tmp_path_factory.mktemp("web") / "data"
    db = open_database(data_dir)
    seed(db)
    with subprocess.Popen(command(data_dir), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("Prefloop runs at ").strip().rstrip("/")
        try:
            yield describe(Site(url, app.Settings(port=int(url.rsplit(":", 1)[1])).cookie, db, []), data_dir)
        finally:
            process.terminate()
    db.close()


def command(data_dir: Path) -> list[str]:
    """How to start the server without workers on a free port."""
    return [sys.executable, "app.py", "--no-workers", "--no-browser", "--port", "0", "--data", str(data_dir)]


def describe(bare: Site, data_dir: Path) -> Site:
    """The site with its functions, as the configuration lists them, and the inputs a fresh page would send."""
    with bare.client("kim") as client:
        components = {entry["id"]: entry for entry in client.get("/config").json()["components"]}
        dependencies = client.get("/config").json()["dependencies"]
    roles = {fn._id: fn.fn.required_role for fn in build_pages(Context(bare.db, data_dir, BASE_NAME)).fns.values()}
    functions = [
        {
            "id": entry["id"],
            "api_name": entry["api_name"],
            "data": [components[number]["props"].get("value") for number in entry["inputs"]],
            "numbers": [
                place for place, number in enumerate(entry["inputs"]) if components[number]["type"] == "number"
            ],
            "role": roles[entry["id"]],
        }
        for entry in dependencies
    ]
    return replace(bare, functions=functions)


def everything_stored(db: Database) -> list[str]:
    """The whole database as text, sign-in sessions aside, which the tests themselves open."""
    return [line for line in dump(db) if not line.startswith('INSERT INTO "session"')]


def run(client: httpx.Client, api_name: str, *data: Any) -> httpx.Response:
    """Call a function the way a page just opened calls one that isn't queued."""
    page = secrets.token_hex(6)
    return client.post(f"/gradio_api/run/{api_name}", json={"data": list(data), "session_hash": page})


def post(client: httpx.Client, endpoint: str, **body: Any) -> httpx.Response:
    """Ask an endpoint of the annotators' page the way its script does."""
    return client.post(f"/annotate/{endpoint}", json=body)


def show(client: httpx.Client) -> Call:
    """The comparison in hand, as the browser gets it."""
    answer: Call = post(client, "card").json()
    return answer


def judge(client: httpx.Client, card: Call, word: str, **extras: Any) -> Call:
    """Judge what was shown; the answer of the server."""
    answer: Call = post(client, "judge", nonce=card["nonce"], act=act(word, **extras)).json()
    return answer


# ------------------------------------------------------------------------------------------------------ every function
def test_every_registered_function_goes_through_the_guard(site: Site, data_dir: Path) -> None:
    pages = build_pages(Context(site.db, data_dir, BASE_NAME))
    assert len(pages.fns) == len(site.functions) > 15
    for function in pages.fns.values():
        assert function.fn is not None, f"{function.api_name} runs without a function to guard"
        assert getattr(function.fn, "required_role", None) in ROLES, f"{function.api_name} is not guarded"
        assert not function.js


def raw_calls(function: Call) -> list[tuple[str, Call]]:
    """Every way into a function over HTTP: (path, body)."""
    by_index = {"data": function["data"], "fn_index": function["id"], "session_hash": "abc"}
    ways: list[tuple[str, Call]] = [
        ("/gradio_api/run/predict", by_index),
        ("/gradio_api/api/predict", by_index),
        ("/gradio_api/queue/join", by_index),
    ]
    if isinstance(function["api_name"], str):
        ways += [(f"/gradio_api/{way}/{function['api_name']}", {"data": function["data"]}) for way in ("run", "call")]
    return ways


def test_a_stranger_can_call_no_function(site: Site) -> None:
    before = everything_stored(site.db)
    with site.client() as stranger:
        stranger.cookies.set(site.cookie, "made-up")
        for place, function in enumerate(site.functions):
            ways = raw_calls(function)
            path, body = ways[place % len(ways)]
            assert stranger.post(path, json=body).status_code == 401, (path, function)
        for name in ENDPOINTS:
            body = {"nonce": "x", "id": 1, "act": act("tie"), "prompt": "hello"}
            assert post(stranger, name, **body).status_code == 401, name
        for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=abc", "/gradio_api/upload"):
            assert stranger.get(path).status_code == 401
    assert everything_stored(site.db) == before


def stored_outcome(client: httpx.Client, function: Call) -> Call:
    """Call by the queue as a page does; the message that ends it."""
    page = secrets.token_hex(6)
    body = {"data": function["data"], "fn_index": function["id"], "session_hash": page}
    client.post("/gradio_api/queue/join", json=body).raise_for_status()
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": page}) as stream:
        for line in stream.iter_lines():
            message: Call = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("the stream ended without a result")


def test_an_annotator_makes_no_account_and_no_admin(site: Site) -> None:
    """Every function of admins is tried in tests/attack, each by one of the ways that annotators have."""
    refused = {function["api_name"] for function in site.functions if function["role"] == "admin"}
    assert {"account-add", "account-make-admin"} <= refused
    before = everything_stored(site.db)
    with site.client("ann") as annotator:
        assert run(annotator, "account-add", "eve", "admin", PASSWORD).status_code == 403
        assert run(annotator, "account-make-admin", "ann").status_code == 403
    assert everything_stored(site.db) == before


def test_an_annotators_page_has_nothing_of_admins(site: Site) -> None:
    with site.client("ann") as annotator, site.client("kim") as admin:
        own, all_of_it = annotator.get("/config").json(), admin.get("/config").json()
        assert [entry["api_name"] for entry in own["dependencies"]] == ["greet"]
        assert own["dependencies"][0]["id"] == all_of_it["dependencies"][0]["id"], "the door reads numbers as admins'"
        assert not [entry for entry in own["components"] if entry["type"] in ("tab", "button", "file", "textbox")]
        assert len(own["components"]) < len(all_of_it["components"]) / 50


def test_what_an_annotators_page_calls_is_answered_at_once_and_by_the_queue(site: Site) -> None:
    allowed = [function for function in site.functions if function["role"] == "annotator"]
    assert [function["api_name"] for function in allowed] == ["greet"], "what annotators may call of Gradio's functions"
    with site.client("ann") as annotator:
        assert "ann · annotator" in run(annotator, "greet").text
        assert "ann · annotator" in str(stored_outcome(annotator, allowed[0]))


def test_an_admins_function_is_answered_by_the_queue_and_by_name(site: Site) -> None:
    function = next(function for function in site.functions if function["api_name"] == "accounts")
    with site.client("kim") as admin:
        assert "kim" in str(stored_outcome(admin, function))
        event = admin.post("/gradio_api/call/accounts", json={"data": []}).json()["event_id"]
        assert "kim" in admin.get(f"/gradio_api/call/accounts/{event}").text


@pytest.mark.parametrize("sent", ["1e400", "NaN", "2.5", '"x"'])
def test_whatever_is_sent_for_a_number_is_answered_or_refused_with_a_sentence(site: Site, sent: str) -> None:
    asked = [function for function in site.functions if function["numbers"]]
    assert len({function["api_name"] for function in asked}) > 20
    before = everything_stored(site.db)
    with site.client("kim") as admin:
        for function in asked:
            data = [0.5 if place in function["numbers"] else value for place, value in enumerate(function["data"])]
            body = json.dumps({"data": data, "fn_index": function["id"], "session_hash": "abc"}).replace("0.5", sent)
            answer = admin.post("/gradio_api/run/predict", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 200 or answer.json()["error"], function["api_name"]
    assert everything_stored(site.db) == before


def test_an_admin_is_not_refused(site: Site) -> None:
    with site.client("kim") as admin:
        assert run(admin, "account-add", "lee", "annotator", PASSWORD).status_code == 200
    assert "lee" in {account.name for account in access.accounts(site.db)}


def test_an_annotators_page_lists_no_account(site: Site) -> None:
    with site.client("ann") as annotator:
        assert "kim" not in run(annotator, "accounts").text
    with site.client("kim") as admin:
        assert "kim" in run(admin, "accounts").text


def test_a_deactivated_account_is_out_at_once(site: Site) -> None:
    access.add_account(site.db, "leaver", "annotator", PASSWORD)
    with site.client("leaver") as client:
        assert run(client, "greet").status_code == post(client, "card").status_code == 200
        access.deactivate(site.db, "leaver")
        assert run(client, "greet").status_code == post(client, "card").status_code == 401


# --------------------------------------------------------------------------------------------------------- judgements
def judged(db: Database, name: str) -> int:
    """Judgements of this person, undone ones and skips included."""
    return int(
        db.value("SELECT count(*) FROM judgement j JOIN annotator a ON a.id = j.annotator_id WHERE a.name = ?", (name,))
    )


def test_every_endpoint_of_the_page_is_mounted_and_listed_here(site: Site) -> None:
    mounted = {route.path for route in AnnotationApi(site.db).routes()}
    assert mounted == {f"/annotate/{name}" for name in ENDPOINTS}
    with site.client("ann") as annotator:
        for name in ENDPOINTS:
            assert post(annotator, name).status_code in (200, 409), name
            opened = annotator.get(f"/annotate/{name}")  # below /annotate are addresses of the page
            assert opened.headers["content-type"].startswith("text/html"), f"{name} answers a mere link"
            for body in (b"", b"[]", b"{", b"null", b"[" * 100_000, b'{"a":' * 50_000, b"\xff"):
                headers = {"content-type": "application/json"}
                assert annotator.post(f"/annotate/{name}", content=body, headers=headers).status_code == 400
            assert annotator.post(f"/annotate/{name}", content=b"{}").status_code == 400, "a form could send this"
        too_large = {"nonce": "x" * 2_000_000}
        assert post(annotator, "judge", **too_large).status_code == 400


def test_repeated_and_simultaneous_requests_make_one_judgement(site: Site) -> None:
    before = judged(site.db, "ann")
    words = ("left-clearly", "right-much", "tie", "skip")
    with site.client("ann") as annotator, ThreadPoolExecutor(8) as pool:
        card = show(annotator)
        bodies = [{"nonce": card["nonce"], "act": act(words[number % 4])} for number in range(24)]
        answers = list(pool.map(lambda body: post(annotator, "judge", **body), bodies))
        assert {answer.status_code for answer in answers} == {200}
        told = [(body["act"], answer.json()) for body, answer in zip(bodies, answers, strict=True)]
        stands = told[0][1]["judged"]
        assert all(said["judged"] == stands for _, said in told), "all are told what stands"
        sent = [(said["saved"], {key: stands[key] for key in asked} == asked) for asked, said in told]
        assert set(sent) == {(False, False), (True, True)}, "only who asked for this is told that it is saved"
        following = {answer.json()["nonce"] for answer in answers}
        assert judged(site.db, "ann") == before + 1
        assert len(following) == 1
        assert card["nonce"] not in following
        assert show(annotator)["nonce"] in following


def test_the_answer_seen_on_the_left_wins_in_the_database(site: Site) -> None:
    with site.client("ann") as annotator:
        for _ in range(8):
            card = show(annotator)
            judge(annotator, card, "left-clearly")
            last = list(current_judgements(site.db))[-1]
            assert last.ranking is not None
            assert last.responses[last.ranking.index(1)].text == card["answers"][0]["text"]


def test_the_nonce_of_someone_else_records_nothing_and_shows_the_own_comparison(site: Site) -> None:
    with site.client("ann") as ann, site.client("bob") as bob:
        of_ann, of_bob = show(ann), show(bob)
        before = site.db.value("SELECT count(*) FROM judgement")
        answer = judge(bob, of_ann, "tie")
        assert "not in your hands" in answer["notice"]
        assert answer["saved"] is False
        assert answer["nonce"] == of_bob["nonce"]
        for nonce in (None, {}, ["x"], 1):
            assert post(bob, "judge", nonce=nonce, act=act("tie")).status_code == 409
        for nonce in ("", "nonce", of_ann["nonce"]):
            assert post(bob, "judge", nonce=nonce, act=act("tie")).json()["nonce"] == of_bob["nonce"]
            assert post(bob, "undo", nonce=nonce).json()["nonce"] == of_bob["nonce"]
        for number in range(1, before + 5):
            assert post(bob, "reopen", id=number).status_code == 409
            assert post(bob, "revise", id=number, act=act("tie")).status_code == 409
        assert post(bob, "latest").json() == {"judgements": [], "agreement": None}
        assert site.db.value("SELECT count(*) FROM judgement") == before


def test_undo_over_http_is_not_repeated_by_a_retry(site: Site) -> None:
    with site.client("bob") as bob:
        shown = [judge(bob, show(bob), "tie") for _ in range(2)][-1]
        before = judgement_count(site.db, access.authorise(site.db, "bob", "annotator"))
        undone = [post(bob, "undo", nonce=shown["nonce"]).json() for _ in range(3)]
        assert undone[0]["progress"]["yours"] == undone[2]["progress"]["yours"] == before - 1
        assert {card["nonce"] for card in undone} == {show(bob)["nonce"]}


CARD = {
    *("nonce", "notice", "trouble", "tags", "rendered", "own_prompts", "asked", "guidelines_version", "progress"),
    *("revising", "kind", "messages", "answers", "me", "unanswered", "elsewhere", "by_judges", "undo"),
    "guidelines_follow",
}


def test_the_browser_is_sent_no_trace_of_who_wrote_an_answer(site: Site) -> None:
    hidden = [REVISION, BASE_NAME, "zebra", "<|im_start|>", "model_id", "shown_order", "comparison_id", "purpose"]
    with site.client("bob") as bob:
        page, config = bob.get("/", headers={"accept": "text/html"}), bob.get("/config")
        cards = [post(bob, "card"), post(bob, "card", rendered=True)]
        for number in range(8):
            body = {"nonce": show(bob)["nonce"], "act": act("tie" if number % 2 else "skip")}
            cards.append(post(bob, "judge", **body))
        cards.append(post(bob, "undo", nonce=show(bob)["nonce"]))
        latest = post(bob, "latest")
        cards.append(post(bob, "reopen", id=latest.json()["judgements"][0]["id"]))
        loaded = [
            run(bob, function["api_name"], *function["data"])
            for function in site.functions
            if function["role"] == "annotator" and function["api_name"] in ("greet", "accounts")
        ]
    assert page.status_code == config.status_code == latest.status_code == 200
    for answer in [page, config, *cards, latest, *loaded]:
        found = [word for word in hidden if word in answer.text]
        assert found == [], answer.request.url
    for card in (answer.json() for answer in cards):
        assert set(card) - {"saved", "undone", "judged"} == CARD
        assert card["me"] == "bob"
        assert all(set(message) <= {"role", "text", "html"} for message in card["messages"])
        assert all(set(answer) <= {"state", "text", "html"} for answer in card["answers"])
        assert "held-out" not in str(card)


def test_hostile_answers_reach_the_page_as_data_only(site: Site) -> None:
    hostile = "<script>alert(1)</script>${alert(2)}{{value}}<think>hm</think>"
    access.add_account(site.db, "sam", "annotator", PASSWORD)
    with site.db.transaction() as connection:  # nothing else is left for Sam
        connection.execute("UPDATE claim SET state = 'released' WHERE state = 'held'")
    prompt = seed_prompts(site.db, 1)[-1]
    comparison_store.add_comparison(site.db, [make_response(prompt, hostile, 2), make_response(prompt, "fine", 2)])
    with site.client("sam") as sam:
        card = show(sam)
        while hostile not in [answer["text"] for answer in card["answers"]]:
            card = judge(sam, card, "skip")
        rendered = post(sam, "card", rendered=True)
        assert rendered.headers["content-type"] == "application/json"
        pages = [answer["html"] for answer in rendered.json()["answers"]]
        assert not [page for page in pages if "<script" in page or "<think" in page]
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in "".join(pages)
        assert hostile not in sam.get("/config").text


# ----------------------------------------------------------------------------------------------------------- the door
def test_pages_redirect_strangers_and_carry_the_security_headers(site: Site) -> None:
    with site.client() as stranger:
        page = stranger.get("/", headers={"accept": "text/html"})
        login = stranger.get("/login")
        health = stranger.get("/healthz")
        assert health.json()["sqlite"] == SQLITE_IN_USE
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    assert login.status_code == health.status_code == 200
    assert health.json()["ok"] is True
    assert str(site.db.path.parent) not in health.text
    with site.client("ann") as annotator:
        answers = [page, login, health, annotator.get("/"), run(annotator, "greet")]
    for answer in answers:
        assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    for gone in ("/openapi.json", "/docs", "/redoc", "/monitoring", "/monitoring/summary"):
        with site.client("kim") as admin:
            assert admin.get(gone).headers["content-type"].startswith("text/html") or admin.get(gone).is_error


def test_other_origins_and_other_hosts_are_refused(site: Site) -> None:
    with site.client("kim") as admin:
        for origin in ("http://evil.test", "null", "http://localhost:1", site.url.replace("127.0.0.1", "localhost")):
            headers = {"origin": origin, "content-type": "application/json"}
            answer = admin.post("/gradio_api/run/greet", json={"data": []}, headers=headers)
            assert answer.status_code == 403, origin
            assert "access-control-allow-origin" not in answer.headers
            preflight = admin.options(
                "/gradio_api/run/greet", headers={"origin": origin, "access-control-request-method": "POST"}
            )
            assert preflight.is_error
            assert "access-control-allow-origin" not in preflight.headers
        own = admin.post("/gradio_api/run/greet", json={"data": []}, headers={"origin": site.url})
        assert own.status_code == 200
        for origin in ("http://evil.test", "null"):
            assert admin.post("/annotate/card", json={}, headers={"origin": origin}).status_code == 403
        for origin in ("http://evil.test", "http://localhost:1"):
            read = admin.get("/config", headers={"origin": origin})
            assert "access-control-allow-origin" not in read.headers
        for host in ("evil.test", "evil.test:80", "127.0.0.1.evil.test", ""):
            refused = admin.get("/", headers={"host": host})
            assert refused.status_code in (400, 403), host
            assert refused.status_code == 400 or "start it with --host" in refused.text
        assert admin.get("/healthz", headers={"host": "localhost:1234"}).status_code == 200


def test_signing_in_with_a_password_and_out_again(site: Site) -> None:
    with site.client() as client:
        wrong = client.post("/login", data={"name": "kim", "password": "wrong" * 3})
        assert wrong.status_code == 401
        assert "set-cookie" not in wrong.headers
        fields = re.findall("<input ([^>]+)>", wrong.text)
        assert 'value="kim"' in fields[0], "a name is typed once"
        assert ["autofocus" in field for field in fields] == [False, True]
        access.add_account(site.db, "gone", "annotator", PASSWORD)
        access.deactivate(site.db, "gone")
        shut_out = client.post("/login", data={"name": "gone", "password": PASSWORD})
        assert (shut_out.status_code, "account here was deactivated" in shut_out.text) == (401, True)
        right = client.post("/login", data={"name": "kim", "password": PASSWORD})
        assert (right.status_code, right.headers["location"]) == (303, "/")
        flags = right.headers["set-cookie"].lower()
        assert "httponly" in flags
        assert "samesite=lax" in flags
        assert "max-age=2592000" in flags
        assert "kim · admin" in run(client, "greet").text
        assert client.get("/logout").status_code == 303
        assert run(client, "greet").status_code == 200
        stolen = dict(client.cookies)
        out = client.post("/logout")
        assert (out.status_code, out.headers["cache-control"]) == (200, "no-store")
        assert '<script data-name="kim">' in out.text, "their drafts go"
        assert client.post("/logout").headers["location"] == "/login", "nobody's do"
        client.cookies.update(stolen)
        assert run(client, "greet").status_code == 401


def test_the_login_waits_after_five_wrong_passwords_even_with_the_right_one(site: Site) -> None:
    access.add_account(site.db, "target", "annotator", PASSWORD)
    with site.client() as client:
        codes = [client.post("/login", data={"name": "target", "password": "guess"}).status_code for _ in range(5)]
        blocked = client.post("/login", data={"name": "target", "password": PASSWORD})
    assert codes == [401] * 5
    assert blocked.status_code == 429
    assert 0 < int(blocked.headers["retry-after"]) <= 300


def test_a_browser_that_has_signed_in_is_let_in_whatever_is_tried_on_its_name_beside_it(site: Site) -> None:
    access.add_account(site.db, "regular", "annotator", PASSWORD)
    right = {"name": "regular", "password": PASSWORD}
    with site.client() as client, site.client() as attacker:
        signed_in = client.post("/login", data=right)
        kept = next(value for value in signed_in.headers.get_list("set-cookie") if "-browser=" in value).lower()
        assert all(flag in kept for flag in ("httponly", "samesite=lax", "path=/login"))
        client.post("/logout")
        codes = [attacker.post("/login", data={**right, "password": "guess"}).status_code for _ in range(6)]
        assert codes == [401] * 5 + [429]
        assert attacker.post("/login", data=right).status_code == 429
        assert client.post("/login", data=right).status_code == 303
        # The mark is for this account only, and no more use than five tries.
        marked = [client.post("/login", data={**right, "password": "guess"}).status_code for _ in range(6)]
        assert marked == [401] * 5 + [429]


NEEDS_IPV6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here that takes IPv4 too")


def guess(client: httpx.Client, name: str, forwarded: str = "") -> int:
    """A wrong password, which says where it comes from."""
    headers = {"x-forwarded-for": forwarded, "x-real-ip": forwarded, "forwarded": f"for={forwarded}"}
    told = headers if forwarded else {}
    return client.post("/login", data={"name": name, "password": "guess"}, headers=told).status_code


def test_an_address_that_is_made_up_gives_no_more_tries(site: Site) -> None:
    access.add_account(site.db, "dodged", "annotator", PASSWORD)
    with site.client() as client:
        codes = [guess(client, "dodged", f"203.0.113.{number}") for number in range(6)]
    assert codes == [401] * 5 + [429]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address only")
@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("::", marks=NEEDS_IPV6)])
def test_behind_a_proxy_on_this_machine_the_address_that_it_adds_counts_and_nobody_elses_word_does(
    tmp_path: Path, host: str
) -> None:
    db = open_database(tmp_path / "data")
    registry.ensure_base(db, BASE_NAME)
    access.add_account(db, "ann", "annotator", PASSWORD)
    db.close()
    words = [*command(tmp_path / "data"), "--host", host]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().strip().rstrip("/").rsplit(":", 1)[1])
        try:
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as proxy:
                invented = [guess(proxy, "ann", f"198.51.100.{number}, 203.0.113.1") for number in range(6)]
                assert invented == [401] * 5 + [429]
                assert guess(proxy, "ann", "203.0.113.1, 203.0.113.2") == 401
                networks = [guess(proxy, "ann", f"2001:db8::{number:x}") for number in range(6)]
                assert networks == [401] * 5 + [429]
            transport = httpx.HTTPTransport(local_address="127.0.0.2")  # not where the proxy is
            with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, transport=transport) as stranger:
                assert [guess(stranger, "ann", f"203.0.113.{number}") for number in range(9, 15)] == [401] * 5 + [429]
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.1.2.3", ["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["10.9.9.9, 203.0.113.7, 10.4.5.6"], "203.0.113.7"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.1.2.3", [], "10.1.2.3"),
    ],
)
def test_on_a_space_the_address_counts_that_its_proxy_adds(peer: str, forwarded: list[str], address: str) -> None:
    seen: list[str] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])

    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    scope = {"type": "http", "client": (peer, 1), "headers": headers, "scheme": "http"}
    trusting: Any = ProxyHeadersMiddleware(page, trusted_hosts=list(PROXIES))
    asyncio.run(trusting(scope, None, None))
    assert seen == [address]


def test_wrong_passwords_on_other_names_keep_nobody_behind_the_same_address_out(site: Site) -> None:
    access.add_account(site.db, "neighbour", "annotator", PASSWORD)
    others = [f"other{number}" for number in range(28)]
    for name in others:  # a name that is unknown costs a quarter of a second of work, as the program's own accounts do
        access.add_account(site.db, name, "annotator", PASSWORD)
    with site.client() as client:
        names = ["stranger", *others, *["ann", "bob", "kim"] * 2]
        codes = [client.post("/login", data={"name": name, "password": "guess"}).status_code for name in names]
        assert codes == [401] * len(names)
        assert client.post("/login", data={"name": "neighbour", "password": PASSWORD}).status_code == 303


def test_the_longest_password_signs_in(site: Site) -> None:
    longest = "🙂🙃🐎🔋" * 255 + "end."
    access.add_account(site.db, "verbose", "annotator", longest)
    with site.client() as client:
        assert client.post("/login", data={"name": "verbose", "password": longest}).status_code == 303


def test_a_login_form_that_is_too_large_is_refused(site: Site) -> None:
    with site.client() as client:
        assert client.post("/login", data={"name": "x" * 20_000, "password": "y"}).status_code == 413


def test_checking_passwords_does_not_hold_up_the_others(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are answered while it goes on: it ends only after they were."""
    begun, answered = threading.Event(), threading.Event()

    def check(*_: Any) -> None:
        begun.set()
        assert answered.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(access, "check_password", check)
    door = Starlette(routes=SignIn(db, "prefloop").routes())

    async def try_it() -> tuple[int, int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://test") as client:
            attempt = asyncio.create_task(client.post("/login", data={"name": "kim", "password": "x"}))
            assert await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
            meanwhile = await client.get("/login")
            answered.set()
            return meanwhile.status_code, (await attempt).status_code

    assert asyncio.run(try_it()) == (200, 401)


@pytest.mark.parametrize("shut_out", ["password", "deactivated"])
def test_who_was_shut_out_while_the_password_was_checked_gets_no_session(
    db: Database, monkeypatch: pytest.MonkeyPatch, shut_out: str
) -> None:
    """A check takes a tenth of a second: whoever tries without a pause is nearly always in one."""
    check = access.check_password
    access.add_account(db, "kim", "annotator", PASSWORD)

    def meanwhile(*asked: Any) -> Any:
        found = check(*asked)
        if shut_out == "password":
            access.set_password(db, "kim", "another long enough one")
        else:
            access.add_account(db, "lee", "admin", PASSWORD)
            access.deactivate(db, "kim")
        return found

    monkeypatch.setattr(access, "check_password", meanwhile)
    door = Starlette(routes=SignIn(db, "prefloop").routes())

    async def sign_in() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://test") as client:
            return await client.post("/login", data={"name": "KIM", "password": PASSWORD})

    answer = asyncio.run(sign_in())
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert "Name and password don&#x27;t match." in answer.text
    assert db.value("SELECT count(*) FROM session") == 0


def test_the_owners_link_signs_in_once(site: Site) -> None:
    token = access.owner_link_token(site.db)
    with site.client() as client:
        assert client.head("/signin", params={"token": token}).status_code == 405, "whoever only looks spends nothing"
        assert client.get("/signin", params={"token": token}).status_code == 303
        assert "owner · admin" in run(client, "greet").text
    with site.client() as client:
        assert client.get("/signin", params={"token": token}).status_code == 401
        assert run(client, "greet").status_code == 401


@pytest.mark.own_start
def test_a_sqlite_that_loses_commits_is_said_at_the_start_and_to_admins(tmp_path: Path) -> None:
    db = open_database(tmp_path / "data")
    registry.ensure_base(db, BASE_NAME)
    access.add_account(db, "kim", "admin", PASSWORD)
    old = "import runpy, sqlite3, sys; sqlite3.sqlite_version_info = (3, 40, 1); sys.modules['pysqlite3'] = None"
    program, _, *words = command(tmp_path / "data")
    code = f"{old}; sys.argv = ['app.py']; sys.path.insert(0, ''); runpy.run_path('app.py', run_name='__main__')"
    code = code.replace("['app.py']", repr(["app.py", *words]))
    (tmp_path / "old.py").write_text(code, "utf-8")
    pipe = subprocess.PIPE
    with subprocess.Popen([program, str(tmp_path / "old.py")], stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().removeprefix("Prefloop runs at ").strip().rstrip("/")
        try:
            process.stdout.readline()
            assert process.stdout.readline().endswith("(Python)\n")
            assert "can lose judgements" in process.stderr.readline()
            bare = Site(url, app.Settings(port=int(url.rsplit(":", 1)[1])).cookie, db, [])
            with bare.client("kim") as admin:
                assert admin.get("/healthz").json()["sqlite"].endswith("(Python)")
                assert "can lose judgements" in run(admin, "accounts").text
        finally:
            process.terminate()
    db.close()


# ----------------------------------------------------------------------------------------------------- starting the app
def start(*words: str, data_dir: Path) -> int:
    return app.main(["--no-workers", "--no-browser", "--data", str(data_dir), *words])


def test_a_public_address_without_accounts_is_refused(
    db: Database, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    access.owner_link_token(db)
    assert start("--host", "0.0.0.0", "--port", "0", data_dir=data_dir) == 2
    error = capsys.readouterr().err
    assert "python -m annotation accounts add NAME --role admin" in error
    assert len(error.strip().splitlines()) == 1


def test_a_busy_port_is_one_sentence(db: Database, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert start("--port", str(port), data_dir=data_dir) == 2
    error = capsys.readouterr().err
    assert f"port {port}" in error
    assert "--port" in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("port", ["65536", "99999", "-1", "nine"])
def test_what_is_no_port_is_refused(data_dir: Path, capsys: pytest.CaptureFixture[str], port: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        start(f"--port={port}", data_dir=data_dir)
    assert f"argument --port: {'invalid' if port == 'nine' else port}" in capsys.readouterr().err


def test_a_data_directory_that_can_not_be_used_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 99)
    for data_dir in (tmp_path / "file" / "data", tmp_path):
        assert start("--port", "0", data_dir=data_dir) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.own_start
def test_the_program_starts_prints_its_link_and_stops_on_a_signal(db: Database, data_dir: Path) -> None:
    """It starts after one that was killed, whose uploads are gone then, as its own are at its end."""
    temporary = data_dir.parent / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, "text": True}
    with subprocess.Popen(command(data_dir), **pipes) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        (left,) = temporary.glob("prefloop-*")
        killed.kill()
    assert left.is_dir()
    with subprocess.Popen(command(data_dir), **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().removeprefix("Prefloop runs at ").strip()
        link = process.stdout.readline().split(": ", 1)[1].strip()
        with httpx.Client(follow_redirects=True, timeout=PATIENCE_SECONDS) as client:
            assert client.get(link).status_code == 200
            assert client.get(f"{address}config").status_code == 200
            (uploads,) = temporary.glob("prefloop-*")
            assert uploads != left
            assert uploads.stat().st_mode & 0o777 == 0o700
            with client.stream("GET", f"{address}gradio_api/heartbeat/open-page"):
                process.terminate()
                process.wait(PATIENCE_SECONDS)
        assert process.stderr.read() == ""
    assert [*temporary.glob("prefloop-*")] == []
    assert len(prompt_store.prompts(db, "train")) >= 150
