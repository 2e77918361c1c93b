"""Log-mel spectrogram of token2wav (24 kHz by default): what the flow predicts and the vocoder turns into samples.

The recipe of Matcha-TTS (https://arxiv.org/abs/2309.03199) and HiFi-GAN (https://arxiv.org/abs/2010.05646): the ends are reflected by
(n_fft - hop) / 2 samples, so that frame f is centred on its own hop, [f * hop, (f + 1) * hop); a periodic Hann window of n_fft samples;
the magnitude (not the power) through Slaney filters; a natural logarithm with a floor of 1e-5. Nothing depends on the rest of the
utterance beyond the window. The 16 kHz features of the encoder are in features.py. Left out: streaming, since only output is streamed.

Shape legend: B utterances, S samples, F frames, M mel bins, K Fourier bins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.audio.features import mel_filters
from osum_echat.config_token2wav import MelConfig
from osum_echat.errors import DataError

FLOOR = 1e-5
_TINY_POWER = 1e-9  # keeps the gradient of the square root finite in digital silence


def num_mel_frames(num_samples: int, cfg: MelConfig) -> int:
    """Frames of a waveform: one per full hop."""
    return num_samples // cfg.hop


def min_samples(cfg: MelConfig) -> int:
    """The shortest waveform with a spectrogram: a reflection needs one sample more than it mirrors."""
    return max(cfg.hop, (cfg.n_fft - cfg.hop) // 2 + 1)


class MelSpectrogram(nn.Module):
    """``samples_BS -> mel_BFM`` with F = ``num_mel_frames(S)``; differentiable, so it is also the mel loss."""

    window: Tensor
    filters_KM: Tensor

    def __init__(self, cfg: MelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        filters_MK = mel_filters(cfg.num_mels, cfg.sample_rate, cfg.n_fft, cfg.low_hz, cfg.high_hz)
        self.register_buffer("window", torch.hann_window(cfg.n_fft), persistent=False)
        self.register_buffer("filters_KM", torch.from_numpy(filters_MK.T.copy()), persistent=False)

    def forward(self, samples_BS: Tensor) -> Tensor:
        if samples_BS.dim() != 2:
            raise ValueError(f"mel spectrogram: expected (B, S) samples, got {tuple(samples_BS.shape)}")
        side = (self.cfg.n_fft - self.cfg.hop) // 2
        padded_BS = F.pad(samples_BS.float(), (side, side), mode="reflect")
        spectrum_BKF = torch.stft(padded_BS, self.cfg.n_fft, self.cfg.hop, window=self.window, center=False, return_complex=True)
        magnitude_BKF = (spectrum_BKF.real.square() + spectrum_BKF.imag.square() + _TINY_POWER).sqrt()
        return (magnitude_BKF.transpose(1, 2) @ self.filters_KM).clamp(min=FLOOR).log()

    @torch.no_grad()
    def extract(self, samples_S: Tensor) -> Tensor:
        """Features of one recording at ``cfg.sample_rate``, (F, M); DataError too_short or nan_audio."""
        need = min_samples(self.cfg)
        if samples_S.dim() != 1 or samples_S.shape[0] < need:
            shape = tuple(samples_S.shape)
            rate = self.cfg.sample_rate
            raise DataError(f"mel spectrogram needs a mono {rate} Hz waveform of at least {need} samples, got shape {shape}", "too_short")
        bad = int((~torch.isfinite(samples_S)).sum())
        if bad:
            raise DataError(f"mel spectrogram: {bad} of {samples_S.shape[0]} samples are NaN or infinite", "nan_audio")
        return self(samples_S.unsqueeze(0)).squeeze(0)
