"""The web process while its pages are built: what is served, what is refused, what waits, and what a failure does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from annotation.api import MAXIMUM_BODY
from annotation.database import Database
from annotation.jobs.lane_runner import LaneRunner
from annotation.records import UserError, now
from annotation.store import project_store, prompt_store
from annotation.web import access
from annotation.web.deferred_app import AppOfEachLanguage, BuiltApp, DeferredApp
from annotation.web.middleware import SECURITY_HEADERS
from annotation.web.settings import Settings
from rlhf import web_server
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.cli.policy_command import prepare
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store
from rlhf.loop.supervisor import Supervisor
from rlhf.models import registry
from rlhf.models.base import base_model
from rlhf.submission import job_submission
from tests.conftest import BASE_NAME, act, judgement_count, seed_comparisons
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, free_port, wait_until

PASSWORD = "a long enough password"
BROWSER = {"accept": "text/html"}


@dataclass(frozen=True)
class Starting:
    """The web process, whose pages nobody builds until a test has them opened."""

    app: Starlette
    db: Database
    cookie: str

    @property
    def pages(self) -> DeferredApp:
        pages: DeferredApp = self.app.state.pages
        return pages

    def client(self, name: str | None = "ann") -> httpx.AsyncClient:
        """A browser of this person, or of a stranger."""
        client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost")
        if name is not None:
            token = access.open_session(self.db, access.authorise(self.db, name, "annotator"))
            client.cookies.set(self.cookie, token)
        return client


@pytest.fixture
def starting(db: Database, data_dir: Path) -> Iterator[Starting]:
    seed_comparisons(db, 6)
    access.add_account(db, "ann", "annotator", PASSWORD)
    settings = Settings(data_dir=data_dir, workers=False)
    app = web_server.build_app(settings)
    yield Starting(app, db, settings.cookie)
    app.state.db.close()


def test_a_data_directory_of_a_name_that_is_too_long_is_a_sentence(tmp_path: Path, tiny_model: Path) -> None:
    data_dir, said = tmp_path / ("a" * 300), r"can't be written \(File name too long\)"
    with pytest.raises(UserError, match=said):
        web_server.open_data(Settings(data_dir=data_dir))
    with pytest.raises(UserError, match=said):
        prepare(data_dir, str(tiny_model))


def test_where_the_system_has_no_place_for_temporary_files_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"Temporary files can't be written \(.+\)\. Free disk space, or .+ TMPDIR"):
        web_server.hold_uploads()


def test_what_killed_programs_have_left_goes_when_one_starts(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a policy's mark and its files, while files, exports or safe copies were written, before files were
    registered.

    Not what may still be written or registered, nor what no job of this program has made.
    """
    jobs = [job_store.enqueue(db, RewardModelSpec(), "ann") for _ in range(4)]
    for job in jobs[:3]:
        job_store.cancel(db, job)
    whole, deleted = (data_dir / "adapters" / name for name in (f"reward-model-{jobs[0]}", "dpo-2"))
    halves = [data_dir / name for name in ("adapters/sft-3.part", "adapters/.fetched-a", "snapshots/.b.part")]
    halves += [data_dir / name for name in (f"adapters/reward-model-{jobs[1]}", ".copy-a", ".restore-a", "exports/.a")]
    kept = [whole, *(data_dir / "adapters" / f"reward-model-{job}" for job in jobs[2:])]
    kept += [data_dir / name for name in (".copy-b", "exports/.b", "adapters/sft-4.part", "adapters/mine")]
    for directory in (deleted, *halves, *kept):
        directory.mkdir(parents=True)
        (directory / "weights").write_bytes(b"0")
    for directory in (whole, deleted):
        registry.add(
            db,
            revision=directory.name,
            algorithm="sft",
            base=BASE_NAME,
            parent_id=1,
            job_id=None,  # as of what was restored elsewhere, where jobs have other numbers
            path=f"adapters/{directory.name}",
            sha256="",
        )
    db.insert(
        "model",
        {
            **{"revision": "hostile", "algorithm": "sft", "base": BASE_NAME, "parent_id": 1, "path": "adapters"},
            **{"status": "retired", "created": now(), "deleted": now()},
        },
    )
    for directory in (whole, *halves, kept[2], kept[-1]):
        os.utime(directory, (0, 0))
    with monkeypatch.context() as patched:
        patched.setattr(registry, "remove_files", lambda *_: 0)
        job_submission.delete_policy(db, data_dir, "dpo-2", "kim")
    web_server.build_app(Settings(data_dir=data_dir, workers=False)).state.db.close()
    assert [path for path in (deleted, *halves) if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []


def test_a_first_start_that_is_killed_between_the_prompts_and_the_guidelines_is_made_up_for(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    settings = Settings(data_dir=data_dir, workers=False)
    with monkeypatch.context() as patched:
        patched.setattr(project_store, "write_guidelines", killed)
        with pytest.raises(KeyboardInterrupt):
            web_server.open_data(settings)
    opened = web_server.open_data(settings).db
    assert project_store.guidelines(opened).version == 1
    assert prompt_store.prompts(opened, "train")
    opened.close()


@pytest.mark.parametrize("asked", ["embedded", "someone/else", "."])
def test_another_base_is_refused_before_it_is_converted_or_fetched(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    def prepared(*_: object) -> None:
        raise AssertionError("the model that is not wanted was set up")

    db.write("UPDATE model SET base = '/models/own'")
    monkeypatch.setattr(base_model, "prepare", prepared)
    with pytest.raises(UserError, match="Start with --model /models/own"):
        web_server.open_data(Settings(data_dir=data_dir, model=asked))
    with pytest.raises(UserError, match="Start with --model /models/own"):
        prepare(data_dir, asked)


def test_where_every_address_is_listened_on_the_terminal_says_what_people_open(
    db: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    web_server.announce(Settings(host="0.0.0.0", port=7861), db)
    assert "People open it at a name or address of this machine, with port 7861." in capsys.readouterr().out
    web_server.announce(Settings(host="192.0.2.7", port=7861), db)
    assert "People open" not in capsys.readouterr().out


def test_who_is_signed_in_judges_and_who_is_not_can_sign_in(starting: Starting) -> None:
    async def judge() -> None:
        async with starting.client(None) as client:
            signed_in = await client.post("/login", data={"name": "ann", "password": PASSWORD})
            assert signed_in.status_code == 303
            card = (await client.post("/annotate/card", json={})).json()
            done = await client.post("/annotate/judge", json={"nonce": card["nonce"], "act": act("left-clearly")})
            assert done.json()["saved"]
            health = (await client.get("/healthz")).json()
            assert (health["ok"], health["pages"]) == (True, "starting")

    asyncio.run(judge())
    assert judgement_count(starting.db) == 1


@pytest.mark.parametrize("heard", [2026, 2926])
@pytest.mark.parametrize(("status", "code"), [("running", 200), ("lost", 503), ("failed", 503)])
def test_after_a_sleep_of_the_machine_or_with_its_clock_set_back_all_is_well_unless_the_worker_is_gone(
    db: Database, status: str, code: int, heard: int
) -> None:
    job, beat = job_store.enqueue(db, AnsweringSpec(), "the program"), f"{heard}-01-01T00:00:00.000000+00:00"
    db.write("UPDATE job SET status = ?, heartbeat = ? WHERE id = ?", (status, beat, job))
    pages = DeferredApp(lambda: BuiltApp(PlainTextResponse(""), nullcontext()))
    route = Route("/healthz", web_server.health_route(Settings(data_dir=db.path.parent), db, pages))

    async def health() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=[route]))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/healthz")

    answer = asyncio.run(health())
    assert answer.status_code == code
    assert (answer.json()["worker_silent_seconds"] or 0.0) >= 0.0


def test_what_was_judged_is_on_the_disk_before_that_is_answered(db: Database, starting: Starting) -> None:
    """So a power cut loses no judgement that somebody was told is saved. Workers don't wait for the disk."""
    full, normal = 2, 1
    assert starting.app.state.db.value("PRAGMA synchronous") == full
    assert db.value("PRAGMA synchronous") == normal


def test_those_who_wait_for_a_write_to_sign_in_or_out_keep_nobody_else_waiting(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, close = list[str](), access.close_session

    def closing(db: Database, token: str) -> None:
        waiting.append(token)
        close(db, token)

    monkeypatch.setattr(access, "close_session", closing)

    async def sign_out() -> None:
        threads = 2
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads))
        other = Database(starting.db.path)
        async with starting.client(None) as client:
            with other.transaction():
                asked = [asyncio.create_task(client.post("/logout")) for _ in range(threads)]
                while len(waiting) < threads:
                    await asyncio.sleep(0.01)
                health = await asyncio.wait_for(client.get("/healthz"), PATIENCE_SECONDS)
                assert health.json()["ok"]
            assert [(await answer).status_code for answer in asked] == [303] * threads
        other.close()

    asyncio.run(sign_out())


def test_the_guard_is_there_from_the_beginning(starting: Starting) -> None:
    async def try_it() -> None:
        async with starting.client(None) as stranger, starting.client() as ann:
            refused = await stranger.post("/annotate/card", json={})
            assert refused.status_code == 401
            assert (await stranger.get("/config")).status_code == 401
            assert (await stranger.get("/", headers=BROWSER)).headers["location"] == "/login"
            foreign = await ann.post("/annotate/card", json={}, headers={"origin": "http://evil.test"})
            assert foreign.status_code == 403
            assert (await ann.post("/annotate/card", json={}, headers={"host": "evil.test"})).status_code == 403
            large = await ann.post("/annotate/judge", json={"nonce": "x" * MAXIMUM_BODY})
            assert large.status_code == 400
            page = await ann.get("/", headers=BROWSER)
            for answer in (refused, foreign, large, page):
                assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
            assert page.headers["cache-control"] == "no-store"

    asyncio.run(try_it())
    assert judgement_count(starting.db) == 0


def test_a_browser_is_told_what_it_waits_for_and_everything_else_waits(starting: Starting) -> None:
    async def wait() -> None:
        async with starting.client() as ann:
            page = await ann.get("/", headers=BROWSER)
            assert page.status_code == 503
            assert 'role="status"><p>Prefloop gets its pages ready' in page.text
            waiting = [asyncio.create_task(asked) for asked in (ann.get("/config"), ann.head("/", headers=BROWSER))]
            assert (await ann.post("/annotate/card", json={})).status_code == 200
            assert not any(task.done() for task in waiting)
            starting.pages.open(PlainTextResponse("the pages"))
            assert [(await task).status_code for task in waiting] == [200, 200]
            assert (await ann.get("/", headers=BROWSER)).text == "the pages"

    asyncio.run(wait())


def test_workers_are_ended_also_where_what_imports_can_not_be(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Supervisor] = []

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def serve(app: Starlette) -> None:
        async with app.router.lifespan_context(app):
            pass

    monkeypatch.setattr(web_server, "open_data", lambda settings: web_server.DataDirectory(db, BASE_NAME, ()))
    monkeypatch.setattr(web_server, "build_pages", fail)
    monkeypatch.setattr(LaneRunner, "stop", fail)
    monkeypatch.setattr(Supervisor, "start", lambda supervisor: None)
    monkeypatch.setattr(Supervisor, "stop", lambda supervisor: ended.append(supervisor))
    monkeypatch.setattr(LaneRunner, "start", lambda runner: None)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(serve(web_server.build_app(Settings(data_dir=data_dir))))
    assert len(ended) == 1


def test_the_end_of_the_program_waits_for_no_pages_that_are_still_built() -> None:
    begun, go_on, built = threading.Event(), threading.Event(), threading.Event()

    def build() -> BuiltApp:
        begun.set()
        go_on.wait(PATIENCE_SECONDS)
        built.set()
        return BuiltApp(PlainTextResponse("the pages"), nullcontext())

    async def run() -> None:
        async with AppOfEachLanguage(build).running():
            await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)

    asyncio.run(run())
    assert not built.is_set()
    go_on.set()
    assert built.wait(PATIENCE_SECONDS)


@pytest.mark.own_start
def test_pages_that_can_not_be_built_end_the_program_with_the_reason(db: Database, data_dir: Path) -> None:
    (data_dir / "gradio.py").write_text("raise ImportError('no pages today')")
    words = ["--no-workers", "--no-browser", "--port", "0", "--data", str(data_dir)]
    done = subprocess.run(
        [sys.executable, "app.py", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(data_dir)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ImportError: no pages today\n")


def test_a_program_whose_output_nobody_reads_serves(db: Database, data_dir: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as after `python app.py | head -1`
    with free_port() as port:
        words = ["--no-workers", "--no-browser", "--port", str(port), "--data", str(data_dir)]
        command = [sys.executable, "app.py", *words]
        with subprocess.Popen(command, cwd=ROOT, stdout=writing, stderr=writing) as process:
            os.close(writing)

            def answers() -> bool:
                assert process.poll() is None
                with suppress(httpx.TransportError):
                    return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
                return False

            try:
                wait_until("an answer", answers)
            finally:
                process.terminate()
