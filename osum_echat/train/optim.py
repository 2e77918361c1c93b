"""Parameter groups, AdamW and Muon, learning-rate schedules.

A schedule is a pure function from the 1-based optimizer step to a factor on the peak learning rate. `warmup_inverse_sqrt` is
WeNet's WarmupLR, w^0.5 * min(s^-0.5, s * w^-1.5) (arXiv:1706.03762 section 5.3, scaled so that the peak is 1).
Left out: other optimizers, schedules by epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from osum_echat.config import OptimConfig, ScheduleConfig, TrainConfig
from osum_echat.errors import ConfigError
from osum_echat.model.build import matches_prefix
from osum_echat.train.engine import Engine
from osum_echat.train.muon import Muon

Schedule = Callable[[int], float]


def _decay_progress(step: int, warmup: int, total: int) -> float:
    return min(1.0, (step - warmup) / max(1, total - warmup))


def warmup_inverse_sqrt(step: int, warmup: int, total: int) -> float:
    """Linear to 1 at `warmup`, then sqrt(warmup / step); without warm-up 1 / sqrt(step)."""
    return step**-0.5 if warmup == 0 else warmup**0.5 * min(step**-0.5, step * warmup**-1.5)


def warmup_linear(step: int, warmup: int, total: int) -> float:
    """Linear to 1 at `warmup`, then linear to 0 at `total`."""
    return step / warmup if step < warmup else 1.0 - _decay_progress(step, warmup, total)


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Linear to 1 at `warmup`, then half a cosine to 0 at `total`."""
    return step / warmup if step < warmup else 0.5 * (1.0 + math.cos(math.pi * _decay_progress(step, warmup, total)))


def constant(step: int, warmup: int, total: int) -> float:
    """Always the peak."""
    return 1.0


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "warmup_inverse_sqrt": warmup_inverse_sqrt,
    "warmup_linear": warmup_linear,
    "warmup_cosine": warmup_cosine,
    "constant": constant,
}
DECAYING = ("warmup_linear", "warmup_cosine")  # the ones with an end, which `min_factor` keeps above zero


def make_schedule(config: ScheduleConfig, max_steps: int | None) -> Schedule:
    """The factor on the peak learning rate at optimizer step 1, 2, ..."""
    function, warmup = SCHEDULES[config.kind], config.warmup_steps
    total = config.total_steps or max_steps or 0
    floor = config.min_factor if config.kind in DECAYING else 0.0

    def factor(step: int) -> float:
        value = function(step, warmup, total)
        return value if step < warmup else max(floor, value)

    return factor


class Groups(NamedTuple):
    """Parameter groups as torch's optimizers take them."""

    adamw: list[dict[str, Any]]
    muon: list[dict[str, Any]]


def make_groups(model: nn.Module, config: OptimConfig) -> Groups:
    """Trainable parameters by (optimizer, learning-rate scale, weight decay); vectors and scalars are not decayed."""
    scales = {group.prefix: group.lr_scale for group in config.groups}
    muon = config.muon.prefixes if config.muon else []
    used: set[str] = set()
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        prefixes = [prefix for prefix in (*scales, *muon) if matches_prefix(name, prefix)]
        used.update(prefixes)
        if not parameter.requires_grad:
            continue
        orthogonal = parameter.dim() == 2 and not set(prefixes).isdisjoint(muon)
        scaled = [prefix for prefix in prefixes if prefix in scales]
        scale = scales[max(scaled, key=len)] if scaled else 1.0
        if config.muon and orthogonal:
            scale *= config.muon.lr_scale
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((orthogonal, scale, decay), []).append(parameter)
    for key, given in (("groups", scales), ("muon.prefixes", muon)):
        unused = [prefix for prefix in given if prefix not in used]
        if unused:
            names = ", ".join(dict(model.named_children()))
            raise ConfigError(f"train.optim.{key}: no parameter starts with {unused[0]!r}; the model has {names}")
    if not groups:
        raise ConfigError("train.trainable leaves nothing to train: no parameter starts with one of its prefixes")
    result = Groups([], [])
    for orthogonal, scale, decay in sorted(groups):  # the order is part of the optimizer's saved state
        group = {"params": groups[orthogonal, scale, decay], "lr": config.lr * scale, "weight_decay": decay}
        (result.muon if orthogonal else result.adamw).append(group)
    return result


class ScheduledOptimizers:
    """The optimizers of a run and their learning rates, stepped, saved and resumed as one."""

    def __init__(self, optimizers: list[Optimizer], factor: Schedule) -> None:
        self.optimizers = optimizers
        self.schedules = [LambdaLR(optimizer, lambda done: factor(done + 1)) for optimizer in optimizers]

    def step(self) -> None:
        """Update the weights, then the learning rates."""
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()

    def state_dict(self) -> dict[str, list[dict[str, Any]]]:
        """What `load_state_dict` needs to go on exactly."""
        return {name: [part.state_dict() for part in getattr(self, name)] for name in ("optimizers", "schedules")}

    def load_state_dict(self, state: Mapping[str, list[dict[str, Any]]]) -> None:
        """Go on from a saved state; ValueError when it is of other optimizers or parameters."""
        for name in ("optimizers", "schedules"):
            for part, saved in zip(getattr(self, name), state[name], strict=True):
                part.load_state_dict(saved)


def make_optimizer(model: nn.Module, config: TrainConfig, engine: Engine) -> ScheduledOptimizers:
    """AdamW (fused: one kernel call for all parameters), Muon where the configuration asks for it; positioned before step 1."""
    groups, optim = make_groups(model, config.optim), config.optim
    optimizers: list[Optimizer] = []
    if groups.adamw:
        optimizers.append(AdamW(groups.adamw, betas=optim.betas, eps=optim.eps, fused=True))
    if groups.muon:
        optimizers.append(Muon(groups.muon, engine))
    return ScheduledOptimizers(optimizers, make_schedule(config.schedule, config.max_steps))
