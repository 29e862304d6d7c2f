"""What a base model's chat template takes and writes, asked of the template itself."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from annotation.records import UserError
from annotation.translation import _
from rlhf.models import chat_template
from rlhf.models.base.base_files import on_this_machine
from rlhf.models.chat_template import ANSWER, ASKED, QUESTION, TOKENIZER_FILE, TOKENIZERS, ChatFormat, ChatTokenizer
from rlhf.models.registry import Policy
from rlhf.models.template_process import TemplateRefused, conversation, ended
from rlhf.models.tokenise import text_ids

# What a template is given to see whether it takes system messages.
SYSTEM = "Answer in one word."


def answers_plainly(path: Path) -> bool:
    """Whether a model's chat template, told not to let it think, writes an answer as it begins one, but for blanks.

    Raises TemplateRefused where it writes none.
    """
    known = chat_template.read_format(path, no_thinking=True)
    answered = conversation(known, [ASKED, {"role": "assistant", "content": ANSWER}])
    begun = conversation(known, [ASKED], begins=True) + ANSWER
    return "".join(answered.split()).startswith("".join(begun.split()))


def takes_system(path: Path) -> bool:
    """Whether a model's chat template takes system messages. Raises UserError where it does not work at all."""
    if not any((path / name).is_file() for name in TOKENIZERS):
        said = _(
            "{path} has no tokenizer, so no text can be given to the model. Fetch the whole model again, "
            "or choose another one."
        )
        raise UserError(said.format(path=path))
    try:
        # Without a tokenizer.json the workers read the other files, and this process only the template.
        whole = (path / TOKENIZER_FILE).is_file()
        tokenizer: ChatTokenizer | ChatFormat = ChatTokenizer(path) if whole else chat_template.read_format(path)
        kept = keeps_system(tokenizer)  # first: a template that had to be stopped here is of no use for the others
        if QUESTION not in conversation(tokenizer, [ASKED], begins=True):
            raise TemplateRefused(_("it leaves out what the user says."))
        answered = conversation(tokenizer, [ASKED, {"role": "assistant", "content": ANSWER}])
        if ANSWER not in answered:
            raise TemplateRefused(_("it leaves out what the assistant says."))
        if isinstance(tokenizer, ChatTokenizer):
            text_ids(tokenizer, answered)
    except TemplateRefused as refused:
        said = _("The chat template of {path} can't be used: {ended} Mend it, or choose another model.")
        raise UserError(said.format(path=path, ended=ended(refused.reason))) from refused
    return kept


def keeps_system(tokenizer: ChatTokenizer | ChatFormat) -> bool:
    try:
        return SYSTEM in conversation(tokenizer, [{"role": "system", "content": SYSTEM}, ASKED], begins=True)
    except TemplateRefused:
        return False


def can_be_told(data_dir: Path, name: str) -> bool:
    """Whether the template of the base model of this name can be told not to let it think; not where it is not here."""
    directory = on_this_machine(data_dir, name)
    try:
        return directory is not None and chat_template.can_be_told(directory)
    except UserError:
        return False


def end_of_answers(data_dir: Path, name: str) -> str:
    """The token with which the base model of this name ends answers; empty where its files are not here to be read."""
    directory = on_this_machine(data_dir, name)
    with suppress(UserError):
        return "" if directory is None else chat_template.chat_tokenizer(directory).eos_token
    return ""


def thinking_sentence(data_dir: Path, base: Policy) -> str:
    """Whether the base may think before it answers, and how to change it; empty where its template can't be told."""
    if not can_be_told(data_dir, base.base):
        return ""
    if base.thinking == "off":
        return _("It can think before it answers, and is told not to: `python -m rlhf thinking template` lets it.")
    return _("It may think before it answers, as its chat template has it: `python -m rlhf thinking off` forbids it.")
