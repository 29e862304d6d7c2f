"""The answering worker and the supervisor as real processes: stock in 5:1, swaps in seconds, ends when it should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from annotation.claims import handing_out, judging, own_prompts
from annotation.records import Claim, Prompt, Sampling, Split, UserError, read_token_ids
from annotation.store import comparison_store, project_store, prompt_store, stock_counts
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data import snapshots
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.generation import answering_job
from rlhf.generation.answering_job import next_splits, seed_of
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.run import Run, perform
from rlhf.loop.supervisor import Supervisor
from rlhf.models import decision_store, registry
from rlhf.models.chat_template import vocabulary_of
from rlhf.models.loading.base_weights import load_quantised
from rlhf.web_server import answering_problem
from rlhf.workers.worker_process import process_tree
from tests.conftest import act, shown_texts
from tests.machine_fixtures import PATIENCE_SECONDS, QUICK_DPO, ROOT, Machine, Pace, has_ended, make_machine, wait_until
from tests.run_fixtures import hold

pytestmark = pytest.mark.slow

ANSWERING = AnsweringSpec(stock=12, prompts_per_batch=4, sampling=Sampling(max_new_tokens=12))


@pytest.fixture
def stocked(machine: Machine) -> Machine:
    """A machine with prompts of both splits."""
    machine.add_prompts(train=12, held_out=4)
    return machine


def add_adapter(machine: Machine, revision: str) -> registry.Policy:
    """A candidate whose adapter does something."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_quantised(machine.model), config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    model.save_pretrained(machine.data_dir / "adapters" / revision)
    path = f"adapters/{revision}"
    kept = {"base": str(machine.model), "path": path, "sha256": directory_sha256(machine.data_dir / path)}
    return registry.add(machine.db, revision=revision, algorithm="dpo", parent_id=1, job_id=None, **kept)


def stock(machine: Machine, revision: str = "base") -> dict[Split, int]:
    """Comparisons by a policy that wait for a judgement."""
    return stock_counts.stock_sizes(machine.db, registry.by_revision(machine.db, revision).id)


def responses(machine: Machine, revision: str) -> list[dict[str, Any]]:
    """Every answer that a policy drew for comparisons."""
    return machine.db.rows(
        """SELECT r.*, p.split FROM response r JOIN prompt p ON p.id = r.prompt_id JOIN model m ON m.id = r.model_id
           WHERE r.purpose = 'compare' AND m.revision = ?""",
        (revision,),
    )


# ---------------------------------------------------------------------------------------------------- one process
@pytest.mark.parametrize(
    ("made", "count", "expected"),
    [
        ({"train": 0, "held-out": 0}, 12, {"train": 10, "held-out": 2}),
        ({"train": 5, "held-out": 0}, 1, {"train": 0, "held-out": 1}),
        ({"train": 10, "held-out": 9}, 3, {"train": 3, "held-out": 0}),
        ({"train": 3}, 4, {"train": 4}),
        ({"held-out": 3}, 4, {"held-out": 4}),
        ({}, 4, {}),
    ],
)
def test_one_comparison_in_six_is_held_out(made: dict[Split, int], count: int, expected: dict[Split, int]) -> None:
    """However the batches fall; a split without prompts gets none."""
    assert next_splits(made, count) == expected


def test_seeds_of_a_stream_never_meet(stocked: Machine) -> None:
    seeds = {seed_of(start, prompt, attempt) for start in (0, 1) for prompt in range(1, 60) for attempt in range(30)}
    assert len(seeds) == 2 * 59 * 30


def test_a_stock_is_filled_once_and_topped_up_with_new_answers(stocked: Machine) -> None:
    """Comparisons of answers that differ, five to one by split, and no answer drawn twice."""
    once = replace(ANSWERING, until_full=True)
    job = stocked.perform(stocked.submit(once))
    assert job.result is not None
    assert (job.status, stock(stocked)) == ("finished", {"train": 10, "held-out": 2})
    assert job.result["comparisons"] == 12
    drawn = responses(stocked, "base")
    counts = stock_counts.answer_counts(stocked.db)
    # Two before people's eyes, as there was nothing to judge, and three to each other prompt, one of them to spare.
    assert counts.total == len(drawn) >= 2 + 11 * 3
    assert counts.ended == sum(row["finish_reason"] == "stop" for row in drawn) > 0
    assert len({(row["prompt_id"], row["seed"]) for row in drawn}) == len(drawn)
    for row in drawn:
        messages = stocked.db.value("SELECT messages FROM prompt WHERE id = ?", (row["prompt_id"],))
        assert row["rendered_prompt"] == stocked.render(json.loads(messages))
        assert row["prompt_tokens"] == stocked.count(row["rendered_prompt"])
        assert json.loads(row["sampling"]) == {"temperature": 1.0, "min_p": 0.1, "max_new_tokens": 12, "sampler": 2}
        drawn_ids = read_token_ids(row["token_ids"])
        assert drawn_ids is not None
        assert drawn_ids.vocabulary == vocabulary_of(stocked.tokenizer)
        assert len(drawn_ids.ids) == row["tokens"]
        assert stocked.tokenizer.decode(drawn_ids.ids, skip_special_tokens=True) == row["text"]
        assert (drawn_ids.ids[-1] == stocked.tokenizer.eos_token_id) == (row["finish_reason"] == "stop")

    judged = 3
    for _ in range(judged):
        claim = handing_out.claim_next(stocked.db, stocked.annotator.id)
        assert claim is not None
        assert len({text.strip().casefold() for text in shown_texts(claim)}) == 2
        judging.judge(stocked.db, stocked.annotator.id, claim.nonce, act("left-clearly"))
    frozen = list(snapshots.collect(stocked.db, registry.by_revision(stocked.db, "base"), "all", 1000))
    of_row = {row["id"]: read_token_ids(row["token_ids"]) for row in drawn}
    assert len(frozen) == judged
    assert all(side.token_ids == of_row[side.id] for row in frozen for side in row.sides)
    job = stocked.perform(stocked.submit(once))
    assert job.result is not None
    assert job.result["comparisons"] == judged
    drawn = responses(stocked, "base")
    assert len({(row["prompt_id"], row["seed"]) for row in drawn}) == len(drawn)


def test_imported_and_failed_comparisons_do_not_shift_the_share_that_is_held_out(stocked: Machine) -> None:
    """Sixty imported ones on train prompts would have ten in a row drawn on held-out prompts."""
    prompt = prompt_store.prompts(stocked.db, "train")[0]
    with stocked.db.transaction() as connection:
        for model_id, state in ((None, "closed"), (1, "failed"), (1, "dropped"), (1, "withdrawn")):
            connection.conn.executemany(
                """INSERT INTO comparison (prompt_id, model_id, purpose, state, created)
                   VALUES (?, ?, 'preference', ?, '')""",
                [(prompt.id, model_id, state)] * 20,
            )
    assert stock_counts.comparison_counts(stocked.db) == {"train": 0, "held-out": 0}
    stocked.perform(stocked.submit(replace(ANSWERING, until_full=True)))
    assert stock(stocked) == {"train": 10, "held-out": 2}


def test_a_damaged_serving_adapter_fails_the_worker_with_a_sentence(stocked: Machine) -> None:
    policy = add_adapter(stocked, "torn")
    decision_store.promote(stocked.db, "torn", "ann")
    (stocked.data_dir / (policy.path or "") / "adapter_config.json").write_text("{}")
    job = stocked.perform(stocked.submit(ANSWERING))
    assert job.status == "failed"
    assert "sha256 differs" in job.message


@pytest.mark.parametrize(
    ("project", "spec", "expected"),
    [
        ({"kind": "rank", "answers": 4}, ANSWERING, 4),
        ({"kind": "best", "answers": 3}, ANSWERING, 3),
        ({"kind": "pair", "answers": 4}, ANSWERING, 2),
        ({"kind": "rank", "answers": 4}, replace(ANSWERING, answers=3), 3),
    ],
    ids=["rank four", "best of three", "pairs are two", "the spec overrides"],
)
def test_a_comparison_has_as_many_answers_as_the_project_asks_for(
    stocked: Machine, project: dict[str, Any], spec: AnsweringSpec, expected: int
) -> None:
    project_store.set_project(stocked.db, replace(project_store.project(stocked.db), **project))
    job = stocked.perform(stocked.submit(replace(spec, stock=6, until_full=True)))
    assert job.status == "finished", job.message
    sizes = stocked.db.rows(
        """SELECT count(*) AS n FROM comparison_response cr JOIN comparison c ON c.id = cr.comparison_id
           WHERE c.state = 'ready' GROUP BY c.id"""
    )
    assert [row["n"] for row in sizes] == [expected] * 6


def test_prompts_that_the_model_can_not_be_given_are_passed_over(strict_model: Path, tmp_path: Path) -> None:
    """Imported conversations may have roles that the template refuses, or fill the context: others are answered."""
    machine = make_machine(tmp_path / "data", strict_model)
    system = {"role": "system", "content": "Be brief."}
    questions = [({"role": "user", "content": f"Question {number}?"}) for number in range(4)]
    conversations = [
        *((system, question) for question in questions),
        ({"role": "user", "content": "sun " * 1100},),
        *((question,) for question in questions),
    ]
    prompt_store.add_prompts(machine.db, [Prompt(messages, "train", "import") for messages in conversations])
    job = machine.perform(machine.submit(replace(ANSWERING, stock=8, until_full=True)))
    assert (job.status, stock(machine)) == ("finished", {"train": 8, "held-out": 0})
    answered = machine.db.rows("SELECT DISTINCT p.messages FROM comparison c JOIN prompt p ON p.id = c.prompt_id")
    asked_for = {message["content"] for row in answered for message in json.loads(row["messages"])}
    assert asked_for == {question["content"] for question in questions}
    (line,) = [line for line in job_store.log_tail(machine.db, job.id, 40) if "can't be answered: 1" in line]
    assert "no system role" in line or "leaves no room for 12 more in a context of 1024" in line

    asked = own_prompts.ask(machine.db, machine.annotator.id, conversations[4])
    machine.perform(machine.submit(replace(ANSWERING, stock=8, until_full=True)))
    assert state_of(machine, asked) == "failed"
    machine.db.close()


# ------------------------------------------------------------------------------------------- before people's eyes
LONG = replace(ANSWERING, prompts_per_batch=12, stock=12, sampling=Sampling(max_new_tokens=24))


@contextmanager
def answering(machine: Machine, spec: AnsweringSpec, *tokens: int) -> Iterator[Pace]:
    """The answering worker on a thread of this process, whose draws are held at these tokens; told to stop at the end.

    It looks for what people ask between any two tokens.
    """
    job = job_store.claim(machine.db, machine.submit(spec), "w")
    assert job is not None
    worker, pace = Run(machine.db, machine.data_dir, job, "w"), Pace(tokens)

    def work() -> None:
        perform(worker, job.spec)
        machine.db.close()

    thread = threading.Thread(target=work)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(answering_job, "draw", pace.draw)
        patched.setattr(answering_job, "LOOK_SECONDS", 0.0)
        patched.setattr(answering_job, "GLANCE_SECONDS", 0.001)
        thread.start()
        try:
            yield pace
        finally:
            worker.terminated.set()
            pace.let_go()
            thread.join(PATIENCE_SECONDS)
    assert job_store.get(machine.db, job.id).status == "lost", "it ends as a worker that was told to stop"


def state_of(machine: Machine, comparison_id: int) -> str:
    """A comparison's state."""
    return str(machine.db.value("SELECT state FROM comparison WHERE id = ?", (comparison_id,)))


def answers_of(machine: Machine, comparison_id: int) -> list[dict[str, Any]]:
    """A comparison's answers, in order."""
    return machine.db.rows(
        """SELECT r.* FROM comparison_response cr JOIN response r ON r.id = cr.response_id
           WHERE cr.comparison_id = ? ORDER BY cr.position""",
        (comparison_id,),
    )


def ask(machine: Machine, text: str = "Sing.", by: str = "ann") -> int:
    """An annotator's own prompt."""
    annotator = machine.annotator_named(by)
    return own_prompts.ask(machine.db, annotator.id, [{"role": "user", "content": text}])


def test_with_nothing_to_judge_the_first_comparison_is_written_before_peoples_eyes(long: Machine) -> None:
    """The annotator who waits gets it at once and sees both answers grow; in the end it is what was drawn."""
    shown: list[Claim] = []
    with answering(long, replace(LONG, prompts_per_batch=6), 2, 6, 14) as pace:
        for _ in range(3):
            pace.until_held()
            claim = handing_out.claim_next(long.db, long.annotator.id)
            assert claim is not None
            assert claim.comparison_state == "writing"
            assert {answer.state for answer in claim.answers} == {"writing"}
            shown.append(claim)
            pace.go_on()
        wait_until("its end", lambda: state_of(long, shown[0].comparison_id) == "ready")
        whole = handing_out.claim_next(long.db, long.annotator.id)
    assert whole is not None
    assert {claim.nonce for claim in shown} == {whole.nonce}
    for place, text in enumerate(shown_texts(whole)):
        texts = [shown_texts(claim)[place] for claim in shown]
        assert 0 < len(texts[0]) < len(texts[1]) < len(texts[2]) < len(text), "it is seen to grow"
        assert all(later.startswith(earlier) for earlier, later in pairwise([*texts, text]))
    for row in answers_of(long, whole.comparison_id):
        assert (row["state"], row["finish_reason"], row["tokens"]) == ("done", "length", 24)
        assert row["prompt_tokens"] == long.count(row["rendered_prompt"])
    assert stock_counts.answer_counts(long.db).total >= 2


def test_what_an_annotator_asks_is_answered_while_the_stock_is_full(stocked: Machine) -> None:
    with answering(stocked, ANSWERING):
        wait_until("a full stock", lambda: sum(stock(stocked).values()) == 12)
        asked = ask(stocked, "What is a riddle?")
        wait_until("its answers", lambda: state_of(stocked, asked) == "ready")
        claim = handing_out.claim_next(stocked.db, stocked.annotator.id)
        assert claim is not None
        assert (claim.comparison_id, claim.messages[-1]["content"]) == (asked, "What is a riddle?")
    rows = answers_of(stocked, asked)
    assert [row["state"] for row in rows] == ["done", "done"]
    assert sum(stock(stocked).values()) == 12 + 1 - 1, "the asked one is in hand"


def test_what_is_asked_while_a_batch_is_drawn_comes_first_and_the_batch_loses_nothing(long: Machine) -> None:
    """The asked answers begin between two tokens of a batch of eleven prompts, which goes on after them.

    They are no part of the stock: nobody else is given them.
    """
    comparison_store.add_comparison(
        long.db, [long.response(prompt_store.prompts(long.db, "train")[0], text) for text in ("a b", "c d")]
    )
    with answering(long, LONG, 3, 3, 20) as pace:
        pace.until_held()
        assert responses(long, "base")[2:] == [], "the batch is being drawn"
        asked = ask(long)
        pace.go_on()
        for _ in range(2):
            pace.until_held()
            assert state_of(long, asked) == "writing"
            assert responses(long, "base")[4:] == [], "the batch waits"
            pace.go_on()
        wait_until("the asked answers", lambda: state_of(long, asked) == "ready")
        wait_until("the batch", lambda: sum(stock(long).values()) == 12)
    drawn = responses(long, "base")[2:]
    assert len({(row["prompt_id"], row["seed"]) for row in drawn}) == len(drawn) == 2 + 11 * 3
    assert {(row["tokens"], row["state"]) for row in drawn} == {(24, "done")}


def test_an_answer_that_is_broken_off_is_marked_and_leaves_the_annotators_hands(long: Machine) -> None:
    with answering(long, LONG, 5) as pace:
        pace.until_held()
        claim = handing_out.claim_next(long.db, long.annotator.id)
        assert claim is not None
    assert state_of(long, claim.comparison_id) == "failed"
    rows = answers_of(long, claim.comparison_id)
    assert [(row["state"], row["finish_reason"]) for row in rows] == [("failed", None)] * 2
    assert all(row["text"] for row in rows), "what was written stays in the record"
    with pytest.raises(UserError, match="could not be written to its end"):
        judging.judge(long.db, long.annotator.id, claim.nonce, act("tie"))
    assert handing_out.claim_next(long.db, long.annotator.id) is None


def test_what_a_killed_worker_was_writing_is_marked_by_the_next_one(stocked: Machine) -> None:
    prompt = prompt_store.prompts(stocked.db, "train")[0]
    orphan, _ = comparison_store.begin_answers(stocked.db, [stocked.response(prompt, "") for _ in range(2)])
    job = stocked.perform(stocked.submit(replace(ANSWERING, until_full=True)))
    assert job.status == "finished"
    assert state_of(stocked, orphan) == "failed"
    assert {row["state"] for row in answers_of(stocked, orphan)} == {"failed"}
    assert sum(stock(stocked).values()) == 12


def test_a_draw_that_fails_marks_its_comparison_and_the_job(stocked: Machine) -> None:
    """With a limit that no draw can have, which a stored spec would have been refused for."""
    job = job_store.claim(stocked.db, stocked.submit(ANSWERING), "w")
    assert job is not None
    impossible = replace(ANSWERING, model=str(stocked.model), sampling=Sampling(max_new_tokens=-1))
    assert perform(Run(stocked.db, stocked.data_dir, job, "w"), impossible) == 1
    assert job_store.get(stocked.db, job.id).status == "failed"
    assert stocked.db.rows("SELECT state FROM comparison") == [{"state": "failed"}]
    assert stocked.db.rows("SELECT DISTINCT state FROM response") == [{"state": "failed"}]


def test_a_promotion_lets_the_answers_that_people_watch_end(long: Machine) -> None:
    """They stay answers of the policy that began them, and the next ones come from the new policy."""
    add_adapter(long, "next")
    with answering(long, replace(LONG, prompts_per_batch=6), 3) as pace:
        pace.until_held()
        claim = handing_out.claim_next(long.db, long.annotator.id)
        assert claim is not None
        decision_store.promote(long.db, "next", "ann")
        pace.go_on()
        wait_until("its end", lambda: state_of(long, claim.comparison_id) == "ready")
        assert {row["model_id"] for row in answers_of(long, claim.comparison_id)} == {1}
        judging.judge(long.db, long.annotator.id, claim.nonce, act("tie"))
        later = wait_until("the next policy's", lambda: handing_out.claim_next(long.db, long.annotator.id))
        assert {row["model_id"] for row in answers_of(long, later.comparison_id)} == {2}


def test_answers_that_a_promotion_breaks_off_are_not_called_too_few(long: Machine) -> None:
    """Nobody asked for more of them: the next policy's first batch is held, and meanwhile nothing is amiss."""
    add_adapter(long, "next")
    with answering(long, replace(LONG, prompts_per_batch=6), 3, 3, 3) as pace:
        pace.until_held()  # the first comparison, which could be watched
        pace.go_on()
        pace.until_held()  # a batch that nobody watches
        decision_store.promote(long.db, "next", "ann")
        pace.go_on()
        pace.until_held()
        job = job_store.recent(long.db, ("answering",), 1)[0]
        assert (job.reason, job.message) == (None, "It has written answers to compare.")


def test_that_a_policy_says_always_the_same_is_not_said_of_the_next_one(stocked: Machine) -> None:
    add_adapter(stocked, "next")
    spec = replace(ANSWERING, stock=1, sampling=Sampling(temperature=1e-3, max_new_tokens=6))
    with answering(stocked, spec) as pace:
        wait_until("the sentence", lambda: "fewer different answers" in answering_problem(stocked.db))
        pace.hold(2)
        decision_store.promote(stocked.db, "next", "ann")
        pace.until_held()
        assert answering_problem(stocked.db) == ""
        assert job_store.recent(stocked.db, ("answering",), 1)[0].reason is None


def test_an_asked_prompt_whose_answers_are_the_same_is_drawn_again_and_then_left(stocked: Machine) -> None:
    """At a temperature near zero every seed gives the likeliest answer, so that no draw can help."""
    asked = ask(stocked)
    spec = replace(ANSWERING, sampling=Sampling(temperature=1e-3, max_new_tokens=12))
    with answering(stocked, spec):
        wait_until("the draws", lambda: asked_states(stocked) == ["dropped"] * 3)
        ask(stocked, "Dance.", by="bob")
        wait_until("the draws of another", lambda: asked_states(stocked) == ["dropped"] * 6)
    seeds = [row["seed"] for row in responses(stocked, "base") if row["prompt_id"] == prompt_of(stocked, asked)]
    assert len(set(seeds)) == 6, "each draw has seeds of its own"


def test_a_policy_that_always_says_the_same_is_waited_for_with_a_sentence(stocked: Machine) -> None:
    """Drawn near temperature zero, three different answers are never to be had; the page says why nothing comes."""
    project_store.set_project(stocked.db, replace(project_store.project(stocked.db), kind="best", answers=3))
    assert "No model is writing" in answering_problem(stocked.db)
    with answering(stocked, replace(ANSWERING, sampling=Sampling(temperature=1e-3, max_new_tokens=6))):
        wait_until("the sentence", lambda: "fewer different answers" in answering_problem(stocked.db))
    assert stock(stocked) == {"train": 0, "held-out": 0}


def test_nobody_is_told_that_no_model_writes_answers_when_one_is_about_to(stocked: Machine) -> None:
    job = job_store.enqueue(stocked.db, ANSWERING, "the program")
    assert answering_problem(stocked.db) == ""
    stocked.db.write("UPDATE job SET created = '2026-01-01T00:00:00+00:00' WHERE id = ?", (job,))
    assert "No model is writing" in answering_problem(stocked.db), "it never began"


def asked_states(machine: Machine) -> list[str]:
    """The states of the comparisons that annotators asked for."""
    return [row["state"] for row in machine.db.rows("SELECT state FROM comparison WHERE asked_by IS NOT NULL")]


def prompt_of(machine: Machine, comparison_id: int) -> int:
    """A comparison's prompt."""
    return int(machine.db.value("SELECT prompt_id FROM comparison WHERE id = ?", (comparison_id,)))


# ------------------------------------------------------------------------------------------------- a process of its own
def test_the_answering_worker_fills_swaps_and_ends_when_told(stocked: Machine) -> None:
    """From start to SIGTERM: the base's answers, promoted and gone back from, within seconds and without a restart."""
    job_id = stocked.submit(ANSWERING)
    with stocked.start_worker(job_id) as worker:
        try:
            wait_until("a full stock", lambda: stock(stocked) == {"train": 10, "held-out": 2})
            assert {row["split"] for row in responses(stocked, "base")} == {"train", "held-out"}

            add_adapter(stocked, "next")
            assert responses(stocked, "next") == []
            decision_store.promote(stocked.db, "next", "ann")
            wait_until("an answer by the promoted policy", lambda: responses(stocked, "next"))
            wait_until("a stock by it", lambda: stock(stocked, "next") == {"train": 10, "held-out": 2})
            by_base = len(responses(stocked, "base"))

            decision_store.promote(stocked.db, "base", "ann")
            served = [f"answering as {revision}" for revision in ("base", "next", "base")]
            wait_until(
                "the going back", lambda: [line[10:] for line in job_store.log_tail(stocked.db, job_id)] == served
            )
            # The base's comparisons were still waiting, so nothing had to be drawn again.
            assert len(responses(stocked, "base")) == by_base
            running = job_store.get(stocked.db, job_id)
            assert running.status == "running"
            assert running.message == "It has written answers to compare.", "no number, which judging would make wrong"
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(PATIENCE_SECONDS)
    job = job_store.get(stocked.db, job_id)
    assert (worker.returncode, job.status) == (0, "lost")
    assert "Prefloop was stopped" in job.message


# Stands in for a slow machine: each process of a worker waits at one moment of its start until the test lets it go on.
HALTED = """
import os, sys, time

def halt(event, arguments):
    if os.environ["HALT_AT"] in (event, *map(str, arguments[:1])):
        open("{there}", "w").close()
        while not os.path.exists("{go}"):
            time.sleep(0.01)

if "rlhf.workers.worker" in sys.orig_argv:
    sys.addaudithook(halt)
    sys.audit("start")
"""
# Starts a worker as the program does, says its process id, and lives until it is killed.
PARENT = """
import os, sys
sys.path.insert(0, os.getcwd())
from pathlib import Path
from annotation.database import open_database
from rlhf.jobs import job_store
from rlhf.workers.worker_process import start_worker

data_dir, job_id = Path(sys.argv[1]), int(sys.argv[2])
print(start_worker(job_store.get(open_database(data_dir), job_id), data_dir, "a-worker", (), None).pid, flush=True)
sys.stdin.read()
"""


@dataclass
class Started:
    """A program that started a worker, the file that says how far that has come, and the one that lets it go on."""

    there: Path
    go: Path
    program: subprocess.Popen[str] = field(init=False)
    processes: list[psutil.Process] = field(default_factory=list)

    def family(self) -> list[psutil.Process]:
        """The worker's processes."""
        return [process for process in process_tree(self.program.pid) if process.pid != self.program.pid]

    def end_first(self) -> None:
        """Kill the program, let the worker go on, and wait for the end of its processes."""
        self.processes = self.family()
        assert self.processes
        self.program.kill()
        self.program.wait(PATIENCE_SECONDS)
        self.go.touch()
        wait_until("the worker's end", lambda: all(map(has_ended, self.processes)))


@contextmanager
def program_that_started(job_id: int, machine: Machine, halt_at: str, directory: Path) -> Iterator[Started]:
    """A program with a worker for this job, which waits at a moment of its start; both are gone afterwards."""
    started = Started(directory / "there", directory / "go")
    (directory / "sitecustomize.py").write_text(HALTED.format(there=started.there, go=started.go), "utf-8")
    parent = directory / "parent.py"  # in a file it is forked, and so is its worker: past the moments to halt at
    parent.write_text(PARENT, "utf-8")
    command = [str(parent)] if halt_at == "work" else ["-c", PARENT]
    path = os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, *command, str(machine.data_dir), str(job_id)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "HALT_AT": halt_at},
    ) as started.program:
        assert started.program.stdout is not None
        worker = int(started.program.stdout.readline())
        try:
            yield started
        finally:
            for process in (*process_tree(worker), *started.processes):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            started.program.kill()


@pytest.mark.parametrize("moment", ["start", "torch", "work"])
def test_a_worker_ends_when_the_program_that_started_it_is_gone(stocked: Machine, tmp_path: Path, moment: str) -> None:
    """Killed with SIGKILL, it can tell nobody, whether the worker has not listened yet, or imports, or answers."""
    job_id = stocked.submit(ANSWERING)
    with program_that_started(job_id, stocked, moment, tmp_path) as started:
        if moment == "work":
            wait_until("the first comparisons", lambda: sum(stock(stocked).values()) > 0)
        else:
            wait_until(f"the worker at {moment}", started.there.exists)
        started.end_first()
    job = job_store.get(stocked.db, job_id)
    begun = moment != "start"
    assert (job.status, job.attempt) == (("lost", 1) if begun else ("queued", 0))
    assert not begun or "Prefloop was stopped" in job.message


def test_a_worker_whose_program_is_gone_already_knows_it_at_once() -> None:
    """Before a thread has had its turn: by then the worker may have claimed its job."""
    code = (
        "import threading; threading.Thread.start = lambda thread: None\n"
        "from rlhf.workers.worker import listen_for_the_end; print(listen_for_the_end(tied=True).is_set())"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, input="", capture_output=True, text=True).stdout == "True\n"
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == "False\n"


def test_all_processes_of_a_job_end_when_the_program_that_started_them_is_gone(
    stocked: Machine, tmp_path: Path
) -> None:
    job_id = job_store.enqueue(stocked.db, SFTSpec(processes=2), "a test")
    with program_that_started(job_id, stocked, "rlhf.jobs.job_spec", tmp_path) as started:
        wait_until("one of its processes", started.there.exists)
        wait_until("the launcher and both processes", lambda: len(started.family()) == 3)
        started.end_first()
    assert job_store.get(stocked.db, job_id).status == "queued"


# --------------------------------------------------------------------------------------------------------- supervisor
def test_the_supervisor_runs_what_is_queued_checks_it_and_survives_killed_workers(
    stocked: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AnsweringWorker, training and check as rows and processes; both kinds of worker are killed on the way."""
    stocked.judge("train", 12)
    stocked.judge("held-out", 4)
    db = stocked.db
    going_on = hold(monkeypatch, tmp_path, "dpo")
    supervisor = Supervisor(db, stocked.data_dir, str(stocked.model))
    supervisor.start()

    def running(kind: str) -> int | None:
        return next((job.id for job in job_store.active(db, (kind,)) if job.status == "running"), None)

    try:
        answering = wait_until("the answering worker", lambda: running("answering"))
        training = stocked.submit(QUICK_DPO)
        wait_until("the training worker", lambda: running("dpo") == training)

        for job_id in (training, answering):
            supervisor.children[job_id].process.kill()
        for job_id in (training, answering):
            wait_until(f"job {job_id} marked lost", lambda job_id=job_id: job_store.get(db, job_id).status == "lost")
            assert "The worker was killed" in job_store.get(db, job_id).message

        going_on.touch()
        job_store.resume(db, training)
        wait_until("the resumed training", lambda: job_store.get(db, training).status == "finished")
        check = wait_until("the check", lambda: job_store.recent(db, ("check",), 1))[0]
        assert isinstance(check.spec, CheckSpec)
        assert (check.spec.candidate, check.requested_by) == (f"dpo-{training}", "the loop")
        again = wait_until("another answering worker", lambda: running("answering"))
        assert again != answering
        wait_until("the check's end", lambda: job_store.get(db, check.id).status == "finished")
        assert (stocked.data_dir / "logs" / f"job-{training}.log").stat().st_size > 0
        children = dict(supervisor.children)
    finally:
        supervisor.stop()
    assert children
    assert all(child.process.returncode is not None for child in supervisor.children.values())
    assert job_store.active(db, ("answering", "dpo", "check")) == []


def test_an_answering_worker_that_fails_again_and_again_is_started_ever_more_rarely(
    machine: Machine, tmp_path: Path
) -> None:
    """The waiting times after failures, by the supervisor's own clock."""
    supervisor = Supervisor(machine.db, machine.data_dir, str(machine.model))
    waits = []
    for _ in range(8):
        supervisor.answering_ended(1)
        waits.append(supervisor._answering_not_before)
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]
    supervisor.answering_ended(0)
    assert supervisor._answering_not_before == 0.0
    supervisor.answering_ended(1)
    assert supervisor._answering_not_before == 5.0
    supervisor.answering_ended(1, worked=20.0)
    assert supervisor._answering_not_before == 10.0
    supervisor.answering_ended(1, worked=86_400.0)
    assert supervisor._answering_not_before == 5.0
