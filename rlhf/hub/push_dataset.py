"""Put data on the Hub as datasets with their cards: the judgements of today, or what a training was frozen with."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast

from annotation import hub_client as hubs
from annotation.database import Database, explain_directory_errors
from annotation.exports import writing
from annotation.exports.formats import FORMATS, ONE_FILE, SPLIT_NAMES, ExportRequest, check_licence, pseudonyms
from annotation.hub_client import Hub
from annotation.records import Split, UserError
from annotation.store import data_sources
from annotation.translation import N_, _
from rlhf.algorithms.model_card import Address, public_name
from rlhf.data.snapshots import snapshot_counts
from rlhf.hub import publications, push_model, snapshot_card
from rlhf.hub.push_model import CARD, Files, PublishResult
from rlhf.hub.snapshot_card import SnapshotFacts
from rlhf.jobs import job_store
from rlhf.jobs.descriptions import Unit
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.models import registry
from rlhf.models.tokenise import snapshot_content

PATHS: Final[Mapping[Split, str]] = {"train": "data/train.jsonl", "held-out": "data/held-out.jsonl"}


def push_data(
    hub: Hub, db: Database, request: ExportRequest, repo: str, private: bool = True, by: str = N_("the command line")
) -> PublishResult:
    """Push an export as a dataset with its card; annotators are pseudonyms unless the request names them.

    Without a licence that of the card which is there stays. Raises UserError, and then nothing has changed on the Hub.
    """
    hubs.check_name(repo)
    check_publishable(request.format)
    hubs.check_token(hub, repo)
    request = replace(request, licence=request.licence or push_model.licence_of(hub, Address(repo), "dataset"))
    exports = db.path.parent / writing.DIRECTORY
    with explain_directory_errors(db.path.parent):
        exports.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=exports) as directory:  # where what a kill leaves is cleared away
        target = Path(directory) / "dataset"
        writing.export(db, replace(request, container="dataset", address=repo), target)
        paths = sorted(path for path in target.rglob("*") if path.is_file())
        files: Files = {path.relative_to(target).as_posix(): path for path in paths}
        private = publications.repo_for(hub, db, "dataset", repo, private)
        sha, fresh = send(hub, repo, files, request.format, f"{request.format} export")
    publications.record(db, "dataset", None, repo, "", sha, private, by)
    return PublishResult(repo=repo, tag="", commit_sha=sha, url=f"{hub.endpoint}/datasets/{repo}", fresh=fresh)


def check_publishable(name: str) -> None:
    """Raises UserError for a format of exports that is no dataset."""
    if name in ONE_FILE:
        raise UserError(_("'{name}' is no dataset. Choose another format to publish.").format(name=name))
    if name not in FORMATS:
        said = _("There is no format '{name}'. Choose one of: {formats}.")
        raise UserError(said.format(name=name[:40], formats=", ".join(FORMATS)))


def send(hub: Hub, repo: str, files: Files, form: str, message: str) -> tuple[str, bool]:
    """Let a repository hold exactly this data; returns the commit, and whether anything had to be sent.

    Raises UserError for a repository that holds something else.
    """
    there = push_model.own_contents(hub, repo, "dataset", form)
    gone = [name for name in there if name.startswith("data/") and name not in files]
    fresh = bool(gone) or any(not push_model.same(there.get(name), content) for name, content in files.items())
    return hubs.commit(hub, repo, "dataset", files, message, gone=gone), fresh


@dataclass(frozen=True)
class Snapshot:
    """The frozen data of a run as it goes up."""

    job: job_store.Job
    repo: str
    names: bool = False
    licence: str = ""

    @property
    def spec(self) -> TrainingSpec:
        """The training that read it. Raises UserError for a job that was no training."""
        if not isinstance(self.job.spec, TrainingSpec) or not self.job.spec.snapshot:
            said = _("Job {id} ({kind}) has no frozen data. Choose a training run.")
            raise UserError(said.format(id=self.job.id, kind=self.job.kind))
        return self.job.spec

    @property
    def unit(self) -> Unit:
        return self.spec.unit


def push_snapshot(
    hub: Hub,
    db: Database,
    data_dir: Path,
    run: int,
    repo: str,
    private: bool = True,
    names: bool = False,
    licence: str = "",
    by: str = N_("the command line"),
) -> PublishResult:
    """Push the data that a run was frozen with as a dataset, tagged by its sha256, with pseudonyms unless `names`.

    Without a licence that of the card which is there stays. What is there already is not sent again. Raises UserError,
    and then either nothing has changed on the Hub or only the tag is missing.
    """
    hubs.check_name(repo)
    check_licence(licence)
    hubs.check_token(hub, repo)
    pushed = Snapshot(
        job_store.get(db, run), repo, names, licence or push_model.licence_of(hub, Address(repo), "dataset")
    )
    files = snapshot_files(db, data_dir, pushed)
    private = publications.repo_for(hub, db, "dataset", repo, private)
    tag = push_model.snapshot_tag(pushed.spec.snapshot)
    known = push_model.tags(hub, repo, "dataset").get(tag)
    there = {} if known is None else push_model.contents(hub, repo, "dataset", tag)
    sha, fresh = known, False
    if sha is None or any(not push_model.same(there.get(name), content) for name, content in files.items()):
        sha, sent = send(hub, repo, files, snapshot_card.mark(pushed.unit), f"{tag}: run {run}")
        fresh = sent or known != sha
        push_model.set_tag(hub, repo, "dataset", tag, sha, known)
    publications.record(db, "dataset", None, repo, tag, sha, private, by)
    return PublishResult(repo=repo, tag=tag, commit_sha=sha, url=f"{hub.endpoint}/datasets/{repo}", fresh=fresh)


def snapshot_files(db: Database, data_dir: Path, pushed: Snapshot) -> Files:
    """The rows by split, and the card. Raises UserError where the data is gone, or names nobody though it should."""
    rows = list(frozen_rows(data_dir, pushed))
    if not pushed.names:
        rows = list(without_names(rows, pseudonyms(data_sources.annotators(db))))
    files: Files = {}
    for split, path in PATHS.items():
        lines = [snapshot_card.line_of(row, pushed.unit) for row in rows if row["split"] == split]
        files |= {path: b"".join(lines)} if lines else {}
    return {**files, CARD: snapshot_card.card(snapshot_facts(db, pushed, rows, files)).encode()}


def split_sizes(data_dir: Path, pushed: Snapshot) -> dict[str, int]:
    """The number of rows by split, as exports call these. Raises UserError as `snapshot_files` does."""
    found = Counter(row["split"] for row in frozen_rows(data_dir, pushed))
    return {SPLIT_NAMES[split]: found[split] for split in PATHS}


def frozen_rows(data_dir: Path, pushed: Snapshot) -> Iterator[Mapping[str, Any]]:
    """The rows as they were frozen. Raises UserError as `snapshot_files` does."""
    content = snapshot_content(data_dir, pushed.spec.snapshot)
    if pushed.names and not snapshot_card.names_annotators(pushed.unit):
        said = _("The frozen data of run {id} names no annotator. Leave the names out.")
        raise UserError(said.format(id=pushed.job.id))
    yield from map(json.loads, content.splitlines())


def without_names(rows: Iterable[Mapping[str, Any]], known: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    """The same rows with a pseudonym for each annotator, also for one who has another name by now."""
    others: dict[str, str] = {}
    for row in rows:
        if "annotators" in row:
            names = row["annotators"]
            shown = [known.get(name) or others.setdefault(name, f"former-{len(others) + 1}") for name in names]
            row = {**row, "annotators": shown}
        yield row


def snapshot_facts(db: Database, pushed: Snapshot, rows: Sequence[Mapping[str, Any]], files: Files) -> SnapshotFacts:
    spec = pushed.spec
    there = {split: path for split, path in PATHS.items() if path in files}
    counts = {SPLIT_NAMES[split]: sum(row["split"] == split for row in rows) for split in there}
    base = registry.by_revision(db, "base").base
    return SnapshotFacts(
        repo=pushed.repo,
        tag=push_model.snapshot_tag(spec.snapshot),
        sha256=spec.snapshot,
        unit=pushed.unit,
        job=pushed.job.id,
        made=spec.kind,
        base=public_name(base),
        source=spec.source,
        rows=counts,
        files={
            SPLIT_NAMES[split]: (path, sha256(cast(bytes, files[path])).hexdigest()) for split, path in there.items()
        },
        left_out=snapshot_counts(db, spec.snapshot).left_out,
        left_out_later=FinishedTraining.of(pushed.job.result).left_out,
        agreement=push_model.agreement_on(db, spec.snapshot),
        names=pushed.names,
        licence=pushed.licence,
    )
