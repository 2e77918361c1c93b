"""Plans and renders the mini corpus: who says what, how, with which sound event; then the wav files, chunk by chunk, in parallel processes.

Every choice is drawn from (seed, split, number of the utterance), labels independently of each other and of the words. A chunk is
rendered by a process of its own, because espeak-ng's state depends on what was said before; finished chunks are skipped when the command
is run again, so it resumes. Lists, Kaldi directories and the marker ``.complete`` are written by ``mini_lists.py``.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from osum_echat.datagen.events import EVENTS, NO_EVENT, make_event
from osum_echat.datagen.grammar import SPLITS, Sentence, draw_sentences
from osum_echat.datagen.prosody import EMOTIONS, RATE, Word, perform, tilt
from osum_echat.datagen.speakers import AGES, GENDERS, Speaker, make_speakers
from osum_echat.errors import DataError
from osum_echat.files import write_text
from osum_echat.processes import clean_context, heed_sigterm

VERSION = 5  # raise when the corpus changes: old output folders are then refused instead of mixed
_CHUNK = 125  # utterances per process; part of what determines the samples, so no option
_EVENT_SHARE = 0.5

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MiniSettings:
    train: int = 4000
    dev: int = 100
    test: int = 400
    seed: int = 777
    speakers_per_variant: int = 3
    version: int = VERSION

    def count(self, split: str) -> int:
        return int(getattr(self, split))

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """One utterance before it sounds."""

    key: str
    split: str
    number: int
    seed: int
    sentence: Sentence
    speaker: Speaker
    emotion: str
    event: str


@dataclass(frozen=True)
class Rendered:
    """What is only known once it sounds. ``event_time``: start and end of the event in seconds, None without one."""

    key: str
    wav: str
    seconds: float
    words: tuple[Word, ...]
    event_time: tuple[float, float] | None


def make_plans(settings: MiniSettings, split: str) -> list[Plan]:
    """Balanced over gender x age and over emotion; half of the utterances carry an event."""
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), 0])
    count = settings.count(split)
    speakers = make_speakers(split, settings.speakers_per_variant, rng)
    cells = [[s for s in speakers if (s.gender, s.age) == (gender, age)] for gender in GENDERS for age in AGES]
    sentences = draw_sentences(split, count, rng)
    cell_deck = _deck(range(len(cells)), count, rng)
    emotions = _deck(tuple(EMOTIONS), count, rng)
    kinds = tuple(EVENTS)
    events = _deck((NO_EVENT,) * round(len(kinds) * (1 - _EVENT_SHARE) / _EVENT_SHARE) + kinds, count, rng)
    plans = []
    for number in range(count):
        cell = cells[cell_deck[number]]
        speaker = cell[int(rng.integers(len(cell)))]
        key = f"{speaker.name}-{number:05d}"
        plans.append(Plan(key, split, number, settings.seed, sentences[number], speaker, emotions[number], events[number]))
    return plans


def _deck(values: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any]:
    """``count`` draws in which every value occurs equally often, in random order."""
    return [values[index % len(values)] for index in rng.permutation(count)]


def render(plan: Plan) -> tuple[np.ndarray, tuple[Word, ...], tuple[float, float] | None]:
    """Samples, word times and event time of one utterance: silence, event and speech in random order, silence; over a little noise."""
    rng = np.random.default_rng([plan.seed, SPLITS.index(plan.split), 1, plan.number])
    performance = perform(plan.sentence.text, plan.speaker, plan.emotion, rng)
    lead, trail, gap = (_silence(rng, *span) for span in ((0.05, 0.15), (0.05, 0.15), (0.04, 0.12)))
    speech = performance.samples * 0.8
    parts = [lead, speech, trail]
    speech_at, event_time = len(lead), None
    if plan.event != NO_EVENT:
        event = make_event(plan.event, rng, plan.speaker.pitch_hz, plan.speaker.tract) * 0.8 * 10 ** (rng.uniform(-6, 2) / 20)
        first = rng.random() < 0.5
        parts = [lead, event, gap, speech, trail] if first else [lead, speech, gap, event, trail]
        event_at = len(lead) if first else len(lead) + len(speech) + len(gap)
        speech_at = len(lead) + len(event) + len(gap) if first else len(lead)
        event_time = (round(event_at / RATE, 3), round((event_at + len(event)) / RATE, 3))
    samples = _finish(np.concatenate(parts), rng)
    offset = speech_at / RATE
    words = tuple((word, round(start + offset, 3), round(end + offset, 3)) for word, start, end in performance.words)
    return samples, words, event_time


def _silence(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return np.zeros(round(float(rng.uniform(low, high)) * RATE), dtype=np.float32)


def _finish(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Background noise of random colour at 25 to 45 dB below the signal, then a random level."""
    noise = tilt(rng.standard_normal(len(samples)), float(rng.uniform(-4, 0)))
    level = np.sqrt(np.mean(samples**2)) / noise.std() * 10 ** (-float(rng.uniform(25, 45)) / 20)
    mixed = samples + noise * level
    return (mixed / np.abs(mixed).max() * 10 ** (float(rng.uniform(-14, -1)) / 20)).astype(np.float32)


def render_corpus(plans: Sequence[Plan], out: Path, num_processes: int, progress: Progress | None = None) -> list[Rendered]:
    """Writes ``out/wav/<split>/<key>.wav`` for every plan and returns the rendered facts in the order of the plans."""
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
    return [row for path, _ in chunks for row in _read_chunk(path)]


def _chunks(plans: Sequence[Plan], out: Path) -> list[tuple[Path, list[Plan]]]:
    """(marker file, plans) of consecutive plans of one split."""
    chunks = []
    for split in SPLITS:
        rows = [plan for plan in plans if plan.split == split]
        for start in range(0, len(rows), _CHUNK):
            chunks.append((out / ".chunks" / f"{split}_{start // _CHUNK:04d}.jsonl", rows[start : start + _CHUNK]))
    return chunks


def _render_chunk(plans: list[Plan], out: Path, marker: Path) -> None:
    heed_sigterm()
    rows = []
    for plan in plans:
        samples, words, event_time = render(plan)
        path = out / "wav" / plan.split / f"{plan.key}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, RATE, subtype="PCM_16")
        rows.append(asdict(Rendered(plan.key, str(path), round(len(samples) / RATE, 4), words, event_time)))
    write_text(marker, "".join(json.dumps(row) + "\n" for row in rows))


def _read_chunk(path: Path) -> list[Rendered]:
    rows = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        words = tuple((str(word), float(start), float(end)) for word, start, end in row["words"])
        event_time = tuple(row["event_time"]) if row["event_time"] else None
        rows.append(Rendered(row["key"], row["wav"], row["seconds"], words, event_time))
    return rows
