"""The bound for `benchmarks.annotators`: the same write by a plain FastAPI endpoint in a server of its own.

One transaction marks the claim judged, inserts the judgement and the claim on the next comparison; then the next
comparison's texts are read. The same tables, triggers, durability and server as the app's; no sessions, no checks, no
choosing, no pages, and no threads: the fastest way, which would stop for everybody while another process writes.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from annotation.records import now
from annotation.sqlite import sqlite3

LATER = "9999-12-31T00:00:00.000000+00:00"
ORDER = "[0, 1]"


class Plain:
    """One connection, used on the server's own thread."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            self.connection.execute(f"PRAGMA {pragma}")

    def judge(self, annotator: int, nonce: str, ranks: list[int]) -> dict[str, Any]:
        """Write the judgement of what was shown (nothing, at first) and hand out the next comparison."""
        connection, following = self.connection, secrets.token_urlsafe(16)
        connection.execute("BEGIN IMMEDIATE")
        if nonce:
            claim, comparison = connection.execute(
                "UPDATE claim SET state = 'judged' WHERE nonce = ? AND state = 'held' RETURNING id, comparison_id",
                (nonce,),
            ).fetchone()
            connection.execute(
                """INSERT INTO judgement (claim_id, comparison_id, annotator_id, purpose, kind, outcome, ranking,
                       strength, shown_order, seconds, created)
                   VALUES (:claim, :comparison, :annotator, 'own', 'pair', 'ranked', :ranking, 2, :order, 0.0, :now)""",
                {
                    "claim": claim,
                    "comparison": comparison,
                    "annotator": annotator,
                    "ranking": json.dumps(ranks),
                    "order": ORDER,
                    "now": now(),
                },
            )
        found = connection.execute(
            """SELECT id FROM comparison WHERE purpose = 'preference' AND state = 'ready' AND model_id = 1
               AND taken = 0 LIMIT 1"""
        ).fetchone()
        if found is not None:
            connection.execute(
                """INSERT INTO claim (nonce, comparison_id, annotator_id, purpose, kind, slot, shown_order, state,
                       created, expires)
                   VALUES (:nonce, :comparison, :annotator, 'own', 'pair', 0, :order, 'held', :now, :later)""",
                {
                    "nonce": following,
                    "comparison": found[0],
                    "annotator": annotator,
                    "order": ORDER,
                    "now": now(),
                    "later": LATER,
                },
            )
        connection.execute("COMMIT")
        if found is None:
            return {"nonce": "", "messages": [], "answers": []}
        rows = connection.execute(
            """SELECT r.text, p.messages FROM comparison c JOIN comparison_response cr ON cr.comparison_id = c.id
               JOIN response r ON r.id = cr.response_id JOIN prompt p ON p.id = c.prompt_id
               WHERE c.id = ? ORDER BY cr.position""",
            found,
        ).fetchall()
        messages = [{"role": turn["role"], "text": turn["content"]} for turn in json.loads(rows[0][1])]
        return {"nonce": following, "messages": messages, "answers": [{"text": row[0]} for row in rows]}


def build_app(path: Path) -> FastAPI:
    """The endpoint."""
    app, plain = FastAPI(openapi_url=None), Plain(path)

    @app.post("/judge")
    async def judge(asked: dict[str, Any]) -> dict[str, Any]:
        return plain.judge(asked["annotator"], asked["nonce"], asked["ranks"])

    return app


def main() -> None:
    """Serve on a free port and print it."""
    # With the protocol named, asyncio turns Nagle's algorithm off, as it does for the app's socket.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(build_app(Path(sys.argv[1])), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
