"""To the Hub and back: what goes up and what not, repeated, broken and refused; what comes down, pinned and checked."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard, constants
from safetensors.torch import save
from transformers import AutoConfig

from annotation import __main__ as annotation_commands
from annotation import hub_client as hubs
from annotation.database import Database, open_database
from annotation.exports import writing
from annotation.exports.formats import ExportRequest, Filters
from annotation.records import UserError
from annotation.store import data_sources, prompt_store
from annotation.web import access
from rlhf import __main__ as rlhf_commands
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.model_card import Address, check_rows
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.evaluation.report import CheckReport
from rlhf.hub import publications, pull_model, push_dataset, push_model
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256, file_sha256
from rlhf.models import decision_store, registry
from rlhf.models.adapters.stored_adapter import StoredLora
from rlhf.models.base import base_files, base_identity
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.memory import machines, model_shapes
from rlhf.models.registry import Policy
from rlhf.models.tokenise import snapshot_content
from rlhf.submission import preconditions
from tests.conftest import new_database
from tests.demonstrations import demonstrate
from tests.fakes.hub_server import HubServer
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, Machine, make_machine
from tests.rlhf.evaluation.test_decisions import finish_check, make_candidate, people_say
from tests.run_fixtures import finished_run

pytestmark = pytest.mark.slow

REPO = "ann/numbers"


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Machine]:
    """A machine with judgements and an adapter."""
    machine = make_machine(tmp_path_factory.mktemp("kitchen") / "data", tiny_model)
    machine.add_prompts(4, 2)
    machine.judge("train", 4)
    machine.judge("held-out", 2, by="bob")
    finished_run(machine)
    yield machine
    machine.db.close()


@pytest.fixture
def fresh(tmp_path: Path, tiny_model: Path) -> Iterator[Database]:
    """Another data directory with the same base."""
    db = new_database(tmp_path / "other")
    registry.ensure_base(db, str(tiny_model))
    yield db
    db.close()


def made(machine: Machine) -> Policy:
    """The machine's adapter."""
    return next(policy for policy in registry.all_policies(machine.db) if policy.form == "lora")


def client(hub: HubServer, token: str | None = "hf_write_ann") -> hubs.Hub:
    """A client of the Hub."""
    return hubs.connect(token, hub.url)


def publish(hub: HubServer, machine: Machine, **more: Any) -> push_model.PublishResult:
    """Publish the adapter."""
    return push_model.publish(client(hub), machine.db, machine.data_dir, made(machine).revision, REPO, **more)


def pull(hub: HubServer, db: Database, address: str = REPO) -> Policy:
    """Pull into a data directory."""
    return pull_model.pull(client(hub), db, db.path.parent, address)


def command(hub: HubServer, token: str | None, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m rlhf` or `python -m annotation` with a token."""
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=ROOT,
        env={**os.environ, **hub.environment(token)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


Typed = Callable[..., int]
"""A program's `main` and what was typed after its name."""


@pytest.fixture
def with_token(hub: HubServer, token: str | None, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Run a command line in this process with the parameter `token`, at once: a new one loads the libraries anew."""
    monkeypatch.setenv("HF_TOKEN", token or "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(hub.home / "token"))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    return lambda main, *typed: main(typed)


def safetensors(tensors: Mapping[str, tuple[int, ...]], notes: Mapping[str, str] | None = None) -> bytes:
    """A file of zeros with these shapes."""
    header: dict[str, Any] = {"__metadata__": dict(notes)} if notes else {}
    place = 0
    for name, shape in tensors.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    return raw(json.dumps(header).encode()) + b"\0" * place


def put_adapter(directory: Path) -> None:
    """Write the files of an adapter."""
    for name, content in adapter().items():
        (directory / name).write_bytes(content)


def raw(header: bytes) -> bytes:
    """A file with this header."""
    return struct.pack("<Q", len(header)) + header


# ------------------------------------------------------------------------------------------------------------- pushing
def test_pushing_twice_changes_nothing_and_is_private_with_a_tag(hub: HubServer, kitchen: Machine) -> None:
    first = publish(hub, kitchen)
    repo = hub.repos["model", REPO]
    commits = dict(repo.commits)
    again = publish(hub, kitchen)
    assert (first.fresh, again.fresh, first.commit_sha) == (True, False, again.commit_sha)
    assert repo.private
    assert repo.commits == commits
    assert repo.tags == {made(kitchen).revision: first.commit_sha}
    (record,) = [one for one in publications.all_of(kitchen.db) if one.commit_sha == first.commit_sha]
    assert (record.repo, record.tag, record.private) == (REPO, made(kitchen).revision, True)


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("POST", "/api/repos/create", "cut"),
        ("POST", "/api/repos/create", "cut-after"),
        ("POST", "/preupload/", "cut"),
        ("PUT", "/lfs/", "cut"),
        ("POST", "/commit/", "cut"),
        ("POST", "/commit/", "cut-after"),
        ("POST", "/commit/", 500),
        ("POST", "/tag/", "cut"),
        ("POST", "/tag/", "cut-after"),
    ],
)
def test_a_push_that_breaks_can_be_repeated(
    hub: HubServer, kitchen: Machine, method: str, path: str, what: int | str
) -> None:
    hub.fail(method, path, what)
    if path in ("/preupload/", "/lfs/"):
        publish(hub, kitchen)  # the client repeats these by itself
    else:
        with pytest.raises(UserError, match=r"could not be made or was lost|trouble of its own"):
            publish(hub, kitchen)
    done = publish(hub, kitchen)
    repo = hub.repos["model", REPO]
    assert repo.tags == {made(kitchen).revision: done.commit_sha}
    assert set(hub.files("model", REPO)) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert len(repo.history(done.commit_sha)) == 2, "the first one is the Hub's"


def test_a_tag_with_other_weights_stays(hub: HubServer, kitchen: Machine) -> None:
    publish(hub, kitchen)
    name = made(kitchen).revision
    files = {**hub.files("model", REPO), "adapter_model.safetensors": safetensors({"a": (2, 2)})}
    hub.repos["model", REPO].tags[name] = theirs = hub.add_repo("model", REPO, files)
    with pytest.raises(UserError, match=f"has a tag '{name}' already, with other weights"):
        publish(hub, kitchen)
    assert hub.repos["model", REPO].tags == {name: theirs}


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_somebody_elses_work_of_that_name_stays(hub: HubServer, kitchen: Machine, kind: str) -> None:
    theirs = {"README.md": b"---\ntags: [theirs]\n---\n", "model.safetensors": b"x", "data/train.parquet": b"x"}
    sha = hub.add_repo(kind, REPO, theirs, private=True)

    def push() -> None:
        if kind == "model":
            publish(hub, kitchen)
        else:
            push_dataset.push_data(client(hub), kitchen.db, ExportRequest("preference"), REPO)

    with pytest.raises(UserError, match=f"The name {REPO} is taken"):
        push()
    assert hub.repos[kind, REPO].head.sha == sha
    hub.add_repo(kind, "ann/empty", {"README.md": b"# Empty"}, private=True)
    push_model.own_contents(client(hub), "ann/empty", "model" if kind == "model" else "dataset")


def test_a_card_that_says_more_moves_its_tag(hub: HubServer, kitchen: Machine) -> None:
    first = publish(hub, kitchen)
    later = publish(hub, kitchen, licence="mit")
    repo = hub.repos["model", REPO]
    assert repo.tags == {made(kitchen).revision: later.commit_sha}
    assert repo.commits[later.commit_sha].parent == first.commit_sha
    assert ModelCard(hub.file("model", REPO, "README.md").decode()).data.license == "mit"
    assert not publish(hub, kitchen).fresh, "the licence that is there stays"
    publish(hub, kitchen, licence="apache-2.0")
    assert ModelCard(hub.file("model", REPO, "README.md").decode()).data.license == "apache-2.0"


def test_the_card_has_the_evaluation_by_people_and_by_judges(hub: HubServer, db: Database, data_dir: Path) -> None:
    policy = make_candidate(db, data_dir)
    rate = {"value": 0.75, "low": 0.6, "high": 0.86, "n": 40, "ties": 0, "length_controlled": None}
    finish_check(db, data_dir, policy, win_rates={"base": {"sharp": rate}}, rule=5)
    people_say(db, 8, "candidate")
    put_adapter(data_dir / str(policy.path))
    sha = directory_sha256(data_dir / str(policy.path))
    db.connection.execute("UPDATE model SET sha256 = ? WHERE id = ?", (sha, policy.id))
    push_model.publish(client(hub), db, data_dir, policy.revision, REPO)
    text = hub.file("model", REPO, "README.md").decode()
    assert "| against | judged by | prompts | won" in text
    assert "| `base` | people | 8 | 100% (40–100%) |" in text
    assert "| `base` | the AI judge `sharp` | 40 | 75% (60–86%) |" in text
    found = ModelCard(text).data.eval_results or []
    assert [(one.metric_type, one.metric_value) for one in found] == [("win_rate", 1.0), ("win_rate", 0.75)]
    assert "adapter.txt" not in hub.files("model", REPO)
    finish_check(db, data_dir, policy, win_rates={"base": {"sharp": rate}}, rule=4)
    push_model.publish(client(hub), db, data_dir, policy.revision, REPO)
    text = hub.file("model", REPO, "README.md").decode()
    assert "| against | judged by | prompts or comparisons | won" in text
    assert "| `base` | people | 8 prompts |" in text
    assert "| `base` | the AI judge `sharp` | 40 comparisons |" in text


def test_a_judges_name_stays_a_name_on_the_card(db: Database, data_dir: Path) -> None:
    policy = make_candidate(db, data_dir)
    rate = {"value": 0.75, "low": 0.6, "high": 0.86, "n": 40, "ties": 0, "length_controlled": None}
    finish_check(db, data_dir, policy, win_rates={"base": {"[here](http://evil.example)\n\n# x|": rate}}, rule=5)
    (found,) = push_model.published_win_rates(db, policy)
    assert found.judge == "the AI judge `[here](http://evil.example) # x|`"


def test_the_card_has_the_figures_of_a_check_that_no_judge_took_part_in(
    hub: HubServer, db: Database, data_dir: Path
) -> None:
    policy = make_candidate(db, data_dir)
    put_adapter(data_dir / str(policy.path))
    sha = directory_sha256(data_dir / str(policy.path))
    db.connection.execute("UPDATE model SET sha256 = ? WHERE id = ?", (sha, policy.id))
    push_model.publish(client(hub), db, data_dir, policy.revision, REPO)
    assert "It was not compared with the base" in hub.file("model", REPO, "README.md").decode()
    figures = {"kl_to_anchor": 0.00241, "nll_under_anchor": 1.08, "perplexity": 30.0}
    finish_check(
        db,
        data_dir,
        policy,
        candidate={"revision": policy.revision, **figures},
        anchor={"revision": "base", "nll_under_anchor": 1.0, "perplexity": 24.0},
        implicit_accuracy={"value": 1.0, "low": 0.44, "high": 1.0, "n": 3, "left_out": {}},
        prompts=4,
    )
    push_model.publish(client(hub), db, data_dir, policy.revision, REPO)
    text = hub.file("model", REPO, "README.md").decode()
    assert "not compared with the base" not in text
    assert "Nobody has compared its answers with another model's one by one." in text
    assert "| held-out prompts that it answered | 4 |" in text
    assert "| KL to the base, nats a token | 0.0024 |" in text
    assert "| how much its answers surprise the base, by the base's own | 1.08 times |" in text
    assert "| perplexity of a plain text, by the base's | 1.25 times |" in text
    assert "| implicit accuracy on 3 held-out comparisons (95% interval) | 100% (44–100%) |" in text
    at_equal_length = check_rows(CheckReport.from_json({"equal_length_kl": 0.31, "prompts": 4}))
    assert ["KL to the base, nats a token, at equal length", "0.3100"] in at_equal_length


def test_the_card_has_win_rates_against_whatever_it_was_checked_against(
    hub: HubServer, db: Database, data_dir: Path
) -> None:
    """What served then may be neither the base nor the parent."""
    other, policy = make_candidate(db, data_dir, "sft-1"), make_candidate(db, data_dir, "sft-2")
    decision_store.promote(db, other.revision, "ann")
    put_adapter(data_dir / str(policy.path))
    sha = directory_sha256(data_dir / str(policy.path))
    db.connection.execute("UPDATE model SET sha256 = ? WHERE id = ?", (sha, policy.id))
    rate = {"value": 0.75, "low": 0.6, "high": 0.86, "n": 40, "ties": 0, "length_controlled": None}
    finish_check(db, data_dir, policy, win_rates={other.revision: {"sharp": rate}})
    push_model.publish(client(hub), db, data_dir, policy.revision, REPO)
    text = hub.file("model", REPO, "README.md").decode()
    assert f"| `{other.revision}` | the AI judge `sharp` | 40 | 75% (60–86%) |" in text
    assert "Nobody has compared" not in text


def test_what_is_public_stays_so_when_it_is_published_again(hub: HubServer, kitchen: Machine) -> None:
    """Without asking for it again; what others made public is not joined by mistake."""
    here, arguments = client(hub), (kitchen.db, kitchen.data_dir, made(kitchen).revision, REPO)
    push_model.publish(here, *arguments, private=False)
    again = push_model.publish(here, *arguments)
    assert not again.fresh
    assert not here.api.repo_info(REPO).private
    here.api.create_repo("ann/open", private=False)
    with pytest.raises(UserError, match="is there and public, and this was to be private"):
        push_model.publish(here, *arguments[:3], "ann/open")


def test_what_can_not_be_published_is_said_before_anything_is_sent(hub: HubServer, kitchen: Machine) -> None:
    for revision, sentence in (("base", "no files of its own"), ("nothing", "There is no policy 'nothing'")):
        with pytest.raises(UserError, match=sentence):
            push_model.publish(client(hub), kitchen.db, kitchen.data_dir, revision, REPO)
    with pytest.raises(UserError, match="is no licence as the Hub names them"):
        publish(hub, kitchen, licence="mit\nbase_model: x")
    assert hub.repos == {}


def test_damaged_files_are_not_published(hub: HubServer, machine: Machine) -> None:
    directory = machine.data_dir / "adapters" / "x"
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text("{}")
    registry.add(
        machine.db, revision="x", algorithm="sft", base=str(machine.model), parent_id=1, job_id=None, path="adapters/x",
        sha256="0",
    )  # fmt: skip
    with pytest.raises(UserError, match="are damaged"):
        push_model.publish(client(hub), machine.db, machine.data_dir, "x", REPO)
    assert hub.repos == {}


def test_an_adapter_on_weights_that_nobody_else_has_is_refused(hub: HubServer, kitchen: Machine) -> None:
    ground = registry.add(
        kitchen.db, revision="whole", algorithm="sft", base=str(kitchen.model), parent_id=1, job_id=None, form="full",
        path="adapters/whole", sha256="0",
    )  # fmt: skip
    on_it = registry.add(
        kitchen.db, revision="on-whole", algorithm="dpo", base=str(kitchen.model), parent_id=ground.id, job_id=None,
        path=made(kitchen).path or "", sha256=made(kitchen).sha256 or "", ground_id=ground.id,
    )  # fmt: skip
    with pytest.raises(UserError, match="lies on the weights of 'whole', which are not on the Hub"):
        push_model.publish(client(hub), kitchen.db, kitchen.data_dir, on_it.revision, REPO)


TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"config.json": b'{"_name_or_path": "/srv/data/models/x"}'}, "config.json says where something lies"),
        ({"README.md": f"it lies in `{Path.home()}/x`".encode()}, "README.md says where something lies"),
        ({"config.json": json.dumps({"token": TOKEN}).encode()}, "holds what looks like a token"),
        ({"README.md": b"use hf_write_ann"}, "holds what looks like a token"),
    ],
)
def test_paths_of_this_machine_and_tokens_stay_here(files: dict[str, bytes], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        push_model.refuse_private(files, (Path("/srv/data"),), "hf_write_ann")


@pytest.mark.parametrize(
    ("host", "text", "refused"),
    [
        ("kitchen-pc", "made on Kitchen-PC.", True),
        ("kitchen-pc", "made on kitchen-pc.home.arpa", True),
        ("kitchen-pc", "my-kitchen-pc and kitchen-pcs", False),
        ("model", "a model", False),
        ("localhost", "http://localhost", False),
        ("prefloop", "trained with Prefloop", False),
    ],
)
def test_the_name_of_this_machine_stays_here(
    monkeypatch: pytest.MonkeyPatch, host: str, text: str, refused: bool
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    expected = pytest.raises(UserError, match=r"README\.md names this machine") if refused else nullcontext()
    with expected:
        push_model.refuse_private({"README.md": text.encode()}, (Path("/srv/data"),), "")


def test_the_notes_in_weights_are_looked_at_too(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors({"a": (2, 2)}, {"made_in": "/srv/data/x"}))
    with pytest.raises(UserError, match=r"model\.safetensors says where something lies on this machine \(/srv/data\)"):
        push_model.refuse_private({"model.safetensors": path}, (Path("/srv/data"),), "")
    push_model.refuse_private({"README.md": b"hf_hub_download('/srv/database')"}, (Path("/srv/data"),), "")


# ------------------------------------------------------------------------------------------------------------- pulling
def logits(db: Database, model: Path, policy: Policy) -> torch.Tensor:
    """What a policy computes."""
    models = LoadedPolicies(db, db.path.parent, model)
    ids = models.tokenizer("one two three", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found = models.use(policy)(input_ids=ids).logits
    return torch.as_tensor(found)


def test_what_was_pulled_computes_as_what_was_pushed(hub: HubServer, kitchen: Machine, fresh: Database) -> None:
    done = publish(hub, kitchen)
    policy = pull(hub, fresh, f"{REPO}@{made(kitchen).revision}")
    original = made(kitchen)
    assert (policy.source, policy.status) == (f"{REPO}@{done.commit_sha}", "candidate")
    assert (policy.kind, policy.form, policy.precision) == (original.kind, original.form, original.precision)
    there = logits(fresh, kitchen.model, policy)
    assert torch.equal(there, logits(kitchen.db, kitchen.model, original))
    assert not torch.equal(there, logits(fresh, kitchen.model, registry.by_revision(fresh, "base")))
    registry.verify(fresh.path.parent, policy)
    assert decision_store.promote(fresh, policy.revision, "a test").status == "serving"
    assert pull(hub, fresh).id == policy.id, "the same commit is there already"


def test_what_was_pulled_has_the_shape_of_what_was_pushed(hub: HubServer, kitchen: Machine, fresh: Database) -> None:
    publish(hub, kitchen)
    policy = pull(hub, fresh)
    shape = preconditions.shape_of(fresh, policy)
    assert shape == preconditions.shape_of(kitchen.db, made(kitchen))
    spec = DPOSpec(parent=policy.revision, lora_r=64, dora=True)
    (sentence,) = preconditions.check(fresh, replace(spec, method=shape["method"]))
    for words in (f"The parent {policy.revision} has", f"lora_r {shape['lora_r']}", "dora False"):
        assert words in sentence
    assert preconditions.check(fresh, replace(spec, **shape)) == []


@pytest.mark.parametrize("word", ["precision", "weights"])
def test_a_card_says_in_which_precision_an_adapter_was_trained_also_in_an_earlier_word(
    hub: HubServer, fresh: Database, tiny_model: Path, word: str
) -> None:
    card = f"---\nprefloop:\n  {word}: fp32\n---\n".encode()
    hub.add_repo("model", REPO, {**adapter(**SAME, base_model_name_or_path=tiny_model.name), "README.md": card})
    assert pull(hub, fresh).precision == "fp32"


def test_an_adapter_on_a_precision_in_which_the_base_does_not_fit_is_refused(
    hub: HubServer, fresh: Database, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could let it answer; by a card of ours, and where nothing says on what it was trained."""
    monkeypatch.setattr(machines, "this_machine", lambda: machines.Machine("", 100_000, 100_000, True))
    hub.add_repo("model", REPO, adapter(**SAME, base_model_name_or_path=tiny_model.name))
    with pytest.raises(UserError, match=r"on the base in bf16\. In bf16 the base takes .* say in which precision"):
        pull(hub, fresh)
    assert len(registry.all_policies(fresh)) == 1
    assert pull_model.pull(client(hub), fresh, fresh.path.parent, REPO, "nf4").precision == "nf4"


SAME: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"], "use_dora": True}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("config", "trouble"),
    [
        ({}, ""),
        ({"target_modules": ["q_proj"]}, "has lora_layers q_proj"),
        ({"lora_alpha": 16}, "has lora_alpha 16"),
        ({"use_rslora": True}, ""),  # is left at its default, and so as there
        ({"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}, "has lora_targets attention"),
        (
            {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
            "has lora_targets all-linear",
        ),
        ({"target_modules": "all-linear"}, "has lora_targets all-linear"),
        ({"target_modules": r".*\.q_proj"}, r"has lora_layers model\.layers\.0\.self_attn\.q_proj"),
        ({"init_lora_weights": "mica"}, ""),
        ({"task_type": None}, ""),
        (
            {"rank_pattern": {"v_proj": 8}, "alpha_pattern": {"q_proj": 4}},
            r"\(rank_pattern, alpha_pattern\), so it can't be continued\. Merge it",
        ),
        ({"modules_to_save": ["norm"]}, r"\(modules_to_save\)"),
        ({"lora_alpha": 2.5}, r"has lora_alpha 2\.5"),
    ],
)
def test_a_pulled_adapter_is_continued_in_its_own_shape_only(
    hub: HubServer, fresh: Database, tiny_model: Path, config: dict[str, Any], trouble: str
) -> None:
    named = {**SAME, **config, "base_model_name_or_path": tiny_model.name}
    files = adapter(**named)
    if "modules_to_save" in config:
        files["adapter_model.safetensors"] = safetensors({**BOTH, MAGNITUDE: (64,), NORM: (64,)})
    hub.add_repo("model", REPO, files)
    parent = pull(hub, fresh).revision
    layers = {"lora_targets": "named", "lora_layers": "q_proj, v_proj"}
    spec = DPOSpec(parent=parent, method="lora", lora_r=4, lora_alpha=8, dora=True, **layers)
    found = preconditions.check(fresh, spec)
    assert len(found) == bool(trouble)
    assert not trouble or re.search(trouble, found[0])


def test_pulled_virtual_tokens_are_continued_by_prompt_tuning_only(
    hub: HubServer, fresh: Database, tiny_model: Path
) -> None:
    told = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 7, "base_model_name_or_path": tiny_model.name}
    config = json.dumps({"task_type": "CAUSAL_LM", **told}).encode()
    weights = safetensors({"prompt_embeddings": (7, 64)})
    hub.add_repo("model", REPO, {"adapter_config.json": config, "adapter_model.safetensors": weights})
    spec = DPOSpec(parent=pull(hub, fresh).revision, method="lora")
    (sentence,) = preconditions.check(fresh, spec)
    assert "of the kind prompt and can't be continued with lora. Its virtual tokens" in sentence
    assert "prompt tuning of 7" in sentence
    assert preconditions.check(fresh, replace(spec, method="prompt", virtual_tokens=7)) == []


@pytest.mark.parametrize(("left_out", "trouble"), [(["router", "gate"], 0), (["gate"], 1)])
def test_a_pulled_adapter_that_leaves_out_what_training_here_leaves_out_is_continued(
    hub: HubServer,
    fresh: Database,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    left_out: list[str],
    trouble: int,
) -> None:
    shapes = replace(model_shapes.read_shapes(tiny_model), without_adapter=("gate", "router"))
    monkeypatch.setattr(model_shapes, "read_shapes", lambda directory: shapes)
    named = {**SAME, "exclude_modules": left_out, "base_model_name_or_path": tiny_model.name}
    hub.add_repo("model", REPO, adapter(**named))
    policy = pull(hub, fresh)
    assert preconditions.beyond(fresh, policy) == ["exclude_modules"] * trouble


@pytest.mark.parametrize(
    ("layers", "modules", "beyond"),
    [([1], LINEAR, []), ([0], LINEAR, ["layers_to_transform"]), ([1], LINEAR[:2], ["layers_to_transform"])],
)
def test_a_pulled_adapter_in_the_upper_half_of_the_layers_is_continued_there(
    hub: HubServer, fresh: Database, tiny_model: Path, layers: list[int], modules: list[str], beyond: list[str]
) -> None:
    where = {"target_modules": modules, "layers_to_transform": layers, "layers_pattern": "layers"}
    hub.add_repo("model", REPO, adapter(**{**SAME, **where, "base_model_name_or_path": tiny_model.name}))
    policy = pull(hub, fresh)
    assert preconditions.beyond(fresh, policy) == beyond
    assert beyond or preconditions.shape_of(fresh, policy)["lora_targets"] == "upper-half"


def test_a_pulled_reward_model_needs_a_word_and_says_where_its_figures_are(
    hub: HubServer, fresh: Database, tiny_model: Path
) -> None:
    files = adapter(base_model_name_or_path=tiny_model.name, task_type="SEQ_CLS")
    sha = hub.add_repo("model", REPO, {**files, "reward.json": b'{"mean": 0.1, "std": 2.0}'})
    spec = PPOSpec(parent="base", method="lora", reward_model=pull(hub, fresh).revision)
    (sentence,) = preconditions.check(fresh, spec)
    assert f"comes from {REPO}@{sha}, and how often it is right was not measured here" in sentence
    asked = spec.confirmation(fresh)
    assert asked is not None
    assert preconditions.check(fresh, replace(spec, **asked.settings)) == []


def test_a_revision_that_moves_brings_another_policy_and_changes_none(
    hub: HubServer, kitchen: Machine, fresh: Database
) -> None:
    publish(hub, kitchen)
    first = pull(hub, fresh, f"{REPO}@main")
    publish(hub, kitchen, licence="mit")
    second = pull(hub, fresh, f"{REPO}@main")
    assert first.id != second.id
    assert registry.by_id(fresh, first.id) == first
    assert directory_sha256(fresh.path.parent / str(first.path)) == first.sha256


ADAPTER: dict[str, Any] = {
    **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "{base}", "r": 4},
}
Shapes = Mapping[str, tuple[int, ...]]
TURNED = {"fan_in_fan_out": True}
UP = "model.layers.0.up.lora_A.weight"


def test_a_card_from_when_a_second_form_of_the_weights_was_counted_still_names_the_same_base(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "consolidated.safetensors").write_bytes(b"the same again")
    lines = {path.name: f"{file_sha256(path)}  {path.name}\n" for path in sorted(model.glob("*.safetensors"))}
    told = {"earlier": "".join(lines.values()), "now": lines["model.safetensors"], "another": "another"}
    sums = {name: sha256(text.encode()).hexdigest() for name, text in told.items()}
    db = open_database(tmp_path / "data")
    registry.ensure_base(db, str(model))
    assert base_identity.base_sha256(db, tmp_path / "data", str(model)) == sums["now"]
    found = pull_model.HubRevision("ann/adapter", "0" * 40, {}, {})
    for name in ("earlier", "now"):
        pull_model.check_base(db, tmp_path / "data", sums[name], found)
    with pytest.raises(UserError, match="another sha256"):
        pull_model.check_base(db, tmp_path / "data", sums["another"], found)
    monkeypatch.setattr(base_identity, "file_sha256", Mock(side_effect=AssertionError("that is known")))
    assert base_identity.base_sha256(db, tmp_path / "data", str(model)) == sums["now"]
    db.close()


def test_a_commits_name_leads_nowhere(kitchen: Machine) -> None:
    found = pull_model.HubRevision("ann/adapter", "/../../elsewhere", {}, {})
    assert pull_model.name_for(kitchen.db, found) == "adapter--------"


LAYER = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
OTHER = LAYER.replace("lora_A", "lora_B")
NORM = "base_model.model.model.norm.weight"
SCORE = "base_model.model.score.weight"
WORDS = "base_model.model.model.embed_tokens.weight"
MAGNITUDE = OTHER.replace("lora_B.weight", "lora_magnitude_vector")
ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
BOTH = {LAYER: (4, 64), OTHER: (64, 4)}
# Tried on a layer's name of thirty characters it takes years.
BURSTING = "(?:[a-z._0-9]+)+!"
# More names than the adapter has layers: PEFT tries each on every layer.
MANY = [f"layer{number}" for number in range(50)]
CHANGING = ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "orthogonal", "unheard-of")


def adapter(shapes: Mapping[str, tuple[int, ...]] | None = None, **config: Any) -> dict[str, bytes]:
    """Files of an adapter for the tiny model, by default with the tensors that its configuration says."""
    told = {**ADAPTER, **config}
    if shapes is None:
        number = (told.get("layers_to_transform") or [0])[0]
        layer, other = (name.replace(".0.", f".{number}.") for name in (LAYER, OTHER))
        shapes = {layer: (4, 64), other: (64, 4)}
        shapes |= {MAGNITUDE.replace(".0.", f".{number}."): (64,)} if told.get("use_dora") else {}
        shapes |= {SCORE: (1, 64)} if told["task_type"] == "SEQ_CLS" else {}
    return {"adapter_config.json": json.dumps(told).encode(), "adapter_model.safetensors": safetensors(shapes)}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"notes.txt": b"x"}, "holds no model"),
        ({**adapter(), "adapter_model.safetensors": None, "adapter_model.bin": b"pickle"}, "no safetensors weights"),
        (adapter(base_model_name_or_path="somebody/else"), "lies on somebody/else, and this data directory has"),
        (adapter(base_model_name_or_path=None), "lies on a base that it does not name"),
        (adapter(megatron_config={"a": 1}, megatron_core="os"), r"can't be used here \(megatron_config\)"),
        (adapter(peft_type="IA3"), "is an adapter of type IA3 for CAUSAL_LM"),
        (adapter(task_type="SEQ_CLS"), "is a reward model without reward.json"),
        ({**adapter(task_type="SEQ_CLS"), "reward.json": b'{"mean": 0, "std": NaN}'}, "without reward.json"),
        (adapter({LAYER: (4, 65), OTHER: (64, 4)}), "does not fit the weights that it names"),
        (
            adapter({name.replace(".0.", ".29."): shape for name, shape in BOTH.items()}),
            r"layers\.29\..* is 4×64, and there is nothing",
        ),
        (adapter({name.replace("q_proj", "c_attn"): shape for name, shape in BOTH.items()}), "nothing of that name"),
        (adapter({**BOTH, SCORE: (1, 64)}), "brings a value"),
        (adapter({**BOTH, "other": (4, 64)}), "other is 4×64"),
        (adapter({**BOTH, "other": ()}), "is a single number"),
        (adapter({**BOTH, NORM: (64,)}), r"brings a value .*norm\.weight\) .* modules_to_save"),
        (
            adapter({**BOTH, NORM: (64,), WORDS: (320, 64)}, modules_to_save=["embed_tokens"]),
            r"brings a value .*norm\.weight\) .* modules_to_save",
        ),
        *((adapter(init_lora_weights=name), rf"can't be used here \(init_lora_weights={name}\)") for name in CHANGING),
        (adapter(layer_replication=[[0, 2], [0, 2]]), r"can't be used here \(layer_replication\)"),
        (adapter(alora_invocation_tokens=[5, 6]), r"can't be used here \(alora_invocation_tokens\)"),
        *((adapter(**{name: {}}), rf"can't be used here \({name}\)") for name in ("kasa_config", "arrow_config")),
        (adapter(kasa_config={"a": 1}, bias="lora_only"), r"can't be used here \(kasa_config, bias=lora_only\)"),
        *(
            (adapter(**{name: {BURSTING: 4}}), rf"by patterns.*\({name}\)")
            for name in ("rank_pattern", "alpha_pattern")
        ),
        (adapter(modules_to_save=[BURSTING]), r"by patterns.*\(modules_to_save\)"),
        (adapter(modules_to_save=[""]), r"by patterns.*\(modules_to_save\)"),
        *((adapter(**{name: dict.fromkeys(MANY, 4)}), rf"\({name}\)") for name in ("rank_pattern", "alpha_pattern")),
        (adapter(modules_to_save=MANY), r"\(modules_to_save\)"),
        (adapter(target_modules=BURSTING, target_parameters=["experts"]), r"by patterns.*\(target_modules\)"),
        (adapter({LAYER: (4, 64)}), r"not whole: .* \(model\.layers\.0\.self_attn\.q_proj: r 4\)"),
        (adapter(r="4"), "'r' must be of type int, not '4'"),
        ({**adapter(), "adapter_model.safetensors": raw(b"[" * 100_000)}, "is no safetensors file"),
        ({**adapter(), "adapter_model.safetensors": raw(b'{"a": {"shape": ["x"]}}')}, "is no safetensors file"),
        ({"config.json": b"{}", "model-a/b.safetensors": b"x"}, "no safetensors weights"),
        ({**adapter(), "adapter_model.safetensors": b"\x80\x04pickle and more"}, "is no safetensors file"),
        ({**adapter(), "adapter_model.safetensors": struct.pack("<Q", 2**60) + b"{}"}, "is no safetensors file"),
        ({**adapter(), "adapter_model.safetensors": raw(b"{}")}, "it has no tensor"),
        (adapter({f"{LAYER}{'.base_layer' * 100}": (4, 64)}), "the name of a tensor has 1,1"),
        (
            {**adapter(), "adapter_model.safetensors": safetensors({LAYER: (4, 64)})[:-1]},
            "incomplete metadata, file not fully covered",
        ),
        ({**adapter(), "adapter_config.json": b"[]"}, "is no JSON object"),
        ({"config.json": b'{"auto_map": {"AutoModel": "x.py"}}', "x.py": b"import os"}, "wants to run code of its own"),
        ({"config.json": b"{}", "pytorch_model.bin": b"pickle"}, "no safetensors weights"),
        ({"config.json": b'{"model_type": "gpt2"}', "model.safetensors": safetensors({"a": (1, 1)})}, "not those of a"),
        ({"config.json": b'{"quantization_config": {"load_in_4bit": true}}', "model.safetensors": b"x"}, "quantised"),
        ({**adapter(), "README.md": b"#" * 16_000_001}, r"README\.md of .* has 16,000,001 bytes, more than the"),
    ],
)
def test_what_can_not_be_used_is_refused_and_leaves_nothing(
    hub: HubServer, fresh: Database, tiny_model: Path, files: dict[str, bytes | None], sentence: str
) -> None:
    named = {path: content.replace(b"{base}", tiny_model.name.encode()) for path, content in files.items() if content}
    hub.add_repo("model", REPO, named)
    before = registry.all_policies(fresh)
    with pytest.raises(UserError, match=sentence):
        pull(hub, fresh)
    assert registry.all_policies(fresh) == before
    assert list((fresh.path.parent / "adapters").glob("*")) == []


def test_layers_that_a_pattern_chose_are_named_before_anything_tries_it(
    hub: HubServer, fresh: Database, tiny_model: Path
) -> None:
    """As the pattern would have chosen them; the pattern itself would take longer than anybody waits."""
    name = "model.layers.0.self_attn.q_proj"
    weights = save({LAYER: torch.ones(4, 64), OTHER: torch.ones(64, 4)})
    found = []
    for number, chosen in enumerate(([name], BURSTING, ["q_proj", *MANY])):
        files = adapter(target_modules=chosen, base_model_name_or_path=tiny_model.name)
        hub.add_repo("model", f"{REPO}-{number}", {**files, "adapter_model.safetensors": weights})
        policy = pull(hub, fresh, f"{REPO}-{number}")
        config = json.loads((fresh.path.parent / str(policy.path) / "adapter_config.json").read_text("utf-8"))
        assert config["target_modules"] == [name]
        found.append(logits(fresh, tiny_model, policy))
    named, *computed = found
    assert not torch.equal(named, logits(fresh, tiny_model, registry.by_revision(fresh, "base")))
    assert all(torch.equal(named, one) for one in computed)


def test_rows_of_some_tokens_are_refused_where_the_model_reads_and_writes_by_the_same(
    hub: HubServer, tmp_path: Path, tiny_model: Path
) -> None:
    tied = shutil.copytree(tiny_model, tmp_path / "tied")
    config = json.loads((tied / "config.json").read_text("utf-8"))
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}), "utf-8")
    for base, refused in ((tiny_model, False), (tied, True)):
        db = open_database(tmp_path / f"data-{refused}")
        registry.ensure_base(db, str(base))
        hub.add_repo(
            "model",
            f"{REPO}-{refused}",
            adapter({**BOTH, ROWS: (1, 64)}, base_model_name_or_path=base.name, trainable_token_indices=[5]),
        )
        with pytest.raises(UserError, match="has rows of its own for some tokens") if refused else nullcontext():
            pull(hub, db, f"{REPO}-{refused}")
        db.close()


@pytest.mark.parametrize(
    ("below", "configured", "name", "shape", "config"),
    [
        ({"h.0.attn.c_attn.weight": (8, 24)}, {}, "transformer.h.0.attn.c_attn.lora_A.weight", (2, 8), TURNED),
        ({"h.0.attn.c_attn.weight": (8, 24)}, {}, "transformer.h.0.attn.c_attn.lora_B.weight", (24, 2), TURNED),
        ({"h.0.up.weight": (8, 24)}, {"model_type": "gpt2"}, "transformer.h.0.up.lora_A.weight", (2, 8), {}),
        ({"wte.weight": (50, 8)}, {}, "transformer.wte.lora_embedding_A", (2, 50), {}),
        ({"wte.weight": (50, 8)}, {}, "transformer.wte.lora_embedding_B", (8, 2), {}),
        ({"wte.weight": (50, 8)}, {"vocab_size": 50, "n_embd": 8}, "lm_head.lora_B.weight", (50, 2), {}),
        ({"a.embed.weight": (50, 8)}, {}, "model.embed.weight", (50, 8), {"modules_to_save": ["embed"]}),
        ({"a.layers.0.up.weight": (9, 8)}, {}, "model.layers.0.up.lora_magnitude_vector", (9,), {}),
        ({"layers.0.up.weight": (36, 1)}, {"quantization_config": {"load_in_4bit": True}}, UP, (2, 8), {}),
        ({"layers.0.up.qweight": (3, 8)}, {"quantization_config": {"quant_method": "gptq"}}, UP, (2, 8), {}),
        ({"layers.0.experts.0.w.weight": (9, 8)}, {}, "model.layers.0.experts.base_layer.lora_A.weight", (2, 8), {}),
        ({"layers.0.up.weight": (9, 8)}, {"hidden_size": 8}, "score.weight", (1, 8), {"task_type": "SEQ_CLS"}),
    ],
)
def test_an_adapter_fits_weights_that_are_named_turned_tied_or_stored_otherwise(
    tmp_path: Path, below: Shapes, configured: dict[str, Any], name: str, shape: tuple[int, ...], config: dict[str, Any]
) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(below))
    (tmp_path / "config.json").write_text(json.dumps(configured))
    told = StoredLora(**config)
    pull_model.check_shapes(tmp_path, told, {f"base_model.model.{name}": shape}, REPO)
    if "magnitude" not in name and "quantization_config" not in configured and "experts" not in name:
        with pytest.raises(UserError, match="does not fit the weights"):
            pull_model.check_shapes(tmp_path, told, {f"base_model.model.{name}": (7, 7)}, REPO)


def test_two_bases_of_one_name_are_told_apart_by_their_weights(
    hub: HubServer, kitchen: Machine, fresh: Database, tmp_path: Path
) -> None:
    publish(hub, kitchen)
    other = tmp_path / "elsewhere" / kitchen.model.name
    shutil.copytree(kitchen.model, other)
    fresh.connection.execute("UPDATE model SET base = ?", (str(other),))
    weights = other / "model.safetensors"
    told = weights.read_bytes()
    weights.write_bytes(told[:-1] + b"\1")
    with pytest.raises(UserError, match=f"called {kitchen.model.name} but are not those of this data directory"):
        pull(hub, fresh)
    assert len(registry.all_policies(fresh)) == 1
    weights.write_bytes(told)
    os.utime(weights, (0, 0))  # as soon as this the clock may show no other time
    assert pull(hub, fresh).form == "lora"


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("nobody/nothing", "There is no such repository, or the token may not see it"),
        (f"{REPO}@nothing", "The repository has no such revision"),
        ("a/b/c", "can't be the name of a repository"),
        (f"{REPO}@a b", "can't be a revision"),
    ],
)
def test_an_address_that_leads_nowhere_has_a_sentence(
    hub: HubServer, fresh: Database, address: str, sentence: str
) -> None:
    hub.add_repo("model", REPO, adapter())
    with pytest.raises(UserError, match=sentence):
        pull(hub, fresh, address)


def test_what_came_damaged_is_not_kept(hub: HubServer, fresh: Database, tiny_model: Path) -> None:
    hub.add_repo("model", REPO, adapter(base_model_name_or_path=tiny_model.name))
    entry = hub.repos["model", REPO].head.tree["adapter_model.safetensors"]
    hub.contents[entry.oid] = hub.contents[entry.oid][:-1] + b"\1"
    with pytest.raises(UserError, match="came damaged"):
        pull(hub, fresh)
    assert len(registry.all_policies(fresh)) == 1


@pytest.mark.parametrize("path", ["/api/models/", r"/resolve/.*json", r"/resolve/.*safetensors"])
def test_an_answer_without_end_is_read_no_further_than_it_should_go(
    hub: HubServer, fresh: Database, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """It would fill the disk or the memory."""
    monkeypatch.setattr(hubs, "LONGEST_ANSWER", 1_000_000)
    hub.add_repo("model", REPO, adapter(base_model_name_or_path=tiny_model.name))
    hub.fail("GET", path, "endless", times=9)
    with pytest.raises(UserError, match=r"It sends more than the .* bytes that it should"):
        pull(hub, fresh)
    assert len(registry.all_policies(fresh)) == 1
    assert not [*(fresh.path.parent / "adapters").glob("*")]


def test_an_answer_that_does_not_come_to_an_end_in_time_is_given_up(
    hub: HubServer, fresh: Database, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "ANSWER_SECONDS", -1.0)
    hub.add_repo("model", REPO, adapter(base_model_name_or_path=tiny_model.name))
    with pytest.raises(UserError, match="so slowly that there is no end to it"):
        pull(hub, fresh)


@pytest.mark.parametrize("answer", [b"[]", b"null", b"7", b"{", b'{"id": "x", "siblings": 3}', b"[" * 100_000])
def test_an_answer_of_another_shape_is_a_sentence(hub: HubServer, fresh: Database, answer: bytes) -> None:
    hub.fail("GET", "/api/models/", answer)
    with pytest.raises(UserError, match=f"Looking up {REPO} failed"):
        pull(hub, fresh)


def test_a_file_is_no_longer_than_the_hub_has_said_and_lies_in_no_other_directory(
    hub: HubServer, fresh: Database, tiny_model: Path
) -> None:
    files = adapter(base_model_name_or_path=tiny_model.name)
    sha = hub.add_repo("model", REPO, {**files, "../../up.safetensors": b"up", "../up.json": b"{}"})
    there = pull(hub, fresh)
    assert not [*fresh.path.parent.parent.rglob("up.*")]
    decision_store.mark_deleted(fresh, there, "owner")
    commit = hub.repos["model", REPO].commits[sha]
    short = {name: replace(entry, size=5) if "safetensors" in name else entry for name, entry in commit.tree.items()}
    hub.repos["model", REPO].commits[sha] = replace(commit, tree=short)
    with pytest.raises(UserError, match=r"failed|came damaged"):
        pull(hub, fresh)


def test_who_is_pointed_to_from_the_hub_gets_no_token(hub: HubServer, fresh: Database, tiny_model: Path) -> None:
    files = adapter(base_model_name_or_path=tiny_model.name)
    hub.add_repo("model", REPO, files)
    with HubServer() as other:
        other.tokens.clear()  # whoever brings one is refused there
        other.add_repo("model", REPO, files)
        sha = hub.repos["model", REPO].head.sha
        other.repos["model", REPO].commits[sha] = other.repos["model", REPO].head
        for name in files:
            where = {"Location": f"{other.url}/{REPO}/resolve/{sha}/{name}"}
            hub.fail("GET", f"/resolve/.*{name}", 302, times=9, headers=where)
        assert pull(hub, fresh).form == "lora"
        assert {status for *_, status in other.requests} == {200}


def test_a_download_that_breaks_can_be_repeated(hub: HubServer, fresh: Database, tiny_model: Path) -> None:
    hub.add_repo("model", REPO, adapter(base_model_name_or_path=tiny_model.name))
    hub.fail("GET", "/api/models/", "cut")
    with pytest.raises(UserError, match="connection to the Hub could not be made or was lost"):
        pull(hub, fresh)
    hub.fail("GET", r"/resolve/.*safetensors", "cut-after")
    assert pull(hub, fresh).form == "lora", "the client goes on where it was cut"


def test_what_is_pulled_has_no_name_before_its_sum_is_known(
    hub: HubServer, fresh: Database, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("model", REPO, adapter(base_model_name_or_path=tiny_model.name))
    there = list[list[str]]()

    def sum_of(directory: Path) -> str:
        there.append([path.name for path in (fresh.path.parent / "adapters").iterdir() if path.suffix != ".part"])
        return directory_sha256(directory)

    monkeypatch.setattr(pull_model, "directory_sha256", sum_of)
    made = pull(hub, fresh)
    assert there == [[]]
    assert directory_sha256(fresh.path.parent / str(made.path)) == made.sha256


def test_a_disk_that_is_full_meanwhile_leaves_the_registry_as_it_was(
    hub: HubServer, fresh: Database, tiny_model: Path
) -> None:
    hub.add_repo("model", REPO, adapter(base_model_name_or_path=tiny_model.name))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(UserError, match="The disk is full"):
            pull(hub, fresh)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(registry.all_policies(fresh)) == 1
    assert pull(hub, fresh).form == "lora"


def test_who_pulls_the_same_at_the_same_time_is_told_and_its_files_stay_as_they_were_named(
    hub: HubServer, fresh: Database, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One on the Hub tab, one on the command line."""
    hub.add_repo("model", REPO, adapter(base_model_name_or_path=tiny_model.name))
    fetch, pulled = pull_model.fetch, []

    def fetch_while_another_pulls(*given: Any) -> None:
        monkeypatch.setattr(pull_model, "fetch", fetch)
        pulled.append(pull(hub, fresh))
        fetch(*given)

    monkeypatch.setattr(pull_model, "fetch", fetch_while_another_pulls)
    with pytest.raises(UserError, match="was pulled by somebody else meanwhile"):
        pull(hub, fresh)
    [one] = pulled
    assert [path.name for path in (fresh.path.parent / "adapters").iterdir()] == [one.revision]
    registry.verify(fresh.path.parent, one)


def test_a_full_disk_is_seen_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1000000000\.0 GB are to be fetched and .* GB are free"):
        base_files.refuse_too_large(tmp_path, 10**18)


def test_whole_weights_become_a_policy_and_adapters_on_them_find_them(
    hub: HubServer, fresh: Database, tiny_model: Path
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir() if path.is_file()}
    sha = hub.add_repo("model", "ann/whole", {**files, "optimizer.pt": b"state", "model.py": b"import os"})
    whole = pull(hub, fresh, "ann/whole")
    assert (whole.form, whole.kind, whole.ground_id) == ("full", "policy", None)
    kept = {path.name for path in (fresh.path.parent / str(whole.path)).iterdir()}
    assert "model.safetensors" in kept
    assert not {"optimizer.pt", "model.py", ".cache"} & kept
    hub.add_repo("model", REPO, adapter(base_model_name_or_path="ann/whole", revision=sha))
    assert pull(hub, fresh).ground_id == whole.id


@pytest.mark.parametrize("kind", ["gemma3", "llama", "llama4", "qwen3_5"])
def test_whole_weights_may_be_the_part_for_texts_of_a_base_that_also_sees(kind: str) -> None:
    """Whatever transformers saves of it, and wherever their sizes stand; of a base of other sizes they can't be."""
    base = AutoConfig.for_model(kind).to_dict()
    text = AutoConfig.for_model(kind).get_text_config().to_dict()
    short = {**text, "vocab_size": None}
    for own, theirs in ((base, text), (base, base), (text, base), ({**base, "text_config": short}, base)):
        pull_model.check_kind(own, theirs, "base")
    with pytest.raises(UserError, match=rf"\(vocab_size 300 instead of {text['vocab_size']}\)"):
        pull_model.check_kind(base, {**text, "vocab_size": 300}, "base")
    with pytest.raises(UserError, match=rf"\(model_type gpt2 instead of {kind}, hidden_size 8 instead of"):
        pull_model.check_kind(base, {"model_type": "gpt2", "hidden_size": 8}, "base")


def test_whole_weights_of_other_words_or_another_template_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    pull_model.check_words(tiny_model, other, "base")
    tokenizer, template = other / "tokenizer.json", other / "chat_template.jinja"
    content = json.loads(tokenizer.read_text("utf-8"))
    numbers = content["model"]["vocab"]
    more = [{**content["added_tokens"][0], "id": len(numbers), "content": "<|more|>"}]
    tokenizer.write_text(json.dumps({**content, "added_tokens": content["added_tokens"] + more}), "utf-8")
    template.write_text(template.read_text("utf-8") + "{# without another word #}", "utf-8")
    pull_model.check_words(tiny_model, other, "base")
    own = template.read_text("utf-8")
    template.write_text(own.replace("<|im_end|>", "<|im_end|>!"), "utf-8")
    with pytest.raises(UserError, match="have another vocabulary or chat template than base"):
        pull_model.check_words(tiny_model, other, "base")
    template.write_text(own, "utf-8")
    numbers["a"], numbers["b"] = numbers["b"], numbers["a"]
    tokenizer.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError, match="have another vocabulary or chat template than base"):
        pull_model.check_words(tiny_model, other, "base")
    for path in other.iterdir():
        path.unlink()
    pull_model.check_words(tiny_model, other, "base")


def test_a_base_from_the_hub_stays_at_its_commit_and_its_adapters_say_so(
    hub: HubServer, kitchen: Machine, tmp_path: Path
) -> None:
    """A whole way round: base and adapter to the Hub, into another directory, and from there to the Hub again."""
    model, other = kitchen.model, tmp_path / "other"
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    beside = {"onnx/config.json": b"{}", "original/model.safetensors": b"gigabytes", "consolidated.safetensors": b"x"}
    sha = hub.add_repo("model", f"ann/{model.name}", {**files, **beside})
    publish(hub, kitchen)
    there = ("--data", str(other))
    done = command(hub, "hf_read_ann", "rlhf", *there, "pull", f"ann/{model.name}@main", "--base")
    assert done.returncode == 0, done.stderr
    assert f"--model ann/{model.name}@{sha}" in done.stdout
    fetched = [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert any(path.endswith("/model.safetensors") for path in fetched)
    assert [path for path in fetched if path.endswith(tuple(beside))] == []
    hub.add_repo("model", "ann/another", files)
    done = command(hub, "hf_read_ann", "rlhf", *there, "pull", "ann/another", "--base")
    assert "This data directory belongs to the base model" in done.stderr
    assert [path for _, path, _ in hub.requests if "/ann/another/resolve/" in path and "safetensors" in path] == []
    hub.add_repo("model", f"ann/{model.name}", {"config.json": b"{}"})
    done = command(hub, "hf_read_ann", "rlhf", *there, "pull", REPO)
    assert done.returncode == 0, done.stderr
    db = open_database(other)
    pulled = registry.all_policies(db)[-1]
    db.close()
    done = command(hub, "hf_write_ann", "rlhf", *there, "publish", pulled.revision, "ann/again", "--public")
    assert done.returncode == 0, done.stderr
    assert not hub.repos["model", "ann/again"].private
    text = hub.file("model", "ann/again", "README.md").decode()
    assert ModelCard(text).data.base_model == f"ann/{model.name}"
    assert f'AutoTokenizer.from_pretrained("ann/{model.name}", revision="{sha}")' in text
    (code,) = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    (tmp_path / "probe.py").write_text(code + PROBE, "utf-8")
    done = subprocess.run(
        [sys.executable, "probe.py"], cwd=tmp_path, env={**os.environ, **hub.environment("hf_read_ann")},
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    served = logits(kitchen.db, model, made(kitchen)).log_softmax(-1)
    found = torch.load(tmp_path / "found.pt").float().log_softmax(-1)
    distance = float((served.float().exp() * (served.float() - found)).sum(-1).mean())
    assert distance < 2e-3


PROBE = """
import torch
ids = tokenizer("one two three", return_tensors="pt")["input_ids"]
with torch.no_grad():
    torch.save(model(input_ids=ids).logits.cpu(), "found.pt")
"""


# ---------------------------------------------------------------------------------------------------------------- data
class Tomorrow(datetime):
    """A clock that is a day ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + timedelta(days=1)


def test_judgements_go_up_as_a_private_dataset_of_pseudonyms(
    hub: HubServer, kitchen: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ExportRequest("preference", licence="cc-by-4.0")
    sent, send = list[Path](), push_dataset.send
    with monkeypatch.context() as watched:
        watched.setattr(push_dataset, "send", lambda *given: sent.extend(given[2].values()) or send(*given))
        done = push_dataset.push_data(client(hub), kitchen.db, request, "ann/data")
    hidden = {path.parents[2] for path in sent if path.name != "README.md"}
    assert [(path.parent, path.name[0]) for path in hidden] == [(kitchen.data_dir / writing.DIRECTORY, ".")]
    repo = hub.repos["dataset", "ann/data"]
    assert repo.private
    assert repo.head.sha == done.commit_sha
    files = hub.files("dataset", "ann/data")
    assert set(files) == {"README.md", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"}
    card = files["README.md"].decode()
    assert DatasetCard(card).data.license == "cc-by-4.0"
    assert 'load_dataset("ann/data")' in card
    assert str(kitchen.model.parent) not in card
    rows = parquet(files["data/train-00000-of-00001.parquet"])
    assert len(rows) == 4
    assert {name for row in rows for name in row["annotators"]}.isdisjoint({"ann", "bob"})
    commits = len(repo.commits)
    with monkeypatch.context() as later:
        later.setattr("annotation.records.datetime", Tomorrow)
        again = push_dataset.push_data(client(hub), kitchen.db, request, "ann/data")
    assert push_model.described(again).startswith(f"There already: ann/data (commit {done.commit_sha[:12]})")
    assert push_model.described(done).startswith("Published ann/data")
    assert len(repo.commits) == commits, "the same data, a day later"
    of_ann = ExportRequest("preference", filters=Filters(annotators=("ann",)))
    push_dataset.push_data(client(hub), kitchen.db, of_ann, "ann/data")
    assert DatasetCard(hub.file("dataset", "ann/data", "README.md").decode()).data.license == "cc-by-4.0"
    assert set(hub.files("dataset", "ann/data")) == {"README.md", "data/train-00000-of-00001.parquet"}


def test_a_format_that_is_no_word_is_not_said(hub: HubServer, kitchen: Machine) -> None:
    client(hub).api.create_repo("ann/data", repo_type="dataset", private=True)
    card = b"---\ntags: [prefloop]\nprefloop: {format: [[secret], [secret]]}\n---\n"
    hubs.commit(client(hub), "ann/data", "dataset", {"README.md": card, "x.jsonl": b"{}"}, "x")
    with pytest.raises(UserError, match="its card does not say the format"):
        push_dataset.push_data(client(hub), kitchen.db, ExportRequest("preference"), "ann/data")


def test_another_format_does_not_take_the_place_of_one(hub: HubServer, kitchen: Machine) -> None:
    push_dataset.push_data(client(hub), kitchen.db, ExportRequest("preference"), "ann/data")
    head = hub.repos["dataset", "ann/data"].head.sha
    with pytest.raises(UserError, match="holds data of the format 'preference', which 'reward' would replace"):
        push_dataset.push_data(client(hub), kitchen.db, ExportRequest("reward"), "ann/data")
    with pytest.raises(UserError, match="which 'frozen-demonstrations' would replace"):
        push_run(hub, kitchen, run_of(made(kitchen)), "ann/data")
    assert hub.repos["dataset", "ann/data"].head.sha == head


def run_of(policy: Policy) -> int:
    """The job that made it."""
    assert policy.job_id is not None
    return policy.job_id


def push_run(hub: HubServer, machine: Machine, run: int, repo: str, **more: Any) -> push_model.PublishResult:
    """Push the frozen data of a run."""
    return push_dataset.push_snapshot(client(hub), machine.db, machine.data_dir, run, repo, **more)


def loaded(hub: HubServer, published: push_model.PublishResult) -> dict[str, list[dict[str, Any]]]:
    """The rows of each split as `datasets` loads them from the Hub, without what is empty."""
    program = hub.home / "loading.py"
    program.write_text(LOADING, "utf-8")
    done = subprocess.run(
        [sys.executable, str(program), published.repo, published.tag],
        env={**os.environ, **hub.environment("hf_read_ann")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {split: [said(row) for row in rows] for split, rows in json.loads(done.stdout).items()}


LOADING = """
import json, sys
from datasets import load_dataset
data = load_dataset(sys.argv[1], revision=sys.argv[2])
print(json.dumps({split: list(rows) for split, rows in data.items()}))
"""


def said(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says."""
    return {name: value for name, value in row.items() if value is not None}


def test_frozen_data_loads_from_the_hub_as_it_was_trained_on_and_the_models_card_links_it(
    hub: HubServer, kitchen: Machine
) -> None:
    run = run_of(made(kitchen))
    snapshot = job_store.get(kitchen.db, run).spec.snapshot  # type: ignore[union-attr]
    done = push_run(hub, kitchen, run, "ann/frozen", licence="cc-by-4.0")
    again = push_run(hub, kitchen, run, "ann/frozen", licence="cc-by-4.0")
    assert (done.fresh, again.fresh, done.commit_sha) == (True, False, again.commit_sha)
    assert hub.repos["dataset", "ann/frozen"].tags == {f"snapshot-{snapshot[:12]}": done.commit_sha}
    card = hub.file("dataset", "ann/frozen", "README.md").decode()
    assert DatasetCard(card).data.license == "cc-by-4.0"
    assert snapshot in card
    rows = lines_of(kitchen, snapshot)
    found = loaded(hub, done)
    assert found == {
        name: [row for row in rows if row["split"] == split]
        for name, split in (("train", "train"), ("test", "held-out"))
    }
    publish(hub, kitchen)
    text = hub.file("model", REPO, "README.md").decode()
    assert ModelCard(text).data.datasets == ["ann/frozen"]
    assert f"[ann/frozen]({hub.url}/datasets/ann/frozen/tree/snapshot-{snapshot[:12]})" in text


def lines_of(machine: Machine, snapshot: str) -> list[dict[str, Any]]:
    """The lines of frozen data as they are stored."""
    return [json.loads(line) for line in snapshot_content(machine.data_dir, snapshot).splitlines()]


def test_frozen_pairs_go_up_with_pseudonyms_and_what_was_left_out(hub: HubServer, machine: Machine) -> None:
    machine.add_prompts(8, 2)
    machine.judge("train", 8)
    machine.judge("train", 1, "tie")
    machine.judge("held-out", 2, by="bob")
    run = machine.submit(DPOSpec(scope="all"))
    machine.db.connection.execute("UPDATE annotator SET name = 'robert' WHERE name = 'bob'")
    snapshot = job_store.get(machine.db, run).spec.snapshot  # type: ignore[union-attr]
    found = loaded(hub, push_run(hub, machine, run, "ann/frozen"))
    names = {split: {name for row in rows for name in row["annotators"]} for split, rows in found.items()}
    assert names == {"train": {f"annotator-{machine.annotator.id}"}, "test": {"former-1"}}
    rows = [said(row) for row in lines_of(machine, snapshot)]
    assert [{**row, "annotators": []} for split in found.values() for row in split] == [
        {**row, "annotators": []} for row in sorted(rows, key=lambda row: row["split"] != "train")
    ]
    card = hub.file("dataset", "ann/frozen", "README.md").decode()
    for words in ("| tie | 1 |", "No two annotators judged the same comparison", f"Run {run}: dpo"):
        assert words in card
    push_run(hub, machine, run, "ann/named", names=True)
    content = hub.file("dataset", "ann/named", "data/held-out.jsonl")
    assert json.loads(content.splitlines()[0])["annotators"] == ["bob"]


@pytest.mark.parametrize("token", ["hf_write_ann"])
def test_frozen_data_that_can_not_be_pushed_makes_no_repository(
    hub: HubServer, kitchen: Machine, with_token: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(made(kitchen))
    merge = job_store.enqueue(kitchen.db, MergeSpec(revision=made(kitchen).revision), "ann")
    for number, more, sentence in (
        (merge, {}, "has no frozen data. Choose a training run"),
        (999, {}, "There is no job 999"),
        (run, {"names": True}, "names no annotator. Leave the names out"),
    ):
        with pytest.raises(UserError, match=sentence):
            push_run(hub, kitchen, number, "ann/frozen", **more)
    job_store.cancel(kitchen.db, merge)
    here = ("--data", str(kitchen.data_dir), "push-data", "ann/frozen", "--run", str(run))
    assert with_token(rlhf_commands.main, *here, "--annotator", "ann") == 2
    assert "leave --format and the filters out" in capsys.readouterr().err
    assert hub.repos == {}
    assert with_token(rlhf_commands.main, *here) == 0
    assert "Published ann/frozen, tag snapshot-" in capsys.readouterr().out


def test_demonstrations_go_up_to_be_imitated(hub: HubServer, machine: Machine) -> None:
    demonstrate(machine, train=3, held_out=1)
    push_dataset.push_data(client(hub), machine.db, ExportRequest("sft"), "ann/shown", private=False)
    assert not hub.repos["dataset", "ann/shown"].private
    rows = parquet(hub.file("dataset", "ann/shown", "data/train-00000-of-00001.parquet"))
    assert len(rows) == 3
    assert all(row["prompt"] and row["completion"] for row in rows)


def parquet(content: bytes) -> list[dict[str, Any]]:
    """The rows of a file."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (ExportRequest("raw"), "'raw' is no dataset"),
        (ExportRequest("preference", licence="X: y"), "is no licence as the Hub names them"),
        (ExportRequest("preference", filters=Filters(policies=("x",))), "There is no policy 'x' here"),
    ],
)
def test_data_that_can_not_be_published_makes_no_repository(
    hub: HubServer, kitchen: Machine, request_: ExportRequest, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        push_dataset.push_data(client(hub), kitchen.db, request_, "ann/data")
    assert hub.repos == {}


def test_data_comes_back_by_the_import_at_the_commit_that_was_named(
    hub: HubServer, kitchen: Machine, fresh: Database
) -> None:
    pushed = command(
        hub, "hf_write_ann", "rlhf", "--data", str(kitchen.data_dir), "push-data", "ann/data", "--format", "preference"
    )
    assert pushed.returncode == 0, pushed.stderr
    sha = hub.repos["dataset", "ann/data"].head.sha
    assert sha[:12] in pushed.stdout
    hub.repos["dataset", "ann/data"].tags["v1"] = sha
    hub.add_repo("dataset", "ann/data", {"data/train-00000-of-00001.parquet": b"something else"})
    here = ("import", "--data", str(fresh.path.parent), "--hub", "--source-split=train", "ann/data@v1")
    done = command(hub, "hf_read_ann", "annotation", *here)
    assert done.returncode == 0, done.stderr
    assert len(prompt_store.prompts(fresh, "train")) + len(prompt_store.prompts(fresh, "held-out")) == 4
    (entry,) = data_sources.imports(fresh)
    assert entry.name == f"ann/data@{sha}"


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("hf_write_bob", "Reading the dataset ann/data failed. There is no such repository, or the token may not see"),
        (None, "Reading the dataset ann/data failed. There is no such repository, or the token may not see"),
        ("hf_expired", "The Hub does not accept the token"),
    ],
)
def test_data_that_is_not_ours_to_see_has_a_sentence(
    hub: HubServer, fresh: Database, with_token: Typed, capsys: pytest.CaptureFixture[str], sentence: str
) -> None:
    hub.add_repo("dataset", "ann/data", {"train.jsonl": b'{"prompt": "x"}\n'}, private=True)
    code = with_token(annotation_commands.main, "import", "--data", str(fresh.path.parent), "--hub", "ann/data")
    said = capsys.readouterr().err
    assert code == 2
    assert sentence in said
    assert len(said.splitlines()) == 1


# -------------------------------------------------------------------------------------------------------- command line
@pytest.mark.parametrize(
    ("token", "arguments", "sentence"),
    [
        (None, ("publish", "base", REPO), "No token for the Hub is set"),
        ("hf_read_ann", ("publish", "base", REPO), "may only read"),
        ("hf_expired", ("push-data", REPO), "does not accept the token"),
        ("hf_write_bob", ("push-data", REPO), "no right to write to ann/numbers"),
        ("hf_write_ann", ("publish", "base", "numbers"), "can't be the name of a repository"),
        ("hf_write_ann", ("pull", "ann/nothing"), "There is no such repository"),
    ],
)
def test_a_mistake_is_one_sentence_without_the_token(
    hub: HubServer,
    tmp_path: Path,
    with_token: Typed,
    capsys: pytest.CaptureFixture[str],
    token: str | None,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    db = new_database(tmp_path / "data")
    registry.ensure_base(db, "SmolLM2-135M-Instruct")
    access.add_account(db, "ann", "annotator", "a long enough password")
    db.close()
    code = with_token(rlhf_commands.main, "--data", str(tmp_path / "data"), *arguments)
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1
    assert token is None or token not in said.err
    assert hub.repos == {}


def test_an_address_is_written_as_code() -> None:
    assert Address("ann/x").arguments == '"ann/x"'
    assert Address("ann/x", "dpo-7").arguments == '"ann/x", revision="dpo-7"'
