"""Exports as files: what `datasets`, TRL and a spreadsheet read of them; whole or not there; for admins only."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import resource
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import psutil
import pytest

import app
from annotation.claims import changing, handing_out, judging, own_judgements
from annotation.database import Database, open_database
from annotation.exports import export_command, export_files, writing
from annotation.exports.dataset_card import NOTES, CardStatistics, called, project_text
from annotation.exports.export_files import EXPORTS, WriteExport
from annotation.exports.formats import (
    CONTAINERS,
    FORMATS,
    LEFT_OUT,
    LICENCES,
    ONE_FILE,
    ExportRequest,
    Filters,
    unescape_cell,
)
from annotation.jobs.job_table import Job
from annotation.jobs.lane_runner import LaneRunner
from annotation.project import FIRST_GUIDELINES, as_read
from annotation.records import Project, Prompt, UserError, now
from annotation.store import comparison_store, data_sources, judgement_store, project_store, prompt_store
from annotation.tabs import export_form as tab
from annotation.tabs.guard import Context
from annotation.translation import _, kept, language_of, retold, speaking
from annotation.web import access
from rlhf.models import registry
from tests.archive_fixtures import populate
from tests.conftest import BASE_NAME, act, make_response, measure_nobody, new_database, shown_texts
from tests.handlers import asked_by
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, wait_until

pytestmark = pytest.mark.slow

EVERYTHING = 27  # judgements of `judge_all`
TRAINABLE = ("preference", "preference-plain", "kto", "reward", "sft")


# ------------------------------------------------------------------------------------------------------------- the data
def judge_all(db: Database) -> None:
    """Three annotators judge nine comparisons: six trained on, three held out; one edits, one demonstrates."""
    registry.ensure_base(db, BASE_NAME)
    measure_nobody(db)
    project_store.set_project(db, Project(overlap=3, gold_share=0, re_ask_share=0))
    project_store.write_guidelines(db, "Prefer the *clear* answer.", "kim")
    for number in range(9):
        split = "held-out" if number % 3 == 2 else "train"
        messages = ({"role": "user", "content": f"Question {number}, über Straße?"},)
        prompt_store.add_prompts(db, [Prompt(messages, split, "test")])
        prompt = prompt_store.prompts(db, split)[-1]
        texts = (f"=short {number}", f"A longer answer to question {number}")
        made = comparison_store.add_comparison(db, [make_response(prompt, text) for text in texts])
        assert made is not None
    for name in ("ann", "bob", "zoe"):
        annotator = access.add_account(db, name, "annotator", "a long enough password")
        while (claim := handing_out.claim_next(db, annotator.id, random.Random(1))) is not None:
            short = "left" if shown_texts(claim)[0].startswith("=") else "right"
            long = "right" if short == "left" else "left"
            number = int(claim.messages[0]["content"].split()[1].rstrip(","))
            side = long if name == "zoe" and number % 2 else short
            place = 0 if side == "left" else 1
            edit = {"edit": {"place": place, "text": f"mended {number}"}} if name == "ann" and number == 1 else {}
            judging.judge(db, annotator.id, claim.nonce, act(f"{side}-much", note="@note", **edit))
    prompt = prompt_store.prompts(db, "train")[0]
    db.connection.execute(
        """INSERT INTO response (prompt_id, origin, purpose, text, created)
           VALUES (?, 'import', 'demonstrate', 'shown', ?)""",
        (prompt.id, now()),
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the judgements."""
    directory = tmp_path_factory.mktemp("exports") / "data"
    db = new_database(directory)
    judge_all(db)
    assert judgement_store.judged_count(db) == EVERYTHING
    db.close()
    return directory


@pytest.fixture
def db(data_dir: Path) -> Iterator[Database]:
    """Its database."""
    opened = open_database(data_dir)
    yield opened
    opened.close()


def loaded(path: Path, tmp_path: Path) -> Any:
    """What `datasets.load_dataset` makes of an exported directory."""
    from datasets import load_dataset

    return load_dataset(str(path), cache_dir=str(tmp_path / "cache"))


# -------------------------------------------------------------------------------------------------- every container
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", TRAINABLE)
def test_load_dataset_reads_every_format_in_every_container(
    db: Database, tmp_path: Path, name: str, container: str
) -> None:
    target = tmp_path / "out"
    figures = writing.export(db, ExportRequest(name, container), target)
    data = loaded(target, tmp_path)
    assert {split: len(rows) for split, rows in data.items()} == dict(figures.rows)
    assert list(data["train"].features) == list(FORMATS[name].columns)
    expected = {
        "preference": {"train": 8, "test": 3},
        "preference-plain": {"train": 8, "test": 3},
        "reward": {"train": 8, "test": 3},
        "kto": {"train": 12, "test": 6},
        "sft": {"train": 2},
    }
    assert dict(figures.rows) == expected[name]
    assert {path.name for path in target.iterdir()} - {"README.md", "data"} == (
        set() if container == "dataset" else {f"{split}.{container}" for split in figures.rows}
    )


def test_the_rows_of_all_containers_are_the_same(db: Database, tmp_path: Path) -> None:
    read = []
    for container in CONTAINERS:
        writing.export(db, ExportRequest("preference", container), tmp_path / container)
        read.append(loaded(tmp_path / container, tmp_path)["train"].to_list())
    assert read[0] == read[1] == read[2]
    row = next(row for row in read[0] if row["chosen"][0]["content"] == "=short 0")
    assert row["prompt"] == [{"role": "user", "content": "Question 0, über Straße?"}]
    assert row["rejected"] == [{"role": "assistant", "content": "A longer answer to question 0"}]
    assert (row["margin"], row["strength"], row["agreement"]) == (1.0, 3.0, 1.0)
    assert row["annotators"] == ["annotator-1", "annotator-2", "annotator-3"]


def test_annotators_are_named_only_when_that_is_asked_for(db: Database, tmp_path: Path) -> None:
    for names in (False, True):
        target = tmp_path / f"{names}"
        writing.export(db, ExportRequest("preference", "jsonl", names=names), target)
        text = "".join(path.read_text("utf-8") for path in target.iterdir())
        assert ('"zoe"' in text) == ('"ann"' in text) == names


def test_filters_reach_the_files(db: Database, tmp_path: Path) -> None:
    target = tmp_path / "out"
    asked = ExportRequest("preference", "jsonl", Filters(agreement=0.9, sources=("human",)))
    figures = writing.export(db, asked, target)
    rows = [json.loads(line) for line in (target / "train.jsonl").read_text("utf-8").splitlines()]
    assert {row["agreement"] for row in rows} == {1.0}
    assert figures.left_out == {"low-agreement": 4}
    assert writing.count(db, asked).rows == figures.rows == {"train": len(rows), "test": 2}


def test_a_zip_holds_the_same_directory(db: Database, tmp_path: Path) -> None:
    writing.export(db, ExportRequest(), tmp_path / "plain")
    writing.export(db, ExportRequest(), tmp_path / "packed.zip")
    with zipfile.ZipFile(tmp_path / "packed.zip") as packed:
        assert packed.testzip() is None
        packed.extractall(tmp_path / "unpacked")
    names = {path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*") if path.is_file()}
    assert names == {Path("README.md"), *(Path(f"data/{split}-00000-of-00001.parquet") for split in ("train", "test"))}
    for name in names - {Path("README.md")}:
        assert (tmp_path / "unpacked" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert len(loaded(tmp_path / "unpacked", tmp_path)["train"]) == 8


def test_a_spreadsheet_gets_every_judgement_in_one_harmless_file(db: Database, tmp_path: Path) -> None:
    target = tmp_path / "judgements.csv"
    writing.export(db, ExportRequest("csv"), target)
    assert target.read_bytes().startswith(b"\xef\xbb\xbf")
    with target.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == EVERYTHING
    assert list(rows[0])[-2:] == ["answer_1", "answer_2"]
    assert {row["split"] for row in rows} == {"train", "test"}
    assert not [cell for row in rows for cell in row.values() if cell[:1] in "=+-@" and cell]
    first = rows[0]
    assert (first["answer_1"], unescape_cell(first["answer_1"])) == ("'=short 0", "=short 0")
    assert (first["note"], unescape_cell(first["note"])) == ("'@note", "@note")


# ---------------------------------------------------------------------------------------------------------------- card
def test_the_card_states_counts_agreement_biases_guidelines_and_where_it_comes_from(
    db: Database, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    writing.export(db, ExportRequest("preference", "dataset", Filters(agreement=0.9)), target)
    card = (target / "README.md").read_text("utf-8")
    for expected in (
        "| train | 5 |\n| test | 2 |",
        "| agreement below the minimum | 4 |",
        # 9 comparisons with 3 judgements, 5 unanimous and 4 with 1 pair of 3 agreeing: (5 * 3 + 4 * 1) / 27 = 70%.
        "| Which of two is better, or neither | 9 | 70% (",
        # Of 27 choices 4 are for the longer answer.
        "| Chose the longer of two | 27 | 15% (",
        "| human | 27 | 3 |",
        "- version 1: 27 judgements",
        "```text\nPrefer the *clear* answer.\n```",
        f"- Base model: `{BASE_NAME}`.",
        "| `base` | base |  | 20",
        "`temperature` `1.0`, `min_p` `0.1`, `max_new_tokens` `96`",
        "- Filters: agreement `0.9`.",
        "- Annotators are pseudonyms.",
        "3 annotators each",
        "trl dpo --model_name_or_path MODEL --dataset_name",
        "## Licence\n\n*To be filled in",
        "| `margin` | strength / 3",
    ):
        assert expected in card, expected


@pytest.mark.parametrize("names", [False, True])
def test_a_card_names_in_its_filters_nobody_who_has_a_pseudonym(db: Database, tmp_path: Path, names: bool) -> None:
    ann = next(row for row in data_sources.annotators(db) if row.name == "ann")
    for number, (filters, pseudonymous, named) in enumerate(
        (
            (Filters(annotators=("ann",)), f"annotators `annotator-{ann.id}`", "annotators `ann`"),
            (
                Filters(comparisons="person=ann&split=train"),
                "comparisons `by person and split (not shown)`",
                "comparisons `person=ann&split=train`",
            ),
            (Filters(comparisons="split=train"), "comparisons `split=train`", "comparisons `split=train`"),
        )
    ):
        writing.export(db, ExportRequest(filters=filters, names=names), tmp_path / str(number))
        card = (tmp_path / str(number) / "README.md").read_text("utf-8")
        assert f"- Filters: {named if names else pseudonymous}." in card
    assigned = ExportRequest(filters=Filters(comparisons="assigned=ann&status=judged"), names=names)
    assert called(assigned, {}).comparisons == (
        assigned.filters.comparisons if names else "by status and assigned (not shown)"
    )


def test_the_card_has_the_first_guidelines_as_annotators_of_this_project_read_them(
    db: Database, tmp_path: Path
) -> None:
    db.connection.execute("UPDATE guidelines SET text = ?", (FIRST_GUIDELINES,))
    project_store.set_project(db, replace(project_store.project(db), kind="rank", answers=4))
    writing.export(db, ExportRequest("preference", "dataset"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    follow = "Its words follow what is asked of annotators, which now is rank:"
    assert f"{follow}\n\n```text\n{as_read(FIRST_GUIDELINES, 'rank')}\n```" in card
    assert "Both bad" not in card
    db.connection.execute("UPDATE guidelines SET text = 'Be fair.'")
    writing.export(db, ExportRequest("preference", "dataset"), tmp_path / "written")
    assert "Its words follow" not in (tmp_path / "written" / "README.md").read_text("utf-8")


def test_every_column_has_its_meaning_on_the_card() -> None:
    """That of a new one goes into `NOTES`; a spreadsheet has no card."""
    columns = {name for format_name, one in FORMATS.items() if format_name not in ONE_FILE for name in one.columns}
    assert columns == set(NOTES)


def test_a_card_is_valid_for_the_hub(db: Database, tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    for name in TRAINABLE:
        writing.export(db, ExportRequest(name), tmp_path / name)
        data = DatasetCard.load(tmp_path / name / "README.md").data.to_dict()
        assert data["size_categories"] == ["n<1K"]
        assert [entry["name"] for entry in data["dataset_info"]["features"]] == list(FORMATS[name].columns)


def test_a_card_of_hostile_text_stays_a_card(tmp_path: Path) -> None:
    """Guidelines with fences, file names and base models with bars, backticks and line breaks."""
    db = new_database(tmp_path / "data")
    populate(db, 3, ["```\n# Not a heading\n```\n| a | b |", "---\nlicense: evil\n---"])
    db.connection.execute("UPDATE model SET base = 'a`b|c\n# d' WHERE algorithm = 'base'")
    db.connection.execute("""UPDATE response SET sampling = json_object('x' || char(10, 10) || '# Evil', '|')""")
    writing.export(db, ExportRequest("preference"), tmp_path / "out")
    db.close()
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    outside, fence = [], ""
    for line in card.splitlines():
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if not fence and len(ticks) >= 3:
            fence = ticks
        elif fence and line == fence:
            fence = ""
        elif not fence:
            outside.append(line)
    assert [line for line in outside if line.startswith("#")] == [
        "# Prefloop preference export",
        *(
            f"## {title}"
            for title in (
                *("How to load it", "What is in it", "What was left out", "Agreement", "Biases", "Columns"),
                *("Where it comes from", "Guidelines", "Licence"),
            )
        ),
    ]
    assert outside.count("---") == 2
    assert "license: evil" not in outside


# ----------------------------------------------------------------------------------------------------------------- TRL
def test_trl_dpo_trains_on_an_export_as_it_is(db: Database, tiny_model: Path, tmp_path: Path) -> None:
    """The real command line of TRL, with nothing done to the directory."""
    target = tmp_path / "preference-export"
    writing.export(db, ExportRequest("preference", "dataset"), target)
    command = [sys.executable, str(Path(sys.executable).with_name("trl")), "dpo"]
    command += ["--model_name_or_path", str(tiny_model)]
    command += ["--dataset_name", str(target), "--output_dir", str(tmp_path / "trained"), "--use_cpu", "true"]
    command += ["--max_steps", "2", "--per_device_train_batch_size", "2", "--report_to", "none"]
    command += ["--eval_strategy", "steps", "--eval_steps", "2"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'train_loss'" in done.stdout + done.stderr
    assert "'eval_loss'" in done.stdout + done.stderr
    assert "Ignoring part of dataset_info" not in done.stderr
    state = json.loads((tmp_path / "trained" / "checkpoint-2" / "trainer_state.json").read_text("utf-8"))
    assert state["global_step"] == 2
    assert (tmp_path / "trained" / "model.safetensors").exists()


def test_the_trainers_of_trl_take_the_other_formats_as_they_are(db: Database, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    from trl import KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    def data(name: str) -> Any:
        writing.export(db, ExportRequest(name), tmp_path / name)
        return loaded(tmp_path / name, tmp_path)["train"]

    shared = {"output_dir": str(tmp_path / "trained"), "use_cpu": True, "report_to": "none", "max_steps": 1}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = str(tiny_model)
    sft = SFTTrainer(model, SFTConfig(**shared), train_dataset=data("sft"), processing_class=tokenizer)
    assert len(sft.train_dataset) == 2
    learned = tokenizer.decode([token for token in sft.train_dataset[0]["labels"] if token != -100])
    assert learned.startswith("mended 1<|im_end|>")
    reward = RewardTrainer(model, RewardConfig(**shared), train_dataset=data("reward"), processing_class=tokenizer)
    assert len(reward.train_dataset) == 8
    texts = tokenizer.batch_decode(list(reward.train_dataset["chosen_ids"]))
    assert any(text.startswith("<|im_start|>user\nQuestion 0, über Straße?<|im_end|>") for text in texts)
    assert set(reward.train_dataset["margin"]) == {0.0, 1.0}
    reward.train()
    config = KTOConfig(**shared, per_device_train_batch_size=4)
    kto = KTOTrainer(model, args=config, train_dataset=data("kto"), processing_class=tokenizer)
    assert sorted(kto.train_dataset["label"]) == [False] * 6 + [True] * 6


# ------------------------------------------------------------------------------------------------- whole or not there
def test_what_is_there_already_is_never_overwritten(db: Database, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "letter.txt").write_text("dear", "utf-8")
    (tmp_path / "kept.csv").write_text("mine", "utf-8")
    for request, name in (
        (ExportRequest(), "kept"),
        (ExportRequest("csv"), "kept.csv"),
        (ExportRequest("raw"), "kept"),
    ):
        with pytest.raises(UserError, match="is there already"):
            writing.export(db, request, tmp_path / name)
    assert (tmp_path / "kept" / "letter.txt").read_text("utf-8") == "dear"
    assert (tmp_path / "kept.csv").read_text("utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "kept.csv"]


@pytest.mark.parametrize("name", [*FORMATS, "raw"])
def test_an_export_that_fails_half_way_leaves_nothing(
    db: Database, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "REPORT_SECONDS", -1.0)

    def fail(done: int, total: int) -> None:
        raise OSError(28, "No space left on device")

    for target in (tmp_path / "out", tmp_path / "out.zip"):
        with pytest.raises(UserError, match=r"can't be written \(No space left on device\)"):
            writing.export(db, ExportRequest(name), target, fail)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_has_left_beside_its_target_goes_with_the_next_one(db: Database, tmp_path: Path) -> None:
    """Not what is young, which may still be written, nor others' files."""
    endings = ("0123456789ab", "ba9876543210q_1", "0123456789ac", "mine")
    half, packed, young, others = (tmp_path / f".out.zip.{ending}" for ending in endings)
    for left in (half, others):
        left.write_text("half", "utf-8")
    for left in (packed, young):
        left.mkdir()
    for left in (half, packed, others):
        os.utime(left, (0, 0))
    with writing.whole(tmp_path / "out.zip") as path:
        path.write_text("whole", "utf-8")
    assert set(tmp_path.iterdir()) == {young, others, tmp_path / "out.zip"}


@pytest.mark.parametrize("name", [*FORMATS, "raw"])
def test_an_export_is_on_the_disk_before_it_has_its_name(
    db: Database, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut leaves a file that looks whole and is empty."""
    synced: set[int] = set()
    sync, rename = os.fsync, Path.rename

    def syncing(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        sync(handle)

    def renamed(path: Path, target: Path) -> Path:
        files = [file for file in (path, *path.rglob("*")) if file.is_file()]
        assert files
        assert [file.name for file in files if file.stat().st_ino not in synced] == []
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "rename", renamed)
    for target in (tmp_path / "out", tmp_path / "out.zip"):
        writing.export(db, ExportRequest(name), target)
        assert target.exists()


def test_a_file_that_the_system_refuses_to_let_grow_is_one_sentence(tmp_path: Path) -> None:
    db = new_database(tmp_path / "data")
    judge_all(db)
    # Larger than the limit, which has to leave SQLite its shared memory of 32 KiB.
    db.connection.execute("UPDATE response SET text = ? WHERE purpose = 'demonstrate'", ("long " * 100_000,))
    db.close()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-m", "annotation", "export", "--format", "sft", "--as", "jsonl"]
    (tmp_path / "to").mkdir()
    done = subprocess.run(
        [*command, "--data", str(tmp_path / "data"), "--to", str(tmp_path / "to" / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode == 2, done.stderr
    assert "can't be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("name", [*FORMATS])
def test_an_export_of_nothing_is_refused_with_the_reasons(db: Database, tmp_path: Path, name: str) -> None:
    asked = ExportRequest(name, filters=Filters(until="2001-01-01"))
    reason = "made at another time than asked for 27" if name != "sft" else "made at another time than asked for 28"
    with pytest.raises(UserError, match=f"Nothing is left to export .*{reason}"):
        writing.export(db, asked, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*FORMATS])
def test_an_export_of_comparisons_that_are_none_does_not_say_that_nobody_has_judged(
    db: Database, tmp_path: Path, name: str
) -> None:
    asked = ExportRequest(name, filters=Filters(comparisons="status=withdrawn"))
    with pytest.raises(UserError, match=r"^Nothing fits this format and these filters\. Nothing was written\.$"):
        writing.export(db, asked, tmp_path / "out")


def test_what_is_judged_meanwhile_is_in_the_next_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "REPORT_SECONDS", -1.0)
    db = new_database(tmp_path / "data")
    judge_all(db)
    ann = db.value("SELECT id FROM annotator WHERE name = 'ann'")
    wrote = []

    def change_all() -> None:
        for one in own_judgements.latest(db, ann):
            changing.revise(db, ann, one.made.id, act("tie"))
        wrote.append(True)

    def meanwhile(done: int, total: int) -> None:
        if not wrote:
            thread = threading.Thread(target=change_all)
            thread.start()
            thread.join()

    before = writing.count(db, ExportRequest())
    during = writing.export(db, ExportRequest(), tmp_path / "out", meanwhile)
    after = writing.count(db, ExportRequest())
    db.close()
    assert wrote
    assert (during.rows, during.left_out) == (before.rows, before.left_out)
    assert after.left_out != before.left_out


# -------------------------------------------------------------------------------------------------------- command line
def test_the_command_line_writes_counts_and_refuses_in_sentences(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from annotation.__main__ import main

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["export", *arguments, "--data", str(data_dir)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    status, out, err = run("--format=kto", "--as=jsonl", "--to", str(tmp_path / "kto"))
    assert (status, err.splitlines()[-1]) == (0, "27 of 27 judgements")
    assert "18 rows (train 12, test 6)" in out
    assert "answers better than some and worse than others 1" in out
    status, out, _ = run("--count", "--annotator=zoe", "--source=human")
    assert json.loads(out) == {"rows": {"train": 6, "test": 3}, "left_out": {"other-annotator": 18}}
    assert run() == (2, "", "Say where the export goes: --to PATH, a directory or file that is not there yet.\n")
    status, out, err = run("--policy=dpo-7", "--to", str(tmp_path / "x"))
    assert (status, out) == (2, "")
    assert "There is no policy 'dpo-7' here. There is: base." in err


@pytest.mark.parametrize("name", ["preference", "reward"])
def test_what_was_exported_and_imported_elsewhere_is_exported_the_same(
    data_dir: Path, tmp_path: Path, name: str
) -> None:
    """Through both commands and a Parquet file: the same prompts, answers and strengths come out again."""
    from annotation.__main__ import main

    elsewhere = ["--data", str(tmp_path / "elsewhere")]
    wanted = ["--format", name, "--source", "human", "--min-agreement", "1", "--as", "parquet"]
    assert main(["export", *wanted, "--data", str(data_dir), "--to", str(tmp_path / "first")]) == 0
    assert main(["import", str(tmp_path / "first" / "train.parquet"), "--split", "train", *elsewhere]) == 0
    assert main(["export", "--format", name, "--as", "parquet", "--to", str(tmp_path / "second"), *elsewhere]) == 0
    kept = ("prompt", "chosen", "rejected", "strength", "margin")
    first, second = (
        [{key: row.get(key) for key in kept} for row in loaded(tmp_path / turn, tmp_path)["train"]]
        for turn in ("first", "second")
    )
    assert len(first) == 3
    assert sorted(first, key=str) == sorted(second, key=str)


# ------------------------------------------------------------------------------------------------------------ the page
@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """A data directory of its own, with an admin, and what writes exports."""
    db = new_database(tmp_path / "data")
    judge_all(db)
    access.add_account(db, "kim", "admin", "a long enough password")
    runner = runner_of(tmp_path / "data")
    runner.start()
    yield Context(db, tmp_path / "data", BASE_NAME)
    runner.stop(PATIENCE_SECONDS)
    db.close()


def runner_of(data_dir: Path) -> LaneRunner[WriteExport]:
    """What writes exports in this process."""
    return LaneRunner(data_dir, EXPORTS, export_files.perform)


class Page:
    """An admin's open page."""

    def __init__(self, context: Context, name: str = "kim") -> None:
        with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Data"), gr.Column():
            tab.build(demo, context)
        self.functions: dict[Any, Callable[..., Any]] = {
            block.api_name: block.fn for block in demo.fns.values() if block.fn is not None
        }
        self.request = gr.Request(username=name)
        self.values: dict[str, Any] = {
            "format": "preference",
            "container": "dataset",
            "policies": [],
            "iterations": [],
            "annotators": [],
            "sources": ["human", "ai", "edited", "imported"],
            "since": "",
            "until": "",
            "agreement": 0,
            "comparisons": "",
            "names": False,
            "licence": "",
        }

    def call(self, name: str, *inputs: Any) -> Any:
        function = self.functions[name]
        return function(*asked_by(self.request.username, function), *inputs)

    def count(self, **changes: Any) -> tuple[str, str, bool]:
        """What is said of the form, the command line, and whether it can be written."""
        command = self.describe(**changes)
        counting, (said, write) = self.call("export-recount", *self.values.values())
        assert "Counting …" in counting[0], "not the figures of the form as it was"
        return said, command, write["interactive"]

    def describe(self, **changes: Any) -> str:
        """The command line, which is there before the count."""
        self.values |= changes
        command, container, self.told = self.call("export-redescribe", *self.values.values())
        assert container["interactive"] == (self.values["format"] not in ("csv", "raw"))
        return str(command)

    def finished(self) -> list[Any]:
        """What the page shows once nothing is being written any more."""
        return wait_until("the export", lambda: (s := self.call("export-follow")) and resting(s[3]) and s)


def resting(pulse: str) -> bool:
    """Whether the page does not ask again by itself."""
    return float(pulse.split()[1]) == math.inf


def test_the_licence_that_is_chosen_or_typed_goes_into_the_command(context: Context) -> None:
    page = Page(context)
    for licence in (*LICENCES, "gpl-3.0"):
        assert f"--licence={licence} " in page.describe(licence=licence)
    said, command, interactive = page.count(licence="My own!")
    assert "is no licence as the Hub names them" in said
    assert (command, interactive) == ("", False)
    assert "--licence" not in page.describe(licence="")


def test_an_export_can_be_of_one_list_alone(context: Context, tmp_path: Path) -> None:
    def exported(comparisons: str) -> list[int]:
        target = tmp_path / f"{comparisons or 'all'}.csv"
        request = ExportRequest("csv", filters=Filters(comparisons=comparisons))
        writing.export(context.db, request, target)
        with target.open(encoding="utf-8-sig", newline="") as file:
            return sorted({int(line["comparison_id"]) for line in csv.DictReader(file)})

    first, second, *_others = exported("")
    wanted = f"ids={first},{second}"
    assert exported(wanted) == [first, second]
    page = Page(context)
    _said, command, writable = page.count(comparisons=f"?{wanted}")
    assert (f"--comparisons={wanted}" in command, writable) == (True, True)
    said, command, writable = page.count(comparisons="status=great")
    assert ("There is no status" in said, command, writable) == (True, "", False)


def test_the_form_has_an_address_that_fills_it_again(context: Context) -> None:
    page = Page(context)
    fill = page.functions["export-only"]

    def filled(part: str) -> dict[str, Any]:
        sent = fill(*asked_by("kim", fill, part=part))
        return {name: one["value"] for name, one in zip(page.values, sent, strict=False) if "value" in one}

    page.describe()
    assert json.loads(page.told)[2] == "", "as at first"
    chosen: dict[str, Any] = {
        **{"format": "csv", "container": "parquet", "policies": ["base"], "iterations": ["0"]},
        **{"annotators": ["ann", "a, b%"], "sources": ["human", "edited"], "since": "2026-01-01"},
        **{"until": "2026-02-01", "agreement": 0.65, "comparisons": "status=judged&since=2026-01-01", "names": True},
        "licence": "mit",
    }
    for changes in (chosen, {**chosen, "sources": []}):
        page.describe(**changes)
        assert filled(json.loads(page.told)[2]) == changes
    shown = [
        fill(*asked_by("kim", fill, part=part))[list(tab.DEFAULTS).index("comparisons")].get("visible")
        for part in ("?status=judged", "?format=csv", "?all=1")
    ]
    assert shown == [True, False, False], "whoever does not come from a list is not asked for its filter"
    # A list's address alone leaves the rest as it stands; without a query everything does.
    assert filled("?status=judged") == {"comparisons": "status=judged"}
    assert filled("") == {}
    # What means nothing is as at first, but for a list's filter, which stands there to be refused.
    assert filled("?format=x&agreement=9999&sources=human,x&status=great") == {
        **tab.DEFAULTS,
        "comparisons": "status=great",
    }
    page.describe(comparisons="status=great")
    assert page.told == gr.skip()


def test_the_page_counts_writes_offers_and_deletes(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, run, refused = Page(context), export_files.run_command, threading.Event()
    monkeypatch.setattr(export_files, "run_command", lambda *how: refused.wait(PATIENCE_SECONDS) and run(*how))
    policies_, iterations, people, progress, files, _, pulse, *_ = page.call("export-open")
    assert (policies_["choices"], iterations["choices"]) == (["base"], ["0"])
    assert people["choices"] == ["ann", "bob", "zoe", "kim"]
    assert (progress, resting(pulse)) == ("", True)
    assert "no exports yet" in files
    said, command, writable = page.count()
    assert "11 rows would be exported: 8 for training, 3 for testing." in said
    assert command.startswith("python -m annotation export --format=preference --as=dataset --data=")
    assert writable
    said, command, _ = page.count(agreement=0.9, sources=["human"], iterations=["0"])
    assert "5 rows would be exported" in said
    assert "agreement below the minimum" in said
    assert "--iteration=0 --source=human --min-agreement=0.9" in command
    progress, _, _, pulse, cancel, _ = page.call("export-write", *page.values.values())
    assert not resting(pulse)
    assert "progressbar" in progress
    assert cancel["visible"]
    with pytest.raises(gr.Error, match="being written already"):
        page.call("export-write", *page.values.values())
    refused.set()
    progress, files, choice, _, cancel, deletion = page.finished()
    assert not cancel["visible"]
    assert deletion["visible"]
    (made,) = export_files.files(context.data_dir)
    assert f'<a href="exports/{made.name}" download>' in files
    assert "5 rows (3 for training, 2 for testing). Left out: " in progress
    assert str(tmp_path) not in progress
    assert choice["choices"] == [made.name]
    with zipfile.ZipFile(export_files.find(context.data_dir, made.name)) as packed:
        assert packed.testzip() is None
    with pytest.raises(gr.Error, match="Choose an export first"):
        page.call("export-delete", None)
    said, progress, files, *_, deletion = page.call("export-delete", made.name)
    assert f"{made.name} is deleted." in said
    assert "is deleted" not in progress, "which a poll draws anew"
    assert "no exports yet" in files
    assert not deletion["visible"], "there is nothing to delete"
    with pytest.raises(gr.Error, match="no such export"):
        page.call("export-delete", made.name)


def test_what_an_export_holds_and_what_not_is_told_in_each_readers_language() -> None:
    left_out = {"tie": 2, "low-agreement": 1300}
    stored = kept(export_files.written("a.zip", {"train": 1200, "test": 1}, left_out))
    with pytest.raises(UserError) as refused:
        writing.refuse_nothing(CardStatistics(left_out=Counter(left_out)))
    nothing = kept(str(refused.value))
    of_archive = kept(export_files.written("a.jsonl", {"prompt": 1, "judge": 0, "judgement": 1000}, {}))
    assert retold(stored) == (
        "Wrote a.zip: 1,201 rows (1,200 for training, 1 for testing). "
        "Left out: agreement below the minimum 1,300, tie 2."
    )
    assert retold(of_archive) == "Wrote a.jsonl: 1,001 rows (prompt 1, judgement 1,000)."
    with speaking(language_of("de")):
        assert retold(stored) == (
            "a.zip geschrieben: 1.201 Zeilen (1.200 zum Trainieren, 1 zum Prüfen). "
            f"Ausgelassen: {_(LEFT_OUT['low-agreement'])} 1.300, {_(LEFT_OUT['tie'])} 2."
        )
        assert f"({_(LEFT_OUT['low-agreement'])} 1.300, {_(LEFT_OUT['tie'])} 2)" in retold(nothing)
        assert retold(of_archive) == "a.jsonl geschrieben: 1.001 Zeilen (prompt 1, judgement 1.000)."


def test_an_export_is_cancelled_on_the_page(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    run, endless = export_files.run_command, [sys.executable, "-c", "import time; time.sleep(3600)"]
    monkeypatch.setattr(export_files, "run_command", lambda attempt, command, *how: run(attempt, endless, *how))
    page = Page(context)
    with pytest.raises(gr.Error, match="No export is being written"):
        page.call("export-cancel")
    page.call("export-write", *page.values.values())
    assert "Requested by kim." in Page(context, "kim").call("export-open")[3], "before another admin cancels it"
    page.call("export-cancel")
    progress, *_ = page.finished()
    assert "It was cancelled." in progress
    assert export_files.files(context.data_dir) == []


@pytest.mark.parametrize("name", ["kto", "csv", "raw"])
def test_the_page_writes_directories_and_single_files(context: Context, name: str) -> None:
    page = Page(context)
    said, _, writable = page.count(format=name, container="jsonl")
    assert writable, said
    assert ("filters, names and licence don" in said) is (name == "raw")
    page.call("export-write", *page.values.values())
    progress, *_ = page.finished()
    (made,) = export_files.files(context.data_dir)
    assert made.name.startswith(f"{name}-20")
    assert "Wrote " in progress


def test_the_page_says_what_can_not_be_had_instead_of_the_count(context: Context) -> None:
    page = Page(context)
    for changes, expected in (
        ({"since": "<b>soon"}, "&#x27;&lt;b&gt;soon&#x27; is no day"),
        ({"since": "", "sources": []}, "Choose at least one source"),
        ({"sources": ["human"], "annotators": ["nobody"]}, "There is no annotator"),
        ({"annotators": {}, "policies": 7, "format": ["x"]}, "There is no format"),
    ):
        said, command, writable = page.count(**changes)
        assert expected in said
        assert (command, writable) == ("", False)
    page.count(format="preference", policies=[], annotators=[])
    said, _, writable = page.count(until="2001-01-01")
    assert "0 rows would be exported." in said
    assert not writable
    with pytest.raises(gr.Error, match="is no day"):
        page.call("export-write", *{**page.values, "until": "soon"}.values())


def test_an_export_that_failed_says_why_on_the_page(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(context)
    monkeypatch.setattr(export_files, "file_name", lambda request: "taken.zip")
    (context.data_dir / "exports").mkdir()
    (context.data_dir / "exports" / "taken.zip").write_bytes(b"x")
    page.call("export-write", *page.values.values())
    progress, *_ = page.finished()
    assert "is there already" in progress


# Instead of what writes an export: one that never gives what it wrote its name.
UNNAMED_CODE = "import os, runpy, time; os.rename = lambda *names: time.sleep(3600); "
UNNAMED_CODE += "runpy.run_module('annotation', run_name='__main__', alter_sys=True)"
UNNAMED = ("-c", UNNAMED_CODE, "export")


@pytest.mark.own_start  # it is found by its command
def test_a_killed_export_leaves_no_file_and_the_next_one_works(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as held:
        held.setattr(export_files, "PROGRAM", UNNAMED)
        export_files.start(context.db, ExportRequest(), "kim")
        writing_ = wait_until("its start", lambda: (job := newest(context)) and job.status == "running" and job)
        wait_until("its process", lambda: process_writing(psutil.Process(), writing_.spec.file)).kill()
        ended = wait_until("its end", lambda: (job := newest(context)) and not job.is_open and job)
    assert ended.status == "failed"
    assert ended.message.endswith("(status -9). The process was killed, often because memory ran out.")
    assert export_files.files(context.data_dir) == []
    leftover = context.data_dir / "exports" / ".old.part"
    leftover.write_bytes(b"half")
    os.utime(leftover, (0, 0))
    export_files.start(context.db, ExportRequest("csv"), "kim")
    wait_until("its end", lambda: (job := newest(context)) and job.status == "finished")
    assert not leftover.exists()
    assert [entry.name[:4] for entry in export_files.files(context.data_dir)] == ["csv-"]


def process_writing(parent: psutil.Process, file: str) -> psutil.Process | None:
    """The process below another that writes an export."""
    for child in parent.children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if file in " ".join(child.cmdline()):
                return child
    return None


def newest(context: Context) -> Job[WriteExport] | None:
    """The latest export."""
    return EXPORTS.newest(context.db)


def test_the_command_line_that_the_page_shows_is_the_one_that_is_run(context: Context) -> None:
    asked = ExportRequest("csv", filters=Filters(annotators=("ann",), since="2026-01-31"), names=True)
    shown = export_command.shell_command(asked, context.data_dir)
    assert shown.startswith("python -m annotation export --format=csv --annotator=ann --since=2026-01-31 --names ")
    command = export_files.command_of(context.data_dir, asked)
    assert command[command.index("-m") :] == shown.split()[1:-1]


# ----------------------------------------------------------------------------------------------------------- downloads
@dataclass(frozen=True)
class Site:
    """A running server and its data directory."""

    url: str
    cookie: str
    data_dir: Path

    def get(self, path: str, name: str | None) -> httpx.Response:
        """Ask for a path as it is written, as one of these people or as a stranger."""
        db = open_database(self.data_dir)
        cookies = {}
        if name is not None:
            cookies[self.cookie] = access.open_session(db, access.authorise(db, name, "annotator"))
        db.close()
        with httpx.Client(base_url=self.url, cookies=cookies, timeout=PATIENCE_SECONDS) as client:
            return client.get(httpx.URL(self.url).copy_with(raw_path=path.encode()))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The real server without workers, with an export, and secrets beside it."""
    directory = tmp_path_factory.mktemp("site") / "data"
    db = new_database(directory)
    judge_all(db)
    access.add_account(db, "kim", "admin", "a long enough password")
    db.close()
    (directory / "exports").mkdir()
    (directory / "exports" / "made.zip").write_bytes(b"the export")
    (directory / "exports" / ".hidden").write_bytes(b"half written")
    (directory / "exports" / "folder").mkdir()
    (directory / "exports" / "link").symlink_to(directory / "prefloop.db")
    command = [sys.executable, "app.py", "--no-workers", "--no-browser", "--port", "0", "--data", str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("Prefloop runs at ").strip().rstrip("/")
        try:
            yield Site(url, app.Settings(port=int(url.rsplit(":", 1)[1])).cookie, directory)
        finally:
            process.terminate()


def test_an_admin_fetches_an_export_as_a_file_to_save(site: Site) -> None:
    found = site.get("/exports/made.zip", "kim")
    assert (found.status_code, found.content) == (200, b"the export")
    assert found.headers["content-disposition"] == 'attachment; filename="made.zip"'
    assert found.headers["cache-control"] == "no-store"
    assert found.headers["x-content-type-options"] == "nosniff"


def test_nobody_else_fetches_an_export(site: Site) -> None:
    found = site.get("/exports/made.zip", "ann")
    assert (found.status_code, found.text) == (403, "Only an admin may fetch this.")
    assert site.get("/exports/nothing.zip", "ann").status_code == 403
    stranger = site.get("/exports/made.zip", None)
    assert stranger.status_code == 401
    assert b"the export" not in stranger.content


@pytest.mark.parametrize(
    "path",
    [
        "/exports/../prefloop.db",
        "/exports/..%2fprefloop.db",
        "/exports/%2e%2e%2fprefloop.db",
        "/exports/%2e%2e/prefloop.db",
        "/exports/..%5cprefloop.db",
        "/exports//etc/passwd",
        "/exports/%2fetc%2fpasswd",
        "/exports/.hidden",
        "/exports/%2ehidden",
        "/exports/made.zip%00",
        "/exports/made.zip%0a",
        "/exports/folder",
        "/exports/link",
        "/exports/",
        "/exports",
        "/exports/" + "a" * 300,
    ],
)
def test_no_name_leads_out_of_the_directory(site: Site, path: str) -> None:
    found = site.get(path, "kim")
    assert b"SQLite format" not in found.content
    assert b"root:" not in found.content
    assert b"half written" not in found.content
    assert b"the export" not in found.content
    assert found.status_code != 200 or found.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("name", ["ann", "kim"])
def test_gradio_serves_no_export_to_anybody(site: Site, name: str) -> None:
    for way in ("file=", "file/", "stream/"):
        for path in (site.data_dir / "exports" / "made.zip", site.data_dir / "prefloop.db"):
            found = site.get(f"/gradio_api/{way}{path}", name)
            assert found.status_code in (403, 404)
            assert b"the export" not in found.content


@pytest.mark.parametrize(("overlap", "said"), [(1, "2 answers, 1 annotator each"), (3, "2 answers, 3 annotators each")])
def test_a_card_counts_annotators_as_people_do(overlap: int, said: str) -> None:
    assert said in project_text(Project(overlap=overlap))
