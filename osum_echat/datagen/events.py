"""Sound events of the mini corpus, synthesised from pulses and noise: laugh, cough, sigh, cry, sneeze.

Every event has its own envelope in time and its own place in the spectrum, every instance differs in length, rhythm, pitch and level, and
pitch and formants follow the speaker a little. They are caricatures for a small model, not recordings. Source-filter view of speech
sounds: Klatt (1980), https://doi.org/10.1121/1.383940. Voiced parts are sums of harmonics, noise is shaped in the frequency domain: no
filter design.
"""

from collections.abc import Callable

import numpy as np

RATE = 16000
NO_EVENT = "none"

_VOWEL_A = ((750.0, 150.0, 1.0), (1250.0, 180.0, 0.6), (2700.0, 300.0, 0.25))  # centre Hz, width Hz, gain
_VOWEL_U = ((450.0, 120.0, 1.0), (950.0, 160.0, 0.4), (2500.0, 300.0, 0.1))

Formants = tuple[tuple[float, float, float], ...]


def make_event(kind: str, rng: np.random.Generator, pitch_hz: float, tract: float) -> np.ndarray:
    """One event at 16 kHz, peak 1, for a speaker of this mean pitch and formant factor (1 = the espeak variant as it is)."""
    if kind not in EVENTS:
        raise ValueError(f"no sound event {kind!r}; expected one of {', '.join(EVENTS)}")
    wave = EVENTS[kind](rng, pitch_hz, tract)
    return (wave / np.abs(wave).max()).astype(np.float32)


def _laugh(rng: np.random.Generator, pitch_hz: float, tract: float) -> np.ndarray:
    """Four to six "ha" at 4.5 to 6 Hz: breath, then a voiced vowel that falls a little; the series falls in pitch and level."""
    period = 1 / rng.uniform(4.5, 6.0)
    count = int(rng.integers(4, 7))
    start_hz = pitch_hz * rng.uniform(1.3, 1.6)
    syllables = []
    for index in range(count):
        size = _samples(period * rng.uniform(0.95, 1.05))
        voiced = _samples(period * 0.5)
        pitch = start_hz * (1 - 0.05 * index) * np.linspace(1.06, 0.92, voiced)
        vowel = _voiced(pitch, _scaled(_VOWEL_A, tract)) * np.hanning(voiced)
        breath = _noise(rng, _samples(period * 0.4), _scaled(_VOWEL_A, tract * 1.2)) * np.hanning(_samples(period * 0.4)) * 0.25
        syllable = np.zeros(size)
        _add(syllable, breath, 0)
        _add(syllable, vowel, _samples(period * 0.3))
        syllables.append(syllable * 0.9**index)
    return np.concatenate(syllables)


def _cough(rng: np.random.Generator, pitch_hz: float, tract: float) -> np.ndarray:
    """One or two explosions: 10 ms of wide-band burst, then a quickly decaying noisy vowel."""
    bursts = []
    for index in range(int(rng.integers(1, 3))):
        size = _samples(rng.uniform(0.2, 0.28))
        time = np.arange(size) / RATE
        decay = np.exp(-time / rng.uniform(0.04, 0.06))
        burst = _noise(rng, size, ((1200 * tract, 900.0, 1.0), (3000 * tract, 1500.0, 0.6))) * decay
        rough = _voiced(np.linspace(pitch_hz * 1.1, pitch_hz * 0.7, size), _scaled(_VOWEL_A, tract)) * decay * 0.35
        onset = np.minimum(1, time / 0.004)
        gap = np.zeros(_samples(rng.uniform(0.06, 0.14)))
        bursts += [(burst + rough) * onset * 0.8**index, gap]
    return np.concatenate(bursts[:-1])


def _sigh(rng: np.random.Generator, pitch_hz: float, tract: float) -> np.ndarray:
    """One long breath, loudest early, whose spectrum sinks; a trace of falling voice underneath."""
    size = _samples(rng.uniform(0.6, 0.85))
    time = np.linspace(0, 1, size)
    high = _noise(rng, size, ((1800 * tract, 500.0, 1.0), (3200 * tract, 700.0, 0.4)))
    low = _noise(rng, size, ((700 * tract, 300.0, 1.0),))
    envelope = np.minimum(1, time / 0.2) * (1 - time) ** rng.uniform(0.7, 1.1)
    voice = _voiced(np.linspace(pitch_hz, pitch_hz * 0.7, size), _scaled(_VOWEL_U, tract)) * 0.12
    return (high * (1 - time) + low * time + voice) * envelope


def _cry(rng: np.random.Generator, pitch_hz: float, tract: float) -> np.ndarray:
    """Two or three high wails with vibrato that rise and sink, each begun by a short gasp."""
    base_hz = 330 * (pitch_hz / 150) ** 0.4 * rng.uniform(0.95, 1.15)
    wails = []
    for index in range(int(rng.integers(2, 4))):
        size = _samples(rng.uniform(0.22, 0.32))
        time = np.arange(size) / RATE
        arch = np.sin(np.pi * np.linspace(0.1, 1, size))
        vibrato = 1 + 0.05 * np.sin(2 * np.pi * rng.uniform(9, 12) * time + rng.uniform(0, 6))
        wail = _voiced(base_hz * (0.85 + 0.35 * arch) * vibrato * 0.95**index, _scaled(_VOWEL_A, tract * 1.15)) * arch**0.5
        gasp = _noise(rng, _samples(0.06), ((2500 * tract, 900.0, 1.0),)) * np.hanning(_samples(0.06)) * 0.2
        wails += [gasp, wail]
    return np.concatenate(wails)


def _sneeze(rng: np.random.Generator, pitch_hz: float, tract: float) -> np.ndarray:
    """A voiced, rising, growing "ah", a short stop, then a hissing explosion high in the spectrum."""
    rise, hiss = _samples(rng.uniform(0.22, 0.32)), _samples(rng.uniform(0.22, 0.3))
    ramp = np.linspace(0, 1, rise)
    inhale = _voiced(pitch_hz * np.linspace(1.1, 1.7, rise), _scaled(_VOWEL_A, tract)) * ramp * 0.35
    inhale += _noise(rng, rise, ((1500 * tract, 600.0, 1.0),)) * ramp * 0.15
    time = np.arange(hiss) / RATE
    envelope = np.minimum(1, time / 0.006) * np.exp(-time / rng.uniform(0.07, 0.1))
    blast = _noise(rng, hiss, ((4200.0, 900.0, 0.8), (6000.0, 1200.0, 1.0))) * envelope
    return np.concatenate([inhale, np.zeros(_samples(0.03)), blast])


EVENTS: dict[str, Callable[[np.random.Generator, float, float], np.ndarray]] = {
    "laugh": _laugh,
    "cough": _cough,
    "sigh": _sigh,
    "cry": _cry,
    "sneeze": _sneeze,
}


def _samples(seconds: float) -> int:
    return round(seconds * RATE)


def _scaled(formants: Formants, factor: float) -> Formants:
    return tuple((centre * factor, width * factor, gain) for centre, width, gain in formants)


def _gain(frequency_hz: np.ndarray, formants: Formants) -> np.ndarray:
    """Sum of resonance-shaped bumps over a low floor."""
    total = np.full(frequency_hz.shape, 0.01)
    for centre, width, gain in formants:
        total += gain / (1 + ((frequency_hz - centre) / (width / 2)) ** 2)
    return total


def _voiced(pitch_hz: np.ndarray, formants: Formants) -> np.ndarray:
    """Harmonics of a moving pitch, weighted by formants and a glottal slope of -6 dB per octave above the first."""
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE
    total = np.zeros(len(pitch_hz))
    for number in range(1, int(5000 / pitch_hz.mean()) + 1):
        total += _gain(np.asarray([number * pitch_hz.mean()]), formants)[0] / number**0.5 * np.sin(number * phase)
    return total / max(np.abs(total).max(), 1e-9)


def _noise(rng: np.random.Generator, size: int, formants: Formants) -> np.ndarray:
    fast = -(-size // 1024) * 1024  # the transform is several times slower at sizes with large prime factors
    spectrum = np.fft.rfft(rng.standard_normal(fast)) * _gain(np.fft.rfftfreq(fast, 1 / RATE), formants)
    wave = np.fft.irfft(spectrum, fast)[:size]
    return wave / max(np.abs(wave).max(), 1e-9)


def _add(target: np.ndarray, part: np.ndarray, offset: int) -> None:
    end = min(len(target), offset + len(part))
    target[offset:end] += part[: end - offset]
