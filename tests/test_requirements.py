"""requirements.txt names what the program imports itself, under the side that needs it, and nothing else."""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

from tests.machine_fixtures import ROOT
from tests.test_architecture import imports_of

# Needed without an import: by the name of a module that is looked for, and by transformers for the embedded model.
UNSEEN = {"web": {"pysqlite3"}, "workers": {"gguf"}}
# Imported where it is there: a Space on ZeroGPU has it.
OPTIONAL = {"spaces"}


def distribution(package: str, known: Mapping[str, list[str]] = packages_distributions()) -> str:
    """Under which name a package is installed, folded as pip folds it."""
    return re.sub(r"[-_.]+", "-", known.get(package, [package])[0]).lower()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(paths: list[Path]) -> dict[str, set[str]]:
    """The modules that import each distribution, inside functions too."""
    found = defaultdict(set)
    for path in paths:
        for name in imports_of(path):
            package = name.split(".")[0]
            if package not in sys.stdlib_module_names | {"annotation", "rlhf", "app", "benchmarks", "tests"} | OPTIONAL:
                found[distribution(package)].add(module_name(path))
    return found


def worker_modules() -> tuple[str, ...]:
    """The modules and packages that may import torch."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    return tuple(next(one["allowed_importers"] for one in contracts if "torch" in one.get("protected_modules", ())))


def required() -> dict[str, set[str]]:
    """What requirements.txt lists, by side."""
    web, workers = (ROOT / "requirements.txt").read_text("utf-8").split("\n# The workers")
    return {
        side: {distribution(Requirement(line).name) for line in text.splitlines() if re.match(r"\w", line)}
        for side, text in (("web", web), ("workers", workers.split("\n", 1)[1]))
    }


def is_workers(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in worker_modules())


def test_every_package_that_is_imported_is_required_under_the_side_that_needs_it() -> None:
    users = imported([ROOT / "app.py", *(ROOT / "annotation").rglob("*.py"), *(ROOT / "rlhf").rglob("*.py")])
    assert {"gradio", "torch", "huggingface-hub", "pyyaml"} <= set(users)
    workers = {package for package, modules in users.items() if all(map(is_workers, modules))}
    assert required() == {"web": (set(users) - workers) | UNSEEN["web"], "workers": workers | UNSEEN["workers"]}


def test_every_requirement_has_an_upper_bound() -> None:
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        if re.match(r"\w", line):
            assert {"<", "=="} & {one.operator for one in Requirement(line).specifier}, line


def test_benchmarks_import_nothing_that_tests_do_not_install() -> None:
    lines = (ROOT / "tests" / "requirements.txt").read_text("utf-8").splitlines()
    there = {distribution(Requirement(line).name) for line in lines if re.match(r"\w", line)}
    # That one runs in an environment of its own, which is given with --llama.
    here = [path for path in (ROOT / "benchmarks").rglob("*.py") if path.name != "llama_answers.py"]
    assert set(imported(here)) <= there.union(*required().values())
