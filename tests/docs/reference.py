"""The reference pages, made from the code: `python -m tests.docs.reference` (`make docs`) writes docs/reference."""

from __future__ import annotations

import ast
import inspect
import tempfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from annotation.database import open_database
from annotation.records import Project
from annotation.validation import describe
from annotation.web.settings import Settings
from rlhf.evaluation.gate import Rule
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.kinds import KINDS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PACKAGES = ("annotation", "rlhf", "benchmarks")
HEADING = "<!-- Made from the code by `make docs`: change the code, not this page. -->"


def docstring(path: Path) -> str:
    """What a module says of itself."""
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


# ------------------------------------------------------------------------------------------------------------ modules
def modules() -> str:
    """A section for each package: what it says belongs there, and a line for each of its modules."""
    packages = [path.parent for name in PACKAGES for path in sorted((ROOT / name).rglob("__init__.py"))]
    sections = [
        "# Modules",
        HEADING,
        "Every package with what belongs there, and the first sentence of every module.\n"
        "[Which package may import which](../architecture.md#which-package-may-import-which).",
        f"`app.py`: {docstring(ROOT / 'app.py').splitlines()[0]}",
        *map(package, packages),
    ]
    return "\n\n".join(sections) + "\n"


def package(directory: Path) -> str:
    """One package's section."""
    rows = [
        f"| `{path.name}` | {docstring(path).splitlines()[0]} |"
        for path in sorted(directory.glob("*.py"))
        if path.name != "__init__.py"
    ]
    table = ["\n".join(["| module | what it is for |", "|---|---|", *rows])] if rows else []
    name = directory.relative_to(ROOT).as_posix()
    return "\n\n".join([f"## `{name}/`", docstring(directory / "__init__.py"), *table])


# ------------------------------------------------------------------------------------------------------------- schema
SCHEMA = """# Schema

{heading}

One SQLite file, `prefloop.db` in the data directory; `sqlite-utils` and Datasette open it. `current_judgement` is what
counts: judgements that no later one supersedes. A ranking is stored by the answers' positions, with the order in which
they were shown beside it. Text that is JSON is read by the module that stores it.
Migrations are an append-only list of named steps in `annotation/schema.py`; what follows is what they come to."""


def schema() -> str:
    """Every table and view with its indexes and triggers, from a database that the migrations have just made."""
    with tempfile.TemporaryDirectory() as directory:
        db = open_database(Path(directory))
        rows = list(db.rows("SELECT tbl_name, type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"))
        db.close()
    kept = [row for row in rows if not row["name"].startswith(("sqlite_", "_", "idx__"))]
    names = [row["name"] for row in kept if row["type"] in ("table", "view")]
    sections = [SCHEMA.format(heading=HEADING)]
    for name in names:
        statements = [row["sql"] for row in kept if row["tbl_name"] == name]
        sql = "\n".join(f"{statement.strip().replace(' ' * 8, ' ' * 4)};" for statement in statements)
        sections.append(f"## `{name}`\n\n```sql\n{sql}\n```")
    return "\n\n".join(sections) + "\n"


# ----------------------------------------------------------------------------------------------------------- settings
SETTINGS = """# Settings

{heading}

The settings of the program, of a project, of the gate and of every kind of job, each with its default and meaning.
A training form of the page asks the same fields, except `model` and `snapshot`, which it fills in.
`python -m rlhf spec KIND` prints a kind's defaults as JSON, to edit and run, and with `--explain` what they mean.

`PREFLOOP_LANGUAGE` is the language of whoever has chosen none, English without it: [translating](../translating.md).
Further variables of the environment: those of [a Space](../space.md#settings-of-a-space), of
[safe copies](../safe-copies.md), of [judges' keys](../judges-and-gate.md#ai-judges) and of
[a proxy](../server.md#nginx)."""


def settings() -> str:
    """The program's flags, the project's settings, then every kind of job."""
    trainings = [spec for spec in KINDS.values() if issubclass(spec, TrainingSpec)]
    others = [spec for spec in KINDS.values() if not issubclass(spec, TrainingSpec)]
    sections = [
        SETTINGS.format(heading=HEADING),
        f"## The program\n\n{flags()}",
        f"## The project\n\nOn the Project tab.\n\n{table(asked())}",
        f"## The gate's rule\n\nOn the Iterations tab.\n\n{fields(Rule)}",
        f"## Every training job\n\n{fields(TrainingSpec)}",
        *(
            f"## `{spec.kind}`\n\n{said(spec)} Beside or instead of the above:\n\n{fields(spec, True)}"
            for spec in trainings
        ),
        *(f"## `{spec.kind}`\n\n{said(spec)}\n\n{fields(spec)}" for spec in others),
    ]
    return "\n\n".join(sections) + "\n"


def table(rows: list[tuple[str, str, str]]) -> str:
    """Settings with their defaults and meanings."""
    lines = [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in rows]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *lines])


def flags() -> str:
    """The settings of app.py, which are documented below each field."""
    source = ast.parse((ROOT / "annotation" / "web" / "settings.py").read_text("utf-8"))
    body = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Settings").body
    rows = []
    for entry, sentence in pairwise(body):
        if isinstance(entry, ast.AnnAssign) and isinstance(sentence, ast.Expr) and isinstance(entry.target, ast.Name):
            value = getattr(Settings(), entry.target.id)
            shown = "`data` beside app.py" if isinstance(value, Path) else f"`{value}`"
            rows.append((entry.target.id, shown, str(ast.literal_eval(sentence.value))))
    return table(rows)


def asked() -> list[tuple[str, str, str]]:
    """The project's settings."""
    return [
        (name, ", ".join(f"{tag.key}: {tag.label}" for tag in value) if name == "tags" else f"`{value!r}`", meaning)
        for name, value, meaning in describe(Project)
    ]


def said(spec: type[Any]) -> str:
    """What a kind of job says of itself, on one line."""
    return " ".join(inspect.cleandoc(spec.__doc__ or "").split("\n\n")[0].split())


def fields(spec: type[Any], beside: bool = False) -> str:
    """The fields of a kind of job; `beside` leaves out what is as in every training job."""
    known = describe(TrainingSpec) if beside else []
    return table(
        [(name, f"`{value!r}`", text) for name, value, text in describe(spec) if (name, value, text) not in known]
    )


PAGES: Mapping[str, Callable[[], str]] = {"modules": modules, "schema": schema, "settings": settings}


def page(name: str) -> Path:
    """Where a reference page lies."""
    return REFERENCE / f"{name}.md"


def rewrite() -> None:
    """Bring the reference pages up to date."""
    for name, make in PAGES.items():
        page(name).write_text(make(), "utf-8")


if __name__ == "__main__":
    rewrite()
