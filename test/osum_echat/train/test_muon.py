"""Muon against torch's own; its share-out over ranks against one process."""

import pytest
import torch
from torch import nn

from osum_echat.train.engine import Engine
from osum_echat.train.muon import Muon, orthogonalize

SHAPES = ((8, 8), (4, 16), (16, 4), (5, 7))
OPTIONS = {"lr": 0.03, "weight_decay": 0.1}


class Shared(Engine):
    """One rank of a world whose ranks run one after another: what it would have summed is kept."""

    def __init__(self, rank: int, world: int) -> None:
        super().__init__(torch.device("cpu"))
        self.rank, self.world = rank, world
        self.kept: list[torch.Tensor] = []

    def sum_in_place(self, flat: torch.Tensor) -> None:
        self.kept.append(flat)


def matrices(seed: int = 0) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in SHAPES]


def set_gradients(parameters: list[nn.Parameter], step: int) -> None:
    rng = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=rng)


@pytest.mark.parametrize("shape", [(192, 192), (64, 256), (256, 64)])
def test_singular_values_come_close_to_one(shape):
    update = orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    values = torch.linalg.svdvals(update.float())
    assert values.quantile(0.05) > 0.5 and values.max() < 1.3
    assert torch.equal(orthogonalize(torch.zeros(3, 4)), torch.zeros(3, 4, dtype=torch.bfloat16)), "no gradient, no update, no NaN"


def test_is_torchs_muon():
    ours, theirs = matrices(), matrices()
    own = Muon([{"params": ours, **OPTIONS}], Engine(torch.device("cpu")))
    other = torch.optim.Muon(theirs, momentum=0.95, adjust_lr_fn="match_rms_adamw", **OPTIONS)
    for step in range(5):
        for parameters in (ours, theirs):
            set_gradients(parameters, step)
        own.step()
        other.step()
    for a, b, start in zip(ours, theirs, matrices(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        assert (a - start).abs().max() > 0.01


def test_shares_of_the_ranks_add_up_to_the_update_of_one_process():
    alone = Shared(0, 1)
    ranks = [alone, Shared(0, 3), Shared(1, 3), Shared(2, 3)]
    for engine in ranks:
        parameters = matrices()
        set_gradients(parameters, 0)
        Muon([{"params": parameters, **OPTIONS}], engine).step()
    whole, *shares = (engine.kept[0] for engine in ranks)
    assert torch.equal(whole, sum(shares)) and all(bool(share.any()) for share in shares)
    assert int((torch.stack(shares) != 0).sum(dim=0).max()) == 1, "no matrix twice"


def test_what_took_no_part_in_a_step_stays():
    """Unlike under AdamW, whose step shrinks with its momentum, an orthogonalized one would not."""
    parameters = matrices()
    optimizer = Muon([{"params": parameters, "lr": 0.03, "weight_decay": 0.0}], Engine(torch.device("cpu")))
    set_gradients(parameters, 0)
    optimizer.step()
    before = [parameter.detach().clone() for parameter in parameters]
    parameters[0].grad = torch.zeros_like(parameters[0])
    optimizer.step()
    assert [torch.equal(a, b) for a, b in zip(parameters, before, strict=True)] == [True, False, False, False]


def test_buckets_change_nothing(monkeypatch):
    ways = []
    for size in (10**6, 100):
        monkeypatch.setattr("osum_echat.train.muon.BUCKET", size)
        engine, parameters = Shared(0, 1), matrices()
        set_gradients(parameters, 0)
        Muon([{"params": parameters, **OPTIONS}], engine).step()
        ways.append((len(engine.kept), parameters))
    assert [number for number, _ in ways] == [1, 3]  # 64, 64 + 35 of 100 values
    assert all(torch.equal(a, b) for a, b in zip(ways[0][1], ways[1][1], strict=True))
