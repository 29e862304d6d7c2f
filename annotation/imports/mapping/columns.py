"""Columns to roles: what each can be, by its name and by what the first rows hold, and which are not used. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from typing import Any, Final

from annotation.imports.mapping.conversations import SPEAKERS, conversation, list_of
from annotation.imports.mapping.labels import (
    LETTERED,
    LONGEST_WINNER,
    SCALES,
    SIGNED,
    Columns,
    UnusableRow,
    number_of,
    plain_name,
    says_good,
    score_of,
    side_words,
    verdict_of,
    winner_reader,
    word_of,
)
from annotation.imports.sources.json_values import NotJson, parse_json
from annotation.imports.sources.raw_rows import PICTURES, SourceRow
from annotation.records import UserError
from annotation.translation import N_


def called(side: str) -> tuple[str, ...]:
    """What the better or worse answer is called together with what it is."""
    kinds = ("response", "answer", "output", "completion", "text", "messages", "conversation")
    return tuple(name for kind in kinds for name in (f"{side}_{kind}", f"{kind}_{side}"))


# Each role a column can play: what it is for, and the names by which it is recognised, likeliest first.
ROLES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "prompt": (
        N_("the question: text, messages, or a Human/Assistant transcript"),
        (
            *("prompt", "question", "instruction", "query", "problem", "input", "text", "content", "user", "history"),
            "context",
        ),
    ),
    "context": (N_("text that belongs below the prompt (Alpaca's 'input')"), ("input", "context")),
    "history": (N_("earlier turns above the prompt, as pairs of question and answer"), ("history",)),
    "system": (
        N_("the system message"),
        ("system", "system_prompt", "system_message", "system_instruction", "preprompt", "preamble"),
    ),
    "speaker": (N_("who says the prompt: rows of others than the user are left out"), ("role", "speaker")),
    "parent": (N_("the message that the prompt answers: rows that have one are left out"), ("parent_id",)),
    "messages": (
        N_("a whole conversation (role/content or from/value); as a demonstration it teaches each of its answers"),
        ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "turns"),
    ),
    "completion": (
        N_("one answer: a demonstration, or with a label a good or bad answer"),
        (
            *("completion", "response", "answer", "output", "target", "demonstration", "solution", "assistant"),
            "generation",
        ),
    ),
    "label": (
        N_("whether the completion, or the conversation's last turn, is good (KTO)"),
        (
            *("label", "labels", "kto_tag", "is_good", "good", "thumbs_up", "thumbs", "desirable", "liked", "accepted"),
            *("is_desirable", "is_correct", "is_helpful", "feedback", "vote"),
        ),
    ),
    "rating": (
        N_("how good the completion, or the conversation's last turn, is, with the number from which on it is good"),
        ("helpfulness", *SCALES, "label", "labels", "thumbs", "feedback", "vote", "votes"),
    ),
    "chosen": (
        N_("the better of two answers"),
        ("chosen", *called("chosen"), "preferred", "accepted", "response_j", "preferred_output"),
    ),
    "rejected": (
        N_("the worse of two answers"),
        (*("rejected", *called("rejected"), "dispreferred", "non_preferred", "response_k"), "non_preferred_output"),
    ),
    "status": (N_("a word beside chosen and rejected that is 'tie' where neither is better"), ("status",)),
    "a": (N_("the first of two answers"), ()),
    "b": (N_("the second of two answers"), ()),
    "winner": (
        N_("which of two answers is better: a, b, tie, both bad, or the name of its column"),
        (
            *("winner", "preference", "preferred", "better_response_id", "better", "choice", "chosen", "verdict"),
            *("label", "labels"),
        ),
    ),
    "preference": (N_("which of two answers is better by its sign: below 0 the first, above 0 the second"), SIGNED),
    "winner_from_0": (N_("the number of the best answer, where the first has 0"), ()),
    "winner_from_1": (N_("the number of the best answer, where the first has 1"), ()),
    "score_a": (N_("how good the first, or chosen, answer is: the higher the better"), ()),
    "score_b": (N_("how good the second, or rejected, answer is"), ()),
    "responses": (
        N_("a list of answers, or of objects with text and score or rank"),
        ("responses", "completions", "answers", "outputs", "candidates", "generations", "samples"),
    ),
    "scores": (N_("a list of scores, the higher the better"), ("scores", "ratings", "rewards", "score", "rating")),
    "ranks": (N_("a list of ranks, 1 is best"), ("ranks", "ranking", "rankings", "rank")),
    "order": (N_("a list of the answers' numbers, from 0 or from 1, the best answer's first"), ()),
    "outcome": (N_("a word beside ranks that is 'all-bad' where no answer is good"), ("outcome",)),
    "strength": (
        N_("how much better: 1 slightly, 2 clearly, 3 much; as a margin 1/3, 2/3, 1"),
        ("strength", "margin", "preference_strength", "degree"),
    ),
}
# Not for people to choose: columns of Prefloop's own exports, with the chances of `annotation.selection`.
CHANCES: Final[Mapping[str, tuple[str, ...]]] = {
    "formed_chance": ("formed_chance",),
    "people_chance": ("people_chance",),
    "shown_chance": ("shown_chance", "shown_chances"),
}
QUALITIES: Final = tuple(dict.fromkeys((*ROLES["label"][1], *ROLES["rating"][1])))
PAIR_STEMS: Final = (
    *("response", "answer", "output", "completion", "conversation", "text", "model_response", "human_ref", "messages"),
    *("generation", "candidate", ""),
)
PAIR_ENDS: Final = (("a", "b"), ("0", "1"), ("1", "2"), ("left", "right"))
SCORE_STEMS: Final = ("score", "rating", "reward", "winner_model")
LISTS: Final = ("messages", "responses", "scores", "ranks", "history")

# Columns that change what a row means beside those that have a role: nothing is made of them, which people must know.
TELLING: Final = frozenset(
    {
        *(alias for _, aliases in ROLES.values() for alias in aliases),
        *PICTURES,
        *("tools", "tool_calls", "functions", "function_call", "tool_choice", "split", "custom_system_prompt"),
        *("ranked", "is_winner", "edited", "flag", "deleted", "tie", "is_tie", "flipped", "swapped"),
        *(f"{word}_{side}" for word in ("score", "rating") for side in ("chosen", "rejected")),
        *(f"{side}_{word}" for word in ("score", "rating") for side in ("chosen", "rejected")),
    }
)
DEGREES: Final = {*ROLES["strength"][1]}
# How a column ends that says which of Argilla's answers to a question were sent, and which discarded.
STATUSES: Final = "_responses_status"
# Words in the names of columns that are true, or high, for bad answers.
BAD_WORDS: Final = frozenset(
    {
        *("bad", "dislike", "disliked", "rejected", "incorrect", "unhelpful", "harmful", "toxic", "toxicity", "unsafe"),
        *("downvotes", "hallucination", "undesirable", "down", "rank", "ranks", "ranking", "worse", "worst"),
        *("flag", "flagged", "wrong", "failed", "invalid", "error", "refusal", "refused", "hate", "offensive"),
    }
)
# Words in the names of columns that may say of an answer that it is bad, in whichever way: 'is_toxic', 'Rating (1-5)'.
QUALITY_WORDS: Final = frozenset(
    {
        *("label", "labels", "good", "bad", "quality", "rating", "ratings", "rated", "score", "scores", "stars"),
        *("grade", "liked", "dislike", "disliked", "thumbs", "accepted", "rejected", "chosen", "preferred", "correct"),
        *("incorrect", "correctness", "corrected", "helpful", "unhelpful", "helpfulness", "harmful", "toxic", "unsafe"),
        *("toxicity", "safe", "vote", "votes", "upvotes", "downvotes", "reward", "verdict", "evaluation", "feedback"),
        *("hallucination", "desirable", "undesirable", "rank", "ranks", "ranking", "best", "better", "worst", "worse"),
        *("winner", "preference", "flag", "flagged", "approved", "verified", "passed", "failed", "success", "valid"),
        *("invalid", "wrong", "error", "refusal", "refused", "hate", "offensive"),
    }
)
# What annotators answer about a row: no answer to a prompt, whatever its column is called.
DECISIONS: Final = ("accept", "accepted", "reject", "rejected", "ignore", "ignored")
# Words in the names of columns that may hold the prompt: 'user_prompt', 'dialogue_history'.
PROMPT_WORDS: Final = frozenset(
    {
        *("prompt", "prompts", "question", "questions", "query", "queries", "instruction", "instructions", "request"),
        *("input", "inputs", "history", "context", "dialogue", "dialog", "conversation", "messages", "chat", "problem"),
        *("task", "user", "post"),
    }
)
LIKELY_WORDS: Final = 4
EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})
MAXIMUM_KNOWN: Final = 1_000


# ---------------------------------------------------------------------------------------------------------- proposing
def columns_of(rows: Sequence[SourceRow]) -> list[str]:
    """All columns that the rows have, in the order in which they are met."""
    return list(dict.fromkeys(str(column) for row in rows for column in row.values))


def filled_columns(rows: Sequence[SourceRow]) -> list[str]:
    return [column for column in columns_of(rows) if any(row.values.get(column) not in EMPTY for row in rows)]


def propose(rows: Sequence[SourceRow], said: Columns | None = None) -> dict[str, str]:
    """Roles for the columns of some first rows, by their names and what they hold; the likeliest shape decides.

    `said` gives columns to roles, or '' to leave a role out: the shape is one that has these.
    """
    said = said or {}
    held = {role: column for role, column in said.items() if column}
    names = {plain_name(column): column for column in reversed(columns_of(rows)) if column not in held.values()}
    found = likeliest(rows, names, said) | held
    return {role: column for role, column in found.items() if said.get(role, column)}


def likeliest(rows: Sequence[SourceRow], names: Mapping[str, str], said: Columns) -> dict[str, str]:
    """The roles of the likeliest shape, by the columns' plain names; those that are said come first."""
    lists = {column for column in names.values() if holds_lists(rows, column)}
    found = (names[alias] for alias in SIGNED if alias in names)
    signed = {one for one in found if any(number_of(row.values.get(one)) is not None for row in rows)}
    asks = names.get("user") if "assistant" in names else None  # else it may be who asks, by name

    def find(role: str, taken: Iterable[str] = ()) -> dict[str, str]:
        if role in said:
            return {role: said[role]} if said[role] else {}
        wanted = sorted((names[alias] for alias in ROLES[role][1] if alias in names), key=lambda column: column != asks)
        fitting = [column for column in wanted if column not in taken and (role not in LISTS or column in lists)]
        fitting = [column for column in fitting if role != "preference" or column in signed]
        return {role: fitting[0]} if fitting else {}

    chances = {role: names[name] for role, known in CHANCES.items() for name in known if name in names}
    alike = {} if said.keys() & {"chosen", "rejected"} else find_chosen(names)
    chosen = alike or find("chosen") | find("rejected")
    ends, pair = said_pair(said) or find_pair(names)
    responses = find("responses")
    question = ("prompt" not in said and find_question(rows, find("messages"))) or find("prompt")
    question |= find("history", question.values()) if "prompt" in question else {}
    question |= find("system")
    if plain_name(question.get("prompt", "")) == "instruction":
        question |= find("context")
    if len(chosen) == 2 and (said.get("chosen") or not names_best(rows, chosen["chosen"], pair, responses)):
        scores = find_scores(rows, names, ("chosen", "rejected"))
        return without_columns(question, chosen) | chosen | find("strength") | scores | find("status") | chances
    if pair:
        question = without_columns(question, pair)
        taken = [*pair.values(), *question.values()]
        numbers = find("preference", taken) or find_scores(rows, names, ends)
        winner = find("winner", taken)
        if winner and ("winner" in said or not numbers or names_one(rows, pair | winner)):
            return question | pair | winner | find("strength", taken) | chances
        return question | pair | (numbers or find("strength", taken)) | chances
    if responses:
        judged = find("outcome") and find("outcome") | find("strength")
        given = find("scores") or find("ranks") or (find("winner") if hold_texts(rows, responses["responses"]) else {})
        return without_columns(question, responses) | responses | given | judged | chances
    messages = find("messages")
    if messages and "messages" not in question:
        return messages | find("system") | find_quality(rows, names, messages.values(), said)
    decisions = [column for column in names.values() if holds_decisions(rows, column)]
    completion = find("completion", [*question.values(), *decisions])
    if completion:
        return question | completion | find_quality(rows, names, [*question.values(), *completion.values()], said)
    return question | find_speaker(rows, question, find("speaker"), find("parent"))


def find_question(rows: Sequence[SourceRow], messages: dict[str, str]) -> dict[str, str]:
    """A column of conversations, where most end with the user: it is the whole prompt, a mere text beside it less."""
    ends = []
    for row in rows if messages else ():
        with suppress(UnusableRow):
            ends.append(conversation(row.values.get(messages["messages"]), messages["messages"])[-1]["role"])
    return messages if ends.count("user") > ends.count("assistant") else {}


def said_pair(said: Columns) -> tuple[tuple[str, str], dict[str, str]] | None:
    """The columns that a person has named as the two answers, and what their names end with; None without both."""
    if not said.get("a") or not said.get("b"):
        return None
    a, b = plain_name(said["a"]), plain_name(said["b"])
    ends = next((ends for ends in PAIR_ENDS if a.endswith(ends[0]) and b.endswith(ends[1])), PAIR_ENDS[0])
    return ends, {"a": said["a"], "b": said["b"]}


def find_pair(names: Mapping[str, str]) -> tuple[tuple[str, str], dict[str, str]]:
    """Two columns with the two answers of a comparison, and what their names end with."""
    for stem in PAIR_STEMS:
        for ends in PAIR_ENDS:
            for joint in ("_", "") if stem else ("",):
                a, b = f"{stem}{joint}{ends[0]}", f"{stem}{joint}{ends[1]}"
                if a in names and b in names and (stem or ends[0] == "a"):
                    return ends, {"a": names[a], "b": names[b]}
    return ("", ""), {}


def find_chosen(names: Mapping[str, str]) -> dict[str, str]:
    """The better and the worse answer, called alike: 'chosen_text' beside 'rejected_text', and no mere 'chosen'."""
    for better in ROLES["chosen"][1]:
        worse = better.replace("chosen", "rejected")
        if worse != better and better in names and worse in names:
            return {"chosen": names[better], "rejected": names[worse]}
    return {}


def find_scores(rows: Sequence[SourceRow], names: Mapping[str, str], ends: tuple[str, str]) -> dict[str, str]:
    """Two columns that say how good the two answers are; of one-hot verdicts, 1 for the better one."""
    for stem in SCORE_STEMS:
        for first, second in ((f"{stem}_{ends[0]}", f"{stem}_{ends[1]}"), (f"{ends[0]}_{stem}", f"{ends[1]}_{stem}")):
            if first in names and second in names:
                scores = {"score_a": names[first], "score_b": names[second]}
                if not are_equal(rows, scores):
                    return scores
    return {}


def are_equal(rows: Sequence[SourceRow], scores: Columns) -> bool:
    """Whether two scores are one and the same number in all rows, of 0 or below: nobody has filled them in."""
    read = (score_of(row.values.get(column)) for row in rows for column in scores.values())
    found = {number for number in read if number is not None}
    return len(found) == 1 and max(found) <= 0


def names_one(rows: Sequence[SourceRow], columns: Columns) -> bool:
    """Whether the winner of any of the first rows is one that can be read."""
    read = winner_reader(columns)
    for row in rows:
        with suppress(UserError):
            read(row.values.get(columns["winner"]))
            return True
    return False


def names_best(rows: Sequence[SourceRow], column: str, pair: Columns, responses: Columns) -> bool:
    """Whether a column only names the better one of the answers beside it, as 'A' or 0.

    Not where it is one of them itself, as numbers and letters can be.
    """
    if not pair and not responses:
        return False
    words = side_words(pair["a"], pair["b"]) if pair else {}
    held = [(row.values[column], row) for row in rows if row.values.get(column) not in EMPTY]
    return mostly(
        value not in answers_beside(row, pair, responses)
        and (
            number_of(value) is not None
            or (is_word(value) and bool(verdict_of(value, words) if pair else LETTERED.fullmatch(word_of(value))))
        )
        for value, row in held
    )


def answers_beside(row: SourceRow, pair: Columns, responses: Columns) -> Sequence[Any]:
    """The two answers of a row, or those of its list."""
    if pair:
        return [row.values.get(column) for column in pair.values()]
    with suppress(UnusableRow):
        return list_of(row.values.get(responses["responses"]), responses["responses"])
    return []


def find_quality(
    rows: Sequence[SourceRow], names: Mapping[str, str], taken: Iterable[str], said: Columns
) -> dict[str, str]:
    """The column that says which answers are good, as words or as numbers: bad ones must not be learned.

    Where none can be read, one that is called so all the same: what it says is not passed over.
    """
    if said.get("label") or said.get("rating"):
        return {}
    used, unread = set(taken), dict[str, str]()
    for column in (names[alias] for alias in QUALITIES if alias in names and names[alias] not in used):
        held = [row.values[column] for row in rows if row.values.get(column) not in EMPTY]
        if any(says_good(value) is not None for value in held):
            return {"label": column}
        found = {number for value in held if (number := number_of(value)) is not None}
        if found:
            labels = found <= {0, 1} or found <= {-1, 1}
            return {"label" if labels and plain_name(column) not in SCALES else "rating": column}
        if held and not unread:
            unread = {"label": column}
    return unread


def find_speaker(
    rows: Sequence[SourceRow], question: Columns, speaker: dict[str, str], parent: dict[str, str]
) -> dict[str, str]:
    """Who speaks, in a table of single messages rather than of prompts, and which message stands before each."""
    said = [row.values[speaker["speaker"]] for row in rows if row.values.get(speaker["speaker"])] if speaker else []
    known = mostly(isinstance(value, str) and value.strip().casefold() in SPEAKERS for value in said)
    return speaker | parent if known and "prompt" in question else {}


def without_columns(roles: dict[str, str], others: Columns) -> dict[str, str]:
    """Roles whose columns are not taken by others."""
    return {role: column for role, column in roles.items() if column not in others.values()}


def mostly(found: Iterable[bool]) -> bool:
    """Whether something is so of half the values or more: a row that is odd turns no file round."""
    values = list(found)
    return 0 < len(values) <= 2 * sum(values)


def holds_lists(rows: Sequence[SourceRow], column: str) -> bool:
    """Whether a column's values are lists, or texts that are one in JSON."""
    held = [row.values[column] for row in rows if row.values.get(column) not in (None, "")]
    return mostly(isinstance(one, list) or (isinstance(one, str) and one.lstrip().startswith("[")) for one in held)


def holds_decisions(rows: Sequence[SourceRow], column: str) -> bool:
    held = [row.values[column] for row in rows if row.values.get(column) not in EMPTY]
    return mostly(is_word(value) and word_of(value) in DECISIONS for value in held)


def is_word(value: Any) -> bool:
    """Whether a value is a text that is short enough to name something."""
    return isinstance(value, str) and len(value) <= LONGEST_WINNER


def hold_texts(rows: Sequence[SourceRow], column: str) -> bool:
    """Whether the lists of a column hold mere texts, which can't have their scores or ranks with them."""
    held = []
    for row in rows:
        with suppress(UnusableRow):
            held.append(list_of(row.values.get(column), column))
    return mostly(all(isinstance(one, str) for one in entries) for entries in held)


def may_say_bad(column: str) -> bool:
    """Whether a column's name lets one expect that it says which answers are bad."""
    return not QUALITY_WORDS.isdisjoint(words_of(column))


def may_ask(rows: Sequence[SourceRow], column: str) -> bool:
    """Whether a column may hold the prompt: by its name and some words in it, or by longer texts that mostly differ."""
    found = [value for row in rows if (value := asked_in(row.values.get(column), column))]
    if found and not PROMPT_WORDS.isdisjoint(words_of(column)):
        return True
    longer = [value for value in found if not isinstance(value, str) or len(value.split()) >= LIKELY_WORDS]
    return 2 * len(set(map(str, longer))) > len(rows)


def asked_in(value: Any, column: str) -> Any:
    """What may be a prompt, of several words, or messages; nothing of anything else."""
    if isinstance(value, str):
        return value if len(value.split()) > 1 else ""
    with suppress(UnusableRow):
        return conversation(value, column)
    return ""


def may_change_meaning(column: str) -> bool:
    """Whether a column, by its name, changes what a row means beside those that have a role."""
    name = plain_name(column)
    return name in TELLING or name.endswith(STATUSES)


def is_turned_round(column: str) -> bool:
    """Whether a column is, by its name, true or high for bad answers."""
    return not BAD_WORDS.isdisjoint(words_of(column))


def words_of(column: str) -> list[str]:
    return re.split(r"[\W_]+", column.casefold())


# -------------------------------------------------------------------------------------------------------------- paths
STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d{1,4})\]")


# What a turn of a conversation has, of which no part is a column.
TURN_KEYS: Final = {"role", "from"}


def head_of(columns: Iterable[str], path: str) -> str:
    """The column that a path begins with, as 'question' of 'question.full_text': the longest one; empty for none."""
    return max((one for one in columns if path == one or path.startswith((f"{one}.", f"{one}["))), key=len, default="")


def last_part(columns: Iterable[str], path: str) -> str:
    """What lies at the end of a path is called, as 'full_text' of 'question.full_text'."""
    head = head_of(columns, path)
    return next((name for name, _ in reversed(STEP.findall(path, len(head))) if name), head)


def at_path(values: Mapping[str, Any], path: str) -> Any:
    """What lies at a path such as 'answers[0].text', also within text that is JSON; None where nothing does."""
    return along(values, path)[-1][1]


def along(values: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
    """Each part of a path as the path up to there, and what lies there: objects and lists, also where they are text."""
    at = len(head_of(values, path))
    found, way = values.get(path[:at]), list[tuple[str, Any]]()
    while at < len(path):
        step = STEP.match(path, at)
        if step is None:
            return [*way, (path, None)]
        if isinstance(found, str) and found.lstrip()[:1] in ("[", "{"):
            with suppress(NotJson):
                found = parse_json(found.strip())
        way.append((path[:at], found))
        if step[2] is not None:
            found = found[int(step[2])] if isinstance(found, list) and int(step[2]) < len(found) else None
        else:
            found = found.get(step[1]) if isinstance(found, Mapping) else None
        at = step.end()
    return [*way, (path, found)]


def pass_over(values: Mapping[str, Any], paths: Iterable[str]) -> bool:
    """Whether a list that paths lead through has more entries than they name."""
    named: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    for path in paths:
        for (above, found), (below, _) in pairwise(along(values, path)):
            if isinstance(found, list):
                named.setdefault(above, set()).add(below)
                sizes[above] = len(found)
    return any(len(named[above]) < size for above, size in sizes.items())


def columns_within(rows: Sequence[SourceRow]) -> list[str]:
    """All columns, those with objects as the paths to what lies within, by the first of the rows that has something.

    So many of them as can be chosen among.
    """

    def first_in(column: str) -> Any:
        values = (row.values.get(column) for row in rows)
        return next((one for one in values if one not in EMPTY), None)

    found = (path for column in columns_of(rows) for path in paths_within(column, first_in(column)))
    return list(dict.fromkeys(islice(found, MAXIMUM_KNOWN)))


def paths_within(path: str, value: Any) -> Iterator[str]:
    """The paths to what lies within an object, or within the first one of a list; of anything else its own."""
    left = [(path, value)]
    while left:
        path, value = left.pop()
        if isinstance(value, list) and value and isinstance(value[0], Mapping) and not value[0].keys() & TURN_KEYS:
            left.append((f"{path}[0]", value[0]))
        elif not isinstance(value, Mapping) or not value or not all(STEP.fullmatch(f".{key}") for key in value):
            yield path
        else:
            left += [(f"{path}.{key}", within) for key, within in reversed([*value.items()])]


def with_paths(values: Mapping[str, Any], paths: Iterable[str]) -> Mapping[str, Any]:
    """A row's values, and what lies at paths into them as columns of their own."""
    return {**values, **{path: at_path(values, path) for path in paths}}


# --------------------------------------------------------------------------------------------------------------- unused
class ColumnUsage:
    """The columns that are met while rows are read, and which of them hold anything."""

    def __init__(self) -> None:
        self.filled: dict[str, bool] = {}

    def see(self, values: Mapping[str, Any]) -> None:
        for column, value in values.items():
            if not self.filled.get(column) and (column in self.filled or len(self.filled) < MAXIMUM_KNOWN):
                self.filled[column] = value not in EMPTY

    def late(self, early: Iterable[str]) -> list[str]:
        """The columns that hold something, but are not among those that did `early` on."""
        known = set(early)
        return [column for column, holds in self.filled.items() if holds and column not in known]

    def unused(self, used: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Columns that nothing is made of: those that may change what rows mean, and the others."""
        heads = {head_of(self.filled, column) for column in used}
        left = [column for column in self.filled if column not in heads]
        telling = [column for column in left if self.filled[column] and may_change_meaning(column)]
        if not DEGREES.isdisjoint(map(plain_name, used)):  # another of these says the same
            telling = [column for column in telling if plain_name(column) not in DEGREES]
        return tuple(telling), tuple(column for column in left if column not in telling)
