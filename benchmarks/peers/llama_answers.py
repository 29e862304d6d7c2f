"""Answers by llama.cpp's server: what `benchmarks.speed` is compared with, in an environment of its own.

`PYTHON benchmarks/peers/llama_answers.py < REQUEST`, where PYTHON has xllamacpp. The request is JSON: `gguf`, `texts`,
`answers` to each, `tokens`, `temperature`, `min_p`, `slots`, `rounds`. One line of JSON comes back: of each round, the
tokens that were drawn and the processor seconds that they took. One thread computes, as everything beside it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xllamacpp


def server_of(request: Mapping[str, Any]) -> xllamacpp.Server:
    """The server with the model, and a slot for each answer that is drawn at the same time."""
    params = xllamacpp.CommonParams()
    params.model.path = request["gguf"]
    params.n_parallel = request["slots"]
    params.n_ctx = 512 * request["slots"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_gpu_layers = 0
    return xllamacpp.Server(params)


def drawn(server: xllamacpp.Server, request: Mapping[str, Any]) -> int:
    """Draw all answers; returns how many tokens they have."""

    def answer(text: str, seed: int) -> int:
        sampling = {name: request[name] for name in ("temperature", "min_p")}
        found = server.handle_completions(
            {"prompt": text, "max_tokens": request["tokens"], "seed": seed, "top_k": 0, "top_p": 1.0, **sampling}
        )
        if "usage" not in found:
            raise SystemExit(f"The server says: {found}")
        return int(found["usage"]["completion_tokens"])

    asked = [(text, seed) for text in request["texts"] for seed in range(request["answers"])]
    with ThreadPoolExecutor(request["slots"]) as together:
        return sum(together.map(lambda one: answer(*one), asked))


def main() -> None:
    """Answer the request."""
    request = json.load(sys.stdin)
    server = server_of(request)
    rounds = []
    for _round in range(request["rounds"]):
        began = time.process_time()
        tokens = drawn(server, request)
        rounds.append({"tokens": tokens, "seconds": time.process_time() - began})
    print(json.dumps(rounds))


if __name__ == "__main__":
    main()
