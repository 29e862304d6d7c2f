"""Jobs of the Hub on loopback: the command of one runs as a process of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rlhf.jobs.worker_process import process_tree
from tests.fakes.hub_server import Ask, HubServer, Refused, Reply, route


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
    process: subprocess.Popen[bytes] | None = None
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

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
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.asked["command"], *self.asked.get("arguments", [])],
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                start_new_session=True,
            )
        self.stage = "RUNNING"
        try:
            code = self.process.wait(self.asked.get("timeoutSeconds", 1800))
        except subprocess.TimeoutExpired:
            self.message = "Job timeout"
            self.kill(signal.SIGKILL)
            code = self.process.wait()
        self.seconds = time.monotonic() - self.began
        if self.stage == "RUNNING":
            self.stage = "ERROR" if code else "COMPLETED"
            self.message = self.message or (f"Job failed with exit code: {code}" if code else None)

    def environment(self) -> dict[str, str]:
        """What the command finds: the interpreter of the tests, and what was asked for. No token but the secret one."""
        threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
        return {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self.log.parent),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INDEX": "1",
            "JOB_ID": self.id,
            **threads,
            **self.lent,
            **(self.asked.get("environment") or {}),
            **(self.asked.get("secrets") or {}),
        }

    def kill(self, number: signal.Signals) -> None:
        """Signal all that runs in the container, whatever session it is in."""
        for process in [] if self.process is None else process_tree(self.process.pid):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class JobHub(HubServer):
    """A Hub that rents this machine out, by the minute. `jobs` are those it has had, by id."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, HubJob] = {}
        self.lent: dict[str, str] = {}
        """Further variables of the commands' environment."""

    def __exit__(self, *exception: object) -> None:
        for job in self.jobs.values():
            job.kill(signal.SIGKILL)
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
    job = HubJob(uuid.uuid4().hex[:24], namespace, ask.json, home / "log.txt", renting(hub).lent)
    with hub.lock:
        renting(hub).jobs[job.id] = job
    threading.Thread(target=job.run, daemon=True).start()
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
    found.stage = "CANCELED"
    found.kill(signal.SIGKILL)
    return Reply(found.told())


@route("GET", "/api/jobs/(?P<namespace>[^/]+)/(?P<job>[^/]+)/logs")
def job_logs(hub: HubServer, ask: Ask, namespace: str, job: str) -> Reply:
    found = find(hub, ask, namespace, job)
    lines = found.log.read_text("utf-8", "replace").splitlines() if found.log.exists() else []
    lines = lines[-int(ask.query.get("tail", len(lines) or 1)) :]
    events = [f"data: {json.dumps({'timestamp': '2026-01-01T00:00:00Z', 'data': line})}\n\n" for line in lines]
    return Reply("".join(events).encode(), headers={"Content-Type": "text/event-stream"})
