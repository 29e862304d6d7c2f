"""Rows that the model's chat template refuses: counted and named, never taken for too few judgements."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from annotation.__main__ import main as annotation_main
from annotation.metrics.aggregation import REASONS
from annotation.records import UserError
from annotation.translation import _, kept, language_of, retold, speaking
from rlhf.__main__ import main as rlhf_main
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data import snapshots
from rlhf.hub import snapshot_card
from rlhf.jobs.descriptions import LeftOut, Unit
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.models import registry
from rlhf.models.chat_template import chat_tokenizer
from rlhf.submission import inspect_rows, job_submission
from rlhf.submission.preflight import Preflight
from rlhf.tabs.train import plan_card
from tests.machine_fixtures import QUICK_DPO, Machine, make_machine, write_spec

pytestmark = pytest.mark.slow

REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALL_PAIRS = "Every pair was refused by the model's chat template (16 in all): System role not supported. "


@pytest.fixture
def strict(tmp_path: Path, tiny_model: Path) -> Iterator[Machine]:
    """A data directory whose model takes no system messages."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "strict"))
    template = model / "chat_template.jinja"
    template.write_text(REFUSING + template.read_text("utf-8"), "utf-8")
    made = make_machine(tmp_path / "data", model)
    yield made
    made.db.close()


def bring(machine: Machine, count: int, *, system: bool, kind: str = "pairs", split: str = "train") -> None:
    """Import pairs or demonstrations, whose prompts have a system message or not."""
    path = machine.data_dir / f"{kind}-{system}-{split}.jsonl"
    rows = []
    for number in range(count):
        asked: list[Any] = [{"role": "user", "content": f"Is {number} {split} odd{system}{kind}?"}]
        prompt = [{"role": "system", "content": "Be brief."}, *asked] if system else asked
        answer = [{"role": "assistant", "content": f"Yes, {number}."}]
        if kind == "pairs":
            rows.append({"prompt": prompt, "chosen": answer, "rejected": [{**answer[0], "content": "No."}]})
        else:
            rows.append({"messages": [*prompt, *answer]})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    assert annotation_main(["import", str(path), "--split", split, "--data", str(machine.data_dir)]) == 0


def test_pairs_that_are_all_refused_are_counted_and_named_before_the_freeze(
    strict: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(strict, 16, system=True)
    found = job_submission.preview(strict.db, strict.data_dir, DPOSpec())
    assert (found.train, found.left_out, found.left_out.refusal) == (0, {"template": 16}, "System role not supported")
    preflight = Preflight(strict.db, strict.data_dir, str(strict.model))
    for spec in (DPOSpec(), RewardModelSpec()):
        with pytest.raises(UserError) as raised:
            strict.submit(spec)
        assert str(raised.value).startswith(ALL_PAIRS)
        assert "judge" not in str(raised.value).lower(), "more judgements would be refused as well"
        planned = preflight.of(spec)
        assert str(raised.value) in planned.problems
        assert planned.data is not None
        card = plan_card.data_card(planned.data, spec)
        assert "refused by the model&#x27;s chat template (System role not supported)" in card
    capsys.readouterr()
    assert rlhf_main(["--data", str(strict.data_dir), "run", str(write_spec(tmp_path / "s", {"kind": "dpo"}))]) == 2
    assert capsys.readouterr().err.startswith(ALL_PAIRS)


def test_some_that_are_refused_are_left_out_of_the_frozen_data_and_shown_by_name(strict: Machine) -> None:
    bring(strict, 10, system=False)
    bring(strict, 5, system=True)
    job_id = strict.submit(QUICK_DPO)
    counts = strict.db.value("SELECT counts FROM snapshot")
    assert json.loads(counts) == {"train": 10, "held-out": 0, "left_out": {"template": 5}}
    spec = replace(QUICK_DPO, parent=registry.serving(strict.db).revision)
    survey = inspect_rows.summarise(chat_tokenizer(strict.model), spec, inspect_rows.items_of(strict.db, spec))
    assert (survey.items["train"], survey.left_out, survey.left_out.refusal) == (
        10,
        {"template": 5},
        "System role not supported",
    )
    assert len(survey.examples["template"]) == 3
    assert "(System role not supported)" in plan_card.survey_card(survey, spec)
    assert job_id


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        (
            SFTSpec(),
            "demonstrations",
            "Every demonstration was refused by the model's chat template (16 in all): System",
        ),
        (PPOSpec(), "prompts", "Every prompt was refused by the model's chat template (16 in all): System role not"),
    ],
)
def test_demonstrations_and_prompts_are_counted_too(strict: Machine, spec: TrainingSpec, kind: str, said: str) -> None:
    if kind == "prompts":
        bring(strict, 16, system=True)
    else:
        bring(strict, 16, system=True, kind="demonstrations")
    found = job_submission.preview(strict.db, strict.data_dir, spec)
    assert (found.train, found.left_out["template"]) == (0, 16)
    few = snapshots.shortage(found.unit, found.train, spec.at_least, found.left_out)
    assert few.startswith(said)
    shown = [item.left_out or item.asked for item in inspect_rows.items_of(strict.db, spec)]
    assert len(shown) == 16, "the rows are shown, with why they would be left out"


@pytest.mark.parametrize("spec", [QUICK_DPO, RewardModelSpec(parent="base"), SFTSpec(parent="base")])
def test_data_that_was_frozen_before_the_template_refused_it_fails_with_the_reason(
    strict: Machine, spec: TrainingSpec
) -> None:
    bring(strict, 16, system=True, kind="demonstrations" if spec.kind == "sft" else "pairs")
    rows = snapshots.data_of(strict.db, spec)
    snapshot = snapshots.store_snapshot(strict.db, strict.data_dir, rows)
    job = strict.perform(strict.submit(replace(spec, snapshot=snapshot)))
    assert job.status == "failed"
    what = "demonstration" if spec.kind == "sft" else "pair"
    assert f"Every {what} was refused by the model's chat template (16 in all): System role not" in job.message
    assert "Judge more" not in job.message


@pytest.mark.parametrize("unit", get_args(Unit))
def test_rows_of_every_unit_are_named_where_there_are_too_few_and_on_their_card(unit: Unit) -> None:
    assert f"{unit.capitalize()} to train on: 0. It takes at least 8." in snapshots.shortage(unit, 0, 8, LeftOut())
    for reason in ("template", "too-long"):
        said = snapshots.shortage(unit, 0, 8, LeftOut({reason: 9}))
        assert said.startswith(f"Every {unit.removesuffix('s')} ")
        assert "(9 in all)" in said
    assert {"split", "messages"} <= set(snapshot_card.COLUMNS[unit]) <= set(snapshot_card.MEANINGS)
    assert all(snapshot_card.TITLES_AND_TAGS[unit])


def test_what_is_left_out_is_told_in_each_readers_language() -> None:
    stored = kept(snapshots.left_out_sentence({"tie": 2000, "too-long": 1}))
    assert retold(stored) == "Left out: tie (2,000), too long (1)."
    with speaking(language_of("de")):
        assert retold(stored) == f"Ausgelassen: {_(REASONS['tie'])} (2.000), {_(REASONS['too-long'])} (1)."


@pytest.mark.parametrize(
    ("found", "left_out", "said"),
    [
        (8, {"template": 50}, ""),
        (1, {}, "Pairs to train on: 1. It takes at least 8. Judge more comparisons first."),
        (0, {}, "Pairs to train on: 0. It takes at least 8. Judge more comparisons first."),
        (0, {"too-long": 16}, "Every pair is longer than max_length (16 in all). Raise max_length."),
        (0, {"too-long": 16, "tie": 2}, "is longer than max_length (16 in all). Raise max_length. Left out: tie (2)."),
        (
            0,
            {"identical": 9},
            "In every pair the two answers are the same text (9 in all). Judge more comparisons first.",
        ),
        (0, {"tie": 20}, "Judge more comparisons first. Left out: tie (20)."),
        (3, {"template": 4, "too-long": 4}, "Change what it refuses in the prompts"),
        (
            3,
            {"template": 4, "too-long": 4},
            "chat template (4), too long (4). The chat template says: No!",
        ),
        (0, {"template": 3}, "Judge more comparisons first. Left out: refused by the model's chat template (3). The"),
        (
            2,
            {"earlier": 30},
            "Train on all judgements (“Data (scope)” in the settings), or judge more comparisons first. Left out: al",
        ),
        (0, {"excluded": 30}, "Let the annotators who are left out count again"),
    ],
)
def test_what_is_said_of_too_little_data_is_its_cause(found: int, left_out: dict[str, int], said: str) -> None:
    told = LeftOut(left_out)
    told.refusal = "No!"
    sentence = snapshots.shortage("pairs", found, 8, told)
    assert said in sentence
    assert bool(sentence) is (found < 8)
    more = found == 0 or not left_out or "earlier" in left_out
    assert more or "Judge more comparisons first" not in sentence
