"""Speech tokens of every utterance of a list: raw, shard or combine list in, raw list with ``speech_token`` out.

The list is cut into chunks (some rows of a raw list, one tar of the others). Parallel processes write one part file a chunk, whole or
not at all, and the parts are joined in order at the end: a killed run goes on behind its finished parts, and its result is that of an
uninterrupted one. A part depends on nothing but its chunk: each process computes with one thread and forms batches within the chunk.
Rows whose audio is missing or broken are drops, counted by reason; parts that hold drops are made anew by the next start.
Audio inside tars does not fit into a raw list: join the result with the tars by tools/make_combine_list.py.
Where the audio is that of answers, earlier replies of ``history`` that have a recording get their tokens too.
"""

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from osum_echat.audio.features import HOP, SAMPLE_RATE
from osum_echat.audio.frontends import MAX_SECONDS, OnnxSpeechTokenizer
from osum_echat.audio.io import read_audio
from osum_echat.data.source import SOURCES, Drop
from osum_echat.data.tally import Tally
from osum_echat.errors import DataError, UserError
from osum_echat.files import write_atomic, write_text
from osum_echat.processes import clean_context, heed_sigterm
from osum_echat.token2wav.quantizer import CodebookUsage
from osum_echat.token2wav.speech_tokenizer import SpeechTokenizer
from osum_echat.train.assemble import load_speech_tokenizer
from osum_echat.utterance import AUDIO_FIELDS, Turn, Utterance

Item = tuple[Utterance, Tensor]  # a row and the log-mel (F, M) of its audio

_FRAME_RATE = SAMPLE_RATE / HOP
_WINDOW_SECONDS = 600.0  # of audio that is sorted by length; its log-mels are in memory
_IDENTITY = "identity.json"


@dataclass(frozen=True)
class ExtractSettings:
    """What decides the result. ``batch_seconds`` bounds a batch (an utterance that is longer has one of its own).

    The tokenizer is our own (``config`` and ``checkpoint``) or a published one (``onnx``, with its ``codebook_size``).
    """

    config: str
    checkpoint: str
    list: str
    data_type: str = "raw"
    audio: str = "wav"
    device: str = "cpu"
    rows_per_chunk: int = 100
    batch_seconds: float = 60.0
    max_seconds: float = 120.0
    onnx: str = ""
    codebook_size: int = 4096

    def identity(self) -> dict[str, Any]:
        """Equal for two runs with the same result: settings, and the files by size and time."""
        paths = [path for path in (self.config, self.checkpoint, self.onnx, self.list) if path]
        stamps = {path: [os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in paths}
        return {"format": 2, **asdict(self), "files": stamps}


class Progress(NamedTuple):
    """Chunks done, chunks in all, and of this start: rows read, rows dropped, tokens made."""

    done: int
    total: int
    rows: int
    dropped: int
    tokens: int


@dataclass(frozen=True)
class Part:
    """First line of a part file; the rows with their tokens follow."""

    tally: dict[str, Any]
    num_tokens: int
    audio_seconds: float


class Extractor:
    """The open list and the model: what each worker process keeps."""

    def __init__(self, settings: ExtractSettings, folder: Path) -> None:
        if settings.audio not in AUDIO_FIELDS:
            raise UserError(f"audio field {settings.audio!r}: expected {' or '.join(AUDIO_FIELDS)}")
        self.settings, self.folder, self.max_seconds = settings, folder, settings.max_seconds
        self.source = SOURCES[settings.data_type](settings.list)
        self.model: OnnxSpeechTokenizer | SpeechTokenizer
        if settings.onnx:
            self.model = OnnxSpeechTokenizer(settings.onnx, settings.codebook_size, settings.device)
            self.max_seconds = min(self.max_seconds, MAX_SECONDS)
        else:
            self.model = load_speech_tokenizer(settings.config, settings.checkpoint, settings.device)

    @property
    def chunks(self) -> list[range]:
        """The units of the list that make one part each."""
        step = self.settings.rows_per_chunk if self.settings.data_type == "raw" else 1
        return [range(start, min(start + step, len(self.source))) for start in range(0, len(self.source), step)]

    def run(self, number: int) -> Part:
        """Writes the part file of one chunk."""
        tally, frames, rows = Tally(), 0, []
        for window in _batches(self._read(self.chunks[number], tally), _WINDOW_SECONDS):
            rows += self._encode(window)
            frames += sum(len(mel_FM) for _, mel_FM in window)
        part = Part(tally.state(), sum(len(row.speech_token or ()) for row in rows), frames / _FRAME_RATE)
        lines = [json.dumps(asdict(part), ensure_ascii=False), *(row.to_json() for row in rows)]
        write_text(_part_path(self.folder, number), "".join(line + "\n" for line in lines))
        return part

    def _read(self, units: range, tally: Tally) -> Iterator[Item]:
        for make in (make for unit in units for make in self.source.rows(unit)):
            row = make()
            tally.num_read += 1
            if isinstance(row, Drop):
                tally.add(row)
                continue
            try:
                item = self._with_history(replace(row, audio=None)), self._log_mel(row)
            except DataError as error:
                tally.add(Drop.because(error, row, row.task))
                continue
            yield item

    def _log_mel(self, row: Utterance) -> Tensor:
        row = row.hearing(self.settings.audio)
        source = row.audio if row.audio is not None else row.wav
        if source is None:
            raise DataError(f"no {self.settings.audio} to take speech tokens from", "missing_audio")
        return self._log_mel_of(read_audio(source, row.start, row.end))

    def _log_mel_of(self, samples_S: np.ndarray) -> Tensor:
        seconds = len(samples_S) / SAMPLE_RATE
        if seconds > self.max_seconds:
            raise DataError(f"{seconds:.1f} s of audio, at most {self.max_seconds:g} s are taken at once", "too_long")
        return self.model.log_mel(torch.from_numpy(samples_S))

    def _with_history(self, row: Utterance) -> Utterance:
        """The row with tokens of its earlier replies, as far as these are recorded and have none yet."""
        if self.settings.audio != "answer_wav":
            return row
        return replace(row, history=tuple(self._with_tokens(turn) for turn in row.history))

    def _with_tokens(self, turn: Turn) -> Turn:
        source = turn.audio if turn.audio is not None else turn.wav
        if turn.role != "assistant" or turn.speech_token or source is None:
            return turn
        (codes_N,) = self.model.encode([self._log_mel_of(read_audio(source))])
        return replace(turn, speech_token=tuple(codes_N.tolist()))

    def _encode(self, window: list[Item]) -> list[Utterance]:
        """Rows of a window with their tokens, in order; utterances of similar length share a batch."""
        order = sorted(range(len(window)), key=lambda place: -len(window[place][1]))
        found: dict[int, Utterance] = {}
        for batch in _batches(((window[place][0], window[place][1]) for place in order), self.settings.batch_seconds):
            for (row, _), codes_N in zip(batch, self.model.encode([mel_FM for _, mel_FM in batch]), strict=True):
                found[order[len(found)]] = replace(row, speech_token=tuple(codes_N.tolist()))
        return [found[place] for place in sorted(found)]


def _batches(items: Iterable[Item], max_seconds: float) -> Iterator[list[Item]]:
    """Neighbours together up to so many seconds of audio, at least one."""
    batch: list[Item] = []
    frames = 0
    for item in items:
        if batch and frames + len(item[1]) > max_seconds * _FRAME_RATE:
            yield batch
            batch, frames = [], 0
        batch.append(item)
        frames += len(item[1])
    if batch:
        yield batch


def extract(
    settings: ExtractSettings, out: Path, num_processes: int, max_drop: float, progress: Callable[[Progress], None] = lambda _: None
) -> dict[str, Any]:
    """Writes ``out`` and its report ``<out>.json``, which is returned; a finished run of the same settings is not repeated.

    Raises:
        UserError: no such list or checkpoint, more drops than ``max_drop``, a worker process that died.
    """
    begin = time.monotonic()
    folder, report_path = out.with_name(out.name + ".parts"), out.with_name(out.name + ".json")
    extractor = Extractor(settings, folder)  # here, so that a wrong list or checkpoint is said once, before any process starts
    identity = json.loads(json.dumps(settings.identity()))
    if out.is_file() and _read_json(report_path).get("identity") == identity:
        return _read_json(report_path)
    todo = _unfinished(folder, len(extractor.chunks), identity)
    num_made = _run(settings, folder, todo, num_processes, len(extractor.chunks), progress)
    wall = time.monotonic() - begin
    report = {"identity": identity, **_join(folder, len(extractor.chunks), out, extractor.model.codebook_size, max_drop)}
    report |= {"wall_seconds": round(wall, 2), "tokens_per_second": round(num_made / wall, 1)}  # of this start alone
    write_text(report_path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    shutil.rmtree(folder)
    return report


def _part_path(folder: Path, number: int) -> Path:
    return folder / f"part_{number:06d}.jsonl"


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _unfinished(folder: Path, total: int, identity: dict[str, Any]) -> list[int]:
    """Chunks without a part, and those with drops: their audio may have been mended. Parts of other settings are removed."""
    if _read_json(folder / _IDENTITY) != identity:
        shutil.rmtree(folder, ignore_errors=True)
        write_text(folder / _IDENTITY, json.dumps(identity))
    return [number for number in range(total) if not _is_complete(_part_path(folder, number))]


def _is_complete(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not json.loads(file.readline())["tally"]["drops"]


def _run(
    settings: ExtractSettings, folder: Path, todo: list[int], num_processes: int, total: int, progress: Callable[[Progress], None]
) -> int:
    """Makes the missing parts; returns their tokens."""
    done = rows = dropped = tokens = 0
    with ProcessPoolExecutor(max(1, min(num_processes, len(todo))), clean_context(), _start_worker, (settings, folder)) as pool:
        try:
            for future in as_completed([pool.submit(_run_chunk, number) for number in todo]):
                part, done = future.result(), done + 1
                tally = Tally.from_state(part.tally)
                rows, dropped, tokens = rows + tally.num_read, dropped + tally.num_dropped, tokens + part.num_tokens
                progress(Progress(total - len(todo) + done, total, rows, dropped, tokens))
        except BrokenProcessPool:
            raise UserError(
                f"a process was ended from outside, perhaps for lack of memory; {done} of {len(todo)} parts were finished and are kept. "
                "Start the same command again, with fewer processes (--num_jobs)."
            ) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # parts being made are finished
            raise
    return tokens


_worker: list[Extractor] = []  # of this process; a pool's initializer has no other way to hand on what it made


def _start_worker(settings: ExtractSettings, folder: Path) -> None:
    """A parent that is gone takes its workers along, so that two starts never write the same part."""
    heed_sigterm()
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker.append(Extractor(settings, folder))


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_chunk(number: int) -> Part:
    return _worker[0].run(number)


def _join(folder: Path, total: int, out: Path, codebook_size: int, max_drop: float) -> dict[str, Any]:
    """Part files to one list; the facts of the report."""
    tally, usage, seen = Tally(), CodebookUsage(codebook_size), set[str]()
    seconds = 0.0

    def write(file: IO[bytes]) -> None:
        nonlocal seconds
        for number in range(total):
            with _part_path(folder, number).open("rb") as lines:
                part = Part(**json.loads(next(lines)))
                tally.merge(Tally.from_state(part.tally))
                seconds += part.audio_seconds
                for line in lines:
                    record = json.loads(line)
                    if record["key"] in seen:  # in two tars: a raw list with such a key does not even open
                        message = f"{out}: key {record['key']} comes twice in the list; only the first is kept"
                        tally.add(Drop("duplicate_key", record["key"], "", record["task"], message))
                        continue
                    seen.add(record["key"])
                    usage.add(record["speech_token"])
                    file.write(line)
        if tally.drop_rate > max_drop or not seen:
            raise DataError(f"more rows were dropped than --max_drop {max_drop:g} allows: {tally.table()}", "max_drop")

    write_atomic(out, write)
    facts = {"rows": len(seen), "read": tally.num_read, "tokens": usage.num_tokens, "audio_seconds": round(seconds, 2)}
    codebook = {"size": codebook_size, "used": round(usage.used, 4), "perplexity": round(usage.perplexity, 2)}
    return {**facts, "codebook": codebook, "drops": tally.drops, "drop_examples": tally.examples}
