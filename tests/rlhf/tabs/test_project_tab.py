"""The precision of the base on the Project tab: what is shown, who may change it, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.database import Database, open_database
from annotation.records import now
from annotation.tabs.guard import Context
from rlhf.models import registry
from rlhf.tabs import project_tab

pytestmark = pytest.mark.slow


@pytest.fixture
def held(tmp_path: Path, tiny_model: Path) -> Iterator[Database]:
    """A base in 4 bits, an admin and an annotator."""
    db = open_database(tmp_path / "data")
    registry.ensure_base(db, str(tiny_model))
    for name, role in (("owner", "admin"), ("ann", "annotator")):
        db.insert("annotator", {"name": name, "role": role, "created": now()})
    yield db
    db.close()


def functions(db: Database) -> dict[str, Any]:
    """The tab's handlers by name, built as the app builds it."""
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Project"):
        project_tab.build(demo, Context(db, db.path.parent, "model"))
    return {str(block.api_name): block.fn for block in demo.fns.values()}


def test_an_admin_sees_and_changes_the_precision_of_the_base(held: Database) -> None:
    pages, owner = functions(held), gr.Request(username="owner")
    said, choice = pages["precision-open"](owner)
    assert "is held in 4-bit (NF4), as from the start" in said
    assert choice["value"] == "nf4"
    said, choice = pages["precision-save"](owner, "bf16")
    assert "is held in bf16: owner chose it on" in said
    assert (choice["value"], registry.serving(held).precision) == ("bf16", "bf16")
    assert not pages["thinking-open"](owner)[0]["visible"]  # its template can't be told
    for wrong in (None, "int8", ["bf16"], "<b>"):
        with pytest.raises(gr.Error, match="can be held in nf4, bf16 or fp32"):
            pages["precision-save"](owner, wrong)
    assert registry.serving(held).precision == "bf16"


def test_an_annotator_changes_nothing(held: Database) -> None:
    pages = functions(held)
    for name, inputs in (("precision-open", []), ("precision-save", ["bf16"])):
        with pytest.raises(gr.Error, match="Only an admin"):
            pages[name](gr.Request(username="ann"), *inputs)
    assert registry.serving(held).precision == "nf4"
