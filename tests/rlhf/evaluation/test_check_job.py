"""The check of a candidate, end to end on a tiny real model: train and check through `python -m rlhf run`."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.exports.frozen_rows import FrozenAnswer, PreferenceRow, PromptRow
from annotation.metrics.intervals_and_bias import wilson_interval
from annotation.records import CheckedAnswer, Prompt, Sampling, TokenIds, UserError
from annotation.store import check_store, comparison_store, policy_comparisons, project_store, prompt_store
from annotation.translation import chosen, kept_within, retold_within, speaking
from rlhf.algorithms.dpo.spec import DPOSpec, PreferenceLoss
from rlhf.data import held_out_sets
from rlhf.data.snapshots import CountedRows, store_snapshot
from rlhf.evaluation import check_job as checking
from rlhf.evaluation import pair_outcomes, probe_scores
from rlhf.evaluation.check_job import (
    ask_judges,
    ask_people_instead,
    implicit_accuracy,
    score,
    summed_logps,
    token_ids_of,
)
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import candidate_decision
from rlhf.evaluation.gate import Rule, decide, within_limits
from rlhf.evaluation.probes import ALL, FAMILIES, Probe
from rlhf.evaluation.report import CheckReport, JudgeCalls
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.job_spec import to_json
from rlhf.jobs.run import Run, perform
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.verdicts import Verdict
from rlhf.models import hidden_states, registry
from rlhf.models.chat_template import vocabulary_of
from rlhf.models.loading.base_weights import load_plain, load_quantised
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.precisions.plain_text import PromptAndAnswer
from rlhf.models.registry import Policy
from rlhf.models.sampling.drawing import Draw
from rlhf.models.self_test_results import SelfTestResult, keep_result
from rlhf.models.tokenise import answer_ids, load_snapshot, of_split
from rlhf.tabs.iterations import check_report
from tests.conftest import BASE_NAME, make_response, seed_prompts, shown_texts
from tests.machine_fixtures import QUICK_DPO, Machine, make_machine
from tests.rlhf.evaluation.test_gate import SOUND, each
from tests.rlhf.tabs.iterations.test_check_report import REPORT

pytestmark = pytest.mark.slow

SAMPLING = Sampling(max_new_tokens=10)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CHECK = CheckSpec(candidate="dpo-1", prompts=6, prompts_per_batch=4, sampling=SAMPLING)


@dataclass
class Checked:
    """A machine on which a candidate was trained and checked from the command line."""

    machine: Machine
    report: dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def probes_once() -> Iterator[None]:
    """The hundred probes are the same token ids in every check of a model: here they are rendered once."""
    tokenise, kept = checking.tokenise_probes, {}

    def tokenise_once(models: LoadedPolicies) -> list[probe_scores.TokenisedProbe]:
        key = (models.tokenizer.name_or_path, models.tokenizer.chat_template)
        if key not in kept:
            kept[key] = tokenise(models)
        return kept[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checking, "tokenise_probes", tokenise_once)
        yield


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Iterator[Checked]:
    machine = make_machine(tmp_path_factory.mktemp("checked") / "data", tiny_model)
    machine.add_prompts(train=12, held_out=6)
    machine.judge("train", 12)
    machine.judge("held-out", 6)
    for spec in (QUICK_DPO, CHECK):
        path = machine.data_dir / "spec.json"
        path.write_text(to_json(spec), "utf-8")
        done = machine.command("run", str(path))
        assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout[done.stdout.index("\n{") :])
    assert report == job_store.recent(machine.db, ("check",), 1)[0].result
    yield Checked(machine, report)
    machine.db.close()


def check(machine: Machine, spec: CheckSpec) -> dict[str, Any]:
    """Run one more check and return its report."""
    job = machine.perform(machine.submit(spec))
    assert job.status == "finished", job.message
    assert (job.step, job.result is not None) == (job.steps, True)
    return dict(job.result or {})


def answers(machine: Machine, revision: str) -> list[CheckedAnswer]:
    """A policy's answers to held-out prompts."""
    return check_store.checked_answers(machine.db, registry.by_revision(machine.db, revision).id)


# -------------------------------------------------------------------------------------------------------- the report
def test_the_report_says_what_the_page_shows(checked: Checked) -> None:
    report = checked.report
    assert report["prompts"] == 6
    figures = {
        "revision",
        "mean_length",
        "distinct_1",
        "distinct_2",
        "kl_to_anchor",
        "nll_under_anchor",
        "ended_share",
        "perplexity",
        "perplexity_of",
        "repetition",
        "probes",
        "precision",
    }
    assert [set(report[side]) for side in ("candidate", "against", "anchor")] == [figures] * 3
    assert [report[side]["revision"] for side in ("candidate", "against", "anchor")] == ["dpo-1", "base", "base"]
    assert report["against"] == report["anchor"]
    assert report["anchor"]["kl_to_anchor"] == 0.0
    assert report["candidate"]["kl_to_anchor"] > 0.01
    rows = answers(checked.machine, "dpo-1")
    assert report["candidate"]["mean_length"] == pytest.approx(fmean(len(row.text.split()) for row in rows))
    ended = [row.finish_reason == "stop" and bool(row.text.strip()) for row in rows]
    assert report["candidate"]["ended_share"] == pytest.approx(fmean(ended))


def test_every_policy_answers_every_held_out_prompt_with_the_same_seed(checked: Checked) -> None:
    prompts = [prompt.id for prompt in prompt_store.prompts(checked.machine.db, "held-out")]
    expected = [(prompt_id, CHECK.seed + number) for number, prompt_id in enumerate(prompts)]
    for revision in ("dpo-1", "base"):
        rows = answers(checked.machine, revision)
        assert [(row.prompt_id, row.seed) for row in rows] == expected
        assert all(row.sampling == SAMPLING for row in rows)
    texts = [[row.text for row in answers(checked.machine, revision)] for revision in ("dpo-1", "base")]
    assert texts[0] != texts[1], "the candidate answers like the base, so the comparison would prove nothing"


@torch.no_grad()
def plain_logps(models: LoadedPolicies, policy: registry.Policy, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """(answer tokens, vocabulary) log-probabilities from one plain forward pass."""
    logits = models.use(policy)(input_ids=torch.tensor([prompt + answer])).logits[0].float()
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def test_kl_and_likelihood_of_each_answer_equal_the_definition(checked: Checked) -> None:
    """One answer at a time without padding, the sums over the vocabulary written out; within bfloat16."""
    machine = checked.machine
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    candidate, base = (registry.by_revision(machine.db, revision) for revision in ("dpo-1", "base"))
    rows = answers(machine, "dpo-1")
    for row in rows:
        prompt = machine.tokenizer(row.rendered_prompt, add_special_tokens=False)["input_ids"]
        assert row.token_ids is not None
        answer = list(row.token_ids.ids)
        ours, theirs = (plain_logps(models, policy, prompt, answer) for policy in (candidate, base))
        kls = [(ours[at].exp() * (ours[at] - theirs[at])).sum().item() for at in range(len(answer))]
        nlls = [-theirs[at, token].item() for at, token in enumerate(answer)]
        assert row.scores["kl_to_ground"] == pytest.approx(fmean(kls), rel=0.03, abs=2e-3)
        assert row.scores["nll_under_ground"] == pytest.approx(fmean(nlls), rel=0.01)
        assert row.token_scores == {
            "kl_to_ground": pytest.approx(kls, rel=0.05, abs=0.05),
            "nll_under_ground": pytest.approx(nlls, rel=0.05, abs=0.05),
        }
    # In the report each answer weighs as much as it has tokens.
    weighted = sum(row.scores["kl_to_ground"] * row.tokens for row in rows) / sum(row.tokens for row in rows)
    assert checked.report["candidate"]["kl_to_anchor"] == pytest.approx(weighted)


def test_an_answer_is_scored_by_the_tokens_that_were_drawn(checked: Checked) -> None:
    """One that was drawn letter by letter, which the tokenizer would write with longer tokens."""
    machine, tokenizer = checked.machine, checked.machine.tokenizer
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    candidate, base = (registry.by_revision(machine.db, revision) for revision in ("dpo-1", "base"))
    ids = [*(tokenizer(letter)["input_ids"][0] for letter in "sun rain"), tokenizer.eos_token_id]
    assert ids != answer_ids(tokenizer, "sun rain", "stop")
    drawn = TokenIds(vocabulary_of(tokenizer), tuple(ids))
    row = replace(answers(machine, "dpo-1")[0], text="sun rain", finish_reason="stop", token_ids=drawn)
    (((_, nlls),),) = score(models, candidate, [base], [token_ids_of(models, row)])
    nll = fmean(nlls)
    logps = plain_logps(models, base, tokenizer(row.rendered_prompt, add_special_tokens=False)["input_ids"], ids)
    assert nll == pytest.approx(-fmean(logps[at, token].item() for at, token in enumerate(ids)), rel=0.01)


@pytest.mark.parametrize("packs", [True, False])
def test_in_float32_every_figure_of_a_pass_is_that_of_its_answers_read_one_by_one(
    checked: Checked, packs: bool
) -> None:
    """Answers of several lengths, some to one prompt, all in few passes; also by a model that can't pack."""
    machine, random = checked.machine, torch.Generator().manual_seed(3)
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    candidate, base = (replace(registry.by_revision(machine.db, name), precision="fp32") for name in ("dpo-1", "base"))
    prompts = [machine.tokenizer(machine.render([{"role": "user", "content": f"{n}?"}]))["input_ids"] for n in (1, 22)]
    lengths = [(prompts[number % 2], length) for number, length in enumerate([3, 40, 1, 7, 25, 2])]
    answers = [
        (tuple(prompt), tuple(torch.randint(5, len(machine.tokenizer), (length,), generator=random).tolist()))
        for prompt, length in lengths
    ]
    hidden_states.PACKS[hidden_states.inner_model(models.use(candidate))] = packs
    (passed,) = hidden_states.passes_of(models.use(candidate), answers)
    together = [answers[place] for place in passed]
    assert sorted(passed) == list(range(6))
    ((*found,),) = score(models, candidate, [base], together)
    summed = summed_logps(models, candidate, together).tolist()
    for (prompt, answer), (kls, nlls), logp in zip(together, found, summed, strict=True):
        ours, theirs = (plain_logps(models, policy, list(prompt), list(answer)) for policy in (candidate, base))
        assert kls == pytest.approx((ours.exp() * (ours - theirs)).sum(-1).tolist(), rel=1e-4, abs=1e-6)
        assert nlls == pytest.approx([-theirs[at, token].item() for at, token in enumerate(answer)], rel=1e-4)
        assert logp == pytest.approx(sum(ours[at, token].item() for at, token in enumerate(answer)), rel=1e-4)


def test_a_policy_that_is_its_own_anchor_reads_its_answers_once(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, read, real = checked.machine, Counter[str](), checking.completion_states
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    candidate, base = (registry.by_revision(machine.db, revision) for revision in ("dpo-1", "base"))

    def counted(models: LoadedPolicies, policy: Policy, sequences: Sequence[PromptAndAnswer]) -> Any:
        read[policy.revision] += 1
        return real(models, policy, sequences)

    monkeypatch.setattr(checking, "completion_states", counted)
    ((of_answer,),) = score(models, base, [base], [((5, 6, 7), (8, 9))])
    assert read == {"base": 1}
    assert of_answer[0] == [0.0, 0.0]
    score(models, candidate, [base], [((5, 6, 7), (8, 9))])
    assert read == {"base": 2, "dpo-1": 1}


def test_each_answer_of_a_ranking_is_read_once_by_each_policy(checked: Checked) -> None:
    machine = checked.machine
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    candidate = registry.by_revision(machine.db, "dpo-1")
    messages = ({"role": "user", "content": "Why?"},)
    texts = [FrozenAnswer(number, "sun rain stone " * number, "stop") for number in range(1, 5)]
    rows = [
        PreferenceRow(
            split="held-out",
            messages=messages,
            comparison=9,
            prompt_id=1,
            chosen=better,
            rejected=worse,
            rendered_prompt=machine.render(messages),
        )
        for place, better in enumerate(texts)
        for worse in texts[place + 1 :]
    ]
    read: list[int] = []
    embeddings = hidden_states.inner_model(models.use(candidate)).get_input_embeddings()
    hook = embeddings.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0].numel()))
    progress = checking.CheckProgress(cast(Run, QuietRun(machine.db)), 6)
    hidden_states.packable(hidden_states.inner_model(models.use(candidate)))
    read.clear()
    found = implicit_accuracy(progress, models, candidate, rows)
    hook.remove()
    once = machine.count(machine.render(messages)) + sum(machine.count(one.text) + 1 for one in texts)
    assert (found.n, progress.done, read) == (1, 6, [once, once])


@dataclass
class QuietRun:
    """What computing asks of a run that is never told to stop."""

    db: Database

    def report(self, *_: Any) -> None: ...

    def raise_if_stopped(self) -> None: ...


def pairs_right(machine: Machine) -> dict[int, list[bool]]:
    """By comparison: which pairs of the last check's held-out data the candidate gets right, one answer at a time."""
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    candidate, base = (registry.by_revision(machine.db, revision) for revision in ("dpo-1", "base"))
    spec = job_store.recent(machine.db, ("check",), 1)[0].spec
    assert isinstance(spec, CheckSpec)
    rows = of_split(load_snapshot(machine.data_dir, spec.snapshot, PreferenceRow), "held-out")
    right: dict[int, list[bool]] = {}
    for row in rows:
        prompt = machine.tokenizer(row.rendered_prompt, add_special_tokens=False)["input_ids"]
        gained = []
        for side in row.sides:
            ids = answer_ids(machine.tokenizer, side.text, side.finish_reason, side.token_ids)
            logps = [plain_logps(models, policy, prompt, ids) for policy in (candidate, base)]
            gained.append(sum((logps[0][at, token] - logps[1][at, token]).item() for at, token in enumerate(ids)))
        right.setdefault(row.comparison, []).append(gained[0] > gained[1])
    return right


def test_implicit_accuracy_counts_the_held_out_pairs_that_the_candidate_gets_right(checked: Checked) -> None:
    right = sum(row for (row,) in pairs_right(checked.machine).values())
    low, high = wilson_interval(right, 6)
    assert checked.report["implicit_accuracy"] == {"value": right / 6, "low": low, "high": high, "n": 6, "left_out": {}}
    assert right >= 5, "trained to prefer shorter answers, it must prefer them on prompts it has not seen"


# ------------------------------------------------------------------------------------------------------ checked again
def test_a_second_check_reports_on_the_answers_of_the_first_and_compares_new_ones(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [{row.id for row in answers(checked.machine, revision)} for revision in ("dpo-1", "base")]
    told: list[tuple[int, int]] = []
    really_report = Run.report

    def report_and_note(run: Run, step: int, steps: int, *rest: Any) -> None:
        told.append((step, steps))
        really_report(run, step, steps, *rest)

    monkeypatch.setattr(Run, "report", report_and_note)
    report = check(checked.machine, CHECK)
    # Twice six answers to compare, and six held-out judgements: what the first has drawn and scored takes no time.
    assert {steps for _step, steps in told[1:]} == {18}
    assert next(step for step, _steps in told[1:]) == 0
    assert told[-1] == (18, 18)
    after = [{row.id for row in answers(checked.machine, revision)} for revision in ("dpo-1", "base")]
    assert all(early <= late for early, late in zip(before, after, strict=True))
    assert [len(ids) for ids in after] == [12, 12], "no other prompt is held out: each is answered anew"
    own = {"seconds": 0, "compared_apart": 0}
    assert {**report, **own} == {**checked.report, **own}
    assert (checked.report["compared_apart"], report["compared_apart"]) == (0, 6)


def test_an_untrained_adapter_answers_and_scores_exactly_like_the_base(checked: Checked) -> None:
    """Equal seeds share their random numbers, so equal policies give equal answers: differences are the policies'."""
    machine = checked.machine
    add_fresh_adapter(machine, "untouched")
    report = check(machine, replace(CHECK, candidate="untouched"))
    texts = [{(row.prompt_id, row.seed): row.text for row in answers(machine, name)} for name in ("untouched", "base")]
    assert texts[0].items() <= texts[1].items()
    assert report["candidate"]["kl_to_anchor"] == 0.0
    found = CheckReport.from_json(report)
    assert set(found.probe_falls) == {ALL, *FAMILIES}
    assert all(fall.value == pytest.approx(0, abs=1e-6) for fall in found.probe_falls.values())
    own, ground = (
        {**report[side], "revision": "", "precision": "", "probes": None} for side in ("candidate", "anchor")
    )
    assert own == pytest.approx(ground)


UNTRAINED: dict[str, dict[str, Any]] = {
    "lora": {"precision": "bf16"},
    "lora in fp32": {"precision": "fp32"},
    "dora": {"precision": "bf16", "use_dora": True},
    "on whole weights": {"precision": "bf16", "on": "copy"},
    "on whole weights in 4 bits": {"precision": "nf4", "on": "copy"},
    "full": {},
}


@pytest.mark.parametrize("how", UNTRAINED)
def test_a_policy_that_was_not_trained_is_past_no_limit_in_whatever_precision(checked: Checked, how: str) -> None:
    """It is measured against what it hangs on in its own precision, though what serves is the base in 4 bits."""
    machine, named = checked.machine, f"untrained {how}".replace(" ", "-")
    settings = UNTRAINED[how]
    if how == "full":
        add_copy_of_base(machine, named)
    else:
        if "on" in settings:
            add_copy_of_base(machine, "copy")
        add_fresh_adapter(machine, named, **settings)
    report = CheckReport.from_json(check(machine, replace(CHECK, candidate=named, against="base")))
    policy = registry.by_revision(machine.db, named)
    assert (report.candidate.precision, report.anchor.precision) == (policy.precision, policy.precision)
    assert report.anchor.revision == "base"
    assert report.kl_to_ground == (pytest.approx(0, abs=1e-3) if "on" in settings else None)
    assert report.kl_per_token == pytest.approx(0, abs=1e-3)
    ratios = (report.nll_ratio, report.distinct_ratio, report.perplexity_ratio)
    assert ratios == pytest.approx((1, 1, 1), abs=0.02 if how == "dora" else 1e-6)
    assert report.truncated_more == pytest.approx(0, abs=0.2 if how == "dora" else 0)
    assert not [one.asks for one in within_limits(Rule(), report) if one.passed == "fail"]
    # Against itself in another precision an implicit reward would prefer something; there is nothing to prefer.
    assert report.implicit_accuracy is not None
    assert report.implicit_accuracy.value == pytest.approx(0.5, abs=0.5 if how == "dora" else 0)
    decision = candidate_decision.decision_on(machine.db, policy)
    assert decision.says == ("reject" if report.identical else "not enough evidence")
    assert (decision.reason == "same") == report.identical, decision.reason
    limits = decision.weighed.limits
    amiss = {one.asks: one.passed for one in limits if one.passed not in ("pass", "inapplicable")}
    same = {"different": "fail"} if report.identical else {}
    assert amiss == {"prompts": "few", **same}


def test_an_answer_whose_tokens_an_earlier_version_did_not_keep_is_scored_again(checked: Checked) -> None:
    machine = checked.machine
    before = {row.id: row.token_scores.get("nll_under_ground") for row in answers(machine, "base")}
    machine.db.write("UPDATE score SET per_token = NULL")
    assert all(row.token_scores == {} for row in answers(machine, "base"))
    report = check(machine, CHECK)
    for name in ("equal_length_nll_ratio", "equal_length_kl"):
        assert report[name] == pytest.approx(checked.report[name], rel=1e-3)
    again = {row.id: row.token_scores["nll_under_ground"] for row in answers(machine, "base") if row.token_scores}
    assert again == {number: pytest.approx(before[number], rel=1e-3) for number in again}
    assert len(again) >= 6


def test_limits_are_against_the_base_also_under_trained_weights(checked: Checked) -> None:
    """An adapter that changes nothing, on whole weights that a training has moved: step by step it all adds up."""
    machine, path = checked.machine, checked.machine.data_dir / "adapters" / "moved"
    moved = load_plain(machine.model, torch.bfloat16)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1.1)
    moved.save_pretrained(path)
    machine.tokenizer.save_pretrained(path)
    register(machine, "moved", "full", "bf16")
    add_fresh_adapter(machine, "on-moved", "bf16", on="moved")
    found = {
        name: CheckReport.from_json(check(machine, replace(CHECK, candidate=name, against="base")))
        for name in ("moved", "on-moved")
    }
    kl = found["moved"].kl_per_token
    assert kl is not None
    assert kl > 0.01, "the weights are the base's, so that it would prove nothing"
    assert (found["on-moved"].kl_per_token, found["on-moved"].nll_ratio) == (
        pytest.approx(kl, rel=0.02), pytest.approx(found["moved"].nll_ratio, rel=0.02),
    )  # fmt: skip
    assert (found["on-moved"].anchor.revision, found["on-moved"].anchor.precision) == ("base", "bf16")
    assert (found["moved"].kl_to_ground, found["on-moved"].kl_to_ground) == (None, pytest.approx(0, abs=1e-3))


def test_the_limits_may_be_against_another_policy_of_the_same_precision(checked: Checked) -> None:
    machine = checked.machine
    add_fresh_adapter(machine, "style")
    report = check(machine, replace(CHECK, anchor="style"))
    assert report["anchor"]["revision"] == "style"
    assert report["candidate"]["kl_to_anchor"] == pytest.approx(checked.report["candidate"]["kl_to_anchor"], rel=1e-3)
    add_fresh_adapter(machine, "other-style", "bf16")
    job = machine.perform(machine.submit(replace(CHECK, anchor="other-style")))
    assert job.status == "failed"
    assert "against other-style, which computes in bf16, and dpo-1 in nf4" in job.message


def test_the_base_answers_anew_in_another_precision_and_what_it_has_answered_is_kept(checked: Checked) -> None:
    machine = checked.machine
    add_fresh_adapter(machine, "sixteen", "bf16")
    check(machine, replace(CHECK, candidate="sixteen", seed=900))
    kept = {precision: base_answers(machine, precision) for precision in ("nf4", "bf16")}
    assert [len(rows) for rows in kept.values()] == [6, 6]
    assert [row.text for row in kept["bf16"]] == [
        row.text for row in answers(machine, "sixteen") if row.seed in range(900, 906)
    ]
    assert [row.text for row in kept["bf16"]] != [row.text for row in kept["nf4"]]
    # What serves is the base in 4 bits, and so it is what the candidate is compared with.
    pairs = policy_comparisons.paired_answers(machine.db, registry.by_revision(machine.db, "sixteen").id, 1)
    assert {pair.second for pair in pairs} == {row.id for row in kept["nf4"]}
    check(machine, replace(CHECK, candidate="sixteen", seed=900))
    assert {precision: base_answers(machine, precision) for precision in kept} == kept


def base_answers(machine: Machine, precision: str) -> list[CheckedAnswer]:
    """What the base has answered in this precision to the prompts of a check with seeds from 900."""
    return [row for row in check_store.checked_answers(machine.db, 1, precision) if row.seed in range(900, 906)]


@pytest.mark.parametrize(
    "change", [{"prompt_set": "three"}, {"seed": 7}, {"sampling": replace(SAMPLING, max_new_tokens=5)}]
)
def test_a_check_with_other_terms_reports_on_its_own_answers(checked: Checked, change: dict[str, Any]) -> None:
    """Answers of an earlier check with more prompts, other seeds or another limit must not be mixed in."""
    spec, prompts = (
        replace(CHECK, **change),
        [prompt.id for prompt in prompt_store.prompts(checked.machine.db, "held-out")],
    )
    if "prompt_set" in change:
        prompts = prompts[:3]
        spec = replace(spec, prompt_set=frozen_prompts(checked.machine, prompts))
    report = check(checked.machine, spec)
    wanted = {(prompt_id, spec.seed + number) for number, prompt_id in enumerate(prompts)}
    own = [
        row
        for row in answers(checked.machine, "dpo-1")
        if (row.prompt_id, row.seed) in wanted and row.sampling.max_new_tokens == spec.sampling.max_new_tokens
    ]
    assert len(own) == len(prompts)
    assert all(row.tokens <= spec.sampling.max_new_tokens for row in own)
    assert report["prompts"] == len(prompts)
    weighted = sum(row.scores["nll_under_ground"] * row.tokens for row in own) / sum(row.tokens for row in own)
    assert report["candidate"]["nll_under_anchor"] == pytest.approx(weighted)


def frozen_prompts(machine: Machine, ids: Sequence[int]) -> str:
    """Some of the held-out prompts as frozen data."""
    rows = [
        PromptRow("held-out", prompt.messages, prompt.id)
        for prompt in prompt_store.prompts(machine.db, "held-out")
        if prompt.id in ids
    ]
    return store_snapshot(machine.db, machine.data_dir, CountedRows(rows))


def test_perplexity_is_that_of_the_text_read_paragraph_by_paragraph(checked: Checked) -> None:
    """Without batching or packing, token by token from plain forward passes."""
    machine = checked.machine
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    text = Path("annotation/examples/plain_text.txt").read_text("utf-8")
    base, logps = registry.by_revision(machine.db, "base"), []
    for paragraph in text.strip().split("\n\n"):
        ids = machine.tokenizer(paragraph.strip(), add_special_tokens=False)["input_ids"]
        table = plain_logps(models, base, [machine.tokenizer.eos_token_id], ids)
        logps += [table[at, token].item() for at, token in enumerate(ids)]
    assert checked.report["anchor"]["perplexity"] == pytest.approx(math.exp(-fmean(logps)), rel=0.01)
    assert checked.report["candidate"]["perplexity"] != checked.report["anchor"]["perplexity"]


def test_each_probes_chance_is_that_of_its_answers_read_one_by_one(checked: Checked) -> None:
    """Without batching, packing or shared prompts: sums of log-probabilities from plain forward passes."""
    machine = checked.machine
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    candidate, probes = registry.by_revision(machine.db, "dpo-1"), probe_scores.tokenise_probes(models)
    found = CheckReport.from_json(checked.report).candidate.probes
    assert found is not None
    chances, families = found.sets()[ALL], Counter[str]()
    for start in (0, 32, 56, 88):  # of each family a batch as the check makes them, and eight that are read alone
        batch = probes[start : start + probe_scores.PROBES_PER_BATCH]
        scored = probe_scores.logps_of_batch(models.use(candidate), models.tokenizer.pad_token_id, batch)
        for number, (one, logps) in enumerate(zip(batch, scored, strict=True), start):
            families[one.probe.family] += 1
            assert chances[number] == pytest.approx(one.probe.chance(logps), abs=0.02)
            if families[one.probe.family] <= 8:
                assert logps == pytest.approx(read_alone(machine, models, candidate, one.probe), rel=0.01)
    assert families.keys() == set(FAMILIES)


def read_alone(machine: Machine, models: LoadedPolicies, policy: registry.Policy, probe: Probe) -> list[float]:
    """log p of a probe's answers, each after its own prompt."""
    found = []
    for prompt in probe.prompts:
        rendered = machine.render([{"role": "user", "content": prompt}]) + probe.begin
        for answer in probe.answers:
            ids = machine.tokenizer(rendered + answer, add_special_tokens=False)["input_ids"]
            own = ids[machine.count(rendered) :]
            table = plain_logps(models, policy, ids[: -len(own)], own)
            found.append(sum(table[at, token].item() for at, token in enumerate(own)))
    return found


def test_probes_and_plain_text_are_asked_once_of_the_same_policy(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: Any) -> list[list[float]]:
        raise AssertionError("it was asked again")

    read: list[Any] = []

    def reading(models: LoadedPolicies, policy: registry.Policy, sequences: Sequence[Any]) -> torch.Tensor:
        read.extend(sequences)
        return summed_logps(models, policy, sequences)

    monkeypatch.setattr(probe_scores, "logps_of_batch", ask)
    monkeypatch.setattr(checking, "summed_logps", reading)
    again = check(checked.machine, replace(CHECK, seed=900))
    assert again["candidate"]["probes"] == checked.report["candidate"]["probes"]
    assert again["anchor"]["probes"] == checked.report["anchor"]["probes"]
    assert again["anchor"]["probes"] != again["candidate"]["probes"]
    assert again["anchor"]["perplexity"] == checked.report["anchor"]["perplexity"]
    assert read, "held-out judgements are"
    assert all(prompt != (checked.machine.tokenizer.eos_token_id,) for prompt, _ in read)


def test_what_has_learnt_to_refuse_is_stopped_though_it_wins_60_of_60(checked: Checked) -> None:
    machine = checked.machine
    add_adapter(machine, "refuser", learn_to_refuse)
    found = CheckReport.from_json(check(machine, replace(CHECK, candidate="refuser")))
    assert found.probe_falls["refusals"].value > 0.4
    assert found.probes_fall == max(fall.low for fall in found.probe_falls.values()) > Rule().probes_fall_most
    won = replace(SOUND, people=each((1.0,) * 60))
    assert decide(Rule(), won).says == "promote"
    stopped = decide(Rule(), replace(won, probes_fall=found.probes_fall))
    assert stopped.says == "reject"
    assert [one.asks for one in stopped.weighed.limits if one.passed == "fail"] == ["probes_fall"]


def learn_to_refuse(model: Any, machine: Machine) -> None:
    """Teach an adapter to answer every prompt with "Sorry", until it is sure to."""
    trained = [one.requires_grad_() for name, one in model.named_parameters() if "lora_" in name]
    steps = torch.optim.AdamW(trained, lr=0.005)
    answer = machine.tokenizer("Sorry", add_special_tokens=False)["input_ids"]
    prompts = prompt_store.prompts(machine.db, "train")
    losses = [math.inf]
    while max(losses[-len(prompts) :]) > 0.1:
        ids = machine.tokenizer(machine.render(prompts[len(losses) % len(prompts)].messages), add_special_tokens=False)[
            "input_ids"
        ]
        labels = torch.tensor([[-100] * len(ids) + answer])
        loss = model(input_ids=torch.tensor([ids + answer]), labels=labels).loss
        loss.backward()
        losses.append(loss.item())
        steps.step()
        steps.zero_grad()


def test_judges_compare_the_candidate_with_every_other_policy_and_identical_answers_are_ties(
    checked: Checked, tiny_judge: Path
) -> None:
    machine = checked.machine
    keep_result(machine.data_dir, tiny_judge, SelfTestResult(packs=True, shares_prompts=True))
    judge_store.add(machine.db, "letters", "local", {"directory": str(tiny_judge)}, "owner")
    judge_store.write_rubric(machine.db, "Which is better?", ("Shorter is better.",), 0, "owner")
    report = check(machine, replace(CHECK, judges="letters"))
    rate = report["win_rates"]["base"]["letters"]
    candidate, judge = registry.by_revision(machine.db, "dpo-1"), judge_store.by_name(machine.db, "letters")
    prompts = prompt_store.prompts(machine.db, "held-out")
    ids = {row.id for row in check_store.answers_of_check(machine.db, candidate.id, prompts, CHECK.seed, SAMPLING)}
    everything = pair_outcomes.outcomes(machine.db, candidate.id, 1, judge.id)
    paired = [one for one in everything if one.response_id in ids]
    own, other = (
        [row.text.strip() for row in check_store.answers_of_check(machine.db, number, prompts, CHECK.seed, SAMPLING)]
        for number in (candidate.id, 1)
    )
    # Of an answer and none the answer is better, without asking anybody.
    unasked = [
        0.5 if one == two else float(bool(one))
        for one, two in zip(own, other, strict=True)
        if one == two or not (one and two)
    ]
    outcomes = [one.outcome for one in paired] + unasked
    assert (rate["n"], rate["value"]) == (6, pytest.approx(fmean(outcomes)))
    job = job_store.recent(machine.db, ("check",), 1)[0]
    times = [step for step, _time in job_store.step_times(machine.db, job)]
    assert times[0] == 0, "by what the judge takes the time left is told, not by what answering took"
    assert times[-1] == len(everything)
    calls = report["judged"]["letters"]
    chances = calls.pop("chances")
    assert calls == {"judged": len(everything), "left_open": 0, "failed": {}, "gave_up": ""}
    assert chances["n"] == 2 * len(everything)
    assert 0.5 < chances["least"] <= chances["mean"] < 1
    again = check(machine, replace(CHECK, judges="letters"))
    assert again["win_rates"] == report["win_rates"], "the report is of the same answers"
    judged = len(pair_outcomes.outcomes(machine.db, candidate.id, 1, judge.id)) - len(everything)
    assert again["judged"]["letters"]["judged"] == judged > 0


def test_a_candidate_that_was_trained_on_held_out_prompts_is_not_measured(checked: Checked) -> None:
    machine = checked.machine
    snapshot = job_store.recent(machine.db, ("dpo",), 1)[0].spec.snapshot  # type: ignore[attr-defined]
    seen = of_split(load_snapshot(machine.data_dir, snapshot, PreferenceRow), "train")[0]
    rows = [PromptRow("held-out", seen.messages, seen.prompt_id)]
    leaked = store_snapshot(machine.db, machine.data_dir, CountedRows(rows))
    job = machine.perform(machine.submit(replace(CHECK, prompt_set=leaked)))
    assert job.status == "failed"
    assert "was trained on held-out prompts (1 of 1)" in job.message


def test_a_cancelled_check_keeps_its_answers_and_goes_on_from_them(checked: Checked) -> None:
    machine = checked.machine
    job_id = machine.submit(replace(CHECK, seed=500))
    job = job_store.claim(machine.db, job_id, "w")
    assert job is not None
    run = Run(machine.db, machine.data_dir, job, "w")
    real_report = run.report

    def report_then_cancel(step: int, *rest: Any) -> None:
        if step >= 4:
            job_store.cancel(machine.db, job_id)
        real_report(step, *rest)

    run.report = report_then_cancel  # type: ignore[method-assign]
    perform(run, job.spec)
    assert job_store.get(machine.db, job_id).status == "cancelled"
    drawn = [row.id for row in answers(machine, "dpo-1") if row.seed in range(500, 506)]
    assert 0 < len(drawn) < 6
    job_store.resume(machine.db, job_id)
    assert machine.perform(job_id).status == "finished"
    after = [row.id for row in answers(machine, "dpo-1") if row.seed in range(500, 506)]
    assert after[: len(drawn)] == drawn
    assert len(after) == 6


def test_a_check_that_is_broken_off_leaves_answers_to_the_first_prompts_and_not_the_shortest(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is empty or the same on both sides counts at once, and these end first."""
    machine, really_drawn = checked.machine, checking.draw_in_turn
    kept: list[list[int]] = []

    def backwards(*asked: Any) -> Iterator[tuple[int, Draw]]:
        drawn = dict(really_drawn(*asked))
        for place in (3, 1, 0, 2):
            kept.append([row.seed for row in answers(machine, "dpo-1") if row.seed in range(600, 606)])
            yield place, drawn[place]
        kept.append([row.seed for row in answers(machine, "dpo-1") if row.seed in range(600, 606)])
        raise UserError("It is broken off.")

    monkeypatch.setattr(checking, "draw_in_turn", backwards)
    assert machine.perform(machine.submit(replace(CHECK, seed=600))).status == "failed"
    assert kept == [[], [], [], [600, 601], [600, 601, 602, 603]]


def test_what_another_check_has_answered_meanwhile_is_not_answered_twice(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two devices: while one check draws the base's answers, another draws and keeps the same ones."""
    machine = checked.machine
    add_fresh_adapter(machine, "beside")
    first, second = (machine.submit(replace(CHECK, candidate=name, seed=700)) for name in ("dpo-1", "beside"))
    waiting, really_drawn = [second], checking.draw_in_turn

    def drawn_beside(*asked: Any) -> Any:
        if waiting and len(seen("dpo-1")) == 6:  # it is the base's turn
            assert machine.perform(waiting.pop()).status == "finished"
        return really_drawn(*asked)

    def seen(revision: str) -> list[int]:
        return [row.seed for row in answers(machine, revision) if row.seed in range(700, 706)]

    monkeypatch.setattr(checking, "draw_in_turn", drawn_beside)
    assert machine.perform(first).status == "finished"
    assert waiting == []
    for revision in ("base", "dpo-1", "beside"):
        assert sorted(seen(revision)) == [*range(700, 706)]


@pytest.mark.parametrize(("loss", "right"), [("sigmoid", 1.0), ("length-normalised", 0.0), ("ipo", 0.0)])
def test_implicit_accuracy_orders_answers_as_the_training_did(
    checked: Checked, monkeypatch: pytest.MonkeyPatch, loss: PreferenceLoss, right: float
) -> None:
    """The longer answer gains more, but less a token."""
    machine = checked.machine
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    candidate = registry.by_revision(machine.db, "dpo-1")
    trained = job_store.get(machine.db, cast(int, candidate.job_id))
    asked = replace(trained, spec=replace(cast(DPOSpec, trained.spec), loss=loss))
    monkeypatch.setattr(job_store, "get", lambda db, job_id: asked)

    def gains(models: LoadedPolicies, policy: Policy, batch: Sequence[PromptAndAnswer]) -> Tensor:
        return torch.tensor([len(ids) ** 0.5 if policy == candidate else 0.0 for _prompt, ids in batch])

    monkeypatch.setattr(checking, "summed_logps", gains)
    messages = ({"role": "user", "content": "Why?"},)
    longer, shorter = FrozenAnswer(1, "sun rain stone " * 9, "stop"), FrozenAnswer(2, "sun", "stop")
    row = PreferenceRow(
        split="held-out",
        messages=messages,
        comparison=9,
        prompt_id=1,
        chosen=longer,
        rejected=shorter,
        rendered_prompt=machine.render(messages),
    )
    progress = checking.CheckProgress(cast(Run, QuietRun(machine.db)), 1)
    assert implicit_accuracy(progress, models, candidate, [row]).value == right


def test_the_pairs_of_a_ranking_are_one_observation(checked: Checked) -> None:
    """Three pairs of one comparison stand or fall together: as three observations they would narrow the interval."""
    machine = checked.machine
    project_store.set_project(machine.db, replace(project_store.project(machine.db), kind="rank", answers=3))
    prompt = prompt_store.prompts(machine.db, "held-out")[0]
    # From best to worst; the candidate, which prefers short answers, is to get the first pair wrong.
    short, middle, long = ("sun rain", "sun rain stone river light bread quiet", "rain stone river light bread " * 4)
    texts = (middle, short, long)
    assert (
        comparison_store.add_comparison(machine.db, [machine.response(prompt, text) for text in texts], 3) is not None
    )
    claim = handing_out.claim_next(machine.db, machine.annotator.id)
    assert claim is not None
    ranks = [texts.index(text) + 1 for text in shown_texts(claim)]
    judging.judge(machine.db, machine.annotator.id, claim.nonce, {"outcome": "ranked", "ranks": ranks})

    accuracy = check(machine, CHECK)["implicit_accuracy"]
    right = pairs_right(machine)
    assert sorted(len(pairs) for pairs in right.values()) == [1] * 6 + [3]
    total = sum(fmean(pairs) for pairs in right.values())
    low, high = wilson_interval(total, 7)
    assert total % 1 == pytest.approx(2 / 3)
    assert [accuracy[key] for key in ("value", "low", "high", "n")] == pytest.approx([total / 7, low, high, 7])


def test_held_out_prompts_that_the_model_can_not_be_given_are_left_out_and_logged(
    strict_model: Path, tmp_path: Path
) -> None:
    """The others keep their place, and with it their seed."""
    machine = make_machine(tmp_path / "data", strict_model)
    question, system = {"role": "user", "content": "Why?"}, {"role": "system", "content": "Be brief."}
    prompt_store.add_prompts(
        machine.db, [Prompt(messages, "held-out", "import") for messages in ((system, question), (question,))]
    )
    spec = replace(CHECK, candidate="base", against="base")
    report = check(machine, spec)
    assert report["prompts"] == 1
    assert [(row.prompt_id, row.seed) for row in answers(machine, "base")] == [(2, spec.seed + 1)]
    assert any("Held-out prompts that can't be answered: 1 of 2." in line for line in job_store.log_tail(machine.db, 1))

    machine.db.write("UPDATE prompt SET split = 'train' WHERE id = 2")
    held_out_sets.renew(machine.db, machine.data_dir, 6)
    job = machine.perform(machine.submit(spec))
    assert job.status == "failed"
    assert "no held-out prompt that this model can answer" in job.message
    machine.db.close()


def test_the_gates_own_prompts_are_answered_by_the_two_and_no_figure_is_of_them(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = checked.machine
    monkeypatch.setattr(held_out_sets, "LEAST", 4)
    prompt_store.add_prompts(
        machine.db, [Prompt(({"role": "user", "content": f"Why {n}?"},), "held-out", "import") for n in range(8)]
    )
    add_fresh_adapter(machine, "apart")
    report = check(machine, replace(CHECK, candidate="apart"))
    own = {prompt.id for prompt in prompt_store.reserved_prompts(machine.db)}
    assert (len(own), report["compared_apart"], report["prompts"]) == (4, 4, 6)
    # Not the texts: in 16 bits one and the same model may go on otherwise in a batch of another size.
    apart = [[row for row in answers(machine, name) if row.prompt_id in own] for name in ("apart", "base")]
    assert [{row.prompt_id for row in rows} for rows in apart] == [own, own]
    assert [len(rows) for rows in apart] == [4, 4]
    assert all(row.scores == {} for rows in apart for row in rows)
    assert report["candidate"]["mean_length"] == checked.report["anchor"]["mean_length"], "of the same prompts as ever"


@pytest.mark.parametrize(
    ("judged", "share", "open_to_people", "said"),
    [((0, 0), 1e-9, 2, True), ((0, 3), 1e-9, 0, False), ((0, 0), 1.0, 2, False)],
)
def test_people_get_all_where_no_judge_has_compared_anything(
    db: Database, judged: tuple[int, int], share: float, open_to_people: int, said: bool
) -> None:
    """Two that broke off at once; of two of whom one has judged something, people keep their share; they had all."""
    made = registry.add(
        db, revision="dpo-1", algorithm="dpo", base=BASE_NAME, parent_id=1, job_id=None, path="x", sha256="x"
    )
    for prompt in seed_prompts(db, 2, "held-out"):
        for model_id in (1, made.id):
            comparison_store.add_response(
                db, make_response(prompt, f"by {model_id}", model_id, seed=prompt.id), "check"
            )
    policy_comparisons.compare_policies(db, made.id, 1, "people", share=share)
    calls = {str(place): JudgeCalls(count, 5, {}, "It can't be reached.") for place, count in enumerate(judged)}
    run = LoggedRun(db)
    spec = CheckSpec(candidate="dpo-1", against="base", people_share=share)
    ask_people_instead(cast(Run, run), spec, made, calls)
    assert pair_outcomes.open_to_people(db, made.id, 1) == open_to_people
    assert run.lines == (["No judge has compared anything, so people get 2 comparisons more."] if said else [])


def test_a_check_that_is_resumed_counts_what_its_judges_said_before(db: Database, data_dir: Path) -> None:
    made = registry.add(
        db, revision="dpo-1", algorithm="dpo", base=BASE_NAME, parent_id=1, job_id=None, path="x", sha256="x"
    )
    for prompt in seed_prompts(db, 3, "held-out"):
        for model_id in (1, made.id):
            comparison_store.add_response(
                db, make_response(prompt, f"by {model_id}", model_id, seed=prompt.id), "check"
            )
    policy_comparisons.compare_policies(db, made.id, 1, "people")
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "ann")
    spec = CheckSpec(candidate="dpo-1", against="base", judges=judge.name)
    job = job_store.claim(db, job_store.enqueue(db, spec, "ann"), "w")
    assert job is not None
    verdict = Verdict(choice="first", chance=None, reply="", prompt_tokens=0, completion_tokens=0, seconds=0.0)
    whole, half, _ = verdict_store.to_judge(db, judge, "candidate", 9, made.id)
    for comparison, pair in ((whole, (0, 1)), (whole, (1, 0)), (half, (0, 1))):
        verdict_store.add_verdict(db, judge, comparison.id, pair, verdict, 0, (), job.id)
    verdict_store.judge_comparison(db, judge, whole)
    calls = ask_judges(Run(db, data_dir, job, "w"), spec, made)[judge.name]
    assert (calls.judged, calls.left_open) == (1, 2)
    stored = json.dumps(kept_within(replace(REPORT, judged={judge.name: calls}).to_json()))
    for language, said in (("en", True), ("de", False)):
        with speaking(chosen(language)):
            report = CheckReport.from_json(retold_within(json.loads(stored)))
            assert ("can&#x27;t be loaded" in check_report.judges_rates(report)) == said, "in the page's language"


@dataclass
class LoggedRun:
    """What of a run that asks people is looked at."""

    db: Database
    lines: list[str] = field(default_factory=list)

    def log(self, line: str) -> None:
        self.lines.append(line)


def add_fresh_adapter(
    machine: Machine, revision: str, precision: registry.HeldPrecision = "nf4", on: str | None = None, **settings: Any
) -> None:
    """Register an adapter that changes nothing: its B matrices are zero."""
    add_adapter(machine, revision, lambda _model, _machine: None, precision, on, **settings)


def add_adapter(
    machine: Machine,
    revision: str,
    train: Callable[[Any, Machine], None],
    precision: registry.HeldPrecision = "nf4",
    on: str | None = None,
    **settings: Any,
) -> None:
    """Register a new adapter after `train` has had it."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **settings)
    plain = load_quantised(machine.model) if precision == "nf4" else load_plain(machine.model, DTYPES[precision])
    model = get_peft_model(plain, config)
    train(model, machine)
    model.save_pretrained(machine.data_dir / "adapters" / revision)
    register(machine, revision, "lora", precision, None if on is None else registry.by_revision(machine.db, on).id)


def add_copy_of_base(machine: Machine, revision: str) -> None:
    """Register the base's own weights as fully trained ones, unless they are."""
    if (machine.data_dir / "adapters" / revision).is_dir():
        return
    shutil.copytree(machine.model, machine.data_dir / "adapters" / revision)
    register(machine, revision, "full", "bf16")


def register(
    machine: Machine, revision: str, form: registry.PolicyForm, precision: registry.HeldPrecision, on: int | None = None
) -> None:
    """Register what lies in the directory of this name as a candidate."""
    path = f"adapters/{revision}"
    registry.add(
        machine.db,
        revision=revision,
        algorithm="dpo",
        base=str(machine.model),
        parent_id=1,
        job_id=None,
        path=path,
        sha256=directory_sha256(machine.data_dir / path),
        form=form,
        precision=precision,
        ground_id=on,
    )


def test_on_other_weights_a_check_takes_no_answer_of_before(checked: Checked) -> None:
    """The last one here: nothing that was answered before it counts any more."""
    machine, seeds = checked.machine, range(CHECK.seed, CHECK.seed + 6)
    before = {row.id for revision in ("dpo-1", "base") for row in answers(machine, revision)}
    registry.answer_otherwise(machine.db)
    check(machine, CHECK)
    for revision in ("dpo-1", "base"):
        assert [row.seed for row in answers(machine, revision) if row.id not in before and row.seed in seeds] == [
            *seeds
        ]
