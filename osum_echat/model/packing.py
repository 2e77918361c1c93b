"""Packed sequences and attention over them.

The frames of all sequences of a batch stand one after the other in one (T, D) tensor, so nothing but attention has to know where a
sequence ends and no layer ever computes a padded frame. ``Packing`` carries the boundaries.

Shape legend: B sequences, T packed positions, L padded length inside attention, C channels, N query heads, K key/value heads, H head dim.

Left out: attention dropout and chunk masks (no model here uses them).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Sequences share one padded attention call when the shortest is at least this fraction of the longest: more waste costs more than a call.
_GROUP_RATIO = 0.8
# On AVX512-BF16, explicit scores beat the fused CPU kernel up to length ~300: 1-1.5x in float32, 2.5-5x in bfloat16. They cost memory.
_MAX_SCORE_ELEMENTS = 1 << 25


@dataclass(frozen=True)
class Group:
    """Sequences of similar length as one padded (batch, length) block; padding stands at the end of each row."""

    batch: int
    length: int
    key_mask: Tensor | None  # (B, L) True where a key exists; None: nothing is padded
    biases: dict[tuple[bool, int, torch.dtype], Tensor] = field(default_factory=dict, compare=False)

    def bias(self, causal: bool, num_kv_heads: int, fold: int, dtype: torch.dtype) -> Tensor | None:
        """What is added to (B * K, fold * L, L) scores: the causal triangle, else the padded keys; None when there is nothing to hide."""
        if not causal and self.key_mask is None:
            return None
        key = (causal, num_kv_heads if not causal else fold, dtype)
        if key not in self.biases:
            if causal:  # a padded key is in the future of every valid query: the triangle hides it
                device = None if self.key_mask is None else self.key_mask.device
                square_LL = torch.full((self.length, self.length), float("-inf"), dtype=dtype, device=device).triu(1)
                self.biases[key] = square_LL.repeat(fold, 1)
            else:
                assert self.key_mask is not None
                hidden_BL = torch.zeros(self.key_mask.shape, dtype=dtype, device=self.key_mask.device)
                hidden_BL = hidden_BL.masked_fill_(~self.key_mask, float("-inf"))
                self.biases[key] = hidden_BL.repeat_interleave(num_kv_heads, dim=0).unsqueeze(1)
        return self.biases[key]


@dataclass(frozen=True)
class Packing:
    """Boundaries of packed sequences: sequence i occupies rows ``cu_seqlens[i]:cu_seqlens[i + 1]``.

    Build it once a batch and share it between layers: the attention plan is cached on it.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    lens: tuple[int, ...]

    @classmethod
    def from_lens(cls, lens: Sequence[int], device: torch.device | str = "cpu") -> "Packing":
        bounds = [0]
        for length in lens:
            if length <= 0:
                raise ValueError(f"a packed sequence needs at least one position, got lengths {list(lens)}")
            bounds.append(bounds[-1] + int(length))
        return cls(torch.tensor(bounds, dtype=torch.int32, device=device), max(lens, default=0), tuple(int(x) for x in lens))

    @classmethod
    def from_cu_seqlens(cls, cu_seqlens: Tensor) -> "Packing":
        bounds = cu_seqlens.tolist()
        return cls.from_lens([b - a for a, b in pairwise(bounds)], cu_seqlens.device)

    @property
    def device(self) -> torch.device:
        return self.cu_seqlens.device

    @cached_property
    def total(self) -> int:
        return sum(self.lens)

    @cached_property
    def row_T(self) -> Tensor:
        """Sequence number of each packed position."""
        lens_B = torch.tensor(self.lens, device=self.device)
        return torch.repeat_interleave(torch.arange(len(self.lens), device=self.device), lens_B, output_size=self.total)

    @cached_property
    def offset_T(self) -> Tensor:
        """Index of each packed position inside its sequence."""
        return torch.arange(self.total, device=self.device) - self.cu_seqlens[:-1].long()[self.row_T]

    @cached_property
    def plan(self) -> "tuple[tuple[Group, ...], Tensor | None, Tensor]":
        """(groups, packed row of every padded slot of all groups, padded slot of every packed row); None: slots are the rows in order."""
        order = sorted(range(len(self.lens)), key=lambda i: -self.lens[i])
        members: list[list[int]] = []
        for i in order:
            if members and self.lens[i] >= _GROUP_RATIO * self.lens[members[-1][0]]:
                members[-1].append(i)
            else:
                members.append([i])
        starts_B = self.cu_seqlens[:-1].long().cpu()
        groups, rows, valid = [], [], []
        for indices in members:
            length = self.lens[indices[0]]
            lens_B = torch.tensor([self.lens[i] for i in indices]).unsqueeze(1)
            mask_BL = torch.arange(length).unsqueeze(0) < lens_B
            # Padding repeats the last valid frame: finite values that no valid query sees.
            rows.append((starts_B[indices].unsqueeze(1) + torch.minimum(torch.arange(length).unsqueeze(0), lens_B - 1)).flatten())
            valid.append(mask_BL.flatten())
            whole = self.lens[indices[-1]] == length
            groups.append(Group(len(indices), length, None if whole else mask_BL.to(self.device)))
        rows_S, slots = torch.cat(rows), torch.cat(valid).nonzero().squeeze(1)
        slot_T = torch.empty(self.total, dtype=torch.long)
        slot_T[rows_S[slots]] = slots
        in_order = rows_S.numel() == self.total and torch.equal(rows_S, torch.arange(self.total))
        return tuple(groups), None if in_order else rows_S.to(self.device), slot_T.to(self.device)


class _Pad(torch.autograd.Function):
    """Packed rows to padded slots. Padded slots get no gradient (nothing valid depends on them), so the backward is a gather as well."""

    @staticmethod
    def forward(ctx: Any, x_TC: Tensor, row_S: Tensor, slot_T: Tensor) -> Tensor:
        ctx.save_for_backward(slot_T)
        return x_TC.index_select(0, row_S)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slot_T,) = ctx.saved_tensors
        return grads[0].index_select(0, slot_T), None, None


def packed_attention(q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, packing: Packing, causal: bool) -> Tensor:
    """Attention inside each sequence, scaled by 1/sqrt(H); K may divide N (grouped queries). Returns (T, N, H) in the dtype of ``q``."""
    if q_TNH.shape[0] != packing.total:
        raise ValueError(f"packed_attention: {q_TNH.shape[0]} positions, but the packing describes {packing.total}")
    if q_TNH.is_cuda and q_TNH.dtype in (torch.bfloat16, torch.float16):
        return _varlen_attention(q_TNH, k_TKH, v_TKH, packing, causal)
    groups, row_S, slot_T = packing.plan
    num_heads, num_kv_heads, head_dim = q_TNH.shape[1], k_TKH.shape[1], q_TNH.shape[2]
    packed = (q_TNH.flatten(1), k_TKH.flatten(1), v_TKH.flatten(1))
    if row_S is not None:
        packed = tuple(_Pad.apply(x, row_S, slot_T) for x in packed)  # type: ignore[assignment]
    sizes = [group.batch * group.length for group in groups]
    outputs = []
    for group, q_SC, k_SC, v_SC in zip(groups, *(x.split(sizes) for x in packed), strict=True):
        q = q_SC.view(group.batch, group.length, num_heads, head_dim).transpose(1, 2)
        k = k_SC.view(group.batch, group.length, num_kv_heads, head_dim).transpose(1, 2)
        v = v_SC.view(group.batch, group.length, num_kv_heads, head_dim).transpose(1, 2)
        if group.batch * num_heads * group.length**2 <= _MAX_SCORE_ELEMENTS and not q.is_cuda:
            y = _explicit_attention(q, k, v, group.bias(causal, num_kv_heads, num_heads // num_kv_heads, q.dtype))
        else:
            y = _fused_attention(q, k, v, group, causal)
        outputs.append(y.transpose(1, 2).reshape(-1, num_heads * head_dim))
    y_SC = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    y_TC = y_SC if row_S is None else y_SC.index_select(0, slot_T)
    return y_TC.view(-1, num_heads, head_dim)


@torch.jit.script_if_tracing
def attend_all(q_TNH: Tensor, k_TNH: Tensor, v_TNH: Tensor, max_scores: int = _MAX_SCORE_ELEMENTS) -> Tensor:
    """``packed_attention`` of a single sequence in which every position sees all, (T, N, H); a trace of it holds for any length."""
    q, k, v = q_TNH.transpose(0, 1).unsqueeze(0), k_TNH.transpose(0, 1).unsqueeze(0), v_TNH.transpose(0, 1).unsqueeze(0)
    if q.shape[1] * q.shape[2] * q.shape[2] <= max_scores and not q.is_cuda:
        y = _explicit_attention(q, k, v, None)
    else:
        y = F.scaled_dot_product_attention(q, k, v)
    return y[0].transpose(0, 1)


def _explicit_attention(q_BNLH: Tensor, k_BKLH: Tensor, v_BKLH: Tensor, bias: Tensor | None) -> Tensor:
    """Scores in memory; the query heads of one key head are folded into its query axis, so keys are never repeated."""
    batch, num_heads, length, head_dim = q_BNLH.shape
    num_kv_heads = k_BKLH.shape[1]
    fold = num_heads // num_kv_heads
    q = q_BNLH.reshape(batch * num_kv_heads, fold * length, head_dim)
    k = k_BKLH.reshape(batch * num_kv_heads, length, head_dim).transpose(1, 2)
    scale = head_dim**-0.5
    scores = torch.bmm(q, k) * scale if bias is None else torch.baddbmm(bias, q, k, alpha=scale)
    y = torch.bmm(torch.softmax(scores, -1), v_BKLH.reshape(batch * num_kv_heads, length, head_dim))
    return y.view(batch, num_heads, length, head_dim)


def _fused_attention(q_BNLH: Tensor, k_BKLH: Tensor, v_BKLH: Tensor, group: Group, causal: bool) -> Tensor:
    mask = None if causal or group.key_mask is None else group.key_mask[:, None, None, :]
    gqa = q_BNLH.shape[1] != k_BKLH.shape[1]
    return F.scaled_dot_product_attention(q_BNLH, k_BKLH, v_BKLH, attn_mask=mask, is_causal=causal, enable_gqa=gqa)


def _varlen_attention(q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, packing: Packing, causal: bool) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = packing.cu_seqlens, packing.max_seqlen
    window = (-1, 0) if causal else (-1, -1)
    gqa = q_TNH.shape[1] != k_TKH.shape[1]
    y = varlen_attn(q_TNH, k_TKH, v_TKH, bounds, bounds, longest, longest, window_size=window, enable_gqa=gqa)
    assert isinstance(y, Tensor)
    return y
