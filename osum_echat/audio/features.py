"""Whisper's log-mel spectrogram and the frame-count formulas of everything behind it.

``LogMel`` equals ``log_mel_spectrogram`` of https://github.com/openai/whisper (whisper/audio.py) on the same samples: a 400-point STFT with
a periodic Hann window every 160 samples, the last frame dropped, Slaney mel filters, log10, a floor 8 below the maximum, then (x+4)/4.
Nothing is padded to 30 seconds: an utterance has its own length and its own maximum. The mel scale is the one of M. Slaney, "Auditory
Toolbox" (1998), linear below 1 kHz and logarithmic above, each filter of unit area. Streaming (chunked) features are left out for now.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from osum_echat.errors import DataError

SAMPLE_RATE = 16000
N_FFT = 400
HOP = 160
MIN_SAMPLES = N_FFT // 2 + 1  # the STFT reflects half a window at both ends

_BREAK_HZ = 1000.0
_HZ_PER_MEL = 200.0 / 3
_LOG_STEP = math.log(6.4) / 27.0


def num_mel_frames(num_samples: int) -> int:
    """Log-mel frames of a waveform: one per hop."""
    return num_samples // HOP


def num_encoder_frames(mel_frames: int) -> int:
    """Encoder frames of a log-mel spectrogram: the second convolution of the front has stride 2."""
    return (mel_frames + 1) // 2


def num_adapter_frames(encoder_frames: int) -> int:
    """Adapter frames of an encoder output: two more convolutions of stride 2."""
    return ((encoder_frames + 1) // 2 + 1) // 2


def num_speech_tokens(num_samples: int, frames_per_token: int = 2) -> int:
    """Speech tokens of a 16 kHz waveform: groups of encoder frames, the last one may be incomplete (2 frames: 25 Hz, 4: 12.5 Hz)."""
    return -(-num_encoder_frames(num_mel_frames(num_samples)) // frames_per_token)


def num_llm_frames(num_samples: int) -> int:
    """How many LLM positions a waveform takes: the one number shared by token layout, model and runtime."""
    return num_adapter_frames(num_encoder_frames(num_mel_frames(num_samples)))


def mel_edges(num_mels: int, low_hz: float, high_hz: float) -> np.ndarray:
    """(num_mels + 2,) frequencies in Hz, even on Slaney's mel scale: filter m rises from edge m to its peak at m + 1 and falls to m + 2."""
    return _mel_to_hz(np.linspace(_hz_to_mel(low_hz), _hz_to_mel(high_hz), num_mels + 2))


def mel_filters(
    num_mels: int, sample_rate: int = SAMPLE_RATE, n_fft: int = N_FFT, low_hz: float = 0.0, high_hz: float | None = None
) -> np.ndarray:
    """Triangular Slaney filters of unit area, (num_mels, n_fft // 2 + 1), from ``low_hz`` to ``high_hz`` (None: half the sample rate)."""
    bins_hz = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    edges_hz = mel_edges(num_mels, low_hz, sample_rate / 2 if high_hz is None else high_hz)
    lower, centre, upper = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - lower) / (centre - lower)
    falling = (upper - bins_hz) / (upper - centre)
    return (np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (upper - lower)).astype(np.float32)


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _HZ_PER_MEL
    return _BREAK_HZ / _HZ_PER_MEL + math.log(hz / _BREAK_HZ) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    break_mel = _BREAK_HZ / _HZ_PER_MEL
    return np.where(mel < break_mel, mel * _HZ_PER_MEL, _BREAK_HZ * np.exp(_LOG_STEP * (mel - break_mel)))


class LogMel(nn.Module):
    """``samples_S -> mel_FM`` with F = ``num_mel_frames(S)``; a list of waveforms gives a list of spectrograms."""

    window: Tensor
    filters_KM: Tensor

    def __init__(self, num_mels: int = 80) -> None:
        super().__init__()
        self.num_mels = num_mels
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("filters_KM", torch.from_numpy(mel_filters(num_mels).T.copy()), persistent=False)

    @torch.no_grad()
    def forward(self, samples_S: Tensor) -> Tensor:
        if samples_S.dim() != 1 or samples_S.shape[0] < MIN_SAMPLES:
            shape = tuple(samples_S.shape)
            raise DataError(f"log-mel needs a mono waveform of at least {MIN_SAMPLES} samples, got shape {shape}", "too_short")
        spectrum_KF = torch.stft(samples_S.float(), N_FFT, HOP, window=self.window, return_complex=True)[:, :-1]
        power_FK = (spectrum_KF.real.square() + spectrum_KF.imag.square()).T
        log_FM = (power_FK @ self.filters_KM).clamp_(min=1e-10).log10_()
        floor = log_FM.max() - 8.0
        return torch.maximum(log_FM, floor).add_(4.0).div_(4.0)

    def batch(self, samples: Sequence[Tensor]) -> list[Tensor]:
        """Each waveform on its own: the floor depends on the utterance's maximum, never on its neighbours."""
        return [self(samples_S) for samples_S in samples]
