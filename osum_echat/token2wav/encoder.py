"""Encoder over speech tokens: pre-norm self-attention with relative positions and swish feed-forward layers.

The Conformer of the published model has neither convolutions nor macaron layers, which leaves this transformer. Positions enter as in
Transformer-XL (https://arxiv.org/abs/1901.02860): score = ((q + u) k^T + (q + v) p^T) / sqrt(H), with p a projected sinusoid of the signed
distance from key to query, so a stream needs no absolute position. The causal variant looks ``lookahead`` tokens ahead in one convolution
at the front and nowhere else; attention follows a mask of chunks or, in a stream, a cache.

Shape legend: B rows, T tokens, D width, N heads, H head dim, Q queries, K keys, R distances.

Left out: token embedding and length regulation (flow.py, length.py).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.config_token2wav import TokenEncoderConfig
from osum_echat.token2wav.chunks import Cache

_LAYER_NORM_EPS = 1e-12  # of the layers; the published values


def distance_sinusoids(distances_R: Tensor, width: int) -> Tensor:
    """(R, width) of signed distances, sin in the even and cos in the odd columns, rates 10000^(-2i/width)."""
    rates = torch.exp(torch.arange(0, width, 2, device=distances_R.device, dtype=torch.float32) * (-math.log(10000.0) / width))
    angles = distances_R.float().unsqueeze(1) * rates
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)


class LookAhead(nn.Module):
    """A convolution over each token and the ``size`` tokens after it, added to the token."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.proj = nn.Linear((size + 1) * width, width)

    def forward(self, x_BTD: Tensor, end_BT: Tensor | None) -> Tensor:
        """``end_BT``: the position from which on a token sees zeros instead of tokens; None: behind the last one."""
        length = x_BTD.shape[1]
        padded_BTD = F.pad(x_BTD, (0, 0, 0, self.size))
        shifted = [padded_BTD[:, ahead : ahead + length] for ahead in range(self.size + 1)]
        if end_BT is not None:
            index_T = torch.arange(length, device=x_BTD.device)
            shifted = [x * (index_T + ahead < end_BT).unsqueeze(2).to(x.dtype) for ahead, x in enumerate(shifted)]
        return x_BTD + F.mish(self.proj(torch.cat(shifted, 2)))


class RelativeAttention(nn.Module):
    """Self-attention with relative positions."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.pos_proj = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, self.head_dim))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, self.head_dim))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, x_BTD: Tensor, visible_BQK: Tensor | None, cache: Cache | None) -> Tensor:
        q_BTNH = self.q_proj(x_BTD).unflatten(2, (self.num_heads, self.head_dim))
        k_BKD, v_BKD = self.k_proj(x_BTD), self.v_proj(x_BTD)
        if cache is not None:
            k_BKD, v_BKD = cache.window(k_BKD), cache.window(v_BKD)
        bias_BNQK = self._position_scores(q_BTNH, k_BKD.shape[1])
        if visible_BQK is not None:
            bias_BNQK = bias_BNQK.masked_fill(~visible_BQK.unsqueeze(1), float("-inf"))
        q_BNQH = (q_BTNH + self.pos_bias_u).transpose(1, 2)
        k_BNKH, v_BNKH = (x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (k_BKD, v_BKD))
        y_BNQH = F.scaled_dot_product_attention(q_BNQH, k_BNKH, v_BNKH, attn_mask=bias_BNQK)
        return self.o_proj(y_BNQH.transpose(1, 2).flatten(2))

    def _position_scores(self, q_BTNH: Tensor, num_keys: int) -> Tensor:
        """(B, N, Q, K) term of the distances, scaled; the queries are the last positions of the keys."""
        num_queries = q_BTNH.shape[1]
        distances_R = torch.arange(num_keys - 1, -num_queries, -1, device=q_BTNH.device)
        table_RD = distance_sinusoids(distances_R, self.num_heads * self.head_dim).to(self.pos_proj.weight.dtype)
        p_NRH = self.pos_proj(table_RD).unflatten(1, (self.num_heads, self.head_dim)).transpose(0, 1)
        scores_BNQR = (q_BTNH + self.pos_bias_v).transpose(1, 2) @ p_NRH.transpose(1, 2) * self.head_dim**-0.5
        # Query i stands at key K - Q + i; its distance to key j is entry Q - 1 - i + j of the table.
        queries, keys = torch.arange(num_queries, device=q_BTNH.device), torch.arange(num_keys, device=q_BTNH.device)
        entry_QK = num_queries - 1 - queries.unsqueeze(1) + keys
        return scores_BNQR.gather(3, entry_QK.expand(*scores_BNQR.shape[:3], num_keys))


class TokenEncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, cfg: TokenEncoderConfig) -> None:
        super().__init__()
        self.dropout = cfg.dropout
        self.norm1 = nn.LayerNorm(cfg.width, eps=_LAYER_NORM_EPS)
        self.attention = RelativeAttention(cfg.width, cfg.num_heads)
        self.norm2 = nn.LayerNorm(cfg.width, eps=_LAYER_NORM_EPS)
        self.up_proj = nn.Linear(cfg.width, cfg.ffn_width)
        self.down_proj = nn.Linear(cfg.ffn_width, cfg.width)

    def forward(self, x_BTD: Tensor, visible_BQK: Tensor | None, cache: Cache | None) -> Tensor:
        x_BTD = x_BTD + self._drop(self.attention(self.norm1(x_BTD), visible_BQK, cache))
        h = F.silu(self.up_proj(self.norm2(x_BTD)))
        return x_BTD + self._drop(self.down_proj(self._drop(h)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class TokenEncoder(nn.Module):
    """``forward(x_BTD, visible_BQK, cache) -> (B, T, D)``; with a cache, ``x`` is the next chunk of a stream.

    A mask of chunks or padding is True where a query may look; None shows everything.
    """

    def __init__(self, cfg: TokenEncoderConfig, lookahead: int) -> None:
        super().__init__()
        self.dropout = cfg.dropout
        self.look_ahead = LookAhead(cfg.width, lookahead) if lookahead else None
        self.embed = nn.Linear(cfg.width, cfg.width)
        self.embed_norm = nn.LayerNorm(cfg.width)
        self.layers = nn.ModuleList(TokenEncoderLayer(cfg) for _ in range(cfg.num_layers))
        self.after_norm = nn.LayerNorm(cfg.width)

    def front(self, x_BTD: Tensor, end_BT: Tensor | None) -> Tensor:
        """Look-ahead over token embeddings; the only step that sees what follows a chunk (``LookAhead``)."""
        return x_BTD if self.look_ahead is None else self.look_ahead(x_BTD, end_BT)

    def forward(self, x_BTD: Tensor, visible_BQK: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        x_BTD = F.dropout(self.embed_norm(self.embed(x_BTD)), self.dropout, self.training)
        x_BTD = F.dropout(x_BTD * math.sqrt(self.embed.out_features), self.dropout, self.training)
        for layer in self.layers:
            x_BTD = layer(x_BTD, visible_BQK, cache)
        return self.after_norm(x_BTD)
