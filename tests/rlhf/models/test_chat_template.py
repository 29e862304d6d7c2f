"""The page's tokenizer against transformers' on the same files: the same text and the same ids."""

from __future__ import annotations

import base64
import json
import math
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from annotation.exports.frozen_rows import DemonstrationRow, FrozenAnswer, PreferenceRow, PromptRow
from annotation.records import Message, UserError
from rlhf.models import chat_template
from rlhf.models.base import base_files, base_template
from rlhf.models.base.base_template import takes_system
from rlhf.models.chat_template import ChatTokenizer, can_be_told, chat_tokenizer, inert
from rlhf.models.loading.loaded_policies import fed
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.template_process import TemplateRefused, conversation
from rlhf.models.tokenise import render, tokenise_demonstrations, tokenise_pairs, tokenise_prompts

CONVERSATIONS: list[list[Message]] = [
    [{"role": "user", "content": "What is the sun?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
    [
        {"role": "user", "content": "  Leading spaces,\ttabs\nand lines\n"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And <|im_end|> inside?"},
    ],
    [{"role": "user", "content": "Zürich, 東京, 🙂🏽, e\u0301, \u200bzero width, {{ braces }} {% raw %} <b>"}],
]
TEXTS = ["", " ", "The end.", "1234567890", "naïve — “quoted”", "🙂 bytes \x00 of every kind ﬁ", "<|im_start|>user"]


def transformers_tokenizer(directory: Path) -> Any:
    """The workers' tokenizer."""
    from rlhf.models.loading.tokenizer_loading import load_tokenizer

    return load_tokenizer(directory)


def assert_same(directory: Path) -> None:
    """Text, ids, special tokens and decoding are the same, for conversations and answers."""
    ours, theirs = ChatTokenizer(directory), transformers_tokenizer(directory)
    assert (ours.eos_token, ours.eos_token_id) == (theirs.eos_token, theirs.eos_token_id)
    assert ours.special_tokens_map["pad_token"] == theirs.pad_token
    assert sorted(set(ours.all_special_ids)) == sorted(set(theirs.all_special_ids))
    for messages in CONVERSATIONS:
        for begins in (False, True):
            text = conversation(ours, messages, begins)
            assert text == conversation(theirs, messages, begins)
            assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=begins)
            assert_same_ids(ours, theirs, text)
    for text in TEXTS:
        assert_same_ids(ours, theirs, text)


def assert_same_ids(ours: ChatTokenizer, theirs: Any, text: str) -> None:
    """The same ids, the same text back, and pieces that make up that text."""
    ids = ours(text, add_special_tokens=False)["input_ids"]
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids)
    pieces = ours.pieces(ids)
    assert "".join(piece for piece, _ in pieces) == ours.decode(ids)
    assert sum(tokens for _, tokens in pieces) == len(ids)


def test_the_tiny_models_tokenizer_is_transformers(tiny_model: Path) -> None:
    assert_same(tiny_model)


def replacing(pattern: dict[str, str], content: str, times: int = 1) -> dict[str, Any]:
    """A step of a tokenizer that replaces, several times in turn."""
    steps = [{"type": "Replace", "pattern": pattern, "content": content}] * times
    return {"type": "Sequence", "normalizers": steps, "decoders": steps}


def charsmap(made: bytes) -> str:
    """A map of characters to others, as SentencePiece has it, without an index."""
    return base64.b64encode(bytes(4) + made + b"\0").decode()


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
ADDED = {"id": 1, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
PIECES = [["<unk>", 0.0], *(["x" * 1000, -1.0] for _ in range(8000))]
TOO_LONG = "its tokens have over"
GROWS = "it makes texts over 16 times as long"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"added_tokens": [{**ADDED, "content": "x" * 1_500_001}]}, TOO_LONG),
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": PIECES}}, TOO_LONG),
        ({"normalizer": replacing({"String": "a"}, "aa", 5)}, GROWS),
        ({"normalizer": replacing({"Regex": "a*"}, "x" * 17)}, GROWS),
        ({"decoder": replacing({"String": "a"}, "x" * 17)}, GROWS),
        ({"normalizer": {"pattern": {"String": "a"}, "content": "x" * 17}}, GROWS),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 17}}, GROWS),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 5}}, GROWS),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 5}}, GROWS),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap(b"x" * 65)}}, GROWS),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "Cannot parse"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 200}}, "it has over 200 rules"),
        ({"model": {"type": "WordPiece", "max_input_chars_per_word": 10**9}}, "it cuts words of over 1,000 characters"),
    ],
)
def test_a_tokenizer_that_takes_minutes_or_gigabytes_is_refused(
    tiny_model: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    told = json.loads((tiny_model / "tokenizer.json").read_text("utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**told, **changed}), "utf-8")
    with pytest.raises(UserError, match=said):
        chat_template.read_backend(path)


def test_a_map_of_characters_as_sentencepiece_has_it_is_taken(tiny_model: Path, tmp_path: Path) -> None:
    """By Unicode's compatible forms one character becomes these 18 at most, of which its maps have no longer text."""
    longest = unicodedata.normalize("NFKC", "\ufdfa")
    assert len(longest) == 18
    steps = [
        {"type": "Precompiled", "precompiled_charsmap": charsmap(longest.encode())},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    ]
    normalizer = {"normalizer": {"type": "Sequence", "normalizers": steps}}
    model = with_rules(tiny_model, tmp_path / "model", lambda _told: normalizer)
    assert chat_template.read_backend(model / "tokenizer.json").normalizer


def with_rules(model: Path, place: Path, rules: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of a model with other rules in its tokenizer."""
    copied = shutil.copytree(model, place)
    told = json.loads((copied / "tokenizer.json").read_text("utf-8"))
    (copied / "tokenizer.json").write_text(json.dumps({**told, **rules(told)}), "utf-8")
    return copied


def test_a_tokenizer_that_fails_on_a_text_is_a_sentence(tiny_model: Path, tmp_path: Path) -> None:
    """The pages' and the workers', in cutting a text and in putting one together."""
    from rlhf.models.loading.loaded_policies import fed
    from rlhf.models.sampling.drawing import read_draw
    from rlhf.models.sampling.prompt_cache import left_padded

    text, pattern = "a" * 60 + "!", {"Regex": "(a|aa)+$"}
    ids = ChatTokenizer(tiny_model)(text)["input_ids"]
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    join = {"type": "Replace", "pattern": pattern, "content": ""}
    cutting = with_rules(
        *(tiny_model, tmp_path / "cutting"),
        lambda told: {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, told["pre_tokenizer"]]}},
    )
    joining = with_rules(
        *(tiny_model, tmp_path / "joining"),
        lambda told: {"decoder": {"type": "Sequence", "decoders": [told["decoder"], join]}},
    )
    workers = transformers_tokenizer(cutting)
    asked: list[Callable[[], object]] = [
        lambda: ChatTokenizer(cutting)(text),
        lambda: fed(workers, [{"role": "user", "content": text}], 1, 100_000),
        lambda: left_padded(workers, [text], [], torch.device("cpu")),
        lambda: ChatTokenizer(joining).decode(ids),
        lambda: read_draw(transformers_tokenizer(joining), ids, 0, 1, set()),
    ]
    for ask in asked:
        with pytest.raises(UserError, match="The model's tokenizer fails on a text"):
            ask()


def test_a_mark_that_is_made_where_another_is_broken_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """A zero-width space breaks "er", and then "e" and that space would be to be broken, again and again."""

    def with_marks(told: dict[str, Any]) -> dict[str, Any]:
        beyond = len(told["model"]["vocab"]) + len(told["added_tokens"])
        marks = [{**ADDED, "id": beyond + number, "content": text} for number, text in enumerate(("er", "e\u200b"))]
        return {"added_tokens": [*told["added_tokens"], *marks]}

    tokenizer = ChatTokenizer(with_rules(tiny_model, tmp_path / "model", with_marks))
    tokenizer.rows = None
    assert inert(tokenizer, "water", by_model=False) == "wate\u200br"
    with pytest.raises(TemplateRefused, match="would read as a mark of its own"):
        render(tokenizer, [{"role": "user", "content": "water"}])


def test_a_tokenizer_may_replace_as_models_do(tiny_model: Path, tmp_path: Path) -> None:
    told = json.loads((tiny_model / "tokenizer.json").read_text("utf-8"))
    usual = {"normalizer": replacing({"String": " "}, "\u2581"), "decoder": replacing({"String": "\u2581"}, " ")}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**told, **usual}), "utf-8")
    assert chat_template.read_backend(path).normalizer is not None


def test_an_older_models_files_are_read(tiny_model: Path, tmp_path: Path) -> None:
    """Special tokens in a file of their own, the template among the settings, another end of text than of turn."""
    older = copy_of(tiny_model, tmp_path)
    template = (older / "chat_template.jinja").read_text("utf-8")
    (older / "chat_template.jinja").unlink()
    settings = json.loads((older / "tokenizer_config.json").read_text("utf-8"))
    for name in ("eos_token", "pad_token"):
        del settings[name]
    settings["chat_template"] = template
    (older / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    tokens = {
        "eos_token": {"content": "<|endoftext|>", "lstrip": False, "normalized": False, "rstrip": False},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    }
    (older / "special_tokens_map.json").write_text(json.dumps(tokens), "utf-8")
    assert_same(older)
    assert ChatTokenizer(older).eos_token == "<|im_end|>", "the template's end of turn, not the end of text"


OWN_CODE = {"auto_map": {"AutoTokenizer": ["code.Own", None]}, "tokenizer_class": "Own"}


@pytest.mark.parametrize(
    ("kind", "settings"), [("qwen2", {}), ("qwen2", OWN_CODE), ("llama", {"tokenizer_class": "BertTokenizer"})]
)
def test_texts_are_cut_as_the_models_own_file_says_whatever_its_kind_has_in_transformers(
    tiny_model: Path, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    """A Qwen2 has a class with rules of its own; code of the model's is not needed where there is the file.

    And a class that is not the file's may read no text at all.
    """
    other = copy_of(tiny_model, tmp_path)
    words = json.loads((other / "tokenizer.json").read_text("utf-8"))
    words["pre_tokenizer"] |= {"add_prefix_space": True}
    (other / "tokenizer.json").write_text(json.dumps(words), "utf-8")
    for name, changes in (("config.json", {"model_type": kind}), ("tokenizer_config.json", settings)):
        content = json.loads((other / name).read_text("utf-8"))
        (other / name).write_text(json.dumps({**content, **changes}), "utf-8")
    assert_same(other)


def test_what_follows_a_special_token_is_cut_as_the_models_own_file_says(tiny_model: Path, tmp_path: Path) -> None:
    """A space is put before it in the files of TinyLlama and Llama 2, and not by their class in transformers."""
    other = copy_of(tiny_model, tmp_path)
    tokens = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    numbers = {token: number for number, token in enumerate(tokens)}
    words = Tokenizer(models.BPE(numbers, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    words.add_special_tokens(tokens[:4])
    words.save(str(other / "tokenizer.json"))
    settings = json.loads((other / "tokenizer_config.json").read_text("utf-8"))
    llama = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "unk_token": "<unk>", "bos_token": "<|im_start|>"}
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, **llama}), "utf-8")
    assert_same(other)


TEMPLATE = """
{%- if messages[0]['role'] == 'system' %}
    {{- raise_exception('No system turn, please: ' ~ messages[0] | tojson) }}
{%- endif %}
{{- bos_token ~ strftime_now('%Y')[:2] }}
{%- for message in messages %}
    {%- if loop.index > 2 %}{% break %}{% endif %}
    {%- generation %}[{{ message.role }}]{{ message.content | trim }}{{ eos_token }}{% endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}[assistant]{% endif %}
"""


def test_what_templates_may_use_works_as_in_transformers(tiny_model: Path, tmp_path: Path) -> None:
    """Loop controls, raise_exception, strftime_now, tojson, generation blocks, and tokens by name."""
    other = copy_of(tiny_model, tmp_path)
    (other / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    ours, theirs = ChatTokenizer(other), transformers_tokenizer(other)
    messages = [{"role": "user", "content": " ü <b> "}, *({"role": "assistant", "content": str(n)} for n in range(3))]
    for begins in (False, True):
        rendered = conversation(ours, messages, begins)
        assert rendered == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=begins)
        assert "20[user]ü <b><|im_end|>[assistant]0<|im_end|>" in rendered
    refused = [{"role": "system", "content": "<ü>"}, *messages]
    with pytest.raises(TemplateRefused) as ours_said:
        conversation(ours, refused)
    with pytest.raises(jinja2.TemplateError) as theirs_said:
        theirs.apply_chat_template(refused, tokenize=False)
    assert ours_said.value.reason == str(theirs_said.value)
    assert "<ü>" in ours_said.value.reason


# As thinking models tell it: Qwen3 closes the thought in the prompt, SmolLM3 says it at the beginning too, others have
# another name for it, and Seed-OSS has a number of tokens to think.
CHATML = """{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"""
QWEN3 = (
    CHATML + "{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
SMOLLM3 = (
    "{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "<|im_start|>system\nReasoning Mode: {{ '/think' if enable_thinking else '/no_think' }}<|im_end|>\n"
    + CHATML
    + "{%- if add_generation_prompt and not enable_thinking %}<think>\n\n</think>\n{% endif %}"
)
KIMI = CHATML + "{%- if add_generation_prompt %}{{ '<think></think>' if thinking is false else '<think>' }}{% endif %}"
SEED = "{%- if thinking_budget is defined and thinking_budget == 0 %}Do not think.\n{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("template", "told"), [(QWEN3, True), (SMOLLM3, True), (KIMI, True), (SEED, True), (CHATML, False)]
)
def test_a_thinking_models_template_is_told_that_it_is_not_to_think(
    tiny_model: Path, tmp_path: Path, template: str, told: bool
) -> None:
    """Ours and the workers' as transformers does it; without being told they are as the template has it."""
    from rlhf.models.loading.tokenizer_loading import load_tokenizer

    other = copy_of(tiny_model, tmp_path)
    (other / "chat_template.jinja").write_text(template, "utf-8")
    theirs, messages = load_tokenizer(other), CONVERSATIONS[1]
    as_it_is = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    quiet = theirs.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        thinking=False,
        thinking_budget=0,
    )
    for tokenizer in (ChatTokenizer(other), theirs):
        assert conversation(tokenizer, messages, begins=True) == as_it_is
    for tokenizer in (ChatTokenizer(other, no_thinking=True), load_tokenizer(other, no_thinking=True)):
        assert conversation(tokenizer, messages, begins=True) == quiet
        assert tokenizer.eos_token == "<|im_end|>"
    assert (as_it_is != quiet, can_be_told(other)) == (told, told)


def test_no_template_runs_in_the_process_that_asks(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the one with the pages nor in a worker, which has transformers' own way to do it."""
    theirs = transformers_tokenizer(tiny_model)
    monkeypatch.setattr(type(theirs), "apply_chat_template", None)
    monkeypatch.setattr("jinja2.Environment.from_string", None)
    for tokenizer in (theirs, ChatTokenizer(tiny_model), transformers_tokenizer(tiny_model)):
        assert conversation(tokenizer, CONVERSATIONS[0], begins=True).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b'{"eos_token": {"text": "x"}}'),
        ("tokenizer_config.json", b'{"extra_special_tokens": 7}'),
        ("tokenizer_config.json", b"[" * 100_000),
        ("tokenizer.json", b"{}"),
        ("chat_template.jinja", b"\xff"),
        ("chat_template.jinja", b"x" * 17_000_000),
        ("chat_template.jinja", b"no conversation"),
    ],
)
def test_files_that_are_damaged_or_hostile_have_a_sentence(
    tiny_model: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    other = copy_of(tiny_model, tmp_path)
    (other / name).write_bytes(content)
    with pytest.raises(UserError):
        ChatTokenizer(other)


def test_a_tokenizer_larger_than_any_is_not_read(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy_of(tiny_model, tmp_path)
    monkeypatch.setattr(chat_template, "LARGEST_TOKENIZER", (other / "tokenizer.json").stat().st_size)
    ChatTokenizer(other)
    with (other / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(UserError, match="it has over"):
        ChatTokenizer(other)


def test_a_template_without_a_token_that_ends_an_answer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Though the tokenizer has an end of text: a model that was taught by this template never saw it."""
    other = copy_of(tiny_model, tmp_path)
    (other / "chat_template.jinja").write_text("{% for m in messages %}User: {{ m.content }}\n{% endfor %}", "utf-8")
    for read in (ChatTokenizer, transformers_tokenizer):
        with pytest.raises(UserError, match="has no token that ends an answer"):
            read(other)


def test_an_answer_may_end_with_what_begins_the_next_turn(tiny_model: Path, tmp_path: Path) -> None:
    """As GLM-4's do."""
    other = copy_of(tiny_model, tmp_path)
    backend = ChatTokenizer(other).backend
    backend.add_tokens([AddedToken(f"<|{role}|>", special=True) for role in ("user", "assistant")])
    backend.save(str(other / "tokenizer.json"))
    template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    (other / "chat_template.jinja").write_text(template, "utf-8")
    for read in (ChatTokenizer, transformers_tokenizer):
        assert read(other).eos_token == "<|user|>"


@pytest.mark.parametrize("special", [True, False])
def test_the_end_of_an_answer_is_found_whatever_its_letters(tiny_model: Path, tmp_path: Path, special: bool) -> None:
    """An end that has the letters of an answer, and one that was added without being called special."""
    other = copy_of(tiny_model, tmp_path)
    end = "<|END_OF_ANSWER_Porridge|>"
    backend = ChatTokenizer(other).backend
    backend.add_tokens([AddedToken(end, special=special)])
    backend.save(str(other / "tokenizer.json"))
    (other / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}" + end + "\n{% endfor %}", "utf-8"
    )
    for read in (ChatTokenizer, transformers_tokenizer):
        assert read(other).eos_token == end


def test_the_end_of_an_answer_may_be_looked_for_in_what_a_normaliser_makes(tiny_model: Path, tmp_path: Path) -> None:
    other = copy_of(tiny_model, tmp_path)
    backend = ChatTokenizer(other).backend
    backend.normalizer = normalizers.Lowercase()
    backend.add_tokens([AddedToken("<|END|>", special=True, normalized=True)])
    backend.save(str(other / "tokenizer.json"))
    (other / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}<|END|>\n{% endfor %}", "utf-8")
    for read in (ChatTokenizer, transformers_tokenizer):
        assert read(other).eos_token == "<|END|>"
        assert read(other).eos_token_id == backend.token_to_id("<|END|>")
    backend.normalizer = normalizers.Prepend("_")
    backend.save(str(other / "tokenizer.json"))
    for read in (ChatTokenizer, transformers_tokenizer):
        with pytest.raises(UserError, match="its tokenizer reads the token that ends one as words"):
            read(other)


@pytest.mark.parametrize("in_vocabulary", [True, False])
def test_no_padding_is_a_token_without_a_row_in_the_weights(
    tiny_model: Path, tmp_path: Path, in_vocabulary: bool
) -> None:
    """Many tokenizers were given a padding token after their model was made."""
    other = copy_of(tiny_model, tmp_path)
    if in_vocabulary:
        backend = ChatTokenizer(other).backend
        backend.add_tokens([AddedToken("[PAD]", special=True)])
        backend.save(str(other / "tokenizer.json"))
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "[PAD]"}))

    def paddings() -> list[str]:
        return [ChatTokenizer(other).special_tokens_map["pad_token"], transformers_tokenizer(other).pad_token]

    assert paddings() == [ChatTokenizer(other).eos_token] * 2
    (other / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 400}}))
    assert paddings() == ["[PAD]"] * 2


@pytest.mark.parametrize("mark", ["<|im_start|>", "<|im_end|>"])
def test_a_template_that_writes_a_token_without_a_row_in_the_weights_is_refused(
    tiny_model: Path, tmp_path: Path, mark: str
) -> None:
    other = copy_of(tiny_model, tmp_path)
    backend = ChatTokenizer(other).backend
    backend.add_tokens([AddedToken("<|new|>", special=True)])
    backend.save(str(other / "tokenizer.json"))
    template = ChatTokenizer(other).get_chat_template()
    (other / "chat_template.jinja").write_text(template.replace(mark, "<|new|>"), "utf-8")
    with pytest.raises(UserError, match=r"can't be used: the weights have no row for the token '<\|new\|>'\. Mend it"):
        takes_system(other)


def test_a_text_with_a_word_that_the_weights_have_no_row_for_is_left_out(tiny_model: Path, tmp_path: Path) -> None:
    """Anybody can write one, and a model fails where it looks its row up; as words alone a special one is read."""
    other = copy_of(tiny_model, tmp_path)
    backend = ChatTokenizer(other).backend
    backend.add_tokens([AddedToken("<image>", special=True), "Zwxq"])
    backend.save(str(other / "tokenizer.json"))
    special, without, plain = (
        ({"role": "user", "content": text},) for text in ("What is <image>?", "What is Zwxq?", "What is it?")
    )
    written = ((without, "Nothing."), (plain, "It is Zwxq."), (special, "It is <image>."))
    rows = [DemonstrationRow("train", messages, text) for messages, text in written]
    chosen, rejected = FrozenAnswer(1, "Nothing."), FrozenAnswer(2, "It is Zwxq.")
    pairs = [
        PreferenceRow("train", messages, comparison=7, prompt_id=8, chosen=chosen, rejected=rejected)
        for messages in (without, plain)
    ]
    for tokenizer in (ChatTokenizer(other), load_tokenizer(other)):
        with pytest.raises(TemplateRefused, match="the weights have no row for the token 'Zwxq'"):
            fed(tokenizer, without, 1, math.inf)
        items, left_out = tokenise_demonstrations(tokenizer, rows, 1000)
        assert (len(items), left_out) == (1, {"template": 2})
        assert left_out.refusal == "the weights have no row for the token 'Zwxq'."
        prompts = [PromptRow("train", messages, place) for place, messages in enumerate((without, plain))]
        items, left_out = tokenise_prompts(tokenizer, prompts, 1000)
        assert ([item["prompt_id"] for item in items], left_out) == ([1], {"template": 1})
        assert tokenise_pairs(tokenizer, pairs, 1000) == ([], {"template": 2})


def test_a_template_runs_in_a_sandbox(tiny_model: Path, tmp_path: Path) -> None:
    other = copy_of(tiny_model, tmp_path)
    (other / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}", "utf-8")
    with pytest.raises(TemplateRefused, match="access to attribute '__class__' of 'str' object is unsafe"):
        ChatTokenizer(other)


def test_a_character_of_several_tokens_is_one_piece(tiny_model: Path) -> None:
    tokenizer = chat_tokenizer(tiny_model)
    ids = tokenizer("a🙂b")["input_ids"]
    assert tokenizer.pieces(ids) == [("a", 1), ("🙂", 4), ("b", 1)]
    assert "".join(piece for piece, _ in tokenizer.pieces(ids[:3])) == tokenizer.decode(ids[:3])
    assert chat_tokenizer(tiny_model) is tokenizer


def test_without_a_tokenizer_or_a_template_a_sentence_says_so(tiny_model: Path, tmp_path: Path) -> None:
    other = copy_of(tiny_model, tmp_path)
    (other / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        ChatTokenizer(other)
    (other / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        ChatTokenizer(other)


def copy_of(model: Path, tmp_path: Path) -> Path:
    """The tokenizer's files in a directory that a test may change."""
    other = tmp_path / "model"
    other.mkdir()
    for file in (*model.glob("tokenizer*"), *model.glob("*.jinja"), model / "config.json"):
        shutil.copy(file, other)
    return other


CHANNELS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}\n"
    "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think></think>\n"
    "{% endif %}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(("template", "plainly"), [(CHANNELS, False), (THINKS, False), (QWEN3, True), (INST, True)])
def test_it_is_said_where_a_template_begins_an_answer_otherwise_than_it_writes_one(
    tiny_model: Path, tmp_path: Path, template: str, plainly: bool
) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "model")
    (other / "chat_template.jinja").write_text(template, "utf-8")
    base = base_files.BaseModel("other", other, answers_plainly=base_template.answers_plainly(other))
    assert ("writes an answer that was given otherwise" in base.remark) != plainly
