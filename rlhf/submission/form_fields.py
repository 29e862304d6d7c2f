"""The forms of the training jobs, without their looks: which fields each has and where, in words, and form to spec."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from typing import Any, get_args

from annotation.translation import N_, _, spoken
from annotation.validation import describe, hint_at, read, whole_if_it_can
from rlhf.jobs import job_spec
from rlhf.jobs.descriptions import FormLayout
from rlhf.jobs.job_spec import JobSpec, TrainingSpec

Values = Mapping[str, Any]

# Filled by what submits a job, or by a question of the form's own.
UNASKED = ("model", "snapshot", "sampling")
LORA = ("lora_r", "lora_alpha", "lora_targets", "lora_layers", "dora", "rslora", "lora_init")
PROMPT = ("virtual_tokens", "virtual_init", "virtual_text")
RUN = ("samples", "check", "checkpoint_steps", "processes", "halve_batch")
LOSS, OPTIMISATION = N_("Loss"), N_("Optimisation")
# Advanced fields in the order of the page; what is in no other group is about the optimisation.
GROUPS: Mapping[str, Sequence[str]] = {
    LOSS: (),  # those that the kind names
    N_("LoRA"): LORA,
    N_("Prompt tuning"): PROMPT,
    OPTIMISATION: (),
    N_("Run"): RUN,
}
LABELS = {
    "kind": N_("Kind"),
    "lora_r": N_("LoRA rank (lora_r)"),
    "lora_alpha": N_("LoRA alpha"),
    "lora_targets": N_("LoRA targets"),
    "lora_layers": N_("LoRA layers"),
    "lora_init": N_("LoRA init"),
    "dora": "DoRA (dora)",
    "rslora": "rsLoRA (rslora)",
    "ai_weight": N_("AI judges' weight"),
    "scope": N_("Data (scope)"),
    "sampling.temperature": N_("Temperature"),
    "sampling.max_new_tokens": N_("Max new tokens"),
}
# What the values of a field mean on the page.
WORDS: Mapping[str, Mapping[str, str]] = {
    "method": {
        "auto": N_("Automatic"),
        "qlora": "QLoRA",
        "lora": "LoRA",
        "prompt": N_("Prompt tuning"),
        "full": N_("Full"),
    },
    "reference": {"base": N_("The weights under the adapter"), "parent": N_("The parent")},
    "scope": {"new": N_("New since the parent"), "all": N_("All judgements")},
    "annotator_noise": {"ignore": N_("Ignore"), "weight": N_("Weight"), "smooth": N_("Smooth")},
    "precision": {"auto": N_("Automatic"), "bf16": "bf16", "fp32": "fp32"},
    "lora_targets": {
        "all-linear": N_("Every linear layer"),
        "upper-half": N_("Those of the upper half"),
        "attention": N_("Attention only"),
        "named": N_("Named ones"),
    },
    "lora_init": {"default": N_("Default"), "pissa": "PiSSA"},
    "virtual_init": {"text": N_("A text"), "random": N_("Tokens drawn from the vocabulary")},
    "optimiser": {"adamw": "AdamW", "adamw-8bit": N_("AdamW in 8 bits")},
}
# Fields that mean something only with some values of another, which has to mean something too.
ONLY_WITH: Mapping[str, tuple[str, tuple[str, ...]]] = {
    **{name: ("method", ("auto", "lora", "qlora")) for name in LORA},
    "lora_layers": ("lora_targets", ("named",)),
    **{name: ("method", ("prompt",)) for name in PROMPT},
    "virtual_text": ("virtual_init", ("text",)),
}


@dataclass(frozen=True)
class Form:
    """One form: its kind of job, and how it is laid out."""

    spec_type: type[TrainingSpec]
    layout: FormLayout

    @property
    def name(self) -> str:
        return self.layout.name

    @cached_property
    def names(self) -> list[str]:
        """Every field that it asks, in the order of the page: the main ones, then group by group."""
        return [*self.layout.main, *(name for names in self.groups.values() for name in names)]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        asked = [name for name in self.described if name not in self.layout.main and name not in self.layout.fixed]
        asked = [name for name in asked if not self.never(name)]
        groups = {**GROUPS, LOSS: self.spec_type.loss_fields}
        named = {name for names in groups.values() for name in names}
        groups[OPTIMISATION] = [name for name in asked if name not in named]
        grouped = {title: [name for name in names if name in asked] for title, names in groups.items()}
        return {title: names for title, names in grouped.items() if names}

    @cached_property
    def described(self) -> dict[str, tuple[Any, str]]:
        """(default, sentence) of each field of the spec that a form may ask, the sampling's apart."""
        unasked = (*UNASKED, *self.spec_type.unasked)
        found = {name: (value, said) for name, value, said in describe(self.spec_type) if name not in unasked}
        drawn = self.drawn
        return found | {
            f"sampling.{name}": (drawn[name], said) for name, said in self.spec_type.sampling_fields.items()
        }

    @cached_property
    def drawn(self) -> dict[str, Any]:
        """How a job of this kind draws answers by default; empty where it draws none."""
        return asdict(self.spec_type().sampling) if self.spec_type.sampling_fields else {}  # type: ignore[attr-defined]

    @cached_property
    def only_with(self) -> Mapping[str, tuple[str, tuple[str, ...]]]:
        """Fields that mean something only with some values of another, which has to mean something too."""
        return {**ONLY_WITH, **self.spec_type.only_with}

    @property
    def conditional(self) -> list[str]:
        """The fields that are not always there: they mean something only with other settings, or on some machines."""
        return [name for name in self.names if name in self.only_with or name == "processes"]

    @property
    def methods(self) -> tuple[str, ...]:
        fixed = self.layout.fixed
        return (fixed["method"],) if "method" in fixed else ("auto", *self.spec_type.methods)

    def never(self, name: str) -> bool:
        """Whether a field means nothing with any method that the form offers, or for this kind of job."""
        if name == "samples":
            return self.spec_type.makes == "reward-model"
        other, values = self.only_with.get(name, ("", ()))
        return (
            not set(values) & set(self.methods) if other == "method" else other in self.only_with and self.never(other)
        )

    def choices(self, name: str) -> list[tuple[str, str]]:
        """(words, value) of a field that takes one of several values; none for others."""
        values: Sequence[str] = get_args(hint_at(self.spec_type, name.split(".")))
        values = self.methods if name == "method" else values
        default = self.described[name][0] if name in self.described else None
        named = {value: choice_label(self.spec_type, name, value) for value in values if isinstance(value, str)}
        return [
            (_("{choice} (default)").format(choice=name) if value == default else name, value)
            for value, name in named.items()
        ]

    def label(self, name: str) -> str:
        return label_of(name, (self.spec_type,))


def label_of(name: str, kinds: Sequence[type[JobSpec]]) -> str:
    """What a setting of these kinds of job is called on pages."""
    own = {field: label for kind in kinds if issubclass(kind, TrainingSpec) for field, label in kind.labels.items()}
    return _({**LABELS, **own}.get(name) or plain_words(name.removeprefix("sampling.")))


# Settings that sentences name by one word; others of one word are said in the reader's language.
ONE_WORD = ("accumulation",)


def in_labels(sentence: str, spec: JobSpec) -> str:
    """A sentence about settings of a job, or of the training that it measures, with what pages call them.

    Commands show it as it is. Names within paths and quotation marks, and those that no form asks for, stay.
    """
    kind = type(spec.trains() or spec)
    unasked = kind.unasked if issubclass(kind, TrainingSpec) else ()
    own = (entry.name for entry in fields(kind) if "_" in entry.name or entry.name in ONE_WORD)
    named = "|".join(("max_new_tokens", *(name for name in own if name not in unasked)))

    def label(found: re.Match[str]) -> str:
        return _("“{label}”").format(label=label_of(found[0], (kind,)))

    return re.sub(rf"(?<![\w/.'\"\\-])(?:sampling\.)?(?:{named})(?![\w/'\"\\-]|\.\w)", label, sentence)


def choice_label(kind: type[JobSpec], name: str, value: str) -> str:
    """What a value of a setting is called on pages: the value itself, where it is none of several that it can have."""
    if not issubclass(kind, TrainingSpec) or value not in get_args(hint_at(kind, name.split("."))):
        return value
    return _({**WORDS, **kind.words}.get(name, {}).get(value) or plain_words(value))


def plain_words(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


@cache
def forms() -> tuple[Form, ...]:
    """Every form, in the order of the page."""
    return tuple(Form(spec, layout) for spec in job_spec.trainings().values() for layout in spec.forms)


def hidden(form: Form, values: Values) -> set[str]:
    chosen = {**values, **form.layout.fixed}

    def meaningless(name: str) -> bool:
        if name not in form.only_with:
            return False
        other, wanted = form.only_with[name]
        return chosen.get(other) not in wanted or meaningless(other)

    return {name for name in form.names if meaningless(name)}


def spec_of(form: Form, model: str, values: Values) -> TrainingSpec:
    """The form as a spec; what is hidden keeps its default. Raises UserError naming a field that can't be meant."""
    unseen = hidden(form, values)
    left_open = form.spec_type.left_open
    typed = {name: number_typed(value) if name in left_open else value for name, value in values.items()}
    empty = {name for name in left_open if typed.get(name) is None}
    asked = {name: value for name, value in typed.items() if name not in unseen | empty}
    drawn = {name.removeprefix("sampling."): value for name, value in asked.items() if name.startswith("sampling.")}
    plain = {name: value for name, value in asked.items() if not name.startswith("sampling.")}
    sampling = {"sampling": {**form.drawn, **drawn}} if form.drawn else {}
    labels = {name: form.label(name) for name in form.names}
    return read(form.spec_type, {"model": model, **form.layout.fixed, **plain, **sampling}, _("The spec"), labels)


def number_typed(value: Any) -> Any:
    """A number that was typed; None for nothing, and as it is what is no number, which the spec refuses by name.

    Comma and point are alike, as in 0,2 and 1.5, but where one may stand between thousands in the reader's language, as
    in 2,000 or German 2.000: that is no number.
    """
    if not isinstance(value, str):
        return value
    text, between = value.strip(), re.escape(",".translate(spoken().separators))
    try:
        grouped = re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}({between}\d{{3}})+", text)
        return None if not text else text if grouped else whole_if_it_can(float(text.replace(",", ".")))
    except ValueError:
        return text


def form_for(kind: str, method: str) -> Form:
    """The form that makes jobs of a kind, one of its own for a method first; what has none continues with the first."""
    own = [form for form in forms() if form.spec_type.kind == kind]
    fixed = [form for form in own if form.layout.fixed.get("method") == method]
    return [*fixed, *own, *forms()][0]
