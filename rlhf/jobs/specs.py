"""One frozen dataclass per kind of job: the spec is the identity of a run and its defaults are the recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_type_hints

from annotation.records import MAXIMUM_ANSWERS, Sampling, UserError

Reference = Literal["base", "parent"]
Scope = Literal["new", "all"]
Noise = Literal["ignore", "weight", "smooth"]
Method = Literal["qlora", "lora", "prompt", "full"]
Precision = Literal["auto", "bf16", "fp32"]
Targets = Literal["all-linear", "attention", "named"]
LoraInit = Literal["default", "pissa"]
VirtualInit = Literal["text", "random"]
Optimiser = Literal["adamw", "adamw-8bit"]
PreferenceLoss = Literal["sigmoid", "ipo", "robust", "length-normalised"]
KLControl = Literal["adaptive", "fixed"]
Judged = Literal["open", "judged", "candidate"]
Answered = Literal["all", "train", "held-out"]


@dataclass(frozen=True)
class GenerateSpec:
    """Keep a buffer of comparisons ahead of the annotators (the resident worker), or fill it once and end."""

    kind: ClassVar[str] = "generate"
    model: str = "base"
    """Name of the data directory's base model; 'base' for whichever it is."""
    seed: int = 0
    """Start of the stream of seeds; each answer's own seed is stored with it."""
    buffer: int = 24
    """Open comparisons by the serving policy to keep in stock, one in six of them on held-out prompts."""
    answers: int = 0
    """Different answers in a comparison; 0 for as many as the project asks for."""
    spare: int = 1
    """Answers drawn beyond those, in case some are empty or the same."""
    prompts_per_batch: int = 12
    """Prompts answered together."""
    until_full: bool = False
    """End when the buffer is full, instead of waiting for it to empty."""
    sampling: Sampling = field(default_factory=Sampling)
    """How answers are drawn: temperature, then min_p against unlikely tokens, up to max_new_tokens."""


@dataclass(frozen=True)
class TrainingSpec:
    """What every training job says: data, parent, how the weights are changed, and how fast."""

    kind: ClassVar[str] = ""
    model: str = "base"
    """Name of the data directory's base model; 'base' for whichever it is."""
    snapshot: str = ""
    """sha256 of the frozen data; empty: freeze the data as it is when the job is made."""
    parent: str = "serving"
    """Revision to start from: 'base', 'serving' or another revision. An adapter of the same shape is continued; fully
    trained or merged weights carry a new adapter."""
    seed: int = 0
    """Seeds fresh weights and the data order."""
    method: Method = "qlora"
    """What is trained: 'qlora' low-rank adapters on the base in 4 bits (Dettmers et al. 2023), 'lora' the same on the
    base in 16 or 32 bits (Hu et al. 2022), 'prompt' virtual tokens before the prompt (Lester et al. 2021), 'full' every
    weight."""
    precision: Precision = "auto"
    """What is computed in, and for LoRA and prompt tuning also what the frozen weights are held in: bf16, fp32, or
    'auto' for bf16 where the processor has it. What is trained is always held in fp32, so full fine-tuning in bf16
    holds a 16-bit copy of the weights besides: 18 bytes a weight with gradient and AdamW's state, 16 in fp32."""
    lora_r: int = 16
    """Rank of the adapter (Hu et al. 2022, section 4.1). Our choice: the smallest of Biderman et al. 2024 (16 to 256),
    for a few hundred examples."""
    lora_alpha: int = 32
    """Scale of the adapter, divided by the rank: twice the rank (Biderman et al. 2024)."""
    lora_targets: Targets = "all-linear"
    """The layers that get an adapter: every linear one (Dettmers et al. 2023, section 4, needed to match full
    fine-tuning), the attention's only (q_proj, k_proj, v_proj and o_proj), or those named in lora_layers."""
    lora_layers: str = ""
    """Names of layers, or how these end, separated by commas: 'q_proj, v_proj'."""
    dora: bool = False
    """Train magnitude and direction apart (DoRA, Liu et al. 2024); slower, sometimes better at low rank."""
    rslora: bool = False
    """Divide alpha by the root of the rank (rsLoRA, Kalajdzievski 2023), for high ranks."""
    lora_init: LoraInit = "default"
    """Start of the adapter: 'default' changes nothing at first; 'pissa' takes the weights' principal directions out of
    the base (Meng et al. 2024), so that the base without the adapter is no longer the base."""
    virtual_tokens: int = 20
    """Tokens of a prompt-tuning adapter; more than 20 gain little (Lester et al. 2021, section 3.2)."""
    virtual_init: VirtualInit = "text"
    """Start of the virtual tokens: the embeddings of a text's tokens, or of tokens drawn from the vocabulary. Vectors
    that are no token's do worse at small sizes (Lester et al. 2021, section 3.2)."""
    virtual_text: str = "Answer the user well, in the way that people prefer."
    """The text that virtual tokens start from, repeated or cut to their number."""
    learning_rate: float = 0.0
    """Peak of AdamW's step size; warmed up, then linearly to zero. 0 for the default of the method."""
    warmup_steps: int = 2
    """Optimiser steps until the peak. Our choice: AdamW's first steps are its noisiest (Liu et al. 2020), and a run may
    have only a dozen."""
    epochs: int = 3
    """Passes over the data."""
    batch_size: int = 2
    """Items in one forward pass."""
    max_length: int = 512
    """Tokens of prompt and answer; longer items are left out and counted. 512 as Alpaca (Taori et al. 2023)."""
    optimiser: Optimiser = "adamw"
    """'adamw-8bit' holds the optimiser's state in 8 bits (Dettmers et al. 2022); needs a GPU."""
    checkpoint_steps: int = 2
    """Optimiser steps between checkpoints, of which the last two are kept; a killed run resumes from the last one."""
    samples: int = 3
    """How often in the run a few fixed held-out prompts are answered, to be read; 0 for never."""
    processes: int = 1
    """Processes that share each optimiser step, one a device, through accelerate; each takes batches of batch_size."""
    halve_batch: bool = False
    """When memory runs out, go on with half the batch and twice the accumulation instead of failing."""


@dataclass(frozen=True)
class SFTSpec(TrainingSpec):
    """Supervised fine-tuning: learn to give the demonstrated answers; the loss is on the answers only."""

    kind: ClassVar[str] = "sft"
    parent: str = "base"
    """Revision to start from: 'base', 'serving' or another revision. An adapter of the same shape is continued; fully
    trained or merged weights carry a new adapter."""
    method: Method = "lora"
    """What is trained: 'qlora' low-rank adapters on the base in 4 bits (Dettmers et al. 2023), 'lora' the same on the
    base in 16 or 32 bits (Hu et al. 2022), 'prompt' virtual tokens before the prompt (Lester et al. 2021), 'full' every
    weight."""
    source: str = "demonstrations"
    """What to learn from: 'demonstrations' (imported ones and mended answers), or 'example:NAME' for a shipped set."""
    epochs: int = 3
    """Passes over the demonstrations; 3 as Alpaca (Taori et al. 2023), and TRL's default."""
    batch_size: int = 8
    """Demonstrations in one forward pass. Our choice: half of what QLoRA takes (Dettmers et al. 2023, table 9), because
    a few hundred demonstrations should still make a hundred steps."""
    accumulation: int = 1
    """Forward passes in one optimiser step."""
    packing: bool = True
    """Put a batch's demonstrations into rows without padding, each seeing only itself; where the model allows it."""
    checkpoint_steps: int = 20
    """Optimiser steps between checkpoints, of which the last two are kept; a killed run resumes from the last one."""
    evaluate: bool = False
    """Check the candidate against the serving policy when training ends."""


@dataclass(frozen=True)
class RewardModelSpec(TrainingSpec):
    """A reward model: a scalar head on adapted weights, trained on comparisons (Bradley and Terry 1952; Ouyang et al.
    2022, equation 1)."""

    kind: ClassVar[str] = "reward_model"
    scope: Scope = "all"
    """Train on judgements made since the parent's data was frozen ('new') or on every judgement ('all')."""
    parent: str = "base"
    """Revision whose weights carry the reward model: 'base', fully trained or merged weights, or a reward model to
    continue."""
    method: Method = "qlora"
    """What is trained: 'qlora' low-rank adapters on the base in 4 bits (Dettmers et al. 2023), 'lora' the same on the
    base in 16 or 32 bits (Hu et al. 2022)."""
    margin: bool = True
    """Ask for a larger difference where people prefer more strongly: by 1/3, 2/3 or 1 (Touvron et al. 2023, equation 2,
    the smaller margins of table 27)."""
    centre: float = 0.01
    """Weight of the squared sum of a pair's rewards, which keeps rewards about zero (Eisenstein et al. 2023); TRL
    recommends 0.01."""
    annotator_noise: Noise = "ignore"
    """What a pair's estimated chance of being the wrong way round (flip) does to its loss: 'ignore' nothing; 'weight'
    multiplies it by 1 - 2 flip, over the data's mean of that; 'smooth' smooths the label by it."""
    ai_weight: float = 1.0
    """Weight of a pair that AI judges alone prefer, beside 1 for people's; 0 leaves their judgements out. As much as
    people's in RLAIF (Lee et al. 2023)."""
    batch_size: int = 4
    """Comparisons in one forward pass; all pairs of one are in the same batch (Ouyang et al. 2022, section 3.5). Our
    choice, with the learning rates: a hundred comparisons should make some fifty steps."""
    accumulation: int = 1
    """Forward passes in one optimiser step."""
    epochs: int = 2
    """Passes over the comparisons; more tends to learn them by heart (Ouyang et al. 2022, appendix C.2, who take one).
    Two are what our learning rates were measured with."""
    samples: int = 0
    """A reward model answers nothing."""


@dataclass(frozen=True)
class DPOSpec(TrainingSpec):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    kind: ClassVar[str] = "dpo"
    scope: Scope = "new"
    """Train on judgements made since the parent's data was frozen ('new') or on every judgement ('all')."""
    reference: Reference = "base"
    """The policy that the KL penalty ties to: the weights under the adapter (the base model, or the fully trained ones
    that carry it), or the parent."""
    loss: PreferenceLoss = "sigmoid"
    """'sigmoid' (Rafailov et al. 2023, equation 7), 'ipo' (Azar et al. 2024, equation 17), 'robust' to one rate of
    wrong labels (Chowdhury et al. 2024, equation 11), 'length-normalised' log-ratios per token (Meng et al. 2024)."""
    beta: float = 0.0
    """Strength of the tie to the reference (equation 7 of the DPO paper). 0 for the default of the loss: 0.1, and 5
    where it is length-normalised, because log-ratios per token are smaller by about an answer's length."""
    sft_weight: float = 0.2
    """Weight of the likelihood of the chosen answer beside the DPO loss; counters degeneration (Pang et al. 2024, who
    take 1). Our choice: with 0.2 answers stay the model's language (benchmarks/loop.py) and follow the preferences."""
    epochs: int = 3
    """Passes over the pairs; three as Zephyr (Tunstall et al. 2023, section 4.3)."""
    flip_rate: float = 0.0
    """Share of wrong labels that the robust loss expects; 0 for the mean that annotators' reliability suggests."""
    annotator_noise: Noise = "ignore"
    """What a pair's estimated chance of being the wrong way round (flip) does to its loss: 'ignore' nothing; 'weight'
    multiplies it by 1 - 2 flip, over the data's mean of that; 'smooth' is conservative DPO (Mitchell 2023)."""
    ai_weight: float = 1.0
    """Weight of a pair that AI judges alone prefer, beside 1 for people's; 0 leaves their judgements out. As much as
    people's in RLAIF (Lee et al. 2023)."""
    batch_size: int = 2
    """Pairs in one forward pass. Our choice, with accumulation: four pairs a step, so that sixty make 45 steps."""
    accumulation: int = 2
    """Forward passes in one optimiser step."""
    evaluate: bool = True
    """Check the candidate against the serving policy when training ends."""


@dataclass(frozen=True)
class PPOSpec(TrainingSpec):
    """Proximal policy optimisation against a reward model (Schulman et al. 2017; Ouyang et al. 2022, equation 2).

    The code of Ziegler et al. 2019 is github.com/openai/lm-human-preferences.
    """

    kind: ClassVar[str] = "ppo"
    reward_model: str = ""
    """Revision of the reward model that scores the answers."""
    method: Method = "qlora"
    """What is trained: 'qlora' low-rank adapters on the base in 4 bits (Dettmers et al. 2023), 'lora' the same on the
    base in 16 or 32 bits (Hu et al. 2022)."""
    reference: Reference = "base"
    """The policy that the KL penalty ties to: the weights under the adapter, or the parent adapter."""
    steps: int = 60
    """Rounds of answering and learning. Our choice, with rollouts: a thousand answers, which small machines can draw;
    the code of Ziegler et al. 2019 draws a million."""
    rollouts: int = 16
    """Answers drawn in each round, to as many prompts, in all processes together."""
    batch_size: int = 4
    """Answers in one forward pass; an optimiser step takes a minibatch, in as many passes as this makes of it."""
    minibatches: int = 2
    """Optimiser steps in one pass over a round's answers. With two epochs four a round, as in the code of Ziegler et
    al. 2019, which makes four epochs of one minibatch."""
    epochs: int = 2
    """Passes over a round's answers."""
    kl_control: KLControl = "adaptive"
    """'adaptive' moves the KL penalty so that the KL of an answer comes to kl_target (Ziegler et al. 2019, section
    2.2); 'fixed' keeps it at kl_coefficient."""
    kl_coefficient: float = 0.1
    """Penalty for each nat of KL to the reference, at first. Our choice, between the 0.15 with a target and the 0.03
    without in the code of Ziegler et al. 2019; rewards vary by 1 there too."""
    kl_target: float = 6.0
    """KL to the reference of a whole answer that the adaptive penalty aims at, in nats; 6 as in the code of
    Ziegler et al. 2019."""
    gamma: float = 1.0
    """Discount of later rewards; none, as in the code of Ziegler et al. 2019."""
    lam: float = 0.95
    """Lambda of generalised advantage estimation (Schulman et al. 2016); 0.95 as in the code of Ziegler et al. 2019."""
    clip: float = 0.2
    """How far the policy's ratio may move in a round before its gradient is cut (Schulman et al. 2017, equation 7; 0.2
    was best in its table 1)."""
    value_clip: float = 0.2
    """How far the critic's value may move in a round before its gradient is cut; 0.2 as in the code of Ziegler et al.
    2019."""
    value_weight: float = 0.1
    """Weight of the critic's loss beside the policy's; 0.1 as in the code of Ziegler et al. 2019."""
    whiten_rewards: bool = False
    """Scale each round's rewards to unit variance before advantages are computed. Our choice: scores are scaled
    already, and a round's few answers say little of their variance."""
    no_end_penalty: float = 1.0
    """Taken from the reward of an answer that was cut off at the limit, in standard deviations of the reward model's
    scores on its training data. Our choice; in the code of Ziegler et al. 2019 it gets -1 instead of its reward."""
    entropy_weight: float = 0.0
    """Weight of the policy's entropy beside its loss; none, as in the code of Ziegler et al. 2019."""
    warmup_steps: int = 0
    """Optimiser steps until the peak; none, as in the code of Ziegler et al. 2019."""
    checkpoint_steps: int = 5
    """Rounds between checkpoints, of which the last two are kept; a killed run resumes from the last one."""
    accepted_accuracy: float = 0.0
    """The reward model's held-out accuracy that the person accepted although it is below the threshold; 0: none."""
    sampling: Sampling = field(default_factory=lambda: Sampling(min_p=0.0))
    """How answers are drawn. PPO needs the policy's own distribution: temperature as is, no min_p."""
    evaluate: bool = True
    """Check the candidate against the serving policy when training ends."""


@dataclass(frozen=True)
class EvaluateSpec:
    """Let a candidate, the serving policy and the base answer the held-out prompts with the same seeds, and compare."""

    kind: ClassVar[str] = "evaluate"
    model: str = "base"
    """Name of the data directory's base model; 'base' for whichever it is."""
    candidate: str = ""
    """Revision of the policy to check."""
    against: str = "serving"
    """Revision to compare with: 'base', 'serving' or another revision."""
    snapshot: str = ""
    """sha256 of the frozen data whose held-out judgements measure the implicit reward; empty: freeze them now."""
    prompt_set: str = ""
    """sha256 of the frozen held-out prompts to answer; empty for the set that every check uses."""
    prompts: int = 60
    """How many held-out prompts that set takes when the first check makes it, the first ones."""
    judges: str = "active"
    """AI judges that compare the candidate's answers with the others', by name, separated by commas; 'active' for
    those that label comparisons, empty for none."""
    failures: int = 10
    """Verdicts that fail one after the other until a judge is given up."""
    seed: int = 20_000
    """Start of the seeds; prompt i draws with seed + i under every policy."""
    prompts_per_batch: int = 30
    """Prompts answered together."""
    sampling: Sampling = field(default_factory=Sampling)
    """How answers are drawn: temperature, then min_p against unlikely tokens, up to max_new_tokens."""


@dataclass(frozen=True)
class JudgeSpec:
    """Let an AI judge judge comparisons, each pair of answers in both orders; what it has judged is not asked again."""

    kind: ClassVar[str] = "judge"
    model: str = "base"
    """Name of the data directory's base model; 'base' for whichever it is."""
    judge: str = ""
    """Name of the judge."""
    scope: Judged = "open"
    """'open' comparisons that wait for judges; those that people have 'judged', the newest first, to see how far the
    judge can be trusted; or those of a 'candidate' with what it would replace."""
    candidate: str = ""
    """Revision of the candidate, for that scope."""
    comparisons: int = 200
    """How many comparisons to judge, at most."""
    failures: int = 10
    """Verdicts that fail one after the other until it gives up; the comparisons stay open."""
    batch_size: int = 8
    """Prompts that a local judge reads together."""


@dataclass(frozen=True)
class AnswerSpec:
    """Let a policy answer a set of prompts, and write the answers to a file, a JSON object a line."""

    kind: ClassVar[str] = "answer"
    model: str = "base"
    """Name of the data directory's base model; 'base' for whichever it is."""
    revision: str = "serving"
    """Revision of the policy that answers: 'base', 'serving' or another revision."""
    split: Answered = "held-out"
    """Which prompts to answer: the 'held-out' ones, those to 'train' on, or 'all'."""
    source: str = ""
    """Only prompts of this source, say the name of an import; empty for whatever source."""
    each: int = 1
    """Answers to each prompt."""
    seed: int = 0
    """Start of the seeds; answer j to the prompt with id i draws with seed + i * each + j, under every policy."""
    prompts_per_batch: int = 12
    """Prompts answered together."""
    sampling: Sampling = field(default_factory=Sampling)
    """How answers are drawn: temperature, then min_p against unlikely tokens, up to max_new_tokens."""


@dataclass(frozen=True)
class MeasureSpec:
    """Run a few steps of a training job and keep nothing but its figures: seconds, memory, parameters."""

    kind: ClassVar[str] = "measure"
    model: str = "base"
    """Name of the data directory's base model; 'base' for whichever it is."""
    training: str = ""
    """The training job's spec, as JSON."""
    steps: int = 3
    """Optimiser steps to run; the first is not counted, because it warms up."""


@dataclass(frozen=True)
class MergeSpec:
    """Add an adapter to the 16-bit weights that it belongs to, as a policy of its own that needs no adapter."""

    kind: ClassVar[str] = "merge"
    model: str = "base"
    """Name of the data directory's base model; 'base' for whichever it is."""
    revision: str = ""
    """Revision of the adapter."""


Spec = (
    GenerateSpec | SFTSpec | RewardModelSpec | DPOSpec | PPOSpec | EvaluateSpec | JudgeSpec | AnswerSpec | MeasureSpec
    | MergeSpec
)  # fmt: skip
SPECS: dict[str, type[Spec]] = {
    spec.kind: spec
    for spec in (
        GenerateSpec,
        SFTSpec,
        RewardModelSpec,
        DPOSpec,
        PPOSpec,
        EvaluateSpec,
        JudgeSpec,
        AnswerSpec,
        MeasureSpec,
        MergeSpec,
    )
}

# The step sizes we stand behind, by kind and method, for models of SmolLM2's size; a model of several billion weights
# wants a third or less (Schulman et al. 2025, "LoRA Without Regret": less the wider a model is, and LoRA's is about ten
# times full fine-tuning's). SFT: our own measurements on the sentiment example (`benchmarks.rates`: 180 headlines once,
# one seed, right on 60 others; full 60% at 2e-5, 68% at 1e-4, 55% at 3e-4; LoRA 62% at 2e-4 and 1e-3, 63% at 3e-3, of
# which we take the middle one; prompt tuning 53% at 1e-2, 43% at 3e-2, 45% at 1e-1: far larger steps than the others',
# as Lester et al. 2021 find, who take 0.3 with Adafactor). DPO: our own (benchmarks/loop.py): much more costs
# language within two iterations; full: Tunstall et al. 2023 (Zephyr). Reward model: our own (64 comparisons twice:
# right on 65% of held-out ones at 1e-4, TRL's default for adapters, 75% at 3e-4, 92% at 1e-3). PPO: ten times and more
# the 3e-6 that Huang et al. 2024 take for full fine-tuning.
LEARNING_RATES: Mapping[str, Mapping[str, float]] = {
    "sft": {"qlora": 1e-3, "lora": 1e-3, "prompt": 1e-2, "full": 1e-4},
    "dpo": {"qlora": 7e-5, "lora": 7e-5, "prompt": 3e-3, "full": 1e-6},
    "reward_model": {"qlora": 1e-3, "lora": 1e-3},
    "ppo": {"qlora": 5e-5, "lora": 5e-5},
}
# DPO's beta by loss, with its source. IPO's log-ratios are per token too, but its loss aims at 1 / (2 beta) of them.
BETAS: Mapping[PreferenceLoss, tuple[float, str]] = {
    "sigmoid": (0.1, "Rafailov et al. 2023, appendix B"),
    "robust": (0.1, "as the sigmoid loss, which it estimates"),
    "ipo": (0.1, "TRL's default, for log-ratios per token as here"),
    "length-normalised": (5.0, "Lambert et al. 2024, Tülu 3, for log-ratios per token as here"),
}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# Which methods a kind of job can use; the form offers no other.
METHODS: Mapping[str, tuple[Method, ...]] = {
    "sft": ("lora", "qlora", "prompt", "full"),
    "dpo": ("qlora", "lora", "prompt", "full"),
    "reward_model": ("qlora", "lora"),
    "ppo": ("qlora", "lora"),
}


Training = TypeVar("Training", bound=TrainingSpec)


def with_defaults(spec: Training) -> Training:
    """The spec with what it leaves to its method and loss. Raises UserError for what can't work together."""
    refuse_impossible(spec)
    return filled(spec)


def filled(spec: Training) -> Training:
    """The spec with the learning rate and beta that 0 stands for, where its method has them."""
    values: dict[str, Any] = {"learning_rate": spec.learning_rate or LEARNING_RATES[spec.kind].get(spec.method, 0.0)}
    if isinstance(spec, DPOSpec):
        values["beta"] = spec.beta or BETAS[spec.loss][0]
    return replace(spec, **values)


def target_layers(spec: TrainingSpec) -> tuple[str, ...]:
    """The layers that get an adapter, by how their names end; empty for every linear one."""
    if spec.lora_targets == "named":
        return tuple(filter(None, (name.strip() for name in spec.lora_layers.split(","))))
    return ATTENTION if spec.lora_targets == "attention" else ()


def refuse_impossible(spec: TrainingSpec) -> None:
    """Raises UserError, with the reason, for settings that can't work together whatever the data."""
    for sentence in impossible(spec):
        raise UserError(sentence)


def impossible(spec: TrainingSpec) -> list[str]:
    """Why these settings can't work together, a sentence each; empty if they can."""
    found: list[str] = []
    lora = spec.method in ("lora", "qlora")
    if spec.method not in METHODS[spec.kind]:
        found.append(
            f"A job of the kind '{spec.kind}' can't be trained with the method '{spec.method}': "
            f"choose {' or '.join(METHODS[spec.kind])}."
        )
    if spec.lora_init != "default" and not lora:
        found.append(f"lora_init '{spec.lora_init}' belongs to LoRA; the method is '{spec.method}'.")
    if (spec.dora or spec.rslora) and not lora:
        found.append(f"dora and rslora belong to LoRA; the method is '{spec.method}'.")
    if spec.lora_init == "pissa" and spec.method == "qlora":
        found.append("PiSSA takes directions out of the base weights, and 4-bit weights can't be changed: use lora.")
    if spec.lora_init == "pissa" and spec.kind != "sft":
        found.append(
            "PiSSA changes the base weights, so switching the adapter off no longer gives the reference (or the base "
            "that several adapters share). Use the default init here; PiSSA works for supervised fine-tuning."
        )
    if spec.lora_init == "pissa" and spec.dora:
        found.append("PiSSA and DoRA can't be put together: choose one.")
    if spec.lora_targets == "named" and not target_layers(spec):
        found.append("lora_targets 'named' needs the names: put them into lora_layers, say 'q_proj, v_proj'.")
    if spec.lora_layers and spec.lora_targets != "named":
        found.append(f"lora_layers are used with lora_targets 'named' only; it is '{spec.lora_targets}'.")
    if spec.method == "prompt" and spec.virtual_init == "text" and not spec.virtual_text.strip():
        found.append("virtual_text is empty: write what the virtual tokens start from, or set virtual_init to random.")
    if isinstance(spec, DPOSpec):
        found += impossible_dpo(spec)
    if isinstance(spec, PPOSpec):
        found += impossible_ppo(spec)
    return found


def impossible_dpo(spec: DPOSpec) -> list[str]:
    """Why a DPO job's settings can't work together."""
    found: list[str] = []
    if spec.annotator_noise == "smooth" and spec.loss != "sigmoid":
        found.append(
            f"annotator_noise 'smooth' is a form of the sigmoid loss; with '{spec.loss}' use weight or ignore."
        )
    if spec.flip_rate >= 0.5:
        found.append(f"flip_rate must be below 0.5, not {spec.flip_rate}: at half the labels say nothing.")
    if spec.flip_rate and spec.loss != "robust":
        found.append(f"flip_rate belongs to the robust loss; the loss is '{spec.loss}'.")
    return found


def impossible_ppo(spec: PPOSpec) -> list[str]:
    """Why a PPO job's settings can't work together."""
    found: list[str] = []
    if spec.rollouts % (spec.minibatches * spec.processes):
        found.append(
            f"rollouts ({spec.rollouts}) must divide evenly into {spec.minibatches} minibatches"
            + (f" for each of {spec.processes} processes." if spec.processes > 1 else ".")
        )
    if spec.sampling.min_p:
        found.append(
            "PPO learns from the policy's own probabilities, and min_p draws from others: set sampling.min_p to 0."
        )
    if spec.kl_control == "adaptive" and not spec.kl_coefficient:
        found.append(
            "kl_control 'adaptive' multiplies the coefficient, and kl_coefficient is 0, which stays 0: give it a start "
            "(0.05), or set kl_control to fixed for no penalty at all."
        )
    if not spec.gamma <= 1 or not spec.lam <= 1:
        found.append("gamma and lam must not be above 1.")
    return found


def to_json(spec: Spec) -> str:
    """A spec as JSON, its kind included; the same spec always gives the same text."""
    return json.dumps({"kind": spec.kind, **asdict(spec)}, sort_keys=True)


def from_json(text: str) -> Spec:
    """Read a spec. Raises UserError naming the field that is unknown, of the wrong type or out of range."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"The spec is not JSON: {error}. See `python -m rlhf spec dpo` for one that works.") from error
    if not isinstance(values, dict) or values.get("kind") not in SPECS:
        raise UserError(f'The spec needs a field "kind", one of: {", ".join(SPECS)}.')
    spec: Spec = build(SPECS[values.pop("kind")], values)
    return spec


def build(spec_type: type[Any], values: dict[str, Any], where: str = "") -> Any:
    """Make a spec (or the sampling inside it) from plain values, checking each one."""
    known = types_of(spec_type)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"The spec has no field '{where}{name}'. It knows: {', '.join(sorted(known))}.")
        checked[name] = check_value(f"{where}{name}", known[name], value)
    return spec_type(**checked)


_types: dict[type[Any], Mapping[str, Any]] = {}


def types_of(spec_type: type[Any]) -> Mapping[str, Any]:
    """The type of each field; working them out takes a millisecond, and every job that is read needs them."""
    if spec_type not in _types:
        hints = get_type_hints(spec_type)
        _types[spec_type] = {entry.name: hints[entry.name] for entry in fields(spec_type)}
    return _types[spec_type]


POSITIVE = {
    "epochs",
    "batch_size",
    "accumulation",
    "max_length",
    "lora_r",
    "lora_alpha",
    "checkpoint_steps",
    "prompts",
    "prompts_per_batch",
    "each",
    "comparisons",
    "failures",
    "buffer",
    "temperature",
    "max_new_tokens",
    "virtual_tokens",
    "processes",
    "steps",
    "rollouts",
    "minibatches",
    "kl_target",
    "clip",
    "value_clip",
}


def check_value(name: str, hint: Any, value: Any) -> Any:
    """One field's value, converted where that loses nothing. Raises UserError with the field's name."""
    if hint is Sampling:
        if not isinstance(value, dict):
            raise UserError(f"The spec's '{name}' must be an object, not {value!r}.")
        return build(Sampling, value, f"{name}.")
    choices = get_args(hint)
    if choices and value not in choices:
        raise UserError(f"The spec's '{name}' must be one of {', '.join(map(str, choices))}, not {value!r}.")
    if not choices:
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
            raise UserError(f"The spec's '{name}' must be of type {hint.__name__}, not {value!r}.")
        if hint in (int, float):
            check_range(name, value)
    return value


def check_range(name: str, value: float) -> None:
    """Raises UserError where a number can't work."""
    short = name.rsplit(".", 1)[-1]
    if short in POSITIVE and not 0 < value < float("inf"):
        raise UserError(f"The spec's '{name}' must be above zero, not {value}.")
    if not 0 <= value < float("inf"):
        raise UserError(f"The spec's '{name}' must not be negative, not {value}.")
    if short == "min_p" and value >= 1:
        raise UserError(f"The spec's '{name}' must be below 1, not {value}.")
    if short == "answers" and value and not 2 <= value <= MAXIMUM_ANSWERS:
        raise UserError(
            f"The spec's '{name}' must be between 2 and {MAXIMUM_ANSWERS}, or 0 for the project's, not {value}."
        )


def describe(spec_type: type[Spec]) -> list[tuple[str, Any, str]]:
    """(field, default, sentence) of a spec, read from its source: the one place where fields are documented."""
    import ast
    import inspect
    import textwrap

    sentences: dict[str, str] = {}
    for owner in reversed([entry for entry in spec_type.__mro__ if entry is not object]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for entry, following in zip(body.body, body.body[1:], strict=False):
            if not isinstance(entry, ast.AnnAssign) or not isinstance(entry.target, ast.Name):
                continue
            if isinstance(following, ast.Expr):
                sentences[entry.target.id] = " ".join(str(ast.literal_eval(following.value)).split())
    default = spec_type()
    return [(entry.name, getattr(default, entry.name), sentences.get(entry.name, "")) for entry in fields(spec_type)]
