"""The two import worlds, and what belongs together: pages without torch, workers without gradio, a runner a spec."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from importlib import import_module
from itertools import combinations
from pathlib import Path

import pytest

from rlhf.algorithms import ALGORITHMS
from rlhf.kinds import KINDS
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT
from tests.syntax_trees import nodes_of, tree_of

SOURCE = [ROOT / "app.py", *(ROOT / "annotation").rglob("*.py"), *(ROOT / "rlhf").rglob("*.py")]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OTHERS = [*TESTS, *sorted((ROOT / "benchmarks").rglob("*.py"))]

MACHINERY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "accelerate",
    "rlhf.algorithms.trainer",
    *(f"rlhf.algorithms.{kind}.train" for kind in ALGORITHMS),
    "rlhf.models.loading",
)
# What only reading and writing sets of data needs.
DATA = ("datasets", "pyarrow.parquet")


# As the program begins with its pages, of whose components Gradio has type stubs that no program needs.
LOAD_GRADIO = """
import os, sys
from annotation.tabs import gradio_loading

def see(event, values):
    if event == "open" and str(values[0]).endswith(".pyi"):
        print("a type stub is opened:", values[0], file=sys.stderr, flush=True)
        os._exit(1)

sys.addaudithook(see)
gradio_loading.load()
"""


def loaded_by(module: str, candidates: tuple[str, ...], beforehand: str = "") -> list[str]:
    """Which of the candidates a fresh process has loaded after running some Python and importing the module."""
    code = f"{beforehand}\nimport sys, {module}; print([name for name in {candidates!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(ast.literal_eval(done.stdout.strip().splitlines()[-1]))


@cache
def imports_of(path: Path) -> Sequence[str]:
    """Every module that a file imports, inside functions too, as dotted names."""
    found: list[str] = []
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def offenders(files: Iterator[Path], forbidden: tuple[str, ...]) -> list[str]:
    """'file: module' for each forbidden import."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in imports_of(path)
        if any(name == module or name.startswith(f"{module}.") for module in forbidden)
    ]


def test_packages_hold_what_one_can_grasp() -> None:
    """At most fourteen modules each, besides the docstring that says what belongs there and what does not."""
    for package in (ROOT / "annotation", ROOT / "rlhf"):
        for directory in {path.parent for path in package.rglob("*.py")}:
            assert len([path for path in directory.glob("*.py") if path.name != "__init__.py"]) <= 14, directory
            described = ast.get_docstring(tree_of(directory / "__init__.py")) or ""
            assert re.search(r"^Not here: .+|\. Not here: .+", described, re.MULTILINE), directory


def test_a_package_is_described_by_a_docstring_and_holds_code_in_modules() -> None:
    """The registry of algorithms apart, which is the package's one question."""
    with_code = [
        path.parent.relative_to(ROOT).as_posix()
        for package in (ROOT / "annotation", ROOT / "rlhf")
        for path in package.rglob("__init__.py")
        if len(tree_of(path).body) > 1
    ]
    assert with_code == ["rlhf/algorithms"]


def test_no_name_of_a_type_stands_twice() -> None:
    places: dict[str, list[str]] = {}
    for path in [*(ROOT / "annotation").rglob("*.py"), *(ROOT / "rlhf").rglob("*.py")]:
        place = path.relative_to(ROOT).as_posix()
        for node in nodes_of(path):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{place}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
    meanings: dict[str, set[str]] = {name: {"a class"} for name in places}
    for path in SOURCE:
        for node in tree_of(path).body:
            if isinstance(node, ast.Assign) and re.fullmatch(TYPE_NAME, name := ast.unparse(node.targets[0])):
                meanings.setdefault(name, set()).add(ast.unparse(node.value))
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}, "a type's name has one meaning"


# As classes are named, and what stands for a type.
TYPE_NAME = r"(?=.*[a-z])[A-Z][A-Za-z0-9]*"


def test_no_two_modules_are_one_letter_apart() -> None:
    """Neither a letter more nor another one; modules of one name are siblings in different packages."""
    names = {path.stem for package in ("annotation", "rlhf") for path in (ROOT / package).rglob("*.py")}
    without_one = {name: {name[:at] + name[at + 1 :] for at in range(len(name))} for name in names}
    another = {name: {f"{name[:at]}?{name[at + 1 :]}" for at in range(len(name))} for name in names}
    assert [
        (one, other)
        for one, other in combinations(sorted(names), 2)
        if one in without_one[other] or other in without_one[one] or another[one] & another[other]
    ] == []


def test_what_decides_who_holds_the_token_loads_nothing_of_the_web_process() -> None:
    assert loaded_by("app", ("gradio", "uvicorn", "fastapi", "starlette", "sqlite_utils", "httpx", *MACHINERY)) == []


@pytest.mark.slow
def test_the_web_process_listens_without_gradio_and_builds_its_pages_without_torch() -> None:
    assert loaded_by("rlhf.web_server", ("gradio", "fastapi", "pandas", *DATA, *MACHINERY)) == []
    assert loaded_by("rlhf.tabs.pages", ("gradio", *DATA, *MACHINERY), LOAD_GRADIO) == ["gradio"]


def test_the_command_line_loads_what_its_command_needs_only() -> None:
    assert loaded_by("annotation.__main__", ("gradio", *DATA, *MACHINERY)) == []


@pytest.mark.parametrize("module", ["rlhf.workers.worker", "rlhf.__main__"])
def test_a_worker_starts_without_gradio_and_before_it_has_a_job_without_torch(module: str) -> None:
    assert loaded_by(module, ("gradio", "fastapi", "torch", "transformers", "rlhf.jobs.job_store")) == [
        "rlhf.jobs.job_store"
    ]


def test_what_kinds_of_job_say_of_themselves_is_known_without_torch_and_gradio() -> None:
    assert loaded_by("rlhf.kinds", ("gradio", *MACHINERY)) == []


@pytest.mark.slow
def test_training_loads_no_gradio() -> None:
    """With every algorithm in one process."""
    algorithms = ", ".join(spec.runner() for spec in KINDS.values())
    assert loaded_by(algorithms, ("torch", "gradio", "fastapi", "app")) == ["torch"]


def test_one_module_chooses_the_sqlite_of_all_and_only_the_database_and_its_schema_use_it() -> None:
    """Tests and benchmarks too: two SQLites in one process undo each other's locks on a file."""
    own = [path for package in ("annotation", "rlhf") for path in (ROOT / package).rglob("*.py")]
    chooser = ROOT / "annotation" / "sqlite.py"
    others = [path for path in OTHERS if path.name != "test_sqlite.py"]
    files = (path for path in [ROOT / "app.py", *own, *others] if path != chooser)
    assert offenders(files, ("sqlite3", "pysqlite3", "sqlite_utils")) == []
    users = [ROOT / "annotation" / name for name in ("sqlite.py", "database.py", "schema.py")]
    names = ("annotation.sqlite.sqlite3", "annotation.sqlite.sqlite_utils")
    assert offenders((path for path in own if path not in users), names) == []


def test_every_program_makes_files_for_its_user_alone() -> None:
    """Whatever can be started calls `keep_private`, which its children inherit."""
    programs = [path for path in SOURCE if 'if __name__ == "__main__"' in path.read_text("utf-8")]
    assert len(programs) > 5
    assert [path for path in programs if "    keep_private()\n" not in path.read_text("utf-8")] == []


def test_algorithms_never_import_each_other_or_the_pages() -> None:
    """What they share imports none of them."""
    shared = (ROOT / "rlhf" / "algorithms").glob("*.py")
    assert offenders(shared, tuple(f"rlhf.algorithms.{kind}" for kind in ALGORITHMS)) == []
    for kind in ALGORITHMS:
        others = tuple(f"rlhf.algorithms.{other}" for other in ALGORITHMS if other != kind)
        files = (ROOT / "rlhf" / "algorithms" / kind).glob("*.py")
        assert offenders(files, (*others, "rlhf.tabs", "rlhf.loop.supervisor", "app")) == []


def test_every_spec_has_a_runner_and_every_runner_a_spec() -> None:
    packages = {path.parent.name for path in (ROOT / "rlhf" / "algorithms").glob("*/spec.py")}
    assert packages == set(ALGORITHMS)
    for spec in KINDS.values():
        assert callable(import_module(spec.runner()).run)


# What is made of HTML; a module that is not in here calls what is.
PAGES = {
    *("annotation/tabs/accounts.py", "annotation/tabs/annotate.py", "annotation/tabs/components.py"),
    *("annotation/tabs/comparisons/comparison_card.py", "annotation/tabs/comparisons/comparison_table.py"),
    *("annotation/tabs/project.py", "annotation/tabs/quality_report.py"),
    *(
        "rlhf/tabs/iterations/iteration_card.py",
        "rlhf/tabs/iterations/candidate_headline.py",
        "rlhf/tabs/judges/judges_tab.py",
    ),
    *("rlhf/tabs/overview/overview_card.py", "rlhf/tabs/pages.py", "rlhf/tabs/playground/playground_tab.py"),
    *("rlhf/tabs/jobs/job_cards.py", "rlhf/tabs/train/plan_card.py"),
    "annotation/web/sign_in_pages.py",
}
ELEMENT = re.compile(
    r"</?(?:a|b|div|p|span|table|tr|td|th|ul|ol|li|pre|h[1-6]|svg|figure|details|summary|section|dl|dt|dd|br|img|i)"
    r"(?:\s[^<>]*)?/?>"
)


def test_only_pages_hold_html() -> None:
    """What pages show is rows, records and sentences; what they look like is said in `annotation/ui` and few tabs."""
    found, held = [], set()
    for path in [*(ROOT / "annotation").rglob("*.py"), *(ROOT / "rlhf").rglob("*.py")]:
        name = str(path.relative_to(ROOT))
        if name.startswith("annotation/ui/"):
            continue
        docs = {id(node.value) for node in nodes_of(path) if isinstance(node, ast.Expr)}
        lines = [
            f"{name}:{node.lineno}: {node.value}"
            for node in nodes_of(path)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docs
            and ELEMENT.search(node.value)
        ]
        held |= {name} if lines else set()
        found += [] if name in PAGES else lines
    assert found == []
    assert held == PAGES, "each of them holds some"


# Tests that are of no one module: whole directories, whose pages, documents and attacks go through all of the program,
# and files, each with what it follows across modules.
OF_NO_ONE_MODULE = {
    "tests/e2e": "pages in a real browser",
    "tests/docs": "the documentation",
    "tests/attack": "a started program, attacked",
    "tests/test_": "the whole program, or the tests themselves",
    "tests/annotation/exports/test_round_trips.py": "what an export writes, an import reads",
    "tests/annotation/imports/test_public_formats.py": "files of public data sets, from reading to rows",
    "tests/annotation/web/test_caching.py": "what browsers may keep of any answer",
    "tests/annotation/web/test_field_types.py": "what is sent in any field, to every endpoint",
    "tests/annotation/web/test_files_in_events.py": "files in events, by every way to every function",
    "tests/annotation/web/test_hosts.py": "what requests say of hosts, whoever reads it",
    "tests/annotation/web/test_limits.py": "how long a body may take, whoever reads it, and how much comes at once",
    "tests/rlhf/algorithms/test_adding_an_algorithm.py": "docs/adding-an-algorithm.md, followed",
    "tests/rlhf/algorithms/test_methods.py": "every method and precision, by several algorithms",
    "tests/rlhf/algorithms/test_processes.py": "several processes, by every algorithm",
    "tests/rlhf/algorithms/test_ppo_losses.py": "the mathematics of PPO: losses, roles and its training",
    "tests/rlhf/algorithms/test_preference_losses.py": "losses of preferences, and what the specs make of them",
    "tests/rlhf/algorithms/test_ranking_losses.py": "losses of rankings, and Plackett–Luce",
    "tests/rlhf/generation/test_playground.py": "chats, and prompt sets, on the answering worker",
    "tests/rlhf/hub/test_push_and_pull.py": "to the Hub and back",
    "tests/rlhf/models/test_architectures.py": "how several architectures are computed",
    "tests/rlhf/models/test_real_model.py": "the embedded model, in everything",
    "tests/rlhf/models/test_thinking.py": "thinking, in answers, judges and training",
    "tests/rlhf/submission/test_refused_rows.py": "rows that a template refuses, from freezing to the page",
    "tests/rlhf/tabs/test_numbers.py": "numbers that pages send, on every tab",
}


def test_tests_mirror_the_source() -> None:
    """Each file of tests has a module or package of its name in the same place, or says what it follows across them."""
    unnamed, used = [], set()
    for path in (path for path in TESTS if path.name.startswith("test_")):
        place, name = path.relative_to(ROOT).as_posix(), path.stem.removeprefix("test_")
        package = ROOT / path.parent.relative_to(ROOT / "tests")
        reasons = {known for known in OF_NO_ONE_MODULE if place.startswith(known)}
        used |= reasons
        if not reasons and not (package.name == name or any((package / one).exists() for one in (f"{name}.py", name))):
            unnamed.append(place)
    assert unnamed == []
    assert used == set(OF_NO_ONE_MODULE), "their reason is gone"


def test_every_module_says_in_one_line_what_it_is_for() -> None:
    """The line is used in docs/reference/modules.md."""
    for path in SOURCE:
        described = ast.get_docstring(tree_of(path))
        assert described, path
        assert described.splitlines()[0].endswith("."), path


# What other modules call by a name that is an algorithm's too, and why.
OTHER_MEANINGS = {
    "annotation/exports/formats.py": "formats of TRL's, which are named by what is trained on them",
    "annotation/exports/writing.py": "one of these formats",
    "annotation/exports/dataset_card.py": "tags that the Hub knows, by format",
    "rlhf/hub/snapshot_card.py": "a tag that the Hub knows, and what demonstrations are for",
    "annotation/schema.py": "what rows of an earlier version were",
}
# Kinds that are a word for something else as well: whose spec and whole kind nobody names all the same.
ALSO_WORDS = {"reward_model"}


def names_of_algorithms() -> re.Pattern[str]:
    """The kinds, what they are called in a table and how a card says what they do, wherever such a word stands."""
    specs = [spec for kind, spec in ALGORITHMS.items() if kind not in ALSO_WORDS]
    names = {name for spec in specs for name in (spec.kind, spec.short, spec.trained_by) if name}
    return re.compile(rf"(?<![a-z])({'|'.join(sorted(map(re.escape, names)))})(?![a-z])", re.IGNORECASE)


def test_nobody_outside_names_an_algorithm() -> None:
    """In code, texts and comments: what others ask they ask of the spec, and what a page calls it the spec says."""
    classes = {spec.__name__ for spec in ALGORITHMS.values()}
    packages = tuple(f"rlhf.algorithms.{kind}" for kind in ALGORITHMS)
    own, names = ROOT / "rlhf" / "algorithms", names_of_algorithms()
    found, unused = [], set(OTHER_MEANINGS)
    for path in (path for path in SOURCE if own not in path.parents):
        place = path.relative_to(ROOT).as_posix()
        lines = [(number, line) for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)]
        said = [f"{place}:{number} {line.strip()}" for number, line in lines if names.search(line)]
        unused -= {place} if said else set()
        found += [] if place in OTHER_MEANINGS else said
        for node in nodes_of(path):
            named = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if named in classes or text in ALSO_WORDS or text.startswith(packages):
                found.append(f"{place}:{node.lineno} {named or text}")
    assert found == []
    assert unused == set(), "their reason is gone"
    assert offenders((path for path in SOURCE if own not in path.parents), packages) == []


# Who finds a module by its name, past what pyproject.toml says of imports, and why.
FOUND_BY_NAME = {
    "annotation/sqlite.py": "the SQLite that is there",
    "rlhf/algorithms/__init__.py": "each package's spec",
    "rlhf/jobs/job_spec.py": "the kinds of jobs: a row can't be read without its kind, and kinds lie above",
    "rlhf/jobs/run.py": "what runs a job, which its spec names: it loads torch, and specs do not",
    "rlhf/workers/fork_server.py": "the same, before it is forked to run a job",
}


def test_modules_are_found_by_name_in_five_places() -> None:
    calls = [(path, node) for path in SOURCE for node in nodes_of(path) if isinstance(node, ast.Call)]
    names = ("import_module", "importlib.import_module", "__import__")
    found = {path.relative_to(ROOT).as_posix() for path, node in calls if ast.unparse(node.func) in names}
    assert found == set(FOUND_BY_NAME)


def test_no_spec_is_asked_whether_it_has_a_field() -> None:
    """What only some have is declared for all, with what holds where it is missing: a typo would pass for that."""
    settings = {entry.name for spec in KINDS.values() for entry in fields(spec)}
    own, found = ROOT / "rlhf" / "algorithms", []
    for path in (path for path in (ROOT / "rlhf").rglob("*.py") if own not in path.parents):
        for node in nodes_of(path):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr")
            ):
                asked, name, *default = node.args
                literal = isinstance(name, ast.Constant) and name.value in settings
                unsure = node.func.id == "hasattr" or bool(default)
                if literal or (unsure and re.search(r"spec|training", ast.unparse(asked))):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert found == []


def test_every_row_names_its_columns() -> None:
    """Two values of one type that change places still fit a positional statement, so only short ones may be such."""
    statements = [
        (path.relative_to(ROOT), " ".join(node.value.split()))
        for path in [*SOURCE, *OTHERS]
        if path.name != "schema.py"
        for node in nodes_of(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.match(r"(INSERT|REPLACE|UPDATE) ", node.value.lstrip())
    ]
    assert len(statements) > 20
    assert [found for found in statements if found[1].count("?") > 3] == []
    nameless = r"(INSERT|REPLACE) (OR \w+ )?(INTO )?[\w.]+ (VALUES|SELECT)"
    assert [found for found in statements if re.match(nameless, found[1])] == []


def is_record(node: ast.AST) -> bool:
    """Whether this makes a dataclass."""
    return isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(one) for one in node.decorator_list)


def test_records_of_many_fields_are_made_with_keywords() -> None:
    """Two values of one type that change places still fit: five or more by position are too many to be read."""
    files = [*SOURCE, *OTHERS]
    records = {
        node.name for path in files for node in nodes_of(path) if isinstance(node, ast.ClassDef) and is_record(node)
    }
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}"
        for path in files
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and len(node.args) >= 5
        if getattr(node.func, "attr", getattr(node.func, "id", "")) in {*records, "cls"}
    ]
    assert len(records) > 200
    assert found == []


def test_no_module_gives_one_name_two_meanings() -> None:
    """The second one would silently take the first one's place."""
    for path in SOURCE:
        names = [
            target.id
            for node in tree_of(path).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        ]
        assert [name for name in names if names.count(name) > 1] == [], path
