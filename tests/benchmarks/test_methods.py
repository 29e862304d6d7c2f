"""What `benchmarks.methods` computes itself: labels, intervals, the gold reward, answers and KL; what it keeps."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from annotation.database import open_database
from annotation.examples.example_sets import read_example
from annotation.exports.frozen_rows import DemonstrationRow, PromptRow
from annotation.records import Prompt
from benchmarks import methods
from benchmarks.harness import answers, gold
from benchmarks.harness.driver import BenchmarkError
from benchmarks.harness.intervals import crossed
from benchmarks.harness.laboratory import Laboratory
from benchmarks.method_parts import frontier, learning, memory, rates, sentiment
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.ppo.roles import SampledResponse
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data.snapshots import CountedRows, store_snapshot
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import to_json
from rlhf.jobs.run import Run, perform
from rlhf.models.tokenise import load_snapshot, tokenise_demonstrations, tokenise_prompts
from tests.machine_fixtures import QUICK_DPO, Machine

pytestmark = pytest.mark.slow


# ----------------------------------------------------------------------------------------------------------- label_of
@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("positive", "positive"),
        (" Negative.\n", "negative"),
        ("**NEUTRAL**", "neutral"),
        ("The sentiment is: 'positive'!", "positive"),
        ("_negative_", "negative"),
        ("Positive, clearly positive", "positive"),
        ("", None),
        ("I can't say.", None),
        ("positively good", None),
        ("positive or negative", None),
        ("neutral/positive", None),
        ("non-negative", None),
        ("Neutrality", None),
    ],
)
def test_the_label_of_an_answer(answer: str, label: str | None) -> None:
    assert sentiment.label_of(answer) == label


def test_every_completion_of_the_financial_set_gives_its_own_label() -> None:
    assert all(sentiment.label_of(row.completion) == row.label for row in read_example("financial-sentiment"))


# ---------------------------------------------------------------------------------------------------------- intervals
def test_an_interval_over_one_seed_is_that_of_its_items() -> None:
    found = crossed([[1.0] * 60 + [0.0] * 40])
    assert found.value == pytest.approx(0.6)
    half = 1.96 * (0.6 * 0.4 / 100) ** 0.5
    assert found.low == pytest.approx(0.6 - half, abs=0.015)
    assert found.high == pytest.approx(0.6 + half, abs=0.015)


def test_seeds_that_answer_alike_do_not_narrow_the_interval_and_seeds_that_differ_widen_it() -> None:
    one = [1.0] * 60 + [0.0] * 40
    alone, alike = crossed([one]), crossed([one] * 3)
    differing = crossed([[1.0] * 100, one, [1.0] * 20 + [0.0] * 80])
    assert alike.high - alike.low == pytest.approx(alone.high - alone.low, abs=0.02)
    assert differing.value == pytest.approx(alone.value)
    assert differing.high - differing.low > 2 * (alone.high - alone.low)


# ------------------------------------------------------------------------------------------------------- first table
def test_an_answer_without_one_label_is_unreadable_and_wrong() -> None:
    right, unreadable = sentiment.graded(
        ["Positive.", "It is neutral", "positive or negative", "I don't know"], ["positive", "negative"] * 2
    )
    assert right == [1.0, 0.0, 0.0, 0.0]
    assert unreadable == 0.5


# ------------------------------------------------------------------------------------------------------------ the gold
def test_the_gold_reward_likes_plain_whole_short_answers_that_say_things_once() -> None:
    plain = "The sun sends out light of all kinds, and the air throws the blue around."
    assert gold.gold(plain) > gold.gold(plain.rstrip(".") + " and")
    assert gold.gold(plain) > gold.gold("Atmospheric constituents preferentially disperse electromagnetic radiation.")
    assert gold.gold(plain) > gold.gold(f"{plain} {plain}")
    assert gold.gold(plain) > gold.gold("Air.") > gold.gold("")


def test_syllables_and_reading_ease_by_hand() -> None:
    assert [gold.syllables(word) for word in ("the", "make", "table", "window", "rhythm", "idea")] == [1, 1, 2, 2, 1, 2]
    # 206.835 - 1.015 · 3 words a sentence - 84.6 · 4 / 3 syllables a word.
    assert gold.reading_ease("Open the window.") == pytest.approx(206.835 - 3.045 - 84.6 * 5 / 3)
    assert gold.reading_ease("I go.") == 100.0


def drawn(text: str) -> dict[str, Any]:
    """An answer as `benchmarks.harness.answers` gives it."""
    return {"text": text, "ids": [1, 2], "prompt": "Q", "prompt_tokens": 1, "ended": True}


def test_the_better_answer_by_the_gold_is_the_chosen_one_on_either_side() -> None:
    prompt = Prompt(id=7, messages=({"role": "user", "content": "Q"},), source="a test", split="held-out")
    good, bad = drawn("The sun is hot, so it gives off light in the day."), drawn("no")
    for pair in ([good, bad], [bad, good]):
        (row,) = frontier.judged(prompt, pair, 3)
        assert (row.chosen.text, row.rejected.text) == (good["text"], bad["text"])
        assert (row.split, row.comparison) == ("held-out", 3)
        assert row.chosen.id != row.rejected.id
    assert frontier.judged(prompt, [good, good], 3) == []


# -------------------------------------------------------------------------------------------------------- the answers
def request_of(machine: Machine, policies: list[tuple[str, str | None]], **changed: Any) -> dict[str, Any]:
    """A request for two samples to each of three prompts."""
    prompts = [[{"role": "user", "content": text}] for text in ("Hello", "Why is that so?", "Say a word")]
    return {
        "model": str(machine.model),
        "policies": policies,
        "prompts": prompts,
        "samples": 2,
        "seed": 5,
        "sampling": {"temperature": 1.0, "min_p": 0.0, "max_new_tokens": 12},
        "reference": None,
        **changed,
    }


def test_answers_are_drawn_with_the_same_seeds_and_greedily_when_only_the_likeliest_is_left(machine: Machine) -> None:
    both = answers.answer(machine.data_dir, request_of(machine, [("base", "bf16"), ("base", "bf16")]))
    assert both[0] == both[1]
    assert both[0][0][0]["text"] != both[0][0][1]["text"]
    greedy = {"temperature": 1.0, "min_p": 1.0, "max_new_tokens": 12}
    (first,), (second,) = (
        answers.answer(machine.data_dir, request_of(machine, [("base", "fp32")], sampling=greedy, seed=seed))
        for seed in (1, 2)
    )
    assert [[one["ids"] for one in row] for row in first] == [[one["ids"] for one in row] for row in second]
    assert all(row[0]["ids"] == row[1]["ids"] for row in first)


def test_the_kl_is_that_of_whole_distributions_summed_over_the_answer(machine: Machine) -> None:
    """Against transformers and PEFT alone, one answer at a time. The reference is another adapter on the same base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    machine.add_prompts(train=12, held_out=2)
    machine.judge("train", 12)
    spec = replace(QUICK_DPO, method="lora", precision="fp32", learning_rate=1e-2, check=False)
    reference, revision = (
        str((machine.perform(machine.submit(replace(spec, seed=seed))).result or {})["revision"]) for seed in (0, 1)
    )
    (found,) = answers.answer(machine.data_dir, request_of(machine, [(revision, None)], reference=reference))
    base = AutoModelForCausalLM.from_pretrained(machine.model, dtype=torch.float32)
    trained = PeftModel.from_pretrained(base, machine.data_dir / "adapters" / revision, adapter_name="policy")
    trained.load_adapter(machine.data_dir / "adapters" / reference, adapter_name="reference")
    total = 0.0
    for row in found:
        for one in row:
            prompt = machine.tokenizer(one["prompt"], add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*prompt, *one["ids"]]])
            p_TV, q_TV = (logps_of(trained, name, ids)[len(prompt) - 1 : -1] for name in ("policy", "reference"))
            assert one["kl"] == pytest.approx((p_TV.exp() * (p_TV - q_TV)).sum().item(), rel=1e-2, abs=1e-4)
            total += one["kl"]
    assert total > 0.1


def logps_of(model: Any, adapter: str, ids_1T: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (T, V) of every next token under an adapter."""
    model.set_adapter(adapter)
    with torch.no_grad():
        logps_TV: torch.Tensor = model.eval()(ids_1T).logits[0].log_softmax(-1)
    return logps_TV


# ---------------------------------------------------------------------------------------------------------- laboratory
def test_what_is_finished_is_not_done_again_and_other_settings_are_refused(machine: Machine, tmp_path: Path) -> None:
    """The part leaves its file and the job its row; a second start with both gives the same without a process."""
    machine.db.close()

    def start(settings: dict[str, Any]) -> Laboratory:
        return Laboratory(machine.data_dir, str(machine.model), {"test": settings}, {"part": 1.0, "job": 1.0})

    first = start({"seeds": 1})
    found = first.compute("part", request_of(machine, [("base", "bf16")]))
    snapshot = store_snapshot(first.db, first.directory, CountedRows(rows_for(machine)))
    spec = MeasureSpec(training=to_json(SFTSpec(snapshot=snapshot, batch_size=2, samples=0)), steps=1)
    job = first.run("job", spec)
    assert len(found[0]) == 3
    assert job.status == "finished"
    assert len(first.spent_on) == 2
    second = start({"seeds": 1})
    assert second.compute("part", {}) == found
    assert second.run("job", spec) == job
    assert second.spent_on == []
    with pytest.raises(BenchmarkError, match="other settings"):
        start({"seeds": 2})


def rows_for(machine: Machine) -> list[DemonstrationRow]:
    """Demonstrations of different lengths."""
    messages = ({"role": "user", "content": "Say a word"},)
    return [DemonstrationRow("train", messages, "word " * n, "written") for n in range(1, 13)]


def test_a_job_that_fails_is_an_error_with_the_end_of_its_log(machine: Machine) -> None:
    snapshot = store_snapshot(machine.db, machine.data_dir, CountedRows(rows_for(machine)))
    lab = Laboratory(machine.data_dir, str(machine.model), {}, {"job": 1.0})
    with pytest.raises(BenchmarkError, match="Every demonstration is longer than max_length"):
        lab.run("job", SFTSpec(snapshot=snapshot, max_length=2, samples=0))


def test_rows_for_the_memory_of_ppo_and_sft_fill_their_length_to_the_token(machine: Machine) -> None:
    lab = Laboratory(machine.data_dir, str(machine.model), {}, {})
    frozen = memory.frozen(lab, memory.QUICK)
    rows = load_snapshot(machine.data_dir, frozen, DemonstrationRow)
    (item, *_), left_out = tokenise_demonstrations(machine.tokenizer, rows, memory.QUICK.max_length)
    assert left_out == {}
    assert len(item["completion_ids"]) == memory.QUICK.new_tokens
    assert len(item["prompt_ids"]) + len(item["completion_ids"]) == memory.QUICK.max_length
    prompts, left_out = tokenise_prompts(
        machine.tokenizer,
        load_snapshot(machine.data_dir, frozen, PromptRow),
        memory.QUICK.max_length - memory.QUICK.new_tokens,
    )
    assert (len(prompts), left_out) == (memory.ROWS, {})


# --------------------------------------------------------------------------------------------------------- whole runs
class OneProcess(Laboratory):
    """Does its work in this process, which has the libraries loaded: each start of another takes seconds."""

    def work(self, name: str, job_id: int, command: Sequence[str]) -> None:
        db = open_database(self.directory)
        worker_id = command[command.index("--worker") + 1]
        job = job_store.claim(db, job_id, worker_id)
        assert job is not None
        perform(Run(db, self.directory, job, worker_id), job.spec)
        db.close()

    def compute(self, name: str, request: Mapping[str, Any]) -> Any:
        self.tick(name, 1.0)
        return json.loads(json.dumps(answers.answer(self.directory, dict(request))))


@pytest.fixture(scope="module")
def figures(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What --json holds after a smoke run on the tiny model, each part in a start of its own.

    What is measured of processes has its own, and so has what comes with its own command. What these parts share with
    others has been made by then.
    """
    directory = tmp_path_factory.mktemp("benchmark")
    for part in sorted(methods.PARTS, key=lambda part: part in ("memory", "learning")):
        with pytest.MonkeyPatch.context() as changed:
            if part not in ("memory", "learning"):
                changed.setattr(methods, "Laboratory", OneProcess)
            found = methods.run(directory / "data", options_of(tiny_model, directory / "figures.json", part))
    made: dict[str, Any] = json.loads((directory / "figures.json").read_text("utf-8"))
    assert made == json.loads(json.dumps(found))
    return made


def options_of(model: Path, figures: Path, part: str) -> argparse.Namespace:
    """The command line of a smoke run of one part."""
    return methods.read_options(["--quick", "--model", str(model), "--json", str(figures), "--only", part])


def test_each_start_adds_its_part_and_all_promised_keys_are_there(figures: dict[str, Any]) -> None:
    assert [one["rate"] for one in figures["rates"]["methods"]["prompt"]] == [rates.RATES["prompt"][0]]
    assert figures["methods"]["full"]["learning_rate"] == rates.RATES["full"][0]
    assert set(figures["methods"]) == {"full", "lora", "qlora", "prompt"}
    for found in figures["methods"].values():
        promised = ("trainable", "trainable_percent", "peak_memory_mb", "seconds_per_step", "checkpoint_bytes")
        assert all(found[name] > 0 for name in promised)
        assert 0 <= found["accuracy_before"] <= 1
        assert 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1
    assert figures["methods"]["prompt"]["trainable"] < figures["methods"]["full"]["trainable"]
    assert set(figures["frontier"]) == {"ppo", "dpo"}
    for points in figures["frontier"].values():
        assert [point["beta"] for point in points] == list(frontier.QUICK.betas)
        assert all(point["kl"] > 0 > point["gold"] for point in points)  # the tiny model babbles
    assert figures["frontier_start"]["kl"] == 0
    assert figures["ppo_memory_ratio"] > 0.5
    assert len(figures["learning"]["seeds"]) == learning.QUICK.seeds


def test_the_report_has_a_table_of_every_part_and_ends_with_its_json(figures: dict[str, Any]) -> None:
    lines = methods.report(figures).splitlines()
    assert json.loads(lines[-1]) == figures
    for start in (
        "| LoRA |",
        "| SFT | – |",
        "| PPO | 0.1 |",
        "| DPO | 0.1 |",
        "| 1 |",
        "Right on 4 held-back",
        "Peak memory of PPO",
    ):
        assert sum(line.startswith(start) for line in lines) == 1


def test_figures_of_another_model_are_not_added_to(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"model": "another", "quick": True}), "utf-8")
    with pytest.raises(BenchmarkError, match="another benchmark"):
        methods.run(tmp_path / "data", options_of(tiny_model, path, "memory"))


# ----------------------------------------------------------------------------------------------------------- learning
def curve_of(rewards: Sequence[float], kl: float = 1.0) -> list[dict[str, float]]:
    """A run's curve with these rewards."""
    return [{"reward": reward, "length": 10.0, "kl": kl} for reward in rewards]


def test_a_reward_has_risen_when_it_did_by_more_than_its_noise_and_the_kl_counts_in_every_round() -> None:
    rising = learning.judged(curve_of([0.1, 0.2, 0.1, 0.4, 0.5, 0.6, 0.5, 0.6]), 2.0)
    assert rising["rose"]
    assert rising["kl_under_target"]
    assert rising["reward_end"] - rising["reward_start"] == pytest.approx(0.433, abs=0.001)
    assert not learning.judged(curve_of([0.1, 0.6, 0.2, 0.5, 0.1, 0.6, 0.2, 0.6]), 2.0)["rose"]
    assert not learning.judged(curve_of([0.6, 0.5, 0.6, 0.5, 0.2, 0.1, 0.2, 0.1]), 2.0)["rose"]
    assert not learning.judged([*curve_of([0.1] * 7), *curve_of([0.1], kl=2.5)], 2.0)["kl_under_target"]


def test_noise_is_what_two_means_of_three_rounds_differ_by() -> None:
    """Against simulation: rewards that only vary rise by more than it in one case of forty, since a fall is none."""
    source = np.random.default_rng(0)
    rose = [learning.judged(curve_of(source.normal(size=40)), 2.0)["rose"] for _ in range(2000)]
    assert sum(rose) / len(rose) == pytest.approx(0.025, abs=0.015)


def test_the_length_that_is_wished_for_earns_most() -> None:
    earned = learning.closeness([SampledResponse((1,), (2,) * tokens, "", True) for tokens in (6, 12, 18, 24)])
    assert earned.tolist() == [0.5, 1.0, 0.5, 0.0]
