"""When a safe copy is due, what the page says of it, and what a manifest must be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from annotation.copies.safe_copies import CopyStatus, PendingCopy, Schedule, ago, due, sentence
from annotation.copies.targets import (
    CopyManifest,
    DamagedCopy,
    DirectoryTarget,
    FileDigest,
    HubTarget,
    read_manifest,
    target_of,
)
from annotation.environment import child_environment, worker_environment
from annotation.exports import export_files
from annotation.exports.formats import ExportRequest
from annotation.hub_client import connect
from annotation.records import UserError
from rlhf.hub.token_launcher import HELD, LAUNCHER, PLACE, holds_token, wanted, web_environment
from rlhf.models.base import base_files
from tests.machine_fixtures import ROOT

SCHEDULE = Schedule(every=300, after=10, apart=60)
NOON = "2026-11-01T12:00:00.000000+00:00"
TEN_TO = "2026-11-01T11:50:00.000000+00:00"


@pytest.mark.parametrize(
    ("pending", "expected"),
    [
        (PendingCopy(False, 0, None, 0), False),
        (PendingCopy(True, 0, None, 0), True),
        (PendingCopy(True, 0, 299, 0), False),
        (PendingCopy(True, 0, 300, 0), True),
        (PendingCopy(True, 9, 299, 0), False),
        (PendingCopy(True, 10, 59, 0), False),
        (PendingCopy(True, 10, 60, 0), True),
        (PendingCopy(False, 10, 9999, 0), False),
        (PendingCopy(True, 1, 119, 1), False),
        (PendingCopy(True, 1, 120, 1), True),
        (PendingCopy(True, 1, 299, 8), False),
        (PendingCopy(True, 1, 300, 8), True),
    ],
)
def test_a_copy_is_due_at_the_start_on_schedule_after_judgements_and_again_after_a_failure(
    pending: PendingCopy, expected: bool
) -> None:
    assert due(pending, SCHEDULE) is expected


def test_nothing_is_due_by_number_where_the_number_is_zero() -> None:
    assert not due(PendingCopy(True, 1000, 299, 0), Schedule(every=300, after=0, apart=0))


def test_the_schedule_comes_from_the_environment() -> None:
    assert Schedule.from_environment({}) == Schedule()
    told = {"PREFLOOP_COPIES_EVERY": "20", "PREFLOOP_COPIES_AFTER": "3", "PREFLOOP_COPIES_APART": "0.5"}
    assert Schedule.from_environment(told) == Schedule(20, 3, 0.5)
    for nonsense in ("soon", "-1", "inf", "nan"):
        with pytest.raises(UserError, match="PREFLOOP_COPIES_EVERY"):
            Schedule.from_environment({"PREFLOOP_COPIES_EVERY": nonsense})


@pytest.mark.parametrize(
    ("standing", "role", "expected"),
    [
        (CopyStatus(TEN_TO, 3), "annotator", "Last safe copy: 10 minutes ago, 3 judgements since."),
        (CopyStatus(NOON, 1), "annotator", "Last safe copy: a moment ago, 1 judgement since."),
        (CopyStatus(None, 2), "annotator", "No safe copy yet, 2 judgements so far."),
        (
            CopyStatus(TEN_TO, 4, "The token /x may only read."),
            "annotator",
            "Last safe copy: 10 minutes ago, 4 judgements since. The latest attempt failed and is repeated.",
        ),
        (
            CopyStatus(TEN_TO, 4, "The token may only read."),
            "admin",
            "Last safe copy: 10 minutes ago, 4 judgements since. The latest attempt failed and is repeated. "
            "The token may only read.",
        ),
        (
            CopyStatus(TEN_TO, 0, "Stop one.", conflict=True),
            "admin",
            "Last safe copy: 10 minutes ago, 0 judgements since. Two copies of this project run. Stop one.",
        ),
    ],
)
def test_the_sentence_of_the_page(standing: CopyStatus, role: str, expected: str) -> None:
    assert sentence(standing, NOON, role) == expected  # type: ignore[arg-type]


def test_times_ago() -> None:
    spans = [
        (-3, "a moment ago"),
        (59, "a moment ago"),
        (60, "1 minute ago"),
        (7199, "1 hour ago"),
        (2e5, "2 days ago"),
    ]
    assert [ago(seconds) for seconds, _ in spans] == [words for _, words in spans]


MANIFEST = CopyManifest(
    run="a" * 32,
    number=4,
    created=NOON,
    last_judgement_id=17,
    judgements=16,
    choice="here",
    files={"prefloop.db": FileDigest("0" * 64, 12)},
)


def test_a_manifest_comes_back_as_it_was() -> None:
    assert read_manifest(MANIFEST.to_bytes(), "The copy") == MANIFEST


ELSEWHERE = ("/etc/passwd", "../outside", "models/../../outside", "adapters/../../outside", "", ".", "adapters",
             "./prefloop.db", "prefloop.db-wal", "prefloop.db/x", "prefloop.lock", "set-aside/x/prefloop.db",
             "adapters/a\0b/x", "adapters/\ud800/x", "adapters//x", "adapters/x/", "logs/1.log")  # fmt: skip


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_manifest_that_names_a_file_outside_is_refused(path: str) -> None:
    told = json.loads(MANIFEST.to_bytes()) | {"files": {path: {"sha256": "0" * 64, "size": 1}}}
    with pytest.raises(DamagedCopy, match="names"):
        read_manifest(json.dumps(told).encode(), "The copy")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", MANIFEST.to_bytes()[:-9], b'{"format": "another"}'])
def test_what_is_no_manifest_is_damaged(content: bytes) -> None:
    with pytest.raises(DamagedCopy, match=r"The copy is damaged"):
        read_manifest(content, "The copy")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"number": "4"}, "The manifest's 'number' must be of type int, not '4'"),
        ({"run": None}, "'run' must be of type str"),
        ({"more": 1}, "no field 'more'"),
        ({"files": {"a": {"sha256": "0" * 64, "size": "1"}}}, "'files.a.size' must be of type int"),
        ({"files": {"a": {"sha256": "0" * 64}}}, "'files.a.size' is missing"),
        ({"files": {"a": {"sha256": "0" * 63, "size": 1}}}, "names 'a'"),
    ],
)
def test_what_a_manifest_says_amiss_is_named(wrong: dict[str, Any], words: str) -> None:
    told = json.loads(MANIFEST.to_bytes()) | wrong
    with pytest.raises(DamagedCopy, match=words) as refused:
        read_manifest(json.dumps(told).encode(), "The copy")
    assert str(refused.value).startswith("The copy is damaged")


def test_a_manifest_of_a_newer_program_is_not_called_damaged() -> None:
    told = json.loads(MANIFEST.to_bytes()) | {"version": 2}
    with pytest.raises(UserError, match="newer Prefloop") as refused:
        read_manifest(json.dumps(told).encode(), "The copy")
    assert not isinstance(refused.value, DamagedCopy)


def test_places_are_named_as_people_write_them() -> None:
    hub = connect(None, "http://127.0.0.1:9")
    assert target_of("/data/copies", hub) == DirectoryTarget(Path("/data/copies"))
    assert target_of("ann/project-copies", hub) == HubTarget(hub, "ann/project-copies")
    assert target_of("ann/project-copies@copy-1", hub).name == "ann/project-copies@copy-1"
    with pytest.raises(UserError, match="OWNER/NAME"):
        target_of("copies", hub)


def test_a_launcher_is_wanted_for_a_token_or_copies_and_only_once(tmp_path: Path) -> None:
    nowhere = {"HF_HOME": str(tmp_path)}
    assert not wanted({**nowhere, "HF_TOKEN": ""})
    assert wanted({**nowhere, "HF_TOKEN": "hf_x"})
    assert wanted({**nowhere, PLACE: "/data/copies"})
    assert not wanted({**nowhere, "HF_TOKEN": "hf_x", LAUNCHER: "17"})


def test_the_web_server_gets_no_token(tmp_path: Path) -> None:
    tokens = {name: "hf_x" for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PREFLOOP_SPACE_TOKEN")}
    told = web_environment({**tokens, "OAUTH_CLIENT_SECRET": "its own"})
    hidden = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN_PATH": os.devnull}
    assert told == {"OAUTH_CLIENT_SECRET": "its own", HELD: "1", **hidden}
    assert HELD not in web_environment({"HF_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("variable", "path"),
    [
        ("HF_TOKEN_PATH", "token"),
        ("HF_HOME", "home/token"),
        ("XDG_CACHE_HOME", "cache/huggingface/token"),
        ("HOME", ".cache/huggingface/token"),
    ],
)
def test_a_stored_token_is_found_where_the_client_finds_it_and_hidden_from_the_web_server(
    tmp_path: Path, variable: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / path
    stored.parent.mkdir(parents=True, exist_ok=True)
    bare = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "HUGGING", "XDG"))}
    roots = {"HF_TOKEN_PATH": stored, "HF_HOME": tmp_path / "home", "XDG_CACHE_HOME": tmp_path / "cache"}
    told = {**bare, variable: str(roots.get(variable, tmp_path))}
    if variable == "HOME":
        monkeypatch.setenv("HOME", str(tmp_path))
    look = [sys.executable, "-c", "from annotation.hub_client import token_here; print(token_here())"]
    assert not holds_token(told)
    stored.write_text("hf_stored\n", "utf-8")
    assert holds_token(told)
    looks = ((told, "hf_stored"), (web_environment(told), "None"))
    for environment, found in looks if variable == "HOME" else looks[:1]:
        done = subprocess.run(look, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == found


def test_imports_and_exports_get_no_secret_and_workers_the_judges_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PREFLOOP_SPACE_TOKEN", "OAUTH_CLIENT_SECRET"):
        monkeypatch.setenv(name, "secret")
    keys = dict.fromkeys(("OPENAI_API_KEY", "PREFLOOP_JUDGE_KEY"), "a judge's")
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    workers, others = worker_environment(), child_environment()
    assert "secret" not in workers.values()
    assert workers.items() >= keys.items()
    assert others == {name: value for name, value in workers.items() if name not in keys}
    root = Path(__file__).parents[3]
    for module, environment in (
        ("rlhf/workers/worker_process.py", "worker_environment()"),
        ("rlhf/models/base/base_files.py", "child_environment()"),
        ("rlhf/hub/token_process.py", "without_judge_keys(os.environ)"),
        ("annotation/ui/markdown_process.py", "child_environment()"),
        ("annotation/imports/import_process.py", "child_environment()"),
        ("annotation/exports/export_files.py", "child_environment()"),
    ):
        assert environment in (root / module).read_text("utf-8")


def test_what_counts_an_export_or_installs_the_model_gets_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OAUTH_CLIENT_SECRET", "secret")
    monkeypatch.setenv("PREFLOOP_JUDGE_KEY", "a judge's")
    shown = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    monkeypatch.setattr(export_files, "command_of", lambda *_words: shown)
    counted = export_files.count(tmp_path, ExportRequest())
    run = Mock(return_value=Mock(returncode=0))
    monkeypatch.setattr(subprocess, "run", run)
    base_files.install_embedded()
    for environment in (counted, run.call_args.kwargs["env"]):
        assert "PATH" in environment
        assert not {"OAUTH_CLIENT_SECRET", "PREFLOOP_JUDGE_KEY"} & environment.keys()
