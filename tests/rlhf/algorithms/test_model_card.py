"""Cards of what was trained: their code loads it elsewhere and computes the same, and they hold no path of here.

Those in a policy's directory expect that directory beside them; those that are published load it from the Hub.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from annotation import hub_client as hubs
from annotation.records import Sampling
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.ppo.roles import SampledResponse, load_roles
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.hub import push_model
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.job_spec import JobSpec
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.chat_template import SETTINGS_FILE
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.registry import Policy
from rlhf.models.stored_reward_model import read_reward_model
from tests.demonstrations import demonstrate
from tests.fakes.hub_server import HubServer
from tests.machine_fixtures import PATIENCE_SECONDS, Machine, make_machine

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"epochs": 1, "lora_r": 4, "lora_alpha": 8, "samples": 0, "precision": "fp32"}
SFT = SFTSpec(**SMALL, method="lora", batch_size=4, learning_rate=2e-2, virtual_tokens=4)
REWARD = RewardModelSpec(**SMALL, method="lora", learning_rate=5e-3)
PPO = PPOSpec(
    **SMALL,
    method="lora",
    parent="base",
    steps=2,
    rollouts=4,
    batch_size=2,
    learning_rate=1e-2,
    accepted_accuracy=0.01,
    sampling=Sampling(min_p=0.0, max_new_tokens=8),
    check=False,
)


@dataclass
class Shelf:
    """A machine with a policy of each kind, by a name of its own."""

    machine: Machine
    made: dict[str, Policy]
    served: dict[str, torch.Tensor] = field(default_factory=dict)
    """What was computed here already, by revision: loading each policy takes longer than all the rest."""

    def computed_here(self, revision: str) -> torch.Tensor:
        """What a policy that serves here computes on the probe."""
        if revision not in self.served:
            models = LoadedPolicies(self.machine.db, self.machine.data_dir, self.machine.model)
            policy = registry.by_revision(self.machine.db, revision)
            self.served[revision] = logps(models.use(policy), probe(self.machine))
        return self.served[revision]

    def make(self, name: str, spec: JobSpec) -> None:
        """Run a job and keep what it makes."""
        job = self.machine.perform(self.machine.submit(spec))
        assert job.status == "finished", job.message
        policy = registry.of_job(self.machine.db, job.id)
        assert policy is not None
        self.made[name] = policy

    def directory(self, name: str) -> Path:
        """Where a policy's files are."""
        return self.machine.data_dir / str(self.made[name].path)

    def card(self, name: str) -> str:
        """A policy's card."""
        return (self.directory(name) / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Shelf]:
    """One of each kind, on a base whose template ends answers with another token than texts end with, as Gemma's."""
    model = shutil.copytree(tiny_model, tmp_path_factory.mktemp("shelf") / "model")
    settings = json.loads((model / SETTINGS_FILE).read_text("utf-8"))
    (model / SETTINGS_FILE).write_text(json.dumps(settings | {"eos_token": "<|endoftext|>"}), "utf-8")
    machine = make_machine(model.parent / "data", model)
    demonstrate(machine, train=10, held_out=8)
    machine.judge("train", 10)
    machine.judge("held-out", 8)
    found = Shelf(machine, {})
    found.make("lora", SFT)
    found.make("4-bit", replace(SFT, method="qlora", precision="bf16"))
    found.make("prompt", replace(SFT, method="prompt", virtual_text="Two\n```\nlines | and a bar"))
    found.make("full", replace(SFT, method="full", learning_rate=1e-2))
    on_full = DPOSpec(**SMALL, method="lora", parent=found.made["full"].revision, scope="all", check=False)
    found.make("on full", replace(on_full, learning_rate=1e-2))
    found.make("merged", MergeSpec(revision=found.made["on full"].revision))
    found.make("reward", REWARD)
    found.make("4-bit reward", replace(REWARD, method="qlora", precision="bf16"))
    found.make("ppo", replace(PPO, reward_model=found.made["reward"].revision))
    yield found
    machine.db.close()


NAMES = ("lora", "4-bit", "prompt", "full", "on full", "merged", "reward", "4-bit reward", "ppo")


def taken_elsewhere(shelf: Shelf, name: str, place: Path) -> dict[str, Any]:
    """What the card's own code comes to, in a directory that holds only what the card asks for, by its name."""
    text = shelf.card(name)
    base = shelf.machine.model.name
    for wanted in {policy.revision for policy in shelf.made.values() if f'"{policy.revision}"' in text}:
        policy = registry.by_revision(shelf.machine.db, wanted)
        shutil.copytree(shelf.machine.data_dir / str(policy.path), place / wanted)
    if f'from_pretrained("{base}"' in text:
        (place / base).symlink_to(shelf.machine.model)
    (code,) = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    found: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, found)
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if "reward" not in name])
def test_the_cards_own_code_loads_the_policy_elsewhere(
    shelf: Shelf, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = taken_elsewhere(shelf, name, tmp_path)
    computes_as(shelf, name, logps(found["model"], probe(shelf.machine)))


def probe(machine: Machine) -> torch.Tensor:
    """Tokens to compare models on."""
    text = machine.render([{"role": "user", "content": "Sing."}]) + "sun rain"
    return torch.as_tensor(machine.tokenizer(text, return_tensors="pt")["input_ids"])


def logps(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities at each place, virtual tokens before them left out."""
    with torch.no_grad():
        logits = model(input_ids=ids.to(model.device)).logits[0, -ids.shape[1] :]
    return torch.as_tensor(logits).float().cpu().log_softmax(-1)


def computes_as(shelf: Shelf, name: str, found: torch.Tensor) -> None:
    """Whether what was loaded elsewhere computes as the policy that serves here, and not as the base."""
    policy = shelf.made[name]
    served = shelf.computed_here(policy.revision)
    others = [found, shelf.computed_here("base")]
    distances = [float((served.exp() * (served - other)).sum(-1).mean()) for other in others]
    assert distances[0] < (1e-6 if policy.precision == "fp32" else 2e-3)
    assert distances[1] > max(0.02, 10 * distances[0]), "it does nothing, so the comparison would prove nothing"


@pytest.mark.parametrize("name", ["reward", "4-bit reward"])
def test_the_cards_own_code_scores_an_answer_as_ppo_does(
    shelf: Shelf, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = taken_elsewhere(shelf, name, tmp_path)
    scores_as_ppo(shelf, name, found["score"])


def scores_as_ppo(shelf: Shelf, name: str, found: float) -> None:
    """Whether a score is the one that PPO would give."""
    machine, revision = shelf.machine, shelf.made[name].revision
    spec = replace(PPO, method="qlora", precision="bf16") if name == "4-bit reward" else PPO
    worker = uuid.uuid4().hex
    job = job_store.claim(machine.db, job_store.enqueue(machine.db, spec, "a test"), worker)
    assert job is not None
    stored = read_reward_model(Run(machine.db, machine.data_dir, job, worker), revision)
    roles = load_roles(spec, machine.start(), stored, machine.tokenizer.pad_token_id)
    prompt = machine.render([{"role": "user", "content": "What is a good breakfast?"}])
    ids = [machine.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, "Porridge.")]
    with torch.no_grad():
        score = roles.score(
            [SampledResponse(tuple(ids[0]), (*ids[1], machine.tokenizer.eos_token_id), "", True)]
        ).item()
    assert found == pytest.approx(score, abs=1e-4 if spec.precision == "fp32" else 0.05)
    job_store.cancel(machine.db, job.id)


@pytest.mark.parametrize("name", NAMES)
def test_no_file_says_where_anything_lies_on_this_machine(shelf: Shelf, name: str) -> None:
    files = [path for path in shelf.directory(name).rglob("*") if path.is_file()]
    assert {"README.md", "prefloop.json"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for place in (shelf.machine.data_dir, shelf.machine.model.parent):
            assert str(place).encode() not in content, path.name
    assert directory_sha256(shelf.directory(name)) == shelf.made[name].sha256


def test_a_card_says_what_it_was_made_from(shelf: Shelf) -> None:
    lora, base = shelf.card("lora"), shelf.machine.model.name
    job = job_store.get(shelf.machine.db, int(shelf.made["lora"].job_id or 0))
    assert isinstance(job.spec, SFTSpec)
    for line in (
        f"| base model | `{base}` |",
        "| by | supervised fine-tuning |",
        "| what was trained | low-rank adapters (LoRA) |",
        "| data | 10 demonstrations, 8 held out |",
        f"| sha256 of the data | `{job.spec.snapshot}` |",
        "| seed | 0 |",
        '      "learning_rate": 0.02,',
    ):
        assert f"\n{line}" in lora, line
    loss = (job.result or {})["held_out"]["loss"]
    assert f"| loss, nats a token, on 8 held-out demonstrations | {loss:.3f}" in lora
    assert re.search(r"\| right on 8 held-out comparisons \(95% interval\) \| \d+% \(", shelf.card("reward"))
    assert "| KL to the reference, nats an answer, at the last step of training |" in shelf.card("ppo")
    full = shelf.made["full"].revision
    assert f"It needs the weights of `{full}`" in shelf.card("on full")
    merged = shelf.card("merged")
    assert (
        f"| merged from | `{shelf.made['on full'].revision}` |\n| its sha256 | `{shelf.made['on full'].sha256}` |"
        in merged
    )
    assert "| it was trained by | direct preference optimisation |" in merged
    assert "rounding to bfloat16" in merged


@pytest.mark.parametrize("name", NAMES)
def test_the_hub_can_read_a_card(shelf: Shelf, name: str) -> None:
    data = ModelCard(shelf.card(name)).data
    assert data.base_model == shelf.machine.model.name
    assert data.library_name == ("transformers" if name in ("full", "merged") else "peft")
    assert data.pipeline_tag == ("text-classification" if "reward" in name else "text-generation")
    assert "prefloop" in (data.tags or [])


# ----------------------------------------------------------------------------------------------------------- published
REPO = "ann/breakfast"
# What somebody else does with the cards: a fresh process, which has the Hub and the base and nothing else of ours.
ELSEWHERE = """
import json
import torch
with open("asked.json") as file:
    asked = json.load(file)
kept, ids = {}, torch.tensor(asked["ids"])
for name, code in asked["code"].items():
    found = {}
    exec(code, found)
    if "score" in found:
        kept[name] = torch.tensor(found["score"])
        continue
    with torch.no_grad():
        logits = found["model"](input_ids=ids.to(found["model"].device)).logits[0, -ids.shape[1]:]
    kept[name] = logits.float().cpu().log_softmax(-1)
torch.save(kept, "kept.pt")
"""


@dataclass
class Stall:
    """The shelf's policies on a Hub, one tag each, and what their cards' code comes to in a fresh process."""

    hub: HubServer
    shelf: Shelf
    kept: dict[str, torch.Tensor]

    def card(self, name: str) -> str:
        """A published card."""
        return self.hub.file("model", REPO, "README.md", self.shelf.made[name].revision).decode()


@pytest.fixture(scope="module")
def stall(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stall]:
    """All of them, published and tried."""
    place, machine = tmp_path_factory.mktemp("elsewhere"), shelf.machine
    with HubServer() as hub:
        client = hubs.connect("hf_write_ann", hub.url)
        for policy in shelf.made.values():
            push_model.publish(client, machine.db, machine.data_dir, policy.revision, REPO, licence="apache-2.0")
        found = Stall(hub, shelf, {})
        code = {name: re.findall(r"```python\n(.*?)\n```", found.card(name), re.DOTALL)[0] for name in NAMES}
        (place / "asked.json").write_text(json.dumps({"ids": probe(machine).tolist(), "code": code}), "utf-8")
        (place / machine.model.name).symlink_to(machine.model)
        (place / "elsewhere.py").write_text(ELSEWHERE, "utf-8")
        done = subprocess.run(
            [sys.executable, "elsewhere.py"],
            cwd=place,
            env={**os.environ, **hub.environment("hf_read_ann")},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.kept.update(torch.load(place / "kept.pt"))
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_the_published_cards_own_code_computes_the_same_in_a_fresh_process(stall: Stall, name: str) -> None:
    if "reward" in name:
        scores_as_ppo(stall.shelf, name, float(stall.kept[name]))
    else:
        computes_as(stall.shelf, name, stall.kept[name])


@pytest.mark.parametrize("name", NAMES)
def test_only_named_files_go_up_and_nothing_private_is_in_them(stall: Stall, name: str) -> None:
    policy = stall.shelf.made[name]
    files = stall.hub.files("model", REPO, policy.revision)
    if policy.form == "full":
        assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
        assert "adapter_config.json" not in files, "those of another tag are gone"
    else:
        scale = {"reward.json"} if policy.kind == "reward-model" else set()
        assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"} | scale
    assert not {"prefloop.json", "training_args.bin", "optimizer.pt"} & set(files)
    machine = stall.shelf.machine
    for path, content in files.items():
        for private in (str(machine.data_dir), str(machine.model.parent), str(Path.home()), "hf_write_ann"):
            assert private.encode() not in content, path
    assert directory_sha256(stall.shelf.directory(name)) == policy.sha256, "what serves here is as it was"


@pytest.mark.parametrize("name", NAMES)
def test_the_hub_can_read_a_published_card(stall: Stall, name: str) -> None:
    data = ModelCard(stall.card(name)).data
    assert data.license == "apache-2.0"
    # A base in a directory has no name on the Hub.
    assert data.base_model == (REPO if name == "on full" else None)
    for word in ("precision", "weights"):  # the second is read by earlier versions
        assert data.to_dict()["prefloop"][word] == stall.shelf.made[name].precision


def test_a_published_card_says_what_it_grew_from(stall: Stall) -> None:
    made, text = stall.shelf.made, stall.card("on full")
    full = made["full"]
    assert f"| `{full.revision}` | sft | `{full.sha256}` | {REPO}@{full.revision} |" in text
    assert f'from_pretrained("{REPO}", revision="{full.revision}"' in text
    assert f"It needs the weights of `{REPO}`, not the base's: the code loads those." in text
    assert "This model's: `apache-2.0`." in text
    assert "It was not compared with the base" in text
    assert "so agreement is not known" in text
    assert "agreement is not known" not in stall.card("lora"), "nobody judged demonstrations"
