"""The Hub tab on a real database: who may use it, what each form asks for, what is shown of what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gradio as gr
import pytest

from annotation import translation
from annotation.claims import handing_out, judging
from annotation.copies import copy_reasons, safe_copies
from annotation.copies.targets import DirectoryTarget
from annotation.database import Database
from annotation.jobs import job_table
from annotation.jobs.job_table import Job
from annotation.records import now
from annotation.store import setting_store
from annotation.tabs.guard import Context
from annotation.ui.formatting import moment
from annotation.web import access
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data import snapshots
from rlhf.hub import publications, push_dataset
from rlhf.hub.hub_requests import REQUESTS, CheckSpace, CheckToken, MakeSpace, PublishModel, PullModel, PushData
from rlhf.hub.space_upload import SpaceFinding
from rlhf.hub.token_launcher import PLACE
from rlhf.jobs import job_store
from rlhf.models import decision_store, registry
from rlhf.tabs.hub import hub_preview
from rlhf.tabs.hub import hub_tab as tab
from tests.conftest import BASE_NAME, act, seed_comparisons
from tests.handlers import asked_by

pytestmark = pytest.mark.slow

OWNER = gr.Request(username="owner")
HOSTILE = "<img src=x onerror='window.ran=1'>${window.ran=1}{{value}}"
SPACE = ["ann/loop", "cpu-upgrade", "", "", "ann/copies", "ann/chat", True]


@pytest.fixture
def context(db: Database, data_dir: Path) -> Context:
    """An admin and an annotator, a candidate with files and one without, where somebody has a token."""
    with db.transaction() as connection:
        for name, role in (("owner", "admin"), ("ann", "annotator")):
            connection.execute("INSERT INTO annotator (name, role, created) VALUES (?, ?, ?)", (name, role, now()))
    for revision in ("dpo-1", "dpo-2"):
        registry.add(
            db,
            revision=revision,
            algorithm="dpo",
            base=BASE_NAME,
            parent_id=1,
            job_id=None,
            path=f"adapters/{revision}",
            sha256="0" * 64,
        )
    decision_store.mark_deleted(db, registry.by_revision(db, "dpo-2"), "owner")
    return Context(db, data_dir, BASE_NAME, token_held=True)


def built(context: Context) -> gr.Blocks:
    """The tab, built as the app builds it."""
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Hub"):
        tab.build(demo, context)
    return demo


@pytest.fixture
def pages(context: Context) -> gr.Blocks:
    return built(context)


def press(pages: gr.Blocks, name: str, *inputs: Any) -> Any:
    """Call a registered function as Gradio calls it, for the owner."""
    function = next(block.fn for block in pages.fns.values() if block.api_name == f"hub-{name}")
    return function(*asked_by("owner", function), *inputs)


def recent(db: Database) -> list[Job[Any]]:
    """What was asked, the latest first."""
    return REQUESTS.recent(db, 20)


def end(db: Database, message: str, failed: bool = False, **result: Any) -> None:
    """What whoever has the token does with the next request."""
    job = REQUESTS.claim_next(db, "w")
    assert job is not None
    if failed:
        job_table.stop(db, job.id, "w", "failed", message)
    else:
        job_table.finish(db, job.id, "w", result, message)


def shown(context: Context, name: str) -> str:
    """A box of the tab."""
    return str(tab.view(context, {})[0][name]["value"])


def test_every_listener_is_for_admins_only_and_refuses_an_annotator(pages: gr.Blocks, context: Context) -> None:
    assert len(pages.fns) >= 8
    for block in pages.fns.values():
        assert getattr(block.fn, "required_role", None) == "admin"
        with pytest.raises(gr.Error, match="Only an admin"):
            block.fn(*asked_by("ann", block.fn), *(None for _ in block.inputs))
    assert recent(context.db) == []


def test_the_page_that_everyone_is_sent_holds_no_rows(context: Context) -> None:
    REQUESTS.enqueue(context.db, PullModel("secret/model"), "owner")
    demo = built(context)
    sent = str(demo.get_config_file())
    assert "secret" not in sent
    assert "dpo-1" not in sent


def test_each_form_asks_for_what_it_says_and_is_private_unless_told_otherwise(
    pages: gr.Blocks, context: Context
) -> None:
    press(pages, "token", {})
    press(pages, "publish", {}, "dpo-1", " ann/x ", None, "mit")
    press(pages, "pull", {}, "ann/x@main", "nf4")
    press(pages, "push", {}, "judgements", "ann/data", "sft", False, True, "")
    press(pages, "push", {}, "3", "ann/data", "sft", True, False, "")
    press(pages, "check", {}, *SPACE)
    assert [one.spec for one in reversed(recent(context.db))] == [
        CheckToken(),
        PublishModel("dpo-1", "ann/x", True, "mit"),
        PullModel("ann/x@main", "nf4"),
        PushData("ann/data", "sft", False, True),
        PushData("ann/data", "sft", run=3),
        CheckSpace("ann/loop", "cpu-upgrade", copies="ann/copies", public=True, model="ann/chat"),
    ]
    assert {one.requested_by for one in recent(context.db)} == {"owner"}
    with pytest.raises(gr.Error, match="has been asked already"):
        press(pages, "check", {}, *SPACE)
    with pytest.raises(gr.Error, match="Choose what to push from the list"):
        press(pages, "push", {}, "the frozen data", "ann/data", "sft", True, False, "")
    with pytest.raises(gr.Error, match="can't be the name of a repository"):
        press(pages, "publish", {}, "dpo-1", "x", True, "")


def test_the_page_asks_often_while_something_is_open_and_what_came_of_it_is_at_its_form(
    pages: gr.Blocks, context: Context
) -> None:
    *_, seen, pulse = press(pages, "pull", {}, "ann/x", "")
    assert float(pulse.split()[1]) == tab.POLL_SECONDS
    assert "Waits for its turn: Pull a model: ann/x" in shown(context, "said pull")
    end(context.db, f"{HOSTILE} was refused", failed=True)
    *sent, seen, pulse = press(pages, "follow", seen)
    assert float(pulse.split()[1]) == tab.RESTING_SECONDS
    changed = [part for part in sent if part != gr.skip()]
    assert len(changed) == 2, "the form and the list of what was asked"
    assert "&lt;img" in shown(context, "said pull")
    assert f"Requested by owner; it ended on {moment(recent(context.db)[0].finished)} UTC." in shown(
        context, "said pull"
    )
    assert "<img" not in str(sent)
    assert shown(context, "said push") == ""


def test_the_model_that_serves_is_chosen_to_be_published_else_the_newest_unless_somebody_has_chosen(
    pages: gr.Blocks, context: Context
) -> None:
    with gr.Blocks():
        place = list(tab.HubPage().parts).index("revision")

    def opened(model: str | None) -> Any:
        return press(pages, "open", model, *SPACE)[place].get("value", "as it was")

    newer = {"algorithm": "dpo", "base": BASE_NAME, "parent_id": 1, "job_id": None, "sha256": "0"}
    assert opened(None) == "dpo-1", "the base itself has no files here"
    registry.add(context.db, revision="dpo-3", path="adapters/dpo-3", **newer)
    assert opened(None) == "dpo-3"
    decision_store.promote(context.db, "dpo-1", "owner")
    assert opened("") == "dpo-1"
    assert opened("dpo-3") == "as it was"


def test_models_with_files_can_be_chosen_and_what_is_published_is_listed(context: Context) -> None:
    parts, _ = tab.view(context, {})
    assert parts["revision"]["choices"] == [("dpo-1 (DPO, candidate)", "dpo-1")]
    assert parts["published"]["value"] == parts["requests"]["value"] == "", "no heading of nothing"
    run = job_store.enqueue(context.db, SFTSpec(snapshot="a" * 64), "owner")
    assert tab.view(context, {})[0]["data"]["choices"] == [
        ("All judgements of a format", "judgements"),
        (f"The frozen data of run {run} (SFT, queued)", str(run)),
    ]
    model = registry.by_revision(context.db, "dpo-1")
    publications.record(context.db, "model", model.id, f"ann/{HOSTILE}", "dpo-1", "a" * 40, True, "owner")
    publications.record(context.db, "dataset", None, "ann/data", "", "b" * 40, False, "the command line")
    with translation.speaking(translation.chosen("de")):
        assert "<td>die Befehlszeile</td>" in shown(context, "published")
    card = shown(context, "published")
    assert "<td>dpo-1</td>" in card
    assert "<td>ann/data</td>" in card
    assert "<h2>Published from here</h2>" in card
    assert "<img" not in card
    assert "<a " not in card


def test_without_a_token_the_tab_says_how_to_get_one_and_asks_for_nothing(context: Context) -> None:
    without = replace(context, token_held=False)
    parts, _ = tab.view(without, {})
    for word in ("HF_TOKEN", "hf auth login", "where Prefloop is started", "Start Prefloop again"):
        assert word in parts["held"]["value"]
    assert parts["held"]["value"].count("<li>") == 3
    assert shown(context, "held") == ""
    for name in tab.NEED_TOKEN:
        assert not parts[name]["interactive"]
        assert tab.view(context, {})[0][name]["interactive"]
    with pytest.raises(gr.Error, match="Nobody has a token"):
        press(built(without), "token", {})
    assert recent(context.db) == []


def test_what_was_asked_before_waits_for_a_token_and_not_for_its_turn(context: Context) -> None:
    REQUESTS.enqueue(context.db, PullModel("ann/model"), "owner")
    assert "Waits for its turn" in tab.view(context, {})[0]["said pull"]["value"]
    said = tab.view(replace(context, token_held=False), {})[0]["said pull"]["value"]
    assert "Waits until Prefloop has a token" in said
    assert "its turn" not in said


def test_without_a_token_the_forms_show_what_they_would_do_and_ask_nobody(context: Context) -> None:
    directory = context.data_dir / "adapters" / "dpo-1"
    directory.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "training_args.bin", "optimizer.pt"):
        (directory / name).write_bytes(b"x" * 2000)
    pages = built(replace(context, token_held=False))
    said = press(pages, "look", "dpo-1", "ann/loop", True, "")
    for words in (
        "repository ann/loop, which is made as a private one",
        "adapter_model.safetensors",
        "2.0 kB",
        "README.md",
        "tag dpo-1",
    ):
        assert words in said
    assert "training_args" not in said
    assert "made as a public one if it is not there" in press(pages, "look", "dpo-1", "ann/loop", False, "")
    for wrong in (("dpo-1", HOSTILE), ("dpo-2", "ann/loop"), ("nothing", "ann/loop")):
        with pytest.raises(gr.Error):
            press(pages, "look", *wrong, True, "")
    data = ("ann/data", "preference", False, False, "")
    assert "Nothing would go to the dataset ann/data" in press(pages, "look-data", "judgements", *data)
    seed_comparisons(context.db, 3)
    ann = access.authorise(context.db, "ann", "annotator")
    for _judgement in range(3):
        claim = handing_out.claim_next(context.db, ann.id)
        assert claim is not None
        judging.judge(context.db, ann.id, claim.nonce, act("left-much"))
    said = press(pages, "look-data", "judgements", *data)
    assert "3 rows (3 for training) would go to the dataset ann/data, made as a public one" in said
    assert "Annotators have pseudonyms in it. Nothing was sent." in said
    spec = DPOSpec()
    frozen = snapshots.store_snapshot(context.db, context.data_dir, snapshots.data_of(context.db, spec))
    runs = [job_store.enqueue(context.db, replace(spec, snapshot=one), "owner") for one in (frozen, "a" * 64)]
    with patch.object(push_dataset, "snapshot_files", side_effect=AssertionError("all of it, in what serves people")):
        said = press(pages, "look-data", str(runs[0]), "ann/frozen", "preference", True, True, "")
    assert "3 rows (3 for training) would go to the dataset ann/frozen, made as a private one" in said
    assert "Annotators are named in it." in said
    with pytest.raises(gr.Error, match="The frozen data aaaaaaaaaaaa is gone"):
        press(pages, "look-data", str(runs[1]), *data)
    sent = "".join(str(part) for part in press(pages, "check", {}, *SPACE))
    for words in ("public Space ann/loop", "files of the program", "cpu-upgrade", "The Hub was not asked"):
        assert words in sent
    with pytest.raises(gr.Error, match="Check the Space"):
        press(pages, "make", {}, *SPACE, True)
    assert recent(context.db) == []
    copies = tab.copies_card(context.db, {})
    assert "PREFLOOP_COPIES=OWNER/NAME-copies" in copies
    assert "copied 5 min after a change, sooner after 10 judgements" in copies


def test_what_must_be_mended_comes_first_of_what_a_check_found_in_the_readers_language() -> None:
    found = [SpaceFinding("warning", "No copies."), SpaceFinding("note", "New."), SpaceFinding("error", "No model.")]
    shown = hub_preview.findings_table(found)
    places = [shown.index(words) for words in ("No model.", "No copies.", "New.")]
    assert places == sorted(places)
    with translation.speaking(translation.language_of("de")):
        german = hub_preview.findings_table(found)
    for chip in ('<span class="chip bad">Fehler', '<span class="chip open">Warnung', '<span class="chip">Hinweis'):
        assert chip in german


def test_a_space_is_asked_for_only_after_a_check_and_with_consent(pages: gr.Blocks, context: Context) -> None:
    with pytest.raises(gr.Error, match="Check the Space"):
        press(pages, "make", {}, *SPACE, True)
    press(pages, "check", {}, *SPACE)
    end(context.db, "1 error", findings=[["error", f"{HOSTILE} fails"]], errors=1, price=0.0, public=True, hardware="x")
    parts, _ = tab.view(context, {})
    assert not parts["make"]["interactive"]
    assert "<img" not in parts["said space"]["value"]
    with pytest.raises(gr.Error, match="Check the Space"):
        press(pages, "make", {}, *SPACE, True)
    press(pages, "check", {}, *SPACE)
    end(context.db, "Nothing would fail.", findings=[], errors=0, price=0.03, public=True, hardware="cpu-upgrade")
    agreed = tab.view(context, {})[0]["agreed"]
    assert agreed["visible"]
    assert agreed["value"] is False
    for words in ("ann/loop will be public", "cpu-upgrade costs $0.03 an hour"):
        assert words in agreed["label"]
    closed = {"public": False, "shuts_out": "PREFLOOP_ANNOTATORS"}
    told = replace(recent(context.db)[0], result={**recent(context.db)[0].result, **closed})
    assert "only its owner, or the members of its organisation, can open it, though PREFLOOP_ANN" in tab.agreement(told)
    with pytest.raises(gr.Error, match="Tick that you agree"):
        press(pages, "make", {}, *SPACE, False)
    with pytest.raises(gr.Error, match="Check it again first"):
        press(pages, "make", {}, *SPACE[:-1], False, True)
    press(pages, "make", {}, *SPACE, True)
    made = recent(context.db)[0].spec
    assert made == MakeSpace("ann/loop", "cpu-upgrade", copies="ann/copies", public=True, model="ann/chat", price=0.03)
    assert not tab.view(context, {})[0]["make"]["interactive"]
    assert press(pages, "open", None, "", *SPACE[1:])[-7:] == SPACE, "as it was checked last"
    assert press(pages, "open", None, "ann/other", *SPACE[1:])[-7:] == [gr.skip()] * 7


def test_how_safe_copies_stand(
    pages: gr.Blocks, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PLACE, raising=False)
    assert "No safe copies are made." in shown(context, "copies")
    place = DirectoryTarget(tmp_path / "bucket")
    monkeypatch.setenv(PLACE, place.name)
    assert "No copy has been begun yet" in shown(context, "copies")
    safe_copies.make_copy(context.db, context.data_dir, place, "a" * 32)
    assert "Last safe copy: a moment ago, 0 judgements since." in shown(context, "copies")
    row, _ = safe_copies.add_row(context.db, place.name, "a" * 32)
    safe_copies.record_failure(context.db, row, "failed", "The disk is full.")
    *_, seen, _ = press(pages, "open", None, *SPACE)[: -len(SPACE)]
    safe_copies.make_copy(context.db, context.data_dir, place, "a" * 32)
    *sent, _, _ = press(pages, "follow", seen)
    changed = [part for part in sent if part != gr.skip()]
    assert len(changed) == 1, "nothing else is redrawn"
    assert "failed" not in str(changed)
    setting_store.set_setting(context.db, copy_reasons.BEGINNING, f"{HOSTILE} was passed over.")
    assert "&lt;img" in shown(context, "copies"), "as earlier versions kept it"
    safe_copies.leave_notice(context.db, "A copy was passed over.")
    began = moment(safe_copies.noticed(context.db))
    assert f"When Prefloop started, on {began} UTC: A copy was passed over." in shown(context, "copies")
    safe_copies.leave_notice(context.db, "")
    assert "When Prefloop started" not in shown(context, "copies")
