"""Boundary errors of word time stamps."""

import pytest

from osum_echat.evaluate.align import boundary_errors_ms, score_boundaries

REF = [("we", 0.0, 0.3), ("go", 0.3, 0.7), ("home", 0.7, 1.2)]


def test_only_matched_words_are_compared() -> None:
    hyp = [("We", 0.1, 0.3), ("so", 0.3, 0.9), ("home", 0.7, 1.0)]
    assert boundary_errors_ms(REF, hyp) == pytest.approx([100, 0, 0, 200])


def test_score_counts_coverage_and_tolerances() -> None:
    score = score_boundaries({"a": REF, "b": REF}, {"a": [("we", 0.1, 0.3), ("home", 0.7, 1.0)]}, {})
    assert score.coverage.value == pytest.approx(2 / 6) and score.coverage.num == 6
    assert score.mean_ms.value == pytest.approx(75) and score.mean_ms.num == 2
    assert score.within[50].value == pytest.approx(0.5) and score.within[200].value == pytest.approx(1.0)
