"""Where the focus goes in a real browser when the button that was pressed is gone, or can't be pressed any more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from annotation.database import Database
from annotation.jobs import job_table
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.decisions import peoples_decisions
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import directory_sha256
from rlhf.judges import judge_store
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.models import decision_store, registry
from tests.conftest import BASE_NAME
from tests.e2e.conftest import go, routed, sign_in, stop_clock, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def kept(running: tuple[Database, str], browser: Any) -> Iterator[Any]:
    """An admin's page, and its clock."""
    db, address = running
    context = browser.new_context(clock=True)
    sign_in(context, db, address)
    page = context.new_page()
    page.goto(f"{address}runs")
    page.wait_for_selector("text=kim · admin")
    yield page
    context.close()


@pytest.fixture
def page(kept: Any) -> Any:
    """That page, whose clock goes."""
    kept.clock.resume()
    return kept


def press(page: Any, button: str, box: str, said: str) -> None:
    """Press a button by keyboard: what is said of it has the focus then, while the button is gone or disabled."""
    chosen = page.locator(f"{button}:enabled:not([aria-disabled])").locator("visible=true")

    def has_focus() -> bool:
        chosen.focus()
        settle(page)  # as it has just come it may be drawn once more
        return chosen.evaluate_all("all => all.includes(document.activeElement)")

    wait_for(page, "a button that keeps the focus", has_focus)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{box} [role=status]:focus:has-text('{said}')")
    assert page.locator(f"{button}:enabled").locator("visible=true").count() == 0


def settle(page: Any) -> None:
    """Let what follows a change of the page come, or end: a timer, and a frame."""
    page.evaluate("new Promise((come) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(come))))")


def until_followed(page: Any, there: str) -> None:
    """Put the clock forward until the page has seen by itself what was done elsewhere."""

    def followed() -> int:
        page.clock.fast_forward("00:05")
        return int(page.locator(there).locator("visible=true").count())

    wait_for(page, there, followed)


def test_who_cancels_or_resumes_a_run_goes_on_from_what_is_said_of_it(running: tuple[Database, str], page: Any) -> None:
    db, _address = running
    job_id = job_store.enqueue(db, SFTSpec(snapshot="0" * 64), "kim")
    go(page, f"/runs/{job_id}")
    press(page, "#run-cancel", "#run-said", f"Job {job_id} is cancelled: it had not begun.")
    press(page, "#run-resume", "#run-said", f"Job {job_id} is queued again")
    press(page, "#queue-take-out", "#queue-said", f"Job {job_id} is out of the queue.")
    press(page, "#run-resume", "#run-said", f"Job {job_id} is queued again")
    assert job_store.claim(db, job_id, "w") is not None
    until_followed(page, "text=Running.")  # or a poll that sees it may empty what is said of the press
    press(page, "#run-cancel", "#run-said", f"Job {job_id} was asked to stop")
    assert job_table.stop(db, job_id, "w", "cancelled", "")
    until_followed(page, "text=Cancelled.")
    page.wait_for_selector("#run-resume:focus")  # what was said holds no more


def test_who_is_led_to_another_tab_goes_on_from_it(running: tuple[Database, str], page: Any) -> None:
    """What led there is gone with its tab, as at a start of a training."""
    go(page, "/overview")
    step = page.locator("#overview a[href]").first
    step.focus()
    wanted = str(step.get_attribute("href")).split("/")[1]
    page.keyboard.press("Enter")
    page.wait_for_selector(f"[role=tab][data-tab-id={wanted}]:focus")
    page.get_by_role("tab", name="Runs", exact=True).focus()
    go(page, "/train/ppo")
    page.wait_for_selector("#ppo-start")
    settle(page)
    assert page.evaluate("document.activeElement.dataset.tabId") == "runs", "it is there: it keeps the focus"


def test_who_cancels_a_judging_goes_on_from_what_is_said_of_it(running: tuple[Database, str], page: Any) -> None:
    db, _address = running
    judge_store.add(db, "local", "local", {"model": "base"}, "kim")
    job_id = job_store.enqueue(db, JudgeSpec(judge="local"), "kim")
    go(page, "/judges")
    press(page, "#judge-cancel", "#judge-said", f"Job {job_id} was asked to stop.")


def test_what_a_press_says_is_not_put_away_by_an_earlier_look_whose_answer_comes_later(
    running: tuple[Database, str], page: Any
) -> None:
    db, _address = running
    for _ in range(2):
        job_store.enqueue(db, SFTSpec(snapshot="0" * 64), "kim")
    go(page, "/runs")
    press(page, "#queue-down", "#queue-said", "is number 2 in the queue")
    settle(page)
    held: list[tuple[Any, Any]] = []
    with routed(page, "**/gradio_api/run/**", lambda route: held.append((route, route.fetch()))):
        third = job_store.enqueue(db, SFTSpec(snapshot="0" * 64), "kim")  # so what was said holds no more
        wait_for(page, "a look at that", lambda: page.clock.fast_forward("00:05") or held)
        page.locator("#queue-up").click()
        page.wait_for_selector("#queue-said:has-text('is number 1 in the queue')")
        for route, answer in held:
            route.fulfill(response=answer)
        page.locator("td", has_text=re.compile(f"^{third}$")).locator("visible=true").first.wait_for()
        settle(page)
        assert "is number 1 in the queue" in page.locator("#queue-said").inner_text()


def a_candidate(db: Database, revision: str) -> None:
    """A policy that waits for a decision, with files of its own."""
    files = db.path.parent / "adapters" / revision
    files.mkdir(parents=True)
    (files / "adapter_model.safetensors").write_bytes(b"weights")
    base = registry.by_revision(db, "base")
    registry.add(
        db,
        revision=revision,
        algorithm="dpo",
        base=BASE_NAME,
        parent_id=base.id,
        job_id=None,
        path=f"adapters/{revision}",
        sha256=directory_sha256(files),
    )


# A press at the moment in which a poll has put another button in the place of the one that was read.
PRESSED_UNREAD = """async () => {
  const [read] = [...document.querySelectorAll("#decisions button[data-act]")].filter((one) => one.checkVisibility());
  const other = read.cloneNode(true);
  other.dataset.subject = "999";
  read.replaceWith(other);
  await null;
  other.click();
  return [other.ariaDisabled, other.disabled];
}"""


def test_a_press_on_an_undo_that_has_just_become_another_does_nothing(running: tuple[Database, str], page: Any) -> None:
    db, _address = running
    a_candidate(db, "dpo-8")
    peoples_decisions.reject(db, "dpo-8", "kim", "")
    go(page, "/iterations/dpo-8")
    page.wait_for_selector("#decisions button[data-act] >> visible=true")
    settle(page)
    assert page.evaluate(PRESSED_UNREAD) == ["true", False], "nobody has read it: it is not sent"
    page.wait_for_selector("#decisions button[data-subject='999']:not([aria-disabled])")


def test_who_takes_a_promotion_back_reads_in_the_strip_at_once_what_serves(
    running: tuple[Database, str], page: Any
) -> None:
    """Long before the strip would ask by itself."""
    db, address = running
    a_candidate(db, "dpo-7")
    peoples_decisions.promote(db, db.path.parent, "dpo-7", "kim", "It is better.")
    page.goto(f"{address}iterations/dpo-7")
    page.locator("#standing", has_text="dpo-7").wait_for()
    page.wait_for_selector("#decisions button[data-act]:not([aria-disabled]) >> visible=true")
    settle(page)
    stop_clock(page)
    page.locator("#decisions button").locator("visible=true").click()
    said = page.locator("#decided [role=status]", has_text="base serves now")
    wait_for(page, "the answer", lambda: page.clock.run_for(20) or said.count())
    page.clock.run_for(2000)
    page.locator("#standing", has_text="base").wait_for()


def test_who_decides_on_a_candidate_goes_on_from_what_is_said_of_it(running: tuple[Database, str], page: Any) -> None:
    db, address = running
    a_candidate(db, "dpo-9")
    page.goto(f"{address}iterations/dpo-9")
    press(page, "#reject", "#decided", "dpo-9 was rejected.")
    press(page, "#decisions button", "#decided", "dpo-9 is a candidate again.")
    page.clock.fast_forward("00:03")
    settle(page)
    page.evaluate("document.activeElement.blur()")
    peoples_decisions.reject(db, "dpo-9", "kim", "")
    until_followed(page, "#decisions button:enabled")
    settle(page)
    assert page.evaluate("document.activeElement === document.body"), "what was pressed is answered long since"
    undo = page.locator("#decisions button:enabled:not([aria-disabled])").locator("visible=true")
    undo.focus()
    with routed(page, "**/queue/join*", lambda route: route.fulfill(status=500)):
        page.keyboard.press("Enter")
        page.clock.fast_forward("00:03")
        page.wait_for_selector("#decisions button:enabled:focus")
    page.evaluate("document.activeElement.blur()")
    settle(page)
    subject = undo.get_attribute("data-subject")
    decision_store.take_back_rejection(db, "dpo-9", "kim")
    peoples_decisions.reject(db, "dpo-9", "kim", "")
    until_followed(page, f"#decisions button:enabled:not([data-subject='{subject}'])")
    settle(page)
    assert page.evaluate("document.activeElement === document.body"), "what was pressed came to nothing long since"
