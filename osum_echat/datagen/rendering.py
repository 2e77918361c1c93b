"""Renders plans to wav files, chunk by chunk, in parallel processes; a plan is anything with a key, a folder and a ``render()``.

A chunk is rendered by a process of its own, because espeak-ng's state depends on what was said before; finished chunks are skipped when
the command is run again, so it resumes. What the chunks are depends on the plans alone: the number of processes cannot change a sample.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from osum_echat.datagen.prosody import Word
from osum_echat.errors import DataError
from osum_echat.files import write_text
from osum_echat.processes import clean_context, heed_sigterm

_CHUNK = 125  # utterances per process; part of what determines the samples, so no option

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sound:
    """Samples in [-1, 1] at ``rate`` Hz; word times and ``event_time`` (start, end) in seconds, None without a sound event."""

    samples_S: np.ndarray
    rate: int
    words: tuple[Word, ...] = ()
    event_time: tuple[float, float] | None = None


class Plan(Protocol):
    """One utterance before it sounds: goes to ``<out>/wav/<folder>/<key>.wav``; a folder's utterances are cut into chunks in order."""

    @property
    def key(self) -> str: ...

    @property
    def folder(self) -> str: ...

    def render(self) -> Sound:
        """The same sound whenever the same plans are rendered before it in a fresh process."""


@dataclass(frozen=True)
class Rendered:
    """What is only known once it sounds. ``event_time``: start and end of the event in seconds, None without one."""

    key: str
    wav: str
    seconds: float
    words: tuple[Word, ...]
    event_time: tuple[float, float] | None


def render_corpus(plans: Sequence[Plan], out: Path, num_processes: int, progress: Progress | None = None) -> list[Rendered]:
    """Writes ``out/wav/<folder>/<key>.wav`` for every plan and returns the rendered facts in the order of the plans."""
    chunks = _chunks(plans, out)
    waiting = [(path, chunk) for path, chunk in chunks if not path.exists()]
    done = len(plans) - sum(len(chunk) for _, chunk in waiting)
    if progress:
        progress(done, len(plans))
    context = clean_context()
    running: dict[ForkServerProcess, list[Plan]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_processes:
                path, chunk = waiting.pop(0)
                process = context.Process(target=_render_chunk, args=(chunk, out, path), daemon=True)
                process.start()
                running[process] = chunk
            connection.wait([process.sentinel for process in running])
            for process in [p for p in running if p.exitcode is not None]:
                chunk = running.pop(process)
                if process.exitcode != 0:
                    raise DataError(f"rendering {chunk[0].key} … {chunk[-1].key} ended with status {process.exitcode}: see above", "render")
                done += len(chunk)
                if progress:
                    progress(done, len(plans))
    finally:
        for process in running:
            process.terminate()
    rendered = {row.wav: row for path, _ in chunks for row in _read_chunk(path)}
    return [rendered[_wav(plan, out)] for plan in plans]


def _chunks(plans: Sequence[Plan], out: Path) -> list[tuple[Path, list[Plan]]]:
    """(marker file, plans) of consecutive plans of one folder."""
    chunks = []
    for folder in dict.fromkeys(plan.folder for plan in plans):
        rows = [plan for plan in plans if plan.folder == folder]
        for start in range(0, len(rows), _CHUNK):
            name = f"{folder.replace('/', '_')}_{start // _CHUNK:04d}.jsonl"
            chunks.append((out / ".chunks" / name, rows[start : start + _CHUNK]))
    return chunks


def _wav(plan: Plan, out: Path) -> str:
    return str(out / "wav" / plan.folder / f"{plan.key}.wav")


def _render_chunk(plans: list[Plan], out: Path, marker: Path) -> None:
    heed_sigterm()
    rows = []
    for plan in plans:
        sound = plan.render()
        path = Path(_wav(plan, out))
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound.samples_S, sound.rate, subtype="PCM_16")
        seconds = round(len(sound.samples_S) / sound.rate, 4)
        rows.append(asdict(Rendered(plan.key, str(path), seconds, sound.words, sound.event_time)))
    write_text(marker, "".join(json.dumps(row) + "\n" for row in rows))


def _read_chunk(path: Path) -> list[Rendered]:
    rows = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        words = tuple((str(word), float(start), float(end)) for word, start, end in row["words"])
        event_time = tuple(row["event_time"]) if row["event_time"] else None
        rows.append(Rendered(row["key"], row["wav"], row["seconds"], words, event_time))
    return rows
