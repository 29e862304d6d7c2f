"""The whole loop on a real model: do the answers come to follow a wish, stay language, and how long does that take?

Starts the app, signs in, and lets simulated annotators judge over HTTP by a gold rule that only they know. After
enough judgements an admin presses "Train the next iteration", waits for training and check, promotes, and goes on.

How to read it. `win rate`: how often the new policy's answer to a held-out prompt beats the base model's by the gold
rule, same seeds, a tie counting half; the interval is Wilson's over prompts. The loop works where its lower bound is
above 50%. `nll ratio` (likelihood of the answers under the base model, per token, against the base's own answers) and
`distinct-2 ratio` say whether the answers are still language: near 1 is good; an adapter that found a shortcut raises
the one or lowers the other. `implicit` is how often the trained reward agrees with held-out judgements.
`generate s` runs from the start (or the promotion) until the last comparison needed was on screen; `wait s` is what of
it an annotator spent before an empty page or before answers still being written, on average. Simulated people need no
time to read, so they wait more.
`train s` and `check s` are the jobs' wall time. Latencies are of judgements, from request to next comparison, while
answers are sampled (`collecting`) and while the next policy is trained and checked (`training`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from annotation.database import Database, open_database
from annotation.metrics.intervals_and_bias import wilson_interval
from annotation.records import Kind, seconds_between
from annotation.store import check_store, project_store
from benchmarks.harness import driver
from benchmarks.harness.driver import (
    App,
    BenchmarkError,
    Card,
    Latency,
    Ledger,
    MemorySampler,
    Page,
    SimulatedAnnotator,
    Tally,
    say,
)
from rlhf.data.snapshots import snapshot_counts
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import peoples_decisions
from rlhf.evaluation.gate import Rule, within_limits
from rlhf.evaluation.report import CheckReport
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.models import registry
from rlhf.models.base import base_files, base_identity, base_model, base_precision
from rlhf.models.registry import HeldPrecision

# No comparison for this long means that the answering worker is dead or stuck.
DRY_SECONDS = 300.0
JOB_SECONDS = 3600.0
PROGRESS_SECONDS = 10.0
PROBE = "probe"
PROBE_PAUSE_SECONDS = 2.0
# Of one judgement, which nobody can change for ever.
PROBE_CHANGES = 40
# What learns from judgements: PPO does from a reward model that did.
PREFERENCES = ("dpo", "reward_model")
ANY_ACCURACY = 0.01
# In a comparison of several answers.
ANSWERS = 4
QUICK_JUDGEMENTS = 12
QUICK_PROMPTS = 4
QUICK_TOKENS = 32


# --------------------------------------------------------------------------------------------------------- gold rules
Worth = tuple[float, ...]
# A reason in an answer, by the words that announce one.
REASON = re.compile(
    r"\b(because|since|so that|due to|in order to|therefore|thus|reason|caus\w+|help(s|ing)?|ensur\w+|allow\w*|"
    r"mak(es|ing)|prevent\w*|which (means|makes|can)|to (avoid|keep|make|help|protect|reduce|prevent))\b",
    re.IGNORECASE,
)


def shorter(text: str) -> Worth:
    """Fewer words are better."""
    return (-len(text.split()),)


def question(text: str) -> Worth:
    """An answer that ends with a question mark is better, then the one with more question marks."""
    return text.rstrip().endswith("?"), text.count("?")


def plain(text: str) -> Worth:
    """Plain words are better: fewer characters a word."""
    words = text.split()
    return (-sum(map(len, words)) / max(len(words), 1),)


def reason(text: str) -> Worth:
    """An answer that names a reason is better, then one that names more of them."""
    return (float(len(REASON.findall(text))),)


# Of length, of wording, of content, and one that is easily seen.
RULES: dict[str, Callable[[str], Worth]] = {
    "shorter": shorter,
    "plain": plain,
    "reason": reason,
    "question": question,
}


def taste_of(rule: str) -> Callable[..., str | list[int]]:
    """A rule as what someone with this taste presses: a button for two answers, a rank for each of more."""
    worth = RULES[rule]

    def taste(*answers: str) -> str | list[int]:
        worths = [worth(answer) for answer in answers]
        if len(worths) > 2:
            order = sorted(set(worths), reverse=True)
            return [order.index(one) + 1 for one in worths]
        left, right = worths
        if left == right:
            return "tie"
        return "left-clearly" if left > right else "right-clearly"

    return taste


def win_of(rule: str, answer: str, other: str) -> float:
    """1 where the answer is better by the rule, 0 where it is worse, a half for a tie."""
    worth = RULES[rule]
    return 0.5 if worth(answer) == worth(other) else float(worth(answer) > worth(other))


# --------------------------------------------------------------------------------------------------------- collecting
class Quota:
    """How many judgements are still wanted; annotators draw from it on their own threads."""

    def __init__(self, wanted: int) -> None:
        self._left = wanted
        self._lock = threading.Lock()
        self.ended = threading.Event()
        self.last_served = time.monotonic()

    def take(self) -> bool:
        """Whether another judgement is wanted; if so, it is the caller's to make."""
        with self._lock:
            if self._left == 0:
                return False
            self._left -= 1
            return True

    def give_back(self) -> None:
        """A judgement that was taken did not count."""
        with self._lock:
            self._left += 1

    def served(self) -> None:
        """A comparison is on screen."""
        with self._lock:
            self.last_served = time.monotonic()


@dataclass
class Effort:
    """What judging cost one annotator."""

    waited: float = 0.0
    latencies: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Collected:
    """A phase of judging."""

    generate_seconds: float
    wait_seconds: float
    latency: Latency | None
    on_policy: float
    """Share of the judged comparisons that the serving policy wrote; after a promotion the old stock is judged too."""


def collect(team: Sequence[SimulatedAnnotator], db: Database, wanted: int, began: float) -> Collected:
    """Let the team judge until `wanted` judgements are acknowledged; `began` is when the policy started to serve."""
    last_before = int(db.value("SELECT coalesce(max(id), 0) FROM judgement"))
    quota, ledger = Quota(wanted), team[0].ledger
    before = ledger.acknowledged
    with ThreadPoolExecutor(len(team)) as pool:
        work = [pool.submit(judge_until_enough, annotator, quota) for annotator in team]
        try:
            while not all(future.done() for future in work):
                say(f"judged {ledger.acknowledged - before} of {wanted}")
                wait(work, PROGRESS_SECONDS, FIRST_EXCEPTION)
                if any(future.done() and future.exception() for future in work):
                    break
        finally:
            quota.ended.set()
    efforts = [future.result() for future in work]
    return Collected(
        generate_seconds=round(quota.last_served - began, 1),
        wait_seconds=round(fmean(effort.waited for effort in efforts), 1),
        latency=driver.latency_of([value for effort in efforts for value in effort.latencies]),
        on_policy=on_policy_share(db, last_before),
    )


def judge_until_enough(annotator: SimulatedAnnotator, quota: Quota) -> Effort:
    """One annotator's part of the quota."""
    effort = Effort()
    card = annotator.look()
    while quota.take():
        card = until_shown(annotator, card, quota.ended, effort)
        quota.served()
        answered = annotator.judge(card)
        if answered.recorded:
            effort.latencies.append(answered.seconds)
        else:
            quota.give_back()
        card = answered.next
    return effort


def written(card: Card) -> bool:
    """Whether a comparison is on screen with whole answers: what is judged earlier is not trained on."""
    return bool(card.nonce) and all(answer["state"] == "done" for answer in card.sent["answers"])


def until_shown(annotator: SimulatedAnnotator, card: Card, ended: threading.Event, effort: Effort) -> Card:
    """Wait until the page shows a comparison, and its answers to their end. Raises BenchmarkError if none comes."""
    began = time.monotonic()
    while not written(card):
        if ended.wait(driver.POLL_SECONDS):
            raise BenchmarkError("Judging was broken off.")
        if time.monotonic() - began > DRY_SECONDS:
            raise BenchmarkError(f"No comparison came for {DRY_SECONDS:.0f} s. The page says: '{card.notice}'")
        card = annotator.poll()
    effort.waited += time.monotonic() - began
    return card


def on_policy_share(db: Database, after: int) -> float:
    """Share of the comparisons judged after this judgement that the policy which serves now wrote."""
    share = db.value(
        """SELECT avg(c.model_id = ?) FROM current_judgement j JOIN comparison c ON c.id = j.comparison_id
           WHERE j.id > ?""",
        (registry.serving(db).id, after),
    )
    return round(float(share), 3)


# -------------------------------------------------------------------------------------------------------- the probe
@contextmanager
def probing(probe: SimulatedAnnotator) -> Iterator[list[float]]:
    """Measure judgements while something runs: the probe undoes its last tie and presses it again, over and over.

    A tie gives no preference pair, so that the probe changes nothing of what is trained.
    """
    ended = threading.Event()
    seconds: list[float] = []

    def press() -> None:
        for turn in itertools.count(1):
            if ended.wait(PROBE_PAUSE_SECONDS):
                return
            shown = probe.look()
            if turn % PROBE_CHANGES or not shown.nonce:
                shown = probe.undo(shown).next
            seconds.append(probe.judge(shown).seconds)

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(press)
        try:
            yield seconds
        finally:
            ended.set()
    work.result()


# ----------------------------------------------------------------------------------------------------------- training
@dataclass(frozen=True)
class Trained:
    """A training job and the check of its candidate, both finished."""

    training: Job
    check: Job
    seconds: float
    """From pressing the button to the end of the check."""


def train(app: App, owner: Page, algorithm: str, changed: Mapping[str, Any]) -> Trained:
    """Press the button of an algorithm's form and wait for the training and for the check that follows by itself.

    PPO learns from a reward model, which is trained first, and is followed whatever its accuracy is.
    """
    began = time.monotonic()
    if algorithm == "ppo":
        owner.call("start_reward_model", *owner.handlers["start_reward_model"].form({}))
        rewards = finished_training(app, "reward_model")
        assert rewards.result is not None
        rounds = {name.lower().replace(" ", "_"): value for name, value in changed.items()}
        spec = {"kind": "ppo", "reward_model": rewards.result["revision"], "accepted_accuracy": ANY_ACCURACY}
        driver.run_job(app.data_dir, {**spec, **rounds})
    else:
        owner.call("start_dpo", *owner.handlers["start_dpo"].form(changed))
    training = finished_training(app, algorithm)
    assert training.result is not None
    revision = str(training.result["revision"])
    check = wait_for_job(app, lambda: check_of(app.database, revision))
    return Trained(training, check, round(time.monotonic() - began, 1))


def finished_training(app: App, kind: str) -> Job:
    """The newest job of this kind, at its end. Raises BenchmarkError if it has another."""
    return wait_for_job(app, lambda: job_store.recent(app.database, (kind,), 1)[0])


def train_quick(app: App) -> Trained:
    """The same two jobs, shortened, from the command line: the form has no field for the size of the check."""
    db, began = app.database, time.monotonic()
    driver.run_job(app.data_dir, {"kind": "dpo", "epochs": 1, "check": False})
    training = finished_training(app, "dpo")
    assert training.result is not None
    revision = str(training.result["revision"])
    short = {"prompts": QUICK_PROMPTS, "sampling": {"max_new_tokens": QUICK_TOKENS}}
    driver.run_job(app.data_dir, {"kind": "check", "candidate": revision, **short})
    check = wait_for_job(app, lambda: check_of(db, revision))
    return Trained(training, check, round(time.monotonic() - began, 1))


def check_of(db: Database, revision: str) -> Job | None:
    """The newest check of a candidate, if there is one."""
    checks = job_store.recent(db, ("check",), 20)
    return next((job for job in checks if isinstance(job.spec, CheckSpec) and job.spec.candidate == revision), None)


def wait_for_job(app: App, find: Callable[[], Job | None]) -> Job:
    """Wait until a job has finished. Raises BenchmarkError if it ends otherwise, or the app does."""
    began = told = time.monotonic()
    while time.monotonic() - began < JOB_SECONDS:
        job = find()
        if job is not None and job.status == "finished":
            say(f"{job.kind} finished")
            return job
        if job is not None and not job.is_open:
            raise BenchmarkError(driver.failure_of(job, app.data_dir))
        if app.process.poll() is not None:
            raise BenchmarkError(f"The app ended with code {app.process.returncode}:\n{app.output()}")
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            say(f"{job.kind} {job.status}, step {job.step} of {job.steps} {job.message}" if job else "no job yet")
        time.sleep(0.5)
    raise BenchmarkError(f"A job took longer than {JOB_SECONDS:.0f} s.")


def promote(app: App, revision: str) -> None:
    """Let the candidate serve, whatever the gate says of it."""
    why = "The benchmark lets every iteration serve."
    peoples_decisions.promote(app.database, app.data_dir, revision, "owner", why)
    say(f"promoted {revision}")


# ---------------------------------------------------------------------------------------------------------- measuring
@dataclass(frozen=True)
class Iteration:
    """The figures of one iteration."""

    revision: str
    precision: str
    """Of the weights under the adapter."""
    win_rate: float
    low: float
    high: float
    mean_length: float
    base_mean_length: float
    nll_ratio: float
    distinct_ratio: float
    kl_to_base: float
    past_limits: Mapping[str, float]
    """What of the figures the gate would turn it down for, by its default rule."""
    implicit_accuracy: float | None
    implicit_low: float
    implicit_high: float
    implicit_judgements: int
    pairs: int
    left_out: Mapping[str, int]
    on_policy: float
    generate_seconds: float
    wait_seconds: float
    train_seconds: float
    check_seconds: float
    iteration_seconds: float
    collecting: Latency | None
    training: Latency | None


def measure(db: Database, rule: str, collected: Collected, trained: Trained, probed: Sequence[float]) -> Iteration:
    """The figures of an iteration from its rows."""
    assert trained.check.result is not None
    report = CheckReport.from_json(trained.check.result)
    own, implicit = report.candidate, report.implicit_accuracy
    assert implicit is not None
    win_rate, low, high = gold_win_rate(db, rule, own.revision)
    (learnt_from,) = job_store.recent(db, PREFERENCES, 1)
    assert isinstance(learnt_from.spec, TrainingSpec)
    counts = snapshot_counts(db, learnt_from.spec.snapshot)
    return Iteration(
        revision=own.revision,
        precision=own.precision,
        win_rate=round(win_rate, 4),
        low=round(low, 4),
        high=round(high, 4),
        mean_length=rounded(own.mean_length, 1),
        base_mean_length=rounded(report.anchor.mean_length, 1),
        nll_ratio=rounded(report.nll_ratio, 4),
        distinct_ratio=rounded(report.distinct_ratio, 4),
        kl_to_base=rounded(own.kl_to_anchor, 4),
        past_limits={
            one.asks: round(getattr(report, one.asks), 4)
            for one in within_limits(Rule(), report)
            if one.passed == "fail"
        },
        implicit_accuracy=None if implicit.value is None else round(implicit.value, 4),
        implicit_low=rounded(implicit.low, 4),
        implicit_high=rounded(implicit.high, 4),
        implicit_judgements=implicit.n,
        pairs=counts.train or 0,
        left_out=dict(counts.left_out),
        on_policy=collected.on_policy,
        generate_seconds=collected.generate_seconds,
        wait_seconds=collected.wait_seconds,
        train_seconds=wall_seconds(trained.training),
        check_seconds=wall_seconds(trained.check),
        iteration_seconds=trained.seconds,
        collecting=collected.latency,
        training=driver.latency_of(probed),
    )


def rounded(value: float | None, digits: int) -> float:
    """A figure of a check, which must have been measured."""
    assert value is not None
    return round(value, digits)


def gold_win_rate(db: Database, rule: str, revision: str) -> tuple[float, float, float]:
    """How often a policy beats the base on held-out prompts with the same seeds, with Wilson's interval."""
    ours, theirs = (
        {(answer.prompt_id, answer.seed): answer.text for answer in check_store.checked_answers(db, policy.id)}
        for policy in (registry.by_revision(db, revision), registry.by_revision(db, "base"))
    )
    wins = [win_of(rule, text, theirs[key]) for key, text in ours.items() if key in theirs]
    return fmean(wins), *wilson_interval(sum(wins), len(wins))


def wall_seconds(job: Job) -> float:
    """Seconds from a worker's taking the job to its end."""
    assert job.started is not None
    assert job.finished is not None
    return round(seconds_between(job.started, job.finished), 1)


# ---------------------------------------------------------------------------------------------------------- reporting
@dataclass(frozen=True)
class LoopRun:
    """One loop from a new data directory, whose trainings had this seed."""

    seed: int
    iterations: Sequence[Iteration]
    tally: Tally
    peak_mb: float
    memory_measure: str

    def figures(self) -> dict[str, Any]:
        """Its part of the JSON object."""
        return {
            "seed": self.seed,
            "precision": self.iterations[-1].precision,
            "iterations": [asdict(entry) for entry in self.iterations],
            "nll_ratio": self.iterations[-1].nll_ratio,
            "distinct_ratio": self.iterations[-1].distinct_ratio,
            "iteration_seconds": [entry.iteration_seconds for entry in self.iterations],
            "judgements_acknowledged": self.tally.acknowledged,
            "judgements_stored": self.tally.stored,
            "judgements_lost": self.tally.lost,
            "peak_rss_mb": self.peak_mb,
            "memory_measure": self.memory_measure,
        }


def report(options: argparse.Namespace, found: LoopRun) -> str:
    """A run's tables for people."""
    iterations, tally = found.iterations, found.tally
    acts = f"{options.judgements} judgements ({options.act})"
    held = f"adapters on {iterations[-1].precision} weights"
    title = f"Gold rule '{options.rule}', {options.algorithm.upper()}, seed {found.seed}, {held}"
    smoke = "SMOKE RUN: one epoch on a few pairs, a check on a few prompts. It shows that the loop turns, no more."
    stored = f"Judgements: {tally.acknowledged} acknowledged, {tally.stored} stored"
    trouble = f", {tally.lost} LOST, {tally.unforeseen} UNFORESEEN, {tally.judged_twice} JUDGED TWICE"
    lines = [
        f"{title}: {len(iterations)} iterations of {acts} by {options.annotators} annotators, and a probe",
        *([smoke] if options.quick else []),
        "",
        answers_table(iterations),
        "",
        costs_table(iterations),
        "",
        f"{stored}{'' if tally.clean else trouble}. "
        f"Peak of all processes: {found.peak_mb:.0f} MB ({found.memory_measure}).",
        describe_data(iterations),
    ]
    return "\n".join(lines)


def answers_table(iterations: Sequence[Iteration]) -> str:
    """What the policies answer."""
    headers = (
        "iteration",
        "win rate",
        "95%",
        "words",
        "base",
        "nll ratio",
        "distinct-2 ratio",
        "KL",
        "past limits",
        "implicit",
        "95%",
    )
    rows = [
        (
            f"{number} {entry.revision}",
            f"{entry.win_rate:.2f}",
            f"{entry.low:.2f}–{entry.high:.2f}",
            f"{entry.mean_length:.1f}",
            f"{entry.base_mean_length:.1f}",
            f"{entry.nll_ratio:.3f}",
            f"{entry.distinct_ratio:.3f}",
            f"{entry.kl_to_base:.3f}",
            ", ".join(f"{name} {value:.3f}" for name, value in entry.past_limits.items()) or "none",
            "–" if entry.implicit_accuracy is None else f"{entry.implicit_accuracy:.2f}",
            f"{entry.implicit_low:.2f}–{entry.implicit_high:.2f}",
        )
        for number, entry in enumerate(iterations, 1)
    ]
    return driver.table(headers, rows)


def costs_table(iterations: Sequence[Iteration]) -> str:
    """What it took."""
    times = ("generate s", "wait s", "train s", "check s", "train+check s")
    headers = ("iteration", "pairs", "on-policy", *times, "collecting p50 / p95 ms", "training p50 / p95 ms")
    rows = [
        (
            f"{number} {entry.revision}",
            entry.pairs,
            f"{entry.on_policy:.0%}",
            f"{entry.generate_seconds:.0f}",
            f"{entry.wait_seconds:.0f}",
            f"{entry.train_seconds:.0f}",
            f"{entry.check_seconds:.0f}",
            f"{entry.iteration_seconds:.0f}",
            latency_cell(entry.collecting),
            latency_cell(entry.training),
        )
        for number, entry in enumerate(iterations, 1)
    ]
    return driver.table(headers, rows)


def latency_cell(latency: Latency | None) -> str:
    """Median and 95th percentile."""
    return "–" if latency is None else f"{latency.p50_ms:.0f} / {latency.p95_ms:.0f}"


def describe_data(iterations: Sequence[Iteration]) -> str:
    """What of the judgements gave no pair."""
    counts = [
        f"{number}: " + (", ".join(f"{count} {reason}" for reason, count in entry.left_out.items()) or "none")
        for number, entry in enumerate(iterations, 1)
    ]
    return f"Left out of training, by iteration: {'; '.join(counts)}."


def figures(options: argparse.Namespace, runs: Sequence[LoopRun]) -> dict[str, Any]:
    """The JSON object's content: each run's, and the win rate after the first iteration over all of them."""
    firsts = [one.iterations[0] for one in runs]
    return {
        "rule": options.rule,
        "algorithm": options.algorithm,
        "act": options.act,
        "quick": options.quick,
        "judgements": options.judgements,
        "annotators": options.annotators,
        "settings": options.changed,
        "win_rate": round(fmean(one.win_rate for one in firsts), 4),
        "lowest_bound": min(one.low for one in firsts),
        "runs": [one.figures() for one in runs],
    }


# ------------------------------------------------------------------------------------------------------------ running
def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; --quick changes the defaults only."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of under two minutes; figures mean little")
    parser.add_argument("--rule", choices=sorted(RULES), default="shorter", help="what the annotators prefer")
    parser.add_argument(
        "--algorithm", choices=("dpo", "ppo"), default="dpo", help="of the trainings (default: %(default)s)"
    )
    parser.add_argument(
        "--act", choices=get_args(Kind), default="rank", help="two answers, or four (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="a run from the start for each (default: 21 22 23, quick: 1)"
    )
    parser.add_argument("--iterations", type=int, metavar="N", default=1, help="(default: %(default)s)")
    parser.add_argument("--judgements", type=int, metavar="N", help="in each iteration (default: 60, quick: 12)")
    parser.add_argument("--annotators", type=int, metavar="N", default=2, help="(default: %(default)s)")
    parser.add_argument("--model", metavar="NAME_OR_DIR", help="base model, as for app.py")
    parser.add_argument(
        "--precision",
        choices=get_args(HeldPrecision),
        help="hold the base in this precision (default: what memory asks for)",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="a new data directory, which is kept")
    parser.add_argument("--keep", action="store_true", help="keep the temporary data directory")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the training form, as on the page: --set 'Learning rate=5e-5'",
    )
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or ([1] if options.quick or options.data else [21, 22, 23])
    options.judgements = options.judgements or (QUICK_JUDGEMENTS if options.quick else 60)
    options.changed = dict(read_field(parser, text) for text in options.set)
    if options.data and len(options.seeds) > 1:
        parser.error("--data is for one run; each of --seeds has a data directory of its own")
    if options.quick and options.changed:
        parser.error("--set changes the form, which --quick does not use")
    return options


def read_field(parser: argparse.ArgumentParser, text: str) -> tuple[str, Any]:
    """One FIELD=VALUE; a number where it reads as one."""
    name, separator, value = text.partition("=")
    if not separator:
        parser.error(f"--set needs FIELD=VALUE, not '{text}'")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def run(app: App, options: argparse.Namespace, seed: int) -> tuple[list[Iteration], Tally]:
    """Sign everybody in and turn the loop."""
    db, ledger, began = app.database, Ledger(), app.started
    names = [f"annotator-{number}" for number in range(1, options.annotators + 1)]
    driver.measure_nobody(db)
    with ExitStack() as stack:
        owner = stack.enter_context(Page(app.url))
        owner.follow(app.owner_link)
        pages = driver.add_people(owner, app.url, dict.fromkeys([*names, PROBE], "annotator"))
        for page in pages.values():
            stack.enter_context(page)
        team = [SimulatedAnnotator(pages[name], ledger, taste_of(options.rule)) for name in names]
        probe = SimulatedAnnotator(pages[PROBE], ledger, nothing_decided)
        iterations = []
        for number in range(1, options.iterations + 1):
            say(f"iteration {number}: judging")
            collected = collect(team, db, options.judgements, began)
            if number == 1 and not options.quick:
                collect([probe], db, 1, began)
            say(f"iteration {number}: training")
            # The smoke run has no time for a latency that benchmarks.latency measures better.
            with nullcontext([]) if options.quick else probing(probe) as probed:
                changed = {"Seed": seed, **options.changed}
                trained = train_quick(app) if options.quick else train(app, owner, options.algorithm, changed)
            iterations.append(measure(db, options.rule, collected, trained, probed))
            promote(app, iterations[-1].revision)
            began = time.monotonic()
    return iterations, ledger.tally(db)


def nothing_decided(*answers: str) -> str | list[int]:
    """The verdict of a tie, from which nothing is trained."""
    return "tie" if len(answers) == 2 else [1] * len(answers)


def set_up(data_dir: Path, options: argparse.Namespace) -> None:
    """What the project asks before the app starts, and the base in a precision where one is given. Raises UserError."""
    db = open_database(data_dir)
    answers = 2 if options.act == "pair" else ANSWERS
    project_store.set_project(db, replace(project_store.project(db), kind=options.act, answers=answers))
    if options.precision is not None:
        base_identity.register(db, base_model.prepare(data_dir, options.model or base_files.EMBEDDED))
        base_precision.change_precision(db, options.precision, "the benchmark")
    db.close()


def run_once(options: argparse.Namespace, seed: int) -> LoopRun:
    """The loop in a data directory of its own. Raises BenchmarkError and UserError."""
    with driver.data_directory(options.data, options.keep) as data_dir, MemorySampler() as memory:
        set_up(data_dir, options)
        with App(data_dir, model=options.model) as app:
            say(f"the app runs at {app.url} after {app.start_seconds:.1f} s")
            iterations, tally = run(app, options, seed)
    return LoopRun(seed=seed, iterations=iterations, tally=tally, peak_mb=memory.peak_mb, memory_measure=memory.measure)


@driver.benchmark
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when every acknowledged judgement is stored, once."""
    options = read_options(arguments)
    runs: list[LoopRun] = []
    for seed in options.seeds:
        runs.append(run_once(options, seed))
        print(report(options, runs[-1]), flush=True)
    found = driver.machine()
    print(driver.describe_machine(found))
    print(json.dumps(figures(options, runs) | {"machine": found}))
    return 0 if all(one.tally.clean for one in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
