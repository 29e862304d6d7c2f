"""The example data: sound rows, balanced labels, splits that share nothing, and no task that a list of words solves."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from itertools import pairwise

import pytest

from annotation.examples.example_sets import EXAMPLES, LABELS, ExampleRow, example_path, read_example
from annotation.records import UserError

COUNTS = {"financial-sentiment": {"train": 240, "held-out": 120}, "medical-answers": {"train": 96, "held-out": 24}}
# The most that two texts of different splits may share of their words, names and numbers left out.
NEAR = 0.35
# Ten words for each side that anybody would write down first.
GOOD = {"profit", "record", "raises", "wins", "beats", "growth", "upgrade", "strong", "gains", "higher"}
BAD = {"loss", "fall", "cuts", "warns", "lawsuit", "downgrade", "weak", "misses", "lower", "drop"}
DIAGNOSIS = (
    r"\b[Yy]ou (?:surely|probably|certainly|clearly) (?:have|suffer)|[Tt]his is (?:surely|probably|certainly|clearly)"
)
DOSE = re.compile(r"\d\s*(?:mg|mcg|µg|g|ml|milligrams?|grams?|millilitres?|drops|tablets|pills|puffs)\b", re.IGNORECASE)


def headline(row: ExampleRow) -> str:
    """The headline in a row of the financial set, without the instruction."""
    return row.messages[-1]["content"].split("Headline: ")[1]


def text(row: ExampleRow) -> str:
    """What tells a row from the others: its headline, or its question."""
    return headline(row) if row.label else row.messages[-1]["content"]


def wording(sentence: str) -> set[str]:
    """The words that begin with a small letter: without companies, places, numbers."""
    return set(re.findall(r"(?<![\w'])[a-z][a-z-]+", sentence))


def likeness(one: str, other: str) -> float:
    """The share of words that two texts have in common (Jaccard index)."""
    return len(wording(one) & wording(other)) / len(wording(one) | wording(other))


def of_split(name: str, split: str) -> list[ExampleRow]:
    """The rows of one split."""
    return [row for row in read_example(name) if row.split == split]


def accuracy(labels: list[str]) -> float:
    """The share of held-out headlines whose label is right."""
    rows = of_split("financial-sentiment", "held-out")
    return sum(row.label == label for row, label in zip(rows, labels, strict=True)) / len(rows)


# ------------------------------------------------------------------------------------------------------------- the rows
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_row_is_a_question_with_an_answer_in_plain_text(name: str) -> None:
    rows = read_example(name)
    assert Counter(row.split for row in rows) == COUNTS[name]
    for row in rows:
        (message,) = row.messages
        assert message.keys() == {"role", "content"}
        assert message["role"] == "user"
        for words in (message["content"], row.completion):
            assert words == words.strip() != ""
            assert not re.search(r"[<>*#`\t\n]|https?:", words.replace("\n\nHeadline: ", " ")), words


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_file_says_who_wrote_it_and_has_no_other_fields(name: str) -> None:
    fields = {"messages", "completion", "split", "source"} | ({"label"} if name == "financial-sentiment" else set())
    for line in example_path(name).read_text("utf-8").splitlines():
        row = json.loads(line)
        assert row.keys() == fields
        assert row["source"] == "Prefloop's authors"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_readme_and_the_descriptions_give_the_true_counts(name: str) -> None:
    train, held_out = COUNTS[name]["train"], COUNTS[name]["held-out"]
    readme = example_path(name).with_name("README.md").read_text("utf-8")
    assert f"| `{example_path(name).name}` | `{name}` | {train} | {held_out} | {train + held_out} |" in readme
    assert EXAMPLES[name].startswith(f"{train + held_out} ")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_rows_are_shuffled(name: str) -> None:
    """Neither the splits nor the labels lie in blocks: neighbours differ about as often as chance makes them."""
    rows = read_example(name)
    changes = sum(one.split != other.split for one, other in pairwise(rows)) / (len(rows) - 1)
    share = COUNTS[name]["held-out"] / len(rows)
    assert changes == pytest.approx(2 * share * (1 - share), abs=0.12)
    if name == "financial-sentiment":
        assert sum(one.label != other.label for one, other in pairwise(rows)) / len(rows) > 0.55


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'poems'.*'financial-sentiment', 'medical-answers'"):
        read_example("poems")


# ------------------------------------------------------------------------------------------------------ splits apart
@pytest.mark.parametrize("name", EXAMPLES)
def test_no_text_comes_twice_and_none_has_a_near_twin_in_the_other_split(name: str) -> None:
    rows = read_example(name)
    assert len({text(row).casefold() for row in rows}) == len(rows)
    seen = [text(row) for row in rows if row.split == "train"]
    for row in rows:
        if row.split == "held-out":
            closest = max(seen, key=lambda other: likeness(text(row), other))
            assert likeness(text(row), closest) < NEAR, (text(row), closest)


def test_a_template_with_another_company_would_be_found() -> None:
    one = "Kesterline Bank sets aside 20 million less for bad loans than analysts had feared"
    other = "Dalverne Credit sets aside 35 million less for bad loans than brokers had feared"
    assert likeness(one, other) > 2 * NEAR
    assert likeness(one, "Fire destroys the main warehouse of Wrenholt Furniture") < NEAR


# ------------------------------------------------------------------------------------------------ financial sentiment
def test_the_labels_are_balanced_in_both_splits() -> None:
    for split, each in (("train", 80), ("held-out", 40)):
        rows = of_split("financial-sentiment", split)
        assert Counter(row.label for row in rows) == dict.fromkeys(LABELS, each)
        assert all(row.completion == row.label for row in rows)


def test_headlines_are_one_sentence_of_8_to_30_words_in_one_instruction() -> None:
    rows = read_example("financial-sentiment")
    assert len({row.messages[0]["content"].split("Headline: ")[0] for row in rows}) == 1
    for row in rows:
        assert 8 <= len(headline(row).split()) <= 30, headline(row)
        assert not headline(row).endswith(".")


def test_a_list_of_obvious_words_solves_far_less_than_nine_tenths() -> None:
    """It scores above chance, or it would be no baseline, and stays far below a reader of the sentence."""
    labels = []
    for row in of_split("financial-sentiment", "held-out"):
        words = re.findall(r"[a-z]+", headline(row).lower())
        score = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
        labels.append("positive" if score > 0 else "negative" if score < 0 else "neutral")
    assert 1 / 3 < accuracy(labels) < 0.6


def test_counting_the_words_of_the_train_split_does_not_solve_it_either() -> None:
    """Naive Bayes over words, with add-one smoothing: no headline gives its label away by a word seen in training."""
    counts: dict[str, Counter[str]] = {label: Counter() for label in LABELS}
    for row in of_split("financial-sentiment", "train"):
        counts[str(row.label)].update(set(re.findall(r"[a-z]+", headline(row).lower())))
    known = set().union(*counts.values())
    labels = []
    for row in of_split("financial-sentiment", "held-out"):
        words = set(re.findall(r"[a-z]+", headline(row).lower())) & known
        scores = {
            label: sum(math.log((count[word] + 1) / (count.total() + len(known))) for word in words)
            for label, count in counts.items()
        }
        labels.append(max(scores, key=scores.__getitem__))
    assert 1 / 3 < accuracy(labels) < 0.7


# ---------------------------------------------------------------------------------------------------- medical answers
def test_medical_answers_are_short_send_to_somebody_who_knows_and_give_no_dose() -> None:
    for row in read_example("medical-answers"):
        answer = row.completion
        assert row.label is None
        assert row.messages[0]["content"].endswith("?"), row
        assert 2 <= len(re.findall(r"[.!?](?= |$)", answer)) <= 5, answer
        assert re.search(r"doctor|pharmacist|dentist|midwife|emergency", answer), answer
        assert not DOSE.search(answer), answer
        assert not re.search(DIAGNOSIS, answer), answer


@pytest.mark.parametrize("dose", ["500 mg", "5ml", "2 tablets", "0.5 g", "10 Drops"])
def test_a_dose_and_a_diagnosis_would_be_found(dose: str) -> None:
    assert DOSE.search(f"Take {dose} with water.")
    assert re.search(DIAGNOSIS, "From what you write, you probably have the flu.")
