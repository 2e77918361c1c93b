"""Muon: momentum whose matrices are orthogonalized before they are subtracted (https://kellerjordan.github.io/posts/muon).

A gradient of a weight matrix has a few large singular values; the update made of it here has all of them near 1, so that directions which
are rare in the data are learnt as fast as frequent ones. The update is scaled to the size that AdamW's has (arXiv:2502.16982, section 2.2).
All ranks hold equal momentum, each orthogonalizes a share of the matrices, and the shares are summed, as the gradients are.
Left out: parameters that are no matrices, embeddings and output layers, which AdamW trains better (optim.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from osum_echat.train.engine import Engine

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd polynomial that takes every singular value of (0, 1] close to 1 in five rounds
NUM_ROUNDS = 5


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with singular values near 1 (0.7 to 1.2), in bfloat16; (rows, columns) -> the same shape."""
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
        """Update every matrix from its `.grad`, which must be there and equal on all ranks."""
        entries = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        updates = torch.zeros(sum(parameter.numel() for parameter, _ in entries), device=self.engine.device)
        views = [part.view(parameter.shape) for part, (parameter, _) in zip(_split(updates, entries), entries, strict=True)]
        for index, (view, (parameter, group)) in enumerate(zip(views, entries, strict=True)):
            direction = self._direction(parameter, group["momentum"])
            if index % self.engine.world == self.engine.rank:
                view.copy_(orthogonalize(direction))
        updates = self.engine.sum_tensor(updates)
        for part, (parameter, group) in zip(_split(updates, entries), entries, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(part.view(parameter.shape), alpha=group["lr"] * 0.2 * max(parameter.shape) ** 0.5)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> torch.Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)


def _split(flat: torch.Tensor, entries: list[tuple[nn.Parameter, dict[str, Any]]]) -> tuple[torch.Tensor, ...]:
    return flat.split([parameter.numel() for parameter, _ in entries])
