"""The Project tab on a real database: what it stores, shows and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation import project
from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.records import Project, Tag, UserError, now
from annotation.store import comparison_store, project_store
from annotation.tabs import project as tab
from annotation.tabs.guard import Context
from annotation.web import access
from tests.conftest import BASE_NAME, act, dump, make_response, seed_comparisons, seed_prompts
from tests.frozen_in_memory import current_judgements

pytestmark = pytest.mark.slow

OWNER = gr.Request(username="owner")
HOSTILE = (
    "# Judge *with care*\n\n${window.ran = 1}\n\n`${window.ran = 1}` {{value}} \\` `\n\n\\${window.ran = 1}\n\n"
    "<img src=x onerror='window.ran = 1'><script>window.ran = 1</script><form action=/logout><button>Go</button></form>"
)


@pytest.fixture
def context(db: Database, data_dir: Path) -> Context:
    """Two admins and an annotator who can judge, one account shut out, and one that only names an import."""
    people = (("owner", "admin", 1, "person"), ("kim", "admin", 1, "person"), ("ann", "annotator", 1, "person"))
    others = (
        ("gone", "annotator", 0, "person"),
        ("import-1", "annotator", 0, "import"),
        ("judge", "annotator", 1, "ai"),
    )
    for name, role, active, kind in (*people, *others):
        db.insert("annotator", {"name": name, "role": role, "active": active, "kind": kind, "created": now()})
    return Context(db, data_dir, BASE_NAME)


@pytest.fixture
def pages(context: Context) -> gr.Blocks:
    """The tab, built as the app builds it."""
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Project"):
        tab.build(demo, context)
    return demo


class Admin:
    """An admin's open page: the fields, as the browser keeps them, and the buttons."""

    def __init__(self, pages: gr.Blocks, name: str = "owner") -> None:
        self.functions = {block.api_name: block.fn for block in pages.fns.values()}
        self.request = gr.Request(username=name)
        self.fields: dict[str, Any] = {**dict.fromkeys(tab.FIELDS), "text": ""}
        self.interactive = True
        self.sent: Any = {}
        self.counts = self.acts = ""

    def call(self, name: str, *inputs: Any) -> Any:
        return self.functions[name](self.request, *inputs)

    def take(self, names: list[str], updates: list[Any]) -> None:
        """What the browser does with updates of fields."""
        for name, update in zip(names, updates, strict=True):
            if isinstance(update, dict):
                self.fields[name] = update.get("value", self.fields[name])
                self.interactive = update.get("interactive", self.interactive)

    def open(self) -> list[Any]:
        """Select the tab; what is said of the guidelines comes back."""
        return self.fill("project-open")

    def fill(self, name: str) -> list[Any]:
        """Take what holds into the fields."""
        self.counts, self.acts, *updates, standing, versions, earlier, self.sent = self.call(
            name, self.sent, *self.fields.values()
        )
        self.take(list(self.fields), updates)
        return [standing, versions, earlier]

    def save(self) -> str:
        """Press "Save the project"; what is said."""
        values = [self.fields[name] for name in tab.FIELDS]
        self.counts, *updates, said, self.sent = self.call("project-save", self.sent, *values)
        self.take(list(tab.FIELDS), updates)
        assert self.fill("project-saved")[0] == gr.skip(), "what was said of guidelines is still to be read"
        return str(said)

    def write(self, text: str) -> list[Any]:
        """Save guidelines; what is said of them and shown."""
        self.fields["text"], *shown, self.sent = self.call("guidelines-save", self.sent, text)
        return shown


@pytest.fixture
def admin(pages: gr.Blocks) -> Admin:
    opened = Admin(pages)
    opened.open()
    return opened


# -------------------------------------------------------------------------------------------------------------- guard
def test_every_listener_is_for_admins_only(pages: gr.Blocks, context: Context) -> None:
    before = dump(context.db)
    assert len(pages.fns) == 8
    for block in pages.fns.values():
        assert block.fn.required_role == "admin"
        with pytest.raises(gr.Error, match="Only an admin"):
            block.fn(gr.Request(username="ann"), *(None for _ in block.inputs))
    assert dump(context.db) == before


def test_the_first_reasons_are_shown_in_the_admins_language_and_stored_as_they_began(
    pages: gr.Blocks, context: Context
) -> None:
    context.db.connection.execute("UPDATE annotator SET language = 'de' WHERE name = 'kim'")
    kim, first = Admin(pages, "kim"), project_store.project(context.db).tags
    kim.open()
    assert "folgt der Anweisung" in kim.fields["tags"]
    assert "follows" not in kim.fields["tags"]
    kim.fields["tags"] += "\nx: knapp"
    kim.save()
    assert project_store.project(context.db).tags == (*first, Tag("x", "knapp"))
    assert "folgt der Anweisung" in kim.fields["tags"]


def test_the_page_that_everyone_is_sent_holds_nothing_of_the_project(context: Context) -> None:
    project_store.set_project(context.db, Project(tags=(Tag("z", "zebra"),), gold_share=0.4321))
    project_store.write_guidelines(context.db, "Prefer the giraffe.", "owner")
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Project"):
        tab.build(demo, context)
    sent = str(demo.get_config_file())
    assert [word for word in ("zebra", "43.21", "giraffe", "by owner") if word in sent] == []


# ------------------------------------------------------------------------------------------------------------ the form
def test_opening_shows_what_holds_and_what_there_is(context: Context, pages: gr.Blocks) -> None:
    wanted = Project(
        kind="best",
        answers=4,
        overlap=2,
        claim_minutes=30,
        gold_share=0.125,
        re_ask_share=0.07,
        candidate_share=0.25,
        doubt_share=0.4,
        rendered=True,
        own_prompts=False,
        tags=(Tag("a", "accurate"), Tag("c", "clear")),
    )
    project_store.set_project(context.db, wanted)
    admin = Admin(pages)
    admin.open()
    assert admin.fields == {
        "kind": "best",
        "answers": 4,
        "overlap": 2,
        "claim_minutes": 30,
        "daily_target": 30,
        "gold_share": 12.5,
        "re_ask_share": 7.0,
        "candidate_share": 25.0,
        "doubt_share": 40.0,
        "rendered": "rendered",
        "own_prompts": False,
        "tags": "a: accurate\nc: clear",
        "text": "",
    }
    assert admin.interactive
    assert "3 can judge" in admin.counts


def test_what_was_opened_is_stored_unchanged(context: Context, admin: Admin) -> None:
    for share in (0.0, 0.05, 0.07, 0.29, 1 / 3):
        wanted = replace(project_store.project(context.db), gold_share=round(share, 8))
        project_store.set_project(context.db, wanted)
        admin.open()
        assert "Nothing was changed" in admin.save()
        assert project_store.project(context.db) == wanted


def test_an_empty_field_for_the_daily_target_means_none(context: Context, admin: Admin) -> None:
    admin.open()
    admin.fields["daily_target"] = None
    assert "Saved" in admin.save()
    assert project_store.project(context.db).daily_target == 0
    admin.open()
    assert admin.fields["daily_target"] is None
    admin.fields["daily_target"] = 12
    assert "Saved" in admin.save()
    assert project_store.project(context.db).daily_target == 12


def test_what_waits_for_people_is_counted_by_size_until_its_annotators_are_full(context: Context, admin: Admin) -> None:
    seed_comparisons(context.db, 3)
    (prompt,) = seed_prompts(context.db, 1)[-1:]
    comparison_store.add_comparison(context.db, [make_response(prompt, f"{letter} as such") for letter in "ABCD"], 4)
    admin.open()
    assert "waiting for people: 3 with 2 answers, 1 with 4 answers ·" in admin.counts
    for name in ("ann", "kim"):
        person = access.authorise(context.db, name, "annotator").id
        claim = handing_out.claim_next(context.db, person)
        assert claim is not None
        judging.judge(context.db, person, claim.nonce, act("tie"))
    admin.open()
    assert "waiting for people: 1 with 2 answers, 1 with 4 answers ·" in admin.counts
    admin.fields["overlap"] = 2
    admin.save()
    assert "waiting for people: 3 with 2 answers, 1 with 4 answers ·" in admin.counts


def test_a_saved_project_is_what_annotators_are_asked(context: Context, admin: Admin) -> None:
    (prompt,) = seed_prompts(context.db, 1)[-1:]
    comparison_store.add_comparison(context.db, [make_response(prompt, f"{letter} as such") for letter in "ABC"], 3)
    admin.fields |= {"kind": "best", "answers": 3, "claim_minutes": 7, "tags": "accurate\nx: exact"}
    assert "Saved" in admin.save()
    assert admin.fields["tags"] == "a: accurate\nx: exact"
    ann = access.authorise(context.db, "ann", "annotator").id
    claim = handing_out.claim_next(context.db, ann)
    assert claim is not None
    assert (claim.kind, len(claim.answers)) == ("best", 3)
    judging.judge(context.db, ann, claim.nonce, {"outcome": "ranked", "ranks": [2, 1, 2], "tags": ["exact"]})
    (judged,) = current_judgements(context.db)
    assert (judged.kind, judged.tags) == ("best", ("exact",))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"overlap": 4}, "4 are too many, because there are 3"),
        ({"kind": "rank", "answers": 9}, "Number of answers"),
        ({"gold_share": 60}, "from 0 to 50%, not 60%"),
        ({"gold_share": None}, "Gold comparisons, %"),
        ({"re_ask_share": 10**400}, "Re-asks, %"),
        ({"rendered": "Upside down"}, "First view"),
        ({"tags": "<b>a</b>: x"}, "Reasons, line 1"),
    ],
)
def test_a_refused_form_stores_nothing(context: Context, admin: Admin, changed: dict[str, Any], sentence: str) -> None:
    before = project_store.project(context.db)
    admin.fields |= changed
    with pytest.raises(gr.Error) as refusal:
        admin.save()
    assert sentence in str(refusal.value)
    assert project_store.project(context.db) == before


def test_the_number_of_answers_follows_the_kind(admin: Admin) -> None:
    assert (admin.fields["answers"], admin.interactive) == (2, False)
    assert admin.call("project-kind", "rank", 2) == gr.update(value=4, interactive=True)
    assert admin.call("project-kind", "best", 6) == gr.update(value=6, interactive=True)
    assert admin.call("project-kind", "pair", 6) == gr.update(value=2, interactive=False)


def test_a_draft_stays_when_the_tab_is_opened_again_and_the_rest_follows(context: Context, admin: Admin) -> None:
    admin.fields |= {"claim_minutes": 99, "text": "A draft."}
    project_store.set_project(context.db, replace(project_store.project(context.db), overlap=3, claim_minutes=5))
    admin.open()
    assert (admin.fields["claim_minutes"], admin.fields["overlap"], admin.fields["text"]) == (99, 3, "A draft.")
    assert "Not saved" in admin.save(), "it would put back what somebody else has saved"
    admin.save()
    assert (project_store.project(context.db).claim_minutes, project_store.project(context.db).overlap) == (99, 3)
    project_store.set_project(context.db, replace(project_store.project(context.db), claim_minutes=6))
    admin.open()
    assert admin.fields["claim_minutes"] == 6


def test_what_another_admin_saved_meanwhile_is_not_put_back(context: Context, pages: gr.Blocks) -> None:
    owner, kim = Admin(pages), Admin(pages, "kim")
    owner.open()
    kim.open()
    kim.fields |= {"overlap": 2, "claim_minutes": 11}
    kim.save()
    owner.fields["gold_share"] = 20
    said = owner.save()
    assert "Saved." in said
    assert "stays: Annotators for each comparison, Minutes to judge." in said
    now_asked = project_store.project(context.db)
    assert (now_asked.overlap, now_asked.claim_minutes, now_asked.gold_share) == (2, 11, 0.2)
    assert owner.fields["overlap"] == 2
    assert "meanwhile" not in owner.save()


def test_what_two_admins_change_is_asked_about_before_it_is_lost(context: Context, pages: gr.Blocks) -> None:
    owner, kim = Admin(pages), Admin(pages, "kim")
    owner.open()
    kim.open()
    kim.fields["tags"] = "k: kind"
    kim.save()
    owner.fields |= {"tags": "t: true", "overlap": 3}
    assert "Not saved: somebody has changed this meanwhile (Reasons that" in owner.save()
    assert (project_store.project(context.db).tags, project_store.project(context.db).overlap) == (
        (Tag("k", "kind"),),
        1,
    )
    assert owner.fields["tags"] == "t: true"
    assert "Saved." in owner.save()
    assert (project_store.project(context.db).tags, project_store.project(context.db).overlap) == (
        (Tag("t", "true"),),
        3,
    )


# ---------------------------------------------------------------------------------------------------------- guidelines
def test_guidelines_that_another_wrote_meanwhile_are_said_before_they_are_replaced(
    context: Context, pages: gr.Blocks
) -> None:
    owner, kim = Admin(pages), Admin(pages, "kim")
    owner.open()
    kim.open()
    kim.write("Kim's.")
    owner.fields["text"] = "Mine."
    functions = owner.functions["guidelines-save"]
    text, said, versions, _earlier, _preview, owner.sent = functions(owner.request, owner.sent, "Mine.")
    assert text == gr.skip()
    assert "Not saved. Version 1 of" in said
    assert [number for _, number in versions["choices"]] == [1]
    assert project_store.guidelines(context.db).text == "Kim's."
    standing, *_ = owner.write("Mine.")
    assert "Version 2 of" in standing


def test_guidelines_without_a_text_are_not_said_to_hold(admin: Admin) -> None:
    admin.write("Be fair.")
    standing, *_ = admin.write("")
    assert "has no text: annotators see no guidelines" in standing


def test_guidelines_are_versioned_and_every_version_stays_readable(context: Context, pages: gr.Blocks) -> None:
    owner, kim = Admin(pages), Admin(pages, "kim")
    standing, versions, earlier = owner.open()
    assert ("no guidelines yet" in standing, versions["choices"], earlier) == (True, [], "")
    owner.write("Be *fair*.")
    standing, versions, earlier, preview = kim.write("  Be **kind**.\r\n")
    assert "Version 2 of " in standing
    assert "by kim" in standing
    assert [number for _, number in versions["choices"]] == [2, 1]
    assert (versions["value"], earlier, kim.fields["text"]) == (2, "Be **kind**.", "Be **kind**.")
    assert "<strong>kind</strong>" in preview
    assert owner.call("guidelines-version", 1) == owner.call("guidelines-edit", 1) == "Be *fair*."
    assert owner.call("guidelines-version", "no such") == "Be **kind**."
    assert owner.call("guidelines-edit", "no such") == gr.skip(), "what is being written stays"
    owner.open()
    assert owner.fields["text"] == "Be **kind**."


def test_the_first_guidelines_stand_in_the_admins_language_and_saving_them_unchanged_adds_no_version(
    context: Context, pages: gr.Blocks
) -> None:
    project_store.write_guidelines(context.db, project.FIRST_GUIDELINES, "Prefloop")
    access.set_language(context.db, "kim", "de")
    kim, owner = Admin(pages, "kim"), Admin(pages)
    _standing, _versions, earlier = kim.open()
    german = kim.fields["text"]
    assert german.startswith("- Lies den Prompt")
    assert earlier == kim.call("guidelines-version", 1) == german
    kim.write(german)
    assert project_store.guidelines(context.db).text == project.FIRST_GUIDELINES
    mended = f"{german}\n- Sei freundlich."
    kim.write(mended)
    assert project_store.guidelines(context.db).text == mended
    owner.open()
    assert owner.fields["text"] == mended
    assert owner.call("guidelines-version", 1) == project.FIRST_GUIDELINES


def test_the_first_guidelines_follow_what_is_asked_and_what_somebody_wrote_stays(
    context: Context, pages: gr.Blocks
) -> None:
    project_store.write_guidelines(context.db, project.FIRST_GUIDELINES, "Prefloop")
    owner, kim = Admin(pages), Admin(pages, "kim")
    owner.open()
    kim.open()
    assert "Both bad" in owner.fields["text"]
    owner.fields |= {"kind": "best", "answers": 4}
    owner.save()
    assert "Choose the best answer" in owner.fields["text"]
    standing, *_ = owner.write(owner.fields["text"])
    assert "no version was added" in standing
    standing, *_ = kim.write(kim.fields["text"])
    assert "no version was added" in standing
    assert "Choose the best answer" in kim.fields["text"]
    kim.write("- Both bad: neither can be used.")
    owner.fields["kind"] = "rank"
    owner.save()
    assert owner.fields["text"] == "- Both bad: neither can be used."


def test_what_is_written_while_the_project_is_saved_stays(context: Context, pages: gr.Blocks) -> None:
    project_store.write_guidelines(context.db, "Be fair.", "owner")
    owner = Admin(pages)
    owner.open()
    owner.fields["kind"] = "rank"
    owner.fields["answers"] = 4
    values = [owner.fields[name] for name in tab.FIELDS]
    owner.counts, *updates, _said, owner.sent = owner.call("project-save", owner.sent, *values)
    owner.take(list(tab.FIELDS), updates)
    asked = [owner.sent, *owner.fields.values()]
    owner.fields["text"] = "Be fair and quick."
    owner.counts, owner.acts, *updates, _standing, _versions, _earlier, owner.sent = owner.call("project-saved", *asked)
    owner.take(list(owner.fields), updates)
    assert owner.fields["text"] == "Be fair and quick."
    owner.write(owner.fields["text"])
    assert project_store.guidelines(context.db).text == "Be fair and quick."


def test_whether_the_number_of_answers_can_be_chosen_follows_what_somebody_else_asks(
    context: Context, pages: gr.Blocks
) -> None:
    owner = Admin(pages)
    owner.open()
    assert not owner.interactive
    project_store.set_project(context.db, replace(project_store.project(context.db), kind="rank", answers=2))
    owner.open()
    assert (owner.fields["kind"], owner.fields["answers"], owner.interactive) == ("rank", 2, True)


def test_the_same_text_is_no_new_version(context: Context, admin: Admin) -> None:
    admin.write("Be fair.")
    standing, *_ = admin.write("Be fair. ")
    assert "no version was added" in standing
    assert project_store.guidelines(context.db).version == 1


def test_a_judgement_names_the_version_that_held_when_it_was_handed_out(context: Context, admin: Admin) -> None:
    seed_comparisons(context.db, 2)
    ann = access.authorise(context.db, "ann", "annotator").id
    for text in ("First.", "Second."):
        admin.write(text)
        claim = handing_out.claim_next(context.db, ann)
        assert claim is not None
        judging.judge(context.db, ann, claim.nonce, act("tie"))
    assert [judged.guidelines_version for judged in current_judgements(context.db)] == [1, 2]


@pytest.mark.parametrize("text", ["x" * 20_001, "null \x00", "half \ud800", None])
def test_guidelines_that_cannot_be_kept_are_refused(context: Context, admin: Admin, text: Any) -> None:
    for button in ("guidelines-save", "guidelines-preview"):
        with pytest.raises(gr.Error, match="uidelines"):
            admin.call(button, *([admin.sent] if button == "guidelines-save" else []), text)
    assert project_store.guidelines(context.db).version == 0


def test_the_preview_writes_nothing_and_escapes(context: Context, admin: Admin) -> None:
    shown = admin.call("guidelines-preview", HOSTILE)
    for opening in ("<script", "<img", "<form"):
        assert opening not in shown
    assert "<em>with care</em>" in shown
    assert project_store.guidelines(context.db).version == 0
    assert "no text yet" in admin.call("guidelines-preview", " ")


def test_forms_of_a_project_are_read_back(context: Context) -> None:
    for asked in (
        Project(),
        Project(
            kind="rank",
            answers=8,
            overlap=3,
            claim_minutes=1440,
            gold_share=0.5,
            re_ask_share=0.0,
            candidate_share=0.5,
            rendered=True,
            own_prompts=False,
            tags=(),
        ),
    ):
        assert tab.project_of(tab.form_of(asked), 3) == asked
    with pytest.raises(UserError, match="First view"):
        tab.project_of({**tab.form_of(Project()), "rendered": ["x"]}, 3)
