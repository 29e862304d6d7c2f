"""Safe copies on a real Hub server and in a directory: made, restored, refused, and never written over each other."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from annotation import database, hub_client
from annotation.api import AnnotationApi
from annotation.claims import handing_out, judging
from annotation.copies import copies_command, copy_reasons, restoration, safe_copies
from annotation.copies.safe_copies import Schedule
from annotation.copies.targets import (
    KEPT,
    MANIFEST,
    CopyManifest,
    CopyTarget,
    DirectoryTarget,
    HubTarget,
    copies_in,
    create_whole,
    digest_of,
    refuse_shared_fate,
)
from annotation.database import FILE_NAME, Database, open_database
from annotation.hub_client import Conflict, connect
from annotation.imports import importing
from annotation.jobs import job_table
from annotation.records import Annotator, UserError
from annotation.schema import migrations
from annotation.sqlite import sqlite3, sqlite_utils
from annotation.store import prompt_store
from annotation.ui import formatting
from annotation.web import access, invitations
from annotation.web.settings import Settings
from rlhf import web_server
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data import held_out_sets
from rlhf.data.held_out_sets import LEAST
from rlhf.data.snapshots import CountedRows, prompt_rows, store_snapshot
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.hub import token_process
from rlhf.hub.token_launcher import PLACE
from rlhf.jobs import job_store
from rlhf.models import decision_store, registry
from rlhf.submission import job_submission, preconditions, preflight
from rlhf.submission.form_fields import forms
from rlhf.tabs.iterations import check_report
from tests.conftest import BASE_NAME, act, seed_comparisons, seed_prompts
from tests.fakes.hub_server import HubServer
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, wait_until

pytestmark = pytest.mark.slow

REPO = "ann/project-copies"
RUN, OTHER = "a" * 32, "b" * 32
COMPARISONS = 30


@pytest.fixture(autouse=True)
def plain_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The client in this process as `HubServer.environment` sets it for others; it reads these at each call."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))


def on_hub(hub: HubServer, token: str | None = "hf_write_ann") -> HubTarget:
    return HubTarget(connect(token, hub.url), REPO)


@pytest.fixture(params=["directory", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path, hub: HubServer) -> CopyTarget:
    """Each kind of place."""
    return DirectoryTarget(tmp_path / "bucket") if request.param == "directory" else on_hub(hub)


@pytest.fixture
def ann(db: Database) -> Annotator:
    """Somebody with work to do."""
    seed_comparisons(db, COMPARISONS)
    return access.add_account(db, "ann", "annotator", "a long enough password")


def judge(db: Database, annotator: Annotator, count: int) -> None:
    for _ in range(count):
        claim = handing_out.claim_next(db, annotator.id)
        assert claim is not None
        judging.judge(db, annotator.id, claim.nonce, act("left-clearly"))


def judgements(data_dir: Path) -> int:
    db = open_database(data_dir)
    try:
        return safe_copies.judged(db)[1]
    finally:
        db.close()


def newest(place: CopyTarget) -> CopyManifest:
    manifest = next(iter(copies_in(place, place.versions())))[1]
    assert isinstance(manifest, CopyManifest)
    return manifest


def add_model(db: Database, data_dir: Path, revision: str, status: str = "candidate") -> Path:
    """An adapter with its files."""
    path = data_dir / "adapters" / revision
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(os.urandom(5000))
    (path / "adapter_config.json").write_text("{}")
    registry.add(
        db, revision=revision, algorithm="dpo", base=BASE_NAME, parent_id=1, job_id=None, path=f"adapters/{revision}",
        sha256="0" * 64,
    )  # fmt: skip
    with db.transaction() as connection:
        connection.execute("UPDATE model SET status = 'retired' WHERE status = ? AND ? = 'serving'", (status, status))
        connection.execute("UPDATE model SET status = ? WHERE revision = ?", (status, revision))
    return path


def spoil(place: CopyTarget, hub: HubServer, path: str, content: bytes | None) -> None:
    """Change a file of the newest copy behind the program's back, or take it away."""
    if isinstance(place, DirectoryTarget):
        version = place.head()
        manifest = place.manifest(version)
        assert manifest is not None
        target = place.copies / f"{version}.json" if path == MANIFEST else place.contents / manifest.files[path].sha256
        target.unlink()
        if content is not None:
            target.write_bytes(content)
        return
    repo = hub.repos["dataset", REPO]
    tree = dict(repo.head.tree)
    del tree[path]
    if content is not None:
        tree[path] = hub.keep(path, content)
    repo.commits[repo.branches["main"]] = type(repo.head)(
        repo.head.sha, repo.head.parent, repo.head.title, repo.head.created, tree
    )


# ---------------------------------------------------------------------------------------------------- there and back
def test_a_copy_comes_back_with_judgements_accounts_and_the_models_that_are_needed(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, tmp_path: Path
) -> None:
    serving = add_model(db, data_dir, "serves", "serving")
    add_model(db, data_dir, "was-turned-down", "rejected")
    judge(db, ann, 4)
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 2)

    found = restoration.begin(place, tmp_path / "new")
    assert "Restored 4 judgements" in found
    restored = open_database(tmp_path / "new")
    assert safe_copies.judged(restored)[1] == 4
    assert access.check_password(restored, "ann", "a long enough password") is not None
    name = "adapter_model.safetensors"
    copied = tmp_path / "new" / "adapters" / "serves" / name
    assert copied.read_bytes() == (serving / name).read_bytes()
    assert registry.serving(restored).revision == "serves"
    assert registry.by_revision(restored, "serves").deleted is None
    gone = registry.by_revision(restored, "was-turned-down")
    assert gone.deleted is not None
    assert "without the files of was-turned-down: these count as deleted" in found
    assert not check_report.can_serve(gone)
    with pytest.raises(UserError, match="The files of 'was-turned-down' were deleted"):
        decision_store.promote(restored, gone.revision, "kim")
    for form in forms():
        assert gone.revision not in [revision for _, revision in preflight.parents(restored, form)]
        troubles = preconditions.check(restored, replace(form.spec_type(parent=gone.revision), **form.layout.fixed))
        assert any(f"The files of the parent {gone.revision} were deleted" in sentence for sentence in troubles)
    assert not (tmp_path / "new" / "adapters" / "was-turned-down").exists()
    assert [path.name for path in (tmp_path / "new").glob(".*")] == [], "nothing is left lying around"


def test_the_page_counts_what_came_after_the_copy_that_was_confirmed(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, tmp_path: Path
) -> None:
    assert safe_copies.status(db, place.name) is None
    restoration.begin(place, data_dir)
    judge(db, ann, 2)
    standing = safe_copies.status(db, place.name)
    assert standing is not None
    assert (standing.copied, standing.judgements_since) == (None, 2)
    safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 3)
    standing = safe_copies.status(db, place.name)
    assert standing is not None
    assert standing.copied is not None
    assert standing.judgements_since == 3
    restoration.begin(place, tmp_path / "new")
    restored = safe_copies.status(open_database(tmp_path / "new"), place.name)
    assert restored is not None
    assert (restored.copied, restored.judgements_since) == (standing.copied, 0)


def test_the_copy_is_a_private_dataset_and_holds_no_token(db: Database, data_dir: Path, hub: HubServer) -> None:
    place = on_hub(hub)
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    assert hub.repos["dataset", REPO].private
    files = hub.files("dataset", REPO)
    assert set(files) == {MANIFEST, FILE_NAME, "README.md"}
    assert not any(b"hf_write_ann" in content for content in files.values())


def test_where_the_newest_copy_is_known_what_is_here_stays_with_all_that_came_after(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget
) -> None:
    restoration.begin(place, data_dir)
    judge(db, ann, 2)
    safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 5)
    assert not restoration.begin(place, data_dir).startswith("Restored")
    assert judgements(data_dir) == 7
    assert not (data_dir / restoration.ASIDE).exists()
    safe_copies.make_copy(db, data_dir, place, OTHER)
    assert newest(place).judgements == 7


def test_what_nobody_changed_is_not_marked_as_changed(db: Database, ann: Annotator) -> None:
    before = copy_reasons.state_mark(db)
    assert handing_out.claim_next(db, ann.id) is not None
    assert copy_reasons.state_mark(db) == before
    judge(db, ann, 1)
    after = copy_reasons.state_mark(db)
    assert after != before
    access.set_role(db, "ann", "admin")
    with_admin = copy_reasons.state_mark(db)
    assert with_admin != after
    add_judge(db, {"model": "base"})
    with_judge = copy_reasons.state_mark(db)
    db.connection.execute("UPDATE judge SET active = 0")
    assert len({with_admin, with_judge, copy_reasons.state_mark(db)}) == 3


def add_judge(db: Database, settings: dict[str, str]) -> None:
    with db.transaction() as connection:
        connection.execute("INSERT INTO annotator (name, role, kind, created) VALUES ('j', 'annotator', 'ai', '')")
        connection.execute(
            "INSERT INTO judge (annotator_id, backend, settings, created_by, created) "
            "SELECT max(id), 'local', ?, 'kim', '' FROM annotator",
            (json.dumps(settings),),
        )


def test_what_judges_waiting_runs_and_the_way_back_need_is_copied_too(
    db: Database, data_dir: Path, tmp_path: Path
) -> None:
    for revision in ("before", "serves", "judges", "is-continued", "was-turned-down"):
        add_model(db, data_dir, revision, "rejected")
    decision_store.promote(db, "before", "kim")
    decision_store.promote(db, "serves", "kim")
    add_judge(db, {"model": "judges"})
    snapshot = data_dir / "snapshots" / "frozen.jsonl"
    snapshot.parent.mkdir()
    snapshot.write_text("{}")
    with db.transaction() as connection:
        connection.execute(
            "INSERT INTO snapshot (sha256, path, rows, counts, last_judgement_id, created) "
            "VALUES ('frozen', 'snapshots/frozen.jsonl', 1, '{}', 0, '')"
        )
        connection.execute(
            "INSERT INTO job (kind, spec, status, requested_by, created) VALUES ('dpo', ?, 'queued', 'kim', '')",
            (json.dumps({"parent": "is-continued", "snapshot": "frozen", "seed": 3}),),
        )
    place = DirectoryTarget(tmp_path / "bucket")
    safe_copies.make_copy(db, data_dir, place, RUN)
    restoration.begin(place, tmp_path / "new")
    there = {path.name for path in (tmp_path / "new" / "adapters").iterdir()}
    assert there == {"before", "serves", "judges", "is-continued"}
    assert (tmp_path / "new" / "snapshots" / "frozen.jsonl").read_text() == "{}"


def test_the_next_copy_reads_and_sends_only_what_has_changed(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = add_model(db, data_dir, "serves", "serving") / "adapter_model.safetensors"
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    read, sent = [], []
    digest_of, commit = safe_copies.digest_of, hub_client.commit
    monkeypatch.setattr(safe_copies, "digest_of", lambda path: read.append(path.name) or digest_of(path))
    monkeypatch.setattr(hub_client, "commit", lambda *told, **more: sent.append(set(told[3])) or commit(*told, **more))
    always = {MANIFEST, "README.md", FILE_NAME}
    judge(db, ann, 1)
    safe_copies.make_copy(db, data_dir, place, RUN)
    assert (read, sent) == ([FILE_NAME], [always] if isinstance(place, HubTarget) else [])
    weights.write_bytes(b"moved on")
    safe_copies.make_copy(db, data_dir, place, RUN)
    assert read == [FILE_NAME, FILE_NAME, weights.name]
    restoration.begin(place, tmp_path / "new")
    assert (tmp_path / "new" / "adapters" / "serves" / weights.name).read_bytes() == b"moved on"


def test_a_file_that_somebody_took_out_of_the_place_is_sent_again(
    db: Database, data_dir: Path, hub: HubServer, tmp_path: Path
) -> None:
    add_model(db, data_dir, "serves", "serving")
    place = on_hub(hub)
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    repo = hub.repos["dataset", REPO]
    tree = {path: entry for path, entry in repo.head.tree.items() if not path.startswith("adapters/")}
    repo.add("main", "By hand", tree, repo.branches["main"])
    safe_copies.make_copy(db, data_dir, place, RUN)
    assert restoration.begin(place, tmp_path / "new").startswith("Restored")
    assert (tmp_path / "new" / "adapters" / "serves").is_dir()


def test_after_a_restore_onto_an_empty_disk_candidates_can_be_checked(
    db: Database, data_dir: Path, tmp_path: Path
) -> None:
    seed_prompts(db, 80)
    seed_prompts(db, 4 * LEAST, "held-out")
    frozen = store_snapshot(db, data_dir, CountedRows(prompt_rows(db)))
    job_id = job_store.enqueue(db, SFTSpec(snapshot=frozen, check=True), "ann")
    job_store.claim(db, job_id, "w")
    trained = add_model(db, data_dir, "sft-1")
    db.connection.execute("UPDATE model SET job_id = ? WHERE revision = ?", (job_id, trained.name))
    job_table.finish(db, job_id, "w", {})
    waiting = job_submission.submit(db, data_dir, CheckSpec(candidate=trained.name), "ann")
    place = DirectoryTarget(tmp_path / "bucket")
    safe_copies.make_copy(db, data_dir, place, RUN)
    restoration.begin(place, tmp_path / "new")
    with closing(open_database(tmp_path / "new")) as restored:
        spec = job_store.get(restored, waiting).spec
        assert isinstance(spec, CheckSpec)
        for name in (spec.prompt_set, spec.compared_set):
            prompts = held_out_sets.prompts_of(tmp_path / "new", name)
            candidate = registry.by_revision(restored, trained.name)
            assert held_out_sets.trained_on(restored, tmp_path / "new", candidate, prompts) == []


# ------------------------------------------------------------------------------------------------- two running copies
def test_two_running_copies_do_not_overwrite_each_other_and_both_can_be_restored(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, tmp_path: Path
) -> None:
    restoration.begin(place, data_dir)
    judge(db, ann, 2)
    safe_copies.make_copy(db, data_dir, place, RUN)
    restoration.begin(place, tmp_path / "twin")
    twin = open_database(tmp_path / "twin")
    judge(twin, ann, 3)
    judge(db, ann, 1)
    safe_copies.make_copy(twin, tmp_path / "twin", place, OTHER)
    assert newest(place).judgements == 5

    with pytest.raises(Conflict, match=r"Another running copy.*5 judgements.*Stop one of the two"):
        safe_copies.make_copy(db, data_dir, place, RUN)
    assert newest(place).judgements == 5
    standing = safe_copies.status(db, place.name)
    assert standing is not None
    assert standing.conflict
    assert standing.judgements_since == 1

    aside = place.aside(RUN)
    safe_copies.make_copy(db, data_dir, aside, RUN, alone=True)
    judge(db, ann, 1)
    safe_copies.make_copy(db, data_dir, aside, RUN, alone=True)
    standing = safe_copies.status(db, place.name)
    assert standing is not None
    assert standing.conflict
    assert standing.judgements_since == 0
    assert (newest(place).judgements, newest(aside).judgements) == (5, 4)
    restoration.begin(aside, tmp_path / "looked-at")
    assert judgements(tmp_path / "looked-at") == 4


def test_two_that_begin_with_nothing_are_told_apart_too(
    db: Database, data_dir: Path, place: CopyTarget, tmp_path: Path
) -> None:
    restoration.begin(place, data_dir)
    restoration.begin(place, tmp_path / "twin")
    twin = open_database(tmp_path / "twin")
    safe_copies.make_copy(twin, tmp_path / "twin", place, OTHER)
    with pytest.raises(Conflict):
        safe_copies.make_copy(db, data_dir, place, RUN)


def test_a_database_that_never_began_there_does_not_replace_a_copy(
    db: Database, data_dir: Path, place: CopyTarget, tmp_path: Path
) -> None:
    stranger = open_database(tmp_path / "stranger")
    registry.ensure_base(stranger, BASE_NAME)
    safe_copies.make_copy(db, data_dir, place, RUN)
    with pytest.raises(Conflict):
        safe_copies.make_copy(stranger, tmp_path / "stranger", place, OTHER)


def test_where_both_sides_have_judgements_nothing_is_chosen_for_people(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, tmp_path: Path
) -> None:
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    restoration.begin(place, tmp_path / "twin")
    twin = open_database(tmp_path / "twin")
    judge(twin, ann, 3)
    safe_copies.make_copy(twin, tmp_path / "twin", place, OTHER)
    judge(db, ann, 2)
    version = place.head()
    with pytest.raises(UserError, match=rf"has 2 judgements that no copy.*3 judgements.*RESTORE=here.*={version}"):
        restoration.begin(place, data_dir)
    assert judgements(data_dir) == 2

    restoration.begin(place, data_dir, "here")
    safe_copies.make_copy(db, data_dir, place, RUN)
    assert newest(place).judgements == 2
    assert restoration.begin(place, tmp_path / "third", "here").startswith("Restored"), "a choice counts once"
    assert judgements(tmp_path / "third") == 2

    assert restoration.begin(place, data_dir, version).startswith("Restored")
    assert judgements(data_dir) == 3
    kept = next((data_dir / restoration.ASIDE).iterdir())
    assert judgements(kept) == 2
    back = open_database(data_dir)
    judge(back, ann, 1)
    assert not restoration.begin(place, data_dir, version).startswith("Restored"), "a choice counts once"
    assert judgements(data_dir) == 4
    safe_copies.make_copy(back, data_dir, place, OTHER)
    assert newest(place).judgements == 4
    restoration.begin(place, tmp_path / "fourth", version)
    assert judgements(tmp_path / "fourth") == 4, "a choice counts once"


def test_a_program_that_has_only_been_started_has_no_work_to_lose(tmp_path: Path) -> None:
    db = open_database(tmp_path / "fresh")
    registry.ensure_base(db, BASE_NAME)
    prompt_store.add_prompts(db, importing.starter_prompts())
    access.owner_link_token(db)
    access.follow_rules(db, ["ann"])
    assert not safe_copies.has_unsafe_work(db)
    access.add_account(db, "ann", "annotator", "a long enough password")
    assert safe_copies.has_unsafe_work(db)


@pytest.mark.parametrize("follow", [True, False])
def test_what_people_did_beside_judging_is_not_left_behind(
    db: Database, data_dir: Path, ann: Annotator, tmp_path: Path, follow: bool
) -> None:
    place = DirectoryTarget(tmp_path / "bucket")
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    restoration.begin(place, tmp_path / "twin")
    twin = open_database(tmp_path / "twin")
    judge(db, ann, 3)
    safe_copies.make_copy(db, data_dir, place, RUN)

    successor = token_process.CopyLoop(twin, tmp_path / "twin", place, Schedule(), first=True, follow=True)
    assert successor.may_begin_again()
    access.add_account(twin, "bob", "annotator", "a long enough password")
    assert not successor.may_begin_again()
    if follow:
        successor.make_copy()
        assert successor.alone, "its copies go aside"
        return
    with pytest.raises(UserError, match=r"has accounts, imports, settings, runs or decisions that no copy"):
        restoration.begin(place, tmp_path / "twin")
    assert access.check_password(twin, "bob", "a long enough password") is not None


def test_another_place_is_another_matter(db: Database, data_dir: Path, ann: Annotator, tmp_path: Path) -> None:
    place, other = DirectoryTarget(tmp_path / "bucket"), DirectoryTarget(tmp_path / "other")
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 2)
    twin = open_database(tmp_path / "twin")
    safe_copies.make_copy(twin, tmp_path / "twin", other, OTHER)
    with pytest.raises(Conflict):
        safe_copies.make_copy(db, data_dir, other, RUN)
    standing = safe_copies.status(db, place.name)
    assert standing is not None
    assert (standing.conflict, standing.problem, standing.judgements_since) == (False, "", 2)
    assert not token_process.CopyLoop(db, data_dir, place, Schedule()).alone
    assert token_process.CopyLoop(db, data_dir, other, Schedule()).alone
    assert safe_copies.status(db, "") is None, "nothing is copied any more"


def test_the_database_of_a_program_that_runs_is_not_moved_away(
    db: Database, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoration, "LOCK_SECONDS", 0.2)
    place = DirectoryTarget(tmp_path / "bucket")
    safe_copies.make_copy(db, data_dir, place, RUN)
    one, two = restoration.shared_lock(data_dir), restoration.shared_lock(data_dir)
    one.close()
    with pytest.raises(UserError, match="Stop it first"):
        token_process.begin(data_dir, place, "embedded")
    two.close()
    token_process.begin(data_dir, place, "embedded")
    closed = restoration.exclusive_lock(data_dir)
    with pytest.raises(UserError, match="being restored"):
        restoration.shared_lock(data_dir)
    closed.close()


def test_what_a_lost_database_left_beside_it_is_not_replayed_onto_the_copy(
    db: Database, data_dir: Path, ann: Annotator, tmp_path: Path
) -> None:
    place = DirectoryTarget(tmp_path / "bucket")
    safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 3)
    left = tmp_path / "new" / f"{FILE_NAME}-wal"
    left.parent.mkdir()
    shutil.copy(data_dir / left.name, left)
    restoration.begin(place, left.parent)
    assert judgements(left.parent) == 0
    assert [path.name for path in next((left.parent / restoration.ASIDE).iterdir()).iterdir()] == [left.name]


def test_models_and_checkpoints_that_give_way_are_kept_whole_beside_their_database(
    db: Database, data_dir: Path, ann: Annotator, tmp_path: Path
) -> None:
    place = DirectoryTarget(tmp_path / "bucket")
    adapter = add_model(db, data_dir, "dpo-3", "serving")
    copied = {path.name: path.read_bytes() for path in adapter.iterdir()}
    safe_copies.make_copy(db, data_dir, place, RUN)
    (adapter / "adapter_model.safetensors").write_bytes(b"of another run of that name")
    (adapter / "tokens.json").write_text("[]")
    checkpoint = data_dir / "checkpoints" / "job-3" / "trainer_state.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("{}")
    judge(db, ann, 1)
    db.close()

    restoration.begin(place, data_dir, place.head())
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == copied
    assert not checkpoint.exists()
    aside = next((data_dir / restoration.ASIDE).iterdir())
    assert (aside / "adapters" / "dpo-3" / "adapter_model.safetensors").read_bytes() == b"of another run of that name"
    assert (aside / "adapters" / "dpo-3" / "tokens.json").is_file()
    assert (aside / "checkpoints" / "job-3" / "trainer_state.json").is_file()
    assert judgements(aside) == 1


def test_what_later_jobs_made_is_kept_beside_their_database_where_an_older_copy_comes_back(
    db: Database, data_dir: Path, ann: Annotator, tmp_path: Path
) -> None:
    """The jobs to come have the same numbers: they would replace these files, or go on from them."""
    place = DirectoryTarget(tmp_path / "bucket")
    # A copy has no weights of who was turned down; they are still here.
    before = add_model(db, data_dir, "dpo-2", "rejected")
    safe_copies.make_copy(db, data_dir, place, RUN)
    later = add_model(db, data_dir, "dpo-3")
    draft, answers = (data_dir / "answers" / name for name in (".job-5.part", "job-4.jsonl"))
    answers.parent.mkdir()
    for path in (draft, answers):
        path.write_text("{}")
    judge(db, ann, 1)
    db.close()

    restoration.begin(place, data_dir, place.head())
    assert [path.is_dir() for path in (before, later)] == [True, False]
    assert not answers.parent.exists()
    aside = next((data_dir / restoration.ASIDE).iterdir())
    assert (aside / "adapters" / "dpo-3" / "adapter_model.safetensors").is_file()
    assert {path.name for path in (aside / "answers").iterdir()} == {draft.name, answers.name}


def test_going_back_to_a_version_signs_everybody_out_and_a_program_that_moved_does_not(
    db: Database, data_dir: Path, ann: Annotator, tmp_path: Path
) -> None:
    """Sessions that were ended since, and invitations that were withdrawn since, would be open again."""
    place = DirectoryTarget(tmp_path / "bucket")
    session, invited = access.open_session(db, ann), invitations.invite(db, {"uses": 2}, ann.name)
    link = access.owner_link_token(db)
    safe_copies.make_copy(db, data_dir, place, RUN)
    db.close()

    def opened(directory: Path) -> tuple[bool, bool, int]:
        with closing(open_database(directory)) as found:
            signed_in = access.session_annotator(found, session) is not None
            links = found.value("SELECT count(*) FROM sign_in_link")
            return signed_in, invitations.is_open(found, invited.partition("=")[2]), links

    restoration.begin(place, tmp_path / "moved")
    assert link
    assert opened(tmp_path / "moved") == (True, True, 1)
    restoration.begin(place, data_dir, place.head())
    assert opened(data_dir) == (False, False, 0)


@pytest.mark.parametrize("links", [True, False])
def test_a_restore_that_is_killed_before_its_end_leaves_the_database_in_its_place(
    db: Database, data_dir: Path, ann: Annotator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Where no place of copies is set the next start would begin an empty one."""
    place = DirectoryTarget(tmp_path / "bucket")
    safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 3)

    def no_links(*_: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    db.close()
    break_off(monkeypatch, place, data_dir, FILE_NAME, killed=True)
    aside = next((data_dir / restoration.ASIDE).iterdir())
    assert [judgements(directory) for directory in (data_dir, aside)] == [3, 3]
    restoration.begin(place, data_dir, place.head())
    kept = next(path for path in (data_dir / restoration.ASIDE).iterdir() if links or path == aside)
    assert [judgements(directory) for directory in (data_dir, kept)] == [0, 3]


def break_off(
    monkeypatch: pytest.MonkeyPatch, place: CopyTarget, data_dir: Path, at: str, killed: bool = False
) -> None:
    """Restore the newest copy until a file or directory of this name is to move. A killed program puts nothing back."""

    def stopping(move: Any) -> Any:
        def moved(path: Path, target: Path) -> Any:
            if path.name == at:
                raise KeyboardInterrupt
            return move(path, target)

        return moved

    with monkeypatch.context() as patched:
        for name in ("rename", "replace"):
            patched.setattr(Path, name, stopping(getattr(Path, name)))
        if killed:
            patched.setattr(restoration, "put_back", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            restoration.begin(place, data_dir, place.head())


def disk_full(**_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def files_in(data_dir: Path) -> dict[str, bytes]:
    """What is in a data directory beside the database and its locks."""
    files = (path for path in data_dir.rglob("*") if path.is_file() and path.suffix not in (".db", ".lock"))
    return {path.relative_to(data_dir).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("at", ["checkpoints", "dpo-4", "dpo-3", FILE_NAME])
def test_a_restore_that_is_broken_off_leaves_the_models_with_their_database(
    db: Database,
    data_dir: Path,
    ann: Annotator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    killed: bool,
) -> None:
    """At once where it failed, at the next start where it was killed, whatever had moved."""
    place = DirectoryTarget(tmp_path / "bucket")
    adapter = add_model(db, data_dir, "dpo-3", "serving")
    safe_copies.make_copy(db, data_dir, place, RUN)
    (adapter / "adapter_model.safetensors").write_bytes(b"of another run of that name")
    add_model(db, data_dir, "dpo-4")
    (data_dir / "checkpoints" / "job-3").mkdir(parents=True)
    (data_dir / "checkpoints" / "job-3" / "state").write_bytes(b"0")
    judge(db, ann, 1)
    db.close()
    before = files_in(data_dir)

    break_off(monkeypatch, place, data_dir, at, killed)
    if killed:
        assert at != FILE_NAME or files_in(data_dir) != before
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, "TemporaryDirectory", disk_full)
            with pytest.raises(UserError, match=r"can't be written \(No space left"):
                web_server.open_data(Settings(data_dir=data_dir, workers=False))
        web_server.open_data(Settings(data_dir=data_dir, workers=False)).db.close()
    assert files_in(data_dir) == before
    assert judgements(data_dir) == 1
    assert not list((data_dir / restoration.ASIDE).iterdir())
    restoration.begin(place, data_dir, place.head())
    assert judgements(data_dir) == 0
    web_server.open_data(Settings(data_dir=data_dir, workers=False)).db.close()
    assert judgements(data_dir) == 0


def test_two_programs_that_start_at_once_put_back_one_after_the_other(
    db: Database, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the second would take for the copy's, and remove, what the first has just put back."""
    place = DirectoryTarget(tmp_path / "bucket")
    adapter = add_model(db, data_dir, "dpo-3", "serving")
    safe_copies.make_copy(db, data_dir, place, RUN)
    (adapter / "adapter_model.safetensors").write_bytes(b"of another run of that name")
    db.close()
    before = files_in(data_dir)
    break_off(monkeypatch, place, data_dir, FILE_NAME, killed=True)
    settings, moved, move = Settings(data_dir=data_dir, workers=False), list[Path](), Path.rename

    def meanwhile(path: Path, target: Path) -> Path:
        moved.append(path)
        if len(moved) == 1:
            with pytest.raises(UserError, match=r"is being restored|that runs has the database"):
                web_server.open_data(settings)
        return move(path, target)

    monkeypatch.setattr(Path, "rename", meanwhile)
    web_server.open_data(settings).db.close()
    assert moved
    assert files_in(data_dir) == before


@dataclass(frozen=True)
class SlowPlace(DirectoryTarget):
    """A place that takes a copy once this says so."""

    arrives: Callable[[], object] = lambda: None

    def put(self, manifest: CopyManifest, files: Mapping[str, Path], parent: str, ours: bool = False) -> str:
        self.arrives()
        return super().put(manifest, files, parent, ours)


def test_a_copy_that_takes_hours_is_not_called_cut_off(
    db: Database, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gigabytes of weights do on a slow line, whatever else is written meanwhile."""
    monkeypatch.setattr(safe_copies, "BEAT_SECONDS", 0.01)

    def problem() -> str:
        standing = safe_copies.status(db, str(tmp_path / "bucket"))
        assert standing is not None
        return standing.problem

    monkeypatch.setattr(database, "WAIT_SECONDS", 0.01)

    def hours_later() -> None:
        db.write("UPDATE safe_copy SET created = '2026-01-01T00:00:00.000000+00:00'")
        with closing(sqlite3.connect(db.path, isolation_level=None)) as importing:
            importing.execute("BEGIN IMMEDIATE")  # as long as anybody waits for it
            time.sleep(0.2)
        wait_until("it is heard of", lambda: not problem())

    safe_copies.make_copy(db, data_dir, SlowPlace(tmp_path / "bucket", hours_later), RUN)
    assert problem() == ""
    db.write("UPDATE safe_copy SET state = 'taken', created = '2026-01-01T00:00:00.000000+00:00'")
    assert "was cut off" in problem()


def test_nothing_is_restored_without_what_admins_should_know_of_it(
    db: Database, data_dir: Path, ann: Annotator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here that a newer copy is there: the next start would not say it any more."""
    place = DirectoryTarget(tmp_path / "bucket")
    older = safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 1)
    safe_copies.make_copy(db, data_dir, place, RUN)
    db.close()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(safe_copies, "leave_notice", killed)
        with pytest.raises(KeyboardInterrupt):
            restoration.begin(place, data_dir, older)
    assert judgements(data_dir) == 1
    restoration.begin(place, data_dir, older)
    with closing(open_database(data_dir)) as restored:
        assert "A newer copy there has 1 judgement" in safe_copies.start_notice(restored)


def test_a_choice_counts_once_though_the_newest_copy_is_damaged(
    db: Database, data_dir: Path, ann: Annotator, hub: HubServer, tmp_path: Path
) -> None:
    place = DirectoryTarget(tmp_path / "bucket")
    restoration.begin(place, data_dir, "here")
    judge(db, ann, 2)
    safe_copies.make_copy(db, data_dir, place, RUN)
    safe_copies.make_copy(db, data_dir, place, RUN)
    spoil(place, hub, MANIFEST, b"half of i")
    assert restoration.begin(place, tmp_path / "new", "here").startswith("Restored")
    assert judgements(tmp_path / "new") == 2


@pytest.mark.parametrize("links", [True, False])
def test_a_manifest_is_there_whole_or_not_at_all_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "000001.json"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="large"):
            create_whole(target, b"x" * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    create_whole(target, b"first")
    with pytest.raises(FileExistsError):
        create_whole(target, b"second")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {target.name: b"first"}


class Breaking(DirectoryTarget):
    """A place with a bug."""

    def put(self, manifest: CopyManifest, files: Mapping[str, Path], parent: str) -> str:
        """Fails as nobody foresaw."""
        raise ZeroDivisionError("with hf_aaaaaaaaaaaaaaaaaaaaaaaa")


def test_an_attempt_that_ends_in_a_bug_or_not_at_all_is_on_the_page(
    db: Database, data_dir: Path, tmp_path: Path
) -> None:
    place = Breaking(tmp_path / "bucket")

    def trouble() -> str:
        standing = safe_copies.status(db, place.name)
        assert standing is not None
        return standing.problem

    with pytest.raises(ZeroDivisionError):
        safe_copies.make_copy(db, data_dir, place, RUN)
    assert "ZeroDivisionError: with [token]" in trouble()
    safe_copies.make_copy(db, data_dir, DirectoryTarget(place.path), RUN)
    assert trouble() == ""
    safe_copies.add_row(db, place.name, RUN)
    assert trouble() == "", "it may be under way"
    db.connection.execute("UPDATE safe_copy SET created = '2026-01-01T12:00:00.000000+00:00' WHERE state = 'taken'")
    assert trouble() == safe_copies.UNFINISHED
    safe_copies.make_copy(db, data_dir, DirectoryTarget(place.path), OTHER)
    assert trouble() == ""
    safe_copies.add_row(db, place.name, RUN)
    safe_copies.add_row(db, place.name, OTHER)
    assert trouble() == safe_copies.UNFINISHED, "another attempt has begun since"


def test_what_is_here_gives_way_where_it_has_nothing_that_is_not_safe(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, tmp_path: Path
) -> None:
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    restoration.begin(place, tmp_path / "twin")
    twin = open_database(tmp_path / "twin")
    judge(twin, ann, 3)
    safe_copies.make_copy(twin, tmp_path / "twin", place, OTHER)
    db.close()
    assert restoration.begin(place, data_dir).startswith("Restored")
    assert judgements(data_dir) == 3
    assert next((data_dir / restoration.ASIDE).iterdir()).is_dir()


# --------------------------------------------------------------------------------------------------------- bad copies
@pytest.mark.parametrize(
    ("path", "content"),
    [
        (MANIFEST, b"not what it was"),
        (FILE_NAME, None),
        (FILE_NAME, b"not what it was"),
        ("adapters/serves/adapter_model.safetensors", None),
        ("adapters/serves/adapter_model.safetensors", b"not what it was"),
    ],
)
def test_a_damaged_copy_is_passed_over_for_the_one_before_it_and_that_is_said(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, hub: HubServer, tmp_path: Path, path: str,
    content: bytes | None,
) -> None:  # fmt: skip
    add_model(db, data_dir, "serves", "serving")
    restoration.begin(place, data_dir)
    judge(db, ann, 2)
    session, invited = access.open_session(db, ann), invitations.invite(db, {"uses": 2}, ann.name)
    safe_copies.make_copy(db, data_dir, place, RUN)
    (data_dir / "adapters" / "serves" / "adapter_model.safetensors").write_bytes(b"as if trained on")
    access.end_sessions(db, "annotator_id = ?", ann.id)
    judge(db, ann, 2)
    safe_copies.make_copy(db, data_dir, place, RUN)
    spoil(place, hub, path, content)

    found = restoration.begin(place, tmp_path / "new")
    assert found.startswith("Restored 2 judgements")
    assert "is damaged" in found
    assert "PREFLOOP_RESTORE=VERSION" in found
    assert "Accounts and passwords are those of then" in found
    restored = open_database(tmp_path / "new")
    assert access.session_annotator(restored, session) is None
    assert not invitations.is_open(restored, invited.partition("=")[2])
    assert safe_copies.start_notice(restored) == found
    when = safe_copies.noticed(restored)
    assert not safe_copies.has_unsafe_work(restored)
    restoration.begin(place, tmp_path / "new")
    assert safe_copies.start_notice(restored) == found, "nothing was copied since"
    assert safe_copies.noticed(restored) == when is not None
    judge(restored, ann, 5)
    safe_copies.make_copy(restored, tmp_path / "new", place, OTHER)
    assert newest(place).judgements == 7
    restoration.begin(place, tmp_path / "new")
    assert safe_copies.start_notice(restored) == ""


HOSTILE = {
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON safe_copy BEGIN UPDATE annotator SET role = 'admin'; END",
    "a trigger of ours that does something else": "DROP TRIGGER judgement_no_delete; "
    "CREATE TRIGGER judgement_no_delete BEFORE DELETE ON judgement BEGIN DELETE FROM annotator; END",
    "a view in a table's place": "ALTER TABLE setting RENAME TO kept; CREATE VIEW setting AS SELECT * FROM kept",
    "a view without end": "ALTER TABLE _sqlite_migrations RENAME TO kept; CREATE VIEW _sqlite_migrations AS "
    "WITH RECURSIVE c(name) AS (SELECT 'x' UNION ALL SELECT name || 'x' FROM c) SELECT * FROM c",
    "a table too few": "DROP TABLE setting",
    "a virtual table in a table's place": "DROP TABLE setting; CREATE VIRTUAL TABLE setting USING fts5(key, value)",
    "a column too few": "ALTER TABLE annotator DROP COLUMN language",
    "a column that is computed": "ALTER TABLE setting ADD COLUMN more AS (hex(zeroblob(400000000)))",
    "an earlier step than its tables": "DELETE FROM _sqlite_migrations WHERE id > 3",
    "a step between others": "DELETE FROM _sqlite_migrations WHERE id = 3",
    "a path elsewhere": "UPDATE model SET path = 'adapters/../../outside'",
    "a path that is none": "UPDATE model SET path = x'00ff'",
    "frozen data elsewhere": "INSERT INTO snapshot (sha256, path, rows, counts, last_judgement_id, created) "
    "SELECT '0', '/etc/passwd', 1, '{}', 0, ''",
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE)
def test_a_copy_that_no_prefloop_made_is_damaged(
    db: Database, data_dir: Path, ann: Annotator, tmp_path: Path, said: str
) -> None:
    place = DirectoryTarget(tmp_path / "bucket")
    add_model(db, data_dir, "serves", "serving")
    safe_copies.make_copy(db, data_dir, place, RUN)
    manifest, made = newest(place), tmp_path / FILE_NAME
    shutil.copyfile(place.contents / manifest.files[FILE_NAME].sha256, made)
    with closing(sqlite3.connect(made)) as changed:
        changed.executescript(said)
    files = {**manifest.files, FILE_NAME: digest_of(made)}
    place.put(replace(manifest, number=2, judgements=9, files=files), {FILE_NAME: made}, place.head())
    found = restoration.begin(place, tmp_path / "new")
    assert found.startswith("Restored 0 judgements")
    assert "is damaged" in found
    with closing(open_database(tmp_path / "new")) as restored:
        assert [account.role for account in access.accounts(restored)] == ["annotator"]


def test_whoever_takes_an_older_copy_is_told_of_the_newer_one_and_so_are_admins(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, tmp_path: Path
) -> None:
    restoration.begin(place, data_dir)
    older = safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 3)
    newer = safe_copies.make_copy(db, data_dir, place, RUN)
    found = restoration.begin(place, tmp_path / "new", older)
    assert f"A newer copy there has 3 judgements ({formatting.moment(newest(place).created)} UTC)" in found
    assert f"PREFLOOP_RESTORE={newer}" in found
    back = open_database(tmp_path / "new")
    annotation_api = AnnotationApi(back, copies=place.name)
    told = annotation_api.safety(access.add_account(back, "kim", "admin", "a long enough password"), {})
    assert found in told["text"]
    assert told["trouble"]
    assert "newer" not in annotation_api.safety(ann, {})["text"]
    assert restoration.begin(place, tmp_path / "new", newer).startswith("Restored")
    assert judgements(tmp_path / "new") == 3
    with closing(open_database(tmp_path / "new")) as taken:
        assert safe_copies.start_notice(taken) == ""


def test_a_directory_that_would_be_lost_with_the_data_is_refused(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(data_dir)
    for inside in (data_dir, data_dir / "copies", tmp_path / "link" / "copies"):
        with pytest.raises(UserError, match=r"is inside the data directory.*another disk"):
            token_process.begin(data_dir, DirectoryTarget(inside), "embedded")
    place = DirectoryTarget(tmp_path / "bucket")
    token_process.begin(data_dir, place, "embedded")
    for name, value in (("SYSTEM", "spaces"), ("SPACE_ID", "ann/loop"), ("SPACE_HOST", "ann-loop.hf.space")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"on the same disk.*Attach a bucket.*private dataset"):
        token_process.begin(data_dir, place, "embedded")
    other = Path("/dev/shm")
    if other.is_dir() and other.stat().st_dev != data_dir.stat().st_dev:
        refuse_shared_fate(DirectoryTarget(other / "bucket" / "copies"), data_dir, on_space=True)


def test_where_every_copy_is_damaged_nothing_starts_by_itself(
    db: Database, data_dir: Path, place: CopyTarget, hub: HubServer, tmp_path: Path
) -> None:
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    spoil(place, hub, FILE_NAME, b"zeros")
    with pytest.raises(UserError, match=r"No safe copy could be restored.*is damaged.*PREFLOOP_RESTORE=here"):
        restoration.begin(place, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    restoration.begin(place, tmp_path / "new", "here")
    assert judgements(tmp_path / "new") == 0


def test_a_database_whose_rows_do_not_fit_together_is_damaged(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, tmp_path: Path
) -> None:
    restoration.begin(place, data_dir)
    judge(db, ann, 1)
    db.connection.execute("PRAGMA foreign_keys=OFF")
    db.connection.execute("DELETE FROM comparison_response")
    db.connection.execute("DELETE FROM response")
    db.connection.execute("DELETE FROM prompt")
    safe_copies.make_copy(db, data_dir, place, RUN)
    with pytest.raises(UserError, match="Rows refer to others that are not there"):
        restoration.begin(place, tmp_path / "new")


def test_a_copy_of_a_newer_program_is_refused_and_not_passed_over(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, tmp_path: Path
) -> None:
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    with db.transaction() as connection:
        connection["_sqlite_migrations"].insert(
            {"migration_set": "prefloop", "name": "m999_from_the_future", "applied_at": "2030-01-01"}
        )
    judge(db, ann, 1)
    safe_copies.make_copy(db, data_dir, place, RUN)
    with pytest.raises(UserError, match=r"newer Prefloop.*m999_from_the_future.*Nothing was changed"):
        restoration.begin(place, tmp_path / "new")
    assert not (tmp_path / "new" / FILE_NAME).exists()


def test_a_copy_of_an_earlier_program_says_what_page_and_code_say_once_it_is_restored(
    db: Database, data_dir: Path, place: CopyTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_an_earlier_program(_now: Database, target: Path) -> None:
        old = sqlite_utils.Database(target)
        migrations.apply(old, stop_before="m029_one_word_in_rows_too")
        moment = {"created": "2026-01-01T00:00:00.000000+00:00"}
        old["annotator"].insert({"name": "ann", "role": "admin", **moment})
        base = {"revision": "base", "algorithm": "base", "form": "base", "base": BASE_NAME, "status": "serving"}
        old["model"].insert({**base, "weights": "bf16", **moment})
        old["promotion"].insert({"model_id": 1, "previous_id": 1, "action": "rollback", "decided_by": "ann", **moment})
        old["prompt"].insert({"fingerprint": "f", "messages": "[]", "source": "s", "split": "train", **moment})
        old["comparison"].insert({"prompt_id": 1, "purpose": "preference", **moment})
        held = {"comparison_id": 1, "annotator_id": 1, "purpose": "adjudication", "kind": "pair", "state": "held"}
        old["claim"].insert({**held, "nonce": "n", "shown_order": "[0, 1]", "expires": "2100", **moment})
        old.close()

    restoration.begin(place, data_dir)
    monkeypatch.setattr(safe_copies, "copy_database", of_an_earlier_program)
    safe_copies.make_copy(db, data_dir, place, RUN)
    restoration.begin(place, tmp_path / "new")
    with closing(open_database(tmp_path / "new")) as restored:
        assert registry.serving(restored).precision == "bf16"
        assert [one.action for one in decision_store.decisions(restored)] == ["go-back"]
        assert restored.value("SELECT purpose FROM claim") == "settle"


def test_a_broken_database_here_is_left_alone_until_a_copy_is_chosen_instead(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget
) -> None:
    restoration.begin(place, data_dir)
    judge(db, ann, 2)
    safe_copies.make_copy(db, data_dir, place, RUN)
    db.close()
    (data_dir / FILE_NAME).write_bytes(b"no database any more" * 100)
    with pytest.raises(UserError, match="not a readable SQLite database"):
        restoration.begin(place, data_dir)
    restoration.begin(place, data_dir, place.head())
    assert judgements(data_dir) == 2
    kept = next((data_dir / restoration.ASIDE).iterdir())
    assert (kept / FILE_NAME).read_bytes().startswith(b"no database any more")


def test_an_unknown_version_is_refused(db: Database, data_dir: Path, place: CopyTarget, tmp_path: Path) -> None:
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    with pytest.raises(UserError):
        restoration.begin(place, tmp_path / "new", "0123456789")
    assert not (tmp_path / "new" / FILE_NAME).exists()


# ---------------------------------------------------------------------------------------------------- what can go wrong
def test_an_answer_that_never_arrived_is_no_conflict(
    db: Database, data_dir: Path, ann: Annotator, hub: HubServer
) -> None:
    place = on_hub(hub)
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 2)
    hub.fail("POST", "/commit/", "cut-after")
    with pytest.raises(UserError, match="connection"):
        safe_copies.make_copy(db, data_dir, place, RUN)
    standing = safe_copies.status(db, place.name)
    assert standing is not None
    assert standing.judgements_since == 2, "what was not confirmed is not called safe"
    assert "connection" in standing.problem
    judge(db, ann, 1)
    safe_copies.make_copy(db, data_dir, place, RUN)
    assert newest(place).judgements == 3


def test_a_copy_cut_half_way_leaves_the_one_before_and_can_be_repeated(
    db: Database, data_dir: Path, ann: Annotator, hub: HubServer
) -> None:
    place = on_hub(hub)
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 2)
    hub.fail("POST", "/commit/", "cut")
    with pytest.raises(UserError, match="connection"):
        safe_copies.make_copy(db, data_dir, place, RUN)
    assert newest(place).judgements == 0
    safe_copies.make_copy(db, data_dir, place, RUN)
    assert newest(place).judgements == 2


def test_a_page_changed_by_hand_beside_the_copies_is_no_conflict(
    db: Database, data_dir: Path, ann: Annotator, hub: HubServer
) -> None:
    place = on_hub(hub)
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    hub.add_repo("dataset", REPO, {"notes.md": b"by hand"})
    judge(db, ann, 2)
    safe_copies.make_copy(db, data_dir, place, RUN)
    assert newest(place).judgements == 2
    assert hub.file("dataset", REPO, "notes.md") == b"by hand"


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (None, "no token|Without a token"),
        ("hf_read_ann", "no right|may only read"),
        ("hf_expired_one", "does not accept the token"),
        ("hf_write_bob", "no right|no such repository"),
    ],
)
def test_a_token_that_can_not_do_it_is_one_sentence_without_the_token(
    db: Database, data_dir: Path, hub: HubServer, token: str | None, expected: str
) -> None:
    def attempt() -> None:
        restoration.begin(on_hub(hub, token), data_dir)
        safe_copies.make_copy(db, data_dir, on_hub(hub, token), RUN)

    with pytest.raises(UserError, match=expected) as refused:
        attempt()
    assert token is None or token not in str(refused.value)


def test_a_repository_that_others_can_see_is_refused(db: Database, data_dir: Path, hub: HubServer) -> None:
    hub.add_repo("dataset", REPO, {"README.md": b"for all"})
    with pytest.raises(UserError, match="public"):
        restoration.begin(on_hub(hub), data_dir)


def test_a_rate_limit_and_a_hub_in_trouble_are_recorded_and_repeated(
    db: Database, data_dir: Path, ann: Annotator, hub: HubServer
) -> None:
    place = on_hub(hub)
    restoration.begin(place, data_dir)
    for status, words in ((429, "rate limit"), (503, "trouble")):
        hub.fail("POST", "/commit/", status, headers={"Retry-After": "0"})
        with pytest.raises(UserError, match=words):
            safe_copies.make_copy(db, data_dir, place, RUN)
    standing = safe_copies.status(db, place.name)
    assert standing is not None
    assert "trouble" in standing.problem
    safe_copies.make_copy(db, data_dir, place, RUN)
    standing = safe_copies.status(db, place.name)
    assert standing is not None
    assert standing.problem == ""


def test_a_full_disk_while_copying_is_on_the_page(db: Database, data_dir: Path, tmp_path: Path) -> None:
    place = DirectoryTarget(tmp_path / "bucket")
    restoration.begin(place, data_dir)
    db.value("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the row about the attempt fits below the limit
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"can't be written|is full|could not be made"):
            safe_copies.make_copy(db, data_dir, place, RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    standing = safe_copies.status(db, place.name)
    assert standing is not None
    assert standing.problem
    assert not list(data_dir.glob(f"{safe_copies.FOLDER}*"))
    safe_copies.make_copy(db, data_dir, place, RUN)


def test_a_directory_that_can_not_be_written_is_one_sentence(db: Database, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"directory for safe copies .* can't be used"):
        restoration.begin(DirectoryTarget(tmp_path / "file" / "copies"), data_dir)


def test_a_directory_keeps_the_newest_copies_and_what_they_need(db: Database, data_dir: Path, tmp_path: Path) -> None:
    place = DirectoryTarget(tmp_path / "bucket")
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, OTHER)
    safe_copies.make_copy(db, data_dir, place, OTHER)
    for _ in range(3):
        safe_copies.make_copy(db, data_dir, place, RUN)
    old = {path.name for path in place.contents.iterdir()}
    for path in place.contents.iterdir():
        os.utime(path, (1, 1))
    for _ in range(KEPT):
        safe_copies.make_copy(db, data_dir, place, RUN)
    runs = [copy.run for _, copy in copies_in(place, place.versions()) if isinstance(copy, CopyManifest)]
    assert runs == [RUN] * KEPT + [OTHER]
    named = {
        mark.sha256
        for _, copy in copies_in(place, place.versions())
        if isinstance(copy, CopyManifest)
        for mark in copy.files.values()
    }
    assert {path.name for path in place.contents.iterdir()} == named
    assert len(old & named) == 1


# -------------------------------------------------------------------------------------------------------- command line
def command(
    *arguments: str, environment: dict[str, str] | None = None, **extras: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "annotation", "copies", *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        **extras,
    )


def test_the_command_line_lists_takes_and_restores(
    db: Database, data_dir: Path, ann: Annotator, hub: HubServer, tmp_path: Path
) -> None:
    judge(db, ann, 2)
    told = {**hub.environment("hf_write_ann"), PLACE: REPO}
    taken = command("take", "--data", str(data_dir), environment=told)
    assert taken.stdout.startswith(f"Copied 2 judgements to {REPO}"), taken.stderr
    listed = command("list", environment=told)
    assert "2 judgements" in listed.stdout, listed.stderr
    version = listed.stdout.split()[0]

    judge(db, ann, 1)
    refused = command("restore", version, "--data", str(data_dir), environment=told)
    assert refused.returncode == 2
    assert "has a database with 3 judgements, and the copy has 2. The copy is older." in refused.stderr
    assert "--data DIR" in refused.stderr
    assert "--aside" in refused.stderr
    assert judgements(data_dir) == 3

    killed = tmp_path / "new" / f"{restoration.FOLDER}killed"
    killed.mkdir(parents=True)
    done = command("restore", "--data", str(tmp_path / "new"), environment=told)
    assert done.returncode == 0, done.stderr
    assert judgements(tmp_path / "new") == 2
    assert not killed.exists()
    db.close()
    done = command("restore", version, "--data", str(data_dir), "--aside", environment=told)
    assert done.returncode == 0, done.stderr
    assert judgements(data_dir) == 2
    assert judgements(next((data_dir / restoration.ASIDE).iterdir())) == 3


def test_what_a_copys_manifest_says_does_nothing_to_a_terminal(
    db: Database, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = DirectoryTarget(tmp_path / "bucket")
    version = safe_copies.make_copy(db, data_dir, place, RUN)
    manifest = place.copies / f"{version}.json"
    told = json.loads(manifest.read_text("utf-8"))
    manifest.write_text(json.dumps({**told, "created": "\x1b[2J", "run": "\x1b[31m"}), "utf-8")
    copies_command.show(place)
    assert "\x1b" not in capsys.readouterr().out


def test_the_command_line_asks_for_a_place() -> None:
    done = command("list", environment={PLACE: ""})
    assert done.returncode == 2
    assert "--place" in done.stderr


def test_a_disk_that_fills_up_while_restoring_changes_nothing(
    db: Database, data_dir: Path, ann: Annotator, place: CopyTarget, hub: HubServer, tmp_path: Path
) -> None:
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    judge(db, ann, 1)
    # Larger than the limit, which has to leave SQLite its shared memory of 32 KiB.
    db.connection.execute("UPDATE response SET text = ?", ("long " * 20_000,))
    safe_copies.make_copy(db, data_dir, place, RUN)
    restoration.restore(place, tmp_path / "there", [place.versions()[1]], place.head(), "", None)
    before = (tmp_path / "there" / FILE_NAME).read_bytes()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    where = ("--place", place.name, "--data", str(tmp_path / "there"), "--aside")
    done = command("restore", *where, environment=hub.environment("hf_write_ann"), preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert "MB are free or allowed there. Nothing was changed. Free disk space" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "there" / FILE_NAME).read_bytes() == before
    assert not (tmp_path / "there" / restoration.ASIDE).exists()
    assert not list((tmp_path / "there").glob(f"{restoration.FOLDER}*"))


def test_a_disk_with_too_little_room_is_seen_before_anything_is_fetched(
    db: Database, data_dir: Path, place: CopyTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restoration.begin(place, data_dir)
    safe_copies.make_copy(db, data_dir, place, RUN)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"needs .* MB in .* and 0\.0 MB are free"):
        restoration.begin(place, tmp_path / "new")
