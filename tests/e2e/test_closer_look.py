"""A curve looked at closely in a real browser: values, a part drawn out, all of it, a picture, a file; a phone."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database
from annotation.jobs import job_table
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs import job_store
from tests.e2e.conftest import sign_in, wait_for

pytestmark = pytest.mark.browser
STEPS = 40
HIGH = {"width": 1280, "height": 1000}
PLOT = "#closer-plot"


@pytest.fixture(scope="module")
def run(running: tuple[Database, str]) -> Iterator[int]:
    """A run that has made some of its steps, the only one."""
    db = running[0]
    job_id = job_store.enqueue(db, SFTSpec(snapshot="0" * 64), "kim")
    assert job_store.claim(db, job_id, "w") is not None
    report(db, job_id, range(1, STEPS + 1))
    yield job_id
    assert job_table.finish(db, job_id, "w", {})


def report(db: Database, job_id: int, steps: range) -> None:
    """More steps of the run: its loss is one over the step."""
    for step in steps:
        metrics = {"loss": 1 / step, "grad_norm": 0.5 + step / 100}
        assert job_table.report(db, job_id, "w", step, 2 * STEPS, metrics, "training")


@pytest.fixture(scope="module")
def opened(running: tuple[Database, str], run: int, browser: Any) -> Iterator[Any]:
    """The Runs page with the curve unfolded."""
    db, address = running
    context = browser.new_context(viewport=HIGH)
    sign_in(context, db, address)
    page = context.new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.goto(address)
    page.get_by_role("tab", name="Runs", exact=True).click()
    page.locator("#closer-box > button").click()
    page.wait_for_selector(f"{PLOT} svg .mark-line path")
    yield page
    context.close()


@pytest.fixture
def page(opened: Any) -> Any:
    """That page on a wide screen, with all of the curve in view."""
    opened.set_viewport_size(HIGH)
    opened.click("#closer-whole")
    wait_for(opened, "all of it", lambda: max(steps_shown(opened), default=0) >= STEPS)
    return opened


def steps_shown(page: Any) -> list[float]:
    """The numbers of the axis along the steps, which is the first."""
    axes = f"[...document.querySelectorAll('{PLOT} .role-axis')].filter((one) => one.querySelector('.role-axis-title'))"
    texts = page.evaluate(f"[...{axes}[0].querySelectorAll('.role-axis-label text')].map((one) => one.textContent)")
    return [float(text.replace(",", "")) for text in texts if text]


def draw_across(page: Any, start: float, end: float) -> None:
    """Draw across the plot with the mouse, from and to shares of its width.

    In one move: Gradio shows what has been drawn when the mouse rests for a quarter of a second, as it may between two
    moves on a slow machine.
    """
    box = page.locator(f"{PLOT} svg .background").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], middle)
    page.mouse.up()


def test_steps_are_whole_numbers_in_a_short_run_too(page: Any) -> None:
    page.locator(PLOT).scroll_into_view_if_needed()
    draw_across(page, 0.1, 0.2)
    wait_for(page, "the part in view", lambda: max(steps_shown(page), default=STEPS) < STEPS / 4)
    shown = steps_shown(page)
    assert len(shown) > 1
    assert shown == [shown[0] + step for step in range(len(shown))]


def test_the_small_plots_say_their_values_too(page: Any) -> None:
    place = page.locator(".plots figure").first.locator(".place").last
    assert not place.locator("text").first.is_visible()
    place.locator("rect").hover()
    assert place.locator("text").first.is_visible()
    assert place.locator("text").all_text_contents() == [f"optimiser step {STEPS}", f"loss: {1 / STEPS:.4g}"]


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(PLOT).scroll_into_view_if_needed()
    wait_for(page, "the narrow plot", lambda: ends_within(page, f"{PLOT} svg.marks", 390))
    assert ends_within(page, ".plots", 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def ends_within(page: Any, what: str, width: int) -> bool:
    """Whether it lies between the screen's edges."""
    box = page.locator(what).first.bounding_box()
    return box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width


def test_a_curve_says_its_values_and_a_part_of_it_stays_in_view_while_the_run_goes_on(
    running: tuple[Database, str], run: int, page: Any
) -> None:
    page.locator(PLOT).scroll_into_view_if_needed()
    box = page.locator(f"{PLOT} svg .background").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#vg-tooltip-element.visible")
    said = page.inner_text("#vg-tooltip-element")
    assert "optimiser step" in said
    assert "loss" in said

    assert max(steps_shown(page)) == STEPS
    draw_across(page, 0.1, 0.4)
    wait_for(page, "the part in view", lambda: max(steps_shown(page)) < STEPS / 2)
    part = steps_shown(page)
    report(running[0], run, range(STEPS + 1, STEPS + 6))
    page.wait_for_selector(f"text=step {STEPS + 5} of {2 * STEPS}")
    wait_for(page, "the new values", lambda: f'<td class="number">{1 / (STEPS + 5):.4g}</td>' in page.content())
    assert steps_shown(page) == part, "what somebody looks at stays"

    page.click("#closer-whole")
    wait_for(page, "all of it", lambda: max(steps_shown(page)) >= STEPS)
    assert [one for one in page.said if "Content Security Policy" in one or "Refused to" in one] == []


def test_another_curve_can_be_looked_at_and_saved(running: tuple[Database, str], run: int, page: Any) -> None:
    page.locator("#closer-choice input").click()
    page.get_by_role("option", name="Gradient norm").click()
    page.wait_for_selector(f"{PLOT} >> text=norm before clipping")
    page.wait_for_selector(f"{PLOT} svg .role-legend-label >> text=norm")
    page.wait_for_selector(f"{PLOT} svg .mark-line path[stroke]:not([stroke=''])")
    with page.expect_download() as picture:
        page.locator(PLOT).get_by_role("button", name="Export").click()
    assert Path(picture.value.path()).read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as file:
        page.get_by_role("link", name=f"All values of job {run} (CSV)").first.click()
    assert file.value.suggested_filename == f"job-{run}.csv"
    rows = list(csv.DictReader(Path(file.value.path()).read_text(encoding="utf-8").splitlines()))
    steps = len(job_store.metrics(running[0], run))  # others may have let it go on
    assert [float(row["loss"]) for row in rows] == [1 / step for step in range(1, steps + 1)]
    assert list(rows[0]) == ["step", "loss", "grad_norm"]
