"""What a chunk-aware causal model may see: the grid of chunks, the attention mask it gives, and the memory between chunks.

A chunk sees itself, the ``left`` positions before it and always the prompt; never what follows. Offline this is a mask; in a stream it
is a ``Cache`` holding exactly the positions the mask would show, so both compute the same numbers.

Shape legend: B rows, T positions (tokens or frames), Q queries, K keys, C channels, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ChunkGrid:
    """Chunks of each row: the prompt is one, then one of ``first`` positions, then as many of ``later`` positions as there are."""

    prompt_B: Tensor
    first_B: Tensor
    later_B: Tensor

    def scaled(self, factor: int) -> "ChunkGrid":
        """The same chunks where each position has become ``factor`` positions."""
        return ChunkGrid(self.prompt_B * factor, self.first_B * factor, self.later_B * factor)

    def mask(self, lens_B: Tensor, longest: int, left: int, see_prompt: bool) -> Tensor:
        """(B, Q, K) True where a query may look; positions from ``lens_B`` on are padding.

        A padded query sees itself and nothing else for certain, so that no row of the softmax is empty.
        """
        position_1T = torch.arange(longest, device=lens_B.device).unsqueeze(0)
        prompt_B1, first_B1, later_B1 = (x.unsqueeze(1) for x in (self.prompt_B, self.first_B, self.later_B))
        rest_BT = position_1T - prompt_B1 - first_B1
        begin_BT = prompt_B1 + first_B1 + rest_BT.div(later_B1, rounding_mode="floor") * later_B1
        end_BT = begin_BT + later_B1
        begin_BT = torch.where(rest_BT < 0, prompt_B1, begin_BT)
        end_BT = torch.where(rest_BT < 0, prompt_B1 + first_B1, end_BT)
        in_prompt_BT = position_1T < prompt_B1
        begin_BT = begin_BT.masked_fill(in_prompt_BT, 0)
        end_BT = torch.where(in_prompt_BT, prompt_B1, end_BT)
        key_11K = position_1T.unsqueeze(1)
        near_BQK = key_11K >= begin_BT.unsqueeze(2) - left
        if see_prompt:
            near_BQK = near_BQK | in_prompt_BT.unsqueeze(1)
        visible_BQK = near_BQK & (key_11K < torch.minimum(end_BT, lens_B.unsqueeze(1)).unsqueeze(2))
        return visible_BQK | (key_11K == position_1T.unsqueeze(2))


class Cache:
    """What causal blocks remember of earlier chunks: old tensors in, new ones out, in the order in which the blocks are called.

    Args:
        old: what the previous chunk left in ``new``; empty at the start.
        left: positions attention keeps; sink: positions at the very beginning (the prompt) that it keeps besides.
    """

    def __init__(self, old: Sequence[Tensor], left: int, sink: int = 0) -> None:
        self.old = old
        self.new: list[Tensor] = []
        self.left, self.sink = left, sink

    def before(self, x_BCT: Tensor, size: int) -> Tensor:
        """``x`` with the ``size`` positions that came before it; zeros at the start."""
        y_BCT = torch.cat((self.old[len(self.new)], x_BCT), 2) if self.old else F.pad(x_BCT, (size, 0))
        self.new.append(y_BCT[:, :, -size:].clone())
        return y_BCT

    def window(self, x_BTD: Tensor) -> Tensor:
        """``x`` with all the earlier positions it may see."""
        y_BTD = torch.cat((self.old[len(self.new)], x_BTD), 1) if self.old else x_BTD
        self.new.append(_kept(y_BTD, self.left, self.sink))
        return y_BTD


@torch.jit.script_if_tracing
def _kept(x_BTD: Tensor, left: int, sink: int) -> Tensor:
    """The last ``left`` positions and the first ``sink``; never ``x`` itself, which a trace could not tell from its input."""
    begin = x_BTD.shape[1] - left
    return x_BTD[:, :] if begin <= sink else torch.cat((x_BTD[:, :sink], x_BTD[:, begin:]), 1)
