"""Conditional flow matching without a model in it: the path and its loss, the time schedule, Euler steps, guidance, noise.

Optimal-transport path of https://arxiv.org/abs/2210.02747: y(t) = (1 - (1 - sigma_min) t) noise + t target, whose velocity is
target - (1 - sigma_min) noise. Classifier-free guidance: https://arxiv.org/abs/2207.12598. Times are dense near 0 (t = 1 - cos(pi u / 2)
of even u), in training as in synthesis.

Shape legend: B rows, F mel frames, M mel bins.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def cosine_time(u: Tensor) -> Tensor:
    """[0, 1] to [0, 1], slow at first."""
    return 1.0 - torch.cos(u * (math.pi / 2))


def path(target_BFM: Tensor, noise_BFM: Tensor, t_B: Tensor, sigma_min: float) -> tuple[Tensor, Tensor]:
    """(point at time t, velocity there)."""
    t_B11 = t_B[:, None, None]
    point_BFM = (1.0 - (1.0 - sigma_min) * t_B11) * noise_BFM + t_B11 * target_BFM
    return point_BFM, target_BFM - (1.0 - sigma_min) * noise_BFM


def gaussian_velocity(point_BFM: Tensor, mean_BFM: Tensor, std_B: Tensor, t_B: Tensor, sigma_min: float) -> tuple[Tensor, Tensor]:
    """(velocity expected at a point of the path, what is left of its standard deviation) if targets were ``mean + std * normal``.

    The preconditioning of https://arxiv.org/abs/2206.00364 for this path: with a = 1 - (1 - sigma_min) t, noise and target of a point
    are jointly normal, so E[v] = mean + (std^2 t - (1 - sigma_min) a) / (a^2 + std^2 t^2) (point - t mean), and
    Var[v] = std^2 / (a^2 + std^2 t^2).
    """
    t_B11, std_B11 = t_B[:, None, None], std_B[:, None, None]
    rest_B11 = 1.0 - (1.0 - sigma_min) * t_B11
    variance_B11 = rest_B11.square() + (std_B11 * t_B11).square()
    slope_B11 = (std_B11.square() * t_B11 - (1.0 - sigma_min) * rest_B11) / variance_B11
    return mean_BFM + slope_B11 * (point_BFM - t_B11 * mean_BFM), std_B11 * variance_B11.rsqrt()


def squared_error(predicted_BFM: Tensor, wanted_BFM: Tensor, lens_B: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row over its real frames: (float32 sum, number of values as an int64 tensor)."""
    real_BF1 = (torch.arange(predicted_BFM.shape[1], device=lens_B.device) < lens_B.unsqueeze(1)).unsqueeze(2)
    error_BFM = (predicted_BFM.float() - wanted_BFM.float()).masked_fill(~real_BF1, 0.0)
    return error_BFM.square().sum((1, 2)), lens_B * predicted_BFM.shape[2]


def euler(velocity: Callable[[int, Tensor, Tensor], Tensor], noise_BFM: Tensor, num_steps: int) -> Tensor:
    """Follow ``velocity(step, x, t)`` (``t`` a scalar tensor) from time 0 to 1 in ``num_steps`` steps of the cosine schedule."""
    times = cosine_time(torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)).to(noise_BFM)
    x_BFM = noise_BFM
    for step in range(num_steps):
        x_BFM = x_BFM + (times[step + 1] - times[step]) * velocity(step, x_BFM, times[step])
    return x_BFM


def draw_noise(generator: torch.Generator, num_frames: int, num_mels: int) -> Tensor:
    """(F, M) on the CPU. Frame by frame: a frame's noise must not depend on how many are drawn at once, as ``torch.randn``'s does."""
    frames = [torch.randn(num_mels, generator=generator) for _ in range(num_frames)]
    return torch.stack(frames) if frames else torch.zeros(0, num_mels)
