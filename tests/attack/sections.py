"""What is tried, section by section: each yields what it did and whether the program held."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from annotation.web import access
from annotation.web.middleware import SECURITY_HEADERS
from tests.annotation.web.test_middleware import (
    BASE_NAME,
    ENDPOINTS,
    REVISION,
    act,
    everything_stored,
    judge,
    post,
    show,
)
from tests.attack.target import META, PEOPLE, REFUSED, Target, attempt, leaks, spellings, ways_in
from tests.machine_fixtures import PATIENCE_SECONDS

Try = tuple[str, bool]
READ = (
    *(
        "/",
        "/config",
        "/config/",
        "/theme.css",
        "/assets/x.js",
        "/static/x",
        "/svelte/x",
        "/favicon.ico",
        "/robots.txt",
    ),
    *("/manifest.json", "/pwa_icon", "/monitoring", "/monitoring/summary", "/login_check", "/docs", "/openapi.json"),
    *(
        "/exports/x",
        "/models/1",
        "/metrics/1.csv",
        "/answers/x",
        "/data/prefloop.db",
        "/.git/config",
        "/prefloop.db",
        "/annotate/card",
    ),
)
GRADIO = (
    *(
        "info",
        "openapi.json",
        "token",
        "token/",
        "app_id",
        "user",
        "login_check",
        "startup-events",
        "theme.css",
        "runs",
    ),
    *("runs/", "queue/status", "queue/data?session_hash=x", "heartbeat/x", "dev/reload", "upload_progress?upload_id=x"),
    *("file=/etc/passwd", "file=data/prefloop.db", "file/etc/passwd", "proxy=http://127.0.0.1:1/", "vibe-code", "mcp"),
    *("mcp/sse", "deep_link?session_hash=x", "custom_component/x/client/component/x.js", "profiling/traces"),
    *("stream/x/1/1/playlist.m3u8", "stream/x/1/1/playlist-file", "run-history/records", "call/greet/x", "call/v2/x/y"),
)
SENT = (
    *("upload", "component_server", "component_server/", "process_recording", "stream/x", "stream/x/close", "cancel"),
    *("reset", "reset/", "vibe-edit", "vibe-code", "undo-vibe-edit", "vibe-starter-queries", "run-history/connect"),
    *("queue/join", "run/account-add", "run/account-add/", "api/account-add", "call/account-add", "profiling/clear"),
    *("call/v2/account-add", "login", "mcp", "mcp/messages"),
)
# What an annotator's page reads of Gradio; all else of the lists above is closed to annotators.
PAGE = ("startup-events", "theme.css", "heartbeat/x")


def respelt(path: str) -> list[str]:
    """A path in spellings that a guard might miss and a router might not."""
    first = f"%{ord(path[1]):02x}" if len(path) > 1 else ""
    return [f"/{path}", path.replace("/", "//"), f"{path}/", f"/.{path}", f"/x/..{path}", f"/{first}{path[2:]}",
            path.upper(), path.replace("/", "%2f"), f"{path};x", f"{path}%00", f"{path}%0a", f"{path}?x", f"{path}#",
            f"/prefix{path}", path.replace("_", "%5f"), f"{path}%2f", path.replace("/", "\\")]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- the door
def strangers_paths(target: Target) -> Iterator[Try]:
    """Somebody without a session gets the sign-in page and nothing else."""
    paths = [*READ, *(f"/gradio_api/{path}" for path in (*GRADIO, *SENT)), *(f"/annotate/{name}" for name in ENDPOINTS)]
    with target.client(None) as stranger:
        for path in paths:
            for spelt in (path, *target.some(respelt(path), 6)):
                for method in ("GET", "POST", "PUT", "OPTIONS") if target.long else ("GET", "POST"):
                    answer = attempt(
                        lambda method=method, spelt=spelt: stranger.request(method, target.site.url + spelt)
                    )  # type: ignore[misc]
                    held = answer is None or (answer.status_code in (*REFUSED, 303) and not leaks(target, answer.text))
                    yield f"{method} {spelt}", held
        for cookie in ("", "x", "a" * 5000, "'; DROP TABLE session; --", "%00", '"\\"'):
            headers = {"cookie": f"{target.site.cookie}={cookie}"}
            answer = attempt(lambda headers=headers: stranger.get("/config", headers=headers))  # type: ignore[misc]
            yield f"cookie {cookie[:20]}", answer is None or answer.status_code == 401


def annotators_routes(target: Target) -> Iterator[Try]:
    """Of Gradio's routes an annotator reaches what the page needs, in one spelling."""
    with target.client("ann") as ann:
        for method, paths in (("GET", GRADIO), ("POST", SENT)):
            for path in paths:
                for spelt in (f"/gradio_api/{path}", *target.some(respelt(f"/gradio_api/{path}"), 5)):
                    if path in PAGE or (spelt.startswith("/gradio_api") and path.startswith("queue")):
                        continue
                    body = {
                        "content": b'{"data": [], "session_hash": "a"}',
                        "headers": {"content-type": "application/json"},
                    }
                    send = body if method == "POST" else {}
                    answer = attempt(lambda m=method, s=spelt, b=send: ann.request(m, target.site.url + s, **b))  # type: ignore[misc]
                    # httpx takes "/x/.." and "#" out itself, and what remains may be the page.
                    page = answer is not None and answer.headers.get("content-type", "").startswith("text/html")
                    held = answer is None or answer.status_code in REFUSED or (page and not leaks(target, answer.text))
                    yield f"{method} {spelt}", held


def annotators_functions(target: Target) -> Iterator[Try]:
    """An annotator calls no function of admins, by no way."""
    before = everything_stored(target.site.db)
    with target.client("ann") as ann:
        for place, function in enumerate(target.admins()):
            ways = ways_in(function, function["data"])
            # Some ways are closed to annotators whatever the function: each is tried by one that is not.
            for path, body in ways if target.long else [ways[0], ways[place % len(ways)]]:
                answer = ann.post(path, json=body)
                told = answer.status_code == 403 and "Only an admin" in answer.json()["error"]
                yield f"{path} {function['api_name']}", told or answer.status_code == 404
        for number in (True, "1", 1.0, [1], {"": 1}, -1, 10**6, None):
            body = {"data": [], "fn_index": number, "session_hash": "odd"}
            yield f"fn_index {number!r}", ann.post("/gradio_api/queue/join", json=body).status_code in REFUSED
    yield "nothing was written", everything_stored(target.site.db) == before


class Trap:
    """An address that counts who comes."""

    def __init__(self) -> None:
        self.visits = 0
        trap = self

        class Counting(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                trap.visits += 1
                self.send_error(404)

            def log_message(self, *words: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
        self.address = f"http://127.0.0.1:{self.server.server_port}/x"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """No more."""
        self.server.shutdown()
        self.server.server_close()


def files_in_events(target: Target) -> Iterator[Try]:
    """No file of the server and no address gets anywhere in an event, whoever sends it to whichever function."""
    pipe = target.data_dir.parent / "pipe"
    os.mkfifo(pipe)
    with closing(Trap()) as trap:
        found = [
            *spellings(str(target.secret), trap.address),
            *spellings(str(target.data_dir / "prefloop.db"), trap.address)[:1],
        ]
        found += [{"path": str(path), "meta": META} for path in ("/proc/self/environ", "/etc/passwd", pipe)]
        for name in PEOPLE:
            with target.client(name) as client:
                for place, function in enumerate(target.site.functions):
                    for step in range(len(found) if target.long else 1):
                        value = found[(place + step) % len(found)]
                        data = [value for _ in function["data"]] or [value]
                        ways = ways_in(function, data)
                        path, body = ways[(place + step) % len(ways)]
                        answer = client.post(path, json=body)
                        held = answer.status_code in REFUSED and not leaks(target, answer.text)
                        yield f"{name}: {path} {function['api_name']} {value}", held
        yield "nobody came to the address", trap.visits == 0
    with target.client(None) as stranger:
        yield "it still answers", stranger.get("/healthz").status_code == 200


def pages_of_others(target: Target) -> Iterator[Try]:
    """Who knows the number of another's page can neither read its results nor call, end or watch anything with it."""
    accounts = next(function for function in target.site.functions if function["api_name"] == "accounts")
    event = {"data": [], "fn_index": accounts["id"], "session_hash": "kims-page"}
    with target.client("kim") as kim, target.client("ann") as ann:
        joined = kim.post("/gradio_api/queue/join", json=event)
        yield "an admin's page works", joined.status_code == 200
        queries = (
            "session_hash=kims-page",
            "session_hash=x&session_hash=kims-page",
            "session_hash=kims-page&session_hash=x",
        )
        event_id = joined.json()["event_id"]
        others = (f"call/accounts/{event_id}", "call/greet/kims-page", "deep_link?session_hash=kims-page")
        for path in (*(f"queue/data?{query}" for query in queries), "heartbeat/kims-page", *others):
            answer = ann.get(f"/gradio_api/{path}")
            yield path, answer.status_code in REFUSED and "kim" not in answer.text
        for path in ("queue/join", "run/greet", "cancel", "reset", "component_server"):
            body = {"data": [], "session_hash": "kims-page", "event_id": event_id, "component_id": 1}
            yield path, ann.post(f"/gradio_api/{path}", json={**body, "fn_index": 0}).status_code in REFUSED
        yield "the admin gets the results", "kim" in kim.get("/gradio_api/queue/data?session_hash=kims-page").text


def uploads(target: Target) -> Iterator[Try]:
    """Only admins send files, and each gets back only what they sent."""
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="x.csv"\r\n\r\na\r\n--x--\r\n'
    kinds = (
        "multipart/form-data; boundary=x",
        "Multipart/Form-Data ; boundary=x",
        "multipart/mixed; boundary=x",
        "text/plain",
    )
    access.add_account(target.site.db, "lee", "admin", "a long enough password")
    with target.client("ann") as ann, target.client("kim") as kim, target.client("lee") as lee:
        for route in ("upload", "upload/", "component_server", "process_recording", "run/greet", "queue/join"):
            for kind in kinds:
                answer = ann.post(f"/gradio_api/{route}", content=part, headers={"content-type": kind})
                yield f"{route} {kind}", answer.status_code in REFUSED
        names = ("x.csv", "../../x.csv", "/etc/x", "x.html", "x.svg", ".x", "x\x00.csv", "é", "a" * 300)
        for name in names:
            sent = attempt(
                lambda name=name: kim.post("/gradio_api/upload", files={"files": (name, b"<script>1</script>")})
            )  # type: ignore[misc]
            if sent is None or sent.status_code != 200:
                yield f"upload {name[:20]!r}", sent is None or sent.status_code < 600
                continue
            (path,) = sent.json()
            folder = os.path.dirname(os.path.dirname(path))
            yield f"mode of {name[:20]!r}'s folder", os.stat(folder).st_mode & 0o777 == 0o700
            yield (
                f"{name[:20]!r} is no page",
                "html" not in kim.get(f"/gradio_api/file={path}").headers.get("content-type", ""),
            )
            for other in (ann, lee):
                yield f"{name[:20]!r} for another", other.get(f"/gradio_api/file={path}").status_code in REFUSED


# ------------------------------------------------------------------------------------------------- hosts and origins
def raw(target: Target, request: bytes) -> bytes:
    """What comes back to bytes on the wire."""
    host, port = target.site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except TimeoutError:
            pass
    return answer


ODD = (
    *(
        "[",
        "]",
        "[]",
        "[::1",
        "[::1]x",
        "a b",
        "a@127.0.0.1",
        "127.0.0.1:99999",
        "127.0.0.1:-1",
        "127.0.0.1:x",
        "%31",
        "",
    ),
    *("é", "\x00", "evil.test", "127.0.0.1.evil.test", "localhost.evil.test", "a" * 3000, "127.0.0.1, evil.test"),
)


def hosts_and_origins(target: Target) -> Iterator[Try]:
    """Odd and foreign hosts and origins are refused, in the same way on every path, and never fail."""
    host = target.site.url.removeprefix("http://")
    for odd in ODD:
        for path in target.some(["/login", "/", "/gradio_api/run/greet", "/nothing"], 3):
            for method in ("GET", "POST"):
                for headers in (f"Host: {odd}", f"Host: {host}\r\nOrigin: http://{odd}"):
                    if method == "GET" and "Origin" in headers:
                        continue
                    text = f"{method} {path} HTTP/1.1\r\n{headers}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    answer = raw(target, text.encode("utf-8"))
                    yield f"{method} {path} {headers!r}", answer.split(b" ")[1:2] in ([b"400"], [b"403"])


def forwarded_headers(target: Target) -> Iterator[Try]:
    """What a request claims of where it was sent changes nothing in the pages."""
    claims: list[dict[str, str]] = [
        *({f"x-forwarded-{name}": "evil.test"} for name in ("host", "proto", "prefix", "server", "port", "for")),
        *({"x-gradio-server": value} for value in ("http://evil.test", "//evil.test", "[")),
        *({"x-forwarded-host": value} for value in ("[", "evil.test, 127.0.0.1", "é".encode().decode("latin-1"), "")),
        *({"x-forwarded-proto": value} for value in ("https", "javascript", "https,http")),
        *(
            {name: "evil.test"}
            for name in ("forwarded", "x-original-host", "x-host", "x-original-url", "x-rewrite-url")
        ),
    ]
    with target.client("kim") as kim:
        for claim in claims:
            for path in ("/config", "/"):
                answer = attempt(lambda path=path, claim=claim: kim.get(path, headers=claim))  # type: ignore[misc]
                held = answer is None or (f'"root":"{target.site.url}"' in answer.text and "evil" not in answer.text)
                yield f"{path} {claim}", held


def other_sites(target: Target) -> Iterator[Try]:
    """A page of another site makes no browser do anything here, and reads nothing."""
    before = everything_stored(target.site.db)
    port = target.site.url.rsplit(":", 1)[1]
    origins = (
        *("http://evil.test", "https://evil.test", "null", "http://localhost:1", "file://"),
        *(f"https://evil.test:{port}", f"http://localhost:{port}", f"http://127.0.0.1.evil.test:{port}"),
        f"http://evil.test/{target.site.url}",
    )
    with target.client("kim") as kim:
        for origin in origins:
            for path in ("/annotate/judge", "/logout", "/login", "/gradio_api/run/account-add", "/gradio_api/upload"):
                for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
                    headers = {"origin": origin, "content-type": kind}
                    answer = kim.post(path, content=b"{}", headers=headers)
                    allowed = "access-control-allow-origin" in answer.headers
                    yield f"{origin} {path} {kind}", answer.status_code == 403 and not allowed
            asked = {"origin": origin, "access-control-request-method": "POST"}
            for answer in (
                kim.options("/annotate/judge", headers=asked),
                kim.get("/config", headers={"origin": origin}),
            ):
                yield f"{origin} reads", "access-control-allow-origin" not in answer.headers
        for path in (*(f"/annotate/{name}" for name in ENDPOINTS), "/logout", "/gradio_api/run/account-add"):
            answer = kim.get(path)
            # Below /annotate are addresses of the page, which does nothing of itself.
            page = path.startswith("/annotate/") and answer.headers["content-type"].startswith("text/html")
            yield f"GET {path}", page or answer.status_code in (*REFUSED, 303)
        yield "still signed in", kim.get("/config").status_code == 200
    yield "nothing was written", everything_stored(target.site.db) == before


# ------------------------------------------------------------------------------------------------------------ answers
def headers_of_answers(target: Target) -> Iterator[Try]:
    """Every kind of answer has the security headers, and none but the package's files may be kept by browsers."""
    with target.client("ann") as ann, target.client(None) as stranger:
        asked: list[Callable[[], httpx.Response]] = [
            *(lambda path=path: ann.get(path) for path in ("/", "/config", "/nothing", "/assets/x.js", "/healthz")),  # type: ignore[misc]
            *(lambda path=path: stranger.get(path) for path in ("/", "/login", "/config", "/healthz")),  # type: ignore[misc]
            lambda: ann.post("/annotate/card", json={}),
            lambda: ann.post("/annotate/judge", content=b"["),
            lambda: ann.post("/gradio_api/run/greet", json={"data": []}),
            lambda: ann.post("/gradio_api/run/greet", json={"data": {}}),
            lambda: ann.post("/gradio_api/run/account-add", json={"data": []}),
            lambda: stranger.get("/login", headers={"host": "["}),
            lambda: stranger.post("/login", headers={"origin": "http://["}),
        ]
        for get in asked:
            answer = get()
            what = f"{answer.request.method} {answer.request.url.path} {answer.status_code}"
            yield what, all(answer.headers.get(name) == value for name, value in SECURITY_HEADERS.items())
            yield f"{what} is kept", answer.headers.get("cache-control") == "no-store"


def paths_of_files(target: Target) -> Iterator[Try]:
    """Nothing outside of what is meant to be fetched is, by nobody."""
    climbs = (
        *("../" * 6, "..%2f" * 6, "%2e%2e/" * 6, "..\\" * 6, "....//" * 6, "%252e%252e%252f" * 6),
        *("/", "%2f", "//", "file://"),
    )
    goals = ("etc/passwd", str(target.secret).lstrip("/"), str(target.data_dir / "prefloop.db").lstrip("/"))
    places = (
        *("/exports/", "/models/", "/answers/", "/assets/", "/static/", "/svelte/"),
        *(f"/gradio_api/{place}" for place in ("file=", "file/", "proxy=", "custom_component/x/client/component/")),
    )
    host = target.site.url.removeprefix("http://")
    for name in ("ann", "kim"):
        with target.client(name) as client:
            cookie = f"{target.site.cookie}={client.cookies[target.site.cookie]}"
            for place in places:
                for climb in climbs:
                    for goal in target.some([*goals], 2):
                        head = f"GET {place}{climb}{goal} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n"
                        answer = raw(target, f"{head}Connection: close\r\n\r\n".encode())
                        held = (
                            b"root:x:0" not in answer and b"what only" not in answer and b"SQLite format" not in answer
                        )
                        yield f"{name}: {place}{climb}{goal}", held and not answer.startswith(b"HTTP/1.1 5")


ODD_ACTS: tuple[Any, ...] = (
    *([], "tie", None, {"outcome": "x"}, {"outcome": "ranked", "ranks": [1, 9]}, {"outcome": "ranked", "ranks": "12"}),
    *({"outcome": "ranked", "ranks": [1, 2], "strength": 1e308}, {"outcome": "ranked", "ranks": [True, False]}),
)


def others_work(target: Target) -> Iterator[Try]:
    """Nobody judges, changes or reads what is in another's hands, or learns which policy wrote an answer."""
    with target.client("ann") as ann, target.client("bob") as bob:
        mine, theirs = show(ann), show(bob)
        yield "two have two comparisons", mine["nonce"] != theirs["nonce"]
        for nonce in (
            theirs["nonce"],
            theirs["nonce"].lower(),
            "",
            "' OR 1=1 --",
            [theirs["nonce"]],
            {"$ne": ""},
            None,
            1,
        ):
            answer = post(ann, "judge", nonce=nonce, act=act("tie")).json()
            yield f"nonce {nonce!r}", not answer.get("saved")
        yield "the other's is untouched", show(bob)["nonce"] == theirs["nonce"]
        judge(bob, theirs, "left-clearly", note="bob's note")
        latest = post(bob, "latest").json()["judgements"][0]["id"]
        for number in (latest, str(latest), float(latest), [latest], True, -1, 0, 2**62, 2**63, None):
            for name in ("reopen", "revise"):
                answer = post(ann, name, id=number, act=act("tie"))
                yield f"{name} {number!r}", answer.status_code in REFUSED and "bob's note" not in answer.text
        words = (REVISION, BASE_NAME, "model_id", "comparison_id", "purpose", "shown_order", "held-out")
        for name in ("card", "latest", "guidelines", "safety"):
            yield f"{name} is blind", not any(word in post(ann, name).text for word in words)
        for odd in ODD_ACTS:
            answer = post(ann, "judge", nonce=show(ann)["nonce"], act=odd)
            yield f"act {odd!r}", answer.status_code < 500 and not answer.json().get("saved")


BODIES = {
    **{"empty": b"", "list": b"[]", "half": b"{", "null": b"null", "bytes": b"\xff\xfe", "form": b"data=1&fn_index=1"},
    **{"deep list": b"[" * 100_000, "deep object": b'{"a":' * 50_000, "gzip": b"\x1f\x8b\x08\x00\x00"},
    **{"digits": b'{"data": [' + b"9" * 10_000 + b"]}", "large": b'{"data": ["' + b"x" * 10_000_000 + b'"]}'},
}
NO_JSON = (
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonx",
)


def bodies(target: Target) -> Iterator[Try]:
    """A body that is too large, too deep or none at all is refused, and never fails."""
    with target.client("ann") as ann:
        for what, body in BODIES.items():
            for path in (*(f"/annotate/{name}" for name in target.some([*ENDPOINTS], 3)), "/gradio_api/queue/join"):
                headers = {"content-type": "application/json"}
                if what == "gzip":
                    headers["content-encoding"] = "gzip"
                answer = attempt(
                    lambda path=path, body=body, headers=headers: ann.post(path, content=body, headers=headers)
                )  # type: ignore[misc]
                yield f"{what} to {path}", answer is None or answer.status_code in REFUSED
        for kind in NO_JSON:
            for path in ("/annotate/card", "/gradio_api/run/greet"):
                answer = ann.post(path, content=b'{"data": []}', headers={"content-type": kind})
                yield f"{kind!r} to {path}", answer.status_code in REFUSED
    with target.client(None) as stranger:
        yield "a login form of 1 MB", stranger.post("/login", content=b"name=" + b"x" * 2**20).status_code == 413


def framing(target: Target) -> Iterator[Try]:
    """Requests that two servers could read in two ways are refused, and nothing is slipped in behind another."""
    host = target.site.url.removeprefix("http://")
    head = f"POST /annotate/card HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    inner = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"
    close = "Connection: close\r\n\r\n"
    for extra in (
        *(
            "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            "Content-Length: -1\r\n\r\n{}",
            "Content-Length: 2x\r\n\r\n{}",
        ),
        *(f"Content-Length: 0\r\nTransfer-Encoding: x\r\n\r\n{inner}", f"Host: evil.test\r\n{close}{inner}"),
        *("Transfer-Encoding: chunked\r\n\r\nzz\r\n{}", f" Folded: x\r\n{close}"),
    ):
        answer = raw(target, (head + extra).encode())
        yield (
            repr(extra[:50]),
            answer.split(b" ")[1:2] in ([b"400"], [b"401"], [b"403"], [b"501"]) and b'"ok"' not in answer,
        )


def what_the_log_has(target: Target) -> Iterator[Try]:
    """After all this the program still runs, and its log has no failure of ours and no secret."""
    logged = target.logged()
    yield "no exception that nobody caught", "Exception in ASGI" not in logged
    yield "no traceback", "Traceback" not in logged
    yield "small", len(logged) < 20_000
    yield "no link, no password", "signin?token=" not in logged and "a long enough password" not in logged
    with target.client(None) as stranger:
        yield "it answers", json.loads(stranger.get("/healthz").text)["ok"] is True


SECTIONS: tuple[Callable[[Target], Iterator[Try]], ...] = (
    *(strangers_paths, annotators_routes, annotators_functions, files_in_events, pages_of_others, uploads),
    *(hosts_and_origins, forwarded_headers, other_sites, headers_of_answers, paths_of_files, others_work, bodies),
    framing,
    what_the_log_has,
)
