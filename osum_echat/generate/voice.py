"""From speech codes to sound while they are still being generated: the hook for token2wav, and the hops it is fed in.

A synthesiser gets the codes of an answer in hops: a first one, as short as its first sound allows, then others that trade delay for work;
what is left comes with the end. Boundaries never reach it. Leaves out: the synthesiser itself (token2wav/stream.py).

Shapes: S samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from osum_echat.errors import ConfigError


class Synthesizer(Protocol):
    """Codes to samples (mono, in [-1, 1], at `sample_rate`). The state is a value the caller owns; it is not read again once passed on."""

    @property
    def sample_rate(self) -> int: ...

    def init_state(self, seed: int) -> Any: ...

    def push(self, codes: Sequence[int], state: Any) -> tuple[np.ndarray, Any]: ...

    def flush(self, state: Any) -> tuple[np.ndarray, Any]: ...


@dataclass(frozen=True)
class Hops:
    """Codes in the first push and in every later one. The first speech block of the 6:18 schedule holds 17, and the opening boundary."""

    first: int = 18
    later: int = 18

    def __post_init__(self) -> None:
        if self.first < 1 or self.later < 1:
            raise ConfigError(f"hops got first={self.first}, later={self.later}; expected at least 1 code each")


class Voice:
    """One answer on its way through a synthesiser."""

    def __init__(self, synthesizer: Synthesizer, hops: Hops, seed: int) -> None:
        self.sample_rate = synthesizer.sample_rate
        self._synthesizer = synthesizer
        self._hops = hops
        self._state = synthesizer.init_state(seed)
        self._pending: list[int] = []
        self._due = hops.first

    def say(self, code: int) -> np.ndarray:
        """The samples that became due with this code; none until its hop is full."""
        self._pending.append(code)
        if len(self._pending) < self._due:
            return np.zeros(0, dtype=np.float32)
        self._due = self._hops.later
        return self._push()

    def finish(self) -> np.ndarray:
        """The samples of everything still held back."""
        rest_S = self._push() if self._pending else np.zeros(0, dtype=np.float32)
        last_S, self._state = self._synthesizer.flush(self._state)
        return np.concatenate([rest_S, last_S])

    def _push(self) -> np.ndarray:
        codes, self._pending = self._pending, []
        samples_S, self._state = self._synthesizer.push(codes, self._state)
        return samples_S
