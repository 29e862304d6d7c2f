"""Training data: judgements to preference rows, one by one; what gives no row is counted with its reason. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from annotation.exports.frozen_rows import FrozenAnswer, PreferenceRow
from annotation.metrics.aggregation import Pair, outside_pairs, pairs_of, people_first, usable
from annotation.records import Judgement


@dataclass
class PreferenceRows:
    """Preference rows of comparisons, each with all its current judgements; the counts are whole when the rows are.

    Train pairs are of judgements made after `trained_until`, held-out pairs are all. The pairs of a comparison (up to
    K(K-1)/2 for K answers, more with edits) stay together. `max_length` counts the tokens of prompt and answer where
    they are known; `reliability` gives the chance that an annotator is right. Where people have judged, AI judges
    do not count. Answers that are all bad are worse than none: then the better one of a pair is `outside`.
    """

    comparisons: Iterable[Sequence[Judgement]]
    max_length: int
    trained_until: int = 0
    reliability: Mapping[str, float] | None = None
    excluded: Iterable[str] = ()
    judges_too: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    """Rows by split."""
    left_out: Counter[str] = field(default_factory=Counter)
    last_judgement_id: int = 0

    def __iter__(self) -> Iterator[PreferenceRow]:
        """The rows, once."""
        for group in self.comparisons:
            self.last_judgement_id = max(self.last_judgement_id, *(judgement.id for judgement in group))
            own, beside = people_first(group, self.judges_too)
            counted, reasons = usable(own, self.excluded)
            self.left_out.update([*beside, *reasons])
            if not counted:
                continue
            if counted[0].split == "train" and max(judgement.id for judgement in counted) <= self.trained_until:
                self.left_out["earlier"] += len(counted)
                continue
            pairs, reasons = pairs_of(counted, self.reliability)
            # Whether a policy orders answers as people do is not measured on what has no order.
            if counted[0].split == "train" and (outside := outside_pairs(counted, self.reliability)):
                pairs, reasons = outside, [reason for reason in reasons if reason != "all-bad"]
            self.left_out.update(reasons)
            for pair in pairs:
                reason = why_left_out(pair, self.max_length)
                if reason:
                    self.left_out[reason] += 1
                else:
                    self.counts[counted[0].split] += 1
                    yield preference_row(counted[0], pair)


def why_left_out(pair: Pair, max_length: int) -> str | None:
    if pair.identical:
        return "identical"
    lengths = [(side.prompt_tokens or 0) + side.tokens for side in (pair.better, pair.worse) if side.tokens]
    return "too-long" if any(length > max_length for length in lengths) else None


def preference_row(judgement: Judgement, pair: Pair) -> PreferenceRow:
    """One row of frozen data. Answers that no policy drew have no token counts, and their prompt may be unrendered."""
    return PreferenceRow(
        split=judgement.split,
        messages=judgement.messages,
        comparison=judgement.comparison_id,
        prompt_id=judgement.prompt_id,
        chosen=FrozenAnswer.of(pair.better),
        rejected=FrozenAnswer.of(pair.worse),
        rendered_prompt=pair.better.rendered_prompt or pair.worse.rendered_prompt,
        judgements=pair.judgements,
        annotators=pair.annotators,
        strength=pair.strength,
        agreement=pair.agreement,
        flip=round(pair.flip, 6),
        ai=pair.ai,
    )
