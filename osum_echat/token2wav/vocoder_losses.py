"""What vocoder training minimises: multi-resolution STFT, full-band mel, pitch; with discriminators also the adversarial losses.

Segments of a batch have equal length, so the loss of a segment is a plain mean, and the trainer divides sums over segments by their number.

Shape legend: B segments, S samples, F frames, K Fourier bins.

Left out: losses on the phase (the discriminators judge it).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from osum_echat.audio.mel import MelSpectrogram
from osum_echat.config_token2wav import MelConfig, VocoderLossConfig
from osum_echat.token2wav.discriminators import Verdict, feature_loss, generator_loss
from osum_echat.token2wav.vocoder import VocoderOutput

_FLOOR = 1e-7  # of the power: log magnitudes end at -8
_QUIET = 5e-3  # RMS of the samples below which spectral convergence is relative to this: the quotient of silence means nothing


class MultiResolutionStftLoss(nn.Module):
    """(B,) spectral convergence plus L1 of log magnitudes, averaged over window sizes (https://arxiv.org/abs/1910.11480)."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        for size in self.sizes:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, generated_BS: Tensor, recorded_BS: Tensor) -> Tensor:
        total_B = generated_BS.new_zeros(generated_BS.shape[0])
        for size in self.sizes:
            generated_BKF, recorded_BKF = self._magnitude(generated_BS, size), self._magnitude(recorded_BS, size)
            quiet = _QUIET * (self.get_buffer(f"window_{size}").square().sum() * recorded_BKF[0].numel()).sqrt()
            convergence_B = _norm(recorded_BKF - generated_BKF) / torch.maximum(_norm(recorded_BKF), quiet)
            total_B = total_B + convergence_B + _distance(generated_BKF.log(), recorded_BKF.log())
        return total_B / len(self.sizes)

    def _magnitude(self, samples_BS: Tensor, size: int) -> Tensor:
        window = self.get_buffer(f"window_{size}")
        spectrum_BKF = torch.stft(samples_BS, size, size // 4, window=window, return_complex=True)
        return (spectrum_BKF.real.square() + spectrum_BKF.imag.square()).clamp(min=_FLOOR).sqrt()


class VocoderLoss(nn.Module):
    """The weighted loss of the vocoder and its parts by name, of each segment."""

    def __init__(self, cfg: VocoderLossConfig, mel: MelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.stft = MultiResolutionStftLoss(cfg.stft_sizes)
        self.mel = MelSpectrogram(mel.model_copy(update={"high_hz": None}))  # what the input mel leaves out must be right, too

    def forward(
        self,
        output: VocoderOutput,
        samples_BS: Tensor,
        f0_BF: Tensor,
        recorded: Sequence[Verdict] = (),
        generated: Sequence[Verdict] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``samples_BS`` and ``f0_BF`` (Hz, 0 = unvoiced) are those of the recording; verdicts only with adversarial training.

        Returns the weighted sum, and the unweighted parts mel, stft, f0 and, with verdicts, adversarial and features, each (B,).
        """
        parts = {
            "mel": _distance(self.mel(output.samples_BS), self.mel(samples_BS)),
            "stft": self.stft(output.samples_BS, samples_BS),
            "f0": _distance(output.f0_BF, f0_BF),
        }
        weights = {"mel": self.cfg.mel_weight, "stft": self.cfg.stft_weight, "f0": self.cfg.f0_weight}
        if self.cfg.adversarial is not None and generated:
            parts |= {"adversarial": generator_loss(generated), "features": feature_loss(recorded, generated)}
            weights |= {"adversarial": self.cfg.adversarial.weight, "features": self.cfg.adversarial.feature_weight}
        return torch.stack([weights[name] * part_B for name, part_B in parts.items()]).sum(0), parts


def _distance(generated: Tensor, recorded: Tensor) -> Tensor:
    """(B,) mean L1."""
    return (generated - recorded).abs().flatten(1).mean(1)


def _norm(x_BKF: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x_BKF, dim=(1, 2))
