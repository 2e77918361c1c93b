"""EChat: speech encoder, adapter, LLM and speech head in one joint id space.

``forward(batch)`` embeds joint ids, writes adapter frames into the audio slots, runs the LLM and returns hidden states. It never sees a
task name and never computes logits: ``losses.joint_cross_entropy`` does, at supervised positions only. arXiv 2508.09600.

Shape legend: B utterances with audio, T packed joint positions, A packed adapter frames, E packed encoder frames, F mel frames, M mel bins,
D LLM width, V text vocabulary, C speech codes + 1.

Left out: token2wav, decoding (``generate/``).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from osum_echat.config import ModelConfig
from osum_echat.model.adapter import Adapter
from osum_echat.model.encoder import SpeechEncoder
from osum_echat.model.llm import Llm
from osum_echat.model.packing import Packing
from osum_echat.model.speech_head import SpeechHead, table_rows
from osum_echat.text.vocab import NUM_BYTES


class ModelInput(Protocol):
    """What forward reads of a batch (``data.batch.Batch`` is one; decoding builds another without labels)."""

    @property
    def ids_T(self) -> Tensor: ...
    @property
    def positions_T(self) -> Tensor: ...
    @property
    def cu_seqlens(self) -> Tensor: ...
    @property
    def mel_BFM(self) -> Tensor: ...
    @property
    def mel_lens_B(self) -> Tensor: ...
    @property
    def audio_slots_T(self) -> Tensor: ...


@dataclass(frozen=True)
class HeadWeights:
    """The joint output layer: text rows, then speech rows (codes, boundary)."""

    text_VD: Tensor
    speech_CD: Tensor
    speech_bias_C: Tensor


@dataclass(frozen=True)
class EChatOutput:
    """Hidden states of every joint position, and CTC logits of every encoder frame when the model has a CTC branch."""

    hidden_TD: Tensor
    ctc_logits_EC: Tensor | None = None  # packed; classes are bytes, the blank is the last column
    encoder_lens: tuple[int, ...] = ()  # frames of each utterance in ctc_logits_EC


class EChat(nn.Module):
    """See the module docstring. Parts: ``encoder``, ``adapter``, ``llm``, ``speech`` and, when configured, ``ctc``."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = SpeechEncoder(cfg.encoder)
        self.adapter = Adapter(cfg.adapter, cfg.encoder.width, cfg.llm.width)
        self.llm = Llm(cfg.llm, cfg.lora)
        self.speech = SpeechHead(cfg.speech, cfg.llm.width)
        self.ctc = None if cfg.ctc is None else nn.Linear(cfg.encoder.width, NUM_BYTES + 1)

    def forward(self, batch: ModelInput) -> EChatOutput:
        x_TD, frames_ED, encoder_lens = self._embed(batch)
        hidden_TD = self.llm(x_TD, batch.positions_T, Packing.from_cu_seqlens(batch.cu_seqlens))
        if self.ctc is None or frames_ED is None:
            return EChatOutput(hidden_TD)
        return EChatOutput(hidden_TD, self.ctc(frames_ED), encoder_lens)

    def embed(self, batch: ModelInput) -> Tensor:
        """(T, D) LLM input of a batch, for prefill."""
        return self._embed(batch)[0]

    def embed_ids(self, ids_T: Tensor) -> Tensor:
        """(…, D) embeddings of joint ids without audio. The audio-slot sentinel gets some finite row, which must be overwritten."""
        is_text_T, text_T, speech_T = table_rows(ids_T, self.cfg.llm.vocab_size, self.speech.embed.num_embeddings)
        return torch.where(is_text_T.unsqueeze(-1), self.llm.embed(text_T), self.speech.embed(speech_T))

    def text_logits(self, h_TD: Tensor) -> Tensor:
        return self.llm.logits(h_TD)

    def speech_logits(self, h_TD: Tensor) -> Tensor:
        return self.speech(h_TD)

    def head_weights(self) -> HeadWeights:
        return HeadWeights(self.llm.head_weight_VD, self.speech.head.weight, self.speech.head.bias)

    def _embed(self, batch: ModelInput) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
        x_TD = self.embed_ids(batch.ids_T)
        mel_lens = batch.mel_lens_B.tolist()
        if not mel_lens:
            return x_TD, None, ()
        frames_ED, encoder_packing = self.encoder(batch.mel_BFM, mel_lens)
        audio_AD, _ = self.adapter(frames_ED, encoder_packing)
        if audio_AD.shape[0] != batch.audio_slots_T.shape[0]:
            raise ValueError(
                f"the audio gives {audio_AD.shape[0]} adapter frames, but the sequences hold {batch.audio_slots_T.shape[0]} audio slots: "
                "features.num_llm_frames and the adapter disagree"
            )
        return x_TD.index_copy(0, batch.audio_slots_T, audio_AD.to(x_TD.dtype)), frames_ED, encoder_packing.lens
