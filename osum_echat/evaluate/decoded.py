"""What a decode directory holds: `transcript`, `text`, `reply`, `labels.jsonl`, `decode.json` (written by generate/outputs.py)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osum_echat.config import SourceConfig
from osum_echat.errors import DataError
from osum_echat.evaluate.kaldi_text import read_kaldi_text


@dataclass(frozen=True)
class Decoded:
    """Hypotheses by key. `raw` is the answer as the model wrote it, tags included; `replies` what it said in a conversation."""

    folder: Path
    info: dict[str, Any]
    raw: dict[str, str]
    transcripts: dict[str, str]
    labels: dict[str, dict[str, str]]
    replies: dict[str, str]

    @property
    def has_transcript(self) -> bool:
        """False when the task asked for labels only: then the words are nothing to score."""
        return bool(self.info.get("has_transcript", True))

    @property
    def thinks(self) -> bool:
        """True when transcript and labels are those of think blocks: what the user said, not the row's `txt`."""
        return bool(self.info.get("thinks", False))

    def asks_for(self, label: str) -> bool:
        """True when the decoded task asked for this label (or nobody wrote down what it asked for)."""
        asked = self.info.get("labels")
        return asked is None or label in asked

    @property
    def source(self) -> SourceConfig | None:
        """The list that was decoded, when decode.json names it."""
        kind, path = self.info.get("data_type"), self.info.get("list")
        return SourceConfig(kind=kind, list=path) if kind and path else None


def read_decoded(folder: Path) -> Decoded:
    """Read a decode directory; one without a finished decode is an error."""
    if not (folder / "text").is_file():
        raise DataError(f"{folder}: holds no file 'text'; decode into it first (osum-echat decode --out {folder}), or let it finish")
    info_file = folder / "decode.json"
    info = json.loads(info_file.read_text(encoding="utf-8")) if info_file.is_file() else {}
    raw = read_kaldi_text(folder / "text")
    transcripts = read_kaldi_text(folder / "transcript") if (folder / "transcript").is_file() else raw
    replies = read_kaldi_text(folder / "reply") if (folder / "reply").is_file() else raw
    return Decoded(folder, info, raw, transcripts, read_labels(folder / "labels.jsonl"), replies)


def read_labels(path: Path) -> dict[str, dict[str, str]]:
    """``{"key": ..., "gender": ...}`` a line; empty when there is no such file."""
    found: dict[str, dict[str, str]] = {}
    if not path.is_file():
        return found
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                found[record.pop("key")] = {name: str(value) for name, value in record.items()}
            except (ValueError, AttributeError, KeyError) as error:
                raise DataError(
                    f'{path}:{number}: expected an object such as {{"key": "u1", "gender": "male"}} ({error})', "bad_json"
                ) from error
    return found
