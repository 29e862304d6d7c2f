"""The Train tab in a real browser: a reward model, its quality, PPO on a person's word, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.jobs import job_store
from rlhf.models import registry
from tests.e2e.conftest import running_app
from tests.machine_fixtures import Machine, make_machine, wait_until

pytestmark = pytest.mark.browser


@dataclass
class Training:
    """The owner before the Train tab of a project with judgements."""

    machine: Machine
    page: Any

    def open(self, name: str, form: str) -> None:
        """Turn to one of the tabs inside Train, and unfold its settings."""
        self.page.get_by_role("tab", name="Train", exact=True).click()
        self.page.get_by_role("tab", name=name, exact=True).click()
        start = self.page.locator(f"#{form}-start")
        start.wait_for()  # until then the settings in view are another form's
        own = self.page.get_by_role("tabpanel").filter(has=start).last
        own.locator("button", has_text="Settings").locator("visible=true").first.click()

    def set(self, label: str, value: str) -> None:
        """Fill a field of the open form."""
        self.page.get_by_label(label, exact=True).locator("visible=true").first.fill(value)

    def start(self, form: str, kind: str) -> job_store.Job:
        """Press the form's button by keyboard, and wait until the job has finished."""
        self.page.press(f"#{form}-start:not([disabled])", "Enter")
        # The page turns to the runs, and the button that was pressed is gone with its tab.
        self.page.wait_for_selector("[role=tab][aria-selected=true]:focus:has-text('Runs')")

        def job() -> job_store.Job | None:
            return next(iter(job_store.recent(self.machine.db, (kind,), 1)), None)

        wait_until(f"that a {kind} job ends", lambda: (found := job()) and not found.is_open)
        found = job()
        assert found is not None
        assert found.status == "finished", found.message
        return found


@pytest.fixture
def training(tmp_path: Path, tiny_model: Path, browser: Any) -> Iterator[Training]:
    machine = make_machine(tmp_path / "data", tiny_model)
    machine.add_prompts(train=12, held_out=6)
    machine.judge("train", 12)
    # What people want of held-out answers is the contrary, so the reward model must be doubted.
    machine.judge("held-out", 6, "longer")
    with running_app(machine.data_dir, "--model", str(tiny_model)) as (_, link):
        context = browser.new_context()
        page = context.new_page()
        page.goto(link)
        page.get_by_role("tab", name="Train").click()
        yield Training(machine, page)
        context.close()
    machine.db.close()


def test_a_reward_model_is_trained_doubted_and_followed_all_the_same(training: Training) -> None:
    page, db = training.page, training.machine.db
    errors: list[str] = []
    # Gradio's plot says this of itself where it is hidden in the moment in which it is drawn.
    page.on("pageerror", lambda error: errors.append(str(error)) if "offsetWidth" not in str(error) else None)

    training.open("Reward model", "reward_model")
    training.set("Learning rate", "0.01")
    judge = training.start("reward_model", "reward_model")
    page.wait_for_selector("text=Calibration")
    page.wait_for_selector("text=On held-out comparisons")

    training.open("PPO", "ppo")
    training.set("Steps", "2")
    training.set("Rollouts", "4")
    word = page.locator("#ppo-accept")
    word.wait_for(state="visible")
    assert page.locator("#ppo-start").is_disabled()
    word.get_by_role("checkbox").check()
    followed = training.start("ppo", "ppo")
    assert isinstance(followed.spec, PPOSpec)
    assert followed.spec.reward_model == (judge.result or {})["revision"]
    page.wait_for_selector("text=KL to the reference")
    page.wait_for_selector("text=Sample answers")

    # Its check, which the form asks for, needs it.
    wait_until("its check", lambda: any(job.status == "finished" for job in job_store.recent(db, ("check",))))
    page.get_by_role("button", name="Its check").click()
    page.wait_for_selector("text=Accuracy on held-out judgements >> visible=true")
    page.click("#run-delete")
    page.wait_for_selector("text=can't be brought back")
    page.get_by_role("button", name="Yes, delete the files").click()
    wait_until("that its files are gone", lambda: registry.by_revision(db, (followed.result or {})["revision"]).deleted)
    assert errors == []
