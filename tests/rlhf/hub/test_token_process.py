"""Launcher, token process and web server as processes: what survives their death, and who holds the token."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from annotation.copies import safe_copies
from annotation.copies.targets import DirectoryTarget, FileDigest, create_whole
from annotation.database import FILE_NAME, Database, open_database
from annotation.web import access
from rlhf.hub import token_launcher
from rlhf.hub.token_launcher import PLACE, module
from tests.conftest import act, seed_comparisons
from tests.fakes.hub_server import HubServer
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, free_port, has_ended, wait_until
from tests.page_gate import PageGate
from tests.rlhf.hub.paced import paced
from tests.test_architecture import loaded_by

pytestmark = pytest.mark.slow

REPO = "ann/project-copies"
TOKEN = "hf_write_ann"
PASSWORD = "a long enough password"
COMPARISONS = 60
OFTEN = {"PREFLOOP_COPIES_AFTER": "2", "PREFLOOP_COPIES_APART": "0"}
AT_EACH = {**OFTEN, "PREFLOOP_COPIES_AFTER": "1"}
ONLY_AT_THE_ENDS = {"PREFLOOP_COPIES_AFTER": "0", "PREFLOOP_COPIES_EVERY": "3600", "PREFLOOP_COPIES_APART": "0"}


@pytest.fixture
def project(db: Database, data_dir: Path) -> Path:
    """A data directory with something to judge and somebody to judge it."""
    seed_comparisons(db, COMPARISONS)
    access.add_account(db, "ann", "annotator", PASSWORD)
    return data_dir


@dataclass
class Program:
    """`python app.py` with its launcher, until the block ends."""

    process: subprocess.Popen[str]
    log: Path
    address: str = ""
    family: list[psutil.Process] = field(default_factory=list)

    def wait_for_address(self, starts: int = 1) -> None:
        """Until the web server is there, for the how-manieth time."""

        def said() -> str:
            assert self.process.poll() is None, self.log.read_text()
            lines = [line for line in self.log.read_text().splitlines() if line.startswith("Prefloop runs at ")]
            return lines[starts - 1].removeprefix("Prefloop runs at ").strip() if len(lines) >= starts else ""

        self.address = wait_until("the address of the program", said)
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def part(self, word: str) -> psutil.Process:
        """The launcher's child whose command line has this word."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if any(word in part for part in child.cmdline()))

    def kill(self) -> None:
        """All of it at once, as when the machine is taken away."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        for process in [psutil.Process(self.process.pid), *family]:
            process.suspend()
        for process in [*family, psutil.Process(self.process.pid)]:
            process.kill()
        self.process.wait()

    @contextmanager
    def page(self) -> Iterator[Page]:
        """Somebody's page."""
        with httpx.Client(base_url=self.address, timeout=PATIENCE_SECONDS) as client:
            assert client.post("/login", data={"name": "ann", "password": PASSWORD}).status_code == 303
            yield Page(client)


@dataclass
class Page:
    """What the annotator's script does."""

    client: httpx.Client

    def judge(self, count: int = 1) -> None:
        """Judge what is shown."""
        for _ in range(count):
            card = self.client.post("/annotate/card", json={}).json()
            done = self.client.post("/annotate/judge", json={"nonce": card["nonce"], "act": act("left-clearly")})
            assert done.json()["saved"], done.text

    def safety(self) -> str:
        """The line about safe copies."""
        return str(self.client.post("/annotate/safety", json={}).json()["text"])


@contextmanager
def running(
    data_dir: Path, environment: Mapping[str, str], *, wait: bool = True, as_typed: bool = False, port: int = 0
) -> Iterator[Program]:
    """Start the program without workers; what is left of it is killed on the way out.

    `as_typed`: by app.py, which becomes the launcher; else the launcher at once.
    """
    log = data_dir.parent / f"log-{time.monotonic_ns()}.txt"
    flags = ["--no-workers", "--no-browser", "--port", str(port), "--data", str(data_dir)]
    launcher = [*paced("rlhf.hub.token_launcher"), "--data", str(data_dir), "--model", "embedded", "--", *flags]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py", *flags] if as_typed else launcher,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )
    program = Program(process, log)
    try:
        if wait:
            program.wait_for_address()
        yield program
    except BaseException:
        print(log.read_text())  # what the program says of it
        raise
    finally:
        left = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        for other in [*left, *program.family]:
            with suppress(psutil.NoSuchProcess):
                other.kill()


def stored(data_dir: Path) -> int:
    db = open_database(data_dir)
    try:
        return safe_copies.judged(db)[1]
    finally:
        db.close()


def told_safe(line: str, judged: int) -> int:
    """How many judgements a line calls safe."""
    if line.startswith("No safe copy"):
        return 0
    return judged - int(line.split("ago, ")[1].split()[0])


def judge_two_safely(page: Page, judged: int) -> None:
    """Two more, as many as a copy is made after: of more at once one might be left over, and wait for minutes."""
    page.judge(2)
    wait_until("two more to be safe", lambda: told_safe(page.safety(), judged) == judged, every=0.3)


def test_what_the_page_called_safe_is_there_after_everything_was_killed_and_the_disk_was_lost(
    project: Path, hub: HubServer, tmp_path: Path
) -> None:
    told = {**hub.environment(TOKEN), PLACE: REPO, **OFTEN}
    with running(project, told) as program, program.page() as page:
        wait_until("the first copy", lambda: "Last safe copy" in page.safety(), every=0.3)
        judge_two_safely(page, 2)
        judge_two_safely(page, 4)
        page.judge(1)
        line = page.safety()
        assert "1 judgement since." in line
        safe = told_safe(line, 5)
        program.kill()

    new = tmp_path / "new-disk" / "data"
    new.parent.mkdir()
    with running(new, told) as program, program.page() as page:
        assert "Restored" in program.log.read_text()
        assert safe <= stored(new) <= 5
        assert "Last safe copy" in page.safety()
        page.judge(1)
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(PATIENCE_SECONDS) == 0
    last = tmp_path / "last-disk" / "data"
    last.parent.mkdir()
    with running(last, told):
        assert stored(last) == safe + 1, "the last copy is made after the last judgement"


def test_the_last_copy_is_made_at_the_end_and_a_directory_needs_no_token(project: Path, tmp_path: Path) -> None:
    told = {"HF_TOKEN": "", PLACE: str(tmp_path / "bucket"), **ONLY_AT_THE_ENDS}
    with running(project, told) as program, program.page() as page:
        wait_until("the first copy", lambda: "Last safe copy" in page.safety(), every=0.3)
        page.judge(3)
        assert "3 judgements since." in page.safety()
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(PATIENCE_SECONDS) == 0
        assert "Prefloop has stopped." in program.log.read_text()
        assert psutil.wait_procs(program.family, PATIENCE_SECONDS)[1] == []
    new = tmp_path / "new-disk" / "data"
    new.parent.mkdir()
    with running(new, told):
        assert stored(new) == 3


def environment_of(process: psutil.Process) -> bytes:
    return Path(f"/proc/{process.pid}/environ").read_bytes()


@pytest.mark.own_start
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_only_the_launcher_and_the_token_process_hold_the_token(project: Path, hub: HubServer) -> None:
    told = {**hub.environment(TOKEN), PLACE: REPO, **OFTEN}
    with running(project, told) as program, program.page() as page:
        wait_until("the first copy", lambda: "Last safe copy" in page.safety(), every=0.3)
        page.judge(2)
        wait_until("a safe copy", lambda: told_safe(page.safety(), 2) == 2, every=0.3)
        holder, web = program.part("rlhf.hub.token_process"), program.part("app.py")
        assert TOKEN.encode() in environment_of(holder)
        assert TOKEN.encode() not in environment_of(web)
        assert b"HF_HUB_DISABLE_IMPLICIT_TOKEN=1" in environment_of(web)
        assert TOKEN not in program.log.read_text()
        assert not any(TOKEN in part for process in (holder, web) for part in process.cmdline())
        for path in project.rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_a_private_base_model_is_fetched_for_the_processes_without_a_token(
    data_dir: Path, hub: HubServer, tmp_path: Path
) -> None:
    hub.add_repo("model", "ann/tiny", {"config.json": b"{}", "model.safetensors": b"weights"}, private=True)
    code = "from pathlib import Path; from rlhf.models.base import base_files"
    code += "; print(base_files.locate(Path(), 'ann/tiny').path)"
    looking = tmp_path / "look.py"
    looking.write_text(code, "utf-8")
    without = {**os.environ, **hub.environment(None), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "PYTHONPATH": str(ROOT)}
    look = [sys.executable, str(looking)]
    assert subprocess.run(look, cwd=ROOT, env=without, capture_output=True, check=False).returncode != 0
    begin = [*module("rlhf.hub.token_process"), "--begin", "--data", str(data_dir), "--model", "ann/tiny"]
    with_token = {**os.environ, **hub.environment(TOKEN), "PYTHONPATH": str(ROOT), PLACE: ""}
    subprocess.run(begin, cwd=tmp_path, env=with_token, check=True, timeout=PATIENCE_SECONDS)
    found = subprocess.run(look, cwd=ROOT, env=without, capture_output=True, text=True, check=True)
    assert (Path(found.stdout.strip()) / "model.safetensors").read_bytes() == b"weights"


def test_a_token_process_that_dies_is_started_again_and_goes_on_from_what_is_safe(
    project: Path, hub: HubServer
) -> None:
    told = {**hub.environment(TOKEN), PLACE: REPO, **AT_EACH}
    with running(project, told) as program, program.page() as page:
        wait_until("the first copy", lambda: "Last safe copy" in page.safety(), every=0.3)
        first = program.part("rlhf.hub.token_process")
        first.kill()
        page.judge(3)
        wait_until("a safe copy of three", lambda: told_safe(page.safety(), 3) == 3, every=0.3)
        assert program.part("rlhf.hub.token_process").pid != first.pid
        assert "Two copies" not in page.safety()


@pytest.mark.own_start
def test_a_killed_web_server_is_started_again_and_takes_judgements_before_it_has_pages(
    project: Path, tmp_path: Path
) -> None:
    gate = PageGate(tmp_path)
    told = {"HF_TOKEN": "", PLACE: str(tmp_path / "bucket"), **ONLY_AT_THE_ENDS, **gate.environment}
    with free_port() as port, running(project, told, as_typed=True, port=port) as program, program.page() as page:
        card = page.client.post("/annotate/card", json={}).json()
        assert page.client.get("/config").status_code == 200
        killed = program.part("app.py")
        gate.close()
        killed.kill()
        program.wait_for_address(starts=2)
        done = page.client.post("/annotate/judge", json={"nonce": card["nonce"], "act": act("left-clearly")})
        assert done.json()["saved"], done.text
        page.judge(2)
        assert page.client.get("/healthz").json()["pages"] == "starting"
        waiting = page.client.get("/", headers={"accept": "text/html"})
        assert waiting.status_code == 503
        assert "Prefloop gets its pages ready" in waiting.text
        gate.open()
        assert page.client.get("/config").status_code == 200
        assert "gradio" in page.client.get("/", headers={"accept": "text/html"}).text
        assert page.client.get("/healthz").json()["pages"] == "ready"
        assert gate.loaders() == [killed.pid, program.part("app.py").pid], "only what serves pages loads Gradio, once"
        program.process.terminate()
        assert program.process.wait(PATIENCE_SECONDS) == 0
    assert "died of signal 9" in program.log.read_text()
    assert stored(project) == 3


def test_a_second_program_on_the_same_copies_steps_aside_and_both_pages_say_so(
    project: Path, hub: HubServer, tmp_path: Path
) -> None:
    told = {**hub.environment(TOKEN), PLACE: REPO, **OFTEN}
    with running(project, told) as one, one.page() as first:
        wait_until("the first copy", lambda: "Last safe copy" in first.safety(), every=0.3)
        (tmp_path / "other").mkdir()
        with running(tmp_path / "other" / "data", told) as two, two.page() as second:
            first.judge(1)
            judge_two_safely(second, 2)
            judge_two_safely(second, 4)
            first.judge(1)
            line = wait_until("the conflict", lambda: "Two copies" in first.safety() and first.safety(), every=0.3)
            assert "Two copies of this project run" in line
            wait_until("two to be safe, aside", lambda: told_safe(first.safety(), 2) == 2, every=0.3)
    branches = hub.repos["dataset", REPO].branches
    assert len(branches) == 2
    assert "copy-" in one.log.read_text()


def test_a_program_that_starts_while_the_one_before_it_goes_on_takes_over_what_was_judged_there_meanwhile(
    project: Path, tmp_path: Path
) -> None:
    told = {"HF_TOKEN": "", PLACE: str(tmp_path / "bucket"), **ONLY_AT_THE_ENDS}
    (tmp_path / "other").mkdir()
    with running(project, told) as old, old.page() as page:
        wait_until("the first copy", lambda: "Last safe copy" in page.safety(), every=0.3)
        with running(tmp_path / "other" / "data", told) as successor:
            page.judge(3)
            old.process.terminate()
            assert old.process.wait(PATIENCE_SECONDS) == 0
            successor.wait_for_address(starts=2)
            assert "begins again from that copy" in successor.log.read_text()
            assert stored(tmp_path / "other" / "data") == 3
            with successor.page() as next_page:
                assert ", 0 judgements since." in next_page.safety()
                next_page.judge(2)
                successor.process.send_signal(signal.SIGHUP)
                assert successor.process.wait(PATIENCE_SECONDS) == 0
    assert "From now on copies" not in successor.log.read_text()
    (tmp_path / "third").mkdir()
    with running(tmp_path / "third" / "data", told):
        assert stored(tmp_path / "third" / "data") == 5


def test_where_it_can_not_begin_again_a_program_goes_on_with_what_is_here(
    project: Path, db: Database, tmp_path: Path
) -> None:
    place = DirectoryTarget(tmp_path / "bucket")
    told = {"HF_TOKEN": "", PLACE: place.name, **OFTEN}
    safe_copies.make_copy(db, project, place, "a" * 32)
    other = tmp_path / "other" / "data"
    other.parent.mkdir()
    with running(other, told) as program:
        newest = place.manifest(place.head())
        assert newest is not None
        lost = {FILE_NAME: FileDigest("0" * 64, 10)}
        holder = program.part("rlhf.hub.token_process")
        holder.suspend()  # it is to see both or neither
        create_whole(place.copies / "000002.json", replace(newest, run="b" * 32, files=lost).to_bytes())
        (place.copies / "000001.json").unlink()
        holder.resume()
        program.wait_for_address(starts=2)
        assert "No safe copy could be restored" in program.log.read_text()
        with program.page() as page:
            page.judge(2)
            wait_until("its copy, aside", lambda: "Two copies" in page.safety(), every=0.3)


def test_whoever_asks_twice_is_not_kept_waiting(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_launcher, "HURRIED_SECONDS", 0.1)
    launcher = token_launcher.Launcher(data_dir, "embedded", [])
    with subprocess.Popen(["sleep", "infinity"]) as process:
        launcher.on_signal(signal.SIGTERM, None)
        assert launcher.hurried is None
        launcher.on_signal(signal.SIGTERM, None)
        assert launcher.wait_for(process, math.inf) == -signal.SIGKILL


def test_what_nohup_keeps_alive_does_not_end_with_the_terminal() -> None:
    lines = [
        "import os, pathlib, signal, sys",
        "from rlhf.hub.token_launcher import Launcher",
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)",
        "launcher = Launcher(pathlib.Path('data'), 'embedded', [])",
        "launcher.begin = lambda: os.kill(os.getpid(), signal.SIGHUP) or 7",
        "assert launcher.run() == 7",
        "print(launcher.told)",
    ]
    assert subprocess.check_output([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, text=True) == "None\n"


def test_a_beginning_is_not_ended_while_it_fetches_a_model_for_hours(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours, statuses = count(), iter([None, None, 0])
    clock = SimpleNamespace(monotonic=lambda: 3600.0 * next(hours), sleep=lambda seconds: None)
    monkeypatch.setattr(token_launcher, "time", clock)
    beginning: Any = SimpleNamespace(poll=lambda: next(statuses), returncode=0)
    assert token_launcher.Launcher(data_dir, "embedded", []).begun(beginning) == 0


def test_a_process_ends_with_its_launcher_where_the_system_does_not_see_to_it() -> None:
    watching = "import os, rlhf.hub.token_launcher as own; launcher = os.getppid(); print(os.getpid(), flush=True); "
    watching += "own.watch_launcher(launcher)"
    starting = f"subprocess.Popen([sys.executable, '-c', {watching!r}])"
    command = [sys.executable, "-c", f"import subprocess, sys; {starting}; input()"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        assert child.is_running()
        process.kill()
    wait_until("the end", lambda: has_ended(child), every=0.1)


def test_while_the_hub_has_trouble_the_start_waits_and_a_hub_that_refuses_stops_it(
    hub: HubServer, project: Path
) -> None:
    told = {**hub.environment(TOKEN), PLACE: REPO, **ONLY_AT_THE_ENDS}
    hub.fail("POST", "/api/repos/create", 503)
    with running(project, told) as program:
        assert "The Hub has trouble of its own" in program.log.read_text()
    with running(project, {**told, "HF_TOKEN": "hf_expired_one"}, wait=False) as program:
        assert program.process.wait(PATIENCE_SECONDS) == 2
        said = program.log.read_text()
    assert "does not accept the token" in said
    assert "Traceback" not in said
    assert "hf_expired_one" not in said


def test_a_failing_copy_is_on_the_page_and_its_reason_only_for_admins(
    project: Path, hub: HubServer, db: Database
) -> None:
    access.add_account(db, "kim", "admin", PASSWORD)
    told = {**hub.environment(TOKEN), PLACE: REPO, **OFTEN}
    with running(project, told) as program, program.page() as page:
        wait_until("the first copy", lambda: "Last safe copy" in page.safety(), every=0.3)
        hub.tokens[TOKEN] = ("ann", "read")
        page.judge(2)
        line = wait_until("the failure", lambda: "failed" in page.safety() and page.safety(), every=0.3)
        assert line.endswith("2 judgements since. The latest attempt failed and is repeated.")
        with httpx.Client(base_url=program.address, timeout=PATIENCE_SECONDS) as admin:
            admin.post("/login", data={"name": "kim", "password": PASSWORD})
            assert "The token has no right to do that" in admin.post("/annotate/safety", json={}).json()["text"]
        hub.tokens[TOKEN] = ("ann", "write")
        wait_until("the copy", lambda: told_safe(page.safety(), 2) == 2, every=0.3)


def test_the_launcher_loads_next_to_nothing() -> None:
    assert (
        loaded_by(
            "rlhf.hub.token_launcher", ("gradio", "torch", "sqlite_utils", "huggingface_hub", "rlhf.jobs.job_store")
        )
        == []
    )
    assert loaded_by("rlhf.hub.token_process", ("gradio", "torch", "annotation.copies.targets")) == [
        "annotation.copies.targets"
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="a Linux call")
def test_a_process_can_keep_others_from_reading_its_environment() -> None:
    code = "import ctypes, rlhf.hub.token_launcher as own; own.hide_environment(); print(ctypes.CDLL(None).prctl(3))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


@pytest.mark.own_start
def test_without_a_token_and_copies_there_is_one_process_only(project: Path, tmp_path: Path) -> None:
    environment = {"HF_TOKEN": "", "HF_HOME": str(tmp_path), PLACE: ""}
    with running(project, environment, as_typed=True) as program, program.page() as page:
        assert psutil.Process(program.process.pid).children() == []
        assert page.safety() == ""
        restore = [sys.executable, "-m", "annotation", "copies", "restore", "--aside", "--data", str(project)]
        place = ["--place", str(project / "copies")]
        refused = subprocess.run([*restore, *place], cwd=ROOT, capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert "A Prefloop that runs has the database" in refused.stderr
