"""flow.pt, vocoder.pt and vad.pt: streams cut anywhere are the eager ones."""

import numpy as np
import pytest
import torch

from osum_echat.config_token2wav import FlowConfig
from osum_echat.errors import UserError
from osum_echat.export import jit
from osum_echat.export.bundle import Bundle
from osum_echat.export.runner import bundle_voice
from osum_echat.export.sound import check_causal
from osum_echat.export.vad import CHUNK, CONTEXT, STATE_WIDTH, vad_file
from osum_echat.token2wav.flow import Flow
from osum_echat.token2wav.stream import Token2wav


def say(voice: Token2wav, codes: list[int], pushes: list[int], seed: int = 5) -> list[np.ndarray]:
    state, pieces, at = voice.init_state(seed), [], 0
    for size in pushes:
        samples_S, state = voice.push(codes[at : at + size], state)
        pieces.append(samples_S)
        at += size
    return [*pieces, voice.flush(state)[0]]


@pytest.mark.parametrize("pushes", [[1], [3], [4], [19], [18, 18, 2], [1] * 9 + [40, 5], [130]])
def test_streams_are_the_eager_ones(pushes: list[int], bundle: Bundle, voice: Token2wav) -> None:
    codes = np.random.default_rng(sum(pushes)).integers(0, 8, sum(pushes)).tolist()
    got, wanted = say(bundle_voice(bundle), codes, pushes), say(voice, codes, pushes)
    assert [len(x) for x in got] == [len(x) for x in wanted]
    np.testing.assert_allclose(np.concatenate(got), np.concatenate(wanted), atol=2e-6)
    whole = voice.synthesize([torch.tensor(codes)], [5])[0]
    np.testing.assert_allclose(np.concatenate(got), whole, atol=2e-5)


def test_a_stream_without_codes_says_nothing(bundle: Bundle) -> None:
    assert len(say(bundle_voice(bundle), [], [])[0]) == 0


def test_states_are_values(bundle: Bundle) -> None:
    tokens, ahead, noise = torch.arange(5), torch.arange(3), torch.randn(10, 8)
    start = bundle.flow.init_state()
    first = bundle.flow.hop(tokens, ahead, noise, start)
    again = bundle.flow.hop(tokens, ahead, noise, start)
    assert torch.equal(first[0], again[0]) and all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))
    other = bundle.flow.hop(tokens, ahead, noise, first[1])
    assert not torch.allclose(other[0], first[0])  # what came before matters
    sines = bundle.info["token2wav"]["num_sines"]
    excitation = torch.randn(10, 480, sines)
    _, state = bundle.vocoder.start(first[0], excitation, torch.zeros(sines))
    pushed = [bundle.vocoder.push(first[0], excitation, state)[0] for _ in range(2)]
    assert torch.equal(*pushed) and len(bundle.vocoder.flush(state)) > 0


def test_a_voice_that_needs_the_whole_answer_is_refused(voice: Token2wav) -> None:
    cfg = FlowConfig.model_validate({**voice.flow.cfg.model_dump(), "causal": False})
    with pytest.raises(UserError, match="causal: true"):
        check_causal(Token2wav(Flow(cfg), voice.vocoder))


def test_vad_keeps_no_state_of_its_own(bundle: Bundle) -> None:
    stateful, draw = jit.load(vad_file()), torch.Generator().manual_seed(0)
    context, state = torch.zeros(2, CONTEXT), torch.zeros(2, 2, STATE_WIDTH)
    for chunk in range(6):
        samples_BS = 0.1 * chunk * torch.randn(2, CHUNK, generator=draw)
        wanted = stateful(samples_BS, 16000)[:, 0]
        speech_B, next_context, next_state = bundle.vad(samples_BS, context, state)
        again_B, _, _ = bundle.vad(samples_BS, context, state)
        assert torch.equal(speech_B, again_B)
        torch.testing.assert_close(speech_B, wanted, atol=1e-6, rtol=0)
        context, state = next_context, next_state
