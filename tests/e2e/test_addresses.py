"""Addresses in a real browser: tabs and what is looked at have one, through reload, Back, links and a sign-in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database, open_database
from annotation.jobs import job_table
from annotation.web import access
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.models import registry
from tests.conftest import BASE_NAME, seed_comparisons
from tests.e2e.conftest import go, routed, running_app, sign_in, wait_for
from tests.rlhf.evaluation.test_decisions import SOUND

pytestmark = pytest.mark.browser
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, str]]:
    """The program with an admin, an annotator, two runs that are over, and comparisons to judge."""
    data_dir: Path = tmp_path_factory.mktemp("addresses") / "data"
    db = open_database(data_dir)
    registry.ensure_base(db, BASE_NAME)
    access.add_account(db, "kim", "admin", PASSWORD)
    access.add_account(db, "ann", "annotator", PASSWORD)
    for _ in range(2):
        job_id = job_store.enqueue(db, SFTSpec(snapshot="0" * 64), "kim")
        assert job_store.claim(db, job_id, "w") is not None
        assert job_table.finish(db, job_id, "w", {})
    seed_comparisons(db, 2)
    with running_app(data_dir, "--no-workers") as (address, _):
        yield db, address
    db.close()


@pytest.fixture
def address(served: tuple[Database, str]) -> str:
    """Where the program is."""
    return served[1]


@pytest.fixture(scope="module")
def page(served: tuple[Database, str], browser: Any) -> Iterator[Any]:
    """An admin's page, which one test goes on with after the other: each leads to its first address."""
    db, address = served
    context = browser.new_context()
    sign_in(context, db, address)
    opened = context.new_page()
    opened.goto(f"{address}runs/2")
    opened.get_by_text("Job 2, ").first.wait_for()
    yield opened
    context.close()


def selected(page: Any) -> str:
    """The tab in view."""
    return str(page.locator("#pages [role=tab][aria-selected=true]").first.inner_text())


def unanswered(page: Any) -> set[Any]:
    """The page's questions to Gradio, from now on, that have no answer yet."""
    waiting: set[Any] = set()
    page.on("request", lambda asked: waiting.add(asked) if "/gradio_api/run/" in asked.url else None)
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda asked: waiting.discard(asked))
    return waiting


def asked_for(part: str) -> Callable[[Any], bool]:
    """Answers to a visit of what an address names by this part."""
    return lambda answer: part in (answer.request.post_data or "").replace("\\", "")


def test_a_copied_link_leads_through_the_sign_in_and_back_leads_back(address: str, browser: Any) -> None:
    from playwright.sync_api import expect

    page = browser.new_context().new_page()
    page.goto(f"{address}runs/1?compare=1,2")
    assert re.search(r"/login\?next=%2Fruns%2F1%3Fcompare", page.url)
    page.fill("input[name=name]", "kim")
    page.fill("input[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_text("kim · ").wait_for()
    expect(page).to_have_url(f"{address}runs/1?compare=1,2")
    page.get_by_text("Job 1, ").first.wait_for()
    assert selected(page) == "Runs"
    expect(page).to_have_title("1 · Runs · Prefloop")
    page.get_by_role("tab", name="Train", exact=True).click()
    expect(page).to_have_title("Train · Prefloop")
    page.get_by_role("tab", name="Reward model", exact=True).click()
    expect(page).to_have_url(f"{address}train/reward_model")
    page.go_back()
    expect(page).to_have_url(f"{address}train")
    with page.expect_response(asked_for("compare=1,2")):  # a moment later its answer empties the search
        page.go_back()
    expect(page).to_have_url(f"{address}runs/1?compare=1,2")
    assert selected(page) == "Runs"
    page.get_by_role("button", name="All runs").click()
    box, waiting = page.locator("#run-search textarea, #run-search input").first, unanswered(page)

    def found_nothing() -> bool:
        """Searched, by the words that stand there, and nothing is asked any more that could change it."""
        if box.input_value() != "nothing like it":
            box.fill("nothing like it")
            box.press("Enter")
        return bool(page.get_by_text("No run has these words.").is_visible()) and not waiting

    wait_for(page, "that the runs are searched", found_nothing)
    expect(page).to_have_url(re.compile(r"[?&]q=nothing\+like\+it"))
    page.go_back()
    expect(page).to_have_url(f"{address}runs/1?compare=1,2")
    page.set_viewport_size({"width": 1280, "height": 400})
    page.locator("a[href^='/runs/2']").first.click()
    page.get_by_text("Job 2, ").first.wait_for()
    # Long lists end far above the run.
    wait_for(page, "that the run is in view", lambda: page.locator("#run-job").bounding_box()["y"] < 200)
    expect(page).to_have_url(f"{address}runs/2")
    page.reload()
    page.get_by_text("Job 2, ").first.wait_for()
    assert selected(page) == "Runs"
    page.context.close()


# As it may stand in what a person wrote; followed by a click.
LINK = """(to) => {
  const link = document.createElement("a");
  link.href = to;
  document.body.append(link);
  link.click();
}"""


def test_what_an_address_names_is_unfolded_or_said_not_to_be_there(running: Any, browser: Any) -> None:
    from playwright.sync_api import expect

    db, address = running
    context = browser.new_context()
    sign_in(context, db, address)
    page = context.new_page()
    page.goto(f"{address}data/export?annotators=kim")
    page.locator("#export-since").wait_for()
    for link, said in (
        ("/runs/99", "There is no job 99."),
        ("/runs?compare=998,999", "There is no training 998, 999 to compare."),
        ("/judges/nobody", "There is no judge nobody."),
        ("/iterations/nope", "There is no policy nope;"),
        ("/data/comparisons/99999", "There is no comparison 99999."),
        ("/playground?models=nope", "There is no model 'nope'."),
        ("/hub/nowhere", "There is nothing at this address."),
    ):
        page.evaluate(LINK, link)
        page.get_by_text(said).locator("visible=true").first.wait_for()
    job_store.cancel(db, job_store.enqueue(db, SFTSpec(snapshot="0" * 64), "kim"))
    page.goto(f"{address}runs?q=nothing+like+it")
    expect(page.locator("#run-search textarea, #run-search input")).to_have_value("nothing like it")
    page.locator("#run-search").wait_for()
    context.close()


def test_the_answer_to_an_earlier_visit_leads_nobody_back(served: tuple[Database, str], browser: Any) -> None:
    """It comes when the page has long asked for the next place, and is drawn."""
    from playwright.sync_api import expect

    db, address = served
    context = browser.new_context(clock=True)
    sign_in(context, db, address)
    page = context.new_page()
    page.goto(f"{address}runs")
    page.get_by_text("Job 2, ").first.wait_for()
    visits, waiting = [asked_for('"/1"'), asked_for('"/2"')], []

    def hold(route: Any) -> None:
        if any(asked(route) for asked in visits):
            waiting.append(route)
        else:
            route.continue_()

    with routed(page, "**/gradio_api/**", hold):
        go(page, "/runs/1")
        wait_for(page, "that it is visited", lambda: waiting)
        page.clock.fast_forward("00:11")
        go(page, "/runs/2")
        wait_for(page, "that the next one is visited", lambda: len(waiting) == 2)
        waiting[0].continue_()
        page.get_by_text("Job 1, ").first.wait_for()
        waiting[1].continue_()
        page.get_by_text("Job 2, ").first.wait_for()
    expect(page).to_have_url(f"{address}runs/2")
    page.context.close()


@contextmanager
def held(page: Any, part: str) -> Iterator[None]:
    """Hold back the answers to visits of what an address names by this part until the block ends."""
    waiting: list[Any] = []
    asked = asked_for(part)
    visits = "**/gradio_api/**"
    with routed(page, visits, lambda route: waiting.append(route) if asked(route) else route.continue_()):
        yield
        wait_for(page, "that it is visited", lambda: waiting)
        with page.expect_response(asked):
            for route in waiting:
                route.continue_()


def test_what_is_typed_before_the_answer_to_a_visit_comes_stays(address: str, page: Any) -> None:
    from playwright.sync_api import expect

    go(page, "/runs/1")
    page.get_by_text("Job 1, ").first.wait_for()
    page.get_by_role("button", name="All runs").click()
    go(page, "/runs/2")
    page.get_by_text("Job 2, ").first.wait_for()
    box = page.locator("#run-search textarea, #run-search input").first
    with held(page, '"/1"'):
        page.go_back()
        box.fill("nothing like it")
    page.get_by_text("Job 1, ").first.wait_for()
    expect(box).to_have_value("nothing like it")
    # Also where the visit before that one, to a place that was left, is not answered yet.
    with held(page, '"/2"'):
        page.go_forward()
        page.go_back()
        box.fill("nothing like this")
    expect(page.locator("#run-job input")).to_have_value(re.compile("^1 "))
    expect(box).to_have_value("nothing like this")
    box.press("Enter")
    page.get_by_text("No run has these words.").wait_for()
    go(page, "/data/comparisons")
    expect(page.locator("#comparisons-box")).to_contain_text(re.compile(r"\w"))
    box = page.locator("#comparisons-search textarea, #comparisons-search input").first
    with held(page, "status=skipped"):
        go(page, "/data/comparisons?status=skipped")
        box.fill("word")  # it is searched for while typed
        expect(page).to_have_url(f"{address}data/comparisons?q=word")
    expect(page).to_have_url(f"{address}data/comparisons?q=word")
    expect(box).to_have_value("word")


def test_an_annotators_addresses_open_their_page_and_those_of_admins_say_so(
    served: tuple[Database, str], browser: Any
) -> None:
    db, address = served
    context = browser.new_context()
    sign_in(context, db, address, "ann")
    page = context.new_page()
    page.goto(f"{address}annotate")
    page.get_by_text("ann · ").wait_for()
    assert page.url == f"{address}annotate"
    for theme in ("light", "dark"):
        page.get_by_role("button", name="Colours: ").click()
        page.get_by_role("button", name=f"Colours: {theme}").wait_for()
        assert page.locator("body.dark").count() == (theme == "dark")
    page.reload()
    page.locator("body.dark").wait_for()
    page.get_by_role("button", name="Colours: dark").wait_for()
    page.get_by_role("button", name="My judgements").click()
    page.get_by_role("heading", name="My judgements").wait_for()
    assert page.url == f"{address}annotate/mine"
    page.go_back()
    page.get_by_role("heading", name="My judgements").wait_for(state="hidden")
    assert page.url == f"{address}annotate"
    for path, words in (("runs/1", "Only admins see this page."), ("nothing", "There is nothing at this address.")):
        page.goto(f"{address}{path}")
        page.get_by_text(words).wait_for()
    page.context.close()


def test_the_strips_step_leads_nowhere_on_the_page_where_it_is_done(address: str, page: Any) -> None:
    from playwright.sync_api import expect

    go(page, "/data")
    step = page.locator("#standing a.button")
    expect(step).to_have_attribute("href", "/annotate")
    expect(step).to_have_text(re.compile("Judge: "))
    step.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{address}annotate")
    expect(page.locator("#standing a.button:not([href])")).to_be_focused()
    expect(step).to_have_text(re.compile("Judge: "))
    page.get_by_role("button", name="My judgements").click()
    expect(page).to_have_url(f"{address}annotate/mine")
    expect(step).to_have_attribute("href", "/annotate")
    expect(step).not_to_have_attribute("tabindex", re.compile(""))
    page.go_back()
    expect(page.locator("#standing a.button:not([href])")).to_be_visible()
    page.get_by_role("tab", name="Runs", exact=True).click()
    expect(step).to_have_attribute("href", "/annotate")
    page.go_back()
    expect(page.locator("#standing a.button:not([href])")).to_be_visible()


def test_the_overview_names_the_next_step_once(address: str, page: Any) -> None:
    from playwright.sync_api import expect

    go(page, "/overview")
    expect(page.locator("#overview a.button").first).to_have_text(re.compile("Judge: "))
    expect(page.locator("#standing p")).to_be_visible()
    step = page.locator("#standing a.button")
    expect(step).to_have_text(re.compile("Judge: "))
    expect(step).to_be_hidden()
    go(page, "/data")
    expect(step).to_be_visible()
    page.go_back()
    expect(step).to_be_hidden()


def test_the_strips_step_leads_nowhere_where_its_candidate_or_its_job_is_in_view(running: Any, browser: Any) -> None:
    from playwright.sync_api import expect

    db, address = running
    files = db.path.parent / "adapters" / "dpo-9"
    files.mkdir(parents=True)
    (files / "adapter_model.safetensors").write_bytes(b"weights")
    registry.add(
        db,
        revision="dpo-9",
        algorithm="dpo",
        base=BASE_NAME,
        parent_id=registry.by_revision(db, "base").id,
        job_id=None,
        path="adapters/dpo-9",
        sha256=directory_sha256(files),
    )
    job_id = job_store.enqueue(db, CheckSpec(candidate="dpo-9", against="base", judges=""), "kim")
    assert job_store.claim(db, job_id, "w") is not None
    context = browser.new_context()
    sign_in(context, db, address)
    page = context.new_page()
    page.goto(f"{address}iterations")
    step = page.locator("#standing a.button")
    expect(step).to_have_text(f"Watch job {job_id}")
    expect(step).to_have_attribute("href", f"/runs/{job_id}")
    page.locator("#standing span").last.evaluate("it => it.textContent = 'more than fits in a line '.repeat(6)")
    words, button = page.locator("#standing p").bounding_box(), step.bounding_box()
    assert button["x"] >= words["x"] + words["width"]
    assert button["y"] < words["y"] + words["height"]
    page.get_by_role("tab", name="Runs", exact=True).click()
    page.get_by_text(f"Job {job_id}, ").first.wait_for()
    expect(page).to_have_url(f"{address}runs")
    expect(page.locator("#standing a.button:not([href])")).to_have_text(f"Watch job {job_id}")
    base = {"revision": "base", **SOUND}
    figures = {"candidate": {"revision": "dpo-9", **SOUND}, "against": base, "anchor": base, "win_rates": {"base": {}}}
    page.get_by_role("tab", name="Iterations", exact=True).click()
    expect(page).to_have_url(f"{address}iterations")
    step.focus()
    assert job_table.finish(db, job_id, "w", {**figures, "same_answers": 60, "prompts": 60})
    here = page.locator("#standing a.button:not([href])")
    expect(here).to_have_text("Decide on dpo-9")
    expect(here).to_be_focused()  # though the strip is drawn anew
    expect(page).to_have_url(f"{address}iterations")
    go(page, "/iterations/base")
    expect(step).to_have_attribute("href", "/iterations/dpo-9")
    step.click()
    expect(page).to_have_url(f"{address}iterations/dpo-9")
    expect(here).to_have_text("Decide on dpo-9")
    context.close()


def test_a_phone_begins_with_the_page_and_shows_which_tab_it_is(served: tuple[Database, str], browser: Any) -> None:
    db, address = served
    context = browser.new_context(viewport={"width": 390, "height": 844})
    sign_in(context, db, address)
    page = context.new_page()
    chosen = page.locator("#pages [role=tab][aria-selected=true]")
    for place in ("accounts", "annotate"):
        page.goto(f"{address}{place}")
        page.locator("#standing p").wait_for()
        box = wait_for(page, "that the tab is in view", lambda: within(chosen.bounding_box(), 390))
        assert box["y"] + box["height"] < 260, "less than a third is not the page"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for control in page.locator(".masthead button, .masthead select").all():
        assert within(control.bounding_box(), 390)
    assert page.locator("#standing a.button").is_hidden(), "who judges is where the next step is done"
    context.close()


def within(box: dict[str, float], width: int) -> dict[str, float] | None:
    """A box that is all in a window of this width; else None."""
    return box if box["x"] >= 0 and box["x"] + box["width"] <= width else None
