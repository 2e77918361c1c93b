"""Published speech front ends in ONNX files: CosyVoice's speech tokenizer and the campplus speaker embedding, with their pre-processing.

What stands before the networks follows https://github.com/FunAudioLLM/CosyVoice (cosyvoice/cli/frontend.py): the tokenizer hears Whisper's
log-mel with 128 bins, the embedding Kaldi's 80 log filter bank energies less their mean over time. The filter banks are those of
``compute-fbank-feats`` with its defaults and no dither (https://kaldi-asr.org/doc/feat.html), computed here because torchaudio cannot be
imported beside every torch. The files are not downloaded; onnxruntime is imported when one is opened (``pip install onnxruntime``).

Shape legend: S samples (16 kHz mono, -1 to 1), F frames of 10 ms, M mel bins, K FFT bins, N tokens.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osum_echat.audio.features import SAMPLE_RATE, LogMel
from osum_echat.errors import DataError, UserError

_WINDOW, _SHIFT, _N_FFT = 400, 160, 512  # 25 ms, 10 ms, the next power of two
_PREEMPHASIS = 0.97
_LOWEST_HZ = 20.0
_FLOOR = float(np.finfo(np.float32).eps)
_TOKENIZER_MELS, _SPEAKER_MELS = 128, 80
MAX_SECONDS = 30.0  # the published tokenizers were trained on no more


def kaldi_fbank(samples_S: np.ndarray, num_mels: int = _SPEAKER_MELS) -> np.ndarray:
    """(F, M) float32 natural-log mel energies, F = 1 + (S - 400) // 160: only whole windows count (Kaldi's snip_edges).

    Each window loses its mean, is pre-emphasised by 0.97 (its first sample by itself) and weighted by the "povey" window, a Hann window to
    the power 0.85; the power spectrum is summed by triangles that are even on the scale 1127 ln(1 + f / 700) from 20 Hz to half the rate.
    Raises DataError (too_short) for less than one window.
    """
    if samples_S.ndim != 1 or len(samples_S) < _WINDOW:
        raise DataError(f"filter banks need a mono waveform of at least {_WINDOW} samples, got shape {samples_S.shape}", "too_short")
    frames = np.lib.stride_tricks.sliding_window_view(samples_S.astype(np.float64), _WINDOW)[::_SHIFT]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - _PREEMPHASIS * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / (_WINDOW - 1))) ** 0.85
    power_FK = np.abs(np.fft.rfft(frames * window, _N_FFT)) ** 2
    return np.log(np.maximum(power_FK @ _kaldi_filters(num_mels).T, _FLOOR)).astype(np.float32)


@lru_cache(maxsize=4)
def _kaldi_filters(num_mels: int) -> np.ndarray:
    """(M, K) triangles, straight on the mel scale; the bin at half the rate belongs to none."""
    bins_K = _kaldi_mel(np.arange(_N_FFT // 2 + 1) * SAMPLE_RATE / _N_FFT)
    edges = np.linspace(_kaldi_mel(_LOWEST_HZ), _kaldi_mel(SAMPLE_RATE / 2), num_mels + 2)[:, None]
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    filters_MK = np.maximum(0.0, np.minimum((bins_K - lower) / (centre - lower), (upper - bins_K) / (upper - centre)))
    filters_MK[:, -1] = 0.0
    return filters_MK


def _kaldi_mel(hz: Any) -> Any:
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)


class OnnxSpeechTokenizer:
    """CosyVoice's ``speech_tokenizer_v*.onnx``; the interface of token2wav's own tokenizer, one utterance at a time."""

    def __init__(self, path: str | Path, codebook_size: int = 4096, device: str = "cpu") -> None:
        self.codebook_size = codebook_size
        self.log_mel = LogMel(_TOKENIZER_MELS)
        self._path = path
        self._session = _open(path, "speech tokenizer", device, _TOKENIZER_MELS, axis=1)

    def encode(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """(F, 128) log-mels to (N,) int64 codes. DataError (too_long) above 30 s; UserError for codes outside the codebook."""
        return [self._encode(mel_FM) for mel_FM in mels]

    def encode_samples(self, samples: Sequence[Tensor]) -> list[Tensor]:
        """The same for waveforms."""
        return self.encode([self.log_mel(samples_S) for samples_S in samples])

    def _encode(self, mel_FM: Tensor) -> Tensor:
        seconds = len(mel_FM) * _SHIFT / SAMPLE_RATE
        if seconds > MAX_SECONDS:
            raise DataError(f"{seconds:.1f} s of audio, the published speech tokenizers take {MAX_SECONDS:g} s", "too_long")
        mel_input, length_input = (value.name for value in self._session.get_inputs())
        feed = {mel_input: mel_FM.T.unsqueeze(0).numpy(), length_input: np.array([len(mel_FM)], dtype=np.int32)}
        codes_N = np.asarray(self._session.run(None, feed)[0]).reshape(-1).astype(np.int64)
        if codes_N.size and not 0 <= codes_N.min() <= codes_N.max() < self.codebook_size:
            raise UserError(f"{self._path} gave code {codes_N.max()}, the codebook was said to have {self.codebook_size}")
        return torch.from_numpy(codes_N)


class OnnxSpeakerEmbedding:
    """``campplus.onnx``: who speaks, as one vector (192 values)."""

    def __init__(self, path: str | Path) -> None:
        self._session = _open(path, "speaker embedding", "cpu", _SPEAKER_MELS, axis=2)

    def __call__(self, samples_S: np.ndarray) -> np.ndarray:
        """float32 embedding of a 16 kHz waveform of at least 400 samples (DataError too_short)."""
        fbank_FM = kaldi_fbank(samples_S)
        feed = {self._session.get_inputs()[0].name: (fbank_FM - fbank_FM.mean(axis=0))[None]}
        return np.asarray(self._session.run(None, feed)[0], dtype=np.float32).reshape(-1)


def _open(path: str | Path, what: str, device: str, num_mels: int, axis: int) -> Any:
    """An inference session whose first input has ``num_mels`` at ``axis``."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; the {what} is an ONNX file that comes with the public CosyVoice models, download it first")
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path}: reading the {what} needs onnxruntime, which is not installed: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # parallel work is done by processes
    wanted = ["CUDAExecutionProvider"] * device.startswith("cuda") + ["CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)
    except Exception as error:  # onnxruntime's own classes, which share no base but this one
        raise UserError(f"{path}: not an ONNX model that onnxruntime can read ({str(error).splitlines()[0]})") from error
    shape = session.get_inputs()[0].shape
    if len(shape) != 3 or (shape[axis] not in (num_mels, None) and not isinstance(shape[axis], str)):
        raise UserError(f"{path}: its input has shape {shape}, a {what} takes {num_mels} mel bins at axis {axis} of three")
    return session
