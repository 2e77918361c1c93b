"""Log-mel against an independent slow reference and openai-whisper; frame counts against the model's convolution arithmetic."""

import importlib
import importlib.util
import math
import sys
import types

import numpy as np
import pytest
import torch

from osum_echat.audio.features import LogMel, mel_filters, num_adapter_frames, num_encoder_frames, num_llm_frames, num_mel_frames
from osum_echat.errors import DataError


def slow_log_mel(samples_S: np.ndarray, num_mels: int) -> np.ndarray:
    """Whisper's definition in float64: DFT by definition, filters by plain loops."""
    reflected = np.pad(samples_S.astype(np.float64), 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    dft = np.exp(-2j * np.pi * np.outer(np.arange(201), np.arange(400)) / 400)
    frames = [reflected[f * 160 : f * 160 + 400] * window for f in range(len(samples_S) // 160)]
    power_FK = np.abs(np.array(frames) @ dft.T) ** 2
    to_hz = lambda mel: mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)  # noqa: E731
    top = 15 + math.log(8) / (math.log(6.4) / 27)
    edges = [to_hz(top * i / (num_mels + 1)) for i in range(num_mels + 2)]
    filters = np.zeros((num_mels, 201))
    for m in range(num_mels):
        low, mid, high = edges[m : m + 3]
        for k in range(201):
            hz = k * 40.0
            weight = min((hz - low) / (mid - low), (high - hz) / (high - mid))
            filters[m, k] = max(0.0, weight) * 2 / (high - low)
    log_FM = np.log10(np.maximum(power_FK @ filters.T, 1e-10))
    return (np.maximum(log_FM, log_FM.max() - 8) + 4) / 4


def signals() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    time = np.arange(16000) / 16000
    noise = (rng.standard_normal(7 * 160 + 31) * 0.1).astype(np.float32)
    chirp = (0.5 * np.sin(2 * np.pi * (200 + 3000 * time) * time)).astype(np.float32)
    return [noise, chirp, np.zeros(1600, dtype=np.float32), noise[:201]]


@pytest.mark.parametrize("num_mels", [80, 128])
def test_equals_the_slow_reference(num_mels: int) -> None:
    for samples_S in signals():
        mel_FM = LogMel(num_mels)(torch.from_numpy(samples_S)).numpy()
        assert mel_FM.shape == (num_mel_frames(len(samples_S)), num_mels)
        np.testing.assert_allclose(mel_FM, slow_log_mel(samples_S, num_mels), atol=1e-4)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_equals_openai_whisper(num_mels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("whisper")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("openai-whisper is not installed")
    # Only whisper/audio.py is wanted; the package's own __init__ would import tokenizers and numba.
    package = types.ModuleType("whisper_oracle")
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "whisper_oracle", package)
    oracle = importlib.import_module("whisper_oracle.audio")
    for samples_S in signals():
        expected = oracle.log_mel_spectrogram(samples_S, num_mels).T
        torch.testing.assert_close(LogMel(num_mels)(torch.from_numpy(samples_S)), expected, atol=1e-5, rtol=0)


def test_every_filter_sees_a_bin_and_has_unit_area() -> None:
    filters = mel_filters(80)
    assert (filters.sum(axis=1) > 0).all()
    np.testing.assert_allclose(filters[40:].sum(axis=1) * 40.0, 1.0, atol=0.1)  # wide filters: the sum over 40 Hz bins is the area


def test_a_batch_is_each_on_its_own() -> None:
    loud, quiet = (torch.from_numpy(s) for s in signals()[:2])
    quiet = quiet * 1e-3
    together = LogMel().batch([loud, quiet])
    assert torch.equal(together[0], LogMel()(loud)) and torch.equal(together[1], LogMel()(quiet))


def test_too_few_samples_are_named() -> None:
    with pytest.raises(DataError) as caught:
        LogMel()(torch.zeros(200))
    assert caught.value.reason == "too_short"


def test_frame_counts_follow_the_convolutions() -> None:
    for num_samples in [*range(160, 3000, 37), 16000, 480000]:
        mel = torch.zeros(1, 1, num_mel_frames(num_samples))
        strided = torch.nn.Conv1d(1, 1, 3, stride=2, padding=1)
        causal = torch.nn.Conv1d(1, 1, 3, stride=2)
        encoded = strided(mel)
        adapted = encoded
        for _ in range(2):
            adapted = causal(torch.nn.functional.pad(adapted, (2, 0)))
        assert num_encoder_frames(mel.shape[-1]) == encoded.shape[-1]
        assert num_adapter_frames(encoded.shape[-1]) == adapted.shape[-1] == num_llm_frames(num_samples)
    assert num_encoder_frames(3000) == 1500
