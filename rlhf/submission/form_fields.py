"""The forms of the training jobs, without their looks: which fields each has and where, in words, and form to spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, get_args

from annotation.examples import EXAMPLES
from annotation.records import Sampling
from rlhf.jobs import specs
from rlhf.jobs.specs import METHODS, DPOSpec, PPOSpec, RewardModelSpec, SFTSpec

TrainingJob = SFTSpec | RewardModelSpec | DPOSpec | PPOSpec
Values = Mapping[str, Any]

# Filled by what submits a job, or by a question of the form's own.
UNASKED = ("model", "snapshot", "accepted_accuracy", "sampling")
# Of how PPO draws answers; min_p has to stay 0.
SAMPLING_FIELDS = {
    "temperature": "1 draws from the policy's own distribution; lower than that is safer and explores less.",
    "max_new_tokens": "Tokens after which an answer is cut off.",
}
LORA = ("lora_r", "lora_alpha", "lora_targets", "lora_layers", "dora", "rslora", "lora_init")
PROMPT = ("virtual_tokens", "virtual_init", "virtual_text")
RUN = ("samples", "evaluate", "checkpoint_steps", "processes", "halve_batch")
LOSSES = (
    *("sft_weight", "flip_rate", "ai_weight", "margin", "centre", "kl_coefficient", "kl_target", "gamma", "lam"),
    *("clip", "value_clip", "value_weight", "whiten_rewards", "no_end_penalty", "entropy_weight"),
)
# Advanced fields in the order of the page; what is in no other group is about the optimisation.
GROUPS: Mapping[str, Sequence[str]] = {
    "Loss": LOSSES,
    "LoRA": LORA,
    "Prompt tuning": PROMPT,
    "Optimisation": (),
    "Run": RUN,
}
LABELS = {
    "lora_r": "LoRA rank (lora_r)",
    "lora_alpha": "LoRA alpha",
    "lora_targets": "LoRA targets",
    "lora_layers": "LoRA layers",
    "lora_init": "LoRA init",
    "dora": "DoRA (dora)",
    "rslora": "rsLoRA (rslora)",
    "sft_weight": "SFT weight",
    "ai_weight": "AI judges' weight",
    "source": "Data (source)",
    "scope": "Data (scope)",
    "kl_control": "KL control",
    "kl_coefficient": "KL coefficient",
    "kl_target": "KL target",
    "lam": "Lambda (lam)",
}
# What the values of a field mean on the page.
WORDS: Mapping[str, Mapping[str, str]] = {
    "method": {"qlora": "QLoRA", "lora": "LoRA", "prompt": "Prompt tuning", "full": "Full"},
    "reference": {"base": "The weights under the adapter", "parent": "The parent"},
    "scope": {"new": "New since the parent", "all": "All judgements"},
    "annotator_noise": {"ignore": "Ignore", "weight": "Weight", "smooth": "Smooth"},
    "precision": {"auto": "Automatic", "bf16": "bf16", "fp32": "fp32"},
    "lora_targets": {"all-linear": "Every linear layer", "attention": "Attention only", "named": "Named ones"},
    "lora_init": {"default": "Default", "pissa": "PiSSA"},
    "virtual_init": {"text": "A text", "random": "Tokens drawn from the vocabulary"},
    "optimiser": {"adamw": "AdamW", "adamw-8bit": "AdamW in 8 bits"},
    "loss": {"sigmoid": "Sigmoid", "ipo": "IPO", "robust": "Robust", "length-normalised": "Length-normalised"},
    "kl_control": {"adaptive": "Adaptive", "fixed": "Fixed"},
}
# Fields that mean something only with some values of another, which has to mean something too.
ONLY_WITH: Mapping[str, tuple[str, tuple[str, ...]]] = {
    **{name: ("method", ("lora", "qlora")) for name in LORA},
    "lora_layers": ("lora_targets", ("named",)),
    **{name: ("method", ("prompt",)) for name in PROMPT},
    "virtual_text": ("virtual_init", ("text",)),
    "flip_rate": ("loss", ("robust",)),
    "kl_target": ("kl_control", ("adaptive",)),
}


@dataclass(frozen=True)
class Form:
    """One form: its kind of job, what is on top of it, and what is fixed."""

    name: str
    label: str
    """The title of its tab."""
    spec_type: type[TrainingJob]
    main: Sequence[str]
    start: str
    """What its button says."""
    fixed: Values = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """Every field that it asks, in the order of the page: the main ones, then group by group."""
        return [*self.main, *(name for names in self.groups.values() for name in names)]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Its advanced fields by group."""
        asked = [name for name in self.described if name not in self.main and name not in self.fixed]
        asked = [name for name in asked if not self.never(name)]
        named = {name for names in GROUPS.values() for name in names}
        grouped = {
            title: [name for name in names if name in asked] or ([] if names else [n for n in asked if n not in named])
            for title, names in GROUPS.items()
        }
        return {title: names for title, names in grouped.items() if names}

    @cached_property
    def described(self) -> dict[str, tuple[Any, str]]:
        """(default, sentence) of each field of the spec that a form may ask, the sampling's apart."""
        found = {name: (value, said) for name, value, said in specs.describe(self.spec_type) if name not in UNASKED}
        if self.spec_type is PPOSpec:
            drawn = asdict(PPOSpec().sampling)
            found |= {f"sampling.{name}": (drawn[name], said) for name, said in SAMPLING_FIELDS.items()}
        return found

    @property
    def conditional(self) -> list[str]:
        """The fields that are not always there: they mean something only with other settings, or on some machines."""
        return [name for name in self.names if name in ONLY_WITH or name == "processes"]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that it offers."""
        return (self.fixed["method"],) if "method" in self.fixed else METHODS[self.spec_type.kind]

    def never(self, name: str) -> bool:
        """Whether a field means nothing with any method that the form offers, or for this kind of job."""
        if name == "samples":
            return self.spec_type is RewardModelSpec
        other, values = ONLY_WITH.get(name, ("", ()))
        return not set(values) & set(self.methods) if other == "method" else other in ONLY_WITH and self.never(other)

    def choices(self, name: str) -> list[tuple[str, str]]:
        """(words, value) of a field that takes one of several values; none for others."""
        values: Sequence[str] = get_args(specs.types_of(self.spec_type).get(name, object))
        values = self.methods if name == "method" else values
        default = self.described[name][0] if name in self.described else None
        return [
            (WORDS[name][value] + (" (default)" if value == default else ""), value)
            for value in values
            if isinstance(value, str)
        ]


FORMS = (
    Form(
        "dpo",
        "Preferences (DPO)",
        DPOSpec,
        (
            "parent",
            "reference",
            "scope",
            "method",
            "loss",
            "beta",
            "annotator_noise",
            "epochs",
            "learning_rate",
            "seed",
        ),
        "Train on preferences",
    ),
    Form(
        "sft",
        "Supervised",
        SFTSpec,
        ("source", "parent", "method", "epochs", "learning_rate", "batch_size", "seed"),
        "Train on demonstrations",
    ),
    Form(
        "full",
        "Full fine-tuning",
        SFTSpec,
        ("source", "parent", "precision", "epochs", "learning_rate", "batch_size", "seed"),
        "Train every weight",
        {"method": "full"},
    ),
    Form(
        "reward_model",
        "Reward model",
        RewardModelSpec,
        ("parent", "scope", "method", "annotator_noise", "epochs", "learning_rate", "seed"),
        "Train a reward model",
    ),
    Form(
        "ppo",
        "PPO",
        PPOSpec,
        ("reward_model", "parent", "reference", "method", "kl_control", "steps", "rollouts", "learning_rate", "seed"),
        "Train with PPO",
    ),
)
BY_NAME = {form.name: form for form in FORMS}
SOURCES = [
    ("Demonstrations: imported ones (each answer of a conversation) and mended answers", "demonstrations"),
    *((f"Example: {about}", f"example:{name}") for name, about in EXAMPLES.items()),
]


def label(name: str) -> str:
    """A field's name on the page; sentences about it use the name of the spec."""
    words = name.removeprefix("sampling.").replace("_", " ")
    return LABELS.get(name, words[:1].upper() + words[1:])


def hidden(form: Form, values: Values) -> set[str]:
    """The fields that mean nothing with these values."""
    chosen = {**values, **form.fixed}

    def meaningless(name: str) -> bool:
        if name not in ONLY_WITH:
            return False
        other, wanted = ONLY_WITH[name]
        return chosen.get(other) not in wanted or meaningless(other)

    return {name for name in form.names if meaningless(name)}


def spec_of(form: Form, model: str, values: Values) -> TrainingJob:
    """The form as a spec; what is hidden keeps its default. Raises UserError naming a field that can't be meant."""
    unseen = hidden(form, values)
    asked = {name: value for name, value in values.items() if name not in unseen}
    drawn = {name.removeprefix("sampling."): value for name, value in asked.items() if name.startswith("sampling.")}
    plain = {name: value for name, value in asked.items() if not name.startswith("sampling.")}
    sampling = {"sampling": {**asdict(Sampling(min_p=0.0)), **drawn}} if form.spec_type is PPOSpec else {}
    spec: TrainingJob = specs.build(form.spec_type, {"model": model, **form.fixed, **plain, **sampling})
    return spec


def form_for(kind: str, method: str) -> Form:
    """The form that makes jobs of a kind; full fine-tuning has its own, and what has none continues with DPO."""
    if kind == "sft" and method == "full":
        return BY_NAME["full"]
    return BY_NAME.get(kind, BY_NAME["dpo"])
