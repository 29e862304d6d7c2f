"""Answers chosen by heads: when, on which prompts, with what is kept of it; and what leaves them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from annotation.claims import handing_out, judging
from annotation.metrics import quality
from annotation.records import Sampling
from annotation.store import comparison_store, project_store, prompt_store
from rlhf.data import label_noise
from rlhf.data.label_noise import Noise
from rlhf.generation import answering_job
from rlhf.generation.answering_spec import AnsweringSpec
from tests.conftest import act
from tests.machine_fixtures import Machine

pytestmark = pytest.mark.slow

FILLING = AnsweringSpec(stock=12, prompts_per_batch=6, until_full=True, sampling=Sampling(max_new_tokens=12))


@pytest.fixture
def doubting(machine: Machine) -> Machine:
    """A machine that may choose answers, in half of the comparisons, and has a stock."""
    machine.add_prompts(train=12, held_out=4)
    project_store.set_project(
        machine.db, replace(project_store.project(machine.db), doubt_share=0.5, kind="rank", answers=3)
    )
    machine.perform(machine.submit(FILLING))
    return machine


def judge(machine: Machine, count: int) -> None:
    """Rank the next comparisons by length."""
    for _ in range(count):
        claim = handing_out.claim_next(machine.db, machine.annotator.id)
        assert claim is not None
        order = sorted(range(len(claim.shown)), key=lambda place: len(claim.shown[place].text))
        ranks = [order.index(place) + 1 for place in range(len(order))]
        judging.judge(machine.db, machine.annotator.id, claim.nonce, {"outcome": "ranked", "ranks": ranks})


def refilled(machine: Machine, judged: int = 6, spec: AnsweringSpec = FILLING) -> list[Mapping[str, Any]]:
    """The comparisons that the worker makes after so many judgements."""
    judge(machine, judged)
    last = machine.db.value("SELECT max(id) FROM comparison")
    assert machine.perform(machine.submit(spec)).status == "finished"
    return machine.db.rows(
        "SELECT c.*, p.split FROM comparison c JOIN prompt p ON p.id = c.prompt_id WHERE c.id > ? ORDER BY c.id",
        (last,),
    )


def how(rows: Sequence[Mapping[str, Any]]) -> set[tuple[str, float]]:
    """What chose the answers of comparisons, and by what chance."""
    return {(row["answers_by"], row["answers_chance"]) for row in rows}


def test_answers_are_chosen_where_enough_was_judged_and_how_is_kept(doubting: Machine) -> None:
    first = refilled(doubting)
    assert how(first) == {("random", 1.0)}, "too little was judged"
    rows = refilled(doubting)
    chosen = [row for row in rows if row["split"] == "train"]
    assert how([row for row in rows if row["split"] == "held-out"]) <= {("random", 1.0)}
    # 3 of at most 8 at random, in half of the cases: at least 1 in 112, and never certain.
    assert chosen
    assert all(1 / 112 - 1e-9 <= row["answers_chance"] < 1 for row in chosen)
    assert {row["answers_by"] for row in chosen} <= {"random", "heads"}
    shown = doubting.db.rows(
        """SELECT cr.comparison_id, r.text, r.dropped FROM comparison_response cr JOIN response r
           ON r.id = cr.response_id WHERE cr.comparison_id >= ?""",
        (rows[0]["id"],),
    )
    assert all(row["dropped"] is None for row in shown)
    assert len({(row["comparison_id"], row["text"]) for row in shown}) == 3 * len(rows)


def test_with_little_in_stock_nothing_is_chosen(doubting: Machine) -> None:
    """Drawing more would let people wait."""
    refilled(doubting)
    rows = refilled(doubting, judged=11)
    assert rows[0]["answers_chance"] == 1, "with one comparison in stock"


def test_nothing_is_chosen_while_a_training_wants_the_processors(
    doubting: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    refilled(doubting)
    monkeypatch.setattr(answering_job, "training", lambda run: True)
    assert how(refilled(doubting, judged=11)) == {("random", 1.0)}


def test_no_choice_without_the_setting(doubting: Machine) -> None:
    project_store.set_project(doubting.db, replace(project_store.project(doubting.db), doubt_share=0.0))
    refilled(doubting)
    assert how(refilled(doubting)) == {("random", 1.0)}


def test_no_choice_where_too_many_labels_are_wrong(doubting: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is not known the choice stays, as in the other tests: a guess is no estimate."""
    refilled(doubting)
    monkeypatch.setattr(label_noise, "noise_of", lambda *_: Noise(pairs=30, measured=30, share=0.16))
    assert how(refilled(doubting)) == {("random", 1.0)}


def test_agreement_rests_on_random_comparisons_alone(doubting: Machine) -> None:
    """Two people agree on what was random and contradict each other on what heads chose."""
    project = replace(project_store.project(doubting.db), kind="pair", answers=2, overlap=2)
    project_store.set_project(doubting.db, replace(project, gold_share=0.0, re_ask_share=0.0))
    prompts = prompt_store.prompts(doubting.db, "train")
    doubting.db.connection.execute("UPDATE comparison SET asks = 'nobody'")
    made = [
        comparison_store.add_comparison(doubting.db, [doubting.response(prompt, text) for text in ("one", "two three")])
        for prompt in prompts[:8]
    ]
    doubting.db.connection.execute("UPDATE comparison SET answers_by = 'heads' WHERE id > ?", (made[3],))
    for name in ("ann", "bob"):
        for _ in made:
            claim = handing_out.claim_next(doubting.db, doubting.annotator_named(name).id)
            assert claim is not None
            wants = 0 if name == "ann" or claim.comparison_id <= (made[3] or 0) else 1
            side = "left" if claim.shown_order[0] == wants else "right"
            judging.judge(doubting.db, claim.annotator_id, claim.nonce, act(f"{side}-clearly"))
    found = quality.report(doubting.db)
    assert {(one.comparisons, one.percent.value) for one in found.agreement} == {(4, 1.0)}
    assert {one.agreement.value for one in found.annotators if one.agreement is not None} == {1.0}
