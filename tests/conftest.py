"""Fixtures: a real data directory and database, and rows put into it as the workers would.

What every test here keeps to, so that the suite says the same on any machine:
- Wait for an event (a row, a file, a line, a process's end) with `wait_until`, or in a page with `wait_for` and
  Playwright's own waits. `PATIENCE_SECONDS` is the only limit, for what hangs.
- Assert no duration. Where time is the subject, hand it in: a clock, a row's time, a patched constant.
- What has to happen in the middle of something happens from inside: `Pace` holds draws at a token, `kill_worker` at a
  step, `run_beforehand` puts code into workers. A job that a test has claimed is kept alive by `kept_alive`.
- Warnings are errors. A library's own that can't be avoided is named in pyproject.toml, by message and module.
- Importing torch costs seconds of a processor. A job that needs no process of its own runs in the test's
  (`Machine.perform`); the programs that a test starts are forked from one that has imported already (`fork_server`),
  except in tests marked `own_start`: those about how a program starts, dies, or uses memory. Applications and finished
  runs are shared within a module.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, settings

from annotation.database import FILE_NAME, Database, open_database
from annotation.jobs import liveness
from annotation.records import Annotator, Claim, Prompt, Response, Sampling, Split
from annotation.store import comparison_store, project_store, prompt_store
from annotation.tabs import gradio_loading
from annotation.web import access
from rlhf.models import registry
from tests import fork_server
from tests.fakes.hub_server import HubServer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: files run side by side, on two cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in rlhf.workers.worker.prepare_process; before torch, too
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # nothing is compiled; what would do it takes a second to import
# What it is anyway, which Gradio would work out for every component.
os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(tempfile.gettempdir()).resolve() / "gradio"))
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # a Hub on loopback speaks the older protocol

# How long an example takes says nothing but how busy the machine is.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# A hash takes a quarter of a second on purpose, and nearly every test has an account. The program's own is for those
# that are about it.
SLOW_HASHER, access.hasher = access.hasher, PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

LONGEST = {"browser", "real_model", "own_start"}
BASE_NAME = "SmolLM2-135M-Instruct"
pytest_plugins = ["tests.machine_fixtures"]
starter = fork_server.install()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Decide whether this test's programs, and those of fixtures that it is the first to use, are forked."""
    if starter is not None:
        starter.wanted = item.get_closest_marker("own_start") is None


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # pytest-xdist would hand out last the files of one long test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick files come last, so that no process waits long for another. Before them those that start programs as users
    do, which wait a lot, take turns with those that compute.
    """
    ranks: dict[Path, int] = {}
    for item in items:
        rank = 0 if LONGEST & {mark.name for mark in item.iter_markers()} else 2 - bool(item.get_closest_marker("slow"))
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    of_rank = [[path for path, rank in ranks.items() if rank == wanted] for wanted in range(3)]
    in_turns = [path for both in zip_longest(*of_rank[:2]) for path in both if path is not None]
    place = {path: number for number, path in enumerate([*in_turns, *of_rank[2]])}
    items.sort(key=lambda item: place[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, Any, Any]:
    """Nothing that is loaded goes: looking for garbage meanwhile is half of what it costs to read the tests."""
    gc.disable()
    try:
        worker = os.environ.get("PYTEST_XDIST_WORKER")
        if worker and session.config.args_source is pytest.Config.ArgsSource.TESTPATHS:
            import_tests_from_own_share(int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
        return (yield)
    finally:
        gc.enable()


def import_tests_from_own_share(worker: int, workers: int) -> None:
    """On a clean checkout pytest compiles each file of tests, in each process: as much work as to collect them.

    So each process begins elsewhere, and finds compiled what others have begun with.
    """
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    first = len(files) * (worker % workers) // workers  # one that stands in for a process that died has a higher number
    for path in (*files[first:], *files[:first]):
        with suppress(Exception, pytest.skip.Exception):  # which pytest meets again, and reports
            import_module(".".join(path.relative_to(fork_server.ROOT).with_suffix("").parts))


def pytest_collection_finish() -> None:
    """Spare tests six costs that none is about.

    What is loaded by now stays: the libraries ask for a garbage collection after each training, which would look
    through all of it. Pages are made as the program makes them. Accelerate looks for a package once. And clients of
    HTTP share what they check certificates with, which nothing on loopback has. And the sample answers of trainings
    are short, and PEFT writes no cards, which ours replace.
    """
    gc.collect()
    gc.freeze()
    if "httpx" in sys.modules:
        from httpx._transports import default

        default.create_ssl_context = cache(default.create_ssl_context)
    if "gradio" in sys.modules:
        gradio_loading.load()
    if "accelerate" in sys.modules:
        fork_server.look_at_packages_once()
    if "peft" in sys.modules:
        fork_server.write_no_card_of_peft()
    if "rlhf.algorithms.trainer" in sys.modules:
        fork_server.draw_short_samples()


def pytest_unconfigure() -> None:
    if starter is not None:
        starter.close()


@pytest.fixture(scope="session", autouse=True)
def first_database() -> None:
    """Made before some test has set the clock."""
    served_file()


@pytest.fixture(autouse=True)
def workers_end() -> Iterator[None]:
    """What claims a job in the tests' own process lives as long as its test."""
    yield
    for lock in liveness.held.values():
        lock.release()
    liveness.held.clear()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    return tmp_path / "data"


@pytest.fixture
def db(data_dir: Path) -> Iterator[Database]:
    """A migrated database with the base policy serving."""
    database = new_database(data_dir, served_file())
    yield database
    database.close()


def new_database(data_dir: Path, file: bytes | None = None) -> Database:
    """The database of a new data directory: a copy of one that was migrated, which costs a tenth of migrating."""
    data_dir.mkdir(mode=0o700, parents=True)
    (data_dir / FILE_NAME).write_bytes(file or migrated_file())
    return open_database(data_dir)


@cache
def migrated_file() -> bytes:
    """The file of a database without rows."""
    with tempfile.TemporaryDirectory() as directory:
        open_database(Path(directory)).close()
        return (Path(directory) / FILE_NAME).read_bytes()


@cache
def served_file() -> bytes:
    """The file of a database with what `db` has."""
    with tempfile.TemporaryDirectory() as directory:
        database = new_database(Path(directory) / "data")
        registry.ensure_base(database, BASE_NAME)
        measure_nobody(database)
        database.close()
        return database.path.read_bytes()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """An empty Hub on loopback."""
    with HubServer() as server:
        yield server


def dump(db: Database) -> list[str]:
    """The whole database as text: each table's and index's statement, and each row as `INSERT INTO "table" …`."""
    made = db.rows("SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name")
    lines = [entry["sql"] for entry in made]
    # Not the full-text indexes: they are made of the texts, and have no rows to read.
    for name in (entry["name"] for entry in made if entry["type"] == "table" and "_words" not in entry["name"]):
        rows = db.connection.execute(f'SELECT * FROM "{name}" ORDER BY rowid')
        lines += [f'INSERT INTO "{name}" VALUES {row!r}' for row in rows]
    return lines


def seed_prompts(db: Database, count: int, split: Split = "train") -> list[Prompt]:
    """Add prompts and return those of the split."""
    start = db.value("SELECT count(*) FROM prompt")
    texts = [f"Say thing number {start + number} in one sentence." for number in range(count)]
    prompt_store.add_prompts(db, [Prompt(({"role": "user", "content": text},), split, "test") for text in texts])
    return prompt_store.prompts(db, split)


def make_response(prompt: Prompt, text: str, model_id: int = 1, seed: int = 0) -> Response:
    """An answer as a worker would record it."""
    return Response(
        prompt_id=prompt.id,
        model_id=model_id,
        text=text,
        sampling=Sampling(),
        seed=seed,
        rendered_prompt=f"<|im_start|>user\n{prompt.text}<|im_end|>\n<|im_start|>assistant\n",
        prompt_tokens=12,
        tokens=len(text.split()),
        finish_reason="stop",
    )


def seed_comparisons(db: Database, count: int, split: Split = "train", model_id: int = 1) -> list[int]:
    """Add prompts with a comparison each; the texts name prompt and position, so a test knows what it sees."""
    made = []
    for prompt in seed_prompts(db, count, split)[-count:]:
        answers = [make_response(prompt, f"Answer {place} to {prompt.text}", model_id) for place in "AB"]
        comparison_id = comparison_store.add_comparison(db, answers)
        assert comparison_id is not None
        made.append(comparison_id)
    return made


LEFT_TO_RIGHT = {"left": [1, 2], "right": [2, 1]}
STRENGTH = {"much": 3, "clearly": 2, "slightly": 1}


def act(word: str, **extras: Any) -> dict[str, Any]:
    """What the page sends for a verdict on a pair: 'left-clearly', 'right-much', 'tie', 'all-bad', 'skip' …"""
    if word in ("all-bad", "skip"):
        return {"outcome": word, **extras}
    if word == "tie":
        return {"outcome": "ranked", "ranks": [1, 1], "strength": 0, **extras}
    side, degree = word.split("-")
    return {"outcome": "ranked", "ranks": LEFT_TO_RIGHT[side], "strength": STRENGTH[degree], **extras}


def shown_texts(claim: Claim) -> tuple[str, ...]:
    """The answers as their annotator sees them, from left to right."""
    return tuple(answer.text for answer in claim.shown)


def judgement_count(db: Database, annotator: Annotator | None = None) -> int:
    """Current judgements (skips aside) of one annotator or of all.

    What is there to measure annotators (gold, re-asks) and what was imported does not count.
    """
    return int(
        db.value(
            """SELECT count(*) FROM current_judgement
               WHERE outcome != 'skip' AND purpose IN ('own', 'settle')
                 AND (:annotator IS NULL OR annotator_id = :annotator)""",
            {"annotator": annotator.id if annotator else None},
        )
    )


def measure_nobody(db: Database) -> None:
    """Hand out neither gold, re-asks nor a candidate's answers, so that a test knows what comes next."""
    project_store.set_project(
        db, replace(project_store.project(db), gold_share=0.0, re_ask_share=0.0, candidate_share=0.0)
    )
