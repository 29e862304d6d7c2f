"""The answering worker: keeps comparisons by the serving policy ahead of the annotators; swaps policies in seconds.

What people wait for is written before their eyes: chats of the playground, by whatever policy they ask, before all
else, then prompts that annotators ask, and the first comparisons while there is nothing to judge. The rest is drawn
unseen in batches, which cost less than their parts; of these answers heads may choose which ones are compared
(`rlhf.generation.answer_choice`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from annotation.claims import own_prompts
from annotation.records import ChosenAnswers, Prompt, Response, Split, UserError
from annotation.selection import HELD_OUT_SHARE
from annotation.store import comparison_store, project_store, prompt_store, stock_counts
from annotation.translation import _
from rlhf.generation import playground_store
from rlhf.generation.answer_choice import DRAWN, AnswerChoice
from rlhf.generation.answering_spec import AnsweringResult, AnsweringSpec
from rlhf.generation.playground_store import Chat, FinishedAnswer
from rlhf.jobs import job_store
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.base.base_model import ready
from rlhf.models.chat_template import tokenizing
from rlhf.models.loading.loaded_policies import LoadedPolicies, ground_key
from rlhf.models.registry import Policy
from rlhf.models.sampling.drawing import Draw, Written, draw, undrawn

IDLE_SECONDS = 0.5
NO_PROGRESS_SECONDS = 5.0
# How often a draw looks whether an annotator has asked something.
LOOK_SECONDS = 0.25
# How often it looks for chats, idle or not: their first token is to come within a second.
GLANCE_SECONDS = 0.05
# How often a chat shows what has been written.
CHAT_SECONDS = 0.15
# How many policies that chats have asked for stay in memory beside the one that serves.
KEPT_POLICIES = 4
# A prompt that was asked is answered again, with other seeds, when its answers came out the same or empty.
REDRAWS = 2


def run(run: Run, spec: AnsweringSpec) -> dict[str, Any]:
    """Fill the stock, and refill it whenever annotators or a promotion have emptied it, until told to stop."""
    comparison_store.fail_answers(run.db)  # what a worker that died was writing
    playground_store.fail_all(run.db)
    worker = AnsweringWorker(run, spec)
    worker.work()
    run.raise_if_stopped()
    return asdict(AnsweringResult(worker.made, run.seconds()))


@dataclass(frozen=True)
class Task:
    """A prompt to answer: the text to feed, and how many answers the policy has drawn to it before."""

    prompt: Prompt
    text: str
    attempts: int
    asked: int | None = None
    """The comparison that waits for these answers, if an annotator has asked."""
    chance: float | None = None
    """That with which the prompt was taken, of those in question."""


class AnsweringWorker:
    """The serving policy in memory, and what is drawn from it."""

    def __init__(self, run: Run, spec: AnsweringSpec) -> None:
        self.run, self.db, self.spec = run, run.db, spec
        self.models = LoadedPolicies(run.db, run.data_dir, ready(run.data_dir, spec.model).path)
        self.choice = AnswerChoice(run.db, self.models)
        self.made = 0
        self._fruitless = False
        self._refused: set[int] = set()
        self._answering, self._looked = False, 0.0
        self._chatting, self._glanced = False, 0.0
        self._lately: list[Policy] = []
        self.follow_promotion()

    def follow_promotion(self) -> None:
        """Compute as the policy that serves now."""
        self.serving = registry.serving(self.db)
        self._refused.clear()  # what is too long depends on the policy and on what it is told
        if self._fruitless:  # which says nothing of this one
            self._fruitless = False
            self.run.explain(None, "")
        self.models.tell(registry.no_thinking(self.db))
        self.model = self.models.use(self.serving)
        self.make_room(self._lately)
        self.run.log(f"answering as {self.serving.revision}")

    def make_room(self, asked: Sequence[Policy]) -> None:
        """Forget all policies but the one that serves and those that chats have asked for lately (the latest first)."""
        self._lately = policies_to_keep(self.serving, asked)
        self.models.keep_only(self.serving, *self._lately)

    def outdated(self) -> bool:
        """Whether answers of this policy are no longer wanted: another serves, or it in another precision or told
        otherwise whether to think, or it is to stop."""
        told_otherwise = registry.no_thinking(self.db) != self.models.no_thinking
        return self.run.stopped or told_otherwise or registry.serving(self.db).version != self.serving.version

    def stock(self) -> int:
        """Comparisons by the serving policy that nobody has judged or holds."""
        return sum(stock_counts.stock_sizes(self.db, self.serving.id).values())

    def answers(self) -> int:
        """How many answers a comparison needs, as the project has it now."""
        project = project_store.project(self.db)
        return self.spec.answers or (2 if project.kind == "pair" else project.answers)

    # ------------------------------------------------------------------------------------------------ what comes next
    def work(self) -> None:
        """Answer what is asked, keep the stock full, and follow promotions until told to stop."""
        filling = True
        while not self.run.stopped:
            if self.outdated():
                self.follow_promotion()
                filling = True
            self.answer_asked()
            wanted = max(1, self.spec.stock // 4) if training(self.run) else self.spec.stock
            stock = self.stock()
            self.fit_heads(stock)
            # A batch costs less than its parts: wait until a quarter of the stock is gone, then fill it up.
            filling = stock < wanted and (filling or wanted - stock >= max(1, wanted // 4))
            batch = self.next_batch(wanted - stock, stock) if filling else []
            if batch:
                self.draw_batch(batch, stock)
            elif self.spec.until_full:
                return
            else:
                self.rest(IDLE_SECONDS)

    def draw_batch(self, batch: Sequence[Task], stock: int) -> None:
        """Draw comparisons, before people's eyes while they have nothing to judge, and say that there are some."""
        # After answers that came out the same before people's eyes, the next are drawn unseen, with some to spare.
        watched = not (stock or self._fruitless or stock_counts.waiting_elsewhere(self.db, self.serving.id))
        new = self.write(batch, self.stopped_after_asked).count("ready") if watched else self.draw_unseen(batch, stock)
        if not new and self.outdated():  # it was broken off
            return
        self.made += new
        self._fruitless = not new
        self.run.report(self.made, 0, {}, _("It has written answers to compare.") if new or watched else "")
        if not (new or watched):
            too_few = _("Too few different answers: {wanted} are wanted for each prompt.").format(wanted=self.answers())
            self.run.explain("too-few-answers", too_few)
        if self._fruitless and not watched:
            # Nothing but empty or equal answers: a policy that has collapsed must not take all the processors.
            self.rest(NO_PROGRESS_SECONDS)

    def rest(self, seconds: float) -> None:
        """Draw nothing for a while, but for what people ask."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.outdated():
            self.answer_asked()
            time.sleep(GLANCE_SECONDS)

    def next_batch(self, missing: int, stock: int) -> list[Task]:
        """The prompts to answer next; few while nobody has anything to judge."""
        room = self.spec.prompts_per_batch if stock else max(1, self.spec.prompts_per_batch // 6)
        shares = next_splits(stock_counts.comparison_counts(self.db), min(missing, room))
        return [task for split, count in shares.items() for task in self.tasks(split, count)]

    def tasks(self, split: Split, count: int) -> list[Task]:
        """Prompts of a split that the model takes, those compared least often first."""
        while True:
            refused_before = len(self._refused)
            found = prompt_store.prompts_to_answer(self.db, self.serving.id, split, count, self._refused)
            taken = [(self.task(prompt, attempts), chance) for prompt, attempts, chance in found]
            made = [replace(task, chance=chance) for task, chance in taken if task is not None]
            if made or len(self._refused) == refused_before:
                return made

    def task(self, prompt: Prompt, attempts: int, asked: int | None = None) -> Task | None:
        """A prompt with the text to feed; None if the model can't be given it, which is remembered."""
        try:
            text = self.models.feed(prompt.messages, self.spec.sampling.max_new_tokens, self.serving)
        except UserError as error:
            self._refused.add(prompt.id)
            if str(len(self._refused)).strip("0") == "1":  # an import may have brought thousands
                self.run.log(f"prompts that can't be answered: {len(self._refused)}, the last is {prompt.id}: {error}")
            return None
        return Task(prompt, text, attempts, asked)

    # ------------------------------------------------------------------------------------------------- the playground
    def answer_chats(self) -> None:
        """Answer the chats that are waiting, then compute as the policy that serves again.

        Also called between two tokens of a draw, which goes on afterwards from where it was.
        """
        if self._chatting or time.monotonic() - self._glanced < GLANCE_SECONDS:
            return
        self._chatting, answered = True, False
        try:
            while not self.run.stopped and (waiting := playground_store.next_asked(self.db)):
                self.answer_together(waiting)
                answered = True
            if answered:
                self.model = self.models.use(self.serving)
        finally:
            self._chatting, self._glanced = False, time.monotonic()

    def answer_together(self, waiting: Sequence[Chat]) -> None:
        """Answer chats with the policy that they ask for, in one batch; those that it can't take say why."""
        taken = playground_store.begin(self.db, [chat.id for chat in waiting])
        if not taken:
            return
        try:
            model = self.use_lately(waiting[0].model_id)
            begun = [chat for chat in waiting if chat.id in taken]
            rendered = [entry for chat in begun if (entry := self.rendered(chat)) is not None]
            if rendered:
                self.chat(model, rendered)
        except UserError as error:
            playground_store.fail(self.db, taken, str(error))
        finally:
            # Which changes nothing of those that have ended.
            playground_store.fail(self.db, taken, playground_store.BROKEN_OFF)

    def use_lately(self, model_id: int) -> Any:
        """The model that computes as another policy, which stays in memory while there is room."""
        policy = registry.by_id(self.db, model_id)
        self.make_room([policy, *(other for other in self._lately if other.id != policy.id)])
        return self.models.use(policy)

    def rendered(self, chat: Chat) -> tuple[Chat, str] | None:
        """A chat with the text to feed; None where the model can't be given it, which is said in its row."""
        try:
            policy = registry.by_id(self.db, chat.model_id)
            return chat, self.models.feed(chat.messages, chat.sampling.max_new_tokens, policy)
        except UserError as error:
            playground_store.fail(self.db, [chat.id], str(error))
            return None

    def chat(self, model: Any, rendered: Sequence[tuple[Chat, str]]) -> None:
        """Draw the answers before people's eyes, each until it ends or somebody stops it."""
        watched = ActiveChats(self.run, self.models.tokenizer, rendered)
        texts, seeds = [text for _, text in rendered], [[chat.seed] for chat, _ in rendered]
        sampling, tokenizer = rendered[0][0].sampling, self.models.tokenizer
        draws = draw(model, tokenizer, texts, seeds, sampling, watched.ended, watched.show, CHAT_SECONDS)
        for (chat, text), (one,) in zip(rendered, draws, strict=False):  # none where nobody waits any more
            answer = FinishedAnswer(
                text=one.text,
                rendered_prompt=text,
                prompt_tokens=one.prompt_tokens,
                tokens=one.tokens,
                finish_reason=one.finish_reason,
                token_ids=one.token_ids,
            )
            playground_store.finish(self.db, chat.id, answer)

    # --------------------------------------------------------------------------------------------- what annotators ask
    def answer_asked(self) -> None:
        """Answer chats, then the prompts that annotators have asked, oldest first, while they watch.

        Also called between two tokens of a draw, which goes on afterwards from where it was.
        """
        self.answer_chats()
        if self._answering or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._answering = True
        try:
            while not self.outdated() and (waiting := own_prompts.asked(self.db)):
                self.answer_one(*waiting[0])
        finally:
            self._answering, self._looked = False, time.monotonic()

    def answer_one(self, comparison_id: int, prompt: Prompt) -> None:
        """Answer one of them, again with other seeds while the answers come out the same or empty."""
        task = self.task(prompt, stock_counts.attempts(self.db, self.serving.id, prompt.id), comparison_id)
        if task is None:
            own_prompts.refuse_asked(self.db, comparison_id)
            return
        states = self.write([task], self.stopped_after_chats)
        for _redraw in range(REDRAWS):
            if states != ["dropped"]:
                break
            comparison_id = own_prompts.ask_again(self.db, comparison_id)
            drawn = stock_counts.attempts(self.db, self.serving.id, prompt.id)
            states = self.write([replace(task, attempts=drawn, asked=comparison_id)], self.stopped_after_chats)
        self.made += states.count("ready")

    def stopped_after_chats(self) -> bool:
        """Between two tokens: first the chats that have come meanwhile; then whether the worker is to stop."""
        self.answer_chats()
        return self.run.stopped

    def stopped_after_asked(self) -> bool:
        """Between two tokens: first what people have asked meanwhile; then whether the worker is to stop."""
        self.answer_asked()
        return self.run.stopped

    def outdated_after_asked(self) -> bool:
        """Between two tokens: first what people have asked meanwhile; then whether to go no further."""
        self.answer_asked()
        return self.outdated()

    # -------------------------------------------------------------------------------------------------------- choosing
    def may_choose(self, stock: int) -> bool:
        """Whether answers may be chosen: not while people could come to wait for the time that it takes."""
        wanted = self.choice.share > 0 and self.answers() < DRAWN
        return wanted and stock >= max(1, self.spec.stock // 2) and not training(self.run)

    def fit_heads(self, stock: int) -> None:
        """Let the heads that choose answers learn from new judgements, when it is time."""
        if not (self.may_choose(stock) and self.choice.due(self.serving)):
            return
        self.choice.renew(self.serving, self.outdated_between_states)
        self.model = self.models.use(self.serving)
        self.run.log(self.choice.state)

    def outdated_between_states(self) -> bool:
        """Between two passes without an adapter: serve whoever waits as the policy that serves; whether to go on."""
        self.model = self.models.use(self.serving)
        return self.outdated_after_asked()

    def chosen(self, task: Task, drawn: Sequence[Draw], wanted: int) -> ChosenAnswers | None:
        """Which of the answers drawn to a prompt are compared; None for the first that differ."""
        if len(drawn) < DRAWN or task.prompt.split != "train":
            return None
        try:
            return self.choice.choose(self.serving, task.text, drawn, wanted)
        finally:
            self.model = self.models.use(self.serving)

    # -------------------------------------------------------------------------------------------------------- drawing
    def draw_unseen(self, batch: Sequence[Task], stock: int) -> int:
        """Draw answers, some to spare or to choose from, and store the comparisons that they give; returns how many."""
        wanted, made = self.answers(), 0
        choosing = self.choice.heads_MH is not None and self.may_choose(stock)
        draws = self.draw(batch, DRAWN if choosing else wanted + self.spec.spare, self.outdated_after_asked)
        for task, group in zip(batch, draws, strict=False):
            if choosing:
                self.answer_asked()
            chosen = self.chosen(task, group, wanted) if choosing else None
            answers = [self.response(task, drawn) for drawn in group]
            made += comparison_store.add_comparison(self.db, answers, wanted, task.chance, chosen) is not None
        return made

    def write(self, batch: Sequence[Task], stop: Callable[[], bool]) -> list[str]:
        """Draw answers in comparisons that people can watch; returns how each of them ended.

        A promotion does not break them off: those who watch get the answers that were begun. What is broken off when
        the worker is stopped, or fails, is marked as failed.
        """
        begun: list[tuple[Task, int, list[int]]] = []
        count = self.answers()
        try:
            for task in batch:
                begun += self.begin(task, count)
            if not begun:
                return []
            answer_ids = [ids for _, _, ids in begun]
            draws = self.draw([task for task, _, _ in begun], count, stop, lambda texts: self.show(answer_ids, texts))
            return [
                comparison_store.finish_answers(
                    self.db,
                    comparison_id,
                    {number: self.response(task, drawn) for number, drawn in zip(ids, group, strict=True)},
                )
                for (task, comparison_id, ids), group in zip(begun, draws, strict=False)
            ]
        finally:
            for _, comparison_id, _ in begun:
                comparison_store.fail_answers(self.db, comparison_id)  # changes nothing of one that has ended

    def begin(self, task: Task, count: int) -> list[tuple[Task, int, list[int]]]:
        """Put empty answers where people can see them grow; none if another worker has taken what was asked."""
        blank = [self.response(task, undrawn(seed)) for seed in self.seeds(task, count)]
        with self.db.transaction():
            if task.asked is not None and task.asked not in {waiting for waiting, _ in own_prompts.asked(self.db)}:
                return []
            return [(task, *comparison_store.begin_answers(self.db, blank, task.asked, task.chance))]

    def show(self, answer_ids: Sequence[Sequence[int]], texts: Sequence[Sequence[str]]) -> None:
        numbers = (number for ids in answer_ids for number in ids)
        comparison_store.update_answers(
            self.db, dict(zip(numbers, (text for row in texts for text in row), strict=True))
        )

    def draw(
        self, batch: Sequence[Task], count: int, stop: Callable[[], bool], written: Written | None = None
    ) -> list[list[Draw]]:
        """`count` draws to each prompt; none if it was stopped."""
        seeds = [self.seeds(task, count) for task in batch]
        texts = [task.text for task in batch]
        return draw(self.model, self.models.tokenizer, texts, seeds, self.spec.sampling, stop, written)

    def seeds(self, task: Task, count: int) -> list[int]:
        return [seed_of(self.spec.seed, task.prompt.id, task.attempts + index) for index in range(count)]

    def response(self, task: Task, drawn: Draw) -> Response:
        return drawn.response(task.prompt, self.serving, task.text, self.spec.sampling)


class ActiveChats:
    """Chats that are being answered: what is written of them is shown, and those that people stop are ended."""

    def __init__(self, run: Run, tokenizer: Any, rendered: Sequence[tuple[Chat, str]]) -> None:
        self.run, self.db, self.tokenizer = run, run.db, tokenizer
        self.rendered = {chat.id: text for chat, text in rendered}
        self.texts = dict.fromkeys(self.rendered, "")

    def show(self, texts: Sequence[Sequence[str]]) -> None:
        self.texts = {chat_id: text for chat_id, (text,) in zip(self.rendered, texts, strict=True)}
        playground_store.show(self.db, self.texts)

    def ended(self) -> bool:
        """Between two tokens: end the chats that people have stopped, as they saw them; whether no more is wanted."""
        states = playground_store.states(self.db, list(self.rendered))
        for chat_id in (chat_id for chat_id, state in states.items() if state == "stopping"):
            written, text = self.texts[chat_id], self.rendered[chat_id]
            with tokenizing():  # whatever it has written: only counted
                tokens, prompt_tokens = map(len, self.tokenizer([written, text], add_special_tokens=False)["input_ids"])
            answer = FinishedAnswer(
                text=written, rendered_prompt=text, prompt_tokens=prompt_tokens, tokens=tokens, finish_reason="stopped"
            )
            playground_store.finish(self.db, chat_id, answer)
        return self.run.stopped or "writing" not in states.values()


def policies_to_keep(serving: Policy, asked: Sequence[Policy]) -> list[Policy]:
    """Which policies stay in memory beside the one that serves: the first ones, on at most one other set of weights.

    An adapter is small, weights are not.
    """
    others = [policy for policy in asked if policy.id != serving.id]
    keys = [key for policy in others if (key := ground_key(policy)) != ground_key(serving)]
    return [policy for policy in others if ground_key(policy) in (ground_key(serving), *keys[:1])][:KEPT_POLICIES]


def training(run: Run) -> bool:
    """Whether a training or a check wants the processors: then a small stock is enough."""
    return any(job.status == "running" for job in job_store.at_work(run.db))


def next_splits(made: Mapping[Split, int], count: int) -> dict[Split, int]:
    """How many of the next `count` comparisons go to each split that has prompts: one in six of all is held out."""
    so_far = dict(made)
    for _place in range(count if made else 0):
        total = sum(so_far.values()) + 1
        held_out_due = so_far.get("held-out", total) < int(total * HELD_OUT_SHARE)
        split: Split = "held-out" if held_out_due or "train" not in so_far else "train"
        so_far[split] += 1
    return {split: so_far[split] - made[split] for split in so_far}


def seed_of(start: int, prompt_id: int, attempt: int) -> int:
    """A seed that no other answer of the stream has (up to 100,000 answers a prompt)."""
    return (start * 1_000_003 + prompt_id) * 100_000 + attempt
