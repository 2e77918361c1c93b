"""What may be said and when to stop: strategies the generation loop consults.

A `LogitRule` edits the logits of one step, a `StopRule` says when ids of one sort are over. Both count ids as the head that is asked does.
Which head is asked when is not here (schedule.py).

Shapes: B rows, V ids of one head.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class LogitRule(Protocol):
    """Edits logits before an id is chosen. `history[b]` holds the ids of this head that row b has emitted so far."""

    def __call__(self, logits_BV: Tensor, history: Sequence[Sequence[int]]) -> Tensor: ...


@dataclass(frozen=True)
class Forbid:
    """Never completes one of the given id sequences; a sequence of one id is never emitted at all.

    Used to keep placeholders such as ``<unk>`` out of the answer: only the last id of the placeholder is barred, and only right after
    the ids that start it, because those pieces may be parts of honest words.
    """

    sequences: tuple[tuple[int, ...], ...]

    def __call__(self, logits_BV: Tensor, history: Sequence[Sequence[int]]) -> Tensor:
        blocked: list[tuple[int, int]] = []
        for row, ids in enumerate(history):
            for sequence in self.sequences:
                start = sequence[:-1]
                if not start or tuple(ids[-len(start) :]) == start:
                    blocked.append((row, sequence[-1]))
        return _barred(logits_BV, blocked)


@dataclass(frozen=True)
class NoLoop:
    """Breaks loops: a stretch that repeats with a period of 1 to `max_period` ids may not get longer than `max_length` ids.

    A language model over speech codes gets stuck on one code or on a short cycle, most of all under greedy decoding, where sampling tricks
    (`Sampler.repeat_window`) do not reach. At 25 codes a second the defaults let a held sound or a pause last one second. The id that would
    go on with the stretch is barred, so the next likeliest one comes; `end_id` always stays possible. Only cycles seen three times count.
    """

    end_id: int
    max_length: int = 25
    max_period: int = 8

    def __call__(self, logits_BV: Tensor, history: Sequence[Sequence[int]]) -> Tensor:
        blocked = [(row, ids[-period]) for row, ids in enumerate(history) for period in self._stuck(ids)]
        return _barred(logits_BV, [(row, token) for row, token in blocked if token != self.end_id])

    def _stuck(self, ids: Sequence[int]) -> Iterator[int]:
        """Periods with which the end of `ids` has repeated for as long as it may."""
        for period in range(1, self.max_period + 1):
            length = max(self.max_length, 3 * period)
            if len(ids) >= length and all(ids[-at] == ids[-at - period] for at in range(1, length - period + 1)):
                yield period


def _barred(logits_BV: Tensor, blocked: Sequence[tuple[int, int]]) -> Tensor:
    """A copy with the given (row, id) at -inf."""
    if not blocked:
        return logits_BV
    rows, columns = zip(*blocked, strict=True)
    logits_BV = logits_BV.clone()
    logits_BV[list(rows), list(columns)] = float("-inf")
    return logits_BV


@dataclass(frozen=True)
class StopRule:
    """Ids of one sort end with `end_id` (eos, boundary) or after `max_new` of them (cut off)."""

    end_id: int
    max_new: int

    def is_end(self, token: int) -> bool:
        """True when `token` ends the ids; it is not one of them."""
        return token == self.end_id

    def is_full(self, num_ids: int) -> bool:
        """True when there may not be more."""
        return num_ids >= self.max_new


@dataclass(frozen=True)
class Below:
    """Only ids below `size`: a model's text head may have more rows than the tokenizer has ids."""

    size: int

    def __call__(self, logits_BV: Tensor, history: Sequence[Sequence[int]]) -> Tensor:
        if logits_BV.shape[-1] <= self.size:
            return logits_BV
        logits_BV = logits_BV.clone()
        logits_BV[:, self.size :] = float("-inf")
        return logits_BV
