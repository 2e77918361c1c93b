"""Pitch tracking on sounds whose pitch is known, on noise and silence, and its best path against exhaustive search."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from osum_echat.audio.io import read_audio
from osum_echat.audio.pitch import _best_path, track_pitch
from osum_echat.errors import DataError

RATE, HOP = 24000, 480


def voice(hz_S: np.ndarray, harmonics: list[int], rate: int = RATE) -> np.ndarray:
    phase = 2 * np.pi * np.cumsum(hz_S) / rate
    return sum(np.sin(h * phase + h) / h for h in harmonics) * 0.2


def true_pitch(hz_S: np.ndarray, hop: int = HOP) -> np.ndarray:
    return hz_S[: len(hz_S) // hop * hop].reshape(-1, hop).mean(axis=1)


@pytest.mark.parametrize("hz", [70, 110.3, 185, 300, 420, 550])
@pytest.mark.parametrize("harmonics", [[1], [1, 2, 3, 4, 5, 6], [2, 3, 4, 5]], ids=["sine", "voice", "no_fundamental"])
def test_steady_pitch(hz: float, harmonics: list[int]) -> None:
    f0_F = track_pitch(voice(np.full(RATE, hz), harmonics), RATE, HOP)
    assert f0_F.shape == (50,) and f0_F.dtype == np.float32
    np.testing.assert_allclose(f0_F[2:-2], hz, rtol=2e-3)


@pytest.mark.parametrize(("rate", "hop"), [(24000, 480), (22050, 256), (16000, 160)])
def test_gliding_pitch_is_aligned_with_the_frames(rate: int, hop: int) -> None:
    time = np.arange(2 * rate) / rate
    hz_S = 180 * 2 ** (0.6 * np.sin(2 * np.pi * 1.5 * time))
    f0_F = track_pitch(voice(hz_S, [1, 2, 3, 4, 5], rate), rate, hop)
    inner = slice(5, -5)
    np.testing.assert_allclose(f0_F[inner], true_pitch(hz_S, hop)[inner], rtol=0.01)


def test_noise_and_silence_are_unvoiced_and_bounds_are_found() -> None:
    rng = np.random.default_rng(0)
    noise = 0.2 * rng.standard_normal(RATE)
    assert (track_pitch(noise, RATE, HOP) > 0).mean() < 0.05
    assert not track_pitch(np.zeros(RATE), RATE, HOP).any()
    mixed = np.concatenate([1e-4 * noise, voice(np.full(RATE, 140.0), [1, 2, 3]), 0.2 * noise])
    voiced_F = track_pitch(mixed, RATE, HOP) > 0
    assert abs(int(voiced_F.argmax()) - 50) <= 2
    assert abs(int(voiced_F.sum()) - 50) <= 4


def test_hum_under_noise_keeps_its_octave() -> None:
    rng = np.random.default_rng(1)
    samples = voice(np.full(RATE, 210.0), [1, 2, 3, 4]) + 0.05 * rng.standard_normal(RATE) + 0.3
    f0_F = track_pitch(samples, RATE, HOP)
    np.testing.assert_allclose(f0_F[3:-3], 210, rtol=0.02)


@pytest.mark.parametrize("num_frames", [1, 511, 513])
def test_frames_of_any_count(num_frames: int) -> None:
    samples = voice(np.full(num_frames * 80 + 79, 200.0), [1, 2, 3], rate=8000)
    assert track_pitch(samples, 8000, 80).shape == (num_frames,)


def test_best_path_equals_exhaustive_search() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        hz_FC = np.insert(rng.uniform(80, 400, (5, 3)), 0, 0.0, axis=1)
        strength_FC = rng.uniform(0.3, 0.7, (5, 4))

        def total(path: tuple[int, ...], hz_FC: np.ndarray = hz_FC, strength_FC: np.ndarray = strength_FC) -> float:
            hz = [hz_FC[f, c] for f, c in enumerate(path)]
            score = sum(strength_FC[f, c] for f, c in enumerate(path))
            for a, b in itertools.pairwise(hz):
                score -= 0.5 * (0.14 if (a > 0) != (b > 0) else 0.35 * abs(np.log2(a / b)) if a > 0 else 0.0)
            return score

        best = max(itertools.product(range(4), repeat=5), key=total)
        assert np.array_equal(_best_path(hz_FC, strength_FC, cost_scale=0.5), [hz_FC[f, c] for f, c in enumerate(best)])


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError) as short:
        track_pitch(np.zeros(100), RATE, HOP)
    assert short.value.reason == "too_short"
    with pytest.raises(DataError) as nan:
        track_pitch(np.full(1000, np.nan), RATE, HOP)
    assert nan.value.reason == "nan_audio"


def test_men_speak_lower_than_women(real_data: Path) -> None:
    rows = [json.loads(line) for line in (real_data / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    medians: dict[str, list[float]] = {"male": [], "female": []}
    for row in [row for row in rows if row["wav"].startswith("emotion_emodb") and row.get("gender") in medians][::10]:
        f0_F = track_pitch(read_audio(str(real_data / row["wav"]), rate=RATE), RATE, HOP)
        assert 0.2 < (f0_F > 0).mean() < 0.9
        medians[row["gender"]].append(float(np.median(f0_F[f0_F > 0])))
    assert len(medians["male"]) > 2 and len(medians["female"]) > 2
    assert 90 < np.median(medians["male"]) < 165 < np.median(medians["female"]) < 330
