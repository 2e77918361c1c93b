"""The exported voice: ``flow.pt`` (speech tokens to log-mel, hop by hop) and ``vocoder.pt`` (log-mel to samples, piece by piece).

Both are traces of the streaming token2wav (token2wav/flow_stream.py, stream.py), with everything a stream remembers as a list of tensors
that goes in and comes out, and all random numbers handed in. The solver's steps, its guidance and the speaker are frozen into the flow.

Shape legend: T tokens of a hop, A look-ahead tokens, F mel frames, M mel bins, S samples, N sines of the source.

Left out: the grid of hops (the caller's; flow_stream.py), prompts, variants that are not causal.
"""

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from osum_echat.config_token2wav import FlowSamplingConfig
from osum_echat.errors import UserError
from osum_echat.export import jit
from osum_echat.token2wav.chunks import Cache
from osum_echat.token2wav.flow import Flow, HopMemory
from osum_echat.token2wav.source import SourceState
from osum_echat.token2wav.stream import Token2wav
from osum_echat.token2wav.tape import Tails, Tape
from osum_echat.token2wav.vocoder import Vocoder


def check_causal(voice: Token2wav) -> None:
    """UserError for a voice that has to wait for the whole answer."""
    if not voice.flow.cfg.causal or not all(conv.pad[1] == 0 for conv in (voice.vocoder.conv_pre, voice.vocoder.conv_post)):
        raise UserError("only a causal flow and a causal vocoder speak while the answer is still written: train them with causal: true")


class _StartCache(Cache):
    """Notes the memory that amounts to none: zeros before a convolution, no earlier positions for attention."""

    def __init__(self) -> None:
        super().__init__((), left=1)
        self.start: list[Tensor] = []

    def before(self, x_BCT: Tensor, size: int) -> Tensor:
        self.start.append(x_BCT.new_zeros(x_BCT.shape[0], x_BCT.shape[1], size))
        return super().before(x_BCT, size)

    def window(self, x_BTD: Tensor) -> Tensor:
        self.start.append(x_BTD[:, :0].clone())
        return super().window(x_BTD)


class _Hop(nn.Module):
    """The flow with its memory as one flat list; which tensors are whose is found out by a first hop."""

    speaker_1M: Tensor

    def __init__(self, flow: Flow, speaker_1M: Tensor, sampling: FlowSamplingConfig) -> None:
        super().__init__()
        self.flow, self.sampling = flow, sampling
        self.register_buffer("speaker_1M", speaker_1M)
        caches = [_StartCache() for _ in range(2 + sampling.num_steps)]
        frames = int(flow.cfg.frames_per_token)
        noise_FM = torch.zeros(frames, flow.cfg.num_mels, device=flow.device)
        one_token = torch.zeros(1, dtype=torch.long, device=flow.device)
        flow.hop(one_token, 1, noise_FM, HopMemory(speaker_1M, caches[0], caches[1], tuple(caches[2:])), sampling)
        self.sizes = [len(cache.start) for cache in caches]
        self.start = [x for cache in caches for x in cache.start]

    def hop(self, tokens_T: Tensor, ahead_A: Tensor, noise_FM: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        left, tensors = self.flow.cfg.left_tokens, iter(state)
        old = [[next(tensors) for _ in range(size)] for size in self.sizes]
        estimator = tuple(Cache(x, left * int(self.flow.cfg.frames_per_token)) for x in old[2:])
        memory = HopMemory(self.speaker_1M, Cache(old[0], left), Cache(old[1], left), estimator)
        mel_FM = self.flow.hop(torch.cat((tokens_T, ahead_A)), tokens_T.shape[0], noise_FM, memory, self.sampling)
        return self.flow.restore(mel_FM), [x for cache in (memory.encoder, memory.regulator, *memory.estimator) for x in cache.new]


class FlowPart(nn.Module):
    """The methods of ``flow.pt``."""

    def __init__(self, hop: ScriptModule, start: list[Tensor]) -> None:
        super().__init__()
        self.core, self.start = hop, start

    @torch.jit.export
    def init_state(self) -> list[Tensor]:
        """Of a stream that has said nothing yet."""
        return self.start

    @torch.jit.export
    def hop(self, tokens_T: Tensor, ahead_A: Tensor, noise_FM: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Log-mel (F, M) of T tokens of which the next A are known, and the next state. F of the noise is T times frames_per_token."""
        return self.core.hop(tokens_T, ahead_A, noise_FM, state)


def export_flow(voice: Token2wav) -> ScriptModule:
    """The methods of :class:`FlowPart`."""
    flow = voice.flow.requires_grad_(False)
    with torch.no_grad():
        hop = _Hop(flow, flow.speaker(voice.voice.speaker_S.unsqueeze(0)), voice.sampling)
    tokens_T = torch.arange(5, device=flow.device) % flow.cfg.codebook_size
    noise_FM = torch.zeros(5 * int(flow.cfg.frames_per_token), flow.cfg.num_mels, device=flow.device)
    return jit.script(FlowPart(jit.trace(hop, hop=(tokens_T, tokens_T[:2], noise_FM, hop.start)), hop.start))


class _StartTape(Tape):
    """The first piece of a stream; a causal vocoder has what it mirrors with the first frame."""

    def reflect_start(self, x_BCT: Tensor, count: int) -> Tensor:
        return self.mirrored(x_BCT, count)


class _Pieces(nn.Module):
    """The vocoder with its memory as one flat list: phase, offsets, then what the layers keep."""

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder
        self.kept: list[bool] = []  # which places of the tape hold a tensor; known with the first piece

    def start(self, mel_FM: Tensor, noise_FSN: Tensor, offset_N: Tensor) -> tuple[Tensor, list[Tensor]]:
        phase_B = torch.zeros(1, dtype=torch.float64, device=mel_FM.device)
        return self._play(mel_FM, SourceState(phase_B, offset_N.unsqueeze(0), None, noise_FSN.unsqueeze(0)), _StartTape(None, last=False))

    def push(self, mel_FM: Tensor, noise_FSN: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        source = SourceState(state[0], state[1], None, noise_FSN.unsqueeze(0))
        return self._play(mel_FM, source, Tape(self._tails(state), last=False))

    def flush(self, state: list[Tensor]) -> Tensor:
        mel_FM = state[1].new_zeros(0, self.vocoder.num_mels)
        source = self.vocoder.m_source
        nothing = SourceState(state[0], state[1], None, mel_FM.new_zeros(1, 0, source.hop, source.num_sines))
        return self._play(mel_FM, nothing, Tape(self._tails(state), last=True))[0]

    def _tails(self, state: list[Tensor]) -> Tails:
        tensors = iter(state[2:])
        return tuple(next(tensors) if kept else None for kept in self.kept)

    def _play(self, mel_FM: Tensor, source: SourceState, tape: Tape) -> tuple[Tensor, list[Tensor]]:
        samples_1S, source = self.vocoder.play(mel_FM.unsqueeze(0), source, tape)
        self.kept = self.kept or [x is not None for x in tape.kept()]
        return samples_1S[0], [source.phase_B, source.offset_BN, *(x for x in tape.kept() if x is not None)]


class VocoderPart(nn.Module):
    """The methods of ``vocoder.pt``."""

    def __init__(self, pieces: ScriptModule) -> None:
        super().__init__()
        self.core = pieces

    @torch.jit.export
    def start(self, mel_FM: Tensor, noise_FSN: Tensor, offset_N: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Samples (S,) of the first frames, at least one, and the state; ``noise`` is normal, (F, hop, N), ``offset`` phases in radians."""
        return self.core.start(mel_FM, noise_FSN, offset_N)

    @torch.jit.export
    def push(self, mel_FM: Tensor, noise_FSN: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Samples that later frames cannot change, and the next state."""
        return self.core.push(mel_FM, noise_FSN, state)

    @torch.jit.export
    def flush(self, state: list[Tensor]) -> Tensor:
        """The rest of the stream."""
        return self.core.flush(state)


def export_vocoder(vocoder: Vocoder) -> ScriptModule:
    """The methods of :class:`VocoderPart`."""
    vocoder.requires_grad_(False)
    pieces, source, device = _Pieces(vocoder), vocoder.m_source, vocoder.m_source.l_linear.weight.device
    mel_FM = torch.zeros(4, vocoder.num_mels, device=device)
    noise_FSN, offset_N = torch.zeros(4, source.hop, source.num_sines, device=device), torch.zeros(source.num_sines, device=device)
    with torch.no_grad():
        state = pieces.start(mel_FM, noise_FSN, offset_N)[1]
    return jit.script(VocoderPart(jit.trace(pieces, start=(mel_FM, noise_FSN, offset_N), push=(mel_FM, noise_FSN, state), flush=(state,))))
