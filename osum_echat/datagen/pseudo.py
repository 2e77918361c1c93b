"""Pseudo-labels (stage 1d of the paper's understanding training, arXiv:2508.09600): decoded labels fill what a row does not know.

A label the row carries is never changed. Every row becomes a full-label row, `asr_p` when it has a transcript and `only_p` when not; which
labels were filled in stands in `extra.pseudo`. Rows that still lack one are left out.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from osum_echat.evaluate.datacard import label_of
from osum_echat.evaluate.score import transcript_of
from osum_echat.tasks.task import TASKS
from osum_echat.utterance import Utterance

FULL, LABELS_ONLY = TASKS["asr_p"], TASKS["only_p"]


@dataclass
class PseudoCounts:
    """What was done: labels filled in by name and value, rows written, and rows left out by the label they lack."""

    written: int = 0
    known: Counter[str] = field(default_factory=Counter)
    filled: dict[str, Counter[str]] = field(default_factory=dict)
    incomplete: Counter[str] = field(default_factory=Counter)


def fill_labels(
    rows: Iterable[Utterance],
    predicted: Mapping[str, Mapping[str, str]],
    counts: PseudoCounts,
    labels: Sequence[str] = FULL.labels,
) -> Iterator[Utterance]:
    """Rows with every label of `labels`, counted into `counts` on the way."""
    for row in rows:
        own = {name: label_of(row, name) for name in labels}
        answers = predicted.get(row.key, {})
        missing = [name for name, value in own.items() if value is None]
        unfilled = [name for name in missing if name not in answers]
        if unfilled:
            counts.incomplete.update(unfilled)
            continue
        given = {name: answers[name] for name in missing}
        for name in labels:
            if name in given:
                counts.filled.setdefault(name, Counter())[given[name]] += 1
            else:
                counts.known[name] += 1
        counts.written += 1
        yield _with_labels(row, own, given)


def _with_labels(row: Utterance, own: Mapping[str, str | None], given: Mapping[str, str]) -> Utterance:
    """Known labels are written as fields too, so that a row whose text carried them as tags reads the same."""
    text = transcript_of(row)
    age = given.get("age", own.get("age"))
    fields: dict[str, Any] = {name: given.get(name, value) for name, value in own.items() if name != "age"}
    if row.age_years is None:
        fields["age"] = age
    extra = {**row.extra, "pseudo": sorted(given)} if given else dict(row.extra)
    return replace(row, txt=text, task=FULL.name if text else LABELS_ONLY.name, extra=extra, **fields)
