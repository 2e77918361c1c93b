"""Discriminators: shapes, what a period sees, the losses by hand, gradients, that they can tell."""

import math

import pytest
import torch

from osum_echat.config_token2wav import AdversarialConfig
from osum_echat.token2wav.discriminators import (
    Discriminators,
    PeriodDiscriminator,
    Verdict,
    discriminator_loss,
    feature_loss,
    generator_loss,
)

SMALL = AdversarialConfig(periods=[2, 3, 5], num_scales=2, channels=128)


def third(length: int) -> int:
    return math.ceil(length / 3)


@pytest.mark.parametrize("num_samples", [2400, 2401])
def test_shapes(num_samples: int) -> None:
    verdicts = Discriminators(SMALL)(torch.randn(2, num_samples))
    assert len(verdicts) == 5
    for period, verdict in zip((2, 3, 5), verdicts[:3], strict=True):
        rows = math.ceil(num_samples / period)
        lengths = [third(rows), third(third(rows)), third(third(third(rows))), third(third(third(third(rows))))]
        widths = [(4, lengths[0]), (16, lengths[1]), (64, lengths[2]), (128, lengths[3]), (128, lengths[3]), (1, lengths[3])]
        assert [tuple(x.shape) for x in verdict.features] == [(2, width, length, period) for width, length in widths]
        assert verdict.scores_BT.shape == (2, lengths[3] * period)
    for verdict, length in zip(verdicts[3:], (num_samples, num_samples // 2 + 1), strict=True):
        strided = [length, -(-length // 2), -(-length // 4), -(-length // 16), -(-length // 64)]
        steps = [*strided, strided[-1], strided[-1], strided[-1]]
        assert [(x.shape[1], x.shape[2]) for x in verdict.features] == list(zip([16, 16, 32, 64, 128, 128, 128, 1], steps, strict=True))
        assert verdict.scores_BT.shape == (2, strided[-1])


def test_full_size_layers_are_hifi_gans() -> None:
    with torch.device("meta"):
        judges = Discriminators(AdversarialConfig())
    assert [tuple(conv.weight.shape) for conv in judges.periods[0].convs] == [
        (32, 1, 5, 1),
        (128, 32, 5, 1),
        (512, 128, 5, 1),
        (1024, 512, 5, 1),
        (1024, 1024, 5, 1),
    ]
    assert [tuple(conv.weight.shape) for conv in judges.scales[0].convs] == [
        (128, 1, 15),
        (128, 32, 41),
        (256, 8, 41),
        (512, 16, 41),
        (1024, 32, 41),
        (1024, 64, 41),
        (1024, 1024, 5),
    ]
    assert [judge.period for judge in judges.periods] == [2, 3, 5, 7, 11] and len(judges.scales) == 3


@torch.no_grad()
def test_a_column_holds_samples_one_period_apart() -> None:
    judge = PeriodDiscriminator(3, 128)
    samples_BS = torch.randn(1, 300)
    changed_BS = samples_BS.clone()
    changed_BS[0, 1::3] += 1.0
    before, after = judge(samples_BS).features[-2], judge(changed_BS).features[-2]
    assert torch.equal(before[..., [0, 2]], after[..., [0, 2]]) and (before[..., 1] - after[..., 1]).abs().max() > 1e-3


def test_losses_by_hand() -> None:
    real = [
        Verdict(torch.tensor([[1.0, 0.5]]), [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])]),
        Verdict(torch.tensor([[2.0]]), [torch.zeros(1, 2)]),
    ]
    fake = [
        Verdict(torch.tensor([[0.0, 1.0]]), [torch.tensor([[0.0, 4.0]]), torch.tensor([[3.5]])]),
        Verdict(torch.tensor([[-1.0]]), [torch.ones(1, 2)]),
    ]
    # (0 + 0.25) / 2 + (0 + 1) / 2, and (1 - 2)^2 + (-1)^2
    assert discriminator_loss(real, fake).item() == pytest.approx(0.125 + 0.5 + 1.0 + 1.0)
    # ((1 - 0)^2 + 0) / 2, and (1 + 1)^2
    assert generator_loss(fake).item() == pytest.approx(0.5 + 4.0)
    # (1 + 2) / 2, 0.5, 1
    assert feature_loss(real, fake).item() == pytest.approx(1.5 + 0.5 + 1.0)
    assert feature_loss(real, real).item() == 0.0


def test_gradients_reach_every_parameter_and_the_samples() -> None:
    judges = Discriminators(SMALL)
    fake_BS = torch.randn(2, 3000, requires_grad=True)
    recorded = judges(torch.randn(2, 3000))
    discriminator_loss(recorded, judges(fake_BS)).sum().backward()
    for name, parameter in judges.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    fake_BS.grad = None
    (generator_loss(judges(fake_BS)) + feature_loss(recorded, judges(fake_BS))).sum().backward()
    assert fake_BS.grad is not None and (fake_BS.grad != 0).float().mean() > 0.99


def test_they_learn_to_tell() -> None:
    torch.manual_seed(0)
    judges = Discriminators(AdversarialConfig(periods=[2, 3], num_scales=1, channels=128))
    optimizer = torch.optim.AdamW(judges.parameters(), 1e-3)
    time = torch.arange(1500) / 100
    for _ in range(30):
        real_BS = torch.sin(2 * torch.pi * (time + torch.rand(4, 1))) * 0.5
        loss = discriminator_loss(judges(real_BS), judges(0.35 * torch.randn(4, 1500))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.75  # 3 discriminators that cannot tell have 3 x 0.5 at best
