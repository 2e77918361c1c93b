"""Lists on disk to a plan of an epoch: raw lists, tar shards and combine lists (tars plus a metadata file each), mixed by weight.

A source is a row of *units* that can be read in any order: one line of a raw list, one tar of the others. An epoch's plan is every unit of
every source, shuffled by (seed, epoch); a reader takes every n-th of it, so ranks and workers share an epoch without loss or repetition.
A weight w gives floor(w) copies and one more whose utterances are kept with probability w - floor(w), drawn from (seed, epoch, key).
Structural errors (no such list, empty list, a key twice) are raised when a source is opened; whatever is wrong with one row or one tar
comes out as a ``Drop`` in its place. Remote storage is left out.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from osum_echat.config import SourceConfig
from osum_echat.data.tar import TarEntry, read_tar
from osum_echat.errors import DataError
from osum_echat.utterance import Utterance

T = TypeVar("T")


@dataclass(frozen=True)
class Drop:
    """An utterance that is left out: under which name it is counted, and the message for the report."""

    reason: str
    key: str
    origin: str
    task: str
    message: str

    @classmethod
    def because(cls, error: DataError, utterance: Utterance, task: str) -> "Drop":
        """Counted under the error's reason; the message says where, unless the error does so itself."""
        text, origin = str(error), utterance.origin
        message = text if origin and origin in text else f"{origin}: key {utterance.key}: {text}"
        return cls(error.reason, utterance.key, origin, task, message)


Row = Utterance | Drop
Make = Callable[[], Row]  # reads one row; not called for rows that a resumed run skips


@dataclass(frozen=True)
class Unit:
    """One entry of an epoch's plan; the copy of a fractional weight has ``keep`` below 1."""

    source: int
    index: int
    copy: int
    keep: float


class Source(Protocol):
    """Units that are read independently of each other."""

    def __len__(self) -> int: ...

    def rows(self, index: int) -> Iterator[Make]: ...


def draw(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def generator(*parts: object) -> np.random.Generator:
    """A random generator that depends on the parts alone."""
    return np.random.default_rng(int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest(), "big"))


class RawSource:
    """JSON lines. Only byte offsets are held; relative paths that do not exist are tried beside the list."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._offsets, self._numbers = _raw_index(str(self.path), _stamp(self.path))

    def __len__(self) -> int:
        return len(self._offsets)

    def rows(self, index: int) -> Iterator[Make]:
        yield lambda: self._row(index)

    def _row(self, index: int) -> Row:
        origin = f"{self.path}:{self._numbers[index]}"
        with self.path.open("rb") as file:
            file.seek(int(self._offsets[index]))
            line = file.readline()
        return attempt(lambda: self._located(Utterance.from_json(line, origin)), "", origin)

    def _located(self, utterance: Utterance) -> Utterance:
        history = tuple(replace(turn, wav=self._locate(turn.wav)) for turn in utterance.history)
        return replace(utterance, wav=self._locate(utterance.wav), answer_wav=self._locate(utterance.answer_wav), history=history)

    def _locate(self, wav: str | None) -> str | None:
        if wav is None or wav.startswith("/") or wav.rstrip().endswith("|"):
            return wav
        file, colon, offset = wav.rpartition(":") if ".ark:" in wav else (wav, "", "")
        return str(located(file, self.path.parent)) + colon + offset


class ShardSource:
    """A list of tars."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._tars = _tar_list(str(self.path), _stamp(self.path), lambda value, origin: _existing(value, self.path.parent, origin))

    def __len__(self) -> int:
        return len(self._tars)

    def rows(self, index: int) -> Iterator[Make]:
        tar, origin = self._tars[index]
        for entry in _until_broken(tar, origin):
            yield _drop_maker(entry) if isinstance(entry, Drop) else _entry_maker(entry, entry.utterance, origin)


class CombineSource:
    """Lines ``metadata.jsonl|audio.tar``: rows and labels come from the metadata, audio (and what the metadata leaves out) from the tar.

    A line ``-|audio.tar`` is a plain shard. Tar members without a metadata row are not part of the data; a row without audio is a drop.
    OSUM's ``combines_list.txt`` (metadata files only) works when ``combines_tar_root.txt`` lies beside it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._pairs = _tar_list(str(self.path), _stamp(self.path), self._pair)

    def __len__(self) -> int:
        return len(self._pairs)

    def _pair(self, value: str, origin: str) -> tuple[Path | None, Path]:
        folder = self.path.parent
        metadata, bar, tar = value.partition("|")
        if not bar:
            root = folder / "combines_tar_root.txt"
            if not root.is_file():
                raise DataError(f"{origin}: expected 'metadata.jsonl|audio.tar', got {value!r}", "bad_list")
            tar = str(Path(root.read_text(encoding="utf-8").split("\n")[0].strip()) / (Path(metadata).name.rsplit(".", 1)[0] + ".tar"))
        return None if metadata.strip() == "-" else _existing(metadata.strip(), folder, origin), _existing(tar.strip(), folder, origin)

    def rows(self, index: int) -> Iterator[Make]:
        (metadata, tar), origin = self._pairs[index]
        records, broken = (None, []) if metadata is None else _read_metadata(metadata)
        yield from map(_drop_maker, broken)
        for entry in _until_broken(tar, origin):
            if isinstance(entry, Drop):
                yield _drop_maker(entry)
            elif records is None:
                yield _entry_maker(entry, entry.utterance, origin)
            elif entry.key in records:
                line, where = records.pop(entry.key)
                yield _entry_maker(entry, _merge(entry, line), where)
        for key, (_, where) in (records or {}).items():
            yield _drop_maker(Drop("missing_audio", key, where, "", f"{where}: key {key} has no audio in {tar}"))


SOURCES: dict[str, Callable[[str], Source]] = {"raw": RawSource, "shard": ShardSource, "combine": CombineSource}


class Mixture:
    """The weighted sources of a run; all state of a position is (epoch, reader, unit, row)."""

    def __init__(self, configs: Sequence[SourceConfig]) -> None:
        self._configs = list(configs)
        self._sources = [SOURCES[config.kind](config.list) for config in configs]

    @property
    def num_units(self) -> int:
        """Length of every epoch's plan."""
        return sum(math.ceil(config.weight) * len(source) for config, source in zip(self._configs, self._sources, strict=True))

    def plan(self, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
        """(units, 3) rows of source, index and copy, in the order in which an epoch's units are dealt to the readers."""
        blocks = []
        for number, (config, source) in enumerate(zip(self._configs, self._sources, strict=True)):
            copies, indices = np.divmod(np.arange(math.ceil(config.weight) * len(source)), len(source))
            blocks.append(np.stack([np.full_like(indices, number), indices, copies], axis=1))
        plan = np.concatenate(blocks)
        return plan[generator("plan", seed, epoch).permutation(len(plan))] if shuffle else plan

    def unit(self, source: int, index: int, copy: int) -> Unit:
        """One row of the plan; the last copy of a fractional weight keeps only a part of its rows."""
        weight = self._configs[source].weight
        return Unit(source, index, copy, min(1.0, weight - copy))

    def read(self, unit: Unit, seed: int, epoch: int, skip: int = 0) -> Iterator[Row | None]:
        """Rows of a unit from row ``skip`` on, with the source's task; None where a fractional weight leaves a row out."""
        task = self._configs[unit.source].task
        for make in islice(self._sources[unit.source].rows(unit.index), skip, None):
            row = make()
            if unit.keep < 1.0 and draw("weight", seed, epoch, row.key) >= unit.keep:
                yield None
            elif task is None:
                yield row
            else:
                yield replace(row, task=task)


def read_raw_list(path: str | Path) -> Iterator[Utterance]:
    """Every row of a raw list in order, for tools; a broken one raises."""
    source = RawSource(path)
    for index in range(len(source)):
        for make in source.rows(index):
            row = make()
            if isinstance(row, Drop):
                raise DataError(row.message, row.reason)
            yield row


def attempt(make: Callable[[], Utterance], key: str, origin: str) -> Row:
    """The utterance, or the Drop its ``DataError`` asks for."""
    try:
        return make()
    except DataError as error:
        return Drop(error.reason, key, origin, "", str(error))


def located(path: str, folder: Path) -> Path:
    """``path`` as it is when it exists or is absolute, otherwise beside the list when it exists there."""
    if os.path.isabs(path) or os.path.exists(path) or not (folder / path).exists():
        return Path(path)
    return folder / path


def _stamp(path: Path) -> tuple[int, int]:
    if not path.is_file():
        raise DataError(f"{path}: no such list; write it with tools/make_raw_list.py or tools/make_shard_list.py", "missing_list")
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=64)
def _raw_index(path: str, _stamp: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Byte offset and line number of every non-empty line; a key that comes twice is an error here, a broken line is not."""
    offsets: list[int] = []
    numbers: list[int] = []
    seen: dict[str, int] = {}
    position = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                offsets.append(position)
                numbers.append(number)
                key = _key_of(line)
                if key is not None and seen.setdefault(key, number) != number:
                    raise DataError(f"{path}:{number}: key {key} was already given in line {seen[key]}", "duplicate_key")
            position += len(line)
    if not offsets:
        raise DataError(f"{path}: the list is empty", "empty_list")
    return np.array(offsets, dtype=np.int64), np.array(numbers, dtype=np.int64)


def _key_of(line: bytes) -> str | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return str(record["key"]) if isinstance(record, dict) and record.get("key") else None


def _tar_list(path: str, _stamp: tuple[int, int], parse: Callable[[str, str], T]) -> list[tuple[T, str]]:
    """Parsed lines with their ``file:line``; the same line twice is an error (weights are the way to repeat data)."""
    lines: list[tuple[T, str]] = []
    seen: dict[str, str] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            value, origin = line.strip(), f"{path}:{number}"
            if not value:
                continue
            if seen.setdefault(value, origin) != origin:
                raise DataError(f"{origin}: {value} was already listed at {seen[value]}; give the source a weight instead", "duplicate_key")
            lines.append((parse(value, origin), origin))
    if not lines:
        raise DataError(f"{path}: the list is empty", "empty_list")
    return lines


def _existing(value: str, folder: Path, origin: str) -> Path:
    path = located(value, folder)
    if not path.is_file():
        raise DataError(f"{origin}: {value}: no such file", "missing_list")
    return path


def _until_broken(tar: Path, origin: str) -> Iterator[TarEntry | Drop]:
    try:
        yield from read_tar(tar)
    except DataError as error:
        yield Drop(error.reason, tar.name, origin, "", f"{origin}: {error}")


def _drop_maker(drop: Drop) -> Make:
    return lambda: drop


def _entry_maker(entry: TarEntry, make: Callable[[], Utterance], origin: str) -> Make:
    return lambda: attempt(make, entry.key, origin)


def _merge(entry: TarEntry, line: dict[str, object]) -> Callable[[], Utterance]:
    """The metadata wins, but for where the audio is: the tar holds it already cut."""
    labels = {name: value for name, value in line.items() if name not in ("wav", "start", "end")}
    return lambda: entry.with_audio({**entry.record(), **labels})


def _read_metadata(path: Path) -> tuple[dict[str, tuple[dict[str, object], str]], list[Drop]]:
    """Metadata rows by key with their ``file:line``, and the lines that cannot be used."""
    records: dict[str, tuple[dict[str, object], str]] = {}
    broken: list[Drop] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            origin = f"{path}:{number}"
            checked = attempt(lambda line=line, origin=origin: Utterance.from_json(line, origin), "", origin)  # type: ignore[misc]
            if isinstance(checked, Drop):
                broken.append(checked)
            elif checked.key in records:
                broken.append(Drop("duplicate_key", checked.key, origin, "", f"{origin}: key {checked.key} was already given above"))
            else:
                records[checked.key] = (json.loads(line), origin)
    return records, broken
