"""The annotators' page in a real browser: every way to judge, drafts, hostile texts, streaming, readable for all."""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import app
from annotation import project
from annotation.claims import handing_out, judging, own_prompts
from annotation.database import Database, open_database
from annotation.jobs import job_table
from annotation.records import Judgement, Kind, Project, Prompt, Tag
from annotation.store import comparison_store, project_store, prompt_store
from annotation.ui.formatting import count_words
from annotation.web import access
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store
from rlhf.models import registry
from tests.conftest import BASE_NAME, act, make_response
from tests.e2e.axe import CONTRAST_ALONE, VIOLATIONS_ALONE, violations
from tests.e2e.conftest import TWO_FRAMES, put_forward, read_comparison, routed, running_app, wait_for
from tests.frozen_in_memory import current_judgements
from tests.machine_fixtures import kept_alive

pytestmark = pytest.mark.browser

HOSTILE = (
    "<think>hidden?</think> ${window.ran = 1} <img src=http://evil.test/x.png onerror='window.ran = 1'> "
    "<form action=/logout><button>Sign out</button></form><script>window.ran = 1</script> {{value}} "
    "![pixel](http://evil.test/p.png) [click](http://evil.test/here 'title') <!-- comment --> a\u202eb "
    "<style>.verdicts{display:none}</style><iframe src=//evil.test></iframe> $\\href{javascript:window.ran=1}{x}$"
)
COMPARING = ".judging[data-state=comparing]"
# Presses these keys in the moment in which a comparison appears.
PRESS_AT_ONCE = """(keys) => {
  const press = () => {
    if (document.querySelector(".judging").dataset.state !== "comparing" || window.pressed) return;
    window.pressed = true;
    for (const key of keys) document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  };
  new MutationObserver(press).observe(document.querySelector(".judging"), { attributes: true });
}"""
LONG = {"role": "user", "content": "Too long?"}
numbers = itertools.count(1)


@dataclass
class Site:
    """The running program, its rows, and people at its pages."""

    address: str
    db: Database
    browser: Any
    contexts: list[Any] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, query: str = "", role: str = "annotator", **options: Any) -> Person:
        """A new annotator's browser at the page."""
        context = self.browser.new_context(**options)
        self.contexts.append(context)
        return self.open_in(context, query, role)

    def open_in(self, context: Any, query: str = "", role: str = "annotator") -> Person:
        """A new annotator at the page in this browser, instead of whoever was signed in there."""
        name = f"ann{next(numbers)}"
        annotator = access.add_account(self.db, name, role, "a long enough password")
        cookie = app.Settings(port=int(self.address.rstrip("/").rsplit(":", 1)[1])).cookie
        context.add_cookies(
            [{"name": cookie, "value": access.open_session(self.db, annotator), "url": self.address}]
        )  # fmt: skip
        page = context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(self.address + query)
        page.wait_for_selector(f"text={name} · {role}", state="attached")  # what Gradio loads last
        return Person(self.db, name, page)

    def project(self, kind: Kind = "pair", answers: int = 2, **values: Any) -> None:
        """Set what is asked, and put away what is left of other tests."""
        asked = Project(kind=kind, answers=answers, gold_share=0.0, re_ask_share=0.0, rendered=False)
        project_store.set_project(self.db, replace(asked, **values))
        self.db.write("UPDATE comparison SET state = 'dropped'")

    def compare(self, *texts: str, turns: tuple[str, ...] = ()) -> int:
        """A comparison of these answers to a prompt of its own; its id."""
        prompt = self.prompt(*turns)
        answers = [make_response(prompt, text) for text in texts]
        made = comparison_store.add_comparison(self.db, answers, wanted=len(texts))
        assert made is not None
        return made

    def prompt(self, *turns: str) -> Prompt:
        """A new prompt; turns are the user's and the assistant's by turns."""
        said = [*turns, f"Question {next(numbers)}?"] if len(turns) % 2 == 0 else list(turns)
        messages = tuple(
            {"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(said)
        )
        prompt_store.add_prompts(self.db, [Prompt(messages, "train", "test")])
        return prompt_store.prompts(self.db, "train")[-1]


@dataclass
class Person:
    """An annotator at the page."""

    db: Database
    name: str
    page: Any

    def ready(self) -> None:
        """Wait for a comparison, and be past the time in which it takes no press."""
        read_comparison(self.page)

    def later(self) -> None:
        """Let time pass for the page."""
        put_forward(self.page)

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def judge(self, *keys: str) -> Judgement:
        """Press the keys that judge, and read the row that they made."""
        self.ready()
        before = len(self.rows())
        self.press(*keys)
        self.wait(lambda: len(self.rows()) > before, f"a judgement from {keys}")
        self.page.wait_for_selector(".judging:not([aria-busy])")
        return self.rows()[-1]

    def rows(self) -> list[Judgement]:
        """This person's current judgements, oldest first."""
        return [judgement for judgement in current_judgements(self.db) if judgement.annotator == self.name]

    def texts(self) -> list[str]:
        """The answers as they are shown."""
        return [str(text) for text in self.page.locator(".answer .shown").all_text_contents()]

    def status(self) -> str:
        """What the page says."""
        return str(self.page.locator(".status").inner_text())

    def wait_status(self, text: str) -> None:
        """Wait until the page says this."""
        wait_for(self.page, f"the page to say {text!r}", lambda: text in self.status(), self.status)

    def wait(self, true: Callable[[], Any], what: str) -> None:
        """Wait for the rows to say something."""
        wait_for(self.page, what, true, self.status)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Site]:
    data_dir: Path = tmp_path_factory.mktemp("annotate") / "data"
    db = open_database(data_dir)
    registry.ensure_base(db, BASE_NAME)
    with running_app(data_dir, "--no-workers") as (address, _):
        yield Site(address, db, browser)
    db.close()


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    """The running program without open comparisons; the pages opened by a test must not have raised an error."""
    running.project()
    running.errors.clear()
    yield running
    for context in running.contexts:
        context.close()
    running.contexts.clear()
    assert running.errors == []


def by_place(judgement: Judgement) -> list[int]:
    """The ranks in the order in which the answers were shown."""
    assert judgement.ranking is not None
    return [judgement.ranking[position] for position in judgement.shown_order]


def letters(count: int) -> list[str]:
    """Different answers."""
    return [f"Answer {letter}" for letter in "ABCDEFGH"[:count]]


# ------------------------------------------------------------------------------------------------------ ways to judge
def test_a_pair_is_judged_by_one_key(site: Site) -> None:
    for _ in range(10):
        site.compare(*letters(2))
    ann = site.open()
    expected = {"1": ([1, 2], 3), "2": ([1, 2], 2), "3": ([1, 2], 1), "4": ([1, 1], 0)}
    expected |= {"5": ([2, 1], 1), "6": ([2, 1], 2), "7": ([2, 1], 3)}
    for key, (ranks, strength) in expected.items():
        ann.ready()
        left = ann.texts()[0]
        judgement = ann.judge(key)
        assert (by_place(judgement), judgement.strength) == (ranks, strength), key
        assert judgement.responses[judgement.shown_order[0]].text == left
        assert judgement.seconds is not None
    assert ann.judge("0").outcome == "all-bad"
    assert ann.judge("s").outcome == "skip"
    ann.page.wait_for_selector("text=/\\d of 30 judged today · 8 by you in all/")  # some may have been before midnight
    ann.ready()
    ann.press("u")
    ann.wait_status("Undone. Judge it again.")
    ann.wait(lambda: len(ann.rows()) == 8, "undone skip")
    site.db.write("UPDATE annotator SET quota = 3000 WHERE name = ?", (ann.name,))
    assert ann.judge("2").strength == 2
    ann.page.wait_for_selector("text=· 9 of 3,000 in all")
    ann.wait_status("Saved: left clearly better.")


def test_a_press_counts_once_and_only_for_what_could_be_read(site: Site) -> None:
    ann = site.open()
    sent: list[str] = []
    ann.page.on("request", lambda request: sent.append(request.url) if "judge" in request.url else None)
    ann.page.wait_for_selector(".judging[data-state=waiting]")
    ann.page.evaluate(PRESS_AT_ONCE, ["1"])
    for _ in range(3):
        site.compare(*letters(2))
    ann.later()
    ann.page.wait_for_function("window.pressed")
    ann.wait_status("Pressed too soon: not counted. Press again.")
    ann.ready()
    ann.page.evaluate(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: true, bubbles: true}))"
    )
    ann.press("Control+1", "Alt+1")
    ann.press("n", "1", "2", "Escape")
    assert ann.page.input_value("#judgement-note") == "12"
    assert sent == []
    tab = Person(site.db, ann.name, ann.page.context.new_page())
    tab.page.goto(site.address)
    tab.page.wait_for_selector(COMPARING)
    assert tab.texts() == ann.texts()
    ann.page.dblclick(".verdicts [data-key='1']")
    ann.wait(lambda: len(ann.rows()) == 1, "judgement from a double click")
    ann.page.wait_for_selector(".judging:not([aria-busy])")
    tab.ready()
    tab.page.click(".verdicts [data-key='7']")
    tab.page.wait_for_selector(".status >> text=It says: left much better")
    assert [(row.strength, by_place(row)) for row in ann.rows()] == [(3, [1, 2])]
    assert tab.texts() == ann.texts()


# Presses these keys in one go.
PRESS_ALL = """(keys) => {
  for (const key of keys) document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  return document.querySelector(".status").textContent;
}"""


def test_a_press_that_does_not_count_is_never_passed_over_in_silence(site: Site) -> None:
    for _ in range(3):
        site.compare(*letters(2))
    ann = site.open()
    first = ann.judge("1")
    ann.wait_status("Saved: left much better.")
    ann.page.wait_for_selector(COMPARING)
    ann.later()
    ann.page.evaluate("""() => {
      const event = new MouseEvent("click", { bubbles: true, detail: 2 });
      document.querySelector(".verdicts [data-key='7']").dispatchEvent(event);
    }""")
    assert ann.status() == "Saved: left much better. Pressed too soon: not counted. Press again."
    assert ann.page.evaluate(PRESS_ALL, ["u", "1"]) == "Undoing … Pressed too soon: not counted. Press again."
    ann.wait_status("Undone. Judge it again. Pressed too soon: not counted. Press again.")
    assert ann.rows() == []
    ann.ready()
    with routed(ann.page, "**/annotate/judge", lambda route: route.abort()):
        ann.press("2")
        ann.wait_status("Press again.")
    assert ann.page.evaluate(PRESS_ALL, ["2", "u"]).endswith("Press again.")  # the 2 at once, as it is told to
    ann.wait_status("Saved: left clearly better. Pressed too soon: not counted. Press again.")
    assert [row.comparison_id for row in ann.rows()] == [first.comparison_id]


def test_the_end_of_what_there_is_to_judge_is_said_and_so_is_a_key_that_does_nothing(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    ann.press("8")
    ann.wait_status("This key judges nothing here.")
    ann.judge("1")
    ann.page.wait_for_selector(".waiting:focus")
    assert ann.page.locator(".next").text_content() == ""
    assert ann.page.get_by_role("status").filter(has_text="writing answers").count() == 1
    ann.wait_status("Saved: left much better.")
    ann.press("r", "1")
    ann.wait_status("Saved: left much better. Nothing to judge now.")
    rendered = ann.page.locator(".tools [data-key=r]")
    assert rendered.is_disabled(), "there is nothing to show otherwise"
    ann.press("m")
    ann.page.wait_for_selector(".judging[data-state=listing]")
    assert rendered.is_disabled()
    ann.page.locator(".mine button").first.click()
    ann.page.wait_for_selector("text=You are changing an earlier judgement")
    ann.ready()
    assert rendered.is_enabled()
    ann.press("u")
    ann.wait_status("Press Esc to leave it, then undo.")
    assert [row.strength for row in ann.rows()] == [3]


def test_earlier_judgements_are_a_press_away(site: Site) -> None:
    ann = site.open()
    for _ in range(51):
        site.compare(*letters(2))
    annotator = site.db.value("SELECT id FROM annotator WHERE name = ?", (ann.name,))
    while (claim := handing_out.claim_next(site.db, annotator)) is not None:
        judging.judge(site.db, annotator, claim.nonce, act("tie"))
    ann.page.reload()  # it may have taken one of them before all were judged
    ann.page.wait_for_selector(".judging[data-state=waiting]")
    ann.press("m")
    ann.page.locator(".mine li").nth(50).wait_for()
    ann.page.click("text=Earlier ones")
    ann.page.wait_for_selector(".mine li:nth-child(51) button:text('Change'):focus")
    assert ann.page.locator(".mine li").count() == 51
    assert not ann.page.locator("text=Earlier ones").count()


def test_a_rank_reason_or_flag_for_what_could_not_be_read_yet_does_not_count(site: Site) -> None:
    site.project("rank", 3, tags=(Tag("t", "too long"),))
    ann = site.open()
    ann.page.wait_for_selector(".judging[data-state=waiting]")
    ann.page.evaluate(PRESS_AT_ONCE, ["1", "t", "h"])
    site.compare(*letters(3))
    ann.later()
    ann.page.wait_for_function("window.pressed")
    ann.wait_status("Pressed too soon: not counted. Press again.")
    assert not ann.page.locator(".extras [aria-pressed=true]").count()
    assert ann.page.get_attribute("[data-place='0'] .choose", "aria-label") == "Answer 1: not ranked"


# Lays out as a slow machine does, a second for each part; in that time this key is pressed, and obeyed later still.
PRESS_WHILE_LAID_OUT = """(key) => {
  const [now, { replaceChildren }] = [performance.now.bind(performance), Element.prototype];
  let [ahead, laying] = [0, 0];
  performance.now = () => now() + ahead;
  Element.prototype.replaceChildren = function (...children) {
    laying = performance.now();
    ahead += 1000;
    replaceChildren.apply(this, children);
  };
  const press = () => {
    if (document.querySelector(".judging").dataset.state !== "comparing" || "said" in window) return;
    ahead += 1000;
    const pressed = new KeyboardEvent("keydown", { key, bubbles: true });
    document.body.dispatchEvent(Object.defineProperty(pressed, "timeStamp", { value: laying }));
    window.said = document.querySelector(".status").textContent;
  };
  new MutationObserver(press).observe(document.querySelector(".judging"), { attributes: true });
}"""


@pytest.mark.parametrize("key", ["1", "h"])
def test_a_key_that_waited_till_a_comparison_was_laid_out_does_not_count(site: Site, key: str) -> None:
    ann = site.open()
    ann.page.wait_for_selector(".judging[data-state=waiting]")
    ann.page.evaluate(PRESS_WHILE_LAID_OUT, key)
    site.compare(*letters(2))
    ann.later()
    ann.page.wait_for_function("'said' in window")
    assert ann.page.evaluate("window.said").endswith("Pressed too soon: not counted. Press again.")
    assert not ann.page.locator(".extras [aria-pressed=true]").count()


def test_what_has_moved_away_for_guidelines_that_come_late_can_not_be_pressed_at_once(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    ann.page.evaluate("localStorage.clear()")  # as somebody who has read no guidelines
    held: list[Any] = []
    with routed(ann.page, "**/annotate/guidelines", lambda route: held.append(route)):
        ann.page.reload()
        ann.page.wait_for_selector(COMPARING)
        ann.wait(lambda: held, "the guidelines to be asked for")
        ann.later()
        ann.page.evaluate("""() => new MutationObserver(() => {
          document.querySelector(".flag").click();
          window.pressed = true;
        }).observe(document.querySelector(".guidelines"), { attributeFilter: ["open"] })""")
        held[0].continue_()
        ann.page.wait_for_function("window.pressed")
    assert ann.status().endswith("Pressed too soon: not counted. Press again.")
    assert not ann.page.locator(".flag[aria-pressed=true]").count()


def test_nothing_is_listed_or_shown_otherwise_before_the_first_comparison_has_come(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    asked: list[str] = []
    ann.page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[-1]))
    with routed(ann.page, "**/annotate/card", lambda route: route.abort()):
        ann.page.reload()
        ann.page.wait_for_selector(".judging[data-state=loading] .tools [data-key=m]")
        ann.page.locator(".tools .toggle").evaluate_all("all => all.forEach((one) => one.click())")
    ann.later()
    ann.page.wait_for_selector(COMPARING)
    assert "latest" not in asked
    ann.page.click(".tools [data-key=m]")
    ann.page.wait_for_selector(".judging[data-state=listing]")


def test_four_answers_are_ranked_by_keyboard(site: Site) -> None:
    site.project("rank", 4)
    for _ in range(3):
        site.compare(*letters(4))
    ann = site.open()
    ann.ready()
    for key in ("=", "Backspace"):
        ann.press(key)
        ann.wait_status("Rank an answer first.")
        ann.press("e", "Escape")
    ann.press("?")
    ann.page.wait_for_selector(".keys li:has-text('Answer 4: rank it')")
    ann.press("?", "3", "1")
    assert ann.page.get_attribute("[data-place='0'] .choose", "aria-label") == "Answer 1: 2nd"
    assert "Answer 1: 2nd" in ann.status()
    ann.press("Enter")
    assert "not ranked yet: 2, 4" in ann.status()
    assert ann.rows() == []
    ann.press("Backspace", "=")
    assert "tied with answer 3" in ann.status()
    first = ann.judge("4", "2", "Enter")  # the only one left, the first, is ranked last
    assert by_place(first) == [3, 2, 1, 1]
    ann.wait_status("Saved: 3 = 4 > 2 > 1.")
    ann.ready()
    ann.press("2", "1", "4", "3", "=")
    ann.wait_status("All are ranked: submit.")
    assert ann.page.get_attribute(".tie", "aria-pressed") == "false", "there is no next one to tie"
    ann.press("Backspace")
    ann.press("3", "3")
    ann.press("4", "4")
    ann.wait_status("Answer 4: 3rd. Submit, and the one left comes last.")
    assert by_place(ann.judge("Enter")) == [2, 1, 4, 3]  # four keys for four: the last answer needs none
    ann.ready()
    ann.press("2", "=", "1")
    ann.page.reload()
    ann.ready()
    assert ann.page.get_attribute("[data-place='0'] .choose", "aria-label") == "Answer 1: 1st, tied"
    assert by_place(ann.judge("=", "3", "=", "4", "Enter")) == [1, 1, 1, 1]


def test_four_answers_are_ranked_by_touch(site: Site) -> None:
    site.project("rank", 4)
    for _ in range(2):
        site.compare(*letters(4))
    ann = site.open(viewport={"width": 400, "height": 850}, has_touch=True, is_mobile=True)
    ann.ready()
    for place in (2, 0, 0, 1):  # the second tap on the first answer takes it out again
        ann.page.tap(f"[data-place='{place}'] .choose")
    ann.page.tap("text=Tie the next one")
    ann.page.tap("[data-place='3'] .choose")
    ranks = ["Rank", "2nd, tied", "1st", "2nd, tied"]
    ann.wait(lambda: ann.page.locator(".answer .rank").all_inner_texts() == ranks, "what the taps have ranked")
    ann.page.tap("text=Submit")
    ann.wait(ann.rows, "ranking")
    assert by_place(ann.rows()[0]) == [3, 2, 1, 2]
    ann.ready()
    taps = [f"[data-place='{place}'] .choose" for place in (3, 0, 2)]
    for target in (*taps, "text=Submit"):  # four for a ranking of four: the last answer needs none
        ann.page.tap(target)
    ann.wait(lambda: len(ann.rows()) == 2, "the second ranking")
    assert by_place(ann.rows()[1]) == [2, 4, 3, 1]
    site.compare(*(f"{letter} {'more ' * 300}" for letter in letters(4)))
    ann.ready()
    for place in (3, 1):
        ann.page.tap(f".side >> nth={place}")
        ann.page.tap(f"[data-place='{place}'] .choose")
    sides = ["1", "2: 2nd", "3", "4: 1st"]
    ann.wait(lambda: ann.page.locator(".side").all_inner_texts() == sides, "those that are out of sight too")


def test_the_best_of_three_is_one_key_or_one_click(site: Site) -> None:
    site.project("best", 3)
    for _ in range(4):
        site.compare(*letters(3))
    ann = site.open()
    assert by_place(ann.judge("2")) == [2, 1, 2]
    ann.wait_status("Saved: answer 2 is best.")
    assert by_place(ann.judge("=")) == [1, 1, 1]
    assert ann.judge("0").ranking is None
    ann.ready()
    ann.page.click("[data-place='2'] .choose")
    ann.wait(lambda: len(ann.rows()) == 4, "judgement by click")
    assert by_place(ann.rows()[-1]) == [2, 2, 1]


# -------------------------------------------------------------------------------------------------- beyond the verdict
def test_edit_note_tag_and_flag_survive_a_reload_and_land_in_the_row(site: Site) -> None:
    for _ in range(2):
        site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    ann.press("a", "c", "c", "h", "b")
    ann.press("n")
    ann.page.keyboard.type("12 reasons")
    ann.press("Escape", "e", "2")
    edited = ann.texts()[1]
    assert ann.page.input_value("#answer-edit") == edited
    ann.page.fill("#answer-edit", "An edited answer 7")
    ann.page.reload()
    ann.ready()
    assert ann.page.input_value("#answer-edit") == "An edited answer 7"
    assert ann.page.input_value("#judgement-note") == "12 reasons"
    pressed = ann.page.locator(".extras [aria-pressed=true]").all_inner_texts()
    assert [text.split()[-1] for text in pressed] == ["accurate", "Broken"]

    ann.press("2")
    ann.wait_status("You edited right: judge it the best")
    assert ann.rows() == []
    judgement = ann.judge("6")
    assert (judgement.tags, judgement.note, judgement.flag) == (("accurate",), "12 reasons", "broken")
    assert judgement.edited is not None
    assert judgement.edited.text == "An edited answer 7"
    best = judgement.responses[judgement.shown_order[1]]
    assert (best.text, best.id) == (edited, judgement.edited.edited_from)

    ann.ready()
    assert ann.page.input_value("#judgement-note") == "", "the next comparison begins without a draft"
    kept = ann.page.evaluate("Object.keys(localStorage).filter(key => key.includes('draft.'))")
    assert kept == []
    ann.press("u")
    ann.wait_status("Undone.")
    assert ann.page.input_value("#answer-edit") == "An edited answer 7", "what was written comes back with an undo"
    assert ann.page.input_value("#judgement-note") == "12 reasons"


def test_old_drafts_are_forgotten_and_one_of_an_expired_hand_out_is_taken_over(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    ann.press("n")
    ann.page.keyboard.type("half a thought")
    assert ann.page.evaluate("Object.keys(localStorage).filter(key => key.includes('draft.')).length") == 1
    old = "prefloop.somebody/draft.old"
    ann.page.evaluate("key => localStorage.setItem(key, JSON.stringify({at: Date.now() - 8 * 24 * 3600e3}))", old)
    site.db.write("UPDATE claim SET expires = '2000-01-01T00:00:00.000000+00:00' WHERE state = 'held'")
    ann.page.reload()
    ann.ready()
    assert ann.page.input_value("#judgement-note") == "half a thought"
    assert ann.page.evaluate("key => localStorage.getItem(key)", old) is None


def test_the_draft_of_a_change_is_not_taken_for_one_of_a_comparison_in_hand(site: Site) -> None:
    site.project(overlap=1, re_ask_share=0.0)
    comparison = site.compare(*letters(2))
    ann = site.open()
    ann.judge("1")
    ann.press("m")
    ann.page.click(".mine button")
    ann.ready()
    ann.press("n")
    ann.page.keyboard.type("of the change")
    with site.db.transaction() as connection:  # the same comparison comes into hand, as when it is to be settled
        connection.execute("UPDATE claim SET state = 'released' WHERE state = 'held'")
    handing_out.take_to_settle(site.db, access.authorise(site.db, ann.name, "annotator").id, comparison)
    ann.page.goto(f"{site.address}annotate")  # a reload would lead back to the change
    ann.ready()
    assert ann.page.input_value("#judgement-note") == ""


def test_undo_after_a_reload_brings_back_what_was_done(site: Site) -> None:
    site.project("rank", 4)
    for _ in range(3):
        site.compare(*letters(4))
    ann = site.open()
    ann.ready()
    ann.press("a", "b", "n")
    ann.page.keyboard.type("for a reason")
    ann.press("Escape", "e", "3")
    ann.page.fill("#answer-edit", "Mended")
    ann.press("Escape")
    first = ann.judge("3", "1", "=", "4", "Enter")
    assert by_place(first) == [2, 3, 1, 2]
    ann.judge("c", "1", "2", "3", "Enter")
    ann.page.reload()
    for places in (["1st", "2nd", "3rd", "4th"], ["2nd, tied", "3rd", "1st", "2nd, tied"]):
        ann.ready()
        ann.press("u")
        ann.page.wait_for_selector(f"[data-place='0'] .rank:text-is('{places[0]}')")
        assert ann.page.locator(".answer .rank").all_inner_texts() == places
    assert ann.rows() == []
    assert ann.page.input_value("#judgement-note") == "for a reason"
    assert ann.page.input_value("#answer-edit") == "Mended"
    pressed = ann.page.locator(".extras [aria-pressed=true]").all_inner_texts()
    assert [text.split()[-1] for text in pressed] == ["accurate", "Broken"]
    again = ann.judge("Enter")
    assert (by_place(again), again.note, again.flag) == (by_place(first), "for a reason", "broken")
    assert again.edited is not None
    assert again.edited.text == "Mended"


def test_a_judgement_that_could_not_be_saved_is_noticed_at_once_and_kept(site: Site) -> None:
    for _ in range(2):
        site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    ann.press("a")
    shown = ann.texts()
    with routed(ann.page, "**/annotate/judge", lambda route: route.abort()):
        ann.press("2")
        ann.wait_status("Perhaps not saved. The server can't be reached. Press again.")
    with routed(ann.page, "**/annotate/judge", lambda route: route.fulfill(status=500, body="oops")):
        ann.press("2")
        ann.wait_status("Perhaps not saved. The server failed (500). Press again.")
    assert ann.texts() == shown
    judgement = ann.judge("2")
    assert (judgement.strength, judgement.tags) == (2, ("accurate",))

    ann.ready()
    ann.page.context.clear_cookies()
    ann.press("2")
    ann.wait_status("You are not signed in any more")
    assert ann.page.get_attribute(".status a", "href") == "login?next=%2Fannotate"
    assert "draft is kept" not in ann.page.inner_text(".status"), "there is none"
    ann.press("a")
    ann.press("2")
    ann.wait_status("Your draft is kept.")
    assert len(ann.rows()) == 1


def test_an_own_prompt_outlives_a_session(site: Site) -> None:
    ann = site.open()
    ann.page.wait_for_selector("text=No model is writing answers at the moment.")
    cookies = ann.page.context.cookies()
    ann.page.click("text=Write a prompt of your own")
    ann.page.fill("#own-prompt", "What is 1 + 1?")
    ann.page.context.clear_cookies()
    ann.page.click(".ask button")
    ann.wait_status("Your draft is kept.")
    ann.page.context.add_cookies(cookies)
    ann.page.reload()
    ann.page.wait_for_function("document.querySelector('#own-prompt')?.value === 'What is 1 + 1?'")
    assert ann.page.is_visible("#own-prompt")
    ann.page.click(".ask button")
    ann.page.wait_for_selector("text=Your prompt is kept till then.")
    ann.page.reload()
    ann.page.wait_for_selector("text=Your prompt is kept till then.")
    assert ann.page.input_value("#own-prompt") == ""


def test_what_is_written_while_an_own_prompt_is_on_its_way_stays(site: Site) -> None:
    ann = site.open()
    ann.page.wait_for_selector("text=No model is writing answers at the moment.")
    ann.page.click("text=Write a prompt of your own")
    ann.page.fill("#own-prompt", "What is 1 + 1?")
    ann.page.evaluate(
        """() => {
            document.querySelector(".ask button").click();
            const field = document.querySelector("#own-prompt");
            field.value = "And 2 + 2?";
            field.dispatchEvent(new Event("input"));
        }"""
    )
    ann.page.wait_for_selector("text=Your prompt is kept till then.")
    assert ann.page.input_value("#own-prompt") == "And 2 + 2?"
    assert ann.page.is_visible("#own-prompt")


def test_a_page_whose_person_is_signed_out_asks_nothing_more_by_itself(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open(clock=True)
    ann.ready()
    asked: list[str] = []
    ann.page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[-1]))

    def put_forward() -> set[str]:
        """What is asked once it was time to ask."""
        asked.clear()
        ann.page.clock.fast_forward(11_000)
        ann.page.evaluate("fetch('healthz').then((answer) => answer.status)")
        return set(asked)

    assert "safety" in put_forward()
    ann.page.context.clear_cookies()
    wait_for(ann.page, "the page to know", lambda: put_forward() == {"healthz"})
    assert [put_forward() for _ in range(5)] == [{"healthz"}] * 5
    ann.press("2")
    ann.wait_status("You are not signed in any more")
    ann.press("Enter")
    ann.page.wait_for_url("**/login?next=%2Fannotate")


def test_two_tabs_judge_the_same_comparison_and_the_page_says_which_judgement_stands(site: Site) -> None:
    for _ in range(3):
        site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    tab = Person(site.db, ann.name, ann.page.context.new_page())
    tab.page.goto(site.address)
    tab.ready()
    assert tab.texts() == ann.texts()
    ann.judge("a", "1")
    ann.wait_status("Saved: left much better (accurate).")
    tab.press("h", "7")
    tab.wait_status("You have judged this comparison already")
    assert "It says: left much better (accurate)." in tab.status()
    assert "aved: right" not in tab.status()
    assert [(by_place(row), row.strength, row.flag) for row in ann.rows()] == [([1, 2], 3, None)]
    assert tab.page.locator(".status .offer").inner_text().split("\n")[-1].endswith("Change it to: right much better")
    assert tab.texts() == ann.texts(), "the next one is shown meanwhile"

    tab.later()
    tab.press("Enter")
    tab.wait_status("Changed: right much better (Harmful).")
    assert [(by_place(row), row.strength, row.flag, row.tags) for row in ann.rows()] == [([2, 1], 3, "harmful", ())]
    assert tab.page.locator(".status .offer").count() == 0

    # Both show the second one now. The same verdict with another note is another judgement; the same again is saved.
    tab.judge("2")
    ann.press("n", "x", "Escape", "2")
    ann.wait_status("It says: left clearly better.")
    assert "Change its note" in ann.page.locator(".status .offer").inner_text()
    ann.later()
    ann.page.click(".status .offer")
    ann.wait_status("Changed: left clearly better (note).")
    assert [row.note for row in ann.rows()] == ["", "x"]


def test_a_change_that_another_tab_was_faster_with_says_what_stands(site: Site) -> None:
    for _ in range(2):
        site.compare(*letters(2))
    ann = site.open()
    ann.judge("1")
    tab = Person(site.db, ann.name, ann.page.context.new_page())
    tab.page.goto(site.address)
    for person in (ann, tab):
        person.ready()
        person.press("m")
        person.page.click(".mine button")
        person.page.wait_for_selector("text=You are changing an earlier judgement: Left much better.")
        person.ready()
    ann.press("7")
    ann.wait_status("Changed: right much better.")
    tab.press("4")
    tab.wait_status("It says: right much better.")
    assert [row.strength for row in ann.rows()] == [3]
    tab.later()
    tab.page.click("text=Change it to: tie")
    tab.wait_status("Changed: tie.")
    assert [row.strength for row in ann.rows()] == [0]
    ann.ready()
    ann.press("u")
    ann.wait_status("Undone.")
    assert ann.rows() == []


@contextmanager
def lost_answers(person: Person, endpoint: str) -> Iterator[None]:
    """The server gets what this page sends and does it; its answers get lost on the way."""

    def lose(route: Any) -> None:
        route.fetch()
        route.abort()

    with routed(person.page, f"**/annotate/{endpoint}", lose):
        yield


def test_a_judgement_whose_answer_got_lost_is_told_as_it_was_stored(site: Site) -> None:
    site.project("rank", 3)
    for _ in range(4):
        site.compare(*letters(3))
    ann = site.open()
    ann.ready()
    with lost_answers(ann, "judge"):
        ann.judge("a", "3", "1", "2", "Enter")
        ann.wait_status("Perhaps not saved. The server can't be reached. Press again.")
    ann.ready()
    ann.press("Enter")
    ann.wait_status("Saved: 3 > 1 > 2 (accurate).")
    assert len(ann.rows()) == 1

    ann.ready()
    with lost_answers(ann, "judge"):
        ann.judge("2", "1", "3", "Enter")
        ann.wait_status("Perhaps not saved")
    ann.ready()
    ann.press("Backspace", "Backspace", "Backspace", "3", "1", "2", "Enter")
    ann.wait_status("It says: 2 > 1 > 3.")
    assert [by_place(row) for row in ann.rows()] == [[2, 3, 1], [2, 1, 3]]
    ann.later()
    with lost_answers(ann, "revise"):
        ann.press("Enter")
        ann.wait(lambda: by_place(ann.rows()[-1]) == [2, 3, 1], "change")
        ann.wait_status("Perhaps not saved")
    kept = ann.page.evaluate("Object.keys(localStorage).filter(key => key.includes('draft.'))")
    assert kept == [], "what stands needs no draft"

    ann.ready()
    with lost_answers(ann, "judge"):
        ann.judge("n", "x", "Escape", "1", "2", "3", "Enter")
        ann.wait_status("Perhaps not saved")
    ann.press("r")
    ann.wait_status("Judged already: 1 > 2 > 3 (note).")
    assert ann.page.input_value("#judgement-note") == ""


NO_CARDS: tuple[dict[str, Any], ...] = (
    {"status": 200, "body": ""},
    {"status": 200, "body": "<html>a proxy's page</html>", "content_type": "text/html"},
    {"status": 409, "json": {"error": "It can't be done."}},
    {"status": 502, "body": "bad gateway"},
)


def answering(answer: dict[str, Any]) -> Callable[[Any], None]:
    """Gives every request this answer."""
    return lambda route: route.fulfill(**answer)


def test_an_answer_that_is_no_card_is_a_problem_and_no_error_of_the_page(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    shown = ann.texts()
    for answer, (endpoint, key) in itertools.product(NO_CARDS, (("judge", "1"), ("undo", "u"), ("card", "r"))):
        ann.page.evaluate("document.querySelector('.status').textContent = ''")  # what was said before
        with routed(ann.page, f"**/annotate/{endpoint}", answering(answer)):
            ann.press(key)
            ann.wait(ann.page.locator(".status.bad:not(:empty)").count, f"the problem of {endpoint}: {answer}")
        assert ann.texts() == shown
        ann.ready()  # not while that is still being asked
    assert ann.judge("2").strength == 2


def test_own_judgements_are_listed_and_changed(site: Site) -> None:
    for _ in range(4):
        site.compare(*letters(2))
    ann = site.open()
    first = ann.judge("a", "1")
    ann.judge("n", "Escape", "7")
    ann.ready()
    in_hand = ann.texts()
    ann.press("m")
    ann.page.wait_for_selector(".judging[data-state=listing]")
    assert ann.page.locator(".mine strong").all_inner_texts() == ["Right much better", "Left much better"]
    ann.press("1")  # nothing to judge here
    ann.page.locator(".mine button").nth(1).click()
    ann.page.wait_for_selector("text=You are changing an earlier judgement: Left much better.")
    assert ann.page.get_attribute("[data-label=accurate]", "aria-pressed") == "true"
    assert ann.texts() == [first.responses[position].text for position in first.shown_order]
    ann.ready()
    ann.press("Escape")
    ann.wait_status("Nothing was changed here.")
    assert ann.texts() == in_hand
    assert [row.strength for row in ann.rows()] == [3, 3]

    ann.press("m")
    ann.page.locator(".mine button").nth(1).click()
    ann.page.wait_for_selector("text=You are changing an earlier judgement")
    ann.ready()
    ann.press("5")
    ann.wait_status("Changed: right slightly better (accurate).")
    assert ann.texts() == in_hand
    changed = ann.rows()[-1]
    assert (by_place(changed), changed.strength, changed.tags) == ([2, 1], 1, ("accurate",))
    assert changed.comparison_id == first.comparison_id
    assert site.db.value("SELECT supersedes FROM judgement WHERE id = ?", (changed.id,)) == first.id
    assert len(ann.rows()) == 2
    ann.press("m")
    ann.page.wait_for_selector(".mine >> text=Right slightly better")
    assert ann.page.locator(".mine .marks").first.inner_text().split() == ["accurate", "changed"]
    ann.press("m")
    ann.ready()


# ----------------------------------------------------------------------------------------------------- reading answers
def test_hostile_answers_do_nothing_literal_or_rendered(site: Site) -> None:
    """They appear to the letter, run nothing, load nothing, hide nothing and add no control to the page."""
    site.compare(HOSTILE, f"{HOSTILE} again")
    ann = site.open()
    outside: list[str] = []
    ann.page.on("request", lambda request: outside.append(request.url))
    ann.page.reload()
    ann.ready()
    spelt = HOSTILE.replace("\u202e", "⟨U+202E⟩")
    assert sorted(ann.texts()) == [spelt, f"{spelt} again"]
    controls = ann.page.locator(".judging button, .judging a, .judging input").count()
    for _ in range(2):
        ann.press("r")
        ann.page.wait_for_selector(".judging:not([aria-busy])")
        inside = ".judging .shown :is(form, img, script, style, iframe, button, a, input, svg, [style], [onerror])"
        assert ann.page.locator(inside).count() == 0
        assert ann.page.locator(".judging button, .judging a, .judging input").count() == controls
        shown = " ".join(ann.page.locator(".answer .shown").all_inner_texts())
        for word in ("<think>hidden?</think>", "<!-- comment -->", "http://evil.test/p.png", "title", "⟨U+202E⟩"):
            assert word in shown, word
        assert ann.page.locator(".verdicts").is_visible()
    assert ann.page.evaluate("window.ran") is None
    assert [url for url in outside if not url.startswith((site.address, "data:", "blob:"))] == []


def test_rendering_is_switched_and_remembered_by_each_annotator(site: Site) -> None:
    site.compare("Some **bold** text and $x^2$", "```python\ndef f(): pass\n```")
    ann = site.open()
    ann.ready()
    assert ann.page.locator(".answer strong").count() == 0
    ann.press("n", "x", "Escape", "r")
    ann.page.wait_for_selector(".answer strong")
    assert ann.page.locator(".answer msup").count() == 1
    assert ann.page.locator(".answer pre .k").all_inner_texts() == ["def", "pass"]
    ann.page.reload()
    ann.page.wait_for_selector(".answer strong")
    assert ann.page.input_value("#judgement-note") == "x"
    site.project(rendered=True)
    site.compare("**a**", "b")
    bob = site.open()
    bob.page.wait_for_selector(".answer strong")


def test_a_conversation_is_shown_with_its_roles(site: Site) -> None:
    site.compare(*letters(2), turns=("Hello?", "word " * 900))
    ann = site.open()
    ann.ready()
    assert ann.page.locator(".turn h2").all_inner_texts() == ["User", "Assistant", "Prompt"]
    conversation = ann.page.locator(".conversation")
    assert conversation.get_attribute("tabindex") == "0", "what scrolls can be reached by keyboard"
    assert ann.page.locator(".turn").last.is_visible()
    end = "box => box.scrollTop + box.clientHeight >= box.scrollHeight - 2"
    assert conversation.evaluate(end), "the latest turn is in sight"


@pytest.mark.parametrize("before", [(), ("Hello?", "word " * 900)])
def test_a_long_prompt_is_read_from_its_first_line_and_is_seen_to_go_on(site: Site, before: tuple[str, ...]) -> None:
    site.compare("Short.", "word " * 900, turns=(*before, "Sum this up: " + "word " * 900))
    ann = site.open(viewport={"width": 1280, "height": 800})
    ann.ready()
    conversation = ann.page.locator(".conversation")
    latest = ann.page.locator(".turn").last.bounding_box()
    assert abs(latest["y"] - conversation.bounding_box()["y"]) < 2
    assert "cut" in conversation.get_attribute("class")
    more = ann.page.locator(".answer .more >> visible=true")
    assert more.count() == 1, "of the long answer"
    ann.page.set_viewport_size({"width": 1280, "height": 780})
    ann.page.evaluate(TWO_FRAMES)
    assert more.count() == 1, "how far the prompt is read says nothing of an answer"
    conversation.evaluate("box => box.scrollTo(0, box.scrollHeight)")
    ann.wait(lambda: "cut" not in conversation.get_attribute("class"), "the prompt's end")


def test_answers_grow_while_they_are_written_and_are_judged_when_they_have_ended(site: Site) -> None:
    prompt = site.prompt()
    comparison_id, ids = comparison_store.begin_answers(
        site.db, [make_response(prompt, "Once", seed=seed) for seed in range(2)]
    )
    ann = site.open()
    ann.ready()
    assert ann.page.locator(".verdict:enabled").all_inner_texts() == ["S Skip"]
    ann.page.fill("#judgement-note", "My own end")
    ann.press("Escape", "a", "e", "1")
    ann.wait_status("Answers are still being written: judge them when all have come.")
    comparison_store.update_answers(site.db, {ids[0]: "Once upon a time " * 300, ids[1]: "Once more"})
    ann.page.wait_for_function(
        "[...document.querySelectorAll('.answer .shown')].some(box => box.textContent.startsWith('Once upon a time'))"
    )
    assert ann.page.input_value("#judgement-note") == "My own end"
    box = ann.page.locator(".answer .shown", has_text="Once upon").first
    box.evaluate("box => { box.scrollTop = 120; }")
    comparison_store.update_answers(site.db, {ids[0]: "Once upon a time " * 400})
    ann.page.wait_for_function(
        "length => [...document.querySelectorAll('.answer .shown')].some(box => box.textContent.length >= length)",
        arg=len("Once upon a time " * 400),
    )
    assert box.evaluate("box => box.scrollTop") == 120
    ends = {ids[0]: make_response(prompt, "Once upon a time."), ids[1]: make_response(prompt, "Once more.")}
    comparison_store.finish_answers(site.db, comparison_id, ends)
    ann.page.wait_for_selector(".verdict[data-key='1']:enabled")
    assert ann.judge("1").note == "My own end"


def test_failed_answers_can_not_be_judged(site: Site) -> None:
    prompt = site.prompt()
    comparison_id, ids = comparison_store.begin_answers(
        site.db, [make_response(prompt, "Once", seed=seed) for seed in range(2)]
    )
    ann = site.open()
    ann.ready()
    site.db.write("UPDATE response SET state = 'failed' WHERE id = ?", (ids[0],))
    ann.page.wait_for_selector("text=Could not be written to its end.")
    disabled = ann.page.locator(".verdict:disabled").count()
    assert disabled == 8, "the seven degrees and 'both bad'"
    ann.press("1", "0")
    ann.wait_status("so this comparison can only be skipped")
    ann.press("e", "1", "?")
    assert ann.page.locator("#answer-edit").count() == 0
    listed = {text.split()[0] for text in ann.page.locator(".keys li").all_inner_texts()}
    assert {"S", "N", "H", "R"} <= listed
    assert listed & {"E", "U", "D", "0", "1", "7"} == set(), "nothing can be edited, judged or undone"
    ann.press("?")
    assert ann.rows() == []
    comparison_store.fail_answers(site.db, comparison_id)
    ann.wait_status("could not be written to its end, so this comparison can't be judged")
    ann.page.wait_for_selector(".judging[data-state=waiting]")


def test_failed_answers_can_not_be_ranked(site: Site) -> None:
    site.project("rank", 3)
    _, ids = comparison_store.begin_answers(
        site.db, [make_response(site.prompt(), "Once", seed=seed) for seed in range(3)]
    )
    ann = site.open()
    ann.ready()
    assert ann.page.locator(".ranking button:enabled").count() == 0
    site.db.write("UPDATE response SET state = 'failed' WHERE id = ?", (ids[0],))
    ann.page.wait_for_selector("text=Could not be written to its end.")
    ann.press("=")
    ann.wait_status("so this comparison can only be skipped")
    assert ann.page.locator(".ranking button:enabled").count() == 0


def test_an_own_prompt_is_asked_and_waited_for(site: Site) -> None:
    ann = site.open()
    ann.page.wait_for_selector("text=No model is writing answers at the moment.")
    ann.page.click("text=Write a prompt of your own")
    ann.page.fill("#own-prompt", "What is 1 + 1?")
    ann.page.click(".ask button")
    ann.page.wait_for_selector("text=Your prompt is kept till then.")
    with at_work(site.db):
        ann.later()
        ann.page.wait_for_selector("text=Your prompt is being answered.")
    ((comparison_id, prompt),) = own_prompts.asked(site.db)
    assert prompt.text == "What is 1 + 1?"
    comparison_store.begin_answers(
        site.db, [make_response(prompt, "Two", seed=seed) for seed in range(2)], comparison_id
    )
    ann.later()
    ann.page.wait_for_selector(f"{COMPARING} >> text=What is 1 + 1?")
    site.project(own_prompts=False)
    ann.page.reload()
    ann.page.wait_for_selector(".judging[data-state=waiting]")
    assert not ann.page.locator(".ask").is_visible()


@contextmanager
def at_work(db: Database) -> Iterator[None]:
    """A job of answering that a worker has taken, heard of as long as this lasts."""
    job_id = job_store.enqueue(db, AnsweringSpec(), "the program")
    assert job_store.claim(db, job_id, "worker") is not None
    with kept_alive(db, job_id):
        yield
    assert job_table.stop(db, job_id, "worker", "cancelled", "")


def test_an_own_prompt_that_came_to_nothing_is_told_to_who_asked(site: Site) -> None:
    ann, bob = site.open(), site.open()
    with at_work(site.db):
        ann.later()
        ann.page.wait_for_selector("text=The model is writing the next answers.")
        for person in (ann, bob):
            assert person.page.locator(".unanswered").inner_text() == ""
        comparison_id = own_prompts.ask(site.db, access.authorise(site.db, ann.name, "annotator").id, [LONG])
        ann.later()
        ann.page.wait_for_selector("text=Your prompt is being answered.")
        own_prompts.refuse_asked(site.db, comparison_id)
        ann.later()
        ann.page.wait_for_selector(".unanswered >> text=the model can't take it")
        assert "Write it in another way" in ann.page.locator(".unanswered").inner_text()
        ann.page.click("text=Write a prompt of your own")
        ann.page.fill("#own-prompt", "Shorter?")
        ann.page.click(".ask button")
        ann.page.wait_for_selector("text=Your prompt is being answered.")
        assert ann.page.locator(".unanswered").inner_text() == ""
    assert bob.page.locator(".unanswered").inner_text() == ""


def test_guidelines_are_open_at_first_and_say_when_they_change(site: Site) -> None:
    for _ in range(3):
        site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    ann.page.wait_for_selector(".guidelines[open] >> text=Read the prompt, then every answer")
    project_store.write_guidelines(site.db, "Be **fair**.", "owner")
    ann.judge("2")
    ann.page.wait_for_selector(".guidelines:not([open])")  # whoever judges has read them
    ann.page.wait_for_selector("text=changed since you last read them")
    ann.press("g")
    ann.page.wait_for_selector(".guidelines[open] strong:has-text('fair')")
    ann.press("g")
    ann.page.wait_for_selector(".guidelines:not([open])")
    ann.wait(lambda: ann.page.locator(".guidelines .news").text_content() == "", "the news to be gone")
    project_store.write_guidelines(site.db, "Be fair and *quick*.", "owner")
    ann.judge("2")
    ann.page.wait_for_selector("text=changed since you last read them")
    ann.press("g")
    ann.page.wait_for_selector(".guidelines[open] em")
    ann.press("g")
    ann.page.wait_for_selector(".guidelines:not([open])")
    ann.wait(lambda: ann.page.locator(".guidelines .news").text_content() == "", "the news to be gone")
    ann.judge("2")
    assert [row.guidelines_version for row in ann.rows()] == [1, 2, 3]


def test_the_first_guidelines_change_on_an_open_page_with_what_is_asked(site: Site) -> None:
    project_store.write_guidelines(site.db, project.FIRST_GUIDELINES, "Prefloop")
    for _ in range(2):
        site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    ann.page.wait_for_selector(".guidelines[open] >> text=Both bad")
    project_store.set_project(site.db, replace(project_store.project(site.db), kind="rank", answers=4))
    ann.judge("2")
    ann.page.wait_for_selector("text=changed since you last read them")
    ann.press("g")
    ann.page.wait_for_selector(".guidelines[open] >> text=Rank the answers")
    assert "Both bad" not in ann.page.locator(".guidelines .shown").inner_text()


def test_people_who_share_a_browser_share_no_drafts_and_no_habits(site: Site) -> None:
    project_store.write_guidelines(site.db, "Be fair.", "owner")
    site.project(overlap=2)
    site.compare("**A**", "**B**")
    ann = site.open()
    ann.ready()
    ann.page.wait_for_selector(".guidelines[open]")
    ann.press("g", "r")
    ann.page.wait_for_selector(".guidelines:not([open])")
    ann.page.wait_for_selector(".answer strong")
    ann.press("a", "n")
    ann.page.keyboard.type("private")
    bob = site.open_in(ann.page.context)
    bob.ready()
    assert sorted(bob.texts()) == ["**A**", "**B**"], "the same answers, as bob likes them"
    assert bob.page.input_value("#judgement-note") == ""
    assert bob.page.locator(".extras [aria-pressed=true]").count() == 0
    bob.page.wait_for_selector(".guidelines[open]")
    ann.later()  # the other tab is now bob's too, once it asks again
    ann.press("Escape", "3")
    ann.wait_status("not in your hands")
    assert ann.page.input_value("#judgement-note") == ""
    assert ann.rows() == bob.rows() == []
    names = ann.page.evaluate("Object.keys(localStorage).filter(key => key.includes('/draft.'))")
    assert [name.split("/")[0] for name in names] == [f"prefloop.{ann.name}"]


def test_what_was_being_written_leaves_the_browser_with_who_signs_out(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    ann.press("n")
    ann.page.keyboard.type("private")
    others = "prefloop.somebody/draft.own"
    ann.page.evaluate("key => localStorage.setItem(key, JSON.stringify({at: Date.now()}))", others)
    drafts = "Object.keys(localStorage).filter(key => key.includes('/draft.'))"
    assert len(ann.page.evaluate(drafts)) == 2
    ann.page.route("**/logout", lambda route: route.abort())
    ann.page.get_by_role("button", name="Sign out").click()
    ann.page.wait_for_url("chrome-error://**")
    ann.page.unroute("**/logout")
    ann.page.goto(site.address)
    ann.ready()
    assert len(ann.page.evaluate(drafts)) == 2, "nobody was signed out"
    ann.page.get_by_role("button", name="Sign out").click()
    ann.page.wait_for_url("**/login")
    assert ann.page.evaluate(drafts) == [others]


# ---------------------------------------------------------------------------------------------------- readable for all
def serious(page: Any, theme: str) -> list[str]:
    """What axe finds serious or critical on the page as it is; in the dark only what a theme changes."""
    found = violations(page, VIOLATIONS_ALONE if theme == "light" else CONTRAST_ALONE)
    return [str(one) for one in found if one.impact in ("serious", "critical")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(site: Site, theme: str) -> None:
    project_store.write_guidelines(site.db, "# Title\n\n" + "Be *fair*.\n\n" * 12, "owner")
    code = "# Title\n\n```python\ndef f(x):  # why\n    return x + 1, 'a'\n```\n\n[link](http://x.test) $x$\n\n" * 8
    for _ in range(2):
        site.compare(code, f"{code} b", turns=("Hello?", "word " * 900))
    ann = site.open(f"?__theme={theme}")
    ann.ready()
    assert ann.page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
    assert serious(ann.page, theme) == []
    ann.press("r", "a", "h", "e", "1")
    ann.page.wait_for_selector(".answer pre")
    assert serious(ann.page, theme) == []
    ann.press("Escape")
    ann.judge("3")
    ann.press("m")
    ann.page.wait_for_selector(".judging[data-state=listing]")
    assert serious(ann.page, theme) == []
    site.project("rank", 4)
    site.compare(*letters(4))
    ann.press("m")
    ann.ready()
    ann.press("s")
    ann.page.wait_for_selector(".answers[data-size='4']")
    ann.ready()
    ann.press("1", "=", "2")
    assert serious(ann.page, theme) == []
    ann.press("s")
    ann.page.wait_for_selector(".judging[data-state=waiting]")
    assert serious(ann.page, theme) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_who_signs_in_on_a_phone_can_read_and_reach_all_of_it(site: Site, theme: str) -> None:
    context = site.browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=theme)
    site.contexts.append(context)
    page = context.new_page()
    page.goto(f"{site.address}login")
    page.wait_for_selector(".hint")
    assert serious(page, theme) == []
    heights = page.locator("input:visible, button").evaluate_all("all => all.map((one) => one.offsetHeight)")
    assert len(heights) == 3
    assert min(heights) >= 44


def test_a_phone_shows_all_of_it_without_scrolling_sideways(site: Site) -> None:
    wide = "```\n" + "x" * 400 + "\n```\n\n| a | b |\n|---|---|\n| " + "y" * 200 + " | 1 |\n\n$$" + "+ x^2" * 60 + "$$"
    site.compare(wide, f"{wide} b")
    ann = site.open(viewport={"width": 400, "height": 850}, has_touch=True, is_mobile=True)
    ann.ready()
    for _ in range(2):
        assert ann.page.evaluate("document.documentElement.scrollWidth") <= 400
        for verdict in ann.page.locator(".verdicts button").all():
            place = verdict.bounding_box()
            assert place["y"] + place["height"] <= 850, "verdicts are in reach without scrolling"
            assert place["height"] >= 40
        ann.page.tap(".tools [data-key=r]")
        ann.page.wait_for_selector(".judging:not([aria-busy])")


# Every word of the verdicts that does not stand in one piece on its button.
BROKEN = """() => [...document.querySelectorAll(".verdicts button")].flatMap((button) => {
  const text = button.lastChild;
  return [...text.textContent.matchAll(/\\S+/g)].filter((word) => {
    const range = document.createRange();
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    const [inside, whole] = [button.getBoundingClientRect(), range.getBoundingClientRect()];
    return range.getClientRects().length > 1 || whole.left < inside.left || whole.right > inside.right;
  }).map((word) => word[0]);
})"""


def test_a_phone_breaks_no_word_of_a_verdict(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    ann.ready()
    assert ann.page.evaluate(BROKEN) == []


# Whether nothing lies before an element, and it is in the window.
IN_VIEW = """(element) => {
  const { left, right, top, bottom } = element.getBoundingClientRect();
  return [top + 2, bottom - 2].every((y) => element.contains(document.elementFromPoint((left + right) / 2, y)));
}"""


def test_what_a_key_presses_or_opens_comes_out_from_behind_the_verdicts(site: Site) -> None:
    site.compare("word " * 60, "word " * 70)
    ann = site.open(viewport={"width": 1280, "height": 620})
    ann.ready()
    for key, control in (("i", ".tag[aria-pressed=true]"), ("b", ".flag[aria-pressed=true]"), ("n", "#judgement-note")):
        ann.page.evaluate("scrollTo(0, 0)")
        assert not ann.page.locator("#judgement-note").evaluate(IN_VIEW)
        ann.press(key)
        assert ann.page.locator(control).evaluate(IN_VIEW), f"what {key} does"
    assert ann.status() == "Esc leaves the field."


def in_view_at(page: Any, control: Any, height: int) -> bool:
    """Whether a control is seen in a window of this height at the page's top."""
    page.set_viewport_size({"width": 1280, "height": height})
    page.evaluate("scrollTo(0, 0)")
    return bool(control.evaluate(IN_VIEW))


def test_a_click_on_what_stands_low_in_the_window_counts(site: Site) -> None:
    """The page must not move away under a pointer that is down, as it would to show what has the focus."""
    site.compare("word " * 60, "word " * 70)
    ann = site.open(viewport={"width": 1280, "height": 620})
    ann.ready()
    reason = ann.page.locator(".tag").first
    place = reason.bounding_box()
    # As far above the lower edge as the bar of verdicts needs, and nearer to it than what has the focus is shown.
    heights = range(int(place["y"]), 1200)
    height = heights[bisect_left(heights, True, key=lambda high: in_view_at(ann.page, reason, high))]
    assert in_view_at(ann.page, reason, height)
    place = reason.bounding_box()
    assert place["y"] + place["height"] > height - 11 * 16
    ann.page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    assert reason.get_attribute("aria-pressed") == "true"
    assert reason.evaluate(IN_VIEW)


def test_what_differs_is_marked_by_a_key_until_the_next_comparison(site: Site) -> None:
    texts = ("Tea is **good** in the morning.", "Tea is **bad** in the morning.")
    site.project(tags=(Tag("d", "detailed"),))
    site.compare(*texts)
    ann = site.open()
    ann.ready()
    assert ann.page.locator(".differ kbd").count() == 0, "a reason has the key"
    ann.page.get_by_role("button", name="Differences").click()
    ann.wait_status("What differs is marked.")
    assert sorted(ann.page.locator(".answer mark").all_inner_texts()) == ["bad", "good"]
    ann.press("r")
    ann.wait_status("Answers are shown rendered.")
    assert ann.page.locator(".answer mark").count() == 0
    ann.judge("4")
    site.project()
    site.compare(*texts)
    site.compare("Quite another matter", "Nothing like it, 7 8 9")
    seen = set()
    for _ in range(2):
        ann.ready()
        alike = "Tea" in ann.texts()[0]
        assert ann.page.locator(".differ[aria-pressed=true]").count() == ann.page.locator(".answer mark").count() == 0
        ann.press("d")
        ann.wait_status("What differs is marked." if alike else "Nothing is marked: the answers are the same")
        assert ann.page.locator(".answer mark").count() == (2 if alike else 0)
        seen.add(alike)
        ann.judge("4")
    assert seen == {True, False}


def test_what_differs_stays_marked_till_the_person_says_otherwise(site: Site) -> None:
    site.project(rendered=True, tags=())
    for number in range(2):
        site.compare(*(f"Tea is **{word}** in the morning, {number}." for word in ("good", "bad")))
    admin = site.open(role="admin")
    rendered, marks = admin.page.locator(".tools [data-key=r]"), admin.page.locator(".answer mark")
    admin.ready()
    assert rendered.get_attribute("aria-pressed") == "true"
    admin.press("d")
    admin.wait_status("What differs is marked.")
    assert rendered.get_attribute("aria-pressed") == "false", "marked texts are literal"
    admin.page.get_by_role("tab", name="Quality").click()
    admin.page.wait_for_selector(".judging", state="hidden")
    admin.page.evaluate("() => new Promise(done => setTimeout(done, 300))")
    with admin.page.expect_response("**/annotate/card"):
        admin.page.get_by_role("tab", name="Annotate").click()
    admin.page.click("text=Write a prompt of your own")
    admin.page.fill("#own-prompt", "What is 1 + 1?")
    admin.page.click(".ask button")
    admin.wait_status("Your prompt waits for its answers.")
    assert marks.count() == 2
    admin.press("Escape", "r")
    admin.wait_status("Answers are shown rendered.")
    assert (marks.count(), admin.page.locator(".answer strong").count()) == (0, 2)
    claim = handing_out.held_claim(site.db, access.authorise(site.db, admin.name, "admin").id)
    assert claim is not None
    site.db.write("UPDATE comparison SET state = 'dropped' WHERE id = ?", [claim.comparison_id])
    with admin.page.expect_response("**/annotate/card"):
        admin.press("d")
    admin.ready()
    assert marks.count() == 0, "another comparison, which nobody asked to have marked"
    site.project(rendered=True, tags=())
    admin.ready()
    admin.press("d")
    admin.page.wait_for_selector(".judging[data-state=waiting]")


def test_what_differs_is_marked_and_texts_are_rendered_while_a_judgement_is_changed(site: Site) -> None:
    site.project(tags=())
    for number in range(2):
        site.compare(*(f"Tea is **{word}** in the morning, {number}." for word in ("good", "bad")))
    ann = site.open()
    ann.judge("2")
    ann.ready()
    ann.press("m")
    ann.page.locator(".mine button").first.click()
    ann.page.wait_for_selector("text=You are changing an earlier judgement: Left clearly better.")
    marks, strong = ann.page.locator(".answer mark"), ann.page.locator(".answer strong")
    ann.press("d")
    ann.wait_status("What differs is marked.")
    assert (marks.count(), strong.count()) == (2, 0)
    ann.press("d")
    ann.wait_status("Nothing is marked any more.")
    ann.press("r")
    ann.wait_status("Answers are shown rendered.")
    assert (marks.count(), strong.count()) == (0, 2)
    ann.press("r")
    ann.wait_status("Answers are shown literally.")
    ann.ready()
    ann.press("6")
    ann.wait_status("Changed: right clearly better.")
    assert ann.rows()[-1].strength == 2


def test_every_control_names_its_key_and_the_focus_is_seen(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    keys = ann.page.locator(".judging [aria-keyshortcuts]").evaluate_all(
        "all => all.map(control => control.getAttribute('aria-keyshortcuts'))"
    )
    assert set("1234567 0SU RM? HPB ACTLI EN D".replace(" ", "")) == set(keys)
    ann.page.keyboard.press("Tab")
    ann.page.locator(".verdicts button").first.focus()
    ann.page.keyboard.press("Tab")
    focused = "getComputedStyle(document.activeElement).outlineWidth"
    assert ann.page.evaluate(focused) == "3px"
    before = len(ann.rows())
    ann.press("Enter")  # a focused control is pressed by Enter, as anywhere
    ann.wait(lambda: len(ann.rows()) == before + 1, "judgement from the focused button")
    assert ann.rows()[-1].strength == 2


def test_all_keys_are_listed_and_single_ones_can_be_turned_off(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    ann.press("?")
    listed = ann.page.locator(".keys li").all_inner_texts()
    assert {"1 Left much better", "S Skip", "H Harmful", "G Guidelines"} <= {" ".join(text.split()) for text in listed}
    ann.press("?", "m")
    ann.page.wait_for_selector(".mine:not([hidden])")
    ann.press("?")
    assert {text.split()[0] for text in ann.page.locator(".keys li").all_inner_texts()} == {"M", "?", "G", "Esc"}
    ann.press("?", "m")
    ann.ready()
    ann.press("?")
    ann.page.uncheck("#single-keys")
    assert {text.split()[0] for text in ann.page.locator(".keys li").all_inner_texts()} == {"Esc"}
    ann.page.locator("#keys-title").focus()
    ann.press("1", "s", "?")
    assert ann.rows() == []
    assert ann.page.locator(".keys").is_visible(), "the question mark is a single key, too"
    assert not ann.page.locator(".verdicts kbd").first.is_visible()
    ann.press("Escape")
    assert not ann.page.locator(".keys").is_visible()
    ann.page.reload()
    ann.ready()
    ann.press("1")
    ann.page.get_by_role("button", name="Tie").click()
    ann.wait(lambda: [row.strength for row in ann.rows()] == [0], "what the button judged, and no key")


def test_the_next_comparison_is_announced_and_the_focus_goes_on_from_its_prompt(site: Site) -> None:
    for question in ("Is tea good?", "Is rice good?"):
        site.compare(*letters(2), turns=(question,))
    ann = site.open()
    ann.ready()
    asked = ann.page.locator(".next").text_content()
    ann.judge("1")
    ann.ready()
    announced = ann.page.locator(".next").text_content()
    assert {asked, announced} == {"Next: Is tea good?", "Next: Is rice good?"}
    at_the_prompt = "document.activeElement.closest('.turn h2') !== null"
    assert ann.page.evaluate(at_the_prompt)
    for opened, focused in (("m", "mine-title"), ("?", "keys-title")):
        ann.press(opened)
        ann.page.wait_for_function("id => document.activeElement.id === id", arg=focused)
        ann.press("Escape")
        ann.wait(lambda: ann.page.evaluate(at_the_prompt), "the prompt again")


# Words in scripts with spaces, with signs within words, and without spaces.
MIXED = "Don't well-known हिन्दी में – 好的のabc 2.5 한국어"


@pytest.mark.parametrize("role", ["annotator", "admin"])
def test_below_open_guidelines_both_answers_are_seen_to_go_on(site: Site, role: str) -> None:
    project_store.write_guidelines(site.db, "- Be fair.\n" * 12, "owner")
    site.compare("word " * 900, "other " * 900)
    ann = site.open("annotate" if role == "admin" else "", role, viewport={"width": 1280, "height": 900})
    ann.ready()
    ann.page.wait_for_selector(".guidelines[open] .shown[tabindex='0']")
    assert ann.page.locator(".more >> visible=true").count() == 3
    assert lowest(ann.page, ".more") < ann.page.locator(".verdict-bar").bounding_box()["y"]


@pytest.mark.parametrize(("role", "height"), [("annotator", 900), ("admin", 900), ("admin", 720)])
def test_below_the_first_guidelines_no_control_lies_under_the_verdicts(site: Site, role: str, height: int) -> None:
    project_store.write_guidelines(site.db, project.FIRST_GUIDELINES, "Prefloop")
    site.compare("word " * 900, "other " * 900)
    ann = site.open("annotate" if role == "admin" else "", role, viewport={"width": 1280, "height": height})
    ann.ready()
    ann.page.wait_for_selector(".guidelines[open]")
    if role == "admin":
        ann.page.wait_for_selector("#standing p")
        ann.page.evaluate(TWO_FRAMES)
    assert ann.page.evaluate("scrollY") == 0
    assert lowest(ann.page, ALL_CONTROLS) <= ann.page.locator(".verdict-bar").bounding_box()["y"]


ALL_CONTROLS = ":is(.answer, .extras) :is(button, textarea)"


@pytest.mark.parametrize(
    ("role", "answers", "size"),
    [
        ("annotator", 2, (1280, 720)),
        ("annotator", 3, (1280, 900)),
        ("admin", 2, (1280, 720)),
        ("admin", 3, (1440, 900)),
    ],
)
def test_beside_long_answers_no_control_lies_under_the_verdicts(
    site: Site, role: str, answers: int, size: tuple[int, int]
) -> None:
    site.project("pair" if answers == 2 else "rank", answers)
    site.compare(*(f"{letter} " * 900 for letter in "abc"[:answers]))
    ann = site.open("annotate" if role == "admin" else "", role, viewport={"width": size[0], "height": size[1]})
    ann.ready()
    ann.page.locator(".guidelines").evaluate("panel => { panel.open = false; }")
    if role == "admin":
        ann.page.wait_for_selector("#standing p")  # which pushes all the rest down
    bar = ann.page.locator(".verdict-bar")
    ann.wait(lambda: lowest(ann.page, ALL_CONTROLS) <= bar.bounding_box()["y"], "all controls in view")
    assert ann.page.evaluate("scrollY") == 0
    assert ann.page.locator(".answer .more >> visible=true").count() == answers


def test_four_long_answers_fill_the_window_together(site: Site) -> None:
    site.project("rank", 4)
    site.compare(*(f"{letter} " * 900 for letter in "abcd"))
    ann = site.open("annotate", "admin", viewport={"width": 1280, "height": 720})
    ann.ready()
    ann.page.wait_for_selector("#standing p")
    answers, bar = ann.page.locator(".answers"), ann.page.locator(".verdict-bar")
    ann.wait(lambda: 560 < answers.bounding_box()["height"] <= bar.bounding_box()["y"], "room for all four")
    ann.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    ann.wait(lambda: lowest(ann.page, ALL_CONTROLS) <= bar.bounding_box()["y"], "nothing that stays covered")


def test_guidelines_have_the_room_that_short_answers_leave(site: Site) -> None:
    project_store.write_guidelines(site.db, project.FIRST_GUIDELINES, "Prefloop")
    site.compare("word " * 40, "other " * 9)
    ann = site.open()
    ann.ready()
    shown = ann.page.locator(".guidelines[open] .shown")
    ann.wait(lambda: shown.evaluate("box => box.scrollHeight <= box.clientHeight"), "all lines of the guidelines")
    assert not ann.page.locator(".more >> visible=true").count()
    assert lowest(ann.page, ALL_CONTROLS) <= ann.page.locator(".verdict-bar").bounding_box()["y"]


def lowest(page: Any, controls: str) -> float:
    """The lower edge of the lowest of these."""
    seen = "all => all.filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect().bottom)"
    return float(max(page.locator(controls).evaluate_all(seen)))  # at once: one may be hidden the next moment


@pytest.mark.parametrize("role", ["annotator", "admin"])
def test_a_phone_shows_guidelines_and_where_the_answers_begin(site: Site, role: str) -> None:
    project_store.write_guidelines(site.db, project.FIRST_GUIDELINES, "Prefloop")
    site.compare("word " * 900, "other " * 900)
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    ann = site.open("annotate" if role == "admin" else "", role, **phone)
    ann.ready()
    ann.page.wait_for_selector(".guidelines .more >> visible=true")
    shown, bar = (
        ann.page.locator(f"{part} >> visible=true").bounding_box() for part in (".answer .shown", ".verdict-bar")
    )
    assert shown["y"] + 2 * 25 < bar["y"], "two lines of an answer"
    ann.page.set_viewport_size({"width": 844, "height": 390})
    ann.wait(lambda: ann.page.locator(".sides-switch").is_hidden(), "the wide layout")
    high = [box["height"] for one in ann.page.locator("button >> visible=true").all() if (box := one.bounding_box())]
    assert min(high) >= 43.5
    verdicts = ann.page.locator(".verdicts").bounding_box()
    assert verdicts["y"] > 390, "they cover no answer"


def test_what_is_cut_says_so_and_a_phone_shows_one_long_answer_at_a_time(site: Site) -> None:
    prompt = site.prompt()
    _, (first, second) = comparison_store.begin_answers(
        site.db, [make_response(prompt, text) for text in ("word", "Short.")]
    )
    ann = site.open(viewport={"width": 1280, "height": 800})
    ann.ready()
    comparison_store.update_answers(site.db, {first: "word " * 700, second: MIXED})
    ann.page.wait_for_selector("text=700 words")
    counts = sorted(ann.page.locator(".answer .words").all_inner_texts())
    assert counts == [f"{count_words(MIXED)} words", "700 words"]
    more = ann.page.locator(".answer .more >> visible=true")
    assert more.count() == 1
    press = "all => all.forEach((one) => one.click())"
    wait_for(ann.page, "its end", lambda: more.evaluate_all(press) or not more.count())
    ann.page.set_viewport_size({"width": 390, "height": 844})
    shown = ann.page.locator(".answer >> visible=true")
    assert shown.count() == 1
    ann.page.get_by_role("button", name="Right", exact=True).click()
    assert shown.get_attribute("data-place") == "1"


def test_on_a_phone_a_long_answer_is_read_from_its_first_line_and_then_from_where_it_was_left(site: Site) -> None:
    site.compare("word " * 900, "other " * 900)
    ann = site.open(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    ann.ready()
    left, right = (ann.page.get_by_role("button", name=name, exact=True) for name in ("Left", "Right"))
    ann.page.evaluate("scrollTo(0, 2000)")
    ann.wait(lambda: ann.page.evaluate("scrollY") == 2000, "the middle of the left answer")
    right.tap()
    title = ann.page.locator(".answer[data-place='1'] h2")
    ann.wait(lambda: title.evaluate(IN_VIEW), "the beginning of the right one")
    left.tap()
    ann.wait(lambda: ann.page.evaluate("scrollY") == 2000, "where the left one was left")


def test_a_phone_shows_which_of_four_answers_it_shows_in_one_row(site: Site) -> None:
    site.project("rank", 4)
    site.compare(*(f"{letter} " * 400 for letter in "abcd"))
    ann = site.open(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    ann.ready()
    tops = "all => [...new Set(all.map((side) => side.getBoundingClientRect().top))].length"
    heights = "all => Math.max(...all.map((side) => side.clientHeight))"
    sides = ann.page.locator(".side")
    alone = sides.first.evaluate("side => parseFloat(getComputedStyle(side).lineHeight)")
    for place, rank in enumerate(("1st", "2nd", "3rd", "4th")):
        assert sides.evaluate_all(tops) == 1
        assert sides.evaluate_all(heights) < 44 + alone, "no label takes two lines"
        ann.page.tap(f".side >> nth={place}")
        ann.page.tap(f".answer[data-place='{place}'] .choose")
        ann.page.get_by_role("button", name=f"Answer {place + 1}: {rank}").last.wait_for()


def test_on_a_phone_a_long_answer_is_ranked_at_its_end(site: Site) -> None:
    site.project("rank", 3)
    site.compare(*(f"{letter} " * 900 for letter in "abc"))
    ann = site.open(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    ann.ready()
    box = ann.page.locator(".answer[data-place='0']")
    shown, choose = box.locator(".shown").bounding_box(), box.locator(".choose").bounding_box()
    assert 0 <= choose["y"] - shown["y"] - shown["height"] < 40


@pytest.mark.parametrize("size", [(640, 360), (320, 640), (390, 844)])
def test_whoever_has_a_keyboard_sees_the_keys_however_large_they_read(site: Site, size: tuple[int, int]) -> None:
    site.compare(*letters(2))
    phone = size == (390, 844)
    ann = site.open(viewport={"width": size[0], "height": size[1]}, has_touch=phone, is_mobile=phone)
    ann.ready()
    assert ann.page.locator(".verdicts kbd >> visible=true").count() == (0 if phone else 10)
    ann.press("?")
    assert "1 Left much better" in {" ".join(text.split()) for text in ann.page.locator(".keys li").all_inner_texts()}
    assert ann.page.locator(".keys kbd >> visible=true").count() == ann.page.locator(".keys li").count()


def test_what_the_page_says_is_seen_in_a_low_window(site: Site) -> None:
    for _ in range(2):
        site.compare("word " * 90, "word " * 80)
    ann = site.open(viewport={"width": 640, "height": 360})
    ann.ready()
    said = ann.page.locator(".status")
    ann.judge("2")
    ann.wait(lambda: said.evaluate(IN_VIEW), "what was saved, in view")
    assert not ann.page.locator(".verdicts").evaluate(IN_VIEW), "there is no room for the verdicts"


def test_a_table_breaks_no_word_and_scrolls_by_keyboard_where_it_is_too_wide(site: Site) -> None:
    site.project(rendered=True)
    heads = ("Enterprise", "unlimited", "Storage", "Availability", "Recommendation")
    table = f"| {' | '.join(heads)} |\n|{'---|' * 5}\n| {' | '.join('1' for _ in heads)} |"
    site.compare(table, "| a | b |\n|---|---|\n| 1 | 2 |")
    ann = site.open(viewport={"width": 390, "height": 844})
    ann.ready()
    heights = ann.page.locator("th").evaluate_all("cells => cells.map((cell) => cell.offsetHeight)")
    assert max(heights) < 45, "each has one line"
    stops = ann.page.locator("table").evaluate_all("all => all.map((one) => [one.scrollWidth > 360, one.tabIndex])")
    assert sorted(stops) == [[False, -1], [True, 0]]
    assert ann.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_sends_the_nonce_and_the_act(site: Site) -> None:
    site.compare(*letters(2))
    ann = site.open()
    ann.ready()
    sent: list[dict[str, Any]] = []
    ann.page.on("request", lambda request: sent.append(json.loads(request.post_data)) if "judge" in request.url else 0)
    claim = handing_out.held_claim(site.db, access.authorise(site.db, ann.name, "annotator").id)
    ann.judge("t", "4")
    assert claim is not None
    assert len(sent) == 1
    assert sent[0]["nonce"] == claim.nonce
    assert sent[0]["act"] == {
        **{"outcome": "ranked", "ranks": [1, 1], "strength": 0, "tags": ["right tone"], "note": ""},
        **{"flag": None, "edit": None},
    }


def test_what_was_put_into_hand_on_another_tab_is_there_on_coming_back(site: Site) -> None:
    """Settling starts on the Quality tab: the Annotate tab must not go on showing what was in hand before."""
    site.project()
    site.compare("judged one", "judged two")
    ann = site.open()
    disputed = ann.judge("1").comparison_id
    ann.page.close()
    site.compare("ann's one", "ann's two")
    handing_out.claim_next(site.db, access.authorise(site.db, ann.name, "annotator").id)
    site.compare("in hand one", "in hand two")
    admin = site.open(role="admin")
    admin.ready()
    assert sorted(admin.texts()) == ["in hand one", "in hand two"]
    admin.page.get_by_role("tab", name="Quality").click()
    admin.page.wait_for_selector(".judging", state="hidden")
    # By the page's own clock, so that its poll has noticed that it is out of sight.
    admin.page.evaluate("() => new Promise(done => setTimeout(done, 300))")
    handing_out.take_to_settle(site.db, access.authorise(site.db, admin.name, "admin").id, disputed)
    admin.page.get_by_role("tab", name="Annotate").click()
    admin.wait_status("To settle")
    assert sorted(admin.texts()) == ["judged one", "judged two"]
    assert admin.judge("7").purpose == "settle"
