"""Muon against torch's own; its share-out over ranks against one process."""

import pytest
import torch
from torch import nn

from osum_echat.train.engine import Engine
from osum_echat.train.muon import Muon, orthogonalize

SHAPES = ((8, 8), (4, 16), (16, 4), (5, 7))
OPTIONS = {"lr": 0.03, "weight_decay": 0.1}


class Shared(Engine):
    """One rank of a world whose ranks run one after another: what it would have summed is kept, what all sum to is given."""

    def __init__(self, rank: int, world: int) -> None:
        super().__init__(torch.device("cpu"))
        self.rank, self.world = rank, world
        self.kept: list[torch.Tensor] = []

    def sum_tensor(self, values: torch.Tensor) -> torch.Tensor:
        self.kept.append(values)
        return values


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
