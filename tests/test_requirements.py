"""requirements.txt names what the program imports itself, under the side that needs it, and nothing else."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
from packaging.requirements import Requirement

from tests.machine_fixtures import ROOT
from tests.test_architecture import imports_of

# Needed without an import: it is looked for by its name.
UNSEEN = {"pysqlite3"}
# Imported where it is there: a Space on ZeroGPU has it.
OPTIONAL = {"spaces"}


known_distributions = cache(packages_distributions)


def distribution(package: str) -> str:
    """Under which name a package is installed, folded as pip folds it."""
    return re.sub(r"[-_.]+", "-", known_distributions().get(package, [package])[0]).lower()


def imported(paths: list[Path]) -> set[str]:
    """The distributions that are imported, inside functions too."""
    packages = {name.split(".")[0] for path in paths for name in imports_of(path)}
    own = {"annotation", "rlhf", "app", "benchmarks", "tests"}
    return {distribution(package) for package in packages - sys.stdlib_module_names - own - OPTIONAL}


def without_workers() -> set[str]:
    """What everything but workers comes to import: the sources of the contract that keeps torch out of them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    contract = next(one for one in contracts if "torch" in one.get("forbidden_modules", ()))
    graph = grimp.build_graph("annotation", "rlhf", include_external_packages=True, cache_dir=None)
    sources = [name for one in contract["source_modules"] for name in graph.find_matching_modules(one)]
    return {distribution(name) for source in sources for name in graph.find_upstream_modules(source, as_package=True)}


def required() -> dict[str, set[str]]:
    """What requirements.txt lists, by side."""
    web, workers = (ROOT / "requirements.txt").read_text("utf-8").split("\n# The workers")
    return {
        side: {distribution(Requirement(line).name) for line in text.splitlines() if re.match(r"\w", line)}
        for side, text in (("web", web), ("workers", workers.split("\n", 1)[1]))
    }


def test_every_package_that_is_imported_is_required_under_the_side_that_needs_it() -> None:
    users = imported([ROOT / "app.py", *(ROOT / "annotation").rglob("*.py"), *(ROOT / "rlhf").rglob("*.py")])
    assert {"gradio", "torch", "huggingface-hub", "pyyaml"} <= users
    web = without_workers()
    assert required() == {"web": (users & web) | UNSEEN, "workers": users - web}


def test_every_requirement_has_an_upper_bound() -> None:
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        if re.match(r"\w", line):
            assert {"<", "=="} & {one.operator for one in Requirement(line).specifier}, line


def test_benchmarks_import_nothing_that_tests_do_not_install() -> None:
    lines = (ROOT / "tests" / "requirements.txt").read_text("utf-8").splitlines()
    there = {distribution(Requirement(line).name) for line in lines if re.match(r"\w", line)}
    # That one runs in an environment of its own, which is given with --llama.
    here = [path for path in (ROOT / "benchmarks").rglob("*.py") if path.name != "llama_answers.py"]
    assert imported(here) <= there.union(*required().values())
