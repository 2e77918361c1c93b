"""Convolution, norm and block shared by length regulator and velocity estimator, each in a non-causal and a causal form.

Non-causal blocks never let padding into a result: what a row gives does not depend on the rows beside it. Causal ones see at most two
frames back per convolution, and their norms have one frame's statistics instead of the utterance's.

Shape legend: B rows, C channels, F mel frames (or what a level of the estimator has left of them), G groups, Q queries, K keys.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.token2wav.chunks import Cache

KERNEL = 3


class Scope(NamedTuple):
    """What blocks may see: which frames are real, which keys a query may look at, and in a stream what came before."""

    mask_B1F: Tensor | None = None  # 1 at real frames, 0 at padding; None: nothing is padded, or nothing looks forward
    visible_BQK: Tensor | None = None  # Q may be 1; None: everything
    cache: Cache | None = None

    def hide(self, x_BCF: Tensor) -> Tensor:
        """Padding becomes zero."""
        return x_BCF if self.mask_B1F is None else x_BCF * self.mask_B1F

    def doubled(self) -> "Scope":
        """The scope of the same rows twice."""
        pair = [None if x is None else torch.cat((x, x)) for x in (self.mask_B1F, self.visible_BQK)]
        return Scope(pair[0], pair[1], self.cache)

    def halved(self) -> "Scope":
        """The scope of every other frame."""
        mask_B1F = None if self.mask_B1F is None else self.mask_B1F[:, :, ::2]
        return Scope(mask_B1F, None if mask_B1F is None else mask_B1F.bool())


def padding_scope(lens_B: Tensor, longest: int) -> Scope:
    """Scope of a non-causal batch of rows of ``lens_B`` frames."""
    if bool((lens_B == longest).all()):
        return Scope()
    real_B1F = (torch.arange(longest, device=lens_B.device) < lens_B.unsqueeze(1)).unsqueeze(1)
    return Scope(real_B1F.float(), real_B1F)


class TimeConv(nn.Conv1d):
    """Convolution over three frames: one before and one after, or, causal, two before."""

    def __init__(self, in_channels: int, out_channels: int, causal: bool, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, KERNEL, stride, padding=0 if causal else KERNEL // 2)
        self.causal = causal

    def forward(self, x_BCF: Tensor, scope: Scope) -> Tensor:  # type: ignore[override]
        x_BCF = scope.hide(x_BCF)
        if self.causal:
            x_BCF = F.pad(x_BCF, (KERNEL - 1, 0)) if scope.cache is None else scope.cache.before(x_BCF, KERNEL - 1)
        return super().forward(x_BCF)


class TimeUp(nn.ConvTranspose1d):
    """Twice as many frames."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 4, stride=2, padding=1)

    def forward(self, x_BCF: Tensor, scope: Scope) -> Tensor:  # type: ignore[override]
        return super().forward(scope.hide(x_BCF))


class FrameNorm(nn.GroupNorm):
    """Group norm over a row's real frames, or, causal, over all channels of each frame for itself.

    Causal frames are one group: a group of few channels without other frames beside it is close to a sign function.
    """

    def __init__(self, num_groups: int, channels: int, causal: bool) -> None:
        super().__init__(1 if causal else num_groups, channels)
        self.causal = causal

    def forward(self, x_BCF: Tensor, scope: Scope) -> Tensor:  # type: ignore[override]
        if self.causal:
            y_BFC = F.layer_norm(x_BCF.transpose(1, 2), (x_BCF.shape[1],), self.weight, self.bias, self.eps)
            return y_BFC.transpose(1, 2)
        if scope.mask_B1F is None:
            return super().forward(x_BCF)
        batch, channels, frames = x_BCF.shape
        x_BGCF, mask_B11F = x_BCF.reshape(batch, self.num_groups, -1, frames), scope.mask_B1F.unsqueeze(1)
        size_B111 = mask_B11F.sum(3, keepdim=True) * (channels // self.num_groups)
        centred_BGCF = x_BGCF - (x_BGCF * mask_B11F).sum((2, 3), keepdim=True) / size_B111
        variance_BG11 = (centred_BGCF * mask_B11F).square().sum((2, 3), keepdim=True) / size_B111
        y_BCF = (centred_BGCF * torch.rsqrt(variance_BG11 + self.eps)).reshape(batch, channels, frames)
        return y_BCF * self.weight.unsqueeze(1) + self.bias.unsqueeze(1)


class ConvBlock(nn.Module):
    """Convolution, norm, Mish; SiLU in the causal form, which trains as well and whose gradient is several times faster on a CPU."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int, causal: bool) -> None:
        super().__init__()
        self.conv = TimeConv(in_channels, out_channels, causal)
        self.norm = FrameNorm(num_groups, out_channels, causal)
        self.activation = F.silu if causal else F.mish

    def forward(self, x_BCF: Tensor, scope: Scope) -> Tensor:
        return self.activation(self.norm(self.conv(x_BCF, scope), scope))
