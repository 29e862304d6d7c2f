"""A model's tokenizer and chat template without torch: the same text and token ids as the workers', for previews."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from annotation.records import UserError

# The names under which chat templates know a tokenizer's special tokens.
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What a decoder puts for bytes that are no whole character yet, and how many tokens a character may take.
INCOMPLETE = "\ufffd"
CHARACTER_TOKENS = 4


class ChatTokenizer:
    """What the workers use of transformers' tokenizer, from the same files; `rlhf.rows` takes either."""

    def __init__(self, directory: Path) -> None:
        """Read a model's tokenizer. Raises UserError if it has no tokenizer.json or no chat template."""
        self.backend = read_backend(directory / "tokenizer.json")
        settings = read_settings(directory)
        self.special_tokens = {name: text_of(settings[name]) for name in NAMED_TOKENS if settings.get(name)}
        self.extra_tokens = [text_of(token) for token in extra_tokens(settings)]
        self.template = compile_template(read_template(directory, settings))
        self.special_tokens["eos_token"] = end_of_turn(self)
        self.special_tokens.setdefault("pad_token", self.special_tokens["eos_token"])

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        """A text's token ids, as transformers gives them for one text."""
        return {"input_ids": list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)}

    @property
    def eos_token(self) -> str:
        """The token that ends an answer."""
        return self.special_tokens.get("eos_token", "")

    @property
    def eos_token_id(self) -> int:
        """Its id. It is in the vocabulary, because the template's text was encoded with it."""
        found = self.backend.token_to_id(self.eos_token)
        assert found is not None, f"the tokenizer does not know its own end of text {self.eos_token!r}"
        return int(found)

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of all tokens that are no text."""
        found = [self.backend.token_to_id(token) for token in (*self.special_tokens.values(), *self.extra_tokens)]
        return [token for token in found if token is not None]

    def convert_ids_to_tokens(self, token: int) -> str:
        """The vocabulary's entry of an id."""
        return str(self.backend.id_to_token(token))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        """A conversation as the model's template writes it. Raises jinja2.TemplateError where it refuses."""
        assert not tokenize, "encode the text with a call of the tokenizer"
        return self.template.render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self.special_tokens,
        )

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
def chat_tokenizer(directory: Path) -> ChatTokenizer:
    """The tokenizer of a model's directory, read once: a large vocabulary takes a second."""
    return ChatTokenizer(directory)


def end_of_turn(tokenizer: Any) -> str:
    """The token with which the chat template ends an answer; some models have another one as end of text."""
    turn = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    rendered = str(tokenizer.apply_chat_template(turn, tokenize=False))
    after = tokenizer(rendered[rendered.rindex("A") + 1 :], add_special_tokens=False)["input_ids"]
    ends = [token for token in after if token in tokenizer.all_special_ids]
    return str(tokenizer.convert_ids_to_tokens(ends[0])) if ends else str(tokenizer.eos_token)


# --------------------------------------------------------------------------------------------------------------- files
def read_backend(path: Path) -> Tokenizer:
    """The tokenizer itself, set to encode each text whole. Raises UserError if there is none."""
    if not path.is_file():
        raise UserError(f"There is no preview: {path} is missing. Training works with the model's other files.")
    backend = Tokenizer.from_file(str(path))
    backend.no_truncation()
    backend.no_padding()
    return backend


def read_settings(directory: Path) -> dict[str, Any]:
    """The tokenizer's settings, special tokens included; older models have these in a file of their own."""
    settings = read_json(directory / "tokenizer_config.json")
    older = {} if "added_tokens_decoder" in settings else read_json(directory / "special_tokens_map.json")
    return {**settings, **older}


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file; an empty one where there is no file."""
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def text_of(token: Any) -> str:
    """A special token's text, however it is written down."""
    return str(token["content"] if isinstance(token, Mapping) else token)


def extra_tokens(settings: Mapping[str, Any]) -> list[Any]:
    """Special tokens beside the named ones."""
    found = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    return list(found.values()) if isinstance(found, Mapping) else list(found)


def read_template(directory: Path, settings: Mapping[str, Any]) -> str:
    """The chat template, from a file of its own or the tokenizer's settings. Raises UserError if there is none."""
    own = directory / "chat_template.jinja"
    if own.is_file():
        return own.read_text("utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):  # several by name
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if not isinstance(found, str):
        raise UserError(f"The model in {directory} has no chat template. Choose an instruct model with --model.")
    return found


# ------------------------------------------------------------------------------------------------------------ template
class Generation(Extension):
    """Lets `{% generation %}` stand in a template: it marks what the model has said, and changes no text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's content, as it is."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Macro) -> str:
        return str(caller())


def raise_exception(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise jinja2.TemplateError(message)


def strftime_now(pattern: str) -> str:
    """Today's date, for templates that tell the model."""
    return datetime.now().strftime(pattern)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the escapes for HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compile_template(text: str) -> jinja2.Template:
    """A chat template, ready to render. It is a stranger's code, so it runs in Jinja's sandbox."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment.from_string(text)
