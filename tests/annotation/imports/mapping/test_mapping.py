"""Columns and rows to records: every shape that is understood, every reason why a row is not, and arbitrary rows."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.imports.mapping import conversations, labels
from annotation.imports.mapping.columns import ROLES, ColumnUsage, propose
from annotation.imports.mapping.import_plan import TARGETS
from annotation.imports.mapping.labels import AskedColumn, UnclearColumn, UnusableRow
from annotation.imports.mapping.mapped_rows import MappedRow
from annotation.imports.mapping.planning import make_plan
from annotation.imports.mapping.row_readers import reader_of
from annotation.imports.sources.raw_rows import SourceRow, Unread
from annotation.records import UserError
from annotation.store import prompt_store


def user(text: str) -> dict[str, str]:
    """A turn of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    """A turn of the assistant."""
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    """A system message."""
    return {"role": "system", "content": text}


def rows(*values: dict[str, Any]) -> list[SourceRow]:
    """Raw rows as they come from a file."""
    return [SourceRow(number, value) for number, value in enumerate(values, 1)]


def record(value: dict[str, Any], *more: Any, **named: Any) -> tuple[str, MappedRow]:
    """The target that is proposed for a row, and what the row becomes."""
    plan = make_plan(rows(value), *more, **named)
    return plan.target, reader_of(plan)(value)


def ranked(messages: list[dict[str, str]], answers: list[str], ranking: list[int], **more: Any) -> MappedRow:
    """A comparison with its verdict."""
    return MappedRow(tuple(messages), tuple(answers), "ranked", tuple(ranking), **more)


TURNS = [user("Hi"), assistant("Hello."), user("Why?")]
SHARE_GPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}, {"from": "human", "value": "Why?"}]
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
SHAPES: dict[str, tuple[dict[str, Any], str, MappedRow]] = {
    "plain prompt": ({"id": 7, "Question": "Why?"}, "prompts", MappedRow((user("Why?"),))),
    "text only": ({"text": "Why?"}, "prompts", MappedRow((user("Why?"),))),
    "messages": ({"messages": TURNS}, "prompts", MappedRow(tuple(TURNS))),
    "share gpt": ({"conversations": SHARE_GPT}, "prompts", MappedRow(tuple(TURNS))),
    "messages as JSON in a CSV field": ({"messages": json.dumps(TURNS)}, "prompts", MappedRow(tuple(TURNS))),
    "prompt as a transcript": ({"prompt": HH}, "prompts", MappedRow(tuple(TURNS))),
    "content in parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        "prompts",
        MappedRow((user("ab"),)),
    ),
    "system column": (
        {"system": "Be brief.", "question": "Why?", "chosen": "a", "rejected": "b"},
        "preferences",
        ranked([system("Be brief."), user("Why?")], ["a", "b"], [1, 2]),
    ),
    "demonstration": ({"prompt": "Why?", "completion": "So."}, "demonstrations", MappedRow((user("Why?"),), ("So.",))),
    "alpaca": (
        {"instruction": "Translate.", "input": "Katze", "output": "cat"},
        "demonstrations",
        MappedRow((user("Translate.\n\nKatze"),), ("cat",)),
    ),
    "alpaca without input": (
        {"instruction": "Say hi.", "input": "", "output": "hi"},
        "demonstrations",
        MappedRow((user("Say hi."),), ("hi",)),
    ),
    "conversation that ends with an answer": (
        {"messages": [system("Be kind."), *TURNS, assistant("Because.")]},
        "demonstrations",
        MappedRow((system("Be kind."), *TURNS), ("Because.",)),
    ),
    "TRL plain": (
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        "preferences",
        ranked([user("The sky is")], [" blue.", " green."], [1, 2]),
    ),
    "TRL plain, implicit prompt": (
        {"chosen": "Which colour? It is blue.", "rejected": "Which colour? It is green."},
        "preferences",
        ranked([user("Which colour?")], ["It is blue.", "It is green."], [1, 2]),
    ),
    "TRL conversational": (
        {"prompt": TURNS, "chosen": [assistant("a")], "rejected": [assistant("b")]},
        "preferences",
        ranked(TURNS, ["a", "b"], [1, 2]),
    ),
    "TRL conversational, implicit prompt": (
        {"chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]},
        "preferences",
        ranked(TURNS, ["a", "b"], [1, 2]),
    ),
    "prompt beside whole conversations": (
        {"prompt": "Why?", "chosen": [user("Why?"), assistant("a")], "rejected": [user("Why?"), assistant("b")]},
        "preferences",
        ranked([user("Why?")], ["a", "b"], [1, 2]),
    ),
    "conversation beside its last turn": (
        {"prompt": "Why?", "conversation": json.dumps(TURNS), "chosen": "a", "rejected": "b"},
        "preferences",
        ranked(TURNS, ["a", "b"], [1, 2]),
    ),
    "prompt as a transcript, answers after its last word": (
        {"prompt": HH, "chosen": " a ", "rejected": "b"},
        "preferences",
        ranked(TURNS, ["a ", "b"], [1, 2]),
    ),
    "conversation and its answer": (
        {"messages": TURNS, "completion": "So."},
        "demonstrations",
        MappedRow(tuple(TURNS), ("So.",)),
    ),
    "HH": (
        {"chosen": f"{HH} Because.", "rejected": f"{HH} No idea. \n"},
        "preferences",
        ranked(TURNS, ["Because.", "No idea."], [1, 2]),
    ),
    "strength": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "strength": 3},
        "preferences",
        ranked([user("p")], ["a", "b"], [1, 2], strength=3),
    ),
    "our own margin": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2 / 3},
        "preferences",
        ranked([user("p")], ["a", "b"], [1, 2], strength=2),
    ),
    "no margin": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 0.0},
        "preferences",
        ranked([user("p")], ["a", "b"], [1, 2]),
    ),
    "another margin": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 4.25},
        "preferences",
        ranked([user("p")], ["a", "b"], [1, 2], remark=labels.OTHER_MARGIN),
    ),
    "scores": (
        {"prompt": "p", "responses": ["a", "b", "c"], "scores": [0.5, 9, 0.5]},
        "preferences",
        ranked([user("p")], ["a", "b", "c"], [2, 1, 2]),
    ),
    "scores as text in CSV fields": (
        {"prompt": "p", "responses": '["a", "b", "c"]', "scores": '["1", "10", "9"]'},
        "preferences",
        ranked([user("p")], ["a", "b", "c"], [3, 1, 2]),
    ),
    "ranks": (
        {"prompt": "p", "answers": ["a", "b", "c"], "rank": [3, 1, 7]},
        "preferences",
        ranked([user("p")], ["a", "b", "c"], [2, 1, 3]),
    ),
    "tied scores of two": (
        {"prompt": "p", "responses": ["a", "b"], "scores": [4, 4.0]},
        "preferences",
        ranked([user("p")], ["a", "b"], [1, 1], strength=0),
    ),
    "answers with scores inside": (
        {"instruction": "p", "completions": [{"response": "a", "rating": 2}, {"response": "b", "rating": 8}]},
        "preferences",
        ranked([user("p")], ["a", "b"], [2, 1]),
    ),
    "answers with ranks inside": (
        {"prompt": "p", "responses": [{"text": "a", "rank": 2}, {"text": "b", "rank": 1}, {"text": "c", "rank": 2}]},
        "preferences",
        ranked([user("p")], ["a", "b", "c"], [2, 1, 2]),
    ),
    "answers that are messages": (
        {"prompt": TURNS, "responses": [[assistant("a")], [*TURNS, assistant("b")]], "scores": [1, 2]},
        "preferences",
        ranked(TURNS, ["a", "b"], [2, 1]),
    ),
    "winner a": (
        {"prompt": "p", "response_a": "x", "response_b": "y", "winner": "a"},
        "preferences",
        ranked([user("p")], ["x", "y"], [1, 2]),
    ),
    "winner by column": (
        {"prompt": "p", "response_a": "x", "response_b": "y", "winner": "Response_B"},
        "preferences",
        ranked([user("p")], ["x", "y"], [2, 1]),
    ),
    "winner of the arena": (
        {
            "conversation_a": [user("p"), assistant("x")],
            "conversation_b": [user("p"), assistant("y")],
            "winner": "model_b",
        },
        "preferences",
        ranked([user("p")], ["x", "y"], [2, 1]),
    ),
    "both bad": (
        {"prompt": "p", "answer_a": "x", "answer_b": "y", "winner": "tie (bothbad)"},
        "preferences",
        MappedRow((user("p"),), ("x", "y"), "all-bad"),
    ),
    "tie": (
        {"prompt": "p", "output_1": "x", "output_2": "y", "preference": "Tie"},
        "preferences",
        ranked([user("p")], ["x", "y"], [1, 1], strength=0),
    ),
    "SHP, the first preferred": (
        {"history": "p", "human_ref_A": "x", "human_ref_B": "y", "labels": 1, "score_A": 9, "score_B": 2},
        "preferences",
        ranked([user("p")], ["x", "y"], [1, 2]),
    ),
    "SHP, the second preferred": (
        {"history": "p", "human_ref_A": "x", "human_ref_B": "y", "labels": 0, "score_A": 2, "score_B": 9},
        "preferences",
        ranked([user("p")], ["x", "y"], [2, 1]),
    ),
    "winner counted from 1": (
        {"prompt": "p", "output_1": "x", "output_2": "y", "preference": 2.0},
        "preferences",
        ranked([user("p")], ["x", "y"], [2, 1]),
    ),
    "winner counted from 0": (
        {"prompt": "p", "response_0": "x", "response_1": "y", "better_response_id": 1},
        "preferences",
        ranked([user("p")], ["x", "y"], [2, 1]),
    ),
    "KTO": (
        {"prompt": "p", "completion": "x", "label": True},
        "preferences",
        MappedRow((user("p"),), ("x",), label=True),
    ),
    "KTO conversational, from a CSV": (
        {"prompt": json.dumps([user("p")]), "completion": json.dumps([assistant("x")]), "label": "False"},
        "preferences",
        MappedRow((user("p"),), ("x",), label=False),
    ),
}  # fmt: skip


def test_a_text_about_what_python_prints_is_a_text() -> None:
    for text in ("{'value': 3} is what it prints", "[{'role': 'x'}] says nothing."):
        assert conversations.as_turns(text, "chosen") is None


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_is_recognised_and_read(name: str) -> None:
    value, target, expected = SHAPES[name]
    assert record(value) == (target, expected)


@pytest.mark.parametrize(
    "name", [name for name in SHAPES if "chosen" in SHAPES[name][0] or "messages" in SHAPES[name][0]]
)
def test_prompts_can_be_taken_from_other_shapes(name: str) -> None:
    value, _, expected = SHAPES[name]
    assert record(value, "prompts") == ("prompts", MappedRow(expected.messages))


def test_an_answer_may_begin_with_a_bracket() -> None:
    value = {"prompt": "p", "chosen": "[{not json", "rejected": '[{"x": 1}]'}
    assert record(value)[1].answers == ("[{not json", '[{"x": 1}]')


def test_what_only_looks_like_a_mark_is_text() -> None:
    for text in (
        *("It was <s>blue</s>", "f <| g |> h", "### User guide\n### Response time", "my user: an assistant"),
        *("### User: x\n### AI: y", "[/INST] ends what [INST] begins.", "### response: x\n### instruction: y"),
    ):
        assert record({"prompt": text, "chosen": f"a {text}", "rejected": "b"})[1].answers == (f"a {text}", "b")


def test_a_mark_can_be_asked_about() -> None:
    for text in ("What does this token mean: <|im_end|>", "What is <eos>"):
        for prompt in (text, [user(text)], f"\n\nHuman: {text}\n\nAssistant:"):
            assert record({"prompt": prompt, "completion": "x"})[1].messages == (user(text),)


def test_a_text_without_signs_is_not_searched_for_marks() -> None:
    for mark in (
        "<|user|>",
        "[INST]",
        "[|Human|]",
        "### Human:",
        "USER: ",
        "GPT4 Correct User:",
        "<start_of_turn>user",
    ):
        assert any(sign in mark for sign in conversations.IN_QUESTION_MARKS)
        assert conversations.QUESTION_MARK.fullmatch(mark)


def test_text_is_kept_as_it_is() -> None:
    """HTML, formulas and control characters are text; only what can't be stored is refused."""
    odd = ' \x1b[31m<img src=x onerror=alert(1)>\u202e${1+1}\r\n=HYPERLINK("x") '
    assert record({"prompt": odd, "completion": odd})[1] == MappedRow((user(odd),), (odd,))


# ----------------------------------------------------------------------------------------------------- the person's say
def test_columns_can_be_given_and_left_out() -> None:
    value = {"question": "q", "title": "t", "answer": "x", "notes": "n"}
    assert propose(rows(value)) == {"prompt": "question", "completion": "answer"}
    assert record(value, "auto", {"prompt": "title", "completion": "notes"})[1] == MappedRow((user("t"),), ("n",))
    assert record(value, "auto", {"completion": ""}) == ("prompts", MappedRow((user("q"),)))


@pytest.mark.parametrize(
    ("columns", "target", "message"),
    [
        ({"promt": "x"}, "auto", "'promt' is no role of a column. There are: prompt, context"),
        ({"prompt": "nothing"}, "auto", "There is no column 'nothing'. There are: 'x', 'y'"),
        ({}, "auto", "name one as 'prompt' or 'messages'. The columns are: 'x', 'y'."),
        ({}, "demonstrations", "need the columns 'prompt' and 'completion'"),
        ({"prompt": "x"}, "preferences", "No preferences in these columns"),
        ({"prompt": "x", "a": "x", "b": "y"}, "preferences", "no column that says which is better"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(columns: dict[str, str], target: Any, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        make_plan(rows({"x": 1, "y": 2}), target, columns)
    assert message in str(refusal.value)


def test_a_refusal_names_what_lies_within_columns_as_a_path_that_can_be_said() -> None:
    """As of Label Studio's export, of which no column is known."""
    task = {"data": {"prompt": "Name a river.", "one": "The Rhine.", "two": "Paris."}, "id": 1, "agreement": {}}
    said = [{"result": [{"value": {"selected": "left"}, "type": "pairwise"}], "was_cancelled": False}]
    with pytest.raises(UserError) as refusal:
        make_plan(rows({**task, "annotations": said}))
    chosen, kind = (f"'annotations[0].result[0].{end}" for end in ("value.selected'", "type'"))
    listed = (
        f"'data.prompt', 'data.one', 'data.two', 'id', 'agreement', {chosen}, {kind}, 'annotations[0].was_cancelled'"
    )
    assert f"The columns are: {listed}." in str(refusal.value)
    columns = {"prompt": "data.prompt", "a": "data.one", "b": "data.two", "winner": chosen.strip("'")}
    assert record({**task, "annotations": said}, "auto", columns)[1].ranking == (1, 2)
    with pytest.raises(UserError, match=r"There is no column 'data\.question'\. There are: 'data\.prompt'"):
        make_plan(rows(task), "auto", {"prompt": "data.question"})


def test_a_margin_beside_the_strength_that_is_read_changes_nothing() -> None:
    """As in our own exports; one that is left out may."""
    met = ColumnUsage()
    met.see({"prompt": "p", "chosen": "a", "rejected": "b", "strength": 2, "margin": 2 / 3})
    assert met.unused(("prompt", "chosen", "rejected", "strength")) == ((), ("margin",))
    assert met.unused(("prompt", "chosen", "rejected")) == (("strength", "margin"), ())


def test_answers_for_people_to_judge_need_no_verdict() -> None:
    plan = make_plan(rows({"prompt": "p", "responses": ["a", "b"]}), verdict="open")
    assert reader_of(plan)({"prompt": "p", "responses": ["a", "b"]}) == MappedRow((user("p"),), ("a", "b"))
    with pytest.raises(UserError, match="can't be gold or judged"):
        make_plan(rows({"prompt": "p", "completion": "c", "label": True}), verdict="open")
    with pytest.raises(UserError, match="Only preference data"):
        make_plan(rows({"prompt": "p"}), verdict="gold")


def test_bad_answers_are_no_demonstrations() -> None:
    plan = make_plan(rows({"prompt": "p", "completion": "c", "label": True}), "demonstrations")
    assert reader_of(plan)({"prompt": "p", "completion": "c", "label": 1}).answers == ("c",)
    with pytest.raises(UnusableRow, match="says that the answer is bad"):
        reader_of(plan)({"prompt": "p", "completion": "c", "label": 0})


# ------------------------------------------------------------------------------------------------------------- reasons
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
DUEL = {"prompt": "p", "response_a": "x", "response_b": "y", "winner": "a"}
SCORED = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]}
KTO = {"prompt": "p", "completion": "x", "label": True}
TALK = {"messages": TURNS}
TALK_TOLD = {"messages": [*TURNS, assistant("So.")]}
HELP_STEER = "Hi\n<extra_id_1>Assistant\nHello.\n<extra_id_1>User\nWhy?"
PAIR_ONLY = {"chosen": "Why? So.", "rejected": "Why? No."}


@pytest.mark.parametrize(
    ("shape", "changes", "column", "reason"),
    [
        (PAIR, {"prompt": None}, "prompt", "must be text or messages; found: empty (null)"),
        (PAIR, {"prompt": 12}, "prompt", "must be text or messages; found: a number"),
        (PAIR, {"prompt": " \n "}, "prompt", "is empty"),
        (PAIR, {"chosen": {"a": 1}}, "chosen", "must be text or messages; found: an object"),
        (
            PAIR,
            {"prompt": {"id": "7", "turns": ["p"]}},
            "prompt",
            "is an object; name the part of it that is meant, as 'prompt.turns'",
        ),
        (PAIR, {"chosen": ["a", "b"]}, "chosen", "is a list of texts, not of messages; a row is one example"),
        (PAIR, {"chosen": []}, "chosen", "is an empty list"),
        (PAIR, {"chosen": [None]}, "chosen", "must hold messages; found: empty (null)"),
        (
            PAIR,
            {"chosen": [{"role": "tool", "content": "x"}]},
            "chosen",
            "may only hold the roles user, assistant and system; found: 'tool'",
        ),
        (
            PAIR,
            {"chosen": [{"content": "x"}]},
            "chosen",
            "may only hold the roles user, assistant and system; found: empty (null)",
        ),
        (PAIR, {"chosen": str([assistant("a")])}, "chosen", "holds messages as Python prints them, not JSON"),
        (PAIR, {"chosen": Unread("binary")}, "chosen", "must be text or messages; found: a value of type binary"),
        (PAIR, {"prompt": HELP_STEER}, "prompt", "has turns within its text, by the marks of a chat template ('<ext"),
        (PAIR, {"prompt": "<｜User｜>q<｜Assistant｜>a<｜User｜>r"}, "prompt", "has turns within its text"),
        (PAIR, {"prompt": "[|Human|]q[|AI|]a"}, "prompt", "has turns within its text, by the marks"),
        (PAIR, {"prompt": "User: q\n\nAssistant: a\n\nUser: r"}, "prompt", "has turns within its text, by the marks"),
        (PAIR, {"chosen": "a<|im_end|>\n"}, "chosen", "ends with the mark of a chat template ('<|im_end|>')"),
        (PAIR, {"rejected": [assistant("b<|eot_id|>")]}, "rejected", "ends with the mark of a chat template"),
        (PAIR, {"rejected": "<s>b</s>"}, "rejected", "ends with the mark of a chat template ('</s>')"),
        (
            PAIR,
            {side: f"<s>[INST] a [/INST] b </s><s>[INST] c [/INST] {side} </s>" for side in ("chosen", "rejected")},
            "chosen",
            "has turns within its text",
        ),
        (
            PAIR_ONLY,
            {side: f"\n\nHuman: q\n\nAssistant: {side}</s>" for side in ("chosen", "rejected")},
            "chosen",
            "ends with the mark of a chat template ('</s>')",
        ),
        (PAIR, {"chosen": "<|user|>\nq\n<|assistant|>\nx"}, "chosen", "begins with the mark of a chat template ('<|u"),
        (PAIR, {"rejected": "<s>[INST] q [/INST] x"}, "rejected", "begins with the mark of a chat template ('[INST]')"),
        (PAIR, {"rejected": "### Human: q\n### Assistant: x"}, "rejected", "begins with the mark of a chat template"),
        (PAIR, {"rejected": "<|im_start|>assistant\nx"}, "rejected", "begins with the mark of a chat template"),
        (SCORED, {"responses": ["[INST] x", "b"]}, "responses", "begins with the mark of a chat template"),
        (TALK_TOLD, {"messages": [user("q"), assistant("<|user|>r")]}, "messages", "begins with the mark of a chat"),
        (PAIR, {"prompt": "p</s>"}, "prompt", "ends with the mark of a chat template ('</s>')"),
        (PAIR, {"prompt": "q<｜end▁of▁sentence｜>"}, "prompt", "ends with the mark of a chat template"),
        (PAIR_ONLY, {side: f"[INST] Why? [/INST] {side}" for side in ("chosen", "rejected")}, "chosen", "has turns"),
        (SCORED, {"responses": ["a</s>", "b</s>"]}, "responses", "ends with the mark of a chat template"),
        (PAIR, {"chosen": [assistant("a")]}, "rejected", "is plain text, unlike 'chosen'"),
        (PAIR, {"rejected": "a "}, "rejected", "says the same as 'chosen'"),
        (PAIR, {"chosen": "a\x00b"}, "chosen", "holds a NUL character"),
        (PAIR, {"chosen": "a\ud800"}, "chosen", "holds half of a surrogate pair"),
        (PAIR, {"chosen": "a" * 100_001}, "chosen", "is longer than 100,000 characters"),
        (
            PAIR,
            {"chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            "rejected",
            "parts from 'chosen' before the last answer",
        ),
        (
            PAIR,
            {"prompt": "z", "chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]},
            "prompt",
            "is not the question in 'chosen'",
        ),
        (PAIR, {"chosen": f"{HH} x", "rejected": HH}, "rejected", "does not end with the assistant's turn"),
        (
            PAIR,
            {"prompt": [user("a"), user("b")]},
            "prompt",
            "has a turn of the user where one of the assistant belongs",
        ),
        (PAIR, {"prompt": [assistant("a")]}, "prompt", "has a turn of the assistant where one of the user belongs"),
        (PAIR, {"prompt": [user("a"), assistant("b")]}, "prompt", "does not end with the user's turn"),
        (PAIR, {"prompt": [system("a")]}, "prompt", "does not end with the user's turn"),
        (DUEL, {"winner": "c"}, "winner", "is 'c': neither 'a' ('response_a') nor 'b' ('response_b') nor 'tie'"),
        (
            DUEL,
            {"winner": 1},
            "winner",
            "is 1: neither 'a' ('response_a') nor 'b' ('response_b') nor 'tie'; if it is a ",
        ),
        (DUEL, {"winner": "-a"}, "winner", "is '-a': neither"),
        (DUEL, {"winner": True}, "winner", "must name a winner; found: true or false"),
        (DUEL, {"winner": None}, "winner", "must name a winner; found: empty (null)"),
        (SCORED, {"responses": ["a"]}, "responses", "must hold 2 to 8 answers; found: 1"),
        (SCORED, {"responses": list("abcdefghi")}, "responses", "must hold 2 to 8 answers; found: 9"),
        (SCORED, {"responses": ["a", "a"]}, "responses", "holds the same answer twice"),
        (SCORED, {"responses": ["a", None]}, "responses", "must be text or messages; found: empty (null)"),
        (SCORED, {"responses": "a, b"}, "responses", "must be a list; found: text"),
        (SCORED, {"responses": "[a"}, "responses", "is text that is not JSON"),
        (SCORED, {"responses": [{"score": 1}, {"score": 2}]}, "responses", "holds an object without a text"),
        (SCORED, {"scores": [1]}, "scores", "needs 2 numbers, one for each answer; found: 1"),
        (SCORED, {"scores": [1, None]}, "scores", "must hold finite numbers; found: empty (null)"),
        (SCORED, {"scores": [1, math.nan]}, "scores", "must hold finite numbers; found: a number that is not finite"),
        (SCORED, {"scores": [1, 10**400]}, "scores", "must hold finite numbers; found: a number that is not finite"),
        (SCORED, {"scores": [1, "good"]}, "scores", "must hold finite numbers; found: text"),
        (KTO, {"label": "maybe"}, "label", "must say yes or no, such as true or false; found: 'maybe'"),
        (KTO, {"label": None}, "label", "must say yes or no, such as true or false; found: empty (null)"),
        (TALK, {"messages": "hello"}, "messages", "is plain text, not a conversation"),
        (TALK, {"messages": [user("x")] * 201}, "messages", "has more than 200 turns"),
        (TALK, {"messages": [{"role": "user", "content": None}]}, "messages", "must be text; found: empty (null)"),
        (
            TALK,
            {"messages": [{**user(""), "content": [{"type": "image"}]}]},
            "messages",
            "holds a part of the type 'image'",
        ),
    ],
)
def test_a_row_that_cannot_be_used_says_which_column_and_why(
    shape: dict[str, Any], changes: dict[str, Any], column: str, reason: str
) -> None:
    plan = make_plan(rows(shape))
    with pytest.raises(UnusableRow) as refusal:
        reader_of(plan)({**shape, **changes})
    assert refusal.value.column == column
    assert str(refusal.value).startswith(f"column '{column}' {reason}")


def test_a_reason_carries_nothing_to_a_terminal() -> None:
    row = {"prompt": "p", "response_a": "x <|\x1b]0;t\x07|>", "response_b": "y", "winner": "a"}
    read = reader_of(make_plan([SourceRow(1, row)]))
    with pytest.raises(UnusableRow, match=r"ends with the mark of a chat template \('<\|\ufffd\]0;t\ufffd\|>'\)"):
        read(row)


@pytest.mark.parametrize("name", ["label", "rating", "Quality (1-5)"])
def test_a_label_that_could_not_be_read_is_not_passed_over(name: str) -> None:
    with pytest.raises(UnclearColumn, match=r"bad (answers|ones) must not be learned"):
        make_plan(rows({"prompt": "p", "completion": "a", name: Unread("binary")}))


@pytest.mark.parametrize(
    "values",
    [
        [{"chosen": "Yes.", "rejected": "No."}],
        [{"chosen": "The rain has stopped.", "rejected": "The moon is cheese."}],
        [{"chosen": "Why? So.", "rejected": "Why? No."}, {"chosen": "The rain.", "rejected": "The moon."}],
        [{"user_prompt": "Is it raining?", "chosen": "The rain has stopped.", "rejected": "The moon is cheese."}],
        [{"user_prompt": "Is it?", "chosen": "I see. It is.", "rejected": "I see. It is not."}],
        [{"chosen": f"{HH} x", "rejected": f"{HH} y"}, *[{"chosen": "The rain.", "rejected": "The moon."}] * 2],
        [{"notes": f"a text of {n} words", "chosen": "I see. It is.", "rejected": "I see. No."} for n in range(3)],
        [{"dialogue_history": [user("q")], "response_a": "I see. It is.", "response_b": "I see. No.", "winner": "a"}],
        [{"chosen": f"Sure! It is {n}.", "rejected": f"Sure! No, it is {n + 1}."} for n in range(3)],
    ],
)
def test_what_two_answers_begin_with_is_no_prompt_unless_it_can_be_one(values: list[dict[str, Any]]) -> None:
    with pytest.raises(UnclearColumn, match=r"no column with the prompt|No column is known to hold"):
        make_plan(rows(*values))


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ({"chosen": "Yes.", "rejected": "No."}, {"prompt"}),
        ({"prompt": "p", "completion": "a", "Quality (1-5)": Unread("binary")}, {"label", "rating"}),
        ({"prompt": "p", "completion": "a", "label": "x"}, {"label"}),
        ({"prompt": "p", "completion": "a", "helpfulness": 3}, {"rating"}),
        ({"prompt": "p", "response_1": "x", "response_2": "y", "winner": -1}, {"winner_from_0", "preference"}),
        ({"prompt": "p", "response_1": "x", "response_2": "y"}, {"winner", "score_a", "score_b"}),
        ({"prompt": "p", "responses": ["x", "y", "z"], "rankings": [1, 2, 0]}, {"ranks", "order"}),
    ],
)
def test_a_refusal_says_which_columns_it_asks_for(value: dict[str, Any], asked: set[str]) -> None:
    with pytest.raises(AskedColumn) as refused:
        make_plan(rows(value))
    assert asked <= set(refused.value.roles) <= {*ROLES}


def test_that_the_answers_begin_with_the_prompt_can_be_said() -> None:
    value = {"source": "a book of mine", "chosen": "Why? So.", "rejected": "Why? No."}
    plan = make_plan(rows(value), "auto", {"prompt": ""})
    assert reader_of(plan)(value) == ranked([user("Why?")], ["So.", "No."], [1, 2])
    with pytest.raises(UnusableRow, match="don't begin alike"):
        reader_of(plan)({"chosen": "Rain.", "rejected": "Rails."})


def test_where_it_is_said_that_they_do_they_part_at_a_blank_as_trl_has_it() -> None:
    value = {"chosen": "The sky is blue.", "rejected": "The sky is black."}
    with pytest.raises(UnclearColumn, match="no column with the prompt"):
        make_plan(rows(value))
    assert record(value, "auto", {"prompt": ""})[1] == ranked([user("The sky is")], ["blue.", "black."], [1, 2])


@pytest.mark.parametrize(
    "beside", [{}, {"source": "Open Orca"}, {"source": "a book of mine"}, {"source_url": "x"}, {"prompt_id": "7"}]
)
def test_most_answers_that_begin_alike_are_enough(beside: dict[str, Any]) -> None:
    odd = {"chosen": "Ah.", "rejected": "Oh."}
    found = rows(*({**beside, "chosen": f"Why {n}? So.", "rejected": f"Why {n}? No."} for n in range(6)), odd)
    read = reader_of(make_plan(found))
    assert read(found[0].values).messages == (user("Why 0?"),)
    with pytest.raises(UnusableRow, match="don't begin alike"):
        read(odd)


# ----------------------------------------------------------------------------------------------------------- odd texts
LONG = 99_990  # with what stands around it, a text of 100,000 characters is read


@pytest.mark.parametrize(
    "piece",
    [
        *(" ", "\n", "\u3000", "<s>", "<s> ", "[INST", "<|im_start|>", "### ", "Human: ", "\n\nHuman: ", "User: \n"),
        *(">", "a>", "=", "A=", "<", "a<b", "≫", "[", "]", "[[", "1", "1.", "-", "_", "a_", "_-", ")", ") ", ". "),
        ".)",
        *("{", "}", "[{", "}] ", "[{'role':} ", '{"a":', '"', "\\", "a ", "\x1f"),
    ],
)
def test_no_text_takes_more_than_a_look(piece: str) -> None:
    """What takes time with the square of the length takes minutes here."""
    shapes = [
        (PAIR, "chosen"), (PAIR, "prompt"), (TALK_TOLD, "messages"), (DUEL, "winner"), (DUEL, "response_a"),
        (KTO, "label"), (SCORED, "scores"), ({**SCORED, "winner": "a", "scores": None}, "winner"),
        ({**PAIR, "strength": 1}, "strength"),
        ({**PAIR, "score_chosen": 2, "score_rejected": 1}, "score_chosen"), ({**PAIR, "status": "x"}, "status"),
    ]  # fmt: skip
    many = piece * (LONG // len(piece))
    for text in (many, f"{many}x", f"x{many}", f"x{many}\nx", f"[{many}]"):
        for shape, column in shapes:
            with suppress(UserError):
                make_plan(rows(shape, {**shape, column: text}))


@pytest.mark.parametrize(
    ("shape", "column"), [(KTO, "images"), (KTO, "label"), (KTO, "prompt"), (DUEL, "winner"), (TALK, "messages")]
)
def test_any_depth_gives_a_record_or_a_reason(shape: dict[str, Any], column: str) -> None:
    nested: Any = ""
    for _ in range(5_000):
        nested = [nested]
    objects = "[" + '{"role": [' * 400 + "]}" * 400 + "]"
    for value in (nested, objects):
        with suppress(UnusableRow):
            reader_of(make_plan(rows(shape)))({**shape, column: value})
        with suppress(UserError):
            make_plan(rows({**shape, column: value}))


# ------------------------------------------------------------------------------------------------------------ arbitrary
KEYS = st.sampled_from(
    [alias for _, aliases in ROLES.values() for alias in aliases]
    + ["response_a", "response_b", "a", "b", "role", "content", "from", "value", "text", "score", "rank", "type"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["user", "assistant", "human", "gpt", "system", "a", "b", "tie", HH, f"{HH} x", "[", "[{", '["x"]']
    )
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": inner})
    ),
    max_leaves=10,
)
ROWS = st.lists(st.dictionaries(KEYS, VALUES, max_size=5), min_size=1, max_size=4)


@given(ROWS, st.sampled_from(["auto", *TARGETS]), st.sampled_from(["judged", "gold", "open"]))
@settings(max_examples=500)
def test_arbitrary_rows_give_records_or_the_error_for_people(values: list[Any], target: Any, verdict: Any) -> None:
    found = rows(*values)
    with suppress(UserError):
        plan = make_plan(found, target, verdict=verdict)
        for row in found:
            with suppress(UnusableRow):
                check_storable(reader_of(plan)(row.values))


@given(st.sampled_from(sorted(SHAPES)), st.data())
@settings(max_examples=400)
def test_a_changed_row_of_a_known_shape_gives_a_record_or_a_reason(name: str, data: st.DataObject) -> None:
    value, _, _ = SHAPES[name]
    plan = make_plan(rows(value))
    column = data.draw(st.sampled_from(sorted(value)))
    with suppress(UnusableRow, UnclearColumn):  # of the row, or, with labels of a scale, of the whole file
        check_storable(reader_of(plan)({**value, column: data.draw(VALUES)}))


def check_storable(found: MappedRow) -> None:
    """What the tables and their readers take for granted."""
    _, messages = prompt_store.fingerprint_of(found.messages)
    turns = [turn["role"] for turn in json.loads(messages) if turn["role"] != "system"]
    assert turns == (["user", "assistant"] * len(turns))[: len(turns)]
    assert turns[-1] == "user"
    assert all(answer.strip() and answer.encode() and "\x00" not in answer for answer in found.answers)
    if found.ranking is not None:
        assert len(found.ranking) == len(found.answers) >= 2
        assert set(found.ranking) == set(range(1, max(found.ranking) + 1))
    assert found.strength in (None, 0, 1, 2, 3)
