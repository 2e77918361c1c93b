"""Parameter groups, AdamW and Muon, learning-rate schedules.

A schedule is a pure function from the 1-based optimizer step to a factor on the peak learning rate. `warmup_inverse_sqrt` is
WeNet's WarmupLR, w^0.5 * min(s^-0.5, s * w^-1.5) (arXiv:1706.03762 section 5.3, scaled so that the peak is 1).
Muon gets linear layers only: no embeddings, convolutions or LoRA. Left out: other optimizers, schedules by epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import nn
from torch.optim import AdamW, Optimizer

from osum_echat.config import TrainConfig
from osum_echat.config_optim import OptimConfig, ScheduleConfig
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
    _check_prefixes(model, "groups", scales, dict(model.named_parameters()), "parameter")
    linear = _muon_names(model, config)
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        prefixes = [prefix for prefix in scales if matches_prefix(name, prefix)]
        scale = scales[max(prefixes, key=len)] if prefixes else 1.0
        if config.muon and name in linear:
            scale *= config.muon.lr_scale
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((name in linear, scale, decay), []).append(parameter)
    if not groups:
        raise ConfigError("train.trainable leaves nothing to train: no parameter starts with one of its prefixes")
    result = Groups([], [])
    for is_linear, scale, decay in sorted(groups):  # the order is part of the optimizer's saved state
        group = {"params": groups[is_linear, scale, decay], "lr": config.lr * scale, "weight_decay": decay}
        (result.muon if is_linear else result.adamw).append(group)
    return result


def _muon_names(model: nn.Module, config: OptimConfig) -> set[str]:
    """Weights of the linear layers under the prefixes of `muon`."""
    if config.muon is None:
        return set()
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    _check_prefixes(model, "muon.prefixes", config.muon.prefixes, linear, "linear layer")
    return {name for name in linear if any(matches_prefix(name, prefix) for prefix in config.muon.prefixes)}


def _check_prefixes(model: nn.Module, key: str, prefixes: Iterable[str], names: Iterable[str], what: str) -> None:
    for prefix in prefixes:
        if not any(matches_prefix(name, prefix) for name in names):
            parts = ", ".join(dict(model.named_children()))
            raise ConfigError(f"train.optim.{key}: no {what} starts with {prefix!r}; the model has {parts}")


class ScheduledOptimizers:
    """The optimizers of a run and their learning rates, stepped, saved and resumed as one."""

    def __init__(self, optimizers: list[Optimizer], factor: Schedule) -> None:
        self.optimizers, self.factor = optimizers, factor
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    def step(self, step: int) -> float:
        """Update the weights, in optimizer step 1, 2, ...; returns the factor on the peak learning rates."""
        factor = self.factor(step)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimizer.step()
        return factor

    def state_dict(self) -> list[dict[str, Any]]:
        """What `load_state_dict` needs to go on exactly; learning rates follow from the step."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: Any) -> None:
        """Go on from a saved state; ValueError when it holds another number of optimizers, groups or parameters."""
        if not isinstance(states, list):
            raise ValueError("it was saved by an older version of this code")
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def make_optimizer(model: nn.Module, config: TrainConfig, engine: Engine) -> ScheduledOptimizers:
    """AdamW (fused: one kernel call for all parameters), and Muon where the configuration asks for it."""
    groups, optim = make_groups(model, config.optim), config.optim
    optimizers: list[Optimizer] = []
    if groups.adamw:
        optimizers.append(AdamW(groups.adamw, betas=optim.betas, eps=optim.eps, fused=True))
    if groups.muon:
        optimizers.append(Muon(groups.muon, engine))
    return ScheduledOptimizers(optimizers, make_schedule(config.schedule, config.max_steps))
