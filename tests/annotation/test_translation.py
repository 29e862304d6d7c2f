"""Translations: one file per language, refused where it could not be filled in; and nothing on a page is left out."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

from annotation import translation
from annotation.hub_client import without_tokens
from annotation.metrics.intervals_and_bias import Estimate
from annotation.records import UserError
from annotation.ui import formatting
from annotation.web import access, invitations, sign_in_pages
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT
from tests.sentences import POLISH, Message, extracted, found, write_marked

FILES = sorted(translation.DIRECTORY.glob("*.po"))
HEAD = 'msgid ""\nmsgstr "Language: de\\nContent-Type: text/plain; charset=utf-8\\n"\n\n'


def file_of(directory: Path, text: str) -> Path:
    path = directory / "de.po"
    path.write_text(HEAD + text, "utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(translation.WrongTranslation) as refused:
        translation.chosen(str(path))
    return str(refused.value)


# -------------------------------------------------------------------------------------------------------------- files
def test_figures_in_a_kept_sentence_are_written_as_its_reader_writes_them() -> None:
    """They were said in gaps as texts, with the separators of whoever was spoken to then."""

    def told() -> str:
        return translation.translate("It was {share}, {dollars}, {size}, {number}, {from_to}.").format(
            share=formatting.percent_with_interval(Estimate(0.5, 0.25, 0.75, 9)),
            dollars=formatting.dollars(1234.5678),
            size=formatting.size(2_500_000),
            number=translation.numeral(1234567),
            from_to=formatting.number_with_interval(Estimate(0.5, 0.25, 0.75, 9)),
        )

    english = "It was 50% (25–75%), $1234.5678, 2.5 MB, 1,234,567, 0.50 (0.25 to 0.75)."
    german = "It was 50% (25–75%), $1234,5678, 2,5 MB, 1.234.567, 0,50 (0,25 bis 0,75)."
    assert told() == english
    with translation.speaking(translation.language_of("de")):
        assert told() == german
        kept = translation.kept(told())
        assert translation.retold(kept) == german
    assert translation.retold(kept) == english


def test_without_a_choice_it_is_english_and_no_file_is_read() -> None:
    for wanted in ("", "en"):
        english = translation.chosen(wanted)
        assert (english.code, english.direction, english.script) == ("en", "ltr", {})
        assert english.sentences.gettext("A {gap}.") == "A {gap}."
    assert translation.translate("") == ""


@pytest.mark.parametrize("wanted", ["xx", "../de", "de.mo", "nowhere.po"])
def test_a_language_that_is_not_there_is_refused_with_those_that_are(wanted: str) -> None:
    with pytest.raises(translation.WrongTranslation, match=rf"PREFLOOP_LANGUAGE is '{re.escape(wanted)}'.*en, de"):
        translation.chosen(wanted)


def test_a_file_is_a_language(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        '#: pages/page.js\nmsgid "Skip"\nmsgstr "Weiter"\n\n'
        'msgid "{count} day"\nmsgid_plural "{count} days"\nmsgstr[0] "{count} Tag"\nmsgstr[1] "{count} Tage"\n\n'
        '#, fuzzy\nmsgid "Unsure"\nmsgstr "Unsicher {so}"\n',
    )
    german = translation.chosen(str(path))
    assert (german.code, german.direction, german.script) == ("de", "ltr", {"Skip": "Weiter"})
    assert german.sentences.gettext("Skip") == "Weiter"
    assert german.sentences.gettext("Unsure") == "Unsure"
    assert [german.sentences.ngettext("{count} day", "{count} days", n) for n in (1, 2)] == [
        "{count} Tag",
        "{count} Tage",
    ]


def test_a_script_gets_every_form_of_a_count_and_which_goes_with_which(tmp_path: Path) -> None:
    path = tmp_path / "pl.po"
    path.write_text(POLISH, "utf-8")
    polish = translation.chosen(str(path))
    assert polish.script == {"{count} words": ("{count} słowo", "{count} słowa", "{count} słów")}
    shown = {polish.plurals[count] for count in (2, 4, 22, 104)}, {polish.plurals[count] for count in (0, 5, 12, 112)}
    assert (polish.plurals[1], *shown) == (0, {1}, {2})
    assert len(polish.plurals) == len(translation.Language().plurals) == 201
    assert [translation.Language().plurals[count] for count in (0, 1, 2, 101)] == [1, 0, 1, 1]


def test_numbers_are_written_as_the_language_writes_them(tmp_path: Path) -> None:
    german = translation.chosen(str(file_of(tmp_path, 'msgid "{n:,} rows"\nmsgstr "{n:,} Zeilen"\n')))
    with translation.speaking(german):
        assert translation.translate("{n:,} rows").format(n=1234567) == "1.234.567 Zeilen"
        assert translation.translate("{n:,} more").format(n=1234) == "1.234 more", "as the rest of the page"
        said = translation.ngettext("{x:.2f} of {name}", "{x:,.1f} of {name}", 2).format(x=1234.56, name="v1.5")
        assert said == "1.234,6 of v1.5", "and names stay as they are"
        assert translation.translate("{a} {b:.0%} {c:.1e} {d} {e!r}").format(a=0.5, b=0.25, c=12e-5, d=True, e=1.5) == (
            "0,5 25% 1,2e-04 True 1.5"
        )
        assert [translation.numeral(12345), translation.numeral(-0.125, "+.2f")] == ["12.345", "-0,12"]
    with translation.speaking(translation.Language()):
        assert translation.translate("{n:,} rows").format(n=1234567) == "1,234,567 rows"
        assert translation.numeral(1234.5, ",.1f") == "1,234.5"


def test_what_is_stored_is_told_in_the_language_of_whoever_reads_it(tmp_path: Path) -> None:
    german = translation.chosen(
        str(
            file_of(
                tmp_path,
                'msgid "{count:,} row of {name} failed: {why}"\nmsgid_plural "{count:,} rows of {name} failed: {why}"\n'
                'msgstr[0] "Eine Zeile von {name}: {why}"\nmsgstr[1] "{count:,} Zeilen von {name}: {why}"\n\n'
                'msgid "{share:.0%} is too much."\nmsgstr "{share:.0%} sind zu viel."\n\n'
                'msgid "It is full."\nmsgstr "Sie ist voll."\n',
            )
        )
    )
    forms = ("{count:,} row of {name} failed: {why}", "{count:,} rows of {name} failed: {why}")
    why = translation.translate("{share:.0%} is too much.").format(share=0.5)
    said = translation.ngettext(*forms, 1200).format(count=1200, name=Path("it"), why=why)
    full = translation.translate("Look: {why}").format(why=translation.translate("It is full."))
    theirs = translation.translate("Look: {why}").format(why="It is full.")
    dated = translation.translate("{when:%H} o'clock").format(when=datetime(2026, 1, 1, 12, tzinfo=UTC))
    gap = translation.translate("{why}").format(why="Nothing else.")
    stored = [translation.kept(text) for text in (said, full, theirs, dated, gap, '{"said": "no"}')]
    assert [translation.retold(text) for text in stored] == [said, full, theirs, dated, gap, '{"said": "no"}']
    with translation.speaking(german):
        assert [translation.retold(text) for text in stored] == [
            *("1.200 Zeilen von it: 50% sind zu viel.", "Look: Sie ist voll.", "Look: It is full."),
            *("12 o'clock", "Nothing else.", '{"said": "no"}'),
        ]
    for number in range(2000):
        translation.translate("No. {number}").format(number=number)
    assert translation.kept(str(UserError(said))) == stored[0], "however much was said since, and by whatever raises it"
    assert translation.kept(without_tokens(said)) == stored[0]
    assert translation.kept(f"{said} hf_{'x' * 34}") == f"{said} hf_{'x' * 34}", "it is another text"


def test_what_is_said_in_one_language_is_kept_for_readers_of_another_with_and_without_gaps(tmp_path: Path) -> None:
    text = 'msgid "It is full."\nmsgstr "Sie ist voll."\n\nmsgid "{why} Look."\nmsgstr "{why} Schau."\n'
    german = translation.chosen(str(file_of(tmp_path, text)))
    with translation.speaking(german):
        said = translation.translate("It is full.")
        assert said == "Sie ist voll."
        several = translation.joined(said, "", translation.translate("{why} Look.").format(why=said))
        stored = [translation.kept(str(UserError(one))) for one in (said, several, translation.joined("", said))]
        record = json.dumps(
            translation.kept_within({"why": said, "rows": [{"text": '{"said": ["no"]'}, 1], "t": (said,)})
        )
        assert [translation.retold(one) for one in stored] == [said, several, said]
    assert [translation.retold(one) for one in stored] == [
        *("It is full.", "It is full. It is full. Look.", "It is full."),
    ]
    assert translation.retold_within(json.loads(record)) == {
        **{"why": "It is full.", "rows": [{"text": '{"said": ["no"]'}, 1], "t": ["It is full."]},
    }


def test_what_was_stored_without_a_count_is_told_in_the_plural_that_its_sentence_has_by_now(tmp_path: Path) -> None:
    text = """msgid "{name} has {count:,} row."
msgid_plural "{name} has {count:,} rows."
msgstr[0] "{name} hat eine Zeile."
msgstr[1] "{name} hat {count:,} Zeilen."

msgid "It is full."
msgstr "Sie ist voll."
"""
    german = translation.chosen(str(file_of(tmp_path, text)))
    said = ["{name} has {count:,} rows."]
    stored = [json.dumps({"said": said, "gaps": {"name": "It", "count": count}}) for count in (1, 1.0, 1200)]
    stored.append(json.dumps({"said": ["{name} has {count} rows."], "gaps": {"name": "It", "count": "some"}}))
    stored.append(json.dumps({"said": ["Look: {why}"], "gaps": {"why": "It is full."}}))
    assert translation.retold(stored[2]) == "It has 1,200 rows."
    with translation.speaking(german):
        assert [translation.retold(one) for one in stored] == [
            *("It hat eine Zeile.", "It hat eine Zeile.", "It hat 1.200 Zeilen."),
            *("It has some rows.", "Look: Sie ist voll."),
        ]


@pytest.mark.parametrize(
    "text",
    [
        *('{"said": [', '{"said": []}', '{"said": [1], "gaps": {}}', '{"said": ["{a}"], "gaps": {}}'),
        *('{"said": ["{}"], "gaps": {}}', '{"said": ["x"], "gaps": [1]}'),
        *('{"said": ["{a.__class__}"], "gaps": {"a": 1}}', '{"said": ["{a[0]}"], "gaps": {"a": "x"}}'),
        *('{"said": ["{a!r}"], "gaps": {"a": 1}}', '{"said": ["{a:{b}}"], "gaps": {"a": 1, "b": 9}}'),
        *('{"said": ["{a:999999}"], "gaps": {"a": 1}}', '{"said": ["{a:.999999f}"], "gaps": {"a": 1}}'),
        *('{"said": ["a", "b", {}], "gaps": {"a": {}}}', '{"said": ["a", "b", Infinity], "gaps": {"a": {"said": 1}}}'),
        *('{"said": ["{a:.2f}"], "gaps": {"a": 1' + 400 * "0" + "}}", '{"said": [' + 200_000 * "["),
    ],
)
def test_a_stored_text_that_nobody_could_have_said_reads_as_it_stands(text: str) -> None:
    assert translation.retold(text) == text
    assert translation.retold(translation.kept(text)) == translation.retold(translation.as_it_stands(text)) == text


def test_nothing_is_told_of_a_text_that_only_begins_as_a_stored_one() -> None:
    text = '{"said": ["{a} is full."], "gaps": {"a": "It"}}'
    assert translation.retold(text) == "It is full."
    assert translation.retold(translation.kept(text)) == translation.retold(translation.as_it_stands(text)) == text
    assert translation.as_it_stands("It is full.") == "It is full."


@pytest.mark.parametrize(("code", "written"), [("de-CH", "1'234.5"), ("fr", "1\u202f234,5"), ("en-GB", "1,234.5")])
def test_every_language_has_its_own_separators(tmp_path: Path, code: str, written: str) -> None:
    path = tmp_path / f"{code}.po"
    path.write_text(HEAD.replace("de", code), "utf-8")
    with translation.speaking(translation.chosen(str(path))):
        assert translation.numeral(1234.5, ",.1f") == written


def test_a_right_to_left_language_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ar.po"
    path.write_text(HEAD.replace("de", "ar") + 'msgid "Skip"\nmsgstr "تخطي"\n', "utf-8")
    assert translation.chosen(str(path)).direction == "rtl"


@pytest.mark.parametrize("name", ["pt_BR.po", "pt-BR.po"])
def test_a_language_of_a_country_is_chosen_in_either_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_text(HEAD.replace("de", "pt_BR"), "utf-8")
    monkeypatch.setattr(translation, "DIRECTORY", tmp_path)
    assert [translation.chosen(wanted).code for wanted in ("pt-BR", "pt_BR")] == ["pt-BR", "pt-BR"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('msgid "Of {count}."\nmsgstr "Von {zahl}."\n', r"line 4: \{zahl\} is not in the English sentence.*\{count\}"),
        ('msgid "Of {n:,}."\nmsgstr "Von {n:x}."\n', r"\{n:x\} is not in the English sentence"),
        ('msgid "Of {count}."\nmsgstr "Von {count."\n', "a brace stands alone"),
        ('msgid "Plain."\nmsgstr "Glatt {x}."\n', "has no gaps"),
        ('msgid "{n} a"\nmsgid_plural "{n} b"\nmsgstr[0] "{n} c"\nmsgstr[1] "{m} d"\n', r"\{m\} is not in"),
        ('msgid "Open\n', "can't be read"),
    ],
)
def test_what_could_not_be_filled_in_is_refused_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    said = refusal(file_of(tmp_path, text))
    assert str(tmp_path) in said
    assert re.search(reason, said)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_translation_is_about_sentences_that_there_are(path: Path) -> None:
    assert translation.read(path).code == path.stem
    with path.open("rb") as file:
        catalog: Catalog = read_po(file)
    assert not catalog.obsolete
    unknown = [message.id for message in catalog if message.id and message.id not in extracted()]
    assert unknown == []


def untranslated(places: Iterable[tuple[str, Message]], said: Mapping[Message, Any]) -> set[Message]:
    """The sentences of these files that a translation lacks, but for an algorithm's of which it has none.

    Whoever adds an algorithm need know no other language: it is in English until somebody begins.
    """
    packages: dict[Message, set[str]] = {}
    for name, sentence in places:
        packages.setdefault(sentence, set()).add(str(Path(name).parent))
    forms = {one: said.get(one) for one in packages}
    missing = {one for one, form in forms.items() if not (all(form) if isinstance(form, tuple) else form)}
    begun = {package for one, (package, *others) in packages.items() if one not in missing and not others}
    algorithms = {one for found in packages.values() for one in found if Path(one).parent == Path("rlhf/algorithms")}
    return {one for one in missing if not packages[one] <= algorithms - begun}


def test_german_is_complete() -> None:
    with (translation.DIRECTORY / "de.po").open("rb") as file:
        said = {message.id: message.string for message in read_po(file) if not message.fuzzy}
    left = untranslated(found(), said)
    assert left == set(), "`make messages` puts them into de.po; then fill in each msgstr (docs/translating.md)"


def test_german_has_one_word_for_whoever_judges() -> None:
    said = (translation.DIRECTORY / "de.po").read_text("utf-8")
    assert re.findall(r"\bUrteilende\w*", said) == [], "they are Annotatoren"


def test_an_added_algorithm_need_not_be_translated_until_somebody_begins() -> None:
    new, counted = "rlhf/algorithms/new/spec.py", ("{count} step", "{count} steps")
    places: list[tuple[str, Message]] = [(new, "Weight"), (new, counted), (new, "Loss"), ("rlhf/kinds.py", "Loss")]
    assert untranslated(places, {"Loss": "Verlust"}) == set()
    assert untranslated(places, {"Loss": "Verlust", "Weight": "Gewicht", counted: ("", "")}) == {counted}
    assert untranslated(places, {"Weight": "Gewicht", counted: ("ein Schritt", "{count} Schritte")}) == {"Loss"}
    assert untranslated(places, {}) == {"Loss"}
    assert untranslated([("rlhf/algorithms/trainer.py", "Weight")], {}) == {"Weight"}


def test_whoever_was_invited_can_be_refused_in_german() -> None:
    german = translation.read(next(path for path in FILES if path.stem == "de")).sentences
    met = (access.check_name, access.insert_account, access.check_new_password, invitations.JoinPages.join)
    trees = [ast.parse(textwrap.dedent(inspect.getsource(one))) for one in (*met, sign_in_pages)]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    sentences = [
        ast.literal_eval(call.args[0])
        for call in calls
        if ast.unparse(call.func) in ("_", "N_") and isinstance(call.args[0], ast.Constant)
    ]
    assert len(sentences) > 20
    assert {one for one in (*sentences, invitations.NOT_VALID) if german.gettext(one) == one} == {"Name"}


# -------------------------------------------------------------------------------------------------------------- pages
PAGES = """
import json, sys
from dataclasses import is_dataclass
from inspect import isgenerator
from pathlib import Path
from types import SimpleNamespace
from annotation.tabs import gradio_loading
gradio_loading.load()
import gradio as gr
from annotation import translation
from annotation.hub_client import without_tokens
from annotation.records import UserError
from annotation.api import AnnotationApi, RequestBody
from annotation.database import open_database
from annotation.tabs.guard import Context
from annotation.web import access, sign_in_pages
from rlhf.models import registry
from rlhf.tabs.pages import build_pages

def plain(value):
    if is_dataclass(value):
        return {}  # what a session remembers is not shown
    return value.get_config() if hasattr(value, "get_config") else str(value)

translation.DIRECTORY = Path(sys.argv[2])
db = open_database(Path(sys.argv[1]))
registry.ensure_base(db, "a-model")
access.set_language(db, access.add_account(db, "ann", "admin", "a long enough password").name, "de")
person = access.authorise(db, "ann", "admin")
context = Context(db, Path(sys.argv[1]), "a-model")
with translation.speaking(translation.language_of(person.language)):
    pages = build_pages(context)
    html = [sign_in_pages.login_page(), sign_in_pages.notice_page("⟦-⟧"), sign_in_pages.frame_page("-")]
    card = AnnotationApi(db).undo(person, RequestBody())
shown = [{**component["props"], "type": component["type"]} for component in pages.get_config_file()["components"]]
access.add_account(db, "eve", "admin", "a long enough password")
answers = {"ann": [], "eve": []}
for function in pages.fns.values():
    # As for a page that sent nothing: what can be shown is shown, and the rest is refused in a sentence.
    for name, said in answers.items():
        try:
            sent = function.fn(SimpleNamespace(username=name), *[None] * len(function.inputs))
            said += sent if isgenerator(sent) else [sent]
        except gr.Error as error:
            said.append(error.message)
        except (AttributeError, TypeError):
            pass  # it takes what its own page always sends
print(json.dumps({"components": shown, "said": [card["notice"], *html], "answers": answers}, default=plain))
"""
SHOWN = ("label", "info", "placeholder", "headers", "html_template")
# Of other components the value is what somebody has chosen or written.
SAYING = ("markdown", "html", "button")
# What no translation says otherwise: names, what is typed as it stands, and rows of the database.
# What is stored is said as it was stored: the project's reasons, the rubric, policies. States are what a handler keeps.
DATA = re.compile(
    r"(ann|eve) ·|(ann|eve)(?= +–)|a: accurate.*|You compare two answers.*|Helpful: .*|base( · )?|"
    r"\d+ Infinity|Looked\(.*\)|"
    r'\[\d+, "(step|replace|visit)"(, "[^"]*"){2,3}\]|'
    r"English|Deutsch|Prefloop|Hugging Face|Q?LoRA|IPO|DPO|PPO|PiSSA|AdamW|(DoRA|rsLoRA) \(\w+\)|"
    r"OWNER/NAME(-copies)?|/data/preferences\.jsonl|^[a-z0-9_/-]+$|"
    r"[a-z0-9]+(-[a-z0-9.]+)+|https?://\S+|\$\{value\}|\{\{value\}\}",
    re.DOTALL,
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What pages show in a language in which every marked sentence stands in brackets, on a server in English."""
    directory = tmp_path_factory.mktemp("language")
    write_marked(directory / "de.po")
    done = subprocess.run(
        [sys.executable, "-c", PAGES, str(directory / "data"), str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def texts_of(value: Any) -> Iterator[str]:
    """The texts in a component's property: choices are shown by their first half."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from texts_of(entry)
    elif isinstance(value, dict):
        yield from texts_of([value.get(name) for name in ("value", "label", "info", "placeholder")])


def unmarked(text: str) -> str:
    """What is left of a text without what stands in brackets, markup, and data."""
    text = re.sub(r"<style>.*?</style>|<[^>]*>|&\w+;", " ", text, flags=re.DOTALL)
    while (less := re.sub(r"⟦[^⟦⟧]*⟧", " ", text)) != text:
        text = less
    return DATA.sub(" ", text)


def test_every_sentence_of_a_page_is_translated(shown: dict[str, Any]) -> None:
    texts = [text for props in shown["components"] for text in texts_of([props.get(name) for name in SHOWN])]
    texts += [choice[0] for props in shown["components"] for choice in props.get("choices") or []]
    texts += [str(props.get("value") or "") for props in shown["components"] if props["type"] in SAYING]
    assert sum("⟦" in text for text in texts) > 100
    left = {text for text in (*texts, *shown["said"]) if re.search("[A-Za-z]{3}", unmarked(text))}
    assert left == set()


def test_what_handlers_answer_is_translated(shown: dict[str, Any]) -> None:
    texts = list(texts_of(shown["answers"]["ann"]))
    assert sum("⟦" in text for text in texts) > 50
    left = {unmarked(text).strip() for text in texts if re.search("[A-Za-z]{3}", unmarked(text))}
    assert left == set()


def test_somebody_else_is_answered_in_english_by_the_same_handlers(shown: dict[str, Any]) -> None:
    """Nothing that was said to one is kept for the other."""
    texts = list(texts_of(shown["answers"]["eve"]))
    assert len(texts) > 50
    assert [text for text in texts if "⟦" in text] == []


def test_the_scripts_get_their_sentences(shown: dict[str, Any]) -> None:
    given = [props["props"] for props in shown["components"] if props["type"] == "html"]
    sentences = next(props["sentences"] for props in given if "sentences" in props)
    source = (ROOT / "annotation" / "tabs" / "annotate.js").read_text("utf-8")
    marked = re.findall(r'\b_\("([^"]+)"\)', source)
    assert len(marked) > 100
    assert {sentence: sentences.get(sentence) for sentence in marked} == {one: f"⟦{one}⟧" for one in marked}
    counted = re.findall(r'\bngettext\(\s*"([^"]+)", "([^"]+)"', source)
    assert len(counted) > 1
    assert {forms[-1]: sentences.get(forms[-1]) for forms in counted} == {
        forms[-1]: [f"⟦{form}⟧" for form in forms] for forms in counted
    }
