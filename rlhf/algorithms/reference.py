"""What a run's reference says of each answer: computed before the first step, and kept for further runs.

A run that goes on, one with other settings, one on more judgements: all of them ask for the same answers under the same
weights. A file holds the log-probabilities under one reference; what its weights are, how they are held and what they
are computed with is in the file's name, what was fed is in the entry's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader

from annotation.records import UserError
from annotation.translation import _
from annotation.validation import read
from rlhf.algorithms.trainer import Start
from rlhf.algorithms.trl_trainer import JobTrainer
from rlhf.jobs.artifacts import write_small
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.run import Run
from rlhf.models.hidden_states import summed_logps
from rlhf.models.loading.base_weights import dtype_of, held_precision
from rlhf.models.packing import pad
from rlhf.models.self_test_results import mark_of

DIRECTORY: Final = "references"
# What a run that is broken off may have to compute again.
KEPT_EVERY_SECONDS = 60.0
# Answers whose reference is computed together: without gradients, several times a training batch fits.
REFERENCE_BATCH = 16
# The token ids of a prompt and an answer.
Answer = tuple[tuple[int, ...], tuple[int, ...]]


class KeptReference:
    """The log-probabilities of answers under one reference, in a file; in none where it is only to be remembered."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, float] = {} if path is None else read_file(path)
        self.kept = time.monotonic()

    def missing(self, answers: Iterable[Answer]) -> list[Answer]:
        """The different answers of which nothing is known, those to one prompt together."""
        return sorted({answer for answer in answers if key_of(answer) not in self.known})

    def add(self, answers: Sequence[Answer], logps: Sequence[float]) -> None:
        """Remember what was computed, and keep it from time to time."""
        self.known |= {key_of(answer): logp for answer, logp in zip(answers, logps, strict=True)}
        if time.monotonic() - self.kept > KEPT_EVERY_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write all that is known, whole or not at all. Raises UserError when the disk refuses."""
        self.kept = time.monotonic()
        if self.path is not None:
            write_small(self.path, json.dumps(self.known))

    def of(self, answers: Iterable[Answer]) -> list[float]:
        return [self.known[key_of(answer)] for answer in answers]


def read_file(path: Path) -> dict[str, float]:
    """What a file holds; nothing where there is none that can be read."""
    try:
        return read(dict[str, float], json.loads(path.read_text("utf-8")), _("What is kept of a reference"))
    except (FileNotFoundError, ValueError, UserError):
        return {}


def key_of(answer: Answer) -> str:
    """What an answer and its prompt are known by."""
    return sha256(json.dumps(answer).encode()).hexdigest()[:32]


def kept_reference(data_dir: Path, spec: TrainingSpec, start: Start, parents: bool, device: str) -> KeptReference:
    """What is known under a run's reference: the weights under its adapter, with its parent's adapter or without."""
    facts: Mapping[str, Any] = {
        "ground": mark_of(start.ground),
        "adapter": start.parent.sha256 if parents else "",
        "held": "fp32" if spec.method == "full" else held_precision(spec),
        "computed": str(dtype_of(spec.precision)),
        "device": device,
    }
    name = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return KeptReference(data_dir / DIRECTORY / f"{name}.json")


def answer_logps(model: Any, batch: Any, *, adapted: bool = True) -> Tensor:
    """Summed log-probability of each answer in a batch, (B,); those of a group share one pass over their prompt."""
    ids_BT, attention_BT, completion_BT = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    return summed_logps(model, ids_BT, attention_BT, completion_BT, batch["group"].tolist(), adapted=adapted)


def start_from_reference(trainer: JobTrainer, start: Start, run: Run | None) -> None:
    """Put the parent's weights into the adapter, and beside each answer what the reference says of it.

    A parent that is the reference says it with its weights in the adapter; the base, before they are.
    """
    parents = trainer.spec.reference == "parent" and start.adapter is not None
    trainer.start_from(start if parents else replace(start, adapter=None))
    trainer.train_dataset = with_reference(trainer, parents, reference_of(trainer, start, parents, run), run)
    trainer.start_from(start)


def reference_of(trainer: JobTrainer, start: Start, parents: bool, run: Run | None) -> KeptReference:
    """What earlier runs have kept of this reference; only the first process writes, and measuring leaves nothing."""
    if run is None or run.rank or run.measured_steps:
        return KeptReference(None)
    return kept_reference(run.data_dir, trainer.spec, start, parents, trainer.accelerator.device.type)


@torch.no_grad()
def with_reference(trainer: JobTrainer, parents: bool, kept: KeptReference, run: Run | None) -> Dataset:
    """The comparisons with their answers' log-probabilities under the reference: the model before it is trained.

    A fresh LoRA adapter changes nothing, and one that holds the parent's weights is the parent. Virtual tokens always
    change something, so they are left out unless they are the parent's. What is not kept from an earlier run is
    computed once, beside the other answers to its prompt; processes share the work. Raises Stopped when the job is told
    to stop.
    """
    dataset, accelerator = trainer.train_dataset, trainer.accelerator
    adapted = trainer.spec.method != "prompt" or parents
    wanted = [[(tuple(item["prompt_ids"]), tuple(ids)) for ids in item["answers"]] for item in dataset]
    missing = kept.missing(answer for answers in wanted for answer in answers)
    kept.known, missing = broadcast_object_list([kept.known, missing])  # as the first process knows it
    collate_them = partial(collate_answers, pad_id=trainer.processing_class.pad_token_id)
    batches = accelerator.prepare(DataLoader(missing, REFERENCE_BATCH, collate_fn=collate_them)) if missing else []
    done = 0
    for batch in batches:
        if run is not None:
            run.raise_if_stopped()
        with accelerator.autocast():
            logps_B = answer_logps(trainer.model, batch, adapted=adapted)
        logps = accelerator.gather_for_metrics(logps_B).float().tolist()
        kept.add(missing[done : done + len(logps)], logps)
        done += len(logps)
    if missing:
        kept.keep()
    return dataset.add_column("reference_logps", [kept.of(answers) for answers in wanted])


def collate_answers(answers: Sequence[Answer], pad_id: int) -> dict[str, Tensor]:
    """A right-padded batch of answers with their prompts, the same `group` for the same prompt."""
    batch = dict(zip(("input_ids", "attention_mask", "completion_mask"), pad(answers, pad_id), strict=True))
    groups = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in answers))}
    batch["group"] = torch.tensor([groups[prompt] for prompt, _ in answers])
    return batch
