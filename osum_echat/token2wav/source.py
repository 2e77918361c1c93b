"""Harmonic-plus-noise source of the vocoder: sines at the multiples of the pitch, noise where there is none.

The neural source filter of https://arxiv.org/abs/1910.09778 as HiFT uses it (https://arxiv.org/abs/2309.09493): harmonic h of a frame with
pitch f0 has the phase 2 pi h (p + f0 n / rate) + offset_h at sample n = 1, 2, … of the frame, where p, in cycles, is what the frames before
have accumulated. p is carried in float64, modulo 1: the sines of the tenth minute are as exact as those of the first second, and a stream
that is cut anywhere goes on in phase. The offsets are drawn once per stream; the fundamental's is zero.

Noise of a request comes from its own generator, one draw of fixed size per frame: it depends neither on the pieces the stream comes in
nor on the other streams of the batch. In training (no generators) it comes from torch's global generator.

Shape legend: B streams, F mel frames, N sines (fundamental and harmonics), S samples.

Left out: a gradient from the waveform to the pitch (the pitch has its own loss).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from osum_echat.config_token2wav import VocoderConfig


@dataclass(frozen=True)
class SourceState:
    """Where the sines of each stream are, and what its noise is drawn from (a generator moves on as it is drawn from)."""

    phase_B: Tensor  # cycles of the fundamental, float64
    offset_BN: Tensor  # radians
    generators: Sequence[torch.Generator] | None
    noise_BFSN: Tensor | None = None  # what the caller has drawn for the next frames in place of the generators


class HarmonicSource(nn.Module):
    """``(f0_BF, state) -> (source_B1S, state)`` with S = F * hop."""

    def __init__(self, cfg: VocoderConfig, sample_rate: int, hop: int) -> None:
        super().__init__()
        self.sample_rate, self.hop = sample_rate, hop
        self.num_sines = cfg.num_harmonics + 1
        self.sine_amp, self.noise_std, self.voiced_hz = cfg.sine_amp, cfg.noise_std, cfg.voiced_hz
        self.l_linear = nn.Linear(self.num_sines, 1)

    def init_state(self, batch: int, generators: Sequence[torch.Generator] | None = None) -> SourceState:
        """Phase zero and fresh offsets, drawn from each stream's generator (the first thing drawn from it)."""
        device = self.l_linear.weight.device
        phase_B = torch.zeros(batch, dtype=torch.float64, device=device)
        return SourceState(phase_B, draw_offsets(batch, self.num_sines, generators, device), generators)

    def forward(self, f0_BF: Tensor, state: SourceState) -> tuple[Tensor, SourceState]:
        with torch.no_grad():
            sines_BFSN, after = self._sines(f0_BF.detach(), state)
            voiced_BF11 = (f0_BF > self.voiced_hz).to(sines_BFSN.dtype)[..., None, None]
            noise_std = voiced_BF11 * self.noise_std + (1.0 - voiced_BF11) * self.sine_amp / 3.0
            sines_BFSN = sines_BFSN * (voiced_BF11 * self.sine_amp) + noise_std * _noise(sines_BFSN, state)
        mixed_BS1 = self.l_linear(sines_BFSN.flatten(1, 2).to(self.l_linear.weight.dtype))
        return torch.tanh(mixed_BS1).transpose(1, 2), after

    def _sines(self, f0_BF: Tensor, state: SourceState) -> tuple[Tensor, SourceState]:
        step_BF = f0_BF.double() / self.sample_rate
        phase_B1 = state.phase_B.unsqueeze(1)
        bound_BF = torch.cat((phase_B1, phase_B1 + (step_BF * self.hop).cumsum(1)), 1)  # of the frames, one more than frames
        sample_S = torch.arange(1, self.hop + 1, dtype=torch.float64, device=f0_BF.device)
        cycles_BFS = (bound_BF[:, :-1].unsqueeze(2) + step_BF.unsqueeze(2) * sample_S).remainder(1.0).float()
        harmonic_N = torch.arange(1, self.num_sines + 1, device=f0_BF.device)
        angle_BFSN = 2.0 * math.pi * cycles_BFS.unsqueeze(3) * harmonic_N + state.offset_BN[:, None, None]
        audible_BF1N = (step_BF.unsqueeze(2) * harmonic_N < 0.5).unsqueeze(2)  # the others would fold back
        return angle_BFSN.sin_() * audible_BF1N, SourceState(bound_BF[:, -1].remainder(1.0), state.offset_BN, state.generators)


def draw_offsets(batch: int, num_sines: int, generators: Sequence[torch.Generator] | None, device: torch.device) -> Tensor:
    """(B, N) phases of the sines in radians, the fundamental's zero: one uniform number a sine, drawn from each stream's generator."""
    if generators is None:
        unit_BN = torch.rand(batch, num_sines, device=device)
    else:
        rows = [torch.rand(num_sines, generator=generator, device=generator.device) for generator in generators]
        unit_BN = torch.stack([row.to(device) for row in rows])
    offset_BN = (2.0 * unit_BN - 1.0) * math.pi
    offset_BN[:, 0] = 0.0
    return offset_BN


def draw_noise(generators: Sequence[torch.Generator], num_frames: int, hop: int, num_sines: int) -> Tensor:
    """(B, F, S / F, N) normal numbers, frame by frame: a frame's noise must not depend on how many are drawn at once."""
    rows = [
        [torch.randn(hop, num_sines, generator=generator, device=generator.device) for _ in range(num_frames)] for generator in generators
    ]
    return torch.stack([torch.stack(row) if row else torch.zeros(0, hop, num_sines) for row in rows])


def _noise(like_BFSN: Tensor, state: SourceState) -> Tensor:
    if state.noise_BFSN is not None:
        return state.noise_BFSN
    if state.generators is None:
        return torch.randn_like(like_BFSN)
    return draw_noise(state.generators, *like_BFSN.shape[1:]).to(like_BFSN)
