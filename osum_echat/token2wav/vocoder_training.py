"""Training of the vocoder: recordings to segments, and one optimisation step, adversarial or not.

The source is driven by the pitch of the recording while the predictor learns it: early on the predicted pitch is noise, and a filter
cannot learn from sines at wrong places.

Shape legend: B segments, F mel frames, M mel bins, S samples.

Left out: files, logs, checkpoints (``state_dict`` holds all that a checkpoint needs).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.audio.mel import MelSpectrogram, min_samples
from osum_echat.audio.pitch import track_pitch
from osum_echat.config_token2wav import VocoderTrainConfig
from osum_echat.errors import DataError
from osum_echat.token2wav.discriminators import Discriminators, discriminator_loss
from osum_echat.token2wav.vocoder import Vocoder
from osum_echat.token2wav.vocoder_losses import VocoderLoss


class VocoderExample(NamedTuple):
    """A recording as the vocoder sees it: S = F * hop, pitch in Hz (0 = unvoiced)."""

    mel_FM: Tensor
    f0_F: Tensor
    samples_S: Tensor


class VocoderBatch(NamedTuple):
    """Segments of equal length."""

    mel_BFM: Tensor
    f0_BF: Tensor
    samples_BS: Tensor

    def to(self, device: torch.device) -> "VocoderBatch":
        return VocoderBatch(*(part.to(device) for part in self))


def make_example(samples_S: np.ndarray, mel: MelSpectrogram, num_frames: int) -> VocoderExample:
    """Features of a recording at the mel's sample rate; one shorter than ``num_frames`` is continued with silence.

    Raises DataError empty_audio and nan_audio.
    """
    cfg = mel.cfg
    if samples_S.ndim != 1 or len(samples_S) == 0:
        raise DataError(f"vocoder training needs mono waveforms, got shape {samples_S.shape}", "empty_audio")
    needed = max(num_frames * cfg.hop, min_samples(cfg))
    samples = F.pad(torch.from_numpy(samples_S.astype(np.float32)), (0, max(0, needed - len(samples_S))))
    mel_FM = mel.extract(samples)
    f0_F = torch.from_numpy(track_pitch(samples.numpy(), cfg.sample_rate, cfg.hop))
    return VocoderExample(mel_FM, f0_F, samples[: len(f0_F) * cfg.hop])


def draw_segments(examples: Sequence[VocoderExample], num_frames: int, rng: np.random.Generator) -> VocoderBatch:
    """A random segment of ``num_frames`` frames from each example."""
    parts = []
    for example in examples:
        hop = len(example.samples_S) // len(example.f0_F)
        start = int(rng.integers(0, len(example.f0_F) - num_frames + 1))
        end = start + num_frames
        parts.append((example.mel_FM[start:end], example.f0_F[start:end], example.samples_S[start * hop : end * hop]))
    return VocoderBatch(*(torch.stack(tensors) for tensors in zip(*parts, strict=True)))


class VocoderTrainer:
    """``step(batch)`` improves the vocoder (and, with ``loss.adversarial``, the discriminators, which go first)."""

    def __init__(self, vocoder: Vocoder, loss: VocoderLoss, cfg: VocoderTrainConfig) -> None:
        self.vocoder, self.loss, self.cfg = vocoder, loss, cfg
        device = next(vocoder.parameters()).device
        self.discriminators = None if cfg.loss.adversarial is None else Discriminators(cfg.loss.adversarial).to(device)
        self.optimizer = self._optimizer(vocoder)
        self.judge_optimizer = None if self.discriminators is None else self._optimizer(self.discriminators)
        self.num_steps = 0

    def step(self, batch: VocoderBatch) -> dict[str, float]:
        """One step; returns the unweighted losses, the weighted ``total``, and with discriminators theirs as ``judge``."""
        output = self.vocoder(batch.mel_BFM, batch.f0_BF)
        shown: dict[str, Tensor] = {}
        verdicts: dict[str, Any] = {}
        if self.discriminators is not None and self.judge_optimizer is not None:
            fooled = self.discriminators(output.samples_BS.detach())
            shown["judge"] = discriminator_loss(self.discriminators(batch.samples_BS), fooled)
            self._update(self.discriminators, self.judge_optimizer, shown["judge"])
            self.discriminators.requires_grad_(False)
            verdicts = {"recorded": self.discriminators(batch.samples_BS), "generated": self.discriminators(output.samples_BS)}
            self.discriminators.requires_grad_(True)
        total, parts = self.loss(output, batch.samples_BS, batch.f0_BF, **verdicts)
        self._update(self.vocoder, self.optimizer, total)
        self.num_steps += 1
        return {name: value.item() for name, value in {"total": total, **parts, **shown}.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the vocoder's own weights that the next step depends on."""
        state: dict[str, Any] = {"optimizer": self.optimizer.state_dict(), "num_steps": self.num_steps}
        if self.discriminators is not None and self.judge_optimizer is not None:
            state |= {"discriminators": self.discriminators.state_dict(), "judge_optimizer": self.judge_optimizer.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_steps = state["num_steps"]
        if self.discriminators is not None and self.judge_optimizer is not None:
            self.discriminators.load_state_dict(state["discriminators"])
            self.judge_optimizer.load_state_dict(state["judge_optimizer"])

    def _optimizer(self, module: nn.Module) -> torch.optim.AdamW:
        return torch.optim.AdamW(module.parameters(), self.cfg.lr, self.cfg.betas, weight_decay=self.cfg.weight_decay)

    def _update(self, module: nn.Module, optimizer: torch.optim.AdamW, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.cfg.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"vocoder training, step {self.num_steps}: the gradient is {norm.item()}, the loss {loss.item()}")
        for group in optimizer.param_groups:
            group["lr"] = self.cfg.lr * self.cfg.lr_decay**self.num_steps
        optimizer.step()
