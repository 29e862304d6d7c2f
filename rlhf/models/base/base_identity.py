"""Which model lies under the name of the base: its row, its commit, its template and its weights, by their hashes."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from annotation.database import Database
from annotation.records import UserError
from annotation.store import setting_store
from annotation.translation import N_, _
from rlhf.jobs.artifacts import file_sha256
from rlhf.models import chat_template, registry
from rlhf.models.base.base_files import BASE_COMMIT, EMBEDDED_NAME, BaseModel, on_this_machine
from rlhf.models.base.base_precision import FOUR_BITS, precision_by_need, quantisation
from rlhf.models.memory import machines
from rlhf.models.registry import Policy

# The setting that keeps what tells the base's template and weights from others of its name, by that name.
BASE_CONTENT = "base_content"
# The setting that keeps the hash of the base's weights, with the files' sizes and times.
HASHED = "base_sha256"
# Files of so many bytes and more are not read for their hash without a word.
LONG_TO_READ = 2_000_000_000
# What follows from a change of the base.
OTHERWISE = N_(
    "Check its policies again, and let judges that run on it judge again what people have judged: what both have said "
    "so far decides nothing any more."
)


def register(db: Database, base: BaseModel) -> Policy:
    """The row of a base model, which stays at this commit of the Hub from now on; one that is new here is held in the
    precision that the memory asks for.

    Raises UserError if the data directory has another base.
    """
    new = not registry.all_policies(db)
    precision = precision_by_need(base.path, machines.this_machine()) if new else "nf4"
    policy = registry.ensure_base(db, base.name, precision)
    pin(db, base)
    if new:
        return policy
    if policy.precision == "nf4" and quantisation(base.path) not in ("", FOUR_BITS):
        # Earlier versions called every base one in NF4; this one never was, and a method would be chosen by it.
        return registry.set_precision(db, precision_by_need(base.path, machines.this_machine()), None)
    return policy


def pin(db: Database, base: BaseModel) -> None:
    """Keep at which commit a name on the Hub is the base, the name of its directory in the cache, and what is in it.

    At another one than before, or with another chat template or other weights, all policies answer otherwise. Raises
    UserError then while a check or a judge runs.
    """
    commit = {base.name: base.path.name}
    of_hub = base.path.parent.name == "snapshots" and not Path(base.name).is_absolute()
    content = {base.name: [template_sha256(base.path), "" if of_hub else base_sha256(db, db.path.parent, base.name)]}
    with db.transaction():
        before, known = setting_store.setting(db, BASE_COMMIT, {}), setting_store.setting(db, BASE_CONTENT, {})
        if of_hub and before != commit:
            setting_store.set_setting(db, BASE_COMMIT, commit)
        if known != content:
            setting_store.set_setting(db, BASE_CONTENT, content)
        moved = of_hub and before.get(base.name, base.path.name) != base.path.name
        changed = known.get(base.name, content[base.name]) != content[base.name]
        if moved or changed:
            registry.answer_otherwise(db)
    if changed and not moved:
        said = _("{name}: its chat template or its weights are others than before. {otherwise}")
        print(said.format(name=base.name, otherwise=_(OTHERWISE)), flush=True)


def template_sha256(directory: Path) -> str:
    with suppress(UserError):
        return sha256(chat_template.read_format(directory).template.encode()).hexdigest()
    return ""


def base_sha256(db: Database, data_dir: Path, base: str, earlier: bool = False) -> str:
    """What tells a base's weights from others of its name: a hash of the sha256 of each of its files of weights.

    Empty where they are not on this machine, and of the embedded model, whose package has one version, while its
    weights are written here. Computed once; a base of 14 GB takes about half a minute. A second form of the weights,
    which is not fetched any more, counts only as `earlier` cards have it.
    """
    found = None if base == EMBEDDED_NAME else on_this_machine(data_dir, base)
    weights = [] if found is None else sorted(found.glob("*.safetensors"))
    files = [file for file in weights if earlier or not file.name.startswith("consolidated")]
    if not files:
        return ""
    mark = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    known = setting_store.setting(db, HASHED, {})
    if known.get("files") != mark:
        size = sum(file.stat().st_size for file in files)
        if size >= LONG_TO_READ:
            said = _("{base}: its weights ({size:.1f} GB) are read, to tell them from others of its name.")
            print(said.format(base=base, size=size / machines.GB), flush=True)
        lines = "".join(f"{file_sha256(file)}  {file.name}\n" for file in files)
        known = {"files": mark, "sha256": sha256(lines.encode()).hexdigest()}
        if not earlier:
            setting_store.set_setting(db, HASHED, known)
    return str(known["sha256"])
