"""Velocity estimator of the flow: residual convolutions and transformer blocks in a U, conditioned on time.

The published shape (non-causal) halves the frames between levels and joins them again by transposed convolutions. The causal variant
keeps the frame rate on every level, its convolutions look back only, its norms take one frame at a time and its attention follows a mask
of chunks or a cache; its last block is added to what it reads, since a norm over one frame loses that frame's level and the velocity
needs it. Attention needs no positions, the convolutions give them. U-Net of Matcha-TTS (https://arxiv.org/abs/2309.03199) as sized in
CosyVoice (https://arxiv.org/abs/2407.05407), causal form after CosyVoice 2 (https://arxiv.org/abs/2412.10117).

Shape legend: B rows, F mel frames, M mel bins, C channels, N heads, H head dim.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.config_token2wav import EstimatorConfig
from osum_echat.token2wav.blocks import ConvBlock, Scope, TimeConv, TimeUp

_NUM_GROUPS = 8
_TIME_SCALE = 1000.0  # times are in [0, 1], the sinusoids are made for hundreds of steps
_INPUTS = 4  # noisy mel, token condition, speaker, prompt mel


def time_sinusoids(t_B: Tensor, width: int) -> Tensor:
    """(B, width) ``[sin | cos]`` of 1000 t with timescales 1 … 10000 spaced over width/2 - 1 steps."""
    step = math.log(10000.0) / (width // 2 - 1)
    rates = torch.exp(-step * torch.arange(width // 2, device=t_B.device, dtype=torch.float32))
    angles = _TIME_SCALE * t_B.float().unsqueeze(1) * rates
    return torch.cat((angles.sin(), angles.cos()), 1)


class ResidualBlock(nn.Module):
    """Two convolution blocks with the time added between them, beside a linear path."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int, causal: bool) -> None:
        super().__init__()
        self.time_proj = nn.Linear(time_width, out_channels)
        self.block1 = ConvBlock(in_channels, out_channels, _NUM_GROUPS, causal)
        self.block2 = ConvBlock(out_channels, out_channels, _NUM_GROUPS, causal)
        self.skip = nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x_BCF: Tensor, time_BC: Tensor, scope: Scope) -> Tensor:
        h_BCF = self.block1(x_BCF, scope) + self.time_proj(F.mish(time_BC)).unsqueeze(2)
        return self.block2(h_BCF, scope) + self.skip(x_BCF)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and GELU feed-forward over frames."""

    def __init__(self, channels: int, cfg: EstimatorConfig) -> None:
        super().__init__()
        self.heads = (cfg.num_heads, cfg.head_dim)
        width = cfg.num_heads * cfg.head_dim
        self.norm1 = nn.LayerNorm(channels)
        self.q_proj = nn.Linear(channels, width, bias=False)
        self.k_proj = nn.Linear(channels, width, bias=False)
        self.v_proj = nn.Linear(channels, width, bias=False)
        self.o_proj = nn.Linear(width, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.up_proj = nn.Linear(channels, cfg.ffn_factor * channels)
        self.down_proj = nn.Linear(cfg.ffn_factor * channels, channels)

    def forward(self, x_BFC: Tensor, scope: Scope) -> Tensor:
        h_BFC = self.norm1(x_BFC)
        q, k, v = self.q_proj(h_BFC), self.k_proj(h_BFC), self.v_proj(h_BFC)
        if scope.cache is not None:
            k, v = scope.cache.window(k), scope.cache.window(v)
        q_BNFH, k_BNKH, v_BNKH = (x.unflatten(2, self.heads).transpose(1, 2) for x in (q, k, v))
        mask = None if scope.visible_BQK is None else scope.visible_BQK.unsqueeze(1)
        y_BNFH = F.scaled_dot_product_attention(q_BNFH, k_BNKH, v_BNKH, attn_mask=mask)
        x_BFC = x_BFC + self.o_proj(y_BNFH.transpose(1, 2).flatten(2))
        return x_BFC + self.down_proj(F.gelu(self.up_proj(self.norm2(x_BFC))))


class Stage(nn.Module):
    """A residual block and its transformer blocks; gives (output, output before ``resample``), the latter to connect across the U."""

    def __init__(
        self, in_channels: int, out_channels: int, time_width: int, cfg: EstimatorConfig, causal: bool, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(in_channels, out_channels, time_width, causal)
        self.blocks = nn.ModuleList(TransformerBlock(out_channels, cfg) for _ in range(cfg.num_blocks))
        self.resample = resample

    def forward(self, x_BCF: Tensor, time_BC: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
        x_BFC = self.residual(x_BCF, time_BC, scope).transpose(1, 2)
        for block in self.blocks:
            x_BFC = block(x_BFC, scope)
        x_BCF = x_BFC.transpose(1, 2)
        return (x_BCF if self.resample is None else self.resample(x_BCF, scope)), x_BCF


class VelocityEstimator(nn.Module):
    """``forward(x, mu, speaker, prompt, t, scope) -> velocity_BFM``."""

    def __init__(self, cfg: EstimatorConfig, num_mels: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.in_channels = _INPUTS * num_mels
        widths = list(cfg.channels)
        time_width = 4 * widths[0]
        self.time_in = nn.Linear(self.in_channels, time_width)
        self.time_out = nn.Linear(time_width, time_width)
        self.down, self.mid, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, (before, width) in enumerate(zip([self.in_channels, *widths], widths, strict=False)):
            stride = 1 if causal or level == len(widths) - 1 else 2
            self.down.append(Stage(before, width, time_width, cfg, causal, TimeConv(width, width, causal, stride)))
        for _ in range(cfg.num_mid_blocks):
            self.mid.append(Stage(widths[-1], widths[-1], time_width, cfg, causal))
        for level in reversed(range(len(widths))):
            width = widths[max(level - 1, 0)]
            resample = TimeConv(width, width, causal) if causal or level == 0 else TimeUp(width)
            self.up.append(Stage(2 * widths[level], width, time_width, cfg, causal, resample))
        self.final_block = ConvBlock(widths[0], widths[0], _NUM_GROUPS, causal)
        self.final_proj = nn.Conv1d(widths[0], num_mels, 1)

    def forward(self, x_BFM: Tensor, mu_BFM: Tensor, speaker_BM: Tensor, prompt_BFM: Tensor, t_B: Tensor, scope: Scope) -> Tensor:
        """Velocity at time ``t_B`` in [0, 1]; ``prompt_BFM`` is zero where no mel is given. All mels have the same frames."""
        time_BC = self.time_out(F.silu(self.time_in(time_sinusoids(t_B, self.in_channels).to(x_BFM.dtype))))
        speaker_BFM = speaker_BM.unsqueeze(1).expand_as(x_BFM)
        x_BCF = torch.cat((x_BFM, mu_BFM, speaker_BFM, prompt_BFM), 2).transpose(1, 2)
        levels: list[tuple[Tensor, Scope]] = []
        for level, stage in enumerate(self.down):
            x_BCF, across_BCF = stage(x_BCF, time_BC, scope)
            levels.append((across_BCF, scope))
            if not self.causal and level < len(self.down) - 1:
                scope = scope.halved()
        for stage in self.mid:
            x_BCF, _ = stage(x_BCF, time_BC, scope)
        for stage in self.up:
            across_BCF, scope = levels.pop()
            x_BCF, _ = stage(torch.cat((x_BCF[:, :, : across_BCF.shape[2]], across_BCF), 1), time_BC, scope)
        y_BCF = self.final_block(x_BCF, scope)
        return self.final_proj(x_BCF + y_BCF if self.causal else y_BCF).transpose(1, 2)
