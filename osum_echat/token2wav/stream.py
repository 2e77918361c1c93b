"""``Token2wav``: speech tokens to samples, whole answers or while they are still being generated.

The flow makes mel on its grid of chunks (flow_stream.py), the vocoder samples out of the mel (tape.py); both know exactly what may still
change, so nothing is computed twice, nothing is cross-faded, and a stream of the causal variants is the offline result to float rounding,
of exactly its length. A variant that is not causal works, too: it speaks when the answer is over. All randomness is the request's own.

Shape legend: B answers, T tokens, F mel frames, M mel bins, S samples.

Left out: when tokens are handed over (generate/voice.py), the boundary of the speech (it is no token and is refused).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from osum_echat.config_token2wav import FlowSamplingConfig
from osum_echat.errors import DataError
from osum_echat.token2wav.flow import Flow, Voice
from osum_echat.token2wav.flow_stream import FlowState, flush, init_state, push
from osum_echat.token2wav.vocoder import Vocoder, VocoderState


@dataclass(frozen=True)
class Token2wavState:
    """A stream between two pushes: a value, random states included."""

    flow: FlowState
    vocoder: VocoderState
    rng: Tensor  # state of the generator of the vocoder's noise


class Token2wav:
    """A flow and a vocoder of the same mel, in evaluation mode, on one device.

    Args:
        voice: speaker embedding and prompt; None for no speaker and no prompt.
        sampling: steps, guidance and hops; None takes the flow's configuration.
    """

    def __init__(self, flow: Flow, vocoder: Vocoder, voice: Voice | None = None, sampling: FlowSamplingConfig | None = None) -> None:
        self.flow, self.vocoder, self.sampling = flow, vocoder, sampling or flow.cfg.sampling
        self.voice = voice or Voice(torch.zeros(flow.cfg.speaker_width))

    @property
    def sample_rate(self) -> int:
        """Of the samples, in Hz."""
        return self.vocoder.sample_rate

    def init_state(self, seed: int) -> Token2wavState:
        """A fresh stream."""
        flow_rng, vocoder_rng = _generators(seed)
        state = self.vocoder.init_state([vocoder_rng])
        return Token2wavState(init_state(self.flow, self.voice, flow_rng, self.sampling), state, vocoder_rng.get_state())

    def push(self, codes: Sequence[int], state: Token2wavState) -> tuple[np.ndarray, Token2wavState]:
        """The (S,) float32 samples that are final with these codes, maybe none; DataError names a code outside of the codebook."""
        mel_FM, flow_state = push(self.flow, torch.tensor(codes, dtype=torch.long), state.flow)
        samples_S, state = self._vocode(mel_FM, replace(state, flow=flow_state))
        return _finite(samples_S), state

    def flush(self, state: Token2wavState) -> tuple[np.ndarray, Token2wavState]:
        """The rest of the answer."""
        samples_S, state = self._vocode(flush(self.flow, state.flow), state)
        return _finite(torch.cat((samples_S, self.vocoder.flush(state.vocoder)[0]))), state

    @torch.no_grad()
    def synthesize(self, codes: Sequence[Tensor], seeds: Sequence[int]) -> list[np.ndarray]:
        """Whole answers, one flow batch; what a row becomes depends on its codes and its seed alone.

        Raises DataError empty_speech, token_out_of_range and non_finite.
        """
        pairs = [_generators(seed) for seed in seeds]
        mels = self.flow.synthesize(codes, [self.voice] * len(codes), [flow_rng for flow_rng, _ in pairs], self.sampling)
        rows = zip(mels, pairs, strict=True)
        return [_finite(self.vocoder(mel_FM.unsqueeze(0), None, [rng]).samples_BS[0]) for mel_FM, (_, rng) in rows]

    def _vocode(self, mel_FM: Tensor, state: Token2wavState) -> tuple[Tensor, Token2wavState]:
        rng = torch.Generator()
        rng.set_state(state.rng)  # a generator moves on as it is drawn from; the caller's state must not
        vocoder = replace(state.vocoder, source=replace(state.vocoder.source, generators=[rng]))
        samples_1S, vocoder = self.vocoder.push(mel_FM.unsqueeze(0), vocoder)
        return samples_1S[0], replace(state, vocoder=vocoder, rng=rng.get_state())


def _generators(seed: int) -> tuple[torch.Generator, torch.Generator]:
    """Of flow and vocoder: two streams of numbers that have nothing to do with each other."""
    digest = hashlib.blake2b(f"vocoder/{seed}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def _finite(samples_S: Tensor) -> np.ndarray:
    """On the CPU; DataError rather than a loud noise when the weights are broken."""
    if not bool(samples_S.isfinite().all()):
        raise DataError("token2wav gave samples that are not finite: the weights of flow or vocoder are broken", "non_finite")
    return samples_S.float().cpu().numpy()
