"""Small blocks shared by encoder, adapter and LLM: norms, linears, positions, LoRA.

Mixed precision: the residual stream keeps the dtype of the parameters; a norm hands its output out in the compute dtype (the autocast
dtype when autocast is on), so one cast serves all the linears that read it.

Shape legend: T packed positions, D width, N heads, H head dim, R LoRA rank.

Formulas: RMSNorm https://arxiv.org/abs/1910.07467, rotary positions https://arxiv.org/abs/2104.09864 (the half-split form of the Qwen
models), sinusoids https://arxiv.org/abs/1706.03762, LoRA https://arxiv.org/abs/2106.09685.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype matrix products run in: autocast's when it is on, else the tensor's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class LayerNorm(nn.LayerNorm):
    """Layer norm that returns the compute dtype."""

    def forward(self, x_TD: Tensor) -> Tensor:
        dtype = compute_dtype(x_TD)
        return F.layer_norm(x_TD, self.normalized_shape, self.weight, self.bias, self.eps).to(dtype)


class _RmsNormFunction(torch.autograd.Function):
    """RMSNorm with a hand-written backward: autograd would keep and re-read five intermediates of the size of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        y, scale = _rms_norm(x, weight, eps, dtype)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        unit = x.float() * scale
        grad = grads[0].float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * unit).flatten(0, -2).sum(0).to(weight.dtype)
        grad = grad * weight
        mean = torch.linalg.vecdot(grad, unit).unsqueeze(-1).div_(x.shape[-1])
        return grad.sub_(unit.mul_(mean)).mul_(scale).to(x.dtype), grad_weight, None, None


def _rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(normed, 1 / rms)"""
    wide = x.float()
    scale = torch.rsqrt(torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps))
    return (wide * scale).mul_(weight).to(dtype), scale


class RmsNorm(nn.Module):
    """``x / rms(x) * weight`` over the last axis, computed in float32, returned in the compute dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # nothing to keep for a backward; a function of autograd cannot be exported either
            return _rms_norm(x, self.weight, self.eps, compute_dtype(x))[0]
        return _RmsNormFunction.apply(x, self.weight, self.eps, compute_dtype(x))


class _RotateFunction(torch.autograd.Function):
    """Rotary positions; the backward is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x_TNH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TH, sin_TH)
        return _rotate_half_split(x_TNH, cos_TH, sin_TH)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos_TH, sin_TH = ctx.saved_tensors
        return _rotate_half_split(grads[0], cos_TH, -sin_TH), None, None


def _rotate_half_split(x_TNH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
    first, second = x_TNH.chunk(2, -1)
    cos, sin = cos_TH.unsqueeze(1), sin_TH.unsqueeze(1)
    return torch.cat((torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)), -1)


def rotate(x_TNH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
    """Apply the angles of :func:`rotary_angles` (half of the head dim wide) to every head."""
    return _RotateFunction.apply(x_TNH, cos_TH, sin_TH) if torch.is_grad_enabled() else _rotate_half_split(x_TNH, cos_TH, sin_TH)


def rotary_angles(positions_T: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(cos, sin), each (T, H / 2); the angles are formed in float32, so long positions keep their precision."""
    exponents = torch.arange(0, head_dim, 2, device=positions_T.device, dtype=torch.float32) / head_dim
    angles = positions_T.float().unsqueeze(1) * theta**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)


def whisper_sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """(length, width) ``[sin | cos]`` with timescales 1 … 10000 spaced over width/2 - 1 steps, as openai-whisper; any length."""
    step = math.log(10000.0) / (width // 2 - 1)
    rates = torch.exp(-step * torch.arange(width // 2, device=device, dtype=torch.float32))
    angles = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1) * rates
    return torch.cat((angles.sin(), angles.cos()), 1)


def interleaved_sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """(length, width) with sin in the even and cos in the odd columns, rates 10000^(-2i/width), as WeNet; any length."""
    rates = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / width))
    angles = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1) * rates
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)


class LoraLinear(nn.Linear):
    """A Linear plus a low-rank update ``x A^T B^T * alpha / rank``.

    The base keeps its parameter names (``weight``, ``bias``), so weights trained without LoRA load into it unchanged.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.lora_a = nn.Parameter(torch.empty(rank, in_features))
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank))  # zero: the first step starts from the base model
        self.scale = alpha / rank
        self.dropout = dropout

    def forward(self, x_TD: Tensor) -> Tensor:
        reduced_TR = F.linear(F.dropout(x_TD, self.dropout, self.training), self.lora_a)
        return super().forward(x_TD) + F.linear(reduced_TR, self.lora_b) * self.scale

    def merged_weight(self) -> Tensor:
        """The one weight that computes the same, for export."""
        return self.weight + self.lora_b @ self.lora_a * self.scale
