"""The documentation says what is so: commands parse, links resolve, names and labels are those of the code."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import MADE, README, WRITTEN, named, prose, section_of, spans, text_of
from tests.docs.reference import PAGES, ROOT, page

SOURCES = ("app.py", "annotation", "rlhf", "benchmarks")
MOST_LINES = 150
MOST_WORDS = 30


class Parsed(Exception):
    """A program has come to its command line, and is to go no further."""


# -------------------------------------------------------------------------------------------------------- what they say
def command_of(words: Sequence[str]) -> list[str]:
    """A command without what is set before it and where its output goes."""
    words = list(words)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    ends = [words.index(mark) for mark in (">", "&&", ";") if mark in words]
    return words[: min(ends, default=len(words))]


def blocks(path: Path) -> Iterator[list[str]]:
    """The commands in a page's code blocks."""
    for block in re.findall(r"```sh\n(.*?)```", text_of(path), re.DOTALL):
        for line in block.splitlines():
            yield command_of(shlex.split(line, comments=True))


def arguments_of(command: Sequence[str]) -> tuple[str, list[str]] | None:
    """(module, arguments) of a command that starts a program of ours."""
    if not command or not command[0].endswith("python"):
        return None
    if command[1:2] == ["app.py"]:
        return "app", list(command[2:])
    return (command[2], list(command[3:])) if command[1] == "-m" else None


# --------------------------------------------------------------------------------------------------- what the code says
@cache
def sources() -> str:
    """All of the program, in one text."""
    places = [ROOT / place for place in SOURCES]
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))]
    return "\n".join(text_of(file) for file in files if file.suffix in (".py", ".js"))


@cache
def parser_of(module: str) -> argparse.ArgumentParser:
    """The command line of what `python -m MODULE` runs, which stops there."""
    path = ROOT.joinpath(*module.split("."))
    program = importlib.import_module(f"{module}.__main__" if path.is_dir() else module)
    found: list[argparse.ArgumentParser] = []

    def parse_args(parser: argparse.ArgumentParser, *_: Any) -> None:
        found.append(parser)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        with pytest.raises(Parsed):
            program.main()
    return found[0]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Every option of a parser and of its subcommands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {option for child in action.choices.values() for option in options_of(child)}
    return found


# ---------------------------------------------------------------------------------------------------------------- tests
@pytest.mark.parametrize("name", sorted(PAGES))
def test_reference_page_equals_the_code(name: str) -> None:
    """If this fails, `make docs` mends it."""
    assert text_of(page(name)) == PAGES[name]()


def test_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= MOST_LINES


def test_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", text_of(README)))
    assert {named(path) for path in (ROOT / "docs").rglob("*.md")} - linked == set()


def test_readmes_numbers_are_measured_ones() -> None:
    """Each stands in the section that its row leads to, a share as a fraction too."""
    numbers = [
        (anchor, number)
        for anchor, row in re.findall(r"\]\(docs/benchmarks\.md#([^)]+)\)(.*)", text_of(README))
        for number in re.findall(r"\*\*(\d[^*]*)\*\*", row)
    ]
    assert len(numbers) >= 5
    assert [
        number
        for anchor, number in numbers
        if not any(
            re.search(rf"(?<![\d.]){re.escape(written)}(?!\d)", section_of(ROOT / "docs" / "benchmarks.md", anchor))
            for written in (number, re.sub(r"^(\d\d)%$", r"0.\1", number))
        )
    ] == []


@pytest.mark.parametrize("path", WRITTEN, ids=named)
def test_commands_in_blocks_parse(path: Path) -> None:
    for module, arguments in filter(None, map(arguments_of, blocks(path))):
        parser_of(module).parse_args(arguments)


@pytest.mark.parametrize("path", [*WRITTEN, *MADE], ids=named)
def test_commands_within_the_text_exist(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the words that stand for others; their options are those that their help names."""
    for module, arguments in filter(None, (arguments_of(command_of(span.split())) for span in spans(path))):
        if module == "venv":
            continue
        verbs = [word for word in arguments if re.fullmatch(r"[a-z][a-z-]*", word)]
        with pytest.raises(SystemExit) as ended:
            parser_of(module).parse_args([*verbs, "--help"])
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        assert [word for word in arguments if word.startswith("--") and word not in said.out] == [], module


@pytest.mark.parametrize("path", [*WRITTEN, *MADE], ids=named)
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    commands = [*blocks(path), *(span.split() for span in spans(path))]
    assert {command[1] for command in commands if command[:1] == ["make"]} - targets == set()


def test_options_exist() -> None:
    """Those that are named by themselves."""
    known = {
        option
        for module in ("app", "annotation", "rlhf", "benchmarks.gate", "benchmarks.loop", "benchmarks.speed")
        for option in options_of(parser_of(module))
    }
    for path in WRITTEN:
        assert {span.split()[0] for span in spans(path) if span.startswith("--")} - known == set(), path


@pytest.mark.parametrize("path", WRITTEN, ids=named)
def test_names_are_those_of_the_code(path: Path) -> None:
    """Environment variables, and fields, functions and columns with an underscore."""
    variables = set(re.findall(r"\b(?:PREFLOOP|HF)_[A-Z_]+\b", text_of(path)))
    names = {span for span in spans(path) if re.fullmatch(r"[a-z]+(_[a-z]+)+", span)}
    assert {name for name in variables | names if not re.search(rf"\b{name}\b", sources())} == set()


@pytest.mark.parametrize("path", WRITTEN, ids=named)
def test_labels_are_those_of_the_pages(path: Path) -> None:
    """What stands between these marks: “…”."""
    code = " ".join(sources().split())
    assert [label for label in re.findall("“([^”]+)”", prose(path)) if label.rstrip(".,") not in code] == []


def test_glossary_is_short_and_in_order() -> None:
    words = re.findall(r"^\| (?!word )([^|]+) \|", text_of(ROOT / "docs" / "glossary.md"), re.MULTILINE)
    assert 0 < len(words) <= MOST_WORDS
    assert words == sorted(words, key=str.casefold)
