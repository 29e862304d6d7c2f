"""AI judges and their rubrics: every SQL statement about who judges, by what, and how often it was asked.

A judge is an annotator of kind 'ai'. What it says of comparisons is in `verdict_store`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from annotation.database import Database
from annotation.project import invisible
from annotation.records import UserError, now
from annotation.store import setting_store
from annotation.translation import _
from annotation.validation import known, read
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.judges import local_models
from rlhf.judges.judge_settings import (
    Backend,
    DirectorySettings,
    EndpointSettings,
    JudgeSettings,
    LocalSettings,
    RewardModelSettings,
    kind_of,
)
from rlhf.judges.rubrics import DEFAULT, Rubric
from rlhf.models import registry
from rlhf.models.registry import Policy

MAXIMUM_NAME = 60
# In the place of judges' names: all that label open comparisons.
ACTIVE = "active"


# ------------------------------------------------------------------------------------------------------------- judges
@dataclass(frozen=True)
class Judge:
    """An AI judge: what it is (`settings` by backend) never changes, so that its figures stay those of one judge."""

    id: int
    name: str
    backend: Backend
    settings: JudgeSettings
    active: bool
    """Whether it labels open comparisons; one that does not can still be asked for its verdicts."""


JUDGES = """SELECT j.annotator_id AS id, a.name, j.backend, j.settings, j.active
    FROM judge j JOIN annotator a ON a.id = j.annotator_id"""


def read_judge(row: Mapping[str, Any]) -> Judge:
    told = json.loads(row["settings"])
    settings = known(kind_of(row["backend"], told), told)
    return Judge(**{**row, "settings": settings, "active": bool(row["active"])})


def judges(db: Database, active: bool | None = None) -> list[Judge]:
    """All judges, or those that label open comparisons, oldest first."""
    wanted = "" if active is None else f" WHERE j.active = {int(active)}"
    return [read_judge(row) for row in db.rows(f"{JUDGES}{wanted} ORDER BY j.annotator_id")]


def by_name(db: Database, name: str) -> Judge:
    """The judge of this name. Raises UserError if there is none."""
    row = db.row(f"{JUDGES} WHERE a.name = ? COLLATE NOCASE", (name,))
    if row is None:
        raise UserError(
            _("There is no judge '{name}'. Make one on the AI judges tab, or choose another.").format(name=name)
        )
    return read_judge(row)


def judges_named(db: Database, names: str) -> list[Judge]:
    """The judges of these names, which commas separate. Raises UserError if there is no such judge."""
    return [by_name(db, name.strip()) for name in names.split(",") if name.strip()]


def add(db: Database, name: str, backend: Backend, settings: Mapping[str, Any], created_by: str) -> Judge:
    """Make a judge. Raises UserError for a name that is taken, empty, too long, hidden or a word for all judges.

    Also for settings that are none of its backend's; whether it can judge with them is not looked at.
    """
    name = " ".join(name.split())
    if name.casefold() == ACTIVE:
        said = _("'{active}' stands for all judges that are switched on. Choose another name for the judge.")
        raise UserError(said.format(active=ACTIVE))
    if not 0 < len(name) <= MAXIMUM_NAME or "," in name:
        said = _("A judge has a name of 1 to {maximum_name} characters, without a comma.")
        raise UserError(said.format(maximum_name=MAXIMUM_NAME))
    if wrong := invisible(name):
        raise UserError(
            _("The judge's name has a character that can't be seen ({wrong}). Remove it.").format(wrong=wrong)
        )
    with db.transaction():
        if db.value("SELECT 1 FROM annotator WHERE name = ?", (name,)):
            raise UserError(
                _("There is an annotator '{name}' already. Choose another name for the judge.").format(name=name)
            )
        kept = asdict(read(kind_of(backend, settings), settings, _("The judge")))
        annotator_id = db.insert("annotator", {"name": name, "role": "annotator", "kind": "ai", "created": now()})
        db.insert(
            "judge",
            {
                "annotator_id": annotator_id,
                "backend": backend,
                "settings": json.dumps(kept, sort_keys=True),
                "created_by": created_by,
                "created": now(),
            },
        )
    return by_name(db, name)


def checked_settings(db: Database, backend: Backend, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A judge's settings as they are kept, with defaults. Raises UserError naming what is unknown or can't be meant."""
    if backend == "endpoint":
        # Late: it loads httpx, and every worker imports this module, because every kind of job is known by name.
        from rlhf.judges import openai_client

        return asdict(openai_client.settings_of(settings))
    known = {"model", "directory"} if backend == "local" else {"model"}
    if len(settings) != 1 or not set(settings) <= known:
        said = _("A judge of the kind '{backend}' has one setting, one of: {known}.")
        raise UserError(said.format(backend=backend, known=", ".join(sorted(known))))
    given = read(kind_of(backend, settings), settings, _("The judge"))
    if isinstance(given, DirectorySettings):
        return asdict(local_models.settings_of_directory(db.path.parent, given.directory))
    policy = registry.by_revision(db, given.model)
    if (policy.kind == "reward-model") != (backend == "reward-model"):
        other = _("'{revision}' is no policy.") if backend == "local" else _("'{revision}' is no reward model.")
        raise UserError(other.format(revision=policy.revision))
    return asdict(replace(given, model=policy.revision))


def model_of(db: Database, judge: Judge) -> Policy | None:
    """The policy or reward model of this data directory that judges; None for an endpoint and a model elsewhere."""
    match judge.settings:
        case LocalSettings(model) | RewardModelSettings(model):
            return registry.named(db, model)
        case DirectorySettings() | EndpointSettings():  # whose model may have any name
            return None


def what_judges(judge: Judge) -> tuple[str, ...]:
    """What is behind a judge's name, alike for all that were made of the same model whatever else was set of them."""
    match judge.settings:
        case LocalSettings(model) | RewardModelSettings(model):
            return judge.backend, model
        case DirectorySettings(directory):
            return judge.backend, "", directory.rstrip("/")
        case EndpointSettings(address, model):
            return judge.backend, address.rstrip("/"), model.rstrip("/")


def frozen_before(db: Database, judge: Judge) -> str | None:
    """When the last data were frozen that a judge's own model was trained on; None for one not trained here."""
    model = model_of(db, judge)
    return None if model is None or model.job_id is None else job_store.get(db, model.job_id).created


def cost(judge: Judge, prompt_tokens: int, completion_tokens: int) -> float | None:
    """What so many tokens cost by the prices that a judge was given, in its currency; None without prices."""
    match judge.settings:
        case EndpointSettings(price_in=price_in, price_out=price_out) if price_in or price_out:
            return round((price_in * prompt_tokens + price_out * completion_tokens) / 1e6, 6)
    return None


# ------------------------------------------------------------------------------------------------------------ rubrics
def rubric(db: Database) -> Rubric:
    """The latest rubric; the one that ships with Prefloop (version 0) before any was written."""
    return next(iter(rubrics(db)), DEFAULT)


def rubrics(db: Database) -> list[Rubric]:
    """Every version that was written, the latest first."""
    rows = db.rows("SELECT * FROM rubric ORDER BY version DESC")
    return [Rubric(**{**row, "principles": tuple(json.loads(row["principles"]))}) for row in rows]


def write_rubric(db: Database, instruction: str, principles: Sequence[str], drawn: int, written_by: str) -> int:
    """Add a version of the rubric unless it says what the latest does; returns the version that holds now."""
    with db.transaction():
        latest = rubric(db)
        if (latest.instruction, latest.principles, latest.drawn) == (instruction, tuple(principles), drawn):
            return latest.version
        return db.insert(
            "rubric",
            {
                "version": latest.version + 1,
                "instruction": instruction,
                "principles": json.dumps(list(principles)),
                "drawn": drawn,
                "written_by": written_by,
                "created": now(),
            },
        )


def last_job(db: Database, judge: Judge) -> Job | None:
    """The newest job of this judge that has ended."""
    return next(iter(ended_jobs(db, judge, 1)), None)


def ended_jobs(db: Database, judge: Judge, limit: int) -> list[Job]:
    """The latest jobs of this judge that have ended, newest first."""
    rows = db.rows(
        """SELECT * FROM job WHERE kind = 'judge' AND finished NOT NULL AND json_extract(spec, '$.judge') = ?
           ORDER BY id DESC LIMIT ?""",
        (judge.name, limit),
    )
    return [job_store.read_job(row) for row in rows]


# -------------------------------------------------------------------------------------------------- calls of endpoints
def calls_made(db: Database, judge: Judge) -> int:
    """How many calls all jobs have made to a judge's endpoint, failed and repeated ones included."""
    return int(setting_store.setting(db, calls_key(judge), 0))


def count_calls(db: Database, judge: Judge, calls: int) -> None:
    with db.transaction():
        setting_store.set_setting(db, calls_key(judge), calls_made(db, judge) + calls)


def calls_key(judge: Judge) -> str:
    return f"calls of judge {judge.id}"
