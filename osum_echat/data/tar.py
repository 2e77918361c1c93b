"""Utterances inside a tar: members ``<key>.<field>`` of one key stand together, as WeNet and OSUM write them.

Reading is lazy: a member's bytes are touched only when its utterance is asked for, so skipping to a resume position costs headers alone.
Remote shards are left out: copy or mount them.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osum_echat.errors import DataError
from osum_echat.utterance import Utterance

AUDIO_FIELDS = ("wav", "flac", "mp3", "ogg", "opus", "m4a", "wma")
_TEXT_FIELDS = ("txt", "task", "lang", "speaker", "gender", "age", "emotion", "event", "style", "question", "think", "duration", "extra")


@dataclass(frozen=True)
class TarEntry:
    """One utterance of a tar before its members are read; ``read(name)`` gives a member's bytes."""

    key: str
    members: frozenset[str]
    read: Callable[[str], bytes]
    origin: str

    def record(self) -> dict[str, Any]:
        """All members but the audio as the dict a list line would hold; OSUM's numbered turns become ``history``."""
        record: dict[str, Any] = {name: self._text(name) for name in _TEXT_FIELDS if name in self.members}
        if "json" in self.members:
            record |= self._json()
        record["key"] = self.key
        history = record.get("history")
        record["history"] = self._filled(history) if history else self._osum_turns(record)
        return record

    def utterance(self) -> Utterance:
        """The whole utterance with its encoded audio."""
        return self.with_audio(self.record())

    def with_audio(self, record: dict[str, Any]) -> Utterance:
        """An utterance of any record with this entry's audio."""
        utterance = Utterance.from_record(record, self.origin)
        field = next((name for name in AUDIO_FIELDS if name in self.members), None)
        return utterance if field is None else replace(utterance, wav=None, audio=self.read(field))

    def _text(self, name: str) -> str:
        try:
            return self.read(name).decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{self.origin}: member {self.key}.{name} is not UTF-8 ({error})", "corrupt_text") from error

    def _json(self) -> dict[str, Any]:
        try:
            record = json.loads(self.read("json"))
        except ValueError as error:
            raise DataError(f"{self.origin}: member {self.key}.json is not JSON ({error})", "bad_json") from error
        if not isinstance(record, dict):
            raise DataError(f"{self.origin}: member {self.key}.json must be an object, got {type(record).__name__}", "bad_json")
        return record

    def _filled(self, history: Any) -> Any:
        """Our own shards: a turn whose ``wav`` names a member of this entry gets its bytes."""
        if not isinstance(history, list):
            return history
        return [{**turn, "wav": None, "audio": self.read(turn["wav"])} if self._embedded(turn) else turn for turn in history]

    def _embedded(self, turn: Any) -> bool:
        return isinstance(turn, dict) and turn.get("wav") in self.members

    def _osum_turns(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """OSUM-EChat: ``wav_<i>`` was said by the user, ``txt_<i>`` and extra's ``speech_token_<i>`` were answered."""
        turns: list[dict[str, Any]] = []
        if "wav_1" not in self.members:
            return turns
        try:
            extra = json.loads(record.get("extra") or "{}") if isinstance(record.get("extra"), str) else record.get("extra") or {}
        except ValueError as error:
            raise DataError(f"{self.origin}: member {self.key}.extra is not JSON ({error})", "bad_json") from error
        number = 1
        while f"wav_{number}" in self.members:
            turns.append({"role": "user", "audio": self.read(f"wav_{number}")})
            answer = self._text(f"txt_{number}") if f"txt_{number}" in self.members else None
            turns.append({"role": "assistant", "txt": answer, "speech_token": extra.get(f"speech_token_{number}")})
            number += 1
        return turns


def read_tar(path: str | Path) -> Iterator[TarEntry]:
    """Entries of a tar in order; a ``DataError`` (bad_tar) after the last whole one when the tar is cut off or is none."""
    path = Path(path)
    num_whole = 0
    try:
        with tarfile.open(path, "r:*") as tar:
            for entry in _entries(tar, path):
                yield entry
                num_whole += 1
            _check_end(tar, path, num_whole)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: cut off or not a tar after {num_whole} whole utterances ({error})", "bad_tar") from error


def _entries(tar: tarfile.TarFile, path: Path) -> Iterator[TarEntry]:
    key: str | None = None
    members: dict[str, tarfile.TarInfo] = {}
    for info in tar:
        prefix, dot, field = info.name.rpartition(".")
        if not info.isfile() or not dot or not prefix:
            continue
        if key is not None and prefix != key:
            yield _entry(tar, path, key, members)
            members = {}
        key = prefix
        members[field] = info
    if key is not None:
        yield _entry(tar, path, key, members)


def _entry(tar: tarfile.TarFile, path: Path, key: str, members: dict[str, tarfile.TarInfo]) -> TarEntry:
    def read(name: str) -> bytes:
        file = tar.extractfile(members[name])
        if file is None:
            raise DataError(f"{path}: member {key}.{name} is not a file", "bad_tar")
        try:
            return file.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{path}: member {key}.{name} cannot be read ({error})", "bad_tar") from error

    return TarEntry(key, frozenset(members), read, f"{path}:{key}")


def _check_end(tar: tarfile.TarFile, path: Path, num_whole: int) -> None:
    """A tar cut between two members, or within a header, looks finished but lacks its end mark of zero blocks."""
    if not isinstance(tar.fileobj, io.BufferedReader):
        return  # compressed: the decompressor notices
    tar.fileobj.seek(tar.offset)
    if len(tar.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
        raise DataError(f"{path}: cut off after {num_whole} whole utterances: the end mark of the tar is missing", "bad_tar")
