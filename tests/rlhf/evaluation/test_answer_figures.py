"""Figures of a policy's answers at equal lengths, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

import pytest

from annotation.records import CheckedAnswer, Sampling
from rlhf.evaluation.answer_figures import TokenScores, equal_length_kl, equal_length_nll_ratio, of_words
from rlhf.evaluation.report import AnswerFigures, CheckReport


def test_where_an_answer_ends_is_no_part_of_its_likelihood() -> None:
    """The same words, after which one policy ends and the other goes on."""

    def answer(tokens: Sequence[float], finish_reason: Literal["stop", "length"]) -> CheckedAnswer:
        scores = {"nll_under_base": tuple(tokens)}
        return CheckedAnswer(
            prompt_id=1,
            model_id=1,
            text="",
            sampling=Sampling(),
            seed=7,
            rendered_prompt="",
            prompt_tokens=1,
            tokens=len(tokens),
            finish_reason=finish_reason,
            token_scores=scores,
        )

    short = of_words([answer([1.0, 2.0, 9.0], "stop")], "nll_under_base")
    long = of_words([answer([1.0, 2.0, 0.5, 0.5], "length")], "nll_under_base")
    assert equal_length_nll_ratio(short, long) == pytest.approx(1)
    assert equal_length_nll_ratio(long, short) == pytest.approx(1)
    # Who says nothing at all has no words that could surprise.
    assert equal_length_nll_ratio(of_words([answer([9.0], "stop")], "nll_under_base"), long) is None


def test_likelihood_is_compared_at_equal_lengths() -> None:
    """Two policies of one language, of which the first stops early: what comes later surprises less."""

    def nlls(lengths: Sequence[int], factor: float = 1.0) -> TokenScores:
        return {(number, 7): [factor * 4 / (1 + at) for at in range(length)] for number, length in enumerate(lengths)}

    short, long = nlls([5, 6, 7]), nlls([50, 6, 60])
    assert fmean(short[0, 7]) > 4 * fmean(long[0, 7])
    assert equal_length_nll_ratio(short, long) == pytest.approx(1)
    assert equal_length_nll_ratio(long, short) == pytest.approx(1)
    assert equal_length_nll_ratio(nlls([5, 6, 7], 1.5), long) == pytest.approx(1.5)
    # What only one has answered counts in neither, and of nothing there is no ratio.
    assert equal_length_nll_ratio(nlls([5]), long) == pytest.approx(1)
    assert equal_length_nll_ratio(short, {}) is None


def test_kl_is_taken_at_equal_lengths() -> None:
    """As far from its anchor as ever, a policy that says much more would else seem closer to it."""
    anchor = {(number, 7): [1.0] * 6 for number in range(3)}

    def kls(length: int) -> TokenScores:
        return {(number, 7): [4 / (1 + at) for at in range(length)] for number in range(4)}

    assert fmean(kls(6)[0, 7]) > 4 * fmean(kls(60)[0, 7])
    assert equal_length_kl(kls(60), anchor) == pytest.approx(equal_length_kl(kls(6), anchor))
    assert equal_length_kl(kls(3), anchor) == pytest.approx((4 + 2 + 4 / 3) / 3)
    assert equal_length_kl(kls(0), anchor) is equal_length_kl(kls(6), {}) is None
    of_all = CheckReport(AnswerFigures(kl_to_anchor=0.7), AnswerFigures(), AnswerFigures(), 60)
    assert of_all.kl_per_token == 0.7, "of whole answers, as earlier versions took it"
    assert CheckReport.from_json(replace(of_all, equal_length_kl=0.4).to_json()).kl_per_token == 0.4
