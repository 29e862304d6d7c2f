"""The vocabulary of the annotation side: frozen records, parsed once at the edge, and the error people are shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Interval, Unit

from annotation.translation import N_, _

Split = Literal["train", "held-out"]
Role = Literal["annotator", "admin"]
Outcome = Literal["ranked", "all-bad", "skip", "undone"]
Kind = Literal["pair", "best", "rank"]
Purpose = Literal["own", "gold", "re-ask", "settle", "import", "judge"]
AnnotatorKind = Literal["person", "ai", "import"]
ResponseState = Literal["writing", "done", "failed"]
ComparisonState = Literal["asked", "writing", "ready", "failed", "dropped", "withdrawn", "closed"]
ClaimState = Literal["held", "judged", "skipped", "released"]
Asks = Literal["people", "judges", "nobody"]
AsksWhy = Literal["audit", "flip", "disagreement", "unsure"]
Flag = Literal["harmful", "personal-data", "broken"]
Message = Mapping[str, str]

ROLES: tuple[Role, ...] = ("annotator", "admin")
STRENGTHS: Mapping[int, str] = {0: "tie", 1: "slightly", 2: "clearly", 3: "much"}
MAXIMUM_ANSWERS = 8
MAXIMUM_SHARE: Final = 0.5
MAXIMUM_MINUTES: Final = 1440
MAXIMUM_TARGET: Final = 10_000
MAXIMUM_NOTE = 4_000
MAXIMUM_EDIT = 20_000


class UserError(Exception):
    """Something a person can mend. The message says what is wrong, where, and what to do about it."""


@contextmanager
def explain_errors(sentence: str, *also: type[Exception], **gaps: object) -> Iterator[None]:
    """Turn what the system refuses, and errors of other kinds, into a UserError; {error} and {strerror} are filled."""
    kinds: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except kinds as error:
        strerror = getattr(error, "strerror", None) or error
        raise UserError(sentence.format(**gaps, error=error, strerror=strerror)) from error


ONLY_ADMINS = N_("Only an admin may do this. Ask one of them.")


def who(name: str) -> str:
    """Who did something, as it is shown: people by their names, which have no blanks; what acts by itself in words."""
    return _(name) if " " in name else name


def counted_up(name: str) -> list[str | int]:
    """What names are sorted by, upper and lower case alike, so that pupil-2 stands before pupil-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.casefold())]


def now() -> str:
    """The current time as ISO 8601 text in UTC; fixed width, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def ancestors_of(parents: Mapping[int, int | None], model_id: int) -> list[int]:
    """The ids of what a model grew from, nearest first; `parents` has each model's own."""
    found: list[int] = []
    parent = parents.get(model_id)
    while parent is not None and parent not in found:  # rows that were written by hand may go round in circles
        found.append(parent)
        parent = parents.get(parent)
    return found


def is_time(text: str) -> bool:
    """Whether it is a moment as `now` writes it, so that the order of texts is the order of times."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return False
    return moment.tzinfo == UTC and moment.isoformat(timespec="microseconds") == text


def seconds_between(earlier: str, later: str) -> float:
    """Seconds from one `now()` text to another."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with the user's turn. What was used once stays in its split for ever."""

    messages: tuple[Message, ...]
    split: Split
    source: str
    id: int = 0

    @property
    def text(self) -> str:
        """The last turn: what a person reads as the question."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Sampling:
    """How an answer was drawn. `min_p` keeps tokens of at least that share of the likeliest (Nguyen et al., 2024)."""

    temperature: Annotated[float, Gt(0)] = 1.0
    min_p: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    max_new_tokens: Annotated[int, Gt(0)] = 96
    sampler: Literal[1, 2] = 2
    """How random numbers become tokens. 1, which is no more, drew noise for each token of the vocabulary."""

    @classmethod
    def from_json(cls, text: str) -> Sampling:
        return cls(**{"sampler": 1, **json.loads(text)})


@dataclass(frozen=True)
class TokenIds:
    """The tokens of an answer as they were drawn, the one that ended it included; one that was cut off has no such.

    The same text can be made of other tokens: its own are what the policy gave its probabilities to.
    """

    vocabulary: str
    """A hash of the tokenizer's vocabulary: in any other the numbers mean something else."""
    ids: tuple[int, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TokenIds:
        return cls(values["vocabulary"], tuple(values["ids"]))


def read_token_ids(stored: str | None) -> TokenIds | None:
    """The column of an answer; None for what no policy here drew, and for what was drawn before ids were kept."""
    return None if stored is None else TokenIds.from_json(json.loads(stored))


def write_token_ids(token_ids: TokenIds | None) -> str | None:
    return None if token_ids is None else json.dumps(asdict(token_ids), separators=(",", ":"))


@dataclass(frozen=True)
class Response:
    """One answer with everything needed to draw it again: policy, sampling, seed and the exact text it was fed."""

    prompt_id: int
    model_id: int
    text: str
    sampling: Sampling
    seed: int
    rendered_prompt: str
    prompt_tokens: int
    tokens: int
    finish_reason: Literal["stop", "length"]
    id: int = 0
    token_ids: TokenIds | None = None
    """None where they are unknown: then the text is tokenised."""
    precision: str = ""
    """Precision of the weights that drew it; empty for that of its policy."""


@dataclass(frozen=True)
class CheckedAnswer(Response):
    """An answer to a held-out prompt, with that prompt and what scorers say, from which a check takes its figures."""

    messages: tuple[Message, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    token_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of those that were kept token by token, what the score is the mean of; earlier versions kept none."""


ChosenBy = Literal["random", "heads", "person"]


@dataclass(frozen=True)
class ChosenAnswers:
    """Which of the answers that were drawn are compared (`places` among them), what chose them, and by what chance."""

    places: tuple[int, ...]
    by: ChosenBy
    chance: float


@dataclass(frozen=True)
class Annotator:
    id: int
    name: str
    role: Role
    language: str | None = None
    """The code of the one that they have chosen, or their browser asked for; None: the server's until they sign in."""


# ---------------------------------------------------------------------------------------------------------- project
@dataclass(frozen=True)
class Tag:
    """A reason that can be given with a judgement, and the letter that switches it."""

    key: str
    label: str


PERCENT: Final = Unit("%")
SmallShare = Annotated[float, Interval(ge=0, le=MAXIMUM_SHARE), PERCENT]


@dataclass(frozen=True)
class Project:
    """What is asked of annotators, and of how many; kept as one setting, edited on the Project tab."""

    kind: Annotated[Kind, N_("What is asked")] = "pair"
    """Two answers with a strength, the best of several, or a ranking of several."""
    answers: Annotated[int, Interval(ge=2, le=MAXIMUM_ANSWERS), N_("Number of answers")] = 2
    """Answers in a comparison; 2 for pairs, 2 to 8 for the others."""
    overlap: Annotated[int, Ge(1), N_("Annotators for each comparison")] = 1
    """Annotators for each comparison."""
    claim_minutes: Annotated[int, Interval(ge=1, le=MAXIMUM_MINUTES), N_("Minutes to judge")] = 20
    """Minutes until a comparison in somebody's hands returns to the pool."""
    gold_share: Annotated[SmallShare, N_("Gold comparisons, %")] = 0.05
    """Share of gold comparisons (with a known answer), as long as there are some that the annotator has not seen."""
    re_ask_share: Annotated[SmallShare, N_("Re-asks, %")] = 0.05
    """Share of an annotator's own earlier comparisons, shown again in another order."""
    candidate_share: Annotated[SmallShare, N_("Candidate against serving, %")] = 0.2
    """Share of comparisons of a candidate's answers with those of the policy that serves, while there are some."""
    doubt_share: Annotated[SmallShare, N_("Answers chosen by doubt, %")] = 0.0
    """Share of comparisons that show those of eight answers of which it is least known what people prefer; the others
    show answers at random. It takes more drawing, and stops by itself where more than 15% of labels seem wrong."""
    daily_target: Annotated[int, Interval(ge=0, le=MAXIMUM_TARGET), N_("Judgements a day")] = 30
    """What each annotator sees as the day's target; 0 for none."""
    rendered: Annotated[bool | None, N_("First view")] = None
    """Whether answers are first shown as rendered Markdown rather than literally; each annotator can switch. Without a
    choice they are where something of a comparison has Markdown's marks."""
    own_prompts: Annotated[bool, N_("Annotators may write prompts of their own")] = True
    """Whether annotators may write prompts of their own."""
    tags: tuple[Tag, ...] = (
        Tag("a", N_("accurate")),
        Tag("c", N_("clear")),
        Tag("t", N_("right tone")),
        Tag("l", N_("right length")),
        Tag("i", N_("follows the instruction")),
    )
    """Reasons that can be given with a judgement."""


@dataclass(frozen=True)
class Feedback:
    """Who judges: people, AI judges, or judges first and people where these are not enough; kept as one setting."""

    mode: Literal["people", "ai", "mixed"] = "people"
    """'people' only; 'ai' only (RLAIF); 'mixed': people get what judges disagree on, flip on or are unsure of."""
    audit_share: float = 0.1
    """Of what judges label when mixed, the share that people judge too, to see whether the judges can be trusted."""
    unsure_below: float = 0.6
    """A judge whose probability for its choice is lower is unsure."""
    check_share: float = 0.25
    """Of what a check compares for the gate, the least share that people get, by lot, where judges compare it all."""


# -------------------------------------------------------------------------------------------------- claims, judgements
@dataclass(frozen=True)
class ShownAnswer:
    """An answer as an annotator sees it. One being written grows; one that failed can't be judged."""

    text: str
    state: ResponseState = "done"


@dataclass(frozen=True)
class Claim:
    """A comparison in one annotator's hands: `shown_order[i]` is the position of the answer shown in place i."""

    nonce: str
    comparison_id: int
    annotator_id: int
    purpose: Purpose
    kind: Kind
    guidelines_version: int | None
    shown_order: tuple[int, ...]
    messages: tuple[Message, ...]
    answers: tuple[ShownAnswer, ...]
    comparison_state: ComparisonState = "ready"

    @property
    def shown(self) -> tuple[ShownAnswer, ...]:
        return tuple(self.answers[position] for position in self.shown_order)


@dataclass(frozen=True)
class Edit:
    """An edited answer: `place` is where its original was shown."""

    place: int
    text: str


@dataclass(frozen=True)
class Act:
    """What an annotator did with a shown comparison. `ranks[i]` ranks the answer in place i (1 is best, ties equal)."""

    outcome: Literal["ranked", "all-bad", "skip"]
    ranks: tuple[int, ...] | None = None
    strength: int | None = None
    tags: tuple[str, ...] = ()
    note: str = ""
    flag: Flag | None = None
    edit: Edit | None = None

    def ranking(self, shown_order: Sequence[int]) -> tuple[int, ...] | None:
        """The ranks by the answers' positions instead of the places in which they were shown."""
        if self.ranks is None:
            return None
        by_position = [0] * len(shown_order)
        for place, position in enumerate(shown_order):
            by_position[position] = self.ranks[place]
        return tuple(by_position)


def storable(text: str) -> str:
    """A text without halves of surrogate pairs: JSON can carry them, and neither SQLite nor a file in UTF-8 can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer of a judged comparison; what no policy drew has neither policy nor counts of tokens."""

    id: int
    text: str
    origin: str
    model_id: int | None = None
    revision: str | None = None
    finish_reason: str | None = None
    tokens: int | None = None
    prompt_tokens: int | None = None
    rendered_prompt: str | None = None
    edited_from: int | None = None
    """Of a person's edited version: the id of the original."""
    token_ids: TokenIds | None = None
    """Only where they are asked for."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> JudgedAnswer:
        """One as the store's queries write it."""
        stored = values.get("token_ids")
        return cls(**{**values, "token_ids": None if stored is None else TokenIds.from_json(stored)})


@dataclass(frozen=True)
class Judgement:
    """A current judgement with what was judged: the raw material of training data, exports and figures."""

    id: int
    comparison_id: int
    prompt_id: int
    split: Split
    messages: tuple[Message, ...]
    annotator: str
    annotator_kind: AnnotatorKind
    purpose: Purpose
    kind: Kind
    outcome: Outcome
    ranking: tuple[int, ...] | None
    """By position in `responses`: 1 is best, ties equal. Of a 'best' judgement: 1 for the chosen, 2 for the others."""
    strength: int | None
    responses: tuple[JudgedAnswer, ...]
    """By position."""
    shown_order: tuple[int, ...]
    edited: JudgedAnswer | None
    tags: tuple[str, ...]
    note: str
    flag: Flag | None
    early: bool
    guidelines_version: int | None
    seconds: float | None
    created: str
    formed_chance: float | None = None
    """The chances of `annotation.selection`: of its comparison, that it was made, and that people were to get it; and
    that this annotator was shown it then. None is unknown."""
    people_chance: float | None = None
    shown_chance: float | None = None
    answers_by: ChosenBy | None = None
    """What chose the answers of its comparison, and with what chance these; None is unknown."""
    answers_chance: float | None = None


@dataclass(frozen=True)
class Demonstration:
    """An answer that a person wrote or that was imported as an example to learn from, without a comparison."""

    id: int
    prompt_id: int
    split: Split
    messages: tuple[Message, ...]
    text: str
    origin: Literal["person", "import"]
    annotator: str | None
    created: str
