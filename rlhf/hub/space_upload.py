"""This program as a Hugging Face Space: what goes up, what would fail there, and creating or updating it."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from packaging.requirements import Requirement

from annotation import hub_client as hubs
from annotation.environment import SPACE_TOKEN
from annotation.hub_client import Hub, TokenInfo, commit
from annotation.records import UserError
from annotation.translation import _, joined
from annotation.web.space import ADMINS, ANNOTATORS, SPACE_MODEL, checked_rule
from rlhf.models.base.base_files import EMBEDDED, EMBEDDED_NAME
from rlhf.models.base.base_model import memory_needed
from rlhf.models.chat_template import TOKENIZERS, has_template

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("annotation", "rlhf")
KINDS: Final = (".py", ".js", ".css", ".svg", ".po", ".jsonl", ".txt", ".md")
SINGLE: Final = ("app.py", "LICENSE")
LARGEST: Final = 10_000_000  # the Hub wants larger files as LFS objects
TOKEN: Final = re.compile(rb"\bhf_[A-Za-z0-9]{20,}\b")
PYTHON: Final = "3.12"
# ZeroGPU has these versions only; our own pins a newer torch.
ZERO_PYTHON: Final = "3.12.12"
ZERO_TORCH: Final = "torch>=2.8,<2.12"
FREE: Final = "cpu-basic"
CPU_TORCH: Final = "--extra-index-url https://download.pytorch.org/whl/cpu"
GIVEN_TOKEN: Final = SPACE_TOKEN
# A model has one of these, or transformers finds no tokenizer.
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
# The variable of the Space for each setting of a plan.
SETTINGS: Final[Mapping[str, str]] = {
    "admins": "PREFLOOP_ADMINS",
    "annotators": "PREFLOOP_ANNOTATORS",
    "model": "PREFLOOP_MODEL",
    "copies": "PREFLOOP_COPIES",
}


@dataclass(frozen=True)
class SpacePlan:
    repo: str
    """OWNER/NAME."""
    hardware: str = ""
    """A flavour; empty for the free one, or for what the Space has."""
    admins: str = "owner"
    annotators: str = "everybody"
    model: str = SPACE_MODEL
    copies: str = ""
    """Where safe copies go: a private dataset's name, or a mounted directory; without it a restart loses everything."""
    public: bool = False
    organisation: bool = False
    """Whether it is an organisation's: there the rule 'owner' asks whether somebody is still a member."""
    problem: str = ""
    """Why the Hub did not say what the Space has, so that what was not asked for may be wrong here."""

    @property
    def owner(self) -> str:
        return self.repo.split("/")[0]

    @property
    def copies_in_directory(self) -> bool:
        """Whether safe copies go to a directory, which must be a mounted bucket."""
        return self.copies.startswith("/")

    @property
    def zero_gpu(self) -> bool:
        return self.hardware.startswith("zero-")

    @property
    def shuts_out(self) -> str:
        """The variable that lets people in who can't open the Space, since it is private; empty where none does."""
        if not self.public:
            for name in ("admins", "annotators"):
                people = {person.strip().casefold() for person in getattr(self, name).split(",")}
                if people - {"nobody", "owner", "org", self.owner.casefold()}:
                    return SETTINGS[name]
        return ""

    @property
    def asks_organisations(self) -> bool:
        """Whether people have to show which organisations they are in."""
        rules = (self.admins, self.annotators)
        return "org" in rules or (self.organisation and "owner" in rules)

    @property
    def variables(self) -> dict[str, str]:
        chosen = {variable: getattr(self, name) for name, variable in SETTINGS.items()}
        return {variable: value for variable, value in chosen.items() if value}


@dataclass(frozen=True)
class SpaceFinding:
    """Something that a check has found: an error stops the upload, a warning does not, a note is good to know."""

    level: Literal["error", "warning", "note"]
    text: str
    option: str = ""
    """The option of the command line that mends it."""

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


fails = partial(SpaceFinding, "error")
surprises = partial(SpaceFinding, "warning")
notes = partial(SpaceFinding, "note")


@dataclass(frozen=True)
class SpaceResult:
    address: str
    new: bool
    changed: tuple[str, ...]
    """The variables, secrets and hardware that were set on a Space that was there before."""
    commit: str


def planned(
    hub: Hub | None, repo: str, hardware: str = "", public: bool | None = None, **asked: str | None
) -> SpacePlan:
    """A plan of what was asked for. What was not (None) is as the Space has it, and else the default.

    A token or name of no use is the plan's trouble. Raises UserError where the Hub does not say what the Space has.
    """
    there: dict[str, str] = {}
    problem, is_public = "", False
    if hub is not None:
        try:
            hubs.check_token(hub, repo)
        except UserError as error:
            if hubs.is_passing(error):
                raise
            problem = str(error)
        else:
            there, is_public = settings_there(hub, repo)
    chosen = {name: there.get(key) if asked.get(name) is None else asked[name] for name, key in SETTINGS.items()}
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value}
    return SpacePlan(repo, hardware, public=is_public if public is None else public, problem=problem, **given)


def settings_there(hub: Hub, repo: str) -> tuple[dict[str, str], bool]:
    """The variables of a Space, and whether it is public; none, and not, where there is none. Raises UserError."""
    there = space_info(hub, repo)
    if there is None:
        return {}, False
    with hubs.explained(_("Reading the settings of {repo} failed."), repo=repo):
        return {key: one.value for key, one in hub.api.get_space_variables(repo).items()}, not there.private


# --------------------------------------------------------------------------------------------------------- what goes up
def files(root: Path = ROOT) -> list[Path]:
    """The program's own files, relative to its directory: nothing of the data directory, of tests or of caches."""
    found = [Path(name) for name in SINGLE]
    for package in PACKAGES:
        here = (path.relative_to(root) for path in sorted((root / package).rglob("*")) if path.is_file())
        found += [path for path in here if path.suffix in KINDS and not hidden(path)]
    return found


def hidden(path: Path) -> bool:
    """Whether a file lies in a cache or a hidden directory, or is hidden."""
    return any(part.startswith((".", "__pycache__")) for part in path.parts)


def contents(plan: SpacePlan) -> dict[str, Path | bytes]:
    held: dict[str, Path | bytes] = {path.as_posix(): ROOT / path for path in files()}
    held["README.md"] = readme(plan).encode()
    held["requirements.txt"] = requirements(plan, (ROOT / "requirements.txt").read_text("utf-8")).encode()
    return held


def front_matter(plan: SpacePlan) -> dict[str, Any]:
    """How the Hub is to build, run and show the Space."""
    fields: dict[str, Any] = {
        "title": "Prefloop",
        "emoji": "⚖️",
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": ZERO_PYTHON if plan.zero_gpu else PYTHON,
        "app_file": "app.py",
        "pinned": False,
        "license": "apache-2.0",
        "short_description": "Compare answers; your choices train the model",
        "hf_oauth": True,
        "models": [plan.model.partition("@")[0]],
        "startup_duration_timeout": "1h",
    }
    if "@" not in plan.model:  # of a revision only files that are named one by one can be preloaded
        fields["preload_from_hub"] = [plan.model]
    if plan.asks_organisations:
        fields["hf_oauth_scopes"] = ["read-memberships"]
    return fields


def readme(plan: SpacePlan) -> str:
    rows = "\n".join(f"| `{name}` | {text} |" for name, text in VARIABLES.items())
    return f"""{hubs.to_front_matter(front_matter(plan))}

# Prefloop

People compare answers of a language model, and their judgements train it. The program opens in a tab of its own, where
people sign in with Hugging Face and are told what is recorded: the frame on this page only links there.

Written by `python -m rlhf space create`, which also updates it: change the program, not these files. Its settings:

| variable or secret | meaning |
|---|---|
{rows}
"""


VARIABLES: Final[Mapping[str, str]] = {
    "PREFLOOP_ADMINS": "who is admin: `owner`, `org` (members of the organisation), or names with commas between",
    "PREFLOOP_ANNOTATORS": "who may judge beside them: `everybody`, `nobody`, `owner`, `org`, or names",
    "PREFLOOP_MODEL": "the base model, a public chat model on the Hub, perhaps with @COMMIT",
    "PREFLOOP_COPIES": "where safe copies go: a private dataset, or the directory of a mounted bucket",
    "HF_TOKEN": "secret: a token that may write there and publish; the process that serves pages never has it",
}


def requirements(plan: SpacePlan, text: str) -> str:
    """The requirements of a Space: without gradio, which the front matter names, and with the torch of its hardware.

    `text` is that of our requirements.txt, or what this has made of it for other hardware.
    """
    kept = [line for line in requirement_lines(text) if Requirement(line).name != "gradio"]
    if plan.zero_gpu:
        kept = [ZERO_TORCH if Requirement(line).name == "torch" else line for line in kept]
    elif plan.hardware.startswith("cpu-") or not plan.hardware:
        kept.insert(0, CPU_TORCH)
    return "\n".join([*kept, ""])


# ------------------------------------------------------------------------------------------------------ what would fail
def check(plan: SpacePlan, hub: Hub | None, root: Path = ROOT) -> list[SpaceFinding]:
    """What would fail, or surprise, before anything is uploaded. Without a hub only what can be seen from here."""
    found = [*check_plan(plan), *check_files(root)]
    if hub is None:
        return [*found, notes(_("The Hub was not asked: what depends on the account is not known."))]
    looks = [partial(check_hardware, plan, hub), partial(check_model, plan, hub)]
    try:
        if plan.problem:
            raise UserError(plan.problem)
        who = hubs.check_token(hub, plan.repo)
        looks[:0] = [partial(check_account, plan, who), partial(check_space, plan, hub)]
        looks.append(partial(check_copies, plan, hub))
    except UserError as error:
        found.append(fails(str(error)))
        anybody = hubs.connect(None, hub.endpoint)
        looks = [partial(check_hardware, plan, anybody), partial(check_model, plan, anybody)]
    for look in looks:
        try:
            found += look()
        except UserError as error:
            found.append(fails(str(error)))
    return list(dict.fromkeys(found))


def check_plan(plan: SpacePlan) -> Iterator[SpaceFinding]:
    """What is wrong with the wishes themselves."""
    try:
        hubs.check_name(plan.repo)
    except UserError as error:
        yield fails(str(error))
    for name, rule, words in (
        ("PREFLOOP_ADMINS", plan.admins, ADMINS),
        ("PREFLOOP_ANNOTATORS", plan.annotators, ANNOTATORS),
    ):
        try:
            checked_rule(name, rule, words)
        except UserError as error:
            yield fails(str(error))
    if plan.model in (EMBEDDED, EMBEDDED_NAME) or Path(plan.model).expanduser().is_dir() or "/" not in plan.model:
        said = _("The model '{model}' is on this machine only. Name a public chat model, such as {example}.")
        yield fails(said.format(model=plan.model, example=SPACE_MODEL), "model")
    if plan.shuts_out:
        yield surprises(
            _(
                "{repo} is private, so on the Hub only its owner, or the members of its organisation, "
                "can open it, and {variable} is '{people}'. Ask for a public one, where people "
                "still have to sign in, or let nobody else in by that setting."
            ).format(
                repo=plan.repo,
                variable=plan.shuts_out,
                people=plan.annotators if "ANNOT" in plan.shuts_out else plan.admins,
            ),
            "public",
        )
    yield from check_named_copies(plan)
    if plan.zero_gpu:
        yield surprises(
            _(
                "ZeroGPU lends a GPU to functions of a page, not to processes in the background: training there has "
                "only the processors. And it has {torch}, with which this program is not tested."
            ).format(torch=ZERO_TORCH)
        )


def check_named_copies(plan: SpacePlan) -> Iterator[SpaceFinding]:
    """Whether what people do there is kept when the Space is started again."""
    if not plan.copies:
        yield surprises(
            _(
                "No safe copies: a Space's disk is empty after each restart, and all judgements with it. Name a place "
                "for them: {repo}-copies (a private dataset, made by itself) or the directory of a mounted bucket."
            ).format(repo=plan.repo),
            "copies",
        )
    elif plan.copies == plan.repo:
        yield fails(_("The safe copies can't have the Space's own name. Choose another."), "copies")


def check_files(root: Path) -> Iterator[SpaceFinding]:
    """What is wrong with what would go up."""
    for path in files(root):
        whole = root / path
        if not whole.is_file():
            yield fails(_("{path} is missing. Take the program anew from where it came.").format(path=path))
            continue
        content = whole.read_bytes()
        if len(content) > LARGEST:
            said = _("{path} has {size:.0f} MB, and the Hub takes 10. Is it yours? Move it away.")
            yield fails(said.format(path=path, size=len(content) / 1e6))
        if TOKEN.search(content):
            yield fails(_("{path} holds what looks like a token. Take it out before it is uploaded.").format(path=path))
    yield from check_versions(root)


def check_versions(root: Path) -> Iterator[SpaceFinding]:
    """Whether what is installed here, and so tested, is what the Space would get."""
    text = (root / "requirements.txt").read_text("utf-8")
    wanted = {line.name: line.specifier for line in map(Requirement, requirement_lines(text))}
    here = version("gradio")
    if "gradio" in wanted and here not in wanted["gradio"]:
        said = _("Gradio {here} is installed, and requirements.txt has gradio{wanted}. Install that.")
        yield fails(said.format(here=here, wanted=wanted["gradio"]))
    project = root / "pyproject.toml"
    if project.is_file():
        needed = tomllib.loads(project.read_text("utf-8"))["project"]["requires-python"]
        if PYTHON not in Requirement(f"python{needed}").specifier:
            yield fails(
                _("A Space has Python {python}, and this program needs {needed}.").format(python=PYTHON, needed=needed)
            )


def requirement_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith(("#", "-"))]


def check_account(plan: SpacePlan, who: TokenInfo) -> Iterator[SpaceFinding]:
    if plan.asks_organisations and plan.owner == who.name:
        said = _("'org' means the members of an organisation, and {owner} is a person. Name them instead.")
        yield fails(said.format(owner=plan.owner))
    if plan.owner == who.name and not who.pays and not plan.zero_gpu:
        said = _("{name} has no paid plan that the Hub tells of; making a Gradio Space may need one (but on ZeroGPU).")
        yield surprises(said.format(name=who.name))


def check_space(plan: SpacePlan, hub: Hub) -> Iterator[SpaceFinding]:
    """What is there under the name, and what it lacks."""
    there, secrets = space_info(hub, plan.repo), set[str]()
    if there is None:
        yield from check_new(plan)
    else:
        yield from check_kind(plan, there)
        with hubs.explained(_("Reading the settings of {repo} failed."), repo=plan.repo):
            secrets = set(hub.api.get_space_secrets(plan.repo))
            variables = {key: one.value for key, one in hub.api.get_space_variables(plan.repo).items()}
            runtime = hub.api.get_space_runtime(plan.repo)
        yield from changes(plan, variables, runtime)
        yield from check_mounted(plan, variables, runtime)
    if plan.copies and "HF_TOKEN" not in secrets and not os.environ.get(GIVEN_TOKEN) and not plan.copies_in_directory:
        yield surprises(
            _(
                "The Space has no token to make safe copies with. Set {variable} here to one that may write to "
                "{copies} (it becomes the Space's secret HF_TOKEN), or add that secret on its settings page."
            ).format(variable=GIVEN_TOKEN, copies=plan.copies)
        )


def check_new(plan: SpacePlan) -> Iterator[SpaceFinding]:
    """What to know of a Space that is not there yet."""
    yield notes(_("{repo} will be new.").format(repo=plan.repo))
    if plan.copies_in_directory:
        yield surprises(
            _(
                "A new Space has no bucket, and without one at {copies} it does not start. Attach one in its settings "
                "as soon as it is made, or name a private dataset for the safe copies ({repo}-copies)."
            ).format(copies=plan.copies, repo=plan.repo)
        )


def check_kind(plan: SpacePlan, there: Any) -> Iterator[SpaceFinding]:
    """Whether the Space that is there is one of Gradio's, and seen by those who are to see it."""
    yield notes(_("{repo} is there and will be updated.").format(repo=plan.repo))
    if there.sdk not in (None, "gradio"):
        yield fails(
            _("{repo} is a Space of another kind ({kind}). Choose another name.").format(repo=plan.repo, kind=there.sdk)
        )
    if there.private is plan.public:
        differs = (
            _(
                "{repo} is there and private, and this was to be public. Change that on its settings page on the "
                "Hub first, or ask for private."
            )
            if there.private
            else _(
                "{repo} is there and public, and this was to be private. Change that on its settings page on the "
                "Hub first, or ask for public."
            )
        )
        yield fails(differs.format(repo=plan.repo))


def check_mounted(plan: SpacePlan, variables: Mapping[str, str], runtime: Any) -> Iterator[SpaceFinding]:
    """Whether the safe copies lie in a bucket, and the live database does not."""
    # Volumes of repositories are read-only: what is there after a restart was written to a bucket.
    buckets = [one for one in mounted(runtime, plan.copies) if one.type == "bucket" and not one.read_only]
    if plan.copies_in_directory and not buckets:
        yield fails(
            _(
                "No bucket that can be written is mounted at {copies} in {repo}, and the Space's own "
                "disk is empty after each restart. Attach one in the Space's settings first, or name a "
                "private dataset for the safe copies ({repo}-copies)."
            ).format(copies=plan.copies, repo=plan.repo)
        )
    if mounted(runtime, variables.get("PREFLOOP_DATA", "")):
        data = variables["PREFLOOP_DATA"]
        yield fails(
            _(
                "The Space's PREFLOOP_DATA is {data}, a mounted bucket, which a live database does not "
                "survive. Delete that variable; PREFLOOP_COPIES may be there."
            ).format(data=data)
        )


def mounted(runtime: Any, path: str) -> list[Any]:
    where = PurePosixPath(os.path.normpath(path))
    return [volume for volume in runtime.volumes or [] if where.is_relative_to(volume.mount_path)]


def changes(plan: SpacePlan, variables: Mapping[str, str], runtime: Any) -> Iterator[SpaceFinding]:
    for key, value in plan.variables.items():
        if key not in variables:
            yield notes(_("{key} will be set to '{value}'.").format(key=key, value=value))
        elif variables[key] != value:
            yield notes(
                _("{key} will change from '{before}' to '{value}'.").format(key=key, before=variables[key], value=value)
            )
    has = runtime.requested_hardware or runtime.hardware
    if plan.hardware and plan.hardware not in (runtime.requested_hardware, runtime.hardware):
        yield notes(_("The hardware will change from {has} to {hardware}.").format(has=has, hardware=plan.hardware))
    if os.environ.get(GIVEN_TOKEN):
        yield notes(_("The secret HF_TOKEN will be set to the token of {variable}.").format(variable=GIVEN_TOKEN))


def check_hardware(plan: SpacePlan, hub: Hub) -> Iterator[SpaceFinding]:
    """Whether there is such hardware, and what it costs, or that which the Space has."""
    hardware = hardware_of(plan, hub)
    if plan.zero_gpu or hardware == FREE:
        return
    prices = hourly_prices(hub)
    if plan.hardware and plan.hardware not in prices:
        said = _("The Hub has no hardware '{hardware}'. It has: {known}.")
        yield fails(said.format(hardware=plan.hardware, known=", ".join(prices)))
    elif prices.get(hardware):
        said = _("{hardware} costs ${price:.2f} an hour while the Space runs.")
        yield notes(said.format(hardware=hardware, price=prices[hardware]))


def hourly_prices(hub: Hub) -> dict[str, float]:
    """What the hardware of Spaces costs, in dollars an hour. Raises UserError."""
    return {one.name: hubs.hourly_price(one) for one in listed_hardware(hub)}


def listed_hardware(hub: Hub) -> list[Any]:
    """The hardware of Spaces. Raises UserError."""
    with hubs.explained(_("Asking the Hub for its hardware failed.")):
        return list(hub.api.list_spaces_hardware())


def check_model(plan: SpacePlan, hub: Hub) -> Iterator[SpaceFinding]:
    """Whether the Space can have its base model: the processes that load it have no token."""
    repo, revision = hubs.split_address(plan.model)
    with hubs.explained(_("Looking for the model {model} failed."), model=plan.model):
        model = hub.api.model_info(repo, revision=revision, files_metadata=True)
    if model.private or model.gated:
        said = _("{model} is not open to everybody, and the Space loads it without a token. Choose another.")
        yield fails(said.format(model=plan.model))
        return
    sizes = {one.rfilename: one.size or 0 for one in model.siblings or () if "/" not in one.rfilename}
    weights = [size for name, size in sizes.items() if name.endswith(".safetensors")]
    if not weights:
        yield fails(_("{model} has no safetensors weights, and Prefloop loads no other kind.").format(model=plan.model))
        return
    if not any(name in sizes for name in TOKENIZERS):
        yield fails(
            _("{model} has no tokenizer, so no text can be given to it. Choose another.").format(model=plan.model)
        )
    elif not is_chat_model(hub, repo, str(model.sha), sizes):
        said = _("{model} has no chat template, so it is no chat model. Choose an instruct model.")
        yield fails(said.format(model=plan.model))
    yield from check_memory(plan, hub, sum(weights))


def is_chat_model(hub: Hub, repo: str, sha: str, sizes: Mapping[str, int]) -> bool:
    """Whether a model on the Hub has a chat template. One that is too large to be looked into has. Raises UserError."""
    if "chat_template.jinja" in sizes or sizes.get(TOKENIZER_CONFIG, 0) > LARGEST:
        return True
    if TOKENIZER_CONFIG not in sizes:
        return False
    with tempfile.TemporaryDirectory(prefix="prefloop-") as directory:
        with hubs.explained(_("Fetching {name} of {repo} failed."), name=TOKENIZER_CONFIG, repo=repo):
            hub.api.hf_hub_download(repo, TOKENIZER_CONFIG, revision=sha, local_dir=directory)
        return has_template(Path(directory))


def check_memory(plan: SpacePlan, hub: Hub, weights: int) -> Iterator[SpaceFinding]:
    """Whether weights of so many bytes fit into the memory of the hardware, as far as the Hub tells that."""
    hardware = hardware_of(plan, hub)
    need = memory_needed(weights)
    held = next((bytes_in(one.ram) for one in listed_hardware(hub) if one.name == hardware), None)
    if held is not None and need > held:
        yield surprises(
            _(
                "{model} needs about {need:.1f} GB of memory, and {hardware} has {held:.0f}. Choose a "
                "smaller model, or other hardware."
            ).format(model=plan.model, need=need / 1e9, hardware=hardware, held=held / 1e9)
        )


def bytes_in(text: str) -> float | None:
    """The size that a text such as '16 GB' says; None for any other."""
    found = re.fullmatch(r"\s*([\d.]+)\s*([GT])i?B\s*", text or "")
    return float(found[1]) * {"G": 1e9, "T": 1e12}[found[2]] if found else None


def hardware_of(plan: SpacePlan, hub: Hub) -> str:
    """The hardware that is asked for, else what the Space has, else the free one. Raises UserError."""
    if plan.hardware or plan.problem or space_info(hub, plan.repo) is None:
        return plan.hardware or FREE
    with hubs.explained(_("Reading the hardware of {repo} failed."), repo=plan.repo):
        runtime = hub.api.get_space_runtime(plan.repo)
    return runtime.requested_hardware or runtime.hardware or FREE


def check_copies(plan: SpacePlan, hub: Hub) -> Iterator[SpaceFinding]:
    """Whether safe copies could be made, and nobody else could read them."""
    if not plan.copies or plan.copies_in_directory:
        return
    hubs.check_token(hub, plan.copies)
    with hubs.explained(_("Looking at {copies} failed."), copies=plan.copies):
        exists = hub.api.repo_exists(plan.copies, repo_type="dataset")
        open_to_all = exists and not hub.api.repo_info(plan.copies, repo_type="dataset").private
    if open_to_all:
        said = _("{copies} is public, and safe copies hold accounts. Make it private, or name another.")
        yield fails(said.format(copies=plan.copies))


def space_info(hub: Hub, repo: str) -> Any:
    """What the Hub says of a Space; None where there is none that the token may see. Raises UserError."""
    with hubs.explained(_("Looking at {repo} failed."), repo=repo):
        return hub.api.space_info(repo) if hub.api.repo_exists(repo, repo_type="space") else None


# --------------------------------------------------------------------------------------------------- creating, updating
def create(plan: SpacePlan, hub: Hub, token_of_space: str = "") -> SpaceResult:
    """Create the Space, or bring it up to date: settings first, since the upload starts it. Repeating it is harmless.

    Raises UserError where anything would fail, and where something does. What was done until then stays and is taken
    up when it is repeated.
    """
    errors = [finding.text for finding in check(plan, hub) if finding.level == "error"]
    if errors:
        raise UserError(joined(*errors))
    there = space_info(hub, plan.repo)
    secrets = {"HF_TOKEN": token_of_space} if token_of_space else {}
    hubs.ensure_repo(
        hub,
        plan.repo,
        "space",
        not plan.public,
        space_sdk="gradio",
        space_hardware=plan.hardware or None,
        space_variables=[{"key": key, "value": value} for key, value in plan.variables.items()],
        space_secrets=[{"key": key, "value": value} for key, value in secrets.items()],
    )
    changed = apply_settings(plan, hub, secrets) if there is not None else ()
    with hubs.explained(_("Reading {repo} failed."), repo=plan.repo):
        head = hub.api.space_info(plan.repo)
    # The files depend on whose Space it is, and on the hardware that it has where none is asked for.
    known = replace(plan, organisation=hubs.check_token(hub).name != plan.owner, hardware=hardware_of(plan, hub))
    held = contents(known)
    gone = [path for path in (one.rfilename for one in head.siblings or ()) if is_ours(path) and path not in held]
    sha = commit(hub, plan.repo, "space", held, "Prefloop", head.sha, gone=gone)
    return SpaceResult(f"{hub.endpoint}/spaces/{plan.repo}", there is None, changed, sha)


def apply_settings(plan: SpacePlan, hub: Hub, secrets: Mapping[str, str]) -> tuple[str, ...]:
    """Set what differs on a Space that is there: each change restarts it. Returns the names. Raises UserError."""
    changed: list[str] = []
    with hubs.explained(_("Changing the settings of {repo} failed."), repo=plan.repo):
        known = {key: one.value for key, one in hub.api.get_space_variables(plan.repo).items()}
        for key, value in plan.variables.items():
            if known.get(key) != value:
                hub.api.add_space_variable(plan.repo, key, value)
                changed.append(key)
        for key, value in secrets.items():  # what it is can't be read, so it can't be compared
            hub.api.add_space_secret(plan.repo, key, value)
            changed.append(key)
        runtime = hub.api.get_space_runtime(plan.repo)
        if plan.hardware and plan.hardware not in (runtime.requested_hardware, runtime.hardware):
            hub.api.request_space_hardware(plan.repo, plan.hardware)
            changed.append(plan.hardware)
    return tuple(changed)


def is_ours(path: str) -> bool:
    """Whether a file of the Space is one that this program put there, perhaps in an earlier version."""
    return path in SINGLE or path.split("/")[0] in PACKAGES
