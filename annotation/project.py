"""What a project asks of its annotators, read from a form and checked: kind, overlap, shares, reasons. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any, Final

from annotation.records import MAXIMUM_SHARE, Kind, Project, Tag, UserError
from annotation.translation import N_, _, figures, ngettext
from annotation.validation import from_form, read, shown

RESERVED_KEYS: Final[Mapping[str, str]] = {
    "s": N_("skip"),
    "u": N_("undo"),
    "e": N_("edit"),
    "n": N_("note"),
    "h": N_("flag as harmful"),
    "p": N_("flag personal data"),
    "b": N_("flag as broken"),
    "r": N_("rendered or literal"),
    "g": N_("guidelines"),
    "m": N_("my judgements"),
}
"""Letters that the annotators' page uses itself."""
FREE_KEYS: Final = tuple(letter for letter in ascii_lowercase if letter not in RESERVED_KEYS)
MAXIMUM_TAGS: Final = len(FREE_KEYS)
MAXIMUM_LABEL: Final = 40
MAXIMUM_TAGS_TEXT: Final = 10_000
MAXIMUM_GUIDELINES: Final = 20_000
# Joiners are part of ordinary words in Persian or Hindi, and of emoji; the other invisible characters only mislead.
JOINERS: Final = "\u200c\u200d"
INVISIBLE: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
LINE: Final = re.compile(r"(?:(?P<key>[^:]*):)?(?P<label>.*)", re.DOTALL)


def check(values: Mapping[str, Any], annotators: int) -> Project:
    """The project that a form's values describe; a field that is left out has its default.

    `annotators` are the active people who can judge. Tags are given as for `parse_tags`; a pair always has two answers.
    Raises UserError with one sentence that names the field at fault and what it may be.
    """
    given = from_form(values)
    if given.get("kind", Project.kind) == "pair":
        given["answers"] = 2
    if "tags" in given:
        given["tags"] = parse_tags(given["tags"])
    project = read(Project, given, _("A project"))
    check_overlap(project.overlap, annotators)
    measuring = round(project.gold_share + project.re_ask_share, 9)
    if measuring > MAXIMUM_SHARE:
        said = _("The shares of gold comparisons and of re-asks add up to {sum}: together they may be up to {most}.")
        raise UserError(said.format(sum=exact_percent(measuring), most=exact_percent(MAXIMUM_SHARE)))
    return project


def check_overlap(overlap: int, annotators: int) -> None:
    """No more annotators for each comparison than there are, or it would never be judged in full."""
    if overlap > max(annotators, 1):
        too_many = ngettext(
            "Annotators for each comparison: {overlap} are too many, because there is {count} active account that can "
            "judge. Lower the number, or add accounts first.",
            "Annotators for each comparison: {overlap} are too many, because there are {count} active accounts that "
            "can judge. Lower the number, or add accounts first.",
            annotators,
        )
        raise UserError(too_many.format(overlap=shown(overlap), count=annotators))


def exact_percent(share: float) -> str:
    """A share that somebody set, unrounded: 0.125 is '12.5%'."""
    return figures("{share:.4g}%", share=100 * share)


# ------------------------------------------------------------------------------------------------------------- reasons
def parse_tags(value: Any) -> tuple[Tag, ...]:
    """Reasons from text, one a line as 'key: label' or 'label', or from a list of such lines or tags.

    A tag without a key gets the first letter of its label that is free, else the first free letter at all.
    Raises UserError naming the line.
    """
    if isinstance(value, str) and len(value) > MAXIMUM_TAGS_TEXT:
        raise UserError(_("Reasons: the list may have up to {most:,} characters.").format(most=MAXIMUM_TAGS_TEXT))
    lines = value.split("\n") if isinstance(value, str) else value
    if not isinstance(lines, Sequence) or isinstance(lines, bytes | bytearray):
        raise UserError(_("Reasons: give one a line, as 'key: label'."))
    read = [parse_tag(line, number) for number, line in enumerate(lines, 1) if not is_blank(line)]
    if len(read) > MAXIMUM_TAGS:
        said = _("Reasons: there can be up to {most}, not {count}, because each has a letter of its own.")
        raise UserError(said.format(most=MAXIMUM_TAGS, count=len(read)))
    refuse_repeated_labels(read)
    refuse_repeated_keys(read)
    return give_keys(read)


def is_blank(line: Any) -> bool:
    """Whether a line has no text; what is no text is not blank, so that it is refused."""
    return isinstance(line, str) and not line.strip(" \r")


def parse_tag(line: Any, number: int) -> Tag:
    """One line as a tag, whose key is empty where none was given."""
    if isinstance(line, Tag):
        key, label = line.key, line.label
    elif isinstance(line, str):
        found = LINE.fullmatch(line.rstrip("\r"))
        assert found is not None
        key, label = found["key"] or "", found["label"]
    else:
        raise UserError(_("Reasons, line {number}: give text, as 'key: label'.").format(number=number))
    return Tag(check_key(key, number), check_label(label, number))


def check_key(key: Any, number: int) -> str:
    """A letter that the page leaves free, or nothing."""
    letter = key.strip(" ").lower() if isinstance(key, str) else None
    if letter is None or (letter and letter not in tuple(ascii_lowercase)):
        wrong = _(
            "Reasons, line {number}: what stands before the colon is the key, and must be one letter from a to z. "
            "Begin the line with a colon to have one chosen."
        )
        raise UserError(wrong.format(number=number))
    if letter in RESERVED_KEYS:
        said = _("Reasons, line {number}: the key '{key}' is taken by the page ({what}). Free are {free}.")
        raise UserError(said.format(number=number, key=letter, what=_(RESERVED_KEYS[letter]), free=" ".join(FREE_KEYS)))
    return letter


def check_label(label: Any, number: int) -> str:
    trimmed = label.strip(" ") if isinstance(label, str) else ""
    if not trimmed or len(trimmed) > MAXIMUM_LABEL:
        said = _("Reasons, line {number}: a label has 1 to {most} characters.")
        raise UserError(said.format(number=number, most=MAXIMUM_LABEL))
    wrong = invisible(trimmed)
    if wrong:
        said = _("Reasons, line {number}: the label has a character that can't be seen ({wrong}). Remove it.")
        raise UserError(said.format(number=number, wrong=wrong))
    if not trimmed.strip():
        raise UserError(_("Reasons, line {number}: the label has only white space.").format(number=number))
    return trimmed


def refuse_repeated_labels(tags: Sequence[Tag]) -> None:
    """Raises UserError for a label that is there twice, in whatever case."""
    words = [tag.label.casefold() for tag in tags]
    for tag, word in zip(tags, words, strict=True):
        if words.count(word) > 1:
            repeated = _("Reasons: the label '{label}' is there more than once. Change or remove one of them.")
            raise UserError(repeated.format(label=tag.label))


def refuse_repeated_keys(tags: Sequence[Tag]) -> None:
    """Raises UserError for a key that is there twice."""
    keys = [tag.key for tag in tags if tag.key]
    for key in keys:
        if keys.count(key) > 1:
            repeated = _("Reasons: the key '{key}' is there more than once. Change or remove one of them.")
            raise UserError(repeated.format(key=key))


def give_keys(tags: Sequence[Tag]) -> tuple[Tag, ...]:
    taken = {tag.key for tag in tags if tag.key}
    given = []
    for tag in tags:
        wishes = (*unicodedata.normalize("NFKD", tag.label).lower(), *FREE_KEYS)
        key = tag.key or next(letter for letter in wishes if letter in FREE_KEYS and letter not in taken)
        taken.add(key)
        given.append(Tag(key, tag.label))
    return tuple(given)


def tags_text(tags: Sequence[Tag]) -> str:
    """Tags as lines that `parse_tags` reads back."""
    return "\n".join(f"{tag.key}: {tag.label}" for tag in tags)


# ---------------------------------------------------------------------------------------------------------- guidelines
ACTS: Final[Mapping[Kind, Sequence[str]]] = {
    "pair": (
        N_("Much better: everybody would see it. Clearly: you could say why. Slightly: you hesitate. A tie is fine."),
        N_("Both bad: neither can be used. Skip: you can't tell, or would rather not."),
    ),
    "best": (
        N_("Choose the best answer, even if it is only slightly better. All equally good is fine too."),
        N_("All bad: none can be used. Skip: you can't tell, or would rather not."),
    ),
    "rank": (
        N_("Rank the answers, the best first. A tie is fine."),
        # Other policies are compared two by two, whatever the project asks.
        N_("Of two alone, much better: everybody would see it. Clearly: you could say why. Slightly: you hesitate."),
        N_("All bad: none can be used. Skip: you can't tell, or would rather not."),
    ),
}
FIRST_SENTENCES: Final[Mapping[Kind, Sequence[str]]] = {
    kind: (
        N_("Read the prompt, then every answer to its end."),
        N_("Better is what helps the person who asked more: it does what was asked, it is true, and it is clear."),
        N_("Length is no merit, nor is a tone of certainty: of two answers that say the same the shorter is better."),
        *acts,
        N_("Flag what is harmful, what tells of a private person, and what is broken."),
    )
    for kind, acts in ACTS.items()
}
"""What annotators of a new project go by, by what is asked of them."""
FIRST_GUIDELINES: Final = "\n".join(f"- {sentence}" for sentence in FIRST_SENTENCES["pair"])
"""What a new project begins with, in Markdown, as it is stored; whoever leads it writes better ones."""


def as_read(guidelines: str, kind: Kind) -> str:
    """Guidelines as they are shown: those that a project began with in the reader's language and for what is asked of
    annotators now, a person's as stored.
    """
    if guidelines != FIRST_GUIDELINES:
        return guidelines
    return "\n".join(f"- {_(sentence)}" for sentence in FIRST_SENTENCES[kind])


def reason_as_read(label: str) -> str:
    """A reason as it is shown: one that a project began with in the reader's language, a person's as stored."""
    return _(label) if any(label == tag.label for tag in Project().tags) else label


def tags_as_read(tags: Sequence[Tag]) -> tuple[Tag, ...]:
    """Reasons as they are edited: as they are shown, but where another one is called so."""
    held = {tag.label for tag in tags}
    names = {label: reason_as_read(label) for label in held}
    return tuple(Tag(tag.key, tag.label if names[tag.label] in held else names[tag.label]) for tag in tags)


def tags_as_stored(tags: Sequence[Tag], held: Sequence[Tag]) -> tuple[Tag, ...]:
    """Edited reasons as they are stored: those that a project began with as it began, what it `held` as it stands.

    Raises UserError where two are the same in different languages.
    """
    own = {tag.label for tag in held}
    begun_with = {reason_as_read(tag.label): tag.label for tag in Project().tags}
    made = tuple(Tag(tag.key, tag.label if tag.label in own else begun_with.get(tag.label, tag.label)) for tag in tags)
    refuse_repeated_labels(made)
    return made


def follows(guidelines: str, kind: Kind) -> str:
    """What guidelines follow beside their version: what is asked now; nothing where a person wrote them."""
    return kind if guidelines == FIRST_GUIDELINES else ""


def as_stored(guidelines: str) -> str:
    """Guidelines as they are stored: for those that a project began with, whatever is asked, what it began with."""
    begun_with = guidelines in {as_read(FIRST_GUIDELINES, kind) for kind in FIRST_SENTENCES}
    return FIRST_GUIDELINES if begun_with else guidelines


def check_guidelines(text: Any) -> str:
    """Guidelines as they are stored. Raises UserError if they are too long or hold characters that can't be seen."""
    if not isinstance(text, str) or len(text) > MAXIMUM_GUIDELINES:
        said = _("Guidelines may have up to {most:,} characters. Shorten them.")
        raise UserError(said.format(most=MAXIMUM_GUIDELINES))
    plain = text.replace("\r\n", "\n").strip()
    wrong = invisible(plain.translate({ord("\n"): " ", ord("\t"): " "}))
    if wrong:
        said = _("The guidelines have a character that can't be seen ({wrong}). Remove it.")
        raise UserError(said.format(wrong=wrong))
    return plain


def invisible(text: str) -> str:
    """The code point of the first character that can't be seen, as 'U+0007'; empty if there is none."""
    wrong = next((sign for sign in text if unicodedata.category(sign) in INVISIBLE and sign not in JOINERS), None)
    return "" if wrong is None else f"U+{ord(wrong):04X}"
