"""Schemas of public data sets, with samples written here: what their rows become, with flags or without, or why not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from annotation.imports.mapping import labels
from annotation.imports.mapping.columns import ColumnUsage
from annotation.imports.mapping.labels import UnusableRow
from annotation.imports.mapping.mapped_rows import MappedRow
from annotation.imports.mapping.planning import make_plan
from annotation.imports.mapping.prompt_and_answers import OTHER_SYSTEMS
from annotation.imports.mapping.row_readers import (
    EQUAL_SCORES,
    NOT_ALL_READ,
    SAID_TIE,
    SYSTEM_LEFT,
    THOUGHTS_LEFT,
    WEIGHT_LEFT,
    reader_of,
)
from annotation.imports.sources.raw_rows import SourceRow, Unread
from annotation.records import UserError
from tests.annotation.imports.mapping.test_mapping import assistant, system, user


def said(who: str, text: str) -> dict[str, str]:
    """A turn as ShareGPT writes it."""
    return {"from": who, "value": text}


def told(prompt: Any, *answers: str, ranking: tuple[int, ...] | None = None, **more: Any) -> MappedRow:
    """A record; a prompt that is text is the user's only turn."""
    messages = (user(prompt),) if isinstance(prompt, str) else tuple(prompt)
    outcome = {"outcome": "ranked", "ranking": ranking} if ranking else {}
    return MappedRow(messages, answers, **{**outcome, **more})


FIRST, SECOND, TIE = (1, 2), (2, 1), (1, 1)


@dataclass(frozen=True)
class Case:
    """Rows of a format, how they are imported, and what they become: records, or the beginning of a reason."""

    rows: list[dict[str, Any]]
    becomes: list[MappedRow | str]
    target: str = "preferences"
    columns: dict[str, str] = field(default_factory=dict)
    telling: list[str] = field(default_factory=list)
    """Columns that are named as not used though they may change the meaning."""
    good_from: float | None = None
    verdict: Any = "judged"


@dataclass(frozen=True)
class Refused:
    """Rows that are refused as a whole, with what the sentence says."""

    rows: list[dict[str, Any]]
    sentence: str
    columns: dict[str, str] = field(default_factory=dict)


HELPSTEER_2 = [
    {"prompt": f"q{n}", "response": f"r{n}", "helpfulness": n, "correctness": n, "coherence": 4, "verbosity": 1}
    for n in range(5)
]
STRENGTHS = [-3, -2, -1, 0, 1, 2, 3]
HELPSTEER_2_PREFERENCE = [
    {"split": "train", "prompt": "p", "response_1": f"x{n}", "response_2": f"y{n}", "preference_strength": n,
     "preference_statement": "…"} for n in STRENGTHS
]  # fmt: skip
HELPSTEER_3 = [
    {"domain": "general", "language": "english", "context": [user("Hi"), assistant("Hello."), user("Why?")],
     "response1": f"x{n}", "response2": f"y{n}", "overall_preference": n, "individual_preference": []}
    for n in STRENGTHS
]  # fmt: skip
SIGNED = {-3: (FIRST, 3), -2: (FIRST, 2), -1: (FIRST, 1), 0: (TIE, 0), 1: (SECOND, 1), 2: (SECOND, 2), 3: (SECOND, 3)}
WEB_GPT = [
    {"question": {"dataset": "triviaqa", "full_text": "Why?", "id": 1}, "answer_0": f"x{n}", "answer_1": f"y{n}",
     "score_0": score, "score_1": -score} for n, score in enumerate((0.5, -0.5, 0.0))
]  # fmt: skip
KAGGLE = {"id": "1", "model_a": "m", "model_b": "n"}
BAD_ANSWER = {"prompt": "q", "response": "x"}
TWO = {"prompt": "p", "response_a": "x", "response_b": "y"}
PAIR = {"prompt": "p", "chosen": "x", "rejected": "y"}
UNLEARNED = [user("a"), {**assistant("b"), "train": False}, user("q")]
KTO_TURNS = [[user("q"), assistant("good")], [user("q"), assistant("bad")]]
ULTRA = {"instruction": "Why?", "source": "evol"}
RANKED = {"prompt": "p", "responses": ["x", "y", "z"], "ranking": [2, 0, 1]}
PICTURED = {"question": "What is it?", "chosen": "x", "rejected": "y"}
OASST = {"lang": "en", "rank": None, "review_count": 3}

CASES: dict[str, Case | Refused] = {
    "HH-RLHF": Case(
        [{"chosen": "\n\nHuman: Hi\n\nAssistant: Human: a: b", "rejected": "\n\nHuman: Hi\n\nAssistant: c"}],
        [told("Hi", "Human: a: b", "c", ranking=FIRST)],
    ),
    "UltraFeedback binarized": Case(
        [
            {"prompt": "p", "prompt_id": "1", "chosen": [user("p"), assistant("x")], "score_chosen": a,
             "rejected": [user("p"), assistant("y")], "score_rejected": b} for a, b in ((8, 3), (6.0, 6.0), (2, 5))
        ],
        [
            told("p", "x", "y", ranking=FIRST),
            told("p", "x", "y", ranking=TIE, strength=0, remark=EQUAL_SCORES),
            "column 'score_chosen' is lower than 'score_rejected'",
        ],
    ),
    "UltraFeedback": Case(
        [
            {**ULTRA, "completions": [{"response": "x", "overall_score": 8.0, "custom_system_prompt": "Be kind."},
                                      {"response": "y", "overall_score": 8.5, "custom_system_prompt": "Be kind."}]},
            {**ULTRA, "completions": [{"response": "x", "overall_score": 8.0, "custom_system_prompt": "Be kind."},
                                      {"response": "y", "overall_score": 8.0, "custom_system_prompt": "Be short."}]},
        ],
        [
            told([system("Be kind."), user("Why?")], "x", "y", ranking=SECOND),
            told("Why?", "x", "y", ranking=TIE, strength=0, remark=OTHER_SYSTEMS),
        ],
    ),
    "UltraFeedback, ratings inside annotations": Refused(
        [{**ULTRA, "completions": [{"response": "x", "annotations": {"helpfulness": {"Rating": "4"}}},
                                   {"response": "y", "annotations": {"helpfulness": {"Rating": "5"}}}]}],
        "There are several answers but no column that says which is better",
    ),
    "SHP": Case(
        [{"history": "p", "human_ref_A": f"x{n}", "human_ref_B": "y", "labels": n, "score_ratio": 2.0} for n in (1, 0)],
        [told("p", "x1", "y", ranking=FIRST), told("p", "x0", "y", ranking=SECOND)],
    ),
    "PKU-SafeRLHF": Case(
        [{"prompt": "p", "response_0": f"x{n}", "response_1": "y", "better_response_id": n, "safer_response_id": 1 - n}
         for n in (0, 1)],
        [told("p", "x0", "y", ranking=FIRST), told("p", "x1", "y", ranking=SECOND)],
    ),
    "PKU-SafeRLHF, the safer one": Case(
        [{"prompt": "p", "response_0": f"x{n}", "response_1": "y", "better_response_id": n, "safer_response_id": 1 - n}
         for n in (0, 1)],
        [told("p", "x0", "y", ranking=SECOND), told("p", "x1", "y", ranking=FIRST)],
        columns={"winner": "safer_response_id"},
        telling=["better_response_id"],
    ),
    "WebGPT": Case(
        WEB_GPT, ["column 'question' is an object; name the part of it that is meant, as 'question.full_text'"] * 3
    ),
    "WebGPT with a path": Case(
        WEB_GPT,
        [
            told("Why?", "x0", "y0", ranking=FIRST),
            told("Why?", "x1", "y1", ranking=SECOND),
            told("Why?", "x2", "y2", ranking=TIE, strength=0, remark=EQUAL_SCORES),
        ],
        columns={"prompt": "question.full_text"},
    ),
    "Nectar": Case(
        [{"prompt": "\n\nHuman: Why?\n\nAssistant: ",
          "answers": [{"answer": "x", "rank": 2.0}, {"answer": "y", "rank": 1.0}]}],
        [told("Why?", "x", "y", ranking=SECOND)],
    ),
    "OASST1 messages": Case(
        [
            {"message_id": "1", "parent_id": None, "text": "Why?", "role": "prompter", **OASST},
            {"message_id": "2", "parent_id": "1", "text": "So.", "role": "assistant", **OASST},
            {"message_id": "3", "parent_id": "2", "text": "And?", "role": "prompter", **OASST, "rank": 0},
        ],
        [told("Why?"), "column 'role' says that this is a message of the assistant",
         "column 'parent_id' names a message"],
        "prompts",
        telling=["rank"],
    ),
    "OASST1 trees": Case(
        [{"message_tree_id": "1", "prompt": {"text": "Why?", "role": "prompter", "replies": []}}],
        ["column 'prompt' is an object; name the part of it that is meant, as 'prompt.text'"],
        "prompts",
    ),
    "OASST1 trees with a path": Case(
        [{"message_tree_id": "1", "prompt": {"text": "Why?", "role": "prompter", "replies": []}}],
        [told("Why?")],
        "prompts",
        {"prompt": "prompt.text"},
    ),
    "HelpSteer2": Refused(HELPSTEER_2, "The column 'helpfulness' rates the answers, and bad ones must not be learned"),
    "HelpSteer2 with a threshold": Case(
        HELPSTEER_2,
        [told(f"q{n}", f"r{n}", label=n >= 3) for n in range(5)],
        good_from=3,
        telling=["correctness", "coherence"],
    ),
    "HelpSteer2, all of them": Case(
        HELPSTEER_2,
        [told(f"q{n}", f"r{n}") for n in range(5)],
        "demonstrations",
        {"rating": ""},
        telling=["helpfulness", "correctness", "coherence"],
    ),
    "HelpSteer2 as labels": Refused(HELPSTEER_2, "numbers of a scale, not labels", {"label": "helpfulness"}),
    "HelpSteer2 as labels, only 0 and 1": Refused(HELPSTEER_2[:2], "not labels", {"label": "helpfulness"}),
    "HelpSteer2 preference": Case(
        HELPSTEER_2_PREFERENCE,
        [told("p", f"x{n}", f"y{n}", ranking=SIGNED[n][0], strength=SIGNED[n][1]) for n in STRENGTHS],
        telling=["split"],
    ),
    "HelpSteer2 preference by --map winner": Refused(
        HELPSTEER_2_PREFERENCE, "as preference under “Columns”", {"winner": "preference_strength"}
    ),
    "HelpSteer3": Case(
        HELPSTEER_3,
        [
            told([user("Hi"), assistant("Hello."), user("Why?")], f"x{n}", f"y{n}", ranking=SIGNED[n][0],
                 strength=SIGNED[n][1]) for n in STRENGTHS
        ],
    ),
    "HelpSteer3 by --map winner": Refused(
        HELPSTEER_3[4:6], "as preference under “Columns”", {"prompt": "context", "winner": "overall_preference"}
    ),
    "Chatbot Arena": Case(
        [
            {"model_a": "m", "model_b": "n", "winner": winner, "judge": "j", "turn": 1,
             "conversation_a": [user("p"), assistant("x")], "conversation_b": [user("p"), assistant("y")]}
            for winner in ("model_a", "model_b", "tie", "tie (bothbad)", "both_bad", "Model_B ")
        ],
        [
            told("p", "x", "y", ranking=FIRST), told("p", "x", "y", ranking=SECOND),
            told("p", "x", "y", ranking=TIE, strength=0), told("p", "x", "y", outcome="all-bad"),
            told("p", "x", "y", outcome="all-bad"), told("p", "x", "y", ranking=SECOND),
        ],
    ),
    "Arena 140k": Case(
        [{"conversation_a": [{"role": "user", "content": [{"type": "text", "text": "p"}]}, assistant("x")],
          "conversation_b": [{"role": "user", "content": [{"type": "text", "text": "p"}]}, assistant("y")],
          "winner": "both_bad"}],
        [told("p", "x", "y", outcome="all-bad")],
    ),
    "lmsys Kaggle": Case(
        [
            {**KAGGLE, "prompt": '["p"]', "response_a": '["x"]', "response_b": '["y"]', "winner_model_a": str(a),
             "winner_model_b": str(b), "winner_tie": str(1 - a - b)} for a, b in ((1, 0), (0, 1), (0, 0))
        ]
        + [
            {**KAGGLE, "prompt": '["p","q"]', "response_a": '["s","x"]', "response_b": '["t","y"]',
             "winner_model_a": "1", "winner_model_b": "0", "winner_tie": "0"},
            {**KAGGLE, "prompt": '["p","q"]', "response_a": '["s","x"]', "response_b": '["s",null]',
             "winner_model_a": "1", "winner_model_b": "0", "winner_tie": "0"},
        ],
        [
            told("p", "x", "y", ranking=FIRST), told("p", "x", "y", ranking=SECOND),
            told("p", "x", "y", ranking=TIE, strength=0, remark=EQUAL_SCORES),
            "column 'response_b' parts from 'response_a' before the last answer",
            "column 'response_b' must be text; found: empty (null)",
        ],
    ),
    "lmsys Kaggle for people": Case(
        [{**KAGGLE, "prompt": '["p","q"]', "response_a": '["s","x"]', "response_b": '["s","y"]', "winner_tie": "1"}],
        [told([user("p"), assistant("s"), user("q")], "x", "y")],
        verdict="open",
    ),
    "lmsys Kaggle, prompts only": Case(
        [{**KAGGLE, "prompt": '["p","q"]'}], ["column 'prompt' is a list of texts in JSON"], "prompts"
    ),
    "Capybara DPO": Case(
        [{"source": "s", **{side: [system("s"), user("p"), assistant(text)]
                            for side, text in (("chosen", "x"), ("rejected", "y"))}}],
        [told([system("s"), user("p")], "x", "y", ranking=FIRST)],
    ),
    "Distilabel Orca": Case(
        [
            {"system": "s", "input": "p", "chosen": "x", "rejected": "y", "rating": ratings, "status": status,
             "chosen_score": ratings[0]}
            for ratings, status in (([9, 7], "unchanged"), ([9, 9], "tie"), ([9, 8], "swapped"))
        ],
        [
            told([system("s"), user("p")], "x", "y", ranking=FIRST),
            told([system("s"), user("p")], "x", "y", ranking=TIE, strength=0, remark=SAID_TIE),
            told([system("s"), user("p")], "x", "y", ranking=FIRST),
        ],
        telling=["rating", "chosen_score"],
    ),
    "Tulu 3 preference": Case(
        [{"id": "1", "prompt": "p", "chosen": [user("p"), assistant("x")], "rejected": [user("p"), assistant("y")]}],
        [told("p", "x", "y", ranking=FIRST)],
    ),
    "Stack Exchange paired": Case(
        [{"qid": 1, "question": "p", "response_j": "x", "response_k": "y"}], [told("p", "x", "y", ranking=FIRST)]
    ),
    "summarize from feedback": Case(
        [{"info": {"post": "p"}, "summaries": [{"text": "x"}, {"text": "y"}], "choice": n} for n in (0, 1)],
        [told("p", "x", "y", ranking=FIRST), told("p", "x", "y", ranking=SECOND)],
        columns={"prompt": "info.post", "responses": "summaries", "winner_from_0": "choice"},
    ),
    "Argilla records": Refused(
        [{"id": "1", "fields": {"prompt": "p", "a": "x", "b": "y"}, "responses": {"better": [{"value": "a"}]}}],
        "No column with prompts was found",
    ),
    "Argilla records with paths": Case(
        [{"id": "1", "fields": {"prompt": "p", "a": "x", "b": "y"}, "responses": {"better": [{"value": "b"}]}}],
        [told("p", "x", "y", ranking=SECOND)],
        columns={"prompt": "fields.prompt", "a": "fields.a", "b": "fields.b", "winner": "responses.better[0].value"},
    ),
    "Label Studio with paths": Case(
        [{"id": 1, "data": {"prompt": "p", "answer1": "x", "answer2": "y"},
          "annotations": [{"result": [{"value": {"selected": "left"}}]}]}],
        [told("p", "x", "y", ranking=FIRST)],
        columns={"prompt": "data.prompt", "a": "data.answer1", "b": "data.answer2",
                 "winner": "annotations[0].result[0].value.selected"},
    ),
    "LLaMA-Factory alpaca ranking": Case(
        [{"instruction": "q", "input": "i", "system": "s", "history": [["a", "b"]], "chosen": "x", "rejected": "y"},
         {"instruction": "q", "input": "", "history": [], "chosen": "x", "rejected": "y"},
         {"instruction": "q", "input": "", "history": ["a"], "chosen": "x", "rejected": "y"}],
        [
            told([system("s"), user("a"), assistant("b"), user("q\n\ni")], "x", "y", ranking=FIRST),
            told("q", "x", "y", ranking=FIRST),
            "column 'history' holds something else than pairs",
        ],
    ),
    "LLaMA-Factory sharegpt ranking": Case(
        [{"conversations": [said("human", "p")], "tools": "[]", "chosen": said("gpt", "x"),
          "rejected": said("gpt", "y")}],
        [told("p", "x", "y", ranking=FIRST)],
        telling=["tools"],
    ),
    "LLaMA-Factory KTO, messages": Case(
        [{"messages": turns, "label": good} for turns, good in zip(KTO_TURNS, (True, False), strict=True)],
        [told("q", "good", label=True), told("q", "bad", label=False)],
    ),
    "LLaMA-Factory KTO, good ones only": Case(
        [{"messages": turns, "label": good} for turns, good in zip(KTO_TURNS, (True, False), strict=True)],
        [told("q", "good"), "column 'label' says that the answer is bad"],
        "demonstrations",
    ),
    "LLaMA-Factory KTO, alpaca": Case(
        [{"instruction": "q", "input": "", "output": word, "kto_tag": word == "good"} for word in ("good", "bad")],
        [told("q", "good", label=True), told("q", "bad", label=False)],
    ),
    "TRL KTO": Case(
        [{"prompt": [user("q")], "completion": [assistant(word)], "label": word == "good"} for word in ("good", "bad")],
        [told("q", "good", label=True), told("q", "bad", label=False)],
    ),
    "thumbs": Case(
        [{"messages": KTO_TURNS[0], "thumbs": "👍"}, {"messages": KTO_TURNS[1], "thumbs": "👎"},
         {"messages": KTO_TURNS[1], "thumbs": None}],
        [told("q", "good", label=True), told("q", "bad", label=False),
         "column 'thumbs' must say yes or no, such as true or false; found: empty (null)"],
    ),
    "labels of which some say neither": Case(
        [{"prompt": "q", "response": "x", "label": "good"}, {"prompt": "q", "response": "y", "label": "so-so"}],
        [told("q", "x", label=True), "column 'label' must say yes or no, such as true or false; found: 'so-so'"],
    ),
    "labels that turn out to be stars": Refused(
        [{"prompt": "q", "response": str(n), "label": n} for n in (0, 1, 2)], "rates the answers"
    ),
    "a category called label": Refused(
        [{"prompt": "q", "response": "x", "label": "science"}], "'science', which says neither good nor bad"
    ),
    "a category called label, left out": Case(
        [{"prompt": "q", "response": "x", "label": "science"}], [told("q", "x")], "demonstrations", {"label": ""},
        telling=["label"],
    ),
    **{
        f"{column}: {value}": Refused([{**BAD_ANSWER, column: value}], "bad answers must not be learned")
        for column, value in (("label", "nein"), ("rating", "1,0"), ("rating", "1/5"), ("stars", "★"), ("grade", "F"),
                              ("quality", "low"), ("feedback", "Wrong."), ("labels", {"quality": 0.1}))
    },
    **{
        f"{column}: {value}": Refused([{**BAD_ANSWER, column: value}], "bad ones must not be learned")
        for column, value in (("toxic", True), ("is_bad", 1), ("thumbs_down", "yes"), ("disliked", 1), ("upvotes", 0),
                              ("is_accepted", "False"), ("preferred", False), ("final_label", "2_full_refusal"),
                              ("chosen", False), ("is_safe", False), ("How good is it (1-5)?", 1),
                              ("rating.responses", [1]))
    },
    **{
        f"{column} as a label": Refused([{**BAD_ANSWER, column: 1}], "high for bad answers", {"label": column})
        for column in ("toxic", "is_bad", "thumbs_down")
    },
    "WildChat": Refused(
        [{"conversation": KTO_TURNS[1], "toxic": True, "turn": 1}], "'toxic' may say which answers are bad"
    ),
    "a scale with the middle 3": Refused(
        [{**TWO, "overall_preference": n} for n in range(1, 6)], "nothing below 0"
    ),
    **{
        f"{column} that is never below 0": Refused(
            [{**TWO, column: n} for n in numbers], f"The column '{column}' holds nothing below 0"
        )
        for column, numbers in (("preference_strength", (1, 2, 3)), ("overall_preference", (0, 1, 2)),
                                ("overall_preference", (1, -100)))
    },
    "a preference that is never below 0, said to be one": Case(
        [{**TWO, "overall_preference": n} for n in (0, 1, 5)],
        [told("p", "x", "y", ranking=TIE, strength=0), told("p", "x", "y", ranking=SECOND, strength=1),
         told("p", "x", "y", ranking=SECOND, remark=labels.OTHER_MARGIN)],
        columns={"preference": "overall_preference"},
    ),
    "the better one's letter called chosen": Case(
        [{**TWO, "chosen": word} for word in ("A", "B")],
        [told("p", "x", "y", ranking=FIRST), told("p", "x", "y", ranking=SECOND)],
    ),
    **{
        f"a category called {column} beside scores": Case(
            [{**TWO, column: "science", "score_a": 1, "score_b": 2}], [told("p", "x", "y", ranking=SECOND)],
            telling=[column],
        )
        for column in ("label", "verdict", "choice")
    },
    "a category called label beside a preference": Case(
        [{**TWO, "label": "science", "overall_preference": -1}],
        [told("p", "x", "y", ranking=FIRST, strength=1)], telling=["label"],
    ),
    "a winner beside scores": Case(
        [{**TWO, "winner": word, "score_a": 1, "score_b": 2} for word in ("?", "a")],
        ["column 'winner' is '?'", told("p", "x", "y", ranking=FIRST)],
    ),
    "scores that say nothing": Case(
        [{**PAIR, "score_chosen": 0.0, "score_rejected": 0.0}] * 2, [told("p", "x", "y", ranking=FIRST)] * 2,
        telling=["score_chosen", "score_rejected"],
    ),
    "scores that nobody has filled in": Case(
        [{**PAIR, "score_chosen": -1, "score_rejected": -1.0}] * 2, [told("p", "x", "y", ranking=FIRST)] * 2,
        telling=["score_chosen", "score_rejected"],
    ),
    "scores that are equal": Case(
        [{**PAIR, "score_chosen": 7, "score_rejected": 7}] * 2,
        [told("p", "x", "y", ranking=TIE, strength=0, remark=EQUAL_SCORES)] * 2,
    ),
    "scores that are equal and differ from row to row": Case(
        [{**PAIR, "score_chosen": n, "score_rejected": n} for n in (0, -1)],
        [told("p", "x", "y", ranking=TIE, strength=0, remark=EQUAL_SCORES)] * 2,
    ),
    "scores that say nothing of two answers": Refused(
        [{**TWO, "score_a": 0.0, "score_b": "0"}] * 2, "no column that says which is better"
    ),
    "scores that are true or false": Case(
        [{"prompt": "p", "responses": ["x", "y"], "scores": [True, False]},
         {"prompt": "p", "responses": [{"text": "x", "score": False}, {"text": "y", "score": True}], "scores": None},
         {"prompt": "p", "responses": ["x", "y"], "scores": [0.5, True]}],
        [told("p", "x", "y", ranking=FIRST), "column 'scores' must be a list",
         told("p", "x", "y", ranking=SECOND)],
    ),
    "scores within answers that are true or false": Case(
        [{"prompt": "p", "responses": [{"text": "x", "score": False}, {"text": "y", "score": True}]}],
        [told("p", "x", "y", ranking=SECOND)],
    ),
    "ranks that are true or false": Case(
        [{"prompt": "p", "responses": ["x", "y"], "ranks": [True, False]}],
        ["column 'ranks' must hold finite numbers; found: true or false"],
    ),
    "pos and neg": Case(
        [{**BAD_ANSWER, "label": "pos"}, {**BAD_ANSWER, "response": "y", "label": "neg"}],
        [told("q", "x", label=True), told("q", "y", label=False)],
    ),
    "a label whose words are plain, whatever its name": Case(
        [{**BAD_ANSWER, "toxicity": word} for word in ("good", "bad")],
        [told("q", "x", label=True), told("q", "x", label=False)], columns={"label": "toxicity"},
    ),
    "a label within an object that is called after bad ones": Case(
        [{**BAD_ANSWER, "harmful": {"good": True}}], [told("q", "x", label=True)], columns={"label": "harmful.good"},
    ),
    **{
        f"{path} as a label": Refused([{**BAD_ANSWER, "checks": [{"toxic": value}], "toxic": [value]}],
                                      "high for bad answers", {"label": path})
        for path, value in (("checks[0].toxic", True), ("toxic[0]", "yes"), ("checks[0].toxic", "0"),
                            ("toxic[0]", "negative"))
    },
    "a label that is an object": Refused(
        [{**BAD_ANSWER, "label": {"value": "good"}}], "the part of it that is one under “Columns”, as 'label.value'"
    ),
    "a label that is an object in JSON": Refused(
        [{**BAD_ANSWER, "label": '[{"value": "good"}]'}], "part of it that is one under “Columns”, as 'label[0].value'"
    ),
    "ratings without a threshold": Refused([{**BAD_ANSWER, "rating": 4}], "are good. Nothing was imported."),
    "a user's name beside the text": Case([{"user": "Ann Lee", "text": "Why?"}], [told("Why?")], "prompts",
                                          telling=["user"]),
    "a chat's two sides beside all of it": Case([{"user": "Why?", "assistant": "So.", "text": "Why? So."}],
                                                [told("Why?", "So.")], "demonstrations", telling=["text"]),
    "what the user said, beside a page": Case([{"context": "A page.", "user": "What is it?"}], [told("What is it?")],
                                              "prompts", telling=["context"]),
    "what the user said": Case([{"user": "Why?"}], [told("Why?")], "prompts"),
    "a title beside a conversation": Case(
        [{"title": "A title", "messages": [user("q"), {**assistant("x"), "thinking": "hm"}]}],
        [told("q", "x", remark=THOUGHTS_LEFT)], "demonstrations", {"prompt": "title"},
    ),
    "answers beside a conversation that ends with one": Case(
        [*[{"messages": [user("q"), assistant("x")], "answer": "42"}] * 2, {"messages": [user("q")], "answer": "42"}],
        [*[told("q", "x")] * 2, "column 'messages' does not end with the assistant's turn"], "demonstrations",
        telling=["answer"],
    ),
    "a first conversation that is none": Case(
        [{"messages": "error"}, *[{"messages": [user("q")]}] * 2],
        ["column 'messages' is plain text", *[told("q")] * 2], "prompts",
    ),
    "first answers that are none": Case(
        [{"prompt": "p", "responses": "n/a", "scores": "n/a"},
         *[{"prompt": "p", "responses": ["x", "y"], "scores": [1, 2]}] * 2],
        ["column 'responses' must be a list", *[told("p", "x", "y", ranking=SECOND)] * 2],
    ),
    "a list with an answer that is none, beside the winner's letter": Case(
        [{"prompt": "p", "responses": ["x", None], "winner": "b"},
         *[{"prompt": "p", "responses": ["x", "y"], "winner": "b"}] * 2],
        ["column 'responses' must be text", *[told("p", "x", "y", ranking=SECOND)] * 2],
    ),
    "messages in a table, one of them a tool's": Case(
        [{"text": "q", "role": "user"}, {"text": "x", "role": "assistant"}, {"text": "4", "role": "tool"}],
        [told("q"), "column 'role' says that this is a message of the assistant",
         "column 'role' says that this is a message of the tool"], "prompts",
    ),
    "earlier answers that are not to be learned, before a question": Case(
        [{"messages": UNLEARNED}], [told([user("a"), assistant("b"), user("q")])], "prompts",
    ),
    "earlier answers that are not to be learned, before two answers": Case(
        [{"chosen": [*UNLEARNED, assistant("x")], "rejected": [*UNLEARNED, {**assistant("y"), "weight": 0}]}],
        [told([user("a"), assistant("b"), user("q")], "x", "y", ranking=FIRST)],
    ),
    **{
        f"earlier answers that are not to be learned, before a demonstration in {list(row)}": Case(
            [row], [f"column '{next(iter(row))}' holds an answer that is not to be learned ('train' is off)"],
            "preferences" if "label" in row else "demonstrations",
        )
        for row in ({"messages": [*UNLEARNED, assistant("x")]}, {"messages": UNLEARNED, "completion": "x"},
                    {"messages": json.dumps([*UNLEARNED, assistant("x")]), "label": True},
                    {"prompt": UNLEARNED, "completion": "x", "label": True})
    },
    "a margin below 0": Case(
        [{**PAIR, "margin": -0.5}], [told("p", "x", "y", ranking=FIRST, remark=labels.OTHER_MARGIN)],
    ),
    "strengths with a sign": Case(
        [{**PAIR, "strength": number} for number in (-2, 2)],
        [told("p", "x", "y", ranking=FIRST, remark=labels.OTHER_MARGIN),
         told("p", "x", "y", ranking=FIRST, strength=2)],
    ),
    **{
        f"better and worse answers called {better} and {worse}": Case(
            [{"question": "p", better: "x", worse: "y"}], [told("p", "x", "y", ranking=FIRST)]
        )
        for better, worse in (("Chosen answer", "Rejected answer"), ("text_chosen", "text_rejected"))
    },
    "the better one's letter beside the texts of both": Case(
        [{"prompt": "p", "chosen": "A", "chosen_text": "x", "rejected_text": "y"},
         {"prompt": "p", "chosen": "B", "chosen_text": "y", "rejected_text": "x"}],
        [told("p", "x", "y", ranking=FIRST), told("p", "y", "x", ranking=FIRST)], telling=["chosen"],
    ),
    "OpenAI's preferences": Case(
        [{"input": {"messages": [system("s"), user("q")]}, "preferred_output": [assistant("x")],
          "non_preferred_output": [assistant("y")]}],
        [told([system("s"), user("q")], "x", "y", ranking=FIRST)], columns={"prompt": "input.messages"},
    ),
    "answers that are not to be learned": Case(
        [{"messages": [user("q"), {**assistant("x"), key: off}]} for key, off in
         (("weight", 0.0), ("weight", "0.0"), ("train", False), ("training", "false"), ("loss", False),
          ("loss_mask", 0))],
        [f"column 'messages' holds an answer that is not to be learned ('{key}' is off)" for key in
         ("weight", "weight", "train", "training", "loss", "loss_mask")], "demonstrations",
    ),
    "answers that are said to be bad, as by a thumb in a chat": Case(
        [{"messages": [user("q"), {**assistant("x"), key: value}]} for key, value in
         (("score", -1), ("rating", "-1"), ("feedback", "thumbs_down"), ("liked", False), ("score", 0), ("score", 1))],
        [*(f"column 'messages' holds an answer that is said to be bad ('{key}')" for key in
           ("score", "rating", "feedback", "liked")), told("q", "x"), told("q", "x")], "demonstrations",
    ),
    "answers with weights": Case(
        [{"messages": [user("q"), {**assistant("x"), "weight": weight}]} for weight in (0.5, 1, "1.0")],
        [told("q", "x", remark=WEIGHT_LEFT), told("q", "x"), told("q", "x")], "demonstrations",
    ),
    "texts that a chat template has written": Case(
        [{"text": text} for text in (
            "### Human: Why?### Assistant: So.",
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>",
            "<s>[INST] Why? [/INST] So. </s>", "Do it.\n\n### Instruction:\nWhy?\n\n### Response:\nSo.",
            "A chat. USER: Why? ASSISTANT: So.</s>", "Human: Why?\nAssistant: So.", "What does [INST] mean?")],
        ["column 'text' has turns within its text"] * 6 + [told("What does [INST] mean?")], "prompts",
    ),
    "stars beside messages": Refused([{"messages": KTO_TURNS[1], "score": 1}], "The column 'score' rates the answers"),
    "Alpaca": Case(
        [{"instruction": "q", "input": "i", "output": "x", "text": "### q"}], [told("q\n\ni", "x")], "demonstrations",
        telling=["text"],
    ),
    "Dolly": Case(
        [{"instruction": "q", "context": "c", "response": "x", "category": "open_qa"}], [told("q\n\nc", "x")],
        "demonstrations",
    ),
    "ShareGPT": Case(
        [{"id": "1", "conversations": [said("human", "p"), said("gpt", "x")]},
         {"id": "2", "conversations": [said("gpt", "p"), said("human", "x"), said("gpt", "y")]}],
        [told("p", "x"), "column 'conversations' has a turn of the assistant where one of the user belongs"],
        "demonstrations",
    ),
    "OpenAI's developer": Case([{"messages": [{"role": "developer", "content": "s"}, user("p")]}],
                               [told([system("s"), user("p")])], "prompts"),
    "tool calls beside text": Case(
        [{"messages": [user("p"), {**assistant("?"), "tool_calls": [{"id": "1"}]}, assistant("x")], "tools": [{}]},
         {"messages": [user("p"), {**assistant("x"), "tool_calls": None}]},
         {"messages": [user("p"), {"role": "tool", "content": "4"}, assistant("x")]},
         {"messages": [user("p"), {**assistant("x"), "weight": 0}]}],
        ["column 'messages' holds a message with 'tool_calls'", told("p", "x"),
         "column 'messages' may only hold the roles user, assistant and system; found: 'tool'",
         "column 'messages' holds an answer that is not to be learned"],
        "demonstrations", telling=["tools"],
    ),
    "thinking beside text": Case(
        [{"messages": [user("p"), {**assistant("x"), "reasoning_content": "hm"}]},
         {"messages": [user("p"), {**assistant("x"), "thinking": None}]},
         {"messages": json.dumps([user("p"), {**assistant("x"), "thinking": "hm"}])}],
        [told("p", "x", remark=THOUGHTS_LEFT), told("p", "x"), told("p", "x", remark=THOUGHTS_LEFT)],
        "demonstrations",
    ),
    "thinking in a part of its own": Case(
        [{"messages": json.dumps(turns) if packed else turns} for packed in (False, True) for turns in (
            [user("p"), {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
                                                          {"type": "text", "text": "x"}]}],
            [user("p"), {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "s"},
                                                          {"type": "text", "text": "x"}]}],
            [user("p"), {"role": "assistant", "content": [{"type": "reasoning", "text": "hm"}]}])],
        2 * [*[told("p", "x", remark=THOUGHTS_LEFT)] * 2, "column 'messages' is empty"], "demonstrations",
    ),
    "a ranking that can be ranks or an order": Refused(
        [{"prompt": "p", "responses": ["x", "y", "z"], "ranking": ranking} for ranking in ([0, 2, 1], [2, 0, 1])],
        "The column 'ranking' holds 2, 0, 1: ranks of the answers, or the answers' numbers",
    ),
    "the same, said to be ranks": Case(
        [RANKED], [told("p", "x", "y", "z", ranking=(3, 1, 2))], columns={"ranks": "ranking"}
    ),
    "the same, said to be an order": Case(
        [RANKED, {**RANKED, "ranking": "[3, 1, 2]"}, {**RANKED, "ranking": [2, 0, 0]}],
        [told("p", "x", "y", "z", ranking=(2, 3, 1)), told("p", "x", "y", "z", ranking=(2, 3, 1)),
         "column 'ranking' must hold the number of each answer once"], columns={"order": "ranking"}
    ),
    "a ranking that is the same as an order": Case(
        [{**RANKED, "ranking": ranking} for ranking in ([0, 2, 1], ["2", "1", "0"], [1, 2, 2], None)],
        [told("p", "x", "y", "z", ranking=(1, 3, 2)), told("p", "x", "y", "z", ranking=(3, 2, 1)),
         told("p", "x", "y", "z", ranking=(1, 2, 2)), "column 'ranking' must be a list"],
    ),
    "a mapped answer beside labels": Case(
        [{"prompt": "q", "reply": "x", "label": True}, {"prompt": "q", "reply": "y", "label": False}],
        [told("q", "x", label=True), told("q", "y", label=False)], columns={"completion": "reply"},
    ),
    "mapped parts of an object beside labels": Case(
        [{"data": {"q": "q", "a": f"x{n}", "good": n == 1}} for n in (0, 1)],
        [told("q", "x0", label=False), told("q", "x1", label=True)],
        columns={"prompt": "data.q", "completion": "data.a", "label": "data.good"},
    ),
    "a mapped conversation beside labels": Case(
        [{"exchange": KTO_TURNS[0], "label": True}, {"exchange": KTO_TURNS[1], "label": False}],
        [told("q", "good", label=True), told("q", "bad", label=False)], columns={"messages": "exchange"},
    ),
    "a mapped answer beside ratings": Refused(
        [{"prompt": "q", "reply": "x", "rating": 5}], "'rating' as rating under “Columns”", {"completion": "reply"},
    ),
    "mapped better and worse answers beside scores": Case(
        [{"prompt": "q", "best": "x", "worst": "y", "score_chosen": 2, "score_rejected": 1, "strength": 3},
         {"prompt": "q", "best": "x", "worst": "y", "score_chosen": 1, "score_rejected": 2},
         {"prompt": "q", "best": "x", "worst": "y", "score_chosen": 2, "score_rejected": 1, "status": "tie"}],
        [told("q", "x", "y", ranking=FIRST, strength=3), "column 'score_chosen' is lower than 'score_rejected'",
         told("q", "x", "y", ranking=TIE, strength=0, remark=SAID_TIE)],
        columns={"chosen": "best", "rejected": "worst"},
    ),
    "mapped answers beside a winner": Case(
        [{"prompt": "q", "first": "x", "second": "y", "winner": word} for word in ("a", "second")],
        [told("q", "x", "y", ranking=FIRST), told("q", "x", "y", ranking=SECOND)],
        columns={"a": "first", "b": "second"},
    ),
    "mapped answers beside scores that are numbered as they are": Case(
        [{"prompt": "q", "text of 1": "x", "text of 2": "y", "score_1": 1, "score_2": 2}],
        [told("q", "x", "y", ranking=SECOND)], columns={"a": "text of 1", "b": "text of 2"},
    ),
    "mapped answers beside ranks": Case(
        [{"prompt": "q", "cands": ["x", "y"], "ranks": [2, 1]}], [told("q", "x", "y", ranking=SECOND)],
        columns={"responses": "cands"},
    ),
    "mapped prompts beside who says them": Case(
        [{"utterance": "q", "role": "prompter", "parent_id": None},
         {"utterance": "x", "role": "assistant", "parent_id": "1"},
         {"utterance": "q", "role": "prompter", "parent_id": "2"}],
        [told("q"), "column 'role' says that this is a message of the assistant",
         "column 'parent_id' names a message before this one"], "prompts", columns={"prompt": "utterance"},
    ),
    "a mapped conversation within an object": Case(
        [{"data": {"turns": [user("q")]}}], [told("q")], "prompts", columns={"messages": "data.turns"},
    ),
    "ShareGPT that begins with thanks": Case(
        [{"conversations": [said("human", "q"), said("gpt", "x"), said("human", "Thanks.")]},
         {"conversations": [said("human", "q"), said("gpt", "x")]}],
        ["column 'conversations' does not end with the assistant's turn", told("q", "x")], "demonstrations",
    ),
    "messages of which one ends with an answer, beside the answers": Case(
        [*({"messages": [user(f"q{n}")], "completion": f"x{n}", "label": True} for n in range(3)),
         {"messages": [user("q"), assistant("old")], "completion": "new", "label": False}],
        [*(told(f"q{n}", f"x{n}", label=True) for n in range(3)),
         "column 'messages' does not end with the user's turn"],
    ),
    "messages of which one ends with the user, beside the answers": Refused(
        [{"messages": [user("q"), assistant("old")], "chosen": "x", "rejected": "y"}] * 2
        + [{"messages": [user("q")], "chosen": "x", "rejected": "y"}],
        "No column is known to hold the prompt; it may be 'messages'",
    ),
    "messages of which one ends with an answer": Case(
        [{"messages": [user("q")]}] * 2 + [{"messages": [user("q"), assistant("x")]}], [told("q")] * 3, "prompts",
    ),
    "whole conversations without the system message of their prompt": Case(
        [{"prompt": [system("Be rude."), user("q")], "chosen": [user("q"), assistant("x")],
          "rejected": [user("q"), assistant("y")]},
         {"prompt": [system("Be rude."), user("q")], "chosen": [system("Be kind."), user("q"), assistant("x")],
          "rejected": [system("Be kind."), user("q"), assistant("y")]}],
        [told([system("Be rude."), user("q")], "x", "y", ranking=FIRST), "column 'prompt' is not the question in"],
    ),
    "an answer with its prompt and a system message": Case(
        [{"prompt": [user("q")], "completion": [system("Be rude."), user("q"), assistant("x")]},
         {"prompt": [system("Be kind."), user("q")], "completion": [system("Be rude."), user("q"), assistant("x")]}],
        [told([system("Be rude."), user("q")], "x"),
         told([system("Be kind."), user("q")], "x", remark=OTHER_SYSTEMS)], "demonstrations",
    ),
    "answers with their prompt and system messages": Case(
        [{"prompt": "q", "responses": [[system(one), user("q"), assistant("x")],
                                       [system("A"), user("q"), assistant("y")]], "scores": [1, 2]} for one in "AB"],
        [told([system("A"), user("q")], "x", "y", ranking=SECOND),
         told("q", "x", "y", ranking=SECOND, remark=OTHER_SYSTEMS)],
    ),
    "earlier turns beside whole conversations": Case(
        [{"prompt": "q", "history": [["a", "b"]], "chosen": [*turns, user("q"), assistant("x")],
          "rejected": [*turns, user("q"), assistant("y")]} for turns in ([user("a"), assistant("b")], [])],
        [told([user("a"), assistant("b"), user("q")], "x", "y", ranking=FIRST),
         "column 'history' is not part of the conversation in 'chosen'"],
    ),
    "Alpaca's input beside whole conversations": Case(
        [{"instruction": "q", "input": "i", "chosen": [user("q"), assistant("x")],
          "rejected": [user("q"), assistant("y")]}],
        ["column 'input' is not part of the conversation in 'chosen'"],
    ),
    "HelpSteer2, people who contradict each other": Case(
        [*HELPSTEER_2_PREFERENCE[:2], {**HELPSTEER_2_PREFERENCE[0], "preference_strength": -100}],
        [told("p", "x-3", "y-3", ranking=FIRST, strength=3), told("p", "x-2", "y-2", ranking=FIRST, strength=2),
         "column 'preference_strength' is -100, which stands for no preference"], telling=["split"],
    ),
    "HelpSteer2, people who contradict each other, named": Case(
        [{"prompt": "p", "response_1": "x", "response_2": "y", "by": {"preference_strength": n}} for n in (-1, -100)],
        [told("p", "x", "y", ranking=FIRST, strength=1), "column 'by.preference_strength' is -100"],
        columns={"preference": "by.preference_strength"},
    ),
    "a preference that is much larger than the others": Case(
        [{**HELPSTEER_2_PREFERENCE[0], "preference_strength": n} for n in (1, 1, -1, 40)],
        [told("p", "x-3", "y-3", ranking=SECOND, strength=1)] * 2 + [told("p", "x-3", "y-3", ranking=FIRST, strength=1),
         told("p", "x-3", "y-3", ranking=SECOND, remark=labels.OTHER_MARGIN)], telling=["split"],
    ),
    "preferences that are the difference of votes": Case(
        [{"prompt": "p", "response_a": "x", "response_b": "y", "diff": n} for n in (-1, 40, 40)],
        [told("p", "x", "y", ranking=FIRST, strength=1),
         *[told("p", "x", "y", ranking=SECOND, remark=labels.OTHER_MARGIN)] * 2], columns={"preference": "diff"},
    ),
    "three answers in columns of their own": Refused(
        [{"prompt": "p", **{f"response_{n}": f"x{n}" for n in (1, 2, 3)}, **{f"score_{n}": n for n in (1, 2, 3)}}],
        "more than two answers, in columns of their own: 'response_1', 'response_2', 'response_3'",
    ),
    "two answers that are called by letters": Case(
        [{"prompt": "p", "a": "x", "b": "y", "winner": "b", "c": "notes"}], [told("p", "x", "y", ranking=SECOND)],
    ),
    "a third answer that nothing is said of": Case(
        [{"prompt": "p", "response_1": "x", "response_2": "y", "response_3": "z", "winner": said} for said in
         ("1", "tie", None)],
        [told("p", "x", "y", ranking=FIRST), told("p", "x", "y", ranking=TIE, strength=0), "column 'winner' must name"],
    ),
    "a third answer that may win": Refused(
        [{"prompt": "p", "response_1": "x", "response_2": "y", "response_3": "z", "winner": said} for said in "123"],
        "more than two answers, in columns of their own",
    ),
    "three answers, of which two are meant": Case(
        [{"prompt": "p", **{f"response_{n}": f"x{n}" for n in "abc"}, **{f"score_{n}": ord(n) for n in "abc"}}],
        [told("p", "xa", "xb", ranking=SECOND)], columns={"a": "response_a", "b": "response_b"},
    ),
    "Argilla's columns with dots": Case(
        [{"prompt": "p", "response_a": "x", "response_b": "y", "preference.responses": ["response_b"],
          "preference.suggestion": "response_a"}],
        [told("p", "x", "y", ranking=SECOND)], columns={"winner": "preference.responses[0]"},
    ),
    "ranks of two answers said to be scores": Refused(
        [{**TWO, "rank_a": 2, "rank_b": 1}], "'rank_a' is high for worse answers; a score is",
        {"score_a": "rank_a", "score_b": "rank_b"},
    ),
    **{
        f"{column} said to be scores": Refused(
            [{"prompt": "p", "responses": ["x", "y"], "by": {column: [2, 1]}, column: [2, 1]}],
            "is high for worse answers; a score is", {"scores": path},
        )
        for column in ("ranking", "toxicity") for path in (column, f"by.{column}")
    },
    "scores that are named after the worse answer": Case(
        [{"prompt": "p", "better": "x", "worse": "y", "score_better": 2, "score_worse": 1}],
        [told("p", "x", "y", ranking=FIRST)],
        columns={"chosen": "better", "rejected": "worse", "score_a": "score_better", "score_b": "score_worse"},
    ),
    "Label Studio with two annotators": Case(
        [{"data": {"prompt": "p", "answer1": "x", "answer2": "y"},
          "annotations": [{"result": [{"value": {"selected": side}}]} for side in sides]}
         for sides in (["left"], ["left", "right"])],
        [told("p", "x", "y", ranking=FIRST), told("p", "x", "y", ranking=FIRST, remark=NOT_ALL_READ)],
        columns={"prompt": "data.prompt", "a": "data.answer1", "b": "data.answer2",
                 "winner": "annotations[0].result[0].value.selected"},
    ),
    "votes in a CSV field, of which the first is named": Case(
        [{**TWO, "votes": '[{"value": "a"}, {"value": "b"}]'}],
        [told("p", "x", "y", ranking=FIRST, remark=NOT_ALL_READ)], columns={"winner": "votes[0].value"},
    ),
    "a list of which every entry is named": Case(
        [{"prompt": "p", "replies": ["x", "y", "z"][:size], "best": "a"} for size in (2, 3)],
        [told("p", "x", "y", ranking=FIRST), told("p", "x", "y", ranking=FIRST, remark=NOT_ALL_READ)],
        columns={"a": "replies[0]", "b": "replies[1]", "winner": "best"},
    ),
    "Label Studio's JSON in a CSV field": Case(
        [{"prompt": "p", "answer1": "x", "answer2": "y", "comparison": said} for said in
         ('[{"selected": "left"}]', "[{", "[]", "left")],
        [told("p", "x", "y", ranking=FIRST), *["column 'comparison[0].selected' must name a winner"] * 3],
        columns={"winner": "comparison[0].selected"},
    ),
    "two columns of messages": Case(
        [{"messages_a": [user("p"), assistant("x")], "messages_b": [user("p"), assistant("y")], "winner": "model_a"}],
        [told("p", "x", "y", ranking=FIRST)],
    ),
    "a list of answers beside the winner's letter": Case(
        [{"prompt": "p", "responses": ["x", "y"], "winner": word} for word in ("b", "Model A", "tie", "neither", "c")],
        [told("p", "x", "y", ranking=SECOND), told("p", "x", "y", ranking=FIRST),
         told("p", "x", "y", ranking=TIE, strength=0), told("p", "x", "y", outcome="all-bad"),
         "column 'winner' is 'c', which is the letter of none of the 2 answers"],
    ),
    "a list of answers beside the winner's number": Refused(
        [{"prompt": "p", "responses": ["x", "y"], "winner": 1}], "as winner_from_0 or as winner_from_1",
    ),
    "Stack Exchange preferences": Case(
        [{"question": "q", "answers": [{"text": "x", "pm_score": 2, "selected": True}, {"text": "y", "pm_score": 4}]}],
        [told("q", "x", "y", ranking=SECOND)],
    ),
    "Capybara": Case(
        [{"source": "A", "conversation": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]}],
        [told([user("a"), assistant("b"), user("c")], "d")], "demonstrations",
    ),
    "empty system messages": Case(
        [{"messages": [system(text), user("q"), assistant("x")], "system": " "} for text in ("", " ", None)]
        + [{"messages": [system("")]}],
        [*[told("q", "x")] * 3, "column 'messages' is an empty list"], "demonstrations",
    ),
    "a system message beside a conversation that has one": Case(
        [{"system": one, "messages": [system("A"), user("q"), assistant("x")]} for one in ("A", " A\n", "", "B")],
        [*[told([system("A"), user("q")], "x")] * 3, told([system("A"), user("q")], "x", remark=SYSTEM_LEFT)],
        "demonstrations",
    ),
    "verdicts beside columns that may turn them round": Case(
        [{**TWO, "winner": "a", "tie": True, "is_tie": True, "flipped": True, "swapped": True,
          "winner.responses.status": ["discarded"]}],
        [told("p", "x", "y", ranking=FIRST)],
        telling=["tie", "is_tie", "flipped", "swapped", "winner.responses.status"],
    ),
    "Gemini": Case(
        [{"contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "x"}]}]}],
        ["column 'contents' holds a message without a text (content, value, text); it has 'role', 'parts'"],
        "demonstrations", columns={"messages": "contents"},
    ),
    "Argilla's answers to a question": Case(
        [{"prompt": "p", "response-1": "x", "response-2": "y", "preference": said} for said in
         ([{"user_id": "u", "value": "response-2", "status": "submitted"}], {"selected": "left"}, '[{"value": "a"}]')],
        ["column 'preference' is a list; name the part of it that is meant, as 'preference[0].value'",
         "column 'preference' is an object; name the part of it that is meant, as 'preference.selected'",
         "column 'preference' is a list; name the part of it that is meant, as 'preference[0].value'"],
    ),
    "pictures": Case(
        [{"messages": [user("<image>What is it?"), assistant("x")], "images": ["a.png"]},
         {"messages": [user("What is it?"), assistant("x")], "images": []},
         {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, assistant("x")]}],
        ["column 'images' holds pictures or sound", told("What is it?", "x"),
         "column 'messages' holds a part of the type 'image_url'"],
        "demonstrations", telling=["images"],
    ),
    "better and worse answers that are named": Case(
        [{**TWO, "chosen": "A", "rejected": "B"}, {**TWO, "chosen": "response_b", "rejected": "response_a"},
         {**TWO, "chosen": "tie", "rejected": "tie"}],
        [told("p", "x", "y", ranking=FIRST), told("p", "x", "y", ranking=SECOND),
         told("p", "x", "y", ranking=TIE, strength=0)], telling=["rejected"],
    ),
    "better and worse answers beside the two that were compared": Case(
        [{**TWO, "chosen": "x", "rejected": "y"}, {**TWO, "chosen": "y", "rejected": "x"}],
        [told("p", "x", "y", ranking=FIRST), told("p", "y", "x", ranking=FIRST)],
    ),
    "better and worse answers that are a number or a letter, as those that were compared are": Case(
        [{"prompt": "p", "response_a": "41", "response_b": "42", "chosen": "42", "rejected": "41"},
         {"prompt": "p", "response_a": "B", "response_b": "A", "chosen": "A", "rejected": "B"}],
        [told("p", "42", "41", ranking=FIRST), told("p", "A", "B", ranking=FIRST)],
    ),
    "the same of a list": Case(
        [{"prompt": "p", "responses": '["B", "A"]', "chosen": "A", "rejected": "B"}],
        [told("p", "A", "B", ranking=FIRST)], telling=["responses"],
    ),
    "the better one's letter, and a word for its neighbour that was not": Case(
        [{"prompt": "p", "responses": ["x", "y"], "chosen": "B", "rejected": "A"}],
        [told("p", "x", "y", ranking=SECOND)], telling=["rejected"],
    ),
    "the better one's number in a list": Refused(
        [{"prompt": "p", "responses": ["x", "y"], "chosen": 0, "rejected": 1}], "as winner_from_0 or as winner_from_1",
    ),
    "a list of answers of which nothing says which is better": Refused(
        [{"prompt": "p", "responses": ["x", "y"], "chosen_idx": 0}],
        "There are several answers but no column that says which is better",
    ),
    "a list of answers beside an order in words": Refused(
        [{"prompt": "p", "responses": ["x", "y"], "ranking": "B > A"}],
        "There are several answers but no column that says which is better",
    ),
    "a list of answers for people": Case(
        [{"prompt": "p", "responses": ["x", "y"]}], [told("p", "x", "y")], verdict="open",
    ),
    "words in a column of strengths": Refused(
        [{**TWO, "Preference Strength": "Slightly better", "Which response is better?": "Response A"}],
        "There are two answers but no column that says which is better",
    ),
    "words for the strength beside the winner": Case(
        [{**TWO, "Preference Strength": "Slightly better", "Which response is better?": "Response A"}],
        [told("p", "x", "y", ranking=FIRST, strength=1)], columns={"winner": "Which response is better?"},
    ),
    **{
        f"answers one a row, with {column}": Refused(
            [{"prompt": "q", "response": f"x{n}", column: n} for n in (1, 2)], "bad ones must not be learned"
        )
        for column in ("rank", "is_best", "Winner", "human preference", "flagged")
    },
    "Prodigy's choices": Case(
        [{"text": "q", "options": [{"id": "A", "text": "x"}, {"id": "B", "text": "y"}], "accept": ["B"],
          "answer": word} for word in ("accept", "reject", "ignore")],
        [told("q")] * 3, "prompts", telling=["answer"],
    ),
    "a label that is a list of votes": Refused(
        [{**BAD_ANSWER, "rating": [{"user_id": "u", "value": 4, "status": "submitted"}]}], "as 'rating[0].value'",
    ),
    "texts in parts, of whatever type": Case(
        [{"system": [{"type": "text", "text": "s"}], "messages": [{"role": "user", "content": [part]}, assistant("x")]}
         for part in ({"text": "p"}, {"type": "input_text", "text": "p"}, {"type": "output_text", "text": "p"})]
        + [{"messages": [{"role": "user", "content": [part]}, assistant("x")]} for part in
           ({"image": {"format": "png"}}, "p", {"type": "refusal", "refusal": "No."}, {"text": None})],
        [*[told([system("s"), user("p")], "x")] * 3, "column 'messages' holds a part of the type 'image'",
         "column 'messages' holds a part of the type 'text' that has no text in 'text'",
         "column 'messages' holds a part of the type 'refusal'",
         "column 'messages' holds a part of the type 'text' that has no text in 'text'"], "demonstrations",
    ),
    "distilabel's answers": Case(
        [{"instruction": "q", "generation": "x", "model_name": "m"}], [told("q", "x")], "demonstrations",
    ),
    "Argilla's ranking": Refused(
        [{"instruction": "p", "generation-1": "x", "generation-2": "y", "generation-3": "z",
          "ranking": [{"value": [{"rank": 1, "value": "generation-2"}]}]}],
        "more than two answers, in columns of their own: 'generation-1', 'generation-2', 'generation-3'",
    ),
    "pictures in columns of their own": Case(
        [{**PICTURED, "image": Unread("struct<bytes: binary, path: string>")}, {**PICTURED, "image": "a.png"},
         {**PICTURED, "images": ["a.png"]}, {**PICTURED, "image": {"bytes": None, "path": "a.png"}},
         {**PICTURED, "images": '["a.png"]'},
         *({**PICTURED, "image": one} for one in ({"bytes": None, "path": None}, None, "", "null", "n/a")),
         *({**PICTURED, "images": some} for some in ([None], [], "[]", [{"bytes": None}], '[{"bytes": null}]'))],
        [*["column 'image"] * 5, *[told("What is it?", "x", "y", ranking=FIRST)] * 10], telling=["image", "images"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_public_format_becomes_what_it_says_or_is_refused(name: str) -> None:
    case = CASES[name]
    rows = [SourceRow(number, values) for number, values in enumerate(case.rows, 1)]
    if isinstance(case, Refused):
        with pytest.raises(UserError) as refusal:
            make_plan(rows, "auto", case.columns)
        assert case.sentence in str(refusal.value)
        return
    plan = make_plan(
        rows, "auto" if case.verdict == "judged" else "preferences", case.columns, case.verdict, case.good_from
    )
    if name.endswith("good ones only"):
        plan = make_plan(rows, "demonstrations", case.columns)
    assert plan.target == case.target
    read, met = reader_of(plan), ColumnUsage()
    for row, expected in zip(rows, case.becomes, strict=True):
        met.see(row.values)
        if isinstance(expected, MappedRow):
            assert read(row.values) == expected
        else:
            with pytest.raises(UnusableRow) as refusal:
                read(row.values)
            assert str(refusal.value).startswith(expected)
    assert list(met.unused(plan.used)[0]) == case.telling


# ------------------------------------------------------------------------------------------------------- who is better
def verdict(a: str, b: str, *values: Any, role: str = "winner") -> list[Any]:
    """The rankings that values of a column come to, beside answers in columns of these names; None for both bad."""
    rows = [SourceRow(n, {"prompt": "p", a: f"x{n}", b: f"y{n}", "which": value}) for n, value in enumerate(values)]
    plan = make_plan(rows, "preferences", {"a": a, "b": b, "winner": "", role: "which"})
    read = reader_of(plan)
    return [read(row.values).ranking for row in rows]


@pytest.mark.parametrize(
    ("word", "ranking"),
    [
        *((word, FIRST) for word in ("a", "A", " A ", "model_a", "model-a", "Model A", "response_a", "left", "first")),
        *((word, FIRST) for word in ("[[A]]", "[A]", "A>B", "A >> B", "[[A>B]]", "B<A", "a_is_better", "A is better")),
        *((word, FIRST) for word in ("Response A is better", "left is better", "[[model_a is better]]")),
        *((word, SECOND) for word in ("b", "B", "assistant_b", "[[B]]", "B>A", "A<B", "A<<B", "second", "right")),
        *((word, TIE) for word in ("tie", "TIE", "A=B", "[[A=B]]", "[[C]]", "tie (bothgood)", "both good", "equal")),
        *((word, None) for word in ("tie (bothbad)", "both bad", "both_bad", "neither", "Tie (both-bad)")),
    ],
)
def test_words_for_the_better_answer(word: str, ranking: Any) -> None:
    assert verdict("response_a", "response_b", word) == [ranking]


@pytest.mark.parametrize(
    "word",
    [*("A is not better", "c is better", "neither is better", "both is better"),
     *("-a", "a-", "not a", "c", "[C]", "A>A", "A>C", ">", "", "ab", "model_c", True, None, [], "1")],
)  # fmt: skip
def test_words_that_name_no_answer(word: Any) -> None:
    with pytest.raises(UnusableRow):
        verdict("response_a", "response_b", word)


@pytest.mark.parametrize(
    ("names", "values", "rankings"),
    [
        (("response_1", "response_2"), [1, "2", 2.0, "1.0"], [FIRST, SECOND, SECOND, FIRST]),
        (("response_0", "response_1"), [0, "1", 1.0, "0.0"], [FIRST, SECOND, SECOND, FIRST]),
        (("output_1", "output_2"), ["output_2", "tie", 1], [SECOND, TIE, FIRST]),
        (("answer10", "answer11"), [10, 11, "answer11"], [FIRST, SECOND, SECOND]),
        (("fields.answer1", "fields.answer2"), ["answer1", "answer-2", "Answer 1", 2], [FIRST, SECOND, FIRST, SECOND]),
    ],
)
def test_numbers_are_names_only_where_the_columns_have_them(names: Any, values: Any, rankings: Any) -> None:
    assert verdict(*names, *values) == rankings


@pytest.mark.parametrize(
    "names", [("response_1", "response_2"), ("response_0", "response_1"), ("response1", "response2")]
)
@pytest.mark.parametrize(
    "values",
    [[1, -1], ["1", "-2"], [-1, 0, 1], ["1", "−2"], ["1", "–1"], ["+1"], [0, 1, 2], [1, 2, 3], [1, 0.5], ["-1.0"]],
)
def test_a_column_whose_numbers_fit_no_names_is_refused_as_a_whole(names: Any, values: list[Any]) -> None:
    with pytest.raises(UserError, match="under “Columns” as winner_from_0") as refusal:
        verdict(*names, *values)
    assert not isinstance(refusal.value, UnusableRow)


def test_a_number_that_fits_no_name_is_found_wherever_it_stands() -> None:
    rows = [SourceRow(n, {"prompt": "p", "response_1": "x", "response_2": "y", "winner": n % 2 + 1}) for n in range(5)]
    read = reader_of(make_plan(rows))
    with pytest.raises(labels.UnclearColumn, match="holds -2, so its numbers are no names"):
        read({**rows[0].values, "winner": -2})


@pytest.mark.parametrize(
    ("role", "values", "rankings"),
    [
        ("winner_from_0", [0, 1, "1", 1.0], [FIRST, SECOND, SECOND, SECOND]),
        ("winner_from_1", [1, 2, "2", "1.0"], [FIRST, SECOND, SECOND, FIRST]),
        (
            "preference",
            [-2, "−1", "-0.5", 0, "0.0", "+1", 3, 40],
            [FIRST, FIRST, FIRST, TIE, TIE, SECOND, SECOND, SECOND],
        ),
    ],
)
def test_a_person_says_what_numbers_mean(role: str, values: list[Any], rankings: list[Any]) -> None:
    assert verdict("response_1", "response_2", *values, role=role) == rankings


@pytest.mark.parametrize(
    ("role", "value"),
    [("winner_from_0", 2), ("winner_from_0", -1), ("winner_from_0", 0.5), ("winner_from_1", 0), ("winner_from_1", "+1"),
     ("winner_from_0", True),
     *(("preference", value) for value in ("a", True, None, float("nan")))],
)  # fmt: skip
def test_numbers_that_are_none_of_those(role: str, value: Any) -> None:
    with pytest.raises(UnusableRow):
        verdict("response_1", "response_2", value, role=role)


def test_a_label_that_turns_out_to_be_a_scale_ends_the_import() -> None:
    rows = [SourceRow(n, {"prompt": "p", "completion": str(n), "label": n % 2}) for n in range(4)]
    read = reader_of(make_plan(rows))
    assert read({**rows[0].values, "label": 0}).label is False
    with pytest.raises(labels.UnclearColumn, match="holds -1, 0: numbers of a scale"):
        read({**rows[0].values, "label": -1})


def test_no_preference_is_none_also_where_it_stands_late() -> None:
    read = reader_of(make_plan([SourceRow(n, row) for n, row in enumerate(HELPSTEER_2_PREFERENCE)]))
    with pytest.raises(UnusableRow, match="-100, which stands for no preference"):
        read({**HELPSTEER_2_PREFERENCE[0], "preference_strength": "-100"})


def test_bad_answers_are_asked_about_whatever_the_rows_are_to_become() -> None:
    rows = [SourceRow(1, {**BAD_ANSWER, "toxic": True, "upvotes": 0})]
    for target in ("auto", "demonstrations"):
        with pytest.raises(labels.UnclearColumn, match="'toxic' may say which answers are bad"):
            make_plan(rows, target)
        assert make_plan(rows, target, {"label": ""}).target == "demonstrations"
    assert reader_of(make_plan(rows, "prompts"))(rows[0].values) == told("q")


@pytest.mark.parametrize(
    "name",
    ["approved", "is_verified", "passed", "test_failed", "is_valid", "is_wrong", "error", "refusal", "hate_speech"],
)
def test_whatever_a_column_calls_bad_answers_is_asked_about(name: str) -> None:
    with pytest.raises(labels.UnclearColumn, match=f"'{name}' may say which answers are bad"):
        make_plan([SourceRow(1, {**BAD_ANSWER, name: "?"})])


def test_answers_that_are_json_are_not_turns() -> None:
    """Only where the prompt and both answers are lists of as many texts are these turns."""
    row = {"prompt": "Give me a list.", "response_a": '["x"]', "response_b": json.dumps(["y"]), "winner": "a"}
    assert reader_of(make_plan([SourceRow(1, row)]))(row).answers == ('["x"]', '["y"]')
