"""What a job needs of a data directory, as files to send away, and a data directory made of them where it is to run.

Only what the job needs: its spec, the frozen data, the weights that it starts from, a few prompts to be answered during
the run, and this program. No account and no path of this machine; of judgements what the frozen data holds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Final

from annotation.database import Database, open_database
from annotation.records import Prompt, UserError, now
from annotation.store import prompt_store, setting_store
from annotation.translation import _
from rlhf.data.held_out_sets import sample_prompts
from rlhf.hub import space_upload
from rlhf.hub.push_model import WHOLE, Files
from rlhf.jobs.artifacts import file_sha256, verify_directory
from rlhf.jobs.job_spec import TrainingSpec, from_json, to_json
from rlhf.jobs.job_store import Job, get
from rlhf.models import registry
from rlhf.models.base import base_files, base_model
from rlhf.models.registry import Policy
from rlhf.models.self_test_results import SelfTestResult, keep_result, kept_result

MANIFEST: Final = "job.json"
CODE: Final = "code"
DATA: Final = "data"
# What comes back.
REPORTS: Final = "reports"
RESULT: Final = "result.json"
MADE: Final = "made"
# A base model that is only in a directory goes along, and has this directory's name there.
OWN_BASE: Final = "base"
CARD: Final = b"""# A job of Prefloop

What a training on rented hardware is sent, and what it sends back: no dataset to be used. Prefloop deletes this when
what was trained has arrived.
"""


@dataclass(frozen=True)
class JobManifest:
    """What is told of the files, and the rows that the job looks up, as JSON has them; both ends run one program."""

    job: int
    spec: Mapping[str, Any]
    base: str
    """Its name on the Hub, or that of the directory that comes along."""
    base_commit: Mapping[str, str]
    models: Sequence[Mapping[str, Any]]
    snapshot: dict[str, Any]
    prompts: Sequence[Mapping[str, Any]]
    self_test: Mapping[str, bool] | None
    """Of the base, where the job was packed."""
    sha256: Mapping[str, str]
    """Of each file, by its path."""


def pack(db: Database, data_dir: Path, job: Job) -> Files:
    """The files of a job, by their path there. Raises UserError where one that it needs is gone or damaged."""
    spec = job.spec
    if not isinstance(spec, TrainingSpec):
        raise UserError(_("Only trainings can be sent to rented hardware."))
    models = needed(db, spec)
    base = models[0]
    files = code_files(job) | files_of_base(base)
    for policy in models[1:]:
        files |= policy_files(data_dir, policy)
    snapshot = db.row("SELECT * FROM snapshot WHERE sha256 = ?", (spec.snapshot,))
    if snapshot is None:
        said = _("The frozen data {snapshot} of job {id} is not known here. Start a new job.")
        raise UserError(said.format(snapshot=spec.snapshot[:12], id=job.id))
    files[f"{DATA}/snapshots/{spec.snapshot}.jsonl"] = data_dir / "snapshots" / f"{spec.snapshot}.jsonl"
    directory = base_files.on_this_machine(data_dir, base.base)
    tried = None if directory is None else kept_result(data_dir, directory)
    manifest = JobManifest(
        job=job.id,
        spec=json.loads(to_json(replace(spec, model="base"))),
        base=Path(base.base).name if own_base(base) else base.base,
        base_commit=setting_store.setting(db, base_files.BASE_COMMIT, {}),
        models=[  # as they are there: nothing is known of jobs and of other models
            {**asdict(policy), "base": "", "job_id": None, "parent_id": None if policy.id == base.id else base.id}
            for policy in models
        ],
        snapshot=snapshot,
        prompts=[asdict(prompt) for prompt in sample_prompts(db)],
        self_test=None if tried is None else asdict(tried),
        sha256={name: digest(content) for name, content in sorted(files.items())},
    )
    return {**files, MANIFEST: json.dumps(asdict(manifest), indent=1, sort_keys=True).encode(), "README.md": CARD}


def needed(db: Database, spec: TrainingSpec) -> list[Policy]:
    """The base, then what the job starts from and is scored by, each after the weights that it lies on."""
    found = {registry.by_revision(db, "base").id: registry.by_revision(db, "base")}
    for policy in (registry.by_revision(db, name) for name in spec.depends_on()):
        for one in (registry.ground(db, policy), policy):
            found.setdefault(one.id, one)
    return list(found.values())


def own_base(base: Policy) -> bool:
    return Path(base.base).is_absolute()


def code_files(job: Job) -> Files:
    """This program, with what it requires on the hardware that the job is for."""
    files: Files = {f"{CODE}/{path.as_posix()}": space_upload.ROOT / path for path in space_upload.files()}
    wanted = space_upload.SpacePlan("prefloop/job", hardware=job.flavor or "")
    text = (space_upload.ROOT / "requirements.txt").read_text("utf-8")
    return {**files, f"{CODE}/requirements.txt": space_upload.requirements(wanted, text).encode()}


def files_of_base(base: Policy) -> Files:
    """The files of a base model that is only in a directory here. Raises UserError where it is gone."""
    if not own_base(base):
        return {}
    directory = Path(base.base)
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    kept = [path for path in paths if any(fnmatch(path.name, pattern) for pattern in WHOLE)]
    if not any(path.suffix == ".safetensors" for path in kept):
        said = _("The base model's weights are gone from {directory}. Restore them.")
        raise UserError(said.format(directory=directory))
    return {f"{DATA}/{OWN_BASE}/{path.name}": path for path in kept}


def policy_files(data_dir: Path, policy: Policy) -> Files:
    """All files of a policy: its sha256 is that of them all. Raises UserError where they are gone or damaged."""
    directory = data_dir / str(policy.path)
    verify_directory(directory, str(policy.sha256), policy.revision)
    kept = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {f"{DATA}/{policy.path}/{path.relative_to(directory).as_posix()}": path for path in kept}


def report_name(number: int) -> str:
    return f"{REPORTS}/{number:06d}.json"


def digest(content: Path | bytes) -> str:
    return sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)


def unpack(source: Path, data_dir: Path) -> tuple[Database, Job]:
    """Make a data directory in which the packed job waits, with its base model ready.

    Raises UserError where a file is missing or another one.
    """
    manifest = JobManifest(**json.loads((source / MANIFEST).read_text("utf-8")))
    verify(source, manifest.sha256)
    data_dir.mkdir(parents=True)
    for path in sorted((source / DATA).iterdir()):
        if path.name != OWN_BASE:
            shutil.move(path, data_dir / path.name)
    base = manifest.base
    if (source / DATA / OWN_BASE).is_dir():
        directory = data_dir / "models" / base
        directory.parent.mkdir(exist_ok=True)
        shutil.move(source / DATA / OWN_BASE, directory)
        base = str(directory.resolve())
    db = open_database(data_dir)
    setting_store.set_setting(db, base_files.BASE_COMMIT, manifest.base_commit)
    prepared = base_model.prepare(data_dir, base, known=True)
    if manifest.self_test is not None:
        keep_result(data_dir, prepared.path, SelfTestResult(**manifest.self_test))
    fill(db, manifest, prepared.name)
    return db, get(db, manifest.job)


def verify(source: Path, expected: Mapping[str, str]) -> None:
    """Raises UserError where a file is not what was packed."""
    for name, known in expected.items():
        path = source / PurePosixPath(name)
        if not path.is_file() or digest(path) != known:
            raise UserError(_("{name} did not arrive as it was sent. Start the job again.").format(name=name))


def fill(db: Database, manifest: JobManifest, base: str) -> None:
    """The rows that the job looks up, under the ids that they have where it comes from."""
    spec = replace(from_json(json.dumps(manifest.spec)), model=base)
    prompt_store.add_prompts(db, [Prompt(**{**one, "messages": tuple(one["messages"])}) for one in manifest.prompts])
    with db.transaction() as connection:
        for row in manifest.models:
            connection.table("model").insert({**row, "base": base})
        connection.table("snapshot").insert(manifest.snapshot)
        db.insert(
            "job",
            {
                "id": manifest.job,
                "kind": spec.kind,
                "spec": to_json(spec),
                "status": "queued",
                "requested_by": "rented",
                "created": now(),
            },
        )
