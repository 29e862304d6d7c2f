"""The held-out prompts that every candidate is measured on: fixed, numbered, named by their content. Torch-free.

Whoever imports more prompts changes nothing about earlier figures: the set stays what it was at the first check until
somebody makes a new version of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from annotation import store
from annotation.database import Database
from annotation.exports.frozen_rows import FrozenRow, PromptRow
from annotation.records import Prompt, UserError, now
from annotation.translation import _
from rlhf.data.snapshots import CountedRows, snapshot_counts, store_snapshot
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec, TrainingSpec
from rlhf.models import registry
from rlhf.models.registry import Policy
from rlhf.models.tokenize import load_snapshot, of_split

SETTING = "held_out_sets"
# Below this an interval of a win rate spans more than two fifths of what is possible.
FEW = 20
SAMPLE_PROMPTS = 3
NONE = _("There is no held-out prompt to measure on. Import some, with a share that is held out, and check it again.")

NOTHING_TO_CHECK = _(
    "Nothing is held out: what comes of this run can't be checked on prompts it was not trained on. Import "
    "some with a share that is held out before you start."
)
NO_PAIRS_TO_CHECK = _(
    "No judged comparison is held out: how often the reward model is right can't be measured, and PPO asks "
    "for that. Judge some answers to held-out prompts before you start."
)


@dataclass(frozen=True)
class HeldOut:
    """A version of the set: 1 is the first."""

    version: int
    sha256: str
    prompts: int
    created: str


def versions(db: Database) -> list[HeldOut]:
    """Every version, oldest first."""
    return [HeldOut(**values) for values in store.setting(db, SETTING, [])]


def current(db: Database, data_dir: Path, most: int) -> HeldOut:
    """The set that checks use today; the first check makes it, of up to `most` prompts. Raises UserError if none."""
    made = versions(db)
    return made[-1] if made else renew(db, data_dir, most)


def name_of_current(db: Database, data_dir: Path, most: int) -> str:
    """The sha256 of the set that checks use today; empty without prompts, which the check itself then says."""
    try:
        return current(db, data_dir, most).sha256
    except UserError:
        return ""


def renew(db: Database, data_dir: Path, most: int) -> HeldOut:
    """A new version of the first `most` held-out prompts; the last one where it would be the same.

    Figures of different versions can't be compared. Raises UserError if there are no held-out prompts.
    """
    found = store.prompts(db, "held-out")[:most]
    if not found:
        raise UserError(NONE)
    rows = [PromptRow("held-out", prompt.messages, prompt.id) for prompt in found]
    sha256 = store_snapshot(db, data_dir, CountedRows(rows))
    with db.transaction():
        made = versions(db)
        if made and made[-1].sha256 == sha256:
            return made[-1]
        new = HeldOut(len(made) + 1, sha256, len(rows), now())
        store.set_setting(db, SETTING, [asdict(version) for version in (*made, new)])
    return new


def nothing_to_check(db: Database, spec: TrainingSpec, held_out: int) -> str:
    """What is said before a training that nothing is held out for; empty if there is. `held_out`: items of its data."""
    if spec.makes == "reward":
        return "" if held_out else NO_PAIRS_TO_CHECK
    return "" if db.value("SELECT 1 FROM prompt WHERE split = 'held-out' LIMIT 1") else NOTHING_TO_CHECK


def missing_for(db: Database, spec: JobSpec) -> str:
    """`nothing_to_check` of a job as it is queued; empty for jobs that train nothing."""
    if not isinstance(spec, TrainingSpec):
        return ""
    held_out = snapshot_counts(db, spec.snapshot).get("held-out", 0) if spec.snapshot else 0
    return nothing_to_check(db, spec, held_out)


def sample_prompts(db: Database) -> list[Prompt]:
    """What a policy is asked during a run: the project's first held-out prompts, or without any the first to train on.

    New prompts stand behind these, so a run that is resumed asks the same ones.
    """
    return (store.prompts(db, "held-out") or store.prompts(db, "train"))[:SAMPLE_PROMPTS]


def prompts_of(data_dir: Path, sha256: str) -> list[Prompt]:
    """The prompts of a version, after checking its hash. Raises UserError if the file is gone or was changed."""
    if not sha256:
        raise UserError(NONE)
    return [
        Prompt(row.messages, "held-out", "held-out set", row.prompt_id)
        for row in load_snapshot(data_dir, sha256, PromptRow)
    ]


def trained_on(db: Database, data_dir: Path, policy: Policy, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Those of the prompts that the policy, or what it grew from, was trained on, by their content.

    It grew from its parent and from what else its training read, as the reward model that scored its answers; what a
    judge was trained on is not followed. Training data takes training prompts only; this would catch an example set or
    an import that repeats them. Raises UserError where the frozen data is gone.
    """
    held_out = {store.fingerprint_of(prompt.messages)[0]: prompt for prompt in prompts}
    found: dict[int, Prompt] = {}
    for one in registry.family(db, policy):
        spec = None if one.job_id is None else job_store.get(db, one.job_id).spec
        if not isinstance(spec, TrainingSpec) or not spec.snapshot:
            continue
        for row in of_split(load_snapshot(data_dir, spec.snapshot, FrozenRow), "train"):
            prompt = held_out.get(store.fingerprint_of(row.messages)[0])
            if prompt is not None:
                found[prompt.id] = prompt
    return list(found.values())
