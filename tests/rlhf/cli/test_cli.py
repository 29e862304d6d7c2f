"""`python -m rlhf` as people call it: complete help, one sentence and exit 2 for bad input; base models are checked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from safetensors.torch import load_file, save_file

import app
from annotation.database import Database, open_database
from annotation.jobs import job_table, liveness
from annotation.records import UserError
from annotation.translation import chosen, speaking
from rlhf.cli import job_command
from rlhf.data import held_out_sets
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.job_spec import from_json, to_json
from rlhf.kinds import KINDS
from rlhf.models import decision_store, registry
from rlhf.models.base import base_model
from rlhf.models.base.base_files import BaseModel
from rlhf.models.template_process import TemplateRenderer
from tests.e2e.conftest import running_app
from tests.machine_fixtures import (
    PATIENCE_SECONDS,
    QUICK_DPO,
    ROOT,
    Machine,
    kept_alive,
    rlhf_command,
    wait_until,
    write_spec,
)
from tests.run_fixtures import QUICK_SFT, demonstrations, run_beforehand, starve

pytestmark = pytest.mark.slow

GENERATE_ONCE = replace(AnsweringSpec(), stock=6, until_full=True)
COMMANDS = ("spec", "run", "prepare", "jobs", "show", "cancel", "resume", "policies", "promote", "reject")


def sentence(output: str) -> str:
    """What went to standard error; it must be one line, and no traceback."""
    assert "Traceback" not in output
    (line,) = output.strip().splitlines()
    return line


# -------------------------------------------------------------------------------------------------------- the command
def test_help_names_every_command_and_the_exit_codes() -> None:
    done = rlhf_command("--help")
    assert done.returncode == 0
    assert all(f"\n    {command} " in done.stdout for command in COMMANDS)
    assert "Exit codes" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_printed_spec_is_the_default_and_can_be_run(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rlhf.__main__ import main

    assert main(["spec", kind]) == 0
    assert from_json(capsys.readouterr().out) == KINDS[kind]()
    assert main(["spec", kind, "--explain"]) == 0
    explained = capsys.readouterr().out
    assert all(f"{name} = " in explained for name in json.loads(to_json(KINDS[kind]())) if name != "kind")


def test_a_bad_spec_ends_with_2_and_one_sentence(machine: Machine, tmp_path: Path) -> None:
    done = machine.command("run", str(write_spec(tmp_path / "spec.json", {"kind": "dpo", "betta": 0.1})))
    assert (done.returncode, done.stdout) == (2, "")
    assert "no field 'betta'" in sentence(done.stderr)
    assert job_store.recent(machine.db, tuple(KINDS)) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nowhere.json"], "nowhere.json can't be read"),
        (["show", "99"], "There is no job 99"),
        (["cancel", "99"], "There is no job 99"),
        (["resume", "99"], "There is no job 99"),
        (["promote", "dpo-9"], "There is no policy 'dpo-9'"),
        (["promote", "base"], "'base' serves already"),
        (["reject", "base"], "not a candidate"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_sentence(
    machine: Machine, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf.__main__ import main

    assert main(["--data", str(machine.data_dir), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in sentence(printed.err)


def test_whatever_the_server_speaks_a_command_speaks_english(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it says itself, and what it is told by what it asks."""
    from rlhf.__main__ import main

    for arguments, said in (
        (("show", "99"), "There is no job 99"),
        (("promote", "base"), "'base' serves already"),
        (("add-judge", "far", "endpoint", "{"), "The settings are not JSON"),
        (("run", str(tmp_path / "nowhere.json")), "can't be read"),
        (("gate",), "No candidate was checked against what serves now. There is none: train one."),
    ):
        with speaking(chosen("de")):
            assert main(["--data", str(machine.data_dir), *arguments]) == 2
        assert said in sentence(capsys.readouterr().err)


def test_too_few_judgements_are_refused_before_anything_heavy(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf.__main__ import main

    assert main(["--data", str(machine.data_dir), "run", str(write_spec(tmp_path / "s", {"kind": "dpo"}))]) == 2
    assert "Pairs to train on: 0." in sentence(capsys.readouterr().err)


@pytest.mark.parametrize("held_out", [0, 1])
def test_a_training_says_before_it_starts_that_nothing_is_held_out(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, held_out: int
) -> None:
    from rlhf import __main__ as command

    def follow(db: Database, data_dir: Path, job: job_store.Job) -> job_store.Job:
        said.append(capsys.readouterr().out)
        job_store.take_out(db, job.id)
        return job_store.get(db, job.id)

    said: list[str] = []
    monkeypatch.setattr(job_command, "follow", follow)
    machine.add_prompts(train=12, held_out=held_out)
    machine.judge("train", 12)
    for kind in ("dpo", "reward_model"):
        command.main(["--data", str(machine.data_dir), "run", str(write_spec(tmp_path / kind, {"kind": kind}))])
    assert [held_out_sets.NOTHING_TO_CHECK in said[0], held_out_sets.NO_PAIRS_TO_CHECK in said[1]] == [
        not held_out,
        True,
    ]


def test_a_training_says_before_it_starts_what_another_precision_costs(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf import __main__ as command

    def follow(db: Database, data_dir: Path, job: job_store.Job) -> job_store.Job:
        said.append(capsys.readouterr().out)
        job_store.take_out(db, job.id)
        return job_store.get(db, job.id)

    said: list[str] = []
    monkeypatch.setattr(job_command, "follow", follow)
    machine.add_prompts(train=12, held_out=6)
    machine.judge("train", 12)
    for number, method in enumerate(("auto", "lora")):
        spec = write_spec(tmp_path / method, {"kind": "dpo", "method": method, "precision": "bf16"})
        command.main(["--data", str(machine.data_dir), "run", str(spec)])
        assert ("answers in 4-bit (NF4): another policy before the first step" in said[number]) == (method == "lora")
    assert "has not been measured" in said[1]
    assert "`python -m rlhf spec precisions`" in said[1]


def test_a_directory_without_a_model_says_how_to_set_it_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rlhf.__main__ import main

    spec = write_spec(tmp_path / "spec.json", {"kind": "answering"})
    assert main(["--data", str(tmp_path / "new"), "run", str(spec)]) == 2
    assert "There is no database in" in sentence(capsys.readouterr().err)
    open_database(tmp_path / "new").close()
    assert main(["--data", str(tmp_path / "new"), "run", str(spec)]) == 2
    said = sentence(capsys.readouterr().err)
    assert f"No base model has been set up in {tmp_path / 'new'} yet" in said
    assert f"python -m rlhf --data {tmp_path / 'new'} prepare" in said


@pytest.mark.parametrize(
    "command",
    [
        *("jobs", "policies", "gate", "judges", "show 1", "cancel 1", "resume 1", "promote dpo-1", "reject dpo-1"),
        *("publish dpo-1 ann/x", "pull ann/x", "push-data ann/x", "add-judge x local {}", "run spec.json"),
    ],
)
def test_a_new_data_directory_stays_empty_and_has_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    from rlhf.__main__ import main

    assert main(["--data", str(tmp_path / "new"), *command.split()]) == 2
    assert "There is no database in" in sentence(capsys.readouterr().err)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "command",
    [
        "accounts list",
        "accounts deactivate ann",
        "accounts role ann admin",
        "export --to x",
        "copies take --place x",
    ],
)
def test_people_and_data_need_a_database_too(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    from annotation.__main__ import main

    assert main([*command.replace(" x", f" {tmp_path / 'x'}").split(), "--data", str(tmp_path / "new")]) == 2
    assert "There is no database in" in sentence(capsys.readouterr().err)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", [slice(0, 0), slice(2, 2)], ids=["before", "behind"])
def test_the_data_directory_is_named_before_or_behind_a_command(tmp_path: Path, place: slice) -> None:
    from annotation.__main__ import parser
    from rlhf.__main__ import build_parser

    for read, words in ((build_parser, ["show", "1"]), (parser, ["accounts", "list"])):
        words[place] = ["--data", str(tmp_path)]
        assert read().parse_args(words).data == tmp_path


@pytest.mark.parametrize("only", ["--look", "--dry-run"])
def test_a_look_at_an_import_begins_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], only: str) -> None:
    from annotation.__main__ import main

    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Why?"}\n')
    assert main(["import", str(tmp_path / "prompts.jsonl"), only, "--data", str(tmp_path / "new")]) == 0
    assert "1 row" in capsys.readouterr().out or only == "--look"
    assert not (tmp_path / "new").exists()


def test_jobs_and_policies_are_listed_promoted_and_shown(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    from rlhf.__main__ import main

    def run(*arguments: str) -> str:
        assert main(["--data", str(machine.data_dir), *arguments]) == 0
        return capsys.readouterr().out

    machine.add_prompts(train=12, held_out=1)
    machine.judge("train", 12)
    job_id = machine.submit(QUICK_DPO)
    assert f"{job_id}  dpo       queued" in run("jobs")
    job_store.claim(machine.db, job_id, "w")
    job_table.report(machine.db, job_id, "w", 1, 6, {"loss": 0.625})
    job_table.log(machine.db, job_id, "a line of the log")
    shown = run("show", str(job_id))
    assert "dpo, running, attempt 1, step 1 of 6" in shown
    assert '"loss": 0.625' in shown
    assert "a line of the log" in shown
    run("cancel", str(job_id))
    assert job_store.get(machine.db, job_id).status == "cancelling"

    files = machine.data_dir / "adapters" / "dpo-1"
    files.mkdir(parents=True)
    (files / "adapter_model.safetensors").write_bytes(b"weights")
    registry.add(
        machine.db,
        revision="dpo-1",
        algorithm="dpo",
        base="x",
        parent_id=1,
        job_id=job_id,
        path="adapters/dpo-1",
        sha256=directory_sha256(files),
    )
    liveness.end(machine.db, "w")
    assert "dpo-1        candidate  dpo" in run("policies")
    assert "It has not been checked yet." in run("policies")
    check = machine.submit(CheckSpec(candidate="dpo-1"))
    waits = f"It waits for its check (job {check}, first in the queue)."
    for listed in (run("policies"), run("gate", "dpo-1"), run("show", str(job_id))):
        assert waits in listed
        assert "check it again" not in listed.lower()
    job_store.claim(machine.db, check, "w")
    job_table.report(machine.db, check, "w", 40, 247, {})
    assert f"Job {check} is checking it: step 40 of 247." in run("gate", "dpo-1")
    for blank in ((), ("--why", " ")):
        assert main(["--data", str(machine.data_dir), "promote", "dpo-1", *blank]) == 2
        refused = capsys.readouterr()
        assert refused.out == ""
        assert "The rule says: not enough evidence." in sentence(refused.err)
        assert f"Job {check} is checking it: step 40 of 247." in refused.err
        assert refused.err.rstrip().endswith('Give one with --why "…".')
    assert registry.serving(machine.db).revision == "base"
    assert "dpo-1 serves now, against the rule." in run("promote", "dpo-1", "--why", "It reads better")
    assert decision_store.decisions(machine.db)[0].reason.startswith("It reads better. The rule said: ")
    listed = run("policies").splitlines()
    assert [line.split()[:2] for line in listed] == [["base", "retired"], ["dpo-1", "serving"]]
    assert "base serves now." in run("promote", "base")


def test_a_job_runs_to_its_end_from_the_command_line_alone(tiny_model: Path, tmp_path: Path) -> None:
    """A model directory is set up, and its stock filled, in a data directory that no page has ever opened."""
    data = str(tmp_path / "data")
    ready = rlhf_command("--data", data, "prepare", "--model", str(tiny_model))
    assert ready.returncode == 0, ready.stderr
    assert f"{tiny_model} is ready" in ready.stdout
    from annotation.database import open_database
    from annotation.imports import importing
    from annotation.store import prompt_store, stock_counts

    db = open_database(tmp_path / "data")
    prompt_store.add_prompts(db, importing.starter_prompts())
    (tmp_path / "spec.json").write_text(to_json(GENERATE_ONCE), "utf-8")
    done = rlhf_command("--data", data, "run", str(tmp_path / "spec.json"))
    assert done.returncode == 0, done.stderr
    assert "job 1 finished." in done.stdout
    assert stock_counts.stock_sizes(db, 1) == {"train": 5, "held-out": 1}
    db.close()


# ---------------------------------------------------------------------------------------------------------- its turn
@contextmanager
def running(machine: Machine, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A command on this data directory while it runs, and the file that it prints to."""
    printed = machine.data_dir / "printed.txt"
    command = [sys.executable, "-m", "rlhf", "--data", str(machine.data_dir), *arguments]
    with printed.open("w") as output:
        # A shell's background job ignores Ctrl-C, and so would what these tests start from one.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        signal.signal(signal.SIGINT, before)
    try:
        yield process, printed
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_SECONDS)


def quick_spec(machine: Machine, **changes: object) -> str:
    """The file of a spec that is done within seconds."""
    spec = replace(QUICK_SFT, samples=0, snapshot=demonstrations(machine), **changes)  # type: ignore[arg-type]
    return str(write_spec(machine.data_dir / "spec.json", json.loads(to_json(spec))))


def test_who_waits_for_a_job_of_another_program_leaves_it_alone_after_a_sleep_of_the_machine(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = job_store.enqueue(db, QUICK_SFT, "ann")
    assert job_store.claim(db, job_id, "the-app") is not None
    passing = [1.0, 1.0, 8 * 3600.0]

    def sleep(_seconds: float) -> None:
        if not passing:
            job_table.finish(db, job_id, "the-app", {})
            return
        moment = time.time() + passing.pop(0)
        monkeypatch.setattr(time, "time", lambda: moment)
        monkeypatch.setattr(job_table, "datetime", Mock(now=lambda zone: datetime.fromtimestamp(moment, zone)))

    monkeypatch.setattr(time, "sleep", sleep)
    assert job_command.follow(db, data_dir, job_store.get(db, job_id)).status == "finished"


def test_a_run_waits_for_its_turn_says_for_what_and_then_runs(machine: Machine) -> None:
    first, second = machine.submit(GENERATE_ONCE), job_store.enqueue(machine.db, QUICK_SFT, "ann")
    assert job_store.claim(machine.db, first, "answers") is not None, "the answering worker keeps nobody waiting"
    before = job_store.enqueue(machine.db, QUICK_SFT, "bob")
    assert job_store.claim(machine.db, second, "w") is not None
    with kept_alive(machine.db, second), running(machine, "run", quick_spec(machine)) as (process, printed):
        said = f"waits: job {second} (supervised training, LoRA, running) and 1 more is ahead."
        wait_until("that it says what is ahead", lambda: said in printed.read_text())
        (waiting,) = [job for job in job_store.queue(machine.db) if job.id != before]
        assert job_table.finish(machine.db, second, "w", {})
        wait_until("the next one", lambda: f"job {before} (supervised training, LoRA, queued)" in printed.read_text())
        assert job_store.get(machine.db, waiting.id).status == "queued"
        job_store.cancel(machine.db, before)
        assert process.wait(PATIENCE_SECONDS) == 0
    assert job_store.get(machine.db, waiting.id).status == "finished"
    assert f"job {waiting.id} finished." in printed.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_it_waits_a_run_is_taken_out_of_the_queue(machine: Machine, number: signal.Signals) -> None:
    ahead = job_store.enqueue(machine.db, QUICK_SFT, "ann")
    job_store.claim(machine.db, ahead, "w")
    with kept_alive(machine.db, ahead), running(machine, "run", quick_spec(machine)) as (process, printed):
        wait_until("that it waits", lambda: "is ahead." in printed.read_text())
        process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == 1
    assert job_store.queue(machine.db) == []
    job = job_store.recent(machine.db, ("sft",), 1)[0]
    assert job.status == "cancelled"
    assert printed.read_text().splitlines()[-1] == f"job {job.id} cancelled. It had not begun."
    assert job_store.get(machine.db, ahead).status == "running"


def test_stopped_before_its_worker_could_begin_a_run_is_taken_out_of_the_queue(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf.__main__ import main

    # A worker takes seconds to begin, in which it knows of no signals yet.
    run_beforehand(monkeypatch, tmp_path, "import signal\nos.kill(os.getppid(), signal.SIGINT)\nsignal.pause()")
    assert main(["--data", str(machine.data_dir), "run", quick_spec(machine)]) == 1
    job = job_store.recent(machine.db, ("sft",), 1)[0]
    assert job.status == "cancelled"
    assert capsys.readouterr().out.splitlines()[-1] == f"job {job.id} cancelled. It had not begun."


def test_stopped_while_it_runs_it_ends_its_worker_and_can_be_resumed(machine: Machine) -> None:
    with running(machine, "run", quick_spec(machine, epochs=100_000)) as (process, printed):
        wait_until("the second step", lambda: [job for job in job_store.at_work(machine.db) if job.step >= 2])
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 1
    assert not any(worker.is_running() for worker in workers)
    job = job_store.recent(machine.db, ("sft",), 1)[0]
    assert job.status == "lost"
    assert "Prefloop was stopped while this ran." in printed.read_text().splitlines()[-1]


def test_a_job_that_a_running_app_takes_is_followed_there(machine: Machine) -> None:
    ahead = job_store.enqueue(machine.db, QUICK_SFT, "ann")
    job_store.claim(machine.db, ahead, "w")
    with kept_alive(machine.db, ahead), running(machine, "run", quick_spec(machine)) as (process, printed):
        wait_until("that it waits", lambda: "is ahead." in printed.read_text())
        job = job_store.recent(machine.db, ("sft",), 1)[0]
        assert job_store.claim(machine.db, job.id, "the-app") is not None
        with kept_alive(machine.db, job.id):
            wait_until("that it says so", lambda: f"job {job.id} runs in another program" in printed.read_text())
        job_table.finish(machine.db, job.id, "the-app", {"revision": "sft-2"})
        assert process.wait(PATIENCE_SECONDS) == 0
    assert '"revision": "sft-2"' in printed.read_text()


def test_memory_that_runs_out_halves_the_batch_and_the_command_runs_it_again(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf.__main__ import main

    starve(monkeypatch, tmp_path, rank=0, rows=2)
    assert main(["--data", str(machine.data_dir), "run", quick_spec(machine, halve_batch=True)]) == 0
    job = job_store.recent(machine.db, ("sft",), 1)[0]
    assert (job.status, job.attempt) == ("finished", 2)
    said = f"job {job.id}: Memory ran out. Queued again with a smaller batch: batch_size 4 → 2, accumulation 1 → 2."
    assert said in capsys.readouterr().out


def test_a_job_is_resumed_with_half_the_batch(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf.__main__ import main

    starve(monkeypatch, tmp_path, rank=0, rows=2)
    data = ["--data", str(machine.data_dir)]
    assert main([*data, "run", quick_spec(machine)]) == 1
    job = job_store.recent(machine.db, ("sft",), 1)[0]
    assert (job.status, job_store.can_be_halved(job)) == ("failed", True)
    assert main([*data, "resume", "--half-batch", str(job.id)]) == 0
    assert "batch_size 4 → 2" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- the model
@pytest.fixture
def copied(tiny_model: Path, tmp_path: Path) -> BaseModel:
    """A copy of the tiny model, to be damaged."""
    path = tmp_path / "model"
    shutil.copytree(tiny_model, path)
    return BaseModel(str(path), path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "99999999999999999999"), "too large"),
        (("cancel", "99999999999999999999"), "too large"),
        (("resume", "99999999999999999999"), "too large"),
        (("promote", "\udcff"), "characters that are none"),
        (("reject", "\udcff"), "characters that are none"),
        (("gate", "\udcff"), "characters that are none"),
        (("add-judge", "\udcff", "local", '{"model": "base"}'), "a character that can't be seen (U+DCFF)"),
        (("add-judge", "x", "local", '{"model": "\\ud800"}'), "characters that are none"),
    ],
)
def test_what_no_row_can_hold_is_a_sentence(
    machine: Machine, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    from rlhf.__main__ import main

    assert main(["--data", str(machine.data_dir), *words]) == 2
    assert said in sentence(capsys.readouterr().err)


def test_the_tiny_model_is_a_model_that_can_be_used(copied: BaseModel, tmp_path: Path) -> None:
    base_model.check(copied)
    assert base_model.prepare(tmp_path, copied.name) == copied


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """As a directory, as a name that no hub can have, and as a name where no hub can be reached."""
    done = rlhf_command("--data", str(tmp_path / "data"), "prepare", "--model", str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert f"There is no model '{tmp_path / 'nothing'}'" in sentence(done.stderr)
    done = rlhf_command("--data", str(tmp_path / "data"), "prepare", "--model", "somebody/something")
    assert done.returncode == 2
    assert "There is no model 'somebody/something'" in sentence(done.stderr)
    assert "leave --model out" in done.stderr


def test_a_directory_without_a_config_is_refused(copied: BaseModel) -> None:
    (copied.path / "config.json").unlink()
    with pytest.raises(UserError, match="there is no config"):
        base_model.check(copied)


def test_a_model_without_a_chat_template_is_refused_wherever_one_may_stand(copied: BaseModel) -> None:
    template = (copied.path / "chat_template.jinja").read_text("utf-8")
    (copied.path / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        base_model.check(copied)
    config = copied.path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "chat_template": template}), "utf-8")
    base_model.check(copied)


def broken_weights(model: Path) -> None:
    """Half of the file."""
    weights = model / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def template(text: str) -> Callable[[Path], None]:
    """Another chat template."""
    return lambda model: (model / "chat_template.jinja").write_text(text, "utf-8") and None


def config(**changes: Any) -> Callable[[Path], None]:
    """Another configuration."""

    def change(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")

    return change


def without(*patterns: str) -> Callable[[Path], None]:
    """A model that lacks files."""

    def remove(model: Path) -> None:
        for path in [path for pattern in patterns for path in model.glob(pattern)]:
            path.unlink()

    return remove


def adapter_beside(*without: str) -> Callable[[Path], None]:
    """An adapter among a model's files."""

    def add(model: Path) -> None:
        adapter = {"peft_type": "LORA", "base_model_name_or_path": "ann/base"}
        (model / "adapter_config.json").write_text(json.dumps(adapter), "utf-8")
        for name in without:
            (model / name).unlink()

    return add


def renamed(name: str, other: str) -> Callable[[Path], None]:
    """A file under another name."""
    return lambda model: (model / name).rename(model / other) and None


def tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Other tensors in a file that is whole."""

    def rewrite(model: Path) -> None:
        weights = model / "model.safetensors"
        save_file(change(load_file(weights)), weights, {"format": "pt"})

    return rewrite


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (tensors(lambda all_: {name: one for name, one in all_.items() if ".layers.1." not in name}), "and 6 more"),
        (config(hidden_act="no such thing"), "can't be loaded (KeyError"),
        (broken_weights, "model.safetensors is no safetensors file that can be used"),
        (template("{% for %}"), "can't be used: it is no valid template"),
        (template("{{ messages[0].content[5].x }}{{ 1 + 'a' }}"), "can't be used: "),
        (template("{{ 'a' * 10 ** 11 }}"), "MB of memory"),
        (template("Hello"), "leaves out what the"),
        (template("{{ messages[0].content }}"), "it leaves out what the assistant says"),
        (template("{% for m in messages %}A: {{ m.content }}\n{% endfor %}"), "it has no token that ends an answer"),
        (config(model_type="unknown", auto_map={"AutoModelForCausalLM": "x.Y"}), "can't load a 'unknown' model"),
        (config(model_type="t5"), "can't load a 't5' model as a causal language model"),
        (config(model_type="bart", is_encoder_decoder=True), "A 'bart' model reads with an encoder"),
        (adapter_beside(), "holds an adapter (adapter_config.json) for ann/base, and a base is whole weights"),
        (adapter_beside("config.json"), "holds an adapter (adapter_config.json) for ann/base"),
        (without("tokenizer*"), "has no tokenizer"),
        (lambda model: (model / "tokenizer.json").write_text("{}") and None, "tokenizer.json is no tokenizer"),
        (renamed("tokenizer.json", "tokenizer.model"), "can't be used (ValueError"),
        (renamed("tokenizer.json", "tekken.json"), "can't be used (KeyError"),
        (
            lambda model: (model / "tokenizer_config.json").write_text("[]") and None,
            "tokenizer_config.json can't be read",
        ),
        (without("config.json"), "there is no config.json"),
    ],
)
def test_a_model_that_can_not_be_used_is_not_ready_and_leaves_no_database(
    copied: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    from rlhf.__main__ import main

    damage(copied.path)
    assert main(["--data", str(tmp_path / "new"), "prepare", "--model", copied.name]) == 2
    printed = capsys.readouterr()
    assert said in sentence(printed.err)
    assert printed.out == ""
    assert list(tmp_path.glob("new/*")) == []


def test_a_template_without_end_is_found_when_the_model_is_set_up(
    copied: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = TemplateRenderer(seconds=0.5)
    monkeypatch.setattr("rlhf.models.template_process.renderer", lambda: hasty)
    loop = "{% for i in range(100000) %}"
    template(loop * 4 + "{% endfor %}" * 4)(copied.path)
    with pytest.raises(UserError, match=r"can't be used: it did not end within 0\.5 seconds of processor time\."):
        base_model.check(copied)
    hasty.close()


def test_a_template_without_system_messages_is_taken_and_said(
    copied: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf.__main__ import main

    own = (copied.path / "chat_template.jinja").read_text("utf-8")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    for text in (refusing + own, own.replace("in messages", "in messages if message.role != 'system'")):
        template(text)(copied.path)
        assert not base_model.check(copied).takes_system
    assert main(["--data", str(tmp_path / "new"), "prepare", "--model", copied.name]) == 0
    assert "is ready in" in (said := capsys.readouterr().out)
    assert "Its chat template takes no system messages" in said


def test_what_is_no_directory_of_a_model_is_called_what_it_is(copied: BaseModel, tmp_path: Path) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    for path, said in (
        (gguf, "is a GGUF file, and Prefloop loads safetensors weights only"),
        (copied.path / "config.json", "is a file: give a model's directory"),
        (tmp_path / "nothing" / "here", "it is no directory here, and no name on the Hub either"),
        (Path("./nothing/here/at/all"), "it is no directory here, and no name on the Hub either"),
    ):
        with pytest.raises(UserError) as raised:
            base_model.prepare(tmp_path / "new", str(path))
        assert said in str(raised.value)
        assert "repo" not in str(raised.value).lower()


def test_without_workers_a_model_that_is_ready_is_taken_and_else_nothing_is_begun(
    copied: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--no-workers", "--no-browser", "--port", "0", "--data", str(tmp_path / "new")]
    for model in ("embedded", "nobody/nothing"):
        assert app.main([*flags, "--model", model]) == 2
        said = sentence(capsys.readouterr().err)
        assert f"There is no base model in {tmp_path / 'new'} yet" in said
        assert f"python -m rlhf --data {tmp_path / 'new'} prepare" in said
    without("tokenizer*")(copied.path)
    assert app.main([*flags, "--model", copied.name]) == 2
    assert "has no tokenizer" in sentence(capsys.readouterr().err)
    assert not (tmp_path / "new").exists()


def test_without_workers_a_ready_model_begins_a_data_directory(tiny_model: Path, tmp_path: Path) -> None:
    with running_app(tmp_path / "new", "--no-workers", "--model", str(tiny_model)) as (address, _):
        assert address.startswith("http://127.0.0.1:")
    db = open_database(tmp_path / "new")
    assert registry.by_revision(db, "base").base == str(tiny_model)
    db.close()


def test_a_model_without_safetensors_is_refused_pickled_weights_or_not(copied: BaseModel) -> None:
    (copied.path / "model.safetensors").rename(copied.path / "pytorch_model.bin")
    with pytest.raises(UserError, match="no safetensors weights"):
        base_model.check(copied)


def test_a_model_that_does_not_fit_in_memory_is_refused_before_it_is_read(copied: BaseModel) -> None:
    """Two weight files with holes, 8 TB on paper and nothing on the disk."""
    (copied.path / "model.safetensors").unlink()
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    for name in names:
        with (copied.path / name).open("wb") as weights:
            weights.truncate(4 * 10**12)
    index = {"weight_map": {f"layer {number}": name for number, name in enumerate(names)}}
    (copied.path / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(UserError, match=r"needs about 12001\.0 GB of memory and \d+\.\d GB are free"):
        base_model.check(copied)
