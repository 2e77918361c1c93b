"""Waveform and spectrogram augmentation; every function takes the random generator it draws from, so a draw is reproducible by utterance.

SpecAugment masks time and frequency bands (https://arxiv.org/abs/1904.08779, without time warping). Reverberation is left out.
"""

import numpy as np

from osum_echat.audio.features import SAMPLE_RATE
from osum_echat.audio.io import resample

_CHANNEL_POINTS = 8


def change_speed(samples_S: np.ndarray, speed: float) -> np.ndarray:
    """Plays ``speed`` times faster, pitch included: the result has S / speed samples."""
    return resample(samples_S, SAMPLE_RATE * speed, SAMPLE_RATE)


def change_volume(samples_S: np.ndarray, gain_db: float) -> np.ndarray:
    """Scales by a gain; the result is clipped to [-1, 1] as a recording would be."""
    return np.clip(samples_S * np.float32(10.0 ** (gain_db / 20.0)), -1.0, 1.0)


def change_channel(samples_S: np.ndarray, max_gain_db: float, rng: np.random.Generator) -> np.ndarray:
    """Another microphone: gains within ``max_gain_db`` either way at eight points of the mel scale, straight lines between them.

    After FilterAugment (https://arxiv.org/abs/2110.03282), linear type, on the waveform and so for any features. The phase is kept.
    """
    spectrum_K = np.fft.rfft(samples_S)
    mel_K = np.log1p(np.linspace(0, SAMPLE_RATE / 2, len(spectrum_K)) / 700.0)
    gain_K = np.interp(mel_K, np.linspace(0, mel_K[-1], _CHANNEL_POINTS), rng.uniform(-max_gain_db, max_gain_db, _CHANNEL_POINTS))
    return np.fft.irfft(spectrum_K * 10.0 ** (gain_K / 20.0), len(samples_S)).astype(np.float32)


def add_noise(samples_S: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Adds white noise at a signal-to-noise ratio; silence stays silence."""
    power = float(np.mean(np.square(samples_S, dtype=np.float64)))
    scale = np.sqrt(power / 10.0 ** (snr_db / 10.0))
    return (samples_S + scale * rng.standard_normal(len(samples_S))).astype(np.float32)


def spec_augment(
    mel_FM: np.ndarray, rng: np.random.Generator, time_masks: int = 0, time_width: int = 50, freq_masks: int = 0, freq_width: int = 10
) -> np.ndarray:
    """Masks up to ``time_width`` frames and ``freq_width`` bins, each mask as often as asked, with the mean of the spectrogram.

    A time mask never covers more than a fifth of the utterance: short commands would lose whole words.
    """
    if time_masks == 0 and freq_masks == 0:
        return mel_FM
    masked_FM = mel_FM.copy()
    num_frames, num_mels = mel_FM.shape
    fill = mel_FM.mean()
    for _ in range(time_masks):
        first, width = _band(num_frames, min(time_width, num_frames // 5), rng)
        masked_FM[first : first + width] = fill
    for _ in range(freq_masks):
        first, width = _band(num_mels, min(freq_width, num_mels), rng)
        masked_FM[:, first : first + width] = fill
    return masked_FM


def _band(length: int, max_width: int, rng: np.random.Generator) -> tuple[int, int]:
    width = int(rng.integers(0, max_width + 1))
    return int(rng.integers(0, length - width + 1)), width
