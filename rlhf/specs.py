"""One frozen dataclass per kind of job: the spec is the identity of a run and its defaults are the recipe."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args, get_type_hints

from annotation.records import MAXIMUM_ANSWERS, Sampling, UserError

Reference = Literal["base", "parent"]
Scope = Literal["new", "all"]
Noise = Literal["ignore", "weight", "smooth"]


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
class DPOSpec:
    """Direct preference optimisation (Rafailov et al. 2023) with QLoRA (Dettmers et al. 2023)."""

    kind: ClassVar[str] = "dpo"
    model: str = "base"
    """Name of the data directory's base model; 'base' for whichever it is."""
    snapshot: str = ""
    """sha256 of the frozen data; empty: freeze the judgements as they are when the job is made."""
    scope: Scope = "new"
    """Train on judgements made since the parent's data was frozen ('new') or on every judgement ('all')."""
    parent: str = "serving"
    """Revision to start from: 'base', 'serving' or an adapter's revision."""
    reference: Reference = "base"
    """The policy that the KL penalty ties to: the base model, or the parent adapter."""
    seed: int = 0
    """Seeds the adapter's initial weights and the data order."""
    beta: float = 0.1
    """Strength of the tie to the reference (equation 7 of the DPO paper)."""
    sft_weight: float = 0.2
    """Weight of the likelihood of the chosen answer beside the DPO loss; counters degeneration (Pang et al. 2024)."""
    annotator_noise: Noise = "ignore"
    """What a pair's estimated chance of being the wrong way round (flip) does to its loss: 'ignore' nothing; 'weight'
    multiplies it by 1 - 2 flip, over the data's mean of that; 'smooth' is conservative DPO (Mitchell 2023)."""
    learning_rate: float = 7e-5
    """Peak of AdamW's step size; warmed up, then linearly to zero. Much more costs language within two iterations."""
    warmup_steps: int = 2
    """Optimiser steps until the peak."""
    epochs: int = 3
    """Passes over the pairs."""
    batch_size: int = 2
    """Pairs in one forward pass; small batches waste little on padding."""
    accumulation: int = 2
    """Forward passes in one optimiser step."""
    max_length: int = 512
    """Tokens of prompt and answer; longer pairs are left out and counted."""
    lora_r: int = 16
    """Rank of the adapter, on all linear layers (Dettmers et al. 2023, section 4)."""
    lora_alpha: int = 32
    """Scale of the adapter, divided by the rank."""
    checkpoint_steps: int = 2
    """Optimiser steps between checkpoints; a killed run resumes from the last one."""
    evaluate: bool = True
    """Check the candidate against the serving policy when training ends."""


@dataclass(frozen=True)
class EvaluateSpec:
    """Let a candidate, the serving policy and the base answer the held-out prompts with the same seeds, and compare."""

    kind: ClassVar[str] = "evaluate"
    model: str = "base"
    """Name of the data directory's base model; 'base' for whichever it is."""
    candidate: str = ""
    """Revision of the adapter to check."""
    against: str = "serving"
    """Revision to compare with: 'base', 'serving' or an adapter's revision."""
    snapshot: str = ""
    """sha256 of the frozen data whose held-out judgements measure the implicit reward; empty: freeze them now."""
    prompts: int = 60
    """How many held-out prompts to answer, the first ones."""
    seed: int = 20_000
    """Start of the seeds; prompt i draws with seed + i under every policy."""
    prompts_per_batch: int = 30
    """Prompts answered together."""
    sampling: Sampling = field(default_factory=Sampling)
    """How answers are drawn: temperature, then min_p against unlikely tokens, up to max_new_tokens."""


Spec = GenerateSpec | DPOSpec | EvaluateSpec
SPECS: dict[str, type[Spec]] = {spec.kind: spec for spec in (GenerateSpec, DPOSpec, EvaluateSpec)}


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
    hints = get_type_hints(spec_type)
    known = {entry.name: hints[entry.name] for entry in fields(spec_type)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"The spec has no field '{where}{name}'. It knows: {', '.join(sorted(known))}.")
        checked[name] = check_value(f"{where}{name}", known[name], value)
    return spec_type(**checked)


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
    "buffer",
    "learning_rate",
    "beta",
    "temperature",
    "max_new_tokens",
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

    body = ast.parse(textwrap.dedent(inspect.getsource(spec_type))).body[0]
    assert isinstance(body, ast.ClassDef)
    sentences: dict[str, str] = {}
    for entry, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and isinstance(following, ast.Expr):
            sentences[entry.target.id] = " ".join(str(ast.literal_eval(following.value)).split())
    default = spec_type()
    return [(entry.name, getattr(default, entry.name), sentences.get(entry.name, "")) for entry in fields(spec_type)]
