"""Training of the vocoder: recordings to segments, and the one module that is trained, adversarial or not.

The source is driven by the pitch of the recording while the predictor learns it: early on the predicted pitch is noise, and a filter
cannot learn from sines at wrong places. Discriminators and vocoder take their steps together: one backward pass through a loss whose
adversarial part sees the discriminators frozen, and whose part for the discriminators sees the samples detached. So the step is the
trainer's, one optimizer, one checkpoint. In a checkpoint the vocoder's own names stand under ``vocoder.``.

Segment and noise of a row come from (seed, epoch, key, copy).

Shape legend: B segments, F mel frames, M mel bins, S samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from osum_echat.audio.mel import MelSpectrogram, min_samples
from osum_echat.audio.pitch import track_pitch
from osum_echat.config import VocoderRun
from osum_echat.config_token2wav import MelConfig
from osum_echat.data.batch import pack_padded
from osum_echat.data.steps import Limits, Preparer, check_duration
from osum_echat.errors import DataError
from osum_echat.token2wav.discriminators import Discriminators, Verdict, discriminator_loss
from osum_echat.token2wav.rows import RowBatch, draw_seed, read_voice
from osum_echat.token2wav.vocoder import Vocoder
from osum_echat.token2wav.vocoder_losses import VocoderLoss
from osum_echat.utterance import Utterance

_CONTEXT = 8  # frames before and after a segment that its pitch is tracked in


@dataclass(frozen=True)
class Segment:
    """A piece of a recording: S = F * hop, pitch in Hz (0 = unvoiced)."""

    mel_FM: Tensor
    f0_F: Tensor
    samples_S: Tensor


@dataclass(frozen=True)
class VocoderExample(Segment):
    """A segment and the row it is from."""

    key: str
    task: str
    seed: int
    seconds: float

    @property
    def length(self) -> int:
        return len(self.f0_F)


@dataclass(frozen=True)
class VocoderBatch(RowBatch):
    """Segments of equal length."""

    mel_BFM: Tensor
    f0_BF: Tensor
    samples_BS: Tensor

    @property
    def num_positions(self) -> int:
        """Mel frames."""
        return self.f0_BF.numel()

    @property
    def num_supervised(self) -> int:
        """Segments: the loss of one is a mean."""
        return self.f0_BF.shape[0]


class VocoderEncoder:
    """Rows to segments, segments to batches (an ``Encoder`` of data/steps.py)."""

    def __init__(self, mel: MelConfig, segment_frames: int) -> None:
        self.mel, self.segment_frames = mel, segment_frames
        self._spectrogram: MelSpectrogram | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_spectrogram": None}

    def example(self, utterance: Utterance, preparer: Preparer, copy: int) -> VocoderExample:
        """Raises DataError of bounds and audio."""
        samples_S = read_voice(utterance, self.mel.sample_rate)
        check_duration(len(samples_S) / self.mel.sample_rate, preparer.data.filter)
        if self._spectrogram is None:
            self._spectrogram = MelSpectrogram(self.mel)
        rng = preparer.rng("vocoder", utterance, copy)
        segment = draw_segment(samples_S, self._spectrogram, self.segment_frames, rng)
        seconds = self.segment_frames * self.mel.hop / self.mel.sample_rate
        return VocoderExample(**vars(segment), key=utterance.key, task=utterance.task, seed=draw_seed(rng), seconds=seconds)

    def pack(self, examples: Sequence[VocoderExample], limits: Limits) -> list[list[int]]:
        """As many as fit; all have one length."""
        return pack_padded([e.length for e in examples], [e.seconds for e in examples], limits.max_tokens, limits.max_seconds)

    def collate(self, examples: Sequence[VocoderExample]) -> VocoderBatch:
        """Segments side by side."""
        names = {"mel_BFM": "mel_FM", "f0_BF": "f0_F", "samples_BS": "samples_S"}
        tensors = {name: torch.stack([getattr(example, part) for example in examples]) for name, part in names.items()}
        return VocoderBatch([e.key for e in examples], [e.task for e in examples], [e.seed for e in examples], **tensors)


def draw_segment(samples_S: np.ndarray, mel: MelSpectrogram, num_frames: int, rng: np.random.Generator) -> Segment:
    """A random segment of a recording at the mel's sample rate; one shorter than ``num_frames`` is continued with silence.

    Raises DataError empty_audio and nan_audio.
    """
    hop = mel.cfg.hop
    if samples_S.ndim != 1 or len(samples_S) == 0:
        raise DataError(f"vocoder training needs mono waveforms, got shape {samples_S.shape}", "empty_audio")
    missing = max(num_frames * hop, min_samples(mel.cfg)) - len(samples_S)
    samples_S = np.pad(samples_S.astype(np.float32), (0, max(0, missing)))
    start = int(rng.integers(0, len(samples_S) // hop - num_frames + 1))
    first = max(0, start - _CONTEXT)
    cut_S = samples_S[first * hop : (start + num_frames + _CONTEXT) * hop]
    here = slice(start - first, start - first + num_frames)
    mel_FM = mel.extract(torch.from_numpy(cut_S))
    f0_F = torch.from_numpy(track_pitch(cut_S, mel.cfg.sample_rate, hop, peak=float(np.abs(samples_S).max())))
    return Segment(mel_FM[here], f0_F[here], torch.from_numpy(cut_S[here.start * hop : here.stop * hop]))


class VocoderTraining(nn.Module):
    """The vocoder, its loss and its discriminators: ``forward(batch) -> {name: (B,)}``, unweighted losses and the weighted ``total``.

    In evaluation the total is that of the vocoder without discriminators, and the pitch is the predicted one, as in synthesis.
    """

    def __init__(self, cfg: VocoderRun) -> None:
        super().__init__()
        self.vocoder = Vocoder(cfg.model, cfg.mel)
        self.loss = VocoderLoss(cfg.loss, cfg.mel)
        self.discriminators = None if cfg.loss.adversarial is None else Discriminators(cfg.loss.adversarial)

    def forward(self, batch: VocoderBatch) -> dict[str, Tensor]:
        output = self.vocoder(batch.mel_BFM, batch.f0_BF if self.training else None, batch.generators())
        if self.discriminators is None or not self.training:
            total_B, parts = self.loss(output, batch.samples_BS, batch.f0_BF)
            return {"total": total_B, **parts}
        recorded = self.discriminators(batch.samples_BS)
        generated = self._frozen_verdicts(self.discriminators, output.samples_BS)
        total_B, parts = self.loss(output, batch.samples_BS, batch.f0_BF, recorded, generated)
        judge_B = discriminator_loss(recorded, self.discriminators(output.samples_BS.detach()))
        return {"total": total_B + judge_B, **parts, "judge": judge_B}

    def _frozen_verdicts(self, discriminators: Discriminators, samples_BS: Tensor) -> list[Verdict]:
        """Verdicts that give the samples a gradient and the discriminators none: they must not learn to be fooled."""
        learning = [parameter for parameter in discriminators.parameters() if parameter.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        verdicts = discriminators(samples_BS)
        for parameter in learning:
            parameter.requires_grad_(True)
        return verdicts


def largest_vocoder_batch(cfg: VocoderRun) -> VocoderBatch:
    """A full micro-batch (for the preflight)."""
    frames, hop = cfg.segment_frames, cfg.mel.hop
    rows = cfg.train.max_tokens // frames
    if cfg.train.max_batch_seconds:
        rows = max(1, min(rows, int(cfg.train.max_batch_seconds * cfg.mel.sample_rate / (frames * hop))))
    example = VocoderExample(
        torch.zeros(frames, cfg.mel.num_mels), torch.zeros(frames), torch.zeros(frames * hop), "preflight", "preflight", 0, 0.0
    )
    return VocoderEncoder(cfg.mel, frames).collate([example] * rows)
