"""One answer gathered from its events, and questions that are refused before a model is asked."""

import math
from pathlib import Path

import numpy as np
import pytest

from osum_echat.audio.io import write_wav
from osum_echat.errors import DataError
from osum_echat.generate.question import read_question
from osum_echat.generate.reply import SPANS, Reply
from osum_echat.generate.session import AudioEvent, EndEvent, SpeechEvent, StageEvent, TextEvent


def test_spans_follow_one_another_up_to_the_first_sound() -> None:
    sound = np.arange(12, dtype=np.float32)
    events = [StageEvent(0.25, "encoded"), StageEvent(0.375, "prefilled"), TextEvent(0.5, "the "), SpeechEvent(0.75, 4)]
    events += [SpeechEvent(1.0, 5), AudioEvent(1.5, sound[:4], 8), TextEvent(1.75, "door"), SpeechEvent(2.0, 6)]
    events += [AudioEvent(2.5, sound[4:], 8), EndEvent(3.0, "the door", (4, 5, 6), True)]
    reply = Reply(events)
    assert (reply.text, reply.codes, reply.finished, reply.sample_rate, reply.seconds) == ("the door", (4, 5, 6), True, 8, 3.0)
    np.testing.assert_array_equal(reply.samples_S, sound)
    spans = reply.spans
    assert spans is not None and [getattr(spans, name) for name in SPANS] == [0.25, 0.125, 0.625, 0.5]
    assert spans.first_audio == 1.5 and spans.spoken == 1.5 and spans.rtf == 2.0


def test_an_answer_without_sound_has_no_spans() -> None:
    reply = Reply([StageEvent(0.1, "encoded"), StageEvent(0.2, "prefilled"), TextEvent(0.3, "hi"), EndEvent(0.4, "hi", (), False)])
    assert reply.spans is None and len(reply.samples_S) == 0 and reply.text == "hi" and not reply.finished


def noise(peak: float, samples: int = 8000) -> np.ndarray:
    return peak * np.sign(np.random.default_rng(0).normal(size=samples)).astype(np.float32)


def test_a_question_is_brought_to_16_khz(tmp_path: Path) -> None:
    write_wav(tmp_path / "q.wav", noise(0.1, 24000), 48000)
    assert len(read_question(str(tmp_path / "q.wav"), 0.1)) == 8000


@pytest.mark.parametrize(
    ("samples", "reason", "told"),
    [
        (noise(0.1, 800), "too_short", "0.050 s of audio, a question needs at least 0.1 s"),
        (noise(0.0), "silent_audio", "all samples are zero"),
        (noise(0.0005), "silent_audio", "-66 dB"),
    ],
)
def test_what_cannot_be_heard_is_refused(tmp_path: Path, samples: np.ndarray, reason: str, told: str) -> None:
    path = tmp_path / "q.wav"
    write_wav(path, samples)
    with pytest.raises(DataError, match=str(path)) as caught:
        read_question(str(path), 0.1)
    assert caught.value.reason == reason and told in str(caught.value)
    assert math.isfinite(float(np.abs(read_question(str(path), 0.0) if reason == "too_short" else samples).max()))


def test_a_quiet_voice_is_heard(tmp_path: Path) -> None:
    write_wav(tmp_path / "q.wav", noise(0.002))
    assert len(read_question(str(tmp_path / "q.wav"), 0.1)) == 8000
