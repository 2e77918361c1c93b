"""A bundle at work in Python: the parts behind the interfaces of the eager models, so that the same session and streams run on them.

Nothing of the eager models is used but the code around them: the generation loop, the dialogue, the grid of hops. This is what the parity
check compares with the eager session, and the shortest description of how the parts are called.

Shape legend: T positions, B rows, D width, F mel frames, M mel bins, S samples.
"""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from osum_echat.config_token2wav import FlowConfig, FlowSamplingConfig
from osum_echat.export.bundle import Bundle
from osum_echat.generate.requests import RequestEncoder
from osum_echat.generate.schedule import Plan
from osum_echat.generate.session import DialogueSession
from osum_echat.generate.voice import Hops
from osum_echat.model.echat import EChat, ModelInput
from osum_echat.model.llm import KVState
from osum_echat.token2wav.flow import Flow, HopMemory, Voice, check_codes
from osum_echat.token2wav.source import SourceState, draw_noise, draw_offsets
from osum_echat.token2wav.stream import Token2wav
from osum_echat.token2wav.vocoder import Vocoder, VocoderState


class BundleLlm:
    """``Llm`` for generation."""

    def __init__(self, bundle: Bundle) -> None:
        self._part, self._dims = bundle.llm, bundle.info["llm"]
        self.embed = SimpleNamespace(weight=torch.zeros(0, dtype=getattr(torch, bundle.info["dtype"]), device=bundle.info["device"]))

    def init_state(self, batch: int, capacity: int) -> KVState:
        """Empty keys and values."""
        shape, like = (batch, self._dims["num_kv_heads"], capacity, self._dims["head_dim"]), self.embed.weight
        keys, values = ([like.new_zeros(shape) for _ in range(self._dims["num_layers"])] for _ in range(2))
        return KVState(keys, values, torch.zeros(batch, dtype=torch.long, device=like.device), [0] * batch)

    def extend(self, x_TD: Tensor, state: KVState, row: int = 0) -> Tensor:
        """Append to one row; the last hidden state, (1, D)."""
        hidden_1D = self._part.extend(x_TD, row, state.row_lens[row], state.keys, state.values)
        state.row_lens[row] += x_TD.shape[0]
        state.lens_B = torch.tensor(state.row_lens, device=state.lens_B.device)
        return hidden_1D

    def step(self, x_BD: Tensor, state: KVState) -> Tensor:
        """One position more for every row."""
        hidden_BD = self._part.step(x_BD, state.row_lens, state.keys, state.values)
        state.lens_B, state.row_lens = state.lens_B + 1, [length + 1 for length in state.row_lens]
        return hidden_BD


class BundleModel:
    """``EChat`` for generation."""

    def __init__(self, bundle: Bundle) -> None:
        self._encoder, self._part = bundle.encoder, bundle.llm
        self.llm, self.cfg = BundleLlm(bundle), bundle.config.model

    def embed(self, batch: ModelInput) -> Tensor:
        """(T, D) of prompts with their audio."""
        x_TD = self.embed_ids(batch.ids_T)
        frames = [self._encoder(mel_FM[:length]) for mel_FM, length in zip(batch.mel_BFM, batch.mel_lens_B.tolist(), strict=True)]
        return x_TD.index_copy(0, batch.audio_slots_T, torch.cat(frames)) if frames else x_TD

    def embed_ids(self, ids_T: Tensor) -> Tensor:
        """See ``EChat``."""
        return self._part.embed_ids(ids_T)

    def text_logits(self, h_BD: Tensor) -> Tensor:
        """See ``EChat``."""
        return self._part.text_logits(h_BD)

    def speech_logits(self, h_BD: Tensor) -> Tensor:
        """See ``EChat``."""
        return self._part.speech_logits(h_BD)


class BundleFlow:
    """``Flow`` for streams."""

    def __init__(self, bundle: Bundle) -> None:
        self._part, self._device = bundle.flow, bundle.info["device"]
        self.cfg = FlowConfig.model_validate(bundle.info["token2wav"]["flow"])
        self._start: list[Tensor] = self._part.init_state()

    def prompt(self, voice: Voice) -> tuple[Tensor, Tensor]:
        """There is none."""
        return self.check_tokens(torch.zeros(0, dtype=torch.long)), self.no_mel()

    def speaker(self, speaker_BS: Tensor) -> Tensor:
        """The part has its own."""
        return speaker_BS

    def check_tokens(self, tokens_T: Tensor) -> Tensor:
        """See ``Flow``."""
        check_codes(tokens_T, self.cfg.codebook_size)
        return tokens_T.long().to(self._device)

    def no_mel(self) -> Tensor:
        """(0, M)"""
        return torch.zeros(0, self.cfg.num_mels, device=self._device)

    def restore(self, mel_FM: Tensor) -> Tensor:
        """The part gives log-mel."""
        return mel_FM

    def hop(
        self, tokens_T: Tensor, size: int, noise_FM: Tensor, memory: HopMemory, sampling: FlowSamplingConfig, given_FM: Tensor | None
    ) -> Tensor:
        """See ``Flow``; all memory is kept in the cache of the encoder."""
        state = list(memory.encoder.old) or self._start
        mel_FM, memory.encoder.new = self._part.hop(tokens_T[:size], tokens_T[size:], noise_FM.to(self._device), state)
        return mel_FM


class BundleVocoder:
    """``Vocoder`` for streams of one."""

    def __init__(self, bundle: Bundle) -> None:
        self._part, self._device = bundle.vocoder, torch.device(bundle.info["device"])
        sizes = bundle.info["token2wav"]
        self.sample_rate, self.hop, self.num_sines = sizes["sample_rate"], sizes["hop"], sizes["num_sines"]

    def init_state(self, generators: Sequence[torch.Generator]) -> VocoderState:
        """A fresh stream; its offsets are drawn here."""
        offset_BN = draw_offsets(1, self.num_sines, generators, self._device)
        return VocoderState(None, SourceState(torch.zeros(1, dtype=torch.float64), offset_BN, generators))

    def push(self, mel_BFM: Tensor, state: VocoderState) -> tuple[Tensor, VocoderState]:
        """See ``Vocoder``; all memory is kept as its tails."""
        if mel_BFM.shape[1] == 0:
            return mel_BFM.new_zeros(1, 0), state
        assert state.source.generators is not None
        noise_FSN = draw_noise(state.source.generators, mel_BFM.shape[1], self.hop, self.num_sines)[0].to(self._device)
        if state.tails is None:
            samples_S, tails = self._part.start(mel_BFM[0], noise_FSN, state.source.offset_BN[0])
        else:
            samples_S, tails = self._part.push(mel_BFM[0], noise_FSN, list(state.tails))
        return samples_S.unsqueeze(0), replace(state, tails=tuple(tails))

    def flush(self, state: VocoderState) -> Tensor:
        """See ``Vocoder``."""
        return torch.zeros(1, 0) if state.tails is None else self._part.flush(list(state.tails)).unsqueeze(0)


def bundle_model(bundle: Bundle) -> EChat:
    """The language model of a bundle, for the generation loop and dialogues."""
    return cast(EChat, BundleModel(bundle))


def bundle_voice(bundle: Bundle) -> Token2wav:
    """The voice of a bundle, for streams."""
    sampling = FlowSamplingConfig.model_validate(bundle.info["token2wav"]["sampling"])
    flow: Any = BundleFlow(bundle)
    return Token2wav(cast(Flow, flow), cast(Vocoder, BundleVocoder(bundle)), Voice(torch.zeros(1)), sampling)


def bundle_session(bundle: Bundle, encoder: RequestEncoder, plan: Plan, seed: int = 777) -> DialogueSession:
    """A dialogue with a bundle, for the task of ``encoder``."""
    voice = bundle_voice(bundle)
    hops = Hops(voice.sampling.first_hop_tokens, voice.sampling.hop_tokens)
    return DialogueSession(bundle_model(bundle), encoder, plan, seed=seed, synthesizer=voice, hops=hops)
