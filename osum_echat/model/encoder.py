"""Whisper-style speech encoder: log-mel (100 Hz) to frames of width D (50 Hz).

Architecture of openai-whisper (pre-norm, exact GELU, keys without bias, ``[sin | cos]`` positions), with two differences: any length is
accepted (no padding to 30 s, no 30 s limit), and the transformer runs over packed valid frames, so an utterance gives the same frames
alone and in any batch. https://arxiv.org/abs/2212.04356

Shape legend: B utterances, F mel frames, M mel bins, E packed encoder frames, D width, N heads, H head dim.

Left out: streaming (chunk masks).
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from osum_echat.config import EncoderConfig
from osum_echat.model.layers import LayerNorm, whisper_sinusoids
from osum_echat.model.packing import Packing, attend_all, packed_attention


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward over packed frames; also the adapter's layer (with ReLU and a key bias)."""

    def __init__(self, width: int, num_heads: int, ffn_width: int, dropout: float, key_bias: bool, activation: str) -> None:
        super().__init__()
        self.heads = (-1, num_heads, width // num_heads)
        self.dropout = dropout
        self.relu = {"relu": True, "gelu": False}[activation]
        self.norm1 = LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=key_bias)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.norm2 = LayerNorm(width)
        self.up_proj = nn.Linear(width, ffn_width)
        self.down_proj = nn.Linear(ffn_width, width)

    def forward(self, x_ED: Tensor, packing: Packing | None) -> Tensor:
        """Without a packing, all frames are of one utterance."""
        h_ED = self.norm1(x_ED)
        qkv = self.q_proj(h_ED).view(self.heads), self.k_proj(h_ED).view(self.heads), self.v_proj(h_ED).view(self.heads)
        y_ENH = attend_all(*qkv) if packing is None else packed_attention(*qkv, packing, causal=False)
        x_ED = x_ED + self._drop(self.o_proj(y_ENH.flatten(1)))
        h = self.up_proj(self.norm2(x_ED))
        h = F.relu(h) if self.relu else F.gelu(h)
        return x_ED + self._drop(self.down_proj(self._drop(h)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class SpeechEncoder(nn.Module):
    """``forward(mel_BFM, mel_lens) -> (x_ED, packing)`` with ceil(frames / 2) packed frames per utterance."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.num_mels = cfg.num_mels
        self.dropout = cfg.dropout
        self.gradient_checkpointing = cfg.gradient_checkpointing
        self.conv1 = nn.Conv1d(cfg.num_mels, cfg.width, 3, padding=1)
        self.conv2 = nn.Conv1d(cfg.width, cfg.width, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(
            EncoderLayer(cfg.width, cfg.num_heads, cfg.ffn_width, cfg.dropout, key_bias=False, activation="gelu")
            for _ in range(cfg.num_layers)
        )
        self.after_norm = LayerNorm(cfg.width)

    def forward(self, mel_BFM: Tensor, mel_lens: Sequence[int]) -> tuple[Tensor, Packing]:
        x_ED, packing = self.stem(mel_BFM, mel_lens)
        return self.after_norm(self.transform(x_ED, packing, self.layers)), packing

    def stem(self, mel_BFM: Tensor, mel_lens: Sequence[int]) -> tuple[Tensor, Packing]:
        """What the first layer reads."""
        if mel_BFM.dim() != 3 or mel_BFM.shape[0] != len(mel_lens) or mel_BFM.shape[2] != self.num_mels:
            raise ValueError(f"encoder: mel {tuple(mel_BFM.shape)} with {len(mel_lens)} lengths; expected (B, F, {self.num_mels})")
        packing = Packing.from_lens([(length + 1) // 2 for length in mel_lens], mel_BFM.device)
        ragged = min(mel_lens) < mel_BFM.shape[1]
        x_BED = self._front(mel_BFM, _real_frames(mel_BFM, mel_lens) if ragged else None)
        x_ED = x_BED[packing.row_T, packing.offset_T] if ragged else x_BED.flatten(0, 1)
        if self.training and self.dropout:
            x_ED = F.dropout(x_ED, self.dropout)
        return x_ED, packing

    def encode_one(self, mel_FM: Tensor) -> Tensor:
        """Frames (E, D) of one utterance by itself; only shapes decide what is computed, so a trace of it holds for any length."""
        return self.after_norm(self.transform(self._front(mel_FM.unsqueeze(0), None)[0], None, self.layers))

    def transform(self, x_ED: Tensor, packing: Packing | None, layers: Iterable[nn.Module]) -> Tensor:
        """Some of the layers, one after the other."""
        for layer in layers:
            if self.gradient_checkpointing and self.training:
                x_ED = checkpoint(layer, x_ED, packing, use_reentrant=False)
            else:
                x_ED = layer(x_ED, packing)
        return x_ED

    def _front(self, mel_BFM: Tensor, mask_B1F: Tensor | None) -> Tensor:
        """Two convolutions and positions, (B, E, D). What lies behind an utterance is zero before each convolution, as when it is alone."""
        x_BMF = mel_BFM.transpose(1, 2)
        x_BDF = F.gelu(self.conv1(x_BMF if mask_B1F is None else x_BMF * mask_B1F))
        if mask_B1F is not None:
            x_BDF = x_BDF * mask_B1F
        x_BED = F.gelu(self.conv2(x_BDF)).transpose(1, 2)
        positions_ED = whisper_sinusoids(x_BED.shape[1], self.conv2.out_channels, x_BED.device)
        return x_BED + positions_ED.to(self.conv1.weight.dtype)


def _real_frames(mel_BFM: Tensor, mel_lens: Sequence[int]) -> Tensor:
    """(B, 1, F) True where a frame is not padding."""
    lens_B1 = torch.tensor(mel_lens, device=mel_BFM.device).unsqueeze(1)
    return (torch.arange(mel_BFM.shape[1], device=mel_BFM.device) < lens_B1).unsqueeze(1)
