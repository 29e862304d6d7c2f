"""Bad input ends the app and the command line alike: exit code 2, one sentence that says what to do, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import app
from annotation.__main__ import main as annotation_main
from annotation.copies.restoration import LOCK
from annotation.copies.targets import DirectoryTarget
from annotation.database import FILE_NAME, Database, hold_data_directory, open_database
from annotation.records import UserError
from annotation.store import prompt_store
from rlhf.__main__ import main as rlhf_main
from rlhf.hub import token_process
from rlhf.models import registry
from tests.conftest import seed_prompts
from tests.machine_fixtures import Machine

pytestmark = pytest.mark.slow

Start = Callable[[Path, str], int]


def start_app(data_dir: Path, model: str) -> int:
    """The program; bad input ends it before it serves."""
    return app.main(["--data", str(data_dir), "--model", model, "--port", "0", "--no-browser"])


def prepare(data_dir: Path, model: str) -> int:
    """The command line's way to set a model up."""
    return rlhf_main(["--data", str(data_dir), "prepare", "--model", model])


both = pytest.mark.parametrize("start", [start_app, prepare])


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on standard error: no traceback, and an end."""
    said = capsys.readouterr().err.strip()
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    assert said.endswith(".")
    return said


@both
def test_a_model_that_is_not_there(
    start: Start, data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert start(data_dir, "nobody/no-such-model") == 2
    said = one_sentence(capsys)
    assert "There is no model 'nobody/no-such-model'" in said
    assert "--model" in said


@both
def test_a_model_without_a_chat_template(
    start: Start, data_dir: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "plain"))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    assert start(data_dir, str(model)) == 2
    assert "no chat template" in one_sentence(capsys)


@both
def test_a_model_that_does_not_fit_in_memory(
    start: Start, data_dir: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "huge"))
    os.truncate(model / "model.safetensors", 2_000_000_000_000)  # a sparse file takes no room
    assert start(data_dir, str(model)) == 2
    assert "GB of memory" in one_sentence(capsys)


@both
def test_a_directory_that_can_not_be_written(
    start: Start, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a directory")
    assert start(tmp_path / "file" / "data", str(tiny_model)) == 2
    assert "can't be written" in one_sentence(capsys)


@both
def test_a_database_from_a_newer_version(
    start: Start, data_dir: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = open_database(data_dir)
    with db.transaction() as connection:
        connection["_sqlite_migrations"].insert(
            {"migration_set": "prefloop", "name": "m999_from_the_future", "applied_at": "2030-01-01"}
        )
    db.close()
    before = (data_dir / FILE_NAME).read_bytes()
    assert start(data_dir, str(tiny_model)) == 2
    said = one_sentence(capsys)
    assert "newer Prefloop (step 'm999_from_the_future')" in said
    assert (data_dir / FILE_NAME).read_bytes() == before


def test_a_door_that_would_stand_open_is_refused_before_a_model_is_looked_for(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["--data", str(data_dir), "--model", "none", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "Make one first: python -m annotation accounts add NAME" in capsys.readouterr().err
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (app.main, ["--data="]),
        (rlhf_main, ["--data=", "jobs"]),
        (annotation_main, ["accounts", "list", "--data= "]),
    ],
)
def test_a_directory_without_a_name_is_not_the_one_that_one_is_in(
    main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "the name of the directory is empty" in capsys.readouterr().err


def test_a_busy_port(data_dir: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert app.main(["--data", str(data_dir), "--model", str(tiny_model), "--port", port, "--no-browser"]) == 2
    assert "choose another with --port" in one_sentence(capsys)


def test_a_second_program_on_the_same_directory(
    data_dir: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir.mkdir(parents=True)
    lock = hold_data_directory(data_dir)
    assert start_app(data_dir, str(tiny_model)) == 2
    assert "Another Prefloop is at work" in one_sentence(capsys)
    lock.release()


def test_a_lock_that_is_not_ours_to_take(data_dir: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a start by the administrator of the machine."""
    (data_dir / "prefloop.lock").mkdir(parents=True)  # whoever runs the tests may open any file
    assert start_app(data_dir, str(tiny_model)) == 2
    assert "can't be written" in one_sentence(capsys)


def test_a_lock_that_a_power_failure_has_damaged(
    data_dir: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir.mkdir(parents=True)
    (data_dir / LOCK).write_bytes(b"?" * 4096)
    assert start_app(data_dir, str(tiny_model)) == 2
    said = one_sentence(capsys)
    assert str(data_dir / LOCK) in said
    assert "Move it away" in said


def test_a_copy_that_is_to_be_restored_where_no_directory_can_be_made(
    db: Database, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, or when the program starts."""
    bucket, nowhere = tmp_path / "bucket", tmp_path / "file" / "data"
    (tmp_path / "file").touch()
    assert annotation_main(["copies", "take", "--place", str(bucket), "--data", str(data_dir)]) == 0
    assert annotation_main(["copies", "restore", "--place", str(bucket), "--data", str(nowhere)]) == 2
    assert "can't be written" in one_sentence(capsys)
    with pytest.raises(UserError, match="can't be written"):
        token_process.begin(nowhere, DirectoryTarget(bucket), "embedded")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system of its own can't be mounted here (needs root): the full disk is tested elsewhere")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(small_disk: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was saved before stays; the app and the command line say that the disk is full."""
    data_dir = small_disk / "data"
    db = open_database(data_dir)
    registry.ensure_base(db, str(tiny_model))
    kept = len(seed_prompts(db, 5))
    used = shutil.disk_usage(small_disk).used
    subprocess.run(["mount", "-o", f"remount,size={used + 100_000}", small_disk], check=True)
    with pytest.raises(UserError, match="is full"):
        fill_with_prompts(db)
    saved = len(prompt_store.prompts(db, "train"))
    assert saved >= kept
    fill(data_dir / "rest")
    for start in (start_app, prepare):
        assert start(data_dir, str(tiny_model)) == 2
        assert "free disk space" in one_sentence(capsys).casefold()
    db.close()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert len(prompt_store.prompts(open_database(data_dir), "train")) == saved


def fill_with_prompts(db: Database) -> None:
    """Save until the disk refuses."""
    while True:
        seed_prompts(db, 200)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as handle:
        try:
            while True:
                handle.write(b"x" * 512)
        except OSError:
            return


def test_a_damaged_adapter_is_not_promoted(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.add_prompts(train=12, held_out=2)
    machine.judge("train", 10)
    directory = machine.data_dir / "adapters" / "torn"
    directory.mkdir(parents=True)
    (directory / "adapter_model.safetensors").write_bytes(b"weights")
    base = registry.serving(machine.db)
    machine.db.write(
        "INSERT INTO model (revision, algorithm, base, parent_id, path, sha256, status, created) "
        "VALUES ('torn', 'dpo', ?, ?, 'adapters/torn', 'another', 'candidate', '')",
        (base.base, base.id),
    )
    assert rlhf_main(["--data", str(machine.data_dir), "promote", "torn"]) == 2
    said = one_sentence(capsys)
    assert "damaged" in said
    assert "sha256 differs" in said
    assert registry.serving(machine.db) == base
