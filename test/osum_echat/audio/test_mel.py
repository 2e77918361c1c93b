"""The mel spectrogram of token2wav against a slow numpy formula; frame counts; errors; gradients."""

import math

import numpy as np
import pytest
import torch

from osum_echat.audio.features import mel_filters
from osum_echat.audio.mel import MelSpectrogram, min_samples, num_mel_frames
from osum_echat.config_token2wav import MelConfig
from osum_echat.errors import DataError

CONFIGS = [MelConfig(), MelConfig(sample_rate=22050, n_fft=1024, hop=256), MelConfig(n_fft=960, hop=240, low_hz=60.0, high_hz=None)]


def slow_mel(samples_S: np.ndarray, cfg: MelConfig) -> np.ndarray:
    """The definition in float64: reflection by index, DFT by definition, filters by plain loops."""
    side, half = (cfg.n_fft - cfg.hop) // 2, cfg.n_fft // 2
    count = len(samples_S)
    index = np.arange(-side, count + side)
    index = np.where(index < 0, -index, np.where(index >= count, 2 * (count - 1) - index, index))
    x = samples_S.astype(np.float64)[index]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(cfg.n_fft) / cfg.n_fft)
    dft = np.exp(-2j * np.pi * np.outer(np.arange(half + 1), np.arange(cfg.n_fft)) / cfg.n_fft)
    frames = [x[f * cfg.hop : f * cfg.hop + cfg.n_fft] * window for f in range(count // cfg.hop)]
    magnitude_FK = np.abs(np.array(frames) @ dft.T)
    step = math.log(6.4) / 27
    to_mel = lambda hz: hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) / step  # noqa: E731
    to_hz = lambda mel: mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * step)  # noqa: E731
    low, high = to_mel(cfg.low_hz), to_mel(cfg.high_hz or cfg.sample_rate / 2)
    edges = [to_hz(low + (high - low) * i / (cfg.num_mels + 1)) for i in range(cfg.num_mels + 2)]
    mel_FM = np.zeros((len(frames), cfg.num_mels))
    for m in range(cfg.num_mels):
        for k in range(half + 1):
            hz = k * cfg.sample_rate / cfg.n_fft
            weight = min((hz - edges[m]) / (edges[m + 1] - edges[m]), (edges[m + 2] - hz) / (edges[m + 2] - edges[m + 1]))
            mel_FM[:, m] += max(0.0, weight) * 2 / (edges[m + 2] - edges[m]) * magnitude_FK[:, k]
    return np.log(np.maximum(mel_FM, 1e-5))


def signal(num_samples: int) -> np.ndarray:
    rng = np.random.default_rng(num_samples)
    time = np.arange(num_samples) / 24000
    return (0.4 * np.sin(2 * np.pi * (150 + 2500 * time) * time) + 0.02 * rng.standard_normal(num_samples)).astype(np.float32)


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda cfg: f"{cfg.sample_rate}-{cfg.hop}")
def test_equals_the_slow_formula(cfg: MelConfig) -> None:
    for num_samples in (min_samples(cfg), 5 * cfg.hop + 17, 6000):
        samples_S = signal(num_samples)
        mel_FM = MelSpectrogram(cfg).extract(torch.from_numpy(samples_S)).numpy()
        assert mel_FM.shape == (num_mel_frames(num_samples, cfg), cfg.num_mels)
        np.testing.assert_allclose(mel_FM, slow_mel(samples_S, cfg), atol=2e-3)
        assert np.abs(mel_FM - slow_mel(samples_S, cfg)).mean() < 1e-5


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda cfg: f"{cfg.sample_rate}-{cfg.hop}")
def test_frame_count_for_every_length(cfg: MelConfig) -> None:
    mel = MelSpectrogram(cfg)
    for num_samples in range(min_samples(cfg), min_samples(cfg) + 2 * cfg.hop, 37):
        assert mel.extract(torch.zeros(num_samples)).shape[0] == num_mel_frames(num_samples, cfg) > 0


def test_a_frame_is_centred_on_its_hop() -> None:
    cfg = MelConfig()
    samples = torch.zeros(20 * cfg.hop)
    samples[7 * cfg.hop + cfg.hop // 2] = 1.0
    energy_F = MelSpectrogram(cfg).extract(samples).sum(1)
    assert int(energy_F.argmax()) == 7
    assert energy_F[6] == pytest.approx(float(energy_F[8]), abs=1e-2)


def test_whisper_filters_are_unchanged_and_a_band_is_the_band() -> None:
    assert np.array_equal(mel_filters(80), mel_filters(80, low_hz=0.0, high_hz=8000.0))
    filters = mel_filters(80, 24000, 1920, 100.0, 8000.0)
    hz = np.arange(961) * 12.5
    assert not filters[:, (hz <= 100) | (hz >= 8000)].any() and filters[:, (hz > 110) & (hz < 7990)].any(axis=0).all()


def test_bad_input_is_named() -> None:
    mel = MelSpectrogram(MelConfig())
    with pytest.raises(DataError, match="at least 721") as short:
        mel.extract(torch.zeros(720))
    assert short.value.reason == "too_short"
    broken = torch.zeros(2000)
    broken[3] = float("nan")
    with pytest.raises(DataError, match="1 of 2000") as nan:
        mel.extract(broken)
    assert nan.value.reason == "nan_audio"


def test_gradient_is_finite_in_silence() -> None:
    samples_BS = torch.zeros(2, 4800, requires_grad=True)
    MelSpectrogram(MelConfig())(samples_BS).sum().backward()
    assert samples_BS.grad is not None and torch.isfinite(samples_BS.grad).all()
