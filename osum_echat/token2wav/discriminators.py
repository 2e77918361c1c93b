"""Period and scale discriminators of HiFi-GAN (https://arxiv.org/abs/2010.05646) for adversarial training of the vocoder.

A period discriminator folds the waveform into columns of samples that are one period apart and looks along them; a scale discriminator
looks at the waveform itself, averaged to a lower rate. Weight norm is used throughout (HiFi-GAN has spectral norm in the first scale).

Shape legend: B utterances, S samples, C channels, T steps, P period.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from osum_echat.config_token2wav import AdversarialConfig

_SLOPE = 0.1


class Verdict(NamedTuple):
    """Of one discriminator: scores near 1 for recordings and 0 for the vocoder, (B, any); what its layers saw, for feature matching."""

    scores_BT: Tensor
    features: list[Tensor]


class PeriodDiscriminator(nn.Module):
    """Strided convolutions along columns of samples that are ``period`` apart."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = (1, channels // 32, channels // 8, channels // 2, channels)
        convs = [nn.Conv2d(a, b, (5, 1), (3, 1), padding=(2, 0)) for a, b in pairwise(widths)]
        convs.append(nn.Conv2d(channels, channels, (5, 1), padding=(2, 0)))
        self.convs = nn.ModuleList(weight_norm(conv) for conv in convs)
        self.conv_post = weight_norm(nn.Conv2d(channels, 1, (3, 1), padding=(1, 0)))

    def forward(self, samples_BS: Tensor) -> Verdict:
        missing = -samples_BS.shape[1] % self.period
        x_B1S = F.pad(samples_BS.unsqueeze(1), (0, missing), mode="reflect")
        return _judge(x_B1S.unflatten(2, (-1, self.period)), self.convs, self.conv_post)


class ScaleDiscriminator(nn.Module):
    """Wide grouped convolutions over the waveform."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        eighth, quarter, half = channels // 8, channels // 4, channels // 2
        convs = [nn.Conv1d(1, eighth, 15, padding=7)]
        plan = (
            (eighth, eighth, 2, 4),
            (eighth, quarter, 2, 16),
            (quarter, half, 4, 16),
            (half, channels, 4, 16),
            (channels, channels, 1, 16),
        )
        convs += [nn.Conv1d(a, b, 41, stride, padding=20, groups=groups) for a, b, stride, groups in plan]
        convs.append(nn.Conv1d(channels, channels, 5, padding=2))
        self.convs = nn.ModuleList(weight_norm(conv) for conv in convs)
        self.conv_post = weight_norm(nn.Conv1d(channels, 1, 3, padding=1))

    def forward(self, samples_B1S: Tensor) -> Verdict:
        return _judge(samples_B1S, self.convs, self.conv_post)


class Discriminators(nn.Module):
    """``samples_BS -> [Verdict, …]``: one for each period, then one for each scale."""

    def __init__(self, cfg: AdversarialConfig) -> None:
        super().__init__()
        self.periods = nn.ModuleList(PeriodDiscriminator(period, cfg.channels) for period in cfg.periods)
        self.scales = nn.ModuleList(ScaleDiscriminator(cfg.channels) for _ in range(cfg.num_scales))

    def forward(self, samples_BS: Tensor) -> list[Verdict]:
        verdicts = [period(samples_BS) for period in self.periods]
        x_B1S = samples_BS.unsqueeze(1)
        for index, scale in enumerate(self.scales):
            if index:
                x_B1S = F.avg_pool1d(x_B1S, 4, 2, padding=2)
            verdicts.append(scale(x_B1S))
        return verdicts


def discriminator_loss(recorded: Sequence[Verdict], generated: Sequence[Verdict]) -> Tensor:
    """(B,) least squares (https://arxiv.org/abs/1611.04076): recordings should score 1, the vocoder 0; summed over discriminators."""
    pairs = zip(recorded, generated, strict=True)
    return sum(_mean((1.0 - real.scores_BT).square()) + _mean(fake.scores_BT.square()) for real, fake in pairs)  # type: ignore[return-value]


def generator_loss(generated: Sequence[Verdict]) -> Tensor:
    """(B,) least squares: the vocoder should score 1; summed over discriminators."""
    return sum(_mean((1.0 - fake.scores_BT).square()) for fake in generated)  # type: ignore[return-value]


def feature_loss(recorded: Sequence[Verdict], generated: Sequence[Verdict]) -> Tensor:
    """(B,) mean L1 distance of what the layers of the discriminators see (https://arxiv.org/abs/1910.06711), summed over layers."""
    pairs = [pair for real, fake in zip(recorded, generated, strict=True) for pair in zip(real.features, fake.features, strict=True)]
    return sum(_mean((fake - real.detach()).abs()) for real, fake in pairs)  # type: ignore[return-value]


def _mean(values: Tensor) -> Tensor:
    """Of each row."""
    return values.float().flatten(1).mean(1)


def _judge(x: Tensor, convs: nn.ModuleList, conv_post: nn.Module) -> Verdict:
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), _SLOPE)
        features.append(x)
    x = conv_post(x)
    return Verdict(x.flatten(1), [*features, x])
