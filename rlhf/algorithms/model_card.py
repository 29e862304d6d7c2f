"""The card of a trained policy or reward model: what it is, what it was made from, and how it is loaded elsewhere.

The one in a policy's directory is written before anything is measured of it; the published one says more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from annotation.database import Database
from annotation.exports.dataset_card import code, table
from annotation.hub_client import to_front_matter
from annotation.metrics.intervals_and_bias import Estimate
from annotation.translation import ENGLISH, speaking
from annotation.ui.formatting import percent_with_interval
from rlhf.data.snapshots import SnapshotCounts, snapshot_counts
from rlhf.evaluation.report import CheckReport, CountedIn
from rlhf.jobs import job_store
from rlhf.jobs.descriptions import Made
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.models import registry
from rlhf.models.adapters.stored_adapter import read_adapter, write_settings
from rlhf.models.base.base_files import EMBEDDED_NAME, EMBEDDED_PACKAGE
from rlhf.models.base.base_template import can_be_told, end_of_answers
from rlhf.models.chat_template import NO_THINKING
from rlhf.models.model_files import WHOLE
from rlhf.models.registry import HeldPrecision, Policy, PolicyForm
from rlhf.models.reward_model_quality import quality_in

EMBEDDED_HUB_NAME: Final = f"HuggingFaceTB/{EMBEDDED_NAME}"
METHODS: Final[Mapping[str, str]] = {
    "qlora": "low-rank adapters on the base in 4 bits (QLoRA)",
    "lora": "low-rank adapters (LoRA)",
    "prompt": "virtual tokens before the prompt (prompt tuning)",
    "full": "every weight (full fine-tuning)",
}


@dataclass(frozen=True)
class TrainedModel:
    base: str
    parent_id: int
    form: PolicyForm
    precision: HeldPrecision
    kind: Made = "policy"
    ground_id: int | None = None


@dataclass(frozen=True)
class Address:
    """Where something is on the Hub; without a revision the newest."""

    repo: str
    revision: str = ""

    @property
    def name(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo

    @property
    def arguments(self) -> str:
        """For `from_pretrained`."""
        return f'"{self.repo}"' + (f', revision="{self.revision}"' if self.revision else "")


@dataclass(frozen=True)
class PublishedWinRate:
    """How often its answers were preferred to another policy's, ties as half."""

    against: str
    judge: str
    """As Markdown."""
    share: Estimate
    unit: CountedIn = "prompts"
    """What `share.n` counts."""


@dataclass(frozen=True)
class Ancestor:
    revision: str
    algorithm: str
    sha256: str | None
    """Of its files; a base model has none."""
    address: Address | None
    """Where it is on the Hub, if it is."""


@dataclass(frozen=True)
class PublishedFacts:
    """What only a published card says: where it is and lies on, whose licence holds, how it did, what it grew from."""

    address: Address
    ground: Address | None
    """Where the weights are that it lies on; None for a base that is only in a directory here."""
    licence: str = ""
    """The Hub's word for it; empty where whoever publishes has not said."""
    base_licence: str = ""
    evaluation: Sequence[PublishedWinRate] = ()
    check: CheckReport | None = None
    agreement: str = ""
    """How far the people agreed on whose judgements it was trained, as Markdown."""
    lineage: Sequence[Ancestor] = ()
    """Nearest first."""
    data: Address | None = None
    """Where the data that it was trained on is, if it was pushed as a dataset."""
    endpoint: str = ""
    base_sha256: str = ""
    """What tells the base model's weights from others of its name; empty where they are not known."""


@dataclass(frozen=True)
class Subject:
    """What a card is about. Names are those by which it can be found elsewhere, never paths of this machine."""

    revision: str
    kind: Made
    form: PolicyForm
    precision: HeldPrecision
    """The precision of what an adapter lies on, or of weights of its own."""
    base: str
    ground: str
    """What an adapter lies on: the base, or the revision whose weights it needs."""
    training: TrainingSpec | None
    """The training that made it, or the adapter that it was merged from."""
    counts: SnapshotCounts
    """Of the training's data; with what a training learnt from it where another job has merged what it made."""
    merged: Policy | None
    source: str | None = None
    """Where on the Hub it comes from, if it was not made here."""
    no_thinking: bool = False
    """Whether its prompts told it not to think."""
    end: str = ""
    """The token that ended the answers of a reward model's training; empty where it is not known."""

    @property
    def adapter(self) -> bool:
        """Whether it needs other weights under it."""
        return self.form != "full"


def public_name(base: str) -> str:
    """The name by which others can find a base model: of one in a directory, the directory's own name."""
    if base == EMBEDDED_NAME:
        return EMBEDDED_HUB_NAME
    return Path(base).name if Path(base).is_absolute() else base.partition("@")[0]


def subject_of(
    db: Database, job_id: int | None, revision: str, made: TrainedModel | Policy, source: str | None = None
) -> Subject:
    """What the card of a policy is about that a job made, or that comes from `source`."""
    spec, learnt = None if job_id is None else job_store.get(db, job_id).spec, FinishedTraining()
    continued = "" if spec is None else spec.continues()
    merged = registry.by_revision(db, continued) if continued else None
    if merged is not None and merged.job_id is not None:
        job = job_store.get(db, merged.job_id)
        spec, learnt = job.spec, FinishedTraining.of(job.result)
    trained = made if merged is None else merged
    training = spec.on_weights(trained.precision) if isinstance(spec, TrainingSpec) else None
    base = public_name(made.base)
    return Subject(
        revision=revision,
        kind=made.kind,
        form=made.form,
        precision=made.precision,
        base=base,
        ground=base if made.ground_id is None else registry.by_id(db, made.ground_id).revision,
        training=training,
        counts=snapshot_counts(db, training.snapshot).learnt(learnt) if training is not None else SnapshotCounts(),
        merged=merged,
        source=source,
        no_thinking=registry.no_thinking(db) and can_be_told(db.path.parent, made.base),
        end=end_of_answers(db.path.parent, made.base) if made.kind == "reward-model" else "",
    )


def describe_directory(directory: Path, about: Subject, result: Mapping[str, Any]) -> None:
    """Write the card into a policy's directory, and names instead of paths into an adapter's configuration.

    PEFT writes where the base lies on this machine, which is of no use elsewhere and nobody's business.
    """
    (directory / "README.md").write_text(card(about, result), "utf-8")
    if about.adapter:
        adapter = read_adapter(directory)
        write_settings(directory, replace(adapter, base_model_name_or_path=about.ground))


# ---------------------------------------------------------------------------------------------------------------- card
@speaking(ENGLISH)
def card(about: Subject, result: Mapping[str, Any], record: PublishedFacts | None = None) -> str:
    """The whole README.md; `result` is that of the job so far. `record` makes it the card of something published."""
    parts = [
        front_matter(about, record),
        f"# {about.revision}",
        introduction(about),
        "## How to load it",
        needs(about) if record is None else needs_on_hub(about, record),
        f"```python\n{loading(about, record)}\n```",
        "## What it was made from",
        origin(about, result, record),
        "## Figures",
        figures(about, result),
        *([] if record is None else evaluation(about, record)),
        *([] if record is None else lineage(record)),
        *settings(about),
        "## Licence",
        licence(about, record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(about: Subject, record: PublishedFacts | None = None) -> str:
    """The YAML between the dashes, by which the Hub knows what it is and what it belongs to."""
    tags = ["prefloop", *([about.training.kind, about.training.method] if about.training is not None else [])]
    base = about.base if record is None else record.ground and record.ground.repo
    named = {"base_model": base, "base_model_relation": "adapter" if about.adapter else "finetune"}
    return to_front_matter(
        {
            **(named if base else {}),
            **({"license": record.licence} if record is not None and record.licence else {}),
            **({"datasets": [record.data.repo]} if record is not None and record.data is not None else {}),
            "library_name": "peft" if about.adapter else "transformers",
            "pipeline_tag": "text-classification" if about.kind == "reward-model" else "text-generation",
            "tags": tags,
            **({} if record is None else {FACTS: facts(about, record), **model_index(about, record)}),
        }
    )


FACTS: Final = "prefloop"


BASE_SHA256: Final = "base_sha256"


def facts(about: Subject, record: PublishedFacts) -> dict[str, str]:
    """What another data directory has to know to use it as it was used here."""
    known = {"revision": about.revision, "kind": about.kind, "form": about.form, "precision": about.precision}
    known["weights"] = about.precision  # as versions that may pull it call it
    return {**known, **({BASE_SHA256: record.base_sha256} if record.base_sha256 else {})}


def model_index(about: Subject, record: PublishedFacts) -> dict[str, Any]:
    if not record.evaluation:
        return {}
    metrics = [
        {
            "type": "win_rate",
            "value": round(float(one.share.value), 4),
            "name": f"win rate against {one.against}, {one.judge}, 95% interval {one.share.low:.3f} to "
            f"{one.share.high:.3f}",
        }
        for one in record.evaluation
    ]
    task, data = {"type": "text-generation"}, {"name": "held-out prompts of the project", "type": "prefloop-held-out"}
    results = [{"task": task, "dataset": data, "metrics": metrics}]
    return {"model-index": [{"name": about.revision, "results": results}]}


def introduction(about: Subject) -> str:
    what = {"lora": "A LoRA adapter", "prompt": "A prompt-tuning adapter", "full": "A language model"}[about.form]
    if about.kind == "reward-model":
        what = "A reward model (a LoRA adapter with a scalar head)"
    if about.merged is not None:
        return f"{what}: the adapter {code(about.merged.revision)}, added by Prefloop to the weights it belongs to."
    if about.source is not None:
        return f"{what} that comes from {code(about.source)}."
    how = "" if about.training is None else f", trained by {about.training.trained_by} with Prefloop"
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
        return f"{ROUNDED} {unpacked}"
    return unpacked


ROUNDED: Final = (
    f"It was trained on the weights in the Python package {code(EMBEDDED_PACKAGE)}, which were rounded to 4 bits (GGUF "
    "Q4_1). Those of this name on the Hub were not, so answers differ a little from Prefloop's."
)


def needs_on_hub(about: Subject, record: PublishedFacts) -> str:
    """What else must be there before the code can load it from the Hub."""
    if not about.adapter:
        return ""
    if record.ground is None:
        return (
            f"It needs the weights of {code(about.base)}, which lay in a directory where it was trained: the code "
            "expects a directory of that name in the working directory."
        )
    if about.ground != about.base:
        return f"It needs the weights of {code(record.ground.repo)}, not the base's: the code loads those."
    return ROUNDED if about.base == EMBEDDED_HUB_NAME else ""


def loading(about: Subject, record: PublishedFacts | None = None) -> str:
    """Code for transformers and PEFT that loads it and uses it once."""
    reward, adapter = about.kind == "reward-model", about.adapter
    model_class = "AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM"
    own = Address(about.revision) if record is None else record.address
    under = None if record is None else record.ground
    ground = (under or Address(about.ground)).arguments if adapter else own.arguments
    quantised = adapter and about.precision == "nf4"
    names = sorted([model_class, "AutoTokenizer", *(["BitsAndBytesConfig"] if quantised else [])])
    arguments = [ground, *(["num_labels=1"] if reward else [])]
    dtype = "float32" if about.precision == "fp32" else "bfloat16"
    lines = [
        *(["import json", "from pathlib import Path", ""] if reward else []),
        *(["from huggingface_hub import hf_hub_download"] if reward and record is not None else []),
        *(["from peft import PeftModel"] if adapter else []),
        f"from transformers import {', '.join(names)}",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({ground})",
    ]
    if quantised:
        lines += [
            "four_bits = BitsAndBytesConfig(",
            '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
            f'    bnb_4bit_compute_dtype="bfloat16", llm_int8_skip_modules={json.dumps(WHOLE)},',
            ")",
        ]
        arguments.append("quantization_config=four_bits")
    lines.append(f'model = {model_class}.from_pretrained({", ".join(arguments)}, dtype="{dtype}")')
    if reward:
        lines.append("model.config.get_text_config().pad_token_id = tokenizer.pad_token_id")
    if adapter:
        lines.append(f"model = PeftModel.from_pretrained(model, {own.arguments})")
    use = ANSWERING
    if reward:  # some templates end answers with another token than the tokenizer says that texts end with
        end = json.dumps(about.end) if about.end else "tokenizer.eos_token"
        use = SCORING.format(figures=figures_beside(about, record), end=end)
    if about.no_thinking:
        told = ", ".join(f"{name}={value}" for name, value in NO_THINKING.items())
        use = use.replace("add_generation_prompt=True,", f"add_generation_prompt=True, {told},")
    return "\n".join([*lines, use])


def figures_beside(about: Subject, record: PublishedFacts | None) -> str:
    """Code for the path of a reward model's figures, which lie beside its weights."""
    if record is None:
        return f'"{about.revision}/reward.json"'
    own = record.address
    revision = f', revision="{own.revision}"' if own.revision else ""
    return f'hf_hub_download("{own.repo}", "reward.json"{revision})'


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
ids = tokenizer(text + "Porridge." + {end}, add_special_tokens=False, return_tensors="pt")
known = json.loads(Path({figures}).read_text("utf-8"))
score = (model(**ids.to(model.device)).logits.item() - known["mean"]) / known["std"]
print(score)  # in standard deviations of the answers that it was trained on"""


def origin(about: Subject, result: Mapping[str, Any], record: PublishedFacts | None = None) -> str:
    training = about.training
    rows = [["base model", code(about.base)]]
    if about.adapter:
        rows.append(["lies on", code(about.ground)])
    if about.merged is not None:
        rows += [["merged from", code(about.merged.revision)], ["its sha256", code(str(about.merged.sha256))]]
    if about.source is not None:
        rows.append(["comes from", code(about.source)])
    if training is None:
        return table(["", ""], rows)
    made = "it was trained " if about.merged is not None else ""
    rows += [
        [f"{made}from", code(training.parent)],
        [f"{made}by", training.trained_by],
        ["what was trained", METHODS[training.method]],
        ["data", data_text(about, result)],
        ["sha256 of the data", code(training.snapshot)],
        *([] if record is None or record.data is None else [["the data as a dataset", data_link(record, record.data)]]),
        ["seed", str(training.seed)],
    ]
    return table(["", ""], rows)


def data_link(record: PublishedFacts, data: Address) -> str:
    return f"[{data.repo}]({record.endpoint}/datasets/{data.repo}/tree/{data.revision}), tag {code(data.revision)}"


def data_text(about: Subject, result: Mapping[str, Any]) -> str:
    assert about.training is not None
    counts = about.counts.learnt(FinishedTraining.of(result))
    left_out = sum(counts.left_out.values())
    held_out = f", {counts.held_out:,} held out" if counts.held_out else ""
    rest = f", {left_out:,} left out" if left_out else ""
    return f"{counts.train or 0:,} {about.training.unit}{held_out}{rest}"


def figures(about: Subject, result: Mapping[str, Any]) -> str:
    """What was measured: on held-out data where the training did that, else at its last step."""
    rows: list[list[str]] = []
    done = FinishedTraining.of(result)
    before, after = done.held_out_before, done.held_out
    if about.training is not None and about.training.held_out and after.get("n"):
        for one in about.training.held_out.figures:
            earlier = f" (before: {before[one.metric]:.3f})" if before else ""
            name = f"{one.label[0].lower()}{one.label[1:]}, on {after['n']:,} held-out {about.training.unit}"
            rows.append([name, f"{after[one.metric]:.3f}{earlier}"])
    quality = quality_in(result)
    accuracy = None if quality is None else quality.accuracy.estimate
    if quality is not None and accuracy is not None:
        by_judges = f", {quality.by_judges:,} judged by AI judges alone" if quality.by_judges else ""
        name = f"right on {accuracy.n:,} held-out comparisons{by_judges} (95% interval)"
        rows.append([name, percent_with_interval(accuracy)])
    if result.get("rounding") is not None:
        rows.append(["rounding to bfloat16, as a share of what the adapter changes", f"{result['rounding']:.4f}"])
    if about.training is not None and about.merged is None:
        for key, name in about.training.last_step.items():
            if key in done.final:
                rows.append([f"{name}, at the last step of training", f"{done.final[key]:.3f}"])
    if done.trainable and done.trainable_percent is not None:
        rows.append(["trained parameters", f"{done.trainable:,} ({done.trainable_percent:.2f}%)"])
    return table(["figure", "value"], rows) or "None were measured."


def evaluation(about: Subject, record: PublishedFacts) -> Sequence[str]:
    """How it did against other policies and in its check, and how far people agreed who judged its training data."""
    agreed = ("### Agreement of those who judged the training data", record.agreement) if record.agreement else ()
    if about.kind == "reward-model":  # what is known of it is among the figures
        return ("## Evaluation", *agreed) if agreed else ()
    units = dict.fromkeys(one.unit for one in record.evaluation)
    rows = [
        [
            code(one.against),
            one.judge,
            f"{one.share.n:,} {one.unit}" if len(units) > 1 else f"{one.share.n:,}",
            percent_with_interval(one.share),
        ]
        for one in record.evaluation
    ]
    found = table(["against", "judged by", " or ".join(units), "won, ties as half (95% interval)"], rows)
    figures = "" if record.check is None else table(["figure of its newest check", "value"], check_rows(record.check))
    if not found and not figures:
        said = "It was not compared with the base, nor with what it was trained from."
    elif not found:
        said = f"{KEPT_OUT} Nobody has compared its answers with another model's one by one."
    else:
        said = KEPT_OUT
    return ("## Evaluation", *(part for part in (said, found, figures) if part), *agreed)


KEPT_OUT: Final = "On prompts that were kept out of the training."


def check_rows(check: CheckReport) -> list[list[str]]:
    accuracy = None if check.implicit_accuracy is None else check.implicit_accuracy.estimate
    anchor = anchor_of(check)
    at_equal_length = "" if check.equal_length_kl is None else ", at equal length"
    known: list[tuple[str, str | None]] = [("held-out prompts that it answered", f"{check.prompts:,}")]
    if check.kl_per_token is not None:
        known.append((f"KL to {anchor}, nats a token{at_equal_length}", f"{check.kl_per_token:.4f}"))
    known.append((f"how much its answers surprise {anchor}, by {anchor}'s own", times(check.nll_ratio)))
    known.append((f"perplexity of a plain text, by {anchor}'s", times(check.perplexity_ratio)))
    known += probe_rows(check)
    if accuracy is not None:
        name = f"implicit accuracy on {accuracy.n:,} held-out comparisons (95% interval)"
        known.append((name, percent_with_interval(accuracy)))
    return [[name, value] for name, value in known if value is not None]


def anchor_of(check: CheckReport) -> str:
    return "the base" if check.anchor.revision in ("", "base") else code(check.anchor.revision)


def probe_rows(check: CheckReport) -> list[tuple[str, str | None]]:
    """The chance that it gives to what is right on the probes, by family, with that of its anchor."""
    own, anchor = check.candidate.probes, check.anchor.probes
    if own is None or anchor is None:
        return []
    means = [(family, own.mean(family), anchor.mean(family)) for family in own.chances]
    return [
        (f"chance of what is right, probes of {family} ({anchor_of(check)}'s)", f"{mean:.2f} ({beside:.2f})")
        for family, mean, beside in means
        if mean is not None and beside is not None
    ]


def times(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:.2f} times"


def lineage(record: PublishedFacts) -> Sequence[str]:
    """What it grew from, nearest first."""
    heads = ["ancestor", "made by", "sha256 of its files", "on the Hub"]
    rows = []
    for one in record.lineage:
        there = "" if one.address is None else one.address.name
        rows.append([code(one.revision), one.algorithm, code(one.sha256) if one.sha256 else "", there])
    return ("## Lineage", table(heads, rows)) if rows else ()


def licence(about: Subject, record: PublishedFacts | None) -> str:
    if record is None:
        return (
            "*To be filled in by whoever publishes it, with regard to the licence of the base model and to the data.*"
        )
    base = f"The licence of {code(about.base)}: {code(record.base_licence) if record.base_licence else 'see its card'}."
    own = code(record.licence) if record.licence else "*to be filled in, with regard to the base model's and the data*"
    return f"{base} This model's: {own}."


def settings(about: Subject) -> Sequence[str]:
    """The whole spec of the training; indented, so that no text in it can end the block."""
    if about.training is None:
        return ()
    spec = {"kind": about.training.kind, **asdict(about.training), "model": about.base}
    lines = json.dumps(spec, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
    return ("## Settings", "\n".join(f"    {line}" for line in lines))
