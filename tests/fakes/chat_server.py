"""A small real chat service on loopback: OpenAI's protocol, a model behind it, and the troubles of such services."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from annotation.records import Sampling
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.sampling.drawing import draw
from rlhf.models.tokenise import render, text_ids

SLOW_SECONDS = 0.4
TRICKLE_SECONDS = 0.2
SOUND = {"choices": [{"message": {"role": "assistant", "content": "Hello."}}]}
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>"


class ChatModel:
    """A causal model from a directory, for several servers in turn."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = load_tokenizer(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.lock = threading.Lock()

    def answer(self, body: dict[str, Any], choices: Sequence[str]) -> tuple[str, str, int, int]:
        """(text, finish reason, tokens of the prompt, tokens of the reply).

        With `choices` the likeliest of these texts, as services with guided decoding do it; else what is drawn.
        """
        prompt = render(self.tokenizer, body["messages"])
        most = body.get("max_tokens", body.get("max_completion_tokens"))
        with self.lock:
            if choices:
                text = max(choices, key=lambda choice: self.log_probability(prompt, choice))
                return text, "stop", len(text_ids(self.tokenizer, prompt)), len(text_ids(self.tokenizer, text))
            sampling = Sampling(temperature=max(body.get("temperature", 1.0), 1e-3), max_new_tokens=most)
            [[drawn]] = draw(self.model, self.tokenizer, [prompt], [[body.get("seed", 0)]], sampling)
        return drawn.text, drawn.finish_reason, drawn.prompt_tokens, drawn.tokens

    @torch.no_grad()
    def log_probability(self, prompt: str, text: str) -> float:
        """Of a text after the prompt, in nats."""
        before, after = text_ids(self.tokenizer, prompt), text_ids(self.tokenizer, text)
        logits_TV = self.model(torch.tensor([[*before, *after]])).logits[0, len(before) - 1 : -1]
        return float(logits_TV.log_softmax(-1).gather(1, torch.tensor(after)[:, None]).sum())


class ChatServer(ThreadingHTTPServer):
    """Answers /v1/chat/completions. `troubles` names what goes wrong with each call in turn; '' or nothing is sound."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, model: ChatModel, key: str = "", troubles: Iterable[str] = (), choices: Sequence[str] = ()
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.key, self.choices = model, key, choices
        self.troubles: Iterator[str] = iter(troubles)
        self.lock = threading.Lock()
        self.crowd = threading.Condition(self.lock)
        self.bodies: list[dict[str, Any]] = []
        """What was asked, call by call."""
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        """Where the API begins."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def note(self, body: dict[str, Any]) -> str:
        """Count a call, and say what goes wrong with it."""
        with self.lock:
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            self.crowd.notify_all()
            return next(self.troubles, "")

    def wait_for_crowd(self, size: int) -> None:
        """Until so many calls have been under way at once."""
        with self.crowd:
            self.crowd.wait_for(lambda: self.most_under_way >= size or self.closing.is_set())


@contextmanager
def serving(model: ChatModel, **options: Any) -> Iterator[ChatServer]:
    """A server that runs within the block."""
    server = ChatServer(model, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        with server.crowd:
            server.crowd.notify_all()
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits for its head to be acknowledged: 40 ms
    server: ChatServer

    def handle(self) -> None:
        """Answer until the other side goes, which it may do in the middle."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Where a redirect would lead; nothing here is meant to be fetched."""
        self.server.note({"method": "GET", "path": self.path})
        self.send(404, b"{}")

    def do_POST(self) -> None:
        """A chat completion, or a trouble."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        trouble = self.server.note(body)
        try:
            self.respond(body, trouble)
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def respond(self, body: dict[str, Any], trouble: str) -> None:
        """What goes back."""
        if self.path != "/v1/chat/completions":
            self.refuse(404, "There is no such address.")
        elif self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            # As OpenAI's own service does, with the key in the text.
            self.refuse(401, f"Incorrect key provided: {self.headers.get('Authorization')}.", code="invalid_api_key")
        elif trouble in ("", "slow"):
            if trouble == "slow":
                self.server.closing.wait(SLOW_SECONDS)
            self.complete(body)
        elif trouble.startswith("crowd "):
            self.server.wait_for_crowd(int(trouble.split()[1]))
            self.complete(body)
        else:
            self.go_wrong(body, trouble)

    def complete(self, body: dict[str, Any]) -> None:
        """The model's reply."""
        text, finish, prompt_tokens, tokens = self.server.model.answer(body, self.server.choices)
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        total = prompt_tokens + tokens
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": total}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": int(time.time()), "model": body["model"]}
        self.send_json(200, {**head, "choices": [choice], "usage": usage})

    def go_wrong(self, body: dict[str, Any], trouble: str) -> None:
        """One of the troubles; '429 after 2' and '503 after 1' say how many seconds to wait."""
        status, _, seconds = trouble.partition(" after ")
        if status.isdigit():
            code = "rate_limit_exceeded" if status == "429" else None
            self.refuse(int(status), "Not now.", code, {"Retry-After": seconds} if seconds else {})
        elif trouble == "quota":
            self.refuse(429, "You exceeded your current quota.", "insufficient_quota")
        elif trouble.startswith("unsupported "):
            name = trouble.split()[1]
            if name in body:
                self.refuse(400, f"Unsupported parameter: '{name}'.", "unsupported_parameter", param=name)
            else:
                self.complete(body)
        elif trouble == "redirect":
            self.send(307, b"", {"Location": "/elsewhere"})
        elif trouble == "page":
            self.send(200, PAGE, {"Content-Type": "text/html"})
        elif trouble == "nothing":
            self.send(200, b"")
        elif trouble == "huge":
            self.send(200, b'{"choices": "' + b"x" * 3_000_000 + b'"}')
        elif trouble == "nested":
            self.send(200, b"[" * 500_000)
        elif trouble.startswith("{"):
            self.send(200, trouble.encode())
        elif trouble == "packed":
            self.send(200, gzip.compress(json.dumps(SOUND).encode()), {"Content-Encoding": "gzip"})
        elif trouble == "hang up":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif trouble == "hang":
            self.close_connection = True
            self.server.closing.wait()
        elif trouble == "trickle":
            self.trickle()
        elif trouble == "echo":
            self.server.choices = (f"Your key is {self.headers['Authorization']}",)
            self.complete(body)
        else:
            raise ValueError(trouble)

    def trickle(self) -> None:
        """A byte now and then, so that each wait is short and the whole has no end."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        while not self.server.closing.wait(TRICKLE_SECONDS):
            self.wfile.write(b" ")

    def refuse(
        self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None, param: str = ""
    ) -> None:
        """An error object in OpenAI's shape."""
        error = {"message": message, "type": "invalid_request_error", "param": param or None, "code": code}
        self.send_json(status, {"error": error}, headers)

    def send_json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        """A JSON body."""
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """A whole response."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests say what was asked."""
