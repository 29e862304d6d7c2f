"""What the form for rented hardware says of the Hub's prices."""

from __future__ import annotations

import gradio as gr

from annotation.database import Database
from annotation.jobs import job_table
from annotation.ui import markup
from rlhf.hub import hub_requests
from rlhf.tabs.train import rental_form

FLAVOR = {"name": "a10g-small", "label": "A10G", "price_per_hour": 1.0}


def test_of_asking_for_prices_the_latest_is_told_and_which_prices_are_shown(db: Database) -> None:
    def ask() -> int:
        return hub_requests.REQUESTS.enqueue(db, hub_requests.AskPrices(), "olga")

    def fail(number: int) -> str:
        assert job_table.claim(db, number, "w")
        assert job_table.stop(db, number, "w", "failed", "The Hub is down.")
        return str(rental_form.asking(db, ""))

    assert rental_form.asking(db, "") == gr.skip()
    said = fail(ask())
    assert "The Hub has told no prices. The Hub is down." in said
    told = ask()
    asked = markup.notice(rental_form.ASKING)
    assert rental_form.asking(db, said) == asked
    assert job_table.claim(db, told, "w")
    assert job_table.finish(db, told, "w", {"flavors": [FLAVOR]})
    assert rental_form.asking(db, asked) == ""
    assert rental_form.asking(db, "Job 7 is for rented hardware.") == gr.skip(), "it is still to be read"
    with db.transaction() as connection:
        connection.execute("UPDATE job SET finished = '2026-01-02T10:00:00.000000+00:00' WHERE id = ?", (told,))
    assert "These prices are of 2026-01-02 10:00 UTC. The Hub is down." in fail(ask())
