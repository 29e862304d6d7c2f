"""A model in a directory of its own as an AI judge: tried, as a base is, when the judge is made. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from annotation.records import UserError
from annotation.translation import _
from rlhf.judges.judge_settings import DirectorySettings
from rlhf.models.base import base_model, base_precision
from rlhf.models.base.base_files import BaseModel
from rlhf.models.chat_template import TOKENIZER_FILE, ChatTokenizer
from rlhf.models.memory import machines

LETTERS = ("A", "B")
# How vocabularies write that a token begins with a space: not at all, as byte-level BPE, and as SentencePiece.
SPACES = ("", " ", "Ġ", "▁")


def settings_of_directory(data_dir: Path, directory: str) -> DirectorySettings:
    """The settings of a judge that is the model in a directory: also the precision in which it is held, for good.

    By need, as a base's. Some seconds, for it is tried. Raises UserError where it can't judge.
    """
    path = Path(directory).expanduser()
    if not path.is_absolute():
        said = _("Give the full path of the judge's directory, not '{directory}'.")
        raise UserError(said.format(directory=directory))
    prepare_directory(data_dir, str(path))
    if (path / TOKENIZER_FILE).is_file():
        letter_tokens(ChatTokenizer(path).get_vocab())
    return DirectorySettings(str(path), base_precision.precision_by_need(path, machines.this_machine()))


def prepare_directory(data_dir: Path, directory: str) -> BaseModel:
    """The model in a judge's own directory, which is tried where that was not done before.

    Raises UserError where there is none, or it can't be used.
    """
    path = Path(directory)
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        said = _(
            "There is no model in '{directory}': it needs config.json and safetensors files. Give the judge "
            "another directory."
        )
        raise UserError(said.format(directory=directory))
    return base_model.prepare(data_dir, directory)


def letter_tokens(vocabulary: Mapping[str, int]) -> list[list[int]]:
    """The tokens of each letter. Raises UserError where one has none.

    A word's first letter has a space before it in some tokenizers, and in some places: it is the same word.
    """
    found = [
        sorted(vocabulary[space + letter] for space in SPACES if space + letter in vocabulary) for letter in LETTERS
    ]
    if not all(found):
        raise UserError(_("This model's tokenizer has no token for the letters A and B, so it can't be a judge here."))
    return found
