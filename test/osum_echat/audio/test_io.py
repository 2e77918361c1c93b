"""Every way to name audio gives the same samples, and every kind of bad audio its own reason."""

import io
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from osum_echat.audio.io import duration_seconds, encode_pcm16, probe, read_audio, read_native, write_wav
from osum_echat.errors import DataError

RAMP = (np.arange(-8000, 8000, dtype=np.int16) * 2).astype(np.int16)  # 1 s at 16 kHz, every sample different
FLOATS = RAMP.astype(np.float32) / 32768


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    soundfile.write(path, RAMP, 16000)
    return path


def test_path_bytes_pipe_and_ark_agree(tmp_path: Path, wav: Path) -> None:
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp") as writer:
        writer("other", (16000, RAMP[::-1].copy()))
        writer("u", (16000, RAMP))
    ark = (tmp_path / "a.scp").read_text().split("\n")[1].split()[1]
    for source in (str(wav), wav.read_bytes(), f"cat {wav} |", ark):
        np.testing.assert_array_equal(read_audio(source), FLOATS)
        np.testing.assert_array_equal(read_audio(source, 0.25, 0.5), FLOATS[4000:8000])


@pytest.mark.parametrize(("container", "exact"), [("FLAC", True), ("OGG", False), ("MP3", False)])
def test_compressed_formats(tmp_path: Path, container: str, exact: bool) -> None:
    tone = (0.4 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)
    path = tmp_path / f"a.{container.lower()}"
    soundfile.write(path, tone, 16000, format=container)
    read = read_audio(str(path))
    assert abs(len(read) - 16000) <= 1200  # lossy coders may pad
    np.testing.assert_allclose(read[2000:14000], tone[2000:14000], atol=1e-4 if exact else 0.05)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_any_rate_becomes_16_khz(rate: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(rate) / rate)
    expected = 0.5 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)
    read = read_audio(encode_pcm16(tone, rate))
    assert read.dtype == np.float32 and abs(len(read) - 16000) <= 1
    np.testing.assert_allclose(read[1000:15000], expected[1000:15000], atol=2e-3)
    assert read_native(encode_pcm16(tone, rate))[1] == rate


def test_stereo_is_averaged(tmp_path: Path) -> None:
    path = tmp_path / "s.wav"
    soundfile.write(path, np.stack([RAMP, np.zeros_like(RAMP)], axis=1), 16000)
    np.testing.assert_allclose(read_audio(str(path)), FLOATS / 2, atol=1e-7)
    assert (probe(str(path)).num_channels, duration_seconds(str(path))) == (2, 1.0)


def test_16_bit_samples_survive_writing(tmp_path: Path) -> None:
    write_wav(tmp_path / "b.wav", FLOATS)
    np.testing.assert_array_equal(read_audio(str(tmp_path / "b.wav")), FLOATS)
    np.testing.assert_array_equal(read_audio(encode_pcm16(FLOATS, container="FLAC")), FLOATS)


def _nan_wav() -> bytes:
    buffer = io.BytesIO()
    samples = FLOATS.copy()
    samples[5] = np.nan
    soundfile.write(buffer, samples, 16000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def _flac() -> bytes:
    return encode_pcm16(np.random.default_rng(0).standard_normal(16000) * 0.1, container="FLAC")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/nowhere/a.wav", "missing_audio"),
        ("/nowhere/a.ark:12", "missing_audio"),
        (b"", "empty_audio"),
        (encode_pcm16(np.zeros(0)), "empty_audio"),
        (b"this is text, not sound, whatever its name", "corrupt_audio"),
        (encode_pcm16(FLOATS)[:9000], "corrupt_audio"),  # a wav whose copy was cut off
        (_flac()[:9000], "corrupt_audio"),
        ("false |", "corrupt_audio"),
        ("true |", "empty_audio"),
        (_nan_wav(), "nan_audio"),
    ],
)
def test_bad_audio_has_a_named_reason(source: str | bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read_audio(source)
    assert caught.value.reason == reason


def test_a_segment_behind_the_end_is_empty_and_one_across_it_is_clipped(wav: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_audio(str(wav), 2.0, 3.0)
    assert caught.value.reason == "empty_audio"
    np.testing.assert_array_equal(read_audio(str(wav), 0.9, 3.0), FLOATS[14400:])


def test_a_streamed_wav_with_unknown_size_is_not_called_cut(wav: Path) -> None:
    header = bytearray(wav.read_bytes())
    header[40:44] = (0xFFFFFFFF).to_bytes(4, "little")
    np.testing.assert_array_equal(read_audio(bytes(header)), FLOATS)
