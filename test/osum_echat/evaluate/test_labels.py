"""Label scores against a table worked out by hand."""

import json

import numpy as np
import pytest

from osum_echat.evaluate.labels import NONE, LabelRow, score_labels

CLASSES = ("child", "adult", "old")


def rows() -> list[LabelRow]:
    # adult: 3 of 4 right, one unanswered; child: 1 of 2 right
    answers = [("adult", "adult"), ("adult", "adult"), ("adult", "adult"), ("adult", None), ("child", "child"), ("child", "adult")]
    return [LabelRow(f"u{at}", ref, hyp) for at, (ref, hyp) in enumerate(answers)]


def test_scores_by_hand() -> None:
    score = score_labels("age", rows(), CLASSES)
    assert score.classes == ("child", "adult")
    assert score.confusion.tolist() == [[1, 1, 0], [0, 3, 1]]
    assert score.accuracy.value == pytest.approx(4 / 6) and score.accuracy.num == 6
    assert score.uar.value == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert score.macro_f1.value == pytest.approx((2 * 1 / (2 + 1) + 2 * 3 / (4 + 4)) / 2)
    assert score.recall == {"child": 0.5, "adult": 0.75}
    assert score.num_without_answer == 1


def test_a_value_outside_the_inventory_is_wrong_and_goes_into_the_last_column() -> None:
    score = score_labels("age", [LabelRow("a", "adult", "banana"), LabelRow("b", "adult", "adult")], CLASSES)
    assert score.confusion.tolist() == [[1, 1]] and score.to_json()["columns"][-1] == NONE


def test_majority_comes_from_training_when_given() -> None:
    own = score_labels("age", rows(), CLASSES)
    assert (own.majority_class, own.majority_source) == ("adult", "test") and own.majority_accuracy == pytest.approx(4 / 6)
    trained = score_labels("age", rows(), CLASSES, train=[("child", None), ("child", None), ("adult", None)])
    assert (trained.majority_class, trained.majority_source) == ("child", "train") and trained.majority_accuracy == pytest.approx(2 / 6)


def test_age_error_in_years_uses_numbers_or_the_training_median_of_a_class() -> None:
    given = [
        LabelRow("a", "child", "child", None, 8.0),
        LabelRow("b", "adult", "31.5", None, 30.0),
        LabelRow("c", "adult", None, None, 40.0),
    ]
    score = score_labels("age", given, CLASSES, train=[("child", 6.0), ("child", 10.0), ("child", 7.0)])
    assert score.age_mae_years is not None
    assert score.age_mae_years.value == pytest.approx((1.0 + 1.5) / 2) and score.age_mae_years.num == 2
    assert score_labels("age", given[:1], CLASSES).age_mae_years is None


def test_intervals_surround_the_value_and_json_is_plain() -> None:
    score = score_labels("age", rows() * 20, CLASSES)
    for found in (score.accuracy, score.uar, score.macro_f1):
        assert found.lo < found.value < found.hi
    assert json.loads(json.dumps(score.to_json()))["recall"] == score.recall


def test_uar_of_chance_is_one_over_classes_whatever_the_balance() -> None:
    rng = np.random.default_rng(0)
    refs = rng.choice(["x", "y"], size=4000, p=[0.9, 0.1])
    score = score_labels("z", [LabelRow(str(at), ref, "x") for at, ref in enumerate(refs)], ("x", "y"))
    assert score.uar.value == pytest.approx(0.5) and score.accuracy.value > 0.85
