"""The held-out prompts that candidates are measured on: drawn at random, kept in versions. Torch-free.

Two sets, where there are prompts enough. Reports speak of the first: its answers are shown, figures are of it, and
whoever tunes by them has seen it. The second is the gate's own: only people's and judges' verdicts on it decide, its
text is in no report, and no accuracy is measured on it. What the gate says of a candidate tells a little of it all the
same, so candidates are counted, and after `MOST_WEIGHED` the next one is weighed on a new version, where prompts
suffice.

`prompt.held_for` says what a prompt was drawn into: 0 for what reports speak of, else a version of the gate's own set,
of which the latest is in use; prompts of earlier ones may be seen again. A version's record has the seed of its draw.
"""

from __future__ import annotations

import json
import random
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from annotation.database import Database
from annotation.exports.frozen_rows import FrozenRow, PromptRow
from annotation.records import Prompt, UserError, now
from annotation.store import policy_comparisons, prompt_store, setting_store
from annotation.translation import N_, _
from rlhf.data.snapshots import CountedRows, snapshot_counts, store_snapshot
from rlhf.jobs.job_spec import JobSpec, TrainingSpec
from rlhf.models import registry
from rlhf.models.registry import Policy
from rlhf.models.tokenise import load_snapshot, of_split

SETTING = "held_out_sets"
GATE_SETTING = "gate_sets"
# With fewer prompts nothing is decided: which ones were drawn would have too large a part in it.
LEAST = 60
# Candidates that are weighed on one version of the gate's set, until the next is drawn. Our choice.
MOST_WEIGHED = 10
# Of a project's prompts, the share up to which a check holds out prompts that nothing has used.
MOST_HELD_OUT = 1 / 5
SAMPLE_PROMPTS = 3
# Between the seeds of two checks of one candidate: more than there are prompts.
SEEDS_APART = 1000

NONE = N_("There is no held-out prompt to measure on. Import some, with a share that is held out, and check it again.")

NOTHING_TO_CHECK = N_(
    "Nothing is held out: what comes of this run can't be checked on prompts it was not trained on. Import "
    "some with a share that is held out before you start."
)
NO_PAIRS_TO_CHECK = N_(
    "No judged comparison is held out: how often the reward model is right can't be measured, and "
    "training a policy against it asks for that. Judge some answers to held-out prompts before you start."
)


@dataclass(frozen=True)
class HeldOut:
    """A version of the prompts that reports speak of: 1 is the first."""

    version: int
    sha256: str
    prompts: int
    created: str
    wanted: int | None = None
    """How many prompts it is to have once there are so many; None in an earlier version's, which stays as it is."""
    seed: int | None = None
    """What its prompts were drawn by; None in an earlier version's, which took the first there were."""


@dataclass(frozen=True)
class GateSet:
    """A version of the prompts that are the gate's alone: 1 is the first."""

    version: int
    prompts: int
    seed: int
    created: str
    seen: int | None = None
    """How many of them people or judges had compared answers to before, none in a check; None in an earlier version's,
    which did not look, and may hold prompts of checks as well."""


@dataclass(frozen=True)
class ComparedSet:
    """The held-out prompts on which a check compares its two policies, for the verdict."""

    sha256: str = ""
    """Of the frozen prompts; empty for those of the report."""
    seeds: int = 0
    """What is added to the check's first seed: answers to prompts that are asked again are drawn anew."""
    gate_set: int = 0
    """The version of the gate's own prompts that they are of; 0 where gate and reports share one set."""
    repeated: bool = False
    """Whether none is left on which the two have not been compared."""


# ----------------------------------------------------------------------------------------------- what reports speak of
def versions(db: Database) -> list[HeldOut]:
    """Every version, oldest first."""
    return [HeldOut(**values) for values in setting_store.setting(db, SETTING, [])]


def current(db: Database, data_dir: Path, most: int) -> HeldOut:
    """The set that reports speak of today; the first check draws it, of up to `most` prompts.

    One that fell short takes in what was held out since, behind its prompts: what these were answered stays as it is.
    One whose file is gone gives way to another. Raises UserError without held-out prompts.
    """
    made = versions(db)
    if not made:
        return renew(db, data_dir, most)
    last = made[-1]
    known = known_prompts(data_dir, last)
    if not known:
        return renew(db, data_dir, last.wanted or most)
    missing = (last.wanted or 0) - last.prompts
    if missing <= 0 or len(open_prompts(db)) <= last.prompts:
        return last
    others = without(open_prompts(db), known)
    seed = new_seed()
    return record(db, data_dir, [*known, *drawn(others, missing, seed)], last.wanted, seed) if others else last


def name_of_current(db: Database, data_dir: Path, most: int) -> str:
    """The sha256 of the set that checks use today; empty without prompts, which the check itself then says."""
    hold_out_more(db, data_dir)
    return current(db, data_dir, most).sha256 if versions(db) or open_prompts(db) else ""


def can_measure(db: Database) -> bool:
    """Whether a check finds prompts to measure on, or can hold some out."""
    return bool(versions(db)) or prompt_store.has_prompts(db, "held-out") or may_hold_out(db) >= LEAST


def renew(db: Database, data_dir: Path, most: int) -> HeldOut:
    """A new version of up to `most` held-out prompts, drawn at random; the last one where it would be the same.

    Figures of different versions can't be compared. Raises UserError if there are no held-out prompts.
    """
    found, made, seed = open_prompts(db), versions(db), new_seed()
    if not found:
        raise UserError(_(NONE))
    if made and made[-1].prompts == len(found) <= most and not without(found, known_prompts(data_dir, made[-1])):
        return made[-1]
    return record(db, data_dir, drawn(found, most, seed), most, seed)


def known_prompts(data_dir: Path, version: HeldOut) -> list[Prompt]:
    """The prompts of a version; none where its file is not to be read any more, so that a new one takes its place."""
    try:
        return prompts_of(data_dir, version.sha256)
    except UserError:
        return []


def record(db: Database, data_dir: Path, prompts: Sequence[Prompt], wanted: int | None, seed: int) -> HeldOut:
    """Keep these prompts as the newest version."""
    sha256 = freeze(db, data_dir, prompts)
    with db.transaction():
        made = versions(db)
        if made and made[-1].sha256 == sha256:
            return made[-1]
        new = HeldOut(
            version=len(made) + 1, sha256=sha256, prompts=len(prompts), created=now(), wanted=wanted, seed=seed
        )
        setting_store.set_setting(db, SETTING, [asdict(version) for version in (*made, new)])
        prompt_store.hold_for(db, [prompt.id for prompt in prompts], 0)
    return new


def freeze(db: Database, data_dir: Path, prompts: Iterable[Prompt]) -> str:
    """Freeze prompts in this order; returns their sha256."""
    rows = [PromptRow("held-out", prompt.messages, prompt.id) for prompt in prompts]
    return store_snapshot(db, data_dir, CountedRows(rows))


def open_prompts(db: Database) -> list[Prompt]:
    """The held-out prompts that say nothing which the gate has for itself now, oldest first."""
    return without(prompt_store.prompts(db, "held-out"), prompt_store.reserved_prompts(db))


def without(prompts: Iterable[Prompt], others: Iterable[Prompt]) -> list[Prompt]:
    """One prompt of each thing that is said (`letters_of`) and that none of the others says.

    Outcomes of two prompts that say the same would count as two, and are one.
    """
    known = {prompt_store.letters_of(prompt.messages) for prompt in others}
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        found.setdefault(prompt_store.letters_of(prompt.messages), prompt)
    return [prompt for said, prompt in found.items() if said not in known]


def new_seed() -> int:
    return secrets.randbits(32)


def drawn(prompts: Sequence[Prompt], number: int, seed: int) -> list[Prompt]:
    """So many of the prompts at random, in the order of their ids: the same ones of the same prompts and seed."""
    in_order = sorted(prompts, key=lambda prompt: prompt.id)
    chosen = random.Random(seed).sample(in_order, min(number, len(in_order)))
    return sorted(chosen, key=lambda prompt: prompt.id)


# --------------------------------------------------------------------------------------------------- the gate's own set
def gate_sets(db: Database) -> list[GateSet]:
    """Every version of the gate's own set, oldest first."""
    return [GateSet(**values) for values in setting_store.setting(db, GATE_SETTING, [])]


def gate_set(db: Database) -> GateSet | None:
    """The set on which the next candidate is weighed; None where there are too few prompts for one beside the reports'.

    Drawn once there are `LEAST` prompts beside those of the reports, half of them if that is more, and anew when
    `MOST_WEIGHED` were weighed on it and there are as many that no version has had.
    """
    with db.transaction():  # two checks asked for at once go by the same version
        made = gate_sets(db)
        if made and len(weighed(db, made[-1].version)) < MOST_WEIGHED:
            return made[-1]
        return reserve(db) or (made[-1] if made else None)


def reserve(db: Database) -> GateSet | None:
    """Draw a new version of the gate's own set; None, and nothing has changed, where there are too few prompts."""
    with db.transaction():
        unseen, others = fresh_prompts(db)
        if len(unseen) + len(others) < LEAST:
            return None
        seed, made = new_seed(), gate_sets(db)
        chosen = drawn(unseen, max(LEAST, len(unseen) // 2), seed)
        seen = drawn(others, max(LEAST - len(chosen), 0), seed)
        new = GateSet(version=len(made) + 1, prompts=len(chosen) + len(seen), seed=seed, created=now(), seen=len(seen))
        chosen += seen
        prompt_store.hold_for(db, [prompt.id for prompt in chosen], new.version)
        setting_store.set_setting(db, GATE_SETTING, [asdict(version) for version in (*made, new)])
    return new


def fresh_prompts(db: Database) -> tuple[list[Prompt], list[Prompt]]:
    """The held-out prompts that can be reserved: no set or check has had them, and no run shows how it answers them.

    First those of which nobody has seen answers, which are better, then those of which people or judges have in other
    comparisons.
    """
    rows = db.rows(
        f"""SELECT p.*, EXISTS (SELECT 1 FROM comparison c WHERE c.prompt_id = p.id) AS seen, held_for IS NOT NULL
                OR EXISTS (SELECT 1 FROM comparison c WHERE c.prompt_id = p.id AND c.candidate_id IS NOT NULL)
                OR EXISTS (SELECT 1 FROM response r WHERE r.prompt_id = p.id AND r.purpose = 'check') AS had
            FROM prompt p WHERE split = 'held-out' AND NOT {setting_store.arriving("p")} ORDER BY seen, id"""
    )
    had = [prompt_store.read_prompt(row) for row in rows if row["had"]]
    seen = {row["id"] for row in rows if row["seen"]}
    fresh = without((prompt_store.read_prompt(row) for row in rows if not row["had"]), [*had, *sample_prompts(db)])
    return [prompt for prompt in fresh if prompt.id not in seen], [prompt for prompt in fresh if prompt.id in seen]


@dataclass(frozen=True)
class GateSetStatus:
    """On which prompts the gate weighs candidates."""

    last: GateSet | None
    """The newest version of its own set; None where it shares the reports'."""
    weighed: int
    """Candidates that were weighed on it."""
    missing: int
    """Held-out prompts that a further version lacks."""


def gate_set_status(db: Database) -> GateSetStatus:
    found = sum(map(len, fresh_prompts(db)))
    last = next(reversed(gate_sets(db)), None)
    return GateSetStatus(last, len(weighed(db, last.version if last else 0)), max(LEAST - found, 0))


def that_count(db: Database, version: int) -> frozenset[int] | None:
    """The ids of the prompts of which outcomes count where a version of the gate's own set decides.

    None, for whichever prompts, where gate and reports share one set (version 0).
    """
    return frozenset(prompt.id for prompt in prompt_store.reserved_prompts(db, version)) if version else None


def weighed(db: Database, version: int) -> list[str]:
    """The revisions of the candidates that the gate has looked at on a version of its own set, in the order of that.

    Each once, however often it was checked and decided on, or never decided: what a finished check says of it is seen.
    Of version 0: on the set that gate and reports share, whatever version that is, since further checks take any.
    """
    rows = db.rows(
        """SELECT json_extract(spec, '$.candidate') AS revision FROM job
           WHERE kind = 'check' AND status = 'finished' AND coalesce(json_extract(spec, '$.gate_set'), 0) = ?
           GROUP BY revision ORDER BY min(finished), min(id)""",
        (version,),
    )
    return [row["revision"] for row in rows]


# -------------------------------------------------------------------------------------------- what a check compares on
def to_compare(
    db: Database, data_dir: Path, pair: tuple[Policy, Policy], most: int, checks: int, begun_on: int | None
) -> ComparedSet:
    """The held-out prompts on which the next check compares a candidate and another policy.

    Up to `most` on which these two have not been compared; where none is left, those on which they were least often,
    with new seeds. They are of the gate's own set where it is to decide between the two and there is one: of the
    version that their first check has `begun_on` (None before it), since when `checks` have finished. Otherwise the
    first check compares on what the report speaks of, and further ones on what else is held out.
    """
    candidate, against = pair
    version = begun_on
    if version is None:
        deciding = candidate.status == "candidate" and against.status == "serving"
        own = gate_set(db) if deciding else None
        version = own.version if own else 0
    if not version and not checks:
        return ComparedSet()
    asked = compared_before(db, candidate, against) if checks else Counter[int]()
    pool = {prompt.id: prompt for prompt in pool_of(db, version)}
    order = sorted(pool)
    random.Random(candidate.id).shuffle(order)  # the same again for a check that is repeated because it failed
    chosen = least_compared(order, asked, most)
    return ComparedSet(
        sha256=freeze(db, data_dir, [pool[number] for number in sorted(chosen)]) if chosen else "",
        seeds=SEEDS_APART * checks,
        gate_set=version,
        repeated=all(asked[number] for number in chosen),
    )


def least_compared(order: Sequence[int], asked: Mapping[int, int], most: int) -> list[int]:
    """Of prompts in a drawn order those that a check compares on: up to `most` never asked, or asked least often."""
    fresh = [number for number in order if not asked.get(number)]
    return (fresh or sorted(order, key=lambda number: asked[number]))[:most]


def pool_of(db: Database, version: int) -> list[Prompt]:
    """The prompts that decide: of a version of the gate's own set, or those that it shares with the reports (0)."""
    return prompt_store.reserved_prompts(db, version) if version else open_prompts(db)


def never_compared(db: Database, candidate: Policy, against: Policy, version: int) -> int:
    """On how many of the prompts that decide two policies have never been compared."""
    asked = compared_before(db, candidate, against)
    return sum(not asked[prompt.id] for prompt in pool_of(db, version))


def compared_before(db: Database, candidate: Policy, against: Policy) -> Counter[int]:
    """How often two policies were compared on each prompt, in whoever's eyes; answers that are alike count."""
    pairs = policy_comparisons.paired_answers(db, candidate.id, against.id)
    return Counter(pair.prompt_id for pair in pairs if pair.compared or pair.known_outcome is not None)


# ------------------------------------------------------------------------------------------------------------- growing
def may_hold_out(db: Database) -> int:
    return int(db.value("SELECT count(*) FROM prompt") * MOST_HELD_OUT)


def hold_out_more(db: Database, data_dir: Path) -> int:
    """Hold out prompts that nothing has used, drawn at random, where fewer than both sets take are; returns how many.

    Only where a project has so many that `LEAST` are at most `MOST_HELD_OUT` of them: a smaller one needs them to learn
    from, and the gate says that it takes more. What was answered, compared or trained on stays where it is.
    """
    allowed = may_hold_out(db)
    wanted = min(2 * LEAST, allowed) - int(db.value("SELECT count(*) FROM prompt WHERE split = 'held-out'"))
    if allowed < LEAST or wanted <= 0:
        return 0
    unused = unused_prompts(db, data_dir)
    with db.transaction() as connection:
        chosen = drawn(unused, wanted, new_seed())
        moved = connection.conn.executemany(
            f"UPDATE prompt AS p SET split = 'held-out' WHERE id = ? AND {prompt_store.UNUSED}",
            [(prompt.id,) for prompt in chosen],
        ).rowcount
    return int(moved)


def unused_prompts(db: Database, data_dir: Path) -> list[Prompt]:
    """Prompts to train on that nothing has answered, compared, demonstrated, or frozen to train on, oldest first.

    Nor one of nearly the same (`letters_of`). None where frozen data is gone: what was in it can't be told.
    """
    rows = db.rows(f"SELECT * FROM prompt p WHERE {prompt_store.UNUSED} ORDER BY id")
    unused = {prompt_store.letters_of(prompt.messages): prompt for prompt in map(prompt_store.read_prompt, rows)}
    every = db.rows("SELECT messages FROM prompt") if unused else []
    known = Counter(prompt_store.letters_of(json.loads(row["messages"])) for row in every)
    found = {said: prompt for said, prompt in unused.items() if known[said] == 1}
    frozen = db.rows("SELECT sha256 FROM snapshot WHERE json_extract(counts, '$.train') > 0") if found else []
    try:
        for snapshot in frozen:
            for row in of_split(load_snapshot(data_dir, snapshot["sha256"], FrozenRow), "train"):
                found.pop(prompt_store.letters_of(row.messages), None)
    except UserError:
        return []
    return list(found.values())


# ------------------------------------------------------------------------------------------------------- looked at
def nothing_to_check(db: Database, spec: TrainingSpec, held_out: int) -> str:
    """What is said before a training that nothing is held out for, in English; empty if there is.

    `held_out`: items of its data.
    """
    if spec.makes == "reward-model":
        return "" if held_out else NO_PAIRS_TO_CHECK
    return "" if db.value("SELECT 1 FROM prompt WHERE split = 'held-out' LIMIT 1") else NOTHING_TO_CHECK


def missing_for(db: Database, spec: JobSpec) -> str:
    """`nothing_to_check` of a job as it is queued; empty for jobs that train nothing."""
    if not isinstance(spec, TrainingSpec):
        return ""
    return nothing_to_check(db, spec, snapshot_counts(db, spec.snapshot).held_out or 0)


def sample_prompts(db: Database) -> list[Prompt]:
    """What a policy is asked during a run: the project's first held-out prompts, or without any the first to train on.

    New prompts stand behind these, so a run that is resumed asks the same ones.
    """
    return (prompt_store.prompts(db, "held-out") or prompt_store.prompts(db, "train"))[:SAMPLE_PROMPTS]


def prompts_of(data_dir: Path, sha256: str) -> list[Prompt]:
    """The prompts of a version, after checking its hash. Raises UserError if the file is gone or was changed."""
    if not sha256:
        raise UserError(_(NONE))
    return [
        Prompt(row.messages, "held-out", "held-out set", row.prompt_id)
        for row in load_snapshot(data_dir, sha256, PromptRow)
    ]


def trained_on(db: Database, data_dir: Path, policy: Policy, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Those of the prompts that the policy, or what it grew from, was trained on, by what they say (`letters_of`).

    It grew from its parent and from what else its training read, as the reward model that scored its answers; what a
    judge was trained on is not followed. Training data takes training prompts only; this would catch an example set or
    an import that repeats them. Raises UserError where the frozen data is gone.
    """
    held_out = {prompt_store.letters_of(prompt.messages): prompt for prompt in prompts}
    found: dict[int, Prompt] = {}
    for one in registry.family(db, policy):
        spec = registry.trained_as(db, one)
        if spec is None or not spec.snapshot:
            continue
        for row in of_split(load_snapshot(data_dir, spec.snapshot, FrozenRow), "train"):
            prompt = held_out.get(prompt_store.letters_of(row.messages))
            if prompt is not None:
                found[prompt.id] = prompt
    return list(found.values())
