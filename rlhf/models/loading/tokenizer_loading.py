"""Tokenizers that read texts as the model's own file does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from annotation.records import UserError
from annotation.translation import _
from rlhf.models import chat_template
from rlhf.models.chat_template import TOKENIZER_FILE
from rlhf.models.model_files import tokens_known
from rlhf.models.tokenise import text_ids

# By the tokens of this a tokenizer shows how it cuts texts: words, contractions, numbers, blanks, scripts, code.
SAMPLE: Final = (
    "In 2026, I've paid $12,345.60 -- isn't it MUCH?\n\n\tdef f(x): return x**2  # naïve\n東京 и 🙂.  <x>A</x>"
)


def load_tokenizer(path: Path, no_thinking: bool = False) -> Any:
    """The tokenizer, with a padding token. Raises UserError if it can't be loaded or has no chat template that works.

    `no_thinking`: its template is told that the model is not to think before it answers.
    """
    chat_template.read_format(path)  # says what is wrong with it
    tokenizer = tokenizer_of_files(path)
    tokenizer.template_options, tokenizer.rows = chat_template.options_of(no_thinking), tokens_known(path)
    tokenizer.eos_token = chat_template.end_of_turn(tokenizer)
    if tokenizer.pad_token is None or not chat_template.has_row(path, tokenizer.pad_token_id):
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_of_files(path: Path) -> Any:
    """Transformers' tokenizer, which reads texts as the model's tokenizer.json does. Raises UserError if there is none.

    For some kinds of models transformers has a class with rules of its own for cutting words, or wants code that comes
    with the model: then the file is taken as it is.
    """
    from transformers import AutoTokenizer, TokenizersBackend

    whole = (path / TOKENIZER_FILE).is_file()
    sample, expected, said = SAMPLE, None, ""
    if whole:
        backend = chat_template.read_backend(path / TOKENIZER_FILE)
        # What follows a special token is for some the beginning of a text.
        added = backend.get_added_tokens_decoder().values()
        sample = next((f"{SAMPLE}{token.content}{SAMPLE}" for token in added if token.special), SAMPLE)
        with chat_template.tokenizing():
            expected = backend.encode(sample, add_special_tokens=False).ids
    for kind in (AutoTokenizer, TokenizersBackend) if whole else (AutoTokenizer,):
        try:
            tokenizer = kind.from_pretrained(path, trust_remote_code=False)
            found = text_ids(tokenizer, sample)
        except Exception as error:  # whatever a library, or the lack of one, makes of a stranger's files
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.')}"
            continue
        if expected in (None, found):
            return tokenizer
        said = _("it reads texts otherwise than {file}").format(file=TOKENIZER_FILE)
    unusable = _(
        "The tokenizer of {path} can't be used ({said}). Load it where that works, write it with save_pretrained, "
        "and put the {file} that this makes into that directory, or choose another model."
    )
    raise UserError(unusable.format(path=path, said=said, file=TOKENIZER_FILE))
