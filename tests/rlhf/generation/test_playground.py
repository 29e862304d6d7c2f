"""Chats with real policies on the answering worker, and prompt sets answered as a job and fetched as a file."""

from __future__ import annotations

import json
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

import app
from annotation.records import Message, Prompt, Sampling
from annotation.store import comparison_store, prompt_store
from annotation.web import access
from rlhf.generation import answering_job, playground_store, prompt_set_spec, prompt_sets
from rlhf.generation.answering_job import AnsweringWorker, policies_to_keep
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.generation.playground_store import Chat
from rlhf.generation.prompt_set_spec import PromptSetSpec
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.jobs.run import Run
from rlhf.models import decision_store, registry
from rlhf.models.loading.base_weights import load_plain, load_quantised
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.registry import Policy, PolicyForm
from rlhf.models.sampling.drawing import draw
from tests.builders import policy
from tests.e2e.conftest import running_app
from tests.machine_fixtures import PATIENCE_SECONDS, Machine, make_machine, wait_until, write_spec
from tests.rlhf.generation.test_answering_job import answering, ask, state_of, stock

pytestmark = pytest.mark.slow

TOKENS = 16
SAMPLING = Sampling(max_new_tokens=TOKENS)
ANSWERING = AnsweringSpec(stock=6, prompts_per_batch=4, sampling=SAMPLING)
QUESTION: Message = {"role": "user", "content": "What is a riddle?"}
FORMS: tuple[PolicyForm, ...] = ("lora", "prompt", "full")


# -------------------------------------------------------------------------------------------- policies of every form
def register(machine: Machine, revision: str, form: PolicyForm, seed: int = 0) -> Policy:
    """A candidate of this form that answers otherwise than the base."""
    directory = machine.data_dir / "adapters" / revision
    make = {"lora": save_lora, "prompt": save_virtual_tokens, "full": save_weights}[form]
    make(machine, directory, torch.Generator().manual_seed(seed))
    return registry.add(
        machine.db,
        revision=revision,
        algorithm="dpo",
        base=str(machine.model),
        parent_id=1,
        job_id=None,
        path=f"adapters/{revision}",
        sha256=directory_sha256(directory),
        form=form,
        precision="bf16" if form == "full" else "nf4",
    )


def save_lora(machine: Machine, directory: Path, generator: torch.Generator) -> None:
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(5)  # PEFT draws their start
    shake_and_save(get_peft_model(load_quantised(machine.model), config), "lora_", 0.05, directory, generator)


def save_virtual_tokens(machine: Machine, directory: Path, generator: torch.Generator) -> None:
    config = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    torch.manual_seed(5)  # PEFT draws their start; not every one changes a short answer
    model = get_peft_model(load_quantised(machine.model), config)
    shake_and_save(model, "prompt_encoder", 0.5, directory, generator)


def save_weights(machine: Machine, directory: Path, generator: torch.Generator) -> None:
    shake_and_save(load_plain(machine.model, torch.bfloat16), "mlp", 0.1, directory, generator)


def shake_and_save(model: Any, part: str, size: float, directory: Path, generator: torch.Generator) -> None:
    """Move the parameters whose names have this part, and store the model."""
    for name, parameter in sorted(model.named_parameters()):
        if part in name:
            noise = torch.randn(parameter.shape, generator=generator) * size
            parameter.data = parameter.data + noise.to(parameter.dtype)
    model.save_pretrained(directory)


def ask_chats(
    machine: Machine, *revisions: str, messages: Sequence[Message] = (QUESTION,), **changed: Any
) -> list[int]:
    """Ask policies the same with the same seed."""
    asked = {registry.by_revision(machine.db, revision).id: messages for revision in revisions}
    return playground_store.ask(machine.db, asked, replace(SAMPLING, **changed), 11, "kim")


def one(machine: Machine, chat_id: int) -> Chat:
    """A chat by its id."""
    (found,) = playground_store.with_ids(machine.db, [chat_id])
    return found


def expected(machine: Machine, chat: Chat) -> str:
    """The answer by a policy that is alone in memory, drawn on its own."""
    models = LoadedPolicies(machine.db, machine.data_dir, machine.model)
    model = models.use(registry.by_id(machine.db, chat.model_id))
    return draw(model, models.tokenizer, [machine.render(chat.messages)], [[chat.seed]], chat.sampling)[0][0].text


@pytest.fixture(scope="module")
def every_form(tmp_path_factory: pytest.TempPathFactory, talkative: Path) -> Iterator[Machine]:
    """A machine with a policy of every form, whose answers are long enough to be interrupted on every processor."""
    made = make_machine(tmp_path_factory.mktemp("every-form") / "data", talkative)
    made.add_prompts(train=12, held_out=4)
    for form in FORMS:
        register(made, form, form)
    yield made
    made.db.close()


@pytest.fixture
def stocked(every_form: Machine, tmp_path: Path) -> Iterator[Machine]:
    """Another one like it."""
    made = every_form.copied(tmp_path / "stocked")
    yield made
    made.db.close()


@contextmanager
def answering_by_hand(machine: Machine, spec: AnsweringSpec = ANSWERING) -> Iterator[AnsweringWorker]:
    """The answering worker's own object, to be driven by hand."""
    job = job_store.claim(machine.db, machine.submit(spec), "w")
    assert job is not None
    yield AnsweringWorker(Run(machine.db, machine.data_dir, job, "w"), replace(spec, model=str(machine.model)))


# --------------------------------------------------------------------------------------------------------- any policy
def test_policies_of_every_form_answer_as_they_do_alone(stocked: Machine) -> None:
    """One after the other in one memory, the base too, and each answers as if it had never met the others."""
    numbers = ask_chats(stocked, "lora", "base", "prompt", "full")
    with answering(stocked, ANSWERING):
        wait_until("the answers", lambda: not any(one(stocked, number).open for number in numbers))
    found = [one(stocked, number) for number in numbers]
    assert [chat.message for chat in found] == [""] * 4
    assert [chat.text for chat in found] == [expected(stocked, chat) for chat in found]
    assert len({chat.text for chat in found}) == 4, "they answer differently, or the comparison would prove nothing"
    for chat in found:
        assert chat.rendered_prompt == stocked.render(chat.messages)
        assert chat.prompt_tokens == stocked.count(chat.rendered_prompt)
        assert chat.tokens is not None
        assert 0 < chat.tokens <= SAMPLING.max_new_tokens
        assert chat.token_ids is not None
        assert stocked.tokenizer.decode(chat.token_ids.ids, skip_special_tokens=True) == chat.text


def test_what_is_too_long_beside_virtual_tokens_is_answered_without_them(stocked: Machine) -> None:
    with answering_by_hand(stocked) as worker:
        (task,) = worker.tasks("train", 1)
        worker.models.context = stocked.count(task.text) + SAMPLING.max_new_tokens
        decision_store.promote(stocked.db, "prompt", "kim")
        worker.follow_promotion()
        assert not [one for one in worker.tasks("train", 12) if one.prompt.id == task.prompt.id]
        decision_store.promote(stocked.db, "base", "kim")
        worker.follow_promotion()
        assert [one for one in worker.tasks("train", 12) if one.prompt.id == task.prompt.id]


def test_a_conversation_is_fed_as_a_whole(stocked: Machine) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        QUESTION,
        {"role": "assistant", "content": "A question in disguise."},
        {"role": "user", "content": "Give one."},
    ]
    (number,) = ask_chats(stocked, "lora", messages=messages)
    with answering(stocked, ANSWERING):
        wait_until("the answer", lambda: not one(stocked, number).open)
    chat = one(stocked, number)
    assert chat.rendered_prompt == stocked.render(messages)
    assert chat.text == expected(stocked, chat)


# Who serves, and who is asked meanwhile.
PAIRS = [
    *(("base", asked) for asked in FORMS),
    *(("lora", asked) for asked in ("base", "other", "prompt", "full")),
    *(("prompt", asked) for asked in ("base", "lora")),
    ("full", "lora"),
]


@pytest.mark.parametrize(("serving", "asked"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_a_batch_that_a_chat_interrupts_goes_on_as_if_nothing_had_been(
    stocked: Machine, monkeypatch: pytest.MonkeyPatch, serving: str, asked: str
) -> None:
    """Which adapter is active is global; the interrupted draw must find its own again."""
    monkeypatch.setattr(answering_job, "GLANCE_SECONDS", 0.0)
    register(stocked, "other", "lora", seed=1)
    if serving != "base":
        decision_store.promote(stocked.db, serving, "kim")
    with answering_by_hand(stocked) as worker:
        batch = worker.next_batch(4, 1)
        alone = worker.draw(batch, 2, lambda: False)
        assert max(drawn.tokens for group in alone for drawn in group) > 8, "too short to be interrupted"
        tokens, numbers = 0, []

        def interrupted() -> bool:
            nonlocal tokens
            tokens += 1
            if tokens in (3, 6):  # not in memory yet, and in memory
                numbers.extend(ask_chats(stocked, asked))
            return worker.outdated_after_asked()

        assert worker.draw(batch, 2, interrupted) == alone
        found = [one(stocked, number) for number in numbers]
    assert [chat.state for chat in found] == ["done", "done"]
    assert {chat.text for chat in found} == {expected(stocked, found[0])}


def test_chats_of_one_policy_are_answered_in_one_batch_of_any_lengths(stocked: Machine) -> None:
    """Left padding must not show: float32 weights would give the very same, bfloat16 rounds."""
    long = [QUESTION, {"role": "assistant", "content": "A game."}, {"role": "user", "content": "Whose?"}]
    numbers = [*ask_chats(stocked, "lora"), *ask_chats(stocked, "lora", messages=long)]
    with answering(stocked, ANSWERING):
        wait_until("the answers", lambda: not any(one(stocked, number).open for number in numbers))
    first, second = (one(stocked, number) for number in numbers)
    assert (first.state, second.state) == ("done", "done")
    assert first.begun is not None
    assert second.begun is not None
    assert first.finished is not None
    assert second.begun < first.finished, "they were written at the same time"


# ------------------------------------------------------------------------------------------------------ while watched
def test_the_first_token_is_there_long_before_the_last_whether_the_worker_rests_or_draws(long: Machine) -> None:
    spec = replace(ANSWERING, stock=12)
    comparison_store.add_comparison(
        long.db, [long.response(prompt_store.prompts(long.db, "train")[0], text) for text in ("a b", "c d")]
    )

    def begun(number: int) -> bool:
        chat = one(long, number)
        return chat.open and bool(chat.text) and chat.first_token_seconds is not None

    with answering(long, spec, 3, 2) as pace:
        pace.until_held()
        (drawing,) = ask_chats(long, "base")
        pace.go_on()
        pace.until_held()
        assert begun(drawing)
        assert sum(stock(long).values()) < 12, "the batch is being drawn"
        pace.go_on()
        wait_until("a full stock", lambda: sum(stock(long).values()) >= 12)
        assert not one(long, drawing).open
        pace.hold(2)
        (resting,) = ask_chats(long, "base")
        pace.until_held()
        assert begun(resting)
        pace.go_on()
        wait_until("the answer", lambda: not one(long, resting).open)
    assert [one(long, number).tokens for number in (drawing, resting)] == [TOKENS, TOKENS]


def test_an_answer_grows_and_stopping_it_keeps_what_was_seen(long: Machine) -> None:
    (number,) = ask_chats(long, "base")
    seen: list[str] = []
    with answering(long, ANSWERING, 2, 5, 9, 14) as pace:
        for _ in range(4):
            pace.until_held()
            seen.append(one(long, number).text)
            if len(seen) == 4:
                playground_store.stop(long.db, [number])
            pace.go_on()
        wait_until("its end", lambda: not one(long, number).open)
    chat = one(long, number)
    assert (chat.state, chat.finish_reason) == ("done", "stopped")
    assert len(set(seen)) == 4
    assert all(later.startswith(earlier) for earlier, later in pairwise([*seen, chat.text]))
    assert chat.tokens == long.count(chat.text)
    assert chat.tokens < TOKENS


def test_stopping_one_answer_of_a_batch_leaves_the_others(long: Machine) -> None:
    first, second = [*ask_chats(long, "base"), *ask_chats(long, "base")]
    with answering(long, ANSWERING, 3, 6) as pace:
        pace.until_held()
        assert one(long, first).text
        assert one(long, second).text
        playground_store.stop(long.db, [first])
        pace.go_on()
        pace.until_held()
        assert not one(long, first).open
        assert one(long, second).state == "writing"
        pace.go_on()
        wait_until("the end of the other", lambda: not one(long, second).open)
    assert one(long, first).finish_reason == "stopped"
    assert (one(long, second).finish_reason, one(long, second).tokens) == ("length", TOKENS)


def test_a_chat_comes_before_what_an_annotator_asked_and_the_annotator_loses_nothing(long: Machine) -> None:
    register(long, "lora", "lora")
    asked = ask(long)
    with answering(long, ANSWERING, 3, 2) as pace:
        pace.until_held()
        assert state_of(long, asked) == "writing"
        (number,) = ask_chats(long, "lora")
        pace.go_on()
        pace.until_held()
        assert one(long, number).state == state_of(long, asked) == "writing"
        pace.hold(TOKENS, TOKENS)
        pace.go_on()
        pace.until_held()
        pace.go_on()
        pace.until_held()
        assert not one(long, number).open
        assert state_of(long, asked) == "writing"
        pace.go_on()
        wait_until("the asked answers", lambda: state_of(long, asked) == "ready")
    assert one(long, number).text == expected(long, one(long, number))
    rows = long.db.rows(
        """SELECT r.text, r.seed, r.model_id, r.tokens FROM comparison_response c JOIN response r
           ON r.id = c.response_id WHERE c.comparison_id = ? ORDER BY c.position""",
        (asked,),
    )
    models = LoadedPolicies(long.db, long.data_dir, long.model)
    text = long.render([{"role": "user", "content": "Sing."}])
    alone = draw(
        models.use(registry.serving(long.db)), models.tokenizer, [text], [[row["seed"] for row in rows]],
        SAMPLING,
    )  # fmt: skip
    assert [row["text"] for row in rows] == [drawn.text for drawn in alone[0]]


# --------------------------------------------------------------------------------------------------------- what fails
def test_what_can_not_be_answered_says_why_and_the_worker_goes_on(stocked: Machine) -> None:
    damaged = stocked.data_dir / "adapters" / "lora" / "adapter_config.json"
    damaged.write_text("{}")
    (torn,) = ask_chats(stocked, "lora")
    (long,) = ask_chats(stocked, "base", messages=[{"role": "user", "content": "sun " * 1100}])
    (fine,) = ask_chats(stocked, "base")
    asked = [{"role": "user", "content": "sun "}]
    while (room := 1024 - stocked.count(stocked.render(asked))) > 40:
        asked[0]["content"] += "sun "
    full, too_full = ask_chats(stocked, "base", "prompt", messages=asked, max_new_tokens=room)
    with answering(stocked, ANSWERING):
        wait_until("the answers", lambda: not any(one(stocked, each).open for each in (fine, full, too_full)))
    assert (one(stocked, torn).state, one(stocked, long).state) == ("failed", "failed")
    assert (one(stocked, full).state, one(stocked, too_full).state) == ("done", "failed")
    assert f"leaves no room for {room + 4} more" in one(stocked, too_full).message  # four virtual tokens
    assert "sha256 differs" in one(stocked, torn).message
    assert f"leaves no room for {TOKENS} more in a context of 1024" in one(stocked, long).message
    assert one(stocked, fine).text == expected(stocked, one(stocked, fine))


# Run in a worker beforehand: killed when the first words of a chat are there.
KILLED_WRITING = """
import os, signal
from rlhf.generation import playground_store

show = playground_store.show

def show_and_die(db, texts):
    show(db, texts)
    if any(texts.values()):
        os.kill(os.getpid(), signal.SIGKILL)

playground_store.show = show_and_die
"""


def test_what_a_killed_worker_was_writing_fails_and_what_waits_is_answered_by_the_next(long: Machine) -> None:
    job_id = long.submit(ANSWERING)
    writing, waiting = [*ask_chats(long, "base"), *ask_chats(long, "base", max_new_tokens=3)]
    long.run_worker(job_id, KILLED_WRITING, -signal.SIGKILL)
    assert (one(long, writing).state, one(long, waiting).state) == ("writing", "asked")
    with answering(long, ANSWERING):
        wait_until("the other answer", lambda: one(long, waiting).state == "done")
    assert (one(long, writing).state, one(long, writing).message) == ("failed", playground_store.BROKEN_OFF)


def test_what_is_being_written_when_the_program_ends_is_marked(long: Machine) -> None:
    (number,) = ask_chats(long, "base")
    with answering(long, ANSWERING, 3) as pace:
        pace.until_held()
        assert one(long, number).text
    assert (one(long, number).state, one(long, number).message) == ("failed", playground_store.BROKEN_OFF)


# ------------------------------------------------------------------------------------------------------------- memory
def numbered(number: int, form: PolicyForm = "lora", ground_id: int | None = None) -> Policy:
    """A policy of the registry."""
    return policy(id=number, revision=f"p-{number}", form=form, ground_id=ground_id)


def test_few_policies_stay_in_memory_on_at_most_one_other_set_of_weights() -> None:
    serving, full, other = numbered(1), numbered(2, "full"), numbered(3, "full")
    adapters = [numbered(number) for number in range(10, 18)]
    assert policies_to_keep(serving, [serving]) == []
    assert policies_to_keep(serving, adapters) == adapters[:4]
    assert policies_to_keep(serving, [full, adapters[0], other, adapters[1]]) == [full, adapters[0], adapters[1]]
    on_full = numbered(20, ground_id=2)
    assert policies_to_keep(serving, [on_full, full, other]) == [on_full, full], (
        "an adapter and the weights that it lies on"
    )


def test_weights_that_nobody_has_asked_for_lately_leave_the_memory(stocked: Machine) -> None:
    register(stocked, "full-2", "full", seed=2)
    with answering_by_hand(stocked) as worker:

        def chat(revision: str) -> Any:
            ask_chats(stocked, revision, max_new_tokens=2)
            worker._glanced = 0.0
            worker.answer_chats()
            return weakref.ref(worker.models.grounds[keys_of(stocked, revision)].model)

        first = chat("full")
        assert len(worker.models.grounds) == 2
        second = chat("full-2")
        assert len(worker.models.grounds) == 2
        assert first() is None, "its memory is free"
        assert second() is not None
        chat("lora")
        assert len(worker.models.grounds) == 2, "an adapter on the serving weights needs no others"
        assert worker.model is worker.models.use(registry.serving(stocked.db))


def keys_of(machine: Machine, revision: str) -> Any:
    """What identifies the weights under a policy."""
    from rlhf.models.loading.loaded_policies import ground_key

    return ground_key(registry.by_revision(machine.db, revision))


# --------------------------------------------------------------------------------------------------------- a prompt set
QUICK = PromptSetSpec(split="all", each=2, seed=5, prompts_per_batch=4, sampling=SAMPLING)


def rows_of(machine: Machine, job_id: int) -> list[dict[str, Any]]:
    """What is in a job's file."""
    lines = prompt_sets.file_of(machine.data_dir, job_id).read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


@pytest.mark.parametrize("revision", ["base", "lora", "prompt", "full"])
def test_every_prompt_is_answered_as_often_as_asked_by_the_chosen_policy(stocked: Machine, revision: str) -> None:
    job = stocked.perform(stocked.submit(replace(QUICK, revision=revision)))
    assert job.status == "finished", job.message
    assert job.result is not None
    rows = rows_of(stocked, job.id)
    prompts = [prompt for split in prompt_set_spec.SPLITS for prompt in prompt_store.prompts(stocked.db, split)]
    assert [tuple(row["messages"]) for row in rows] == [prompt.messages for prompt in prompts for _ in range(2)]
    assert len({row["seed"] for row in rows}) == 32
    assert {row["revision"] for row in rows} == {revision}
    models = LoadedPolicies(stocked.db, stocked.data_dir, stocked.model)
    model = models.use(registry.by_revision(stocked.db, revision))
    for row, prompt in zip(rows[:8:2], prompts[:4], strict=True):  # the first batch, drawn again as it was
        texts = [stocked.render(other.messages) for other in prompts[:4]]
        seeds = [[5 + 2 * other.id, 6 + 2 * other.id] for other in prompts[:4]]
        again = draw(model, models.tokenizer, texts, seeds, SAMPLING)[prompts.index(prompt)][0]
        assert (row["answer"], row["seed"]) == (again.text, again.seed)
        assert (row["tokens"], row["finish_reason"]) == (again.tokens, again.finish_reason)
        assert row["sampling"] == {"temperature": 1.0, "min_p": 0.1, "max_new_tokens": TOKENS, "sampler": 2}
    content = prompt_sets.file_of(stocked.data_dir, job.id).read_bytes()
    assert job.result == {
        "revision": revision,
        "prompts": 16,
        "left_out": 0,
        "answers": 32,
        "file": f"answers/job-{job.id}.jsonl",
        "sha256": sha256(content).hexdigest(),
        "seconds": job.result["seconds"],
    }
    assert not prompt_sets.draft_of(stocked.data_dir, job.id).exists()
    assert stocked.db.value("SELECT count(*) FROM response") == 0, "they are in the file and nowhere else"


# Run in a worker beforehand: killed when the first batch is in the file.
KILLED_AFTER_AN_ANSWER = """
import os, signal
from rlhf.generation import prompt_sets

add = prompt_sets.add_to_draft

def add_and_die(*given):
    add(*given)
    os.kill(os.getpid(), signal.SIGKILL)

prompt_sets.add_to_draft = add_and_die
"""


def test_a_job_that_was_broken_off_draws_only_what_is_missing(long: Machine) -> None:
    """What was drawn before is marked here by hand: it is in the file as it was, so nobody has drawn it again."""
    job_id = long.submit(replace(QUICK, each=1))
    draft = prompt_sets.draft_of(long.data_dir, job_id)
    long.run_worker(job_id, KILLED_AFTER_AN_ANSWER, -signal.SIGKILL)
    assert not prompt_sets.file_of(long.data_dir, job_id).exists()
    kept_rows = prompt_sets.read_draft(draft)
    assert len(kept_rows) == 1
    marked = [{**row, "answer": "drawn before"} for row in kept_rows.values()]
    draft.write_bytes(prompt_sets.lines_of(marked) + b'{"torn')
    long.db.write("UPDATE job SET status = 'lost', worker = NULL WHERE id = ?", (job_id,))
    job_store.resume(long.db, job_id)
    job = long.perform(job_id)
    assert job.status == "finished", job.message
    assert (job.step, job.steps) == (16, 16)
    rows = rows_of(long, job_id)
    assert len(rows) == 16
    assert [row["answer"] == "drawn before" for row in rows] == [row["seed"] in kept_rows for row in rows]
    # Killed when the file was there, before it could say so.
    file = prompt_sets.file_of(long.data_dir, job_id)
    file.write_bytes(prompt_sets.lines_of({**row, "answer": "in the file"} for row in rows))
    with long.db.transaction() as connection:
        connection.execute("UPDATE job SET status = 'lost', worker = NULL, result = NULL WHERE id = ?", (job_id,))
    job_store.resume(long.db, job_id)
    job = long.perform(job_id)
    assert job.status == "finished", job.message
    assert {row["answer"] for row in rows_of(long, job_id)} == {"in the file"}


def test_a_job_from_the_command_line_answers_as_what_served_when_it_was_made(stocked: Machine, tmp_path: Path) -> None:
    decision_store.promote(stocked.db, "lora", "kim")
    spec = {"kind": "prompt-set", "split": "held-out", "sampling": {"max_new_tokens": 8}}
    done = stocked.command("run", str(write_spec(tmp_path / "spec.json", spec)))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout[done.stdout.index("\n{") :])
    assert (result["revision"], result["prompts"], result["answers"]) == ("lora", 4, 4)
    (job,) = job_store.recent(stocked.db, (PromptSetSpec.kind,))
    assert isinstance(job.spec, PromptSetSpec)
    assert job.spec.revision == "lora", "resumed after a promotion it goes on with the same policy"
    assert (stocked.data_dir / result["file"]).is_file()


def test_prompts_that_the_model_can_not_take_are_left_out_and_counted(stocked: Machine) -> None:
    long = ({"role": "user", "content": "sun " * 1100},)
    prompt_store.add_prompts(stocked.db, [Prompt(long, "train", "long")])
    job = stocked.perform(stocked.submit(replace(QUICK, each=1)))
    assert job.result is not None
    assert (job.result["prompts"], job.result["left_out"]) == (16, 1)
    assert any("1 of 17 prompts can't be answered" in line for line in job_store.log_tail(stocked.db, job.id))
    job = stocked.perform(stocked.submit(replace(QUICK, source="long")))
    assert (job.status, job.message) == ("failed", "This model can answer none of these prompts.")


# ----------------------------------------------------------------------------------------------------------- downloads
@pytest.fixture(scope="module")
def fetch(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Callable[..., httpx.Response]]:
    """Asks the real server for a path, as one of these people or as a stranger, where job 1 has made a file."""
    machine = make_machine(tmp_path_factory.mktemp("site") / "data", tiny_model)
    machine.add_prompts(train=2, held_out=1)
    access.add_account(machine.db, "kim", "admin", "a long enough password")
    assert machine.perform(machine.submit(QUICK)).status == "finished"
    prompt_sets.add_to_draft(prompt_sets.draft_of(machine.data_dir, 2), [{"seed": 1}])
    with running_app(machine.data_dir, "--no-workers") as (address, _):
        cookie = app.Settings(port=httpx.URL(address).port or 0).cookie

        def get(path: str, name: str | None) -> httpx.Response:
            cookies = {}
            if name is not None:
                account = access.authorise(machine.db, name, "annotator")
                cookies[cookie] = access.open_session(machine.db, account)
            with httpx.Client(cookies=cookies, timeout=PATIENCE_SECONDS) as client:
                return client.get(httpx.URL(address).copy_with(raw_path=path.encode()))

        yield get
    machine.db.close()


def test_an_admin_fetches_the_file_and_nobody_else(fetch: Callable[..., httpx.Response]) -> None:
    found = fetch("/answers/job-1.jsonl", "kim")
    assert found.status_code == 200
    assert found.headers["content-disposition"] == 'attachment; filename="job-1.jsonl"'
    assert found.headers["cache-control"] == "no-store"
    assert [set(json.loads(line)) for line in found.text.split("\n")[:-1]] == [
        {"messages", "answer", "finish_reason", "tokens", "seed", "sampling", "revision"}
    ] * 6
    refused = fetch("/answers/job-1.jsonl", "ann")
    assert (refused.status_code, refused.text) == (403, "Only an admin may fetch this.")
    assert fetch("/answers/nothing", "ann").status_code == 403
    assert fetch("/answers/job-1.jsonl", None).status_code == 401


@pytest.mark.parametrize(
    "path", ["/answers/job-2.jsonl", "/answers/.job-2.part", "/answers/..%2fprefloop.db", "/answers/job-1.jsonl%0a"]
)
def test_no_other_name_gives_anything(fetch: Callable[..., httpx.Response], path: str) -> None:
    found = fetch(path, "kim")
    assert found.status_code == 404
    assert b"SQLite" not in found.content
    assert b"seed" not in found.content
