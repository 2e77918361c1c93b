"""What may be said and when to stop: strategies the generation loop consults.

A `LogitRule` edits the logits of one step, a `StopRule` says when a row is done. Which head is asked in which phase (the text:speech
schedule) is not here: understanding answers are text only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class LogitRule(Protocol):
    """Edits logits before an id is chosen. `history[b]` holds the ids row b has emitted so far."""

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
        if not blocked:
            return logits_BV
        rows, columns = zip(*blocked, strict=True)
        logits_BV = logits_BV.clone()
        logits_BV[list(rows), list(columns)] = float("-inf")
        return logits_BV


@dataclass(frozen=True)
class StopRule:
    """A row ends with `eos_id` (finished) or after `max_new` ids (cut off)."""

    eos_id: int
    max_new: int

    def is_eos(self, token: int) -> bool:
        """True when `token` ends the answer; it is not part of it."""
        return token == self.eos_id

    def is_full(self, num_ids: int) -> bool:
        """True when the answer may not grow any more."""
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
