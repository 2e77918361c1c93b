"""Audio in and out: a path, a Kaldi ``ark:offset``, a command ending in ``|`` or encoded bytes become mono float32 samples.

Formats are what libsndfile reads (wav, flac, ogg, opus, mp3, …); every rate is resampled with soxr. Each failure is a ``DataError`` whose
``reason`` is the name the utterance is dropped under: missing_audio, corrupt_audio, empty_audio, nan_audio. Playing, recording and formats
that need ffmpeg (m4a, wma) are left out.
"""

import io
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import kaldiio
import numpy as np
import soundfile
import soxr

from osum_echat.errors import DataError

RATE = 16000
_ARK = re.compile(r"^(?P<path>.+\.ark):\d+$")
# libsndfile notes a data chunk longer than the file; sizes near 2^31 and 2^32 are what pipes write when the length is unknown.
_CUT_DATA = re.compile(r"^\s*data : (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_SIZE = 0x7FFF0000


def read_audio(source: str | bytes, start: float | None = None, end: float | None = None, rate: int = RATE) -> np.ndarray:
    """Samples of ``source`` between ``start`` and ``end`` seconds (only that part is decoded), mono, at ``rate`` Hz; 0 keeps the rate."""
    samples, source_rate = read_native(source, start, end)
    return resample(samples, source_rate, rate) if rate else samples


def read_native(source: str | bytes, start: float | None = None, end: float | None = None) -> tuple[np.ndarray, int]:
    """The same without resampling: mono float32 samples and their rate."""
    name = f"{len(source)} bytes" if isinstance(source, bytes) else source
    if isinstance(source, str) and source.rstrip().endswith("|"):
        source = _run(source)
    if isinstance(source, str) and _ARK.match(source):
        samples, rate = _read_ark(source, start, end)
    else:
        samples, rate = _read_encoded(source, name, start, end)
    if samples.size == 0:
        raise DataError(f"{name}: no samples between {start or 0} s and {end if end is not None else 'its end'}", "empty_audio")
    if not np.isfinite(samples).all():
        raise DataError(f"{name}: {int((~np.isfinite(samples)).sum())} samples are NaN or infinite", "nan_audio")
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    return np.ascontiguousarray(mono, dtype=np.float32), rate


def resample(samples_S: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """soxr at high quality; the samples themselves when the rates agree."""
    if source_rate == target_rate:
        return samples_S
    return soxr.resample(samples_S, source_rate, target_rate).astype(np.float32, copy=False)


def encode_pcm16(samples_S: np.ndarray, rate: int = RATE, container: str = "WAV") -> bytes:
    """16-bit wav or flac bytes. Scaled by 2^15 as libsndfile scales when it reads, so 16-bit samples survive the round trip bit for bit."""
    buffer = io.BytesIO()
    soundfile.write(buffer, _to_int16(samples_S), rate, format=container, subtype="PCM_16")
    return buffer.getvalue()


def write_wav(path: str | Path, samples_S: np.ndarray, rate: int = RATE) -> None:
    """Writes a 16-bit mono wav."""
    Path(path).write_bytes(encode_pcm16(samples_S, rate))


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says."""

    rate: int
    num_channels: int
    num_frames: int

    @property
    def seconds(self) -> float:
        return self.num_frames / self.rate


def probe(source: str | bytes) -> AudioInfo:
    """The header alone of a path or of encoded bytes; pipes and arks are read."""
    if isinstance(source, str) and (source.rstrip().endswith("|") or _ARK.match(source)):
        samples_S, rate = read_native(source)
        return AudioInfo(rate, 1, len(samples_S))
    with _open(source, "audio" if isinstance(source, bytes) else source) as file:
        return AudioInfo(file.samplerate, file.channels, file.frames)


def duration_seconds(source: str | bytes) -> float:
    """Length of the audio, from its header where it has one."""
    return probe(source).seconds


def _to_int16(samples_S: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(samples_S * 32768.0), -32768, 32767).astype(np.int16)


def _run(command: str) -> bytes:
    """Kaldi's command form: a shell line whose standard output is an audio file."""
    done = subprocess.run(command.rstrip()[:-1], shell=True, capture_output=True, check=False)
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip()[-200:]
        raise DataError(f"the command {command!r} failed with status {done.returncode}: {tail}", "corrupt_audio")
    if not done.stdout:
        raise DataError(f"the command {command!r} wrote nothing", "empty_audio")
    return done.stdout


def _read_ark(source: str, start: float | None, end: float | None) -> tuple[np.ndarray, int]:
    path = source.rpartition(":")[0]
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file", "missing_audio")
    try:
        loaded = kaldiio.load_mat(source)
    except Exception as error:  # whatever kaldiio's parsers raise means the same thing here
        raise DataError(f"{source}: cannot be read as Kaldi audio ({error})", "corrupt_audio") from error
    if not isinstance(loaded, tuple):
        raise DataError(f"{source}: holds a feature matrix, expected audio", "corrupt_audio")
    first, second = loaded  # kaldiio gives (rate, samples), some versions (samples, rate)
    rate, samples = (first, second) if isinstance(first, int) else (second, first)
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / np.float32(np.iinfo(samples.dtype).max + 1)
    first_frame, last_frame = _frame_range(start, end, rate, len(samples))
    return samples[first_frame:last_frame], rate


def _read_encoded(source: str | bytes, name: str, start: float | None, end: float | None) -> tuple[np.ndarray, int]:
    with _open(source, name) as file:
        cut = _CUT_DATA.search(file.extra_info)
        if cut and int(cut[2]) < int(cut[1]) < _UNKNOWN_SIZE:
            raise DataError(f"{name}: cut off: its header promises {cut[1]} bytes of audio, {cut[2]} are there", "corrupt_audio")
        first, last = _frame_range(start, end, file.samplerate, file.frames)
        try:
            if first:
                file.seek(first)
            samples = file.read(last - first, dtype="float32")
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise DataError(f"{name}: cannot be decoded ({error})", "corrupt_audio") from error
        if len(samples) < last - first:
            raise DataError(f"{name}: cut off: {last - first} samples expected, {len(samples)} decoded", "corrupt_audio")
        return samples, file.samplerate


def _open(source: str | bytes, name: str) -> soundfile.SoundFile:
    if isinstance(source, str) and not Path(source).is_file():
        raise DataError(f"{source}: no such file", "missing_audio")
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if size == 0:
        raise DataError(f"{name}: the file has zero bytes", "empty_audio")
    try:
        return soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:  # TypeError: headerless formats ask for a rate
        raise DataError(f"{name}: not audio that libsndfile can read ({error})", "corrupt_audio") from error


def _frame_range(start: float | None, end: float | None, rate: int, num_frames: int) -> tuple[int, int]:
    """Sample range of a segment; an end behind the file's end is the file's end, as in Kaldi."""
    first = min(max(round((start or 0.0) * rate), 0), num_frames)
    last = num_frames if end is None else min(round(end * rate), num_frames)
    return first, max(first, last)
