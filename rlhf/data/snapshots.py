"""What training jobs learn from, read from the store and frozen: rows in a file that is named by its content."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from annotation.database import Database
from annotation.examples.example_sets import EXAMPLES, read_example
from annotation.exports.frozen_rows import DemonstrationRow, FrozenRow, PromptRow, line_of
from annotation.exports.preference_rows import PreferenceRows
from annotation.metrics import quality
from annotation.metrics.aggregation import REASONS, UNKNOWN_RELIABILITY, usable
from annotation.records import Demonstration, Split, UserError, now
from annotation.store import judgement_store, project_store, prompt_store, training_data
from annotation.translation import N_, _, joined
from rlhf.jobs.artifacts import write_lines
from rlhf.jobs.descriptions import UNITS, LeftOut, Rows, Unit
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import Scope, TrainingSpec
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.judge_agreement import PairAgreement, agreement_alone
from rlhf.models import registry
from rlhf.models.base.base_files import on_this_machine
from rlhf.models.chat_template import ChatFormat, read_format
from rlhf.models.registry import Policy
from rlhf.models.template_process import TemplateRefused, conversation, ended

MIN_PAIRS = 8
MIN_DEMONSTRATIONS = 8
MIN_PROMPTS = 4
Frozen = Iterable[FrozenRow]


def data_of(db: Database, spec: TrainingSpec, chat: ChatFormat | None = None) -> Rows:
    """The rows that a job trains on and is checked with, read as they are iterated over.

    With the base's chat format those that its template refuses are left out, as the worker would.
    """
    rows = spec.rows(db)
    return rows if chat is None else RenderableRows(rows, chat)


def chat_of(db: Database, data_dir: Path) -> ChatFormat | None:
    """How the base model is given conversations; None where its files are not here, or say nothing of it.

    Then the job looks at the rows, or says what is wrong with the files.
    """
    base = on_this_machine(data_dir, registry.by_revision(db, "base").base)
    try:
        return None if base is None else read_format(base, registry.no_thinking(db))
    except UserError:
        return None


@dataclass
class CountedRows:
    """Rows with a split, counted as they are iterated over; like `PreferenceRows`, for data that no judgement made."""

    rows: Frozen
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    last_judgement_id: int = 0

    def __iter__(self) -> Iterator[FrozenRow]:
        """The rows, once."""
        for row in self.rows:
            self.counts[row.split] += 1
            yield row


@dataclass
class RenderableRows:
    """The rows of others whose conversation the model's chat template takes; the rest is counted as left out."""

    rows: Rows
    chat: ChatFormat
    counts: Counter[str] = field(default_factory=Counter)
    refused: LeftOut = field(default_factory=LeftOut)

    def __iter__(self) -> Iterator[FrozenRow]:
        """The rows, once."""
        for row in self.rows:
            try:
                if not row.rendered_prompt:
                    conversation(self.chat, row.messages, begins=True)
            except TemplateRefused as error:
                self.refused.refused(error)
                continue
            self.counts[row.split] += 1
            yield row

    @property
    def left_out(self) -> LeftOut:
        found = LeftOut(self.rows.left_out)
        found.take(self.refused)
        return found

    @property
    def last_judgement_id(self) -> int:
        """The last judgement that was looked at; 0 where none was."""
        return self.rows.last_judgement_id


def demonstrations(db: Database, source: str) -> CountedRows:
    """Demonstrations as rows: messages, text, split. Raises UserError for a source that there is not."""
    if source == "demonstrations":
        return CountedRows(demonstration_rows(db))
    if source.startswith("example:"):
        shown = read_example(source.removeprefix("example:"))
        return CountedRows(
            DemonstrationRow(row.split, row.messages, row.completion, "example", label=row.label) for row in shown
        )
    known = ", ".join(["demonstrations", *(f"example:{name}" for name in EXAMPLES)])
    raise UserError(_("There is no data '{source}' to learn from. Known: {known}.").format(source=source, known=known))


def demonstration_rows(db: Database) -> Iterator[DemonstrationRow]:
    """Imported and written demonstrations, then edited answers, each answer of an imported conversation by itself.

    Conversations may begin alike: what they share is learned once, in the split of the first of them. What answers a
    held-out prompt is held out, also where that is the beginning of a conversation whose end is not.
    """
    known: set[int] = set()
    held_out = {json.dumps(prompt.messages) for prompt in prompt_store.prompts(db, "held-out")}
    for shown in (*training_data.demonstrations(db), *edited_answers(db)):
        turns = [dict(message) for message in shown.messages]
        answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        turns.append({"role": "assistant", "content": shown.text})
        for place in (*(answers if shown.origin == "import" else ()), len(turns) - 1):
            before, text = tuple(turns[:place]), turns[place]["content"]
            content = hash(json.dumps([before, text], sort_keys=True))
            if content not in known:
                known.add(content)
                split: Split = "held-out" if json.dumps(before) in held_out else shown.split
                yield DemonstrationRow(split=split, messages=before, text=text, origin=shown.origin, response=shown.id)


def edited_answers(db: Database) -> list[Demonstration]:
    """What annotators made of answers in judgements that count, oldest first."""
    excluded = judgement_store.excluded_annotators(db)
    groups = judgement_store.judged_comparisons(db, reserved=False, edited=True)
    found = [
        Demonstration(
            id=one.edited.id,
            prompt_id=one.prompt_id,
            split=one.split,
            messages=one.messages,
            text=one.edited.text,
            origin="person",
            annotator=one.annotator,
            created=one.created,
        )
        for group in groups
        for one in usable(group, excluded)[0]
        if one.edited
    ]
    return sorted(found, key=lambda one: one.id)


def prompt_rows(db: Database) -> Iterator[PromptRow]:
    for prompt in prompt_store.prompts(db, "train"):
        yield PromptRow("train", prompt.messages, prompt.id)


def collect(
    db: Database, parent: Policy, scope: Scope, max_length: int, *, judges_too: bool = True, latest: int | None = None
) -> PreferenceRows:
    """The preference pairs of today's judgements: all, or those made since the parent's data was frozen.

    Each has its chance of error by its annotators' reliability as it is estimated today; an AI judge's is its agreement
    with people on such comparisons as it labels without them. Without `judges_too`, and where people alone are to
    judge, what AI judges say is left out. No accuracy is measured on prompts that are the gate's own, so they have no
    rows. With `latest` only so many comparisons to train on: those judged last.
    """
    until = trained_until(db, parent) if scope == "new" else 0
    reliability = {name: measured.estimate for name, measured in quality.reliabilities(db).items()}
    panel = judge_store.judges(db)
    reliability |= {
        judge.name: judges_reliability(agreement_alone(verdict_store.jointly_judged(db, judge))) for judge in panel
    }
    return PreferenceRows(
        comparisons=judgement_store.judged_comparisons(db, reserved=False, token_ids=True, latest=latest),
        max_length=max_length,
        trained_until=until,
        reliability=reliability,
        excluded=judgement_store.excluded_annotators(db),
        judges_too=judges_too and project_store.feedback(db).mode != "people",
    )


# As many comparisons with people as a judge's agreement is mixed with what is believed of an unknown annotator.
BELIEVED = 10


def judges_reliability(found: PairAgreement | None) -> float:
    """How often an AI judge is taken to be right: its agreement with people, cautious while that rests on little."""
    if found is None:
        return UNKNOWN_RELIABILITY
    agreed = found.share.value * found.share.n
    return (agreed + BELIEVED * UNKNOWN_RELIABILITY) / (found.share.n + BELIEVED)


def trained_until(db: Database, policy: Policy) -> int:
    """The last judgement that the policy, or the nearest that it grew from, was trained on; 0 without any."""
    line = (policy, *registry.ancestors(db, policy))
    return next((seen for seen in (seen_until(db, one) for one in line) if seen), 0)


def seen_until(db: Database, policy: Policy) -> int:
    """The last judgement that the training of this very policy saw; 0 where it saw none, or was none."""
    spec = registry.trained_as(db, policy)
    return 0 if spec is None else last_judgement(db, spec.snapshot)


def last_judgement(db: Database, snapshot: str) -> int:
    """The last judgement that data of this name was frozen with; 0 where it holds none."""
    return int(db.value("SELECT last_judgement_id FROM snapshot WHERE sha256 = ?", (snapshot,)) or 0)


@dataclass(frozen=True)
class SnapshotCounts:
    """How much was frozen, by split, None where that is not known; and what gave no row, by reason."""

    train: int | None = None
    held_out: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: str | None) -> SnapshotCounts:
        told = {} if stored is None else json.loads(stored)
        return cls(told.get("train"), told.get("held-out"), told.get("left_out", {}))

    def learnt(self, done: FinishedTraining) -> SnapshotCounts:
        """How much of it a training learnt from; what was left out when it was frozen, and when it was tokenised."""
        trained_on = self.train if done.trained_on is None else done.trained_on
        return SnapshotCounts(trained_on, self.held_out, Counter(self.left_out) + Counter(done.left_out))

    def to_json(self) -> str:
        return json.dumps({"train": self.train, "held-out": self.held_out, "left_out": self.left_out})


def store_snapshot(db: Database, data_dir: Path, freezing: Rows, at_least: int = 0, unit: Unit = "pairs") -> str:
    """Write data to its file and row as it is frozen; returns its sha256. The same data is stored once.

    Raises TooFewRows, and keeps nothing, if there is less to train on than `at_least`.
    """
    directory = data_dir / "snapshots"
    with db.reading():  # the rows are read while they are written
        name = write_lines(directory, enough(map(line_of, freezing), freezing, at_least, unit), ".jsonl")
    counts = SnapshotCounts(freezing.counts["train"], freezing.counts["held-out"], freezing.left_out)
    # Judgements that give no pair may have come since: the rows are the same, what was left out is not.
    db.write(
        """INSERT INTO snapshot (sha256, path, rows, counts, last_judgement_id, created)
           VALUES (:sha256, :path, :rows, :counts, :last_judgement_id, :created)
           ON CONFLICT DO UPDATE SET counts = excluded.counts, last_judgement_id = excluded.last_judgement_id""",
        {
            "sha256": name,
            "path": f"snapshots/{name}.jsonl",
            "rows": freezing.counts.total(),
            "counts": counts.to_json(),
            "last_judgement_id": freezing.last_judgement_id,
            "created": now(),
        },
    )
    return name


class TooFewRows(UserError):
    """There is less to train on than a kind of job needs."""


def enough(lines: Iterable[bytes], freezing: Rows, at_least: int, unit: Unit = "pairs") -> Iterator[bytes]:
    """The same lines. Raises TooFewRows at their end if they hold less to train on than `at_least`."""
    yield from lines
    few = shortage(unit, freezing.counts["train"], at_least, freezing.left_out)
    if few:
        raise TooFewRows(few)


# What helps where there would be enough but for a reason.
CURES = {
    "template": N_("Change what it refuses in the prompts, or start a data directory with another model."),
    "too-long": N_("Raise max_length."),
    "identical": N_("Judge more comparisons first."),
    "earlier": N_("Train on all judgements (“Data (scope)” in the settings), or judge more comparisons first."),
    "excluded": N_("Let the annotators who are left out count again, on the Quality tab, or judge more comparisons."),
}


def shortage(unit: Unit, found: int, at_least: int, left_out: Mapping[str, int]) -> str:
    """Why there is too little to train on, and what helps; empty where there is enough."""
    if found >= at_least:
        return ""
    causes = [reason for reason in CURES if left_out.get(reason)]
    enough_but_for = found + sum(left_out[reason] for reason in causes) >= at_least
    words = UNITS[unit]
    cures = joined(*(_(CURES[reason]) for reason in causes)) if enough_but_for else _(words.more)
    if found or not enough_but_for or len(causes) > 1 or causes[0] not in words.all_left_out:
        few = _("{units}: {found}. It takes at least {least}.").format(
            units=_(words.to_train_on), found=found, least=at_least
        )
        return joined(few, cures, left_out_sentence(left_out))
    count, refusal = left_out[causes[0]], ended(getattr(left_out, "refusal", ""))
    rest = {reason: number for reason, number in left_out.items() if reason != causes[0]}
    said = _(words.all_left_out[causes[0]]).format(count=count, refusal=refusal)
    return joined(said, cures, left_out_sentence(rest))


def left_out_sentence(left_out: Mapping[str, int]) -> str:
    reasons = left_out_list(left_out)
    said = [_("Left out: {reasons}.").format(reasons=reasons)] if reasons else []
    return joined(*said, *template_sentences(left_out))


def left_out_list(left_out: Mapping[str, int]) -> str:
    """The reasons for which something is left out, each with how much it is."""
    counted = [(_(REASONS.get(reason, reason)), count) for reason, count in sorted(left_out.items()) if count]
    return joined(*(_("{reason} ({count:,})").format(reason=reason, count=count) for reason, count in counted), by=", ")


def template_sentences(left_out: Mapping[str, int]) -> list[str]:
    """What the chat template says of what it refused; none where it refused nothing."""
    refusal = getattr(left_out, "refusal", "") if left_out.get("template") else ""
    return [_("The chat template says: {refusal}").format(refusal=ended(refusal))] if refusal else []


def reason_text(reason: str, left_out: Mapping[str, int]) -> str:
    refusal = getattr(left_out, "refusal", "") if reason == "template" else ""
    return f"{_(REASONS.get(reason, reason))}{f' ({refusal})' if refusal else ''}"


def snapshot_counts(db: Database, sha256: str) -> SnapshotCounts:
    """The counts stored with frozen data; without any where there is none of this name."""
    return SnapshotCounts.of(db.value("SELECT counts FROM snapshot WHERE sha256 = ?", (sha256,)))
