"""The README's sections that must agree with the code: `python -m tests.readme_sections` rewrites them."""

from __future__ import annotations

import ast
import re
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from annotation.database import open_database
from annotation.records import Project
from rlhf.jobs.specs import TrainingSpec, describe
from rlhf.kinds import KINDS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PLACES = ("app.py", "annotation", "rlhf", "benchmarks")


def modules() -> list[Path]:
    """Every module of the program, in reading order."""
    found = [ROOT / "app.py"]
    for place in PLACES[1:]:
        found += sorted(path for path in (ROOT / place).rglob("*.py"))
    return found


def first_line(module: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(module.read_text("utf-8"))) or "").splitlines()[0]


def layout() -> str:
    """One line a module."""
    rows = [f"| `{path.relative_to(ROOT).as_posix()}` | {first_line(path)} |" for path in modules()]
    return "\n".join(
        ["| module | what it is for |", "|---|---|", *(row.replace("annotator|admin", "…") for row in rows)]
    )


def schema() -> str:
    """One line a table or view, from a database that the migrations have just made."""
    with tempfile.TemporaryDirectory() as directory:
        db = open_database(Path(directory))
        names = [
            row["name"]
            for row in db.rows("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY rowid")
            if not row["name"].startswith(("_", "sqlite_"))
        ]
        columns = {name: [column["name"] for column in db.rows(f"PRAGMA table_info({name})")] for name in names}
        db.close()
    rows = [f"| `{name}` | {', '.join(columns[name])} |" for name in names]
    return "\n".join(["| table | columns |", "|---|---|", *rows])


def settings() -> str:
    """The program's flags, then the recipe's fields."""
    import app

    source = ast.parse((ROOT / "app.py").read_text("utf-8"))
    body = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Settings").body
    flags = ["| setting of `app.py` | default | meaning |", "|---|---|---|"]
    for entry, sentence in pairwise(body):
        if isinstance(entry, ast.AnnAssign) and isinstance(sentence, ast.Expr) and isinstance(entry.target, ast.Name):
            value = getattr(app.Settings(), entry.target.id)
            shown = "`data` beside app.py" if isinstance(value, Path) else f"`{value}`"
            flags.append(f"| {entry.target.id} | {shown} | {ast.literal_eval(sentence.value)} |")
    asked = ["| setting on the Project tab | default | meaning |", "|---|---|---|"]
    for name, default, sentence in describe(Project):
        shown = ", ".join(f"{tag.key}: {tag.label}" for tag in default) if name == "tags" else f"`{default!r}`"
        asked.append(f"| {name} | {shown} | {sentence} |")
    jobs = [spec_table("every training job", TrainingSpec)]
    trainings = [spec for spec in KINDS.values() if issubclass(spec, TrainingSpec)]
    jobs += [spec_table(f"{TITLES[spec.kind]}, beside or instead", spec, TrainingSpec) for spec in trainings]
    others = [spec for spec in KINDS.values() if not issubclass(spec, TrainingSpec)]
    jobs += [spec_table(TITLES[spec.kind], spec) for spec in others]
    return "\n\n".join(("\n".join(flags), "\n".join(asked), *jobs))


TITLES = {
    "sft": "supervised fine-tuning",
    "reward_model": "a reward model",
    "dpo": "DPO",
    "ppo": "PPO",
    "generate": "the answering job",
    "evaluate": "a check",
    "answer": "answers to a prompt set",
    "judge": "an AI judge",
    "measure": "a measurement",
    "merge": "a merge",
}


def spec_table(title: str, spec: type[Any], common: type[Any] | None = None) -> str:
    """The fields of a kind of job, without those that are as in `common`."""
    known = [] if common is None else describe(common)
    rows = [
        f"| {name} | `{value!r}` | {text} |" for name, value, text in describe(spec) if (name, value, text) not in known
    ]
    return "\n".join([f"| field of {title} | default | meaning |", "|---|---|---|", *rows])


SECTIONS = {"layout": layout, "schema": schema, "settings": settings}


def section(text: str, name: str) -> str:
    """What stands between a section's marks."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", text, re.DOTALL)
    assert found is not None, f"README.md has no section {name}"
    return found.group(1)


def rewrite() -> None:
    """Bring the README's sections up to date."""
    text = README.read_text("utf-8")
    for name, make in SECTIONS.items():
        old = f"<!-- {name} -->\n{section(text, name)}\n<!-- /{name} -->"
        text = text.replace(old, f"<!-- {name} -->\n{make()}\n<!-- /{name} -->")
    README.write_text(text, "utf-8")


if __name__ == "__main__":
    rewrite()
