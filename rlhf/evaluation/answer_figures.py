"""What a check says of a policy's answers, at equal lengths too. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from annotation.metrics.intervals_and_bias import distinct_n, distinct_ratio
from annotation.records import CheckedAnswer
from rlhf.evaluation.report import AnswerFigures
from rlhf.models.registry import Policy


def summarise(policy: Policy, answers: Sequence[CheckedAnswer], names: tuple[str, str]) -> AnswerFigures:
    """The figures of one policy's answers; KL and likelihood by these names."""
    texts = [answer.text for answer in answers]
    return AnswerFigures(
        revision=policy.revision,
        precision=policy.precision,
        mean_length=fmean(len(text.split()) for text in texts),
        # Of answers of one word there are no pairs of words to count.
        distinct_1=distinct_n(texts, 1) or None,
        distinct_2=distinct_n(texts, 2) or None,
        kl_to_anchor=per_token(answers, names[0]),
        nll_under_anchor=per_token(answers, names[1]),
        # An empty answer has not ended well, however it ended.
        ended_share=fmean(answer.finish_reason == "stop" and bool(answer.text.strip()) for answer in answers),
        repetition=fmean(repetition(text) for text in texts),
    )


def per_token(answers: Sequence[CheckedAnswer], scorer: str) -> float:
    """The mean of a score over all tokens: each answer weighs as much as it has of them."""
    weights = [max(answer.tokens, 1) for answer in answers]
    return sum(one.scores[scorer] * weight for one, weight in zip(answers, weights, strict=True)) / sum(weights)


def equal_length_distinct(answers: Sequence[CheckedAnswer], of_other: Sequence[CheckedAnswer]) -> float | None:
    """Distinct-2 of a policy's answers over that of another's to the same prompts, the longer ones cut."""
    own, others = ({(one.prompt_id, one.seed): one.text for one in side} for side in (answers, of_other))
    both = [place for place in own if place in others]
    return distinct_ratio([own[place] for place in both], [others[place] for place in both], 2)


# What a scorer says of each token of answers, by prompt and seed.
TokenScores = Mapping[tuple[int, int], Sequence[float]]


def of_words(answers: Sequence[CheckedAnswer], scorer: str) -> TokenScores:
    """That of the words of a policy's answers: where an answer ends is a matter of its length.

    The end of a short answer surprises a policy that would have said more, perhaps as much as all its words.
    """
    return {
        (one.prompt_id, one.seed): one.token_scores[scorer][: -1 if one.finish_reason == "stop" else None]
        for one in answers
    }


def equal_length_nll_ratio(own: TokenScores, of_other: TokenScores) -> float | None:
    """How much a policy's answers surprise, over how much another's to the same prompts do, the longer ones cut.

    Of two answers the first tokens count, as many as the shorter one has: the further into an answer, the less its
    tokens surprise, so uncut a policy that is only shorter would seem to speak another language.
    """
    pairs = [(nlls, of_other[place]) for place, nlls in own.items() if place in of_other]
    mine, others = (sum(sum(pair[side][: min(map(len, pair))]) for pair in pairs) for side in (0, 1))
    return mine / others if others else None


def equal_length_kl(own: TokenScores, of_other: TokenScores) -> float | None:
    """KL a token of a policy's answers, cut to the lengths of another's; None where nothing is left of them.

    The further into an answer, the less apart two policies are, so uncut an answer that is only longer would seem
    closer, and in a short one its end, which another policy would not have made, would be most of it.
    """
    cut = [one for place, kls in own.items() if place in of_other for one in kls[: len(of_other[place])]]
    return fmean(cut) if cut else None


def repetition(text: str) -> float:
    """Share of an answer's groups of four words that it has said before (seq-rep-4 of Welleck et al. 2020)."""
    return 1 - distinct_n([text], 4) if len(text.split()) >= 4 else 0.0
