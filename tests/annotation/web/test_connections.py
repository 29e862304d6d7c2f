"""Connections of a real server: what has begun and doesn't arrive is closed, what answers slowly is not."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from annotation.web import connections
from tests.machine_fixtures import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.slow

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
LAST = b"Connection: close\r\n\r\n"
BODY = b"Content-Length: 200000\r\n" + LAST + b"x" * 200_000
PUT = b"PUT /x HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


class Program:
    """Answers a POST when its body is there, a PUT at once, a GET in two parts, the last when a test wants it, and a
    REPORT with more than fits into a connection that nobody reads from, a LOCK with as much in one piece, and a PATCH
    like a GET, taking in its body last.
    """

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.ended: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            message = await receive()
            while message.get("more_body"):
                message = await receive()
            self.ended.append(message["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["method"] in ("GET", "PATCH"):
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await asyncio.to_thread(self.go_on.wait)
        while scope["method"] == "PATCH" and (await receive()).get("more_body"):
            pass
        for _ in range(1000 if scope["method"] == "REPORT" else 0):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body", "body": b"x" * 2**24 if scope["method"] == "LOCK" else b"last"})


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def keep_alive() -> float:
    """How long a connection stays open for another request."""
    return 5.0


@pytest.fixture
def address(program: Program, keep_alive: float) -> Iterator[tuple[str, int]]:
    """Where it is served."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            *(program,), http=connections.TimeoutProtocol, lifespan="off", log_config=None,
            limit_concurrency=connections.MAXIMUM, backlog=connections.BACKLOG, timeout_keep_alive=keep_alive,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            program.go_on.set()
            thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is given up: anything else may take as long as it takes to send it."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(connections, "PART_SECONDS", 0.2)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few connections, of which none is given up by itself."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(connections, "PART_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(connections, "MAXIMUM", 5)
    monkeypatch.setattr(connections, "BACKLOG", 2)


def connected(address: tuple[str, int]) -> socket.socket:
    """A connection to a server that takes up few at once: the system itself asks anew after a second at the soonest."""
    while True:
        connection = socket.socket()
        connection.settimeout(0.05)
        with suppress(TimeoutError):
            connection.connect(address)
            connection.settimeout(None)
            return connection
        connection.close()


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection, or resets it, as what was sent came too late."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"X: y", POST, POST + b"five", CHUNKED + b"5\r\nfi"])
def test_a_request_that_does_not_arrive_is_given_up(address: tuple[str, int], sent: bytes) -> None:
    with closing(socket.create_connection(address)) as connection:
        with suppress(ConnectionError):  # given up already
            connection.sendall(sent)
        assert rest(connection) == b""


@pytest.mark.usefixtures("impatient")
def test_a_head_that_comes_byte_by_byte_gets_no_more_time(address: tuple[str, int]) -> None:
    with closing(socket.create_connection(address)) as connection:
        with suppress(ConnectionError):
            connection.sendall(HEAD)
        connection.settimeout(0.05)
        for _ in range(200):
            try:
                assert connection.recv(1) == b""
                return
            except TimeoutError:
                with suppress(ConnectionError):  # closed while this was on its way
                    connection.sendall(b"X: y\r\n")
            except ConnectionError:
                return
    raise AssertionError("it is still open")


@pytest.mark.parametrize("length", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_what_was_answered_already_gets_no_more_time_for_each_part(
    address: tuple[str, int], length: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PART_SECONDS", 0.2)  # the head may take as long as it takes to send it
    with closing(socket.create_connection(address)) as connection:
        connection.sendall(b"PUT /x HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n")
        connection.settimeout(0.05)
        received = b""
        for _ in range(200):
            try:
                part = connection.recv(65536)
                if not part:
                    break
                received += part
            except TimeoutError:
                with suppress(ConnectionError):  # closed while this was on its way
                    connection.sendall(b"x" if b"Length" in length else b"1\r\nx\r\n")
            except ConnectionError:
                break
        else:
            raise AssertionError("it is still open")
    assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("keep_alive", [0.2])
def test_a_second_request_that_does_not_arrive_is_given_up_too(address: tuple[str, int], program: Program) -> None:
    with closing(socket.create_connection(address)) as connection:
        connection.sendall(POST + b"0123456789" + HEAD)
        assert rest(connection).endswith(b"last\r\n0\r\n\r\n")
    assert program.ended == ["http.request"]


def test_an_answer_may_take_as_long_as_it_likes(
    address: tuple[str, int], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_connection(address)) as slow:
        slow.sendall(HEAD + b"Connection: close\r\n\r\n")
        received = b""
        while b"first" not in received:
            chunk = slow.recv(65536)
            assert chunk, "it was closed"
            received += chunk
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
        monkeypatch.setattr(connections, "PART_SECONDS", 0.2)
        with closing(socket.create_connection(address)) as silent:
            assert rest(silent) == b"", "so much time has passed"
        program.go_on.set()
        assert b"last" in rest(slow)


@pytest.mark.parametrize("keep_alive", [0.2])
def test_no_request_becomes_a_websocket_or_fills_the_log(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n"
    with socket.create_connection(address) as connection:
        connection.sendall(b"PUT /x HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200")
    assert caplog.records == []


def test_what_turns_out_to_be_no_http_is_refused_once_and_fails_nothing(
    address: tuple[str, int], program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "uvicorn"), closing(socket.create_connection(address)) as connection:
        connection.sendall(CHUNKED.replace(b"POST", b"PUT") + b"zz\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 400 ")
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "sent", [b"", HEAD, POST + b"five", HEAD.replace(b"GET", b"REPORT") + b"\r\n", HEAD.replace(b"GET", b"LOCK") + LAST]
)
def test_connections_that_wait_for_their_client_keep_nobody_out(
    address: tuple[str, int], program: Program, sent: bytes
) -> None:
    """Whoever sends nothing, not all, or takes no answer loses the connection; who is being answered keeps it, and who
    has sent more than is taken in yet.
    """
    with ExitStack() as opened:

        def asked(request: bytes) -> socket.socket:
            connection = opened.enter_context(connected(address))
            connection.sendall(request)
            return connection

        answered = [asked(HEAD + LAST), asked(HEAD.replace(b"GET", b"PATCH") + BODY)]
        for slow in answered:
            received = b""
            while b"first" not in received:
                received += slow.recv(65536)
        holding = [asked(sent) for _ in range(12)]
        for _ in range(3):  # soon: what is sent has to lie where it can't go on first
            wait_until("an answer", lambda: b" 200 " in rest(asked(PUT + LAST)))
        program.go_on.set()
        assert all(b"last" in rest(slow) for slow in answered)
        del holding


# Opens many connections to a port, and keeps them until its input ends.
CROWD = f"""
from __future__ import annotations
import socket, sys
from contextlib import suppress

{inspect.getsource(connected)}
held = [connected(("127.0.0.1", int(sys.argv[1]))) for _ in range(100)]
print(len(held), flush=True)
sys.stdin.read()
"""


@pytest.mark.usefixtures("few")
def test_connections_never_use_up_the_files_that_a_process_may_have_open(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = [sys.executable, "-c", CROWD, str(address[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdin is not None
        assert crowd.stdout is not None
        open_files = max(int(name) for name in os.listdir("/dev/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 30, before[1]))
        try:
            assert crowd.stdout.readline() == b"100\n"
            with connected(address) as connection:
                connection.sendall(PUT + b"Connection: close\r\n\r\n")
                assert rest(connection).startswith(b"HTTP/1.1 200")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            crowd.stdin.close()
    assert caplog.records == []
