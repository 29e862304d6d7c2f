"""How long until a killed web process judges again, and until its pages are there? What does the launcher cost?

Starts the app without workers on a port of its own, hands a comparison out, kills the program (SIGKILL) and starts it
again, as whatever looks after it would; with `--launcher` under the launcher, with safe copies in a directory. The
judgement of the comparison in hand is then sent until it is acknowledged, and others after it until pages are there.

How to read it. `judged` and `pages` are seconds from the kill to the first acknowledged judgement and to the answer of
Gradio's configuration; `meanwhile` is how long judgements took between the two, in milliseconds. `web CPU` and
`launcher CPU` are the processor seconds of either process up to the first judgement, which a busy machine leaves alone.
`--program DIR` measures another version of the program, one start of each by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx
import psutil

from annotation.database import Database, open_database
from annotation.imports.importing import starter_prompts
from annotation.store import comparison_store, prompt_store
from annotation.web import access
from benchmarks.harness import driver
from benchmarks.harness.driver import BenchmarkError, act_of, latency_of, say
from rlhf.models import registry

COMPARISONS = 2_000
RETRY_SECONDS = 0.01
CPU = ("web_cpu_seconds", "launcher_cpu_seconds")
PATIENCE_SECONDS = 240.0


@dataclass(frozen=True)
class Restart:
    """One kill and what came after it."""

    program: str
    judged: float
    pages: float
    meanwhile_p50_ms: float
    meanwhile_max_ms: float
    web_cpu_seconds: float
    launcher_cpu_seconds: float


def fill(db: Database, model: str) -> str:
    """Comparisons to judge and somebody who does; returns the session's token."""
    registry.ensure_base(db, model)
    driver.measure_nobody(db)
    prompt_store.add_prompts(db, starter_prompts())
    prompts = prompt_store.prompts(db, "train")
    for number in range(COMPARISONS):
        prompt = prompts[number % len(prompts)]
        texts = (f"{word} {number}" for word in ("one", "another"))
        comparison_store.add_comparison(db, [driver.answer(prompt, text) for text in texts])
    return access.open_session(db, access.add_account(db, "ann", "annotator", "a long enough password"))


@dataclass(frozen=True)
class Bench:
    """A data directory, a port and a person, for as many programs as are compared."""

    data_dir: Path
    port: int
    token: str
    launcher: bool

    def start(self, program: Path) -> subprocess.Popen[bytes]:
        """Start the program; what it prints goes to a file."""
        words = ["--no-workers", "--no-browser", "--port", str(self.port), "--data", str(self.data_dir)]
        place = str(self.data_dir.parent / "copies") if self.launcher else ""
        environment = {**os.environ, "HF_TOKEN": "", "HF_HOME": str(self.data_dir.parent), "PREFLOOP_COPIES": place}
        with (self.data_dir.parent / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "app.py", *words], cwd=program, env=environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip

    def client(self) -> httpx.Client:
        """The person's browser."""
        cookies = {f"prefloop-{self.port}": self.token}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", cookies=cookies, timeout=PATIENCE_SECONDS)

    def restart(self, program: Path) -> Restart:
        """Start, kill, start again, and judge."""
        first = self.start(program)
        with self.client() as client:
            nonce = sent(client, first, "/annotate/card", {})["nonce"]
            wait_for_pages(client, first)
        kill(first)
        began = time.monotonic()
        process = self.start(program)
        try:
            with self.client() as client:
                card = sent(client, process, "/annotate/judge", {"nonce": nonce, "act": act_of("left-clearly")})
                judged = time.monotonic() - began
                web, launcher = cpu_seconds(process)
                if not card["saved"]:
                    raise BenchmarkError(f"The judgement was not saved: {card['notice']}")
                meanwhile, pages = self.judge_until_pages(process, str(card["nonce"]), began)
        finally:
            kill(process)
        latency = latency_of(meanwhile)
        return Restart(
            program=str(program),
            judged=round(judged, 2),
            pages=round(pages, 2),
            meanwhile_p50_ms=0.0 if latency is None else latency.p50_ms,
            meanwhile_max_ms=0.0 if latency is None else latency.max_ms,
            web_cpu_seconds=web,
            launcher_cpu_seconds=launcher,
        )

    def judge_until_pages(
        self, process: subprocess.Popen[bytes], nonce: str, began: float
    ) -> tuple[list[float], float]:
        """How long each judgement took until the pages were there, and when they were."""
        ready = [sys.executable, "-c", ASK_FOR_PAGES, str(self.port), self.token]
        seconds: list[float] = []
        with subprocess.Popen(ready) as asking, self.client() as client:
            while asking.poll() is None:
                at = time.monotonic()
                card = sent(client, process, "/annotate/judge", {"nonce": nonce, "act": act_of("tie")})
                seconds.append(time.monotonic() - at)
                nonce = str(card["nonce"])
                time.sleep(0.1)
        return seconds, time.monotonic() - began


ASK_FOR_PAGES = """
import sys, urllib.request
port, token = sys.argv[1:]
asked = urllib.request.Request(f"http://127.0.0.1:{port}/config", headers={"Cookie": f"prefloop-{port}={token}"})
urllib.request.urlopen(asked).read()
"""


def sent(client: httpx.Client, process: subprocess.Popen[bytes], path: str, body: object) -> dict[str, object]:
    """The answer to a request, which is repeated until the server hears it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            answer = client.post(path, json=body)
        except httpx.TransportError:
            if process.poll() is not None:
                raise BenchmarkError(f"The app ended with code {process.returncode}.") from None
            time.sleep(RETRY_SECONDS)
            continue
        if answer.status_code != 200:
            raise BenchmarkError(f"'{path}' was answered with {answer.status_code}: {answer.text[:500]}")
        return dict(answer.json())
    raise BenchmarkError(f"'{path}' was not answered in {PATIENCE_SECONDS:.0f} s.")


def wait_for_pages(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    """Until Gradio answers."""
    answer = client.get("/config")
    if answer.status_code != 200:
        raise BenchmarkError(f"The pages were answered with {answer.status_code}: {answer.text[:500]}")


def cpu_seconds(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Processor seconds of the process that serves, and of its launcher where it has one."""
    started = psutil.Process(process.pid)
    web = next((child for child in started.children() if any("app.py" in word for word in child.cmdline())), None)
    used = [0.0 if one is None else sum(one.cpu_times()[:2]) for one in (web, started)]
    return (round(used[1], 2), 0.0) if web is None else (round(used[0], 2), round(used[1], 2))


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the program and all that it started."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for one in (process, *family):
        one.kill()
    process.wait()
    psutil.wait_procs(family)


def report(restarts: Sequence[Restart]) -> str:
    """A line for each program, with the range of each figure."""
    rows = []
    for program in dict.fromkeys(one.program for one in restarts):
        own = [one for one in restarts if one.program == program]
        columns = ("judged", "pages", "meanwhile_p50_ms", "meanwhile_max_ms", *CPU)
        figures = [sorted(getattr(one, column) for one in own) for column in columns]
        rows.append([program, len(own), *(f"{median(values):.2f} ({values[0]}–{values[-1]})" for values in figures)])
    headers = ("program", "kills", "judged s", "pages s", "p50 ms", "max ms", "web CPU s", "launcher CPU s")
    found = {"restarts": [asdict(one) for one in restarts], "machine": driver.machine()}
    return "\n".join([driver.table(headers, rows), driver.describe_machine(found["machine"]), json.dumps(found)])


@driver.benchmark
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restart", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--times", type=int, default=5, metavar="N", help="kills of each program (default: 5)")
    parser.add_argument("--launcher", action="store_true", help="with safe copies, so under the launcher")
    parser.add_argument("--program", type=Path, action="append", metavar="DIR", help="another version, beside this one")
    options = parser.parse_args(arguments)
    programs = [*(options.program or []), driver.ROOT]
    restarts = []
    with tempfile.TemporaryDirectory(prefix="prefloop-benchmark-") as folder, socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        data_dir = Path(folder) / "data"
        db = open_database(data_dir)
        bench = Bench(data_dir, kept.getsockname()[1], fill(db, "SmolLM2-135M-Instruct"), options.launcher)
        db.close()
        for number in range(options.times * len(programs)):
            restarts.append(bench.restart(programs[number % len(programs)].resolve()))
            say(str(restarts[-1]))
    print(report(restarts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
