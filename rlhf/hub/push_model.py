"""Put policies and reward models on the Hub: named files only, one commit, and a tag for each revision."""

from __future__ import annotations

import io
import re
import socket
import struct
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from hashlib import file_digest, sha1, sha256
from pathlib import Path
from typing import Final

from annotation import hub_client as hubs
from annotation.database import Database
from annotation.exports.dataset_card import AGREEMENT_UNKNOWN, MARK, agreement_table, code, vote_of
from annotation.exports.formats import check_licence, is_licence
from annotation.hub_client import Hub, RepoKind
from annotation.records import UserError
from annotation.store import judgement_store
from annotation.translation import N_, _, joined
from rlhf.algorithms import model_card
from rlhf.algorithms.model_card import EMBEDDED_HUB_NAME, Address, Ancestor, PublishedFacts, PublishedWinRate
from rlhf.data.snapshots import last_judgement
from rlhf.evaluation import win_rates
from rlhf.evaluation.finished_checks import FinishedCheck, finished_checks, newest_check
from rlhf.hub import publications
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import verify_directory
from rlhf.models import registry
from rlhf.models.adapters.adapter_tensors import ADAPTER_WEIGHTS
from rlhf.models.adapters.stored_adapter import read_adapter, settings_file
from rlhf.models.base.base_files import EMBEDDED_NAME
from rlhf.models.base.base_identity import base_sha256
from rlhf.models.model_files import ADAPTER_CONFIG
from rlhf.models.registry import Policy

# What may go up, by form. Never training_args.bin, an optimiser's state, or what a job says of itself (prefloop.json).
ADAPTER: Final = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "reward.json")
WHOLE: Final = (
    *("config.json", "generation_config.json", "model.safetensors", "model-*.safetensors"),
    *("model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json"),
    *("merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja"),
)
CARD: Final = "README.md"
# The tag by which the cards of what comes from here can be told.
PROGRAM: Final = "prefloop"
SHA256_DIGITS: Final = 64
SHORTEST_HOST: Final = 6
ELSEWHERE: Final = N_("Choose another name, or delete the repository on the Hub.")
Files = dict[str, Path | bytes]


@dataclass(frozen=True)
class PublishResult:
    repo: str
    tag: str
    commit_sha: str
    url: str
    fresh: bool


# -------------------------------------------------------------------------------------------------------------- models
def publish(
    hub: Hub,
    db: Database,
    data_dir: Path,
    revision: str,
    repo: str,
    private: bool = True,
    licence: str = "",
    by: str = N_("the command line"),
) -> PublishResult:
    """Push a model of the registry with a card written from the record, tagged with its revision.

    What is there already is not sent again, so that this can be repeated after anything that went wrong. Without a
    licence that of the card which is there stays. Raises UserError, and then either nothing has changed on the Hub or
    only the tag is missing.
    """
    hubs.check_name(repo)
    check_licence(licence)
    hubs.check_token(hub, repo)
    policy = registry.by_revision(db, revision)
    licence = licence or licence_of(hub, Address(repo, policy.revision)) or licence_of(hub, Address(repo))
    files = files_to_publish(
        db, data_dir, policy, Address(repo, policy.revision), licence, base_licence(hub, policy), hub.endpoint
    )
    refuse_private(files, (data_dir, Path(policy.base)), hub.token or "")
    private = publications.repo_for(hub, db, "model", repo, private)
    tag = policy.revision
    known = tags(hub, repo, "model").get(tag)
    there = {} if known is None else contents(hub, repo, "model", tag)
    differing = {name for name, content in files.items() if not same(there.get(name), content)}
    if there:
        refuse_other_weights(repo, tag, differing)
    sha, fresh = known, known is None or bool(differing)
    if sha is None or fresh:
        head = own_contents(hub, repo, "model")
        gone = [name for name in head if is_ours(name) and name not in files]
        sha = hubs.commit(hub, repo, "model", files, f"{tag}: {policy.algorithm}", gone=gone)
        set_tag(hub, repo, "model", tag, sha, known)
    publications.record(db, "model", policy.id, repo, tag, sha, private, by)
    return PublishResult(repo=repo, tag=tag, commit_sha=sha, url=f"{hub.endpoint}/{repo}", fresh=fresh)


def refuse_other_weights(repo: str, tag: str, differing: Collection[str]) -> None:
    """Raises UserError where weights are among what differs from the files under a tag."""
    if any(name.endswith(".safetensors") for name in differing):
        raise UserError(
            _(
                "{repo} has a tag '{tag}' already, with other weights: another data directory's, most likely. "
                "Publish to another repository, or delete that tag on the Hub. Nothing was changed."
            ).format(repo=repo, tag=tag)
        )


def files_to_publish(
    db: Database, data_dir: Path, policy: Policy, address: Address, licence: str, licence_below: str, endpoint: str
) -> Files:
    """What goes up of a policy. Its directory stays as it is: what differs is made in memory.

    Raises UserError where there is nothing to publish, or files are damaged.
    """
    if policy.path is None or policy.sha256 is None:
        said = _("'{revision}' has no files of its own here: it is on the Hub already, or a directory.")
        raise UserError(said.format(revision=policy.revision))
    if policy.deleted:
        said = _("The files of '{revision}' were deleted on {deleted}. Publish another one.")
        raise UserError(said.format(revision=policy.revision, deleted=policy.deleted[:10]))
    directory = data_dir / policy.path
    verify_directory(directory, policy.sha256, policy.revision)
    ground = ground_address(db, policy)
    about = model_card.subject_of(db, policy.job_id, policy.revision, policy, policy.source)
    check = None if policy.kind == "reward-model" else newest_check(db, policy.revision)
    job = None if policy.job_id is None else job_store.get(db, policy.job_id)
    spec = registry.trained_as(db, policy)
    record = PublishedFacts(
        address=address,
        ground=ground,
        licence=licence,
        base_licence=licence_below,
        evaluation=published_win_rates(db, policy),
        check=None if check is None else check.report,
        agreement="" if spec is None else agreement_on(db, spec.snapshot),
        lineage=ancestors(db, policy),
        data=None if about.training is None else data_address(db, about.training.snapshot),
        endpoint=endpoint,
        base_sha256=base_sha256(db, data_dir, policy.base),
    )
    allowed = WHOLE if policy.form == "full" else ADAPTER
    found = [path for path in sorted(directory.iterdir()) if path.is_file() and not path.is_symlink()]
    files: Files = {path.name: path for path in found if any(fnmatch(path.name, pattern) for pattern in allowed)}
    if policy.form != "full":
        files[ADAPTER_CONFIG] = adapter_config(directory, ground or Address(about.base))
    files[CARD] = model_card.card(about, (job.result if job is not None else None) or {}, record).encode()
    return files


def base_address(base: str) -> Address | None:
    """Where a base model is on the Hub; None for one in a directory."""
    if base == EMBEDDED_NAME:
        return Address(EMBEDDED_HUB_NAME)
    if Path(base).is_absolute():
        return None
    name, _, revision = base.partition("@")
    return Address(name, revision)


def ground_address(db: Database, policy: Policy) -> Address | None:
    """Where on the Hub the weights are that a policy lies on, or began as. Raises UserError where these must go first.

    None for a base that is only in a directory here.
    """
    if policy.ground_id is None:
        return base_address(policy.base)
    ground = registry.by_id(db, policy.ground_id)
    found = address_of(db, ground)
    if found is None:
        said = _(
            "'{revision}' lies on the weights of '{ground_revision}', which are not on the Hub: without "
            "them it is of no use. Publish '{ground_revision}' first, or merge the two."
        )
        raise UserError(said.format(revision=policy.revision, ground_revision=ground.revision))
    return found


def address_of(db: Database, policy: Policy) -> Address | None:
    """Where a policy with files of its own is on the Hub."""
    found = next((one for one in publications.all_of(db) if one.model_id == policy.id), None)
    if found is not None:
        return Address(found.repo, found.tag)
    repo, _, sha = (policy.source or "").partition("@")
    return Address(repo, sha) if repo else None


def snapshot_tag(sha256: str) -> str:
    return f"snapshot-{sha256[:12]}"


def data_address(db: Database, sha256: str) -> Address | None:
    """Where frozen data is on the Hub as a dataset, if it was pushed from here."""
    tag = snapshot_tag(sha256)
    found = (one for one in publications.all_of(db) if (one.kind, one.tag) == ("dataset", tag))
    return next((Address(one.repo, tag) for one in found), None)


def adapter_config(directory: Path, ground: Address) -> bytes:
    """An adapter's configuration with the names by which others find what it lies on."""
    adapter = read_adapter(directory)
    return settings_file(replace(adapter, base_model_name_or_path=ground.repo, revision=ground.revision))


def base_licence(hub: Hub, policy: Policy) -> str:
    """The licence of a policy's base model, as far as its card says one."""
    if policy.base == EMBEDDED_NAME:
        return "apache-2.0"
    address = base_address(policy.base)
    return "" if address is None else licence_of(hub, address)


def licence_of(hub: Hub, address: Address, kind: RepoKind = "model") -> str:
    """The licence that the card of a repository says; empty where it says none, or is not there. Raises UserError."""
    try:
        with hubs.explained(_("Reading the card of {repo} failed."), repo=address.repo):
            data = hub.api.repo_info(address.repo, repo_type=kind, revision=address.revision or None).card_data
    except UserError as error:
        if error.__cause__ is not None and hubs.status_of(error.__cause__) in (401, 403, 404):
            return ""  # gone, or not ours to see
        raise
    said = (data or {}).get("license")
    return said if isinstance(said, str) and is_licence(said) else ""


# ------------------------------------------------------------------------------------------------- what the record says
def published_win_rates(db: Database, policy: Policy) -> list[PublishedWinRate]:
    """How it did against the base, its parent and whatever it was checked against, by people and by every judge."""
    if policy.kind == "reward-model" or policy.parent_id is None:
        return []
    known = [registry.by_revision(db, "base"), registry.by_id(db, policy.parent_id)]
    checks = finished_checks(db, policy.revision)
    opponents = {name for check in checks for name in check.report.win_rates or {}}
    known += [one for one in registry.all_policies(db) if one.revision in opponents]
    others = {one.revision: one for one in known}
    found = []
    for other in others.values():
        by_people = win_rates.by_people(db, policy, other)
        found += [] if by_people is None else [PublishedWinRate(other.revision, "people", by_people)]
        found += judge_win_rates(checks, other)
    return found


def judge_win_rates(checks: Sequence[FinishedCheck], other: Policy) -> Iterator[PublishedWinRate]:
    """Win rates of the newest check that compared a policy with another; `checks` come newest first."""
    report = next((check.report for check in checks if check.report.rates_against(other.revision)), None)
    if report is None:
        return
    for name, rate in report.rates_against(other.revision).items():
        if rate.estimate is not None:
            yield PublishedWinRate(other.revision, f"the AI judge {code(name)}", rate.estimate, report.counted_in)


def agreement_on(db: Database, snapshot: str) -> str:
    """How far those agreed whose judgements were frozen; empty where none were."""
    last = last_judgement(db, snapshot)
    if not last:
        return ""
    seen = (
        judgement for group in judgement_store.judged_comparisons(db) for judgement in group if judgement.id <= last
    )
    votes = [vote_of(judgement) for judgement in seen if judgement.outcome != "skip"]
    return agreement_table(votes) or AGREEMENT_UNKNOWN


def ancestors(db: Database, policy: Policy) -> list[Ancestor]:
    """What a policy grew from, nearest first, with where each is on the Hub."""
    return [
        Ancestor(one.revision, one.algorithm, one.sha256, address_of(db, one) if one.path else base_address(one.base))
        for one in registry.ancestors(db, policy)
    ]


# ------------------------------------------------------------------------------------------------------------- checks
def refuse_private(files: Mapping[str, Path | bytes], places: tuple[Path, ...], token: str) -> None:
    """Raises UserError where a file names this machine or a place on it, or holds what looks like a token."""
    own = {str(place.absolute()) for place in (*places, Path.home()) if place.is_absolute() or place.exists()}
    texts = {*own, *(str(Path(place).resolve()) for place in own)} - {"/"}
    paths = re.compile("|".join(rf"(?<![\w.-]){re.escape(text)}(?![\w.-])" for text in sorted(texts)))
    host = host_name()
    for name, content in files.items():
        text = readable_part(content)
        if host is not None and (found := host.search(text)) is not None:
            said = _(
                "{name} names this machine ({found}). Nothing was published. Take the name out; where the "
                "word means something else, publish from a machine of another name."
            )
            raise UserError(said.format(name=name, found=found[0]))
        found = paths.search(text)
        if found is not None:
            said = _("{name} says where something lies on this machine ({found}). Nothing was published.")
            raise UserError(said.format(name=name, found=found[0]))
        if hubs.TOKEN.search(text) or (token and token in text):
            said = _("{name} holds what looks like a token for the Hub. Remove it; nothing was published.")
            raise UserError(said.format(name=name))


def host_name() -> re.Pattern[str] | None:
    """Finds this machine's name as a word; None where it is so short or common a word that it may mean anything."""
    name = socket.gethostname()
    if len(name) < SHORTEST_HOST or name in ("localhost", PROGRAM):
        return None
    return re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", re.IGNORECASE)


def readable_part(content: Path | bytes) -> str:
    """The text of a file; of weights the header, which names tensors and may hold notes."""
    if isinstance(content, bytes):
        return content.decode("utf-8", "replace")
    if content.suffix != ".safetensors":
        return content.read_text("utf-8", errors="replace")
    with content.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return file.read(min(size, 100_000_000)).decode("utf-8", "replace")


def is_ours(name: str) -> bool:
    """Whether a file is one of those that are published, whatever the form; none of them is in a directory."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in (*ADAPTER, *WHOLE))


# ------------------------------------------------------------------------------------------------------ what is there
def tags(hub: Hub, repo: str, kind: RepoKind) -> dict[str, str]:
    with hubs.explained(_("Reading the tags of {repo} failed."), repo=repo):
        return {tag.name: tag.target_commit for tag in hub.api.list_repo_refs(repo, repo_type=kind).tags}


def contents(hub: Hub, repo: str, kind: RepoKind, revision: str) -> dict[str, str]:
    """What identifies each file of a revision: the sha256 of a large one, git's name for another."""
    with hubs.explained(_("Reading what is in {repo} failed."), repo=repo):
        info = hub.api.repo_info(repo, repo_type=kind, revision=revision, files_metadata=True)
    return {one.rfilename: (one.lfs.sha256 if one.lfs else one.blob_id) or "" for one in info.siblings or []}


def own_contents(hub: Hub, repo: str, kind: RepoKind, form: str = "") -> dict[str, str]:
    """What is in a repository on main. Raises UserError for one that holds somebody else's work, which stays.

    So does data of another format than `form`, where that is given.
    """
    there = contents(hub, repo, kind, "main")
    if set(there) <= {CARD, ".gitattributes"}:  # as the Hub's own page makes it
        return there
    said: Mapping[str, object] = {}
    if CARD in there:
        with tempfile.TemporaryDirectory(prefix="prefloop-") as directory:
            failed = hubs.explained(_("Reading the card of {repo} failed."), repo=repo)
            with failed, hubs.at_most(hubs.LONGEST_ANSWER):
                path = hub.api.hf_hub_download(repo, CARD, repo_type=kind, local_dir=directory)
            said = hubs.card_head(Path(path))
    tagged, marks = said.get("tags"), said.get(MARK)
    if not isinstance(tagged, list) or PROGRAM not in tagged:
        taken = _(
            "The name {repo} is taken: what is there was not published by Prefloop, and stays as it is. "
            "Choose another name."
        )
        raise UserError(taken.format(repo=repo))
    held = marks.get("format") if isinstance(marks, dict) else None
    if form and held != form:
        named = isinstance(held, str)  # a list that repeats its parts by YAML's aliases could be gigabytes in words
        other, unknown = (
            _("{repo} holds data of the format '{held}', which '{form}' would replace: it stays as it is."),
            _(
                "{repo} holds data of which its card does not say the format, which '{form}' would replace: it stays "
                "as it is."
            ),
        )
        problem = (other if named else unknown).format(repo=repo, held=held, form=form)
        raise UserError(joined(problem, _(ELSEWHERE)))
    return there


def same(identity: str | None, content: Path | bytes) -> bool:
    """Whether a content is that of a file on the Hub, by what identifies it there."""
    if not identity:
        return False
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        begun = sha256() if len(identity) == SHA256_DIGITS else sha1(b"blob %d\0" % size)
        return file_digest(file, lambda: begun).hexdigest() == identity


def set_tag(hub: Hub, repo: str, kind: RepoKind, tag: str, sha: str, known: str | None) -> None:
    with hubs.explained(_("Tagging {repo} with '{tag}' failed."), repo=repo, tag=tag):
        if known is not None and known != sha:
            hub.api.delete_tag(repo, tag=tag, repo_type=kind)
        if known != sha:
            hub.api.create_tag(repo, tag=tag, revision=sha, repo_type=kind)


def described(made: PublishResult) -> str:
    if made.tag:
        fresh, before = (
            _("Published {repo}, tag {tag} (commit {commit}): {url}"),
            _("There already: {repo}, tag {tag} (commit {commit}): {url}"),
        )
    else:
        fresh, before = (
            _("Published {repo} (commit {commit}): {url}"),
            _("There already: {repo} (commit {commit}): {url}"),
        )
    said = fresh if made.fresh else before
    return said.format(repo=made.repo, tag=made.tag, commit=made.commit_sha[:12], url=made.url)
