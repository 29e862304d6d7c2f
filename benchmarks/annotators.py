"""How many people can judge at once? Simulated annotators against the real server, and the database checked afterwards.

Each round starts the app on a new database with plain rows of text (no model is needed), opens a session for each
annotator and lets all of them judge until the target is reached. They see only what a browser is sent. One judgement in
twenty is sent twice at the same time, as by a double click. Then the rounds are run again with one app that trains the
next policy on the same cores meanwhile. Last, the page is loaded over and over, each time as a new tab.

How to read it. Times run from sending a judgement to having read the next comparison. `back to back`: nobody thinks,
so every annotator waits for the server all the time; more annotators make that longer, not the server slower.
`thinking` is what people do. `bound` is the same write and read by a plain FastAPI endpoint, with the same clients:
what is lost to it is what sessions, checks, choosing, the card and a thread of its own for the database cost. `lost`:
acknowledged and not stored. `duplicates`: stored twice, or stored and never sent. `wrong`: any other broken promise: a
comparison with more annotators than the overlap, one begun and not finished, a claim nobody holds, a comparison shown
to one person twice, an answer that was not the one preferred on screen. `client` and `server` are their shares of a
core. RSS is the web process's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

from annotation.claims import handing_out, judging
from annotation.database import FILE_NAME, Database, open_database
from annotation.imports import importing
from annotation.records import Annotator, now
from annotation.store import comparison_store, project_store, prompt_store
from annotation.web import access
from benchmarks import latency
from benchmarks.harness import driver
from benchmarks.harness.driver import App, BenchmarkError, Page, act_of, say
from benchmarks.harness.wire import Connection
from rlhf.jobs import job_store
from rlhf.models import registry
from rlhf.models.base import base_files, base_model

# Every so many judgements one is sent twice at once.
DOUBLE = 20
# Enough to train on before the measured judgements begin.
TRAINED_ON = 40
LOADS_AT_ONCE = 4
MILESTONES = 10
LIMIT_MS, LIMIT_MB = 250.0, 500.0
# How much the second half of the page loads may move the memory that is still called flat.
FLAT_MB = 25.0

Card = Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """One measurement."""

    name: str
    overlap: int
    think: float
    """Mean seconds that an annotator thinks; drawn evenly from half to one and a half of it."""
    judgements: int
    measuring: bool = False
    """With gold comparisons and re-asks in the default shares."""


# ---------------------------------------------------------------------------------------------------------- preparing
def fill(data_dir: Path, annotators: int, comparisons: int, base: str, project: Mapping[str, Any]) -> list[Annotator]:
    """A data directory with people and a pool of comparisons, as text of realistic length; returns the people."""
    db = open_database(data_dir)
    registry.ensure_base(db, base)
    project_store.set_project(db, replace(project_store.project(db), **project))
    prompt_store.add_prompts(db, importing.starter_prompts())
    prompts, source = prompt_store.prompts(db, "train") + prompt_store.prompts(db, "held-out"), random.Random(0)
    words = sorted({word for prompt in prompts for word in prompt.text.split()})
    with db.transaction() as connection:
        for number in range(comparisons):
            prompt = prompts[number % len(prompts)]
            answers = [
                driver.answer(prompt, " ".join(source.choices(words, k=source.randint(25, 120)))) for _ in range(2)
            ]
            if comparison_store.add_comparison(db, answers) is None:
                raise BenchmarkError("Two drawn answers came out the same.")
        for number in range(annotators):
            connection.execute(
                "INSERT INTO annotator (name, role, created) VALUES (?, 'annotator', ?)", (f"person-{number:03}", now())
            )
        rows = db.rows("SELECT id, name, role FROM annotator ORDER BY id DESC LIMIT ?", (annotators,))
    db.close()
    return [Annotator(row["id"], row["name"], row["role"]) for row in reversed(rows)]


def add_gold(db: Database, count: int) -> None:
    """Make the last comparisons of the pool gold: the answer in the first place is known to be the better one."""
    db.write(
        """UPDATE comparison SET purpose = 'gold', expected = '[1, 2]'
           WHERE id IN (SELECT id FROM comparison ORDER BY id DESC LIMIT ?)""",
        (count,),
    )


def sessions(db: Database, people: Sequence[Annotator]) -> list[str]:
    """A session token for each; signing in itself is not what is measured, and is throttled."""
    return [access.open_session(db, person) for person in people]


# ------------------------------------------------------------------------------------------------- simulated annotators
@dataclass
class Journal:
    """What one annotator was shown and told, to be held against the database."""

    annotator_id: int
    shown: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Texts in the order shown (prompt first), by nonce."""
    acknowledged: Counter[str] = field(default_factory=Counter)
    preferred: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    in_hand: str = ""


class Target:
    """How many judgements are still wanted of all together."""

    def __init__(self, wanted: int) -> None:
        self.left = wanted

    def take(self) -> bool:
        """Whether another one is wanted; if so, it is the caller's to make."""
        self.left -= 1
        return self.left >= 0


class Person:
    """An annotator's open page: judges by a fixed taste, the text that sorts first."""

    double_clicks = True

    def __init__(self, journal: Journal, port: int, cookie: str, seed: int) -> None:
        self.journal = journal
        self.page, self.double_click = Connection(port, cookie), Connection(port, cookie)
        self.source = random.Random(seed)

    async def work(self, target: Target, think: float) -> None:
        """Judge until nothing is wanted or nothing is left; what goes wrong is noted, and ends it."""
        try:
            card = self.note(await self.ask("card", {}))
            while card["nonce"] and target.take():
                if think:
                    await asyncio.sleep(think * self.source.uniform(0.5, 1.5))
                card = await self.judge(card)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, BenchmarkError) as error:
            self.journal.errors.append(f"{type(error).__name__}: {error}")
        finally:
            self.page.close()
            self.double_click.close()

    async def judge(self, card: Card) -> Card:
        """Judge what is shown and note what the server says."""
        left, right = (entry["text"] for entry in card["answers"])
        asked = {"nonce": card["nonce"], "act": act_of("left-clearly" if left < right else "right-clearly")}
        twice = self.double_clicks and self.source.randrange(DOUBLE) == 0
        again = asyncio.create_task(self.ask("judge", asked, self.double_click)) if twice else None
        began = time.perf_counter()
        following: Card = await self.ask("judge", asked)
        took = time.perf_counter() - began
        self.note(following)
        if not following["saved"] or following["progress"]["yours"] != card["progress"]["yours"] + 1:
            raise BenchmarkError(f"A judgement was refused: {following['notice']} {following['progress']}")
        self.journal.acknowledged[card["nonce"]] += 1
        self.journal.preferred[card["nonce"]] = min(left, right)
        if again is not None:
            other = await again
            if following["nonce"] not in ("", other["nonce"]):
                raise BenchmarkError("A judgement sent twice was answered with two different comparisons.")
            # Where the pool was found empty, the second request may have drawn gold or a re-ask.
            following = self.note(other)
        else:
            self.journal.seconds.append(took)
        return following

    async def ask(self, name: str, asked: Mapping[str, Any], connection: Connection | None = None) -> Any:
        """The card that an endpoint answers with."""
        reply = await (connection or self.page).post(f"/annotate/{name}", asked)
        if reply.status != 200:
            raise BenchmarkError(f"'/annotate/{name}' was answered with {reply.status}: {reply.body[:200]!r}")
        return reply.json()

    def note(self, card: Card) -> Card:
        """Write down what is on screen."""
        self.journal.in_hand = card["nonce"]
        if card["nonce"]:
            prompt, *answers = (entry["text"] for entry in (card["messages"][-1], *card["answers"]))
            self.journal.shown[card["nonce"]] = (prompt, *answers)
        return card


@dataclass(frozen=True)
class Work:
    """What came of a round on the client's side."""

    journals: Sequence[Journal]
    seconds: float
    client_share: float
    server_share: float


async def work(people: Sequence[Person], target: Target, think: float) -> None:
    """All of them at once."""
    await asyncio.gather(*(person.work(target, think) for person in people))


def measure(people: Sequence[Person], server: psutil.Process, wanted: int, think: float) -> Work:
    """Let them judge, and note how long it took and what it cost both sides."""
    before, began, own = cpu_seconds(server), time.perf_counter(), time.process_time()
    asyncio.run(work(people, Target(wanted), think))
    took = time.perf_counter() - began
    shares = (time.process_time() - own) / took, (cpu_seconds(server) - before) / took
    return Work([person.journal for person in people], took, *shares)


def cpu_seconds(process: psutil.Process) -> float:
    """Seconds of a core that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


# ------------------------------------------------------------------------------------------------------------ checking
@dataclass(frozen=True)
class Verdict:
    """What the database says of a round."""

    acknowledged: int
    lost: int
    duplicates: int
    wrong: Mapping[str, int]


def check(db: Database, journals: Sequence[Journal], overlap: int, exhausted: bool, after: int = 0) -> Verdict:
    """Hold what people were shown and told against the rows; judgements with ids up to `after` are from before.

    With `exhausted` nobody has anything in hand and every comparison must have its full number of annotators.
    """
    stored = db.rows(
        """SELECT k.nonce, j.annotator_id, j.comparison_id, j.purpose, j.ranking FROM current_judgement j
           JOIN claim k ON k.id = j.claim_id WHERE j.id > ?""",
        (after,),
    )
    times = Counter(row["nonce"] for row in stored)
    acknowledged = Counter(nonce for journal in journals for nonce in journal.acknowledged)
    unsure = {journal.in_hand for journal in journals if journal.errors}
    wrong = {
        "overlap": wrong_overlap(db, overlap, exhausted),
        "leaked claims": leaked_claims(db, journals),
        "shown twice": shown_twice(db, journals),
        "other answer": other_answer(db, stored, journals),
    }
    return Verdict(
        acknowledged=acknowledged.total(),
        lost=sum(times[nonce] == 0 for nonce in acknowledged),
        duplicates=sum(max(0, count - 1) for count in times.values())
        + sum(nonce not in acknowledged and nonce not in unsure for nonce in times),
        wrong=wrong,
    )


def wrong_overlap(db: Database, overlap: int, exhausted: bool) -> int:
    """Comparisons with too many annotators, with too few when all are over, or whose count of them is not true."""
    return int(
        db.value(
            """SELECT count(*) FROM comparison c,
                   (SELECT comparison_id, count(DISTINCT annotator_id) AS people, count(*) AS n FROM claim
                    WHERE purpose = 'own' AND state IN ('held', 'judged') GROUP BY comparison_id) k
               WHERE k.comparison_id = c.id AND (n > :overlap OR people != n OR n != c.taken)""",
            {"overlap": overlap},
        )
        + db.value(
            "SELECT count(*) FROM comparison WHERE purpose = 'preference' AND taken < :wanted",
            {"wanted": overlap if exhausted else 0},
        )
    )


def leaked_claims(db: Database, journals: Sequence[Journal]) -> int:
    """Claims held in the database that nobody has on screen, and the other way round."""
    held = {row["nonce"] for row in db.rows("SELECT nonce FROM claim WHERE state = 'held'")}
    return len(held ^ {journal.in_hand for journal in journals if journal.in_hand})


def shown_twice(db: Database, journals: Sequence[Journal]) -> int:
    """Comparisons that a person was shown under two nonces; a re-ask is meant to be."""
    meant = {row["nonce"] for row in db.rows("SELECT nonce FROM claim WHERE purpose = 're-ask'")}
    seen = [
        Counter(frozenset(texts) for nonce, texts in journal.shown.items() if nonce not in meant)
        for journal in journals
    ]
    return sum(count - 1 for one in seen for count in one.values())


def other_answer(db: Database, stored: Sequence[Mapping[str, Any]], journals: Sequence[Journal]) -> int:
    """Judgements by somebody else, or that prefer another text than the one that was preferred on screen."""
    by_nonce = {nonce: journal for journal in journals for nonce in journal.preferred}
    texts = {
        (row["comparison_id"], row["position"]): row["text"]
        for row in db.rows(
            """SELECT cr.comparison_id, cr.position, r.text FROM comparison_response cr
               JOIN response r ON r.id = cr.response_id"""
        )
    }
    wrong = 0
    for row in stored:
        journal = by_nonce.get(row["nonce"])
        best = json.loads(row["ranking"]).index(1)
        if journal is not None:
            same_person = journal.annotator_id == row["annotator_id"]
            wrong += not (same_person and texts[row["comparison_id"], best] == journal.preferred[row["nonce"]])
    return wrong


# ------------------------------------------------------------------------------------------------------------ a round
@dataclass(frozen=True)
class Result:
    """A round's figures."""

    name: str
    overlap: int
    think: float
    annotators: int
    judgements: int
    errors: int
    lost: int
    duplicates: int
    wrong: Mapping[str, int]
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    per_second: float
    client_share: float
    server_share: float
    rss_mb: float


def result_of(round_: Round, done: Work, verdict: Verdict, rss: float) -> Result:
    """What the client measured and the database said."""
    seconds = [value for journal in done.journals for value in journal.seconds]
    errors = [error for journal in done.journals for error in journal.errors]
    for error in errors[:5]:
        say(f"error: {error}")
    p50, p95, p99, slowest = percentiles(seconds)
    return Result(
        name=round_.name,
        overlap=round_.overlap,
        think=round_.think,
        annotators=len(done.journals),
        judgements=verdict.acknowledged,
        errors=len(errors),
        lost=verdict.lost,
        duplicates=verdict.duplicates,
        wrong=verdict.wrong,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=slowest,
        per_second=round(verdict.acknowledged / done.seconds, 1),
        client_share=round(done.client_share, 2),
        server_share=round(done.server_share, 2),
        rss_mb=rss,
    )


def percentiles(seconds: Sequence[float]) -> tuple[float, float, float, float]:
    """Median, 95th and 99th percentile and maximum in milliseconds. Raises BenchmarkError without any figure."""
    if not seconds:
        raise BenchmarkError("Not one judgement was answered.")
    ordered = sorted(1000 * value for value in seconds)
    last = len(ordered) - 1
    p50, p95, p99 = (round(ordered[round(last * share)], 1) for share in (0.5, 0.95, 0.99))
    return p50, p95, p99, round(ordered[-1], 1)


def rss_mb(process: psutil.Process) -> float:
    """The resident memory of a process in MB (a million bytes)."""
    return round(float(process.memory_info().rss) / 1e6, 1)


def people_at(app: App, people: Sequence[Annotator]) -> list[Person]:
    """Everybody's page, signed in."""
    db, port = app.database, int(app.url.rsplit(":", 1)[1])
    tokens = sessions(db, people)
    # Answered once the pages are built, which takes the processor that judging is measured by (`benchmarks.restart`).
    httpx.get(f"{app.url}/config", cookies={app.cookie: tokens[0]}, timeout=driver.START_SECONDS).raise_for_status()
    return [
        Person(Journal(person.id), port, f"{app.cookie}={token}", person.id)
        for person, token in zip(people, tokens, strict=True)
    ]


def settings_of(round_: Round) -> dict[str, Any]:
    """The project that a round is judged under."""
    shares = {} if round_.measuring else {"gold_share": 0.0, "re_ask_share": 0.0}
    return {"overlap": round_.overlap, **shares}


def run_round(data_dir: Path, round_: Round, annotators: int) -> Result:
    """Fill a new directory with exactly as many comparisons as are wanted, serve it, judge all, and check."""
    comparisons = -(-round_.judgements // round_.overlap)
    gold = 20 if round_.measuring else 0
    people = fill(data_dir, annotators, comparisons + gold, base_files.EMBEDDED_NAME, settings_of(round_))
    wanted = comparisons * round_.overlap
    with App(data_dir, workers=False) as app:
        add_gold(app.database, gold)
        say(f"measuring: {round_.name}, overlap {round_.overlap}")
        server = psutil.Process(app.process.pid)
        # Gold and re-asks come on top, so that the pool is exhausted only without a target.
        target = 10 * wanted if round_.measuring else wanted
        done = measure(people_at(app, people), server, target, round_.think)
        verdict = check(app.database, done.journals, round_.overlap, exhausted=True)
        return result_of(round_, done, verdict, rss_mb(server))


def run_training_rounds(data_dir: Path, rounds: Sequence[Round], annotators: int, model: str) -> list[Result]:
    """The same with one app that trains the next policy meanwhile. Its pool is larger than what is judged, because the
    answering worker would fill an empty one."""
    driver.share_base_model(data_dir)
    base = base_model.prepare(data_dir, model)
    wanted = sum(round_.judgements for round_ in rounds)
    people = fill(data_dir, annotators, TRAINED_ON + wanted + 4 * annotators, base.name, settings_of(rounds[0]))
    judge_some(data_dir, people[0])
    results = []
    with App(data_dir, model=model) as app, Page(app.url) as owner:
        owner.follow(app.owner_link)
        latency.wait_for_answering_worker(app)
        say("starting the training")
        training = latency.start_training(app, owner)
        server, db = psutil.Process(app.process.pid), app.database
        with latency.watched(owner):
            for round_ in rounds:
                project_store.set_project(db, replace(project_store.project(db), **settings_of(round_)))
                release_all(db)
                last = db.value("SELECT max(id) FROM judgement")
                say(f"measuring: {round_.name}, overlap {round_.overlap}")
                done = measure(people_at(app, people), server, round_.judgements, round_.think)
                if job_store.get(db, training.id).status != "running":
                    raise BenchmarkError("The training ended before the judging did.")
                verdict = check(db, done.journals, round_.overlap, exhausted=False, after=last)
                results.append(result_of(round_, done, verdict, rss_mb(server)))
        latency.cancel_training(app, owner, training)
    return results


def release_all(db: Database) -> None:
    """Nobody has anything in hand."""
    db.write("UPDATE claim SET state = 'released' WHERE state = 'held'")


def judge_some(data_dir: Path, person: Annotator) -> None:
    """Judge enough to train on."""
    db = open_database(data_dir)
    for number in range(TRAINED_ON):
        claim = handing_out.claim_next(db, person.id)
        assert claim is not None
        judging.judge(db, person.id, claim.nonce, act_of("left-clearly" if number % 2 else "right-clearly"))
    release_all(db)
    db.close()


# ----------------------------------------------------------------------------------------------------------- the bound
def run_bound(data_dir: Path, annotators: int, judgements: int) -> Result:
    """The same write by the plain endpoint, on the same rows and with the same number of clients."""
    round_ = Round("bound", 1, 0.0, judgements)
    people = fill(data_dir, annotators, judgements, base_files.EMBEDDED_NAME, settings_of(round_))
    with plain_server(data_dir / FILE_NAME) as (port, server):
        say("measuring: the bound")
        clients = [PlainPerson(Journal(person.id), port, "", person.id) for person in people]
        done = measure(clients, server, judgements, 0.0)
        db = Database(data_dir / FILE_NAME)
        verdict = check(db, done.journals, 1, exhausted=True)
        db.close()
        return result_of(round_, done, verdict, rss_mb(server))


class PlainPerson(Person):
    """The same annotator before the plain endpoint, which would take a second click for a second judgement."""

    double_clicks = False

    async def ask(self, name: str, asked: Mapping[str, Any], connection: Connection | None = None) -> Any:
        ranks = asked["act"]["ranks"] if asked else []
        sent = {"annotator": self.journal.annotator_id, "nonce": asked.get("nonce", ""), "ranks": ranks}
        reply = await self.page.post("/judge", sent)
        if reply.status != 200:
            raise BenchmarkError(f"The plain endpoint answered with {reply.status}: {reply.body[:200]!r}")
        return {
            "saved": True,
            "notice": "",
            "progress": {"yours": len(self.journal.acknowledged) + bool(asked)},
            **reply.json(),
        }


@contextmanager
def plain_server(path: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The plain endpoint in a process of its own: its port, and the process."""
    command = [sys.executable, "-m", "benchmarks.peers.bound", str(path)]
    with subprocess.Popen(command, cwd=driver.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), psutil.Process(process.pid)
        finally:
            process.terminate()


# ---------------------------------------------------------------------------------------------------------- page loads
@dataclass(frozen=True)
class PageLoads:
    """What loading the pages over and over cost."""

    count: int
    errors: int
    seconds_each: float
    """Seconds of the server's core for one load."""
    rss_mb: Sequence[float]
    """Before the first, and after each tenth of them, or each where they are fewer."""


def run_page_loads(data_dir: Path, count: int) -> PageLoads:
    """Load the page as an annotator's browser does, each time as a new tab that is closed again."""
    people = fill(data_dir, 10, 20, base_files.EMBEDDED_NAME, {})
    with App(data_dir, workers=False) as app:
        say(f"measuring: {count} page loads")
        port, tokens = int(app.url.rsplit(":", 1)[1]), sessions(app.database, people)
        cookies = [f"{app.cookie}={token}" for token in tokens]
        server = psutil.Process(app.process.pid)
        calls = asyncio.run(load_calls(port, cookies[0]))
        memory, errors, before = [rss_mb(server)], 0, cpu_seconds(server)
        parts = min(MILESTONES, count)
        for part in range(parts):
            share = count * (part + 1) // parts - count * part // parts
            errors += asyncio.run(load_pages(port, cookies, calls, share))
            memory.append(rss_mb(server))
            say(f"RSS {memory[-1]:.0f} MB")
        return PageLoads(count, errors, round((cpu_seconds(server) - before) / count, 4), memory)


@dataclass(frozen=True)
class Call:
    """A handler that the page calls when it is loaded."""

    number: int
    queued: bool
    data: Sequence[Any]


async def load_calls(port: int, cookie: str) -> list[Call]:
    """The handlers that run when the page is loaded, with the values of a fresh page."""
    connection = Connection(port, cookie)
    config = (await connection.get("/config")).json()
    connection.close()
    values = {entry["id"]: entry["props"].get("value") for entry in config["components"]}
    return [
        Call(entry["id"], bool(entry["queue"]), [values[number] for number in entry["inputs"]])
        for entry in config["dependencies"]
        if any(event == "load" for _, event in entry["targets"])
    ]


async def load_pages(port: int, cookies: Sequence[str], calls: Sequence[Call], count: int) -> int:
    """Load the page so often, a few at a time; returns how many went wrong."""
    left = iter(range(count))

    async def visitor(cookie: str) -> int:
        errors = 0
        for _ in left:
            try:
                await load_page(port, cookie, calls)
            except (OSError, asyncio.IncompleteReadError, TimeoutError, BenchmarkError) as error:
                errors += 1
                say(f"error: {error!r}")
        return errors

    return sum(await asyncio.gather(*(visitor(cookie) for cookie in cookies[:LOADS_AT_ONCE])))


async def load_page(port: int, cookie: str, calls: Sequence[Call]) -> None:
    """One visit: the page, its heartbeat, its opening calls and the first card; then the tab is closed."""
    page, heartbeat = Connection(port, cookie), Connection(port, cookie)
    session = secrets.token_hex(6)
    try:
        answered(await page.get("/", "text/html"), "/")
        if await heartbeat.open_stream(f"/gradio_api/heartbeat/{session}") != 200:
            raise BenchmarkError("The heartbeat was refused.")
        answered(await page.get("/theme.css"), "/theme.css")
        for call in calls:
            body = {"data": call.data, "fn_index": call.number, "session_hash": session, "trigger_id": None}
            if not call.queued:
                answered(await page.post("/gradio_api/run/predict", body), "an opening call")
                continue
            answered(await page.post("/gradio_api/queue/join", body), "an opening call")
            await wait_for_queue(Connection(port, cookie), session)
        answered(await page.post("/annotate/card", {}), "/annotate/card")
    finally:
        page.close()
        heartbeat.close()


async def wait_for_queue(stream: Connection, session: str) -> None:
    """Read the queue's stream until the server ends it."""
    done = False
    async for message in stream.events(f"/gradio_api/queue/data?session_hash={session}"):
        done = done or (message["msg"] == "process_completed" and message["success"])
    if not done:
        raise BenchmarkError("An opening call through the queue did not succeed.")


def answered(reply: Any, path: str) -> None:
    """Raises BenchmarkError unless all is well."""
    if reply.status != 200:
        raise BenchmarkError(f"{path} was answered with {reply.status}: {reply.body[:200]!r}")


# ----------------------------------------------------------------------------------------------------------- reporting
def report(results: Sequence[Result], bound: Result, loads: PageLoads) -> str:
    """Tables for people; the last line is one JSON object."""
    found = driver.machine()
    headers = ("round", "overlap", "think s", "judgements", "per s", "p50 ms", "p95 ms", "p99 ms", "max ms")
    counts = ("errors", "lost", "duplicates", "wrong", "client", "server", "RSS MB")
    rows = [
        (
            *(entry.name, entry.overlap, entry.think, entry.judgements, entry.per_second),
            *(entry.p50_ms, entry.p95_ms, entry.p99_ms, entry.max_ms),
            *(entry.errors, entry.lost, entry.duplicates, sum(entry.wrong.values())),
            *(entry.client_share, entry.server_share, entry.rss_mb),
        )
        for entry in (*results, bound)
    ]
    main, peak = results[0], peak_mb(results, loads)
    lines = [
        f"{main.annotators} annotators",
        "",
        driver.table((*headers, *counts), rows),
        "",
        f"Back to back: p95 {main.p95_ms:.1f} ms, {within(main.p95_ms, LIMIT_MS)} {LIMIT_MS:.0f} ms; "
        f"{main.per_second:.0f} judgements/s, {main.per_second / bound.per_second:.0%} of the bound.",
        f"{loads.count} page loads of {1000 * loads.seconds_each:.1f} ms of a core, {loads.errors} errors: RSS "
        f"{' '.join(f'{value:.0f}' for value in loads.rss_mb)} MB; peak {peak:.0f} MB, "
        f"{within(peak, LIMIT_MB)} {LIMIT_MB:.0f} MB.",
        driver.describe_machine(found),
        json.dumps(figures(results, bound, loads) | {"machine": found}),
    ]
    return "\n".join(lines)


def within(value: float, limit: float) -> str:
    """A word on a promise."""
    return "within" if value <= limit else "NOT within"


def peak_mb(results: Sequence[Result], loads: PageLoads) -> float:
    """The most memory that the web process had at the end of a round or of a tenth of the page loads."""
    return max(*(entry.rss_mb for entry in results), *loads.rss_mb)


def figures(results: Sequence[Result], bound: Result, loads: PageLoads) -> dict[str, Any]:
    """The JSON object's content: the first round's times, and what went wrong in any."""
    main = results[0]
    return {
        "annotators": main.annotators,
        "judgements": main.judgements,
        "errors": sum(entry.errors for entry in results) + loads.errors,
        "lost": sum(entry.lost for entry in results),
        "duplicates": sum(entry.duplicates for entry in results),
        "wrong": sum(sum(entry.wrong.values()) for entry in results),
        "p50_ms": main.p50_ms,
        "p95_ms": main.p95_ms,
        "p99_ms": main.p99_ms,
        "per_second": main.per_second,
        "bound_per_second": bound.per_second,
        "web_rss_mb": peak_mb(results, loads),
        "bound": asdict(bound),
        "rounds": [asdict(entry) for entry in results],
        "page_loads": asdict(loads),
    }


def clean(results: Sequence[Result], loads: PageLoads) -> bool:
    """Whether every promise about the data was kept."""
    broken = [entry for entry in results if entry.errors or entry.lost or entry.duplicates or any(entry.wrong.values())]
    return not broken and not loads.errors


def fast_and_small(results: Sequence[Result], loads: PageLoads) -> bool:
    """Whether the promises about time and memory were kept; page loads may add little once the sessions are full."""
    settled = loads.rss_mb[len(loads.rss_mb) // 2 :]
    flat = max(settled) - min(settled) <= FLAT_MB
    return results[0].p95_ms <= LIMIT_MS and peak_mb(results, loads) <= LIMIT_MB and flat


# ------------------------------------------------------------------------------------------------------------- running
def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; --quick changes the defaults only."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotators", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of under two minutes")
    parser.add_argument("--annotators", type=int, default=50, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--judgements", type=int, metavar="N", help="back to back (default: 2000, quick: 500)")
    parser.add_argument("--overlap", type=int, nargs="+", default=[1, 3], metavar="N", help="(default: 1 3)")
    parser.add_argument(
        "--think", type=float, metavar="SECONDS", help="mean thinking time (default: 4, quick: 1); 0 leaves these out"
    )
    parser.add_argument("--page-loads", type=int, metavar="N", help="(default: 10000, quick: 200)")
    parser.add_argument(
        "--training",
        action=argparse.BooleanOptionalAction,
        help="the rounds again while a policy is trained (default: yes, quick: no)",
    )
    parser.add_argument("--model", metavar="NAME_OR_DIR", default=base_files.EMBEDDED, help="what is trained")
    options = parser.parse_args(arguments)
    defaults = (500, 1.0, 200) if options.quick else (2000, 4.0, 10_000)
    for name, default in zip(("judgements", "think", "page_loads"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, default)
    if options.training is None:
        options.training = not options.quick
    if max(options.overlap) > options.annotators:
        parser.error("an overlap can't be larger than the number of annotators")
    if options.page_loads < 1:
        parser.error("--page-loads needs at least 1")
    return options


def plan(options: argparse.Namespace) -> list[Round]:
    """The rounds: back to back and thinking, for each overlap; and one with gold and re-asks."""
    few = max(options.judgements // 4, options.annotators)
    rounds = [Round("back to back", overlap, 0.0, options.judgements) for overlap in options.overlap]
    if options.think:
        rounds += [Round("thinking", overlap, options.think, few) for overlap in options.overlap]
    return [*rounds, Round("gold, re-asks", options.overlap[-1], 0.0, few, measuring=True)]


def run(options: argparse.Namespace) -> tuple[list[Result], Result, PageLoads]:
    """Everything, one after the other; each part's data goes when it is over."""
    rounds = plan(options)
    results = [in_own_directory(run_round, round_, options.annotators) for round_ in rounds]
    bound = in_own_directory(run_bound, options.annotators, options.judgements)
    if options.training:
        # By overlap, because comparisons are shared: one that has three annotators is wrong where one is asked for.
        again = sorted((round_ for round_ in rounds if not round_.measuring), key=lambda round_: round_.overlap)
        again = [replace(round_, name=f"{round_.name}, training") for round_ in again]
        results += in_own_directory(run_training_rounds, again, options.annotators, options.model)
    return results, bound, in_own_directory(run_page_loads, options.page_loads)


def in_own_directory(part: Callable[..., Any], *arguments: Any) -> Any:
    """Run a part of the benchmark in a data directory that is removed afterwards."""
    with TemporaryDirectory(prefix="prefloop-annotators-") as directory:
        return part(Path(directory), *arguments)


@driver.benchmark
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when no promise was broken (with --quick: none about the data)."""
    options = read_options(arguments)
    results, bound, loads = run(options)
    print(report(results, bound, loads))
    kept = clean(results, loads) and (options.quick or fast_and_small(results, loads))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
