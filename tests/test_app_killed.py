"""The app is killed under load: every judgement it acknowledged is in the database, once, and it goes on afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Lock

import httpx
import pytest

from annotation.database import Database
from annotation.web import access
from benchmarks.harness.driver import App, Ledger, Page, SimulatedAnnotator
from tests.conftest import seed_comparisons

pytestmark = pytest.mark.slow

ANNOTATORS = 4
COMPARISONS = 120


@pytest.fixture
def sessions(db: Database) -> dict[str, str]:
    """Comparisons to judge, and the session tokens of people who will."""
    seed_comparisons(db, COMPARISONS)
    people = [
        access.add_account(db, f"ann-{number}", "annotator", "a long enough password") for number in range(ANNOTATORS)
    ]
    return {person.name: access.open_session(db, person) for person in people}


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def team_at(app: App, sessions: dict[str, str], ledger: Ledger, stack: ExitStack) -> list[SimulatedAnnotator]:
    """Each person's browser, signed in."""
    team = []
    for token in sessions.values():
        page = stack.enter_context(Page(app.url))
        page.client.cookies.set(app.cookie, token)
        team.append(SimulatedAnnotator(page, ledger, lambda left, right: "left-clearly"))
    return team


def judge_until_the_line_is_dead(annotator: SimulatedAnnotator, judged: Callable[[], object] = lambda: None) -> bool:
    """Judge without a pause. True when the app went away, False when nothing was left to judge.

    `judged` is called after each judgement, while the others are in the middle of theirs.
    """
    try:
        card = annotator.look()
        while card.nonce:
            card = annotator.judge(card).next
            judged()
    except httpx.TransportError:
        return True
    return False


@pytest.mark.own_start
def test_a_killed_app_has_every_acknowledged_judgement_once_and_goes_on(
    data_dir: Path, db: Database, sessions: dict[str, str], ledger: Ledger
) -> None:
    moment = random.randint(20, COMPARISONS // 2)
    with App(data_dir, workers=False) as app, ExitStack() as stack, ThreadPoolExecutor(ANNOTATORS) as pool:
        team = team_at(app, sessions, ledger, stack)
        once = Lock()

        def kill_at_the_moment() -> None:
            if ledger.acknowledged >= moment and once.acquire(blocking=False):
                app.kill()

        judging = [pool.submit(judge_until_the_line_is_dead, annotator, kill_at_the_moment) for annotator in team]
        assert all(work.result() for work in judging), "the app was not under load when it was killed"

    tally = ledger.tally(db)
    assert tally.acknowledged >= moment
    assert tally.clean, (moment, tally)
    assert tally.stored - tally.acknowledged <= len(ledger.unanswered) <= ANNOTATORS
    assert db.value("PRAGMA integrity_check") == "ok"

    with App(data_dir, workers=False) as app, ExitStack() as stack, ThreadPoolExecutor(ANNOTATORS) as pool:
        went_away = list(pool.map(judge_until_the_line_is_dead, team_at(app, sessions, ledger, stack)))
    assert went_away == [False] * ANNOTATORS
    tally = ledger.tally(db)
    assert tally.clean, (moment, tally)
    assert tally.stored == COMPARISONS, "a comparison got lost with the app"
