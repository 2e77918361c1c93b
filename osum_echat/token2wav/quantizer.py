"""Vectors to codes and back: finite scalar quantisation, vector quantisation with a moving-average codebook, and how codes are used.

FSQ (arXiv:2309.15505, as in CosyVoice 2, arXiv:2412.10117): every dimension is squashed into a few levels and rounded, a code is the mixed
radix number of the levels; there is no codebook to learn and none to collapse. VQ (arXiv:1711.00937, its appendix A.1): the nearest of C
vectors, which follow the mean of what they are chosen for; vectors nobody chooses any more are put on a vector of the batch
(arXiv:2107.03312, section III-C).

Both pass the gradient of the quantised vector straight through to the input.

Shape legend: N positions, D width of a code vector, C codes.

Left out: residual codebooks; moving averages over several processes (a VQ model trains in one).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.config_token2wav import QuantizerConfig

_SHRINK = 1e-3  # keeps tanh's ends strictly inside the outermost rounding cells
_RARE = 0.03  # of its fair share of choices: a code vector below is moved; at decay 0.99 one falls there in 350 batches
_EPSILON = 1e-5  # Laplace smoothing of the cluster sizes
_BLOCK = 1 << 24  # distances in memory at a time


class Quantized(NamedTuple):
    """``vectors_ND`` with the straight-through gradient, their codes, and the mean commitment loss (0 where there is none)."""

    vectors_ND: Tensor
    codes_N: Tensor
    commitment: Tensor


class FiniteScalarQuantizer(nn.Module):
    """``levels[d]`` values in dimension d, evenly spaced within [-1, 1]; the product of the levels is the number of codes."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.width = len(self.levels)
        self.codebook_size = math.prod(self.levels)

    def forward(self, z_ND: Tensor) -> Quantized:
        """Any real vectors; the arithmetic is float32 whatever the input is."""
        bounded_ND = self._bound(z_ND.float())
        rounded_ND = bounded_ND.round() + (bounded_ND - bounded_ND.detach())  # the difference is zero and carries the gradient
        codes_N = self._codes(rounded_ND.detach())
        return Quantized(rounded_ND / self._half(z_ND), codes_N, rounded_ND.new_zeros(()))

    def codes(self, z_ND: Tensor) -> Tensor:
        """(N,) int64 codes."""
        return self._codes(self._bound(z_ND.float()).round())

    def vectors(self, codes_N: Tensor) -> Tensor:
        """(N, D) float32 vectors of codes; what ``forward`` hands on for them."""
        digits_ND = codes_N.unsqueeze(1) // self._basis(codes_N) % torch.tensor(self.levels, device=codes_N.device)
        half_D = self._half(codes_N)
        return (digits_ND - half_D) / half_D

    def _bound(self, z_ND: Tensor) -> Tensor:
        """Formula (2) of the paper: tanh into the range of the integers; with an even number of levels they reach from -L/2 to L/2 - 1."""
        levels_D = torch.tensor(self.levels, device=z_ND.device, dtype=z_ND.dtype)
        half_D = (levels_D - 1) * (1 - _SHRINK) / 2
        offset_D = (levels_D.long() % 2 == 0) * 0.5
        return (z_ND + (offset_D / half_D).atanh()).tanh() * half_D - offset_D

    def _codes(self, rounded_ND: Tensor) -> Tensor:
        digits_ND = (rounded_ND + self._half(rounded_ND)).round().long()
        return (digits_ND * self._basis(rounded_ND)).sum(1)

    def _half(self, like: Tensor) -> Tensor:
        """Level number of the value zero."""
        return torch.tensor([level // 2 for level in self.levels], device=like.device)

    def _basis(self, like: Tensor) -> Tensor:
        return torch.tensor([math.prod(self.levels[:d]) for d in range(self.width)], device=like.device)


class VectorQuantizer(nn.Module):
    """The nearest of ``codebook_size`` vectors; in training mode each forward moves them. One process only."""

    codebook_CD: Tensor
    cluster_size_C: Tensor
    cluster_sum_CD: Tensor

    def __init__(self, codebook_size: int, width: int, decay: float) -> None:
        super().__init__()
        self.codebook_size, self.width, self.decay = codebook_size, width, decay
        self.register_buffer("codebook_CD", torch.randn(codebook_size, width))
        # Nobody has chosen any vector yet, so the first batch moves all that it does not choose onto itself.
        self.register_buffer("cluster_size_C", torch.zeros(codebook_size))
        self.register_buffer("cluster_sum_CD", torch.zeros(codebook_size, width))

    def forward(self, z_ND: Tensor) -> Quantized:
        """Any real vectors; the arithmetic is float32 whatever the input is."""
        z_ND = z_ND.float()
        codes_N = self.codes(z_ND)
        vectors_ND = self.vectors(codes_N)
        commitment = F.mse_loss(z_ND, vectors_ND)
        if self.training:
            self._update(z_ND.detach(), codes_N)
        return Quantized(vectors_ND + (z_ND - z_ND.detach()), codes_N, commitment)

    @torch.no_grad()
    def codes(self, z_ND: Tensor) -> Tensor:
        """(N,) int64 codes; the lower one of two that are equally near."""
        with torch.autocast(z_ND.device.type, enabled=False):
            norms_C = self.codebook_CD.square().sum(1)
            blocks = z_ND.float().split(max(1, _BLOCK // self.codebook_size))
            found = [torch.addmm(norms_C, block, self.codebook_CD.t(), alpha=-2.0).argmin(1) for block in blocks]
        return torch.cat(found)

    def vectors(self, codes_N: Tensor) -> Tensor:
        """(N, D) vectors of codes."""
        return self.codebook_CD[codes_N]

    @torch.no_grad()
    def _update(self, z_ND: Tensor, codes_N: Tensor) -> None:
        """Moving averages of the number and the sum of the vectors of each code; the code is their quotient."""
        size_C = torch.zeros_like(self.cluster_size_C).index_add_(0, codes_N, torch.ones_like(z_ND[:, 0]))
        sum_CD = torch.zeros_like(self.cluster_sum_CD).index_add_(0, codes_N, z_ND)
        self.cluster_size_C.lerp_(size_C, 1 - self.decay)
        self.cluster_sum_CD.lerp_(sum_CD, 1 - self.decay)
        total = self.cluster_size_C.sum()
        smooth_C = (self.cluster_size_C + _EPSILON) / (total + self.codebook_size * _EPSILON) * total
        self.codebook_CD.copy_(self.cluster_sum_CD / smooth_C.unsqueeze(1))
        self._move_rare(z_ND, total)

    def _move_rare(self, z_ND: Tensor, total: Tensor) -> None:
        rare_C = self.cluster_size_C < _RARE * total / self.codebook_size
        count = int(rare_C.sum())
        if not count:
            return
        chosen_ND = z_ND[torch.randint(len(z_ND), (count,)).to(z_ND.device)]  # from torch's CPU generator, which the trainer seeds a step
        self.codebook_CD[rare_C] = chosen_ND
        fair = total / self.codebook_size
        self.cluster_size_C[rare_C] = fair
        self.cluster_sum_CD[rare_C] = chosen_ND * fair


def make_quantizer(cfg: QuantizerConfig) -> FiniteScalarQuantizer | VectorQuantizer:
    """The quantiser a configuration asks for."""
    if cfg.kind == "fsq":
        return FiniteScalarQuantizer(cfg.levels)
    return VectorQuantizer(cfg.codebook_size, cfg.width, cfg.decay)


class CodebookUsage:
    """Counts of codes: the share of the codebook that occurs, and the perplexity 2^H of the distribution (C for a uniform one)."""

    def __init__(self, codebook_size: int) -> None:
        self.counts_C = np.zeros(codebook_size, dtype=np.int64)

    def add(self, codes: Sequence[int] | np.ndarray) -> None:
        """Counts codes; one outside the codebook is an error."""
        codes_N = np.asarray(codes, dtype=np.int64)
        if codes_N.size and not 0 <= codes_N.min() <= codes_N.max() < len(self.counts_C):
            raise ValueError(f"codes from {codes_N.min()} to {codes_N.max()} in a codebook of {len(self.counts_C)}")
        self.counts_C += np.bincount(codes_N, minlength=len(self.counts_C))

    @property
    def num_tokens(self) -> int:
        """Codes counted."""
        return int(self.counts_C.sum())

    @property
    def used(self) -> float:
        """Share of the codebook that occurred."""
        return float((self.counts_C > 0).mean())

    @property
    def perplexity(self) -> float:
        """2 to the entropy in bits; 0 when nothing was counted."""
        if not self.num_tokens:
            return 0.0
        shares = self.counts_C[self.counts_C > 0] / self.num_tokens
        return float(np.exp(-(shares * np.log(shares)).sum()))
