"""HTTP/1.1 over kept-alive connections at little cost: fifty simulated browsers must not slow what they measure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """One kept-alive connection to the server on this machine, with a session cookie; one request at a time."""

    def __init__(self, port: int, cookie: str = "") -> None:
        self.port = port
        self._headers = f"Host: 127.0.0.1:{port}\r\n" + (f"Cookie: {cookie}\r\n" if cookie else "")
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, value: Any) -> Reply:
        """Send JSON and read the answer."""
        body = json.dumps(value).encode()
        return await self._exchange(f"POST {path}", body, "Content-Type: application/json\r\n")

    async def get(self, path: str, accept: str = "*/*") -> Reply:
        """Read a path."""
        return await self._exchange(f"GET {path}", b"", f"Accept: {accept}\r\n")

    async def events(self, path: str) -> AsyncIterator[Any]:
        """The JSON messages of a stream of server-sent events; the connection is closed after it."""
        status, headers = await self._begin(f"GET {path}", b"", "Accept: text/event-stream\r\n")
        if status != 200:
            raise ConnectionError(f"{path} was answered with {status}")
        try:
            async with aclosing(self._parts(headers)) as parts:
                async for part in parts:
                    for line in part.decode().splitlines():
                        if line.startswith("data:"):
                            yield json.loads(line[5:])
        finally:
            self.close()

    async def open_stream(self, path: str) -> int:
        """Begin to read a stream that is left open until `close`; returns the status."""
        status, _ = await self._begin(f"GET {path}", b"", "Accept: text/event-stream\r\n")
        return status

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    # ------------------------------------------------------------------------------------------------- the protocol
    async def _exchange(self, line: str, body: bytes, headers: str) -> Reply:
        status, found = await self._begin(line, body, headers)
        parts = [part async for part in self._parts(found)]
        if found.get(b"connection") == b"close":
            self.close()
        return Reply(status, b"".join(parts))

    async def _begin(self, line: str, body: bytes, headers: str) -> tuple[int, dict[bytes, bytes]]:
        request = f"{line} HTTP/1.1\r\n{self._headers}{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
        reused = self._writer is not None
        try:
            return await self._send(request)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()
            if not reused:
                raise
        # As browsers do: a kept-alive connection may be closed by the server just when it is used again.
        return await self._send(request)

    async def _send(self, request: bytes) -> tuple[int, dict[bytes, bytes]]:
        async with asyncio.timeout(SECONDS):
            if self._writer is None or self._reader is None or self._reader.at_eof():
                self.close()
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        pairs = (line.split(b":", 1) for line in lines)
        return int(first.split(b" ", 2)[1]), {name.lower(): value.strip() for name, value in pairs}

    async def _parts(self, headers: dict[bytes, bytes]) -> AsyncGenerator[bytes, None]:
        assert self._reader is not None
        if headers.get(b"transfer-encoding") != b"chunked":
            yield await self._reader.readexactly(int(headers.get(b"content-length", b"0")))
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            part = await self._reader.readexactly(size + 2)
            yield part[:-2]
        await self._reader.readexactly(2)
