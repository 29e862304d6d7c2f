"""A model's tokenizer and chat template without torch: the same text and token ids as the workers', for previews."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from annotation.records import UserError
from annotation.translation import _
from rlhf.models.model_files import explained, read_json, read_text, tokens_known
from rlhf.models.template_process import LONGEST_REASON, TemplateRefused, conversation

# The names under which chat templates know a tokenizer's special tokens.
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What a decoder puts for bytes that are no whole character yet, and how many tokens a character may take.
INCOMPLETE = "\ufffd"
CHARACTER_TOKENS = 4
# What tokenizers raises where a pattern of the model's goes too far; no Exception, so nobody would answer for it.
PANIC = "PanicException"
TOKENIZER_FILE = "tokenizer.json"
# Bytes; the largest vocabularies, of a quarter of a million tokens, take a third of that.
LARGEST_TOKENIZER = 100_000_000
# Characters of added tokens, and of a Unigram's. By what is made of them when a tokenizer is read, texts are searched:
# so many take some ten seconds and up to three gigabytes, in which their process does nothing else.
MOST_ADDED = 1_500_000
MOST_PIECES = 8_000_000
# How many times as long a text becomes; those of models put one character in the place of another, or some in one's.
MOST_GROWTH = 16
CHARACTER_BYTES = 4
# Objects in what says how texts are changed and cut; models have some ten.
MOST_STEPS = 200
# Characters of a word, which WordPiece cuts in a time that grows with their square at least; models say 100.
MOST_WORD = 1_000
PARTS = ("normalizer", "pre_tokenizer", "decoder")
# Files of which transformers can make a tokenizer.
TOKENIZERS = (TOKENIZER_FILE, "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
TEMPLATE_FILE, SETTINGS_FILE = "chat_template.jinja", "tokenizer_config.json"


# Breaks a token without being seen.
ZERO_WIDTH_SPACE = "\u200b"
# A conversation by which a template shows how it ends an answer: no template has such a word of its own.
QUESTION, ANSWER = "What is a good breakfast?", "Zwxporridge"
ASKED = {"role": "user", "content": QUESTION}
# What a template is told where its model is not to think before it answers, by the names that templates know; one that
# knows none of these takes no notice.
NO_THINKING: Mapping[str, Any] = {"enable_thinking": False, "thinking": False, "thinking_budget": 0}


@dataclass(frozen=True)
class ChatFormat:
    """How a model is given conversations: what `rlhf.models.template_process` takes of a tokenizer, without its
    vocabulary."""

    template: str
    special_tokens_map: Mapping[str, str]
    """Special tokens by the names under which templates know them."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """What the template is told beside the conversation."""

    def get_chat_template(self) -> str:
        """The template, under transformers' name."""
        return self.template


def options_of(no_thinking: bool) -> dict[str, Any]:
    """What a template is told beside the conversation."""
    return dict(NO_THINKING) if no_thinking else {}


def read_format(directory: Path, no_thinking: bool = False) -> ChatFormat:
    """A model's chat format, from the same files as transformers. Raises UserError if it has none."""
    settings = read_settings(directory)
    with explained(directory / SETTINGS_FILE):
        special = {name: text_of(settings[name]) for name in NAMED_TOKENS if settings.get(name)}
    return ChatFormat(read_template(directory, settings), special, options_of(no_thinking))


@contextmanager
def tokenizing() -> Iterator[None]:
    """Turn it into a sentence where a model's tokenizer, ours or transformers', fails on a text or on tokens."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        said = _("The model's tokenizer fails on a text ({error}). Choose another model.")
        raise UserError(said.format(error=str(error)[:LONGEST_REASON])) from error


class ChatTokenizer:
    """What the workers use of transformers' tokenizer, from the same files; `rlhf.models.tokenise` takes either."""

    def __init__(self, directory: Path, no_thinking: bool = False) -> None:
        """Read a model's tokenizer. Raises UserError if it has no tokenizer.json or no chat template that works."""
        self.backend = read_backend(directory / TOKENIZER_FILE)
        self.format = read_format(directory, no_thinking)
        self.template_options = self.format.template_options
        self.rows = tokens_known(directory)
        self.special_tokens_map = dict(self.format.special_tokens_map)
        with explained(directory / SETTINGS_FILE):
            self.extra_tokens = [text_of(token) for token in extra_tokens(read_settings(directory))]
        self.special_tokens_map["eos_token"] = end_of_turn(self)
        self.special_tokens_map["pad_token"] = self.padding(directory)

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        """A text's token ids, as transformers gives them for one text. Raises UserError where it fails on it."""
        with tokenizing():
            return {"input_ids": list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)}

    def padding(self, directory: Path) -> str:
        """The token to pad with; the one that ends an answer where there is none that the weights have a row for."""
        own = self.special_tokens_map.get("pad_token", self.eos_token)
        # One that is not in the vocabulary is put at its end, as in transformers.
        number = self.backend.token_to_id(own)
        number = self.backend.get_vocab_size() if number is None else number
        return own if has_row(directory, number) else self.eos_token

    @property
    def eos_token(self) -> str:
        return self.special_tokens_map.get("eos_token", "")

    @property
    def eos_token_id(self) -> int:
        found = self.backend.token_to_id(self.eos_token)
        assert found is not None, f"the tokenizer does not know its own end of text {self.eos_token!r}"
        return int(found)

    @property
    def all_special_ids(self) -> list[int]:
        found = [self.backend.token_to_id(token) for token in (*self.special_tokens_map.values(), *self.extra_tokens)]
        return [token for token in found if token is not None]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that texts are searched for before all else, special ones among them, by id."""
        found: dict[int, AddedToken] = self.backend.get_added_tokens_decoder()
        return found

    def convert_ids_to_tokens(self, token: int) -> str:
        return str(self.backend.id_to_token(token))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        with tokenizing():
            return str(self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, under transformers' name."""
        return dict(self.backend.get_vocab(with_added_tokens=True))

    def get_chat_template(self) -> str:
        """The template, under transformers' name."""
        return self.format.template

    def pieces(self, ids: Sequence[int]) -> list[tuple[str, int]]:
        """The text of each token, in order, with how many tokens it takes: a rare character can be several tokens.

        Put together the pieces are the text of all ids.
        """
        found: list[tuple[str, int]] = []
        before: list[int] = []
        gathered: list[int] = []
        for token in ids:
            gathered.append(token)
            # With the piece before it, because some decoders drop a leading space.
            text = self.decode([*before, *gathered])[len(self.decode(before)) :]
            if text.endswith(INCOMPLETE) and len(gathered) < CHARACTER_TOKENS:
                continue
            found.append((text, len(gathered)))
            before, gathered = gathered, []
        if gathered:
            found.append((self.decode([*before, *gathered])[len(self.decode(before)) :], len(gathered)))
        return found


@lru_cache(maxsize=4)
def chat_tokenizer(directory: Path, no_thinking: bool = False) -> ChatTokenizer:
    """The tokenizer of a model's directory, read once: a large vocabulary takes a second."""
    return ChatTokenizer(directory, no_thinking)


def can_be_told(directory: Path) -> bool:
    """Whether a model's template can be told that its model is not to think. Raises UserError where it has none."""
    as_it_is, told = (conversation(read_format(directory, no_thinking), [ASKED], True) for no_thinking in (False, True))
    return as_it_is != told


def vocabulary_of(tokenizer: Any) -> str:
    """A hash of a tokenizer's vocabulary, ours or transformers': what token ids mean goes by it. Made once for each."""
    known: str | None = getattr(tokenizer, "vocabulary", None)
    if known is None:
        tokens = sorted(tokenizer.get_vocab().items(), key=itemgetter(1))
        known = tokenizer.vocabulary = sha256(json.dumps(tokens).encode()).hexdigest()[:16]
    return known


def end_of_turn(tokenizer: Any) -> str:
    """The token with which the chat template ends an answer; some models have another one as end of text.

    Raises TemplateRefused where there is none: nothing would tell where an answer ends.
    """
    turn = [ASKED, {"role": "assistant", "content": ANSWER}]
    whole = conversation(tokenizer, turn)
    _before, answer, rest = whole.rpartition(ANSWER)
    if not answer:
        raise TemplateRefused(_("it leaves out what the assistant says."))
    ends = marks_in(tokenizer, rest)
    if not ends:
        # GLM-4's end an answer with what begins the user's next turn.
        whole = conversation(tokenizer, [*turn, ASKED])
        ends = marks_in(tokenizer, whole.rpartition(ANSWER)[2].partition(QUESTION)[0])
    if not ends:
        raise TemplateRefused(
            _("it has no token that ends an answer: put {{ eos_token }} behind what the assistant says.")
        )
    if ends[0] not in marks_in(tokenizer, whole):  # some look for marks at the beginning of a text alone
        said = _("where an answer stands before it, its tokenizer reads the token that ends one as words.")
        raise TemplateRefused(said)
    return name_of(tokenizer, ends[0])


def name_of(tokenizer: Any, token: int) -> str:
    """How a token is written; what the vocabulary calls an added one can be its text as a normaliser left it."""
    added = tokenizer.added_tokens_decoder.get(token)
    return str(tokenizer.convert_ids_to_tokens(token)) if added is None else str(added.content)


def marks_in(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that are no words."""
    with tokenizing():
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    special, added = special_ids(tokenizer), tokenizer.added_tokens_decoder
    # Some models' end of a turn was added to the vocabulary and not called special.
    return [token for token in tokens if token in special] or [token for token in tokens if token in added]


@dataclass(frozen=True)
class Marks:
    """What a tokenizer reads as a model's own marks wherever it stands, but that it does not know a character."""

    special: re.Pattern[str]
    written: re.Pattern[str]
    """These, and what the template writes though it is not called special, as which models write their thoughts."""
    ids: frozenset[int]
    """Of the special ones."""


def marks_of(tokenizer: Any) -> Marks:
    """The marks of a tokenizer, ours or transformers'. Looked for once for each."""
    known: Marks | None = getattr(tokenizer, "marks", None)
    if known is None:
        names = {number: name_of(tokenizer, number) for number in special_ids(tokenizer)}
        # Blanks and ends of lines, for several of which some vocabularies have tokens, stay: they are no marks.
        special = {number: name for number, name in names.items() if len(name.strip()) > 1}
        template = tokenizer.get_chat_template()
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        written = {name for name in added if name in template and len(name.strip()) > 1 and not name.strip().isalnum()}
        unknown = tokenizer.special_tokens_map.get("unk_token")
        ids = frozenset(number for number, name in special.items() if name != unknown)
        known = tokenizer.marks = Marks(any_of(special.values()), any_of({*special.values(), *written}), ids)
    return known


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds any of these texts; nothing where there are none.

    One with a character in it that breaks others may be made by that, without end: texts that hold it are refused.
    """
    breakable = (text for text in texts if ZERO_WIDTH_SPACE not in text)
    return re.compile("|".join(map(re.escape, sorted(breakable, key=len, reverse=True))) or "(?!)")


def inert(tokenizer: Any, text: str, by_model: bool) -> str:
    """A text in which no mark of a model's own stands, whoever wrote it; what a person reads stays the same.

    What stands for a model's words keeps those that are not special: as such some models write their thoughts.
    """
    marks = marks_of(tokenizer)
    pattern = marks.special if by_model else marks.written
    while pattern.search(text):
        text = pattern.sub(lambda found: found[0][0] + ZERO_WIDTH_SPACE + found[0][1:], text)
    return text


def has_row(directory: Path, token: int) -> bool:
    """Whether a model's weights have a row for a token: some tokenizers have more, which nothing can be made of."""
    known = tokens_known(directory)
    return known is None or token < known


def special_ids(tokenizer: Any) -> set[int]:
    """The tokens that are no text: those that the tokenizer has a name for, and all that were added as such."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(number for number, token in added if token.special)}


# --------------------------------------------------------------------------------------------------------------- files
def read_backend(path: Path) -> Tokenizer:
    """The tokenizer itself, set to encode each text whole. Raises UserError if there is none."""
    if not path.is_file():
        said = _("There is no preview: {path} is missing. Training works with the model's other files.")
        raise UserError(said.format(path=path))
    try:
        if path.stat().st_size > LARGEST_TOKENIZER:
            raise ValueError(_("it has over {most:,} bytes").format(most=LARGEST_TOKENIZER))
        refuse_costly(json.loads(path.read_bytes()))
        backend = Tokenizer.from_file(str(path))
    except BaseException as error:  # tokenizers raises nothing more special than Exception, and less special panics
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        said = _("{path} is no tokenizer ({error}). Restore it, or choose another model.")
        raise UserError(said.format(path=path, error=error)) from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def refuse_costly(told: Mapping[str, Any]) -> None:
    """Raises ValueError for a tokenizer that takes minutes or gigabytes to be read or used; any error for none."""
    vocabulary = (told.get("model") or {}).get("vocab")
    added = [token["content"] for token in told.get("added_tokens") or ()]
    pieces = [piece[0] for piece in vocabulary] if isinstance(vocabulary, list) else []
    for texts, most in ((added, MOST_ADDED), (pieces, MOST_PIECES)):
        if sum(map(len, texts)) > most:
            raise ValueError(_("its tokens have over {most:,} characters").format(most=most))
    word = (told.get("model") or {}).get("max_input_chars_per_word") or 0
    if word > MOST_WORD:
        raise ValueError(_("it cuts words of over {most:,} characters").format(most=MOST_WORD))
    steps = {name: told.get(name) for name in PARTS}
    if len(list(islice(objects_in(steps), MOST_STEPS + 1))) > MOST_STEPS:
        raise ValueError(_("it has over {most} rules").format(most=MOST_STEPS))
    # As it is understood: a step need not say of which type it is.
    model = {"type": "BPE", "vocab": {}, "merges": []}
    read = json.loads(Tokenizer.from_str(json.dumps({"version": "1.0", "model": model, **steps})).to_str())
    if max(prod(map(growth, objects_in(read[name]))) for name in PARTS) > MOST_GROWTH:
        raise ValueError(_("it makes texts over {most} times as long").format(most=MOST_GROWTH))


def objects_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """All objects in a part of a tokenizer, its steps among them: one may be several in turn."""
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from objects_in(one)


def growth(step: Mapping[str, Any]) -> float:
    """How many times as long a text can become by a step of a tokenizer."""
    match step.get("type"):
        case "Replace":
            return max(1.0, len(step["content"]) / max(1, len(step["pattern"].get("String", ""))))
        case "Prepend":
            return max(1.0, len(step["prepend"]))
        case "ByteLevel":  # a character for each byte
            return 2.0
        case "Precompiled":  # the size of an index, the index, and the texts that it leads to, each up to a NUL
            made = b64decode(step["precompiled_charsmap"])
            texts = made[4 + int.from_bytes(made[:4], "little") :].split(b"\0")
            return max(1.0, max(map(len, texts)) / CHARACTER_BYTES)
    return 1.0


def read_settings(directory: Path) -> dict[str, Any]:
    """The tokenizer's settings, special tokens included; older models have these in a file of their own."""
    settings = read_json(directory / SETTINGS_FILE)
    older = {} if "added_tokens_decoder" in settings else read_json(directory / "special_tokens_map.json")
    return {**settings, **older}


def text_of(token: Any) -> str:
    return str(token["content"] if isinstance(token, Mapping) else token)


def extra_tokens(settings: Mapping[str, Any]) -> list[Any]:
    """Special tokens beside the named ones."""
    found = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    return list(found.values()) if isinstance(found, Mapping) else list(found)


def has_template(directory: Path) -> bool:
    """Whether a model's files carry a chat template. Raises UserError where they can't be read."""
    return (directory / TEMPLATE_FILE).is_file() or bool(read_settings(directory).get("chat_template"))


def read_template(directory: Path, settings: Mapping[str, Any]) -> str:
    """The chat template, from a file of its own or the tokenizer's settings. Raises UserError if there is none."""
    if (directory / TEMPLATE_FILE).is_file():
        return read_text(directory / TEMPLATE_FILE)
    found = settings.get("chat_template")
    if isinstance(found, list):  # several by name
        with explained(directory / SETTINGS_FILE):
            found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if not isinstance(found, str):
        said = _(
            "The model in {directory} has no chat template, so it is not a chat model. Choose an instruct "
            "model, or put its template into {place}."
        )
        raise UserError(said.format(directory=directory, place=directory / TEMPLATE_FILE))
    return found
