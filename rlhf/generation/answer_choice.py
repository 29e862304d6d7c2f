"""Which of the answers drawn to a prompt are compared: in a share of comparisons those that small heads disagree on.

More answers are drawn than shown, which costs little beside drawing those alone. What was judged lately, by people or
AI judges, is learnt by an ensemble of heads on the states of the weights under the policies, so that what is known of
an answer holds through promotions. Prompts are never chosen: they come as evenly as without, and held-out ones get no
chosen answers, because every later policy is measured on them. What was measured: `benchmarks.acts`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from annotation.database import Database
from annotation.records import ChosenAnswers
from annotation.selection import choose_answers
from annotation.store import comparison_store, judgement_store, project_store
from rlhf.data import label_noise, snapshots
from rlhf.models.hidden_states import mean_states
from rlhf.models.loading.loaded_policies import LoadedPolicies, ground_key
from rlhf.models.orders.heads import DEPTH, StateScale, ensemble, rankings_of, votes
from rlhf.models.registry import Policy
from rlhf.models.sampling.drawing import Draw
from rlhf.models.tokenise import TokenisedComparison, text_ids, tokenise_comparisons

# So many answers are drawn to a prompt where some of them are to be chosen.
DRAWN: Final = 8
# Before the first judgements heads know nothing; they are fitted anew after as many again, at most so many more.
FIRST_JUDGEMENTS, FURTHER_JUDGEMENTS = 10, 20
# Of the worker's time, what fitting them may take.
MOST_TIME = 0.05
# The comparisons that heads learn from, those judged last: more would take longer than seconds.
MOST_LEARNT = 120
# Where so many labels are wrong, heads disagree on what people do not know either.
MOST_WRONG: Final = 0.15
# Tokens of prompt and answer: heads learn from no longer ones.
LONGEST = 2048
# Answers whose states are computed together; between them whoever waits for an answer is served.
STATES_TOGETHER = 16
# States that are remembered, of answers that were drawn and that may be judged later.
MOST_REMEMBERED = 2048

# Token ids of a prompt and an answer.
Answer = tuple[tuple[int, ...], tuple[int, ...]]
# Serves whoever waits; whether to go no further.
Pause = Callable[[], bool]


class AnswerChoice:
    """The heads of one answering worker, and what they are fitted to."""

    def __init__(self, db: Database, models: LoadedPolicies, source: random.Random | None = None) -> None:
        self.db, self.models, self.source = db, models, source or random.SystemRandom()
        self.heads_MH: Tensor | None = None
        self.scale: StateScale | None = None
        self.judged = 0
        """The last judgement when the heads were fitted, or were found to be of no use."""
        self._ground: Any = None
        self._renewed = self._took = 0.0
        self._states: dict[Answer, Tensor] = {}

    @property
    def share(self) -> float:
        """In which share of comparisons heads choose the answers, as the project has it now."""
        return project_store.project(self.db).doubt_share

    @property
    def state(self) -> str:
        """How the heads are, for the worker's log."""
        fitted = "no heads" if self.heads_MH is None else f"{len(self.heads_MH)} heads"
        return f"answers are chosen by {fitted}, after {self._took:.1f} s"

    def due(self, policy: Policy) -> bool:
        """Whether so much was judged since the heads were fitted, or they are of other weights, that it is time."""
        if time.monotonic() - self._renewed < self._took / MOST_TIME:
            return False
        last = judgement_store.newest_judgement(self.db)
        grown = last - self.judged >= min(self.judged, FURTHER_JUDGEMENTS)
        return last >= FIRST_JUDGEMENTS and (grown or self._ground != ground_key(policy))

    def renew(self, policy: Policy, pause: Pause) -> None:
        """Fit the heads to what was judged lately; to none where too many of their labels are wrong.

        Leaves the weights under the policy active, without its adapter, whenever it pauses or ends.
        """
        begun = time.monotonic()
        if self._ground != ground_key(policy):
            self._ground, self._states, self.heads_MH = ground_key(policy), {}, None
        last, items = judgement_store.newest_judgement(self.db), self.judged_items(policy)
        answers = [[(tuple(item["prompt_ids"]), tuple(ids)) for ids in item["answers"]] for item in items]
        if not self.know({answer for group in answers for answer in group if answer[1]}, policy, pause):
            return
        self.heads_MH, self.judged = None, last
        if items:
            scale = StateScale.of(torch.stack([self._states[one] for group in answers for one in group if one[1]]))
            none_H = scale.mean_H  # no answer, which is better than those that are all bad, has the score 0
            states = [torch.stack([self._states.get(answer, none_H) for answer in group]) for group in answers]
            orders = [[(pair.better, pair.worse) for pair in item["pairs"]] for item in items]
            batch = rankings_of([scale.scaled(states_KH) for states_KH in states], orders)
            self.scale = scale
            self.heads_MH = ensemble(*batch, torch.Generator().manual_seed(last), between=pause)
        self._renewed, self._took = time.monotonic(), time.monotonic() - begun

    def judged_items(self, policy: Policy) -> list[TokenisedComparison]:
        """The comparisons to learn from, tokenised as for a training; none where too many labels are wrong."""
        rows = list(snapshots.collect(self.db, policy, "all", LONGEST, latest=MOST_LEARNT))
        noise = label_noise.noise_of(self.db, label_noise.voices_in(rows))
        if noise is not None and noise.share is not None and noise.share > MOST_WRONG:
            return []
        return tokenise_comparisons(self.models.tokenizer, rows, LONGEST)[0]

    def know(self, answers: Collection[Answer], policy: Policy, pause: Pause) -> bool:
        """Compute the states that are not known yet; False where it was to go no further."""
        missing = sorted(answer for answer in answers if answer not in self._states)
        for start in range(0, len(missing), STATES_TOGETHER):
            if pause():
                return False
            part = missing[start : start + STATES_TOGETHER]
            model = self.models.ground_of(policy).plain()
            states_BH = mean_states(model, part, self.models.tokenizer.pad_token_id, DEPTH).cpu()
            self._states |= dict(zip(part, states_BH, strict=True))
        for answer in list(self._states)[: max(0, len(self._states) - MOST_REMEMBERED)]:
            if answer not in answers:
                del self._states[answer]
        return True

    def choose(self, policy: Policy, text: str, drawn: Sequence[Draw], wanted: int) -> ChosenAnswers | None:
        """Which of the answers drawn to a prompt, whose text this is, are compared; None where there is no choice.

        Leaves the weights under the policy active, without its adapter.
        """
        reasons = comparison_store.reasons_to_drop(one.text for one in drawn)
        places = [place for place, reason in enumerate(reasons) if reason is None]
        if self.heads_MH is None or self.scale is None or len(places) <= wanted:
            return None
        prompt_ids = tuple(text_ids(self.models.tokenizer, text))
        answers = [(prompt_ids, tuple(drawn[place].ids)) for place in places]
        self.know({*answers}, policy, lambda: False)
        states_KH = self.scale.scaled(torch.stack([self._states[answer] for answer in answers]))
        chosen = choose_answers(votes(self.heads_MH, states_KH), wanted, self.share, self.source)
        return ChosenAnswers(tuple(sorted(places[place] for place in chosen.places)), chosen.by, chosen.chance)
