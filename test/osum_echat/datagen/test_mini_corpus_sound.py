"""The cues are in the sound: pitch, rate, contour, tilt and events measured on rendered samples, and the word times against the samples."""

import numpy as np
import pytest

from osum_echat.datagen.espeak import Prosody, engine
from osum_echat.datagen.events import EVENTS, make_event
from osum_echat.datagen.mini_corpus import MiniSettings, make_plans
from osum_echat.datagen.prosody import RATE, _warp, perform, tilt
from osum_echat.datagen.speakers import VARIANTS, Speaker, make_speakers
from osum_echat.errors import DataError, UserError

pytest.importorskip("espeakng_loader")
TEXT = "i will visit my teacher near the river"


def _speaker(gender: str, age: str) -> Speaker:
    speakers = make_speakers("test", 1, np.random.default_rng(0))
    return next(speaker for speaker in speakers if (speaker.gender, speaker.age) == (gender, age))


def _pitch_hz(samples: np.ndarray) -> float:
    """Median of autocorrelation peaks of the band below 900 Hz."""
    spectrum = np.fft.rfft(samples)
    spectrum[np.fft.rfftfreq(len(samples), 1 / RATE) > 900] = 0
    frames = np.lib.stride_tricks.sliding_window_view(np.fft.irfft(spectrum, len(samples)), 640)[::160] * np.hanning(640)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)[:, :640]
    correlation /= correlation[:, :1] + 1e-9
    lags = correlation[:, 40:230].argmax(1) + 40
    voiced = (correlation[np.arange(len(lags)), lags] > 0.5) & (frames.std(1) > 0.2 * frames.std(1).max())
    return float(np.median(RATE / lags[voiced]))


@pytest.mark.parametrize("group", [("male", "adult"), ("male", "child"), ("female", "adult"), ("female", "child")])
def test_a_speaker_speaks_at_the_planned_pitch(group: tuple[str, str]) -> None:
    speaker = _speaker(*group)
    samples = perform(TEXT, speaker, "neutral", np.random.default_rng(1)).samples
    assert _pitch_hz(samples) == pytest.approx(speaker.pitch_hz, rel=0.15)


def test_emotions_differ_in_rate_contour_and_tilt() -> None:
    speaker = _speaker("male", "adult")
    said = {e: perform(TEXT, speaker, e, np.random.default_rng(2)).samples for e in ("neutral", "happy", "sad", "angry", "surprise")}
    assert len(said["sad"]) > 1.15 * len(said["neutral"]) > 1.2 * len(said["happy"])
    high = {e: (np.abs(np.fft.rfft(x, 2**16))[2**14 :] ** 2).sum() / (np.abs(np.fft.rfft(x, 2**16)) ** 2).sum() for e, x in said.items()}
    assert high["angry"] > 2 * high["neutral"] > 4 * high["sad"]
    ends = {e: _pitch_hz(said[e][-6000:]) / _pitch_hz(said[e][:-6000]) for e in ("neutral", "surprise")}
    assert ends["surprise"] > 1.15 > 1.05 > ends["neutral"] > 0.7
    levels = {e: x[-8000:].std() / x[:8000].std() for e, x in said.items()}
    assert levels["sad"] < 0.75 * levels["neutral"] < 0.75 * levels["surprise"]


def test_every_event_sounds_and_lands_where_it_says() -> None:
    rng = np.random.default_rng(3)
    centroid = {}
    for kind in EVENTS:
        wave = make_event(kind, rng, 110, 1.0)
        assert np.isfinite(wave).all() and np.abs(wave).max() == pytest.approx(1.0)
        assert 0.15 < len(wave) / RATE < 1.4
        power = np.abs(np.fft.rfft(wave)) ** 2
        centroid[kind] = float((power * np.fft.rfftfreq(len(wave), 1 / RATE)).sum() / power.sum())
    assert centroid["sneeze"] > 2500 > centroid["sigh"] and centroid["laugh"] < 1500
    plan = next(plan for plan in make_plans(MiniSettings(train=30, dev=0, test=0), "train") if plan.event == "laugh")
    sound = plan.render()
    assert sound.event_time is not None
    start, end = sound.event_time
    assert end <= sound.words[0][1] or start >= sound.words[-1][2]
    inside = sound.samples_S[int(start * RATE) : int(end * RATE)]
    assert inside.std() > 0.1 * sound.samples_S.std()
    with pytest.raises(ValueError, match="no sound event 'bark'; expected one of laugh"):
        make_event("bark", rng, 110, 1.0)


def test_the_warp_moves_a_click_to_the_time_it_reports() -> None:
    clicks = np.zeros(2 * RATE * 2, dtype=np.float32)
    clicks[[10000, 40000]] = 1.0
    warped, times = _warp(clicks, np.linspace(0.8, 1.5, len(clicks)), 2 * RATE)
    for place in (10000, 40000):
        expected = times[place] * 2 * RATE
        near = warped[int(expected) - 200 : int(expected) + 200]
        assert np.abs(near).argmax() == pytest.approx(expected - int(expected) + 200, abs=2)


def test_word_times_mark_the_fricative() -> None:
    """The "s" of "soup" is the only strong noise above 4 kHz: it must lie at the start of its word, also through the warp."""
    for emotion in ("neutral", "surprise", "sad"):
        said = perform("a new lullaby and soup", _speaker("male", "adult"), emotion, np.random.default_rng(4))
        start = next(start for word, start, _ in said.words if word == "soup")
        high = tilt(said.samples.astype(float), 12.0) ** 2
        peak = np.convolve(high, np.ones(800), "same").argmax() / RATE
        assert start - 0.02 < peak < start + 0.16, emotion


def test_unknown_voices_and_splits_are_named() -> None:
    with pytest.raises(UserError, match=r"no voice 'en-us\+nobody'"):
        engine().say("hello", "en-us+nobody", Prosody())
    with pytest.raises(DataError, match="got split 'eval'"):
        make_speakers("eval", 1, np.random.default_rng(0))


def test_every_variant_of_the_table_exists_and_sounds() -> None:
    for variants in VARIANTS.values():
        for variant in (*variants["male"], *variants["female"]):
            speech = engine().say("good milk", f"en-us+{variant}", Prosody())
            assert 0.3 < len(speech.samples) / speech.rate < 1.5
            assert [word for word, _, _ in speech.words] == ["good", "milk"]
