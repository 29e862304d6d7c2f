"""Sentences for people are whole and marked for translation, and are found by what makes the translations' files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import pytest

from annotation.translation import FIELD
from tests.machine_fixtures import ROOT
from tests.sentences import extracted
from tests.syntax_trees import nodes_of, nothing_goes, tree_of

MARKS = {"_", "N_", "ngettext"}
SAID = {"_", "ngettext", "spoken"}
# What is in English whatever the pages are in, and why (docs/translating.md); everything else is marked.
IN_ENGLISH = {
    "annotation/__main__.py": "the command line",
    "annotation/copies/copies_command.py": "the command line",
    "annotation/exports/export_command.py": "the command line",
    "annotation/imports/import_command.py": "the command line, and what the page shows of its imports",
    "annotation/ui/terminal.py": "the command line",
    "annotation/web/settings.py": "the command line",
    "rlhf/__main__.py": "the command line",
    "rlhf/cli": "the command line",
    "annotation/exports/dataset_card.py": "a card",
    "rlhf/algorithms/model_card.py": "a card",
    "rlhf/hub/snapshot_card.py": "a card",
    "rlhf/judges/rubrics.py": "what models are told",
    "annotation/translation.py": "what is wrong with a translation",
    "annotation/schema.py": "SQL, and what earlier versions said",
}
# Texts of other modules that are no sentence for people, by what they are.
NO_SENTENCES_BY_REASON = {
    "names, and what is typed as it stands": {
        *("Hugging Face", "SQLite {}", "{} · Prefloop", "base · {}"),
        *("python -m rlhf --data {} run spec.json", "--extra-index-url https://download.pytorch.org/whl/cpu"),
    },
    "headers and marks of HTTP, HTML, CSS and JSON": {
        *('attachment; filename="{}"', "Bearer {}", "openid profile"),
        *("private, max-age=31536000, immutable", "chip {}", "facts figures", 'th scope="col"', 'th scope="row"'),
        *("/* ==== pages without Gradio ==== */\n", "/* ==== end of the tokens ==== */\n"),
    },
    "keys, and what stands in the database, in a file or on the Hub": {
        *("not enough evidence", "no verdict", "rate limit", "server error"),
        *("the data directory", "life line", "rented jobs", "the AI judge {}"),
        *("shared prompt", "last turn", "labelled answer", "labelled last turn", "import {}: {}", "column {}"),
        *("own prompt", "held-out set", "prefloop archive"),
        *("prefloop copy", "another format", "Safe copy {} of run {}, {} judgements", "{} export", "{}: run {}"),
        *("no reward", "made elsewhere", "lane {}"),
        *("train first", "too long", "calls of judge {}", "trust before {}", "no host"),
        *("Report {}", "The end"),
        *("order {} {} {}", "prompts {} {}", "answer {} {} {}", "rented job {}", "Job {}: {}"),
    },
    "what a log says": {
        *("the system has it for everybody's files", "its file system keeps no rights"),
        *("no heads", "{} heads", "answers are chosen by {}, after {} s"),
    },
    "what tells a library's errors and warnings apart": {
        *("can't be read", "Connection closed by peer", "Connection reset by peer", "remote process exited"),
        *("allocate memory", "out of memory", "not enough memory", "No space left", "os error 28"),
        "disk is full",
        *("file write failed", "Error while deserializing header: ", "Detected call of `lr_scheduler.step"),
        "`(is_)?gradient_checkpointing` is deprecated",
    },
    "what a model is told": {
        "Answer in one word.",
        "What is a good breakfast?",
        "Answer the user well, in the way that people prefer.",
    },
}
NO_SENTENCES = set().union(*NO_SENTENCES_BY_REASON.values())
# Constants and functions that hold none, and calls that take words apart.
NO_PAGES = {
    **dict.fromkeys(("readme", "front_matter", "ABOUT", "trained_by"), "a card"),
    "paper": "names",
    **dict.fromkeys(("VARIABLES", "SCRIPT"), "a command"),
    "SECURITY_HEADERS": "headers",
    "OBVIOUS_WORDS": "passwords",
    "EVENT_KEYS": "names",
    "SAMPLE": "what a tokenizer is shown",
    "FORGET": "a script",
    "TABLES": "columns",
    "WORK": "SQL",
}
TAKE_WORDS = {"names", "allowed_route"}
# What is typed as it stands.
NO_WORDS = {
    *("/data/preferences.jsonl", "owner/name", "2026-01-31", "OWNER/NAME", "OWNER/NAME-copies", "owner", "everybody"),
    *("https://api.openai.com/v1", "min_p", "PPO", "DoRA", "rsLoRA"),
}
# Two words beside each other, or a word beside a gap, or one on either side of a point.
READS_LIKE_WORDS = re.compile(
    r"[A-Za-z][a-z]+[,;:.)]? +\(?([A-Za-z0-9#]|\{\})|\{\}[,;:.)]? +[a-z]{2,}|[a-z]{2,}.* ·( |$)|(^| )· .*[a-z]{2,}"
)
SQL = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|FROM|WHERE|AND|NOT EXISTS|ORDER|JOIN|\{\} WHERE)\b"
    r"|\(?[a-z.]+ (=|IN) [('?{]|[a-z]\.[a-z_]+, [a-z]\.[a-z_]+$"
)
SQL_WITHIN = re.compile(
    r"\b(SELECT .* FROM|BETWEEN :|IS NULL|NOT NULL|ORDER BY|JOIN \w+ \w+ ON|json_each|json_object|coalesce|DESC)\b",
    re.DOTALL,
)
STYLE = re.compile(r"\{\s*[a-z-]+\s*:|;\s*$")
SHOWN_KEYWORDS = {"label", "info", "placeholder"}
SHOWN_FIRST = {"Button", "Markdown", "Accordion", "Tab", "TokenSequence"}


# What a log, or who started the program, is told; what says how the program is wrong; what argparse shows.
LOGS = {"log", "debug", "info", "warning", "error", "exception", "print"}
BUGS = {"AssertionError", "RuntimeError", "TypeError", "ValueError", "NotImplementedError"}
ARGUMENT_HELP = {"help", "description", "epilog", "prog"}
# What an error is called whose sentence is read by people.
REFUSALS = {
    *("UserError", "UnusableRow", "UnclearColumn", "AskedColumn", "DamagedCopy", "TemplateRefused", "EndpointError"),
    "TooFewRows",
}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files() -> list[Path]:
    paths = [*(ROOT / "annotation").rglob("*.py"), *(ROOT / "rlhf").rglob("*.py"), ROOT / "app.py"]
    return sorted(paths)


def marked_files() -> list[Path]:
    return [path for path in files() if not named(path).startswith(tuple(IN_ENGLISH))]


def name_of(call: ast.AST) -> str:
    """What a call calls, without what it is an attribute of."""
    function = call.func if isinstance(call, ast.Call) else None
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def calls(tree: ast.AST, names: set[str]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def literals(node: ast.AST) -> Iterator[tuple[ast.AST, str, list[ast.AST]]]:
    """Every string that is written in here and not marked, gaps as {}, with what it stands in, innermost first."""

    def within(node: ast.AST, around: list[ast.AST]) -> Iterator[tuple[ast.AST, str, list[ast.AST]]]:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKS:
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node, node.value, around
        if isinstance(node, ast.JoinedStr):
            yield node, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values), around
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.JoinedStr):
            children = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        if isinstance(node, ast.AnnAssign):
            children = [node.value] if node.value else []
        for child in children:
            yield from within(child, [node, *around])

    yield from within(node, [])


@cache
def literals_of(path: Path) -> list[tuple[ast.AST, str, list[ast.AST]]]:
    """As `literals`, of a whole file."""
    with nothing_goes():
        return [*literals(tree_of(path))]


def assigned(node: ast.AST) -> str:
    """The constant that a statement makes; empty for others."""
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def is_for_developers(around: list[ast.AST]) -> bool:
    """Whether it is said by a log, a terminal or a bug, all of which speak English."""
    asserted = any(isinstance(one, ast.Assert) for one in around)
    bug = any(isinstance(one, ast.Raise) and one.exc is not None and name_of(one.exc) in BUGS for one in around)
    typed = any(isinstance(one, ast.keyword) and one.arg in ARGUMENT_HELP for one in around)
    return asserted or bug or typed or any(name_of(one) in LOGS for one in around)


def names_a_fact(literal: ast.AST, around: list[ast.AST]) -> bool:
    """Whether it is the first of a pair in a function that makes facts of a page."""
    pair = isinstance(around[0], ast.Tuple) and around[0].elts[0] is literal
    return pair and any(
        isinstance(one, ast.FunctionDef) and ast.unparse(one.returns or one) == "Facts" for one in around
    )


def is_for_people(literal: ast.AST, text: str, around: list[ast.AST]) -> bool:
    """Whether a string is shown: by how it reads, and by what it is given to."""
    outside = around[0]
    if is_for_developers(around):
        return False
    if NO_PAGES.keys() & {what.name if isinstance(what, ast.FunctionDef) else assigned(what) for what in around}:
        return False
    if name_of(outside) in TAKE_WORDS or (isinstance(outside, ast.Attribute) and outside.attr == "split"):
        return False
    if isinstance(outside, ast.Expr | ast.Compare | ast.Subscript) or text in NO_SENTENCES | NO_WORDS:
        return False
    if names_a_fact(literal, around):
        return bool(re.search("[A-Za-z]", text))
    if isinstance(outside, ast.keyword) and outside.arg in SHOWN_KEYWORDS:
        return bool(re.search("[A-Za-z]", text))
    if name_of(outside) in SHOWN_FIRST and isinstance(outside, ast.Call) and outside.args[0] is literal:
        return bool(re.search("[A-Za-z]", text))
    plain = re.sub(r"<[^>]*>", "", text)
    sql = SQL.match(text) or SQL_WITHIN.search(text)
    return bool(READS_LIKE_WORDS.search(plain)) and not sql and not STYLE.search(text)


@pytest.mark.parametrize("path", marked_files(), ids=named)
def test_every_sentence_is_marked(path: Path) -> None:
    found = [f"line {getattr(one, 'lineno', 0)}: {text!r}" for one, text, around in literals_of(path)
             if around and is_for_people(one, text, around)]  # fmt: skip
    assert found == []


def test_every_exception_is_needed() -> None:
    """A file in which nothing would be found, or a text that stands nowhere any more, is none."""
    found = {path: [one for one in literals_of(path) if one[2] and is_for_people(*one)] for path in files()}
    assert [name for name in IN_ENGLISH if not any(found[path] for path in found if named(path).startswith(name))] == []
    said = {text for path in marked_files() for _, text, _ in literals_of(path)}
    assert sorted(NO_SENTENCES - said) == []


COMMANDS = tuple(name for name, why in IN_ENGLISH.items() if why == "the command line")


@pytest.mark.parametrize("path", [path for path in files() if not named(path).startswith(COMMANDS)], ids=named)
def test_every_refusal_is_marked(path: Path) -> None:
    """Also where the rest is in English, but for what a command says itself."""
    raised = [node.exc for node in nodes_of(path) if isinstance(node, ast.Raise) and node.exc is not None]
    found = [
        f"line {getattr(one, 'lineno', 0)}: {text!r}"
        for refusal in raised
        if name_of(refusal) in REFUSALS
        for one, text, around in literals(refusal)
        if around and is_for_people(one, text, around)
    ]
    assert found == []


def test_marked_sentences_are_found_by_babel() -> None:
    """What stands in an f-string is found by newer versions of Python only."""
    known = {part for message in extracted() for part in ([message] if isinstance(message, str) else message)}
    for path in files():
        within = {call for node in nodes_of(path) if isinstance(node, ast.JoinedStr) for call in calls(node, MARKS)}
        assert {call.lineno for call in within if isinstance(call.args[0], ast.Constant)} == set(), path
        for call in calls(tree_of(path), MARKS):
            for argument in call.args[: 2 if name_of(call) == "ngettext" else 1]:
                if isinstance(argument, ast.Constant):
                    assert argument.value in known, f"{path}:{call.lineno} {argument.value}"


# With English separators whatever language is spoken, since it is read by a program or typed.
AS_IT_STANDS = {
    "f'{10 * place(step):.1f},{height(value):.1f}'": "points of a line",
    "f'{value:g}'": "what stands in a file that is imported",
    "f'{one:g}'": "what stands in a file that is imported",
    "f'{BETAS[self.loss][0]:g}'": "what may be typed in its field",
    "f'{self.rental.hours:g}'": "a variable",
    "f'{value:.{digits - 1}e}'": "to be taken apart",
    "f'{amount:.4f}'": "to be counted",
    "f'answers are chosen by {fitted}, after {self._took:.1f} s'": "what a log says",
}


@pytest.mark.parametrize("path", marked_files(), ids=named)
def test_numbers_are_written_as_the_language_writes_them(path: Path) -> None:
    """By `_(...).format`, `numeral` or `figures`, but for what is drawn, logged or made a number again."""
    found = [
        f"line {getattr(one, 'lineno', 0)}: {ast.unparse(one)}"
        for one, text, around in literals_of(path)
        if writes_number(one) and ast.unparse(one) not in AS_IT_STANDS
        if not (
            is_for_developers(around) or '="' in text or 'style="' in text or name_of(around[0]) in ("float", "figures")
        )
    ]
    assert found == []


def writes_number(literal: ast.AST) -> bool:
    """Whether a number is written in a string by how `format` does, such as {:,} or {share:.1%}."""
    values = literal.values if isinstance(literal, ast.JoinedStr) else ()
    specs = [ast.unparse(one.format_spec) for one in values if isinstance(one, ast.FormattedValue) and one.format_spec]
    if isinstance(literal, ast.Constant):
        specs = re.findall(r"\{\w*:([^{}]*)\}", literal.value)
    return any(re.fullmatch(r".*[,efgEFG%]'?", spec) and not re.search("%[a-zA-Z]", spec) for spec in specs)


def noted(path: Path) -> dict[str, str]:
    """The sentences of a module's constants."""
    made = [(assigned(node), getattr(node, "value", None)) for node in tree_of(path).body]
    return {
        name: str(value.args[0].value)
        for name, value in made
        if isinstance(value, ast.Call) and name_of(value) == "N_" and isinstance(value.args[0], ast.Constant)
    }


def at_import(node: ast.AST) -> Iterator[ast.Call]:
    """What is said while a module is imported, when nobody is answered yet: outside the bodies of functions."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        defaults = [one for one in (*node.args.defaults, *node.args.kw_defaults) if one is not None]
        children: Iterable[ast.AST] = [*defaults, *getattr(node, "decorator_list", ())]
    else:
        children = ast.iter_child_nodes(node)
    if isinstance(node, ast.Call) and name_of(node) in SAID:
        yield node
    for child in children:
        yield from at_import(child)


def test_nothing_is_said_while_a_module_is_imported() -> None:
    assert [f"{named(path)}:{call.lineno}" for path in files() for call in at_import(tree_of(path))] == []
    page = (ROOT / "docs" / "adding-an-algorithm.md").read_text("utf-8")
    shown = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown
    assert [ast.unparse(call) for code in shown for call in at_import(ast.parse(code))] == [], "nor is it taught"


def test_gaps_have_the_names_of_what_fills_them() -> None:
    for path in files():
        known = noted(path)
        for node in nodes_of(path):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format"):
                continue
            sentence = node.func.value
            if isinstance(sentence, ast.Call) and isinstance(sentence.func, ast.Name) and sentence.func.id in MARKS:
                texts = [one.value for one in sentence.args[:2] if isinstance(one, ast.Constant)]
                texts += [known[one.id] for one in sentence.args[:1] if isinstance(one, ast.Name) and one.id in known]
                filled = {keyword.arg for keyword in node.keywords}
                assert not texts or None in filled or gaps_of(*texts) == filled, f"{path}:{node.lineno} {texts[0]}"


def test_what_is_asked_of_the_hub_has_a_sentence_for_its_failure() -> None:
    for path in files():
        for node in nodes_of(path):
            if not (isinstance(node, ast.Call) and name_of(node) == "explained"):
                continue
            for sentence in (one for one in node.args if isinstance(one, ast.Call) and name_of(one) in MARKS):
                assert isinstance(sentence.args[0], ast.Constant)
                filled = {keyword.arg for keyword in node.keywords}
                assert gaps_of(str(sentence.args[0].value)) == filled, f"{path}:{node.lineno}"


def gaps_of(*texts: str) -> set[str]:
    """The names of what fills in a sentence's forms."""
    return {re.split("[!:}]", gap[1:])[0] for text in texts for gap in FIELD.findall(text)}


# A count, and the noun behind it.
COUNTED = re.compile(r"\{(\w+)(?::[^{}]*)?\} (?:(?!(?:of|to|in|by|can|with|over|the)\b)[a-z-]+ ){0,2}?([a-z]+s)\b")
# What has no form for one though a noun that has one stands behind a gap, and why.
NO_COUNT = {"revision": "a name, which answers"}
NEVER_ONE = {
    "a limit of the program's": {
        *("most", "limit", "least", "people_least", "fewest_evidence", "most_failed_jobs", "after", "minutes"),
        *("retry_seconds", "per_state"),
    },
    "so many at least": {
        *("answers, answers", "count, answers", "size, answers", "shared, judgements"),
        *("today, prompts", "prompts, others", "judgements, judgements"),
        *("rows, rows", "verdict_rows, rows"),
    },
    "what there are too many of, or all of a run's rows": {
        *(
            "others are still to judge more than {count}",
            "max_new_tokens, tokens",
        ),
        "up to {tokens:,} tokens in a forward pass",
        "A prompt of {tokens} tokens leaves no room",
        "of the {pairs:,} pairs; too little",
        "of {count} held-out comparisons (95% interval",
    },
    "a name, which does something": {"Job {number} checks"},
    "thousands, where it is said": {
        *("given, bytes", "size, bytes", "sizes, bytes", "longest, tokens", "positions, tokens", "vocabulary, tokens"),
    },
}


def test_what_is_counted_has_a_form_for_one() -> None:
    """Nouns are those that have one somewhere."""
    counts = [message for message in extracted() if not isinstance(message, str)]
    nouns = {
        noun
        for one, several, *_ in counts
        for _gap, noun in COUNTED.findall(several)
        if noun not in re.findall("[a-z]+", FIELD.sub("", one))
    }
    assert {"comparisons", "tokens", "files"} <= nouns
    alone = [
        (message, gap, noun)
        for message in extracted()
        if isinstance(message, str)
        for gap, noun in COUNTED.findall(message)
        if noun in nouns and gap not in NO_COUNT and not gap.startswith("maximum_")
    ]
    known = set().union(*NEVER_ONE.values())
    excepted = [
        {one for one in known if (one in message if "{" in one else one in (gap, f"{gap}, {noun}"))}
        for message, gap, noun in alone
    ]
    assert [one for one, why in zip(alone, excepted, strict=True) if not why] == []
    assert known == set().union(*excepted), "every exception is needed"


WORD = re.compile(r"[A-Za-z]{3,}")
CHANGE_CASE = {"lower", "upper", "title", "capitalize", "casefold", "swapcase"}
# Names of files, keys, variables and parts of addresses, which no language has a word for.
FILLED_AS_IT_STANDS = {
    *("PREFLOOP_COPIES_", "assistant", "user", "model", "directory", "adapter_config.json", "http://", "signin?token="),
    *("max_tokens", "temperature", "column "),
}


@cache
def fillings(path: Path) -> list[tuple[ast.keyword, list[ast.AST]]]:
    """Each gap of a marked sentence that is filled in, with what may stand there: local names looked up."""
    found = []
    for function in nodes_of(path):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        local: dict[str, list[ast.AST]] = {}
        for node in ast.walk(function):
            for target in node.targets if isinstance(node, ast.Assign) else ():
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                for name in (one.id for one in names if isinstance(one, ast.Name)):
                    local.setdefault(name, []).append(node.value)
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and name_of(node) == "format" and any(calls(node.func, MARKS)):
                for keyword in node.keywords:
                    used = [one.id for one in ast.walk(keyword.value) if isinstance(one, ast.Name)]
                    found.append((keyword, [keyword.value, *(value for name in used for value in local.get(name, ()))]))
    return found


def words_in(node: ast.AST) -> Iterator[str]:
    """What is written in here, outside of calls and of what is compared or looked up."""
    if isinstance(node, ast.Call | ast.Compare | ast.Subscript | ast.Dict):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from words_in(child)


def test_no_gap_is_filled_with_an_english_word() -> None:
    found = [
        f"{named(path)}:{keyword.value.lineno} {keyword.arg} = {text!r}"
        for path in marked_files()
        for keyword, values in fillings(path)
        for value in values
        for text in words_in(value)
        if WORD.search(text) and text not in NO_SENTENCES | NO_WORDS | FILLED_AS_IT_STANDS
    ]
    assert found == []


def test_no_letter_of_a_translation_is_made_small_or_large() -> None:
    """Which words begin with a capital differs between languages."""
    said = [
        f"{named(path)}:{call.lineno}"
        for path in marked_files()
        for call in changing_case(tree_of(path))
        if any(calls(call.func, MARKS))
    ]
    filled = [
        f"{named(path)}:{keyword.value.lineno} {keyword.arg}"
        for path in marked_files()
        for keyword, _ in fillings(path)
        for call in changing_case(keyword.value)
        if keyword.arg not in NOT_TRANSLATED_GAPS
    ]
    assert said + filled == []


# What a library says in English, and a size.
NOT_TRANSLATED_GAPS = {"msg", "maximum_upload"}


def said_before(function: ast.AST, line: int) -> dict[str, list[ast.AST]]:
    """What local names may stand for at a line: what they are assigned, or what a loop takes them from."""
    local: dict[str, list[ast.AST]] = {}
    for node in (one for one in ast.walk(function) if getattr(one, "lineno", line) <= line):
        if isinstance(node, ast.Assign) and node.lineno < line:
            made = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.For):
            made = [(node.target, node.iter)]
        else:
            made = [(one.target, one.iter) for one in getattr(node, "generators", ())]
        for target, value in made:
            for name in (one.id for one in ast.walk(target) if isinstance(one, ast.Name)):
                local.setdefault(name, []).append(value)
    return local


@cache
def tables(path: Path) -> dict[str, tuple[str, ...]]:
    """The marked texts of a module's constants, of mappings too."""
    return {
        name: texts
        for node in tree_of(path).body
        if (name := assigned(node))
        if (
            texts := tuple(
                str(call.args[0].value) for call in calls(node, {"N_"}) if isinstance(call.args[0], ast.Constant)
            )
        )
    }


@cache
def functions(path: Path) -> dict[str, ast.FunctionDef]:
    """A module's own functions."""
    return {one.name: one for one in tree_of(path).body if isinstance(one, ast.FunctionDef)}


# What gives the name of something, or of its kind, which has the place of a name.
CALLED = {"name", "label", "about", "name_of", "title_of", "kind_of"}


@dataclass(frozen=True)
class Seen:
    """What a module can name, by what it calls it: its own, and what it imports."""

    texts: Mapping[str, tuple[str, ...]]
    """The marked texts of constants."""
    functions: Mapping[str, tuple[Path, ast.FunctionDef]]


@cache
def seen_from(path: Path) -> Seen:
    texts, made = dict(tables(path)), {name: (path, one) for name, one in functions(path).items()}
    for node in (one for one in tree_of(path).body if isinstance(one, ast.ImportFrom) and one.module):
        origin = ROOT / str(node.module).replace(".", "/")
        for name in node.names:
            called = name.asname or name.name
            if (module := origin / f"{name.name}.py").is_file():
                texts |= {f"{called}.{constant}": said for constant, said in tables(module).items()}
                made |= {f"{called}.{function}": (module, one) for function, one in functions(module).items()}
            elif (module := origin.with_suffix(".py")).is_file():
                texts |= {called: tables(module)[name.name]} if name.name in tables(module) else {}
                made |= {called: (module, functions(module)[name.name])} if name.name in functions(module) else {}
    return Seen(texts, made)


@cache
def methods() -> dict[str, list[tuple[Path, ast.FunctionDef]]]:
    """Methods and properties that give a text, by their names, of those that mean one thing in all classes."""
    made: dict[str, list[tuple[Path, ast.FunctionDef]]] = {}
    for path in files():
        for owner in (one for one in nodes_of(path) if isinstance(one, ast.ClassDef)):
            for method in (one for one in owner.body if isinstance(one, ast.FunctionDef)):
                made.setdefault(method.name, []).append((path, method))
    return {
        name: found
        for name, found in made.items()
        if all(isinstance(one.returns, ast.Name) and one.returns.id == "str" for _, one in found)
    }


def phrases(
    node: ast.AST, local: Mapping[str, list[ast.AST]], known: Seen, least: int = 3,
    within: frozenset[str] = frozenset(),
) -> Iterator[str]:  # fmt: skip
    """The marked texts of so many words at least that an expression may become, of constants and results too."""
    inner = partial(phrases, local=local, known=known, least=least, within=within)
    if isinstance(node, ast.Call) and name_of(node) in SAID:
        parts = [part for argument in node.args[:2] for part in ast.walk(argument)]
        parts += [part for one in parts for value in local.get(getattr(one, "id", ""), ()) for part in ast.walk(value)]
        for one in parts:
            for text in [one.value] if isinstance(one, ast.Constant) else known.texts.get(ast.unparse(one), ()):
                if isinstance(text, str) and len(re.findall("[A-Za-z][A-Za-z'-]*", FIELD.sub("", text))) >= least:
                    yield text
    elif isinstance(node, ast.Call) and name_of(node) in ("format", "join") and isinstance(node.func, ast.Attribute):
        parts = [one for argument in node.args for one in getattr(argument, "elts", [argument])]
        for part in [node.func.value, *parts]:
            yield from inner(part)
    elif isinstance(node, ast.GeneratorExp | ast.ListComp):
        yield from inner(node.elt)
    elif isinstance(node, ast.IfExp | ast.BoolOp):
        for part in [node.body, node.orelse] if isinstance(node, ast.IfExp) else node.values:
            yield from inner(part)
    elif isinstance(node, ast.Name):
        rest = {name: values for name, values in local.items() if name != node.id}
        for value in local.get(node.id, ()):
            yield from phrases(value, rest, known, least, within)
    elif isinstance(node, ast.Subscript):
        yield from inner(node.value)
    elif isinstance(node, ast.Dict):
        for part in node.values:
            yield from inner(part)
    elif isinstance(node, ast.Call | ast.Attribute):
        called = ast.unparse(node.func if isinstance(node, ast.Call) else node)
        if called.rpartition(".")[2] in CALLED:
            return
        one_function = known.functions.get(called)
        for path, function in [one_function] if one_function else methods().get(called.rpartition(".")[2], ()):
            for value in (one.value for one in ast.walk(function) if isinstance(one, ast.Return) and one.value):
                if called not in within:
                    said = said_before(function, value.lineno)
                    yield from phrases(value, said, seen_from(path), least, within | {called})


def is_whole(text: str) -> bool:
    """Whether it is a sentence, or ends with one in its last gap."""
    return bool(re.match(r"[A-Z{]", text)) and bool(re.search(r"[.!?]$|[.:!?] \{\w+\}$", text))


def stands_alone(gap: str | None, sentence: str) -> bool:
    """Whether a gap has the place of a whole sentence: at the beginning or after one."""
    return bool(re.search(rf"(^|[.:!?] ){{{gap}}}( [A-Z{{]|$)", sentence))


def is_quoted(gap: str | None, sentence: str) -> bool:
    """Whether a gap has the place of a name: in quotation marks, in parentheses, or on a side of a colon for itself."""
    return bool(re.search(rf"[(“'\"]{{{gap}}}[)”'\"]|^{{{gap}}}:|^[^:]+: {{{gap}}}$", sentence))


# What fills a gap and is no sentence, by the gap.
# The name of a method, and what stands in the place of words that somebody gave, or of a figure.
NAMES = {"LoRA or QLoRA", "no reason given", "no comparison yet"}
PHRASES_IN_GAPS = {
    "per": "what an axis is called, in the text that describes the plot",
    "collected": "a count with its unit, which is shown alone too",
    **dict.fromkeys(("ago", "left"), "a span of time, as it is said alone too"),
}


@pytest.mark.parametrize("path", marked_files(), ids=named)
def test_no_sentence_is_filled_with_a_part_of_one(path: Path) -> None:
    """Word order and endings differ between languages: a gap takes names and numbers, or a sentence of its own."""
    found, known = set(), seen_from(path)
    for function in (one for one in nodes_of(path) if isinstance(one, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and name_of(node) == "format" and isinstance(node.func, ast.Attribute):
                local = said_before(function, node.lineno)
                sentences = list(phrases(node.func.value, local, known, least=0))
                for keyword in node.keywords:
                    alone = sentences and all(stands_alone(keyword.arg, one) for one in sentences)
                    if keyword.arg in PHRASES_IN_GAPS or (
                        sentences and all(is_quoted(keyword.arg, one) for one in sentences)
                    ):
                        continue
                    # A word for what something is has another ending, or place, in another language.
                    says = any(re.search(rf"\b(is|are|was|were) {{{keyword.arg}}}", one) for one in sentences)
                    for text in phrases(keyword.value, local, known, least=1 if says else 3):
                        if not (alone and is_whole(text)) and text not in NAMES:
                            found.add(f"line {node.lineno} {keyword.arg} = {text!r}")
            if isinstance(node, ast.JoinedStr):
                local = said_before(function, node.lineno)
                for before, part in pairwise(node.values):
                    outside = before.value if isinstance(before, ast.Constant) else ""
                    # What was said before goes on with it, without a space too, or its end stands outside of it.
                    touches = isinstance(before, ast.FormattedValue)
                    goes_on = touches or re.search(r"(^|[\w,)']) $", str(outside))
                    ended = isinstance(part, ast.Constant) and str(part.value).startswith(".")
                    one = part if isinstance(part, ast.FormattedValue) and goes_on else before if ended else None
                    if isinstance(one, ast.FormattedValue):
                        least = 1 if touches and one is part else 3
                        said = {text for text in phrases(one.value, local, known, least) if not is_whole(text)}
                        # What begins a line of its own stands for itself.
                        said = {text for text in said - NAMES if not text.startswith("\n")}
                        found |= {f"line {node.lineno} {text!r}" for text in said}
    assert found == set(), sorted(found)


def test_what_is_said_of_a_row_names_its_column_and_fills_its_gaps() -> None:
    for path in files():
        for node in nodes_of(path):
            if not (isinstance(node, ast.Call) and name_of(node) == "UnusableRow"):
                continue
            for sentence in calls(ast.Tuple(node.args), {"_"}):
                if isinstance(sentence.args[0], ast.Constant):
                    column = {"column"} if ast.unparse(node.args[0]) != "''" else set()
                    filled = {*column, *(keyword.arg for keyword in node.keywords)}
                    assert gaps_of(str(sentence.args[0].value)) == filled, f"{path}:{node.lineno}"


def changing_case(node: ast.AST) -> Iterator[ast.Call]:
    for one in ast.walk(node):
        if isinstance(one, ast.Call) and name_of(one) in CHANGE_CASE:
            yield one
