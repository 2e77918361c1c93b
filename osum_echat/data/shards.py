"""Writers of the three kinds of lists: raw (JSON lines), tar shards with a manifest, and combine lists (new labels over old tars).

A shard is ``<prefix>_<9 digits>.tar`` with members ``<key>.txt``, ``<key>.wav|flac|…`` and ``<key>.json`` (all other fields), which a
plain WeNet loader reads too. Audio that already is one mono file at the wanted rate is copied byte for byte; segments, other rates
and several channels are written as 16-bit files. Every file appears whole or not at all (written aside, then renamed). ``answer_wav``
stays a path for now.
"""

import hashlib
import io
import json
import os
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from osum_echat.audio.io import RATE, encode_pcm16, probe, read_audio, read_native, resample
from osum_echat.data.source import Drop
from osum_echat.data.tally import Tally
from osum_echat.data.tar import AUDIO_FIELDS, read_tar
from osum_echat.errors import DataError
from osum_echat.files import write_text
from osum_echat.processes import clean_context, heed_sigterm
from osum_echat.utterance import Utterance


@dataclass(frozen=True)
class ShardOptions:
    """How shards are written; ``rate`` 0 keeps every recording's own rate."""

    prefix: str = "shards"
    num_per_shard: int = 1000
    num_processes: int = 1
    rate: int = RATE
    audio_format: str = "wav"
    max_drop: float = 0.02

    def __post_init__(self) -> None:
        if self.audio_format not in ("wav", "flac"):
            raise DataError(f"shards hold wav or flac, got {self.audio_format!r}", "bad_option")
        if self.num_per_shard < 1 or self.num_processes < 1:
            got = f"{self.num_per_shard} and {self.num_processes}"
            raise DataError(f"need at least one utterance per shard and one process, got {got}", "bad_option")


@dataclass(frozen=True)
class ShardInfo:
    """One tar of a manifest."""

    name: str
    num_utterances: int
    hours: float
    num_bytes: int
    sha256: str


def make_raw_list(utterances: Iterable[Utterance], path: str | Path) -> int:
    """Writes a raw list and returns its length; keys must be unique."""
    seen: dict[str, str] = {}
    lines = []
    for utterance in utterances:
        _check_unique(utterance, seen)
        lines.append(utterance.to_json() + "\n")
    if not lines:
        raise DataError(f"{path}: nothing to write, the input has no utterance", "empty_list")
    write_text(path, "".join(lines))
    return len(lines)


def make_shards(
    utterances: Iterable[Utterance], folder: str | Path, list_path: str | Path, options: ShardOptions | None = None
) -> dict[str, Any]:
    """Writes tars, ``manifest.json`` beside them and the list of tars; returns the manifest.

    Unreadable audio is dropped and counted; a larger share than ``max_drop``, and any failure of a writer process, is an error, and then
    neither list nor manifest is written.
    """
    options = options or ShardOptions()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chunks = enumerate(_chunks(utterances, options.num_per_shard))
    jobs = ((folder / f"{options.prefix}_{number:09d}.tar", chunk, options) for number, chunk in chunks)
    shards: list[ShardInfo] = []
    tally = Tally()
    for shard, counts in _run_jobs(jobs, options.num_processes):
        tally.merge(counts)
        if shard is not None:
            shards.append(shard)
    if tally.num_read == 0:
        raise DataError(f"{list_path}: nothing to write, the input has no utterance", "empty_list")
    if tally.drop_rate > options.max_drop or not shards:
        raise DataError(f"{folder}: too much of the audio cannot be read (max_drop {options.max_drop}): {tally.table()}", "max_drop")
    manifest = {
        "version": 1,
        "num_utterances": sum(shard.num_utterances for shard in shards),
        "hours": round(sum(shard.hours for shard in shards), 6),
        "rate": options.rate,
        "dropped": tally.drops,
        "dropped_examples": tally.examples,
        "shards": [asdict(shard) for shard in shards],
    }
    write_text(folder / "manifest.json", json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
    write_text(list_path, "".join(f"{folder / shard.name}\n" for shard in shards))
    return manifest


def make_combine(shard_list: str | Path, utterances: Iterable[Utterance], folder: str | Path, list_path: str | Path) -> int:
    """Writes ``<tar>.jsonl`` with the rows of each tar's keys and the list of ``metadata|tar`` lines; returns the number of rows written.

    Only the tars' headers are read. A row whose key is in no tar is an error: it would be lost.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    seen: dict[str, str] = {}
    rows: dict[str, Utterance] = {}
    for utterance in utterances:
        _check_unique(utterance, seen)
        rows[utterance.key] = utterance
    num_rows = len(rows)
    lines = []
    for tar in Path(shard_list).read_text(encoding="utf-8").split("\n"):
        if not tar.strip():
            continue
        here = [rows.pop(entry.key) for entry in read_tar(tar.strip()) if entry.key in rows]
        if here:
            metadata = folder / (Path(tar.strip()).stem + ".jsonl")
            write_text(metadata, "".join(replace(row, wav=None, start=None, end=None).to_json() + "\n" for row in here))
            lines.append(f"{metadata}|{tar.strip()}\n")
    if rows:
        row = next(iter(rows.values()))
        raise DataError(f"{row.origin}: key {row.key} and {len(rows) - 1} more are in no tar of {shard_list}", "missing_audio")
    if not lines:
        raise DataError(f"{list_path}: nothing to write, the input has no utterance", "empty_list")
    write_text(list_path, "".join(lines))
    return num_rows


def _chunks(utterances: Iterable[Utterance], size: int) -> Iterator[list[Utterance]]:
    seen: dict[str, str] = {}
    iterator = iter(utterances)
    while chunk := list(islice(iterator, size)):
        for utterance in chunk:
            _check_unique(utterance, seen)
        yield chunk


def _check_unique(utterance: Utterance, seen: dict[str, str]) -> None:
    if utterance.key in seen:
        raise DataError(f"{utterance.origin}: key {utterance.key} was already given at {seen[utterance.key]}", "duplicate_key")
    seen[utterance.key] = utterance.origin


Job = tuple[Path, list[Utterance], ShardOptions]


def _run_jobs(jobs: Iterable[Job], num_processes: int) -> Iterator[tuple[ShardInfo | None, Tally]]:
    """Results in order; the first failure of a process is raised here and the rest is called off."""
    if num_processes == 1:
        yield from map(_write_shard, jobs)
        return
    with ProcessPoolExecutor(num_processes, clean_context(), heed_sigterm) as pool:
        running: deque[Future[tuple[ShardInfo | None, Tally]]] = deque()  # bounded: the input may be larger than memory
        try:
            for job in jobs:
                running.append(pool.submit(_write_shard, job))
                if len(running) > 2 * num_processes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # tars being written are finished, no half of one is left behind
            raise


def _write_shard(job: Job) -> tuple[ShardInfo | None, Tally]:
    path, utterances, options = job
    tally = Tally(num_read=len(utterances))
    aside = path.with_name(f"{path.name}.tmp{os.getpid()}")
    num_written, seconds = 0, 0.0
    try:
        with tarfile.open(aside, "w") as tar:
            for utterance in utterances:
                try:
                    members, duration = _members(utterance, options)
                except DataError as error:
                    tally.add(Drop.because(error, utterance, utterance.task))
                    continue
                for name, content in members.items():
                    _add_member(tar, f"{utterance.key}.{name}", content)
                num_written, seconds = num_written + 1, seconds + duration
        if num_written == 0:
            return None, tally
        info = ShardInfo(path.name, num_written, seconds / 3600, aside.stat().st_size, _sha256(aside))
        os.replace(aside, path)
        return info, tally
    finally:
        aside.unlink(missing_ok=True)


def _members(utterance: Utterance, options: ShardOptions) -> tuple[dict[str, bytes], float]:
    """Contents of one utterance by member name, and its seconds."""
    members: dict[str, bytes] = {}
    seconds = 0.0
    if utterance.txt is not None:
        members["txt"] = utterance.txt.encode()
    if utterance.audio is not None or utterance.wav is not None:
        name, members_audio, seconds = _audio_member(utterance, options)
        members[name] = members_audio
    rest = replace(utterance, wav=None, start=None, end=None, txt=None)
    for number, turn in enumerate(utterance.history, start=1):
        if turn.wav is not None or turn.audio is not None:
            source = turn.audio if turn.audio is not None else str(turn.wav)
            members[f"wav_{number}"] = encode_pcm16(read_audio(source))
            turns = (*rest.history[: number - 1], replace(turn, wav=f"wav_{number}", audio=None), *rest.history[number:])
            rest = replace(rest, history=turns)
    members["json"] = rest.to_json().encode()
    return members, seconds


def _audio_member(utterance: Utterance, options: ShardOptions) -> tuple[str, bytes, float]:
    source = utterance.audio if utterance.audio is not None else str(utterance.wav)
    samples_S, rate = read_native(source, utterance.start, utterance.end)  # also proves that the audio can be decoded
    seconds = len(samples_S) / rate
    whole = utterance.start is None and utterance.end is None
    plain_file = isinstance(source, str) and os.path.isfile(source)
    suffix = Path(source).suffix[1:].lower() if plain_file and isinstance(source, str) else ""
    if whole and suffix in AUDIO_FIELDS and options.rate in (0, rate) and probe(source).num_channels == 1:
        return suffix, Path(str(source)).read_bytes(), seconds
    target = options.rate or rate
    return options.audio_format, encode_pcm16(resample(samples_S, rate, target), target, options.audio_format.upper()), seconds


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # no time, owner or mode of this machine: equal input gives equal bytes
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
