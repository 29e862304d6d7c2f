"""Training on rented hardware: sent through the Hub, run there as a process of this machine, back as a candidate."""

from __future__ import annotations

import json
import math
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from annotation import hub_client as hubs
from annotation.database import Database, open_database
from annotation.hub_client import Hub
from annotation.jobs.attempt import Stopped
from annotation.records import UserError, now
from annotation.store import setting_store
from rlhf.__main__ import main
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.hub import job_bundle, pull_model, rental_client, rental_worker
from rlhf.hub.token_launcher import module
from rlhf.jobs import job_store, rental_reports, rental_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.job_spec import Method
from rlhf.jobs.rental_store import Terms
from rlhf.jobs.run import Run
from rlhf.loop import controller
from rlhf.models import registry
from rlhf.submission import job_submission
from rlhf.tabs.iterations import loop_status
from tests.fakes.hub_jobs import JobHub
from tests.machine_fixtures import (
    PATIENCE_SECONDS,
    QUICK_DPO,
    ROOT,
    Machine,
    make_machine,
    rlhf_command,
    wait_until,
    write_spec,
)
from tests.rlhf.hub.test_push_and_pull import BURSTING, safetensors
from tests.tiny_model import HIDDEN

pytestmark = pytest.mark.slow

TOKEN = "hf_write_ann"
SECRET = f"hf_{'a1' * 17}"
TERMS = Terms("cpu-basic", 0.02, 0.5)
POLL = 0.2


@pytest.fixture
def hub() -> Iterator[JobHub]:
    """A Hub that rents this machine out."""
    with JobHub() as server:
        server.lent["PREFLOOP_REPORT_SECONDS"] = "0.5"
        yield server


@pytest.fixture
def judged(machine: Machine) -> Machine:
    """A data directory with something to learn from."""
    return ready_to_learn(machine)


def ready_to_learn(machine: Machine) -> Machine:
    """Put something to learn from into it."""
    machine.add_prompts(4, 2)
    machine.judge("train", 10)
    return machine


def rent(machine: Machine, spec: DPOSpec = QUICK_DPO, terms: Terms = TERMS) -> int:
    """Queue a job for rented hardware."""
    return job_submission.submit(machine.db, machine.data_dir, spec, "a test", terms)


def api(hub: JobHub, token: str = TOKEN) -> Hub:
    """A client of this Hub."""
    return hubs.connect(token, hub.url)


def follow(hub: JobHub, machine: Machine, job_id: int, ended: threading.Event | None = None) -> job_store.Job:
    """Follow a job to its end, as the token process does."""
    rental_client.follow(api(hub), machine.db, machine.data_dir, job_id, ended or threading.Event(), POLL)
    return job_store.get(machine.db, job_id)


def in_background(hub: JobHub, machine: Machine, job_id: int, ended: threading.Event) -> threading.Thread:
    """Follow a job in a thread."""
    thread = threading.Thread(target=follow, args=(hub, machine, job_id, ended), daemon=True)
    thread.start()
    return thread


def only_job(hub: JobHub) -> Any:
    """The one job that was started on the Hub."""
    (job,) = hub.jobs.values()
    return job


@dataclass(frozen=True)
class Trained:
    """A finished training on rented hardware, and the same one here."""

    machine: Machine
    hub: JobHub
    job: job_store.Job
    here: job_store.Job


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Trained]:
    """One through all the trouble that a Hub can make meanwhile, and with the real pip."""
    machine = ready_to_learn(make_machine(tmp_path_factory.mktemp("trained") / "data", tiny_model))
    spec = replace(QUICK_DPO, samples=1)
    here = machine.perform(machine.submit(spec))
    with JobHub() as hub:
        hub.lent["PREFLOOP_REPORT_SECONDS"] = "0.5"
        hub.pip = True
        hub.fail("GET", "/api/whoami-v2", 503)
        hub.fail("GET", "/api/jobs/hardware", 429)
        job_id = rent(machine, spec)
        thread = in_background(hub, machine, job_id, threading.Event())
        wait_until("the start", lambda: rental_store.get(machine.db, job_id).hub_job)
        hub.fail("GET", "/api/datasets/ann/prefloop-job-.*/tree", 401, times=2)
        hub.fail("GET", "/api/jobs/ann/.+", 403, times=2)
        wait_until("the end there", lambda: only_job(hub).stage == "COMPLETED", every=0.01)
        thread.join(PATIENCE_SECONDS)
        yield Trained(machine, hub, job_store.get(machine.db, job_id), here)
    machine.db.close()


def test_a_training_comes_back_as_the_candidate_that_it_would_be_here_whatever_the_hub_says_meanwhile(
    trained: Trained,
) -> None:
    machine, job, here = trained.machine, trained.job, trained.here
    assert job.status == "finished", (job.message, only_job(trained.hub).log.read_text())
    made, twin = registry.of_job(machine.db, job.id), registry.of_job(machine.db, here.id)
    assert made is not None
    assert twin is not None
    assert made.status == "candidate"
    assert (made.base, made.form, made.precision, made.parent_id) == (
        twin.base,
        twin.form,
        twin.precision,
        twin.parent_id,
    )
    assert made.sha256 == directory_sha256(machine.data_dir / str(made.path))
    assert json.loads((machine.data_dir / str(made.path) / "prefloop.json").read_text())["steps"] == here.steps
    # The same spec, data and code: the same weights.
    ours, theirs = machine.adapter(twin.revision), machine.adapter(made.revision)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-5 for name in ours)
    # What it reported there is in the record here, as if it had run here.
    assert [one["loss"] for one in job_store.metrics(machine.db, job.id)] == pytest.approx(
        [one["loss"] for one in job_store.metrics(machine.db, here.id)], rel=1e-4
    )
    assert job_store.samples(machine.db, job.id).keys() == job_store.samples(machine.db, here.id).keys()
    assert job.result is not None
    assert job.result["rented"]["flavor"] == "cpu-basic"
    assert (job.step, job.steps) == (here.step, here.steps)
    # One was started, on the terms.
    asked = only_job(trained.hub).asked
    assert (asked["flavor"], asked["timeoutSeconds"]) == ("cpu-basic", 1800)
    rental = rental_store.get(machine.db, job.id)
    assert asked["labels"]["prefloop"] == rental.mark
    assert rental.cost <= rental.price_per_hour * rental.hours


def test_nothing_is_left_on_the_hub_once_what_was_made_is_here_and_safe_where_copies_are_made(trained: Trained) -> None:
    machine, hub, job = trained.machine, trained.hub, trained.job
    assert rental_store.to_clear(machine.db) == [job.id]
    with machine.db.transaction() as connection:
        values = {"place": "x", "run": "r", "number": 1, "last_judgement_id": 0, "judgements": 0, "state": "safe"}
        connection.table("safe_copy").insert({**values, "created": "2000-01-01"})
        assert rental_store.to_clear(machine.db) == []
        connection.table("safe_copy").insert({**values, "created": now()})
    assert rental_store.to_clear(machine.db) == [job.id]
    assert hub.repos
    rental_client.clear_up(api(hub), machine.db)
    assert not hub.repos
    assert rental_store.to_clear(machine.db) == []


def test_what_can_be_shown_of_a_report_is_shown_and_what_can_not_breaks_no_page() -> None:
    for bad in ([1], {"step": 0, "steps": 0, "message": "", "events": [{"kind": "metric", "data": [1]}]}, {"step": -1}):
        assert "is left out" in str(rental_reports.readable(bad, 3).events[0].data)
    changed = {"kind": "change", "step": 0, "data": "Half the batch.", "created": now()}
    report = {"step": 0, "steps": 0, "message": "", "events": [changed]}
    assert [asdict(event) for event in rental_reports.readable(report, 3).events] == [changed]
    for wrong in ({"data": {"batch_size": 2}}, {"created": "zzz"}, {"created": "2026-99-99T00:00:00.000000+00:00"}):
        unreadable = {**report, "events": [{**changed, **wrong}]}
        assert "is left out" in str(rental_reports.readable(unreadable, 3).events[0].data)
    for bad in (None, {"status": 1, "message": ""}, {"status": "finished", "message": ""}):
        with pytest.raises(rental_client.RentalEnded, match="can't be read"):
            rental_client.checked_ending(bad)
    files = {"../x.safetensors": "0", "training_args.bin": "0"}
    told = {"status": "finished", "message": "", "result": {}, "spec": {"batch_size": 2}, "files": files}
    model = {"precision": "nf4", "sha256": "0"}
    with pytest.raises(rental_client.RentalEnded, match="no model has here"):
        rental_client.checked_ending({**told, "model": model})
    told = {**told, "files": {"adapter_model.safetensors": "0"}, "model": model}
    for wrong in ({"spec": {"batch_size": "2"}}, {"files": {"adapter_model.safetensors": 0}}, {"result": [1]}):
        with pytest.raises(rental_client.RentalEnded, match="can't be read"):
            rental_client.checked_ending({**told, **wrong})
    for wrong in ({"precision": "int1", "sha256": "0"}, {"precision": "nf4"}):
        with pytest.raises(rental_client.RentalEnded, match="can't be read"):
            rental_client.checked_ending({**told, "model": wrong})
    ending = rental_client.checked_ending({**told, "more": 1, "result": None})
    assert isinstance(ending, rental_client.FinishedEnding)
    assert (ending.spec.batch_size, ending.model.precision, ending.result) == (2, "nf4", None)


def test_only_what_the_job_needs_goes_up_in_private_and_no_path_account_or_token(
    judged: Machine, hub: JobHub, tmp_path: Path
) -> None:
    job_id = rent(judged)
    ended = threading.Event()
    thread = in_background(hub, judged, job_id, ended)
    wait_until("the start", lambda: hub.jobs)
    ended.set()
    thread.join()
    repo = hub.repos["dataset", rental_store.get(judged.db, job_id).repo]
    revision = only_job(hub).asked["environment"]["PREFLOOP_REVISION"]
    files = hub.files("dataset", repo.name, revision)
    spec = job_store.get(judged.db, job_id).spec
    assert isinstance(spec, DPOSpec)
    assert repo.private
    data = {name for name in files if not name.startswith("code/")}
    assert data == {
        *("README.md", "job.json", f"data/snapshots/{spec.snapshot}.jsonl"),
        *(f"data/base/{path.name}" for path in judged.model.iterdir()),
    }
    assert "code/rlhf/hub/rental_worker.py" in files
    assert not any("tests" in name for name in files)
    everything = b"\n".join(files.values()) + json.dumps(only_job(hub).asked["command"]).encode()
    for private in (str(judged.data_dir), str(judged.model), str(tmp_path), TOKEN):
        assert private.encode() not in everything
    assert not any(b"argon2" in content or b"SQLite" in content for name, content in files.items() if name in data)
    assert only_job(hub).asked["secrets"] == {"HF_TOKEN": TOKEN}


def test_who_follows_it_may_end_and_answers_may_be_lost_or_damaged_yet_nothing_is_rented_twice(
    judged: Machine, hub: JobHub
) -> None:
    hub.fail("POST", "/api/jobs/ann$", "cut-after")
    hub.fail("GET", "/api/jobs/ann/.+", 503, times=2)
    hub.fail("GET", f"/resolve/.+/{job_bundle.RESULT}$", 503, times=1000)  # who follows it never hears of its end
    job_id = rent(judged)
    command = [*module("rlhf.hub.token_process"), "--data", str(judged.data_dir)]
    environment = {**os.environ, **hub.environment(TOKEN), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment) as holder:
        wait_until("a report", lambda: rental_store.get(judged.db, job_id).batches)
        holder.terminate()
    hub.troubles.clear()
    assert any("Renting the hardware is tried again" in line for line in job_store.log_tail(judged.db, job_id, 40))
    # It goes on there, whatever becomes of who follows it.
    assert job_store.get(judged.db, job_id).status == "running"
    job_store.mark_lost(judged.db)
    assert job_store.get(judged.db, job_id).status == "running"
    assert rental_store.to_follow(judged.db) == [job_id]
    wait_until("the end there", lambda: only_job(hub).stage == "COMPLETED")
    name = rental_store.get(judged.db, job_id).repo
    path = next(path for path in hub.files("dataset", name) if path.endswith("made/adapter_model.safetensors"))
    whole = hub.file("dataset", name, path)
    hub.add_repo("dataset", name, {path: whole[:-1] + b"?"})
    job = follow(hub, judged, job_id)
    assert job.status == "failed"
    assert "arrived damaged. Nothing was kept" in job.message
    assert registry.of_job(judged.db, job_id) is None
    assert not list((judged.data_dir / "adapters").iterdir())
    # What was made there is paid for: it can be fetched again.
    hub.add_repo("dataset", name, {path: whole})
    resumed = rlhf_command("--data", str(judged.data_dir), "resume", str(job_id), **hub.environment(TOKEN))
    assert resumed.returncode == 0, resumed.stderr
    assert f"job {job_id} finished." in resumed.stdout
    assert len(hub.jobs) == 1
    events = judged.db.rows("SELECT step FROM event WHERE job_id = ? AND kind = 'metric'", (job_id,))
    assert len(events) == len({event["step"] for event in events}) > 0


def test_cancelling_gives_the_machine_back(judged: Machine, hub: JobHub) -> None:
    job_id = rent(judged, replace(QUICK_DPO, epochs=100_000))
    thread = in_background(hub, judged, job_id, threading.Event())
    wait_until("the start", lambda: rental_store.get(judged.db, job_id).hub_job)
    job_store.cancel(judged.db, job_id)
    thread.join(PATIENCE_SECONDS)
    job = job_store.get(judged.db, job_id)
    assert (job.status, job.message) == ("cancelled", "The rented machine was given back.")
    assert only_job(hub).stage == "CANCELED"
    assert not hub.repos
    assert registry.of_job(judged.db, job_id) is None


@pytest.mark.parametrize(
    ("token", "terms", "says"),
    [
        ("hf_read_ann", TERMS, "may only read"),
        (TOKEN, Terms("cpu-basic", 0.005, 0.5), "costs $0.01 an hour on the Hub, and $0.005 was agreed to"),
        (TOKEN, Terms("h900", 1.0, 0.5), "The Hub rents no 'h900'. It has, with prices per hour: cpu-basic ($0.01)"),
        (TOKEN, Terms("cpu-basic", 0.02, 0.5, "bob"), "no right to write to bob/x"),
    ],
)
def test_what_can_not_be_rented_is_refused_in_a_sentence(
    judged: Machine, hub: JobHub, token: str, terms: Terms, says: str
) -> None:
    job_id = rent(judged, terms=terms)
    rental_client.follow(api(hub, token), judged.db, judged.data_dir, job_id, threading.Event(), POLL)
    job = job_store.get(judged.db, job_id)
    assert job.status == "failed"
    assert says in job.message
    assert not hub.jobs


def test_what_was_sent_is_deleted_where_the_hub_will_not_rent_and_sent_anew_on_resume(
    judged: Machine, hub: JobHub
) -> None:
    hub.fail("POST", "/api/jobs/ann$", 402)
    job = follow(hub, judged, rent(judged))
    assert job.status == "failed"
    assert "Renting the hardware failed." in job.message
    assert not hub.repos
    hub.fail("POST", "/api/jobs/ann$", 403)
    hub.fail("DELETE", "/api/repos/delete", 503)
    job_store.resume(judged.db, job.id)
    assert follow(hub, judged, job.id).status == "failed"
    assert hub.repos
    rental_client.clear_up(api(hub), judged.db)
    assert not hub.repos
    assert rental_store.to_clear(judged.db) == []
    job_store.resume(judged.db, job.id)
    assert follow(hub, judged, job.id).status == "finished"


def test_an_end_without_a_result_says_its_last_words_and_what_was_spent(judged: Machine, hub: JobHub) -> None:
    hub.fail("HEAD", r"/prefloop-job-\w+/resolve/\w+/job.json$", 404, times=99)
    hub.fail("DELETE", "/api/repos/delete", 503)
    job = follow(hub, judged, rent(judged))
    assert job.status == "failed"
    assert job.message.startswith("The rented job ended without a result: error (Job failed with exit code:")
    assert "Its last words: " in job.message
    assert "404" in job.message
    assert only_job(hub).id in job.message
    # Annotators' names don't stay there for nothing, and Resume does not wait for what is gone.
    assert hub.repos
    rental_client.clear_up(api(hub), judged.db)
    assert not hub.repos
    assert rental_store.to_clear(judged.db) == []
    job_store.resume(judged.db, job.id)
    assert follow(hub, judged, job.id).message == "Nothing of it can be resumed: start a new run."


def test_time_that_is_nearly_over_ends_it_before_the_hub_does_and_it_says_so(
    judged: Machine, hub: JobHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_store.get(judged.db, rent(judged, replace(QUICK_DPO, epochs=100_000)))
    hubs.ensure_repo(api(hub), "ann/job", "dataset", private=True)
    for name, content in job_bundle.pack(judged.db, judged.data_dir, job).items():
        for target in (tmp_path / "first" / name, tmp_path / "there" / name):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    made, end = tmp_path / "made", time.time() + 3600

    @cache
    def there() -> Database:
        return open_database(made)

    def clock() -> float:
        """By which the time is over as soon as something has been learnt."""
        return end if job_store.get(there(), 1).step else end - 3600

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # what it changes is put back
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert (
            rental_worker.run(api(hub), "ann/job", tmp_path / "first", made, end, rental_worker.SPARE_SECONDS, clock)
            == 1
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert job_store.get(there(), 1).step
    there().close()
    ending = json.loads(hub.file("dataset", "ann/job", "result.json"))
    assert (ending["status"], ending["message"]) == ("lost", rental_worker.OVER)
    # The same where it is over before the worker could begin.
    command = [
        sys.executable,
        "-m",
        "rlhf.hub.rental_worker",
        str(tmp_path / "there"),
        "--data",
        str(tmp_path / "again"),
    ]
    command += ["--repo", "ann/job", "--began", str(time.time() - 3600), "--hours", "1"]
    done = subprocess.run(command, cwd=tmp_path / "there" / "code", env={**os.environ, **hub.environment(TOKEN)})
    assert done.returncode == 1
    ending = json.loads(hub.file("dataset", "ann/job", "result.json"))
    assert (ending["status"], ending["message"]) == ("lost", rental_worker.OVER)
    # What the machine can't do, and a file that did not arrive as it was sent, end it at once.
    manifest = tmp_path / "there" / "job.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "sha256": {"code/app.py": "0"}}))
    assert subprocess.run(command, cwd=ROOT, env={**os.environ, **hub.environment(TOKEN)}).returncode == 1
    ending = json.loads(hub.file("dataset", "ann/job", "result.json"))
    assert ending["message"] == "code/app.py did not arrive as it was sent. Start the job again."


def test_reports_go_on_though_the_clock_of_the_machine_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[float] = []

    class Counting(rental_worker.Reporter):
        def send(self) -> None:
            sent.append(time.monotonic())

    watch = rental_worker.Watch(Counting(cast(Any, None), "", cast(Any, None), 1), math.inf, pace=0.5)
    watch.start()
    wait_until("the first report", lambda: sent)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    wait_until("another one", lambda: len(sent) > 1)
    watch.ended.set()
    watch.join()


def test_a_machine_is_given_back_however_the_job_was_left(
    judged: Machine, hub: JobHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = rent(judged, replace(QUICK_DPO, epochs=100_000))
    ended = threading.Event()
    thread = in_background(hub, judged, job_id, ended)
    wait_until("the start", lambda: rental_store.get(judged.db, job_id).hub_job)
    ended.set()
    thread.join()
    with judged.db.transaction() as connection:  # failed here by an error, and to be resumed
        connection.execute("UPDATE job SET status = 'failed' WHERE id = ?", (job_id,))
    job_store.resume(judged.db, job_id)
    # A token that may not cancel: the job stays one that is to end, and says where to end it by hand.
    hub.fail("POST", "/cancel$", 403, times=2)
    client = api(hub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(hubs, "connect", lambda token: client)
    monkeypatch.setattr(rental_client, "Follower", partial(rental_client.Follower, poll_seconds=POLL))
    assert main(["--data", str(judged.data_dir), "cancel", str(job_id)]) == 1
    assert f"job {job_id} cancelled. The rented machine was given back." in capsys.readouterr().out
    assert only_job(hub).stage == "CANCELED"
    assert any("end it by hand: http" in line for line in job_store.log_tail(judged.db, job_id, 40))
    assert not hub.repos


def test_no_token_is_in_the_log_of_an_error_of_our_own(
    db: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: Any) -> Any:
        raise RuntimeError(f"no way with {SECRET}")

    job_id = job_store.enqueue(db, QUICK_DPO, "ann")
    assert job_store.claim(db, job_id, "worker") is not None
    run = SimpleNamespace(db=db, job_id=job_id, worker="worker")
    rented: Any = SimpleNamespace(run=run, result=breaks, try_to_give_back=lambda: None, changed=lambda: None)
    rental_client.see_through(rented)
    follower = rental_client.Follower(hubs.connect(SECRET, "http://127.0.0.1:1"), Path(), db)
    monkeypatch.setattr(follower, "look", breaks)
    looks = iter([False, True])
    monkeypatch.setattr(follower.ended, "wait", lambda seconds: next(looks))
    follower.run()
    assert caplog.text.count("RuntimeError: no way with [token]") == 2
    assert SECRET not in caplog.text + capsys.readouterr().err
    assert job_store.get(db, job_id).message.startswith("An error of Prefloop's own ended it (RuntimeError: no way")


def test_the_loop_goes_on_beside_a_rented_training_but_trains_nothing_itself(judged: Machine) -> None:
    auto = {"on": True, "every": 8, "algorithm": "dpo"}
    setting_store.set_setting(judged.db, "auto_train", auto)
    job_id = rent(judged)
    judged.judge("train", 10, by="bob")
    state = controller.state_of(judged.db)
    assert [job.id for job in state.rented] == [job_id]
    assert state.active == ()
    assert controller.next_step(state) is None
    assert controller.next_step(replace(state, rented=())) is not None
    assert "trains on rented hardware (cpu-basic)" in loop_status.loop_status(state).now
    # Without a token nobody follows it: when its time is over for sure, it is lost.
    judged.db.write("UPDATE job SET status = 'running', started = '2026-01-01', heartbeat = ''")
    rental_store.give_up(judged.db)
    assert job_store.get(judged.db, job_id).status == "lost"


LORA: Mapping[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2}
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
SCORE = "base_model.model.score.weight"
MATRICES = {f"{LAYER}.lora_A.weight": (2, HIDDEN), f"{LAYER}.lora_B.weight": (HIDDEN, 2)}
BELOW = "base_model.model.model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("method", "config", "tensors", "said"),
    [
        ("lora", {**LORA, "layer_replication": [[0, 2], [0, 2]]}, {}, "has settings that can't be used here"),
        ("lora", {**LORA, "task_type": "SEQ_CLS"}, {**MATRICES, SCORE: (1, HIDDEN)}, "made another kind of model"),
        ("prompt", LORA, MATRICES, "made another kind of model"),
        ("lora", {"peft_type": "XLORA"}, {}, "is an adapter of type XLORA"),
        ("lora", {**LORA, "rank_pattern": {BURSTING: 4}}, MATRICES, r"by patterns.*\(rank_pattern\)"),
        ("lora", LORA, {**MATRICES, BELOW: (320, 32)}, "brings a value of the weights under it"),
        ("lora", LORA, {**MATRICES, f"{LAYER}.lora_A.weight": (2, 7)}, "does not fit the weights that it names"),
        ("lora", LORA, {f"{LAYER}.lora_A.weight": (2, HIDDEN)}, "is not whole"),
        ("full", {"model_type": "my-own", "auto_map": {"AutoModel": "x.py"}}, {}, "it needs code that"),
        ("full", {"model_type": "gpt2"}, {"a": (1,)}, "These weights are not those of a model that began as"),
        ("full", {"model_type": "llama", "num_hidden_layers": 10**6}, {"a": (1,)}, "says num_hidden_layers 1000000"),
        ("full", LORA, {}, "holds an adapter"),
    ],
)
def test_what_a_job_made_is_not_taken_in_where_pull_would_refuse_it(
    judged: Machine,
    hub: JobHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: Method,
    config: dict[str, Any],
    tensors: Mapping[str, tuple[int, ...]],
    said: str,
) -> None:
    name, weights = (
        ("config.json", "model.safetensors")
        if "model_type" in config
        else ("adapter_config.json", "adapter_model.safetensors")
    )

    def fetched(_rented: Any, directory: Path, _expected: Any) -> None:
        (directory / name).write_text(json.dumps(config), "utf-8")
        (directory / weights).write_bytes(safetensors(tensors or {"a": (1,)}))

    monkeypatch.setattr(rental_client.RentedRun, "fetch", fetched)
    there = tmp_path / "made"
    there.mkdir()
    fetched(None, there, None)
    job = job_store.get(judged.db, rent(judged, replace(QUICK_DPO, method=method)))
    run = Run(judged.db, judged.data_dir, job, "worker")
    rented = rental_client.RentedRun(api(hub), run, job, POLL, print)
    told = {"sha256": directory_sha256(there), "precision": "nf4"}
    ending = {"status": "finished", "message": "", "result": None, "model": told, "spec": {"batch_size": 1}}
    with pytest.raises(UserError, match=said):
        rented.take_in(rental_client.checked_ending({**ending, "files": {name: ""}}))
    assert registry.of_job(judged.db, job.id) is None
    assert not list((judged.data_dir / "adapters").iterdir())


def test_layers_that_a_pattern_chose_are_named_in_what_a_job_made_and_its_sum_is_that_of_what_is_kept(
    judged: Machine, hub: JobHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(_rented: Any, directory: Path, _expected: Any) -> None:
        (directory / "adapter_config.json").write_text(json.dumps({**LORA, "target_modules": BURSTING}), "utf-8")
        (directory / "adapter_model.safetensors").write_bytes(safetensors(MATRICES))
        told["model"]["sha256"] = directory_sha256(directory)

    told: dict[str, Any] = {"model": {"sha256": "", "precision": "nf4"}, "spec": {"batch_size": 1}, "files": {}}
    job_id = rent(judged, QUICK_DPO)
    assert job_store.claim(judged.db, job_id, "worker")
    job = job_store.get(judged.db, job_id)
    rented = rental_client.RentedRun(api(hub), Run(judged.db, judged.data_dir, job, "worker"), job, POLL, print)
    monkeypatch.setattr(rental_client.RentedRun, "fetch", fetched)
    (there := judged.data_dir.parent / "made").mkdir()
    fetched(None, there, None)
    ending = rental_client.checked_ending({"status": "finished", "message": "", "result": None, **told})
    assert isinstance(ending, rental_client.FinishedEnding)
    rented.take_in(ending)
    made = registry.of_job(judged.db, job_id)
    assert made is not None
    path = judged.data_dir / str(made.path)
    assert json.loads((path / "adapter_config.json").read_text("utf-8"))["target_modules"] == [
        LAYER.removeprefix("base_model.model.")
    ]
    assert made.sha256 == directory_sha256(path)


def test_who_was_asleep_takes_nothing_in_once_another_follows_the_job(
    judged: Machine, hub: JobHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is left of it: neither a name nor a row, nor settings."""
    job_id = rent(judged, replace(QUICK_DPO, batch_size=2, accumulation=1))
    spec = job_store.get(judged.db, job_id).spec
    assert job_store.claim(judged.db, job_id, "worker")
    run = Run(judged.db, judged.data_dir, job_store.get(judged.db, job_id), "worker")
    rented = rental_client.RentedRun(api(hub), run, job_store.get(judged.db, job_id), POLL, print)

    def fetched(_rented: Any, directory: Path, _expected: Any) -> None:
        (directory / "adapter_model.safetensors").write_bytes(safetensors({"a": (1,)}))
        judged.db.write("UPDATE job SET worker = 'another'")

    told: dict[str, Any] = {"model": {"sha256": "", "precision": "nf4"}, "spec": {"batch_size": 1}, "files": {}}
    monkeypatch.setattr(rental_client.RentedRun, "fetch", fetched)
    monkeypatch.setattr(rental_client, "directory_sha256", lambda _: "")
    monkeypatch.setattr(rental_client.RentedRun, "check_made", lambda *_: None)
    ending = rental_client.checked_ending({"status": "finished", "message": "", "result": None, **told})
    assert isinstance(ending, rental_client.FinishedEnding)
    with pytest.raises(Stopped):
        rented.take_in(ending)
    assert registry.of_job(judged.db, job_id) is None
    assert job_store.get(judged.db, job_id).spec == spec
    assert not list((judged.data_dir / "adapters").iterdir())


def test_whole_weights_of_a_base_that_names_code_nobody_needs_are_taken_in(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "phi3", "auto_map": {"AutoModel": "x.Y"}}))
    (tmp_path / "model.safetensors").write_bytes(safetensors({"a": (1,)}))
    pull_model.check_whole(tmp_path, None, "phi3")


def test_a_batch_that_was_halved_there_is_in_the_record_here() -> None:
    spec = replace(QUICK_DPO, batch_size=4, accumulation=1)
    assert rental_client.as_trained(spec, 2) == replace(spec, batch_size=2, accumulation=2)
    assert rental_client.as_trained(spec, 4) == rental_client.as_trained(spec, 3) == spec


def test_the_command_line_says_the_price_and_rents_nothing_unasked(
    judged: Machine, hub: JobHub, tmp_path: Path
) -> None:
    spec = write_spec(tmp_path / "spec.json", {"kind": "dpo"})
    ask = ("--data", str(judged.data_dir), "run", str(spec), "--rent", "t4-small", "--hours", "2")
    asked = rlhf_command(*ask, **hub.environment(TOKEN))
    assert asked.returncode == 2
    assert asked.stderr.startswith("This costs up to $0.80: t4-small at $0.40 an hour, ended after 2 hours")
    without = rlhf_command(*ask, "--yes", **hub.environment(None))
    assert without.returncode == 2
    assert "No token for the Hub is set" in without.stderr
    assert not judged.db.rows("SELECT id FROM job")
    assert not hub.jobs


def test_who_says_no_to_the_price_at_a_terminal_rents_nothing(judged: Machine, hub: JobHub, tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "spec.json", {"kind": "dpo"})
    keyboard, typed = pty.openpty()
    try:
        os.write(keyboard, b"n\n")
        asked = subprocess.run(
            [sys.executable, "-m", "rlhf", "--data", judged.data_dir, "run", spec, "--rent", "t4-small"],
            cwd=ROOT,
            env={**os.environ, **hub.environment(TOKEN)},
            stdin=typed,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(typed)
    assert asked.returncode == 1, asked.stderr
    assert "t4-small at $0.40 an hour" in asked.stdout
    assert asked.stdout.endswith("Nothing was rented.\n")
    assert not judged.db.rows("SELECT id FROM job")
    assert not hub.jobs


def test_terms_that_can_not_be_meant_are_refused() -> None:
    for wrong in (("", 1, 1), ("a10g small", 1, 1), ("x", -1, 1), ("x", float("nan"), 1), ("x", 1, 0), ("x", 1, 1e9)):
        with pytest.raises(UserError):
            rental_store.checked_terms(*wrong)
    with pytest.raises(UserError):
        rental_store.checked_terms("x", 1, 1, "no/name")
    said = rental_store.checked_terms("a10g-small", 1.0, 1.5, "acme").sentence
    assert said == (
        "This costs up to $1.50: a10g-small at $1.00 an hour, ended after 1.5 hours at the latest, paid by acme."
    )


def test_of_a_report_all_is_read_that_is_known_here_and_nothing_where_a_part_can_not_be_shown() -> None:
    said = {"id": 3, "kind": "log", "step": 0, "data": "begins", "created": now()}
    measured = {**said, "kind": "metric", "step": 1, "data": {"loss": math.nan, "lines": 2}}
    answer = {"prompt": "Why?", "answer": "So.", "finish_reason": "stop", "tokens": 2}
    answered = {**said, "kind": "sample", "data": {**answer, "of": "another version"}}
    sent = {"step": 1, "steps": 9, "message": "trains", "events": [said, measured, answered], "of": "another version"}
    report = rental_reports.readable(sent, 3)
    assert (report.step, report.steps, report.message) == (1, 9, "trains")
    assert [event.kind for event in report.events] == ["log", "metric", "sample"]
    assert asdict(report.events[2])["data"] == answer
    for event in ({**said, "kind": "other"}, {**said, "data": 1}, {**said, "step": -1}, {**said, "created": None},
                  {**measured, "data": {"loss": "1"}}, {**answered, "data": {"prompt": "Why?"}}):  # fmt: skip
        left_out = rental_reports.readable({**sent, "events": [said, event]}, 3)
        assert [one.data for one in left_out.events] == ["Report 3 can't be read and is left out."]
