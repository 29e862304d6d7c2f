"""Connections of the web server: how many there may be, and how long a request may take to arrive. No gradio."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Fifty annotators with the six that a browser opens at most are three hundred. Below the 1,024 files that most systems
# let a process have open: out of those, the database would fail.
MAXIMUM: Final = 800
# As many are taken up at once, and that three times before the first of them can be ended.
BACKLOG: Final = 50
# For the whole head of a request; for its body, between two parts of it.
HEAD_SECONDS: Final = 30.0
PART_SECONDS: Final = 60.0
# How an IPv4 address begins on a socket that takes both.
IPV4_WITHIN: Final = "::ffff:"


class TimeoutProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which a request has begun and does not arrive.

    A stream of answers may stay open for as long as it likes, and so may a connection on which an answer is prepared.
    No number of connections that do nothing keeps others out: each new one beyond the last takes the place of one.
    """

    patience: asyncio.TimerHandle | None = None
    waiting_for: Any = None
    since = 0.0
    """When it began to wait for what its client sends next, or that came."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            host, port = self.client
            self.client = (host.removeprefix(IPV4_WITHIN), port)  # or a proxy would not be known, which is so named
        self.make_room()
        self.wait_for_more()

    def make_room(self) -> None:
        """Where there are as many connections as there may be, end the one that has waited longest for its client: for
        a request, or else for answers to be taken.
        """
        if len(self.connections) >= MAXIMUM:
            waiting = [one for one in self.connections if isinstance(one, TimeoutProtocol) and one.waits]
            for one in sorted(waiting, key=lambda each: (each.flow.write_paused, each.since))[:1]:
                one.transport.abort()

    @property
    def waits(self) -> bool:
        """Whether nothing goes on before its client sends or takes something."""
        if self.transport.is_closing():
            return self.transport.get_write_buffer_size() > 0  # what was aborted has none
        expected = self.patience is not None and not self.flow.read_paused
        return expected or self.timeout_keep_alive_task is not None or self.flow.write_paused

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.wait_for_more()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.stop_waiting()

    def _should_upgrade(self) -> bool:
        """No request becomes a websocket here; uvicorn would write two lines into the log about each that asks."""
        return False

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP. What is still answering an earlier part of it has nobody to answer any more."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # its answer has begun
            self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def wait_for_more(self) -> None:
        """Set the clock by what the client has still to send."""
        state = self.conn.their_state
        answered = state is h11.SEND_BODY and self.conn.our_state is not h11.SEND_RESPONSE
        if self.waiting_for is state and (state is h11.IDLE or answered):
            return  # a head that comes byte by byte gets no more time for that, nor does what was refused already
        self.stop_waiting()
        self.since = self.loop.time()
        if state in (h11.IDLE, h11.SEND_BODY):
            seconds = HEAD_SECONDS if state is h11.IDLE else PART_SECONDS
            self.patience = self.loop.call_later(seconds, self.give_up)
            self.waiting_for = state

    def stop_waiting(self) -> None:
        """Nothing has to arrive."""
        if self.patience is not None:
            self.patience.cancel()
        self.patience = self.waiting_for = None

    def give_up(self) -> None:
        """Close, unless it is we who don't take what is sent."""
        self.stop_waiting()
        if self.flow.read_paused:
            self.wait_for_more()
        else:
            self.transport.close()
