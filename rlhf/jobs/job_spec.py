"""One frozen dataclass per kind of job: the spec is the identity of a run and its defaults are the recipe.

A spec also answers what other modules ask about its kind, so that none of them has to know which kinds there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from annotation.database import Database
from annotation.records import Sampling, UserError
from annotation.translation import N_, _, ngettext
from annotation.ui.formatting import short_number
from annotation.validation import FromMapping, NonNegativeFloat, NonNegativeInt, PositiveInt, read
from rlhf.jobs.descriptions import (
    PAIRS,
    Beside,
    Confirmation,
    Curve,
    Facts,
    FormLayout,
    HeldOutFigures,
    Item,
    ItemWords,
    LearningRate,
    Made,
    Rows,
    Tokenised,
    TokenSequence,
    TokenSpan,
    Unit,
    token_span,
)
from rlhf.jobs.finished_training import FinishedTraining

Reference = Literal["base", "parent"]
Scope = Literal["new", "all"]
NoiseUse = Literal["ignore", "weight", "smooth"]
Method = Literal["auto", "qlora", "lora", "prompt", "full"]
Precision = Literal["auto", "bf16", "fp32"]
Targets = Literal["all-linear", "upper-half", "attention", "named"]
LoraInit = Literal["default", "pissa"]
VirtualInit = Literal["text", "random"]
Optimiser = Literal["adamw", "adamw-8bit"]
Drawing = Annotated[Sampling, FromMapping()]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class JobSpec:
    """What every job says; its class variables and methods are what other modules ask about its kind."""

    kind: ClassVar[str] = ""
    title: ClassVar[str] = ""
    """What it does, in a word or two."""
    paper: ClassVar[str] = ""
    """Where that is described, if it is in a paper."""
    short: ClassVar[str] = ""
    """How it is said of a policy that it came of this, in a table; empty: the kind itself."""
    waits: ClassVar[bool] = True
    """Whether it waits in the queue for a device; the worker that answers for annotators has none of its own."""
    curves: ClassVar[Sequence[Curve]] = ()
    """The plots of its metrics, beside those that every training has."""
    model: str = "base"
    """Name of the data directory's base model; 'base' for whichever it is."""

    @classmethod
    def runner(cls) -> str:
        """The module whose `run` does it, in the worker: `train` beside a `spec`, `X_job` beside an `X_spec`."""
        package, _dot, name = cls.__module__.rpartition(".")
        return f"{package}.train" if name == "spec" else f"{package}.{name.removesuffix('_spec')}_job"

    def about(self) -> str:
        return _(self.title)

    def facts(self) -> Facts:
        """The settings that tell it from others of its kind, for the page."""
        return []

    def depends_on(self) -> tuple[str, ...]:
        """The revisions that it reads."""
        return ()

    def repeats(self, other: JobSpec) -> bool:
        """Whether another job that waits or runs makes this one needless."""
        return False

    def continues(self) -> str:
        """The revision whose training what it makes carries on; empty where it trains itself, or makes nothing."""
        return ""

    def trains(self) -> TrainingSpec | None:
        """The training that it does, all of it or its first steps."""
        return None

    def halved(self) -> Self | None:
        """The same job with fewer items in memory at once; None where there is none."""
        return None

    def frozen(self, db: Database, data_dir: Path) -> Self:
        """The spec with revisions for names, and with its data's sha256. Raises UserError for what can't be done."""
        return self


@dataclass(frozen=True)
class TrainingSpec(JobSpec):
    """What every training job says: data, parent, how the weights are changed, and how fast."""

    # ------------------------------------------------------------------------------------------------------ in words
    trained_by: ClassVar[str] = ""
    """How what it made was trained, on a model's card: 'trained by …'."""
    last_step: ClassVar[Mapping[str, str]] = {}
    """Its metrics of the last step that belong on a model's card, with their names there."""
    held_out: ClassVar[HeldOutFigures | None] = None
    """What it measures on held-out rows itself, as the entries `held_out` and `held_out_before` of its result."""
    step_word: ClassVar[str] = N_("optimiser step")
    """What its steps are, on the axis of a plot."""
    automatic: ClassVar[str] = ""
    """How the loop would train by it without being asked, in words; empty where it does not."""
    # ---------------------------------------------------------------------------------------------------------- data
    unit: ClassVar[Unit] = "pairs"
    """The format of the rows that it is frozen with."""
    items: ClassVar[ItemWords] = PAIRS
    """What a batch counts; COMPARISONS take all pairs of one together."""
    at_least: ClassVar[int] = 8
    """Rows below which it is not begun."""
    # ------------------------------------------------------------------------------------------------ model and memory
    makes: ClassVar[Made] = "policy"
    """A policy, which answers, or a reward model, which has a scalar head instead of the vocabulary's."""
    methods: ClassVar[Mapping[Method, LearningRate]] = {}
    """The methods that it can use beside 'auto', in the order of the form, with the learning rate that 0 stands for."""
    base_may_change: ClassVar[bool] = False
    """Whether nothing needs the base as it was under the adapter: no reference, no other adapter."""
    answers_per_item: ClassVar[int] = 1
    """Answers that one item has at most, each as long as max_length allows."""
    beside: ClassVar[tuple[Beside, ...]] = ()
    """What is held in memory beside the policy."""
    drawn_together: ClassVar[int] = 1
    """How many answers it draws together, as a multiple of those in a pass with gradients; where it draws any."""
    raises: ClassVar[str] = ""
    """Its metric that a model's scores make, and that it is to raise; empty where it is scored by none."""
    pace_free: ClassVar[tuple[str, ...]] = (
        *("model", "snapshot", "parent", "seed", "learning_rate", "epochs", "warmup_steps", "checkpoint_steps"),
        *("samples", "check"),
    )
    """Fields that change nothing about the time of a step."""
    # ---------------------------------------------------------------------------------------------------------- form
    forms: ClassVar[Sequence[FormLayout]] = ()
    """Its forms, one a tab."""
    labels: ClassVar[Mapping[str, str]] = {}
    """Names of its own fields on the page where they are not the field's name with a capital."""
    words: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """What the values of its own fields mean on the page."""
    only_with: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {}
    """Fields that mean something only with some values of another one."""
    loss_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that stand under 'Loss' on the form, in this order."""
    lists: ClassVar[Mapping[str, Made]] = {}
    """Fields beside the parent that name a model, with the kind of model."""
    offered: ClassVar[Mapping[str, Callable[[], Sequence[tuple[str, str]]]]] = {}
    """Fields that are chosen from another list, with what is in it: (words, value)."""
    unasked: ClassVar[tuple[str, ...]] = ()
    """Fields that no form asks, because a confirmation stands for them."""
    sampling_fields: ClassVar[Mapping[str, str]] = {}
    """What the form asks of how it draws answers, with a sentence each."""

    left_open: ClassVar[Sequence[str]] = ("learning_rate", "checkpoint_steps")
    """Fields of which 0 stands for a default of its own; in the form they are empty then."""

    snapshot: str = ""
    """sha256 of the frozen data; empty: freeze the data as it is when the job is made."""
    parent: str = "serving"
    """Revision to start from: 'base', 'serving' or another revision. An adapter is continued, and what is
    left at its default of rank, alpha, layers and tokens is as there; whole weights carry a new adapter."""
    seed: NonNegativeInt = 0
    """Seeds fresh weights and the data order."""
    method: Method = "auto"
    """What is trained: 'qlora' low-rank adapters on the base in 4 bits (Dettmers et al. 2023), 'lora' the same on the
    base in 16 or 32 bits (Hu et al. 2022), 'prompt' virtual tokens before the prompt (Lester et al. 2021), 'full' every
    weight, 'auto' what the parent's adapter is, else of the first two the one that fits its weights."""
    precision: Precision = "auto"
    """What is computed in, and for LoRA and prompt tuning also what the frozen weights are held in: bf16, fp32, or
    'auto' for the parent's, and where that is 4 bits for bf16 if the processor has it. What is trained is always held
    in fp32, so full fine-tuning in bf16 holds a 16-bit copy of the weights besides: 18 bytes a weight with gradient and
    AdamW's state, 16 in fp32."""
    lora_r: PositiveInt = 16
    """Rank of the adapter (Hu et al. 2022, section 4.1). Our choice: the smallest of Biderman et al. 2024 (16 to 256),
    for a few hundred examples."""
    lora_alpha: PositiveInt = 32
    """Scale of the adapter, divided by the rank: twice the rank (Biderman et al. 2024)."""
    lora_targets: Targets = "all-linear"
    """The layers that get an adapter: every linear one (Dettmers et al. 2023, section 4, needed to match full
    fine-tuning), those in the upper half of the model (what lies below is computed once, while there is room for it,
    so that a step takes little more than half the time), the attention's (q_proj, k_proj, v_proj and o_proj), or those
    named in lora_layers."""
    lora_layers: str = ""
    """Names of layers, or how these end, separated by commas: 'q_proj, v_proj'."""
    dora: bool = False
    """Train magnitude and direction apart (DoRA, Liu et al. 2024); slower, sometimes better at low rank."""
    rslora: bool = False
    """Divide alpha by the root of the rank (rsLoRA, Kalajdzievski 2023), for high ranks."""
    lora_init: LoraInit = "default"
    """Start of the adapter: 'default' changes nothing at first; 'pissa' takes the weights' principal directions out of
    the base (Meng et al. 2024), so that the base without the adapter is no longer the base."""
    virtual_tokens: PositiveInt = 20
    """Tokens of a prompt-tuning adapter; more than 20 gain little (Lester et al. 2021, section 3.2)."""
    virtual_init: VirtualInit = "text"
    """Start of the virtual tokens: the embeddings of a text's tokens, or of tokens drawn from the vocabulary. Vectors
    that are no token's do worse at small sizes (Lester et al. 2021, section 3.2)."""
    virtual_text: str = "Answer the user well, in the way that people prefer."
    """The text that virtual tokens start from, repeated or cut to their number."""
    learning_rate: NonNegativeFloat = 0.0
    """Peak of AdamW's step size; warmed up, then linearly to zero. Empty (or 0) for the method's own."""
    warmup_steps: NonNegativeInt = 2
    """Optimiser steps until the peak. Our choice: AdamW's first steps are its noisiest (Liu et al. 2020), and a run may
    have only a dozen."""
    epochs: PositiveInt = 3
    """Passes over the data."""
    batch_size: PositiveInt = 2
    """Items in one forward pass."""
    max_length: PositiveInt = 512
    """Tokens of prompt and answer; longer items are left out and counted. 512 as Alpaca (Taori et al. 2023)."""
    optimiser: Optimiser = "adamw"
    """'adamw-8bit' holds the optimiser's state in 8 bits (Dettmers et al. 2022); needs a GPU."""
    checkpoint_steps: NonNegativeInt = 0
    """Optimiser steps between checkpoints, of which the last two are kept; Resume goes on from the last one. Empty
    (or 0) for as often as takes 3% of the time."""
    samples: NonNegativeInt = 3
    """How often in the run a few fixed held-out prompts are answered, to be read; 0 for never."""
    processes: PositiveInt = 1
    """Processes that share each optimiser step, one a device, through accelerate; each takes batches of batch_size."""
    halve_batch: bool = False
    """When memory runs out, go on with half the batch and twice the accumulation instead of failing."""

    # ------------------------------------------------------------- fields that only some have, and what holds without
    @property
    def accumulation(self) -> int | None:
        """Forward passes in one optimiser step; None where the batch alone says what a step takes."""
        return None

    @property
    def packing(self) -> bool:
        """Whether several items may lie in one row."""
        return True

    @property
    def check(self) -> bool:
        """Whether what it makes is checked when training ends."""
        return False

    @property
    def reference(self) -> Reference | None:
        """What it is held near to; None where nothing holds it."""
        return None

    @property
    def scope(self) -> str:
        """Which of the judgements it trains on; empty where it trains on none."""
        return ""

    @property
    def source(self) -> str:
        """Where its demonstrations come from; empty where it learns from none."""
        return ""

    # -------------------------------------------------------------------------------------------------- what it says
    def about(self) -> str:
        return f"{_(self.title)}, {_(SHORT_METHODS[self.method])}"

    def pace_fact(self) -> tuple[str, str]:
        """How much it works through, in how large steps, for the page."""
        step = self.batch_size * self.accumulated() * self.processes
        epochs = _("at most {epochs}").format(epochs=self.epochs) if self.ends_early() else str(self.epochs)
        step_words = _("{step} or more").format(step=step) if self.accumulation == 0 else str(step)
        return _("Epochs · {items} a step").format(items=_(self.items.plural)), f"{epochs} · {step_words}"

    @classmethod
    def counted_steps(cls, count: int) -> str:
        """So many of its steps."""
        return ngettext("{count:,} optimiser step", "{count:,} optimiser steps", count).format(count=count)

    def default_notes(self) -> list[str]:
        """What those of its own settings stand for that are left to a default, with the source."""
        return []

    def open_values(self) -> Mapping[str, str]:
        """What the fields that are `left_open` stand for with these settings, in a word."""
        rate = self.default_rate()
        return {} if rate is None else {"learning_rate": short_number(rate.value)}

    def ends_early(self) -> bool:
        """Whether it may be over before its last step."""
        return False

    def ended_early(self, final: Mapping[str, Any]) -> str:
        """Why it was over after the step that reported `final`, as a sentence; empty where it was the last."""
        return ""

    def setback(self, result: Mapping[str, Any] | None) -> str:
        """What got worse on held-out rows, in a sentence; empty where nothing did, or was measured before and after."""
        done = FinishedTraining.of(result)
        return "" if self.held_out is None else self.held_out.setback(done.held_out_before, done.held_out)

    def references(self) -> Mapping[str, tuple[float, str]]:
        """Values to compare with, and their names, by the name of the curve that they are drawn in."""
        return {}

    # ------------------------------------------------------------------------------------------ what it can be run with
    def on_weights(self, precision: str) -> Self:
        """The spec with the method and the precision that it leaves to the weights that it starts from."""
        method: Method = self.method
        if method == "auto":
            method = "qlora" if precision == "nf4" else "lora"
        held = self.precision == "auto" and method != "qlora" and precision != "nf4"
        return replace(self, method=method, precision=cast(Precision, precision) if held else self.precision)

    def held_in(self) -> str:
        """The precision of the weights under what it trains; 'auto' where that is left open."""
        return "nf4" if self.method == "qlora" else self.precision

    def filled(self) -> Self:
        """The spec with the learning rate that 0 stands for, where its method has one."""
        rate = self.default_rate()
        return replace(self, learning_rate=self.learning_rate or (rate.value if rate else 0.0))

    def default_rate(self) -> LearningRate | None:
        """The learning rate that 0 stands for; None where the method is still to be chosen.

        Adapters in half of the layers move a policy half as far in a step (docs/benchmarks.md, the recipe).
        """
        rate = self.methods.get(self.method)
        halved = rate is not None and self.method in ("lora", "qlora") and self.lora_targets == "upper-half"
        return replace(rate, value=2 * rate.value) if rate and halved else rate

    def impossible(self) -> list[str]:
        """Why these settings can't work together whatever the data, a sentence each; empty if they can."""
        return [*impossible_methods(self), *self.contradictions()]

    def contradictions(self) -> Iterable[str]:
        """Why settings of its own can't work together, a sentence each."""
        return ()

    def refusal(self, db: Database) -> str:
        """Why it can't be run with the models that it names beside its parent; empty where it can."""
        return ""

    def confirmation(self, db: Database) -> Confirmation | None:
        """What a person has to confirm first, where that helps; None where nothing is to be confirmed."""
        return None

    # ------------------------------------------------------------------------------------------------- which models
    def trains(self) -> TrainingSpec | None:
        return self

    def depends_on(self) -> tuple[str, ...]:
        """The revisions that it reads: the parent, and what it is scored by."""
        return self.parent, *self.trained_against()

    @classmethod
    def trained_first(cls) -> Made | None:
        """The kind of model that the loop trains before it: one that it `lists`, and no policy, as one serves."""
        return next((made for made in cls.lists.values() if made != "policy"), None)

    def trained_against(self) -> tuple[str, ...]:
        """The revisions of the models that it is trained to please: none of them may judge what it makes."""
        return ()

    def implicit_reference(self) -> Reference | None:
        """What its implicit rewards are log-ratios to; None where its loss has none."""
        return None

    def rewards_per_token(self) -> bool:
        """Whether its implicit rewards are log-ratios averaged over an answer's tokens, not summed."""
        return False

    # ---------------------------------------------------------------------------------------------------------- data
    def rows(self, db: Database) -> Rows:
        """The rows of today that it trains on and is checked with. Raises UserError where there can be none."""
        raise NotImplementedError

    def data_key(self) -> tuple[Any, ...]:
        """The settings that decide which rows these are."""
        return self.kind, self.parent, self.scope, self.max_length

    def tokenise(self, tokenizer: Any, rows: Sequence[Any]) -> Tokenised:
        """Its own kind of rows as the worker takes them, and what it leaves out."""
        raise NotImplementedError

    def answers_of(self, item: Any) -> list[Sequence[int]]:
        return []

    def sequences(self, tokenizer: Any, item: Any) -> list[TokenSequence]:
        """The sequences of an item, each token with its part in the loss."""
        raise NotImplementedError

    def item_facts(self, rows: Sequence[Any]) -> Facts:
        """What is known of an item beside its text."""
        return []

    def prompt_spans(self, tokenizer: Any, item: Item) -> list[TokenSpan]:
        """An item's prompt; the virtual tokens that prompt tuning puts first have no text."""
        virtual = [TokenSpan("virtual", [("", self.virtual_tokens)])] if self.method == "prompt" else []
        return [*virtual, token_span(tokenizer, "context", item["prompt_ids"])]

    def tokens_of(self, item: Item) -> int:
        """Tokens that an item puts into a forward pass, virtual ones and the answers that are drawn included."""
        virtual = self.virtual_tokens if self.method == "prompt" else 0
        return virtual + len(item["prompt_ids"]) + sum(map(len, self.answers_of(item))) + self.drawn_tokens()

    def drawn_tokens(self) -> int:
        """Tokens of the longest answer that it draws itself; 0 where it draws none."""
        return 0

    # ---------------------------------------------------------------------------------------------------------- pace
    def accumulated(self) -> int:
        """Forward passes in one optimiser step; the fewest where the data decide (`over`)."""
        return self.accumulation or 1

    def over(self, items: int) -> Self:
        """The spec with what so many items decide."""
        return self

    def steps_over(self, items: int) -> int:
        """Steps of a run over so many items."""
        return self.epochs * ceil(items / (self.batch_size * self.over(items).accumulated() * self.processes))

    def comparable(self) -> Self:
        """The spec without what does not change its pace: data, seed, parent, length of the run, what follows it."""
        default, own = type(self)(), {entry.name for entry in fields(self)}
        return replace(self, **{name: getattr(default, name) for name in self.pace_free if name in own})

    def halved(self) -> Self | None:
        """The same training with fewer items in a forward pass; None where there is but one.

        What the batch loses the accumulation gains, so an optimiser step sees as many items as before; without one,
        minibatches are cut into passes anyway.
        """
        if self.batch_size < 2:
            return None
        if self.accumulation is None:
            return replace(self, batch_size=self.batch_size // 2)
        # Its largest whole part: half of it if it is even, a third of 9, 1 of a prime.
        batch = next(part for part in range(self.batch_size // 2, 0, -1) if self.batch_size % part == 0)
        more: dict[str, Any] = {"accumulation": self.accumulation * (self.batch_size // batch)}
        return replace(self, batch_size=batch, **more)


SHORT_METHODS = {
    "auto": N_("LoRA or QLoRA"),
    "qlora": "QLoRA",
    "lora": "LoRA",
    "prompt": N_("prompt tuning"),
    "full": N_("full"),
}


def target_layers(spec: TrainingSpec) -> tuple[str, ...]:
    """The layers that get an adapter, by how their names end; empty for every linear one."""
    if spec.lora_targets == "named":
        return tuple(filter(None, (name.strip() for name in spec.lora_layers.split(","))))
    return ATTENTION if spec.lora_targets == "attention" else ()


def first_adapted(spec: TrainingSpec, layers: int) -> int:
    """The first of so many layers that gets an adapter, from 0."""
    upper = spec.lora_targets == "upper-half" and spec.method not in ("prompt", "full")
    return layers // 2 if upper else 0


Training = TypeVar("Training", bound=TrainingSpec)


def impossible_methods(spec: TrainingSpec) -> Iterator[str]:
    """Why a training's settings of what is trained can't work together."""
    lora = spec.method in ("auto", "lora", "qlora")
    if spec.method not in ("auto", *spec.methods):
        yield _(
            "A job of the kind '{kind}' can't be trained with the method '{method}': choose one of: {methods}."
        ).format(kind=spec.kind, method=spec.method, methods=", ".join(spec.methods))
    if spec.lora_init != "default" and not lora:
        yield _("lora_init '{lora_init}' belongs to LoRA; the method is '{method}'.").format(
            lora_init=spec.lora_init, method=spec.method
        )
    if (spec.dora or spec.rslora) and not lora:
        yield _("dora and rslora belong to LoRA; the method is '{method}'.").format(method=spec.method)
    if spec.lora_init == "pissa" and spec.method == "qlora":
        yield _("PiSSA takes directions out of the base weights, and 4-bit weights can't be changed: use lora.")
    if spec.lora_init == "pissa" and not spec.base_may_change:
        yield _(
            "PiSSA changes the base weights, so switching the adapter off no longer gives the reference "
            "(or the base that several adapters share). Use the default init here; PiSSA works where "
            "nothing needs the base as it was."
        )
    if spec.lora_init == "pissa" and spec.dora:
        yield _("PiSSA and DoRA can't be put together: choose one.")
    if spec.lora_targets == "named" and not target_layers(spec):
        yield _("lora_targets 'named' needs the names: put them into lora_layers, say 'q_proj, v_proj'.")
    if spec.lora_layers and spec.lora_targets != "named":
        yield _("lora_layers are used with lora_targets 'named' only; it is '{lora_targets}'.").format(
            lora_targets=spec.lora_targets
        )
    if spec.method == "prompt" and spec.virtual_init == "text" and not spec.virtual_text.strip():
        yield _("virtual_text is empty: write what the virtual tokens start from, or set virtual_init to random.")


# ------------------------------------------------------------------------------------------------------- every kind
def kinds() -> Mapping[str, type[JobSpec]]:
    """Every kind of job by its name, in the order of menus.

    Found by name and late: a job's row can't be read without its kind, and kinds ask data, models and judges, which
    lie above this package.
    """
    return cast(Mapping[str, type[JobSpec]], import_module("rlhf.kinds").KINDS)


def trainings() -> Mapping[str, type[TrainingSpec]]:
    return {kind: spec for kind, spec in kinds().items() if issubclass(spec, TrainingSpec)}


def short_of(kind: str) -> str:
    """How it is said of a policy in a table that it came of a job of this kind; a kind of elsewhere as it is."""
    return (kinds()[kind].short if kind in kinds() else "") or kind


def to_json(spec: JobSpec) -> str:
    """A spec as JSON, its kind included; the same spec always gives the same text."""
    return json.dumps({"kind": spec.kind, **asdict(spec)}, sort_keys=True)


def from_row(text: str) -> JobSpec:
    """The spec in a job's row, as `to_json` wrote it; where its kind has changed since, `from_json` says how."""
    values = json.loads(text)
    try:
        if "sampling" in values:
            values["sampling"] = Sampling(**values["sampling"])
        return kinds()[values.pop("kind")](**values)
    except (KeyError, TypeError):
        return from_json(text)


# What specs of earlier versions say in files and on cards: kinds, and a field.
KINDS_CALLED_SINCE: Mapping[str, str] = {"evaluate": "check", "generate": "answering", "answer": "prompt-set"}
CALLED_CHECK_SINCE = "evaluate"


def from_json(text: str) -> JobSpec:
    """Read a spec, of earlier versions too.

    Raises UserError naming the field that is unknown, of the wrong type or out of range.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        said = _("The spec is not JSON: {error}. See `python -m rlhf spec {kind}` for one that works.")
        raise UserError(said.format(error=error, kind=next(iter(trainings())))) from error
    kind = values.pop("kind", None) if isinstance(values, dict) else None
    kind = KINDS_CALLED_SINCE.get(kind, kind) if isinstance(kind, str) else kind
    if isinstance(values, dict) and CALLED_CHECK_SINCE in values:
        values["check"] = values.pop(CALLED_CHECK_SINCE)
    if not isinstance(kind, str) or kind not in kinds():
        raise UserError(_('The spec needs a field "kind", one of: {kinds}.').format(kinds=", ".join(kinds())))
    return read(kinds()[kind], values, _("The spec"))
