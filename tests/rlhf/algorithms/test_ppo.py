"""PPO on a tiny real model: it learns, its first ratio is 1, each role is what it says, and it can be broken off."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from annotation.records import Sampling, UserError
from annotation.store import prompt_store
from rlhf.algorithms.checkpoints import MANIFEST, STATE, WEIGHTS, checkpoints_of
from rlhf.algorithms.ppo import train as ppo
from rlhf.algorithms.ppo.roles import SampledResponse, load_roles
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.ppo.train import Learner, Rollouts, Score, minibatch, prompt_of, read_data, seed_of, targets
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.job_spec import Method, Precision
from rlhf.jobs.run import Run, perform
from rlhf.models import hidden_states, registry
from rlhf.models.loading.base_weights import held_precision
from rlhf.models.sampling.drawing import end_token_ids
from rlhf.models.stored_reward_model import read_reward_model
from rlhf.tabs.runs.curves import plots_of
from rlhf.workers.worker_process import worker_command
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, Machine, make_machine

pytestmark = pytest.mark.slow

QUICK = PPOSpec(
    parent="base",
    reward_model="reward",
    method="lora",
    precision="fp32",
    steps=3,
    rollouts=8,
    batch_size=4,
    learning_rate=3e-3,
    lora_r=4,
    lora_alpha=8,
    max_length=256,
    checkpoint_steps=1,
    samples=0,
    accepted_accuracy=0.01,
    sampling=Sampling(temperature=0.8, min_p=0.0, max_new_tokens=16),
    check=False,
)
METHOD_AND_PRECISION = list(product(PPOSpec.methods, ("bf16", "fp32")))
# Whatever the form offers of adapters.
VARIANTS: list[dict[str, Any]] = [
    *({"method": method, "precision": precision} for method, precision in METHOD_AND_PRECISION),
    {"method": "qlora", "precision": "bf16", "dora": True},
    {"method": "lora", "precision": "fp32", "dora": True, "rslora": True},
    {"method": "qlora", "precision": "bf16", "rslora": True},
]
MEAN, STD = 0.25, 0.5


@pytest.fixture(scope="module")
def ready_once(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Machine]:
    """A machine with prompts and a reward model on full-precision weights."""
    machine = make_machine(tmp_path_factory.mktemp("ready") / "data", tiny_model)
    machine.add_prompts(train=12, held_out=2)
    add_reward_model(machine, QUICK)
    yield machine
    machine.db.close()


@pytest.fixture
def ready(ready_once: Machine, tmp_path: Path) -> Iterator[Machine]:
    """A data directory like it, for one test."""
    machine = ready_once.copied(tmp_path / "data")
    yield machine
    machine.db.close()


def add_reward_model(machine: Machine, spec: PPOSpec) -> None:
    """Register the reward model 'reward' for a job like this one, as a standard PEFT directory: random, and it acts."""
    torch.manual_seed(11)
    base = AutoModelForSequenceClassification.from_pretrained(machine.model, num_labels=1, dtype=torch.float32)
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=2,
        lora_alpha=8,
        target_modules="all-linear",
        init_lora_weights=False,
        use_dora=spec.dora,
        use_rslora=spec.rslora,
    )
    directory = machine.data_dir / "adapters" / "reward"
    get_peft_model(base, lora).save_pretrained(directory)
    (directory / "reward.json").write_text(json.dumps({"mean": MEAN, "std": STD}), "utf-8")
    trained = RewardModelSpec(method=spec.method, precision=spec.precision)
    job_id = job_store.enqueue(machine.db, trained, "a test")
    job_store.cancel(machine.db, job_id)
    registry.add(
        machine.db,
        revision="reward",
        algorithm="reward_model",
        base=str(machine.model),
        parent_id=registry.by_revision(machine.db, "base").id,
        job_id=job_id,
        path="adapters/reward",
        sha256=directory_sha256(directory),
        kind="reward-model",
        precision=held_precision(trained),
    )


def begin(machine: Machine, spec: PPOSpec, job_id: int | None = None, run_type: type[Run] = Run) -> Run:
    """Claim a job (a new one unless an id is given) as a worker does."""
    worker = uuid.uuid4().hex
    job = job_store.claim(machine.db, job_id or machine.submit(spec), worker)
    assert job is not None
    return run_type(machine.db, machine.data_dir, job, worker)


def spec_of(run: Run) -> PPOSpec:
    """The job's frozen spec."""
    spec = job_store.get(run.db, run.job_id).spec
    assert isinstance(spec, PPOSpec)
    return spec


def learner_of(machine: Machine, spec: PPOSpec, score: Score | None = None, run: Run | None = None) -> Learner:
    """The loop as the job builds it, or with a reward of our own instead of a reward model."""
    run = run or begin(machine, spec)
    spec = spec_of(run)
    reward_model = None if score else read_reward_model(run, spec.reward_model)
    roles = load_roles(spec, machine.start(spec.parent), reward_model, machine.tokenizer.pad_token_id)
    data = read_data(run, spec, machine.tokenizer)
    return Learner(run, spec, roles, machine.tokenizer, data.items, score or roles.score)


def weights_now(learner: Learner) -> dict[str, Tensor]:
    """What is trained, as it is now."""
    return {name: value.detach().clone() for own in learner.trained.values() for name, value in own.items()}


def length_near(target: int) -> Score:
    """A reward of our own: the nearer an answer's length is to the target, the better."""
    return lambda answers: torch.tensor([-abs(len(answer.ids) - target) / 8 for answer in answers])


# ----------------------------------------------------------------------------------------------------------- learning
def test_a_programmatic_reward_rises_and_the_kl_stays_under_its_target(ready: Machine) -> None:
    """Answers of about 20 tokens, the cut-off ones included, come down to about the wished 8."""
    spec = replace(
        QUICK,
        seed=0,
        steps=7,
        checkpoint_steps=99,
        rollouts=24,
        batch_size=24,
        epochs=3,
        learning_rate=1e-2,
        kl_target=4.0,
        sampling=Sampling(temperature=1.0, min_p=0.0, max_new_tokens=24),
    )
    learner = learner_of(ready, spec, length_near(8))
    learner.learn()
    curve = job_store.metrics(ready.db, learner.run.job_id)
    assert len(curve) == 7
    rewards, lengths = ([entry[name] for entry in curve] for name in ("reward", "length"))
    assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.6
    assert 3 < sum(lengths[-3:]) / 3 < 13 < sum(lengths[:2]) / 2
    assert all(entry["kl"] < 4.0 for entry in curve)
    assert curve[-1]["kl"] > 0.1


def test_a_reward_model_that_was_trained_on_judgements_is_followed(machine: Machine) -> None:
    """From judgements by the jobs that people start: who prefers short answers gets them, with more reward."""
    machine.add_prompts(train=16, held_out=8)
    machine.judge("train", 16)
    machine.judge("held-out", 8)
    shape: dict[str, Any] = {"method": "lora", "precision": "fp32", "lora_r": 4, "lora_alpha": 8}
    trained = machine.perform(machine.submit(RewardModelSpec(**shape, learning_rate=5e-3, epochs=3)))
    assert trained.result is not None, trained.message
    spec = replace(
        QUICK, reward_model=trained.result["revision"], steps=5, rollouts=16, batch_size=16, learning_rate=1e-2,
        epochs=3, accepted_accuracy=0.0, no_end_penalty=0.0,
    )  # fmt: skip
    job = machine.perform(machine.submit(spec))
    assert job.status == "finished", job.message
    curve = job_store.metrics(machine.db, job.id)
    assert curve[-1]["reward"] > curve[0]["reward"] + 0.4, "in standard deviations of the scores in training"
    assert curve[-1]["length"] < curve[0]["length"] - 3
    expected = {name for curve in plots_of(PPOSpec) for name in curve.series.values()}
    assert all(expected <= entry.keys() for entry in curve)


def test_an_entropy_bonus_keeps_the_policy_open(ready: Machine) -> None:
    """With nothing else to learn, its entropy falls or rises with the sign of what is asked for."""
    spec = replace(QUICK, steps=4, learning_rate=1e-2, kl_coefficient=1e-6, entropy_weight=1.0, no_end_penalty=0.0)
    learner = learner_of(ready, spec, lambda answers: torch.zeros(len(answers)))
    learner.learn()
    curve = job_store.metrics(ready.db, learner.run.job_id)
    assert curve[-1]["entropy"] > curve[0]["entropy"] + 0.02


# ---------------------------------------------------------------------------------------------------- ratios, gradients
@pytest.mark.parametrize(("method", "precision"), METHOD_AND_PRECISION)
def test_the_ratio_of_the_first_inner_step_is_exactly_1(machine: Machine, method: Method, precision: Precision) -> None:
    """To the bit, in the real loop: also in 16 and 4 bits, and again in the second round with weights that have moved.

    In bfloat16 another batch, or another order of its answers, would already give ratios that differ by percents.
    """
    machine.add_prompts(train=12, held_out=2)
    spec = replace(QUICK, method=method, precision=precision, minibatches=1, epochs=1, rollouts=6, steps=2)
    add_reward_model(machine, spec)
    learner = learner_of(machine, spec)
    learner.learn()
    for entry in job_store.metrics(machine.db, learner.run.job_id):
        assert (entry["ratio_max"], entry["clip_share"]) == (1.0, 0.0)
        # The loss is then minus the mean of whitened advantages, which is 0.
        assert entry["loss/policy"] == pytest.approx(0.0, abs=1e-5)


def test_the_ratio_leaves_1_after_the_first_step(ready: Machine) -> None:
    learner = learner_of(ready, QUICK)
    learner.round()
    assert learner.state.tallies == []  # cleared for the next round
    rollouts = learner.state.rollouts = learner.roll_out()
    _, advantages_BT, returns_BT = targets(rollouts, learner.spec, 0.1)
    ratios = []
    for place in range(4):
        tally = learner.update(rollouts, advantages_BT, returns_BT, minibatch(learner.spec, 1, place))
        ratios.append(tally["ratio_max"])
    assert ratios[0] == 1.0
    assert all(ratio > 1.0 for ratio in ratios[1:])


def test_a_batch_in_several_packed_rows_starts_with_a_ratio_of_exactly_1_too(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And comes to the same as in one row, to rounding."""
    machine.add_prompts(train=12, held_out=2)
    spec = replace(QUICK, minibatches=1, epochs=2, rollouts=6, batch_size=6, steps=2)
    add_reward_model(machine, spec)
    curves = []
    for row_tokens in (1024, 100):
        monkeypatch.setattr(hidden_states, "ROW_TOKENS", row_tokens)
        learner = learner_of(machine, replace(spec, epochs=1))
        learner.learn()
        curves.append(job_store.metrics(machine.db, learner.run.job_id))
    for one, other in zip(*curves, strict=True):
        assert one["ratio_max"] == other["ratio_max"] == 1.0
        for name in ("reward", "kl", "entropy", "loss/value", "grad_norm", "grad_norm/value"):
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name


def test_passes_have_no_more_tokens_than_memory_holds_and_start_with_a_ratio_of_exactly_1(ready: Machine) -> None:
    """In 16 bits, where other passes than those of the rollout would show; the count of a batch stays a limit."""
    spec = replace(QUICK, precision="bf16", rollouts=12, batch_size=4, minibatches=2, epochs=2)
    learner = learner_of(ready, spec)
    prompts = max(len(item["prompt_ids"]) for item in learner.prompts)
    limit = learner.roles.pass_tokens = 2 * (prompts + spec.sampling.max_new_tokens) + 8
    computed: list[tuple[int, int]] = []
    states = learner.roles.states

    def noted(role: Any, answers: Sequence[SampledResponse]) -> Any:
        computed.append((len(answers), sum(len(one.prompt_ids) + len(one.ids) for one in answers)))
        return states(role, answers)

    learner.roles.states = noted  # type: ignore[method-assign]
    rollouts = learner.state.rollouts = learner.roll_out()
    assert max(tokens for _, tokens in computed) <= limit
    assert {count for count, _ in computed} <= {1, 2, 3, 4} != {4}
    assert sum(count for count, _ in computed) == 4 * 12, "each answer once in each role"
    _, advantages_BT, returns_BT = targets(rollouts, spec, 0.1)
    computed.clear()
    for update in (0, 1):  # the weights rest, so that all ratios of the first epoch are to be 1
        learner.optimiser.step = lambda: None
        tally = learner.update(rollouts, advantages_BT, returns_BT, minibatch(spec, 0, update))
        assert (tally["ratio_max"], tally["clip_share"]) == (1.0, 0.0)
    assert max(tokens for _, tokens in computed) <= limit
    learner.roles.pass_tokens = 1
    assert learner.passes(range(3), rollouts.answers) == [[0], [1], [2]], "an answer is not cut"
    learner.roles.pass_tokens = math.inf
    assert learner.passes(range(6), rollouts.answers) == [[0, 1, 2, 3], [4, 5]]


def test_processes_tell_each_other_as_much_however_many_passes_each_has_made(ready: Machine) -> None:
    """What processes gather must have one shape in all of them; how many passes one makes depends on its answers."""
    learner = learner_of(ready, replace(QUICK, batch_size=4, minibatches=1))
    rollouts = learner.roll_out()
    _, advantages_BT, returns_BT = targets(rollouts, learner.spec, 0.1)
    learner.optimiser.step = lambda: None
    gather, told = learner.accelerator.gather, list[Tensor]()
    learner.accelerator.gather = lambda tensor: (told.append(tensor), gather(tensor))[1]
    tallies = []
    for pass_tokens, passes in ((math.inf, 2), (1.0, 8)):
        learner.roles.pass_tokens = pass_tokens
        assert len(learner.passes(range(8), rollouts.answers)) == passes
        tallies.append(learner.update(rollouts, advantages_BT, returns_BT, range(8)))
    assert told[0].shape == told[1].shape
    assert tallies[1] == pytest.approx(tallies[0], rel=1e-3, abs=1e-5)


def test_a_round_whose_layers_are_computed_again_has_the_very_same_weights(ready: Machine) -> None:
    found = []
    for recompute in (False, True):
        learner = learner_of(ready, replace(QUICK, precision="bf16", steps=1))
        learner.roles.recompute = recompute
        learner.round()
        found.append(weights_now(learner))
        assert not any(getattr(module, "gradient_checkpointing", False) for module in learner.model.modules())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_every_trained_tensor_has_a_gradient_and_nothing_else_has(machine: Machine, variant: dict[str, Any]) -> None:
    """After one round, because at first the second matrix of a fresh adapter is zero, and so the first one's gradient.

    Answers have been drawn and scored in between: on some processors a pass in eval mode would have cut gradients off.
    """
    machine.add_prompts(train=12, held_out=2)
    spec = replace(QUICK, **variant)
    add_reward_model(machine, spec)
    learner = learner_of(machine, spec)
    learner.round()
    rollouts = learner.roll_out()
    _, advantages_BT, returns_BT = targets(rollouts, learner.spec, 0.1)
    learner.policy_pass(rollouts, advantages_BT, range(4), 50)
    learner.value_pass(rollouts, returns_BT, range(4), 50)
    trained = {id(value): name for own in learner.trained.values() for name, value in own.items()}
    # Two adapters on two layers of seven modules, with two matrices each and DoRA's magnitudes; the head.
    assert len(trained) == 2 * 2 * 7 * (3 if spec.dora else 2) + 2
    for name, value in [*learner.roles.model.named_parameters(), *learner.roles.critic_head.named_parameters()]:
        if id(value) in trained:
            assert value.dtype == torch.float32, name
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name
            assert value.grad.any(), name
        else:
            assert value.grad is None, name


def test_accumulated_passes_give_the_gradient_of_the_whole_minibatch(ready: Machine) -> None:
    """However answers of different lengths are spread over the passes."""
    learner = learner_of(ready, QUICK)
    rollouts = learner.roll_out()
    _, advantages_BT, returns_BT = targets(rollouts, learner.spec, 0.1)
    tokens = int(rollouts.mask_BT.sum())
    found = []
    for passes in ([range(8)], [range(3), range(3, 8)]):
        learner.optimiser.zero_grad()
        for rows in passes:
            learner.policy_pass(rollouts, advantages_BT, rows, tokens)
            learner.value_pass(rollouts, returns_BT, rows, tokens)
        found.append([value.grad.clone() for own in learner.trained.values() for value in own.values()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- four roles
def states_alone(model: Any, answer: SampledResponse) -> Tensor:
    """Final hidden states (T, H) of one answer by itself: of the tokens before each of its own, and of its last one."""
    ids = torch.tensor([[*answer.prompt_ids, *answer.ids]])
    with torch.no_grad():
        states: Tensor = model(input_ids=ids).last_hidden_state[0, len(answer.prompt_ids) - 1 :]
    return states


def test_the_reward_model_and_the_critic_are_what_the_stored_one_says(ready: Machine) -> None:
    """Against transformers' own classifier and PEFT's own loading, one answer at a time, without padding or packing."""
    rollouts = learner_of(ready, QUICK).roll_out()
    base = AutoModelForSequenceClassification.from_pretrained(ready.model, num_labels=1, dtype=torch.float32)
    stored = PeftModel.from_pretrained(base, ready.data_dir / "adapters" / "reward").eval()
    for row, answer in enumerate(rollouts.answers):
        ids = torch.tensor([[*answer.prompt_ids, *answer.ids]])
        with torch.no_grad():
            logit = stored(input_ids=ids).logits.item()
        assert rollouts.scores_B[row].item() == pytest.approx((logit - MEAN) / STD, abs=1e-4)
        head = stored.base_model.model.score.modules_to_save["default"].weight[0]
        values = (states_alone(stored.base_model.model.model, answer) @ head - MEAN) / STD
        assert rollouts.values_BT[row, : len(answer.ids)].tolist() == pytest.approx(values[:-1].tolist(), abs=1e-4)
    assert rollouts.scores_B.std() > 0.01


def test_policy_and_reference_probabilities_are_those_of_the_models_alone(ready: Machine) -> None:
    """After a round that moved the policy: at the temperature, at the drawn tokens, nothing after an answer's end."""
    learner = learner_of(ready, replace(QUICK, learning_rate=1e-2))
    learner.round()
    rollouts = learner.roll_out()
    moved = learner.roles.act_as("policy").base_model.model
    alone = AutoModelForCausalLM.from_pretrained(ready.model, dtype=torch.float32)
    for row, answer in enumerate(rollouts.answers):
        p_TV, q_TV = (
            (states_alone(model.model, answer)[:-1] @ model.lm_head.weight.T / 0.8).log_softmax(-1)
            for model in (moved, alone)
        )
        steps = range(len(answer.ids))
        expected = {
            "logps_BT": p_TV[steps, answer.ids],
            "ref_logps_BT": q_TV[steps, answer.ids],
            "kl_BT": (p_TV.exp() * (p_TV - q_TV)).sum(-1),
            "entropy_BT": -(p_TV.exp() * p_TV).sum(-1),
        }
        for name, values in expected.items():
            noted = getattr(rollouts, name)[row]
            torch.testing.assert_close(noted[: len(answer.ids)], values.detach(), rtol=1e-3, atol=1e-4, msg=name)
            assert not noted[len(answer.ids) :].any()
    assert rollouts.kl_BT.sum() > 0.1


def test_answers_end_at_their_end_of_text_token_and_nothing_after_it_is_in_the_mask(ready: Machine) -> None:
    learner = learner_of(ready, replace(QUICK, rollouts=24, batch_size=8))
    rollouts = learner.roll_out()
    ends = end_token_ids(learner.roles.model, ready.tokenizer)
    assert {answer.ended for answer in rollouts.answers} == {True, False}
    for row, answer in enumerate(rollouts.answers):
        assert not ends & set(answer.ids[:-1])
        assert answer.ended == (answer.ids[-1] in ends)
        assert answer.ended or len(answer.ids) == 16
        assert rollouts.mask_BT[row].tolist() == [place < len(answer.ids) for place in range(16)]


def test_the_reference_is_the_base_or_the_parent_as_the_spec_says(ready: Machine) -> None:
    """A parent that PPO itself made: against itself it has no KL at first, against the base what it learned."""
    run = begin(ready, replace(QUICK, learning_rate=1e-2))
    parent = ppo.run(run, spec_of(run))["revision"]
    kl = {}
    for reference in ("base", "parent"):
        learner = learner_of(ready, replace(QUICK, parent=parent, reference=reference))
        kl[reference] = learner.roll_out().kl_BT.sum().item()
        learner.round()
        assert learner.roll_out().kl_BT.sum().item() > 0, "the reference stays where it is"
    assert kl["parent"] == 0
    assert kl["base"] > 0.1


def test_rewards_of_a_round_worked_out_by_hand() -> None:
    """Answers of two tokens and of one, the second cut off: scores 1 and 2 - 1.5, log-ratios 0.5 -1 and 2."""
    answers = [SampledResponse((1,), (2, 3), "", True), SampledResponse((1,), (2,), "", False)]
    mask_BT = torch.tensor([[True, True], [True, False]])
    zero_BT = torch.zeros(2, 2)
    rollouts = Rollouts(
        answers=answers,
        scores_B=torch.tensor([1.0, 2.0]),
        mask_BT=mask_BT,
        logps_BT=torch.tensor([[-1.0, -2.0], [-1.0, 0.0]]),
        ref_logps_BT=torch.tensor([[-1.5, -1.0], [-3.0, 0.0]]),
        values_BT=torch.tensor([[0.5, 0.25], [0.0, 0.0]]),
        kl_BT=zero_BT,
        entropy_BT=zero_BT,
    )
    spec = replace(QUICK, no_end_penalty=1.5, gamma=1.0, lam=0.5)
    rewards_BT, advantages_BT, returns_BT = targets(rollouts, spec, 0.1)
    torch.testing.assert_close(rewards_BT, torch.tensor([[-0.05, 1.1], [0.3, 0.0]]))
    # TD residuals -0.05 + 0.25 - 0.5 = -0.3, 1.1 - 0.25 = 0.85, 0.3; advantages -0.3 + 0.5 x 0.85 = 0.125, 0.85, 0.3.
    torch.testing.assert_close(returns_BT, torch.tensor([[0.625, 1.1], [0.3, 0.0]]))
    # Their mean is 0.425 and their variance (0.09 + 0.180625 + 0.015625) / 3 = 0.0954167, its root 0.3088959.
    torch.testing.assert_close(
        advantages_BT, torch.tensor([[-0.9712, 1.3759, 0], [-0.4047, 0, 0]])[:, :2], rtol=1e-3, atol=1e-4
    )
    # Whitened rewards: -0.05, 1.1 and 0.3 over their root variance 0.4813176, about their own mean of 0.45.
    whitened = targets(rollouts, replace(spec, whiten_rewards=True, gamma=0.0, lam=0.0), 0.1)[2]
    torch.testing.assert_close(whitened, torch.tensor([[-0.5888, 1.8005], [0.1384, 0.0]]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 2])
def test_answers_of_one_token_and_cut_off_ones_give_numbers_all_the_same(ready: Machine, tokens: int) -> None:
    sampling = replace(QUICK.sampling, max_new_tokens=tokens)
    learner = learner_of(ready, replace(QUICK, steps=2, sampling=sampling, whiten_rewards=True))
    learner.learn()
    curve = job_store.metrics(ready.db, learner.run.job_id)
    assert all(math.isfinite(value) for entry in curve for value in entry.values())
    assert 1 <= curve[0]["length"] <= tokens
    assert curve[0]["ended_share"] < 0.5


# ----------------------------------------------------------------------------------------------- what follows from what
def test_prompts_take_turns_and_every_answer_has_a_seed_of_its_own() -> None:
    asked = [prompt_of(12, QUICK, step, index) for step in range(6) for index in range(8)]
    for turn in range(4):
        assert sorted(asked[turn * 12 : (turn + 1) * 12]) == list(range(12))
    assert asked[:12] != asked[12:24]
    seeds = {
        seed_of(replace(QUICK, seed=seed), step, index) for seed in range(3) for step in range(9) for index in range(8)
    }
    assert len(seeds) == 3 * 9 * 8
    assert max(seeds) < 2**62
    # The batch and the processes have no say.
    assert seed_of(replace(QUICK, batch_size=1, processes=2), 3, 5) == seed_of(QUICK, 3, 5)


def test_each_epoch_goes_once_through_all_answers_the_first_in_the_order_of_drawing() -> None:
    spec = replace(QUICK, epochs=3)
    epochs = [[row for part in range(2) for row in minibatch(spec, 4, 2 * epoch + part)] for epoch in range(3)]
    assert epochs[0] == list(range(8))
    assert [sorted(rows) for rows in epochs] == [list(range(8))] * 3
    assert len({tuple(rows) for rows in epochs}) == 3
    assert minibatch(spec, 4, 2) != minibatch(spec, 5, 2)


def test_the_learning_rate_warms_up_and_falls_to_zero(ready: Machine) -> None:
    learner = learner_of(ready, replace(QUICK, warmup_steps=2, steps=2, learning_rate=1.0))
    rates = []
    for step, updates in product(range(2), range(4)):
        learner.state.step, learner.state.updates = step, updates
        rates.append(learner.learning_rate())
    assert rates == pytest.approx([1 / 2, 1, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


@pytest.mark.parametrize("control", ["adaptive", "fixed"])
def test_the_kl_penalty_moves_only_if_it_is_to(ready: Machine, control: Any) -> None:
    """Without any KL at first, the penalty falls by 2% in the second round, and on as long as the KL is far below."""
    learner = learner_of(ready, replace(QUICK, kl_control=control))
    learner.learn()
    curve = job_store.metrics(ready.db, learner.run.job_id)
    factor = 0.98 if control == "adaptive" else 1
    assert [entry["kl_coefficient"] for entry in curve] == pytest.approx([0.1 * factor**step for step in range(3)])


# ------------------------------------------------------------------------------------------------------------- the job
def test_a_job_in_4_bits_leaves_a_policy_that_can_serve(machine: Machine) -> None:
    machine.add_prompts(train=12, held_out=0)
    spec = replace(QUICK, method="qlora", precision="auto", samples=2, lora_r=8)
    add_reward_model(machine, spec)
    run = begin(machine, spec)
    result = ppo.run(run, spec_of(run))
    policy = registry.by_revision(machine.db, result["revision"])
    assert (policy.kind, policy.form, policy.precision, policy.status) == ("policy", "lora", "nf4", "candidate")
    weights = machine.adapter(policy.revision)
    assert all("lora_A" in name or "lora_B" in name for name in weights)
    assert all(value.any() for value in weights.values())
    assert result["trained_on"] == 12
    assert result["final"]["kl"] > 0
    assert result["steps"] == 3
    assert not checkpoints_of(run).exists()
    samples = job_store.samples(machine.db, run.job_id)
    assert list(samples) == [prompt.text for prompt in prompt_store.prompts(machine.db, "train")[:3]], (
        "none is held out"
    )
    assert [list(answers) for answers in samples.values()] == [[0, 3]] * 3
    machine.db.connection.execute("UPDATE job SET status = 'queued' WHERE id = ?", (run.job_id,))
    again = begin(machine, spec, run.job_id)
    assert ppo.run(again, spec_of(again))["revision"] == policy.revision, "a registered policy is not trained again"


def test_measuring_keeps_nothing_but_figures(ready: Machine) -> None:
    run = begin(ready, QUICK)
    run.measured_steps = 2
    result = ppo.run(run, spec_of(run))
    assert result["steps"] == 2
    assert result["seconds_per_step"] > 0
    assert 0 < result["trainable_percent"] < 100
    assert registry.of_job(ready.db, run.job_id) is None
    assert not checkpoints_of(run).exists()


def test_prompts_without_room_for_an_answer_are_refused_in_words(ready: Machine) -> None:
    run = begin(ready, replace(QUICK, max_length=24))
    with pytest.raises(UserError, match=r"Within a max_length of 24, no prompt \(12 in all\) leaves room"):
        ppo.run(run, spec_of(run))


def test_a_reward_that_is_no_number_ends_the_run_and_the_reward_model_is_named(ready: Machine) -> None:
    """No lower learning rate mends it, so going on does not halve that; the last good checkpoint is kept."""
    calls = Counter[str]()

    def score(answers: Sequence[SampledResponse]) -> Tensor:
        calls["batches"] += 1
        return torch.full((len(answers),), math.nan if calls["batches"] > 4 else 1.0)  # two batches a round

    learner = learner_of(ready, QUICK, score)
    with pytest.raises(UserError, match="'reward' scores an answer of round 3 with nan") as ended:
        learner.learn()
    assert not isinstance(ended.value, job_store.Diverged)
    last = checkpoints_of(learner.run) / "checkpoint-2"
    assert (last / MANIFEST).exists()
    assert all(value.isfinite().all() for value in load_file(last / WEIGHTS).values())


def test_a_gradient_that_is_no_number_ends_the_run_and_the_last_good_checkpoint_is_kept(ready: Machine) -> None:
    learner = learner_of(ready, QUICK, length_near(8))
    policy_pass = learner.policy_pass

    def diverging(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        found = policy_pass(*arguments)
        if learner.state.step == 2:
            next(iter(learner.trained["policy"].values())).grad.fill_(math.nan)
        return found

    learner.policy_pass = diverging  # type: ignore[method-assign]
    with pytest.raises(job_store.Diverged, match=r"not a number at step 3.*checkpoint-2, is kept"):
        learner.learn()
    last = checkpoints_of(learner.run) / "checkpoint-2"
    assert (last / MANIFEST).exists()
    assert all(value.isfinite().all() for value in load_file(last / WEIGHTS).values())
    assert all(value.isfinite().all() for value in weights_now(learner).values())


# ------------------------------------------------------------------------------------------------- broken off, resumed
def test_a_run_that_was_told_to_stop_after_all_its_rounds_is_over(ready: Machine) -> None:
    spec = replace(QUICK, steps=2, samples=2)
    run = begin(ready, spec)
    learner = learner_of(ready, spec, length_near(8), run)
    learner.learn()
    drawn = "SELECT count(*) FROM event WHERE job_id = ? AND kind = 'sample'"
    before = ready.db.value(drawn, (run.job_id,))
    assert before
    again = learner_of(ready, spec, length_near(8), run)
    again.learn()
    assert ready.db.value(drawn, (run.job_id,)) == before, "nothing is answered once more"
    for name, value in weights_now(learner).items():
        torch.testing.assert_close(weights_now(again)[name], value, rtol=0, atol=0)


@dataclass
class Unbroken:
    """A run that nobody disturbed, to measure the others by."""

    machine: Machine
    spec: PPOSpec
    weights: dict[str, Tensor]
    curve: list[dict[str, Any]]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Unbroken]:
    """A machine with a finished job of four rounds."""
    machine = make_machine(tmp_path_factory.mktemp("unbroken") / "data", tiny_model)
    machine.add_prompts(train=12, held_out=1)
    add_reward_model(machine, QUICK)
    job = machine.perform(machine.submit(replace(QUICK, steps=4, batch_size=2)))
    assert isinstance(job.spec, PPOSpec)
    yield Unbroken(machine, job.spec, machine.adapter(f"ppo-{job.id}"), job_store.metrics(machine.db, job.id))
    machine.db.close()


def assert_as_if_unbroken(unbroken: Unbroken, job_id: int, tolerance: float) -> None:
    """The same weights and the same curves, each round once."""
    weights = unbroken.machine.adapter(f"ppo-{job_id}")
    for name, expected in unbroken.weights.items():
        torch.testing.assert_close(weights[name], expected, rtol=tolerance, atol=tolerance)
    curve = job_store.metrics(unbroken.machine.db, job_id)
    for name in ("step", "reward", "loss/policy", "loss/value", "kl", "kl_coefficient", "learning_rate", "ratio_max"):
        expected_curve = [entry[name] for entry in unbroken.curve]
        assert [entry[name] for entry in curve] == pytest.approx(expected_curve, rel=tolerance, abs=tolerance)


class Impatient(Run):
    """Told to stop once it has been asked so many times whether it was."""

    patience = 0

    @property
    def stopped(self) -> bool:
        """Counts the question."""
        self.patience -= 1
        return self.patience < 0


def test_a_run_that_is_stopped_again_and_again_anywhere_ends_with_the_very_same_weights(unbroken: Unbroken) -> None:
    """While it draws, scores or learns, between any two passes: each time it leaves a checkpoint and loses little."""
    machine = unbroken.machine
    job_id = machine.submit(unbroken.spec)
    source = random.Random(2)
    places = Counter[str]()
    while job_store.get(machine.db, job_id).status != "finished":
        run = begin(machine, unbroken.spec, job_id, Impatient)
        assert isinstance(run, Impatient)
        run.patience = source.randint(10, 60)
        assert perform(run, unbroken.spec) == 0
        if job_store.get(machine.db, job_id).status == "cancelled":
            last = max(checkpoints_of(run).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
            state = torch.load(last / STATE, weights_only=True)["further"]
            places["learning" if state["updates"] else "answering" if state["rollouts"] is None else "between"] += 1
            assert len(list(checkpoints_of(run).glob("checkpoint-*"))) <= 2
            job_store.resume(machine.db, job_id)
    assert places["learning"] >= 1
    assert places["answering"] >= 1
    assert_as_if_unbroken(unbroken, job_id, 0.0)


def test_a_worker_killed_in_a_random_round_is_resumed_to_the_weights_of_an_unbroken_run(unbroken: Unbroken) -> None:
    """SIGKILL, marked lost by its silence, resumed by another process from the last whole checkpoint."""
    machine = unbroken.machine
    job_id = machine.submit(unbroken.spec)
    fatal_round = random.Random(os.urandom(8)).randint(2, 3)  # the first one is saved after it was reported
    print(f"killing the worker in round {fatal_round}")
    machine.kill_worker(job_id, fatal_round)
    half = machine.data_dir / "checkpoints" / f"job-{job_id}" / "checkpoint-4"  # killed while writing: without the mark
    half.mkdir(parents=True)
    job_store.resume(machine.db, job_id)
    job = machine.perform(job_id)
    assert job.status == "finished", job.message
    assert job.attempt == 2
    assert any("resuming from checkpoint-" in line for line in job_store.log_tail(machine.db, job_id, 40))
    assert_as_if_unbroken(unbroken, job_id, 1e-4)


def test_two_processes_give_what_one_gives_with_twice_the_batch(unbroken: Unbroken) -> None:
    """Answers, scores and gradients are shared out; statistics are over all. Started as the supervisor does it."""
    machine = unbroken.machine
    job_id = machine.submit(replace(unbroken.spec, batch_size=unbroken.spec.batch_size // 2, processes=2))
    command = worker_command(job_store.get(machine.db, job_id), machine.data_dir, "a-worker")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert job_store.get(machine.db, job_id).status == "finished", done.stdout[-2000:] + done.stderr[-2000:]
    assert_as_if_unbroken(unbroken, job_id, 1e-3)
