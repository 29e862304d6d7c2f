"""What a cell says of answers: words and numbers to winners, ranks, labels and strengths, or the reason why not. Pure.

A number is never taken for something else than it is: which answer it means is decided by the column's and the answers'
names together with the whole column, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

from annotation.imports.printable import display_name, printable
from annotation.imports.sources.json_values import NotJson, parse_json
from annotation.imports.sources.raw_rows import finite, kind_of
from annotation.records import UserError
from annotation.translation import N_, _, joined

Ranking = tuple[int, ...]
ParsedVerdict = tuple[Literal["ranked", "all-bad"], Ranking | None]
Columns = Mapping[str, str]

TIED: Final[ParsedVerdict] = ("ranked", (1, 1))
FIRST: Final[ParsedVerdict] = ("ranked", (1, 2))
SECOND: Final[ParsedVerdict] = ("ranked", (2, 1))
BAD: Final[ParsedVerdict] = ("all-bad", None)

TIES: Final = ("tie", "draw", "equal", "same", "both", "both_good", "tie_(bothgood)", "tie_(both_good)", "tied")
# As judges by the prompt of MT-Bench write it (Zheng et al. 2023, figure 5), beside [[A]] and [[B]].
TIE_OF_JUDGES: Final = "[[C]]"
ALL_BAD: Final = ("tie_(bothbad)", "tie_(both_bad)", "bothbad", "both_bad", "all_bad", "neither")
GOOD: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "yes", "good", "desirable", "up", "thumbs_up", "👍", "like", "liked", "positive"), True),
    **dict.fromkeys(("accept", "accepted", "chosen", "helpful", "correct", "pass", "pos"), True),
    **dict.fromkeys(("false", "no", "bad", "undesirable", "down", "thumbs_down", "👎", "dislike", "disliked"), False),
    **dict.fromkeys(("negative", "reject", "rejected", "unhelpful", "incorrect", "wrong", "fail", "neg"), False),
}
BARE: Final = ("true", "false", "yes", "no", "positive", "negative", "pos", "neg")
STRENGTH_WORDS: Final = {"slightly": 1, "clearly": 2, "better": 2, "much": 3, "significantly": 3}
OTHER_MARGIN: Final = N_("strength or margin on another scale: imported without it")

# Columns whose numbers say with their sign which of two answers is better, below 0 the first (HelpSteer 2 and 3).
SIGNED: Final = ("overall_preference", "preference_strength")
# What stands in these where people contradict each other.
NO_PREFERENCE: Final = -100
# Columns whose numbers are how good an answer is on a scale: 1 may be the worst of it.
SCALES: Final = (
    *("rating", "ratings", "score", "scores", "overall_score", "overall_rating", "average_rating", "stars", "grade"),
    *("helpfulness", "quality", "reward", "correctness", "coherence", "usefulness", "satisfaction", "likert"),
)
MINUS: Final = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-") | {"\uff0b": "+"})
NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
# What the text, the messages or the verdict of an object are called.
TEXTS: Final = ("messages", "content", "text", "full_text", "value", "turns")
# What an answer is called with a letter behind it.
CALLED: Final = ("model", "response", "answer", "assistant", "output", "completion", "conversation")
LETTERED: Final = re.compile(rf"(?:(?:{'|'.join(CALLED)})_)?([a-h])")
DUEL: Final = re.compile(r"(.+?)(>+|<+|=+|≫|≪)(.+)")
LONGEST_WINNER: Final = 100


class UnusableRow(UserError):
    """A row that can't be imported: the column at fault, and a sentence why, whose {column} is that one's name."""

    def __init__(self, column: str, sentence: str, **gaps: object) -> None:
        said = {name: printable(gap) if isinstance(gap, str) else gap for name, gap in gaps.items()}
        super().__init__(sentence.format(column=display_name(column), **said))
        self.column = column


class AskedColumn(UserError):
    """A column is missing, or can't be told; `roles` are those by which a person can say it under “Columns”."""

    def __init__(self, sentence: str, *roles: str) -> None:
        super().__init__(sentence)
        self.roles = roles


class UnclearColumn(AskedColumn):
    """What a whole column means can't be told, so nothing of the file can be imported as it is."""


def part_of(value: Any) -> str:
    """The way to what is likeliest to be meant of an object or a list of one, as '[0].value'; empty for none."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(NotJson):
            value = parse_json(value.strip())
    path = ""
    while isinstance(value, list) and len(value) == 1:
        path, value = f"{path}[0]", value[0]
    held = value if isinstance(value, dict) else {}
    found = [key for key, one in held.items() if one and isinstance(one, str | list)]
    named = [key for key in TEXTS if key in found or score_of(held.get(key)) is not None]
    key = next(iter(named), max(found, key=lambda key: len(held[key]), default=None))
    return path if key is None else f"{path}.{key}"


def refuse_object(value: Any, column: str) -> None:
    """Raises UnusableRow for an object, or a list of one thing, that names the part which may be meant."""
    path = part_of(value)
    if not path:
        return
    sentence = (
        _("column '{column}' is a list; name the part of it that is meant, as '{path}'")
        if path[0] == "["
        else _("column '{column}' is an object; name the part of it that is meant, as '{path}'")
    )
    raise UnusableRow(column, sentence, path=display_name(column + path))


def plain_name(name: str) -> str:
    """A column's name without case, spaces and dashes."""
    return re.sub(r"[\s\-.]+", "_", name.strip()).casefold()


def word_of(text: str) -> str:
    """A word as it is compared: without case, and with one underscore between its parts; signs stay where they are."""
    return re.sub(r"(?<=[\w)])[\s_-]+(?=[\w(])", "_", text.strip()).casefold()


def shown(value: Any) -> str:
    if isinstance(value, str):
        return f"'{display_name(value[:40])}'"
    return f"{value:g}" if finite(value) else kind_of(value)


def number_of(value: Any) -> float | None:
    """A finite number, also one that is written as text, with whatever minus sign; None for anything else."""
    if isinstance(value, str):
        text = value.strip().translate(MINUS)
        value = float(text) if NUMBER.fullmatch(text) else None
    return float(value) if finite(value) else None


def has_sign(value: Any) -> bool:
    """Whether a number is below 0 or is written with a sign: such a one is on a scale, and no name."""
    number = number_of(value)
    written = isinstance(value, str) and value.strip().translate(MINUS)[:1] in ("+", "-")
    return number is not None and (number < 0 or written)


# ----------------------------------------------------------------------------------------------------- two answers
def side_words(a: str, b: str) -> Mapping[str, int]:
    """Words for the first (0) and the second (1) answer, those by the columns' names among them."""
    one, other = plain_name(a), plain_name(b)
    start = next((place for place, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), 0)
    while start and one[start - 1].isdecimal():
        start -= 1  # a number is told apart as a whole
    words = ({"a", "left", "first"}, {"b", "right", "second"})
    for side, name in enumerate((one, other)):
        letter = "ab"[side]
        end, field = name[start:], plain_name(re.split(r"[.\[\]]+", (a, b)[side])[-1])
        stem = field.removesuffix(end).rstrip("_")  # 'response' of 'fields.response1', which people call 'response-1'
        words[side].update({name, end, field, f"{stem}{end}", f"{stem}_{end}"})
        words[side].update(f"{called}_{letter}" for called in CALLED)
    return {word: side for side in (1, 0) for word in words[side] - words[1 - side] if word}


def winner_reader(columns: Columns) -> Callable[[Any], ParsedVerdict]:
    """What the column 'winner' says of two answers: words, or the numbers that the answers' columns are named by.

    The reader raises UnusableRow for a row, and Unclear where numbers of the column are none of these two.
    """
    column, (a, b) = columns["winner"], (columns["a"], columns["b"])
    words = side_words(a, b)
    by_number = {float(word): side for word, side in words.items() if word.isdecimal()}
    if (plain_name(a), plain_name(b), plain_name(column)) == ("human_ref_a", "human_ref_b", "labels"):
        by_number = {1.0: 0, 0.0: 1}  # the Stanford Human Preferences
    first, second = display_name(a), display_name(b)

    def read(value: Any) -> ParsedVerdict:
        number = number_of(value)
        if number is not None and by_number:
            if number not in by_number or has_sign(value):
                raise unclear_number(column, value)
            return (FIRST, SECOND)[by_number[number]]
        if number is not None:
            raise UnusableRow(column, _(NUMBER_NO_WINNER), shown=shown(value), first=first, second=second)
        found = verdict_of(value, words) if isinstance(value, str) else None
        if found is None:
            refuse_object(value, column)
        if not isinstance(value, str):
            raise UnusableRow(
                column, _("column '{column}' must name a winner; found: {kind_of}"), kind_of=kind_of(value)
            )
        if found is None:
            raise UnusableRow(column, _(NO_WINNER), shown=shown(value), first=first, second=second)
        return found

    return read


NO_WINNER: Final = N_("column '{column}' is {shown}: neither 'a' ('{first}') nor 'b' ('{second}') nor 'tie'")
NUMBER_NO_WINNER: Final = N_(
    "column '{column}' is {shown}: neither 'a' ('{first}') nor 'b' ('{second}') nor 'tie'; if it is a number, choose "
    "it under “Columns” as winner_from_0 (0 is the first answer, 1 the second), winner_from_1 (1 is the first) or "
    "preference (below 0 the first is better, above 0 the second)"
)
HOW_NUMBERS: Final = N_(
    "If it is a number, choose it under “Columns” as winner_from_0 (0 is the first answer, 1 the second), "
    "winner_from_1 (1 is the first) or preference (below 0 the first is better, above 0 the second)."
)


def unclear_number(column: str, value: Any) -> UnclearColumn:
    """The refusal of a column of numbers that name no answers."""
    name = display_name(column)
    said = _("The column '{name}' holds {shown}, so its numbers are no names of the two answers.")
    told = joined(said.format(name=name, shown=shown(value)), _(HOW_NUMBERS), _("Nothing was imported."))
    return UnclearColumn(told, "winner_from_0", "winner_from_1", "preference")


def verdict_of(text: str, words: Mapping[str, int]) -> ParsedVerdict | None:
    """What a word says: a side, a tie, both bad, 'A>B', or one of these in brackets, as '[[A]]'; None for no such."""
    word = text.strip()
    if len(word) > LONGEST_WINNER:
        return None
    while word[:1] == "[" and word[-1:] == "]":
        word = word[1:-1].strip()
    plain = word_of(word)
    if plain in TIES or (text.strip() == TIE_OF_JUDGES and plain not in words):
        return TIED
    if plain in ALL_BAD:
        return BAD
    side = words.get(plain.removesuffix("_is_better"))
    if side is not None:
        return (FIRST, SECOND)[side]
    duel = DUEL.fullmatch(word)
    left, right = (words.get(word_of(part)) for part in (duel[1], duel[3])) if duel else (None, None)
    if duel is None or left is None or right is None or left == right:
        return None
    if duel[2][0] == "=":
        return TIED
    return (FIRST, SECOND)[left if duel[2][0] in ">≫" else right]


def known_preference(value: Any, column: str) -> float | None:
    """A number that says by its sign which answer is better; None for none, as for HelpSteer 2's -100."""
    number = number_of(value)
    return None if number == NO_PREFERENCE and plain_name(column).endswith(SIGNED) else number


def preference_reader(column: str) -> Callable[[Any], tuple[ParsedVerdict, int | None, str]]:
    """What a number with a sign says: below 0 the first is better, above 0 the second, by how much; 0 is a tie."""

    def read(value: Any) -> tuple[ParsedVerdict, int | None, str]:
        number = number_of(value)
        if number is None:
            refuse_object(value, column)
            what = shown(value) if isinstance(value, str) else kind_of(value)
            raise UnusableRow(column, _("column '{column}' must be a number; found: {what}"), what=what)
        if number == 0:
            return TIED, 0, ""
        if known_preference(value, column) is None:
            raise UnusableRow(
                column, _("column '{column}' is {number:g}, which stands for no preference"), number=number
            )
        size = abs(number)
        strength = int(size) if size in (1, 2, 3) else None
        return (FIRST if number < 0 else SECOND), strength, "" if strength else OTHER_MARGIN

    return read


def index_of(value: Any, column: str, first: int, size: int) -> int:
    """Which of several answers a number means, counted from `first`, as a position from 0. Raises UnusableRow."""
    number = number_of(value)
    if number is None or has_sign(value) or number not in range(first, first + size):
        refuse_object(value, column)
        what = shown(value) if isinstance(value, (str, int, float)) else kind_of(value)
        raise UnusableRow(
            column,
            _("column '{column}' must be a whole number from {first} to {last}; found: {what}"),
            what=what,
            first=first,
            last=first + size - 1,
        )
    return int(number) - first


def score_of(value: Any) -> float | None:
    """How good an answer is: a number, or 1 and 0 for true and false."""
    return number_of(int(value) if isinstance(value, bool) else value)


def compared(values: Mapping[str, Any], columns: Columns) -> ParsedVerdict | None:
    """What the scores of two answers say, the higher the better; None where one is missing. Raises UnusableRow."""
    found = []
    for role in ("score_a", "score_b"):
        value = values.get(columns[role])
        number = score_of(value)
        if number is None and value not in (None, ""):
            raise UnusableRow(columns[role], _("column '{column}' must be a number; found: {what}"), what=shown(value))
        found.append(number)
    if found[0] is None or found[1] is None:
        return None
    return TIED if found[0] == found[1] else FIRST if found[0] > found[1] else SECOND


def best_of(value: Any, column: str, size: int) -> ParsedVerdict:
    """What a word says of several answers in a list: the letter of the best one, a tie, all bad.

    Raises UnusableRow for what is no such word, and UnclearColumn for a number.
    """
    if number_of(value) is not None:
        name = display_name(column)
        said = _("The column '{name}' holds {shown}: an answer's number, counted from 0 or from 1?")
        how = _("Choose it under “Columns” as winner_from_0 or as winner_from_1.")
        told = joined(said.format(name=name, shown=shown(value)), how, _("Nothing was imported."))
        raise UnclearColumn(told, "winner_from_0", "winner_from_1")
    word = word_of(value) if isinstance(value, str) else ""
    if word in TIES:
        return "ranked", (1,) * size
    if word in ALL_BAD:
        return BAD
    lettered = LETTERED.fullmatch(word)
    best = "abcdefgh".index(lettered[1]) if lettered else size
    if best >= size:
        refuse_object(value, column)
        raise UnusableRow(
            column,
            _("column '{column}' is {shown}, which is the letter of none of the {count} answers"),
            shown=shown(value),
            count=size,
        )
    return "ranked", tuple(1 if place == best else 2 for place in range(size))


# ---------------------------------------------------------------------------------------------------------- one answer
def says_good(value: Any) -> bool | None:
    """Whether a word or truth value calls an answer good; None for what says neither."""
    if isinstance(value, bool):
        return value
    return GOOD.get(word_of(value)) if isinstance(value, str) else None


def is_bare(value: Any) -> bool:
    """Whether a label says only together with its column's name what is good: a number, true, yes, positive."""
    word = word_of(value) if isinstance(value, str) else str(value).casefold()
    return number_of(value) is not None or word in BARE


def label_reader(columns: Columns, good_from: float | None) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a row's answer is good: by its label, or by its rating from the number on that is good.

    Raises UnclearColumn where ratings have no such number; the reader, too, for a label that turns out to be a scale.
    """
    if "rating" in columns:
        return rating_reader(columns["rating"], good_from)
    column, seen = columns["label"], set[float]()

    def read(values: Mapping[str, Any]) -> bool:
        value = values.get(column)
        number, good = number_of(value), says_good(value)
        if good is not None:
            return good
        if number is None:
            refuse_object(value, column)
            what = shown(value) if isinstance(value, str) else kind_of(value)
            raise UnusableRow(
                column, _("column '{column}' must say yes or no, such as true or false; found: {what}"), what=what
            )
        seen.add(number)
        if plain_name(column) in SCALES or number not in (0, 1, -1) or {0, -1} <= seen:
            scale = _("The column '{column}' holds {numbers}: numbers of a scale, not labels.")
            numbers = ", ".join(f"{one:g}" for one in sorted(seen))
            said = scale.format(column=display_name(column), numbers=numbers)
            how = _(HOW_RATINGS).format(column=display_name(column))
            raise UnclearColumn(joined(said, how, _("Nothing was imported.")), "rating", "label")
        return number == 1

    return read


HOW_RATINGS: Final = N_(
    "Choose '{column}' as rating under “Columns”, and say under “Good from” from which number on an answer is good; "
    "answers below it are bad ones."
)


def rating_reader(column: str, good_from: float | None) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a row's answer is rated as good. Raises UnclearColumn without the number from which on it is."""
    if good_from is None:
        name = display_name(column)
        said = _("The column '{name}' rates the answers, and bad ones must not be learned.").format(name=name)
        otherwise = _("Or choose no rating where all of them are good.")
        how = _(HOW_RATINGS).format(column=name)
        raise UnclearColumn(joined(said, how, otherwise, _("Nothing was imported.")), "rating")

    def read(values: Mapping[str, Any]) -> bool:
        number = number_of(values.get(column))
        if number is None:
            refuse_object(values.get(column), column)
            raise UnusableRow(
                column, _("column '{column}' must be a number; found: {what}"), what=shown(values.get(column))
            )
        return number >= good_from

    return read


# ------------------------------------------------------------------------------------------------------------- figures
def strength_of(values: Mapping[str, Any], columns: Columns) -> tuple[int | None, str]:
    """How much better the better answer is, where that is one of our degrees; and a remark where it is another."""
    value = values.get(columns["strength"]) if "strength" in columns else None
    margin = "strength" in columns and plain_name(columns["strength"]) == "margin"
    if value is None or value == "" or (margin and value == 0):
        return None, ""
    if isinstance(value, str) and value.split() and value.split()[0].casefold() in STRENGTH_WORDS:
        return STRENGTH_WORDS[value.split()[0].casefold()], ""
    number = number_of(value)
    if number is None:
        return None, OTHER_MARGIN
    # Our own exports write margins of up to 1 (annotation.exports.formats); three times that is the strength.
    degree = number * (3 if margin else 1)
    whole = round(degree)
    return (whole, "") if abs(degree - whole) < 0.02 and whole in (1, 2, 3) else (None, OTHER_MARGIN)


def numbers(
    found: Sequence[Any], column: str, wanted: int, read_one: Callable[[Any], float | None] = number_of
) -> list[float]:
    """One number for each answer. Raises UnusableRow."""
    if len(found) != wanted:
        raise UnusableRow(
            column,
            _("column '{column}' needs {wanted} numbers, one for each answer; found: {count}"),
            count=len(found),
            wanted=wanted,
        )
    read = [read_one(number) for number in found]
    wrong = [number for number, value in zip(found, read, strict=True) if value is None]
    if wrong:
        what = kind_of(wrong[0])
        raise UnusableRow(column, _("column '{column}' must hold finite numbers; found: {what}"), what=what)
    return [value for value in read if value is not None]


def dense(values: Sequence[float]) -> tuple[int, ...]:
    """Ranks without gaps; the smallest value is 1, equal values tie."""
    levels = sorted(set(values))
    return tuple(levels.index(value) + 1 for value in values)
