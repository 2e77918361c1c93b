"""Choosing the next id from logits: greedy, temperature, top-k, top-p.

Every function is pure: logits in, logits or ids out. Randomness is one uniform number per row, drawn from that row's own generator, so a
request gives the same answer whatever else shares its batch. Nucleus (top-p) sampling: Holtzman et al. 2020, arXiv:1904.09751.
Repetition-aware sampling of speech codes: VALL-E 2, arXiv:2406.05370. Loops of greedy decoding are broken elsewhere (rules.NoLoop).

Shapes: B rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from osum_echat.errors import ConfigError


def keep_top_k(logits_BV: Tensor, k: int) -> Tensor:
    """All but the k largest logits of each row become -inf; k = 0 keeps all. Exactly k stay, also among ties."""
    if k <= 0 or k >= logits_BV.shape[-1]:
        return logits_BV
    values_BK, ids_BK = logits_BV.topk(k, dim=-1)
    return torch.full_like(logits_BV, float("-inf")).scatter(-1, ids_BK, values_BK)


def keep_top_p(logits_BV: Tensor, p: float) -> Tensor:
    """Keep the smallest set of ids whose probability reaches p (the most likely id always stays)."""
    if p >= 1.0:
        return logits_BV
    sorted_BV, ids_BV = logits_BV.sort(dim=-1, descending=True)
    probs_BV = sorted_BV.softmax(dim=-1)
    before_BV = probs_BV.cumsum(dim=-1) - probs_BV  # probability of everything more likely than this id
    outside_BV = before_BV >= p
    outside_BV[..., 0] = False
    return torch.empty_like(logits_BV).scatter(-1, ids_BV, sorted_BV.masked_fill(outside_BV, float("-inf")))


def invert_cdf(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Sample one id per row by inverting the cumulative distribution at `uniform_B` in [0, 1). An id of probability 0 is never drawn."""
    probs_BV = logits_BV.double().softmax(dim=-1)
    cdf_BV = probs_BV.cumsum(dim=-1)
    target_B1 = uniform_B.to(cdf_BV)[:, None] * cdf_BV[:, -1:]
    ids_B = torch.searchsorted(cdf_BV, target_B1, right=True)[:, 0]
    last_B = probs_BV.shape[-1] - 1 - (probs_BV.flip(-1) > 0).int().argmax(dim=-1)
    return torch.minimum(ids_B, last_B)


def request_generator(seed: int, key: str) -> torch.Generator:
    """A CPU generator that depends only on the run's seed and the request's key, not on batch or order."""
    digest = blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@dataclass(frozen=True)
class Sampler:
    """How ids are chosen. temperature 0 is greedy and ignores the rest; top_k 0 and top_p 1 switch those filters off.

    With `repeat_window` K > 0, an id that makes up more than `repeat_share` of the last K ids is drawn again, once, without the filters:
    top-k and top-p are what closes the ways out of a loop (arXiv:2406.05370, where K is 10 and the share 0.1).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repeat_window: int = 0
    repeat_share: float = 0.1

    def __post_init__(self) -> None:
        if self.repeat_window < 0 or not 0 <= self.repeat_share <= 1:
            raise ConfigError(
                f"sampler got repeat_window={self.repeat_window}, repeat_share={self.repeat_share}; "
                "expected repeat_window >= 0 (0 is off), 0 <= repeat_share <= 1"
            )
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"sampler got temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p}; "
                "expected temperature >= 0 (0 is greedy), top_k >= 0 (0 is off), 0 < top_p <= 1 (1 is off)"
            )

    @property
    def is_greedy(self) -> bool:
        """True when no random number is drawn."""
        return self.temperature == 0

    def choose(self, logits_BV: Tensor, generators: Sequence[torch.Generator], history: Sequence[Sequence[int]] = ()) -> Tensor:
        """ids_B for the next position; row b draws from `generators[b]` (empty when greedy) and has chosen `history[b]` so far."""
        if self.is_greedy:
            return logits_BV.argmax(dim=-1)
        assert len(generators) == logits_BV.shape[0], f"{len(generators)} generators for {logits_BV.shape[0]} rows"
        logits_BV = logits_BV.float() / self.temperature
        ids_B = _draw(keep_top_p(keep_top_k(logits_BV, self.top_k), self.top_p), generators)
        if self.repeat_window == 0:
            return ids_B
        again = [row for row, token in enumerate(ids_B.tolist()) if self._repeats(token, history[row])]
        if again:
            ids_B[again] = _draw(logits_BV[again], [generators[row] for row in again])
        return ids_B

    def _repeats(self, token: int, ids: Sequence[int]) -> bool:
        return list(ids[-self.repeat_window :]).count(token) > self.repeat_share * self.repeat_window


def _draw(logits_BV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    uniform_B = torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in generators])
    return invert_cdf(logits_BV, uniform_B.to(logits_BV.device))
