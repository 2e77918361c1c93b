"""Adapter from encoder frames (50 Hz) to LLM embeddings (12.5 Hz): causal convolutions, a small transformer, a projection.

Layout of OSUM-EChat (arXiv 2508.09600 and its reference configuration): three causal convolutions of kernel 3 with strides 1, 2, 2
and GELU; linear + LayerNorm, ``x * sqrt(D)`` plus interleaved sinusoids; pre-norm ReLU layers; a final norm and a linear to the LLM width.
An utterance of E frames becomes ceil(ceil(E / 2) / 2) frames.

Shape legend: B utterances, E packed encoder frames, A packed adapter frames, D adapter (= encoder) width.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.config import AdapterConfig
from osum_echat.model.encoder import EncoderLayer
from osum_echat.model.layers import LayerNorm, interleaved_sinusoids
from osum_echat.model.packing import Packing

_STRIDES = (1, 2, 2)


class Adapter(nn.Module):
    """``forward(x_ED, packing) -> (y, packing)`` with y (A, LLM width)."""

    def __init__(self, cfg: AdapterConfig, width: int, llm_width: int) -> None:
        super().__init__()
        self.dropout = cfg.dropout
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, stride=stride) for stride in _STRIDES)
        self.embed = nn.Linear(width, width)
        self.embed_norm = LayerNorm(width)
        self.layers = nn.ModuleList(
            EncoderLayer(width, cfg.num_heads, cfg.ffn_width, cfg.dropout, key_bias=True, activation="relu") for _ in range(cfg.num_layers)
        )
        self.after_norm = LayerNorm(width)
        self.proj = nn.Linear(width, llm_width)

    def forward(self, x_ED: Tensor, packing: Packing) -> tuple[Tensor, Packing]:
        batch, longest = len(packing.lens), packing.max_seqlen
        x_BED = x_ED.new_zeros(batch, longest, x_ED.shape[1])
        x_BED.index_put_((packing.row_T, packing.offset_T), x_ED)
        x_BAD = self._subsample(x_BED)
        packing = Packing.from_lens([((length + 1) // 2 + 1) // 2 for length in packing.lens], x_ED.device)
        positions_LD = interleaved_sinusoids(packing.max_seqlen, self.embed.out_features, x_ED.device)
        return self._transform(x_BAD[packing.row_T, packing.offset_T], positions_LD[packing.offset_T], packing), packing

    def encode_one(self, x_ED: Tensor) -> Tensor:
        """(A, LLM width) of the frames of one utterance; see ``SpeechEncoder.encode_one``."""
        x_AD = self._subsample(x_ED.unsqueeze(0))[0]
        return self._transform(x_AD, interleaved_sinusoids(x_AD.shape[0], self.embed.out_features, x_AD.device), None)

    def _subsample(self, x_BED: Tensor) -> Tensor:
        x_BDE = x_BED.transpose(1, 2)
        for conv in self.convs:  # causal: a frame never sees what follows, so the padding at the end needs no mask
            x_BDE = F.gelu(conv(F.pad(x_BDE, (2, 0))))
        return x_BDE.transpose(1, 2)

    def _transform(self, x_AD: Tensor, positions_AD: Tensor, packing: Packing | None) -> Tensor:
        x_AD = F.dropout(self.embed_norm(self.embed(x_AD)), self.dropout, self.training)
        positions_AD = positions_AD.to(self.embed.weight.dtype)
        x_AD = F.dropout(x_AD * math.sqrt(self.embed.out_features) + positions_AD, self.dropout, self.training)
        for layer in self.layers:
            x_AD = layer(x_AD, packing)
        return self.proj(self.after_norm(x_AD))
