"""The flow while tokens still arrive: ``init_state``, ``push(tokens, state) -> (mel, state)``, ``flush(state) -> mel``.

The chunks of a stream lie on a fixed grid: the first is made when ``first_hop_tokens`` have arrived, each later one ``hop_tokens`` later,
whatever the sizes of the pushes. What comes out is what ``Flow.synthesize`` gives for the whole answer with the same seed, to float
rounding. The non-causal flow has the same interface but needs all tokens: it gives everything at ``flush``.

A state is a value, random state included: pushing the same tokens into the same state twice gives the same mel twice, and the state
behind a prompt may be kept for many answers.

Shape legend: T tokens, F mel frames, M mel bins, D encoder width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from osum_echat.config_token2wav import FlowSamplingConfig
from osum_echat.errors import ConfigError
from osum_echat.token2wav.chunks import Cache
from osum_echat.token2wav.flow import Flow, HopMemory, Voice
from osum_echat.token2wav.matching import draw_noise

Memory = tuple[Tensor, ...]


@dataclass(frozen=True)
class FlowState:
    """A stream between two pushes; one request, one state."""

    voice: Voice
    sampling: FlowSamplingConfig
    rng: Tensor  # state of the generator of the noise
    pending_T: Tensor  # tokens that have not become mel yet, on the model's device
    num_done: int = 0  # tokens of the answer that have
    prompt_frames: int = 0
    speaker_1M: Tensor | None = None
    encoder: Memory = ()
    regulator: Memory = ()
    estimator: tuple[Memory, ...] = ()  # one for each step of the solver


@torch.no_grad()
def init_state(flow: Flow, voice: Voice, generator: torch.Generator, sampling: FlowSamplingConfig | None = None) -> FlowState:
    """A stream in the given voice; the prompt is worked off here. ``generator`` (on the CPU) is copied, not advanced.

    Raises:
        ConfigError: the first hop does not exceed the look-ahead; DataError: the prompt's tokens and mel do not fit.
    """
    sampling = sampling or flow.cfg.sampling
    if flow.cfg.causal and sampling.first_hop_tokens <= flow.cfg.lookahead_tokens:
        raise ConfigError(f"first_hop_tokens {sampling.first_hop_tokens} must exceed lookahead_tokens {flow.cfg.lookahead_tokens}")
    prompt_T, prompt_FM = flow.prompt(voice)
    state = FlowState(voice, sampling, generator.get_state(), prompt_T[:0])
    if not flow.cfg.causal:
        return state
    speaker_1M = flow.speaker(voice.speaker_S.unsqueeze(0))
    state = replace(state, speaker_1M=speaker_1M, prompt_frames=prompt_FM.shape[0], estimator=((),) * sampling.num_steps)
    return _make_chunk(flow, state, prompt_T, len(prompt_T), prompt_FM)[1] if len(prompt_T) else state


@torch.no_grad()
def push(flow: Flow, tokens_T: Tensor, state: FlowState) -> tuple[Tensor, FlowState]:
    """Take new tokens (any number); returns the (F, M) log-mel they complete, possibly without frames, and the next state."""
    state = replace(state, pending_T=torch.cat((state.pending_T, flow.check_tokens(tokens_T))))
    if not flow.cfg.causal:
        return flow.no_mel(), state
    return _make_chunks(flow, state, keep=flow.cfg.lookahead_tokens, whole=True)


@torch.no_grad()
def flush(flow: Flow, state: FlowState) -> Tensor:
    """The answer is over: the (F, M) log-mel of all tokens that are left."""
    if flow.cfg.causal:
        return _make_chunks(flow, state, keep=0, whole=False)[0]
    if not state.pending_T.numel():
        return flow.no_mel()
    return flow.synthesize([state.pending_T], [state.voice], [_generator(state.rng)], state.sampling)[0]


def _make_chunks(flow: Flow, state: FlowState, keep: int, whole: bool) -> tuple[Tensor, FlowState]:
    """All chunks that leave ``keep`` tokens pending; a last chunk may be shorter than its hop unless ``whole``."""
    pieces = [flow.no_mel()]
    while True:
        hop = state.sampling.hop_tokens if state.num_done else state.sampling.first_hop_tokens - flow.cfg.lookahead_tokens
        ready = len(state.pending_T) - keep
        if ready <= 0 or (whole and ready < hop):
            return torch.cat(pieces), state
        size = min(hop, ready)
        mel_FM, state = _make_chunk(flow, state, state.pending_T[: size + flow.cfg.lookahead_tokens], size)
        pieces.append(flow.restore(mel_FM))
        state = replace(state, pending_T=state.pending_T[size:], num_done=state.num_done + size)


def _make_chunk(flow: Flow, state: FlowState, tokens_T: Tensor, size: int, prompt_FM: Tensor | None = None) -> tuple[Tensor, FlowState]:
    """Normalised mel of the first ``size`` of the tokens (the others are the look-ahead), and the memory behind them."""
    assert state.speaker_1M is not None
    cfg, factor = flow.cfg, int(flow.cfg.frames_per_token)
    memory = HopMemory(
        state.speaker_1M,
        Cache(state.encoder, cfg.left_tokens),
        Cache(state.regulator, cfg.left_tokens),
        tuple(Cache(old, cfg.left_tokens * factor, state.prompt_frames) for old in state.estimator),
    )
    generator = _generator(state.rng)
    mel_FM = flow.hop(tokens_T, size, draw_noise(generator, size * factor, cfg.num_mels), memory, state.sampling, prompt_FM)
    return mel_FM, replace(
        state,
        rng=generator.get_state(),
        encoder=tuple(memory.encoder.new),
        regulator=tuple(memory.regulator.new),
        estimator=tuple(tuple(cache.new) for cache in memory.estimator),
    )


def _generator(rng: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(rng)
    return generator
