"""Columns to roles, raw rows to records or the reason why not: every shape of data that can be imported. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from annotation.incoming.names import display_name, listed
from annotation.incoming.reading import Row, finite, kind_of, parse_json
from annotation.records import MAXIMUM_ANSWERS, Message, UserError

Target = Literal["prompts", "demonstrations", "preferences"]
Verdict = Literal["judged", "gold", "open"]
Columns = Mapping[str, str]
TARGETS: tuple[Target, ...] = get_args(Target)

MAXIMUM_TEXT = 100_000
MAXIMUM_TURNS = 200

# Each role a column can play: what it is for, and the names by which it is recognised, likeliest first.
ROLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "prompt": (
        "the question: text, messages, or a Human/Assistant transcript",
        ("prompt", "question", "instruction", "query", "user", "problem", "history", "input", "text", "content"),
    ),
    "context": ("text that belongs below the prompt (Alpaca's 'input')", ("input", "context")),
    "system": ("the system message", ("system", "system_prompt", "system_message")),
    "messages": (
        "a whole conversation (role/content or from/value); as a demonstration it teaches each of its answers",
        ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "turns"),
    ),
    "completion": (
        "one answer: a demonstration, or with a label a good or bad answer",
        ("completion", "response", "answer", "output", "target", "demonstration", "solution"),
    ),
    "label": ("whether the completion is good (KTO)", ("label", "labels", "is_good", "thumbs_up", "desirable")),
    "chosen": ("the better of two answers", ("chosen", "chosen_response", "preferred", "response_chosen", "accepted")),
    "rejected": (
        "the worse of two answers",
        ("rejected", "rejected_response", "dispreferred", "response_rejected", "non_preferred"),
    ),
    "a": ("the first of two answers", ()),
    "b": ("the second of two answers", ()),
    "winner": (
        "which of two answers is better: a, b or tie",
        ("winner", "preference", "preferred", "better_response_id", "better", "choice", "verdict", "label", "labels"),
    ),
    "responses": (
        "a list of answers, or of objects with text and score or rank",
        ("responses", "completions", "answers", "outputs", "candidates", "generations", "samples"),
    ),
    "scores": ("a list of scores, the higher the better", ("scores", "ratings", "rewards", "score", "rating")),
    "ranks": ("a list of ranks, 1 is best", ("ranks", "ranking", "rankings", "rank")),
    "strength": (
        "how much better: 1 slightly, 2 clearly, 3 much; as a margin 1/3, 2/3, 1",
        ("strength", "margin", "preference_strength", "degree"),
    ),
}
PAIR_STEMS = ("response", "answer", "output", "completion", "conversation", "text", "model_response", "human_ref", "")
PAIR_ENDS = (("a", "b"), ("0", "1"), ("1", "2"), ("left", "right"))
LISTS = ("messages", "responses", "scores", "ranks")

SPEAKERS: Mapping[str, str] = {
    **dict.fromkeys(("user", "human", "prompter", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai", "chatbot"), "assistant"),
    "system": "system",
}
TEXT_KEYS = (
    *("text", "response", "content", "answer", "completion", "output", "generated_text", "value", "generation"),
)
SCORE_KEYS = ("score", "overall_score", "rating", "reward")
RANK_KEYS = ("rank", "ranking")
TIES = ("tie", "draw", "equal", "same", "both", "both good", "tie (bothgood)")
ALL_BAD = ("tie (bothbad)", "bothbad", "both bad", "all bad", "neither")
GOOD: Mapping[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "good", "desirable", "up"), True),
    **dict.fromkeys(("false", "0", "-1", "no", "bad", "undesirable", "down"), False),
}
STRENGTH_WORDS = {"slightly": 1, "clearly": 2, "better": 2, "much": 3, "significantly": 3}
OTHER_MARGIN = "strength or margin on another scale: imported without it"
TRANSCRIPT_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


class Unusable(UserError):
    """A row that can't be imported: the column at fault and the reason."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(f"column '{display_name(column)}' {reason}" if column else reason)
        self.column = column
        self.reason = reason


@dataclass(frozen=True)
class Record:
    """What a row says: a prompt, and maybe answers, a verdict on them by position, or a good/bad label of the one."""

    messages: tuple[Message, ...]
    answers: tuple[str, ...] = ()
    outcome: Literal["ranked", "all-bad"] | None = None
    ranking: tuple[int, ...] | None = None
    strength: int | None = None
    label: bool | None = None
    remark: str = ""


Reader = Callable[[Mapping[str, Any]], Record]


@dataclass(frozen=True)
class Plan:
    """What is made of the rows: the target, the columns by role, and what becomes of verdicts."""

    target: Target
    columns: Columns
    verdict: Verdict = "judged"

    @property
    def reader(self) -> Reader:
        """The function that makes a record of a row's values, or raises Unusable."""
        return reader_of(self)


# ---------------------------------------------------------------------------------------------------------- proposing
def columns_of(rows: Sequence[Row]) -> list[str]:
    """All columns that the rows have, in the order in which they are met."""
    return list(dict.fromkeys(str(column) for row in rows for column in row.values))


def propose(rows: Sequence[Row]) -> dict[str, str]:
    """Roles for the columns of some first rows, by their names and what they hold; the likeliest shape decides."""
    names = {plain_name(column): column for column in reversed(columns_of(rows))}
    lists = {column for column in names.values() if holds_lists(rows, column)}

    def find(role: str, taken: Sequence[str] = ()) -> dict[str, str]:
        wanted = [names[alias] for alias in ROLES[role][1] if alias in names]
        fitting = [column for column in wanted if column not in taken and (role not in LISTS or column in lists)]
        return {role: fitting[0]} if fitting else {}

    chosen = find("chosen") | find("rejected")
    pair = find_pair(names)
    responses = find("responses")
    question = find_question(rows, find("messages")) or find("prompt")
    question |= find("system")
    if plain_name(question.get("prompt", "")) == "instruction":
        question |= find("context")
    if len(chosen) == 2:
        return question | chosen | find("strength")
    if pair:
        taken = [*pair.values(), *question.values()]
        return without(question, pair) | pair | find("winner", taken) | find("strength", taken)
    if responses:
        return without(question, responses) | responses | (find("scores") or find("ranks"))
    messages = find("messages")
    if messages and "messages" not in question:
        return messages | find("system")
    completion = find("completion", list(question.values()))
    label = find("label") if completion else {}
    return question | completion | (label if holds_labels(rows, label.get("label", "")) else {})


def find_question(rows: Sequence[Row], messages: dict[str, str]) -> dict[str, str]:
    """A column of conversations, where these end with the user: it is the whole prompt, a mere text beside it less."""
    for row in rows if messages else ():
        try:
            turns = conversation(row.values.get(messages["messages"]), messages["messages"])
        except Unusable:
            continue
        return messages if turns[-1]["role"] == "user" else {}
    return {}


def without(roles: dict[str, str], others: Columns) -> dict[str, str]:
    """Roles whose columns are not taken by others."""
    return {role: column for role, column in roles.items() if column not in others.values()}


def plain_name(column: str) -> str:
    """A column's name without case, spaces and dashes."""
    return re.sub(r"[\s\-.]+", "_", column.strip()).casefold()


def holds_lists(rows: Sequence[Row], column: str) -> bool:
    """Whether the first value of a column is a list, or text that is one in JSON."""
    value = next((row.values[column] for row in rows if row.values.get(column) not in (None, "")), None)
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def holds_labels(rows: Sequence[Row], column: str) -> bool:
    """Whether all first values of a column say good or bad."""
    try:
        return all(label_of(row.values, column) is not None for row in rows if column in row.values)
    except Unusable:
        return False


def find_pair(names: Mapping[str, str]) -> dict[str, str]:
    """Two columns with the two answers of a comparison."""
    for stem in PAIR_STEMS:
        for first, second in PAIR_ENDS:
            for joint in ("_", "") if stem else ("",):
                a, b = f"{stem}{joint}{first}", f"{stem}{joint}{second}"
                if a in names and b in names and (stem or first == "a"):
                    return {"a": names[a], "b": names[b]}
    return {}


def make_plan(
    rows: Sequence[Row],
    target: Target | Literal["auto"] = "auto",
    overrides: Columns | None = None,
    verdict: Verdict = "judged",
) -> Plan:
    """The plan for a file by its first rows. `overrides` gives columns to roles, or '' to leave a role out.

    Raises UserError that names an unknown role or column, or says what is missing.
    """
    known = columns_of(rows)
    columns = propose(rows)
    for role, column in (overrides or {}).items():
        if role not in ROLES:
            raise UserError(f"'{display_name(role)}' is no role of a column. There are: {', '.join(ROLES)}.")
        if column and column not in known:
            raise UserError(f"There is no column '{display_name(column)}'. There are: {listed(known)}.")
        columns.pop(role, None)
        if column:
            columns[role] = column
    plan = Plan(target if target != "auto" else likely_target(rows, columns), columns, verdict)
    if plan.target != "preferences" and verdict != "judged":
        raise UserError("Only preference data (several answers to a prompt) can be gold or be judged by people.")
    try:
        reader_of(plan)
    except UserError as error:
        raise UserError(f"{error} The columns are: {listed(known)}.") from error
    return plan


def likely_target(rows: Sequence[Row], columns: Columns) -> Target:
    """What data with these columns is there for."""
    if {"chosen", "rejected"} <= columns.keys() or {"a", "b"} <= columns.keys() or "responses" in columns:
        return "preferences"
    if {"completion", "label"} <= columns.keys():
        return "preferences"
    if "completion" in columns:
        return "demonstrations"
    messages = {"messages": columns["messages"]} if "messages" in columns else {}
    return "demonstrations" if messages and not find_question(rows, messages) else "prompts"


# ---------------------------------------------------------------------------------------------------------- reading
def reader_of(plan: Plan) -> Reader:
    """The function that makes records of this plan's rows. Raises UserError where columns are missing."""
    roles = plan.columns.keys()
    if plan.target == "prompts":
        return read_prompts(plan)
    if plan.target == "demonstrations":
        if "completion" in roles and roles & {"prompt", "messages"}:
            return read_demonstrations(plan.columns)
        if "messages" in roles:
            return read_conversations(plan.columns)
        raise UserError("Demonstrations need the columns 'prompt' and 'completion', or 'messages'.")
    return read_preferences(plan)


def read_preferences(plan: Plan) -> Reader:
    """The reader of one of the forms of preference data. Raises UserError if the columns are of none."""
    roles = plan.columns.keys()
    if {"chosen", "rejected"} <= roles:
        return read_chosen(plan.columns)
    if {"a", "b"} <= roles:
        if "winner" not in roles and plan.verdict != "open":
            raise UserError("There are two answers but no column 'winner': name it, or have people judge them.")
        return read_pairs(plan.columns, plan.verdict)
    if "responses" in roles:
        return read_responses(plan.columns, plan.verdict)
    if {"completion", "label"} <= roles and roles & {"prompt", "messages"}:
        if plan.verdict != "judged":
            raise UserError("Single answers with a label are no comparisons: they can't be gold or judged by people.")
        return read_labelled(plan.columns)
    raise UserError(
        "No preferences in these columns. They need 'chosen' and 'rejected'; or 'a', 'b' and 'winner'; or 'responses' "
        "with 'scores' or 'ranks'; or 'prompt', 'completion' and 'label'."
    )


def read_prompts(plan: Plan) -> Reader:
    """Prompts only, whatever else there is. Raises UserError without a column to take them from."""
    columns = plan.columns
    if "prompt" in columns:
        return lambda values: Record(prompt_of(values, columns))
    if "messages" in columns:
        return lambda values: Record(until_user(with_system(turns_of(values, columns), values, columns), columns))
    if {"chosen", "rejected"} <= columns.keys():
        read = read_chosen(columns)
        return lambda values: Record(read(values).messages)
    raise UserError("No column with prompts was found: name one as 'prompt' or 'messages'.")


def read_demonstrations(columns: Columns) -> Reader:
    """A prompt and the answer to it; with a label, good answers only."""

    def read(values: Mapping[str, Any]) -> Record:
        if "label" in columns and not label_of(values, columns["label"]):
            raise Unusable(columns["label"], "says that the answer is bad")
        messages = context_of(values, columns)
        return Record(messages, (answer_of(values.get(columns["completion"]), columns["completion"], messages),))

    return read


def read_conversations(columns: Columns) -> Reader:
    """A whole conversation: its last turn is the demonstration, what is before it the prompt.

    The answers within the prompt become demonstrations too, in the same split, where data is frozen (`rlhf.freezing`).
    """

    def read(values: Mapping[str, Any]) -> Record:
        column = columns["messages"]
        turns = with_system(turns_of(values, columns), values, columns)
        if turns[-1]["role"] != "assistant":
            raise Unusable(column, "does not end with the assistant's turn")
        if "label" in columns and not label_of(values, columns["label"]):
            raise Unusable(columns["label"], "says that the answer is bad")
        return Record(checked(turns[:-1], column), (turns[-1]["content"],))

    return read


def read_labelled(columns: Columns) -> Reader:
    """KTO's form: one answer that is good or bad."""

    def read(values: Mapping[str, Any]) -> Record:
        messages = context_of(values, columns)
        answer = answer_of(values.get(columns["completion"]), columns["completion"], messages)
        return Record(messages, (answer,), label=label_of(values, columns["label"]))

    return read


def read_chosen(columns: Columns) -> Reader:
    """A better and a worse answer, with the prompt beside them or at the beginning of both."""

    def read(values: Mapping[str, Any]) -> Record:
        messages, answers = two_answers(values, columns, columns["chosen"], columns["rejected"])
        strength, remark = strength_of(values, columns)
        return Record(messages, answers, "ranked", (1, 2), strength, remark=remark)

    return read


def read_pairs(columns: Columns, verdict: Verdict) -> Reader:
    """Two answers and which of them is better."""
    sides = winners(columns["a"], columns["b"])
    if is_shp(columns):
        sides = {**sides, "1": 0, "0": 1}

    def read(values: Mapping[str, Any]) -> Record:
        messages, answers = two_answers(values, columns, columns["a"], columns["b"])
        if verdict == "open":
            return Record(messages, answers)
        ranking = winner_of(values.get(columns["winner"]), columns, sides)
        if ranking is None:
            return Record(messages, answers, "all-bad")
        if ranking == (1, 1):
            return Record(messages, answers, "ranked", ranking, 0)
        strength, remark = strength_of(values, columns)
        return Record(messages, answers, "ranked", ranking, strength, remark=remark)

    return read


def is_shp(columns: Columns) -> bool:
    """Whether these are columns of the Stanford Human Preferences: label 1 says that A is better, 0 that B is."""
    names = tuple(plain_name(columns.get(role, "")) for role in ("a", "b", "winner"))
    return names == ("human_ref_a", "human_ref_b", "labels")


def read_responses(columns: Columns, verdict: Verdict) -> Reader:
    """Several answers with scores or ranks, beside them or within them."""

    def read(values: Mapping[str, Any]) -> Record:
        column = columns["responses"]
        entries = list_of(values.get(column), column)
        if not 2 <= len(entries) <= MAXIMUM_ANSWERS:
            raise Unusable(column, f"holds {len(entries)} answers, not 2 to {MAXIMUM_ANSWERS}")
        messages = context_of(values, columns)
        answers = tuple(answer_of(entry, column, messages) for entry in entries)
        if len(set(answers)) < len(answers):
            raise Unusable(column, "holds the same answer twice")
        if verdict == "open":
            return Record(messages, answers)
        ranking = ranking_of(values, columns, entries)
        tied = len(answers) == 2 and len(set(ranking)) == 1
        return Record(messages, answers, "ranked", ranking, 0 if tied else None)

    return read


# ---------------------------------------------------------------------------------------------------------- texts
def text_of(value: Any, column: str) -> str:
    """A text that can be stored and shown. Raises Unusable for anything else; nothing is mended silently."""
    if not isinstance(value, str):
        raise Unusable(column, f"is {kind_of(value)}, not text")
    if not value.strip():
        raise Unusable(column, "is empty")
    if len(value) > MAXIMUM_TEXT:
        raise Unusable(column, f"is longer than {MAXIMUM_TEXT:,} characters")
    if "\x00" in value:
        raise Unusable(column, "holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Unusable(column, "holds half of a surrogate pair, which is no text") from error
    return value


def list_of(value: Any, column: str) -> list[Any]:
    """A list, or text that is one in JSON (as in a CSV field)."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value.strip(), "")
        except UserError as error:
            raise Unusable(column, f"is text that {error}") from error
    if not isinstance(value, list):
        raise Unusable(column, f"is {kind_of(value)}, not a list")
    return value


def conversation(value: Any, column: str) -> list[Message]:
    """A list of messages in our own terms, whatever theirs. Raises Unusable."""
    entries = list_of(value, column)
    if not entries:
        raise Unusable(column, "is an empty list")
    if len(entries) > MAXIMUM_TURNS:
        raise Unusable(column, f"has more than {MAXIMUM_TURNS} turns")
    return [message_of(entry, column) for entry in entries]


def message_of(entry: Any, column: str) -> Message:
    """One message of a conversation: role and content, or from and value."""
    if not isinstance(entry, dict):
        raise Unusable(column, f"holds {kind_of(entry)} where a message belongs")
    speaker = entry["role"] if "role" in entry else entry.get("from")
    role = SPEAKERS.get(speaker.strip().casefold()) if isinstance(speaker, str) else None
    if role is None:
        shown = f"'{display_name(speaker[:40])}'" if isinstance(speaker, str) else kind_of(speaker)
        raise Unusable(column, f"holds a message of the role {shown}; known are user, assistant and system")
    content = entry["content"] if "content" in entry else entry.get("value", entry.get("text"))
    if isinstance(content, list) and content and all(is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    return {"role": role, "content": text_of(content, column)}


def is_text_part(part: Any) -> bool:
    """Whether a part of a message's content is text, not an image or a tool's call."""
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def checked(turns: Sequence[Message], column: str) -> tuple[Message, ...]:
    """A prompt: maybe a system message, then user and assistant in turn, the user last. Raises Unusable."""
    spoken = turns[1:] if turns and turns[0]["role"] == "system" else turns
    for place, turn in enumerate(spoken):
        expected = "assistant" if place % 2 else "user"
        if turn["role"] != expected:
            raise Unusable(column, f"has a turn of the {turn['role']} where one of the {expected} belongs")
    if not spoken or spoken[-1]["role"] != "user":
        raise Unusable(column, "does not end with the user's turn")
    return tuple(turns)


def until_user(turns: Sequence[Message], columns: Columns) -> tuple[Message, ...]:
    """A conversation up to its last question."""
    ends = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    return checked(ends, columns["messages"])


def is_transcript(text: str) -> bool:
    """Whether a text is a transcript of the HH form."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def transcript(text: str, column: str) -> list[Message]:
    """The turns of an HH transcript; an empty turn of the assistant at the end is where an answer belongs."""
    pieces = TRANSCRIPT_TURN.split(text)
    speakers, texts = pieces[1::2], [piece.strip() for piece in pieces[2::2]]
    if speakers[-1] == "Assistant" and not texts[-1]:
        speakers, texts = speakers[:-1], texts[:-1]
    if len(speakers) > MAXIMUM_TURNS:
        raise Unusable(column, f"has more than {MAXIMUM_TURNS} turns")
    return [
        {"role": "user" if speaker == "Human" else "assistant", "content": text_of(content, column)}
        for speaker, content in zip(speakers, texts, strict=True)
    ]


def as_turns(value: Any, column: str) -> list[Message] | None:
    """A conversation in whatever form; None for plain text. Raises Unusable for what is neither."""
    if isinstance(value, str):
        if is_transcript(value):
            return transcript(text_of(value, column), column)
        if not looks_like_messages(value):
            text_of(value, column)
            return None
    elif not isinstance(value, list):
        raise Unusable(column, f"is {kind_of(value)}, neither text nor messages")
    return conversation(value, column)


def looks_like_messages(text: str) -> bool:
    """Whether a text is a JSON list of messages; an answer may begin with a bracket, too."""
    if not text.lstrip().startswith("[{"):
        return False
    try:
        value = parse_json(text.strip(), "")
    except UserError:
        return False
    return all(isinstance(entry, dict) and not entry.keys().isdisjoint(("role", "from")) for entry in value)


def turns_of(values: Mapping[str, Any], columns: Columns) -> list[Message]:
    """The conversation in the column 'messages'."""
    turns = as_turns(values.get(columns["messages"]), columns["messages"])
    if turns is None:
        raise Unusable(columns["messages"], "is plain text, not a conversation")
    return turns


def prompt_of(values: Mapping[str, Any], columns: Columns) -> tuple[Message, ...]:
    """The prompt of a row: what its column says, with the context below and the system message above."""
    column = columns["prompt"]
    turns = as_turns(values.get(column), column)
    if turns is None:
        text = str(values[column])
        extra = values.get(columns["context"]) if "context" in columns else None
        if extra not in (None, ""):
            text = text_of(f"{text}\n\n{text_of(extra, columns['context'])}", column)
        turns = [{"role": "user", "content": text}]
    return checked(with_system(turns, values, columns), column)


def with_system(turns: list[Message], values: Mapping[str, Any], columns: Columns) -> list[Message]:
    """A conversation under the system message of its row, if there is one and it has none of its own."""
    value = values.get(columns["system"]) if "system" in columns else None
    if value is None or value == "" or turns[0]["role"] == "system":
        return turns
    return [{"role": "system", "content": text_of(value, columns["system"])}, *turns]


def context_of(values: Mapping[str, Any], columns: Columns) -> tuple[Message, ...]:
    """The prompt of a row from the column 'prompt' or 'messages'. Raises UserError if there is neither."""
    if "prompt" in columns:
        return prompt_of(values, columns)
    if "messages" in columns:
        return checked(with_system(turns_of(values, columns), values, columns), columns["messages"])
    raise Unusable("", "there is no column with the prompt")


def answer_of(value: Any, column: str, messages: Sequence[Message]) -> str:
    """One answer: text, an object with text, or messages that end with it (and begin with the prompt, if with more)."""
    if isinstance(value, dict):
        key = next((key for key in TEXT_KEYS if key in value), None)
        if key is None:
            raise Unusable(column, f"holds an object without a text ({', '.join(TEXT_KEYS)})")
        value = value[key]
    turns = as_turns(value, column)
    if turns is None:
        return str(value)
    if turns[-1]["role"] != "assistant":
        raise Unusable(column, "does not end with the assistant's turn")
    if len(turns) > 1 and spoken(turns[:-1]) != spoken(messages):
        raise Unusable(column, "does not go on from the prompt")
    return turns[-1]["content"]


def spoken(turns: Sequence[Message]) -> list[Message]:
    """A conversation without its system message."""
    return [turn for turn in turns if turn["role"] != "system"]


# ---------------------------------------------------------------------------------------------------- two answers
def two_answers(
    values: Mapping[str, Any], columns: Columns, first: str, second: str
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """The prompt and two answers to it. Raises Unusable, also if the answers are the same."""
    one, other = as_turns(values.get(first), first), as_turns(values.get(second), second)
    if (one is None) != (other is None):
        kind = "plain text" if other is None else "a conversation"
        raise Unusable(second, f"is {kind}, unlike '{display_name(first)}'")
    if one is None or other is None:
        messages, answers = plain_answers(values, columns, first, second)
    else:
        messages, answers = answers_of_conversations(values, columns, (one, first), (other, second))
    if answers[0].strip() == answers[1].strip():
        raise Unusable(second, f"says the same as '{display_name(first)}'")
    return messages, answers


def plain_answers(
    values: Mapping[str, Any], columns: Columns, first: str, second: str
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """Two texts. Without a prompt beside them it is what both begin with, up to the last space (as TRL does it)."""
    one, other = str(values[first]), str(values[second])
    if "prompt" in columns or "messages" in columns:
        prompt_value = values.get(columns.get("prompt", ""))
        if isinstance(prompt_value, str) and is_transcript(prompt_value):
            one, other = one.removeprefix(" "), other.removeprefix(" ")  # the space after "Assistant:"
        return context_of(values, columns), (one, other)
    shared = shared_start(one, other)
    shared = shared[: max(shared.rfind(" "), shared.rfind("\n")) + 1].rstrip()
    if not shared:
        raise Unusable(first, "has no prompt beside it, and the two answers don't begin alike")
    prompt: list[Message] = [{"role": "user", "content": shared}]
    rest = text_of(one[len(shared) :].strip(), first), text_of(other[len(shared) :].strip(), second)
    return checked(with_system(prompt, values, columns), first), rest


def answers_of_conversations(
    values: Mapping[str, Any], columns: Columns, one: tuple[list[Message], str], other: tuple[list[Message], str]
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """Two conversations: only an answer each, after the prompt beside them, or whole ones that share all but that."""
    for turns, column in (one, other):
        if turns[-1]["role"] != "assistant":
            raise Unusable(column, "does not end with the assistant's turn")
    answers = one[0][-1]["content"], other[0][-1]["content"]
    before, other_before = one[0][:-1], other[0][:-1]
    if before != other_before:
        raise Unusable(other[1], f"parts from '{display_name(one[1])}' before the last answer")
    if not before:
        return context_of(values, columns), answers
    messages = checked(with_system(before, values, columns), one[1])
    if "prompt" in columns and not is_prompt_of(values.get(columns["prompt"]), columns["prompt"], messages):
        raise Unusable(columns["prompt"], f"is not the question in '{display_name(one[1])}'")
    return messages, answers


def is_prompt_of(value: Any, column: str, messages: Sequence[Message]) -> bool:
    """Whether a prompt beside whole conversations is theirs: the same turns, or one of the user's."""
    if value is None or value == "":
        return True
    turns = as_turns(value, column)
    if turns is not None:
        return spoken(turns) == spoken(messages)
    return any(turn["role"] == "user" and turn["content"].strip() == str(value).strip() for turn in messages)


def shared_start(one: str, other: str) -> str:
    """What two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))]


# ---------------------------------------------------------------------------------------------------------- verdicts
def winners(a: str, b: str) -> Mapping[str, int]:
    """Words for the first (0) and the second (1) answer; numbers only where the columns' names have them."""
    one, other = plain_name(a), plain_name(b)
    start = len(shared_start(one, other))
    words = ({"a", "left", "first"}, {"b", "right", "second"})
    stems = ("model", "response", "answer", "assistant", "output", "completion", "conversation")
    for side, name in enumerate((one, other)):
        letter = "ab"[side]
        words[side].update({name, name[start:], *(f"{stem}_{letter}" for stem in stems), f"{letter}_is_better"})
    return {word: side for side in (1, 0) for word in words[side] - words[1 - side] if word}


def winner_of(value: Any, columns: Columns, sides: Mapping[str, int]) -> tuple[int, int] | None:
    """The ranking of two answers that a verdict stands for; None if both are bad. Raises Unusable."""
    column = columns["winner"]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Unusable(column, f"is {kind_of(value)}, which names no winner")
    word = " ".join(str(value).replace("_", " ").replace("-", " ").split()).casefold()
    if word in TIES:
        return (1, 1)
    if word in ALL_BAD:
        return None
    side = sides.get(word.replace(" ", "_"))
    if side is None:
        shown = f"'{display_name(str(value)[:40])}'"
        a, b = display_name(columns["a"]), display_name(columns["b"])
        raise Unusable(column, f"is {shown}: neither 'a' ('{a}') nor 'b' ('{b}') nor 'tie'")
    return (2, 1) if side else (1, 2)


def label_of(values: Mapping[str, Any], column: str) -> bool:
    """Whether an answer is labelled as good. Raises Unusable for a label that says neither."""
    value = values.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = GOOD.get(str(value).strip().casefold()) if isinstance(value, (bool, int, str)) else None
    if found is None:
        shown = f"'{display_name(value[:40])}'" if isinstance(value, str) else kind_of(value)
        raise Unusable(column, f"is {shown}, neither true nor false")
    return found


def strength_of(values: Mapping[str, Any], columns: Columns) -> tuple[int | None, str]:
    """How much better the better answer is, where that is one of our degrees; and a remark where it is another."""
    value = values.get(columns["strength"]) if "strength" in columns else None
    margin = "strength" in columns and plain_name(columns["strength"]) == "margin"
    if value is None or value == "" or (margin and value == 0):
        return None, ""
    if isinstance(value, str):
        word = STRENGTH_WORDS.get(value.split()[0].casefold() if value.split() else "")
        if word is not None:
            return word, ""
        value = number_of(value)
    if value is None or not finite(value):
        return None, OTHER_MARGIN
    # Our own exports write margins of up to 1 (annotation.outgoing.formats); three times that is the strength.
    degree = float(value) * (3 if margin else 1)
    whole = round(degree)
    return (whole, "") if abs(degree - whole) < 0.02 and whole in (1, 2, 3) else (None, OTHER_MARGIN)


def number_of(text: str) -> float | None:
    """A number written as text."""
    try:
        return float(text)
    except ValueError:
        return None


def ranking_of(values: Mapping[str, Any], columns: Columns, entries: Sequence[Any]) -> tuple[int, ...]:
    """The dense ranks of several answers: from ranks, or from scores of which the highest is the best."""
    if "ranks" in columns:
        return dense(numbers(list_of(values.get(columns["ranks"]), columns["ranks"]), columns["ranks"], len(entries)))
    if "scores" in columns:
        scores = numbers(list_of(values.get(columns["scores"]), columns["scores"]), columns["scores"], len(entries))
        return dense([-score for score in scores])
    column = columns["responses"]
    for keys, sign in ((RANK_KEYS, 1), (SCORE_KEYS, -1)):
        for key in keys:
            if all(isinstance(entry, dict) and key in entry for entry in entries):
                found = numbers([entry[key] for entry in entries], column, len(entries))
                return dense([sign * number for number in found])
    raise Unusable(column, "has answers without scores or ranks")


def numbers(found: Sequence[Any], column: str, wanted: int) -> list[float]:
    """One number for each answer. Raises Unusable."""
    if len(found) != wanted:
        raise Unusable(column, f"has {len(found)} numbers for {wanted} answers")
    read = [number_of(number) if isinstance(number, str) else number for number in found]
    wrong = next((number for number, value in zip(found, read, strict=True) if not finite(value)), None)
    if wrong is not None or None in read:
        raise Unusable(column, f"holds {kind_of(wrong)} where a finite number belongs")
    return [float(value) for value in read if value is not None]


def dense(values: Sequence[float]) -> tuple[int, ...]:
    """Ranks without gaps; the smallest value is 1, equal values tie."""
    levels = sorted(set(values))
    return tuple(levels.index(value) + 1 for value in values)


def with_texts(record: Record, shorten: int) -> Record:
    """A record to look at: long texts cut."""

    def cut(text: str) -> str:
        return text if len(text) <= shorten else f"{text[:shorten]} …"

    messages = tuple({"role": turn["role"], "content": cut(turn["content"])} for turn in record.messages)
    return replace(record, messages=messages, answers=tuple(cut(answer) for answer in record.answers))
