"""Each person in their own language: what an account has chosen, else what the browser asks for, else the server's."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import gradio as gr
import httpx
import pytest

from annotation import translation
from annotation.copies import safe_copies
from annotation.database import Database
from annotation.jobs import job_table
from annotation.jobs.lane_runner import JobOutcome, LaneRunner
from annotation.records import UserError, now
from annotation.tabs import accounts, annotate
from annotation.tabs.guard import Context, guarded
from annotation.translation import N_, Language, _, language_of, of_server, spoken
from annotation.web import access, invitations, languages
from annotation.web.deferred_app import AppOfEachLanguage
from annotation.web.languages import preferred
from annotation.web.middleware import SECURITY_HEADERS
from annotation.web.settings import Settings
from annotation.web.watches import Watches
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs import job_store
from rlhf.models import decision_store, registry
from rlhf.tabs.jobs import job_cards
from rlhf.tabs.pages import language_option
from rlhf.web_server import guarded_app
from tests.annotation.jobs.test_lane_runner import WEB, Count
from tests.annotation.web.conftest import PASSWORD, Program
from tests.conftest import seed_comparisons
from tests.sentences import write_marked

GERMAN = {"accept-language": "de-AT,de;q=0.9,en;q=0.5"}
BROWSER = {"accept": "text/html"}
GOOD = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\nmsgid "Name"\nmsgstr "Nom"\n'
STARTING = N_("Prefloop gets its pages ready. They open here by themselves in a few seconds.")


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Language]:
    """In place of German a language in which every sentence stands in brackets, so that no translator is asked."""
    write_marked(tmp_path / "de.po")
    monkeypatch.setattr(translation, "DIRECTORY", tmp_path)
    monkeypatch.setattr(translation, "READ", {})
    translation.files.cache_clear()
    translation.codes.cache_clear()
    yield language_of("de")
    translation.files.cache_clear()
    translation.codes.cache_clear()


@pytest.fixture
def doors(db: Database, data_dir: Path) -> Callable[[str | None], httpx.AsyncClient]:
    """Browsers of people and of strangers at the program without its pages."""
    settings = Settings(data_dir=data_dir, workers=False)
    no_pages = AppOfEachLanguage(Mock(side_effect=AssertionError("no page is asked for")))
    asgi = guarded_app(db, settings, no_pages, Watches(db), None)  # type: ignore[arg-type]  # Starlette's own

    def browser(name: str | None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(asgi, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        if name is not None:
            token = access.open_session(db, access.authorise(db, name, "annotator"))
            client.cookies.set(settings.cookie, token)
        return client

    return browser


def test_what_fails_while_a_language_is_looked_for_has_the_security_headers(
    doors: Callable[[str | None], httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(languages, "preferred", Mock(side_effect=RuntimeError("odd")))

    async def ask() -> httpx.Response:
        async with doors(None) as stranger:
            return await stranger.get("/login")

    answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


@pytest.mark.parametrize(("page", "leads"), [("data?status=skipped", "?next=%2Fdata%3Fstatus%3Dskipped"), ("", "")])
def test_whose_session_has_ended_signs_in_and_comes_back_to_the_page(
    doors: Callable[[str | None], httpx.AsyncClient], page: str, leads: str
) -> None:
    async def choose() -> tuple[httpx.Response, httpx.Response]:
        async with doors(None) as stranger:
            form, here = {"language": "de"}, {"referer": f"http://localhost/{page}"}
            said = await stranger.post("/language", data=form, headers=BROWSER | here)
            return said, await stranger.post("/annotate/card", json={})

    chosen, asked = asyncio.run(choose())
    assert (chosen.status_code, chosen.headers.get("location")) == (303, f"/login{leads}")
    assert (asked.status_code, asked.json()) == (401, {"error": "Sign in first."})


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("de", "de"),
        ("de-AT", "de"),
        ("fr-FR, fr;q=0.9, de;q=0.7, en;q=0.8", "en"),
        ("en;q=0.3, DE ; q=0.4", "de"),
        ("de;q=0, en", "en"),
        ("de;q=x, en;q=0.1", "en"),
        ("fr, *;q=0.5", None),
        ("", None),
        ("xx," * 30 + "de", None),
    ],
)
def test_a_browser_is_answered_in_the_best_of_what_it_accepts(accepted: str, expected: str | None) -> None:
    assert preferred(accepted) == expected


def test_a_language_that_can_not_be_read_is_the_servers(
    marked: Language, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "xx.po").write_text('msgid "Open\n', "utf-8")
    translation.files.cache_clear()
    for _time in range(2):
        assert language_of("xx") is of_server()
    assert language_of("gone") is of_server()
    assert [record.message for record in caplog.records if "xx.po" in record.message][1:] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text('msgid ""\nmsgstr "Plural-Forms: nplurals=x; plural=(n\\n"\n', "utf-8"),
        lambda path: path.write_text('msgid ""\nmsgstr "Plural-Forms: nplurals=2; plural=n%0;\\n"\n', "utf-8"),
        lambda path: path.write_text('msgid ""\nmsgstr "PO-Revision-Date: some day\\n"\n', "utf-8"),
        lambda path: path.write_text('msgid ""\nmsgstr "Content-Type: text/plain; charset=nonsense\\n"\n', "utf-8"),
        lambda path: path.write_bytes(b'msgid "a"\nmsgstr "\xff"\n'),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.unlink(),
    ],
    ids=["plural", "no-number", "date", "charset", "bytes", "directory", "vanished"],
)
def test_whatever_is_wrong_with_a_file_is_logged_once_and_mended_without_a_new_start(
    marked: Language,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object],
) -> None:
    path = tmp_path / "fr.po"
    path.write_text(GOOD, "utf-8")
    translation.files.cache_clear()
    translation.codes.cache_clear()
    assert "fr" in translation.codes()
    shutil.copy(path, tmp_path / "kept")
    spoil(path)
    read = Mock(wraps=translation.read)
    monkeypatch.setattr(translation, "read", read)
    for _time in range(3):
        assert language_of("fr") is of_server()
        assert translation.at_hand("fr")
    assert [record.message for record in caplog.records if "fr.po" in record.message][1:] == []
    assert ("fr", "fr") in accounts.languages()
    assert len(caplog.records) == read.call_count == 1
    if path.is_dir():
        path.rmdir()
    os.replace(tmp_path / "kept", path)
    assert not translation.at_hand("fr")
    assert language_of("fr").code == "fr"


def test_a_language_has_the_code_of_its_files_name_whatever_stands_in_it(
    db: Database, marked: Language, tmp_path: Path
) -> None:
    for name, said in (("sv", "de"), ("zh_TW", "zh_TW"), ("ar-EG", "ar"), ("my notes", "de"), ("en", "en")):
        head = f'msgid ""\nmsgstr "Language: {said}\\nContent-Type: text/plain; charset=utf-8\\n"\n'
        (tmp_path / f"{name}.po").write_text(f'{head}\nmsgid "Name"\nmsgstr "{name}"\n', "utf-8")
    translation.files.cache_clear()
    translation.codes.cache_clear()
    assert translation.codes() == ("ar-EG", "de", "en", "sv", "zh-TW")
    read = [language_of(code) for code in translation.codes()]
    assert tuple(one.code for one in read) == translation.codes()
    assert [one.name for one in read if one.code in ("sv", "en")] == ["English", "svenska"]
    assert [one.direction for one in read] == ["rtl", "ltr", "ltr", "ltr", "ltr"]
    taiwan = read[-1]
    access.add_account(db, "kim", "admin", PASSWORD)
    access.set_language(db, "kim", "zh-TW")
    with translation.speaking(taiwan):
        assert 'lang="zh-TW" selected' in language_option("zh-TW")
    assert accounts.choose_account(db, "kim")[2].value == "zh-TW"
    apps = AppOfEachLanguage(Mock())
    apps.others["zh-TW"] = apps.own
    apps.do_without(taiwan, apps.own)
    assert (language_of("zh-TW"), apps.others) == (of_server(), {})


def test_what_a_thread_says_it_says_in_the_language_of_who_has_it_done(marked: Language) -> None:
    async def say() -> tuple[str, str]:
        with translation.speaking(marked):
            return await asyncio.to_thread(_, "Name"), translation.ngettext("{count} day", "{count} days", 2)

    assert asyncio.run(say())[0] == "⟦Name⟧"
    assert _("Name") == "Name"


def test_an_account_keeps_the_language_that_its_first_browser_asks_for(
    db: Database, marked: Language, doors: Callable[[str | None], httpx.AsyncClient]
) -> None:
    """Also the server's own: a second browser changes nothing, and neither does one without any of our languages."""
    token = invitations.invite(db, {"uses": 1}, "kim").partition("=")[2]
    for name in ("bob", "kim", "lee"):
        access.add_account(db, name, "annotator", PASSWORD)
    access.set_language(db, "lee", "en")

    async def sign_in(name: str, accepted: str, path: str = "/login") -> int:
        async with doors(None) as browser:
            form = {"name": name, "password": PASSWORD, "token": token}
            return (await browser.post(path, data=form, headers=BROWSER | {"accept-language": accepted})).status_code

    async def everybody() -> list[int]:
        return [
            await sign_in("ann", "de-AT", "/join"),
            *[await sign_in(name, "fr") for name in ("bob", "kim")],
            await sign_in("bob", "en"),
            *[await sign_in(name, "de, en;q=0.5") for name in ("bob", "kim", "lee")],
            await sign_in("kim", "en"),
        ]

    assert asyncio.run(everybody()) == [303] * 8
    kept = {one.name: one.language for one in access.accounts(db)}
    assert kept == {"ann": "de", "bob": "en", "kim": "de", "lee": "en"}


def test_a_language_that_there_is_not_is_refused_in_a_sentence(db: Database) -> None:
    access.add_account(db, "ann", "annotator", PASSWORD)
    for code in ("xx", "", "../de", "de.po"):
        with pytest.raises(UserError, match=r"There is no language.*Choose one of: de, en"):
            access.set_language(db, "ann", code)
    access.set_language(db, "ann", "de")
    assert access.authorise(db, "ann", "annotator").language == "de"


@pytest.mark.slow
def test_two_people_read_one_server_in_two_languages(program: Program, marked: Language) -> None:
    seed_comparisons(program.db, 2)
    pages = program.asgi.routes[-1].app  # type: ignore[attr-defined]

    async def read() -> None:
        async with program.client(None) as stranger, program.client("lee") as lee, program.client("kim") as kim:
            # Before anybody has signed in.
            assert "<h1>Prefloop</h1>" in (await stranger.get("/login")).text
            german = (await stranger.get("/login", headers=GERMAN)).text
            assert '<html lang="de" dir="ltr">' in german
            assert "⟦Sign in⟧" in german
            assert (await stranger.post("/annotate/card", json={}, headers=GERMAN)).json() == {
                "error": "⟦Sign in first.⟧"
            }
            # A choice, which leads back to the page that it was made on.
            refused = await lee.post("/language", data={"language": "xx"})
            assert (refused.status_code, "There is no language" in refused.text) == (400, True)
            chosen = await lee.post(
                "/language", data={"language": "de"}, headers={"referer": "http://localhost/data?status=skipped"}
            )
            assert (chosen.status_code, chosen.headers["location"]) == (303, "/data?status=skipped")
            foreign = await lee.post("/language", data={"language": "de"}, headers={"referer": "http://x.y//evil.test"})
            assert foreign.headers["location"] == "/"
            # Endpoints, in the language of the account whatever the browser says.
            undone = await lee.post("/annotate/undo", json={})
            assert undone.json()["notice"].startswith("⟦")
            assert undone.headers["content-language"] == "de"
            other = await kim.post("/annotate/undo", json={}, headers=GERMAN)
            assert not other.json()["notice"].startswith("⟦")
            assert other.headers["content-language"] == "en"
            # Pages, which the first who asks for them has built.
            waiting = await lee.get("/runs/7", headers=BROWSER)
            assert (waiting.status_code, f"⟦{STARTING}⟧" in waiting.text) == (503, True)
            configs = [(await client.get("/config")).json() for client in (lee, kim)]
            labels = [[one["props"].get("label") for one in config["components"]] for config in configs]
            assert len(labels[0]) == len(labels[1])
            assert [label for label in labels[1] if label and "⟦" in label] == []
            assert sum("⟦" in (label or "") for label in labels[0]) > 100
            page = (await lee.get("/runs/7", headers=BROWSER)).text
            assert '<html lang="de" dir="ltr"' in page
            # Events, whose handlers Gradio calls somewhere else.
            for client, says in ((lee, "lee · ⟦admin⟧"), (kim, "kim · admin")):
                greeted = await client.post(
                    "/gradio_api/run/greet", json={"data": [], "fn_index": 0, "session_hash": says[:3]}
                )
                assert greeted.json()["data"] == [says]
            await pages.others["de"].stop()

    asyncio.run(read())
    access.set_language(program.db, "lee", None)
    assert spoken() is of_server()


def test_an_admin_chooses_for_others(db: Database, marked: Language) -> None:
    access.add_account(db, "kim", "admin", PASSWORD)
    access.add_account(db, "ann", "annotator", PASSWORD)
    shown = accounts.change_language(db, "ann", "de")
    assert "ann sees the page in Deutsch." in shown[2]
    assert accounts.choose_account(db, "ann")[2].value == "de"
    assert "sees the page in English." in accounts.change_language(db, "ann", "")[2]
    assert [one.language for one in access.accounts(db)] == [None, None]


def test_what_a_handler_makes_stays_out_of_a_page_that_is_laid_out_meanwhile(db: Database, data_dir: Path) -> None:
    access.add_account(db, "kim", "admin", PASSWORD)
    answer = guarded(Context(db, data_dir, ""), "admin")(lambda: gr.Dropdown(["one"], label=_("Name")))
    with gr.Blocks() as page:
        laid_out = gr.Markdown("words")
        made = answer(gr.Request(username="kim"))
    assert made.label == "Name"
    assert [*page.blocks.values()] == [laid_out]


def test_the_script_of_the_annotate_tab_is_told_the_language_that_it_writes_numbers_in(
    db: Database, data_dir: Path
) -> None:
    """The page's html element is no help: Gradio writes the browser's language there."""
    for code in ("de", "en"):
        with translation.speaking(language_of(code)), gr.Blocks() as page:
            annotate.build(page, Context(db, data_dir, ""))
        (card,) = page.blocks.values()
        assert isinstance(card, gr.HTML)
        assert card.props["language"] == code


def test_what_a_worker_says_is_read_in_the_language_of_each(db: Database, data_dir: Path, marked: Language) -> None:
    """A server's language is that of its workers."""
    policy = registry.serving(db)
    with translation.speaking(marked):
        error = UserError(_("There is nothing to judge."))
        perform = Mock(side_effect=[JobOutcome(_("Name"), {"found": [["error", _("Name")]]}), error])
        runner, jobs = LaneRunner(data_dir, WEB, perform), [WEB.enqueue(db, Count(), "ann") for _job in range(2)]
        assert [runner.run_next(db) for _job in jobs] == [True, True]
        job_table.log(db, jobs[0], str(error))
        decision_store.record_decision(db, policy.id, policy.id, "reject", "ann", str(error))
        row = safe_copies.add_row(db, "place", "run")[0]
        safe_copies.record_failure(db, row, "failed", str(error))
        safe_copies.leave_notice(db, str(error))
        assert WEB.get(db, jobs[0]).message == "⟦Name⟧"
    done = [WEB.get(db, job) for job in jobs]
    assert [one.message for one in done] == ["Name", "There is nothing to judge."]
    assert done[0].result == {"found": [["error", "Name"]]}
    assert job_store.log_tail(db, jobs[0])[0].endswith("  There is nothing to judge.")
    assert decision_store.decisions(db)[0].reason == "There is nothing to judge."
    assert safe_copies.last_failure(db, "place") == safe_copies.start_notice(db) == "There is nothing to judge."


def test_what_everybody_reads_is_kept_in_the_servers_language(db: Database, data_dir: Path, marked: Language) -> None:
    access.add_account(db, "ann", "annotator", PASSWORD)
    access.set_language(db, "ann", "de")
    told = LaneRunner(data_dir, WEB, lambda attempt, job: JobOutcome(_("Name")))
    job = WEB.enqueue(db, Count(), "ann")
    assert told.run_next(db)
    assert WEB.get(db, job).message == "Name"
    waiting, wild = job_store.enqueue(db, SFTSpec(), "ann"), job_store.enqueue(db, SFTSpec(learning_rate=0.1), "ann")
    job_store.claim(db, wild, "w")
    job_table.stop(db, wild, "w", "failed", "", "not-a-number")
    with translation.speaking(marked):
        assert job_store.take_out(db, waiting)
        assert job_store.resume(db, wild).startswith("⟦Queued again")
        assert "⟦It had not begun.⟧" in job_cards.headline(job_store.get(db, waiting), now())
    assert job_store.get(db, waiting).message == "It had not begun."
    kept = job_store.get(db, wild).message
    assert kept.startswith("Queued again")
    assert job_store.retries(db, wild) == [kept]
