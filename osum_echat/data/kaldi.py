"""Kaldi data directories to ``Utterance``s: ``wav.scp``, ``text``, ``segments``, ``utt2*`` and ``ctm`` (docs/data_formats.md).

Formats: https://kaldi-asr.org/doc/data_prep.html. Audio is not opened here; every error is a ``DataError`` naming file:line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osum_echat.errors import DataError
from osum_echat.utterance import Utterance

# File beside wav.scp and the field of the record it fills.
LABEL_FILES = {
    "utt2spk": "speaker",
    "utt2task": "task",
    "utt2lang": "lang",
    "utt2gender": "gender",
    "utt2age": "age",
    "utt2emotion": "emotion",
    "utt2event": "event",
    "utt2style": "style",
    "utt2question": "question",
    "utt2think": "think",
    "utt2answer_wav": "answer_wav",
}


@dataclass(frozen=True)
class Entry:
    """One line of a Kaldi table: the value behind the key, and where it stands."""

    value: str
    origin: str


def read_kaldi_dir(folder: str | Path) -> Iterator[Utterance]:
    """Every utterance of a Kaldi directory; ``text``, ``segments``, ``utt2*`` and ``ctm`` are used when they are there."""
    folder = Path(folder)
    optional = {name: folder / name for name in ("text", "segments") if (folder / name).is_file()}
    return read_kaldi(folder / "wav.scp", optional.get("text"), optional.get("segments"), folder)


def read_kaldi(
    wav_scp: str | Path, text: str | Path | None = None, segments: str | Path | None = None, labels_dir: str | Path | None = None
) -> Iterator[Utterance]:
    """The same with WeNet's separate files; ``labels_dir`` is where ``utt2*`` and ``ctm`` lie (None: not read).

    All tables are checked before the first utterance: a transcript or segment without its recording is an error.
    """
    wavs = read_table(wav_scp)
    spans = _read_segments(segments, wavs) if segments is not None else {key: {"wav": wav.value} for key, wav in wavs.items()}
    texts = read_table(text, allow_empty=True) if text is not None else {}
    for key, entry in texts.items():
        if key not in spans:
            raise DataError(f"{entry.origin}: key {key} has a transcript but no recording in {segments or wav_scp}", "missing_audio")
    labels: dict[str, dict[str, Entry]] = {}
    words: dict[str, list[list[Any]]] = {}
    if labels_dir is not None:
        folder = Path(labels_dir)
        labels = {field: read_table(folder / name) for name, field in LABEL_FILES.items() if (folder / name).is_file()}
        words = _read_ctm(folder / "ctm") if (folder / "ctm").is_file() else {}
    origins = read_table(segments) if segments is not None else wavs
    for key, span in spans.items():
        record = {"key": key, **span, "txt": texts[key].value if key in texts else None, "words": words.get(key)}
        record |= {field: table[key].value for field, table in labels.items() if key in table}
        yield Utterance.from_record(record, origins[key].origin)


def read_table(path: str | Path, allow_empty: bool = False) -> dict[str, Entry]:
    """``key value…`` lines in file order; a key twice, or without a value unless ``allow_empty``, is an error."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; a Kaldi directory needs it", "missing_list")
    table: dict[str, Entry] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            key, _, value = line.strip().replace("\t", " ", 1).partition(" ")
            origin = f"{path}:{number}"
            if not key:
                continue
            if key in table:
                raise DataError(f"{origin}: key {key} was already given at {table[key].origin}", "duplicate_key")
            if not value.strip() and not allow_empty:
                raise DataError(f"{origin}: key {key} has no value", "bad_table")
            table[key] = Entry(value.strip(), origin)
    if not table:
        raise DataError(f"{path}: the file is empty", "empty_list")
    return table


def _read_segments(path: str | Path, wavs: dict[str, Entry]) -> dict[str, dict[str, Any]]:
    """``key recording start end`` → the fields wav, start and end; an end of -1 is the end of the recording, as in Kaldi."""
    spans: dict[str, dict[str, Any]] = {}
    for key, entry in read_table(path).items():
        parts = entry.value.split()
        try:
            recording, start, end = parts[0], float(parts[1]), float(parts[2])
        except (IndexError, ValueError) as error:
            raise DataError(f"{entry.origin}: expected 'key recording start end', got '{key} {entry.value}'", "bad_table") from error
        if recording not in wavs:
            raise DataError(f"{entry.origin}: recording {recording} is not in wav.scp", "missing_audio")
        if start < 0 or (end != -1 and end <= start):
            raise DataError(f"{entry.origin}: segment from {start} s to {end} s is empty", "bad_table")
        spans[key] = {"wav": wavs[recording].value, "start": start, "end": None if end == -1 else end}
    return spans


def _read_ctm(path: Path) -> dict[str, list[list[Any]]]:
    """NIST ctm: ``key channel start duration word [confidence]``, seconds within the utterance."""
    words: dict[str, list[list[Any]]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            parts = line.split()
            origin = f"{path}:{number}"
            if not parts or parts[0].startswith(";;"):
                continue
            try:
                start, duration, word = float(parts[2]), float(parts[3]), parts[4]
            except (IndexError, ValueError) as error:
                raise DataError(f"{origin}: expected 'key channel start duration word', got {line.strip()!r}", "bad_table") from error
            words.setdefault(parts[0], []).append([word, start, round(start + duration, 3)])
    return words
