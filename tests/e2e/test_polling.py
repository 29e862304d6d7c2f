"""What asks by itself in a real browser: only the tab in view, once, live again when it is opened again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import app
from annotation.database import Database, open_database
from annotation.jobs import job_table
from annotation.web import access
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs import job_store
from rlhf.models import registry
from rlhf.submission.form_fields import forms
from tests.conftest import BASE_NAME
from tests.e2e.conftest import TWO_FRAMES, go, routed, running_app, stop_clock

pytestmark = pytest.mark.browser
PATIENCE_MS = 180_000
# More than any pulse waits between two beats, and than it waits for an answer.
LONG_MS = 20_000
WITHIN = tuple(form.layout.label for form in forms())


@dataclass
class Looker:
    """A person's browser page whose clock can be put forward, and what it has asked for."""

    page: Any
    asked: list[str] = field(default_factory=list)
    """Gradio's events: "beat" for a pulse's."""
    own: list[str] = field(default_factory=list)
    """The requests of the Annotate tab."""
    followed: list[list[str]] = field(default_factory=list)
    """What the page has asked whether it has changed, a request each: the strip, or a pulse's key."""
    open: list[Any] = field(default_factory=list)
    """Of all these the ones that are not answered yet."""

    def watch(self) -> None:
        """Note each request from now on."""
        config = self.page.evaluate("window.gradio_config")
        names = {one["id"]: one["targets"][0][1] for one in config["dependencies"] if one["targets"]}

        def note(request: Any) -> None:
            if "/gradio_api/run/" in request.url or "/gradio_api/queue/join" in request.url:
                self.asked.append(names[request.post_data_json["fn_index"]])
            elif "/annotate/" in request.url:
                self.own.append(request.url.rsplit("/", 1)[1])
            elif "/follow?" in request.url:
                asked = parse_qs(urlsplit(request.url).query).get("of", [])
                self.followed.append([one.split(" ")[0] for one in asked])
            else:
                return
            self.open.append(request)

        def answered(request: Any) -> None:
            if request in self.open:
                self.open.remove(request)

        self.page.on("request", note)
        self.page.on("requestfinished", answered)
        # Of these the page may only want to know the status, and a body that nobody reads does not finish.
        self.page.on("response", lambda got: None if got.ok and "/annotate/" not in got.url else answered(got.request))
        self.page.on("requestfailed", answered)

    @property
    def by_itself(self) -> list[str]:
        """What was asked without a press; the listeners to an opening ask one after the other, so some ask late."""
        return [event for event in self.asked if event != "select"]

    @property
    def pulses(self) -> list[str]:
        """The pulses that were asked about."""
        return [key for keys in self.followed for key in keys if key != "strip"]

    def forget(self) -> None:
        """Begin to note anew."""
        for noted in (self.asked, self.own, self.followed):
            noted.clear()

    def turn(self, *names: str) -> None:
        """Turn to a tab, and to one within it."""
        for name in names:
            self.page.get_by_role("tab", name=name, exact=True).click()

    def until(self, true: Callable[[], Any]) -> None:
        """Wait until something has been asked for, or answered."""
        waited = 0
        while not true():
            assert waited < PATIENCE_MS, (self.asked, self.own, self.open)
            self.page.wait_for_timeout(50)
            waited += 50

    def settle(self) -> None:
        """Wait until everything that was asked for is answered."""
        self.until(lambda: not self.open)

    def put_forward(self) -> None:
        """Let all that waits for time to pass happen, once; what that asks for has been asked for afterwards."""
        self.page.clock.fast_forward(LONG_MS)
        self.page.evaluate("fetch('healthz').then((answer) => answer.status)")

    def stop_clock(self) -> None:
        """Let time pass only as a test says; what the page asks for when that begins is answered afterwards."""
        stop_clock(self.page)
        self.page.evaluate("fetch('healthz').then((answer) => answer.status)")
        self.settle()

    def rest_on_annotate(self, times: int = 3) -> None:
        """Put the clock forward, each time until the Annotate tab has asked what it asks now and then."""
        for _ in range(times):
            before = self.own.count("safety")
            self.put_forward()
            self.until(lambda before=before: self.own.count("safety") > before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep Gradio's events back until the block ends."""
        held: list[Any] = []
        with routed(self.page, "**/gradio_api/run/**", lambda route: held.append(route)):
            yield
        for route in held:
            route.continue_()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Database]]:
    """The program with an admin and an annotator."""
    data_dir = tmp_path_factory.mktemp("polling") / "data"
    db = open_database(data_dir)
    registry.ensure_base(db, BASE_NAME)
    access.add_account(db, "kim", "admin", "a long enough password")
    access.add_account(db, "ann", "annotator", "a long enough password")
    with running_app(data_dir, "--no-workers") as (address, _):
        yield address, db
    db.close()


@pytest.fixture(scope="module")
def sign_in(site: tuple[str, Database], browser: Any) -> Iterator[Callable[[str], Looker]]:
    """Opens the page of a person who is signed in, in a browser of their own."""
    address, db = site
    cookie = app.Settings(port=int(address.rstrip("/").rsplit(":", 1)[1])).cookie
    contexts: list[Any] = []

    def signed_in(name: str) -> Looker:
        context = browser.new_context(clock=True)
        contexts.append(context)
        person = access.read_annotator(db.rows("SELECT * FROM annotator WHERE name = ?", (name,))[0])
        context.add_cookies([{"name": cookie, "value": access.open_session(db, person), "url": address}])
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(f"text={name} · ")
        looker = Looker(page)
        looker.watch()
        return looker

    yield signed_in
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def kept(sign_in: Callable[[str], Looker]) -> tuple[Looker, Any]:
    """An admin's page that one test goes on with after the other, and its cookies."""
    looker = sign_in("kim")
    return looker, looker.page.context.cookies()


# Takes back what tests have put in the place of what the browser has.
PUT_BACK = """() => {
  window.own ??= window.Notification;
  window.Notification = window.own;
  for (const name of ["told", "last", "focused", "refused"]) delete window[name];
  localStorage.clear();
  delete document.visibilityState;
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture
def admin(kept: tuple[Looker, Any]) -> Looker:
    """An admin before the Annotate tab, as if none of the other tests had been there."""
    looker, cookies = kept
    looker.page.context.add_cookies(cookies)
    looker.page.clock.resume()
    looker.page.evaluate(PUT_BACK)
    looker.turn("Annotate")
    looker.rest_on_annotate(1)
    looker.settle()
    looker.forget()
    return looker


def make_run(db: Database) -> int:
    """A run of which nothing is known yet."""
    job_id = job_store.enqueue(db, SFTSpec(snapshot="0" * 64), "owner")
    assert job_store.claim(db, job_id, "w") is not None
    return job_id


def test_a_tab_that_is_left_before_its_opening_was_answered_does_not_begin_to_ask(admin: Looker) -> None:
    # These are opened for the first time, which is why this test stands first.
    with admin.held():
        for names in (("Hub",), ("Playground",), ("Runs",)):
            before = len(admin.asked)
            admin.turn(*names)
            admin.until(lambda before=before: len(admin.asked) > before)
        admin.turn("Annotate")
    admin.settle()

    def silent() -> bool:
        """Whether nothing was asked in a rest; at first what was answered is drawn, and what hears of that asks."""
        admin.settle()
        admin.forget()
        admin.rest_on_annotate(1)
        return (admin.by_itself, admin.pulses) == ([], [])

    admin.until(silent)
    admin.rest_on_annotate()
    assert (admin.by_itself, admin.pulses) == ([], [])
    admin.turn("Hub")
    admin.settle()
    admin.put_forward()
    admin.until(lambda: "beat" in admin.asked)


def test_after_all_tabs_were_visited_nothing_asks_but_the_tab_in_view(admin: Looker) -> None:
    tabs = admin.page.get_by_role("tab").all_inner_texts()
    assert len(tabs) == 12
    for name in tabs:
        admin.turn(name)
        for within in WITHIN if name == "Train" else ():
            admin.turn(within)
        admin.settle()
    admin.turn("Iterations")
    admin.forget()
    admin.put_forward()
    admin.until(lambda: "beat" in admin.asked)
    admin.settle()
    admin.put_forward()
    admin.until(lambda: admin.pulses)
    admin.settle()
    assert len(set(admin.pulses)) == 1
    admin.turn("Annotate")
    admin.settle()
    admin.forget()
    admin.rest_on_annotate()
    assert (admin.by_itself, admin.pulses) == ([], [])


def test_a_tab_that_is_opened_again_follows_again_with_one_beat_at_a_time(
    admin: Looker, site: tuple[str, Database]
) -> None:
    db, page = site[1], admin.page
    run = make_run(db)
    for _ in range(3):
        admin.turn("Runs")
        page.locator(f"text=Job {run}, ").first.wait_for()
        admin.turn("Annotate")
    admin.rest_on_annotate(1)
    assert job_table.report(db, run, "w", 30, 60, {"loss": 0.5}, "Warming up")
    admin.turn("Runs")
    page.locator("text=step 30 of 60").first.wait_for()
    assert job_table.report(db, run, "w", 31, 60, {"loss": 0.4}, "Warming up")
    page.locator("text=step 31 of 60").first.wait_for()
    admin.stop_clock()
    admin.forget()
    # The answer of an earlier question may come first, and its beat.
    admin.until(lambda: admin.put_forward() or admin.settle() or admin.pulses)
    assert len(admin.pulses) == 1, "however often it was opened"
    assert job_table.finish(db, run, "w", {})


def test_a_tab_within_a_tab_asks_at_once_when_its_outer_one_comes_back(admin: Looker) -> None:
    page = admin.page
    admin.turn("Train")
    admin.until(lambda: admin.put_forward() or "beat" in admin.asked)
    admin.settle()
    admin.turn("Annotate")
    admin.stop_clock()
    admin.forget()
    admin.turn("Train")
    # In a frame the tab notices that it is in view; those of the clock are none.
    page.evaluate("new Promise((come) => new ResizeObserver(() => come()).observe(document.body))")
    page.clock.run_for(1000)
    admin.until(lambda: "beat" in admin.asked)


def test_a_beat_that_failed_is_not_the_last(admin: Looker) -> None:
    admin.turn("Iterations")
    admin.until(lambda: admin.put_forward() or "beat" in admin.asked)
    admin.settle()
    with routed(admin.page, "**/gradio_api/run/**", lambda route: route.fulfill(status=500, body="{}")):
        admin.forget()
        # As if something had been pressed, so that the whole answer is asked for.
        admin.page.evaluate(
            "document.querySelector('#decided').closest('[role=tabpanel]').dispatchEvent(new Event('change'))"
        )
        admin.put_forward()
        admin.until(lambda: "beat" in admin.asked)
        admin.settle()
        admin.put_forward()
        admin.until(lambda: [] in admin.followed)  # whether it was signed out
        admin.settle()
    admin.forget()
    admin.put_forward()
    admin.until(lambda: "beat" in admin.asked)


def test_the_strip_says_what_runs_once_the_page_turns_to_it(admin: Looker, site: tuple[str, Database]) -> None:
    """As it does where somebody has started a run, long before the strip would ask by itself; then it asks oftener."""
    db, page = site[1], admin.page
    admin.until(lambda: admin.put_forward() or any("strip" in keys for keys in admin.followed))
    admin.settle()
    admin.stop_clock()
    run = make_run(db)
    go(page, f"/runs/{run}")
    page.clock.run_for(1000)
    page.locator("#standing", has_text=f"{run}").wait_for()
    admin.settle()
    admin.forget()
    page.clock.run_for(2500)
    admin.until(lambda: any("strip" in keys for keys in admin.followed))
    page.clock.resume()
    assert job_table.finish(db, run, "w", {})


def test_a_browser_that_refuses_a_notification_goes_on_asking(admin: Looker, site: tuple[str, Database]) -> None:
    """As Chrome on Android does, where only a service worker may show one."""
    db, page = site[1], admin.page
    page.evaluate(
        """() => {
            window.Notification = class {
                static permission = "granted";
                constructor() { window.refused = true; throw new TypeError("Illegal constructor"); }
            };
            localStorage.setItem("prefloop.notify", "on");
        }"""
    )
    run = make_run(db)
    admin.put_forward()
    page.locator("#standing", has_text=f"{run}").wait_for()
    assert job_table.finish(db, run, "w", {})
    admin.settle()
    admin.put_forward()
    page.wait_for_function("window.refused")
    admin.settle()
    admin.forget()
    admin.put_forward()
    admin.until(lambda: any("strip" in keys for keys in admin.followed))


def test_a_page_that_the_server_does_not_answer_says_so_until_it_does(admin: Looker) -> None:
    """Restarting, or behind a proxy that answers for it; one question without an answer may be mere haste."""
    page, alert = admin.page, admin.page.get_by_role("alert").filter(has_text="The server does not answer")
    for refuse in (lambda route: route.fulfill(status=502, body="Bad gateway"), lambda route: route.abort()):
        with routed(page, "**/follow?*", refuse):
            for times in (0, 1):
                admin.forget()
                admin.until(lambda: admin.put_forward() or admin.followed)
                admin.settle()
                admin.until(lambda times=times: alert.count() == times)
        admin.until(lambda: admin.put_forward() or alert.count() == 0)


RECORDING = """() => {
    window.told = [];
    window.Notification = class {
        static permission = "default";
        static async requestPermission() { return (this.permission = "granted"); }
        constructor(title, { body, tag }) { window.told.push({ title, body, tag }); window.last = this; }
        close() {}
    };
    window.focus = () => { window.focused = true; };
}"""


def test_the_end_of_each_job_is_told_once_while_nobody_looks(admin: Looker, site: tuple[str, Database]) -> None:
    """Of two that run, and of one that begins and fails between two questions."""
    db, page = site[1], admin.page
    page.evaluate(RECORDING)
    run, other = make_run(db), make_run(db)
    admin.put_forward()
    page.get_by_role("button", name="Notify me", exact=True).click()
    page.get_by_role("button", name="Don't notify me").wait_for()
    page.evaluate(
        """() => {
            Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    assert job_table.finish(db, other, "w", {})
    admin.until(lambda: admin.put_forward() or page.evaluate("window.told.length"))
    short = make_run(db)
    assert job_table.stop(db, short, "w", "failed", "Out of memory.")
    assert job_table.finish(db, run, "w", {})
    admin.until(lambda: admin.put_forward() or page.evaluate("window.told.length") == 3)
    admin.settle()
    admin.put_forward()
    told = {one["tag"]: (one["title"], one["body"].split(" · ")[0]) for one in page.evaluate("window.told")}
    assert told == {
        f"prefloop-{other}": ("Prefloop", "Done"),
        f"prefloop-{run}": ("Prefloop", "Done"),
        f"prefloop-{short}": ("Prefloop", "Failed"),
    }
    assert page.evaluate("window.told.length") == 3
    number = page.evaluate("window.told.at(-1).tag").rpartition("-")[2]
    page.evaluate("window.last.onclick()")
    page.wait_for_url(f"**/runs/{number}")
    assert page.evaluate("window.focused")


def test_a_page_that_was_signed_out_asks_no_more(admin: Looker) -> None:
    admin.turn("Iterations")
    admin.until(lambda: admin.put_forward() or admin.settle() or admin.pulses)  # the whole answer has come
    admin.page.context.clear_cookies()
    admin.forget()
    admin.put_forward()
    admin.page.get_by_role("alert").filter(has_text="not signed in any more").wait_for()
    assert (
        admin.page.get_by_role("link", name="Sign in again.").first.get_attribute("href") == "login?next=%2Fiterations"
    )
    admin.settle()
    asked = len(admin.followed)
    for _ in range(3):
        admin.put_forward()
    assert (admin.asked, admin.own, len(admin.followed)) == ([], [], asked)


def test_a_page_that_was_signed_out_while_it_waited_for_an_answer_asks_no_more(
    admin: Looker, kept: tuple[Looker, Any]
) -> None:
    """Until it is signed in again."""
    admin.turn("Iterations")
    with routed(admin.page, "**/gradio_api/run/**", lambda route: route.fulfill(status=401, body="{}")):
        admin.until(lambda: admin.put_forward() or "beat" in admin.asked)
        admin.page.context.clear_cookies()
        admin.until(lambda: admin.put_forward() or [] in admin.followed)
        admin.page.get_by_role("alert").filter(has_text="not signed in any more").wait_for()
        admin.settle()
        admin.forget()
        for _ in range(3):
            admin.put_forward()
        assert (admin.asked, admin.own, admin.followed) == ([], [], [])
    admin.page.context.add_cookies(kept[1])  # the person has signed in again in another window
    admin.page.locator("#standing").click()
    admin.until(lambda: admin.put_forward() or "beat" in admin.asked)


def test_an_answer_that_comes_after_a_page_was_signed_out_does_not_let_it_ask_on(admin: Looker) -> None:
    """Nor while the answer is drawn: what a slow server was asked before."""
    late: list[tuple[Any, Any]] = []
    with routed(admin.page, "**/gradio_api/run/**", lambda route: late.append((route, route.fetch()))):
        admin.turn("Iterations")
        admin.until(lambda: admin.put_forward() or (late and "beat" in admin.asked))
        admin.page.context.clear_cookies()
        admin.until(lambda: admin.put_forward() or [] in admin.followed)
        admin.page.get_by_role("alert").filter(has_text="not signed in any more").wait_for()
        admin.forget()
        for route, answer in late:
            route.fulfill(response=answer)
        admin.settle()
        admin.page.evaluate(TWO_FRAMES)
        for _ in range(3):
            admin.put_forward()
        assert (admin.by_itself, admin.own, admin.followed) == ([], [], [])


def test_an_annotators_page_has_nothing_that_asks_but_its_own_tab(sign_in: Callable[[str], Looker]) -> None:
    annotator = sign_in("ann")
    assert annotator.page.locator(".pulse").count() == 0
    annotator.rest_on_annotate()
    assert (annotator.asked, annotator.followed) == ([], [])


def test_what_another_admin_decides_is_seen_in_some_seconds_however_long_nothing_changed(
    admin: Looker, site: tuple[str, Database]
) -> None:
    """With one question for the tab and the strip."""
    page = admin.page
    admin.turn("Iterations")
    admin.until(lambda: admin.put_forward() or "beat" in admin.asked)
    for _ in range(12):  # each longer than the one before, until it is as long as can be
        before = len(admin.pulses)
        admin.until(lambda before=before: admin.put_forward() or admin.settle() or len(admin.pulses) > before)
    admin.stop_clock()
    admin.until(lambda: admin.put_forward() or admin.settle() or admin.followed[-1][:1] == ["strip"])
    admin.forget()
    page.clock.run_for(5500)
    admin.until(lambda: admin.followed)
    assert len(admin.followed[0]) == 2, "the tab and the strip"
