"""Distortion, pitch and duration of sounds whose difference is known."""

import math

import numpy as np
import pytest
import torch

from osum_echat.errors import DataError
from osum_echat.evaluate.acoustic import _MEL, NUM_CEPSTRA, RATE, compare, mel_cepstrum


def buzz(hz: np.ndarray | float, seconds: float = 1.0, tilt: float = 1.0) -> np.ndarray:
    """Harmonics of a pitch that may move, the n-th one n ** -tilt strong."""
    size = int(RATE * seconds)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hz, size)) / RATE
    sound = sum(np.sin(number * phase) * number**-tilt for number in range(1, 16))
    return (0.1 * sound).astype(np.float32)


def melody(seconds: float = 1.0, base: float = 130.0) -> np.ndarray:
    at = np.arange(int(RATE * seconds)) / RATE / seconds
    return base * 2 ** (0.4 * np.sin(2 * np.pi * at))


def test_a_recording_is_at_no_distance_from_itself_louder_or_not() -> None:
    sound = buzz(melody())
    for gain in (1.0, 0.3):
        found = compare(sound, gain * sound)
        assert found.mcd_db < 0.02 and found.f0_corr > 0.999 and found.f0_square_error / found.num_voiced < 0.01
        assert found.num_voiced > 80 and found.seconds == found.ref_seconds == 1.0


def test_what_is_said_slower_is_near_and_longer() -> None:
    found = compare(buzz(melody()), buzz(melody(1.5), 1.5))
    far = compare(buzz(melody()), buzz(melody(1.5), 1.5, tilt=0.0))
    assert found.f0_corr > 0.95 and found.seconds / found.ref_seconds == 1.5
    assert found.mcd_db < 0.5 * far.mcd_db


def test_the_distortion_is_the_one_of_the_formula() -> None:
    """Steady sounds: every frame pair differs by the same cepstra, so the mean is the formula of one pair."""
    left, right = buzz(150.0, tilt=1.0), buzz(150.0, tilt=0.3)
    middle = slice(30, 70)
    difference_C = (mel_cepstrum(left)[middle] - mel_cepstrum(right)[middle]).mean(0)
    expected = 10 / math.log(10) * math.sqrt(2 * float((difference_C**2).sum()))
    assert compare(left, right).mcd_db == pytest.approx(expected, rel=0.08) and expected > 3


def test_cepstra_rebuild_the_smooth_log_mel() -> None:
    """c_m are the amplitudes of cosines over the bands: twice the mean of log-mel times cosine."""
    sound = buzz(150.0)
    log_FM = _MEL.extract(torch.from_numpy(sound)).numpy().astype(float)
    log_FM = np.maximum(log_FM, log_FM.max() - 60 / 20 * math.log(10))
    bands = log_FM.shape[1]
    for number in range(1, NUM_CEPSTRA + 1):
        wave_M = np.cos(np.pi * number * (np.arange(bands) + 0.5) / bands)
        assert mel_cepstrum(sound)[:, number - 1] == pytest.approx(2 * (log_FM * wave_M).mean(1), abs=1e-9)


def test_pitch_that_is_off_by_a_known_amount() -> None:
    found = compare(buzz(120.0), buzz(140.0))
    assert math.sqrt(found.f0_square_error / found.num_voiced) == pytest.approx(20.0, abs=0.2) and math.isnan(found.f0_corr)
    falling = compare(buzz(np.linspace(180, 100, RATE)), buzz(np.linspace(100, 180, RATE)))
    assert falling.f0_corr < 0.6


def test_a_monotone_voice_and_a_whisper_have_no_correlation() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    whisper = compare(buzz(melody()), noise)
    assert math.isnan(whisper.f0_corr) and whisper.num_voiced < 10 and whisper.mcd_db > 3
    silent = compare(buzz(melody()), np.zeros(RATE, np.float32))
    assert math.isnan(silent.f0_corr) and math.isfinite(silent.mcd_db)


def test_silence_below_hearing_does_not_count() -> None:
    rng = np.random.default_rng(0)
    pause = np.zeros(RATE // 2, np.float32)
    left = np.concatenate([buzz(150.0), pause])
    assert compare(left, left + rng.normal(0, 1e-6, len(left)).astype(np.float32)).mcd_db < 0.1


def test_next_to_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="100 samples") as caught:
        compare(buzz(150.0), np.zeros(100, np.float32))
    assert caught.value.reason == "too_short"
