"""Jobs of the Hub on loopback: the command of one runs as a process of this machine.

It is a real one of bash. The `python` and `hf` that it finds have this process start them (`Programs`), which has them
forked (tests/fork_server.py): importing the libraries anew would cost more than what they do.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rlhf.workers.worker_process import process_tree
from tests.fakes.hub_server import Ask, HubServer, Refused, Reply, route
from tests.fork_server import FREE_OF_THE_HUB, read_once


@dataclass
class HubJob:
    """A job and its process."""

    id: str
    namespace: str
    asked: dict[str, Any]
    log: Path
    lent: dict[str, str]
    stage: str = "SCHEDULING"
    message: str | None = None
    pip: bool = True
    """Whether what is needed is installed by the real pip, or is there already and nobody looks."""
    process: subprocess.Popen[bytes] | None = None
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """What its commands have had started here."""
    killed: bool = False
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Of its stage."""
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.run, daemon=True)

    def told(self) -> dict[str, Any]:
        """As the Hub tells of it."""
        running = time.monotonic() - self.began if self.stage == "RUNNING" else self.seconds
        return {
            "id": self.id,
            "owner": {"id": f"id-{self.namespace}", "name": self.namespace, "type": "user"},
            "createdAt": "2026-01-01T00:00:00.000Z",
            "dockerImage": self.asked.get("dockerImage"),
            "command": self.asked.get("command"),
            "environment": self.asked.get("environment"),
            "flavor": self.asked.get("flavor"),
            "labels": self.asked.get("labels"),
            "status": {"stage": self.stage, "message": self.message},
            "durations": {"schedulingSecs": 0, "runningSecs": round(running), "totalSecs": round(running)},
        }

    def run(self) -> None:
        """Run the command to its end, or until its time is over."""
        with self.log.open("wb") as log, Programs(self):
            self.process = subprocess.Popen(
                [*self.asked["command"], *self.asked.get("arguments", [])],
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                start_new_session=True,
            )
            if self.killed:  # before it began
                self.process.kill()
            self.become("SCHEDULING", "RUNNING")
            try:
                code = self.process.wait(self.asked.get("timeoutSeconds", 1800))
            except subprocess.TimeoutExpired:
                self.message = "Job timeout"
                self.kill(signal.SIGKILL)
                code = self.process.wait()
        self.seconds = time.monotonic() - self.began
        if code and self.stage == "RUNNING":  # it is there once the stage says so
            self.message = self.message or f"Job failed with exit code: {code}"
        self.become("RUNNING", "ERROR" if code else "COMPLETED")

    def become(self, before: str, stage: str) -> None:
        """Come to a stage from the one before; one that is cancelled meanwhile stays so."""
        with self.lock:
            if self.stage == before:
                self.stage = stage

    def cancel(self) -> None:
        """End it, whatever it is at."""
        with self.lock:
            self.stage = "CANCELED"
        self.kill(signal.SIGKILL)

    def environment(self) -> dict[str, str]:
        """What the command finds: the interpreter of the tests, and what was asked for. No token but the secret one."""
        shared = read_once(os.environ, FREE_OF_THE_HUB)
        return {
            "PATH": os.pathsep.join([str(self.bin), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self.log.parent),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INDEX": "1",
            "JOB_ID": self.id,
            **shared,
            **self.lent,
            **(self.asked.get("environment") or {}),
            **(self.asked.get("secrets") or {}),
        }

    def kill(self, number: signal.Signals) -> None:
        """Signal all that runs in the container, whatever session it is in."""
        self.killed = True
        for started in [] if self.process is None else [self.process, *self.programs]:
            for process in process_tree(started.pid) if started.poll() is None else []:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    @property
    def bin(self) -> Path:
        """Where the commands of the image are."""
        return self.log.parent / "bin"


# What stands for `python` and `hf` there: has the program started, and ends as it does.
COMMAND = """#!{executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as starting:
    starting.connect({address!r})
    asked = {{"words": {words!r} + sys.argv[1:], "directory": os.getcwd(), "environment": dict(os.environ)}}
    socket.send_fds(starting, [json.dumps(asked).encode()], [0, 1, 2])
    sys.exit(int(starting.recv(64) or 1))
"""
LONGEST = 1 << 17
COMMANDS = {"python": [], "hf": ["-m", "huggingface_hub.cli.hf"]}


class Programs:
    """Starts the Python programs of a job's command while it runs, in the process that has this."""

    def __init__(self, job: HubJob) -> None:
        self.job = job
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> None:
        """Put the commands there."""
        address = str(self.job.log.parent / "start")
        self.listener.bind(address)
        self.listener.listen()
        self.job.bin.mkdir()
        for name, words in COMMANDS.items():
            self.put(name, COMMAND.format(executable=sys.executable, address=address, words=words))
        if not self.job.pip:
            self.put("pip", "#!/bin/sh\n")
        self.thread.start()

    def __exit__(self, *exception: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def put(self, name: str, text: str) -> None:
        """Make a command."""
        path = self.job.bin / name
        path.write_text(text, "utf-8")
        path.chmod(0o755)

    def serve(self) -> None:
        """Start what is asked for, one after another, as bash does."""
        with suppress(OSError):  # nobody listens any more, or waits for an answer
            while not self.job.killed:
                asking, _ = self.listener.accept()
                with asking:
                    said, streams, _, _ = socket.recv_fds(asking, LONGEST, 3)
                    if said:  # who asks was not killed before
                        asking.send(str(self.start(json.loads(said), streams)).encode())

    def start(self, asked: Any, streams: Sequence[int]) -> int:
        """Run a program to its end; returns its exit status."""
        stdin, stdout, stderr = streams
        program = subprocess.Popen(
            [sys.executable, *asked["words"]],
            cwd=asked["directory"],
            env=asked["environment"],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self.job.programs.append(program)
        if self.job.killed:  # meanwhile
            program.kill()
        for stream in streams:
            os.close(stream)
        return program.wait()


class JobHub(HubServer):
    """A Hub that rents this machine out, by the minute. `jobs` are those it has had, by id."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, HubJob] = {}
        self.lent: dict[str, str] = {}
        """Further variables of the commands' environment."""
        self.pip = False
        """Whether its jobs install by the real pip what is installed already, which takes seconds."""

    def __exit__(self, *exception: object) -> None:
        for job in self.jobs.values():
            job.kill(signal.SIGKILL)
            job.thread.join()
        super().__exit__(*exception)


def renting(hub: HubServer) -> JobHub:
    """The hub as one that rents machines out."""
    assert isinstance(hub, JobHub)
    return hub


def find(hub: HubServer, ask: Ask, namespace: str, job: str) -> HubJob:
    """A job that the account may see. Raises Refused."""
    found = renting(hub).jobs.get(job)
    if found is None or found.namespace != namespace or not hub.belongs(ask.account, namespace):
        raise Refused(404, "Job not found")
    return found


@route("POST", "/api/jobs/(?P<namespace>[^/]+)")
def run_job(hub: HubServer, ask: Ask, namespace: str) -> Reply:
    hub.check_write(ask, namespace)
    home = Path(tempfile.mkdtemp(prefix="job-", dir=hub.home))
    job = HubJob(
        id=uuid.uuid4().hex[:24],
        namespace=namespace,
        asked=ask.json,
        log=home / "log.txt",
        lent=renting(hub).lent,
        pip=renting(hub).pip,
    )
    with hub.lock:
        renting(hub).jobs[job.id] = job
    job.thread.start()
    return Reply(job.told())


@route("GET", "/api/jobs/(?P<namespace>[^/]+)")
def list_jobs(hub: HubServer, ask: Ask, namespace: str) -> Reply:
    if not hub.belongs(ask.account, namespace):
        raise Refused(403, "Forbidden")
    key, _, value = ask.query.get("label", "").partition("=")
    known = [job for job in renting(hub).jobs.values() if job.namespace == namespace]
    return Reply([job.told() for job in known if not key or (job.asked.get("labels") or {}).get(key) == value])


@route("GET", "/api/jobs/(?P<namespace>[^/]+)/(?P<job>[^/]+)")
def inspect_job(hub: HubServer, ask: Ask, namespace: str, job: str) -> Reply:
    return Reply(find(hub, ask, namespace, job).told())


@route("POST", "/api/jobs/(?P<namespace>[^/]+)/(?P<job>[^/]+)/cancel")
def cancel_job(hub: HubServer, ask: Ask, namespace: str, job: str) -> Reply:
    found = find(hub, ask, namespace, job)
    hub.check_write(ask, namespace)
    found.cancel()
    return Reply(found.told())


@route("GET", "/api/jobs/(?P<namespace>[^/]+)/(?P<job>[^/]+)/logs")
def job_logs(hub: HubServer, ask: Ask, namespace: str, job: str) -> Reply:
    found = find(hub, ask, namespace, job)
    lines = found.log.read_text("utf-8", "replace").splitlines() if found.log.exists() else []
    lines = lines[-int(ask.query.get("tail", len(lines) or 1)) :]
    events = [f"data: {json.dumps({'timestamp': '2026-01-01T00:00:00Z', 'data': line})}\n\n" for line in lines]
    return Reply("".join(events).encode(), headers={"Content-Type": "text/event-stream"})
