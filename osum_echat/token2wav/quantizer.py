"""Vectors to codes and back: finite scalar quantisation, vector quantisation, and how codes are used.

FSQ (arXiv:2309.15505, as in CosyVoice 2, arXiv:2412.10117): every dimension is squashed into a few levels and rounded, a code is the mixed
radix number of the levels; there is no codebook to learn and none to collapse. VQ (arXiv:1711.00937): the nearest of C vectors, which start
as centres of clusters in the data (as the units of HuBERT, arXiv:2106.07447) and are learnt from there.

Both pass the gradient of the quantised vector straight through to the input.

Shape legend: N positions, D width of a code vector, C codes.

Left out: residual codebooks.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.config_token2wav import QuantizerConfig
from osum_echat.model.layers import LayerNorm

_SHRINK = 1e-3  # keeps tanh's ends strictly inside the outermost rounding cells
_ITERATIONS = 20  # of k-means
_BLOCK = 1 << 24  # distances in memory at a time


class Quantized(NamedTuple):
    """``vectors_ND`` with the straight-through gradient, their codes, and the loss of the codebook (a mean; 0 where there is none)."""

    vectors_ND: Tensor
    codes_N: Tensor
    loss: Tensor


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


class ProjectedFsq(nn.Module):
    """FSQ of wide vectors: normalised and projected to one dimension per list of levels, and back."""

    def __init__(self, width: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.scalars = FiniteScalarQuantizer(levels)
        self.codebook_size = self.scalars.codebook_size
        self.norm = LayerNorm(width)
        self.down = nn.Linear(width, self.scalars.width)
        self.up = nn.Linear(self.scalars.width, width)

    def forward(self, z_ND: Tensor) -> Quantized:
        """Any real vectors."""
        quantized = self.scalars(self.down(self.norm(z_ND)))
        return quantized._replace(vectors_ND=self.up(quantized.vectors_ND))

    def codes(self, z_ND: Tensor) -> Tensor:
        """(N,) int64 codes."""
        return self.scalars.codes(self.down(self.norm(z_ND)))


class VectorQuantizer(nn.Module):
    """The nearest of ``codebook_size`` vectors, which are learnt: terms two and three of the loss of arXiv:1711.00937, formula (3).

    A codebook of zeros has not been started yet; :meth:`start` puts it where the data is.
    """

    def __init__(self, width: int, codebook_size: int, commitment: float) -> None:
        super().__init__()
        self.codebook_size, self.commitment = codebook_size, commitment
        self.codebook_CD = nn.Parameter(torch.zeros(codebook_size, width))

    def forward(self, z_ND: Tensor) -> Quantized:
        """Any real vectors; the arithmetic is float32 whatever the input is."""
        z_ND = z_ND.float()
        codes_N = self.codes(z_ND)
        vectors_ND = self.codebook_CD[codes_N]
        loss = F.mse_loss(vectors_ND, z_ND.detach()) + self.commitment * F.mse_loss(z_ND, vectors_ND.detach())
        return Quantized(vectors_ND.detach() + (z_ND - z_ND.detach()), codes_N, loss)

    @torch.no_grad()
    def codes(self, z_ND: Tensor) -> Tensor:
        """(N,) int64 codes; the lower one of two that are equally near."""
        with torch.autocast(z_ND.device.type, enabled=False):
            norms_C = self.codebook_CD.square().sum(1)
            blocks = z_ND.float().split(max(1, _BLOCK // self.codebook_size))
            found = [torch.addmm(norms_C, block, self.codebook_CD.t(), alpha=-2.0).argmin(1) for block in blocks]
        return torch.cat(found)

    @property
    def is_started(self) -> bool:
        """Whether the codebook holds anything."""
        return bool(self.codebook_CD.detach().any())

    @torch.no_grad()
    def start(self, z_ND: Tensor, seed: int) -> None:
        """The codebook becomes the k-means centres of the vectors, of which there must be at least ``codebook_size``."""
        from sklearn.cluster import KMeans  # here: it would cost every command a second, for something done once

        found = KMeans(self.codebook_size, n_init=1, max_iter=_ITERATIONS, random_state=seed).fit(z_ND.float().cpu().numpy())
        self.codebook_CD.copy_(torch.from_numpy(found.cluster_centers_))


def make_quantizer(cfg: QuantizerConfig, width: int) -> ProjectedFsq | VectorQuantizer:
    """The quantiser of vectors of a width that a configuration asks for."""
    if cfg.kind == "fsq":
        return ProjectedFsq(width, cfg.levels)
    return VectorQuantizer(width, cfg.codebook_size, cfg.commitment)


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
