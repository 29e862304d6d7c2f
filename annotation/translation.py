"""The language that people read: a sentence goes through `_`, and one file per language says what it is in there.

The sentences in the code are English, and are their own keys. Which language is spoken is a matter of who is answered
(`speaking`), so that nothing is said while a module is imported: there a sentence is marked with `N_`, and goes through
`_` where it is shown.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from babel import Locale
    from babel.messages.catalog import Message

DIRECTORY: Final = Path(__file__).with_name("translations")
VARIABLE: Final = "PREFLOOP_LANGUAGE"
# A language, and perhaps a script, a country and variants, as browsers know them.
CODE: Final = re.compile(r"[a-z]{2,3}([_-][a-zA-Z]{4})?([_-]([a-zA-Z]{2}|[0-9]{3}))?([_-][a-zA-Z0-9]{5,8})*")
# What is filled in: a name, perhaps with how it is written.
FIELD: Final = re.compile(r"\{\w+(?:[!:][^{}]*)?\}")
# Of these the rule for plurals has to make something.
COUNTS: Final = range(201)
DOUBLED: Final = re.compile(r"\{\{|\}\}")
ENGLISH_PLURALS: Final = tuple(int(count != 1) for count in COUNTS)


@dataclass(frozen=True)
class Language:
    """A language as it is read from its file; without one, English as it stands in the code."""

    code: str = "en"
    name: str = "English"
    """As its speakers call it."""
    direction: Literal["ltr", "rtl"] = "ltr"
    sentences: NullTranslations = field(default_factory=NullTranslations)
    script: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    """The sentences that stand in the pages' scripts; with a count all forms, by the English one for several."""
    plurals: Sequence[int] = ENGLISH_PLURALS
    """Which of its forms goes with each count of COUNTS."""
    singulars: Mapping[str, str] = field(default_factory=dict)
    """The English singulars by which its sentences with a count are found, by the English ones for several."""
    separators: Mapping[int, str] = field(default_factory=dict)
    """What it writes for the comma and the point of a number, as `str.translate` takes it, where they differ."""

    @property
    def attributes(self) -> str:
        """What a page's html element says of it."""
        return f'lang="{self.code}" dir="{self.direction}"'


ENGLISH: Final = Language()


class WrongTranslation(Exception):
    """There is no such language, or its file can't be used. The message says what to do."""


def chosen(wanted: str) -> Language:
    """The language of this code, or of this .po file. Raises WrongTranslation where there is none."""
    if wanted in ("", "en"):
        return ENGLISH
    path = Path(wanted) if wanted.endswith(".po") else of_name(wanted)
    if path is None or not path.is_file():
        there = ", ".join(["en", *sorted(file.stem for file in DIRECTORY.glob("*.po"))])
        raise WrongTranslation(
            f"{VARIABLE} is '{wanted}', and there is no such translation. Choose one of: {there}; "
            "or give the path of a .po file."
        )
    return read(path)


def of_name(wanted: str) -> Path | None:
    """The file of a language's code, in whose parts there may be either line: pt_BR or pt-BR."""
    spellings = (wanted, wanted.replace("-", "_"), wanted.replace("_", "-")) if CODE.fullmatch(wanted) else ()
    return next((path for one in spellings if (path := DIRECTORY / f"{one}.po").is_file()), None)


def read(path: Path) -> Language:
    """The language of a .po file. Raises WrongTranslation where it can't be used, with the line of what is wrong."""
    try:
        return parsed(path)
    except WrongTranslation:
        raise
    except Exception as error:  # a parser of somebody else's, for a file of anybody's
        raise WrongTranslation(f"{path} can't be read: {error or type(error).__name__}") from error


def parsed(path: Path) -> Language:
    """As `read`, with whatever Babel and the file system raise."""
    from babel import Locale
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    with path.open("rb") as file:
        catalog = read_po(file, abort_invalid=True)
    messages = [message for message in catalog if message.id and not message.fuzzy]
    for message in messages:
        for reason in faults(message):
            raise WrongTranslation(f"{path}, line {message.lineno}: {reason}")
    compiled = BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    sentences = GNUTranslations(compiled)
    # Of all counts now, or some pages would fail and others not.
    plurals = [sentences.plural(count) for count in COUNTS]  # type: ignore[attr-defined]
    named = Locale.parse(path.stem.replace("-", "_")) if CODE.fullmatch(path.stem) else None
    locale = catalog.locale or named
    if locale is None:
        raise WrongTranslation(f"{path} is in no language. Call it after one, such as de.po or pt_BR.po.")
    return Language(
        code=code_of(path) if named else str(locale).replace("_", "-"),
        name=(named or locale).get_display_name() or path.stem,
        direction="rtl" if locale.text_direction == "rtl" else "ltr",
        sentences=sentences,
        script={
            forms(message.id)[-1]: message.string
            for message in messages
            if message.string
            and all(forms(message.string))
            and any(place.endswith(".js") for place, _ in message.locations)  # where `make messages` found it
        },
        plurals=plurals,
        singulars={forms(message.id)[1]: forms(message.id)[0] for message in messages if message.pluralizable},
        separators=separators_of(named or locale),
    )


def separators_of(locale: Locale) -> Mapping[int, str]:
    """What a language writes for the English separators in numbers of the digits 0 to 9; empty where the same."""
    symbols = locale.number_symbols.get("latn", {})
    wanted = {ord(","): symbols.get("group", ","), ord("."): symbols.get("decimal", ".")}
    return {} if all(chr(sign) == own for sign, own in wanted.items()) else wanted


def faults(message: Message) -> Iterator[str]:
    """What would fail when a translation's gaps are filled in."""
    gaps = {gap for original in forms(message.id) for gap in FIELD.findall(original)}
    for text in forms(message.string):
        if unknown := sorted(set(FIELD.findall(text)) - gaps):
            there = ", ".join(sorted(gaps)) or "no gaps"
            yield f"{', '.join(unknown)} is not in the English sentence, which has {there}."
        elif gaps and re.search("[{}]", FIELD.sub("", DOUBLED.sub("", text))):
            yield "a brace stands alone. Write {{ or }} for one that is to be seen."


def forms(text: str | Sequence[str] | None) -> Sequence[str]:
    """A sentence, or its singular and plurals."""
    return [text] if isinstance(text, str) else text or ()


def code_of(path: Path) -> str:
    """The code of a language's file: its name. What its head says is for its plurals and direction only."""
    return path.stem.replace("_", "-")


@cache
def files() -> Mapping[str, Path]:
    """The file of each language but English, by its code."""
    found = (file for file in sorted(DIRECTORY.glob("*.po")) if CODE.fullmatch(file.stem))
    return {code_of(file): file for file in found if file.stem != Language.code}


@cache
def codes() -> tuple[str, ...]:
    """The codes of the languages that people can choose from."""
    return tuple(sorted({Language.code, *files(), of_server().code}))


Version: TypeAlias = tuple[int, int] | None


@dataclass(frozen=True)
class Reading:
    """What came of reading a language's file when it was first asked for."""

    language: Language
    """The server's where the file can't be used."""
    version: Version
    """Of a file that can't be used: it is read again once it is another one."""


# By code.
READ: Final[dict[str, Reading]] = {}
READING: Final = threading.RLock()


def language_of(code: str | None) -> Language:
    """A language, whose file is read when it is first asked for; the server's where there is none or a wrong one."""
    if (known := at_hand(code)) is not None:
        return known
    assert code is not None, "the server's language is at hand"
    with READING:
        if (known := at_hand(code)) is not None:  # by now, as another thread has read it
            return known
        version = version_of(code)
        try:
            READ[code] = Reading(offered(code), version)
        except WrongTranslation as error:
            logging.getLogger(__name__).error("Whoever reads '%s' gets the server's language: %s", code, error)
            READ[code] = Reading(of_server(), version)
        return READ[code].language


def offered(code: str) -> Language:
    """A language that people can choose. Raises WrongTranslation where there is none (any more)."""
    if code == Language.code:
        return ENGLISH
    if code not in files():
        raise WrongTranslation(f"{DIRECTORY} has no file for it.")
    return read(files()[code])


def give_up(code: str) -> None:
    """Answer in the server's language whoever has chosen this one, until its file is another one."""
    READ[code] = Reading(of_server(), version_of(code))


def at_hand(code: str | None) -> Language | None:
    """A language for which no file has to be read, which takes up to a second; else None."""
    if code is None or code == of_server().code:  # which may be from a file of its own
        return of_server()
    reading = READ.get(code)
    if reading is None or (reading.language is of_server() and reading.version != version_of(code)):
        return None
    return reading.language


def version_of(code: str) -> Version:
    """When a language's file was last written and last changed in any way, in ns; None where there is none."""
    try:
        found = files()[code].stat() if code in files() else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_ctime_ns)


@cache
def of_server() -> Language:
    """The language of whoever has chosen none. Ends the program where the variable means none, or a wrong one."""
    try:
        return chosen(os.environ.get(VARIABLE, "").strip())
    except WrongTranslation as error:
        raise SystemExit(str(error)) from error


SPOKEN: Final[ContextVar[Language | None]] = ContextVar("spoken", default=None)


def spoken() -> Language:
    """The language that is spoken here: that of the person who is answered, else the server's."""
    return SPOKEN.get() or of_server()


@contextmanager
def speaking(language: Language) -> Iterator[Language]:
    """Speak a language until the block ends, in this thread or task and those that it starts."""
    token = SPOKEN.set(language)
    try:
        yield language
    finally:
        SPOKEN.reset(token)


def translate(sentence: str) -> str:
    """A sentence in the language that is spoken; with gaps like {name}, to be filled in by `str.format` afterwards."""
    if "{" not in sentence:
        return Said.of(spoken().sentences.gettext(sentence), (sentence,), {}) if sentence else ""
    return Sentence.of(spoken().sentences.gettext(sentence), sentence)


def ngettext(one: str, several: str, count: int) -> str:
    """The sentence that goes with this count, its gaps still to be filled in."""
    return Sentence.of(spoken().sentences.ngettext(one, several, count), one, several, count)


class Sentence(str):
    """A sentence that is spoken, whose gaps are still to be filled in."""

    keys: tuple[Any, ...]
    """What it is in the code; with a count its two forms and the count."""

    @classmethod
    def of(cls, text: str, *keys: Any) -> Sentence:
        sentence = cls(text)
        sentence.keys = keys
        return sentence

    def format(self, *args: object, **gaps: object) -> str:
        """As of any text, with its numbers as the language writes them."""
        shown = {name: as_written(value) for name, value in gaps.items()} if spoken().separators else gaps
        # No objects: an error would keep alive whatever it went through.
        plain = {name: gap if isinstance(gap, PLAIN) else str(gap) for name, gap in gaps.items()}
        inside = {name: gap.parts if isinstance(gap, Said) else gap for name, gap in plain.items()}
        return Said.of(super().format(*args, **shown), self.keys, inside)


class Said(str):
    """A sentence without gaps, or with them filled in, that knows what it was made of; one that is changed does not."""

    parts: Mapping[str, Any]
    """Its keys, and what is in its gaps, which may have been said as well."""

    @classmethod
    def of(cls, text: str, keys: Sequence[Any], gaps: Mapping[str, Any]) -> Said:
        said = cls(text)
        said.parts = {"said": keys, "with": gaps}
        return said

    def __str__(self) -> str:
        """Itself, as `str` of an error too that holds it."""
        return self

    def format(self, *args: object, **gaps: object) -> Said:
        """Itself: nothing is left to be filled in."""
        return self


def joined(*sentences: str, by: str = " ") -> str:
    """Sentences one after the other, as many as say something, as a text that can be kept and told again like one."""
    said = [one for one in sentences if one]
    if len(said) < 2:
        return said[0] if said else ""
    gaps = {f"sentence_{place}": one for place, one in enumerate(said)}
    text = by.join(f"{{{name}}}" for name in gaps)
    return Sentence.of(text, text).format(**gaps)


# ----------------------------------------------------------------------------------------------------- what is stored
PLAIN: Final = (str, int, float)
STORED: Final = '{"said": ['
# In a stored sentence: a name, perhaps with a short specification, whose width and precision have at most two digits.
STORED_FIELD: Final = re.compile(r"\{\w+(?::[^{}\d]{0,3}\d{0,2}(?:\.\d{1,2})?[^{}\d]{0,2})?\}")
# What comes of a stored text that no program of ours has written.
UNTELLABLE: Final = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def kept(text: str) -> str:
    """A text to be stored: what is said with its gaps filled in so that `retold` says it in another language."""
    if isinstance(text, Said):
        with suppress(*UNTELLABLE):  # what was in a gap may be written as no text is
            if said_again(text.parts) == text:
                return json.dumps(text.parts, ensure_ascii=False)
    return as_it_stands(text)


def as_it_stands(text: str) -> str:
    """A text of anybody's, to be stored: `retold` gives it back as it is, also where it begins as a stored one does."""
    return json.dumps({"said": ["{text}"], "with": {"text": text}}) if text.startswith(STORED) else text


def retold(text: str) -> str:
    """What `kept` has stored, in the language that is spoken; any other text as it stands."""
    if not text.startswith(STORED):
        return text
    try:
        return said_again(json.loads(text))
    except UNTELLABLE:
        return text


def kept_within(value: Any) -> Any:
    """A record that is stored as JSON, with its texts as `kept` has them."""
    return within(value, kept)


def retold_within(value: Any) -> Any:
    """What `kept_within` has stored, its texts in the language that is spoken."""
    return within(value, retold)


def within(value: Any, change: Callable[[str], str]) -> Any:
    """A record of mappings and sequences with its texts changed, wherever they stand."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: within(one, change) for name, one in value.items()}
    return [within(one, change) for one in value] if isinstance(value, list | tuple) else value


def said_again(parts: Mapping[str, Any]) -> str:
    """A sentence and what its gaps hold in the language that is spoken.

    Raises one of UNTELLABLE for what is no such sentence, or has gaps that ask for more than what is in them.
    """
    inside = parts["with" if "with" in parts else "gaps"].items()
    gaps = {name: said_again(value) if isinstance(value, Mapping) else value for name, value in inside}
    if "gaps" in parts:  # of earlier versions, which had whole sentences there as they read
        gaps |= {name: translate(value) for name, value in gaps.items() if isinstance(value, str) and " " in value}
    keys = parts["said"]
    if any(re.search("[{}]", STORED_FIELD.sub("", DOUBLED.sub("", key))) for key in keys[:2]):
        raise ValueError("a gap is no plain name")
    return sentence_of(keys, gaps).format(**gaps)


def sentence_of(keys: Sequence[Any], gaps: Mapping[str, Any]) -> str:
    """A stored sentence in the language that is spoken.

    One that was said without a count and has plural forms since goes by the first number in it.
    """
    one = spoken().singulars.get(keys[0]) if len(keys) == 1 else None
    if one is not None and translate(keys[0]) == keys[0]:
        inside = [gaps[name] for name in re.findall(r"\{(\w+)", keys[0])]
        counts = [round(value) for value in inside if isinstance(value, int | float)]
        keys = [one, keys[0], counts[0]] if counts else keys
    return translate(keys[0]) if len(keys) == 1 else ngettext(*keys)


# ------------------------------------------------------------------------------------------------------------ numbers
def as_written(value: object) -> object:
    """A number that `format` writes as the language does; anything else as it is."""
    return Numeral(value) if type(value) is int or isinstance(value, float) else value


@dataclass(frozen=True)
class Numeral:
    value: float

    def __format__(self, spec: str) -> str:
        return numeral(self.value, spec)

    def __repr__(self) -> str:
        return repr(self.value)


def numeral(value: float, spec: str = ",") -> str:
    """A number outside of sentences: as `format` writes it by this specification, with the language's separators."""
    text = format(value, spec).translate(spoken().separators)
    return Said.of(text, (f"{{value:{spec}}}",), {"value": value if isinstance(value, PLAIN) else float(value)})


def figures(form: str, **numbers: float) -> str:
    """Numbers between signs that are the same in every language, as '{share:.0f}%'."""
    return Sentence.of(form, form).format(**numbers)


def noted(sentence: str) -> str:
    """A sentence that goes through `_` where it is shown: here it is a constant, stored, compared or published."""
    return sentence


_, N_ = translate, noted
