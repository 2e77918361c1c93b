"""Parameter groups, AdamW and learning-rate schedules.

A schedule is a pure function from the 1-based optimizer step to a factor on the peak learning rate. `warmup_inverse_sqrt` is
WeNet's WarmupLR, w^0.5 * min(s^-0.5, s * w^-1.5) (arXiv:1706.03762 section 5.3, scaled so that the peak is 1).
Left out: other optimizers, schedules by epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from osum_echat.config import OptimConfig, ScheduleConfig, TrainConfig
from osum_echat.errors import ConfigError
from osum_echat.model.build import matches_prefix

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


def make_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, object]]:
    """Trainable parameters by (learning-rate scale, weight decay); vectors and scalars are not decayed."""
    scales = {group.prefix: group.lr_scale for group in config.groups}
    used: set[str] = set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        prefixes = [prefix for prefix in scales if matches_prefix(name, prefix)]
        used.update(prefixes)
        if not parameter.requires_grad:
            continue
        scale = scales[max(prefixes, key=len)] if prefixes else 1.0
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    unused = [prefix for prefix in scales if prefix not in used]
    if unused:
        raise ConfigError(
            f"train.optim.groups: no parameter starts with {unused[0]!r}; the model has {', '.join(dict(model.named_children()))}"
        )
    if not groups:
        raise ConfigError("train.trainable leaves nothing to train: no parameter starts with one of its prefixes")
    ordered = sorted(groups)  # the order is part of the optimizer's saved state
    return [{"params": groups[scale, decay], "lr": config.lr * scale, "weight_decay": decay} for scale, decay in ordered]


def make_optimizer(model: nn.Module, config: TrainConfig) -> tuple[AdamW, LambdaLR]:
    """AdamW (fused: one kernel call for all parameters) and its schedule, positioned before step 1."""
    optimizer = AdamW(make_groups(model, config.optim), betas=config.optim.betas, eps=config.optim.eps, fused=True)
    factor = make_schedule(config.schedule, config.max_steps)
    return optimizer, LambdaLR(optimizer, lambda done: factor(done + 1))
