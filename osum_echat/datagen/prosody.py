"""How a sentence is said: emotion as prosody on top of a speaker, and the signal processing espeak-ng cannot do.

``perform`` = espeak-ng with the speaker's and the emotion's rate, pitch and range -> constant speed-up (vocal tract) -> time-varying
resampling (pitch contour, tremor) -> loudness contour, clipping, spectral tilt, breath. Word times go through the same time map, so they
stay true. Emotion is carried by range, rate, contour, tilt and loudness contour more than by mean pitch, which gender and age already
use; directions follow the survey of Scherer (2003), https://doi.org/10.1016/S0167-6393(02)00084-5. Users vary in the amount of every cue;
the assistant (``mini_speech.py``) says the same words in the same emotion always the same way. Left out: other voice qualities.
"""

from dataclasses import dataclass

import numpy as np
import soxr

from osum_echat.datagen.espeak import Prosody, engine
from osum_echat.datagen.speakers import Speaker

RATE = 16000
_OVERSAMPLING = 2  # the time-varying resampling works with room above the speech band, so that its interpolation does not alias
_BASE_WPM = 165.0
_FFT_BLOCK = 4096

Word = tuple[str, float, float]


@dataclass(frozen=True)
class Emotion:
    """One way of speaking. Contours are factors at the start, at 60 % and at the end of the sentence."""

    rate: float = 1.0
    pitch: float = 1.0
    pitch_range: float = 45.0  # espeak's 0..99
    melody: str = "."  # sentence melody of espeak: . ! ?
    contour: tuple[float, float, float] = (1.0, 1.0, 1.0)  # pitch
    bounce: float = 0.0  # depth of a 2.5..3.5 Hz pitch swing
    loudness_db: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tilt_db: float = 0.0  # per octave around 1 kHz
    drive: float = 0.0  # soft clipping; 0 = none


EMOTIONS: dict[str, Emotion] = {
    "neutral": Emotion(),
    "happy": Emotion(1.18, 1.10, 90, "!", bounce=0.14, tilt_db=1.5),
    "sad": Emotion(0.74, 0.93, 8, ".", (1.06, 0.96, 0.82), loudness_db=(0, -5, -13), tilt_db=-3.5),
    "angry": Emotion(1.10, 1.04, 60, "!", (1.08, 1.0, 0.94), loudness_db=(3, 0, 0), tilt_db=3.0, drive=8.0),
    "surprise": Emotion(0.94, 1.03, 60, "?", (0.92, 0.95, 1.6), loudness_db=(-5, -2, 4)),
}


@dataclass(frozen=True)
class Performance:
    """Samples with peak 1 and the words' times in seconds."""

    samples: np.ndarray
    words: tuple[Word, ...]


def perform(text: str, speaker: Speaker, emotion: str, rng: np.random.Generator | None, rate: int = RATE) -> Performance:
    """Says ``text`` at ``rate`` Hz; the amount of every cue varies from one utterance to the next.

    Without ``rng`` nothing varies: every cue has the middle of its range, and there is no breath noise.
    """
    style = EMOTIONS[emotion]
    jitter = _vary(rng, 0.94, 1.06)
    wpm = _BASE_WPM * speaker.rate * style.rate * _vary(rng, 0.95, 1.05)
    prosody = Prosody(wpm / speaker.tract, speaker.pitch_ratio * style.pitch * jitter, style.pitch_range * _vary(rng, 0.85, 1.05))
    speech = engine().say(text, speaker.espeak_voice, prosody, style.melody)
    # samples declared to be at a higher rate than they are play faster: shorter, higher, with higher formants
    warp_rate = _OVERSAMPLING * rate
    wide = soxr.resample(speech.samples, speech.rate * speaker.tract, warp_rate, quality="MQ")
    words = [(word, start / speaker.tract, end / speaker.tract) for word, start, end in speech.words]
    warped, out_times = _warp(wide, _speed_curve(len(wide), warp_rate, speaker, style, rng), warp_rate)
    grid = np.arange(len(wide)) / warp_rate
    words = [(word, float(np.interp(start, grid, out_times)), float(np.interp(end, grid, out_times))) for word, start, end in words]
    samples = soxr.resample(warped, warp_rate, rate, quality="MQ").astype(np.float64)
    samples = _colour(samples / np.abs(samples).max(), rate, speaker, style, rng)
    return Performance((samples / np.abs(samples).max()).astype(np.float32), tuple(words))


def _vary(rng: np.random.Generator | None, low: float, high: float) -> float:
    return (low + high) / 2 if rng is None else float(rng.uniform(low, high))


def _curve(points: tuple[float, float, float], size: int, strength: float, neutral: float) -> np.ndarray:
    """Piecewise linear through start, 60 % and end, pulled towards ``neutral`` when strength < 1."""
    values = [neutral + strength * (value - neutral) for value in points]
    return np.interp(np.linspace(0, 1, size), (0.0, 0.6, 1.0), values)


def _speed_curve(size: int, rate: int, speaker: Speaker, style: Emotion, rng: np.random.Generator | None) -> np.ndarray:
    """Playback speed, which is also the pitch factor, for every sample of the input."""
    time = np.arange(size) / rate
    speed = _curve(style.contour, size, _vary(rng, 0.8, 1.2), 1.0)
    phases = [_vary(rng, 0, 2 * np.pi) for _ in range(2)]
    swing = style.bounce * _vary(rng, 0.8, 1.2) * np.sin(2 * np.pi * _vary(rng, 2.5, 3.5) * time + phases[0])
    tremor = speaker.tremor * np.sin(2 * np.pi * speaker.tremor_hz * time + phases[1])
    return speed * (1 + swing + tremor)


def _warp(samples: np.ndarray, speed: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Plays ``samples`` at a moving speed. Returns them and, for each input sample, its time in the output in seconds."""
    out_position = np.concatenate([[0.0], np.cumsum(1 / speed)[:-1]])
    grid = np.interp(np.arange(int(out_position[-1])), out_position, np.arange(len(samples)))
    return _cubic(samples, grid), out_position / rate


def _cubic(samples: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Catmull-Rom interpolation at fractional positions."""
    padded = np.pad(samples, (1, 3))
    index = position.astype(np.int64)
    part = (position - index).astype(np.float32)
    before, left, right, after = (padded[index + offset] for offset in range(4))
    inner = right - before + part * (2 * before - 5 * left + 4 * right - after + part * (3 * (left - right) + after - before))
    return left + 0.5 * part * inner


def _colour(samples: np.ndarray, rate: int, speaker: Speaker, style: Emotion, rng: np.random.Generator | None) -> np.ndarray:
    """Loudness contour, old voice's amplitude tremor, clipping, tilt and breath noise."""
    size = len(samples)
    time = np.arange(size) / rate
    gain = 10 ** (_curve(style.loudness_db, size, _vary(rng, 0.8, 1.2), 0.0) / 20)
    gain *= 1 + 6 * speaker.tremor * np.sin(2 * np.pi * speaker.tremor_hz * time + _vary(rng, 0, 2 * np.pi))
    samples = samples * gain
    if style.drive:
        samples = np.tanh(style.drive * _vary(rng, 0.8, 1.2) * samples)
    tilt_db = style.tilt_db * _vary(rng, 0.8, 1.2) + _vary(rng, -0.5, 0.5)
    samples = tilt(samples, tilt_db, rate)
    if rng is None:
        return samples
    breath = tilt(rng.standard_normal(size), 3.0, rate)
    breath *= envelope(samples, rate) / breath.std() * 10 ** (speaker.breath_db / 20)
    return samples + breath


def tilt(samples: np.ndarray, db_per_octave: float, rate: int = RATE) -> np.ndarray:
    """Turns the spectrum around 1 kHz; flat below 100 Hz."""
    size = -(-len(samples) // _FFT_BLOCK) * _FFT_BLOCK  # the transform is several times slower at sizes with large prime factors
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / rate), 100.0)
    return np.fft.irfft(np.fft.rfft(samples, size) * 10 ** (db_per_octave * np.log2(frequency / 1000.0) / 20), size)[: len(samples)]


def envelope(samples: np.ndarray, rate: int, window_s: float = 0.04) -> np.ndarray:
    """Root mean square over a sliding window."""
    half = round(window_s * rate / 2)
    power = np.concatenate([[0.0], np.cumsum(samples**2)])
    index = np.arange(len(samples))
    left, right = np.maximum(index - half, 0), np.minimum(index + half, len(samples))
    return np.sqrt((power[right] - power[left]) / (right - left))
