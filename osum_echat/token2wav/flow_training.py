"""Rows of a list to batches of the flow: speech tokens, the log-mel of the voice, the speaker.

A row needs ``speech_token`` (``osum-echat prepare speech-tokens``) and the audio those tokens were taken from (rows.py). The speaker is the
field ``speaker_embedding``, a list of ``speaker_width`` numbers; a row without it has zeros, which is what synthesis without a voice takes.
Everything the flow draws for a row comes from (seed, epoch, key, copy).

Shape legend: B rows, T tokens, F mel frames, M mel bins, S speaker width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from osum_echat.audio.mel import MelSpectrogram
from osum_echat.config import FlowRun
from osum_echat.config_token2wav import FlowConfig, MelConfig
from osum_echat.data.batch import pack_padded
from osum_echat.data.steps import Limits, Preparer, check_duration, check_positions
from osum_echat.errors import DataError
from osum_echat.token2wav.flow import FlowBatch, check_codes
from osum_echat.token2wav.length import fit_mel, num_mel_frames
from osum_echat.token2wav.rows import RowBatch, draw_seed, read_voice
from osum_echat.utterance import Utterance


@dataclass(frozen=True)
class FlowExample:
    """A row as the flow sees it; ``mel_FM`` has exactly the frames of its tokens."""

    tokens_T: Tensor
    mel_FM: Tensor
    speaker_S: Tensor
    key: str
    task: str
    seed: int
    seconds: float

    @property
    def length(self) -> int:
        return len(self.tokens_T)


@dataclass(frozen=True)
class FlowTrainBatch(FlowBatch, RowBatch):
    """A batch of the flow as the trainer needs it."""

    @property
    def num_positions(self) -> int:
        """Speech tokens."""
        return int(self.token_lens_B.sum())

    @property
    def num_supervised(self) -> int:
        """Mel values."""
        return int(self.mel_lens_B.sum()) * self.mel_BFM.shape[2]


class FlowEncoder:
    """Rows to examples, examples to batches (an ``Encoder`` of data/steps.py)."""

    def __init__(self, flow: FlowConfig, mel: MelConfig) -> None:
        self.flow, self.mel = flow, mel
        self._spectrogram: MelSpectrogram | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_spectrogram": None}

    def example(self, utterance: Utterance, preparer: Preparer, copy: int) -> FlowExample:
        """Raises DataError missing_speech_token, token_out_of_range, token_mel_mismatch and those of bounds and audio."""
        tokens_T = self._tokens(utterance)
        check_positions(len(tokens_T), preparer.data.filter, preparer.limits)
        samples_S = torch.from_numpy(read_voice(utterance, self.mel.sample_rate))
        seconds = len(samples_S) / self.mel.sample_rate
        check_duration(seconds, preparer.data.filter)
        if self._spectrogram is None:
            self._spectrogram = MelSpectrogram(self.mel)
        mel_FM = fit_mel(self._spectrogram.extract(samples_S), len(tokens_T), self.flow)
        seed = draw_seed(preparer.rng("flow", utterance, copy))
        return FlowExample(tokens_T, mel_FM, self._speaker(utterance), utterance.key, utterance.task, seed, seconds)

    def pack(self, examples: Sequence[FlowExample], limits: Limits) -> list[list[int]]:
        """Rows of similar length."""
        return pack_padded([e.length for e in examples], [e.seconds for e in examples], limits.max_tokens, limits.max_seconds)

    def collate(self, examples: Sequence[FlowExample]) -> FlowTrainBatch:
        """Rows padded to the longest."""
        return FlowTrainBatch(
            keys=[example.key for example in examples],
            tasks=[example.task for example in examples],
            seeds=[example.seed for example in examples],
            tokens_BT=pad_sequence([example.tokens_T for example in examples], batch_first=True),
            token_lens_B=torch.tensor([len(example.tokens_T) for example in examples]),
            mel_BFM=pad_sequence([example.mel_FM for example in examples], batch_first=True),
            mel_lens_B=torch.tensor([len(example.mel_FM) for example in examples]),
            speaker_BS=torch.stack([example.speaker_S for example in examples]),
        )

    def _tokens(self, utterance: Utterance) -> Tensor:
        if not utterance.speech_token:
            raise DataError("no 'speech_token': run `osum-echat prepare speech-tokens` on the list", "missing_speech_token")
        tokens_T = torch.tensor(utterance.speech_token)
        check_codes(tokens_T, self.flow.codebook_size)
        return tokens_T

    def _speaker(self, utterance: Utterance) -> Tensor:
        given = utterance.extra.get("speaker_embedding")
        if given is None:
            return torch.zeros(self.flow.speaker_width)
        try:
            speaker_S = torch.tensor(given, dtype=torch.float32)
        except (TypeError, ValueError):
            speaker_S = torch.zeros(0)
        if speaker_S.shape != (self.flow.speaker_width,) or not speaker_S.isfinite().all():
            raise DataError(f"'speaker_embedding' must be {self.flow.speaker_width} finite numbers (model.speaker_width)", "bad_speaker")
        return speaker_S


def largest_flow_batch(cfg: FlowRun) -> FlowTrainBatch:
    """A micro-batch that fills the budgets with rows as long as they may be (for the preflight)."""
    model, bounds = cfg.model, cfg.data.filter
    budget = cfg.train.max_tokens
    if cfg.train.max_batch_seconds:
        budget = min(budget, int(cfg.train.max_batch_seconds * model.token_rate_hz))
    rows = -(-budget // min(bounds.max_sequence, budget, int(bounds.max_seconds * model.token_rate_hz)))
    longest = budget // rows
    frames = num_mel_frames(longest, model)
    example = FlowExample(
        torch.zeros(longest, dtype=torch.long), torch.zeros(frames, model.num_mels), torch.zeros(model.speaker_width),
        "preflight", "preflight", 0, longest / model.token_rate_hz,
    )  # fmt: skip
    return FlowEncoder(model, cfg.mel).collate([example] * rows)
