"""Decode a list: read ahead a window, sort it by length, answer it in batches, write results as they come.

Every finished batch is appended to `partial.jsonl`; starting the same decode again goes on behind it, and `finish_decode` puts the files of
outputs.py in its place. An utterance that cannot be decoded is a counted drop.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from osum_echat.data.source import Drop, Row
from osum_echat.errors import DataError
from osum_echat.files import write_text
from osum_echat.generate.decoder import Generated, generate
from osum_echat.generate.outputs import CODE_RATE, AnswerRow, DecodeRecord, write_outputs
from osum_echat.generate.requests import GREEDY, Request, RequestEncoder
from osum_echat.generate.sampling import Sampler
from osum_echat.model.echat import EChat
from osum_echat.tasks.task import Task

PARTIAL = "partial.jsonl"
_DECIDES_ANSWER = ("sampler", "speech_sampler", "seed", "max_new", "max_speech", "max_think")
Progress = Callable[[int, int], None]
"""(utterances done, utterances dropped)"""


@dataclass(frozen=True)
class DecodeSettings:
    """How to decode. `max_batch_seconds` bounds a batch of long recordings; `read_ahead` utterances are sorted by length."""

    sampler: Sampler = GREEDY
    speech_sampler: Sampler | None = None  # as the run says
    seed: int = 777
    max_new: int | None = None
    max_speech: int | None = None
    max_think: int | None = None
    batch_size: int = 32
    max_batch_seconds: float = 480.0
    read_ahead: int = 512


class PartialFile:
    """Append-only record of a decode. Its first line says which decode it belongs to; another one starts it anew."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = _complete_lines(path)
        self.lines = lines[1:] if lines and lines[0] == identity else []
        kept = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [identity, *self.lines])
        write_text(path, kept)
        self._file = path.open("a", encoding="utf-8")

    def add(self, line: dict[str, Any]) -> None:
        """Append one line; it is on its way to the disk when this returns."""
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close and keep."""
        self._file.close()


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of an earlier start; a last one cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def decode_list(
    model: EChat,
    encoder: RequestEncoder,
    rows: Iterable[Row],
    settings: DecodeSettings,
    out: Path,
    identity: dict[str, Any],
    progress: Progress = lambda done, dropped: None,
) -> DecodeRecord:
    """Decode every row into `out`, going on where an earlier start of the same `identity` ended."""
    partial = PartialFile(out / PARTIAL, json.loads(json.dumps(identity)))
    record = DecodeRecord()
    for line in partial.lines:
        _restore(record, line)
    try:
        known = set(record.answers)
        record.drops.clear()  # what could not be decoded is tried again: the file may have been mended
        for window in _windows(_fresh(rows, record, known), settings.read_ahead):
            _decode_window(model, encoder, window, settings, record, partial, progress)
    finally:
        partial.close()
    return record


def _restore(record: DecodeRecord, line: dict[str, Any]) -> None:
    rows = [AnswerRow(**item) for item in line["answers"]]
    record.answers |= {row.key: row for row in rows}
    record.wall_seconds += line["wall_seconds"]


def _fresh(rows: Iterable[Row], record: DecodeRecord, known: set[str]) -> Iterator[Row]:
    """Rows still to decode; notes the order of all. A key that comes twice is dropped the second time."""
    seen: set[str] = set()
    for row in rows:
        if row.key in seen:
            yield Drop("duplicate_key", row.key, row.origin, "", f"{row.origin}: key {row.key} was already decoded in this list")
            continue
        if row.key:
            seen.add(row.key)
            record.order.append(row.key)
        if row.key not in known:
            yield row


def _windows(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while window := list(islice(rows, size)):
        yield window


def _decode_window(
    model: EChat,
    encoder: RequestEncoder,
    window: list[Row],
    settings: DecodeSettings,
    record: DecodeRecord,
    partial: PartialFile,
    progress: Progress,
) -> None:
    begin = time.monotonic()
    requests = []
    for row in window:
        try:
            if isinstance(row, Drop):
                raise DataError(row.message, row.reason)
            requests.append(encoder.request(row))
        except DataError as error:
            record.drops.append({"key": row.key, "reason": error.reason, "origin": row.origin, "message": str(error)})
    for batch in plan_batches(requests, settings.batch_size, settings.max_batch_seconds):
        line = {"answers": _answer_batch(model, encoder, batch, settings), "wall_seconds": round(time.monotonic() - begin, 4)}
        partial.add(line)
        _restore(record, line)
        begin = time.monotonic()
        progress(len(record.answers), len(record.drops))


def plan_batches(requests: list[Request], batch_size: int, max_seconds: float) -> Iterator[list[Request]]:
    """Neighbours in length together, longest first so that a lack of memory shows at once; every batch holds at least one."""
    batch: list[Request] = []
    seconds = 0.0
    for request in sorted(requests, key=lambda request: -len(request.prompt)):
        if batch and (len(batch) == batch_size or seconds + request.seconds > max_seconds):
            yield batch
            batch, seconds = [], 0.0
        batch.append(request)
        seconds += request.seconds
    if batch:
        yield batch


def _answer_batch(model: EChat, encoder: RequestEncoder, batch: list[Request], settings: DecodeSettings) -> list[dict[str, Any]]:
    answers = generate(
        model,
        [request.prompt for request in batch],
        [mel for request in batch for mel in request.mels],
        encoder.plan(settings.sampler, settings.speech_sampler, settings.max_new, settings.max_speech, settings.max_think),
        settings.seed,
    )
    return [asdict(_row(encoder, request, answer)) for request, answer in zip(batch, answers, strict=True)]


def _row(encoder: RequestEncoder, request: Request, answer: Generated) -> AnswerRow:
    return AnswerRow(
        key=request.key,
        raw=encoder.answer(answer.ids).raw,
        codes=list(answer.codes),
        say=request.say,
        seconds=round(request.seconds, 4),
        finished=answer.finished,
        think_cut=answer.think_cut,
    )


def finish_decode(record: DecodeRecord, task: Task, out: Path, facts: dict[str, Any], code_rate: float = CODE_RATE) -> dict[str, Any]:
    """Write the files of a finished decode, remove the partial one; returns the content of decode.json."""
    info = write_outputs(record, task, out, facts, code_rate)
    (out / PARTIAL).unlink(missing_ok=True)
    return info


def identity_of(config: Path, checkpoint: Path, source: dict[str, str], task: Task, settings: DecodeSettings) -> dict[str, Any]:
    """What makes two decodes the same: files (by size and time), task, and all that changes an answer."""
    stamps = {str(path): [os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in (config, checkpoint, Path(source["list"]))}
    options = {name: value for name, value in asdict(settings).items() if name in _DECIDES_ANSWER}
    return {"format": 4, "task": task.name, **source, "files": stamps, **options}
