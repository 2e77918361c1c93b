"""From the token rate to the mel rate: how many frames, which token stands behind each, and the convolutions that smooth them.

Non-causal: linear interpolation, as published; a prompt and its answer are stretched each for itself, and of an answer over 40 tokens the
first and last 20 apart, so that its ends do not depend on its length. Causal: every token is repeated a whole number of times.

Shape legend: B rows, T tokens, F mel frames, M mel bins, C channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.config_token2wav import FlowConfig
from osum_echat.errors import DataError
from osum_echat.token2wav.blocks import ConvBlock, Scope

_NUM_BLOCKS = 4
_END_TOKENS = 20  # of the ends that are stretched apart
_TOLERANCE_TOKENS = 2  # by which a mel may differ from its tokens: rounding at both ends of two analyses

Segment = tuple[int, int]  # tokens, mel frames they become


def num_mel_frames(num_tokens: int, cfg: FlowConfig) -> int:
    """Mel frames of so many tokens, rounded down: the length of every output."""
    return int(num_tokens * cfg.frames_per_token)


def fit_mel(mel_FM: Tensor, num_tokens: int, cfg: FlowConfig) -> Tensor:
    """Cut or extend (by its last frame) a recorded mel to the frames of its tokens; DataError when they are not of the same audio."""
    want, got = num_mel_frames(num_tokens, cfg), mel_FM.shape[0]
    if abs(got - want) > _TOLERANCE_TOKENS * cfg.frames_per_token or got == 0:
        raise DataError(
            f"{num_tokens} speech tokens are {want} mel frames, got {got}; tokens and audio must be of the same recording, and "
            f"token_rate_hz, sample_rate and hop those it was analysed with",
            "token_mel_mismatch",
        )
    return mel_FM[:want] if got >= want else torch.cat((mel_FM, mel_FM[-1:].expand(want - got, -1)))


def answer_segments(num_tokens: int, cfg: FlowConfig) -> list[Segment]:
    """How an answer is stretched without a recorded mel."""
    total = num_mel_frames(num_tokens, cfg)
    if num_tokens <= 2 * _END_TOKENS:
        return [(num_tokens, total)]
    end = num_mel_frames(_END_TOKENS, cfg)
    return [(_END_TOKENS, end), (num_tokens - 2 * _END_TOKENS, total - 2 * end), (_END_TOKENS, end)]


def source_positions(segments: Sequence[Segment]) -> tuple[Tensor, Tensor, Tensor]:
    """(lower token, upper token, weight of the upper) of every frame; ``F.interpolate(mode="linear")`` of each segment for itself."""
    lower, upper, weight = [], [], []
    offset = 0
    for tokens, frames in segments:
        position_F = ((torch.arange(frames, dtype=torch.float32) + 0.5) * (tokens / frames) - 0.5).clamp_(min=0.0)
        low_F = position_F.long().clamp_(max=tokens - 1)
        lower.append(low_F + offset)
        upper.append((low_F + 1).clamp_(max=tokens - 1) + offset)
        weight.append(position_F - low_F)
        offset += tokens
    return torch.cat(lower), torch.cat(upper), torch.cat(weight)


def stretch(x_BTM: Tensor, segments: Sequence[Sequence[Segment]]) -> Tensor:
    """Each row stretched by its own segments, (B, longest, M); the frames behind a row mean nothing."""
    rows = [source_positions(row) for row in segments]
    longest = max(row[0].shape[0] for row in rows)
    lower_BF, upper_BF, weight_BF = (
        torch.stack([F.pad(row[part], (0, longest - row[part].shape[0])) for row in rows]).to(x_BTM.device) for part in range(3)
    )
    index = (-1, -1, x_BTM.shape[2])
    low_BFM, high_BFM = (x_BTM.gather(1, i_BF.unsqueeze(2).expand(index)) for i_BF in (lower_BF, upper_BF))
    return torch.lerp(low_BFM, high_BFM, weight_BF.unsqueeze(2).to(x_BTM.dtype))


class LengthRegulator(nn.Module):
    """Convolution blocks over stretched tokens, ``forward(x_BFM, scope) -> (B, F, M)``.

    Causal blocks are added to what they read: their norms take away a frame's level, which the published norms keep over the utterance,
    and a flow learns much faster when it gets through.
    """

    def __init__(self, num_mels: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(ConvBlock(num_mels, num_mels, 1, causal) for _ in range(_NUM_BLOCKS))
        self.out = nn.Conv1d(num_mels, num_mels, 1)

    def forward(self, x_BFM: Tensor, scope: Scope) -> Tensor:
        x_BCF = x_BFM.transpose(1, 2)
        for block in self.blocks:
            y_BCF = block(x_BCF, scope)
            x_BCF = x_BCF + y_BCF if self.causal else y_BCF
        return self.out(x_BCF).transpose(1, 2)
