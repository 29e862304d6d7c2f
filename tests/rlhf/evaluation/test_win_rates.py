"""One definition of a win rate: the check's report, the gate, the page and the card show the same number."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from annotation.database import Database
from annotation.metrics.intervals_and_bias import wilson_interval
from annotation.records import Prompt
from annotation.store import comparison_store, policy_comparisons, prompt_store
from annotation.ui.formatting import percent_with_interval
from annotation.web import access
from rlhf.evaluation import pair_outcomes, win_rates
from rlhf.evaluation.decisions import candidate_findings
from rlhf.evaluation.finished_checks import newest_check
from rlhf.evaluation.gate import Rule, decide, weigh_people
from rlhf.evaluation.gate_words import criterion_words
from rlhf.hub import push_model
from rlhf.judges import judge_store
from rlhf.models import registry
from rlhf.models.registry import Policy
from rlhf.tabs.iterations import check_report
from tests.conftest import make_response, seed_prompts
from tests.rlhf.evaluation.test_decisions import finish_check, judge_says, make_candidate, people_say, skip

# (the candidate's answer, the other's): three ties by the text, a loss and a win by an answer that is none.
UNCOMPARED = (("Yes.", "Yes."), ("Yes.", "Yes.\n"), ("", " "), (" ", "Yes."), ("Yes.", ""))


def answer(db: Database, prompt: Prompt, policy: Policy, text: str) -> None:
    """A policy's answer in a check."""
    comparison_store.add_response(db, make_response(prompt, text, policy.id, seed=prompt.id), "check")


@pytest.fixture
def checked(db: Database, data_dir: Path) -> Policy:
    """A candidate that a judge prefers on eight prompts, on five of which nobody has to be asked."""
    made, base = make_candidate(db, data_dir, number=0), registry.by_revision(db, "base")
    texts = (*UNCOMPARED, *((f"Long, {number}.", f"Short, {number}.") for number in range(8)))
    for prompt, (own, other) in zip(seed_prompts(db, 13, "held-out")[-13:], texts, strict=True):
        answer(db, prompt, made, own)
        answer(db, prompt, base, other)
    assert policy_comparisons.compare_policies(db, made.id, base.id) == 8, "nobody is asked about the others"
    judge = judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    judge_says(db, judge, made)
    rate = win_rates.outcomes_by(db, judge, made, base).rate()
    finish_check(db, data_dir, made, "j", win_rates={"base": {"j": asdict(rate)}}, prompts=13, same_answers=3)
    return made


def test_the_report_the_gate_the_page_and_the_card_show_one_win_rate(
    db: Database, data_dir: Path, checked: Policy
) -> None:
    """Eight won, one more without asking, three ties and a loss: (8 + 1 + 3 / 2) of 13."""
    check = newest_check(db, checked.revision)
    assert check is not None
    rate = check.report.rates_against("base")["j"]
    assert (rate.n, rate.ties, rate.value) == (13, 3, pytest.approx(10.5 / 13))
    (judge,) = candidate_findings.findings(db, checked).judges
    assert (len(judge.outcomes), sum(one.outcome for one in judge.outcomes) / 13) == (rate.n, rate.value)
    decision = decide(Rule(judge_may_decide=True), candidate_findings.findings(db, checked))
    assert criterion_words(decision.weighed.panel[0].source).value.startswith("81% on 13 prompts (")
    assert rate.estimate is not None
    page = check_report.report_card(check.report, Rule())
    assert f"<td>{percent_with_interval(rate.estimate)}</td>" in page
    assert percent_with_interval(rate.estimate).startswith("81% (")
    (on_card,) = push_model.published_win_rates(db, checked)
    assert (on_card.against, on_card.judge, on_card.share) == ("base", "the AI judge `j`", rate.estimate)


def test_answers_that_differ_in_blanks_alone_are_the_same_and_count_once(db: Database, checked: Policy) -> None:
    """SQLite's trim leaves newlines, so such a pair was compared, and counted as a tie beside its verdict."""
    judge, base = judge_store.by_name(db, "j"), registry.by_revision(db, "base")
    found = win_rates.outcomes_by(db, judge, checked, base)
    assert (len(found.compared), len(found.uncompared), found.answered) == (8, 5, 13)


def test_a_pair_that_an_earlier_version_let_a_judge_compare_counts_by_its_verdict(
    db: Database, checked: Policy
) -> None:
    judge, base = judge_store.by_name(db, "j"), registry.by_revision(db, "base")
    pair = next(one for one in policy_comparisons.paired_answers(db, checked.id, base.id) if one.texts == UNCOMPARED[1])
    with db.transaction() as connection:
        connection.execute(
            "INSERT INTO comparison (prompt_id, purpose, candidate_id, against_id, asks, created) "
            "VALUES (?, 'preference', ?, ?, 'nobody', '')",
            (pair.prompt_id, checked.id, base.id),
        )
        comparison_store.place_responses(db, db.value("SELECT max(id) FROM comparison"), [pair.first, pair.second])
    judge_says(db, judge, checked)
    found = win_rates.outcomes_by(db, judge, checked, base)
    assert (len(found.compared), len(found.uncompared), len(found.decided)) == (9, 4, 13)


def test_a_judge_that_said_nothing_has_no_win_rate_unless_there_was_nothing_to_say(
    db: Database, data_dir: Path
) -> None:
    made, base = make_candidate(db, data_dir, number=2), registry.by_revision(db, "base")
    silent = judge_store.add(db, "silent", "local", {"model": "base"}, "owner")
    (prompt,) = seed_prompts(db, 1, "held-out")[-1:]
    answer(db, prompt, made, "Yes.")
    answer(db, prompt, base, "Yes.")
    assert win_rates.outcomes_by(db, silent, made, base).rate().value is None
    own = {
        pair.first for pair in policy_comparisons.paired_answers(db, made.id, base.id) if pair.known_outcome is not None
    }
    assert win_rates.outcomes_by(db, silent, made, base, own).rate().value == 0.5


def test_people_who_have_said_nothing_have_no_win_rate(db: Database, checked: Policy) -> None:
    assert win_rates.by_people(db, checked, registry.by_revision(db, "base")) is None


def test_people_and_judges_have_one_definition_of_a_win_rate(db: Database, checked: Policy) -> None:
    """What nobody has to compare counts as it does by a judge: a half of the same text, and an answer beats none."""
    base = registry.by_revision(db, "base")
    people_say(db, 8, "candidate")
    judge = win_rates.outcomes_by(db, judge_store.by_name(db, "j"), checked, base).rate()
    people = win_rates.by_people(db, checked, base)
    assert people is not None
    assert (people.value, people.n) == (judge.value, judge.n) == (pytest.approx(10.5 / 13), 13)


def test_what_is_published_of_people_is_what_the_gate_shows_on_the_prompts_that_count(
    db: Database, data_dir: Path
) -> None:
    """They stop when it is ahead, so Wilson's interval, for a single look, would be too narrow."""
    made, base = make_candidate(db, data_dir, number=30), registry.by_revision(db, "base")
    finish_check(db, data_dir, made)
    people_say(db, 12, "candidate")
    found = candidate_findings.findings(db, made)
    source = weigh_people(Rule(alpha=win_rates.MISSED / 2), found, win_rates.MISSED / 2)
    published = push_model.published_win_rates(db, made)
    assert [(one.against, one.judge, one.share) for one in published] == [("base", "people", source.found)]
    assert published[0].share.low < wilson_interval(12, 12)[0]
    # Of what the gate does not go by nothing is shown as if it did.
    prompt_store.hold_for(db, [one.prompt_id for one in found.people[:5]], 1)
    db.write("UPDATE job SET spec = json_set(spec, '$.gate_set', 1) WHERE kind = 'check'")
    again = win_rates.by_people(db, made, base)
    assert again is not None
    assert again.n == 5 == len(candidate_findings.findings(db, made).people)


def test_a_win_rate_by_people_leaves_out_what_they_only_skipped(db: Database, checked: Policy) -> None:
    """The answers that nobody has to compare, with which that enters, stay once anything was judged."""
    base, bob = registry.by_revision(db, "base"), access.add_account(db, "bob", "annotator", "bob's password")
    db.write("UPDATE comparison SET people_chance = 0.5, people_drawn = 1")
    for _ in range(3):
        skip(db, bob.id)
    skips = win_rates.people_outcomes(db, checked, base)
    assert len(skips) > 3
    assert all(one.skipped for one in skips)
    assert win_rates.by_people(db, checked, base) is None
    people_say(db, 5, "candidate")
    every, judged = (win_rates.people_outcomes(db, checked, base, skips=skips) for skips in (True, False))
    assert [one.outcome for one in every if one.skipped] == [0.5] * 3, "what nobody has to compare is none of them"
    assert [one.outcome for one in every[: len(skips)]] == [one.outcome for one in skips]
    assert judged == tuple(one for one in every if not one.skipped)
    found = win_rates.by_people(db, checked, base)
    assert found is not None
    assert 5 < found.n == len(judged)


def test_a_win_rate_by_people_is_of_what_was_judged_after_a_skip(db: Database, checked: Policy) -> None:
    """An earlier version gave to others what one had skipped. No judge takes part here, so it counts as any other."""
    base, bob = registry.by_revision(db, "base"), access.add_account(db, "bob", "annotator", "bob's password")
    for _ in range(8):
        skip(db, bob.id)
    people_say(db, 8, "candidate")
    before = win_rates.by_people(db, checked, base)
    db.write("UPDATE comparison SET people_chance = 0.5, people_drawn = 1")
    entered = [one.outcome for one in win_rates.people_outcomes(db, checked, base) if one.shown is not None]
    assert entered == [0.5] * 8
    assert win_rates.by_people(db, checked, base) == before


def test_a_judges_win_rate_counts_prompts(db: Database, checked: Policy) -> None:
    """Of two seeds of one prompt each counts half, as the gate counts them."""
    judge, base = judge_store.by_name(db, "j"), registry.by_revision(db, "base")
    before = win_rates.outcomes_by(db, judge, checked, base).rate()
    prompt = seed_prompts(db, 0, "held-out")[-1]
    for policy, text in ((checked, ""), (base, "Yes.")):
        comparison_store.add_response(db, make_response(prompt, text, policy.id, seed=99), "check")
    rate = win_rates.outcomes_by(db, judge, checked, base).rate()
    assert (rate.n, rate.value) == (before.n, pytest.approx((before.value or 0) - 0.5 / 13))


def test_what_nobody_compares_enters_as_mixed_and_as_large_a_part_as_what_people_do(
    db: Database, data_dir: Path
) -> None:
    """The opponent has nothing to say on half of the prompts: that is no evidence before people have compared."""
    judge_store.add(db, "j", "local", {"model": "base"}, "owner")
    made, base = make_candidate(db, data_dir, number=0), registry.by_revision(db, "base")

    def another_check(prompts: int, share: float) -> None:
        asked = seed_prompts(db, prompts, "held-out")[-prompts:]
        for prompt in asked:
            answer(db, prompt, made, f"Long, {prompt.id}.")
        for prompt in asked:
            answer(db, prompt, base, f"Short, {prompt.id}." if prompt.id % 2 else "")
        policy_comparisons.compare_policies(db, made.id, base.id, share=share)

    another_check(200, 0.3)
    drawn = pair_outcomes.open_to_people(db, made.id, base.id)
    left = win_rates.prompts_left_to_judges(db, made, base)
    assert 10 < drawn < 60
    assert win_rates.people_outcomes(db, made, base) == ()
    people_say(db, drawn, "serving")
    after = win_rates.people_outcomes(db, made, base)
    lost = [one for one in after if one.outcome == 0]
    assert len(lost) == drawn
    # As many as there are of others, within four standard errors; and at no time many more.
    assert len(after) == pytest.approx(2 * drawn, abs=4 * drawn**0.5)
    assert len({one.prompt_id for one in after}) + len(left) == 200
    half = [one.outcome for one in after[: len(after) // 2]]
    assert sum(half) == pytest.approx(len(half) / 2, abs=4 * len(half) ** 0.5)
    assert {one.probability for one in after} == {0.3}
    assert {one.since for one in after} == {one.since for one in left.values()}, "what corrects each is of its check"
    # What has been bet on stays as it was.
    another_check(20, 1.0)
    assert win_rates.people_outcomes(db, made, base) == after
    people_say(db, pair_outcomes.open_to_people(db, made.id, base.id), "serving")
    later = win_rates.people_outcomes(db, made, base)
    assert (later[: len(after)], len(later)) == (after, len(after) + 20)
    assert {one.since for one in later[len(after) :]} == {max(one.at for one in after)}
