"""What the page asks of whoever has the Hub's token: done, repeated where it was cut off, the token never shown."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as parquet
import pytest
from huggingface_hub import constants

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.imports import import_process
from annotation.imports.import_process import FROM_HUB, HERE, ImportData, Importer, State
from annotation.jobs import job_table
from annotation.jobs.attempt import Attempt, Stopped
from annotation.jobs.job_table import Job
from annotation.jobs.lane_runner import JobOutcome, LaneRunner
from annotation.records import UserError
from annotation.store import data_sources
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data import snapshots
from rlhf.data.snapshots import CountedRows
from rlhf.hub import hub_requests, publications, push_model, token_process
from rlhf.hub.hub_requests import (
    REQUESTS,
    AskPrices,
    CheckSpace,
    CheckToken,
    Flavor,
    MakeSpace,
    PublishModel,
    PullModel,
    PushData,
)
from rlhf.hub.token_launcher import HELD, LAUNCHER, PLACE
from rlhf.jobs import job_store
from rlhf.tabs.hub.hub_tab import publications_table
from tests.conftest import BASE_NAME, act, seed_comparisons
from tests.fakes.hub_server import HubServer
from tests.fakes.hub_sign_in import CHAT_MODEL, SpaceHub
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, wait_until
from tests.rlhf.hub.test_push_and_pull import safetensors
from tests.rlhf.hub.test_token_process import TOKEN, environment_of, project, running
from tests.run_fixtures import demonstration_rows

pytestmark = pytest.mark.slow

__all__ = ["project"]  # a fixture
BASE = f"HuggingFaceTB/{BASE_NAME}"
ADAPTER = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": BASE, "r": 2}
# Down from 16 values to 2, and up again, beside the first layer.
LORA = {
    f"base_model.model.model.layers.0.self_attn.q_proj.lora_{end}.weight": shape
    for end, shape in (("A", (2, 16)), ("B", (16, 2)))
}
MODEL = "models/small"


@pytest.fixture
def hub() -> Iterator[SpaceHub]:
    """A Hub with an adapter, a base for a Space, and private data."""
    with SpaceHub() as server:
        files = {"adapter_config.json": json.dumps(ADAPTER).encode(), "adapter_model.safetensors": safetensors(LORA)}
        server.add_repo("model", "bob/adapter", files)
        server.add_repo("model", "HuggingFaceTB/SmolLM2-135M-Instruct", CHAT_MODEL)
        rows = b"".join(b'{"prompt": "Say %d.", "chosen": "a", "rejected": "b"}\n' % number for number in range(3))
        server.add_repo("dataset", "ann/secret", {"train.jsonl": rows}, private=True)
        yield server


@pytest.fixture
def with_token(hub: SpaceHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of this process go to that Hub."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants._HF_DEFAULT_ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)


def runner(data_dir: Path) -> LaneRunner[hub_requests.Request]:
    """What does the Hub's requests, in this process."""
    return LaneRunner(data_dir, REQUESTS, hub_requests.perform)


def done(db: Database, request: hub_requests.Request) -> Job[Any]:
    """A request, made and done in this process."""
    number = REQUESTS.enqueue(db, request, "kim")
    assert runner(db.path.parent).run_next(db)
    return REQUESTS.get(db, number)


# ---------------------------------------------------------------------------------------------------------------- rows
EVERY_KIND = [
    CheckToken(),
    AskPrices(),
    PublishModel("dpo-7", "ann/x", False, "mit"),
    PullModel("ann/x@main", "nf4"),
    PushData(repo="ann/x", format="sft", private=False, names=True, licence="cc-by-4.0"),
    CheckSpace(
        repo="ann/loop", hardware="cpu-upgrade", admins="ann", annotators="nobody", copies="ann/copies", public=True
    ),
    MakeSpace("ann/loop", price=0.03),
]


def test_every_kind_comes_back_as_it_was_asked_for_in_the_order_of_asking(db: Database) -> None:
    numbers = [REQUESTS.enqueue(db, request, "kim") for request in EVERY_KIND]
    assert {REQUESTS.get(db, number).kind for number in numbers} == set(REQUESTS.kinds)
    taken = [REQUESTS.claim_next(db, "w") for _ in EVERY_KIND]
    assert [one.spec for one in taken if one is not None] == EVERY_KIND
    assert REQUESTS.claim_next(db, "w") is None
    assert [one.id for one in REQUESTS.recent(db, 3)] == numbers[:-4:-1]
    assert [one.id for one in REQUESTS.open(db)] == numbers


def test_an_import_comes_back_as_it_was_asked_for(db: Database) -> None:
    asked = ImportData(("--look", "--hub", "--", "ann/x"))
    assert FROM_HUB.get(db, FROM_HUB.enqueue(db, asked, "kim")).spec == asked
    assert (asked.form, asked.is_on_hub) == ("look", True)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (PublishModel("dpo-7", "nowhere"), "can't be the name of a repository"),
        (PublishModel("", "ann/x"), "Choose a model"),
        (PublishModel("dpo-7", "ann/x", licence="My own!"), "is no licence"),
        (PullModel("ann/x@a b"), "can't be a revision"),
        (PullModel("ann/x", "int3"), "'int3' is no precision"),
        (PushData("ann/x", "raw"), "is no dataset"),
        (PushData("ann/x", "odd"), "There is no format 'odd'"),
        (CheckSpace("loop"), "can't be the name of a repository"),
    ],
)
def test_what_cannot_be_meant_is_not_recorded(db: Database, request_: hub_requests.Request, words: str) -> None:
    with pytest.raises(UserError, match=words):
        REQUESTS.enqueue(db, request_, "kim")
    assert REQUESTS.recent(db, 9) == []


def test_what_was_cut_off_is_done_again_but_not_without_end(db: Database, data_dir: Path) -> None:
    number = REQUESTS.enqueue(db, CheckToken(), "kim")
    begun: list[int] = []

    def cut_off(attempt: Attempt, job: Job[Any]) -> JobOutcome:
        begun.append(job.attempt)
        attempt.report(1, 2, {}, "half")
        attempt.terminated.set()
        raise Stopped

    while LaneRunner(data_dir, REQUESTS, cut_off).run_next(db):
        assert len(begun) <= 1 + job_table.MOST_REPETITIONS
    ended = REQUESTS.get(db, number)
    assert (ended.status, begun) == ("failed", [1, 2, 3])
    assert "interrupted each time" in ended.message


# ----------------------------------------------------------------------------------------------------------- doing them
def test_a_model_is_pulled_and_published_and_the_record_says_who_asked(
    db: Database, hub: SpaceHub, with_token: None
) -> None:
    pulled = done(db, PullModel("bob/adapter"))
    assert pulled.status == "finished", pulled.message
    revision = pulled.result["revision"]
    assert f"'{revision}' is here now" in pulled.message
    published = done(db, PublishModel(revision, "ann/mine", licence="mit"))
    assert published.message.startswith("Published ann/mine"), published.message
    assert hub.repos["model", "ann/mine"].private
    assert b"license: mit" in hub.file("model", "ann/mine", "README.md")
    assert publications.all_of(db)[0].published_by == "kim"


def test_judgements_are_pushed_with_pseudonyms_or_names(
    project: Path, db: Database, hub: SpaceHub, with_token: None
) -> None:
    ann = db.value("SELECT id FROM annotator WHERE name = 'ann'")
    claim = handing_out.claim_next(db, ann)
    assert claim is not None
    judging.judge(db, ann, claim.nonce, act("left-clearly"))
    for names, repo in ((False, "ann/data"), (True, "ann/named")):
        pushed = done(db, PushData(repo, names=names, licence="cc-by-4.0"))
        assert pushed.message.startswith(f"Published {repo}"), pushed.message
        held = hub.files("dataset", repo)
        assert b"license: cc-by-4.0" in held["README.md"]
        (table,) = (parquet.read_table(io.BytesIO(held[path])) for path in held if path.startswith("data/train"))
        assert ("'ann'" in str(table.to_pylist())) is names
        assert hub.repos["dataset", repo].private


def test_the_frozen_data_of_a_run_is_pushed(db: Database, data_dir: Path, hub: SpaceHub, with_token: None) -> None:
    frozen = snapshots.store_snapshot(db, data_dir, CountedRows(demonstration_rows()))
    run = job_store.enqueue(db, SFTSpec(snapshot=frozen), "kim")
    pushed = done(db, PushData("ann/frozen", run=run))
    assert pushed.message.startswith(f"Published ann/frozen, tag snapshot-{frozen[:12]}"), pushed.message
    assert len(hub.file("dataset", "ann/frozen", "data/train.jsonl").splitlines()) == 12
    assert done(db, PushData("ann/frozen", run=run)).message.startswith("There already: ann/frozen")
    assert "frozen data" in publications_table(publications.all_of(db), {})


def test_the_token_and_the_prices(db: Database, hub: SpaceHub, with_token: None) -> None:
    hub.organisations = {"ann": {"lab": "admin"}}
    assert done(db, CheckToken()).message == "The token is ann's. It may write to repositories of: ann, lab."
    assert hub_requests.prices(db) == []
    assert done(db, AskPrices()).result["flavors"][1].keys() == {"name", "label", "price_per_hour"}
    hub.fail("GET", "/api/jobs/hardware", 500)
    assert "trouble of its own" in done(db, AskPrices()).message
    basic, gpu = hub_requests.prices(db)
    assert basic == Flavor("cpu-basic", "CPU Basic", pytest.approx(0.01))
    assert gpu.price_per_hour == pytest.approx(0.4)


def test_a_space_is_made_for_no_more_than_was_agreed_to(
    db: Database, hub: SpaceHub, with_token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = done(db, CheckSpace("ann/loop", "cpu-upgrade", public=True))
    assert (checked.result["errors"], checked.result["public"]) == (0, True)
    assert checked.result["price"] > 0
    assert ["note", "ann/loop will be new."] in checked.result["findings"]
    dear = done(db, MakeSpace("ann/loop", "cpu-upgrade", public=True, price=checked.result["price"] / 2))
    assert "Nothing was uploaded or spent: cpu-upgrade costs" in dear.message
    assert ("space", "ann/loop") not in hub.repos
    monkeypatch.setenv("PREFLOOP_SPACE_TOKEN", "hf_of_the_space")
    made = done(db, MakeSpace("ann/loop", "cpu-upgrade", public=True, price=checked.result["price"]))
    assert made.message.startswith(f"{hub.url}/spaces/ann/loop is made at ")
    assert hub.repos["space", "ann/loop"].secrets == {"HF_TOKEN": "hf_of_the_space"}
    kept = done(db, CheckSpace("ann/loop", public=True))
    assert (kept.result["hardware"], kept.result["price"]) == ("cpu-upgrade", checked.result["price"]), "it stays"
    assert any("cpu-upgrade costs" in words for _level, words in kept.result["findings"])
    assert "cpu-upgrade costs" in done(db, MakeSpace("ann/loop", public=True)).message
    wrong = done(db, CheckSpace("ann/loop", "huge", public=True))
    assert (wrong.status, wrong.result["errors"]) == ("finished", 1)
    assert "1 error to be mended first" in wrong.message


def test_what_goes_wrong_is_a_sentence_without_the_token_and_the_runner_goes_on(
    db: Database, data_dir: Path, hub: SpaceHub, with_token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError(f"with {TOKEN}")

    monkeypatch.setattr(push_model, "publish", broken)
    refused = REQUESTS.enqueue(db, PullModel("bob/nothing"), "kim")
    bug = REQUESTS.enqueue(db, PublishModel("x", "ann/x"), "kim")
    last = REQUESTS.enqueue(db, CheckToken(), "kim")
    runner(data_dir).start()
    wait_until("the last", lambda: not REQUESTS.get(db, last).is_open)
    assert "There is no such repository" in REQUESTS.get(db, refused).message
    assert REQUESTS.get(db, bug).message.startswith("An error of Prefloop's own ended it (ZeroDivisionError: with [")
    assert REQUESTS.get(db, last).status == "finished"
    assert not any(TOKEN in str(row) for row in db.rows("SELECT * FROM job"))


def test_an_import_and_an_upload_do_not_wait_for_each_other(
    db: Database, data_dir: Path, with_token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, quick, release = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: Any) -> JobOutcome:
        begun.set()
        release.wait(PATIENCE_SECONDS)
        return JobOutcome("")

    def soon(*_: Any) -> JobOutcome:
        quick.set()
        return JobOutcome("", {"look": {}})

    monkeypatch.setattr(hub_requests, "perform", slow)
    monkeypatch.setattr(token_process, "import_data", soon)
    for one in token_process.runners(data_dir):
        one.start()
    REQUESTS.enqueue(db, CheckToken(), "kim")
    assert begun.wait(PATIENCE_SECONDS)
    FROM_HUB.enqueue(db, ImportData(("--look", "--hub", "--", "ann/x")), "kim")
    assert quick.wait(PATIENCE_SECONDS)
    release.set()


# ---------------------------------------------------------------------------------------------- the program as it runs
def told(hub: HubServer) -> dict[str, str]:
    """The environment of a program that has a token and makes no copies."""
    return {**hub.environment(TOKEN), PLACE: ""}


def finished(importer: Importer) -> State:
    """How a run of the import form ends."""
    wait_until("the import", lambda: importer.state.status in ("finished", "failed"))
    return importer.state


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_with_a_token_and_without_copies_what_the_web_server_asks_is_done_and_it_has_no_token(
    project: Path, db: Database, hub: SpaceHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, trouble_with = threading.Event(), hub.trouble_with

    def trouble_once_seen(method: str, path: str) -> Any:
        assert not path.startswith("/api/datasets/") or seen.wait(PATIENCE_SECONDS)
        return trouble_with(method, path)

    monkeypatch.setattr(hub, "trouble_with", trouble_once_seen)
    with running(project, told(hub)) as program:
        web, holder = program.part("app.py"), program.part("rlhf.hub.token_process")
        assert TOKEN.encode() not in environment_of(web)
        assert f"{HELD}=1".encode() in environment_of(web)
        number = REQUESTS.enqueue(db, CheckToken(), "kim")
        wait_until("the answer", lambda: REQUESTS.get(db, number).status == "finished")
        assert "The token is ann's" in REQUESTS.get(db, number).message

        importer = Importer(db, token_held=True)
        source = ["--hub", "--", "ann/secret"]
        importer.start("look", source, [])
        wait_until("a process of the token holder's that imports", lambda: imports_below(holder))
        seen.set()
        look = finished(importer)
        assert look.status == "finished", look.error
        assert look.look is not None
        assert look.look.columns == ("prompt", "chosen", "rejected")
        importer.start("import", source, ["--map=prompt=prompt", "--by=kim"])
        assert finished(importer).outcome.counts.judged == 3
        (entry,) = data_sources.imports(db)
        assert entry.name == f"ann/secret@{hub.repos['dataset', 'ann/secret'].head.sha}"
        assert db.value("SELECT requested_by FROM import") == "kim"
        assert TOKEN not in program.log.read_text()
        hub.fail("GET", "/api/datasets/", "hang", times=9)
        importer.start("look", source, [])
        wait_until("its start", lambda: FROM_HUB.newest(db, status="running"))
        importer.cancel()
        assert "was cancelled. Nothing was imported" in finished(importer).error

        hub.fail("GET", "/api/whoami-v2", "hang", times=9)
        cut = REQUESTS.enqueue(db, CheckToken(), "kim")
        wait_until("its start", lambda: REQUESTS.get(db, cut).status == "running")
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(PATIENCE_SECONDS) == 0
        assert psutil.wait_procs(program.family, PATIENCE_SECONDS)[1] == []
        assert "not finished" not in program.log.read_text()
    left = REQUESTS.get(db, cut)
    assert (left.status, left.worker) == ("running", None), "left to whoever comes next"
    job_table.requeue_stale(db, "hub", tuple(REQUESTS.kinds))
    again = REQUESTS.claim_next(db, "w")
    assert again is not None
    assert (again.id, again.attempt) == (cut, 2)


def imports_below(holder: psutil.Process) -> bool:
    """Whether a process that imports was started by another."""
    for child in holder.children():
        with suppress(psutil.NoSuchProcess):
            if "--import" in child.cmdline():
                return True
    return False


@pytest.mark.own_start
@pytest.mark.skipif(sys.platform != "linux", reason="a Linux call")
def test_what_runs_an_import_with_the_token_keeps_others_from_reading_it(db: Database, data_dir: Path) -> None:
    code = "import ctypes, sys; from rlhf.hub import token_process; from annotation import __main__ as own"
    code += "; own.main = lambda arguments: print(arguments, ctypes.CDLL(None).prctl(3)) or 0"
    code += "; token_process.main(sys.argv[1:])"
    command = token_process.import_command(data_dir, ["--look", "--", "x"])
    given = command[command.index("--data") :]
    done = subprocess.run(
        [sys.executable, "-c", code, *given],
        cwd=ROOT,
        env={**os.environ, LAUNCHER: str(os.getpid())},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"['import', '--data={data_dir}', '--tied', '--look', '--', 'x'] 0"


def test_an_import_that_nobody_has_taken_up_ends_when_it_is_cancelled(db: Database) -> None:
    seed_comparisons(db, 1)
    importer = Importer(db, token_held=True)
    importer.start("look", ["--hub", "--", "ann/secret"], [])
    importer.cancel()
    assert "was cancelled" in finished(importer).error
    assert FROM_HUB.claim_next(db, "w") is None


def test_a_file_on_this_server_needs_nobody_with_a_token(db: Database, data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Say something."}\n', "utf-8")
    importer = Importer(db, token_held=True)
    importer.start("look", ["--", str(path)], [])
    assert LaneRunner(data_dir, HERE, import_process.perform).run_next(db)
    assert finished(importer).status == "finished"
    assert FROM_HUB.recent(db, 9) == []
