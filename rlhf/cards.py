"""The card of a trained policy or reward model: what it is, what it was made from, and how it is loaded elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from annotation.database import Database
from annotation.outgoing.dataset_card import code, table
from annotation.wording import percent
from rlhf import jobs, policies
from rlhf.base_model import EMBEDDED_NAME, EMBEDDED_PACKAGE
from rlhf.freezing import snapshot_counts, unit_of
from rlhf.policies import Form, Kind, Policy, Weights
from rlhf.specs import MergeSpec, TrainingSpec

EMBEDDED_HUB_NAME: Final = f"HuggingFaceTB/{EMBEDDED_NAME}"
KINDS: Final[Mapping[str, str]] = {
    "sft": "supervised fine-tuning",
    "reward_model": "comparing answers (Bradley and Terry 1952)",
    "dpo": "direct preference optimisation",
    "ppo": "proximal policy optimisation",
}
METHODS: Final[Mapping[str, str]] = {
    "qlora": "low-rank adapters on the base in 4 bits (QLoRA)",
    "lora": "low-rank adapters (LoRA)",
    "prompt": "virtual tokens before the prompt (prompt tuning)",
    "full": "every weight (full fine-tuning)",
}
# Figures of the last step of training, by what trains.
LAST_STEP: Final[Mapping[str, Mapping[str, str]]] = {
    "sft": {"loss": "loss", "token_accuracy": "token accuracy"},
    "reward_model": {"loss": "loss", "accuracy": "accuracy"},
    "dpo": {"loss": "loss", "rewards/accuracies": "implicit accuracy", "rewards/margins": "implicit margin"},
    "ppo": {"reward": "reward", "kl": "KL to the reference, nats an answer", "length": "tokens of an answer"},
}


@dataclass(frozen=True)
class Made:
    """What a job has made, as its row will say."""

    base: str
    parent_id: int
    form: Form
    weights: Weights
    kind: Kind = "policy"
    ground_id: int | None = None


@dataclass(frozen=True)
class Subject:
    """What a card is about. Names are those by which it can be found elsewhere, never paths of this machine."""

    revision: str
    kind: Kind
    form: Form
    weights: Weights
    """The precision of what an adapter lies on, or of weights of its own."""
    base: str
    """The base model's public name."""
    ground: str
    """What an adapter lies on: the base, or the revision whose weights it needs."""
    training: TrainingSpec | None
    """The training that made it, or the adapter that it was merged from."""
    counts: Mapping[str, Any]
    """Rows of the training's data by split."""
    merged: Policy | None
    """The adapter that it was merged from."""


def public_name(base: str) -> str:
    """The name by which others can find a base model: of one in a directory, the directory's own name."""
    if base == EMBEDDED_NAME:
        return EMBEDDED_HUB_NAME
    return Path(base).name if Path(base).is_absolute() else base


def subject_of(db: Database, job_id: int, revision: str, made: Made) -> Subject:
    """What the card of a job's policy is about."""
    spec = jobs.get(db, job_id).spec
    merged = policies.by_revision(db, spec.revision) if isinstance(spec, MergeSpec) else None
    if merged is not None and merged.job_id is not None:
        spec = jobs.get(db, merged.job_id).spec
    training = spec if isinstance(spec, TrainingSpec) else None
    base = public_name(made.base)
    return Subject(
        revision=revision,
        kind=made.kind,
        form=made.form,
        weights=made.weights,
        base=base,
        ground=base if made.ground_id is None else policies.by_id(db, made.ground_id).revision,
        training=training,
        counts=snapshot_counts(db, training.snapshot) if training is not None else {},
        merged=merged,
    )


def describe_directory(directory: Path, about: Subject, result: Mapping[str, Any]) -> None:
    """Write the card into a policy's directory, and names instead of paths into an adapter's configuration.

    PEFT writes where the base lies on this machine, which is of no use elsewhere and nobody's business.
    """
    (directory / "README.md").write_text(card(about, result), "utf-8")
    path = directory / "adapter_config.json"
    if path.is_file():
        config = json.loads(path.read_text("utf-8"))
        known = {"base_model_name_or_path", "tokenizer_name_or_path"} & {name for name in config if config[name]}
        config |= dict.fromkeys(known, about.ground)
        path.write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")


# ---------------------------------------------------------------------------------------------------------------- card
def card(about: Subject, result: Mapping[str, Any]) -> str:
    """The whole README.md; `result` is that of the job so far."""
    parts = [
        front_matter(about),
        f"# {about.revision}",
        introduction(about),
        "## How to load it",
        needs(about),
        f"```python\n{loading(about)}\n```",
        "## What it was made from",
        origin(about),
        "## Figures",
        figures(about, result),
        *settings(about),
        "## Licence",
        "*To be filled in by whoever publishes it, with regard to the licence of the base model and to the data.*",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(about: Subject) -> str:
    """The YAML between the dashes, by which the Hub knows what it is and what it belongs to."""
    adapter = about.form != "full"
    tags = ["prefloop", *([about.training.kind, about.training.method] if about.training is not None else [])]
    lines = [
        f"base_model: {json.dumps(about.base)}",
        f"base_model_relation: {'adapter' if adapter else 'finetune'}",
        f"library_name: {'peft' if adapter else 'transformers'}",
        f"pipeline_tag: {'text-classification' if about.kind == 'reward' else 'text-generation'}",
        "tags:",
        *(f"- {tag}" for tag in tags),
    ]
    return "\n".join(["---", *lines, "---"])


def introduction(about: Subject) -> str:
    """What it is, in a sentence or two."""
    what = {"lora": "A LoRA adapter", "prompt": "A prompt-tuning adapter", "full": "A language model"}[about.form]
    if about.kind == "reward":
        what = "A reward model (a LoRA adapter with a scalar head)"
    if about.merged is not None:
        return f"{what}: the adapter {code(about.merged.revision)}, added by Prefloop to the weights it belongs to."
    how = "" if about.training is None else f", trained by {KINDS[about.training.kind]} with Prefloop"
    return f"{what} {'that began as' if about.form == 'full' else 'for'} {code(about.base)}{how}."


def needs(about: Subject) -> str:
    """What must be there before it can be loaded."""
    unpacked = (
        f"The code expects this directory to be called {code(about.revision)} and to be in the working directory."
    )
    if about.form == "full":
        return unpacked
    if about.ground != about.base:
        return (
            f"It needs the weights of {code(about.ground)}, which are not the base's: on those it computes something "
            f"else. Download {code(about.ground)} too, and put its directory beside this one. {unpacked}"
        )
    if about.base == EMBEDDED_HUB_NAME:
        return (
            f"It was trained on the weights in the Python package {code(EMBEDDED_PACKAGE)}, which were rounded to 4 "
            "bits (GGUF Q4_1). Those of this name on the Hub were not, so answers differ a little from Prefloop's. "
            f"{unpacked}"
        )
    return unpacked


def loading(about: Subject) -> str:
    """Code for transformers and PEFT that loads it and uses it once."""
    reward, adapter = about.kind == "reward", about.form != "full"
    model_class = "AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM"
    ground = about.ground if adapter else about.revision
    quantised = adapter and about.weights == "nf4"
    names = sorted([model_class, "AutoTokenizer", *(["BitsAndBytesConfig"] if quantised else [])])
    arguments = [f'"{ground}"', *(["num_labels=1", "pad_token_id=tokenizer.pad_token_id"] if reward else [])]
    dtype = "float32" if about.weights == "fp32" else "bfloat16"
    lines = [
        *(["import json", "from pathlib import Path", ""] if reward else []),
        *(["from peft import PeftModel"] if adapter else []),
        f"from transformers import {', '.join(names)}",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{ground}")',
    ]
    if quantised:
        lines += [
            "four_bits = BitsAndBytesConfig(",
            '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
            '    bnb_4bit_compute_dtype="bfloat16", llm_int8_skip_modules=["lm_head", "score"],',
            ")",
        ]
        arguments.append("quantization_config=four_bits")
    lines.append(f'model = {model_class}.from_pretrained({", ".join(arguments)}, dtype="{dtype}")')
    if adapter:
        lines.append(f'model = PeftModel.from_pretrained(model, "{about.revision}")')
    use = SCORING.format(revision=about.revision) if reward else ANSWERING
    return "\n".join([*lines, use])


ANSWERING: Final = """\
model.eval()
prompt = tokenizer.apply_chat_template(
    [{"role": "user", "content": "What is a good breakfast?"}],
    add_generation_prompt=True, return_dict=True, return_tensors="pt",
).to(model.device)
tokens = model.generate(**prompt, max_new_tokens=96)[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(tokens, skip_special_tokens=True))"""
# The shift and scale are those by which PPO uses the scores.
SCORING: Final = """\
model.eval()
question = [{{"role": "user", "content": "What is a good breakfast?"}}]
text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
ids = tokenizer(text + "Porridge." + tokenizer.eos_token, add_special_tokens=False, return_tensors="pt")
known = json.loads(Path("{revision}/reward.json").read_text("utf-8"))
score = (model(**ids.to(model.device)).logits.item() - known["mean"]) / known["std"]
print(score)  # in standard deviations of the answers that it was trained on"""


def origin(about: Subject) -> str:
    """Base, parent, method, data and seed."""
    training = about.training
    rows = [["base model", code(about.base)]]
    if about.form != "full":
        rows.append(["lies on", code(about.ground)])
    if about.merged is not None:
        rows += [["merged from", code(about.merged.revision)], ["its sha256", code(str(about.merged.sha256))]]
    if training is None:
        return table(["", ""], rows)
    made = "it was trained " if about.merged is not None else ""
    rows += [
        [f"{made}from", code(training.parent)],
        [f"{made}by", KINDS[training.kind]],
        ["what was trained", METHODS[training.method]],
        ["data", data_text(about)],
        ["sha256 of the data", code(training.snapshot)],
        ["seed", str(training.seed)],
    ]
    return table(["", ""], rows)


def data_text(about: Subject) -> str:
    """How much was trained on, and how much was kept out."""
    assert about.training is not None
    counts = about.counts
    left_out = sum(counts.get("left_out", {}).values())
    held_out = f", {counts['held-out']:,} held out" if counts.get("held-out") else ""
    rest = f", {left_out:,} left out" if left_out else ""
    return f"{counts.get('train', 0):,} {unit_of(about.training)}{held_out}{rest}"


def figures(about: Subject, result: Mapping[str, Any]) -> str:
    """What was measured: on held-out data where the training did that, else at its last step."""
    rows: list[list[str]] = []
    before, after = result.get("held_out_before") or {}, result.get("held_out") or {}
    if after.get("n"):
        names = {"loss": "loss, nats a token", "perplexity": "perplexity", "token_accuracy": "token accuracy"}
        for key, name in names.items():
            earlier = f" (before: {before[key]:.3f})" if before else ""
            rows.append([f"{name}, on {after['n']:,} held-out demonstrations", f"{after[key]:.3f}{earlier}"])
    accuracy = (result.get("health") or {}).get("accuracy") or {}
    if accuracy.get("value") is not None:
        interval = f"{percent(accuracy['low'])} to {percent(accuracy['high'])}"
        name = f"right on {accuracy['n']:,} held-out comparisons (95% interval)"
        rows.append([name, f"{percent(accuracy['value'])} ({interval})"])
    if result.get("rounding") is not None:
        rows.append(["rounding to bfloat16, as a share of what the adapter changes", f"{result['rounding']:.4f}"])
    last = result.get("final") or {}
    if about.training is not None and about.merged is None:
        for key, name in LAST_STEP[about.training.kind].items():
            if key in last:
                rows.append([f"{name}, at the last step of training", f"{last[key]:.3f}"])
    if result.get("trainable"):
        rows.append(["trained parameters", f"{result['trainable']:,} ({result['trainable_percent']:.2f}%)"])
    return table(["figure", "value"], rows) or "None were measured."


def settings(about: Subject) -> Sequence[str]:
    """The whole spec of the training; indented, so that no text in it can end the block."""
    if about.training is None:
        return ()
    spec = {"kind": about.training.kind, **asdict(about.training), "model": about.base}
    lines = json.dumps(spec, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
    return ("## Settings", "\n".join(f"    {line}" for line in lines))
