"""Plans the users' side of the mini corpus: who says what, how, with which sound event, and how that sounds.

Every choice is drawn from (seed, split, number of the utterance), labels independently of each other and of the words. Wav files are
written by ``rendering.py``, the assistant's voice and the dialogues come from ``mini_speech.py``; lists, Kaldi directories and the marker
``.complete`` are written by ``mini_lists.py``.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from osum_echat.datagen.events import EVENTS, NO_EVENT, make_event
from osum_echat.datagen.grammar import SPLITS, Sentence, draw_sentences
from osum_echat.datagen.prosody import EMOTIONS, RATE, perform, tilt
from osum_echat.datagen.rendering import Sound
from osum_echat.datagen.speakers import AGES, GENDERS, Speaker, make_speakers

VERSION = 14  # raise when the corpus changes: old output folders are then refused instead of mixed
_EVENT_SHARE = 0.5


@dataclass(frozen=True)
class MiniSettings:
    """How many utterances of users (train, dev, test), of the assistant alone (tts), of spoken questions (s2s), of empathetic dialogues."""

    train: int = 4000
    dev: int = 100
    test: int = 400
    train_tts: int = 6000
    dev_tts: int = 50
    test_tts: int = 100
    train_s2s: int = 2000
    dev_s2s: int = 50
    test_s2s: int = 150
    train_empathy: int = 2400
    dev_empathy: int = 60
    test_empathy: int = 400
    seed: int = 777
    speakers_per_variant: int = 3
    version: int = VERSION

    def count(self, part: str) -> int:
        """Of "train", "test_s2s" …"""
        return int(getattr(self, part))

    def digest(self) -> str:
        """Of everything that determines the corpus."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class UserPlan:
    """One utterance of a user before it sounds; ``seeds`` start the generator of everything that varies in it."""

    key: str
    folder: str
    split: str
    seeds: tuple[int, ...]
    sentence: Sentence
    speaker: Speaker
    emotion: str
    event: str

    def render(self) -> Sound:
        """Silence, event and speech in random order, silence; over a little noise, at 16 kHz."""
        rng = np.random.default_rng(self.seeds)
        performance = perform(self.sentence.text, self.speaker, self.emotion, rng)
        lead, trail, gap = (_silence(rng, *span) for span in ((0.05, 0.15), (0.05, 0.15), (0.04, 0.12)))
        speech = performance.samples * 0.8
        parts = [lead, speech, trail]
        speech_at, event_time = len(lead), None
        if self.event != NO_EVENT:
            event = make_event(self.event, rng, self.speaker.pitch_hz, self.speaker.tract) * 0.8 * 10 ** (rng.uniform(-6, 2) / 20)
            first = rng.random() < 0.5
            parts = [lead, event, gap, speech, trail] if first else [lead, speech, gap, event, trail]
            event_at = len(lead) if first else len(lead) + len(speech) + len(gap)
            speech_at = len(lead) + len(event) + len(gap) if first else len(lead)
            event_time = (round(event_at / RATE, 3), round((event_at + len(event)) / RATE, 3))
        samples_S = _finish(np.concatenate(parts), rng)
        offset = speech_at / RATE
        words = tuple((word, round(start + offset, 3), round(end + offset, 3)) for word, start, end in performance.words)
        return Sound(samples_S, RATE, words, event_time)


def make_plans(settings: MiniSettings, split: str) -> list[UserPlan]:
    """Balanced over gender x age and over emotion; half of the utterances carry an event."""
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), 0])
    count = settings.count(split)
    cells = speaker_cells(make_speakers(split, settings.speakers_per_variant, rng))
    sentences = draw_sentences(split, count, rng)
    cell_deck = deck(range(len(cells)), count, rng)
    emotions = deck(tuple(EMOTIONS), count, rng)
    kinds = tuple(EVENTS)
    events = deck((NO_EVENT,) * round(len(kinds) * (1 - _EVENT_SHARE) / _EVENT_SHARE) + kinds, count, rng)
    plans = []
    for number in range(count):
        cell = cells[cell_deck[number]]
        speaker = cell[int(rng.integers(len(cell)))]
        key = f"{speaker.name}-{number:05d}"
        seeds = (settings.seed, SPLITS.index(split), 1, number)
        plans.append(UserPlan(key, split, split, seeds, sentences[number], speaker, emotions[number], events[number]))
    return plans


def corpus_speakers(settings: MiniSettings, split: str) -> list[Speaker]:
    """The speakers of ``make_plans``, for more utterances of theirs."""
    return make_speakers(split, settings.speakers_per_variant, np.random.default_rng([settings.seed, SPLITS.index(split), 0]))


def speaker_cells(speakers: Sequence[Speaker]) -> list[list[Speaker]]:
    """Speakers by gender and age group."""
    return [[s for s in speakers if (s.gender, s.age) == (gender, age)] for gender in GENDERS for age in AGES]


def deck(values: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any]:
    """``count`` draws in which every value occurs equally often, in random order."""
    return [values[index % len(values)] for index in rng.permutation(count)]


def _silence(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return np.zeros(round(float(rng.uniform(low, high)) * RATE), dtype=np.float32)


def _finish(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Background noise of random colour at 25 to 45 dB below the signal, then a random level."""
    noise = tilt(rng.standard_normal(len(samples)), float(rng.uniform(-4, 0)))
    level = np.sqrt(np.mean(samples**2)) / noise.std() * 10 ** (-float(rng.uniform(25, 45)) / 20)
    mixed = samples + noise * level
    return (mixed / np.abs(mixed).max() * 10 ** (float(rng.uniform(-14, -1)) / 20)).astype(np.float32)
