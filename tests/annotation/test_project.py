"""What a project may ask: every refusal by hand; by property, only a sentence ever comes of bad input."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from string import ascii_lowercase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation import project
from annotation.records import Kind, Project, Tag, UserError
from annotation.translation import language_of, speaking
from tests.machine_fixtures import ROOT

FIELDS = [field.name for field in fields(Project)]


def checked(annotators: int = 5, **values: Any) -> Project:
    """The check with some fields set and the others as by default."""
    return project.check(values, annotators)


# ----------------------------------------------------------------------------------------------------------- the fields
def test_nothing_given_is_the_default_project() -> None:
    assert checked() == Project()


def test_every_field_reaches_the_project() -> None:
    given_values = {
        "kind": "rank",
        "answers": 5,
        "overlap": 3,
        "claim_minutes": 45,
        "daily_target": 12,
        "gold_share": 0.1,
        "re_ask_share": 0.4,
        "candidate_share": 0.3,
        "doubt_share": 0.5,
        "rendered": True,
        "own_prompts": False,
        "tags": "a: accurate\nx: exact",
    }
    assert set(given_values) == set(FIELDS)
    assert project.check(given_values, 3) == Project(
        kind="rank",
        answers=5,
        overlap=3,
        claim_minutes=45,
        daily_target=12,
        gold_share=0.1,
        re_ask_share=0.4,
        candidate_share=0.3,
        doubt_share=0.5,
        rendered=True,
        own_prompts=False,
        tags=(Tag("a", "accurate"), Tag("x", "exact")),
    )


@pytest.mark.parametrize("answers", [3, 8, 99, None, "x"])
def test_a_pair_has_two_answers_whatever_the_number_says(answers: Any) -> None:
    assert checked(kind="pair", answers=answers).answers == 2


@pytest.mark.parametrize("kind", ["best", "rank"])
@pytest.mark.parametrize("answers", [2, 3, 8, 4.0])
def test_several_answers_are_two_to_eight(kind: str, answers: Any) -> None:
    made = checked(kind=kind, answers=answers)
    assert made.answers == answers
    assert isinstance(made.answers, int)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("kind", "both", "What is asked must be one of: pair, best, rank"),
        ("kind", None, "What is asked"),
        ("answers", 1, "“Number of answers” must be a whole number from 2 to 8, not 1."),
        ("answers", 9, "from 2 to 8, not 9"),
        ("answers", 2.5, "from 2 to 8, not 2.5"),
        ("answers", True, "Number of answers"),
        ("answers", None, "Number of answers"),
        ("overlap", 0, "“Annotators for each comparison” must be a whole number from 1 up, not 0."),
        ("overlap", -1, "Annotators for each comparison"),
        ("overlap", 6, "6 are too many, because there are 5 active accounts"),
        ("overlap", float("inf"), "Annotators for each comparison"),
        ("overlap", float("nan"), "Annotators for each comparison"),
        ("claim_minutes", 0, "“Minutes to judge” must be a whole number from 1 to 1,440"),
        ("claim_minutes", 1441, "from 1 to 1,440, not 1441"),
        ("gold_share", -0.01, "“Gold comparisons, %” must be from 0 to 50%, not -1%."),
        ("gold_share", 0.51, "from 0 to 50%, not 51%"),
        ("gold_share", float("nan"), "Gold comparisons, %"),
        ("re_ask_share", "some", "“Re-asks, %” must be from 0 to 50%."),
        ("re_ask_share", True, "Re-asks, %"),
        ("rendered", "yes", "First view"),
        ("own_prompts", None, "Annotators may write prompts of their own"),
        ("tags", None, "Reasons"),
        ("tags", b"a: x", "Reasons"),
        ("tags", {"a": "x"}, "Reasons"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_fields_name(field: str, value: Any, sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        checked(**{"kind": "rank", "answers": 4, field: value})
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_shares_add_up_to_a_half_at_most() -> None:
    assert checked(gold_share=0.25, re_ask_share=0.25).re_ask_share == 0.25
    with pytest.raises(UserError, match="add up to 52%: together they may be up to 50%"):
        checked(gold_share=0.3, re_ask_share=0.22)


def test_one_annotator_may_be_wanted_before_there_is_any_and_no_more() -> None:
    assert checked(annotators=0, overlap=1).overlap == 1
    with pytest.raises(UserError, match="2 are too many, because there are 0"):
        checked(annotators=0, overlap=2)
    with pytest.raises(UserError, match="because there is 1 active account "):
        checked(annotators=1, overlap=2)


@pytest.mark.parametrize("first", [number / 100 for number in range(51)])
def test_binary_fractions_do_not_push_a_sum_over_the_half(first: float) -> None:
    assert checked(gold_share=first, re_ask_share=round(0.5 - first, 4)).gold_share == first


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(UserError, match="own_prompts"):
        checked(colour="blue")


# ----------------------------------------------------------------------------------------------------------------- tags
def test_lines_are_keys_and_labels() -> None:
    assert project.parse_tags("a: accurate\r\n\n  C :  to the point \nx:why: because") == (
        Tag("a", "accurate"),
        Tag("c", "to the point"),
        Tag("x", "why: because"),
    )


def test_a_key_that_is_left_out_is_the_first_free_letter_of_the_label() -> None:
    # "sugar": s, u, g and r are the page's, so a; "salad": a is taken, l; ": éclat": é counts as e, taken by the page,
    # then c; "hug": no letter free, so the first free one of the alphabet, which is d (a and c are taken by then).
    assert project.parse_tags("sugar\nsalad\n: éclat\nhug") == (
        Tag("a", "sugar"),
        Tag("l", "salad"),
        Tag("c", "éclat"),
        Tag("d", "hug"),
    )


def test_a_given_key_is_kept_though_an_earlier_line_would_have_chosen_it() -> None:
    assert project.parse_tags("accurate\na: artful") == (Tag("c", "accurate"), Tag("a", "artful"))


def test_a_letter_for_each_tag_and_no_more() -> None:
    free = [letter for letter in ascii_lowercase if letter not in "suenhpbrgm"]
    assert len(free) == 16
    full = project.parse_tags("\n".join(f"reason {number}" for number in range(16)))
    assert sorted(tag.key for tag in full) == free
    with pytest.raises(UserError, match="up to 16, not 17"):
        project.parse_tags("\n".join(f"reason {number}" for number in range(17)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: good\nd: GOOD", "label 'good' is there more than once"),
        ("a: one\na: two", "key 'a' is there more than once"),
        ("a: one\nA: two", "key 'a'"),
        ("ok\nab: two letters", "line 2: what stands before the colon is the key"),
        ("1: digit", "one letter from a to z"),
        ("é: accent", "one letter from a to z"),
        ("İ: dotted capital", "one letter from a to z"),
        ("s: sound", "'s' is taken by the page (skip)"),
        ("M: mine", "'m' is taken by the page (my judgements)"),
        ("a:", "a label has 1 to 40 characters"),
        ("a:   ", "a label has 1 to 40 characters"),
        ("a: " + "x" * 41, "a label has 1 to 40 characters"),
        ("a: bell\x07", "can't be seen (U+0007)"),
        ("a: tab\there", "(U+0009)"),
        ("a: turned \u202e round", "(U+202E)"),
        ("a: zero\u200bwidth", "(U+200B)"),
        ("a: half \ud800", "(U+D800)"),
        ("a: line\u2028break", "(U+2028)"),
        ("a: \u3000", "only white space"),
        ("a" * 10_001, "up to 10,000 characters"),
    ],
)
def test_a_list_of_reasons_that_cannot_be_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        project.parse_tags(text)
    assert sentence in str(refusal.value)


def test_every_key_of_the_page_is_refused() -> None:
    """In its script: those of buttons and flags, and those that are obeyed without one. D gives way to a reason."""
    script = (ROOT / "annotation" / "tabs" / "annotate.js").read_text("utf-8")
    obeyed = script.partition("function actionOf(key) {")[2].partition("\n}")[0]
    pressed = re.findall(r'button\("([A-Z])"|\["([A-Z])", "', script)
    letters = {one.lower() for found in (re.findall(r"\b([a-z]): ", obeyed), *pressed) for one in found if one}
    assert letters == project.RESERVED_KEYS.keys()
    for letter in letters:
        with pytest.raises(UserError, match="taken by the page"):
            project.parse_tags(f"{letter}: something")


def test_joiners_that_words_need_are_kept() -> None:
    persian, family = "می‌خواهم", "👩‍👧"
    assert [tag.label for tag in project.parse_tags(f"a: {persian}\nc: {family}")] == [persian, family]


LABEL = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=40)


@given(st.lists(LABEL, max_size=16, unique_by=str.casefold))
def test_tags_are_read_back_from_their_text(labels: list[str]) -> None:
    tags = project.parse_tags([f":{label}" for label in labels])
    assert [tag.label for tag in tags] == labels
    assert len({tag.key for tag in tags}) == len(tags)
    assert all(tag.key in ascii_lowercase and tag.key not in "suenhpbrgm" for tag in tags)
    assert project.parse_tags(project.tags_text(tags)) == tags
    assert project.parse_tags(tags) == tags


# ----------------------------------------------------------------------------------------------------------- guidelines
def test_guidelines_are_kept_as_they_are_written() -> None:
    assert project.check_guidelines(" # Judge\r\n\r\n\t- with care \n") == "# Judge\n\n\t- with care"


@pytest.mark.parametrize("text", ["a\x00b", "\ud83d", "x" * 20_001, None, 5])
def test_guidelines_that_could_not_be_stored_or_read_are_refused(text: Any) -> None:
    with pytest.raises(UserError, match="uidelines"):
        project.check_guidelines(text)


KINDS: tuple[Kind, ...] = ("pair", "best", "rank")


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_guidelines_are_read_in_everybodys_own_language_and_what_a_person_wrote_as_it_stands(
    kind: Kind,
) -> None:
    first = project.FIRST_GUIDELINES
    assert project.as_stored(project.as_read(first, kind)) == first
    with speaking(language_of("de")):
        read = project.as_read(first, kind)
        assert read.startswith("- Lies den Prompt, dann jede Antwort bis zum Ende.\n- ")
        assert project.as_read(f"{first}\n- Be kind.", kind) == f"{first}\n- Be kind."
        assert project.check_guidelines(read) == read
        assert project.as_stored(read) == first
        assert project.as_stored(f"{read}\n- Be kind.") == f"{read}\n- Be kind."


def test_the_first_reasons_are_read_in_everybodys_own_language_and_a_persons_as_they_stand() -> None:
    labels = [tag.label for tag in Project().tags]
    assert [project.reason_as_read(label) for label in labels] == labels
    with speaking(language_of("de")):
        assert project.reason_as_read("follows the instruction") == "folgt der Anweisung"
        assert not {project.reason_as_read(label) for label in labels} & {*labels}
        assert project.reason_as_read("Skip") == "Skip"


def test_reasons_are_edited_in_everybodys_own_language_and_stored_as_they_began() -> None:
    first = Project().tags
    with speaking(language_of("de")):
        read = project.tags_as_read(first)
        assert [tag.key for tag in read] == [tag.key for tag in first]
        assert not {tag.label for tag in read} & {tag.label for tag in first}
        assert project.tags_as_stored(read, first) == first
        style = project.reason_as_read("style")
        own = (Tag("w", style),)
        assert project.tags_as_stored(own, own) == own, "a person's own, whatever it is called"
        assert project.tags_as_read((*first, *own))[-1] == own[0]
        assert style not in [tag.label for tag in project.tags_as_read((*first, *own))[:-1]], "both can be told apart"
        with pytest.raises(UserError, match="mehr als einmal"):
            project.tags_as_stored((*read, Tag("w", first[0].label)), first)


def test_the_first_guidelines_say_what_is_asked() -> None:
    pair, best, rank = (project.as_read(project.FIRST_GUIDELINES, kind) for kind in KINDS)
    assert pair == project.FIRST_GUIDELINES
    assert "Both bad" in pair
    assert "Choose the best answer" in best
    assert "Rank the answers" in rank
    for several in (best, rank):
        assert "All bad" in several
        assert "Both bad" not in several
    assert "Much better" not in best


# ----------------------------------------------------------------------------------------------------------- properties
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
SOUND = {
    "kind": st.sampled_from(["pair", "best", "rank"]),
    "answers": st.integers(2, 8),
    "overlap": st.integers(1, 9),
    "claim_minutes": st.integers(1, 1440),
    "gold_share": st.floats(0, 0.25),
    "re_ask_share": st.floats(0, 0.25),
    "rendered": st.none() | st.booleans(),
    "own_prompts": st.booleans(),
    "tags": st.text() | st.lists(st.text(max_size=40), max_size=18),
}


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), ANYTHING), st.integers(0, 60))
def test_nothing_but_a_sentence_comes_of_bad_input(values: Mapping[str, Any], annotators: int) -> None:
    try:
        made = project.check(values, annotators)
    except UserError:
        return
    assert_sound(made, annotators)


@given(st.fixed_dictionaries({}, optional={name: good | ANYTHING for name, good in SOUND.items()}), st.integers(0, 60))
def test_nothing_but_a_sound_project_gets_through(values: Mapping[str, Any], annotators: int) -> None:
    try:
        made = project.check(values, annotators)
    except UserError:
        return
    assert_sound(made, annotators)
    again = {field.name: getattr(made, field.name) for field in fields(Project)}
    assert project.check(again, annotators) == made


def assert_sound(made: Project, annotators: int) -> None:
    """Whether a project is as the rules say, tried independently of the check."""
    assert made.kind in ("pair", "best", "rank")
    assert 2 <= made.answers <= (2 if made.kind == "pair" else 8)
    assert 1 <= made.overlap <= max(annotators, 1)
    assert 1 <= made.claim_minutes <= 1440
    assert min(made.gold_share, made.re_ask_share) >= 0
    assert made.gold_share + made.re_ask_share <= 0.5 + 1e-9
    assert all(type(number) is int for number in (made.answers, made.overlap, made.claim_minutes))
    assert type(made.own_prompts) is bool
    assert made.rendered in (None, False, True)
    keys, labels = [tag.key for tag in made.tags], [tag.label.casefold() for tag in made.tags]
    assert len(set(keys)) == len(keys)
    assert len(set(labels)) == len(labels)
    assert set(keys) <= set(ascii_lowercase) - set("suenhpbrgm")
    assert all(label.strip() and "\n" not in label for label in labels)
    "".join(labels).encode()


@given(ANYTHING)
def test_guidelines_are_text_or_refused(text: Any) -> None:
    try:
        made = project.check_guidelines(text)
    except UserError:
        return
    assert made.encode()[:0] == b""
    assert "\x00" not in made
