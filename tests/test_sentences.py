"""Sentences for people are whole and marked for translation, and are found by what makes the translations' files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from annotation.translation import FIELD
from tests.machine_fixtures import ROOT
from tests.sentences import extracted

MARKS = {"_", "N_", "ngettext"}
# What is marked wholly so far, and what may stay as it is in there.
MARKED = (
    *("annotation/tabs", "annotation/claims.py", "annotation/project.py", "annotation/validation.py"),
    *("annotation/exports/export_files.py", "annotation/imports/import_process.py", "annotation/jobs/job_queue.py"),
    *(f"annotation/imports/{name}.py" for name in ("columns", "commit", "conversations", "directories", "importing")),
    *(f"annotation/imports/{name}.py" for name in ("labels", "mapping", "names", "reading", "scratch")),
    *("annotation/web/sign_in_pages.py", "annotation/web/deferred_app.py"),
    *("app.py", "rlhf/tabs", "rlhf/web_server.py", "rlhf/hub/hub_requests.py"),
    *("annotation/ui/formatting.py", "annotation/ui/charts.py", "rlhf/generation/playground_store.py"),
    *("rlhf/jobs/job_store.py", "rlhf/jobs/out_of_memory.py", "rlhf/jobs/rental_store.py"),
    *("rlhf/jobs/worker.py", "rlhf/jobs/worker_process.py", "rlhf/judges/openai_client.py"),
    *("rlhf/generation/prompt_sets.py", "rlhf/generation/answering_spec.py", "rlhf/generation/answering_worker.py"),
    *("rlhf/generation/answer_job.py", "rlhf/data/snapshots.py", "rlhf/hub/pull_model.py", "rlhf/hub/push_model.py"),
    *("rlhf/hub/rental_client.py", "rlhf/hub/space_upload.py", "annotation/hub_client.py"),
    *("rlhf/models/model_files.py", "rlhf/models/template_process.py", "rlhf/models/loading.py"),
    *("rlhf/models/registry.py", "annotation/sqlite.py", "annotation/copies/safe_copies.py"),
)
NO_SENTENCES = {
    *("Hugging Face", "{} MB", "{} kB", "python -m rlhf --data {} run spec.json"),
    *("the iterations", 'attachment; filename="job-{}.csv"', "OWNER/NAME, or OWNER/NAME@REVISION"),
    *('attachment; filename="{}"', "not enough evidence", "no verdict", "said {}", "SQLite {}", "can't be read"),
    *("{} is no number of steps", "{} is no event", "rate limit", "server error", "Bearer {}"),
    *("the import form", "An import ended with status %s: %s", "Gradio was mounted last"),
    "a step of twice the next power of ten is always large enough",
    # Logs, and what tells a library's errors apart.
    *("[process {}] {}", "life line", "Job {} is not queued, or Prefloop was stopped; nothing to do."),
    *("answering as {}", "prompts that can't be answered: {}, the last is {}: {}"),
    *("{} of {} prompts can't be answered, for example: {}", "Connection closed by peer", "Connection reset by peer"),
    *("remote process exited", "allocate memory", "out of memory", "not enough memory", "No space left"),
    *("os error 28", "file write failed", "the data directory", "the id under which to claim the job"),
    *("the queued job to run", "end with whoever holds the other end of standard input", "rented jobs"),
    *("rented jobs could not be looked for", "rented job {}", "Job {}: {}", "{} is no text", "the command line"),
    *(
        "the AI judge {}",
        "Error while deserializing header: ",
        "--extra-index-url https://download.pytorch.org/whl/cpu",
    ),
}
# Keys, and what stands in the database: where a prompt is from, and what was imported.
NO_SENTENCES |= {
    *("shared prompt", "last turn", "labelled answer", "labelled last turn", "import {}: {}", "column {}"),
    *("saved dataset", "dataset directory", "Hub dataset"),
}
# Cards, which are in English, and commands.
NO_PAGES = {"readme", "front_matter", "VARIABLES", "SCRIPT"}
# What is typed as it stands.
NO_WORDS = {
    *("/data/preferences.jsonl", "owner/name", "2026-01-31", "OWNER/NAME", "OWNER/NAME-copies", "owner", "everybody"),
    *("https://api.openai.com/v1", "min_p"),
}
# Two words beside each other, or a word beside a gap.
READS_LIKE_WORDS = re.compile(r"[A-Za-z][a-z]+[,;:.)]? +\(?([A-Za-z0-9#]|\{\})|\{\}[,;:.)]? +[a-z]{2,}")
SQL = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|FROM|WHERE|AND|NOT EXISTS|ORDER|JOIN|\{\} WHERE)\b"
    r"|\(?[a-z.]+ (=|IN) [('?]"
)
STYLE = re.compile(r"\{\s*[a-z-]+\s*:|;\s*$")
SHOWN_KEYWORDS = {"label", "info", "placeholder"}
SHOWN_FIRST = {"Button", "Markdown", "Accordion", "Tab"}


# What an error is called whose sentence is read by people.
REFUSALS = {
    *("UserError", "UnusableRow", "UnclearColumn", "DamagedCopy", "TemplateRefused", "EndpointError", "TooFewRows"),
}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files() -> list[Path]:
    paths = [*(ROOT / "annotation").rglob("*.py"), *(ROOT / "rlhf").rglob("*.py"), ROOT / "app.py"]
    return sorted(paths)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def marked_files() -> list[Path]:
    return [path for path in files() if named(path).startswith(MARKED)]


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


def assigned(node: ast.AST) -> str:
    """The constant that a statement makes; empty for others."""
    return node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else ""


def is_for_people(literal: ast.AST, text: str, around: list[ast.AST]) -> bool:
    """Whether a string is shown: by how it reads, and by what it is given to."""
    outside = around[0]
    if NO_PAGES & {what.name if isinstance(what, ast.FunctionDef) else assigned(what) for what in around}:
        return False
    if isinstance(outside, ast.Expr | ast.Compare | ast.Subscript) or text in NO_SENTENCES | NO_WORDS:
        return False
    if isinstance(outside, ast.keyword) and outside.arg in SHOWN_KEYWORDS:
        return bool(re.search("[A-Za-z]", text))
    if name_of(outside) in SHOWN_FIRST and isinstance(outside, ast.Call) and outside.args[0] is literal:
        return bool(re.search("[A-Za-z]", text))
    plain = re.sub(r"<[^>]*>", "", text)
    return bool(READS_LIKE_WORDS.search(plain)) and not SQL.match(text) and not STYLE.search(text)


@pytest.mark.parametrize("path", marked_files(), ids=named)
def test_every_sentence_is_marked(path: Path) -> None:
    found = [f"line {getattr(one, 'lineno', 0)}: {text!r}" for one, text, around in literals(tree_of(path))
             if around and is_for_people(one, text, around)]  # fmt: skip
    assert found == []


@pytest.mark.parametrize("path", files(), ids=named)
def test_every_refusal_is_marked(path: Path) -> None:
    raised = [node.exc for node in ast.walk(tree_of(path)) if isinstance(node, ast.Raise) and node.exc is not None]
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
        within = {
            call for node in ast.walk(tree_of(path)) if isinstance(node, ast.JoinedStr) for call in calls(node, MARKS)
        }
        assert {call.lineno for call in within if isinstance(call.args[0], ast.Constant)} == set(), path
        for call in calls(tree_of(path), MARKS):
            for argument in call.args[: 2 if name_of(call) == "ngettext" else 1]:
                if isinstance(argument, ast.Constant):
                    assert argument.value in known, f"{path}:{call.lineno} {argument.value}"


def test_gaps_have_the_names_of_what_fills_them() -> None:
    for path in files():
        for node in ast.walk(tree_of(path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format"):
                continue
            sentence = node.func.value
            if isinstance(sentence, ast.Call) and isinstance(sentence.func, ast.Name) and sentence.func.id in MARKS:
                texts = [one.value for one in sentence.args[:2] if isinstance(one, ast.Constant)]
                assert gaps_of(*texts) == {keyword.arg for keyword in node.keywords}, f"{path}:{node.lineno} {texts[0]}"


def test_what_is_asked_of_the_hub_has_a_sentence_for_its_failure_with_a_gap_for_the_reason() -> None:
    for path in files():
        for node in ast.walk(tree_of(path)):
            if not (isinstance(node, ast.Call) and name_of(node) == "explained"):
                continue
            for sentence in calls(ast.Tuple(node.args), MARKS):
                assert isinstance(sentence.args[0], ast.Constant)
                filled = {"reason", *(keyword.arg for keyword in node.keywords)}
                assert gaps_of(str(sentence.args[0].value)) == filled, f"{path}:{node.lineno}"


def gaps_of(*texts: str) -> set[str]:
    """The names of what fills in a sentence's forms."""
    return {re.split("[!:}]", gap[1:])[0] for text in texts for gap in FIELD.findall(text)}
