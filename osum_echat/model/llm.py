"""Qwen2 and Qwen3 decoders, with an explicit key/value state for generation and optional LoRA.

``forward`` runs over packed training sequences. Generation is ``init_state``, one packed ``prefill``, then ``step`` with one position per
row, or ``extend`` with many for a state of one row; the state is a value that the caller owns. Architectures: Qwen2 (arXiv 2407.10671; bias
on q, k, v) and Qwen3 dense (arXiv 2505.09388; RMSNorm on each query and key head, no bias). Both are checked against transformers in
``test/parity``.

Shape legend: B rows, T packed positions, D width, V text vocabulary, N query heads, K key/value heads, H head dim, C cache capacity.

Left out: mixture of experts, sliding windows, position scaling, quantized caches.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from osum_echat.config import LlmConfig, LoraConfig
from osum_echat.model.layers import LoraLinear, RmsNorm, compute_dtype, rotary_angles, rotate
from osum_echat.model.packing import Packing, packed_attention


@dataclass
class KVState:
    """Keys and values of B rows; row b holds ``lens_B[b]`` valid positions.

    ``row_lens`` mirrors ``lens_B`` on the host, so that a step never waits for the device.
    """

    keys: list[Tensor]  # per layer (B, K, C, H)
    values: list[Tensor]
    lens_B: Tensor
    row_lens: list[int]

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def check_room(self) -> None:
        """Raises ValueError when some row has no room for one more position."""
        longest = max(self.row_lens)
        if longest >= self.capacity:
            raise ValueError(f"the state is full: a row has {longest} positions, capacity is {self.capacity}")

    def advance(self) -> None:
        """One more position in every row."""
        self.lens_B = self.lens_B + 1
        self.row_lens = [length + 1 for length in self.row_lens]

    def grown(self, capacity: int) -> "KVState":
        """The same rows with room for at least ``capacity`` positions each."""
        more = capacity - self.capacity
        if more <= 0:
            return self
        keys, values = [F.pad(x, (0, 0, 0, more)) for x in self.keys], [F.pad(x, (0, 0, 0, more)) for x in self.values]
        return KVState(keys, values, self.lens_B, self.row_lens)

    def select(self, rows: list[int]) -> "KVState":
        """The state of some rows, in the given order; the others are dropped."""
        index = torch.tensor(rows, dtype=torch.long, device=self.lens_B.device)
        keys, values = [x.index_select(0, index) for x in self.keys], [x.index_select(0, index) for x in self.values]
        return KVState(keys, values, self.lens_B.index_select(0, index), [self.row_lens[row] for row in rows])


class DecoderLayer(nn.Module):
    """One pre-norm block. The three ways to run it differ only in how queries meet keys."""

    def __init__(self, cfg: LlmConfig, lora: LoraConfig | None) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
        qkv_bias = cfg.kind == "qwen2"
        query_width, kv_width = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
        self.attn_norm = RmsNorm(cfg.width, cfg.norm_eps)
        self.q_proj = _linear("q_proj", cfg.width, query_width, qkv_bias, lora)
        self.k_proj = _linear("k_proj", cfg.width, kv_width, qkv_bias, lora)
        self.v_proj = _linear("v_proj", cfg.width, kv_width, qkv_bias, lora)
        self.o_proj = _linear("o_proj", query_width, cfg.width, False, lora)
        self.q_norm = RmsNorm(cfg.head_dim, cfg.norm_eps) if cfg.kind == "qwen3" else None
        self.k_norm = RmsNorm(cfg.head_dim, cfg.norm_eps) if cfg.kind == "qwen3" else None
        self.ffn_norm = RmsNorm(cfg.width, cfg.norm_eps)
        self.gate_proj = _linear("gate_proj", cfg.width, cfg.ffn_width, False, lora)
        self.up_proj = _linear("up_proj", cfg.width, cfg.ffn_width, False, lora)
        self.down_proj = _linear("down_proj", cfg.ffn_width, cfg.width, False, lora)

    def project(self, x_TD: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (T, N, H), keys and values (T, K, H); queries and keys are rotated."""
        h_TD = self.attn_norm(x_TD)
        q_TNH = self.q_proj(h_TD).view(-1, self.num_heads, self.head_dim)
        k_TKH = self.k_proj(h_TD).view(-1, self.num_kv_heads, self.head_dim)
        v_TKH = self.v_proj(h_TD).view(-1, self.num_kv_heads, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q_TNH, k_TKH = self.q_norm(q_TNH), self.k_norm(k_TKH)
        return rotate(q_TNH, *angles), rotate(k_TKH, *angles), v_TKH

    def finish(self, x_TD: Tensor, y_TNH: Tensor) -> Tensor:
        """Everything after attention."""
        x_TD = x_TD + self.o_proj(y_TNH.flatten(1))
        h_TD = self.ffn_norm(x_TD)
        return x_TD + self.down_proj(F.silu(self.gate_proj(h_TD)) * self.up_proj(h_TD))

    def forward(self, x_TD: Tensor, angles: tuple[Tensor, Tensor], packing: Packing) -> Tensor:
        q_TNH, k_TKH, v_TKH = self.project(x_TD, angles)
        return self.finish(x_TD, packed_attention(q_TNH, k_TKH, v_TKH, packing, causal=True))


def attend_many(q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, key_KCH: Tensor, value_KCH: Tensor, past: int, mask_TC: Tensor) -> Tensor:
    """Append T positions behind the ``past`` ones of one row's keys and values (in place), and attend; (T, N, H). Scripts."""
    longest = past + q_TNH.shape[0]
    key_KCH[:, past:longest] = k_TKH.transpose(0, 1).to(key_KCH.dtype)
    value_KCH[:, past:longest] = v_TKH.transpose(0, 1).to(value_KCH.dtype)
    q_BNTH = q_TNH.transpose(0, 1).unsqueeze(0).to(key_KCH.dtype)
    keys, values = key_KCH[:, :longest].unsqueeze(0), value_KCH[:, :longest].unsqueeze(0)
    return F.scaled_dot_product_attention(q_BNTH, keys, values, attn_mask=mask_TC, enable_gqa=True)[0].transpose(0, 1)


def attend_one(
    q_BNH: Tensor,
    k_BKH: Tensor,
    v_BKH: Tensor,
    key_BKCH: Tensor,
    value_BKCH: Tensor,
    lens_B: Tensor,
    longest: int,
    mask_B11C: Tensor | None,
) -> Tensor:
    """Append one position to every row's keys and values (in place), and attend over ``longest`` of them; (B, N, H). Scripts."""
    rows_B = torch.arange(q_BNH.shape[0], device=q_BNH.device)
    key_BKCH[rows_B, :, lens_B] = k_BKH.to(key_BKCH.dtype)
    value_BKCH[rows_B, :, lens_B] = v_BKH.to(value_BKCH.dtype)
    # The query heads of one key head become that head's query axis: keys are read once, never repeated.
    q_BKGH = q_BNH.unflatten(1, (k_BKH.shape[1], -1)).to(key_BKCH.dtype)
    y_BKGH = F.scaled_dot_product_attention(q_BKGH, key_BKCH[:, :, :longest], value_BKCH[:, :, :longest], attn_mask=mask_B11C)
    return y_BKGH.flatten(1, 2)


class Llm(nn.Module):
    """Decoder from embeddings to final normed hidden states; ``head_weight`` is the output matrix."""

    def __init__(self, cfg: LlmConfig, lora: LoraConfig | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.vocab_size, cfg.width)
        self.layers = nn.ModuleList(DecoderLayer(cfg, lora) for _ in range(cfg.num_layers))
        self.norm = RmsNorm(cfg.width, cfg.norm_eps)
        self.lm_head = None if cfg.tie_embeddings else nn.Linear(cfg.width, cfg.vocab_size, bias=False)

    @property
    def head_weight_VD(self) -> Tensor:
        return self.embed.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, h_TD: Tensor) -> Tensor:
        return F.linear(h_TD, self.head_weight_VD)

    def angles(self, x: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        return rotary_angles(positions_T, self.cfg.head_dim, self.cfg.rope_theta, compute_dtype(x))

    def forward(self, x_TD: Tensor, positions_T: Tensor, packing: Packing) -> Tensor:
        if x_TD.shape != (packing.total, self.cfg.width):
            raise ValueError(f"llm: input {tuple(x_TD.shape)}, expected ({packing.total}, {self.cfg.width})")
        angles = self.angles(x_TD, positions_T)
        for layer in self.layers:
            if self.cfg.gradient_checkpointing and self.training:
                x_TD = checkpoint(layer, x_TD, angles, packing, use_reentrant=False)
            else:
                x_TD = layer(x_TD, angles, packing)
        return self.norm(x_TD)

    def init_state(self, batch: int, capacity: int) -> KVState:
        """Empty state for ``batch`` rows of at most ``capacity`` positions, in the dtype matrix products run in."""
        weight = self.embed.weight
        shape = (batch, self.cfg.num_kv_heads, capacity, self.cfg.head_dim)
        dtype, device = compute_dtype(weight), weight.device
        keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in self.layers]
        values = [torch.zeros(shape, dtype=dtype, device=device) for _ in self.layers]
        return KVState(keys, values, torch.zeros(batch, dtype=torch.long, device=device), [0] * batch)

    def prefill(self, x_TD: Tensor, positions_T: Tensor, packing: Packing, state: KVState) -> Tensor:
        """Run packed prompts (one a row, in row order) into an empty state; returns the hidden states of all positions."""
        if any(state.row_lens) or len(state.row_lens) != len(packing.lens):
            raise ValueError(f"prefill needs an empty state of {len(packing.lens)} rows, got one with row lengths {state.row_lens}")
        if packing.max_seqlen > state.capacity:
            raise ValueError(f"prefill of {packing.max_seqlen} positions into a state of capacity {state.capacity}")
        angles = self.angles(x_TD, positions_T)
        for layer, key_BKCH, value_BKCH in self._with_cache(state):
            q_TNH, k_TKH, v_TKH = layer.project(x_TD, angles)
            key_BKCH[packing.row_T, :, packing.offset_T] = k_TKH.to(key_BKCH.dtype)
            value_BKCH[packing.row_T, :, packing.offset_T] = v_TKH.to(value_BKCH.dtype)
            x_TD = layer.finish(x_TD, packed_attention(q_TNH, k_TKH, v_TKH, packing, causal=True))
        state.row_lens = list(packing.lens)
        state.lens_B = (packing.cu_seqlens[1:] - packing.cu_seqlens[:-1]).long()
        return self.norm(x_TD)

    def extend(self, x_TD: Tensor, state: KVState) -> Tensor:
        """Append T positions to a state of one row, such as the next turn of a dialogue; returns (T, D), advances the state in place."""
        (past,) = state.row_lens
        longest = past + x_TD.shape[0]
        if longest > state.capacity:
            raise ValueError(f"extend to {longest} positions in a state of capacity {state.capacity}")
        positions_T = torch.arange(past, longest, device=x_TD.device)
        angles = self.angles(x_TD, positions_T)
        mask_TC = torch.arange(longest, device=x_TD.device) <= positions_T.unsqueeze(1)
        for layer, key_BKCH, value_BKCH in self._with_cache(state):
            x_TD = layer.finish(x_TD, attend_many(*layer.project(x_TD, angles), key_BKCH[0], value_BKCH[0], past, mask_TC))
        state.lens_B = state.lens_B + x_TD.shape[0]
        state.row_lens = [longest]
        return self.norm(x_TD)

    def step(self, x_BD: Tensor, state: KVState) -> Tensor:
        """Append one position to every row; positions are the row lengths. Returns (B, D) and advances the state in place."""
        state.check_room()
        longest = max(state.row_lens) + 1
        angles = self.angles(x_BD, state.lens_B)
        mask_B11C = None
        if min(state.row_lens) + 1 != longest:
            mask_B11C = (torch.arange(longest, device=x_BD.device) <= state.lens_B.unsqueeze(1))[:, None, None, :]
        for layer, key_BKCH, value_BKCH in self._with_cache(state):
            y_BNH = attend_one(*layer.project(x_BD, angles), key_BKCH, value_BKCH, state.lens_B, longest, mask_B11C)
            x_BD = layer.finish(x_BD, y_BNH)
        state.advance()
        return self.norm(x_BD)

    def _with_cache(self, state: KVState) -> Iterator[tuple[DecoderLayer, Tensor, Tensor]]:
        for layer, keys, values in zip(self.layers, state.keys, state.values, strict=True):
            assert isinstance(layer, DecoderLayer)
            yield layer, keys, values


def _linear(name: str, in_features: int, out_features: int, bias: bool, lora: LoraConfig | None) -> nn.Linear:
    if lora is not None and name in lora.targets:
        return LoraLinear(in_features, out_features, bias, lora.rank, lora.alpha, lora.dropout)
    return nn.Linear(in_features, out_features, bias=bias)
