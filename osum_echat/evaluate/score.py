"""Scores of one decode against its list: error rate of the transcripts, the labels, word boundaries; files and results.json keys."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osum_echat.config import SourceConfig
from osum_echat.data.source import Drop
from osum_echat.errors import DataError
from osum_echat.evaluate.align import BoundaryScore, score_boundaries
from osum_echat.evaluate.datacard import label_of
from osum_echat.evaluate.decoded import Decoded
from osum_echat.evaluate.labels import NONE, LabelRow, LabelScore, score_labels
from osum_echat.evaluate.plots import save_confusion
from osum_echat.evaluate.results import Score
from osum_echat.evaluate.text import ErrorRate, error_rate, render
from osum_echat.files import write_text
from osum_echat.generate.requests import read_rows
from osum_echat.tasks.understand import split_text
from osum_echat.text.tags import KINDS, parse_labels, parse_words, values
from osum_echat.utterance import Utterance

ALIGN_TASK = "align"


@dataclass(frozen=True)
class Scored:
    """All scores of one decode. `without_label` names labels asked for that no reference row carries."""

    text: ErrorRate | None
    labels: dict[str, LabelScore]
    boundaries: BoundaryScore | None
    speakers: dict[str, str | None]
    without_label: tuple[str, ...]
    num_unreadable: int

    def results(self, prefix: str) -> dict[str, Score]:
        """Entries of results.json."""
        scores: dict[str, Score] = {}
        if self.text is not None:
            scores[f"{prefix}.wer"] = Score.percent(self.text.interval(self.speakers))
        for name, label in self.labels.items():
            scores[f"{prefix}.{name}"] = Score.percent(label.accuracy)
        if self.boundaries is not None:
            error = self.boundaries.mean_ms
            scores[f"{prefix}.boundary_ms"] = Score(error.value, error.num, error.lo, error.hi)
        return scores


def read_references(source: SourceConfig, keep_audio: bool = False, keys: Collection[str] | None = None) -> tuple[list[Utterance], int]:
    """Rows of a list that can be read (only those of `keys` when given), and how many cannot.

    Encoded audio out of tars is let go unless `keep_audio`, so that a whole list fits in memory.
    """
    good: list[Utterance] = []
    num_unreadable = 0
    for row in read_rows(source):
        if isinstance(row, Drop):
            num_unreadable += 1
        elif keys is None or row.key in keys:
            good.append(row if keep_audio else replace(row, audio=None))
    if not good and keys is None:
        raise DataError(f"{source.list}: no row of this list can be read; check it with osum-echat doctor", "empty_list")
    return good, num_unreadable


def transcript_of(row: Utterance) -> str | None:
    """The bare words of a reference: tags, word times and a reply behind them are left out; None when it has none."""
    try:
        return split_text(row, ())[0]
    except DataError:
        return row.txt


def words_of(row: Utterance, decoded: Decoded) -> str | None:
    """What the transcripts of a decode are compared with: the question where they stand in think blocks, else the row's own."""
    return parse_labels(row.question or "")[0] if decoded.thinks else transcript_of(row)


def score(
    references: Sequence[Utterance],
    decoded: Decoded,
    labels: Sequence[str],
    train: Iterable[Utterance] = (),
    *,
    num_unreadable: int = 0,
) -> Scored:
    """Compare a decode with its references. A missing hypothesis is deletions, and wrong for every label its row carries."""
    speakers = {row.key: row.speaker for row in references}
    train = list(train)
    transcripts = {row.key: text for row in references if (text := words_of(row, decoded))}
    found = {name: _score_label(name, references, decoded, train) for name in labels}
    return Scored(
        text=error_rate(transcripts, decoded.transcripts) if decoded.has_transcript and transcripts else None,
        labels={name: label for name, label in found.items() if label is not None},
        boundaries=_boundaries(references, decoded) if decoded.info.get("task") == ALIGN_TASK else None,
        speakers=speakers,
        without_label=tuple(name for name, label in found.items() if label is None),
        num_unreadable=num_unreadable,
    )


def _score_label(name: str, references: Sequence[Utterance], decoded: Decoded, train: Sequence[Utterance]) -> LabelScore | None:
    if name not in KINDS:
        raise DataError(f"unknown label {name!r}; expected one of {', '.join(KINDS)}", "unknown_label")
    rows = []
    for row in references:
        ref = label_of(row, name)
        if ref is not None:
            rows.append(LabelRow(row.key, ref, decoded.labels.get(row.key, {}).get(name), row.speaker, row.age_years))
    known = [(value, row.age_years) for row in train if (value := label_of(row, name)) is not None]
    return score_labels(name, rows, values(name), known) if rows else None


def _boundaries(references: Sequence[Utterance], decoded: Decoded) -> BoundaryScore | None:
    timed = {row.key: row.words for row in references if row.words}
    answers = {key: parse_words(decoded.raw[key]) for key in timed if key in decoded.raw}
    return score_boundaries(timed, answers, {row.key: row.speaker for row in references}) if timed else None


def write_scores(scored: Scored, folder: Path) -> list[Path]:
    """Write `wer`, `labels.json` and a confusion picture per label; returns what was written."""
    written: list[Path] = []
    if scored.text is not None:
        written.append(folder / "wer")
        write_text(written[-1], "\n".join(render(scored.text)) + "\n")
    if scored.labels:
        written.append(folder / "labels.json")
        items: Mapping[str, Any] = {name: label.to_json() for name, label in scored.labels.items()}
        write_text(written[-1], json.dumps(items, indent=1) + "\n")
    for name, label in scored.labels.items():
        written.append(folder / f"confusion_{name}.png")
        columns = [*label.classes, NONE]
        save_confusion(written[-1], label.confusion, label.classes, columns, f"{name}: {label.accuracy.num} utterances")
    return written
