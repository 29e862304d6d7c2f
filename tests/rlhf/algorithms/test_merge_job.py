"""Merging: the weights by hand, what the merged policy answers and how it goes on, refusals, killed and cancelled."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from annotation.database import Database
from annotation.records import Sampling, UserError
from rlhf.algorithms import merge_job
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.algorithms.trainer import RESULT
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.run import Run, perform
from rlhf.models import decision_store, registry
from rlhf.models.hidden_states import random_ids
from rlhf.models.loading.adapter_loading import adapter_config
from rlhf.models.loading.base_weights import load_plain
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.sampling.drawing import draw
from rlhf.submission import job_submission
from rlhf.submission.preconditions import merge_problem
from tests.architectures import built
from tests.demonstrations import demonstrate
from tests.machine_fixtures import Machine, make_machine

pytestmark = pytest.mark.slow

# Large steps: the adapter must change more than rounding does.
QUICK = SFTSpec(
    method="lora",
    epochs=2,
    batch_size=4,
    learning_rate=2e-2,
    lora_r=4,
    lora_alpha=8,
    virtual_tokens=4,
    precision="bf16",
    samples=0,
)


@pytest.fixture
def taught(machine: Machine) -> Machine:
    """Eight demonstrations to train on and two held-out ones."""
    demonstrate(machine, train=8, held_out=2)
    return machine


def made(machine: Machine, spec: SFTSpec | DPOSpec | MergeSpec) -> registry.Policy:
    """The policy that a job makes."""
    job = machine.perform(machine.submit(spec))
    assert job.status == "finished", job.message
    policy = registry.of_job(machine.db, job.id)
    assert policy is not None
    return policy


def files(machine: Machine, policy: registry.Policy) -> Path:
    """Where a policy's files are."""
    return machine.data_dir / str(policy.path)


def logps(machine: Machine, model: Any) -> torch.Tensor:
    """The log-probabilities of every next token of a text, (T, V)."""
    ids = machine.tokenizer(machine.render([{"role": "user", "content": "Sing."}]) + "sun rain", return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids["input_ids"]).logits[0].float().log_softmax(-1)
    return found


def mean_kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """KL(p || q) a token, in nats."""
    return float((p.exp() * (p - q)).sum(-1).mean())


# --------------------------------------------------------------------------------------------------------- the weights
def by_hand(adapter: Path, name: str, weight: torch.Tensor) -> torch.Tensor:
    """A merged weight in float32, from the files of the adapter."""
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    stored = load_file(adapter / "adapter_model.safetensors")
    prefix = "base_model.model." + name.removesuffix(".weight")
    if f"{prefix}.lora_A.weight" not in stored:
        return weight
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    moved: torch.Tensor = weight.float() + scale * (
        stored[f"{prefix}.lora_B.weight"] @ stored[f"{prefix}.lora_A.weight"]
    )
    if config["use_dora"]:  # Liu et al. 2024, equation 5: a magnitude for each output, here each row
        moved = stored[f"{prefix}.lora_magnitude_vector"][:, None] * moved / moved.norm(dim=1, keepdim=True)
    return moved


VARIANTS: list[dict[str, Any]] = [
    {"method": "lora"},
    {"method": "lora", "precision": "fp32", "dora": True},
    {"method": "lora", "lora_init": "pissa", "rslora": True},
    {"method": "qlora", "lora_targets": "attention"},
]


@dataclass
class Pair:
    """An adapter and what it was merged into."""

    machine: Machine
    adapter: registry.Policy
    merged: registry.Policy
    variant: dict[str, Any]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Pair]:
    """An adapter of each variant, merged."""
    machine = make_machine(tmp_path_factory.mktemp("pair") / "data", tiny_model)
    demonstrate(machine, train=8, held_out=2)
    adapter = made(machine, replace(QUICK, **request.param))
    yield Pair(machine, adapter, made(machine, MergeSpec(revision=adapter.revision)), request.param)
    machine.db.close()


def test_merged_weights_are_the_plain_ones_and_the_change_rounded_once(pair: Pair) -> None:
    machine, adapter, merged = pair.machine, pair.adapter, pair.merged
    assert (merged.kind, merged.form, merged.precision, merged.ground_id) == ("policy", "full", "bf16", None)
    assert (merged.parent_id, merged.status, merged.algorithm) == (adapter.id, "candidate", "merge")
    assert merged.sha256 == directory_sha256(files(machine, merged))

    plain, stored = (
        load_file(machine.model / "model.safetensors"),
        load_file(files(machine, merged) / "model.safetensors"),
    )
    assert plain.keys() == stored.keys()
    changed, change, error = 0, 0.0, 0.0
    for name, weight in plain.items():
        exact = by_hand(files(machine, adapter), name, weight)
        assert stored[name].dtype == torch.bfloat16
        # A sum in another order may fall on the other side of a rounding.
        torch.testing.assert_close(stored[name], exact.bfloat16(), rtol=2**-7, atol=1e-6)
        assert (stored[name] == exact.bfloat16()).float().mean() > 0.999
        changed += not torch.equal(stored[name], weight)
        change += float((exact.float() - weight.float()).square().sum())
        error += float((stored[name].float() - exact.float()).square().sum())
    assert changed == (8 if "lora_targets" in pair.variant else 14)

    about = json.loads((files(machine, merged) / RESULT).read_text("utf-8"))
    assert (about["merged"], about["adapter_sha256"], about["ground"]) == (adapter.revision, adapter.sha256, "base")
    assert about["rounding"] == pytest.approx((error / change) ** 0.5, rel=1e-3)
    assert about["checkpoint_bytes"] > sum(weight.numel() for weight in plain.values()) * 2


def test_the_merged_policy_answers_as_the_adapter_on_plain_weights(pair: Pair) -> None:
    machine, adapter, merged = pair.machine, pair.adapter, pair.merged
    exact = PeftModel.from_pretrained(load_plain(machine.model, torch.float32), files(machine, adapter)).eval()
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    served = logps(machine, models.use(merged))
    base = logps(machine, load_plain(machine.model, torch.float32).eval())
    assert mean_kl(logps(machine, exact), served) < 2e-3
    assert mean_kl(base, served) > 0.1, "the adapter does nothing, so the comparison would prove nothing"
    if adapter.precision != "nf4":
        assert mean_kl(logps(machine, models.use(adapter)), served) < 2e-3
    in_float32 = logps(machine, load_plain(files(machine, merged), torch.float32).eval())
    assert mean_kl(logps(machine, exact), in_float32) < 2e-4, "rounded weights, computed with exactly"


def test_an_adapter_on_fully_trained_weights_is_merged_into_those(taught: Machine) -> None:
    full = made(taught, replace(QUICK, method="full", precision="fp32", learning_rate=2e-3))
    adapter = made(taught, replace(QUICK, parent=full.revision))
    merged = made(taught, MergeSpec(revision=adapter.revision))
    plain, stored = (load_file(files(taught, policy) / "model.safetensors") for policy in (full, merged))
    for name, weight in plain.items():
        exact = by_hand(files(taught, adapter), name, weight)
        torch.testing.assert_close(stored[name], exact.bfloat16(), rtol=2**-7, atol=1e-6)
    about = json.loads((files(taught, merged) / RESULT).read_text("utf-8"))
    assert about["ground"] == full.revision
    job_submission.delete_policy(taught.db, taught.data_dir, adapter.revision, "a test")
    job_submission.delete_policy(taught.db, taught.data_dir, full.revision, "a test")
    logps(taught, LoadedPolicies(taught.db, taught.data_dir, taught.model).use(merged))  # it needs neither of them


# ------------------------------------------------------------------------------------------------------- how it goes on
def test_a_merged_policy_serves_and_is_trained_on(taught: Machine) -> None:
    adapter = made(taught, QUICK)
    merged = made(taught, MergeSpec(revision=adapter.revision))
    registry.verify(taught.data_dir, merged)
    assert decision_store.promote(taught.db, merged.revision, "a test").status == "serving"
    models = LoadedPolicies(taught.db, taught.data_dir, taught.model)
    text = taught.render([{"role": "user", "content": "Sing."}])
    drawn = draw(models.use(merged), models.tokenizer, [text], [[1, 2]], Sampling(1.0, 0.0, 8))[0]
    assert [answer.tokens > 0 for answer in drawn] == [True, True]

    taught.judge("train", 8)
    for method in ("lora", "qlora"):
        spec = DPOSpec(method=method, epochs=1, lora_r=4, lora_alpha=8, samples=0, scope="all", check=False)
        trained = made(taught, spec)
        assert (trained.parent_id, trained.ground_id) == (merged.id, merged.id)
        shift = mean_kl(logps(taught, models.use(merged)), logps(taught, models.use(trained)))
        far = mean_kl(
            logps(taught, models.use(registry.by_revision(taught.db, "base"))), logps(taught, models.use(trained))
        )
        assert shift < far / 2, "it lies on the merged weights"
    full = made(taught, replace(QUICK, method="full", parent=merged.revision, learning_rate=1e-4))
    assert full.parent_id == merged.id


def test_what_is_no_lora_adapter_is_refused_with_the_reason(taught: Machine) -> None:
    prompt = made(taught, replace(QUICK, method="prompt", epochs=1))
    lora = made(taught, replace(QUICK, epochs=1))
    merged = made(taught, MergeSpec(revision=lora.revision))
    reward = registry.add(
        taught.db,
        revision="reward-model-9",
        algorithm="reward_model",
        base=lora.base,
        parent_id=1,
        job_id=int(lora.job_id or 0),
        path="adapters/reward-model-9",
        sha256="",
        kind="reward-model",
    )
    for policy, reason in (
        (prompt, "virtual tokens before the prompt, which change no weight"),
        (merged, "whole weights already"),
        (reward, "is a reward model"),
        (registry.by_revision(taught.db, "base"), "has no adapter"),
    ):
        with pytest.raises(UserError, match=reason):
            taught.submit(MergeSpec(revision=policy.revision))
    with pytest.raises(UserError, match="no policy 'nothing'"):
        taught.submit(MergeSpec(revision="nothing"))


@pytest.mark.parametrize(
    ("config", "tied", "named"),
    [
        ({"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, False, ""),
        ({"target_modules": ["q_proj", "embed_tokens"]}, True, "embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, True, "lm_head"),
        ({"trainable_token_indices": [5]}, False, "trainable_token_indices"),
        ({"lora_bias": True}, False, "lora_bias"),
    ],
)
def test_an_adapter_that_would_answer_otherwise_once_it_is_merged_is_refused(
    db: Database, tmp_path: Path, config: dict[str, Any], tied: bool, named: str
) -> None:
    base = built("llama", tie_word_embeddings=tied)
    base.save_pretrained(tmp_path / "base")
    files = db.path.parent / "adapters" / "from-elsewhere"
    settings: dict[str, Any] = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(base, LoraConfig(**settings)).save_pretrained(files)
    db.write("UPDATE model SET base = ?", (str(tmp_path / "base"),))
    policy = registry.add(
        db,
        revision="from-elsewhere",
        algorithm="pulled",
        base=str(tmp_path / "base"),
        parent_id=1,
        job_id=None,
        path="adapters/from-elsewhere",
        sha256="",
        kind="policy",
        form="lora",
        precision="bf16",
        source="a/b@c",
    )
    said = f"from-elsewhere changes what can't be merged into weights ({named}), so it stays an adapter."
    assert merge_problem(db, policy) == (said if named else "")


class Silent(Run):
    """A run of no job."""

    def __init__(self) -> None:
        pass

    def report(self, *_: Any, **__: Any) -> None:
        """Nobody asks."""

    def raise_if_stopped(self) -> None:
        """Nobody stops it."""


@pytest.mark.filterwarnings("ignore:.*did not match any targeted module:RuntimeWarning")
def test_experts_that_are_held_together_are_merged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = built("qwen3_moe")
    model.save_pretrained(tmp_path / "base")
    ids = torch.tensor(random_ids(model, (12,)))
    plain = model(ids).logits.detach()
    adapted = get_peft_model(model, adapter_config(DPOSpec(method="lora", lora_r=4), tmp_path))
    with torch.no_grad():
        for value in adapted.parameters():
            value += 0.1 * value.requires_grad * torch.randn_like(value)
    adapted.eval().save_pretrained(tmp_path / "adapter")
    merged, _ = merge_job.merged(tmp_path / "base", tmp_path / "adapter", Silent())
    expected, found = adapted(ids).logits, merged.float().eval()(ids).logits
    assert (found - expected).norm() < 0.05 * (plain - expected).norm()


def test_adapters_of_layers_that_share_their_weights_are_not_merged(tmp_path: Path) -> None:
    """A Zamba's attention is one for several layers; the sum of their changes would be in each of them."""
    sizes = {"num_hidden_layers": 4, "layer_types": ["mamba", "hybrid"] * 2, "mamba_d_state": 8, "mamba_dt_rank": 4}
    sizes |= {"n_mamba_heads": 2, "attention_hidden_size": 64, "attention_head_dim": 16, "use_mamba_kernels": False}
    model = built("zamba", **sizes)
    model.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, adapter_config(DPOSpec(method="lora", lora_r=4), tmp_path / "base"))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="adapter can't be merged: layers of this model share weights"):
        merge_job.merged(tmp_path / "base", tmp_path / "adapter", Silent())


def test_an_adapter_that_was_deleted_or_damaged_meanwhile_fails_the_job(taught: Machine) -> None:
    adapter = made(taught, replace(QUICK, epochs=1))
    first = taught.submit(MergeSpec(revision=adapter.revision))
    weights = files(taught, adapter) / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    job = taught.perform(first)
    assert (job.status, "sha256 differs" in job.message) == ("failed", True)
    weights.write_bytes(content)
    job_store.resume(taught.db, first)
    with pytest.raises(UserError, match=f"Job {first} needs {adapter.revision}"):
        job_submission.delete_policy(taught.db, taught.data_dir, adapter.revision, "a test")
    job_store.cancel(taught.db, first)
    job_submission.delete_policy(taught.db, taught.data_dir, adapter.revision, "a test")
    job_store.resume(taught.db, first)
    job = taught.perform(first)
    assert (job.status, "were deleted" in job.message) == ("failed", True)
    assert registry.of_job(taught.db, first) is None


# ---------------------------------------------------------------------------------------------------- killed, cancelled
def kept(machine: Machine) -> set[str]:
    """The directories of policies on disk."""
    return {path.name for path in (machine.data_dir / "adapters").iterdir()}


def test_a_worker_killed_while_it_merges_leaves_nothing_and_the_next_one_a_single_policy(taught: Machine) -> None:
    adapter = made(taught, replace(QUICK, epochs=1))
    job_id = taught.submit(MergeSpec(revision=adapter.revision))
    taught.kill_worker(job_id, 7)
    assert kept(taught) == {adapter.revision}
    job_store.resume(taught.db, job_id)
    job = taught.perform(job_id)
    assert (job.status, job.attempt) == ("finished", 2)
    assert kept(taught) == {adapter.revision, (job.result or {})["revision"]}
    assert [policy.algorithm for policy in registry.all_policies(taught.db)] == ["base", "sft", "merge"]


@pytest.mark.parametrize("registered", [True, False])
def test_a_worker_killed_at_the_end_is_resumed_to_the_same_policy(taught: Machine, registered: bool) -> None:
    """Killed after the files have their name, before or after their row is there."""
    adapter = made(taught, replace(QUICK, epochs=1))
    job = taught.perform(taught.submit(MergeSpec(revision=adapter.revision)))
    merged = registry.of_job(taught.db, job.id)
    with taught.db.transaction() as connection:  # the rows as the killed worker left them
        connection.execute("UPDATE job SET status = 'lost', result = NULL WHERE id = ?", (job.id,))
        if not registered:
            connection.execute("DELETE FROM model WHERE job_id = ?", (job.id,))
    job_store.resume(taught.db, job.id)
    again = taught.perform(job.id)
    assert again.status == "finished"
    assert {**(again.result or {}), "seconds": 0} == {**(job.result or {}), "seconds": 0}
    found = registry.of_job(taught.db, job.id)
    assert merged is not None
    assert found is not None
    assert (found.sha256, found.path) == (merged.sha256, merged.path)
    assert [policy.algorithm for policy in registry.all_policies(taught.db)] == ["base", "sft", "merge"]


class CancelledAtLayer7(Run):
    """A worker whose job is cancelled, by somebody, while it merges."""

    def report(self, step: int, steps: int, metrics: Mapping[str, float], message: str = "") -> None:
        if step == 7:
            job_store.cancel(self.db, self.job_id)
        super().report(step, steps, metrics, message)


def test_a_cancelled_merge_leaves_nothing(taught: Machine) -> None:
    adapter = made(taught, replace(QUICK, epochs=1))
    job_id = taught.submit(MergeSpec(revision=adapter.revision))
    claimed = job_store.claim(taught.db, job_id, "somebody")
    assert claimed is not None
    perform(CancelledAtLayer7(taught.db, taught.data_dir, claimed, "somebody"), claimed.spec)
    job = job_store.get(taught.db, job_id)
    assert (job.status, job.step, job.steps) == ("cancelled", 7, 14)
    assert kept(taught) == {adapter.revision}
    assert registry.of_job(taught.db, job_id) is None
