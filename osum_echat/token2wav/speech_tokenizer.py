"""Supervised semantic speech tokens: a Whisper-style encoder with a codebook inside, trained to transcribe (arXiv:2407.05407, 2412.10117).

The codebook lies between two layers of the encoder. Neighbouring frames of 50 Hz are joined to one vector a token (25 Hz by default),
quantised, and taken apart into as many frames again, from which the other layers must spell the transcript: CTC over UTF-8 bytes. So a
code says what is spoken, whoever speaks, and a trained encoder of ``EChat`` with its CTC branch is a warm start. The encoder's positions
are taken off before the codebook and added again behind it: a code does not say when. Codes need the layers before the codebook only.

An utterance of S samples has ``num_speech_tokens(S, frames_per_token)`` tokens (audio/features.py), the same ones alone and in any batch up
to the rounding of matrix products.

Shape legend: B utterances, F mel frames, M mel bins, E packed encoder frames, N packed tokens, D width, C classes, S samples.

Left out: streaming; the published tokenizers (audio/frontends.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from osum_echat.audio.features import LogMel
from osum_echat.config import SpeechTokenizerConfig
from osum_echat.model.build import init_weights
from osum_echat.model.encoder import SpeechEncoder
from osum_echat.model.layers import whisper_sinusoids
from osum_echat.model.packing import Packing
from osum_echat.text.vocab import NUM_BYTES
from osum_echat.token2wav.quantizer import make_quantizer


@dataclass(frozen=True)
class TokenizerOutput:
    """Packed CTC logits (classes are bytes, the last column is the blank), their frames per utterance, packed codes, codebook's loss."""

    ctc_logits_EC: Tensor
    ctc_lens: tuple[int, ...]
    codes_N: Tensor
    codebook_loss: Tensor


class SpeechTokenizer(nn.Module):
    """See the module docstring. Make it with :func:`build_speech_tokenizer`."""

    def __init__(self, cfg: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.frames_per_token = cfg.frames_per_token
        self.encoder = SpeechEncoder(cfg.encoder)
        self.quantizer = make_quantizer(cfg.quantizer, cfg.frames_per_token * cfg.encoder.width)
        self.ctc = nn.Linear(cfg.encoder.width, NUM_BYTES + 1)

    def forward(self, mel_BFM: Tensor, mel_lens: Sequence[int]) -> TokenizerOutput:
        z_ND, packing = self.latents(mel_BFM, mel_lens)
        quantized = self.quantizer(z_ND)
        frames = Packing.from_lens([self.frames_per_token * length for length in packing.lens], z_ND.device)
        x_ED = quantized.vectors_ND.view(frames.total, -1)
        x_ED = self.encoder.transform(x_ED + _positions(x_ED, frames), frames, self.encoder.layers[self._num_before :])
        logits_EC = self.ctc(self.encoder.after_norm(x_ED))
        return TokenizerOutput(logits_EC, frames.lens, quantized.codes_N, quantized.loss)

    @property
    def codebook_size(self) -> int:
        """Codes are below it."""
        return self.quantizer.codebook_size

    @torch.no_grad()
    def encode(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """(F, M) log-mels to one int64 tensor of codes each, on the CPU. Call ``eval()`` first."""
        if not mels:
            return []
        mel_BFM = pad_sequence(list(mels), batch_first=True).to(self.ctc.weight.device)
        z_ND, packing = self.latents(mel_BFM, [len(mel_FM) for mel_FM in mels])
        return list(self.quantizer.codes(z_ND).cpu().split(list(packing.lens)))

    def encode_samples(self, samples: Sequence[Tensor]) -> list[Tensor]:
        """The same for 16 kHz mono waveforms; one too short for a frame is a DataError (too_short)."""
        return self.encode([self.log_mel(samples_S) for samples_S in samples])

    @cached_property
    def log_mel(self) -> LogMel:
        """The features of this model; on the CPU."""
        return LogMel(self.cfg.encoder.num_mels)

    @property
    def _num_before(self) -> int:
        return self.cfg.encoder.num_layers - self.cfg.num_layers_after

    def latents(self, mel_BFM: Tensor, mel_lens: Sequence[int]) -> tuple[Tensor, Packing]:
        """What is quantised, (N, frames per token x width): neighbouring frames side by side, the last one repeated where none is left."""
        x_ED, frames = self.encoder.stem(mel_BFM, mel_lens)
        x_ED = self.encoder.transform(x_ED, frames, self.encoder.layers[: self._num_before])
        x_ED = x_ED - _positions(x_ED, frames)
        packing = Packing.from_lens([-(-length // self.frames_per_token) for length in frames.lens], x_ED.device)
        first_N = frames.cu_seqlens[:-1].long()[packing.row_T] + self.frames_per_token * packing.offset_T
        last_N = frames.cu_seqlens[1:].long()[packing.row_T] - 1
        slots_NK = first_N.unsqueeze(1) + torch.arange(self.frames_per_token, device=x_ED.device)
        return x_ED[slots_NK.minimum(last_N.unsqueeze(1))].flatten(1), packing


def _positions(x_ED: Tensor, frames: Packing) -> Tensor:
    """What the stem of the encoder has added to each frame."""
    return whisper_sinusoids(frames.max_seqlen, x_ED.shape[1], x_ED.device).to(x_ED.dtype)[frames.offset_T]


def build_speech_tokenizer(cfg: SpeechTokenizerConfig) -> SpeechTokenizer:
    """A freshly initialised model."""
    model = SpeechTokenizer(cfg)
    init_weights(model)
    return model
