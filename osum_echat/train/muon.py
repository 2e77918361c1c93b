"""Muon: momentum whose matrices are orthogonalized before they are subtracted (https://kellerjordan.github.io/posts/muon).

A gradient of a weight matrix has a few large singular values; the update made of it here has most of them near 1, so that directions which
are rare in the data are learnt as fast as frequent ones. The update is scaled to the size that AdamW's has (arXiv:2502.16982, section 2.2).
All ranks hold equal momentum, each orthogonalizes a share of the matrices, and the shares are summed, as the gradients are.
Left out: what AdamW trains better, embeddings, output layers and convolutions (optim.py chooses).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from osum_echat.train.engine import BUCKET, Engine

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of an odd polynomial; five rounds of it multiply small singular values by up to 485
NUM_ROUNDS = 5

Entry = tuple[nn.Parameter, dict[str, Any]]  # with its parameter group


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """The same singular vectors, singular values above about 1/500 of the norm brought to 0.5 … 1.3; in bfloat16, the shape stays."""
    a, b, c = COEFFICIENTS
    wide = matrix.bfloat16() if matrix.shape[0] <= matrix.shape[1] else matrix.bfloat16().mT
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(NUM_ROUNDS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if matrix.shape[0] <= matrix.shape[1] else x.mT


class Muon(Optimizer):
    """Muon with Nesterov momentum over matrices, shared out over the ranks of `engine`."""

    def __init__(self, groups: Iterable[dict[str, Any]], engine: Engine, momentum: float = 0.95) -> None:
        super().__init__(list(groups), {"momentum": momentum})
        self.engine = engine

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix from its `.grad`, which must be there and equal on all ranks; where it is zero, nothing but weight decay."""
        for entries in self._buckets():
            sizes = [parameter.numel() for parameter, _ in entries]
            updates = torch.zeros(sum(sizes), device=self.engine.device)
            for index, (part, (parameter, group)) in enumerate(zip(updates.split(sizes), entries, strict=True)):
                gradient = parameter.grad
                assert gradient is not None
                average = self._momentum(parameter).lerp_(gradient, 1 - group["momentum"])
                if index % self.engine.world == self.engine.rank:
                    direction = gradient.lerp(average, group["momentum"])
                    # Without this, momentum of long ago would move a matrix that took no part in the step as far as fresh momentum.
                    took_part = gradient.ne(0).any()
                    part.view(parameter.shape).copy_(orthogonalize(direction) * took_part)
            self.engine.sum_in_place(updates)
            for part, (parameter, group) in zip(updates.split(sizes), entries, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(part.view(parameter.shape), alpha=group["lr"] * 0.2 * max(parameter.shape) ** 0.5)

    def _momentum(self, parameter: nn.Parameter) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: torch.Tensor = state["momentum"]
        return momentum

    def _buckets(self) -> Iterator[list[Entry]]:
        """All matrices in order, cut where a bucket would exceed `BUCKET` values: what is exchanged at once, and the memory it takes."""
        bucket: list[Entry] = []
        size = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if bucket and size + parameter.numel() > BUCKET:
                    yield bucket
                    bucket, size = [], 0
                bucket.append((parameter, group))
                size += parameter.numel()
        if bucket:
            yield bucket
