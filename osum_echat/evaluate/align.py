"""Boundary error of word time stamps (the task `align`, SRWT).

Words of reference and hypothesis are matched by edit-distance alignment; only equal words are compared, and the share of reference words
so matched (coverage) is printed beside the error. Leaves out phone boundaries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from osum_echat.evaluate.bootstrap import Interval, interval, ratio

Words = Sequence[tuple[str, float, float]]  # (word, start seconds, end seconds)
TOLERANCES_MS = (50, 100, 200)


@dataclass(frozen=True)
class BoundaryScore:
    """Absolute error over the starts and ends of matched words, in ms; the share within a tolerance; the share of words matched."""

    mean_ms: Interval
    within: dict[int, Interval]
    coverage: Interval


def boundary_errors_ms(reference: Words, hypothesis: Words) -> list[float]:
    """Absolute start and end errors of every matched word, two numbers a word."""
    left = [word.upper() for word, _, _ in reference]
    right = [word.upper() for word, _, _ in hypothesis]
    errors: list[float] = []
    for block in Levenshtein.editops(left, right).as_matching_blocks():
        for offset in range(block.size):
            _, start, end = reference[block.a + offset]
            _, got_start, got_end = hypothesis[block.b + offset]
            errors += [1000 * abs(start - got_start), 1000 * abs(end - got_end)]
    return errors


def score_boundaries(references: Mapping[str, Words], hypotheses: Mapping[str, Words], speakers: Mapping[str, str | None]) -> BoundaryScore:
    """Score a test set; an utterance without hypothesis lowers the coverage only."""
    rows, voices = [], []
    for key, reference in references.items():
        errors = boundary_errors_ms(reference, hypotheses.get(key, ()))
        within = [sum(error <= limit for error in errors) for limit in TOLERANCES_MS]
        rows.append([len(errors), 2 * len(reference), sum(errors), *within])
        voices.append(speakers.get(key))
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 3 + len(TOLERANCES_MS))
    num_matched, num_words = int(table[:, 0].sum()) // 2, int(table[:, 1].sum()) // 2
    return BoundaryScore(
        mean_ms=interval(table[:, [2, 0]], ratio, voices, num=num_matched),
        within={limit: interval(table[:, [3 + at, 0]], ratio, voices, num=num_matched) for at, limit in enumerate(TOLERANCES_MS)},
        coverage=interval(table[:, [0, 1]], ratio, voices, num=num_words),
    )
