"""Speech from text through the espeak-ng shared library that the ``espeakng-loader`` wheel ships (no program, no network, ~800x real time).

One process holds one engine: espeak-ng keeps its state in globals, so ``Espeak`` is created once per process and is not thread safe. Some
of that state (glottal phase, flutter position, echo buffer) survives even ``espeak_Terminate``: samples depend on everything said before
in the process. Whoever needs reproducible samples starts a fresh process and says the same things in the same order (``mini_corpus.py``
does, chunk by chunk).

Left out: SSML, languages other than the chosen one, playback. API:
https://github.com/espeak-ng/espeak-ng/blob/master/src/include/espeak-ng/speak_lib.h
"""

import ctypes
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from osum_echat.errors import UserError

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the callback gets the samples, nothing is played
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_EVENT_LIST_TERMINATED, _EVENT_WORD = 0, 1
_CHARS_UTF8 = 1
_MIN_RATE, _MAX_RATE = 80, 450


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Prosody:
    """What espeak-ng itself can vary; ``pitch_range`` is espeak's 0..99, where 50 is the voice's own."""

    rate_wpm: float = 175.0
    pitch_ratio: float = 1.0
    pitch_range: float = 50.0


@dataclass(frozen=True)
class Speech:
    """Float samples in [-1, 1] at ``rate`` Hz without outer silence, and ``(word, start, end)`` in seconds for every word."""

    samples: np.ndarray
    rate: int
    words: tuple[tuple[str, float, float], ...]


class Espeak:
    """The engine. Use :func:`engine` to share one per process."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise UserError(
                "the mini corpus needs the package espeakng-loader; run tools/setup_env.sh or pip install espeakng-loader"
            ) from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 500, espeakng_loader.get_data_path().encode(), 0)
        if self.rate <= 0:
            raise UserError(f"espeak_Initialize answered {self.rate} for {espeakng_loader.get_data_path()}: reinstall espeakng-loader")
        self._variants = {"", *os.listdir(os.path.join(espeakng_loader.get_data_path(), "voices", "!v"))}
        self._chunks: list[np.ndarray] = []
        self._word_events: list[tuple[int, int]] = []  # (character index from 0, sample)
        self._callback = _Callback(self._collect)  # kept alive by self: the library only stores the pointer
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath noise
        self._library.espeak_Info.restype = ctypes.c_char_p
        self.version = self._library.espeak_Info(None).decode()

    def say(self, text: str, voice: str, prosody: Prosody, end: str = ".") -> Speech:
        """Speaks ``text`` (words and single blanks) with voice ``lang+variant``; ``end`` chooses the sentence melody: ``. ! ?``."""
        # espeak itself takes an unknown variant for the plain voice, without a word
        if voice.partition("+")[2] not in self._variants or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice!r}; expected <language>+<a file name of espeak-ng-data/voices/!v>")
        self._set(prosody)
        self._chunks, self._word_events = [], []
        data = (text + end).encode()
        status = self._library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _CHARS_UTF8, None, None)
        if status != 0 or not self._chunks:
            raise UserError(f"espeak_Synth failed with status {status} for {text!r} and voice {voice}")
        samples = np.concatenate(self._chunks).astype(np.float32) / 32768.0
        first, last = _sounding(samples, self.rate)
        words = _word_times(text, self._word_events, first, last, self.rate)
        return Speech(samples[first:last], self.rate, words)

    def _set(self, prosody: Prosody) -> None:
        # measured: mean pitch doubles over about 70 steps of espeak's 0..99
        pitch = 50 + 70 * np.log2(prosody.pitch_ratio)
        values = {
            _RATE: np.clip(prosody.rate_wpm, _MIN_RATE, _MAX_RATE),
            _VOLUME: 80,
            _PITCH: np.clip(pitch, 0, 99),
            _RANGE: np.clip(prosody.pitch_range, 0, 99),
        }
        for parameter, value in values.items():
            self._library.espeak_SetParameter(parameter, round(float(value)), 0)

    def _collect(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: "ctypes._Pointer[_Event]") -> int:
        if count > 0 and samples:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        index = 0
        while events[index].type != _EVENT_LIST_TERMINATED:
            if events[index].type == _EVENT_WORD:
                self._word_events.append((events[index].text_position - 1, events[index].sample))
            index += 1
        return 0


@lru_cache(maxsize=1)
def engine() -> Espeak:
    return Espeak()


def _sounding(samples: np.ndarray, rate: int) -> tuple[int, int]:
    """First and last+1 sample of what is louder than -45 dB below the peak, with 10 ms kept on both sides."""
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max() * 10 ** (-45 / 20))
    margin = rate // 100
    return max(0, int(loud[0]) - margin), min(len(samples), int(loud[-1]) + 1 + margin)


def _word_times(text: str, events: list[tuple[int, int]], first: int, last: int, rate: int) -> tuple[tuple[str, float, float], ...]:
    """Gives every word an interval. espeak-ng reports some pairs ("of the") as one word: such an interval is shared by letter count."""
    spans = [(match.start(), match.group()) for match in re.finditer(r"\S+", text)]
    starts = {position: sample for position, sample in events}
    anchors = [(index, starts[position]) for index, (position, _) in enumerate(spans) if position in starts]
    if not anchors or anchors[0][0] != 0:
        anchors.insert(0, (0, first))
    bounds = [*anchors, (len(spans), last)]
    words: list[tuple[str, float, float]] = []
    for (begin, left), (stop, right) in pairwise(bounds):
        group = [word for _, word in spans[begin:stop]]
        cuts = np.concatenate([[0.0], np.cumsum([len(word) for word in group])]) / sum(len(word) for word in group)
        edges = np.clip(left + cuts * (right - left) - first, 0, last - first) / rate
        words.extend((word, float(edges[i]), float(edges[i + 1])) for i, word in enumerate(group))
    return tuple(words)
