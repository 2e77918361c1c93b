"""Scores of one paralinguistic label: accuracy, unweighted average recall, macro F1, confusion, majority baseline, age error in years.

Scored are the reference rows that carry the label. A hypothesis that is missing, or that holds no value of the inventory, is wrong: it
fills the last column (`NONE`) of the confusion matrix. UAR and macro F1 average over the classes that occur in the reference
(Schuller et al. 2009, INTERSPEECH emotion challenge, for UAR).

Shapes: R bootstrap draws, C classes, U utterances; a flat confusion matrix has C * (C + 1) cells, rows = reference.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from osum_echat.evaluate.bootstrap import Interval, interval, ratio

NONE = "(none)"


@dataclass(frozen=True)
class LabelRow:
    """Reference and hypothesis of one utterance; years where the recording tells them."""

    key: str
    ref: str
    hyp: str | None
    speaker: str | None = None
    years: float | None = None


@dataclass(frozen=True)
class LabelScore:
    """Everything known about one label. `confusion[r][c]`: reference class r answered as class c; the last column is NONE."""

    name: str
    classes: tuple[str, ...]
    confusion: np.ndarray
    accuracy: Interval
    uar: Interval
    macro_f1: Interval
    majority_class: str
    majority_accuracy: float
    majority_source: str
    age_mae_years: Interval | None = None

    @property
    def recall(self) -> dict[str, float]:
        """Recall of every class of the reference."""
        totals = self.confusion.sum(axis=1)
        return {name: float(self.confusion[row, row] / totals[row]) for row, name in enumerate(self.classes) if totals[row]}

    @property
    def num_without_answer(self) -> int:
        """Rows whose hypothesis is missing or no value of the inventory."""
        return int(self.confusion[:, -1].sum())

    def to_json(self) -> dict[str, Any]:
        """The object that stands in labels.json."""
        return {
            "classes": list(self.classes),
            "columns": [*self.classes, NONE],
            "confusion": self.confusion.astype(int).tolist(),
            "accuracy": vars(self.accuracy),
            "uar": vars(self.uar),
            "macro_f1": vars(self.macro_f1),
            "recall": self.recall,
            "without_answer": self.num_without_answer,
            "majority": {"class": self.majority_class, "accuracy": self.majority_accuracy, "source": self.majority_source},
            "age_mae_years": vars(self.age_mae_years) if self.age_mae_years else None,
        }


def _as_matrix(sums_RF: np.ndarray) -> np.ndarray:
    """Flat sums back to confusion_RCK with K = C + 1 columns."""
    num_classes = round((np.sqrt(4 * sums_RF.shape[1] + 1) - 1) / 2)
    return sums_RF.reshape(-1, num_classes, num_classes + 1)


def mean_recall(sums_RF: np.ndarray) -> np.ndarray:
    """Statistic: recall averaged over the classes present in a draw (UAR)."""
    matrix_RCK = _as_matrix(sums_RF)
    hits_RC = np.diagonal(matrix_RCK, axis1=1, axis2=2)
    totals_RC = matrix_RCK.sum(axis=2)
    return _mean_over_present(hits_RC, totals_RC, totals_RC > 0)


def macro_f1(sums_RF: np.ndarray) -> np.ndarray:
    """Statistic: F1 = 2 hits / (reference count + answer count), averaged over the classes present in the reference of a draw."""
    matrix_RCK = _as_matrix(sums_RF)
    hits_RC = np.diagonal(matrix_RCK, axis1=1, axis2=2)
    totals_RC = matrix_RCK.sum(axis=2)
    answers_RC = matrix_RCK[:, :, :-1].sum(axis=1)
    return _mean_over_present(2 * hits_RC, totals_RC + answers_RC, totals_RC > 0)


def _mean_over_present(top_RC: np.ndarray, bottom_RC: np.ndarray, present_RC: np.ndarray) -> np.ndarray:
    value_RC = np.divide(top_RC, bottom_RC, out=np.zeros_like(bottom_RC), where=bottom_RC > 0)
    num_R = present_RC.sum(axis=1)
    return np.divide((value_RC * present_RC).sum(axis=1), num_R, out=np.full(len(num_R), np.nan), where=num_R > 0)


def accuracy(sums_RF: np.ndarray) -> np.ndarray:
    """Statistic: share of the diagonal."""
    matrix_RCK = _as_matrix(sums_RF)
    hits_R = np.diagonal(matrix_RCK, axis1=1, axis2=2).sum(axis=1)
    return ratio(np.stack([hits_R, matrix_RCK.sum(axis=(1, 2))], axis=1))


def _one_hot_confusion(rows: Sequence[LabelRow], classes: Sequence[str]) -> np.ndarray:
    """cells_UF: one 1 per utterance."""
    index = {name: at for at, name in enumerate(classes)}
    cells = np.zeros((len(rows), len(classes), len(classes) + 1))
    for at, row in enumerate(rows):
        column = index.get(row.hyp, len(classes)) if row.hyp is not None else len(classes)
        cells[at, index[row.ref], column] = 1
    return cells.reshape(len(rows), -1)


def _age_error(rows: Sequence[LabelRow], years_of_class: Mapping[str, float]) -> Interval | None:
    """Mean absolute error in years; an answer in words stands for its class's median years in the training list."""
    errors, speakers = [], []
    for row in rows:
        answer = _years(row.hyp, years_of_class)
        if row.years is not None and answer is not None:
            errors.append([abs(row.years - answer), 1.0])
            speakers.append(row.speaker)
    return interval(np.array(errors), ratio, speakers) if errors else None


def _years(answer: str | None, years_of_class: Mapping[str, float]) -> float | None:
    if answer is None:
        return None
    try:
        return float(answer)
    except ValueError:
        return years_of_class.get(answer)


def median_years(labels: Sequence[tuple[str, float | None]]) -> dict[str, float]:
    """Median years of each class over (class, years) pairs."""
    by_class: dict[str, list[float]] = {}
    for name, years in labels:
        if years is not None:
            by_class.setdefault(name, []).append(years)
    return {name: median(values) for name, values in by_class.items()}


def score_labels(
    name: str,
    rows: Sequence[LabelRow],
    classes: Sequence[str],
    train: Sequence[tuple[str, float | None]] = (),
) -> LabelScore:
    """Score one label.

    Args:
        rows: the reference rows that carry the label; at least one.
        classes: the inventory in printing order; values of the reference that are not in it are added behind.
        train: (class, years) of the training rows, for the majority class and for years of an age class.
    """
    assert rows, f"no reference row carries the label {name}; nothing to score"
    seen = {row.ref for row in rows} | {row.hyp for row in rows if row.hyp in classes}
    kept = [value for value in classes if value in seen] + sorted({row.ref for row in rows} - set(classes))
    cells_UF = _one_hot_confusion(rows, kept)
    speakers = [row.speaker for row in rows]
    votes = Counter(value for value, _ in train) or Counter(row.ref for row in rows)
    majority = min(votes, key=lambda value: (-votes[value], value))
    return LabelScore(
        name=name,
        classes=tuple(kept),
        confusion=cells_UF.sum(axis=0).reshape(len(kept), len(kept) + 1),
        accuracy=interval(cells_UF, accuracy, speakers),
        uar=interval(cells_UF, mean_recall, speakers),
        macro_f1=interval(cells_UF, macro_f1, speakers),
        majority_class=majority,
        majority_accuracy=sum(row.ref == majority for row in rows) / len(rows),
        majority_source="train" if train else "test",
        age_mae_years=_age_error(rows, median_years(train)) if name == "age" else None,
    )
