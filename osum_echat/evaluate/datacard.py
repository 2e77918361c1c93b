"""What a list holds: utterances, hours, speakers, tasks and label distribution, for the report's data card.

Durations come from the row (start and end, or a `duration` field), else from the audio header. A raw list of more than
`MAX_HEADERS` rows has only an even sample of its headers read and its hours are marked as estimated.
"""

from collections import Counter
from dataclasses import dataclass, field

from osum_echat.audio.io import duration_seconds
from osum_echat.config import SourceConfig
from osum_echat.data.source import SOURCES, Drop, Row
from osum_echat.errors import DataError
from osum_echat.generate.requests import read_rows
from osum_echat.tasks.understand import label_of as understood_label
from osum_echat.tasks.understand import split_text
from osum_echat.text.tags import KINDS
from osum_echat.utterance import Utterance

MAX_HEADERS = 20_000


@dataclass
class DataCard:
    """One list, counted."""

    name: str
    path: str
    num: int = 0
    num_unreadable: int = 0
    seconds: float = 0.0
    num_timed: int = 0
    speakers: set[str] = field(default_factory=set)
    tasks: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in KINDS})
    note: str = ""

    @property
    def hours(self) -> float | None:
        """Hours of audio, scaled up when only some rows could be timed; None when none could."""
        return self.seconds / self.num_timed * self.num / 3600 if self.num_timed else None

    @property
    def hours_are_estimated(self) -> bool:
        """True when not every row was timed."""
        return 0 < self.num_timed < self.num


def label_of(utterance: Utterance, name: str) -> str | None:
    """Canonical value of a label of a row (field, years or tag in its text), or None when it has none or one of no inventory."""
    try:
        _, written = split_text(utterance, ())
        return understood_label(utterance, name, written)
    except DataError:
        return None


def card_of(source: SourceConfig, name: str) -> DataCard:
    """Count one list; a list that cannot be opened gives an empty card that says so."""
    card = DataCard(name, source.list)
    try:
        rows = len(SOURCES[source.kind](source.list)) if source.kind == "raw" else 0
        stride = max(1, -(-rows // MAX_HEADERS))
        for at, row in enumerate(read_rows(source)):
            _add(card, row, timed=at % stride == 0)
    except DataError as error:
        card.note = str(error)
    return card


def _add(card: DataCard, row: Row, timed: bool) -> None:
    if isinstance(row, Drop):
        card.num_unreadable += 1
        return
    card.num += 1
    card.tasks[row.task] += 1
    if row.speaker:
        card.speakers.add(row.speaker)
    for name in KINDS:
        value = label_of(row, name)
        if value is not None:
            card.labels[name][value] += 1
    seconds = _seconds(row) if timed else None
    if seconds is not None:
        card.seconds += seconds
        card.num_timed += 1


def _seconds(row: Utterance) -> float | None:
    if row.end is not None:
        return row.end - (row.start or 0.0)
    known = row.extra.get("duration")
    if isinstance(known, int | float):
        return float(known)
    source = row.audio if row.audio is not None else row.wav
    if source is None:
        return None
    try:
        return duration_seconds(source)
    except DataError:
        return None
