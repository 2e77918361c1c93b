"""What vocoder training minimises: multi-resolution STFT, full-band mel, pitch; with discriminators also the adversarial losses.

Segments of a batch have equal length, so a loss is a plain mean over the batch and not a (sum, count).

Shape legend: B segments, S samples, F frames, K Fourier bins.

Left out: losses on the phase (the discriminators judge it).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.audio.mel import MelSpectrogram
from osum_echat.config_token2wav import MelConfig, VocoderLossConfig
from osum_echat.token2wav.discriminators import Verdict, feature_loss, generator_loss
from osum_echat.token2wav.vocoder import VocoderOutput

_FLOOR = 1e-7  # of the power: log magnitudes end at -8


class MultiResolutionStftLoss(nn.Module):
    """Spectral convergence plus L1 of log magnitudes, averaged over window sizes (Parallel WaveGAN, https://arxiv.org/abs/1910.11480)."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        for size in self.sizes:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, generated_BS: Tensor, recorded_BS: Tensor) -> Tensor:
        total = generated_BS.new_zeros(())
        for size in self.sizes:
            generated_BKF, recorded_BKF = self._magnitude(generated_BS, size), self._magnitude(recorded_BS, size)
            convergence = (recorded_BKF - generated_BKF).norm() / recorded_BKF.norm()
            total = total + convergence + F.l1_loss(generated_BKF.log(), recorded_BKF.log())
        return total / len(self.sizes)

    def _magnitude(self, samples_BS: Tensor, size: int) -> Tensor:
        window = self.get_buffer(f"window_{size}")
        spectrum_BKF = torch.stft(samples_BS, size, size // 4, window=window, return_complex=True)
        return (spectrum_BKF.real.square() + spectrum_BKF.imag.square()).clamp(min=_FLOOR).sqrt()


class VocoderLoss(nn.Module):
    """The weighted loss of the vocoder and its parts by name."""

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

        Returns the weighted sum, and the unweighted parts mel, stft, f0 and, with verdicts, adversarial and features.
        """
        parts = {
            "mel": F.l1_loss(self.mel(output.samples_BS), self.mel(samples_BS)),
            "stft": self.stft(output.samples_BS, samples_BS),
            "f0": F.l1_loss(output.f0_BF, f0_BF),
        }
        weights = {"mel": self.cfg.mel_weight, "stft": self.cfg.stft_weight, "f0": self.cfg.f0_weight}
        if self.cfg.adversarial is not None and generated:
            parts |= {"adversarial": generator_loss(generated), "features": feature_loss(recorded, generated)}
            weights |= {"adversarial": self.cfg.adversarial.weight, "features": self.cfg.adversarial.feature_weight}
        return torch.stack([weights[name] * part for name, part in parts.items()]).sum(), parts
