"""Two languages in a real browser: the sign-in page, the annotators' page, what its script says, and the choice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from annotation.database import Database
from annotation.store import comparison_store
from annotation.web import access
from rlhf.models import registry
from tests.conftest import BASE_NAME, make_response, measure_nobody, new_database, seed_prompts
from tests.e2e.conftest import read_comparison, running_app, sign_in
from tests.sentences import POLISH

pytestmark = pytest.mark.browser

QUESTION = "Which answer is better, and by how much?"
FRAGE = "Welche Antwort ist besser, und um wie viel?"


# Any two of them have an answer for each of Polish's three forms.
LENGTHS = ((1, 3), (5, 1), (3, 5))
WORDS = {"1 słowo", "3 słowa", "5 słów"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[tuple[Database, str, str]]:
    """The program with a translation into Polish: its database, its address and the owner's link."""
    folder = tmp_path_factory.mktemp("translation")
    db = new_database(folder / "data")
    registry.ensure_base(db, BASE_NAME)
    measure_nobody(db)
    access.add_account(db, "kim", "admin", "a long enough password")
    for lengths, prompt in zip(LENGTHS, seed_prompts(db, len(LENGTHS)), strict=True):
        comparison_store.add_comparison(db, [make_response(prompt, "so " * count, 1) for count in lengths])
    (folder / "pl.po").write_text(POLISH, "utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PREFLOOP_LANGUAGE", str(folder / "pl.po"))
        with running_app(folder / "data", "--no-workers") as (address, link):
            yield db, address, link
    db.close()


def test_somebody_chooses_a_language_and_each_of_their_pages_is_opened_in_it(
    served: tuple[Database, str, str], browser: Any
) -> None:
    _db, address, owners = served
    context = browser.new_context(locale="de-DE")
    page = context.new_page()
    page.goto(f"{address}login")
    assert page.get_attribute("html", "lang") == "de"
    page.get_by_role("button", name="Anmelden").wait_for()
    page.goto(owners)  # nobody has chosen, so it goes on in what the browser asks for
    page.get_by_text(FRAGE).wait_for()
    assert page.get_attribute("html", "lang") == "de"
    other = context.new_page()
    other.goto(f"{address}annotate")
    other.get_by_text(FRAGE).wait_for()
    page.get_by_role("button", name="Meine Urteile").click()
    page.get_by_text("Du hast noch nichts beurteilt.").wait_for()
    page.get_by_role("button", name="Meine Urteile").click()
    page.get_by_role("button", name="Links viel").click()
    page.get_by_text("Gespeichert: links viel besser.").wait_for()
    page.get_by_label("Sprache", exact=True).select_option("polski")
    page.get_by_text(QUESTION).wait_for()
    assert page.get_attribute("html", "lang") == "pl"
    assert page.url == f"{address}annotate"
    words = page.locator(".answer .words").all_inner_texts()
    read_comparison(page)
    page.get_by_role("button", name="Left much").click()
    page.get_by_text("Saved: left much better.").wait_for()
    words += page.locator(".answer .words").all_inner_texts()
    assert set(words) == WORDS
    other.get_by_role("button", name="My judgements").wait_for()  # by itself, at what it asks next
    context.close()


def test_gradios_own_words_are_in_the_language_that_a_person_has_chosen(
    served: tuple[Database, str, str], browser: Any
) -> None:
    db, address, _link = served
    context = browser.new_context(locale="en-US")
    sign_in(context, db, address)
    page = context.new_page()
    page.goto(address)
    page.get_by_label("Language", exact=True).select_option("Deutsch")
    page.get_by_label("Sprache", exact=True).wait_for()
    page.goto(f"{address}data/import")
    page.get_by_text("Datei hier ablegen").wait_for()
    assert not page.get_by_text("Drop File Here").count()
    context.close()
