"""The iteration: what comes next, what a job freezes, and what it refuses to begin with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.exports.frozen_rows import FrozenRow, PreferenceRow
from annotation.jobs import job_table
from annotation.metrics import quality
from annotation.records import Annotator, UserError
from annotation.store import comparison_store, project_store, setting_store
from annotation.web import access
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data import snapshots
from rlhf.data.label_noise import NoiseEvidence
from rlhf.data.snapshots import MIN_PAIRS, SnapshotCounts
from rlhf.evaluation import rule_store
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.loop import controller
from rlhf.loop.controller import advance
from rlhf.models import decision_store, registry
from rlhf.models.registry import PolicyForm
from rlhf.models.tokenise import load_snapshot
from rlhf.submission import job_submission, preconditions, preflight
from rlhf.submission.job_submission import preview, submit
from tests.builders import training_preview
from tests.conftest import BASE_NAME, act, make_response, seed_comparisons, seed_prompts, shown_texts

Judge = Callable[..., None]


# --------------------------------------------------------------------------------------------------------- submitting
@pytest.fixture
def judge(db: Database) -> Judge:
    """Make and judge comparisons: judge(count, word, split)."""
    annotator: Annotator = access.add_account(db, "ann", "annotator", "ann's password")

    def judge_some(count: int, word: str = "left-clearly", split: str = "train") -> None:
        seed_comparisons(db, count, split, registry.serving(db).id)  # type: ignore[arg-type]
        for _ in range(count):
            claim = handing_out.claim_next(db, annotator.id)
            assert claim is not None
            judging.judge(db, annotator.id, claim.nonce, act(word))

    return judge_some


def spec_of(db: Database, job_id: int) -> DPOSpec:
    """A training job's frozen spec."""
    spec = job_store.get(db, job_id).spec
    assert isinstance(spec, DPOSpec)
    return spec


def finish_training(db: Database, job_id: int, promoted: bool = True, form: PolicyForm = "lora") -> str:
    """End a training job as its worker would, with an adapter that may take over."""
    job_store.claim(db, job_id, "w")
    spec = job_store.get(db, job_id).spec
    assert isinstance(spec, TrainingSpec)
    revision, parent = f"{spec.kind}-{job_id}", registry.by_revision(db, spec.parent)
    registry.add(
        db,
        revision=revision,
        algorithm=spec.kind,
        base=BASE_NAME,
        parent_id=parent.id,
        job_id=job_id,
        path="x",
        sha256="x",
        form=form,
        precision="nf4" if spec.method == "qlora" else "bf16",
    )
    job_table.finish(db, job_id, "w", {"revision": revision})
    if promoted:
        decision_store.promote(db, revision, "ann")
    return revision


def test_the_preview_counts_what_submit_freezes(db: Database, data_dir: Path, judge: Judge) -> None:
    for count, word, split in (
        (9, "left-clearly", "train"),
        (2, "tie", "train"),
        (1, "skip", "train"),
        (3, "right-slightly", "held-out"),
    ):
        judge(count, word, split)
    shown = preview(db, data_dir, DPOSpec())
    assert (shown.train, shown.held_out, shown.parent) == (9, 3, "base")
    assert shown.left_out == {"tie": 2, "skip": 1}

    spec = spec_of(db, submit(db, data_dir, DPOSpec(), "ann"))
    assert (spec.parent, spec.model) == ("base", BASE_NAME)
    rows = load_snapshot(data_dir, spec.snapshot, FrozenRow)
    assert [row.split for row in rows].count("train") == 9
    assert snapshots.snapshot_counts(db, spec.snapshot) == SnapshotCounts(
        train=9, held_out=3, left_out={"tie": 2, "skip": 1}
    )


def test_what_an_annotator_left_out_has_judged_is_counted_and_comes_back(
    db: Database, data_dir: Path, judge: Judge
) -> None:
    judge(10)
    judge(2, split="held-out")
    exclude(db, "ann", True)
    assert preview(db, data_dir, DPOSpec()) == training_preview(0, 0, left_out={"excluded": 12})
    exclude(db, "ann", False)
    assert preview(db, data_dir, DPOSpec()) == training_preview(10, 2)


def exclude(db: Database, name: str, excluded: bool) -> None:
    """Leave an annotator's judgements out of training, or take them in again."""
    db.write(
        """INSERT INTO exclusion (annotator_id, excluded, reason, decided_by, created)
           SELECT id, ?, 'a test', 'owner', '' FROM annotator WHERE name = ?""",
        (int(excluded), name),
    )


def test_a_ranking_of_three_is_frozen_as_its_pairs_together(db: Database, data_dir: Path, judge: Judge) -> None:
    """1 > 2 > 3 is three pairs; with the best two tied it is two and a tie."""
    judge(MIN_PAIRS)
    project_store.set_project(db, replace(project_store.project(db), kind="rank", answers=3))
    annotator = db.value("SELECT id FROM annotator WHERE name = 'ann'")
    for number, ranks in enumerate(([1, 2, 3], [1, 1, 2])):
        prompt = seed_prompts(db, 1)[-1]
        texts = [f"{word} answer {number}" for word in ("short", "a longer", "the longest of all the")]
        assert comparison_store.add_comparison(db, [make_response(prompt, text) for text in texts], 3) is not None
        claim = handing_out.claim_next(db, annotator)
        assert claim is not None
        judging.judge(db, annotator, claim.nonce, {"outcome": "ranked", "ranks": ranks})
    assert preview(db, data_dir, DPOSpec()) == training_preview(MIN_PAIRS + 5, 0, left_out={"tie": 1})
    rows = load_snapshot(data_dir, spec_of(db, submit(db, data_dir, DPOSpec(), "ann")).snapshot, PreferenceRow)
    groups = [row.comparison for row in rows]
    assert [number for number, _ in itertools.groupby(groups)] == sorted(set(groups)), "its pairs stay together"
    assert [groups.count(number) for number in sorted(set(groups))[-2:]] == [3, 2]


def test_what_overlap_tells_of_the_annotators_goes_into_the_frozen_pairs(db: Database, data_dir: Path) -> None:
    """Two agree on twenty comparisons and a third says the opposite: what the third judged alone teaches nothing."""
    people = {name: access.add_account(db, name, "annotator", f"{name}'s password") for name in ("ann", "bob", "eve")}

    def judge_all(count: int, names: Sequence[str]) -> None:
        project_store.set_project(db, replace(project_store.project(db), overlap=len(names)))
        seed_comparisons(db, count)
        for name, _ in itertools.product(names, range(count)):
            claim = handing_out.claim_next(db, people[name].id)
            assert claim is not None
            better = "A" if name != "eve" else "B"
            side = "left" if shown_texts(claim)[0].startswith(f"Answer {better}") else "right"
            judging.judge(db, people[name].id, claim.nonce, act(f"{side}-clearly"))

    judge_all(20, ("ann", "bob", "eve"))
    judge_all(8, ("ann",))
    judge_all(6, ("eve",))
    found = preview(db, data_dir, DPOSpec())
    assert (found.train, found.left_out) == (28, {"unreliable": 6})
    rows = load_snapshot(data_dir, spec_of(db, submit(db, data_dir, DPOSpec(), "ann")).snapshot, PreferenceRow)
    reliability = quality.reliabilities(db)
    assert reliability["ann"].estimate > 0.85
    alone = [row for row in rows if row.annotators == ("ann",)]
    assert [row.flip for row in alone] == [pytest.approx(1 - reliability["ann"].estimate, abs=1e-6)] * 8
    together = [row.flip or 0.0 for row in rows if row.annotators == ("ann", "bob")]
    assert len(together) == 20
    assert max(together) < (alone[0].flip or 0.0) / 2
    assert all(row.chosen.text.startswith("Answer A") for row in rows)
    assert found.noise is not None
    assert found.noise.share == pytest.approx(fmean(row.flip or 0.0 for row in rows), abs=1e-6)
    assert (found.noise.pairs, found.noise.measured) == (28, 28)
    assert found.noise.evidence == NoiseEvidence(sum(reliability[name].overlap for name in ("ann", "bob")))


def test_what_is_only_assumed_of_the_annotators_is_no_estimate(db: Database, data_dir: Path) -> None:
    """Nothing at first, then nine comparisons that both have judged, then ten: as much as the assumption weighs."""
    people = {name: access.add_account(db, name, "annotator", f"{name}'s password").id for name in ("ann", "bob")}

    def judge_all(count: int, names: Sequence[str]) -> None:
        project_store.set_project(db, replace(project_store.project(db), overlap=len(names)))
        seed_comparisons(db, count)
        for name, _ in itertools.product(names, range(count)):
            claim = handing_out.claim_next(db, people[name])
            assert claim is not None
            side = "left" if shown_texts(claim)[0].startswith("Answer A") else "right"
            judging.judge(db, people[name], claim.nonce, act(f"{side}-clearly"))

    for count, names, measured in ((MIN_PAIRS, ("ann",), 0), (9, ("ann", "bob"), 0), (1, ("ann", "bob"), 18)):
        judge_all(count, names)
        found = preview(db, data_dir, DPOSpec()).noise
        assert found is not None
        assert (found.measured, found.share is None) == (measured, measured == 0)
    assert found.pairs == MIN_PAIRS + 10
    assert found.evidence == NoiseEvidence(20)


def test_judgements_made_later_do_not_change_frozen_data(db: Database, data_dir: Path, judge: Judge) -> None:
    judge(MIN_PAIRS)
    spec = spec_of(db, submit(db, data_dir, DPOSpec(), "ann"))
    before = load_snapshot(data_dir, spec.snapshot, FrozenRow)
    judge(5)
    assert load_snapshot(data_dir, spec.snapshot, FrozenRow) == before


def test_too_few_pairs_are_refused_with_their_number_and_nothing_is_queued(
    db: Database, data_dir: Path, judge: Judge
) -> None:
    judge(MIN_PAIRS - 1)
    judge(3, "tie")
    judge(4, "left-clearly", "held-out")
    with pytest.raises(UserError, match=rf"on: {MIN_PAIRS - 1}\. It takes at least {MIN_PAIRS}"):
        submit(db, data_dir, DPOSpec(), "ann")
    assert job_store.recent(db, ("dpo",)) == []
    judge(1)
    assert submit(db, data_dir, DPOSpec(), "ann")


def test_a_second_training_takes_its_place_in_the_queue(db: Database, data_dir: Path, judge: Judge) -> None:
    judge(MIN_PAIRS)
    first, second = (submit(db, data_dir, DPOSpec(seed=seed), "ann") for seed in (1, 2))
    assert [(job.id, job.status) for job in job_store.queue(db)] == [(first, "queued"), (second, "queued")]


def test_a_spec_for_another_base_is_refused(db: Database, data_dir: Path, judge: Judge) -> None:
    judge(MIN_PAIRS)
    with pytest.raises(UserError, match=f"belongs to the base model {BASE_NAME}"):
        submit(db, data_dir, DPOSpec(model="another"), "ann")
    assert submit(db, data_dir, DPOSpec(model=BASE_NAME), "ann")


def test_an_unknown_parent_or_candidate_is_refused(db: Database, data_dir: Path, judge: Judge) -> None:
    judge(MIN_PAIRS)
    for spec in (DPOSpec(parent="dpo-9"), CheckSpec(candidate="dpo-9"), CheckSpec()):
        with pytest.raises(UserError, match="There is no policy"):
            submit(db, data_dir, spec, "ann")


def test_what_a_waiting_check_measures_against_is_not_deleted(db: Database) -> None:
    for name in ("dpo-1", "dpo-2"):
        made = {"revision": name, "path": f"adapters/{name}", "sha256": "0" * 64}
        registry.add(db, algorithm="dpo", base=BASE_NAME, parent_id=1, job_id=None, **made)
    anchor = registry.by_revision(db, "dpo-1")
    assert preconditions.needed_by(db, anchor) == ""
    job_store.enqueue(db, CheckSpec(candidate="dpo-2", against="base", anchor="dpo-1"), "ann")
    assert preconditions.needed_by(db, anchor) == "Job 1 needs dpo-1: wait for it, or cancel it."


def test_what_the_gates_limits_are_against_is_not_deleted(db: Database, data_dir: Path) -> None:
    for name in ("dpo-1", "dpo-2"):
        made = {"revision": name, "path": f"adapters/{name}", "sha256": "0" * 64}
        registry.add(db, algorithm="dpo", base=BASE_NAME, parent_id=1, job_id=None, **made)
    rule_store.set_rule(db, {"anchor": "dpo-1"})
    with pytest.raises(UserError, match=r"limits are against dpo-1: choose another policy in the gate's rule first\."):
        job_submission.delete_policy(db, data_dir, "dpo-1", "ann")
    assert not registry.by_revision(db, "dpo-1").deleted
    assert preconditions.needed_by(db, registry.by_revision(db, "dpo-2")) == ""
    rule_store.set_rule(db, {})
    assert preconditions.needed_by(db, registry.by_revision(db, "dpo-1")) == ""


def test_a_continued_training_uses_the_new_judgements_or_all(db: Database, data_dir: Path, judge: Judge) -> None:
    judge(10)
    judge(2, split="held-out")
    finish_training(db, submit(db, data_dir, DPOSpec(), "ann"))
    judge(9)
    judge(1, "tie")

    found = {"earlier": 10, "tie": 1}
    assert preview(db, data_dir, DPOSpec()) == training_preview(9, 2, left_out=found, parent="dpo-1")
    assert preview(db, data_dir, DPOSpec(scope="all")) == training_preview(19, 2, left_out={"tie": 1}, parent="dpo-1")
    # From the base everything is new.
    assert preview(db, data_dir, DPOSpec(parent="base")).train == 19

    spec = spec_of(db, submit(db, data_dir, DPOSpec(), "ann"))
    assert spec.parent == "dpo-1"
    assert len([row for row in load_snapshot(data_dir, spec.snapshot, FrozenRow) if row.split == "train"]) == 9


def test_a_candidate_that_was_not_promoted_takes_no_judgements_with_it(
    db: Database, data_dir: Path, judge: Judge
) -> None:
    judge(10)
    finish_training(db, submit(db, data_dir, DPOSpec(), "ann"), promoted=False)
    assert preview(db, data_dir, DPOSpec()).train == 10
    assert preview(db, data_dir, DPOSpec()).parent == "base"


def test_the_same_judgements_are_stored_once(db: Database, data_dir: Path, judge: Judge) -> None:
    judge(MIN_PAIRS)
    names = set()
    for _ in range(2):
        job_id = submit(db, data_dir, DPOSpec(), "ann")
        names.add(spec_of(db, job_id).snapshot)
        job_store.cancel(db, job_id)
    assert len(names) == 1
    assert len(list((data_dir / "snapshots").iterdir())) == 1


# ---------------------------------------------------------------------------------------------------------- advancing
def test_a_finished_training_is_checked_once_against_the_serving_policy(
    db: Database, data_dir: Path, judge: Judge
) -> None:
    judge(MIN_PAIRS)
    seed_prompts(db, 1, "held-out")
    assert advance(db, data_dir) is None
    revision = finish_training(db, submit(db, data_dir, DPOSpec(), "ann"), promoted=False)
    check = advance(db, data_dir)
    assert check is not None
    spec = job_store.get(db, check).spec
    assert isinstance(spec, CheckSpec)
    assert (spec.candidate, spec.against) == (revision, "base")
    assert load_snapshot(data_dir, spec.snapshot, FrozenRow) == []
    assert advance(db, data_dir) is None
    job_store.claim(db, check, "w")
    job_table.stop(db, check, "w", "failed", "why")
    assert advance(db, data_dir) is None, "a check that failed is not repeated for ever"


def test_a_training_that_wants_no_check_or_was_rejected_gets_none(db: Database, data_dir: Path, judge: Judge) -> None:
    judge(MIN_PAIRS)
    finish_training(db, submit(db, data_dir, replace(DPOSpec(), check=False), "ann"), promoted=False)
    assert advance(db, data_dir) is None
    decision_store.reject(db, finish_training(db, submit(db, data_dir, DPOSpec(), "ann"), promoted=False), "ann")
    assert advance(db, data_dir) is None


def test_automatic_training_begins_after_every_so_many_new_judgements(
    db: Database, data_dir: Path, judge: Judge
) -> None:
    setting_store.set_setting(db, "auto_train", {"on": True, "every": 10})
    judge(9)
    assert advance(db, data_dir) is None
    judge(1)
    first = advance(db, data_dir)
    assert first is not None
    assert job_store.get(db, first).requested_by == "the loop"
    finish_training(db, first)
    judge(9)
    assert advance(db, data_dir) is None
    judge(1)
    second = advance(db, data_dir)
    assert second is not None
    assert spec_of(db, second).parent == f"dpo-{first}"


def test_automatic_training_does_not_repeat_a_training_that_failed_on_the_same_judgements(
    db: Database, data_dir: Path, judge: Judge
) -> None:
    setting_store.set_setting(db, "auto_train", {"on": True, "every": 10})
    judge(10)
    first = advance(db, data_dir)
    assert first is not None
    job_store.claim(db, first, "w")
    job_table.stop(db, first, "w", "failed", "out of memory")
    assert [advance(db, data_dir) for _ in range(3)] == [None, None, None]
    # Ties change nothing in the data: they start one more training when there are enough of them, and not one a tick.
    judge(10, "tie")
    again = advance(db, data_dir)
    assert again is not None
    assert snapshots.snapshot_counts(db, spec_of(db, again).snapshot).left_out == {"tie": 10}
    job_store.claim(db, again, "w")
    job_table.stop(db, again, "w", "failed", "out of memory")
    assert [advance(db, data_dir) for _ in range(3)] == [None, None, None]


def test_a_parent_is_continued_with_its_own_rank_and_scale(db: Database, data_dir: Path, judge: Judge) -> None:
    """Another lora_alpha would rescale what the parent has learnt, without a word."""
    judge(MIN_PAIRS)
    finish_training(db, submit(db, data_dir, DPOSpec(), "ann"))
    judge(MIN_PAIRS)
    for other, has in (
        (DPOSpec(lora_alpha=64), "has lora_alpha 32"),
        (DPOSpec(lora_r=8), "has lora_r 16"),
        (DPOSpec(rslora=True), "has rslora False"),
        (DPOSpec(method="lora"), "use the method qlora to continue it. Merge it into 16-bit weights first"),
        (DPOSpec(method="prompt"), "can't be continued with prompt"),
        (DPOSpec(method="full"), "Merge it into 16-bit weights first"),
    ):
        with pytest.raises(UserError, match=has):
            submit(db, data_dir, other, "ann")
    assert submit(db, data_dir, DPOSpec(parent="base", lora_r=8), "ann")


@pytest.mark.parametrize(
    ("made", "form"),
    [
        (SFTSpec(method="lora", lora_r=4, lora_alpha=8, dora=True, rslora=True), "lora"),
        (SFTSpec(method="lora", lora_r=4, lora_targets="named", lora_layers="q_proj, v_proj"), "lora"),
        (SFTSpec(method="lora", lora_r=4, lora_targets="upper-half"), "lora"),
        (SFTSpec(method="prompt", virtual_tokens=7), "prompt"),
    ],
)
def test_what_is_left_at_its_default_is_as_in_the_adapter_that_is_continued(
    db: Database, data_dir: Path, judge: Judge, made: SFTSpec, form: PolicyForm
) -> None:
    judge(MIN_PAIRS)
    revision = finish_training(db, job_store.enqueue(db, replace(made, parent="base"), "ann"), form=form)
    judge(MIN_PAIRS)
    asked = DPOSpec(parent=revision)
    assert preconditions.check(db, asked) == []
    shape = preconditions.shape_of(db, registry.by_revision(db, revision))
    for spec in (spec_of(db, submit(db, data_dir, asked, "ann")), preflight.resolved(db, asked)):
        assert {name: getattr(spec, name) for name in shape} == shape
    other = {"virtual_tokens": 9} if form == "prompt" else {"lora_r": 8}
    with pytest.raises(UserError, match=r"has (lora_r 4|virtual_tokens 7)\. Use the same to continue it"):
        submit(db, data_dir, replace(asked, **other), "ann")
    whole = spec_of(db, submit(db, data_dir, DPOSpec(parent="base"), "ann"))
    assert (whole.lora_r, whole.lora_alpha, whole.lora_targets) == (16, 32, "all-linear")


@pytest.mark.parametrize(
    ("made", "form"),
    [
        (SFTSpec(method="lora", lora_r=8, lora_targets="attention", rslora=True), "lora"),
        (SFTSpec(method="prompt", virtual_tokens=7), "prompt"),
    ],
)
def test_automatic_training_goes_on_from_what_serves_in_its_own_shape(
    db: Database, data_dir: Path, judge: Judge, made: SFTSpec, form: PolicyForm
) -> None:
    setting_store.set_setting(db, "auto_train", {"on": True, "every": 10})
    revision = finish_training(db, job_store.enqueue(db, replace(made, parent="base"), "ann"), form=form)
    judge(10)
    job_id = advance(db, data_dir)
    assert job_id is not None
    spec = spec_of(db, job_id)
    assert (spec.parent, spec.method) == (revision, made.method)
    assert (spec.lora_r, spec.lora_targets, spec.rslora) == (made.lora_r, made.lora_targets, made.rslora)
    assert spec.virtual_tokens == made.virtual_tokens


def test_automatic_training_lays_a_new_adapter_on_whole_weights(db: Database, data_dir: Path, judge: Judge) -> None:
    setting_store.set_setting(db, "auto_train", {"on": True, "every": 10})
    finish_training(db, job_store.enqueue(db, SFTSpec(method="full"), "ann"), form="full")
    judge(10)
    job_id = advance(db, data_dir)
    assert job_id is not None
    assert (spec_of(db, job_id).method, spec_of(db, job_id).precision) == ("lora", "bf16"), "as these are held"


def test_automatic_training_that_is_refused_starts_nothing_and_goes_on_when_it_can(
    db: Database, data_dir: Path, judge: Judge
) -> None:
    setting_store.set_setting(db, "auto_train", {"on": True, "every": 10})
    finish_training(db, job_store.enqueue(db, SFTSpec(method="lora", lora_init="pissa"), "ann"))
    judge(10)
    assert advance(db, data_dir) is None
    assert any("began with PiSSA" in sentence for sentence in controller.automatic_problems(db))
    decision_store.promote(db, "base", "ann")
    assert advance(db, data_dir) is not None


def test_automatic_training_waits_when_too_few_judgements_are_pairs(db: Database, data_dir: Path, judge: Judge) -> None:
    setting_store.set_setting(db, "auto_train", {"on": True, "every": 10})
    judge(12, "tie")
    assert advance(db, data_dir) is None
    judge(MIN_PAIRS)
    assert advance(db, data_dir) is not None


# --------------------------------------------------------------------------------------------------------- promotions
def test_promotion_rejection_and_rollback_are_recorded(db: Database, data_dir: Path, judge: Judge) -> None:
    judge(MIN_PAIRS)
    first, second = (
        finish_training(db, submit(db, data_dir, DPOSpec(), "ann"), promoted=False) for _ in itertools.repeat(0, 2)
    )
    assert registry.serving(db).revision == "base"
    decision_store.promote(db, first, "ann")
    decision_store.reject(db, second, "bob")
    decision_store.promote(db, "base", "ann")
    assert registry.serving(db).revision == "base"
    assert [(row.action, row.revision, row.previous) for row in decision_store.decisions(db)] == [
        ("go-back", "base", first),
        ("reject", second, first),
        ("promote", first, "base"),
    ]
    with pytest.raises(UserError, match="serves already"):
        decision_store.promote(db, "base", "ann")
    with pytest.raises(UserError, match="not a candidate"):
        decision_store.reject(db, first, "ann")
    # What was turned down can still be promoted.
    assert decision_store.promote(db, second, "ann").status == "serving"


def test_a_data_directory_keeps_its_base_model(db: Database) -> None:
    assert registry.ensure_base(db, BASE_NAME).revision == "base"
    with pytest.raises(UserError, match=f"belongs to the base model {BASE_NAME}, not another"):
        registry.ensure_base(db, "another")
