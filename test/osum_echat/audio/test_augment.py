"""Augmentation does what its number says and depends on its generator alone."""

import numpy as np
import pytest

from osum_echat.audio.augment import add_noise, change_channel, change_speed, change_volume, spec_augment

TONE = (0.3 * np.sin(2 * np.pi * 400 * np.arange(16000) / 16000)).astype(np.float32)


def peak_hz(samples_S: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples_S))) * 16000 / len(samples_S))


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_shortens_and_raises_the_pitch(speed: float) -> None:
    faster = change_speed(TONE, speed)
    assert abs(len(faster) - 16000 / speed) <= 1
    assert abs(peak_hz(faster) - 400 * speed) < 3
    assert change_speed(TONE, 1.0) is TONE


def test_volume_is_in_decibels_and_clips() -> None:
    np.testing.assert_allclose(change_volume(TONE, -6.0206), TONE / 2, atol=1e-5)
    assert np.abs(change_volume(TONE, 40.0)).max() == 1.0


def test_channel_changes_the_spectrum_within_its_range_and_nothing_else() -> None:
    noise = np.random.default_rng(5).standard_normal(16001).astype(np.float32)
    other = change_channel(noise, 12.0, np.random.default_rng(0))
    assert other.dtype == np.float32 and len(other) == len(noise)
    gain_db = 20 * np.log10(np.abs(np.fft.rfft(other)) / np.abs(np.fft.rfft(noise)))
    assert np.abs(gain_db).max() <= 12.1 and gain_db.max() - gain_db.min() > 6
    assert np.abs(np.diff(gain_db)).max() < 0.5, "straight lines, no steps"
    np.testing.assert_array_equal(other, change_channel(noise, 12.0, np.random.default_rng(0)))
    np.testing.assert_allclose(change_channel(noise, 0.0, np.random.default_rng(0)), noise, atol=1e-5)


def test_noise_has_the_asked_ratio() -> None:
    noisy = add_noise(TONE, 10.0, np.random.default_rng(0))
    ratio = 10 * np.log10(np.mean(TONE**2) / np.mean((noisy - TONE) ** 2))
    assert abs(ratio - 10.0) < 0.2
    np.testing.assert_array_equal(noisy, add_noise(TONE, 10.0, np.random.default_rng(0)))
    assert not add_noise(np.zeros(100, dtype=np.float32), 10.0, np.random.default_rng(0)).any()


def test_spec_augment_masks_bands_and_leaves_its_input_alone() -> None:
    mel_FM = np.random.default_rng(0).random((200, 80)).astype(np.float32)
    before = mel_FM.copy()
    masked = spec_augment(mel_FM, np.random.default_rng(3), time_masks=2, time_width=30, freq_masks=2, freq_width=8)
    np.testing.assert_array_equal(mel_FM, before)
    changed = masked != mel_FM
    np.testing.assert_array_equal(changed, changed.all(axis=1)[:, None] | changed.all(axis=0)[None])
    assert 0 < changed.all(axis=1).sum() <= 60 and 0 < changed.all(axis=0).sum() <= 16
    assert spec_augment(mel_FM, np.random.default_rng(3)) is mel_FM


def test_a_time_mask_spares_short_utterances() -> None:
    short = np.random.default_rng(0).random((20, 80)).astype(np.float32)
    worst = max((spec_augment(short, np.random.default_rng(s), time_masks=1) != short).all(axis=1).sum() for s in range(200))
    assert worst == 4
