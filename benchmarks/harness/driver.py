"""What the benchmarks share: the real app as a subprocess, people's browsers over HTTP, memory samples, tables.

A page here does what the browser's page does: it signs in, asks the annotators' JSON endpoints for cards, reads
Gradio's configuration and calls the other handlers by their number, with its cookie. A simulated annotator sees only
what the browser is sent: prompt, answers, nonce.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import psutil

from annotation.database import FILE_NAME, Database
from annotation.records import Prompt, Response, Sampling, UserError
from annotation.store import project_store
from rlhf.jobs.job_store import Job
from rlhf.models.base.base_files import EMBEDDED_NAME

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_DATA_DIR = Path(os.environ.get("PREFLOOP_DATA", ROOT / "data"))
OWNER_LINK = re.compile(r"https?://\S+/signin\?token=\S+")
# The first start converts the embedded model, and a slow machine takes its time.
START_SECONDS = 240.0
STOP_SECONDS = 45.0
REQUEST_SECONDS = 180.0
# As often as the page asks again while nothing waits to be judged (POLL_MS in annotate.js).
POLL_SECONDS = 2.0
SAMPLE_SECONDS = 0.5
UNDONE = "Undone."

BEGAN = time.monotonic()


class BenchmarkError(Exception):
    """The benchmark can't go on: the app died, refused, or a job failed. The message says which and why."""


def say(text: str) -> None:
    """A progress line on standard error, with the seconds since the start."""
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------------ the app
class App:
    """`python app.py` as a subprocess with its own data directory, on a free port of this machine."""

    def __init__(self, data_dir: Path, *, workers: bool = True, model: str | None = None) -> None:
        self.data_dir = data_dir
        self.log_path = data_dir / "logs" / "app.log"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        flags = ["--data", str(data_dir), "--port", "0", "--no-browser"]
        flags += [] if workers else ["--no-workers"]
        flags += [] if model is None else ["--model", model]
        self.started = time.monotonic()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py", *flags], cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self._family: set[psutil.Process] = set()
        try:
            self.owner_link = self._wait_for_link()
        except BaseException:
            self.stop()
            raise
        self.url = self.owner_link.split("/signin", 1)[0]
        self.start_seconds = time.monotonic() - self.started

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def database(self) -> Database:
        """The app's database, for measuring only; the app itself has migrated it."""
        return Database(self.data_dir / FILE_NAME)

    @property
    def cookie(self) -> str:
        """The name of the session cookie: each port has its own."""
        return f"prefloop-{httpx.URL(self.url).port}"

    def output(self) -> str:
        """What this run of the app has printed."""
        return self.log_path.read_bytes()[self._log_start :].decode("utf-8", "replace")

    def _wait_for_link(self) -> str:
        while time.monotonic() - self.started < START_SECONDS:
            found = OWNER_LINK.search(self.output())
            if found:
                return found.group()
            if self.process.poll() is not None:
                raise BenchmarkError(f"The app ended with code {self.process.returncode}:\n{self.output()}")
            time.sleep(0.1)
        raise BenchmarkError(f"The app printed no sign-in link in {START_SECONDS:.0f} s:\n{self.output()}")

    def _remember_family(self) -> None:
        """Note the app's workers: they lead sessions of their own and outlive an app that is killed."""
        try:
            self._family.update(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return

    def kill(self) -> None:
        """SIGKILL the app alone, as a crash would."""
        self._remember_family()
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the app as Ctrl-C would; whatever is left of it and its workers after that is killed."""
        self._remember_family()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"the app does not end in {STOP_SECONDS:.0f} s; killing it")
                self.process.kill()
                self.process.wait()
        # psutil compares creation times: a process that has taken over an old number is left alone.
        for process in [process for process in self._family if process.is_running()]:
            say(f"process {process.pid} outlived the app; killing it")
            process.kill()


@contextmanager
def data_directory(chosen: Path | None, keep: bool) -> Iterator[Path]:
    """A new data directory, with the converted base model of the default one where there is one.

    A chosen directory stays; a temporary one is removed unless it is to be kept. Raises BenchmarkError if the chosen
    directory has judgements already: they would be counted and trained on.
    """
    if chosen is not None and (chosen / FILE_NAME).exists():
        raise BenchmarkError(f"{chosen} has a database already. Choose a new directory, or leave --data out.")
    directory = chosen.resolve() if chosen else Path(tempfile.mkdtemp(prefix="prefloop-benchmark-"))
    share_base_model(directory)
    try:
        yield directory
    finally:
        if chosen is None and not keep:
            shutil.rmtree(directory)
        else:
            say(f"the data stays in {directory}")


def share_base_model(data_dir: Path) -> None:
    """Link to the embedded model that an earlier start has converted, which saves half a minute."""
    source, target = DEFAULT_DATA_DIR / "models" / EMBEDDED_NAME, data_dir / "models" / EMBEDDED_NAME
    if source.is_dir() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve(), target_is_directory=True)


def run_job(data_dir: Path, spec: Mapping[str, Any]) -> None:
    """Run a job to its end with `python -m rlhf run`. Raises BenchmarkError if it fails."""
    path = data_dir / f"{spec['kind']}.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "rlhf", "--data", str(data_dir), "run", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")


def end_on_sigterm() -> None:
    """Turn SIGTERM into SystemExit, so that the app and its workers are ended on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def benchmark(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """The command of a benchmark: where it can't go on, it says why in a sentence and gives 1."""

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        end_on_sigterm()
        try:
            return main(arguments)
        except (BenchmarkError, UserError) as error:
            print(error, file=sys.stderr)
            return 1

    return run


@contextmanager
def working_directory(options: argparse.Namespace, kept: Path) -> Iterator[Path]:
    """Where a benchmark works, and goes on another time; a quick one that names no place throws it away."""
    temporary = options.quick and options.data is None
    with tempfile.TemporaryDirectory(prefix="prefloop-") if temporary else nullcontext() as directory:
        yield Path(directory or options.data or kept)


# -------------------------------------------------------------------------------------------------------- the browser
@dataclass(frozen=True)
class Handler:
    """A function of the page as Gradio's configuration lists it."""

    number: int
    queued: bool
    inputs: tuple[tuple[str, Any], ...]
    """(label, value of a fresh page) of each input."""

    def form(self, changed: Mapping[str, Any]) -> list[Any]:
        """The inputs as a fresh page would send them, but for those whose label is in `changed`."""
        unknown = set(changed) - {label for label, _ in self.inputs}
        if unknown:
            raise BenchmarkError(f"The form has no field {', '.join(sorted(unknown))}.")
        return [changed.get(label, value) for label, value in self.inputs]


class Page:
    """One person's open page: a cookie, a session, and the handlers that its buttons call."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=REQUEST_SECONDS)
        self.session_hash = secrets.token_hex(6)
        self._handlers: dict[str, Handler] | None = None

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def follow(self, link: str) -> None:
        """Sign in with a one-time link."""
        self._signed_in(self.client.get(link))

    def sign_in(self, name: str, password: str) -> None:
        """Sign in with the form."""
        self._signed_in(self.client.post("/login", data={"name": name, "password": password}))

    def _signed_in(self, response: httpx.Response) -> None:
        if response.status_code != 303:
            raise BenchmarkError(f"Signing in was answered with {response.status_code}: {response.text[:500]}")

    @property
    def handlers(self) -> dict[str, Handler]:
        """The page's functions by name, read once, as the browser does when it loads the page."""
        if self._handlers is None:
            answer = self.client.get("/config")
            answer.raise_for_status()
            self._handlers = read_handlers(answer.json())
        return self._handlers

    def call(self, name: str, *data: Any) -> list[Any]:
        """Call a handler as the page does and return its outputs. Raises BenchmarkError if it is refused."""
        handler = self.handlers[name]
        body = {"data": list(data), "fn_index": handler.number, "session_hash": self.session_hash}
        if handler.queued:
            return self._call_queued(name, body)
        answer = self.client.post("/gradio_api/run/predict", json=body)
        if answer.status_code != 200:
            raise BenchmarkError(f"'{name}' was answered with {answer.status_code}: {answer.text[:500]}")
        return list(answer.json()["data"])

    def annotate(self, name: str, **asked: Any) -> Card:
        """Ask an endpoint of the annotators' page as its script does. Raises BenchmarkError if it is refused."""
        answer = self.client.post(f"/annotate/{name}", json=asked)
        if answer.status_code != 200:
            raise BenchmarkError(f"'/annotate/{name}' was answered with {answer.status_code}: {answer.text[:500]}")
        return Card(answer.json())

    def _call_queued(self, name: str, body: Mapping[str, Any]) -> list[Any]:
        joined = self.client.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            raise BenchmarkError(f"'{name}' was answered with {joined.status_code}: {joined.text[:500]}")
        event = joined.json()["event_id"]
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session_hash}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed" and message.get("event_id") == event:
                    break
            else:
                raise BenchmarkError(f"The stream of '{name}' ended without a result.")
        if not message["success"]:
            raise BenchmarkError(f"'{name}' was refused: {message['output'].get('error')}")
        return list(message["output"]["data"])


def read_handlers(config: Mapping[str, Any]) -> dict[str, Handler]:
    """The functions in Gradio's configuration, by name."""
    props = {entry["id"]: entry["props"] for entry in config["components"]}

    def label(number: int) -> str:
        return str(props[number].get("label") or "")

    return {
        str(entry["api_name"]): Handler(
            number=entry["id"],
            queued=bool(entry["queue"]),
            inputs=tuple((label(number), props[number].get("value")) for number in entry["inputs"]),
        )
        for entry in config["dependencies"]
    }


def add_people(owner: Page, url: str, roles: Mapping[str, str]) -> dict[str, Page]:
    """Make accounts in the Accounts tab (role by name) and sign each of them in with its password."""
    pages = {}
    for name, role in roles.items():
        password = secrets.token_urlsafe(12)
        owner.call("account-add", name, role, password)
        pages[name] = Page(url)
        pages[name].sign_in(name, password)
    return pages


def measure_nobody(db: Database) -> None:
    """Hand out neither gold, re-asks nor a candidate's answers: they are judgements that nothing is trained on."""
    project_store.set_project(
        db, replace(project_store.project(db), gold_share=0.0, re_ask_share=0.0, candidate_share=0.0)
    )


# ----------------------------------------------------------------------------------------------- simulated annotators
def answer(prompt: Prompt, text: str) -> Response:
    """An answer as the answering worker would have recorded it; nobody drew it."""
    rendered = f"<|im_start|>user\n{prompt.text}<|im_end|>\n<|im_start|>assistant\n"
    return Response(
        prompt_id=prompt.id,
        model_id=1,
        text=text,
        sampling=Sampling(),
        seed=0,
        rendered_prompt=rendered,
        prompt_tokens=len(rendered) // 4,
        tokens=len(text) // 4,
        finish_reason="stop",
    )


@dataclass(frozen=True)
class Card:
    """What the browser is sent: a comparison, or an empty nonce while there is none."""

    sent: Mapping[str, Any]

    @property
    def nonce(self) -> str:
        """Names this showing; empty while the person waits."""
        return str(self.sent["nonce"])

    @property
    def notice(self) -> str:
        """What the page says of the last press, or of a model that can't answer."""
        return str(self.sent["notice"] or self.sent["trouble"])

    @property
    def answers(self) -> tuple[str, ...]:
        """The texts in the order in which they are shown."""
        return tuple(str(answer["text"]) for answer in self.sent["answers"])


RANKS: Mapping[str, list[int]] = {"left": [1, 2], "right": [2, 1], "tie": [1, 1]}
STRENGTHS: Mapping[str, int] = {"slightly": 1, "clearly": 2, "much": 3}


def act_of(verdict: str | Sequence[int]) -> dict[str, Any]:
    """What the page sends for a verdict on two answers: 'left-clearly', 'right-slightly', 'tie', 'all-bad', 'skip'.

    For more answers than two a verdict is the rank of each.
    """
    if not isinstance(verdict, str):
        return {"outcome": "ranked", "ranks": list(verdict)}
    if verdict in ("all-bad", "skip"):
        return {"outcome": verdict}
    side, _, degree = verdict.partition("-")
    return {"outcome": "ranked", "ranks": RANKS[side], "strength": STRENGTHS[degree] if degree else 0}


class Ledger:
    """What the server has acknowledged, by nonce, to be held against what it stored."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acknowledged: Counter[str] = Counter()
        self.unanswered: set[str] = set()
        self.refused = 0

    def acknowledge(self, nonce: str) -> None:
        """The server said that this judgement is recorded."""
        with self._lock:
            self._acknowledged[nonce] += 1

    def take_back(self, nonce: str) -> None:
        """The server said that this judgement is undone."""
        with self._lock:
            self._acknowledged[nonce] -= 1

    def refuse(self) -> None:
        """The server said that nothing was recorded."""
        with self._lock:
            self.refused += 1

    def lose_sight_of(self, nonce: str) -> None:
        """No answer came: the judgement may be stored or not."""
        with self._lock:
            self.unanswered.add(nonce)

    @property
    def acknowledged(self) -> int:
        """Judgements that were acknowledged and not taken back."""
        with self._lock:
            return self._acknowledged.total()

    def tally(self, db: Database) -> Tally:
        """Hold the acknowledged judgements against the current ones in the database."""
        rows = db.rows("SELECT k.nonce FROM current_judgement j JOIN claim k ON k.id = j.claim_id")
        stored = Counter(str(row["nonce"]) for row in rows)
        twice = db.value(
            """SELECT count(*) FROM (SELECT 1 FROM current_judgement WHERE outcome != 'skip' AND purpose = 'own'
               GROUP BY comparison_id HAVING count(*) > 1)"""
        )
        with self._lock:
            acknowledged = +self._acknowledged
            unforeseen = stored - acknowledged
            return Tally(
                acknowledged=acknowledged.total(),
                stored=stored.total(),
                lost=(acknowledged - stored).total(),
                unforeseen=sum(count for nonce, count in unforeseen.items() if nonce not in self.unanswered),
                judged_twice=int(twice),
            )


@dataclass(frozen=True)
class Tally:
    """Acknowledged judgements against stored ones."""

    acknowledged: int
    stored: int
    lost: int
    """Acknowledged and not in the database."""
    unforeseen: int
    """In the database and never acknowledged, those aside whose request got no answer."""
    judged_twice: int
    """Comparisons with more than one current judgement."""

    @property
    def clean(self) -> bool:
        """Whether each acknowledged judgement is stored once, and nothing else is."""
        return not (self.lost or self.unforeseen or self.judged_twice)


@dataclass(frozen=True)
class Answered:
    """The server's answer to a press: whether it counted, how long it took, and the next card."""

    recorded: bool
    seconds: float
    at: float
    """When the request was sent, in seconds since the epoch."""
    next: Card


@dataclass
class SimulatedAnnotator:
    """Someone who judges what the page shows by a fixed taste. `taste(*answers)` is a verdict for `act_of`."""

    page: Page
    ledger: Ledger
    taste: Callable[..., str | Sequence[int]]
    last_nonce: str = field(default="", init=False)

    def look(self) -> Card:
        """Open the page: the comparison in hand, or the next one."""
        return self.page.annotate("card")

    def poll(self) -> Card:
        """Ask again, as the waiting page does."""
        return self.page.annotate("card")

    def judge(self, card: Card) -> Answered:
        """Judge as the taste says. The page is told whether the judgement was recorded."""
        try:
            answered = self._press("judge", card, act=act_of(self.taste(*card.answers)))
        except httpx.TransportError:
            self.ledger.lose_sight_of(card.nonce)
            raise
        if not answered.next.sent["saved"]:
            self.ledger.refuse()
            return answered
        self.ledger.acknowledge(card.nonce)
        self.last_nonce = card.nonce
        return Answered(True, answered.seconds, answered.at, answered.next)

    def undo(self, card: Card) -> Answered:
        """Press Undo while `card` is shown. Raises BenchmarkError if the last judgement was not taken back."""
        answered = self._press("undo", card)
        if not answered.next.notice.startswith(UNDONE):
            raise BenchmarkError(f"Undo was refused: {answered.next.notice}")
        self.ledger.take_back(self.last_nonce)
        return Answered(True, answered.seconds, answered.at, answered.next)

    def _press(self, name: str, card: Card, **asked: Any) -> Answered:
        at, began = time.time(), time.perf_counter()
        following = self.page.annotate(name, nonce=card.nonce, **asked)
        return Answered(False, time.perf_counter() - began, at, following)


# ------------------------------------------------------------------------------------------------------------- memory
class MemorySampler:
    """The memory of all processes below this one (app, workers, jobs), every half second on a thread of its own.

    PSS where the system tells it: pages that processes share are counted once in all. Otherwise USS, without them.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.measure = "pss" if "pss" in psutil.Process().memory_full_info()._fields else "uss"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def peak_mb(self) -> float:
        """The peak so far, in MB (a million bytes)."""
        return round(self.peak_bytes / 1e6, 1)

    def _sample(self) -> None:
        this = psutil.Process()
        while not self._ended.wait(SAMPLE_SECONDS):
            processes = this.children(recursive=True)
            self.peak_bytes = max(self.peak_bytes, sum(memory_of(process, self.measure) for process in processes))


def memory_of(process: psutil.Process, measure: str) -> int:
    """The memory of a process in bytes; 0 if it ended meanwhile."""
    try:
        return int(getattr(process.memory_full_info(), measure))
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0


# ------------------------------------------------------------------------------------------------------------ figures
@dataclass(frozen=True)
class Latency:
    """Response times of a series of requests, in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    over_100_ms: float
    """Share of requests that took longer than 100 ms."""


def latency_of(seconds: Sequence[float]) -> Latency | None:
    """The latency of a series; None without any request."""
    if not seconds:
        return None
    times = sorted(1000 * value for value in seconds)
    cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    over = sum(value > 100 for value in times) / len(times)
    return Latency(
        count=len(times),
        p50_ms=round(cuts[49], 1),
        p95_ms=round(cuts[94], 1),
        max_ms=round(times[-1], 1),
        over_100_ms=round(over, 4),
    )


def failure_of(job: Job, data_dir: Path) -> str:
    """What is known of a job that did not finish: its message and the end of its log file."""
    path = data_dir / "logs" / f"job-{job.id}.log"
    tail = "\n".join(path.read_text("utf-8", "replace").splitlines()[-15:]) if path.exists() else "no log file"
    return f"Job {job.id} ({job.kind}) is {job.status}: {job.message}\n{tail}"


def machine() -> dict[str, Any]:
    """The machine and the versions that decide the figures."""
    names = [line.split(":", 1)[1].strip() for line in cpu_info() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "ram_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "gradio", "trl")},
    }


def cpu_info() -> list[str]:
    """The lines of /proc/cpuinfo, where there is one."""
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8").splitlines() if path.exists() else []


def describe_machine(found: Mapping[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {found[name]}" for name in ("python", "torch", "gradio", "trl"))
    return f"{found['cpu']}, {found['cores']} cores, {found['ram_gb']} GB; {versions}"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of text, the first to the left and the others to the right."""
    cells = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
