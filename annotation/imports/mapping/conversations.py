"""Texts, messages and conversations in whatever form, to our own messages; or the reason why not. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from annotation.exports import transcripts
from annotation.imports.mapping.labels import UnusableRow, number_of, refuse_object, says_good
from annotation.imports.printable import display_name, listed
from annotation.imports.sources.json_values import NotJson, parse_json
from annotation.imports.sources.raw_rows import kind_of
from annotation.records import Message, UserError
from annotation.translation import _

MAXIMUM_TEXT: Final = 100_000
MAXIMUM_TURNS: Final = 200
# What of a message is no text: with it, the text alone says something else.
CALLS: Final = (
    *("tool_calls", "function_call", "tool_call_id", "images", "image", "videos", "video", "audios", "audio"),
)
# Where a message has what a model thought before it answered, if that is not part of the text.
THOUGHTS: Final = ("reasoning_content", "reasoning", "thinking")
# Where a message has what is said.
SAID: Final = ("content", "value", "text")
# Of which types a part of a message is that says what was thought.
THOUGHT_PARTS: Final = ("thinking", "redacted_thinking", "reasoning")
# Of which types a part of a message is that is text.
TEXT_PARTS: Final = ("text", "input_text", "output_text")
# By which of a message's keys an answer is not to be learned where they are false or 0.
WEIGHT: Final = "weight"
LEARNED: Final = (WEIGHT, "train", "training", "loss", "loss_mask")
# And by which it is said to be bad where they are below 0, or a word for that; 0 stands for none.
VERDICTS: Final = ("score", "rating", "feedback", "vote", "liked")
# How text says that there is nothing.
NOTHING: Final = ("", "null", "none", "nan", "n/a")
# How chat templates mark turns within one text, with the name of who has the turn, and as text that people write, too.
MARKS: Final = (
    *("<[|｜]{}[|｜]>", r"<\|im_{}\|>", r"\[\|{}\|\]", r"<\|im_start\|>{}", r"<\|start_header_id\|>{}"),
    *("<start_of_turn>{}", "<extra_id_1>{}"),
)
QUESTION_SIGN: Final = "|".join(
    (*(f"(?i:{one})".format("(?:user|human|prompter|system)") for one in MARKS), r"\[INST\]")
)
ANSWER_SIGN: Final = "|".join(
    (*(f"(?i:{one})".format("(?:assistant|model|ai|bot|gpt)") for one in MARKS), r"\[/INST\]")
)
QUESTION_MARK: Final = re.compile(QUESTION_SIGN + r"|### ?(?:Human|User|Instruction):|GPT4\sCorrect\sUser:|USER: ")
ANSWER_MARK: Final = re.compile(ANSWER_SIGN + r"|### ?(?:Assistant|Response):|GPT4\sCorrect\sAssistant:|ASSISTANT:")
# One of these is in every text with a mark of a question: looking for them is quicker.
IN_QUESTION_MARKS: Final = ("<", "[", "#", "GPT4", "USER")
# HelpSteer's prompts begin without a mark.
LATER_MARK: Final = "<extra_id_1>Assistant"
BEGINNING_MARK: Final = re.compile(
    rf"\s*(?:(?:<s>|<bos>|<\|begin_of_text\|>)\s*)?({QUESTION_MARK.pattern}|{ANSWER_SIGN})"
)
# What they put behind a turn; HTML has </s>, too, behind text that is struck out.
END_MARK: Final = re.compile(r"(<[|｜][^<>\s]{1,40}[|｜]>|</s>|<end_of_turn>|<eos>)\s*\Z")
# How Python prints messages, and with it a table of them that was saved as CSV.
PRINTED: Final = re.compile(r"\s*\[\s*\{'(role|content|from|value)':.*\}\s*\]\s*", re.DOTALL)
SPEAKERS: Mapping[str, str] = {
    **dict.fromkeys(("user", "human", "prompter", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai", "chatbot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}


def text_of(value: Any, column: str, asked: bool = False) -> str:
    """A text that can be stored and shown, maybe one that is `asked` for an answer. Raises UnusableRow for any other.

    Nothing is mended silently.
    """
    if not isinstance(value, str):
        raise UnusableRow(column, _("column '{column}' must be text; found: {kind_of}"), kind_of=kind_of(value))
    if not value.strip():
        raise UnusableRow(column, _("column '{column}' is empty"))
    if len(value) > MAXIMUM_TEXT:
        raise UnusableRow(
            column, _("column '{column}' is longer than {maximum_text:,} characters"), maximum_text=MAXIMUM_TEXT
        )
    if "\x00" in value:
        raise UnusableRow(column, _("column '{column}' holds a NUL character"))
    mark = end_mark(value, asked)
    if mark:
        if not transcripts.is_transcript(value):
            refuse_turns_within(value, column)
        raise UnusableRow(column, _("column '{column}' ends with the mark of a chat template ('{mark}')"), mark=mark)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnusableRow(column, _("column '{column}' holds half of a surrogate pair, which is no text")) from error
    return value


def list_of(value: Any, column: str) -> list[Any]:
    """A list, or text that is one in JSON (as in a CSV field)."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value.strip())
        except NotJson as error:
            raise UnusableRow(column, _("column '{column}' is text that is not JSON: {why}"), why=error.why) from error
    if not isinstance(value, list):
        raise UnusableRow(column, _("column '{column}' must be a list; found: {kind_of}"), kind_of=kind_of(value))
    return value


def conversation(value: Any, column: str) -> list[Message]:
    """A list of messages in our own terms, whatever theirs. Raises UnusableRow."""
    entries = [turn for entry in list_of(value, column) for turn in turns_in(entry)]
    refuse_many(entries, column)
    found = [message_of(entry, column) for entry in entries if not is_empty_system(entry)]
    if not found:
        raise UnusableRow(column, _("column '{column}' is an empty list"))
    return found


def refuse_many(turns: Sequence[Any], column: str) -> None:
    if len(turns) > MAXIMUM_TURNS:
        said = _("column '{column}' has more than {maximum_turns} turns")
        raise UnusableRow(column, said, maximum_turns=MAXIMUM_TURNS)


def turns_in(entry: Any) -> list[Any]:
    """A message; or the two of an object that has both a question and its answer."""
    if isinstance(entry, dict) and not entry.keys() - {"input", "output"} and len(entry) == 2:
        return [{"role": role, "content": entry[key]} for role, key in (("user", "input"), ("assistant", "output"))]
    return [entry]


def is_empty_system(entry: Any) -> bool:
    """Whether a message is the system's and says nothing, as where a field was left empty."""
    if not isinstance(entry, dict):
        return False
    content = content_of(entry)
    empty = content in (None, "", []) or (isinstance(content, str) and not content.strip())
    return empty and role_of(entry) == "system"


def role_of(entry: Mapping[str, Any]) -> str | None:
    """Who says a message; None for nobody that is known."""
    speaker = entry["role"] if "role" in entry else entry.get("from")
    return SPEAKERS.get(speaker.strip().casefold()) if isinstance(speaker, str) else None


def content_of(entry: Mapping[str, Any]) -> Any:
    return next((entry[key] for key in SAID if key in entry), None)


def message_of(entry: Any, column: str) -> Message:
    """One message of a conversation: role and content, or from and value."""
    if isinstance(entry, str):
        raise UnusableRow(column, _("column '{column}' is a list of texts, not of messages; a row is one example"))
    if not isinstance(entry, dict):
        raise UnusableRow(column, _("column '{column}' must hold messages; found: {kind_of}"), kind_of=kind_of(entry))
    role = role_of(entry)
    if role is None:
        speaker = entry["role"] if "role" in entry else entry.get("from")
        shown = f"'{display_name(speaker[:40])}'" if isinstance(speaker, str) else kind_of(speaker)
        raise UnusableRow(
            column,
            _("column '{column}' may only hold the roles user, assistant and system; found: {shown}"),
            shown=shown,
        )
    called = next((key for key in CALLS if holds_something(entry.get(key))), None)
    if called is not None:
        raise UnusableRow(
            column, _("column '{column}' holds a message with '{called}'; only text can be imported"), called=called
        )
    content = content_of(entry)
    if content is None and entry.keys().isdisjoint(SAID):
        raise UnusableRow(
            column,
            _("column '{column}' holds a message without a text ({text_keys}); it has {keys}"),
            text_keys=", ".join(SAID),
            keys=listed([str(key) for key in entry]),
        )
    return {"role": role, "content": text_of(text_in_parts(content, column), column, role == "user")}


def text_in_parts(content: Any, column: str) -> Any:
    """The text of a list of parts without thoughts; anything else as it is. Raises UnusableRow for other parts."""
    if not isinstance(content, list) or not content:
        return content
    said = [part for part in content if not is_thought(part)]
    others = [part for part in said if not is_text_part(part)]
    if not others:
        return "".join(part["text"] for part in said)
    kind = kind_of_part(others[0]) if isinstance(others[0], dict) else "text"
    raise UnusableRow(
        column,
        _("column '{column}' holds a part of the type '{display_name}' that has no text in 'text'")
        if kind in TEXT_PARTS
        else _("column '{column}' holds a part of the type '{display_name}'; only text can be imported"),
        display_name=display_name(kind[:40]),
    )


def holds_something(value: Any) -> bool:
    """Whether there is anything in a value: no list of nothing, no object of it, and no text that says so."""
    within = [value]
    while within:
        one = within.pop()
        if isinstance(one, str) and one.lstrip()[:1] in ("[", "{"):
            with suppress(NotJson):
                one = parse_json(one.strip())
        if isinstance(one, dict | list):
            within.extend(one.values() if isinstance(one, dict) else one)
        elif one.strip().casefold() not in NOTHING if isinstance(one, str) else one:
            return True
    return False


def entries_with(keys: Sequence[str], value: Any) -> list[Mapping[str, Any]]:
    """A message, or those of several, that may have some of these keys."""
    if isinstance(value, str) and any(f'"{key}"' in value for key in keys) and looks_like_messages(value):
        value = parse_json(value.strip())
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, dict)]


def has_thoughts(value: Any) -> bool:
    """Whether a message, or one of several, comes with what was thought before it."""
    entries = entries_with((*THOUGHTS, *THOUGHT_PARTS), value)
    parts = (part for entry in entries if isinstance(found := content_of(entry), list) for part in found)
    return any(entry.get(key) for entry in entries for key in THOUGHTS) or any(map(is_thought, parts))


def refuse_unlearned(value: Any, column: str) -> None:
    """Raises UnusableRow for a conversation, or a message, with an answer that is not to be learned, or bad."""
    answers = [entry for entry in entries_with((*LEARNED, *VERDICTS), value) if role_of(entry) == "assistant"]
    unlearned = next((key for answer in answers for key in LEARNED if is_off(answer.get(key))), None)
    if unlearned is not None:
        raise UnusableRow(
            column,
            _("column '{column}' holds an answer that is not to be learned ('{unlearned}' is off)"),
            unlearned=unlearned,
        )
    bad = next((key for answer in answers for key in VERDICTS if is_bad(answer.get(key))), None)
    if bad is not None:
        raise UnusableRow(column, _("column '{column}' holds an answer that is said to be bad ('{bad}')"), bad=bad)


def has_weights(value: Any) -> bool:
    """Whether a message, or one of several, is an answer that is to be learned more, or less, than others."""
    answers = [entry for entry in entries_with((WEIGHT,), value) if role_of(entry) == "assistant"]
    return any(number_of(answer.get(WEIGHT)) not in (None, 1.0) for answer in answers)


def is_bad(value: Any) -> bool:
    """Whether a vote is against something."""
    return says_good(value) is False or (number_of(value) or 0) < 0


def is_off(value: Any) -> bool:
    """Whether a switch is off: false or 0, in whichever way it is written."""
    return says_good(value) is False or number_of(value) == 0


def template_mark(text: str) -> str:
    """By what a text is told to be a conversation that a chat template has written; empty where nothing says so."""
    question = QUESTION_MARK.search(text) if any(sign in text for sign in IN_QUESTION_MARKS) else None
    answer = ANSWER_MARK.search(text, question.end()) if question else None
    if answer:
        return answer[0]
    if f"\n{LATER_MARK}\n" in text:
        return LATER_MARK
    return "Assistant:" if re.match(r"\s*(Human|User):.*\sAssistant:", text, re.DOTALL) else ""


def refuse_turns_within(text: str, column: str) -> None:
    """Raises UnusableRow for a text that is a conversation that a chat template has written."""
    mark = template_mark(text)
    if mark:
        raise UnusableRow(
            column,
            _("column '{column}' has turns within its text, by the marks of a chat template ('{template_mark}')"),
            template_mark=mark,
        )


def refuse_beginning_mark(text: str, column: str) -> None:
    """Raises UnusableRow for an answer that begins as a turn does that a chat template has written."""
    found = BEGINNING_MARK.match(text)
    if found and (found[1][0] in "<[" or template_mark(text)):
        raise UnusableRow(
            column, _("column '{column}' begins with the mark of a chat template ('{mark}')"), mark=found[1].strip()
        )


def end_mark(text: str, asked: bool = False) -> str:
    """The mark of a chat template with which a text ends; empty for none, and for one that is asked about."""
    found = END_MARK.search(text, max(0, len(text) - 100))
    if found is None:
        return ""
    if found[1] == "</s>":
        opened = text.rfind("<s>")
        struck_out = text[:opened].strip() and not QUESTION_MARK.search(text, opened)
        return "" if opened >= 0 and struck_out else found[1]
    return "" if asked and text[: found.start()].endswith(" ") else found[1]


def is_text_part(part: Any) -> bool:
    """Whether a part of a message's content is text, not an image or a tool's call."""
    return isinstance(part, dict) and kind_of_part(part) in TEXT_PARTS and isinstance(part.get("text"), str)


def is_thought(part: Any) -> bool:
    """Whether a part of a message's content is what was thought before the answer."""
    return isinstance(part, dict) and part.get("type") in THOUGHT_PARTS


def kind_of_part(part: Mapping[str, Any]) -> str:
    """What a part of a message's content is: its type or, where it has none, the key under which it holds something."""
    held = (key for key, value in part.items() if key != "text" and holds_something(value))
    return str(part.get("type") or next(held, "text"))


def checked(turns: Sequence[Message], column: str) -> tuple[Message, ...]:
    """A prompt: maybe a system message, then user and assistant in turn, the user last. Raises UnusableRow."""
    spoken = turns[1:] if turns and turns[0]["role"] == "system" else turns
    for place, turn in enumerate(spoken):
        expected = "assistant" if place % 2 else "user"
        if turn["role"] != expected:
            raise UnusableRow(
                column,
                _("column '{column}' has a turn of the {role} where one of the {expected} belongs"),
                role=turn["role"],
                expected=expected,
            )
    if not spoken or spoken[-1]["role"] != "user":
        raise UnusableRow(column, _("column '{column}' does not end with the user's turn"))
    return tuple(turns)


def as_turns(value: Any, column: str, asked: bool = False) -> list[Message] | None:
    """A conversation in whatever form; None for plain text, maybe `asked` for an answer. Raises UnusableRow."""
    if isinstance(value, str):
        if transcripts.is_transcript(value):
            return transcript(text_of(value, column), column)
        if PRINTED.fullmatch(value):
            raise UnusableRow(
                column, _("column '{column}' holds messages as Python prints them, not JSON; save them as JSON lines")
            )
        if not looks_like_messages(value):
            text_of(value, column, asked)
            return None
    elif not isinstance(value, list):
        refuse_object(value, column)
        raise UnusableRow(
            column, _("column '{column}' must be text or messages; found: {kind_of}"), kind_of=kind_of(value)
        )
    return conversation(value, column)


def transcript(text: str, column: str) -> list[Message]:
    """The turns of an HH transcript. Raises UnusableRow."""
    turns = transcripts.turns_of(text)
    refuse_many(turns, column)
    for turn in turns:
        text_of(turn["content"], column, turn["role"] == "user")
    return turns


def text_lists(values: Sequence[Any]) -> list[list[str]] | None:
    """Texts that are lists of texts in JSON, all of one length, as the turns of the Arena's CSV files; else None."""
    found = []
    for value in values:
        if not isinstance(value, str) or not value.lstrip().startswith("["):
            return None
        try:
            texts = parse_json(value.strip())
        except UserError:
            return None
        if not isinstance(texts, list) or not texts or not all(isinstance(one, str | None) for one in texts):
            return None
        found.append(texts)
    return found if len({len(texts) for texts in found}) == 1 else None


def earlier_turns(value: Any, column: str) -> list[Message]:
    """Turns before a prompt: pairs of a question and its answer, or messages. Raises UnusableRow."""
    if value in (None, "", []):
        return []
    entries = list_of(value, column)
    if all(isinstance(entry, dict) for entry in entries):
        return conversation(entries, column)
    if not all(isinstance(entry, list) and len(entry) == 2 for entry in entries):
        raise UnusableRow(column, _("column '{column}' holds something else than pairs of question and answer"))
    texts = [text_of(text, column) for entry in entries for text in entry]
    refuse_many(texts, column)
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def looks_like_messages(text: str) -> bool:
    """Whether a text is a JSON list of messages; an answer may begin with a bracket, too."""
    if not text.lstrip().startswith("[{"):
        return False
    try:
        value = parse_json(text.strip())
    except UserError:
        return False
    return all(isinstance(entry, dict) and not entry.keys().isdisjoint(("role", "from")) for entry in value)
